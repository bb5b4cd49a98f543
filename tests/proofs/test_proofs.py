"""Each kata proves itself: its reference holds, every mistake is caught, and doing nothing earns nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness import kata

KATAS = sorted(kata.catalogue())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", KATAS)
def test_the_kata_is_proved(name):
    words = [sys.executable, "-m", "harness.commands", "prove", name, "--only", "reference,mutants,nulls"]
    proof = subprocess.run(words, capture_output=True, text=True, check=False)
    assert proof.returncode == 0, proof.stdout + proof.stderr
