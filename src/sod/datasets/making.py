"""The command `sod data make`: problems of other people's environments and generators."""

from difflib import get_close_matches
from importlib import import_module
from itertools import islice

from sod.config import MakeOptions
from sod.console.progress import echo
from sod.datasets.rows import Row
from sod.datasets.writing import lines, write_all
from sod.environments.choosing import ENVIRONMENTS
from sod.errors import DataError, OptionError

MAKERS = {name: ENVIRONMENTS[name] for name in ("scienceworld", "textworld", "textarena", "gymnasium", "bfcl")} | {
    "reasoning_gym": "sod.rewards.reasoning_gym:ReasoningGym"
}
"""Name -> MODULE:CLASS with the class method `make(tasks, rows, seed, level)`, which yields rows."""


def make_rows(options: MakeOptions) -> None:
    """Write the rows. Raises OptionError for an unknown name or task, or if the package of the environment is missing."""
    if options.out.suffix != ".jsonl":
        raise OptionError(f"out = {options.out} must end in .jsonl, because the output is JSON lines.")
    name, _, listed = options.name.partition(":")
    if name not in MAKERS:
        near = get_close_matches(name, MAKERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose {', '.join(MAKERS)}."
        raise OptionError(f"no problems can be made for {name!r}; {hint}")
    module, _, attribute = MAKERS[name].partition(":")
    tasks = [task.strip() for task in listed.split(",") if task.strip()]
    made = getattr(import_module(module), attribute).make(tasks, options.rows, options.seed, options.level)
    rows: list[Row] = [dict(row) for row in islice(made, options.rows)]
    if not rows:
        raise DataError(f"{options.name} has no problems. Nothing was written.")
    new = write_all({options.out: lines(rows)})
    less = f" (of {options.rows}: there are no more)" if len(rows) < options.rows else ""
    echo(f"{options.out}: {len(rows)} rows{less}{'' if new else ', unchanged'}")
