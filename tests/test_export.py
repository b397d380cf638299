"""A model as a Hugging Face folder: whole, told truly, the same numbers in Transformers and vLLM, nothing of this machine.

What needs vLLM runs where SOD_VLLM_PYTHON names the Python of an environment that has it.
"""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from evaluated import write_evaluation
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from warm import run_warm

from sod.chat.format import ChatFormat
from sod.cli import run as sod
from sod.config import ChatOptions, EvalOptions, ExportOptions, ModelOptions, SftOptions, TrainOptions
from sod.datasets.rows import fingerprint_model
from sod.engines import Request
from sod.engines.hf import HFEngine
from sod.errors import ModelError, OptionError, RunError
from sod.evaluation.evaluate import evaluate
from sod.export import export
from sod.export.folder import whole_or_not_at_all
from sod.export.probe import CONVERSATION, SCHEMA, Probe, rendered
from sod.export.wording import public
from sod.lab import settings
from sod.lab.demonstrations import STUDENT_STYLE
from sod.lab.make import write_demonstrations
from sod.model.loading import load_model
from sod.runs.directory import Run
from sod.runs.files import sha256_of_file
from sod.training.on_policy import train
from sod.training.sft import sft

VLLM_PYTHON = os.environ.get("SOD_VLLM_PYTHON")
VLLM_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_HOST_IP": "127.0.0.1"}
OFFLINE = {"HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def runs(
    teacher: Path,
    trembling: Callable[[Path, float], None],
    problem_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a cold start, `start`, and of a run of SOD that began with it, `sod`, each of two steps."""
    folder = tmp_path_factory.mktemp("runs")
    trembling(folder / "base", 0.1)
    write_demonstrations(folder / "demonstrations.jsonl", STUDENT_STYLE, 8, seed=0)
    start = {"model": folder / "base", "data": folder / "demonstrations.jsonl", "out": folder / "start", "epochs": 2}
    began = sft(SftOptions.model_validate(start | {"batch": 8, "save_every": 1, "learn": {"lr": 1e-4}}))
    student = began.newest_checkpoint()
    assert student is not None
    train(
        TrainOptions.model_validate(
            {"student": student[1], "teacher": teacher, "data": problem_file, "out": folder / "sod", "updates": 2}
            | {"rollout": settings.ROLLOUT | {"problems": 2, "group": 2, "max_tokens": 100}, "save_every": 1}
            | {"learn": {"lr": 1e-3, "minibatches": 1}, "reward": settings.REWARD, "tool": settings.TOOL}
            | {"sandbox": {"workers": 2}}
        )
    )
    return folder


@pytest.fixture(scope="module")
def checkpoint(runs: Path) -> Path:
    return runs / "sod" / "checkpoints" / "update-0002"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write the run of an evaluation of a model, as `sod eval` leaves it."""

    def write(model: Path, *, partial: bool = False, network: str = "float32") -> Path:
        folder = tmp_path_factory.mktemp("eval") / "run"
        write_evaluation(folder, model, partial=partial, network=network)
        return folder

    return write


@pytest.fixture(scope="module")
def exported(
    runs: Path, checkpoint: Path, evaluated: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run of SOD as a folder, with two evaluations."""
    out = tmp_path_factory.mktemp("exported") / "SOD-lab"
    results = evaluated(checkpoint), evaluated(checkpoint, partial=True)
    export(ExportOptions(model=runs / "sod", out=out, results=results, base="somebody/something", license="apache-2.0"))
    return out


def card(folder: Path) -> str:
    return (folder / "README.md").read_text()


def blocks(folder: Path, language: str) -> list[str]:
    """The card's blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)\n```$", card(folder), re.DOTALL | re.MULTILINE)


def plain_logprobs(folder: Path, ids: Sequence[int]) -> list[float]:
    """Of every token but the first, by plain Transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits_TV = model(torch.tensor([list(ids)])).logits[0, :-1]
    return logits_TV.log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[:, 0].tolist()


def greedy(folder: Path, ids: Sequence[int], count: int) -> list[int]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    greedily = GenerationConfig(
        eos_token_id=model.generation_config.eos_token_id, pad_token_id=0, max_new_tokens=count, do_sample=False
    )
    return model.generate(torch.tensor([list(ids)]), generation_config=greedily)[0, len(ids) :].tolist()


# What is written


def test_an_exported_run_is_a_whole_folder_and_holds_nothing_of_the_optimisers(exported: Path) -> None:
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert files == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("sod/options.json", "sod/environment.json"),
        *(f"sod/evaluation-{i}/{name}.json" for i in (1, 2) for name in ("options", "environment", "results")),
    }
    assert list(exported.parent.iterdir()) == [exported]
    modes = {(exported / name).stat().st_mode for name in ("model.safetensors", "config.json")}
    assert len(modes) == 1


def test_the_weights_are_those_of_the_newest_checkpoint(exported: Path, checkpoint: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, exported))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_nothing_that_is_written_names_this_machine(exported: Path, runs: Path) -> None:
    for path in exported.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            text = path.read_text()
            for secret in (
                str(runs.parent),
                str(Path.home()),
                "/tmp",
                "somebody/secret",
                "/home",
                str(Path(sys.executable).parent),
            ):
                assert secret not in text.replace("secret/own.jsonl", ""), (path, secret)
    options = json.loads((exported / "sod" / "options.json").read_text())
    assert options["student"] == "checkpoints/update-0002"
    environment = json.loads((exported / "sod" / "environment.json").read_text())
    assert environment["command"] == "train"
    assert "arguments" not in environment


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/people/jane/runs/sod", "runs/sod"),
        (str(Path.home() / "rule.py:impatient"), "rule.py:impatient"),
        ("/home/jane doe/runs/sod", "runs/sod"),
        ("../../data/x.jsonl", "data/x.jsonl"),
        ("read /srv/people/jane/x.jsonl, twice", "read jane/x.jsonl, twice"),
        ("Qwen/Qwen3-0.6B@main", "Qwen/Qwen3-0.6B@main"),
        ("tools/errors", "tools/errors"),
        ("from https://example.org/a/b/c", "from https://example.org/a/b/c"),
        ("{question} {context}", "{question} {context}"),
    ],
)
def test_of_a_path_the_last_two_parts_remain(text: str, expected: str) -> None:
    assert public({"a": [text]}) == {"a": [expected]}


def test_addresses_of_servers_are_not_written(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "sod", run)
    options = json.loads((run / "options.json").read_text())
    options["engine"] |= {"name": "vllm_server", "url": "http://10.0.0.7:8000", "exchange": "/mnt/share"}
    options["sandbox"] |= {"backend": "fusion", "url": "http://10.0.0.8:8080"}
    options["score"] |= {"teacher_url": "http://10.0.0.9:8001"}
    options["reward"]["llm"] |= {"url": "http://10.0.0.10:8002"}
    (run / "options.json").write_text(json.dumps(options))
    export(ExportOptions(model=run, out=tmp_path / "out"))
    told = card(tmp_path / "out") + (tmp_path / "out" / "sod" / "options.json").read_text()
    assert 'backend = "fusion"' in told
    assert not re.search(r"10\.0\.0|mnt", told)


def test_the_card_names_each_of_several_teachers(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "sod", run)
    options = json.loads((run / "options.json").read_text())
    environment = json.loads((run / "environment.json").read_text())
    options |= {"teacher": None, "teachers": ["math=/srv/jane/models/arithmetic", "*=Qwen/Qwen3-8B"]}
    del environment["data"]["teacher"]
    environment["data"] |= {"teacher math": "a1", "teacher rest": "b2"}
    (run / "options.json").write_text(json.dumps(options))
    (run / "environment.json").write_text(json.dumps(environment))
    export(ExportOptions(model=run, out=tmp_path / "out"))
    told = card(tmp_path / "out")
    assert "teacher of math: `models/arithmetic`, fingerprint `a1`" in told
    assert "teacher of *: `Qwen/Qwen3-8B`, fingerprint `b2`" in told
    assert "on-policy-distillation" in told
    assert "jane" not in told


# Numbers


def test_transformers_continues_greedily_as_our_engine_does(exported: Path, checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported)
    ids = tokenizer.apply_chat_template(CONVERSATION[:1], tools=[SCHEMA], add_generation_prompt=True, return_dict=False)
    request = Request(ids=ids, max_tokens=60, stops=(tokenizer.eos_token_id,), seed=0, top_p=1e-9)

    async def ours() -> list[int]:
        engine = HFEngine(load_model(checkpoint, ModelOptions(device="cpu")), slots=1)
        return list((await engine.sample(request)).tokens)

    assert greedy(exported, ids, 60) == asyncio.run(ours())


def test_weights_can_be_written_in_bfloat16_and_the_card_says_what_that_changed(
    runs: Path, checkpoint: Path, evaluated: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "SOD-lab"
    export(ExportOptions(model=runs / "sod", out=out, dtype="bfloat16", results=(evaluated(checkpoint),)))
    assert {weight.dtype for weight in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype == torch.bfloat16
    assert re.search(r"rounding to bfloat16 changed them by up to 0\.\d+", capsys.readouterr().out)
    assert "- rounding to bfloat16 changed the log-probabilities" in card(out)
    assert "evaluated with weights in float32, not in bfloat16 as exported here" in card(out)


def test_a_folder_with_other_weights_or_another_tokenizer_does_not_pass_the_check(
    teacher: Path, exported: Path, chat: ChatFormat, tmp_path: Path
) -> None:
    probe = Probe.of(teacher, chat, AutoModelForCausalLM.from_pretrained(teacher))
    assert probe.check(teacher, ChatOptions()) < 1e-4
    with pytest.raises(ModelError, match=r"differs from the checkpoint: a log-probability is .* nats off"):
        probe.check(exported, ChatOptions())
    shutil.copytree(teacher, tmp_path / "other")
    template = tmp_path / "other" / "chat_template.jinja"
    template.write_text(template.read_text().replace("{{ role }}", "{{ role | upper }}"))
    with pytest.raises(ModelError, match="other tokens"):
        probe.check(tmp_path / "other", ChatOptions())


def test_generation_ends_with_a_turn_and_samples_as_it_was_evaluated(
    teacher: Path, exported: Path, tmp_path: Path
) -> None:
    config = GenerationConfig.from_pretrained(exported)
    assert (config.temperature, config.top_p, config.top_k, config.do_sample) == (1.0, 0.6, 0, True)
    assert (config.eos_token_id, config.pad_token_id) == (2, 0)
    shutil.copytree(teacher, tmp_path / "model")
    GenerationConfig(eos_token_id=[0, 2], pad_token_id=0).save_pretrained(tmp_path / "model")
    export(ExportOptions(model=tmp_path / "model", out=tmp_path / "out"))
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [2, 0]


# The card


def test_the_front_matter_is_the_hubs_and_has_every_result(exported: Path) -> None:
    data = ModelCard.load(exported / "README.md").data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["base_model"] == "somebody/something"
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-generation"
    assert data["tags"] == ["sod", "on-policy-distillation", "tool-use"]
    (model,) = data["model-index"]
    assert model["name"] == "SOD-lab"
    of_hub, own = model["results"]
    assert of_hub["task"] == {"type": "text-generation"}
    assert of_hub["dataset"] == {
        "name": "aime2024",
        "type": "HuggingFaceH4/aime_2024",
        "revision": "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
    }
    values = {metric["name"]: metric["value"] for metric in of_hub["metrics"]}
    assert values == {
        "avg@4": 25.0, "pass@4": 50.0, "maj@4": 30.0,
        "avg@4 (partial)": 25.0, "pass@4 (partial)": 50.0, "maj@4 (partial)": 30.0,
    }  # fmt: skip
    assert own["dataset"] == {"name": "own", "type": "own"}
    assert "maj@4" not in {metric["name"] for metric in own["metrics"]}


def test_the_recipe_in_the_card_is_the_runs(exported: Path, runs: Path) -> None:
    recipe, cold_start, *_ = map(tomllib.loads, blocks(exported, "toml"))
    again = TrainOptions.model_validate(recipe | {"out": "runs/again"})
    ran = TrainOptions.model_validate_json((runs / "sod" / "options.json").read_text())
    paths = {"student", "teacher", "data", "out"}
    assert again.model_dump(exclude=paths) == ran.model_dump(exclude=paths)
    assert recipe["teacher"] == "lab/teacher"
    assert "temperature" not in recipe["rollout"]
    assert cold_start["batch"] == 8


def test_the_card_tells_what_is_known_and_how_sure_it_is(exported: Path, checkpoint: Path, problem_file: Path) -> None:
    text = card(exported)
    for told in (
        fingerprint_model(checkpoint),
        sha256_of_file(problem_file),
        "- started from `checkpoints/update-0002`",
        "- algorithm: `sod`",
        "- updates: 2 of 2 problems x 2 trajectories",
        "- teacher: `lab/teacher`, fingerprint",
        "### sft",
        "Mean metrics at the start and at the end of training, on the training problems:",
        "| update 1 | update 2 |",
        "| solved |",
        "No alarm was raised.",
        "SE, samples",
        "SE, problems",
        "| aime2024 | 30 | 25.0 | 3.1 | 5.2 |",
        "|  | pass@1 | pass@2 | pass@4 |",
        "own: public tests only",
        "### aime2024, own (partial)",
        "4 samples per problem, weights in float32, prompts clean, temperature 1.0, top_p 0.6, max_turns 8, max_tokens 20480",
        "from HuggingFaceH4/aime_2024 at 2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
        "`secret/own.jsonl`, SHA-256 `abab",
        "read at most 200 characters of a program's output",
        "shortened to their last two parts",
    ):
        assert told in re.sub(r" *\| *", " | ", text).replace("\n | ", "\n| ") or told in text, told


def test_alarms_are_told_with_their_updates(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "sod", run)
    rows = Run(run).metrics()
    rows[1]["alarm/entropy_collapse"] = 1.0
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    export(ExportOptions(model=run, out=tmp_path / "out"))
    assert "- alarm `entropy_collapse`: first in update 2, raised in 1 of 2, still at the end" in card(tmp_path / "out")


def test_of_samples_that_are_missing_the_card_tells_and_does_not_ask_its_reader_to_run_anything(
    teacher: Path, evaluated: Callable[..., Path], tmp_path: Path
) -> None:
    measured = evaluated(teacher, partial=True)
    content = json.loads((measured / "results.json").read_text())
    content["benchmarks"]["own"]["measured"]["rollout/dropped"] = 3
    (measured / "results.json").write_text(json.dumps(content))
    export(ExportOptions(model=teacher, out=tmp_path / "out", results=(measured,)))
    text = card(tmp_path / "out")
    assert "Samples are missing: the evaluation was interrupted, or too many samples failed." in text
    assert "own: 3 samples without a result because of infrastructure failures; not counted." in text
    assert "un the same" not in text
    assert json.loads((tmp_path / "out" / "sod" / "evaluation-1" / "results.json").read_text()) == public(content)


def test_what_became_of_a_run_after_the_checkpoint_is_not_told(runs: Path, tmp_path: Path) -> None:
    export(ExportOptions(model=runs / "sod" / "checkpoints" / "update-0001", out=tmp_path / "out", name="Early"))
    text = card(tmp_path / "out")
    assert "# Early\n" in text
    assert "- updates: 1 of 2 problems x 2 trajectories" in text
    assert "training problems" not in text


def test_of_a_folder_without_a_run_nothing_is_invented(teacher: Path, tmp_path: Path) -> None:
    export(ExportOptions(model=teacher, out=tmp_path / "out"))
    text = card(tmp_path / "out")
    assert not (tmp_path / "out" / "sod").exists()
    assert ModelCard.load(tmp_path / "out" / "README.md").data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["sod", "tool-use"],
    }
    for unknown in ("trained with", "algorithm", "Results", "license", "base"):
        assert unknown not in text
    assert "This card contains no evaluation of the model." in text


def test_a_cold_start_is_told_as_such(runs: Path, tmp_path: Path) -> None:
    export(ExportOptions(model=runs / "start", out=tmp_path / "out"))
    text = card(tmp_path / "out")
    assert "- optimiser steps: 2 of 8 conversations" in text
    assert "| loss |" in text
    assert "alarm" not in text
    assert ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()["tags"] == ["sod", "tool-use"]


def test_a_run_before_that_has_changed_since_is_not_told(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "sod"
    shutil.copytree(runs / "sod", run)
    content = json.loads((run / "environment.json").read_text())
    content["data"]["student"] = "0" * 64
    (run / "environment.json").write_text(json.dumps(content))
    export(ExportOptions(model=run, out=tmp_path / "out"))
    assert "### sft" not in card(tmp_path / "out")


def test_the_base_model_is_told_where_its_weights_are_known(runs: Path, teacher: Path, tmp_path: Path) -> None:
    """The hub's cache is at hand; its library reads where that is when it starts."""
    for name, weights in {"Same": runs / "base", "Other": teacher}.items():
        snapshot = tmp_path / "hub" / f"models--ORG--{name}" / "snapshots" / "0123abc"
        shutil.copytree(weights, snapshot)
        (snapshot.parent.parent / "refs").mkdir()
        (snapshot.parent.parent / "refs" / "main").write_text("0123abc")
        shutil.copytree(runs / "start", tmp_path / name)
        options = json.loads((tmp_path / name / "options.json").read_text())
        (tmp_path / name / "options.json").write_text(json.dumps(options | {"model": f"ORG/{name}"}))
    code = """if True:
        from sod.cli import main, run
        assert run(["export", "Same", "--out", "same"]) == 0
        main(["export", "Other", "--out", "other"])
    """
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | OFFLINE | {"HF_HUB_CACHE": str(tmp_path / "hub")},
        check=True,
        capture_output=True,
    )
    same, other = (ModelCard.load(tmp_path / name / "README.md").data.to_dict() for name in ("same", "other"))
    assert same["base_model"] == "ORG/Same"
    assert "base_model" not in other


def test_the_cards_lines_for_transformers_run(exported: Path) -> None:
    (code,) = blocks(exported, "python")
    done = run_warm(["-c", code], cwd=exported.parent)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 1


def test_a_run_that_appends_turns_or_switches_thinking_says_so_where_it_matters(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "sod", tmp_path / "run")
    options = json.loads((tmp_path / "run" / "options.json").read_text())
    options["chat"] = {"on_drift": "append", "thinking": False}
    (tmp_path / "run" / "options.json").write_text(json.dumps(options))
    export(ExportOptions(model=tmp_path / "run", out=tmp_path / "out"))
    assert 'return_tensors="pt", enable_thinking=False' in card(tmp_path / "out")
    assert '"chat_template_kwargs": {\n    "enable_thinking": false' in card(tmp_path / "out")
    assert "To continue a conversation, append tokens" in card(tmp_path / "out")


@pytest.mark.slow
def test_from_evaluation_to_card_by_the_command_line(teacher: Path, problem_file: Path, tmp_path: Path) -> None:
    measured, out = tmp_path / "eval", tmp_path / "out"
    evaluate(
        EvalOptions.model_validate(
            {"model": teacher, "data": str(problem_file), "out": measured, "samples": 2, "limit": 3}
            | {"rollout": settings.ROLLOUT | {"max_tokens": 100}, "reward": settings.REWARD, "tool": settings.TOOL}
            | {"sandbox": {"workers": 2}}
        )
    )
    found = json.loads((measured / "results.json").read_text())["benchmarks"]["rows"]["measured"]
    assert sod(["export", str(teacher), "--out", str(out), "--results", str(measured), "--name", "Tiny"]) == 0
    assert f"| rows | 3 | {100 * found['avg']:.1f} |" in card(out)
    (model,) = ModelCard.load(out / "README.md").data.to_dict()["model-index"]
    assert model["results"][0]["metrics"][0]["value"] == round(100 * found["avg"], 2)
    assert "limit = 3" in card(out)
    assert len(greedy(out, [1, 5, 6], 5)) > 0


# In vLLM


@contextmanager
def serving(folder: Path, command: Sequence[str]) -> Iterator[str]:
    """The command that a card gives, with vLLM of its own environment, in float32; the server's address.

    `vllm serve MODEL` is this module: the repackage for CPUs lacks the metadata that the script `vllm` asks for.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert VLLM_PYTHON is not None
    assert list(command[:3]) == ["vllm", "serve", folder.name]
    server = [VLLM_PYTHON, "-m", "vllm.entrypoints.openai.api_server", f"--model={folder.name}", *command[3:]]
    with (folder.parent / "vllm.txt").open("wb") as output:
        process = subprocess.Popen(
            [*server, "--host=127.0.0.1", f"--port={port}", "--dtype=float32", "--enforce-eager"],
            cwd=folder.parent,
            env=os.environ | VLLM_ENVIRONMENT | OFFLINE,
            stdout=output,
            stderr=output,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            while not _answers(url):
                assert process.poll() is None, (folder.parent / "vllm.txt").read_text()
                time.sleep(0.5)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(VLLM_PYTHON is None, reason="SOD_VLLM_PYTHON names no Python that has vLLM")
def test_vllm_serves_it_by_the_cards_lines_with_the_log_probabilities_of_transformers(
    exported: Path, chat: ChatFormat
) -> None:
    serve, ask = blocks(exported, "sh")
    ids = rendered(chat)
    with serving(exported, serve.split()) as url:
        body = {"model": "SOD-lab", "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0}
        reply = httpx.post(f"{url}/v1/completions", json=body, timeout=60).raise_for_status().json()["choices"][0]
        theirs = [entry[str(id)]["logprob"] for id, entry in zip(ids[1:], reply["prompt_logprobs"][1:], strict=True)]
        asked = subprocess.run(
            ["sh", "-c", ask.replace("http://127.0.0.1:8000", url)], check=True, capture_output=True, text=True
        )
    gap = max(abs(a - b) for a, b in zip(theirs, plain_logprobs(exported, ids), strict=True))
    print(f"\n{len(theirs)} log-probabilities, off by at most {gap:.1e} nats")
    assert gap < 1e-3
    answer: dict[str, Any] = json.loads(asked.stdout)["choices"][0]
    assert answer["message"]["content"] or answer["message"]["tool_calls"]


# What goes wrong


def test_an_existing_folder_is_left_as_it_is(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(RunError, match=r"exists already.*--out"):
        export(ExportOptions(model=teacher, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_place_that_cannot_be_written_is_said(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written: Not a directory"):
        export(ExportOptions(model=teacher, out=tmp_path / "file" / "out"))


@pytest.mark.parametrize("room", [200_000, 2_000], ids=["for some of the weights", "for no file but small ones"])
def test_without_room_nothing_is_left_behind(room: int, teacher: Path, tmp_path: Path) -> None:
    """A limit on the size of files takes the place of a disk that is full."""
    done = run_warm(["-m", "sod", "export", teacher, "--out", tmp_path / "out"], file_bytes=room)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_fails_on_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_or_not_at_all(tmp_path / "out") as folder:
            (folder / "half").touch()
            raise ModelError("not the checkpoint's")

    with pytest.raises(ModelError):
        fail()
    assert list(tmp_path.iterdir()) == []


def damage(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


def test_a_damaged_checkpoint_is_refused_and_of_its_run_the_one_before_is_taken(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "sod", run)
    damage(run / "checkpoints" / "update-0002")
    with pytest.raises(ModelError, match=r"damaged: model\.safetensors"):
        export(ExportOptions(model=run / "checkpoints" / "update-0002", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    export(ExportOptions(model=run, out=tmp_path / "out"))
    assert "- updates: 1 of 2 problems x 2 trajectories" in card(tmp_path / "out")
    damage(run / "checkpoints" / "update-0001")
    with pytest.raises(ModelError, match="no valid checkpoint"):
        export(ExportOptions(model=run, out=tmp_path / "other"))


def test_a_checkpoint_without_its_optimiser_is_whole_enough(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "sod", tmp_path / "run")
    place = tmp_path / "run" / "checkpoints" / "update-0002"
    shutil.rmtree(place / "trainer")
    export(ExportOptions(model=place, out=tmp_path / "out"))


def test_results_of_another_model_are_refused(
    runs: Path, checkpoint: Path, teacher: Path, evaluated: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"evaluated another model.*Leave this run out"):
        export(ExportOptions(model=runs / "sod", out=tmp_path / "out", results=(evaluated(teacher),)))
    mine = evaluated(checkpoint)
    content = json.loads((mine / "environment.json").read_text())
    del content["data"]["model"]
    (mine / "environment.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="evaluated another model"):
        export(ExportOptions(model=runs / "sod", out=tmp_path / "out", results=(mine,)))
    assert list(tmp_path.iterdir()) == []


def test_results_that_are_none_are_refused(checkpoint: Path, evaluated: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RunError, match=r"results\.json cannot be read"):
        export(ExportOptions(model=checkpoint, out=out, results=(tmp_path,)))
    old = evaluated(checkpoint)
    (old / "results.json").write_text('{"avg": 0.5}')
    with pytest.raises(RunError, match="older format"):
        export(ExportOptions(model=checkpoint, out=out, results=(old,)))


@pytest.mark.parametrize("base", ["Qwen3-0.6B", "/models/Qwen3-0.6B", "Qwen/Qwen3-0.6B@main"])
def test_a_base_that_is_no_name_on_the_hub_is_refused(base: str, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="ORG/NAME"):
        export(ExportOptions(model=teacher, out=tmp_path / "out", base=base))


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sod(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "holds no" in capsys.readouterr().err
