"""nats-py against the broker at NATS_URL. Its flush() is no fence (PING overtakes what is buffered), so a round trip
to its own subscription is.
"""

import asyncio
import json
import os
import sys

import nats

URL = os.environ["NATS_URL"]
MOST = 10  # seconds; an exchange that takes as long has failed


async def fence(client):
    """All that was sent before was handled once a message of one's own came back."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    await client.publish(inbox)
    await subscription.next_msg(MOST)
    await subscription.unsubscribe()


async def take(subscription, number):
    return [(await subscription.next_msg(MOST)) for _ in range(number)]


async def wildcards(a, b):
    one, rest = await b.subscribe("weather.*"), await b.subscribe("weather.>")
    await fence(b)
    for subject in ("weather.rome", "weather.rome.night", "other"):
        await a.publish(subject, subject.encode())
    return {
        "one": [message.data.decode() for message in await take(one, 1)],
        "rest": [message.subject for message in await take(rest, 2)],
    }


async def request_reply(a, b):
    async def answer(message):
        await message.respond(b"you said " + message.data)

    await b.subscribe("help", cb=answer)
    await fence(b)
    return [(await a.request("help", b"%d" % number, MOST)).data.decode() for number in range(20)]


async def queue_group(a, b):
    members = [await client.subscribe("jobs", "workers") for client in (a, b, b)]
    await fence(a)
    await fence(b)
    for number in range(60):
        await a.publish("jobs", b"%d" % number)
    await fence(a)
    await fence(b)
    got = [[(await member.next_msg(MOST)).data.decode() for _ in range(member.pending_msgs)] for member in members]
    return sorted(int(number) for numbers in got for number in numbers)


async def auto_unsubscribe(a, b):
    subscription = await b.subscribe("few")
    await subscription.unsubscribe(limit=3)
    await fence(b)
    for number in range(6):
        await a.publish("few", b"%d" % number)
    await fence(a)
    await fence(b)
    return [message.data.decode() for message in await take(subscription, 3)]


async def no_echo(a, b):
    silent = await nats.connect(URL, no_echo=True, allow_reconnect=False)
    own, other = await silent.subscribe("news"), await b.subscribe("news")
    await fence(b)
    await silent.request("help", b"fence", MOST)
    await silent.publish("news", b"mine")
    await silent.request("help", b"fence", MOST)
    await a.publish("news", b"theirs")
    got = [message.data.decode() for message in await take(other, 2)], (await own.next_msg(MOST)).data.decode()
    await silent.close()
    return got


async def megabyte(a, b):
    payload = os.urandom(a.max_payload)
    subscription = await b.subscribe("big")
    await fence(b)
    await a.publish("big", payload, reply="answer.here")
    message = await subscription.next_msg(MOST)
    return [len(message.data), message.data == payload, message.reply]


async def drain(a, b):
    """What was delivered before the drain is still handled, and nothing afterwards."""
    leaving = await nats.connect(URL, allow_reconnect=False)
    handled, done = [], asyncio.Event()

    async def handle(message):
        handled.append(message.data.decode())
        if len(handled) == 50:
            done.set()

    await leaving.subscribe("last", cb=handle)
    await fence(leaving)
    for number in range(50):
        await a.publish("last", b"%d" % number)
    await fence(a)
    await leaving.drain()
    await asyncio.wait_for(done.wait(), MOST)
    return [len(handled), leaving.is_closed]


async def main():
    told = {}
    a, b = [await nats.connect(URL, allow_reconnect=False) for _ in range(2)]
    told["max_payload"] = a.max_payload
    for part in (wildcards, request_reply, queue_group, auto_unsubscribe, no_echo, megabyte, drain):
        told[part.__name__] = await part(a, b)
    await a.drain()
    await b.close()
    return told


sys.stdin.readline()
print(json.dumps(asyncio.run(main())), flush=True)
