"""A user's own function as a tool: what the student is told of it, what it reads, and what cannot be a tool."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from confining import CONFINABLE

from sod.config import EvalOptions, ToolOptions
from sod.config.plugins import load
from sod.engines.scripted import ScriptedEngine
from sod.errors import InfrastructureError, OptionError
from sod.processes.concurrency import Runner
from sod.rollout.groups import rollout
from sod.rollout.harness import Harness
from sod.tools import Toolbox
from sod.tools.own import OwnTool, own_tools, schema_of
from sod.tools.python import PythonTool
from sod.types import Observation, Problem, ToolCall, Trajectory

EXAMPLE = f"{Path(__file__).parent.parent}/examples/your_tool.py:factorise"


def observe(function: Callable[..., Any], _options: ToolOptions | None = None, **arguments: Any) -> Observation:
    """What the student reads when it calls the function."""
    toolbox = Toolbox([OwnTool(function, _options or ToolOptions())])
    (observation,) = asyncio.run(toolbox.answer([ToolCall(name=function.__name__, arguments=arguments)]))
    return observation


def search(query: str, count: int = 3, order: Literal["date", "relevance"] = "date", within: str | None = None) -> str:
    """Looks something up.

    It is slow.

    Args:
        query: What to look for,
            in words.
        count: How many results.
        order: Which come first.
        within: Where to look.

    Returns:
        The results.
    """
    return f"{count} of {query} by {order} within {within}"


# What the student is told


def test_the_schema_is_the_functions_name_hints_and_docstring() -> None:
    assert schema_of(search) == {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Looks something up.\n\nIt is slow.",
            "parameters": {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "What to look for, in words."},
                    "count": {"type": "integer", "description": "How many results."},
                    "order": {"type": "string", "enum": ["date", "relevance"], "description": "Which come first."},
                    "within": {"type": "string", "nullable": True, "description": "Where to look."},
                },
                "required": ["query"],
            },
        },
    }


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, '"query" is missing.'),
        ({"query": 1}, '"query" must be of type string.'),
        ({"query": None}, '"query" must be of type string.'),
        ({"query": "a", "order": "size"}, '"order" must be one of "date", "relevance".'),
        ({"query": "a", "within": 1}, '"within" must be of type string.'),
        ({"query": "a", "where": 1}, '"where" is unknown; it takes query, count, order, within.'),
    ],
)
def test_wrong_arguments_never_reach_the_function(arguments: dict[str, Any], complaint: str) -> None:
    observation = observe(search, **arguments)
    assert (observation.outcome, observation.text) == ("wrong_arguments", f"Wrong arguments for search: {complaint}")


# What it reads


def test_an_argument_with_a_default_may_be_left_out_and_one_that_may_be_none_may_be_none() -> None:
    assert observe(search, query="a").text == "3 of a by date within None"
    given = observe(search, query="a", count=1, order="relevance", within=None)
    assert given.text == "1 of a by relevance within None"


def shown(what: str) -> Any:
    """Gives something.

    Args:
        what: What.
    """
    return {"nothing": None, "blank": "", "number": 1.5, "list": [1, "a"], "half": "\ud800", "long": "1234567890" * 10}[
        what
    ]


@pytest.mark.parametrize(
    ("what", "text"),
    [("nothing", "None"), ("blank", "[no output]"), ("number", "1.5"), ("list", "[1, 'a']"), ("half", "?")],
)
def test_what_a_function_returns_is_read_as_str_writes_it(what: str, text: str) -> None:
    assert observe(shown, what=what) == Observation(text=text, outcome="ok")


def test_a_long_text_is_cut_in_its_middle() -> None:
    text = observe(shown, ToolOptions(max_chars=50), what="long").text
    assert len(text) == 50
    assert "[output omitted]" in text


def faulty(how: str) -> str:
    """Fails.

    Args:
        how: In which way.
    """
    if how == "ours":
        raise InfrastructureError("the server is down")
    raise {
        "value": ValueError("no such thing"),
        "exit": SystemExit(3),
        "end": StopIteration(),
        "late": TimeoutError("the server was"),
        "long": ValueError("x" * 10_000),
    }[how]


async def faulty_async(how: str) -> str:
    """Fails.

    Args:
        how: In which way.
    """
    return faulty(how)


@pytest.mark.parametrize("function", [faulty, faulty_async])
@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("value", "ValueError: no such thing"),
        ("exit", "SystemExit: 3"),
        ("end", "RuntimeError: "),
        ("late", "TimeoutError: the server was"),
    ],
)
def test_what_a_function_raises_is_text_for_the_student(function: Callable[..., Any], how: str, text: str) -> None:
    observation = observe(function, how=how)
    assert observation.outcome == "error"
    assert observation.text.startswith(text)


@pytest.mark.parametrize("function", [faulty, faulty_async])
def test_what_is_our_fault_is_raised(function: Callable[..., Any]) -> None:
    with pytest.raises(InfrastructureError, match="server is down"):
        observe(function, how="ours")


def test_a_long_error_is_cut_as_well() -> None:
    assert len(observe(faulty, ToolOptions(max_chars=100), how="long").text) == 100


# Time


class Waits:
    """Functions that wait for a gate of their own: threads that outlive one test do not disturb the next."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.ended: list[str] = []

    def plain(self) -> Callable[..., Any]:
        def waits() -> str:
            """Waits."""
            text = "opened" if self.gate.wait(20) else "waited for nothing"
            self.ended.append(text)
            return text

        return waits

    def coroutine(self) -> Callable[..., Any]:
        async def waits() -> None:
            """Waits."""
            await asyncio.sleep(20)
            self.ended.append("waited for nothing")

        return waits


@pytest.mark.parametrize("kind", [Waits.plain, Waits.coroutine])
def test_a_late_function_is_stopped_waiting_for(kind: Callable[[Waits], Callable[..., Any]]) -> None:
    waits = Waits()
    observation = observe(kind(waits), ToolOptions(seconds=0.2))
    assert observation == Observation(text="[stopped: longer than 0.2 s]", outcome="timeout")
    assert not waits.ended  # nobody waited for the thread, not even the end of the event loop
    waits.gate.set()


def test_functions_that_wait_keep_nobody_waiting_however_many_there_are() -> None:
    waits = Waits()

    async def work() -> list[str]:
        tool = OwnTool(waits.plain(), ToolOptions())
        calls = [asyncio.create_task(tool({})) for _ in range(100)]
        await asyncio.sleep(0.1)
        waits.gate.set()  # which the event loop could not do if one of them held it
        return [(await call).text for call in calls]

    assert asyncio.run(work()) == ["opened"] * 100


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    def around() -> Any:
        """Waits."""
        return function()

    return around


def test_an_async_function_under_a_plain_decorator_is_awaited() -> None:
    async def inner() -> str:
        return "inner"

    assert observe(decorated(inner)).text == "inner"


def test_an_attempt_that_is_given_up_does_not_become_the_students_error() -> None:
    async def work() -> None:
        call = asyncio.create_task(OwnTool(Waits().coroutine(), ToolOptions())({}))
        await asyncio.sleep(0)
        call.cancel()
        await call

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(work())


# What cannot be a tool


UNDOCUMENTED = "def f(x: int): return x\n"
DOCUMENTED = 'def f({}):\n    """Does it.\n\n    Args:\n        x: It.\n    """\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = 1", "defines no function or class 'f'"),
        ("f = 1", "defines no function or class 'f'"),
        ("class f: pass", "f is a type; a tool must be a function"),
        ("import nothing_like_this", "cannot be imported: ModuleNotFoundError"),
        ("raise SystemExit(1)", "cannot be imported: SystemExit"),
        (UNDOCUMENTED, "no docstring"),
        ('def f(x: int):\n    """Does it."""\n', "no description for the argument 'x'"),
        (DOCUMENTED.format("x"), "missing a type hint"),
        (DOCUMENTED.format("x: 'nowhere'"), "'nowhere' is not defined"),
        (DOCUMENTED.format("x: object"), "Couldn't convert the type hint"),
        (DOCUMENTED.format("*x: int"), r"make \*x: int an ordinary argument"),
        (DOCUMENTED.format("x: int, /"), "make x: int an ordinary argument"),
        (DOCUMENTED.format("x: int = None"), 'the default of "x" must be of type integer'),
        (DOCUMENTED.format("x: int = '1'"), 'the default of "x" must be of type integer'),
    ],
)
def test_what_cannot_be_a_tool_is_an_error_that_names_file_and_fault(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(OptionError, match=rf"^tool.own: .*mine.py.*{words}"):
        own_tools(ToolOptions(own=(f"{tmp_path}/mine.py:f",)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.py:f", "there is no Python file .*nowhere.py"),
        ("factorise", "'factorise' must have the form FILE.py:FUNCTION"),
    ],
)
def test_a_name_without_a_file_is_an_error(name: str, words: str) -> None:
    with pytest.raises(OptionError, match=f"^tool.own: {words}"):
        own_tools(ToolOptions(own=(name,)))


def test_two_tools_of_one_name_are_an_error() -> None:
    def code_interpreter() -> str:
        """Another one."""
        return ""

    with pytest.raises(OptionError, match="two tools called 'code_interpreter'"):
        Toolbox([PythonTool(NOWHERE, ToolOptions()), OwnTool(code_interpreter, ToolOptions())])


NOWHERE: Any = None
"""A sandbox that nobody asks."""


def test_a_file_is_run_once(tmp_path: Path) -> None:
    counter = tmp_path / "runs"
    counter.write_text("")
    more = f"with open({str(counter)!r}, 'a') as file: file.write('x')"
    (tmp_path / "mine.py").write_text(f"{more}\ndef f(): ...\ndef g(): ...\n")
    for name in ("f", "g", "f"):
        load(f"{tmp_path}/mine.py:{name}", option="tool.own")
    assert counter.read_text() == "x"


# In an attempt


@pytest.fixture
def harness(teacher: Path, problem_file: Path, tmp_path: Path) -> Harness:
    """The lab, and the example's tool."""
    sandbox = {"workers": 1, "backend": "local" if CONFINABLE else "unsafe_subprocess"}
    files = {"model": teacher, "data": str(problem_file), "out": tmp_path / "run"}
    options = EvalOptions.model_validate(files | {"tool": {"own": (EXAMPLE,)}, "sandbox": sandbox})
    return Harness.of(teacher, options, [])


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def test_a_student_calls_the_examples_tool_beside_the_interpreter(harness: Harness) -> None:
    turns = [
        call("factorise", '{"number": 360}') + call("code_interpreter", '{"code": "2**3 * 9 * 5"}'),
        call("factorise", '{"number": 1}'),
        call("factorise", '{"number": "360"}'),
        "\\boxed{5}",
    ]
    engine = ScriptedEngine(lambda request: harness.chat.turn({"content": turns[request.seed % len(turns)]}))
    problem = Problem(id="p", messages=({"role": "user", "content": "Largest prime factor of 360?"},), answer="5")
    limits = EvalOptions.model_fields["rollout"].default.model_copy(update={"group": 1})
    with Runner() as loop, harness.sandbox.working_in(loop):
        (group,) = loop.run(rollout(harness.agent(engine, limits), [problem], seed=0, update=0))
    (trajectory,) = group
    assert isinstance(trajectory, Trajectory)
    assert trajectory.judged.is_right
    assert trajectory.outcomes == {"ok": 2, "error": 1, "wrong_arguments": 1}
    read = [harness.chat.text(piece.tokens) for piece in trajectory.observations]
    assert "2 * 2 * 2 * 3 * 3 * 5" in read[0]
    assert "360" in read[0]
    assert "ValueError: 1 has no prime factors" in read[1]
    assert '"number" must be of type integer' in read[2]


def test_the_student_is_shown_both_tools(harness: Harness) -> None:
    assert [each["function"]["name"] for each in harness.tools.schemas] == ["code_interpreter", "factorise"]
