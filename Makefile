PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check docs coverage bench bench-peers clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e ".[dev,docs,export,log]"
	touch $@

# Threads that wait for each other soon sleep: where other jobs run, spinning takes ten times as long.
demo: export GOMP_SPINCOUNT ?= 1000
demo: .venv/.ready  ## train on the linear Poisson problem and write the figures to demo/
	$(BIN)/python examples/poisson_linear.py --out demo

# Problems of tests are tiny, and each core has a worker of its own.
test test-slow: export OMP_NUM_THREADS ?= 1
test: .venv/.ready  ## run the fast tests
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: .venv/.ready  ## run the slow tests
	$(BIN)/python -m pytest -m slow

check: .venv/.ready  ## check format, lint, types and imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

docs: .venv/.ready  ## build the documentation to site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

coverage: .venv/.ready  ## run the fast tests, and say which lines they reach
	$(BIN)/python -m pytest -n auto --dist loadfile --cov --cov-report=term

bench: .venv/.ready  ## run the benchmarks
	$(BIN)/python -m benchmarks.run

.venv-peers/.ready: pyproject.toml benchmarks/peers/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install -r benchmarks/peers/requirements.txt -e .
	touch $@

bench-peers: .venv-peers/.ready  ## run other packages beside ours, in an environment of their own
	.venv-peers/bin/python -m benchmarks.peers.run

clean:  ## remove the environment, the caches and everything generated
	rm -rf .venv .venv-peers build dist *.egg-info demo runs site .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
