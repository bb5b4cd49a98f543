"""A raw ASGI application under uvicorn: GET /MODE/N."""

import asyncio

import uvicorn
from work import ADDRESS, done, spin


async def application(scope, receive, send) -> None:
    if scope["type"] != "http":
        return
    _, mode, number = scope["path"].split("/")
    if mode == "work":
        spin(int(number))
    if mode == "later":
        await asyncio.sleep(int(number) / 1000)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": done(mode, int(number))})


uvicorn.run(application, host=ADDRESS[0], port=ADDRESS[1], lifespan="off", log_level="error")
