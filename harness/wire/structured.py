"""Structured Field Strings, as far as an `Idempotency-Key` needs them. Source: RFC 9651 §3.3.3, §4.1.6, §4.2.5."""

from __future__ import annotations

import re

STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
PARAMETERS = re.compile(r"(?:; *[a-z*][a-z0-9_.*-]*(?:=(?:[^;,\"]*|\"(?:[^\"\\]|\\.)*\"))?)*")


def write_string(value: str) -> str:
    """`value` as a Structured Field String."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def read_string(field: str) -> str | None:
    """The string that a field holds, parameters left aside; None when it holds something else."""
    found = STRING.match(field.strip(" "))
    if found is None or not PARAMETERS.fullmatch(field.strip(" ")[found.end() :]):
        return None
    return re.sub(r"\\(.)", r"\1", found[1])
