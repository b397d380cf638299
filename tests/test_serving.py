"""`sod serve`: requests of agents outside become conversations, each a trajectory with exact tokens."""

import json
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chat_client import ask, send
from outside import ADD, PROBLEM, Row, conversations
from warm import Warm

from sod.chat.format import ChatFormat
from sod.cli import run
from sod.runs.records import from_record
from sod.tools.python import interpreter_schema

FILE = "trajectories.jsonl"
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.fixture
def serve(chat: ChatFormat, tmp_path: Path) -> Callable[..., list[Row]]:
    """Serve a student of scripted turns while an agent talks. -> the rows that were written"""
    return partial(conversations, chat, tmp_path / FILE)


Serve = Callable[..., list[Row]]


def authors(row: Row) -> list[str]:
    return [piece["author"] for piece in row["pieces"]]


def test_requests_that_repeat_a_conversation_are_one_trajectory(serve: Serve, chat: ChatFormat) -> None:
    def talk(url: str) -> None:
        messages = [user("Add.")]
        answer = ask(f"{url}/first/v1", messages, tools=[ADD])
        (made,) = answer["tool_calls"]
        messages += [answer, {"role": "tool", "tool_call_id": made["id"], "content": "7"}]
        assert ask(f"{url}/first/v1", messages, tools=[ADD])["content"] == "It is 7."

    (row,) = serve(talk, CALL, "It is 7.")
    assert (row["problem"], row["sample"], row["stop"]) == ("first", 0, "answered")
    assert authors(row) == ["prompt", "student", "tool", "student"]
    assert row["pieces"][0]["tokens"] == chat.prompt([user("Add.")], [ADD])
    assert row["pieces"][2]["tokens"] == chat.observation(["7"], ["add"])
    assert [len(piece["logprobs"]) for piece in row["pieces"] if piece["author"] == "student"] == [
        len(piece["tokens"]) for piece in row["pieces"] if piece["author"] == "student"
    ]
    again = from_record(row, PROBLEM, chat.final_text)
    assert again.final_text == "It is 7."
    assert again.tools == (ADD,)


def test_a_session_is_named_by_its_path_or_by_the_key(serve: Serve) -> None:
    def talk(url: str) -> None:
        ask(f"{url}/a%2Fb/v1", [user("One.")])
        for key in ("by key", "sk-secret", ""):
            send(f"{url}/v1/chat/completions", {"messages": [user("One.")]}, key)

    names = [row["problem"] for row in serve(talk, "ok")]
    assert names[:2] == ["a/b", "by key"]
    assert re.fullmatch(r"key-[0-9a-f]{8}", names[2])
    assert names[3] == "default"


def test_a_session_holds_several_conversations_and_sessions_do_not_mix(serve: Serve) -> None:
    def talk(url: str) -> None:
        for name in ("x", "x", "y"):
            answer = ask(f"{url}/{name}/v1", [user("One.")])
            assert ask(f"{url}/{name}/v1", [user("One."), answer, user("Two.")])["content"] == "b"

    rows = serve(talk, "a", "b")
    assert sorted((row["problem"], row["sample"]) for row in rows) == [("x", 0), ("x", 1), ("y", 0)]
    assert all(authors(row) == ["prompt", "student", "user", "student"] for row in rows)


def test_requests_at_the_same_time_are_conversations_of_their_own(serve: Serve) -> None:
    def talk(url: str) -> None:
        with ThreadPoolExecutor(8) as threads:
            texts = [f"Number {at}." for at in range(24)]
            answers = threads.map(lambda text: ask(f"{url}/x/v1", [user(text)])["content"], texts)
            assert set(answers) == {"a"}

    rows = serve(talk, "a")
    assert sorted(row["sample"] for row in rows) == list(range(24))
    assert len({row["messages"][0]["content"] for row in rows}) == 24


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda said: [user("Other."), said, user("Two.")], "message 1 is another one"),
        (lambda said: [user("One."), said | {"content": "b"}, user("Two.")], "message 2 is another one"),
        (lambda said: [user("One."), said], "a user's message must follow a turn of text, and no messages do"),
    ],
)
def test_a_changed_history_is_refused_and_the_conversation_stays_open(
    serve: Serve, change: Callable[[dict[str, Any]], list[dict[str, Any]]], words: str
) -> None:
    def talk(url: str) -> None:
        answer = ask(f"{url}/x/v1", [user("One.")])
        with pytest.raises(ConnectionError, match=f"400: Session 'x': The agent does not continue.*{words}"):
            ask(f"{url}/x/v1", change(answer))
        assert ask(f"{url}/x/v1", [user("One."), answer, user("Two.")])["content"] == "b"

    (row,) = serve(talk, "a", "b")
    assert authors(row) == ["prompt", "student", "user", "student"]


def test_a_conversation_that_has_ended_is_not_continued(serve: Serve) -> None:
    def talk(url: str) -> None:
        answer = ask(f"{url}/x/v1", [user("One.")])
        assert send(f"{url}/x/v1/end", {}) == {"session": "x", "ended": 1}
        with pytest.raises(ConnectionError, match="Its conversation has ended"):
            ask(f"{url}/x/v1", [user("One."), answer, user("Two.")])

    assert len(serve(talk, "a")) == 1


def test_examples_in_a_first_request_are_its_prompt(serve: Serve, chat: ChatFormat) -> None:
    shown = [user("1?"), {"role": "assistant", "content": "one"}, user("2?")]

    def talk(url: str) -> None:
        ask(f"{url}/x/v1", shown)

    (row,) = serve(talk, "two")
    assert row["pieces"][0]["tokens"] == chat.prompt(shown, [])


def test_the_agent_reports_its_verdict(serve: Serve) -> None:
    def talk(url: str) -> None:
        for name, right in (("good", True), ("bad", False)):
            ask(f"{url}/{name}/v1", [user("One.")])
            send(f"{url}/{name}/v1/end", {"right": right})
        ask(f"{url}/open/v1", [user("One.")])
        with pytest.raises(ConnectionError, match="400: right is 1; it must be true, false or null"):
            send(f"{url}/open/v1/end", {"right": 1})

    found = {row["problem"]: (row["graded"], row["correct"]) for row in serve(talk, "a")}
    assert found == {"good": (True, True), "bad": (True, False), "open": (False, False)}


def test_a_session_with_the_id_of_a_problem_is_judged(serve: Serve) -> None:
    def talk(url: str) -> None:
        ask(f"{url}/sum/v1", [user("What is 1 + 2?")])

    (row,) = serve(talk, r"It is \boxed{3}.")
    assert (row["benchmark"], row["gold"], row["answer"], row["correct"]) == ("sums", "3", "3", True)


def test_silence_ends_a_conversation(serve: Serve, tmp_path: Path) -> None:
    def talk(url: str) -> None:
        ask(f"{url}/x/v1", [user("One.")])
        deadline = time.monotonic() + 60
        while not (tmp_path / FILE).read_text() and time.monotonic() < deadline:
            time.sleep(0.05)

    (row,) = serve(talk, "a", idle=0.2)
    assert row["stop"] == "answered"


def test_a_limit_cuts_the_turn_and_the_agent_reads_it(serve: Serve) -> None:
    def talk(url: str) -> None:
        answer = send(f"{url}/x/v1/chat/completions", {"messages": [user("One.")]})
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 2
        assert "a b c".startswith(answer["choices"][0]["message"]["content"])

    (row,) = serve(talk, "a b c", max_tokens=2)
    assert row["stop"] == "max_tokens"


def test_a_prompt_over_the_limit_is_refused_in_words(serve: Serve) -> None:
    def talk(url: str) -> None:
        with pytest.raises(ConnectionError, match=r"400: .*more than rollout.max_prompt_tokens = 4"):
            ask(f"{url}/x/v1", [user("One and two and three.")])

    assert not serve(talk, "a", max_prompt_tokens=4)


def test_bad_requests_are_refused_in_words_and_leave_nothing(serve: Serve) -> None:
    def talk(url: str) -> None:
        for path, body, words in (
            ("x/v1/chat/completions", {"messages": "hello"}, "400: .*not a list of objects"),
            ("x/v1/chat/completions", {"messages": [user("a")], "tools": [{}]}, "400: The request cannot be read"),
            ("x/v1/chat/completions", {"messages": [user("a")], "n": 2}, "400: n is 2"),
            ("x/v1/completions", {"prompt": "a"}, "404: There is no path"),
            ("x" * 300 + "/v1/end", {}, "400: The name of a session has at most 200"),
        ):
            with pytest.raises(ConnectionError, match=words):
                send(f"{url}/{path}", body)

    assert not serve(talk, "a")


def test_a_killed_server_continues_its_conversations(serve: Serve, tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []

    def before(url: str) -> None:
        answer = ask(f"{url}/x/v1", [user("Add.")], tools=[ADD])
        result = {"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": "7"}
        said[:] = [user("Add."), answer, result]
        said.append(ask(f"{url}/x/v1", said, tools=[ADD]))

    def after(url: str) -> None:
        assert ask(f"{url}/x/v1", said[:-1], tools=[ADD]) == said[-1]  # the agent did not read it
        assert ask(f"{url}/x/v1", [*said, user("Sure?")], tools=[ADD])["content"] == "Yes."
        with pytest.raises(ConnectionError, match="400"):
            ask(f"{url}/x/v1", said[:-1], tools=[ADD])

    turns = (CALL, "It is 7.", "Yes.")
    assert serve(before, *turns, is_killed=True) == []
    (row,) = serve(after, *turns)
    assert not list((tmp_path / "open").iterdir())
    assert (row["problem"], row["sample"]) == ("x", 0)
    (tmp_path / FILE).unlink()

    def whole(url: str) -> None:
        before(url)
        ask(f"{url}/x/v1", [*said, user("Sure?")], tools=[ADD])

    (plain,) = serve(whole, *turns)
    assert row | {"seconds": 0} == plain | {"seconds": 0}


def test_of_a_killed_server_what_has_no_answer_is_removed(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[dict[str, Any]] = []

    def before(url: str) -> None:
        said.extend([user("One."), ask(f"{url}/whole/v1", [user("One.")])])
        for name in ("torn", "empty", "damaged"):
            ask(f"{url}/{name}/v1", [user(f"{name}.")])

    serve(before, "a", "b", is_killed=True)
    files = {json.loads(file.read_text().split("\n")[0])["session"]: file for file in (tmp_path / "open").iterdir()}
    first, asked, answered = files["torn"].read_text().splitlines(keepends=True)
    files["torn"].write_text(first + asked + answered + asked + answered[:20])
    files["empty"].write_text(files["empty"].read_text().rpartition('{"read"')[0])
    files["damaged"].write_text("{")

    def after(url: str) -> None:
        assert ask(f"{url}/whole/v1", [*said, user("Two.")])["content"] == "b"

    rows = serve(after, "a", "b")
    assert sorted((row["problem"], authors(row)) for row in rows) == [
        ("torn", ["prompt", "student"]),
        ("whole", ["prompt", "student", "user", "student"]),
    ]
    assert [file.name for file in (tmp_path / "open").iterdir()] == [files["damaged"].with_suffix(".damaged").name]
    assert "is damaged, so its conversation does not continue" in caplog.text


def test_a_conversation_that_was_written_before_the_kill_is_not_written_twice(serve: Serve, tmp_path: Path) -> None:
    serve(lambda url: ask(f"{url}/x/v1", [user("One.")]), "a", is_killed=True)
    (file,) = (tmp_path / "open").iterdir()
    content = file.read_bytes()
    assert len(serve(lambda url: None, "a")) == 1
    file.write_bytes(content)
    assert len(serve(lambda url: None, "a")) == 1
    assert not file.exists()


@contextmanager
def served(teacher: Path, out: Path, *more: str) -> Iterator[tuple[Warm, str]]:
    """Run `sod serve` with the lab's teacher. -> the process and its address"""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        "serve",
        "--model",
        str(teacher),
        "--out",
        str(out),
        "--port",
        str(port),
        "--network.device",
        "cpu",
        *more,
    ]
    process = Warm(["-m", "sod", *command])
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 240
    try:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield process, url
    finally:
        process.send(signal.SIGKILL)


def solve(url: str) -> str:
    """Let the lab's teacher compute with a calculator of the agent's own. -> its last words"""
    messages = [user("AB=1+2;AB?")]
    for _ in range(9):
        answer = ask(url, messages, tools=[interpreter_schema()])
        messages.append(answer)
        for call in answer.get("tool_calls") or ():
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": "3\n"})
        if not answer.get("tool_calls"):
            return answer["content"]
    raise AssertionError("it calls for ever")


@pytest.mark.slow
def test_the_command_records_until_ctrl_c_and_goes_on_in_its_directory(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for times in (1, 2):
        with served(teacher, out) as (process, url):
            assert "3" in solve(f"{url}/calculator/v1")
            process.send(signal.SIGINT)
            ended = process.wait(240)
        assert ended.returncode == 0, ended.stderr
        assert "update-0000.jsonl: 1 (0 right, 0 wrong, 1 ungraded)\n" in ended.stdout
        rows = [json.loads(line) for line in (out / "trajectories" / "update-0000.jsonl").read_text().splitlines()]
        assert [(row["problem"], row["sample"]) for row in rows] == [("calculator", n) for n in range(times)]
        assert all(piece["logprobs"] for row in rows for piece in row["pieces"] if piece["author"] == "student")
    assert json.loads((out / "end.json").read_text())["how"] == "finished"
    assert run(["report", str(out)]) == 0
    assert "2 trajectories" in capsys.readouterr().out
    assert run(["runs", str(out)]) == 0
    assert "2 samples" in capsys.readouterr().out


def test_a_port_in_use_is_an_error_before_anything_is_written(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(["serve", "--model", str(teacher), "--out", str(tmp_path / "out"), "--port", port]) == 2
    assert f"port: {port} cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_killed_command_continues_its_conversations(teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with served(teacher, out) as (process, url):
        messages = [user("AB=1+2;AB?"), ask(f"{url}/x/v1", [user("AB=1+2;AB?")])]
        process.send(signal.SIGKILL)
        process.wait(60)
    assert not (out / "trajectories" / "update-0000.jsonl").read_text()
    with served(teacher, out) as (process, url):
        ask(f"{url}/x/v1", [*messages, user("AB?")])
        process.send(signal.SIGINT)
        process.send(signal.SIGINT)  # a copy, as `timeout -s INT` sends one
        ended = process.wait(240)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.rstrip().endswith("update-0000.jsonl: 1 (0 right, 0 wrong, 1 ungraded)")
    assert not ended.stderr.count("interrupted")
    (line,) = (out / "trajectories" / "update-0000.jsonl").read_text().splitlines()
    assert authors(json.loads(line)) == ["prompt", "student", "user", "student"]
