"""JUnit XML, as pytest and CI servers write and read it: a suite for each student, a case for each behaviour.

Points are properties, since the format has no field for them. Characters that XML forbids are written as `#x1B`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from xml.sax.saxutils import escape, quoteattr

from harness.grading.formats import words
from harness.grading.model import Graded, Judged, Status
from harness.verdicts import Verdict

ILLEGAL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(results: Iterable[Graded]) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="utf-8"?>\n<testsuites name="backend-katas">\n'
    for result in results:
        yield from _suite(result)
    yield "</testsuites>\n"


def _suite(result: Graded) -> Iterator[str]:
    judged = result.behaviours if result.status in (Status.GRADED, Status.TAMPERED) else ()
    count = {kind: sum(_kind(each) == kind for each in judged) for kind in ("failure", "skipped", "error")}
    count["failure" if result.status is Status.REFUSED else "error"] += not judged
    yield _tag(
        "testsuite",
        name=f"{result.kata} {result.student.id}",
        errors=count["error"],
        failures=count["failure"],
        skipped=count["skipped"],
        tests=len(judged) or 1,
        time=_seconds(result.milliseconds),
        timestamp=result.graded_at.removesuffix("Z"),
        hostname="kata-grade",
    )
    told = {"score": result.score, "max_score": result.max_score, "seed": result.seed, "isolation": result.isolation}
    yield _properties({key: value for key, value in told.items() if value is not None})
    for each in judged:
        yield from _case(result, each)
    if not judged:
        kind = "failure" if result.status is Status.REFUSED else "error"
        yield _tag("testcase", classname=result.kata, name="grading", time="0.000")
        yield f"{_tag(kind, message=words.reason(result))}</{kind}>\n</testcase>\n"
    yield "</testsuite>\n"


def _case(result: Graded, each: Judged) -> Iterator[str]:
    classname = f"{result.kata}.stage{each.stage}"
    yield _tag("testcase", classname=classname, name=each.id, time=_seconds(each.milliseconds))
    yield _properties({"points": each.points, "earned": each.earned})
    if kind := _kind(each):
        more = {"type": "pytest.skip"} if kind == "skipped" else {}
        message = f"{each.verdict}: {each.message}" if each.message else str(each.verdict)
        yield f"{_tag(kind, message=message, **more).rstrip()}{_text(words.told(each))}</{kind}>\n"
    if each.output:
        yield f"<system-out>{_text(each.output)}</system-out>\n"
    yield "</testcase>\n"


def _kind(each: Judged) -> str:
    match each.verdict:
        case Verdict.HOLDS:
            return ""
        case Verdict.BLOCKED | Verdict.SKIPPED:
            return "skipped"
        case Verdict.FAULT:
            return "error"
        case _:
            return "failure"


def _properties(values: dict[str, object]) -> str:
    inside = "".join(_tag("property", name=name, value=value, end="/>") for name, value in values.items())
    return f"<properties>\n{inside}</properties>\n"


def _tag(tag: str, /, *, end: str = ">", **attributes: object) -> str:
    told = "".join(f" {key}={quoteattr(legal(str(value)))}" for key, value in attributes.items())
    return f"<{tag}{told}{end}\n"


def _text(text: str) -> str:
    return escape(legal(text))


def legal(text: str) -> str:
    """The text without what XML 1.0 can't hold, not even escaped."""
    return ILLEGAL.sub(lambda found: f"#x{ord(found[0]):02X}", text)


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}"
