"""Runs the real nginx in front of a small backend: `--subject=tests/oracles/nginx_tls.py`.

nginx does all of TLS; this program writes its configuration from the list of sites (anew at SIGHUP, which it passes
on), and keeps the notes behind it.
"""

import asyncio
import json
import os
import re
import signal
from pathlib import Path

KATA = "tls_server"
NEEDS = "nginx"
PACKAGE = "nginx-light"
DEVIATIONS = {
    "notify_is_answered": "nginx closes an idle connection without close_notify when the client has sent its own; "
    "RFC 5246, 7.2.1 and RFC 8446, 6.1 want one (MUST), but nobody reads it any more",
    "reload_drops_nobody": "a reload replaces the worker processes, and the old ones close their idle connections "
    "(properly) when they retire; requests that are under way are finished",
}

STATE = Path(os.environ["STATE_DIR"])
SITES = Path(os.environ["SITES"])
CONFIGURATION, BACKEND = STATE / "nginx.conf", STATE / "backend.sock"
notes: dict[str, bytes] = {}


def pattern(name: str) -> str:
    """A wildcard of nginx stands for any number of labels; an expression says that it is one."""
    return rf"~^[^.]+\.{re.escape(name[2:])}$" if name.startswith("*.") else name


def server(entry: dict, number: int, default: str) -> str:
    client = (
        f"""
    ssl_verify_client on;
    ssl_client_certificate {SITES.parent / entry["client_ca"]};"""
        if "client_ca" in entry
        else ""
    )
    names = " ".join(f'"{pattern(name)}"' for name in entry["names"])
    return f"""
  server {{
    listen {os.environ["HOST"]}:{os.environ["PORT"]} ssl {default};
    server_name {names};
    ssl_certificate {SITES.parent / entry["chain"]};
    ssl_certificate_key {SITES.parent / entry["key"]};{client}
    location / {{
      proxy_pass http://unix:{BACKEND};
      proxy_http_version 1.1;
      proxy_set_header Connection close;
      proxy_set_header X-Site "{entry["names"][0]}";
      proxy_set_header X-Client $client;
    }}
  }}"""


def configure() -> None:
    entries = json.loads(SITES.read_text())
    servers = "".join(server(entry, number, "" if number else "default_server") for number, entry in enumerate(entries))
    temporary = "\n".join(
        f"  {name}_temp_path {STATE}/{name};" for name in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    )
    CONFIGURATION.write_text(
        f"""
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
pid {STATE}/nginx.pid;
error_log stderr error;
events {{ worker_connections 2048; }}
http {{
{temporary}
  access_log off;
  client_header_timeout {os.environ["HANDSHAKE_MS"]}ms;
  client_max_body_size 1m;
  keepalive_timeout 600s;
  server_names_hash_bucket_size 128;
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;
  ssl_session_cache shared:sessions:1m;
  map $ssl_client_s_dn $client {{ default ""; "~CN=(?<cn>[^,]+)" $cn; }}
{servers}
}}
"""
    )


async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The backend: one request a connection, which nginx sends only when it has all of it."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        original = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        method, path, _ = head[0].split(" ")
        await answer(writer, *found(method, path, body, original))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


def found(method: str, path: str, body: bytes, fields: dict[str, str]) -> tuple[int, bytes | int]:
    note = re.fullmatch(r"/notes/([A-Za-z0-9-]{1,64})", path)
    size = re.fullmatch(r"/bytes/([0-9]{1,8})", path)
    if method == "GET" and path == "/whoami":
        return 200, json.dumps({"site": fields["X-Site"], "client": fields.get("X-Client") or None}).encode()
    if note and method == "PUT":
        notes[note[1]] = body
        return 204, b""
    if note and method == "GET" and note[1] in notes:
        return 200, notes[note[1]]
    if size and method == "GET":
        return 200, int(size[1])
    return 404, b""


async def answer(writer: asyncio.StreamWriter, status: int, body: bytes | int) -> None:
    size = body if isinstance(body, int) else len(body)
    length = "" if status == 204 else f"Content-Length: {size}\r\n"
    writer.write(f"HTTP/1.1 {status} -\r\n{length}Connection: close\r\n\r\n".encode())
    if isinstance(body, bytes):
        writer.write(body)
        return await writer.drain()
    while size > 0:
        writer.write(b"x" * min(size, 1 << 16))
        size -= 1 << 16
        await writer.drain()


async def main() -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    await asyncio.start_unix_server(respond, BACKEND)
    configure()
    nginx = await asyncio.create_subprocess_exec("nginx", "-p", str(STATE), "-c", str(CONFIGURATION))

    def reload() -> None:
        try:
            configure()
        except ValueError as error:
            return print(f"the configuration stays as it was: {error}", flush=True)
        nginx.send_signal(signal.SIGHUP)

    loop.add_signal_handler(signal.SIGHUP, reload)
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    ended = asyncio.create_task(nginx.wait())
    await asyncio.wait([ended, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        nginx.send_signal(signal.SIGQUIT)
        await asyncio.wait([ended], timeout=int(os.environ["SHUTDOWN_MS"]) / 1000)
    if not ended.done():
        nginx.terminate()  # what an operator does then; it cuts the rest off
    await ended


if __name__ == "__main__":
    asyncio.run(main())
