# `make help` lists what one can do.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help test lint types check torture bench demo clean

help: ## list these targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /  \1\t/' | expand -t 12

$(VENV)/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pytest>=8'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'ruff>=0.8' 'mypy>=1.13'
	touch $@

test: $(VENV)/.test ## make an environment and run the tests, in JOBS (default 3) processes
	$(BIN)/python -m pytest $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

lint: $(VENV)/.dev ## check the style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## check the types
	$(BIN)/mypy

check: test lint types ## all of it: tests, style, types

demo: ## watch real work flow through a queue
	$(PYTHON) -m fireforget demo

torture: $(VENV)/.test ## kill everything for SECONDS (default 1800) and compare the ledger; prints its figures
	$(BIN)/python tests/torture/storm.py --seconds $(or $(SECONDS),1800)

bench: ## measure every figure, beside the peers; writes docs/benchmarks.md
	$(PYTHON) bench/run.py --times $(or $(TIMES),1)

clean: ## remove what the targets made
	rm -rf $(VENV) .venv-bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
