"""Runs the real nsd with the zone of the kata `udp_dns`: `--subject=tests/oracles/nsd_server.py`."""

import getpass
import os
from pathlib import Path

KATA = "udp_dns"
NEEDS = "nsd"
PACKAGE = "nsd"

state = Path(os.environ["STATE_DIR"])
conf = state / "nsd.conf"
conf.write_text(
    f"""
server:
    ip-address: {os.environ["HOST"]}
    port: {os.environ["PORT"]}
    server-count: 1
    username: {getpass.getuser()}
    chroot: ""
    zonesdir: "{state}"
    database: ""
    zonelistfile: "{state}/zone.list"
    xfrdfile: "{state}/xfrd.state"
    xfrdir: "{state}"
    cookie-secret-file: ""
    pidfile: ""
    logfile: "{state}/log"
    rrl-ratelimit: 0
    tcp-count: 100
remote-control:
    control-enable: no
zone:
    name: "{os.environ["ZONE"]}"
    zonefile: "{os.environ["ZONE_FILE"]}"
"""
)
os.execvp("nsd", ["nsd", "-d", "-c", str(conf)])
