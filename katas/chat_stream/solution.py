"""A language model's tokens over the API that everybody speaks: chat completions, streamed or whole.

web.py is given: it reads requests, and writes what you answer. `request.begin(200, HEAD)` sends the head of a response
that has no length, and returns its body: `await body.send(data)` writes a piece, and waits while the client does not
read. The response ends when your handler returns None. When the client has gone, the handler is cancelled:
CancelledError comes out of the `await` where it stands.

engine.py is given: `async with ask(document) as reply` asks the engine, and hangs up on it when the block is left.
"""

import asyncio
import codecs
import json
import os
import secrets
import signal
import time
from typing import Any

from engine import Reply
from web import Answer, Request, serve

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
    """The engine has failed."""
    return Failure(502, message, "server_error", code="upstream_error")


# -- the request ----------------------------------------------------------------------------------------------------


def wanted(request: Request) -> Document:
    """What the client wants: the JSON of a good request with the right key. Raises Failure (401, 400)."""
    raise NotImplementedError("wanted() in solution.py")


# -- what the engine says -------------------------------------------------------------------------------------------


class Lines:
    """The engine's lines, however they are cut into pieces."""

    def __init__(self, reply: Reply) -> None:
        self.reply, self.rest = reply, bytearray()

    async def next(self) -> Document:
        """The next line that is no error: `token`, `tool_call` or `done`. Raises Failure or EngineLost.

        Begin with `reply.head()`: a status other than 200 is a refusal. Then `reply.read()` until a line is whole.
        """
        raise NotImplementedError("Lines.next() in solution.py")


class Deltas:
    """Deltas from the engine's lines. Whole characters go out; the beginning of one waits for its end."""

    def of(self, event: Document) -> list[Document]:
        """The deltas of one line: {"content": ...} or {"tool_calls": [...]}; none while a character is not whole.

        `new_decoder("replace")` makes a decoder that remembers; the content and the arguments of each call need one.
        """
        raise NotImplementedError("Deltas.of() in solution.py")

    def rest(self) -> list[Document]:
        """When the engine is done: what is left of characters that will never be whole."""
        raise NotImplementedError("Deltas.rest() in solution.py")


# -- what the client gets -------------------------------------------------------------------------------------------


def envelope(chat: Document, kind: str) -> Document:
    """What stays the same over all chunks."""
    identifier, created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
    return {"id": identifier, "object": kind, "created": created, "model": chat["model"]}


def usage(done: Document) -> Document:
    asked, said = done["prompt_tokens"], done["completion_tokens"]
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


async def stream(chat: Document, lines: Lines, request: Request) -> None:
    """The answer to `stream: true`: begin with the first line, send each delta at once, end with [DONE].

    Later: a comment after each KEEPALIVE of silence. Mind what a time-out does to whoever waits for the next line.
    """
    raise NotImplementedError("stream() in solution.py")


async def whole(chat: Document, lines: Lines) -> Answer:
    """The answer without `stream`: all deltas put together."""
    raise NotImplementedError("whole() in solution.py")


# -- one completion after the other ---------------------------------------------------------------------------------


async def complete(request: Request) -> Answer | None:
    """One completion: check what is wanted, ask the engine for it (`engine.ask`), and stream or answer what it says.

    A Failure or an EngineLost is a status as long as nothing was sent, and then an event of the stream. Later: no more
    than MAX_GENERATIONS at once.
    """
    wanted(request)
    raise NotImplementedError("complete() in solution.py")


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
    # What is still under way now has to be stopped, and its clients told so.
    if serving.done():
        serving.result()  # such as: the port is taken


if __name__ == "__main__":
    asyncio.run(main())
