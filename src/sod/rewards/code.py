"""Judge programs: run the tests of the problem in order, up to the first failure.

A program has no access to expected values. They stay in this process. With tests in Python (`ScriptTest`), they enter a second
sandbox process without the program. The student's program runs unchanged.
"""

import ast
import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from sod.rewards import NO_CODE, Verdict
from sod.rewards.answers import final_turn
from sod.rewards.code_golds import tests_of
from sod.rewards.code_tests import (
    CONVERSATION_BYTES,
    DETAIL_CHARACTERS,
    LONGEST_PARSED,
    ScriptTest,
    Test,
    Tests,
    TestStatus,
    is_cheap,
    parsed,
)
from sod.sandbox import Program, Result, Sandbox

BUSY_SHARE = 0.75
"""Share of the time limit. A program that times out with less processor time runs again, alone: the machine was busy."""
PYTHON_TAGS = {"python", "python3", "py", "py3"}
MARKDOWN_TAGS = {"markdown", "md"}
MOST_ROUNDS = 100
"""Limit on the rounds of a test in Python. Each round asks the program for other calls."""
CACHED_CALLS = 256
READERS = {"input", "stdin", "open", "read", "fileinput"}
"""Names for reading standard input. A program that reads it uses at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestOutcome:
    """The outcome of one test."""

    status: TestStatus
    detail: str = ""
    seconds: float = 0.0
    """Wall-clock time."""
    cpu_seconds: float = 0.0


class CodeJudge:
    """Judge programs by their tests, in order, up to the first failure. Only one event loop may use it at a time."""

    def __init__(self, sandbox: Sandbox, *, seconds: float = 6.0, memory_mb: int = 4096) -> None:
        """Set the limits of one test.

        `seconds`: wall-clock time (LiveCodeBench: 6). `memory_mb`: address space, in MiB.
        """
        self._sandbox = sandbox
        self._seconds = seconds
        self._memory_mb = memory_mb
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = _SharedLock()
        self._first_calls: dict[str, str] = {}
        """By test in Python, its calls before any reply is known. Only the latest are kept."""

    def check(self, gold: str) -> None:
        tests_of(gold)

    async def __call__(self, text: str, gold: str) -> Verdict:
        tests = tests_of(gold)
        code = program_in(text, tests.names)
        if code is None:
            return Verdict(outcome="wrong", reason=NO_CODE)
        return _verdict(await self.run_tests(code, tests), tests)

    async def run_tests(self, code: str, tests: Tests) -> list[TestOutcome]:
        """Return the outcome of each test, up to the first that did not pass."""
        outcomes: list[TestOutcome] = []
        for test in tests.tests:
            seconds = tests.seconds or self._seconds
            if isinstance(test, ScriptTest):
                outcomes.append(await self._run_script(code, test, seconds))
            else:
                outcomes.append(await self._run_test(code, test, tests, seconds))
            if outcomes[-1].status != "passed":
                break
        return outcomes

    async def _run_test(self, code: str, test: Test, tests: Tests, seconds: float) -> TestOutcome:
        result = await self._run(test.program(code, seconds=seconds, memory_mb=self._memory_mb))
        status, detail = _status(result, test)
        if status == "wrong answer" and tests.special:
            status, detail = "ungraded", "needs a special judge"
        return TestOutcome(status=status, detail=detail, seconds=result.seconds, cpu_seconds=result.cpu_seconds)

    async def _run_script(self, code: str, test: ScriptTest, seconds: float) -> TestOutcome:
        """Run the program and the test in turn, until the program has replied to all calls of the test."""
        limits = {"seconds": seconds, "memory_mb": self._memory_mb}
        result = Result(status="ok")
        if (calls := self._first_calls.get(test.request)) is None:
            word, calls = _reply(await self._run(test.check("[]", "", **limits)))
            if word == "lost":
                return _script_outcome(word, calls, result)
            if word != "more":
                cause = (
                    "the sandbox stopped the test before its first call: "
                    if word == "late"
                    else "the test cannot be run: "
                )
                return TestOutcome(status="ungraded", detail=cause + calls)
            self._first_calls[test.request] = calls
            if len(self._first_calls) > CACHED_CALLS:
                del self._first_calls[next(iter(self._first_calls))]
        for _ in range(MOST_ROUNDS):
            result = await self._run(test.program(code, calls, **limits))
            if result.status == "sandbox_error":
                break
            word, detail = _reply(await self._run(test.check(calls, result.stdout, **limits)))
            if word != "more":
                return _script_outcome(word, detail, result)
            calls = detail
        else:
            return TestOutcome(status="error", detail=f"more than {MOST_ROUNDS} calls that depend on each other")
        return _script_outcome("missing", "", result)

    async def _run(self, program: Program) -> Result:
        """Run a program concurrently with others. Run it again, alone, if it timed out because the processor was busy."""
        lock = self._current_lock()
        async with lock.shared():
            result = await self._sandbox.run(program)
        if result.status == "timeout" and result.cpu_seconds < BUSY_SHARE * program.seconds:
            async with lock.exclusive():
                result = await self._sandbox.run(program)
        return result

    def _current_lock(self) -> "_SharedLock":
        if self._loop is not asyncio.get_running_loop():
            self._loop, self._lock = asyncio.get_running_loop(), _SharedLock()
        return self._lock


class _SharedLock:
    """A lock with many shared holders, or one exclusive holder. A waiting exclusive holder blocks new shared ones."""

    def __init__(self) -> None:
        self._entry = asyncio.Lock()
        self._unused = asyncio.Event()
        self._unused.set()
        self._holders = 0

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._entry:
            self._holders += 1
            self._unused.clear()
        try:
            yield
        finally:
            self._holders -= 1
            if self._holders == 0:
                self._unused.set()

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        async with self._entry:
            await self._unused.wait()
            yield


def _status(result: Result, test: Test) -> tuple[TestStatus, str]:
    """Return the status of a test from the result of its program, and an explanation."""
    if result.status == "ok":
        status = test.judge(result.stdout)
        return status, "no result" if status == "error" else ""
    return _failure(result)


def _failure(result: Result) -> tuple[TestStatus, str]:
    """Return the status and an explanation for a program that did not end normally."""
    match result.status:
        case "sandbox_error":
            return "ungraded", f"the sandbox failed: {result.message}"
        case "timeout":
            return "timeout", ""
        case "signal":
            return "error", f"signal {result.signal}"
        case "output_limit" | "disk_limit":
            return "error", result.status.replace("_", " ")
        case _:
            return "error", result.stderr.strip().rpartition("\n")[2][:DETAIL_CHARACTERS]


def _reply(result: Result) -> tuple[str, str]:
    """Return the word and the detail in the test driver's reply; the word `late`, `lost` or `broken` if there is no reply."""
    match result.status:
        case "ok":
            word, _, detail = result.stdout.partition("\n")
            return (word, detail) if result.stdout_bytes <= CONVERSATION_BYTES else ("broken", "too many calls")
        case "sandbox_error":
            return "lost", result.message
        case "timeout":
            return "late", "it took too long"
        case _:
            return "broken", result.stderr.strip().rpartition("\n")[2][:DETAIL_CHARACTERS] or result.status


def _script_outcome(word: str, detail: str, result: Result) -> TestOutcome:
    """Return the outcome of a test in Python from its last reply and the result of the program."""
    status: TestStatus
    match word:
        case "passed":
            status = "passed"
        case "failed":
            status = "wrong answer"
        case "missing":
            status, detail = _failure(result) if result.status != "ok" else ("error", "no result")
        case "lost":
            status, detail = "ungraded", f"the sandbox failed: {detail}"
        case "unfit":
            status, detail = "ungraded", f"the test cannot be run: {detail}"
        case "late":
            status, detail = "timeout", "in the test"
        case _:
            status = "error"
    return TestOutcome(status=status, detail=detail, seconds=result.seconds, cpu_seconds=result.cpu_seconds)


def _verdict(outcomes: list[TestOutcome], tests: Tests) -> Verdict:
    last, count = outcomes[-1], len(tests.tests)
    if last.status == "passed":
        return Verdict(outcome="right", reason=f"all tests passed ({count})")
    what = f"{last.status} ({last.detail})" if last.detail else last.status
    outcome = "ungraded" if last.status == "ungraded" else "wrong"
    return Verdict(outcome=outcome, reason=f"test {len(outcomes)} of {count}: {what}")


# From the text of an attempt to its program


def program_in(text: str, names: frozenset[str]) -> str | None:
    """Return the program of an attempt, unchanged; None if there is no program.

    The program is in a fenced block of the last turn. Blocks tagged as Python are preferred; without them, untagged blocks count.
    Students also show the use or the output of a program. Therefore the last block that fits the problem is returned: it parses
    and defines one of `names` or, without `names`, reads its input. If no block fits, the last one is returned. At most
    LONGEST_PARSED characters are parsed; longer programs run unparsed.
    """
    blocks = list(_blocks(final_turn(text)))
    for tags in (PYTHON_TAGS, {""}):
        codes = [code for tag, code in reversed(blocks) if tag in tags and code.strip()]
        parsable = 0
        for code in codes:
            parsable += len(code)
            if parsable > LONGEST_PARSED:
                break
            if is_cheap(code) and _fits(_closed(code), names):
                return _closed(code)
        if codes:
            return _closed(codes[0]) if is_cheap(codes[0]) else codes[0]
    return None


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the tag and the text of each fenced block.

    A block ends at a fence of its own length, at the end of the text, or at a fence that opens a Python block: then it was never
    closed. A block tagged as Markdown is text with further blocks.
    """
    for tag, block in _outer_blocks(text):
        yield from _outer_blocks(block) if tag in MARKDOWN_TAGS else [(tag, block)]


def _outer_blocks(text: str) -> Iterator[tuple[str, str]]:
    fence, indent, tag, lines = "", "", "", []
    for line in text.split("\n"):
        before, mark, info = _fence(line)
        leads = bool(mark) and not before.strip()
        if fence and not (leads and mark.startswith(fence) and (not info or info in PYTHON_TAGS)):
            lines.append(line)
        elif fence and not info:
            yield tag, _outdented(lines, indent)
            fence = ""
        elif leads or (mark and info in PYTHON_TAGS):
            if fence:
                yield tag, _outdented(lines, indent)
            fence, indent, tag, lines = mark, before if leads else "", _tag(info), []
    if fence:
        yield tag, _outdented(lines, indent)


def _fence(line: str) -> tuple[str, str, str]:
    """Return the text before a fence, the fence and the text after it. The fence is empty if the line has none.

    A fence is the last run of three or more backticks in the line, or a run of tildes at its start.
    """
    tildes = line.lstrip()
    if tildes.startswith("~~~"):
        info = tildes.lstrip("~")
        return line[: -len(tildes)], "~" * (len(tildes) - len(info)), info.strip().lower()
    before, mark, info = line.rpartition("```")
    rest = before.rstrip("`")
    return rest, "`" * (len(before) - len(rest) + 3) if mark else "", info.strip().lower()


def _tag(info: str) -> str:
    """Return the language in `python title="a"`, `python:main.py` or `{.python}`."""
    return re.split(r"[\s:,;{}]", info.removeprefix("{").removeprefix("."), maxsplit=1)[0]


def _closed(code: str) -> str:
    """Cut the code at a fence at the end of a line (`print(x)```), if it parses only up to there."""
    end = re.search(r"(?<=[^\s`])```\s*$", code, re.MULTILINE)
    if end and parsed(code) is None and parsed(code[: end.start()]) is not None:
        return code[: end.start()]
    return code


def _outdented(lines: list[str], indent: str) -> str:
    """Return the text of a block, without the indentation of its fence if all lines have it, as in a list."""
    if indent and all(line.startswith(indent) or not line.strip() for line in lines):
        lines = [line[len(indent) :] for line in lines]
    return "\n".join(lines)


def _fits(code: str, names: frozenset[str]) -> bool:
    tree = parsed(code)
    if tree is None:
        return False
    return not names.isdisjoint(_defined(tree)) if names else not READERS.isdisjoint(_used(tree))


def _defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name
