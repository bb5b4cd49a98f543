"""A thread for every connection, as the standard library's socketserver makes them."""

import socketserver

from work import ADDRESS, serve_blocking


class Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        serve_blocking(self.request)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


Server(ADDRESS, Handler).serve_forever(poll_interval=None)
