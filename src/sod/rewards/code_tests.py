"""One test of a program: what it runs, and whether what came of it is right. The program never holds what is expected.

A program that reads standard input runs as it is, and what it prints is compared as LiveCodeBench compares it: line by
line, without the space around lines, numbers by their value. A function is called by `sod.rewards.functional_driver`, and
what it returns must equal what is expected. A test that is more than that is run by `sod.rewards.check_driver`.
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
"""A program: the driver of tests, which finds the other one beside it."""
CONVERSATION_BYTES = 8 << 20
"""Kept of the calls that a test makes, and of the replies to them."""
DETAIL_CHARACTERS = 120
"""Of a text that explains something."""
SPARE_BYTES = 1 << 20
"""Kept of a program's output, beyond four times what is expected; nothing longer can be equal, but for empty space."""

TestStatus = Literal["passed", "wrong answer", "timeout", "error", "ungraded"]


class Test(Protocol):
    """One test of a program."""

    @property
    def names(self) -> frozenset[str]:
        """The program must define one of them; empty if it is to read standard input."""
        ...

    def program(self, code: str, *, seconds: float, memory_mb: int) -> Program:
        """What the sandbox runs."""
        ...

    def judge(self, output: str) -> TestStatus:
        """Of what a program printed that ended well."""
        ...


# Tests of programs that read standard input


@dataclass(frozen=True, slots=True)
class StdinTest:
    """What a program reads, and what it should print."""

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
    """LiveCodeBench's rule: as many lines, and each the same but for the space around it, or the same numbers."""
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
    """A call, as the driver understands it, and what should come of it."""

    request: str
    accepted: tuple[Any, ...]
    """Values as the driver writes them, any of which will do."""
    names: frozenset[str]
    output_bytes: int
    """What a reply may need."""

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
        """`error` if there is no reply, as when a program exits in the middle of a call."""
        try:
            value = json.loads(output)
        except (ValueError, RecursionError):
            return "error"
        return "passed" if any(same_value(value, expected) for expected in self.accepted) else "wrong answer"


@dataclass(frozen=True, slots=True)
class ScriptTest:
    """A test in Python: it runs in one process, and what it calls in another."""

    request: str
    """What `sod.rewards.check_driver` reads."""
    prefix: str
    """Source that precedes the program."""
    names: frozenset[str]

    def program(self, code: str, calls: str, *, seconds: float, memory_mb: int) -> Program:
        """What answers these calls, which are JSON."""
        return Program(
            code=DRIVER,
            stdin=f'{{"prefix": {json.dumps(self.prefix)}, "calls": {calls}}}',
            files={PROGRAM: code},
            seconds=seconds,
            memory_mb=memory_mb,
            output_bytes=CONVERSATION_BYTES,
        )

    def check(self, calls: str, replies: str, *, seconds: float, memory_mb: int) -> Program:
        """What runs the test with these replies; the program of a student is not in it."""
        return Program(
            code=CHECK,
            stdin=self.request,
            files={"functional_driver.py": DRIVER, check_driver.CALLS: calls, check_driver.REPLIES: replies},
            seconds=seconds,
            memory_mb=memory_mb,
            output_bytes=CONVERSATION_BYTES,
        )


def call_test(request: dict[str, Any], accepted: list[Any], names: set[str]) -> CallTest:
    """Raises DataError for expected values that no result can equal, such as NaN."""
    if not all(same_value(value, value) for value in accepted):
        raise DataError(f"An expected value cannot be compared: {json.dumps(accepted[0])[:DETAIL_CHARACTERS]}.")
    output_bytes = 4 * len(json.dumps(accepted)) + SPARE_BYTES
    return CallTest(json.dumps(request), tuple(accepted), frozenset(names), output_bytes)


def same_value(found: Any, expected: Any) -> bool:
    """Whether two values as the driver writes them are equal, as Python has it: 1, 1.0 and True are.

    A forged reply costs no more time than the expected value is large.
    """
    try:
        return _same_value(found, expected)
    except (TypeError, ValueError, RecursionError):  # not what the driver writes
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
    """What a set or the keys of a dict can hold. Objects stay what they are, and cannot."""
    return tuple(map(_key, value)) if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class Tests:
    """All tests of a problem."""

    tests: tuple[Test | ScriptTest, ...]
    seconds: float | None = None
    """The limit of each, if the problem sets one."""
    special: bool = False
    """Whether an output that differs from the expected one may still be right."""

    @property
    def names(self) -> frozenset[str]:
        return frozenset().union(*(test.names for test in self.tests))


# Source

LONGEST_PARSED = 1 << 16
"""Characters of a student's program that are parsed, all its blocks together: one took seconds for a megabyte."""
DOTTED = re.compile(r"(?:\.[\s\\]*\w+[\s\\]*){100}")
"""A name of as many parts: CPython needs memory for the square of its length (`import a.a.a`)."""


def is_cheap(source: str) -> bool:
    """Whether a source that anybody may have written can be parsed within a second and 200 MB."""
    return len(source) <= LONGEST_PARSED and not DOTTED.search(source)


def parsed(source: str) -> ast.Module | None:
    """The syntax tree; None if there is none."""
    try:
        with warnings.catch_warnings():  # of invalid escapes and the like
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
