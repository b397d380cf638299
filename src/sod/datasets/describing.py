"""What is in a file: how many of what, how long, with how many calls."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from sod.config import DescribeOptions
from sod.data import LABELS, Demonstration, load_demonstrations, load_problems, read_rows
from sod.progress import Display
from sod.text import plain
from sod.types import Message, Problem

MOST_LABELS = 8
"""Values of a label that are shown."""
BINS, WIDTH = 8, 24
"""Bars of a histogram, and the characters of the longest."""
_ERROR = re.compile(r"^Traceback \(most recent call last\)|^\w*(?:Error|Exception): ", re.MULTILINE)

Lengths = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Ruler:
    """Lengths of prompts and of whole conversations."""

    unit: str
    prompt: Callable[[Sequence[Message]], int]
    conversation: Callable[[Demonstration], int]


@dataclass(slots=True)
class Description:
    """What a file holds."""

    path: Path
    rows: int
    what: str
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """By column, how many rows have each value."""
    lengths: Lengths = field(default_factory=dict)
    """By what is measured, with its unit, one number for each row."""


def ruler(options: DescribeOptions) -> Ruler:
    """In a model's tokens, or in characters."""
    if options.tokenizer is None:
        return Ruler("characters", _characters, lambda demonstration: _characters(demonstration.messages))
    from sod.chat import ChatFormat  # Transformers take seconds to import
    from sod.models import load_tokenizer

    chat = ChatFormat.of(load_tokenizer(options.tokenizer), options.chat)
    return Ruler(
        "tokens",
        lambda messages: len(chat.prompt(messages, [])),
        lambda demonstration: sum(len(p.tokens) for p in chat.render(demonstration.messages, demonstration.tools)),
    )


def describe_file(path: Path, measure: Ruler) -> Description:
    """Read a file, and measure each of its rows."""
    if "messages" in read_rows(path)[0]:
        return _of_demonstrations(path, load_demonstrations(path), measure)
    return _of_problems(path, load_problems(path), measure)


def _of_problems(path: Path, problems: list[Problem], measure: Ruler) -> Description:
    counts = {"kind": Counter(problem.kind for problem in problems)}
    for name in LABELS:
        if values := Counter(problem.labels[name] for problem in problems if name in problem.labels):
            counts[name] = values
    prompts = [measure.prompt(problem.messages) for problem in _shown(path, problems)]
    return Description(path, len(problems), "problems", counts, {f"prompt, {measure.unit}": prompts})


def _of_demonstrations(path: Path, demonstrations: list[Demonstration], measure: Ruler) -> Description:
    lengths: Lengths = {f"prompt, {measure.unit}": [], f"whole, {measure.unit}": [], "calls": []}
    broken = 0
    for demonstration in _shown(path, demonstrations):
        messages = demonstration.messages
        first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
        parts = (measure.prompt(messages[:first]), measure.conversation(demonstration), _calls(messages))
        for values, value in zip(lengths.values(), parts, strict=True):
            values.append(value)
        broken += any(_ERROR.search(message["content"]) for message in messages if message["role"] == "tool")
    sees = {"an error among its results": broken, "none that shows": len(demonstrations) - broken}
    return Description(path, len(demonstrations), "demonstrations", {"tools": Counter(sees)}, lengths)


def _shown(path: Path, rows: Sequence[Any]) -> Iterator[Any]:
    display = Display(f"{path.name}", total=1)
    with display, display.phase("measure", len(rows)):
        for row in rows:
            yield row
            display.advance()


def _characters(messages: Sequence[Message]) -> int:
    return sum(len(message["content"]) + len(str(message.get("tool_calls") or "")) for message in messages)


def _calls(messages: Sequence[Message]) -> int:
    return sum(len(message.get("tool_calls") or ()) for message in messages)


# Shown


def tables(description: Description) -> Iterator[Table]:
    """What a file holds, for the terminal."""
    counts = Table(box=SIMPLE)
    counts.add_column("column")
    counts.add_column("value", no_wrap=True, overflow="ellipsis")
    counts.add_column("rows", justify="right")
    counts.add_column("share", justify="right")
    for name, values in description.counts.items():
        for value, number in _most(values):
            counts.add_row(name, one_line(value), str(number), f"{number / description.rows:.1%}")
            name = ""
    yield counts
    lengths = Table(box=SIMPLE)
    for name in ("length", "min", "median", "p95", "max"):
        lengths.add_column(name, justify="left" if name == "length" else "right")
    for name, values in description.lengths.items():
        lengths.add_row(name, *(f"{number:,.0f}" for number in summary(values)))
    yield lengths


def one_line(text: str, most: int | None = None) -> str:
    """Text from a file as it may be shown: on one line, its beginning, and nothing that a terminal would obey."""
    line = plain(" ".join(text.split()))
    return line if most is None or len(line) <= most else f"{line[:most]}..."


def summary(values: Sequence[int]) -> tuple[float, float, float, float]:
    """The least, the median, the 95th percentile (the least that 95 % do not exceed), and the most."""
    ordered = sorted(values)
    return ordered[0], median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1], ordered[-1]


def histogram(values: Sequence[int]) -> Iterator[str]:
    """Bars of equal ranges from the least to the 95th percentile, and one for what is longer."""
    low, _, high, most = map(int, summary(values))
    step = max(1, math.ceil((high + 1 - low) / BINS))
    edges = [low + step * i for i in range(math.ceil((high + 1 - low) / step) + 1)]
    if edges[-1] <= most:
        edges.append(most + 1)
    numbers = [sum(start <= value < end for value in values) for start, end in pairwise(edges)]
    for (start, end), number in zip(pairwise(edges), numbers, strict=True):
        bar = "█" * math.ceil(WIDTH * number / max(numbers))
        yield f"  {start:>8,} to {end - 1:>8,}  {bar:<{WIDTH}} {number:,}"


def _most(values: Counter[str]) -> list[tuple[str, int]]:
    common = values.most_common(MOST_LABELS)
    others = len(values) - len(common)
    rest = values.total() - sum(number for _, number in common)
    return [*common, (f"({others} others)", rest)] if others else common
