"""The `websockets` library as the server of the kata `websocket`: `--subject=tests/oracles/websockets_library.py`."""

import asyncio
import os
import re
import signal

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

KATA = "websocket"
NEEDS = "websockets"
PACKAGE = "python3-websockets, or pip install websockets"
DEVIATIONS = {
    "version": "it refuses other versions with 400 and does not name its own, which RFC 6455 4.4 asks for",
    "shortest_lengths": "it reads a length in any form; RFC 6455 5.2 binds who sends, README R5 who reads too",
    "utf8_fails_fast": "it decodes a text when its last fragment is there; RFC 6455 8.1 leaves that open",
}

ROOM = re.compile(r"/rooms/([A-Za-z0-9_-]{1,64})")
MAX_PENDING = int(os.environ["MAX_PENDING"])
ORIGINS = [origin for origin in os.environ["ORIGINS"].split(",") if origin]
SUBPROTOCOLS = os.environ["SUBPROTOCOLS"].split(",")
rooms: dict[str, set[ServerConnection]] = {}


def seconds(name: str) -> float:
    return int(os.environ[name]) / 1000


def path_of(connection: ServerConnection) -> str:
    return connection.request.path.partition("?")[0]


def find(connection: ServerConnection, request):
    path = request.path.partition("?")[0]
    if path != "/echo" and not ROOM.fullmatch(path):
        return connection.respond(404, "there is nothing here\n")


def enter(connection: ServerConnection, request, response):
    """Before the 101 is written: who has it is in."""
    if (found := ROOM.fullmatch(path_of(connection))) and response.status_code == 101:
        rooms.setdefault(found[1], set()).add(connection)


async def handle(connection: ServerConnection) -> None:
    found = ROOM.fullmatch(path_of(connection))
    try:
        if found:
            await meet(connection, rooms[found[1]])
        else:
            async for message in connection:
                await connection.send(message)
    except ConnectionClosed:
        pass
    finally:
        if found:
            leave(found[1], connection)


async def meet(connection: ServerConnection, room: set[ServerConnection]) -> None:
    async for message in connection:
        others = room - {connection}
        broadcast(others, message)
        for member in others:
            if member.transport.get_write_buffer_size() > MAX_PENDING:
                room.discard(member)
                member.transport.abort()


def leave(name: str, connection: ServerConnection) -> None:
    rooms[name].discard(connection)
    if not rooms[name]:
        del rooms[name]


def choose(connection: ServerConnection, offered):
    return next((each for each in offered if each in SUBPROTOCOLS), None)


async def main() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = await serve(
        handle,
        os.environ["HOST"],
        int(os.environ["PORT"]),
        origins=[*ORIGINS, None] if ORIGINS else None,
        select_subprotocol=choose,
        compression=None,
        process_request=find,
        process_response=enter,
        max_size=int(os.environ["MAX_MESSAGE"]),
        open_timeout=seconds("HANDSHAKE_TIMEOUT_MS"),
        ping_interval=seconds("PING_INTERVAL_MS"),
        ping_timeout=seconds("PONG_TIMEOUT_MS"),
        close_timeout=seconds("CLOSE_TIMEOUT_MS"),
        backlog=512,
    )
    await stopping.wait()
    server.close()
    # The library waits without a limit for a client that does not read, so the program does not.
    await asyncio.wait([asyncio.create_task(server.wait_closed())], timeout=2 * seconds("CLOSE_TIMEOUT_MS"))


asyncio.run(main())
