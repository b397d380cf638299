"""Rows as they are published to rows of ours, whatever their columns are called.

A row of ours has `id`, the problem, `answer` and `kind`, and what else is known of it: `answer_raw` (where the canonical
answer is written otherwise), `starter` (the code that a function starts from), `solution`, `hint`, and the columns in
`sod.data.LABELS`. The problem is a column `problem` where it is bare, as in benchmarks, which are worded when they are
asked, and `prompt` where it is what the student reads. Demonstrations have `messages` and `tools`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sod.data import LABELS, Row
from sod.datasets.golds import canonical, kind_of
from sod.datasets.wording import Prompts, asked
from sod.errors import DataError
from sod.rewards.answers import last_box

NAMES = {
    "problem": ("problem", "question", "prompt", "question_content", "query", "content"),
    "answer": ("answer", "correct_answer", "final_answer", "expected_answer", "ground_truth", "gold", "target"),
    "id": ("id", "unique_id", "question_id", "record_id", "problem_id", "task_id", "index", "url"),
    "starter": ("starter_code", "starter"),
    "kind": ("kind",),
    "solution": ("solution", "explanation"),
    "hint": ("hint",),
    "source": ("source", "data_source"),
    "difficulty": ("difficulty",),
    "level": ("level",),
    "domain": ("domain", "high-level_domain", "category", "platform"),
    "subject": ("subject", "subdomain"),
    "flag": ("flag",),
}
"""Columns of ours, and what they are called elsewhere, the likeliest name first; capitals and spaces do not matter."""
TESTS = ("tests", "test_cases", "input_output", "public_test_cases")
"""Columns that make a problem one of code."""
VERL_EXTRA = ("index", "hint", "solution")
"""What counts in verl's `extra_info`."""
_MARKED = re.compile(r"(.*?)\s*####\s*([^\n]+?)\s*", re.DOTALL)
"""GSM8K: a solution, and its answer after a mark."""
_CALCULATION = re.compile(r"<<[^<>]*>>")
"""GSM8K: what a calculator is to be given, within a solution."""


class Columns:
    """A published row, asked for cells by our names."""

    def __init__(self, row: Row) -> None:
        verl, extra = row.get("reward_model"), row.get("extra_info")
        extra = {name: extra.get(name) for name in VERL_EXTRA} if isinstance(extra, Mapping) else {}
        parts = (extra, verl if isinstance(verl, Mapping) else {}, row)
        cells = {normal(name): cell for part in parts for name, cell in part.items() if cell not in (None, "")}
        self._cells: dict[str, Any] = cells
        self._found = sorted(row)

    def get(self, name: str) -> Any:
        """The cell in one of our columns; None where there is nothing."""
        return next((self._cells[other] for other in NAMES[name] if other in self._cells), None)

    def text(self, name: str) -> str:
        cell = self.get(name)
        return cell.strip() if isinstance(cell, str) else "" if cell is None else _plain(cell)

    def one_of(self, names: tuple[str, ...]) -> Any:
        """The cell in a column of one of these names; None where there is none."""
        return next((self._cells[name] for name in names if name in self._cells), None)

    def need(self, name: str) -> Any:
        cell = self.get(name)
        if cell is None:
            raise self.lacks(" or ".join(f"`{other}`" for other in NAMES[name]))
        return cell

    def lacks(self, what: str) -> DataError:
        return DataError(f"it has the columns {', '.join(self._found) or 'of an empty row'}, but needs {what}.")


def normal(name: str) -> str:
    return "_".join(name.strip().casefold().split())


def demonstration(row: Row) -> Row:
    """A conversation, and the tools that it was held with."""
    cells = {normal(name): cell for name, cell in row.items()}
    if not cells.get("messages"):
        raise Columns(row).lacks("`messages`")
    return {name: cells[name] for name in ("id", "messages", "tools", "source") if cells.get(name) is not None}


def problem(row: Row, number: int, *, kind: str = "", integers: bool = False) -> Row:
    """A problem of ours out of any published row, bare: with a column `problem`, which may hold messages.

    `kind` is that of all rows, if they are of one; else each row's columns and answer tell.
    """
    columns = Columns(row)
    wanted = columns.need("problem")
    text = wanted if isinstance(wanted, str) else _last_message(wanted)
    kind, gold, solution = _gold(columns, text, kind or columns.text("kind"))
    answer = canonical(kind, gold, integers=integers and kind == "math")
    ours: Row = {"id": columns.text("id") or str(number), "problem": wanted, "answer": answer}
    if answer != gold:
        ours["answer_raw"] = gold
    ours["kind"] = kind
    for name, cell in (("starter", columns.get("starter")), ("solution", solution), ("hint", columns.text("hint"))):
        if cell:
            ours[name] = cell
    return ours | labels(columns)


def labels(columns: Columns) -> dict[str, str]:
    return {name: text for name in LABELS if (text := columns.text(name))}


def question(row: Row, prompts: Prompts) -> Row:
    """A row with a `problem` as one with a `prompt`: what the student reads. What is worded already stays as it is."""
    wanted, kind, gold, starter = row["problem"], row["kind"], row["answer"], row.get("starter", "")
    if isinstance(wanted, str):
        prompt = asked(wanted, kind, prompts, gold=gold, starter=starter)
    else:
        *before, last = wanted
        worded = asked(_last_message(wanted), kind, prompts, gold=gold, starter=starter)
        prompt = [*before, {**last, "content": worded}] if before else worded
    rest = {name: cell for name, cell in row.items() if name not in ("id", "problem", "starter")}
    return {"id": row["id"], "prompt": prompt} | rest


def statement(row: Row) -> str:
    """What is asked in a row of ours, of verl's or of demonstrations: the text of all that a user says."""
    asked_for = row.get("messages") or next(
        (row[name] for name in ("prompt", "problem", "question") if row.get(name)), ""
    )
    return asked_for if isinstance(asked_for, str) else "\n".join(_user_texts(asked_for))


def check_characters(row: Row) -> None:
    """Raises DataError for half a character (a lone surrogate): JSON can hold one, but no tokenizer takes it."""
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start]).strip("'")
        raise DataError(f"it holds {half}, which is half a character: no tokenizer can read it.") from error


def _user_texts(messages: Any) -> Iterator[str]:
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") == "user" and isinstance(message.get("content"), str):
            yield message["content"]


def _last_message(messages: Any) -> str:
    """The text of the last of the messages that a problem consists of."""
    match messages:
        case [*_, {"role": "user", "content": str(text)}]:
            return text
    raise DataError("its problem is neither text nor messages that end in a user's text.")


def _gold(columns: Columns, text: str, kind: str) -> tuple[str, str, str]:
    """The kind of a problem, its gold, and its worked solution, which may be empty."""
    solution = columns.text("solution")
    if (tests := columns.one_of(TESTS)) is not None and kind in ("", "code"):
        return "code", _plain(tests), solution
    if columns.get("answer") is not None:
        gold = columns.text("answer")
        if marked := _MARKED.fullmatch(gold):
            gold, solution = marked[2], _CALCULATION.sub("", marked[1])
    elif (marked := _MARKED.fullmatch(solution)) or last_box(solution) is not None:
        gold = marked[2] if marked else last_box(solution) or ""
    else:
        gold, solution = solution, ""
    if not gold:
        raise columns.lacks(f"an answer: {', '.join(f'`{name}`' for name in (*NAMES['answer'], 'solution', *TESTS))}")
    return kind or kind_of(gold, text, f"{columns.text('source')} {columns.one_of(('ability',)) or ''}"), gold, solution


def _plain(cell: Any) -> str:
    """A cell as text: JSON, which for a number is that number; a date, which JSON lacks, as it is written."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, int | float | list | dict):
        return json.dumps(cell, ensure_ascii=False, default=str)
    return str(cell)
