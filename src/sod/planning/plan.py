"""Compute which training set-ups fit on given GPUs, and the command for the best one: `sod plan`.

The arithmetic is that of `--dry-run` (`sod.planning.memory`). A set-up (`Way`) is a set of options; its memory is computed from
the options that are printed.
"""

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sod.config import EngineOptions, PlanOptions, RolloutOptions, TrainOptions
from sod.config.teachers import routes_of
from sod.console.progress import echo
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
from sod.planning.estimates import SLACK, largest, offloaded, usable_bytes, wire
from sod.planning.inventory import (
    ON_HUB,
    Device,
    as_bytes,
    as_count,
    as_time,
    brief,
    check_model,
    find_model,
    imagined_gpus,
    measure,
    why_no_shape,
)
from sod.planning.memory import ITEMSIZE, MODEL_FAMILIES, AnyShape, Shape, type_of
from sod.planning.teacher_servers import exchanged_tokens, serving
from sod.planning.text import Text, columns
from sod.planning.timing import Seconds, seconds_of_update

Changes = dict[str, Any]
"""Values of options by their dotted names."""

AMPLE, LEAST = 4, 1
"""Number of longest trajectories that the sampler has room for: the number tried first, and the minimum."""
USUAL_SHARE = EngineOptions().memory_share
"""Largest engine.memory_share to try, unless more is needed."""
CONCURRENCY = (64, 32, 16, 8, 4, 2, 1)
"""Values of rollout.concurrency to try if Transformers samples."""
PER_MACHINE = 8
"""Usual maximum number of GPUs in a machine."""
SHORTEST = 512
"""Shortest response that is proposed, in tokens."""

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
LARGER_SHARES = (0.5, 0.6, 0.7, 0.8)
"""Values of engine.memory_share above the default to try, where the time of an update can be estimated."""
UNCHANGED = "the training is unchanged"
COARSE = "all weights are trained, with 8-bit AdamW moments"
DIFFERENCE = "no set-up that trains all weights fits; LoRA adapters fit, but this is not the paper's experiment"


@dataclass(frozen=True, slots=True)
class Way:
    """A training set-up."""

    name: str
    why: str
    """Its advantages or disadvantages."""
    rungs: tuple[Changes, ...]
    """Alternative sets of options, in order. Each is tried if the one before does not fit, or to find a faster one."""

    @property
    def level(self) -> int:
        """Return how much the set-up changes the training: 0 for nothing, 1 for rounding, 2 for LoRA."""
        return 2 if DIFFERENCE in self.why else 0 if UNCHANGED in self.why else 1


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


def show_plan(options: PlanOptions) -> None:
    """Print the plan. Raise OptionError or ModelError for GPUs or models that cannot be planned with."""
    echo(advice(options))


def advice(options: PlanOptions, width: int | None = None) -> str:
    """Return the plan: every set-up, its memory, whether it fits; the best one and its command.

    `width`: characters in a line. Default: the terminal's width, or no limit without a terminal.
    """
    case = Case.of(options)
    sized = case.sized()
    best = min((each for each in sized if each.fits), key=lambda each: (each.way.level, each.estimate), default=None)
    text = Text("sod plan: computed only; nothing is loaded, and no GPU is used.")
    case.describe(text, options)
    text.add("set-ups", *_table(case, sized, best))
    text.add("common", f"sod train {_flags(case.base)}")
    text.add("options", *(f"{number:<2}  {_own(each)}" for number, each in enumerate(sized, 1)))
    if best is None:
        text.add("choice", *_shorter(options))
    else:
        text.add("choice", f"{sized.index(best) + 1}, {best.way.name}: {best.way.why}.")
        text.add("time", *_times(case, sized))
        if case.count > PER_MACHINE:
            text.add(
                "choice",
                f"This assumes one machine, and few have more than {PER_MACHINE} GPUs. For several nodes: docs/verl.md.",
            )
        _explain(text, case, best)
    return text.written(width or columns())


# The question


@dataclass(frozen=True, slots=True)
class Case:
    """The models, lengths and GPUs to plan for."""

    asked: PlanOptions
    student: AnyShape
    teachers: tuple[AnyShape, ...]
    """Of each model once."""
    count: int
    """Number of GPUs; 0 for this computer's memory."""
    device: Device

    @classmethod
    def of(cls, asked: PlanOptions) -> "Case":
        count, device = imagined_gpus(asked.gpus)
        if asked.teacher and asked.teachers:
            raise OptionError("TEACHER and --teachers both name a teacher. Give one of the two.")
        teachers = tuple(_shape("teacher", model) for model in _models(asked))
        student = _shape("student", asked.student)
        case = cls(_fitting(asked, [student, *teachers]), student, teachers, count, device)
        for whose, shape in (("student", student), *(("teacher", each) for each in teachers)):
            if case.tokens > shape.positions:
                raise OptionError(
                    f"A trajectory of {case.tokens:,} tokens with its prompt is too long: the {whose} has "
                    f"{shape.positions:,} positions. Lower --max-tokens."
                )
        return case

    @property
    def tokens(self) -> int:
        """Return the number of tokens of the longest trajectory with its prompt."""
        return longest(_train_options(self.base).rollout)

    @property
    def base(self) -> Changes:
        """Return the options that all set-ups have in common."""
        asked, usual = self.asked, RolloutOptions()
        base: Changes = {"student": asked.student}
        if asked.teachers:
            base["teachers"] = asked.teachers
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

    def describe(self, text: Text, asked: PlanOptions) -> None:
        text.add("student", f"{self.asked.student}, {as_count(self.student.parameters)} weights")
        for model, teacher in zip(_models(self.asked), self.teachers, strict=True):
            text.add("teacher", f"{model}, {as_count(teacher.parameters)} weights")
        parts = f"a prompt of {self.asked.max_prompt_tokens:,} and a response of {self.asked.max_tokens:,}"
        lowered = "" if asked is self.asked else "; the defaults exceed the positions of the model"
        text.add("length", f"{self.tokens:,} tokens at most: {parts}{lowered}")
        memory, usable = as_bytes(self.device.memory), as_bytes(usable_bytes(self.device))
        if self.count:
            where = " in one machine" if self.count > 1 else ""
            gpus = f"{self.count} x {self.device.name} of {memory}{where}"
            text.add("device", f"{gpus}, {usable} usable ({SLACK:.0%} assumed lost)")
        else:
            text.add("device", f"{self.device.name}, {memory}")

    def sized(self) -> list[Sized]:
        """Return the set-ups, those with more GPUs in use first, then those that change less."""
        taught, served = bool(self.teachers), bool(self.asked.teacher)
        problems = _train_options(self.base).rollout.problems
        several = (
            _ways_in_processes(self.count, taught, problems, served) if self.count > 1 and self.student.packs else []
        )
        if not all(teacher.packs for teacher in self.teachers):
            several = [way for way in several if "score.shard_teacher" not in way.rungs[0]]
        several += _ways_with_servers(taught, served) if self.count > 1 else []
        return [self._size(way) for way in (several + _ways_on_one(taught) if self.count else _ways_here(taught))]

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
        options = _train_options(self.base | rung)
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
        options = _train_options(self.base | changes)
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


def _models(asked: PlanOptions) -> list[Path]:
    """Return the models of the teachers, each once."""
    routes = [route.model for route in routes_of(asked.teachers)]
    return list(dict.fromkeys([asked.teacher] if asked.teacher else routes))


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


def _train_options(changes: Changes) -> TrainOptions:
    nested: dict[str, Any] = {}
    for name, value in changes.items():
        section, _, option = name.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[option] = value
    # What auto becomes on a CPU. Set-ups for GPUs name both.
    nested["network"] = {"dtype": "float32"} | nested.get("network", {})
    nested["engine"] = {"name": "hf"} | nested.get("engine", {})
    return TrainOptions.model_validate(nested)


# The set-ups


def _ways_in_processes(gpus: int, taught: bool, problems: int, served: bool) -> list[Way]:
    """Return the set-ups with several processes: at most one per problem of an update, because problems are not divided.

    `served`: the teacher may be on a server, which is for one teacher.
    """
    count = min(gpus, problems)
    some = f"{count} GPUs sample, score and train, one for each problem of an update (rollout.problems)"
    every = f"{some if count < gpus else 'every GPU samples, scores and trains'}, and {UNCHANGED}"
    ways = [Way(f"{count} processes", every, _sparing({"processes": count}))]
    if taught:
        divided: Changes = {"processes": count, "score.shard_teacher": True}
        why = f"{every}; an unsharded teacher does not fit on each"
        ways.append(Way(f"{count}, teacher sharded", why, _sparing(divided)))
    if served and gpus > 2:
        count = min(gpus - 1, problems)
        who = "all other GPUs" if count == gpus - 1 else f"{count} GPUs, one for each problem of an update,"
        why = f"the teacher has a GPU of its own, {who} sample and train, and {UNCHANGED}"
        ways.append(Way(f"{count} + 1 for teacher", why, _sparing({"processes": count} | SERVED_TEACHER)))
    return ways


def _ways_with_servers(taught: bool, served: bool) -> list[Way]:
    servers = [("vLLM", "sampling", _sparing(SERVED_SAMPLER, taught))]
    servers += [("teacher", "the teacher", _sparing(SERVED_TEACHER))] if served else []
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
        Way("1 GPU, checkpointing", f"one GPU is enough, and {UNCHANGED}", rungs[1:]),
        Way("1 GPU, 8-bit AdamW", COARSE, coarse),
        Way("1 GPU, LoRA", DIFFERENCE, tuple(rung | LORA for rung in coarse)),
    ]


def _ways_here(taught: bool) -> list[Way]:
    slow = "CPUs are slow: try a small model first"
    narrow: Changes = SPARED | {"network.dtype": "bfloat16"}
    coarse = ((SPARED | {"score.teacher_dtype": "bfloat16"}, narrow)) if taught else (narrow,)
    return [
        Way("CPU", f"{UNCHANGED}, but {slow}", _sparing({})),
        Way("CPU, bfloat16", f"all weights are trained, but {slow}", coarse),
        Way("CPU, LoRA", DIFFERENCE, (narrow | LORA,)),
    ]


def _sparing(changes: Changes, away: bool = False) -> tuple[Changes, ...]:
    """Return options from more memory to less. `away`: the last ones keep the teacher off the GPU."""
    rungs = changes, changes | SPARED
    return (*rungs, changes | SPARED | AWAY) if away else rungs


def _coarse(rungs: tuple[Changes, ...]) -> tuple[Changes, ...]:
    """Return the memory-saving options (all except the first ones) with 8-bit AdamW in addition."""
    return tuple(rung | NARROW for rung in rungs[1:])


# The text


def _table(case: Case, sized: Sequence[Sized], best: Sized | None) -> list[str]:
    """Return the table of set-ups: GiB of each part."""
    heads = {"student": 7, "learner": 8, "teacher": 8, "sampler": 8, "peak": 8}
    unit = "GiB on the fullest GPU" if case.count else "GiB"
    lines = [f"{unit:<23}" + "".join(f"{head:>{width}}" for head, width in heads.items()) + f"{'total':>6}"]
    for number, each in enumerate(sized, 1):
        sizes = {head: sum(parts.values()) for head, parts in each.memory.items()}
        cells = "".join(f"{_gib(sizes[head]) if sizes.get(head) else '-':>{width}}" for head, width in heads.items())
        mark = "*" if each is best else "" if each.fits else "no"
        lines.append(f"{number:<3}{each.way.name:<20}{cells}{_gib(each.whole):>6} {mark}".rstrip())
    several = [f"-  {'several nodes':<20}      -  not computed; with verl: docs/verl.md"] if case.count > 1 else []
    star = "the first set-up that fits"
    if case.device.bandwidth:
        star = "the set-up that fits, changes least and has the shortest estimated update"
    return [*lines, *several, f"no: does not fit; *: {star}"]


def _times(case: Case, sized: Sequence[Sized]) -> list[str]:
    """Return the estimated time of each set-up that fits, and its cost with --price."""
    timed = [(number, each, each.seconds) for number, each in enumerate(sized, 1) if each.fits and each.seconds]
    if not timed and not isinstance(case.student, Shape):
        return [f"not estimated: operations are counted for models of type {', '.join(MODEL_FAMILIES)} only"]
    if not timed:
        return (
            ["not estimated: the speed of this device is not tabled; give a kind, such as H100"] if case.count else []
        )
    updates = _train_options(case.base).updates
    lines = [f"estimated, not measured: an update by phase, and a run of {updates:,} updates"]
    for number, each, seconds in timed:
        phases = ", ".join(f"{name} {as_time(part)}" for name, part in seconds.items() if part >= 0.1)
        hours = each.estimate * updates / 3600
        cost = "" if case.asked.price is None else f", cost {case.asked.price * hours * each.gpus:,.0f}"
        lines.append(f"{number:<2}  {as_time(each.estimate)} ({phases}); {as_time(3600 * hours)}{cost}")
    return lines


def _gib(size: int) -> str:
    return brief(size / 2**30)


def _own(each: Sized) -> str:
    """Return the command or options that a set-up adds to the common options."""
    starter = f"{_starter(each)} ... " if each.processes > 1 else ""
    return starter + _flags(each.changes) or "nothing"


def _explain(text: Text, case: Case, best: Sized) -> None:
    text.add("run", *_commands(case, best))
    if not case.count and "network.dtype" not in best.changes:
        text.add(
            "speed",
            "--network.dtype fastest takes bfloat16 where the processor computes in it: 1.4 to 1.8 times as fast",
        )
    text.add("memory", *(f"{as_bytes(size):>9}  {name}" for name, size in by_part(best.memory).items()))
    text.add("memory", f"{as_bytes(best.whole):>9}  total at the peak")
    options = _train_options(case.base | best.changes)
    text.add("memory", *offloaded(options, case.teachers))
    if best.processes > 1:
        text.add("traffic", *wire(options, case.student, best.processes))
    if options.score.teacher_url:
        text.add("served", *exchanged_tokens(options))


def _commands(case: Case, best: Sized) -> list[str]:
    """Return the commands to type, a server first."""
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
    """Return the command that starts the set-up's server, and a note. Return () if it needs no server."""
    if "engine.url" in changes:
        return (
            "VLLM_SERVER_DEV_MODE=1 PYTHONPATH=FOLDER python -m vllm.entrypoints.openai.api_server "
            f"--model {case.asked.student} --load-format dummy --dtype bfloat16 --max-model-len {case.tokens} "
            "--generation-config vllm --host 127.0.0.1 --worker-extension-cls vllm_worker.WeightSync",
            "FOLDER must hold a copy of src/sod/engines/vllm_worker.py and nothing else.",
        )
    if "score.teacher_url" in changes:
        options = _train_options(case.base | changes)
        memory = memory_of_teacher_server(options, case.teachers[0])
        unknown = sum(memory["peak"].values()) / case.device.memory
        return (
            f"{serving(str(case.asked.teacher), options)} "
            f"--gpu-memory-utilization {math.floor(20 * (1 - SLACK - unknown)) / 20:g}",
        )
    return ()


def _flags(changes: Changes) -> str:
    """Return the options as they are typed."""
    words: list[str] = []
    for name, value in changes.items():
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else map(shlex.quote, map(str, value if isinstance(value, tuple) else [value]))
    return " ".join(words)


def _shorter(asked: PlanOptions) -> list[str]:
    """Return what to try if no set-up fits."""
    tokens = asked.max_tokens // 2
    while tokens >= SHORTEST:
        shorter = asked.model_copy(update={"max_tokens": tokens})
        if any(each.fits for each in Case.of(shorter).sized()):
            models = shlex.join(str(model) for model in (asked.student, asked.teacher) if model)
            models += f" --teachers {shlex.join(asked.teachers)}" if asked.teachers else ""
            return [
                "no set-up fits; with shorter responses one does:",
                f"$ sod plan {models} --gpus {asked.gpus} --max-tokens {tokens}",
            ]
        tokens //= 2
    return ["No set-up fits, even with short responses. Give a smaller student or teacher, or larger GPUs."]
