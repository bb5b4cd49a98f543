"""Structured Field Strings as the harness reads and writes them, against the library http_sf."""

from __future__ import annotations

import random
import string

import http_sf
import pytest

from harness.wire.structured import read_string, write_string

PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " "
ODD = PRINTABLE + '"\\"\\;;==\t\n\r\0\x7f\xa0€é'
PARAMETERS = ["", ";a", ";a=1", "; b=tok", ';c="x;y"', ";*k.-_=?0", ";d=1.5;e", ";f=:aGk=:", ';  g="\\""', ";a=1;a=2"]
STRINGS = ["", '"', "\\", '\\"', "a b", " ", "k" * 255, ";", '"quoted"', PRINTABLE]

NO_STRINGS = [
    *("", " ", "key", "1", "1.5", "?1", ":aGk=:", "'key'", "tok;a=1", "()", '("a")', "@1659578233", '%"a"'),
    *(
        '"',
        '"a',
        'a"',
        '"a" b',
        '"a""b"',
        '"a", "b"',
        '"a\\b"',
        '"\\n"',
        '"\\',
        '"a\\"',
        '"a\tb"',
        '"a\nb"',
        '"é"',
        '"\x7f"',
    ),
    *('"a" ;b', '"a";', '"a";;b', '"a";=b', '"a";1', '"a";A', '"a";-a', '"a" x', '"a",', '"a"\t', '\t"a"', '"a"\n'),
]


def theirs(field: str) -> str | None:
    """What http_sf reads; only a String counts."""
    try:
        value, _ = http_sf.parse(field.encode("latin-1"), tltype="item")
    except (http_sf.StructuredFieldError, UnicodeEncodeError):
        return None
    return value if type(value) is str else None


def any_text(number: int) -> str:
    chance = random.Random(number)
    return "".join(chance.choices(PRINTABLE, k=chance.randrange(300)))


def any_field(number: int) -> str:
    """Mostly a string with something wrong in it, or not."""
    chance = random.Random(number)
    text = "".join(chance.choices(chance.choice([PRINTABLE, ODD]), k=chance.randrange(6)))
    return chance.choice(['"{}"', '"{}', '{}"', "{}", ' "{}" ', '"{}";a', '"{}" "{}"']).replace("{}", text)


@pytest.mark.parametrize("value", STRINGS)
@pytest.mark.parametrize("parameters", PARAMETERS)
def test_a_string_is_written_and_read_as_theirs(value, parameters):
    field = write_string(value)
    assert field == http_sf.ser(value)
    assert read_string(field + parameters) == theirs(field + parameters) == value


def test_random_strings_are_written_and_read_as_theirs():
    for number in range(500):
        value = any_text(number)
        assert write_string(value) == http_sf.ser(value)
        assert read_string(write_string(value)) == theirs(write_string(value)) == value


@pytest.mark.parametrize("field", NO_STRINGS)
def test_what_is_no_string_is_none(field):
    assert theirs(field) is None, "the table is wrong"
    assert read_string(field) is None


def test_random_fields_are_read_as_theirs():
    read = []
    for number in range(3000):
        field = any_field(number)
        assert read_string(field) == theirs(field), f"{field!r}"
        read.append(read_string(field))
    assert 500 < read.count(None) < 2500, "both kinds are among them"
