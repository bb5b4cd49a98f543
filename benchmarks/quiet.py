"""How often is quiet said too soon, and how long after the last event is it said?

`python benchmarks/quiet.py --checks 300 --hogs 0 4` runs every sample server of the engine's tests.
A check sends one request and looks until the solution is quiet. A quiet that comes before the
answer is false, unless the answer waits for a timer and a timer is said to be due. Latency is the
time from when the harness has the whole answer to quiet.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from engine.samples import ALL, HTTP, Sample, answered  # noqa: E402

from harness.wire.tcp import Connection  # noqa: E402

CHECKS_A_CONNECTION = 10
RECEIVE_BUFFERS = (None, 4096)  # a small window leaves big answers half sent for a while
MODES = {"quick": (0, 0), "work": (1, 5), "later": (1, 20), "big": (20_000, 300_000)}
NOT_OVER_HTTP = ("big",)
COLUMNS = ("server", "hogs", "checks", "false_quiet", "median_ms", "p99_ms", "most_ms", "look_us")


@dataclass
class Row:
    server: str
    hogs: int
    checks: int
    false_quiet: int
    median_ms: float
    p99_ms: float
    most_ms: float
    look_us: float


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def check(sample: Sample, connection: Connection, mode: str, number: int) -> tuple[bool, float]:
    """One request: was quiet said before its answer, and how long after it was it said?"""
    del connection.inbox[:]
    connection.send(sample.request(mode, number))
    false, answered_at = False, 0.0
    while True:
        assert not connection.ended, f"{sample.name} hung up"
        look = sample.look()
        now = time.perf_counter()
        if answered(connection):
            answered_at = answered_at or now
            if look.quiet:
                return false, now - answered_at
        elif look.quiet and (mode != "later" or look.next_timer is None):
            false = True
        if not look.quiet or not answered(connection):
            sample.network.turn(0.0002)
        answered_at = answered_at or (time.perf_counter() if answered(connection) else 0.0)


def cost_of_a_look(sample: Sample, times: int = 200) -> float:
    start = time.perf_counter()
    for _ in range(times):
        sample.look()
    return (time.perf_counter() - start) / times


def measure(name: str, hogs: int, checks: int, chance: random.Random) -> Row:
    sample = Sample(name)
    connection: Connection | None = None
    modes = [mode for mode in MODES if name not in HTTP or mode not in NOT_OVER_HTTP]
    false, latencies = 0, []
    try:
        sample.until_listening()
        sample.settled()
        with busy_processes(hogs):
            for number in range(checks):
                if number % CHECKS_A_CONNECTION == 0:
                    if connection:
                        connection.hang_up()
                    connection = sample.connect(chance.choice(RECEIVE_BUFFERS))
                mode = chance.choice(modes)
                assert connection
                was_false, latency = check(sample, connection, mode, chance.randint(*MODES[mode]))
                false += was_false
                latencies.append(latency * 1000)
            look = cost_of_a_look(sample) * 1e6
    finally:
        sample.close()
    p99 = sorted(latencies)[int(len(latencies) * 0.99)]
    figures = statistics.median(latencies), p99, max(latencies)
    return Row(name, hogs, checks, false, *(round(figure, 2) for figure in figures), round(look))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checks", type=int, default=300, help="per server and load")
    parser.add_argument("--hogs", type=int, nargs="+", default=[0, 4], help="busy processes beside")
    parser.add_argument("--servers", nargs="+", default=list(ALL), choices=ALL)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the rows there too")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    rows = []
    print("".join(f"{column:>14}" for column in COLUMNS))
    for hogs in options.hogs:
        for name in options.servers:
            if name.endswith("mjs") and not shutil.which("node"):
                continue
            rows.append(measure(name, hogs, options.checks, chance))
            print("".join(f"{value!s:>14}" for value in asdict(rows[-1]).values()), flush=True)
    print(f"false quiet: {sum(r.false_quiet for r in rows)} of {sum(r.checks for r in rows)}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
