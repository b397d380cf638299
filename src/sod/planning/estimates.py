"""Lines of dry runs and `sod plan` about memory, traffic, tokens and time. Each names what it assumes."""

import math
from collections.abc import Sequence

from sod.config import HeldOutOptions, OptimiserOptions, SamplingOptions, SftOptions, TrainOptions
from sod.config.teachers import routes_of, with_servers
from sod.planning.budgets import longest
from sod.planning.inventory import Device, Found, as_bytes, as_count, as_time, brief, find_device, find_model
from sod.planning.memory import ITEMSIZE, AnyShape, Shape, exchanged_bytes, type_of
from sod.planning.timing import LIKELY_SHARE, UTILISATION, seconds_of_update

CHARACTERS = 3
"""Assumed number of characters per token in a file of demonstrations."""
SLACK = 0.1
"""Assumed share of a GPU's memory that the driver, its libraries and fragmentation take."""


def usable_bytes(device: Device) -> float:
    """Return the bytes of a device's memory without the assumed loss."""
    return device.memory * (1 - SLACK if device.is_gpu else 1)


def validations(options: HeldOutOptions, sets: Sequence[Found], updates: int | None, of: str) -> list[str]:
    """Return a line about the number and the size of all validations; no line without validation."""
    if not sets:
        return []
    rows = [options.limit if found.rows is None else min(found.rows, options.limit or found.rows) for found in sets]
    known = sum(count or 0 for count in rows)
    size = f"{known:,} {of}" + (", and a set of unknown size" * rows.count(None))
    times = "" if updates is None else f"{len({*range(0, updates, options.every), updates})} "
    return [f"{times}validations (at the start, every {options.every:,}, at the end), each of {size}"]


def savings_of_learner(learn: OptimiserOptions, processes: int) -> list[str]:
    """Return the options that would save memory."""
    saved = {"learn.checkpointing": learn.checkpointing}
    if processes == 1:
        saved |= {
            "learn.optimizer = adamw_8bit": learn.optimizer == "adamw_8bit",
            "learn.lora_rank = 32": learn.lora_rank > 0,
        }
    return [option for option, is_set in saved.items() if not is_set]


def savings_of_teacher(options: TrainOptions, teacher: AnyShape | None, processes: int, *, on_gpu: bool) -> list[str]:
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


def tokens_of_demonstrations(options: SftOptions, rows: int, epochs: float, longest_row: int | None) -> str:
    most = min(options.max_tokens, longest_row or options.max_tokens)
    tokens = f"tokens: {as_count(epochs * rows * most)} at most"
    if not options.data.exists() or options.data.suffix != ".jsonl":
        return tokens
    likely = epochs * options.data.stat().st_size / CHARACTERS
    return f"{tokens}, estimated {as_count(likely)} (assumed: {CHARACTERS} characters per token)"


def tokens_of_trajectories(trajectories: int, rollout: SamplingOptions) -> str:
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
    routes = with_servers(routes_of(options.teachers), options.score.teacher_urls)
    models = [options.teacher] if options.teacher else [route.model for route in routes if route.url is None]
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


def rate_lines(device: Device | None, operations: float, updates: int, processes: int, *, known: bool) -> list[str]:
    lines = [f"scoring and training: {brief(operations / 1e15)} PFLOP per update, at the estimated length"]
    if device and device.peak:
        seconds = operations / (device.peak * 1e12 * UTILISATION * processes)
        whole = f"{as_time(seconds)} per update, {as_time(seconds * updates)} in total"
        gpus = f" on each of {processes} GPUs, without communication" if processes > 1 else ""
        lines.append(f"{whole}, at {UTILISATION:.0%} (assumed) of {device.peak} TFLOP/s{gpus}")
    return lines if known else [*lines, "plus sampling, which is not estimated: it depends on the engine and the tools"]
