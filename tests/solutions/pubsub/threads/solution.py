"""A message broker with two threads for each connection: one reads, one writes.

The reader parses and delivers; delivering appends to the outboxes of the receivers. The writer
is the only one that ever waits for its peer. One lock over the index of subscriptions makes a
delivery, a SUB and an UNSUB happen one after another; it is never held while anybody waits.
Lock order: index, then outbox.
"""

import contextlib
import json
import os
import random
import signal
import socket
import string
import threading
import time
from collections import deque

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 4222))
MAX_PAYLOAD = int(os.environ.get("MAX_PAYLOAD", 1048576))
MAX_PENDING = int(os.environ.get("MAX_PENDING", 67108864))
WRITE_DEADLINE = int(os.environ.get("WRITE_DEADLINE_MS", 10000)) / 1000
PING_INTERVAL = int(os.environ.get("PING_INTERVAL_MS", 120000)) / 1000
PING_MAX_OUT = int(os.environ.get("PING_MAX_OUT", 2))
MAX_ARGUMENTS = 4096
DIGITS = frozenset(string.digits.encode())


class ProtocolError(Exception):
    pass


class Subscription:
    def __init__(self, client, sid, pattern, queue):
        self.client = client
        self.sid = sid
        self.pattern = pattern
        self.queue = queue
        self.count = 0
        self.limit = None


class Index:
    """Subscriptions by pattern, and how many patterns begin with each prefix.

    A subject is looked up by extending prefixes token by token, so only prefixes that some
    subscription has are ever visited.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.exact = {}  # pattern (tuple of tokens) -> {subscription: None}
        self.prefixes = {}  # proper prefix of a pattern -> number of subscriptions below it

    def add(self, sub):
        pattern = sub.pattern
        self.exact.setdefault(pattern, {})[sub] = None
        for end in range(len(pattern)):
            prefix = pattern[:end]
            self.prefixes[prefix] = self.prefixes.get(prefix, 0) + 1

    def discard(self, sub):
        pattern = sub.pattern
        same = self.exact[pattern]
        del same[sub]
        if not same:
            del self.exact[pattern]
        for end in range(len(pattern)):
            prefix = pattern[:end]
            self.prefixes[prefix] -= 1
            if not self.prefixes[prefix]:
                del self.prefixes[prefix]

    def matching(self, subject):
        tokens = subject.split(b".")
        if not all(tokens):
            return
        yield from self.below((), tokens, 0)

    def below(self, prefix, tokens, depth):
        todo = [(prefix, depth)]
        while todo:
            prefix, depth = todo.pop()
            if depth == len(tokens):
                yield from list(self.exact.get(prefix, ()))
                continue
            if prefix not in self.prefixes:
                continue
            yield from list(self.exact.get((*prefix, b">"), ()))
            todo.append(((*prefix, b"*"), depth + 1))
            if tokens[depth] not in (b"*", b">"):  # as published tokens they are nobody's
                todo.append(((*prefix, tokens[depth]), depth + 1))


class Broker:
    def __init__(self):
        self.index = Index()
        self.clients = set()
        self.clients_lock = threading.Lock()

    def publish(self, sender, subject, reply, payload):
        rest = (reply + b" " if reply else b"") + b"%d\r\n" % len(payload) + payload + b"\r\n"
        with self.index.lock:
            chosen, groups = [], {}
            for sub in self.index.matching(subject):
                if sub.client is sender and not sender.echo:
                    continue
                if sub.queue:
                    groups.setdefault(sub.queue, []).append(sub)
                else:
                    chosen.append(sub)
            chosen.extend(random.choice(members) for members in groups.values())
            for sub in chosen:
                sub.count += 1
                if sub.count == sub.limit:
                    sub.client.forget(sub)
                sub.client.put(b"MSG " + subject + b" " + sub.sid + b" " + rest)


class Client:
    def __init__(self, broker, sock):
        self.broker = broker
        self.sock = sock
        self.subs = {}
        self.verbose = False
        self.echo = True
        self.alive = time.monotonic()
        self.pings = 0
        self.outbox = deque()
        self.waiting = 0  # bytes in the outbox, including what the writer has in hand
        self.ready = threading.Condition()
        self.ending = False  # write what waits, then close
        self.dead = False  # close now
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.writer = threading.Thread(target=self.write, daemon=True)

    def start(self):
        info = {
            "server_id": "threads",
            "version": "0.1.0",
            "proto": 1,
            "host": HOST,
            "port": PORT,
            "max_payload": MAX_PAYLOAD,
        }
        self.put(b"INFO " + json.dumps(info).encode() + b"\r\n")
        self.reader.start()  # first: a writer whose peer is gone already waits for the end of its reader
        self.writer.start()

    # --- outbox

    def put(self, data):
        with self.ready:
            if self.ending or self.dead:
                return
            self.outbox.append(data)
            self.waiting += len(data)
            if self.waiting <= MAX_PENDING:
                self.ready.notify()
                return
        self.kill()

    def next_chunk(self):
        """Many small frames are joined into one write. None when there is nothing left to do."""
        with self.ready:
            while not (self.outbox or self.ending or self.dead):
                self.ready.wait()
            if self.dead or not self.outbox:
                return None
            parts, size = [], 0
            while self.outbox and size < 1 << 16:
                parts.append(self.outbox.popleft())
                size += len(parts[-1])
            return b"".join(parts)

    def write(self):
        try:
            while (chunk := self.next_chunk()) is not None:
                self.write_all(memoryview(chunk))
        except OSError:  # includes the timeout: nothing was accepted for a whole deadline
            pass
        self.end(now=True)
        self.reader.join()
        self.sock.close()
        with self.broker.clients_lock:
            self.broker.clients.discard(self)

    def write_all(self, chunk):
        while chunk:
            sent = self.sock.send(chunk)
            chunk = chunk[sent:]
            with self.ready:
                self.waiting -= sent

    # --- the end

    def kill(self):
        self.end(now=True)
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # wakes both threads

    def end(self, now=False):
        """Nothing is given to this client any more; only then may its peer see the end."""
        with self.broker.index.lock:
            for sub in list(self.subs.values()):
                self.forget(sub)
        with self.ready:
            self.ending = True
            if now and not self.dead:
                self.dead = True
                self.outbox.clear()
                self.wake_reader()
            self.ready.notify()

    def wake_reader(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)

    def forget(self, sub):
        if self.subs.get(sub.sid) is sub:
            del self.subs[sub.sid]
            self.broker.index.discard(sub)

    # --- input

    def read(self):
        try:
            self.read_frames()
        except ProtocolError as error:
            self.put(b"-ERR '%s'\r\n" % str(error).encode())
        except OSError:
            self.kill()
        self.end()

    def receive(self):
        while True:
            try:
                data = self.sock.recv(1 << 17)
            except TimeoutError:
                continue  # the timeout of the socket is there for the writer
            if data:
                self.alive = time.monotonic()
            return data

    def read_frames(self):
        buffer = bytearray()
        pending = None
        while data := self.receive():
            buffer += data
            at = 0
            while not self.ending:
                if pending is None:
                    line, after = self.line(buffer, at)
                    if line is None:
                        break
                    pending = self.command(line)
                else:
                    after = at + pending[2] + 2
                    if len(buffer) < after:
                        break
                    self.message(pending, buffer, at)
                    pending = None
                at = after
            if self.ending:
                return
            del buffer[:at]

    def line(self, buffer, at):
        end = buffer.find(b"\r\n", at, at + MAX_ARGUMENTS + 16)
        if end < 0 and len(buffer) - at < MAX_ARGUMENTS + 16:
            return None, at
        line = bytes(buffer[at:end]) if end >= 0 else bytes(buffer[at : at + MAX_ARGUMENTS + 16])
        arguments = line.replace(b"\t", b" ").strip(b" ").partition(b" ")[2]
        if len(arguments) > MAX_ARGUMENTS or end < 0:
            raise ProtocolError("Maximum Control Line Exceeded")
        return line, end + 2

    def message(self, pending, buffer, at):
        subject, reply, size = pending
        if buffer[at + size : at + size + 2] != b"\r\n":
            raise ProtocolError("Unknown Protocol Operation")
        self.broker.publish(self, subject, reply, bytes(buffer[at : at + size]))
        self.ok()

    def ok(self):
        if self.verbose:
            self.put(b"+OK\r\n")

    def command(self, line):
        """Carries the command out; for PUB it returns what the payload will be needed with."""
        verb, _, rest = line.replace(b"\t", b" ").strip(b" ").partition(b" ")
        words = [word for word in rest.split(b" ") if word]
        verb = verb.upper()
        if verb == b"PUB" and len(words) in (2, 3):
            return self.pub(words)
        if verb == b"SUB" and len(words) in (2, 3):
            self.sub(words)
        elif verb == b"UNSUB" and len(words) in (1, 2):
            self.unsub(words)
        elif verb == b"PING":
            self.put(b"PONG\r\n")
        elif verb == b"PONG":
            self.pings = 0
        elif verb == b"CONNECT":
            self.connect(rest)
        elif verb in (b"PUB", b"SUB", b"UNSUB"):
            raise ProtocolError("Invalid Arguments")
        else:
            raise ProtocolError("Unknown Protocol Operation")
        return None

    def connect(self, text):
        try:
            options = json.loads(text.decode())
            self.verbose = options.get("verbose", False) is True
            self.echo = options.get("echo", True) is not False
        except (ValueError, AttributeError, RecursionError):
            raise ProtocolError("Invalid CONNECT") from None
        self.ok()

    def pub(self, words):
        size = words[-1]
        if len(size) > 9 or not DIGITS.issuperset(size):
            raise ProtocolError("Invalid Size")
        if int(size) > MAX_PAYLOAD:
            raise ProtocolError("Maximum Payload Violation")
        return words[0], words[1] if len(words) == 3 else None, int(size)

    def sub(self, words):
        pattern = tuple(words[0].split(b"."))
        if not all(pattern) or b">" in pattern[:-1]:
            self.put(b"-ERR 'Invalid Subject'\r\n")
            return
        sid = words[-1]
        with self.broker.index.lock:
            if sid not in self.subs and not self.ending:
                sub = Subscription(self, sid, pattern, words[1] if len(words) == 3 else None)
                self.subs[sid] = sub
                self.broker.index.add(sub)
        self.ok()

    def unsub(self, words):
        limit = words[1] if len(words) == 2 else b"0"
        if not DIGITS.issuperset(limit):
            raise ProtocolError("Invalid Maximum")
        with self.broker.index.lock:
            sub = self.subs.get(words[0])
            if sub and int(limit) > sub.count:
                sub.limit = int(limit)
            elif sub:
                self.forget(sub)
        self.ok()

    # --- heartbeat, called by the one thread that keeps time

    def tick(self, now):
        if self.ending or now - self.alive < PING_INTERVAL * (self.pings + 1):
            return
        if self.pings >= PING_MAX_OUT:
            self.put(b"-ERR 'Stale Connection'\r\n")
            self.end()
            return
        self.pings += 1
        self.put(b"PING\r\n")


def accept(listener, broker):
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return  # closed by the main thread
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(WRITE_DEADLINE)
        client = Client(broker, sock)
        with broker.clients_lock:
            broker.clients.add(client)
            client.start()


def main():
    broker = Broker()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, PORT))
    listener.listen(1024)
    threading.Thread(target=accept, args=(listener, broker), daemon=True).start()

    while not stopping.wait(PING_INTERVAL / 4):
        with broker.clients_lock:
            clients = list(broker.clients)
        for client in clients:
            client.tick(time.monotonic())

    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    deadline = time.monotonic() + WRITE_DEADLINE
    with broker.clients_lock:
        clients = list(broker.clients)
    for client in clients:
        client.end()
        client.wake_reader()
    for client in clients:
        client.writer.join(max(0, deadline - time.monotonic()))
    os._exit(0)  # threads that still wait for a peer are daemons; nobody waits for them


main()
