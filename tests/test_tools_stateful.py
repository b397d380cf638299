"""Tools with a state: opened for each attempt and always closed; sessions of the interpreter, files, SQL and search."""

import asyncio
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from confining import CONFINABLE
from one_sandbox import OneSandbox

from sod.config import SandboxOptions, ToolOptions
from sod.datasets.rows import ProblemFile
from sod.environments import Opening, Turn
from sod.environments.guarding import GuardedEnvironment
from sod.environments.tools import ToolEnvironment, check_schemas
from sod.errors import DataError, InfrastructureError, OptionError
from sod.planning import checks
from sod.sandbox.local import LocalSandbox
from sod.tools import Toolbox, shared_in_attempt
from sod.tools.selection import check_files, described, tools_of
from sod.tools.sql import SqlTool
from sod.types import Observation, Problem, ToolCall

PROBLEM = Problem(id="p", messages=({"role": "user", "content": "How many?"},), answer="1")
SANDBOX = OneSandbox(workers=2)


def teardown_module() -> None:
    SANDBOX.close()


def with_files(**files: Path) -> Problem:
    names = {name.replace("_", "."): str(path) for name, path in files.items()}
    return Problem(id="p", messages=PROBLEM.messages, answer="1", files=names)


def converse(options: ToolOptions, problem: Problem, *calls: ToolCall) -> tuple[Opening, list[Observation]]:
    """Open the default environment, make the calls one after another, and close it."""

    async def work(sandbox: LocalSandbox) -> tuple[Opening, list[Observation]]:
        environment = ToolEnvironment(Toolbox(tools_of(options, sandbox)))
        opening = await environment.open(problem, 0)
        try:
            steps = [await environment.step(Turn("", (call,))) for call in calls]
        finally:
            await environment.close()
        return opening, [observation for step in steps for observation in step.observations]

    return SANDBOX.run(work)


def python(code: str) -> ToolCall:
    return ToolCall(name="code_interpreter", arguments={"code": code})


def sql(query: str) -> ToolCall:
    return ToolCall(name="sql", arguments={"query": query})


def search(query: str) -> ToolCall:
    return ToolCall(name="search", arguments={"query": query})


# Opening and closing


class Counter:
    """A tool that counts its calls in an attempt."""

    def __init__(self, name: str, log: list[str], *, fails: str = ""):
        self.schema = {"type": "function", "function": {"name": name, "parameters": {"properties": {}}}}
        self.name, self.log, self.fails, self.count = name, log, fails, 0

    async def open(self, problem: Problem, seed: int) -> "Counter":
        if self.fails == "open":
            raise InfrastructureError("no server")
        self.log.append(f"open {self.name} {seed}")
        opened = Counter(self.name, self.log, fails=self.fails)
        opened.shared = shared_in_attempt("list", list)
        return opened

    shared: list[str]

    async def close(self) -> None:
        self.log.append(f"close {self.name}")
        if self.fails == "close":
            raise OSError("gone")

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        self.count += 1
        self.shared.append(self.name)
        return Observation(text=f"{self.count} {self.shared}", outcome="ok")


def call(toolbox: Toolbox, name: str) -> str:
    return asyncio.run(toolbox.answer([ToolCall(name=name, arguments={})]))[0].text


def test_each_attempt_has_tools_of_its_own_which_share_what_they_ask_for() -> None:
    log: list[str] = []
    toolbox = Toolbox([Counter("a", log), Counter("b", log)])
    first, second = asyncio.run(toolbox.open(PROBLEM, 7)), asyncio.run(toolbox.open(PROBLEM, 8))
    assert [call(first, "a"), call(first, "b"), call(first, "a")] == ["1 ['a']", "1 ['a', 'b']", "2 ['a', 'b', 'a']"]
    assert call(second, "a") == "1 ['a']"
    asyncio.run(first.close())
    assert log == ["open a 7", "open b 7", "open a 8", "open b 8", "close b", "close a"]
    assert toolbox.has_state


def test_a_tool_that_cannot_be_opened_closes_those_before_it() -> None:
    log: list[str] = []
    with pytest.raises(InfrastructureError, match="no server"):
        asyncio.run(Toolbox([Counter("a", log), Counter("b", log, fails="open")]).open(PROBLEM, 0))
    assert log == ["open a 0", "close a"]


def test_a_tool_that_fails_to_close_is_logged_and_the_others_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    opened = asyncio.run(Toolbox([Counter("a", log), Counter("b", log, fails="close")]).open(PROBLEM, 0))
    asyncio.run(opened.close())
    assert log[-2:] == ["close b", "close a"]
    assert "the tool 'b' could not be closed: OSError: gone" in caplog.text


# The interpreter


def test_a_session_lives_as_long_as_the_attempt() -> None:
    options = ToolOptions(session="on", seconds=10.0, memory_mb=1024)
    opening, (first, second, ended, after) = converse(
        options, PROBLEM, python("x = 20"), python("x + 1"), python("import os\nos._exit(1)"), python("x")
    )
    assert "Variables, imports and files are kept between calls." in opening.tools[0]["function"]["description"]
    assert [first.text, second.text] == ["[no output]", "21"]
    assert ended.text.endswith(
        "[The session ended with this call. All variables and imports are lost; files are kept. The next call starts a new "
        "session.]"
    )
    assert ended.outcome == "error"
    assert "NameError" in after.text
    _, (again,) = converse(options, PROBLEM, python("x"))
    assert "NameError" in again.text


def test_the_sentence_about_an_ended_session_stays_when_output_is_cut() -> None:
    options = ToolOptions(session="on", seconds=10.0, memory_mb=1024, max_chars=300)
    _, (cut,) = converse(options, PROBLEM, python("print('x' * 9999, flush=True)\nimport os\nos._exit(1)"))
    assert len(cut.text) <= 300
    assert "output omitted" in cut.text
    assert cut.text.endswith("The next call starts a new session.]")


def test_without_sessions_nothing_is_kept() -> None:
    opening, (_, second) = converse(ToolOptions(seconds=10.0), PROBLEM, python("x = 20"), python("x"))
    assert "Nothing is kept between calls." in opening.tools[0]["function"]["description"]
    assert "NameError" in second.text
    assert opening.conversation == PROBLEM.messages


@pytest.mark.parametrize("session", ["off", "on"])
def test_files_of_a_problem_stand_in_the_directory_and_in_the_prompt(session: Any, tmp_path: Path) -> None:
    table = tmp_path / "table-17.csv"
    table.write_text("a\n" * 1500)
    options = ToolOptions(session=session, seconds=10.0)
    opening, (read, again) = converse(
        options,
        with_files(data_csv=table),
        python("len(open('data.csv').read())"),
        python("import os\nos.listdir('.')"),
    )
    assert opening.conversation[-1]["content"] == "How many?\n\nFiles in the working directory: data.csv (2.93 kB)."
    assert (read.text, again.text) == ("3000", "['data.csv']")


# Files as data


def test_paths_are_relative_to_the_data_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "t.csv").write_text("a")
    row = {"prompt": "How many?", "answer": "1", "files": {"t.csv": "t.csv"}}
    (tmp_path / "data" / "rows.jsonl").write_text(json.dumps(row))
    [problem] = ProblemFile(tmp_path / "data" / "rows.jsonl")
    check_files([problem], Toolbox([]))
    assert described(problem) == "Files in the working directory: t.csv (1 bytes)."


@pytest.mark.parametrize("name", ["../t.csv", "/t.csv", "a/t.csv", "..", "", "a\0b", "x" * 300])
def test_a_name_that_is_not_plain_is_an_error_before_the_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a")
    problem = Problem(id="p", messages=PROBLEM.messages, answer="1", files={name: str(tmp_path / "t")})
    with pytest.raises(DataError, match=r"Problem 'p': its file .* would leave the working directory"):
        check_files([problem], Toolbox([]))


def test_a_missing_or_too_large_file_is_an_error_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"its file .*none.csv does not exist"):
        check_files([with_files(a_csv=tmp_path / "none.csv")], Toolbox([]))
    with open(tmp_path / "large", "wb") as file:
        file.truncate((32 << 20) + 1)
    with pytest.raises(DataError, match="its files have 32 MB, more than 32 MB"):
        check_files([with_files(a_csv=tmp_path / "large")], Toolbox([]))


# SQL


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE item (name TEXT, price REAL, picture BLOB)")
        connection.executemany("INSERT INTO item VALUES (?, ?, ?)", [("pen", 1.5, b"ab"), ("cup", None, None)])
    connection.close()
    return path


def query(database: Path, *queries: str, **options: Any) -> list[Observation]:
    tool = ToolOptions.model_validate({"use": ("sql",), **options})
    return converse(tool, with_files(shop_db=database), *map(sql, queries))[1]


def test_a_query_returns_names_and_rows(database: Path) -> None:
    rows, none, schema = query(
        database, "SELECT * FROM item", "SELECT * FROM item WHERE price > 9", "SELECT sql FROM sqlite_schema"
    )
    assert rows.text == "name | price | picture\npen | 1.5 | <2 bytes>\ncup | NULL | NULL"
    assert none.text == "[no rows]"
    assert "CREATE TABLE item" in schema.text


@pytest.mark.parametrize(
    "wrong",
    [
        "INSERT INTO item VALUES ('a', 1, NULL)",
        "DROP TABLE item",
        "ATTACH 'other.db' AS other",
        "PRAGMA journal_mode = WAL",
        "SELECT 1; SELECT 2",
        "SELECT load_extension('x')",
        "SELECT nothing",
        "no query",
        "SELECT '\0'",
        "SELECT '\ud800'",
        "SELECT zeroblob(2000000000)",
        "",
    ],
)
def test_what_is_no_query_of_this_database_is_text_and_changes_nothing(wrong: str, database: Path) -> None:
    before = database.read_bytes()
    [answer] = query(database, wrong)
    assert answer.outcome == ("error" if wrong else "ok")
    assert answer.text
    assert database.read_bytes() == before


def test_rows_and_time_have_limits(database: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {} FROM n"
    rows, late = query(database, endless.format("i"), endless.format("max(i)"), max_rows=3, seconds=0.3)
    assert rows.text == "i\n1\n2\n3\n[more than 3 rows]"
    assert (late.text, late.outcome) == ("[stopped: longer than 0.3 s]", "timeout")


def test_a_problem_without_a_readable_database_is_an_error_before_the_run(database: Path, tmp_path: Path) -> None:
    toolbox = Toolbox([SqlTool(ToolOptions(use=("sql",)))])
    with pytest.raises(DataError, match="Problem 'p': it has no database"):
        check_files([PROBLEM], toolbox)
    (tmp_path / "text.db").write_text("no database" * 100)
    with pytest.raises(DataError, match="cannot be read: file is not a database"):
        check_files([with_files(text_db=tmp_path / "text.db")], toolbox)
    check_files([PROBLEM], Toolbox([SqlTool(ToolOptions(use=("sql",), database=database))]))


# Search


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    pytest.importorskip("bm25s", reason="bm25s is not installed: pip install '.[search]'")
    folder = tmp_path / "documents"
    (folder / "more").mkdir(parents=True)
    (folder / "rivers.txt").write_text("The Danube flows through Vienna.\n\nThe Nile flows through Cairo.")
    (folder / "more" / "cities.jsonl").write_text(json.dumps({"title": "Lima", "text": "Lima is a capital."}) + "\n")
    (folder / "long.md").write_text("\n\n".join(f"{word} " * 100 for word in ("alpha", "beta")))
    return folder


def test_a_search_returns_the_best_passages_with_their_titles(documents: Path) -> None:
    options = ToolOptions(use=("search",), documents=documents, passages=1)
    _, (lima, beta, none) = converse(options, PROBLEM, search("the capital LIMA"), search("beta"), search("zebra"))
    assert lima.text == "(1) Lima\nLima is a capital."
    assert beta.text.startswith("(1) long.md\nbeta beta")
    assert "alpha" not in beta.text
    assert (none.text, none.outcome) == ("[no passage has these words]", "ok")


def test_documents_that_cannot_be_read_are_an_error_before_the_run(documents: Path, tmp_path: Path) -> None:
    (documents / "bad.jsonl").write_text('{"text": "no title"}\n')
    with pytest.raises(DataError, match=r"bad.jsonl cannot be read \(KeyError: 'title'\)"):
        converse(ToolOptions(use=("search",), documents=documents), PROBLEM)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no text in files"):
        converse(ToolOptions(use=("search",), documents=tmp_path / "empty"), PROBLEM)


# Options that do not go together


@pytest.mark.parametrize(
    ("tool", "sandbox", "message"),
    [
        ({"session": "on"}, {"backend": "fusion"}, "tool.session = on does not work with sandbox.backend = fusion"),
        ({"session": "on", "show_last_expr": "reference"}, {}, "does not work with tool.show_last_expr = reference"),
        ({"mcp_only": ("add",)}, {}, "tool.mcp_only chooses tools of MCP servers, but no server is given"),
        ({"use": ("search",)}, {}, "tool.use = search needs documents, but no folder is given"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tool: Any, sandbox: Any, message: str) -> None:
    found = list(checks.of_tools(ToolOptions.model_validate(tool), SandboxOptions.model_validate(sandbox)))
    assert any(message in refusal for refusal in found), found


class Template:
    """A chat format that fails on a schema without a type."""

    shows_tools = True

    def prompt(self, messages: Any, tools: Any) -> Any:
        return tools[0]["function"]

    def text(self, tokens: Any) -> str:
        return (
            "" if tokens["name"] == "hidden" else f"{tokens['name']} {tokens['parameters']['properties']['x']['type']}"
        )


@pytest.mark.parametrize(
    ("name", "schema", "cause"), [("a", {}, "KeyError: 'type'"), ("hidden", {"type": "x"}, "its name")]
)
def test_a_tool_that_the_chat_template_cannot_show_is_refused(name: str, schema: Any, cause: str) -> None:
    tool = Counter(name, [])
    tool.schema["function"] = {"name": name, "parameters": {"properties": {"x": schema}}}
    with pytest.raises(OptionError, match=rf"cannot show the tool '{name}' \(.*{cause}\)"):
        check_schemas(Template(), Toolbox([tool]))  # type: ignore[arg-type]


def test_a_result_of_the_reference_interpreter_stays_empty() -> None:
    async def work() -> list[str]:
        options = ToolOptions(show_last_expr="reference", seconds=10.0)
        async with LocalSandbox(workers=1, unsafe=not CONFINABLE) as sandbox:
            made = ToolEnvironment(Toolbox(tools_of(options, sandbox)))
            guarded = GuardedEnvironment(made, "tools", options, seconds=None)
            await guarded.open(PROBLEM, 0)
            answer = await guarded.answer("", [python("print('', end='')")], 0)
            await guarded.close()
            return [observation.text for observation in answer.observations]

    assert asyncio.run(work()) == [""]
