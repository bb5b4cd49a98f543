"""The one model: what is written is what the schema says, and what is read back is what was written."""

import json
from dataclasses import replace

import jsonschema
import pytest

from harness.grading import model, seal
from harness.grading.model import Graded
from harness.verdicts import Unusable

from .sample import ALL, RESULT

SCHEMA = json.loads(model.SCHEMA_FILE.read_text(encoding="utf-8"))
SECRET = b"s" * 32


def signed(result: Graded) -> dict:
    return json.loads(json.dumps(seal.sign(result.to_json(), SECRET)))


@pytest.mark.parametrize("name", ALL)
def test_a_signed_result_is_valid_by_the_schema(name):
    jsonschema.validate(signed(ALL[name]), SCHEMA)


def test_the_schema_is_one_itself_and_closed():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(signed(RESULT) | {"grade": "A"}, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(signed(RESULT) | {"score": 1.5}, SCHEMA)


@pytest.mark.parametrize("name", ALL)
def test_a_result_read_back_is_the_one_that_was_written(name):
    table = signed(ALL[name])

    assert replace(Graded.from_json(table), signature={}) == ALL[name]


def test_what_is_signed_does_not_depend_on_order_or_spelling():
    table = signed(RESULT)
    shuffled = dict(reversed(table.items()))

    assert model.canonical(shuffled) == model.canonical(table)
    assert b"signature" not in model.canonical(table)
    assert model.canonical({"b": "é", "a": 1}) == b'{"a":1,"b":"\\u00e9"}'


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "backend-katas/result/v2"},
        {"status": "excellent"},
        {"behaviours": 3},
        {"behaviours": [{"id": "x"}]},
        {"student": "eve"},
        {"submission": {"name": "x", "grade": 1}},
        {"grade": "A"},
    ],
)
def test_another_table_is_no_result(change):
    with pytest.raises(Unusable):
        Graded.from_json(signed(RESULT) | change)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "\x00", '{"schema": 1}', "[" * 100_000])
def test_a_file_that_is_no_result_is_one_sentence(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)

    with pytest.raises(Unusable, match=r"result\.json") as problem:
        model.read(path)
    assert "\n" not in str(problem.value)
