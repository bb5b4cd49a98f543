"""What stdlib.py offers, by uvicorn. Without a Content-Length it sends chunks."""

import json
import os

import uvicorn

ADDRESS = os.environ["HOST"], int(os.environ["PORT"])


async def application(scope, receive, send) -> None:
    body, more = b"", True
    while more:
        event = await receive()
        body, more = body + event.get("body", b""), event.get("more_body", False)
    kind, _, number = scope["path"].strip("/").partition("/")

    async def answer(status: int, headers: dict[str, str], *parts: bytes) -> None:
        lines = [(key.encode(), value.encode()) for key, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": lines})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    match kind:
        case "echo":
            heard = {key.decode(): value.decode("latin-1") for key, value in scope["headers"]}
            told = {"method": scope["method"], "target": scope["path"], "headers": heard, "body": body.decode()}
            content = json.dumps(told).encode()
            await answer(200, {"content-type": "application/json", "content-length": str(len(content))}, content)
        case "chunked":
            await answer(200, {}, *(b"chunk %d\n" % index for index in range(int(number))))
        case "big":
            await answer(200, {"content-length": number}, b"x" * int(number))
        case "status":
            await answer(int(number), {"x-twice": "a", "X-Name": "b"})
        case "closing":
            await answer(200, {"connection": "close", "content-length": "2"}, b"ok")


uvicorn.run(application, host=ADDRESS[0], port=ADDRESS[1], lifespan="off", log_level="error")
