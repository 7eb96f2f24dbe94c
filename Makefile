# The two commands of the README. Both make .venv from the committed constraints.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint

demo: .venv/.installed
	$(BIN)/wheretune demo --output runs/demo --overwrite

test: .venv/.installed lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --disable-warnings  # two processes of one thread: the models are tiny

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet -e '.[demo,dev]'
	touch $@
