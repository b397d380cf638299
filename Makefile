# Two commands: `make demo` and `make test`. Each makes .venv first if it is missing.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench teacher clean

demo: .venv/installed
	$(BIN)/sod lab demo

test: check
	$(BIN)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

bench: .venv/installed
	$(BIN)/python benchmarks/weights.py
	$(BIN)/python benchmarks/sandbox.py
	$(BIN)/python benchmarks/graders.py
	$(BIN)/python benchmarks/update.py

teacher: .venv/installed
	$(BIN)/sod lab teacher

# pip takes PyTorch's CPU build wherever it knows of one; see README, "Two commands", for how to tell it.
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("sod needs Python 3.11 or newer: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv; PyTorch is large, so this takes a minute or more."
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv
