"""A correct `chat_stream` on the usual stack: an ASGI application on uvicorn, and httpx with its pool for the engine.

`receive()` tells an application that its client has gone, so one task waits for that while another one generates.
Lines come from a generator; the keep-alive waits for the same pending line again, instead of cancelling it.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import uvicorn

KEEPALIVE, DRAIN = (int(os.environ.get(name, 5000)) / 1000 for name in ("KEEPALIVE_MS", "DRAIN_MS"))
MOST, KEY = int(os.environ.get("MAX_GENERATIONS", 200)), os.environ.get("API_KEY", "")
ENGINE = os.environ.get("ENGINE_URL", "http://127.0.0.1:9000")
client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None), trust_env=False)
generations: set[Generation] = set()


class Problem(Exception):
    def __init__(
        self, status: int, kind: str, message: str, param: Any = None, code: Any = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, {key.replace("_", "-"): value for key, value in headers.items()}
        self.document = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad(param: str | None, message: str) -> Problem:
    return Problem(400, "invalid_request_error", message, param)


def busy(after: str = "1") -> Problem:
    return Problem(429, "rate_limit_error", "later", None, "rate_limit_exceeded", Retry_After=after)


def failed(message: str) -> Problem:
    return Problem(502, "server_error", message, None, "upstream_error")


def checked(body: bytes) -> dict[str, Any]:
    try:
        chat = json.loads(body)
    except (ValueError, RecursionError):
        raise bad(None, "no JSON") from None
    if not isinstance(chat, dict):
        raise bad(None, "no object")
    model, messages = chat.get("model"), chat.get("messages")
    if not (isinstance(model, str) and model):
        raise bad("model", "a name is wanted")
    if not (isinstance(messages, list) and messages and all(is_message(each) for each in messages)):
        raise bad("messages", "messages with roles are wanted")
    chat = {key: value for key, value in chat.items() if value is not None}
    if not isinstance(chat.get("stream", False), bool):
        raise bad("stream", "true or false")
    if "stream_options" in chat:
        options = chat["stream_options"]
        right = isinstance(options, dict) and options.get("include_usage") in (None, True, False)
        if not right or not chat.get("stream"):
            raise bad("stream_options", "for streams only")
    for name, most in (("max_tokens", None), ("n", 1)):
        value = chat.get(name, 1)
        if type(value) is not int or value < 1 or (most and value > most):
            raise bad(name, "not like that")
    return chat


def is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str)


class Text:
    """Deltas from lines."""

    def __init__(self) -> None:
        self.decoders: dict[int, Any] = {}

    def decoded(self, key: int, data: bytes, final: bool = False) -> str:
        decoder = self.decoders.setdefault(key, codecs.getincrementaldecoder("utf-8")(errors="replace"))
        return decoder.decode(data, final)

    def delta(self, key: int, text: str) -> list[dict[str, Any]]:
        if not text:
            return []
        return [{"content": text} if key < 0 else {"tool_calls": [{"index": key, "function": {"arguments": text}}]}]

    def of(self, line: dict[str, Any]) -> list[dict[str, Any]]:
        if "done" in line:
            return [delta for key in [*self.decoders] for delta in self.delta(key, self.decoded(key, b"", True))]
        if "token" in line:
            return self.delta(-1, self.decoded(-1, base64.b64decode(line["token"])))
        call = line["tool_call"]
        if "arguments" in call:
            return self.delta(call["index"], self.decoded(call["index"], base64.b64decode(call["arguments"])))
        function = {"name": call["name"], "arguments": ""}
        return [{"tool_calls": [{"index": call["index"], "id": call["id"], "type": "function", "function": function}]}]


async def lines(chat: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    asked = {key: value for key, value in chat.items() if key not in ("stream", "stream_options", "n")}
    try:
        async with client.stream("POST", f"{ENGINE}/generate", json=asked) as reply:
            if reply.status_code == 404:
                raise Problem(404, "invalid_request_error", "no such model", "model", "model_not_found")
            if reply.status_code == 429:
                raise busy(reply.headers.get("retry-after", "1"))
            if reply.status_code != 200:
                raise failed(f"the engine says {reply.status_code}")
            kept = b""
            async for piece in reply.aiter_raw():
                *whole, kept = (kept + piece).split(b"\n")
                for line in whole:
                    yield understood(line)
    except httpx.HTTPError as error:
        raise failed(f"the engine is lost: {error}") from None
    raise failed("the engine ended too early")


def understood(line: bytes) -> dict[str, Any]:
    try:
        document = json.loads(line)
        kind = next(name for name in ("error", "token", "tool_call", "done") if name in document)
    except (ValueError, TypeError, StopIteration):
        raise failed("the engine raves") from None
    if not isinstance(document, dict):
        raise failed("the engine raves")
    if kind == "error":
        raise failed(document["error"]["message"])
    return document


class Generation:
    """One completion, from its request to the last byte of its answer."""

    def __init__(self, send: Any) -> None:
        self.send, self.begun, self.expired = send, False, False
        self.task: asyncio.Task[None] | None = None

    async def run(self, scope: dict[str, Any], body: bytes) -> None:
        try:
            await self.complete(scope, body)
        except Problem as problem:
            await self.tell(problem)
        except asyncio.CancelledError:
            if not self.expired:
                raise
            await self.tell(Problem(503, "server_error", "the server stops"))

    async def tell(self, problem: Problem) -> None:
        if self.begun:
            await self.event(problem.document)
            await self.send({"type": "http.response.body", "body": b""})
        else:
            await self.answer(problem.status, problem.document, problem.headers)

    async def complete(self, scope: dict[str, Any], body: bytes) -> None:
        if scope["path"] != "/v1/chat/completions":
            raise Problem(404, "invalid_request_error", "no such path")
        if scope["method"] != "POST":
            raise Problem(405, "invalid_request_error", "POST", Allow="POST")
        if dict(scope["headers"]).get(b"authorization") != f"Bearer {KEY}".encode():
            raise Problem(401, "invalid_request_error", "no", None, "invalid_api_key", WWW_Authenticate="Bearer")
        chat = checked(body)
        if len(generations) >= MOST:
            raise busy()
        generations.add(self)
        source = lines(chat)
        try:
            await (self.stream if chat.get("stream") else self.whole)(chat, source)
        finally:
            generations.discard(self)
            await source.aclose()

    async def answer(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        raw = [(key.encode(), value.encode()) for key, value in fields.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    async def write(self, text: str) -> None:
        if not self.begun:
            self.begun = True
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
            await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def event(self, document: Any) -> None:
        await self.write(f"data: {json.dumps(document)}\n\n")

    async def with_comments(self, source: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        while True:
            pending = asyncio.ensure_future(anext(source))
            try:
                while not (await asyncio.wait([pending], timeout=KEEPALIVE))[0]:
                    await self.write(": still here\n\n")
                yield pending.result()
            finally:
                if not pending.done():
                    pending.cancel()
                    await asyncio.wait([pending])

    async def stream(self, chat: dict[str, Any], source: AsyncIterator[dict[str, Any]]) -> None:
        head, text, fresh = envelope(chat, "chat.completion.chunk"), Text(), {"role": "assistant"}
        usage = (chat.get("stream_options") or {}).get("include_usage")
        head |= {"usage": None} if usage else {}

        async def chunk(delta: dict[str, Any], reason: str | None = None) -> None:
            await self.event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

        lines = self.with_comments(source)
        try:
            async for line in lines:
                for delta in text.of(line):
                    await chunk(fresh | delta)
                    fresh = {}
                if "done" in line:
                    break
        finally:
            await lines.aclose()
        if fresh:
            await chunk(fresh)
        await chunk({"content": None}, line["done"]["finish_reason"])
        if usage:
            await self.event({**head, "choices": [], "usage": counted(line["done"])})
        await self.write("data: [DONE]\n\n")
        await self.send({"type": "http.response.body", "body": b""})

    async def whole(self, chat: dict[str, Any], source: AsyncIterator[dict[str, Any]]) -> None:
        text, content, calls = Text(), "", {}
        async for line in source:
            for delta in text.of(line):
                content += delta.get("content", "")
                for call in delta.get("tool_calls", []):
                    known = calls.setdefault(call["index"], {"id": "", "type": "function", "function": {}})
                    known["id"] = call.get("id") or known["id"]
                    arguments = known["function"].get("arguments", "") + call["function"]["arguments"]
                    known["function"] |= call["function"] | {"arguments": arguments}
            if "done" in line:
                break
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if calls:
            message |= {"content": content or None, "tool_calls": [calls[index] for index in sorted(calls)]}
        choice = {"index": 0, "message": message, "finish_reason": line["done"]["finish_reason"]}
        usage = counted(line["done"])
        await self.answer(200, {**envelope(chat, "chat.completion"), "choices": [choice], "usage": usage})


def envelope(chat: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4()}", "object": kind, "created": int(time.time()), "model": chat["model"]}


def counted(done: dict[str, Any]) -> dict[str, int]:
    total = done["prompt_tokens"] + done["completion_tokens"]
    return {key: done[key] for key in ("prompt_tokens", "completion_tokens")} | {"total_tokens": total}


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    generation = Generation(send)
    generation.task = asyncio.create_task(generation.run(scope, body))
    gone = asyncio.create_task(receive())
    await asyncio.wait([generation.task, gone], return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if not generation.task.done():
        generation.task.cancel()
    await asyncio.wait([generation.task])
    if not generation.task.cancelled():
        generation.task.result()


class Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        asyncio.get_running_loop().call_later(DRAIN, expire)


def expire() -> None:
    for generation in list(generations):
        generation.expired = True
        if generation.task:
            generation.task.cancel()


if __name__ == "__main__":
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))
    limit = int(DRAIN + 2)
    config = uvicorn.Config(application, host, port, lifespan="off", log_level="error", timeout_graceful_shutdown=limit)
    Server(config).run()
