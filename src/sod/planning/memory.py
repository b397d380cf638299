"""What a decoder's shape decides: its parameters, the bytes that learning, scoring and sampling take, operations.

Arithmetic alone: a `Shape` and options in, numbers out. All sizes are bytes; `itemsize` is what one number of the network's
type takes. `tests/test_shapes.py` holds them against real models.
"""

from dataclasses import dataclass
from typing import Any, Literal

from sod.config import EvalOptions, OptimiserOptions, SamplingOptions, SftOptions, TrainOptions
from sod.engines import ENGINES

ITEMSIZE = {"float32": 4, "bfloat16": 2}
"""Bytes of a number."""
MOMENTS = {"adamw": 8, "adamw_8bit": 2}
"""Bytes of AdamW's two moments of a parameter."""
CHUNK_ELEMENTS = 1 << 26
"""Logits that exist at a time, as in `sod.core.logprobs`, which needs torch."""
SERVED_TOKENS = 8192
"""Assumed: tokens that a vLLM server reads at a time (its max_num_batched_tokens)."""
FAMILIES = {"qwen3": (True, False), "qwen2": (False, True), "llama": (False, False)}
"""Whether queries and keys have norms of their own, and whether queries, keys and values have a bias."""

Parts = dict[str, int]
"""Bytes by what they are for."""
Memory = dict[Literal["student", "learner", "teacher", "sampler", "moment"], Parts]
"""What is held at once, by who holds it; `moment` is the most that anybody needs for a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder with gated feed-forward layers and grouped keys."""

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

    @property
    def queries(self) -> int:
        """Numbers in the queries of a token, in one layer."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Numbers in the keys of a token, in one layer; and in its values."""
        return self.kv_heads * self.head_dim

    @property
    def projections(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of a layer's linear maps: queries, keys, values, output; gate, up, down."""
        attention = ((self.width, self.queries), *((self.width, self.keys),) * 2, (self.queries, self.width))
        return *attention, *((self.width, self.feed_forward),) * 2, (self.feed_forward, self.width)

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of the head."""
        return self.vocabulary * self.width

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        normed, biased = FAMILIES[self.family]
        maps = sum(inputs * outputs for inputs, outputs in self.projections)
        norms = 2 * self.width + (2 * self.head_dim if normed else 0)
        return maps + norms + (self.queries + 2 * self.keys if biased else 0)

    @property
    def outside(self) -> int:
        """Parameters outside the layers: embedding, head, the last norm."""
        return self.width + (1 if self.tied else 2) * self.embedding

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.outside

    def adapters(self, rank: int) -> int:
        """Parameters of low-rank differences to every linear map but the head."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.projections)


# Learning


def optimiser_bytes(shape: Shape, itemsize: int, learn: OptimiserOptions) -> Parts:
    """What learning keeps beside the weights (`sod.model.policy`), by name.

    With low-rank adapters only they are learnt, in float32; they stand here too.
    """
    learnt, state = _learnt(shape, learn), {}
    if learn.lora_rank:
        state[f"adapters of rank {learn.lora_rank}"] = 4 * learnt
    elif itemsize < 4:
        state["float32 copies"] = 4 * learnt
    gradients = (4 if learn.lora_rank else itemsize) * learnt
    return state | {"gradients": gradients, "AdamW's moments": MOMENTS[learn.optimizer] * learnt}


def checkpoint_bytes(shape: Shape, itemsize: int, learn: OptimiserOptions) -> int:
    """A whole model, and what a resumed run needs beside it."""
    state = optimiser_bytes(shape, itemsize, learn)
    return itemsize * shape.parameters + sum(state.values()) - state["gradients"]


def learning_bytes(shape: Shape, tokens: int, itemsize: int, learn: OptimiserOptions) -> int:
    """The most that learning needs for a moment, beside what it keeps: in a pass over so many tokens, or in an optimiser step."""
    return max(
        _pass_bytes(shape, tokens, itemsize, learn),
        0 if learn.lora_rank else itemsize * shape.embedding,  # the embedding's gradient, when the pass is over
        _stepping_bytes(shape, itemsize, learn),
    )


def _pass_bytes(shape: Shape, tokens: int, itemsize: int, learn: OptimiserOptions, gradients: int = 0) -> int:
    """tokens x (layers x what each keeps + the last norm), and the larger of the loss and one layer's backward pass.

    `gradients`: bytes of those that are whole during a layer's backward pass and counted nowhere else.
    """
    layer = activation_bytes(shape, itemsize, learn.lora_rank)
    kept, again = (shape.width * itemsize, layer) if learn.checkpointing else (layer, 0)
    last_norm = shape.width * (4 + itemsize)
    backward = tokens * (again + 3 * shape.feed_forward * itemsize) + gradients  # and of what the layer computed
    loss = loss_bytes(shape, tokens, itemsize, learnt=not learn.lora_rank)
    return tokens * (shape.layers * kept + last_norm) + max(backward, loss)


def activation_bytes(shape: Shape, itemsize: int, rank: int = 0) -> int:
    """Return the bytes that one layer keeps of a token for its backward pass (Transformers' layers with `sod.model.attention`).

    A norm works in float32, so a coarser type has its input once more. Frozen weights need no inputs for gradients of their
    own; each adapter needs its own in float32.
    """
    normed, _ = FAMILIES[shape.family]
    in_norms = 2 * shape.width + (shape.queries + shape.keys if normed else 0)
    norms = in_norms * (4 if rank else 4 + itemsize)  # inputs; and normed, where the scale learns
    attended = (2 * shape.queries + 2 * shape.keys) * itemsize + 4 * shape.heads  # with what was found; softmax's sums
    gated = 3 * shape.feed_forward * itemsize
    if rank and itemsize < 4:
        return norms + attended + gated + 4 * sum(inputs + rank for inputs, _ in shape.projections)
    inputs = 2 * shape.width + shape.queries + shape.feed_forward  # of the four places that linear maps read
    return norms + attended + gated + inputs * itemsize + 4 * rank * len(shape.projections)


def loss_bytes(shape: Shape, tokens: int, itemsize: int, *, learnt: bool) -> int:
    """Of `sod.core.token_loss`: logits of some tokens at a time, hidden states, and the head's gradient where it is learnt."""
    logits = min(tokens, max(1, CHUNK_ELEMENTS // shape.vocabulary)) * shape.vocabulary
    narrow = itemsize if itemsize < 4 else 0
    gradient = (4 + narrow) * shape.embedding if learnt else 0
    return logits * (8 + narrow) + gradient + 2 * tokens * shape.width * itemsize


def _stepping_bytes(shape: Shape, itemsize: int, learn: OptimiserOptions) -> int:
    """Of an optimiser step, beside `optimiser_bytes`: gradients made float32, one type in place of the other, and the roots of
    AdamW's second moments, of all at once (as it works on a GPU)."""
    widened = 0 if learn.lora_rank else 4 - itemsize
    roots = 4 if learn.optimizer == "adamw" else 0
    return (widened + roots) * _learnt(shape, learn)


def _learnt(shape: Shape, learn: OptimiserOptions) -> int:
    return shape.adapters(learn.lora_rank) if learn.lora_rank else shape.parameters


# Learning with several processes: what is learnt is divided among them (PyTorch's FSDP2, docs.pytorch.org/docs/stable/
# distributed.fsdp.fully_shard.html)


def share(size: int, processes: int) -> int:
    """The part of one of them; the first have the larger ones."""
    return -(-size // processes)


def divided_bytes(shape: Shape, processes: int) -> Parts:
    """What each keeps of the learner, by name: (4 + 4 + 8) bytes a weight / processes."""
    state = {"float32 weights": 4, "gradients": 4, "AdamW's moments": MOMENTS["adamw"]}
    return {f"{name}, 1/{processes}": share(size * shape.parameters, processes) for name, size in state.items()}


def gathered_bytes(shape: Shape, itemsize: int) -> int:
    """What is whole for a moment of a divided model: what is outside the layers throughout a pass, and two layers, one that
    computes and one on its way."""
    return itemsize * (shape.outside + 2 * shape.layer)


def divided_learning_bytes(shape: Shape, tokens: int, itemsize: int, learn: OptimiserOptions, processes: int) -> int:
    """As `learning_bytes`, of each of several processes.

    A gradient is computed in the network's type and reduced in float32: a layer's as soon as it is there, those outside the
    layers at the end of the pass. Where the head is the embedding, the embedding's comes beside the head's.
    """
    layer = (itemsize + 4) * shape.layer + itemsize * shape.embedding  # the head's has been there since the loss
    last = (itemsize + 4) * shape.outside + (itemsize * shape.embedding if shape.tied else 0)
    whole = max(_pass_bytes(shape, tokens, itemsize, learn, gradients=layer), last)
    roots = share(4 * shape.parameters, processes)
    return max(gathered_bytes(shape, itemsize) + whole, roots)


def exchanged_bytes(shape: Shape, itemsize: int, processes: int) -> Parts:
    """What each process receives over the wire, by occasion, of the (processes - 1) / processes that it does not have.

    A micro-batch gathers the layers twice, forward and backward, and what is outside them once, in the network's type, and
    reduces gradients in float32; an update gives the copy that samples and scores the new float32 weights. (Rajbhandari et
    al., arXiv 1910.02054, section 7, count the same.)
    """
    others = lambda size: size - share(size, processes)  # noqa: E731
    gathered = itemsize * (2 * shape.layers * shape.layer + shape.outside)
    return {
        "weights, a micro-batch": others(gathered),
        "gradients, a micro-batch": others(4 * shape.parameters),
        "weights, an update": others(4 * shape.parameters),
    }


# Scoring and sampling


def scoring_bytes(shape: Shape, tokens: int, itemsize: int) -> int:
    """Of a forward pass without a gradient: the widest place of one layer, and the logits of some tokens at a time."""
    widest = 3 * shape.width + 3 * shape.feed_forward
    return tokens * widest * itemsize + loss_bytes(shape, tokens, itemsize, learnt=False)


def cache_bytes(shape: Shape, itemsize: int) -> int:
    """Keys and values of one token."""
    return 2 * shape.layers * shape.keys * itemsize


def forward_operations(shape: Shape, tokens: float, length: float) -> float:
    """Floating-point operations of a forward pass over so many tokens, in sequences of `length` tokens on average.

    tokens x 2 x (parameters of linear maps + layers x queries x length): attention sees half of the square, and does two
    products.
    """
    linear = shape.layers * sum(inputs * outputs for inputs, outputs in shape.projections) + shape.embedding
    attention = shape.layers * shape.queries * length
    return tokens * 2 * (linear + attention)


# Whole commands, on the device of one process


def memory_of_fine_tuning(options: SftOptions, shape: Shape, gpu: int | None, processes: int = 1) -> Memory:
    """All that is held at once: `sod sft`. With several processes, each has a whole copy in the computer's memory. `gpu`: its
    memory, where there is one."""
    tokens = max(options.learn.microbatch_tokens, options.max_tokens)
    itemsize = ITEMSIZE[options.network.dtype]
    moment = {_learning_moment(tokens): _learning_bytes(shape, tokens, itemsize, options.learn, processes)}
    learner = _learner(shape, itemsize, options.learn, processes)
    if processes > 1 and gpu:
        return {"learner": learner, "moment": moment}
    return {"student": _whole("model", options.network.dtype, shape), "learner": learner, "moment": moment}


def memory_of_training(
    options: TrainOptions,
    student: Shape,
    teacher: Shape | None,
    gpu: int | None,
    *,
    averaged: bool = False,
    processes: int = 1,
) -> Memory:
    """All that is held at once: `sod train`. `averaged`: the teacher follows the student. `gpu`: its memory, where there is
    one. A teacher on a server takes nothing here."""
    tokens = max(options.learn.microbatch_tokens, longest(options.rollout))
    dtype, itemsize = options.network.dtype, ITEMSIZE[options.network.dtype]
    moments = {_learning_moment(tokens): _learning_bytes(student, tokens, itemsize, options.learn, processes)}
    memory: Memory = {
        "student": _whole("student", dtype, student),
        "learner": _learner(student, itemsize, options.learn, processes),
    }
    if teacher and options.score.teacher_url is None:
        memory["teacher"], moments["the teacher while it scores"] = _teaching(options, teacher, tokens, processes)
        if averaged and ITEMSIZE[teacher_dtype(options)] < 4:
            memory["teacher"]["the teacher's average, float32"] = 4 * teacher.parameters
    memory["sampler"] = _sampling(options, student, gpu)
    memory["moment"] = {", ".join(moments): max(moments.values())}
    return memory


def memory_of_evaluation(options: EvalOptions, model: Shape, teacher: Shape | None, gpu: int | None) -> Memory:
    """All that is held at once: `sod eval`. `gpu`: its memory, where there is one."""
    memory: Memory = {"student": _whole("model", options.network.dtype, model)}
    memory["sampler"] = _sampling(options, model, gpu)
    if teacher and options.score.teacher_url is None:
        tokens = max(options.microbatch_tokens, longest(options.rollout))
        memory["teacher"], moment = _teaching(options, teacher, tokens, 1)
        memory["moment"] = {"for a moment: scoring": moment}
    return memory


def together(memory: Memory) -> Parts:
    """Every part of it by name."""
    return {name: size for parts in memory.values() for name, size in parts.items()}


def sampling_bytes(options: TrainOptions | EvalOptions, shape: Shape) -> tuple[int, int]:
    """The weights that an engine has of its own, if it has any; and keys and values of the longest trajectory."""
    itemsize = ITEMSIZE[options.network.dtype]
    return itemsize * shape.parameters, longest(options.rollout) * cache_bytes(shape, itemsize)


def memory_of_sampling_server(options: TrainOptions, student: Shape, room: int) -> Memory:
    """What a vLLM server needs to sample `room` of the longest trajectories at a time; it takes whatever else there is."""
    weights, trajectory = sampling_bytes(options, student)
    name = f"vLLM: weights, and keys and values of {room} x {longest(options.rollout):,} tokens"
    return {"sampler": {name: weights + room * trajectory}}


def memory_of_teacher_server(options: TrainOptions, teacher: Shape) -> Memory:
    """What a vLLM server needs that scores the longest trajectory (`sod.teachers.server`).

    vLLM makes the logits of all tokens that it reads at a time, and their logarithms in float32, and does not reckon with
    them when it divides its memory (vLLM, pull request 52054).
    """
    dtype, tokens = teacher_dtype(options), longest(options.rollout) + 1
    read = min(tokens, SERVED_TOKENS)
    name = f"vLLM: keys and values of 1 x {tokens:,} tokens"
    kept = _whole("teacher", dtype, teacher) | {name: tokens * cache_bytes(teacher, ITEMSIZE[dtype])}
    logits = read * teacher.vocabulary * (ITEMSIZE[dtype] + 4)
    return {"teacher": kept, "moment": {f"for a moment: logits of {read:,} tokens": logits}}


def longest(rollout: SamplingOptions) -> int:
    """Tokens that a trajectory may have with its prompt."""
    return rollout.max_prompt_tokens + rollout.max_tokens


def _whole(whose: str, dtype: Literal["float32", "bfloat16"], shape: Shape) -> Parts:
    return {f"{whose}, {dtype}": ITEMSIZE[dtype] * shape.parameters}


def _learner(shape: Shape, itemsize: int, learn: OptimiserOptions, processes: int) -> Parts:
    return optimiser_bytes(shape, itemsize, learn) if processes == 1 else divided_bytes(shape, processes)


def _learning_bytes(shape: Shape, tokens: int, itemsize: int, learn: OptimiserOptions, processes: int) -> int:
    if processes == 1:
        return learning_bytes(shape, tokens, itemsize, learn)
    return divided_learning_bytes(shape, tokens, itemsize, learn, processes)


def _learning_moment(tokens: int) -> str:
    return f"for a moment: a pass over {tokens:,} tokens, an optimiser step"


def _teaching(options: TrainOptions | EvalOptions, teacher: Shape, tokens: int, processes: int) -> tuple[Parts, int]:
    """What a teacher here keeps, and what it needs for a moment."""
    dtype = teacher_dtype(options)
    weights, moment = ITEMSIZE[dtype] * teacher.parameters, scoring_bytes(teacher, tokens, ITEMSIZE[dtype])
    if options.score.offload_teacher:
        return {}, moment + weights
    if options.score.shard_teacher and processes > 1:
        kept = {f"teacher, {dtype}, 1/{processes}": share(weights, processes)}
        return kept, moment + gathered_bytes(teacher, ITEMSIZE[dtype])
    return {f"teacher, {dtype}": weights}, moment


def teacher_dtype(options: TrainOptions | EvalOptions) -> Literal["float32", "bfloat16"]:
    """Of the teacher's weights, here or on a server."""
    return options.network.dtype if options.score.teacher_dtype == "same" else options.score.teacher_dtype


def _sampling(options: TrainOptions | EvalOptions, shape: Shape, gpu: int | None) -> Parts:
    """What the engine holds here."""
    rollout, tokens = options.rollout, longest(options.rollout)
    weights, trajectory = sampling_bytes(options, shape)
    engine = ENGINES[options.engine.name]
    if not (engine.is_remote or engine.exchanges_weights):
        return {f"keys and values of {rollout.concurrency} x {tokens:,} tokens": rollout.concurrency * trajectory}
    if engine.is_remote:
        return {}
    if gpu is None:
        return {"vLLM: weights; keys and values not counted, for want of a GPU": weights}
    held = round(options.engine.memory_share * gpu)
    room = max(0, held - weights) / trajectory
    return {f"vLLM: weights, and keys and values of {room:.1f} x {tokens:,} tokens": held}
