"""A UDP server of one asyncio loop."""

import asyncio

from work import ADDRESS, done, parse, spin


class Server(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        mode, number = parse(data)
        if mode == "later":
            asyncio.get_running_loop().call_later(number / 1000, self.transport.sendto, done(mode, number), source)
            return
        if mode == "work":
            spin(number)
        if mode != "silent":
            self.transport.sendto(done(mode, number), source)


async def main() -> None:
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Server, ADDRESS)
    await loop.create_future()


asyncio.run(main())
