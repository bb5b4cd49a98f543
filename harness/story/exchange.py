"""What the clients of a story said, as commands to say it by hand: `curl` for HTTP, `nc` for other text.

Only what can be repeated to the letter: a message that is binary, or that was not kept whole, is left out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from harness.story.record import Event

HOST, PORT = "127.0.0.1", 8080
MOST_COMMANDS, LONGEST = 6, 600
REQUEST = re.compile(rb"([A-Z]+) (/[!-~]*) HTTP/1\.[01]\r\n")
BY_CURL_ITSELF = {"host", "content-length", "connection"}


def commands(events: Sequence[Event], solution: str) -> list[str]:
    """The commands, oldest first; none when a part of the exchange is missing from the story."""
    said = [event for event in events if event.kind == "message" and event.target == solution]
    said = [event for event in said if event.source != solution and _from_a_client(event, events, solution)]
    if not said or any(event.kind == "gap" for event in events):
        return []
    if any(REQUEST.match(event.head) for event in said):
        lines = [line for event in said if (line := curl(event))]
    else:
        lines = list(_netcats(said))
    return [line for line in lines if len(line) <= LONGEST][:MOST_COMMANDS]


def _from_a_client(event: Event, events: Sequence[Event], solution: str) -> bool:
    """The solution did not call this party: what it says is no answer."""
    return not any(each.kind == "open" and (each.source, each.target) == (solution, event.source) for each in events)


def curl(event: Event) -> str:
    """A request as a `curl` command, "" for what curl would not send like that."""
    request = REQUEST.match(event.head)
    head, ended, body = (event.head + event.tail).partition(b"\r\n\r\n")
    if not (request and ended and event.whole):
        return ""
    try:
        fields = [line.partition(": ")[::2] for line in head.decode("ascii").split("\r\n")[1:]]
        text = body.decode()
    except UnicodeDecodeError:
        return ""
    announced = next((value for name, value in fields if name.lower() == "content-length"), "0")
    if announced != str(len(body)) or not _printable(text):
        return ""
    words = ["curl", "-i"]
    method = request[1].decode()
    if method != ("POST" if body else "GET"):
        words += ["-I"] if method == "HEAD" else ["-X", method]
    for name, value in fields:
        if name.lower() not in BY_CURL_ITSELF:
            words += ["-H", f"{name}: {value}"]
    if body:
        words += ["--data-binary", text]
    return shlex.join([*words, f"http://{HOST}:{PORT}{request[2].decode()}"])


def _netcats(said: Sequence[Event]) -> Iterator[str]:
    """For each client one command that says all it said, and listens for a second."""
    for party in dict.fromkeys(event.source for event in said):
        mine = [event for event in said if event.source == party]
        text = b"".join(event.head + event.tail for event in mine).decode("utf-8", "replace")
        if all(event.whole and event.size for event in mine) and _printable(text):
            yield f"(printf {_quoted(text)}; sleep 1) | nc {HOST} {PORT}"


def _printable(text: str) -> bool:
    return all(character.isprintable() or character in "\r\n\t" for character in text) and "�" not in text


def _quoted(text: str) -> str:
    """A word for `printf`, on one line."""
    for plain, escaped in (("\\", "\\\\"), ("%", "%%"), ("\r", "\\r"), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return shlex.quote(text)
