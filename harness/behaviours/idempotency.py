"""What a payment endpoint owes clients that retry: the behaviours of the kata `idempotency`.

The harness is both the clients and the payment provider, so it knows what was charged and it decides when the
provider answers. The effect on the world is looked at before the reply.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from harness import waiting
from harness.behaviour import Source, behaviour, hints, incident, rfc
from harness.peers.payment_provider import Books, Fault, PaymentProvider
from harness.solution.program import Solution
from harness.verdicts import LimitReached
from harness.wire.http1 import Headers, Request, Response
from harness.wire.structured import write_string

PEERS = [PaymentProvider]
DRAFT_URL = "https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header"
STRIPE = Source("Stripe API, Idempotent requests", "https://docs.stripe.com/api/idempotent_requests")
FINAL = {201, 402}
NOT_FINAL = {502, 503, 504}
BUSY = {409, *NOT_FINAL}
SLOW = {"PROVIDER_TIMEOUT_MS": 120}
TTL = 80
SHORT_LIVED = {"KEY_TTL_MS": TTL}
LEASE_MS = 6000  # how long after a restart a solution may still take the dead process for alive, and some


def draft(section: str, title: str, rule: str) -> Source:
    """A section of draft-ietf-httpapi-idempotency-key-header, beside the rule of the brief."""
    return Source(f"README {rule}; Idempotency-Key draft §{section} {title}", f"{DRAFT_URL}#section-{section}")


def brief(rule: str, words: str) -> Source:
    return Source(f"README {rule}, {words}")


class Payments:
    """The solution in the words of this kata, as one account uses it."""

    def __init__(self, solution: Solution, provider: PaymentProvider, chance: random.Random) -> None:
        self.solution, self.provider, self.chance = solution, provider, chance
        self.account, self.source = f"acct_{self.token()}", f"card_{self.token()}"
        self._requests = 0
        self._leases_end = 0.0

    @property
    def books(self) -> Books:
        return self.provider.books

    def token(self) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=8))

    def key(self) -> str:
        return f"key-{self.token()}"

    def payload(self, amount: float = 500, **fields: Any) -> dict[str, Any]:
        return {"amount": amount, "currency": "eur", "source": self.source} | fields

    def post(self, key: str, amount: int = 500, account: str | None = None, **fields: Any) -> Request:
        """POST /payments with this key, without waiting for the answer."""
        return self.send("/payments", self.payload(amount, **fields), [write_string(key)], account)

    def pay(self, key: str, amount: int = 500, account: str | None = None, **fields: Any) -> Response:
        """POST /payments with this key, and wait for the answer."""
        return self.post(key, amount, account, **fields).response()

    def send(
        self,
        path: str,
        payload: dict[str, Any] | bytes,
        keys: Iterable[str] = (),
        account: str | None = None,
        missing: int = 0,
    ) -> Request:
        """POST with the `keys` as raw header lines; `account` "" sends no Authorization at all."""
        account = self.account if account is None else account
        headers: Headers = [("Authorization", f"Bearer {account}")] if account else []
        headers += [
            ("Content-Type", "application/json"),
            *(("Idempotency-Key", key) for key in keys),
        ]
        body = payload if isinstance(payload, bytes) else json.dumps(payload, separators=(",", ":")).encode()
        return Request(self.solution, "client", "POST", path, headers, body, missing, self._next())

    def get(self, target: str, account: str | None = None) -> Response:
        headers = [("Authorization", f"Bearer {account or self.account}")]
        return Request(self.solution, "client", "GET", target, headers, number=self._next()).response()

    def listed(self) -> list[dict[str, Any]]:
        """GET /payments, as the account sees it."""
        data = self.get("/payments").json().get("data")
        assert isinstance(data, list), "GET /payments owes an object with a list `data`"
        return data

    def pay_until_final(self, key: str, amount: int = 500) -> Response:
        """Retry as a patient client does, until the answer is final; leases of a dead process must run out first."""
        deadline = max(waiting.now() + 0.5, self._leases_end)
        while (reply := self.pay(key, amount)).status in BUSY and waiting.now() < deadline:
            waiting.elapse(self.solution, 10)
        assert reply.status in FINAL, f"the retries are owed a final answer in the end, and got {reply}"
        return reply

    def settled(self) -> None:
        self.solution.settled()

    def restart(self) -> None:
        """Start the killed solution again, with its state."""
        self.solution.restart()
        self._leases_end = waiting.now() + LEASE_MS / 1000
        self.solution.lease = LEASE_MS / 1000

    def _next(self) -> int:
        self._requests += 1
        return self._requests


@pytest.fixture
def provider(solution: Solution) -> PaymentProvider:
    return solution.peer(PaymentProvider)


@pytest.fixture
def payments(solution: Solution, provider: PaymentProvider, chance: random.Random) -> Iterator[Payments]:
    payments = Payments(solution, provider, chance)
    yield payments
    books, charges = payments.books, len(payments.books.charges)
    solution.leave_tripwire(lambda: len(books.charges) > charges, "a card was charged after all was over")


def assert_problem(reply: Response, *statuses: int) -> None:
    """A refusal with one of these statuses, and a problem document that says what is wrong (RFC 9457)."""
    owed = " or ".join(map(str, sorted(statuses)))
    assert reply.status in statuses, f"{owed} is owed, and came {reply}"
    kind = (reply.header("content-type") or "").split(";")[0].strip()
    assert kind == "application/problem+json", f"a {reply.status} carries application/problem+json, not {kind!r}"
    document = reply.json()
    title = document.get("title") if isinstance(document, dict) else None
    assert isinstance(title, str), f"a problem document has a `title`, and this one is {reply}"
    assert title.strip(), "the `title` of a problem document is not empty"


def assert_created(reply: Response) -> dict[str, Any]:
    assert reply.status == 201, f"201 is owed, and came {reply}"
    document = reply.json()
    assert isinstance(document, dict), f"the body of a 201 is an object, not {reply}"
    return document


def assert_replayed(reply: Response, first: Response) -> None:
    """The same answer again, marked."""
    assert reply.status == first.status, f"the {first.status} is owed again, and came {reply}"
    assert reply.body == first.body, "a replay has the same bytes in its body"
    for name in ("content-type", "location"):
        assert reply.header(name) == first.header(name), f"a replay has the same {name.title()}"
    assert reply.header("idempotent-replayed") == "true", "a replay is marked with Idempotent-Replayed: true"


def assert_one_charge(books: Books, amount: int = 500) -> None:
    assert books.amounts == [amount], f"one charge of {amount} is owed to the card, and it was charged {books.amounts}"


# -- stage 1: basics ------------------------------------------------------------------------------------------------


@behaviour(stage=1, source=brief("POST /payments", "201"))
def test_create_charges_once(payments: Payments) -> None:
    """A valid request gives 201 with the fields of the contract, and exactly one charge with its amount,
    currency and source.
    """
    amount = payments.chance.randrange(1000, 99_999_999)
    reply = payments.pay(payments.key(), amount, currency="usd", description="two books")

    wanted = payments.payload(amount, currency="usd", description="two books")
    assert [charge.body for charge in payments.books.charges] == [wanted], "the provider is asked once, for just this"
    assert not payments.books.malformed, payments.books.malformed
    document = assert_created(reply)
    owed = {
        "amount": amount,
        "currency": "usd",
        "status": "succeeded",
        "charge_id": payments.books.charges[0].id,
    }
    got = {name: document.get(name) for name in owed}
    assert got == owed, "the body of the 201 tells what was paid, and the provider's id of the charge"
    assert isinstance(document.get("id"), str), "the payment has an id of its own"
    assert reply.header("location") == f"/payments/{document['id']}", "Location names the payment"


@behaviour(
    stage=1,
    points=2,
    source=draft("2.6", "Idempotency Enforcement", "R2"),
    needs="create_charges_once",
)
@hints(
    "Where is the first answer when the second request comes?",
    "Keep status, body bytes and Location under (account, path, key), and look there before you charge.",
    "Store the encoded body, not the object: a body that is rendered again may come out different.",
)
@incident(
    "Clients retry without being asked to: Go's net/http sends a POST again by itself when it carries an "
    "Idempotency-Key."
)
def test_replay_identical(payments: Payments) -> None:
    """A retry after the answer gets the same answer, marked as replayed, and the provider hears nothing."""
    key = payments.key()
    first, again = payments.pay(key), payments.pay(key)

    assert len(payments.books.asked) == 1, "the provider is asked once, whatever the client repeats"
    assert_created(first)
    assert first.header("idempotent-replayed") is None, "the answer that executed the request carries no mark"
    assert_replayed(again, first)


@behaviour(stage=1, source=draft("2.7", "Error Handling", "R1"), needs="create_charges_once")
def test_missing_key_400(payments: Payments) -> None:
    """Without the header a payment is refused with 400 and nothing is charged; with it the same request is fine."""
    reply = payments.send("/payments", payments.payload()).response()

    assert payments.books.asked == [], "a request without a key never reaches the provider"
    assert_problem(reply, 400)
    assert_created(payments.pay(payments.key()))


@behaviour(stage=1, source=draft("2.2", "Uniqueness of Idempotency Key", "R3"), needs="replay_identical")
@incident(
    "The package asgi-idempotency-header 0.2.0 keeps no fingerprint of the payload: another payment under the "
    "same key is answered with the first one's result."
)
def test_mismatch_422(payments: Payments) -> None:
    """The same key with another amount is 422 and charges nothing, and the original can still be replayed."""
    key = payments.key()
    first = payments.pay(key, 500)
    other = payments.pay(key, 700)

    assert_one_charge(payments.books)
    assert_problem(other, 422)
    assert_replayed(payments.pay(key, 500), first)


@behaviour(stage=1, source=draft("2.6", "Idempotency Enforcement", "R1"), needs="create_charges_once")
def test_new_key_new_payment(payments: Payments) -> None:
    """Two keys with the same payload are two payments."""
    first, second = payments.pay(payments.key()), payments.pay(payments.key())

    assert payments.books.amounts == [500, 500], "two keys mean two charges"
    assert assert_created(first)["id"] != assert_created(second)["id"], "two payments have two ids"


@behaviour(stage=1, source=STRIPE, needs="replay_identical")
def test_decline_is_final(payments: Payments, provider: PaymentProvider) -> None:
    """A declined card is 402 with the provider's code, and stays 402 for that key though the card would work now."""
    key = payments.key()
    with provider.failing(Fault.DECLINE):
        first = payments.pay(key)
    again = payments.pay(key)

    assert payments.books.amounts == [], "a refusal is final for its key: nothing is charged later"
    assert_problem(first, 402)
    assert first.json().get("code") == "card_declined", "the member `code` tells the provider's reason"
    assert_replayed(again, first)
    assert_created(payments.pay(payments.key()))


@behaviour(stage=1, source=brief("GET /payments", "reading back"), needs="replay_identical")
def test_read_back(payments: Payments) -> None:
    """A payment can be read and listed by its own account only, and once, however often it was retried."""
    key = payments.key()
    identifier = assert_created(payments.pay(key))["id"]
    payments.pay(key)
    payments.pay(key)
    stranger = f"acct_{payments.token()}"

    document = payments.get(f"/payments/{identifier}")
    assert document.status == 200, f"the owner may read the payment, and got {document}"
    assert document.json().get("status") == "succeeded", "the payment is shown with its status"
    assert [each["id"] for each in payments.listed()] == [identifier], "one payment is listed, once"
    assert_problem(payments.get(f"/payments/{identifier}", stranger), 404)
    others = payments.get("/payments", stranger).json()
    assert others == {"data": []} or others.get("data") == [], "another account sees none of it"


@behaviour(stage=1, source=draft("5", "Security Considerations", "Account"), needs="replay_identical")
def test_account_first(payments: Payments) -> None:
    """Without an account the answer is 401, also for a key that has a stored answer."""
    key = payments.key()
    identifier = assert_created(payments.pay(key))["id"]

    reply = payments.pay(key, account="")
    assert_problem(reply, 401)
    assert identifier.encode() not in reply.body, "a stored answer is not told to somebody without an account"
    assert_one_charge(payments.books)


# -- stage 2: edges -------------------------------------------------------------------------------------------------

NO_STRINGS = [
    "abc",
    "42",
    '""',
    '"abc',
    'abc"',
    '"a\\x"',
    '"caf\xe9"',
    '"a" b',
    "?1",
    ":YWJj:",
    '("a")',
]


@behaviour(stage=2, source=rfc(9651, "3.3.3", "Strings"), needs="missing_key_400")
@hints(
    "Quotes are part of the syntax, not decoration.",
    "RFC 9651 §4.2.5 gives the algorithm: one character at a time.",
    'A String is `"`, then 0x20-0x7E with `\\"` and `\\\\` as the only escapes, then `"`; parameters may follow.',
)
@incident(
    "Stripe's own clients send their keys bare, which the draft does not allow; a server that takes both can't "
    "tell a key from its quotes."
)
def test_key_syntax(payments: Payments) -> None:
    """Anything but a quoted Structured Field String is 400 and charges nothing."""
    for value in NO_STRINGS:
        reply = payments.send("/payments", payments.payload(), [value]).response()
        assert payments.books.asked == [], f"Idempotency-Key: {value} is no String, and the card was charged"
        assert reply.status == 400, f"Idempotency-Key: {value} is no String: 400 is owed, and came {reply}"
        assert_problem(reply, 400)
    assert_created(payments.pay(payments.key()))


@behaviour(stage=2, hidden=True, source=rfc(9651, "3.3.3", "Strings"), needs="key_syntax")
def test_key_length_decoded(payments: Payments) -> None:
    """Keys of 255 characters are allowed and of 256 are not, counted after quotes and escapes are removed."""
    quotes = '"' * 247 + payments.token()
    assert_created(payments.pay(quotes))
    assert_problem(payments.pay("k" * 248 + payments.token()), 400)
    assert_one_charge(payments.books)


@behaviour(stage=2, hidden=True, source=rfc(9651, "4.2", "Parsing Structured Fields"), needs="key_syntax")
def test_key_is_decoded_value(payments: Payments) -> None:
    """Parameters do not change a key; case and inner or trailing spaces do."""
    key = payments.key()
    first = payments.pay(key)
    tagged = payments.send("/payments", payments.payload(), [f'"{key}";v=1;note="a b";ok']).response()
    assert_replayed(tagged, first)

    for other in (key.upper(), f"{key} ", f" {key}", key.replace("-", "- ")):
        reply = payments.pay(other)
        assert assert_created(reply)["id"] != first.json()["id"], f"{other!r} is another key than {key!r}"
    assert len(payments.books.charges) == 5, "five keys, five charges"


@behaviour(stage=2, hidden=True, source=rfc(9651, "4.2", "Parsing Structured Fields"), needs="key_syntax")
def test_repeated_header_400(payments: Payments) -> None:
    """Two Idempotency-Key lines are refused, even if they are equal."""
    one, other = write_string(payments.key()), write_string(payments.key())
    for lines in ([one, one], [one, other]):
        reply = payments.send("/payments", payments.payload(), lines).response()
        assert payments.books.asked == [], "a request with two keys never reaches the provider"
        assert_problem(reply, 400)
    assert_created(payments.send("/payments", payments.payload(), [one]).response())


@behaviour(
    stage=2,
    points=3,
    hidden=True,
    source=draft("5", "Security Considerations", "Rules"),
    needs="replay_identical",
)
@hints(
    "Whose key is it?",
    "Look at all three places that use it: your table, your map of running requests, the header you send on.",
    "Use (account, path, key) inside, and send the provider a random key that is stored in that row.",
)
@incident("The package asgi-idempotency-header 0.2.0 knows no accounts: a key belongs to whoever sends it first.")
def test_scoped_by_account(payments: Payments, provider: PaymentProvider) -> None:
    """Two accounts may use the same key, also at the same moment: two payments, and neither sees the other's answer."""
    key, other_account = payments.key(), f"acct_{payments.token()}"
    with provider.holding():
        mine = payments.post(key)
        theirs = payments.post(key, account=other_account)
        provider.is_owed(2, "the charges of two accounts at once")
        assert len(payments.books.keys) == 2, "the provider's keys are one namespace for your whole service"

    assert payments.books.amounts == [500, 500], "two accounts, two charges"
    first, second = assert_created(mine.response()), assert_created(theirs.response())
    assert first["id"] != second["id"], "neither account gets the other's payment"
    assert assert_created(payments.pay(key, account=other_account))["id"] == second["id"], "each replays its own"


@behaviour(stage=2, hidden=True, source=STRIPE, needs="replay_identical")
def test_scoped_by_operation(payments: Payments) -> None:
    """A payment's key used for a refund never answers with the payment."""
    key = payments.key()
    first = payments.pay(key)
    paid = assert_created(first)["id"]

    refund = payments.send("/refunds", {"payment_id": paid}, [write_string(key)]).response()
    if refund.status == 201:
        assert refund.json().get("payment_id") == paid, f"a refund tells the payment it belongs to, and came {refund}"
        assert len(payments.books.refunds) == 1, "a refund that is confirmed was made"
    else:
        assert_problem(refund, 422)
    assert_replayed(payments.pay(key), first)


@behaviour(
    stage=2,
    hidden=True,
    source=brief("R1", "refused requests store nothing"),
    needs="replay_identical",
)
def test_invalid_request_not_stored(payments: Payments) -> None:
    """A request that validation refuses does not use up its key."""
    key = write_string(payments.key())
    for bad in (
        payments.payload(-1),
        payments.payload(currency="EURO"),
        b"{not json",
        b"[]",
        payments.payload(1.5),
    ):
        assert_problem(payments.send("/payments", bad, [key]).response(), 400)
    assert payments.books.asked == [], "an invalid request never reaches the provider"

    assert_created(payments.send("/payments", payments.payload(), [key]).response())
    assert_one_charge(payments.books)


@behaviour(stage=2, hidden=True, source=draft("2.4", "Idempotency Fingerprint", "R3"), needs="mismatch_422")
def test_every_field_in_fingerprint(payments: Payments) -> None:
    """A change in any single field is noticed, also a description that is added."""
    key = payments.key()
    first = payments.pay(key)
    changes: list[dict[str, Any]] = [
        {"amount": 501},
        {"currency": "usd"},
        {"source": f"card_{payments.token()}"},
        {"description": "new"},
    ]
    for change in changes:
        reply = payments.pay(key, **change)
        assert reply.status == 422, f"{change} is another payload under the same key: 422 is owed, and came {reply}"
    assert_one_charge(payments.books)
    assert_replayed(payments.pay(key), first)


@behaviour(
    stage=2,
    hidden=True,
    source=draft("2.6", "Idempotency Enforcement", "R2"),
    needs="replay_identical",
)
def test_replay_is_history(payments: Payments) -> None:
    """After a refund the retry of the payment still gets the original bytes, while GET shows it refunded."""
    key = payments.key()
    first = payments.pay(key)
    paid = assert_created(first)["id"]
    refund = payments.send("/refunds", {"payment_id": paid}, [write_string(payments.key())]).response()
    assert len(payments.books.refunds) == 1, "the refund is made, once"
    assert assert_created(refund)["payment_id"] == paid, "the refund tells the payment it belongs to"

    assert_replayed(payments.pay(key), first)
    assert payments.get(f"/payments/{paid}").json()["status"] == "refunded", "GET shows the payment as it is now"


@behaviour(
    stage=2,
    hidden=True,
    source=rfc(9651, "4.1.6", "Serializing a String"),
    needs="key_length_decoded",
)
def test_provider_key_well_formed(payments: Payments) -> None:
    """A long key full of quotes and backslashes still reaches the provider as one valid key of at most
    255 characters.
    """
    key = '"\\' * 123 + payments.token()
    assert_created(payments.pay(key))
    assert not payments.books.malformed, payments.books.malformed
    assert all(payments.books.keys), "without a key the provider executes every time"
    assert_one_charge(payments.books)


# -- stage 3: concurrency -------------------------------------------------------------------------------------------


@behaviour(stage=3, source=draft("2.6", "Idempotency Enforcement", "R4"), needs="replay_identical")
def test_duplicate_in_flight(payments: Payments, provider: PaymentProvider) -> None:
    """A duplicate sent while the charge is running does not start a second one; it gets 409 or the first's answer."""
    key = payments.key()
    with provider.holding():
        first = payments.post(key)
        provider.until_held()
        second = payments.post(key)
        payments.settled()
        assert len(payments.books.asked) == 1, "the duplicate must not reach the provider while the first is there"

    answer = first.response()
    assert_created(answer)
    assert_one_charge(payments.books)
    assert_same_or_busy(second.response(), answer)
    assert_replayed(payments.pay(key), answer)


def assert_same_or_busy(reply: Response, first: Response) -> None:
    """A duplicate in flight: 409, or the outcome of the first."""
    if reply.status == 409:
        assert_problem(reply, 409)
    else:
        assert (reply.status, reply.body) == (first.status, first.body), f"409 or the first's answer, and came {reply}"


@behaviour(
    stage=3,
    points=5,
    hidden=True,
    source=draft("2.6", "Idempotency Enforcement", "R4"),
    needs="duplicate_in_flight",
)
@hints(
    "Two requests can both find that there is nothing yet.",
    "Look for an `await` between your lookup and your insert.",
    "Let one atomic step claim the key (an INSERT with a primary key); the losers wait, or get 409.",
)
@incident(
    "Nearly every story of a double charge is one of three mistakes. This is the second: a check followed by an "
    "insert, with an `await` in between."
)
def test_hundred_duplicates(payments: Payments, provider: PaymentProvider) -> None:
    """A hundred duplicates that arrive in the same instant lead to one provider request and one body."""
    key = payments.key()
    with provider.holding():
        with payments.solution.frozen():
            requests = [payments.post(key) for _ in range(100)]
        provider.until_held()
        payments.settled()
        assert len(payments.books.asked) == 1, f"one of the hundred may charge, and {len(payments.books.asked)} did"

    replies = [request.response() for request in requests]
    assert_one_charge(payments.books)
    made = [reply for reply in replies if reply.status != 409]
    assert made, "at least one of the hundred is owed the answer"
    assert {reply.status for reply in made} == {201}, "the others get 409, or the same 201"
    assert len({reply.body for reply in made}) == 1, "there is one payment, so there is one body"
    assert payments.pay(key).body == made[0].body, "a later retry gets that same answer"


@behaviour(
    stage=3, hidden=True, source=draft("2.2", "Uniqueness of Idempotency Key", "R3"), needs="duplicate_in_flight"
)
def test_in_flight_mismatch(payments: Payments, provider: PaymentProvider) -> None:
    """Another payload under a key in flight is refused, and leaves the running request alone."""
    key = payments.key()
    with provider.holding():
        first = payments.post(key, 500)
        provider.until_held()
        other = payments.post(key, 700)
        payments.settled()
        assert len(payments.books.asked) == 1, "another payload under the same key never reaches the provider"

    assert_created(first.response())
    assert_problem(other.response(), 409, 422)
    assert_one_charge(payments.books)


@behaviour(
    stage=3,
    source=brief("R10", "identities don't wait for each other"),
    needs="create_charges_once",
)
def test_keys_run_in_parallel(payments: Payments, provider: PaymentProvider) -> None:
    """32 different keys are at the provider at the same time."""
    with provider.holding():
        requests = [payments.post(payments.key()) for _ in range(32)]
        provider.is_owed(32, "32 requests at the same time")
    for request in requests:
        assert_created(request.response())


@behaviour(
    stage=3,
    hidden=True,
    source=brief("R10", "identities don't wait for each other"),
    needs="duplicate_in_flight",
)
def test_hot_key_starves_nobody(payments: Payments, provider: PaymentProvider) -> None:
    """While a hundred duplicates of one key are pending, another key is charged at once."""
    hot = payments.key()
    with provider.holding():
        requests = [payments.post(hot) for _ in range(100)]
        provider.until_held()
        payments.settled()
        cold = payments.post(payments.key(), 900)
        provider.is_owed(2, "the charge of another key, now")
        asked = [asked.body["amount"] for asked in payments.books.asked]
        assert asked == [500, 900], "the hot key is charged once, and the other one beside it"
    assert_created(cold.response())
    for request in requests:
        assert request.response().status in {201, 409}, "a duplicate gets the first's answer, or 409"


@behaviour(
    stage=3,
    points=4,
    hidden=True,
    source=brief("R8", "a client that disconnects"),
    needs="duplicate_in_flight",
)
@hints(
    "Who finishes the work when nobody is listening?",
    "Cancelling the handler must not cancel the charge, nor skip what has to be tidied up.",
    "Run it in a task of its own and `await asyncio.shield(task)`.",
)
def test_client_gone_mid_charge(payments: Payments, provider: PaymentProvider) -> None:
    """A client that leaves during the charge may retry, gets the result, and has paid once."""
    key = payments.key()
    with provider.holding():
        lost = payments.post(key)
        provider.until_held()
        lost.hang_up()
        payments.settled()
    payments.settled()

    reply = payments.pay_until_final(key)
    assert_one_charge(payments.books)
    assert assert_created(reply)["charge_id"] == payments.books.charges[0].id, "the retry reports that very charge"


@behaviour(
    stage=3,
    hidden=True,
    source=brief("R8", "a client that disconnects"),
    needs="duplicate_in_flight",
)
def test_leader_gone_followers_served(payments: Payments, provider: PaymentProvider) -> None:
    """If the first of several duplicates leaves, the others still get an answer, and there is one charge."""
    key = payments.key()
    with provider.holding():
        leader = payments.post(key)
        provider.until_held()
        followers = [payments.post(key) for _ in range(5)]
        payments.settled()
        leader.hang_up()
        payments.settled()

    for follower in followers:
        reply = follower.response()
        assert reply.status in {201, *BUSY}, f"each duplicate is owed the outcome, or a 409, and one got {reply}"
    assert_created(payments.pay_until_final(key))
    assert_one_charge(payments.books)


@behaviour(
    stage=3,
    hidden=True,
    source=brief("R8", "a request that never arrived was never made"),
    needs="replay_identical",
)
def test_half_request_no_trace(payments: Payments) -> None:
    """A request cut off inside its body charges nothing, and does not use up its key."""
    key = payments.key()
    half = payments.send("/payments", payments.payload(700), [write_string(key)], missing=10)
    payments.settled()
    half.hang_up()
    payments.settled()
    assert payments.books.asked == [], "a request whose body never came was never made"

    assert_created(payments.pay(key, 500))
    assert_one_charge(payments.books)


# -- stage 4: faults ------------------------------------------------------------------------------------------------


@behaviour(
    stage=4,
    source=brief("The provider", "429, 503: nothing was executed"),
    needs="replay_identical",
)
@incident(
    "In the package asgi-idempotency-header 0.2.0 a key whose request failed is never freed: its retries find it "
    "pending for ever."
)
def test_not_executed_is_retryable(payments: Payments, provider: PaymentProvider) -> None:
    """When the provider executed nothing the client gets a 5xx, and the same key works later."""
    for fault in (Fault.UNAVAILABLE, Fault.TOO_MANY):
        key = payments.key()
        with provider.failing(fault):
            assert_problem(payments.pay(key), *NOT_FINAL)
        assert_created(payments.pay(key))
    key = payments.key()
    with provider.refusing_connections():
        assert_problem(payments.pay(key), *NOT_FINAL)
    assert_created(payments.pay(key))
    assert payments.books.amounts == [500] * 3, "three keys, three charges, each once"


@behaviour(
    stage=4,
    points=5,
    source=Source("README R5; Stripe, Low-level error handling", "https://docs.stripe.com/error-low-level"),
    needs="replay_identical",
)
@hints(
    "What do you know when the connection drops?",
    "Neither success nor failure may be stored.",
    "Keep the row unfinished with its provider key, answer 502, and on a retry ask the provider again with that key.",
)
@incident(
    "Nearly every story of a double charge is one of three mistakes. This is the first: a lost answer read as a "
    "failure."
)
def test_reply_lost_after_charge(payments: Payments, provider: PaymentProvider) -> None:
    """If the provider charged and its answer was lost, the client gets a 5xx, and its retry a 201 for
    that same charge.
    """
    key = payments.key()
    with provider.failing(Fault.DROP_AFTER):
        lost = payments.pay(key)
    reply = payments.pay(key)

    assert_one_charge(payments.books)
    assert len(payments.books.keys) == 1, "all attempts of one payment carry the same provider key"
    assert_problem(lost, *NOT_FINAL)
    assert assert_created(reply)["charge_id"] == payments.books.charges[0].id, "the retry reports that very charge"
    assert_replayed(payments.pay(key), reply)


@behaviour(
    stage=4,
    points=5,
    hidden=True,
    source=brief("The provider", "409: still running there"),
    needs="replay_identical",
    settings=SLOW,
)
@hints(
    "Not every 4xx of the provider is about the card.",
    "Its 409 means that your first request is still running there.",
    "Only 201 and 402 are final; everything else leaves the row unfinished.",
)
@incident(
    'Nearly every story of a double charge is one of three mistakes. This is the first: a time-out read as "failed".'
)
def test_slow_charge_is_unknown(payments: Payments, provider: PaymentProvider) -> None:
    """After PROVIDER_TIMEOUT_MS the client gets a 5xx; while the provider is still busy so does its
    retry; in the end it gets 201.
    """
    key = payments.key()
    with provider.holding():
        slow = payments.post(key)
        provider.until_held()
        assert_problem(slow.response(), *NOT_FINAL)
        early = payments.pay(key)
        assert early.status in BUSY, f"the provider is still at work, so nothing is final, and came {early}"

    reply = payments.pay_until_final(key)
    assert_one_charge(payments.books)
    assert assert_created(reply)["charge_id"] == payments.books.charges[0].id, "the retry reports that very charge"


@behaviour(
    stage=4,
    hidden=True,
    source=brief("The provider", "outcome unknown"),
    needs="reply_lost_after_charge",
)
def test_broken_reply_is_unknown(payments: Payments, provider: PaymentProvider) -> None:
    """A 500, a body cut off or no JSON from the provider proves nothing: a 5xx now, 201 on the retry, one charge."""
    for number, fault in enumerate([Fault.ERROR_AFTER, Fault.TRUNCATE, Fault.GARBAGE], 1):
        key = payments.key()
        with provider.failing(fault):
            reply = payments.pay(key)
        assert_problem(reply, *NOT_FINAL)
        again = payments.pay(key)
        assert len(payments.books.charges) == number, f"the provider {fault.value}: a retry must not charge again"
        assert assert_created(again)["charge_id"] == payments.books.charges[-1].id, "the retry reports that charge"


@behaviour(stage=4, points=5, source=brief("R6", "durable before the first byte"), needs="replay_identical")
@hints(
    "Which comes first in your program: the answer on the wire, or the answer on disk?",
    "What is only in memory, or in a transaction that is still open, is gone with the process.",
    "Commit the answer together with the payment; only when the commit is done, let the handler return.",
)
@incident(
    "The package asgi-idempotency-header 0.2.0 keeps its keys in the memory of the process, so a restart forgets "
    "them all."
)
def test_answered_means_stored(payments: Payments, provider: PaymentProvider) -> None:
    """An answer that a client has seen is replayed after SIGKILL, every time."""
    keys = [payments.key() for _ in range(12)]
    with provider.holding():
        requests = [payments.post(key) for key in keys]
        provider.until_held(12)
    payments.solution.until(lambda: any(request.answered for request in requests), "an answer", "client")
    payments.solution.kill()
    payments.solution.turn()
    seen = [(key, request.response()) for key, request in zip(keys, requests, strict=True) if request.complete]
    payments.restart()

    asked = len(payments.books.asked)
    for key, first in seen:
        assert_created(first)
        assert_replayed(payments.pay(key), first)
    assert len(payments.books.asked) <= asked + 12 - len(seen), "what was answered needs no provider any more"


@behaviour(
    stage=4,
    points=5,
    hidden=True,
    source=brief("R5 to R7", "the death of the process"),
    needs="replay_identical",
)
@hints(
    "Who clears `in progress` when the process dies?",
    "After a restart nothing is in progress.",
    "Keep `running` in memory and `unfinished` on disk; an unfinished row that is not running is carried on.",
)
def test_crash_before_charge(payments: Payments, provider: PaymentProvider) -> None:
    """Killed before the provider executed: after the restart the retry is carried out, once, with the
    same provider key.
    """
    key = payments.key()
    with provider.holding():
        payments.post(key)
        provider.until_held()
        payments.solution.kill()
        provider.drop_held()
    payments.restart()

    reply = payments.pay_until_final(key)
    assert_one_charge(payments.books)
    assert len(payments.books.keys) == 1, "the provider key of the first attempt is used again"
    assert_created(reply)


@behaviour(
    stage=4,
    points=5,
    hidden=True,
    source=brief("R6", "durable before the provider is called"),
    needs=("replay_identical", "crash_before_charge"),
)
@hints(
    "What must be on disk before you call the provider?",
    "Without the provider key of the first attempt you can't ask about it.",
    "Commit identity, fingerprint and provider key; call; then commit payment and answer in one transaction.",
)
@incident(
    "Nearly every story of a double charge is one of three mistakes. This is the third: a crash between the "
    "charge and the commit."
)
def test_crash_after_charge(payments: Payments, provider: PaymentProvider) -> None:
    """Killed between the charge and the commit, even with the reply unread in the socket: the retry
    reports that very charge.
    """
    held, unread = payments.key(), payments.key()
    with provider.holding(executed=True):
        payments.post(held, 500)
        provider.until_held()
        payments.post(unread, 700)
        provider.until_held(2)
        with payments.solution.frozen():
            provider.release_one()
            payments.solution.kill()
        provider.drop_held()
    payments.restart()

    replies = payments.pay_until_final(held, 500), payments.pay_until_final(unread, 700)
    assert sorted(payments.books.amounts) == [500, 700], "what was charged before the crash is not charged again"
    for reply, charge in zip(replies, payments.books.charges, strict=True):
        assert assert_created(reply)["charge_id"] == charge.id, "the retry reports that very charge"


@behaviour(
    stage=4,
    hidden=True,
    source=brief("R3, R6", "a key stays bound to its payload"),
    needs=("mismatch_422", "crash_before_charge"),
)
def test_mismatch_after_crash(payments: Payments, provider: PaymentProvider) -> None:
    """A key whose request died with the process is still bound to its payload."""
    key = payments.key()
    with provider.holding():
        payments.post(key, 500)
        provider.until_held()
        payments.solution.kill()
        provider.drop_held()
    payments.restart()

    other = payments.pay(key, 700)
    assert 700 not in payments.books.amounts, "another payload under the same key is never charged"
    assert_problem(other, 409, 422)
    assert_created(payments.pay_until_final(key, 500))
    assert_one_charge(payments.books)


@behaviour(
    stage=4,
    hidden=True,
    source=brief("R4, R7", "recovery is no exception"),
    needs="crash_before_charge",
)
def test_recovery_stampede(payments: Payments, provider: PaymentProvider) -> None:
    """Twenty retries at once after a crash lead to one running provider request at a time, and one charge."""
    key = payments.key()
    with provider.holding():
        payments.post(key)
        provider.until_held()
        payments.solution.kill()
        provider.drop_held()
    payments.restart()

    with provider.holding():
        with payments.solution.frozen():
            requests = [payments.post(key) for _ in range(20)]
        payments.settled()
    for request in requests:
        request.response()
    assert_created(payments.pay_until_final(key))
    assert payments.books.overlaps == 0, "one attempt at a time: the others wait, or get 409"
    assert_one_charge(payments.books)


@behaviour(
    stage=4,
    points=5,
    hidden=True,
    source=brief("R6", "payment and answer appear together"),
    needs=("read_back", "crash_before_charge"),
)
@hints(
    "When does a payment come into being: when you ask, or when you know?",
    "Two commits leave a moment between them in which one is there and the other is not.",
    "Write the payment and the stored answer in one transaction, and only for the provider's 201.",
)
def test_ledger_matches_provider(payments: Payments, provider: PaymentProvider) -> None:
    """After faults and a crash GET /payments lists exactly one payment per charge."""
    keys = {payments.key(): amount for amount in range(100, 108)}
    faults = [None, Fault.DROP_AFTER, Fault.UNAVAILABLE, Fault.ERROR_AFTER]
    for number, (key, amount) in enumerate(list(keys.items())[:6]):
        fault = faults[number % 4]
        if fault is None:
            payments.pay(key, amount)
            continue
        with provider.failing(fault):
            payments.pay(key, amount)
    with provider.holding(executed=True):
        for key, amount in list(keys.items())[6:]:
            payments.post(key, amount)
        provider.until_held(2)
        payments.solution.kill()
        provider.drop_held()
    payments.restart()

    for key, amount in keys.items():
        assert_created(payments.pay_until_final(key, amount))
    listed = [each["charge_id"] for each in payments.listed()]
    charged = [charge.id for charge in payments.books.charges]
    assert sorted(payments.books.amounts) == sorted(keys.values()), "each key is charged once"
    assert sorted(listed) == sorted(charged), "one payment is listed for each charge"


@behaviour(
    stage=4,
    points=5,
    source=draft("2.3", "Idempotency Key Validity and Expiry", "R9"),
    needs="replay_identical",
    settings=SHORT_LIVED,
)
@hints(
    "Your key is new, but is the provider's?",
    "A provider key that is computed from account and key alone never changes.",
    "Generate it when the row is created, so that a new row has a new one.",
)
def test_key_expires(payments: Payments, provider: PaymentProvider) -> None:
    """KEY_TTL_MS after its first use a key is new: the same request is a new payment with a new charge;
    before, it is replayed.
    """
    key, first = replayed_in_time(payments)
    before = len(payments.books.charges)
    deadline = waiting.now() + 10 * TTL / 1000
    while (reply := payments.pay(key)).body == first.body and waiting.now() < deadline:
        waiting.elapse(payments.solution, 10)

    assert reply.status == 201, f"a key that is forgotten is new, and came {reply}"
    assert reply.body != first.body, f"KEY_TTL_MS is {TTL}, and after {10 * TTL} ms the old answer is still replayed"
    assert len(payments.books.charges) == before + 1, "a new payment needs a new charge"
    assert reply.json()["charge_id"] == payments.books.charges[-1].id, "the new payment reports its own charge"


def replayed_in_time(payments: Payments) -> tuple[str, Response]:
    """A key whose answer was replayed within its time to live; slow machines need several keys to get there."""
    for _ in range(20):
        key, began = payments.key(), waiting.now()
        first = payments.pay(key)
        again = payments.pay(key)
        if waiting.now() - began < TTL / 1000:
            assert_created(first)
            assert_replayed(again, first)
            return key, first
    raise LimitReached(f"20 times in a row two requests took longer than KEY_TTL_MS, {TTL} ms: the machine is too busy")


@behaviour(
    stage=4,
    hidden=True,
    source=brief("R9", "a request in flight does not expire"),
    needs="duplicate_in_flight",
    settings=SHORT_LIVED,
)
def test_in_flight_never_expires(payments: Payments, provider: PaymentProvider) -> None:
    """A charge that runs longer than KEY_TTL_MS is still protected from its duplicates."""
    key = payments.key()
    with provider.holding():
        first = payments.post(key)
        provider.until_held()
        waiting.elapse(payments.solution, 1.2 * TTL)
        second = payments.post(key)
        payments.settled()
        assert len(payments.books.asked) == 1, "the first request is still running, however old its key is"
    assert_created(first.response())
    assert second.response().status in {201, 409}, "the duplicate gets the first's answer, or 409"
    assert_one_charge(payments.books)


# -- stage 5: scale -------------------------------------------------------------------------------------------------


@behaviour(stage=5, source=brief("R1 to R4", "all of it at once"), needs="duplicate_in_flight")
def test_mass_duplicates(payments: Payments) -> None:
    """30 keys, 4 copies of each, shuffled and at once: 30 charges, and one body for each key."""
    keys = [payments.key() for _ in range(30)]
    copies = [key for key in keys for _ in range(4)]
    payments.chance.shuffle(copies)
    requests = [(key, payments.post(key)) for key in copies]

    bodies: dict[str, set[bytes]] = {key: set() for key in keys}
    for key, request in requests:
        reply = request.response()
        assert reply.status in {201, 409}, f"201 or 409 is owed, and came {reply}"
        if reply.status == 201:
            bodies[key].add(reply.body)
    assert len(payments.books.charges) == 30, f"30 keys, 30 charges, and there were {len(payments.books.charges)}"
    assert all(len(each) == 1 for each in bodies.values()), "each key has one answer"


@behaviour(stage=5, hidden=True, alone=True, source=brief("Scale", "the cost of a payment"), needs="mass_duplicates")
def test_cost_stays_flat(payments: Payments) -> None:
    """A payment costs the same however many keys are stored."""

    def cost(number: int) -> float:
        before = payments.solution.cpu_seconds()
        for _ in range(number // 10):
            batch = [payments.post(payments.key(), description="€" * 500) for _ in range(10)]
            for request in batch:
                assert_created(request.response())
        return (payments.solution.cpu_seconds() - before) / number

    cost(10)
    early = min(cost(10) for _ in range(2))
    cost(150)
    late = min(cost(10) for _ in range(2))
    assert len(payments.books.charges) == 200, f"200 payments, and {len(payments.books.charges)} charges"
    assert late <= 2.5 * early + 0.0002, (
        f"a payment cost {early * 1000:.2f} ms of CPU at first, and {late * 1000:.2f} ms behind 180 more"
    )
