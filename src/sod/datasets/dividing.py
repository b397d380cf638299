"""Split and mix rows at random. The result depends only on the rows and the seed."""

import random
from collections import defaultdict
from collections.abc import Sequence
from math import floor

from sod.datasets.columns import statement
from sod.datasets.contamination import row_surroundings
from sod.datasets.overlap import key
from sod.datasets.rows import Row


def split_rows(rows: Sequence[Row], validation: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Split rows into training and validation, both in the original order. Equal problems stay on one side.

    Groups of equal problems are sampled until there are `validation` rows. A group that exceeds this number is skipped.
    """
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        asked = key(statement(row))
        groups[f"{asked} {row_surroundings(row)}" if asked else repr(row)].append(number)
    chosen: set[int] = set()
    for group in random.Random(f"split/{seed}").sample(list(groups.values()), len(groups)):
        if len(chosen) + len(group) <= validation:
            chosen.update(group)
    train = [row for number, row in enumerate(rows) if number not in chosen]
    return train, [rows[number] for number in sorted(chosen)]


def shares(sizes: Sequence[int], weights: Sequence[float], rows: int | None) -> list[int]:
    """Return the number of rows to take from each file, in proportion to the weights.

    `rows`: the total number. Default, and upper limit: the largest number that the files allow with these weights.
    """
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
    """Sample rows from each file without repetition, and return all in random order. `counts`: the number per file."""
    draw = random.Random(f"mix/{seed}")
    chosen = [row for rows, count in zip(files, counts, strict=True) for row in draw.sample(list(rows), count)]
    draw.shuffle(chosen)
    return chosen
