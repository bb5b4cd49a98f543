"""The upstream service behind a program that asks for jobs, and the file that tells the program its release.

`GET /jobs/NAME` is answered with 200 and a text that belongs to the name. While `holding()`, answers are kept back: who
asked is busy for as long as the harness likes. `finish()` lets them go, all or one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.solution.program import Solution
from harness.wire.http1 import Incoming, Server

NAME = "upstream"
TARGET = re.compile("/jobs/([A-Za-z0-9-]{1,64})")


@dataclass
class Held:
    """A job whose answer is kept back."""

    name: str
    incoming: Incoming
    hold: int  # its number in the record


class Jobs:
    """The service and the file."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        self.server = Server(solution.network, NAME, solution.record.solution, self._asked)
        self.file = solution.folder / "state" / "release"
        self.file.write_text("r0\n")
        self.asked: list[str] = []  # names, in the order in which they were asked for
        self.held: list[Held] = []
        self._holding = False
        self._failing = 0

    def environment(self) -> dict[str, str]:
        return {"UPSTREAM_URL": self.server.url, "RELEASE_FILE": str(self.file)}

    def begin(self) -> None:
        """Answer what is still held, so that nobody is busy with the job of another behaviour, and forget the rest."""
        self._holding, self._failing = False, 0
        self.finish()
        self.asked = []

    # -- verbs --------------------------------------------------------------------------------------------------

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep answers back until they are finished, or the block ends."""
        self._holding = True
        yield
        self._holding = False
        self.finish()

    @contextmanager
    def failing(self, status: int) -> Iterator[None]:
        """Answer all jobs of the block with this status."""
        self._failing = status
        yield
        self._failing = 0

    def finish(self, *names: str) -> None:
        """Answer the held jobs of these names; all that are held, if there are none."""
        done = [held for held in self.held if not names or held.name in names]
        self.held = [held for held in self.held if held not in done]
        for held in done:
            self.solution.record.release(NAME, "lets it go", held.hold)
            self._answer(held.name, held.incoming)

    def deploy(self, release: str) -> None:
        """Write the file; the program looks at it when it is told to."""
        self.solution.record.note(NAME, f"release {release!r} is in the file from now on")
        self.file.write_text(f"{release}\n")

    def undeploy(self) -> None:
        """Remove the file."""
        self.solution.record.note(NAME, "the file of the release is gone")
        self.file.unlink()

    # -- serving ------------------------------------------------------------------------------------------------

    def _asked(self, incoming: Incoming) -> None:
        found = TARGET.fullmatch(incoming.target)
        if not found or incoming.method != "GET":
            incoming.answer(404, b"no such job", "text/plain")
            return
        self.asked.append(found[1])
        if self._holding:
            hold = self.solution.record.hold(NAME, f"holds {found[1]}")
            self.held.append(Held(found[1], incoming, hold))
        else:
            self._answer(found[1], incoming)

    def _answer(self, name: str, incoming: Incoming) -> None:
        incoming.answer(self._failing or 200, result(name).encode(), "text/plain")


def result(name: str) -> str:
    """What comes of the job of this name."""
    return f"{name} is done"
