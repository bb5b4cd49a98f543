"""One asyncio loop. `thread N` computes in a thread, `fork N` in a child, `exit N` ends it."""

import asyncio
import os
import sys
from contextlib import suppress

from work import ADDRESS, done, parse, spin


def compute_in_a_child(milliseconds: int) -> None:
    child = os.fork()
    if not child:
        spin(milliseconds)
        os._exit(0)
    os.waitpid(child, 0)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        await answer_all(reader, writer)
    writer.close()


async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        mode, number = parse(line)
        match mode:
            case "work":
                spin(number)
            case "later":
                await asyncio.sleep(number / 1000)
            case "thread":
                await asyncio.to_thread(spin, number)
            case "fork":
                await asyncio.to_thread(compute_in_a_child, number)
            case "deaf":
                writer.transport.pause_reading()
                await asyncio.get_running_loop().create_future()
            case "exit":
                sys.exit(number)
        writer.write(done(mode, number))


async def main() -> None:
    server = await asyncio.start_server(serve, *ADDRESS)
    await server.serve_forever()


asyncio.run(main())
