# The commands of the README, and others. All make .venv from the committed constraints.
PYTHON ?= python3
BIN := .venv/bin

# Two processes of one thread: the models are tiny. What runs in further processes is not in the coverage.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --disable-warnings --cov

.PHONY: demo test test-all test-oldest coverage lint gpu-check

demo: .venv/.installed
	$(BIN)/wheretune demo --output runs/demo --overwrite

test: .venv/.installed lint  # what must run every time
	$(PYTEST)

test-all: test  # and what takes long; the second table is the coverage of both
	$(PYTEST) --cov-append -m slow

test-oldest: .venv-oldest/.installed  # with the oldest versions that pyproject.toml states
	OMP_NUM_THREADS=1 .venv-oldest/bin/pytest -q -n 2 --disable-warnings

coverage: test-all  # and the lines that nothing runs
	$(BIN)/coverage report --show-missing

gpu-check: .venv/.installed  # every path on a GPU once, in under eight minutes; without one all is tiny
	$(BIN)/python benchmarks/gpu.py --output runs/gpu.json

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/pip install --quiet -e '.[demo,dev]'
	touch $@

.venv-oldest/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	PIP_CONSTRAINT=$(CURDIR)/constraints-oldest.txt .venv-oldest/bin/pip install --quiet -e '.[demo]' pytest pytest-xdist hypothesis beartype
	touch $@
