"""The resources: files with their versions, and an echo. Nothing here knows how a message was framed.

answer() is called with complete requests only, and awaits nothing: so nobody comes in between a condition and a change.
"""

from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus

Fields = list[tuple[str, str]]


@dataclass
class Request:
    method: str
    target: str  # path and query
    minor: int  # of the version: 1.0 or 1.1
    fields: Fields  # names in lower case
    host: str = ""
    body: bytes = b""

    def lines(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def elements(self, name: str) -> list[str]:
        """The elements of a list-valued field, in lower case; one line or several mean the same."""
        return [element.strip(" \t").lower() for line in self.lines(name) for element in line.split(",")]

    @property
    def is_last(self) -> bool:
        """Whether the connection ends with this request, as its client wants it (C1)."""
        raise NotImplementedError("Request.is_last in files.py")


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    fields: tuple[tuple[str, str], ...] = ()


def answer(request: Request) -> Answer:
    """What a complete request gets: a file (F1, F2, F3), an echo (F4), or a problem()."""
    raise NotImplementedError("answer() in files.py")


def a_date(request: Request, name: str) -> float | None:
    """Given: the date in a field, in seconds since 1970; None without a valid one."""
    try:
        date = parsedate_to_datetime("".join(request.lines(name)))
    except ValueError:
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def problem(status: int) -> Answer:
    text = f"{status} {HTTPStatus(status).phrase}\n"
    return Answer(status, text.encode(), (("Content-Type", "text/plain"),))
