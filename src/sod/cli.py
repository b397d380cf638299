"""The command line: `sod COMMAND [RECIPE.toml ...] [--option value ...]`.

Options come from `sod.config`, in this order: defaults, recipes from left to right, the command line. Nothing heavy is
imported before it is clear what to do.
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from difflib import get_close_matches
from importlib import import_module
from inspect import getdoc
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from sod import __version__, interrupts
from sod.console import screen
from sod.console.text import plain
from sod.distributed import place
from sod.errors import InfrastructureError, OptionError, RankError, SodError, UsageError
from sod.recipes import read_recipe

COMMANDS = {
    "lab demo": (
        "DemoOptions",
        "sod.compare.cells:compare",
        "the whole method in miniature: cold start, SOD, before and after",
    ),
    "lab make": ("LabOptions", "sod.lab.make:make", "write the lab's models, tokenizer, problems and demonstrations"),
    "lab teacher": ("LabTeacherOptions", "sod.lab.make:make_teacher", "train the lab's teacher again, from nothing"),
    "sft": ("SftOptions", "sod.sft:sft", "cold start: fine-tune on demonstrations"),
    "train": ("TrainOptions", "sod.training:train", "learn on policy: sod, opd, grpo and controls"),
    "eval": (
        "EvalOptions",
        "sod.evaluation.evaluate:evaluate_and_show",
        "measure a model: avg@n, pass@k, maj@n, tool errors",
    ),
    "eval --compare": (
        "CompareEvaluationsOptions",
        "sod.evaluation.paired:compare_evaluations",
        "two evaluations, paired by problem",
    ),
    "rollout": (
        "RolloutCommandOptions",
        "sod.evaluation.demonstrations:demonstrate",
        "write a model's best trajectories as demonstrations",
    ),
    "export": ("ExportOptions", "sod.export:export", "a Hugging Face folder with a card"),
    "data list": ("DataListOptions", "sod.datasets.commands:list_sets", "benchmarks and training sets known by name"),
    "data fetch": ("FetchOptions", "sod.datasets.commands:fetch", "fetch them from the hub, pinned and checked"),
    "data convert": ("ConvertOptions", "sod.datasets.commands:convert", "a published file in our columns"),
    "data check": ("CheckOptions", "sod.datasets.commands:check", "every row of a file; rejects to another"),
    "data describe": ("DescribeOptions", "sod.datasets.commands:describe", "kinds, sources, lengths in tokens"),
    "data decontaminate": (
        "DecontaminateOptions",
        "sod.datasets.commands:decontaminate",
        "leave out what overlaps with benchmarks",
    ),
    "data split": ("SplitOptions", "sod.datasets.commands:split", "training and validation"),
    "data mix": ("MixOptions", "sod.datasets.commands:mix", "several files by weight"),
    "compare": (
        "CompareOptions",
        "sod.compare.cells:compare",
        "methods head to head: equal budgets, several seeds, intervals",
    ),
    "plan": (
        "PlanOptions",
        "sod.planning.plan:show_plan",
        "which way of training fits: memory on given GPUs, and what to type",
    ),
    "report": ("ReportOptions", "sod.report:report", "one page about one or more runs: figures, every trajectory"),
    "calibrate": (
        "CalibrateOptions",
        "sod.evaluation.calibrate:calibrate",
        "does a low weight mark bad advice? the teacher goes on itself",
    ),
    "doctor": ("DoctorOptions", "sod.doctor:doctor", "check this machine: sandbox, hostile programs, judges, speed"),
}
RESUMED = ("sft", "train")
"""Commands that continue with --resume."""
CONTINUED = ("lab demo", "lab teacher", "eval", "rollout", "compare", "data fetch")
"""Commands that continue when they are run again."""
HELP = ("-h", "--help", "help")
EXIT_USAGE, EXIT_FAILED, EXIT_TRY_AGAIN, EXIT_INTERRUPTED = 2, 1, 75, 130


def main(arguments: Sequence[str] | None = None) -> None:
    screen.install()
    try:
        status = run(list(sys.argv[1:] if arguments is None else arguments))
    finally:  # also after --help, which exits
        if why := screen.lost():
            sys.exit(_complain(why, EXIT_FAILED))
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Do what the arguments say. -> the exit status"""
    with interrupts.obeyed():
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    command, options = None, None
    try:
        _check_place()
        if arguments == ["--version"]:
            print(f"sod {__version__}")
            return 0
        command, rest = _split(arguments)
        if command is None:
            print(overview())
            return 0
        name, target, _ = COMMANDS[command]
        with _hushed() if place()[0] else nullcontext():  # of several processes, the first says what is wrong with them
            options = parse(command, name, rest)
        if place()[1] > 1 and "processes" not in type(options).model_fields:
            raise OptionError(f"`sod {command}` is one process; start it without torchrun.")
        if place()[0] == 0:  # of several processes, another that failed sooner would end the first before its sentence
            from sod.planning.inputs import check_inputs

            check_inputs(options)
        if command in (*RESUMED, *CONTINUED, "calibrate"):
            screen.report_failures()
        module, function = target.split(":")
        getattr(import_module(module), function)(options)
        return 0
    except UsageError as error:
        return _complain(error, EXIT_USAGE)
    except InfrastructureError as error:
        return _complain(error, EXIT_TRY_AGAIN)
    except SodError as error:
        return _complain(error, EXIT_FAILED)
    except interrupts.Terminated as error:
        return _complain(f"{error}; {_how_to_continue(command, arguments, options)}", EXIT_TRY_AGAIN)
    except KeyboardInterrupt:
        return _complain(f"interrupted; {_how_to_continue(command, arguments, options)}", EXIT_INTERRUPTED)
    except OSError as error:  # of a path too long, a disk that is full or gone: of the machine, not of sod
        where = f"{error.filename}: " if error.filename is not None else ""
        return _complain(f"{where}{error.strerror or error}", EXIT_FAILED)


def _check_place() -> None:
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UsageError("The working directory does not exist any more. Change to another one.") from error


def _how_to_continue(command: str | None, arguments: Sequence[str], options: Any) -> str:
    """What to type after an interruption."""
    count = place()[1]
    start = f"torchrun --nproc-per-node {count} -m sod" if count > 1 else "sod"
    again = f"{start} {shlex.join(arguments)}"
    if command in CONTINUED:
        return f"to continue: {again}"
    if command in RESUMED and options is not None and (options.out / "options.json").exists():
        return f"to continue: {again}{'' if options.resume else ' --resume'}"
    return f"nothing of it is kept; to start again: {again}"


def overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {command:<{width}}  {help}" for command, (_, _, help) in COMMANDS.items()]
    return "\n".join(
        [
            "sod: step-wise on-policy distillation for small tool-using language models",
            "",
            "usage: sod COMMAND [RECIPE.toml ...] [--option value ...]",
            "",
            *lines,
            "",
            "`sod COMMAND --help` explains every option, with its unit and default.",
        ]
    )


def parse(command: str, name: str, arguments: list[str]) -> Any:
    """The options of a command, from recipes and flags."""
    os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")  # an address says nothing about the user's mistake
    import tyro

    from sod import config
    from sod.hub import anchored

    recipes = list(takewhile(_is_recipe, arguments))
    flags = arguments[len(recipes) :]
    for before, argument in pairwise(flags):
        if _is_recipe(argument) and not before.startswith("--"):
            raise OptionError(f"Recipes come first: sod {command} {' '.join([*recipes, argument])} --option value ...")
    model = getattr(config, name)
    from_recipes = [part for recipe in recipes for part in recipe_arguments(Path(recipe), model, flags)]
    words = [anchored(word) for word in (*from_recipes, *flags)]
    return tyro.cli(model, prog=f"sod {command}", description=getdoc(model), args=words)


def _is_recipe(argument: str) -> bool:
    return argument.endswith(".toml") and not argument.startswith("-")


def recipe_arguments(recipe: Path, model: Any, flags: Sequence[str]) -> list[str]:
    """A recipe's keys as flags, without those that the command line gives itself."""
    content = read_recipe(recipe)
    known = dict(_keys(model))
    given = {flag.partition("=")[0].lstrip("-").replace("-", "_") for flag in flags if flag.startswith("--")}
    arguments: list[str] = []
    for key, value in _flatten(content):
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise OptionError(f"{recipe}: {key} is not an option" + (f"; did you mean {near[0]}?" if near else "."))
        switch = key.rpartition(".")
        off = f"{switch[0]}{switch[1]}no_{switch[2]}"
        if key in given or off in given:
            continue
        if known[key] is bool and isinstance(value, bool):
            arguments.append(f"--{key if value else off}")
        else:
            arguments += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return arguments


def _split(arguments: list[str]) -> tuple[str | None, list[str]]:
    for words in (2, 1):
        command = " ".join(arguments[:words])
        if command in COMMANDS:
            if command == "eval" and "--compare" in arguments:
                raise OptionError("--compare comes first and by itself: sod eval --compare RUN RUN.")
            return command, arguments[words:]
    groups = {command.split()[0] for command in COMMANDS} - COMMANDS.keys()
    if not arguments or arguments[0] in HELP or (arguments[0] in groups and arguments[1:] in ([], ["-h"], ["--help"])):
        return None, []
    tried = " ".join(arguments[:2]) if arguments[0] in groups else arguments[0]
    near = get_close_matches(tried, COMMANDS, n=1)
    raise OptionError(
        f"{tried!r} is not a command"
        + (f"; did you mean {near[0]!r}?" if near else f"; try one of {', '.join(COMMANDS)}.")
    )


def _keys(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted name and the type of every option."""
    from pydantic import BaseModel

    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.annotation


def _flatten(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@contextmanager
def _hushed() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _complain(error: SodError | str, status: int) -> int:
    rank, count = place()
    if rank == 0 or (isinstance(error, RankError) and error.unsaid):  # of several processes, the user hears the first
        print(f"error: {plain(str(error))}", file=sys.stderr)
    if count > 1 and (report := os.environ.get("TORCHELASTIC_ERROR_FILE")):  # torchrun repeats it at the end
        details = {"message": str(error), "extraInfo": {"py_callstack": str(error), "timestamp": str(int(time.time()))}}
        Path(report).write_text(json.dumps({"message": details}))
    return status
