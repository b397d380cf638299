"""Compute what a command would do, the resources it needs, and what the user must do first: `--dry-run`.

Nothing is downloaded and no model is loaded. A local tokenizer is loaded to check its chat template; without one,
Transformers is not needed. The output names every assumption.
"""

import math
from pathlib import Path

from sod.config import EvalOptions, RolloutCommandOptions, SftOptions, TrainOptions
from sod.config.teachers import routes_of
from sod.console.progress import echo
from sod.credit.systems import SYSTEMS
from sod.engines import ENGINES
from sod.errors import OptionError
from sod.planning.budgets import longest, memory_of_evaluation, memory_of_fine_tuning, memory_of_training
from sod.planning.estimates import (
    largest,
    offloaded,
    rate_lines,
    savings_of_learner,
    savings_of_teacher,
    time_lines,
    tokens_of_demonstrations,
    tokens_of_trajectories,
    validations,
    wire,
)
from sod.planning.found import DryRun
from sod.planning.inventory import Found, as_bytes, brief, find_benchmark, find_file
from sod.planning.measured import MeasuredShape
from sod.planning.memory import ITEMSIZE, MODEL_FAMILIES, checkpoint_bytes, forward_operations, type_of
from sod.planning.teacher_servers import exchanged_tokens
from sod.planning.text import columns
from sod.planning.timing import LIKELY_SHARE, seconds_of_update

DRY_RUN_REFUSED = "The command would refuse these options or inputs. The dry run lists the reasons under `to do`."
"""The error of a dry run."""


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
        *([tokens_of_demonstrations(options, data.rows, epochs, longest_row)] if data.rows else []),
        *validations(options.validate, held_out, steps, "conversations"),
    )

    if model.shape is None:
        return text.without_shape(model=model)
    shape, itemsize = model.shape, ITEMSIZE[type_of(options.network)]
    if options.max_tokens > shape.positions and longest_row is None:
        text.add("does", f"longer conversations than {shape.positions:,} tokens, the positions of the model, are cut")
    options = options.model_copy(update={"max_tokens": min(options.max_tokens, shape.positions)})
    memory = memory_of_fine_tuning(options, shape, text.gpu, text.processes, longest_row)
    text.check_processes(model)
    text.hold(memory, savings_of_learner(learn, text.processes))
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
        teachers = text.read_teachers(options)
    if options.has_reference:
        text.add(
            "reads", "start    the initial student, which the divergence of learn.kl or kl_in_reward is measured from"
        )
    data = text.read("data", find_file(options.data))
    held_out = [
        text.read("validate", find_benchmark(name, options.validate.data_dir)) for name in options.validate.data
    ]
    chat = text.check_template(options.student, options.chat)
    if not _is_own_teacher(options):
        for model in [options.teacher] if options.teacher else [route.model for route in routes_of(options.teachers)]:
            text.check_tokens(options, options.student, model, chat)
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
    on_servers = [found for found, _ in text.served]
    options = options.model_copy(update={"rollout": text.fitting(options.rollout, student, *teachers, *on_servers)})
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
        tokens_of_trajectories(options.updates * trajectories, rollout),
        *validations(options.validate, held_out, options.updates, f"problems x {options.validate.samples} samples"),
    )
    if (options.score.teacher_url and teachers) or on_servers:
        text.add("teacher", *exchanged_tokens(options))
    if rollout.resample > 1:
        text.add("does", f"up to {rollout.resample:g} times as many attempts, where verdicts have no contrast")
    if data.rows and rollout.problems > data.rows:
        text.first.append(f"Lower rollout.problems to {data.rows:,}, the number of problems in the data.")

    shapes = [teacher.shape for teacher in teachers if teacher.shape]
    if student.shape is None or len(shapes) < len(teachers):
        return text.without_shape(student=student, teacher=next((each for each in teachers if not each.shape), None))
    shape, scorer = student.shape, largest(shapes)
    text.check_length(
        rollout, {"student": shape, **{f"teacher {each.name}": each.shape for each in [*teachers, *on_servers]}}
    )
    text.check_processes(student)
    text.check_share(options, shape)
    savings = savings_of_learner(learn, text.processes)
    savings += savings_of_teacher(options, scorer, text.processes, on_gpu=text.gpu is not None)
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

    if isinstance(shape, MeasuredShape) or isinstance(scorer, MeasuredShape):
        text.add("time", f"not estimated: operations are counted for models of type {', '.join(MODEL_FAMILIES)} only")
        return text
    length = LIKELY_SHARE * longest(rollout)
    passes_of_student = (options.score.student == "recompute") + learn.checkpointing + (2 if learn.lora_rank else 3)
    passes_of_student += options.has_reference
    operations = passes_of_student * forward_operations(shape, trajectories * length, length)
    if scorer and not options.score.teacher_url:
        operations += forward_operations(scorer, trajectories * length, length)
    times = seconds_of_update(options, shape, scorer, text.device, text.processes) if text.device else None
    text.add("time", *rate_lines(text.device, operations, options.updates, text.processes, known=times is not None))
    if times:
        text.add("time", *time_lines(times, options.updates))
    return text


def _of_evaluation(options: EvalOptions) -> "DryRun":
    text = DryRun.of("rollout" if isinstance(options, RolloutCommandOptions) else "eval", options)
    served = not ENGINES[options.engine.name].loads_model
    model = text.read_model("tokenizer" if served else "model", options.model, served=served)
    here, teacher = text.read_teachers(options), None
    if options.teacher is not None:
        teacher = text.read_model("teacher", options.teacher, served=options.score.teacher_url is not None)
        here.append(teacher)
    on_servers = [found for found, _ in text.served]
    benchmarks = [text.read("data", find_benchmark(name, options.data_dir)) for name in options.data]
    chat = text.check_template(options.model, options.chat)
    for each in [options.teacher] if options.teacher else [route.model for route in routes_of(options.teachers)]:
        text.check_tokens(options, options.model, each, chat)
    text.add("writes", str(options.out))
    rollout = text.fitting(options.rollout, None if served else model, *here, *on_servers)
    options = options.model_copy(update={"rollout": rollout})
    text.check_what_is_named(options, teacher)

    rows = [found.rows or options.limit for found in benchmarks]
    problems = sum(min(count, options.limit or count) for count in rows if count)
    unknown = f", and a set of unknown size x {options.samples}" * rows.count(None)
    text.add("does", f"{problems:,} problems x {options.samples} samples{unknown}")
    text.add("does", tokens_of_trajectories(problems * options.samples, options.rollout))

    if served and not here:
        text.add("memory", f"none on this machine: the model is on the server {options.engine.url}")
        return text
    shapes = [each.shape for each in here if each.shape]
    if model.shape is None or len(shapes) < len(here):
        return text.without_shape(model=model, teacher=next((each for each in here if not each.shape), None))
    lengths = {f"teacher {each.name}": each.shape for each in [*here, *on_servers]}
    text.check_length(options.rollout, {"model": model.shape, **lengths})
    text.check_share(options, model.shape)
    text.hold(memory_of_evaluation(options, model.shape, shapes, text.gpu))
    return text
