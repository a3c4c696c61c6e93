# Two commands do everything on a fresh machine: `make demo` and `make test`.
# PYTHON (default python3) makes the environment; EXTRA_PIP_ARGS are passed to pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := rsdgc clients strategies data_prep fl_app rsdgc_flower
CHECKED := $(SOURCES) tests benchmarks
# A file's tests share what they set up, so whole files run side by side, in the order and on the
# number of workers that tests/conftest.py sets.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: install demo demo-real test check lint docs types clean

install: $(STAMP)

$(STAMP): pyproject.toml Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,docs,browser]" $(EXTRA_PIP_ARGS)
	touch $(STAMP)

# Four sites with synthetic land cover train one model at a ninetieth of the traffic.
demo: $(STAMP)
	$(BIN)/rsdgc simulate --out runs/demo --force

# A real scene: Indian Pines, 16 classes, 200 bands, four geographic sites; dense beside rs-dgc.
demo-real: $(STAMP)
	rm -rf runs/indian-pines
	mkdir -p runs/indian-pines
	$(BIN)/rsdgc indian-pines runs/indian-pines/archive
	$(BIN)/rsdgc ingest runs/indian-pines/archive --layout scenes --patch 3 --name indian-pines --out runs/indian-pines/store
	$(BIN)/rsdgc partition runs/indian-pines/store --sites 4 --scheme block --out runs/indian-pines/data
	$(BIN)/rsdgc simulate --data runs/indian-pines/data --model hyper-cnn --method fedavg --out runs/indian-pines/fedavg
	$(BIN)/rsdgc simulate --data runs/indian-pines/data --model hyper-cnn --method rs-dgc --out runs/indian-pines/rs-dgc

# Everything that must be green, in this order: style, documentation, types, all tests. A broken page is
# seen before the types are checked, and pytest's own closing line is the last.
test: lint docs types
	$(PYTEST)

# The part to run at every change.
check: lint types
	$(PYTEST) -m "not slow and not deployment and not browser"

lint: $(STAMP)
	$(BIN)/ruff check $(CHECKED) docs/site_hooks.py
	$(BIN)/ruff format --check $(CHECKED) docs/site_hooks.py

# The site in build/site, and the quick tests of its pages. A broken link or anchor, a page that requests
# something from elsewhere, a command or an option that does not exist: each is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m pytest -n 0 -m "not slow" tests/documentation

types: $(STAMP)
	$(BIN)/mypy

clean:
	rm -rf runs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +
