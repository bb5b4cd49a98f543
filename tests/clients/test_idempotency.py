"""Stock HTTP clients against the reference of the kata: replies get lost on either side, and they pay once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count

import pytest

from harness.peers.payment_provider import Fault, PaymentProvider
from harness.solution.program import Solution
from harness.wire.structured import write_string

from .http import CLIENTS, HttpClient, missing
from .launch import reference

numbers = count(1)


@pytest.fixture(scope="module")
def lasting_payments() -> Iterator[Solution]:
    with reference("idempotency", PaymentProvider) as solution:
        yield solution


@pytest.fixture
def payments(lasting_payments) -> Solution:
    lasting_payments.begin()
    return lasting_payments


@pytest.fixture
def provider(payments) -> PaymentProvider:
    return payments.peer(PaymentProvider)


@pytest.fixture(scope="module")
def started(lasting_payments) -> Iterator[Callable[[str], HttpClient]]:
    running: dict[str, HttpClient] = {}
    host, port = lasting_payments.address
    with ExitStack() as stack:

        def start(name: str) -> HttpClient:
            if why := missing(name):
                pytest.skip(why)
            if name not in running:
                client = HttpClient(name, lasting_payments.turn, f"http://{host}:{port}")
                running[name] = stack.enter_context(client)
            return running[name]

        yield start


@pytest.fixture(params=CLIENTS)
def client(started, request) -> HttpClient:
    return started(request.param)


@pytest.fixture
def payment() -> dict:
    """A request in the words of `HttpClient`, unlike any other."""
    number = next(numbers)
    headers = {
        "Authorization": "Bearer acct_1",
        "Content-Type": "application/json",
        "Idempotency-Key": write_string(f'order "{number}"'),
    }
    body = {"amount": 500, "currency": "eur", "source": f"card_{number}"}
    return {"path": "/payments", "headers": headers, "body": json.dumps(body)}


def test_urllib3_retries_through_two_lost_replies(provider, started, payment):
    client = started("with_urllib3.py")
    with provider.failing(Fault.DROP_AFTER):
        client.begin(payment | {"retries": 5})
        client.until(lambda: len(provider.books.asked) == 2, "a second request at the provider")

    outcome = client.outcome()

    assert provider.books.amounts == [500], "one key, one charge"
    assert len(provider.books.keys) == 1, "the provider was asked with the same key each time"
    assert (outcome.status, json.loads(outcome.body)["charge_id"]) == (201, provider.books.charges[0].id)


def test_a_retry_after_a_lost_reply_learns_what_happened(provider, client, payment):
    with provider.failing(Fault.DROP_AFTER):
        lost = client.send(**payment)
    final, replayed = client.send(**payment), client.send(**payment)

    assert lost.status in {502, 503, 504}
    assert provider.books.amounts == [500]
    assert (final.status, replayed.status) == (201, 201)
    assert (replayed.body, replayed.headers["location"]) == (final.body, final.headers["location"])
    assert replayed.headers["idempotent-replayed"] == "true"


def test_a_client_that_gave_up_pays_once(provider, client, payment):
    with provider.holding():
        client.begin(payment | {"timeout": 0.2})
        client.until(lambda: provider.books.asked, "a request at the provider")
        assert client.outcome().error, "the client has given up"
        provider.release()

    outcome = client.send(**payment)

    assert provider.books.amounts == [500]
    assert (outcome.status, json.loads(outcome.body)["charge_id"]) == (201, provider.books.charges[0].id)


def test_a_kept_alive_connection_serves_payments_and_problems(provider, client, payment):
    other = payment | {"body": payment["body"].replace("500", "501")}
    look = {"method": "GET", "path": "/payments", "headers": payment["headers"]}
    client.begin(payment, other, look)
    paid, refused, listed = client.outcomes()

    assert (paid.status, refused.status, listed.status) == (201, 422, 200)
    assert refused.headers["content-type"] == "application/problem+json"
    assert paid.headers["location"].rsplit("/", 1)[1] in {each["id"] for each in json.loads(listed.body)["data"]}
    assert provider.books.amounts == [500]
