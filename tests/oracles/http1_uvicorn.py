"""Runs uvicorn, whose parser is h11, with the resources of the kata `http1`.

The resources are those of the reference; what is put to the proof is how another server reads, frames and closes.
What a server leaves to its application (limits, Host) is looked at here, as an application would.
"""

import os
import sys
from pathlib import Path

import uvicorn

KATA = "http1"
NEEDS = "uvicorn"
PACKAGE = "python3-uvicorn, or pip install uvicorn"
DEVIATIONS = {
    "length_and_chunks": "h11 reads the chunks, as it may, and keeps the connection, which RFC 9112 §6.1 forbids",
    "odd_line_ends": "h11 refuses an empty line before a request; RFC 9112 §2.2 only says SHOULD, the brief decides",
    "half_close_is_answered": "uvicorn takes the end of input for the end of the client; RFC 9112 §9.6 says it is none",
    "slow_requests_are_cut_off": "uvicorn has no time-out for requests; it is meant to stand behind a proxy that has",
    "refusal_can_be_read": "uvicorn closes at once; RFC 9112 §9.6 tells what that risks, and demands nothing",
}

sys.path.insert(0, str(Path(__file__).parents[2] / "reference" / "http1"))

from files import Request, answer, problem  # noqa: E402
from solution import ABSOLUTE, HOST  # noqa: E402

MAX_TARGET, MAX_FIELDS, MAX_BODY = (int(os.environ[name]) for name in ("MAX_TARGET", "MAX_FIELDS", "MAX_BODY"))


def refusal(request, size):
    """What an application can see of a message that is refused."""
    hosts = request.lines("host")
    if len(request.target) > MAX_TARGET:
        return problem(414)
    if size > MAX_FIELDS:
        return problem(431)
    if len(hosts) > 1 or not all(map(HOST.fullmatch, hosts)):
        return problem(400)
    if any(int(length) > MAX_BODY for length in request.lines("content-length")):
        return problem(413)
    return None


async def read(request, receive):
    """The body; False when the client went away before it was complete, None when it is too large."""
    pieces, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > MAX_BODY:
            return None
        more = message.get("more_body", False)
    return b"".join(pieces)


async def app(scope, receive, send):
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    target = (scope["raw_path"] + query).decode("latin-1")
    request = Request(scope["method"], target, int(scope["http_version"][-1]), fields)
    request.host = "".join(request.lines("host"))
    if absolute := ABSOLUTE.fullmatch(target):
        request.host, request.target = absolute.groups()
    reply = refusal(request, sum(len(name) + len(value) + 4 for name, value in fields))
    if not reply:
        body = await read(request, receive)
        if body is False:
            return
        if body is None:
            reply = problem(413)
        else:
            request.body = body
            reply = answer(request)
    last = [(b"connection", b"close")] if reply.status in (413, 414, 431) else []
    told = [(name.lower().encode(), value.encode("latin-1")) for name, value in reply.fields]
    length = [(b"content-length", b"%d" % len(reply.body))] if reply.status not in (204, 304) else []
    await send({"type": "http.response.start", "status": reply.status, "headers": [*told, *length, *last]})
    await send({"type": "http.response.body", "body": reply.body})


uvicorn.run(
    app,
    host=os.environ["HOST"],
    port=int(os.environ["PORT"]),
    http="h11",
    lifespan="off",
    access_log=False,
    log_level="warning",
    server_header=False,
    backlog=512,
    h11_max_incomplete_event_size=4 * (MAX_TARGET + MAX_FIELDS),
    timeout_keep_alive=int(os.environ["KEEP_ALIVE_MS"]) / 1000,
    timeout_graceful_shutdown=int(os.environ["SHUTDOWN_MS"]) / 1000,
)
