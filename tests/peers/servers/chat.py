"""Chat completions by sse-starlette on uvicorn: streams, and what is no stream, as the path says."""

import asyncio
import json
import os

import uvicorn
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

TEXT = ["Hel", "lo 😀", '\n"', "\u2028[DONE]"]


def chunk(delta, reason=None):
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return json.dumps(
        {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    )


async def events(kind):
    yield {"data": chunk({"role": "assistant", "content": ""})}
    for text in TEXT:
        yield {"data": chunk({"content": text})}
    if kind == "slow":
        await asyncio.Event().wait()
    if kind == "error":
        yield {"data": json.dumps({"error": {"message": "out of memory", "type": "server_error"}})}
        return
    yield {"comment": "keep-alive"}
    yield {"data": chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]})}
    yield {"data": chunk({}, "stop")}
    yield {"data": json.dumps({"choices": [], "usage": {"total_tokens": 3}})}
    yield {"data": "[DONE]", **({"event": "end"} if kind == "typed" else {})}
    if kind == "behind":
        yield {"data": chunk({})}


async def completions(request):
    kind, body = request.path_params["kind"], await request.json()
    if kind == "refuse":
        return JSONResponse({"error": {"message": "no"}}, 429, {"Retry-After": "5"})
    if not body.get("stream"):
        return JSONResponse({"choices": [{"message": {"content": "".join(TEXT)}}]})
    return EventSourceResponse(events(kind), ping=3600)


application = Starlette(routes=[Route("/{kind}", completions, methods=["POST"])])
uvicorn.run(application, host=os.environ["HOST"], port=int(os.environ["PORT"]), lifespan="off", log_level="error")
