# Sets up everything by itself: `make demo` reconstructs the shipped clip, `make test` runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.PHONY: demo test test-slow lint install clean

demo: install
	@echo "From detected joints, without a network:"
	$(BIN)/python infer.py --demo --out outputs/demo --overwrite
	@echo "From the network that ships, refined as well:"
	$(BIN)/python infer.py --demo --init network --out outputs/demo-network --overwrite

test: install
	$(BIN)/python -m pytest

test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell haptic tests data_prep docs benchmarks README.md CONTRIBUTING.md

install: $(STAMP)
	@$(BIN)/python -P -c "import haptic, pathlib; assert pathlib.Path(haptic.__file__).resolve().parent == pathlib.Path('haptic').resolve()" 2>/dev/null \
	    || $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'haptic needs Python 3.11 or newer; say make PYTHON=python3.11'"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing haptic and what it needs into $(VENV): some minutes, some 7 GB (torch brings its CUDA libraries)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,depth,dev]"
	rm -f $(VENV)/.installed-*
	touch $@

clean:
	rm -rf $(VENV) outputs build dist
