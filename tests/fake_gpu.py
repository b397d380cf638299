"""A GPU that is not there: tensors that are on cuda:0 for every caller, and on the CPU inside.

    with fake_gpu() as gpu:
        model.to("cuda")                # the product's own code, unchanged
    gpu.counts.waits                    # synchronisations by function of sod: {"engines/drawing.py:draw_tokens": 2}

Numbers are the CPU's. The rules are CUDA's: tensors of two devices do not meet, `.numpy()` is refused, and reading a number back
waits for the GPU. Launches, copies and waits are counted. Attention that PyTorch's CUDA build would compute with a full matrix of
scores raises `QuadraticAttention`: PyTorch takes its fused kernels only for some types, masks and head counts.

Not shown here: real kernels and their numbers, memory, time, NCCL, CUDA graphs.
"""

import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from unittest.mock import patch

import torch
import torch.distributed.checkpoint.filesystem as filesystem
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from transformers import PreTrainedModel, modeling_utils

DEVICE = torch.device("cuda", 0)
MEMORY = 80 << 30
VIEWS = {
    *(
        "view",
        "_unsafe_view",
        "transpose",
        "t",
        "permute",
        "expand",
        "slice",
        "select",
        "unsqueeze",
        "squeeze",
        "split",
    ),
    *(
        "split_with_sizes",
        "detach",
        "alias",
        "as_strided",
        "_reshape_alias",
        "unbind",
        "lift_fresh",
        "unfold",
        "numpy_T",
    ),
    *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"),
}
"""Operations without a kernel."""
WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim"}
"""Operations whose result the CPU reads."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations that accept indices on the CPU, and copy them."""
HALF = (torch.float16, torch.bfloat16)


class QuadraticAttention(AssertionError):
    """PyTorch's CUDA build would compute a matrix of all scores."""


@dataclass
class Counts:
    """What the GPU was asked for, by function of sod."""

    launches: Counter[str] = field(default_factory=Counter)
    """By operation."""
    waits: Counter[str] = field(default_factory=Counter)
    to_gpu: Counter[str] = field(default_factory=Counter)
    from_gpu: Counter[str] = field(default_factory=Counter)
    attention: Counter[str] = field(default_factory=Counter)
    """Calls of attention by kernel: flash, efficient, varlen, varlen_backward."""


class _Tensor(torch.Tensor):
    """A tensor on the GPU. `inner` holds its numbers."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> "_Tensor":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"on the GPU: {self.inner!r}"

    def tolist(self) -> Any:
        FakeGPU.active.counts.waits[_place()] += 1
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:  # type: ignore[override]
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return FakeGPU.active.run(operation, args, kwargs or {})


def on_gpu(tensor: Any) -> bool:
    return isinstance(tensor, _Tensor)


def numbers(tensor: Any) -> Any:
    """Return the tensor on the CPU, without a copy that counts."""
    return tensor.inner if on_gpu(tensor) else tensor


def _place() -> str:
    """Return the innermost function of sod on the stack, such as model/attention.py:attend."""
    frames = [frame for frame in traceback.extract_stack() if "/src/sod/" in frame.filename]
    return f"{frames[-1].filename.partition('/src/sod/')[2]}:{frames[-1].name}" if frames else "elsewhere"


def _wrapped(tree: Any) -> Any:
    return tree_map(lambda each: _Tensor(each) if isinstance(each, Tensor) and not on_gpu(each) else each, tree)


def _device(value: Any) -> torch.device | None:
    """Return the device in an argument. Tensors say "meta" to PyTorch itself."""
    if isinstance(value, str):
        try:
            value = torch.device(value)
        except RuntimeError:  # another string
            return None
    if not isinstance(value, torch.device):
        return None
    return DEVICE if value.type in ("cuda", "meta") else value


class FakeGPU(TorchDispatchMode):
    """The device: runs every operation on the CPU, and counts."""

    active: ClassVar["FakeGPU"]

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()

    def reset(self) -> None:
        self.counts = Counts()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(operation, args, kwargs or {})

    def run(self, operation: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        name = operation._schema.name.partition("::")[2]
        if name in ("_to_copy", "to"):
            return self._moved(args, kwargs)
        if name == "copy_":
            return self._copied(*args)
        flat, _ = tree_flatten((args, kwargs))
        wanted = _device(kwargs.get("device"))
        here = wanted == DEVICE if wanted is not None else any(map(on_gpu, flat))
        if here:
            self._check(name, args, flat)
            self._count(name, args)
        inner = tree_map(numbers, (tuple(args), kwargs))
        if not here:
            return operation(*inner[0], **inner[1])
        return self._computed(operation, name, args, kwargs, inner)

    def _computed(self, operation: Any, name: str, args: Any, kwargs: Any, inner: Any) -> Any:
        given = tree_map(lambda each: torch.device("cpu") if isinstance(each, torch.device) else each, inner[0])
        named = inner[1] | ({"device": "cpu"} if "device" in inner[1] else {})
        if name in SUBSTITUTES:
            return _wrapped(SUBSTITUTES[name](*given, **named))
        if str(operation) == "aten.mm.dtype":
            return _wrapped(given[0].to(given[2]) @ given[1].to(given[2]))
        found = operation(*given, **named)
        if name == "_local_scalar_dense":
            return found
        changed = self._changed(operation, args, kwargs, found)
        return _wrapped(found) if changed is None else changed

    @staticmethod
    def _changed(operation: Any, args: Any, kwargs: Any, found: Any) -> Any:
        """Return the argument that an in-place operation returns, or None."""
        if not operation._schema.is_mutable or not isinstance(found, Tensor):
            return None
        if isinstance(out := kwargs.get("out"), Tensor):
            return out
        written = [
            given
            for given, each in zip(args, operation._schema.arguments, strict=False)
            if each.alias_info is not None and each.alias_info.is_write
        ]
        return next(filter(on_gpu, written), None)

    # Devices

    def _moved(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        source, given = args[0], [*args[1:], *kwargs.values()]
        types = [each for each in given if isinstance(each, torch.dtype)]
        devices = [found for each in given if (found := _device(each)) is not None]
        for other in given:
            if isinstance(other, Tensor):
                types, devices = [other.dtype], [DEVICE if on_gpu(other) else other.device]
        target = devices[0] == DEVICE if devices else on_gpu(source)
        inner = numbers(source).to(types[0] if types else source.dtype, copy=True)
        if target == on_gpu(source):
            if not target:
                return inner
            self.counts.launches["to"] += 1
        elif target:
            self.counts.to_gpu[_place()] += 1
        else:
            self._read_back()
        return _Tensor(inner) if target else inner

    def _copied(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if on_gpu(target) and not on_gpu(source):
            self.counts.to_gpu[_place()] += 1
        elif on_gpu(source) and not on_gpu(target):
            self._read_back()
        elif on_gpu(target):
            self.counts.launches["copy_"] += 1
        numbers(target).copy_(numbers(source))
        return target

    def _read_back(self) -> None:
        self.counts.from_gpu[_place()] += 1
        self.counts.waits[_place()] += 1

    def _check(self, name: str, args: Any, flat: Sequence[Any]) -> None:
        """Raise RuntimeError for tensors of two devices, as CUDA does. A tensor without dimensions is a number."""
        others = [each for each in flat if isinstance(each, Tensor) and not on_gpu(each) and each.dim() > 0]
        if not others or not any(map(on_gpu, flat)):
            return
        if name in INDEXING and on_gpu(args[0]):
            self.counts.to_gpu[_place()] += 1
            return
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} in {_place()}")

    def _count(self, name: str, args: Any) -> None:
        boolean = name == "index" and any(each is not None and each.dtype == torch.bool for each in args[1])
        if name in WAITS or boolean:
            self.counts.waits[_place()] += 1
        if name not in VIEWS:
            self.counts.launches[name] += 1

    # Attention

    def attend(self, query: Tensor, key: Tensor, mask: Tensor | None, *, causal: bool, grouped: bool) -> None:
        """Count a call of PyTorch's attention by the kernel that its CUDA build takes. Raise for a matrix of all scores."""
        assert not torch.backends.cuda.cudnn_sdp_enabled(), "cuDNN builds a plan for every new shape of attention"
        grouped = grouped and query.shape[1] != key.shape[1]
        square = not causal or query.shape[2] == key.shape[2]
        if query.dtype in HALF and mask is None and square and query.shape[-1] <= 256:
            self.counts.attention["flash"] += 1
        elif not grouped and square:
            self.counts.attention["efficient"] += 1
        else:
            what = f"{query.dtype}, {'a mask' if mask is not None else 'no mask'}, {'grouped' if grouped else 'equal'} heads"
            raise QuadraticAttention(f"{_place()}: {tuple(query.shape)} x {tuple(key.shape)}, {what}")


class _Functions(TorchFunctionMode):
    """Functions that choose by the device before an operation is dispatched."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, gpu = dict(kwargs or {}), FakeGPU.active
        if function is torch.nn.functional.scaled_dot_product_attention and on_gpu(args[0]):
            mask = kwargs.get("attn_mask")
            gpu.attend(*args[:2], mask, causal=kwargs["is_causal"], grouped=kwargs.get("enable_gqa", False))
        if function in (torch.tensor, torch.as_tensor) and _device(kwargs.get("device")) == DEVICE:
            gpu.counts.to_gpu[_place()] += 1
            return _Tensor(function(*args, **(kwargs | {"device": "cpu"})))
        if function is torch.Tensor.to and on_gpu(args[0]) and _is_there(args, kwargs):
            return args[0]
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and on_gpu(args[0]):
            args = (args[0], self._indices(args[1]), *args[2:])
        if function is torch.Tensor.pin_memory:
            return args[0]
        if function is not torch.device:
            args, kwargs = tree_map(_with_index, (tuple(args), kwargs))
        return function(*args, **kwargs)

    @staticmethod
    def _indices(index: Any) -> Any:
        """Return the index with lists as tensors, which PyTorch would copy to the device without an operation."""
        parts = [index] if not isinstance(index, tuple) else list(index)
        for at, part in enumerate(parts):
            if isinstance(part, list):
                FakeGPU.active.counts.to_gpu[_place()] += 1
                parts[at] = _Tensor(torch.tensor(part))
        return tuple(parts)


def _with_index(value: Any) -> Any:
    """Return cuda:0 for cuda: without a number, PyTorch asks the driver."""
    return (
        DEVICE
        if (isinstance(value, str) and value == "cuda") or (isinstance(value, torch.device) and value.type == "cuda")
        else value
    )


def _is_there(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Return whether `Tensor.to` changes nothing."""
    given = [*args[1:], *kwargs.values()]
    types = [each for each in given if isinstance(each, torch.dtype)]
    types += [each.dtype for each in given if isinstance(each, Tensor)]
    devices = [found for each in given if (found := _device(each)) is not None]
    devices += [DEVICE if on_gpu(each) else each.device for each in given if isinstance(each, Tensor)]
    return all(each == DEVICE for each in devices) and all(each == args[0].dtype for each in types)


# Attention of several sequences in one call (torch.nn.attention.varlen), which has no kernel for a CPU


def _spans(cu_q: Tensor, cu_k: Tensor) -> Iterator[tuple[slice, slice]]:
    q, k = cu_q.tolist(), cu_k.tolist()
    assert len(q) == len(k)
    for i in range(len(q) - 1):
        yield slice(q[i], q[i + 1]), slice(k[i], k[i + 1])


def _weights(query: Tensor, key: Tensor, scale: float | None, window: Sequence[int] | None) -> Tensor:
    """Return softmax of the scores. (n, heads, d), (m, heads, d) -> (heads, n, m)"""
    new, known = len(query), len(key)
    scores = torch.einsum("qhd,khd->hqk", query.double(), key.double()) * (
        query.shape[-1] ** -0.5 if scale is None else scale
    )
    before, after = window or (-1, -1)
    at, keys = torch.arange(known - new, known)[:, None], torch.arange(known)
    hidden = torch.zeros(new, known, dtype=torch.bool)
    if after >= 0:
        hidden |= keys > at + after
    if before >= 0:
        hidden |= keys < at - before
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    causal: bool = False,
    scale: float | None = None,
    window: Sequence[int] | None = None,
    grouped: bool = False,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    gpu, shared = FakeGPU.active, query.shape[1] // key.shape[1]
    assert query.dtype in HALF, "FlashAttention has no such kernel"
    assert query.shape[-1] <= 256
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert grouped or shared == 1, "grouped heads need enable_gqa"
    gpu.counts.attention["varlen"] += 1
    found = torch.zeros_like(query)
    for q, k in _spans(cu_q, cu_k):
        assert q.stop - q.start <= max_q
        assert k.stop - k.start <= max_k
        keys, values = (each[k].repeat_interleave(shared, 1) for each in (key, value))
        weights = _weights(query[q], keys, scale, window)
        found[q] = torch.einsum("hqk,khd->qhd", weights, values.double()).to(found.dtype)
    return found, torch.zeros(query.shape[1], len(query)), torch.zeros(2, dtype=torch.uint8)


def _varlen_backward(
    of_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    causal: bool,
    state: Tensor,
    scale: float | None = None,
    window: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    FakeGPU.active.counts.attention["varlen_backward"] += 1
    shared, factor = query.shape[1] // key.shape[1], query.shape[-1] ** -0.5 if scale is None else scale
    of_q, of_k, of_v = (torch.zeros_like(each, dtype=torch.double) for each in (query, key, value))
    for q, k in _spans(cu_q, cu_k):
        keys, values = (each[k].repeat_interleave(shared, 1).double() for each in (key, value))
        weights, given = _weights(query[q], keys, scale, window), of_out[q].double()
        of_weights = torch.einsum("qhd,khd->hqk", given, values)
        of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True)) * factor
        of_q[q] = torch.einsum("hqk,khd->qhd", of_scores, keys)
        of_k[k] += torch.einsum("hqk,qhd->khd", of_scores, query[q].double()).unflatten(1, (-1, shared)).sum(2)
        of_v[k] += torch.einsum("hqk,qhd->khd", weights, given).unflatten(1, (-1, shared)).sum(2)
    return of_q.to(query.dtype), of_k.to(key.dtype), of_v.to(value.dtype)


SUBSTITUTES = {"_varlen_attn": _varlen, "_varlen_attn_backward": _varlen_backward}


@contextmanager
def fake_gpu() -> Iterator[FakeGPU]:
    """Make this thread's PyTorch see one GPU of 80 GiB."""
    answers: dict[str, Any] = {
        "is_available": True,
        "_lazy_init": None,
        "device_count": 1,
        "current_device": 0,
        "synchronize": None,
        "empty_cache": None,
        "max_memory_allocated": 0,
        "memory_allocated": 0,
        "reset_peak_memory_stats": None,
        "is_bf16_supported": True,
        "mem_get_info": (MEMORY, MEMORY),
        "is_current_stream_capturing": False,
        "get_device_capability": (9, 0),
    }
    patches = [patch.object(torch.cuda, name, lambda *_, _it=it, **__: _it) for name, it in answers.items()]
    moved = PreTrainedModel.to

    def to_device(model: PreTrainedModel, *args: Any, **kwargs: Any) -> PreTrainedModel:
        """Tie the weights again: PyTorch moves a weight in place, but makes a new one of another class of tensors."""
        found = moved(model, *args, **kwargs)
        found.tie_weights()
        return found

    def device_in_context() -> torch.device | None:
        """Tell Transformers that it builds a model on "meta": it looks at a new tensor, which is on the fake GPU."""
        modes = reversed(_get_current_function_mode_stack())
        return next((mode.device for mode in modes if isinstance(mode, DeviceContext)), None)

    patches.append(patch.object(PreTrainedModel, "to", to_device))
    patches.append(patch.object(modeling_utils, "get_torch_context_manager_or_global_device", device_in_context))
    patches.append(patch.object(filesystem, "_OverlappingCpuLoader", lambda get, **_: filesystem._SerialCpuLoader(get)))
    gpu, cudnn = FakeGPU(), torch.backends.cuda.cudnn_sdp_enabled()
    FakeGPU.active = gpu
    for each in patches:
        each.start()
    try:
        with gpu, _Functions():
            yield gpu
    finally:
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        for each in patches:
            each.stop()
