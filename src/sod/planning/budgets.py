"""Memory of each command at its peak, on the device of one process."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from sod.config import EngineOptions, EvalOptions, OptimiserOptions, SamplingOptions, SftOptions, TrainOptions
from sod.credit.systems import SYSTEMS
from sod.engines import ENGINES
from sod.planning.memory import (
    ITEMSIZE,
    AnyShape,
    Parts,
    gathered_bytes,
    learning_bytes,
    optimiser_bytes,
    scoring_bytes,
    sharded_bytes,
    sharded_learning_bytes,
    share,
    type_of,
)

SERVED_TOKENS = 8192
"""Assumed number of tokens per pass of vLLM (its max_num_batched_tokens)."""
SERVED_SEQUENCES = 256
"""Assumed number of sequences for which vLLM computes logits while it measures its memory (its max_num_seqs)."""
SERVED_FIXED = 1 << 30
"""Assumed bytes of vLLM's CUDA graphs and of memory outside PyTorch."""

Memory = dict[Literal["student", "learner", "teacher", "reference", "sampler", "peak"], Parts]
"""Parts held at the same time, by their holder. `peak` is the largest temporary need of any holder."""


def memory_of_fine_tuning(
    options: SftOptions, shape: AnyShape, gpu: int | None, processes: int = 1, longest_row: int | None = None
) -> Memory:
    """Return the memory of `sod sft`. `gpu`: bytes of the GPU's memory; None for a CPU.

    `longest_row`: tokens of the longest conversation. Default: options.max_tokens. With several processes and GPUs, the full
    copies are in the computer's memory and are not counted here.
    """
    row = min(options.max_tokens, longest_row or options.max_tokens)
    tokens = min(max(options.learn.microbatch_tokens, row), options.batch * row)
    itemsize = ITEMSIZE[type_of(options.network)]
    moment = {_learning_moment(tokens): _learning_bytes(shape, tokens, itemsize, options.learn, processes, gpu)}
    learner = _learner(shape, itemsize, options.learn, processes)
    if processes > 1 and gpu:
        return {"learner": learner, "peak": moment}
    return {"student": _whole("model", type_of(options.network), shape), "learner": learner, "peak": moment}


def memory_of_training(
    options: TrainOptions,
    student: AnyShape,
    teachers: Sequence[AnyShape],
    gpu: int | None,
    *,
    averaged: bool = False,
    processes: int = 1,
) -> Memory:
    """Return the memory of `sod train`. A teacher on a server is not counted.

    `averaged`: the teacher is a moving average of the student. `gpu`: bytes of the GPU's memory; None for a CPU.
    """
    tokens = max(options.learn.microbatch_tokens, longest(options.rollout))
    dtype, itemsize = type_of(options.network), ITEMSIZE[type_of(options.network)]
    moments = {_learning_moment(tokens): _learning_bytes(student, tokens, itemsize, options.learn, processes, gpu)}
    memory: Memory = {
        "student": _whole("student", dtype, student),
        "learner": _learner(student, itemsize, options.learn, processes),
    }
    if teachers and options.score.teacher_url is None:
        taught = [_teaching(options, teacher, tokens, processes, gpu) for teacher in teachers]
        memory["teacher"] = _sum_of(taught)
        moments["the teacher's scoring"] = max(moment for _, moment in taught)
        if averaged and ITEMSIZE[type_of(options.network.for_teacher(options.score))] < 4:
            memory["teacher"]["the teacher's average, float32"] = 4 * teachers[0].parameters
    if loads_reference(options):
        memory["reference"], moments["the initial weights' scoring"] = _referring(options, student, tokens, gpu)
    memory["sampler"] = _sampling(options, student, gpu)
    if options.rollout.guided.probability > 0 and teachers:
        memory["sampler"] |= _guiding(options, teachers[0], gpu)
    if options.engine.sleep and gpu is not None:
        moments = _awake_or_asleep(
            moments, scoring_bytes(student, tokens, itemsize, gpu), round(options.engine.memory_share * gpu)
        )
    memory["peak"] = {", ".join(moments): max(moments.values())}
    return memory


def _awake_or_asleep(moments: Parts, scoring: int, held: int) -> Parts:
    """Return the peaks beside vLLM's memory if it sleeps in learning: what learning needs beyond the memory that it frees."""
    learning, *others = moments
    freed = max(0, held - SERVED_FIXED)  # graphs and what PyTorch does not manage stay
    beyond = {f"{learning}, beyond what vLLM frees": max(0, moments[learning] - freed)}
    return beyond | {name: moments[name] for name in others} | {"the student's scoring": scoring}


def loads_reference(options: TrainOptions) -> bool:
    """Return whether the initial weights are loaded a second time, as `sod.teachers.reference` decides.

    With LoRA they are the frozen weights of the student. A frozen teacher that is the student itself has them as well.
    """
    system = SYSTEMS.get(options.algorithm.name)
    is_own = system is not None and system.context is not None
    return options.has_reference and not options.learn.lora_rank and not (is_own and options.teacher_is_reference)


def memory_of_evaluation(
    options: EvalOptions, model: AnyShape, teachers: Sequence[AnyShape], gpu: int | None
) -> Memory:
    """Return the memory of `sod eval`. `gpu`: bytes of the GPU's memory; None for a CPU."""
    memory: Memory = {"student": _whole("model", type_of(options.network), model)}
    memory["sampler"] = _sampling(options, model, gpu)
    if teachers and options.score.teacher_url is None:
        tokens = max(options.microbatch_tokens, longest(options.rollout))
        taught = [_teaching(options, teacher, tokens, 1, gpu) for teacher in teachers]
        memory["teacher"] = _sum_of(taught)
        memory["peak"] = {"peak: scoring": max(moment for _, moment in taught)}
    return memory


def _sum_of(taught: Sequence[tuple[Parts, int]]) -> Parts:
    """Return the memory of several teachers together."""
    return dict(sum((Counter(parts) for parts, _ in taught), Counter[str]()))


def by_part(memory: Memory) -> Parts:
    """Return the bytes of every part by its name."""
    return {name: size for parts in memory.values() for name, size in parts.items()}


def sampling_bytes(options: TrainOptions | EvalOptions, shape: AnyShape) -> tuple[int, int]:
    """Return the bytes of the weights (for an engine with a copy of its own), and of the longest trajectory's keys and values."""
    itemsize = ITEMSIZE[type_of(options.network)]
    rollout = options.rollout
    trajectory = shape.trajectory_bytes(longest(rollout), rollout.max_prompt_tokens, itemsize_of_keys(options))
    return itemsize * shape.parameters, trajectory


def itemsize_of_keys(options: TrainOptions | EvalOptions) -> int:
    """Return the bytes of a number of the sampler's keys and values."""
    return 1 if options.engine.kv_dtype == "fp8" else ITEMSIZE[type_of(options.network)]


def vllm_bytes(shape: AnyShape, itemsize: int) -> int:
    """Return the estimated bytes that vLLM takes beside weights, keys and values: activations or logits, CUDA graphs."""
    activations = shape.read_bytes(SERVED_TOKENS, itemsize)
    logits = SERVED_SEQUENCES * shape.vocabulary * (4 + 4 + itemsize)
    return SERVED_FIXED + max(activations, logits)  # one after the other


def room_of_vllm(options: TrainOptions | EvalOptions, shape: AnyShape, gpu: int) -> int:
    """Return the bytes that vLLM has for keys and values: its share of the GPU without everything else that it holds."""
    itemsize = ITEMSIZE[type_of(options.network)]
    return max(0, round(options.engine.memory_share * gpu) - itemsize * shape.parameters - vllm_bytes(shape, itemsize))


def memory_of_sampling_server(options: TrainOptions, student: AnyShape, room: int) -> Memory:
    """Return the memory that a vLLM server needs to sample `room` of the longest trajectories at a time."""
    weights, trajectory = sampling_bytes(options, student)
    name = f"vLLM: weights, and keys and values of {room} x {longest(options.rollout):,} tokens"
    return {"sampler": {name: weights + room * trajectory + vllm_bytes(student, ITEMSIZE[type_of(options.network)])}}


def memory_of_teacher_server(options: TrainOptions, teacher: AnyShape) -> Memory:
    """Return the memory that a vLLM server needs to score the longest trajectory (`sod.teachers.server`).

    vLLM computes the logits of all tokens of a pass, and their logarithms in float32. It does not reserve memory for them
    at start-up (vLLM, pull request 52054).
    """
    dtype, tokens = type_of(options.network.for_teacher(options.score)), longest(options.rollout) + 1
    read = min(tokens, SERVED_TOKENS)
    name = f"vLLM: keys and values of 1 x {tokens:,} tokens"
    kept = _whole("teacher", dtype, teacher) | {name: teacher.trajectory_bytes(tokens, 0, ITEMSIZE[dtype])}
    logits = read * teacher.vocabulary * (ITEMSIZE[dtype] + 4)
    return {"teacher": kept, "peak": {f"peak: logits of {read:,} tokens": logits}}


def longest(rollout: SamplingOptions) -> int:
    """Return the largest number of tokens of a trajectory with its prompt."""
    return rollout.max_prompt_tokens + rollout.max_tokens


def _whole(whose: str, dtype: str, shape: AnyShape) -> Parts:
    return {f"{whose}, {dtype}": ITEMSIZE[dtype] * shape.parameters}


def _learner(shape: AnyShape, itemsize: int, learn: OptimiserOptions, processes: int) -> Parts:
    return optimiser_bytes(shape, itemsize, learn) if processes == 1 else sharded_bytes(shape, processes)


def _learning_bytes(
    shape: AnyShape, tokens: int, itemsize: int, learn: OptimiserOptions, processes: int, gpu: int | None
) -> int:
    if processes == 1:
        return learning_bytes(shape, tokens, itemsize, learn, gpu)
    return sharded_learning_bytes(shape, tokens, itemsize, learn, processes, gpu)


def _learning_moment(tokens: int) -> str:
    return f"peak: a pass over {tokens:,} tokens, an optimiser step"


def _teaching(
    options: TrainOptions | EvalOptions, teacher: AnyShape, tokens: int, processes: int, gpu: int | None
) -> tuple[Parts, int]:
    """Return the memory that a local teacher keeps, and its peak while it scores. On a CPU, offloading changes nothing."""
    dtype = type_of(options.network.for_teacher(options.score))
    weights, moment = ITEMSIZE[dtype] * teacher.parameters, scoring_bytes(teacher, tokens, ITEMSIZE[dtype], gpu)
    if options.score.offload_teacher and gpu is not None:
        return {}, moment + weights
    if options.score.shard_teacher and processes > 1:
        kept = {f"teacher, {dtype}, 1/{processes}": share(weights, processes)}
        return kept, moment + gathered_bytes(teacher, ITEMSIZE[dtype])
    return {f"teacher, {dtype}": weights}, moment


def _referring(options: TrainOptions, student: AnyShape, tokens: int, gpu: int | None) -> tuple[Parts, int]:
    """Return the memory that the initial weights take in each process, and their peak while they score."""
    dtype, itemsize = type_of(options.network), ITEMSIZE[type_of(options.network)]
    weights, moment = itemsize * student.parameters, scoring_bytes(student, tokens, itemsize, gpu)
    return ({}, moment + weights) if options.score.offload_teacher else ({f"initial weights, {dtype}": weights}, moment)


def slots_of_hf(options: TrainOptions | EvalOptions, shape: AnyShape, gpu: int) -> int:
    """Return the number of trajectories that Transformers samples at a time on a GPU (`sod.engines.opening`)."""
    _, trajectory = sampling_bytes(options, shape)
    return max(1, min(options.rollout.concurrency, int(options.engine.memory_share * gpu // trajectory)))


def _guiding(options: TrainOptions, teacher: AnyShape, gpu: int | None) -> Parts:
    """Return the memory of the teacher's turns: `sod.training.guidance` samples it with the engine hf."""
    engine = EngineOptions(name="hf", memory_share=options.engine.memory_share)
    own = options.model_copy(update={"engine": engine, "network": options.network.for_teacher(options.score)})
    return {f"the teacher's {name}": size for name, size in _sampling(own, teacher, gpu).items()}


def _sampling(options: TrainOptions | EvalOptions, shape: AnyShape, gpu: int | None) -> Parts:
    """Return the memory of the local engine, by name."""
    rollout, tokens = options.rollout, longest(options.rollout)
    weights, trajectory = sampling_bytes(options, shape)
    engine = ENGINES[options.engine.name]
    if not (engine.is_remote or engine.exchanges_weights):
        if gpu is not None:
            count = slots_of_hf(options, shape, gpu)
            return {f"keys and values of {count} x {tokens:,} tokens": count * trajectory}
        return {f"keys and values of {rollout.concurrency} x {tokens:,} tokens": rollout.concurrency * trajectory}
    if engine.is_remote:
        return {}
    if gpu is None:
        return {"vLLM: weights; keys and values are not counted without a GPU": weights}
    held = round(options.engine.memory_share * gpu)
    room = room_of_vllm(options, shape, gpu) / trajectory
    return {f"vLLM: weights, and keys and values of {room:.1f} x {tokens:,} tokens": held}
