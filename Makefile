# Isthmus. Needs Python 3.11 or later and make. Everything else goes into .venv and, for Envoy and Consul, into a cache outside
# the checkout (${XDG_CACHE_HOME:-~/.cache}/isthmus/peers). What the targets say about themselves goes to standard error, so that
# `make demo ARGS="--once --json" | jq` works.

PYTHON ?= python3
UV_VERSION := 0.13.8
DEMO_ENVOY := envoy-1.40.0

# Passed on to `isthmus demo` and to pytest.
ARGS ?=
# The benchmark to run; all when empty.
NAME ?=

BIN := .venv/bin
UV := $(BIN)/uv
# There once .venv has this version of uv.
STAMP := .venv/.uv-$(UV_VERSION)

# uv is to use .venv, whatever environment the caller's shell has activated.
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/.venv
unexport VIRTUAL_ENV
unexport PYTHONHOME

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test soak check peers bench bench-check stubs format dev clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

demo: $(STAMP) ## Show the whole path on this machine: registry, bridge, Envoy, requests (ARGS="--once")
	@$(UV) sync $(if $(wildcard $(BIN)/isthmus),--quiet) --inexact --no-dev --frozen
	@$(BIN)/python -m tests.peers $(DEMO_ENVOY)
	@exec $(BIN)/isthmus demo $(ARGS)

test: dev peers ## Run all tests, or those that ARGS name (ARGS="tests/e2e -k drain")
	@exec $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

soak: dev ## Look long for orders of events in which a model or a law fails (needs half an hour)
	@exec env HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest -n 2 --timeout=3600 tests/model tests/property $(ARGS)

check: dev ## Check format, lint, types, import arrows, stubs and the lock file
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(UV) lock --check
	$(BIN)/lint-imports
	$(BIN)/python typings/generate.py --check
	$(BIN)/python registry/isthmus/registry/etcd/proto/generate.py --check
	$(BIN)/mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

peers: $(STAMP) ## Fetch or build the real servers that tests use (Envoy 1.36 to 1.40, registries, Docker, Debian)
	@$(BIN)/python -m tests.peers

bench: dev peers ## Measure (NAME=spine for one benchmark); rows go to bench/results/
	@exec $(BIN)/python -m bench $(NAME)

bench-check: dev ## Print the measured rows that fall short of their target; fail if there are any
	@exec $(BIN)/python -m bench --check $(NAME)

stubs: dev ## Generate the type stubs of the xDS messages and the messages of etcd again
	$(BIN)/python typings/generate.py
	$(BIN)/python registry/isthmus/registry/etcd/proto/generate.py

format: dev ## Format the code and mend what the linter can mend
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

dev: $(STAMP) ## Create or update .venv with all that development needs
	@$(UV) sync $(if $(wildcard $(BIN)/pytest),--quiet) --inexact --locked

clean: ## Remove what was made in the checkout (the cache of Envoy and Consul stays)
	rm -rf .venv dist build bench/results .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP):
	@command -v $(PYTHON) >/dev/null || { echo "Isthmus needs Python 3.11 or later, and '$(PYTHON)' is not there. Name one that is: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Isthmus needs Python 3.11 or later, and $(PYTHON) is %d.%d. Name another: make PYTHON=/path/to/python3" % sys.version_info[:2])'
	@echo "Preparing .venv with uv $(UV_VERSION)" >&2
	@$(PYTHON) -m venv .venv >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) >&2
	@rm -f .venv/.uv-*
	@touch $@
