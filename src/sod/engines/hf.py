"""Sample with Transformers, in this process, with the policy's own weights. No weights are copied or synchronised.

Each running trajectory has a slot in one key-value cache and keeps it while its tools run, so a turn only costs its new
tokens. Every forward pass packs end to end the newest token of each running request and all new tokens of joining requests.
Requests therefore join and leave between any two tokens, without waiting for others. A prefix that is already cached in
another slot is copied from there, so a group's prompt is read once.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sod.engines import Reply, Request
from sod.engines.drawing import draw_tokens
from sod.model.caching import cache_for
from sod.model.forward import end_ids, logits_of
from sod.processes.concurrency import compute


@dataclass(slots=True, eq=False)
class _Job:
    """A running or waiting request."""

    request: Request
    ids: list[int]
    """All tokens so far: the request's and the sampled ones."""
    ends: frozenset[int]
    """Ids that end the turn."""
    future: "asyncio.Future[Reply]"
    rng: random.Random
    slot: int = -1
    read: int = 0
    """Number of tokens of `ids` with keys and values in the slot, or in a copy pending before the next pass."""
    logprobs: list[float] = field(default_factory=list)

    def accept(self, token: int, logprob: float) -> bool:
        """Append a token. Return True if it was the last."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        return token in self.ends or len(self.logprobs) >= self.request.max_tokens

    def reply(self) -> Reply:
        stop = "stop" if self.ids[-1] in self.ends else "length"
        return Reply(tuple(self.ids[-len(self.logprobs) :]), tuple(self.logprobs), stop)


class HFEngine:
    """Engine on a Transformers model.

    `slots`: number of trajectories with a cache. With more trajectories, the longest idle one loses its cache and is read
    again.
    """

    PASS_TOKENS = 8192
    """New tokens of joining requests that one pass reads; further requests join the next pass."""
    SMALL_PASS = 2e8
    """Parameters times tokens below which a pass uses one processor. A second processor would save a tenth of the time, and
    would delay the tools while it waits for the first."""
    WORTH_SHARING = 16
    """Fewest tokens of a common prefix with a joining prompt for which a request waits one pass and copies them."""

    def __init__(self, model: PreTrainedModel, *, slots: int, context: int | None = None):
        self._model = model
        self._parameters = model.num_parameters()
        self._ends = end_ids(model)
        self._cache = cache_for(model, slots, context)
        self._cached: list[list[int]] = [[] for _ in range(slots)]
        """Tokens that each slot's keys and values were computed from."""
        self._copies: list[tuple[int, int, int]] = []
        """(source slot, target slot, tokens) copies pending before the next pass."""
        self._owner: OrderedDict[int, int] = OrderedDict()  # trajectory -> slot, least recently used first
        self._free = list(reversed(range(slots)))
        self._waiting: list[_Job] = []
        self._busy: dict[int, _Job] = {}
        self._busy_seconds = 0.0
        self._loop: asyncio.Task[None] | None = None

    async def sample(self, request: Request) -> Reply:
        future = asyncio.get_running_loop().create_future()
        job = _Job(request, list(request.ids), request.ends(self._ends), future, random.Random(request.seed))
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
            self._free.append(slot)

    def take_busy_seconds(self) -> float:
        seconds, self._busy_seconds = self._busy_seconds, 0.0
        return seconds

    async def refresh(self) -> None:
        assert not self._busy, "weights may only change while no request runs"
        self._forget()
        self._cache.clear()

    async def close(self) -> None:
        pass

    async def _run(self) -> None:
        """Sample one token for every busy slot per pass, until no request is left."""
        try:
            while self._waiting or self._busy:
                self._admit()
                jobs = sorted(self._busy.values(), key=lambda job: len(job.ids) - job.read > 1)
                for job, token, logprob in zip(jobs, *await compute(self._pass, jobs), strict=True):
                    cached = self._cached[job.slot]
                    cached[job.read :] = job.ids[job.read :]
                    job.read = len(job.ids)
                    if self._busy.get(job.slot) is job and job.accept(token, logprob):
                        del self._busy[job.slot]
                        if not job.future.done():
                            job.future.set_result(job.reply())
                await asyncio.sleep(0)
        except Exception as error:  # any failure of the model is raised in every waiting request
            for job in [*self._waiting, *self._busy.values()]:
                if not job.future.done():
                    job.future.set_exception(error)
            self._waiting, self._busy = [], {}
            self._forget()  # a failed forward pass may have written some of its keys

    def _admit(self) -> None:
        """Assign slots to waiting jobs, up to the token limit of one pass."""
        joining: list[_Job] = []
        room = self.PASS_TOKENS
        for job in self._waiting.copy():
            slot = self._slot_for(job.request)
            if slot is None:
                continue
            known, donor = self._known(slot, job.ids)
            promised = max((self._promised(other.ids, job.ids) for other in joining), default=0)
            if promised >= known + self.WORTH_SHARING or (joining and len(job.ids) - known > room):
                continue
            if donor != slot:
                self._copies.append((donor, slot, known))
                self._cached[slot] = self._cached[donor][:known]
            job.slot, job.read = slot, known
            self._busy[slot] = job
            self._waiting.remove(job)
            joining.append(job)
            room -= len(job.ids) - known

    def _slot_for(self, request: Request) -> int | None:
        """Return the slot of the request's trajectory, a free one, or the longest idle one; None if all are busy."""
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

    def _known(self, slot: int, ids: list[int]) -> tuple[int, int]:
        """Return the number of cached tokens and their slot: the own slot, if it has any, otherwise the best other one."""
        own = self._usable(slot, ids)
        if own:
            return own, slot
        return max((self._usable(other, ids), other) for other in range(len(self._cached)))

    def _usable(self, slot: int, ids: list[int]) -> int:
        """Return the number of tokens of `ids` to continue from in a slot. A slot that waits for a copy holds other tokens."""
        if any(target == slot for _, target, _ in self._copies):
            return 0
        return self._cache.usable(slot, _common_prefix(self._cached[slot], ids))

    def _promised(self, joining: list[int], ids: list[int]) -> int:
        return self._cache.promised(len(joining), _common_prefix(joining, ids))

    @torch.inference_mode()
    def _pass(self, jobs: list[_Job]) -> tuple[list[int], list[float]]:
        """Run one forward pass over the unread tokens and sample one token per job. -> tokens, log-probabilities"""
        start = time.perf_counter()
        copies, self._copies = self._copies, []
        for copy in copies:  # in order: a slot may be a source before it is a target
            self._cache.copy(*copy)
        news = [job.ids[job.read :] for job in jobs]
        with _processors(1 if self._parameters * sum(map(len, news)) < self.SMALL_PASS else None):
            hidden_SD = self._cache.read([job.slot for job in jobs], [job.read for job in jobs], news)
            drawn = self._draw(jobs, hidden_SD)
        self._busy_seconds += time.perf_counter() - start
        return drawn

    def _draw(self, jobs: list[_Job], hidden_ND: Tensor) -> tuple[list[int], list[float]]:
        """Sample one token per job, with the job's own random generator. -> tokens, log-probabilities"""
        return draw_tokens(
            logits_of(self._model, hidden_ND),
            [job.request.temperature for job in jobs],
            [job.request.top_p for job in jobs],
            [job.rng.random() for job in jobs],
        )

    def _drop(self, job: _Job) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
        if self._busy.get(job.slot) is job:
            del self._busy[job.slot]

    def _forget(self) -> None:
        self._cached = [[] for _ in self._cached]


@contextmanager
def _processors(count: int | None) -> Iterator[None]:
    """Use this number of threads inside the block; None keeps the current number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _common_prefix(cached: list[int], ids: list[int]) -> int:
    """Return the length of the common prefix. The last token of `ids` never counts, because its hidden state is needed."""
    low, high = 0, min(len(cached), len(ids) - 1)
    while low < high:
        middle = (low + high + 1) // 2
        if cached[low:middle] == ids[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
