"""`kata watch` as a user has it: in a terminal, with saves as editors make them, and keys."""

from __future__ import annotations

import http.client
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clients.browser import chromium

from harness.watching import saves
from harness.watching.page import Page

PATIENCE = 60.0  # seconds, for a machine under any load; a test that gets here has failed
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
HOLDS = re.compile(r"(\d+) of (\d+) behaviours hold")
TOLD = re.compile(HOLDS.pattern + r"(.|\n)*q quit")


class Watching:
    """A `kata watch` in a terminal of its own, in a session of its own, as a terminal window has it."""

    def __init__(self, clone, temporary: Path, *words: str, keyboard: bool = True) -> None:
        self.clone, self.temporary = clone, temporary
        temporary.mkdir()
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.text = ""
        environment = {**os.environ, "TMPDIR": str(temporary), "TERM": "xterm"}
        for name in ("NO_COLOR", "DISPLAY", "WAYLAND_DISPLAY"):
            environment.pop(name, None)
        self.process = clone.start(
            *("harness.commands", "watch", "door", *words),
            stdin=self.slave if keyboard else subprocess.DEVNULL,
            stdout=self.slave,
            stderr=self.slave,
            env=environment,
            preexec_fn=self._own_terminal if keyboard else None,
            start_new_session=True,
        )

    def _own_terminal(self) -> None:
        import fcntl

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C, typed, is SIGINT

    def until(self, happened: Callable[[str], object], what: str) -> None:
        """Read what is shown until `happened(text)`."""
        end = time.monotonic() + PATIENCE
        while not happened(self.text):
            left = end - time.monotonic()
            assert left > 0, f"{what}: not within {PATIENCE:.0f} s, but:\n{self.text}"
            ready, _, _ = select.select([self.master], [], [], min(left, 0.05))
            if ready:
                shown = os.read(self.master, 65536).decode(errors="replace")
                self.text += COLOUR.sub("", shown).replace("\r\n", "\n")

    def until_shown(self, words: str) -> None:
        self.until(lambda text: words in text, f"`{words}` is shown")

    def until_told(self) -> None:
        """Until a run has been told to its end."""
        self.until(TOLD.search, "a run is told")

    def forget(self) -> None:
        """What is shown from now on is new."""
        self.text = ""

    def press(self, key: str) -> None:
        self.forget()
        os.write(self.master, key.encode())

    def ended(self) -> int:
        """The exit status, once it has ended and nothing that it started is left."""
        self.until(lambda _: self.process.poll() is not None, "it ends")
        self.until(lambda _: not self.processes(), "nothing is left of it")
        assert not list(self.temporary.iterdir()), "nothing is left in the temporary folder"
        return self.process.returncode

    def processes(self) -> list[int]:
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                environ = Path("/proc", name, "environ").read_bytes()
            except OSError:
                continue
            if str(self.temporary).encode() in environ:
                found.append(int(name))
        return found

    def url(self) -> str:
        (address,) = re.findall(r"http://127\.0\.0\.1:(\d+)/", self.text)[:1]
        return f"127.0.0.1:{address}"

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def solved(door):
    """A clone whose kata `door` is solved by its reference."""
    shutil.copy(door.root / "reference/door/solution.py", door.root / "katas/door/solution.py")
    return door


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where a folder for temporary files can be made; its path is short, since sockets are bound below it."""
    with tempfile.TemporaryDirectory(prefix="kw-") as folder:
        yield Path(folder, "temporary")


@pytest.fixture
def watching(solved, temporary) -> Iterator[Watching]:
    """A watch whose first run has been told: everything holds."""
    watching = Watching(solved, temporary)
    try:
        watching.until_told()
        yield watching
    finally:
        watching.close()


def solution(watching: Watching) -> Path:
    return watching.clone.root / "katas/door/solution.py"


def right(watching: Watching) -> str:
    return (watching.clone.root / "reference/door/solution.py").read_text()


def wrong(watching: Watching) -> str:
    text = right(watching)
    assert "WELCOME" in text
    return text.replace("WELCOME", "GOOD BYE")


def one_line_only(watching: Watching) -> str:
    text = right(watching)
    assert "while b" in text
    return text.replace("while b", "if b")


# -- saves


def test_a_save_is_run_and_only_what_changed_is_shown(watching):
    assert "watching katas/door" in watching.text

    watching.forget()
    solution(watching).write_text(wrong(watching))
    watching.until_told()
    broken = watching.text
    watching.forget()
    solution(watching).write_text(right(watching))
    watching.until_told()

    assert "solution.py saved" in broken
    assert re.search(r"^lost ✗ greets_by_name: broken", broken, re.M), broken
    assert re.search(r"^promise ", broken, re.M), "the first story is told"
    assert len(re.findall(r"^promise ", broken, re.M)) == 1
    assert re.search(r"^new  ✓ greets_by_name$", watching.text, re.M), watching.text
    assert "promise" not in watching.text


def by_renaming(path: Path, text: str) -> None:
    """As most editors save: a new file takes the place of the old one."""
    draft = path.with_name(".solution.py.swp")
    draft.write_text(text)
    draft.replace(path)


def by_backup(path: Path, text: str) -> None:
    """As vim saves: a probe, the old file aside, the new one in its place, the backup gone."""
    path.with_name("4913").write_text("")
    path.with_name("4913").unlink()
    backup = path.with_name("solution.py~")
    path.rename(backup)
    path.write_text(text)
    backup.unlink()


def several(path: Path, text: str) -> None:
    """As "save all" saves."""
    for name in ("one.py", "two.py"):
        path.with_name(name).write_text("x = 1\n")
    path.write_text(text)


@pytest.mark.parametrize("save", [by_renaming, by_backup, several])
def test_each_way_of_saving_ends_in_a_run_of_what_was_saved(watching, save):
    watching.forget()

    save(solution(watching), wrong(watching))

    watching.until(lambda text: "lost ✗ greets_by_name" in text, "the last state is judged")
    watching.until_shown("q quit")
    assert "is gone" not in watching.text
    assert "has no solution.py" not in watching.text


def test_a_save_during_a_run_ends_it_and_starts_anew(watching):
    path = solution(watching)
    stuck = watching.clone.root / "stuck"
    watching.forget()
    path.write_text(f"import pathlib, time\npathlib.Path({str(stuck)!r}).touch()\nwhile True: pass\n")
    watching.until(lambda _: stuck.exists(), "the stuck program runs")

    path.write_text(right(watching))

    watching.until_told()
    assert watching.text.count("solution.py saved") == 2
    assert watching.text.count("behaviours hold") == 1, "the first of the two runs was not told"


def test_what_the_program_writes_itself_starts_no_run(watching):
    watching.forget()
    noisy = right(watching) + "\n"
    solution(watching).write_text("open('notes', 'a').write('x')\nopen('run.log', 'a').write('x')\n" + noisy)
    watching.until_told()
    watching.press("a")
    watching.until_told()

    assert (solution(watching).parent / "notes").exists()
    assert "notes saved" not in watching.text
    watching.press("q")
    assert watching.ended() == 0
    assert "saved" not in watching.text


@pytest.mark.parametrize(
    "name", ["a.swp", ".hidden.py", "solution.py~", "#solution.py#", "4913", "run.log", "README.md"]
)
def test_other_files_are_no_sources(name):
    assert not saves.is_source(name)


@pytest.mark.parametrize("name", ["solution.py", "kata.toml", "Makefile", "main.go", "server"])
def test_sources(name):
    assert saves.is_source(name)


# -- trouble


def test_a_kata_toml_that_is_broken_in_mid_edit_is_one_sentence_and_watched_on(watching):
    toml = watching.clone.root / "katas/door/kata.toml"
    whole = toml.read_text()
    watching.forget()

    toml.write_text("name = ")
    watching.until_shown("(watching on)")
    broken = watching.text
    toml.write_text(whole)
    watching.until_told()

    assert len(broken.strip().splitlines()) == 1, broken
    assert "katas/door/kata.toml is not valid TOML" in broken


def test_a_folder_that_goes_and_comes_back_is_watched_on(watching):
    folder = watching.clone.root / "katas/door"
    aside = watching.clone.root / "aside"
    watching.forget()

    folder.rename(aside)
    watching.until_shown("katas/door is gone (watching on)")
    shutil.copytree(aside, folder)
    watching.until_told()
    watching.forget()
    solution(watching).write_text(wrong(watching))

    watching.until_shown("lost ✗ greets_by_name")


def test_a_program_that_does_not_start_is_told(watching):
    watching.forget()

    solution(watching).write_text("this is no Python\n")

    watching.until_shown("SyntaxError")
    watching.until_shown("q quit")
    assert "the solution did not start" in watching.text


# -- keys


def test_h_gives_the_next_hint(watching):
    watching.forget()
    solution(watching).write_text(wrong(watching))
    watching.until_told()

    watching.press("h")
    watching.until_shown("hint 1 of 3")
    watching.press("h")
    watching.until_shown("hint 2 of 3")


def test_f_runs_what_failed_and_a_runs_all(watching):
    watching.forget()
    solution(watching).write_text(one_line_only(watching))
    watching.until_told()

    watching.press("f")
    watching.until_told()
    failed = HOLDS.search(watching.text)
    watching.press("a")
    watching.until_told()
    everything = HOLDS.search(watching.text)

    assert failed.groups() == ("0", "1")
    assert everything.groups() == ("1", "2")
    assert "nothing changed since the last run" in watching.text


def test_o_says_where_the_page_is_and_q_ends_it(watching):
    watching.press("o")
    watching.until_shown("the page is served at http://127.0.0.1:")
    watching.press("q")

    assert watching.ended() == 0
    assert termios.tcgetattr(watching.slave) == watching.before


def test_nothing_failed_is_said(watching):
    watching.press("f")
    watching.until_shown("nothing failed in the last run")


def test_ctrl_c_restores_the_terminal_and_leaves_nothing(watching):
    assert termios.tcgetattr(watching.slave) != watching.before, "keys are read one by one"
    stuck = watching.clone.root / "stuck"
    solution(watching).write_text(f"open({str(stuck)!r}, 'w')\nwhile True: pass\n")
    watching.until(lambda _: stuck.exists(), "a run is under way")

    watching.press("\x03")

    assert watching.ended() == 130
    assert "Traceback" not in watching.text
    assert termios.tcgetattr(watching.slave) == watching.before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_it_leaves_nothing(watching, number):
    watching.process.send_signal(number)

    assert watching.ended() == 128 + number
    assert termios.tcgetattr(watching.slave) == watching.before


def test_a_watch_that_is_killed_leaves_no_process(watching):
    watching.process.kill()

    watching.until(lambda _: watching.process.poll() is not None, "it is gone")
    watching.until(lambda _: not watching.processes(), "nothing is left of it")


def test_a_temporary_folder_with_too_long_a_path_is_one_sentence(solved, temporary):
    watching = Watching(solved, temporary.with_name("x" * 120), keyboard=False)
    try:
        watching.until_shown("set TMPDIR to a folder with a shorter path")
        assert watching.ended() == 2
    finally:
        watching.close()


def test_without_a_terminal_keys_are_off(solved, temporary):
    watching = Watching(solved, temporary, keyboard=False)
    try:
        watching.until_shown("keys are off, since standard input is no terminal")
        watching.until(HOLDS.search, "a run is told")
        watching.process.send_signal(signal.SIGINT)
        assert watching.ended() == 130
    finally:
        watching.close()


# -- the page


def test_the_page_is_loaded_again_after_each_run(watching):
    page = http.client.HTTPConnection(watching.url())
    page.request("GET", "/")
    shown = page.getresponse().read().decode()
    events = http.client.HTTPConnection(watching.url())
    events.request("GET", "/events/1")
    stream = events.getresponse()
    assert stream.getheader("Content-Type") == "text/event-stream"
    assert stream.fp.readline() == b"retry: 500\n"
    assert stream.fp.readline() == b"\n"

    solution(watching).write_text(wrong(watching))

    assert stream.fp.readline().startswith(b"event: reload")
    assert 'new EventSource("/events/1")' in shown


STRICT = """<!doctype html><html><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy"
 content="default-src &#39;none&#39;; script-src &#39;sha256-AAAA&#39;"></head><body>version %d</body></html>"""


@pytest.mark.oracle
@pytest.mark.timeout(300)
def test_a_browser_loads_a_page_with_a_strict_policy_again(tmp_path, monkeypatch):
    file = tmp_path / "stories.html"
    file.write_text(STRICT.replace("\n ", " ") % 0)
    page, served = Page(file), threading.Semaphore(0)
    content = Page.content

    def counted(self):
        served.release()
        return content(self)

    monkeypatch.setattr(Page, "content", counted)
    try:
        with chromium(page, tmp_path / "profile"):
            assert served.acquire(timeout=PATIENCE), "the browser loads the page"
            for number in (1, 2):
                file.write_text(STRICT.replace("\n ", " ") % number)
                page.reload()
                assert served.acquire(timeout=PATIENCE), "the browser loads it again"
    finally:
        page.close()


def test_a_page_that_was_loaded_too_early_is_told_at_once(tmp_path):
    page = Page(tmp_path / "stories.html")
    try:
        page.reload()
        late = http.client.HTTPConnection(page.url.removeprefix("http://").rstrip("/"))
        late.request("GET", "/events/0")
        events = late.getresponse()
        assert [events.fp.readline() for _ in range(3)][-1] == b"event: reload\n"
    finally:
        page.close()


def test_the_page_is_for_this_machine_alone(watching):
    page = http.client.HTTPConnection(watching.url())
    page.request("GET", "/", headers={"Host": "elsewhere.example"})
    assert page.getresponse().status == 403

    other = http.client.HTTPConnection(watching.url())
    other.request("GET", "/etc/passwd")
    assert other.getresponse().status == 404
