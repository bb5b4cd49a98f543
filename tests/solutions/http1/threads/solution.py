"""A second design: a thread for each connection, and sockets that block. Written from the brief alone."""

import hashlib
import json
import os
import re
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from connection import Connection, Refused

MAX_TARGET = int(os.environ.get("MAX_TARGET", 8000))
MAX_FIELDS = int(os.environ.get("MAX_FIELDS", 16_384))
MAX_BODY = int(os.environ.get("MAX_BODY", 1_048_576))
REQUEST_TIMEOUT = int(os.environ.get("REQUEST_TIMEOUT_MS", 60_000)) / 1000
KEEP_ALIVE = int(os.environ.get("KEEP_ALIVE_MS", 60_000)) / 1000
SHUTDOWN = int(os.environ.get("SHUTDOWN_MS", 5000)) / 1000

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rf"({TOKEN}) ([!-~]+) HTTP/([0-9])\.([0-9])")
FIELD_LINE = re.compile(rf"({TOKEN}):[ \t]*((?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?)[ \t]*")
HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?"
ABSOLUTE = re.compile(rf"https?://({HOST})(/.*|\?.*|)", re.IGNORECASE)
CHUNK_LINE = re.compile(r"([0-9A-Fa-f]+)[ \t]*(?:;[\t -~\x80-\xff]*)?")
TAG = re.compile(r'(?:W/)?"[!#-~\x80-\xff]*"')
DATES = "%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"
HUGE = 10**18


def number(digits: str, base: int = 10) -> int:
    """Digits as a number; what is longer than any size is HUGE."""
    return int(digits, base) if len(digits.lstrip("0")) <= 15 else HUGE


# -- a request ------------------------------------------------------------------------------------------------------


class Request:
    def __init__(self, connection: Connection) -> None:
        line = connection.line(MAX_TARGET + 200, 414) or connection.line(MAX_TARGET + 200, 414)
        if not (match := REQUEST_LINE.fullmatch(line)):
            raise Refused(400)
        self.method, self.target, major, minor = match.groups()
        if len(self.target) > MAX_TARGET:
            raise Refused(414)
        if major != "1":
            raise Refused(505)
        self.old = minor == "0"
        self.fields = read_fields(connection)
        self.body = b""
        self.locate()

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def has(self, name: str, element: str) -> bool:
        return element in [each.strip(" \t").lower() for each in ",".join(self.all(name)).split(",")]

    def locate(self) -> None:
        hosts = self.all("host")
        if len(hosts) > 1 or (not hosts and not self.old) or not all(re.fullmatch(HOST, each) for each in hosts):
            raise Refused(400)
        self.host = hosts[0] if hosts else ""
        if match := ABSOLUTE.fullmatch(self.target):
            self.host, rest = match.groups()
            self.target = rest if rest.startswith("/") else "/" + rest
            if not self.host or self.host.startswith(":"):
                raise Refused(400)
        elif not self.target.startswith("/") and self.target != "*":
            raise Refused(400)

    @property
    def last(self) -> bool:
        return self.has("connection", "close") or (self.old and not self.has("connection", "keep-alive"))

    def read_body(self, connection: Connection) -> None:
        codings, lengths = self.all("transfer-encoding"), self.all("content-length")
        if codings:
            if lengths or self.old:
                raise Refused(400)
            if [each.lower() for each in codings] != ["chunked"]:
                raise Refused(501)
            self.invite(connection)
            self.body = read_chunks(connection)
        elif lengths:
            if len(lengths) > 1 or not re.fullmatch(r"[0-9]+", lengths[0]):
                raise Refused(400)
            if (length := number(lengths[0])) > MAX_BODY:
                raise Refused(413)
            if length:
                self.invite(connection)
            self.body = connection.exactly(length)

    def invite(self, connection: Connection) -> None:
        if not self.old and self.has("expect", "100-continue") and not connection.buffer:
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")


def read_fields(connection: Connection) -> list[tuple[str, str]]:
    fields, left = [], MAX_FIELDS
    while line := connection.line(left, 431):
        left -= len(line) + 2
        if not (match := FIELD_LINE.fullmatch(line)):
            raise Refused(400)
        fields.append((match[1].lower(), match[2]))
    return fields


def read_chunks(connection: Connection) -> bytes:
    body = bytearray()
    while True:
        if not (match := CHUNK_LINE.fullmatch(connection.line(4096, 400))):
            raise Refused(400)
        size = number(match[1], 16)
        if len(body) + size > MAX_BODY:
            raise Refused(413)
        if not size:
            read_fields(connection)  # trailers are nothing that anybody here wants to know
            return bytes(body)
        body += connection.exactly(size)
        if connection.exactly(2) != b"\r\n":
            raise Refused(400)


# -- resources ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    body: bytes
    kind: str
    tag: str
    changed: int


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    fields: tuple[tuple[str, str], ...] = ()


files: dict[str, File] = {}
changing = threading.Lock()


def answer(request: Request) -> Answer:
    path = request.target.partition("?")[0]
    if path == "/echo":
        return echo(request)
    if not (match := re.fullmatch(r"/files/([A-Za-z0-9_-]{1,64})", path)):
        return problem(404)
    if request.method not in ("GET", "HEAD", "PUT", "DELETE"):
        return problem(405, ("Allow", "GET, HEAD, PUT, DELETE"))
    with changing:
        return answer_file(request, match[1])


def echo(request: Request) -> Answer:
    if request.method not in ("GET", "HEAD", "POST", "PUT"):
        return problem(405, ("Allow", "GET, HEAD, POST, PUT"))
    understood = {name: getattr(request, name) for name in ("method", "target", "host", "fields")}
    understood["body"] = request.body.decode("latin-1")
    return Answer(200, json.dumps(understood).encode(), (("Content-Type", "application/json"),))


def answer_file(request: Request, name: str) -> Answer:
    file, reading = files.get(name), request.method in ("GET", "HEAD")
    if file is None and reading:
        return problem(404)
    if status := failed_condition(request, file, reading):
        return Answer(status, fields=(("ETag", file.tag),) if file else ())
    if request.method == "PUT":
        kind = (request.all("content-type") or ["application/octet-stream"])[0]
        tag = hashlib.sha256(request.body).hexdigest()[:32]
        files[name] = File(request.body, kind, f'"{tag}"', int(time.time()))
        return Answer(204 if file else 201)
    if file is None:
        return problem(404)
    if request.method == "DELETE":
        del files[name]
        return Answer(204)
    about = (("ETag", file.tag), ("Last-Modified", formatdate(file.changed, usegmt=True)), ("Accept-Ranges", "bytes"))
    return cut(request, file, (("Content-Type", file.kind), *about))


def failed_condition(request: Request, file: File | None, reading: bool) -> int:
    """412 or 304 if a condition does not hold, else 0 (RFC 9110 section 13.2.2)."""
    if match := request.all("if-match"):
        if not file or (match != ["*"] and file.tag not in TAG.findall(",".join(match))):
            return 412
    elif file and (date := a_date(request, "if-unmodified-since")) is not None and file.changed > date:
        return 412
    if match := request.all("if-none-match"):
        tags = [each.removeprefix("W/") for each in TAG.findall(",".join(match))]
        if file and (match == ["*"] or file.tag in tags):
            return 304 if reading else 412
    elif file and reading and (date := a_date(request, "if-modified-since")) is not None and file.changed <= date:
        return 304
    return 0


def a_date(request: Request, name: str) -> float | None:
    for form in DATES:
        with suppress(ValueError):
            return float(time.mktime(time.strptime(",".join(request.all(name)), form)) - time.timezone)
    return None


def cut(request: Request, file: File, about: tuple[tuple[str, str], ...]) -> Answer:
    size, wanted = len(file.body), request.all("if-range")
    match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", ",".join(request.all("range")))
    if request.method != "GET" or not match or match[0] == "bytes=-" or wanted not in ([], [file.tag]):
        return Answer(200, file.body, about)
    first, last = match.groups()
    if first and last and number(last) < number(first):
        return Answer(200, file.body, about)
    start = number(first) if first else max(0, size - number(last))
    end = min(size, number(last) + 1) if first and last else size
    if start >= size:
        return problem(416, ("Content-Range", f"bytes */{size}"))
    return Answer(206, file.body[start:end], (*about, ("Content-Range", f"bytes {start}-{end - 1}/{size}")))


def problem(status: int, *fields: tuple[str, str]) -> Answer:
    return Answer(status, f"{status}\n".encode(), (("Content-Type", "text/plain"), *fields))


# -- connections ----------------------------------------------------------------------------------------------------


def respond(connection: Connection, request: Request | None, answer: Answer, last: bool) -> None:
    fields = [("Date", formatdate(usegmt=True)), *answer.fields]
    if answer.status not in (204, 304):
        fields.append(("Content-Length", str(len(answer.body))))
    if last:
        fields.append(("Connection", "close"))
    elif request and request.old:
        fields.append(("Connection", "keep-alive"))
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", *map(": ".join, fields), "", ""]
    without = answer.status in (204, 304) or (request and request.method == "HEAD")
    connection.send("\r\n".join(lines).encode("latin-1") + (b"" if without else answer.body))


def converse(connection: Connection) -> None:
    """Requests and their responses, one after the other, until one is the last."""
    request, last = None, False
    while not last:
        request = None
        if not connection.wait_for_a_request(KEEP_ALIVE):
            break
        try:
            connection.allow(REQUEST_TIMEOUT)
            request = Request(connection)
            connection.allow(REQUEST_TIMEOUT, each=True)
            request.read_body(connection)
            reply, last = answer(request), request.last or connection.stopping
        except Refused as refusal:
            reply, last = problem(refusal.status), True
        respond(connection, request, reply, last)
    connection.end()


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # main() waits for it; no thread is interrupted
    address = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))
    listener = socket.create_server(address, backlog=512)
    threading.Thread(target=Connection.accept, args=(listener, converse), daemon=True).start()
    signal.sigwait({signal.SIGTERM})
    listener.shutdown(socket.SHUT_RDWR)
    Connection.stop_all(SHUTDOWN)
    os._exit(0)


if __name__ == "__main__":
    main()
