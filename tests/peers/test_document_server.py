"""The servers of documents that the harness plays, as clients that nobody here wrote meet them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from clients.http import CLIENTS, HttpClient, missing

from harness.peers.document_server import CHUNKS, CLOSE, LENGTH, DocumentServer, Place, Poll, chunks
from harness.verdicts import Broken

from .stage import Stage

QUICK = "with_http_client.py"  # for what does not depend on the client


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def lasting_servers(stage) -> DocumentServer:
    return DocumentServer(stage)


@pytest.fixture
def servers(lasting_servers) -> DocumentServer:
    lasting_servers.begin()
    return lasting_servers


@pytest.fixture(scope="module")
def started(stage, lasting_servers, open_until_the_end: ExitStack) -> Callable[[str], HttpClient]:
    running: dict[str, HttpClient] = {}

    def start(name: str) -> HttpClient:
        if why := missing(name):
            pytest.skip(why)
        if name not in running:
            client = HttpClient(name, stage.turn, lasting_servers.main.url)
            running[name] = open_until_the_end.enter_context(client)
        return running[name]

    return start


@pytest.fixture(params=CLIENTS)
def client(started, request) -> HttpClient:
    return started(request.param)


@pytest.fixture
def quick(started) -> HttpClient:
    return started(QUICK)


def asked(client: HttpClient, place: Place, **headers: str) -> Poll:
    """A request that is under way."""
    client.begin({"method": "GET", "path": place.target, "headers": headers})
    return place.next()


@pytest.mark.parametrize("framing", [LENGTH, CHUNKS, CLOSE])
def test_a_document_is_read_whole_however_it_is_delimited(client, servers, framing):
    body = "0123456789" * 500
    for _ in range(2):
        asked(client, servers.place("/d")).answer(200, body.encode(), 'ETag: "v1"', framing=framing)
        outcome = client.outcome()
        assert (outcome.status, outcome.body, outcome.error) == (200, body, "")
        assert outcome.headers["etag"] == '"v1"'


def test_conditions_are_told_and_304_ends_with_its_head(client, servers):
    place = servers.place("/d")
    poll = asked(client, place, **{"If-None-Match": 'W/"a"', "If-Modified-Since": "Sun, 06 Nov 1994 08:49:37 GMT"})
    assert poll.conditions == {"if-none-match": 'W/"a"', "if-modified-since": "Sun, 06 Nov 1994 08:49:37 GMT"}
    poll.answer(304, b"", 'ETag: "b"')
    outcome = client.outcome()
    assert (outcome.status, outcome.body, outcome.headers["etag"]) == (304, "", '"b"')

    asked(client, place).answer(200, b"the connection goes on")
    assert client.outcome().body == "the connection goes on"


def test_a_body_may_come_a_piece_at_a_time(client, servers):
    poll = asked(client, servers.place("/d"))
    poll.begin(200, "Transfer-Encoding: chunked")
    for piece in [*chunks(b"x" * 2500), b"0\r\n\r\n"]:
        poll.send(piece)
    poll.complete()
    assert client.outcome().body == "x" * 2500


@pytest.mark.parametrize("end", [Poll.finish, Poll.hang_up])
def test_a_torn_body_is_an_error_to_the_client(client, servers, end):
    poll = asked(client, servers.place("/d"))
    poll.begin(200, "Content-Length: 100")
    poll.send(b"half")
    end(poll)
    assert client.outcome().error


def test_a_poll_that_is_given_up_is_gone(stage, client, servers):
    place = servers.place("/slow")
    client.begin({"method": "GET", "path": place.target, "timeout": 0.1})
    poll = place.next()
    assert client.outcome().error
    stage.until(lambda: poll.gone, "the client to be gone")
    poll.answer(200, b"nobody listens")


def test_polls_are_told_by_place_and_in_order(quick, servers):
    first, second = servers.place("/1"), servers.place("/2")
    for place in (first, second, first):
        asked(quick, place).answer(200, b"")
        quick.outcome()
    assert [poll.place for poll in servers.polls] == [first, second, first]
    assert [len(place.polls) for place in (first, second)] == [2, 1]
    assert all(poll.at <= poll.answered_at for poll in servers.polls)
    assert servers.polls[0].answered_at <= servers.polls[1].at


def test_a_place_may_answer_always(quick, servers):
    place = servers.place("/r")
    place.always = lambda poll: poll.redirect(302, "/elsewhere")
    outcome = quick.send(method="GET", path="/r")
    assert (outcome.status, outcome.headers["location"]) == (302, "/elsewhere")


def test_nobody_listens_for_a_while(quick, servers):
    with servers.down(servers.main):
        assert quick.send(method="GET", path="/d").error
    asked(quick, servers.place("/d")).answer(200, b"back")
    assert quick.outcome().body == "back"


def test_what_is_no_http_is_a_broken_promise(stage, servers):
    with socket.create_connection(servers.main.listener.address) as sock:
        sock.sendall(b"HELO kata.test\r\n\r\n")
        with pytest.raises(Broken, match="no HTTP request"):
            servers.place("/d").next()


def test_begin_forgets_everything(quick, servers):
    poll = asked(quick, servers.place("/d"))
    servers.begin()
    assert quick.outcome().error, "what was not answered is hung up on"
    assert poll.gone
    assert servers.polls == []
    assert servers.place("/d").polls == []
