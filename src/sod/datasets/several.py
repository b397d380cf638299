"""Open the problem sets of one evaluation."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sod.config import EvalOptions, ServeOptions, ValidateOptions
from sod.datasets import ProblemSet, check_name, open_set
from sod.errors import OptionError


def open_sets(options: EvalOptions | ServeOptions | ValidateOptions) -> list[ProblemSet]:
    """Open every set of an evaluation, up to the limit. All problems get different ids.

    Raises OptionError for a set that is given twice, and DataError for one that cannot be opened.
    """
    for name in options.data:  # all names are checked before the first download
        check_name(name)
    where = {"data_dir": options.data_dir, "prompts": options.prompts, "limit": options.limit}
    sets = [open_set(name, **where) for name in options.data]
    if doubled := [name for name, count in Counter(each.name for each in sets).items() if count > 1]:
        raise OptionError(f"data: {doubled[0]!r} is given twice, or two files have this name. Rename one of them.")
    return _apart(sets)


def sets_fingerprint(sets: Sequence[ProblemSet]) -> str:
    """Return the SHA-256 of the file; for several files, of their names and hashes."""
    if len(sets) == 1:
        return sets[0].sha256
    return hashlib.sha256("".join(f"{each.name} {each.sha256}\n" for each in sets).encode()).hexdigest()


def _apart(sets: list[ProblemSet]) -> list[ProblemSet]:
    """Prefix all ids with the name of their set if two problems have the same id."""
    times = Counter(problem.id for each in sets for problem in each.problems)
    if not times or max(times.values()) == 1:
        return sets
    return [
        replace(each, problems=[replace(problem, id=f"{each.name}/{problem.id}") for problem in each.problems])
        for each in sets
    ]
