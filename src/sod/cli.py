"""The command line: `sod COMMAND [RECIPE.toml ...] [--option value ...]`.

Options come from `sod.config`. Recipes override the defaults from left to right; the command line overrides recipes. No
heavy package is imported before the command and its options are known.
"""

import json
import os
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from sod import __version__
from sod.console import screen
from sod.console.text import plain
from sod.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TRY_AGAIN,
    EXIT_USAGE,
    InfrastructureError,
    OptionError,
    RankError,
    SodError,
    UnfinishedError,
    UsageError,
)
from sod.processes import interrupts
from sod.processes.distributed import place
from sod.processes.imports import uncollected
from sod.processes.interrupts import CONTINUED, RESUMED

COMMANDS = {
    "sft": ("SftOptions", "sod.training.sft:sft", "cold start: fine-tune a model on demonstrations"),
    "train": ("TrainOptions", "sod.training.on_policy:train", "train on policy: sod, opd, grpo, controls"),
    "eval": (
        "EvalOptions",
        "sod.evaluation.evaluate:evaluate_and_show",
        "evaluate a model: avg@n, pass@k, maj@n, tool errors",
    ),
    "eval --compare": (
        "CompareEvaluationsOptions",
        "sod.evaluation.paired:compare_evaluations",
        "compare two evaluations, paired by problem",
    ),
    "rollout": (
        "RolloutCommandOptions",
        "sod.evaluation.demonstrations:demonstrate",
        "create demonstrations with a model",
    ),
    "serve": ("ServeOptions", "sod.serving:serve_model", "serve a model to other agents, and record trajectories"),
    "run": ("RunOptions", "sod.pipeline.running:run_stages", "run all stages of an experiment from one recipe"),
    "compare": ("CompareOptions", "sod.compare.command:compare", "compare methods on equal terms, with several seeds"),
    "calibrate": (
        "CalibrateOptions",
        "sod.evaluation.calibration:calibrate",
        "test whether low step weights mark bad advice",
    ),
    "diagnose": (
        "DiagnoseOptions",
        "sod.evaluation.diagnosis:diagnose",
        "measure a student and a teacher, and advise a system",
    ),
    "watch": ("WatchOptions", "sod.watch:watch", "follow runs while they run: curves, alarms, trajectories"),
    "runs": ("RunsOptions", "sod.watch.listing:list_runs", "list runs: state, progress, score, age, size"),
    "report": ("ReportOptions", "sod.report:report", "write an HTML page about runs: figures, trajectories"),
    "export": ("ExportOptions", "sod.export:export", "write a Hugging Face folder with a model card"),
    "import": ("ImportOptions", "sod.export.gguf:import_gguf", "convert a GGUF file to a Hugging Face folder"),
    "plan": ("PlanOptions", "sod.planning.plan:show_plan", "compute which training set-ups fit on given GPUs"),
    "doctor": ("DoctorOptions", "sod.planning.doctor:doctor", "check this machine: sandbox, judges, speed"),
    "data list": ("DataListOptions", "sod.datasets.commands:list_sets", "list benchmarks and training sets"),
    "data fetch": ("FetchOptions", "sod.datasets.commands:fetch", "download and verify data sets"),
    "data convert": ("ConvertOptions", "sod.datasets.commands:convert", "convert a published file to our columns"),
    "data check": ("CheckOptions", "sod.datasets.commands:check", "check every row of a file"),
    "data describe": (
        "DescribeOptions",
        "sod.datasets.commands:describe",
        "describe a file: kinds, sources, lengths",
    ),
    "data decontaminate": (
        "DecontaminateOptions",
        "sod.datasets.commands:decontaminate",
        "remove rows that overlap with benchmarks",
    ),
    "data marks": (
        "MarksOptions",
        "sod.datasets.identity:show_marks",
        "compute the identity of a new benchmark",
    ),
    "data split": ("SplitOptions", "sod.datasets.commands:split", "split a file into training and validation"),
    "data make": ("MakeOptions", "sod.datasets.making:make_rows", "write problems of other people's environments"),
    "data mix": ("MixOptions", "sod.datasets.commands:mix", "mix several files by weight"),
    "lab demo": ("DemoOptions", "sod.compare.command:compare", "run the whole method in miniature"),
    "lab real": ("RealOptions", "sod.compare.command:compare", "train a real pretrained model, SmolLM2-135M"),
    "lab make": ("LabOptions", "sod.lab.make:make", "write the lab's models, problems and demonstrations"),
    "lab words": (
        "WordProblemOptions",
        "sod.lab.wordproblems:make_word_problems",
        "write word problems for a pretrained model",
    ),
    "lab teacher": ("LabTeacherOptions", "sod.lab.make:make_teacher", "train the lab's teacher from scratch"),
}
"""Command -> (class of its options, function, help)."""
HEADINGS = {"data": "Data sets", "lab": "Small experiments without a GPU or downloads"}
SECTIONS = {
    "Training and evaluation": [command for command in COMMANDS if command.split()[0] not in HEADINGS],
    **{
        heading: [command for command in COMMANDS if command.split()[0] == group] for group, heading in HEADINGS.items()
    },
}
"""Heading -> its commands, in the order of the overview."""
ROUTED = ("train", "eval", "rollout", "calibrate")
"""Commands whose --teacher may be several: KEY=MODEL ..."""
LOOKING = ("watch", "runs")
"""Commands that only look at runs. They start without the packages that check inputs."""
HELP = ("-h", "--help", "--help-all", "help")


def main(arguments: Sequence[str] | None = None) -> None:
    # Micro-batches have different sizes, which would divide a GPU's memory into pieces that nothing fits into.
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    screen.guard_output()
    try:
        status = run(list(sys.argv[1:] if arguments is None else arguments), own_process=True)
    finally:  # also after --help, which exits
        if why := screen.lost():
            sys.exit(_complain(why, EXIT_FAILED))
    sys.exit(status)


def run(arguments: list[str], *, own_process: bool = False) -> int:
    """Run the command and return its exit status. `own_process`: this process does nothing else."""
    with interrupts.obeyed():
        return _run(arguments, own_process)


def _with_teachers(arguments: list[str]) -> list[str]:
    """Return the arguments with --teachers in place of a --teacher that names the problems of each teacher."""
    if "--teacher" not in arguments:
        return arguments
    from sod.config.teachers import named_in

    return named_in(arguments)


def _run(arguments: list[str], own_process: bool) -> int:
    command, options = None, None
    try:
        _check_place()
        if arguments == ["--version"]:
            print(f"sod {__version__}")
            return 0
        command, rest = _split(arguments)
        if command is None:
            print(overview(*rest))
            return 0
        with uncollected(freeze=own_process):
            name, target, _ = COMMANDS[command]
            # Only the first of several processes reports wrong options.
            with _hushed() if place()[0] else nullcontext():
                options = parse(command, name, _with_teachers(rest) if command in ROUTED else rest)
            _check(command, options)
            if command in (*RESUMED, *CONTINUED, "calibrate"):
                screen.report_failures()
            _show_logs()
            module, function = target.split(":")
            work = getattr(import_module(module), function)
        work(options)
        return 0
    except UsageError as error:
        return _complain(error, EXIT_USAGE, _after_failure(error, command, arguments, options))
    except (InfrastructureError, UnfinishedError) as error:
        return _complain(error, EXIT_TRY_AGAIN, _after_failure(error, command, arguments, options))
    except SodError as error:
        return _complain(error, EXIT_FAILED, _after_failure(error, command, arguments, options))
    except interrupts.Terminated as error:
        return _complain(f"{error}; {_how_to_continue(command, arguments, options)}", EXIT_TRY_AGAIN)
    except KeyboardInterrupt:
        return _complain(f"interrupted; {_how_to_continue(command, arguments, options)}", EXIT_INTERRUPTED)
    except OSError as error:  # such as a full disk or a path that is too long
        where = f"{error.filename}: " if error.filename is not None else ""
        return _complain(f"{where}{error.strerror or error}", EXIT_FAILED)


def _check(command: str, options: Any) -> None:
    """Raise an error if the command cannot start here with these options."""
    if place()[1] > 1 and "processes" not in type(options).model_fields:
        raise OptionError(
            f"`sod {command}` is started by torchrun, but it runs in one process. Start it without torchrun."
        )
    # If another process failed earlier, the first would end before it prints the error.
    if place()[0] == 0 and command not in LOOKING:
        from sod.planning.inputs import check_inputs

        check_inputs(options)


def _show_logs() -> None:
    from sod.console.logs import show_logs  # rich takes longer to import than `sod --help` may take

    show_logs()


def _check_place() -> None:
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UsageError("The working directory no longer exists. Change to another one.") from error


def _how_to_continue(command: str | None, arguments: Sequence[str], options: Any) -> str:
    """Return what to type after an interruption."""
    count = place()[1]
    start = f"torchrun --nproc-per-node {count} -m sod" if count > 1 else "sod"
    again = f"{start} {shlex.join(arguments)}"
    if command in CONTINUED:
        return f"to continue: {again}"
    if command in RESUMED and options is not None and (options.out / "options.json").exists():
        return f"to continue: {again}{'' if options.resume else ' --resume'}"
    return f"nothing is kept; to start again: {again}"


def _after_failure(error: SodError, command: str | None, arguments: Sequence[str], options: Any) -> str:
    """Return what to type after an error that ended a run under way; empty if no run had begun."""
    if command not in RESUMED or options is None:
        return ""
    from sod.runs.ends import End, read_end

    end = End.of(error)
    begun = end.how == "failed" and read_end(options.out) == end
    return _how_to_continue(command, arguments, options) if begun else ""


def overview(group: str = "") -> str:
    """Return the list of all commands, or of those of a group."""
    width = max(map(len, COMMANDS))
    columns = min(100, shutil.get_terminal_size().columns)
    lines: list[str] = []
    for heading, commands in SECTIONS.items():
        shown = [command for command in commands if not group or command.startswith(f"{group} ")]
        lines += ["", heading] if shown else []
        for command in shown:
            first, later = f"  {command:<{width}}  ", " " * (width + 4)
            lines += textwrap.wrap(COMMANDS[command][2], columns, initial_indent=first, subsequent_indent=later)
    usage = f"sod {group} COMMAND" if group else "sod COMMAND"
    return "\n".join(
        [
            *([] if group else ["Step-wise on-policy distillation for small tool-using language models", ""]),
            f"usage: {usage} [RECIPE.toml ...] [--option value ...]",
            *lines,
            "",
            f"`{usage} --help` explains the common options, `--help-all` explains all.",
        ]
    )


def parse(command: str, name: str, arguments: list[str]) -> Any:
    """Return the options of a command, from recipes and flags. `name` is their class in `sod.config`."""
    from sod import config
    from sod.arguments.parsing import parse_options

    return parse_options(command, getattr(config, name), arguments)


def _split(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Return the command and the arguments after it. The command is None if an overview is asked for."""
    for words in (2, 1):
        command = " ".join(arguments[:words])
        if command in COMMANDS:
            if command == "eval" and "--compare" in arguments:
                raise OptionError("--compare is not the first argument. Type sod eval --compare RUN RUN.")
            return command, arguments[words:]
    groups = {command.split()[0] for command in COMMANDS} - COMMANDS.keys()
    if not arguments or arguments[0] in HELP:
        return None, []
    if arguments[0] in groups and (len(arguments) == 1 or arguments[1] in HELP):
        return None, [arguments[0]]
    tried = " ".join(arguments[:2]) if arguments[0] in groups else arguments[0]
    near = get_close_matches(tried, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"try one of {', '.join(COMMANDS)}."
    raise OptionError(f"{tried!r} is not a command; {hint}")


@contextmanager
def _hushed() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _complain(error: SodError | str, status: int, advice: str = "") -> int:
    rank, count = place()
    if rank == 0 or (isinstance(error, RankError) and error.unsaid):  # only the first process prints errors
        print(f"error: {plain(str(error))}", file=sys.stderr)
        if advice:
            print(plain(advice), file=sys.stderr)
    if count > 1 and (report := os.environ.get("TORCHELASTIC_ERROR_FILE")):  # torchrun prints it again at the end
        details = {"message": str(error), "extraInfo": {"py_callstack": str(error), "timestamp": str(int(time.time()))}}
        Path(report).write_text(json.dumps({"message": details}))
    return status
