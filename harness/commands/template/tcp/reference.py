"""A server that greets by name, line by line."""

import asyncio
import os


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\n" in self.buffer:
            line, _, self.buffer = self.buffer.partition(b"\n")
            name = line.removeprefix(b"HELLO ")
            self.transport.write(b"WELCOME " + name + b"\n")


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Greeter, os.environ["HOST"], int(os.environ["PORT"]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
