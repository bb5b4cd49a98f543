"""The options that let a learner take a broken behaviour home: --pcap, --repro, --compare."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from harness import waiting
from harness.collecting import module_of
from harness.evidence import compare, folder, pcapng, script
from harness.evidence.capture import capture
from harness.results import Result
from harness.solution.program import Solution
from harness.verdicts import Unusable, Verdict
from harness.wire.tape import Tape

TOLD = (Verdict.BROKEN, Verdict.NOT_REACHED, Verdict.LIMIT)
MOST_COMPARED = 3  # behaviours that are told beside the reference


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("backend katas")
    group.addoption(
        "--pcap", type=Path, metavar="DIR", help="write each broken behaviour's bytes as a capture for Wireshark"
    )
    group.addoption(
        "--repro", type=Path, metavar="DIR", help="write each broken behaviour as a script that replays it alone"
    )
    group.addoption(
        "--compare", action="store_true", help="tell the first broken behaviours beside what the reference does"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("compare"):
        config.pluginmanager.register(Comparing())


def wanted(config: pytest.Config) -> bool:
    """Whether every byte has to be kept."""
    return bool(config.getoption("pcap") or config.getoption("repro"))


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.getoption("compare") and getattr(session.config, "graded", False):
        raise pytest.UsageError("--compare is for practice, and this run is graded; leave it out")
    for option in ("pcap", "repro"):
        if path := session.config.getoption(option):
            try:
                folder.prepare(path, f"--{option}")
            except Unusable as problem:
                raise pytest.UsageError(str(problem)) from None


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of the wrapper that makes the result
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    solution: Solution | None = getattr(item, "solution", None)
    if solution is None or not hasattr(report, "behaviour"):
        return report
    result, tape = Result.from_json(report.behaviour), solution.network.tape
    if result.verdict not in TOLD:
        return report
    if tape and tape.movements:
        kept = [*_captured(item, tape, result), *_scripted(item, solution, tape, result)]
        report.sections.append(("kept", "\n".join(kept)))
    return report


class Comparing:
    """Tells what was broken beside the reference, at the end of the run."""

    def __init__(self) -> None:
        self._broken: dict[str, list[Result]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Where all reports arrive, also those of workers."""
        result = Result.from_json(report.behaviour) if hasattr(report, "behaviour") else None
        if result and result.verdict in TOLD and result.subject == "solution" and not result.untouched:
            self._broken.setdefault(result.kata, []).append(result)

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        for kata, broken in self._broken.items():
            if not compare.there_is_a_reference(kata):
                terminalreporter.write_line(f"{kata} can't be compared: its reference comes with a clone of the kit")
                continue
            met = compare.meet_again(broken[:MOST_COMPARED], config.getoption("seed"), config.getoption("plugins"))
            for result, (yours, theirs) in zip(broken, met, strict=False):
                terminalreporter.write_sep("-", f"{result.behaviour}: yours │ the reference")
                if not (yours and theirs):
                    terminalreporter.write_line(
                        f"{'the reference' if yours else 'the solution'} could not be met again"
                    )
                    continue
                for line, parting in compare.side_by_side(yours, theirs):
                    terminalreporter.write_line(line, red=parting, bold=parting)


def _captured(item: pytest.Item, tape: Tape, result: Result) -> list[str]:
    if not (place := item.config.getoption("pcap")):
        return []
    began = waiting.unix_time() - (waiting.now() - tape.record.began)
    content = capture(tape, result, module_of(item).kata.speaks, began)
    return [_put(place / f"{_name(result)}.pcapng", content, pcapng.is_ours)]


def _scripted(item: pytest.Item, solution: Solution, tape: Tape, result: Result) -> list[str]:
    if not (place := item.config.getoption("repro")):
        return []
    path = place / f"{_name(result)}.py"
    text = script.script(tape, result, solution.told(), path.name)
    if not text:
        return [f"{path} was not written: more than {script.MOST_BYTES >> 20} MiB moved; --pcap keeps them"]
    return [_put(path, text.encode(), script.is_ours)]


def _put(path: Path, content: bytes, is_ours: Callable[[bytes], bool]) -> str:
    return folder.put(path, content, is_ours) or str(path)


def _name(result: Result) -> str:
    """KATA-BEHAVIOUR, and the case of a parametrized one, as the name of a file."""
    words = [result.kata, result.behaviour, *([result.case] if result.case else [])]
    return "-".join(re.sub(r"[^\w.-]+", "_", word)[:80] for word in words)
