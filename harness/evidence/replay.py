#!/usr/bin/env python3
"""ABOUT"""

import argparse
import select
import socket
import struct
import sys
import time

# The connections, by number: who takes part, who opened it, and over what.
CONNECTIONS: dict = {}
# Servers that the kit played for the program, and where they listened.
SERVERS: dict = {}
# What happened, in order: connection, what, bytes. Seen from the kit: "received" is what the program sent.
STEPS: list = []

SHOWN = 1500  # bytes of a message


class Line:
    """One connection: what has come on it, and how much of what was recorded is still missing."""

    def __init__(self, number):
        self.name, self.peer, self.ours, self.transport = CONNECTIONS[number]
        self.number, self.sock, self.came, self.ended = number, None, b"", ""
        self.recorded, self.recorded_end, self.lacked = b"", "", 0

    @property
    def behind(self):
        """Something that was recorded up to now has not come yet, and may still come."""
        missing = len(self.came) + self.lacked < len(self.recorded)
        return not self.ended and (missing or bool(self.recorded_end))

    def give_up(self):
        self.lacked = max(self.lacked, len(self.recorded) - len(self.came))
        self.recorded_end = ""


class Replay:
    def __init__(self, host, port, patience, servers):
        self.address, self.patience = (host, port), patience
        self.began = time.monotonic()
        self.lines = {number: Line(number) for number in CONNECTIONS}
        self.listeners = {name: socket.create_server(("127.0.0.1", port)) for name, port in servers.items()}
        self.accepted = {name: [] for name in servers}

    def say(self, who, what):
        print(f"{(time.monotonic() - self.began) * 1000:9.1f} ms  {who:<28} {what}", flush=True)

    def run(self):
        for number, what, data in STEPS:
            if what == "note":
                self.say("-- the kit", data)
            elif what == "received":
                self.lines[number].recorded += data
            elif what in ("eof", "was_reset"):
                self.lines[number].recorded_end = what
            else:
                self.wait(lambda: any(line.behind for line in self.lines.values()))
                for line in self.lines.values():
                    line.give_up()
                self.act(self.lines[number], what, data)
        self.wait(lambda: any(line.behind for line in self.lines.values()))
        self.wait(lambda: any(not line.ended for line in self.lines.values() if line.sock), quiet=True)

    def act(self, line, what, data):
        try:
            getattr(self, what)(line, data)
        except OSError as error:
            self.say(line.name, f"{what}: {error.strerror or error}")

    def open(self, line, data):
        if not line.ours:
            self.wait(lambda: not self.accepted[line.name])
            if self.accepted[line.name]:
                line.sock = self.accepted[line.name].pop(0)
            return
        kind = socket.SOCK_DGRAM if line.transport == "udp" else socket.SOCK_STREAM
        line.sock = socket.socket(socket.AF_INET, kind)
        line.sock.settimeout(self.patience)
        line.sock.connect(self.address)
        if line.transport == "tcp":
            line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.say(f"{line.name} -> {line.peer}", "connects")

    def sent(self, line, data):
        if line.sock is None and line.transport == "udp":
            self.open(line, b"")
        if line.sock is None:
            self.say(f"{line.name} -> {line.peer}", f"can't send, it is not connected: {shown(data)}")
            return
        self.say(f"{line.name} -> {line.peer}", shown(data))
        line.sock.sendall(data)

    def fin(self, line, data):
        if line.sock:
            self.say(f"{line.name} -> {line.peer}", "closes (FIN)")
            line.sock.shutdown(socket.SHUT_WR)

    def reset(self, line, data):
        if line.sock:
            self.say(f"{line.name} -> {line.peer}", "hangs up (RST)")
            line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.sock.close()
            line.sock, line.ended = None, "reset"

    def refused(self, line, data):
        self.say(f"{line.name} -> {line.peer}", "was refused when this was recorded; not tried")

    def wait(self, wanted, quiet=False):
        """Take in what comes while it is wanted, at most `patience` seconds."""
        deadline = time.monotonic() + self.patience
        while wanted():
            left = deadline - time.monotonic()
            if left <= 0:
                if not quiet:
                    self.say("--", f"what was recorded here did not come within {self.patience:g} s")
                return
            self.take(left)

    def take(self, seconds):
        socks = {line.sock: line for line in self.lines.values() if line.sock and not line.ended}
        names = {listener: name for name, listener in self.listeners.items()}
        ready, _, _ = select.select([*socks, *names], [], [], seconds)
        for sock in ready:
            if sock in names:
                self.accepted[names[sock]].append(sock.accept()[0])
                self.say(f"the program -> {names[sock]}", "connects")
            else:
                self.receive(socks[sock])

    def receive(self, line):
        try:
            data = line.sock.recv(1 << 18)
        except OSError as error:
            line.ended = error.strerror or str(error)
        else:
            if not data and line.transport == "tcp":
                line.ended = "closed"
        self.say(f"{line.name} <- {line.peer}", line.ended or shown(data))
        if not line.ended:
            line.came += data

    def conclude(self):
        """Say of each connection whether the same bytes came; True if they did."""
        same = True
        print()
        for line in self.lines.values():
            who = f"connection {line.number}, {line.name} and {line.peer}"
            if line.came == line.recorded:
                print(f"{who}: the same {len(line.came)} bytes came as in the recording")
                continue
            same = False
            at = next((i for i, (a, b) in enumerate(zip(line.came, line.recorded)) if a != b), None)
            at = min(len(line.came), len(line.recorded)) if at is None else at
            print(f"{who}: differs from the recording at byte {at}")
            print(f"    now      {shown(line.came[at:])}")
            print(f"    recorded {shown(line.recorded[at:])}")
        return same


def shown(data):
    text = repr(data[:SHOWN])[1:]
    return text if len(data) <= SHOWN else f"{text} and {len(data) - SHOWN} bytes more"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
        replay = Replay(host, int(port), options.patience, servers)
    except OSError as error:
        parser.error(f"a server can't be played at its port ({error.strerror}); choose another with --listen NAME=PORT")
    replay.run()
    return 0 if replay.conclude() else 1


if __name__ == "__main__":
    sys.exit(main())
