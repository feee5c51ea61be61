# make demo: from nothing to a report, on painted biopsies.   make test: the checks of every change.
# make test-all: these and the long tests.
# make docs: the documentation site, into site/.
# Needs Python >= 3.11 and make; the rest is installed into .venv once, and again when pyproject.toml changes.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

# The first Python that is new enough and can make an environment; PYTHON=… chooses another.
PYTHON = $(shell for p in python3.12 python3.11 python3.13 python3 python; do \
	if $$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then command -v $$p; break; fi; done)
BIN := .venv/bin
WORKERS ?= 2
DEMO ?= demo

.PHONY: demo test test-all docs lint types contracts pytest test-jax test-torch help clean

help:
	@grep -hE '^# make' Makefile

demo: .venv/installed
	$(BIN)/glomtile demo --out $(DEMO)

test test-all: lint types contracts pytest

# pyproject.toml leaves the long tests out; an empty expression does not.
test-all: LONG := -m ""

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

contracts: .venv/installed
	$(BIN)/lint-imports

pytest: .venv/installed
	$(BIN)/pytest -n $(WORKERS) --dist worksteal $(LONG)

# Strict: a broken link or a name without a docstring ends it.
docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "open site/index.html"

# The network and the engine on Keras' other backends, each in its own environment.
test-jax: .venv-jax/installed
	KERAS_BACKEND=jax .venv-jax/bin/pytest tests/networks tests/models tests/inference tests/training tests/tiling

test-torch: .venv-torch/installed
	KERAS_BACKEND=torch .venv-torch/bin/pytest tests/networks tests/models tests/inference tests/training tests/tiling

.venv/installed: EXTRAS = cpu,test
.venv-jax/installed: EXTRAS = jax,test
.venv-torch/installed: EXTRAS = torch,test
.venv-docs/installed: EXTRAS = docs
.venv/installed .venv-docs/installed .venv-jax/installed .venv-torch/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found: install one, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "installing glomtile[$(EXTRAS)] into $(@D) (once; a few minutes)"
	"$(PYTHON)" -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	@touch $@

clean:
	rm -rf site .venv .venv-docs .venv-jax .venv-torch
