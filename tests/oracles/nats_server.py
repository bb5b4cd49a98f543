"""Runs the real nats-server with the settings of the kata `pubsub`: `--subject=tests/oracles/nats_server.py`."""

import os
from pathlib import Path

KATA = "pubsub"
NEEDS = "nats-server"
PACKAGE = "nats-server"

conf = Path(os.environ["STATE_DIR"]) / "nats.conf"
conf.write_text(
    "\n".join(
        [
            f"host: {os.environ['HOST']}",
            f"port: {os.environ['PORT']}",
            f"max_payload: {os.environ['MAX_PAYLOAD']}",
            f"max_pending: {os.environ['MAX_PENDING']}",
            f'write_deadline: "{os.environ["WRITE_DEADLINE_MS"]}ms"',
            f'ping_interval: "{os.environ["PING_INTERVAL_MS"]}ms"',
            f"ping_max: {os.environ['PING_MAX_OUT']}",
        ]
    )
)
os.execvp("nats-server", ["nats-server", "-c", str(conf)])
