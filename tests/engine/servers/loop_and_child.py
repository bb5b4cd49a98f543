"""An asyncio loop whose child process does the work; requests and answers go through pipes."""

import asyncio
import sys
import time
from contextlib import suppress

from work import ADDRESS, done, parse, spin


def child() -> None:
    for line in sys.stdin.buffer:
        mode, number = parse(line)
        if mode == "work":
            spin(number)
        if mode == "later":
            time.sleep(number / 1000)
        sys.stdout.buffer.write(done(mode, number))
        sys.stdout.buffer.flush()


async def main() -> None:
    pipe = asyncio.subprocess.PIPE
    worker = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "child", stdin=pipe, stdout=pipe, limit=1 << 30
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    to_child, from_child = worker.stdin, worker.stdout

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                if line.startswith(b"deaf"):
                    writer.transport.pause_reading()
                    await asyncio.get_running_loop().create_future()
                to_child.write(line)
                writer.write(await from_child.readline())
        writer.close()

    server = await asyncio.start_server(serve, *ADDRESS)
    await server.serve_forever()


if sys.argv[1:] == ["child"]:
    child()
else:
    asyncio.run(main())
