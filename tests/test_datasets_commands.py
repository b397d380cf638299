"""`sod data check | describe | decontaminate | split | mix`, through the command line."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from reference import shared
from rich.console import Console

from sod.cli import run
from sod.datasets.commands import catalogue
from sod.datasets.contamination import findings, guarded
from sod.datasets.describing import file_summary, histogram, one_line
from sod.datasets.dividing import mix_rows, shares, split_rows
from sod.datasets.overlap import Index, key, words
from sod.datasets.published import SETS
from sod.datasets.rows import load_problems, read_rows, write_jsonl
from sod.datasets.storing import store
from sod.errors import DataError

Row = dict[str, Any]
Data = Callable[..., int]
LONG = "A train leaves the town of Erding at noon and travels north at forty miles an hour for exactly two hours"


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Data]:
    """Run `sod data ...` in a folder of its own. -> the exit status"""
    with chdir(tmp_path):
        yield lambda *arguments: run(["data", *map(str, arguments)])


def write(path: Path, rows: Sequence[Row]) -> Path:
    write_jsonl(path, rows)
    return path


def problems(count: int) -> list[Row]:
    return [{"id": f"p{i}", "prompt": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(count)]


# list, convert


def test_the_list_says_what_is_here(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/math500.jsonl", problems(1))
    assert data("list") == 0
    rows = [re.split("  +", line) for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == list(SETS)
    assert [row[0] for row in rows if row[2] == "here"] == ["math500"]
    assert rows[0][3] == "HuggingFaceH4/aime_2024@2fe88a2f"


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_the_list_is_a_table_that_fits(width: int) -> None:
    screen = StringIO()
    Console(width=width, color_system=None, file=screen).print(catalogue({"math500"}))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for published in SETS.values():
        assert any(line.startswith(f"{published.name} ") for line in lines)
        assert any(published.repo in line for line in lines), "a repository is on one line"
    assert [line.split()[0] for line in lines if line.startswith("here")] == ["here"]


def test_an_unknown_name_is_an_error_that_names_the_nearest(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    assert data("convert", "x.jsonl", "--name", "math_500") == 2
    assert "did you mean math500?" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_an_error(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    assert data("convert", "nowhere.csv") == 2
    assert "nowhere.csv does not exist" in capsys.readouterr().err


def test_a_file_without_a_name_is_written_to_data_under_its_own(data: Data, tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", [{"question": "1+1?", "answer": "2"}])
    assert data("convert", "mine.jsonl") == 0
    (row,) = read_rows(tmp_path / "data/mine.jsonl")
    assert row == {"id": "1", "prompt": "1+1?\n\nPut the final answer in \\boxed{}.", "answer": "2", "kind": "math"}
    assert json.loads((tmp_path / "data/mine.source.json").read_text())["file"] == "mine.jsonl"


# check

BAD = [
    {"id": "a", "prompt": "1+1?", "answer": "2"},
    {"id": "b", "prompt": "2+2?"},
    {"id": "a", "prompt": "3+3?", "answer": "6"},
    {"id": "a", "prompt": "1+1?", "answer": "2"},
    {"id": "c", "prompt": "1+1?", "answer": "3"},
    {"id": "d", "prompt": "Which?", "answer": "E", "kind": "choice"},
    {"id": "e", "prompt": "Essay?", "answer": "x", "kind": "essay"},
]


def test_bad_rows_are_named_and_make_an_error(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "bad.jsonl", BAD)
    with (tmp_path / "bad.jsonl").open("ab") as file:
        file.write(b'\n{"prompt": \n\xff\n[1]\n')
    assert data("check", "bad.jsonl") == 2
    captured = capsys.readouterr()
    assert "bad.jsonl: 10 rows, 8 invalid" in captured.out
    assert "row 2: it has the columns id, prompt, but a problem needs" in captured.out
    assert "1 rows have the id of another row" in captured.out
    assert "8 of 10 rows are invalid" in captured.err


def test_bad_rows_are_written_with_the_reason_and_good_ones_beside(data: Data, tmp_path: Path) -> None:
    write(tmp_path / "bad.jsonl", BAD)
    with (tmp_path / "bad.jsonl").open("ab") as file:
        file.write(b'{"prompt": \n\xff\n')
    assert data("check", "bad.jsonl", "--good", "good.jsonl", "--rejects", "rejects.jsonl") == 0
    assert read_rows(tmp_path / "good.jsonl") == [BAD[0], BAD[2]]
    rejects = {row["row"]: (row["why"], row["content"]) for row in read_rows(tmp_path / "rejects.jsonl")}
    assert list(rejects) == [2, 4, 5, 6, 7, 8, 9]
    assert rejects[4] == ("it repeats row 1.", BAD[3])
    assert rejects[5][0] == "it has the same question as row 1, but another answer."
    assert "is not one of the letters A to D" in rejects[6][0]
    assert "`kind` is 'essay'" in rejects[7][0]
    assert rejects[8][0].startswith("it is not JSON")
    assert rejects[9] == ("it is not UTF-8 text: invalid start byte at byte 0.", "\ufffd")


def test_rows_of_an_environment_with_one_prompt_are_different_problems(data: Data, tmp_path: Path) -> None:
    row = {"prompt": "Play.", "environment": "maze"}
    write(tmp_path / "rows.jsonl", [row | {"setting": {"level": 1, "number": n}} for n in range(20)])
    assert data("check", "rows.jsonl") == 0
    assert data("split", "rows.jsonl", "--out", "parts", "--validation", "5") == 0
    assert sorted(len(read_rows(path)) for path in (tmp_path / "parts").glob("*.jsonl")) == [5, 15]


def test_a_good_file_passes(data: Data, tmp_path: Path) -> None:
    write(tmp_path / "good.jsonl", problems(5))
    assert data("check", "good.jsonl") == 0


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "1+1?", "answer": ["2"]}, "its answer is list; only text or a number can be used."),
        ({"prompt": "1+1?", "reward_model": {"ground_truth": ["2"]}}, "its answer is list"),
        ({"prompt": "1+1?", "answer": True}, "its answer is bool; only text or a number can be used."),
        ({"prompt": "1+1\ud800?", "answer": "2"}, "it contains \\ud800, a lone surrogate"),
        ({"messages": [{"role": "assistant", "content": "2"}]}, "it is a demonstration among problems"),
    ],
)
def test_a_row_that_could_be_misread_is_bad(data: Data, tmp_path: Path, row: Row, why: str) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in [*problems(1), row]))
    assert data("check", "rows.jsonl", "--rejects", "rejects.jsonl") == 0
    (reject,) = read_rows(tmp_path / "rejects.jsonl")
    assert reject["why"].startswith(why)
    assert reject["content"] == row


def test_a_byte_order_mark_is_read_as_everywhere(data: Data, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(problems(1)[0]) + "\n", encoding="utf-8-sig")
    assert data("check", "rows.jsonl") == 0
    assert len(load_problems(tmp_path / "rows.jsonl")) == 1


def test_good_and_bad_rows_are_written_both_or_neither(data: Data, tmp_path: Path) -> None:
    write(tmp_path / "bad.jsonl", BAD)
    assert data("check", "bad.jsonl", "--good", "out.jsonl", "--rejects", "./out.jsonl") == 2
    assert not (tmp_path / "out.jsonl").exists()
    write(tmp_path / "rejects.jsonl", problems(1))
    assert data("check", "bad.jsonl", "--good", "good.jsonl", "--rejects", "rejects.jsonl") == 2
    assert data("check", "bad.jsonl", "--good", "good.jsonl", "--rejects", "bad.jsonl/rejects.jsonl") == 2
    assert not (tmp_path / "good.jsonl").exists()


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_an_error(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "empty.jsonl").write_text(content)
    assert data("check", "empty.jsonl") == 2
    assert "is empty" in capsys.readouterr().err


def test_demonstrations_are_checked_too(data: Data) -> None:
    assert data("check", shared("data/tool_trajectories_openai_format.jsonl")) == 0


# describe


def test_problems_are_counted_and_measured(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**row, "level": str(i % 2)} for i, row in enumerate(problems(10))]
    write(tmp_path / "rows.jsonl", rows)
    assert data("describe", "rows.jsonl") == 0
    out = capsys.readouterr().out
    assert "rows.jsonl: 10 problems" in out
    assert [line.split() for line in out.splitlines() if line.split()[:1] == ["level"]] == [
        ["level", "0", "5", "50.0%"]
    ]
    assert "prompt, characters    14       14    14    14" in out


def test_demonstrations_are_measured_in_tokens_and_their_errors_seen(
    data: Data, tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"type": "function", "function": {"name": "python", "arguments": {"code": "1"}}}
    rows = [
        {
            "messages": [
                {"role": "user", "content": "1"},
                {"role": "assistant", "content": "", "tool_calls": [call] * calls},
                *[{"role": "tool", "content": result}] * calls,
                {"role": "assistant", "content": "1"},
            ]
        }
        for calls, result in ((1, "1"), (2, "NameError: x"))
    ]
    write(tmp_path / "rows.jsonl", rows)
    assert data("describe", "rows.jsonl", "--tokenizer", teacher) == 0
    out = capsys.readouterr().out
    assert "rows.jsonl: 2 demonstrations" in out
    assert ["calls", "1", "2", "2", "2"] in [line.split() for line in out.splitlines()]
    assert "a result with an error      1   50.0%" in out
    assert "whole, tokens" in out


def test_text_of_a_file_cannot_disturb_the_terminal(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "1?\ud800", "answer": "1", "source": "[red]a[/x]\x1b[31m\nb\ud800"}]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[0]))
    assert data("describe", "rows.jsonl") == 0
    assert data("decontaminate", "rows.jsonl", "--against", "rows.jsonl") == 0
    out = capsys.readouterr().out
    assert "[red]a[/x]\\x1b[31m b\\ud800" in out
    assert "\x1b" not in out
    assert one_line("a  b\nc", 3) == "a b..."


def test_the_summary_is_of_the_values_themselves() -> None:
    assert file_summary([5, 1, 2, 4, 3]) == (1, 3, 5, 5)
    assert file_summary(list(range(1, 101))) == (1, 50.5, 95, 100)


@pytest.mark.parametrize("values", [[3], [0, 0], list(range(1000)), [1] * 99 + [10**6]])
def test_a_histogram_counts_every_value_once(values: list[int]) -> None:
    assert sum(int(line.split()[-1].replace(",", "")) for line in histogram(values)) == len(values)


# decontaminate


def test_what_is_for_looks_alone_makes_no_difference() -> None:
    assert key(r"Find \(\dfrac{1}{2}\) of  $\left( x\,+ y \right)$!") == key(r"find $\frac{1}{2}$ of $(x+y)$!")
    assert words("x_1+2") == ["x", "_", "1", "+", "2"]


def test_shared_text_is_found_by_its_share() -> None:
    (overlap,) = Index([LONG], 5).overlaps(words(f"Once upon a time. {LONG[:60]}"), 0.2)
    assert 0.2 <= overlap.share < 0.8
    assert list(Index([LONG], 5).overlaps(words(f"Once upon a time. {LONG[:60]}"), 0.8)) == []


def test_a_problem_shorter_than_an_n_gram_must_be_the_whole_text() -> None:
    index = Index(["Compute $1+1$."], 20)
    assert [overlap.share for overlap in index.overlaps(words("compute $1 + 1$."), 1)] == [1.0]
    assert list(index.overlaps(words("Now compute $1+1$."), 1)) == []
    assert list(index.overlaps(words("Compute $1+1$.\n\nPut the final answer in \\boxed{}."), 1)) != []


def test_rows_that_share_text_are_left_out_and_reported(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = [*problems(3), {"prompt": [{"role": "user", "content": f"{LONG}?"}], "answer": "1"}]
    train += [{"messages": [{"role": "user", "content": LONG}, {"role": "assistant", "content": "1"}]}]
    write(tmp_path / "train.jsonl", train)
    write(tmp_path / "test.jsonl", [{"id": "t", "problem": LONG, "answer": "80"}])
    command = ("decontaminate", "train.jsonl", "--against", "test.jsonl", "--out", "clean.jsonl", "--report", "r.jsonl")
    assert data(*command) == 0
    assert read_rows(tmp_path / "clean.jsonl") == train[:3]
    found = read_rows(tmp_path / "r.jsonl")
    assert [(row["row"], row["benchmark"], row["problem"], row["id"], row["share"]) for row in found] == [
        (4, "test.jsonl", 1, "t", 1.0),
        (5, "test.jsonl", 1, "t", 1.0),
    ]
    assert found[0]["grams"][0] == "a train leaves the town of erding at noon and"
    assert "row 4 has 100% of test.jsonl t" in capsys.readouterr().out


def test_what_is_left_and_the_report_are_written_both_or_neither(data: Data, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [*problems(3), {"prompt": LONG, "answer": "1"}])
    write(tmp_path / "test.jsonl", [{"problem": LONG, "answer": "80"}])
    write(tmp_path / "taken.jsonl", problems(1))
    command = ("decontaminate", "train.jsonl", "--against", "test.jsonl")
    assert data(*command, "--out", "taken.jsonl", "--report", "report.jsonl") == 2
    assert data(*command, "--out", "same.jsonl", "--report", "same.jsonl") == 2
    assert not [name for name in ("report.jsonl", "same.jsonl") if (tmp_path / name).exists()]


def test_text_that_is_not_found_is_not_taken_for_text_that_is_not_shared(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "train.jsonl", problems(3))
    write(tmp_path / "raw.jsonl", [{"Question": LONG, "Answer": "80"}])
    assert data("decontaminate", "train.jsonl", "--against", "raw.jsonl") == 2
    assert "1 of 1 rows have no text to compare" in capsys.readouterr().err
    assert data("decontaminate", "raw.jsonl", "--against", "train.jsonl") == 2
    assert "raw.jsonl has no text to compare" in capsys.readouterr().err
    write(tmp_path / "some.jsonl", [*problems(1), {"prompt": 5, "answer": "1"}])
    assert data("decontaminate", "some.jsonl", "--against", "train.jsonl", "--words", "1000000000") == 0
    assert "1 row has no text to compare" in capsys.readouterr().out


def test_a_benchmark_that_is_not_here_is_an_error_that_says_how_to_get_it(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "train.jsonl", problems(3))
    assert data("decontaminate", "train.jsonl", "--data-dir", "sets") == 2
    assert (
        "sod data fetch aime2024 aime2025 math500 gpqa_diamond livecodebench_v6 --out sets" in capsys.readouterr().err
    )


def test_nothing_of_a_private_benchmark_is_shown(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
    secret = [
        {"Record ID": f"r{i}", "Question": f"{LONG} by line {i}", **{name: name for name in names}} for i in range(198)
    ]
    raw = write(tmp_path / "raw.jsonl", secret)
    store(raw, SETS["gpqa_diamond"], tmp_path / "data/gpqa_diamond.jsonl", "clean", {})
    write(tmp_path / "train.jsonl", [*problems(1), {"prompt": f"{LONG} by line 7", "answer": "B"}])
    capsys.readouterr()
    assert data("decontaminate", "train.jsonl", "--against", "gpqa_diamond", "--report", "report.jsonl") == 0
    assert "Erding" not in capsys.readouterr().out
    assert "erding" not in (tmp_path / "report.jsonl").read_text().casefold()
    assert len(read_rows(tmp_path / "report.jsonl")) == 198


def test_dapo_shares_text_with_math500_and_none_with_aime(tmp_path: Path) -> None:
    for name in ("aime2024", "aime2025", "math500"):
        store(shared(f"data/{name}.jsonl"), SETS[name], tmp_path / f"{name}.jsonl", "clean", {})
    against = guarded(("aime2024", "aime2025", "math500"), tmp_path, 10)
    rows = read_rows(shared("data/train_math_dapo17k.parquet"))
    found = {(f.benchmark.name, f.overlap.problem) for f in findings(rows, against, 0.5, lambda: None)}
    assert Counter(name for name, _ in found) == {"math500": 28}


# split


def test_equal_problems_stay_on_one_side() -> None:
    rows = [{"prompt": f"What is $ {i % 20} $?", "answer": "1", "n": i} for i in range(100)]
    rows += [{"prompt": f"What is $\\,{i}$? ", "answer": "1", "n": 100 + i} for i in range(20)]
    train, validation = split_rows(rows, 30, seed=0)
    assert len(train) + len(validation) == 120
    assert len(validation) == 30
    assert {key(row["prompt"]) for row in train}.isdisjoint(key(row["prompt"]) for row in validation)
    assert split_rows(rows, 30, seed=0) == (train, validation)
    assert split_rows(rows, 30, seed=1) != (train, validation)


@pytest.mark.parametrize(("validation", "rows"), [("0.1", 2), ("3", 3), ("0.001", 1)])
def test_validation_is_a_share_or_a_number(data: Data, tmp_path: Path, validation: str, rows: int) -> None:
    write(tmp_path / "rows.jsonl", problems(20))
    assert data("split", "rows.jsonl", "--validation", validation, "--out", "parts") == 0
    parts = [read_rows(tmp_path / f"parts/rows-{part}.jsonl") for part in ("train", "validation")]
    assert [len(part) for part in parts] == [20 - rows, rows]
    assert sorted(row["id"] for part in parts for row in part) == sorted(row["id"] for row in problems(20))


@pytest.mark.parametrize("validation", ["20", "2.5", "30", "0.99", "inf"])
def test_a_split_that_cannot_be_is_an_error(data: Data, tmp_path: Path, validation: str) -> None:
    write(tmp_path / "rows.jsonl", problems(20))
    assert data("split", "rows.jsonl", "--validation", validation) == 2
    assert not list(tmp_path.glob("rows-*"))


@pytest.mark.parametrize("left", ["train", "validation"])
def test_parts_of_two_draws_never_stand_side_by_side(data: Data, tmp_path: Path, left: str) -> None:
    write(tmp_path / "rows.jsonl", problems(20))
    assert data("split", "rows.jsonl", "--validation", "5", "--seed", "0") == 0
    parts = {part: tmp_path / f"rows-{part}.jsonl" for part in ("train", "validation")}
    before = {part: path.read_bytes() for part, path in parts.items()}
    next(path for part, path in parts.items() if part != left).unlink()
    assert data("split", "rows.jsonl", "--validation", "5", "--seed", "1") == 2
    assert [part for part, path in parts.items() if path.exists()] == [left]
    assert data("split", "rows.jsonl", "--validation", "5", "--seed", "0") == 0
    assert {part: path.read_bytes() for part, path in parts.items()} == before


# mix


@pytest.mark.parametrize(
    ("sizes", "weights", "rows", "expected"),
    [
        ([10, 30], [10, 30], None, [10, 30]),
        ([10, 30], [1, 1], None, [10, 10]),
        ([10, 30], [1, 1], 7, [4, 3]),
        ([10, 30], [1, 1], 100, [10, 10]),
        ([100, 100, 100], [1, 1, 1], 100, [34, 33, 33]),
        ([100, 100], [0.9, 0.1], 10, [9, 1]),
        ([3, 7], [3, 7], 10, [3, 7]),
    ],
)
def test_files_are_taken_by_weight(
    sizes: list[int], weights: list[float], rows: int | None, expected: list[int]
) -> None:
    assert shares(sizes, weights, rows) == expected


def test_a_mixture_is_drawn_without_repetition_and_repeats_with_its_seed() -> None:
    files = [[{"n": i} for i in range(50)], [{"n": 100 + i} for i in range(50)]]
    mixed = mix_rows(files, [20, 50], seed=3)
    assert len({row["n"] for row in mixed}) == 70
    assert mixed == mix_rows(files, [20, 50], seed=3)
    assert mixed != mix_rows(files, [20, 50], seed=4)


def test_rows_of_a_mixture_say_which_file_they_are_from(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.jsonl", problems(6))
    write(tmp_path / "b.jsonl", [{**row, "source": "mine"} for row in problems(30)])
    assert data("mix", "a.jsonl", "b.jsonl", "--weights", "1", "2", "--rows", "100", "--out", "c.jsonl") == 0
    assert Counter(row["source"] for row in read_rows(tmp_path / "c.jsonl")) == {"a": 6, "mine": 12}
    assert "only 18 of 100 rows" in capsys.readouterr().out
    assert data("mix", "a.jsonl", "b.jsonl", "--weights", "1", "--out", "d.jsonl") == 2
    assert data("mix", "a.jsonl", "b.jsonl", "--out", "c.jsonl") == 2, "c.jsonl is there, and is something else"
    assert data("mix", "a.jsonl", "b.jsonl", "--out", "d.txt") == 2


def test_a_mixture_that_cannot_be_is_an_error(data: Data, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", problems(6))
    write(tmp_path / "b.jsonl", [{"messages": [{"role": "assistant", "content": "2"}]}])
    assert data("mix", "a.jsonl", "./a.jsonl", "--out", "c.jsonl") == 2, "a file twice"
    assert data("mix", "a.jsonl", "b.jsonl", "--out", "c.jsonl") == 2, "problems and demonstrations"
    assert data("mix", "a.jsonl", "--weights", "inf", "--out", "c.jsonl") == 2
    assert not (tmp_path / "c.jsonl").exists()


def test_cells_that_json_has_no_form_for_are_an_error(data: Data, tmp_path: Path) -> None:
    rows = [{**row, "when": datetime(2025, 1, 1)} for row in problems(6)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert data("mix", "a.parquet", "--out", "c.jsonl") == 2


def test_what_is_there_already_is_left_and_said_so(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.jsonl", problems(6))
    for _ in range(2):
        assert data("mix", "a.jsonl", "--out", "b.jsonl") == 0
    assert "b.jsonl: 6 rows, unchanged" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.partial"))


def test_a_row_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw.jsonl", [{"question": "1+1?", "answer": "2"}])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        store(raw, None, tmp_path / "file/out.jsonl", "clean", {})


def test_notes_are_written_again_where_the_rows_stay_the_same(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw.jsonl", tmp_path / "ours.jsonl"
    convert = ["data", "convert", str(raw), "--out", str(out)]
    raw.write_text(json.dumps({"question": "1+1?", "answer": "2"}) + "\n")
    assert run(convert) == 0
    before, source = out.read_bytes(), tmp_path / "ours.source.json"
    assert json.loads(source.read_text())["notes"] == []
    raw.write_text(json.dumps({"question": "1+1?", "answer": "2", "colour": "red"}) + "\n")
    assert run(convert) == 0
    assert out.read_bytes() == before
    assert "`colour` (1)" in json.loads(source.read_text())["notes"][0]
    written = source.stat().st_mtime_ns
    assert run(convert) == 0
    assert source.stat().st_mtime_ns == written


def test_rows_of_equal_text_about_other_worlds_are_other_problems(tmp_path: Path) -> None:
    held = [
        {"id": f"h{n}", "prompt": LONG, "answer": "1", "environment": "maze", "setting": {"seed": n}} for n in range(3)
    ]
    write(tmp_path / "held.jsonl", held)
    against = guarded([str(tmp_path / "held.jsonl")], tmp_path, 5)
    rows = [
        {"prompt": LONG, "answer": "1", "environment": "maze", "setting": '{"seed": 1}'},
        {"prompt": LONG, "answer": "1", "environment": "maze", "setting": {"seed": 8}},
    ]
    found = findings(rows, against, 0.5, lambda: None)
    assert [(finding.row, finding.overlap.problem) for finding in found] == [(1, 1)]
    _, validation = split_rows([rows[0], rows[0] | {"setting": {"seed": 1}}, rows[1]], 1, seed=0)
    assert validation == [rows[1]]  # the two writings of one setting stay together
