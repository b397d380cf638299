"""Describe a file: counts of labels, lengths, and numbers of calls."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

from rich.box import SIMPLE
from rich.table import Table

from sod.config import DescribeOptions
from sod.console.progress import slow_bar
from sod.console.text import plain
from sod.datasets.rows import LABELS, Demonstration, ProblemFile, each_row, load_demonstrations
from sod.types import Message

MOST_LABELS = 8
"""Largest number of values of a label to print."""
BINS, WIDTH = 8, 24
"""Largest number of bars in a histogram without the last, and the characters of the longest bar."""
_ERROR = re.compile(r"^Traceback \(most recent call last\)|^\w*(?:Error|Exception): ", re.MULTILINE)

Lengths = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Ruler:
    """Functions that measure prompts and whole conversations, with their unit."""

    unit: str
    prompt: Callable[[Sequence[Message]], int]
    conversation: Callable[[Demonstration], int]


@dataclass(slots=True)
class Description:
    """The description of a file."""

    path: Path
    rows: int
    what: str
    """"problems" or "demonstrations"."""
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """By column, the number of rows with each value."""
    lengths: Lengths = field(default_factory=dict)
    """By quantity with its unit, one number per row."""


def ruler(options: DescribeOptions) -> Ruler:
    """Return a ruler in tokens of the given tokenizer. Default: in characters."""
    if options.tokenizer is None:
        return Ruler("characters", _characters, lambda demonstration: _characters(demonstration.messages))
    from sod.chat.format import ChatFormat  # importing Transformers takes seconds
    from sod.model.loading import load_tokenizer

    chat = ChatFormat.of(load_tokenizer(options.tokenizer), options.chat)
    return Ruler(
        "tokens",
        lambda messages: len(chat.prompt(messages, [])),
        lambda demonstration: sum(len(p.tokens) for p in chat.render(demonstration.messages, demonstration.tools)),
    )


def describe_file(path: Path, measure: Ruler) -> Description:
    """Read a file and measure each row."""
    with closing(each_row(path)) as rows:
        demonstrations = "messages" in next(rows)
    if demonstrations:
        return _of_demonstrations(path, load_demonstrations(path), measure)
    return _of_problems(path, measure)


def _of_problems(path: Path, measure: Ruler) -> Description:
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("kind", *LABELS)}
    prompts: list[int] = []
    for problem in ProblemFile(path):
        counts["kind"][problem.kind] += 1
        for name, value in problem.labels.items():
            counts[name][value] += 1
        prompts.append(measure.prompt(problem.messages))
    counts = {name: values for name, values in counts.items() if values}
    return Description(path, len(prompts), "problems", counts, {f"prompt, {measure.unit}": prompts})


def _of_demonstrations(path: Path, demonstrations: list[Demonstration], measure: Ruler) -> Description:
    lengths: Lengths = {f"prompt, {measure.unit}": [], f"whole, {measure.unit}": [], "calls": []}
    broken = 0
    with slow_bar(path.name, "measure", len(demonstrations)) as at:
        for number, demonstration in enumerate(demonstrations, 1):
            messages = demonstration.messages
            first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
            parts = (measure.prompt(messages[:first]), measure.conversation(demonstration), _calls(messages))
            for values, value in zip(lengths.values(), parts, strict=True):
                values.append(value)
            broken += any(_ERROR.search(message["content"]) for message in messages if message["role"] == "tool")
            at(number)
    results = {"a result with an error": broken, "no error in a result": len(demonstrations) - broken}
    return Description(path, len(demonstrations), "demonstrations", {"tools": Counter(results)}, lengths)


def _characters(messages: Sequence[Message]) -> int:
    fields = ("content", "reasoning_content", "tool_calls")
    return sum(len(str(message.get(field) or "")) for message in messages for field in fields)


def _calls(messages: Sequence[Message]) -> int:
    return sum(len(message.get("tool_calls") or ()) for message in messages)


# Output


def description_tables(description: Description) -> Iterator[Table]:
    """Yield the tables of a description: counts, then lengths."""
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
        lengths.add_row(name, *(f"{number:,.0f}" for number in file_summary(values)))
    yield lengths


def one_line(text: str, most: int | None = None) -> str:
    """Return untrusted text for output: on one line, without control sequences, cut to `most` characters. Default: not cut."""
    line = plain(" ".join(text.split()))
    return line if most is None or len(line) <= most else f"{line[:most]}..."


def file_summary(values: Sequence[int]) -> tuple[float, float, float, float]:
    """Return the minimum, the median, the 95th percentile and the maximum.

    The percentile is the smallest value that at least 95 % of the values do not exceed.
    """
    ordered = sorted(values)
    return ordered[0], median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1], ordered[-1]


def histogram(values: Sequence[int]) -> Iterator[str]:
    """Yield the lines of a histogram: equal ranges up to the 95th percentile, and one range for larger values."""
    low, _, high, most = map(int, file_summary(values))
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
