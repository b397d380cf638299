"""Problems by name: the published benchmarks, pinned and checked, and files of the user's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from sod.data import Row, fingerprint, load_problems, read_rows
from sod.datasets.columns import statement
from sod.datasets.conversion import notes_of
from sod.datasets.identity import read_benchmark
from sod.datasets.published import BENCHMARKS, SETS, Published
from sod.datasets.storing import fetch_set, read_source
from sod.datasets.wording import worded
from sod.errors import DataError
from sod.types import Problem


@dataclass(frozen=True)
class ProblemSet:
    """Problems to measure with, and what must be known about them."""

    name: str
    """"aime2024", or the stem of a file of the user's."""
    problems: list[Problem]
    path: Path
    """The file that was read."""
    sha256: str
    """Its fingerprint."""
    source: dict[str, Any]
    """Where it is from, as NAME.source.json tells; {} for a user's file."""
    notes: tuple[str, ...]
    """What must be said beside any number."""
    private: bool
    """Whether its authors ask not to publish examples."""
    votes: bool
    """Whether maj@n makes sense: programs have no votes."""


def open_set(name: str, *, data_dir: Path, prompts: Literal["clean", "paper"]) -> ProblemSet:
    """A benchmark by name, from `data_dir` or fetched there, worded; or any file of problems, asked as it stands.

    Raises DataError for what is neither, for a benchmark's file that is not that benchmark, and if it cannot be fetched.
    """
    published = SETS.get(name)
    if published is not None and published.role == "benchmark":
        return _benchmark(published, data_dir, prompts)
    path = Path(name)
    if not path.is_file() and path.suffix not in (".jsonl", ".parquet"):
        near = get_close_matches(name, BENCHMARKS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"the benchmarks are {', '.join(BENCHMARKS)}."
        raise DataError(f"{name} is neither a benchmark nor a file; {hint}")
    problems = load_problems(path)
    return ProblemSet(
        name=path.stem,
        problems=problems,
        path=path,
        sha256=fingerprint(path),
        source={},
        notes=_repetitions(len(read_rows(path)) - len(problems)),
        private=False,
        votes=_have_votes(problems),
    )


def _repetitions(count: int) -> tuple[str, ...]:
    if count == 0:
        return ()
    return ("1 row repeats another and is left out" if count == 1 else f"{count} rows repeat others and are left out",)


def _benchmark(published: Published, data_dir: Path, prompts: Literal["clean", "paper"]) -> ProblemSet:
    path = data_dir / f"{published.name}.jsonl"
    if not path.exists():
        fetch_set(published, data_dir, prompts)
    rows = read_benchmark(published, path)
    source = read_source(path)
    problems = load_problems(path)
    if len(problems) < len(rows):
        raise DataError(f"{path} is not {published.name}: it has problems more than once.")
    return ProblemSet(
        name=published.name,
        problems=[_worded(problem, row, prompts) for problem, row in zip(problems, rows, strict=True)],
        path=path,
        sha256=fingerprint(path),
        source=source,
        notes=tuple(source.get("notes") or (*notes_of(rows, published), "where this copy is from is not known")),
        private=published.private,
        votes=_have_votes(problems),
    )


def _worded(problem: Problem, row: Row, prompts: Literal["clean", "paper"]) -> Problem:
    text = worded(statement(row), problem.kind, prompts, gold=problem.answer, starter=row.get("starter", ""))
    return replace(problem, messages=({"role": "user", "content": text},))


def _have_votes(problems: Sequence[Problem]) -> bool:
    return all(problem.kind != "code" for problem in problems)
