"""What a service of several processes on one port owes its clients: the behaviours of the kata `socket_sharding`.

What the kernel shows decides: which sockets listen, who has them open, who waits in their queues, whose a connection
is. The harness stops processes (SIGSTOP) before it connects, so it is certain that a connection waits in a queue when
something happens to its listener; and it holds jobs back, so workers are busy for as long as it likes. Where chance
spreads connections, as many are made as it takes, or bounds are used that a fair hash breaks less than once in 10^9
runs.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from math import comb
from typing import NamedTuple

import pytest

from harness import waiting
from harness.behaviour import Source, behaviour, hints, incident
from harness.peers.jobs import Jobs, result
from harness.peers.processes import Processes
from harness.solution.program import STOPPED, Solution
from harness.verdicts import NotReached, NotShown
from harness.wire.http1 import Request, Response
from harness.wire.raw_http import RawClient, request

PEERS = [Jobs]
SMALL = {"WORKERS": 2, "WORKER_CONNECTIONS": 4}
HASTY = {"WORKERS": 2, "SHUTDOWN_MS": 40}
REQUEST_MS = 100
TOO_LATE = 408  # what a client may be told before it is disconnected
STUCK_MS = 100  # the first try, which can only acquit; on a slow machine it becomes more
SPANS = [STUCK_MS, 250, 1000, 4000]  # of the last three each says what is broken, and the last that one is not alive
TIMED = {"WORKERS": 2, "REQUEST_MS": REQUEST_MS}
WATCHED = {"WORKERS": 2, "STUCK_MS": STUCK_MS}
ORPHANED_MS = 2000  # of W4
SPREAD = 120  # connections
FALSE_ALARM = 1e-10  # of one bound; eight of them are looked at, so fewer than one in 10^9 runs
TRIES = 40  # for each worker: by chance none of so many connections comes to it once in 10^17 times
CROWD = 240  # more than four workers have room for
JAM = 64  # connections: by chance fewer than 8 of them come to one of two workers once in 10^10 runs
DEATHS = 6  # more than LEAK
STEPS = 200  # in which time passes: one of them is what a behaviour may wait too long
LEAK = 3  # descriptors, of any process, that are nobody's proof of a leak

LISTENERS = "one_listener_for_each_worker"
LWN = Source("README S1; LWN, The SO_REUSEPORT socket option", "https://lwn.net/Articles/542629/")
RESETS = Source(
    "README S1; LWN, Avoiding unintended connection failures with SO_REUSEPORT", "https://lwn.net/Articles/853637/"
)
GUNICORN = "https://docs.gunicorn.org/en/stable/signals.html"


def brief(rule: str, words: str) -> Source:
    return Source(f"README {rule}, {words}")


class Told(NamedTuple):
    """What an answer tells of the worker that gave it."""

    worker: int
    pid: int
    release: str
    result: str | None


class Busy(NamedTuple):
    """A request whose job is held back."""

    request: Request
    job: str


class Asked(Request):
    """Closes its side as soon as it is answered: a server may wait for that before it counts a connection as ended."""

    def _complete(self, response: Response) -> None:
        super()._complete(response)
        self.connection.close()


class Service:
    """The solution in the words of this kata."""

    def __init__(self, solution: Solution, jobs: Jobs, chance: random.Random) -> None:
        self.solution, self.jobs, self.chance = solution, jobs, chance
        self.processes = Processes(solution)
        self._requests = 0

    @property
    def size(self) -> int:
        return self.setting("WORKERS")

    def setting(self, name: str) -> int:
        return int(self.solution.settings[name])

    def word(self) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))

    # -- clients ------------------------------------------------------------------------------------------------

    def get(self, target: str = "/") -> Request:
        """Connect and ask, without waiting."""
        self._requests += 1
        return Asked(self.solution, "client", "GET", target, [], number=self._requests)

    def ask(self) -> Told:
        return told(self.get())

    def ask_together(self, number: int) -> list[Told]:
        """What so many clients are told that ask side by side."""
        return answers([self.get() for _ in range(number)])

    def ask_for_job(self) -> Busy:
        """Ask for a job, and wait until the upstream service is asked for it."""
        job = f"job-{self.word()}"
        busy = Busy(self.get(f"/jobs/{job}"), job)
        self.solution.until(lambda: job in self.jobs.asked, f"to ask for {job}, which a client wants", "upstream")
        return busy

    def hold_at(self, worker: int) -> Busy:
        """A job that keeps this worker busy, while jobs are held."""
        for _ in range(TRIES * self.size):
            if not self.processes.alive(worker):
                raise NotReached("the scene could not be set: the worker that was to be busy has ended")
            busy = self.ask_for_job()
            if worker in self.processes.owners(busy.request.connection):
                return busy
            self.jobs.finish(busy.job)
            busy.request.response()
        raise AssertionError(f"of {TRIES * self.size} connections one at least comes to each worker")

    def pending(self, least: int, stopped: int) -> list[Request]:
        """Connect until so many clients wait for a worker that is stopped, or it is there no more."""
        waiting_now: list[Request] = []
        while len(waiting_now) < least and self.processes.alive(stopped):
            batch = [self.get() for _ in range(2 * least)]
            self.solution.settled()
            waiting_now += [each for each in batch if not each.answered]
            if self._requests > TRIES * self.size:
                raise NotReached("the scene could not be set: nobody has to wait though a worker is stopped")
        return waiting_now

    def number_of(self, worker: int) -> Told:
        """What this worker tells of itself."""
        pid = self.processes.inner(worker)
        for _ in range(TRIES * self.size):
            if not self.processes.alive(worker):
                raise NotReached("the scene could not be set: the worker that was to answer has ended")
            if (answer := self.ask()).pid == pid:
                return answer
        raise AssertionError(f"of {TRIES * self.size} connections one at least is answered by each worker")

    def until_asked(self, number: int, owed: str) -> None:
        self.solution.until(lambda: len(self.jobs.asked) >= number, owed, "upstream")

    def until_answered(self, requests: Iterable[Request]) -> None:
        """Wait until each has an answer, or can't get one any more."""
        for each in requests:
            self.solution.until(partial(getattr, each, "answered"), "a response", "client")

    # -- processes ----------------------------------------------------------------------------------------------

    def crew(self) -> list[int]:
        """The workers that accept, once all of them are there."""
        return self.until_replaced(owed=f"to have {self.size} listeners and {self.size} workers that have them open")

    def until_replaced(self, *gone: int, owed: str) -> list[int]:
        """Wait until none of these accepts any more, and there are as many workers as there should be: who they are."""

        def complete() -> list[int]:
            workers = set(self.processes.workers())
            whole = len(self.processes.listeners()) == self.size == len(workers)
            return sorted(workers) if whole and not workers & set(gone) else []

        return self.solution.until(complete, owed)

    def until_reaped(self, *gone: int, owed: str) -> None:
        self.solution.until(lambda: all(map(self.processes.reaped, gone)), owed)

    def kill(self, *workers: int, whom: str = "a worker") -> None:
        for worker in workers:
            self.processes.send(worker, signal.SIGKILL, whom)

    def replace(self, worker: int) -> int:
        """Kill a worker; who has come in its place."""
        before = self.crew()
        self.kill(worker)
        after = self.until_replaced(worker, owed="a worker in the place of the one that was killed")
        (fresh,) = set(after) - set(before)
        return fresh

    def reload(self, release: str = "") -> str:
        """SIGHUP, with this release in the file, or with a new one."""
        release = release or f"r-{self.word()}"
        self.jobs.deploy(release)
        self.hang_up()
        return release

    def hang_up(self) -> None:
        self.solution.signal(signal.SIGHUP, ends=False)

    def reloaded(self, *old: int) -> list[int]:
        return self.until_replaced(*old, owed="new workers in the place of all old ones, after SIGHUP")

    def everybody(self) -> list[int]:
        return self.processes.tree.pids()

    def until_gone(self) -> None:
        """Wait until nothing is left of a service that has ended."""
        self.solution.until(
            lambda: not self.everybody(), "the end of all its processes, since the supervisor has exited"
        )

    # -- time ---------------------------------------------------------------------------------------------------

    def within(self, milliseconds: float, happened: Callable[[], bool], owed: str) -> None:
        """Let this time pass, or less if it happens sooner: timers of the kernel can't be seen."""
        for _ in range(STEPS):
            if happened():
                return
            waiting.elapse(self.solution, milliseconds / STEPS)
        self.solution.until(happened, owed)


@pytest.fixture
def jobs(solution: Solution) -> Jobs:
    return solution.peer(Jobs)


@pytest.fixture
def service(solution: Solution, jobs: Jobs, chance: random.Random) -> Service:
    return Service(solution, jobs, chance)


def told(asked: Request) -> Told:
    """What a 200 says. Raises Broken when there is no answer, or another."""
    reply = asked.response()
    assert reply.status == 200, f"200 is owed, and came {reply}"
    document = reply.json()
    assert isinstance(document, dict), f"the body is an object, and is {document!r}"
    for name, kind in (("worker", int), ("pid", int), ("release", str)):
        assert isinstance(document.get(name), kind), f"`{name}` is a {kind.__name__}, and the body is {document!r}"
    return Told(document["worker"], document["pid"], document["release"], document.get("result"))


def stuck_owed(span: int) -> str:
    return f"to kill a worker that is stopped: STUCK_MS is {span}, and three times that are over"


def bounds(trials: int, chance: float) -> tuple[int, int]:
    """Between which numbers a count stays: it is below, or above, with a probability of less than FALSE_ALARM each."""
    probability = [comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(trials + 1)]
    low = next(k for k in range(trials + 1) if sum(probability[: k + 1]) >= FALSE_ALARM)
    high = next(k for k in reversed(range(trials + 1)) if sum(probability[k:]) >= FALSE_ALARM)
    return low, high


def answers(requests: Iterable[Request]) -> list[Told]:
    return [told(each) for each in requests]


# -- stage 1: basics ------------------------------------------------------------------------------------------------


@behaviour(stage=1, source=brief("HTTP", "GET /"))
def test_tells_who_answers(service: Service) -> None:
    """GET / tells worker, pid and release, and then the connection ends; another target is 404."""
    client = RawClient(service.solution, "client")
    reply = client.ask(request("GET", "/"))
    assert reply.status == 200, f"200 is owed, and came {reply}"
    assert reply.closes, "each answer says Connection: close"
    assert not client.until_end("the end of the connection, after its answer"), "one request is one answer"
    answer = service.ask()
    assert answer.worker in range(service.size), f"workers are numbered from 0 on, and {answer.worker} answered"
    release = service.jobs.file.read_text().strip()
    assert answer.release == release, f"the release in the file is {release}, and the answer says {answer.release}"
    missing = service.get("/nowhere").response()
    assert missing.status == 404, f"an unknown target is 404, and came {missing}"


@behaviour(stage=1, source=brief("HTTP", "GET /jobs/{name}"), needs="tells_who_answers")
def test_jobs_are_asked_of_upstream(service: Service) -> None:
    """A job is asked of the upstream service once, and answered with what came, or with 502 if it failed."""
    job = f"job-{service.word()}"
    answer = told(service.get(f"/jobs/{job}"))
    assert service.jobs.asked == [job], f"upstream is asked once for {job}, and was asked {service.jobs.asked}"
    assert answer.result == result(job), f"the result is {result(job)!r}, and came {answer.result!r}"
    with service.jobs.failing(500):
        reply = service.get(f"/jobs/{job}").response()
    assert reply.status == 502, f"upstream said 500, so 502 is owed, and came {reply}"
    assert told(service.get(f"/jobs/{job}")).result == result(job), "and the next one is done"


@behaviour(stage=1, points=2, source=LWN, needs="tells_who_answers")
@hints(
    "`ss -ltnpe` shows every listening socket with its inode; how many lines have your port?",
    "A socket that is bound once and inherited by all is one socket, whoever accepts from it.",
    "Set SO_REUSEPORT before bind(), on each of WORKERS sockets, in the supervisor.",
)
@incident(
    "gunicorn has had an option reuse_port since 19.8. For years it was set on the one socket that all workers shared, "
    "and users wondered why netstat showed one line only (benoitc/gunicorn #2100, mended by #2938)."
)
def test_one_listener_for_each_worker(service: Service) -> None:
    """The kernel shows WORKERS listening sockets at HOST:PORT, and as many workers that have them open."""
    workers = service.crew()
    assert service.ask().pid in {service.processes.inner(pid) for pid in workers}, "who answers is one of the workers"


@behaviour(stage=1, points=2, source=brief("S2", "owners"), needs=LISTENERS)
@hints(
    "What does a child have open after fork()?",
    "Everything that its parent had, also the listeners of the other workers.",
    "In the child close every listener but its own, before anything else; with exec, hand on only that one.",
)
@incident(
    "After a reload workers of nginx that were on their way out still had the reuseport sockets of all others open: "
    "what the kernel put there was answered by nobody (nginx/nginx #425, for QUIC)."
)
def test_each_worker_has_its_own(service: Service) -> None:
    """Each worker has exactly one of the listeners open, each listener has exactly one worker."""
    service.crew()

    def shared_out() -> bool:
        held = list(service.processes.workers().values())
        return (
            len(held) == service.size and all(len(each) == 1 for each in held) and len(set().union(*held)) == len(held)
        )

    service.solution.until(shared_out, "to share the listeners out: one for each worker, and no copies of the others")
    assert {answer.worker for answer in service.ask_together(3)} <= set(range(service.size)), "and they answer"


@behaviour(stage=1, source=brief("HTTP", "worker and pid"), needs=LISTENERS)
def test_every_worker_answers(service: Service) -> None:
    """Workers 0 to WORKERS - 1 all answer, each with one pid, which is the process's own."""
    known = {service.processes.inner(pid) for pid in service.crew()}
    numbers: dict[int, int] = {}
    for _ in range(TRIES * service.size):
        answer = service.ask()
        assert answer.pid in known, f"pid {answer.pid} answered, and no worker of that pid is there"
        first = numbers.setdefault(answer.pid, answer.worker)
        assert first == answer.worker, f"pid {answer.pid} is worker {first}, and now says {answer.worker}"
        if len(numbers) == service.size:
            break
    owed = list(range(service.size))
    assert sorted(numbers.values()) == owed, f"workers {owed} answer, and came {sorted(numbers.values())}"


@behaviour(stage=1, settings=SMALL, source=brief("S1", "WORKERS"), needs=LISTENERS)
def test_workers_are_as_many_as_told(service: Service) -> None:
    """WORKERS decides how many listeners and workers there are."""
    service.crew()
    seen = {answer.worker for answer in service.ask_together(TRIES)}
    assert seen == {0, 1}, f"with WORKERS=2 workers 0 and 1 answer, and came {sorted(seen)}"


@behaviour(stage=1, points=2, source=brief("S2", "who accepts a connection answers it"), needs=LISTENERS)
def test_who_accepts_answers(service: Service) -> None:
    """A connection belongs to the worker that answers it, and to no other process."""
    workers = service.crew()
    with service.jobs.holding():
        busy = [service.ask_for_job() for _ in range(4)]
        owners = [service.processes.owners(each.request.connection) for each in busy]
    for each, owner in zip(busy, owners, strict=True):
        pid = told(each.request).pid
        inner = {service.processes.inner(one) for one in owner}
        assert inner == {pid}, f"pid {pid} answered, and the connection was open in {sorted(inner) or 'no process'}"
        assert owner <= set(workers), "only workers accept; the supervisor does not"


# -- stage 2: edges -------------------------------------------------------------------------------------------------


@behaviour(stage=2, hidden=True, source=brief("S1", "BACKLOG"), needs=LISTENERS)
def test_backlog_is_as_told(service: Service) -> None:
    """Each listener's queue may hold BACKLOG connections, as the kernel shows it."""
    service.crew()
    backlogs = {sock.backlog for sock in service.processes.listeners().values()}
    if None in backlogs:
        raise NotShown("this system does not show how long the queue of a listener may be")
    owed = min(service.setting("BACKLOG"), service.processes.longest_backlog())
    assert backlogs == {owed}, f"{owed} may wait in each queue, and the kernel shows {sorted(map(str, backlogs))}"
    service.ask()


@behaviour(stage=2, points=3, hidden=True, source=LWN, needs="each_worker_has_its_own")
def test_connections_are_spread_evenly(service: Service) -> None:
    """Many connections are spread over the queues as by fair dice, and each is answered by the worker of its queue."""
    service.crew()
    owner = {inode: pid for pid, inodes in service.processes.workers().items() for inode in inodes}
    with service.processes.halted("all processes", *service.everybody()):
        asked = [service.get() for _ in range(SPREAD)]
        waiting.until_flushed(service.solution)
        queues = service.processes.queues()
    low, high = bounds(SPREAD, 1 / service.size)
    fair = all(low <= queue <= high for queue in queues.values())
    assert fair, f"of {SPREAD} connections each queue gets {low} to {high}, and the queues hold {list(queues.values())}"
    assert sum(queues.values()) == SPREAD, f"nobody accepts while all are stopped, and {sum(queues.values())} wait"
    answered = Counter(answer.pid for answer in answers(asked))
    for inode, queue in queues.items():
        number = answered[service.processes.inner(owner[inode])]
        assert number == queue, f"{queue} waited for a worker in its queue, and {number} were answered by it"


@behaviour(stage=2, points=3, hidden=True, source=brief("S4", "rest"), needs="each_worker_has_its_own")
@incident(
    "All processes that wait for one socket used to wake up for each connection, and all but one in vain: the "
    "thundering herd of prefork servers, for which Linux got EPOLLEXCLUSIVE in 4.5."
)
def test_others_sleep_on(service: Service) -> None:
    """A connection wakes up the worker that answers it, and no other process."""
    service.crew()
    seen: list[int] = []
    for _ in range(12):  # timers that are none of its business may wake up somebody now and then
        before = service.processes.asleep()
        answer = service.ask()
        ran = {service.processes.inner(pid) for pid in service.processes.ran_since(before)}
        if ran == {answer.pid}:
            return
        seen.append(len(ran))
    raise AssertionError(f"one connection is one process's affair, and each time more have run: {seen}")


@behaviour(stage=2, hidden=True, source=brief("S4", "who has nothing to do sleeps"), needs=LISTENERS)
def test_rest_costs_nothing(service: Service) -> None:
    """While nobody connects the service takes next to no CPU time."""
    service.crew()
    service.ask()
    service.solution.settled()
    before, began = service.solution.cpu_seconds(), waiting.now()
    waiting.elapse(service.solution, 80)
    used, passed = service.solution.cpu_seconds() - before, waiting.now() - began
    assert used < passed / 12, f"nobody connected, and {used * 1000:.0f} ms of CPU time went in {passed * 1000:.0f} ms"


@behaviour(stage=2, settings=SMALL, hidden=True, source=brief("S3", "one that hangs up makes room"), needs=LISTENERS)
def test_vanished_clients_make_room(service: Service) -> None:
    """Clients that connect and hang up, accepted or not, leave nothing behind that takes up room."""
    service.crew()
    silent = [service.solution.connect(f"silent {number}") for number in range(48)]
    service.solution.settled()
    for client in silent:
        client.hang_up()
    service.solution.settled()
    assert len(service.ask_together(12)) == 12, "who comes after them is served"
    service.solution.settled()
    queued = sum(service.processes.queues().values())
    assert not queued, f"nobody is left, and {queued} connections wait"


def served_in_time(service: Service) -> bool:
    """Whether a request that comes with its connection is answered, if need be the fifth: REQUEST_MS is short."""
    for _ in range(5):
        with service.processes.halted("all processes", *service.everybody()):
            quick = service.get()
            waiting.until_flushed(service.solution)
        service.until_answered([quick])
        if quick.complete and quick.response().status != TOO_LATE:
            told(quick)
            return True
    return False


@behaviour(stage=2, points=3, alone=True, settings=TIMED, source=brief("S3", "REQUEST_MS"), needs="tells_who_answers")
def test_silent_clients_are_cut_off(service: Service) -> None:
    """A client whose request is not complete after REQUEST_MS is disconnected, also if it drips on."""
    whole = request("GET", "/")
    assert served_in_time(service), "a request that is there when its connection is accepted is answered"
    clients = [RawClient(service.solution, name) for name in ("silent", "stalled", "dripping")]
    clients[1].send(whole[:-2])
    clients[2].send(b"GET / HTTP/1.1\r\nX-Drip: ")
    for _ in range(80):
        waiting.elapse(service.solution, REQUEST_MS / 8)
        if all(each.over for each in clients):
            break
        if not clients[2].over:
            clients[2].connection.send(b".")
    service.solution.settled()
    for each in clients:
        assert each.over, (
            f"REQUEST_MS is {REQUEST_MS}, ten times that are over, and the {each.name} client is still there"
        )
        replies = each.until_end()
        assert all(reply.status >= 400 for reply in replies), f"nothing whole was asked, and came {replies}"


# -- stage 3: concurrency -------------------------------------------------------------------------------------------


@behaviour(stage=3, source=brief("S3", "side by side"), needs="tells_who_answers")
def test_silent_clients_hold_nobody(service: Service) -> None:
    """Clients that are connected and have not asked yet keep nobody waiting, and are answered when they do."""
    whole = request("GET", "/")
    clients = [RawClient(service.solution, f"slow {number}") for number in range(16)]
    for client in clients[::2]:
        client.send(whole[:9])
    service.solution.settled()
    assert len(service.ask_together(16)) == 16, "others are served meanwhile"
    for number, client in enumerate(clients):
        client.send(whole if number % 2 else whole[9:])
        assert client.response().status == 200, "who asks late is answered"


@behaviour(stage=3, source=brief("S3", "side by side"), needs="jobs_are_asked_of_upstream")
@hints(
    "How many jobs does one of your workers wait for at a time?",
    "A worker that waits for the upstream service has to go on accepting.",
    "A task or a thread for each connection; and accept again at once.",
)
def test_jobs_go_on_side_by_side(service: Service) -> None:
    """A worker that waits for jobs takes others and answers everybody else meanwhile."""
    names = [f"job-{service.word()}" for _ in range(40)]
    with service.jobs.holding():
        busy = [service.get(f"/jobs/{name}") for name in names]
        service.until_asked(40, "to ask for 40 jobs at a time")
        assert len(service.ask_together(8)) == 8, "others are served meanwhile"
    results = [answer.result for answer in answers(busy)]
    assert results == [result(name) for name in names], "each gets the result of its own job"


def crowded(service: Service) -> list[Request]:
    """More jobs than both workers have room for: each has its 4, and 4 more wait for it at least."""
    service.crew()
    busy = [service.get(f"/jobs/job-{number}-{service.word()}") for number in range(JAM)]
    service.until_asked(8, "to ask for 8 jobs, 4 for each worker")
    service.solution.settled()
    return busy


@behaviour(
    stage=3, points=4, settings=SMALL, source=brief("S3", "WORKER_CONNECTIONS"), needs="jobs_are_asked_of_upstream"
)
@hints(
    "Where do connections wait for which you have no room?",
    "Not in your process: as long as you don't accept, the kernel keeps them.",
    "Count what is open; at WORKER_CONNECTIONS stop watching the listener, and watch it again when one has ended.",
)
def test_who_has_no_room_waits_in_the_queue(service: Service) -> None:
    """A worker has at most WORKER_CONNECTIONS open; the others wait in the kernel's queue, and are answered later."""
    with service.jobs.holding():
        busy = crowded(service)
        asked, queued = len(service.jobs.asked), sum(service.processes.queues().values())
        assert asked == 8, f"two workers have room for 4 each, and {asked} jobs are under way"
        assert queued == JAM - 8, f"{JAM} clients came, 8 were accepted, and {queued} wait in the queues"
        ended = [each for each in busy if each.connection.ended]
        assert not ended, f"who has to wait is neither refused nor dropped, and {len(ended)} were"
    assert len(answers(busy)) == JAM, "everybody is answered in the end"


@behaviour(
    stage=3, points=4, hidden=True, settings=SMALL, source=brief("S3", "as soon as there is room"),
    needs="who_has_no_room_waits_in_the_queue",
)  # fmt: skip
def test_room_is_given_to_the_next(service: Service) -> None:
    """For each connection that ends exactly one is accepted."""
    with service.jobs.holding():
        busy = crowded(service)
        for number in (1, 3):
            before = len(service.jobs.asked)
            service.jobs.finish(*[held.name for held in service.jobs.held[:number]])
            service.until_asked(before + number, f"to ask for {number} more, since {number} are done")
            service.solution.settled()
            more = len(service.jobs.asked) - before
            assert more == number, f"{number} connections ended, and {more} others were accepted"
    assert len(answers(busy)) == JAM, "everybody is answered in the end"


@behaviour(
    stage=3, points=4, hidden=True, settings=SMALL, source=brief("S3", "back-pressure"),
    needs="who_has_no_room_waits_in_the_queue",
)  # fmt: skip
def test_a_full_worker_holds_nobody_elses_clients(service: Service) -> None:
    """While one worker has no room, the clients of the other are served, and those of the full one are not lost."""
    full, other = service.crew()
    with service.jobs.holding():
        busy = [service.hold_at(full) for _ in range(4)]
        asked = [service.get() for _ in range(40)]
        service.solution.settled()
        served = [each for each in asked if each.answered]
        assert served, "half of the clients belong to a worker that has nothing to do, and none is answered"
        pids = {told(each).pid for each in served}
        assert pids == {service.processes.inner(other)}, "the full worker answers nobody more, and the other does"
        left = [each for each in asked if each not in served]
        queued = sum(service.processes.queues().values())
        assert queued == len(left), f"{len(left)} clients are not answered, and {queued} wait in the queue"
    assert len(answers([*left, *(each.request for each in busy)])) == len(left) + 4, "all are answered in the end"


# -- stage 4: faults ------------------------------------------------------------------------------------------------


@behaviour(stage=4, points=3, source=brief("W1", "death"), needs=LISTENERS)
@hints(
    "Which signal does a process get when its child has ended?",
    "Wait for children in the loop of the supervisor, and start another for the number that is missing.",
    "waitpid(-1, WNOHANG) until it returns 0, and spawn() with the number and the listener of each that came back.",
)
def test_a_dead_worker_is_replaced(service: Service) -> None:
    """A worker that is killed is reaped, and replaced by another with its number and its listener."""
    victim = service.crew()[-1]
    before, listeners = service.number_of(victim), set(service.processes.listeners())
    fresh = service.replace(victim)
    service.until_reaped(victim, owed="to reap a worker that has died")
    assert set(service.processes.listeners()) == listeners, "the listeners are the same as before"
    after = service.number_of(fresh)
    assert after.worker == before.worker, f"worker {before.worker} died, and its replacement says {after.worker}"


@behaviour(stage=4, points=4, hidden=True, source=RESETS, needs="a_dead_worker_is_replaced")
@hints(
    "Who has the listener open at the moment in which its worker is dead?",
    "If nobody has, the kernel closes it, and resets all that wait in its queue.",
    "Open it in the supervisor and never close it there; the replacement inherits the same socket.",
)
@incident(
    "joewalnes/port-sharding praised SO_REUSEPORT for seamless restarts until its README was corrected (pull request "
    "#3): what waits in the queue of a process that ends is lost. gunicorn's workers bind sockets of their own today, "
    "to the same effect."
)
def test_the_queue_outlives_its_worker(service: Service) -> None:
    """Clients that wait in the queue of a worker that dies are served by its replacement."""
    victim = service.crew()[0]
    with service.processes.halted("a worker", victim):
        left = service.pending(3, victim)
        service.kill(victim)
        service.until_replaced(victim, owed="a worker in the place of the one that was killed")
        assert len(answers(left)) == len(left), "who waited is served"


@behaviour(stage=4, points=4, hidden=True, source=RESETS, needs="a_dead_worker_is_replaced")
def test_nobody_is_refused_while_all_are_dead(service: Service) -> None:
    """Clients that connect while there is no worker at all wait, and are served by those who come."""
    workers = service.crew()
    with service.processes.halted("the supervisor", service.processes.supervisor):
        service.kill(*workers)
        service.solution.until(lambda: not set(workers) & set(service.everybody()), "all workers dead")
        asked = [service.get() for _ in range(8)]
        waiting.until_flushed(service.solution)
        refused = sum(each.connection.ended for each in asked)
        assert not refused, f"no worker is alive, and {refused} of 8 clients are refused instead of waiting"
        queued = sum(service.processes.queues().values())
        assert queued == 8, f"8 clients wait for workers to come, and {queued} are in the queues"
    assert len(answers(asked)) == 8, "the next workers serve them"
    service.until_replaced(*workers, owed="workers in the place of all that have died")


@behaviour(stage=4, source=brief("W1", "nobody else sees anything"), needs="a_dead_worker_is_replaced")
def test_a_death_harms_nobody_else(service: Service) -> None:
    """The clients of a worker that dies see their connections end, and those of others see nothing."""
    victim, other, *_ = service.crew()
    with service.jobs.holding():
        lost, kept = service.hold_at(victim), service.hold_at(other)
        service.kill(victim)
        service.solution.until(
            lambda: lost.request.connection.ended, "to end the connections of a dead worker", "client"
        )
        service.until_replaced(victim, owed="a worker in the place of the one that was killed")
        service.solution.settled()
        assert not kept.request.connection.ended, "the clients of other workers stay"
    answer = told(kept.request)
    assert (answer.pid, answer.result) == (service.processes.inner(other), result(kept.job)), "and are answered"


@behaviour(
    stage=4,
    points=4,
    source=Source("README W2; Gunicorn, Signal Handling", GUNICORN),
    needs="a_dead_worker_is_replaced",
)
def test_a_worker_finishes_on_sigterm(service: Service) -> None:
    """A worker that gets SIGTERM finishes what it has accepted, ends, and is replaced."""
    leaving = service.crew()[0]
    pid = service.processes.inner(leaving)
    with service.jobs.holding():
        busy = [service.hold_at(leaving) for _ in range(2)]
        service.processes.send(leaving, signal.SIGTERM, "a worker")
        service.solution.settled()
        cut = sum(each.request.connection.ended for each in busy)
        assert not cut, f"a worker that gets SIGTERM finishes what it has, and cut off {cut} of 2 clients"
    for each in busy:
        assert told(each.request).pid == pid, "who was accepted is answered by that worker"
    service.until_reaped(leaving, owed="the end of a worker that got SIGTERM and has finished")
    service.until_replaced(leaving, owed="a worker in the place of the one that has ended")
    assert len(service.ask_together(8)) == 8, "and everybody is served"


@behaviour(
    stage=4, points=5, hidden=True, alone=True, settings=WATCHED, source=brief("W3", "stuck"),
    needs="a_dead_worker_is_replaced",
)  # fmt: skip
@hints(
    "A worker that is stuck does not die; how can its supervisor know?",
    "Each worker gives a sign of life, several times in STUCK_MS, from where its work is done.",
    "Write the time into memory that both share, or a byte into a pipe; SIGKILL whoever is late, since a stopped "
    "process gets no other signal.",
)
@incident(
    "gunicorn's workers change a temporary file for this. On a slow disk that call blocks, and a healthy worker "
    "looks stuck, which is why its FAQ advises to put the file into memory (worker_tmp_dir)."
)
def test_a_stuck_worker_is_replaced_a_busy_one_is_not(service: Service) -> None:
    """A worker stopped for STUCK_MS is killed and replaced, its queue served; one that waits for a job is not."""
    for span in SPANS:
        if span > STUCK_MS:
            service.solution.kill()
            service.jobs.begin()
            service.solution.restart(STUCK_MS=span)
        try:
            if stuck_and_busy(service, span):
                return
        except (NotReached, AssertionError):  # of so short a time nothing is called broken
            if span > STUCK_MS:
                raise
    raise AssertionError(f"a worker that waits for a job is busy, not stuck, and was killed within {1.6 * span:.0f} ms")


def stuck_and_busy(service: Service, span: int) -> bool:
    """Whether the busy worker lives on while the stuck one is replaced; if not, this span may have been too short."""
    service.solution.lease = 3 * span / 1000
    stuck, other = service.crew()
    with service.jobs.holding():
        began = waiting.now()
        try:
            service.number_of(stuck)  # so it has started, and is not one that may be silent yet
            busy = service.hold_at(other)
        except (NotReached, AssertionError):  # killed before they were so far
            if span == SPANS[-1]:
                raise
            return False
        with service.processes.halted("a worker", stuck):
            left = service.pending(2, stuck)
            service.within(3 * span, partial(service.processes.reaped, stuck), stuck_owed(span))
        service.until_answered(left)
        # Who takes a busy one for stuck kills it within this time, also where that takes a slow machine a while.
        waiting.elapse(service.solution, span + 0.6 * max(span, SPANS[1]) - 1000 * (waiting.now() - began))
        service.solution.settled()
        if not service.processes.alive(other):
            return False  # even a right one may have been too slow to give signs of life
    assert len(answers(left)) == len(left), "who waited in the queue of the one that was stuck is served"
    assert told(busy.request).pid == service.processes.inner(other), "the job is answered when it is done"
    return True


@behaviour(
    stage=4,
    points=3,
    source=Source("README R2; Gunicorn, Signal Handling", GUNICORN),
    needs="a_dead_worker_is_replaced",
)
def test_sighup_brings_the_next_release(service: Service) -> None:
    """SIGHUP replaces all workers by those of the release in the file; the listeners stay."""
    old, listeners, before = service.crew(), set(service.processes.listeners()), service.ask().release
    release = service.reload()
    service.reloaded(*old)
    service.until_reaped(*old, owed="the end of the old workers, who have nothing to finish")
    assert set(service.processes.listeners()) == listeners, "a reload keeps the listeners, the very same sockets"
    releases = {answer.release for answer in service.ask_together(3 * service.size)}
    assert releases == {release}, f"{before} was replaced by {release}, and the answers say {sorted(releases)}"


@behaviour(
    stage=4, points=4, source=brief("R2", "finish what they have accepted"), needs="sighup_brings_the_next_release"
)
@incident(
    "In gunicorn a request that had been read already could be dropped during a graceful stop: one of two clients "
    "saw a reset (benoitc/gunicorn #2529)."
)
def test_old_workers_finish(service: Service) -> None:
    """What an old worker has accepted before SIGHUP it answers, with its release; new clients don't wait for that."""
    old = service.crew()
    before = service.ask().release
    with service.jobs.holding():
        busy = [service.hold_at(worker) for worker in old[:2]]
        release = service.reload()
        service.reloaded(*old)
        releases = {answer.release for answer in service.ask_together(2 * service.size)}
        assert releases == {release}, (
            f"new clients get {release} while old workers are busy, and got {sorted(releases)}"
        )
        service.solution.settled()
        cut = sum(each.request.connection.ended for each in busy)
        assert not cut, f"old workers finish what they have, and cut off {cut} of 2 clients"
    for worker, each in zip(old[:2], busy, strict=True):
        assert told(each.request).release == before, f"who was accepted by {before} is answered by it"
        service.until_reaped(worker, owed="the end of an old worker that has finished")


@behaviour(stage=4, points=5, hidden=True, settings=SMALL, source=RESETS, needs="sighup_brings_the_next_release")
@hints(
    "Who waits in the queue of an old worker when it closes its listener?",
    "If that was the last copy of the socket, they are all reset, although others listen on the same port.",
    "Give the new workers the same sockets, from the supervisor, instead of letting each generation bind its own.",
)
@incident(
    "nginx reset connections whenever a configuration was tested (`nginx -t`): the test opened and closed sockets of "
    "its own on the port, and the kernel had put clients into their queues (ticket #1300)."
)
def test_a_reload_loses_no_queue(service: Service) -> None:
    """Clients that wait in queues when SIGHUP comes, since no worker has room, are all served."""
    old = service.crew()
    with service.jobs.holding():
        busy = crowded(service)
        release = service.reload()
        service.reloaded(*old)
        service.until_asked(16, "to serve more of those who wait, since the new workers have room")
        service.solution.settled()
        lost = sum(each.connection.ended for each in busy)
        assert not lost, f"{JAM - 8} clients waited in queues when SIGHUP came, and {lost} of {JAM} were reset"
    assert len(answers(busy)) == JAM, "everybody is answered in the end"
    assert service.ask().release == release, "and then by the new release"


@behaviour(
    stage=4, points=3, hidden=True, alone=True, settings=HASTY, source=brief("R2", "SHUTDOWN_MS"),
    needs="sighup_brings_the_next_release",
)  # fmt: skip
def test_an_old_worker_is_not_waited_for_forever(service: Service) -> None:
    """An old worker that has not finished SHUTDOWN_MS after SIGHUP is killed."""
    old = service.crew()
    with service.jobs.holding():
        busy = service.hold_at(old[0])
        release = service.reload()
        owed = "the end of an old worker that is still busy after SHUTDOWN_MS"
        service.within(1000 + service.setting("SHUTDOWN_MS"), lambda: service.processes.reaped(old[0]), owed)
        service.solution.until(lambda: busy.request.connection.ended, "the end of its connections", "client")
        assert not busy.request.complete, "its job is not done, so nothing is answered"
        service.reloaded(*old)
        assert service.ask().release == release, "the new workers serve"


@behaviour(stage=4, points=4, hidden=True, source=brief("R3", "no release"), needs="sighup_brings_the_next_release")
@hints(
    "When do you find out that the file is missing: before or after the old workers were told to go?",
    "Read and check the release in the supervisor, before anything is changed.",
    "On an error print it, and go back to the loop.",
)
def test_a_bad_release_changes_nothing(service: Service) -> None:
    """A SIGHUP while the file is missing, or holds no release, changes nothing; the next good one counts."""
    workers, before = service.crew(), service.ask().release
    for bad in ("", "two words", "x" * 65):
        if bad:
            service.jobs.deploy(bad)
        else:
            service.jobs.undeploy()
        service.hang_up()
        service.solution.settled()
        assert sorted(service.processes.workers()) == workers, f"{bad!r} is no release, and workers were replaced"
        assert service.ask().release == before, f"{bad!r} is no release: {before} goes on"
    release = service.reload()
    service.reloaded(*workers)
    assert service.ask().release == release, f"{release} is a release"


@behaviour(stage=4, points=4, hidden=True, source=brief("R4", "however many"), needs="old_workers_finish")
def test_reloads_in_a_row(service: Service) -> None:
    """However many SIGHUPs come while old workers are busy, WORKERS workers remain, all of the last release."""
    old = service.crew()
    with service.jobs.holding():
        busy = service.hold_at(old[0])
        service.reload()
        second = service.reloaded(*old)
        service.reload()
        release = service.reload()
        service.reloaded(*old, *second)
        service.solution.settled()
        workers = sorted(service.processes.workers())
        assert len(workers) == service.size, f"{service.size} workers are owed, and {len(workers)} accept"
        releases = {answer.release for answer in service.ask_together(3 * service.size)}
        assert releases == {release}, f"{release} was the last release, and the answers say {sorted(releases)}"
    told(busy.request)
    service.until_reaped(*old, *second, owed="the end of all workers but the last")
    service.solution.settled()
    assert sorted(service.processes.workers()) == workers, "who has finished its last job is not replaced"


@behaviour(stage=4, points=4, hidden=True, source=brief("R4", "who dies meanwhile"), needs="old_workers_finish")
@hints(
    "What does your supervisor know of a worker that ends, beside its pid?",
    "One that was told to go has a successor already.",
    "Remember for each child whether it is retired, and replace only those that are not.",
)
def test_who_is_on_the_way_out_is_not_replaced(service: Service) -> None:
    """An old worker that dies while it finishes is not replaced; one that is in service is."""
    old = service.crew()
    with service.jobs.holding():
        service.hold_at(old[0])
        service.reload()
        workers = service.reloaded(*old)
        service.kill(old[0], whom="an old worker, on its way out,")
        service.until_reaped(old[0], owed="to reap a worker that has died")
        service.solution.settled()
        now = sorted(service.processes.workers())
        assert now == workers, f"it has a successor already: {service.size} workers are owed, and {len(now)} accept"
    service.replace(workers[0])
    assert service.ask().release, "and all are served"


@behaviour(
    stage=4, points=4, hidden=True, source=brief("R1", "read at no other time"), needs="sighup_brings_the_next_release"
)
@hints(
    "Which release has a worker that starts while the next one lies in the file already?",
    "The file may change long before anybody sends SIGHUP; a crash is no deployment.",
    "Read the file in the supervisor, at the start and on SIGHUP, and tell it to the workers.",
)
def test_a_death_deploys_nothing(service: Service) -> None:
    """A worker that is replaced has the release of the others, whatever stands in the file by now."""
    workers, before = service.crew(), service.ask().release
    service.jobs.deploy(release := f"r-{service.word()}")
    fresh = service.replace(workers[0])
    answer = service.number_of(fresh)
    assert answer.release == before, f"nobody sent SIGHUP: {before} is owed, and the replacement says {answer.release}"
    old = service.crew()
    service.hang_up()
    service.reloaded(*old)
    assert service.ask().release == release, f"after SIGHUP it is {release}"


@behaviour(stage=4, points=4, alone=True, source=brief("T1", "SIGTERM"), needs="jobs_are_asked_of_upstream")
@hints(
    "After SIGTERM `ss -ltnpe` should not show your port any more; who has it open?",
    "A listener is closed when its last copy is: the supervisor's, the worker's, and any that was forgotten.",
    "On SIGTERM close all listeners in the supervisor, tell the workers, and exit when the last child has ended.",
)
def test_sigterm_finishes(service: Service) -> None:
    """After SIGTERM new clients are refused, those that are connected are answered, and then all processes end."""
    worker = service.crew()[0]
    with service.jobs.holding():
        busy = [service.hold_at(worker), service.ask_for_job()]
        service.solution.terminate()
        service.solution.until(lambda: not service.processes.listeners(), "to close all listeners after SIGTERM")
        late = service.get()
        service.solution.until(lambda: late.answered, "a refusal: nobody listens", "client")
        service.solution.settled()
        assert late.connection.refused, "after SIGTERM new clients are refused, and this one was not"
        assert service.solution.exit_status() is None, "the supervisor has exited, and jobs were under way"
    assert [told(each.request).result for each in busy] == [result(each.job) for each in busy], "they are finished"
    status = service.solution.until_exit("to exit once nothing is under way")
    assert status in STOPPED, f"it ends with status 0, or by the signal, and not with {status}"
    service.until_gone()


@behaviour(stage=4, points=5, hidden=True, alone=True, settings=SMALL, source=RESETS, needs="sigterm_finishes")
@hints(
    "Whom has the kernel told that it is connected, though you have never heard of it?",
    "Who waits in the queue is reset when its listener is closed.",
    "On SIGTERM accept until there is nobody left (EAGAIN), and close the listener only then.",
)
def test_sigterm_serves_the_queue(service: Service) -> None:
    """Clients that wait in queues when SIGTERM comes, since no worker has room, are all served before the end."""
    with service.jobs.holding():
        busy = crowded(service)
        service.solution.terminate()
        service.solution.settled()
        lost = sum(each.connection.ended for each in busy)
        assert not lost, f"{JAM - 8} clients waited in queues when SIGTERM came, and {lost} of {JAM} were reset"
    assert len(answers(busy)) == JAM, "everybody is answered in the end"
    status = service.solution.until_exit("to exit once nothing is under way")
    assert status in STOPPED, f"it ends with status 0, or by the signal, and not with {status}"
    service.until_gone()


@behaviour(
    stage=4,
    points=4,
    hidden=True,
    alone=True,
    settings=HASTY,
    source=brief("T2", "SHUTDOWN_MS"),
    needs="sigterm_finishes",
)
def test_sigterm_is_bounded(service: Service) -> None:
    """SHUTDOWN_MS after SIGTERM everything has ended, also workers that are busy, and workers that are stuck."""
    stuck, other = service.crew()
    told(service.get())
    with service.jobs.holding():
        busy = service.hold_at(other)
        with service.processes.halted("a worker", stuck):
            service.solution.terminate()
            owed = "to exit after SHUTDOWN_MS, whoever is busy or stuck"
            service.within(
                1000 + service.setting("SHUTDOWN_MS"), lambda: service.solution.exit_status() is not None, owed
            )
            service.until_gone()
    assert not busy.request.complete, "its job is not done, so nothing is answered"


@behaviour(stage=4, points=4, hidden=True, alone=True, source=brief("W4", "without a supervisor"), needs=LISTENERS)
@hints(
    "Who tells a worker to stop when its supervisor was killed?",
    "Nobody, but a pipe whose other end only the supervisor has open becomes readable when it dies.",
    "Close that other end in each worker, watch for the end of file, and exit; prctl(PR_SET_PDEATHSIG) does as well.",
)
@incident(
    "uber/nanny, a supervisor for Node, left workers running without a master that nobody collected (#13); with "
    "SO_REUSEPORT such workers go on taking their share of the port's clients."
)
def test_workers_end_without_their_supervisor(service: Service) -> None:
    """When the supervisor is killed its workers end, and the next service has the port for itself."""
    service.crew()
    service.solution.signal(signal.SIGKILL)
    owed = "the end of all workers, since their supervisor is dead"
    service.within(ORPHANED_MS, lambda: not service.everybody() and not service.processes.listeners(), owed)
    service.solution.restart(same_port=True)
    own = {service.processes.inner(pid) for pid in service.crew()}
    strangers = {answer.pid for answer in service.ask_together(8)} - own
    assert not strangers, "who answers now is a worker of the next service"


# -- stage 5: scale -------------------------------------------------------------------------------------------------


@behaviour(
    stage=5,
    points=6,
    hidden=True,
    source=brief("W1", "replacing them leaks nothing"),
    needs="a_dead_worker_is_replaced",
)
def test_replacing_leaks_nothing(service: Service) -> None:
    """After several deaths no process has more descriptors open than before, and none is left behind."""
    first = service.crew()
    service.solution.settled()
    before, supervisor = service.processes.descriptors(), service.processes.supervisor
    most = max(before.values())
    for _ in range(DEATHS):
        service.replace(service.chance.choice(service.crew()))
    service.solution.settled()
    after = service.processes.descriptors()
    assert len(after) <= len(before) + LEAK, f"there were {len(before)} processes, and now there are {len(after)}"
    grown = after[supervisor] - before[supervisor]
    assert grown <= LEAK, f"the supervisor has {grown} descriptors more after {DEATHS} deaths"
    worst = max(after.values())
    assert worst <= most + LEAK, (
        f"no process had more than {most} descriptors, and after {DEATHS} deaths one has {worst}"
    )
    service.until_reaped(*set(first) - set(service.crew()), owed="to reap all workers that have died")
    assert len(service.ask_together(8)) == 8, "and everybody is served"


@behaviour(stage=5, points=6, hidden=True, source=brief("S3", "back-pressure"), needs="tells_who_answers")
def test_a_crowd_is_served(service: Service) -> None:
    """Two hundred and forty clients that come at once are all answered, and leave no descriptor behind."""
    service.crew()
    service.solution.settled()
    before = service.processes.descriptors()
    with service.processes.halted("all processes", *service.everybody()):  # so that they come at once
        crowd = [service.get() for _ in range(CROWD)]
        waiting.until_flushed(service.solution)
    assert len(answers(crowd)) == CROWD, "each of a crowd is answered"
    service.solution.settled()
    grown = {pid: number - before.get(pid, 0) for pid, number in service.processes.descriptors().items()}
    assert max(grown.values()) <= LEAK, (
        f"{CROWD} clients came and went, and a process has {max(grown.values())} descriptors more"
    )
