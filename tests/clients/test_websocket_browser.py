"""A browser's WebSocket against the reference of the kata `websocket`: an echo, a room, and a server that goes away."""

from __future__ import annotations

import threading

import pytest
from websockets.sync.client import connect

from .browser import Relay, chromium
from .launch import reference

GOING_AWAY, OWN_CODE = 1001, 4321


@pytest.mark.oracle
@pytest.mark.timeout(300)
def test_a_browser_is_served_from_the_handshake_to_the_close(tmp_path):
    with reference("websocket", SUBPROTOCOLS="chat.v2,chat.v1") as solution:
        relay = Relay(solution.address, "websocket.html")
        threading.Thread(target=relay.serve_forever, daemon=True).start()

        def told(name: str, kind: str) -> list[dict]:
            return [each for each in relay.reports if (each["name"], each["type"]) == (name, kind)]

        host, port = solution.address
        with chromium(relay, tmp_path / "profile"), connect(f"ws://{host}:{port}/rooms/tea") as friend:
            relay.until(lambda: told("echo", "close"), "the end of the echo")
            (opened,), (closed,) = told("echo", "open"), told("echo", "close")
            assert (opened["protocol"], opened["extensions"]) == ("chat.v1", "")
            assert (closed["code"], closed["wasClean"]) == (OWN_CODE, True)
            came = [each["text"] if each["bytes"] is None else each["bytes"] for each in told("echo", "message")]
            assert came == ["hello", "", "é€😀", "x" * 70000, [0, 255, 254], 100000, "last"]

            relay.until(lambda: told("member", "open"), "a member of the room")
            friend.send("the bell")
            assert friend.recv(60) == "I heard the bell"

            solution.terminate()
            relay.until(lambda: told("member", "close"), "the end of the room")
            (closed,) = told("member", "close")
            assert (closed["code"], closed["wasClean"]) == (GOING_AWAY, True)
        relay.shutdown()
        relay.server_close()
