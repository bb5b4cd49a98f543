"""A UDP server with a thread for each datagram; after `deaf` it reads no more, `exit N` ends it."""

import os
import socket
import threading
import time

from work import ADDRESS, done, parse, spin

sock = socket.socket(type=socket.SOCK_DGRAM)
sock.bind(ADDRESS)


def answer(mode: str, number: int, source: tuple[str, int]) -> None:
    if mode == "work":
        spin(number)
    if mode == "later":
        time.sleep(number / 1000)
    if mode != "silent":
        sock.sendto(done(mode, number), source)


while True:
    data, source = sock.recvfrom(65536)
    mode, number = parse(data)
    if mode == "exit":
        os._exit(number)
    if mode == "deaf":
        threading.Event().wait()
    threading.Thread(target=answer, args=(mode, number, source)).start()
