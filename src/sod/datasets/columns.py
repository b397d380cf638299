"""Convert published rows, with various column names, into rows in sod's columns.

A row in sod's columns has `id`, the problem, `answer` and `kind`. It may have `answer_raw` (the published form, if it differs),
`starter` (the code that a function starts from), `solution`, `hint`, and the columns in `sod.datasets.rows.LABELS`. The problem
is in the column `problem` without wording (in benchmarks: they get it at evaluation), or in the column `prompt` as the student
reads it. Demonstrations have `messages` and `tools`.
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
"""By column of sod, its names in published files, the most likely first. Names are compared without case and spaces."""
TESTS = ("tests", "test_cases", "input_output", "public_test_cases")
"""Columns with tests. Their presence makes the kind of a problem `code`."""
VERL_EXTRA = ("index", "hint", "solution")
"""Fields of verl's `extra_info` that are used."""


class Columns:
    """Give access to the cells of a published row by sod's column names."""

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
        """Columns that were read, or that contain no part of a problem."""
        self._found = sorted(row)

    def get(self, name: str) -> Any:
        """Return the cell of one of sod's columns; None if it is missing or empty."""
        return self.one_of(NAMES[name])

    def text(self, name: str) -> str:
        """Return the cell as text; empty if it is missing."""
        cell = self.get(name)
        return cell.strip() if isinstance(cell, str) else "" if cell is None else _plain(cell)

    def one_of(self, names: tuple[str, ...]) -> Any:
        """Return the cell of the first existing column of these names; None if there is none."""
        found = next((name for name in names if name in self.cells), None)
        self.used.add(found or "")
        return self.cells.get(found or "")

    def need(self, name: str) -> Any:
        """Return the cell of one of sod's columns. Raises DataError if it is missing."""
        cell = self.get(name)
        if cell is None:
            raise self.lacks(" or ".join(f"`{other}`" for other in NAMES[name]))
        return cell

    @property
    def unused(self) -> set[str]:
        """Columns with content that was not read."""
        return self.cells.keys() - self.used

    def lacks(self, what: str) -> DataError:
        """Return the error for a missing column."""
        found = f"the columns {', '.join(self._found)}" if self._found else "no columns"
        return DataError(f"it has {found}, but needs {what}.")


def normal(name: str) -> str:
    return "_".join(name.strip().casefold().split())


def holds_demonstration(row: Row) -> bool:
    """Return whether a published row has a conversation with a message of an assistant."""
    messages = Columns(row).cells.get("messages")
    return isinstance(messages, list) and any(isinstance(m, dict) and m.get("role") == "assistant" for m in messages)


def demonstration(row: Row) -> tuple[Row, set[str]]:
    """Return a demonstration row with messages and tools, and the columns that were not read."""
    cells = Columns(row).cells
    if not cells.get("messages"):
        raise Columns(row).lacks("`messages`")
    names = ("id", "messages", "tools", "source")
    return {name: cells[name] for name in names if name in cells}, cells.keys() - names


def problem(
    row: Row, number: int, *, kind: str = "", integers: bool = False, numberings: Numberings | None = None
) -> tuple[Row, set[str]]:
    """Convert a published row into a problem row without wording. Return it and the columns that were not read.

    The column `problem` may contain messages. `kind`: the kind of all rows. Default: each row's columns and answer decide.
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
            raise DataError("its `kind` is 'math', but it has options; remove `kind` or the options.")
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
    """Return the cells of a published row by normalised column name."""
    return Columns(row).cells


def _with_text(wanted: Any, text: str) -> Any:
    """Return a problem, as text or messages, with another final text."""
    if isinstance(wanted, str):
        return text
    *before, last = wanted
    return [*before, {**last, "content": text}]


def labels(columns: Columns) -> dict[str, str]:
    return {name: text for name in LABELS if (text := columns.text(name))}


def question(row: Row, prompts: Prompts) -> Row:
    """Replace the column `problem` by `prompt`, the text that the student reads. A problem with wording keeps it."""
    wanted, kind, gold, starter = row["problem"], row["kind"], row["answer"], row.get("starter", "")
    text = wanted if isinstance(wanted, str) else _last_message(wanted)
    prompt = _with_text(wanted, asked(text, kind, prompts, gold=gold, starter=starter))
    if not isinstance(prompt, str) and len(prompt) == 1:
        prompt = prompt[0]["content"]
    rest = {name: cell for name, cell in row.items() if name not in ("id", "problem", "starter")}
    return {"id": row["id"], "prompt": prompt} | rest


def statement(row: Row) -> str:
    """Return the question in a row of sod, of verl or of demonstrations: the text of all user messages."""
    asked_for = row.get("messages") or next(
        (row[name] for name in ("prompt", "problem", "question") if row.get(name)), ""
    )
    return asked_for if isinstance(asked_for, str) else "\n".join(_user_texts(asked_for))


def check_characters(row: Row) -> None:
    """Raise DataError for a lone surrogate (half a character). JSON can contain it, but no tokenizer accepts it."""
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start]).strip("'")
        raise DataError(
            f"it contains {half}, a lone surrogate (half a character), and no tokenizer accepts it; remove it."
        ) from error


def _user_texts(messages: Any) -> Iterator[str]:
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") == "user" and isinstance(message.get("content"), str):
            yield message["content"]


def _last_message(messages: Any) -> str:
    """Return the text of the last message of a problem."""
    match messages:
        case [*_, {"role": "user", "content": str(text)}]:
            return text
    raise DataError("its problem is neither text nor a list of messages with a user's text at the end.")


def _gold(columns: Columns, text: str, kind: str) -> tuple[str, str, str]:
    """Return the kind of a problem, its gold, and its solution, empty if it has none."""
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
        raise DataError(f"its answer is a {type(cell).__name__} of {len(cell)}; give one answer, as text or a number.")
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
    """Return an object, also from its JSON text as in .csv files; empty for any other cell."""
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            cell = json.loads(cell)
    return cell if isinstance(cell, Mapping) else {}


def _plain(cell: Any) -> str:
    """Return a cell as text: numbers, lists and objects as JSON, a date as it is written."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, int | float | list | dict):
        return json.dumps(cell, ensure_ascii=False, default=str)
    return str(cell)
