"""An authoritative name server of threads that block: one for UDP, one that accepts, one for each TCP client.

The default action of SIGTERM ends it. A client that does not read holds up its own thread, and with it one answer.
"""

import os
import shlex
import socket
import struct
import threading
from ipaddress import ip_address

A, NS, CNAME, SOA, MX, TXT, AAAA, OPT, IXFR, AXFR, ANY = 1, 2, 5, 6, 15, 16, 28, 41, 251, 252, 255
TYPES = {"A": A, "NS": NS, "CNAME": CNAME, "SOA": SOA, "MX": MX, "TXT": TXT, "AAAA": AAAA}
NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 3, 4, 5, 16
QR, AA, TC, RD = 0x8000, 0x0400, 0x0200, 0x0100
OWN_LIMIT = 1232

Name = tuple[bytes, ...]


class FormError(Exception):
    """The message is not one."""


# --- the zone ---------------------------------------------------------------------------------------------------------


def labels(text: str) -> Name:
    return tuple(text.rstrip(".").encode("latin-1").split(b"."))


def packed(name: Name) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in name) + b"\0"


def folded(name: Name) -> Name:
    return tuple(label.lower() for label in name)  # bytes.lower() knows ASCII only, as it should


def data_of(kind: int, text: str) -> bytes:
    if kind == TXT:
        strings = [string.encode("latin-1") for string in shlex.split(text)]
        return b"".join(bytes([len(string)]) + string for string in strings)
    fields = text.split()
    if kind in (A, AAAA):
        return ip_address(fields[0]).packed
    if kind == MX:
        return struct.pack("!H", int(fields[0])) + packed(labels(fields[1]))
    if kind == SOA:
        return packed(labels(fields[0])) + packed(labels(fields[1])) + struct.pack("!5I", *map(int, fields[2:7]))
    return packed(labels(fields[0]))


ORIGIN = labels(os.environ["ZONE"])
SETS: dict[Name, dict[int, list[bytes]]] = {}  # a record is held as it goes out, without its owner
TARGETS: dict[tuple[Name, int], list[Name]] = {}  # the names in the data of NS and CNAME


def load(path: str) -> None:
    with open(path, encoding="latin-1") as lines:
        for line in lines:
            if line.startswith(";") or not line.strip():
                continue
            owner, ttl, _, kind_text, text = line.split(maxsplit=4)
            name, kind = labels(owner), TYPES[kind_text]
            data = data_of(kind, text)
            record = struct.pack("!HHIH", kind, 1, int(ttl), len(data)) + data
            SETS.setdefault(name, {}).setdefault(kind, []).append(record)
            if kind in (NS, CNAME):
                TARGETS.setdefault((name, kind), []).append(labels(text.strip()))
    for name in list(SETS):
        for depth in range(1, len(name) - len(ORIGIN)):
            SETS.setdefault(name[depth:], {})  # nothing of its own, yet it exists


def owned(owner: bytes, records: list[bytes]) -> list[bytes]:
    return [owner + record for record in records]


def denial() -> list[bytes]:
    soa = SETS[ORIGIN][SOA][0]
    ttl = min(struct.unpack("!I", soa[4:8])[0], struct.unpack("!I", soa[-4:])[0])
    return [packed(ORIGIN) + soa[:4] + struct.pack("!I", ttl) + soa[8:]]


def referral(cut: Name) -> tuple[list[bytes], list[bytes]]:
    glue = [
        record
        for server in dict.fromkeys(TARGETS[cut, NS])
        for kind in (A, AAAA)
        for record in owned(packed(server), SETS.get(server, {}).get(kind, []))
    ]
    return owned(packed(cut), SETS[cut][NS]), glue


def node_of(name: Name) -> tuple[Name | None, bool]:
    """Where the records for a name are: (its own node, a wildcard or a cut; whether it is a cut)."""
    for depth in range(len(name) - len(ORIGIN) - 1, -1, -1):
        here = name[depth:]
        if here not in SETS:
            wild = (b"*", *here[1:])
            return (wild if wild in SETS else None), False
        if NS in SETS[here]:
            return here, True
    return name, False


def look_up(asked: Name, kind: int) -> tuple[int, int, list[list[bytes]]]:
    """RCODE, the AA bit, and the three sections."""
    name, answer, seen = folded(asked), [], set()
    if name[-len(ORIGIN) :] != ORIGIN:
        return REFUSED, 0, [[], [], []]
    owner = packed(asked)
    while name not in seen and name[-len(ORIGIN) :] == ORIGIN:
        seen.add(name)
        node, cut = node_of(name)
        if cut:
            return NOERROR, AA if answer else 0, [answer, *referral(node)]
        if node is None:
            return NXDOMAIN, AA, [answer, denial(), []]
        sets = SETS[node]
        if CNAME in sets and kind not in (CNAME, ANY):
            answer += owned(owner, sets[CNAME])
            name = TARGETS[node, CNAME][0]
            owner = packed(name)
            continue
        found = [record for each in sets.values() for record in each] if kind == ANY else sets.get(kind, [])
        answer += owned(owner, found)
        return NOERROR, AA, [answer, [] if found else denial(), []]
    return NOERROR, AA, [answer, [], []]


# --- messages ---------------------------------------------------------------------------------------------------------


def name_at(message: bytes, at: int, pointers: bool) -> tuple[Name, int]:
    """The name at an offset, and where it ends there."""
    name: list[bytes] = []
    end, size, lowest = None, 1, at
    while True:
        if at >= len(message):
            raise FormError
        length = message[at]
        if length >= 0xC0 and pointers and at + 1 < len(message):
            end = end or at + 2
            at = struct.unpack_from("!H", message, at)[0] & 0x3FFF
            if at >= lowest:
                raise FormError  # only backwards, so there is no loop
            lowest = at
            continue
        if length > 63 or at + 1 + length > len(message):
            raise FormError
        if length == 0:
            return tuple(name), end or at + 1
        size += 1 + length
        if size > 255:
            raise FormError
        name.append(message[at + 1 : at + 1 + length])
        at += 1 + length


def reply(message: bytes, over_tcp: bool) -> bytes | None:
    if len(message) < 12 or message[2] & 0x80:
        return None
    number, flags = struct.unpack_from("!HH", message)
    kept = QR | flags & (0x7800 | RD)
    if flags & 0x7800:
        return struct.pack("!6H", number, kept | NOTIMP, 0, 0, 0, 0)
    try:
        return answer(message, number, kept, over_tcp)
    except FormError:
        return struct.pack("!6H", number, kept | FORMERR, 0, 0, 0, 0)


def answer(message: bytes, number: int, kept: int, over_tcp: bool) -> bytes:
    questions, *others = struct.unpack_from("!4H", message, 4)
    if questions != 1:
        raise FormError
    name, at = name_at(message, 12, pointers=False)
    if at + 4 > len(message):
        raise FormError
    kind, class_ = struct.unpack_from("!HH", message, at)
    question = message[12 : at + 4]
    opt = opt_of(message, at + 4, sum(others))
    room = 65535 if over_tcp else 512 if opt is None else min(max(512, opt[0]), OWN_LIMIT)
    rcode, authority, sections = REFUSED, 0, [[], [], []]
    if opt is not None and opt[1] > 0:
        rcode = BADVERS
    elif class_ == 1 and kind not in (AXFR, IXFR):
        rcode, authority, sections = look_up(name, kind)
    if opt is not None:
        sections[2].append(struct.pack("!BHHBBHH", 0, OPT, OWN_LIMIT, rcode >> 4, 0, 0, 0))
    whole = sum(len(record) for section in sections for record in section) + 12 + len(question)
    if whole > room:
        authority |= TC
        sections = [[], [], sections[2][-1:] if opt is not None else []]
    counts = map(len, sections)
    head = struct.pack("!6H", number, kept | authority | rcode & 15, 1, *counts)
    return head + question + b"".join(record for section in sections for record in section)


def opt_of(message: bytes, at: int, records: int) -> tuple[int, int] | None:
    """(payload size, version) of the one OPT record, if there is one."""
    opt = None
    for _ in range(records):
        _, at = name_at(message, at, pointers=True)
        if at + 10 > len(message):
            raise FormError
        kind, class_, _, version, _, size = struct.unpack_from("!HHBBHH", message, at)
        at += 10 + size
        if at > len(message) or (kind == OPT and opt):
            raise FormError
        if kind == OPT:
            opt = class_, version
    return opt


# --- sockets ----------------------------------------------------------------------------------------------------------


def serve_udp(listener: socket.socket) -> None:
    while True:
        message, sender = listener.recvfrom(65535)
        response = reply(message, over_tcp=False)
        if response is not None:
            try:
                listener.sendto(response, sender)
            except OSError as error:  # a forged source, such as port 0
                print(f"no answer to {sender}: {error}", flush=True)


def serve_client(client: socket.socket) -> None:
    try:
        with client, client.makefile("rb") as stream:
            while len(prefix := stream.read(2)) == 2:
                length = int.from_bytes(prefix, "big")
                message = stream.read(length)
                if len(message) < length:
                    return
                response = reply(message, over_tcp=True)
                if response is not None:
                    client.sendall(len(response).to_bytes(2, "big") + response)
    except OSError:
        pass  # it has gone


def main() -> None:
    load(os.environ["ZONE_FILE"])
    address = os.environ["HOST"], int(os.environ["PORT"])
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(address)
    listener = socket.create_server(address, backlog=128)  # it sets SO_REUSEADDR
    threading.Thread(target=serve_udp, args=(datagrams,), daemon=True).start()
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve_client, args=(client,), daemon=True).start()


if __name__ == "__main__":
    main()
