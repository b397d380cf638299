"""`sod compare`, `sod lab demo` and `sod lab real`: a comparison of the user's recipes or of a preset, or an arena."""

from pathlib import Path

from sod.compare.arena.command import run_arena
from sod.compare.cells import Comparison
from sod.compare.dry_run import plan_comparison
from sod.compare.parts import own_recipes
from sod.compare.table import show_table
from sod.config import CompareOptions
from sod.console.progress import echo, warn
from sod.errors import OptionError, TrainingError
from sod.lab.presets import Setting, settings_of
from sod.processes.concurrency import Runner
from sod.runs.directory import Run


def compare(options: CompareOptions) -> None:
    """Run the missing parts of a comparison and print its tables. Also works in a running event loop, such as a notebook's.

    Raises TrainingError at the end if a part failed, or if the files of a finished part are damaged.
    """
    if options.preset == "arena":
        run_arena(options)
        return
    if options.hours is not None or options.shard is not None:
        raise OptionError("--hours and --shard belong to --preset arena. Leave them out, or choose this preset.")
    if options.dry_run:
        echo(plan_comparison(options))
        return
    with Run(options.out).held():
        _compare(options)


def _compare(options: CompareOptions) -> None:
    chosen = settings_of(options) if options.preset else {"": own_recipes(options)}
    failed: dict[str, str] = {}
    for name, setting in chosen.items():
        if name:
            echo(f"Cold start: {name}")
        failed |= {f"{name} {run}".strip(): why for run, why in _compared(options, setting, options.out / name).items()}
    if failed:
        raise TrainingError(
            f"{len(failed)} of the runs failed, or are damaged, and are not in the table. Repeat the same command to try them "
            "again:\n" + "\n".join(f"  {name}: {why}" for name, why in failed.items())
        )


def _compared(options: CompareOptions, setting: Setting, out: Path) -> dict[str, str]:
    """Run a comparison and print its tables. -> name of each run that failed or is damaged: its error"""
    comparison = Comparison(options, setting, out)
    comparison.check_tuning()
    comparison.keep_plan()
    with Runner() as loop:
        failed = loop.run(comparison.run())
    made, damaged = comparison.rows()
    failed = {name: why for name, why in damaged.items() if name not in failed} | failed
    show_table(made)
    for line in comparison.notes(made):
        echo(line)
    if warning := comparison.hopeless():
        warn(warning)
    comparison.conclude()
    return failed
