"""Runs nginx (`listen ... reuseport`) with the requests of the kata `socket_sharding`.

nginx opens the listeners, starts, replaces, reloads and stops workers; jobs are asked for by a small server behind it,
since nginx does not write JSON. What is translated is the signal (nginx stops gracefully on SIGQUIT) and the file of
the release.
"""

import asyncio
import json
import os
import re
import signal
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

KATA = "socket_sharding"
NEEDS = "nginx"
PACKAGE = "nginx-light"
DEVIATIONS = {
    "each_worker_has_its_own": "nginx's workers keep the listeners of all others open, and do not accept from them",
    "every_worker_answers": "nginx has no variable for the number of a worker",
    "workers_are_as_many_as_told": "nginx has no variable for the number of a worker; there are as many as told",
    "connections_are_spread_evenly": "the spread is even, but who has all listeners open shows none as its own",
    "who_has_no_room_waits_in_the_queue": "nginx's worker_connections counts its own sockets too, and who is beyond is "
    "dropped, not left to wait; so it is set high here, and everybody is accepted",
    "room_is_given_to_the_next": "the same: nobody has to wait",
    "a_full_worker_holds_nobody_elses_clients": "the same: no worker is ever full",
    "a_worker_finishes_on_sigterm": "SIGTERM is a fast end to nginx's workers; the graceful one is SIGQUIT",
    "a_stuck_worker_is_replaced_a_busy_one_is_not": "nginx does not watch whether its workers are stuck",
    "sigterm_is_bounded": "worker_shutdown_timeout is kept by the workers themselves, and one that is stopped does not",
    "workers_end_without_their_supervisor": "nginx's workers go on without their master",
}

FOLDER = Path(tempfile.mkdtemp())
BACKEND = FOLDER / "backend"
CONFIGURATION = FOLDER / "nginx.conf"
ANSWER = """'{"worker": 0, "pid": $pid, "release": "%s"}'"""


def configure() -> None:
    """Raises ValueError, or OSError, when there is no release."""
    release = Path(os.environ["RELEASE_FILE"]).read_text().strip()
    if not re.fullmatch("[A-Za-z0-9.-]{1,64}", release):
        raise ValueError("there is no release")
    temporary = "\n".join(
        f"{name}_temp_path {FOLDER}/{name};" for name in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    )
    CONFIGURATION.write_text(
        f"""
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes {os.environ["WORKERS"]};
worker_shutdown_timeout {os.environ["SHUTDOWN_MS"]}ms;
pid {FOLDER}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
{temporary}
  access_log off;
  keepalive_timeout 0;
  client_header_timeout {os.environ["REQUEST_MS"]}ms;
  proxy_read_timeout 1h;
  server {{
    listen {os.environ["HOST"]}:{os.environ["PORT"]} reuseport backlog={os.environ["BACKLOG"]};
    default_type application/json;
    location = / {{ return 200 {ANSWER % release}; }}
    location ~ "^/jobs/[A-Za-z0-9-]{{1,64}}$" {{
      proxy_pass http://unix:{BACKEND};
      proxy_set_header X-Told {ANSWER % release};
    }}
    location / {{ return 404; }}
  }}
}}
"""
    )


async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The backend: asks for the job, and adds what came to what nginx's worker tells of itself."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    told = json.loads(re.search("X-Told: (.*)\r\n", head)[1])
    place = urlsplit(os.environ["UPSTREAM_URL"])
    upstream, request = await asyncio.open_connection(place.hostname, place.port)
    request.write(f"GET {head.split()[1]} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n".encode())
    answer, _, result = (await upstream.read()).decode().partition("\r\n\r\n")
    request.close()
    status = "200 OK" if answer.startswith("HTTP/1.1 200 ") else "502 Bad Gateway"
    body = json.dumps(told | {"result": result})
    writer.write(f"HTTP/1.0 {status}\r\nContent-Type: application/json\r\n\r\n{body}".encode())
    writer.close()


async def main() -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    await asyncio.start_unix_server(respond, BACKEND, backlog=512)
    configure()
    nginx = await asyncio.create_subprocess_exec("nginx", "-e", "stderr", "-p", str(FOLDER), "-c", str(CONFIGURATION))

    def reload() -> None:
        try:
            configure()
        except (OSError, ValueError) as error:
            return print(f"the release stays: {error}", flush=True)
        nginx.send_signal(signal.SIGHUP)

    loop.add_signal_handler(signal.SIGHUP, reload)
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    ended = asyncio.create_task(nginx.wait())
    await asyncio.wait([ended, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        nginx.send_signal(signal.SIGQUIT)
    await ended


if __name__ == "__main__":
    asyncio.run(main())
