"""Compute parameters, bytes for training, scoring and sampling, and operations from a decoder's shape.

This is arithmetic on a `Shape` and options. All sizes are bytes; `itemsize` is the size of one number of the network's type.
`tests/test_shapes.py` compares the results with real models.
"""

from dataclasses import dataclass
from typing import Any

from sod.config import ModelOptions, OptimiserOptions
from sod.planning.measured import MeasuredShape

ITEMSIZE = {"float32": 4, "bfloat16": 2}
"""Bytes of a number."""
MOMENTS = {"adamw": 8, "adamw_8bit": 2}
"""Bytes of AdamW's two moments per parameter."""
CHUNK_ELEMENTS = 1 << 26
"""Largest number of logits at a time on a CPU. Copied from `sod.core.logprobs`, which needs torch; so are the next three."""
GPU_ROWS, SMALL_GPU, BYTES_PER_LOGIT = 4096, 32 << 30, 128
"""On a GPU: tokens whose logits are held at a time, and the bytes beyond a small GPU's memory for each logit."""
MODEL_FAMILIES = {"qwen3": (True, False), "qwen2": (False, True), "llama": (False, False)}
"""Model type -> (queries and keys are normalised, queries, keys and values have a bias)."""

Parts = dict[str, int]
"""Bytes of each part, by its name."""


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


AnyShape = Shape | MeasuredShape
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
