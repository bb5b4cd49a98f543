"""What a greeter owes its visitors: the behaviours of the kata `kata_name`."""

from __future__ import annotations

import random

import pytest

from harness.behaviour import Source, behaviour, hints, rfc
from harness.solution.program import Solution
from harness.wire.http1 import Request, Response


class Greeter:
    """The solution in the words of this kata."""

    def __init__(self, solution: Solution, chance: random.Random) -> None:
        self.solution = solution
        self.name = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))

    def get(self, path: str) -> Response:
        return Request(self.solution, "visitor", "GET", path, []).response()


@pytest.fixture
def greeter(solution: Solution, chance: random.Random) -> Greeter:
    return Greeter(solution, chance)


def assert_greeted(reply: Response, name: str) -> None:
    assert reply.status == 200, f"200 is owed, and came {reply}"
    assert reply.json() == {"greeting": f"Hello, {name}!"}, "a visitor is greeted by name"


@behaviour(stage=1, source=Source("README G1, the greeting"))
@hints("Who is named?", "The name is the last part of the path.", "Answer json.dumps({'greeting': ...}) with 200.")
def test_greets_by_name(greeter: Greeter) -> None:
    """A visitor is greeted by the name in the path."""
    reply = greeter.get(f"/greetings/{greeter.name}")

    assert_greeted(reply, greeter.name)


@behaviour(stage=2, source=rfc(9110, "15.5.5", "404 Not Found"), needs="greets_by_name")
def test_unknown_path_404(greeter: Greeter) -> None:
    """A path that nobody has defined is 404, beside one that is greeted."""
    unknown = greeter.get(f"/farewells/{greeter.name}")
    known = greeter.get(f"/greetings/{greeter.name}")

    assert unknown.status == 404, f"404 is owed for an unknown path, and came {unknown}"
    assert_greeted(known, greeter.name)
