"""`sod report` on run directories made by hand: what it shows, and what it does with what it cannot read."""

import base64
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from evaluated import benchmark, results

from sod.config import ReportOptions
from sod.errors import RunError
from sod.report import report
from sod.report.figures import FIGURES, by_step, mean_and_error, smooth
from sod.report.packing import CHUNK_CHARACTERS, Packer
from sod.report.palette import COLOURS, LIGHT
from sod.report.reading import names, read_run
from sod.report.trajectories import TokenTotals, parse_trajectory
from sod.report.validation import validation_figure, validation_rows
from sod.runs.alarms import ALARMS
from sod.runs.validations import Validation, add_validation, link_best

TRAIN = {
    "student": "lab/student",
    "teacher": "lab/teacher",
    "data": "lab/train.jsonl",
    "updates": 8,
    "seed": 3,
    "algorithm": {"name": "sod"},
}
EVAL = {
    "model": "run/checkpoints/update-0008",
    "teacher": "lab/teacher",
    "data": "lab/eval.jsonl",
    "samples": 2,
    "seed": 0,
}
ENVIRONMENT = {"sod": "0.1.0", "data": {"data": "d1", "student": "s1", "teacher": "t1"}}


def trajectory(
    problem: str = "p1", *, sample: int = 0, failed: bool = False, steps: int = 3, **fields: Any
) -> dict[str, Any]:
    """A trajectory as a run keeps it: `steps` steps, whose divergence grows where a call has failed."""
    pieces: list[dict[str, Any]] = [{"author": "prompt", "text": "<|im_start|>user\nHow much?", "tokens": [1, 2, 3]}]
    rows: list[dict[str, float]] = []
    for k in range(steps):
        d = 0.2 + (k if failed else 0.01 * k)
        pieces.append(
            {
                "author": "student",
                "text": f"so {k}\n",
                "tokens": [4, 5, 6],
                "token_texts": ["so", f" {k}", "\n"],
                "logprobs": [-0.5, -0.25, -0.125],
                "signal": [d, -2 * d, 0.0],
                "teacher_entropy": [0.1, 0.2, 0.3],
            }
        )
        if k < steps - 1:
            text = "\n<tool_response>\n42\n</tool_response>\n"
            outcome = "error" if failed and k == 0 else "ok"
            pieces.append({"author": "tool", "text": text, "tokens": [7, 8], "outcomes": [outcome]})
        rows.append({"d": d, "w": min(0.2 / d, 1.2), "w_used": 1.0, "teacher_entropy": 0.2})
    row = {
        "problem": problem,
        "sample": sample,
        "gold": "42",
        "answer": "41" if failed else "42",
        "correct": not failed,
        "graded": True,
        "reason": "exact",
        "reward": -1.0 if failed else 1.0,
        "stop": "answered",
        "seconds": 1.5,
        "pieces": pieces,
        "steps": rows,
        "pattern": "erroneous" if failed else "stable",
    }
    return row | fields


def update(number: int, **metrics: float) -> dict[str, float]:
    """A row of metrics."""
    return {
        "update": number,
        "rollout/solved": 0.1 * number,
        "rollout/reward": 0.2 * number - 1,
        "tools/calls": 2.0,
        "tools/errors": 0.5,
        "learn/entropy": 0.4,
        "steps/d": 0.3,
        "pattern/stable": 0.5,
        "pattern/erroneous": 0.3,
        "pattern/recovery": 0.2,
        "seconds/generate": 1.0,
        "seconds/score": 0.5,
        "seconds/waiting": 0.25,
        "seconds/learn": 0.75,
        "seconds/sync": 0.01,
    } | metrics


def attempts(count: int = 24) -> list[dict[str, Any]]:
    return [trajectory(f"p{i // 2}", sample=i % 2, failed=i % 2 == 1) for i in range(count)]


def lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_run(
    folder: Path,
    *,
    options: dict[str, Any] = TRAIN,
    environment: dict[str, Any] = ENVIRONMENT,
    metrics: Sequence[dict[str, float]] = tuple(map(update, range(1, 9))),
    trajectories: Mapping[int, Sequence[dict[str, Any]]] | None = None,
    **files: Any,
) -> Path:
    """A run directory; `files` are further ones by their names, such as results."""
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(lines(metrics))
    for name, content in ({"options": options, "environment": environment} | files).items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "trajectories").mkdir()
    for number, rows in ({1: attempts(), 8: attempts()} if trajectories is None else trajectories).items():
        (folder / "trajectories" / f"update-{number:04}.jsonl").write_text(lines(rows))
    return folder


def page(*runs: Path, **options: Any) -> str:
    report(ReportOptions(runs=runs, **options))
    return (options.get("out") or runs[0] / "report.html").read_text()


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figure: they take most of a page's time. For pages whose data other tests of this file draw."""
    monkeypatch.setattr("sod.report.FIGURES", ())


def unpack(packed: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def index(html: str) -> list[dict[str, Any]]:
    """What the page's list knows of every trajectory."""
    found = re.search(r'id="index">([^<]*)<', html)
    assert found
    content = unpack(found[1])
    return [dict(zip(content["fields"], entry, strict=True)) for entry in content["entries"]]


def content(html: str) -> Iterator[dict[str, Any]]:
    """Every trajectory that the page holds."""
    chunks = [unpack(found) for found in re.findall(r'id="chunk-\d+">([^<]*)<', html)]
    return (chunks[entry["chunk"]][entry["place"]] for entry in index(html))


class Text(HTMLParser):
    """The visible text of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in ("script", "style", "svg")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style", "svg")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def text(html: str) -> str:
    return " ".join(" ".join(Text(html).parts).split())


def figure_names(html: str) -> list[str]:
    return re.findall(r'<figure id="figure-(\w+)"', html)


# What is shown


@pytest.mark.usefixtures("no_figures")
def test_a_page_says_what_a_run_is_and_how_it_changed(tmp_path: Path) -> None:
    shown = text(page(write_run(tmp_path / "run")))
    for words in (
        "train · sod",
        "8 of 8 updates",
        "lab/student",
        "lab/teacher",
        "lab/train.jsonl",
        "48 of updates 1–8",
    ):
        assert words in shown
    assert "updates 1–3 updates 6–8" in shown
    assert "solved 20.0% 70.0%" in shown
    assert "reward −0.60 0.40" in shown


def test_a_run_under_way_is_said_to_be_unfinished(tmp_path: Path) -> None:
    shown = text(page(write_run(tmp_path / "run", metrics=[update(1), update(2), update(3)])))
    assert "3 of 8 updates, not finished" in shown
    assert "update 1 update 3" in shown  # windows that do not overlap


@pytest.mark.usefixtures("no_figures")
def test_an_evaluation_shows_its_results_with_their_error(tmp_path: Path) -> None:
    measured = {"avg": 0.5975, "avg_se": 0.0252, "pass@2": 0.825, "maj": 0.7, "problems": 200, "samples": 2}
    found = results({"set": benchmark(measured)}).record()
    run = write_run(tmp_path / "run", options=EVAL, metrics=[update(0)], trajectories={0: attempts()}, results=found)
    shown = text(page(run))
    assert "59.8% ± 2.5%" in shown
    assert "pass@n 82.5%" in shown
    assert "finished" in shown


def test_an_evaluation_of_several_benchmarks_shows_each_of_them(tmp_path: Path) -> None:
    averages = {"aime2024": 0.2, "math500": 0.6}
    benchmarks = {name: benchmark({"avg": avg, "avg_se": 0.05}) for name, avg in averages.items()}
    found = results(benchmarks, mean={"avg": 0.4, "avg_se": 0.035}, partial=True).record()
    run = write_run(tmp_path / "run", options=EVAL, metrics=[update(0)], trajectories={0: attempts()}, results=found)
    shown = text(page(run))
    assert "aime2024 20.0% ± 5.0%" in shown
    assert "math500 60.0% ± 5.0%" in shown
    assert "partial: interrupted" in shown


def test_trajectories_that_are_not_to_be_published_are_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, private = attempts()[:2]
    rows = [kept, private | {"private": True}]
    run = write_run(tmp_path / "run", options=EVAL, metrics=[update(0)], trajectories={0: rows})
    assert [entry["problem"] for entry in index(page(run))] == ["p0"]
    assert "authors ask not to publish" in capsys.readouterr().out


def test_an_evaluation_without_results_is_unfinished(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", options=EVAL, metrics=[], trajectories={0: attempts()})
    assert "not finished: no results.json" in text(page(run))


def test_an_alarm_is_shown_with_its_first_update_and_its_remedy(tmp_path: Path) -> None:
    calls = [4.0, 4.0, 4.0, 4.0, 1.0, 1.0, 1.0, 1.0]
    alarm = [{}, {}, {}, {}, {}, {}, {"alarm/tool_calls": 1.0}, {"alarm/tool_calls": 1.0}]
    metrics = [update(i + 1, **{"tools/calls": calls[i]}, **alarm[i]) for i in range(8)]
    shown = text(page(write_run(tmp_path / "run", metrics=metrics)))
    assert "tool_calls (first in update 7, raised in 2 of 8, still at the end)" in shown
    assert "tool calls per trajectory fell from 4 to 1" in shown
    assert ALARMS["tool_calls"].remedy in shown


@pytest.mark.usefixtures("no_figures")
def test_an_alarm_of_another_version_is_shown_by_its_name(tmp_path: Path) -> None:
    metrics = [update(1, **{"alarm/smoke": 1.0, "alarm/divergence": 1.0}), update(2)]
    shown = text(page(write_run(tmp_path / "run", metrics=metrics)))
    assert "smoke (first in update 1, raised in 1 of 2): This version of sod does not have this alarm." in shown
    assert ALARMS["divergence"].why in shown


@pytest.mark.usefixtures("no_figures")
def test_every_trajectory_is_in_the_page_with_what_it_is_found_by(tmp_path: Path) -> None:
    html = page(write_run(tmp_path / "run", trajectories={5: [trajectory("p9", sample=4, failed=True)]}))
    (entry,) = index(html)
    assert entry | {"run": 0, "update": 5, "problem": "p9", "sample": 4, "verdict": "wrong", "reward": -1.0} == entry
    assert entry | {"stop": "answered", "errors": 1, "steps": 3, "tokens": 13, "pattern": "erroneous"} == entry
    assert entry["weights"] == [1.0, 0.167, 0.091]
    assert entry["signal"] == pytest.approx((0.2 + 1.2 + 2.2) * 3 / 9, abs=1e-4)
    (shown,) = content(html)
    assert shown["gold"] == "42"
    assert [piece["author"] for piece in shown["pieces"]] == ["prompt", *["student", "tool"] * 2, "student"]
    assert shown["pieces"][1]["signal"] == [2000, -4000, 0]
    assert shown["pieces"][2]["outcomes"] == ["error"]
    assert "tokens" not in shown["pieces"][1]


def test_text_of_tokens_is_kept_as_cuts_where_they_join(tmp_path: Path) -> None:
    row = trajectory(steps=2)
    row["pieces"][1] |= {"text": "a😀b", "token_texts": ["a", "😀", "b"]}
    row["pieces"][3] |= {"text": "é!!", "token_texts": ["�", "�", "!!"]}
    _, compact = parse_trajectory(row, 1, TokenTotals())
    assert compact["pieces"][1]["cuts"] == [1, 2, 1]  # as JavaScript counts
    assert compact["pieces"][3]["texts"] == ["�", "�", "!!"]


@pytest.mark.usefixtures("no_figures")
def test_the_newest_trajectories_are_held_and_the_page_says_so(tmp_path: Path) -> None:
    rows = {number: [trajectory(f"u{number}", sample=i) for i in range(4)] for number in (1, 2, 3)}
    html = page(write_run(tmp_path / "run", trajectories=rows), trajectories=6)
    assert [entry["update"] for entry in index(html)] == [2, 2, 3, 3, 3, 3]
    assert "6 of updates 2–3, older ones not shown" in text(html)


def test_the_page_needs_no_network_and_lets_no_other_script_run(tmp_path: Path) -> None:
    html = page(write_run(tmp_path / "run"))
    assert not re.search(r'(src|href)="(?!#)', html.replace("xlink:", ""))
    assert "default-src 'none'" in html
    assert len(re.findall(r"<script>", html)) == 1
    assert re.search(r"script-src 'sha256-[\w+/]{43}='\"", html)


def test_the_same_runs_give_the_same_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert page(run, out=tmp_path / "one.html") == page(run, out=tmp_path / "two.html")


# Several runs


@pytest.mark.usefixtures("no_figures")
def test_runs_stand_side_by_side_under_names_that_differ(tmp_path: Path) -> None:
    html = page(write_run(tmp_path / "a" / "sod"), write_run(tmp_path / "b" / "sod"))
    assert "a/sod b/sod" in text(html)
    assert {entry["run"] for entry in index(html)} == {0, 1}


def test_names_are_as_short_as_they_can_be() -> None:
    assert names([Path("/x/sod"), Path("/x/opd")]) == ["sod", "opd"]
    assert names([Path("/x/a/sod"), Path("/x/b/sod"), Path("/x/b/opd")]) == ["a/sod", "b/sod", "b/opd"]


@pytest.mark.usefixtures("no_figures")
def test_a_run_given_twice_is_shown_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert len(index(page(run, run / "trajectories" / ".."))) == 48


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"data": {"data": "d2", "student": "s1", "teacher": "t1"}}, "used different problems"),
        ({"data": {"data": "d1", "student": "s2", "teacher": "t1"}}, "started from different students"),
        ({"data": {"data": "d1", "student": "s1", "teacher": "t2"}}, "used different teachers"),
        ({"sod": "0.0.9"}, "different versions of sod"),
    ],
)
def test_runs_that_do_not_compare_are_warned_of(tmp_path: Path, change: dict[str, Any], warning: str) -> None:
    other = write_run(tmp_path / "two", environment=ENVIRONMENT | change)
    shown = text(page(write_run(tmp_path / "one"), other))
    assert warning in shown
    assert "one versus two" in shown


def test_runs_that_compare_are_not_warned_of(tmp_path: Path) -> None:
    unknown = write_run(tmp_path / "three", environment={})
    shown = text(page(write_run(tmp_path / "one"), write_run(tmp_path / "two"), unknown))
    assert "Limited comparability" not in shown


# Figures


def calibration() -> dict[str, Any]:
    bins = [
        {"low": 0.0, "high": 0.5, "n": 40, "solved": 0.2, "se": 0.06},
        {"low": 0.5, "high": 1.2, "n": 60, "solved": 0.9, "se": 0.04},
    ]
    by_errors = [{"errors": n, "n": 50, "solved": 0.9 - 0.3 * n, "d": 0.2, "entropy": 0.1, "w": 1.0} for n in range(3)]
    return {"rules": {"sod": {"auc": 0.8, "bins": bins}, "opd": {"auc": 0.5, "bins": bins}}, "by_errors": by_errors}


def validate(run: Path) -> Path:
    """Add validations to a run, and a line that cannot be read."""
    for number in (0, 4, 8):
        numbers = {"validate/held/avg": 0.3 + number / 20, "validate/held/avg_half": 0.05}
        add_validation(run, Validation(number, {}, numbers, {}))
    with (run / "validation.jsonl").open("a") as file:
        file.write('{"update": 12}\n')
    return run


def test_every_figure_is_drawn_for_page_and_paper_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = validate(write_run(tmp_path / "run", calibration=calibration()))
    html = page(run, png=tmp_path / "png")
    all_names = [drawing.name for drawing in FIGURES]
    assert figure_names(html) == all_names
    assert sorted(path.stem for path in (tmp_path / "png").iterdir()) == sorted(all_names)
    said = capsys.readouterr().out
    for name in all_names:
        assert (tmp_path / "png" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"{name}.png" in said


def test_validations_with_other_settings_than_the_last_one_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for number, limit, score in ((0, 20, 0.5), (4, 20, 0.9), (4, 50, 0.4), (8, 50, 0.6), (6, 50, 0.45)):
        add_validation(run, Validation(number, {"limit": limit}, {"validate/held/avg": score}, {}))
    html = page(run)
    assert "validations with other options or problems than the last one: validation.jsonl line 1 and 1 more" in html
    for when, cell in (("first", "40.0"), ("highest", "60.0, update 8"), ("RUN/best", "–"), ("last", "60.0")):
        assert f'<th scope="row">held, avg, %: {when}</th><td>{cell}</td>' in html


def test_the_best_checkpoint_is_the_one_that_its_link_names(tmp_path: Path) -> None:
    """The mean over two sets chooses update 4, which is the highest in neither."""
    run = write_run(tmp_path / "run")
    for number, one, other in ((0, 0.8, 0.1), (4, 0.7, 0.6), (8, 0.1, 0.75)):
        numbers = {"validate/one/avg": one, "validate/other/avg": other, "validate/avg": (one + other) / 2}
        add_validation(run, Validation(number, {}, numbers, {}))
    checkpoint = run / "checkpoints" / "update-0004"
    checkpoint.mkdir(parents=True)
    link_best(run, checkpoint)
    record = read_run(run, "run", limit=0, keep=lambda _: (0, 0), advance=lambda: None)
    rows = dict(validation_rows([record]))
    assert rows["one, avg, %: highest"] == ["80.0, update 0"]
    assert rows["one, avg, %: RUN/best"] == ["70.0, update 4"]
    assert rows["other, avg, %: highest"] == ["75.0, update 8"]
    assert rows["other, avg, %: RUN/best"] == ["60.0, update 4"]
    figure = validation_figure([record])
    assert figure is not None
    rings = [
        [line.get_xydata().tolist() for line in axis.lines if line.get_fillstyle() == "none"] for axis in figure.axes
    ]
    assert rings == [[[[4.0, 70.0]]], [[[4.0, 60.0]]]]


def test_a_loss_has_a_lowest_row_and_a_link_to_something_else_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for number, loss in ((0, 2.0), (4, 1.0), (8, 1.5)):
        add_validation(run, Validation(number, {}, {"validate/held/loss": loss}, {}))
    (run / "else-1").mkdir()
    link_best(run, run / "else-1")
    html = page(run)
    assert "held, loss, nats per token: lowest</th><td>1.000, update 4</td>" in html
    assert "held, loss, nats per token: RUN/best</th><td>–</td>" in html


def test_figures_follow_the_page_and_have_names_of_their_own(tmp_path: Path) -> None:
    html = page(validate(write_run(tmp_path / "run", calibration=calibration())), write_run(tmp_path / "two"))
    assert "held, avg, %: highest</th><td>70.0 ± 5.0, update 8</td>" in html
    assert "validations that cannot be read: validation.jsonl line 4" in html
    pictures = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(pictures) == len(FIGURES)
    identities: list[str] = []
    for picture in pictures:
        tree = ElementTree.fromstring(picture)
        assert tree.get("role") == "img"
        identities += [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
        assert "var(--ink)" in picture
        assert not re.search("#[0-9a-f]{6}", picture.replace("#ffffff", ""))
    assert len(identities) == len(set(identities))


def test_what_older_runs_do_not_know_is_left_out_with_a_note(tmp_path: Path) -> None:
    row = trajectory()
    for piece in row["pieces"]:
        for key in ("token_texts", "signal", "teacher_entropy"):
            piece.pop(key, None)
    row["steps"] = []
    del row["pattern"]
    metrics = [{"update": i, "rollout/solved": 0.5} for i in (1, 2)]
    html = page(write_run(tmp_path / "run", metrics=metrics, trajectories={1: [row]}))
    assert figure_names(html) == ["learning"]
    assert f"Not drawn: {len(FIGURES) - 1}" in text(html)
    assert html.count("</b> requires ") == len(FIGURES) - 1
    (shown,) = content(html)
    assert "signal" not in shown["pieces"][1]
    (entry,) = index(html)
    assert entry["signal"] is None
    assert entry["weights"] == []


def test_attempts_at_one_problem_are_not_taken_for_independent() -> None:
    values = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    apart = mean_and_error(values, list("abcdef"))
    together = mean_and_error(values, list("aaabbb"))
    assert apart == pytest.approx((0.5, (0.25 * 6 / 5 / 6) ** 0.5))
    assert together == pytest.approx((0.5, 0.5))  # two problems that gave 0 and 1: sd / sqrt(2)


def test_steps_are_averaged_where_enough_trajectories_have_them() -> None:
    rows = [trajectory(f"p{i}", steps=3 if i < 10 else 4) for i in range(12)]
    parsed = [parse_trajectory(row, 1, TokenTotals())[0] for row in rows]
    steps, means, _ = by_step(parsed, lambda step: step.d)
    assert steps == [1, 2, 3]
    assert means == pytest.approx([0.2, 0.21, 0.22])


def test_smoothing_looks_back_only() -> None:
    assert smooth([0, 4, 8], width=2) == [0, 2, 6]


def test_tokens_are_named_by_the_signal_that_they_carry() -> None:
    totals = TokenTotals()
    for failed in (False, True):
        parse_trajectory(trajectory(failed=failed, steps=2), 1, totals)
    assert totals.count["so"] == 4
    assert totals.nats["so"] == pytest.approx(0.2 + 0.21 + 0.2 + 1.2)
    assert totals.nats["\n"] == 0


def test_no_two_colours_are_alike_so_that_each_follows_the_page() -> None:
    assert len(set(LIGHT.values())) == len(COLOURS)


# What cannot be read


def test_a_path_that_is_no_run_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere is not a directory\. Pass run directories"):
        page(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"empty is not a run directory\. Pass run directories"):
        page(tmp_path / "empty")
    for seed in range(8):
        write_run(tmp_path / "demo" / "cells" / "sod" / f"seed-{seed}" / "train")
    with pytest.raises(
        RunError, match=r"demo is not a run directory, but contains some\. Pass .*: \S*seed-0/train .* and 2 more\."
    ):
        page(tmp_path / "demo")


def test_a_run_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics=[], trajectories={})
    with pytest.raises(RunError, match="Nothing could be read"):
        page(run)
    assert not (run / "report.html").exists()


DAMAGE = {
    "not json": (b"nonsense\n", "lines that are not JSON"),
    "not utf-8": (b'{"update": 3, "x": "\xff\xfe"}\n', "lines that are not JSON"),
    "half written": (b'{"update": 9, "rollout/sol', "incomplete last lines"),
    "nested for ever": (b"[" * 100_000 + b"\n", "lines that are not JSON"),
    "a list": (b"[1, 2]\n", "trajectories (is not an object)"),
    "no pieces": (b'{"problem": "p"}\n', "trajectories (has no pieces of text)"),
    "pieces of numbers": (b'{"pieces": [1, 2]}\n', "trajectories (has no pieces of text)"),
}


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_line_of_a_trajectory_file_is_left_out_and_said(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, words = DAMAGE[kind]
    run = write_run(tmp_path / "run")
    with (run / "trajectories" / "update-0008.jsonl").open("ab") as file:
        file.write(damage)
    html = page(run)
    note = f"{words}{' (interrupted, or still running)' if 'incomplete' in words else ''}: trajectories/update-0008.jsonl line 25"
    assert note in text(html)
    assert f"run: left out {note}" in capsys.readouterr().out
    assert len(index(html)) == 48


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("kind", ["not json", "not utf-8", "half written", "nested for ever"])
def test_a_damaged_line_of_metrics_is_left_out_and_said(tmp_path: Path, kind: str) -> None:
    damage, words = DAMAGE[kind]
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(damage)
    shown = text(page(run))
    assert words in shown
    assert "metrics.jsonl line 9" in shown
    assert "8 of 8 updates" in shown


@pytest.mark.usefixtures("no_figures")
def test_damage_of_one_kind_is_one_line(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "trajectories" / "update-0009.jsonl").write_text("nonsense\n" * 1000)
    assert "lines that are not JSON: trajectories/update-0009.jsonl line 1 and 999 more" in text(page(run))


def test_numbers_that_are_none_are_left_out_and_said(tmp_path: Path) -> None:
    row = trajectory(reward=float("nan"))
    row["steps"][1] |= {"d": float("inf"), "w": float("nan")}
    row["pieces"][1]["signal"] = [float("nan"), 1e300, 10**400]
    metrics = [update(1, **{"learn/entropy": float("nan")}), update(2, **{"learn/entropy": float("inf")})]
    html = page(write_run(tmp_path / "run", metrics=metrics, trajectories={1: [row]}))
    shown = text(html)
    assert "numbers that are not finite: metrics.jsonl line 1 and" in shown
    assert "student entropy" not in shown
    (entry,) = index(html)
    assert entry["reward"] is None
    assert entry["weights"] == [1.0, None, 0.909]
    assert next(content(html))["pieces"][1]["signal"] == [None, None, None]


def test_a_metric_that_is_no_number_is_left_out_and_said(tmp_path: Path) -> None:
    metrics: list[dict[str, Any]] = [update(1) | {"rollout/solved": "all"}, update(2)]
    assert "metrics that are not numbers: rollout/solved in metrics.jsonl line 1" in text(
        page(write_run(tmp_path / "run", metrics=metrics))
    )


@pytest.mark.parametrize("name", ["options.json", "environment.json", "calibration.json"])
def test_a_damaged_file_is_left_out_and_said(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run")
    (run / name).write_text('{"half": ')
    html = page(run)
    assert f"files that are not a JSON object: {name}" in text(html)
    assert len(index(html)) == 48


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("content", ['{"half": ', "[]", '{"mean": {"avg": 0.5}}'])
def test_results_that_cannot_be_read_are_left_out_and_said(tmp_path: Path, content: str) -> None:
    run = write_run(tmp_path / "run")
    (run / "results.json").write_text(content)
    assert "results that cannot be read: results.json" in text(page(run))


@pytest.mark.parametrize(
    "strange",
    [
        {"rules": []},
        {"rules": {"sod": None, "opd": {"bins": [1, {"low": "x"}]}}},
        {"rules": {"sod": {"auc": None, "bins": [{"low": 0, "high": 1, "solved": 0.5}]}}, "by_errors": {"errors": 1}},
    ],
)
def test_a_calibration_of_another_shape_is_no_stack_trace(tmp_path: Path, strange: dict[str, Any]) -> None:
    assert "Calibration of the weights" in text(page(write_run(tmp_path / "run", calibration=strange)))


def test_fields_of_other_types_are_no_stack_trace(tmp_path: Path) -> None:
    strange = trajectory() | {
        "problem": 7,
        "sample": "x",
        "gold": 42,
        "answer": ["a"],
        "steps": "none",
        "seconds": None,
    }
    strange["pieces"][1] |= {"token_texts": [1, 2], "outcomes": "ok", "signal": {}}
    options = TRAIN | {"updates": "many", "algorithm": "sod", "student": 3, "seed": None}
    html = page(write_run(tmp_path / "run", options=options, environment={"data": 1}, trajectories={1: [strange]}))
    assert index(html)[0]["problem"] == "7"


def test_a_row_written_again_by_a_resumed_run_counts_once(tmp_path: Path) -> None:
    metrics = [update(1), update(2), update(2, **{"rollout/solved": 0.9})]
    shown = text(page(write_run(tmp_path / "run", metrics=metrics)))
    assert "solved 10.0% 90.0%" in shown


HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> \ud800 $title &lt; \x00"


def test_no_text_of_a_run_becomes_markup(tmp_path: Path) -> None:
    row = trajectory(HOSTILE, gold=HOSTILE, answer=HOSTILE, reason=HOSTILE, stop=HOSTILE, pattern=HOSTILE)
    row["pieces"][0]["text"] = HOSTILE
    row["pieces"][1] |= {"text": HOSTILE, "token_texts": [HOSTILE, "", ""]}
    options = TRAIN | {"student": HOSTILE, "algorithm": {"name": HOSTILE}}
    metrics: list[dict[str, Any]] = [update(1, **{f"alarm/{HOSTILE}": 1.0}), update(2) | {HOSTILE: "no number"}]
    run = tmp_path / "<img src=x onerror=alert(2)>"
    run = write_run(run, options=options, metrics=metrics, trajectories={1: [row]}, calibration=calibration())
    html = page(run)
    assert "<img" not in html
    assert "alert(1)</script>" not in html
    assert html.count("<script") == html.count("</script>")
    assert next(content(html))["pieces"][0]["text"] == HOSTILE


# Writing


def test_the_page_lies_in_the_first_run_or_where_it_is_asked_for(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    page(one, two)
    assert (one / "report.html").exists()
    page(one, out=tmp_path / "deep" / "page.html")
    assert (tmp_path / "deep" / "page.html").exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_a_place_that_cannot_be_written_is_an_error_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written: .*Choose another path"):
        page(write_run(tmp_path / "run"), out=tmp_path / "file" / "page.html")


def test_chunks_hold_every_trajectory_where_its_place_says() -> None:
    packer = Packer()
    rows = [{"pieces": [{"text": f"{i} " * 20_000}]} for i in range(30)]
    places = [packer.add(row) for row in rows]
    chunks = [unpack(chunk) for chunk in packer.chunks()]
    assert len(chunks) > 1
    assert all(len(json.dumps(chunk)) < 2 * CHUNK_CHARACTERS for chunk in chunks)
    assert [chunks[chunk][place] for chunk, place in places] == rows


def test_reading_a_report_needs_no_heavy_package() -> None:
    code = "import sys, sod.report; print([n for n in ('torch', 'transformers', 'matplotlib', 'numpy') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
