# Two commands for a newcomer: `make demo` and `make test`. Everything is written inside this folder.

PYTHON ?= python3.11
BIN := .venv/bin
MODEL ?=
LICENCE ?=
TEXTS ?=
STEPS ?=
PEERS ?= .posthuman/bench
REVISION ?=
# PyTorch's own index of builds without CUDA saves about 3 GB; its address is on PyTorch's installation page
TORCH_INDEX ?=

CACHE := $(CURDIR)/.posthuman/cache
export TORCH_INDEX
export TMPDIR := $(CACHE)/tmp
export XDG_CACHE_HOME := $(CACHE)/xdg
export HF_HOME := $(CACHE)/huggingface
export TORCH_HOME := $(CACHE)/torch
export MPLCONFIGDIR := $(CACHE)/matplotlib
# libraries that report usage home are told not to
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

.PHONY: help setup setup-tests demo demo-train test check live long bench coverage down clean

help:
	@echo "make demo [MODEL=folder, or MODEL=hub-id REVISION=commit]  set up, start the stack, publish, sell, call, verify"
	@echo "make demo-train [MODEL=folder] [TEXTS=folder of WikiText-2] [STEPS=500]  two trainings, each an asset of its trainer"
	@echo "make test                           set up, then every test of the default run, on real servers"
	@echo "make check                          format, lint, types, import contracts, fast tests (three minutes)"
	@echo "make live                           only the tests on real servers"
	@echo "make long                           the tests that take minutes each, which the default run leaves out"
	@echo "make bench [PEERS=folder]           every benchmark, beside the servers that ours is compared with; writes docs/benchmarks.md"
	@echo "make coverage                       which model types are converted and served (docs/model-coverage.md); goes on where it was"
	@echo "make down | clean                   stop the stack | and remove environments, caches and state, keys included"

setup:
	@mkdir -p "$(TMPDIR)"
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { echo "missing: Python 3.11: apt-get install python3.11 python3.11-venv, or make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@"$(PYTHON)" -m deploy.local.setup

setup-tests: setup
	@"$(PYTHON)" -m deploy.local.setup --tests

demo: setup
	@$(BIN)/posthuman demo $(if $(MODEL),--model "$(MODEL)") $(if $(LICENCE),--licence "$(LICENCE)") $(if $(REVISION),--revision "$(REVISION)")

demo-train: setup
	@$(BIN)/posthuman demo-train $(if $(MODEL),--model "$(MODEL)") $(if $(LICENCE),--licence "$(LICENCE)") $(if $(TEXTS),--texts "$(TEXTS)") $(if $(STEPS),--steps "$(STEPS)")

test: setup-tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

live: setup-tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "live and not long"

long: setup-tests
	$(BIN)/python -m pytest -m long

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy model_repository/backends
	$(BIN)/mypy --explicit-package-bases --exclude "bench/peers/[a-z]*_onnx" bench
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not live and not slow and not long"

# In the folder PEERS each server that ours is compared with gets an environment of its own (3 GB in all), unless it is there.
bench: setup
	$(BIN)/python -m bench.gate --peers "$(PEERS)"
	$(BIN)/python -m bench.generation
	$(BIN)/python -m bench.embeddings --peers "$(PEERS)"
	$(BIN)/python -m bench.gptj_gpu
	$(BIN)/python -m bench.publish
	$(BIN)/python -m bench.train
	$(BIN)/python -m bench.stress; broken=$$?; $(BIN)/python -m bench.summary && exit $$broken

coverage: setup
	$(BIN)/python -m converters.coverage sweep
	$(BIN)/python -m converters.coverage table

down:
	@if [ -x $(BIN)/posthuman ]; then $(BIN)/posthuman down; fi

clean: down
	rm -rf .venv .venv-triton node_modules .posthuman *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
