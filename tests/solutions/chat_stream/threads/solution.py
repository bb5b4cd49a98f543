"""A correct `chat_stream` of another design: a thread for each client, blocking sockets, `select` where two may speak.

Who waits for the engine waits for the end of its client as well, so nobody has to be cancelled from outside. Sending
blocks while the client does not read, and then nobody reads the engine: back-pressure needs no code here.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import itertools
import json
import os
import secrets
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import h11


def number(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


ENGINE = urlsplit(os.environ.get("ENGINE_URL", "http://127.0.0.1:9000"))
KEY = os.environ.get("API_KEY", "")
MOST = number("MAX_GENERATIONS", 200)
KEEPALIVE, DRAIN = number("KEEPALIVE_MS", 60_000) / 1000, number("DRAIN_MS", 5000) / 1000
PATH = "/v1/chat/completions"
numbers = itertools.count(1)
LIFE = secrets.token_hex(4)


class Gone(Exception):
    """The client of this thread has gone."""


class Failure(Exception):
    def __init__(
        self, status: int, kind: str, message: str, param: Any = None, code: Any = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.document = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad(message: str, param: str | None = None) -> Failure:
    return Failure(400, "invalid_request_error", message, param)


def upstream(message: str) -> Failure:
    return Failure(502, "server_error", message, code="upstream_error")


def busy(after: str = "1") -> Failure:
    return Failure(429, "rate_limit_error", "too much to do", code="rate_limit_exceeded", Retry_After=after)


class Client:
    """One connection, its requests one after the other."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.http = h11.Connection(h11.SERVER)
        self.is_busy = False

    def request(self) -> tuple[h11.Request, bytes]:
        head, body = None, bytearray()
        while not isinstance(event := self.http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                self.http.receive_data(self.sock.recv(1 << 16))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                raise Gone
        assert head
        return head, bytes(body)

    def write(self, *events: h11.Event) -> None:
        try:
            self.sock.sendall(b"".join(self.http.send(event) or b"" for event in events))
        except OSError:
            raise Gone from None

    def answer(self, status: int, document: Any, headers: Any = ()) -> None:
        body = json.dumps(document).encode()
        fields = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers]
        self.write(h11.Response(status_code=status, headers=fields), h11.Data(body), h11.EndOfMessage())

    @property
    def has_begun(self) -> bool:
        return self.http.our_state is not h11.SEND_RESPONSE

    def stream(self, text: str) -> None:
        head = []
        if not self.has_begun:
            fields = [("Content-Type", "text/event-stream; charset=utf-8"), ("Cache-Control", "no-cache")]
            head = [h11.Response(status_code=200, headers=fields)]
        self.write(*head, h11.Data(text.encode()))

    def event(self, document: Any) -> None:
        self.stream(f"data: {json.dumps(document, ensure_ascii=False)}\n\n")

    def look_whether_gone(self) -> bool:
        """True when it has more to say, later; raises Gone when it never will."""
        try:
            if self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                return True
        except BlockingIOError:
            return False
        except OSError:
            pass
        raise Gone


class Generation:
    """The engine's side: a socket, and lines as they come."""

    running: set[Generation] = set()  # noqa: RUF012
    lock = threading.Lock()
    expired = False

    def __init__(self, client: Client, wanted: dict[str, Any]) -> None:
        self.client, self.quiet_since = client, time.monotonic()
        self.http = h11.Connection(h11.CLIENT)
        self.rest = b""
        self.streams = bool(wanted.get("stream"))
        try:
            self.sock = socket.create_connection((ENGINE.hostname, ENGINE.port))
        except OSError as error:
            raise upstream(f"no engine: {error}") from None
        with contextlib.suppress(OSError):  # told when the answer is read
            self.ask({key: value for key, value in wanted.items() if key not in ("stream", "stream_options", "n")})

    def ask(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        fields = [("Host", ENGINE.netloc), ("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        for event in (
            h11.Request(method="POST", target="/generate", headers=fields),
            h11.Data(body),
            h11.EndOfMessage(),
        ):
            self.sock.sendall(self.http.send(event) or b"")

    def event(self) -> Any:
        """The next event of the engine's answer. The client is kept company meanwhile."""
        while (event := self._next_event()) is h11.NEED_DATA:
            self.wait()
            try:
                self.http.receive_data(self.sock.recv(1 << 16))
            except OSError as error:
                raise self.failed(f"the engine hung up: {error}") from None
        return event

    def _next_event(self) -> Any:
        try:
            return self.http.next_event()
        except h11.RemoteProtocolError as error:
            raise self.failed(f"the engine broke off: {error}") from None

    def failed(self, why: str) -> Failure:
        if self.expired:
            return Failure(503, "server_error", "the server stops", code="server_stops")
        return upstream(why)

    def wait(self) -> None:
        watched: list[socket.socket] = [self.sock, self.client.sock]
        while True:
            left = max(self.quiet_since + KEEPALIVE - time.monotonic(), 0) if self.streams else None
            ready = select.select(watched, [], [], left)[0]
            if self.client.sock in ready and self.client.look_whether_gone():
                watched = [self.sock]
            if self.sock in ready:
                return
            if not ready:
                self.tell(":\n\n")

    def tell(self, text: str) -> None:
        self.client.stream(text)
        self.quiet_since = time.monotonic()

    def lines(self) -> Iterator[dict[str, Any]]:
        head = self.event()
        if not isinstance(head, h11.Response):
            raise self.failed("the engine closed the connection")
        if head.status_code != 200:
            raise self.refusal(head)
        while not isinstance(event := self.event(), h11.EndOfMessage):
            *lines, self.rest = (self.rest + bytes(event.data)).split(b"\n")
            yield from map(self.read, lines)
        raise self.failed("the engine ended too early")

    def refusal(self, head: h11.Response) -> Failure:
        if head.status_code == 404:
            return Failure(404, "invalid_request_error", "no such model", "model", "model_not_found")
        if head.status_code == 429:
            return busy(dict(head.headers).get(b"retry-after", b"1").decode())
        return upstream(f"the engine says {head.status_code}")

    def read(self, line: bytes) -> dict[str, Any]:
        try:
            document = json.loads(line)
        except ValueError:
            document = None
        if isinstance(document, dict) and "error" in document:
            raise upstream(document["error"]["message"])
        if not isinstance(document, dict) or not {"token", "tool_call", "done"} & set(document):
            raise upstream(f"the engine said {line[:80]!r}")
        return document

    def close(self) -> None:
        self.sock.close()


@contextlib.contextmanager
def generation(client: Client, wanted: dict[str, Any]) -> Iterator[Generation]:
    with Generation.lock:
        if len(Generation.running) >= MOST:
            raise busy()
        token: Any = object()
        Generation.running.add(token)
    made = None
    try:
        made = Generation(client, wanted)
        with Generation.lock:
            Generation.running.discard(token)
            Generation.running.add(made)
        yield made
    finally:
        with Generation.lock:
            Generation.running.discard(made or token)
        if made:
            made.close()


class Builder:
    """What was said so far, for both forms: whole characters of the text and of each call's arguments."""

    def __init__(self) -> None:
        self.decoders: dict[Any, Any] = {}

    def decode(self, which: Any, data: str, final: bool = False) -> str:
        if which not in self.decoders:
            self.decoders[which] = codecs.getincrementaldecoder("utf-8")("replace")
        return self.decoders[which].decode(base64.b64decode(data), final)

    def deltas(self, line: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "token" in line:
            yield from self.delta("text", self.decode("text", line["token"]))
        elif "name" in line["tool_call"]:
            call = line["tool_call"]
            function = {"name": call["name"], "arguments": ""}
            yield {"tool_calls": [{"index": call["index"], "id": call["id"], "type": "function", "function": function}]}
        else:
            index = line["tool_call"]["index"]
            yield from self.delta(index, self.decode(index, line["tool_call"]["arguments"]))

    def delta(self, which: Any, text: str) -> Iterator[dict[str, Any]]:
        if text and which == "text":
            yield {"content": text}
        elif text:
            yield {"tool_calls": [{"index": which, "function": {"arguments": text}}]}

    def rest(self) -> Iterator[dict[str, Any]]:
        for which in list(self.decoders):
            yield from self.delta(which, self.decode(which, "", final=True))


def totals(done: dict[str, Any]) -> dict[str, int]:
    asked, said = done["prompt_tokens"], done["completion_tokens"]
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def base(wanted: dict[str, Any], kind: str) -> dict[str, Any]:
    name = f"chatcmpl-{LIFE}-{next(numbers)}"
    return {"id": name, "object": kind, "created": int(time.time()), "model": wanted["model"]}


def stream(made: Generation, wanted: dict[str, Any]) -> None:
    common, builder, first = base(wanted, "chat.completion.chunk"), Builder(), {"role": "assistant"}
    usage = (wanted.get("stream_options") or {}).get("include_usage")
    if usage:
        common["usage"] = None

    def send(delta: dict[str, Any], reason: str | None = None) -> None:
        document = {**common, "choices": [{"index": 0, "delta": {**first, **delta}, "finish_reason": reason}]}
        first.clear()
        made.tell(f"data: {json.dumps(document, ensure_ascii=False)}\n\n")

    for line in made.lines():
        if "done" in line:
            break
        for delta in builder.deltas(line):
            send(delta)
    for delta in builder.rest():
        send(delta)
    if first:
        send({"content": ""})
    send({}, line["done"]["finish_reason"])
    if usage:
        made.client.event({**common, "choices": [], "usage": totals(line["done"])})
    made.client.stream("data: [DONE]\n\n")
    made.client.write(h11.EndOfMessage())


def whole(made: Generation, wanted: dict[str, Any]) -> None:
    builder, deltas = Builder(), []
    for line in made.lines():
        if "done" in line:
            break
        deltas += builder.deltas(line)
    deltas += builder.rest()
    text = "".join(delta.get("content", "") for delta in deltas)
    calls: dict[int, Any] = {}
    for delta in deltas:
        for call in delta.get("tool_calls", []):
            known = calls.setdefault(
                call["index"], {"id": call.get("id"), "type": "function", "function": call["function"]}
            )
            if known["function"] is not call["function"]:
                known["function"]["arguments"] += call["function"]["arguments"]
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message |= {"content": text or None, "tool_calls": [calls[index] for index in sorted(calls)]}
    done = line["done"]
    choice = {"index": 0, "message": message, "finish_reason": done["finish_reason"], "logprobs": None}
    made.client.answer(200, {**base(wanted, "chat.completion"), "choices": [choice], "usage": totals(done)})


def parsed(head: h11.Request, body: bytes) -> dict[str, Any]:
    given = dict(head.headers).get(b"authorization", b"")
    if given != b"Bearer " + KEY.encode():
        raise Failure(401, "invalid_request_error", "no such key", code="invalid_api_key", WWW_Authenticate="Bearer")
    try:
        document = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise bad("no JSON") from None
    if not isinstance(document, dict):
        raise bad("no object")
    if not isinstance(document.get("model"), str) or not document["model"]:
        raise bad("model", "model")
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad("messages", "messages")
    if not all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in messages):
        raise bad("each message has a role", "messages")
    document = {key: value for key, value in document.items() if value is not None}
    if type(document.get("stream", False)) is not bool:
        raise bad("stream", "stream")
    options = document.get("stream_options", {})
    if not isinstance(options, dict) or not isinstance(options.get("include_usage"), bool | None):
        raise bad("stream_options", "stream_options")
    if "stream_options" in document and not document.get("stream"):
        raise bad("stream_options without a stream", "stream_options")
    if type(document.get("max_tokens", 1)) is not int or document.get("max_tokens", 1) < 1:
        raise bad("max_tokens", "max_tokens")
    if type(document.get("n", 1)) is not int or document.get("n", 1) != 1:
        raise bad("n is 1", "n")
    return document


def handle(client: Client, head: h11.Request, body: bytes) -> None:
    if head.target.decode() != PATH:
        raise Failure(404, "invalid_request_error", "no such path", code="unknown_url")
    if head.method != b"POST":
        raise Failure(405, "invalid_request_error", "POST it", Allow="POST")
    wanted = parsed(head, body)
    with generation(client, wanted) as made:
        (stream if wanted.get("stream") else whole)(made, wanted)


def serve(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client = Client(sock)
    with sock, contextlib.suppress(OSError, Gone, h11.RemoteProtocolError):
        while client.http.our_state is h11.IDLE:
            head, body = client.request()
            BUSY.add(client)
            try:
                handle(client, head, body)
            except Failure as failure:
                if client.has_begun:
                    client.event(failure.document)
                    client.write(h11.EndOfMessage())
                else:
                    client.answer(failure.status, failure.document, failure.headers)
            finally:
                BUSY.discard(client)
            if client.http.our_state is h11.DONE:
                client.http.start_next_cycle()


BUSY: set[Client] = set()


def main() -> None:
    listener = socket.create_server((os.environ.get("HOST", "127.0.0.1"), number("PORT", 8000)), backlog=512)
    stop, ring = socket.socketpair()
    ring.setblocking(False)
    signal.set_wakeup_fd(ring.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)
    while stop not in (ready := select.select([listener, stop], [], [])[0]):
        if listener in ready:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
    listener.close()
    idle_by(time.monotonic() + DRAIN)
    Generation.expired = True
    with Generation.lock:
        for made in Generation.running:
            if isinstance(made, Generation):
                with contextlib.suppress(OSError):
                    made.sock.shutdown(socket.SHUT_RDWR)
    idle_by(time.monotonic() + 1)
    os._exit(0)


def idle_by(end: float) -> None:
    while BUSY and time.monotonic() < end:
        time.sleep(0.005)


if __name__ == "__main__":
    main()
