"""A reference solution, launched as a learner's would be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness import kata as katas
from harness import subjects
from harness.solution import process
from harness.solution.program import Peer, Solution
from harness.solution.scratch import Scratch


@contextmanager
def reference(name: str, *peers: type[Peer], **environment: str) -> Iterator[Solution]:
    kata, scratch = katas.shipped(name), Scratch()
    solution = Solution(kata, subjects.reference(kata), environment, peers, scratch)
    process.build(solution.subject, scratch)
    try:
        solution.until_ready()
        yield solution
    finally:
        solution.close()
        scratch.close()
