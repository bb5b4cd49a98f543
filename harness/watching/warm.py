"""Importing this makes a process warm: all that pytest imports for itself is imported, by a run of nothing."""

import contextlib
import io

import pytest

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    pytest.main(["--version", "--noconftest"])
