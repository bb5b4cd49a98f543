"""Runs HAProxy with a configuration that is made from the settings of the kata `l7_balancer`."""

import os
import signal
import subprocess
import tempfile
from pathlib import Path

KATA = "l7_balancer"
NEEDS = "haproxy"
PACKAGE = "haproxy"
DEVIATIONS = {
    "hop_by_hop": "HAProxy does not look at what Connection names; RFC 9110 §7.6.1 says that it must",
    "idempotent_repeated": "the same as for post_never_repeated",
    "post_never_repeated": "if a kept connection breaks HAProxy closes the client's, too, without a 502",
    "failures_eject": "the same as for post_never_repeated",
    "checks_decide": "HAProxy takes a server that was never checked for one failed check away from being down",
    "sigterm_drains": "HAProxy keeps a connection whose response had begun before the signal, until hard-stop-after",
}

setting = {name: int(value) for name, value in os.environ.items() if name.endswith("_MS") or name == "MAX_FAILS"}
checked, ejecting, sticky = setting["CHECK_INTERVAL_MS"], setting["MAX_FAILS"], os.environ.get("STICKY_COOKIE")

CONFIGURATION = """
global
    nbthread 1
    maxconn 1000
    hard-stop-after {SHUTDOWN_MS}ms
defaults
    mode http
    timeout client {STALL_TIMEOUT_MS}ms
    timeout server {server}ms
    timeout connect {CONNECT_TIMEOUT_MS}ms
    timeout http-request {REQUEST_TIMEOUT_MS}ms
    timeout http-keep-alive 60s
    timeout check {CHECK_TIMEOUT_MS}ms
    option http-no-delay
    option abortonclose
    option forwardfor
    option redispatch 1
    retries 2
    retry-on conn-failure empty-response
    http-reuse always
frontend clients
    bind {HOST}:{PORT} backlog 512
    default_backend upstreams
backend upstreams
    balance {balance}
    acl idempotent method GET HEAD OPTIONS PUT DELETE
    acl has_body req.hdr(transfer-encoding) -m found
    acl has_body req.hdr(content-length),add(0) gt 0
    http-request disable-l7-retry unless idempotent !has_body
    http-request add-header Forwarded "for=%[src];proto=http"
    http-request add-header Via "1.1 haproxy"
    http-request del-header Keep-Alive
    http-request del-header Proxy-Connection
    http-request del-header TE
    http-response del-header Keep-Alive
    http-response del-header Proxy-Connection
    {options}
    {servers}
"""

options = []
each = ""
if sticky:
    options.append(f"cookie {sticky} insert indirect nocache")
if checked:
    options += ["option httpchk", "http-check send meth GET uri /healthz ver HTTP/1.1 hdr Host upstream"]
    options += ["http-check expect status 200-299"]
    each = f"check inter {checked}ms fall 2 rise 2"
elif ejecting:  # back by a check of the transport, which is the nearest thing to a time
    each = f"check inter {setting['EJECT_MS']}ms rise 1 observe layer7 error-limit {ejecting} on-error mark-down"
servers = [
    f"server s{number} {address} {each}" + (f" cookie s{number}" if sticky else "")
    for number, address in enumerate(os.environ["UPSTREAMS"].split(","))
]
folder = Path(tempfile.mkdtemp())
told = {
    **os.environ,
    "server": min(setting["RESPONSE_TIMEOUT_MS"], setting["STALL_TIMEOUT_MS"]),
    "balance": "roundrobin" if os.environ["BALANCE"] == "round_robin" else "leastconn",
    "options": "\n    ".join(options),
    "servers": "\n    ".join(servers),
}
(folder / "haproxy.cfg").write_text(CONFIGURATION.format(**told))
haproxy = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(folder / "haproxy.cfg")])
signal.signal(signal.SIGTERM, lambda *_: haproxy.send_signal(signal.SIGUSR1))  # which is how HAProxy stops softly
raise SystemExit(haproxy.wait())
