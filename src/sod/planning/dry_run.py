"""Compute what a command would do, the resources it needs, and what the user must do first: `--dry-run`.

Nothing is downloaded and no model is loaded. A local tokenizer is loaded to check its chat template; without one,
Transformers is not needed. The output names every assumption.
"""

import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sod.config import (
    ChatOptions,
    EvalOptions,
    HeldOutOptions,
    OptimiserOptions,
    RolloutCommandOptions,
    SamplingOptions,
    SftOptions,
    TrainOptions,
)
from sod.config.teachers import routes_of
from sod.console.progress import console, echo
from sod.credit.systems import SYSTEMS
from sod.engines import ENGINES
from sod.errors import ModelError, OptionError, RunError, TemplateError
from sod.model.lengths import SomeSampling, capped
from sod.planning.checks import NOT_INSTALLED, is_address, of_evaluation, of_fine_tuning, of_training, of_translation
from sod.planning.demonstrations import COUNTED, longest_conversation
from sod.planning.inventory import (
    Device,
    Found,
    as_bytes,
    as_count,
    as_time,
    brief,
    check_model,
    check_weights,
    find_benchmark,
    find_device,
    find_file,
    find_model,
    find_tokenizer,
    measure,
    why_no_shape,
)
from sod.planning.measured import Measured
from sod.planning.memory import (
    ITEMSIZE,
    MODEL_FAMILIES,
    AnyShape,
    Memory,
    Shape,
    by_part,
    checkpoint_bytes,
    exchanged_bytes,
    forward_operations,
    longest,
    memory_of_evaluation,
    memory_of_fine_tuning,
    memory_of_training,
    sampling_bytes,
    type_of,
    vllm_bytes,
)
from sod.planning.serving import exchanged_tokens, serving
from sod.planning.timing import LIKELY_SHARE, UTILISATION, seconds_of_update
from sod.processes.distributed import place
from sod.runs.files import sha256_of_file
from sod.runs.results import read_results

if TYPE_CHECKING:
    from sod.chat.format import ChatFormat

DRY_RUN_REFUSED = "The command would refuse these options or inputs. The dry run lists the reasons under `to do`."
"""The error of a dry run."""
CHARACTERS = 3
"""Assumed number of characters per token in a file of demonstrations."""
SLACK = 0.1
"""Assumed share of a GPU's memory that the driver, its libraries and fragmentation take."""


def plan(options: SftOptions | TrainOptions | EvalOptions, width: int | None = None) -> str:
    """Return what the command would do with these options, as lines of text.

    `width`: characters in a line. Default: the terminal's width, or no limit without a terminal.

    Raise DataError or ModelError for an existing file or model that cannot be used.
    """
    return planned(options).finished(width or columns())


def show_dry_run(options: SftOptions | TrainOptions | EvalOptions) -> None:
    """Print what the command would do with these options. Raise OptionError if the command would refuse them."""
    text = planned(options)
    echo(text.finished(columns()))
    if text.is_refused:
        raise OptionError(DRY_RUN_REFUSED)


def planned(options: SftOptions | TrainOptions | EvalOptions) -> "DryRun":
    """Return what the command would do with these options, as sections of a text."""
    match options:
        case SftOptions():
            return _of_fine_tuning(options)
        case TrainOptions():
            return _of_training(options)
        case EvalOptions():
            return _of_evaluation(options)


def columns() -> int | None:
    """Return the width of the terminal in characters, or None without a terminal."""
    return console.width if console.is_terminal else None


def _of_fine_tuning(options: SftOptions) -> "DryRun":
    text, learn = DryRun.of("sft", options), options.learn
    model = text.read_model("model", options.model)
    data = text.read("data", find_file(options.data, demonstrations=True))
    held_out = [text.read("validate", find_file(Path(name), demonstrations=True)) for name in options.validate.data]
    chat = text.check_template(options.model, options.chat)
    text.write(options.out, resume=options.resume)
    longest_row = text.longest_row(options, chat, model)

    per_epoch = None if data.rows is None else math.ceil(data.rows / options.batch)
    if options.steps is None:
        whole, epochs = f"{options.epochs:g} passes over the data, ", options.epochs
        steps = per_epoch and max(1, round(epochs * per_epoch))
    else:
        whole, steps, epochs = "", options.steps, options.steps / per_epoch if per_epoch else 1.0
    whole += f"{options.batch:,} conversations per optimiser step"
    text.add(
        "does",
        f"{steps:,} optimiser steps: {whole}" if steps else whole,
        *([_tokens_of_demonstrations(options, data.rows, epochs, longest_row)] if data.rows else []),
        *_validations(options.validate, held_out, steps, "conversations"),
    )

    if model.shape is None:
        return text.without_shape(model=model)
    shape, itemsize = model.shape, ITEMSIZE[type_of(options.network)]
    if options.max_tokens > shape.positions and longest_row is None:
        text.add("does", f"longer conversations than {shape.positions:,} tokens, the positions of the model, are cut")
    options = options.model_copy(update={"max_tokens": min(options.max_tokens, shape.positions)})
    memory = memory_of_fine_tuning(options, shape, text.gpu, text.processes, longest_row)
    text.check_processes(model)
    text.hold(memory, _savings(learn, text.processes))
    if text.processes > 1 and text.gpu:
        copy = as_bytes(itemsize * shape.parameters)
        text.add(
            "memory", f"{copy:>9}  of the computer's memory in addition, in each process: a full copy of the model"
        )
    text.keep(checkpoint_bytes(shape, itemsize, learn), copies=1 + options.keep + bool(held_out))
    return text


def _read_training(text: "DryRun", options: TrainOptions) -> "tuple[Found, list[Found], Found, list[Found]]":
    """Add what a training run reads. -> student, teachers (for opsd the student itself), data, validation sets"""
    name = options.algorithm.name
    student = text.read_model("student", options.student)
    teachers: list[Found] = []
    if _is_own_teacher(options):
        teachers = [student]
        text.add("reads", "teacher  the initial student, with additional context in its prompt")
    elif options.teacher is not None:
        teachers = [text.read_model("teacher", options.teacher, served=options.score.teacher_url is not None)]
        if options.score.teacher_url:
            text.add("reads", f"teacher  on the server {options.score.teacher_url}; its memory is not counted here")
    else:
        models = dict.fromkeys(route.model for route in routes_of(options.teachers))
        teachers = [text.read_model("teacher", model) for model in models]
    if not _is_own_teacher(options):
        for model in [options.teacher] if options.teacher else [route.model for route in routes_of(options.teachers)]:
            text.check_tokens(options, model)
    if options.has_reference:
        text.add(
            "reads", "start    the initial student, which the divergence of learn.kl or kl_in_reward is measured from"
        )
    data = text.read("data", find_file(options.data))
    held_out = [
        text.read("validate", find_benchmark(name, options.validate.data_dir)) for name in options.validate.data
    ]
    text.check_template(options.student, options.chat)
    if ":" in name:
        text.add("reads", f"rule     {name}")
    if (rates := options.problems.rates) is not None:
        text.add("reads", f"rates    {rates}, a finished evaluation of the data")
        text.check_rates(rates, options.data)
    if (rates := options.algorithm.teacher_rates) is not None:
        text.add("reads", f"rates    {rates}, a finished evaluation of the teacher on the data")
        text.check_rates(rates, options.data, "algorithm.teacher_rates")
    return student, teachers, data, held_out


def _is_own_teacher(options: TrainOptions) -> bool:
    name = options.algorithm.name
    return name in SYSTEMS and SYSTEMS[name].context is not None


def _of_training(options: TrainOptions) -> "DryRun":
    text, name, is_own = DryRun.of("train", options), options.algorithm.name, _is_own_teacher(options)
    student, teachers, data, held_out = _read_training(text, options)
    text.write(options.out, resume=options.resume)
    options = options.model_copy(update={"rollout": text.fitting(options.rollout, student, *teachers)})
    text.check_what_is_named(options, None if is_own or not teachers else teachers[0])

    rollout, learn = options.rollout, options.learn
    problems, trajectories = options.updates * rollout.problems, rollout.problems * rollout.group
    steps = options.updates * min(learn.minibatches, rollout.problems)
    passes = f", {brief(problems / data.rows)} passes over {data.rows:,}" if data.rows else ""
    text.add(
        "does",
        f"{options.updates:,} updates with {name}, each of {rollout.problems} problems x {rollout.group} trajectories; "
        f"{steps:,} optimiser steps{text.by_whom}",
        f"{problems:,} problems{passes}",
        _tokens_of_trajectories(options.updates * trajectories, rollout),
        *_validations(options.validate, held_out, options.updates, f"problems x {options.validate.samples} samples"),
    )
    if options.score.teacher_url and teachers:
        text.add("teacher", *exchanged_tokens(options))
    if rollout.resample > 1:
        text.add("does", f"up to {rollout.resample:g} times as many attempts, where verdicts have no contrast")
    if data.rows and rollout.problems > data.rows:
        text.first.append(f"Lower rollout.problems to {data.rows:,}, the number of problems in the data.")

    shapes = [teacher.shape for teacher in teachers if teacher.shape]
    if student.shape is None or len(shapes) < len(teachers):
        return text.without_shape(student=student, teacher=next((each for each in teachers if not each.shape), None))
    shape, scorer = student.shape, largest(shapes)
    text.check_length(rollout, {"student": shape, **{f"teacher {each.name}": each.shape for each in teachers}})
    text.check_processes(student)
    text.check_share(options, shape)
    savings = _savings(learn, text.processes)
    savings += _savings_of_teacher(options, scorer, text.processes, on_gpu=text.gpu is not None)
    averaged = is_own and options.opsd.decay is not None
    memory = memory_of_training(options, shape, shapes, text.gpu, averaged=averaged, processes=text.processes)
    text.hold(memory, savings)
    if text.gpu:
        text.add("memory", *offloaded(options, shapes))
    if text.processes > 1:
        text.add("traffic", *wire(options, shape, text.processes))
    itemsize = ITEMSIZE[type_of(options.network)]
    exchanged = itemsize * shape.parameters if ENGINES[options.engine.name].exchanges_weights else 0
    text.keep(checkpoint_bytes(shape, itemsize, learn), copies=options.keep + 1 + bool(held_out), exchanged=exchanged)

    if isinstance(shape, Measured) or isinstance(scorer, Measured):
        text.add("time", f"not estimated: operations are counted for models of type {', '.join(MODEL_FAMILIES)} only")
        return text
    length = LIKELY_SHARE * longest(rollout)
    passes_of_student = (options.score.student == "recompute") + learn.checkpointing + (2 if learn.lora_rank else 3)
    passes_of_student += options.has_reference
    operations = passes_of_student * forward_operations(shape, trajectories * length, length)
    if scorer and not options.score.teacher_url:
        operations += forward_operations(scorer, trajectories * length, length)
    times = seconds_of_update(options, shape, scorer, text.device, text.processes) if text.device else None
    text.add("time", *_time(text.device, operations, options.updates, text.processes, known=times is not None))
    if times:
        text.add("time", *time_lines(times, options.updates))
    return text


def _of_evaluation(options: EvalOptions) -> "DryRun":
    text = DryRun.of("rollout" if isinstance(options, RolloutCommandOptions) else "eval", options)
    served = not ENGINES[options.engine.name].loads_model
    model = text.read_model("tokenizer" if served else "model", options.model, served=served)
    teacher = (
        text.read_model("teacher", options.teacher, served=options.score.teacher_url is not None)
        if options.teacher
        else None
    )
    benchmarks = [text.read("data", find_benchmark(name, options.data_dir)) for name in options.data]
    text.check_template(options.model, options.chat)
    text.add("writes", str(options.out))
    options = options.model_copy(update={"rollout": text.fitting(options.rollout, None if served else model, teacher)})
    text.check_what_is_named(options, teacher)

    rows = [found.rows or options.limit for found in benchmarks]
    problems = sum(min(count, options.limit or count) for count in rows if count)
    unknown = f", and a set of unknown size x {options.samples}" * rows.count(None)
    text.add("does", f"{problems:,} problems x {options.samples} samples{unknown}")
    text.add("does", _tokens_of_trajectories(problems * options.samples, options.rollout))

    if served and teacher is None:
        text.add("memory", f"none on this machine: the model is on the server {options.engine.url}")
        return text
    if model.shape is None or (teacher and teacher.shape is None):
        return text.without_shape(model=model, teacher=teacher)
    text.check_length(options.rollout, {"model": model.shape, "teacher": teacher and teacher.shape})
    text.check_share(options, model.shape)
    text.hold(memory_of_evaluation(options, model.shape, teacher and teacher.shape, text.gpu))
    return text


# Lines of several sections


def _validations(options: HeldOutOptions, sets: Sequence[Found], updates: int | None, of: str) -> list[str]:
    """Return a line about the number and the size of all validations; no line without validation."""
    if not sets:
        return []
    rows = [options.limit if found.rows is None else min(found.rows, options.limit or found.rows) for found in sets]
    known = sum(count or 0 for count in rows)
    size = f"{known:,} {of}" + (", and a set of unknown size" * rows.count(None))
    times = "" if updates is None else f"{len({*range(0, updates, options.every), updates})} "
    return [f"{times}validations (at the start, every {options.every:,}, at the end), each of {size}"]


def _savings(learn: OptimiserOptions, processes: int) -> list[str]:
    """Return the options that would save memory."""
    saved = {"learn.checkpointing": learn.checkpointing}
    if processes == 1:
        saved |= {
            "learn.optimizer = adamw_8bit": learn.optimizer == "adamw_8bit",
            "learn.lora_rank = 32": learn.lora_rank > 0,
        }
    return [option for option, is_set in saved.items() if not is_set]


def _savings_of_teacher(options: TrainOptions, teacher: AnyShape | None, processes: int, *, on_gpu: bool) -> list[str]:
    if teacher is None or options.score.teacher_url or options.score.offload_teacher:
        return []
    divided = ["score.shard_teacher"] if processes > 1 and not options.score.shard_teacher else []
    return [*divided, *(["score.offload_teacher"] if on_gpu else [])]


def offloaded(options: TrainOptions, teachers: Sequence[AnyShape]) -> list[str]:
    """Return a line about the computer's memory for teachers that are on the GPU only while they score."""
    if not options.score.offload_teacher or not teachers:
        return []
    size = sum(ITEMSIZE[type_of(options.network.for_teacher(options.score))] * each.parameters for each in teachers)
    turns = ", each on the GPU in its turn" if len(teachers) > 1 else ""
    return [f"{as_bytes(size):>9}  of the computer's memory in addition, in each process: the teacher's weights{turns}"]


def likely_microbatches(options: TrainOptions, processes: int) -> int:
    """Return the expected number of micro-batches of each process per update."""
    rollout, learn = options.rollout, options.learn
    tokens = rollout.problems * rollout.group * LIKELY_SHARE * longest(rollout)
    return max(learn.minibatches, math.ceil(tokens / (learn.microbatch_tokens * processes)))


def wire(options: TrainOptions, student: AnyShape, processes: int) -> list[str]:
    """Return lines about the data that each process receives from the others."""
    received = exchanged_bytes(student, ITEMSIZE[type_of(options.network)], processes)
    update = received.pop("weights, an update")
    microbatch, count = sum(received.values()), likely_microbatches(options, processes)
    return [
        f"each process receives {as_bytes(microbatch)} per micro-batch (weights twice, gradients) and {as_bytes(update)} per "
        "update",
        f"estimated {as_bytes(update + count * microbatch)} per update (assumed: {count:,} micro-batches each), plus the "
        "other processes' scored trajectories",
    ]


def _tokens_of_demonstrations(options: SftOptions, rows: int, epochs: float, longest_row: int | None) -> str:
    most = min(options.max_tokens, longest_row or options.max_tokens)
    tokens = f"tokens: {as_count(epochs * rows * most)} at most"
    if not options.data.exists() or options.data.suffix != ".jsonl":
        return tokens
    likely = epochs * options.data.stat().st_size / CHARACTERS
    return f"{tokens}, estimated {as_count(likely)} (assumed: {CHARACTERS} characters per token)"


def _tokens_of_trajectories(trajectories: int, rollout: SamplingOptions) -> str:
    most = trajectories * rollout.max_tokens
    return (
        f"{trajectories:,} trajectories; tokens: {as_count(most)} at most, estimated {as_count(most * LIKELY_SHARE)} "
        f"(assumed: {LIKELY_SHARE:.0%} of rollout.max_tokens = {rollout.max_tokens:,})"
    )


def estimate(options: TrainOptions, processes: int) -> dict[str, float] | None:
    """Return the estimated seconds of an update by phase on this machine; None where they cannot be estimated."""
    device = find_device(options.network.device)
    if device is None or not device.is_gpu:
        return None
    student = find_model(options.student).shape
    models = [options.teacher] if options.teacher else [route.model for route in routes_of(options.teachers)]
    shapes = [find_model(model).shape for model in models]
    known = [shape for shape in shapes if isinstance(shape, Shape)]
    if not isinstance(student, Shape) or len(known) < len(shapes):
        return None
    scorer = max(known, key=lambda shape: shape.parameters, default=None)
    return seconds_of_update(options, student, scorer, device, processes)


def largest(shapes: Sequence[AnyShape]) -> AnyShape | None:
    """Return the shape with the most weights. Of several teachers, this one is assumed to score every trajectory."""
    return max(shapes, key=lambda shape: shape.parameters, default=None)


def time_lines(times: dict[str, float], updates: int) -> list[str]:
    """Return lines about the estimated time of an update by phase, and of the run."""
    phases = ", ".join(f"{name} {as_time(seconds)}" for name, seconds in times.items() if seconds >= 0.1)
    whole = sum(times.values())
    return [
        f"estimated, not measured: {as_time(whole)} an update ({phases}), {as_time(whole * updates)} for {updates:,} updates",
        f"assumed: {LIKELY_SHARE:.0%} of the longest lengths, no waiting for tools and judges",
    ]


def _time(device: Device | None, operations: float, updates: int, processes: int, *, known: bool) -> list[str]:
    lines = [f"scoring and training: {brief(operations / 1e15)} PFLOP per update, at the estimated length"]
    if device and device.peak:
        seconds = operations / (device.peak * 1e12 * UTILISATION * processes)
        whole = f"{as_time(seconds)} per update, {as_time(seconds * updates)} in total"
        gpus = f" on each of {processes} GPUs, without communication" if processes > 1 else ""
        lines.append(f"{whole}, at {UTILISATION:.0%} (assumed) of {device.peak} TFLOP/s{gpus}")
    return lines if known else [*lines, "plus sampling, which is not estimated: it depends on the engine and the tools"]


# The text

COLUMN = 9
"""Number of characters before each line. The first line of a section has the title there."""
ENTRY = re.compile(r" *\S.{,8}? {2,}")
"""The start of a line with a column of its own: `model    `, `  2.7 GiB  `."""
COMMAND = "$ "
"""The start of a command line. It is wrapped with backslashes, so that it can be pasted."""
WHOLE = re.compile(r"\d [TGMK]iB|(?<!\S)-[\w.-]+ (?=[^-\s])")
"""Places where a line must not be wrapped: between a number and its unit, an option and its value."""


@dataclass(slots=True)
class Text:
    """Text in titled sections, in the order in which they are added."""

    heading: str
    sections: dict[str, list[str]] = field(default_factory=dict)

    def add(self, title: str, *lines: str) -> None:
        self.sections.setdefault(title, []).extend(lines)

    def written(self, width: int | None) -> str:
        """Return the text, wrapped to `width` characters per line. None: no limit."""
        lines = _wrapped(self.heading, width and width + COLUMN)
        for title, content in self.sections.items():
            pieces = [piece for line in content for piece in _wrapped(line, width)]
            lines += [f"{'' if number else title:<{COLUMN}}{piece}" for number, piece in enumerate(pieces)]
        return "\n".join(lines)


@dataclass(slots=True, kw_only=True)
class DryRun(Text):
    """The dry run of a command, and what the user must do first."""

    wanted: str
    """Value of network.device."""
    processes: int
    device: Device | None
    """The device that it selects on this machine, in the first process."""
    first: list[str] = field(default_factory=list)
    commands: set[str] = field(default_factory=set)
    """Steps of `first` that are commands to type. All other steps are refusals."""
    last: str = ""
    """The command to type after all steps in `first`."""
    peak: int | None = None
    """Bytes of memory at the peak, in each process; None if they are not known."""

    @classmethod
    def of(cls, command: str, options: SftOptions | TrainOptions | EvalOptions) -> "DryRun":
        heading = f"sod {command}, a dry run: nothing is loaded, downloaded or written."
        wanted = options.network.device
        text = cls(heading=heading, wanted=wanted, processes=1, device=find_device(wanted))
        if not isinstance(options, EvalOptions):
            text.start(options.processes)
        match options:
            case SftOptions():
                text.first += of_fine_tuning(options, text.processes)
            case TrainOptions():
                text.first += of_training(options, text.processes)
            case EvalOptions():
                text.first += of_evaluation(options)
        return text

    @property
    def gpu(self) -> int | None:
        """Return the bytes of the GPU's memory, or None for another device."""
        return self.device.memory if self.device and self.device.is_gpu else None

    @property
    def is_refused(self) -> bool:
        """Return whether the command would refuse its options or inputs, also after the commands that come first."""
        return any(step not in self.commands and NOT_INSTALLED not in step for step in self.first)

    @property
    def by_whom(self) -> str:
        return f", in {self.processes} processes" if self.processes > 1 else ""

    def start(self, wanted: int | None) -> None:
        """Set the number of processes to the option's value, or to the number that `torchrun` has started."""
        _, there = place()
        self.processes = wanted or there
        if there == 1 < self.processes:
            self.last = f"torchrun --nproc-per-node {self.processes} -m sod ..., which starts the processes"
        elif there != self.processes:
            self.first.append(
                f"Start {self.processes} processes, or change --processes: torchrun has started {there}, and processes = "
                f"{self.processes}."
            )

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Add an error of the run to the steps that come first."""
        try:
            yield
        except (ModelError, OptionError, TemplateError) as refusal:
            self.first.append(str(refusal))

    def check_template(self, model: Path, options: ChatOptions) -> "ChatFormat | None":
        """Check the chat template, if the tokenizer is local. -> the format, or None without one that works"""
        folder = find_tokenizer(model)
        if folder is None:
            return None
        from sod.chat.format import ChatFormat  # Transformers take seconds to import
        from sod.model.loading import load_tokenizer

        with self.refusals():
            chat = ChatFormat.of(load_tokenizer(folder), options)
            if chat.note:
                self.add("reads", chat.note)
            return chat
        return None

    def longest_row(self, options: SftOptions, chat: "ChatFormat | None", model: Found) -> int | None:
        """Return the tokens of the longest conversation after cutting; None without data or tokenizer."""
        files = [path for path in (options.data, *map(Path, options.validate.data)) if path.is_file()]
        if chat is None or not options.data.is_file():
            return None
        with self.refusals():
            found = longest_conversation(chat, files)
            most = min(options.max_tokens, model.positions or options.max_tokens)
            cut = f", cut to {most:,}" if found > most else ""
            self.add(
                "does", f"longest conversation: {found:,} tokens{cut} ({COUNTED} with most characters were counted)"
            )
            return min(found, most)
        return None

    def check_tokens(self, options: TrainOptions, teacher: Path) -> None:
        """Check a teacher with another tokenizer than the student's, if both tokenizers are local."""
        ours, theirs = find_tokenizer(options.student), find_tokenizer(teacher)
        if ours is None or theirs is None or ours == theirs:
            return
        from sod.chat.teacher import teacher_chat  # Transformers take seconds to import
        from sod.model.loading import load_tokenizer

        with self.refusals():
            own = load_tokenizer(theirs)
            if own.get_vocab() != load_tokenizer(ours).get_vocab():
                self.add("reads", f"spans    of text, because {teacher} has another tokenizer than the student")
                self.first += of_translation(options, teacher)
                teacher_chat(own, theirs, options.score, thinking=options.chat.thinking)

    def check_what_is_named(self, options: TrainOptions | EvalOptions, teacher: Found | None) -> None:
        """Add the user's own tools, and the command that starts the teacher's server."""
        for name in options.tool.own:
            self.add("reads", f"tool     {name}")
        if teacher and options.score.teacher_url and is_address(options.score.teacher_url):
            self.first.append(f"Start the teacher's server, unless it is running: {serving(teacher.name, options)}")
            self.commands.add(self.first[-1])

    def read_model(self, what: str, model: Path, *, served: bool = False) -> Found:
        """Look up a model. Unless it is on a server, also check its config.json for unsupported features."""
        found = self.read(what, find_model(model))
        if not served:
            with self.refusals():
                check_model(found)
                check_weights(found)
                return measure(found)
        return found

    def read(self, what: str, found: Found) -> Found:
        self.add("reads", f"{what:<8} {found.name}  {found.where}")
        self.first += [found.first] if found.first else []
        self.commands |= {found.first} if found.first.startswith("sod ") else set()
        return found

    def write(self, out: Path, *, resume: bool) -> None:
        begun = (out / "options.json").exists()
        if begun and not resume:
            self.first.append(f"Choose another --out, or give --resume: {out} already holds a run.")
        if resume and not begun:
            self.first.append(f"Leave --resume out: {out} holds no run.")
        self.add("writes", f"{out}{', continued' if resume else ''}")

    def check_rates(self, rates: Path, data: Path, option: str = "problems.rates") -> None:
        """Check that a finished evaluation of the data holds the solve rates."""
        try:
            results = read_results(rates)
        except RunError as error:
            self.first.append(f"Give a finished run of `sod eval` as {option}: {error}")
            return
        if results.partial:
            self.first.append(f"Finish the evaluation in {rates}: run the same `sod eval` again.")
        elif data.is_file() and sha256_of_file(data) not in {each.sha256 for each in results.benchmarks.values()}:
            self.first.append(f"Give an evaluation of {data} as {option}: {rates} is one of other data.")

    def fitting(self, rollout: SomeSampling, *models: Found | None) -> SomeSampling:
        """Return the options with default lengths that fit the models, as the run caps them."""
        known = [model.positions for model in models if model]
        fitting = capped(rollout, [positions for positions in known if positions is not None])
        if fitting is not rollout:
            self.add(
                "does",
                f"prompts of up to {fitting.max_prompt_tokens:,} and responses of up to {fitting.max_tokens:,} tokens: the "
                "defaults exceed the positions of the model",
            )
        return fitting

    def check_processes(self, student: Found) -> None:
        """Check that a model that reads one sequence per pass is trained in one process."""
        if self.processes > 1 and student.shape and not student.shape.packs:
            self.first.append(f"Start one process: {student.name} reads one sequence per pass, and cannot be sharded.")

    def check_length(self, rollout: SamplingOptions, shapes: dict[str, AnyShape | None]) -> None:
        """Check that the models have enough positions."""
        tokens = longest(rollout)
        self.first += [
            f"Lower rollout.max_tokens: with the prompt it is {tokens:,}, and the {whose} has {shape.positions:,} positions."
            for whose, shape in shapes.items()
            if shape and tokens > shape.positions
        ]

    def check_share(self, options: TrainOptions | EvalOptions, shape: AnyShape) -> None:
        """Check that vLLM has room for one trajectory."""
        if options.engine.name != "vllm" or self.gpu is None:
            return
        share, (weights, trajectory) = round(options.engine.memory_share * self.gpu), sampling_bytes(options, shape)
        others = vllm_bytes(shape, ITEMSIZE[type_of(options.network)])
        if share < weights + others + trajectory:
            self.first.append(
                f"Raise engine.memory_share: vLLM needs {as_bytes(weights)} for weights, an estimated {as_bytes(others)} for "
                f"activations and CUDA graphs and {as_bytes(trajectory)} for one trajectory, and has {as_bytes(share)}."
            )

    def hold(self, memory: Memory, savings: Sequence[str] = ()) -> None:
        """Add every part of the memory, the total, and whether it fits. `savings`: options that would save memory."""
        parts, device = by_part(memory), self.device
        whole = self.peak = sum(parts.values())
        self.add("memory", *(f"{as_bytes(size):>9}  {name}" for name, size in parts.items()))
        each = f", in each of {self.processes} processes" if self.processes > 1 else ""
        self.add("memory", f"{as_bytes(whole):>9}  total at the peak{each}")
        if device is None:
            self.add("memory", f"not compared: this machine has no {self.wanted} with known memory")
            return
        if self.processes > 1 and not device.is_gpu:
            whole *= self.processes
            self.add("memory", f"{as_bytes(whole):>9}  in all processes")
        usable = usable_bytes(device)
        size = as_bytes(device.memory) + (
            f" less {SLACK:.0%} (assumed: driver and fragmentation)" if device.is_gpu else ""
        )
        advice = f"; try {', '.join([*savings, 'shorter trajectories'])}" if whole > usable else ""
        self.add("memory", f"{'fits' if whole <= usable else 'does NOT fit'} into {size}: {device.name}{advice}")

    def without_shape(self, **models: Found | None) -> "DryRun":
        reasons = [why_no_shape(found, whose) for whose, found in models.items() if found and found.shape is None]
        self.add("memory", *(f"not known: {reason}" for reason in dict.fromkeys(reasons)))
        return self

    def keep(self, checkpoint: int, *, copies: int, exchanged: int = 0) -> None:
        """Add the disk space of `copies` checkpoints, one that is being written, and the weights sent to the engine."""
        exchange = f"; {as_bytes(exchanged)} where weights are passed to vLLM" if exchanged else ""
        checkpoints = f"{copies} checkpoints of {as_bytes(checkpoint)}, one being written"
        self.add("disk", f"{as_bytes((copies + 1) * checkpoint)}: {checkpoints}{exchange}")

    def finished(self, width: int | None) -> str:
        """Return the text. Its last section lists what the user must do first."""
        wanted = dict.fromkeys([*self.first, *([self.last] if self.last else [])])
        steps = [f"{number}. {step}" for number, step in enumerate(wanted, 1)]
        self.add("to do", *(steps or ["nothing: all inputs are available"]))
        return self.written(width)


def usable_bytes(device: Device) -> float:
    """Return the bytes of a device's memory without the assumed loss."""
    return device.memory * (1 - SLACK if device.is_gpu else 1)


def _wrapped(line: str, width: int | None) -> list[str]:
    """Return the line, wrapped. Continuation lines are indented to the start of the text."""
    if width is None:
        return [line]
    entry, typed = ENTRY.match(line), line.startswith(COMMAND)
    hanging = 4 if typed else entry.end() if entry else 2
    pieces = textwrap.wrap(
        WHOLE.sub(lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), line),
        width - COLUMN - (2 if typed else 0),
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    *begun, last = [piece.replace("\N{NO-BREAK SPACE}", " ") for piece in pieces]
    return [*(f"{piece} \\" if typed else piece for piece in begun), last]
