"""The payment provider that the harness plays, as clients that nobody here wrote meet it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from clients.http import CLIENTS, HttpClient, Outcome, missing

from harness.peers.payment_provider import Fault, PaymentProvider
from harness.wire.structured import write_string

from .stage import Stage

QUICK = "with_http_client.py"  # for what does not depend on the client
EXECUTED = {Fault.DROP_AFTER, Fault.TRUNCATE, Fault.ERROR_AFTER, Fault.GARBAGE}
ANSWERED = {
    Fault.DECLINE: (402, "card_declined"),
    Fault.UNAVAILABLE: (503, "try_later"),
    Fault.TOO_MANY: (429, "try_later"),
    Fault.ERROR_AFTER: (500, "internal"),
}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def lasting_provider(stage) -> PaymentProvider:
    return PaymentProvider(stage)


@pytest.fixture
def provider(lasting_provider) -> PaymentProvider:
    lasting_provider.begin()
    return lasting_provider


@pytest.fixture(scope="module")
def started(stage, lasting_provider, open_until_the_end: ExitStack) -> Callable[..., HttpClient]:
    """A client by name; the `number` tells apart those that are at work at the same time."""
    running: dict[tuple[str, int], HttpClient] = {}

    def start(name: str, number: int = 0) -> HttpClient:
        if why := missing(name):
            pytest.skip(why)
        if (name, number) not in running:
            client = HttpClient(name, stage.turn, lasting_provider.environment()["PROVIDER_URL"])
            running[name, number] = open_until_the_end.enter_context(client)
        return running[name, number]

    return start


@pytest.fixture(params=CLIENTS)
def client(started, request) -> HttpClient:
    return started(request.param)


@pytest.fixture
def first(started) -> HttpClient:
    return started(QUICK)


@pytest.fixture
def second(started) -> HttpClient:
    return started(QUICK, 1)


@pytest.fixture
def words(request) -> Callable[..., dict]:
    """A request in the words of `HttpClient`; keys and sources are the test's own."""

    def say(key: str | None = "k", path: str = "/v1/charges", **body: object) -> dict:
        body = body or {"amount": 500, "currency": "eur", "source": request.node.name}
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = write_string(f"{request.node.name} {key}")
        return {"path": path, "headers": headers, "body": json.dumps(body)}

    return say


def code(outcome: Outcome) -> str:
    return json.loads(outcome.body)["error"]["code"]


# -- with every client ----------------------------------------------------------------------------------------------


def test_a_charge_and_its_replay(provider, client, words):
    client.begin(words(), words())
    charged, replayed = client.outcomes()

    assert (charged.status, replayed.status) == (201, 201)
    assert json.loads(charged.body)["amount"] == 500
    assert replayed.body == charged.body
    assert "idempotent-replayed" not in charged.headers
    assert replayed.headers["idempotent-replayed"] == "true"
    assert provider.books.amounts == [500], "one key, one charge"
    assert len(provider.books.asked) == 2


@pytest.mark.parametrize("fault", Fault, ids=[fault.name for fault in Fault])
def test_a_fault_is_what_it_says(provider, client, words, fault):
    with provider.failing(fault):
        outcome = client.send(**words())

    if fault in ANSWERED:
        assert (outcome.status, code(outcome)) == ANSWERED[fault]
    elif fault is Fault.GARBAGE:
        assert outcome.status == 201
        with pytest.raises(ValueError):
            json.loads(outcome.body)
    else:
        assert outcome.error, f"{fault.name} leaves no complete answer"
    assert provider.books.amounts == ([500] if fault in EXECUTED else [])


@pytest.mark.parametrize("executed", [False, True], ids=["before", "after"])
def test_a_held_request_is_answered_when_it_is_let_go(provider, client, words, executed):
    with provider.holding(executed):
        client.begin(words())
        provider.until_held()
        assert provider.books.amounts == ([500] if executed else [])
        provider.release()

    outcome = client.outcome()
    assert outcome.status == 201
    assert "idempotent-replayed" not in outcome.headers
    assert provider.books.amounts == [500]


def test_refused_connections(provider, client, words):
    client.send(**words("before"))
    with provider.refusing_connections():
        assert client.send(**words("meanwhile")).error
    assert client.send(**words("afterwards")).status == 201
    assert provider.books.amounts == [500, 500]


# -- with one of them -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", Fault, ids=[fault.name for fault in Fault])
def test_after_a_fault_the_same_key_learns_what_became_of_it(provider, first, words, fault):
    with provider.failing(fault):
        first.send(**words())

    outcome = first.send(**words())

    if fault is Fault.DECLINE:
        assert (outcome.status, provider.books.amounts) == (402, [])
    else:
        assert (outcome.status, provider.books.amounts) == (201, [500])
    final_before = fault in EXECUTED or fault is Fault.DECLINE
    assert ("idempotent-replayed" in outcome.headers) == final_before


@pytest.mark.parametrize("executed", [False, True], ids=["before", "after"])
def test_a_second_request_with_a_running_key_is_refused(provider, first, second, words, executed):
    with provider.holding(executed):
        first.begin(words())
        provider.until_held()
        refused = second.send(**words())

    assert (refused.status, code(refused)) == (409, "still_running")
    assert first.outcome().status == 201
    assert (provider.books.overlaps, provider.books.amounts) == (1, [500])


def test_other_keys_are_not_in_the_way(provider, first, second, words):
    with provider.holding():
        first.begin(words("a"))
        provider.until_held()  # so that it is this one that is let go
        second.begin(words("b"))
        provider.until_held(2)
        provider.release_one()
        assert first.outcome().status == 201
        assert provider.books.amounts == [500]

    assert second.outcome().status == 201
    assert provider.books.overlaps == 0


def test_a_key_with_another_body_is_refused(provider, first, words):
    first.send(**words())
    other = words() | {"body": words(amount=501, source="another")["body"]}
    refused = first.send(**other)

    assert (refused.status, code(refused)) == (422, "key_reused")
    assert provider.books.amounts == [500]


def test_dropped_requests_get_no_answer(provider, first, words):
    with provider.holding():
        first.begin(words())
        provider.until_held()
        provider.drop_held()
        assert first.outcome().error
    assert provider.books.amounts == []
    assert first.send(**words()).status == 201


def test_without_a_key_every_request_charges(provider, first, words):
    first.begin(words(None), words(None))
    assert [outcome.status for outcome in first.outcomes()] == [201, 201]
    assert provider.books.amounts == [500, 500]
    assert provider.books.malformed == []


@pytest.mark.parametrize("field", ["bare-token", '"unterminated', '""', f'"{"k" * 256}"'])
def test_a_malformed_key_is_noted(provider, first, words, field):
    request = words()
    request["headers"]["Idempotency-Key"] = field
    first.send(**request)
    assert "no String of 1 to 255 characters" in provider.books.malformed[0]


@pytest.mark.parametrize("change", [{"path": "/v2/charges"}, {"body": "{"}, {"body": "[]"}, {"body": ""}])
def test_what_it_does_not_offer_is_refused_and_noted(provider, first, words, change):
    refused = first.send(**words() | change)
    assert (refused.status, code(refused)) == (400, "bad_request")
    assert len(provider.books.malformed) == 1
    assert provider.books.charges == []


def test_a_charge_is_refunded_once(provider, first, words):
    charge = json.loads(first.send(**words()).body)["id"]
    refund = {"path": "/v1/refunds", "charge": charge}

    refunded, again, other = (first.send(**words(key, **refund)) for key in ("r1", "r1", "r2"))

    assert (refunded.status, again.body, other.status) == (201, refunded.body, 402)
    assert code(other) == "already_refunded"
    assert [refund.body["charge"] for refund in provider.books.refunds] == [charge]


def test_late_requests_go_to_the_books_they_belong_to(provider, first, words):
    old = provider.books
    first.send(**words())
    provider.begin()
    first.send(**words())

    assert len(old.asked) == 2
    assert provider.books.asked == []
    assert old.keys == [old.asked[0].key]


def test_a_new_behaviour_finds_it_in_order(provider, first, words):
    provider.failing(Fault.DROP_BEFORE).__enter__()
    provider.refusing_connections().__enter__()

    provider.begin()

    assert first.send(**words()).status == 201
