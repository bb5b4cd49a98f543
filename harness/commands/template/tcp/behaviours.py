"""What a greeter owes its visitors: the behaviours of the kata `kata_name`."""

from __future__ import annotations

import random

import pytest

from harness.behaviour import Source, behaviour, hints
from harness.solution.program import Solution


class Visitor:
    """A client of the greeter, in the words of this kata."""

    def __init__(self, solution: Solution, chance: random.Random) -> None:
        self.solution = solution
        self.name = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))
        self.connection = solution.connect("visitor")

    def say(self, text: str) -> None:
        data = text.encode()
        self.solution.record.add(
            "message", "visitor", self.solution.record.solution, text.replace("\n", "␊"), data, "visitor"
        )
        self.connection.send(data)

    def hear(self) -> str:
        """Wait for a line, and take it."""
        inbox = self.connection.inbox
        self.solution.until(lambda: b"\n" in inbox or self.connection.ended, "a line", "visitor")
        line, _, rest = bytes(inbox).partition(b"\n")
        inbox[:] = rest
        self.solution.record.add("message", self.solution.record.solution, "visitor", repr(line)[2:-1], line, "visitor")
        return line.decode(errors="replace")


@pytest.fixture
def visitor(solution: Solution, chance: random.Random) -> Visitor:
    return Visitor(solution, chance)


@behaviour(stage=1, source=Source("README G1, the greeting"))
@hints("Who is named?", "The name follows HELLO and a space.", "Write WELCOME, a space, the name, and a line feed.")
def test_greets_by_name(visitor: Visitor) -> None:
    """A visitor who says hello is welcomed by name."""
    visitor.say(f"HELLO {visitor.name}\n")

    assert visitor.hear() == f"WELCOME {visitor.name}", "a visitor is welcomed by name"


@behaviour(stage=2, source=Source("README G2, a stream of bytes"), needs="greets_by_name")
def test_lines_in_one_segment(visitor: Visitor) -> None:
    """Lines that arrive together are each answered, in order."""
    names = [f"{visitor.name}{number}" for number in range(3)]

    visitor.say("".join(f"HELLO {name}\n" for name in names))

    welcomed = [visitor.hear() for _ in names]
    assert welcomed == [f"WELCOME {name}" for name in names], "each line is answered, in order"
