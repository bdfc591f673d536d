# Each verb sets itself up: `make demo` in a fresh checkout needs nothing before it.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help install demo up test lint sim bench faults

help: ## list the verbs
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

install: $(STAMP) ## create .venv from the locked versions

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 install")'
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

demo: install ## run a flash sale to its end, and audit it
	@$(VENV)/bin/onhand demo

up: install ## serve on this machine until interrupted
	@$(VENV)/bin/onhand up

test: install ## run the tests, with a short selection of the faults
	@$(VENV)/bin/python -m pytest

lint: install ## ruff and mypy, both strict
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

sim: install ## ten thousand simulated worlds, each told by its seed
	@$(VENV)/bin/python -m tests.simulation --seeds 10000

bench: install ## measure this machine
	@$(VENV)/bin/onhand bench run

faults: install ## the long fault runs: real processes are killed
	@$(VENV)/bin/python -m pytest -m faults tests/faults tests/golden
