# Two commands set up a fresh machine: `make demo` shows the product, `make test` tests it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin
# Tests wait for processes half of their time: one more of them than there are cores, at most four.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 3 ? n + 1 : 4)))
# The Python to use; empty: the newest suitable one that this machine has.
PYTHON ?=
export PYTHON

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo '  PYTHON=/path/to/python chooses the interpreter of .venv; ARGS="-k claim" goes to pytest'

$(VENV)/.ready: pyproject.toml .ci/make-venv .ci/constraints.txt
	@.ci/make-venv $(VENV)

.PHONY: setup
setup: $(VENV)/.ready ## Make .venv with the package (editable) and its test and lint tools
	@:

SERVERS ?= .venv-servers
$(SERVERS)/.ready: .ci/make-servers .ci/servers.txt
	@.ci/make-servers $(SERVERS)

.PHONY: servers
servers: $(SERVERS)/.ready ## Install the servers that the tests run against (S3, GCS, Azure, AWS)
	@:

FRAMEWORKS ?= .venv-frameworks
$(FRAMEWORKS)/.ready: pyproject.toml .ci/make-frameworks .ci/prefect1.txt .ci/prefect3.txt
	@.ci/make-frameworks $(FRAMEWORKS)

.PHONY: frameworks
frameworks: $(FRAMEWORKS)/.ready ## Install Prefect 1 and 3, whose flows the tests run
	@:

PEERS ?= .venv-peers
$(PEERS)/.ready: .ci/make-peers .ci/peers.txt
	@.ci/make-peers $(PEERS)

.PHONY: peers
peers: $(PEERS)/.ready ## Install what the benches stand beside (RQ, Redis, procrastinate, graphile-worker)
	@:

.PHONY: demo
demo: setup ## Register a flow, run it, and show its log and result
	@PATH="$(abspath $(BIN)):$$PATH" bash docs/examples/demo.sh

.PHONY: test
test: setup servers frameworks ## Run the tests: unit, contracts, end to end, generated
	@FLOW_AGENT_TEST_SERVERS="$(abspath $(SERVERS))" FLOW_AGENT_TEST_FRAMEWORKS="$(abspath $(FRAMEWORKS))" $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

.PHONY: check
check: setup ## Check style, types and layers
	@echo 'ruff check'; $(BIN)/ruff check --quiet
	@echo 'ruff format --check'; $(BIN)/ruff format --check --quiet || { $(BIN)/ruff format --check; exit 1; }
	@echo 'mypy'; $(BIN)/mypy --no-error-summary
	@echo 'lint-imports'; said=$$($(BIN)/lint-imports --no-cache) || { echo "$$said"; exit 1; }
	@echo 'all clean'

.PHONY: test-all
test-all: ## Run the tests on 3.11, 3.12 and 3.13, as far as this machine has them
	@.ci/test-all $(ARGS)

.PHONY: bench
bench: setup servers frameworks peers ## Measure start, latency, throughput, idle cost and fetching beside peers and the bare limits
	@missed=; for bench in startup latency throughput idle daemon peers claims machines fleet over_http fetch repositories; do \
	    PATH="$(abspath $(BIN)):$$PATH" FLOW_AGENT_TEST_FRAMEWORKS="$(abspath $(FRAMEWORKS))" \
	    FLOW_AGENT_TEST_PEERS="$(abspath $(PEERS))" $(BIN)/python tests/bench/$$bench.py || missed+=" $$bench"; \
	done; [ -z "$$missed" ] || { echo "make: a budget is missed, or it failed:$$missed" >&2; exit 1; }

.PHONY: soak
soak: setup ## Kill agents, keepers and zygotes at random for 20,000 runs and look for any that was lost or doubled
	@$(BIN)/python tests/bench/soak.py $(ARGS)

.PHONY: chaos
chaos: setup servers ## Kill, freeze and cut off agents, database and server at random for 20 minutes and look for any harm
	@FLOW_AGENT_TEST_SERVERS="$(abspath $(SERVERS))" $(BIN)/python tests/bench/chaos.py $(ARGS)

# The oldest supported Python: what has a version for it has the same one for the others.
.PHONY: pins
pins: ## Renew .ci/constraints.txt with the newest versions (make check test-all must pass with them)
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	CONSTRAINTS=/dev/null PYTHON= .ci/make-venv "$$folder/venv" 3.11; \
	{ head -n 1 .ci/constraints.txt; "$$folder/venv/bin/python" -m pip freeze --exclude-editable; } >"$$folder/pins"; \
	cp "$$folder/pins" .ci/constraints.txt

.PHONY: clean
clean: ## Remove what the other targets made
	@rm -rf .venv .venv-3.* .venv-frameworks .venv-peers .demo build dist .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis
	@find agent tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
