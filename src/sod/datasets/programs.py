"""Convert HumanEval, MBPP and sets with their columns: functions to write, with tests in Python.

HumanEval's gold is `{"test_code": ..., "entry_point": ..., "import_prefix": ...}`: the published `test` with its function
`check`, and the code before the function in the prompt (imports, helper functions). MBPP's gold is
`{"assert_case": [...], "import_prefix": ...}`: all assertions, including `challenge_test_list`, and the set-up.
"""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sod.datasets.choices import as_value
from sod.errors import DataError

LISTS = ("test_list", "challenge_test_list")
SETUP = ("test_imports", "test_setup_code")


@dataclass(frozen=True, slots=True)
class Program:
    """A converted problem."""

    row: dict[str, Any]
    """The row in sod's columns, without id and labels."""
    columns: frozenset[str]
    """The published columns that were read."""


def published(cells: Mapping[str, Any]) -> Program | None:
    """Return the problem in a row with columns of HumanEval or MBPP; None for any other row."""
    if isinstance(cells.get("test"), str) and isinstance(cells.get("entry_point"), str):
        return _with_check(cells)
    return _with_assertions(cells) if "test_list" in cells else None


def _with_check(cells: Mapping[str, Any]) -> Program:
    prompt, test, name = cells.get("prompt"), cells["test"], cells["entry_point"].strip()
    if not isinstance(prompt, str) or not (start := re.search(rf"^def {re.escape(name)}\b", prompt, re.MULTILINE)):
        raise DataError(f"it has `test` and `entry_point`, but its `prompt` does not begin the function {name!r}.")
    gold = {"test_code": test, "entry_point": name}
    if before := prompt[: start.start()].strip():
        gold["import_prefix"] = f"{before}\n\n\n"
    solution = cells.get("canonical_solution")
    row = _row(f"Write the Python function `{name}`.", gold, prompt, f"{prompt}{solution}" if solution else "")
    return Program(row, frozenset({"prompt", "test", "entry_point", "canonical_solution"}))


def _with_assertions(cells: Mapping[str, Any]) -> Program:
    text = cells.get("text") or cells.get("prompt")
    if not isinstance(text, str):
        raise DataError("it has `test_list`, but no task: give it in `text` or `prompt`.")
    tests = [test for name in LISTS for test in _texts(cells, name)]
    setup = "\n".join(line for name in SETUP for line in _texts(cells, name))
    code = cells.get("code") or ""
    gold = {"assert_case": tests} | ({"import_prefix": f"{setup}\n"} if setup.strip() else {})
    row = _row(text, gold, _signature(code, tests), code)
    return Program(row, frozenset({"text" if cells.get("text") else "prompt", "code", *LISTS, *SETUP}))


def _row(problem: str, gold: dict[str, Any], starter: str, solution: str) -> dict[str, Any]:
    row = {"problem": problem, "answer": json.dumps(gold, ensure_ascii=False), "kind": "code"}
    return row | {name: cell for name, cell in (("starter", starter), ("solution", solution)) if cell.strip()}


def _texts(cells: Mapping[str, Any], name: str) -> list[str]:
    """Return the texts in a column that contains a text or a list of texts."""
    cell = as_value(cells.get(name) or [])
    texts = [cell] if isinstance(cell, str) else cell
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"its `{name}` is neither text nor a list of texts.")
    return texts


def _signature(code: str, tests: list[str]) -> str:
    """Return the first line of the function that the tests call; empty if the published solution does not contain it."""
    try:
        functions = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    called = next((node for node in reversed(functions) if any(f"{node.name}(" in test for test in tests)), None)
    return f"def {called.name}({ast.unparse(called.args)}):" if called else ""
