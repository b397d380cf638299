"""Estimate the seconds of an update by phase, from operations, bytes and the tabled rates of a GPU.

Nothing here was measured on a GPU. `sod train` prints the estimate beside what it measures.
"""

import math
from collections.abc import Mapping

from sod.config import TrainOptions
from sod.engines import ENGINES
from sod.planning.budgets import itemsize_of_keys, longest, room_of_vllm, slots_of_hf
from sod.planning.inventory import PCIE, Device, as_time
from sod.planning.memory import ITEMSIZE, Shape, cache_bytes, exchanged_bytes, forward_operations, type_of

LIKELY_SHARE = 0.25
"""Assumed mean length, as a share of rollout.max_tokens and rollout.max_prompt_tokens."""
UTILISATION = 0.4
"""Assumed share of a GPU's peak speed that scoring reaches."""
LEARNING_SHARE = 0.3
"""The same of learning, whose layers are not fused."""
READING = 0.7
"""Assumed share of the memory's bandwidth that sampling reaches."""
OCCUPIED = 0.8
"""Assumed mean share of an engine's places that are taken: few trajectories are left at the end."""
PASS_SECONDS = {"hf": 0.03, "vllm": 0.003, "vllm_server": 0.003}
"""Assumed least seconds of a pass of each engine: the launches of its kernels."""
EXCHANGE = 1e9
"""Assumed bytes per second of weights through files."""

Seconds = dict[str, float]
"""Estimated seconds of each phase of an update: sample, score, learn, exchange."""


def seconds_of_update(
    options: TrainOptions, student: Shape, teacher: Shape | None, device: Device, processes: int
) -> Seconds | None:
    """Return the estimated seconds of an update, or None for a device with unknown rates."""
    if not device.peak or not device.bandwidth or options.engine.name not in PASS_SECONDS:
        return None
    rate, trajectories = device.peak * 1e12, options.rollout.problems * options.rollout.group
    length = LIKELY_SHARE * longest(options.rollout)
    tokens = trajectories * length
    learn = options.learn
    forward = forward_operations(student, tokens, length)
    sample = _sampling(options, student, device, processes)
    score = (
        forward * ((options.score.student == "recompute") + options.has_reference) / (rate * UTILISATION * processes)
    )
    score += _teaching(options, teacher, tokens, length, device, processes, sample)
    again = forward_operations(student, tokens, 0 if learn.keep_attention else length) if learn.checkpointing else 0
    learning = forward * (2 if learn.lora_rank else 3) + again
    learning /= rate * LEARNING_SHARE * processes
    if options.rollout.ahead and ENGINES[options.engine.name].is_remote:  # on GPUs of its own
        sample = max(0.0, sample - score - learning)
    exchange = _exchange(options, student, tokens, device, processes)
    return {"sample": sample, "score": score, "learn": learning, "exchange": exchange}


def _sampling(options: TrainOptions, shape: Shape, device: Device, processes: int) -> float:
    """Return trajectories x tokens / (places x passes a second). A pass reads the weights, and the keys of each place."""
    assert device.peak is not None
    assert device.bandwidth is not None
    rollout, itemsize = options.rollout, ITEMSIZE[type_of(options.network)]
    token = cache_bytes(shape, itemsize_of_keys(options))
    response = LIKELY_SHARE * rollout.max_tokens
    held = LIKELY_SHARE * rollout.max_prompt_tokens + response / 2
    samplers = 1 if ENGINES[options.engine.name].is_remote else processes
    mine = math.ceil(rollout.problems / samplers) * rollout.group
    if options.engine.name == "hf":
        room = float(slots_of_hf(options, shape, device.memory))
    elif options.engine.name == "vllm":
        room = room_of_vllm(options, shape, device.memory) / (token * held)
    else:
        room = 0.8 * device.memory / (token * held)
    places = max(1.0, min(rollout.concurrency, mine, room)) * OCCUPIED
    bytes_of_pass = itemsize * shape.parameters + places * held * token
    operations = forward_operations(shape, places, 2 * held)
    seconds = max(
        bytes_of_pass / (device.bandwidth * 1e9 * READING),
        operations / (device.peak * 1e12 * UTILISATION),
        PASS_SECONDS[options.engine.name],
    )
    return mine * response / places * seconds


def _teaching(
    options: TrainOptions,
    teacher: Shape | None,
    tokens: float,
    length: float,
    device: Device,
    processes: int,
    sample: float,
) -> float:
    """Return the seconds of the teacher's scoring that nothing else hides. A server scores while the student samples."""
    if teacher is None:
        return 0.0
    assert device.peak is not None
    operations = forward_operations(teacher, tokens, length) / (device.peak * 1e12 * UTILISATION)
    if options.score.teacher_url:
        return max(0.0, operations - sample)
    copied = 0.0
    if options.score.offload_teacher:
        weights = ITEMSIZE[type_of(options.network.for_teacher(options.score))] * teacher.parameters
        copied = math.ceil(options.rollout.problems / processes) * weights / (PCIE * 1e9)
    return operations / processes + copied


def _exchange(options: TrainOptions, student: Shape, tokens: float, device: Device, processes: int) -> float:
    """Return the seconds of weights and gradients between processes, and of the new weights to the engine."""
    itemsize = ITEMSIZE[type_of(options.network)]
    engine = 2 * itemsize * student.parameters / EXCHANGE if ENGINES[options.engine.name].exchanges_weights else 0.0
    if options.engine.sleep:
        engine += 2 * itemsize * student.parameters / (PCIE * 1e9)  # to CPU memory and back
    if processes == 1:
        return engine
    received = exchanged_bytes(student, itemsize, processes)
    update = received.pop("weights, an update")
    passes = max(options.learn.minibatches, math.ceil(tokens / (options.learn.microbatch_tokens * processes)))
    return engine + (update + passes * sum(received.values())) / (device.link * 1e9)


def compared(estimated: Seconds | None, measured: Mapping[str, float], left: int) -> str:
    """Return a line with the measured seconds of an update, beside the estimate if there is one, and the time that is left."""
    facts = {
        "sample": measured["seconds/sample"] - measured["seconds/score"],
        "score": measured["seconds/score"],
        "learn": measured["seconds/learn"],
        "exchange": measured["seconds/sync"],
    }
    facts = {name: max(0.0, fact) for name, fact in facts.items()}
    whole = sum(facts.values())
    rest = f"{as_time(whole * left)} for the {left:,} updates that are left"
    if estimated is None:
        parts = ", ".join(f"{name} {as_time(fact)}" for name, fact in facts.items())
        return f"seconds of an update, measured: {parts}; in all {as_time(whole)}; {rest}"
    parts = ", ".join(f"{name} {as_time(estimated[name])} -> {as_time(fact)}" for name, fact in facts.items())
    return (
        f"seconds of an update, estimated -> measured: {parts}; in all {as_time(sum(estimated.values()))} -> {as_time(whole)}; "
        f"{rest}"
    )
