# Needs make and Python 3.11+ with venv, nothing else. Paths are relative: the folder's name may hold spaces.

VENV = .venv
RUN = $(VENV)/bin/python -m
PYTEST = $(RUN) pytest
INSTALLED = $(VENV)/.installed
PYTHONS = python3.13 python3.12 python3.11 python3

# The demo plants this mistake into the reference and shows how it is told.
MISTAKE = katas/pubsub --subject=reference:drain_in_fanout

export PIP_DISABLE_PIP_VERSION_CHECK = 1
unexport PYTHONDONTWRITEBYTECODE # tests start pytest hundreds of times: each would compile everything anew

.PHONY: help demo test proofs attacks bench stories lock clean

help:
	@echo "make demo     see a correct solution hold, and a planted mistake told as a story"
	@echo "make test     lint, types, and every test of the kit"
	@echo "make proofs   prove every kata in full: all mistakes, oracles, other solutions (half an hour)"
	@echo "make attacks  grade hostile submissions at every level of isolation; writes docs/attacks.md (some minutes)"
	@echo "make bench    time to verdict of every kata, and its wrong verdicts under load (quick settings)"
	@echo "make stories  draw the golden stories of tests/stories anew, after an intended change"
	@echo "make lock     resolve requirements.lock anew from pyproject.toml (needs the network)"
	@echo "make clean    remove the environment and all caches"
	@echo
	@echo "PYTHON=... chooses the interpreter (3.11 or newer); without it the newest that works is taken."

demo: $(INSTALLED)
	@echo "1. The reference of the kata pubsub: every behaviour holds."
	@$(PYTEST) katas/pubsub --subject=reference
	@echo
	@echo "2. The same program with one planted mistake: pytest $(MISTAKE)"
	@$(PYTEST) $(MISTAKE); status=$$?; echo; \
	if [ $$status -eq 1 ]; then \
	  echo "The mistake was caught, as it should be. Now yours: write katas/pubsub/solution.py."; \
	else \
	  echo "The planted mistake should have been caught (pytest's exit status 1), but the status was $$status." >&2; \
	  exit 1; \
	fi

test: $(INSTALLED)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(PYTEST) -n 2 --dist worksteal -W error -rs

proofs: $(INSTALLED)
	@for kata in $(notdir $(patsubst %/kata.toml,%,$(wildcard katas/*/kata.toml))); do \
	  $(RUN) harness.commands prove $$kata --only reference,mutants,nulls,oracles,solutions || exit 1; \
	done

attacks: $(INSTALLED)
	cd tests && ../$(RUN) attacks

bench: $(INSTALLED)
	$(VENV)/bin/python benchmarks/verdicts.py --runs 3 --load-runs 3

stories: $(INSTALLED)
	RENEW_STORIES=1 $(PYTEST) tests/stories/test_golden.py -q
	@git diff --stat tests/stories/golden

$(INSTALLED): $(VENV)/bin/python pyproject.toml requirements.lock
	@echo "Installing into $(VENV) ..."
	@$(RUN) pip install --quiet --require-hashes -r requirements.lock
	@$(RUN) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# A command named python3.12 may be a shim that fails, and Debian's may lack venv: so each is tried.
$(VENV)/bin/python:
	@without_venv=; \
	for python in "$(PYTHON)" $(PYTHONS); do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  "$$python" -m venv --clear $(VENV) >/dev/null 2>&1 && exit 0; \
	  without_venv=$${without_venv:-$$python}; \
	done; \
	rm -rf $(VENV); \
	if [ -n "$$without_venv" ]; then \
	  package=$$("$$without_venv" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	  echo "$$without_venv can't make a virtual environment; on Debian or Ubuntu: apt install $$package" >&2; \
	else \
	  echo "There is no Python 3.11 or newer here (tried: $(strip $(PYTHON) $(PYTHONS)));" \
	    "install one, or name it: make PYTHON=..." >&2; \
	fi; \
	exit 1

# The tool that resolves is no part of the environment that is locked.
lock: $(VENV)/bin/python
	@$(RUN) venv $(VENV)/lock
	@$(VENV)/lock/bin/python -m pip install --quiet uv
	$(VENV)/lock/bin/python -m uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	  --extra dev --generate-hashes --no-annotate --no-header --no-config \
	  --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find harness katas reference tests -name __pycache__ -prune -exec rm -rf {} +
