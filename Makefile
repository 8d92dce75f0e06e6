# `make demo` and `make test` need Python 3.11 (with venv and pip) and make, and set up the rest in .venv, once.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WEEKS ?= 10
JOBS ?= 2
KILLS ?= 100
CRASH_EVENTS ?= 50000
SEEDS ?= 10000

.PHONY: demo up test crash simulate lint types floors check bench strategies lock clean

demo: $(READY)  ## play ten weeks of real flights (WEEKS=6 for fewer)
	$(BIN)/rivermill demo --weeks $(WEEKS)

up: $(READY)  ## the live service over what has run here; Ctrl-C stops it
	$(BIN)/rivermill up

test: $(READY)  ## every test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

crash: $(READY)  ## kill owner, worker and lock-step again and again over real events; prints the counts
	RIVERMILL_KILLS=$(KILLS) RIVERMILL_EVENTS=$(CRASH_EVENTS) RIVERMILL_KILLS_PER_SYSCALL=5 RIVERMILL_FLOOD_SECONDS=60 $(BIN)/python -m pytest -s tests/crash tests/recovery

simulate: $(READY)  ## seeded lives of the whole loop with crashes anywhere; prints a failing seed
	$(BIN)/python tests/simulation/run.py --seeds $(SEEDS)

lint: $(READY)  ## format and lint, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

floors: $(READY)
	$(BIN)/lint-imports

check: lint types floors test  ## all that CI runs

bench: $(READY)  ## figures beside their limits; minutes, not seconds
	$(BIN)/python -m benchmarks.lockstep --weeks 10
	$(BIN)/python -m benchmarks.windows
	$(BIN)/python -m benchmarks.accuracy
	$(BIN)/python -m benchmarks.intake
	$(BIN)/python -m benchmarks.journal --records 1000000
	$(BIN)/python -m benchmarks.replay

strategies: $(READY)  ## docs/strategies.md and its plot, from a whole year played in build/year; an hour
	$(BIN)/rivermill --home build/year demo --weeks 53
	$(BIN)/python -m benchmarks.strategies --home build/year

lock: $(READY)  ## pin anew (needs uv)
	uv pip compile --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate --all-extras \
		--output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .rivermill build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(READY): requirements.lock pyproject.toml
	@echo "setting up $(VENV), once"; begun=$$(date +%s); \
	{ test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e . && \
	touch $@ && echo "set up in $$(($$(date +%s) - begun)) s"
