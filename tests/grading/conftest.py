from __future__ import annotations

from pathlib import Path

import pytest
from commands.conftest import Clone

from .classroom import Classroom


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A copy of the kit with one small kata, `door`, made once; nobody changes it."""
    clone = Clone(tmp_path_factory.mktemp("grading") / "kit")
    made = clone.kata("new", "door", "--speaks", "tcp")
    assert made.status == 0, made.err
    return clone


@pytest.fixture
def classroom(kit: Clone, tmp_path: Path) -> Classroom:
    return Classroom(kit, tmp_path / "classroom")
