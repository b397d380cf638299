"""Rows drawn at random: into two parts, and out of several files. Functions of the seed."""

import random
from collections import defaultdict
from collections.abc import Sequence
from math import floor

from sod.datasets.columns import statement
from sod.datasets.overlap import key
from sod.datasets.rows import Row


def split_rows(rows: Sequence[Row], validation: int, seed: int) -> tuple[list[Row], list[Row]]:
    """For training and for validation, each in the order of `rows`. Equal problems stay together.

    Groups of equal problems are drawn until `validation` rows are there; one that would be too many is passed over.
    """
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[key(statement(row)) or repr(row)].append(number)
    chosen: set[int] = set()
    for group in random.Random(f"split/{seed}").sample(list(groups.values()), len(groups)):
        if len(chosen) + len(group) <= validation:
            chosen.update(group)
    train = [row for number, row in enumerate(rows) if number not in chosen]
    return train, [rows[number] for number in sorted(chosen)]


def shares(sizes: Sequence[int], weights: Sequence[float], rows: int | None) -> list[int]:
    """How many rows to take of each file, in proportion to the weights: `rows` in all, or as many as there are."""
    total = sum(weights)
    most = min(size * total / weight for size, weight in zip(sizes, weights, strict=True))
    wanted = [weight / total * min(most, rows or most) for weight in weights]
    counts = [min(size, floor(share + 1e-9)) for size, share in zip(sizes, wanted, strict=True)]
    left = round(sum(wanted)) - sum(counts)
    rest = sorted(range(len(counts)), key=lambda i: counts[i] - wanted[i])
    for place in [i for i in rest if counts[i] < sizes[i]][: max(0, left)]:
        counts[place] += 1
    return counts


def mix_rows(files: Sequence[Sequence[Row]], counts: Sequence[int], seed: int) -> list[Row]:
    """So many rows of each file, none twice, in one random order."""
    draw = random.Random(f"mix/{seed}")
    chosen = [row for rows, count in zip(files, counts, strict=True) for row in draw.sample(list(rows), count)]
    draw.shuffle(chosen)
    return chosen
