"""POST /echo; GET /chunked/N (chunks), /big/N (bytes), /status/N, /closing, and /old, whose body ends with a close."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS = os.environ["HOST"], int(os.environ["PORT"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, headers: dict[str, str], *parts: bytes) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        for part in parts:
            self.wfile.write(part)

    def do_GET(self) -> None:
        kind, _, number = self.path.strip("/").partition("/")
        match kind:
            case "chunked":
                lines = [b"chunk %d\n" % index for index in range(int(number))]
                chunks = [b"%x\r\n%b\r\n" % (len(line), line) for line in lines]
                self.answer(200, {"Transfer-Encoding": "chunked"}, *chunks, b"0\r\n\r\n")
            case "big":
                self.answer(200, {"Content-Length": number}, b"x" * int(number))
            case "status":
                length = {} if number in {"204", "304"} else {"Content-Length": "0"}
                self.answer(int(number), {"x-twice": "a", "X-Name": "b", **length})
            case "closing":
                self.answer(200, {"Connection": "close", "Content-Length": "2"}, b"ok")
            case "old":
                self.protocol_version = "HTTP/1.0"
                self.answer(200, {}, b"until", b" the end")
                self.close_connection = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        heard = {key.lower(): value for key, value in self.headers.items()}
        told = {"method": self.command, "target": self.path, "headers": heard, "body": body}
        content = json.dumps(told).encode()
        self.answer(200, {"Content-Type": "application/json", "Content-Length": str(len(content))}, content)

    def log_message(self, *_: object) -> None:
        """It stays silent."""


ThreadingHTTPServer(ADDRESS, Handler).serve_forever()
