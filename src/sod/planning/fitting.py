"""Which set-ups fit: the models and GPUs of a plan, and the memory and time of each set-up with its final options.

The arithmetic is that of `--dry-run` (`sod.planning.memory`). Memory is computed from the options that are printed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sod.config import EngineOptions, PlanOptions, RolloutOptions, TrainOptions
from sod.config.teachers import REST, Route, routes_of, with_servers
from sod.errors import ModelError, OptionError
from sod.model.lengths import capped
from sod.planning.budgets import (
    Memory,
    by_part,
    longest,
    memory_of_sampling_server,
    memory_of_teacher_server,
    memory_of_training,
    sampling_bytes,
    vllm_bytes,
)
from sod.planning.checks import is_address
from sod.planning.estimates import largest, usable_bytes
from sod.planning.inventory import (
    ON_HUB,
    Device,
    check_model,
    find_model,
    imagined_gpus,
    measure,
    why_no_shape,
)
from sod.planning.memory import ITEMSIZE, AnyShape, Shape, type_of
from sod.planning.setups import (
    Changes,
    Way,
    ways_here,
    ways_in_processes,
    ways_on_one,
    ways_with_servers,
)
from sod.planning.timing import Seconds, seconds_of_update

AMPLE, LEAST = 4, 1
"""Number of longest trajectories that the sampler has room for: the number tried first, and the minimum."""
USUAL_SHARE = EngineOptions().memory_share
"""Largest engine.memory_share to try, unless more is needed."""
CONCURRENCY = (64, 32, 16, 8, 4, 2, 1)
"""Values of rollout.concurrency to try if Transformers samples."""
LARGER_SHARES = (0.5, 0.6, 0.7, 0.8)
"""Values of engine.memory_share above the default to try, where the time of an update can be estimated."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A set-up with its final options and their memory."""

    way: Way
    changes: Changes
    memory: Memory
    """Memory of the fullest GPU."""
    fits: bool
    seconds: Seconds | None = None
    """Estimated seconds of an update by phase; None for a GPU with unknown rates."""

    @property
    def whole(self) -> int:
        return sum(by_part(self.memory).values())

    @property
    def estimate(self) -> float:
        """Return the estimated seconds of an update, 0 if they are not known."""
        return sum((self.seconds or {}).values())

    @property
    def gpus(self) -> int:
        """Return the number of GPUs in use: one for each process, and one for a server."""
        return self.processes + ("engine.url" in self.changes or "score.teacher_url" in self.changes)

    @property
    def processes(self) -> int:
        return self.changes.get("processes", 1)


@dataclass(frozen=True, slots=True)
class Case:
    """The models, lengths and GPUs to plan for."""

    asked: PlanOptions
    student: AnyShape
    routed: tuple[tuple[Route, AnyShape], ...]
    """Each teacher once."""
    count: int
    """Number of GPUs; 0 for this computer's memory."""
    device: Device

    @classmethod
    def of(cls, asked: PlanOptions) -> "Case":
        count, device = imagined_gpus(asked.gpus)
        if asked.teacher and asked.teachers:
            raise OptionError("TEACHER and --teachers both name a teacher. Give one of the two.")
        routed = tuple((route, _shape("teacher", route.model)) for route in _routes(asked))
        student = _shape("student", asked.student)
        shapes = [("student", student), *(("teacher", shape) for _, shape in routed)]
        case = cls(_fitting(asked, [shape for _, shape in shapes]), student, routed, count, device)
        for whose, shape in shapes:
            if case.tokens > shape.positions:
                raise OptionError(
                    f"A trajectory of {case.tokens:,} tokens with its prompt is too long: the {whose} has "
                    f"{shape.positions:,} positions. Lower --max-tokens."
                )
        return case

    @property
    def teachers(self) -> list[AnyShape]:
        """Return the teachers that are loaded here. `setups` may put a single one on a server."""
        return [shape for route, shape in self.routed if route.url is None]

    @property
    def tokens(self) -> int:
        """Return the number of tokens of the longest trajectory with its prompt."""
        return longest(train_options(self.base).rollout)

    @property
    def base(self) -> Changes:
        """Return the options that all set-ups have in common."""
        asked, usual = self.asked, RolloutOptions()
        base: Changes = {"student": asked.student}
        if asked.teachers:
            base["teachers"] = asked.teachers
            base |= {"score.teacher_urls": asked.score.teacher_urls} if asked.score.teacher_urls else {}
        else:
            base |= {"teacher": asked.teacher} if asked.teacher else {"algorithm.name": "grpo"}
        base |= {"data": Path("PROBLEMS.jsonl"), "out": Path("RUN")}
        if asked.max_tokens != usual.max_tokens:
            base["rollout.max_tokens"] = asked.max_tokens
        if asked.max_prompt_tokens != usual.max_prompt_tokens:
            base["rollout.max_prompt_tokens"] = asked.max_prompt_tokens
        return base | (
            {"network.dtype": "bfloat16", "engine.name": "vllm"} if self.count else {"network.device": "cpu"}
        )

    def sized(self) -> list[Sized]:
        """Return the set-ups, those with more GPUs in use first, then those that change less."""
        taught, served = bool(self.teachers), bool(self.asked.teacher)
        problems = train_options(self.base).rollout.problems
        several = (
            ways_in_processes(self.count, taught, problems, served) if self.count > 1 and self.student.packs else []
        )
        if not all(teacher.packs for teacher in self.teachers):
            several = [way for way in several if "score.shard_teacher" not in way.rungs[0]]
        several += ways_with_servers(taught, served) if self.count > 1 else []
        return [self._size(way) for way in (several + ways_on_one(taught) if self.count else ways_here(taught))]

    def _size(self, way: Way) -> Sized:
        """Return a set-up with the first options that fit, or with its last ones if none fit."""
        tried = [
            self._weigh(way, changes)
            for room in (AMPLE, LEAST)
            for rung in way.rungs
            for changes in self._candidates(rung, room)
        ]
        fitting = [each for each in tried if each.fits]
        if not fitting:
            return min(tried, key=lambda each: each.whole)
        return min(fitting, key=lambda each: each.estimate)

    def _candidates(self, rung: Changes, room: int) -> Iterator[Changes]:
        """Yield the options with the sampler's part added, from more room to less."""
        options = train_options(self.base | rung)
        if options.engine.name == "vllm":
            for share in self._shares(options, room):
                yield rung | ({"engine.memory_share": share} if share != USUAL_SHARE else {})
        elif options.engine.name == "hf":
            yield from (rung | {"rollout.concurrency": count} for count in CONCURRENCY if count >= room)
        else:
            yield rung

    def _shares(self, options: TrainOptions, room: int) -> list[float]:
        """Return values of engine.memory_share: from the default in steps of 1/20 down to the smallest with enough room, the
        smallest in steps of 1/100, then larger ones."""
        weights, trajectory = sampling_bytes(options, self.student)
        others = vllm_bytes(self.student, ITEMSIZE[type_of(options.network)])
        least = (weights + others + room * trajectory) / self.device.memory
        needed = min(19, math.ceil(20 * least))
        most = max(round(20 * USUAL_SHARE), needed)
        larger = [share for share in LARGER_SHARES if 20 * share > most] if self.device.bandwidth else []
        smallest = [math.ceil(100 * least) / 100] if math.ceil(100 * least) < 5 * needed else []
        return [twentieths / 20 for twentieths in range(most, needed - 1, -1)] + smallest + larger

    def _weigh(self, way: Way, changes: Changes) -> Sized:
        options = train_options(self.base | changes)
        gpu = self.device.memory if self.count else None
        memories = [memory_of_training(options, self.student, self.teachers, gpu, processes=options.processes or 1)]
        if options.engine.name == "vllm_server":
            memories.append(memory_of_sampling_server(options, self.student, AMPLE))
        if options.score.teacher_url:
            memories += [memory_of_teacher_server(options, teacher) for teacher in self.teachers]
        fullest = max(memories, key=lambda memory: sum(by_part(memory).values()))
        fits = sum(by_part(fullest).values()) <= usable_bytes(self.device)
        seconds, scorer = None, largest(self.teachers)
        if isinstance(self.student, Shape) and (scorer is None or isinstance(scorer, Shape)):
            seconds = seconds_of_update(options, self.student, scorer, self.device, options.processes or 1)
        return Sized(way, changes, fullest, fits, seconds)


def _routes(asked: PlanOptions) -> list[Route]:
    """Return the teachers, each once. Raise OptionError for a server that has no teacher."""
    routes = with_servers(routes_of(asked.teachers), asked.score.teacher_urls)
    if asked.teacher:
        routes = [Route(REST, asked.teacher)]
    for route in routes:
        if route.url is not None and not is_address(route.url):
            raise OptionError(
                f"score.teacher_urls: {route.url!r} is not the address of a server. Write it like http://127.0.0.1:8001."
            )
    return list({(each.model, each.url, each.served_name): each for each in routes}.values())


def _fitting(asked: PlanOptions, shapes: Sequence[AnyShape]) -> PlanOptions:
    """Return the options with default lengths that fit the models, as `sod train` caps them."""
    lengths = {"max_tokens", "max_prompt_tokens"}
    rollout = RolloutOptions.model_validate({name: getattr(asked, name) for name in lengths & asked.model_fields_set})
    fitting = capped(rollout, [shape.positions for shape in shapes])
    return asked if fitting is rollout else asked.model_copy(update=fitting.model_dump(include=lengths))


def _shape(whose: str, model: Path) -> AnyShape:
    found = find_model(model)
    check_model(found)
    found = measure(found)
    if found.is_unsized:
        raise ModelError(
            f"The memory of the {whose} {model} cannot be computed: {why_no_shape(found, whose)}. Give a model of another type."
        )
    if found.shape is None:
        raise ModelError(
            f"The memory of the {whose} {model} cannot be computed: {found.where}. Give a directory or a run, or one of "
            f"{', '.join(ON_HUB)}. For another name on the hub, type `hf download NAME config.json "
            "--local-dir DIR` and give DIR."
        )
    return found.shape


def train_options(changes: Changes) -> TrainOptions:
    nested: dict[str, Any] = {}
    for name, value in changes.items():
        section, _, option = name.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[option] = value
    # What auto becomes on a CPU. Set-ups for GPUs name both.
    nested["network"] = {"dtype": "float32"} | nested.get("network", {})
    nested["engine"] = {"name": "hf"} | nested.get("engine", {})
    return TrainOptions.model_validate(nested)
