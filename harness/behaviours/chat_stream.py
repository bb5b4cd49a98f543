"""What the front of a language model owes its clients and its engine: the behaviours of the kata `chat_stream`.

The harness is every client and the engine behind. It says each token when it wants to, so "at once" means: before the
next one exists. A client that does not read is one whose kernel holds what was sent; then the rest waits, for certain,
in the solution or in the engine, and the kernel knows in which of them.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from harness import waiting
from harness.behaviour import Source, behaviour, hints, incident, rfc
from harness.peers.token_engine import Engine, Generation, cut, done_line, token_line
from harness.solution.program import STOPPED, Solution
from harness.verdicts import Broken, NotReached
from harness.wire.chat_completions import Completion
from harness.wire.http1 import Headers, Response

PEERS = [Engine]
KIB = 1024
BIG = 8 * KIB  # bytes of a token that fills sockets
FLOOD = 192  # such tokens: more than sockets and WAITING hold together
PILE = 256 * KIB  # of text: what waits in sockets and the solution, or most of it
WAITING = 512 * KIB  # of a client's text, as the brief has it
KEEPALIVE = 12  # ms: shorter than what `settled` takes for a batch, so nobody settles while a stream has comments
BEATING = {"KEEPALIVE_MS": KEEPALIVE}
FEW = {"MAX_GENERATIONS": 2}
HASTY = {"DRAIN_MS": 20}
ROUND, ROUNDS = 256, 25
KEY = "sk-kata"  # as kata.toml has it
PATH = "/v1/chat/completions"
MODEL = "small"
HELLO = b"Hello"
LOST = "\ufffd"
FREE = object()  # a member of an error that the brief leaves open
OPENAI_URL = "https://platform.openai.com/docs/api-reference"
AT_ONCE = "deltas_at_once"
HTML_URL = "https://html.spec.whatwg.org/multipage/server-sent-events.html"


def brief(rule: str, words: str) -> Source:
    return Source(f"README {rule}, {words}")


def openai(rule: str, words: str, anchor: str = "chat-streaming") -> Source:
    """A page of OpenAI's reference, beside the rule of the brief."""
    return Source(f"README {rule}; OpenAI, {words}", f"{OPENAI_URL}/{anchor}")


UTF8 = Source("README C3; RFC 3629 §3 UTF-8 definition", "https://www.rfc-editor.org/rfc/rfc3629#section-3")
INCOMPLETE = Source("README C8; RFC 9112 §8 Incomplete Messages", "https://www.rfc-editor.org/rfc/rfc9112#section-8")
COMMENTS = Source("README C6; HTML §9.2.7 Authoring notes", f"{HTML_URL}#authoring-notes")


class Chat:
    """The solution in the words of this kata."""

    def __init__(self, solution: Solution, engine: Engine, chance: random.Random) -> None:
        self.solution, self.engine, self.chance = solution, engine, chance
        self.filling = 0.0  # seconds that the last `stuck` took: until then there was room for comments

    def word(self) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))

    def document(self, stream: bool | None = True, **members: Any) -> dict[str, Any]:
        """A good request, with a prompt of its own."""
        messages = [{"role": "user", "content": f"say {self.word()}"}]
        return {"model": MODEL, "messages": messages, "stream": stream, **members}

    def post(
        self,
        who: str,
        document: Any,
        key: str | None = f"Bearer {KEY}",
        target: str = PATH,
        method: str = "POST",
        version: str = "1.1",
        stuck: bool = False,
        accepts: str = "identity",
    ) -> Completion:
        """Send a document, or bytes as they are, and wait for nothing."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        headers: Headers = [("Content-Type", "application/json"), ("Accept-Encoding", accepts)]
        if key is not None:
            headers.append(("Authorization", key))
        return Completion(self.solution, who, method, target, headers, body, version, stuck)

    def asked(self, document: dict[str, Any], completion: Completion) -> Generation:
        """The engine's side of a request, when it has come."""
        prompt = document["messages"][-1]["content"]
        came = lambda: self.engine.asked(prompt) or completion.over  # noqa: E731
        self.solution.until(came, "a request for tokens", "engine")
        generation = self.engine.asked(prompt)
        if generation is None:
            raise Broken(f"the engine is owed a request for tokens; instead {completion.instead}")
        return generation

    def ask(self, who: str, stream: bool | None = True, **members: Any) -> tuple[Completion, Generation]:
        """Both sides of a completion: the engine was asked, and has said nothing yet."""
        document = self.document(stream, **members)
        completion = self.post(who, document)
        return completion, self.asked(document, completion)

    def begun(self, who: str, **members: Any) -> tuple[Completion, Generation]:
        """Both sides of a stream that has begun: its first token has come through."""
        completion, generation = self.ask(who, **members)
        generation.say(HELLO)
        completion.until_stream()
        completion.until_text(HELLO.decode())
        return completion, generation

    def whole(self, *tokens: bytes, reason: str = "stop") -> dict[str, Any]:
        """The answer to a request without `stream`, when the engine says just this."""
        completion, generation = self.ask("client", stream=False)
        generation.say(*tokens)
        generation.done(reason)
        return good(completion.response())

    def works(self) -> None:
        """An ordinary completion is served."""
        completion, generation = self.begun("somebody else")
        generation.done()
        completion.until_done()

    def works_in_full(self) -> None:
        """MAX_GENERATIONS (2) may be under way, and not one more."""
        first, second = self.begun("first"), self.begun("second")
        assert_busy(self.post("third", self.document()).response())
        for completion, generation in (first, second):
            generation.done()
            completion.until_done()
        self.solution.settled()

    def stuck(self, who: str) -> tuple[Completion, Generation]:
        """A client that does not read, and a generation that says more than the sockets and the solution may hold."""
        document = self.document()
        began = waiting.now()  # before the request, from which on there may be comments
        completion = self.post(who, document, stuck=True)
        generation = self.asked(document, completion)
        generation.say(HELLO)
        completion.until_stream()
        generation.say(*[self.big(number) for number in range(FLOOD)])
        self.solution.settled()
        self.filling = waiting.now() - began
        if not self.solution.kernel_holds(completion.connection):
            raise NotReached("the scene could not be set: nothing waits for a client that does not read")
        return completion, generation

    def big(self, number: int) -> bytes:
        return f"{number:<8}".encode().ljust(BIG, b".")

    def flooded(self) -> str:
        """The text of a generation that `stuck` has begun."""
        return (HELLO + b"".join(self.big(number) for number in range(FLOOD))).decode()

    def until_stopped(self, generation: Generation, why: str) -> None:
        """Wait until the solution has hung up on the engine."""
        self.solution.until(lambda: generation.stopped, f"the end of the generation's connection: {why}", "engine")


@pytest.fixture
def engine(solution: Solution) -> Engine:
    return solution.peer(Engine)


@pytest.fixture
def chat(solution: Solution, engine: Engine, chance: random.Random) -> Chat:
    return Chat(solution, engine, chance)


def good(reply: Response) -> dict[str, Any]:
    """The completion in a whole answer."""
    assert reply.status == 200, f"200 and a completion are owed, and came {reply}"
    document = reply.json()
    assert isinstance(document, dict), f"a completion is a JSON object: {reply}"
    choices = document.get("choices")
    assert isinstance(choices, list), f"choices are an array, and not {choices!r}"
    assert len(choices) == 1, f"there is one choice, and not {choices!r}"
    assert isinstance(choices[0].get("message"), dict), f"a choice has a message: {choices[0]!r}"
    return document


def content_of(document: dict[str, Any]) -> Any:
    return document["choices"][0]["message"].get("content")


def assert_error(document: Any, kind: str, code: object = None, param: object = None, why: str = "") -> dict[str, Any]:
    """An error object as the brief has it."""
    error = document.get("error") if isinstance(document, dict) else None
    assert isinstance(error, dict), f'{why}{{"error": {{...}}}} is owed, and came {document!r}'
    missing = {"message", "type", "param", "code"} - error.keys()
    assert not missing, f"{why}an error has message, type, param and code, and here is no {', '.join(sorted(missing))}"
    assert isinstance(error["message"], str), f"{why}the message is a text, and not {error['message']!r}"
    assert error["message"], f"{why}the message says something"
    wanted = {"type": kind, "code": code, "param": param}
    for name, value in wanted.items():
        assert value is FREE or error[name] == value, f"{why}{name} is {value!r} here, and not {error[name]!r}"
    return error


def assert_refused(
    reply: Response, status: int, kind: str, code: object = None, param: object = None, why: str = ""
) -> dict[str, Any]:
    """A status that says an error."""
    reason = f"{why}: " if why else ""
    assert reply.status == status, f"{reason}{status} is owed, and came {reply}"
    content_type = reply.header("content-type") or ""
    assert content_type.startswith("application/json"), f"{reason}an error is application/json, and not {content_type}"
    return assert_error(reply.json(), kind, code, param, reason)


def assert_busy(reply: Response) -> None:
    assert_refused(reply, 429, "rate_limit_error", "rate_limit_exceeded", why="too many generations")
    assert reply.header("retry-after"), "a 429 says when to come again: Retry-After"


def assert_upstream(reply: Response, why: str) -> None:
    assert_refused(reply, 502, "server_error", "upstream_error", why=why)


def assert_told(completion: Completion, why: str, code: object = "upstream_error", kind: str = "server_error") -> str:
    """A stream that ends with an error event, and with nothing that looks like success; the error's message."""
    completion.until(lambda: completion.errors, f"an error event: {why}")
    completion.until_end()
    error = assert_error(completion.errors[0], kind, code, FREE, f"{why}: ")
    assert len(completion.errors) == 1, f"{why}: one error is owed, and {len(completion.errors)} came"
    assert not completion.reasons, f"{why}: nothing was finished, and finish_reason says {completion.reasons[0]!r}"
    assert not completion.done, f"{why}: [DONE] says that all is there, and it is not"
    message: str = error["message"]
    return message


# -- stage 1: basics ------------------------------------------------------------------------------------------------


@behaviour(stage=1, source=openai("Streams", "Streaming"))
def test_stream_head(chat: Chat) -> None:
    """A stream is 200 and text/event-stream; it is not cached, not compressed, and has no length."""
    document = chat.document()
    completion = chat.post("client", document, accepts="gzip, br")
    generation = chat.asked(document, completion)
    generation.say(HELLO)
    completion.until_stream()

    kind = completion.header("content-type").replace(" ", "").lower()
    assert kind in ("text/event-stream", "text/event-stream;charset=utf-8"), f"text/event-stream is owed, not {kind!r}"
    caching = completion.header("cache-control").lower()
    assert "no-store" in caching or "no-cache" in caching, f"Cache-Control keeps caches away, and is {caching!r}"
    assert not completion.header("content-length"), "a stream has no Content-Length"
    assert not completion.header("content-encoding"), "a stream is not compressed"
    generation.done()
    completion.until_done()


@behaviour(stage=1, points=2, source=brief("C2", "at once"))
@hints(
    "What does your program wait for, once it has a token?",
    "Whatever collects (a buffer, a list, the next token) makes the client wait as well.",
    "In the loop over the engine's lines, send the chunk before you ask for the next line.",
)
def test_deltas_at_once(chat: Chat) -> None:
    """Each token is on its way to the client before the next one exists."""
    completion, generation = chat.ask("client")
    text = ""
    for word in (chat.word(), f" {chat.word()}", "!"):
        generation.say(word.encode())
        text += word
        completion.until_stream()
        completion.until_text(text)
    generation.done()
    completion.until_done()
    assert completion.text == text, f"{text!r} is owed, and nothing more: {completion.text!r}"


@behaviour(stage=1, source=openai("C1", "The chat completion chunk object"), needs=AT_ONCE)
def test_chunk_shape(chat: Chat) -> None:
    """All chunks have the stream's id, its time and its model; the first, and only the first, has the role."""
    before = int(waiting.unix_time())
    completion, generation = chat.begun("client")
    generation.say(b" you", b" there")
    generation.done()
    completion.until_done()
    after = int(waiting.unix_time()) + 1  # some round up

    for chunk in completion.chunks:
        assert chunk.get("object") == "chat.completion.chunk", f"object is chat.completion.chunk: {chunk}"
        assert chunk.get("model") == MODEL, f"model is the one that was asked for: {chunk}"
        created = chunk.get("created")
        assert type(created) is int, f"created is an integer: {chunk}"
        assert before <= created <= after, f"created is the time in seconds, about {after}, and not {created}"
    assert_the_same(completion, "id")
    assert isinstance(completion.chunks[0]["id"], str), "id is a text"
    assert completion.chunks[0]["id"], "id is not empty"
    assert all(choice.get("index") == 0 for choice in completion.choices), "the index of the only choice is 0"
    assert all("finish_reason" in choice for choice in completion.choices), "finish_reason is there, and mostly null"
    roles = [choice["delta"].get("role") for choice in completion.choices]
    assert roles[0] == "assistant", f"the first delta says the role, assistant, and not {roles[0]!r}"
    assert not any(roles[1:]), f"only the first delta says the role: {roles}"
    others, other = chat.begun("another client")
    assert others.chunks[0]["id"] != completion.chunks[0]["id"], "each completion has an id of its own"
    other.done()


def assert_the_same(completion: Completion, name: str) -> None:
    values = list(dict.fromkeys(chunk.get(name) for chunk in completion.chunks))
    assert len(values) == 1, f"{name} is the same in all chunks of a stream, and here are {values}"


REASONS = ("stop", "length", "tool_calls", "content_filter")


@behaviour(stage=1, source=openai("C1", "finish_reason"), needs=AT_ONCE)
@incident(
    "Perplexity's API ended its streams without [DONE] (api-discussion #209), though some clients take it for the "
    "only sign that all is there."
)
def test_stream_ends(chat: Chat) -> None:
    """The last chunk has an empty delta and the engine's reason; behind it come [DONE] and the end of the response."""
    for reason in REASONS:
        completion, generation = chat.begun("client")
        generation.done(reason)
        completion.until_done()
        assert completion.reasons == [reason], f"finish_reason is {reason!r}, once, and here are {completion.reasons}"
        last = completion.choices[-1]
        assert last["finish_reason"] == reason, "it stands in the last chunk"
        assert not last["delta"].get("content"), f"the delta of the last chunk is empty: {last}"
        document = chat.whole(HELLO, reason=reason)
        came = document["choices"][0].get("finish_reason")
        assert came == reason, f"a whole answer says it too: {reason!r}, and not {came!r}"


@behaviour(stage=1, source=openai("C5", "stream_options, include_usage"), needs="stream_ends")
def test_usage_on_request(chat: Chat) -> None:
    """With include_usage one more chunk, without choices, tells the usage before [DONE]; without it none does."""
    completion, generation = chat.begun("client", stream_options={"include_usage": True})
    generation.done("stop", 11, 4)
    completion.until_done()
    last, before = completion.chunks[-1], completion.chunks[:-1]
    assert last["choices"] == [], f"the chunk with the usage has no choices: {last}"
    assert_usage(last.get("usage"), 11, 4)
    assert all("usage" in chunk and chunk["usage"] is None for chunk in before), "all others have `usage: null`"
    assert_the_same(completion, "id")

    unasked: list[dict[str, Any]] = [{"stream_options": {"include_usage": False}}, {"stream_options": {}}, {}]
    for members in unasked:
        completion, generation = chat.begun("client", **members)
        generation.done()
        completion.until_done()
        assert not any(chunk.get("usage") for chunk in completion.chunks), "nobody asked for the usage"
        assert all(chunk["choices"] for chunk in completion.chunks), "nobody asked for a chunk without choices"


def assert_usage(usage: Any, asked: int, answered: int) -> None:
    wanted = {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}
    assert isinstance(usage, dict), f"usage is an object, and not {usage!r}"
    came = {name: usage.get(name) for name in wanted}
    assert came == wanted, f"the engine counted {wanted}, and usage says {came}"


@behaviour(stage=1, source=openai("Whole answers", "The chat completion object", "chat/object"))
def test_whole_answer(chat: Chat) -> None:
    """Without `stream` the whole text comes at once, in one object, with usage."""
    before = int(waiting.unix_time())
    ids = []
    forms: list[dict[str, Any]] = [{"stream": False}, {"stream": None}, {}]
    for form in forms:
        asked = chat.document() | form
        if not form:
            del asked["stream"]
        completion = chat.post("client", asked)
        generation = chat.asked(asked, completion)
        generation.say(b"Hel", b"lo ", b"you")
        generation.done("stop", 5, 3)
        reply = completion.response()
        document = good(reply)
        kind = reply.header("content-type") or ""
        assert kind.startswith("application/json"), f"a whole answer is application/json, and not {kind!r}"
        assert document.get("object") == "chat.completion", f"object is chat.completion: {document}"
        assert document.get("model") == MODEL, f"model is the one that was asked for: {document}"
        message, choice = document["choices"][0]["message"], document["choices"][0]
        assert (message.get("role"), message.get("content")) == ("assistant", "Hello you"), (
            f"the text is owed: {message}"
        )
        assert (choice.get("index"), choice.get("finish_reason")) == (0, "stop"), f"index 0, and the reason: {choice}"
        assert_usage(document.get("usage"), 5, 3)
        created = document.get("created")
        assert type(created) is int, f"created is an integer, and not {created!r}"
        assert before <= created <= waiting.unix_time() + 1, f"created is the time in seconds, and not {created}"
        ids.append(document.get("id"))
    assert all(isinstance(each, str) and each for each in ids), f"id is a text: {ids}"
    assert len(set(ids)) == 3, "each completion has an id of its own"


@behaviour(stage=1, source=brief("The engine", "what is asked"))
def test_engine_is_asked(chat: Chat, engine: Engine) -> None:
    """The engine is asked once for each completion, for just what the client wants, and without the client's key."""
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    members = {"max_tokens": 17, "temperature": 0, "stop": ["\n"], "tools": tools}
    for stream in (True, False):
        seen = len(engine.generations)
        messages = [{"role": "system", "content": "Be kurz. 😀\n"}, {"role": "user", "content": f"say {chat.word()}"}]
        completion, generation = chat.ask("client", stream, messages=messages, **members)
        wanted = {"model": MODEL, "messages": messages, **members}
        came = {name: generation.document.get(name) for name in wanted}
        assert came == wanted, f"the engine is owed {wanted}, and was asked for {came}"
        kind = generation.incoming.header_values("content-type")
        assert "".join(kind).startswith("application/json"), f"what the engine is asked is JSON, and not {kind}"
        assert not generation.incoming.header_values("authorization"), (
            "the client's key is none of the engine's business"
        )
        generation.say(HELLO)
        generation.done()
        completion.until_end()
        assert completion.status == 200, f"200 is owed, and came {completion.status}"
        assert len(engine.generations) == seen + 1, "one completion is one request to the engine"
    assert not engine.malformed, f"the engine understands only POST /generate with an object: {engine.malformed}"


USER = [{"role": "user", "content": "hi"}]
GOOD = {"model": MODEL, "messages": USER}
BAD: list[tuple[Any, str | None]] = [
    (b"{", None),
    ([], None),
    ("text", None),
    ({"messages": USER}, "model"),
    (GOOD | {"model": 7}, "model"),
    (GOOD | {"model": ""}, "model"),
    ({"model": MODEL}, "messages"),
    (GOOD | {"messages": []}, "messages"),
    (GOOD | {"messages": None}, "messages"),
    (GOOD | {"messages": "hi"}, "messages"),
    (GOOD | {"messages": [*USER, "hi"]}, "messages"),
    (GOOD | {"messages": [{"content": "hi"}]}, "messages"),
    (GOOD | {"stream": "yes"}, "stream"),
    (GOOD | {"stream": 1}, "stream"),
    (GOOD | {"stream_options": {"include_usage": True}}, "stream_options"),
    (GOOD | {"stream": True, "stream_options": []}, "stream_options"),
    (GOOD | {"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options"),
    (GOOD | {"max_tokens": 0}, "max_tokens"),
    (GOOD | {"max_tokens": "9"}, "max_tokens"),
    (GOOD | {"max_tokens": 1.5}, "max_tokens"),
    (GOOD | {"max_tokens": True}, "max_tokens"),
    (GOOD | {"n": 2}, "n"),
]


@behaviour(stage=1, source=rfc(9110, "15.5.1", "400 Bad Request"), needs="whole_answer")
def test_bad_requests_400(chat: Chat, engine: Engine) -> None:
    """What is missing or wrong is 400, with the member's name, and does not reach the engine."""
    for document, param in BAD:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        reply = chat.post("client", body).response()
        assert_refused(reply, 400, "invalid_request_error", None, param, body[:90].decode(errors="replace"))
    nulls: dict[str, Any] = dict.fromkeys(("stream_options", "max_tokens", "n"))
    completion, generation = chat.ask("client", stream=None, seed=7, user="ann", **nulls)
    generation.say(HELLO)
    generation.done()
    assert content_of(good(completion.response())) == "Hello", "null counts as left out, and other members do no harm"
    assert len(engine.prompts) == 1, f"what is refused with 400 does not reach the engine: {engine.prompts}"


@behaviour(stage=1, source=rfc(9110, "15.5.2", "401 Unauthorized"), needs="whole_answer")
def test_key_401(chat: Chat, engine: Engine) -> None:
    """Without the key, or with another one, it is 401, in both forms, and the engine is not asked."""
    for key in (None, "Bearer", "Bearer sk-other", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY):
        for stream in (True, False):
            reply = chat.post("stranger", chat.document(stream), key).response()
            assert_refused(reply, 401, "invalid_request_error", "invalid_api_key", None, f"Authorization: {key}")
    chat.whole(HELLO)
    assert len(engine.prompts) == 1, f"who has no key costs the engine nothing: {engine.prompts}"


# -- stage 2: edges -------------------------------------------------------------------------------------------------


@behaviour(stage=2, points=3, source=UTF8, needs=AT_ONCE)
@hints(
    "What does one byte of a smiley look like to your decoder?",
    "To decode each token for itself breaks characters; to wait for a whole token's worth of them makes clients wait.",
    "Keep one incremental decoder for each text: `codecs.getincrementaldecoder`, or a TextDecoder with `stream`.",
)
@incident(
    "mlc-llm sent the replacement character for each part of an emoji (#1142), and so did others after it: byte-level"
    " tokenizers cut characters as they like."
)
def test_characters_across_tokens(chat: Chat) -> None:
    """A character goes out whole, as soon as its last byte is there, and what stands before it does not wait."""
    steps = [
        (b"a\xf0\x9f", "a"),
        (b"\x98", "a"),
        (b"\x80b\xc3", "a😀b"),
        (b"\xa9\xe6\xbc", "a😀bé"),
        (b"\xa2.", "a😀bé漢."),
    ]
    steps += [(bytes([byte]), "a😀bé漢.") for byte in "🎉".encode()[:3]] + [(b"\x89", "a😀bé漢.🎉")]
    completion, generation = chat.begun("client")
    for token, text in steps:
        generation.say(token)
        completion.until_text(f"Hello{text}")
    generation.done()
    completion.until_done()
    whole = "Hello" + steps[-1][1]
    assert completion.text == whole, f"{whole!r} is owed, and came {completion.text!r}"
    came = content_of(chat.whole(HELLO, *[token for token, _ in steps]))
    assert came == whole, f"a whole answer has the same text: {whole!r}, and not {came!r}"


@behaviour(stage=2, hidden=True, source=UTF8, needs="characters_across_tokens")
def test_broken_bytes_replaced(chat: Chat) -> None:
    """Bytes that can't become a character become U+FFFD, also those that are left at the end; the stream goes on."""
    tokens = (b"x\xff", b"y", b"\xe2\x82", b"z", b"\x80", b"!\xed\xa0\x80.", b"\xf0\x9f")
    wanted = f"x{LOST}y{LOST}z{LOST}!{LOST}.{LOST}"
    completion, generation = chat.begun("client")
    generation.say(*tokens)
    generation.done()
    completion.until_done()
    came = re.sub(f"{LOST}+", LOST, completion.text.removeprefix("Hello"))
    assert came == wanted, f"{wanted!r} is owed, and came {came!r}"
    assert not completion.choices[-1]["delta"].get("content"), "what is left comes before the last chunk"
    came = re.sub(f"{LOST}+", LOST, str(content_of(chat.whole(*tokens))))
    assert came == wanted, f"a whole answer has the same text: {wanted!r}, and not {came!r}"


ODD = [
    "\ufeff",
    "\n",
    "\r\n",
    "\r",
    '"',
    "\\",
    "\\n",
    "\u2028",
    "\0",
    "\x85",
    "data: x",
    "[DONE]",
    "\n\ndata: [DONE]\n\n",
    "</s>",
    " ",
]


@behaviour(stage=2, hidden=True, source=rfc(8259, "7", "Strings"), needs=AT_ONCE)
def test_text_verbatim(chat: Chat) -> None:
    """The text is what the engine says, character by character, also where it looks like the end of something."""
    completion, generation = chat.ask("client")
    text = ""
    for token in ODD:
        generation.say(token.encode())
        text += token
        completion.until_text(text)
    generation.done()
    completion.until_done()
    assert completion.text == text, f"{text!r} is owed, and came {completion.text!r}"
    came = content_of(chat.whole(*[token.encode() for token in ODD]))
    assert came == text, f"a whole answer has the same text: {text!r}, and not {came!r}"


@behaviour(stage=2, points=3, source=brief("The engine", "half a line or many"), needs=AT_ONCE)
@hints(
    "What do you take for a line: a read, a chunk, or what ends with LF?",
    "A piece of the body is whatever has come; a line may need several, and a piece may hold several.",
    "Keep the bytes behind the last LF, and put the next piece behind them.",
)
def test_lines_cut_anywhere(chat: Chat) -> None:
    """A line of the engine is a line, in whatever pieces it comes, and however many come in one piece."""
    words = [chat.word() for _ in range(12)]
    lines = b"".join(token_line(word.encode()) for word in words)
    for sizes in ([1], [len(lines) // 2, 3], [chat.chance.randint(2, 40) for _ in range(9)], [len(lines) + 999]):
        completion, generation = chat.ask("client")
        for piece in cut(lines, sizes):
            generation.write(piece)
        completion.until_text("".join(words))
        generation.done()
        completion.until_done()
        assert completion.text == "".join(words), f"the words come once, in order: {completion.text!r}"
    completion, generation = chat.ask("client")
    half = token_line(b"half")
    generation.write(token_line(b"one, ") + half[:9])
    completion.until_text("one, ")
    generation.write(half[9:] + done_line())
    completion.until_done()
    assert completion.text == "one, half", f"'one, half' is owed, and came {completion.text!r}"


@behaviour(stage=2, hidden=True, source=openai("C1", "delta"), needs="stream_ends")
def test_empty_answer(chat: Chat) -> None:
    """An engine that is done before its first token is no failure: an empty text, with role and reason."""
    completion, generation = chat.ask("client")
    generation.done("content_filter")
    completion.until_done()
    assert completion.text == "", f"nothing was said, and came {completion.text!r}"
    roles = [choice["delta"].get("role") for choice in completion.choices]
    assert roles[:1] == ["assistant"], f"the first chunk has the role, also here: {completion.choices}"
    assert completion.reasons == ["content_filter"], f"the reason is owed, once: {completion.reasons}"
    came = content_of(chat.whole())
    assert came == "", f"the content of a whole answer without text is the empty text, and not {came!r}"


def merged(completion: Completion) -> dict[Any, tuple[str, str, str]]:
    """The tool calls that a client makes of the deltas: id, name and arguments, by index."""
    calls: dict[Any, tuple[str, str, str]] = {}
    for delta in completion.call_deltas:
        index, function = delta.get("index"), delta.get("function") or {}
        assert type(index) is int, f"each delta of a tool call has its index: {delta}"
        if index not in calls:
            assert delta.get("type") == "function", f"the first delta of a call says its type, function: {delta}"
            assert delta.get("id"), f"the first delta of a call has its id: {delta}"
            assert function.get("name"), f"the first delta of a call has the name of the function: {delta}"
            calls[index] = (delta["id"], function["name"], function.get("arguments") or "")
        else:
            again = delta.get("id") or function.get("name")
            assert not again, f"id and name stand in the first delta of a call, and nowhere else: {delta}"
            identifier, name, arguments = calls[index]
            calls[index] = (identifier, name, arguments + (function.get("arguments") or ""))
    return calls


def until_calls(completion: Completion, number: int, size: int, owed: str) -> None:
    """Wait until so many calls have begun, and the last of them has arguments of that size."""
    completion.until(lambda: len(merged(completion)) == number and len(merged(completion)[number - 1][2]) >= size, owed)


def calls_of(document: dict[str, Any]) -> dict[Any, tuple[str, str, str]]:
    """The tool calls of a whole answer, by their place."""
    calls = document["choices"][0]["message"].get("tool_calls") or []
    assert all(call.get("type") == "function" for call in calls), f"a tool call has a type, function: {calls}"
    told = [(call.get("id"), call["function"].get("name"), call["function"].get("arguments")) for call in calls]
    return dict(enumerate(told))


@behaviour(stage=2, points=3, source=openai("C4", "delta.tool_calls"), needs="stream_ends")
@hints(
    "How does a client know to which call a piece of arguments belongs?",
    "By the index, in every delta; id and name are told once.",
    'The first delta: index, id, type, function.name and "arguments": "". Each later: index and function.arguments.',
)
@incident(
    "Ollama's tool calls came without their index (#7881), and mistral.rs's as well (#1507): OpenAI's own client "
    "could not put them together."
)
def test_tool_call_deltas(chat: Chat) -> None:
    """A tool call begins with index, id, type and name, and goes on with pieces of its arguments, each at once."""
    completion, generation = chat.begun("client")
    wanted = {}
    for index, name in enumerate(("look", "take")):
        identifier, arguments = f"call_{chat.word()}", json.dumps({"what": chat.word()})
        generation.call(index, identifier, name)
        until_calls(completion, index + 1, 0, f"the beginning of call {index}")
        for end in (3, 9, len(arguments)):
            start = len(merged(completion)[index][2])
            generation.arguments(index, arguments[start:end].encode())
            wanted[index] = (identifier, name, arguments[:end])
            owed = f"the arguments of call {index}: {arguments[:end]}"
            until_calls(completion, index + 1, end, owed)
            assert merged(completion) == wanted, f"{wanted} is owed, and came {merged(completion)}"
    generation.done("tool_calls")
    completion.until_done()
    assert completion.reasons == ["tool_calls"], f"finish_reason is tool_calls, and not {completion.reasons}"
    assert completion.text == "Hello", f"arguments are no content: {completion.text!r}"


@behaviour(stage=2, hidden=True, points=3, source=brief("C4", "several calls alternate"), needs="tool_call_deltas")
def test_tool_arguments_interleaved(chat: Chat) -> None:
    """Text and arguments that alternate, and are cut within characters, end up each where they belong."""
    texts = ['{"a": "😀é"}', '{"b": "漢🎉"}']
    ids = [f"call_{chat.word()}" for _ in texts]
    wanted = {index: (ids[index], f"tool{index}", texts[index]) for index in range(2)}

    def say(generation: Generation, content: bytes) -> None:
        for index in range(2):
            generation.call(index, ids[index], f"tool{index}")
        longest = max(len(text.encode()) for text in texts)
        for at in range(longest):
            for index, text in enumerate(texts):
                if piece := text.encode()[at : at + 1]:
                    generation.arguments(index, piece)
            if piece := content[at : at + 1]:
                generation.say(piece)
        generation.done("tool_calls")

    completion, generation = chat.ask("client")
    say(generation, "😀 yes".encode())
    completion.until_done()
    assert merged(completion) == wanted, f"{wanted} is owed, and came {merged(completion)}"
    assert completion.text == "😀 yes", f"the text is owed beside the calls, and came {completion.text!r}"
    for content in ("", "😀 yes"):
        answer, generation = chat.ask("client", stream=False)
        say(generation, content.encode())
        document = good(answer.response())
        assert calls_of(document) == wanted, f"a whole answer has them too: {wanted}, and not {calls_of(document)}"
        came = content_of(document)
        assert came == (content or None), f"the content is {content or None!r} here, and not {came!r}"


@behaviour(stage=2, points=3, source=rfc(6585, "4", "429 Too Many Requests"), needs="whole_answer")
def test_engine_refusals(chat: Chat, engine: Engine) -> None:
    """What the engine refuses is refused by status: no such model 404, too much 429 with its Retry-After, else 502."""
    for stream in (True, False):
        with engine.refusing(404, "there is no model of that name"):
            reply = chat.post("client", chat.document(stream)).response()
            assert_refused(reply, 404, "invalid_request_error", "model_not_found", "model", "the engine said 404")
        with engine.refusing(429, "try later", [("Retry-After", "17")]):
            reply = chat.post("client", chat.document(stream)).response()
            assert_busy(reply)
            after = reply.header("retry-after")
            assert after == "17", f"the engine said Retry-After: 17, and the client was told {after}"
        for status in (400, 401, 500, 503):
            with engine.refusing(status, "not now"):
                reply = chat.post("client", chat.document(stream)).response()
                assert_upstream(reply, f"the engine said {status}")
    assert len(engine.prompts) == 12, f"what was refused is not tried again: {len(engine.prompts)} requests for 12"
    chat.works()


@behaviour(stage=2, source=rfc(9110, "15.5.6", "405 Method Not Allowed"), needs="whole_answer")
def test_paths_and_methods(chat: Chat) -> None:
    """Another path is 404 and another method 405 with Allow, as errors of this API."""
    for target in ("/", "/v1/completions", "/v1/chat", f"{PATH}/x"):
        reply = chat.post("client", chat.document(), target=target).response()
        assert_refused(reply, 404, "invalid_request_error", FREE, FREE, target)
    for method in ("GET", "PUT", "DELETE"):
        reply = chat.post("client", chat.document() if method == "PUT" else b"", method=method).response()
        assert_refused(reply, 405, "invalid_request_error", FREE, FREE, method)
        allowed = {word.strip() for word in (reply.header("allow") or "").split(",")}
        assert "POST" in allowed, f"Allow names POST, and is {sorted(allowed)}"
    chat.works()


@behaviour(stage=2, hidden=True, source=rfc(9112, "6.1", "Transfer-Encoding"), needs="stream_ends")
def test_old_clients(chat: Chat) -> None:
    """A client of HTTP/1.0 gets its stream without chunks, up to the end of the connection."""
    document = chat.document()
    completion = chat.post("old client", document, version="1.0")
    generation = chat.asked(document, completion)
    for number in range(3):
        generation.say("é".encode())
        completion.until_text("é" * (number + 1))
    assert not completion.header("transfer-encoding"), "a client of HTTP/1.0 knows no Transfer-Encoding"
    generation.done()
    completion.until_done()
    document = chat.document(stream=False)
    completion = chat.post("old client", document, version="1.0")
    chat.asked(document, completion).done()
    good(completion.response())


@behaviour(stage=2, hidden=True, source=brief("C2", "`done` is the end"), needs="stream_ends")
def test_done_is_the_end(chat: Chat) -> None:
    """The engine's `done` ends the answer, though the engine leaves its body open, or goes on talking."""
    for behind in (b"", token_line(b"late"), b"\n{"):
        for stream in (True, False):
            completion, generation = chat.ask("client", stream)
            generation.say(HELLO)
            generation.over = True
            generation.write(done_line() + behind)
            completion.until_end()
            if stream:
                assert (completion.text, completion.done) == ("Hello", True), (
                    f"Hello and [DONE], not {completion.text!r}"
                )
            else:
                came = content_of(good(completion.response()))
                assert came == "Hello", f"Hello is owed, and what comes behind `done` means nothing: {came!r}"


# -- stage 3: concurrency -------------------------------------------------------------------------------------------


@behaviour(stage=3, points=4, source=brief("C11", "side by side"), needs="stream_ends")
def test_parallel_streams(chat: Chat) -> None:
    """Streams and whole answers go on side by side, each with its own text, and a silent one holds up nobody."""
    silent, of_silent = chat.ask("silent")
    sides = [chat.ask(f"client {number}", stream=number % 4 != 3) for number in range(8)]
    texts = [""] * len(sides)
    for number in chat.chance.sample([*range(len(sides))] * 4, 4 * len(sides)):
        completion, generation = sides[number]
        word = chat.word()
        texts[number] += word
        generation.say(word.encode())
        if number % 4 != 3:
            completion.until_text(texts[number])
    ids = set()
    for number in chat.chance.sample(range(len(sides)), len(sides)):
        completion, generation = sides[number]
        generation.done()
        if number % 4 != 3:
            completion.until_done()
            assert completion.text == texts[number], f"{completion.name} is owed {texts[number]!r}"
            ids.add(completion.chunks[0].get("id"))
        else:
            document = good(completion.response())
            assert content_of(document) == texts[number], f"{completion.name} is owed {texts[number]!r}: {document}"
            ids.add(document.get("id"))
    assert len(ids) == len(sides), "each completion has an id of its own"
    of_silent.say(HELLO)
    silent.until_text("Hello")
    of_silent.done()
    silent.until_done()


@behaviour(stage=3, points=5, source=brief("C10", "a slow reader"), needs="stream_ends")
@hints(
    "Where are the tokens of a client that does not read?",
    "A task that reads the engine into a queue has moved the problem into your memory.",
    "One loop: read a line, send it, wait until it is sent. Who can't send does not read, and the kernel tells it on.",
)
@incident(
    "mlx-openai-server's worker pushed tokens into an unbounded queue, whether or not anybody took them out (#269)."
)
def test_slow_reader_pauses_engine(chat: Chat) -> None:
    """While a client does not read, the engine is not read either; what it reads later is all of it, in order."""
    completion, generation = chat.stuck("slow")
    line = len(token_line(chat.big(0)))
    given = chat.solution.kernel_holds(completion.connection) + completion.connection.received
    held = generation.taken * BIG // line - given
    assert held <= WAITING, (
        f"{held // KIB} KiB of text wait in the solution for a client that does not read, and {WAITING // KIB} may"
    )
    generation.done()
    completion.read_again()
    completion.until_text(chat.flooded())
    completion.until_done()


@behaviour(stage=3, hidden=True, source=brief("C10, C11", "a slow reader holds up nobody"), needs="stream_ends")
def test_slow_one_isolated(chat: Chat) -> None:
    """A client that does not read delays nobody else."""
    other, of_other = chat.begun("other")
    slow, of_slow = chat.stuck("slow")
    of_other.say(b" you")
    other.until_text("Hello you")
    chat.works()
    came = content_of(chat.whole(HELLO))
    assert came == "Hello", f"others are answered at once, and came {came!r}"
    of_other.done()
    other.until_done()
    of_slow.done()
    slow.read_again()
    slow.until_text(chat.flooded())
    slow.until_done()


@behaviour(stage=3, settings=FEW, source=rfc(6585, "4", "429 Too Many Requests"), needs="stream_ends")
def test_limit_429(chat: Chat, engine: Engine) -> None:
    """With MAX_GENERATIONS under way the next one is 429 at once, and the engine does not hear of it."""
    stream, of_stream = chat.begun("stream")
    whole, of_whole = chat.ask("whole", stream=False)
    of_whole.say(HELLO)
    chat.solution.settled()
    for form in (True, False):
        assert_busy(chat.post("too many", chat.document(form)).response())
    assert len(engine.prompts) == 2, f"what is refused does not reach the engine: {engine.prompts}"
    of_whole.done()
    good(whole.response())
    chat.solution.settled()
    chat.works()
    of_stream.done()
    stream.until_done()


@behaviour(stage=3, hidden=True, settings=FEW, source=brief("C9, C11", "both at once"), needs="limit_429")
def test_abort_meets_end(chat: Chat) -> None:
    """A client that goes in the moment its generation ends costs nobody anything, and gives its place back once."""
    for stream in (True, False):
        for _ in range(2):
            completion, generation = chat.ask("leaver", stream)
            generation.say(HELLO)
            chat.solution.settled()
            with chat.solution.frozen():
                generation.say(b" you")
                generation.done()
                completion.hang_up()
            chat.solution.settled()
    chat.works_in_full()


# -- stage 4: faults ------------------------------------------------------------------------------------------------


def fails_first(generation: Generation) -> None:
    generation.fail("out of memory")


def says_nothing(generation: Generation) -> None:
    generation.finish()


def breaks_off(generation: Generation) -> None:
    generation.begin()
    generation.cut_off()


def hangs_up(generation: Generation) -> None:
    generation.drop()


def raves(generation: Generation) -> None:
    generation.write(b"<html>\n")
    generation.finish()


def ends_in_a_line(generation: Generation) -> None:
    generation.write(done_line()[:-9])
    generation.finish()


FAILURES = {
    "the engine's first line is an error": fails_first,
    "the engine's body ends without a line": says_nothing,
    "the engine breaks off behind its head": breaks_off,
    "the engine hangs up": hangs_up,
    "the engine's first line is no JSON": raves,
}


@behaviour(stage=4, points=5, source=rfc(9110, "15.6.3", "502 Bad Gateway"), needs=("whole_answer", AT_ONCE))
@hints(
    "When do you send the status: before or after you know that it is true?",
    "The engine's 200 only says that it has begun; its first line may be an error.",
    "Send the head of the response with the first event, and until then answer errors by a status.",
)
@incident(
    "Clients got 200 and an error inside it, or nothing at all: NeoGraph #124 and llm_wiki #619 are two of many who "
    "took such an answer for an empty success."
)
def test_error_before_first_chunk(chat: Chat, engine: Engine) -> None:
    """As long as no token has come, a failure of the engine is 502, for a stream as for a whole answer."""
    for stream in (True, False):
        for why, fail in FAILURES.items():
            completion, generation = chat.ask("client", stream)
            fail(generation)
            assert_upstream(completion.response(), why)
        with engine.down():
            chat.solution.settled()
            reply = chat.post("client", chat.document(stream)).response()
            assert_upstream(reply, "nobody listens at ENGINE_URL")
    chat.works()


@behaviour(stage=4, points=5, source=INCOMPLETE, needs="error_before_first_chunk")
@hints(
    "200 is out already. How does the client learn that something went wrong?",
    "An error is an event as well; and a stream that just ends, or says [DONE], looks like success.",
    'Send `data: {"error": {...}}` behind the last chunk, no finish_reason, no [DONE], and end the response properly.',
)
@incident(
    "mistral.rs told an error in the stream and then never ended it: clients waited until their time was over "
    "(#1874). NeoGraph read [DONE] behind an error, and returned an empty success (#124)."
)
def test_error_after_first_chunk(chat: Chat) -> None:
    """Once a stream has begun, a failure is an error event behind all that was said, then the end, without [DONE]."""
    reason = f"out of memory {chat.word()}"
    completion, generation = chat.begun("client", stream_options={"include_usage": True})
    generation.say(b" you", b" the")
    generation.fail(reason)
    message = assert_told(completion, "the engine failed")
    assert reason in message, f"the engine said {reason!r}, and the client was told {message!r}"
    assert completion.text == "Hello you the", f"what was said before is owed before: {completion.text!r}"
    assert all(chunk["choices"] for chunk in completion.chunks), "nothing was finished, and there is no usage"
    chat.works()


@behaviour(stage=4, hidden=True, points=5, source=INCOMPLETE, needs="error_after_first_chunk")
@incident(
    "A stream that breaks off is taken for a short answer by whoever does not look for its end: openclaw #108989 and "
    "NeoGraph #143 are clients that had to learn it."
)
def test_engine_cut_off(chat: Chat) -> None:
    """An engine that breaks off in the middle, in whatever way, is an error event, or 502 for a whole answer."""
    ways: dict[str, Callable[[Generation], None]] = {
        "the engine hangs up": Generation.drop,
        "the engine breaks off": Generation.cut_off,
        "the engine's body ends without `done`": Generation.finish,
        "a line is no JSON": raves,
        "a line is no object": lambda generation: generation.write(b"[1]\n"),
        "a line is of no kind": lambda generation: generation.write(b'{"tok": "eA=="}\n'),
        "the last line has no end": ends_in_a_line,
    }
    for why, break_off in ways.items():
        completion, generation = chat.begun("client")
        generation.over = True
        break_off(generation)
        assert_told(completion, why)
        assert completion.text == "Hello", f"{why}: what was said before stays said, and no more: {completion.text!r}"
        answer, generation = chat.ask("client", stream=False)
        generation.say(HELLO)
        chat.solution.settled()
        generation.over = True
        break_off(generation)
        assert_upstream(answer.response(), why)
    chat.works()


LEAVE: dict[str, Callable[[Completion], None]] = {
    "by RST": Completion.hang_up,
    "by FIN": Completion.leave,
}


@behaviour(stage=4, points=5, source=brief("C9", "a client has gone"), needs=AT_ONCE)
@hints(
    "Which line of your code runs when the user presses Stop?",
    "The engine stops when you hang up on it, and only then; who waits for its next token must notice the client too.",
    "Let the end of the client cancel the handler, and close the engine's connection in `finally`.",
)
@incident(
    "Servers went on generating for clients that had left, up to the last token: vLLM (#10806), mini-sglang (#15), "
    "mlx-openai-server (#269)."
)
def test_abort_stops_engine(chat: Chat) -> None:
    """A client that goes in the middle of a stream stops its generation, and no other."""
    stays, of_stays = chat.begun("stays")
    for how, leave in LEAVE.items():
        completion, generation = chat.begun("leaver")
        leave(completion)
        chat.until_stopped(generation, f"its client has gone ({how})")
    assert not of_stays.stopped, "another client's generation goes on"
    of_stays.say(b" you")
    stays.until_text("Hello you")
    of_stays.done()
    stays.until_done()


@behaviour(stage=4, hidden=True, points=5, source=brief("C9", "before the first token"), needs="abort_stops_engine")
@hints(
    "What does your program wait for before the first token, and in a whole answer?",
    "Nothing is sent there, so no write fails: only the client's socket tells that it has gone.",
    "Wait for two things at once: the engine's next bytes, and the end of the client.",
)
@incident(
    "Starlette does not cancel the handler of an answer that is no stream, so ROCm's ATOM ran abandoned requests to "
    "their last token (#1441)."
)
def test_abort_in_prefill(chat: Chat) -> None:
    """A client that goes before anything was sent to it stops its generation too, also that of a whole answer."""
    for how, leave in LEAVE.items():
        for stream in (True, False):
            for has_begun in (False, True):
                completion, generation = chat.ask("leaver", stream)
                if has_begun:
                    generation.begin()
                if has_begun and not stream:
                    generation.say(HELLO)
                chat.solution.settled()
                leave(completion)
                form = "a stream" if stream else "a whole answer"
                chat.until_stopped(generation, f"the client of {form} has gone ({how}) before its first byte")
    chat.works()


@behaviour(stage=4, hidden=True, source=brief("C9, C10", "who did not read"), needs="abort_stops_engine")
def test_abort_of_stuck(chat: Chat) -> None:
    """A client that does not read and then goes stops its generation."""
    completion, generation = chat.stuck("slow")
    assert not generation.stopped, "a client that does not read is still there"
    completion.hang_up()
    chat.until_stopped(generation, "its client, which did not read, has gone")
    chat.works()


def end_done(chat: Chat) -> None:
    chat.works()
    chat.whole(HELLO)


def end_left(chat: Chat) -> None:
    """Clients go at each point: before the first token, in the middle, in both forms, by RST and FIN."""
    for leave in LEAVE.values():
        for completion, generation in (chat.begun("leaver"), chat.ask("leaver", stream=False)):
            leave(completion)
            chat.until_stopped(generation, "its client has gone")
            chat.solution.settled()
        completion, generation = chat.ask("leaver")
        leave(completion)
        chat.until_stopped(generation, "its client has gone")
        chat.solution.settled()


def end_failed(chat: Chat) -> None:
    completion, generation = chat.ask("client")
    generation.fail("out of memory")
    assert_upstream(completion.response(), "the engine failed")
    completion, generation = chat.begun("client")
    generation.fail("out of memory")
    assert_told(completion, "the engine failed")


def end_refused(chat: Chat) -> None:
    with chat.engine.refusing(500, "not now"):
        assert_upstream(chat.post("client", chat.document()).response(), "the engine said 500")
    reply = chat.post("client", GOOD | {"n": 2}).response()
    assert_refused(reply, 400, "invalid_request_error", None, "n")


def end_nobody(chat: Chat) -> None:
    with chat.engine.down():
        chat.solution.settled()
        assert_upstream(chat.post("client", chat.document()).response(), "nobody listens at ENGINE_URL")


ENDINGS: list[Callable[[Chat], None]] = [end_done, end_left, end_failed, end_refused, end_nobody]


@behaviour(
    stage=4,
    hidden=True,
    settings=FEW,
    source=brief("C11", "its place is free"),
    needs=("limit_429", "error_after_first_chunk", "abort_in_prefill"),
)
@hints(
    "In how many ways can a generation end?",
    "List every line on which your function may be left: a return, an error, a cancellation.",
    "Take the place and give it back in one `with`, or in `try` and `finally`, around everything else.",
)
def test_places_come_back(chat: Chat) -> None:
    """However a generation ends, its place is free again, and free once."""
    for ending in ENDINGS:
        for _ in range(2):
            ending(chat)
            chat.solution.settled()
    chat.works_in_full()


def until_comment(completion: Completion, owed: str, number: int = 1) -> None:
    """Wait for so many comments more."""
    before = completion.parser.comments
    completion.until(lambda: completion.parser.comments >= before + number, owed)


@behaviour(stage=4, settings=BEATING, source=COMMENTS, needs=AT_ONCE)
@hints(
    "Who waits for the engine's next line, and what happens to it when the time is over?",
    "A time-out that ends a generator has ended the stream as well.",
    "Wait for the line with a time-out, send the comment, and go on waiting for the same line.",
)
@incident(
    "Keep-alives as `data: : keepalive` broke every client that parses what it gets (mnfst/llm-gateway #2053); a "
    "comment is a line that begins with a colon, and the client sees nothing of it."
)
def test_keepalive_comments(chat: Chat) -> None:
    """While the engine is silent the stream carries comments, about one in KEEPALIVE_MS, and then goes on."""
    began = waiting.now()  # before the request: however late the first ones are read, they were sent since
    completion, generation = chat.begun("client")
    until_comment(completion, f"two comments: KEEPALIVE_MS is {KEEPALIVE}", 2)
    waiting.elapse(chat.solution, 2 * KEEPALIVE)  # so that too many are many, on a slow machine too
    passed = (waiting.now() - began) * 1000
    came, most = completion.parser.comments, passed / KEEPALIVE + 3
    assert came <= most, f"{came} comments came within {passed:.0f} ms, and KEEPALIVE_MS is {KEEPALIVE}"
    generation.say(b" you")
    completion.until_text("Hello you")
    generation.write(token_line(b" there")[:11])  # a line that is half there when the time is over
    until_comment(completion, "a comment after a token too")
    generation.write(token_line(b" there")[11:])
    generation.done()
    completion.until_done()
    assert completion.text == "Hello you there", f"'Hello you there' is owed, and came {completion.text!r}"


@behaviour(stage=4, hidden=True, points=3, settings=BEATING, source=brief("C6", "comments"), needs="keepalive_comments")
def test_keepalive_never_tears(chat: Chat) -> None:
    """Comments neither break an event that is half sent, nor pile up behind a client that does not read."""
    slow, of_slow = chat.stuck("slow")
    other, of_other = chat.begun("other")
    until_comment(other, "comments", 8 + int(chat.filling * 1000 / KEEPALIVE))
    of_slow.done()
    seen, began = slow.parser.comments, waiting.now()
    slow.read_again()
    slow.until(lambda: slow.size >= PILE, "the text that waited for it")
    piled, room = slow.parser.comments - seen, chat.filling + waiting.now() - began  # seconds in which it took some
    assert piled <= 3 + room * 1000 / KEEPALIVE, f"{piled} comments were waiting for a client that did not read"
    slow.until_text(chat.flooded())
    slow.until_done()
    of_other.done()
    other.until_done()


@behaviour(
    stage=4, hidden=True, settings=BEATING, source=COMMENTS, needs=("keepalive_comments", "error_after_first_chunk")
)
def test_keepalive_before_first_token(chat: Chat) -> None:
    """If the engine is silent from the start, the head and comments come; then an error is an event, as all else."""
    for has_begun in (False, True):
        completion, generation = chat.ask("client")
        if has_begun:
            generation.begin()
        until_comment(completion, "the head of the stream, and a comment")
        completion.until_stream()
        generation.say(HELLO)
        completion.until_text("Hello")
        roles = [choice["delta"].get("role") for choice in completion.choices]
        assert (roles[0], any(roles[1:])) == ("assistant", False), (
            f"the first chunk has the role, and no other: {roles}"
        )
        generation.done()
        completion.until_done()
    late, generation = chat.ask("client")
    until_comment(late, "the head of the stream, and a comment")
    generation.refuse(404, "there is no such model")
    assert_told(late, "the engine said 404 after the stream had begun", "model_not_found", "invalid_request_error")
    whole, generation = chat.ask("client", stream=False)
    waiting.elapse(chat.solution, 2 * KEEPALIVE)
    generation.fail("out of memory")
    assert_upstream(whole.response(), "a whole answer has no comments, and fails by a status")


@behaviour(stage=4, alone=True, source=brief("SIGTERM", "generations go on"), needs=("stream_ends", "whole_answer"))
@hints(
    "What ends first on SIGTERM: the listening, the streams, or the process?",
    "A stream that is cut off on a deployment is a broken answer for somebody.",
    "Close the listener, wait for what is under way as long as DRAIN_MS, and only then cancel.",
)
def test_sigterm_drains(chat: Chat) -> None:
    """After SIGTERM what is under way goes on to its end, and then the program ends."""
    stream, of_stream = chat.begun("stream")
    silent, of_silent = chat.ask("silent")
    whole, of_whole = chat.ask("whole", stream=False)
    chat.solution.terminate()
    chat.solution.settled()
    of_stream.say(b" you")
    stream.until_text("Hello you")
    of_silent.say(HELLO)
    silent.until_text("Hello")
    of_whole.say(HELLO)
    for generation in (of_stream, of_silent, of_whole):
        generation.done()
    stream.until_done()
    silent.until_done()
    came = content_of(good(whole.response()))
    assert came == "Hello", f"the whole answer is owed as well, and came {came!r}"
    status = chat.solution.until_exit("to end once everybody is answered")
    assert status in STOPPED, f"exit status 0 or an end by SIGTERM is owed, and came {status}"


@behaviour(
    stage=4, hidden=True, alone=True, settings=HASTY, source=brief("SIGTERM", "DRAIN_MS"), needs="sigterm_drains"
)
def test_sigterm_deadline(chat: Chat) -> None:
    """What has not ended DRAIN_MS after SIGTERM is stopped and told so, and nobody can keep the process alive."""
    stream, of_stream = chat.begun("stream")
    whole, of_whole = chat.ask("whole", stream=False)
    _, of_stuck = chat.stuck("slow")
    chat.solution.lease = 3.0  # seconds that the brief leaves behind DRAIN_MS
    chat.solution.terminate()
    assert_told(stream, "the time after SIGTERM is over", FREE)
    assert_refused(whole.response(), 503, "server_error", FREE, FREE, "the time after SIGTERM is over")
    for generation in (of_stream, of_whole, of_stuck):
        chat.until_stopped(generation, "the time after SIGTERM is over")
    chat.solution.until_exit("to end within DRAIN_MS and 3 s, though a client does not read")


# -- stage 5: scale -------------------------------------------------------------------------------------------------


@behaviour(stage=5, points=3, source=brief("Scale", "a hundred streams"), needs="parallel_streams")
def test_many_streams(chat: Chat) -> None:
    """A hundred streams at once all get their own tokens, one after the other."""
    documents = [chat.document() for _ in range(100)]
    streams = [chat.post(f"client {number}", document) for number, document in enumerate(documents)]
    generations = [chat.asked(document, stream) for document, stream in zip(documents, streams, strict=True)]
    for word in ("one ", "two"):
        for number, generation in enumerate(generations):
            generation.say(f"{number} {word}".encode())
    for number, (stream, generation) in enumerate(zip(streams, generations, strict=True)):
        stream.until_text(f"{number} one {number} two")
        generation.done()
    for stream in streams:
        stream.until_done()
    assert len({stream.chunks[0].get("id") for stream in streams}) == 100, "each completion has an id of its own"


def until_size(completion: Completion, size: int) -> None:
    completion.until(lambda: completion.size >= size, "all that the engine said")


@behaviour(stage=5, hidden=True, source=brief("Scale", "memory"), needs="slow_reader_pauses_engine")
def test_long_stream_memory(chat: Chat) -> None:
    """A stream may be as long as it likes, and takes no more memory for that."""
    completion, generation = chat.begun("client")
    size = len(HELLO)
    tokens = [chat.big(number) for number in range(ROUND)]
    for _ in range(ROUNDS):
        before = chat.solution.memory_bytes()
        generation.say(*tokens)
        size += ROUND * BIG
        until_size(completion, size)
        if chat.solution.memory_bytes() - before < ROUND * BIG / 4:
            break
    else:
        raise AssertionError(f"{ROUNDS} times {ROUND * BIG // KIB} KiB went through, and memory grew each time")
    generation.done()
    completion.until_done()
    assert completion.size == size, f"{size} characters are owed, and came {completion.size}"


@behaviour(stage=5, source=brief("C9, C11", "nothing is lost"), needs="abort_stops_engine")
def test_churn_leaves_no_trace(chat: Chat) -> None:
    """After many completions of which half were left at random points, no socket is open and nothing is lost."""
    counts = []
    for _ in range(4):
        sides = [chat.ask(f"client {number}", stream=number % 3 != 2) for number in range(10)]
        for _, generation in chat.chance.sample(sides, 6):
            generation.say(HELLO)
        leavers = chat.chance.sample(range(10), 5)
        for number in leavers:
            chat.chance.choice([*LEAVE.values()])(sides[number][0])
        for number, (completion, generation) in enumerate(sides):
            if number not in leavers:
                generation.done()
                completion.until_end()
                assert completion.status == 200, f"who stays is served, and {completion.name} got {completion.status}"
                completion.connection.close()
        for number in leavers:
            chat.until_stopped(sides[number][1], "its client has gone")
        chat.solution.settled()
        counts.append(chat.solution.sockets())
    left = counts[-1] - counts[0]  # the first round has filled a pool, if there is one
    assert left <= 4, f"everybody has gone, and {left} more sockets are open than three rounds before"
    chat.works()
