# GNU make on Python 3.11 or later. `make` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   ?= .venv
DATA   ?= bench/out/data
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test torture data bench docs clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

demo: $(VENV)/.installed ## Fit the demo images and say how good the classifier is
	$(BIN)/regraft fit examples/clipart --out runs/demo --overwrite

test: $(VENV)/.installed-dev ## Everything that must hold: style, types, import directions, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

torture: $(VENV)/.installed-dev ## Kill fits in every way, some hundred times; check the largest networks (an hour)
	$(BIN)/pytest -n 1 -m large
	$(BIN)/python tests/torture/kill_training.py

data: $(VENV)/.installed-dev ## Fetch the public image sets of the benchmarks (about 1.3 GB)
	$(BIN)/python bench/data.py $(DATA)

bench: data ## Measure every figure beside the peers (hours); writes docs/measurements.md
	$(BIN)/python bench/run.py --data $(DATA)

docs: $(VENV)/.installed-dev ## Write the generated documentation again, and build the site
	$(BIN)/python bench/run.py --render
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_python.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## Remove the environment and what was measured, not the runs
	rm -rf $(VENV) bench/out site

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "regraft needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps make repeated calls start at once; a changed pyproject.toml or constraints.txt installs again.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[openvino]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e '.[openvino,dev]'
	@touch $@ $(VENV)/.installed
