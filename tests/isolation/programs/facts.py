"""Looks around, tries what an honest program may do, and writes down what it found."""

import asyncio
import ctypes
import importlib.util
import json
import multiprocessing
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import threading

STATE = os.environ["STATE_DIR"]


def succeeds(action):
    try:
        action()
        return True
    except OSError as error:
        return str(error)


def status(name):
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith(name + ":"))


def write(path):
    with open(path, "w") as file:
        file.write("x")


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def processes():
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def database():
    with sqlite3.connect(os.path.join(STATE, "data.db")) as connection:
        connection.execute("pragma journal_mode=wal")
        connection.execute("create table t (x)")


def process():
    subprocess.run([sys.executable, "-c", "import h11"], check=True)


async def process_of_a_loop():
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(1)", stdout=subprocess.PIPE)
    out, _ = await child.communicate()
    assert out == b"1\n"


def thread():
    started = threading.Thread(target=lambda: None)
    started.start()
    started.join()


def served():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def lock():
    with multiprocessing.Lock():
        pass


write("/dev/null")
found = {
    "honest": {
        "writes its state": succeeds(lambda: write(os.path.join(STATE, "file"))),
        "writes to its home": succeeds(lambda: write(os.path.join(os.environ["HOME"], "file"))),
        "uses sqlite": succeeds(database),
        "starts a process": succeeds(process),
        "starts a process on a loop": succeeds(lambda: asyncio.run(process_of_a_loop())),
        "starts a thread": succeeds(thread),
        "has a lock between processes": succeeds(lock),
        "listens": succeeds(served),
        "has a pair of sockets": succeeds(lambda: [end.close() for end in socket.socketpair()]),
        "resolves localhost": succeeds(lambda: socket.getaddrinfo("localhost", 80)),
        "draws random bytes": succeeds(lambda: open("/dev/urandom", "rb").close()),
    },
    "uid": os.getuid(),
    "descriptors": sorted(os.listdir("/proc/self/fd")),
    "environment": dict(os.environ),
    "path": sys.path,
    "kit": importlib.util.find_spec("harness") is not None,
    "pytest": importlib.util.find_spec("pytest") is not None,
    "environment of process 1": read("/proc/1/environ"),
    "processes": processes(),
    "writes to its folder": succeeds(lambda: write("file")),
    "writes to /dev": succeeds(lambda: write("/dev/file")),
    "writes to /": succeeds(lambda: write("/file")),
    "shared memory": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
    "capabilities": int(status("CapEff"), 16),
    "no new privileges": status("NoNewPrivs"),
    "seccomp": status("Seccomp"),
    "tasks": resource.getrlimit(resource.RLIMIT_NPROC)[1],
    "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
    "file size": resource.getrlimit(resource.RLIMIT_FSIZE)[1],
    "interfaces": [name for _, name in socket.if_nameindex()],
    "makes a user namespace": ctypes.CDLL(None).unshare(0x10000000) == 0,
    "parents": [oct(os.stat(folder).st_mode)[-3:] for folder in (os.path.dirname(STATE), os.path.dirname(os.getcwd()))],
}
with open(os.path.join(STATE, "said.json"), "w") as file:
    json.dump(found, file)
