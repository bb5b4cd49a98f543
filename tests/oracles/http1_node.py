"""Runs Node's own HTTP server, whose parser is llhttp, with the resources of the kata `http1`."""

import os

KATA = "http1"
NEEDS = "node"
PACKAGE = "nodejs"
DEVIATIONS = {
    "refusal_can_be_read": "Node closes at once; RFC 9112 §9.6 tells what that risks, and demands nothing",
    "sigterm_finishes": "server.close() destroys a connection whose response was handed over, sent or not",
}

os.execvp("node", ["node", "programs/http1.mjs"])
