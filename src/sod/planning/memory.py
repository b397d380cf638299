"""Compute parameters, bytes for training, scoring and sampling, and operations from a decoder's shape.

This is arithmetic on a `Shape` and options. All sizes are bytes; `itemsize` is the size of one number of the network's type.
`tests/test_shapes.py` compares the results with real models.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sod.config import EvalOptions, ModelOptions, OptimiserOptions, SamplingOptions, SftOptions, TrainOptions
from sod.credit.systems import SYSTEMS
from sod.engines import ENGINES
from sod.planning.measured import Measured

ITEMSIZE = {"float32": 4, "bfloat16": 2}
"""Bytes of a number."""
MOMENTS = {"adamw": 8, "adamw_8bit": 2}
"""Bytes of AdamW's two moments per parameter."""
CHUNK_ELEMENTS = 1 << 26
"""Largest number of logits at a time on a CPU. Copied from `sod.core.logprobs`, which needs torch; so are the next three."""
GPU_ROWS, SMALL_GPU, BYTES_PER_LOGIT = 4096, 32 << 30, 64
"""On a GPU: tokens whose logits are held at a time, and the bytes beyond a small GPU's memory for each logit."""
SERVED_TOKENS = 8192
"""Assumed number of tokens per pass of vLLM (its max_num_batched_tokens)."""
SERVED_SEQUENCES = 256
"""Assumed number of sequences for which vLLM computes logits while it measures its memory (its max_num_seqs)."""
SERVED_FIXED = 1 << 30
"""Assumed bytes of vLLM's CUDA graphs and of memory outside PyTorch."""
MODEL_FAMILIES = {"qwen3": (True, False), "qwen2": (False, True), "llama": (False, False)}
"""Model type -> (queries and keys are normalised, queries, keys and values have a bias)."""

Parts = dict[str, int]
"""Bytes of each part, by its name."""
Memory = dict[Literal["student", "learner", "teacher", "reference", "sampler", "peak"], Parts]
"""Parts held at the same time, by their holder. `peak` is the largest temporary need of any holder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The shape of a decoder with gated feed-forward layers and grouped-query attention."""

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
    """Longest sequence, in tokens."""
    family: str = "qwen3"
    """One of FAMILIES."""

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Shape | None":
        """Return the shape in a model's config.json. Return None if the architecture is not in `FAMILIES`."""
        family = config.get("model_type", "")
        if family not in MODEL_FAMILIES or config.get("attention_bias") or config.get("mlp_bias"):
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

    @property
    def packs(self) -> bool:
        """Return whether several sequences can share a pass."""
        return True

    @property
    def queries(self) -> int:
        """Return the number of elements in a token's queries, in one layer."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Return the number of elements in a token's keys, in one layer. Its values have as many."""
        return self.kv_heads * self.head_dim

    @property
    def projections(self) -> tuple[tuple[int, int], ...]:
        """Return (inputs, outputs) of a layer's linear maps: queries, keys, values, output; gate, up, down."""
        attention = ((self.width, self.queries), *((self.width, self.keys),) * 2, (self.queries, self.width))
        return *attention, *((self.width, self.feed_forward),) * 2, (self.feed_forward, self.width)

    @property
    def embedding(self) -> int:
        """Return the number of parameters of the embedding. The head has as many."""
        return self.vocabulary * self.width

    @property
    def layer(self) -> int:
        """Return the number of parameters of one layer."""
        normed, biased = MODEL_FAMILIES[self.family]
        maps = sum(inputs * outputs for inputs, outputs in self.projections)
        norms = 2 * self.width + (2 * self.head_dim if normed else 0)
        return maps + norms + (self.queries + 2 * self.keys if biased else 0)

    @property
    def outside(self) -> int:
        """Return the number of parameters outside the layers: embedding, head, the last norm."""
        return self.width + (1 if self.tied else 2) * self.embedding

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.outside

    def adapters(self, rank: int) -> int:
        """Return the number of parameters of LoRA adapters on every linear map except the head."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.projections)

    def held_bytes(self, tokens: int, itemsize: int, learn: OptimiserOptions) -> tuple[int, int]:
        """Return the bytes that a pass keeps for its backward pass, and those that the backward pass adds.

        Kept are tokens x (layers x bytes that each keeps + the last norm). The backward pass of one layer adds gradients of
        activations and, with checkpointing, what the layer keeps.
        """
        layer = activation_bytes(self, itemsize, learn.lora_rank)
        attended = self.queries * itemsize + 4 * self.heads if learn.keep_attention else 0  # outputs; softmax's sums
        kept, again = (self.width * itemsize + attended, layer) if learn.checkpointing else (layer, 0)
        last_norm = self.width * (4 + itemsize)
        return tokens * (self.layers * kept + last_norm), tokens * (again + 3 * self.feed_forward * itemsize)

    def read_bytes(self, tokens: int, itemsize: int) -> int:
        """Return the bytes of a forward pass without gradients: the widest activations of a layer."""
        return tokens * 3 * (self.width + self.feed_forward) * itemsize

    def trajectory_bytes(self, tokens: int, prompt: int, itemsize: int) -> int:
        """Return the bytes of a trajectory's keys and values."""
        del prompt
        return tokens * cache_bytes(self, itemsize)


AnyShape = Shape | Measured
"""The sizes of a model: from arithmetic, or measured."""


def type_of(network: ModelOptions) -> str:
    """Return the type of the weights. A command has replaced auto and fastest; without one, they count as float32."""
    return network.dtype if network.dtype in ITEMSIZE else "float32"


# Learning


def optimiser_bytes(shape: AnyShape, itemsize: int, learn: OptimiserOptions) -> Parts:
    """Return the bytes that training keeps in addition to the weights (`sod.model.policy`), by name.

    LoRA adapters, in float32, are included; with them nothing else is trained.
    """
    learnt, state = _learnt(shape, learn), {}
    if learn.lora_rank:
        state[f"adapters of rank {learn.lora_rank}"] = 4 * learnt
    elif itemsize < 4:
        state["float32 copies"] = 4 * learnt
    gradients = (4 if learn.lora_rank else itemsize) * learnt
    return state | {"gradients": gradients, "AdamW's moments": MOMENTS[learn.optimizer] * learnt}


def checkpoint_bytes(shape: AnyShape, itemsize: int, learn: OptimiserOptions) -> int:
    """Return the bytes of a checkpoint: a full model and the state of the optimiser."""
    state = optimiser_bytes(shape, itemsize, learn)
    return itemsize * shape.parameters + sum(state.values()) - state["gradients"]


def learning_bytes(shape: AnyShape, tokens: int, itemsize: int, learn: OptimiserOptions, gpu: int | None = None) -> int:
    """Return the peak of training in addition to what it keeps: in a pass over `tokens` tokens or in an optimiser step.

    `gpu`: bytes of the GPU's memory; None for a CPU.
    """
    return max(
        _pass_bytes(shape, tokens, itemsize, learn, gpu),
        0 if learn.lora_rank else itemsize * shape.embedding,  # the embedding's gradient, after the pass
        _stepping_bytes(shape, itemsize, learn),
    )


def _pass_bytes(
    shape: AnyShape, tokens: int, itemsize: int, learn: OptimiserOptions, gpu: int | None, gradients: int = 0
) -> int:
    """Return what a pass keeps + max(loss, one layer's backward pass).

    `gradients`: bytes of unsharded gradients during a layer's backward pass that are counted nowhere else.
    """
    kept, backward = shape.held_bytes(tokens, itemsize, learn)
    loss = loss_bytes(shape, tokens, itemsize, learnt=not learn.lora_rank, gpu=gpu)
    return kept + max(backward + gradients, loss)


def activation_bytes(shape: Shape, itemsize: int, rank: int = 0) -> int:
    """Return the bytes that one layer keeps of a token for its backward pass (Transformers' layers with `sod.model.attention`).

    A norm computes in float32, so a coarser type keeps its input twice. Frozen weights keep no inputs. Each LoRA adapter
    keeps its own in float32.
    """
    normed, _ = MODEL_FAMILIES[shape.family]
    in_norms = 2 * shape.width + (shape.queries + shape.keys if normed else 0)
    norms = in_norms * (4 if rank else 4 + itemsize)  # inputs; also outputs, if the scale is trained
    attended = (2 * shape.queries + 2 * shape.keys) * itemsize + 4 * shape.heads  # with outputs; softmax's sums
    gated = 3 * shape.feed_forward * itemsize
    if rank and itemsize < 4:
        return norms + attended + gated + 4 * sum(inputs + rank for inputs, _ in shape.projections)
    inputs = 2 * shape.width + shape.queries + shape.feed_forward  # the four inputs of the linear maps
    return norms + attended + gated + inputs * itemsize + 4 * rank * len(shape.projections)


def loss_bytes(shape: AnyShape, tokens: int, itemsize: int, *, learnt: bool, gpu: int | None = None) -> int:
    """Return the bytes of `sod.core.token_loss`: logits of a chunk, hidden states, and the gradient of a trained head."""
    elements = CHUNK_ELEMENTS
    if gpu is not None:
        elements = max(elements, min(GPU_ROWS * shape.vocabulary, (gpu - SMALL_GPU) // BYTES_PER_LOGIT))
    logits = min(tokens, max(1, elements // shape.vocabulary)) * shape.vocabulary
    narrow = itemsize if itemsize < 4 else 0
    gradient = (4 + narrow) * shape.embedding if learnt else 0
    return logits * (8 + narrow) + gradient + 2 * tokens * shape.width * itemsize


def _stepping_bytes(shape: AnyShape, itemsize: int, learn: OptimiserOptions) -> int:
    """Return the bytes of an optimiser step in addition to `optimiser_bytes`: gradients converted to float32 in place, and
    the square roots of AdamW's second moments. PyTorch computes all roots at the same time on a GPU."""
    widened = 0 if learn.lora_rank else 4 - itemsize
    roots = 4 if learn.optimizer == "adamw" else 0
    return (widened + roots) * _learnt(shape, learn)


def _learnt(shape: AnyShape, learn: OptimiserOptions) -> int:
    return shape.adapters(learn.lora_rank) if learn.lora_rank else shape.parameters


# Training with several processes: the learner is sharded over them (PyTorch's FSDP2, docs.pytorch.org/docs/stable/
# distributed.fsdp.fully_shard.html)


def share(size: int, processes: int) -> int:
    """Return the largest shard's size, which the first processes have."""
    return -(-size // processes)


def sharded_bytes(shape: AnyShape, processes: int) -> Parts:
    """Return the bytes that each process keeps of the learner, by name: (4 + 4 + 8) bytes per weight / processes."""
    state = {"float32 weights": 4, "gradients": 4, "AdamW's moments": MOMENTS["adamw"]}
    return {f"{name}, 1/{processes}": share(size * shape.parameters, processes) for name, size in state.items()}


def gathered_bytes(shape: AnyShape, itemsize: int) -> int:
    """Return the bytes of a sharded model that are gathered at the same time: all that is outside the layers, and two layers
    (one computes, one is being fetched)."""
    return itemsize * (shape.outside + 2 * shape.layer)


def sharded_learning_bytes(
    shape: AnyShape, tokens: int, itemsize: int, learn: OptimiserOptions, processes: int, gpu: int | None = None
) -> int:
    """Return `learning_bytes` for each of several processes.

    A gradient is computed in the network's type and reduced in float32: a layer's gradient as soon as it is computed, those
    outside the layers at the end of the pass. A tied head and embedding have two gradients until then.
    """
    layer = (itemsize + 4) * shape.layer + itemsize * shape.embedding  # the head's gradient exists since the loss
    last = (itemsize + 4) * shape.outside + (itemsize * shape.embedding if shape.tied else 0)
    whole = max(_pass_bytes(shape, tokens, itemsize, learn, gpu, gradients=layer), last)
    roots = share(4 * shape.parameters, processes)
    return max(gathered_bytes(shape, itemsize) + whole, roots)


def exchanged_bytes(shape: AnyShape, itemsize: int, processes: int) -> Parts:
    """Return the bytes that each process receives, by occasion. It lacks (processes - 1) / processes of each tensor.

    A micro-batch gathers the layers twice (forward and backward) and the rest once, in the network's type. It reduces
    gradients in float32. An update gathers the new float32 weights for the copy that samples and scores. (Rajbhandari et
    al., arXiv 1910.02054, section 7, count the same.)
    """
    others = lambda size: size - share(size, processes)  # noqa: E731
    gathered = itemsize * (2 * (shape.parameters - shape.outside) + shape.outside)
    return {
        "weights, a micro-batch": others(gathered),
        "gradients, a micro-batch": others(4 * shape.parameters),
        "weights, an update": others(4 * shape.parameters),
    }


# Scoring and sampling


def scoring_bytes(shape: AnyShape, tokens: int, itemsize: int, gpu: int | None = None) -> int:
    """Return the bytes of a forward pass without gradients, and of the logits of a chunk."""
    return shape.read_bytes(tokens, itemsize) + loss_bytes(shape, tokens, itemsize, learnt=False, gpu=gpu)


def cache_bytes(shape: Shape, itemsize: int) -> int:
    """Return the bytes of one token's keys and values in all layers."""
    return 2 * shape.layers * shape.keys * itemsize


def forward_operations(shape: Shape, tokens: float, length: float) -> float:
    """Return the floating-point operations of a forward pass over `tokens` tokens in sequences of mean length `length`.

    tokens x 2 x (parameters of linear maps + layers x queries x length): causal attention computes half of the square, and
    two products.
    """
    linear = shape.layers * sum(inputs * outputs for inputs, outputs in shape.projections) + shape.embedding
    attention = shape.layers * shape.queries * length
    return tokens * 2 * (linear + attention)


# Commands, on the device of one process


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
        memory["teacher"] = dict(sum((Counter(parts) for parts, _ in taught), Counter[str]()))
        moments["the teacher's scoring"] = max(moment for _, moment in taught)
        if averaged and ITEMSIZE[type_of(options.network.for_teacher(options.score))] < 4:
            memory["teacher"]["the teacher's average, float32"] = 4 * teachers[0].parameters
    if loads_reference(options):
        memory["reference"], moments["the initial weights' scoring"] = _referring(options, student, tokens, gpu)
    memory["sampler"] = _sampling(options, student, gpu)
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


def memory_of_evaluation(options: EvalOptions, model: AnyShape, teacher: AnyShape | None, gpu: int | None) -> Memory:
    """Return the memory of `sod eval`. `gpu`: bytes of the GPU's memory; None for a CPU."""
    memory: Memory = {"student": _whole("model", type_of(options.network), model)}
    memory["sampler"] = _sampling(options, model, gpu)
    if teacher and options.score.teacher_url is None:
        tokens = max(options.microbatch_tokens, longest(options.rollout))
        memory["teacher"], moment = _teaching(options, teacher, tokens, 1, gpu)
        memory["peak"] = {"peak: scoring": moment}
    return memory


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
