"""Tracks: an order with reasons, read from one file each, and what `kata track` makes of them."""

import pytest

from harness import kata as katas
from harness import progress
from harness import track as tracks
from harness.collecting import declared
from harness.verdicts import Unusable

STEP = 'kata = "bell"\nteaches = "Ringing."\nbecause = "It is first."\n'
WHOLE = f'title = "Bells"\nsummary = "All of them."\n[[steps]]\n{STEP}'


@pytest.fixture
def track(tmp_path):
    def read(text: str) -> tracks.Track:
        (tmp_path / "bells.toml").write_text(text)
        return tracks.tracks(tmp_path)["bells"]

    return read


def test_a_track_is_a_file_beside_the_katas(track):
    assert track(WHOLE) == tracks.Track(
        "bells", "Bells", "All of them.", (tracks.Step("bell", "Ringing.", "It is first."),)
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("title =", "is not valid TOML"),
        (WHOLE.replace("summary", "summery"), "lacks `summary`"),
        (WHOLE.partition("[[")[0], "lacks `steps`"),
        (WHOLE.replace('"Bells"', "7"), "lacks `title`, or it is no str"),
        (WHOLE + 'after = "bell"\n', "`after` is a list of katas that come first"),
        (WHOLE + 'after = ["gong"]\n', "bell comes after `gong`, which is no earlier step"),
        (WHOLE + 'after = ["bell"]\n', "bell comes after `bell`, which is no earlier step"),
        (WHOLE.replace("because", "since"), "each of `steps` is a table of kata, teaches, because"),
    ],
)
def test_a_broken_track_is_one_sentence(track, text, problem):
    with pytest.raises(Unusable, match=r"bells\.toml") as told:
        track(text)
    assert problem in str(told.value)


def test_all_tracks_are_listed(kata):
    ended = kata("track")
    assert ended.status == 0
    told = " ".join(ended.out.split())
    assert all(f"{name}: " in told and track.summary in told for name, track in tracks.tracks().items())


def test_a_track_is_told_in_its_order_with_reasons_and_progress(kata, folder):
    (name, track), *_ = tracks.tracks().items()
    first = next(step.kata for step in track.steps if step.kata in katas.catalogue())
    kata("start", first)
    solution = folder / "katas" / first / "solution.py"
    solution.write_text("begun")
    held = declared(katas.shipped(first))[0]
    progress.save(solution.parent, {first: {"verdicts": {held.id: "holds"}}})

    ended = kata("track", name)

    told = " ".join(ended.out.split())
    assert ended.status == 0
    places = [told.index(f"{number}. {step.kata}") for number, step in enumerate(track.steps, 1)]
    assert places == sorted(places)
    assert all(step.because in told and step.teaches in told for step in track.steps)
    assert "1 of" in told[places[0] :]


def test_what_a_kata_builds_on_is_told_with_its_progress(kata, folder, monkeypatch, tmp_path):
    first, second, *_ = katas.catalogue()
    step = 'teaches = "t"\nbecause = "b"\n'
    text = f'title = "T"\nsummary = "S"\n[[steps]]\nkata = "{first}"\n{step}'
    (tmp_path / "two.toml").write_text(f'{text}[[steps]]\nkata = "{second}"\n{step}after = ["{first}"]\n')
    two = tracks.read(tmp_path / "two.toml")
    monkeypatch.setattr(tracks, "tracks", lambda: {"two": two})

    before = kata("track", "two").out
    overview = kata("track").out
    kata("start", first)
    solution = folder / "katas" / first / "solution.py"
    solution.write_text("done")
    held = {each.id: "holds" for each in declared(katas.shipped(first))}
    progress.save(solution.parent, {first: {"verdicts": held}})

    assert two.steps[1].after == (first,)
    assert f"builds on     {first} (not done yet)" in before
    assert "0 of 2 katas done" in overview
    assert f"builds on     {first} (done)" in kata("track", "two").out
    assert "1 of 2 katas done" in kata("track").out


def test_an_unknown_track_is_one_sentence(kata):
    ended = kata("track", "five_essential")
    assert ended.status == 2
    assert ended.err == (
        "kata: there is no track named `five_essential`, did you mean `five_essentials`?; "
        "`kata track` shows all of them\n"
    )


def test_a_kata_that_is_still_to_come_is_marked(kata, monkeypatch, track):
    planned = track(WHOLE)
    monkeypatch.setattr(tracks, "tracks", lambda: {"bells": planned})
    assert "1. bell (still to come)" in kata("track", "bells").out
    assert kata("track").out == "bells: 1 still to come (in parentheses)\n   All of them.\n   (bell)\n"
