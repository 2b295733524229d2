# The one list of commands; CI and the scripts call these.

.PHONY: help venv check fmt lint types layers cover test fuzz e2e e2e-full torture bench docs lock

help:                ## this list
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed 's/:[^#]*##/\t/' | expand -t 12

venv:                ## .venv from the locks; nothing to do when nothing changed
	@scripts/setup

check: lint types layers cover test ## everything a change must pass

fmt: venv            ## format, and fix what the linter can fix
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .

lint: venv           ## ruff: rules and format
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: venv          ## mypy, strict
	.venv/bin/mypy

layers: venv         ## import-linter: who may import whom
	.venv/bin/lint-imports --no-logo

# What the promise to count exactly once rests on, each part with the tests of its own: no branch of it is unproven.
# By module, so that a test of something else that happens to pass there proves nothing. A file of its own, because
# coverage takes in whatever other runs have left beside it; its warnings are errors, because a module that was renamed
# would else be covered by its absence.
COVERED = api_node.registry api_node.sender api_node.spool common.judge common.routing common.slices common.wire \
	worker_node.receiver worker_node.registry
COVERING = api_registry judge receiver routing sender slices spool wire worker_registry

cover: venv          ## the core has 100 % branch coverage by its own unit tests
	@data=$$(mktemp -d) && trap 'rm -rf "$$data"' EXIT && COVERAGE_FILE=$$data/coverage .venv/bin/pytest -q \
		-W error::coverage.exceptions.CoverageWarning \
		$(COVERING:%=tests/unit/test_%.py) $(COVERED:%=--cov=%) --cov-branch --cov-fail-under=100

test:                ## the test suite without its full-size runs
	./test.sh

# SEED and CASES are those of tests/fuzz/schemathesis.toml if they are not given.
fuzz: venv           ## only the fuzzing of the API by its own document; SEED=2 CASES=1000 looks elsewhere
	$(if $(filter command%,$(origin SEED)),SEED=$(SEED)) CASES=$(CASES) .venv/bin/pytest tests/fuzz

e2e: venv            ## only the tests with real processes
	.venv/bin/pytest tests/e2e

e2e-full: venv       ## the full-size runs: minutes
	.venv/bin/pytest -m e2e_full

# More than an hour as it is. A run that was broken off goes on where it was, with the same SEED.
KILLS = 1000
ACKNOWLEDGED = 1000000
STORM_KILLS = 200
STORM_ACKNOWLEDGED = 60000
ROUNDS = 3
SEED = 1

torture: venv        ## SIGKILL and a bad network under load; KILLS=20 ACKNOWLEDGED=10000 for less
	.venv/bin/python -m tests.torture kills --kills $(KILLS) --acknowledged $(ACKNOWLEDGED) --seed $(SEED)
	.venv/bin/python -m tests.torture kills --storm --kills $(STORM_KILLS) --acknowledged $(STORM_ACKNOWLEDGED) --seed $(SEED)
	.venv/bin/python -m tests.torture network --rounds $(ROUNDS) --seed $(SEED)
	.venv/bin/python -m tests.torture namespaces --rounds $(ROUNDS) --seed $(SEED)

# A run that was broken off goes on where it was; FRESH=1 begins anew.
ONLY =
QUICK =
FRESH =

bench: venv          ## how fast it is, beside others; QUICK=1 for a small run, ONLY=bulk,single for parts
	bench/setup
	.venv-bench/bin/python -m bench.run $(if $(ONLY),--only $(ONLY)) $(if $(QUICK),--quick) $(if $(FRESH),--fresh)

docs: venv           ## every relative link in the docs leads somewhere
	.venv/bin/python scripts/check_links.py

# Keeps the versions that still fit; `make lock UPGRADE=--upgrade` takes the newest. The build and dev locks are held to
# the runtime lock's versions, so that the tests run what the nodes run.
COMPILE = .venv/bin/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 $(UPGRADE)
UPGRADE =

lock: venv           ## requirements/*.lock from pyproject.toml
	$(COMPILE) pyproject.toml --output-file requirements/runtime.lock
	$(COMPILE) --group build --constraints requirements/runtime.lock --output-file requirements/build.lock
	$(COMPILE) pyproject.toml --group dev --constraints requirements/runtime.lock --constraints requirements/build.lock \
		--output-file requirements/dev.lock
	$(COMPILE) pyproject.toml --group bench --constraints requirements/runtime.lock --output-file requirements/bench.lock
