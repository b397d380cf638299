"""Files to problems and demonstrations: .jsonl or .parquet, each row checked once, errors by row number.

Problems come in two shapes: our own (`id`, `prompt` as text or messages, `answer`, optionally `kind`), and verl's
(`prompt` as messages, `reward_model.ground_truth`, `extra_info.index`), in which DAPO-Math-17k and others are published.
Demonstrations have `messages` in OpenAI's format and optionally `tools`.
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from sod.errors import DataError
from sod.types import Message, Problem

Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """A conversation to imitate, and the tools that it was held with."""

    messages: list[Message]
    tools: list[dict[str, Any]]


def read_rows(path: Path) -> list[Row]:
    """All rows of a .jsonl or .parquet file."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; give a .jsonl or .parquet file.")
    if path.suffix == ".parquet":
        import pyarrow.parquet as parquet  # a second to import, and only needed here
        from pyarrow import ArrowInvalid

        try:
            rows = parquet.read_table(path).to_pylist()
        except ArrowInvalid as error:
            raise DataError(f"{path} is not a parquet file: {error}") from error
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
    problems = _convert(path, read_rows(path), _problem)
    unique = {(json.dumps(problem.messages), problem.answer): problem for problem in problems}
    seen: dict[str, int] = {}
    named = []
    for problem in unique.values():
        seen[problem.id] = seen.get(problem.id, 0) + 1
        again = seen[problem.id] > 1
        named.append(replace(problem, id=f"{problem.id}#{seen[problem.id]}") if again else problem)
    return named


def load_demonstrations(path: Path) -> list[Demonstration]:
    """Conversations, in the file's order."""
    return _convert(path, read_rows(path), _demonstration)


def draw(problems: Sequence[Problem], *, seed: int, update: int, count: int) -> list[Problem]:
    """The problems of an update: a function of the seed and the update alone, so a resumed run draws the same.

    Each epoch is a new order of all problems; what does not fill an update at its end is left out.
    """
    epoch, place = divmod(update, len(problems) // count)
    order = random.Random(f"{seed}/{epoch}").sample(range(len(problems)), len(problems))
    return [problems[i] for i in order[place * count : (place + 1) * count]]


def fingerprint(path: Path) -> str:
    """SHA-256 of a file: two runs on equal fingerprints saw the same data."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    # Not splitlines(): it also splits at separators that JSON strings may hold.
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _parse_line(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number}: not JSON ({error.msg} at character {error.pos}).") from error
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


def _problem(row: Row, number: int) -> Problem:
    prompt = row.get("prompt", row.get("problem", row.get("question")))
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    verl = row.get("reward_model") or {}
    answer = row.get("answer", verl.get("ground_truth"))
    if not prompt or answer is None or not str(answer).strip():
        raise DataError(
            f"it has the columns {', '.join(sorted(row))}, but a problem needs `prompt` (text or messages) and `answer` "
            "(or `reward_model.ground_truth`), neither empty."
        )
    extra = row.get("extra_info") or {}
    return Problem(
        id=str(row.get("id", extra.get("index", number))),
        messages=tuple(_messages(prompt)),
        answer=str(answer),
        kind=row.get("kind", "math"),
    )


def _demonstration(row: Row, number: int) -> Demonstration:
    del number
    if not row.get("messages"):
        raise DataError(f"it has the columns {', '.join(sorted(row))}, but a demonstration needs `messages`.")
    messages = _messages(row["messages"])
    if not any(message["role"] == "assistant" and message.get("weight", 1) for message in messages):
        raise DataError("none of its messages is an assistant's to learn from.")
    tools = row.get("tools") or []
    return Demonstration(messages=messages, tools=json.loads(tools) if isinstance(tools, str) else tools)


def _messages(messages: Any) -> list[Message]:
    if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise DataError("its messages are not a list of objects with `role` and `content`.")
    # Parquet fills in every key of every message; a None there is no key.
    return [
        {key: value for key, value in message.items() if value is not None} | _content(message) for message in messages
    ]


def _content(message: Message) -> Message:
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise DataError(
            f"the content of a {message['role']!r} message is {type(content).__name__}; only text can be used."
        )
    return {"content": content or ""}
