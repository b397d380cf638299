"""Rows as they are published to rows of ours, whatever their columns are called.

A row of ours has `id`, the problem, `answer` and `kind`, and what else is known of it: `answer_raw` (where the canonical
answer is written otherwise), `starter` (the code that a function starts from), `solution`, `hint`, and the columns in
`sod.datasets.rows.LABELS`. The problem is a column `problem` where it is bare, as in benchmarks, which are worded when they are
asked, and `prompt` where it is what the student reads. Demonstrations have `messages` and `tools`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from sod.datasets import programs
from sod.datasets.choices import Numberings, listed, read_choice
from sod.datasets.golds import canonical, kind_of
from sod.datasets.rows import LABELS, Row, messages_in
from sod.datasets.wording import Prompts, asked
from sod.errors import DataError
from sod.rewards.golds import worked

NAMES = {
    "problem": (
        *(
            "problem",
            "question",
            "prompt",
            "question_content",
            "query",
            "content",
            "text",
            "question_stem",
            "stem",
            "ctx",
        ),
        *("goal", "sentence", "messages"),
    ),
    "context": ("context", "passage", "article"),
    "answer": (
        *("answer", "correct_answer", "final_answer", "expected_answer", "ground_truth", "gold", "target"),
        "extra_info.answer",
    ),
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


class Columns:
    """A published row, asked for cells by our names."""

    def __init__(self, row: Row) -> None:
        verl, extra = (_object(row.get(name)) for name in ("reward_model", "extra_info"))
        asked = row.get("question")
        parts = (
            {f"extra_info.{name}": cell for name, cell in extra.items() if name not in VERL_EXTRA},
            {name: extra.get(name) for name in VERL_EXTRA},
            verl,
            row,
            asked if isinstance(asked, Mapping) else {},
        )
        cells = {normal(name): cell for part in parts for name, cell in part.items() if cell not in (None, "")}
        if isinstance(asked, Mapping):
            del cells["question"]
        self.cells: dict[str, Any] = cells
        self.used = {"reward_model", "extra_info", "style", "extra_info.split"}
        """Columns that were read, or that hold nothing of a problem."""
        self._found = sorted(row)

    def get(self, name: str) -> Any:
        """The cell in one of our columns; None where there is nothing."""
        return self.one_of(NAMES[name])

    def text(self, name: str) -> str:
        cell = self.get(name)
        return cell.strip() if isinstance(cell, str) else "" if cell is None else _plain(cell)

    def one_of(self, names: tuple[str, ...]) -> Any:
        """The cell in a column of one of these names; None where there is none."""
        found = next((name for name in names if name in self.cells), None)
        self.used.add(found or "")
        return self.cells.get(found or "")

    def need(self, name: str) -> Any:
        cell = self.get(name)
        if cell is None:
            raise self.lacks(" or ".join(f"`{other}`" for other in NAMES[name]))
        return cell

    @property
    def unused(self) -> set[str]:
        """Columns that hold something that was not read."""
        return self.cells.keys() - self.used

    def lacks(self, what: str) -> DataError:
        return DataError(f"it has the columns {', '.join(self._found) or 'of an empty row'}, but needs {what}.")


def normal(name: str) -> str:
    return "_".join(name.strip().casefold().split())


def holds_demonstration(row: Row) -> bool:
    """Whether a published row has a conversation to imitate: one in which an assistant speaks."""
    messages = Columns(row).cells.get("messages")
    return isinstance(messages, list) and any(isinstance(m, dict) and m.get("role") == "assistant" for m in messages)


def demonstration(row: Row) -> tuple[Row, set[str]]:
    """A conversation, and the tools that it was held with. -> the row, and the columns that were not read"""
    cells = Columns(row).cells
    if not cells.get("messages"):
        raise Columns(row).lacks("`messages`")
    names = ("id", "messages", "tools", "source")
    return {name: cells[name] for name in names if name in cells}, cells.keys() - names


def problem(
    row: Row, number: int, *, kind: str = "", integers: bool = False, numberings: Numberings | None = None
) -> tuple[Row, set[str]]:
    """A problem of ours out of any published row, bare: with a column `problem`, which may hold messages.
    -> the row, and the columns that were not read

    `kind` is that of all rows, if they are of one; else each row's columns and answer tell.
    """
    columns = Columns(row)
    kind = kind or columns.text("kind")
    if (program := programs.published(columns.cells)) is not None and kind in ("", "code"):
        columns.used |= program.columns
        ours: Row = {"id": columns.text("id") or str(number), **program.row}
        return ours | labels(columns), columns.unused
    wanted = columns.need("problem")
    wanted = (messages_in(wanted) or wanted) if isinstance(wanted, str) else wanted
    text = wanted if isinstance(wanted, str) else _last_message(wanted)
    choice = read_choice(columns.cells) if kind in ("", "choice", "math") else None
    if choice is not None:
        if kind == "math":
            raise DataError("it is of kind 'math', and has options to choose from; leave `kind` or the options out.")
        columns.used |= choice.columns
        kind, solution = "choice", columns.text("solution")
        answer = gold = choice.letter(numberings or Numberings(lambda: iter([columns.cells])))
    else:
        kind, gold, solution = _gold(columns, text, kind)
        answer = canonical(kind, gold, integers=integers and kind == "math")
    context = columns.text("context")
    text = f"{context}\n\n{text}" if context and context not in text else text
    ours = {
        "id": columns.text("id") or str(number),
        "problem": _with_text(wanted, listed(text, choice.options) if choice else text),
        "answer": answer,
    }
    if answer != gold:
        ours["answer_raw"] = gold
    ours["kind"] = kind
    for name, cell in (
        ("choices", list(choice.options) if choice else None),
        ("starter", columns.get("starter")),
        ("solution", solution),
        ("hint", columns.text("hint")),
    ):
        if cell:
            ours[name] = cell
    return ours | labels(columns), columns.unused


def cells_of(row: Row) -> Mapping[str, Any]:
    """A published row's cells by the normal names of their columns."""
    return Columns(row).cells


def _with_text(wanted: Any, text: str) -> Any:
    """A problem, as text or messages, with another text at its end."""
    if isinstance(wanted, str):
        return text
    *before, last = wanted
    return [*before, {**last, "content": text}]


def labels(columns: Columns) -> dict[str, str]:
    return {name: text for name in LABELS if (text := columns.text(name))}


def question(row: Row, prompts: Prompts) -> Row:
    """A row with a `problem` as one with a `prompt`: what the student reads. What is worded already stays as it is."""
    wanted, kind, gold, starter = row["problem"], row["kind"], row["answer"], row.get("starter", "")
    text = wanted if isinstance(wanted, str) else _last_message(wanted)
    prompt = _with_text(wanted, asked(text, kind, prompts, gold=gold, starter=starter))
    if not isinstance(prompt, str) and len(prompt) == 1:
        prompt = prompt[0]["content"]
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
    source = f"{columns.text('source')} {columns.one_of(('ability',)) or ''}"
    cell = columns.get("answer")
    if kind == "code" or (not kind and "code" in source.lower()):
        return "code", _plain(columns.need("answer")).strip(), solution
    if isinstance(cell, list) and len(cell) == 1:
        (cell,) = cell
    if isinstance(cell, list | dict):
        raise DataError(
            f"its answer is a {type(cell).__name__} of {len(cell)}; a problem has one, as text or a number."
        )
    if cell is not None:
        gold = _plain(cell).strip()
        before, answer = worked(gold)
        if answer is not None:
            solution = solution if before in ("", gold) else before
            gold = answer
    elif (answer := worked(solution)[1]) is not None:
        gold = answer
    else:
        gold, solution = solution, ""
    if not gold:
        raise columns.lacks(f"an answer: {', '.join(f'`{name}`' for name in (*NAMES['answer'], 'solution', *TESTS))}")
    return kind or kind_of(gold, text), gold, solution


def _object(cell: Any) -> Mapping[str, Any]:
    """An object, or the one that a text holds as JSON, as .csv has it; empty for anything else."""
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            cell = json.loads(cell)
    return cell if isinstance(cell, Mapping) else {}


def _plain(cell: Any) -> str:
    """A cell as text: JSON, which for a number is that number; a date, which JSON lacks, as it is written."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, int | float | list | dict):
        return json.dumps(cell, ensure_ascii=False, default=str)
    return str(cell)
