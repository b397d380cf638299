"""What the student calls and what it reads: the interpreter in a real sandbox, and calls that are wrong."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
from one_sandbox import OneSandbox

from sod.config import ToolOptions
from sod.errors import SandboxError
from sod.sandbox import Program, Result
from sod.sandbox.local import LocalSandbox
from sod.tools import Toolbox, damaged
from sod.tools.python import PythonTool, as_in_reference, last_exception, shorten
from sod.types import MalformedCall, Observation, ToolCall

SANDBOX = OneSandbox(workers=1)


def teardown_module() -> None:
    SANDBOX.close()


def observe(
    *codes: str,
    seconds: float = 10.0,
    max_chars: int = 4096,
    errors: Literal["traceback", "last_line"] = "traceback",
    show_last_expr: Literal["expr", "off", "reference"] = "expr",
) -> list[Observation]:
    """What the student reads after each program."""
    options = ToolOptions(
        seconds=seconds, memory_mb=512, max_chars=max_chars, errors=errors, show_last_expr=show_last_expr
    )

    async def work(sandbox: LocalSandbox) -> list[Observation]:
        tool = PythonTool(sandbox, options)
        return [await tool({"code": code}) for code in codes]

    return SANDBOX.run(work)


def read(*codes: str) -> list[str]:
    return [observation.text for observation in observe(*codes)]


# The value of a trailing expression


def test_the_value_of_a_trailing_expression_is_shown_as_a_notebook_shows_it() -> None:
    shown = {
        "1+1": "2",
        "x = 20\nx + 1": "21",
        "x = 20; x + 1": "21",
        "x = 20\nx + 1  # the answer": "21",
        "x = 20\nx + 1\n\n# the end\n": "21",
        "'a' 'b'": "'ab'",
        "(1 +\n 2)": "3",
        "[i\n for i in range(3)\n]": "[0, 1, 2]",
        "sum(\n    [1, 2],\n)": "3",
        '"""a\nb"""': "'a\\nb'",
        "1 + \\\n  2": "3",
        '"é漢🙂"; "ü"': "'ü'",
        "é = '漢'; é + 'ß'  # ü": "'漢ß'",
        "f'{1+1}'": "'2'",
        "lambda: 0\n0.5": "0.5",
        "print('a')\n'b'": "a\n'b'",
        "x = 20\r\nx + 1\r\n": "21",
        "x = 20\nx + 1;": "21",
        "(yes := 3)": "3",
        "(1, 2)": "(1, 2)",
        "...": "Ellipsis",
    }
    assert dict(zip(shown, read(*shown), strict=True)) == shown


def test_what_has_no_value_to_show_shows_none() -> None:
    silent = [
        "None",
        "x = 5",
        "x = 5\n",
        "x: int = 5",
        "[].sort()",
        "1+1\nx = 5",
        "for i in range(3):\n    i",
        "if True:\n    1",
        "def f():\n    1",
        "import math",
        "# a comment",
        "",
        "\n",
    ]
    assert dict(zip(silent, read(*silent), strict=True)) == dict.fromkeys(silent, "[no output]")


def test_a_call_of_print_prints_once() -> None:
    assert read("print(1)", "print(1)\nprint(2)", "for i in range(3):\n    print(i)") == ["1", "1\n2", "0\n1\n2"]


@pytest.mark.parametrize(("code", "text"), [("1, 2", "(1, 2)"), ("*[1], 2", "(1, 2)"), ("1,", "(1,)")])
def test_a_trailing_tuple_needs_no_brackets(code: str, text: str) -> None:
    assert read(code) == [text]


def test_a_program_may_have_the_line_ends_of_an_old_mac() -> None:
    assert read("x = 20\rx + 1") == ["21"]


def test_a_traceback_shows_the_students_own_line() -> None:
    (text,) = read("1/0")
    assert "    1/0\n" in text
    assert "displayhook" not in text


def test_no_value_is_shown_when_that_is_turned_off() -> None:
    shown, silent = observe("print(1)\n2", "3", show_last_expr="off")
    assert (shown.text, silent.text) == ("1", "[no output]")


# Fences


def test_a_program_in_a_fence_is_run_without_it() -> None:
    fenced = ["```python\nprint(1)\n```", "```py\n1 + 1\n```\n", "```\n3\n```", " ```python \n4\n ``` "]
    assert read(*fenced) == ["1", "2", "3", "4"]


def test_a_fence_inside_a_program_stays() -> None:
    programs = {
        'print("```python\\nx\\n```")': "```python\nx\n```",
        '```python\nprint("""a\n```\nb""")\n```': "a\n```\nb",
        "s = '```'\nlen(s)": "3",
    }
    assert dict(zip(programs, read(*programs), strict=True)) == programs


# The interpreter of the paper's code

WRAPPED = {
    "1 + 1": "print(1 + 1)",
    "x = 7\nx": "x = 7\nprint(x)",
    "x = 7": "print(x = 7)",
    "print(1)\n": "print(1)\n",
    "printed(1)": "printed(1)",
    "for i in range(3):\n    print(i)": "for i in range(3):\nprint(    print(i))",
    "x\n# done": "x\nprint(# done)",
    "f(\n  1\n)": "f(\n  1\nprint())",
    "x\n  ": "x\nprint(  )",
    "": "",
    "a\n```python\nb\n``` and ```python\nc\n```": "print(b)",
    "```py\nb\n```": "```py\nb\nprint(```)",
}


@pytest.mark.parametrize("code", WRAPPED)
def test_the_papers_code_puts_the_last_line_into_a_print(code: str) -> None:
    assert as_in_reference(code) == WRAPPED[code]


def test_the_papers_interpreter_breaks_programs_that_ours_runs(capsys: pytest.CaptureFixture[str]) -> None:
    programs = ["x = 3 + 4", "for i in range(3):\n    print(i)", "print(5)  # five\nassert True"]
    theirs = observe(*programs, show_last_expr="reference")
    assert "breaks many" in " ".join(capsys.readouterr().out.split())
    assert [observation.outcome for observation in theirs] == ["error"] * 3
    assert [observation.outcome for observation in observe(*programs)] == ["ok"] * 3


def test_the_papers_interpreter_shows_256_characters_and_nothing_after_a_time_out() -> None:
    long, late, both = observe(
        "print('a' * 200 + 'b' * 200)",
        "print(1, flush=True)\nwhile True: pass\nprint(2)",
        "import sys\nsys.stderr.write('e')\nprint('o')",
        show_last_expr="reference",
        seconds=1.5,
    )
    assert long.text == "a" * 128 + "...(truncated)..." + "b" * 127 + "\n"
    assert late.text == "no stdout here"
    assert both.text == "o\ne"


# What the interpreter says


def test_output_errors_and_values_are_told_apart() -> None:
    fine, failing, broken, silent = observe("print('a')", "print('a')\n1/0\nx = 1", "def f(", "x = 1")
    assert (fine.text, fine.outcome) == ("a", "ok")
    assert failing.outcome == "error"
    assert failing.text == (
        "a\nTraceback (most recent call last):\n"
        '  File "<program>", line 2, in <module>\n    1/0\n    ~^~\nZeroDivisionError: division by zero'
    )
    assert broken.outcome == "error"
    assert broken.text.endswith("SyntaxError: '(' was never closed")
    assert (silent.text, silent.outcome) == ("[no output]", "ok")


def test_of_an_error_only_the_last_line_is_shown_where_so_configured() -> None:
    programs = ["print('a')\n1/0", "def f(", "import sys\nprint('a warning', file=sys.stderr)\nx = 1"]
    assert [each.text for each in observe(*programs, errors="last_line")] == [
        "a\nZeroDivisionError: division by zero",
        "SyntaxError: '(' was never closed",
        "a warning",
    ]


def test_an_error_whose_message_has_several_lines_is_shown_with_its_type() -> None:
    (observation,) = observe("raise ValueError('a\\nb')", errors="last_line")
    assert "ValueError: a" in observation.text


def test_the_last_exception_of_a_chain_is_the_one_that_is_shown() -> None:
    stderr = "Traceback\n  File 1\nValueError: a\n\nDuring ...\n\nTraceback\n  File 2\nKeyError: b\nmore of b"
    assert last_exception(stderr) == "KeyError: b"
    assert last_exception("no traceback at all") == "no traceback at all"


def test_a_program_that_is_stopped_keeps_what_it_printed() -> None:
    (observation,) = observe("print('before')\nwhile True:\n    pass", seconds=0.3)
    assert (observation.text, observation.outcome) == ("before\n[stopped: longer than 0.3 s]", "timeout")


def test_a_program_that_is_killed_says_so() -> None:
    (observation,) = observe("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert (observation.text, observation.outcome) == ("[ended by signal 9]", "signal")


def test_a_program_that_exits_with_a_code_says_so() -> None:
    (observation,) = observe("import sys\nsys.exit(3)")
    assert observation.outcome == "error"
    assert "3" in observation.text


def test_nothing_survives_a_call() -> None:
    assert read("x = 1", "try:\n    print(x)\nexcept NameError as error:\n    print(error)") == [
        "[no output]",
        "name 'x' is not defined",
    ]


def test_long_output_keeps_its_head_and_tail_and_says_that_something_is_missing() -> None:
    (observation,) = observe("print('head', 'x' * 500, 'tail')", max_chars=100)
    assert observation.text.startswith("head xxx")
    assert observation.text.endswith("xxx tail")
    assert "[output omitted]" in observation.text
    assert len(observation.text) <= 100


# Shortening


@pytest.mark.parametrize(("length", "limit"), [(0, 10), (10, 10), (100, 100), (101, 100), (10_000, 100), (5000, 4096)])
def test_a_text_is_never_longer_than_the_limit(length: int, limit: int) -> None:
    text = shorten("x" * length, limit)
    assert len(text) <= limit
    assert (text == "x" * length) == (length <= limit)


@pytest.mark.parametrize("limit", [1, 10, 30])
def test_a_text_is_never_longer_than_a_small_limit(limit: int) -> None:
    assert len(shorten("x" * 100, limit)) <= limit


# A sandbox of our own


class Scripted:
    """A sandbox that says what it was told to say, and remembers what it was asked."""

    def __init__(self, result: Result):
        self._result = result
        self.programs: list[Program] = []

    async def run(self, program: Program) -> Result:
        self.programs.append(program)
        return self._result

    async def close(self) -> None:
        pass


def test_a_program_gets_the_limits_of_the_options() -> None:
    sandbox = Scripted(Result(status="ok"))
    options = ToolOptions(seconds=3, memory_mb=77, max_chars=500)
    asyncio.run(PythonTool(sandbox, options)({"code": "x = 1"}))
    (program,) = sandbox.programs
    assert (program.code, program.seconds, program.memory_mb) == ("x = 1", 3, 77)
    assert program.output_bytes >= 4 * 500


def test_a_sandbox_that_failed_is_an_exception_and_never_a_text_for_the_student() -> None:
    tool = PythonTool(Scripted(Result(status="sandbox_error", message="no fork left")), ToolOptions())
    with pytest.raises(SandboxError, match="no fork left"):
        asyncio.run(tool({"code": "1"}))
    with pytest.raises(SandboxError, match="no fork left"):
        asyncio.run(Toolbox([tool]).answer([ToolCall(name="code_interpreter", arguments={"code": "1"})]))


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (Result(status="ok", stdout="  a\n\n"), "  a"),
        (Result(status="ok", stdout=" \n", stderr="\n"), "[no output]"),
        (Result(status="ok", stdout="a\n", stderr="b\n"), "a\nb"),
        (Result(status="output_limit", stdout="a"), "a\n[stopped: too much output]"),
        (Result(status="disk_limit"), "[stopped: wrote too much to disk]"),
        (Result(status="signal", signal=11), "[ended by signal 11]"),
        (Result(status="timeout", stdout="a", stderr="b"), "a\nb\n[stopped: longer than 60 s]"),
    ],
)
def test_every_end_has_its_words(result: Result, text: str) -> None:
    observation = asyncio.run(PythonTool(Scripted(result), ToolOptions())({"code": "1"}))
    assert (observation.text, observation.outcome) == (text, result.status)


# Calls that are wrong


class Echo:
    """Takes arguments of every type, and says what it got."""

    def __init__(self, name: str, required: Sequence[str] = (), **types: Any):
        self.schema: dict[str, Any] = {
            "type": "function",
            "function": {
                "name": name,
                "parameters": {
                    "type": "object",
                    "properties": {argument: {"type": type_} for argument, type_ in types.items()},
                    "required": list(required),
                },
            },
        }

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        return Observation(text=repr(dict(arguments)), outcome="ok")


TOOLBOX = Toolbox(
    [
        Echo("find", ["text"], text="string", at="integer", share="number", all="boolean", of="array", by="object"),
        Echo("clock"),
    ]
)


def answer(name: str, arguments: dict[str, Any], toolbox: Toolbox = TOOLBOX) -> tuple[str, str]:
    (observation,) = asyncio.run(toolbox.answer([ToolCall(name=name, arguments=arguments)]))
    return observation.outcome, observation.text


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": "a"},
        {"text": "", "at": -1, "share": 0.5, "all": False, "of": [], "by": {}},
        {"text": "a", "share": 1},
    ],
)
def test_right_arguments_reach_the_tool(arguments: dict[str, Any]) -> None:
    assert answer("find", arguments) == ("ok", repr(arguments))


def test_a_tool_that_is_not_there_is_answered_with_those_that_are() -> None:
    assert answer("python", {}) == ("unknown_tool", "There is no tool 'python'. Available: find, clock.")
    assert answer("python", {}, Toolbox([])) == ("unknown_tool", "There is no tool 'python'. Available: none.")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, '"text" is missing.'),
        ({"at": 1}, '"text" is missing.'),
        ({"text": "a", "where": 1}, '"where" is unknown; it takes text, at, share, all, of, by.'),
        ({"text": 1}, '"text" must be of type string.'),
        ({"text": None}, '"text" must be of type string.'),
        ({"text": ["a"]}, '"text" must be of type string.'),
        ({"text": "a", "at": "1"}, '"at" must be of type integer.'),
        ({"text": "a", "at": 1.5}, '"at" must be of type integer.'),
        ({"text": "a", "share": "1"}, '"share" must be of type number.'),
        ({"text": "a", "all": 1}, '"all" must be of type boolean.'),
        ({"text": "a", "of": {}}, '"of" must be of type array.'),
        ({"text": "a", "by": []}, '"by" must be of type object.'),
    ],
)
def test_wrong_arguments_are_answered_with_what_is_wrong(arguments: dict[str, Any], complaint: str) -> None:
    assert answer("find", arguments) == ("wrong_arguments", f"Wrong arguments for find: {complaint}")


@pytest.mark.parametrize("name", ["at", "share"])
def test_a_boolean_is_no_number(name: str) -> None:
    assert answer("find", {"text": "a", name: True})[0] == "wrong_arguments"


def test_a_tool_without_arguments_says_so() -> None:
    assert answer("clock", {"zone": "UTC"})[1].endswith('"zone" is unknown; it takes none.')


@pytest.mark.parametrize(("value", "outcome"), [("a", "ok"), (None, "ok"), (1, "wrong_arguments")])
def test_an_argument_may_have_one_of_several_types(value: Any, outcome: str) -> None:
    toolbox = Toolbox([Echo("find", text=["string", "null"])])
    assert answer("find", {"text": value}, toolbox)[0] == outcome


def test_a_complaint_can_always_be_encoded() -> None:
    answer("find", {"text": "a", "\ud800": 1})[1].encode()


def test_a_malformed_call_is_answered_with_its_complaint() -> None:
    (observation,) = asyncio.run(TOOLBOX.answer([MalformedCall(complaint="No JSON.")]))
    assert observation == Observation(text="No JSON.", outcome="malformed")


def test_every_call_of_a_turn_is_answered_in_its_place() -> None:
    calls = [
        ToolCall(name="clock", arguments={}),
        MalformedCall(complaint="No JSON."),
        ToolCall(name="python", arguments={}),
        ToolCall(name="find", arguments={}),
        ToolCall(name="clock", arguments={}),
    ]
    found = asyncio.run(TOOLBOX.answer(calls))
    assert [each.outcome for each in found] == ["ok", "malformed", "unknown_tool", "wrong_arguments", "ok"]
    assert asyncio.run(TOOLBOX.answer([])) == []


class Meeting:
    """A tool whose calls wait for each other."""

    def __init__(self, calls: int):
        self.schema = Echo("meet").schema
        self._all = asyncio.Barrier(calls)

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        del arguments
        await self._all.wait()
        return Observation(text="met", outcome="ok")


def test_the_calls_of_a_turn_run_at_the_same_time() -> None:
    async def work() -> list[Observation]:
        calls = [ToolCall(name="meet", arguments={})] * 3
        return await asyncio.wait_for(Toolbox([Meeting(3)]).answer(calls), 5)

    assert [each.text for each in asyncio.run(work())] == ["met"] * 3


def test_the_schemas_of_all_tools_are_shown_in_order() -> None:
    assert [schema["function"]["name"] for schema in TOOLBOX.schemas] == ["find", "clock"]


# Faults


def test_a_damaged_call_lacks_its_last_character() -> None:
    call = ToolCall(name="find", arguments={"text": "abc"})
    assert damaged([call], 0.0, 1) == [call]
    assert damaged([call], 1.0, 1) == [ToolCall(name="find", arguments={"text": "ab"})]


def test_damage_is_a_function_of_the_seed_and_as_frequent_as_asked_for() -> None:
    call = ToolCall(name="find", arguments={"text": "abc"})

    def cut(seed: int) -> list[bool]:
        return [each != call for each in damaged([call] * 3, 0.2, seed)]

    assert all(cut(seed) == cut(seed) for seed in range(20))
    share = sum(sum(cut(seed)) for seed in range(200)) / 600
    assert 0.15 < share < 0.25
