"""Each format as its reader wants it: compared with a golden file, and read by a reader's rules.

A golden file is changed by hand, or replaced by what the failing test shows, and then looked at.
"""

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest

from harness.commands import report
from harness.grading.formats import FORMATS, classroom50, gradebook
from harness.grading.reveal import Reveal, for_students
from harness.verdicts import Unusable

from .sample import ALL, FAILED, REFUSED, RESULT

GOLDEN = Path(__file__).parent / "golden"
SHOWN = for_students(RESULT, Reveal.SENTENCES)
WHOLE = [name for name, wanted in FORMATS.items() if wanted.whole]
ONE = [name for name, wanted in FORMATS.items() if wanted.one]
UNGRADED = [result for name, result in ALL.items() if name in ("failed", "tampered")]


@pytest.fixture(autouse=True)
def no_runner(monkeypatch):
    """Nothing comes from the environment that the tests happen to run in."""
    for name in ("CLASSROOM", "ASSIGNMENT", "ASSIGNMENT_TYPE", "OWNER", "USERNAME", "SUBMISSION_TAG"):
        monkeypatch.delenv(name, raising=False)


def rendered(name, shown=SHOWN):
    wanted = FORMATS[name]
    return "".join(wanted.whole(ALL.values())) if wanted.whole else wanted.one(shown)


def test_the_command_offers_what_there_is():
    assert set(report.NAMES) == set(FORMATS)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "html"])  # a page of the story, tested there
def test_golden(name):
    golden = GOLDEN / f"{name}{FORMATS[name].suffix}"

    assert rendered(name) == golden.read_text(encoding="utf-8"), f"{golden} differs from what is written now"


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("result", ALL.values(), ids=ALL)
@pytest.mark.parametrize("reveal", Reveal)
def test_hidden_behaviours_show_what_is_revealed_and_no_more(name, result, reveal):
    try:
        text = FORMATS[name].one(for_students(result, reveal))
    except Unusable:
        return  # a format that has no word for a missing score
    if reveal is not Reveal.STORIES:
        assert "4711" not in text, "what a hidden behaviour asked and got stays hidden"
    if reveal in (Reveal.NONE, Reveal.NAMES):
        assert "Three knocks" not in text, "its promise is not told"
    if reveal is Reveal.NONE:
        assert "secret" not in text, "its name is not told, nor by those who need it"


@pytest.mark.parametrize("name", FORMATS)
def test_control_characters_are_never_written_raw(name):
    text = rendered(name)

    assert not {"\x1b", "\x00", "\ufffe"} & set(text)


# -- csv --------------------------------------------------------------------------------------------------------------


def test_csv_has_a_line_for_everybody_and_no_formula():
    lines = list(csv.DictReader(io.StringIO(rendered("csv"))))

    assert [line["status"] for line in lines] == ["graded", "refused", "not gradable", "missing", "tampered"]
    assert [line["score"] for line in lines] == ["1", "0", "", "0", ""], "a score that there is none of is no zero"
    for line in lines:
        assert not any(cell.startswith(("=", "+", "@", "\t", "\r", "-cmd")) for cell in line.values())
    assert lines[0]["id"] == "'=cmd()"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1+cmd", "@SUM(A1)", "\t=1", " =1", "\uff1d1", "\r=1", "\n=1"])
def test_csv_texts_that_begin_like_formulas_are_defused(cell):
    assert str(gradebook._safe(cell)).startswith("'")
    assert gradebook._safe("plain = text") == "plain = text"
    assert gradebook._safe(-1) == -1


# -- junit ------------------------------------------------------------------------------------------------------------


def test_junit_is_well_formed_and_counts_right():
    root = ElementTree.fromstring(rendered("junit"))

    suites = root.findall("testsuite")
    assert suites[0].get("name") == "door =cmd()"
    for suite in suites:
        cases = suite.findall("testcase")
        assert int(suite.get("tests")) == len(cases)
        for kind, counted in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            assert int(suite.get(counted)) == len(suite.findall(f"testcase/{kind}"))
    assert len(suites[0].findall("testcase")) == 4
    assert [suite.find("testcase").get("name") for suite in suites[1:4]] == ["grading"] * 3


def test_junit_tells_points_and_messages():
    suite = ElementTree.fromstring(rendered("junit")).find("testsuite")
    broken = suite.findall("testcase")[1]

    points = {each.get("name"): each.get("value") for each in broken.iter("property")}
    assert points == {"points": "2", "earned": "0"}
    assert "a stranger came in" in broken.find("failure").get("message")
    assert "<b>stays</b>" in broken.find("failure").text


# -- JSON of learning platforms, by schemas of what their documentation says ------------------------------------------

VISIBILITY = {"enum": ["visible", "hidden", "after_due_date", "after_published"]}
TEXT_FORMAT = {"enum": ["text", "html", "simple_format", "md", "ansi"]}
GRADESCOPE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["score", "tests"],
    "properties": {
        "score": {"type": "number"},
        "execution_time": {"type": "number"},
        "output": {"type": "string"},
        "output_format": TEXT_FORMAT,
        "test_output_format": TEXT_FORMAT,
        "test_name_format": TEXT_FORMAT,
        "visibility": VISIBILITY,
        "stdout_visibility": VISIBILITY,
        "extra_data": {"type": "object"},
        "leaderboard": {"type": "array"},
        "tests": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "score": {"type": "number"},
                    "max_score": {"type": "number"},
                    "status": {"enum": ["passed", "failed"]},
                    "name": {"type": "string"},
                    "name_format": TEXT_FORMAT,
                    "number": {"type": "string"},
                    "output": {"type": "string"},
                    "output_format": TEXT_FORMAT,
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "visibility": VISIBILITY,
                    "extra_data": {"type": "object"},
                },
            },
        },
    },
}
CLASSROOM50 = {
    "type": "object",
    "required": [
        *("schema", "classroom", "assignment", "assignment_type", "owner", "submission", "commit", "release"),
        *("review", "datetime", "score", "max-score", "tests"),
    ],
    "properties": {
        "schema": {"const": "classroom50/result/v1"},
        "assignment_type": {"enum": ["individual", "group"]},
        "datetime": {"pattern": "Z$"},
        "graded_at": {"pattern": "Z$"},
        "score": {"type": "integer"},
        "max-score": {"type": "integer"},
        "tests": {
            "type": "array",
            "items": {
                "required": ["test-name", "passed", "score", "max-score"],
                "properties": {
                    "passed": {"type": "boolean"},
                    "score": {"type": "integer"},
                    "max-score": {"type": "integer"},
                },
            },
        },
    },
}
EXERCISM = {
    "type": "object",
    "additionalProperties": False,
    "required": ["version", "status", "tests"],
    "properties": {
        "version": {"const": 3},
        "status": {"enum": ["pass", "fail", "error"]},
        "message": {"type": ["string", "null"], "maxLength": 65535},
        "tests": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "status", "test_code"],
                "properties": {
                    "name": {"type": "string"},
                    "status": {"enum": ["pass", "fail", "error"]},
                    "message": {"type": "string", "maxLength": 65535},
                    "output": {"type": "string", "maxLength": 500},
                    "test_code": {"type": "string"},
                    "task_id": {"type": "integer"},
                },
            },
        },
    },
}
PRAIRIELEARN = {
    "type": "object",
    "additionalProperties": False,
    "required": ["gradable"],
    "properties": {
        "gradable": {"type": "boolean"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "message": {"type": "string"},
        "output": {"type": "string"},
        "format_errors": {},
        "images": {"type": "array"},
        "tests": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "points", "max_points"],
                "properties": {
                    **{key: {"type": "string"} for key in ("name", "description", "message", "output")},
                    **{key: {"type": "number"} for key in ("points", "max_points")},
                    "images": {"type": "array"},
                },
            },
        },
    },
}
CHECK50 = {
    "type": "object",
    "additionalProperties": False,
    "required": ["slug", "version"],
    "oneOf": [{"required": ["results"]}, {"required": ["error"]}],
    "properties": {
        "slug": {"type": "string"},
        "version": {"type": "string"},
        "error": {"required": ["type", "value", "traceback", "data"]},
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "description", "passed", "log", "cause", "data", "dependency"],
                "properties": {
                    "name": {"type": "string"},
                    "description": {"type": "string"},
                    "passed": {"type": ["boolean", "null"]},
                    "log": {"type": "array", "items": {"type": "string"}},
                    "cause": {"type": ["object", "null"], "required": ["rationale", "help"]},
                    "data": {"type": "object"},
                    "dependency": {"type": ["string", "null"]},
                },
            },
        },
    },
}
SCHEMAS = {
    "gradescope": GRADESCOPE,
    "classroom50": CLASSROOM50,
    "exercism": EXERCISM,
    "prairielearn": PRAIRIELEARN,
    "check50": CHECK50,
}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("result", [RESULT, REFUSED], ids=["graded", "refused"])
def test_the_platforms_fields(name, result):
    jsonschema.validate(json.loads(FORMATS[name].one(result)), SCHEMAS[name])


def test_gradescope_gets_no_zero_where_there_is_no_score():
    for result in UNGRADED:
        table = json.loads(FORMATS["gradescope"].one(result))
        assert "score" not in table
        assert "tests" not in table


def test_gradescope_adds_up():
    table = json.loads(FORMATS["gradescope"].one(RESULT))

    assert table["score"] == sum(test["score"] for test in table["tests"]) == 1
    assert sum(test["max_score"] for test in table["tests"]) == 10


def test_classroom50_takes_from_its_runner_what_only_that_knows():
    runner = {"CLASSROOM": "cs", "ASSIGNMENT": "a1", "OWNER": "eve", "SUBMISSION_TAG": "submit/x", "COMMIT_URL": "c"}

    table = json.loads(classroom50.render(RESULT, runner))

    assert [table[key] for key in ("classroom", "assignment", "owner", "submission", "commit")] == list(runner.values())
    assert table["datetime"] == "2026-03-01T12:00:00Z", "the moment of submission is another than that of grading"
    assert table["graded_at"] == "2026-03-02T08:30:00Z"


def test_classroom50_has_no_word_for_a_missing_score():
    with pytest.raises(Unusable, match="no score to report"):
        classroom50.render(FAILED, {})


def test_exercism_is_error_only_where_nothing_was_tried():
    assert json.loads(FORMATS["exercism"].one(RESULT))["status"] == "fail"
    assert json.loads(FORMATS["exercism"].one(REFUSED))["status"] == "error"


def test_prairielearn_counts_what_the_submission_brought_on_itself():
    assert json.loads(FORMATS["prairielearn"].one(REFUSED)) | {"tests": 0, "message": ""} == {
        "gradable": True,
        "score": 0,
        "tests": 0,
        "message": "",
    }
    assert json.loads(FORMATS["prairielearn"].one(FAILED))["gradable"] is False


def test_check50_says_which_check_another_waits_for():
    checks = {each["name"]: each for each in json.loads(FORMATS["check50"].one(RESULT))["results"]}

    assert checks["opens_twice"]["passed"] is None
    assert checks["opens_twice"]["dependency"] == "secret_knock"
    assert checks["turns_strangers_away"]["passed"] is False
    assert checks["greets_by_name"]["cause"] is None


# -- pages ------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would see: elements, their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_the_class_page_escapes_everything_and_loads_nothing():
    page = Page(rendered("class"))

    assert not {"script", "i", "b", "img", "iframe", "link"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"src", "onclick", "onload", "action"} & set(attributes)
    policy = [each["content"] for tag, each in page.tags if tag == "meta" and "http-equiv" in each]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "<i>Eve</i>" in page.text, "a name with markup in it is shown as it is"


def test_the_students_page_shows_foreign_text_as_text():
    text = rendered("html", shown=RESULT)

    assert "<script>alert" not in text
    assert "<i>Eve</i>" not in text
    assert "<i>Eve</i>" in Page(text).text


def test_the_students_page_tells_the_story():
    page = Page(rendered("html", shown=RESULT))

    assert "1 of 10 points" in page.text
    assert "GO AWAY" in page.text
    assert "here the promise is broken" in page.text


def test_an_address_is_followed_only_where_it_is_one():
    evil = replace(RESULT.behaviours[1], url="javascript:alert(1)")
    page = Page(rendered("html", shown=replace(RESULT, behaviours=(evil,))))

    assert not [each for tag, each in page.tags if tag == "a" and "javascript" in (each.get("href") or "")]


def test_the_class_page_says_who_is_stuck_where():
    page = Page(rendered("class"))

    assert "Who is stuck where" in page.text
    assert "A stranger <b>stays</b> outside." in page.text
    assert "100 %" in page.text
    assert "not gradable" in page.text
