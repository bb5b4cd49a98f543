"""What a bot API owes its producers and the bots that wait for updates: the behaviours of the kata `long_polling`.

The harness is every producer and every bot. That a call waits is shown by quiet: the solution rests, and the call is
not answered; then an update comes, and it is. A second lasts ten of them here, so no wait ends by itself, but where a
behaviour is about that.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlencode

import pytest

from harness import waiting
from harness.behaviour import Source, behaviour, hints, incident, rfc
from harness.solution.program import STOPPED, Solution
from harness.wire.http1 import Client, Headers, Request, Response
from harness.wire.raw_http import RawClient, request

KIB = 1024
SECOND = 3  # ms, where waits are to end
SHORT = {"SECOND_MS": SECOND}
LONG = 50  # seconds, the longest wait
LARGEST = 64 * KIB
CROWD = 200
RESTING = 0.08  # of a processor
JSON = [("Content-Type", "application/json")]
FORM = [("Content-Type", "application/x-www-form-urlencoded")]
API = "https://core.telegram.org/bots/api"


def telegram(section: str, anchor: str, rule: str) -> Source:
    """A section of the documentation of the Bot API, beside the rule of the brief."""
    return Source(f"README {rule}; Telegram Bot API, {section}", f"{API}#{anchor}")


def brief(rule: str, words: str) -> Source:
    return Source(f"README {rule}, {words}")


def getting(rule: str) -> Source:
    return telegram("getUpdates", "getupdates", rule)


REQUESTS = telegram("Making requests", "making-requests", "The contract")
LONG_POLLING = rfc(6202, "2.1", "HTTP Long Polling: Definition")
ISSUES = rfc(6202, "2.2", "HTTP Long Polling Issues")

Update = dict[str, Any]


class Call(Request):
    """One call of a method, under way."""

    def result(self) -> Any:
        """Wait for its answer, and take the result out of it. Raises Broken."""
        return result_of(self.response())

    def updates(self) -> list[Update]:
        return updates_of(self.response())


class Bot:
    """One bot: its token, those who send it updates, and the calls that it makes."""

    def __init__(self, solution: Solution, chance: random.Random, name: str = "bot") -> None:
        self.solution, self.chance, self.name = solution, chance, name
        self.token = f"{chance.randrange(10**5, 10**6)}:{self.word()}"
        self.client = Client(solution, name)
        self.producer = Client(solution, "chat")

    def word(self) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))

    def another(self, name: str = "other bot") -> Bot:
        return Bot(self.solution, self.chance, name)

    # -- producers ----------------------------------------------------------------------------------------------

    @property
    def inlet(self) -> str:
        return f"/ingest/{self.token}"

    def post(self, document: Any) -> Response:
        """Send an update as it is: a document, or bytes."""
        return self.producer.request("POST", self.inlet, JSON, encoded(document))

    def ingest(self, text: str, kind: str = "message") -> int:
        """Send an update; its id."""
        return id_of(result_of(self.post(update(text, kind))))

    def ingest_all(self, number: int, size: int = 0) -> list[str]:
        """Send numbered updates, each filled up to `size`; their texts."""
        texts = [f"{index}-{self.word()}".ljust(size, ".") for index in range(number)]
        for text in texts:
            self.ingest(text)
        return texts

    def ingesting(self, text: str, who: str = "chat", missing: int = 0, kind: str = "message") -> Call:
        """Send an update, without waiting for the answer."""
        return Call(self.solution, who, "POST", self.inlet, JSON, encoded(update(text, kind)), missing)

    # -- the bot ------------------------------------------------------------------------------------------------

    def target(self, method: str = "getUpdates", **parameters: Any) -> str:
        return f"/bot{self.token}/{method}" + (f"?{urlencode(parameters)}" if parameters else "")

    def call(self, method: str = "getUpdates", **parameters: Any) -> Response:
        """Make a call on the bot's connection, and wait for the answer."""
        return self.client.request("GET", self.target(method, **parameters))

    def updates(self, **parameters: Any) -> list[Update]:
        """Ask for updates, and wait for the answer."""
        return updates_of(self.call(**parameters))

    def polling(self, who: str = "", **parameters: Any) -> Call:
        """Ask for updates on a connection of its own, without waiting for the answer."""
        return Call(self.solution, who or self.name, "GET", self.target(**parameters), [])

    def waiting(self, who: str = "", **parameters: Any) -> Call:
        """A call that waits: the solution rests, and has not answered."""
        call = self.polling(who, **({"timeout": LONG} | parameters))
        self.solution.settled()
        assert not call.answered, f"nothing is there, so the call waits; came {call.response()}"
        return call


def encoded(document: Any) -> bytes:
    return document if isinstance(document, bytes) else json.dumps(document).encode()


def update(text: str, kind: str = "message") -> Update:
    return {kind: {"text": text}}


def id_of(result: Any) -> int:
    assert isinstance(result, dict), f"the answer to an update that is kept has its update_id, and came {result!r}"
    identifier = result.get("update_id")
    assert type(identifier) is int, f"an update_id is a whole number, and not {identifier!r}"
    assert identifier > 0, f"an update_id is positive, and not {identifier}"
    return identifier


def result_of(reply: Response) -> Any:
    """What is in the envelope of a success."""
    assert reply.status == 200, f"200 is owed, and came {reply}"
    document = reply.json()
    assert isinstance(document, dict), f"an answer is a JSON object, and not {document!r}"
    assert document.get("ok") is True, f"`ok` is true in the answer to a call that worked, and came {reply}"
    assert "result" in document, f"an answer has its `result`, and came {reply}"
    return document["result"]


def updates_of(reply: Response) -> list[Update]:
    result = result_of(reply)
    assert isinstance(result, list), f"the result of getUpdates is a list, and not {result!r}"
    for each in result:
        assert isinstance(each, dict), f"each of the updates is an object, and not {each!r}"
        id_of(each)
    return result


def assert_refused(reply: Response, code: int, why: str) -> None:
    assert reply.status == code, f"{why}: {code} is owed, and came {reply}"
    document = reply.json()
    assert isinstance(document, dict), f"{why}: a refusal is a JSON object, and not {document!r}"
    assert document.get("ok") is False, f"{why}: `ok` is false in a refusal, and came {reply}"
    assert document.get("error_code") == code, f"{why}: `error_code` is the status, {code}, and came {reply}"
    description = document.get("description")
    assert isinstance(description, str), f"{why}: a refusal has a `description`, and came {reply}"
    assert description, f"{why}: the `description` of a refusal is not empty"


def texts(updates: Sequence[Update]) -> list[str]:
    return [content["text"] for each in updates for name, content in each.items() if name != "update_id"]


def ids(updates: Sequence[Update]) -> list[int]:
    return [each["update_id"] for each in updates]


def assert_texts(updates: Sequence[Update], wanted: Sequence[str], why: str) -> None:
    came = texts(updates)
    assert came == list(wanted), f"{why}: {brief_list(wanted)} is owed, and came {brief_list(came)}"


def brief_list(words: Sequence[str]) -> str:
    shown = ", ".join(word[:14].rstrip(".") for word in words[:8])
    return f"[{shown}]" if len(words) <= 8 else f"[{shown} and {len(words) - 8} more]"


@pytest.fixture
def bot(solution: Solution, chance: random.Random) -> Iterator[Bot]:
    bot = Bot(solution, chance)
    yield bot
    for client in (bot.client, bot.producer):
        client.close()


# -- stage 1: basics ------------------------------------------------------------------------------------------------


@behaviour(stage=1, source=REQUESTS)
def test_update_comes_back(bot: Bot) -> None:
    """An update that was ingested is returned by getUpdates, unchanged, with the id that its producer was told."""
    content: Update = {
        "message": {"text": bot.word(), "from": {"id": 7, "is_bot": False}, "entities": [], "caption": None}
    }
    told = id_of(result_of(bot.post(content)))

    reply = bot.call()
    assert updates_of(reply) == [{"update_id": told, **content}], f"the update itself is owed, and came {reply}"
    kind = (reply.header("content-type") or "").partition(";")[0].strip().lower()
    assert kind == "application/json", f"answers are application/json, and this one is {kind!r}"


@behaviour(stage=1, source=getting("U1"), needs="update_comes_back")
def test_unconfirmed_comes_again(bot: Bot) -> None:
    """What was returned and not confirmed is returned again, as often as it is asked for."""
    assert bot.updates() == [], "nothing is there: an empty list is owed, at once"
    told = [bot.ingest(text) for text in ("one", "two")]
    for _ in range(3):
        assert ids(bot.updates()) == told, "to be returned is not to be confirmed: both updates are owed again"


@behaviour(stage=1, points=2, source=getting("U2"), needs="unconfirmed_comes_again")
@hints(
    "Which updates does an offset speak of: those from it on, or those before it?",
    "Everything with a smaller update_id has arrived, and is forgotten for good.",
    "Delete where update_id < offset; then return what is left, from the oldest on.",
)
@incident(
    "The commonest bug of bots is the other side of this rule: they send the id of the last update and not the one "
    "after it, and get it again for ever (python-telegram-bot #43, greyblake/telebot #1)."
)
def test_offset_confirms(bot: Bot) -> None:
    """An offset confirms every update with a smaller id, for good, and no other."""
    told = [bot.ingest(f"update {number}") for number in range(4)]
    assert ids(bot.updates(offset=told[0])) == told, "an offset confirms what is before it, and not the update itself"
    assert ids(bot.updates(offset=told[1] + 1)) == told[2:], "what has a smaller id than the offset is confirmed"
    assert ids(bot.updates()) == told[2:], "what is confirmed does not come again, without an offset either"
    assert ids(bot.updates(offset=told[0])) == told[2:], "a smaller offset brings nothing back"
    assert bot.updates(offset=told[3] + 1) == [], "all is confirmed"


@behaviour(stage=1, source=getting("U3"), needs="offset_confirms")
def test_oldest_first_up_to_limit(bot: Bot) -> None:
    """Updates come oldest first, at most `limit` of them, and the rest with the next calls."""
    wanted = bot.ingest_all(7)
    came: list[Update] = []
    for number in (3, 3, 1):
        updates = bot.updates(limit=3, offset=came[-1]["update_id"] + 1 if came else 0)
        assert len(updates) == number, f"limit is 3: {number} updates are owed now, and {len(updates)} came"
        came += updates
    assert_texts(came, wanted, "oldest first, and each once")
    assert ids(came) == sorted(ids(came)), f"ids rise, and these came: {ids(came)}"


@behaviour(stage=1, points=2, source=LONG_POLLING, needs="update_comes_back")
def test_waits_for_an_update(bot: Bot) -> None:
    """With a timeout, a call for which nothing is there waits, and is answered as soon as an update comes."""
    call = bot.waiting()
    text = bot.word()
    bot.ingest(text)
    assert_texts(call.updates(), [text], "the update that came")

    assert_texts(bot.polling(timeout=LONG).updates(), [text], "who asks when something is there is answered at once")


@behaviour(stage=1, settings=SHORT, source=getting("U5"), needs="waits_for_an_update")
def test_wait_ends_empty(bot: Bot) -> None:
    """When the timeout is over and nothing has come, the answer is an empty list; the next call is as good as any."""
    began = waiting.now()
    updates = bot.polling(timeout=20).updates()
    passed = (waiting.now() - began) * 1000
    assert updates == [], f"nothing was there, and came {updates}"
    assert passed >= 0.9 * 20 * SECOND, (
        f"20 seconds of {SECOND} ms are to be waited, and the answer came in {passed:.0f}"
    )
    bot.ingest("late")
    assert_texts(bot.updates(), ["late"], "what comes after a wait that ended")


@behaviour(
    stage=1, source=telegram("Authorizing your bot", "authorizing-your-bot", "Bots"), needs="waits_for_an_update"
)
def test_bots_are_apart(bot: Bot) -> None:
    """Each bot has its own updates, confirms its own, and waits for its own."""
    other = bot.another()
    mine, theirs = bot.waiting(), other.waiting()
    bot.ingest("mine")
    assert_texts(mine.updates(), ["mine"], "the bot's own update")
    bot.solution.settled()
    assert not theirs.answered, "an update of one bot is no answer to another"
    other.ingest("theirs")
    assert_texts(theirs.updates(), ["theirs"], "the other bot's own update")
    bot.updates(offset=bot.ingest("also mine") + 1_000_000)
    assert bot.updates() == [], "all of the first bot's is confirmed"
    assert_texts(other.updates(), ["theirs"], "a bot confirms for nobody but itself")


@behaviour(stage=1, source=REQUESTS, needs="oldest_first_up_to_limit")
@hints(
    "Where may parameters stand, and who has parsed that place already?",
    "In the query (with GET and with POST), in a form, in JSON; there all are strings, here some are numbers.",
    "Make one dictionary of query and body first; read whole numbers from numbers and strings alike.",
)
def test_ways_to_ask(bot: Bot) -> None:
    """Parameters come in the query of GET or POST, in a form, or in JSON, and mean the same."""
    told = [bot.ingest(f"update {number}") for number in range(8)]
    plain, solution = f"/bot{bot.token}/getUpdates", bot.solution

    def ask(method: str, target: str, headers: Headers, body: bytes, why: str) -> None:
        updates = Call(solution, "bot", method, target, headers, body).updates()
        assert ids(updates) == [told.pop(1)], f"offset and limit as {why}: one update is owed, and came {updates}"

    def wanted() -> dict[str, Any]:
        return {"offset": told[1], "limit": 1}

    ask("GET", f"{plain}?{urlencode(wanted())}", [], b"", "query of GET")
    ask("POST", f"{plain}?{urlencode(wanted())}", [], b"", "query of POST")
    ask("POST", plain, FORM, urlencode(wanted()).encode(), "form")
    ask("POST", plain, JSON, encoded(wanted()), "JSON")
    charset = [("Content-Type", "application/json; charset=utf-8")]
    ask("POST", plain, charset, encoded(wanted() | {"timeout": None, "allowed_updates": None}), "JSON, null is nothing")
    ask("POST", plain, JSON, encoded({"offset": str(told[1]), "limit": "1"}), "JSON, numbers in strings")


BAD = [
    (b"{", "no JSON"),
    (b"[]", "no object"),
    (b"{}", "no member"),
    (b'{"message": {"text": "x"}, "poll": {}}', "two members"),
    (b'{"message": "text"}', "the member is no object"),
    (b'{"message": null}', "the member is null"),
    (b'{"update_id": {}}', "update_id is no type"),
    (b'{"Message!": {}}', "a type is of a to z and _"),
    (b'\xff{"message": {}}', "no UTF-8"),
]


@behaviour(stage=1, source=brief("Ingest", "400 and 413"), needs="waits_for_an_update")
def test_bad_updates_refused(bot: Bot) -> None:
    """Malformed and oversized updates are refused, and no bot ever sees anything of them."""
    call = bot.waiting()
    for body, why in BAD:
        assert_refused(bot.post(body), 400, why)
    empty = len(encoded(update("")))
    assert_refused(bot.post(update("x" * (LARGEST - empty + 1))), 413, f"{LARGEST + 1} bytes")
    largest = "x" * (LARGEST - empty)
    bot.ingest(largest)
    updates = call.updates()
    assert texts(updates) == [largest], f"{LARGEST} bytes are allowed; {len(updates)} updates came: {str(updates)[:80]}"


# -- stage 2: edges -------------------------------------------------------------------------------------------------


@behaviour(stage=2, hidden=True, source=getting("U3"), needs="oldest_first_up_to_limit")
def test_bounds_of_limit(bot: Bot) -> None:
    """`limit` is 100 if it is not given, and is brought within 1 and 100 if it is."""
    bot.ingest_all(101)
    for limit, number in (("", 100), (100, 100), (1000, 100), (0, 1), (-7, 1)):
        came = len(bot.updates(limit=limit))
        assert came == number, f"with limit={limit} {number} of 101 updates are owed, and {came} came"


@behaviour(stage=2, hidden=True, settings=SHORT, source=getting("U5"), needs="wait_ends_empty")
def test_longest_wait(bot: Bot) -> None:
    """No call waits for more than 50 seconds, however long its timeout; and none waits if it is below 1."""
    assert bot.polling(timeout=-1).updates() == [], "a timeout below 0 is 0"
    began = waiting.now()
    updates = bot.polling(timeout=1_000_000).updates()
    passed = (waiting.now() - began) * 1000
    assert updates == [], f"nothing was there, and came {updates}"
    assert passed >= 0.9 * LONG * SECOND, f"{LONG} seconds of {SECOND} ms are waited, and it were {passed:.0f} ms"
    bot.ingest("late")
    assert_texts(bot.updates(), ["late"], "what comes after a wait that ended")


@behaviour(stage=2, hidden=True, points=3, source=getting("U4"), needs="offset_confirms")
@hints(
    "What does -2 leave, and what becomes of the rest?",
    "The last two are left; all before them are confirmed, for good.",
    "Delete all but the newest n first, and only then apply the limit to what is left.",
)
def test_negative_offset(bot: Bot) -> None:
    """A negative offset -n forgets all but the newest n, and what is left is returned, oldest first."""
    wanted = bot.ingest_all(5)
    assert_texts(bot.updates(offset=-9), wanted, "there are fewer than 9: all are left")
    assert_texts(bot.updates(offset=-3, limit=1), wanted[2:3], "3 are left, and the limit is 1")
    assert_texts(bot.updates(), wanted[2:], "the 3 newest are left")
    assert_texts(bot.updates(offset=-1), wanted[4:], "the newest is left")
    assert_texts(bot.updates(offset=0), wanted[4:], "the others are confirmed for good")


@behaviour(stage=2, hidden=True, points=3, source=getting("U2"), needs=("offset_confirms", "waits_for_an_update"))
@hints(
    "A bot has an offset from somewhere else, far above your ids: what does it get tomorrow?",
    "An offset speaks of what is there when the call comes, and never of what comes later.",
    "Confirm by the offset; then return whatever is left, without looking at the offset again.",
)
@incident(
    "Bots that moved to another server kept the offset of the old one, far above the new one's ids "
    "(tdlib/telegram-bot-api #349); who compares it with whatever comes later is deaf until the ids have caught up."
)
def test_offset_from_elsewhere(bot: Bot) -> None:
    """An offset above all ids confirms what is there, and nothing that comes later."""
    told = bot.ingest("old")
    far = told + 1_000_000
    assert bot.updates(offset=far) == [], "all that is there has a smaller id"
    call = bot.waiting(offset=far)
    bot.ingest("new")
    assert_texts(call.updates(), ["new"], "an update that came later than the offset")
    assert_texts(bot.updates(), ["new"], "it is not confirmed")


@behaviour(stage=2, hidden=True, source=REQUESTS, needs="offset_confirms")
def test_bad_parameters_refused(bot: Bot) -> None:
    """Parameters that can't be read are 400, and such a call neither confirms nor waits."""
    told = [bot.ingest(text) for text in ("one", "two")]
    after = told[0] + 1
    for wrong in (
        {"offset": "last"},
        {"offset": "1.5"},
        {"offset": after, "limit": "all"},
        {"offset": after, "timeout": "1s"},
        {"offset": after, "allowed_updates": "message"},
        {"offset": after, "allowed_updates": '{"message": true}'},
        {"offset": after, "allowed_updates": "[1]"},
    ):
        assert_refused(bot.call(**wrong), 400, f"with {wrong}")
    for body in (b"{", b"[]", encoded({"offset": [after]})):
        reply = Call(bot.solution, "bot", "POST", bot.target(), JSON, body).response()
        assert_refused(reply, 400, f"with the body {body!r}")
    assert ids(bot.updates()) == told, "a call that is refused confirms nothing"
    assert ids(bot.updates(offset=after)) == told[1:], "and one that is not does"


@behaviour(stage=2, hidden=True, source=REQUESTS, needs="update_comes_back")
def test_unknown_is_404(bot: Bot) -> None:
    """Unknown methods, malformed tokens and other paths are 404, in the same envelope as all that is refused."""
    told = bot.ingest("here")
    for path in (
        bot.target("getNothing"),
        "/bot/getUpdates",
        "/botnobody/getUpdates",
        f"/bot{bot.token}",
        f"/bot{bot.token}!/getUpdates",
        f"/{bot.token}/getUpdates",
        "/",
    ):
        assert_refused(bot.client.request("GET", path), 404, path)
    reply = bot.producer.request("POST", "/ingest/nobody", JSON, encoded(update("x")))
    assert_refused(reply, 404, "an update for a malformed token")
    assert ids(bot.updates()) == [told], "the bot itself is known"


@behaviour(stage=2, hidden=True, points=3, source=getting("U6"), needs="waits_for_an_update")
@hints(
    "When is it decided whether an update is wanted: when it comes, or when it is asked for?",
    "What is not wanted when it comes is not kept; what is kept stays, whatever the list says later.",
    "Remember the list with the bot, and look at it in ingest.",
)
def test_unwanted_types_not_kept(bot: Bot) -> None:
    """Updates of a type that the bot does not want are not kept and wake nobody; those that are there stay."""
    bot.ingest("edited before", "edited_message")
    call = bot.waiting(allowed_updates='["message", "poll"]', offset=bot.updates()[-1]["update_id"] + 1)
    reply = bot.post(update("unwanted", "edited_message"))
    assert result_of(reply) is None, f"what is not kept has no id: the result is null, and came {reply}"
    bot.solution.settled()
    assert not call.answered, "what the bot does not want is no answer to it"
    bot.ingest("wanted", "poll")
    assert_texts(call.updates(), ["wanted"], "a type that is on the list")

    bot.ingest("kept")
    assert_texts(bot.updates(allowed_updates='["edited_message"]'), ["wanted", "kept"], "what is there stays")


@behaviour(stage=2, hidden=True, source=getting("U6"), needs="unwanted_types_not_kept")
def test_allowed_updates_stay(bot: Bot) -> None:
    """`allowed_updates` holds for the bot until it is told another; an empty list allows everything."""
    other = bot.another()
    bot.updates(allowed_updates='["message"]')
    bot.updates()
    assert result_of(bot.post(update("unwanted", "poll"))) is None, "the list holds beyond the call that brought it"
    other.ingest("theirs", "poll")
    assert_texts(other.updates(), ["theirs"], "the list of one bot says nothing of another")
    body = encoded({"allowed_updates": []})
    assert Call(bot.solution, "bot", "POST", bot.target(), JSON, body).updates() == [], "nothing was kept"
    bot.ingest("anything", "poll")
    assert_texts(bot.updates(), ["anything"], "an empty list allows everything")


STRANGE = ["é 😀 \u2028 \u2029", "\0\x01\x7f", '"\\/\b\f\n\r\t', "", " blank ", "\ufeff", "</script>", "null"]


@behaviour(stage=2, hidden=True, source=rfc(8259, "7", "Strings"), needs="update_comes_back")
def test_content_verbatim(bot: Bot) -> None:
    """Whatever JSON an update holds comes back as the same JSON: any text, numbers, nesting, and odd names."""
    numbers = [0, -1, 9007199254740991, 0.1, 1e300, True, False, None]
    deep: Any = {}
    for _ in range(40):
        deep = {"in": [deep]}
    content: Update = {"business_message": {"": STRANGE, "update_id": 1, "numbers": numbers, "deep": deep, "é": {}}}
    raw = json.dumps(content, ensure_ascii=False).encode()
    told = [id_of(result_of(bot.post(content))), id_of(result_of(bot.post(raw)))]
    assert bot.updates() == [{"update_id": each, **content} for each in told], "the same JSON is owed, and came another"


@behaviour(
    stage=2, hidden=True, source=telegram("deleteWebhook", "deletewebhook", "deleteWebhook"), needs="offset_confirms"
)
def test_pending_can_be_dropped(bot: Bot) -> None:
    """deleteWebhook leaves what is pending, and forgets all of it with drop_pending_updates."""
    wanted = bot.ingest_all(3)
    assert result_of(bot.call("deleteWebhook")) is True, "deleteWebhook is answered with true"
    assert result_of(bot.call("deleteWebhook", drop_pending_updates="false")) is True, "with true, whatever it drops"
    assert_texts(bot.updates(), wanted, "nothing was to be dropped")
    body = encoded({"drop_pending_updates": True})
    call = Call(bot.solution, "bot", "POST", bot.target("deleteWebhook"), JSON, body)
    assert call.result() is True, "deleteWebhook is answered with true"
    assert bot.updates() == [], "all that was pending is dropped"
    bot.ingest("later")
    assert_texts(bot.updates(), ["later"], "what comes later is not dropped")


@behaviour(stage=2, hidden=True, source=rfc(9112, "9.3", "Persistence"), needs="waits_for_an_update")
def test_connection_is_kept(bot: Bot) -> None:
    """A bot makes all its calls on one connection, refused ones and long waits among them."""
    line = RawClient(bot.solution, "bot")
    for number in range(3):
        line.send(request("GET", bot.target(timeout=LONG, offset=-1 if number else 0)), "GET")
        if not number:
            bot.solution.settled()
            assert not line.answered, "nothing is there, so the call waits"
            bot.ingest("one")
        assert_texts(updates_of(line.response()), ["one"], "the update, on the same connection")
        assert_refused(line.ask(request("GET", bot.target("getNothing")), "GET"), 404, "an unknown method")
    assert not line.over, "the connection stays open"


# -- stage 3: concurrency -------------------------------------------------------------------------------------------


@behaviour(stage=3, points=5, source=LONG_POLLING, needs="waits_for_an_update")
@hints(
    "An update comes in the very moment in which a call finds nothing: who tells the call?",
    "Between the look and the entry into the list of those who wait, nothing may happen: no await, no unlocked line.",
    "Look and enter in one step (one thread without await, or one lock), and look again after waking.",
)
@incident(
    "Message brokers have lost what came between two polls since there is long polling: Atmosphere between a "
    "broadcast and the next suspend (#170), a Grails plugin between two events of one action (#10)."
)
def test_no_lost_wake_up(bot: Bot) -> None:
    """An update and a call that come in the same moment meet, whichever is first."""
    for number in range(8):
        one = bot.another("bot")
        with bot.solution.frozen():
            if number % 2:
                sent, call = one.ingesting("now"), one.polling(timeout=LONG)
            else:
                call, sent = one.polling(timeout=LONG), one.ingesting("now")
        id_of(sent.result())
        assert_texts(call.updates(), ["now"], "an update that came together with the call")


@behaviour(
    stage=3, hidden=True, points=5, source=getting("U1"), needs=("waits_for_an_update", "unconfirmed_comes_again")
)
@hints(
    "Where is an update while its answer is on the way?",
    "To hand it to a waiting call instead of keeping it is the same as to lose it.",
    "Always store, then wake; whoever is woken reads from the store.",
)
@incident(
    "Atmosphere 2.2.4 lost the first message that was pushed after a long-polling client had vanished: it had been "
    "handed to a connection that nobody was reading (Atmosphere #1820)."
)
def test_answer_confirms_nothing(bot: Bot) -> None:
    """An update that answered a waiting call stays until it is confirmed, also when that call's client is gone."""
    call = bot.waiting()
    bot.ingest("one")
    assert_texts(call.updates(), ["one"], "the update that came")
    assert_texts(bot.updates(), ["one"], "nobody has confirmed it")
    gone = bot.waiting(offset=bot.updates()[-1]["update_id"] + 1)
    with bot.solution.frozen():
        gone.hang_up()
        sent = bot.ingesting("two")
    id_of(sent.result())
    assert_texts(bot.updates(timeout=LONG), ["two"], "the update whose answer nobody read")


@behaviour(stage=3, hidden=True, source=getting("U2"), needs=("offset_confirms", "waits_for_an_update"))
def test_call_confirms_at_once(bot: Bot) -> None:
    """A call confirms when it comes, and not when it is answered."""
    bot.ingest("one")
    call = bot.waiting("waiter", offset=bot.updates()[-1]["update_id"] + 1)
    call.hang_up()
    bot.solution.settled()
    assert bot.updates() == [], "the call that waited has confirmed it"
    bot.ingest("two")
    assert_texts(bot.updates(), ["two"], "what came later is not confirmed")


@behaviour(stage=3, hidden=True, source=getting("U4"), needs=("negative_offset", "waits_for_an_update"))
def test_negative_offset_counts_once(bot: Bot) -> None:
    """A negative offset forgets what is there when the call comes, and nothing that comes while it waits."""
    bot.ingest("before")
    assert bot.updates(offset=bot.updates()[-1]["update_id"] + 1) == [], "all is confirmed"
    call = bot.waiting(offset=-1)
    with bot.solution.frozen():
        sent = [bot.ingesting(f"update {number}", f"chat {number}") for number in range(3)]
    for each in sent:
        id_of(each.result())
    first = call.updates()
    assert first, "an update has come: the call is answered with it"
    assert sorted(texts(bot.updates())) == [f"update {number}" for number in range(3)], "all three came while it waited"


@behaviour(stage=3, points=3, source=brief("U7", "one call waits"), needs="waits_for_an_update")
@hints(
    "Two calls of one bot wait, and an update comes: who gets it?",
    "The later call takes the place, and the earlier one is answered at once, with 409.",
    "Keep one entry for each bot; and when the earlier call leaves, let it not remove the entry of the later one.",
)
@incident(
    "In SignalR an earlier poll that was cancelled marked the connection idle while a new poll was waiting already, "
    "and it was cleaned up under its client (aspnet/SignalR #2700)."
)
def test_second_poller_conflicts(bot: Bot) -> None:
    """When a second call of a bot waits, the first is answered with 409 at once, and the second gets the updates."""
    other = bot.another()
    elsewhere = other.waiting()
    first = bot.waiting("first")
    second = bot.polling("second", timeout=LONG)
    assert_refused(first.response(), 409, "another call of this bot waits now")
    bot.solution.settled()
    assert not second.answered, "the later call waits"
    assert not elsewhere.answered, "the calls of another bot are not in the way"
    bot.ingest("for the second")
    assert_texts(second.updates(), ["for the second"], "the update, to the call that waits")
    other.ingest("for the other")
    assert_texts(elsewhere.updates(), ["for the other"], "and the other bot's own")


@behaviour(stage=3, hidden=True, source=brief("U7", "one call waits"), needs="second_poller_conflicts")
def test_only_one_waits(bot: Bot) -> None:
    """Of many calls of one bot in the same moment one waits in the end, and all others are answered with 409."""
    with bot.solution.frozen():
        calls = [bot.polling(f"poller {number}", timeout=LONG) for number in range(6)]
    bot.solution.settled()
    answered = [call for call in calls if call.answered]
    assert len(answered) == 5, f"one of six calls waits, the others are answered; {len(answered)} are"
    for call in answered:
        assert_refused(call.response(), 409, "another call of this bot waits now")
    bot.ingest("for the one")
    (left,) = [call for call in calls if call not in answered]
    assert_texts(left.updates(), ["for the one"], "the update, to the one call that waits")


@behaviour(stage=3, hidden=True, source=brief("U7", "a conflict loses nothing"), needs="second_poller_conflicts")
def test_conflict_loses_nothing(bot: Bot) -> None:
    """An update that comes in the moment of a conflict reaches the later call, whatever the earlier one is told."""
    for number in range(4):
        one = bot.another("bot")
        first = one.waiting("first")
        with bot.solution.frozen():
            if number % 2:
                sent, second = one.ingesting("now"), one.polling("second", timeout=LONG)
            else:
                second, sent = one.polling("second", timeout=LONG), one.ingesting("now")
        id_of(sent.result())
        assert_texts(second.updates(), ["now"], "the update is not confirmed")
        reply = first.response()
        if reply.status == 200:
            assert_texts(updates_of(reply), ["now"], "who was woken before the conflict gets it as well")
        else:
            assert_refused(reply, 409, "another call took the place")


@behaviour(stage=3, hidden=True, source=brief("U7", "who left is nobody"), needs="second_poller_conflicts")
def test_leaver_takes_nobody_along(bot: Bot) -> None:
    """A client that leaves while a new call of its bot comes takes neither the call nor an update with it."""
    for number in range(4):
        one = bot.another("bot")
        first = one.waiting("first")
        with bot.solution.frozen():
            if number % 2:
                first.hang_up()
                second = one.polling("second", timeout=LONG)
            else:
                second = one.polling("second", timeout=LONG)
                first.hang_up()
        bot.solution.settled()
        assert not second.answered, f"nothing is there, so the call waits; came {second.response()}"
        one.ingest("for the second")
        assert_texts(second.updates(), ["for the second"], "the update, to the call that waits")


@behaviour(
    stage=3,
    hidden=True,
    points=5,
    source=brief("Ingest", "ids follow the order of keeping"),
    needs=("offset_confirms", "waits_for_an_update"),
)
@hints(
    "When does an update get its id, and when can a bot see it?",
    "If an update with a smaller id becomes visible later than one with a larger id, an offset jumps over it.",
    "Take the id in the same step that keeps the update, when its body is complete, and let nothing come between.",
)
@incident(
    "Whoever pages through a table by a sequence meets this: numbers are given when a transaction begins, rows are "
    "seen when it commits, and a reader that has moved past the larger number never sees the smaller one."
)
def test_late_one_not_skipped(bot: Bot) -> None:
    """An update that began first and was complete last is not jumped over by an offset."""
    slow = bot.ingesting("began first", "slow chat", missing=1)
    bot.solution.settled()
    bot.ingest("began second")
    updates = bot.updates()
    assert_texts(updates, ["began second"], "an update whose body is not complete is not there yet")
    call = bot.waiting(offset=updates[-1]["update_id"] + 1)
    slow.connection.send(encoded(update("began first"))[-1:])
    late = id_of(slow.result())
    assert_texts(call.updates(), ["began first"], "it is complete now")
    assert late > updates[-1]["update_id"], f"what is kept later has a larger id, and this got {late}"
    assert_texts(bot.updates(offset=late), ["began first"], "and nobody has confirmed it")


@behaviour(stage=3, hidden=True, source=brief("Ingest", "ids"), needs=("offset_confirms", "waits_for_an_update"))
def test_parallel_producers(bot: Bot) -> None:
    """A bot that confirms what it gets sees each update of parallel producers once, with the id they were told."""
    told: dict[str, int] = {}
    came: list[Update] = []
    offset = 0
    for round_ in range(5):
        sent = {f"p{number} {round_}": bot.ingesting(f"p{number} {round_}", f"p{number}") for number in range(6)}
        while len(came) < 6 * (round_ + 1):
            updates = bot.polling(timeout=LONG, offset=offset).updates()
            assert updates, f"{len(came)} of {6 * (round_ + 1)} updates have come, and a call that waits is owed one"
            came += updates
            offset = came[-1]["update_id"] + 1
        told |= {text: id_of(call.result()) for text, call in sent.items()}
    assert sorted(texts(came)) == sorted(told), "each update comes, and comes once"
    assert ids(came) == sorted(set(ids(came))), f"ids rise, and these came: {ids(came)}"
    assert dict(zip(texts(came), ids(came), strict=True)) == told, "each has the id that its producer was told"


# -- stage 4: faults ------------------------------------------------------------------------------------------------


@behaviour(
    stage=4,
    points=5,
    alone=True,
    source=brief("What survives", "durable when answered"),
    needs="unconfirmed_comes_again",
)
@hints(
    "Which comes first in your program: the answer on the wire, or the update on disk?",
    "What is only in memory, or in a transaction that is still open, is gone with the process.",
    "Commit, or write and flush, before the handler returns; and read it all when you start.",
)
def test_acknowledged_survives_kill(bot: Bot) -> None:
    """After a SIGKILL every update whose producer was answered is there, with its id and in its place."""
    before = [bot.ingest(f"before {number}") for number in range(3)]
    sent = [bot.ingesting(f"update {number}", f"chat {number}") for number in range(12)]
    bot.solution.until(lambda: any(call.answered for call in sent), "an answer", "chat")
    bot.solution.kill()
    bot.solution.turn()
    told = {f"before {number}": each for number, each in enumerate(before)}
    told |= {f"update {n}": id_of(call.result()) for n, call in enumerate(sent) if call.complete}
    bot.solution.restart()

    updates = bot.updates()
    came = dict(zip(texts(updates), ids(updates), strict=True))
    missing = sorted(set(told) - set(came))
    assert not missing, f"{len(told)} updates were acknowledged, and these are gone: {missing}"
    assert {text: came[text] for text in told} == told, "each has the id that its producer was told"
    assert ids(updates) == sorted(set(ids(updates))), f"they come in the order of their ids, and came {ids(updates)}"


@behaviour(
    stage=4, hidden=True, points=5, alone=True, source=brief("What survives", "confirmed"), needs="offset_confirms"
)
@incident(
    "A bot answered every message of the day again at each of 108 restarts in one night: how far it had come was "
    "known in memory only (nbramia/LifeOS #57)."
)
def test_confirmed_stays_confirmed(bot: Bot) -> None:
    """What was confirmed does not come back after a SIGKILL, in whatever way it was; what was not does."""
    other, third = bot.another(), bot.another("third bot")
    told = [bot.ingest(f"update {number}") for number in range(3)]
    for each in (other, third):
        each.ingest_all(2)
        each.ingest("last")
    assert ids(bot.updates(offset=told[1])) == told[1:], "one is confirmed"
    assert_texts(other.updates(offset=-1), ["last"], "all but one are confirmed")
    assert result_of(third.call("deleteWebhook", drop_pending_updates="true")) is True, "all are dropped"
    bot.solution.kill()
    bot.solution.restart()

    assert ids(bot.updates()) == told[1:], "what was confirmed by an offset stays so, and the rest is there"
    assert_texts(other.updates(), ["last"], "what was confirmed by a negative offset stays so")
    assert third.updates() == [], "what was dropped stays so"


@behaviour(stage=4, hidden=True, points=5, alone=True, source=brief("Ingest", "ids"), needs="offset_confirms")
@hints(
    "All is confirmed, the process starts again: which id comes next?",
    "If it is one of an earlier life, the bot's offset confirms the new update before anybody has seen it.",
    "Keep the last id apart from the updates: a counter on disk, or AUTOINCREMENT.",
)
@incident(
    "InnoDB kept its AUTO_INCREMENT counters in memory until MySQL 8.0: after a restart it went on from the largest "
    "id in the table, and gave those of deleted rows again (MySQL bug 199, open for fourteen years)."
)
def test_ids_never_used_again(bot: Bot) -> None:
    """Ids go on rising when everything was confirmed, and after a SIGKILL, so an old offset swallows nothing new."""
    bot.ingest_all(3)
    offset = bot.updates()[-1]["update_id"] + 1
    assert bot.updates(offset=offset) == [], "all is confirmed"
    new = bot.ingest("same life")
    assert new >= offset, f"id {new} was given again after all had been confirmed"
    assert_texts(bot.updates(offset=offset), ["same life"], "a new update is not before the old offset")
    offset = new + 1
    assert bot.updates(offset=offset) == [], "all is confirmed"
    bot.solution.kill()
    bot.solution.restart()

    new = bot.ingest("next life")
    assert new >= offset, f"id {new} was given again after a restart"
    assert_texts(bot.updates(offset=offset), ["next life"], "a new update is not before the old offset")


@behaviour(
    stage=4, hidden=True, alone=True, source=brief("What survives", "allowed_updates"), needs="allowed_updates_stay"
)
def test_wishes_survive_kill(bot: Bot) -> None:
    """What a bot wants is still known after a SIGKILL."""
    bot.updates(allowed_updates='["message"]')
    bot.solution.kill()
    bot.solution.restart()

    assert result_of(bot.post(update("unwanted", "poll"))) is None, "the bot wants messages only"
    call = bot.waiting()
    bot.ingest("wanted")
    assert_texts(call.updates(), ["wanted"], "and gets them")


@behaviour(stage=4, hidden=True, alone=True, points=5, source=ISSUES, needs="waits_for_an_update")
@hints(
    "Who tells a call that waits for an update that its client has gone?",
    "The socket does: it becomes readable, with nothing to read (FIN) or an error (RST).",
    "Watch the socket while the call waits, and end the call; clean up in `finally`.",
)
@incident(
    "SignalR leaked long-polling requests (#1164), and before that its long-polling transport did not learn of "
    "disconnects at all (#574)."
)
def test_gone_clients_are_forgotten(bot: Bot) -> None:
    """A client that goes while it waits is forgotten, long before its timeout, whether it closes or resets."""
    base = settled_sockets(bot)
    bots = [bot.another(f"bot {number}") for number in range(8)]
    calls = [each.polling(timeout=LONG) for each in bots]
    bot.solution.settled()
    held = bot.solution.sockets()
    assert held >= base + 8, f"eight calls wait on a socket each, and there are {held - base} more sockets than before"
    for number, call in enumerate(calls):
        if number % 2:
            call.hang_up()
        else:
            call.connection.close()
    gone = "8 sockets to be closed within 200 ms, since nobody waits there any more"
    bot.solution.until(lambda: bot.solution.sockets() <= base, gone)
    for each in bots[:2]:
        call = each.waiting()
        each.ingest("still here")
        assert_texts(call.updates(), ["still here"], "the bot comes back, and waits as ever")


def settled_sockets(bot: Bot) -> int:
    """How many sockets are open when nobody waits any more: what a program makes for a wait, and keeps, is there."""
    bots = [bot.another(f"early bot {number}") for number in range(8)]
    calls = [each.polling(timeout=LONG) for each in bots]
    bot.solution.settled()
    for each, call in zip(bots, calls, strict=True):
        id_of(each.ingesting("before").result())
        assert_texts(call.updates(), ["before"], "an update")
    bot.solution.settled()
    return bot.solution.sockets()


@behaviour(
    stage=4, hidden=True, alone=True, points=5, source=brief("SIGTERM", "who waits"), needs="waits_for_an_update"
)
@hints(
    "What is your server waiting for after the signal?",
    "Calls that wait for updates end by themselves after fifty seconds; nobody gives you that long.",
    "Set a flag, wake everybody who waits, answer with an empty list, and end.",
)
def test_sigterm_answers_who_waits(bot: Bot) -> None:
    """On SIGTERM every call that waits is answered with an empty list, and the process ends."""
    calls = [bot.another(f"bot {number}").polling(timeout=LONG) for number in range(4)]
    bot.solution.settled()
    bot.ingest("kept")
    bot.solution.terminate()
    for call in calls:
        assert call.updates() == [], "nothing was there: an empty list is owed"
    status = bot.solution.until_exit("to end once every call is answered")
    assert status in STOPPED, f"exit status 0 or an end by SIGTERM is owed, and came {status}"
    bot.solution.restart()
    assert_texts(bot.updates(), ["kept"], "what was acknowledged before the end")


# -- stage 5: scale -------------------------------------------------------------------------------------------------


@behaviour(stage=5, points=5, source=ISSUES, needs="bots_are_apart")
@hints(
    "What does your program do while nothing happens?",
    "A loop that looks again every few milliseconds costs that much for each of thousands of calls.",
    "Let a call sleep until it is woken: an event, a future or a condition for each bot, and no ticks.",
)
def test_waiting_costs_nothing(bot: Bot) -> None:
    """Hundreds of calls wait at once: that takes little memory, and no work; and each is answered with its own."""
    bots = [bot.another(f"bot {number}") for number in range(CROWD)]
    for each in bots[:10]:
        each.updates()
    before = bot.solution.memory_bytes()
    calls = [each.polling(timeout=LONG) for each in bots]
    bot.solution.settled()
    early = next((call for call in calls if call.answered), None)
    assert early is None, f"nothing is there, so all calls wait; came {early.response() if early else ''}"
    grown = (bot.solution.memory_bytes() - before) / CROWD / KIB
    assert grown <= 256, f"a call that waits may take 256 KiB of memory, and takes {grown:.0f}"
    share = min(shares_of_a_processor(bot.solution))
    assert share <= RESTING, f"nothing happened, and the calls kept a processor busy for {share:.0%} of the time"
    for each, call in list(zip(bots, calls, strict=True))[:: CROWD // 10]:
        each.ingest(each.token)
        assert_texts(call.updates(), [each.token], "the bot's own update")
    answered = sum(call.answered for call in calls)
    assert answered == 10, f"ten updates came, for ten bots, and {answered} calls were answered"
    for call in calls:
        call.hang_up()


def shares_of_a_processor(solution: Solution) -> Iterator[float]:
    """How much of the time it works: of one moment if it rests then, else of several. A runtime has its own affairs."""
    for _ in range(3):
        used, began = solution.cpu_seconds(), waiting.now()
        waiting.elapse(solution, 90)
        share = (solution.cpu_seconds() - used) / (waiting.now() - began)
        yield share
        if share <= RESTING:
            return


@behaviour(stage=5, hidden=True, source=ISSUES, needs="bots_are_apart")
def test_nobody_else_is_woken(bot: Bot) -> None:
    """An update costs the same whether many other bots wait or none."""

    def update_and_confirm() -> None:
        bot.updates(offset=bot.ingest("x") + 1)

    alone = cost(bot.solution, update_and_confirm)
    for number in range(CROWD):
        bot.another(f"bot {number}").polling(timeout=LONG)
    bot.solution.settled()
    bound = 2.5 * alone + 0.0003
    crowded = cost(bot.solution, update_and_confirm, bound)
    assert crowded <= bound, (
        f"an update took {alone * 1000:.2f} ms of CPU time, and {crowded * 1000:.2f} ms while {CROWD} other bots waited"
    )


def cost(solution: Solution, act: Callable[[], None], enough: float = 0.0) -> float:
    """Seconds of CPU time for what is done: the least of several measurements, up to the first that is `enough`."""
    least = float("inf")
    for _ in range(12 if enough else 4):
        used = solution.cpu_seconds()
        for _ in range(3):
            act()
        least = min(least, (solution.cpu_seconds() - used) / 3)
        if least <= enough:
            break
    return least


@behaviour(
    stage=5, hidden=True, source=brief("Scale", "a call costs what it returns"), needs="oldest_first_up_to_limit"
)
def test_backlog_costs_nothing(bot: Bot) -> None:
    """What a call costs follows what it returns, and not what is pending behind it."""

    def ask_for_one() -> None:
        assert len(bot.updates(limit=1)) == 1, "limit is 1, and updates are there"

    long = {"message": {"text": "x", "entities": [{"offset": number, "length": 1} for number in range(600)]}}
    result_of(bot.post(long))
    alone = cost(bot.solution, ask_for_one)
    for _ in range(40):
        result_of(bot.post(long))
    bound = 2.5 * alone + 0.0003
    behind = cost(bot.solution, ask_for_one, bound)
    assert behind <= bound, (
        f"one update took {alone * 1000:.2f} ms of CPU time, and {behind * 1000:.2f} ms with 40 more behind it"
    )


@behaviour(stage=5, hidden=True, alone=True, source=brief("Scale", "memory"), needs="offset_confirms")
def test_confirmed_takes_no_memory(bot: Bot) -> None:
    """Memory follows what is pending, and not all that was ever confirmed."""
    rounds, number, size = 30, 12, 60 * KIB
    for _ in range(rounds):
        before = bot.solution.memory_bytes()
        bot.ingest_all(number, size)
        updates = bot.updates(limit=3)
        assert len(updates) == 3, "three of those that are pending"
        assert bot.updates(offset=-1, limit=1), "the newest stays"
        if bot.solution.memory_bytes() - before < number * size / 4:
            return
    raise AssertionError(
        f"{rounds} times {number} updates of {size // KIB} KiB were confirmed, and memory grew each time"
    )
