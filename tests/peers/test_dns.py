"""The DNS clients and the zone file of the harness, against dnspython, nsd, and datagrams that the test decides."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import dns.message
import dns.rcode
import dns.rrset
import dns.zone
import pytest

from harness import kata as katas
from harness import subjects
from harness.peers.dns_client import QR, Answer, DnsClient, DnsStream, Query, framed, labels_of, same, told
from harness.peers.zone_file import ZoneFile, as_owned_by
from harness.solution.program import Solution
from harness.solution.scratch import Scratch
from harness.verdicts import Broken
from harness.wire.udp import Endpoint

from .foreign import ORACLES, require
from .stage import Stage

WWW = "www.example.test."


class SmallZone(ZoneFile):
    def fill(self) -> None:
        self.add("", "SOA", f"{self.name('ns')} {self.name('hostmaster')} 7 7200 900 1209600 300")
        self.add("", "NS", self.name("ns"))
        self.add("ns", "A", self.ipv4())
        self.add("www", "A", "192.0.2.1", "192.0.2.2", ttl=60)
        self.add("www", "AAAA", self.ipv6())
        self.add("mail", "MX", f"10 {self.name('www')}")
        self.add("text", "TXT", f'"{self.text(40)}" "{self.text(2)}"', f'"{self.text(255)}"')
        self.add("large", "TXT", *(f'"{self.text(200)}"' for _ in range(20)))
        self.add("*.wild", "A", "192.0.2.3")
        self.add("alias", "CNAME", self.name("www"))


class Counterpart(Stage):
    """A name server whose every datagram the test decides."""

    def __init__(self) -> None:
        super().__init__()
        self.sock = socket.socket(type=socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.settimeout(30)
        self.address = self.sock.getsockname()
        self.source: tuple[str, int] = ("", 0)

    def endpoint(self, name: str, told_by) -> Endpoint:
        return Endpoint(self.network, name, "server", told_by)

    def hear(self) -> bytes:
        data, self.source = self.sock.recvfrom(65536)
        return data

    def say(self, data: bytes, sock: socket.socket | None = None) -> None:
        (sock or self.sock).sendto(data, self.source)

    def close(self) -> None:
        super().close()
        self.sock.close()


@pytest.fixture
def counterpart() -> Iterator[Counterpart]:
    counterpart = Counterpart()
    yield counterpart
    counterpart.close()


@pytest.fixture
def client(counterpart) -> DnsClient:
    return DnsClient(counterpart, "client", random.Random(1))


@pytest.fixture(scope="module")
def nsd(scratch: Scratch) -> Iterator[Solution]:
    require("nsd", "nsd")
    kata = katas.shipped("udp_dns")
    subject = subjects.from_path(kata, ORACLES / "nsd_server.py")
    solution = Solution(kata, subject, {}, [SmallZone], scratch, seed=7)
    try:
        solution.until_ready()
        yield solution
    finally:
        solution.close()


@pytest.fixture
def server(nsd) -> Iterator[Solution]:
    nsd.begin()
    yield nsd
    nsd.conclude()


# What is written


@pytest.mark.parametrize(
    "query",
    [
        Query(labels_of(WWW), 1, 0),
        Query(labels_of(WWW), 28, 65535, flags=0x0100, edns=1232),
        Query((), 2, 7, edns=0, version=3, options=b"\xfd\xe9\0\2hi"),
        Query((b"a.b", b"\xff\0", b"test"), 65280, 9, class_=3),
    ],
    ids=str,
)
def test_dnspython_reads_what_was_meant(query):
    message = dns.message.from_wire(query.to_wire())

    (question,) = message.question
    assert (message.id, int(message.flags), question.name.labels) == (query.id, query.flags, (*query.labels, b""))
    assert (int(question.rdtype), int(question.rdclass)) == (query.kind, query.class_)
    if query.edns is None:
        assert message.edns < 0
    else:
        assert (message.edns, message.payload) == (query.version, query.edns)
    assert bool(message.options) == bool(query.options)


def test_dnspython_loads_the_zone(scratch):
    kata = katas.shipped("udp_dns")
    solution = Solution(kata, subjects.reference(kata), {"FILLING": "3"}, [SmallZone], scratch, seed=7)
    zone_file = solution.peer(SmallZone)
    zone = dns.zone.from_file(str(zone_file.path), origin=zone_file.origin, relativize=False)

    loaded = sum(len(rdataset) for node in zone.values() for rdataset in node)
    assert loaded == len(zone_file.records)
    assert zone_file.filling == 3
    assert "FILLING" not in solution.settings, "that is said to the peer, and not to the solution"
    solution.close()


def test_the_zone_is_the_same_for_the_same_seed(scratch):
    kata = katas.shipped("udp_dns")
    made = [Solution(kata, subjects.reference(kata), {}, [SmallZone], scratch, seed) for seed in (1, 1, 2)]
    first, again, other = (solution.peer(SmallZone).records for solution in made)
    assert first == again
    assert not {record.owner for record in first} & {record.owner for record in other}
    for solution in made:
        solution.close()


# What is read


def test_nsd_is_understood(server):
    zone, client = server.peer(SmallZone), DnsClient(server, "client", random.Random(1))
    for path, kind in [("www", "A"), ("www", "AAAA"), ("mail", "MX"), ("text", "TXT"), ("", "SOA"), ("", "NS")]:
        query = client.ask(zone.name(path), kind)
        answer = client.answer_to(query)
        assert same(answer.answer) == same(zone.rrset(path, kind))
        assert (answer.rcode, answer.authoritative, answer.truncated, answer.edns) == ("NOERROR", True, False, None)
        assert answer.question == query.question
    name = f"x.{zone.name('wild')}"
    assert same(client.resolve(name).answer) == same(as_owned_by(name, zone.rrset("*.wild", "A")))
    assert client.take_all() == []


def test_nsds_denials_and_sizes_are_understood(server):
    zone, client = server.peer(SmallZone), DnsClient(server, "client", random.Random(1))
    denied = client.resolve(f"nobody.{zone.origin}", edns=4096)
    assert (denied.rcode, denied.edns) == ("NXDOMAIN", 0)
    assert [(record.kind, record.owner) for record in denied.authority] == [("SOA", zone.origin)]
    assert client.resolve(zone.name("www"), edns=1232, version=1).rcode == "BADVERS"
    cut = client.resolve(zone.name("large"), "TXT")
    assert (cut.truncated, len(cut.data) <= 512) == (True, True)


def test_nsd_is_understood_over_tcp(server):
    zone, stream = server.peer(SmallZone), DnsStream(server, "client", random.Random(1))
    queries = [stream.ask(zone.name("large"), "TXT", id=number) for number in range(3)]
    for query in reversed(queries):
        assert same(stream.answer_to(query).answer) == same(zone.rrset("large", "TXT"))
    data = framed(stream.query(zone.name("www"), id=9).to_wire())
    stream.send_in_pieces([data[:1], data[1:9], data[9:]])
    assert [answer.id for answer in stream.take_all()] == [9]
    stream.connection.half_close()
    assert stream.until_closed() == []


def response(query: Query, *records: str) -> bytes:
    """What dnspython would answer."""
    message = dns.message.make_response(dns.message.from_wire(query.to_wire()))
    for record in records:
        message.answer.append(dns.rrset.from_text(*record.split(maxsplit=4)))
    return message.to_wire()


def test_answers_are_told_apart_by_their_ids(counterpart, client):
    first, second = client.ask(WWW, id=1), client.ask("mail.example.test.", id=2)
    counterpart.hear()
    counterpart.hear()
    counterpart.say(response(second))
    counterpart.say(response(first, f"{WWW} 60 IN A 192.0.2.1"))

    assert [record.data for record in client.answer_to(first).answer] == ["192.0.2.1"]
    assert client.answer_to(second).answer == []


def test_an_answer_from_somewhere_else_breaks_the_promise(counterpart, client):
    query = client.ask(WWW)
    counterpart.hear()
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        counterpart.say(response(query), other)
        with pytest.raises(Broken, match="owed from the address that was asked"):
            client.answer_to(query)


DAMAGED = {
    "that are no DNS message .*malformed": lambda data: data[:-1],
    "that are no DNS message .*extra junk": lambda data: data + b"?",
    "too short": lambda data: data[:5],
    "its QR bit is 0": lambda data: data[:2] + b"\0" + data[3:],
}


@pytest.mark.parametrize(("why", "damage"), DAMAGED.items(), ids=DAMAGED)
def test_what_is_no_response_breaks_the_promise(counterpart, client, why, damage):
    query = client.ask(WWW)
    counterpart.hear()
    counterpart.say(damage(response(query, f"{WWW} 60 IN A 192.0.2.1")))
    with pytest.raises(Broken, match=why):
        client.answer_to(query)


def test_a_tripwire_is_tripped_by_what_comes_late(counterpart, client):
    tripwires = []
    counterpart.leave_tripwire = lambda tripped, message: tripwires.append(tripped)
    query = client.ask(WWW)
    counterpart.hear()
    client.stays_silent("it spoke")
    assert [tripped() for tripped in tripwires] == [False]
    counterpart.say(response(query))
    counterpart.until(lambda: client.arrived, "the late answer")
    assert [tripped() for tripped in tripwires] == [True]


def test_records_compare_as_dns_does():
    data = [
        response(Query(labels_of(WWW), 15, 1), f"{WWW} 60 IN MX 10 a.test.", f"{WWW} 60 IN MX 20 b.test."),
        response(Query(labels_of(WWW), 15, 1), f"{WWW.upper()} 60 IN MX 20 B.test.", f"{WWW} 60 IN MX 10 a.TEST."),
        response(Query(labels_of(WWW), 15, 1), f"{WWW} 61 IN MX 10 a.test.", f"{WWW} 60 IN MX 20 b.test."),
    ]
    first, reordered, other_ttl = (same(Answer.parse(each).answer) for each in data)
    assert first == reordered
    assert first != other_ttl


def test_messages_are_told_in_a_few_words():
    query = Query(labels_of(WWW), 1, 7)
    assert told(query.to_wire()) == f"#7 {WWW} A?"
    assert told(response(query, f"{WWW} 60 IN A 192.0.2.1")) == "#7 NOERROR, answer 1"
    assert told(b"short") == "5 bytes, no DNS message"
    assert told(query.to_wire()[:20]) == "#7 malformed, 20 bytes"
    assert told(Query(labels_of(WWW), 1, 7, flags=QR).to_wire()) == "#7 NOERROR"
