# Each target makes its own .venv when there is none. What is there already is not installed again, nor asked for.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq --constraint constraints.txt

.PHONY: help demo test lint notebooks azurite corpus

help:  ## say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: .venv/runtime  ## draw pictures, annotate them with the embedded model, show what came out
	$(BIN)/moondream-beam demo

test: .venv/test  ## run all tests, the quick ones first
	$(BIN)/pytest --numprocesses auto --maxprocesses 4

corpus: .venv/corpus  ## fetch the pictures that Pillow is tested with, for a test that is skipped without them

lint: .venv/test  ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

notebooks: .venv/test  ## run every notebook from top to bottom
	for notebook in $(wildcard notebooks/*.ipynb); do $(BIN)/jupyter-execute $$notebook || exit; done

azurite: .venv/azurite/node_modules  ## install the emulator of Azure's blobs, else its tests are skipped; needs Node

.venv/azurite/node_modules:
	mkdir -p .venv/azurite
	npm install --silent --prefix .venv/azurite azurite@3.35.0

# Without build isolation the pinned setuptools builds, and a repeated install needs no network.
.venv/runtime: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	mkdir -p .venv/house
	ln -sfn ../.. .venv/house/moondream_beam
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation --editable .
	touch $@

.venv/test: .venv/runtime
	$(INSTALL) --no-build-isolation --editable ".[test]"
# The official client of Moondream Cloud, without the gigabyte of kernels that it is packaged with and does not load.
	$(INSTALL) --no-deps moondream
	touch $@

# The source of the very Pillow that is installed. To hand it over pip asks it for metadata, which takes pybind11.
.venv/corpus: .venv/test
	rm -rf $@.new
	$(INSTALL) pybind11
	$(BIN)/python -m pip download -qq --constraint constraints.txt --no-deps --no-binary :all: --no-build-isolation \
		--dest $@.new pillow
	tar -xzf $@.new/[Pp]illow-*.tar.gz -C $@.new
	rm -rf $@
	mv $@.new/[Pp]illow-*/Tests/images $@
	rm -rf $@.new
	touch $@
