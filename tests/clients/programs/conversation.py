"""A client's side of the conversation with a test: a list of requests a line, a list of outcomes a line."""

import json
import sys
from collections.abc import Callable
from typing import Any

Outcome = dict[str, Any]


def outcome(status: int, headers: dict[str, str], body: bytes) -> Outcome:
    lower = {key.lower(): value for key, value in headers.items()}
    return {"status": status, "headers": lower, "body": body.decode()}


def converse(carry_out: Callable[[list[dict[str, Any]]], list[Outcome]]) -> None:
    for line in sys.stdin:
        print(json.dumps(carry_out(json.loads(line))), flush=True)


def each(send: Callable[[dict[str, Any]], Outcome], expected: type[Exception] | tuple[type[Exception], ...]):
    """Carry out a list one by one; an error that the client documents is an outcome, any other a fault of the test."""

    def one(request: dict[str, Any]) -> Outcome:
        try:
            return send(request)
        except expected as error:
            return {"error": f"{type(error).__name__}: {error}"}

    return lambda requests: [one(request) for request in requests]
