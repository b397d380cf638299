"""Define the tests of a program: what each one runs, and how it judges the result.

The program's process never contains an expected value. There are three kinds of tests:

- `StdinTest`: the program runs unchanged and reads standard input. Its output is compared by LiveCodeBench's rule: line by line,
  without space around lines, numbers by value.
- `CallTest`: `sod.rewards.functional_driver` calls a function. Its result must equal the expected value.
- `ScriptTest`: `sod.rewards.check_driver` runs any other test in Python.
"""

import ast
import json
import re
import warnings
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, Protocol

from sod.errors import DataError
from sod.rewards import check_driver, functional_driver
from sod.rewards.functional_driver import PROGRAM
from sod.sandbox import Program

DRIVER = Path(functional_driver.__file__).read_text(encoding="utf-8")
CHECK_DRIVER = Path(check_driver.__file__).read_text(encoding="utf-8")
CHECK = f"""import sys, functional_driver
sys.modules[{functional_driver.__name__!r}] = functional_driver
{CHECK_DRIVER}"""
"""The source of the test driver, as a program. It imports the functional driver from a file beside it."""
CONVERSATION_BYTES = 8 << 20
"""Limit on the calls that a test makes, and on the replies to them."""
DETAIL_CHARACTERS = 120
"""Limit on an explanation in a verdict or an error."""
SPARE_BYTES = 1 << 20
"""Bytes kept of a program's output, in addition to four times the expected output. Longer output differs, except in space."""

TestStatus = Literal["passed", "wrong answer", "timeout", "error", "ungraded"]


class Test(Protocol):
    """One test of a program."""

    @property
    def names(self) -> frozenset[str]:
        """Names of which the program must define one; empty if it reads standard input."""
        ...

    def program(self, code: str, *, seconds: float, memory_mb: int) -> Program:
        """Return the program that the sandbox runs."""
        ...

    def judge(self, output: str) -> TestStatus:
        """Return the status of a program that ended without an error, from its output."""
        ...


# Tests of programs that read standard input


@dataclass(frozen=True, slots=True)
class StdinTest:
    """A test with an input and the expected output."""

    stdin: str
    expected: str

    @property
    def names(self) -> frozenset[str]:
        return frozenset()

    def program(self, code: str, *, seconds: float, memory_mb: int) -> Program:
        return Program(
            code=code,
            stdin=self.stdin,
            seconds=seconds,
            memory_mb=memory_mb,
            output_bytes=4 * len(self.expected) + SPARE_BYTES,
        )

    def judge(self, output: str) -> TestStatus:
        return "passed" if same_output(output, self.expected) else "wrong answer"


def same_output(found: str, expected: str) -> bool:
    """Return whether two outputs are equal by LiveCodeBench's rule.

    Both have the same number of lines. Two lines are equal as text without surrounding space, or as lists of numbers.
    """
    ours, theirs = _lines(found), _lines(expected)
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _same_line(found: str, expected: str) -> bool:
    if found == expected:
        return True
    try:
        return [Decimal(word) for word in found.split()] == [Decimal(word) for word in expected.split()]
    except InvalidOperation:  # a word, or a signaling NaN
        return False


# Tests of functions


@dataclass(frozen=True, slots=True)
class CallTest:
    """A test with a call and its accepted results."""

    request: str
    """The job for `sod.rewards.functional_driver`, as JSON."""
    accepted: tuple[Any, ...]
    """Accepted values, in the driver's form. One of them must be equal."""
    names: frozenset[str]
    output_bytes: int
    """Limit on the reply, in bytes."""

    def program(self, code: str, *, seconds: float, memory_mb: int) -> Program:
        return Program(
            code=DRIVER,
            stdin=self.request,
            files={PROGRAM: code},
            seconds=seconds,
            memory_mb=memory_mb,
            output_bytes=self.output_bytes,
        )

    def judge(self, output: str) -> TestStatus:
        """Return the status for a reply; `error` if there is none, for example because the program exits during a call."""
        try:
            value = json.loads(output)
        except (ValueError, RecursionError):
            return "error"
        return "passed" if any(same_value(value, expected) for expected in self.accepted) else "wrong answer"


@dataclass(frozen=True, slots=True)
class ScriptTest:
    """A test in Python. It runs in one process, and the program that it calls in another."""

    request: str
    """The job for `sod.rewards.check_driver`, as JSON."""
    prefix: str
    """Source that runs before the program."""
    names: frozenset[str]

    def program(self, code: str, calls: str, *, seconds: float, memory_mb: int) -> Program:
        """Return the sandbox program that performs calls of the student's program. `calls`: a list, as JSON."""
        return Program(
            code=DRIVER,
            stdin=f'{{"prefix": {json.dumps(self.prefix)}, "calls": {calls}}}',
            files={PROGRAM: code},
            seconds=seconds,
            memory_mb=memory_mb,
            output_bytes=CONVERSATION_BYTES,
        )

    def check(self, calls: str, replies: str, *, seconds: float, memory_mb: int) -> Program:
        """Return the sandbox program that runs the test with these replies. It does not contain the student's program."""
        return Program(
            code=CHECK,
            stdin=self.request,
            files={"functional_driver.py": DRIVER, check_driver.CALLS: calls, check_driver.REPLIES: replies},
            seconds=seconds,
            memory_mb=memory_mb,
            output_bytes=CONVERSATION_BYTES,
        )


def call_test(request: dict[str, Any], accepted: list[Any], names: set[str]) -> CallTest:
    """Return a test of a call. Raises DataError for expected values that no result can equal, such as NaN."""
    if not all(same_value(value, value) for value in accepted):
        raise DataError(
            f"The expected value {json.dumps(accepted[0])[:DETAIL_CHARACTERS]} cannot be compared: it is not equal to itself."
        )
    output_bytes = 4 * len(json.dumps(accepted)) + SPARE_BYTES
    return CallTest(json.dumps(request), tuple(accepted), frozenset(names), output_bytes)


def same_value(found: Any, expected: Any) -> bool:
    """Return whether two values in the driver's form are equal by Python's rules: 1, 1.0 and True are.

    The time is bounded by the size of the expected value, also for a forged reply.
    """
    try:
        return _same_value(found, expected)
    except (TypeError, ValueError, RecursionError):  # a forged reply
        return False


def _same_value(found: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(_same_value, found, expected))
    if not isinstance(expected, dict):
        return not isinstance(found, list | dict) and found == expected
    if not isinstance(found, dict) or found.keys() != expected.keys():
        return False
    [kind] = expected
    ours, theirs = found[kind], expected[kind]
    if kind == "other" or len(ours) != len(theirs):
        return False
    if kind == "set":
        return {_key(item) for item in ours} == {_key(item) for item in theirs}
    if kind == "dict":
        ours, theirs = ({_key(key): value for key, value in pairs} for pairs in (ours, theirs))
        return ours.keys() == theirs.keys() and all(_same_value(ours[key], theirs[key]) for key in theirs)
    return _same_value(ours, theirs)


def _key(value: Any) -> Any:
    """Return a hashable value for a set or a dict key. An object is returned unchanged and is not hashable."""
    return tuple(map(_key, value)) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class Tests:
    """All tests of a problem."""

    tests: tuple[Test | ScriptTest, ...]
    seconds: float | None = None
    """Time limit of each test, in seconds. Default: the limit of the judge."""
    special: bool = False
    """Whether an output that differs from the expected one may still be right."""

    @property
    def names(self) -> frozenset[str]:
        return frozenset().union(*(test.names for test in self.tests))


# Source

LONGEST_PARSED = 1 << 16
"""Characters of a student's code blocks that are parsed. Parsing a megabyte can take seconds."""
DOTTED = re.compile(r"(?:\.[\s\\]*\w+[\s\\]*){100}")
"""A dotted name with 100 parts or more (`import a.a.a`). CPython's memory use is quadratic in its length."""


def is_cheap(source: str) -> bool:
    """Return whether untrusted source can be parsed within a second and 200 MB."""
    return len(source) <= LONGEST_PARSED and not DOTTED.search(source)


def parsed(source: str) -> ast.Module | None:
    """Return the syntax tree; None if the source cannot be parsed."""
    try:
        with warnings.catch_warnings():  # for example about invalid escapes
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
