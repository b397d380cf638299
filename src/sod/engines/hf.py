"""Samples with Transformers, in this process, on the policy's own weights: nothing to copy, nothing to keep in step.

Each trajectory under way has a slot in one key-value cache and keeps it while its tools run, so that a turn costs its new
tokens and nothing more. Requests join and leave between any two tokens. Decoding runs all slots at once while most are
busy, and gathers the busy ones otherwise.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sod.engines import Reply, Request
from sod.models import head


@dataclass(slots=True)
class _Job:
    """A request being written."""

    request: Request
    future: "asyncio.Future[Reply]"
    rng: random.Random
    slot: int = -1
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def reply(self) -> Reply | None:
        """The finished reply, None while there is more to write."""
        if self.tokens and self.tokens[-1] == self.request.stop:
            return Reply(tuple(self.tokens), tuple(self.logprobs), "stop")
        if len(self.tokens) >= self.request.max_tokens:
            return Reply(tuple(self.tokens), tuple(self.logprobs), "length")
        return None


class HFEngine:
    """`slots`: trajectories whose cache is kept at a time; with more under way, the longest idle one is computed anew."""

    JOIN_SHARE = 8
    """Newcomers wait until they are 1/JOIN_SHARE of the busy slots, or this many tokens have passed: a forward pass for
    one newcomer costs almost as much as one for all."""

    def __init__(self, model: PreTrainedModel, *, slots: int):
        self._model = model
        self._cache = _SlotCache(slots)
        self._cached: list[list[int]] = [[] for _ in range(slots)]
        self._owner: OrderedDict[int, int] = OrderedDict()  # trajectory -> slot, least recently used first
        self._free = list(reversed(range(slots)))
        self._waiting: list[_Job] = []
        self._busy: dict[int, _Job] = {}
        self._since_join = 0
        self._busy_seconds = 0.0
        self._loop: asyncio.Task[None] | None = None

    async def sample(self, request: Request) -> Reply:
        job = _Job(request, asyncio.get_running_loop().create_future(), random.Random(request.seed))
        self._waiting.append(job)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._run())
        try:
            return await job.future
        except asyncio.CancelledError:
            self._drop(job)
            raise

    def release(self, trajectory: int) -> None:
        slot = self._owner.pop(trajectory, None)
        if slot is not None:
            self._cached[slot] = []
            self._free.append(slot)

    def take_busy_seconds(self) -> float:
        seconds, self._busy_seconds = self._busy_seconds, 0.0
        return seconds

    def refresh(self) -> None:
        assert not self._busy, "weights may change only while nothing is being written"
        self._cached = [[] for _ in self._cached]

    async def _run(self) -> None:
        """One token for every busy slot, again and again, until nobody asks for more."""
        try:
            while self._waiting or self._busy:
                start = time.perf_counter()
                if not self._join() and self._busy:
                    self._decode()
                self._busy_seconds += time.perf_counter() - start
                await asyncio.sleep(0)
        except Exception as error:  # whatever breaks the model must reach everyone who waits for it
            for job in [*self._waiting, *self._busy.values()]:
                if not job.future.done():
                    job.future.set_exception(error)
            self._waiting, self._busy = [], {}
            self.refresh()  # a forward pass that failed may have left half of its keys behind

    def _join(self) -> bool:
        """Give waiting jobs their slots, and read what is new to the cache in one forward pass. -> whether any joined"""
        self._since_join += 1
        enough = len(self._waiting) * self.JOIN_SHARE >= len(self._busy) or self._since_join > self.JOIN_SHARE
        if not self._waiting or not enough:
            return False
        self._since_join = 0
        joined = []
        while self._waiting and (slot := self._slot_for(self._waiting[0].request)) is not None:
            job = self._waiting.pop(0)
            job.slot = slot
            self._busy[slot] = job
            joined.append(job)
        if not joined:
            return False
        starts = [_common_prefix(self._cached[job.slot], job.request.ids) for job in joined]
        news = [list(job.request.ids[start:]) for job, start in zip(joined, starts, strict=True)]
        hidden_ND = self._forward([job.slot for job in joined], starts, news)
        for job in joined:
            self._cached[job.slot] = list(job.request.ids)
        self._draw(joined, hidden_ND)
        return True

    def _slot_for(self, request: Request) -> int | None:
        """The slot of the request's trajectory, or a free one, or the longest idle one; None if all are busy."""
        trajectory = request.trajectory if request.trajectory is not None else id(request)
        if trajectory not in self._owner:
            if not self._free:
                idle = next((owner for owner, slot in self._owner.items() if slot not in self._busy), None)
                if idle is None:
                    return None
                self.release(idle)
            self._owner[trajectory] = self._free.pop()
        self._owner.move_to_end(trajectory)
        slot = self._owner[trajectory]
        return None if slot in self._busy else slot

    def _decode(self) -> None:
        jobs = list(self._busy.values())
        # A slot's cache holds everything but the newest token.
        slots = [job.slot for job in jobs]
        starts = [len(self._cached[slot]) for slot in slots]
        hidden_ND = self._forward(slots, starts, [[job.tokens[-1]] for job in jobs])
        for job in jobs:
            self._cached[job.slot].append(job.tokens[-1])
        self._draw(jobs, hidden_ND)

    @torch.inference_mode()
    def _forward(self, slots: list[int], starts: list[int], news: list[list[int]]) -> Tensor:
        """Read `news[i]` into slot `slots[i]` from position `starts[i]` on. -> last hidden state of each, (N, D)"""
        device = self._model.device
        width = max(map(len, news))
        rows = self._cache.select(slots, capacity=max(starts) + width, device=device, dense=width == 1)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        positions = torch.full((len(rows), 1), self._cache.scratch)
        where = {slot: i for i, slot in enumerate(rows)}
        index = [where[slot] for slot in slots]
        for i, start, new in zip(index, starts, news, strict=True):
            ids[i, : len(new)] = torch.tensor(new)
            positions[i] = start
        positions = (positions + torch.arange(width)).to(device)
        mask = torch.arange(self._cache.length, device=device) <= positions[:, None, :, None]
        self._cache.positions = positions
        hidden = self._model.base_model(
            input_ids=ids.to(device),
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return hidden[index, [len(new) - 1 for new in news]]

    @torch.inference_mode()
    def _draw(self, jobs: list[_Job], hidden_ND: Tensor) -> None:
        """Sample one token for each job, by inverting its distribution at the next number of its own generator."""
        logits_NV = (hidden_ND @ head(self._model).T).float()
        temperature = torch.tensor([[job.request.temperature] for job in jobs], device=logits_NV.device)
        logprobs_NV = (logits_NV / temperature).log_softmax(-1)
        probs_NV = _nucleus(logprobs_NV.exp(), [job.request.top_p for job in jobs])
        cumulative_NV = probs_NV.double().cumsum(-1)
        draws = torch.tensor([[job.rng.random()] for job in jobs], dtype=torch.double, device=logits_NV.device)
        tokens_N = torch.searchsorted(cumulative_NV, draws * cumulative_NV[:, -1:], right=True)[:, 0]
        tokens_N = tokens_N.clamp(max=logits_NV.shape[1] - 1)
        chosen_N = logprobs_NV.gather(1, tokens_N[:, None])[:, 0]
        for job, token, logprob in zip(jobs, tokens_N.tolist(), chosen_N.tolist(), strict=True):
            job.tokens.append(token)
            job.logprobs.append(logprob)
            if (reply := job.reply()) is not None:
                del self._busy[job.slot]
                if not job.future.done():
                    job.future.set_result(reply)

    def _drop(self, job: _Job) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
        if self._busy.get(job.slot) is job:
            del self._busy[job.slot]


def _common_prefix(cached: list[int], ids: Sequence[int]) -> int:
    """Tokens of `ids` that need not be read again; at least the last one is, since its hidden state is wanted."""
    length = min(len(cached), len(ids) - 1)
    if cached[:length] == list(ids[:length]):
        return length
    return next(i for i in range(length) if cached[i] != ids[i])


def _nucleus(probs_NV: Tensor, top_p: list[float]) -> Tensor:
    """The likeliest tokens up to a mass of top_p, the one that crosses it included; the others get 0."""
    if min(top_p) >= 1:
        return probs_NV
    ordered_NV, order_NV = probs_NV.sort(-1, descending=True)
    before_NV = ordered_NV.cumsum(-1) - ordered_NV
    limit_N1 = torch.tensor(top_p, device=probs_NV.device)[:, None]
    ordered_NV = ordered_NV.masked_fill(before_NV >= limit_N1, 0)
    return torch.zeros_like(probs_NV).scatter_(1, order_NV, ordered_NV)


class _SlotCache:
    """Keys and values of all slots, (slots, heads, capacity, head_dim) for each layer.

    Transformers' attention calls `update` with the new keys and values of the selected rows and attends to what it
    returns; what each row may see is the attention mask's business.
    """

    def __init__(self, slots: int):
        self._slots = slots
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._rows: slice | Tensor = slice(0)
        self._index = torch.zeros(0, dtype=torch.long)
        self._capacity = 0
        self.length = 0
        """Positions that the selected rows attend over."""
        self.positions = torch.zeros(0, 0, dtype=torch.long)

    @property
    def scratch(self) -> int:
        """A position behind all others, for rows that have nothing to say."""
        return self._capacity

    def select(self, slots: list[int], *, capacity: int, device: torch.device, dense: bool) -> list[int]:
        """Choose the rows of the next forward pass, and make room for `capacity` tokens. -> the slot of each row

        With `dense`, all slots up to the highest are chosen if at least half of them are asked for: idle rows are
        computed in vain, and write to the scratch position, but nothing is gathered.
        """
        self.length = capacity
        if capacity > self._capacity:
            self._grow(max(capacity, 2 * self._capacity, 64))
        highest = max(slots) + 1
        if dense and 2 * len(slots) >= highest:
            rows = list(range(highest))
            self._rows = slice(0, highest)
        else:
            rows = slots
            self._rows = torch.tensor(slots, device=device)
        self._index = torch.tensor(rows, device=device)[:, None]
        return rows

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """(rows, heads, new, head_dim) in; everything that the rows have, (rows, heads, length, head_dim), out."""
        del args, kwargs
        if layer not in self._layers:
            _, heads, _, width = keys.shape
            shape = (self._slots, heads, self._capacity + 1, width)
            self._layers[layer] = (keys.new_zeros(shape), values.new_zeros(shape))
        all_keys, all_values = self._layers[layer]
        all_keys[self._index, :, self.positions] = keys.transpose(1, 2)
        all_values[self._index, :, self.positions] = values.transpose(1, 2)
        return all_keys[self._rows, :, : self.length], all_values[self._rows, :, : self.length]

    def _grow(self, capacity: int) -> None:
        pad = capacity - self._capacity
        self._layers = {
            layer: (torch.nn.functional.pad(keys, (0, 0, 0, pad)), torch.nn.functional.pad(values, (0, 0, 0, pad)))
            for layer, (keys, values) in self._layers.items()
        }
        self._capacity = capacity
