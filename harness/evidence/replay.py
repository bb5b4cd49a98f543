#!/usr/bin/env python3
"""ABOUT"""

from __future__ import annotations

import argparse
import select
import socket
import struct
import sys
import time

# The connections, by number: who takes part, whether the kit opened it, and over what.
CONNECTIONS: dict[int, tuple[str, str, bool, str]] = {}
# Servers that the kit played for the program, and where they listened.
SERVERS: dict[str, int] = {}
# What happened, in order: connection, what, bytes. Seen from the kit: "received" is what the program sent.
STEPS: list[tuple[int, str, bytes]] = []

SHOWN = 1500  # bytes of a message


class Line:
    """One connection: what has come on it, and what was recorded up to now."""

    def __init__(self, number: int) -> None:
        self.name, self.peer, self.ours, self.transport = CONNECTIONS[number]
        self.number = number
        self.sock: socket.socket | None = None
        self.came = self.recorded = b""
        self.ended = ""
        self.end_recorded = False
        self.given_up = 0  # bytes that were waited for in vain

    @property
    def behind(self) -> bool:
        """Something that was recorded up to now has not come yet, and may still come."""
        missing = len(self.came) + self.given_up < len(self.recorded)
        return not self.ended and (missing or self.end_recorded)

    def give_up(self) -> None:
        self.given_up = max(self.given_up, len(self.recorded) - len(self.came))
        self.end_recorded = False


class Replay:
    """The recording, played against a program that listens at `address`."""

    def __init__(self, address: tuple[str, int], patience: float, servers: dict[str, int]) -> None:
        self.address, self.patience = address, patience
        self.began = time.monotonic()
        self.lines = {number: Line(number) for number in CONNECTIONS}
        self.listeners = {socket.create_server(("127.0.0.1", port)): name for name, port in servers.items()}
        self.accepted: dict[str, list[socket.socket]] = {name: [] for name in servers}

    def say(self, who: str, what: str) -> None:
        print(f"{(time.monotonic() - self.began) * 1000:9.1f} ms  {who:<28} {what}", flush=True)

    def run(self) -> None:
        for number, what, data in STEPS:
            if what == "note":
                self.say("-- here the kit did", data.decode())
            elif what == "received":
                self.lines[number].recorded += data
            elif what in ("eof", "was_reset"):
                self.lines[number].end_recorded = True
            else:
                self.catch_up()
                self.act(self.lines[number], what, data)
        self.catch_up()
        self.take_in(lambda: any(line.sock and not line.ended for line in self.lines.values()))

    def catch_up(self) -> None:
        """Wait for as many bytes as had come by now when this was recorded."""
        if not self.take_in(lambda: any(line.behind for line in self.lines.values())):
            self.say("--", f"what was recorded here did not come within {self.patience:g} s")
            for line in self.lines.values():
                line.give_up()

    def act(self, line: Line, what: str, data: bytes) -> None:
        try:
            if what == "open":
                self.open(line)
            elif what == "sent":
                self.send(line, data)
            elif what == "refused":
                self.say(f"{line.name} -> {line.peer}", "was refused when this was recorded; left out")
            elif line.sock:
                self.close(line, what)
        except OSError as error:
            self.say(f"{line.name} -> {line.peer}", f"{what}: {error.strerror or error}")

    def open(self, line: Line) -> None:
        if not line.ours:
            self.take_in(lambda: not self.accepted[line.name])
            if self.accepted[line.name]:
                line.sock = self.accepted[line.name].pop(0)
            return
        datagrams = line.transport == "udp"
        line.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM)
        line.sock.settimeout(self.patience)
        try:
            line.sock.connect(self.address)
        except ConnectionRefusedError:
            sys.exit("nothing listens on {}:{}; start your program there".format(*self.address))
        if not datagrams:
            line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.say(f"{line.name} -> {line.peer}", "connects")

    def send(self, line: Line, data: bytes) -> None:
        if line.sock is None and line.transport == "udp":
            self.open(line)
        if line.sock is None:
            self.say(f"{line.name} -> {line.peer}", f"can't be sent, there is no connection: {shown(data)}")
            return
        self.say(f"{line.name} -> {line.peer}", shown(data))
        line.sock.sendall(data)

    def close(self, line: Line, what: str) -> None:
        assert line.sock is not None
        if what == "fin":
            self.say(f"{line.name} -> {line.peer}", "closes (FIN)")
            line.sock.shutdown(socket.SHUT_WR)
        else:
            self.say(f"{line.name} -> {line.peer}", "hangs up (RST)")
            line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.sock.close()
            line.sock, line.ended = None, "reset"

    def take_in(self, wanted) -> bool:  # type: ignore[no-untyped-def]
        """Take in what comes while `wanted()`; False when that took longer than `patience` seconds."""
        deadline = time.monotonic() + self.patience
        while wanted():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            socks = {line.sock: line for line in self.lines.values() if line.sock and not line.ended}
            ready, _, _ = select.select([*socks, *self.listeners], [], [], left)
            for sock in ready:
                if sock in socks:
                    self.receive(socks[sock], sock)
                else:
                    name = self.listeners[sock]
                    self.accepted[name].append(sock.accept()[0])
                    self.say(f"the program -> {name}", "connects")
        return True

    def receive(self, line: Line, sock: socket.socket) -> None:
        try:
            data = sock.recv(1 << 18)
        except OSError as error:
            line.ended = error.strerror or str(error)
        else:
            line.came += data
            if not data and line.transport == "tcp":
                line.ended = "closes"
        self.say(f"{line.name} <- {line.peer}", line.ended or shown(data))

    def conclude(self) -> bool:
        """Say of each connection whether the same bytes came as in the recording; True if they did."""
        print()
        same = True
        for line in self.lines.values():
            who = f"connection {line.number}, {line.name} and {line.peer}"
            if line.came == line.recorded:
                print(f"{who}: the same {len(line.came)} bytes came as in the recording")
                continue
            same = False
            common = 0
            while line.came[common : common + 1] == line.recorded[common : common + 1] != b"":
                common += 1
            print(f"{who}: differs from the recording at byte {common}")
            print(f"    now      {shown(line.came[common:])}")
            print(f"    recorded {shown(line.recorded[common:])}")
        return same


def shown(data: bytes) -> str:
    text = repr(data[:SHOWN])[1:]
    return text if len(data) <= SHOWN else f"{text} and {len(data) - SHOWN} bytes more"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", metavar="HOST:PORT", help="where the program listens")
    parser.add_argument("--patience", type=float, default=2.0, help="seconds to wait for what was recorded (2)")
    parser.add_argument(
        "--listen", action="append", default=[], metavar="NAME=PORT", help="where a server that is played here listens"
    )
    options = parser.parse_args()
    host, _, port = options.address.rpartition(":")
    if not host or not port.isdecimal():
        parser.error(f"the address is HOST:PORT, not {options.address!r}")
    servers = dict(SERVERS)
    for word in options.listen:
        name, _, number = word.partition("=")
        if name not in servers or not number.isdecimal():
            parser.error(f"--listen is NAME=PORT, with one of the names {', '.join(servers) or '(none)'}")
        servers[name] = int(number)
    try:
        replay = Replay((host, int(port)), options.patience, servers)
    except OSError as error:
        parser.error(f"a server can't be played on its port ({error.strerror}); choose another with --listen NAME=PORT")
    replay.run()
    return 0 if replay.conclude() else 1


if __name__ == "__main__":
    sys.exit(main())
