"""Attacks on grading are held; the numbers are those of the list of attacks."""

import pytest

from .attacks import ATTACKS


@pytest.mark.parametrize("number", ATTACKS)
def test_held(classroom, number):
    achieved = ATTACKS[number](classroom)

    assert not achieved, f"attack {number}: {achieved}"
