"""Files to problems and demonstrations: .jsonl or .parquet, each row checked once, errors by row number.

Problems come in two shapes: our own (`id`, `prompt` as text or messages, `answer`, optionally `kind`, `hint`, `solution` and
the columns in `LABELS`), and verl's (`prompt` as messages, `reward_model.ground_truth`, and in `extra_info` an `index`,
optionally `hint` and `solution`), in which DAPO-Math-17k and others are published.
Demonstrations have `messages` in OpenAI's format and optionally `tools`.
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from sod import conversations
from sod.conversations import Demonstration, as_messages, without_nulls
from sod.errors import DataError
from sod.types import Problem

Row = dict[str, Any]
T = TypeVar("T")

MODEL_FILES = ("config.json", "tokenizer.json", "chat_template.jinja", "*.safetensors")
LABELS = ("source", "difficulty", "level", "domain", "subject", "flag")
"""Columns that results are broken down by, where a file has them."""


def read_rows(path: Path) -> list[Row]:
    """All rows of a .jsonl or .parquet file."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a .jsonl or .parquet file.")
    if path.suffix == ".parquet":
        import pyarrow.parquet as parquet  # a second to import, and only needed here
        from pyarrow import ArrowException

        try:
            rows = [without_nulls(row) for row in parquet.read_table(path).to_pylist()]
        except (ArrowException, OSError) as error:  # OSError: damaged pages
            raise DataError(f"{path} is not a parquet file, or a damaged one: {error}") from error
    elif path.suffix == ".jsonl":
        rows = [_parse_line(path, number, line) for number, line in _lines(path)]
    else:
        raise DataError(f"{path} has the ending {path.suffix!r}; only .jsonl and .parquet can be read.")
    if not rows:
        raise DataError(f"{path} is empty: it has no row.")
    return rows


def write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def load_problems(path: Path) -> list[Problem]:
    """Problems, in the file's order. Exact repetitions of a problem are kept once; equal ids get a number."""
    unique: dict[tuple[str, str, str], Problem] = {}
    for problem in _convert(path, read_rows(path), as_problem):
        unique.setdefault((json.dumps(problem.messages), problem.answer, problem.kind), problem)
    taken = {problem.id for problem in unique.values()}
    seen: set[str] = set()
    named = []
    for problem in unique.values():
        if problem.id in seen:
            id = next(id for n in count(2) if (id := f"{problem.id}#{n}") not in taken)
            problem = replace(problem, id=id)
            taken.add(id)
        seen.add(problem.id)
        named.append(problem)
    return named


def load_demonstrations(path: Path) -> list[Demonstration]:
    """Conversations, in the file's order."""
    return _convert(path, read_rows(path), as_demonstration)


def draw(problems: Sequence[Problem], *, seed: int, update: int, size: int) -> list[Problem]:
    """The problems of an update: a function of the seed and the update alone, so a resumed run draws the same.

    Each epoch is a new order of all problems, of which there must be `size` at least; what does not fill an update at
    its end is left out.
    """
    epoch, place = divmod(update, len(problems) // size)
    order = random.Random(f"{seed}/{epoch}").sample(range(len(problems)), len(problems))
    return [problems[i] for i in order[place * size : (place + 1) * size]]


def fingerprint(path: Path) -> str:
    """SHA-256 of a file: two runs on equal fingerprints saw the same data."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_model(folder: Path) -> str:
    """SHA-256 over the size, first and last MiB of a model's configuration, tokenizer, chat template and weights."""
    digest = hashlib.sha256()
    for file in sorted(file for pattern in MODEL_FILES for file in folder.glob(pattern)):
        with file.open("rb") as opened:
            digest.update(f"{file.name} {file.stat().st_size}".encode() + opened.read(1 << 20))
            opened.seek(max(0, file.stat().st_size - (1 << 20)))
            digest.update(opened.read())
    return digest.hexdigest()


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    # Not splitlines(): it also splits at separators that JSON strings may hold.
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _parse_line(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number}: not JSON ({error.msg} at character {error.pos}).") from error
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond the parser
        raise DataError(f"{path}, line {number}: JSON that cannot be read ({error}).") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: expected an object with named fields, found {type(row).__name__}.")
    return row


def _convert(path: Path, rows: Sequence[Row], convert: Callable[[Row, int], T]) -> list[T]:
    """Every row, or one error that counts the bad rows and shows the first of them."""
    good: list[T] = []
    bad: list[tuple[int, DataError]] = []
    for number, row in enumerate(rows, 1):
        try:
            good.append(convert(row, number))
        except DataError as error:
            bad.append((number, error))
    if bad:
        number, error = bad[0]
        raise DataError(f"{path}: {len(bad)} of {len(rows)} rows cannot be used; the first is row {number}: {error}")
    return good


def as_problem(row: Row, number: int) -> Problem:
    """The problem in a row, the `number`-th of its file. Raises DataError, saying what is wrong with the row."""
    row = {name: cell for name, cell in row.items() if cell is not None}
    verl, extra = row.get("reward_model", {}), row.get("extra_info", {})
    if not isinstance(verl, dict) or not isinstance(extra, dict):
        raise DataError("its `reward_model` or `extra_info` is not an object.")
    prompt = next((row[name] for name in ("prompt", "problem", "question") if row.get(name)), None)
    answer = row.get("answer", verl.get("ground_truth"))
    if not prompt or (isinstance(prompt, str) and not prompt.strip()) or answer is None or not str(answer).strip():
        raise DataError(
            f"it has the columns {', '.join(sorted(row))}, but a problem needs `prompt` (text or messages) and `answer` "
            "(or `reward_model.ground_truth`), neither empty."
        )
    if isinstance(answer, list | dict | bool):
        raise DataError(f"its answer is {type(answer).__name__}; only text or a number can be used.")
    return Problem(
        id=str(row.get("id", extra.get("index", number))),
        messages=tuple(as_messages([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)),
        answer=str(answer),
        kind=str(row.get("kind", "math")),
        hint=_text(row, extra, "hint"),
        solution=_text(row, extra, "solution"),
        labels={name: str(row[name]) for name in LABELS if row.get(name) not in (None, "")},
    )


def _text(row: Row, extra: Row, name: str) -> str:
    """An optional column of text, which may stand in verl's `extra_info`; empty where there is none."""
    text = row.get(name, extra.get(name))
    if not isinstance(text, str | None):
        raise DataError(f"its `{name}` is {type(text).__name__}; only text can be used.")
    return text or ""


def as_demonstration(row: Row, number: int) -> Demonstration:
    """Likewise the demonstration."""
    del number
    row = {name: cell for name, cell in row.items() if cell is not None}
    if not row.get("messages"):
        raise DataError(f"it has the columns {', '.join(sorted(row))}, but a demonstration needs `messages`.")
    return conversations.as_demonstration(row["messages"], row.get("tools"), row.get("functions"))
