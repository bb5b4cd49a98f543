"""What students see of hidden behaviours, by policy; what is theirs to see is never changed."""

from dataclasses import replace

import pytest

from harness.grading.reveal import Reveal, for_students
from harness.verdicts import Verdict

from .sample import JUDGED, RESULT


def seen(reveal):
    return {each.id: each for each in for_students(RESULT, reveal).behaviours}


@pytest.mark.parametrize("reveal", Reveal)
def test_what_is_not_hidden_is_seen_whole(reveal):
    assert (seen(reveal)["greets_by_name"], seen(reveal)["turns_strangers_away"]) == JUDGED[:2]


@pytest.mark.parametrize("reveal", Reveal)
def test_points_stay_the_same(reveal):
    behaviours = seen(reveal).values()

    assert sum(each.points for each in behaviours) == RESULT.max_score
    assert sum(each.earned for each in behaviours) == RESULT.score


@pytest.mark.parametrize("reveal", Reveal)
def test_a_view_is_not_signed(reveal):
    assert for_students(replace(RESULT, signature={"value": "x"}), reveal).signature == {}


def test_none_tells_their_number_alone():
    hidden = seen(Reveal.NONE)["hidden"]

    assert set(seen(Reveal.NONE)) == {"greets_by_name", "turns_strangers_away", "opens_twice", "hidden"}
    assert (hidden.sentence, hidden.verdict) == ("0 of 1 hidden behaviours hold.", Verdict.BROKEN)
    assert seen(Reveal.NONE)["opens_twice"].message == "needs a hidden behaviour"
    assert seen(Reveal.NONE)["opens_twice"].needs == ()


def test_names_tells_names_and_verdicts():
    hidden = seen(Reveal.NAMES)["secret_knock"]

    assert (hidden.sentence, hidden.verdict, hidden.message, hidden.story) == ("secret knock", Verdict.LIMIT, "", ())


def test_sentences_tells_promises_but_not_what_happened():
    hidden = seen(Reveal.SENTENCES)["secret_knock"]

    assert hidden.sentence == "Three knocks open the door at once."
    assert (hidden.message, hidden.detail, hidden.output, hidden.story) == ("", (), "", ())


def test_stories_tells_everything():
    assert seen(Reveal.STORIES)["secret_knock"] == JUDGED[2]


@pytest.mark.parametrize("reveal", [each for each in Reveal if each is not Reveal.STORIES])
def test_what_is_tried_after_a_hidden_one_is_not_told(reveal):
    """By then the program knows what it was asked there."""
    after = replace(JUDGED[1], id="opens_late", needs=("opens_twice",))
    told = for_students(replace(RESULT, behaviours=(*JUDGED, after)), reveal).behaviours

    (late,) = (each for each in told if each.id == "opens_late")
    assert (late.verdict, late.earned) == (after.verdict, after.earned)
    assert late.message.startswith("it is tried after hidden behaviours")
    assert (late.detail, late.output, late.story) == ((), "", ())


def test_a_reason_does_not_name_what_is_hidden():
    failed = replace(RESULT, reason="the kit failed at secret_knock: 4711")

    assert for_students(failed, Reveal.SENTENCES).reason == "the kit failed"
