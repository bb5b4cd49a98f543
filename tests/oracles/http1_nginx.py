"""Runs nginx in front of Node's server with the resources of the kata `http1`.

nginx reads, frames, limits and closes; what passes is answered by `programs/http1.mjs`.
"""

import grp
import os
import pwd
import signal
import subprocess
import tempfile
from pathlib import Path

KATA = "http1"
NEEDS = "nginx"
PACKAGE = "nginx-light"
DEVIATIONS = {
    "bad_field_lines_refused": "nginx takes a line without a colon for a field without a value",
    "limits": "nginx answers 400 to fields that are too large; any 4xx is right by RFC 9110 §5.4, the brief wants 431",
    "half_close_is_answered": "nginx takes the end of input for the end of the client; RFC 9112 §9.6 says it is none",
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
    ignore_invalid_headers off;
    map $request $authority {{
        "~*^[a-z]+ https?://([^/? ]+)" $1;
        default $http_host;
    }}
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size {MAX_BODY};
    client_header_buffer_size 1k;
    large_client_header_buffers 2 {MAX_FIELDS};
    client_header_timeout {REQUEST_TIMEOUT_MS}ms;
    client_body_timeout {REQUEST_TIMEOUT_MS}ms;
    keepalive_timeout {KEEP_ALIVE_MS}ms;
    lingering_time 5s;
    server {{
        listen {HOST}:{PORT} backlog=512;
        location / {{
            proxy_pass http://unix:{folder}/node;
            proxy_http_version 1.1;
            proxy_ignore_client_abort on;
            proxy_set_header Host $authority;
            proxy_set_header Connection "";
        }}
    }}
}}
"""

folder = Path(tempfile.mkdtemp())
user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
(folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder, user=user, group=group, **os.environ))
patient = {**os.environ, "KEEP_ALIVE_MS": "60000", "REQUEST_TIMEOUT_MS": "60000"}
behind = subprocess.Popen(["node", "programs/http1.mjs", str(folder / "node")], env=patient, stdout=subprocess.PIPE)
behind.stdout.readline()  # it listens
nginx = subprocess.Popen(["nginx", "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")])
signal.signal(signal.SIGTERM, lambda *_: nginx.send_signal(signal.SIGQUIT))  # which is how nginx stops gracefully
status = nginx.wait()
behind.kill()
raise SystemExit(status)
