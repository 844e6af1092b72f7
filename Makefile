# Every target sets up what it needs. `make PYTHON=python3.12 VENV=/tmp/env test` chooses others.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PEERS := .peers/learn2learn/learn2learn/algorithms/meta_sgd.py
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test test-slow peers lint format types clean help

help:
	@echo "make demo       meta-train on 2-D navigation and print how it adapts to unseen tasks (2 min)"
	@echo "make test       run the tests; make test-slow runs the evidence that takes minutes too"
	@echo "make peers      install what benchmarks compare with: learn2learn, torchopt, higher, jax, rliable"
	@echo "make lint       check format and style; make format mends what can be mended"
	@echo "make types      check types"
	@echo "make clean      remove the environment and what was built"

demo: $(VENV)/.plot
	$(BIN)/python scripts/demo.py

test: $(VENV)/.dev $(PEERS)
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(VENV)/.dev $(PEERS)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "slow or not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(VENV)/.dev
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .peers build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The stamps say what is installed, so that a second call installs nothing.
$(VENV)/.plot: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) --editable ".[plot]"
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) --editable ".[dev]" setuptools
	@touch $@ $(VENV)/.plot

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	    echo "mtrl needs Python 3.11 to 3.13; $(PYTHON) is not: run make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# What the benchmarks compare with beside that, and the statistics that one test does; each in its own environment.
peers: $(VENV)/.dev
	$(BIN)/python scripts/install_peers.py

# What the tests compare with is fetched once, by pip.
$(PEERS): $(VENV)/.dev requirements/learn2learn.txt scripts/install_peers.py
	$(BIN)/python scripts/install_peers.py learn2learn
	@touch $@
