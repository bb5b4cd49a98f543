"""Protocol Buffers, as much of the encoding as a few messages need: varints, strings, bytes, messages, repeated ones.

What comes is read strictly; fields that a message does not name are skipped, as every reader must.
Source: protobuf.dev, Encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
FIXED = {FIXED64: 8, FIXED32: 4}
WORD = 1 << 64
LONGEST_VARINT = 10  # bytes
SHOWN = 24  # characters of a value
DEFAULTS: dict[str, Any] = {"string": "", "bytes": b"", "int": 0}

Values = dict[str, Any]


class Field(NamedTuple):
    """A field of a message: `kind` is "string", "bytes", "int" (also bool and enum), or a message."""

    number: int
    kind: str | Message
    many: bool = False


class Message:
    """A type of messages, whose values are dictionaries by the names of fields."""

    def __init__(self, name: str, /, **fields: Field) -> None:
        self.name, self.fields = name, fields
        self._names = {field.number: name for name, field in fields.items()}

    def encode(self, **values: Any) -> bytes:
        """The bytes of a message with these values; what is None or not given is left out."""
        encoded = bytearray()
        for name, value in values.items():
            field = self.fields[name]
            for each in value if field.many else [] if value is None else [value]:
                encoded += _one(field, each)
        return bytes(encoded)

    def decode(self, data: bytes) -> Values:
        """All fields, with their defaults where nothing came. Raises ValueError for what is no such message."""
        values: Values = {name: _default(field) for name, field in self.fields.items()}
        for number, wire_type, raw in records(data):
            name = self._names.get(number)
            if name is None:
                continue
            field = self.fields[name]
            if wire_type != (VARINT if field.kind == "int" else LENGTH):
                raise ValueError(f"{self.name}.{name} came with the wire type {wire_type}")
            value = _read(field, raw)
            if field.many:
                values[name].append(value)
            else:
                values[name] = value
        return values

    def told(self, data: bytes) -> str:
        """A message on one line, fields with defaults left out."""
        try:
            values = self.decode(data)
        except ValueError as error:
            return f"no {self.name}: {error}"
        given = {name: value for name, value in values.items() if value != _default(self.fields[name])}
        return " ".join(f"{name}={_shown(value)}" for name, value in given.items())


def _shown(value: Any) -> str:
    if isinstance(value, str | bytes) and len(value) > SHOWN:
        return f"{value[:SHOWN]!r}… ({len(value)} long)"
    return repr(value)


def _default(field: Field) -> Any:
    if field.many:
        return []
    return None if isinstance(field.kind, Message) else DEFAULTS[field.kind]


def _one(field: Field, value: Any) -> bytes:
    if field.kind == "int":
        return varint(field.number << 3 | VARINT) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    if isinstance(field.kind, Message):
        raw = field.kind.encode(**value)
    return varint(field.number << 3 | LENGTH) + varint(len(raw)) + raw


def _read(field: Field, raw: int | bytes) -> Any:
    if isinstance(raw, int):
        return raw - WORD if raw >= WORD // 2 else raw
    if isinstance(field.kind, Message):
        return field.kind.decode(raw)
    return raw.decode() if field.kind == "string" else raw


def varint(value: int) -> bytes:
    """A whole number, negative ones in two's complement of 64 bits."""
    left, encoded = value % WORD, bytearray()
    while left > 0x7F:
        encoded.append(left & 0x7F | 0x80)
        left >>= 7
    encoded.append(left)
    return bytes(encoded)


def records(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, wire type and value of each field, in order. Raises ValueError where the data is cut or unknown."""
    at = 0
    while at < len(data):
        tag, at = _varint_at(data, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            value, at = _varint_at(data, at)
            yield number, wire_type, value
            continue
        if wire_type == LENGTH:
            size, at = _varint_at(data, at)
        elif wire_type in FIXED:
            size = FIXED[wire_type]
        else:
            raise ValueError(f"the wire type {wire_type} is unknown")
        if at + size > len(data):
            raise ValueError("the message is cut off")
        yield number, wire_type, data[at : at + size]
        at += size


def _varint_at(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(LONGEST_VARINT):
        if at + place >= len(data):
            raise ValueError("the message is cut off")
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value % WORD, at + place + 1
    raise ValueError("a varint has more than ten bytes")
