"""The command line: a thin front over pytest, one module a command."""

from harness.commands.front import main

__all__ = ["main"]
