# What CI runs is what you run. `make help` lists the targets; each does all of its own set-up.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON := $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
UV := $(or $(shell command -v uv),.uv/bin/uv)
BIN := .venv/bin
COMPILE := $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links $(UPGRADE)

DATA ?=
CLICKS ?=
PORT ?= 8080
STATE ?= ./streamer-data$(if $(DATA),-$(notdir $(patsubst %/,%,$(DATA))))
WORKERS ?= 4
PREPARED := .venv/.everything .venv/.kernels .test-libs/kafka/.done
# Nearly all tests of these are slow or need processes, and each worker of test-fast would import torch only to collect them.
SLOW_FILES = tests/study tests/real tests/models/test_offline_* tests/models/test_trainers.py tests/models/test_gru.py
PYTEST = $(BIN)/pytest -ra -n $(WORKERS)
export UV_PYTHON_DOWNLOADS := never
unexport PYTHONDONTWRITEBYTECODE # the tests start hundreds of interpreters: each would compile its imports anew

.PHONY: help setup run test test-fast soak mutants lint types bench speed generate lock secrets clean

help: ## these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

setup: ## everything: all extras, development tools, the broker and tools of the tests
	@$(MAKE) -s -j3 $(PREPARED)
	@deploy/machine.sh

run: .venv/.base ## learn and answer on 127.0.0.1:8080: a simulated world, or DATA=path/to/ml-latest-small (PORT=, STATE=)
	@exec $(BIN)/streamer serve --data "$(STATE)" --port "$(PORT)" $(if $(DATA),--replay "$(DATA)",--simulate --rate 2000)

test: ## lint, types and all tests but the long crash runs, WORKERS=4 at a time
	@$(MAKE) -s -j4 lint types $(PREPARED)
	@deploy/machine.sh
	@$(PYTEST) --dist loadgroup --no-loadscope-reorder -m "not soak"

test-fast: WORKERS = 2
test-fast: .venv/.everything .venv/.kernels ## in about a minute, what needs no broker, no browser, no other process and no fit: while one writes
	@$(PYTEST) --dist loadgroup $(SLOW_FILES:%=--ignore-glob='%') \
		-m "not soak and not slow and not kafka and not browser and not process"

soak: WORKERS = 3
soak: setup ## the crash runs in full
	@$(PYTEST) --dist worksteal -m soak

mutants: .venv/.everything ## break core places by one line each, in a copy, and say which breaks no test notices (ONLY="gate 7")
	@$(BIN)/python tests/mutants/run.py $(ONLY)

lint: .venv/.everything ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/.everything ## mypy, strict
	@$(BIN)/mypy

bench: .venv/.everything .venv/.bench .venv/.kernels ## our learners and their peers side by side on simulated streams, DATA and CLICKS, into benchmarks/results
	@$(BIN)/python -m benchmarks.run $(DATA) $(if $(CLICKS),--clicks $(CLICKS))

speed: .venv/.base ## how fast this machine learns and answers
	@$(BIN)/streamer bench

generate: .venv/.everything ## what is written from elsewhere: the endpoint's code, the schemas of events, docs/settings.md
	@$(BIN)/python streamer/_gen/generate.py
	@$(BIN)/python -m streamer.schemas.generate
	@PYTHONPATH=tests/support $(BIN)/python tests/test_docs.py

lock: $(UV) ## requirements/*.lock, anew from pyproject.toml; UPGRADE=--upgrade takes newer versions
	@$(COMPILE) pyproject.toml -o requirements/base.lock
	@$(COMPILE) pyproject.toml --extra offline -c requirements/base.lock -o requirements/offline.lock
	@$(COMPILE) pyproject.toml --extra offline --extra dev -c requirements/offline.lock -o requirements/dev.lock
	@$(COMPILE) --group bench -c requirements/dev.lock -o requirements/bench.lock
	@echo "$$($(UV) --version | cut -d' ' -f1,2 | tr ' ' '=' | sed 's/=/==/')" | $(COMPILE) - -o requirements/uv.lock

secrets: ## deploy/secrets/*, for docker compose; what is there stays
	@deploy/make-secrets.sh

clean: ## remove what make made, but for streamer-data*
	@rm -rf .venv .uv .test-libs .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} +

# What a target needs, made once. A stamp is newer than what it was made from, so a second run costs nothing.

.uv/bin/uv: requirements/uv.lock
	@test -n "$(PYTHON)" || { echo "streamer needs Python 3.11 or newer as python3: found $$(python3 --version 2>&1)"; exit 1; }
	@echo "uv into .uv"
	@$(PYTHON) -m venv .uv || { echo "$(PYTHON) cannot make environments: install its venv package (Debian: python3-venv), or uv"; exit 1; }
	@.uv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.lock
	@touch $@

.venv/pyvenv.cfg: | $(UV)
	@test -n "$(PYTHON)" || { echo "streamer needs Python 3.11 or newer as python3: found $$(python3 --version 2>&1)"; exit 1; }
	@$(UV) venv -q --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv

# Installing adds and updates and removes nothing, so that `make run` leaves what `make setup` installed.
.venv/.base: requirements/base.lock pyproject.toml | .venv/pyvenv.cfg
	@echo "packages into .venv"
	@$(UV) pip install -q --compile-bytecode --python $(BIN)/python --require-hashes -r requirements/base.lock
	@$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

.venv/.everything: requirements/dev.lock .venv/.base
	@echo "extras and development tools into .venv"
	@$(UV) pip install -q --python $(BIN)/python --require-hashes -r requirements/dev.lock
	@$(BIN)/python -c 'import torch._dynamo' # its bytecode is written once, and not by all processes of a test run at the same time
	@touch $@

.venv/.bench: requirements/bench.lock .venv/.base
	@echo "peers of the benchmarks into .venv"
	@$(UV) pip install -q --python $(BIN)/python --require-hashes -r requirements/bench.lock
	@touch $@

.venv/.kernels: .venv/.base $(wildcard streamer/*/*.py models/*.py models/*/*.py)
	@$(BIN)/python -m compileall -q streamer consumers producers models
	@$(BIN)/python -m streamer.compile
	@touch $@

.test-libs/kafka/.done: deploy/test-libs/pom.xml
	@deploy/machine.sh java mvn
	@mkdir -p $(@D)
	@if command -v mvn >/dev/null; then \
		echo "Apache Kafka for the tests into $(@D)"; \
		mvn -q -B -f $< dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(@D) && touch $@; \
	fi
