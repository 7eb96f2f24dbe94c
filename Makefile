# The commands of the README, and others. All make .venv from the committed constraints.
PYTHON ?= python3
BIN := .venv/bin

# Two processes of one thread: the models are tiny.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --disable-warnings

.PHONY: demo test test-all test-oldest coverage lint gpu-check

demo: .venv/.installed
	$(BIN)/wheretune demo --output runs/demo --overwrite

test: .venv/.installed lint  # what must run every time
	$(PYTEST)

# And what takes long, with the coverage of the first and then of both: it costs half as much time again. What runs in
# further processes is not in it.
test-all: .venv/.installed lint
	$(PYTEST) --cov
	$(PYTEST) --cov --cov-append -m slow

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
