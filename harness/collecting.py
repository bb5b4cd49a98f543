"""Behaviours as pytest items: a `kata.toml` takes the place of a test module, whose body is the kata's behaviours.

Items of the learner's solution are `katas/pubsub/kata.toml::test_wildcards`; those of mutants carry the mutant's
name between, and there is one for each pair of a mutant and a behaviour that is meant to catch it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness import kata as katas
from harness import progress, subjects
from harness.behaviour import Behaviour, tried_last
from harness.kata import Kata
from harness.subjects import Mutant, Subject
from harness.verdicts import Lacking, Unusable, Verdict, verdict_of

NET = 180  # seconds; the net of pytest-timeout under all waiting, never a verdict


class KataModule(pytest.Module):
    """The behaviours of one kata, met by one subject."""

    kata: Kata
    subject: Subject
    untouched = False

    def _getobj(self) -> ModuleType:
        return behaviours_of(self.kata)

    @property
    def peers(self) -> list[type]:
        return list(getattr(self.obj, "PEERS", []))

    @property
    def settings(self) -> dict[str, str]:
        """What every solution is started with, unless its behaviour says otherwise."""
        return {name: str(value) for name, value in getattr(self.obj, "SETTINGS", {}).items()}

    @cached_property
    def hints_taken(self) -> dict[str, int]:
        """How many hints were taken for each behaviour; nobody takes any for another program than the kata's own."""
        own = self.subject.folder == self.kata.folder
        return progress.hints_taken(self.kata.folder, self.kata.name) if own else {}

    def funcnamefilter(self, name: str) -> bool:
        """Of a mutant, only what is meant to catch it."""
        mutant = self.subject.mutant
        return super().funcnamefilter(name) and (mutant is None or name.removeprefix("test_") in mutant.caught_by)

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        items = list(super().collect())
        for item in items:
            item.behaviour = _behaviour(item)  # type: ignore[union-attr]
            item.repr_failure = partial(_message_alone, item.repr_failure)  # type: ignore[method-assign]
            item.add_marker(pytest.mark.timeout(NET))
        return items


class SolutionFile(KataModule):
    """A `kata.toml` when a single program is the subject."""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        try:
            self.kata = katas.read(self.path)
            self.subject = self._chosen(self.config.getoption("subject"))
            _only_one_of_a_name(self)
            items = super().collect()
        except Lacking as problem:
            pytest.skip(str(problem), allow_module_level=True)
        except Unusable as problem:
            raise self.CollectError(str(problem)) from None
        return items if self.config.getoption("isolation") is None else self._hidden_last(items)

    def _hidden_last(self, items: list[pytest.Item | pytest.Collector]) -> list[pytest.Item | pytest.Collector]:
        last = tried_last(declared(self.kata))
        return sorted(items, key=lambda item: item.behaviour.id in last)  # type: ignore[union-attr]

    def _chosen(self, wanted: str | None) -> Subject:
        if not wanted:
            self.untouched = self.kata.untouched
            return replace(subjects.solution(self.kata), folder=self._staged(self.kata.folder))
        word, _, name = wanted.partition(":")
        if word != "reference":
            return subjects.from_path(self.kata, self._staged(Path(wanted)))
        original = subjects.reference(self.kata)
        if not name:
            return replace(original, folder=self._staged(original.folder))
        (mutant,) = subjects.choose_mutants(self.kata, name)
        copies = self.config.stash[COPIES].folder_of(self.kata.name)
        planted = subjects.mutate(original, mutant, copies)
        return replace(planted, folder=self._staged(planted.folder), mutant=None)

    def _staged(self, path: Path) -> Path:
        return path if self.config.option.collectonly else self.config.stash[STAGED](path)


class MutantsFile(KataModule):
    """A `kata.toml` when its mutants are the subjects: a module for each mutant."""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        try:
            self.kata = katas.read(self.path)
            self.subject = subjects.reference(self.kata)
            _only_one_of_a_name(self)
            known = {item.behaviour.id for item in super().collect()}  # type: ignore[union-attr]
            wanted = self.config.getoption("subject").partition(":")[2]
            return [self._module(mutant, known) for mutant in subjects.choose_mutants(self.kata, wanted)]
        except Lacking as problem:
            pytest.skip(str(problem), allow_module_level=True)
        except Unusable as problem:
            raise self.CollectError(str(problem)) from None

    def _module(self, mutant: Mutant, known: set[str]) -> KataModule:
        for name in mutant.caught_by:
            if name not in known:
                near = katas.suggestion(name, known)
                raise Unusable(f"{mutant.origin}: [{mutant.name}] is caught by `{name}`, which is no behaviour{near}")
        module: KataModule = KataModule.from_parent(
            self, path=self.path, name=mutant.name, nodeid=f"{self.nodeid}::{mutant.name}"
        )
        module.kata = self.kata
        scratch = self.config.stash[COPIES]
        planted = subjects.mutate(self.subject, mutant, scratch.folder_of(self.kata.name))
        module.subject = replace(planted, folder=self.config.stash[STAGED](planted.folder))
        return module


class Copies:
    """Where planted copies of references go: one folder a kata, made when first needed."""

    def __init__(self, make_folder: Any) -> None:
        self._make_folder = make_folder
        self._folders: dict[str, Path] = {}

    def folder_of(self, kata: str) -> Path:
        if kata not in self._folders:
            self._folders[kata] = self._make_folder(f"mutants-{kata}")
        return self._folders[kata]


STAGED = pytest.StashKey[Callable[[Path], Path]]()  # from a submission to where it is run
COPIES = pytest.StashKey[Copies]()
SEEN = pytest.StashKey[dict[str, Path]]()


def behaviours_of(kata: Kata) -> ModuleType:
    """The module of a kata's behaviours, found by the kata's name.

    Raises Unusable when there is none, and Lacking when it needs a package of the kata's extra that is not installed.
    """
    known = [path.stem for path in katas.BEHAVIOURS.glob("*.py") if path.stem != "__init__"]
    if kata.name not in known:
        near = katas.suggestion(kata.name, known)
        raise Unusable(f"{kata.path} names an unknown kata, `{kata.name}`{near}; `kata list` shows all of them")
    try:
        return importlib.import_module(f"harness.behaviours.{kata.name}")
    except ModuleNotFoundError as missing:
        if not kata.extra:
            raise
        remedy = f"pip install 'backend-katas[{kata.extra}]'"
        raise Lacking(f"{kata.name} needs {missing.name}, which is not installed: {remedy}") from None


def preload(name: str) -> None:
    """Import what a kata's behaviours import, as far as it is there, in a process that is to know it beforehand."""
    for each in katas.imports_of(name):
        with suppress(ImportError):
            importlib.import_module(each)


def declared(kata: Kata) -> list[Behaviour]:
    """The behaviours of a kata, in the order of its file."""
    known = (getattr(each, "behaviour", None) for each in vars(behaviours_of(kata)).values())
    return [each for each in known if isinstance(each, Behaviour)]


def behaviour_of(item: pytest.Item) -> Behaviour | None:
    """The behaviour that an item tries, None for an ordinary test."""
    return getattr(item, "behaviour", None)


def _behaviour(item: pytest.Item | pytest.Collector) -> Behaviour:
    declared = getattr(getattr(item, "function", None), "behaviour", None)
    if declared is None:
        raise Unusable(f"{item.name} of {item.path} is not declared with @behaviour(stage=..., source=...)")
    assert isinstance(declared, Behaviour)
    return declared


def _message_alone(in_full: Callable[[pytest.ExceptionInfo[Any]], Any], raised: pytest.ExceptionInfo[Any]) -> Any:
    """A story is told of it, not the traceback, for which pytest would parse whole files, 100 ms each time."""
    return in_full(raised) if verdict_of(raised.value) is Verdict.FAULT else str(raised.value)


def _only_one_of_a_name(module: KataModule) -> None:
    seen = module.config.stash.setdefault(SEEN, {})
    other = seen.setdefault(module.kata.name, module.path)
    if other != module.path:
        raise Unusable(
            f"{other} and {module.path} are both named `{module.kata.name}`; rename one, or run one folder at a time"
        )


def modules_above(item: pytest.Item) -> Iterator[KataModule]:
    return (node for node in item.iter_parents() if isinstance(node, KataModule))


def module_of(item: pytest.Item) -> KataModule:
    """The module that an item stands in."""
    return next(modules_above(item))
