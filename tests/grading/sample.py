"""Results that never ran: what the formats are tried on, with everything in them that a stranger may have written."""

from __future__ import annotations

from dataclasses import replace

from harness.grading.model import Graded, Judged, Kit, Status, Student, Submitted
from harness.verdicts import Verdict

HOSTILE = "\x1b[2J]]><script>alert('x')</script>\x00\ufffe\u202e=cmd()|' /C calc'!A0"
DIGEST = f"sha256:{'ab' * 32}"

EVENTS = (
    {"at": 0.001, "kind": "message", "source": "visitor", "target": "door", "label": f"HELLO {HOSTILE}"},
    {"at": 0.002, "kind": "message", "source": "door", "target": "visitor", "label": "GO AWAY"},
    {"at": 0.002, "kind": "broken", "source": "door", "target": "door", "label": "✗ here the promise is broken"},
)
STORY = tuple({**event, "head": "00ff", "tail": "", "size": 2, "connection": "visitor"} for event in EVENTS)

GREETS = Judged(
    id="greets_by_name",
    sentence="A visitor who says hello is welcomed by name.",
    stage=1,
    points=1,
    earned=1,
    hidden=False,
    verdict=Verdict.HOLDS,
    hints_used=2,
    source="README G1",
    url="https://doors.example/rules#1",
    milliseconds=12,
)
JUDGED = (
    GREETS,
    replace(
        GREETS,
        id="turns_strangers_away",
        sentence="A stranger <b>stays</b> outside.",
        stage=2,
        points=2,
        earned=0,
        verdict=Verdict.BROKEN,
        message=f"a stranger came in: {HOSTILE}",
        detail=(f"what came: {HOSTILE}",),
        story=STORY,
        solution_name="door",
        output=f"Traceback {HOSTILE}\nlast line",
    ),
    replace(
        GREETS,
        id="secret_knock",
        sentence="Three knocks open the door at once.",
        stage=3,
        points=3,
        earned=0,
        hidden=True,
        verdict=Verdict.LIMIT,
        message="the secret was 4711",
        limit="the secret was 4711",
        output="knock knock 4711",
        story=STORY,
        runs=3,
    ),
    replace(
        GREETS,
        id="opens_twice",
        sentence="What opened once opens again.",
        stage=4,
        points=4,
        earned=0,
        verdict=Verdict.BLOCKED,
        message="needs secret_knock",
        needs=("secret_knock",),
    ),
)
RESULT = Graded(
    kata="door",
    title="A door",
    student=Student("=cmd()", f"<i>Eve</i>{HOSTILE}", "eve@doors.example"),
    submission=Submitted("eve.zip", DIGEST, "2026-03-01T12:00:00Z", 3, ("the skeleton is untouched",)),
    kit=Kit("0.1.0", DIGEST, DIGEST),
    seed=7,
    repeat=3,
    isolation=2,
    graded_at="2026-03-02T08:30:00Z",
    milliseconds=1234,
    status=Status.GRADED,
    score=1,
    max_score=10,
    behaviours=JUDGED,
)
BLANK = replace(RESULT, student=Student("zoe"), behaviours=(), isolation=-1)
REFUSED = replace(BLANK, status=Status.REFUSED, reason=f"`{HOSTILE}` leads out of it", score=0)
FAILED = replace(BLANK, status=Status.NOT_GRADABLE, reason="2 workers died of it", score=None)
MISSING = replace(BLANK, status=Status.MISSING, reason="nothing was handed in", score=0, submission=Submitted(""))
TAMPERED = replace(
    RESULT, status=Status.TAMPERED, reason="a file stood there", tampering=("a file stood there",), score=None
)
ALL = {"graded": RESULT, "refused": REFUSED, "failed": FAILED, "missing": MISSING, "tampered": TAMPERED}
