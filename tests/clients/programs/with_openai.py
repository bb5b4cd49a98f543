"""The openai package, sync or async (KIND), against the server at BASE_URL: a line a request, a line its outcome."""

import asyncio
import json
import os
import sys

import openai

KIND, OPTIONS = (
    os.environ["KIND"],
    {"base_url": os.environ["BASE_URL"], "api_key": os.environ["API_KEY"], "max_retries": 0},
)


class Outcome:
    """What a program that uses the package is told, chunk by chunk."""

    def __init__(self):
        self.text, self.chunks, self.reasons, self.usage, self.calls = "", 0, [], None, {}

    def add(self, chunk):
        self.chunks += 1
        self.usage = chunk.usage.model_dump(exclude_none=True) if chunk.usage else self.usage
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            self.reasons += [choice.finish_reason] if choice.finish_reason else []
            for call in choice.delta.tool_calls or []:
                known = self.calls.setdefault(call.index, [call.id, call.function.name, ""])
                known[2] += call.function.arguments or ""


def told(error):
    """An error as the package raises it."""
    words = {
        "class": type(error).__name__,
        "message": error.message,
        "code": error.code,
        "type": error.type,
        "param": error.param,
    }
    if isinstance(error, openai.APIStatusError):
        words |= {"status": error.status_code, "retry_after": error.response.headers.get("retry-after")}
    return words


def whole(completion):
    choice = completion.choices[0]
    calls = [[call.id, call.function.name, call.function.arguments] for call in choice.message.tool_calls or []]
    told = {"text": choice.message.content, "reasons": [choice.finish_reason], "calls": dict(enumerate(calls))}
    return told | {"usage": completion.usage and completion.usage.model_dump(exclude_none=True)}


def sync(command):
    outcome = Outcome()
    with openai.OpenAI(**{**OPTIONS, **command.get("options", {})}) as client:
        try:
            if command.get("helper"):
                with client.chat.completions.stream(**command["request"]) as events:
                    return whole(events.get_final_completion())
            answer = client.chat.completions.create(**command["request"])
            if not command["request"].get("stream"):
                return whole(answer)
            with answer:
                for chunk in answer:
                    outcome.add(chunk)
                    if outcome.text and command.get("leave"):
                        break
        except openai.APIError as error:
            return vars(outcome) | {"error": told(error)}
    return vars(outcome)


async def asynchronous(command):
    outcome = Outcome()
    async with openai.AsyncOpenAI(**{**OPTIONS, **command.get("options", {})}) as client:
        try:
            if command.get("helper"):
                async with client.chat.completions.stream(**command["request"]) as events:
                    return whole(await events.get_final_completion())
            answer = await client.chat.completions.create(**command["request"])
            if not command["request"].get("stream"):
                return whole(answer)
            async with answer:
                async for chunk in answer:
                    outcome.add(chunk)
                    if outcome.text and command.get("leave"):
                        break
        except openai.APIError as error:
            return vars(outcome) | {"error": told(error)}
    return vars(outcome)


for line in sys.stdin:
    command = json.loads(line)
    print(json.dumps(sync(command) if KIND == "sync" else asyncio.run(asynchronous(command))), flush=True)
