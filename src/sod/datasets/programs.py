"""Convert HumanEval, MBPP, KodCode and sets with their columns: functions to write, with tests in Python.

HumanEval's gold is `{"test_code": ..., "entry_point": ..., "import_prefix": ...}`: the published `test` with its function
`check`, and the code before the function in the prompt (imports, helper functions). MBPP's gold is
`{"assert_case": [...], "import_prefix": ...}`: all assertions, including `challenge_test_list`, and the set-up. KodCode's gold is
`{"assert_case": [...], "entry_point": ...}`: its file for pytest without the import of the solution, and a call of each test.
"""

import ast
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sod.datasets.choices import as_value
from sod.errors import DataError

LISTS = ("test_list", "challenge_test_list")
SETUP = ("test_imports", "test_setup_code")


@dataclass(frozen=True, slots=True)
class ConvertedProgram:
    """A converted problem."""

    row: dict[str, Any]
    """The row in sod's columns, without id and labels."""
    columns: frozenset[str]
    """The published columns that were read."""


def published(cells: Mapping[str, Any]) -> ConvertedProgram | None:
    """Return the problem in a row with columns of HumanEval or MBPP; None for any other row."""
    if isinstance(cells.get("test"), str) and isinstance(cells.get("entry_point"), str):
        return _with_check(cells)
    if isinstance(cells.get("test"), str) and _is_code(cells.get("solution")):
        return _with_pytest(cells)
    return _with_assertions(cells) if "test_list" in cells else None


def _with_check(cells: Mapping[str, Any]) -> ConvertedProgram:
    prompt, test, name = cells.get("prompt"), cells["test"], cells["entry_point"].strip()
    if not isinstance(prompt, str) or not (start := re.search(rf"^def {re.escape(name)}\b", prompt, re.MULTILINE)):
        raise DataError(f"it has `test` and `entry_point`, but its `prompt` does not begin the function {name!r}.")
    gold = {"test_code": test, "entry_point": name}
    if before := prompt[: start.start()].strip():
        gold["import_prefix"] = f"{before}\n\n\n"
    solution = cells.get("canonical_solution")
    row = _row(f"Write the Python function `{name}`.", gold, prompt, f"{prompt}{solution}" if solution else "")
    return ConvertedProgram(row, frozenset({"prompt", "test", "entry_point", "canonical_solution"}))


def _with_assertions(cells: Mapping[str, Any]) -> ConvertedProgram:
    text = cells.get("text") or cells.get("prompt")
    if not isinstance(text, str):
        raise DataError("it has `test_list`, but no task: give it in `text` or `prompt`.")
    tests = [test for name in LISTS for test in _texts(cells, name)]
    setup = "\n".join(line for name in SETUP for line in _texts(cells, name))
    code = cells.get("code") or ""
    gold = {"assert_case": tests} | ({"import_prefix": f"{setup}\n"} if setup.strip() else {})
    row = _row(text, gold, _signature(code, tests), code)
    return ConvertedProgram(row, frozenset({"text" if cells.get("text") else "prompt", "code", *LISTS, *SETUP}))


def _with_pytest(cells: Mapping[str, Any]) -> ConvertedProgram:
    column = next((name for name in ("question", "problem", "prompt", "instruction") if name in cells), "")
    if not isinstance(text := cells.get(column), str):
        raise DataError("it has `solution` and `test`, but no task: give it in `question`.")
    source, names = _called_tests(cells["test"])
    gold = {"assert_case": [source]} | ({"entry_point": f"({', '.join(names)},)"} if names else {})
    row = _row(text, gold, _starter(cells["solution"], names, source), cells["solution"])
    return ConvertedProgram(row, frozenset({column, "solution", "test"}))


def _starter(code: str, names: list[str], test: str) -> str:
    """Return the first lines of the functions and classes that a test imports, or calls if it imports none."""
    lines = {
        node.name: f"def {node.name}({ast.unparse(node.args)}):"
        if isinstance(node, ast.FunctionDef)
        else f"class {node.name}:"
        for node in _body(code)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    return "\n".join(line for name, line in lines.items() if (name in names if names else f"{name}(" in test))


def _called_tests(test: str) -> tuple[str, list[str]]:
    """Return the source of a file for pytest as plain Python, and the names that it imports from the solution.

    Raises DataError for a file that needs pytest itself, or that runs the program in another way.
    """
    try:
        body = ast.parse(test).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"its `test` is not Python ({error}). Give assertions, in `test_list`.") from error
    ours = [node for node in body if isinstance(node, ast.ImportFrom) and node.module == "solution"]
    names = [alias.name for node in ours for alias in node.names if alias.name != "*"]
    rest = [node for node in body if node not in ours]
    functions = [node for node in rest if isinstance(node, ast.FunctionDef) and node.name.startswith("test")]
    modules = {alias.name for node in rest if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "." for node in ast.walk(ast.Module(rest, [])) if isinstance(node, ast.ImportFrom)}
    other = sorted(name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names)
    if other:
        raise DataError(
            f"its `test` imports {other[0]}, but tests have only Python's library. Give assertions, in `test_list`."
        )
    if any(alias.asname for node in ours for alias in node.names):
        raise DataError("its `test` imports the solution under another name. Give assertions, in `test_list`.")
    if any(node.args.args or node.decorator_list for node in functions) or any(
        isinstance(n, ast.ClassDef) for n in rest
    ):
        raise DataError("its `test` has parameters, decorators or classes of pytest. Give assertions, in `test_list`.")
    calls = [ast.Expr(ast.Call(ast.Name(node.name, ast.Load()), [], [])) for node in functions]
    return ast.unparse(ast.fix_missing_locations(ast.Module([*rest, *calls], []))), names


def _is_code(cell: Any) -> bool:
    """Return whether a cell is Python with a function or a class, possibly in a fence."""
    return isinstance(cell, str) and re.search(r"^(?:async )?(?:def|class) \w+", cell, re.MULTILINE) is not None


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
    functions = [node for node in _body(code) if isinstance(node, ast.FunctionDef)]
    called = next((node for node in reversed(functions) if any(f"{node.name}(" in test for test in tests)), None)
    return f"def {called.name}({ast.unparse(called.args)}):" if called else ""


def _body(code: str) -> list[ast.stmt]:
    """Return the statements of a program; [] if it is not Python."""
    try:
        return ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
