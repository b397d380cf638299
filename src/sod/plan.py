"""What a command would do, what it takes, and what must be there first, before it does anything: `--dry-run`.

Nothing is downloaded and no model is loaded; torch is not needed. What is assumed is said where it is used.
"""

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sod.config import EvalOptions, LearnOptions, RolloutCommandOptions, RolloutOptions, SftOptions, TrainOptions
from sod.inventory import (
    Device,
    Found,
    as_bytes,
    as_count,
    as_time,
    brief,
    find_benchmark,
    find_device,
    find_file,
    find_model,
)
from sod.progress import console
from sod.shapes import (
    ITEMSIZE,
    Shape,
    checkpoint_bytes,
    forward_operations,
    longest,
    memory_of_evaluation,
    memory_of_fine_tuning,
    memory_of_training,
    sampling_bytes,
)

TOLD = ("opsd_gt", "opsd_hint")
"""Algorithms whose teacher is the student."""
UNTAUGHT = ("grpo", "sham")
"""Algorithms without a teacher."""
LIKELY_SHARE = 0.25
"""Assumed: of rollout.max_tokens and rollout.max_prompt_tokens, what there is on average."""
CHARACTERS = 3
"""Assumed: of a file of demonstrations, for each token."""
SLACK = 0.1
"""Assumed: share of a GPU's memory that the driver, its libraries and gaps between tensors take."""
UTILISATION = 0.4
"""Assumed: share of a GPU's peak that scoring and learning reach."""


def plan(options: SftOptions | TrainOptions | EvalOptions, width: int | None = None) -> str:
    """What the command would do with these options, in lines of text.

    `width`: characters in a line; None is as many as the terminal has, and no limit where there is none.

    Raises DataError and ModelError for what is there and cannot be used.
    """
    match options:
        case SftOptions():
            text = _of_fine_tuning(options)
        case TrainOptions():
            text = _of_training(options)
        case EvalOptions():
            text = _of_evaluation(options)
    return text.written(width or (console.width if console.is_terminal else None))


def _of_fine_tuning(options: SftOptions) -> "_Text":
    text, learn = _Text("sft", options.network.device), options.learn
    model = text.read("model", find_model(options.model))
    data = text.read("data", find_file(options.data, demonstrations=True))
    text.write(options.out, resume=options.resume)

    whole = f"{options.epochs:g} passes over the data, {options.batch:,} conversations an optimiser step"
    if data.rows is None:
        text.add("does", whole)
    else:
        steps = max(1, round(options.epochs * math.ceil(data.rows / options.batch)))
        text.add("does", f"{steps:,} optimiser steps: {whole}", _tokens_of_demonstrations(options, data.rows))

    if model.shape is None:
        return text.without_shape()
    shape, itemsize = model.shape, ITEMSIZE[options.network.dtype]
    if options.max_tokens > shape.positions:
        text.first.append(f"a lower max_tokens: the model has {shape.positions:,} positions")
    text.hold(memory_of_fine_tuning(options, shape), _savings(learn))
    text.keep(checkpoint_bytes(shape, itemsize, learn), copies=2)
    return text


def _of_training(options: TrainOptions) -> "_Text":
    text, name = _Text("train", options.network.device), options.algorithm.name
    rollout, learn = options.rollout, options.learn
    student = text.read("student", find_model(options.student))
    teacher = None
    if name in TOLD:
        teacher = student
        text.add("reads", "teacher  the student as it is at first, told more")
    elif options.teacher is not None:
        teacher = text.read("teacher", find_model(options.teacher))
    elif name not in UNTAUGHT:
        text.first.append(f"a teacher, with --teacher: {name} needs one")
    data = text.read("data", find_file(options.data))
    text.write(options.out, resume=options.resume)

    problems, trajectories = options.updates * rollout.problems, rollout.problems * rollout.group
    steps = options.updates * min(learn.minibatches, rollout.problems)
    passes = f", {brief(problems / data.rows)} passes over {data.rows:,}" if data.rows else ""
    text.add(
        "does",
        f"{options.updates:,} updates by {name}, of {rollout.problems} problems x {rollout.group} trajectories; "
        f"{steps:,} optimiser steps",
        f"{problems:,} problems{passes}",
        _tokens_of_trajectories(options.updates * trajectories, rollout),
    )
    if data.rows and rollout.problems > data.rows:
        text.first.append(f"a lower rollout.problems: the data holds {data.rows:,} problems")

    if student.shape is None or (teacher and teacher.shape is None):
        return text.without_shape()
    shape, scorer = student.shape, teacher and teacher.shape
    text.check_length(rollout, {"student": shape, "teacher": scorer})
    text.check_share(options, shape)
    savings = _savings(learn) + (["score.offload_teacher"] if scorer and not options.score.offload_teacher else [])
    averaged = name in TOLD and options.opsd.decay is not None
    text.hold(memory_of_training(options, shape, scorer, text.gpu, averaged=averaged), savings)
    itemsize = ITEMSIZE[options.network.dtype]
    exchanged = itemsize * shape.parameters if options.engine.name in ("vllm", "vllm_server") else 0
    text.keep(checkpoint_bytes(shape, itemsize, learn), copies=options.keep + 1, exchanged=exchanged)

    length = LIKELY_SHARE * longest(rollout)
    passes_of_student = (options.score.student == "recompute") + learn.checkpointing + (2 if learn.lora_rank else 3)
    operations = passes_of_student * forward_operations(shape, trajectories * length, length)
    operations += forward_operations(scorer, trajectories * length, length) if scorer else 0
    text.add("time", *_time(text.device, operations, options.updates))
    return text


def _of_evaluation(options: EvalOptions) -> "_Text":
    text = _Text("rollout" if isinstance(options, RolloutCommandOptions) else "eval", options.network.device)
    served = options.engine.name == "served"
    model = text.read("tokenizer" if served else "model", find_model(options.model))
    teacher = text.read("teacher", find_model(options.teacher)) if options.teacher else None
    benchmarks = [text.read("data", find_benchmark(name, options.data_dir)) for name in options.data]
    text.add("writes", str(options.out))

    rows = [found.rows or options.limit for found in benchmarks]
    problems = sum(min(count, options.limit or count) for count in rows if count)
    unknown = f", and a set of unknown size x {options.samples}" * rows.count(None)
    text.add("does", f"{problems:,} problems x {options.samples} samples{unknown}")
    text.add("does", _tokens_of_trajectories(problems * options.samples, options.rollout))

    if served and teacher is None:
        text.add("memory", f"none here: the model is served at {options.engine.url}")
        return text
    if model.shape is None or (teacher and teacher.shape is None):
        return text.without_shape()
    text.check_length(options.rollout, {"model": model.shape, "teacher": teacher and teacher.shape})
    text.check_share(options, model.shape)
    text.hold(memory_of_evaluation(options, model.shape, teacher and teacher.shape, text.gpu))
    return text


# Lines of several sections


def _savings(learn: LearnOptions) -> list[str]:
    """Options that would save memory."""
    saved = {
        "learn.checkpointing": learn.checkpointing,
        "learn.optimizer = adamw_8bit": learn.optimizer == "adamw_8bit",
        "learn.lora_rank = 32": learn.lora_rank > 0,
    }
    return [option for option, is_set in saved.items() if not is_set]


def _tokens_of_demonstrations(options: SftOptions, rows: int) -> str:
    tokens = f"tokens: {as_count(options.epochs * rows * options.max_tokens)} at most"
    if not options.data.exists() or options.data.suffix != ".jsonl":
        return tokens
    likely = options.epochs * options.data.stat().st_size / CHARACTERS
    return f"{tokens}, likely {as_count(likely)} (assumed: one for {CHARACTERS} characters)"


def _tokens_of_trajectories(trajectories: int, rollout: RolloutOptions) -> str:
    most = trajectories * rollout.max_tokens
    return (
        f"{trajectories:,} trajectories; tokens: {as_count(most)} at most, likely {as_count(most * LIKELY_SHARE)} "
        f"(assumed: {LIKELY_SHARE:.0%} of rollout.max_tokens = {rollout.max_tokens:,})"
    )


def _time(device: Device | None, operations: float, updates: int) -> list[str]:
    lines = [f"scoring and learning: {brief(operations / 1e15)} PFLOP an update, at the likely length"]
    if device and device.peak:
        seconds = operations / (device.peak * 1e12 * UTILISATION)
        whole = f"{as_time(seconds)} an update, {as_time(seconds * updates)} in all"
        lines.append(f"{whole}, at {UTILISATION:.0%} (assumed) of {device.peak} TFLOP/s")
    return [*lines, "sampling comes on top: it depends on the engine and the tools, and is not estimated"]


# The text

COLUMN = 9
"""Where lines begin; a section's title stands before its first."""
ENTRY = re.compile(r" *\S.{,8}? {2,}")
"""What begins a line that has a column of its own: `model    `, `  2.7 GiB  `."""
UNIT = re.compile(r"(?<=\d) (?=[TGMK]iB)")
"""Where a line must not be wrapped."""


@dataclass(slots=True)
class _Text:
    """Sections in the order in which they come, and what must be done first."""

    command: str
    wanted: str
    """The device that options name."""
    device: Device | None = field(init=False)
    """The one that this is here."""
    sections: dict[str, list[str]] = field(default_factory=dict)
    first: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device = find_device(self.wanted)

    @property
    def gpu(self) -> int | None:
        """Bytes of its memory, where it is one."""
        return self.device.memory if self.device and self.device.is_gpu else None

    def add(self, title: str, *lines: str) -> None:
        self.sections.setdefault(title, []).extend(lines)

    def read(self, what: str, found: Found) -> Found:
        self.add("reads", f"{what:<8} {found.name}  {found.where}")
        self.first += [found.first] if found.first else []
        return found

    def write(self, out: Path, *, resume: bool) -> None:
        begun = (out / "options.json").exists()
        if begun and not resume:
            self.first.append(f"another --out, or --resume: {out} already holds a run")
        if resume and not begun:
            self.first.append(f"a start without --resume: {out} holds no run")
        self.add("writes", f"{out}{', continued' if resume else ''}")

    def check_length(self, rollout: RolloutOptions, shapes: dict[str, Shape | None]) -> None:
        """Whether the models have positions enough."""
        tokens = longest(rollout)
        self.first += [
            f"a lower rollout.max_tokens: with the prompt it is {tokens:,}, and the {whose} has {shape.positions:,} positions"
            for whose, shape in shapes.items()
            if shape and tokens > shape.positions
        ]

    def check_share(self, options: TrainOptions | EvalOptions, shape: Shape) -> None:
        """Whether vLLM has room for one trajectory."""
        if options.engine.name != "vllm" or self.gpu is None:
            return
        share, (weights, trajectory) = round(options.engine.memory_share * self.gpu), sampling_bytes(options, shape)
        if share < weights + trajectory:
            self.first.append(
                f"a larger engine.memory_share: vLLM needs {as_bytes(weights)} for weights and {as_bytes(trajectory)} for "
                f"one trajectory, and has {as_bytes(share)}"
            )

    def hold(self, parts: dict[str, int], savings: Sequence[str] = ()) -> None:
        """Every part, the most at once, and whether the device has it. `savings`: options that would save memory."""
        whole, device = sum(parts.values()), self.device
        self.add("memory", *(f"{as_bytes(size):>9}  {name}" for name, size in parts.items()))
        self.add("memory", f"{as_bytes(whole):>9}  at most, at once")
        if device is None:
            self.add("memory", f"not held against anything: there is no {self.wanted} here whose memory is known")
            return
        usable = device.memory * (1 - SLACK if device.is_gpu else 1)
        size = as_bytes(device.memory) + (f" less {SLACK:.0%} (assumed: driver and gaps)" if device.is_gpu else "")
        advice = f"; try {', '.join([*savings, 'shorter trajectories'])}" if whole > usable else ""
        self.add("memory", f"{'fits' if whole <= usable else 'does NOT fit'} into {size}: {device.name}{advice}")

    def without_shape(self) -> "_Text":
        self.add("memory", "not known: a model's shape is not known before its config.json is here")
        return self

    def keep(self, checkpoint: int, *, copies: int, exchanged: int = 0) -> None:
        """On disk: so many checkpoints, one that is being written, and weights on their way to the engine."""
        exchange = f"; {as_bytes(exchanged)} where weights are handed to vLLM" if exchanged else ""
        checkpoints = f"{copies} checkpoints of {as_bytes(checkpoint)}, one being written"
        self.add("disk", f"{as_bytes((copies + 1) * checkpoint)}: {checkpoints}{exchange}")

    def written(self, width: int | None) -> str:
        """All of it, with what must be done first as the last section."""
        steps = [f"{number}. {step}" for number, step in enumerate(dict.fromkeys(self.first), 1)]
        self.add("first", *(steps or ["nothing: what is read can be had"]))
        lines = [f"sod {self.command}, a dry run: nothing is loaded, downloaded or written."]
        for title, content in self.sections.items():
            pieces = [piece for line in content for piece in _wrapped(line, width)]
            lines += [f"{'' if number else title:<{COLUMN}}{piece}" for number, piece in enumerate(pieces)]
        return "\n".join(lines)


def _wrapped(line: str, width: int | None) -> list[str]:
    """What goes on stands under what it goes on from, or a little to the right."""
    if width is None:
        return [line]
    entry = ENTRY.match(line)
    hanging = " " * (entry.end() if entry else 2)
    whole = UNIT.sub("\N{NO-BREAK SPACE}", line)
    pieces = textwrap.wrap(
        whole, width - COLUMN, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False
    )
    return [piece.replace("\N{NO-BREAK SPACE}", " ") for piece in pieces]
