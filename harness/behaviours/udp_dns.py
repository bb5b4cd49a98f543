"""What an authoritative name server owes its clients: the behaviours of the kata `udp_dns`.

The harness is every client. UDP promises no delivery, but on one machine nothing is lost unless a queue is full, and
the kernel counts what it drops; so an answer that a server at rest has not sent is owed, and no silence is a guess.
"""

from __future__ import annotations

import itertools
import random
import struct

import pytest

from harness.behaviour import Source, behaviour, hints, incident, rfc
from harness.peers.dns_client import (
    HEADER,
    QR,
    RA,
    RD,
    Answer,
    Asker,
    DnsClient,
    DnsStream,
    Query,
    framed,
    labels_of,
    listed,
    opt_record,
    same,
    wire_name,
)
from harness.peers.zone_file import TTL, ZoneFile, ZoneRecord, as_owned_by
from harness.solution.program import Solution

MIB = 1 << 20
SMALLEST, EVERYWHERE = 512, 1232  # bytes: what fits into any datagram, and what fits nearly everywhere
OPCODES = {"STATUS": 2, "unassigned": 7}
CHAOS = 3
UNKNOWN_TYPE = 65280
GUESTS, MANY_NAMES = 100, 20_000  # names with an address each
LARGEST_RATIO = 10  # of a look-up in a large zone to a refusal, in CPU time
SHORT_LIFE = 30  # seconds: the TTL of the SOA record in the large zone, below any MINIMUM
UNREAD_BOUND = 16 * MIB
LONGEST_WORK = 1.0  # seconds of CPU time, for one message


def brief(rule: str, words: str) -> Source:
    """A rule that stands in the kata's own brief."""
    return Source(f"README {rule}, {words}")


class Zone(ZoneFile):
    """One zone with everything in it that the behaviours ask for."""

    def fill(self) -> None:
        serial, minimum = self.chance.randrange(1, 1 << 31), self.chance.randrange(60, 900)
        numbers = f"{serial} 7200 900 1209600 {minimum}"
        life = SHORT_LIFE if self.filling else TTL
        self.add("", "SOA", f"{self.name('ns')} {self.name('hostmaster')} {numbers}", ttl=life)
        self.add("", "NS", self.name("ns"), self.name("mail"), ttl=7200)
        self.add("", "MX", f"10 {self.name('mail')}", f"20 {self.name('ns')}", ttl=1800)
        self.add("ns", "A", self.ipv4())
        self.add("mail", "A", self.ipv4())
        self.add("mail", "AAAA", self.ipv6(), ttl=600)
        self.add("www", "A", "198.51.100.1", self.ipv4(), "203.0.113.77", ttl=self.chance.randrange(30, 300))
        self.add("text", "TXT", f'"{self.text(30)}" "{self.text(12)}"', f'"{self.text(255)}"')
        self._fill_aliases()
        self._fill_tree()
        self.add("large", "TXT", *(f'"{self.text(125)}"' for _ in range(6)))
        self.add("giant", "TXT", *(f'"{self.text(250)}"' for _ in range(60)))
        for number in range(GUESTS):
            self.add(f"guest{number}", "A", f"10.0.0.{number}")
        self.records += [
            ZoneRecord(f"host-{number}.{self.origin}", 60, "A", f"10.1.{number >> 8}.{number & 255}")
            for number in range(self.filling)
        ]

    def _fill_aliases(self) -> None:
        links = ["link1", "link2", "link3", "link4", "www"]
        for here, there in itertools.pairwise(links):
            self.add(here, "CNAME", self.name(there), ttl=self.chance.randrange(30, 300))
        self.add("alias", "CNAME", self.name("www"))
        self.add("away", "CNAME", "somewhere.else.invalid.")
        self.add("dangling", "CNAME", self.name("missing"))
        self.add("typeless", "CNAME", self.name("text"))
        self.add("ring1", "CNAME", self.name("ring2"))
        self.add("ring2", "CNAME", self.name("ring1"))

    def _fill_tree(self) -> None:
        self.add("leaf.between", "A", self.ipv4())
        self.add("*.wild", "A", self.ipv4())
        self.add("*.wild", "TXT", f'"{self.text(20)}"')
        self.add("known.wild", "TXT", f'"{self.text(20)}"')
        self.add("leaf.inner.wild", "A", self.ipv4())
        self.add("*.pointing", "CNAME", self.name("www"))
        self.add("child", "NS", self.name("ns.child"), "ns.elsewhere.invalid.", ttl=1200)
        self.add("ns.child", "A", self.ipv4(), ttl=1200)
        self.add("ns.child", "AAAA", self.ipv6(), ttl=1200)

    def alias(self, path: str) -> list[ZoneRecord]:
        return self.rrset(path, "CNAME")


PEERS = [Zone]


class NameServer:
    """The solution in the words of this kata: clients of it, and the zone that it serves."""

    def __init__(self, solution: Solution, chance: random.Random) -> None:
        self.solution, self.chance = solution, chance
        self.zone = solution.peer(Zone)

    def client(self, name: str = "alice") -> DnsClient:
        return DnsClient(self.solution, name, self.chance)

    def stream(self, name: str = "tcp-client", slow_reader: bool = False) -> DnsStream:
        return DnsStream(self.solution, name, self.chance, slow_reader)

    def word(self) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))

    def below(self, path: str) -> str:
        """A name that nobody has asked for yet, one label below that of `path`."""
        return f"{self.word()}.{self.zone.name(path)}"

    def assert_answered(self, guest: int, query: Query, answer: Answer) -> None:
        """This is the answer to this question, for the address of one of many names."""
        assert answer.question == query.question, f"{query} was asked, and another question was answered"
        assert_answer(answer, self.zone.rrset(f"guest{guest}", "A"))

    def still_answers(self, asker: Asker | None = None, why: str = "others are still served") -> None:
        """The permitted twin of whatever was refused: an ordinary question gets its answer."""
        answer = (asker or self.client("bystander")).resolve(self.zone.name("www"))
        assert same(answer.answer) == same(self.zone.rrset("www", "A")), f"{why}: owed is the address of www"

    def unhindered_by(self, client: DnsClient, data: bytes, what: str) -> None:
        """Send a message, and see that somebody else is answered before it has cost the server a second."""
        bystander, worked = self.client("bystander"), self.solution.effort()
        client.send(data)
        query = bystander.ask(self.zone.name("www"))
        self.solution.until(
            lambda: bystander.arrived or self.solution.effort() > worked + LONGEST_WORK,
            f"an answer after {what}",
            "bystander",
        )
        assert bystander.arrived, (
            f"{what} keeps the server busy for {LONGEST_WORK} s of CPU time, and nobody is answered"
        )
        assert same(bystander.answer_to(query).answer) == same(self.zone.rrset("www", "A")), (
            f"others are still served after {what}: owed is the address of www"
        )


@pytest.fixture
def server(solution: Solution, chance: random.Random) -> NameServer:
    return NameServer(solution, chance)


def assert_answer(answer: Answer, records: list[ZoneRecord]) -> None:
    """These records and no others answer, with authority."""
    assert answer.rcode == "NOERROR", f"NOERROR is owed, and came {answer.rcode}"
    owed, got = same(records), same(answer.answer)
    assert got == owed, f"owed is {listed(records)}; came {listed(answer.answer)}"
    assert answer.authoritative, "AA must be set: this server is the authority for the name"
    assert not answer.truncated, "TC must not be set: this answer fits"


def assert_negative(zone: Zone, answer: Answer, rcode: str, after: list[ZoneRecord] | None = None) -> None:
    """No data, said with authority and with the SOA record; `after` are the aliases that led there."""
    assert answer.rcode == rcode, f"{rcode} is owed, and came {answer.rcode}"
    assert same(answer.answer) == same(after or []), f"the answer section owes {listed(after or [])}: {answer}"
    assert answer.authoritative, "AA must be set: only the authority may deny"
    owed = [(zone.origin, zone.soa.rdata)]
    got = [(record.owner.lower(), record.rdata) for record in answer.authority if record.kind == "SOA"]
    assert got == owed, f"the authority section owes the SOA record, once; came {listed(answer.authority)}"


def assert_referral(zone: Zone, answer: Answer) -> None:
    """Others are asked below the cut: their names, their addresses, and no claim to authority."""
    assert answer.rcode == "NOERROR", f"a referral is NOERROR, and came {answer.rcode}"
    assert not answer.answer, f"a referral answers nothing, and came {listed(answer.answer)}"
    assert not answer.authoritative, "AA must be clear: below the cut another server is the authority"
    servers, glue = zone.rrset("child", "NS"), zone.rrset("ns.child", "A", "AAAA")
    assert same(answer.authority) == same(servers), f"the authority section owes {listed(servers)}"
    missing = [record for record in glue if same([record])[0] not in same(answer.additional)]
    assert not missing, f"the additional section owes the glue {listed(missing)}: nobody else can tell it"


# -- stage 1: basics ------------------------------------------------------------------------------------------------


@behaviour(stage=1, points=1, source=rfc(1035, "4.1", "Format"))
@hints(
    "Start with twelve bytes of header, and the question as it came.",
    "Find the name in the zone, and write one record for each address: name, type, class, TTL, length, data.",
    "In `written`: copy query.question, call `section` for answer, authority and additional, pack the header last.",
)
def test_answers_with_the_whole_rrset(server: NameServer) -> None:
    """A question for a name and type is answered with all records of that type, their TTL, and AA set."""
    answer = server.client().resolve(server.zone.name("www"))

    assert_answer(answer, server.zone.rrset("www", "A"))


@behaviour(stage=1, source=rfc(1035, "4.1.1", "Header section format"), needs="answers_with_the_whole_rrset")
def test_header_fits_the_query(server: NameServer) -> None:
    """The answer has the query's id, opcode, RD bit and question, and neither RA nor a reserved bit is set."""
    client, name = server.client(), server.zone.name("www")
    for id_, flags in [(0, 0), (0xFFFF, RD), (server.chance.randrange(1, 0xFFFF), RD), (0x00FF, 0)]:
        query = client.ask(name, id=id_, flags=flags)
        answer = client.answer_to(query)

        assert answer.opcode == 0, "the opcode is copied from the query"
        assert answer.flags & RD == flags, "RD is copied from the query"
        assert not answer.flags & RA, "RA must be clear: an authoritative server does no recursion"
        assert not answer.flags & 0x0040, "the reserved bit Z must be zero"
        assert answer.question == query.question, "the question section is owed as it was asked"
        assert_answer(answer, server.zone.rrset("www", "A"))


@behaviour(stage=1, source=rfc(1035, "3.3", "Standard RRs"), needs="answers_with_the_whole_rrset")
def test_every_type(server: NameServer) -> None:
    """SOA, NS, MX, TXT, A and AAAA are answered with exactly the data of the zone file."""
    client = server.client()
    for path, kind in [("", "SOA"), ("", "NS"), ("", "MX"), ("text", "TXT"), ("mail", "A"), ("mail", "AAAA")]:
        assert_answer(client.resolve(server.zone.name(path), kind), server.zone.rrset(path, kind))


@behaviour(stage=1, source=rfc(2308, "2.1", "Name Error"), needs="answers_with_the_whole_rrset")
def test_nxdomain(server: NameServer) -> None:
    """A name that does not exist gets NXDOMAIN, AA, and the SOA record in the authority section."""
    client = server.client()
    for name in (server.below(""), server.below("www"), server.zone.name("missing")):
        assert_negative(server.zone, client.resolve(name), "NXDOMAIN")


@behaviour(stage=1, source=rfc(2308, "2.2", "No Data"), needs="answers_with_the_whole_rrset")
@hints(
    "Is it the name that is missing, or only the type?",
    "A name that exists is never NXDOMAIN, whatever type is asked for.",
    "Leave the RCODE at 0, the answer section empty, and put the SOA record into the authority section.",
)
def test_nodata(server: NameServer) -> None:
    """A name that exists without the type gets NOERROR, no answer, and the SOA record; so does an unknown type."""
    client = server.client()
    kinds: list[tuple[str, str | int]] = [("www", "AAAA"), ("", "A"), ("text", "MX"), ("www", UNKNOWN_TYPE)]
    for path, kind in kinds:
        assert_negative(server.zone, client.resolve(server.zone.name(path), kind), "NOERROR")


@behaviour(stage=1, source=rfc(1034, "3.6.2", "Aliases and canonical names"), needs="answers_with_the_whole_rrset")
def test_alias_is_followed(server: NameServer) -> None:
    """A CNAME comes with the records that it leads to; asked for by its own type it comes alone."""
    zone, client = server.zone, server.client()

    assert_answer(client.resolve(zone.name("alias")), zone.alias("alias") + zone.rrset("www", "A"))
    for path in ("alias", "link1"):
        assert_answer(client.resolve(zone.name(path), "CNAME"), zone.alias(path))


@behaviour(stage=1, source=rfc(1035, "2.3.3", "Character Case"), needs="answers_with_the_whole_rrset")
@hints(
    "Resolvers mix capitals into a name on purpose, and compare what comes back.",
    "Compare names in lower case, but never change the bytes of the question.",
    "Keep the question section as you received it, and copy it; only the key of your look-up is lower().",
)
def test_case_means_nothing_and_is_kept(server: NameServer) -> None:
    """Names are found whatever their capitals, and the question comes back with the capitals that it was asked with."""
    zone, client = server.zone, server.client()
    for path in ("www", "alias", "leaf.between"):
        name = "".join(server.chance.choice((letter.upper(), letter)) for letter in zone.name(path)).swapcase()
        query = client.ask(name)
        answer = client.answer_to(query)

        assert_answer(answer, zone.alias(path) + zone.rrset("www" if path == "alias" else path, "A"))
        assert answer.question == query.question, "the question is owed byte for byte, capitals and all"


@behaviour(stage=1, source=rfc(1035, "4.2.2", "TCP usage"), needs="answers_with_the_whole_rrset")
def test_tcp_gives_the_same(server: NameServer) -> None:
    """Over TCP each message is preceded by its length, and one connection serves question after question."""
    stream, zone = server.stream(), server.zone

    assert_answer(stream.resolve(zone.name("www")), zone.rrset("www", "A"))
    assert_negative(zone, stream.resolve(zone.name("missing")), "NXDOMAIN")
    assert_answer(stream.resolve(zone.name("giant"), "TXT"), zone.rrset("giant", "TXT"))


@behaviour(stage=1, source=rfc(1034, "4.3.2", "Algorithm"), needs="answers_with_the_whole_rrset")
def test_other_zones_are_refused(server: NameServer) -> None:
    """Names outside of the zone get REFUSED, no records and no AA, also where the text ends like the zone's name."""
    zone, client = server.zone, server.client()
    for name in ("www.example.invalid.", "test.", f"x{zone.origin}", f"www.x{zone.origin}", "."):
        answer = client.resolve(name)
        assert answer.rcode == "REFUSED", f"REFUSED is owed for {name}, and came {answer.rcode}"
        assert not answer.everything(), f"nothing is known of {name}, and came {listed(answer.everything())}"
        assert not answer.authoritative, f"AA must be clear: this server is no authority for {name}"
    server.still_answers(client)


# -- stage 2: edges -------------------------------------------------------------------------------------------------


@behaviour(stage=2, hidden=True, source=rfc(2308, "3", "Negative Answers from Authoritative Servers"), needs="nxdomain")
@hints(
    "How long may a resolver believe that a name does not exist?",
    "Its answer is the TTL of the SOA record in your negative answer.",
    "Send that SOA record with TTL min(its own TTL, the MINIMUM field at the end of its data).",
)
def test_negative_ttl(server: NameServer) -> None:
    """The SOA record of a negative answer has its MINIMUM as TTL where that is smaller; asked for, it has its own."""
    assert_negative_ttl(server, owed=int(server.zone.soa.data.split()[-1]))


@behaviour(
    stage=2,
    hidden=True,
    source=rfc(2308, "3", "Negative Answers from Authoritative Servers"),
    needs="negative_ttl",
    settings={"FILLING": MANY_NAMES},
)
@incident(
    "CoreDNS and dnsjava took MINIMUM alone for the time that a denial may be kept (coredns/coredns#2158, "
    "dnsjava/dnsjava#190)."
)
def test_negative_ttl_below_the_minimum(server: NameServer) -> None:
    """Where the SOA record's own TTL is below its MINIMUM, a negative answer is kept no longer than that."""
    assert_negative_ttl(server, owed=SHORT_LIFE)


def assert_negative_ttl(server: NameServer, owed: int) -> None:
    zone, client = server.zone, server.client()
    for name, kind in [(zone.name("missing"), "A"), (zone.name("www"), "AAAA")]:
        answer = client.resolve(name, kind)
        ttls = [record.ttl for record in answer.authority if record.kind == "SOA"]
        assert ttls == [owed], f"a negative answer may be kept for {owed} s, and its SOA record says {ttls}"
    assert_answer(client.resolve(zone.origin, "SOA"), [zone.soa])


@behaviour(stage=2, source=rfc(2308, "1", "Terminology"), needs="alias_is_followed")
def test_chain_of_aliases_in_order(server: NameServer) -> None:
    """A chain of aliases comes complete, first link first, and then what it leads to."""
    zone = server.zone
    links = [record for path in ("link1", "link2", "link3", "link4") for record in zone.alias(path)]

    answer = server.client().resolve(zone.name("link1"))

    assert_answer(answer, links + zone.rrset("www", "A"))
    order = [record.owner.lower() for record in answer.answer if record.kind == "CNAME"]
    assert order == [record.owner for record in links], "simple clients read the links once, from first to last"


@behaviour(stage=2, hidden=True, source=rfc(2308, "2.1", "Name Error"), needs=("alias_is_followed", "nxdomain"))
@hints(
    "Where does the chain end, and what is true of that place?",
    "The RCODE is about the last name: NXDOMAIN if it does not exist here, NOERROR if it lies in another zone.",
    "Loop: append the CNAME, look the target up; stop outside of the zone, and at a name that you have seen already.",
)
def test_where_an_alias_ends(server: NameServer) -> None:
    """An alias out of the zone, to nothing, to a name without the type, or into a ring gets what holds of its end."""
    zone, client = server.zone, server.client()

    assert_answer(client.resolve(zone.name("away")), zone.alias("away"))
    assert_negative(zone, client.resolve(zone.name("dangling")), "NXDOMAIN", zone.alias("dangling"))
    assert_negative(zone, client.resolve(zone.name("typeless")), "NOERROR", zone.alias("typeless"))
    ring = zone.alias("ring1") + zone.alias("ring2")
    answer = client.resolve(zone.name("ring1"))
    strange = [record for record in answer.everything() if record.kind == "CNAME" and record not in ring]
    assert not strange, f"a ring leads nowhere else than round: {listed(strange)}"
    server.still_answers(client, "a ring of aliases is no reason to stop")


@behaviour(stage=2, hidden=True, source=rfc(4592, "2.2.2", "Empty Non-terminals"), needs=("nodata", "nxdomain"))
@hints(
    "Does a name exist that has no records, but has names below it?",
    "It does: whoever is told NXDOMAIN may conclude that nothing is below it either (RFC 8020).",
    "When you load the zone, enter every name between a record's owner and the origin, with no records.",
)
@incident(
    "Mess with DNS said NXDOMAIN for such names (jvns/mess-with-dns#8); since RFC 8020 a resolver may conclude that "
    "everything below is missing, too."
)
def test_empty_non_terminal_exists(server: NameServer) -> None:
    """A name without records that has names below it exists: NOERROR without data, and not NXDOMAIN."""
    zone, client = server.zone, server.client()

    assert_answer(client.resolve(zone.name("leaf.between")), zone.rrset("leaf.between", "A"))
    assert_negative(zone, client.resolve(zone.name("between")), "NOERROR")
    assert_negative(zone, client.resolve(server.below("between")), "NXDOMAIN")


@behaviour(stage=2, source=rfc(1034, "4.3.3", "Wildcards"), needs=("nodata", "alias_is_followed"))
@hints(
    "Which name owns a record that nobody wrote down?",
    "If a name is missing, look for `*` below the closest ancestor that exists; its records answer for the name.",
    "In `find`: at the first label that is missing return the node of (b'*', *parent); `answer` keeps the asked name.",
)
def test_wildcard(server: NameServer) -> None:
    """A wildcard answers for names below it with the name that was asked for, at any depth, and also with an alias."""
    zone, client = server.zone, server.client()
    for name in (server.below("wild"), f"{server.word()}.{server.below('wild')}", zone.name("*.wild")):
        assert_answer(client.resolve(name), as_owned_by(name, zone.rrset("*.wild", "A")))
    assert_negative(zone, client.resolve(server.below("wild"), "MX"), "NOERROR")
    name = server.below("pointing")
    assert_answer(client.resolve(name), as_owned_by(name, zone.alias("*.pointing")) + zone.rrset("www", "A"))


@behaviour(stage=2, hidden=True, source=rfc(4592, "2.2.1", "An Example"), needs=("wildcard", "nxdomain"))
@hints(
    "A wildcard speaks for names that do not exist, and only for those.",
    "Find the closest name above that exists; only the `*` directly below that one counts.",
    "Walk down from the origin; at the first label that is missing look for `*` there, and nowhere higher.",
)
@incident("CoreDNS answered below an empty non-terminal with the wildcard above it (coredns/coredns#8223).")
def test_wildcard_yields_to_what_exists(server: NameServer) -> None:
    """A wildcard does not answer for a name that exists, for anything below such a name, or for its own parent."""
    zone, client = server.zone, server.client()
    name = server.below("wild")
    assert_answer(client.resolve(name, "TXT"), as_owned_by(name, zone.rrset("*.wild", "TXT")))

    for path in ("known.wild", "inner.wild"):
        assert_negative(zone, client.resolve(zone.name(path)), "NOERROR")
        assert_negative(zone, client.resolve(server.below(path)), "NXDOMAIN")
    assert_negative(zone, client.resolve(zone.name("wild")), "NOERROR")


@behaviour(stage=2, source=rfc(1034, "4.3.2", "Algorithm"), needs="answers_with_the_whole_rrset")
@hints(
    "Who is the authority below `child`, and how does a resolver get there?",
    "NS records below the origin end the search: they go to the authority section, and AA stays clear.",
    "For each of these servers put all its A and AAAA records of the file into the additional section.",
)
def test_delegation(server: NameServer) -> None:
    """Names below a zone cut get a referral: no answer, no AA, the NS records as authority, and their glue."""
    zone, client = server.zone, server.client()
    for name in (server.below("child"), zone.name("child"), f"a.b.{zone.name('child')}"):
        assert_referral(zone, client.resolve(name))
    server.still_answers(client)


@behaviour(stage=2, hidden=True, source=rfc(2181, "6.1", "Zone authority"), needs="delegation")
@hints(
    "The records of the cut stand in your file, but they are not yours.",
    "NS records at a cut and addresses below it are only ever part of a referral.",
    "Look for a cut on the way down, before the name itself: the first NS below the origin ends the search.",
)
def test_cut_hides_what_is_below(server: NameServer) -> None:
    """Also the cut's own NS records and the glue, when they are asked for, get the referral and no answer."""
    zone, client = server.zone, server.client()
    for path, kind in [("ns.child", "A"), ("ns.child", "AAAA"), ("ns.child", "TXT"), ("child", "NS"), ("child", "MX")]:
        assert_referral(zone, client.resolve(zone.name(path), kind))
    server.still_answers(client)


@behaviour(stage=2, source=rfc(2181, "9", "The TC (truncated) header bit"), needs="tcp_gives_the_same")
@hints(
    "Whoever does not say more takes 512 bytes.",
    "Build the whole message; if it is too long, send a short one with TC set, so that the client comes by TCP.",
    "In `written`: if len(data) > limit, write it again without any records and set TC.",
)
def test_truncation(server: NameServer) -> None:
    """Without EDNS a datagram has at most 512 bytes; what does not fit has TC set, and comes whole over TCP."""
    zone, client = server.zone, server.client()
    for path in ("large", "giant"):
        answer = client.resolve(zone.name(path), "TXT")
        assert len(answer.data) <= SMALLEST, f"at most 512 bytes may be sent, and came {len(answer.data)}"
        assert answer.truncated, "TC must be set: records were left out"
        strange = [record for record in same(answer.answer) if record not in same(zone.rrset(path, "TXT"))]
        assert not strange, "what a truncated answer does hold are whole records of the zone"
        assert_answer(server.stream().resolve(zone.name(path), "TXT"), zone.rrset(path, "TXT"))
    assert_answer(client.resolve(zone.name("text"), "TXT"), zone.rrset("text", "TXT"))


@behaviour(stage=2, source=rfc(6891, "6.2.3", "Requestor's Payload Size"), needs="truncation")
@hints(
    "The client's OPT record says how much it takes; its class field is the number.",
    "Anything below 512 means 512; and what fits into 1232 bytes has to be sent whole if the client takes that much.",
    "limit = min(max(size, 512), 1232) over UDP, and 65535 over TCP whatever the OPT record says.",
)
def test_edns_size_is_the_limit(server: NameServer) -> None:
    """A datagram is never larger than the OPT record allows; sizes below 512 count as 512; what fits is sent whole."""
    zone, client = server.zone, server.client()
    for size in (0, 200, SMALLEST, 600, 700, EVERYWHERE, 4096):
        answer = client.resolve(zone.name("large"), "TXT", edns=size)
        most = max(size, SMALLEST)
        assert len(answer.data) <= most, f"at most {most} bytes may be sent, and came {len(answer.data)}"
        if size >= EVERYWHERE:
            assert_answer(answer, zone.rrset("large", "TXT"))
        else:
            assert answer.truncated, f"TC must be set: the answer does not fit into {most} bytes"
        assert_answer(client.resolve(zone.name("text"), "TXT", edns=size), zone.rrset("text", "TXT"))
    answer = client.resolve(zone.name("giant"), "TXT", edns=4096)
    assert answer.truncated, "TC must be set: the answer does not fit into 4096 bytes"
    assert len(answer.data) <= 4096, f"at most 4096 bytes may be sent, and came {len(answer.data)}"
    answer = server.stream().resolve(zone.name("giant"), "TXT", edns=SMALLEST)
    assert_answer(answer, zone.rrset("giant", "TXT"))


@behaviour(stage=2, hidden=True, source=rfc(6891, "6.1.1", "Basic Elements"), needs="edns_size_is_the_limit")
def test_opt_is_answered_by_opt(server: NameServer) -> None:
    """An OPT record is owed to who sent one, in denials too, and to nobody else; unknown options are ignored."""
    zone, client = server.zone, server.client()
    unknown = struct.pack(">HH", 65001, 5) + b"hello" + struct.pack(">HH", 65002, 0)
    for name, kind, options in [("www", "A", b""), ("www", "A", unknown), ("missing", "A", b""), ("child", "A", b"")]:
        answer = client.resolve(zone.name(name), kind, edns=EVERYWHERE, options=options)
        assert answer.edns == 0, f"an OPT record of version 0 is owed to a query that has one: {answer}"
        if name == "www":
            assert_answer(answer, zone.rrset("www", "A"))
        plain = client.resolve(zone.name(name), kind)
        assert plain.edns is None, "a client that sent no OPT record may not understand one"


@behaviour(stage=2, hidden=True, source=rfc(6891, "6.1.3", "OPT Record TTL Field Use"), needs="edns_size_is_the_limit")
@hints(
    "Which version of EDNS do you speak?",
    "To any other say BADVERS, which is 16: too large for the four bits of the header.",
    "Its lower four bits (0) go to the header, the upper eight (1) to the first byte of the OPT record's TTL.",
)
def test_unknown_edns_version(server: NameServer) -> None:
    """An OPT record of a version above 0 is answered with BADVERS, version 0, and no data."""
    client = server.client()
    for version in (1, 100, 255):
        answer = client.resolve(server.zone.name("www"), edns=EVERYWHERE, version=version)
        assert answer.rcode == "BADVERS", f"BADVERS is owed for version {version}, and came {answer.rcode}"
        assert answer.edns == 0, f"the OPT record tells the version that is understood, 0, and not {answer.edns}"
        assert not answer.answer, "what the question meant in that version is unknown; no data is owed"
    assert_answer(client.resolve(server.zone.name("www"), edns=EVERYWHERE), server.zone.rrset("www", "A"))


@behaviour(stage=2, hidden=True, source=rfc(2181, "11", "Name syntax"), needs=("empty_non_terminal_exists",))
@hints(
    "A label may hold any byte, also one that looks like a dot.",
    "Two labels `a` and `b` are another name than one label `a.b`.",
    "Don't join labels with dots to get the key of your table: use a tuple of labels, or the bytes of the wire.",
)
def test_label_with_a_dot(server: NameServer) -> None:
    """A label that holds a dot is one label, and names no other name."""
    zone, client = server.zone, server.client()
    first, second, *rest = labels_of(zone.name("leaf.between"))

    assert_negative(zone, client.resolve((first + b"." + second, *rest)), "NXDOMAIN")
    assert_negative(zone, client.resolve((b"\0\xff ", *rest)), "NXDOMAIN")
    assert_answer(client.resolve((first, second, *rest)), zone.rrset("leaf.between", "A"))


@behaviour(
    stage=2,
    hidden=True,
    source=brief("D10", "opcodes, classes and transfers"),
    needs=("header_fits_the_query", "tcp_gives_the_same"),
)
def test_what_is_not_served(server: NameServer) -> None:
    """An opcode other than QUERY gets NOTIMP, other classes and AXFR an error too, and nobody gets a record for it."""
    zone, client = server.zone, server.client()
    for name, opcode in OPCODES.items():
        answer = client.resolve(zone.name("www"), flags=opcode << 11)
        assert answer.rcode == "NOTIMP", f"NOTIMP is owed for opcode {opcode} ({name}), and came {answer.rcode}"
        assert answer.opcode == opcode, f"the opcode is copied from the query: {opcode}, and not {answer.opcode}"
        assert not answer.everything(), "what another opcode means is unknown; no data is owed"
    for what, answer in {
        "class CH": client.resolve(zone.name("www"), class_=CHAOS),
        "AXFR": server.stream().resolve(zone.origin, "AXFR"),
    }.items():
        assert answer.rcode in ("REFUSED", "NOTIMP", "NOTAUTH"), f"{what} is not served, and came {answer.rcode}"
        assert not answer.everything(), f"no record is owed for {what}, and came {listed(answer.everything())}"
    server.still_answers(client)
    server.still_answers(server.stream())


# -- stage 3: concurrency -------------------------------------------------------------------------------------------


@behaviour(
    stage=3, source=rfc(2181, "4", "Server Reply Source Address Selection"), needs="answers_with_the_whole_rrset"
)
def test_many_clients_with_one_id(server: NameServer) -> None:
    """Forty clients that ask at the same moment, all with the same id, each get the answer for their own question."""
    clients = [server.client(f"client-{number}") for number in range(40)]
    id_ = server.chance.randrange(1 << 16)
    with server.solution.frozen():
        queries = [client.ask(server.zone.name(f"guest{guest}"), id=id_) for guest, client in enumerate(clients)]

    for guest, (client, query) in enumerate(zip(clients, queries, strict=True)):
        server.assert_answered(guest, query, client.answer_to(query))
    server.solution.settled()
    surplus = [client.name for client in clients if client.arrived or client.answers]
    assert not surplus, f"one answer is owed for one question, and {len(surplus)} clients got more"


@behaviour(stage=3, source=rfc(1035, "4.2.1", "UDP usage"), needs="answers_with_the_whole_rrset")
def test_many_questions_of_one_client(server: NameServer) -> None:
    """A hundred questions of one socket that wait at the same time all get their answers, each with its own id."""
    client = server.client()
    ids = server.chance.sample(range(1 << 16), GUESTS)
    with server.solution.frozen():
        queries = [client.ask(server.zone.name(f"guest{guest}"), id=id_) for guest, id_ in enumerate(ids)]

    for guest, query in enumerate(queries):
        server.assert_answered(guest, query, client.answer_to(query))
    assert not client.take_all(), "one answer is owed for one question"


@behaviour(stage=3, source=rfc(7766, "6.2.1.1", "Query Pipelining"), needs="tcp_gives_the_same")
@hints(
    "TCP is a stream of bytes, not of messages.",
    "One read may bring half a message, or thirty of them.",
    "Keep what is left over in a buffer, and go on as long as a complete message is in it.",
)
def test_tcp_pipelining(server: NameServer) -> None:
    """Thirty questions in one segment all get their answers, and one that comes byte by byte gets its own."""
    stream, zone = server.stream(), server.zone
    ids = server.chance.sample(range(1 << 16), 30)
    queries = [stream.query(zone.name(f"guest{guest}"), id=id_) for guest, id_ in enumerate(ids)]
    stream.send_raw(b"".join(framed(query.to_wire()) for query in queries), "30 queries in one segment")
    for guest, query in enumerate(queries):
        server.assert_answered(guest, query, stream.answer_to(query))

    query = stream.query(zone.name("www"))
    data = framed(query.to_wire())
    stream.send_in_pieces(data[at : at + 1] for at in range(len(data)))
    assert_answer(stream.answer_to(query), zone.rrset("www", "A"))


@behaviour(stage=3, hidden=True, source=rfc(1035, "4.2.2", "TCP usage"), needs="tcp_pipelining")
@hints(
    "Who waits while one client takes its time?",
    "A TCP client that has sent half a message must not keep anybody else from being served.",
    "One task, thread or buffer for each connection; and never a blocking read in the loop that serves UDP.",
)
def test_slow_writer_blocks_nobody(server: NameServer) -> None:
    """While forty TCP clients are silent or stuck in the middle of a message, UDP and other TCP clients are served."""
    stuck = [server.stream(f"stuck-{number}") for number in range(40)]
    queries = [stream.query(server.zone.name("www")) for stream in stuck]
    sizes = [(0, 1, 15)[number % 3] for number in range(40)]
    for stream, query, size in zip(stuck, queries, sizes, strict=True):
        if size:
            stream.send_raw(framed(query.to_wire())[:size], f"{size} bytes of a query")
    server.solution.settled()

    server.still_answers(why="UDP waits for no TCP client")
    server.still_answers(server.stream("quick"), why="one TCP client does not wait for another")

    for stream, query, size in list(zip(stuck, queries, sizes, strict=True))[-4:]:
        stream.send_raw(framed(query.to_wire())[size:], "the rest")
        assert_answer(stream.answer_to(query), server.zone.rrset("www", "A"))


@behaviour(
    stage=3, points=4, hidden=True, source=rfc(7766, "6.2.1.1", "Query Pipelining"), needs="slow_writer_blocks_nobody"
)
@hints(
    "What does your program do while a socket takes no more bytes?",
    "Writing must never wait in the loop that serves the others.",
    "Let the transport buffer; when it is full stop reading from that client until it has taken its answers.",
)
def test_slow_reader_blocks_nobody(server: NameServer) -> None:
    """While a TCP client does not read its answers, UDP and other TCP clients are served; it may be cut, or wait."""
    slow = server.stream("slow", slow_reader=True)
    server.still_answers(slow)
    slow.connection.stop_reading()
    for _ in range(40):
        slow.ask(server.zone.name("giant"), "TXT")
    server.solution.settled()

    server.still_answers(why="UDP waits for no TCP client")
    server.still_answers(server.stream("quick"), why="one TCP client does not wait for another")

    slow.connection.hang_up()
    server.still_answers(server.stream("next"), why="whoever stopped reading is gone, and forgotten")


# -- stage 4: faults ------------------------------------------------------------------------------------------------


@behaviour(
    stage=4,
    source=Source(
        "README D10; CVE-2024-2169: UDP servers that answer answers, for ever",
        "https://www.kb.cert.org/vuls/id/417980",
    ),
    needs="answers_with_the_whole_rrset",
)
@hints(
    "Two servers that answer each other's answers never stop.",
    "Look at the QR bit before anything else, also before you complain about the rest.",
    "In `respond`: return None if flags & 0x8000, above the checks that send FORMERR or NOTIMP.",
)
@incident(
    "In 2024 some 300,000 hosts were found whose servers answer each other's errors without end, set going by a single "
    "forged datagram: of DNS, NTP, TFTP and others."
)
def test_answers_are_never_answered(server: NameServer) -> None:
    """A message with QR set gets no reply, be it an answer, an error, or broken."""
    client = server.client("mirror")
    name = server.zone.name("www")
    answer = client.resolve(name)
    received = client.endpoint.received

    client.send(answer.data)
    for flags in (QR, QR | 1, QR | 5, QR | 2 << 11):
        client.send(client.query(name, flags=flags).to_wire())
    client.send(HEADER.pack(7, QR, 1, 0, 0, 0))
    client.send(HEADER.pack(8, QR, 0, 0, 0, 0))
    assert not client.take_all(), "an answer must not be answered: the other side may be a server too"
    client.stays_silent("an answer was answered late")

    assert client.endpoint.received == received, "nothing at all is sent to who sends answers"
    server.still_answers()


TRUNCATED_QUESTION = HEADER.pack(0, 0, 1, 0, 0, 0) + b"\x07exam"


def malformed(server: NameServer) -> dict[str, bytes]:
    """Messages with a whole header whose rest can't be understood, by what is wrong with them; ids are added later."""
    question = wire_name(labels_of(server.zone.name("www"))) + struct.pack(">HH", 1, 1)
    one, opt = HEADER.pack(0, 0, 1, 0, 0, 0), opt_record(EVERYWHERE)
    return {
        "a header that promises a question, and none": one,
        "no question at all": HEADER.pack(0, 0, 0, 0, 0, 0),
        "a question that is cut off": TRUNCATED_QUESTION,
        "a question without its class": one + question[:-2],
        "two questions": HEADER.pack(0, 0, 2, 0, 0, 0) + question * 2,
        "two OPT records": HEADER.pack(0, 0, 1, 0, 0, 2) + question + opt * 2,
        "an additional record that is not there": HEADER.pack(0, 0, 1, 0, 0, 1) + question,
        "a name of more than 255 bytes": one + (b"\x3f" + b"x" * 63) * 5 + b"\0" + struct.pack(">HH", 1, 1),
    }


@behaviour(stage=4, source=rfc(1035, "4.1.1", "Header section format"), needs="answers_with_the_whole_rrset")
@hints(
    "Every length in a message is a claim.",
    "Whatever goes wrong while you parse has to end in one place, and that place sends FORMERR.",
    "Catch your own error and that of reading beyond the end around the parser; pack a bare header with RCODE 1.",
)
def test_malformed_gets_formerr(server: NameServer) -> None:
    """What can't be understood gets FORMERR with its id, no longer than itself; less than a header gets nothing."""
    client = server.client("mallory")
    for number, (what, data) in enumerate(malformed(server).items(), 1000):
        client.send(struct.pack(">H", number) + data[2:])
        server.solution.until(lambda: client.arrived, f"FORMERR for {what}", client.name)
        reply = client.arrived.pop()
        assert len(reply) >= HEADER.size, f"a header has {HEADER.size} bytes, and {len(reply)} came for {what}"
        id_, flags, *_ = HEADER.unpack_from(reply)
        assert (id_, flags & (QR | 0xF)) == (number, QR | 1), (
            f"FORMERR is owed for {what}, and came {Answer.parse(reply)}"
        )
        assert len(reply) <= max(len(data), HEADER.size), f"{len(data)} bytes of {what} must not be answered with more"
    for size in (0, 1, 2, 11):
        client.send(HEADER.pack(7, 0, 1, 0, 0, 0)[:size])
    assert not client.take_all(), "less than a header can't be answered"
    server.still_answers(client)


@behaviour(
    stage=4,
    hidden=True,
    source=rfc(1035, "4.1.4", "Message compression"),
    needs="malformed_gets_formerr",
)
@hints(
    "Where does a pointer point, and can you get there twice?",
    "A pointer in the name of the question points at nothing that came before.",
    "Refuse every length byte above 63 in a question: FORMERR. If you follow pointers, only backwards, and count them.",
)
def test_pointers_lead_nowhere(server: NameServer) -> None:
    """Names that point at themselves, in a circle, forwards or out of the message get FORMERR or nothing."""
    client, tail = server.client("mallory"), struct.pack(">HH", 1, 1)
    names = {
        "to itself": b"\xc0\x0c",
        "to itself, after a label": b"\x01a\xc0\x0c",
        "in a circle": b"\xc0\x0e\xc0\x0c",
        "forwards": b"\x01a\xc0\x30",
        "out of the message": b"\xff\xff",
        "of a reserved kind": b"\x41a\0",
        "cut off": b"\xc0",
    }
    for number, (where, name) in enumerate(names.items(), 2000):
        server.unhindered_by(client, HEADER.pack(number, 0, 1, 0, 0, 0) + name + tail, f"a name that points {where}")
        for reply in client.take_all():
            assert reply.id == number, f"the id of the query is owed, {number}, and came {reply.id}"
            assert reply.rcode == "FORMERR", f"a name that points {where} is no name: FORMERR, and came {reply}"


@behaviour(
    stage=4, hidden=True, source=brief("D10", "one question, one answer at most"), needs="malformed_gets_formerr"
)
def test_noise(server: NameServer) -> None:
    """Random and damaged messages get at most one reply each, never to an answer, and never above 512 bytes."""
    client = server.client("noise")
    sound = client.query(server.zone.name("large"), "TXT").to_wire()
    sent: dict[int, bytes] = {}
    for id_ in server.chance.sample(range(1 << 16), 60):
        body = bytearray(sound[2:] if id_ % 3 else server.chance.randbytes(server.chance.randrange(10, 100)))
        for _ in range(server.chance.randrange(1, 5)):
            body[server.chance.randrange(len(body))] = server.chance.randrange(256)
        sent[id_] = struct.pack(">H", id_) + bytes(body)
        client.send(sent[id_])
    server.solution.settled()

    replies, client.arrived = client.arrived, []
    ids = [int.from_bytes(reply[:2], "big") for reply in replies]
    assert len(ids) == len(set(ids)), "one message gets one reply at most"
    assert set(ids) <= set(sent), "a reply has the id of a message that was sent"
    for id_, reply in zip(ids, replies, strict=True):
        assert len(reply) >= HEADER.size, f"a header has {HEADER.size} bytes, and a reply of {len(reply)} came"
        assert reply[2] & 0x80, "a reply has QR set"
        assert not sent[id_][2] & 0x80, "an answer is never answered"
        assert len(reply) <= SMALLEST, f"nobody has said that he takes more than 512 bytes, and {len(reply)} came"
    server.still_answers(client)


@behaviour(stage=4, hidden=True, source=brief("D2", "clients that are gone"), needs="many_clients_with_one_id")
def test_client_that_is_gone(server: NameServer) -> None:
    """Answers for clients that have closed their sockets meanwhile cost nobody else an answer."""
    for round_ in range(3):
        leaving = [server.client(f"leaving-{round_}-{number}") for number in range(5)]
        staying = server.client(f"staying-{round_}")
        with server.solution.frozen():
            for client in leaving:
                client.ask(server.zone.name("www"))
                client.leave()
            query = staying.ask(server.zone.name("www"))
        assert_answer(staying.answer_to(query), server.zone.rrset("www", "A"))
    server.solution.settled()
    server.still_answers()


@behaviour(stage=4, source=rfc(7766, "6.2.4", "Teardown"), needs="tcp_pipelining")
def test_cut_connections(server: NameServer) -> None:
    """TCP clients that vanish within a message or before their answer harm nobody, and leave no socket behind."""
    server.still_answers(server.stream("first"))
    server.solution.settled()
    before = server.solution.sockets()
    for number in range(12):  # each size with each ending
        stream = server.stream(f"cut-{number}")
        data = framed(stream.query(server.zone.name("giant"), "TXT").to_wire())
        stream.send_raw(data[: (1, 2, 20, len(data))[number % 4]], "part of a query")
        if number % 8 < 4:
            server.solution.settled()
        if number % 3:
            stream.connection.hang_up()
        else:
            stream.connection.half_close()
            stream.until_closed()
    server.solution.settled()

    assert server.solution.sockets() <= before, "the sockets of connections that ended must be closed"
    server.still_answers()
    server.still_answers(server.stream("next"))


@behaviour(stage=4, hidden=True, source=brief("D11", "the end of input"), needs="tcp_pipelining")
@hints(
    "End of input is not the end of the conversation.",
    "A client may close its half as soon as it has asked, and still read.",
    "On EOF answer what is complete in the buffer, write it all out, and close only then.",
)
def test_half_closed_client_gets_its_answers(server: NameServer) -> None:
    """A TCP client that half-closes behind its questions gets all answers, and then the end of the connection."""
    stream = server.stream()
    queries = [stream.query(server.zone.name("giant"), "TXT", id=number) for number in range(3)]
    with server.solution.frozen():
        stream.send_raw(b"".join(framed(query.to_wire()) for query in queries), "3 queries in one segment")
        stream.connection.half_close()

    answers = {answer.id: answer for answer in stream.until_closed()}
    assert sorted(answers) == [query.id for query in queries], (
        "every question that came before the end is owed its answer"
    )
    for query in queries:
        assert_answer(answers[query.id], server.zone.rrset("giant", "TXT"))


@behaviour(stage=4, hidden=True, source=brief("D11", "what is no message"), needs="tcp_pipelining")
def test_garbage_over_tcp(server: NameServer) -> None:
    """Empty, short, broken and inverted messages over TCP get FORMERR, nothing or a close, and harm nobody else."""
    nobody = server.stream("nobody")
    for number, data in enumerate([b"", b"\0\1\0", TRUNCATED_QUESTION, bytes([255]) * 300]):
        stream = server.stream(f"mallory-{number}")
        stream.send_raw(framed(data), f"a message of {len(data)} bytes")
        for reply in stream.take_all():
            assert reply.rcode == "FORMERR", f"FORMERR is owed at most, and came {reply}"
        server.still_answers()
    server.still_answers(nobody, why="only the offender's connection may be closed")


@behaviour(stage=4, source=brief("D12", "SIGTERM"), needs="tcp_gives_the_same", alone=True)
def test_stops_and_starts_again(server: NameServer) -> None:
    """On SIGTERM the server exits although TCP clients are connected, and a new one can serve the same port at once."""
    idle, asking = server.stream("idle"), server.stream("asking")
    server.still_answers(asking)
    asking.send_raw(b"\0", "half a length")
    server.solution.settled()

    server.solution.terminate()
    server.solution.until_exit("to exit: it was told to with SIGTERM")

    server.solution.restart(same_port=True)
    server.still_answers(why="a new process serves the same port")
    server.still_answers(server.stream("next"), why="a new process serves the same port")
    assert idle.ended, "connections of the old process are closed"


# -- stage 5: scale -------------------------------------------------------------------------------------------------


@behaviour(
    stage=5, points=4, hidden=True, source=brief("D13", "scale"), needs="nxdomain", settings={"FILLING": MANY_NAMES}
)
@hints(
    "How many names do you look at to find one?",
    "None but its own ancestors: a table for the whole zone, keyed by name, and one look-up for each label.",
    "Enter empty non-terminals and wildcards when you load the file; then a query is a handful of dictionary look-ups.",
)
def test_lookups_do_not_scan(server: NameServer) -> None:
    """In a zone of 20,000 names a look-up costs hardly more than a refusal: it does not walk through the zone."""
    client, zone = server.client(), server.zone

    def cost(name: str) -> float:
        """CPU seconds for 20 answers, the best of 3 times: a collector or a compiler is at work now and then only."""
        costs = []
        for _ in range(3):
            before = server.solution.cpu_seconds()
            for query in [client.ask(name, id=number) for number in range(20)]:
                client.answer_to(query)
            costs.append(server.solution.cpu_seconds() - before)
        return min(costs)

    last = f"host-{MANY_NAMES - 1}.{zone.origin}"
    assert_answer(client.resolve(last), [record for record in zone.records if record.owner == last])
    refusal = cost("www.example.invalid.")
    for name in (last, f"nobody.{zone.origin}", zone.name("between"), server.below("wild")):
        ratio = cost(name) / refusal
        bound = f"a look-up may cost {LARGEST_RATIO} times the CPU time of a refusal"
        assert ratio <= LARGEST_RATIO, f"{bound}, and {name} cost {ratio:.0f} times as much"


@behaviour(stage=5, points=4, hidden=True, source=brief("D13", "scale"), needs="slow_reader_blocks_nobody")
@hints(
    "Where are the answers that nobody reads?",
    "Whoever does not read must not be read from either.",
    "Stop reading from a connection while its write buffer is above the high-water mark (`pause_writing`, `drain`).",
)
def test_unread_answers_cost_bounded_memory(server: NameServer) -> None:
    """A TCP client that asks and asks and never reads does not fill the server's memory: it is made to wait, or cut."""
    slow = server.stream("greedy", slow_reader=True)
    server.still_answers(slow)
    server.solution.settled()
    before = server.solution.memory_bytes()
    slow.connection.stop_reading()
    query = framed(slow.query(server.zone.name("giant"), "TXT").to_wire())

    slow.send_raw(query * 3000, "3000 queries for 16 KB each")
    server.solution.settled()
    server.still_answers(why="the others are served meanwhile")
    server.solution.settled()

    grown = server.solution.memory_bytes() - before
    bound = f"{UNREAD_BOUND // MIB} MiB are allowed for answers that nobody reads"
    assert grown <= UNREAD_BOUND, f"{bound}, and the server grew by {grown / MIB:.0f} MiB"
    server.still_answers(server.stream("quick"), why="the others are served meanwhile")
