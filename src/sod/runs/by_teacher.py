"""Metrics of each of several teachers: teacher/NAME/KEY. Standard library alone."""

import re
from collections.abc import Iterable, Mapping
from statistics import fmean

KEY = re.compile(r"teacher/(.+)/(\w+)")
OF_STEPS = ("steps/d", "steps/w_after_first", "teacher/aligned_share")
"""Metrics of steps that each teacher has as well."""
TEACHER_ROWS: Mapping[str, tuple[str, bool]] = {
    "share": ("share of the trajectories", True),
    "d": ("divergence d, nats", False),
    "w_after_first": ("step weight w after the first step", False),
    "aligned_share": ("sampled tokens with a signal", True),
    "solved": ("solved by it before training", True),
    "gain": ("solved by it minus by the student", True),
}
"""What is shown of a teacher: the key of its metric -> words, and whether it is a share."""


def metrics_of_teacher(name: str, measured: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a teacher with this name from those of the steps that it has scored."""
    return {f"teacher/{name}/{key.partition('/')[2]}": measured[key] for key in OF_STEPS if key in measured}


def shown_keys(rows: Iterable[Mapping[str, float]]) -> dict[str, tuple[str, str]]:
    """Return the keys of several teachers that rows of metrics have: key -> name of the teacher, and its key in `TEACHER_ROWS`.

    They are in the order of their first row, and of `TEACHER_ROWS` for each teacher.
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    found = {key: (match[1], match[2]) for key in keys if (match := KEY.fullmatch(key)) and match[2] in TEACHER_ROWS}
    names, order = list(dict.fromkeys(name for name, _ in found.values())), list(TEACHER_ROWS)
    return dict(sorted(found.items(), key=lambda item: (names.index(item[1][0]), order.index(item[1][1]))))


def means_by_teacher(rows: Iterable[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return the mean of each shown metric over the rows that have it, by name of the teacher; {} without several."""
    kept = list(rows)
    found: dict[str, dict[str, float]] = {}
    for key, (name, what) in shown_keys(kept).items():
        found.setdefault(name, {})[what] = fmean(row[key] for row in kept if key in row)
    return found
