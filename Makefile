# make quickstart | figure | notebooks | docs | test | test-slow | lint | clean        (PYTHON=python3.12 picks the interpreter)

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable

.DEFAULT_GOAL := help
.PHONY: help quickstart figure notebooks docs test test-slow lint clean venv

help:
	@echo "make quickstart   train EvoNorm-S0 on the built-in digits, no download, no TensorFlow"
	@echo "make figure       accuracy against images per worker: 90 runs on the digits, and the figure"
	@echo "make notebooks    the .ipynb files and figures of the notebooks, from their .py files"
	@echo "make docs         the pages of docs/ and the API reference as a site, in docs/_build"
	@echo "make test         the test suite (installs TensorFlow for the input pipelines)"
	@echo "make test-slow    the tests that take minutes"
	@echo "make lint         ruff check, ruff format --check, mypy"
	@echo "make clean        remove the environment and the caches; runs/ stays"

quickstart: $(VENV)/.has-train
	JAX_PLATFORMS=cpu $(BIN)/python -m experiments.train --config configs/digits_resnet_evonorm_s0.py

SWEEP := digits_batch_size
figure: $(VENV)/.has-train
	JAX_PLATFORMS=cpu $(BIN)/python -m experiments.sweep --config configs/sweeps/$(SWEEP).py --workdir runs/$(SWEEP)
	$(BIN)/python -m experiments.plot runs/$(SWEEP)

notebooks: $(VENV)/.has-notebooks
	$(BIN)/python notebooks/convert.py
	for notebook in notebooks/[0-9]*.py; do \
	  JAX_PLATFORMS=cpu $(BIN)/python notebooks/render.py $$(basename $$notebook .py) || exit 1; done

docs: $(VENV)/.has-docs
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx --fail-on-warning --keep-going docs docs/_build/html
	@echo "docs/_build/html/index.html"

# Two processes take the files of tests in turn, in the order of tests/conftest.py.
test: $(VENV)/.has-data
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.has-data
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.has-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The stamps: one per set of packages, renewed when pyproject.toml changes.
$(VENV)/.has-train: pyproject.toml | venv
	@echo "Installing the training packages into $(VENV) (about a minute) ..."
	@$(PIP_INSTALL) ".[train]"
	@touch $@

$(VENV)/.has-data: pyproject.toml | venv
	@echo "Installing the training and test packages with TensorFlow into $(VENV) (minutes) ..."
	@$(PIP_INSTALL) ".[train,data,detection,test]"
	@touch $@ $(VENV)/.has-train

$(VENV)/.has-dev: pyproject.toml | venv
	@echo "Installing the training packages, ruff and mypy into $(VENV) ..."
	@$(PIP_INSTALL) ".[train,dev]"
	@touch $@ $(VENV)/.has-train

$(VENV)/.has-notebooks: pyproject.toml | venv
	@echo "Installing the training packages and Jupytext into $(VENV) ..."
	@$(PIP_INSTALL) ".[train,detection,notebooks]"
	@touch $@ $(VENV)/.has-train

$(VENV)/.has-docs: pyproject.toml | venv
	@echo "Installing the training packages and Sphinx into $(VENV) ..."
	@$(PIP_INSTALL) ".[train,docs]"
	@touch $@ $(VENV)/.has-train

# An environment that exists is used as it is, unless PYTHON was given and asks for another version.
venv: | $(BIN)/python
ifneq ($(origin PYTHON),file)
	@[ "$$($(PYTHON) -V 2>&1)" = "$$($(BIN)/python -V)" ] || { \
	  echo "$(VENV) holds $$($(BIN)/python -V), which PYTHON=$(PYTHON) is not;" \
	       "use another folder (VENV=.venv-$(notdir $(PYTHON))) or 'make clean'" >&2; exit 1; }
endif

$(BIN)/python:
	@$(PYTHON) -V >/dev/null 2>&1 || { \
	  echo "'$(PYTHON)' does not run; name an interpreter >= 3.11: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python >= 3.11 is needed, '$(PYTHON)' is $$($(PYTHON) -V 2>&1);" \
	       "name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info build dist docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
