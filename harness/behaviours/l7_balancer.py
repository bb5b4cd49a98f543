"""What a balancer owes the clients in front of it and the servers behind: the behaviours of the kata `l7_balancer`.

The harness is both, so it decides who is slow, who breaks off and where: a request is half there, or a response half
sent, for as long as it likes. What goes where is counted at the upstreams. Active checks are held there until a
behaviour answers them, and the next check proves that the answer was taken in.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from harness import waiting
from harness.behaviour import Source, behaviour, hints, incident, rfc
from harness.peers.upstreams import NAMES, Arrival, Upstream, Upstreams
from harness.solution.program import STOPPED, Solution
from harness.verdicts import LimitReached
from harness.wire.raw_http import Answer, RawClient, chunks, head, request
from harness.wire.tcp import Connection

PEERS = [Upstreams]
MIB = 1 << 20
BULK = 24 * MIB
KEPT = 4 * MIB  # of it, that a balancer may hold itself; what the kernel holds is no affair of its own
TIMEOUT = 80  # ms; so are the next
CONNECT, AMPLE_CONNECT = 30, 800
INTERVAL, CHECK_TIMEOUT, EJECT = 10, 40, 15
LATE, OVERDUE = 20, 160  # by which a program that is right may be late on a busy machine
TICK = 2  # between two looks at who is done
ROBIN = {"BALANCE": "round_robin", "STICKY_COOKIE": "lb"}
IMPATIENT = {"REQUEST_TIMEOUT_MS": TIMEOUT}
TIMED = {"RESPONSE_TIMEOUT_MS": TIMEOUT, "STALL_TIMEOUT_MS": TIMEOUT}
CONNECTING = {"BALANCE": "round_robin", "CONNECT_TIMEOUT_MS": CONNECT}
EJECTING = {"BALANCE": "round_robin", "MAX_FAILS": 2}
RETURNING = {"BALANCE": "round_robin", "MAX_FAILS": 1, "EJECT_MS": EJECT}
CHECKED = {"BALANCE": "round_robin", "CHECK_INTERVAL_MS": 2}  # each is held until it is answered
HANGING = {"BALANCE": "round_robin", "CHECK_INTERVAL_MS": INTERVAL, "CHECK_TIMEOUT_MS": CHECK_TIMEOUT}
HASTY = {"SHUTDOWN_MS": 10}
HOP_BY_HOP = rfc(9110, "7.6.1", "Connection")
IDEMPOTENT = rfc(9110, "9.2.2", "Idempotent Methods")
BASE, EVEN = "passes_on", "least_connections"


def brief(rule: str, words: str) -> Source:
    return Source(f"README {rule}, {words}")


class Balancer:
    """The solution in the words of this kata."""

    def __init__(self, solution: Solution, upstreams: Upstreams, chance: random.Random) -> None:
        self.solution, self.upstreams, self.chance = solution, upstreams, chance
        self._client: RawClient | None = None

    def word(self) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))

    def target(self) -> str:
        return f"/{self.word()}"

    def client(self, name: str = "client", slow: bool = False) -> RawClient:
        return RawClient(self.solution, name, slow)

    def sending(self, data: bytes, method: str = "GET", name: str = "client") -> RawClient:
        """A new client that has sent these bytes."""
        client = self.client(name)
        client.send(data, method)
        return client

    def ask(self, data: bytes, method: str = "GET") -> Answer:
        """A request and its response, on one connection as long as that stays open."""
        if self._client is None or self._client.over:
            self._client = self.client()
        reply = self.answer(self._client, data, method)
        if reply.closes or reply.status >= 400:  # its end may be on its way
            self._client = None
        return reply

    def answer(self, client: RawClient, data: bytes = b"", method: str = "GET") -> Answer:
        """The response to a request; nothing forbidden has come to an upstream by then."""
        if data:
            client.send(data, method)
        reply = client.response()
        self.look_around()
        return reply

    def look_around(self) -> None:
        assert not self.upstreams.offences, self.upstreams.offences[0]

    def settled(self) -> None:
        self.solution.settled()
        self.look_around()

    def served(self, method: str = "GET", body: bytes = b"") -> Arrival:
        """An ordinary request is answered by some upstream: where it arrived."""
        target = self.target()
        check_reply(self.ask(request(method, target, body=body), method), target, body)
        (arrival,) = self.upstreams.seen(target)
        return arrival

    def one_more(self) -> RawClient:
        """A client whose request is held at an upstream, beside those that are held there already."""
        before, client = len(self.upstreams.arrivals), self.sending(request("GET", self.target()))
        self.solution.until(lambda: len(self.upstreams.arrivals) > before, "another request", "the upstreams")
        return client

    def where(self, number: int) -> list[str]:
        """The upstreams that answered so many requests, one after the other."""
        return [self.served().upstream.name for _ in range(number)]

    def until_begun(self, client: RawClient) -> None:
        """Wait for the head of a response."""
        self.solution.until(lambda: client.status == 200, "the head of the response", client.name)

    def until_came(self, client: RawClient, came: bytes, owed: str) -> None:
        """Wait until just this much of the body of a response has come."""
        self.solution.until(lambda: client.so_far == came, owed, client.name)

    def until_over(self, client: RawClient, owed: str) -> None:
        """Wait for a response, or for the end of the connection."""
        self.solution.until(lambda: client.over or client.answered, owed, client.name)

    def until_gone(self, arrivals: list[Arrival], owed: str) -> None:
        """Wait until the balancer has closed the connections of these requests."""
        self.solution.until(lambda: all(each.gone for each in arrivals), owed, arrivals[0].upstream.party)

    def even(self, number: int) -> None:
        """So many requests at once come to each of the upstreams."""
        targets = [self.target() for _ in range(number * len(NAMES))]
        with self.upstreams.holding():
            clients = [self.sending(request("GET", target)) for target in targets]
            owed = f"{len(targets)} requests"
            self.solution.until(lambda: all(self.upstreams.seen(each) for each in targets), owed, "the upstreams")
            counts = self.upstreams.counts([self.upstreams.seen(target)[0] for target in targets])
            assert counts == [number] * len(NAMES), f"each upstream is owed {number}, and they got {counts}"
        for client, target in zip(clients, targets, strict=True):
            check_reply(self.answer(client), target)
            client.connection.close()
        self.settled()

    def sockets(self) -> int:
        """What it holds open, without idle connections to upstreams, of which it may keep as many as it likes."""
        idle = sum(not line.arrival for each in self.upstreams.each for line in each.open_lines)
        return self.solution.sockets() - idle

    def until_served_in_time(self, limit: int = TIMEOUT) -> None:
        """With short limits an ordinary request may come too late on a busy machine: then it proves nothing."""
        for _ in range(50):
            target, began = self.target(), waiting.now()
            client = self.sending(request("GET", target))
            self.until_over(client, "a response")
            if client.status == 200 or waiting.now() - began < limit / 2000:
                check_reply(self.answer(client), target)
                return
        raise LimitReached(f"50 requests in a row took longer than {limit / 2} ms: the machine is too busy")


def check_reply(reply: Answer, target: str, body: bytes = b"") -> None:
    """The answer is what an upstream says to just that request."""
    assert reply.status == 200, f"200 is owed to the request for {target}, and came {reply}"
    owed = body or target.encode()
    assert reply.body == owed, f"{owed[:40]!r} is the body of the response, and {reply.body[:40]!r} came"


def answering(status: int, body: bytes) -> Callable[[Arrival], None]:
    """Every request is answered like this."""
    return lambda arrival: arrival.answer(status, body)


def sending(data: bytes) -> Callable[[Arrival], None]:
    """Every request is answered with just these bytes."""
    return lambda arrival: arrival.send(data)


@pytest.fixture
def upstreams(solution: Solution) -> Upstreams:
    return solution.peer(Upstreams)


@pytest.fixture
def balancer(solution: Solution, upstreams: Upstreams, chance: random.Random) -> Balancer:
    return Balancer(solution, upstreams, chance)


@pytest.fixture
def some(upstreams: Upstreams, chance: random.Random) -> Upstream:
    """One of the upstreams: which one must not matter."""
    return chance.choice(upstreams.each)


# -- stage 1: basics ------------------------------------------------------------------------------------------------


@behaviour(stage=1, source=rfc(9110, "7.6", "Message Forwarding"))
def test_passes_on(balancer: Balancer, upstreams: Upstreams) -> None:
    """Method, target, fields and body reach an upstream as they came, and so does its response the client."""
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "REPORT"):
        target = f"/{balancer.word()}/%7Ea/..;b=1//c%2F?x=%20&y=1+1&y=&z"
        body = b"" if method in ("GET", "DELETE") else b"\r\n\r\n0\r\n\r\n" + balancer.chance.randbytes(2000)
        back = balancer.chance.randbytes(3000) + b"\r\n\r\n"
        fields = ("X-Plain: some  value", "x-many: 1", "X-Many: 2", "X-Empty:", "Cookie: a=b; c=d")
        told = ("Content-Type: image/x-kata", "Set-Cookie: a=1; Path=/", "Set-Cookie: b=2", "X-Back: a  b")

        def serve(arrival: Arrival, back: bytes = back, told: tuple[str, ...] = told) -> None:
            arrival.answer(207, back, *told)

        with upstreams.serving(serve):
            reply = balancer.ask(request(method, target, *fields, body=body), method)
        assert len(upstreams.seen(target)) == 1, f"{method} {target} is owed to one upstream, as it is, once"
        (arrival,) = upstreams.seen(target)
        assert arrival.method == method, f"the method is {method}, and {arrival.method} came to the upstream"
        assert arrival.body == body, f"{len(body)} bytes of body are owed, and {bytes(arrival.body[:60])!r} came"
        assert arrival.all("host") == ["kata.example"], f"Host is passed on, and {arrival.all('host')} came"
        for name, owed in {"x-plain": ["some  value"], "x-many": ["1", "2"]}.items():
            assert arrival.elements(name) == owed, f"{name} is {owed}, and {arrival.elements(name)} came"
        assert arrival.all("x-empty") == [""], f"x-empty is there and empty, and {arrival.all('x-empty')} came"
        assert arrival.all("cookie") == ["a=b; c=d"], f"Cookie is passed on, and {arrival.all('cookie')} came"
        assert (reply.status, reply.body) == (207, back), f"the 207 of the upstream is owed, and came {reply}"
        cookies = reply.all("set-cookie")
        assert cookies == ["a=1; Path=/", "b=2"], f"both lines of Set-Cookie are owed, and {cookies} came"
        assert reply.header("content-type") == "image/x-kata", "Content-Type is passed on"
        assert reply.header("x-back") == "a  b", "a field is passed on as it is"


@behaviour(stage=1, settings=ROBIN, source=brief("B1", "round_robin"), needs=BASE)
def test_round_robin(balancer: Balancer, upstreams: Upstreams) -> None:
    """With round_robin each upstream is next in its turn, whoever asks, on whichever connection."""
    clients = [balancer.client(f"client {number}") for number in range(2)]
    names = []
    for number in range(12):
        target = balancer.target()
        check_reply(balancer.answer(clients[number % 2], request("GET", target)), target)
        names.append(upstreams.seen(target)[0].upstream.name)
    turns = [names[at : at + 3] for at in range(10)]
    assert all(sorted(turn) == list(NAMES) for turn in turns), f"each is next in its turn, and it went to {names}"


@behaviour(stage=1, points=2, source=brief("B2", "least_connections"), needs=BASE)
@hints(
    "What do you count, and when does the count go down?",
    "One number for each upstream: up before you connect, down when the response has ended.",
    "try: ... finally: upstream.active -= 1, and choose the upstream with the smallest number.",
)
def test_least_connections(balancer: Balancer, upstreams: Upstreams) -> None:
    """With least_connections a request goes to an upstream that has the fewest requests under way."""
    with upstreams.holding():
        clients = [balancer.one_more() for _ in range(6)]
        assert upstreams.counts() == [2, 2, 2], f"six at once are two for each, and they got {upstreams.counts()}"
        free = balancer.chance.choice(upstreams.each)
        for arrival in free.arrivals:
            upstreams.answer(arrival)
        balancer.settled()
        clients += [balancer.one_more() for _ in range(2)]
        counts = upstreams.counts(upstreams.arrivals[6:])
        owed = [2 if each is free else 0 for each in upstreams.each]
        assert counts == owed, f"only {free.party} is free: {owed} are owed, and they got {counts}"
    for client in clients:
        assert balancer.answer(client).status == 200, "everybody is answered in the end"


@behaviour(stage=1, source=rfc(7239, "4", "Forwarded HTTP Header Field"), needs=BASE)
def test_forwarded_fields(balancer: Balancer, upstreams: Upstreams) -> None:
    """X-Forwarded-For, Forwarded and Via say who asked and who passed it on, behind what others have said before."""
    before = ("X-Forwarded-For: 192.0.2.7", 'Forwarded: for="[2001:db8::7]";proto=https', "Via: 1.0 front")
    for fields, others in ((), 0), (before, 1):
        target = balancer.target()
        check_reply(balancer.ask(request("GET", target, *fields)), target)
        (arrival,) = upstreams.seen(target)
        hops, via = arrival.elements("x-forwarded-for"), arrival.elements("via")
        assert hops == ["192.0.2.7"] * others + ["127.0.0.1"], f"X-Forwarded-For ends with the client, and is {hops}"
        told = arrival.elements("forwarded")
        assert len(told) == others + 1, f"Forwarded gets an element for this hop, and is {told}"
        pairs = {name.strip().lower(): value.strip('" ') for name, _, value in map(split_pair, told[-1].split(";"))}
        assert pairs.get("for") == "127.0.0.1", f"the last element says for=127.0.0.1, and is {told[-1]}"
        assert pairs.get("proto", "").lower() == "http", f"the last element says proto=http, and is {told[-1]}"
        if others:
            assert told[0] == before[1].partition(": ")[2], f"what was said before stays, and is {told[0]}"
        right = len(via) == others + 1 and via[-1].startswith(("1.1 ", "HTTP/1.1 "))
        assert right, f'Via gets an element "1.1 name", and is {via}'


def split_pair(text: str) -> tuple[str, str, str]:
    return text.partition("=")


@behaviour(stage=1, points=2, source=HOP_BY_HOP, needs=BASE)
@hints(
    "Which fields are about the connection, and which about the message?",
    "RFC 9110 §7.6.1 lists some; the Connection field itself names the others.",
    "Drop Connection, what it names, Proxy-Connection, Keep-Alive, TE, Transfer-Encoding, Upgrade; then say your own.",
)
def test_hop_by_hop(balancer: Balancer, upstreams: Upstreams) -> None:
    """Connection, what it names, and the other fields of one connection are not passed on, in either direction."""
    sent = ["Connection: X-Hop, Keep-Alive", "Connection: x-other,upgrade, TE", "X-Hop: 1", "X-OTHER: 2", "X-End: 3"]
    sent += ["Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: gzip", "Upgrade: kata/1"]
    back = ["Connection: X-Hop", "X-Hop: 1", "Keep-Alive: timeout=77", "Proxy-Connection: keep-alive", "X-End: 3"]
    with upstreams.serving(lambda arrival: arrival.answer(200, b"back", *back)):
        target = balancer.target()
        reply = balancer.ask(request("GET", target, *sent))
    assert (reply.status, reply.body) == (200, b"back"), f"200 is owed, and came {reply}"
    (arrival,) = upstreams.seen(target)
    assert arrival.all("x-end") == ["3"], "a field of the message is passed on to the upstream"
    for name in ("x-hop", "x-other", "keep-alive", "proxy-connection", "upgrade"):
        assert not arrival.all(name), f"{name} ends with the client's connection, and came to the upstream"
    options = [option.lower() for option in arrival.elements("connection")]
    assert "gzip" not in arrival.all("te"), "TE ends with the client's connection, and came to the upstream"
    assert not {"x-hop", "x-other"} & set(options), f"Connection is the balancer's own, and is {options}"
    assert reply.all("x-end") == ["3"], "a field of the message is passed on to the client"
    told = ",".join(reply.all("connection")).lower()
    assert not reply.all("x-hop"), "x-hop ends with the upstream's connection, and came to the client"
    assert not reply.all("proxy-connection"), "Proxy-Connection ends with the upstream's connection, and came"
    assert reply.all("keep-alive") != ["timeout=77"], "Keep-Alive of the upstream says nothing of this connection"
    assert "x-hop" not in told, f"Connection is the balancer's own, and is {told}"


@behaviour(stage=1, source=rfc(9112, "9.3", "Persistence"), needs=BASE)
def test_keeps_connections(balancer: Balancer, upstreams: Upstreams) -> None:
    """Requests one after the other use one connection of the client, and at most one to each upstream."""
    balancer.served()
    before = sum(each.accepts for each in upstreams.each)
    client = balancer.client("one client")
    for number in range(15):
        target, body = balancer.target(), b"" if number % 2 else b"body"
        check_reply(balancer.answer(client, request("POST", target, body=body)), target, body)
    opened = sum(each.accepts for each in upstreams.each) - before
    assert opened <= 3, f"a connection is free each time, and {opened} were opened for 15 requests"
    balancer.settled()
    assert not client.over, "the client's connection stays open"


@behaviour(stage=1, source=brief("F4", "a status is an answer"), needs=BASE)
def test_error_statuses_pass(balancer: Balancer, upstreams: Upstreams) -> None:
    """Whatever status an upstream answers, also 500 and 503, is the answer: passed on, and asked for once."""
    for status in (404, 500, 502, 503, 504):
        for method in ("GET", "POST"):
            target = balancer.target()
            body = f"{status} {target}".encode()
            with upstreams.serving(answering(status, body)):
                reply = balancer.ask(request(method, target), method)
            assert (reply.status, reply.body) == (status, body), f"{status} is owed as it came, and came {reply}"
            number = len(upstreams.seen(target))
            assert number == 1, f"{status} is an answer: {method} is sent once, and was sent {number} times"
    balancer.served()


@behaviour(stage=1, points=2, source=brief("R1", "nothing was sent"), needs=BASE)
def test_refused_goes_elsewhere(balancer: Balancer, upstreams: Upstreams) -> None:
    """If upstreams refuse connections, another one gets the request, whatever its method; if all do, it is 502."""
    first, second, third = balancer.chance.sample(upstreams.each, 3)
    for here, down in ((first, (second, third)), (second, (third, first)), (third, (first, second))):
        with down[0].down(), down[1].down():
            balancer.settled()
            for method, body in ("GET", b""), ("POST", b"body"):
                arrival = balancer.served(method, body)
                assert arrival.upstream is here, f"only {here.party} is there"
    with first.down(), second.down(), third.down():
        balancer.settled()
        for method, body in ("GET", b""), ("POST", b"body"):
            reply = balancer.ask(request(method, balancer.target(), body=body))
            assert reply.status in (502, 503, 504), f"nobody is there: 502 is owed, and came {reply}"
    balancer.served("POST", b"body")


# -- stage 2: edges -------------------------------------------------------------------------------------------------


@behaviour(stage=2, source=rfc(9112, "6.3", "Message Body Length"), needs="keeps_connections")
@hints(
    "Where does a response end that has neither Content-Length nor chunks? And one to HEAD?",
    "Framing belongs to a connection: read the one, write your own.",
    "Pass a length on; without one write chunks; HEAD, 204 and 304 have no body, whatever their fields say.",
)
def test_response_framings(balancer: Balancer, upstreams: Upstreams) -> None:
    """A body is the same with a length, in chunks, and up to the end of the connection; HEAD, 204 and 304 have none."""
    body = b"0\r\n\r\n" + balancer.chance.randbytes(1500)

    def in_chunks(arrival: Arrival) -> None:
        arrival.begin(200, "Transfer-Encoding: chunked", then=b"3;x=y\r\n" + body[:3] + b"\r\n")
        arrival.send(chunks(body[3:100], body[100:], trailers=("X-Trailer: 1",)))
        arrival.finish()

    def to_the_end(arrival: Arrival) -> None:
        arrival.begin(200, "Connection: close", then=body)
        arrival.close()

    ways: list[Callable[[Arrival], None]] = [in_chunks, to_the_end, lambda arrival: arrival.answer(200, body)]
    for serve in ways:
        with upstreams.serving(serve):
            reply = balancer.ask(request("GET", balancer.target()))
        assert (reply.status, reply.body) == (200, body), f"{len(body)} bytes are owed, and came {reply}"
        balancer.served()

    def no_body(status: int) -> Callable[[Arrival], None]:
        def serve(arrival: Arrival) -> None:
            arrival.begin(status, *([] if status == 204 else ["Content-Length: 7"]), 'ETag: "x"')
            arrival.finish()

        return serve

    client = balancer.client("one client")
    for method, status in ("HEAD", 200), ("GET", 304), ("GET", 204), ("HEAD", 404):
        with upstreams.serving(no_body(status)):
            reply = balancer.answer(client, request(method, balancer.target()), method)
        assert (reply.status, reply.body) == (status, b""), f"{method} gets {status} without a body, and got {reply}"
        target = balancer.target()
        check_reply(balancer.answer(client, request("GET", target)), target)


@behaviour(stage=2, hidden=True, points=4, source=rfc(9112, "11.2", "Request Smuggling"), needs="keeps_connections")
@hints(
    "What does your upstream make of a request with two lengths?",
    "If you read it by the one and it by the other, the rest is somebody's request.",
    "Refuse Content-Length beside Transfer-Encoding, lengths that differ, codings other than chunked: 400, and close.",
)
@incident(
    "HAProxy let a request through whose length it had misread (CVE-2021-40346); in 2019 James Kettle had shown on "
    "large sites what becomes of a front and a back end that disagree."
)
def test_ambiguous_length(balancer: Balancer, upstreams: Upstreams) -> None:
    """A request whose length is ambiguous is refused, or passed on with one length; nothing behind it is a request."""
    hidden = balancer.target()
    smuggled = request("GET", hidden)
    chunked = chunks() + smuggled
    bad = {
        "Content-Length beside chunks": (["Transfer-Encoding: chunked", f"Content-Length: {len(chunked)}"], chunked),
        "chunks beside Content-Length": (["Content-Length: 5", "Transfer-Encoding: chunked"], chunked),
        "two lengths": (["Content-Length: 0", f"Content-Length: {len(smuggled)}"], smuggled),
        "a length with a sign": ([f"Content-Length: +{len(smuggled)}"], smuggled),
        "a blank before the colon": ([f"Content-Length : {len(smuggled)}"], smuggled),
        "a coding that is none": (["Transfer-Encoding: xchunked"], chunked),
    }
    for why, (fields, data) in bad.items():
        client = balancer.sending(head("POST", balancer.target(), *fields) + data, "POST", "bad client")
        balancer.until_over(client, "an answer, or the end")
        balancer.settled()
        came = [arrival.upstream.party for arrival in upstreams.seen(hidden)]
        assert not came, f"{why}: what stands in the body came to {came[0]} as a request"
    target = balancer.target()
    check_reply(balancer.ask(head("POST", target, "Transfer-Encoding: chunked") + chunks(smuggled)), target, smuggled)
    assert not upstreams.seen(hidden), "what stands in a body is no request"
    balancer.served("POST", smuggled)


@behaviour(stage=2, hidden=True, points=3, source=HOP_BY_HOP, needs=("forwarded_fields", "hop_by_hop"))
@incident(
    "Apache's mod_proxy dropped the X-Forwarded-For that it had added itself, if the client named it in Connection; "
    "servers behind it took strangers for their own (CVE-2022-31813)."
)
def test_own_fields_survive(balancer: Balancer, upstreams: Upstreams) -> None:
    """A client cannot make the balancer drop its own fields, Host or the length of the body by naming them."""
    names = "Connection: close, X-Forwarded-For, Forwarded, Via, Host, Content-Length"
    target = balancer.target()
    client = balancer.client("malicious client")
    reply = balancer.answer(client, request("POST", target, names, "X-Forwarded-For: 192.0.2.7", body=b"body"), "POST")
    if reply.status != 400:
        check_reply(reply, target, b"body")
        (arrival,) = upstreams.seen(target)
        assert arrival.elements("x-forwarded-for")[-1:] == ["127.0.0.1"], "X-Forwarded-For ends with the client"
        assert arrival.elements("forwarded"), "Forwarded is the balancer's own"
        assert arrival.elements("via"), "Via is the balancer's own"
        assert arrival.all("host") == ["kata.example"], f"a request has a Host, and {arrival.all('host')} came"
    target = balancer.target()
    check_reply(
        balancer.answer(balancer.client(), request("POST", target, "Connection: close", body=b"b")), target, b"b"
    )
    assert upstreams.seen(target)[0].elements("x-forwarded-for") == ["127.0.0.1"], "X-Forwarded-For is the client"


@behaviour(stage=2, hidden=True, source=rfc(9110, "15.2", "Informational 1xx"), needs="response_framings")
def test_interim(balancer: Balancer, upstreams: Upstreams) -> None:
    """Interim responses are passed on before the final one, and a client that expects 100 gets it before its body."""
    client = balancer.client()
    with upstreams.holding():
        client.send(request("GET", balancer.target()), "GET")
        (arrival,) = upstreams.until_held()
        arrival.interim(103, "Link: </style.css>; rel=preload")
        client.until_interim("103 Early Hints")
        assert client.interim == [103], f"103 is owed as it came, and {client.interim} came"
        assert not client.answered, "103 is not the end"
    reply = balancer.answer(client)
    assert (reply.status, reply.interim) == (200, (103,)), f"then 200 is owed, and came {reply}"

    target = balancer.target()
    client.send(head("POST", target, "Expect: 100-continue", "Content-Length: 5"), "POST")
    client.until_interim()
    assert set(client.interim) == {100}, f"100 is owed, and {client.interim} came"
    client.send(b"hello")
    check_reply(balancer.answer(client), target, b"hello")


@behaviour(stage=2, hidden=True, points=3, source=rfc(9112, "9.3", "Persistence"), needs="keeps_connections")
def test_early_response(balancer: Balancer, upstreams: Upstreams) -> None:
    """A response that comes before the request is complete is passed on, and the rest is nobody's request."""
    rest = request("GET", "/hidden") + b"x" * 99_000
    with upstreams.meeting(lambda arrival: arrival.answer(413, b"too large")):
        client = balancer.client("uploading client")
        client.send(head("POST", balancer.target(), f"Content-Length: {1000 + len(rest)}") + b"x" * 1000, "POST")
        reply = balancer.answer(client)
        assert (reply.status, reply.body) == (413, b"too large"), f"the upstream's 413 is owed, and came {reply}"
    client.connection.send(rest)
    balancer.settled()
    for _ in range(6):
        balancer.served("POST", b"another body")
    assert not upstreams.seen("/hidden"), "the rest of a body is no request"


@behaviour(stage=2, hidden=True, points=3, source=rfc(9112, "9.5", "Failures and Timeouts"), needs="keeps_connections")
@hints(
    "A server closes a connection that has been idle for a while. When do you notice?",
    "If you notice by writing the next request on it, it is too late for a POST.",
    "Read on idle connections: an end, or a byte, means that this one is not used again.",
)
def test_idle_closed(balancer: Balancer, upstreams: Upstreams) -> None:
    """If upstreams have closed their idle connections, the next request works at once, also a POST."""
    for _ in range(3):
        balancer.served()
        for each in upstreams.each:
            each.close_idle()
        balancer.settled()
        balancer.served("POST", b"once")


@behaviour(stage=2, hidden=True, points=3, source=rfc(9112, "9.2", "Associating a Response to a Request"))
def test_unasked_bytes(balancer: Balancer, upstreams: Upstreams) -> None:
    """What an upstream says on an idle connection, or behind a response, is never taken for the next answer."""
    stray = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nalice"
    for _ in range(2):
        balancer.served()
        lines = [line for each in upstreams.each for line in each.open_lines if not line.arrival]
        for line in lines:
            line.say(stray)
        balancer.settled()
        for _ in range(3):
            balancer.served()

    def says_more(arrival: Arrival) -> None:
        arrival.begin(200, "Content-Length: 4", then=b"mine" + stray)
        arrival.finish()

    with upstreams.serving(says_more):
        reply = balancer.ask(request("GET", balancer.target()))
        assert reply.body == b"mine", f"four bytes are the response, and came {reply}"
    for _ in range(3):
        balancer.served()


@behaviour(stage=2, hidden=True, source=rfc(9112, "9.6", "Tear-down"), needs=("keeps_connections", "hop_by_hop"))
def test_upstream_close(balancer: Balancer, upstreams: Upstreams) -> None:
    """If an upstream says close, its connection is not used again, and that of the client goes on."""
    client = balancer.client("one client")
    closed = []

    def says_close(arrival: Arrival) -> None:
        closed.append(arrival.line)
        arrival.answer(200, arrival.target.encode(), "Connection: close")

    for _ in range(4):
        with upstreams.serving(says_close):
            target = balancer.target()
            check_reply(balancer.answer(client, request("GET", target)), target)
        balancer.settled()
        assert not client.over, "the upstream's close is about its own connection, and the client's was closed"
    for _ in range(4):
        line = balancer.served().line
        assert line not in closed, "a connection on which the upstream said close was used again"


@behaviour(stage=2, hidden=True, points=3, source=rfc(9110, "15.6.3", "502 Bad Gateway"), needs=BASE)
def test_bad_response(balancer: Balancer, upstreams: Upstreams) -> None:
    """What is no HTTP response is 502, once, and its connection ends."""
    bad = {
        "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "a status that is no number": b"HTTP/1.1 2x0 OK\r\nContent-Length: 5\r\n\r\nhello",
        "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    }
    for why, data in bad.items():
        target = balancer.target()
        with upstreams.serving(sending(data)):
            reply = balancer.ask(request("POST", target, body=b"body"), "POST")
        assert reply.status == 502, f"{why}: 502 is owed, and came {reply}"
        assert len(upstreams.seen(target)) == 1, f"{why}: a POST is sent once"
        balancer.until_gone(upstreams.seen(target), "the end of a connection on which nothing can be trusted")
        balancer.served("POST", b"body")


@behaviour(stage=2, points=3, settings=ROBIN, source=brief("B4", "STICKY_COOKIE"), needs="round_robin")
def test_sticky(balancer: Balancer, upstreams: Upstreams) -> None:
    """The cookie of a first response leads to the same upstream again; when that one is gone, to another one."""
    cookies = {}
    with upstreams.serving(lambda arrival: arrival.answer(200, b"", "Set-Cookie: own=1")):
        for _ in range(3):
            target = balancer.target()
            reply = balancer.ask(request("GET", target, "Cookie: x=1; lb=nonsense"))
            assert "own=1" in reply.all("set-cookie"), "the upstream's own cookie is passed on"
            cookies[upstreams.seen(target)[0].upstream] = lb_cookie(reply)
    assert len(set(cookies.values())) == 3, f"each upstream has a cookie of its own, and they are {cookies.values()}"

    def came_to(cookie: str) -> tuple[Upstream, Answer]:
        target = balancer.target()
        reply = balancer.ask(request("GET", target, f"Cookie: x=1; lb={cookie}; y=2"))
        check_reply(reply, target)
        return upstreams.seen(target)[0].upstream, reply

    for upstream, cookie in cookies.items():
        for _ in range(3):
            here, _ = came_to(cookie)
            assert here is upstream, f"{cookie} is the cookie of {upstream.party}, and led to {here.party}"
    gone, cookie = balancer.chance.choice(list(cookies.items()))
    with gone.down():
        balancer.settled()
        here, reply = came_to(cookie)
        assert cookies[here] == lb_cookie(reply), f"{here.party} is the new one, and its cookie is owed"
    assert came_to(cookie)[0] is gone, f"{gone.party} is back, and its cookie leads to it"


def lb_cookie(reply: Answer) -> str:
    values = [value.partition(";")[0].partition("=") for value in reply.all("set-cookie")]
    mine = [value for name, _, value in values if name == "lb"]
    assert len(mine) == 1, f"a cookie lb is owed, once, and {reply.all('set-cookie')} came"
    return mine[0]


# -- stage 3: concurrency -------------------------------------------------------------------------------------------


@behaviour(stage=3, source=brief("S1", "pieces are passed on at once"), needs="response_framings")
def test_streams_response(balancer: Balancer, upstreams: Upstreams) -> None:
    """Each piece of a response reaches the client when the upstream has sent it, not when the next one comes."""
    for framing in ("Content-Length: 30", "Transfer-Encoding: chunked"):
        client = balancer.client()
        with upstreams.holding():
            client.send(request("GET", balancer.target()), "GET")
            (arrival,) = upstreams.until_held()
            arrival.begin(200, framing)
            balancer.until_begun(client)
            came = b""
            for piece in (b"first piece", b"second", b"and the third"):
                came += piece
                arrival.send(piece if "Length" in framing else b"%x\r\n%b\r\n" % (len(piece), piece))
                owed = f"{piece!r}, which the upstream has sent"
                balancer.until_came(client, came, owed)
            assert "Length" in framing or not client.answered, "the last chunk has not come"
            arrival.send(b"" if "Length" in framing else b"0\r\n\r\n")
            arrival.finish()
            assert balancer.answer(client).body == came, "and that is all"


@behaviour(stage=3, source=brief("S1", "pieces are passed on at once"), needs=BASE)
@hints(
    "Who waits for the last byte of an upload before the first one goes on?",
    "Choose and connect when the head is there; the body is passed on piece by piece.",
    "A task that reads the client and writes to the upstream, beside the one that reads the response.",
)
def test_streams_request(balancer: Balancer, upstreams: Upstreams) -> None:
    """Each piece of a request reaches the upstream when the client has sent it, with a length and in chunks."""
    for framing in ("Content-Length: 30", "Transfer-Encoding: chunked"):
        client, target = balancer.client("uploading client"), balancer.target()
        client.send(head("POST", target, framing), "POST")
        came = b""
        for piece in (b"first piece", b"second", b"and the third"):
            came += piece
            client.send(piece if "Length" in framing else b"%x\r\n%b\r\n" % (len(piece), piece))

            def arrived(target: str = target, came: bytes = came) -> bool:
                return any(arrival.body == came for arrival in upstreams.seen(target))

            balancer.solution.until(arrived, f"{piece!r}, which the client has sent", "the upstream")
        if "Length" not in framing:
            assert not upstreams.seen(target)[0].complete, "the last chunk has not come"
            client.send(b"0\r\n\r\n")
        check_reply(balancer.answer(client), target, came)


@behaviour(stage=3, points=5, source=brief("C2", "a response belongs to its request"), needs="keeps_connections")
@hints(
    "What is still to come on a connection whose client has left?",
    "“Put it back” in a `finally` runs for requests that were given up, too.",
    "Only a connection on which request and response are complete is used again; close every other one.",
)
def test_departed_no_crosstalk(balancer: Balancer, upstreams: Upstreams) -> None:
    """When clients leave before their responses have come, or in the middle, the next ones get their own."""
    with upstreams.holding():
        leavers = [balancer.sending(request("GET", balancer.target()), name="leaver") for _ in range(6)]
        upstreams.until_held(6)
        held = upstreams.held
        for arrival in held[:3]:
            arrival.begin(200, "Content-Length: 18", then=b"half of it")
        balancer.settled()
        for leaver in leavers:
            leaver.hang_up()
        balancer.settled()
        upstreams.hold_no_more()
        for late in (True, False):
            targets = [balancer.target() for _ in range(6)]
            clients = [balancer.sending(request("GET", target)) for target in targets]
            for client, target in zip(clients, targets, strict=True):
                check_reply(balancer.answer(client), target)
            for arrival in held:
                if late and arrival.waits:
                    arrival.send(
                        b" is here" if arrival in held[:3] else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
                    )
                    arrival.finish()
            balancer.settled()
    for _ in range(3):
        balancer.served()


@behaviour(stage=3, hidden=True, points=4, source=brief("C3", "a client that leaves"), needs=(EVEN, BASE))
@hints(
    "Which line of your program runs when a client hangs up while its upstream still works?",
    "Who only reads from the upstream never notices; who notices must also give back what was counted.",
    "Watch the client's connection as well; when it is lost, close the upstream's and count down in a `finally`.",
)
def test_departed_is_over(balancer: Balancer, upstreams: Upstreams) -> None:
    """When a client leaves, the upstream learns of it, and the request counts no longer."""
    with upstreams.holding():
        targets = [balancer.target() for _ in range(6)]
        clients = {target: balancer.sending(request("GET", target)) for target in targets}
        upstreams.until_held(6)
        leaving = balancer.chance.choice(upstreams.each)
        gone = leaving.arrivals
        assert len(gone) == 2, f"two of six are at {leaving.party}, and there are {len(gone)}"
        for arrival in gone:
            clients[arrival.target].hang_up()
        balancer.until_gone(gone, "the end of the connection, since the client has left")
        balancer.settled()
        more = [balancer.sending(request("GET", balancer.target())) for _ in range(2)]
        upstreams.until_held(6)
        counts = upstreams.counts(upstreams.arrivals[6:])
        owed = [2 if each is leaving else 0 for each in upstreams.each]
        assert counts == owed, f"{leaving.party} has nothing to do: {owed} are owed, and they got {counts}"
    for client in more:
        assert balancer.answer(client).status == 200, "who stays is answered"


def held_back(balancer: Balancer, source: Connection, target: Connection, before: int) -> int:
    """Bytes that the balancer has read from the one, and the other has not got: without those in the kernel."""
    left = source.sent - before
    assert left > 10_000, "it is passed on while it comes, and not even its beginning could be sent"
    unread = balancer.solution.unread(source)
    assert unread is not None, "nobody has left, and the balancer has closed the connection"
    return left - unread - balancer.solution.kernel_holds(target) - target.received


@behaviour(stage=3, hidden=True, points=4, source=brief("S2", "nothing piles up"), needs="streams_response")
@hints(
    "The client reads nothing, the upstream sends 48 MB: where are they?",
    "Read the next piece only when the last one was taken.",
    "`await writer.drain()` between two reads, or pause the one socket while the other is full.",
)
def test_unread_response(balancer: Balancer, upstreams: Upstreams) -> None:
    """While a client does not read, its upstream cannot write, others are served, and its leaving ends it."""
    client = balancer.client("stuck client", slow=True)
    with upstreams.holding():
        client.send(request("GET", balancer.target()), "GET")
        (arrival,) = upstreams.until_held()
        balancer.solution.turn()
        client.connection.stop_reading()
        before = arrival.line.connection.sent
        arrival.begin(200, f"Content-Length: {BULK}", then=bytes(BULK))
        arrival.finish()
        upstreams.hold_no_more()
        balancer.settled()
        for _ in range(4):
            balancer.served()
        balancer.settled()
        held = held_back(balancer, arrival.line.connection, client.connection, before)
        assert held < KEPT, f"the client does not read, and {held / MIB:.0f} MB of the response wait in the balancer"
        client.hang_up()
        balancer.until_gone([arrival], "the end of the connection, since the client has left")
    balancer.served()


@behaviour(stage=3, hidden=True, points=4, source=brief("S2", "nothing piles up"), needs="streams_request")
def test_unread_request(balancer: Balancer, upstreams: Upstreams) -> None:
    """While an upstream does not read, the client cannot write, and others are served."""
    stopped: list[Arrival] = []

    def stop(arrival: Arrival) -> None:
        if arrival.method == "PUT":
            stopped.append(arrival)
            arrival.line.connection.stop_reading()

    with upstreams.meeting(stop):
        client = balancer.client("uploading client")
        before = client.connection.sent
        client.send(head("PUT", balancer.target(), f"Content-Length: {BULK}"), "PUT")
        balancer.solution.until(lambda: stopped, "the head of a request whose body does not end", "the upstream")
        client.connection.send(bytes(BULK))
        balancer.settled()
        for _ in range(4):
            balancer.served()
        balancer.settled()
        held = held_back(balancer, client.connection, stopped[0].line.connection, before)
        assert held < KEPT, f"the upstream does not read, and {held / MIB:.0f} MB of the request wait in the balancer"
    client.hang_up()
    stopped[0].line.connection.read_again()
    balancer.until_gone(stopped, "the end of the connection, since the client has left")
    balancer.served()


# -- stage 4: faults ------------------------------------------------------------------------------------------------


def dropping(upstreams: Upstreams, number: int, how: str = "drop") -> Callable[[Arrival], None]:
    """The first so many requests are not answered: the connection is reset, or closed."""
    left = [number]

    def serve(arrival: Arrival) -> None:
        left[0] -= 1
        if left[0] < 0:
            upstreams.answer(arrival)
        elif how == "drop":
            arrival.drop()
        else:
            arrival.close()

    return serve


@behaviour(stage=4, points=4, source=IDEMPOTENT, needs=("refused_goes_elsewhere", "keeps_connections"))
def test_idempotent_repeated(balancer: Balancer, upstreams: Upstreams) -> None:
    """GET, HEAD, OPTIONS, DELETE and an empty PUT are repeated if no response begins, once at each upstream."""
    for method in ("GET", "HEAD", "OPTIONS", "DELETE", "PUT"):
        target = balancer.target()
        with upstreams.serving(dropping(upstreams, 2, balancer.chance.choice(["drop", "close"]))):
            reply = balancer.ask(request(method, target), method)
        assert reply.status == 200, f"the third upstream answers {method}: 200 is owed, and came {reply}"
        names = [arrival.upstream.name for arrival in upstreams.seen(target)]
        assert sorted(names) == list(NAMES), f"each upstream is asked once, and {names} were"
    target = balancer.target()
    with upstreams.serving(dropping(upstreams, 100)):
        reply = balancer.ask(request("GET", target))
    assert reply.status in (502, 503), f"nobody answers: 502 is owed, and came {reply}"
    assert upstreams.counts(upstreams.seen(target)) == [1, 1, 1], "each upstream is asked once, and no more"
    balancer.served()


@behaviour(stage=4, points=5, source=IDEMPOTENT, needs="keeps_connections")
@hints(
    "“The connection is lost” does not mean “it was not carried out”.",
    "Which of your errors come from connecting, and which from waiting for the answer?",
    "After a byte of a POST may have gone out, answer 502 and leave it to the client.",
)
@incident(
    "nginx passed POST requests on to the next server until 1.9.13 (ticket #488): orders were placed twice, and the "
    "change log of 2016 calls the end of it a change."
)
def test_post_never_repeated(balancer: Balancer, upstreams: Upstreams) -> None:
    """A POST or PATCH that may have been carried out is never sent again: 502, and one upstream has seen it."""
    for method, body in ("POST", b""), ("POST", b"body"), ("PATCH", b"body"):
        for how in ("drop", "close"):
            balancer.served(method, b"body")
            target = balancer.target()
            with upstreams.serving(dropping(upstreams, 1, how)):
                reply = balancer.ask(request(method, target, body=body), method)
            seen = len(upstreams.seen(target))
            assert seen == 1, f"nobody knows whether it was carried out: {method} is sent once, not {seen} times"
            assert reply.status == 502, f"502 is owed, and came {reply}"
    balancer.served("POST", b"body")


@behaviour(stage=4, hidden=True, points=4, source=rfc(9112, "8", "Handling Incomplete Messages"))
@hints(
    "Half of the response is with the client. What can you still tell it?",
    "A second status line would be a part of the body; a tidy end would be a lie.",
    "Without the last chunk, or the rest of the length, close the connection; never repeat.",
)
def test_broken_off_is_seen(balancer: Balancer, upstreams: Upstreams) -> None:
    """If a response breaks off in the middle, so does the client's: it is not taken for whole, nor asked for again."""
    for framing, half in ("Content-Length: 20", b"half of it"), ("Transfer-Encoding: chunked", b"a\r\nhalf of it\r\n"):
        for how in ("drop", "close"):
            client, target = balancer.client(), balancer.target()
            with upstreams.holding():
                client.send(request("GET", target), "GET")
                (arrival,) = upstreams.until_held()
                arrival.begin(200, framing, then=half)
                balancer.until_came(client, b"half of it", "the half that the upstream has sent")
                upstreams.hold_no_more()
                arrival.drop() if how == "drop" else arrival.close()
                balancer.until_over(client, "the end of a response that broke off")
            assert not client.answered, "half a response came from the upstream, and the client takes it for whole"
            assert len(upstreams.seen(target)) == 1, "a part has reached the client: nothing is asked for again"
            balancer.served()


def trickle(balancer: Balancer, send: Callable[[bytes], None], data: bytes, over: Callable[[], bool]) -> None:
    """A byte now and then, each long before any time is up, until it is over, or should have been for long."""
    balancer.settled()  # it has seen the beginning: its time runs
    end = waiting.now() + (TIMEOUT + OVERDUE) / 1000
    for at in range(len(data)):
        for _ in range(TIMEOUT // 6 // TICK):
            if over() or waiting.now() > end:
                return balancer.settled()
            waiting.elapse(balancer.solution, TICK)
        send(data[at : at + 1])


@behaviour(stage=4, points=5, settings=TIMED, source=rfc(9110, "15.6.5", "504 Gateway Timeout"), needs=BASE)
def test_response_timeout(balancer: Balancer, upstreams: Upstreams) -> None:
    """Without a whole head within RESPONSE_TIMEOUT_MS it is 504, not before, and another upstream is not asked."""
    balancer.until_served_in_time()
    ends: dict[str, float] = {}
    with upstreams.holding():
        began = waiting.now()
        asked = {method: balancer.target() for method in ("GET", "POST")}
        clients = {target: balancer.sending(request(method, target), method) for method, target in asked.items()}

        def look() -> None:
            """Keep when each was answered."""
            for target, client in clients.items():
                if client.over or client.answered:
                    ends.setdefault(target, (waiting.now() - began) * 1000)

        came = "two requests"
        balancer.solution.until(lambda: all(upstreams.seen(target) for target in clients), came, "the upstreams")
        slow, arrival = response_by_the_byte(balancer, upstreams, meanwhile=look)
        for target, client in clients.items():
            reply = balancer.answer(client)
            waited = ends.setdefault(target, (waiting.now() - began) * 1000)
            assert reply.status == 504, f"no response within {TIMEOUT} ms: 504 is owed, and came {reply}"
            assert waited >= TIMEOUT - 8, f"RESPONSE_TIMEOUT_MS is {TIMEOUT}, and the 504 came after {waited:.0f} ms"
            assert len(upstreams.seen(target)) == 1, "who is slow may still be at it: it is asked once"
        upstreams.hold_no_more()
    assert slow.answered, f"a head has {TIMEOUT} ms, and {OVERDUE} ms after that it is waited for"
    reply = balancer.answer(slow)
    assert reply.status in (502, 504), f"504 is owed, and came {reply}"
    late = [arrival, *(upstreams.seen(target)[0] for target in clients)]
    balancer.until_gone(late, "the end of a connection on which a late response may come")
    balancer.until_served_in_time()


def response_by_the_byte(
    balancer: Balancer, upstreams: Upstreams, meanwhile: Callable[[], None]
) -> tuple[RawClient, Arrival]:
    """A head comes steadily until its client is answered, or should be for long."""
    with upstreams.serving(sending(b"HTTP/1.1 200 OK\r\n")):
        target = balancer.target()
        client = balancer.sending(request("GET", target))
        balancer.solution.until(lambda: upstreams.seen(target), "the request", "the upstream")
    (arrival,) = upstreams.seen(target)

    def over() -> bool:
        meanwhile()
        return client.over or client.answered > 0

    trickle(balancer, arrival.send, b"X-Slow: " + b"x" * 1000, over)
    return client, arrival


@behaviour(
    stage=4,
    hidden=True,
    points=3,
    settings=CONNECTING,
    source=brief("R1", "CONNECT_TIMEOUT_MS"),
    needs="refused_goes_elsewhere",
)
def test_connect_timeout(balancer: Balancer, upstreams: Upstreams, some: Upstream) -> None:
    """If an upstream does not accept within CONNECT_TIMEOUT_MS, another one gets the request, whatever its method."""
    replies = slow_connects(balancer, some)
    if any(reply.status in (502, 503, 504) for reply in replies.values()):
        # A busy machine may have kept it from seeing in time that it was connected to the others.
        balancer.solution.kill()
        balancer.solution.restart(CONNECT_TIMEOUT_MS=AMPLE_CONNECT)
        replies = slow_connects(balancer, some)
    for target, reply in replies.items():
        check_reply(reply, target)
    balancer.until_served_in_time(CONNECT)


def slow_connects(balancer: Balancer, some: Upstream) -> dict[str, Answer]:
    """The answers to some requests, by their targets, while one upstream accepts nobody."""
    with some.unreachable():
        balancer.settled()
        targets = {balancer.target(): method for method in ("POST", "GET", "POST", "GET")}
        clients = [balancer.sending(request(method, target), method) for target, method in targets.items()]
        return {target: balancer.answer(client) for client, target in zip(clients, targets, strict=True)}


@behaviour(stage=4, hidden=True, points=4, settings=IMPATIENT, source=brief("T1", "REQUEST_TIMEOUT_MS"), needs=BASE)
@incident(
    "Slowloris (2009) takes a web server down from one laptop: it opens connections, and sends a header line on each "
    "now and then."
)
def test_slow_client(balancer: Balancer, upstreams: Upstreams) -> None:
    """A head that comes byte by byte has REQUEST_TIMEOUT_MS in all; then its client is cut off, unheard upstream."""
    client, target = balancer.client("slow client"), balancer.target()
    client.send(f"GET {target} HTTP/1.1\r\nHost: kata.example\r\n".encode(), "GET")
    trickle(balancer, client.connection.send, b"X-Slow: " + b"x" * 1000, lambda: client.over or client.answered > 0)
    assert client.over or client.answered, f"a head has {TIMEOUT} ms, and {OVERDUE} ms after that it is waited for"
    replies = client.responses(client.answered)
    assert all(reply.status in (400, 408) for reply in replies), f"408 or the end is owed, and came {replies}"
    assert not upstreams.seen(target), "a head that is not complete is no request"
    balancer.until_served_in_time()


@behaviour(
    stage=4,
    hidden=True,
    points=4,
    settings=TIMED,
    source=brief("T4", "STALL_TIMEOUT_MS"),
    needs=("streams_request", "streams_response"),
)
def test_stalled_bodies(balancer: Balancer, upstreams: Upstreams) -> None:
    """When nothing of a body comes for STALL_TIMEOUT_MS both connections end, whichever side it is that stalls."""
    sender, reader, target = balancer.client("stalling client"), balancer.client("reading client"), balancer.target()

    def half(arrival: Arrival) -> None:
        if arrival.target == target:
            arrival.begin(200, "Content-Length: 20", then=b"half of it")

    with upstreams.serving(half):
        reader.send(request("GET", target), "GET")
        sender.send(head("POST", balancer.target(), "Content-Length: 20") + b"half of it", "POST")
        owed = "an end: nothing more comes"
        balancer.until_over(sender, owed)
        balancer.until_over(reader, owed)
    assert not reader.answered or reader.status >= 400, "half a response is not whole, and was taken for it"
    if sender.answered:
        status = sender.response().status
        assert status >= 400, f"half a request is no success, and came {status}"
    if upstreams.arrivals:
        balancer.until_gone(upstreams.arrivals, "the end of the connection, since nothing more comes")
    balancer.until_served_in_time()


@behaviour(stage=4, hidden=True, points=4, settings=TIMED, source=brief("T4", "in all"), needs="stalled_bodies")
def test_slow_but_steady(balancer: Balancer, upstreams: Upstreams) -> None:
    """A body may take longer than any time-out in all, in either direction, as long as something comes."""
    for _ in range(30):
        longest, came = steady(balancer, upstreams)
        if came:
            return
        assert longest > TIMEOUT / 2, f"a piece came every {longest:.0f} ms at the latest, and it was cut off"
    raise LimitReached(f"the machine is too busy to send a piece every {TIMEOUT / 2} ms")


def steady(balancer: Balancer, upstreams: Upstreams) -> tuple[float, bool]:
    """Two bodies that come slowly: the longest pause in ms between two that came through, and whether all did."""
    sender, reader = balancer.client("slow client"), balancer.client("reading client")
    upload, download = balancer.target(), balancer.target()
    arrivals: list[Arrival] = []

    def serve(arrival: Arrival) -> None:
        if arrival.target == download:
            arrivals.append(arrival)
            arrival.begin(200, "Content-Length: 70", then=b"x" * 10)
        else:
            upstreams.answer(arrival)

    with upstreams.serving(serve):
        began = last = waiting.now()
        sender.send(head("POST", upload, "Content-Length: 70") + b"x" * 10, "POST")
        reader.send(request("GET", download), "GET")
        balancer.solution.until(lambda: arrivals or reader.over or reader.answered, "the request", "the upstream")
        longest = waiting.now() - last
        if not arrivals:
            return longest * 1000, False
        ends, sent = (sender, reader), 10

        def came() -> bool:
            uploaded = [len(arrival.body) for arrival in upstreams.seen(upload)]
            cut_off = any(end.over or end.answered for end in ends)
            return cut_off or (uploaded == [sent] and len(reader.so_far) == sent)

        while sent < 70:
            waiting.elapse(balancer.solution, TIMEOUT / 5)
            sent += 10
            sender.connection.send(b"x" * 10)
            arrivals[0].line.connection.send(b"x" * 10)
            balancer.solution.until(came, "the next piece of a body", "its reader")
            longest, last = max(longest, waiting.now() - last), waiting.now()
        arrivals[0].finish()
        balancer.solution.until(lambda: all(each.over or each.answered for each in ends), "an answer", "client")
    assert last - began > TIMEOUT / 1000, "it took longer than any time-out"
    whole = all(each.answered and each.status == 200 and each.so_far == b"x" * 70 for each in ends)
    return longest * 1000, whole


@behaviour(
    stage=4,
    points=4,
    alone=True,
    settings=EJECTING,
    source=brief("H1", "MAX_FAILS"),
    needs=("round_robin", "post_never_repeated"),
)
def test_failures_eject(balancer: Balancer, upstreams: Upstreams, some: Upstream) -> None:
    """After MAX_FAILS failures in a row an upstream gets no requests; without any upstream it is 503, at once."""

    def fail(upstream: Upstream) -> None:
        """One failure of this upstream: turns of the others are answered."""
        for _ in range(6):
            before = len(upstream.arrivals)
            with upstreams.serving(lambda each: each.drop() if each.upstream is upstream else upstreams.answer(each)):
                reply = balancer.ask(request("POST", balancer.target()), "POST")
            if len(upstream.arrivals) > before:
                assert reply.status == 502, f"502 is owed to a POST that broke off, and came {reply}"
                return
        raise AssertionError(f"{upstream.party} is one of three in turn, and got nothing of six requests")

    fail(some)
    assert some.name in balancer.where(3), f"one failure is not {EJECTING['MAX_FAILS']}: {some.party} is in its turn"
    fail(some)
    assert some.name in balancer.where(3), "the two failures were not in a row: an answer came between them"
    with some.down():
        balancer.settled()
        balancer.where(6)
    names = balancer.where(6)
    assert some.name not in names, f"{some.party} refused twice in a row, and got another request: {names}"
    others = [each for each in upstreams.each if each is not some]
    for other in others:
        fail(other)
        fail(other)
    before = len(upstreams.arrivals)
    for method in ("GET", "POST"):
        reply = balancer.ask(request(method, balancer.target()), method)
        assert reply.status == 503, f"all upstreams are out: 503 is owed, and came {reply}"
    balancer.settled()
    assert len(upstreams.arrivals) == before, "all upstreams are out, and one got another request"


@behaviour(
    stage=4, hidden=True, points=4, settings=RETURNING, source=brief("H1", "EJECT_MS"), needs="refused_goes_elsewhere"
)
def test_ejected_returns(balancer: Balancer, upstreams: Upstreams, some: Upstream) -> None:
    """EJECT_MS after a failure has put it out, an upstream gets its turn again."""
    with some.down():
        balancer.settled()
        assert some.name not in balancer.where(4), f"{some.party} is down"
    waiting.elapse(balancer.solution, EJECT + LATE)
    balancer.settled()  # a timer that was due by then has fired, however late
    names = balancer.where(3)
    assert some.name in names, f"EJECT_MS is {EJECT}, {some.party} is back for longer, and not in its turn: {names}"


@behaviour(stage=4, points=4, settings=CHECKED, source=brief("H2", "active checks"), needs="round_robin")
@hints(
    "When is the next check of an upstream due, if the last one is not answered?",
    "One loop for each upstream: ask, judge, wait. A common loop would wait for the slowest.",
    "Count the checks in a row that contradict the present state; at two turn it round, and begin anew.",
)
def test_checks_decide(balancer: Balancer, upstreams: Upstreams, some: Upstream) -> None:
    """Two failed checks in a row put an upstream out, two passed ones back; one alone does neither."""
    statuses = balancer.chance.sample([503, 404, 302, 0], 4)  # 0: the connection is reset
    some.fail_check(statuses[0])
    assert some.name in balancer.where(3), "one failed check alone does not put an upstream out"
    some.pass_check()
    some.fail_check(statuses[1])
    assert some.name in balancer.where(3), "failed checks that are not in a row do not put an upstream out"
    some.fail_check(statuses[2])
    names = balancer.where(6)
    assert some.name not in names, f"two checks of {some.party} failed in a row, and it got a request: {names}"
    some.pass_check()
    some.fail_check(statuses[3])
    some.pass_check()
    assert some.name not in balancer.where(3), "passed checks that are not in a row do not bring it back"
    some.pass_check()
    assert some.name in balancer.where(3), f"two checks of {some.party} passed in a row, and it is not in its turn"


@behaviour(
    stage=4, hidden=True, points=3, settings=HANGING, source=brief("H2", "CHECK_TIMEOUT_MS"), needs="checks_decide"
)
def test_hung_check_fails(balancer: Balancer, upstreams: Upstreams, some: Upstream) -> None:
    """A check without an answer within CHECK_TIMEOUT_MS has failed, and holds up nobody else's."""
    others = [each for each in upstreams.each if each is not some]
    with upstreams.passing_checks(but=some):
        seen: list[Arrival] = []
        checks = dict.fromkeys(others, 0)
        last = {each: each.check for each in others}

        def third_check() -> bool:
            if some.check and some.check not in seen:
                seen.append(some.check)
            for each in others:
                checks[each] += each.check is not last[each]
                last[each] = each.check
            assert min(checks.values()) < 100, f"a check without an answer fails, and {some.party} is waited for"
            return len(seen) >= 3 and min(checks.values()) >= 4  # which is more than brings the others back

        balancer.solution.until(third_check, "further checks, since they get no answer", some.party)
        served = 0
        for _ in range(50):
            target = balancer.target()
            reply = balancer.ask(request("GET", target))
            served += reply.status == 200
            assert not [each for each in upstreams.seen(target) if each.upstream is some], (
                f"{some.party} answers no check, and got a request"
            )
            if served == 3:
                return
            assert reply.status in (200, 503), f"the others are there: 200 is owed, and came {reply}"
    raise LimitReached("checks of 50 rounds in a row were answered too late: the machine is too busy")


@behaviour(stage=4, alone=True, source=brief("D1", "SIGTERM"), needs=("streams_response", "streams_request"))
def test_sigterm_drains(balancer: Balancer, upstreams: Upstreams) -> None:
    """After SIGTERM nobody is accepted and idle connections end; what is under way is brought to its end."""
    idle = balancer.client("idle client")
    target = balancer.target()
    check_reply(balancer.answer(idle, request("GET", target)), target)
    with upstreams.holding():
        waits, reads, sends = (balancer.client(f"{word} client") for word in ("waiting", "reading", "sending"))
        waits.send(request("POST", "/waits", body=b"body"), "POST")
        reads.send(request("GET", "/reads"), "GET")
        sends.send(head("PUT", "/sends", "Content-Length: 10") + b"half ", "PUT")
        upstreams.until_held(2)
        (reading,) = upstreams.seen("/reads")
        reading.begin(200, "Content-Length: 10", then=b"half ")
        balancer.solution.until(lambda: reads.so_far == b"half " and upstreams.seen("/sends"), "the halves", "client")
        balancer.settled()
        balancer.solution.terminate()
        assert not idle.until_end("the end of an idle connection after SIGTERM"), "nothing was asked on it"
        balancer.solution.until(lambda: not balancer.solution.listening(), "to stop listening after SIGTERM")
        assert balancer.solution.exit_status() is None, "the balancer has exited, and requests were under way"
        reading.send(b"done!")
        reading.finish()
        sends.send(b"done!")
        balancer.solution.until(lambda: upstreams.seen("/sends")[0].complete, "the rest of a request", "the upstream")
    for client, body in (waits, b"body"), (reads, b"half done!"), (sends, b"half done!"):
        reply = balancer.answer(client)
        assert (reply.status, reply.body) == (200, body), f"what is under way is finished: {body!r}, not {reply}"
        client.until_end("the end of the connection, after its answer")
    for client in (idle, waits, reads, sends):
        client.connection.close()
    status = balancer.solution.until_exit("to exit once nothing is under way")
    assert status in STOPPED, f"exit status 0 or an end by SIGTERM is owed, and came {status}"


@behaviour(stage=4, hidden=True, alone=True, settings=HASTY, source=brief("D1", "SHUTDOWN_MS"), needs=BASE)
def test_sigterm_deadline(balancer: Balancer, upstreams: Upstreams) -> None:
    """A request that never ends does not keep the process alive longer than SHUTDOWN_MS."""
    balancer.served()
    with upstreams.holding():
        balancer.sending(request("GET", balancer.target()))
        upstreams.until_held()
        balancer.solution.terminate()
        balancer.solution.until_exit("to end, though a request does not")


# -- stage 5: scale -------------------------------------------------------------------------------------------------


@behaviour(stage=5, points=4, source=brief("B2", "least_connections"), needs=EVEN)
def test_crowd(balancer: Balancer, upstreams: Upstreams) -> None:
    """Thirty requests at once are ten for each upstream, and each client gets its own answer, whoever is slow."""
    targets = {balancer.target(): balancer.chance.randbytes(20) for _ in range(30)}
    with upstreams.holding():
        clients = {
            target: balancer.sending(request("POST", target, body=body), "POST") for target, body in targets.items()
        }
        balancer.solution.until(lambda: len(upstreams.held) == 30, "30 requests at once", "the upstreams")
        counts = upstreams.counts()
        assert counts == [10, 10, 10], f"ten for each are owed, and they got {counts}"
        held = upstreams.held
        for arrival in balancer.chance.sample(held, 20):
            upstreams.answer(arrival)
        for arrival in held:
            if arrival.answered:
                check_reply(balancer.answer(clients.pop(arrival.target)), arrival.target, targets[arrival.target])
    for target, client in clients.items():
        check_reply(balancer.answer(client), target, targets[target])


@behaviour(stage=5, hidden=True, points=5, source=brief("C3", "nothing is left"), needs=(EVEN, "departed_is_over"))
def test_churn_leaves_no_trace(balancer: Balancer, upstreams: Upstreams) -> None:
    """After many requests that ended in every way, the counts are even again, and no more sockets are open."""
    churn(balancer, upstreams)
    balancer.even(2)
    sockets = balancer.sockets()
    churn(balancer, upstreams)
    balancer.even(2)
    left = balancer.sockets() - sockets
    assert left <= 4, f"everybody has gone, and {left} more sockets are open than before, besides idle ones"


def churn(balancer: Balancer, upstreams: Upstreams) -> None:
    """Requests that end well, by a client that leaves, by a reset, by a response that breaks off, and by a bad one."""
    before, order = len(upstreams.arrivals), balancer.chance.sample(NAMES, 3)

    def all_there() -> bool:
        return sum(arrival.complete for arrival in upstreams.arrivals[before:]) == 15

    with upstreams.holding():
        clients = [balancer.sending(request("POST", balancer.target(), body=b"x" * 10), "POST") for _ in range(15)]
        balancer.solution.until(all_there, "15 requests at once", "the upstreams")
        # What fails is spread unevenly, so that counts that stay up show.
        held = sorted(upstreams.arrivals[before:], key=lambda arrival: order.index(arrival.upstream.name))
        for client in balancer.chance.sample(clients, 3):
            client.hang_up()
        for arrival in held[:2]:
            arrival.drop()
        for arrival in held[2:6]:
            arrival.begin(200, "Content-Length: 20", then=b"half")
            arrival.close()
        for arrival in held[6:10]:
            arrival.send(b"no HTTP\r\n\r\n")
    balancer.settled()
    for client in clients:
        client.connection.close()
    balancer.settled()
