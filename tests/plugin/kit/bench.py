"""What the tests change in a run: `-p bench`, by environment variables.

BENCH       a folder with `behaviours` and `reference`: the kit finds the katas of the tests there
CAPS        smaller bounds of harness.waiting, as NAME=SECONDS words, and OWED=CPU,WALL
UNSHOWN     why the kernel shows nothing, as on another system
SQUATTED    somebody else listens on every port that a solution is given
"""

from __future__ import annotations

import os
import socket
from pathlib import Path


def pytest_configure() -> None:
    # Not sooner: whatever is imported before the kit's own plugin is not rewritten.
    if "BENCH" in os.environ:
        _katas(Path(os.environ["BENCH"]))
    _caps(os.environ.get("CAPS", "").split())
    if "UNSHOWN" in os.environ:
        _show_nothing(os.environ["UNSHOWN"])
    if "SQUATTED" in os.environ:
        _squat()


def _katas(home: Path) -> None:
    import harness.behaviours
    from harness import kata

    harness.behaviours.__path__.append(str(home / "behaviours"))
    kata.BEHAVIOURS, kata.REFERENCES = home / "behaviours", home / "reference"


def _caps(words: list[str]) -> None:
    from harness import waiting

    for word in words:
        name, seconds = word.split("=")
        assert hasattr(waiting, name), f"harness.waiting has no {name}"
        values = [float(value) for value in seconds.split(",")]
        setattr(waiting, name, waiting.Bound(*values) if name == "OWED" else values[0])


def _show_nothing(why: str) -> None:
    from harness.solution import kernel, quiet

    kernel.shown = quiet.shown = lambda: why


def _squat() -> None:
    from harness.solution.port import Port

    honest, squatters = Port.__init__, []

    def squatted(port: Port) -> None:
        honest(port)
        squatters.append(socket.create_server(("127.0.0.1", port.number)))

    Port.__init__ = squatted
