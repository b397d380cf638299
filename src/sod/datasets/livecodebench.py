"""Convert LiveCodeBench. The gold of a problem is all of its tests; private tests stay packed as published.

LiveCodeBench's rule accepts only the one expected output. Problems with other right outputs are judged by this rule as well. They
are marked in the column `flag`, so that results can list them separately.
"""

import json

from sod.datasets.columns import Columns
from sod.datasets.rows import Row

SEVERAL_OUTPUTS = {"abc396_e", "abc397_d", "abc398_f", "arc190_a", "arc191_c"}
TOLERANCE = {"abc392_d"}
"""Ids of problems that accept other outputs. Both sets were compiled by hand from the statements of version 6."""
_COLUMNS = {"question_content", "public_test_cases", "private_test_cases", "contest_date"}
_PRIVATE = '"private_test_cases": '


def has_columns(row: Row) -> bool:
    """Return whether a row has LiveCodeBench's columns, private tests included."""
    return row.keys() >= _COLUMNS


def livecodebench_problem(row: Row) -> Row:
    """Convert a published row into a row in sod's columns, with the columns `title` and `date`."""
    columns = Columns(row)
    date, tests = columns.one_of(("contest_date",)), columns.one_of(("public_test_cases", "private_test_cases"))
    if date is None or tests is None:
        raise columns.lacks("`question_id`, `question_content`, `contest_date` and `public_test_cases`")
    return _problem(columns, str(date)[:10])


def public_only(answer: str) -> bool:
    """Return whether a gold has no private tests."""
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
