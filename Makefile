# Each target creates .venv if there is none. A repeated call installs nothing, unless a file that .venv/runtime needs changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq --constraint constraints.txt
GO ?= $(shell command -v go || echo /usr/local/go/bin/go)
BEAM := $(shell sed -n 's/^apache-beam==//p' constraints.txt)

.PHONY: help demo test lint bench notebooks azurite prism corpus spark35

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: .venv/runtime  ## draw pictures, annotate them with the tiny model and write a report
	$(BIN)/moondream-beam demo
	@echo
	@echo 'Open moondream-demo/out/report.html in a browser. Then annotate pictures of your own, in a folder "photos":'
	@echo '    . .venv/bin/activate'
	@echo '    moondream-beam annotate photos --output out'
	@echo 'The last command downloads Moondream 2 (4 GB) first. It uses all GPUs; a CPU works too, but slowly.'

# Three processes keep two cores busy, because many slow tests wait. Each takes up to 2.5 GB of memory.
test: .venv/test  ## run all tests in parallel, the quick ones first
	$(BIN)/pytest --numprocesses 3

corpus: .venv/corpus  ## fetch Pillow's test pictures; a test is skipped without them

lint: .venv/test  ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/test  ## run all benchmarks small, in less than ten minutes, and write bench.json
	PYTHONPATH=.venv/house $(BIN)/python benchmarks/bench.py

notebooks: .venv/test  ## run every notebook from top to bottom, and store its outputs
	$(BIN)/python notebooks/update.py

azurite: .venv/azurite/node_modules  ## install the emulator of Azure's blob storage (needs Node); its tests are skipped without it

.venv/azurite/node_modules:
	mkdir -p .venv/azurite
	npm install --silent --prefix .venv/azurite azurite@3.35.0

prism: .venv/prism/$(BEAM)/prism  ## build Prism, a runner of Beam, with Go; its tests are skipped without it

.venv/prism/$(BEAM)/prism:
	GOBIN=$(CURDIR)/.venv/prism/$(BEAM) $(GO) install github.com/apache/beam/sdks/v2/go/cmd/prism@v$(BEAM)

# PySpark 4 stays in .venv. PySpark 3.5 leaves sockets of failed jobs to the garbage collector, and uses distutils.
spark35: .venv/test  ## run the tests of Spark, slow ones included, on PySpark 3.5 (needs Java 17)
	test -d .venv/spark35/pyspark || $(BIN)/python -m pip install -qq --target .venv/spark35 pyspark==3.5.9
	PYTHONPATH=.venv/spark35 $(BIN)/pytest -m spark -p no:xdist \
		-W 'ignore:unclosed <socket:ResourceWarning' -W 'ignore:distutils Version classes:DeprecationWarning'

# Without build isolation, the pinned setuptools builds the package, and a repeated install needs no network.
.venv/runtime: setup.py pyproject.toml constraints.txt
	@echo 'Installing this package, PyTorch and Apache Beam into .venv: about 5 GB of disk, and some minutes the first time.'
	$(PYTHON) -m venv .venv
	mkdir -p .venv/house
	ln -sfn ../.. .venv/house/moondream_beam
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation --editable .
	touch $@

.venv/test: .venv/runtime
	@echo 'Installing what the tests need into .venv: about 1.5 GB more, and some minutes the first time.'
	$(INSTALL) --no-build-isolation --editable ".[test]"
# The official client of Moondream Cloud. --no-deps leaves out a gigabyte of kernels that the client does not load.
	$(INSTALL) --no-deps moondream
	touch $@

# The source of the installed Pillow version. pip reads its metadata to download it, which needs pybind11.
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
