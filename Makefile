PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e ".[dev]"
	touch $@

demo: .venv/.ready  ## train on the linear Poisson problem and write the figures to demo/
	$(BIN)/python examples/poisson_linear.py --out demo

test: .venv/.ready  ## run the fast tests
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: .venv/.ready  ## run the slow tests
	$(BIN)/python -m pytest -m slow

check: .venv/.ready  ## check format, lint, types and imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

bench: .venv/.ready  ## run the benchmarks
	$(BIN)/python -m benchmarks.run

clean:  ## remove the environment, the caches and everything generated
	rm -rf .venv build dist *.egg-info demo runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
