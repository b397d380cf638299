"""Which way of training fits on given GPUs, and what to type: `sod plan`.

The arithmetic is that of `--dry-run` (`sod.planning.memory`). A way of training is a set of options; its memory is computed from
the options that are printed.
"""

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sod.config import EngineOptions, PlanOptions, RolloutOptions, TrainOptions
from sod.console.progress import say
from sod.errors import ModelError, OptionError
from sod.planning.dry_run import SLACK, Text, columns, serving, usable_bytes, wire
from sod.planning.inventory import (
    ON_HUB,
    Device,
    as_bytes,
    as_count,
    brief,
    check_model,
    find_model,
    imagined_gpus,
    why_no_shape,
)
from sod.planning.memory import (
    Memory,
    Shape,
    longest,
    memory_of_sampling_server,
    memory_of_teacher_server,
    memory_of_training,
    sampling_bytes,
    together,
)

Changes = dict[str, Any]
"""Values of options by their dotted names."""

AMPLE, LEAST = 4, 1
"""The longest trajectories that the sampler is to have room for at a time, if that fits; and at least."""
USUAL_SHARE = EngineOptions().memory_share
"""Largest engine.memory_share that is tried, unless more is needed."""
CONCURRENCY = (64, 32, 16, 8, 4, 2, 1)
"""Trajectories at a time that are tried where Transformers samples."""
PER_MACHINE = 8
"""GPUs; machines with more are rare."""
SHORTEST = 512
"""Tokens of a response below which no shorter one is proposed."""

SPARED: Changes = {"learn.checkpointing": True}
AWAY: Changes = {"score.offload_teacher": True}
NARROW: Changes = {"learn.optimizer": "adamw_8bit"}
LORA: Changes = {"learn.lora_rank": 32, "learn.lr": 1e-5}
SERVED_TEACHER: Changes = {"score.teacher_url": "http://127.0.0.1:8001"}
SERVED_SAMPLER: Changes = {
    "engine.name": "vllm_server",
    "engine.url": "http://127.0.0.1:8000",
    "engine.exchange": Path("/dev/shm"),
}
UNCHANGED = "nothing about learning changes"
COARSE = "all weights learn, with coarser moments"
DIFFERENCE = (
    "no way above fits in which all weights learn; here a low-rank difference does, which is not the paper's experiment"
)


@dataclass(frozen=True, slots=True)
class Way:
    """A way of training."""

    name: str
    why: str
    """What speaks for it, or against it."""
    rungs: tuple[Changes, ...]
    """What it changes; each is tried where the one before does not fit."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A way with options, and what it takes."""

    way: Way
    changes: Changes
    memory: Memory
    """Of the fullest GPU."""
    fits: bool

    @property
    def whole(self) -> int:
        return sum(together(self.memory).values())

    @property
    def processes(self) -> int:
        return self.changes.get("processes", 1)


def show_plan(options: PlanOptions) -> None:
    """Say it. Raises OptionError and ModelError for what cannot be planned with."""
    say(advice(options))


def advice(options: PlanOptions, width: int | None = None) -> str:
    """Every way, what it holds, whether it fits; the best, and what to type. `width`: characters in a line; None is as many as
    the terminal has, and no limit where there is none."""
    case = Case.of(options)
    sized = case.sized()
    best = next((each for each in sized if each.fits), None)
    text = Text("sod plan: arithmetic alone; nothing is loaded, and no GPU is asked.")
    case.describe(text)
    text.add("ways", *_table(case, sized, best))
    text.add("all type", f"sod train {_flags(case.base)}")
    text.add("each", *(f"{number:<2}  {_own(each)}" for number, each in enumerate(sized, 1)))
    if best is None:
        text.add("best", *_shorter(options))
    else:
        text.add("best", f"{sized.index(best) + 1}, {best.way.name}: {best.way.why}.")
        if case.count > PER_MACHINE:
            text.add(
                "best",
                f"All are taken to be in one machine; few have more than {PER_MACHINE}. For several nodes: docs/verl.md.",
            )
        _explain(text, case, best)
    return text.written(width or columns())


# What is asked


@dataclass(frozen=True, slots=True)
class Case:
    """Models, lengths, and where to put them."""

    asked: PlanOptions
    student: Shape
    teacher: Shape | None
    count: int
    """GPUs; 0 is this computer."""
    device: Device

    @classmethod
    def of(cls, asked: PlanOptions) -> "Case":
        count, device = imagined_gpus(asked.gpus)
        teacher = _shape("teacher", asked.teacher) if asked.teacher else None
        case = cls(asked, _shape("student", asked.student), teacher, count, device)
        for whose, shape in (("student", case.student), ("teacher", teacher)):
            if shape and case.tokens > shape.positions:
                raise OptionError(
                    f"A trajectory of {case.tokens:,} tokens with its prompt is too long: the {whose} has "
                    f"{shape.positions:,} positions; lower --max-tokens."
                )
        return case

    @property
    def tokens(self) -> int:
        """Of the longest trajectory, with its prompt."""
        return longest(_train_options(self.base).rollout)

    @property
    def base(self) -> Changes:
        """What is typed in every way."""
        asked, usual = self.asked, RolloutOptions()
        base: Changes = {"student": asked.student}
        base |= {"teacher": asked.teacher} if asked.teacher else {"algorithm.name": "grpo"}
        base |= {"data": Path("PROBLEMS.jsonl"), "out": Path("RUN")}
        if asked.max_tokens != usual.max_tokens:
            base["rollout.max_tokens"] = asked.max_tokens
        if asked.max_prompt_tokens != usual.max_prompt_tokens:
            base["rollout.max_prompt_tokens"] = asked.max_prompt_tokens
        return base | (
            {"network.dtype": "bfloat16", "engine.name": "vllm"} if self.count else {"network.device": "cpu"}
        )

    def describe(self, text: Text) -> None:
        text.add("student", f"{self.asked.student}, {as_count(self.student.parameters)} weights")
        if self.teacher:
            text.add("teacher", f"{self.asked.teacher}, {as_count(self.teacher.parameters)} weights")
        parts = f"a prompt of {self.asked.max_prompt_tokens:,} and a response of {self.asked.max_tokens:,}"
        text.add("length", f"{self.tokens:,} tokens at most: {parts}")
        memory, usable = as_bytes(self.device.memory), as_bytes(usable_bytes(self.device))
        if self.count:
            where = " in one machine" if self.count > 1 else ""
            gpus = f"{self.count} x {self.device.name} of {memory}{where}"
            text.add("on", f"{gpus}, {usable} to plan with ({SLACK:.0%} assumed lost)")
        else:
            text.add("on", f"{self.device.name}, {memory}")

    def sized(self) -> list[Sized]:
        """The ways that there are: more GPUs at work come first, then less that is given up."""
        taught = self.teacher is not None
        problems = _train_options(self.base).rollout.problems
        several = _ways_in_processes(self.count, taught, problems) if self.count > 1 else []
        several += _ways_with_servers(taught) if self.count > 1 else []
        return [self._size(way) for way in (several + _ways_on_one(taught) if self.count else _ways_here(taught))]

    def _size(self, way: Way) -> Sized:
        """With as little changed as fits; if nothing does, with all that the way can change."""
        tried = [
            self._weigh(way, changes)
            for room in (AMPLE, LEAST)
            for rung in way.rungs
            for changes in self._candidates(rung, room)
        ]
        return next((each for each in tried if each.fits), tried[-1])

    def _candidates(self, rung: Changes, room: int) -> Iterator[Changes]:
        """With what the sampler is given: the more, the sooner it is tried."""
        options = _train_options(self.base | rung)
        if options.engine.name == "vllm":
            for share in self._shares(options, room):
                yield rung | ({"engine.memory_share": share} if share != USUAL_SHARE else {})
        elif options.engine.name == "hf":
            yield from (rung | {"rollout.concurrency": count} for count in CONCURRENCY if count >= room)
        else:
            yield rung

    def _shares(self, options: TrainOptions, room: int) -> list[float]:
        """In twentieths: the usual one, and less as long as there is room."""
        weights, trajectory = sampling_bytes(options, self.student)
        needed = min(19, math.ceil(20 * (weights + room * trajectory) / self.device.memory))
        most = max(round(20 * USUAL_SHARE), needed)
        return [twentieths / 20 for twentieths in range(most, needed - 1, -1)]

    def _weigh(self, way: Way, changes: Changes) -> Sized:
        options = _train_options(self.base | changes)
        gpu = self.device.memory if self.count else None
        memories = [memory_of_training(options, self.student, self.teacher, gpu, processes=options.processes or 1)]
        if options.engine.name == "vllm_server":
            memories.append(memory_of_sampling_server(options, self.student, AMPLE))
        if options.score.teacher_url and self.teacher:
            memories.append(memory_of_teacher_server(options, self.teacher))
        fullest = max(memories, key=lambda memory: sum(together(memory).values()))
        return Sized(way, changes, fullest, fits=sum(together(fullest).values()) <= usable_bytes(self.device))


def _shape(whose: str, model: Path) -> Shape:
    found = find_model(model)
    check_model(found)
    if found.is_unsized:
        raise ModelError(f"What the {whose} {model} takes cannot be computed: {why_no_shape(found, whose)}.")
    if found.shape is None:
        raise ModelError(
            f"What the {whose} {model} takes cannot be computed: {found.where}. Known are directories and runs of Qwen3, Qwen2 "
            f"and Llama and, by name, {', '.join(ON_HUB)}. For another name on the hub: `hf download NAME config.json "
            "--local-dir DIR`, and give DIR."
        )
    return found.shape


def _train_options(changes: Changes) -> TrainOptions:
    nested: dict[str, Any] = {}
    for name, value in changes.items():
        section, _, option = name.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[option] = value
    return TrainOptions.model_validate(nested)


# The ways


def _ways_in_processes(gpus: int, taught: bool, problems: int) -> list[Way]:
    """`problems` of an update are shared out whole: there are no more processes than that."""
    count = min(gpus, problems)
    some = f"{count} GPUs sample, score and learn, one for each problem of an update (rollout.problems)"
    every = f"{some if count < gpus else 'every GPU samples, scores and learns'}, and {UNCHANGED}"
    ways = [Way(f"{count} processes", every, _sparing({"processes": count}))]
    if taught:
        divided: Changes = {"processes": count, "score.shard_teacher": True}
        why = f"{every}; a whole teacher does not fit on each"
        ways.append(Way(f"{count}, teacher divided", why, _sparing(divided)))
    if taught and gpus > 2:
        count = min(gpus - 1, problems)
        who = "all GPUs but the teacher's" if count == gpus - 1 else f"{count} GPUs, one for each problem of an update,"
        why = f"{who} sample and learn, the teacher has one of its own, and {UNCHANGED}"
        ways.append(Way(f"{count} + 1 for teacher", why, _sparing({"processes": count} | SERVED_TEACHER)))
    return ways


def _ways_with_servers(taught: bool) -> list[Way]:
    servers = [("vLLM", "sampling", _sparing(SERVED_SAMPLER, taught))]
    servers += [("teacher", "the teacher", _sparing(SERVED_TEACHER))] if taught else []
    own = [(name, f"{who} has a GPU of its own, and", rungs) for name, who, rungs in servers]
    return [
        *(Way(f"1 + 1 for {name}", f"{why} {UNCHANGED}", rungs) for name, why, rungs in own),
        *(Way(f"1 + 1 {name}, 8-bit", f"{why} {COARSE}", _coarse(rungs)) for name, why, rungs in own),
    ]


def _ways_on_one(taught: bool) -> list[Way]:
    rungs = _sparing({}, taught)
    coarse = _coarse(rungs)
    return [
        Way("1 GPU", f"one GPU is enough, and {UNCHANGED}", rungs[:1]),
        Way("1 GPU, spared", f"one GPU is enough, and {UNCHANGED}", rungs[1:]),
        Way("1 GPU, 8-bit AdamW", COARSE, coarse),
        Way("1 GPU, LoRA", DIFFERENCE, tuple(rung | LORA for rung in coarse)),
    ]


def _ways_here(taught: bool) -> list[Way]:
    slow = "processors are slow: try a small model first"
    narrow: Changes = SPARED | {"network.dtype": "bfloat16"}
    coarse = ((SPARED | {"score.teacher_dtype": "bfloat16"}, narrow)) if taught else (narrow,)
    return [
        Way("here", f"{UNCHANGED}, but {slow}", _sparing({})),
        Way("here, bfloat16", f"all weights learn, but {slow}", coarse),
        Way("here, LoRA", DIFFERENCE, (narrow | LORA,)),
    ]


def _sparing(changes: Changes, away: bool = False) -> tuple[Changes, ...]:
    """From more memory to less; `away`: there is a teacher that can be kept off the GPU."""
    rungs = changes, changes | SPARED
    return (*rungs, changes | SPARED | AWAY) if away else rungs


def _coarse(rungs: tuple[Changes, ...]) -> tuple[Changes, ...]:
    """With moments of 8 bits, when all that changes nothing about learning is spared."""
    return tuple(rung | NARROW for rung in rungs[1:])


# In words


def _table(case: Case, sized: Sequence[Sized], best: Sized | None) -> list[str]:
    """GiB of each part, a way a line."""
    heads = {"student": 7, "learner": 8, "teacher": 8, "sampler": 8, "moment": 8}
    unit = "GiB on the fullest GPU" if case.count else "GiB"
    lines = [f"{unit:<23}" + "".join(f"{head:>{width}}" for head, width in heads.items()) + f"{'all':>6}"]
    for number, each in enumerate(sized, 1):
        sizes = {head: sum(parts.values()) for head, parts in each.memory.items()}
        cells = "".join(f"{_gib(sizes[head]) if sizes.get(head) else '-':>{width}}" for head, width in heads.items())
        mark = "*" if each is best else "" if each.fits else "no"
        lines.append(f"{number:<3}{each.way.name:<20}{cells}{_gib(each.whole):>6} {mark}".rstrip())
    several = [f"-  {'several nodes':<20}      -  not computed; with verl: docs/verl.md"] if case.count > 1 else []
    return [*lines, *several, "no: does not fit; *: the first that fits"]


def _gib(size: int) -> str:
    return brief(size / 2**30)


def _own(each: Sized) -> str:
    """What a way adds to the options of all."""
    starter = f"{_starter(each)} ... " if each.processes > 1 else ""
    return starter + _flags(each.changes) or "nothing"


def _explain(text: Text, case: Case, best: Sized) -> None:
    text.add("type", *_commands(case, best))
    text.add("memory", *(f"{as_bytes(size):>9}  {name}" for name, size in together(best.memory).items()))
    text.add("memory", f"{as_bytes(best.whole):>9}  at most, at once")
    if best.processes > 1:
        text.add("wire", *wire(_train_options(case.base | best.changes), case.student, best.processes))


def _commands(case: Case, best: Sized) -> list[str]:
    """What to type, a server first."""
    command = f"{_starter(best)} {_flags(case.base | best.changes)}"
    server = _server(case, best.changes)
    if not server:
        return [f"$ {command}"]
    started, *note = server
    visible = ",".join(map(str, range(best.processes)))
    return [f"$ CUDA_VISIBLE_DEVICES={best.processes} {started}", *note, f"$ CUDA_VISIBLE_DEVICES={visible} {command}"]


def _starter(each: Sized) -> str:
    return f"torchrun --nproc-per-node {each.processes} -m sod train" if each.processes > 1 else "sod train"


def _server(case: Case, changes: Changes) -> tuple[str, ...]:
    """How the server that a way needs is started, and what else is to be known; nothing if it needs none."""
    if "engine.url" in changes:
        return (
            "VLLM_SERVER_DEV_MODE=1 PYTHONPATH=FOLDER python -m vllm.entrypoints.openai.api_server "
            f"--model {case.asked.student} --load-format dummy --dtype bfloat16 --max-model-len {case.tokens} "
            "--generation-config vllm --host 127.0.0.1 --worker-extension-cls vllm_worker.WeightSync",
            "FOLDER holds a copy of src/sod/engines/vllm_worker.py and nothing else",
        )
    if case.teacher and "score.teacher_url" in changes:
        options = _train_options(case.base | changes)
        memory = memory_of_teacher_server(options, case.teacher)
        unknown = sum(memory["moment"].values()) / case.device.memory
        return (
            f"{serving(str(case.asked.teacher), options)} "
            f"--gpu-memory-utilization {math.floor(20 * (1 - SLACK - unknown)) / 20:g}",
        )
    return ()


def _flags(changes: Changes) -> str:
    """As they are typed."""
    words: list[str] = []
    for name, value in changes.items():
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else [shlex.quote(str(value))]
    return " ".join(words)


def _shorter(asked: PlanOptions) -> list[str]:
    """What to try where nothing fits."""
    tokens = asked.max_tokens // 2
    while tokens >= SHORTEST:
        shorter = asked.model_copy(update={"max_tokens": tokens})
        if any(each.fits for each in Case.of(shorter).sized()):
            models = " ".join(shlex.quote(str(model)) for model in (asked.student, asked.teacher) if model)
            return [
                "nothing fits; shorter responses do:",
                f"$ sod plan {models} --gpus {asked.gpus} --max-tokens {tokens}",
            ]
        tokens //= 2
    return ["nothing fits, however short the responses: a smaller student or teacher, or larger GPUs"]
