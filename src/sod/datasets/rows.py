"""Read problems and demonstrations from .jsonl and .parquet files, row by row. Each row is checked once; errors have its number.

Problems have one of two shapes:

- sod's: `id`, `prompt` (text or messages), `answer`, and optionally `kind`, `hint`, `solution` and the columns in `LABELS`
- verl's, as in DAPO-Math-17k: `prompt` (messages), `reward_model.ground_truth`, and in `extra_info` an `index` and optionally
  `hint` and `solution`

Problems of an environment (docs/environments.md) may have the columns `environment`, `setting` and `files`. Those with one of the
first two need neither `prompt` nor `answer`.

For multiple choice, the column `choices` lists the options. Without it, the options in the prompt are counted.

Demonstrations have `messages` in OpenAI's format, and optionally `tools`.
"""

import ast
import hashlib
import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, Generic, TypeVar

from sod.chat import conversations
from sod.chat.conversations import Demonstration, as_messages
from sod.console.progress import slow_bar
from sod.datasets.formats import check_format
from sod.datasets.golds import number_text
from sod.datasets.parquet import parquet_rows
from sod.datasets.recognising import cells_of, check_text, conversation_in, is_missing, plain_kind
from sod.datasets.spellings import check_answer, check_question, check_solution
from sod.errors import DataError
from sod.moved import keep_old_names
from sod.rewards.choice import MOST, USUAL, options_in
from sod.rewards.kinds import ENVIRONMENT_KIND, KINDS, check_gold, find_kind
from sod.runs.files import to_json, write_whole
from sod.types import Message, Problem

Row = dict[str, Any]
T = TypeVar("T")

MODEL_FILES = ("config.json", "tokenizer.json", "chat_template.jinja", "*.safetensors")
FURTHER_FILES = (
    *("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.model", "*.index.json"),
)
BLOCKS, BLOCK_BYTES = 512, 1 << 15
"""Number and size of the blocks of a file of weights that count. A tensor with a 500th of the file has one."""
CONVERT = "`sod data convert FILE --out OUT` reads other columns."
_MESSAGES = re.compile(r"\s*(?:array\(\s*)?\[?\s*\{\s*['\"](?:role|content)['\"]\s*:")
LABELS = ("source", "difficulty", "level", "domain", "subject", "flag")
"""Columns for the breakdown of results, if a file has them."""
SURROUNDINGS = ("environment", "setting", "files")
"""Columns that make problems of equal text different."""


def read_rows(path: Path) -> list[Row]:
    """Return all rows of a .jsonl or .parquet file."""
    return list(each_row(path))


def each_row(path: Path) -> Generator[Row]:
    """Yield the rows of a .jsonl or .parquet file. Raises DataError at the first row that cannot be parsed."""
    check_file(path)
    read = parquet_rows if path.suffix == ".parquet" else _jsonl_rows
    empty = True
    with slow_bar(path.name, "read, %", 100) as at:
        for row in read(path, at):
            empty = False
            yield row
    if empty:
        raise DataError(f"{path} is empty: it has no rows.")


def check_file(path: Path) -> None:
    """Raise DataError for a missing file, for another ending than .jsonl or .parquet, and for content of another format."""
    if not path.is_file():
        raise DataError(
            f"{path} {'is not a file' if path.exists() else 'does not exist'}; give a .jsonl or .parquet file."
        )
    if path.suffix not in (".jsonl", ".parquet"):
        raise DataError(
            f"{path} has the ending {path.suffix!r}; only .jsonl and .parquet can be read. `sod data convert FILE` reads .json "
            "and .csv as well, also compressed (.gz)."
        )
    check_format(path)


def write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    """Replace a file by one line of JSON per row. If this fails, leave the file unchanged and raise RunError."""
    write_whole(path, "".join(to_json(row) + "\n" for row in rows))


def load_problems(path: Path) -> list[Problem]:
    """Return the problems of a file in its order; see `ProblemFile`."""
    return list(ProblemFile(path))


class ProblemFile:
    """Iterate over the problems of a file in its order, without exact repetitions. Equal ids get a number (ID#2).

    Rows are read on demand. `limit`: number of problems to read from the start; later rows are neither read nor checked. Default:
    all. The iteration ends with DataError if a row that was read lacks a required column, or has a gold that no judge can use.
    """

    def __init__(self, path: Path, limit: int | None = None):
        self._path, self._limit = path, limit
        self.repetitions = 0
        """Number of rows left out so far."""

    def __iter__(self) -> Iterator[Problem]:
        rows = _Converted(self._path, usable_problem)
        seen: set[bytes] = set()
        ids: set[str] = set()
        for problem in rows:
            content = json.dumps([problem.messages, problem.answer, problem.kind, *beside_text(problem)])
            if (digest := hashlib.blake2b(content.encode(), digest_size=16).digest()) in seen:
                self.repetitions += 1
                continue
            seen.add(digest)
            if problem.id in ids:
                problem = replace(problem, id=next(id for n in count(2) if (id := f"{problem.id}#{n}") not in ids))
            ids.add(problem.id)
            if problem.files:
                problem = replace(problem, files=_located(problem.files, self._path.absolute().parent))
            yield problem
            if len(seen) == self._limit:
                break
        rows.complain()


def beside_text(problem: Problem) -> list[Any]:
    """Return what makes problems of equal text different."""
    parts = [problem.environment, dict(problem.setting), dict(problem.files)]
    return parts if any(parts) else []


def load_demonstrations(path: Path) -> list[Demonstration]:
    """Return the demonstrations of a file in its order."""
    rows = _Converted(path, demonstration_of)
    demonstrations = list(rows)
    rows.complain()
    return demonstrations


def count_rows(path: Path, *, demonstrations: bool = False) -> int:
    """Return the number of problems or demonstrations in a file. Every row is checked, but no row is kept in memory.

    The number is remembered until the file changes.
    """
    check_file(path)
    state = path.stat()
    return _count_rows(path, demonstrations, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _count_rows(path: Path, demonstrations: bool, size: int, changed: int) -> int:
    del size, changed  # keys of the cache
    rows = _Converted(path, demonstration_of) if demonstrations else ProblemFile(path)
    count = sum(1 for _ in rows)
    if isinstance(rows, _Converted):
        rows.complain()
    return count


def fingerprint_model(folder: Path) -> str:
    """Return two SHA-256 digests with a colon between them. Both change if the model's configuration, tokenizer or weights do.

    The first is over name, size, first and last MiB of `MODEL_FILES`. It alone was the fingerprint in earlier versions. The
    second is over `FURTHER_FILES` and over blocks between the ends of the weights.
    """
    return f"{_digest_of_ends(folder)}:{_digest_of_more(folder)}"


def _digest_of_more(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(file for pattern in FURTHER_FILES for file in folder.glob(pattern)):
        digest.update(f"{file.name} ".encode() + file.read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as opened:
            for at in range(BLOCKS if size > 2 << 20 else 0):
                opened.seek(at * size // BLOCKS)
                digest.update(opened.read(BLOCK_BYTES))
    return digest.hexdigest()


def _digest_of_ends(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(file for pattern in MODEL_FILES for file in folder.glob(pattern)):
        with file.open("rb") as opened:
            digest.update(f"{file.name} {file.stat().st_size}".encode() + opened.read(1 << 20))
            opened.seek(max(0, file.stat().st_size - (1 << 20)))
            digest.update(opened.read())
    return digest.hexdigest()


def lines_of(path: Path, at: Callable[[int], None]) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, position of the first byte and content of each non-empty line. `at` is called with the percentage read."""
    size, start = max(1, path.stat().st_size), 0
    with path.open("rb") as file:
        # In binary mode, because text mode also ends lines at separators that JSON strings may contain.
        for number, line in enumerate(file, 1):
            content = line.removeprefix(BOM_UTF8) if number == 1 else line
            if content.strip():
                yield number, start + len(line) - len(content), content.removesuffix(b"\n")
            start += len(line)
            at(100 * start // size)


def _jsonl_rows(path: Path, at: Callable[[int], None]) -> Iterator[Row]:
    for number, start, line in lines_of(path, at):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {start + error.start}.") from error
        yield _parse_line(path, number, text)


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raise ValueError if a name is given twice, of which JSON parsers keep the last."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice in one object")
    return made


def _parse_line(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line, object_pairs_hook=unique_names)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number}: not JSON ({error.msg} at character {error.pos}).") from error
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond the parser's limits
        raise DataError(f"{path}, line {number}: JSON that cannot be read ({error}).") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: expected an object with named fields, found {type(row).__name__}.")
    return row


class _Converted(Generic[T]):
    """Convert the rows of a file one after another. `complain` raises one error with the number of bad rows and the first one."""

    def __init__(self, path: Path, convert: Callable[[Row, int], T]):
        self._path, self._convert = path, convert
        self._read = self._bad = 0
        self._first: tuple[int, DataError] | None = None

    def __iter__(self) -> Iterator[T]:
        for row in each_row(self._path):
            self._read += 1
            try:
                yield self._convert(row, self._read)
            except DataError as error:
                self._bad += 1
                self._first = self._first or (self._read, error)

    def complain(self) -> None:
        """Raise DataError if a row that was read is bad."""
        if self._first is not None:
            number, error = self._first
            raise DataError(
                f"{self._path}: {self._bad} of {self._read} rows cannot be used; the first is row {number}: {error}"
            )


def usable_problem(row: Row, number: int) -> Problem:
    """Return the problem of a row. Raises DataError for a bad row, and for a gold that its judge cannot use."""
    problem = as_problem(row, number)
    check_gold(problem.kind, problem.answer, problem.options)
    return problem


def as_problem(row: Row, number: int) -> Problem:
    """Return the problem of the `number`-th row of a file. Raises DataError with the fault of the row."""
    row = {name: cell for name, cell in row.items() if not is_missing(cell)}
    verl, extra = row.get("reward_model", {}), row.get("extra_info", {})
    if not isinstance(verl, dict) or not isinstance(extra, dict):
        raise DataError(f"its `reward_model` or `extra_info` is not an object. {CONVERT}")
    prompt = next((row[name] for name in ("prompt", "problem", "question") if row.get(name)), None)
    answer = row.get("answer", verl.get("ground_truth"))
    setting, files = (_mapping(row, name) for name in ("setting", "files"))
    has_world = bool(row.get("environment")) or bool(setting)
    if isinstance(prompt, str) and not prompt.strip():
        prompt = None
    if answer is not None and not str(answer).strip():
        answer = None
    if has_world and answer is None:
        row, answer = {"kind": ENVIRONMENT_KIND} | row, ""
    if (not prompt and not has_world) or answer is None:
        raise DataError(
            f"it has the columns {', '.join(sorted(row))}, but a problem needs `prompt` (text or messages) and `answer` "
            f"(or `reward_model.ground_truth`), neither empty. {conversation_in(row) or CONVERT}"
        )
    if isinstance(answer, list | dict | bool):
        raise DataError(f"its answer is {type(answer).__name__}; only text or a number can be used. {CONVERT}")
    answer = number_text(answer) if isinstance(answer, float) else str(answer)
    cells = cells_of(row)
    check_question(cells)
    messages = _question(prompt if prompt else json.dumps(setting, ensure_ascii=False))
    text = "\n".join(message["content"] for message in messages)
    kind = str(row["kind"]) if "kind" in row else plain_kind(row, text, answer)
    find_kind(kind)
    check_answer(cells, kind)
    check_text(cells, text, answer if KINDS[kind].gold_is_answer else "")
    solution = _text(row, extra, "solution")
    check_solution(kind, answer, solution)
    return Problem(
        id=str(row.get("id", extra.get("index", number))),
        messages=tuple(messages),
        answer=answer,
        kind=kind,
        options=option_count(row.get("choices"), messages[-1]["content"]) if KINDS[kind].has_options else USUAL,
        hint=_text(row, extra, "hint"),
        solution=solution,
        labels={name: str(row[name]) for name in LABELS if row.get(name) not in (None, "")},
        environment=str(row.get("environment", "")),
        setting=setting,
        files={name: str(path) for name, path in files.items()},
    )


def _located(files: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the paths of a problem's files, which students read. Raise DataError for one outside the data file's folder."""
    paths = {name: (folder / path).resolve() for name, path in files.items()}
    if outside := next((name for name, path in paths.items() if not path.is_relative_to(folder.resolve())), None):
        raise DataError(
            f"The file {outside!r} of a problem is {files[outside]!r}, which is outside the folder of the data file, {folder}. "
            "Move it into that folder."
        )
    return {name: str(path) for name, path in paths.items()}


def _mapping(row: Row, name: str) -> dict[str, Any]:
    """Return an optional column that holds an object, also as JSON text; empty if it is missing."""
    cell = row.get(name) or {}
    if isinstance(cell, str):
        with suppress(ValueError):
            cell = json.loads(cell)
    if not isinstance(cell, dict):
        raise DataError(f"its `{name}` is {type(cell).__name__}; it must be an object with named fields.")
    return cell


def _question(prompt: Any) -> list[Message]:
    """Return the messages of a prompt: a text, messages, or the JSON text of messages. The student must reply to the last one."""
    if isinstance(prompt, str):
        prompt = messages_in(prompt) or [{"role": "user", "content": prompt}]
    messages = as_messages(prompt)
    last = messages[-1]
    if last["role"] not in ("user", "tool"):
        raise DataError(f"its prompt ends in a message of {last['role']!r}; the last message must be from the user.")
    if not last["content"].strip():
        raise DataError("the last message of its prompt is empty.")
    return messages


def messages_in(text: str) -> list[Row] | None:
    """Return the messages in a text that is JSON or a Python literal, as in exports; None for any other text."""
    if not _MESSAGES.match(text):
        return None
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            messages = parse(text.strip())
            return messages if isinstance(messages, list) else [messages]
    raise DataError("its prompt looks like a list of messages as text, but it is neither JSON nor a Python literal.")


def option_count(choices: Any, text: str) -> int:
    """Return the number of options of a multiple choice: of `choices`, or listed in the text, at least the usual number."""
    if choices is None:
        return max(USUAL, options_in(text))
    if not isinstance(choices, list) or not 2 <= len(choices) <= MOST:
        raise DataError(f"its `choices` are not a list of 2 to {MOST} options; give one.")
    return len(choices)


def _text(row: Row, extra: Row, name: str) -> str:
    """Return an optional column of text, also from verl's `extra_info`; empty if it is missing."""
    text = row.get(name, extra.get(name))
    if not isinstance(text, str | None):
        raise DataError(f"its `{name}` is {type(text).__name__}; only text can be used.")
    return text or ""


def demonstration_of(row: Row, number: int) -> Demonstration:
    """Return the demonstration of a row. Raises DataError with the fault of the row."""
    del number
    row = {name: cell for name, cell in row.items() if cell is not None}
    messages = row.get("messages")
    if not messages:
        raise DataError(
            f"it has the columns {', '.join(sorted(row))}, but a demonstration needs `messages`. {conversation_in(row)}".rstrip()
        )
    if isinstance(messages, str):
        raise DataError(
            "its `messages` are text, not a list of objects with `role` and `content`. `sod data convert FILE --out OUT` writes "
            "them as a list."
        )
    made = conversations.parse_conversation(row["messages"], row.get("tools"), row.get("functions"))
    check_text(cells_of(row), "\n".join(each["content"] for each in made.messages if each["role"] == "user"), "")
    about = {name: row[name] for name in SURROUNDINGS if row.get(name)}
    return replace(made, about=about) if about else made


keep_old_names(__name__, as_demonstration="demonstration_of")
