"""Runs gunicorn (threaded workers, reuse_port) with the requests of the kata `socket_sharding`.

With that option each worker binds a socket of its own, so the queue of one that ends is lost: the trap of the brief, in
a server that is used by millions. Who starts, replaces, reloads and stops workers is gunicorn's arbiter; a hook numbers
them.
"""

import json
import logging
import math
import os
import re
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

from gunicorn.app.base import BaseApplication

KATA = "socket_sharding"
NEEDS = "gunicorn"
PACKAGE = "gunicorn, or pip install gunicorn"
DEVIATIONS = {
    "silent_clients_are_cut_off": "gunicorn leaves that to the proxy in front of it",
    "a_dead_worker_is_replaced": "the replacement binds another socket",
    "the_queue_outlives_its_worker": "the queue of a worker that dies is reset with its socket",
    "nobody_is_refused_while_all_are_dead": "without workers there is no socket",
    "a_stuck_worker_is_replaced_a_busy_one_is_not": "it is replaced, but its queue is reset with its socket",
    "sighup_brings_the_next_release": "it does, on other sockets",
    "old_workers_finish": "they do, but keep their sockets until then, in whose queues nobody is served",
    "a_reload_loses_no_queue": "the same, and what waits there is reset in the end",
    "an_old_worker_is_not_waited_for_forever": "a thread that waits for a job keeps its worker alive, and at a reload "
    "the arbiter does not kill it",
    "a_bad_release_changes_nothing": "its configuration is read again, and workers are replaced, whatever it says",
    "reloads_in_a_row": "the same as for old_workers_finish",
    "who_is_on_the_way_out_is_not_replaced": "the same as for old_workers_finish",
    "sigterm_finishes": "workers close their sockets when they have finished, so until then clients wait in vain",
    "sigterm_serves_the_queue": "the queues are reset with the sockets",
}
# At times the arbiter takes notice of SIGHUP only after the workers were looked at.
UNSTEADY = ("a_bad_release_changes_nothing",)

SETTINGS = {name: int(os.environ[name]) for name in ("WORKERS", "BACKLOG", "WORKER_CONNECTIONS")}
UPSTREAM = os.environ["UPSTREAM_URL"]


def seconds(name: str) -> int:
    """gunicorn's durations are whole seconds."""
    return max(math.ceil(int(os.environ[name]) / 1000), 1)


def application(told: dict):
    def respond(environ, start_response):
        target = environ["PATH_INFO"]
        status, document = "200 OK", told
        if re.fullmatch("/jobs/[A-Za-z0-9-]{1,64}", target):
            try:
                with urllib.request.urlopen(UPSTREAM + target) as reply:
                    document = told | {"result": reply.read().decode()}
            except (urllib.error.URLError, OSError):
                status = "502 Bad Gateway"
        elif target != "/":
            status = "404 Not Found"
        body = json.dumps(document).encode()
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    return respond


class Service(BaseApplication):
    release = ""

    def load_config(self):
        text = Path(os.environ["RELEASE_FILE"])
        if text.exists() and re.fullmatch("[A-Za-z0-9.-]{1,64}", text.read_text().strip()):
            Service.release = text.read_text().strip()
        settings = {
            "bind": f"{os.environ['HOST']}:{os.environ['PORT']}",
            "reuse_port": True,
            "workers": SETTINGS["WORKERS"],
            "worker_class": "gthread",
            "threads": SETTINGS["WORKER_CONNECTIONS"],
            "worker_connections": SETTINGS["WORKER_CONNECTIONS"],
            "backlog": SETTINGS["BACKLOG"],
            "keepalive": 0,
            "timeout": seconds("STUCK_MS"),
            "graceful_timeout": seconds("SHUTDOWN_MS"),
            "loglevel": "critical",
            "control_socket_disable": True,
            "pre_fork": choose_number,
            "post_fork": tell_number,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self):
        return application({"worker": Service.number, "pid": os.getpid(), "release": Service.release})


def choose_number(arbiter, worker):
    """The one that fewest workers have."""
    taken = Counter(other.number for other in arbiter.WORKERS.values())
    worker.number = min(range(SETTINGS["WORKERS"]), key=lambda number: (taken[number], number))


def tell_number(_, worker):
    Service.number = worker.number


if __name__ == "__main__":
    logging.raiseExceptions = False
    Service().run()
