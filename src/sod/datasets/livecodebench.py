"""LiveCodeBench: a problem, and as its gold all of its tests, the private ones packed as they are published.

Its rule compares what a program prints with the one expected output. Problems that admit others are marked in the column
`flag`: they are judged by that rule all the same, as everywhere, and can be looked at apart.
"""

import json

from sod.datasets.columns import Columns
from sod.datasets.rows import Row

SEVERAL_OUTPUTS = {"abc396_e", "abc397_d", "abc398_f", "arc190_a", "arc191_c"}
TOLERANCE = {"abc392_d"}
"""Read from the statements of version 6, by hand."""
_PRIVATE = '"private_test_cases": '


def problem(row: Row) -> Row:
    """A published row as a row of ours, with further columns `title` and `date`."""
    columns = Columns(row)
    date, tests = columns.one_of(("contest_date",)), columns.one_of(("public_test_cases", "private_test_cases"))
    if date is None or tests is None:
        raise columns.lacks("`question_id`, `question_content`, `contest_date` and `public_test_cases`")
    return _problem(columns, str(date)[:10])


def public_only(answer: str) -> bool:
    """Whether a gold has no private tests."""
    return _PRIVATE not in answer


def _problem(columns: Columns, date: str) -> Row:
    id = columns.text("id")
    names = ("public_test_cases", "private_test_cases", "metadata")
    gold = {name: cell for name in names if (cell := columns.one_of((name,))) not in (None, [], "[]")}
    row: Row = {
        "id": id,
        "problem": str(columns.need("problem")).replace("\r\n", "\n"),
        "answer": json.dumps(gold, ensure_ascii=False),
        "kind": "code",
        "starter": columns.get("starter"),
        "title": columns.one_of(("question_title",)),
        "date": date,
        "difficulty": columns.get("difficulty"),
        "domain": columns.one_of(("platform",)),
        "flag": "several outputs" if id in SEVERAL_OUTPUTS else "tolerance" if id in TOLERANCE else None,
    }
    return {name: cell for name, cell in row.items() if cell is not None}
