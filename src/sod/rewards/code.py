"""Programs, judged by running them on tests, in order, up to the first that fails.

No program can find what is expected of it. That stays in this process or, with tests in Python, enters a process of the
sandbox that holds no program (`ScriptTest`). A program is the student's to the last character: nothing of it is rewritten.
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
"""A program that timed out with less of its time than this on a processor runs again, alone: the machine may be busy."""
PYTHON_TAGS = {"python", "python3", "py", "py3"}
MARKDOWN_TAGS = {"markdown", "md"}
MOST_ROUNDS = 100
"""Times that a test in Python may find that it must ask for other calls."""
CACHED_CALLS = 256
READERS = {"input", "stdin", "open", "read", "fileinput"}
"""Names of which a program that reads standard input uses one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestOutcome:
    """What became of one test."""

    status: TestStatus
    detail: str = ""
    seconds: float = 0.0
    """Wall-clock time."""
    cpu_seconds: float = 0.0


class CodeJudge:
    """Judges programs by all their tests, in order, up to the first that fails.

    One event loop uses it at a time.
    """

    def __init__(self, sandbox: Sandbox, *, seconds: float = 6.0, memory_mb: int = 4096) -> None:
        """`seconds` is the wall-clock limit of one test (LiveCodeBench: 6), `memory_mb` that of its address space."""
        self._sandbox = sandbox
        self._seconds = seconds
        self._memory_mb = memory_mb
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room = _Room()
        self._first_calls: dict[str, str] = {}
        """Of tests in Python: what they call when nothing is known. The latest are kept."""

    def check(self, gold: str) -> None:
        tests_of(gold)

    async def __call__(self, text: str, gold: str) -> Verdict:
        tests = tests_of(gold)
        code = program_in(text, tests.names)
        if code is None:
            return Verdict(outcome="wrong", reason=NO_CODE)
        return _verdict(await self.run_tests(code, tests), tests)

    async def run_tests(self, code: str, tests: Tests) -> list[TestOutcome]:
        """The outcome of each test, up to the first that was not passed."""
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
        """Run the program and the test in turn, until the program has answered all that the test calls."""
        limits = {"seconds": seconds, "memory_mb": self._memory_mb}
        result = Result(status="ok")
        if (calls := self._first_calls.get(test.request)) is None:
            word, calls = _word(await self._run(test.check("[]", "", **limits)))
            if word != "more":
                return TestOutcome(status="ungraded", detail=f"its test cannot be run: {calls}")
            self._first_calls[test.request] = calls
            if len(self._first_calls) > CACHED_CALLS:
                del self._first_calls[next(iter(self._first_calls))]
        for _ in range(MOST_ROUNDS):
            result = await self._run(test.program(code, calls, **limits))
            if result.status == "sandbox_error":
                break
            word, detail = _word(await self._run(test.check(calls, result.stdout, **limits)))
            if word != "more":
                return _script_outcome(word, detail, result)
            calls = detail
        else:
            return TestOutcome(status="error", detail=f"more than {MOST_ROUNDS} calls that depend on each other")
        return _script_outcome("missing", "", result)

    async def _run(self, program: Program) -> Result:
        """Run it among others, and once more without them if it timed out for want of a processor."""
        room = self._current_room()
        async with room.shared():
            result = await self._sandbox.run(program)
        if result.status == "timeout" and result.cpu_seconds < BUSY_SHARE * program.seconds:
            async with room.alone():
                result = await self._sandbox.run(program)
        return result

    def _current_room(self) -> "_Room":
        if self._loop is not asyncio.get_running_loop():
            self._loop, self._room = asyncio.get_running_loop(), _Room()
        return self._room


class _Room:
    """Holds many at a time, or one alone, who waits until the others have left and lets nobody in."""

    def __init__(self) -> None:
        self._door = asyncio.Lock()
        self._empty = asyncio.Event()
        self._empty.set()
        self._inside = 0

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._door:
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if self._inside == 0:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._door:
            await self._empty.wait()
            yield


def _status(result: Result, test: Test) -> tuple[TestStatus, str]:
    """What a program's result means for a test, and a word on why."""
    if result.status == "ok":
        status = test.judge(result.stdout)
        return status, "no result" if status == "error" else ""
    return _failure(result)


def _failure(result: Result) -> tuple[TestStatus, str]:
    """The same of one that did not end well."""
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


def _word(result: Result) -> tuple[str, str]:
    """What the driver of a test replies. `late`, `lost` and `broken` are of a driver that does not."""
    match result.status:
        case "ok":
            word, _, detail = result.stdout.partition("\n")
            return (word, detail) if result.stdout_bytes <= CONVERSATION_BYTES else ("broken", "too many calls")
        case "sandbox_error":
            return "lost", result.message
        case "timeout":
            return "late", "it takes too long"
        case _:
            return "broken", result.stderr.strip().rpartition("\n")[2][:DETAIL_CHARACTERS] or result.status


def _script_outcome(word: str, detail: str, result: Result) -> TestOutcome:
    """What the end of a test in Python means; the result is that of the program."""
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
            status, detail = "ungraded", f"its test cannot be run: {detail}"
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


# From what a student wrote to its program


def program_in(text: str, names: frozenset[str]) -> str | None:
    """The program that an attempt hands in, as it is written; None without one.

    It stands in a fenced block of the last turn, tagged as Python or, if there is none of these, not tagged.
    Students also show how a program is used or what it prints, so the last block counts that is a program for this
    problem: one that parses and defines one of `names` or, where there are none, reads its input. Failing that, the last.
    No more than LONGEST_PARSED is parsed; what is longer is run as it stands.
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
    """The tag and text of each fenced block.

    A block ends at a fence as long as its own, at one that opens the next Python, since it then was never closed, or
    with the text. One that is tagged as Markdown is text with blocks of its own.
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
    """What stands before a fence, the fence (empty: there is none), and what follows it.

    A fence is the line's last run of three or more backticks, or of tildes that it begins with.
    """
    tildes = line.lstrip()
    if tildes.startswith("~~~"):
        info = tildes.lstrip("~")
        return line[: -len(tildes)], "~" * (len(tildes) - len(info)), info.strip().lower()
    before, mark, info = line.rpartition("```")
    rest = before.rstrip("`")
    return rest, "`" * (len(before) - len(rest) + 3) if mark else "", info.strip().lower()


def _tag(info: str) -> str:
    """The language: of `python title="a"`, `python:main.py` and `{.python}`."""
    return re.split(r"[\s:,;{}]", info.removeprefix("{").removeprefix("."), maxsplit=1)[0]


def _closed(code: str) -> str:
    """Up to a fence at the end of a line, `print(x)```, if it is a program only up to there."""
    end = re.search(r"(?<=[^\s`])```\s*$", code, re.MULTILINE)
    if end and parsed(code) is None and parsed(code[: end.start()]) is not None:
        return code[: end.start()]
    return code


def _outdented(lines: list[str], indent: str) -> str:
    """The lines of a block, without the indentation of the fence where the whole block shares it, as in a list."""
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
