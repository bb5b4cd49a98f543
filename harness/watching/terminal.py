"""The learner's terminal: lines with or without colour, and single keys where there is a keyboard."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from contextlib import suppress
from typing import IO, Self

COLOURS = {"red": "31", "green": "32", "bold": "1", "light": "2"}


class Screen:
    """Lines on a stream; coloured only on a terminal that may be."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._coloured = stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

    def line(self, text: str = "", **tones: bool) -> None:
        self.write(text + "\n", **tones)

    def write(self, text: str, **tones: bool) -> None:
        codes = ";".join(COLOURS[name] for name, wanted in tones.items() if wanted)
        coloured = self._coloured and codes and text.strip()
        self._stream.write(f"\x1b[{codes}m{text}\x1b[0m" if coloured else text)
        self._stream.flush()


class Keys:
    """The keys of a terminal, each at once and unseen; leaving it gives the terminal back as it was.

    Where standard input is no terminal there are no keys, and it is not read.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.on = stream.isatty()
        self._file = stream.fileno() if self.on else -1

    def __enter__(self) -> Self:
        if self.on:
            self._before = termios.tcgetattr(self._file)
            tty.setcbreak(self._file)
            signal.signal(signal.SIGCONT, lambda *_: tty.setcbreak(self._file))  # after Ctrl-Z and `fg`
        return self

    def __exit__(self, *_: object) -> None:
        if self.on:
            signal.signal(signal.SIGCONT, signal.SIG_DFL)
            with suppress(termios.error):  # the terminal itself is gone
                termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)

    def fileno(self) -> int:
        return self._file

    def take(self) -> str:
        """The keys that were pressed; "q" when the terminal is gone."""
        try:
            return os.read(self._file, 64).decode(errors="ignore") or "q"
        except OSError:
            return "q"


def has_display() -> bool:
    """Whether a browser could be shown; one in this very terminal would take the keys."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
