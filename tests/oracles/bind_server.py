"""Runs the real named of BIND 9 with the zone of the kata `udp_dns`: `--subject=tests/oracles/bind_server.py`."""

import os
from pathlib import Path

KATA = "udp_dns"
NEEDS = "named"
PACKAGE = "bind9"

state = Path(os.environ["STATE_DIR"])
conf = state / "named.conf"
conf.write_text(
    f"""
options {{
    directory "{state}";
    pid-file none;
    session-keyfile none;
    lock-file none;
    listen-on port {os.environ["PORT"]} {{ {os.environ["HOST"]}; }};
    listen-on-v6 {{ none; }};
    recursion no;
    allow-transfer {{ none; }};
    dnssec-validation no;
    notify no;
    empty-zones-enable no;
}};
controls {{ }};
zone "{os.environ["ZONE"]}" {{ type primary; file "{os.environ["ZONE_FILE"]}"; check-names ignore; }};
"""
)
os.execvp("named", ["named", "-f", "-n", "1", "-c", str(conf)])
