"""python-telegram-bot against the server at API_URL: a line is what to do next, and the answer what came of it."""

import asyncio
import json
import os
import sys

from telegram import Bot
from telegram.error import Conflict
from telegram.ext import Updater

MOST = 20  # seconds; an exchange that takes as long has failed


def new_bot():
    return Bot(os.environ["TOKEN"], base_url=f"{os.environ['API_URL']}/bot")


def told(updates):
    return [[each.update_id, each.effective_message.text] for each in updates]


class Conversation:
    """A bot with the library's own loop of polling, and two more that get in each other's way."""

    async def start(self, allowed):
        self.bot, self.arrived = new_bot(), asyncio.Queue()
        self.updater = Updater(self.bot, self.arrived)
        await self.updater.initialize()
        await self.updater.start_polling(timeout=10, allowed_updates=allowed)
        return [self.bot.id, self.bot.first_name]

    async def take(self, number):
        return told([await self.arrived.get() for _ in range(number)])

    async def stop(self):
        await self.updater.stop()
        await self.updater.shutdown()
        return "stopped"

    async def short(self, **parameters):
        async with new_bot() as bot:
            return told(await bot.get_updates(**parameters))

    async def drop(self):
        async with new_bot() as bot:
            return await bot.delete_webhook(drop_pending_updates=True)

    async def two(self):
        """Two bots with one token ask at once; what one of them is told. The other goes on."""
        bots = [new_bot(), new_bot()]
        for bot in bots:
            await bot.initialize()
        calls = [asyncio.create_task(bot.get_updates(timeout=10)) for bot in bots]
        (done,), (self.left,) = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        try:
            return told(done.result())
        except Conflict as conflict:
            return f"Conflict: {conflict.message}"

    async def other(self):
        return told(await self.left)


async def main():
    conversation = Conversation()
    while line := await asyncio.to_thread(sys.stdin.readline):
        verb, words = json.loads(line)
        async with asyncio.timeout(MOST):
            answer = await getattr(conversation, verb)(**words)
        print(json.dumps(answer), flush=True)


asyncio.run(main())
