"""What a TLS server owes its clients, and those who are none: the behaviours of the kata `tls_server`.

The harness is every client, and every certification authority. Where correct servers differ (a client certificate may
be refused by an alert or by a 4xx) both are taken for a refusal; that nothing was done is asked for in either case.
"""

from __future__ import annotations

import random
import re
import signal
import ssl
from functools import cached_property
from typing import Any

import pytest

from harness import waiting
from harness.behaviour import Source, behaviour, hints, rfc
from harness.peers.certificates import CLIENT, DAY, SERVER, Credential, common_name
from harness.peers.sites import HTTP, Site, Sites
from harness.solution.program import STOPPED, Solution
from harness.verdicts import Broken, NotReached
from harness.wire.http1 import Headers
from harness.wire.https import Https
from harness.wire.tcp import Connection
from harness.wire.tls import Tls
from harness.wire.tls_records import (
    APPLICATION_DATA,
    HEADER,
    TLS10,
    TLS11,
    TLS12,
    TLS13,
    Record,
    Sight,
    client_hello,
    fragmented,
    handshake_records,
)

PEERS = [Sites]
KIB, MIB = 1 << 10, 1 << 20
HANDSHAKE = 80  # ms
HASTY = {"HANDSHAKE_MS": HANDSHAKE}
IMPATIENT = {"SHUTDOWN_MS": 60}
PATIENT = {"SHUTDOWN_MS": 30_000}  # whoever is done exits before
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
CLOSE: Headers = [("Connection", "close")]
TAKE_OVER = 0.5  # seconds, which the brief gives; nginx lets both generations of its processes serve for 0.1
TRIES = 20  # handshakes after a SIGHUP until the new certificate has to be there
SNI = rfc(6066, "3", "Server Name Indication")
CLOSURE = rfc(8446, "6.1", "Closure Alerts")
MISDIRECTED = rfc(9110, "7.4", "Rejecting Misdirected Requests")
CLIENT_CERTIFICATE = rfc(8446, "4.4.2.4", "Receiving a Certificate Message")
TICKETS = rfc(8446, "4.6.1", "New Session Ticket Message")


def brief(rule: str, words: str) -> Source:
    return Source(f"README {rule}, {words}")


TLS = (bytearray(b"\x15"), bytearray(b"\x16"))  # an answer that begins with an alert, or with a handshake


class Plain:
    """A TCP connection on which the harness writes what it likes, and sees what comes without any keys."""

    def __init__(self, solution: Solution, name: str) -> None:
        self.solution, self.name = solution, name
        self.sight, self.received = Sight(), bytearray()
        self.connection = solution.connect(name)
        self.connection.on_bytes = self._arrived

    def send(self, data: bytes, label: str) -> Plain:
        self.solution.record.add("message", self.name, self.solution.record.solution, label, data, self.name)
        self.connection.send(data)
        return self

    def until_answered(self, owed: str = "an answer to the ClientHello") -> Plain:
        """Wait for a handshake message, an alert or the end."""
        sight = self.sight
        self.solution.until(lambda: sight.messages or sight.alerts or self.connection.ended, owed, self.name)
        return self

    def until_sent(self, message: str) -> Plain:
        """Wait for a handshake message that goes in clear."""
        self.solution.until(lambda: message in self.sight.messages or self.connection.ended, message, self.name)
        return self

    def until_ended(self, owed: str) -> Plain:
        self.solution.until(lambda: self.connection.ended, owed, self.name)
        return self

    def _arrived(self, connection: Connection) -> None:
        data = bytes(connection.inbox)
        connection.inbox.clear()
        self.received += data
        names = self.sight.feed(data) if self.received[:1] in TLS else []
        label = ", ".join(names) or f"{len(data)} bytes"
        if data:
            self.solution.record.add("message", self.solution.record.solution, self.name, label, data, self.name)


class Front:
    """The solution in the words of this kata."""

    def __init__(self, solution: Solution, chance: random.Random) -> None:
        self.solution, self.chance = solution, chance
        self.sites = solution.peer(Sites)
        self._witness: Https | None = None

    @cached_property
    def alice(self) -> Credential:
        """A client of the staff, who may come to admin.kata.test."""
        return self.sites.client(self.name("alice"))

    @cached_property
    def robot(self) -> Credential:
        """A client of the machines, which may come to ops.kata.test."""
        return self.sites.client(self.name("robot"), self.sites.authorities.machines)

    def word(self) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))

    def name(self, first: str) -> str:
        return f"{first}-{self.word()}"

    def tls(
        self,
        server_name: str = "www.kata.test",
        who: str = "client",
        client: Credential | None = None,
        version: ssl.TLSVersion | None = None,
        protocols: tuple[str, ...] = HTTP,
        names_checked: bool = True,
        **how: Any,
    ) -> Tls:
        """A connection whose handshake has begun."""
        context = self.sites.context(version, protocols, client, names_checked and bool(server_name))
        return Tls(self.solution, who, context, server_name, **how)

    def https(self, server_name: str = "www.kata.test", who: str = "client", host: str = "", **how: Any) -> Https:
        """A connection whose handshake is done: the certificate is verified, and is one for that name."""
        return Https(self.tls(server_name, who, **how).handshake(), host or server_name)

    def whoami(self, https: Https, headers: Headers | None = None) -> dict[str, Any]:
        answer = https.request("GET", "/whoami", headers=headers or [])
        assert answer.status == 200, f"/whoami is answered with 200, and came {answer}"
        document = answer.json()
        assert isinstance(document, dict), f"/whoami is an object, and not {document!r}"
        assert {"site", "client"} <= set(document), f"/whoami says `site` and `client`, and came {document}"
        return document

    def serves(self, server_name: str = "www.kata.test", who: str = "another", **how: Any) -> Https:
        """A new client is served: the server is well."""
        https = self.https(server_name, who, **how)
        self.whoami(https)
        return https

    def serves_in_time(self, who: str = "another") -> Https:
        """As `serves`, where HANDSHAKE_MS is so short that a machine may be too slow for it: that is nobody's fault."""
        for _ in range(TRIES):
            began = waiting.now()
            try:
                return self.serves(who=who)
            except Broken:
                if waiting.now() - began < HANDSHAKE / 1000:
                    raise
        raise NotReached(f"the scene could not be set: no handshake was done within {HANDSHAKE} ms")

    def note(self, https: Https, name: str, text: bytes) -> None:
        answer = https.request("PUT", f"/notes/{name}", text)
        assert answer.status == 204, f"a note is kept with 204, and came {answer}"

    def nothing_was_kept(self, name: str, why: str) -> None:
        if self._witness is None or self._witness.channel.ended:
            self._witness = self.https(who="witness")
        answer = self._witness.request("GET", f"/notes/{name}")
        assert answer.status == 404, f"{why}: nothing of it may be done, and the note is there: {answer}"

    def refuses(self, channel: Tls, host: str, why: str) -> None:
        """Whoever comes like this gets an alert, or the end, or a 4xx to everything; and nothing is done for it."""
        name = self.name("note")
        self.solution.until(lambda: channel.established or channel.ended, "the end of the handshake", channel.name)
        if channel.established and not channel.ended:
            https = Https(channel, host)
            https.send("PUT", f"/notes/{name}", b"by nobody")
            answer = https.response_or_end()
            assert answer is None or 400 <= answer.status < 500, f"{why}: a refusal is owed, and came {answer}"
        assert not channel.fault, f"{why}: an alert, an end or a 4xx is owed; {channel.fault}"
        self.nothing_was_kept(name, why)

    def plain(self, who: str = "stranger") -> Plain:
        return Plain(self.solution, who)

    def hello(self, **how: Any) -> bytes:
        """The records of a hand-made ClientHello."""
        return handshake_records(client_hello(self.chance, **how))

    def reload(self) -> None:
        """SIGHUP, until all of its effect is there; short timers belong to it: new processes replace old ones."""
        self.solution.signal(signal.SIGHUP, ends=False)
        self.solution.settled()
        due = [timer for timer in self.solution.look().timers if timer < TAKE_OVER]
        if due:
            waiting.elapse(self.solution, 1000 * max(due))
            self.solution.settled()

    def reload_until(self, site: Site) -> None:
        """Reload; new clients see the certificate that the site has now."""
        self.reload()
        for _ in range(TRIES):
            channel = self.tls(site.name, "newcomer", names_checked=False).handshake()
            channel.hang_up()
            if channel.certificate == site.credential.der:
                return
            self.solution.settled()
        raise AssertionError(
            f"after SIGHUP new clients of {site.name} are owed its new certificate, and got the old one"
        )


@pytest.fixture
def front(solution: Solution, chance: random.Random) -> Front:
    return Front(solution, chance)


def has_certificate_of(channel: Tls, site: Site, what: str) -> None:
    if channel.certificate == site.credential.der:
        return
    whose = common_name(channel.certificate)
    came = f"that of {whose}" if whose != site.name else "another one of that name, an old or a new one"
    raise AssertionError(f"{what}: the certificate of {site.name} is owed, and came {came}")


# -- stage 1: basics ------------------------------------------------------------------------------------------------


@behaviour(stage=1, points=2, source=rfc(9325, "3.1.1", "SSL/TLS Protocol Versions"))
def test_serves_both_versions(front: Front) -> None:
    """Clients of TLS 1.2 and of TLS 1.3 are served; who knows both gets TLS 1.3."""
    for version, best in [(V12, "TLSv1.2"), (V13, "TLSv1.3"), (None, "TLSv1.3")]:
        https = front.https(version=version)
        came = https.channel.version
        assert came == best, f"{best} is the best that this client knows, and came {came}"
        told = front.whoami(https)
        assert told == {"site": "www.kata.test", "client": None}, f"the default site, without a client; came {told}"


@behaviour(stage=1, source=SNI)
def test_certificate_by_name(front: Front) -> None:
    """Each name gets the certificate of its site, with the intermediate one above it, and is answered by that site."""
    for name, file in [
        ("www.kata.test", "www"),
        ("kata.test", "www"),
        ("pay.apps.kata.test", "pay"),
        ("pay.kata.test", "pay"),
    ]:
        https = front.https(name)
        has_certificate_of(https.channel, front.sites[file], name)
        site = front.whoami(https)["site"]
        assert site == front.sites[file].name, f"{name} is answered by {front.sites[file].name}, and not by {site}"


@behaviour(stage=1, source=SNI)
def test_default_certificate(front: Front) -> None:
    """Who names no server, or one that is unknown, gets the first site's certificate."""
    for name in ("", "nowhere.test", "com"):
        https = front.https(name, host="www.kata.test", names_checked=False)
        has_certificate_of(https.channel, front.sites.default, f"the server name {name!r}")
        assert front.whoami(https)["site"] == "www.kata.test", "the first site answers"


@behaviour(stage=1, source=rfc(7301, "3.2", "Protocol Selection"))
def test_http_is_negotiated(front: Front) -> None:
    """http/1.1 is chosen from what a client offers; who offers nothing is served all the same."""
    for offered in [("http/1.1",), ("h2", "http/1.1"), ("x", "http/1.1", "h2")]:
        https = front.https(protocols=offered)
        assert https.channel.protocol == "http/1.1", f"of {offered} http/1.1 is owed, not {https.channel.protocol!r}"
        front.whoami(https)
    https = front.https(protocols=())
    assert https.channel.protocol is None, "nothing was offered, so nothing is chosen"
    front.whoami(https)


CLAIMS = ["X-Client", "X-Client-Name", "X-Client-CN", "X-SSL-Client-S-DN", "SSL-Client-S-DN", "Client-Cert"]


@behaviour(stage=1, points=2, source=rfc(8446, "4.3.2", "Certificate Request"))
def test_client_is_named(front: Front) -> None:
    """Where certificates are asked for the client has the common name of its own, whatever a header says."""
    claims = [(claim, front.name("mallory")) for claim in CLAIMS]
    for version in (V12, V13):
        told = front.whoami(front.https("admin.kata.test", client=front.alice, version=version), claims)
        owed = {"site": "admin.kata.test", "client": front.alice.common_name}
        assert told == owed, f"{owed} is in the certificate, and came {told}"
    told = front.whoami(front.https(), claims)
    assert told["client"] is None, f"no certificate, no client; and came {told}"


@behaviour(stage=1, source=CLIENT_CERTIFICATE, needs="client_is_named")
def test_client_certificate_required(front: Front) -> None:
    """Who has no certificate is refused where one is asked for, and served elsewhere."""
    for version in (V12, V13):
        front.refuses(front.tls("admin.kata.test", version=version), "admin.kata.test", "without a certificate")
    front.whoami(front.https("admin.kata.test", client=front.alice))


@behaviour(stage=1, points=2, source=rfc(8446, "5.1", "Record Layer"))
@hints(
    "How much does one read of TLS give you?",
    "A record holds 16 KiB at most, and many may have come at once.",
    "Read in a loop until the library wants more input, not once for each arrival.",
)
def test_bodies_of_many_records(front: Front) -> None:
    """Bodies of many records arrive whole, in both directions."""
    https, name = front.https(), front.name("note")
    text = front.chance.randbytes(300 * KIB)
    front.note(https, name, text)

    answer = https.request("GET", f"/notes/{name}")
    assert answer.body == text, f"{len(text)} bytes are owed as they were sent, and came {len(answer.body)}"
    large = https.request("GET", f"/bytes/{3 * MIB}")
    assert (large.status, len(large.body)) == (200, 3 * MIB), f"3 MiB are owed, and came {len(large.body)} bytes"


# -- stage 2: edges -------------------------------------------------------------------------------------------------


@behaviour(stage=2, hidden=True, source=rfc(9525, "6.3", "Matching the DNS Domain Name Portion"))
@hints(
    "For how many labels does the star stand?",
    "`a.b.apps.kata.test` ends like the wildcard, and is none of its names.",
    "Replace the first label by `*` and look for exactly that.",
)
def test_wildcard_is_one_label(front: Front) -> None:
    """A wildcard stands for one label, not for none and not for two, and an exact name goes before it."""
    for name in (f"{front.word()}.apps.kata.test", "x.apps.kata.test"):
        https = front.https(name)
        has_certificate_of(https.channel, front.sites["apps"], name)
        assert front.whoami(https)["site"] == "*.apps.kata.test", f"{name} belongs to the wildcard"
    for name in ("a.b.apps.kata.test", "apps.kata.test", "xapps.kata.test"):
        channel = front.tls(name, names_checked=False).handshake()
        has_certificate_of(channel, front.sites.default, f"{name} is no name of the wildcard")
    has_certificate_of(front.https("pay.apps.kata.test").channel, front.sites["pay"], "the exact name")


@behaviour(stage=2, hidden=True, source=rfc(4343, "2", "Case Insensitivity of DNS Labels"))
def test_names_ignore_case(front: Front) -> None:
    """Letters of a server name and of Host count alike in upper and lower case."""
    for name in ("PAY.Apps.Kata.TEST", "Pay.apps.kata.test"):
        data = front.hello(server_name=name.encode(), version=TLS12)
        lower = front.https("pay.apps.kata.test", host=name)
        assert front.whoami(lower)["site"] == "pay.apps.kata.test", "Host in capitals is the same site"
        answer = front.plain().send(data, f"ClientHello for {name}").until_sent("ServerHelloDone")
        site = front.sites["pay"].credential.der
        assert site in bytes(answer.received), f"{name} is owed the certificate of pay.apps.kata.test"
        answer.connection.hang_up()


ODD_NAMES = [
    (b"", "an empty name"),
    (b"www.kata.test\0.evil.test", "a NUL inside"),
    (b"\xff\xfe\x80", "no ASCII"),
    ("bücher.kata.test".encode(), "a name in UTF-8"),
    (b"a" * 300, "300 letters"),
    (b"127.0.0.1", "an address"),
    (b"..", "two dots"),
    (b"*.apps.kata.test", "the wildcard itself"),
    (b"xn--zzzzzz.kata.test", "no valid IDNA"),
]


@behaviour(stage=2, hidden=True, source=SNI)
def test_odd_names_are_survived(front: Front) -> None:
    """Any bytes may come as a server name: they get a certificate or an alert, and nobody else is harmed."""
    for name, why in ODD_NAMES:
        for version in ({}, {"versions": (TLS13, TLS12)}):
            stranger = front.plain()
            stranger.send(front.hello(server_name=name, **version), f"ClientHello with {why}").until_answered()
            stranger.connection.hang_up()
    front.serves()


@behaviour(stage=2, points=3, source=rfc(7301, "3.2", "Protocol Selection"))
@hints(
    "What does your library do when the protocols have nothing in common? Python's goes on without one.",
    "What the client offers stands in its ClientHello, which you have before the library gets it.",
    "Send the record 15 03 03 00 02 02 78 (a fatal alert, number 120) and close.",
)
def test_no_common_protocol(front: Front) -> None:
    """Who offers protocols without http/1.1 gets the fatal alert no_application_protocol."""
    for offered in [("h2",), ("h3", "x")]:
        for version in (V12, V13):
            channel = front.tls(protocols=offered, version=version).until_ended("the alert no_application_protocol")
            assert channel.alert == "no_application_protocol", (
                f"{offered}: the alert no_application_protocol is owed; {channel.ending}"
            )
            channel.until_closed()
    front.serves()


@behaviour(stage=2, points=3, source=rfc(8996, "4", "Do Not Use TLSv1.0"))
def test_old_versions_refused(front: Front) -> None:
    """TLS 1.1 and older are refused with the alert protocol_version."""
    suites = (0xC009, 0xC00A, 0xC02B, 0xC023)  # ECDHE-ECDSA with CBC and SHA-1 first: what TLS 1.0 has
    for version in (TLS11, TLS10):
        old = front.plain("old client").send(
            front.hello(version=version, suites=suites, server_name=b"www.kata.test"),
            f"ClientHello of TLS 1.{version - TLS10}",
        )
        old.until_answered("the alert protocol_version")
        assert old.sight.alerts == ["protocol_version"], (
            f"TLS 1.{version - TLS10} is owed the alert protocol_version, and came {_told(old)}"
        )
        old.until_ended("the end after a fatal alert")
    new = front.plain("client").send(front.hello(version=TLS12, server_name=b"www.kata.test"), "ClientHello of TLS 1.2")
    assert "ServerHello" in new.until_answered().sight.messages, "the same hello for TLS 1.2 is answered"
    front.serves(version=V12)


def _told(plain: Plain) -> str:
    return ", ".join(plain.sight.messages + plain.sight.alerts) or "the end without a word"


WEAK = {
    "NULL": (0xC006, 0xC010, 0x003B, 0x0002),
    "anonymous": (0xC018, 0xC019, 0x00A6, 0x0034, 0xC015),
    "3DES and RC4": (0xC008, 0xC012, 0x000A, 0xC007, 0x0005),
}


@behaviour(stage=2, hidden=True, source=rfc(9325, "4.1", "General Guidelines"))
def test_weak_suites_refused(front: Front) -> None:
    """Who offers nothing but suites without encryption, without authentication, or broken ones, is refused."""
    for kind, suites in WEAK.items():
        weak = front.plain("weak client").send(front.hello(suites=suites), f"ClientHello with {kind} suites")
        weak.until_answered("a refusal")
        assert not weak.sight.messages, f"{kind} suites are refused with an alert, and came {_told(weak)}"
        weak.until_ended("the end after a fatal alert")
    strong = front.plain("client").send(front.hello(suites=(0xC02B, 0xC02C, 0xCCA9)), "ClientHello with good suites")
    assert "ServerHello" in strong.until_answered().sight.messages, "ECDHE with AES-GCM is answered"
    front.serves(version=V12)


@behaviour(stage=2, points=3, hidden=True, source=rfc(8446, "5.1", "Record Layer"))
@hints(
    "Must a ClientHello come in one piece?",
    "TCP has no pieces, and a handshake message may go on in the next record.",
    "Gather bytes until read_hello() gives you a hello; None says that more has to come.",
)
def test_hello_in_pieces(front: Front) -> None:
    """A hello may come byte by byte, and in many records."""
    slow = front.tls("pay.apps.kata.test", "slow client", held=True)
    for _ in range(7):
        slow.release_bytes(1)
        front.solution.settled()
    slow.release()
    has_certificate_of(slow.handshake(), front.sites["pay"], "a hello that came in pieces")
    front.whoami(Https(slow, "pay.apps.kata.test"))
    for size in (1, 3, 60):
        torn = front.tls("pay.apps.kata.test", "torn client", held=True)
        torn.release(fragmented(torn.held, size))
        has_certificate_of(torn.handshake(), front.sites["pay"], f"a hello in records of {size} bytes")
        front.whoami(Https(torn, "pay.apps.kata.test"))


@behaviour(stage=2, points=3, hidden=True, source=rfc(8446, "4.1.2", "Client Hello"))
def test_hello_has_a_bound(front: Front) -> None:
    """A hello of 20 KiB is fine; one that announces megabytes is refused long before they have come."""
    many = (*(f"protocol-{number:03}-{'x' * 180}" for number in range(100)), "http/1.1")
    front.whoami(front.https(protocols=many))
    endless = front.plain()
    endless.send(handshake_records(b"\x01\xff\xff\xff" + b"\x03\x03" + bytes(16_000)), "a ClientHello of 16 MiB begins")
    for _ in range(64):
        if endless.connection.ended:
            break
        endless.send(Record(22, TLS10, bytes(16_384)).encode(), "16 KiB more of it")
        front.solution.settled()
    assert endless.connection.ended, "a hello without end is refused: an alert or the end is owed within a megabyte"
    front.serves()


@behaviour(stage=2, points=3, hidden=True, source=rfc(8446, "4.3.2", "Certificate Request"))
@hints(
    "Which of your sites ask for a certificate? What does a browser do when one is asked for?",
    "A callback for server names changes certificates, but not what is verified: that was settled before.",
    "Read the hello yourself, and begin TLS with the context of the site: verify_mode is the site's own.",
)
def test_only_some_sites_ask(front: Front) -> None:
    """A site without client_ca does not ask for a certificate, and does not look at one."""
    for name, asks in [("www.kata.test", False), ("x.apps.kata.test", False), ("admin.kata.test", True)]:
        hello = front.hello(server_name=name.encode())
        plain = front.plain("client").send(hello, f"ClientHello for {name}").until_answered()
        plain.until_sent("ServerHelloDone")
        asked = "CertificateRequest" in plain.sight.messages
        assert asked == asks, f"{name}: a CertificateRequest {'is owed' if asks else 'would make browsers ask back'}"
        plain.connection.hang_up()
    stranger = front.sites.client(front.name("stranger"), front.sites.authorities.strangers)
    told = front.whoami(front.https(client=stranger))
    assert told["client"] is None, f"nobody was asked, so there is no client; and came {told}"


@behaviour(stage=2, points=3, source=CLIENT_CERTIFICATE, needs="client_is_named")
def test_strangers_refused(front: Front) -> None:
    """A certificate counts only at sites that trust its CA, while it is valid, and only if it is one for clients."""
    who, staff = front.sites.authorities, front.sites.authorities.staff
    bad = {
        "another site's CA": front.robot,
        "an unknown CA with the same name": front.sites.client("alice", who.strangers),
        "expired": staff.issue("alice", usage=CLIENT, valid=(-2 * DAY, -DAY)),
        "not valid yet": staff.issue("alice", usage=CLIENT, valid=(DAY, 2 * DAY)),
        "for servers only": staff.issue("alice", usage=SERVER),
    }
    for number, (why, client) in enumerate(bad.items()):
        version = (V13, V12)[number % 2]
        front.refuses(front.tls("admin.kata.test", "stranger", client, version), "admin.kata.test", why)
    for site, version in [("admin.kata.test", V12), ("ops.kata.test", V13)]:
        why = f"a certificate of the servers' CA at {site}"
        front.refuses(front.tls(site, "stranger", front.sites.client("alice", who.servers), version), site, why)
    front.refuses(front.tls("ops.kata.test", "alice", front.alice), "ops.kata.test", "the staff at the machines' site")
    front.whoami(front.https("admin.kata.test", client=front.alice))
    front.whoami(front.https("ops.kata.test", client=front.robot))


@behaviour(stage=2, points=3, hidden=True, source=MISDIRECTED, needs="client_is_named")
@hints(
    "Which name decides: the one of the handshake, or the one of the request?",
    "Somebody enters by the door of a public site, and asks for the one with client certificates.",
    "Compare the site of Host with the site of the connection, and answer 421 where they differ.",
)
def test_host_belongs_to_the_handshake(front: Front) -> None:
    """Who entered by one site can't ask for another that wants certificates: 421, or another 4xx."""
    doors = [front.https(), front.https("", host="www.kata.test"), front.https("ops.kata.test", client=front.robot)]
    for door in doors:
        name = front.name("note")
        for host in ("admin.kata.test", "ADMIN.kata.test:8443"):
            door.send("PUT", f"/notes/{name}", b"x", [("Host", host)])
            answer = door.response_or_end()
            assert answer is None or 400 <= answer.status < 500, f"Host: {host} is owed 421 here, and came {answer}"
            if answer is None or door.channel.ended:
                break
        front.nothing_was_kept(name, "a request for another site")
    host, port = "admin.kata.test", front.solution.address[1]
    front.whoami(front.https(host, host=f"{host}:{port}", client=front.alice))


@behaviour(stage=2, points=3, source=CLOSURE)
@hints(
    "What tells the client that nothing was cut off?",
    "A FIN alone could come from anybody on the way; close_notify could not.",
    "Let TLS say close_notify (`unwrap`), send what that left in the buffer, then close.",
)
def test_closes_with_notify(front: Front) -> None:
    """After its last answer the server says close_notify, behind all of it, and closes."""
    for version in (V12, V13):
        https = front.https(version=version)
        answer = https.request("GET", f"/bytes/{MIB}", headers=CLOSE)
        assert len(answer.body) == MIB, f"all of the answer is owed, and came {len(answer.body)} bytes"
        https.channel.until_ended("close_notify after the last answer")
        assert https.channel.close_notify, f"close_notify is owed after the last answer; {https.channel.ending}"
        https.channel.until_closed()


@behaviour(stage=2, hidden=True, source=CLOSURE)
def test_notify_is_answered(front: Front) -> None:
    """A client's close_notify is answered with the server's own, and the connection ends."""
    for version in (V12, V13):
        https = front.serves(version=version)
        https.channel.send_notify()
        https.channel.until_ended("close_notify")
        assert https.channel.close_notify, f"the server's own close_notify is owed; {https.channel.ending}"
        https.channel.until_closed()


@behaviour(stage=2, points=3, source=TICKETS)
def test_sessions_resume(front: Front) -> None:
    """A client that comes back resumes its session, in both versions, as whoever it was."""
    for version in (V12, V13):
        for name, client in [("www.kata.test", None), ("admin.kata.test", front.alice)]:
            first = front.https(name, client=client, version=version)
            told = front.whoami(first)
            again = front.https(name, client=client, version=version, session=first.channel.session)
            assert again.channel.resumed, f"{name}, {again.channel.version}: the session is owed to who brings it back"
            resumed = front.whoami(again)
            assert resumed == told, f"who resumes is who it was, {told}; and came {resumed}"


@behaviour(stage=2, points=3, hidden=True, source=TICKETS, needs=("sessions_resume", "client_certificate_required"))
@hints(
    "What does a ticket prove, and to whom?",
    "One that was given at a public site says nothing of a certificate; one of another site was checked by another CA.",
    "Give each site a context of its own from the first byte on: contexts have keys of their own for tickets.",
)
def test_tickets_open_one_site(front: Front) -> None:
    """A session of one site gives no way into another that asks for certificates (CVE-2025-23419)."""
    for version in (V12, V13):
        robot = front.https("ops.kata.test", client=front.robot, version=version)
        front.whoami(robot)
        public = front.https(client=front.robot, version=version)
        front.whoami(public)
        for door in (robot, public):
            front.refuses(
                front.tls("admin.kata.test", "robot", front.robot, version, session=door.channel.session),
                "admin.kata.test",
                f"a session of {door.host}",
            )
    front.whoami(front.https("admin.kata.test", client=front.alice))


# -- stage 3: concurrency -------------------------------------------------------------------------------------------


@behaviour(stage=3, source=rfc(8446, "2", "Protocol Overview"), needs="client_is_named")
def test_handshakes_side_by_side(front: Front) -> None:
    """Handshakes that go on at the same time, one record at a time, keep their sites and their clients apart."""
    wanted = [("www.kata.test", "www", None), ("admin.kata.test", "admin", front.alice)]
    wanted += [("pay.apps.kata.test", "pay", None), ("ops.kata.test", "ops", front.robot)]
    channels = [
        front.tls(name, f"client {number}", client, held=True, version=(V12, V13)[number % 2])
        for number, (name, _, client) in enumerate(wanted * 2)
    ]
    front.chance.shuffle(channels)
    for half in (0, 1):
        for channel in channels:
            channel.release_bytes(len(channel.held) if half else len(channel.held) // 2)
    front.solution.settled()
    for channel in reversed(channels):
        channel.release()
    for channel in channels:
        file, client = next((file, client) for name, file, client in wanted if name == channel.server_name)
        has_certificate_of(channel.handshake(), front.sites[file], channel.server_name)
        told = front.whoami(Https(channel, channel.server_name))
        name = client.common_name if client else None
        owed = {"site": front.sites[file].name, "client": name}
        assert told == owed, f"at {channel.server_name} {owed} is owed, and came {told}"


@behaviour(stage=3, points=4, hidden=True, source=rfc(8446, "4.4.4", "Finished"), needs="sessions_resume")
@hints(
    "What do you do right after the handshake is done?",
    "The request may have come with the Finished, in the same segment: no further arrival will wake you.",
    "When the handshake is done go on reading at once, in the same call.",
)
def test_request_with_the_finished(front: Front) -> None:
    """A request that arrives together with the client's Finished is answered."""
    for version in (V12, V13):  # in TLS 1.2 the client has the last word only where a session is resumed
        first = front.https(version=version)
        front.whoami(first)
        channel = front.tls(version=version, session=first.channel.session)
        channel.hold()
        https = Https(channel.handshake(), channel.server_name)
        assert channel.resumed, "the session is owed, so that the client's Finished is the last one"
        https.send("GET", "/whoami")
        channel.release()
        answer = https.response()
        assert answer.status == 200, f"200 is owed, and came {answer}"


@behaviour(stage=3, points=4, source=brief("S6", "no one waits for another"))
def test_half_open_hold_nobody_up(front: Front) -> None:
    """Clients that stop in the middle of a handshake do not hold up those who go on."""
    stuck = []
    for number in range(12):
        channel = front.tls(who=f"stuck {number}", held=True)
        channel.release_bytes((0, 3, 100, len(channel.held))[number % 4])
        channel.hold()
        stuck.append(channel)
    front.solution.settled()
    for name in ("www.kata.test", "pay.apps.kata.test"):
        front.serves(name)
    front.serves("admin.kata.test", client=front.alice)
    for channel in stuck[3::4]:
        channel.release()
        front.whoami(Https(channel.handshake(), "www.kata.test"))


@behaviour(stage=3, points=4, hidden=True, source=brief("S6", "no one waits for another"))
def test_slow_reader_gets_all(front: Front) -> None:
    """A client that stops reading holds nobody up, and gets all of its answer once it reads again."""
    size = 12 * MIB
    slow = front.https(who="slow reader")
    slow.channel.connection.stop_reading()
    slow.send("GET", f"/bytes/{size}")
    slow.send("GET", "/whoami")
    front.solution.settled()
    front.whoami(front.serves())
    slow.channel.connection.read_again()
    answer = slow.response()
    assert (answer.status, len(answer.body)) == (200, size), f"{size} bytes are owed, and came {len(answer.body)}"
    assert slow.response().status == 200, "and the next request is answered too"


@behaviour(stage=3, points=4, source=brief("S7", "reload"), alone=True)
@hints(
    "When are the files read: at the start, or for each client?",
    "SIGHUP says that they have changed.",
    "Load all sites anew and put the new list in place of the old one, in one assignment.",
)
def test_reload_serves_the_new(front: Front) -> None:
    """After SIGHUP new handshakes get the new certificates, and new sites are there."""
    old = front.sites["pay"]
    has_certificate_of(front.serves("pay.apps.kata.test").channel, old, "at the start")
    renewed = front.sites.renew("pay")
    early = front.serves("pay.apps.kata.test").channel
    has_certificate_of(early, old, "before SIGHUP, when the files may be half written")
    front.reload_until(renewed)
    new = front.sites.add("shop", "shop.kata.test")
    front.reload_until(new)
    assert front.whoami(front.https("shop.kata.test"))["site"] == "shop.kata.test", "the new site answers"
    has_certificate_of(front.https().channel, front.sites["www"], "a site that has not changed")


@behaviour(stage=3, points=4, hidden=True, source=brief("S7", "reload"), alone=True, needs="reload_serves_the_new")
@hints(
    "Who still needs the old sites after a reload?",
    "A connection that looks its site up again may find that it is gone.",
    "Keep the list that a connection began with, on the connection, and ask nothing else for its site.",
)
def test_reload_drops_nobody(front: Front) -> None:
    """Connections and handshakes that are there go on through a reload as they began, even if their site is gone."""
    idle, busy, gone = front.serves(), front.serves("pay.apps.kata.test"), front.serves("x.apps.kata.test")
    name, apps = front.name("note"), front.sites["apps"]
    busy.channel.send(busy.encode("PUT", f"/notes/{name}", b"0123456789")[:-4])
    half: list[Tls] = []
    for version in (V12, V13):
        channel = front.tls("y.apps.kata.test", f"early bird {len(half)}", version=version)
        channel.hold()
        half.append(channel.until_held())
    front.sites.remove("apps")
    front.reload_until(front.sites.renew("pay"))
    busy.channel.send(b"6789")

    answer = busy.response()
    assert answer.status == 204, f"the request that was under way is owed 204, and came {answer}"
    assert idle.request("GET", f"/notes/{name}").body == b"0123456789", "all of it, asked for on an idle connection"
    assert front.whoami(gone)["site"] == apps.name, "its site is gone for newcomers only"
    for channel in half:
        channel.release()
        has_certificate_of(channel.handshake(), apps, "a handshake that had begun")
        told = front.whoami(Https(channel, "y.apps.kata.test"))
        assert told["site"] == apps.name, f"a handshake ends with the site that it began with, and came {told}"


# -- stage 4: faults ------------------------------------------------------------------------------------------------


@behaviour(stage=4, settings=HASTY, source=brief("S6", "HANDSHAKE_MS"))
def test_silent_clients_are_cut(front: Front) -> None:
    """Who has not finished its handshake within HANDSHAKE_MS is cut off, wherever it stopped; who has is not."""
    done = front.serves_in_time("served")
    silent = front.plain("silent")
    half = front.tls(who="half a hello", held=True)
    half.release_bytes(50)
    stuck = front.tls(who="stuck before the Finished", version=V12)
    stuck.hold()
    owed = f"the end: HANDSHAKE_MS is {HANDSHAKE}"
    silent.until_ended(owed)
    half.until_closed()
    stuck.until_closed()
    assert not half.established, "this handshake could not be finished"
    front.whoami(done)


@behaviour(
    stage=4, points=4, hidden=True, settings=HASTY, source=brief("S6", "HANDSHAKE_MS"), needs="silent_clients_are_cut"
)
@hints(
    "From when on does your time run?",
    "A byte now and then is progress for a timer that each arrival sets anew.",
    "One timer from the beginning of the connection, cancelled when the handshake is done, and never set again.",
)
def test_dripping_clients_are_cut(front: Front) -> None:
    """HANDSHAKE_MS is for the whole handshake: a byte now and then does not prolong it."""
    for _ in range(TRIES):
        if longest_pause_until_cut(front) < HANDSHAKE:  # else it may have been a pause that was too long
            break
    front.serves_in_time()


def longest_pause_until_cut(front: Front) -> float:
    """Send a byte now and then until the connection ends; the longest time without one, in ms. Raises Broken."""
    drip, pauses = front.tls(who="dripping client", held=True), []
    for _ in range(20):  # the brief gives 300 ms more, for servers that look at all deadlines now and then
        before = waiting.now()
        drip.release_bytes(1)
        front.solution.settled()
        if not drip.connection.ended:
            waiting.elapse(front.solution, HANDSHAKE / 4)
        pauses.append((waiting.now() - before) * 1000)
        if drip.connection.ended:
            return max(pauses)
    raise Broken(f"after {HANDSHAKE} ms the end is owed, and it goes on after {5 * HANDSHAKE} ms")


@behaviour(stage=4, points=4, source=rfc(9112, "9.8", "TLS Connection Closure"))
def test_truncated_requests_do_nothing(front: Front) -> None:
    """A request that is cut off (by FIN, by RST, inside of a record, by close_notify) is not executed."""
    text = b"0123456789" * 50
    for cut in ("FIN", "RST", "inside of a record", "close_notify"):
        https, name = front.https(who="cut off"), front.name("note")
        whole = https.encode("PUT", f"/notes/{name}", text)
        if cut == "inside of a record":
            https.channel.send_raw(https.channel.encrypted(whole)[:-20], "a record without its last 20 bytes")
        else:
            https.channel.send(whole[:-20])
        front.solution.settled()
        if cut == "RST":
            https.channel.hang_up()
        elif cut == "close_notify":
            https.channel.send_notify()
        else:
            https.channel.half_close()
        front.solution.settled()
        assert not any(answer.status < 400 for answer in https.responses), f"{cut}: came {https.responses[0]}"
        front.nothing_was_kept(name, f"a request cut off by {cut}")
    name = front.name("note")
    front.note(front.https(), name, text)
    assert front.https().request("GET", f"/notes/{name}").body == text, "the whole one is executed"


@behaviour(stage=4, points=4, hidden=True, source=rfc(8446, "5.2", "Record Payload Protection"))
def test_forged_records_end_it(front: Front) -> None:
    """A record with a flipped bit ends the connection, and nothing of it is executed; nobody else is harmed."""
    other = front.serves()
    for version in (V12, V13):
        https, name = front.https(who="tampered", version=version), front.name("note")
        data = bytearray(https.channel.encrypted(https.encode("PUT", f"/notes/{name}", b"x" * 64)))
        assert data[0] == APPLICATION_DATA
        data[HEADER + 20] ^= 0x10
        https.channel.send_raw(bytes(data), "a record with a flipped bit")
        https.channel.until_ended("the alert bad_record_mac")
        assert https.channel.alert in ("bad_record_mac", ""), f"bad_record_mac is owed; {https.channel.ending}"
        assert not https.channel.close_notify, "this is an error, and no orderly end"
        https.channel.until_closed()
        assert not https.responses, f"nothing may be answered, and came {https.responses}"
        front.nothing_was_kept(name, "a forged request")
    front.whoami(other)


@behaviour(stage=4, points=4, source=rfc(8446, "6.2", "Error Alerts"))
def test_garbage_is_survived(front: Front) -> None:
    """What is no TLS, such as plain HTTP, ends its own connection without an effect, at any stage, and no other."""
    other, name = front.serves(), front.name("note")
    request = f"PUT /notes/{name} HTTP/1.1\r\nHost: www.kata.test\r\nContent-Length: 2\r\n\r\nhi"
    plain = front.plain("plain client").send(request.encode(), "a PUT in clear").until_ended("a 400 or the end")
    answer = bytes(plain.received)
    assert answer[:1] in (b"", b"\x15") or re.match(rb"HTTP/1\.[01] 400 ", answer), (
        f"a 400, an alert or the end is owed to plain HTTP, and came {answer[:80]!r}"
    )
    front.nothing_was_kept(name, "a request in clear")
    hello = front.hello(server_name=b"www.kata.test")
    garbage = [
        (b"\x7f" + front.chance.randbytes(199), "random bytes"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "another protocol"),
        (Record(21, TLS12, b"\x02\x28").encode(), "an alert"),
        (Record(23, TLS12, bytes(40)).encode(), "application data"),
        (handshake_records(bytes(80)), "another handshake message"),
        (handshake_records(b"\x01" + (60).to_bytes(3) + front.chance.randbytes(60)), "a hello of random bytes"),
        (hello + Record(23, TLS12, bytes(40)).encode(), "application data behind the hello"),
        (hello + hello, "two hellos"),
    ]
    for data, why in garbage:
        stranger = front.plain().send(data, why)
        stranger.until_ended(f"the end after {why}")
    front.plain().send(hello[:60], "a part of a hello").connection.half_close()
    https = front.serves()
    https.channel.send_raw(b"\x7f" + front.chance.randbytes(80), "random bytes after the handshake")
    https.channel.until_closed()
    front.whoami(other)
    front.serves()


@behaviour(stage=4, points=4, source=brief("S7", "reload"), alone=True, needs="reload_serves_the_new")
@hints(
    "What is in place when the second of three files turns out to be broken?",
    "Whatever is changed while it loads is half changed when loading fails.",
    "Load everything into a new list; only when all of it is good, put it in place.",
)
def test_broken_reload_keeps_the_old(front: Front) -> None:
    """If anything of the new files is unusable all of the old ones stay; once they are mended SIGHUP takes them."""
    old, pay = front.sites["www"], front.sites["pay"]
    renewed = front.sites.renew("www")
    front.serves()
    broken = [
        ("pay.pem", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n", "no certificate"),
        ("pay.key", old.credential.key, "the key of another certificate"),
        ("staff.pem", "nothing", "a CA that is none"),
        ("sites.json", "[{", "a list that is cut off"),
        ("pay.pem", None, "a file that is missing"),
    ]
    for name, text, why in broken:
        path = front.sites.folder / name
        good = path.read_text(encoding="utf-8")
        path.unlink()
        if text is not None:
            front.sites.write(name, text)
        front.reload()
        front.sites.write(name, good)
        channel = front.tls(who="another").handshake()
        has_certificate_of(channel, old, f"{why}, so all stays as it was, the sites before it too")
    has_certificate_of(front.serves("pay.apps.kata.test").channel, pay, "after all this")
    front.whoami(front.https("admin.kata.test", client=front.alice))
    front.reload_until(renewed)


@behaviour(
    stage=4,
    points=4,
    hidden=True,
    source=brief("S7", "reload"),
    alone=True,
    needs=("sessions_resume", "reload_serves_the_new"),
)
@hints(
    "Which of your files decide who is let in?",
    "A ticket that was given before the reload still says who its client was.",
    "Make new contexts for everything: they have new keys for tickets, and trust the new CA alone.",
)
def test_reload_replaces_the_ca(front: Front) -> None:
    """When the CA of a site's clients was replaced, its clients are refused, with a certificate or a ticket."""
    sessions = {}
    for version in (V12, V13):
        https = front.https("admin.kata.test", client=front.alice, version=version)
        front.whoami(https)
        sessions[version] = https.channel.session
    front.sites.write("staff.pem", front.sites.authorities.machines.root)
    front.reload_until(front.sites.renew("www"))
    for version, session in sessions.items():
        for ticket in (None, session):
            why = "a ticket of the old CA's client" if ticket else "a client of the old CA"
            channel = front.tls("admin.kata.test", "alice", front.alice, version, session=ticket)
            front.refuses(channel, "admin.kata.test", why)
    front.whoami(front.https("admin.kata.test", client=front.robot))


@behaviour(stage=4, points=4, hidden=True, source=brief("S8", "who has gone"))
def test_vanished_clients_are_forgotten(front: Front) -> None:
    """Clients that vanish, at whatever moment, leave no socket behind."""
    front.serves().channel.hang_up()
    front.solution.settled()
    before = front.solution.sockets()
    for number in range(8):
        channel = front.tls(who=f"vanishing {number}", held=True)
        if number % 4:
            channel.release_bytes(60 if number % 4 == 1 else 9999)
        if number % 4 == 3:
            channel.release()
            Https(channel.handshake(), "www.kata.test").send("GET", f"/bytes/{8 * MIB}")
        front.solution.turn()
        if number % 2:
            channel.hang_up()
        else:
            channel.connection.close()
    front.solution.settled()
    front.solution.until(lambda: front.solution.sockets() <= before, f"{before} sockets, as before", "the kernel")
    front.serves()


@behaviour(stage=4, points=4, source=brief("S9", "SIGTERM"), settings=PATIENT, alone=True)
@hints(
    "Who is still owed something when the signal comes?",
    "A request that has begun is owed its answer, an idle client close_notify, and newcomers nothing.",
    "Close the listener, close idle connections properly, let the others answer once more, and then exit.",
)
def test_stops_gracefully(front: Front) -> None:
    """On SIGTERM requests that have begun are answered, idle connections get close_notify, and the server exits."""
    idle, busy, name = front.serves(), front.serves("pay.apps.kata.test"), front.name("note")
    large = front.serves(who="large")
    large.channel.connection.stop_reading()
    large.send("GET", f"/bytes/{8 * MIB}")
    busy.channel.send(busy.encode("PUT", f"/notes/{name}", b"0123456789")[:-4])
    front.solution.settled()
    front.solution.signal(signal.SIGTERM)
    idle.channel.until_ended("close_notify at the stop")
    assert idle.channel.close_notify, f"close_notify is owed to an idle client; {idle.channel.ending}"
    idle.channel.connection.close()  # as clients do: a server may wait for it
    front.solution.settled()  # the listener may be closed last
    late = (
        front.plain("late client")
        .send(front.hello(), "ClientHello")
        .until_answered("nothing: it has been told to stop")
    )
    assert not late.sight.messages, f"nobody is accepted after SIGTERM, and came {_told(late)}"
    busy.channel.send(b"6789")
    answer = busy.response()
    assert answer.status == 204, f"the request that had begun is owed 204, and came {answer}"
    large.channel.connection.read_again()
    answer = large.response()
    assert len(answer.body) == 8 * MIB, f"the answer under way is owed whole, and came {len(answer.body)} bytes"
    for https in (busy, large):
        https.channel.until_ended("close_notify at the stop")
        assert https.channel.close_notify, f"close_notify is owed after the last answer; {https.channel.ending}"
        https.channel.connection.close()
    status = front.solution.until_exit("to exit after the last answer")
    assert status in STOPPED, f"status 0, or the end by SIGTERM, is owed; and came {status}"


@behaviour(stage=4, points=4, hidden=True, source=brief("S9", "SHUTDOWN_MS"), settings=IMPATIENT, alone=True)
def test_stops_despite_the_stuck(front: Front) -> None:
    """Clients that are stuck, in the handshake, in a request or by not reading, don't keep the server alive."""
    front.serves().channel.hang_up()
    half = front.tls(who="half a hello", held=True)
    half.release_bytes(50)
    stuck = front.tls(who="stuck before the Finished", version=V12)
    stuck.hold()
    sleepy = front.https(who="not reading")
    sleepy.channel.connection.stop_reading()
    sleepy.send("GET", f"/bytes/{48 * MIB}")
    writing = front.https(who="half a request")
    writing.channel.send(b"PUT /notes/x HTTP/1.1\r\nHost: www.kata.test\r\n")
    front.solution.settled()
    front.solution.signal(signal.SIGTERM)
    status = front.solution.until_exit("to exit, SHUTDOWN_MS after SIGTERM at the latest")
    assert status in STOPPED, f"status 0, or the end by SIGTERM, is owed; and came {status}"


# -- stage 5: scale -------------------------------------------------------------------------------------------------

CROWD = 100


@behaviour(stage=5, hidden=True, source=brief("S6", "half-open handshakes"))
def test_many_half_open(front: Front) -> None:
    """A hundred half-open handshakes cost at most 256 KiB each, and hold nobody up."""
    front.serves()
    front.solution.settled()
    before = front.solution.memory_bytes()
    hello = front.hello(server_name=b"www.kata.test")
    for number in range(CROWD):
        front.plain(f"half open {number}").send(hello[: (60, None)[number % 2]], "a hello, or half of it")
    last = front.tls(who="the last of them", held=True)
    last.release_bytes(60)
    front.solution.settled()
    front.serves()
    grown = front.solution.memory_bytes() - before
    assert grown < CROWD * 256 * KIB, f"{CROWD} half-open handshakes cost {grown >> 20} MiB"
    last.release()
    front.whoami(Https(last.handshake(), "www.kata.test"))


@behaviour(stage=5, hidden=True, source=brief("S6", "who does not read"))
@hints(
    "Where does an answer of 64 MiB lie while nobody reads it?",
    "Writing never waits here: the transport takes everything, and keeps it.",
    "When the transport says pause_writing stop asking for pieces; go on at resume_writing.",
)
def test_unread_answers_take_no_memory(front: Front) -> None:
    """An answer of 64 MiB that its client does not read is not kept in memory."""
    front.https().request("GET", f"/bytes/{4 * MIB}")
    before = front.solution.memory_bytes()
    sleepy = front.https(who="not reading")
    sleepy.channel.connection.stop_reading()
    sleepy.send("GET", f"/bytes/{64 * MIB}")
    front.solution.settled()
    grown = front.solution.memory_bytes() - before
    assert grown < 24 * MIB, f"the server has grown by {grown >> 20} MiB for an answer that nobody reads"
    front.serves()
