"""What a run would do, and what it takes, before it does anything: `--dry-run`.

Three parts, each of which can be used alone: arithmetic (a `Shape` in, bytes or operations out), what there is of the
models and data that options name, and the words of `plan`. Nothing is downloaded and no model is loaded; torch is not
needed. What is assumed is said where it is used.
"""

import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sod.config import (
    EvalOptions,
    LearnOptions,
    ModelOptions,
    RolloutCommandOptions,
    RolloutOptions,
    SftOptions,
    TrainOptions,
)
from sod.data import load_demonstrations, load_problems
from sod.datasets.published import SETS
from sod.errors import ModelError
from sod.hub import NAME as HUB_NAME
from sod.recipes import maker_of, read_about, read_recipe

# Arithmetic

VALUE = {"float32": 4, "bfloat16": 2}
"""Bytes of a number."""
MOMENTS = {"adamw": 8, "adamw_8bit": 2}
"""Bytes of AdamW's two moments of a weight."""
CHUNK_ELEMENTS = 1 << 26
"""As in `sod.core.logprobs`, which needs torch."""
FAMILIES = {"qwen3": (True, False), "qwen2": (False, True), "llama": (False, False)}
"""Whether queries and keys have norms of their own, and whether queries, keys and values have a bias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What decides the size of a decoder with gated feed-forward layers and grouped keys."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    tied: bool
    """The head is the embedding."""
    positions: int
    family: str = "qwen3"
    """One of FAMILIES."""

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of every linear map in a layer."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = ((self.width, queries), (self.width, keys), (self.width, keys), (queries, self.width))
        return *attention, *((self.width, self.feed_forward),) * 2, (self.feed_forward, self.width)

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and of the head."""
        return self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        normed, biased = FAMILIES[self.family]
        layer = sum(inputs * outputs for inputs, outputs in self.matrices) + 2 * self.width
        layer += 2 * self.head_dim if normed else 0
        layer += (self.heads + 2 * self.kv_heads) * self.head_dim if biased else 0
        return self.layers * layer + self.width + (1 if self.tied else 2) * self.embedding

    def adapters(self, rank: int) -> int:
        """Weights of low-rank differences to every linear map but the head."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.matrices)

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Shape | None":
        """Of a model's config.json; None where its architecture is not known here."""
        family = config.get("model_type", "")
        if family not in FAMILIES or config.get("attention_bias") or config.get("mlp_bias"):
            return None
        heads = config["num_attention_heads"]
        return cls(
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            feed_forward=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            tied=config.get("tie_word_embeddings", False),
            positions=config["max_position_embeddings"],
            family=family,
        )


def optimiser_bytes(shape: Shape, value: int, learn: LearnOptions) -> dict[str, int]:
    """What learning keeps beside the weights (`sod.policy`), by name. `value`: bytes of one weight.

    With low-rank adapters only they are learnt, in float32; they stand here too.
    """
    rank, moments = learn.lora_rank, MOMENTS[learn.optimizer]
    if rank:
        adapters = shape.adapters(rank)
        return {
            f"adapters of rank {rank}": 4 * adapters,
            "gradients": 4 * adapters,
            "AdamW's moments": moments * adapters,
        }
    copies = {"float32 copies": 4 * shape.parameters} if value < 4 else {}
    return copies | {"gradients": value * shape.parameters, "AdamW's moments": moments * shape.parameters}


def layer_bytes(shape: Shape, value: int, rank: int = 0) -> int:
    """What one layer keeps of a token for its backward pass: what autograd saves of Transformers' layers and `sod.attention`.

    A norm works in float32, so a coarser type has its input once more. Frozen weights need no inputs for gradients of their
    own; each adapter needs its own in float32.
    """
    wide = 4
    normed, _ = FAMILIES[shape.family]
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    heads = queries + keys if normed else 0
    norms = (2 * shape.width + heads) * (wide if rank else wide + value)  # inputs; and normed, where the scale learns
    attended = (2 * queries + 2 * keys) * value + 4 * shape.heads  # queries, keys, values, found; softmax's sums
    gated = 3 * shape.feed_forward * value
    if rank and value < 4:
        return norms + attended + gated + 4 * sum(inputs + rank for inputs, _ in shape.matrices)
    inputs = 2 * shape.width + queries + shape.feed_forward  # of the four places that linear maps read
    return norms + attended + gated + inputs * value + 4 * rank * len(shape.matrices)


def learning_bytes(shape: Shape, tokens: int, value: int, learn: LearnOptions) -> int:
    """The most that learning needs for a moment: in a pass over so many tokens, or in an optimiser step."""
    layer = layer_bytes(shape, value, learn.lora_rank)
    inputs, last_norm = shape.width * value, shape.width * (4 + value)
    kept = shape.layers * (inputs if learn.checkpointing else layer) + last_norm
    again = layer if learn.checkpointing else 0
    backward = tokens * (again + 3 * shape.feed_forward * value)  # one layer, and gradients of what it computed
    learnt = not learn.lora_rank
    return max(
        tokens * kept + max(backward, head_bytes(shape, tokens, value, learnt=learnt)),
        value * shape.embedding if learnt else 0,  # the embedding's gradient, when the pass is over
        stepping_bytes(shape, value, learn),
    )


def stepping_bytes(shape: Shape, value: int, learn: LearnOptions) -> int:
    """Of an optimiser step, beyond what `optimiser_bytes` keeps: gradients made float32, one type in place of the other, and
    AdamW's roots of all second moments at a time (as it works on a GPU)."""
    learnt = shape.adapters(learn.lora_rank) if learn.lora_rank else shape.parameters
    widened = 0 if learn.lora_rank else 4 - value
    return (widened + (4 if learn.optimizer == "adamw" else 0)) * learnt


def head_bytes(shape: Shape, tokens: int, value: int, *, learnt: bool) -> int:
    """Of the loss (`sod.core.token_loss`): logits of some tokens at a time, the head's gradient in float32, hidden states."""
    logits = min(tokens, max(1, CHUNK_ELEMENTS // shape.vocabulary)) * shape.vocabulary
    narrow = value if value < 4 else 0
    gradient = (4 + narrow) * shape.embedding if learnt else 0
    return logits * (8 + narrow) + gradient + 2 * tokens * shape.width * value


def scoring_bytes(shape: Shape, tokens: int, value: int) -> int:
    """Of a forward pass without a gradient: the widest place of one layer, and the logits of some tokens at a time."""
    return tokens * (3 * shape.width + 3 * shape.feed_forward) * value + head_bytes(shape, tokens, value, learnt=False)


def cache_bytes(shape: Shape, value: int) -> int:
    """Keys and values of one token."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * value


def checkpoint_bytes(shape: Shape, value: int, learn: LearnOptions) -> int:
    """A whole model, and what a resumed run needs beside."""
    state = optimiser_bytes(shape, value, learn)
    return value * shape.parameters + sum(size for name, size in state.items() if name != "gradients")


def forward_operations(shape: Shape, tokens: float, length: float) -> float:
    """Floating-point operations of a forward pass, for sequences of so many tokens each on average."""
    matrices = shape.layers * sum(inputs * outputs for inputs, outputs in shape.matrices) + shape.embedding
    attention = shape.layers * shape.heads * shape.head_dim * length  # half of the square is hidden
    return tokens * 2 * (matrices + attention)


# What there is


def _qwen3(width: int, layers: int, heads: int, feed_forward: int, *, tied: bool, positions: int = 40_960) -> Shape:
    return Shape(
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        feed_forward=feed_forward,
        vocabulary=151_936,
        tied=tied,
        positions=positions,
    )


ON_HUB = {
    "Qwen/Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 28, 16, 6144, tied=True),
    "Qwen/Qwen3-4B": _qwen3(2560, 36, 32, 9728, tied=True),
    "Qwen/Qwen3-4B-Instruct-2507": _qwen3(2560, 36, 32, 9728, tied=True, positions=262_144),
    "Qwen/Qwen3-8B": _qwen3(4096, 36, 32, 12_288, tied=False),
    "Qwen/Qwen3-14B": _qwen3(5120, 40, 40, 17_408, tied=False),
    "youngzhong/SOD-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "youngzhong/SOD-1.7B": _qwen3(2048, 28, 16, 6144, tied=True),
    "youngzhong/SOD-GRPO_teacher-4B": _qwen3(2560, 36, 32, 9728, tied=True),
}
"""Models that are known before their config.json is here, from their pages on the hub and their papers."""
HEAD_TWICE = {"Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B"}
"""Models whose published files hold the head although it is the embedding."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model or a file that options name, as far as it is known."""

    words: str
    """Where it is, or where it will come from."""
    shape: Shape | None = None
    rows: int | None = None
    first: str = ""
    """What must be done before it is there."""


def find_model(model: Path) -> Found:
    """A directory, a run, the run of a recipe that has not been started, or a name on the hub."""
    for folder in [model, *_checkpoints(model)]:
        if (folder / "config.json").is_file():
            size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            return Found(_line(str(folder), "here", f"{as_bytes(size)} of weights"), _shape(folder / "config.json"))
    if recipe := maker_of(model):
        options = read_recipe(recipe)
        start = Path(options.get("model") or options.get("student") or model)
        shape = None if start == model else find_model(start).shape
        return Found(_line(str(model), "not there yet"), shape, first=f"sod {read_about(recipe).command} {recipe}")
    if not model.exists() and (name := HUB_NAME.fullmatch(str(model))):
        return _on_hub(name["repo"], name["revision"])
    return Found(_line(str(model), "no model there"), first=f"a model in {model}, or another one")


def _checkpoints(run: Path) -> list[Path]:
    """Newest first; whether they are whole would take as long as to read them."""
    places = [place for place in (run / "checkpoints").glob("update-*") if place.name[7:].isdecimal()]
    return sorted(places, key=lambda place: int(place.name[7:]), reverse=True)


def _shape(config: Path) -> Shape | None:
    try:
        return Shape.of(json.loads(config.read_text(encoding="utf-8")))
    except (ValueError, KeyError) as error:
        raise ModelError(f"{config} is not a model's configuration, or a damaged one: {error}.") from error


def _on_hub(repo: str, revision: str | None) -> Found:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(repo, "config.json", revision=revision)
    except HFValidationError:  # no name that the hub could have
        cached = None
    if isinstance(cached, str):
        return Found(_line(repo, "here, in the hub's cache"), _shape(Path(cached)))
    shape = ON_HUB.get(repo)
    if shape is None:
        return Found(
            _line(repo, "not here; if it is a name on the hub it will be downloaded, of a size not known here")
        )
    weights = shape.parameters + (shape.embedding if repo in HEAD_TWICE else 0)
    return Found(_line(repo, f"will be downloaded: about {as_bytes(VALUE['bfloat16'] * weights)}"), shape)


def find_file(path: Path, *, demonstrations: bool = False) -> Found:
    """Data for learning. Raises DataError for a file that is there and cannot be used."""
    if path.exists():
        rows = len(load_demonstrations(path) if demonstrations else load_problems(path))
        return Found(
            _line(str(path), "here", f"{rows:,} {'conversations' if demonstrations else 'problems'}"), rows=rows
        )
    published = SETS.get(path.stem)
    if published is None:
        return Found(_line(str(path), "not there"), first=f"a file {path}, in the columns of docs/data.md")
    rows = published.rows
    words = _line(str(path), "not there yet", f"{rows:,} rows as published" if rows else None)
    return Found(words, rows=rows, first=f"sod data fetch {path.stem} --out {path.parent}")


def find_benchmark(name: str, data_dir: Path) -> Found:
    """A benchmark by name, or a file."""
    known = SETS.get(name)
    path = data_dir / f"{name}.jsonl" if known else Path(name)
    if path.exists() or (known is None and path.suffix):
        return find_file(path)
    if known is None:
        return Found(
            _line(name, "neither a file nor a benchmark"), first=f"a file {name}, or a name from `sod data list`"
        )
    facts = [f"will be downloaded from {known.repo}", as_bytes(known.bytes) if known.bytes else None]
    facts += [f"{known.rows:,} problems" if known.rows else None]
    facts += ["whose terms must be accepted there first" if known.gated else None]
    return Found(_line(name, *facts), rows=known.rows)


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    memory: int
    """Bytes."""
    is_gpu: bool


def find_device(wanted: str) -> Device | None:
    """The device that `network.device` means here; None where there is none of that kind."""
    gpus = [] if wanted == "cpu" else _gpus()
    number = int(wanted.partition(":")[2] or 0)
    if number < len(gpus):
        return gpus[number]
    if wanted not in ("auto", "cpu"):
        return None
    return Device("this computer's memory", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), is_gpu=False)


def _gpus() -> list[Device]:
    """As the driver's own tool names them, in the order of CUDA_VISIBLE_DEVICES."""
    tool, visible = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    if tool is None or visible == "":
        return []
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    query += [f"--id={visible}"] if visible else []
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10)
    except (subprocess.SubprocessError, OSError):  # a driver that is not loaded, or hangs
        return []
    rows = [line.rpartition(",") for line in listed.stdout.splitlines() if line.strip()]
    return [Device(name.strip(), int(mib) << 20, is_gpu=True) for name, _, mib in rows]


# Words

LIKELY_SHARE = 0.25
"""Assumed: of rollout.max_tokens and rollout.max_prompt_tokens, what there is on average."""
CHARACTERS = 3
"""Assumed: of a file of demonstrations, for each token."""
SLACK = 0.1
"""Assumed: share of a GPU's memory that the driver, its libraries and gaps between tensors take."""
UTILISATION = 0.4
"""Assumed: share of a GPU's peak that scoring and learning reach."""
PEAK = {"H100": 989, "H200": 989, "H20": 148, "A100": 312, "A800": 312, "L40S": 362, "4090": 165, "3090": 71}
"""Dense bfloat16 TFLOP/s, from NVIDIA's data sheets."""

Parts = dict[str, int]
"""Bytes by what they are for."""


def plan(options: SftOptions | TrainOptions | EvalOptions) -> str:
    """What the command would do with these options, what it takes, and what must be there first, in lines of text.

    Raises DataError and ModelError for what is there and cannot be used.
    """
    if isinstance(options, SftOptions):
        return _of_sft(options)
    return _of_training(options) if isinstance(options, TrainOptions) else _of_evaluation(options)


@dataclass(slots=True)
class _Text:
    """Sections as they come, and what must be done first."""

    wanted: str
    """The device that options name."""
    device: Device | None
    """The one that this is here."""
    sections: list[tuple[str, list[str]]] = field(default_factory=list)
    first: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, network: ModelOptions) -> "_Text":
        return cls(network.device, find_device(network.device))

    def add(self, title: str, *lines: str) -> None:
        self.sections.append((title, list(lines)))

    def read(self, what: str, found: Found) -> str:
        if found.first and found.first not in self.first:
            self.first.append(found.first)
        return f"{what:<8} {found.words}"

    def end(self, command: str) -> str:
        steps = [f"{number}. {step}" for number, step in enumerate(self.first, 1)]
        self.add("first", *(steps or ["nothing: what is read can be had"]))
        lines = [f"sod {command}, a dry run: nothing is loaded, downloaded or written."]
        for title, content in self.sections:
            lines += [f"{'' if number else title:<8} {line}" for number, line in enumerate(content)]
        return "\n".join(lines)


def _of_sft(options: SftOptions) -> str:
    text = _Text.of(options.network)
    model, data = find_model(options.model), find_file(options.data, demonstrations=True)
    text.add("reads", text.read("model", model), text.read("data", data))
    text.add("writes", _out(text, options))
    text.add("does", *_fine_tuning(options, data.rows))
    shape, value = model.shape, VALUE[options.network.dtype]
    if shape is None:
        return _without_shape(text, "sft")
    if options.max_tokens > shape.positions:
        text.first.append(f"a lower max_tokens: the model has {shape.positions:,} positions")
    tokens = max(options.learn.microbatch_tokens, options.max_tokens)
    parts = {f"model, {options.network.dtype}": value * shape.parameters}
    parts |= optimiser_bytes(shape, value, options.learn)
    parts[_moment(tokens)] = learning_bytes(shape, tokens, value, options.learn)
    text.add("memory", *_memory(text, parts, _savings(options.learn)))
    text.add("disk", _disk(checkpoint_bytes(shape, value, options.learn), kept=2))
    return text.end("sft")


def _of_training(options: TrainOptions) -> str:
    text = _Text.of(options.network)
    name, rollout, learn = options.algorithm.name, options.rollout, options.learn
    student, data = find_model(options.student), find_file(options.data)
    reads, teacher = [text.read("student", student)], None
    if name in TOLD:
        teacher = student
        reads.append("teacher  the student as it is at first, told more")
    elif options.teacher is not None:
        teacher = find_model(options.teacher)
        reads.append(text.read("teacher", teacher))
    elif name not in UNTAUGHT:
        text.first.append(f"a teacher, with --teacher: {name} needs one")
    text.add("reads", *reads, text.read("data", data))
    text.add("writes", _out(text, options))

    problems, trajectories = options.updates * rollout.problems, rollout.problems * rollout.group
    passes = f", {problems / data.rows:.2g} passes over {data.rows:,}" if data.rows else ""
    if data.rows and rollout.problems > data.rows:
        text.first.append(f"a lower rollout.problems: the data holds {data.rows:,} problems")
    text.add(
        "does",
        f"{options.updates:,} updates by {name}, of {rollout.problems} problems x {rollout.group} trajectories; "
        f"{options.updates * min(learn.minibatches, rollout.problems):,} optimiser steps",
        f"{problems:,} problems{passes}",
        _tokens(options.updates * trajectories, rollout),
    )
    shape = student.shape
    if shape is None or (teacher and teacher.shape is None):
        return _without_shape(text, "train")
    _check_positions(text, {"student": student, "teacher": teacher}, rollout)
    value, scorer = VALUE[options.network.dtype], teacher and teacher.shape
    savings = _savings(learn) + (["score.offload_teacher"] if scorer and not options.score.offload_teacher else [])
    text.add("memory", *_memory(text, _training_parts(text, options, shape, scorer), savings))
    hand_over = value * shape.parameters if options.engine.name in ("vllm", "vllm_server") else 0
    text.add("disk", _disk(checkpoint_bytes(shape, value, learn), kept=options.keep + 1, hand_over=hand_over))

    length = LIKELY_SHARE * (rollout.max_prompt_tokens + rollout.max_tokens)
    passes_of_student = (options.score.student == "recompute") + learn.checkpointing + (2 if learn.lora_rank else 3)
    operations = passes_of_student * forward_operations(shape, trajectories * length, length)
    operations += forward_operations(scorer, trajectories * length, length) if scorer else 0
    text.add("time", *_time(text, operations, options.updates))
    return text.end("train")


def _of_evaluation(options: EvalOptions) -> str:
    text, rollout = _Text.of(options.network), options.rollout
    command = "rollout" if isinstance(options, RolloutCommandOptions) else "eval"
    served = options.engine.name == "served"
    model, teacher = find_model(options.model), find_model(options.teacher) if options.teacher else None
    reads = [text.read("tokenizer" if served else "model", model)]
    reads += [text.read("teacher", teacher)] if teacher else []
    benchmarks = [find_benchmark(name, options.data_dir) for name in options.data]
    text.add("reads", *reads, *(text.read("data", found) for found in benchmarks))
    text.add("writes", str(options.out))
    rows = [found.rows or options.limit for found in benchmarks]
    problems = sum(min(count, options.limit or count) for count in rows if count)
    unknown = f", and a set of unknown size x {options.samples}" * rows.count(None)
    text.add(
        "does",
        f"{problems:,} problems x {options.samples} samples{unknown}",
        _tokens(problems * options.samples, rollout),
    )
    if served and teacher is None:
        text.add("memory", f"none here: the model is served at {options.engine.url}")
        return text.end(command)
    shape = model.shape
    if shape is None or (teacher and teacher.shape is None):
        return _without_shape(text, command)
    _check_positions(text, {"model": model, "teacher": teacher}, rollout)
    value, longest = VALUE[options.network.dtype], rollout.max_prompt_tokens + rollout.max_tokens
    parts = {f"model, {options.network.dtype}": value * shape.parameters} | _sampling_parts(text, options, shape)
    if teacher and teacher.shape:
        dtype, held, scoring = _teacher(options, teacher.shape, max(options.microbatch_tokens, longest))
        parts |= {f"teacher, {dtype}": held, "scoring, for a moment": scoring}
    text.add("memory", *_memory(text, parts))
    return text.end(command)


# What a section holds

TOLD = ("opsd_gt", "opsd_hint")
"""Algorithms whose teacher is the student."""
UNTAUGHT = ("grpo", "sham")
"""Algorithms without a teacher."""


def _fine_tuning(options: SftOptions, rows: int | None) -> list[str]:
    whole = f"{options.epochs:g} passes over the data, {options.batch:,} conversations an optimiser step"
    if rows is None:
        return [whole]
    steps = max(1, round(options.epochs * math.ceil(rows / options.batch)))
    tokens = f"tokens: {as_count(options.epochs * rows * options.max_tokens)} at most"
    if options.data.exists() and options.data.suffix == ".jsonl":
        likely = options.epochs * options.data.stat().st_size / CHARACTERS
        tokens += f", likely {as_count(likely)} (assumed: one for {CHARACTERS} characters)"
    return [f"{steps:,} optimiser steps: {whole}", tokens]


def _training_parts(text: _Text, options: TrainOptions, shape: Shape, scorer: Shape | None) -> Parts:
    value, rollout = VALUE[options.network.dtype], options.rollout
    tokens = max(options.learn.microbatch_tokens, rollout.max_prompt_tokens + rollout.max_tokens)
    parts = {f"student, {options.network.dtype}": value * shape.parameters}
    parts |= optimiser_bytes(shape, value, options.learn)
    moment = learning_bytes(shape, tokens, value, options.learn)
    if scorer:
        dtype, held, scoring = _teacher(options, scorer, tokens)
        if options.score.offload_teacher:
            moment = max(moment, scoring + held)
        else:
            moment, parts[f"teacher, {dtype}"] = max(moment, scoring), held
        if options.opsd.decay is not None and options.algorithm.name in TOLD and VALUE[dtype] < 4:
            parts["the teacher's average, float32"] = 4 * scorer.parameters
    moments = {_moment(tokens, teacher=scorer is not None and options.score.offload_teacher): moment}
    return parts | _sampling_parts(text, options, shape) | moments


def _teacher(options: TrainOptions | EvalOptions, shape: Shape, tokens: int) -> tuple[str, int, int]:
    """Type of its weights, their bytes, and those of a pass."""
    dtype = options.network.dtype if options.score.teacher_dtype == "same" else options.score.teacher_dtype
    return dtype, VALUE[dtype] * shape.parameters, scoring_bytes(shape, tokens, VALUE[dtype])


def _sampling_parts(text: _Text, options: TrainOptions | EvalOptions, shape: Shape) -> Parts:
    """What the engine holds on this device; and whether that is enough."""
    rollout, value = options.rollout, VALUE[options.network.dtype]
    longest = rollout.max_prompt_tokens + rollout.max_tokens
    trajectory = longest * cache_bytes(shape, value)
    if options.engine.name == "hf":
        return {f"keys and values of {rollout.concurrency} x {longest:,} tokens": rollout.concurrency * trajectory}
    if options.engine.name != "vllm":
        return {}
    weights = value * shape.parameters
    if text.device is None or not text.device.is_gpu:
        return {"vLLM: weights; keys and values not counted, for want of a GPU": weights}
    share = round(options.engine.memory_share * text.device.memory)
    if share < weights + trajectory:
        text.first.append(
            f"a larger engine.memory_share: vLLM needs {as_bytes(weights)} for weights and {as_bytes(trajectory)} for one "
            f"trajectory, and has {as_bytes(share)}"
        )
    room = max(0, share - weights) / trajectory
    return {f"vLLM: weights, and keys and values of {room:.1f} x {longest:,} tokens": share}


def _moment(tokens: int, *, teacher: bool = False) -> str:
    moments = f"a pass over {tokens:,} tokens, an optimiser step" + (", the teacher while it scores" if teacher else "")
    return f"for a moment: {moments}"


def _memory(text: _Text, parts: Parts, savings: Sequence[str] = ()) -> list[str]:
    """Every part, the most at once, and whether the device has it. `savings`: options that would save memory."""
    whole, device = sum(parts.values()), text.device
    lines = [f"{as_bytes(size):>9}  {name}" for name, size in parts.items()] + [
        f"{as_bytes(whole):>9}  at most, at once"
    ]
    if device is None:
        return [*lines, f"not held against anything: there is no {text.wanted} here whose memory is known"]
    usable = device.memory * (1 - SLACK if device.is_gpu else 1)
    size = as_bytes(device.memory) + (f" less {SLACK:.0%} (assumed: driver and gaps)" if device.is_gpu else "")
    advice = f"; try {', '.join([*savings, 'shorter trajectories'])}" if whole > usable else ""
    return [*lines, f"{'fits' if whole <= usable else 'does NOT fit'} into {size}: {device.name}{advice}"]


def _savings(learn: LearnOptions) -> list[str]:
    saved = {
        "learn.checkpointing": learn.checkpointing,
        "learn.optimizer = adamw_8bit": learn.optimizer == "adamw_8bit",
        "learn.lora_rank = 32": learn.lora_rank > 0,
    }
    return [option for option, is_set in saved.items() if not is_set]


def _without_shape(text: _Text, command: str) -> str:
    text.add("memory", "not known: a model's shape is not known before its config.json is here")
    return text.end(command)


def _out(text: _Text, options: SftOptions | TrainOptions) -> str:
    begun = (options.out / "options.json").exists()
    if begun and not options.resume:
        text.first.append(f"another --out, or --resume: {options.out} already holds a run")
    if options.resume and not begun:
        text.first.append(f"a start without --resume: {options.out} holds no run")
    return str(options.out) + (", continued" if options.resume else "")


def _tokens(trajectories: int, rollout: RolloutOptions) -> str:
    most = trajectories * rollout.max_tokens
    return (
        f"{trajectories:,} trajectories; tokens: {as_count(most)} at most, likely {as_count(most * LIKELY_SHARE)} "
        f"(assumed: {LIKELY_SHARE:.0%} of rollout.max_tokens = {rollout.max_tokens:,})"
    )


def _check_positions(text: _Text, models: dict[str, Found | None], rollout: RolloutOptions) -> None:
    longest = rollout.max_prompt_tokens + rollout.max_tokens
    for whose, found in models.items():
        if found and found.shape and longest > found.shape.positions:
            text.first.append(
                f"a lower rollout.max_tokens: with the prompt it is {longest:,}, and the {whose} has "
                f"{found.shape.positions:,} positions"
            )


def _disk(checkpoint: int, *, kept: int, hand_over: int = 0) -> str:
    exchanged = f"; {as_bytes(hand_over)} where weights are handed to vLLM" if hand_over else ""
    return f"{as_bytes((kept + 1) * checkpoint)}: {kept} checkpoints of {as_bytes(checkpoint)}, one being written{exchanged}"


def _time(text: _Text, operations: float, updates: int) -> list[str]:
    lines = [f"scoring and learning: {operations / 1e15:,.3g} PFLOP an update, at the likely length"]
    name = text.device.name if text.device else ""
    peak = next((peak for gpu, peak in PEAK.items() if re.search(rf"\b{gpu}\b", name)), None)
    if peak is not None:
        seconds = operations / (peak * 1e12 * UTILISATION)
        lines.append(
            f"{as_time(seconds)} an update, {as_time(seconds * updates)} in all, at {UTILISATION:.0%} (assumed) of "
            f"{peak} TFLOP/s"
        )
    return [*lines, "sampling comes on top: it depends on the engine and the tools, and is not estimated"]


def _line(name: str, *facts: str | None) -> str:
    """A name, and what is known of it."""
    return f"{name}  {', '.join(fact for fact in facts if fact)}"


def as_bytes(size: float) -> str:
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:,.0f} {unit}" if size >= 100 * scale else f"{size / scale:.2g} {unit}"
    return f"{size / 2**10:.2g} KiB"


def as_count(number: float) -> str:
    for word, scale in (("billion", 1e9), ("million", 1e6)):
        if number >= scale:
            return f"{number / scale:.3g} {word}"
    return f"{number:,.0f}"


def as_time(seconds: float) -> str:
    for word, scale in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:.2g} {word}"
    return f"{seconds:.2g} seconds"
