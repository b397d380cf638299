"""Draw a curve with the characters of a terminal."""

import itertools
from collections.abc import Sequence
from statistics import fmean

BLOCKS = " ▁▂▃▄▅▆▇█"


def plot(values: Sequence[float], width: int, height: int) -> list[str]:
    """Return `height` lines of `width` characters, from the top: a bar per column, from the lowest to the highest value.

    More values than columns are averaged; fewer values are stretched. The lowest bar has one eighth of a line, so that every
    value is visible. Equal values are drawn at half the height.

    >>> plot([0, 1, 2, 3], 4, 1)
    ['▁▃▆█']
    >>> plot([5, 5], 4, 2)
    ['    ', '████']
    """
    columns = _columns(values, width)
    low, high = min(values, default=0.0), max(values, default=0.0)
    eighths = 8 * height
    levels = [
        1 + round((value - low) / (high - low) * (eighths - 1)) if high > low else eighths // 2 for value in columns
    ]
    lines = ["".join(BLOCKS[min(8, max(0, level - 8 * line))] for level in levels) for line in reversed(range(height))]
    return [line.ljust(width) for line in lines]


def _columns(values: Sequence[float], width: int) -> list[float]:
    """Return a value for each column."""
    count = len(values)
    if not count:
        return []
    if count <= width:
        return [values[column * count // width] for column in range(width)]
    bounds = [column * count // width for column in range(width + 1)]
    return [fmean(values[start:end]) for start, end in itertools.pairwise(bounds)]
