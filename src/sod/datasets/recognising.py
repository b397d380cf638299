"""Recognise published rows: their cells, and the columns that a prompt and an answer alone would leave out.

`sod data convert` reads these columns. Without it, a row with options, a text to read or tests needs the column `kind`. It would
otherwise become a problem of mathematics with a part missing.
"""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sod.datasets.choices import option_columns
from sod.datasets.golds import kind_of, kind_of_tests
from sod.errors import DataError
from sod.rewards.kinds import KINDS, Evidence

CONTEXT = (
    "context", "passage", "article", "body", "premise", "paragraph", "story", "scenario", "narrative", "background",
    "table", "document", "excerpt", "input",
)  # fmt: skip
"""Columns with a text that stands before the question."""
MEDIA = ("image", "images", "image_path", "image_url", "picture", "figure", "video", "videos", "audio")
"""Columns with a part of a problem that is no text."""
_MEDIA_MARK = re.compile(r"<(?:image|video|audio)(?:_?\d+)?>")
_NUMBER = re.compile(r"[\s$\\{(]*(?:boxed\s*\{)?\s*-?\d[\d.,:/%\s$\\})]*")
_WORD = re.compile(r"[^\W\d_]{3,}")
CONVERSATIONS = {
    ("conversations",): True,
    ("prompt", "completion"): True,
    ("conversation",): False,
    ("chat",): False,
    ("query", "answers"): False,
    ("prompt", "response"): False,
    ("instruction", "output"): False,
    ("instruction", "response"): False,
    ("chosen", "rejected"): False,
}
"""By columns of published conversations (ShareGPT, TRL, Glaive, xLAM, Alpaca), whether `sod data convert` reads them."""
CONVERT = "Use `sod data convert FILE --out OUT`"
VERL_EXTRA = ("index", "hint", "solution")
"""Fields of verl's `extra_info` that are used."""


def cells_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cells of a published row by normalised column name, without empty ones. Fields of verl's columns are cells."""
    verl, extra = (_object(row.get(name)) for name in ("reward_model", "extra_info"))
    asked = row.get("question")
    parts = (
        {f"extra_info.{name}": cell for name, cell in extra.items() if name not in VERL_EXTRA},
        {name: extra.get(name) for name in VERL_EXTRA},
        verl,
        row,
        asked if isinstance(asked, Mapping) else {},
    )
    _check_names(row)
    cells = {normal(name): cell for part in parts for name, cell in part.items() if not _is_empty(cell)}
    if isinstance(asked, Mapping):
        del cells["question"]
    return cells


def _check_names(row: Mapping[str, Any]) -> None:
    """Raise DataError if names of columns differ in case or spaces only, and their cells in content."""
    found: dict[str, str] = {}
    for name, cell in row.items():
        other = found.setdefault(normal(name), name) if not _is_empty(cell) else name
        if other != name and row[other] != cell:
            raise DataError(f"its `{other}` and `{name}` are one column by name, but differ; keep the right one.")


def normal(name: str) -> str:
    return "_".join(name.strip().casefold().split())


def plain_kind(row: Mapping[str, Any], prompt: str, gold: str) -> str:
    """Return the kind of a row without `kind`, from its gold and the text of its prompt.

    `prompt`: the text of its prompt. Raises DataError for a row with columns that only `sod data convert` reads.
    """
    cells = cells_of(row)
    about = " ".join(str(cells.get(name, "")) for name in ("source", "data_source", "ability"))
    if options := option_columns(cells):
        raise _needs_convert("options", options, "and they are not part of the prompt")
    tests = kind_of_tests(Evidence(gold=gold, text=prompt, about=about))
    for name, kind in KINDS.items():
        own = [column for column in (*kind.gold_columns, *kind.other_columns) if column in cells]
        if found := own or ["answer"] * (name == tests):
            raise _needs_convert(kind.gold_name, found, "and the answer would be judged as mathematics")
    if text := [name for name in CONTEXT if name in cells and str(cells[name]).strip() not in prompt]:
        raise _needs_convert("a text for the question", text, "and it is not part of the prompt")
    return kind_of(gold, prompt)


def check_text(cells: Mapping[str, Any], question: str, gold: str) -> None:
    """Raise DataError for a problem that is more than text, and for a question that is in the column of its answer.

    `gold`: the gold; empty if it is not an answer.
    """
    media = [name for name in MEDIA if name in cells and not _is_hollow(cells[name])]
    mark = _MEDIA_MARK.search(question)
    if media or mark:
        what = f"{mark[0]!r} in its text" if mark and not media else _listed(media)
        raise DataError(f"it has a picture or a recording ({what}), but models read text alone. Remove the row.")
    if _NUMBER.fullmatch(question) and _WORD.search(gold):
        raise DataError(
            f"its question is the number {question.strip()!r} and its answer {gold[:40]!r} has words; they seem to be in each "
            "other's columns."
        )


def _is_hollow(cell: Any) -> bool:
    """Return whether a cell of a picture has no content, as `{"bytes": None, "path": None}`."""
    return _is_empty(cell) or (isinstance(cell, Mapping) and all(map(_is_empty, cell.values())))


def conversation_in(row: Mapping[str, Any]) -> str:
    """Return advice for a row with a conversation in other columns than `messages`; empty for any other row."""
    cells = cells_of(row)
    if not (found := next((names for names in CONVERSATIONS if all(name in cells for name in names)), None)):
        return ""
    what = (
        CONVERT
        if CONVERSATIONS[found]
        else "Write the column `messages`; `sod data convert` does not read these columns"
    )
    return (
        f"If {_listed(found)} hold a conversation to learn from: `messages` is a list of objects with `role` and `content`. "
        f"{what}."
    )


def _needs_convert(what: str, names: Any, why: str) -> DataError:
    return DataError(
        f"it has {what} in {_listed(names)} but no `kind`, {why}. {CONVERT}, or add the column `kind` if the prompt is complete."
    )


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _is_empty(cell: Any) -> bool:
    return is_missing(cell) or cell in ([], {}) or (isinstance(cell, str) and not cell.strip())


def is_missing(cell: Any) -> bool:
    """Return whether a cell has no value: None, or the NaN that pandas writes for one."""
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _object(cell: Any) -> Mapping[str, Any]:
    """Return an object, also from its JSON text as in .csv files; empty for any other cell."""
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        with suppress(ValueError, RecursionError):
            cell = json.loads(cell)
    return cell if isinstance(cell, Mapping) else {}
