# Every target creates its own environment: `make test` is enough after a clone.
PYTHON ?= python3
ARGS ?=
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup test demo check test-oldest test-install wheel clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile
	@echo
	@echo '  PYTHON=python3.12 selects the Python, 3.10 or newer; ARGS="-k tracker" is passed to pytest'

setup: ## create .venv for development (the other targets do this themselves)
	@scripts/setup

test: setup ## run the tests except the slow ones
	@scripts/test $(ARGS)

demo: ## run the bundled model on a held-out video, without PyTorch
	@scripts/demo

check: setup ## check style, types, import rules, names and language
	@scripts/check

test-oldest: ## run the runtime's tests with the oldest Python and packages, without torch
	@scripts/test-oldest $(ARGS)

test-install: ## install the wheel in an empty environment and measure its size
	@scripts/test-install

wheel: ## build a wheel with the compiled libraries into dist/
	@scripts/wheel

clean: ## remove the environments, builds and caches
	rm -rf .venv .venv-demo .venv-extras .venv-oldest .venv-tensorrt-rtx build dist
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name .git -prune -o -name __pycache__ -prune -exec rm -rf {} +
