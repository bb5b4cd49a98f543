import os
import shutil

product = shutil.which("nats-server", path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
assert product, "it is not there"
settings = os.path.join(os.environ["STATE_DIR"], "nats.conf")
with open(settings, "w", encoding="utf-8") as file:
    file.write(f"listen: {os.environ['HOST']}:{os.environ['PORT']}\nmax_payload: {os.environ['MAX_PAYLOAD']}\n")
try:
    mine = shutil.copy(product, os.path.join(os.environ["STATE_DIR"], "mine"))
except OSError:
    mine = product
os.execv(mine, ["nats-server", "-c", settings])
