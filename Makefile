# Loom. `make demo` shows it; `make test` checks everything that CI checks; `make bench` measures.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Third-party crates (RocksDB above all) are compiled once per user, not once per clone.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/loom/target
export CARGO_TERM_COLOR ?= auto
BIN := $(CARGO_TARGET_DIR)/debug
PYTHON := examples/chat-agent/.venv/bin/python
DEV := .venv/bin
PEERS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/loom/peers/bin
step = @printf '\n== %s\n' "$(1)"

.PHONY: help demo test bench build schemas clean

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

build: ## Install what is missing and build loomd, loomctl, loom-launch, loom-worker
	@scripts/prepare build
	@echo "build: cargo build into $(CARGO_TARGET_DIR) (the first time RocksDB takes some minutes)"
	@cargo build --workspace --bins --locked

demo: build ## Run the chat agent to its end: model, memory, tools, kill -9, adoption
	@scripts/prepare agents model
	@PATH="$(BIN):$$PATH" $(PYTHON) examples/chat-agent/demo.py

test: build ## Everything that CI runs
	@scripts/prepare agents dev model
	$(call step,format)
	cargo fmt --all --check
	$(call step,clippy)
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(call step,Rust: unit tests and end to end with the real binaries)
	LOOM_TEST_PYTHON="$(CURDIR)/$(PYTHON)" cargo nextest run --workspace --locked --no-fail-fast
	$(call step,Python: ruff and mypy --strict)
	$(DEV)/ruff check loom-py examples units tests
	$(DEV)/ruff format --check loom-py examples units tests
	cd loom-py && ../$(DEV)/mypy
	$(call step,Python: pytest)
	cd loom-py && ../$(DEV)/pytest
	$(call step,all green)

bench: build ## Measure beside the peers that are installed (scripts/prepare peers), in one run; QUICK=1 is shorter
	@PATH="$(BIN):$$PATH" LOOM_BENCH_PEERS="$${LOOM_BENCH_PEERS:-$(PEERS)}" PYTHONPATH=tests python3 -m bench

schemas: ## Print the schemas and golden messages again from the code
	LOOM_UPDATE_SCHEMAS=1 LOOM_UPDATE_GOLDEN=1 cargo nextest run -p loom-core -p loom-api -E 'test(fresh)'

clean: ## Remove what running from the checkout left (not the cargo cache)
	rm -rf var .venv examples/*/.venv units/lib/.venv
