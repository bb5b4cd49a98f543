"""Foreign text made harmless: what a solution sent or printed is shown, never executed by a terminal."""

from __future__ import annotations

PICTURES = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "␡"}


def visible(text: str) -> str:
    """`text` on one line, with control, format and bidirectional characters as pictures or escapes."""
    return "".join(_visible(character) for character in text)


ESCAPES = {code: f"\\x{code:02x}" for code in PICTURES} | {0: "\\0", 9: "\\t", 10: "\\n", 13: "\\r"}
WRITTEN = ESCAPES | {ord(picture): ESCAPES[code] for code, picture in PICTURES.items()}


def escaped(text: str) -> str:
    """Like `visible`, with escapes instead of the pictures of controls, which the fonts of many browsers lack."""
    return visible(text.translate(WRITTEN))


def visible_lines(text: str) -> list[str]:
    """The lines of `text`, each made visible; tabs become blanks."""
    return [visible(line) for line in text.expandtabs(4).split("\n")]


def _visible(character: str) -> str:
    picture = PICTURES.get(ord(character))
    if picture:
        return picture
    if character.isprintable() or character == "�":
        return character
    return f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}"


def shorten(text: str, width: int) -> str:
    """At most `width` characters of `text`, with an ellipsis where something was cut."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"
