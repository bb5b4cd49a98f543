"""Given: the HTTP service behind the TLS, without any I/O. Nothing of the kata is solved here.

GET /whoami           {"site": ..., "client": ...}: the site that answers, and the client's name from its certificate
PUT /notes/{name}     keeps the body; 204
GET /notes/{name}     200 and the body, or 404
GET /bytes/{number}   so many bytes
"""

import json
import re
from collections.abc import Callable, Iterator

import h11

LARGEST_NOTE, MOST_BYTES, PIECE = 1 << 20, 1 << 26, 1 << 16
NOTE, BYTES = re.compile(r"/notes/([A-Za-z0-9-]{1,64})"), re.compile(r"/bytes/([0-9]{1,8})")

notes: dict[str, bytes] = {}


class Conversation:
    """One HTTP/1.1 connection: plaintext in, plaintext out, piece by piece."""

    def __init__(self, site: str, client: str | None, answers_for: Callable[[str], bool]) -> None:
        """`client` is the name in the client's certificate; `answers_for(host)` says whether a Host belongs here."""
        self.site, self.client, self.answers_for = site, client, answers_for
        self.http = h11.Connection(h11.SERVER)
        self.request: h11.Request | None = None
        self.body = bytearray()
        self.answering: Iterator[bytes] | None = None
        self.is_last = self.over = False

    @property
    def idle(self) -> bool:
        """Nothing of a request has come that is not answered."""
        return self.request is None and not self.http.trailing_data[0]

    def receive(self, plaintext: bytes) -> None:
        self.http.receive_data(plaintext)

    def finish(self) -> None:
        """The answer under way, or the next one, is the last one here."""
        self.is_last = True

    def next_piece(self) -> bytes | None:
        """What is to be sent next; None while there is nothing. After the last answer `over` is true."""
        while True:
            if self.answering:
                piece = next(self.answering, None)
                if piece is not None:
                    return piece
                self.answering = None
            answer = None if self.over else self.next_answer()
            if answer is None:
                return None
            self.answering = self.encode(*answer)

    def next_answer(self) -> tuple[int, bytes | int] | None:
        """Status and body (or the length of one) for the next request, None while it is not complete."""
        try:
            while (event := self.http.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Request):
                    self.request, self.body = event, bytearray()
                elif isinstance(event, h11.Data):
                    self.body += event.data
                    if len(self.body) > LARGEST_NOTE:
                        self.finish()
                        return 413, b""
                elif isinstance(event, h11.EndOfMessage):
                    return self.respond()
        except h11.RemoteProtocolError:
            self.finish()
            return 400, b""
        return None

    def respond(self) -> tuple[int, bytes | int]:
        headers = {key: value.decode("latin-1") for key, value in self.request.headers}
        method, path = self.request.method.decode(), self.request.target.decode("latin-1")
        if not self.answers_for(headers.get(b"host", "").partition(":")[0].lower()):
            return 421, b""
        if method == "GET" and path == "/whoami":
            return 200, json.dumps({"site": self.site, "client": self.client}).encode()
        if found := NOTE.fullmatch(path):
            if method == "PUT":
                notes[found[1]] = bytes(self.body)
                return 204, b""
            return (200, notes[found[1]]) if method == "GET" and found[1] in notes else (404, b"")
        if method == "GET" and (found := BYTES.fullmatch(path)) and int(found[1]) <= MOST_BYTES:
            return 200, int(found[1])
        return 404, b""

    def encode(self, status: int, body: bytes | int) -> Iterator[bytes]:
        size = body if isinstance(body, int) else len(body)
        headers = [] if status == 204 else [("Content-Length", str(size))]
        if self.is_last:
            headers.append(("Connection", "close"))
        data = self.http.send(h11.Response(status_code=status, headers=headers)) or b""
        for at in range(0, size, PIECE):
            piece = b"x" * min(PIECE, size - at) if isinstance(body, int) else body[at : at + PIECE]
            yield data + (self.http.send(h11.Data(data=piece)) or b"")
            data = b""
        data += self.http.send(h11.EndOfMessage()) or b""
        if self.is_last or self.http.our_state is h11.MUST_CLOSE:
            self.over = True
        else:
            self.http.start_next_cycle()
        self.request = None
        if data:
            yield data
