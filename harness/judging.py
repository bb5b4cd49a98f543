"""From what a behaviour did to what is said of it.

A mutant is judged the other way round: its behaviour must be broken. Only a broken promise counts as caught; a
scene that could not be set, a limit or a fault of the kit proves nothing.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.behaviour import Behaviour
from harness.collecting import KataModule, behaviour_of, module_of
from harness.results import Result
from harness.story.fold import essential, fold, shorten_middle
from harness.story.plain import shorten
from harness.verdicts import Broken, LimitReached, NotShown, Verdict, verdict_of

MESSAGE_WIDTH, DETAIL_LINES, DETAIL_WIDTH = 800, 8, 400
STORY_EVENTS = 100, 300  # at its beginning and at its end; what is between is counted
INTROSPECTION = re.compile(r"\s*\+ +(where|and) ")
UNHELPFUL = ("Use -v to get", "Full diff", "(pytest_assertion plugin")


class Survived(Broken):
    """A planted mistake was not noticed by a behaviour that is meant to catch it."""


class Untouched(Broken):
    """The folder still holds the skeleton; the message says where to start."""


def judge(item: pytest.Function) -> Generator[None, Any, object]:
    """Run a behaviour; it holds only if the solution is alive and at rest afterwards."""
    error: BaseException | None = None
    outcome: object = None
    solution = getattr(item, "solution", None)
    try:
        with _plain_comparisons(item.config):
            outcome = yield
        if solution:
            solution.conclude()
        item.held = True  # type: ignore[attr-defined]
    except NotShown as unseen:
        pytest.skip(str(unseen))
    except Exception as raised:
        error = raised
        if solution and (limit := solution.exceeded()):
            error = LimitReached(limit)
        elif solution and isinstance(raised, AssertionError):
            solution.explain(raised)
    mutant = module_of(item).subject.mutant
    if mutant is None:
        if error:
            raise error
        return outcome
    if verdict_of(error) is Verdict.BROKEN:
        item.caught = str(error)  # type: ignore[attr-defined]
        return True
    if error is None:
        raise Survived(f"the mistake [{mutant.name}] was not noticed: {mutant.because}")
    raise error


@contextmanager
def _plain_comparisons(config: pytest.Config) -> Iterator[None]:
    """What differs is told without colours: they would be shown as the control characters that they are."""
    writer = config.get_terminal_writer()
    before, writer.code_highlight = writer.code_highlight, False
    try:
        yield
    finally:
        writer.code_highlight = before


def blocked_by(behaviour: Behaviour, module: KataModule, results: list[Result]) -> str:
    """Why a behaviour would say nothing new now, or ""."""
    unmet = {
        result.behaviour
        for result in results
        if result.kata == module.kata.name and result.verdict is not Verdict.HOLDS
    }
    needed = [name for name in behaviour.needs if name in unmet]
    return f"needs {needed[0]}" if needed else ""


def late_result(item: pytest.Item, message: str) -> Result:
    """The result of a behaviour whose tripwire was tripped after it had held."""
    result = describe(item)
    result.verdict, result.message = Verdict.BROKEN, f"{message}, when the run was nearly over"
    return result


def result_of(item: pytest.Item, call: pytest.CallInfo[Any]) -> Result:
    """The result of an item whose call, or failed setup, has just ended."""
    result = describe(item)
    result.seconds = call.duration
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, pytest.skip.Exception):
        result.verdict = Verdict.BLOCKED if hasattr(item, "blocked") else Verdict.SKIPPED
        result.message = str(error.msg)
    elif error:
        result.verdict = verdict_of(error)
        result.message, result.detail = _message(error)
        if result.verdict is Verdict.FAULT:
            kind = type(error).__name__
            result.message = f"a fault of the kit, not of the solution: {kind}: {result.message}"
        result.untouched = isinstance(error, Untouched)
        _take_story(item, result)
    return result


def describe(item: pytest.Item) -> Result:
    """What is known of a behaviour whatever comes of it."""
    behaviour, module = behaviour_of(item), module_of(item)
    assert behaviour is not None
    mutant = module.subject.mutant
    return Result(
        kata=module.kata.name,
        folder=_relative(module.kata.folder),
        subject=module.subject.name,
        behaviour=behaviour.id,
        case=item.callspec.id if hasattr(item, "callspec") else "",
        sentence=behaviour.sentence,
        stage=behaviour.stage,
        points=behaviour.points,
        hidden=behaviour.hidden,
        source=str(behaviour.source),
        url=behaviour.source.url,
        hints=list(behaviour.hints),
        mutant=mutant.name if mutant else "",
        because=mutant.because if mutant else "",
        isolation=None if (level := item.config.getoption("isolation")) is None else int(level),
        replay=_replay(item, module, behaviour),
    )


def _message(error: BaseException) -> tuple[str, list[str]]:
    lines = str(error).splitlines() or [type(error).__name__]
    lines[1:1] = getattr(error, "__notes__", [])
    detail = [shorten(line, DETAIL_WIDTH) for line in lines[1:] if line.strip() and not _unhelpful(line)]
    return shorten(lines[0], MESSAGE_WIDTH), detail[:DETAIL_LINES]


def _unhelpful(line: str) -> bool:
    return bool(INTROSPECTION.match(line)) or any(words in line for words in UNHELPFUL)


def _take_story(item: pytest.Item, result: Result) -> None:
    solution = getattr(item, "solution", None)
    if solution is None:
        return
    record = solution.record
    if result.verdict is Verdict.BROKEN:
        record.break_here()
    told = shorten_middle(fold(essential(record.events)), *STORY_EVENTS)
    result.story = [event.to_json() for event in told]
    result.solution_name = record.solution
    result.output = solution.output()


def _replay(item: pytest.Item, module: KataModule, behaviour: Behaviour) -> str:
    words = ["pytest", _relative(module.kata.folder), "-k", behaviour.id]
    wanted = item.config.getoption("subject")
    if module.subject.mutant:
        wanted = f"mutants:{module.subject.mutant.name}"
    if wanted:
        words.append(f"--subject={wanted}")
    if item.config.getoption("isolation"):
        words.append(f"--isolation={item.config.getoption('isolation')}")
    return shlex.join([*words, f"--seed={item.config.getoption('seed')}"])


def _relative(folder: Path) -> str:
    return os.path.relpath(folder)
