"""The attacks: what each submission tries, where it must be held, and which fact shows that it was."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from commands.conftest import Clone
from grading import attacks as on_grading
from grading.classroom import Classroom

from harness import kata as katas
from harness.proof import programs

from .stage import Outcome, Stage

Check = Callable[[Outcome], str]  # why it was not held, "" when it was
ALL, CONFINED, NETWORK, OWN_FILES = (0, 1, 2, 3), (1, 2, 3), (2, 3), (3,)
FEW = "handshake or pub_sub_roundtrip or wildcards or unsub_stops"
HOSTILE = "open('CANARY', 'w').write('run by the grader')\n"


def honest_part_holds(outcome: Outcome) -> str:
    if outcome.loot:
        return outcome.loot.replace("LOOT", "it got", 1)
    return _all_but(outcome, {})


def nothing_holds(outcome: Outcome) -> str:
    held = [name for name, verdict in outcome.verdicts.items() if verdict == "holds"]
    return outcome.loot or (f"{', '.join(held)} hold" if held else "")


def nothing_is_got(outcome: Outcome) -> str:
    return outcome.loot.replace("LOOT", "it got", 1)


def _all_but(outcome: Outcome, other: Mapping[str, str]) -> str:
    if not outcome.verdicts:
        return "there are no results"
    for name, verdict in outcome.verdicts.items():
        wanted = other.get(name, "holds")
        if verdict != wanted:
            return f"{name}: {verdict}, not {wanted} ({outcome.messages[name][:120]})"
    return ""


def only_wildcards(verdict: str, words: str) -> Check:
    """That behaviour pays for it; the others are graded."""

    def check(outcome: Outcome) -> str:
        told = outcome.messages.get("wildcards", "")
        return _all_but(outcome, {"wildcards": verdict}) or ("" if words in told else f"it is told as: {told}")

    return check


def limit(which: str) -> Check:
    def check(outcome: Outcome) -> str:
        told = [message for name, message in outcome.messages.items() if outcome.verdicts[name] == "limit"]
        if any(message.startswith(f"{which}:") for message in told):
            return nothing_holds(outcome)
        return f"no behaviour hit that limit: {outcome.messages}"

    return check


def disk_or_time(outcome: Outcome) -> str:
    """A slow disk never gets to the bound before the start is over; that is a bound too."""
    late = all(
        "did not listen" in words or words == "the solution did not start" for words in outcome.messages.values()
    )
    return nothing_holds(outcome) if outcome.messages and late else limit("disk")(outcome)


def only_handshake_may_hold(outcome: Outcome) -> str:
    held = [name for name, verdict in outcome.verdicts.items() if verdict == "holds" and name != "handshake"]
    return outcome.loot or (f"{', '.join(held)} hold" if held else "" if outcome.verdicts else "there are no results")


def says(words: str) -> Check:
    def check(outcome: Outcome) -> str:
        told = " ".join(outcome.messages.values())
        return nothing_holds(outcome) or ("" if words in told else f"it is told as: {told[:200]}")

    return check


def seen(kind: str, words: str) -> Check:
    """It came to nothing, and stands in the results; at level 3 what a program leaves ends with its namespace."""

    def check(outcome: Outcome) -> str:
        if kind == "left" and outcome.findings["level"] == 3:
            return honest_part_holds(outcome)
        noted = " ".join(outcome.findings.get(kind, []))
        return honest_part_holds(outcome) or ("" if words in noted else f"nobody noted it: {noted}")

    return check


@dataclass(frozen=True)
class Attack:
    number: int
    what: str
    submission: str = ""
    claims: tuple[int, ...] = ALL
    check: Check = honest_part_holds
    kata: str = "pubsub"
    only: str = FEW
    files: Mapping[str, str] = field(default_factory=dict)
    build: bool = False
    once: bool = False  # it is the harness that holds it, the same at all levels: run at the highest
    unclaimed: bool = True  # whether it may be tried where nobody claims to hold it

    def run(self, level: int) -> str:
        """Why it was not held at that level, "" when it was."""
        stage = Stage()
        try:
            folder = stage.submission(self.submission, self.kata, self.files, self.build)
            outcome = stage.grade(folder, self.kata, level, self.only)
        finally:
            stage.close()
        return "; ".join(dict.fromkeys(outcome.harm)) or self.check(outcome)


@dataclass(frozen=True)
class AttackOnGrading:
    """One that is carried out on a whole batch: results, archives, metadata (tests/grading/attacks.py)."""

    number: int
    claims: tuple[int, ...] = ALL
    submission: str = ""
    once: bool = False
    unclaimed: bool = True

    @property
    def what(self) -> str:
        told = on_grading.ATTACKS[self.number].__doc__ or ""
        return told.partition(": ")[2].strip().removesuffix(".")

    def run(self, level: int) -> str:
        with tempfile.TemporaryDirectory(prefix="kata-attack-") as folder:
            kit = Clone(Path(folder, "kit"))
            kit.kata("new", "door", "--speaks", "tcp")
            classroom = Classroom(kit, Path(folder, "classroom"), "--isolation", str(level))
            return on_grading.ATTACKS[self.number](classroom)


SETTINGS = {
    "conftest.py": HOSTILE,
    "pytest.ini": "[pytest]\naddopts = --collect-only\n",
    "tox.ini": "[pytest]\naddopts = --collect-only\n",
    "setup.cfg": "[tool:pytest]\naddopts = --collect-only\n",
    "pyproject.toml": '[tool.pytest.ini_options]\naddopts = "--collect-only"\n',
}
SHADOW = f"import os, sys\nif 'pytest' in sys.argv[0] or '_pytest' in sys.modules:\n    {HOSTILE}"
SHADOWED = ("pytest.py", "_pytest/__init__.py", "harness/__init__.py", "sitecustomize.py", "usercustomize.py")
SHADOWS = dict.fromkeys(SHADOWED, SHADOW)
VARIABLES = {
    ".env": "PYTEST_ADDOPTS=--collect-only\nPYTEST_PLUGINS=attack\nLD_PRELOAD=./attack.so\n",
    ".bashrc": "export PYTEST_ADDOPTS=--collect-only\n",
    "venv/bin/activate": "export PYTHONPATH=.\n",
}

ATTACKS: list[Attack | AttackOnGrading] = [
    *(AttackOnGrading(number, CONFINED) for number in (7, 9, 10)),  # at level 0, without root, it runs as the grader
    *(AttackOnGrading(number) for number in (8, 40, 41, 42, 43)),
    *(AttackOnGrading(number, once=True) for number in (18, 21, 22, 38)),
    Attack(1, "exits with 0 when it is imported", "a01_exits_at_import", check=says("exited with status 0")),
    Attack(2, "kills itself in one behaviour", "a02_dies_in_the_middle", check=only_wildcards("broken", "SIGKILL")),
    Attack(3, "brings settings of pytest along", "a03_configuration_of_pytest", files=SETTINGS),
    Attack(4, "shadows pytest and the kit", "a03_configuration_of_pytest", files=SHADOWS),
    Attack(5, "installs a .pth file", "a05_installs_into_the_environment", claims=CONFINED, build=True),
    Attack(6, "sets the grader's variables", "a03_configuration_of_pytest", files=VARIABLES),
    Attack(11, "prints a verdict of its own", "a11_prints_a_verdict", check=nothing_holds),
    Attack(12, "writes to inherited descriptors", "a12_inherited_descriptors"),
    Attack(13, "answers without an end", "a13_endless_answer", check=limit("output"), only="handshake"),
    Attack(14, "prints what breaks a terminal, HTML and XML", "a11_prints_a_verdict", check=nothing_holds),
    Attack(15, "prints lines that look like results", "a11_prints_a_verdict", check=nothing_holds),
    Attack(16, "looks for the grader's arguments in /proc", "a16_walks_proc", claims=CONFINED),
    Attack(17, "reads behaviours, references and others' work", "a17_reads_the_hidden_tests", claims=CONFINED),
    Attack(
        19,
        "behaves well to its first guest only",
        "a19_behaves_to_its_first_guest",
        check=only_handshake_may_hold,
        once=True,
    ),
    Attack(20, "leaks by TCP", "a20_leaks_by_tcp", claims=CONFINED),
    Attack(20, "leaks by UDP", "a20_leaks_by_udp", claims=NETWORK),
    Attack(20, "leaks by an abstract socket", "a20_leaks_by_abstract_socket", claims=CONFINED),
    Attack(20, "leaks by a Unix socket that is open to all", "a20_leaks_by_unix_socket", claims=OWN_FILES),
    Attack(20, "leaks by AF_VSOCK", "a20_leaks_by_vsock", claims=CONFINED),
    Attack(23, "leaves files for the next run", "a23_stays_for_the_next_run", claims=NETWORK),
    Attack(24, "is a fork bomb", "a24_fork_bomb", check=limit("processes")),
    Attack(25, "takes all memory", "a25_memory_balloon", check=limit("memory")),
    Attack(25, "takes all memory by many, and by shared pages", "a25_memory_of_many", check=limit("memory")),
    Attack(26, "runs for ever in one request", "a26_never_answers_one", check=only_wildcards("limit", "time:")),
    Attack(26, "ignores SIGTERM", "a26_ignores_sigterm", only="handshake"),
    Attack(27, "prints without an end", "a27_endless_output", check=limit("output")),
    Attack(27, "fills the disk", "a27_fills_the_disk", check=limit("disk")),
    Attack(27, "makes a million files", "a27_a_million_files", check=disk_or_time),
    Attack(28, "uses up all descriptors", "a28_descriptors"),
    Attack(29, "leaves a daemon", "a29_leaves_a_daemon", check=seen("left", "process")),
    Attack(30, "changes and deletes others' work", "a30_reaches_outside_of_its_folder", claims=CONFINED),
    Attack(31, "signals, traces and limits the grader", "a31_attacks_the_grader", claims=CONFINED, unclaimed=False),
    Attack(31, "signals everybody", "a31_kills_everybody", claims=CONFINED, unclaimed=False),
    Attack(
        32, "takes over a port of the harness", "a32_takes_over_a_port", kata="idempotency", only="create_charges_once"
    ),
    Attack(
        33,
        "runs the real product that is installed (one that it brings along is for a reader to find)",
        "a33_runs_the_product",
        claims=CONFINED,
        check=nothing_holds,
    ),
    Attack(34, "asks another server", "a34_asks_somebody_else", claims=NETWORK, check=seen("tampering", "outside")),
    Attack(35, "knows the answers of another run", "a35_knows_the_answers", check=only_handshake_may_hold, once=True),
    *(
        Attack(
            36,
            f"answers everything alike: `{path.stem}`",
            files={"attack.py": path.read_text(encoding="utf-8")},
            check=nothing_holds,
            once=True,
        )
        for path in programs.null_programs(katas.shipped("pubsub"))
    ),
    Attack(37, "shifts its clock by a day", "a37_shifts_its_clock", once=True),
    Attack(39, "looks whether it is graded", "a39_notices_the_grader"),
    Attack(44, "sends a byte now and then", "a44_trickles", check=nothing_holds, only="handshake", once=True),
    Attack(44, "hangs up at once", "a44_hangs_up_early", check=nothing_holds),
    Attack(45, "builds with malice", "a45_builds_with_malice", claims=CONFINED, build=True),
]
