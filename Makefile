# Every target sets up what it needs; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check train format protos docs bench
BIN := .venv/bin
# Test processes share the cores with the servers they start, and the tests' matrices are small.
export OMP_NUM_THREADS ?= 1

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Make .venv with the pinned dependencies
	@PYTHON="$(PYTHON)" scripts/setup.sh

demo: setup ## Rank real users end to end (ARGS="--data DIR" takes a local copy of the data)
	@$(BIN)/crosskv demo $(ARGS)

test: setup ## Run the whole CPU test suite (ARGS goes to pytest)
	@$(BIN)/python -m pytest $(ARGS)

check: setup ## Format, lint, types, import rules, proto lint, generated files fresh
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	cd protos && ../$(BIN)/buf lint
	scripts/generate_protos.sh --check
	$(BIN)/python scripts/generate_docs.py --check

train: setup ## Train the demo's checkpoint and its twins (under 20 minutes on 2 cores)
	@$(BIN)/crosskv train $(ARGS)

bench: setup ## Measure what CrossKV's Python costs, on this machine
	@$(BIN)/crosskv bench codec && $(BIN)/crosskv bench rpc

format: setup ## Format and fix what can be fixed
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

protos: setup ## Regenerate the Python beside the .proto files
	@scripts/generate_protos.sh

docs: setup ## Regenerate the pages of docs/ that are made from code and results
	@$(BIN)/python scripts/generate_docs.py
