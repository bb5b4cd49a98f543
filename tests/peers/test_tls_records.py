"""Hellos made by hand are hellos, and what is seen of a connection without keys is what went over it."""

from __future__ import annotations

import random
import ssl

import pytest

from harness.wire.tls_records import (
    TLS10,
    TLS11,
    TLS12,
    TLS13,
    Record,
    Sight,
    client_hello,
    fragmented,
    handshake_records,
    records,
    summary,
)

from .tls_servers import certificate


@pytest.fixture
def chance() -> random.Random:
    return random.Random(7)


@pytest.fixture
def context(tmp_path) -> ssl.SSLContext:
    chain, key, _ = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return context


def answered(context: ssl.SSLContext, data: bytes) -> Sight:
    """What the standard library's server says to a hello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(data)
    with pytest.raises(ssl.SSLError):  # it waits for more, or it fails
        tls.do_handshake()
    sight = Sight()
    sight.feed(outgoing.read())
    return sight


@pytest.mark.parametrize("size", [1, 5, 1 << 14])
def test_a_hello_made_by_hand_is_one(context, chance, size):
    hello = handshake_records(client_hello(chance, server_name=b"www.kata.test", protocols=(b"http/1.1",)), size=size)

    messages = answered(context, hello).messages
    assert messages[:2] == ["ServerHello", "Certificate"]
    assert messages[-1] == "ServerHelloDone"


def test_its_name_and_its_versions_arrive(context, chance):
    names = []
    context.sni_callback = lambda tls, name, _: names.append(name)

    sight = answered(context, handshake_records(client_hello(chance, versions=(TLS13, TLS12), server_name=b"a.test")))
    assert names == ["a.test"]
    assert sight.messages == ["ServerHello"]  # a HelloRetryRequest: the key share is missing


@pytest.mark.parametrize("version", [TLS10, TLS11])
def test_old_versions_get_their_alert(context, chance, version):
    sight = answered(context, handshake_records(client_hello(chance, version=version, suites=(0xC009, 0xC00A))))

    assert (sight.messages, sight.alerts) == ([], ["protocol_version"])


def test_suites_that_nobody_has_get_their_alert(context, chance):
    assert answered(context, handshake_records(client_hello(chance, suites=(0x0001,)))).alerts == ["handshake_failure"]


def test_fragments_hold_the_same_bytes():
    data = Record(22, TLS12, bytes(range(100))).encode()

    pieces = records(fragmented(data, 30))
    assert [len(piece.fragment) for piece in pieces] == [30, 30, 30, 10]
    assert b"".join(piece.fragment for piece in pieces) == bytes(range(100))


def test_what_is_encrypted_is_counted():
    sight = Sight()
    seen = sight.feed(Record(20, TLS12, b"\1").encode() + Record(22, TLS12, bytes(40)).encode())
    seen += sight.feed(Record(23, TLS12, bytes(40)).encode()[:20])
    seen += sight.feed(Record(23, TLS12, bytes(40)).encode()[20:])

    assert summary(seen) == "2 encrypted records"
    assert not sight.messages


def test_a_message_over_two_records_is_one_message():
    message = b"\x01" + (6).to_bytes(3) + bytes(6)
    assert Sight().feed(handshake_records(message, size=4)) == ["ClientHello"]


def test_unknown_types_have_a_number():
    assert Sight().feed(Record(99, TLS12, b"x").encode()) == ["a record of the unknown type 99"]
