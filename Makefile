# make demo   installs into .venv and runs the demo study
# make test   installs the test extras and runs linters, import contracts, type checks and tests
# make lint, make types, make tests   one of these alone
# make exhaustive   every network at every level with every method (about 10 minutes more)
# make clean  removes .venv and caches

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
TEST_JOBS ?= 2

.PHONY: help install demo test lint types tests exhaustive clean

help:
	@sed -n 's/^# make/make/p' Makefile

install: .venv/installed

demo: .venv/installed
	@$(BIN)/transfuse demo

test: lint types tests

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/installed-test
	$(BIN)/mypy

tests: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not exhaustive" --numprocesses $(TEST_JOBS) --dist loadgroup

exhaustive: .venv/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m exhaustive --numprocesses $(TEST_JOBS) --dist loadgroup tests

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "transfuse needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "Creating .venv ..."; rm -rf .venv; $(PYTHON) -m venv .venv; } \
	  || { rm -rf .venv; echo "Python could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing transfuse and its pinned dependencies into .venv (a few minutes the first time) ..."
	@$(PIP) --editable .
	@touch $@

.venv/installed-test: .venv/installed
	@echo "Installing the test extras ..."
	@$(PIP) --editable '.[test]'
	@touch $@
