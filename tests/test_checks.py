"""What a run refuses and what a dry run announces are the same."""

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from other_tokenizers import byte_level, sentence_piece
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sod.config import EvalOptions, SftOptions, TrainOptions
from sod.engines import ENGINES
from sod.engines.opening import OPENERS
from sod.errors import SodError
from sod.evaluation import evaluate
from sod.planning import checks
from sod.planning.dry_run import plan
from sod.processes.distributed import ALONE
from sod.training.on_policy import TrainingSession

NOWHERE = "http://127.0.0.1:9"
TRAIN: list[tuple[dict[str, Any], str]] = [
    ({"stop_on": ("nonsense",)}, "stop_on: there is no alarm 'nonsense'. Choose from "),
    ({"rollout.top_p": 0.9}, "rollout.top_p must be 1 for training"),
    (
        {"algorithm.divergence": "exact", "score.student": "sampler"},
        "algorithm.divergence = exact requires score.student = recompute",
    ),
    ({"algorithm.name": "nosuchrule"}, "algorithm.name: 'nosuchrule' is unknown"),
    ({"algorithm.name": "sdo"}, "did you mean 'sod'?"),
    (
        {"algorithm.name": "opsd_gt"},
        "algorithm.name = opsd_gt uses the student itself as its teacher. Leave --teacher out.",
    ),
    (
        {"algorithm.name": "sod_without_grpo", "algorithm.advantage": "rloo"},
        "algorithm.advantage has no effect with algorithm.name = sod_without_grpo",
    ),
    (
        {"algorithm.name": "opd_without_grpo", "algorithm.kl_in_reward": 0.1},
        "algorithm.kl_in_reward has no effect with algorithm.name = opd_without_grpo",
    ),
    ({"learn.loss": "gspo"}, "learn.loss = gspo needs another clip range than the default of ppo"),
    ({"learn.loss": "cispo", "learn.clip_high": 4.0}, "Give both ends, such as --learn.clip-low 1 --learn.clip-high 4"),
    ({"problems.order": "hard_first"}, "problems.order = hard_first needs measured solve rates"),
    ({"problems.rates": Path("nowhere"), "problems.lowest": 0.9, "problems.highest": 0.1}, "no problem is left"),
    ({"rollout.resample": 2.0, "rollout.group": 1}, "rollout.resample needs several attempts"),
    ({"rollout.resample": 2.0, "algorithm.name": "sod_without_grpo"}, "does not use the reward"),
    ({"rollout.ahead": 1, "engine.name": "hf"}, "engine.name = hf samples with the weights that are learning"),
    ({"rollout.guided.probability": 0.5, "teacher": None, "algorithm.name": "grpo"}, "but no teacher is given"),
    ({"rollout.guided.probability": 0.5, "teacher": None, "teachers": ("*=a",)}, "but the teachers are several"),
    ({"rollout.guided.probability": 0.5, "score.shard_teacher": True}, "score.shard_teacher divides it"),
    ({"rollout.guided.probability": 0.5, "score.offload_teacher": True}, "score.offload_teacher frees its memory"),
    (
        {"rollout.guided.probability": 0.5, "algorithm.name": "gats", "algorithm.teacher_rates": Path("nowhere")},
        "which algorithm.name = gats compares with the teacher's",
    ),
    (
        {
            "rollout.guided.probability": 0.5,
            "rollout.ahead": 1,
            "engine.name": "vllm_server",
            "engine.url": NOWHERE,
            "learn.correction": "truncated",
            "score.student": "recompute",
        },
        "rollout.ahead = 1 samples while this process learns",
    ),
    (
        {"rollout.ahead": 1, "engine.name": "vllm_server", "engine.url": NOWHERE, "learn.correction": "none"},
        "which learn.correction = none does not correct",
    ),
    (
        {"rollout.ahead": 1, "engine.name": "vllm_server", "engine.url": NOWHERE, "score.student": "sampler"},
        "rollout.ahead = 1 needs the log-probabilities of the present weights",
    ),
    ({"engine.sleep": True, "engine.name": "hf"}, "engine.sleep is for vLLM in this process, but engine.name = hf"),
    (
        {"engine.kv_dtype": "fp8", "engine.name": "vllm_server", "engine.url": NOWHERE},
        "start the server with --kv-cache-dtype fp8",
    ),
    ({"network.device": "mps"}, "network.device = mps is not supported: sampling adds probabilities in float64"),
    ({"network.device": "cuda:first"}, "network.device = cuda:first is not a device of sod"),
    ({"teacher": None}, "algorithm.name = sod needs a teacher. Give --teacher."),
    ({"engine.name": "vllm_server"}, "engine.name = vllm_server needs the address of its server. Give --engine.url."),
    (
        {"engine.url": NOWHERE, "engine.name": "hf"},
        "engine.name = hf uses no server. Leave it out, or give --engine.name vllm_server or served.",
    ),
    ({"engine.name": "served", "engine.url": NOWHERE}, "To train a model and sample it on a vLLM server"),
    ({"sandbox.backend": "fusion"}, "sandbox.backend is fusion, but sandbox.url is not given"),
    ({"sandbox.url": NOWHERE}, "sandbox.backend is local. Add --sandbox.backend fusion."),
    (
        {"sandbox.backend": "fusion", "sandbox.url": "127.0.0.1"},
        "sandbox.url: '127.0.0.1' is not the address of a server",
    ),
    ({"score.teacher_served_name": "tiny"}, "Give --score.teacher_url as well."),
    (
        {"score.teacher_url": NOWHERE, "teacher": None, "algorithm.name": "grpo"},
        "score.teacher_url needs the teacher's tokenizer. Give its directory or hub name",
    ),
    ({"score.teacher_urls": (f"math={NOWHERE}",)}, "but teachers names none. Give --score.teacher_url."),
    ({"score.teacher_url": NOWHERE, "score.offload_teacher": True}, "score.offload_teacher is for a teacher on this"),
    ({"score.teacher_url": NOWHERE, "score.shard_teacher": True}, "score.shard_teacher is for a teacher on this"),
    (
        {"score.teacher_url": NOWHERE, "algorithm.name": "entropy"},
        "algorithm.name = entropy weights by the teacher's entropy",
    ),
    ({"score.student": "sampler", "algorithm.name": "tip"}, "algorithm.name = tip reads the student's entropy"),
    ({"algorithm.divergence": "exact", "algorithm.name": "ida_opd"}, "not computed with algorithm.divergence = exact"),
    ({"algorithm.divergence": "exact", "algorithm.name": "rlsd"}, "algorithm.name = rlsd computes the whole credit"),
    ({"algorithm.divergence": "exact", "algorithm.name": "tv_opd"}, "depends on the signal of the sampled token"),
    ({"algorithm.divergence": "exact", "algorithm.name": "surprise"}, "depends on the signal of the sampled token"),
    (
        {"algorithm.name": "gats", "algorithm.teacher_rates": Path("measured"), "rollout.resample": 2.0},
        "rollout.resample = 2 leaves only problems that the student solves in part",
    ),
    ({"algorithm.name": "gats"}, "Give a run of `sod eval` of the teacher on --data as --algorithm.teacher-rates."),
    ({"algorithm.teacher_rates": Path("measured")}, "algorithm.teacher_rates has no effect with algorithm.name = sod"),
    (
        {"score.teacher_url": NOWHERE, "algorithm.name": "eopd"},
        "algorithm.name = eopd weights by the teacher's entropy",
    ),
    ({"score.teacher_url": NOWHERE, "algorithm.divergence": "exact"}, "log-probability of every candidate"),
    ({"score.teacher_url": "not an address"}, "score.teacher_url: 'not an address' is not the address of a server"),
    ({"rollout.problems": 100_000}, "rollout.problems"),
    ({"score.probe_problems": 4, "algorithm.name": "grpo", "teacher": None}, "score.probe_problems has no effect with"),
    ({"opsd.tell_answer": True}, "opsd.tell_answer has no effect with algorithm.name = sod"),
    ({"opsd.template": "{question}", "algorithm.name": "opsd_gt", "teacher": None}, "opsd.template has no {context}"),
    ({"algorithm.name": "nowhere.py:rule"}, "nowhere.py."),
    ({"tool.own": ("nowhere.py:tool",)}, "nowhere.py"),
    ({"reward.own": ("nowhere.py:reward",)}, "nowhere.py"),
    ({"reward.weights": ("style=1",)}, "reward.weights: there is no part 'style' of the reward."),
    ({"reward.judge": "llm"}, "reward.judge = llm needs the address of a server. Give --reward.llm.url."),
    ({"reward.judge": "llm", "reward.llm.url": "x"}, "reward.llm.url: 'x' is not the address of a server"),
    ({"data": Path("nowhere.jsonl")}, "nowhere.jsonl"),
    ({"rollout.max_tokens": 1_000_000}, "positions"),
]
HARMLESS: list[dict[str, Any]] = [
    {"score.teacher_dtype": "bfloat16"},
    {"score.student": "sampler"},
    {"algorithm.divergence": "exact"},
    {"score.offload_teacher": True},
    {"learn.checkpointing": True},
    {"learn.lora_rank": 2},
    {
        "learn.loss": "gspo",
        "learn.clip_low": 3e-4,
        "learn.clip_high": 4e-4,
        "learn.aggregation": "sequence_mean",
    },
    {"learn.loss": "cispo", "learn.clip_low": 1.0, "learn.clip_high": 4.0, "learn.entropy": 0.01},
    {"rollout.resample": 2.0},
    {"learn.kl": 0.1, "algorithm.advantage": "verdict"},
    {"algorithm.name": "entropy"},
    {"algorithm.name": "tip"},
    {"algorithm.name": "gigpo", "teacher": None},
    {"algorithm.name": "scope", "rollout.resample": 2.0},
    {"stop_on": ("truncated",)},
    {"rollout.temperature": 0.7},
]


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, last = name.split(".")
        inner = whole
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return whole


@pytest.fixture
def basis(teacher: Path, problem_file: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "student": teacher,
        "teacher": teacher,
        "data": problem_file,
        "out": tmp_path / "run",
        "network.device": "cpu",
        "rollout.problems": 2,
        "rollout.group": 2,
        "rollout.concurrency": 2,
        "rollout.max_tokens": 128,
        "rollout.max_prompt_tokens": 64,
    }


def announced(options: TrainOptions | EvalOptions | SftOptions) -> str:
    """Return what a dry run wants to be done first; empty if nothing."""
    last = plan(options, width=10_000).split("\nto do ")[1]
    return "" if "nothing: all inputs are available" in last else last


def refused(options: TrainOptions) -> str:
    """Start the run, and return why it does not start; empty if it does."""
    try:
        with TrainingSession.open(options, ALONE):
            return ""
    except SodError as error:
        return str(error)


@pytest.mark.parametrize(("changes", "words"), TRAIN, ids=[", ".join(changes) for changes, _ in TRAIN])
def test_what_the_run_refuses_the_dry_run_announces(basis: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    options = TrainOptions.model_validate(nested(basis | changes))
    assert words in announced(options)
    assert words in refused(options)
    assert not options.out.exists() or not any(options.out.iterdir())


def option_sets() -> Iterator[dict[str, Any]]:
    """Sets of one to three changes, some refused and some not; the same in every run of the tests."""
    draw = random.Random(0)
    changes = [change for change, _ in TRAIN] + 3 * HARMLESS
    for count in itertools.chain([0], [1, 2, 3] * 8):
        yield {name: value for change in draw.sample(changes, count) for name, value in change.items()}


@pytest.mark.slow
@pytest.mark.parametrize("changes", list(option_sets()))
def test_a_dry_run_that_says_yes_is_kept(basis: dict[str, Any], changes: dict[str, Any]) -> None:
    options = TrainOptions.model_validate(nested(basis | changes))
    assert bool(announced(options)) == bool(refused(options))


def test_several_processes_are_refused_what_one_may_do(basis: dict[str, Any]) -> None:
    saving = TrainOptions.model_validate(nested(basis | {"learn.lora_rank": 2, "learn.optimizer": "adamw_8bit"}))
    found = list(checks.of_training(saving, 2))
    assert any(
        words.startswith("learn.lora_rank is only supported with a single process, but 2 are") for words in found
    )
    assert any("Set learn.optimizer to adamw, or start one process." in words for words in found)
    few = list(checks.of_training(saving, 3))
    assert any(words.startswith("rollout.problems is 2, too few for 3 processes") for words in few)
    shared = basis | {"engine.name": "vllm_server", "engine.url": NOWHERE}
    found = list(checks.of_training(TrainOptions.model_validate(nested(shared)), 2))
    assert any(words.startswith("2 processes need a vLLM server each, but") for words in found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine.name": "served"}, "engine.name = served needs the address of its server"),
        ({"engine.name": "served", "engine.url": NOWHERE}, "--teacher does not work with engine.name = served"),
        ({"paper": "sod-1.7"}, "did you mean 'sod-1.7b'?"),
        ({"score.teacher_url": "127.0.0.1:80"}, "is not the address of a server"),
    ],
)
def test_an_evaluation_and_its_dry_run_refuse_alike(basis: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    whole = {
        name: value
        for name, value in basis.items()
        if name not in ("student", "data", "rollout.group", "rollout.problems")
    }
    whole |= {"model": basis["student"], "data": [str(basis["data"])]}
    options = EvalOptions.model_validate(nested(whole | changes))
    assert words in announced(options)
    with pytest.raises(SodError) as caught:
        evaluate.evaluate(options)
    assert words in str(caught.value)
    assert not options.out.exists() or not any(options.out.iterdir())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sentence_piece(fallback=False), "tokenizer"),
        (lambda: without_template(byte_level()), "The teacher {folder} has another tokenizer than the student"),
        (byte_level, ""),
    ],
    ids=["loses characters", "has no template", "fits"],
)
@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_teacher_with_another_tokenizer_is_refused_alike(
    basis: dict[str, Any],
    random_model: Callable[..., PreTrainedModel],
    tmp_path: Path,
    command: str,
    make: Callable[[], PreTrainedTokenizerBase],
    words: str,
) -> None:
    folder, tokenizer = tmp_path / "other", make()
    random_model(2, vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    given = basis | {"teacher": folder, "rollout.max_tokens": 64, "rollout.max_prompt_tokens": 64}
    if command == "train":
        options = TrainOptions.model_validate(nested(given))
        said, refusal = announced(options), refused(options)
    else:
        alone = ("student", "data", "rollout.group", "rollout.problems")
        whole = {name: value for name, value in given.items() if name not in alone}
        whole |= {"model": basis["student"], "data": [str(basis["data"])], "samples": 1, "limit": 1}
        options = EvalOptions.model_validate(nested(whole))
        said, refusal = announced(options), ""
        try:
            evaluate.evaluate(options)
        except SodError as error:
            refusal = str(error)
    assert bool(said) == bool(refusal) == bool(words), (said, refusal)
    assert words.format(folder=folder) in said
    assert refusal.split(". ")[0] in " ".join(said.split())


def without_template(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    tokenizer.chat_template = None
    return tokenizer


def test_a_package_that_is_missing_is_named(basis: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    options = TrainOptions.model_validate(nested(basis | {"engine.name": "vllm", "learn.lora_rank": 2}))
    found = list(checks.of_training(options, 1))
    assert any("engine.name = vllm needs vllm, which is not installed" in words for words in found)
    assert any("learn.lora_rank needs peft, which is not installed" in words for words in found)


def test_every_engine_that_options_name_has_traits_and_can_be_opened() -> None:
    annotation = TrainOptions.model_fields["engine"].annotation
    assert annotation is not None
    assert set(annotation.model_fields["name"].annotation.__args__) == ENGINES.keys() == {"auto", *OPENERS}
