"""The NATS client that the harness plays, against the real nats-server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from harness.peers.nats import Err, Msg, NatsClient, Ok, publication
from harness.solution.program import Solution
from harness.verdicts import Broken

from .foreign import nats_server

pytestmark = pytest.mark.oracle

Connect = Callable[[str], NatsClient]
HEARTBEAT = {"PING_INTERVAL_MS": "100", "PING_MAX_OUT": "2"}
CLOSES = {
    b"BOGUS\r\n": "Unknown Protocol Operation",
    b"PUB a 1048577\r\n": "Maximum Payload Violation",
    b"SUB " + b"x" * 8192: "Maximum Control Line Exceeded",
}


@pytest.fixture(scope="module")
def server(scratch) -> Iterator[Solution]:
    with nats_server(scratch) as solution:
        yield solution


@pytest.fixture(scope="module")
def impatient_server(scratch) -> Iterator[Solution]:
    """It asks after its clients ten times a second."""
    with nats_server(scratch, **HEARTBEAT) as solution:
        yield solution


@pytest.fixture
def broker(server) -> Iterator[Solution]:
    server.begin()
    yield server
    server.conclude()


@pytest.fixture
def client(broker) -> Connect:
    """A client by name, greeted."""
    return lambda name: NatsClient(broker, name).greeted()


def test_it_reads_the_greeting(client):
    info = client("alice").info
    assert info["max_payload"] == 1048576
    assert isinstance(info["server_id"], str)
    assert info["proto"] == 1


@pytest.mark.parametrize("payload", [b"", b"hello", b"PING\r\n", b"\0\xff\r\n.\r", b"x" * 100_000])
def test_a_message_arrives_as_it_was_published(client, payload):
    alice, bob = client("alice"), client("bob")
    bob.sub("weather.*", 7)
    bob.fence()

    alice.pub("weather.rome", payload)
    alice.pub("weather.oslo", payload, reply="inbox.1")
    alice.fence()

    assert bob.messages() == [Msg("weather.rome", "7", payload), Msg("weather.oslo", "7", payload, "inbox.1")]


def test_a_queue_group_shares_messages(client):
    alice, *members = (client(name) for name in ("alice", "m1", "m2", "m3"))
    for member in members:
        member.sub("jobs", 1, queue="workers")
        member.fence()

    for number in range(60):
        alice.pub("jobs", b"%d" % number)
    alice.fence()

    got = [message.payload for member in members for message in member.messages()]
    assert Counter(got) == Counter(b"%d" % number for number in range(60))


def test_unsub_stops_at_once(client):
    alice = client("alice")
    alice.sub("a", 1)
    alice.unsub(1)
    alice.pub("a")

    assert alice.messages() == []


def test_unsub_with_a_number_counts_from_sub(client):
    alice = client("alice")
    alice.sub("a", 1)
    alice.pub("a", b"1")
    alice.unsub(1, 2)
    alice.pub("a", b"2")
    alice.pub("a", b"3")

    assert [message.payload for message in alice.messages()] == [b"1", b"2"]


def test_verbose_commands_are_acknowledged_and_ping_is_not(client):
    alice = client("alice")
    alice.connect(verbose=True)
    alice.sub("a", 1)
    alice.pub("b")
    alice.unsub(1)

    assert alice.check() == [Ok()] * 4
    assert alice.check() == []


def test_without_echo_own_messages_stay_away(client):
    alice, bob = client("alice"), client("bob")
    for each in (alice, bob):
        each.sub("a", 1)
        each.fence()
    alice.connect(echo=False)
    alice.pub("a", b"from alice")
    alice.fence()

    assert alice.messages() == []
    assert bob.messages() == [Msg("a", "1", b"from alice")]


def test_an_invalid_subject_is_an_error_that_leaves_the_connection_open(client):
    alice = client("alice")
    alice.sub("a..b", 1)

    assert alice.check() == [Err("Invalid Subject")]
    assert not alice.ended


@pytest.mark.parametrize(("line", "text"), CLOSES.items(), ids=CLOSES.values())
def test_an_error_is_read_before_the_end(client, line, text):
    alice = client("alice")
    alice.sub("a", 1)
    alice.pub("a", b"before")
    alice.send(line)

    before, error = alice.until_closed()
    assert before == Msg("a", "1", b"before")
    assert isinstance(error, Err)
    assert error.text.lower() == text.lower()


def test_a_fence_on_a_closed_connection_is_a_broken_promise(client):
    alice = client("alice")
    alice.send(b"BOGUS\r\n")
    alice.until_closed()

    with pytest.raises(Broken, match="alice is owed PONG; the connection was closed"):
        alice.fence()


def test_what_never_comes_is_told_as_owed(client):
    alice = client("alice")
    alice.sub("a", 1)

    with pytest.raises(Broken, match="alice is owed a message; the broker is idle"):
        alice.next_frame("a message")


def test_a_half_close_lets_the_answers_come(client):
    alice, bob = client("alice"), client("bob")
    alice.sub("a", 1)
    for number in range(5):
        alice.pub("a", b"%d" % number)
    alice.ping()

    frames = alice.leave()
    assert [frame.payload for frame in frames] == [b"%d" % number for number in range(5)]
    assert (alice.pongs, alice.ended) == (2, True)
    bob.fence()


def test_a_hang_up_is_noticed_by_the_server(broker, client):
    client("bob")
    broker.settled()
    before = broker.sockets()
    alice = client("alice")
    assert broker.sockets() == before + 1

    alice.hang_up()

    broker.until(lambda: broker.sockets() == before, "to drop the connection")


def test_a_reader_that_stopped_gets_everything_when_it_reads_again(broker, client):
    slow, alice = NatsClient(broker, "slow", slow_reader=True).greeted(), client("alice")
    slow.sub("fill", 1)
    slow.fence()
    slow.stop_reading()
    payload = b"x" * 65536
    for number in range(120):
        alice.pub("fill", b"%03d" % number + payload)
    alice.fence()
    assert slow.frames == [], "nothing is read while it has stopped"

    slow.read_again()

    assert [frame.payload[:3] for frame in slow.check()] == [b"%03d" % number for number in range(120)]


def test_frames_may_be_sent_byte_by_byte(client):
    alice = client("alice")
    data = b"SUB a.b 1\r\n" + publication("a.b", b"hello")[0]

    alice.send_in_pieces(data[at : at + 1] for at in range(len(data)))

    assert alice.messages() == [Msg("a.b", "1", b"hello")]


def test_many_frames_may_come_in_one_segment(client):
    alice = client("alice")
    alice.sub(">", 1)
    alice.send(b"".join(publication(f"n.{number}", b"x" * (number % 50))[0] for number in range(3000)))

    messages = alice.messages()
    assert [(message.subject, len(message.payload)) for message in messages] == [
        (f"n.{number}", number % 50) for number in range(3000)
    ]


def test_silence_that_a_tripwire_watches(broker, client):
    alice, bob = client("alice"), client("bob")
    alice.sub("a", 1)
    alice.fence()
    alice.stays_silent("alice asked for nothing more")
    (wire,) = broker.tripwires
    assert not wire.tripped()

    bob.pub("a")
    bob.fence()
    broker.settled()

    assert wire.tripped()
    alice.connection.close()
    broker.tripwires.clear()


def test_pings_are_answered_unless_it_is_told_to_stay_silent(impatient_server):
    lively, silent = (NatsClient(impatient_server, name).greeted() for name in ("lively", "silent"))
    silent.answers_pings = False

    assert silent.until_closed() == [Err("Stale Connection")]
    assert silent.pings >= 1
    lively.fence()
    assert lively.pings >= 1
