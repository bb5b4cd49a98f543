"""`kata explain`: one behaviour with its reasons: where real systems broke it, which mistakes it catches, and, once
it holds, how the reference keeps it."""

from __future__ import annotations

import argparse
import ast
import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness import kata as katas
from harness import progress, subjects
from harness.behaviour import STAGES
from harness.commands import finding
from harness.commands.hint import named
from harness.kata import Kata
from harness.verdicts import Verdict

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from harness.behaviour import Behaviour
    from harness.subjects import Edit, Mutant

WIDTH, LABEL = 100, 12
MOST_PLACES = 3  # of the reference; a behaviour that catches many mistakes is kept in a few places all the same
AROUND = 4  # lines shown on either side of what stands in no function


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    explain = commands.add_parser("explain", help="why a behaviour is asked for", description=__doc__)
    explain.add_argument("name", metavar="NAME", help="a kata of `kata list`")
    explain.add_argument("behaviour", metavar="BEHAVIOUR", help="a behaviour, as a run names it")
    explain.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from harness.collecting import declared

    kata = finding.here().get(options.name) or katas.shipped(options.name)
    behaviour = named(options.behaviour, {each.id: each for each in declared(kata)})
    verdict = progress.verdicts(kata.folder, kata.name).get(behaviour.id, "not tried yet")
    for line in [*_about(kata, behaviour, verdict), *_behind(kata, behaviour, verdict)]:
        print(line)
    return 0


def _about(kata: Kata, behaviour: Behaviour, verdict: str) -> Iterator[str]:
    stage = f"stage {behaviour.stage} {STAGES[behaviour.stage]}"
    yield f"{behaviour.id} ({kata.name}, {stage}, {_number(behaviour.points, 'point')}): {verdict}"
    yield from _tell("promise", behaviour.sentence)
    yield from _tell("source", str(behaviour.source))
    if behaviour.source.url:
        yield f"{'':{LABEL}}{behaviour.source.url}"
    if behaviour.incident:
        yield from _tell("out there", behaviour.incident)
    if behaviour.needs:
        yield from _tell("builds on", ", ".join(behaviour.needs))
    if behaviour.hints:
        taken = progress.hints_taken(kata.folder, kata.name).get(behaviour.id, 0)
        most = _number(len(behaviour.hints), "hint")
        yield from _tell("hints", f"{taken} of {most} taken; kata hint {kata.name} {behaviour.id}")


def _behind(kata: Kata, behaviour: Behaviour, verdict: str) -> Iterator[str]:
    """What only a clone of the kit knows: mistakes, and the reference."""
    if not (katas.REFERENCES / kata.name).is_dir():
        yield from _tell("catches", "mistakes that come with a clone of the kit, as the reference does")
        return
    caught = [mutant for mutant in subjects.mutants(kata) if behaviour.id in mutant.caught_by]
    for number, mutant in enumerate(caught):
        yield from _tell("" if number else "catches", f"- {mutant.because}")
    if verdict == Verdict.HOLDS:
        yield from _shown(kata, caught)
    else:
        yield from _tell("reference", "how it is done there is shown once this holds")


def _shown(kata: Kata, caught: list[Mutant]) -> Iterator[str]:
    """The places of the reference that these mistakes would spoil, most spoilt first."""
    edits = [edit for mutant in caught for edit in mutant.edits]
    places = Counter(_place(kata, edit) for edit in edits).most_common(MOST_PLACES)
    for (file, name, code), _ in places:
        yield from ("", f"reference/{kata.name}/{file}" + (f", {name}" if name else ""))
        yield from code.splitlines()


def _place(kata: Kata, edit: Edit) -> tuple[str, str, str]:
    """File, name and text of the function that an anchor stands in; of the lines around it where there is none."""
    text = (katas.REFERENCES / kata.name / edit.file).read_text(encoding="utf-8")
    lines = text.splitlines()
    start = text[: text.index(edit.find)].count("\n") + edit.find[: len(edit.find) - len(edit.find.lstrip())].count(
        "\n"
    )
    line = start + 1
    inside = [each for each in _functions(text) if each.lineno <= line <= (each.end_lineno or each.lineno)]
    if not inside:
        first, last = max(start - AROUND, 0), start + edit.find.strip().count("\n") + 1 + AROUND
        return edit.file, "", textwrap.dedent("\n".join(lines[first:last]))
    function = max(inside, key=lambda each: each.lineno)
    begin = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return edit.file, f"{function.name}()", textwrap.dedent("\n".join(lines[begin - 1 : function.end_lineno]))


def _functions(text: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    try:
        tree = ast.parse(text)
    except SyntaxError:  # another language
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _tell(word: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{word:<{LABEL}}",
        subsequent_indent=" " * (LABEL + 2 * text.startswith("- ")),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _number(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
