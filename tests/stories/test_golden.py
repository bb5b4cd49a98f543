"""One broken behaviour of each kata, told in full: what a learner reads, word by word.

The stories are kept in `golden`, as text and as SVG. After an intended change `make stories` draws them anew; look at
the difference before you commit it. What differs from machine to machine and from run to run (times, ports, random
names that a solution makes) is replaced by something that does not.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from plugin.runs import ROOT, Bench

from harness.results import Result
from harness.story.markup import picture
from harness.story.record import Event
from harness.story.svg import draw
from harness.story.text import StoryText, tell
from harness.verdicts import Verdict

GOLDEN = Path(__file__).parent / "golden"
RENEW = "RENEW_STORIES"

# In each of these the order of events is determined: nothing happens that does not follow from what was told before.
CHOSEN = {
    "chat_stream": ("decoded_one_by_one", "characters_across_tokens"),
    "connection_pool": ("return_dirty", "departed_user_no_crosstalk"),
    "grpc": ("hands_on_errors", "failures_of_the_carrier_are_ours"),
    "idempotency": ("unknown_is_failure", "reply_lost_after_charge"),
    "jwt": ("everybody_waits", "cached_keys_not_blocked"),
    "long_polling": ("leaver_removes_entry", "second_poller_conflicts"),
    "l7_balancer": ("everything_repeated", "post_never_repeated"),
    "polling": ("not_modified_loses_the_tag", "not_modified_keeps"),
    "pubsub": ("err_no_close", "unknown_verb_closes"),
    "socket_sharding": ("workers_bind", "nobody_is_refused_while_all_are_dead"),
    "sse": ("header_ignored", "resume_exact"),
}
VARYING = (
    (re.compile(r"\b[0-9a-f]{8,}(?![0-9A-Za-z_])"), lambda found: "0" * len(found[0])),  # ids that a solution makes
    (re.compile(r"[\w-]{40,}"), lambda found: "A" * len(found[0])),  # keys and tokens
    (re.compile(r"(127\.0\.0\.1:)\d+"), lambda found: found[1] + "PORT"),
)


def steady(text: str) -> str:
    for pattern, instead in VARYING:
        text = pattern.sub(instead, text)
    return text


def steady_events(result: Result) -> list[Event]:
    """The events at even times. When a solution closes a connection that is done with is its own affair."""
    events = [Event.from_json(fields) for fields in result.story]
    events = [event for event in events if event.kind != "fin" or event.source != result.solution_name]
    for number, event in enumerate(events):
        event.at, event.label = number / 1000, steady(event.label)
        event.size = event.size if event.kind == "gap" else 0  # the number of a port makes a request longer
    return events


def drawn(kata: str, folder: Path) -> dict[str, str]:
    """The story of the kata's chosen mistake, by the ending of its golden file."""
    mistake, behaviour = CHOSEN[kata]
    run = Bench(folder).pytest(
        f"katas/{kata}", f"--subject=reference:{mistake}", "-k", f"test_{behaviour}", "--seed=7", cwd=ROOT, own=False
    )
    (result,) = [Result.from_json(table) for table in run.results if table["behaviour"] == behaviour]
    assert result.verdict is Verdict.BROKEN, run.text
    events = steady_events(result)
    result.story, result.output = [event.to_json() for event in events], ""
    result.message, result.detail = steady(result.message), [steady(line) for line in result.detail]
    drawing = draw(events, result.solution_name)
    assert drawing is not None
    return {"txt": f"{StoryText(tell(result))}\n", "svg": picture(drawing, result.sentence)}


@pytest.mark.parametrize("kata", CHOSEN)
def test_a_story_is_told_as_it_was(kata: str, tmp_path: Path):
    for ending, text in drawn(kata, tmp_path).items():
        path = GOLDEN / f"{kata}.{ending}"
        if os.environ.get(RENEW) == "1":
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{path.name} is told otherwise now; if meant: make stories"


def test_every_golden_file_is_tested():
    wanted = {f"{kata}.{ending}" for kata in CHOSEN for ending in ("txt", "svg")}
    assert {path.name for path in GOLDEN.iterdir()} == wanted
