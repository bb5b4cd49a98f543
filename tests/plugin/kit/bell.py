"""What a bell owes those who ring it: the behaviours of a kata that only these tests know.

A line `ring WORD` is answered by `dong WORD`, a line `hush WORD` by nothing.
"""

from __future__ import annotations

import random

import pytest

from harness.behaviour import Source, behaviour, hints
from harness.solution.program import Solution
from harness.wire.tcp import Connection

RULES = Source("The rules of bells §1", "https://bells.example/rules#1")


class Ringer:
    """Somebody at the door."""

    def __init__(self, solution: Solution, name: str) -> None:
        self.solution, self.name = solution, name
        self.connection = solution.connect(name)
        self.connection.on_bytes = self._listen
        self.heard: list[str] = []

    def say(self, line: str, padding: int = 0) -> None:
        data = f"{line} {'x' * padding}".strip().encode() + b"\n"
        self.solution.record.add("message", self.name, "solution", line, data, self.name)
        self.connection.send(data)

    def until_heard(self, line: str) -> None:
        self.solution.until(lambda: self.heard or self.connection.ended, line, self.name)
        heard = self.heard.pop(0) if self.heard else "the end of the connection"
        assert heard == line, f"{self.name} is owed `{line}`, not `{heard}`"

    def ring(self, word: str) -> None:
        self.say(f"ring {word}")
        self.until_heard(f"dong {word}")

    def _listen(self, connection: Connection) -> None:
        while (end := connection.inbox.find(b"\n")) >= 0:
            line = bytes(connection.inbox[:end])
            del connection.inbox[: end + 1]
            label = line.decode(errors="replace")
            self.solution.record.add("message", "solution", self.name, label, line, self.name)
            self.heard.append(label)


@pytest.fixture
def visitor(solution: Solution) -> Ringer:
    return Ringer(solution, "visitor")


@behaviour(stage=1, source=RULES)
@hints("Read a line.", "Answer it.")
def test_answers(visitor: Ringer, chance: random.Random) -> None:
    """A bell that is rung answers with the word it was rung with."""
    visitor.ring(f"word{chance.randrange(10**9)}")


@behaviour(stage=1, source=RULES, needs="answers")
@pytest.mark.parametrize("word", ["high", "low"])
def test_answers_each(visitor: Ringer, word: str) -> None:
    """Every word is as good as any other."""
    visitor.ring(word)


@behaviour(stage=2, source=RULES, needs="answers")
def test_hushed(solution: Solution, visitor: Ringer) -> None:
    """A bell that is hushed stays silent."""
    visitor.connection.stays = True
    visitor.ring("first")
    visitor.say("hush now")
    visitor.ring("last")
    solution.settled()
    assert not visitor.heard, f"the visitor is owed silence, not `{visitor.heard[0]}`"
    solution.leave_tripwire(lambda: bool(visitor.heard), "the visitor was owed silence, and was answered late")


@behaviour(stage=4, source=RULES, needs="answers", alone=True)
def test_back_after_sigkill(solution: Solution) -> None:
    """A bell that was killed answers again once it is started again."""
    solution.kill()
    solution.restart()
    Ringer(solution, "visitor").ring("again")
