"""A language model's tokens over the API that everybody speaks: chat completions, streamed or whole.

What keeps the promise, and where:

- A client that has gone cancels its handler (web.py). That leaves the block of `ask` (engine.py), which hangs up on the
  engine: nothing else is needed to stop a generation, so nothing may stand in the way of a cancellation.
- `EventStream.send` waits while the client does not read, and the engine is read only between two sends. So the engine
  waits too, and no queue stands in between.
- The head of a stream is sent with its first event, not before. Until then an error is a status, then it is an event.
- Each text, the content and the arguments of each tool call, has a decoder that keeps the beginning of a character.
- `Lines.next` may be cancelled by the keep-alive's time-out and called again, and loses nothing; no generator could.
"""

import asyncio
import base64
import codecs
import hmac
import json
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from engine import EngineLost, Reply, ask
from web import Answer, Request, serve
from web import Stream as Body

API_KEY = os.environ.get("API_KEY", "")
MAX_GENERATIONS = int(os.environ.get("MAX_GENERATIONS", 200))
KEEPALIVE = int(os.environ.get("KEEPALIVE_MS", 60_000)) / 1000
DRAIN = int(os.environ.get("DRAIN_MS", 5000)) / 1000

PATH = "/v1/chat/completions"
HEAD = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
FOR_ENGINE = ("model", "messages", "max_tokens", "temperature", "stop", "tools")
new_decoder = codecs.getincrementaldecoder("utf-8")

Document = dict[str, Any]
stopping = asyncio.Event()
running: set[asyncio.Timeout] = set()  # one for each generation; they expire when the time after SIGTERM is over


class Failure(Exception):
    """An error as the client is told it: by a status, or by an event if a status was sent already."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.document = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def answer(self) -> Answer:
        return as_json(self.status, self.document, self.headers)


def as_json(status: int, document: Document, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/json", **(headers or {})})


def broken(message: str) -> Failure:
    return Failure(502, message, "server_error", code="upstream_error")


# -- the request ----------------------------------------------------------------------------------------------------


def wanted(request: Request) -> Document:
    """What the client wants. Raises Failure (401, 400)."""
    scheme, _, key = (request.lines("authorization") or [""])[0].partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), API_KEY.encode()):
        raise Failure(401, "no such key", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
    try:
        chat = json.loads(request.body.decode())
    except (ValueError, RecursionError):
        raise Failure(400, "this is no JSON") from None
    if not isinstance(chat, dict):
        raise Failure(400, "a JSON object is wanted")
    for name, is_right in MEMBERS.items():
        given = chat.get(name)
        if not is_right(given) and (given is not None or name in ("model", "messages")):
            raise Failure(400, f"{name} is missing or wrong", param=name)
    if chat.get("stream_options") is not None and not chat.get("stream"):
        raise Failure(400, "stream_options are for streams", param="stream_options")
    return chat


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # true is an int in Python, and none in JSON


def are_messages(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in value)


def are_options(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("include_usage"), bool | None)


MEMBERS = {
    "model": lambda value: isinstance(value, str) and value != "",
    "messages": are_messages,
    "stream": lambda value: isinstance(value, bool),
    "stream_options": are_options,
    "max_tokens": lambda value: is_integer(value) and value >= 1,
    "n": lambda value: is_integer(value) and value == 1,
}


# -- what the engine says -------------------------------------------------------------------------------------------


class Lines:
    """The engine's lines, however they are cut into pieces."""

    def __init__(self, reply: Reply) -> None:
        self.reply, self.rest = reply, bytearray()

    async def next(self) -> Document:
        """The next line that is no error. Raises Failure or EngineLost."""
        await self.reply.head()
        if self.reply.status != 200:
            raise self.refusal()
        while (end := self.rest.find(b"\n")) < 0:
            piece = await self.reply.read()
            if not piece:
                raise broken("the engine stopped in the middle")
            self.rest += piece
        line = bytes(self.rest[:end])
        del self.rest[: end + 1]
        return self.understood(line)

    def understood(self, line: bytes) -> Document:
        try:
            event: Document = json.loads(line)
            if "error" in event:
                raise broken(str(event["error"]["message"]))
            if not event.keys() & {"token", "tool_call", "done"}:
                raise ValueError("an unknown kind of line")
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise broken(f"the engine said something odd: {error}") from None
        return event

    def refusal(self) -> Failure:
        match self.reply.status:
            case 404:
                return Failure(404, "there is no such model", param="model", code="model_not_found")
            case 429:
                return busy(self.reply.headers.get("retry-after", "1"))
        return broken(f"the engine refuses with {self.reply.status}")


def busy(seconds: str) -> Failure:
    headers = {"Retry-After": seconds}
    return Failure(429, "too much to do", "rate_limit_error", code="rate_limit_exceeded", headers=headers)


class Deltas:
    """Deltas from the engine's lines. Whole characters go out; the beginning of one stays in its text's decoder."""

    def __init__(self) -> None:
        # By the index of a tool call; None is the content.
        self.decoders: dict[int | None, codecs.IncrementalDecoder] = {}

    def of(self, event: Document) -> list[Document]:
        if "token" in event:
            return self.text(None, event["token"])
        call = event["tool_call"]
        if "id" in call:
            function = {"name": call["name"], "arguments": ""}
            begins = {"index": call["index"], "id": call["id"], "type": "function", "function": function}
            return [{"tool_calls": [begins]}]
        return self.text(call["index"], call["arguments"])

    def text(self, index: int | None, data: str, final: bool = False) -> list[Document]:
        decoder = self.decoders.setdefault(index, new_decoder("replace"))
        text = decoder.decode(base64.b64decode(data), final)
        if not text:
            return []
        if index is None:
            return [{"content": text}]
        return [{"tool_calls": [{"index": index, "function": {"arguments": text}}]}]

    def rest(self) -> list[Document]:
        """Of characters that will never be whole."""
        return [delta for index in list(self.decoders) for delta in self.text(index, "", final=True)]


# -- what the client gets -------------------------------------------------------------------------------------------


class EventStream:
    """A response that begins with its first event."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.body: Body | None = None

    async def send(self, text: str) -> None:
        if self.body is None:
            self.body = self.request.begin(200, HEAD)
        await self.body.send(text.encode())

    async def event(self, document: Document) -> None:
        await self.send(f"data: {json.dumps(document)}\n\n")


def envelope(chat: Document, kind: str) -> Document:
    """What stays the same over all chunks."""
    identifier, created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
    return {"id": identifier, "object": kind, "created": created, "model": chat["model"]}


def usage(done: Document) -> Document:
    asked, said = done["prompt_tokens"], done["completion_tokens"]
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


async def stream(chat: Document, lines: Lines, out: EventStream) -> None:
    same, deltas = envelope(chat, "chat.completion.chunk"), Deltas()
    wants_usage = (chat.get("stream_options") or {}).get("include_usage")
    if wants_usage:
        same["usage"] = None

    async def tell(delta: Document, reason: str | None = None) -> None:
        await out.event(same | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    event = await next_or_comment(lines, out)
    await tell({"role": "assistant", "content": ""})
    while "done" not in event:
        for delta in deltas.of(event):
            await tell(delta)
        event = await next_or_comment(lines, out)
    for delta in deltas.rest():
        await tell(delta)
    await tell({}, event["done"]["finish_reason"])
    if wants_usage:
        await out.event(same | {"choices": [], "usage": usage(event["done"])})
    await out.send("data: [DONE]\n\n")


async def next_or_comment(lines: Lines, out: EventStream) -> Document:
    """The engine's next line; while it is silent, the client hears that somebody is there."""
    while True:
        try:
            async with asyncio.timeout(KEEPALIVE):
                return await lines.next()
        except TimeoutError:
            await out.send(": keep-alive\n\n")


async def whole(chat: Document, lines: Lines) -> Answer:
    deltas, content = Deltas(), []
    calls: dict[int, Document] = {}

    def add(delta: Document) -> None:
        content.append(delta.get("content", ""))
        for call in delta.get("tool_calls", []):
            index = call.pop("index")
            if "id" in call:
                calls[index] = call
            else:
                calls[index]["function"]["arguments"] += call["function"]["arguments"]

    while "done" not in (event := await lines.next()):
        for delta in deltas.of(event):
            add(delta)
    for delta in deltas.rest():
        add(delta)
    message: Document = {"role": "assistant", "content": "".join(content)}
    if calls:
        message["content"] = message["content"] or None
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    choices = [{"index": 0, "message": message, "finish_reason": event["done"]["finish_reason"]}]
    return as_json(200, envelope(chat, "chat.completion") | {"choices": choices, "usage": usage(event["done"])})


# -- one completion after the other ---------------------------------------------------------------------------------


@asynccontextmanager
async def place() -> AsyncIterator[None]:
    """A place among the generations that may be under way. Raises Failure when there is none, or no time left."""
    if len(running) >= MAX_GENERATIONS:
        raise busy("1")
    limit = asyncio.timeout(None)
    running.add(limit)
    try:
        async with limit:
            yield
    except TimeoutError:
        raise Failure(503, "the server stops", "server_error") from None
    finally:
        running.discard(limit)


async def complete(request: Request) -> Answer | None:
    out = EventStream(request)
    try:
        chat = wanted(request)
        document = {name: chat[name] for name in FOR_ENGINE if chat.get(name) is not None}
        async with place(), ask(document) as reply:
            if not chat.get("stream"):
                return await whole(chat, Lines(reply))
            await stream(chat, Lines(reply), out)
            return None
    except Failure as problem:
        failure = problem
    except EngineLost as problem:
        failure = broken(str(problem))
    if out.body is None:
        return failure.answer()
    await out.event(failure.document)
    return None


async def handle(request: Request) -> Answer | None:
    if request.path.partition("?")[0] != PATH:
        return Failure(404, "there is no such path").answer()
    if request.method != "POST":
        return Failure(405, "completions are made by POST", headers={"Allow": "POST"}).answer()
    return await complete(request)


async def main() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))
    serving = asyncio.create_task(serve(handle, host, port, stopping))
    await asyncio.wait([serving, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait([serving], timeout=DRAIN if stopping.is_set() else 0)
    for limit in list(running):
        limit.reschedule(0)  # its generation ends with an error, now
    await asyncio.wait([serving], timeout=min(DRAIN, 1))  # whoever does not read has had its time
    if serving.done():
        serving.result()  # such as: the port is taken


if __name__ == "__main__":
    asyncio.run(main())
