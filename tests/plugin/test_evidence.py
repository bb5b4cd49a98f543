"""What a broken behaviour leaves in a folder: captures that Wireshark's dissectors read, scripts that replay them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from peers.foreign import require

from harness import kata as katas
from harness import subjects
from harness.evidence import compare
from harness.evidence.capture import capture
from harness.results import Result
from harness.story.record import Record
from harness.verdicts import Verdict
from harness.wire.network import Network
from harness.wire.tape import MOST_BYTES, Tape

from .runs import BEHAVIOURS, BELL, ROOT, Bench, until

WRONG = BELL.replace('f"dong {word}', 'f"ding {word}')


def tshark(file: Path, *words: str) -> list[str]:
    """Lines that tshark makes of a capture, with every checksum verified."""
    require("tshark", "tshark")
    checked = ("-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE")
    done = subprocess.run(["tshark", "-r", file, *checked, *words], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def fields(file: Path, *names: str, where: str = "") -> list[tuple[str, ...]]:
    wanted = [word for name in names for word in ("-e", name)]
    lines = tshark(file, "-T", "fields", *wanted, *(["-Y", where] if where else []))
    return [tuple(line.split("\t")) for line in lines]


def of_the_kit(bench: Bench, kata: str, mistake: str, behaviour: str, *options: str) -> None:
    subject = f"--subject=reference:{mistake}"
    run = bench.pytest(ROOT / "katas" / kata, subject, "-k", behaviour, *options, own=False)
    assert run.verdicts[behaviour] == "broken", run.text


# -- captures


@pytest.mark.oracle
def test_a_capture_holds_what_was_said_on_the_wire(bench: Bench):
    bench.kata(WRONG)

    run = bench.pytest("katas/bell", "-k", "answers", "--pcap=shots", "--seed=7")

    file = bench.folder / "shots" / "bell-answers.pcapng"
    (word,) = {line.split()[1] for line in tshark(file, "-q", "-z", "follow,tcp,ascii,0") if line.startswith("ring ")}
    said = [line.strip() for line in tshark(file, "-q", "-z", "follow,tcp,ascii,0")]
    comments = [comment for (comment,) in fields(file, "frame.comment") if comment]
    assert f"ring {word}" in said
    assert f"ding {word}" in said
    assert "shots/bell-answers.pcapng" in run.text, "the story says where it is"
    assert "really 127.0.0.1:" in comments[0]
    assert "here the promise is broken" in comments[-1]
    assert not fields(file, "frame.number", where="tcp.checksum.status == 0 || ip.checksum.status == 0")
    assert not fields(file, "frame.number", where="tcp.analysis.flags"), "no segment is lost, repeated or out of order"


@pytest.mark.oracle
def test_http_and_resp_are_dissected_without_settings(bench: Bench):
    of_the_kit(bench, "connection_pool", "return_dirty", "departed_user_no_crosstalk", "--pcap=shots")

    file = bench.folder / "shots" / "connection_pool-departed_user_no_crosstalk.pcapng"
    requests = [uri for (uri,) in fields(file, "http.request.uri", where="http.request")]
    commands = fields(file, "resp.bulk_string.value", where="resp")
    resets = fields(file, "frame.number", where="tcp.flags.reset == 1")
    names = tshark(file, "-q", "-z", "hosts")
    assert [uri.partition("-")[0] for uri in requests] == ["/kv/k", "/kv/alice", "/kv/bob"]
    assert any(command.startswith(b"GET".hex()) for (command,) in commands), commands
    assert len(resets) == 1, "the client that left hung up by reset"
    assert {"client", "gateway", "redis"} <= {line.split()[-1] for line in names if line and line[0].isdigit()}


@pytest.mark.oracle
def test_what_has_no_dissector_is_on_its_own_port(bench: Bench):
    of_the_kit(bench, "pubsub", "drain_in_fanout", "stalled_subscriber_delays_nobody", "--pcap=shots")

    file = bench.folder / "shots" / "pubsub-stalled_subscriber_delays_nobody.pcapng"
    ports = {port for (port,) in fields(file, "tcp.dstport", where="tcp.flags.syn == 1 && tcp.flags.ack == 0")}
    assert ports == {"4222"}
    assert any(line.startswith("INFO {") for line in tshark(file, "-q", "-z", "follow,tcp,ascii,0"))


@dataclass
class Datagrams:
    """The harness's end of an exchange of datagrams."""

    name: str = "resolver"
    peer: str = "solution"
    local: tuple[str, int] = ("127.0.0.1", 40000)
    remote: tuple[str, int] = ("127.0.0.1", 15000)
    opened_by_harness: bool = True
    transport: str = "udp"
    speaks: str = ""


QUERY = bytes.fromhex("1a2b01000001000000000000076578616d706c6504746573740000010001")


def broken() -> Result:
    told = ("kata", "folder", "solution", "behaviour", "", "A sentence.")
    return Result(*told, 1, 1, False, "RFC", "", [], verdict=Verdict.BROKEN, message="It is not so.")


@pytest.mark.oracle
def test_datagrams_are_captured_too(tmp_path: Path):
    tape = Tape(Record(lambda: 1.5))
    end = Datagrams()
    tape.add(end, "sent", QUERY)
    tape.add(end, "received", QUERY[:2] + b"\x81\x83" + QUERY[4:])
    file = tmp_path / "dns.pcapng"

    file.write_bytes(capture(tape, broken(), "dns", 1000.0))

    assert fields(file, "dns.qry.name", "dns.flags.response", "dns.flags.rcode") == [
        ("example.test", "0", ""),
        ("example.test", "1", "3"),
    ]
    assert not fields(file, "frame.number", where="udp.checksum.status == 0")


def test_without_being_asked_for_nothing_is_kept():
    assert Network(Record(lambda: 0.0)).tape is None


def test_a_tape_that_is_full_says_so():
    tape = Tape(Record(lambda: 0.0))
    tape.add(Datagrams(), "sent", bytes(MOST_BYTES))
    tape.add(Datagrams(), "sent", b"one more")

    assert tape.full
    assert tape.size == MOST_BYTES
    assert b"the end is missing" in capture(tape, broken(), "", 0.0)


def test_what_holds_leaves_nothing(bench: Bench):
    bench.kata()

    run = bench.pytest("katas/bell", "--pcap=shots", "--repro=scripts")

    assert run.status == 0, run.text
    assert not [*(bench.folder / "shots").iterdir(), *(bench.folder / "scripts").iterdir()]


def test_only_files_of_the_kit_are_replaced(bench: Bench):
    bench.kata(WRONG)
    for folder in ("shots", "scripts"):
        (bench.folder / folder).mkdir()
    mine = bench.folder / "shots" / "bell-answers.pcapng"
    mine.write_bytes(b"a capture of mine")
    script = bench.folder / "scripts" / "bell-answers.py"
    options = ("katas/bell", "-k", "answers", "--pcap=shots", "--repro=scripts")

    first = bench.pytest(*options, "--seed=1")
    before = script.read_text()
    bench.pytest(*options, "--seed=2")

    assert mine.read_bytes() == b"a capture of mine"
    assert "was not written: a file that is none of the kit's is in its place" in first.text
    assert script.read_text() != before, "its own script is replaced"


@pytest.mark.parametrize("option", ["--pcap", "--repro"])
def test_a_folder_that_cannot_be_written_is_one_sentence_at_the_start(bench: Bench, option: str):
    bench.kata(WRONG)
    (bench.folder / "file").write_text("mine")

    run = bench.pytest("katas/bell", f"{option}=file/below")

    assert run.status == 4
    assert not run.results
    assert f"{option}=file/below can't be written" in run.text
    assert "Traceback" not in run.text


# -- scripts


@contextmanager
def serving(program: Path, environment: dict[str, str]):
    """A program of the learner's, as they start it themselves; yields where it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = environment | {"HOST": "127.0.0.1", "PORT": str(port), "STATE_DIR": str(program.parent)}
    process = subprocess.Popen([sys.executable, program], env=os.environ | told, cwd=program.parent)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(listens, "the program listens")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def replayed(script: Path, address: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a learner does: with plain Python, isolated from the kit and its packages."""
    return subprocess.run([sys.executable, "-I", "-S", script, address], capture_output=True, text=True)


def environment_in(script: Path) -> dict[str, str]:
    (line,) = [line for line in script.read_text().splitlines() if line.startswith("It was started with: ")]
    words = line.removeprefix("It was started with: ").split()
    return dict(word.split("=", 1) for word in words)


def test_a_script_shows_the_wrong_bytes_again_and_what_is_right_instead(bench: Bench):
    path = bench.kata(WRONG) / "solution.py"
    bench.pytest("katas/bell", "-k", "answers", "--repro=scripts")
    script = bench.folder / "scripts" / "bell-answers.py"

    with serving(path, {}) as address:
        wrong = replayed(script, address)
    path.write_text(BELL)
    with serving(path, {}) as address:
        right = replayed(script, address)
    nobody = replayed(script, address)

    assert wrong.returncode == 0, wrong.stdout + wrong.stderr
    assert "visitor -> solution" in wrong.stdout
    assert "'ding word" in wrong.stdout
    assert right.returncode == 1
    assert "differs from the recording at byte 1" in right.stdout
    assert nobody.returncode == 1
    assert nobody.stderr == f"nothing listens on {address}; start your program there\n"


def test_a_script_plays_the_servers_that_the_kit_played(bench: Bench, tmp_path: Path):
    kata, mistake, behaviour = "connection_pool", "return_dirty", "departed_user_no_crosstalk"
    of_the_kit(bench, kata, mistake, behaviour, "--repro=scripts")
    script = bench.folder / "scripts" / f"{kata}-{behaviour}.py"
    environment = environment_in(script)
    reference = subjects.reference(katas.shipped(kata))
    (mutant,) = subjects.choose_mutants(katas.shipped(kata), mistake)
    wrong = subjects.mutate(reference, mutant, tmp_path)

    with serving(wrong.folder / "solution.py", environment) as address:
        again = replayed(script, address)
    with serving(reference.folder / "solution.py", environment) as address:
        right = replayed(script, address)

    assert again.returncode == 0, again.stdout + again.stderr
    assert "redis <- gateway" in again.stdout
    assert right.returncode == 1, "the correct program sends other bytes"
    assert "redis and gateway: differs from the recording" in right.stdout


def test_a_script_says_what_it_leaves_out(bench: Bench):
    bench.kata()
    last = 'Ringer(solution, "visitor").ring("again")'
    bench.behaviours(BEHAVIOURS.replace(last, f'{last}\n    assert False, "never good enough"'))

    bench.pytest("katas/bell", "-k", "sigkill", "--repro=scripts")

    text = (bench.folder / "scripts" / "bell-back_after_sigkill.py").read_text()
    assert "Left out: what was done to the process (solution is killed (SIGKILL)" in text
    assert "'note', b'solution is started again'" in text


# -- beside the reference


def test_a_broken_behaviour_is_told_beside_the_reference(bench: Bench):
    bench.kata(WRONG)

    run = bench.pytest("katas/bell", "-k", "answers", "--compare", "--seed=7")

    _, _, told = run.text.partition("answers: yours │ the reference")
    (parting,) = [line for line in told.splitlines() if line.startswith("≠▶")]
    yours, theirs = parting.split("│")
    same = told.splitlines()[1]
    assert "solution → visitor: ding word" in yours
    assert "solution → visitor: dong word" in theirs
    assert same.startswith("   visitor → solution: ring word"), "what the harness says is the same for both"


def test_without_the_reference_nothing_is_compared(bench: Bench):
    bench.kata(WRONG)
    (bench.home / "reference" / "bell" / "solution.py").unlink()
    (bench.home / "reference" / "bell").rmdir()

    run = bench.pytest("katas/bell", "-k", "answers", "--compare")

    assert run.status == 1
    assert "bell can't be compared: its reference comes with a clone of the kit" in run.text


def test_a_graded_run_compares_nothing(bench: Bench):
    bench.kata(WRONG)
    (bench.folder / "conftest.py").write_text("def pytest_configure(config):\n    config.graded = True\n")

    run = bench.pytest("katas/bell", "--compare")

    assert run.status == 4
    assert "--compare is for practice, and this run is graded" in run.text
    assert not run.results


@pytest.mark.parametrize(
    ("yours", "theirs", "parting"),
    [
        ([["a", "b", "x"], ["b", "a", "1"]], [["a", "b", "x"], ["b", "a", "2"]], "≠▶ b → a: 1"),
        ([["a", "b", "x"]], [["a", "b", "x"], ["b", "a", "y"]], "≠▶"),
        ([["b", "a", "id 12345ab"], ["b", "a", "z"]], [["b", "a", "id 99999cd"]], "≠▶ b → a: z"),
        ([["a", "b", "x"]], [["a", "b", "x"]], None),
    ],
)
def test_where_two_stories_part(yours, theirs, parting):
    """What a program may choose, such as an id, is no parting."""
    lines = list(compare.side_by_side(yours, theirs))

    marked = [line for line, marked in lines if marked]
    assert [line.split("│")[0].rstrip() for line in marked] == ([parting] if parting else [])
