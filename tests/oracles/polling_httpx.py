"""Polls with httpx, as a program would that leaves redirects and time-outs to it.

Surface, waits and bookkeeping are those of the reference; what is put to the proof is what a stock client makes of the
same answers. Its redirects and its time-outs are its own.
"""

import asyncio
import sys
from itertools import pairwise
from pathlib import Path

import httpx

KATA = "polling"
NEEDS = "httpx"
PACKAGE = "python3-httpx, or pip install httpx"
DEVIATIONS = {
    "validators_stay_with_their_url": "what a program has put into a request goes along with its redirects, conditions "
    "too; RFC 9110 §15.4 says of validators that a cache has added that they should not, and the brief decides",
    "bad_locations_fail": "a port of 99999 is an OverflowError of a socket, which is none of httpx's exceptions",
    "dripping_answers_given_up": "its time-outs are for the silence between two pieces and for each request of a chain",
}

sys.path.insert(0, str(Path(__file__).parents[2] / "reference" / "polling"))

import solution  # noqa: E402


class Answer:
    """A response of httpx in the words of the reference."""

    def __init__(self, response):
        self.status, self.response = response.status_code, response

    def header(self, name):
        return self.response.headers.get(name)

    async def pieces(self):
        async for piece in self.response.aiter_raw():
            yield piece


class Stock(solution.Feed):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.client = httpx.AsyncClient(
            follow_redirects=True,
            max_redirects=solution.MAX_REDIRECTS,
            timeout=self.timeout,
            trust_env=False,
            headers={"Accept-Encoding": "identity"},
            verify=False,  # nothing is encrypted here, and reading all authorities for each feed takes long
        )
        self.timeout = None  # of the whole poll

    async def poll(self):
        document = self.document
        conditions = self.conditions(document.url) if document else {}
        try:
            async with self.client.stream("GET", self.url, headers=conditions) as response:
                await self.accept(Answer(response), str(response.url), self.moved_to(response), bool(conditions))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OSError(str(error)) from error

    def moved_to(self, response):
        """Where an unbroken row of permanent redirects has led."""
        home = self.url
        for hop, target in pairwise([*response.history, response]):
            if hop.status_code not in solution.PERMANENT:
                break
            home = str(target.url)
        return home


solution.Feed = Stock
asyncio.run(solution.main())
