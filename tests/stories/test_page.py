"""The page of a run: what it says of each verdict, and that nothing foreign gets out of its place."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from harness.results import Result
from harness.story.page import DETAILS, page, with_script
from harness.verdicts import Verdict

from .reading import HTML, SVG, classes, diagrams, parsed, words
from .samples import HOSTILE, a_charge, hostile, many, one_of_each, result, story

OUR_ATTRIBUTES = re.compile(r"on\w+|style|src|srcdoc|action|formaction|background|xlink:href")
MEGABYTE = 1_000_000


def article(results: Sequence[Result], behaviour: str):
    entries = classes(parsed(page(results)), "entry")
    (found,) = [each for each in entries if words(next(each.iter(f"{HTML}code"))) == behaviour]
    return found


def test_the_map_has_a_chip_for_every_behaviour_that_leads_to_it():
    tree = parsed(page(one_of_each()))

    chips = {words(chip): chip.get("href", "") for chip in classes(tree, "chip")}
    ids = {each.get("id") for each in classes(tree, "entry")}
    told = {words(each) for each in classes(tree, "hidden") if ": " in words(each)}
    assert told == {
        "answers: holds",
        "hushed: holds",
        "answers_again: broken",
        "each_word: broken",
        "waits: blocked",
        "late: limit",
        "asked: not reached",
        "shown: skipped",
        "ours: fault of the kit",
    }
    assert {link.removeprefix("#") for link in chips.values()} == ids
    assert "bell: 2 of 9 behaviours hold" in words(tree)
    assert "2 of 9 behaviours hold, 2 of 22 points" in words(tree)


def test_a_broken_behaviour_is_told_with_all_that_is_known_of_it():
    told = article(one_of_each(), "answers_again")

    text = words(told)
    assert "the visitor is owed dong, and came ding" in text
    assert "assert 'ding' == 'dong'" in text
    assert "Traceback: oops" in text
    assert "pytest katas/bell -k answers_again --seed=7" in text
    assert [words(hint) for hint in classes(told, "hint")] == [
        "Hint 1 of 3Look who waits.",
        "Hint 2 of 3Answer it.",
        "Hint 3 of 3Write it down first.",
    ]
    assert not any(hint.get("open") for hint in classes(told, "hint")), "hints are for those who ask"
    (link,) = told.iter(f"{HTML}a")
    assert link.get("href") == "https://www.rfc-editor.org/rfc/rfc9110#section-9.3.2"
    assert "curl -i -H 'Content-Type: text/plain' --data-binary ding http://127.0.0.1:8080/rings" in text


def test_cases_of_one_behaviour_are_one_entry_and_the_broken_case_is_told():
    told = article(one_of_each(), "each_word")

    assert [words(case) for case in classes(told, "cases")[0]] == ["high holds", "low holds", "odd broken"]
    assert len(classes(told, "told")) == 1
    assert "case odd" in words(told)


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ("waits", "needs answers_again"),
        ("late", "A bound was hit before anything was decided."),
        ("asked", "The scene could not be set, so nothing was learned about this promise."),
        ("shown", "needs what only Linux shows"),
        ("ours", "This is a defect of the kit. It says nothing about the solution."),
    ],
)
def test_whose_fault_it_is_is_said(behaviour: str, sentence: str):
    assert sentence in words(article(one_of_each(), behaviour))


def test_an_untouched_skeleton_is_greeted_and_not_blamed():
    first = result("answers", Verdict.BROKEN, untouched=True, message="katas/bell holds the skeleton as it came.")
    others = [result(name, Verdict.BLOCKED, message="the skeleton is untouched") for name in ("hushed", "again")]

    tree = parsed(page([first, *others]))

    assert [words(each) for each in classes(tree, "begin")] == ["katas/bell holds the skeleton as it came."]
    assert not classes(tree, "broken")
    assert "answers: not tried" in words(tree)


def test_several_katas_are_chapters_of_one_page():
    others = [result("answers", kata="gong"), result("hushed", Verdict.BROKEN, kata="gong", message="loud")]

    tree = parsed(page([*one_of_each(), *others]))

    assert [words(heading) for heading in tree.iter(f"{HTML}h2")] == ["bell", "gong"]
    assert words(next(tree.iter(f"{HTML}h1"))) == "2 katas"


def test_mutants_are_caught_or_survive():
    mutants = [
        result("hushed", mutant="loud", because="It answers to everything."),
        result("hushed", Verdict.BROKEN, mutant="louder", because="It answers twice.", message="was not noticed"),
    ]

    text = words(parsed(page(mutants)))

    assert "loud / hushed: caught" in text
    assert "louder / hushed: survived" in text
    assert "The mistake: It answers twice." in text


def test_the_last_result_of_a_behaviour_counts():
    late = [result("hushed"), result("hushed", Verdict.BROKEN, message="was answered late")]

    tree = parsed(page(late))

    assert len(classes(tree, "entry")) == 1
    assert "hushed: broken" in words(tree)


def test_what_was_withheld_is_not_missed():
    redacted = result(
        "hidden_7", Verdict.BROKEN, sentence="", source="", url="", hints=[], replay="", message="", hidden=True
    )

    told = article([redacted], "hidden_7")

    assert words(told) == "✗ hidden_7 broken hidden_7 1 point hidden"
    assert not classes(told, "diagram")


def test_title_and_further_lines_are_the_callers():
    tree = parsed(page([result("answers")], title="Ada <b>", about=["isolation level 3", "12 & 13"]))

    assert words(next(tree.iter(f"{HTML}h1"))) == "Ada <b>"
    assert "isolation level 3 · 12 & 13 · seed 7" in words(tree)


def test_a_page_without_results_says_so():
    assert "Nothing was tried." in words(parsed(page([])))


# -- a page that stands alone


def test_a_page_needs_no_network():
    text = page(one_of_each())

    tree = parsed(text)
    links = [each.get(name) for each in tree.iter() for name in ("href", "src") if each.get(name)]
    assert all(link.startswith(("#", "https://www.rfc-editor.org/")) for link in links)
    assert not re.search(r"url\(|@import|<link", text)
    (policy,) = [each.get("content") for each in tree.iter(f"{HTML}meta") if each.get("http-equiv")]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "connect-src" not in policy


def test_one_more_script_is_allowed_by_name_and_may_connect_home():
    text = with_script(page([result("answers")]), "new EventSource('/events')")

    (policy,) = [each.get("content") for each in parsed(text).iter(f"{HTML}meta") if each.get("http-equiv")]
    assert "; connect-src 'self'; script-src 'sha256-" in policy
    assert policy.count("sha256-") == 3
    assert text.endswith("<script>new EventSource('/events')</script>\n</body>\n</html>")


def test_every_id_is_the_only_one_and_every_reference_leads_somewhere():
    tree = parsed(page([*one_of_each(), *(result("x", kata="gong", case=str(n)) for n in range(2))]))

    ids = [each.get("id") for each in tree.iter() if each.get("id")]
    referred = [id for each in tree.iter() for id in str(each.get("aria-labelledby", "")).split()]
    assert len(ids) == len(set(ids))
    assert set(referred) <= set(ids)


def test_diagrams_are_xml_and_have_names():
    pictures = diagrams(page(one_of_each()))

    assert len(pictures) == 2
    for picture in pictures:
        assert picture.get("role") == "img"
        title, description = picture.find(f"{SVG}title"), picture.find(f"{SVG}desc")
        assert picture.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
        assert description.text.startswith("A sequence diagram of 11 events between client, bell, tower.")


# -- bad input


def test_nothing_foreign_becomes_markup_script_or_style():
    """Compared with the same page about harmless text: no element and no attribute more."""
    text = page([hostile()])

    tree = parsed(text)
    names = {each.tag.split("}")[1] for each in tree.iter() if isinstance(each.tag, str)}
    assert not names & {"img", "iframe", "foreignObject", "foreignobject", "b", "object", "embed", "base", "form"}
    assert len(list(tree.iter(f"{HTML}script"))) == 1
    attributes = {name for each in tree.iter() for name in each.attrib}
    assert not [name for name in attributes if OUR_ATTRIBUTES.fullmatch(str(name))]
    assert "javascript:" not in " ".join(each.get("href", "") for each in tree.iter())
    assert "<script>hit()</script>" in words(tree), "it is shown, as text"
    assert diagrams(text)


def test_no_control_or_format_character_survives():
    text = page([hostile()])

    foreign = {character for character in text if not character.isprintable()} - {"\n"}
    assert foreign == set()
    text.encode("utf-8")  # no surrogate is left
    assert r"\0\x01\x07\x08\x0b\x0c\x1b[31m" in text
    assert r"\u202etfel" in text


def test_ten_thousand_messages_make_a_small_page():
    records = [many(10_000) for _ in range(2)]
    results = [result(f"b{n}", Verdict.BROKEN, message="x", **story(record)) for n, record in enumerate(records)]

    text = page(results)

    assert len(text) < MEGABYTE / 2
    for picture in diagrams(text):
        steps = classes(picture, "step")
        assert len(steps) <= DETAILS[0].events + 1
        assert "more events" in " ".join(words(step) for step in classes(picture, "gap"))
        assert "broken" in steps[-1].get("class", "")


def test_forty_broken_behaviours_stay_under_a_megabyte():
    record = many(500)
    record.add("message", "client", "bell", "big", bytes(8 << 20))
    told = story(record) | {"output": "noise " * 100_000, "hints": ["h" * 200] * 3, "detail": ["d" * 400] * 8}
    results = [result(f"b{n}", Verdict.BROKEN, message="m" * 800, **told) for n in range(40)]

    text = page(results)

    assert len(text.encode()) < MEGABYTE
    assert len(diagrams(text)) == 40, "each story is told, in less detail"
    parsed(text)


def test_a_story_that_has_no_room_says_how_to_see_it():
    told = story(many(300))
    cases = [result("each", Verdict.BROKEN, case=f"c{n}", message="x", **told) for n in range(400)]

    text = page(cases)

    assert "There was no room for the story of this one" in text
    assert 0 < len(diagrams(text)) < 400


def test_a_big_message_is_told_by_its_ends_and_its_digest():
    record = a_charge()
    record.add("message", "client", "bell", "PUB", b"first" + bytes(1 << 20) + b"last!")
    text = words(article([result("big", Verdict.BROKEN, message="x", **story(record))], "big"))

    assert re.search(r"1,048,586 bytes, the first 192 and the last 64 of them, SHA-256 [0-9a-f]{16}…", text)
    assert "66 69 72 73 74 00 00 00" in text
    assert "last!" in text


def test_a_clock_that_jumps_does_not_break_the_drawing():
    record = a_charge()
    events = record.events
    for event, at in zip(events, [0, -5, 1e9, 3, float(2**40), 0, 0, 0, 0, 0, 0, 0, 0], strict=False):
        event.at = at
    told = {"story": [event.to_json() for event in events], "solution_name": "bell"}

    (picture,) = diagrams(page([result("jump", Verdict.BROKEN, message="x", **told)]))

    assert 0 < float(picture.get("height", "0")) < 5000


def test_hostile_texts_are_what_they_seem():
    """The attacks are attacks: unescaped, a strict parser or a browser would take them for markup."""
    assert any(re.search(r"<\w+", text) for text in HOSTILE)
    assert any("\x1b" in text for text in HOSTILE)
