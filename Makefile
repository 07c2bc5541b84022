# make help says what there is. PYTHON=python3.12 picks another interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help venv demo test check parity clean

help:
	@echo 'make demo    train a small BERT on text that is on this machine, and export it (minutes, no download'
	@echo '             but the packages)'
	@echo 'make venv    install bertjax and its test tools into .venv'
	@echo 'make test    run the tests'
	@echo 'make check   style, types, import order, shell scripts'
	@echo 'make parity  compare exported models with PyTorch and transformers (in .venv-parity)'
	@echo 'make clean   remove caches and environments; runs/ stays'

venv: .venv/installed-test

# A stamp is older than pyproject.toml when the requirements may have changed.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	@echo 'installing bertjax into .venv'
	$(BIN)/python -m pip install -q -e .
	@touch $@

.venv/installed-test: pyproject.toml
	$(PYTHON) -m venv .venv
	@echo 'installing bertjax and its test tools into .venv'
	$(BIN)/python -m pip install -q -e '.[test]'
	@touch .venv/installed $@

.venv-parity/installed: pyproject.toml
	$(PYTHON) -m venv .venv-parity
	@echo 'installing bertjax, PyTorch and transformers into .venv-parity'
	.venv-parity/bin/python -m pip install -q -e '.[parity]'
	@touch $@

demo: .venv/installed
	$(BIN)/python -m bertjax.demo --out=runs/demo

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --ignore=tests/parity

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck -x launch/*.sh .ci/run
	$(BIN)/python -m pytest tests/test_imports.py

parity: .venv-parity/installed
	.venv-parity/bin/python -m pytest tests/parity

clean:
	rm -rf .venv .venv-parity build .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
