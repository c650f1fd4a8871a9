# make demo   installs into .venv and runs the demo study
# make test   installs the test extras and runs linters, import contracts, type checks and tests

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
TEST_JOBS ?= 2

.PHONY: help install demo test lint types tests bench clean

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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_JOBS) --dist loadgroup

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "transfuse needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || { echo "Creating .venv ..."; $(PYTHON) -m venv .venv; }
	@echo "Installing transfuse and its pinned dependencies into .venv (a few minutes the first time) ..."
	@$(PIP) --editable .
	@touch $@

.venv/installed-test: .venv/installed
	@echo "Installing the test extras ..."
	@$(PIP) --editable '.[test]'
	@touch $@
