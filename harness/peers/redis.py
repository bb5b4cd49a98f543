"""The Redis server behind the kata `connection_pool`: it counts connections, and answers when it is told to.

It keeps replies back (`holding`, `release`), answers something else (`answering`), hangs up (`dropping`), refuses
(`refusing_auth`, `greeting`) or is gone (`down`). A command takes effect when it arrives. Throughout it looks for
what a pool must never do, and keeps it in `offences`: too many connections at once, or two requests on one.
Source: redis.io/docs/latest/commands.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness import waiting
from harness.solution.program import Solution
from harness.wire.resp import NotResp, Reply, encode, take_command
from harness.wire.tcp import Connection, Listener

NAME = "redis"
PASSWORD = "secret"
HOUSEKEEPING = {"AUTH", "PING", "ECHO", "SELECT", "CLIENT", "RESET", "QUIT", "HELLO", "DISCARD", "UNWATCH"}
ESTABLISHED = 1  # the first byte of TCP_INFO (Linux)
NOT_AN_INTEGER = "ERR value is not an integer or out of range"
SHOWN = 24


class Refusal(Exception):
    """An error reply."""


@dataclass
class Command:
    """One command that arrived, and its reply."""

    session: Session
    name: str
    words: list[bytes]
    group: int  # commands of one transaction belong together; every other one is alone
    reply: bytes = b""
    held: bool = False
    hold: int = 0  # its number in the record

    @property
    def key(self) -> str:
        return self.words[1].decode(errors="replace") if len(self.words) > 1 else ""

    @property
    def is_work(self) -> bool:
        return self.name not in HOUSEKEEPING

    def release(self) -> None:
        """Let its reply go, and those behind it."""
        self.let_go()
        self.session.flush()

    def let_go(self) -> None:
        if self.held:
            self.held = False
            self.session.server.solution.record.release(NAME, f"({self.session.number}) lets it go", self.hold)

    def answer_instead(self, data: bytes, close: bool = False) -> None:
        """These bytes are its reply; with `close` a FIN comes behind them."""
        self.reply = data
        self.session.closing = close
        self.release()

    def drop(self) -> None:
        """Hang up (RST) instead of an answer."""
        self.session.connection.hang_up()


class Session:
    """One connection of the gateway."""

    def __init__(self, server: Redis, connection: Connection, number: int) -> None:
        self.server, self.connection, self.number = server, connection, number
        self.authenticated = self.closing = False
        self.queued: list[Command] | None = None  # inside MULTI
        self.aborted = False  # a command was refused inside MULTI
        self.pending: list[Command] = []  # not answered yet, oldest first
        self._groups = 0
        connection.on_bytes = self._parse

    @property
    def open(self) -> bool:
        """The gateway has not closed it, as the kernel knows even before the harness has read the end."""
        connection = self.connection
        if connection.ended or connection.closed:
            return False
        if not hasattr(socket, "TCP_INFO"):
            return True
        return connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED

    def say(self, data: bytes) -> None:
        """Bytes that nobody asked for."""
        self.server.record(f"{data!r}"[2:-1], data, self)
        self.connection.send(data)

    def flush(self) -> None:
        while self.pending and not self.pending[0].held:
            command = self.pending.pop(0)
            self.server.record(_readable(command.reply), command.reply, self)
            self.connection.send(command.reply)
        if self.closing and not self.pending:
            self.connection.half_close()

    def next_group(self) -> int:
        if self.queued is None:
            self._groups += 1
        return self._groups

    def _parse(self, connection: Connection) -> None:
        try:
            while (words := take_command(connection.inbox)) is not None:
                if words:
                    self.server.arrived(self, words)
        except NotResp as problem:
            self.server.offences.append(f"what came is no RESP2: {problem}")
            connection.hang_up()
        if connection.ended:
            connection.close()


class Redis:
    """A Redis server with strings, transactions and a password."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        self.most = int(solution.settings.get("POOL_MAX", 4))
        self.data: dict[bytes, bytes] = {}
        self.sessions: list[Session] = []
        self.listener = Listener(solution.network, NAME, solution.record.solution, self._accept)
        self._accepts = 0
        self._forget()

    def _forget(self) -> None:
        self.commands: list[Command] = []
        self.offences: list[str] = []
        self.greeting = b""
        self._holding: set[str] = set()
        self._instead: dict[str, tuple[bytes, bool]] = {}
        self._dropping: dict[str, int] = {}
        self._refusing_auth = False

    def environment(self) -> dict[str, str]:
        host, port = self.listener.address
        return {"UPSTREAM_HOST": host, "UPSTREAM_PORT": str(port), "UPSTREAM_PASSWORD": PASSWORD}

    def begin(self) -> None:
        self.release()
        self._forget()
        self.listener.open()

    # -- what was seen ------------------------------------------------------------------------------------------

    @property
    def accepts(self) -> int:
        """How many connections were ever accepted."""
        return self._accepts

    @property
    def open_sessions(self) -> list[Session]:
        return [session for session in self.sessions if session.open]

    @property
    def held(self) -> list[Command]:
        """The commands whose reply is kept back, oldest first, on connections that are still there."""
        return [command for command in self.commands if command.held and command.session.open]

    def seen(self, name: str, key: str = "") -> list[Command]:
        """The commands of that name (and key) that arrived."""
        return [each for each in self.commands if each.name == name and (not key or each.key == key)]

    @property
    def keys(self) -> list[str]:
        """The keys of the work that arrived, oldest first."""
        return [command.key for command in self.commands if command.is_work]

    def until_held(self, number: int = 1) -> list[Command]:
        """Wait until that many replies are kept back, as a scene needs it."""
        waiting.until_reached(self.solution, lambda: len(self.held) >= number, f"{number} commands held at redis")
        return self.held

    # -- verbs --------------------------------------------------------------------------------------------------

    @contextmanager
    def holding(self, *names: str) -> Iterator[None]:
        """Keep the replies of these commands back, until they are released or the block ends."""
        self.hold(*names)
        yield
        self.release()

    def hold(self, *names: str) -> None:
        """Keep the replies of these commands back from now on, and of no others; what is held stays held."""
        self._holding = set(names)

    def release(self) -> None:
        """Let all replies go, and hold no more."""
        self._holding = set()
        for session in self.sessions:
            for command in session.pending:
                command.let_go()
            if session.open:
                session.flush()

    @contextmanager
    def answering(self, name: str, reply: bytes, close: bool = False) -> Iterator[None]:
        """Answer every such command with these bytes, and with `close` a FIN behind them."""
        self._instead[name] = (reply, close)
        yield
        del self._instead[name]

    def drop_next(self, name: str, times: int = 1) -> None:
        """Hang up at the next such commands instead of executing or answering them."""
        self._dropping[name] = times

    @contextmanager
    def refusing_auth(self) -> Iterator[None]:
        self._refusing_auth = True
        yield
        self._refusing_auth = False

    @contextmanager
    def greeting_with(self, line: bytes) -> Iterator[None]:
        """Accept, say this at once, and close."""
        self.greeting = line
        yield
        self.greeting = b""

    @contextmanager
    def down(self) -> Iterator[None]:
        """Nobody listens; every connection is reset."""
        self.solution.record.down(NAME, "goes down")
        self.listener.close()
        for session in self.sessions:
            session.connection.hang_up()
        yield
        self.listener.open()
        self.solution.record.up(NAME, "is back")

    # -- serving ------------------------------------------------------------------------------------------------

    def record(self, label: str, data: bytes, session: Session) -> None:
        record = self.solution.record
        record.add("message", NAME, record.solution, f"({session.number}) {label}", data, NAME)

    def _accept(self, connection: Connection) -> None:
        self._accepts += 1
        session = Session(self, connection, self._accepts)
        record = self.solution.record
        record.add("open", record.solution, NAME, f"({session.number}) connects", connection=NAME)
        self.sessions = [*self.open_sessions, session]
        if len(self.sessions) > self.most:
            self.offences.append(f"POOL_MAX is {self.most}, and {len(self.sessions)} connections are open at once")
        if self.greeting:
            session.say(self.greeting)
            connection.half_close()

    def arrived(self, session: Session, words: list[bytes]) -> None:
        name = words[0].decode(errors="replace").upper()
        command = Command(session, name, words, session.next_group())
        record = self.solution.record
        label = f"({session.number}) {' '.join([name, *map(_readable, words[1:])])}"
        record.add("message", record.solution, NAME, label, b" ".join(words), NAME)
        self._look_for_overlap(session, command)
        self.commands.append(command)
        session.pending.append(command)
        if self._dropping.get(name):
            self._dropping[name] -= 1
            command.drop()
            return
        command.reply = encode(self._execute(session, command))
        if name in self._instead:
            command.reply, session.closing = self._instead[name]
        command.held = name in self._holding
        if command.held:
            command.hold = record.hold(NAME, f"({session.number}) holds the reply")
        session.flush()

    def _look_for_overlap(self, session: Session, command: Command) -> None:
        others = [each for each in session.pending if each.is_work and each.group != command.group]
        if others and command.is_work:
            self.offences.append(
                f"{command.name} {command.key} was sent while {others[0].name} {others[0].key} was not answered on "
                "the same connection"
            )

    def _execute(self, session: Session, command: Command) -> Reply:
        try:
            if command.name in ("MULTI", "EXEC", "DISCARD", "RESET"):
                return self._transaction(session, command.name)
            if command.name != "AUTH" and not session.authenticated:
                raise Refusal("NOAUTH Authentication required.")
            if session.queued is not None and command.is_work:
                if command.name in self._instead:
                    session.aborted = True
                else:
                    session.queued.append(command)
                return "QUEUED"
            return self._effect(session, command)
        except Refusal as refusal:
            return refusal

    def _transaction(self, session: Session, name: str) -> Reply:
        queued, aborted = session.queued, session.aborted
        if name == "MULTI":
            if queued is not None:
                return Refusal("ERR MULTI calls can not be nested")
            session.queued, session.aborted = [], False
            return "OK"
        session.queued = None
        if name == "RESET":
            return "RESET"
        if queued is None:
            return Refusal(f"ERR {name} without MULTI")
        if name == "DISCARD":
            return "OK"
        if aborted:
            return Refusal("EXECABORT Transaction discarded because of previous errors.")
        return [self._outcome(session, command) for command in queued]

    def _outcome(self, session: Session, command: Command) -> Reply:
        try:
            return self._effect(session, command)
        except Refusal as refusal:
            return refusal

    def _effect(self, session: Session, command: Command) -> Reply:
        arguments = command.words[1:]
        match command.name, arguments:
            case "AUTH", [*_, password]:
                session.authenticated = password == PASSWORD.encode() and not self._refusing_auth
                return "OK" if session.authenticated else Refusal("WRONGPASS invalid username-password pair")
            case "PING", []:
                return "PONG"
            case (("PING" | "ECHO"), [text]):
                return text
            case (("SELECT" | "CLIENT" | "QUIT" | "UNWATCH"), _):
                session.closing = command.name == "QUIT"
                return "OK"
            case "GET", [key]:
                return self.data.get(key)
            case "SET", [key, value]:
                self.data[key] = value
                return "OK"
            case "DEL", keys:
                return sum(self.data.pop(key, None) is not None for key in keys)
            case "INCR", [key]:
                return self._increment(key)
        if command.name in ("GET", "SET", "INCR"):
            raise Refusal(f"ERR wrong number of arguments for '{command.name.lower()}' command")
        raise Refusal(f"ERR unknown command '{command.name}'")

    def _increment(self, key: bytes) -> int:
        try:
            value = int(self.data.get(key, b"0")) + 1
        except ValueError:
            raise Refusal(NOT_AN_INTEGER) from None
        self.data[key] = b"%d" % value
        return value


def _readable(data: bytes) -> str:
    """The beginning of some bytes, as text on one line."""
    text = repr(data[:SHOWN])[2:-1].replace("\\r\\n", " ").strip()
    return text + ("…" if len(data) > SHOWN else "")
