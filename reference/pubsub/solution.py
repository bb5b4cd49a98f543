"""A message broker that speaks the NATS client protocol.

What keeps one connection from hurting another, and where it lives:

- Nothing here waits for a peer. A message is handed to `Connection.send`, which only appends;
  so a publisher, and everybody else, goes on while one subscriber does not read.
- A command is carried out completely before the next one is looked at, on one thread. That is
  why a PONG is a fence: whatever was asked for before it has happened for every connection.
- A connection's subscriptions go first and its socket second (`Connection.leave`), so a peer
  that has read the end of the stream can be sure that nothing is given to it any more.
- The cost of a message depends on its tokens and its receivers (`Subjects`), and nothing is
  remembered about a subject once its message is delivered.
"""

import asyncio
import itertools
import json
import os
import re
import signal
from dataclasses import dataclass


def setting(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


HOST = os.environ.get("HOST", "127.0.0.1")
PORT = setting("PORT", 4222)
MAX_PAYLOAD = setting("MAX_PAYLOAD", 1 << 20)
MAX_PENDING = setting("MAX_PENDING", 64 << 20)
WRITE_DEADLINE = setting("WRITE_DEADLINE_MS", 10_000) / 1000
PING_INTERVAL = setting("PING_INTERVAL_MS", 120_000) / 1000
PING_MAX_OUT = setting("PING_MAX_OUT", 2)
MAX_LINE = 4096 + len("CONNECT ")  # the limit is on what stands behind the verb

CRLF = b"\r\n"
INFO = {"server_id": f"BROKER{os.getpid()}", "version": "1.0.0", "proto": 1, "headers": False}
INFO |= {"host": HOST, "port": PORT, "max_payload": MAX_PAYLOAD}
fields_of = re.compile(rb"[^ \t]+").findall


class Refused(Exception):
    """What a client sent ends its connection; the text is what it is told."""


@dataclass(eq=False, slots=True)
class Subscription:
    connection: "Connection"
    sid: bytes
    subject: bytes
    queue: bytes | None
    delivered: int = 0  # since SUB: what the max of UNSUB is compared with
    max: int | None = None
    served: int = 0  # when its queue group last chose it


# Wildcards are stored under keys that no published token can equal, so `PUB a.*` is just a name.
ANY, REST = object(), object()
WILDCARDS = {b"*": ANY, b">": REST}


class Node:
    __slots__ = ("children", "subscriptions")

    def __init__(self) -> None:
        self.children: dict[object, Node] = {}
        self.subscriptions: dict[Subscription, None] = {}  # a set that keeps its order


class Subjects:
    """A tree of tokens: all subscriptions that share a beginning share the path to it."""

    def __init__(self) -> None:
        self.root = Node()

    @staticmethod
    def valid(pattern: bytes) -> bool:
        tokens = pattern.split(b".")
        return b"" not in tokens and b">" not in tokens[:-1]

    @staticmethod
    def path(pattern: bytes) -> list[object]:
        return [WILDCARDS.get(token, token) for token in pattern.split(b".")]

    def insert(self, subscription: Subscription) -> None:
        node = self.root
        for key in self.path(subscription.subject):
            node = node.children.setdefault(key, Node())
        node.subscriptions[subscription] = None

    def remove(self, subscription: Subscription) -> None:
        trail = []
        node = self.root
        for key in self.path(subscription.subject):
            trail.append((node, key))
            node = node.children[key]
        del node.subscriptions[subscription]
        # Nobody walks the tree to clean it later, so a branch that bears nothing goes now.
        while trail and not node.subscriptions and not node.children:
            node, key = trail.pop()
            del node.children[key]

    def match(self, subject: bytes) -> list[Subscription]:
        """Every subscription that fits, as a list of its own: it may be walked at leisure."""
        tokens = subject.split(b".")
        if b"" in tokens:
            return []
        found: list[Subscription] = []
        nodes = [self.root]
        for token in tokens:
            deeper = []
            for children in (node.children for node in nodes):
                if rest := children.get(REST):
                    found += rest.subscriptions
                deeper += [children[key] for key in (token, ANY) if key in children]
            nodes = deeper
        for node in nodes:
            found += node.subscriptions
        return found


class Broker:
    """Who is connected, who wants what, and how a message gets to them."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.subjects = Subjects()
        self.turns = itertools.count(1)

    def publish(self, publisher: "Connection", subject: bytes, reply: bytes | None, payload: bytes) -> None:
        receivers = self.receivers(publisher, subject)
        head = b"" if reply is None else reply + b" "
        tail = b"%b%d\r\n%b\r\n" % (head, len(payload), payload)
        for subscription in receivers:
            message = b"MSG %b %b %b" % (subject, subscription.sid, tail)
            subscription.connection.deliver(subscription, message)

    def receivers(self, publisher: "Connection", subject: bytes) -> list[Subscription]:
        """All plain subscriptions and one member of each queue group, whatever its pattern."""
        plain: list[Subscription] = []
        groups: dict[bytes, list[Subscription]] = {}
        for subscription in self.subjects.match(subject):
            if subscription.connection is publisher and not publisher.echo:
                continue  # before a member is chosen: the group still owes it to somebody
            if subscription.queue is None:
                plain.append(subscription)
            else:
                groups.setdefault(subscription.queue, []).append(subscription)
        return plain + [self.choose(members) for members in groups.values()]

    def choose(self, members: list[Subscription]) -> Subscription:
        """The member that has waited longest."""
        chosen = min(members, key=lambda member: member.served)
        chosen.served = next(self.turns)
        return chosen

    async def shut_down(self) -> None:
        """Write out what waits for those who read, but for no longer than the deadline."""
        for connection in self.connections:
            connection.close()
        if self.connections:
            lost = [connection.lost for connection in self.connections]
            await asyncio.wait(lost, timeout=WRITE_DEADLINE)
        for connection in self.connections:
            connection.cut()


class Connection(asyncio.Protocol):
    """One client: its bytes in, its bytes out, its subscriptions, its end."""

    transport: asyncio.Transport
    heartbeat: asyncio.TimerHandle

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.loop = asyncio.get_running_loop()
        self.subscriptions: dict[bytes, Subscription] = {}
        self.verbose = False
        self.echo = True
        self.closed = False
        self.lost = self.loop.create_future()
        # in
        self.buffer = bytearray()
        self.publication: tuple[bytes, bytes | None, int] | None = None
        self.heard = self.loop.time()
        self.unanswered = 0
        # out
        self.outbox = bytearray()
        self.paused = False
        self.sent = 0
        self.deadline: asyncio.TimerHandle | None = None

    # --- its life, as the event loop tells it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.broker.connections.add(self)
        self.heartbeat = self.loop.call_later(PING_INTERVAL, self.beat)
        self.send(b"INFO %b\r\n" % json.dumps(INFO).encode())

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        self.feed(data)

    def eof_received(self) -> None:
        self.close()  # complete frames are done by now; half a frame never happened

    def connection_lost(self, _: Exception | None) -> None:
        self.leave()
        if self.deadline:
            self.deadline.cancel()
        self.broker.connections.discard(self)
        self.lost.set_result(None)

    # --- bytes in

    def feed(self, data: bytes) -> None:
        """Carry out every frame that is complete; the rest stays in the buffer."""
        self.buffer += data
        start = 0
        try:
            while not self.closed:
                end = self.take_payload(start, *self.publication) if self.publication else self.take_line(start)
                if end == start:
                    break
                start = end
        except Refused as why:
            self.fail(str(why))
        del self.buffer[:start]  # once a read, not once a frame: that would be quadratic

    def take_line(self, start: int) -> int:
        end = self.buffer.find(CRLF, start, start + MAX_LINE + len(CRLF))
        if end < 0:
            if len(self.buffer) - start > MAX_LINE:
                raise Refused("Maximum Control Line Exceeded")
            return start
        self.carry_out(bytes(self.buffer[start:end]))
        return end + len(CRLF)

    def take_payload(self, start: int, subject: bytes, reply: bytes | None, size: int) -> int:
        end = start + size
        if len(self.buffer) < end + len(CRLF):
            return start
        if not self.buffer.startswith(CRLF, end):
            raise Refused("Unknown Protocol Operation")
        self.publication = None
        self.broker.publish(self, subject, reply, bytes(self.buffer[start:end]))
        self.acknowledge()
        return end + len(CRLF)

    def carry_out(self, line: bytes) -> None:
        verb, *fields = fields_of(line) or [b""]
        match verb.upper(), fields:
            case b"PUB", [subject, size]:
                self.on_pub(subject, None, size)
            case b"PUB", [subject, reply, size]:
                self.on_pub(subject, reply, size)
            case b"SUB", [subject, sid]:
                self.on_sub(subject, None, sid)
            case b"SUB", [subject, queue, sid]:
                self.on_sub(subject, queue, sid)
            case b"UNSUB", [sid]:
                self.on_unsub(sid, b"0")
            case b"UNSUB", [sid, most]:
                self.on_unsub(sid, most)
            case b"PING", _:
                self.send(b"PONG\r\n")
            case b"PONG", _:
                self.unanswered = 0
            case b"CONNECT", _:
                self.on_connect(line.strip(b" \t")[len("CONNECT") :])
            case b"PUB" | b"SUB" | b"UNSUB", _:
                raise Refused("Wrong Number Of Fields")
            case _:
                raise Refused("Unknown Protocol Operation")

    def on_connect(self, text: bytes) -> None:
        try:
            options = json.loads(text)
        except (ValueError, RecursionError):  # deeply nested brackets are the second
            raise Refused("Invalid CONNECT") from None
        if not isinstance(options, dict):
            raise Refused("Invalid CONNECT")
        self.verbose = bool(options.get("verbose", False))
        self.echo = bool(options.get("echo", True))
        self.acknowledge()

    def on_pub(self, subject: bytes, reply: bytes | None, size: bytes) -> None:
        if not (size.isdigit() and len(size) <= 9):  # int() would take +2, 1_0 and -1
            raise Refused("Bad Payload Size")
        if int(size) > MAX_PAYLOAD:
            raise Refused("Maximum Payload Violation")
        self.publication = subject, reply, int(size)

    def on_sub(self, subject: bytes, queue: bytes | None, sid: bytes) -> None:
        if not Subjects.valid(subject):
            self.send(b"-ERR 'Invalid Subject'\r\n")
            return
        if sid not in self.subscriptions:
            subscription = Subscription(self, sid, subject, queue)
            self.subscriptions[sid] = subscription
            self.broker.subjects.insert(subscription)
        self.acknowledge()

    def on_unsub(self, sid: bytes, most: bytes) -> None:
        if not most.isdigit():
            raise Refused("Bad Maximum")
        if subscription := self.subscriptions.get(sid):
            if int(most) > subscription.delivered:
                subscription.max = int(most)
            else:
                self.drop(subscription)
        self.acknowledge()

    def drop(self, subscription: Subscription) -> None:
        del self.subscriptions[subscription.sid]
        self.broker.subjects.remove(subscription)

    def acknowledge(self) -> None:
        if self.verbose:
            self.send(b"+OK\r\n")

    # --- bytes out

    def deliver(self, subscription: Subscription, message: bytes) -> None:
        if self.closed:
            return  # cut during this very fan-out
        subscription.delivered += 1
        if subscription.delivered == subscription.max:
            self.drop(subscription)
        self.send(message)

    def send(self, data: bytes) -> None:
        """Append to what waits for this peer. Never waits, never skips: it keeps up or is cut."""
        if self.closed:
            return
        self.sent += len(data)
        if self.paused:
            self.outbox += data
        else:
            self.transport.write(data)
        if self.waiting() > MAX_PENDING:
            self.cut()
        elif not self.deadline:
            self.expect_progress()

    def waiting(self) -> int:
        return len(self.outbox) + self.transport.get_write_buffer_size()

    # Since Python 3.12 a transport keeps a list of what was written and adds up its lengths at
    # each write. So the long queue of a peer that does not read is kept here, where it is cheap.

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.flush()

    def flush(self) -> None:
        data, self.outbox = self.outbox, bytearray()
        self.transport.write(data)

    def expect_progress(self, before: int | None = None) -> None:
        """While bytes wait: has the peer taken any since the count was `before`?"""
        self.deadline = None
        waiting = self.waiting()
        accepted = self.sent - waiting
        if waiting and accepted == before:
            self.cut()
        elif waiting:
            self.deadline = self.loop.call_later(WRITE_DEADLINE, self.expect_progress, accepted)

    def beat(self) -> None:
        idle = self.loop.time() - self.heard
        if idle < PING_INTERVAL:
            self.heartbeat = self.loop.call_later(PING_INTERVAL - idle, self.beat)
        elif self.unanswered >= PING_MAX_OUT:
            self.fail("Stale Connection")
        else:
            self.unanswered += 1
            self.heartbeat = self.loop.call_later(PING_INTERVAL, self.beat)
            self.send(b"PING\r\n")

    # --- the end

    def fail(self, text: str) -> None:
        self.send(b"-ERR '%b'\r\n" % text.encode())
        self.close()

    def close(self) -> None:
        """Take nothing more; the socket closes when what waits has been written."""
        self.leave()
        self.flush()
        self.transport.close()

    def cut(self) -> None:
        """Close at once and drop what waits: what the peer has read is still without a gap."""
        self.leave()
        self.outbox.clear()
        self.transport.abort()

    def leave(self) -> None:
        self.closed = True
        self.heartbeat.cancel()
        for subscription in self.subscriptions.values():
            self.broker.subjects.remove(subscription)
        self.subscriptions.clear()


async def main() -> None:
    loop = asyncio.get_running_loop()
    broker = Broker()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # Without SO_REUSEADDR the connections of the last process would bar this one from its port.
    server = await loop.create_server(lambda: Connection(broker), HOST, PORT, reuse_address=True, backlog=1024)
    await stop.wait()
    server.close()
    await broker.shut_down()


if __name__ == "__main__":
    asyncio.run(main())
