"""Runs nginx with a configuration that is made from the settings of the kata `l7_balancer`."""

import grp
import os
import pwd
import signal
import subprocess
import tempfile
from pathlib import Path

KATA = "l7_balancer"
NEEDS = "nginx"
PACKAGE = "nginx-light"
DEVIATIONS = {
    "hop_by_hop": "nginx does not look at what Connection names; RFC 9110 §7.6.1 says that it must",
    "interim": "nginx takes an interim response for the final one; passing them on came with 1.29",
    "bad_response": "nginx takes what does not begin with HTTP/ for a response of HTTP/0.9",
    "sticky": "this nginx has no sticky cookies",
    "connect_timeout": "one option decides about both kinds of time-out, and that for responses must not repeat",
    "slow_but_steady": "nginx moves a timer only if that makes 300 ms, so that so short a time-out is one in all",
    "failures_eject": "nginx counts failures within a time, and not in a row",
    "ejected_returns": "fail_timeout is in seconds",
    "checks_decide": "this nginx has no active checks",
    "hung_check_fails": "this nginx has no active checks",
}

CONFIGURATION = """
daemon off;
user {user} {group};
pid {folder}/nginx.pid;
error_log stderr crit;
worker_processes 1;
worker_shutdown_timeout {SHUTDOWN_MS}ms;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    map $http_forwarded $forwarded {{
        "" "for=$remote_addr;proto=$scheme";
        default "$http_forwarded, for=$remote_addr;proto=$scheme";
    }}
    map $http_via $via {{
        "" "1.1 nginx";
        default "$http_via, 1.1 nginx";
    }}
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    client_header_timeout {REQUEST_TIMEOUT_MS}ms;
    client_body_timeout {STALL_TIMEOUT_MS}ms;
    keepalive_timeout 60s;
    upstream upstreams {{
        {balance}
        {servers}
        keepalive 100;
    }}
    server {{
        listen {HOST}:{PORT} backlog=512;
        location / {{
            proxy_pass http://upstreams;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_connect_timeout {CONNECT_TIMEOUT_MS}ms;
            proxy_read_timeout {read}ms;
            proxy_next_upstream error;
            proxy_set_header Host $http_host;
            proxy_set_header Connection "";
            proxy_set_header Keep-Alive "";
            proxy_set_header Proxy-Connection "";
            proxy_set_header TE "";
            proxy_set_header Upgrade "";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header Forwarded $forwarded;
            proxy_set_header Via $via;
            proxy_hide_header Proxy-Connection;
        }}
    }}
}}
"""

fails, seconds = os.environ["MAX_FAILS"], max(1, int(os.environ["EJECT_MS"]) // 1000)
folder = Path(tempfile.mkdtemp())
told = {
    **os.environ,
    "folder": folder,
    "user": pwd.getpwuid(os.getuid()).pw_name,
    "group": grp.getgrgid(os.getgid()).gr_name,
    "read": min(int(os.environ["RESPONSE_TIMEOUT_MS"]), int(os.environ["STALL_TIMEOUT_MS"])),
    "balance": "" if os.environ["BALANCE"] == "round_robin" else "least_conn;",
    "servers": "\n        ".join(
        f"server {address} max_fails={fails} fail_timeout={seconds}s;" for address in os.environ["UPSTREAMS"].split(",")
    ),
}
(folder / "nginx.conf").write_text(CONFIGURATION.format(**told))
nginx = subprocess.Popen(["nginx", "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")])
signal.signal(signal.SIGTERM, lambda *_: nginx.send_signal(signal.SIGQUIT))  # which is how nginx stops gracefully
raise SystemExit(nginx.wait())
