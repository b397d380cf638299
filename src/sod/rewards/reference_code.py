r"""What the paper's own code says of a program, for comparison: its scores are not ours.

It is here to say how far scores move by the judge alone, with everything that it gets wrong: it takes the text between
the first `</think>` and the second, knows one way of writing a fence, turns every `\n` and `\t` that stands in a program
into a line break or a tab, compares output to the last space, gives functions no way to return text, and counts failures
of the sandbox as the program's.
"""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from sod.errors import DataError
from sod.rewards import NO_CODE, Verdict
from sod.rewards.code_golds import as_pairs, tests_of
from sod.rewards.code_tests import SPARE_BYTES, is_cheap
from sod.rewards.functional_driver import MODULES
from sod.sandbox import Program, Sandbox

SECONDS = 30.0
MEMORY_MB = 1024
CALL = """
import json as _json, sys as _sys
_call = globals().get({name!r}) or getattr(Solution(), {name!r})
_value = _call(*[_json.loads(_line) for _line in _sys.stdin.read().split("\\n")])
print(str(_value) if isinstance(_value, (int, float, str)) and not isinstance(_value, bool) else _json.dumps(_value))
"""
"""What stands after a program to call its function and print the result."""
PRELUDE = "".join(f"from {name} import *\n" for name in MODULES.split())


class ReferenceCodeJudge:
    """Judges as the reference implementation does, where answers are programs: right if all tests passed.

    The reason gives its score: the share of tests that passed, or -1 for an attempt that it cannot run. A bare function
    is called as it is, where the reference would first make it a method of a class.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def check(self, gold: str) -> None:
        tests_of(gold)
        gold = as_pairs(gold)
        if "import_prefix" not in gold and "inputs" not in gold:
            raise DataError(
                "The reference takes tests without `import_prefix` or `inputs` for mathematics; use reward.judge = exact."
            )

    async def __call__(self, text: str, gold: str) -> Verdict:
        try:
            tests = list(_tests(_program(text), as_pairs(gold)))
        except _NoScoreError as error:
            return Verdict(outcome="wrong", reason=f"score -1: {error}")
        passed = failures = 0
        for program, expected in tests:
            result = await self._sandbox.run(program)
            passed += result.status == "ok" and expected in (None, result.stdout.rstrip("\n"))
            failures += result.status == "sandbox_error"
        reason = f"score {passed / len(tests):.2f}: {passed} of {len(tests)} tests passed"
        if failures:
            reason += f"; the sandbox failed {failures} times, which counts as wrong"
        return Verdict(outcome="right" if passed == len(tests) else "wrong", reason=reason)


class _NoScoreError(Exception):
    """The reference scores -1."""


def _program(text: str) -> str:
    """The last block that begins with "```python" at the end of its line, as the reference changes it."""
    if "</think>" in text:
        text = text.split("</think>")[1]
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    if not blocks:
        raise _NoScoreError(NO_CODE)
    program = blocks[-1].replace("\\n", "\n").replace("\\t", "\t")
    if not is_cheap(program):
        raise _NoScoreError(f"a program that is too costly to parse ({len(program)} characters)")
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _NoScoreError(type(error).__name__) from error
    return program


def _tests(program: str, gold: str) -> Iterator[tuple[Program, str | None]]:
    """The program of each test, and what it must print; None if it must only end well."""
    try:
        if "import_prefix" in gold:
            tests = list(_assertions(program, json.loads(gold)))
        elif "inputs" in gold:
            tests = list(_pairs(program, gold))
        else:
            raise _NoScoreError("tests that it takes for mathematics")
    except (ValueError, SyntaxError, LookupError, TypeError, AttributeError) as error:
        raise _NoScoreError(type(error).__name__) from error
    if not tests:
        raise _NoScoreError("ZeroDivisionError")
    return iter(tests)


def _assertions(program: str, gold: dict[str, Any]) -> Iterator[tuple[Program, None]]:
    """One program for every line of `test_code` after the first, which opens the function `check`."""
    head, *lines = [line for line in gold["test_code"].split("\n") if line]
    for line in lines:
        code = f"{gold['import_prefix']}{program}\n{head}{line}\ncheck({gold['entry_point']})"
        yield _limited(code, "prefix", ""), None


def _pairs(program: str, gold: str) -> Iterator[tuple[Program, str]]:
    """One program for every input. The tests are read as a Python literal, which has no `null`."""
    if "fn_name" in gold and "class Solution" not in program and not _is_json(gold):
        raise _NoScoreError("TypeError")  # it looks for the function's name in the text of the tests
    tests = ast.literal_eval(gold)
    name = tests.get("fn_name")
    code = f"{PRELUDE}{program}\n{CALL.format(name=name)}" if name else program
    for stdin, expected in zip(tests["inputs"], tests["outputs"], strict=False):
        yield _limited(code, str(stdin), str(expected)), str(expected).rstrip("\n")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _limited(code: str, stdin: str, expected: str) -> Program:
    room = 4 * len(expected) + SPARE_BYTES
    return Program(code=code, stdin=stdin, seconds=SECONDS, memory_mb=MEMORY_MB, output_bytes=room)
