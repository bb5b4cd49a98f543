"""Answers as a broker would have answered, if the questions had been those of another run."""

import os
import re
import socketserver
import sys

INFO = b'INFO {"server_id":"X","version":"1","proto":1,"headers":false,"max_payload":1048576}\r\n'
ANSWERS = {b"PING": b"PONG\r\n", b"SUB": b"+OK\r\n", b"PUB": b"MSG greetings 1 5\r\nhello\r\n"}


class Answers(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(INFO)
        for line in self.rfile:
            self.wfile.write(ANSWERS.get(re.split(rb"\s", line, maxsplit=1)[0].upper(), b""))


socketserver.ThreadingTCPServer.daemon_threads = True
with socketserver.ThreadingTCPServer((os.environ["HOST"], int(os.environ["PORT"])), Answers) as server:
    try:
        server.serve_forever()
    finally:
        sys.exit(0)
