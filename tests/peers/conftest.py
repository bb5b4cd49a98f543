"""What the tests of the peers stand on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, settings

from harness.solution.scratch import Scratch

from .stage import Script, Stage

# A slow machine is no failure.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="module")
def scratch() -> Iterator[Scratch]:
    scratch = Scratch()
    yield scratch
    scratch.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    yield script
    script.close()


@pytest.fixture(scope="module")
def open_until_the_end() -> Iterator[ExitStack]:
    """What is entered here is left when the module's tests are over."""
    with ExitStack() as stack:
        yield stack
