"""How the command line begins and ends, whatever is asked of it."""

import os
import subprocess
import sys

import pytest

from harness.commands import catalogue, front, main, prove
from harness.proof import parts


def test_alone_it_shows_its_commands(kata):
    ended = kata()

    assert ended.status == 0
    for command in ("list", "start", "test", "watch", "hint", "explain", "doctor", "new", "prove"):
        assert f"\n    {command} " in ended.out


def test_every_command_has_help(capsys):
    for module in front.COMMANDS:
        name = module.__doc__.split("`")[1].removeprefix("kata ")
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: kata {name}")


def test_the_version_is_the_packages(kata):
    assert kata("--version").out == "kata 0.1.0\n"


@pytest.mark.parametrize("command", ["start", "test", "watch", "hint", "prove"])
def test_an_unknown_kata_is_one_sentence_with_the_near_name(kata, some_kata, command):
    ended = kata(command, some_kata.name + "x")

    assert ended.status == 2
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert f"did you mean `{some_kata.name}`?" in ended.err


def test_an_interrupt_is_no_traceback(kata, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogue, "run", interrupted)

    assert kata("list") == (130, "", "kata: interrupted\n")


def test_a_reader_that_stops_reading_is_no_traceback(folder):
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run([sys.executable, "-m", "harness.commands", "list"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)

    assert (done.returncode, done.stderr) == (141, b"")


def test_a_fault_of_the_kit_is_not_hidden(kata, monkeypatch):
    def fault(options):
        raise RuntimeError("of the kit")

    monkeypatch.setattr(catalogue, "run", fault)

    with pytest.raises(RuntimeError):
        kata("list")


def test_what_is_rarely_needed_is_imported_late():
    seen = "import sys, harness.commands; print({'rich', 'pytest', 'h11', 'jinja2', 'watchdog'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n", "`kata --help` has no use for these"


def test_the_parts_of_a_proof_are_those_that_are_offered():
    assert tuple(parts.PARTS) == prove.PARTS
