"""Convert published rows, with various column names, into rows in sod's columns.

A row in sod's columns has `id`, the problem, `answer` and `kind`. It may have `answer_raw` (the published form, if it differs),
`starter` (the code that a function starts from), `solution`, `hint`, and the columns in `sod.datasets.rows.LABELS`. The problem
is in the column `problem` without wording (in benchmarks: they get it at evaluation), or in the column `prompt` as the student
reads it. Demonstrations have `messages` and `tools`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from string import ascii_uppercase
from typing import Any

from sod.datasets import programs
from sod.datasets.choices import OPTION_LISTS, Numberings, as_value, read_choice, with_options
from sod.datasets.golds import canonical, kind_of, kind_of_tests, number_text
from sod.datasets.recognising import CONTEXT, cells_of, check_text, conversation_in, normal
from sod.datasets.rows import LABELS, Row, demonstration_of, messages_in
from sod.datasets.spellings import ANSWERS, check_answer, check_question, check_solution
from sod.datasets.wording import asked
from sod.errors import DataError
from sod.rewards.answers import repaired
from sod.rewards.golds import worked
from sod.rewards.kinds import KINDS, Evidence, Prompts, find_kind

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
    "answer": (
        *ANSWERS,
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
SPEAKERS = {"human": "user", "gpt": "assistant", "observation": "tool"}
"""Roles of ShareGPT and of LLaMA-Factory with another name."""
SHOWN = 60
"""Characters of a solution in an error."""
LONGEST_VALUE = 80
"""Characters. A longer solution is a text, not an answer."""
_WORD = re.compile(r"(?<!\S)[^\W\d_]{2,}(?:['’-][^\W\d_]+)*[.,;:!?]*(?=\s|$)|[\u3040-\u9fff\uac00-\ud7af]{2}")
"""A word between spaces, or two characters of a script without spaces."""
_COUNTED = re.compile(r"(-?\d[\d,./]*)\s*\((?!base|mod)[^\W\d_]+(?: [^\W\d_]+)*\)")
"""ASDiv: a number and what it counts, `9 (apples)`."""


class Columns:
    """Give access to the cells of a published row by sod's column names."""

    def __init__(self, row: Row) -> None:
        self.cells = cells_of(row)
        self.used = {"reward_model", "extra_info", "style", "extra_info.split"}
        """Columns that were read, or that contain no part of a problem."""
        self._found = sorted(row)

    def get(self, name: str) -> Any:
        """Return the cell of one of sod's columns; None if it is missing or empty."""
        return self.one_of(NAMES[name])

    def text(self, name: str) -> str:
        """Return the cell as text; empty if it is missing."""
        return _stripped(self.get(name))

    def plain(self, name: str) -> str:
        """Return the cell of a published column as text; empty if it is missing."""
        return _stripped(self.one_of((name,)))

    def one_of(self, names: tuple[str, ...]) -> Any:
        """Return the cell of the first existing column of these names; None if there is none."""
        found = next((name for name in names if name in self.cells), None)
        if found is None:
            return None
        self.used.add(found)
        return self.cells[found]

    def empty(self, names: tuple[str, ...]) -> str:
        """Return the first of these columns that the row has without content; "" if there is none."""
        there = {normal(name) for name in self._found} - self.cells.keys()
        return next((name for name in names if name in there), "")

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


def holds_demonstration(row: Row) -> bool:
    """Return whether a published row has a conversation with a message of an assistant."""
    messages, _ = _conversation(cells_of(row))
    return isinstance(messages, list) and any(isinstance(m, dict) and m.get("role") == "assistant" for m in messages)


def demonstration(row: Row) -> tuple[Row, set[str]]:
    """Return a demonstration row with messages and tools, and the columns that were not read.

    Raises DataError for a demonstration that training refuses, or that teaches a malformed call.
    """
    cells = cells_of(row)
    messages, columns = _conversation(cells)
    if not messages:
        raise Columns(row).lacks("`messages`")
    ours = {"messages": messages} | {name: cells[name] for name in ("tools", "functions") if name in cells}
    made = demonstration_of(ours, 0)
    if made.malformed:
        raise DataError(f"an assistant message has a call that cannot be read. {made.malformed[0]}")
    if ours.pop("functions", None):
        ours["tools"] = made.tools
    kept = {name: cells[name] for name in ("id", "source") if name in cells}
    return kept | ours, cells.keys() - {"id", "source", "tools", "functions", *columns}


def _conversation(cells: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """Return the messages of a row in a published shape, and their columns; None if it has none."""
    match cells:
        case {"messages": str(text)}:
            return messages_in(text), ("messages",)
        case {"messages": messages}:
            return messages, ("messages",)
        case {"conversations": turns} if isinstance(turns := as_value(turns), list):
            first = [{"role": "system", "content": cells["system"]}] if "system" in cells else []
            return [*first, *map(_turn, turns)], ("conversations", "system")
        case {"prompt": prompt, "completion": completion} if not any(name in cells for name in NAMES["answer"]):
            pair = (("user", prompt), ("assistant", completion))
            parts = [each if isinstance(each, list) else [{"role": role, "content": each}] for role, each in pair]
            return [message for part in parts for message in part], ("prompt", "completion")
    return None, ()


def _turn(turn: Any) -> Any:
    """Return a message of ShareGPT (`from`, `value`) with `role` and `content`."""
    if not isinstance(turn, dict) or "from" not in turn:
        return turn
    rest = {name: cell for name, cell in turn.items() if name not in ("from", "value")}
    return rest | {"role": SPEAKERS.get(turn["from"], turn["from"]), "content": turn.get("value")}


def converted_problem(
    row: Row, number: int, *, kind: str = "", integers: bool = False, numberings: Numberings | None = None
) -> tuple[Row, set[str]]:
    """Convert a published row into a problem row without wording. Return it and the columns that were not read.

    The column `problem` may contain messages. `kind`: the kind of all rows. Default: each row's columns and answer decide.
    """
    columns = Columns(row)
    if kind := kind or columns.text("kind"):
        find_kind(kind)
    if (program := programs.published(columns.cells)) is not None and kind in ("", program.row["kind"]):
        columns.used |= program.columns
        ours: Row = {"id": columns.text("id") or str(number), **program.row}
        return ours | labels(columns), columns.unused
    if not any(columns.get(name) for name in ("answer", "solution")) and (why := conversation_in(row)):
        raise DataError(f"it has no answer to judge. {why}")
    check_question(columns.cells)
    wanted = columns.need("problem")
    wanted = (messages_in(wanted) or wanted) if isinstance(wanted, str) else wanted
    text = wanted if isinstance(wanted, str) else _last_message(wanted)
    if not text.strip():
        raise DataError("the text of its problem is empty; give the question.")
    choice = read_choice(columns.cells) if not kind or KINDS[kind].gold_is_answer else None
    if choice is not None:
        if kind and not KINDS[kind].has_options:
            raise DataError(f"its `kind` is {kind!r}, but it has options; remove `kind` or the options.")
        columns.used |= choice.columns
        kind, solution = kind or "choice", columns.text("solution")
        answer = gold = choice.letter(numberings or Numberings(lambda: iter([columns.cells])))
    else:
        kind, gold, solution = _gold(columns, text, kind)
        if len(gold) == 1 and gold in ascii_uppercase and (empty := columns.empty(OPTION_LISTS)):
            raise DataError(
                f"its answer is the letter {gold}, but its `{empty}` has no options. Add them, or remove the row."
            )
        check_answer(columns.cells, kind)
        check_solution(kind, gold, solution)
        answer = canonical(kind, gold, integers=integers)
    check_text(columns.cells, text, gold if KINDS[kind].gold_is_answer else "")
    contexts = [columns.plain(name) for name in CONTEXT]
    text = "\n\n".join((*(each for each in contexts if each and each not in text), text))
    ours = {
        "id": columns.text("id") or str(number),
        "problem": _with_text(wanted, with_options(text, choice.options) if choice else text),
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
    for name, own in KINDS.items():
        if kind in ("", name) and (cell := columns.one_of(own.gold_columns)) is not None:
            return name, _plain(cell), solution
    cell = columns.get("answer")
    about = f"{columns.text('source')} {columns.plain('ability')}"
    if (tests := kind or kind_of_tests(Evidence(gold=cell, text=text, about=about))) and not KINDS[
        tests
    ].gold_is_answer:
        return tests, canonical(tests, _plain(columns.need("answer"))), solution
    if isinstance(cell, list) and len(cell) == 1:
        (cell,) = cell
    if isinstance(cell, list | dict):
        raise DataError(f"its answer is a {type(cell).__name__} of {len(cell)}; give one answer, as text or a number.")
    if cell is not None:
        gold = number_text(cell).removesuffix(".0") if isinstance(cell, float) else repaired(_plain(cell)).strip()
        before, answer = worked(gold)
        if answer is not None:
            solution = solution if before in ("", gold) else before
            gold = answer
        elif counted := _COUNTED.fullmatch(gold):
            gold = counted[1]
    elif (answer := worked(solution)[1]) is not None:
        gold = answer
    elif _is_value(solution):
        gold, solution = solution, ""
    elif solution:
        raise DataError(
            f"it has no `answer`, and its `solution` marks none: {solution[:SHOWN]!r}. Mark the answer as \\boxed{{...}}, "
            "`#### ...` or `The answer is ...`, or write it to the column `answer`."
        )
    else:
        gold = ""
    if not gold:
        golds = [name for own in KINDS.values() for name in own.gold_columns]
        raise columns.lacks(f"an answer: {', '.join(f'`{name}`' for name in (*NAMES['answer'], 'solution', *golds))}")
    return kind or kind_of(gold, text), gold, solution


def _is_value(text: str) -> bool:
    """Return whether a text without a marked answer is the answer: one line without words, as `128` or `x^2 + \\pi`."""
    return "\n" not in text and len(text) <= LONGEST_VALUE and bool(text) and _WORD.search(text) is None


def _stripped(cell: Any) -> str:
    return "" if cell is None else _plain(cell).strip()


def _plain(cell: Any) -> str:
    """Return a cell as text: numbers, lists and objects as JSON, a date as it is written."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, float):
        return number_text(cell)
    if isinstance(cell, int | list | dict):
        return json.dumps(cell, ensure_ascii=False, default=str)
    return str(cell)
