"""A correct `l7_balancer` of another design: a thread for each connection, blocking sockets, a parser of its own.

The thread of a client reads its requests and writes its responses; while a body is sent a second one writes to the
upstream. Whoever waits, waits in `select` for two things at once: what it wants, and the end of its client. A lock
stands around the choice of an upstream, and around nothing that blocks.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator


def seconds(name: str, default: int) -> float:
    return int(os.environ.get(name, default)) / 1000


ADDRESSES = [(host, int(port)) for host, port in (each.rsplit(":", 1) for each in os.environ["UPSTREAMS"].split(","))]
ROBIN = os.environ.get("BALANCE") == "round_robin"
COOKIE = os.environ.get("STICKY_COOKIE", "").encode()
HEAD, CONNECT, RESPONSE, STALL = (
    seconds(f"{name}_TIMEOUT_MS", 20_000) for name in ("REQUEST", "CONNECT", "RESPONSE", "STALL")
)
MAX_FAILS, EJECT = int(os.environ.get("MAX_FAILS", 0)), seconds("EJECT_MS", 20_000)
INTERVAL, CHECK = seconds("CHECK_INTERVAL_MS", 0), seconds("CHECK_TIMEOUT_MS", 60_000)
SHUTDOWN = seconds("SHUTDOWN_MS", 5000)
LINGER, MAX_HEAD, PIECE = 1.0, 65_536, 1 << 16

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rb"(%b) (\S+) HTTP/1\.([01])" % TOKEN)
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?")
FIELD = re.compile(rb"(%b):[ \t]*([^\r\n\0]*?)[ \t]*" % TOKEN)
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
HOPS = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"}
REPEATABLE = {b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"}
PHRASES = {400: "Bad Request", 408: "Request Timeout", 501: "Not Implemented", 502: "Bad Gateway"}
PHRASES |= {503: "Service Unavailable", 504: "Gateway Timeout"}


class Malformed(Exception):
    """What came is no HTTP/1.1."""


class Ended(Exception):
    """The other side closed or reset."""


class Late(Exception):
    """A time is over."""


class Left(Exception):
    """The client of this thread has gone: nobody waits for the rest."""


class Answer(Exception):
    """The balancer answers by itself."""

    def __init__(self, status: int, last: bool = False) -> None:
        super().__init__(status)
        self.status, self.last = status, last


class BrokenOff(Exception):
    """A part of a response is with the client, and the rest will not come."""


# -- messages -------------------------------------------------------------------------------------------------------


class Fields(list[tuple[bytes, bytes]]):
    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self if key.lower() == name]

    def elements(self, name: bytes) -> list[bytes]:
        return [part.strip().lower() for value in self.all(name) for part in value.split(b",") if part.strip()]

    def without(self, names: set[bytes]) -> Fields:
        return Fields(field for field in self if field[0].lower() not in names)

    def message(self) -> Fields:
        """Those that are not about the connection."""
        return self.without(HOPS | set(self.elements(b"connection")) - {b"host", b"content-length"})


def parse(head: bytes) -> tuple[bytes, Fields]:
    first, *lines = head.split(b"\r\n")
    found = [FIELD.fullmatch(line) for line in lines]
    if not all(found):
        raise Malformed
    return first, Fields((match[1], match[2]) for match in found if match)


def length_of(fields: Fields) -> int | None:
    """The length of a body; None: chunks; -1: nothing is said."""
    codings, lengths = fields.elements(b"transfer-encoding"), fields.elements(b"content-length")
    if codings:
        if codings != [b"chunked"] or lengths:
            raise Malformed
        return None
    if not lengths:
        return -1
    if len(set(lengths)) > 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
        raise Malformed
    return int(lengths[0])


class Pipe:
    """A socket and the bytes that came on it; waits end early when the `client` (another socket) is lost."""

    def __init__(self, sock: socket.socket, client: socket.socket | None = None) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock, self.client, self.buffer, self.ended = sock, client, bytearray(), False

    def _wait(self, reading: bool, end: float) -> None:
        mine = select.POLLIN if reading else select.POLLOUT
        poll = select.poll()
        poll.register(self.sock, mine)
        if self.client is not None and self.client.fileno() != self.sock.fileno():
            poll.register(self.client, 0)  # errors and resets are told without asking
        ready = poll.poll(max(0.0, end - time.monotonic()) * 1000 + 1)
        if not ready:
            raise Late
        if self.client is not None and any(
            number == self.client.fileno() and what & (select.POLLERR | select.POLLHUP) for number, what in ready
        ):
            raise Left

    def more(self, end: float) -> None:
        if self.ended:
            raise Ended
        while True:
            try:
                data = self.sock.recv(PIECE)
                break
            except BlockingIOError:
                self._wait(True, end)
            except OSError:
                raise Ended from None
        if not data:
            self.ended = True
            raise Ended
        self.buffer += data

    def send(self, data: bytes, end: float | None = None) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                self._wait(False, time.monotonic() + STALL if end is None else end)
            except OSError:
                raise Ended from None

    def head(self, end: float) -> tuple[bytes, Fields]:
        while (at := self.buffer.find(b"\r\n\r\n")) < 0:
            begins = bytes(self.buffer[:5])
            is_response = self.client is not None
            if len(self.buffer) > MAX_HEAD or (is_response and not b"HTTP/".startswith(begins)):
                raise Malformed
            self.more(end)
        head = bytes(self.buffer[:at])
        del self.buffer[: at + 4]
        return parse(head)

    def line(self, end: float) -> bytes:
        while (at := self.buffer.find(b"\r\n")) < 0:
            if len(self.buffer) > MAX_HEAD:
                raise Malformed
            self.more(end)
        line = bytes(self.buffer[: at + 2])
        del self.buffer[: at + 2]
        return line

    def body(self, length: int | None) -> Iterator[bytes]:
        """The pieces of a body as they come; STALL bounds the time for which nothing comes. -1: up to the end."""
        if length is None:
            yield from self._chunks()
            return
        while length:
            try:
                yield (piece := self._piece(length))
            except Ended:
                if length > 0 or not self.ended:  # a reset ends nothing well
                    raise
                return
            length -= len(piece) if length > 0 else 0

    def _piece(self, most: int) -> bytes:
        if not self.buffer:
            self.more(time.monotonic() + STALL)
        piece = bytes(self.buffer if most < 0 else self.buffer[:most])
        del self.buffer[: len(piece)]
        return piece

    def _chunks(self) -> Iterator[bytes]:
        while True:
            found = CHUNK.fullmatch(self.line(time.monotonic() + STALL))
            if not found:
                raise Malformed
            size = int(found[1], 16)
            if not size:
                break
            while size:
                piece = self._piece(size)
                size -= len(piece)
                yield piece
            if self.line(time.monotonic() + STALL) != b"\r\n":
                raise Malformed
        while self.line(time.monotonic() + STALL) != b"\r\n":
            pass

    def silent(self) -> bool:
        """Nothing has come, no end either."""
        if self.buffer or self.ended:
            return False
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def reset(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


# -- upstreams ------------------------------------------------------------------------------------------------------


class Upstream:
    def __init__(self, number: int, address: tuple[str, int]) -> None:
        self.address, self.cookie = address, b"s%d" % number
        self.under_way = self.failures = 0
        self.back_at = 0.0
        self.healthy, self.against = True, 0
        self.idle: list[Pipe] = []

    @property
    def out(self) -> bool:
        return not self.healthy or time.monotonic() < self.back_at

    def connect(self, client: socket.socket) -> Pipe:
        while True:
            with lock:
                pipe = self.idle.pop() if self.idle else None
            if pipe is None:
                pipe = Pipe(socket.create_connection(self.address, CONNECT), client)
            elif not pipe.silent():
                pipe.reset()
                continue
            pipe.client = client
            return pipe

    def keep(self, pipe: Pipe) -> None:
        pipe.client = None
        with lock:
            self.idle.append(pipe)

    def failed(self) -> None:
        with lock:
            self.failures += 1
            if MAX_FAILS and self.failures >= MAX_FAILS:
                self.failures, self.back_at = 0, time.monotonic() + EJECT

    def check_for_ever(self) -> None:
        while True:
            passed = self.check()
            self.against = self.against + 1 if passed != self.healthy else 0
            if self.against == 2:
                self.healthy, self.against = passed, 0
            time.sleep(INTERVAL)

    def check(self) -> bool:
        end = time.monotonic() + CHECK
        try:
            pipe = Pipe(socket.create_connection(self.address, CHECK))
        except OSError:
            return False
        try:
            pipe.send(b"GET /healthz HTTP/1.1\r\nHost: upstream\r\nConnection: close\r\n\r\n", end)
            first, _ = pipe.head(end)
        except (Ended, Late, Malformed):
            return False
        finally:
            pipe.reset()
        found = STATUS_LINE.fullmatch(first)
        return bool(found and found[2].startswith(b"2"))


lock = threading.Lock()
upstreams = [Upstream(number, address) for number, address in enumerate(ADDRESSES)]
turn = 0


def choose(tried: list[Upstream], cookie: bytes) -> Upstream | None:
    """It counts as under way from here on."""
    global turn
    with lock:
        there = [each for each in upstreams if each not in tried and not each.out]
        if not there:
            return None
        sticky = [each for each in there if each.cookie == cookie]
        if sticky:
            chosen = sticky[0]
        elif ROBIN:
            order = upstreams[turn:] + upstreams[:turn]
            chosen = next(each for each in order if each in there)
            turn = (upstreams.index(chosen) + 1) % len(upstreams)
        else:
            chosen = min(reversed(there), key=lambda each: each.under_way)
        chosen.under_way += 1
        return chosen


# -- requests -------------------------------------------------------------------------------------------------------


class Request:
    def __init__(self, first: bytes, fields: Fields, peer: str) -> None:
        found = REQUEST_LINE.fullmatch(first)
        hosts = fields.all(b"host")
        if not found or len(hosts) > 1 or (not hosts and found[3] == b"1"):
            raise Malformed
        self.method, self.target, minor = found.groups()
        self.fields, self.peer = fields, peer
        length = length_of(fields)
        self.length = 0 if length == -1 else length
        options = fields.elements(b"connection")
        self.modern = minor == b"1"
        self.last = not self.modern or b"close" in options
        self.continues = self.modern and b"100-continue" in fields.elements(b"expect")
        self.host = hosts[0] if hosts else b""
        if absolute := re.fullmatch(rb"(?i)https?://([^/?]*)(.*)", self.target):
            self.host, rest = absolute.groups()
            self.target = rest if rest.startswith(b"/") else b"/" + rest

    @property
    def repeatable(self) -> bool:
        return self.length == 0 and self.method in REPEATABLE

    def cookie(self) -> bytes:
        pairs = [pair.strip().partition(b"=") for line in self.fields.all(b"cookie") for pair in line.split(b";")]
        return next((value for name, _, value in pairs if COOKIE and name == COOKIE), b"")

    def head(self) -> bytes:
        peer = self.peer.encode()
        fields = self.fields.message().without({b"host", b"content-length", b"expect"})
        fields += [(b"Host", self.host), (b"Via", b"1.1 threads"), (b"X-Forwarded-For", peer)]
        fields.append((b"Forwarded", b'proto=http;for="%b"' % peer))
        if self.length is None:
            fields.append((b"Transfer-Encoding", b"chunked"))
        elif self.length or self.fields.all(b"content-length"):
            fields.append((b"Content-Length", b"%d" % self.length))
        return written(b"%b %b HTTP/1.1" % (self.method, self.target), fields)


def written(first: bytes, fields: Fields) -> bytes:
    return b"\r\n".join([first, *(b"%b: %b" % field for field in fields), b"", b""])


class Uploading(threading.Thread):
    """Passes the body of a request on, beside the thread that waits for the response."""

    def __init__(self, client: Pipe, upstream: Pipe, request: Request) -> None:
        super().__init__(daemon=True)
        self.client, self.upstream, self.request = client, upstream, request
        self.read = False  # to its end; the last piece may still have to be sent
        self.complete = False
        self.status = 0  # what is wrong with the client's part
        self.over = socket.socketpair()

    def run(self) -> None:
        chunked = self.request.length is None
        try:
            if self.request.continues and not self.client.buffer:
                self.client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            left = self.request.length or 0
            for piece in self.client.body(self.request.length):
                left -= len(piece)
                self.read = left == 0
                self.upstream.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            self.read = True
            if chunked:
                self.upstream.send(b"0\r\n\r\n")
            self.complete = True
        except Late:
            self.status = 408
        except Malformed:
            self.status = 400
        except (Ended, Left, ValueError, OSError):  # of either side; ValueError: closed meanwhile
            self.status = 400 if self.client.ended else 0
        finally:
            self.over[1].close()

    def finish(self) -> None:
        if not self.complete and self.is_alive():
            with contextlib.suppress(OSError):
                self.client.sock.shutdown(socket.SHUT_RD)
            with contextlib.suppress(OSError):
                self.upstream.sock.shutdown(socket.SHUT_RDWR)
        self.join()
        self.over[0].close()


class Client:
    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.pipe, self.peer = Pipe(sock, sock), peer
        self.pipe.client = None
        self.idle = False

    def serve(self) -> None:
        """A request, its response, the next request."""
        try:
            while self.one():
                pass
            self.finish()
        except (BrokenOff, Left, Ended, Late):
            self.pipe.reset()
        finally:
            with contextlib.suppress(OSError):
                self.pipe.sock.close()
            with lock:
                clients.discard(self)

    def one(self) -> bool:
        """One request; False if it was the last one."""
        request = None
        try:
            request = self.next_request()
            if request is None:
                return False
            return self.pass_on(request) and not request.last and not stopping.is_set()
        except Malformed:
            answer = Answer(400, last=True)
        except Answer as own:
            answer = own
        last = answer.last or request is None or request.last or stopping.is_set()
        self.answer(answer.status, last)
        return not last

    def next_request(self) -> Request | None:
        with lock:
            self.idle = not self.pipe.buffer
            if stopping.is_set():
                return None
        try:
            if not self.pipe.buffer:
                self.pipe.more(time.monotonic() + 3600)
            self.idle = False
            while self.pipe.buffer.startswith(b"\r\n"):
                del self.pipe.buffer[:2]
            request = Request(*self.pipe.head(time.monotonic() + HEAD), self.peer)
        except Late:
            raise Answer(408, last=True) from None
        except Ended:
            return None
        if request.method == b"CONNECT":
            raise Answer(501, last=True)
        return request

    def answer(self, status: int, last: bool) -> None:
        fields = Fields([(b"Content-Length", b"0")])
        fields += [(b"Connection", b"close")] if last else []
        self.pipe.send(written(f"HTTP/1.1 {status} {PHRASES[status]}".encode(), fields))

    def finish(self) -> None:
        """Close in stages, so that a client that is still sending can read its answer."""
        with contextlib.suppress(OSError, Ended, Late):
            self.pipe.sock.shutdown(socket.SHUT_WR)
            end = time.monotonic() + LINGER
            while not stopping.is_set():
                self.pipe.buffer.clear()
                self.pipe.more(end)

    # -- one request ------------------------------------------------------------------------------------------------

    def pass_on(self, request: Request) -> bool:
        """Whether the connection can go on afterwards."""
        tried: list[Upstream] = []
        status = 503
        while upstream := choose(tried, request.cookie()):
            tried.append(upstream)
            try:
                try:
                    pipe = upstream.connect(self.pipe.sock)
                except OSError:
                    upstream.failed()
                    status = 502
                    continue
                outcome = self.exchange(request, upstream, pipe)
            finally:
                with lock:
                    upstream.under_way -= 1
            if isinstance(outcome, bool):
                return outcome
            upstream.failed()
            status = outcome
            if status == 504 or not request.repeatable:
                break
        raise Answer(status, last=request.length != 0)

    def exchange(self, request: Request, upstream: Upstream, pipe: Pipe) -> bool | int:
        """Whether the client's connection can go on; or the status of a failure: nothing has reached the client."""
        upload = None
        kept = False
        try:
            with contextlib.suppress(Ended):
                pipe.send(request.head())
            if request.length != 0:
                upload = Uploading(self.pipe, pipe, request)
                upload.start()
                self.until_answered(pipe, upload)
            answer = self.response_head(request, pipe)
            if isinstance(answer, int):
                return answer
            first, fields, length, reusable = answer
            self.pass_back(request, upstream, pipe, first, fields, length)
            upstream.failures = 0
            if upload and upload.read:
                upload.join()  # it was answered, so its last piece was sent
            whole = upload is None or upload.complete
            kept = reusable and whole and pipe.silent()
            if kept:
                upstream.keep(pipe)
            return whole and (request.modern or length is None or length >= 0)
        finally:
            if upload:
                upload.finish()
            if not kept:
                pipe.reset()

    def until_answered(self, pipe: Pipe, upload: Uploading) -> None:
        """Wait for the end of the request, or for a response that comes before."""
        poll = select.poll()
        poll.register(upload.over[0], select.POLLIN)
        poll.register(pipe.sock, select.POLLIN)
        poll.register(self.pipe.sock, 0)
        ready = dict(poll.poll())
        if ready.get(self.pipe.sock.fileno(), 0) & select.POLLERR:
            raise Left
        if upload.over[0].fileno() in ready and pipe.sock.fileno() not in ready and not upload.complete:
            upload.join()
            if upload.status:
                raise Answer(upload.status, last=True)

    def response_head(self, request: Request, pipe: Pipe) -> tuple[bytes, Fields, int | None, bool] | int:
        end = time.monotonic() + RESPONSE
        while True:
            try:
                first, fields = pipe.head(end)
                found = STATUS_LINE.fullmatch(first)
                if not found or found[2] == b"101":
                    raise Malformed
                length = length_of(fields)
            except Late:
                return 504
            except (Ended, Malformed):
                return 502
            if not found[2].startswith(b"1"):
                break
            if request.modern and not (found[2] == b"100" and request.continues):
                self.pipe.send(written(first, fields.message().without({b"content-length"})))
        code = int(found[2])
        reusable = found[1] == b"1" and b"close" not in fields.elements(b"connection")
        if request.method == b"HEAD" or code in (204, 304):
            return first, fields, 0, reusable
        return first, fields, length, reusable and length != -1

    def pass_back(
        self, request: Request, upstream: Upstream, pipe: Pipe, first: bytes, fields: Fields, length: int | None
    ) -> None:
        kept = fields.message()
        if fields.elements(b"transfer-encoding") or b" 204" in first[:12]:
            kept = kept.without({b"content-length"})
        chunked = request.modern and (length is None or length < 0)
        if chunked:
            kept.append((b"Transfer-Encoding", b"chunked"))
        if COOKIE and request.cookie() != upstream.cookie:
            kept.append((b"Set-Cookie", b"%b=%b; Path=/" % (COOKIE, upstream.cookie)))
        if request.last or stopping.is_set():
            kept.append((b"Connection", b"close"))
        self.pipe.send(written(b"HTTP/1.1" + first[8:], kept))
        try:
            for piece in pipe.body(length):
                self.pipe.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                self.pipe.send(b"0\r\n\r\n")
        except (Ended, Late, Malformed):
            raise BrokenOff from None


# -- the process ----------------------------------------------------------------------------------------------------

stopping = threading.Event()
clients: set[Client] = set()


def serve(listener: socket.socket) -> None:
    while True:
        try:
            sock, (peer, *_) = listener.accept()
        except OSError:
            return
        client = Client(sock, peer)
        with lock:
            clients.add(client)
        start(client.serve)


def start(function: Callable[[], None]) -> None:
    threading.Thread(target=function, daemon=True).start()


def drain(listener: socket.socket) -> None:
    with lock:
        stopping.set()
        idle = [client for client in clients if client.idle]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for client in idle:
        with contextlib.suppress(OSError):
            client.pipe.sock.shutdown(socket.SHUT_RDWR)
    end = time.monotonic() + SHUTDOWN
    while clients and time.monotonic() < end:
        time.sleep(0.005)
    os._exit(0)


def main() -> None:
    threading.stack_size(256 * 1024)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    address = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))
    listener = socket.create_server(address, backlog=512)
    start(lambda: serve(listener))
    for upstream in upstreams if INTERVAL else ():
        start(upstream.check_for_ever)
    signal.sigwait({signal.SIGTERM})
    drain(listener)


if __name__ == "__main__":
    main()
