"""A server that greets by name. It starts, and says the same to everybody; the rules are in README.md."""

import asyncio
import os


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """TODO G1, G2: which lines are complete, and who says hello?"""
        self.transport.write(b"NOT IMPLEMENTED\n")


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Greeter, os.environ["HOST"], int(os.environ["PORT"]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
