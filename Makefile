# `make demo` and `make test` need Python >= 3.11 and its package index, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-all test-lowest lint clean

demo: $(INSTALLED)
	$(BIN)/poise run recipes/quickstart.yaml

test: $(INSTALLED) lint
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist worksteal --cov --cov-report=term:skip-covered

test-all: $(INSTALLED) lint
	$(BIN)/python -m pytest

# The same tests on the oldest version of each dependency that pyproject.toml allows.
LOWEST := .venv-lowest
test-lowest:
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct --editable ".[datasets,onnx,dedup,serve,bench]"
	$(LOWEST)/bin/uv pip freeze --python $(LOWEST) --exclude-editable > $(LOWEST)/versions.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/versions.txt --editable ".[dev]"
	$(LOWEST)/bin/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch first and alone: the pin takes the CPU build where the index has one, and nothing later may pull a second one.
$(INSTALLED): pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Poise needs Python 3.11 or newer: make PYTHON=python3.11')"
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) $(LOWEST) runs
