r"""Judge programs as the paper's code does, to measure how much the judge alone changes scores.

Its scores are not comparable with those of `sod.rewards.code`. It reproduces the errors of the paper's code. That code

- reads the text between the first and the second `</think>`,
- accepts only one form of a fence,
- replaces every `\n` and `\t` in a program by a line break or a tab,
- compares output including the last space,
- rejects every function that returns text,
- counts failures of the sandbox as failures of the program.
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
"""Source after a program that calls its function and prints the result."""
PRELUDE = "".join(f"from {name} import *\n" for name in MODULES.split())


class ReferenceCodeJudge:
    """Judge programs as the reference implementation does: right if all tests pass.

    The reason contains its score: the share of tests that pass, or -1 for an attempt that it cannot run. A bare function is
    called directly; the reference first turns it into a method of a class.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def check(self, gold: str) -> None:
        tests_of(gold)
        gold = as_pairs(gold)
        if "import_prefix" not in gold and "inputs" not in gold:
            raise DataError(
                "The gold answer has neither `import_prefix` nor `inputs`. The reference judges such tests as a gold for "
                "mathematics; use reward.judge = exact."
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
    """The reference gives the score -1."""


def _program(text: str) -> str:
    """Return the last block after a line that ends with "```python", with the changes that the reference makes."""
    if "</think>" in text:
        text = text.split("</think>")[1]
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    if not blocks:
        raise _NoScoreError(NO_CODE)
    program = blocks[-1].replace("\\n", "\n").replace("\\t", "\t")
    if not is_cheap(program):
        raise _NoScoreError(f"the program is too costly to parse ({len(program)} characters)")
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _NoScoreError(type(error).__name__) from error
    return program


def _tests(program: str, gold: str) -> Iterator[tuple[Program, str | None]]:
    """Return the program and the expected output of each test; None if the program only has to end without an error."""
    try:
        if "import_prefix" in gold:
            tests = list(_assertions(program, json.loads(gold)))
        elif "inputs" in gold:
            tests = list(_pairs(program, gold))
        else:
            raise _NoScoreError("the reference judges these tests as mathematics")
    except (ValueError, SyntaxError, LookupError, TypeError, AttributeError) as error:
        raise _NoScoreError(type(error).__name__) from error
    if not tests:
        raise _NoScoreError("ZeroDivisionError")
    return iter(tests)


def _assertions(program: str, gold: dict[str, Any]) -> Iterator[tuple[Program, None]]:
    """Yield one program per line of `test_code`. The first line opens the function `check` and is part of each program."""
    head, *lines = [line for line in gold["test_code"].split("\n") if line]
    for line in lines:
        code = f"{gold['import_prefix']}{program}\n{head}{line}\ncheck({gold['entry_point']})"
        yield _limited(code, "prefix", ""), None


def _pairs(program: str, gold: str) -> Iterator[tuple[Program, str]]:
    """Yield one program per input. The tests are parsed as a Python literal, so `null` is an error."""
    if "fn_name" in gold and "class Solution" not in program and not _is_json(gold):
        raise _NoScoreError("TypeError")  # the reference looks up the function's name in the text of the tests
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
