"""The pytest plugin: options, fixtures, verdicts into reports, the map at the end.

It only connects pytest to the engine; what a behaviour is, how programs run and how stories look stands elsewhere.
"""

from __future__ import annotations

import gc
import os
import random
import secrets
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from harness import interrupt, isolating, summary, twin
from harness.behaviour import Behaviour
from harness.collecting import (
    COPIES,
    STAGED,
    Copies,
    KataModule,
    MutantsFile,
    SolutionFile,
    behaviour_of,
    module_of,
)
from harness.evidence import plugin as evidence
from harness.judging import Untouched, blocked_by, judge, late_result, result_of
from harness.results import Result
from harness.running import Programs
from harness.solution.program import Solution, Tripwire
from harness.story.diagram import Row
from harness.story.plain import visible
from harness.story.text import StoryText, tell
from harness.verdicts import Unusable, Verdict

pytest_plugins = ("harness.evidence.plugin",)

T = TypeVar("T")
Wrapper = Generator[None, T, T]  # a hook around hooks

PROGRAMS = pytest.StashKey[Programs]()
RESULTS = pytest.StashKey[list[Result]]()
PAGE = pytest.StashKey[str]()  # what is said of the page at the end
NEXT = pytest.StashKey[pytest.Item | None]()
HALF = pytest.StashKey[twin.First | twin.Second]()  # which end of the run this process works from, if there are two
AHEAD = 25  # items that are looked over for programs to start
FULL_STORIES = 3  # broken behaviours whose diagram is drawn; the others get their sentences, and a way to see theirs


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("backend katas")
    group.addoption(
        "--subject",
        metavar="PATH|reference[:MISTAKE]|mutants[:MISTAKE]",
        help="the program to judge instead of the kata's own solution: a file, a folder, the reference (with one "
        "of its planted mistakes), or the mutants, each with the behaviours that are meant to catch it",
    )
    group.addoption("--seed", type=int, help="the seed of all random data, as a failure prints it")
    group.addoption(
        "--story",
        metavar="text|none|FILE.html",
        default="text",
        help="how broken behaviours are told: as text (the default), in one line each (none), or as text here and, "
        "with everything that was tried, on a page that needs no network",
    )
    group.addoption("--unblocked", action="store_true", help="also try behaviours that need a broken one")
    isolating.add_option(group)
    group.addoption("--results", type=Path, metavar="FILE", help="write the results as JSON")


def pytest_configure(config: pytest.Config) -> None:
    pytest.register_assert_rewrite("harness.behaviours")  # for this run: a warm process imports this file only once
    if config.getoption("seed") is None:
        config.option.seed = _seed_of_controller(config) or secrets.randbelow(10**6)
    programs = Programs(config.getoption("seed"), isolating.chosen(config), taped=evidence.wanted(config))
    if programs.isolation:
        _move_in(programs)
    config.stash[PROGRAMS] = programs
    config.stash[RESULTS] = []
    config.stash[STAGED] = programs.staged
    config.stash[COPIES] = Copies(programs.new_folder)
    _check_story(config.getoption("story"))


def _check_story(wanted: str) -> None:
    """Refuse now what could not be written at the end of the run."""
    if wanted in ("text", "none"):
        return
    path = Path(wanted)
    if path.suffix.lower() not in (".html", ".htm"):
        raise pytest.UsageError(f"--story={wanted} is no way to tell: give text, none, or a file that ends in .html")
    if path.is_dir():
        raise pytest.UsageError(f"--story={wanted} is a folder; give the name of a file, such as {path / 'story.html'}")


def _move_in(programs: Programs) -> None:
    """At some levels the harness itself moves, and can only do so before it has threads and sockets."""
    try:
        programs.new_folder("first")
    except OSError as problem:
        level = programs.isolation.level if programs.isolation else 0
        raise pytest.UsageError(f"--isolation={level} does not work here: {problem}; `kata doctor` says more") from None


def _seed_of_controller(config: pytest.Config) -> int | None:
    worker: dict[str, Any] = getattr(config, "workerinput", {})
    return worker.get("backend_katas_seed")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["backend_katas_seed"] = node.config.getoption("seed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a kata, or a mutant, on one worker: its behaviours share programs and need each other."""
    if config.getoption("dist") != "load" or not all(_is_kata(argument) for argument in config.args):
        return None
    from xdist.scheduler import LoadScopeScheduling

    return LoadScopeScheduling(config, log)


def _is_kata(argument: str) -> bool:
    path = Path(argument.split("::")[0])
    return path.name == "kata.toml" or (path / "kata.toml").exists() or any(path.glob("*/kata.toml"))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name != "kata.toml":
        return None
    if not parent.config.option.collectonly:
        parent.config.stash[PROGRAMS].warm_up(file_path.parent.name)
    wanted = parent.config.getoption("subject") or ""
    kind: type[KataModule] = MutantsFile if wanted.partition(":")[0] == "mutants" else SolutionFile
    return kind.from_parent(parent, path=file_path)


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    if config.option.collectonly:
        return
    if any(map(behaviour_of, session.items)):  # other people's tests are none of our business
        interrupt.install()
        gc.freeze()  # what is here now stays; else the collector walks through it again and again, 5 % of a run
    if not config.stash[PROGRAMS].isolation and twin.useful(config, session.items):
        config.stash[HALF] = first = twin.First(session, _work_from_the_back, _decided, _take_over, _leave)
        config.pluginmanager.register(first)
    _prepare(config, session.items[:1])  # alone: it is waited for at once


def _work_from_the_back(session: pytest.Session, second: twin.Second) -> None:
    """What the twin does, to whom the last item is the first."""
    session.config.stash[HALF] = second
    programs = session.config.stash[PROGRAMS]
    programs.split_off({module_of(item).kata.path.parent.name for item in session.items})
    if last := second.try_all(session.items):
        _leave(last)
    programs.end_all()


def _prepare(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    wanted = ((module_of(item), behaviour) for item in items if (behaviour := behaviour_of(item)))
    config.stash[PROGRAMS].prepare_ahead(wanted)


def _coming(item: pytest.Item) -> Sequence[pytest.Item]:
    """The items that run next, here: on a worker of xdist nobody knows more than one."""
    nextitem = item.config.stash[NEXT]
    if hasattr(item.config, "workerinput"):
        return [nextitem] if nextitem else []
    position, half = item.session.items.index(item) + 1, item.config.stash.get(HALF, None)
    ahead = min(AHEAD, (half.shares.left + 1) // 2) if half else AHEAD  # the rest is for the other end
    return item.session.items[position : position + ahead]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Wrapper[object]:
    item.config.stash[NEXT] = nextitem
    result = yield
    if behaviour_of(item) and (nextitem is None or not behaviour_of(nextitem) or _another_subject(item, nextitem)):
        _leave(item)
    return result


def _leave(item: pytest.Item) -> None:
    """The last behaviour of a subject was tried: look at its tripwires, and stop its programs."""
    for wire in item.config.stash[PROGRAMS].leave(module_of(item)):
        _report_late(wire)


def _report_late(wire: Tripwire) -> None:
    """A behaviour that seemed to hold is broken after all: one more report for it."""
    item = wire.owner
    assert isinstance(item, pytest.Item)
    result = late_result(item, wire.message)
    item.config.stash[RESULTS].append(result)
    report = pytest.TestReport(item.nodeid, item.location, {}, "failed", None, "call")
    report.behaviour = result.to_json()  # type: ignore[attr-defined]
    _attach_story(item.config, report, result)
    half = item.config.stash.get(HALF, None)
    if isinstance(half, twin.Second):
        half.tell_late(report)
    else:
        item.ihook.pytest_runtest_logreport(report=report)


def _another_subject(item: pytest.Item, nextitem: pytest.Item) -> bool:
    return module_of(item).subject != module_of(nextitem).subject


@pytest.fixture
def solution(request: pytest.FixtureRequest) -> Iterator[Solution]:
    """The program under test, ready to be met."""
    item = request.node
    behaviour, programs, module = behaviour_of(item), item.config.stash[PROGRAMS], module_of(item)
    assert behaviour is not None, "the fixture `solution` is for behaviours"
    item.solution = solution = programs.lease(module, behaviour)
    programs.until_ready(solution)
    _prepare(item.config, _coming(item))
    solution.begin(item)
    yield solution
    programs.give_back(module, behaviour, spent=not getattr(item, "held", False))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random data of one behaviour: the same for the same seed, whatever ran before."""
    return random.Random(f"{request.config.getoption('seed')} {request.node.name}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    behaviour = behaviour_of(item)
    if behaviour is None:
        return
    module = module_of(item)
    if module.untouched and not item.config.getoption("unblocked"):
        _refuse_untouched(item, module)
    if why := _blocked(item, behaviour):
        item.blocked = why  # type: ignore[attr-defined]
        pytest.skip(why)


def _blocked(item: pytest.Item, behaviour: Behaviour) -> str:
    """Why a behaviour is not tried now, or ""."""
    module, config = module_of(item), item.config
    if config.stash[PROGRAMS].could_not_start(module):
        return "the solution did not start"
    if module.subject.mutant or config.getoption("unblocked"):
        return ""
    return blocked_by(behaviour, module, config.stash[RESULTS])


def _decided(item: pytest.Item) -> bool:
    behaviour = behaviour_of(item)
    return behaviour is not None and bool(_blocked(item, behaviour))


def _refuse_untouched(item: pytest.Item, module: KataModule) -> None:
    """One sentence instead of a failure for each behaviour."""
    if any(result.kata == module.kata.name for result in item.config.stash[RESULTS]):
        item.blocked = "the skeleton is untouched"  # type: ignore[attr-defined]
        pytest.skip("the skeleton is untouched")
    folder = os.path.relpath(module.kata.folder)
    raise Untouched(f"{folder} holds the skeleton as it came. {module.kata.start} Then: pytest {folder}")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Wrapper[object]:
    if behaviour_of(pyfuncitem) is None:
        return (yield)
    return (yield from judge(pyfuncitem))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Wrapper[pytest.TestReport]:
    report = yield
    if behaviour_of(item) is None or not (call.when == "call" or (call.when == "setup" and not report.passed)):
        return report
    result = result_of(item, call)
    item.config.stash[RESULTS].append(result)
    report.behaviour = result.to_json()  # type: ignore[attr-defined]
    if report.failed:
        report.when = "call"  # a solution that does not start is broken; it is no error of a fixture
        _attach_story(item.config, report, result)
    return report


def _attach_story(config: pytest.Config, report: pytest.TestReport, result: Result) -> None:
    if result.verdict is Verdict.FAULT:
        return  # the traceback is for the authors of the kit
    if config.getoption("story") == "none" or result.untouched:
        report.longrepr = StoryText([Row(visible(result.message))])  # type: ignore[assignment]
        return
    failed = [other for other in config.stash[RESULTS] if other.verdict is Verdict.BROKEN]
    brief = len(failed) > FULL_STORIES and config.getoption("verbose") < 1
    report.longrepr = StoryText(tell(result, brief))  # type: ignore[assignment]


def pytest_report_teststatus(report: Any) -> tuple[str, str, Any] | None:
    table = getattr(report, "behaviour", None)
    if table is None or report.when == "teardown":
        return None
    return summary.status(Result.from_json(table))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: Any) -> None:
    """On xdist's controller: take over the results that came with the reports, and give stories their colour."""
    if hasattr(report, "node"):
        _take_over(report.node.config, report)


def _take_over(config: pytest.Config, report: Any) -> None:
    """What another process has found is a result of this run."""
    table = getattr(report, "behaviour", None)
    if table is None:
        return
    result = Result.from_json(table)
    config.stash[RESULTS].append(result)
    if report.failed:
        _attach_story(config, report, result)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    results = config.stash[RESULTS]
    if results:
        summary.write(terminalreporter, config, results)
    if PAGE in config.stash:
        terminalreporter.write_line(config.stash[PAGE])
    if isolation := config.stash[PROGRAMS].isolation:
        for line in isolating.lines(isolation):
            terminalreporter.write_line(line)
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report, pytest.CollectReport) and report.nodeid.endswith("kata.toml"):
            _, _, why = cast("tuple[str, int, str]", report.longrepr)
            terminalreporter.write_line(why)  # a kata that lacks a package


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    programs = config.stash[PROGRAMS]
    if programs.isolation:
        programs.close()  # nobody who could touch the results is alive when they are written
    path = config.getoption("results")
    if path and not hasattr(config, "workerinput"):
        table = {
            "seed": config.getoption("seed"),
            "isolation": asdict(programs.isolation.findings) if programs.isolation else None,
            "results": [result.to_json() for result in config.stash[RESULTS]],
        }
        isolating.write_results(path, table)
    if config.getoption("story") not in ("text", "none") and not hasattr(config, "workerinput"):
        _write_page(session)


def _write_page(session: pytest.Session) -> None:
    """The page of the run; the terminal says where it is, and a run whose page could not be written has not passed."""
    from harness.story import page  # only now: nobody else pays for the templates

    path, results = Path(session.config.getoption("story")), session.config.stash[RESULTS]
    if not results:
        session.config.stash[PAGE] = f"no behaviour was tried, so {path} was not written"
        return
    try:
        page.write(path, results)
        session.config.stash[PAGE] = f"the page is {path}"
    except OSError as problem:
        session.config.stash[PAGE] = f"the page could not be written: {problem}"
        session.exitstatus = session.exitstatus or pytest.ExitCode.USAGE_ERROR


def pytest_keyboard_interrupt() -> None:
    interrupt.heard()


def pytest_unconfigure(config: pytest.Config) -> None:
    half = config.stash.get(HALF, None)
    if isinstance(half, twin.First):
        half.close()
    programs = config.stash.get(PROGRAMS, None)
    if programs:
        programs.close()


def pytest_sessionstart(session: pytest.Session) -> None:
    subject = session.config.getoption("subject")
    if subject and subject.partition(":")[0] not in {"reference", "mutants"} and not Path(subject).exists():
        raise pytest.UsageError(
            str(Unusable(f"--subject={subject} does not exist; give a folder, a file, reference or mutants"))
        )
