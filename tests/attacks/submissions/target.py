"""What a hostile submission is told of its targets, so that only isolation stands between them."""

import contextlib
import json
import os
import sys

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "target.json"), encoding="utf-8") as file:
    T = json.load(file)

TRIES = (OSError, ValueError)


def loot(what: object) -> None:
    """Show what was got hold of, in the only way out that a solution always has: its own output, shown when it fails."""
    print("LOOT", what, flush=True)
    os._exit(3)


def trying(action) -> bool:
    """Whether an action got through."""
    with contextlib.suppress(*TRIES):
        action()
        return True
    return False


def when_bytes_hold(mark: bytes, action) -> None:
    """Do something as soon as the asyncio server is sent `mark`."""
    import asyncio

    create_server = asyncio.BaseEventLoop.create_server

    def listening_in(factory):
        protocol = factory()
        received = protocol.data_received

        def data_received(data):
            if mark in data:
                action()
            received(data)

        protocol.data_received = data_received
        return protocol

    def create(self, factory, *arguments, **keywords):
        return create_server(self, lambda: listening_in(factory), *arguments, **keywords)

    asyncio.BaseEventLoop.create_server = create


sys.dont_write_bytecode = True
