"""Asking on other machines: each submission is a task of a Dask cluster whose workers have this kit installed.

What travels is the collected program, the kata's name and how it is asked; what comes back is what was found out. The
signing key stays here, and so does all that is known of students.

A worker that dies is nobody's loss: the scheduler gives its tasks to another one. Before a submission is run its worker
tells the scheduler so, which makes it known who was running when a worker died: a submission that two died of is given
up. After the first death it is run alone in its process, so that its neighbours are not blamed for the second.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import secrets
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from harness import kata as katas
from harness.grading import digests, levels
from harness.grading.asking import DEATHS, Asked, Failed, Found, Interrupted, Workers
from harness.grading.model import Kit
from harness.grading.one import room as new_room
from harness.kata import Kata
from harness.verdicts import Lacking, Unusable

try:
    from distributed import Client, KilledWorker, get_client, get_worker
    from distributed.comm.addressing import get_address_host
    from distributed.comm.core import connect
except ModuleNotFoundError:
    raise Lacking(
        "--dask needs the package distributed, which is not installed: pip install 'backend-katas[grade]'"
    ) from None

PATIENCE = 10  # seconds to connect in, and between looks at whether there are workers
GONE = "what was graded is kept, so mend that and go on with --resume"


async def _answered(address: str) -> None:
    """Exchange greetings; a client would wait for ever if the other end is no scheduler and says nothing."""
    comm = await asyncio.wait_for(connect(address, timeout=PATIENCE), PATIENCE + 5)
    comm.abort()


class Cluster:
    """The teacher's end: connects to a scheduler, and asks there."""

    def __init__(self, address: str, kata: Kata) -> None:
        """Raises Unusable when nobody answers, or when a worker has another kit than this one."""
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what users are to know is said here
        self.address, self._batch = address, f"kata-{secrets.token_hex(8)}"
        self._ended = threading.Event()
        self._futures: set[Any] = set()
        try:
            asyncio.run(_answered(address))  # a client of nonsense is never quite gone
            self._client = Client(address, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise Unusable(
                f"no Dask scheduler answers at {address} ({why}); start one with `dask scheduler`, or mend the address"
            ) from None
        try:
            self._check_workers(kata)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """How many submissions can run at once."""
        return sum(self._client.nthreads().values())

    def _check_workers(self, kata: Kata) -> None:
        try:
            self._client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise Unusable(
                f"there are no workers at {self.address}; start some with `dask worker {self.address}`"
            ) from None
        own = digests.kit(kata.name, kata.folder)
        for worker, found in self._on(list(self._client.nthreads()), kit_there, kata.name).items():
            if found != own:
                what = f"another kit ({found.version})" if isinstance(found, Kit) else f"no such kit ({found})"
                raise Unusable(f"the worker {worker} has {what}; install this one ({own.version}) there")

    def level(self, wanted: int | None, required: int) -> int:
        """The level of isolation to grade at: one for all machines. Raises Unusable like `levels.choose`."""
        found = self._levels(wanted, required)
        lowest = min(found)
        return lowest if len(found) == 1 else min(self._levels(lowest, required))

    def _levels(self, wanted: int | None, required: int) -> set[int]:
        """What one worker of each machine chooses."""
        each = {get_address_host(worker): worker for worker in self._client.nthreads()}
        found = self._on(list(each.values()), levels.choose, wanted, required)
        for worker, level in found.items():
            if isinstance(level, Exception):
                raise Unusable(f"the worker {worker}: {level}")
        return set(found.values())

    def _on(self, workers: list[str], function: Callable[..., Any], *arguments: object) -> dict[str, Any]:
        """What a task on each of the workers returns, or the exception that it raises."""
        tasks = {worker: self._client.submit(function, *arguments, workers=[worker], pure=False) for worker in workers}
        return {worker: task.exception() or task.result() for worker, task in tasks.items()}

    def ask(self, folder: Path, kata: Kata, asked: Asked, room: Path) -> list[Found]:
        """What a worker found out. Raises Failed, Interrupted, and Unusable when the cluster is gone."""
        name, program = f"{self._batch}-{secrets.token_hex(8)}", packed(folder)
        while True:
            task = f"{name}-{secrets.token_hex(4)}"
            if self._ended.is_set():
                raise Interrupted
            future = self._client.submit(ask_here, self._batch, name, program, kata.name, asked, key=task, pure=False)
            self._futures.add(future)
            try:
                return self._result(future)
            except KilledWorker:  # as often as the scheduler allows, whoever was to blame
                if len(began := self._client.get_metadata([name], default=None) or []) >= DEATHS:
                    raise Failed(_given_up(began)) from None
            finally:
                self._futures.discard(future)
                future.release()

    def _result(self, future: Any) -> list[Found]:
        empty = 0
        while True:
            try:
                found: list[Found] = future.result(timeout=PATIENCE)
                return found
            except CancelledError:
                if self._ended.is_set():
                    raise Interrupted from None
                raise Unusable(f"the scheduler at {self.address} is gone; {GONE}") from None
            except TimeoutError:
                empty = 0 if self.size else empty + 1
                if empty > 1:
                    raise Unusable(f"no worker is left at {self.address}; {GONE}") from None

    def end(self) -> None:
        """Call everything off, also what runs."""
        self._ended.set()
        with contextlib.suppress(OSError, TimeoutError):
            self._client.run(call_off, self._batch)  # at once, beside what runs
            self._client.cancel(list(self._futures))

    def close(self) -> None:
        self._client.close()


def _given_up(began: list[str]) -> str:
    return f"{len(began)} workers died of it: {', '.join(began)}"


def packed(folder: Path) -> bytes:
    """A folder as a tar, nobody's own."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.add(folder, arcname=".", filter=anonymous)
    return target.getvalue()


# -- the worker's end -------------------------------------------------------------------------------------------------


class Turns:
    """Who runs beside whom in this process: anybody beside anybody, except for suspects, who run alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._alone = False

    @contextlib.contextmanager
    def take(self, alone: bool) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not (alone and self._running))
            self._running, self._alone = self._running + 1, alone
        try:
            yield
        finally:
            with self._changed:
                self._running, self._alone = self._running - 1, False
                self._changed.notify_all()


TURNS = Turns()
RUNNING: dict[str, Workers] = {}  # of each batch


def kit_there(name: str) -> Kit:
    """The kit that this process grades with."""
    kata = katas.shipped(name)
    return digests.kit(kata.name, kata.folder)


def ask_here(batch: str, name: str, program: bytes, kata: str, asked: Asked) -> list[Found]:
    """The task: run a program here. Raises Failed, also when two workers have died of it already."""
    client, worker = get_client(), get_worker()
    began: list[str] = client.get_metadata([name], default=None) or []
    if len(began) >= DEATHS:
        raise Failed(_given_up(began))
    with TURNS.take(alone=bool(began)), new_room() as room:
        client.set_metadata([name], [*began, worker.address])
        folder = room / "solution"
        with tarfile.open(fileobj=io.BytesIO(program)) as archive:
            archive.extraction_filter = lambda member, path: member  # the teacher's end made it, of plain files
            archive.extractall(folder)
        try:
            return RUNNING.setdefault(batch, Workers()).ask(folder, katas.shipped(kata), asked, room)
        except OSError as error:
            raise Failed(f"the machine of {worker.address} failed: {error.strerror or error}") from None


def call_off(batch: str) -> None:
    """End what runs here of that batch."""
    RUNNING.setdefault(batch, Workers()).end()
