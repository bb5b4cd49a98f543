"""`kata team`: from results and progress to who stands where, and what is next."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness import kata as katas
from harness import track as tracks
from harness.behaviour import Behaviour, Source
from harness.collecting import declared
from harness.grading.model import Graded, Judged, Kit, Status, Student, Submitted
from harness.team import standing as standings
from harness.team.members import Member
from harness.verdicts import Verdict

TRACK = next(iter(tracks.tracks().values()))
STEPS = [step for step in TRACK.steps if step.kata in katas.catalogue()]  # others are still to come
FIRST, SECOND = (step.kata for step in STEPS[:2])
HOSTILE = "<script>alert('x')</script>\x1b[2J"


def verdicts(kata, *broken, hidden=False):
    """What a learner's record says: all but the broken ones hold."""
    asked = [each for each in declared(katas.shipped(kata)) if hidden or not each.hidden]
    return {each.id: "broken" if each.id in broken else "holds" for each in asked}


def public(kata):
    return [each for each in declared(katas.shipped(kata)) if not each.hidden]


def progress(folder, **entries):
    folder.mkdir(parents=True)
    (folder / ".progress.json").write_text(json.dumps({kata: {"verdicts": each} for kata, each in entries.items()}))
    return str(folder)


def graded(folder, kata, student, *broken):
    """A result as `kata grade` writes it; hidden behaviours are in it."""
    judged = tuple(
        Judged(
            each.id,
            each.sentence,
            each.stage,
            each.points,
            0,
            each.hidden,
            Verdict.BROKEN if each.id in broken else Verdict.HOLDS,
        )
        for each in declared(katas.shipped(kata))
    )
    blank = Graded(kata, kata, student, Submitted(""), Kit("", "", ""), 1, 1, 0, "", 0, Status.GRADED, score=0)
    (folder / "results").mkdir(parents=True, exist_ok=True)
    path = folder / "results" / f"{student.id}.json"
    path.write_text(json.dumps(replace(blank, behaviours=judged).to_json()))
    return str(folder)


def test_progress_is_told_by_stage_with_the_next_step(kata, folder):
    last = public(FIRST)[-1]
    ended = kata("team", progress(folder / "ada" / "katas", **{FIRST: verdicts(FIRST, last.id)}))

    asked = len(public(FIRST))
    assert ended.status == 0
    assert ended.out.startswith(f"ada\n  {FIRST}: {asked - 1} of {asked} behaviours hold (basics ")
    assert f"  next: {FIRST}. {last.sentence}\n" in ended.out


def test_a_finished_kata_leads_to_the_next_of_the_track(kata, folder):
    ended = kata("team", progress(folder / "ada", **{FIRST: verdicts(FIRST)}))

    assert f"  next: {SECOND}. {STEPS[1].teaches}\n" in ended.out


def test_results_count_hidden_behaviours(kata, folder):
    ended = kata("team", graded(folder / "marks", FIRST, Student("ada", "Ada Lovelace")))

    asked = len(declared(katas.shipped(FIRST)))
    assert ended.out.startswith(f"Ada Lovelace\n  {FIRST}: {asked} of {asked} behaviours hold")


def test_several_sources_make_one_team_and_the_last_counts(kata, folder):
    whole, broken = public(FIRST), public(FIRST)[0].id
    first = progress(folder / "one", **{FIRST: verdicts(FIRST, broken)})
    again = progress(folder / "two", **{FIRST: verdicts(FIRST)})
    marks = graded(folder / "marks", SECOND, Student("ada"))

    ended = kata("team", f"ada={first}", f"ada={again}", f"bea={first}", marks)

    assert ended.out.count("\nbea\n") == 1
    assert ended.out.startswith(f"ada\n  {FIRST}: {len(whole)} of {len(whole)} behaviours hold")
    assert f"  {SECOND}: " in ended.out.partition("\nbea\n")[0]
    assert f"  {FIRST}: {len(whole) - 1} of {len(whole)}" in ended.out.partition("\nbea\n")[2]


def behaviour(name, stage, *needs, hidden=False):
    return Behaviour(name, f"{name}!", stage, 1, Source(""), needs=needs, hidden=hidden)


def test_the_promise_to_go_on_with_has_what_it_needs(monkeypatch):
    """A behaviour whose needs are broken says nothing new, and is not advised."""
    asked = [behaviour("later", 1, "deep"), behaviour("deep", 2), behaviour("secret", 3, hidden=True)]
    monkeypatch.setattr(standings, "declared", lambda kata: asked)
    team = [Member("ada", {FIRST: {"later": "blocked", "deep": "broken"}}), Member("bea", {})]

    stands = standings.standing(team)

    ada, bea = stands.lines
    assert (ada.following[0].kata, ada.following[0].promise) == (FIRST, "deep!")
    assert ada.cells[0].whole == standings.Share(0, 2), "what is hidden was not asked"
    assert (bea.following[0].kata, bea.following[0].promise) == (FIRST, "")
    assert bea.cells[0].stages == ()
    assert {(lack.sentence, lack.who) for lack in stands.lacks} == {("later!", ("ada",)), ("deep!", ("ada",))}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.labels, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for key, value in attributes:
            if key in {"src", "href", "action"}:
                self.links.append(value)
            if key == "aria-label":
                self.labels.append(value)

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_stands_alone_and_nothing_in_it_runs(kata, folder):
    given = [f"{HOSTILE}={progress(folder / 'a', **{FIRST: verdicts(FIRST, public(FIRST)[0].id)})}"]
    given += [graded(folder / "marks", SECOND, Student("eve", f"Eve {HOSTILE}"))]

    ended = kata("team", *given, "--html", "team.html")

    text = Path("team.html").read_text(encoding="utf-8")
    page = Page(text)
    words = " ".join(page.words)
    assert (ended.status, ended.out) == (0, "the page is team.html\n")
    assert "script" not in page.tags
    assert not page.links
    assert "<script>alert" in words, "it is shown, not run"
    assert "\x1b" not in text
    assert "prefers-color-scheme: dark" in text
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert page.labels[0].startswith("basics ")
    assert public(FIRST)[0].sentence in re.sub(r"\s+", " ", words), "what most lack"
    assert STEPS[0].teaches in words


def test_an_unknown_kata_is_left_out_with_a_note(kata, folder):
    ended = kata("team", progress(folder / "ada", nonsense={"a": "holds"}))

    assert ended.status == 0
    assert "note: `nonsense` is no kata of this kit, and is left out\n" in ended.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing"], "missing does not exist; name a folder of `kata grade`"),
        (["ada=missing"], "missing does not exist"),
        (["empty"], "empty holds neither results of `kata grade` nor a .progress.json"),
        (["marks"], "marks holds no results"),
        (["text.json"], "text.json is no progress file"),
        (["list.json"], "list.json is no progress file"),
        (["broken"], "is no JSON"),
        (["good.json", "--html", "empty"], "empty can't be written (Is a directory)"),
    ],
)
def test_bad_input_is_one_sentence(kata, folder, words, said):
    for name in ("empty", "marks/results", "broken/results"):
        (folder / name).mkdir(parents=True)
    (folder / "broken/results/eve.json").write_text("{")
    (folder / "text.json").write_text("what?")
    (folder / "list.json").write_text("[1]")
    (folder / "good.json").write_text("{}")

    ended = kata("team", *words)

    assert ended.status == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1
