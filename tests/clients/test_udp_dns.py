"""dig and dnspython's resolver against the reference of the kata."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import dns.resolver
import pytest

from harness.peers.zone_file import ZoneFile
from harness.solution.program import Solution

from .launch import reference

PATIENCE = 30  # seconds, for a machine under any load; a test that gets here has failed


class SmallZone(ZoneFile):
    def fill(self) -> None:
        self.add("", "SOA", f"{self.name('ns')} {self.name('hostmaster')} 7 7200 900 1209600 300")
        self.add("", "NS", self.name("ns"))
        self.add("ns", "A", "192.0.2.53")
        self.add("www", "A", "192.0.2.1", "192.0.2.2", ttl=60)
        self.add("alias", "CNAME", self.name("www"))
        self.add("mail", "MX", f"10 {self.name('www')}")
        self.add("*.wild", "TXT", '"anything" "goes"')
        self.add("large", "TXT", *(f'"{self.text(250)}"' for _ in range(40)))
        self.add("child", "NS", self.name("ns.child"))
        self.add("ns.child", "A", "192.0.2.54")


@pytest.fixture(scope="module")
def server() -> Iterator[Solution]:
    with reference("udp_dns", SmallZone) as solution:
        yield solution


@pytest.fixture
def zone(server) -> SmallZone:
    return server.peer(SmallZone)


@pytest.fixture
def resolver(server) -> dns.resolver.Resolver:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [server.address[0]], server.address[1]
    resolver.lifetime = resolver.timeout = PATIENCE
    return resolver


def dig(server: Solution, *words: str) -> str:
    if not shutil.which("dig"):
        why = "dig is not installed; on Debian: apt install bind9-dnsutils"
        if os.environ.get("REQUIRE_ORACLES") == "1":
            pytest.fail(why)
        pytest.skip(why)
    host, port = server.address
    command = ["dig", f"@{host}", "-p", str(port), f"+time={PATIENCE}", "+tries=1", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def short(server: Solution, *words: str) -> list[str]:
    return sorted(dig(server, "+short", *words).splitlines())


@pytest.mark.oracle
def test_dig_finds_records(server, zone):
    assert short(server, zone.name("www")) == ["192.0.2.1", "192.0.2.2"]
    assert short(server, "+tcp", zone.name("mail"), "MX") == [f"10 {zone.name('www')}"]
    assert short(server, f"any.{zone.name('wild')}", "TXT") == ['"anything" "goes"']
    assert zone.name("www") in short(server, zone.name("alias"))


@pytest.mark.oracle
def test_dig_finds_nothing_to_warn_about(server, zone):
    for name, words in [
        (zone.name("www"), ["+edns=0"]),
        (f"nobody.{zone.origin}", ["+noedns"]),
        (zone.origin, ["SOA"]),
    ]:
        told = dig(server, name, *words)
        assert "flags: qr aa" in told, told
        assert not [line for line in told.splitlines() if "WARNING" in line and "recursion" not in line], told


@pytest.mark.oracle
def test_dig_comes_back_by_tcp_for_what_is_too_long(server, zone):
    told = dig(server, zone.name("large"), "TXT")
    assert "Truncated, retrying in TCP mode" in told
    assert told.count("\tTXT\t") == 40


@pytest.mark.oracle
def test_dig_sees_the_referral_and_the_refusals(server, zone):
    referral = dig(server, "+norecurse", f"deep.{zone.name('child')}")
    assert f"NS\t{zone.name('ns.child')}" in referral
    assert "flags: qr;" in referral
    assert "status: REFUSED" in dig(server, "www.example.invalid")
    assert "status: BADVERS" in dig(server, "+edns=1", "+noednsnegotiation", zone.name("www"))
    assert "status: NOTIMP" in dig(server, "+opcode=status", zone.name("www"))
    assert "Transfer failed" in dig(server, zone.origin, "AXFR")


def test_dnspythons_resolver_finds_records(resolver, zone):
    answer = resolver.resolve(zone.name("alias"), "A")
    assert sorted(record.to_text() for record in answer) == ["192.0.2.1", "192.0.2.2"]
    assert answer.canonical_name.to_text() == zone.name("www")
    assert len(resolver.resolve(zone.name("large"), "TXT")) == 40, "it comes back by TCP"


def test_dnspythons_resolver_tells_no_name_from_no_data(resolver, zone):
    with pytest.raises(dns.resolver.NXDOMAIN):
        resolver.resolve(f"nobody.{zone.origin}", "A")
    with pytest.raises(dns.resolver.NoAnswer):
        resolver.resolve(zone.name("www"), "AAAA")


def test_dnspythons_resolver_takes_mixed_case(resolver, zone):
    name = zone.name("www").swapcase()
    assert len(resolver.resolve(name, "A")) == 2
