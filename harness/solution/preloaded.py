"""An interpreter that has imported already what Python solutions need, and forks a child for each start of one.

Booting Python and asyncio takes 60 to 90 ms, a fork 2: this is for speed alone, and no solution shall be able to tell.
Runs as `python -c` of this text, so that flags and paths are those of a plain start. It serves requests on the
socket that is its standard input, one JSON value a line:

    {"preload": FOLDER}     import what the Python files there import: only ever the kit's own skeletons
    {"script": ..., "folder": ..., "environment": {...}, "log": ...}
                            start the script; the answer is its process id, or 0 where only a plain start will do

It ends when the harness does. Nothing of the kit is imported here.
"""

import ast
import contextlib
import ctypes
import importlib.machinery
import json
import os
import signal
import socket
import sys
import types
from typing import Any


def imported(source: bytes) -> list[str]:
    """The modules that a source imports at its top level."""
    names: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return names


def names_in(folder: str) -> set[str]:
    """What a script in that folder may import from there, and some names more."""
    return {name.partition(".")[0] for name in os.listdir(folder)}


def preload(folder: str) -> None:
    own = names_in(folder)
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".py"):
            continue
        with open(os.path.join(folder, name), "rb") as file:
            source = file.read()
        wanted: list[str] = []
        with contextlib.suppress(SyntaxError, ValueError):  # in a clone the skeleton is what the learner edits
            wanted = imported(source)
        for module in wanted:
            if module.partition(".")[0] not in own:
                with contextlib.suppress(ImportError):  # then the solution says so itself
                    __import__(module)


def fork(request: dict[str, Any]) -> int:
    """The id of a process that is about to run the script, and 0 in that process.

    It is no child of this one, so that the harness inherits it (as a subreaper), and learns how it ends. It tells its
    id itself, once its session stands: whoever knows it may kill the session.
    """
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        if os.fork():
            os._exit(0)
        os.close(reading)
        become(request)
        os.write(writing, str(os.getpid()).encode())
        os.close(writing)
        return 0
    os.close(writing)
    os.waitpid(between, 0)
    pid = int(os.read(reading, 32) or 0)  # nothing, if it could not become the program; a plain start says why
    os.close(reading)
    return pid


def become(request: dict[str, Any]) -> None:
    """Take on what a program is started with: session, files, folder, environment."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for target, source in enumerate((nothing, log, log)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [request["script"]]
    sys.orig_argv = [sys.executable, request["script"]]
    sys.path[0] = request["folder"]
    show_arguments(sys.orig_argv)


def show_arguments(arguments: list[str]) -> None:
    """Let `ps` and `pgrep -f` see the program that this is now: its words go where those of the boot stood."""
    with open("/proc/self/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end; see proc_pid_stat(5), which counts from 1
    words = b"".join(word.encode() + b"\0" for word in arguments)
    if start and len(words) <= end - start:
        ctypes.memmove(start, words.ljust(end - start, b"\0"), end - start)


def run(script: str) -> None:
    """What the interpreter does with a script that is named on its command line."""
    path = os.path.abspath(script)
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __file__=path,
        __cached__=None,
        __annotations__={},
        __builtins__=sys.modules["builtins"],
        __loader__=importlib.machinery.SourceFileLoader("__main__", path),
    )
    sys.modules["__main__"] = main
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, main.__dict__)
    except SystemExit:
        raise
    except BaseException as error:  # told without this frame of ours
        own = error.__traceback__
        told = error.with_traceback(own.tb_next if own else None)
        sys.excepthook(type(told), told, told.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        sys.exit(1)


def serve() -> str:
    """Answer requests until the harness is gone; in a forked child, return the script to run."""
    control = socket.socket(fileno=0)
    with control.makefile("r", encoding="utf-8") as requests:
        for line in requests:
            request = json.loads(line)
            if "preload" in request:
                preload(request["preload"])
                continue
            # A module of the solution's own with the name of one that was preloaded would never be imported.
            shadows = names_in(request["folder"]) & {name.partition(".")[0] for name in sys.modules}
            pid = None if shadows else fork(request)
            if pid == 0:
                control.detach()
                return str(request["script"])
            control.sendall(f"{pid or 0}\n".encode())
    return ""


if script := serve():
    run(script)
else:
    os._exit(0)  # somebody waits for it, and nothing here is worth tidying
