"""The reference poller and a real server of documents: nginx, with validators, redirects and refusals of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from peers.foreign import NO_KATA, require, running
from peers.stage import PATIENCE

from harness.solution.program import Solution
from harness.solution.scratch import Scratch
from harness.subjects import Subject

from .launch import reference

pytestmark = pytest.mark.oracle
PROGRAMS = Path(__file__).parent / "programs"
QUICK = {"interval_ms": 10, "backoff_base_ms": 10, "backoff_cap_ms": 10}


@pytest.fixture
def nginx() -> Iterator[Solution]:
    require("nginx", "nginx-light")
    scratch = Scratch()
    with running(NO_KATA, Subject("nginx", PROGRAMS, ("python", "nginx_files.py")), scratch, {}) as solution:
        yield solution
    scratch.close()


class Poller:
    """The reference, by its surface."""

    def __init__(self, client: httpx.Client, nginx: Solution) -> None:
        self.client, self.nginx = client, nginx

    def watch(self, name: str, path: str) -> None:
        host, port = self.nginx.address
        reply = self.client.put(f"/feeds/{name}", json={"url": f"http://{host}:{port}{path}", **QUICK})
        assert reply.status_code == 201

    def until(self, name: str, **owed: object) -> dict[str, Any]:
        """Ask for the state of a feed until it has these members."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            state = self.client.get(f"/feeds/{name}").json()
            if all(state[member] == value for member, value in owed.items()):
                return state
        raise AssertionError(f"{owed} did not come; the feed is {state}")

    def document(self, name: str) -> bytes:
        return self.client.get(f"/feeds/{name}/document").content


@pytest.fixture
def poller(nginx) -> Iterator[Poller]:
    with reference("polling") as solution:
        host, port = solution.address
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=30, trust_env=False) as client:
            yield Poller(client, nginx)


def written(nginx: Solution, text: str) -> None:
    """A new version of the document, complete from its first moment on."""
    files = nginx.folder / "state" / "files"
    (files / "new").write_text(text)
    (files / "new").rename(files / "news.xml")


def answers(nginx: Solution, path: str) -> list[int]:
    """The statuses that nginx has answered requests for that path with."""
    lines = (nginx.folder / "state" / "access.log").read_text().splitlines()
    return [int(line.split()[8]) for line in lines if line.split()[6] == path]


def until_answered(nginx: Solution, path: str, number: int) -> list[int]:
    deadline = time.monotonic() + PATIENCE
    while len(found := answers(nginx, path)) < number:
        assert time.monotonic() < deadline, f"only {len(found)} requests for {path}"
    return found


@pytest.mark.parametrize("path", ["/news.xml", "/dated/news.xml"])
def test_a_file_is_sent_once_a_version(poller, nginx, path):
    """By its ETag, or by its date alone."""
    written(nginx, "one")
    poller.watch("news", path)
    poller.until("news", version=1, status="ok")
    assert until_answered(nginx, path, 5)[:5] == [200, 304, 304, 304, 304]
    assert poller.document("news") == b"one"

    written(nginx, "two, which is longer")
    if path == "/news.xml":  # a date of whole seconds does not see the change
        poller.until("news", version=2, status="ok")
        assert poller.document("news") == b"two, which is longer"
        assert answers(nginx, path).count(200) == 2


def test_redirects_of_nginx_are_followed_and_permanent_ones_kept(poller, nginx):
    written(nginx, "one")
    poller.watch("moved", "/moved")
    state = poller.until("moved", version=1)
    assert state["url"].endswith("/news.xml")
    poller.watch("elsewhere", "/elsewhere")
    until_answered(nginx, "/elsewhere", 3)
    assert poller.until("elsewhere", status="ok", version=1)["url"].endswith("/elsewhere")
    assert answers(nginx, "/moved") == [301]


def test_what_is_missing_busy_or_gone(poller, nginx):
    poller.watch("missing", "/news.xml")
    poller.watch("gone", "/over")
    poller.until("missing", status="failing")
    poller.until("gone", status="gone")
    written(nginx, "at last")
    poller.until("missing", status="ok", version=1, failures=0)
    poller.watch("busy", "/busy")
    poller.until("busy", version=1)
    poller.until("busy", status="failing", version=1)
    until_answered(nginx, "/busy", 4)
    assert answers(nginx, "/over") == [410]
    assert set(answers(nginx, "/busy")[1:]) == {429}
    assert poller.document("busy") == b"at last"
