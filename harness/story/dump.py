"""Bytes as text and as hexadecimal digits, for those who look for the one that is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from harness.story.plain import escaped, shorten
from harness.story.record import Event

ROW = 16  # bytes
LONGEST_LINE = 160  # characters of text


def hex_lines(data: bytes, start: int = 0) -> Iterator[str]:
    """A line for each sixteen bytes: where they stand, the bytes, and what of them is ASCII."""
    for at in range(0, len(data), ROW):
        row = data[at : at + ROW]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "·" for byte in row)
        yield f"{start + at:06x}  {row[:8].hex(' '):<23}  {row[8:].hex(' '):<23}  {text}"


def text_lines(data: bytes) -> list[str]:
    """The lines of bytes that are text: CR and other controls are shown, and so is what is no UTF-8."""
    lines = data.decode("utf-8", "backslashreplace").split("\n")
    shown = [shorten(escaped(line), LONGEST_LINE) + "\\n" for line in lines[:-1]]
    return [*shown, shorten(escaped(lines[-1]), LONGEST_LINE)] if lines[-1] else shown


def ends(event: Event, most: int) -> tuple[bytes, bytes]:
    """The first and last bytes of a message, `most` in all; the second part is empty if it is whole."""
    if event.whole and event.size <= most:
        return event.head + event.tail, b""
    kept = event.head + event.tail if event.whole else event.head
    last = (event.tail or event.head)[-(most // 4) :]
    return kept[: most - len(last)], last
