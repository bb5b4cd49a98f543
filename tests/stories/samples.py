"""Hand-made results: one of each kind, and what a hostile solution would send."""

from __future__ import annotations

from harness.results import Result
from harness.story.record import Record
from harness.verdicts import Verdict

HOSTILE = (
    "<script>hit()</script>",
    "</script></style></title></svg></pre><img src=x onerror=hit()>",
    "<svg onload=hit()><foreignObject><iframe srcdoc='<script>parent.hit()</script>'>",
    "\"><b onmouseover='hit()' style='position:fixed;inset:0'>",
    "]]>&lt;!--&#x3c;script&#x3e;hit()<![CDATA[<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]>&y;",
    "{{ 7 * 7 }}{% include 'page.css' %}javascript:hit()",
    "\x00\x01\x07\x08\x0b\x0c\x1b[31m\x1b]8;;http://x\x07\x7f\x85\x9b",
    "\u202etfel ot thgir\u2066\u200b\u2028\u2029\ufeff\ufffe\uffff\U0001f4a9\ud800",
    "a" * 5000,
)


def result(behaviour: str, verdict: Verdict = Verdict.HOLDS, **known: object) -> Result:
    about = {"kata": "bell", "folder": "katas/bell", "subject": "solution", "behaviour": behaviour, "case": ""}
    rules = {"source": "RFC 9110 §9.3.2 HEAD", "url": "https://www.rfc-editor.org/rfc/rfc9110#section-9.3.2"}
    promise = {"sentence": f"A bell keeps the promise {behaviour}.", "stage": 1, "points": 1, "hidden": False}
    more = {"hints": [], "verdict": verdict, "replay": f"pytest katas/bell -k {behaviour} --seed=7"}
    return Result(**(about | rules | promise | more | known))  # type: ignore[arg-type]


def story(record: Record) -> dict[str, object]:
    """The fields of a result that tell a record."""
    return {"story": [event.to_json() for event in record.events], "solution_name": record.solution}


def ticking(step: float = 0.001) -> Record:
    """A record whose clock goes on by `step` seconds with every event."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += step
        return now

    record = Record(clock, "bell")
    record.begin()
    return record


def a_charge() -> Record:
    """A request, a held reply, a party that is gone for a while, and a promise that is broken."""
    record = ticking()
    post = b"POST /rings HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nding"
    record.add("open", "client", "bell", "connects")
    record.add("message", "client", "bell", "#1 POST /rings ding", post, "client")
    record.add("open", "bell", "tower", "connects")
    record.add("message", "bell", "tower", "POST /strike", b"POST /strike HTTP/1.1\r\n\r\n", "tower")
    hold = record.hold("tower", "holds the reply")
    record.add("reset", "client", "bell", "hangs up (RST)", connection="client")
    record.down("bell", "is killed (SIGKILL)")
    record.up("bell", "is started again")
    record.release("tower", "lets it go", hold)
    record.add("message", "tower", "bell", "200 done", b"HTTP/1.1 200 OK\r\n\r\ndone", "tower")
    record.add("fin", "bell", "client", "closes (EOF)")
    record.fact("is idle")
    record.owed("bell", "client", "a response")
    return record


def many(number: int) -> Record:
    """Unlike events, so that nothing folds."""
    record = ticking(0.0001)
    for index in range(number):
        word = f"{chr(97 + index // 26 % 26)}{chr(97 + index % 26)}"
        record.add("message", "client", "bell", f"RING {word}", bytes(range(256)) * 3)
    record.break_here()
    return record


def hostile() -> Result:
    """Every text of it is an attack."""
    record = ticking()
    for text in HOSTILE:
        record.add("message", f"client {text[:20]}", "bell", text, text.encode("utf-8", "surrogatepass"))
        record.add("message", "bell", "client", lambda text=text: text, b"\xff\xfe" + bytes(range(256)))
        record.note("client", text)
    record.owed("bell", "client", HOSTILE[1])
    everything = "\n".join(HOSTILE)
    return result(
        HOSTILE[0],
        Verdict.BROKEN,
        **story(record),
        message=HOSTILE[1],
        detail=list(HOSTILE),
        output=everything,
        sentence=HOSTILE[2],
        case=HOSTILE[3],
        hints=list(HOSTILE),
        replay=everything,
        source=HOSTILE[4],
        url="javascript:hit()",
    )


def one_of_each() -> list[Result]:
    """A run in which everything happened that can happen."""
    wrong = {"message": "the visitor is owed dong, and came ding", "detail": ["assert 'ding' == 'dong'"]}
    broken = result("answers_again", Verdict.BROKEN, **story(a_charge()), **wrong, stage=2, points=3)
    broken.hints, broken.output = ["Look who waits.", "Answer it.", "Write it down first."], "Traceback: oops\nloud"
    cases = [result("each_word", case=word, stage=2, points=2) for word in ("high", "low")]
    wrong_case = result("each_word", Verdict.BROKEN, case="odd", stage=2, points=2, **story(a_charge()), **wrong)
    return [
        result("answers"),
        result("hushed", source="README R2, silence", url=""),
        broken,
        *cases,
        wrong_case,
        result("waits", Verdict.BLOCKED, message="needs answers_again", stage=3, points=3),
        result("late", Verdict.LIMIT, message="the solution worked for 5 s of CPU time", stage=3, points=3),
        result("asked", Verdict.NOT_REACHED, message="the scene could not be set: a held request", stage=4, points=4),
        result("shown", Verdict.SKIPPED, message="needs what only Linux shows", stage=4, points=4, hidden=True),
        result("ours", Verdict.FAULT, message="a fault of the kit, not of the solution: KeyError: 'x'", stage=5),
    ]
