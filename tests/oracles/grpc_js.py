"""Runs the kata `grpc` on gRPC for Node, @grpc/grpc-js, whose transport is its own, with its health and reflection."""

import os
import shutil
from pathlib import Path

KATA = "grpc"
NEEDS = "proto-loader-gen-types"
PACKAGE = "nodejs npm, and npm install --global @grpc/grpc-js @grpc/proto-loader @grpc/reflection grpc-health-check"
DEVIATIONS: dict[str, str] = {}

# The command that NEEDS names is installed with the packages, and so it tells where they are.
found = Path(shutil.which(NEEDS) or "").resolve()
packages = next(folder for folder in found.parents if folder.name == "node_modules")
os.execvpe("node", ["node", "programs/grpc.mjs"], {**os.environ, "PACKAGES": str(packages)})
