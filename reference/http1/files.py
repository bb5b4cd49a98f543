"""The resources: files with their versions, and an echo. Nothing here knows how a message was framed.

A file is one immutable value: whoever sends it sends one version, whatever is stored meanwhile.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from time import time

FILE = re.compile(r"/files/([A-Za-z0-9_-]{1,64})")
RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)", re.I)

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
        options = self.elements("connection")
        return "close" in options or (self.minor == 0 and "keep-alive" not in options)


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class File:
    body: bytes
    kind: str
    modified: int  # seconds since 1970, as Last-Modified tells them

    @cached_property
    def etag(self) -> str:
        digest = hashlib.sha256(self.kind.encode() + b" " + self.body).hexdigest()
        return f'"{digest[:32]}"'


files: dict[str, File] = {}


def answer(request: Request) -> Answer:
    """What a complete request gets."""
    path = request.target.partition("?")[0]
    if path == "/echo":
        known = request.method in ("GET", "HEAD", "POST", "PUT")
        return echo(request) if known else not_allowed("GET, HEAD, POST, PUT")
    if not (found := FILE.fullmatch(path)):
        return problem(404)
    if request.method not in ("GET", "HEAD", "PUT", "DELETE"):
        return not_allowed("GET, HEAD, PUT, DELETE")
    name = found[1]
    file = files.get(name)
    if not file and request.method != "PUT":
        return problem(404)
    if status := failed_precondition(request, file):
        return problem(status) if status == 412 or not file else Answer(304, fields=validators(file))
    if request.method == "PUT":
        kind = "".join(request.lines("content-type")[:1]) or "application/octet-stream"
        files[name] = File(request.body, kind, int(time()))
        return Answer(204 if file else 201, fields=validators(files[name]))
    assert file
    if request.method == "DELETE":
        del files[name]
        return Answer(204)
    fields = (*validators(file), ("Accept-Ranges", "bytes"), ("Content-Type", file.kind))
    return part(request, file, fields) or Answer(200, file.body, fields)


def echo(request: Request) -> Answer:
    """What was understood of the message."""
    told = {
        "method": request.method,
        "target": request.target,
        "host": request.host,
        "fields": request.fields,
        "body": request.body.decode("latin-1"),
    }
    return Answer(200, json.dumps(told).encode(), (("Content-Type", "application/json"),))


def validators(file: File) -> tuple[tuple[str, str], ...]:
    return (("ETag", file.etag), ("Last-Modified", formatdate(file.modified, usegmt=True)))


def failed_precondition(request: Request, file: File | None) -> int | None:
    """412 or 304 when a precondition is false, in the order of RFC 9110 §13.2.2."""
    reading = request.method in ("GET", "HEAD")
    if wanted := request.lines("if-match"):
        if not names(wanted, file, weak=False):
            return 412
    elif (date := a_date(request, "if-unmodified-since")) is not None and file and file.modified > date:
        return 412
    if unwanted := request.lines("if-none-match"):
        if names(unwanted, file, weak=True):
            return 304 if reading else 412
    elif reading and (date := a_date(request, "if-modified-since")) is not None and file and file.modified <= date:
        return 304
    return None


def names(lines: list[str], file: File | None, weak: bool) -> bool:
    """Whether a list of entity tags names the file as it is; `weak` is how If-None-Match compares."""
    if not file:
        return False
    tags = re.findall(r'(W/)?("[^"]*")', ",".join(lines))
    return lines == ["*"] or any(tag == file.etag and (weak or not mark) for mark, tag in tags)


def a_date(request: Request, name: str) -> float | None:
    """The date in a field, None without a valid one."""
    try:
        date = parsedate_to_datetime("".join(request.lines(name)))
    except ValueError:
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def part(request: Request, file: File, fields: tuple[tuple[str, str], ...]) -> Answer | None:
    """206 or 416 if one valid range of bytes is asked for, else None: the whole is sent (RFC 9110 §14.2)."""
    found = RANGE.fullmatch("".join(request.lines("range")))
    if request.method != "GET" or not found or found[0] == "bytes=-" or not same_version(request, file):
        return None
    first, last, size = found[1], found[2], len(file.body)
    if first and last and int(first) > int(last):
        return None
    begin = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if begin >= size:
        return Answer(416, fields=(("Content-Range", f"bytes */{size}"),))
    return Answer(206, file.body[begin:end], (*fields, ("Content-Range", f"bytes {begin}-{end - 1}/{size}")))


def same_version(request: Request, file: File) -> bool:
    """If-Range: a range of another version is no use; then the whole is sent. A date is too coarse to tell."""
    return request.lines("if-range") in ([], [file.etag])


def problem(status: int) -> Answer:
    text = f"{status} {HTTPStatus(status).phrase}\n"
    return Answer(status, text.encode(), (("Content-Type", "text/plain"),))


def not_allowed(methods: str) -> Answer:
    refusal = problem(405)
    return Answer(405, refusal.body, (*refusal.fields, ("Allow", methods)))
