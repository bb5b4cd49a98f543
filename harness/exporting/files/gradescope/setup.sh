#!/usr/bin/env bash
# Gradescope runs this once, as it builds the image: an environment with the kit in it, which no submission can read.
# AUTOGRADER names another folder than /autograder, to try it outside of Gradescope.
set -euo pipefail
autograder=${AUTOGRADER:-/autograder}
environment=$autograder/environment

make_environment() {
  for python in python3.13 python3.12 python3.11 python3; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    "$python" -m venv --clear "$environment" 2>/dev/null && return 0
  done
  return 1
}

# Ubuntu 24.04 has Python 3.12; 22.04 has 3.11 beside its 3.10.
if ! make_environment; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update
  apt-get install -y python3-venv
  make_environment || { apt-get install -y python3.11 python3.11-venv && make_environment; }
fi

"$environment/bin/python" -m pip install --disable-pip-version-check "$autograder/source/kit/@wheel@[@extras@]"
chmod 700 "$autograder/source" "$environment"
