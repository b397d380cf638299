"""What a decoder's shape decides: its parameters, the bytes that learning, scoring and sampling take, operations.

Arithmetic alone: a `Shape` and options in, numbers out. All sizes are bytes; `itemsize` is what one number of the network's
type takes. `tests/test_shapes.py` holds them against real models.
"""

from dataclasses import dataclass
from typing import Any

from sod.config import EvalOptions, LearnOptions, RolloutOptions, SftOptions, TrainOptions

ITEMSIZE = {"float32": 4, "bfloat16": 2}
"""Bytes of a number."""
MOMENTS = {"adamw": 8, "adamw_8bit": 2}
"""Bytes of AdamW's two moments of a parameter."""
CHUNK_ELEMENTS = 1 << 26
"""Logits that exist at a time, as in `sod.core.logprobs`, which needs torch."""
FAMILIES = {"qwen3": (True, False), "qwen2": (False, True), "llama": (False, False)}
"""Whether queries and keys have norms of their own, and whether queries, keys and values have a bias."""

Parts = dict[str, int]
"""Bytes by what they are for."""


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
    def parameters(self) -> int:
        normed, biased = FAMILIES[self.family]
        layer = sum(inputs * outputs for inputs, outputs in self.projections) + 2 * self.width
        layer += 2 * self.head_dim if normed else 0
        layer += self.queries + 2 * self.keys if biased else 0
        return self.layers * layer + self.width + (1 if self.tied else 2) * self.embedding

    def adapters(self, rank: int) -> int:
        """Parameters of low-rank differences to every linear map but the head."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.projections)


# Learning


def optimiser_bytes(shape: Shape, itemsize: int, learn: LearnOptions) -> Parts:
    """What learning keeps beside the weights (`sod.policy`), by name.

    With low-rank adapters only they are learnt, in float32; they stand here too.
    """
    learnt, state = _learnt(shape, learn), {}
    if learn.lora_rank:
        state[f"adapters of rank {learn.lora_rank}"] = 4 * learnt
    elif itemsize < 4:
        state["float32 copies"] = 4 * learnt
    gradients = (4 if learn.lora_rank else itemsize) * learnt
    return state | {"gradients": gradients, "AdamW's moments": MOMENTS[learn.optimizer] * learnt}


def checkpoint_bytes(shape: Shape, itemsize: int, learn: LearnOptions) -> int:
    """A whole model, and what a resumed run needs beside it."""
    state = optimiser_bytes(shape, itemsize, learn)
    return itemsize * shape.parameters + sum(state.values()) - state["gradients"]


def learning_bytes(shape: Shape, tokens: int, itemsize: int, learn: LearnOptions) -> int:
    """The most that learning needs for a moment, beside what it keeps: in a pass over so many tokens, or in an optimiser step.

    A pass holds tokens x (layers x what each keeps + the last norm), and the larger of the loss and one layer's backward pass.
    """
    layer = activation_bytes(shape, itemsize, learn.lora_rank)
    kept, again = (shape.width * itemsize, layer) if learn.checkpointing else (layer, 0)
    last_norm = shape.width * (4 + itemsize)
    backward = tokens * (again + 3 * shape.feed_forward * itemsize)  # and gradients of what the layer computed
    learnt = not learn.lora_rank
    return max(
        tokens * (shape.layers * kept + last_norm) + max(backward, loss_bytes(shape, tokens, itemsize, learnt=learnt)),
        itemsize * shape.embedding if learnt else 0,  # the embedding's gradient, when the pass is over
        _stepping_bytes(shape, itemsize, learn),
    )


def activation_bytes(shape: Shape, itemsize: int, rank: int = 0) -> int:
    """What one layer keeps of a token for its backward pass: what autograd saves of Transformers' layers and `sod.attention`.

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


def _stepping_bytes(shape: Shape, itemsize: int, learn: LearnOptions) -> int:
    """Of an optimiser step, beside `optimiser_bytes`: gradients made float32, one type in place of the other, and the roots of
    AdamW's second moments, of all at once (as it works on a GPU)."""
    widened = 0 if learn.lora_rank else 4 - itemsize
    roots = 4 if learn.optimizer == "adamw" else 0
    return (widened + roots) * _learnt(shape, learn)


def _learnt(shape: Shape, learn: LearnOptions) -> int:
    return shape.adapters(learn.lora_rank) if learn.lora_rank else shape.parameters


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


# Whole commands, on one device


def memory_of_fine_tuning(options: SftOptions, shape: Shape) -> Parts:
    """All that is held at once: `sod sft`."""
    tokens = max(options.learn.microbatch_tokens, options.max_tokens)
    return _learning("model", shape, options.network.dtype, tokens, options.learn)


def memory_of_training(
    options: TrainOptions, student: Shape, teacher: Shape | None, gpu: int | None, *, averaged: bool = False
) -> Parts:
    """All that is held at once: `sod train`. `averaged`: the teacher follows the student. `gpu`: its memory, where there is
    one."""
    tokens = max(options.learn.microbatch_tokens, longest(options.rollout))
    parts = _learning("student", student, options.network.dtype, tokens, options.learn)
    name, moment = parts.popitem()
    if teacher:
        dtype = _teacher_dtype(options)
        weights, scoring = ITEMSIZE[dtype] * teacher.parameters, scoring_bytes(teacher, tokens, ITEMSIZE[dtype])
        if options.score.offload_teacher:
            name, moment = f"{name}, the teacher while it scores", max(moment, scoring + weights)
        else:
            parts[f"teacher, {dtype}"], moment = weights, max(moment, scoring)
        if averaged and ITEMSIZE[dtype] < 4:
            parts["the teacher's average, float32"] = 4 * teacher.parameters
    return parts | _sampling(options, student, gpu) | {name: moment}


def memory_of_evaluation(options: EvalOptions, model: Shape, teacher: Shape | None, gpu: int | None) -> Parts:
    """All that is held at once: `sod eval`. `gpu`: its memory, where there is one."""
    parts = {f"model, {options.network.dtype}": ITEMSIZE[options.network.dtype] * model.parameters}
    parts |= _sampling(options, model, gpu)
    if teacher:
        dtype, tokens = _teacher_dtype(options), max(options.microbatch_tokens, longest(options.rollout))
        parts[f"teacher, {dtype}"] = ITEMSIZE[dtype] * teacher.parameters
        parts["scoring, for a moment"] = scoring_bytes(teacher, tokens, ITEMSIZE[dtype])
    return parts


def sampling_bytes(options: TrainOptions | EvalOptions, shape: Shape) -> tuple[int, int]:
    """The weights that an engine has of its own, if it has any; and keys and values of the longest trajectory."""
    itemsize = ITEMSIZE[options.network.dtype]
    return itemsize * shape.parameters, longest(options.rollout) * cache_bytes(shape, itemsize)


def longest(rollout: RolloutOptions) -> int:
    """Tokens that a trajectory may have with its prompt."""
    return rollout.max_prompt_tokens + rollout.max_tokens


def _teacher_dtype(options: TrainOptions | EvalOptions) -> str:
    return options.network.dtype if options.score.teacher_dtype == "same" else options.score.teacher_dtype


def _learning(whose: str, shape: Shape, dtype: str, tokens: int, learn: LearnOptions) -> Parts:
    """What is kept; last, what is needed for a moment."""
    itemsize = ITEMSIZE[dtype]
    kept = {f"{whose}, {dtype}": itemsize * shape.parameters} | optimiser_bytes(shape, itemsize, learn)
    name = f"for a moment: a pass over {tokens:,} tokens, an optimiser step"
    return kept | {name: learning_bytes(shape, tokens, itemsize, learn)}


def _sampling(options: TrainOptions | EvalOptions, shape: Shape, gpu: int | None) -> Parts:
    """What the engine holds here."""
    rollout, tokens = options.rollout, longest(options.rollout)
    weights, trajectory = sampling_bytes(options, shape)
    if options.engine.name == "hf":
        return {f"keys and values of {rollout.concurrency} x {tokens:,} tokens": rollout.concurrency * trajectory}
    if options.engine.name != "vllm":
        return {}
    if gpu is None:
        return {"vLLM: weights; keys and values not counted, for want of a GPU": weights}
    share = round(options.engine.memory_share * gpu)
    room = max(0, share - weights) / trajectory
    return {f"vLLM: weights, and keys and values of {room:.1f} x {tokens:,} tokens": share}
