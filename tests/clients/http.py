"""HTTP clients that nobody here wrote, all told in the same words: a list of requests, an outcome for each.

A list is sent on one session, one request after the other, so that its connection may be used again.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass, field
from typing import Any

from .child import Child, Turn

NEEDS = {
    "with_http_client.py": "",
    "with_httpx.py": "module httpx",
    "with_requests.py": "module requests",
    "with_urllib3.py": "module urllib3",
    "with_curl.py": "command curl",
    "with_fetch.mjs": "command node",
}
CLIENTS = tuple(NEEDS)


def missing(client: str) -> str:
    """What the client lacks here, "" when it can run."""
    kind, _, name = NEEDS[client].partition(" ")
    if kind == "module" and importlib.util.find_spec(name) is None:
        return f"{name} is not installed"
    if kind == "command" and shutil.which(name) is None:
        return f"{name} is not installed"
    return ""


@dataclass(frozen=True)
class Outcome:
    """A complete response, or the client's own word for why there is none."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    error: str = ""


class HttpClient(Child):
    """One of CLIENTS."""

    def __init__(self, name: str, turn: Turn, url: str) -> None:
        super().__init__(name, turn)
        self.url = url

    def begin(self, *requests: dict[str, Any]) -> None:
        """Send them without waiting: each has `path`, and maybe `method`, `headers`, `body` and `timeout`."""
        told = [{"method": "POST", "headers": {}, "body": "", "timeout": 30, **request} for request in requests]
        self.tell([request | {"url": self.url + request["path"]} for request in told])

    def outcomes(self) -> list[Outcome]:
        return [Outcome(**each) for each in self.told()]

    def outcome(self) -> Outcome:
        (only,) = self.outcomes()
        return only

    def send(self, **request: Any) -> Outcome:
        self.begin(request)
        return self.outcome()
