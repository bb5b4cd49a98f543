"""Run as a program: start one script in isolation, do something to it, and print what came of it as JSON.

    python inside.py LEVEL SCRIPT [SIGNAL]

The signal, if any, is sent once the script has made the file `ready` in its STATE_DIR.
"""

from __future__ import annotations

import json
import os
import select
import sys
from dataclasses import asdict
from pathlib import Path

from harness.solution.isolation.sandbox import Isolation
from harness.solution.kernel import ProcessTree
from harness.solution.scratch import Scratch


def main(level: int, script: str, number: int = 0) -> None:
    isolation = Isolation(level)
    scratch = Scratch(isolation)
    try:
        folder = scratch.new_folder("solution")
        state, home = folder / "state", folder / "home"
        for path in (state, home):
            path.mkdir()
        copy = isolation.staged(Path(script).parent, scratch.new_folder("submission"))
        environment = scratch.environment | {"STATE_DIR": str(state), "HOME": str(home), "TMPDIR": str(home)}
        words = [str(isolation.interpreter.command), Path(script).name]
        process = isolation.start(words, copy, environment, folder / "log", [state, home])
        tree = ProcessTree(process.pid)
        end = os.pidfd_open(process.pid)
        while number and not (state / "ready").exists() and not select.select([end], [], [], 0.005)[0]:
            pass
        living = tree.pids()
        if number:
            os.kill(process.program, number)
        status = process.wait()
        said = (state / "said.json").read_text() if (state / "said.json").exists() else "{}"
        told = (folder / "log").read_text(errors="replace")
        exceeded = isolation.exceeded(process.pid)
    finally:
        scratch.close()
    table = {"said": json.loads(said), "status": status, "log": told, "exceeded": exceeded, "living": len(living)}
    print(json.dumps(table | asdict(isolation.findings) | {"folder": str(scratch.folder)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
