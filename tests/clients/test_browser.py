"""A browser's EventSource against the reference of the kata `sse`: it resumes by itself, and stops when told to."""

from __future__ import annotations

import threading

import httpx
import pytest

from .browser import Relay, chromium
from .launch import reference

TEXTS = ["plain", "a\u2028b\x0bc\x85", "two\nlines", "", "  blanks  ", "\ufeffmark", "id: 9", "tail\n", "é😀"]
CLOSED = 2  # EventSource.readyState


def dispatched(relay: Relay) -> list[tuple[str, str, str]]:
    return [(each["id"], each["type"], each["data"]) for each in relay.reports if "data" in each]


@pytest.mark.oracle
@pytest.mark.timeout(300)
def test_a_browser_gets_everything_once_across_a_cut_and_stops_at_the_end(tmp_path):
    with reference("sse") as solution:
        relay = Relay(solution.address, "event_source.html")
        threading.Thread(target=relay.serve_forever, daemon=True).start()
        host, port = solution.address
        with (
            chromium(relay, tmp_path / "profile"),
            httpx.Client(base_url=f"http://{host}:{port}", timeout=60) as client,
        ):
            published: list[tuple[str, str, str]] = []

            def publish(data: str, event: str = "") -> None:
                reply = client.post("/streams/news", json={"data": data, "event": event})
                assert reply.status_code == 201
                published.append((reply.json()["id"], event or "message", data))

            relay.until(lambda: any(each["type"] == "open" for each in relay.reports), "an open EventSource")
            for text in TEXTS:
                publish(text, "greeting")
            publish("a lone\rCR")
            published[-1] = (*published[-1][:2], "a lone\nCR")
            relay.until(lambda: len(dispatched(relay)) == len(published), "all events")

            seen = published[-1][0]
            relay.cut()
            for number in range(3):
                publish(f"meanwhile {number}")
            relay.until(lambda: len(dispatched(relay)) >= len(published), "what was published meanwhile")
            assert relay.last_ids[:2] == [None, seen], "the browser comes back with the id that it saw last"

            assert client.delete("/streams/news").status_code == 204
            relay.until(lambda: relay.reports[-1].get("state") == CLOSED, "an EventSource that has given up")
            assert dispatched(relay) == published, "every event once, in order"
            assert relay.last_ids[-1] == published[-1][0], "204 was the answer to its last attempt"
        relay.shutdown()
        relay.server_close()
