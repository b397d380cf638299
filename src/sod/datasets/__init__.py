"""Open problem sets by name: published benchmarks, pinned and checked, and the user's own files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sod.datasets.asking import load_asked
from sod.datasets.columns import statement
from sod.datasets.conversion import notes_of
from sod.datasets.identity import read_benchmark
from sod.datasets.published import BENCHMARKS, SETS, Published
from sod.datasets.rows import Row, load_problems
from sod.datasets.storing import fetch_set, read_source
from sod.datasets.wording import worded
from sod.errors import DataError
from sod.rewards.kinds import KINDS, Prompts
from sod.runs.files import sha256_of_file
from sod.types import Problem


@dataclass(frozen=True)
class ProblemSet:
    """Problems for an evaluation, with their origin."""

    name: str
    """The name of a benchmark, such as "aime2024", or the stem of the user's file."""
    problems: list[Problem]
    path: Path
    """The file with the problems."""
    sha256: str
    """SHA-256 of the file."""
    source: dict[str, Any]
    """The content of NAME.source.json; {} for the user's own file."""
    notes: tuple[str, ...]
    """Notes to print beside every result."""
    private: bool
    """Whether its authors ask users not to publish examples."""
    votes: bool
    """Whether maj@n is defined. Programs have no votes."""


def check_name(name: str) -> None:
    """Raise DataError for a name that is neither a benchmark nor an existing file."""
    published = SETS.get(name)
    if (published is not None and published.role == "benchmark") or Path(name).is_file():
        return
    if Path(name).suffix in (".jsonl", ".parquet"):
        raise DataError(f"{name} does not exist; {to_fetch(Path(name)) or 'give a .jsonl or .parquet file'}.")
    near = get_close_matches(name, BENCHMARKS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"give a file, or one of {', '.join(BENCHMARKS)}."
    raise DataError(f"{name} is neither a benchmark nor a file; {hint}")


def to_fetch(path: Path) -> str:
    """Return a hint how to download a file with the name of a known set; empty for other names."""
    return f"`sod data fetch {path.stem} --out {path.parent}` downloads it" if path.stem in SETS else ""


def open_set(name: str, *, data_dir: Path, prompts: Prompts, limit: int | None = None) -> ProblemSet:
    """Open a benchmark by name, or a file of problems.

    A benchmark is read from `data_dir`, or downloaded there, and its problems get the wording `prompts`. Prompts of a file are
    used unchanged.

    `limit`: number of problems to take from the start. Default: all. A benchmark is always read whole, to check its identity.
    Later rows of a file are neither read nor checked.

    Raises DataError if the name is neither a benchmark nor a file, if a file is not the benchmark of its name, or if a download
    fails.
    """
    check_name(name)
    published = SETS.get(name)
    if published is not None and published.role == "benchmark":
        return _limited(_benchmark(published, data_dir, prompts), limit)
    path = Path(name)
    problems, notes = load_asked(path, limit)
    return ProblemSet(
        name=path.stem,
        problems=problems,
        path=path,
        sha256=sha256_of_file(path),
        source={},
        notes=notes,
        private=False,
        votes=_have_votes(problems),
    )


def _limited(of: ProblemSet, limit: int | None) -> ProblemSet:
    if limit is None or limit >= len(of.problems):
        return of
    note = f"the first {limit} of {len(of.problems)} problems"
    return replace(of, problems=of.problems[:limit], notes=(*of.notes, note))


def _benchmark(published: Published, data_dir: Path, prompts: Prompts) -> ProblemSet:
    path = data_dir / f"{published.name}.jsonl"
    if not path.exists():
        fetch_set(published, data_dir, prompts)
    rows = read_benchmark(published, path)
    source = read_source(path)
    problems = load_problems(path)
    if len(problems) < len(rows):
        raise DataError(f"{path} is not {published.name}: it repeats problems. Move it away; {to_fetch(path)}.")
    return ProblemSet(
        name=published.name,
        problems=[_worded(problem, row, prompts) for problem, row in zip(problems, rows, strict=True)],
        path=path,
        sha256=sha256_of_file(path),
        source=source,
        notes=tuple(source.get("notes") or (*notes_of(rows, published), "the origin of this copy is unknown")),
        private=published.private,
        votes=_have_votes(problems),
    )


def _worded(problem: Problem, row: Row, prompts: Prompts) -> Problem:
    text = worded(statement(row), problem.kind, prompts, gold=problem.answer, starter=row.get("starter", ""))
    return replace(problem, messages=({"role": "user", "content": text},))


def _have_votes(problems: Sequence[Problem]) -> bool:
    return all(KINDS[problem.kind].vote is not None for problem in problems)
