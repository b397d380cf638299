"""The text of `sod plan`: which training set-ups fit on given GPUs, and the command for the best one."""

import math
import shlex
from collections.abc import Sequence

from sod.config import PlanOptions
from sod.console.progress import echo
from sod.planning.budgets import (
    by_part,
    memory_of_teacher_server,
)
from sod.planning.estimates import SLACK, offloaded, usable_bytes, wire
from sod.planning.fitting import Case, Sized, train_options
from sod.planning.inventory import (
    as_bytes,
    as_count,
    as_time,
    brief,
)
from sod.planning.memory import MODEL_FAMILIES, Shape
from sod.planning.setups import Changes
from sod.planning.teacher_servers import exchanged_tokens, serving
from sod.planning.text import Text, columns

PER_MACHINE = 8
"""Usual maximum number of GPUs in a machine."""
SHORTEST = 512
"""Shortest response that is proposed, in tokens."""


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
    _describe(text, case, options)
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


def _describe(text: Text, case: Case, asked: PlanOptions) -> None:
    text.add("student", f"{case.asked.student}, {as_count(case.student.parameters)} weights")
    for route, teacher in case.routed:
        where = f", on the server {route.url}; its memory is not counted" if route.url else ""
        text.add("teacher", f"{route.model}, {as_count(teacher.parameters)} weights{where}")
    parts = f"a prompt of {case.asked.max_prompt_tokens:,} and a response of {case.asked.max_tokens:,}"
    lowered = "" if asked is case.asked else "; the defaults exceed the positions of the model"
    text.add("length", f"{case.tokens:,} tokens at most: {parts}{lowered}")
    memory, usable = as_bytes(case.device.memory), as_bytes(usable_bytes(case.device))
    if case.count:
        where = " in one machine" if case.count > 1 else ""
        gpus = f"{case.count} x {case.device.name} of {memory}{where}"
        text.add("device", f"{gpus}, {usable} usable ({SLACK:.0%} assumed lost)")
    else:
        text.add("device", f"{case.device.name}, {memory}")


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
    updates = train_options(case.base).updates
    elsewhere = "; without the seconds of the teachers' servers" if any(route.url for route, _ in case.routed) else ""
    lines = [f"estimated, not measured: an update by phase, and a run of {updates:,} updates{elsewhere}"]
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
    options = train_options(case.base | best.changes)
    text.add("memory", *offloaded(options, case.teachers))
    if best.processes > 1:
        text.add("traffic", *wire(options, case.student, best.processes))
    if options.score.teacher_url or options.score.teacher_urls:
        text.add("served", *exchanged_tokens(options))


def _commands(case: Case, best: Sized) -> list[str]:
    """Return the commands to type, a server first."""
    command = f"{_starter(best)} {_flags(case.base | best.changes)}"
    server = _server(case, best.changes)
    if not server:
        return [*_teachers_servers(case, best.changes), f"$ {command}"]
    started, *note = server
    visible = ",".join(map(str, range(best.processes)))
    before = [*_teachers_servers(case, best.changes), f"$ CUDA_VISIBLE_DEVICES={best.processes} {started}", *note]
    return [*before, f"$ CUDA_VISIBLE_DEVICES={visible} {command}"]


def _teachers_servers(case: Case, changes: Changes) -> list[str]:
    """Return the commands that start the servers of several teachers."""
    options = train_options(case.base | changes)
    found = {route.url: (route, route.score(options.score)) for route, _ in case.routed if route.url}
    return [
        f"on the server's machine: $ {serving(str(route.model), options.model_copy(update={'score': score}))}"
        for route, score in found.values()
    ]


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
        options = train_options(case.base | changes)
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
            models += (
                f" --score.teacher-urls {shlex.join(asked.score.teacher_urls)}" if asked.score.teacher_urls else ""
            )
            return [
                "no set-up fits; with shorter responses one does:",
                f"$ sod plan {models} --gpus {asked.gpus} --max-tokens {tokens}",
            ]
        tokens //= 2
    return ["No set-up fits, even with short responses. Give a smaller student or teacher, or larger GPUs."]
