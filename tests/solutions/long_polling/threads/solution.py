"""The bot API with a thread for each connection, from the standard library alone: a journal instead of a database.

All that is pending lies in memory, and whatever changes it is first appended to one file, which is read at the start.
A bot has a lock; a call that waits sleeps on a lock of its own, with its bot's unlocked. One more thread watches the
sockets of those who wait, since a thread that sleeps does not see that its client has gone.
"""

import json
import math
import os
import re
import select
import signal
import socket
import threading
from collections import deque
from contextlib import suppress
from http import client as http
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qs

HOST, PORT = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))
SECOND = int(os.environ.get("SECOND_MS", 1000)) / 1000
JOURNAL = Path(os.environ.get("STATE_DIR", ".")) / "journal"

TOKEN = r"(?P<token>\d{1,20}:[\w-]{1,64})"
CALL = re.compile(rf"/bot{TOKEN}/(?P<method>\w+)", re.ASCII)
INGEST = re.compile(rf"/ingest/{TOKEN}", re.ASCII)


class Refused(Exception):
    pass


class Waiter:
    """Somebody who sleeps until it is told why it goes on."""

    def __init__(self):
        self.asleep = threading.Lock()
        self.asleep.acquire()
        self.why = "time"

    def wake(self, why):
        """Called once, by whoever has taken the waiter out of its bot."""
        self.why = why
        self.asleep.release()


class Bot:
    def __init__(self):
        self.lock = threading.Lock()
        self.updates = deque()  # (id, JSON)
        self.last = 0
        self.allowed = []
        self.waiter = None

    def wake(self, why):
        waiter, self.waiter = self.waiter, None
        if waiter:
            waiter.wake(why)

    def forget(self, last):
        """Everything up to the id `last`."""
        while self.updates and self.updates[0][0] <= last:
            self.updates.popleft()


bots = {}
bots_lock = threading.Lock()


def bot_of(token):
    with bots_lock:
        return bots.setdefault(token, Bot())


# --- the journal: (kind, token, value, more)


def replay():
    lines = JOURNAL.read_bytes().split(b"\n")[:-1] if JOURNAL.exists() else []  # what has no end was never answered
    for kind, token, value, *more in map(json.loads, lines):
        bot = bots.setdefault(token, Bot())
        if kind == "update":
            bot.last = value
            bot.updates.append((value, more[0]))
        elif kind == "last":
            bot.last = value
        elif kind == "confirmed":
            bot.forget(value)
        else:
            bot.allowed = value


def compact():
    """A new journal of what is left; the old one counts until the new one is complete."""
    fresh = JOURNAL.with_suffix(".new")
    with fresh.open("w") as file:
        for token, bot in bots.items():
            entries = [("allowed", token, bot.allowed), *(("update", token, *update) for update in bot.updates)]
            for entry in [*entries, ("last", token, bot.last)]:
                file.write(json.dumps(entry) + "\n")
    fresh.replace(JOURNAL)


replay()
compact()
journal = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND)
journal_lock = threading.Lock()


def write(*entry):
    data = (json.dumps(entry) + "\n").encode()
    with journal_lock:
        while data:
            data = data[os.write(journal, data) :]


# --- those who wait, and leave

epoll = select.epoll()
watched = {}  # descriptor -> bot, waiter


def watch_leavers():
    while True:
        for descriptor, _ in epoll.poll():
            bot, waiter = watched.get(descriptor, (None, None))
            if bot:
                with bot.lock:
                    if bot.waiter is waiter:
                        bot.wake("gone")


def sleep(bot, seconds, connection):
    """Sleep with the bot unlocked; its lock is held before and after. Why it ended."""
    bot.wake("conflict")
    waiter = bot.waiter = Waiter()
    descriptor = connection.fileno()
    watched[descriptor] = bot, waiter
    epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLONESHOT)
    bot.lock.release()
    try:
        waiter.asleep.acquire(timeout=seconds)
    finally:
        bot.lock.acquire()
        if bot.waiter is waiter:
            bot.waiter = None
        epoll.unregister(descriptor)
        del watched[descriptor]
    return waiter.why


# --- the methods


def whole(given, name, otherwise):
    value = given.get(name, otherwise)
    if type(value) is str and re.fullmatch("-?[0-9]{1,30}", value):
        return int(value)
    if type(value) is not int:
        raise Refused(400, f"{name} must be a whole number")
    return value


def listed(given):
    value = given.get("allowed_updates")
    if type(value) is str:
        value = parsed(value)
    if value is not None and not (type(value) is list and all(type(each) is str for each in value)):
        raise Refused(400, "allowed_updates must be a list")
    return value


def parsed(text):
    try:
        return json.loads(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError):
        raise Refused(400, "this is no JSON") from None


def get_updates(token, given, connection):
    offset, timeout = whole(given, "offset", 0), whole(given, "timeout", 0)
    limit, allowed = min(max(whole(given, "limit", 100), 1), 100), listed(given)
    bot = bot_of(token)
    with bot.lock:
        if allowed is not None and allowed != bot.allowed:
            write("allowed", token, allowed)
            bot.allowed = allowed
        confirm(bot, token, offset)
        why = ""
        if not bot.updates and timeout > 0 and not stopping.is_set():
            why = sleep(bot, min(timeout, 50) * SECOND, connection)
        found = list(islice(bot.updates, limit))
    if why == "conflict":
        raise Refused(409, "Conflict: another getUpdates request")
    if why == "gone":
        raise ConnectionError
    return "[" + ",".join(f'{{"update_id":{number},{content[1:]}' for number, content in found) + "]"


def confirm(bot, token, offset):
    last = offset - 1
    if offset < 0:
        last = bot.updates[offset - 1][0] if len(bot.updates) > -offset else 0
    if bot.updates and bot.updates[0][0] <= last:
        write("confirmed", token, min(last, bot.last))
        bot.forget(last)


def delete_webhook(token, given, _):
    if given.get("drop_pending_updates") in (True, "true", "True", "1"):
        bot = bot_of(token)
        with bot.lock:
            confirm(bot, token, bot.last + 1)
    return "true"


def get_me(token, *_):
    return json.dumps({"id": int(token.split(":")[0]), "is_bot": True, "first_name": "T", "username": "threads_bot"})


def is_sane(value, levels=200):
    """json reads NaN and 1e999, which are no JSON when it writes them, and deeper nesting than it can write."""
    if isinstance(value, float):
        return math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(is_sane(each, levels - 1) for each in inner)


def ingest(token, body):
    if len(body) > 65536:
        raise Refused(413, "too long")
    content = parsed(body)
    if type(content) is not dict or len(content) != 1:
        raise Refused(400, "exactly one member is wanted")
    ((kind, value),) = content.items()
    if kind == "update_id" or not re.fullmatch("[a-z_]{1,64}", kind) or type(value) is not dict or not is_sane(value):
        raise Refused(400, "this is no update")
    bot = bot_of(token)
    with bot.lock:
        if bot.allowed and kind not in bot.allowed:
            return "null"
        number, text = bot.last + 1, json.dumps(content)
        write("update", token, number, text)
        bot.last = number
        bot.updates.append((number, text))
        bot.wake("news")
    return f'{{"update_id":{number}}}'


METHODS = {"getUpdates": get_updates, "deleteWebhook": delete_webhook, "getMe": get_me}


# --- HTTP

under_way = 0
idle = threading.Condition()
stopping = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        global under_way
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # it was never sent
            self.close_connection = True
            return
        with idle:
            under_way += 1
        try:
            self.respond(body)
        finally:
            with idle:
                under_way -= 1
                idle.notify_all()

    do_POST = do_GET

    def respond(self, body):
        try:
            status, text = 200, f'{{"ok":true,"result":{self.answer(body)}}}'
        except Refused as refused:
            status, why = refused.args
            text = json.dumps({"ok": False, "error_code": status, "description": why})
        closing = "Connection: close\r\n" if stopping.is_set() or self.close_connection else ""
        head = f"HTTP/1.1 {status} {http.responses[status]}\r\nContent-Type: application/json\r\n{closing}"
        self.wfile.write(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())

    def answer(self, body):
        path, _, query = self.path.partition("?")
        if self.command == "POST" and (found := INGEST.fullmatch(path)):
            return ingest(found["token"], body)
        found = CALL.fullmatch(path)
        if not found or found["method"] not in METHODS:
            raise Refused(404, "Not Found")
        return METHODS[found["method"]](found["token"], self.parameters(query, body), self.connection)

    def parameters(self, query, body):
        given = {name: values[-1] for name, values in parse_qs(query).items()}
        kind = self.headers.get_content_type() if "Content-Type" in self.headers else ""
        if kind == "application/json" and body:
            document = parsed(body)
            if type(document) is not dict:
                raise Refused(400, "an object is wanted")
            given |= document
        elif kind == "application/x-www-form-urlencoded":
            given |= {name: values[-1] for name, values in parse_qs(body.decode()).items()}
        return {name: value for name, value in given.items() if value is not None and value != ""}

    def handle(self):
        with suppress(ConnectionError):  # the client has gone
            super().handle()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    address_family = socket.AF_INET6 if ":" in HOST else socket.AF_INET


def accept(server):
    while not stopping.is_set():  # serve_forever() would look at a timer twice a second
        server.handle_request()


signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
server = Server((HOST, PORT), Handler)
threading.Thread(target=accept, args=(server,), daemon=True).start()
threading.Thread(target=watch_leavers, daemon=True).start()
signal.sigwait({signal.SIGTERM})
stopping.set()
server.socket.shutdown(socket.SHUT_RDWR)
for each in list(bots.values()):
    with each.lock:
        each.wake("end")
with idle:
    idle.wait_for(lambda: under_way == 0, timeout=2)
os._exit(0)
