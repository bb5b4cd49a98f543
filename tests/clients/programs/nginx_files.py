"""A real server of documents: nginx, with the files of STATE_DIR/files, some redirects, and a place with a limit.

Its validators, redirects, 304s, 410s and refusals are nginx's own.
"""

import os
from pathlib import Path

STATE = Path(os.environ["STATE_DIR"])
FILES = STATE / "files"
FILES.mkdir(exist_ok=True)
temporary = "\n".join(
    f"  {name}_temp_path {STATE}/{name};" for name in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
)
(STATE / "nginx.conf").write_text(
    f"""
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
pid {STATE}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 256; }}
http {{
{temporary}
  access_log {STATE}/access.log;
  limit_req_zone $binary_remote_addr zone=few:1m rate=1r/m;
  server {{
    listen {os.environ["HOST"]}:{os.environ["PORT"]};
    root {FILES};
    location /dated/ {{ alias {FILES}/; etag off; }}
    location = /moved {{ return 301 /news.xml; }}
    location = /elsewhere {{ return 302 news.xml; }}
    location = /over {{ return 410; }}
    location = /busy {{ limit_req zone=few; limit_req_status 429; alias {FILES}/news.xml; }}
  }}
}}
""",
    encoding="utf-8",
)
os.execvp("nginx", ["nginx", "-p", str(STATE), "-c", str(STATE / "nginx.conf")])
