"""`sod watch`: what the screen shows of runs that begin, grow, lose rows, are damaged and vanish; and the page over HTTP."""

import http.client
import json
import os
import pty
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console
from test_report import ENVIRONMENT, HOSTILE, TRAIN, attempts, lines, trajectory, update, write_run
from test_report_browser import BROWSER, browser

from sod.cli import run as sod
from sod.config import WatchOptions
from sod.runs.alarms import ALARMS
from sod.runs.directory import Run
from sod.runs.ends import write_end
from sod.runs.locks import LOCK_FILE, Lock
from sod.runs.validations import Validation, add_validation, link_best
from sod.watch import watch
from sod.watch.following import NEWEST, Follower
from sod.watch.keyboard import names_of
from sod.watch.panes import chosen_curves, join_lines
from sod.watch.plots import plot
from sod.watch.serving import LivePage, open_server
from sod.watch.status import signature
from sod.watch.views import KEYS, Viewer

SIZES = ((80, 24), (120, 40))


def shown(viewer: Viewer, *keys: str, size: tuple[int, int] = (80, 24), colour: bool = False) -> str:
    """The screen after some keys, as a terminal of that size shows it."""
    width, height = size
    viewer.lines(width, height, time.time())
    for key in keys:
        viewer.press(key)
    drawn = viewer.lines(width, height, time.time())
    assert len(drawn) == height
    assert max(line.cell_len for line in drawn) <= width
    system = "standard" if colour else None
    console = Console(
        width=width, height=height, force_terminal=colour, color_system=system, record=True, no_color=False
    )
    with console.capture() as captured:
        console.print(join_lines(drawn))
    text = captured.get()
    assert len(text.rstrip("\n").split("\n")) <= height
    return text


def viewer_of(*folders: Path, curves: Sequence[str] = ()) -> Viewer:
    return Viewer([Follower(folder, folder.name) for folder in folders], curves)


def validate(run: Path, number: int, score: float) -> None:
    """Add a validation with one set to a run, as `sod train` does."""
    numbers = {"validate/lab/avg": score, "validate/lab/no": 0.5, "validate/avg": score}
    add_validation(run, Validation(number, {}, numbers, {}), [trajectory("held")])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "sod")


# The overview


@pytest.mark.parametrize("size", SIZES)
def test_one_screen_says_what_a_run_does(run: Path, size: tuple[int, int]) -> None:
    lock = Lock(run)
    lock.take()
    with (run / "metrics.jsonl").open("a") as file:
        file.write(lines([update(4, **{"seconds/update": 60.0})]))  # the run repeats update 4, and has 4 to go
    text = shown(viewer_of(run), size=size)
    lock.release()
    first = text.splitlines()[0]
    assert first.startswith("sod  ████████  update 8/8")
    assert first.rstrip().endswith("running")
    assert "solved 80.0%" in first
    assert "train sod" in text
    for curve in ("rollout/solved", "rollout/reward", "steps/d", "learn/entropy", "tools/calls", "tools/errors"):
        assert curve in text
    assert "newest trajectories of update 8: 1 of 48" in text
    assert "▶ ✗ p11 #1  -1.00  2 calls  1 error  d .20 1.20 2.20  w 1.00 .17 .09" in text
    assert "question How much?" in text
    assert "answer 41, gold 42 (exact), ended: answered" in text
    assert "q quit" in text.splitlines()[-1]


def test_the_time_left_follows_from_the_latest_updates(run: Path) -> None:
    rows = [update(n, **{"seconds/update": 60.0}) for n in range(1, 4)]
    (run / "metrics.jsonl").write_text(lines(rows))
    lock = Lock(run)
    lock.take()
    follower = Follower(run, "run")
    lock.release()
    assert follower.status.left == pytest.approx(5 * 60, abs=60)
    assert "update 3/8  4m" in shown(Viewer([follower])) or "update 3/8  5m00s left" in shown(Viewer([follower]))


@pytest.mark.parametrize("size", SIZES)
def test_several_runs_stand_above_the_chosen_one(tmp_path: Path, size: tuple[int, int]) -> None:
    runs = [write_run(tmp_path / f"run-{n}", metrics=[update(k) for k in range(1, n + 2)]) for n in range(12)]
    viewer = viewer_of(*runs, tmp_path / "later")
    text = shown(viewer, size=size)
    assert text.splitlines()[0].startswith("▶ run-0 ")
    assert "update 1/8" in text.splitlines()[0]
    text = shown(viewer, "tab", "tab", size=size)
    assert next(line for line in text.splitlines() if line.startswith("▶")).startswith("▶ run-2 ")
    assert "▶ later" in shown(viewer, "1", "back tab", size=size)
    assert "No run yet. It is shown as soon as it begins." in shown(viewer, size=size)
    assert "▶ run-8" in shown(viewer, "9", size=size)


def test_alarms_are_shown_with_their_message_and_in_full_on_request(tmp_path: Path) -> None:
    rows = [update(n, **{"stop/max_tokens": 0.9}) for n in range(1, 7)]
    rows = [*rows[:2], *(row | {"alarm/truncated": 1.0} for row in rows[2:])]
    rows[3]["alarm/tool_calls"] = 1.0
    viewer = viewer_of(write_run(tmp_path / "run", metrics=rows))
    text = shown(viewer)
    assert "! truncated: 90% of trajectories are truncated by the token limit" in text
    assert "! tool_calls: no longer raised; first in update 4, raised in 1 of 6" in text
    full = " ".join(shown(viewer, "a").split())
    assert ALARMS["truncated"].why in full
    assert f"Try {ALARMS['truncated'].remedy}." in full
    assert "first in update 3, raised in 4 of 6, still at the end" in full


def test_why_a_run_ended_is_shown(run: Path) -> None:
    write_end(run, ValueError("the \x1b[31mdisk\nis full"))
    text = shown(viewer_of(run))
    assert "failed (ValueError)" in text.splitlines()[0]
    assert "the \\x1b[31mdisk" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("sft", "Continue it with --resume."),
        ("train", "Continue it with --resume."),
        ("eval", "Continue it with the same command."),
        ("rollout", "Continue it with the same command."),
        ("calibrate", "It cannot be continued. Start it again with another --out."),
    ],
)
def test_a_crashed_run_is_continued_as_its_command_allows(tmp_path: Path, command: str, advice: str) -> None:
    run = write_run(tmp_path / "run", environment=ENVIRONMENT | {"command": command})
    (run / LOCK_FILE).write_text("process 1 on a machine that has stopped")
    text = shown(viewer_of(run))
    assert "crashed" in text.splitlines()[0]
    assert f"Its process was killed, or the machine stopped. {advice}" in " ".join(text.split())


# Curves


def test_any_metric_is_drawn_by_its_name_or_by_the_beginning_of_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for number in (0, 4, 8):
        validate(run, number, 0.0625 * number)
    text = shown(viewer_of(run))
    assert text.index("rollout/solved") < text.index("validate/avg") < text.index("rollout/reward")
    assert "validate/lab" not in text, "a run has dozens of them"
    status = Follower(run, "run").status
    assert status.record.curve("validate/avg") == ([0, 4, 8], [0.0, 0.25, 0.5])
    assert chosen_curves(status, ["validate/", "learn/entropy"]) == [
        "validate/avg",
        "validate/lab/avg",
        "validate/lab/no",
        "learn/entropy",
    ]
    drawn = shown(viewer_of(run, curves=["validate/lab/avg"])).splitlines()
    place = next(at for at, line in enumerate(drawn) if line.startswith("validate/lab/avg"))
    assert drawn[place].split()[:2] == ["validate/lab/avg", "0.5"]
    assert "█" in drawn[place + 1]
    assert chosen_curves(status, ["steps/d", "none"]) == ["steps/d"]
    assert "steps/d" not in shown(viewer_of(run, curves=["validate/"]))
    assert {"pattern/stable", "seconds/learn", "validate/lab/no"} <= set(chosen_curves(status, ()))
    assert "seconds/learn" in shown(viewer_of(run), "c")


@pytest.mark.parametrize(
    ("values", "width", "height", "drawn"),
    [
        ([], 3, 2, ["   ", "   "]),
        ([7], 3, 1, ["▄▄▄"]),
        ([0, 1], 4, 1, ["▁▁██"]),
        ([0, 1], 4, 2, ["  ██", "▁▁██"]),
        ([0, 0, 8, 8, 4, 4], 3, 1, ["▁█▅"]),
        ([-3, -3, -3], 2, 2, ["  ", "██"]),
    ],
)
def test_a_plot_is_as_high_as_its_values(values: list[float], width: int, height: int, drawn: list[str]) -> None:
    assert plot(values, width, height) == drawn


# Reading trajectories


def test_a_trajectory_is_read_step_by_step(run: Path) -> None:
    viewer = viewer_of(run)
    text = shown(viewer, "enter", size=(80, 40))
    for words in (
        "✗ wrong  p11 #1 · update 8",
        "step 1  d 0.200  w 1.000",
        "step 2  d 1.200  w 0.167  used 1.000",
        "tool  error",
    ):
        assert words in text
    assert "tool_response" not in text
    assert "✓ right  p11 #0 · update 8" in shown(viewer, "n")
    assert "✗ wrong  p11 #1 · update 8" in shown(viewer, "p")
    assert "newest trajectories" in shown(viewer, "escape")


def test_a_long_trajectory_is_scrolled(tmp_path: Path) -> None:
    long = trajectory("long", steps=60)
    viewer = viewer_of(write_run(tmp_path / "run", trajectories={3: [long]}))
    top = shown(viewer, "enter")
    assert "step 1 " in top
    assert " 9 % ─" in top.splitlines()[0]
    end = shown(viewer, "end")
    assert "step 60 " in end
    assert "100 %" in end
    assert shown(viewer, "down", "page down") == end
    assert "step 60 " not in shown(viewer, "page up", "up")
    assert shown(viewer, "home") == top


def test_what_is_chosen_stays_chosen_while_newer_trajectories_come(run: Path) -> None:
    viewer = viewer_of(run)
    assert "▶ ✓ p11 #0" in shown(viewer, "down")
    (run / "trajectories" / "update-0009.jsonl").write_text(lines([trajectory("new")]))
    text = wait_for(viewer, "new #0")
    assert "▶ ✓ p11 #0  update 8" in text
    assert "  ✓ new #0" in text
    assert "▶ ✓ new #0" in shown(viewer, "up", "up")


def test_the_newest_samples_of_an_evaluation_come_first(tmp_path: Path) -> None:
    rows = [trajectory(f"p{i}") for i in range(100)]
    run = write_run(
        tmp_path / "run", metrics=[], trajectories={0: [*rows, rows[0] | {"problem": "secret", "private": True}]}
    )
    follower = Follower(run, "run")
    assert [attempt.shown.problem for attempt in follower.attempts][:2] == ["p99", "p98"]
    assert len(follower.attempts) == NEWEST


@pytest.mark.parametrize("size", [*SIZES, (20, 5), (1, 1)])
@pytest.mark.parametrize("view", ["overview", "enter", "c", "a", "?"])
def test_hostile_text_reaches_no_terminal_and_fits(tmp_path: Path, view: str, size: tuple[int, int]) -> None:
    evil = HOSTILE + "\x1b]0;title\x07\t\u202e" + "漢字" * 100 + "[bold]:smile:"
    row = trajectory(evil, reason=evil, answer=evil, gold=evil, stop=evil, pattern=evil)
    for piece in row["pieces"]:
        piece["text"] = evil
    metrics = [update(n) | {f"validate/{evil}": 1.0, f"alarm/{evil}": 1.0} for n in range(1, 3)]
    run = write_run(
        tmp_path / "run", metrics=metrics, trajectories={2: [row]}, options=TRAIN | {"algorithm": {"name": evil}}
    )
    text = shown(viewer_of(run), view, size=size)
    assert not {"\x1b", "\x07", "\u202e", "\t"} & set(text)
    if view == "enter" and size == (120, 40):
        assert "[bold]:smile:" in text


# Keys


def test_the_help_names_every_key_and_a_key_twice_leads_back(run: Path) -> None:
    viewer = viewer_of(run)
    text = shown(viewer, "?")
    assert all(words in text for keys in KEYS for words in keys)
    assert "newest trajectories" in shown(viewer, "?")
    assert not viewer.ended
    shown(viewer, "x", "0", "9", "q")
    assert viewer.ended


def test_what_a_terminal_sends_is_a_key() -> None:
    data = b"\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[Z\t\r\x1b[1;5Cq?\xc3\xa4"
    assert names_of(data)[:7] == ["up", "down", "page up", "page down", "back tab", "tab", "enter"]
    assert names_of(data)[8:10] == ["q", "?"]
    assert names_of(b"\x1b") == ["escape"]


# Runs that change


def test_a_run_that_begins_later_is_followed_to_its_end_and_beyond(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    viewer = viewer_of(folder)
    assert "waiting" in shown(viewer)
    lock = Lock(folder)
    lock.take()
    viewer.follower._not_before = 0.0
    assert viewer.follower.refresh(time.time())
    assert "starting" in shown(viewer)
    write_run(tmp_path / "made", metrics=[], trajectories={})
    for file in (tmp_path / "made").iterdir():
        file.rename(folder / file.name)
    viewer.follower.refresh(time.time() + 1)
    assert "running" in wait_for(viewer, "update 0/8")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(lines([update(1)]) + '{"update": 2, "rollout/sol')
        file.flush()
        assert "update 1/8" in wait_for(viewer, "update 1/8")
        file.write('ved": 0.875}\n')
        file.flush()
        assert "solved 87.5%" in wait_for(viewer, "update 2/8")
    lock.release()
    shutil.rmtree(folder)
    assert "waiting" in wait_for(viewer, "waiting")


def wait_for(viewer: Viewer, words: str) -> str:
    """Look at the run until the screen has the words. -> the screen"""
    deadline = time.monotonic() + 60
    while words not in (text := shown(viewer)) and time.monotonic() < deadline:
        viewer.follower.refresh(time.time())
        time.sleep(0.01)
    return text


def test_rows_and_trajectories_that_a_resumed_run_removes_are_gone(run: Path) -> None:
    viewer = viewer_of(run)
    assert "update 8/8" in shown(viewer, "enter", "escape")
    Run(run).rewind(4)
    text = wait_for(viewer, "update 4/8")
    assert "update 4/8" in text
    assert "newest trajectories of update 1: 1 of 24" in text


def test_a_run_that_has_not_changed_is_not_read_again(run: Path) -> None:
    follower = Follower(run, "run")
    time.sleep(0.01)
    follower._not_before = 0.0
    assert not follower.refresh(time.time())
    (run / "metrics.jsonl").touch()
    assert follower.refresh(time.time())


def test_a_new_validation_and_another_best_checkpoint_are_noticed(run: Path) -> None:
    follower = Follower(run, "run")
    seen = [signature(run)]
    validate(run, 4, 0.25)
    follower._not_before = 0.0
    assert follower.refresh(time.time())
    assert follower.status.record.curve("validate/avg") == ([4], [0.25])
    seen.append(signature(run))
    for number in (4, 8):
        checkpoint = run / "checkpoints" / f"update-{number:04}"
        checkpoint.mkdir(parents=True)
        link_best(run, checkpoint)
        seen.append(signature(run))
    assert len(set(seen)) == 4


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "options.json", "environment.json", "trajectories/update-0008.jsonl", "end.json"]
)
@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\n", b"[]\n" * 3, b"null\n", b'{"update": "x"}\n', b"[" * 5000]
)
def test_a_damaged_file_is_left_out(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    for view in ("overview", "enter", "c", "a"):
        assert shown(viewer_of(run), view).strip()


@pytest.mark.parametrize("name", ["metrics.jsonl", "options.json", "end.json", "trajectories/update-0008.jsonl"])
def test_a_folder_in_place_of_a_file_is_left_out(run: Path, name: str) -> None:
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    assert shown(viewer_of(run)).strip()


# The command


def test_without_a_terminal_it_prints_the_state_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch(WatchOptions(runs=(run,)))
    text = capsys.readouterr().out
    assert text.startswith("sod  ████████  update 8/8")
    assert "rollout/solved" in text
    assert "── step 3  d 2.200  w 0.091" in text
    assert "q quit" not in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(("place", "words"), [("none", "is not a directory"), (".", "contains some. Pass one")])
def test_what_is_no_run_is_an_error_without_a_terminal(
    run: Path, place: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sod(["watch", str(run.parent / place)]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_watch_and_runs_import_nothing_heavy(run: Path) -> None:
    code = f"""
import sys
from sod.cli import run
assert run(["watch", {str(run)!r}]) == run(["runs", {str(run.parent)!r}]) == 0
heavy = ("torch", "transformers", "numpy", "matplotlib", "pyarrow", "sympy", "http.server", "sod.datasets", "sod.rewards")
print("IMPORTED", [name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.endswith("IMPORTED []\n")


class Terminal:
    """`sod watch` on a terminal of its own."""

    def __init__(self, folder: Path, **environment: str):
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        self.before = termios.tcgetattr(theirs)
        command = [sys.executable, "-m", "sod", "watch", str(folder)]
        env = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        env |= {"TERM": "xterm-256color"} | environment
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
        )
        self.ours, self.theirs, self.text = ours, theirs, ""

    def until(self, words: str) -> str:
        """Read until the words are on the screen. -> everything that was written"""
        deadline = time.monotonic() + 100
        while words not in self.text and time.monotonic() < deadline:
            if select.select([self.ours], [], [], 0.1)[0]:
                self.text += os.read(self.ours, 1 << 16).decode(errors="replace")
        assert words in self.text
        return self.text

    def press(self, keys: bytes) -> None:
        self.text = ""
        os.write(self.ours, keys)

    def end(self) -> int:
        """Read the rest. -> the exit status"""
        deadline = time.monotonic() + 100
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self.ours], [], [], 0.1)[0]:
                self.text += os.read(self.ours, 1 << 16).decode(errors="replace")
        assert termios.tcgetattr(self.theirs) == self.before
        return self.process.wait(10)


@pytest.fixture
def terminal(run: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_terminal(**environment: str) -> Terminal:
        opened.append(Terminal(run, **environment))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.process.kill()
        each.process.wait()
        os.close(each.ours)
        os.close(each.theirs)


def test_on_a_terminal_keys_work_changes_appear_and_the_terminal_is_left_as_it_was(
    run: Path, terminal: Callable[..., Terminal]
) -> None:
    screen = terminal()
    assert "\x1b[?1049h" in screen.until("? help")
    assert "\x1b[31m" in screen.text or "\x1b[1;31m" in screen.text
    screen.press(b"\x1b[B\r")
    screen.until("p11 #0 · update 8")
    screen.press(b"\x1b")
    screen.until("newest trajectories")
    screen.press(b"")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(lines([update(9, **{"rollout/solved": 0.123})]))
    screen.until("solved 12.3%")
    screen.press(b"q")
    assert screen.end() == 0
    assert screen.text.endswith("\x1b[?1049l\x1b[?25h") or "\x1b[?1049l" in screen.text


def test_ctrl_c_ends_it_without_a_word_and_no_color_is_obeyed(terminal: Callable[..., Terminal]) -> None:
    screen = terminal(NO_COLOR="1")
    screen.until("? help")
    colours = [f"\x1b[{code}m" for code in (31, 32, 33, 36)]
    assert not [code for code in colours if code in screen.text]
    screen.process.send_signal(2)
    assert screen.end() == 0
    assert "error:" not in screen.text
    assert "interrupted" not in screen.text


# The page


@pytest.fixture
def served(run: Path) -> Iterator[ThreadingHTTPServer]:
    with open_server(LivePage([run], 100), 0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: ThreadingHTTPServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str, Any]:
    """Send the path as it is. -> status, body, headers"""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=100)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, answer.headers


def test_the_page_is_the_report_and_it_may_ask_only_its_own_server(served: ThreadingHTTPServer) -> None:
    status, body, headers = get(served, "/")
    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    assert "sod watch: sod" in body
    assert "8 of 8 updates" in body
    assert "connect-src 'self'" in body
    assert "started.then(follow)" in body
    status, body, _ = get(served, "/changes")
    assert (status, json.loads(body)["words"]) == (200, "sod: unfinished, 8/8")


def test_the_page_is_made_again_only_after_a_change(served: ThreadingHTTPServer, run: Path) -> None:
    live = LivePage([run], 100)
    first, version = live.content(), json.loads(live.changes())["version"]
    assert live.content() is first
    with (run / "metrics.jsonl").open("a") as file:
        file.write(lines([update(9)]))
    assert json.loads(live.changes())["version"] == version  # too early
    live._not_before = 0.0
    newer = json.loads(live.changes())["version"]
    assert newer != version
    assert f'let version = "{newer}"' in live.content().decode()


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/options.json",
            "/metrics.jsonl",
            "/../../../../etc/passwd",
            "/..%2f..%2foptions.json",
            "//etc/passwd",
            "/?x",
            "/.",
        ),
        *(
            "/changes/",
            "/%2e%2e/options.json",
            "/index.html",
            "http://127.0.0.1/etc/passwd",
            "/\\..\\options.json",
            "/changes/..",
        ),
    ],
)
def test_no_path_leads_to_a_file(served: ThreadingHTTPServer, path: str) -> None:
    status, body, _ = get(served, path)
    assert status == (403 if "127.0.0.1" in path else 404)  # http.client takes the host from such a path
    assert not [secret for secret in ("root:", "lab/student", "rollout/solved") if secret in body]


def test_only_this_machine_is_answered_and_only_by_its_own_name(served: ThreadingHTTPServer) -> None:
    assert served.server_address[0] == "127.0.0.1"
    assert get(served, "/changes", Host=f"localhost:{served.server_port}")[0] == 200
    for host in ("evil.example", f"evil.example:{served.server_port}", "", "127.0.0.1.evil.example:80"):
        assert get(served, "/changes", Host=host)[0] == 403
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert get(served, "/", method)[0] == 501


def test_a_port_in_use_is_an_error_in_words(
    served: ThreadingHTTPServer, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sod(["watch", str(run), "--page", "--port", str(served.server_port)]) == 2
    assert "cannot be used: Address already in use. Type another one, or --port 0" in capsys.readouterr().err


def test_the_page_of_a_run_that_has_not_begun_or_has_vanished_is_shown(tmp_path: Path) -> None:
    live = LivePage([tmp_path / "later"], 100)
    assert "Not drawn" in live.content().decode()
    assert json.loads(live.changes())["words"] == "later: waiting"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here; Debian's package `chromium` has one")
def test_an_open_page_shows_new_updates_and_keeps_what_is_read(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sod.watch.serving.COST", 0)
    (run / "trajectories" / "update-0008.jsonl").write_text(lines(attempts(4)))
    with open_server(LivePage([run], 100), 0) as server, browser(tmp_path / "profile") as tab:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            tab.open(f"http://127.0.0.1:{server.server_port}/")
            tab.until("document.querySelector('.following')?.textContent === 'sod: unfinished, 8/8'")
            assert tab.count == "28 of 28"
            assert "update 8" in tab.ask("document.querySelector('.entry').innerText")
            tab.press("j")
            tab.until("document.querySelector('.reader')")
            read = tab.read
            tab.choose("verdict", "right")
            with (run / "metrics.jsonl").open("a") as file:
                file.write(lines([update(9)]))
            (run / "trajectories" / "update-0009.jsonl").write_text(lines([trajectory("new")]))
            tab.until("document.querySelector('.following').textContent === 'sod: unfinished, 9/8'")
            tab.until("count.textContent === '15 of 29'")
            assert "9 of 8 updates" in tab.ask("document.querySelector('#summary').innerText")
            assert "new #0" in tab.ask("document.querySelector('.entry').innerText")
            assert tab.read == read
            assert not tab.complaints
        finally:
            server.shutdown()
            server.server_close()
        tab.until("document.querySelector('.following').textContent.startsWith('sod watch has ended')")
