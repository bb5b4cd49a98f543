"""A worker: the main thread accepts, and a thread of its own serves each connection, with calls that block."""

import http.client
import json
import os
import queue
import re
import select
import signal
import socket
import sys
import threading
from time import monotonic
from urllib.parse import urlsplit

NUMBER, RELEASE = int(sys.argv[1]), sys.argv[4]
LISTENER, CONTROL = (socket.socket(fileno=int(word)) for word in sys.argv[2:4])
ROOM = int(os.environ["WORKER_CONNECTIONS"])
REQUEST = int(os.environ["REQUEST_MS"]) / 1000
PULSE = int(os.environ["STUCK_MS"]) / 1000 / 4
UPSTREAM = urlsplit(os.environ["UPSTREAM_URL"])
HEAD_BYTES = 16_384


def read_head(client: socket.socket) -> bytes | None:
    """All up to the empty line; None when it does not come in time, or at all."""
    data, deadline = b"", monotonic() + REQUEST
    while b"\r\n\r\n" not in data:
        left = deadline - monotonic()
        if left <= 0 or len(data) > HEAD_BYTES:
            return None
        client.settimeout(left)
        try:
            more = client.recv(4096)
        except TimeoutError:
            return None
        if not more:
            return None
        data += more
    client.settimeout(None)
    return data


def ask(target: str) -> str | None:
    upstream = http.client.HTTPConnection(UPSTREAM.hostname, UPSTREAM.port)
    try:
        upstream.request("GET", target, headers={"Connection": "close"})
        reply = upstream.getresponse()
        text = reply.read().decode()
        return text if reply.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        upstream.close()


def answer(head: bytes) -> tuple[str, dict]:
    told = {"worker": NUMBER, "pid": os.getpid(), "release": RELEASE}
    if re.match(rb"GET / HTTP/1\.[01]\r\n", head):
        return "200 OK", told
    job = re.match(rb"GET (/jobs/[A-Za-z0-9-]{1,64}) HTTP/1\.[01]\r\n", head)
    if not job:
        return "404 Not Found", {}
    result = ask(job[1].decode())
    return ("200 OK", told | {"result": result}) if result is not None else ("502 Bad Gateway", told)


def serve(client: socket.socket, done: "queue.SimpleQueue[None]", wake: int) -> None:
    try:
        with client:
            head = read_head(client)
            if head:
                status, document = answer(head)
                body = json.dumps(document).encode()
                head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                client.sendall(head + body)
    except ConnectionError:
        pass
    done.put(None)
    os.write(wake, b".")


def main() -> None:
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    told: list[str] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append("leave"))
    done: queue.SimpleQueue[None] = queue.SimpleQueue()
    accepting, draining, busy, beat = True, False, 0, 0.0
    while accepting or busy:
        if monotonic() >= beat:
            CONTROL.send(b".")
            beat = monotonic() + PULSE
        watched = [CONTROL, woken, *([LISTENER] if accepting and busy < ROOM else [])]
        ready = select.select(watched, [], [], max(beat - monotonic(), 0))[0]
        if woken in ready:
            os.read(woken, 4096)
        if CONTROL in ready:
            orders = CONTROL.recv(16)
            if not orders:
                os._exit(1)  # the supervisor is dead
            told += ["drain" if b"D" in orders else "leave"]
        while not done.empty():
            done.get()
            busy -= 1
        draining = draining or "drain" in told
        if accepting and "leave" in told and not draining:
            LISTENER.close()
            accepting = False
        while accepting and busy < ROOM:
            try:
                client, _ = LISTENER.accept()
            except BlockingIOError:
                if draining:
                    LISTENER.close()
                    accepting = False
                break
            except ConnectionError:
                continue
            busy += 1
            threading.Thread(target=serve, args=(client, done, wake), daemon=True).start()


if __name__ == "__main__":
    try:
        main()
    except ConnectionError:
        os._exit(1)  # no sign of life can be given any more
