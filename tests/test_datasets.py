"""Benchmarks and training sets by name: the catalogue, conversion, identity, wording."""

import base64
import csv
import gzip
import hashlib
import json
import pickle
import random
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from reference import shared

from sod import cli
from sod.datasets import open_set
from sod.datasets.conversion import CONTRADICTORY, convert_file
from sod.datasets.golds import canonical, vote
from sod.datasets.gpqa import questions
from sod.datasets.identity import golds_fingerprint, items, mark
from sod.datasets.published import BENCHMARKS, SETS, PublishedFile
from sod.datasets.rows import load_demonstrations, load_problems, read_rows, write_jsonl
from sod.datasets.storing import check_hash, read_source, source_file, store
from sod.datasets.wording import asked, bare, worded
from sod.errors import DataError
from sod.rewards import code_golds
from sod.rewards.kinds import check_gold
from sod.rewards.math import MathJudge

Row = dict[str, Any]
COPIES = {
    "aime2024": "data/aime2024.jsonl",
    "aime2025": "data/aime2025.jsonl",
    "math500": "data/math500.jsonl",
    "gsm8k": "data/gsm8k_test.jsonl",
    "livecodebench_v6": "data/lcb_v6_public_tests_only.jsonl",
    "livecodebench_v6_2502": "data/lcb_v6_public_tests_only.jsonl",
}
STDIN = {"testtype": "stdin"}


def write(folder: Path, rows: Sequence[Row], name: str = "rows.jsonl") -> Path:
    path = folder / name
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        write_jsonl(path, rows)
    return path


def convert(path: Path, name: str | None = None) -> list[Row]:
    return convert_file(path, SETS[name] if name else None, "clean").rows


def spelling(number: int) -> str:
    """As some copies write numbers: 033, 1,000."""
    return f"{number:,}" if abs(number) >= 1000 else f"{number:03}"


def gpqa(count: int = 198) -> list[Row]:
    """Invented questions in GPQA's columns."""
    return [
        {
            "Record ID": f"rec{i:04}",
            "Question": f'What is {i} + {i}, a "sum"?\nGive it in units of the lab, {i}.',
            "Correct Answer": f"{2 * i} units",
            "Incorrect Answer 1": f"{2 * i + 1} units",
            "Incorrect Answer 2": f"{2 * i + 2} units\n",
            "Incorrect Answer 3": f"{2 * i + 3} units",
            "Subdomain": "Arithmetic",
            "High-level domain": "Sums",
        }
        for i in range(count)
    ]


def contest(id: str = "abc1_a", date: str = "2025-02-03", **cells: Any) -> Row:
    """An invented problem in LiveCodeBench's columns."""
    public = [{"input": "1\n", "output": "2\n", **STDIN}]
    return {
        "question_title": "Next",
        "question_content": "Print the next number.\r\n",
        "platform": "atcoder",
        "question_id": id,
        "contest_date": f"{date}T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(public),
        "metadata": "{}",
    } | cells


def packed(tests: Any) -> str:
    """As LiveCodeBench hides private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def test_livecodebenchs_own_columns_keep_their_private_tests_under_any_name(tmp_path: Path) -> None:
    row = contest(private_test_cases=packed([{"input": "5\n", "output": "6\n", **STDIN}]))
    file = tmp_path / "lcb.jsonl"
    write_jsonl(file, [row])
    (ours,) = convert_file(file, None, "clean").rows
    assert ours["kind"] == "code"
    assert json.loads(ours["answer"])["private_test_cases"] == row["private_test_cases"]


# The catalogue


def test_every_set_is_pinned_to_a_commit_and_every_hash_is_one() -> None:
    for name, published in SETS.items():
        assert published.name == name
        assert len(published.revision) == 40
        for file in published.files:
            assert len(file.sha256 or "0" * 64) == 64
            assert len(file.blob or "0" * 40) == 40


def test_every_benchmark_can_be_recognised() -> None:
    marks = json.loads(files("sod.datasets").joinpath("marks.json").read_text())
    for name in set(BENCHMARKS) - {"gpqa_diamond"}:
        assert len(SETS[name].fingerprint) == 64
        assert len(marks[name].split()) == SETS[name].rows


@pytest.mark.parametrize("name", COPIES)
def test_a_public_copy_of_a_benchmark_is_that_benchmark(tmp_path: Path, name: str) -> None:
    store(shared(COPIES[name]), SETS[name], tmp_path / f"{name}.jsonl", "clean", {})
    found = open_set(name, data_dir=tmp_path, prompts="clean")
    assert len(found.problems) == SETS[name].rows
    assert found.source["rows"] == SETS[name].rows
    assert found.votes == (SETS[name].kind != "code")
    assert found.notes[0].startswith(f"{SETS[name].rows} problems")
    for problem in found.problems:
        check_gold(problem.kind, problem.answer)
        assert problem.kind == SETS[name].kind


@pytest.mark.parametrize("name", ["aime2024", "gsm8k"])
def test_a_copy_is_recognised_in_any_order_with_other_columns_and_other_ways_of_writing(
    tmp_path: Path, name: str
) -> None:
    rows = convert(shared(COPIES[name]), name)
    random.Random(0).shuffle(rows)
    spelt = [{"Question": row["problem"], "Answer": spelling(int(row["answer"]))} for row in rows]
    assert golds_fingerprint(convert(write(tmp_path, spelt), name)) == SETS[name].fingerprint


def test_every_gold_of_math500_is_right_by_itself() -> None:
    judge = MathJudge()
    rows, published = convert(shared(COPIES["math500"]), "math500"), read_rows(shared(COPIES["math500"]))
    try:
        for row, before in zip(rows, published, strict=True):
            assert judge.judge(rf"\boxed{{{before['answer']}}}", row["answer"]).outcome == "right"
            assert judge.judge(rf"\boxed{{{row['answer']}}}", before["answer"]).outcome == "right"
    finally:
        judge.close()


def test_aime2025_is_asked_in_the_wording_that_has_a_minimum() -> None:
    (row,) = [row for row in convert(shared(COPIES["aime2025"]), "aime2025") if row["answer"] == "240"]
    assert "positive real numbers" in row["problem"]


def test_livecodebench_is_marked_where_its_rule_is_too_strict() -> None:
    rows = convert(shared(COPIES["livecodebench_v6"]), "livecodebench_v6")
    assert Counter(row.get("flag") for row in rows) == {None: 169, "several outputs": 5, "tolerance": 1}
    assert not any('"checker"' in row["answer"] for row in rows)
    assert Counter(row["domain"] for row in rows) == {"atcoder": 112, "leetcode": 63}


def test_public_tests_alone_are_said_to_be_no_score(tmp_path: Path) -> None:
    name = "livecodebench_v6_2502"
    store(shared(COPIES[name]), SETS[name], tmp_path / f"{name}.jsonl", "clean", {})
    found = open_set(name, data_dir=tmp_path, prompts="clean")
    assert found.notes == (
        "131 problems, contests of 2025-02-01 to 2025-04-06",
        "public tests only: no LiveCodeBench score",
    )
    assert found.source["public_only"] is True


def test_dapo_is_kept_once_with_its_own_wording_replaced() -> None:
    done = convert_file(shared("data/train_math_dapo17k.parquet"), SETS["dapo_math_17k"], "clean")
    assert len(done.rows) == SETS["dapo_math_17k"].rows == 17_398
    assert sum(row.get("flag") == CONTRADICTORY for row in done.rows) == 7
    assert all(row["prompt"].endswith("\n\nPut the final answer in \\boxed{}.") for row in done.rows)
    assert not any("boxed{{}}" in row["prompt"] for row in done.rows)


@pytest.mark.parametrize(
    ("file", "kind", "rows"),
    [
        ("data/train_science_sciknoweval.jsonl", "choice", 3901),
        ("data/train_code_leetcode_functional.jsonl", "code", 1889),
        ("data/codeforces_stdio_sample.jsonl", "code", 408),
    ],
)
def test_training_sets_are_read_by_their_columns_alone(file: str, kind: str, rows: int) -> None:
    found = convert(shared(file))
    assert len(found) == rows
    assert {row["kind"] for row in found} == {kind}
    asks = r"\boxed{}" if kind == "choice" else "``"
    assert all(asks in row["prompt"] or "code block" in row["prompt"] for row in found)


# When a file is not what it is called


def test_other_golds_are_named_by_their_rows(tmp_path: Path) -> None:
    rows = read_rows(shared(COPIES["aime2024"]))
    rows[4]["answer"] = "12345"
    with pytest.raises(
        DataError, match="row 5 with an answer that the benchmark does not have, 1 of the benchmark's answers missing"
    ):
        convert(write(tmp_path, rows), "aime2024")


def test_a_gold_too_often_is_named_by_the_rows_that_have_it(tmp_path: Path) -> None:
    rows = read_rows(shared(COPIES["aime2024"]))
    rows[4]["answer"] = rows[0]["answer"]
    with pytest.raises(
        DataError,
        match="an answer more often than in the benchmark, among rows 1, 5, 1 of the benchmark's answers missing",
    ):
        convert(write(tmp_path, rows), "aime2024")


def test_missing_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has 29 rows, not 30"):
        convert(write(tmp_path, read_rows(shared(COPIES["aime2024"]))[1:]), "aime2024")


def test_an_edited_file_is_not_the_one_that_its_source_tells_of(tmp_path: Path) -> None:
    path = store(shared(COPIES["aime2024"]), SETS["aime2024"], tmp_path / "aime2024.jsonl", "clean", {})
    path.write_text(path.read_text().replace("Every morning Aya", "Every evening Aya"))
    with pytest.raises(DataError, match="has been changed since"):
        open_set("aime2024", data_dir=tmp_path, prompts="clean")


def test_a_published_file_in_the_place_of_ours_is_an_error_that_says_how_to_convert_it(tmp_path: Path) -> None:
    write(tmp_path, gpqa(), "gpqa_diamond.jsonl")
    with pytest.raises(DataError, match="sod data convert FILE --name gpqa_diamond"):
        open_set("gpqa_diamond", data_dir=tmp_path, prompts="clean")


def test_a_name_that_is_nothing_names_the_nearest_benchmark(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean aime2025"):
        open_set("aime_2025", data_dir=tmp_path, prompts="clean")


def test_a_file_of_the_users_is_asked_as_it_stands(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "1+1?", "answer": "2"}], "mine.jsonl")
    found = open_set(str(path), data_dir=tmp_path, prompts="paper")
    assert (found.name, found.source, found.notes, found.private, found.votes) == ("mine", {}, (), False, True)
    assert found.problems == load_problems(path)


@pytest.mark.parametrize(
    ("times", "note"),
    [([2, 1], "1 row repeats another and is left out"), ([3, 2], "3 rows repeat others and are left out")],
)
def test_rows_that_are_left_out_are_said_to_be(tmp_path: Path, times: list[int], note: str) -> None:
    rows = [{"prompt": f"{i}?", "answer": "2"} for i, count in enumerate(times) for _ in range(count)]
    found = open_set(str(write(tmp_path, rows, "mine.jsonl")), data_dir=tmp_path, prompts="clean")
    assert (len(found.problems), found.notes) == (2, (note,))


def test_a_wrong_hash_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content\n")
    blob = hashlib.sha1(b"blob 8\0content\n").hexdigest()
    check_hash(path, PublishedFile(path="file", blob=blob))
    check_hash(path, PublishedFile(path="file", sha256=hashlib.sha256(b"content\n").hexdigest()))
    for wrong in (PublishedFile(path="file", blob="0" * 40), PublishedFile(path="file", sha256="0" * 64)):
        with pytest.raises(DataError, match="wrong hash"):
            check_hash(path, wrong)


# GPQA


def test_gpqas_right_choices_are_evenly_spread() -> None:
    assert sorted(Counter(row["answer"] for row in questions(gpqa())).values()) == [49, 49, 50, 50]


def test_gpqas_order_of_choices_does_not_depend_on_the_files() -> None:
    rows = gpqa()
    shuffled = random.Random(1).sample(rows, len(rows))
    assert sorted(questions(rows), key=lambda row: row["id"]) == sorted(questions(shuffled), key=lambda row: row["id"])


def test_gpqas_letter_stands_before_the_right_choice(tmp_path: Path) -> None:
    rows = convert(write(tmp_path, gpqa(), "gpqa_diamond.csv"), "gpqa_diamond")
    for row, before in zip(rows, gpqa(), strict=True):
        assert f"\n({row['answer']}) {before['Correct Answer']}" in row["problem"]
        assert sorted(row["choices"]) == sorted(before[name].strip() for name in before if "Answer" in name)
    assert len({tuple(sorted(row["choices"]).index(choice) for choice in row["choices"]) for row in rows}) > 12


def test_gpqa_is_kept_out_of_git_and_said_to_be_private(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.log")
    raw = write(tmp_path, gpqa(), "raw.csv")
    for _ in range(2):
        store(raw, SETS["gpqa_diamond"], tmp_path / "gpqa_diamond.jsonl", "clean", {})
    assert (tmp_path / ".gitignore").read_text() == "*.log\ngpqa_diamond.jsonl\n"
    found = open_set("gpqa_diamond", data_dir=tmp_path, prompts="clean")
    assert found.private
    assert found.problems[0].labels == {"domain": "Sums", "subject": "Arithmetic"}


def test_gpqa_needs_four_distinct_choices(tmp_path: Path) -> None:
    rows = gpqa()
    rows[6]["Incorrect Answer 3"] = rows[6]["Correct Answer"]
    with pytest.raises(DataError, match="row 7 without four distinct choices"):
        convert(write(tmp_path, rows), "gpqa_diamond")


def test_gpqas_missing_columns_are_named_beside_those_that_are_there(tmp_path: Path) -> None:
    rows = [{"Question": "?", "Answer": "A"}]
    with pytest.raises(
        DataError, match=r"rows.jsonl: row 1: it has the columns Answer, Question, but needs `record_id`"
    ):
        convert(write(tmp_path, rows), "gpqa_diamond")


# LiveCodeBench


def test_private_tests_stay_packed_and_are_read(tmp_path: Path) -> None:
    private = packed([{"input": "5\n", "output": "6\n", **STDIN}])
    (row,) = _programs(tmp_path, [contest(private_test_cases=private)])
    assert len(code_golds.tests_of(row["answer"]).tests) == 2
    assert private in row["answer"]


def test_private_tests_that_could_run_code_are_refused(tmp_path: Path) -> None:
    hostile = base64.b64encode(zlib.compress(pickle.dumps(print))).decode()
    with pytest.raises(DataError, match=r"row 1: no judge can use its answer: .*builtins\.print"):
        _programs(tmp_path, [contest(private_test_cases=hostile)])


def test_functions_are_asked_with_the_code_that_they_start_from(tmp_path: Path) -> None:
    call = [{"input": "[1]", "output": "2", "testtype": "functional"}]
    starter = "class Solution:\n    def after(self, n: int) -> int:\n        "
    functional = contest(starter_code=starter, public_test_cases=json.dumps(call), metadata='{"func_name": "after"}')
    stdin, function = _programs(tmp_path, [contest(), functional])
    for prompts in ("clean", "paper"):
        text = worded(function["problem"], "code", prompts, gold=function["answer"], starter=function["starter"])
        assert f"```python\n{starter.rstrip()}\n```" in text
        assert "standard input" in worded(stdin["problem"], "code", prompts, gold=stdin["answer"])


def _programs(folder: Path, rows: list[Row]) -> list[Row]:
    invented = replace(SETS["livecodebench_v6"], rows=len(rows), fingerprint="")
    return convert_file(write(folder, rows, "test6.jsonl"), invented, "clean").rows


# Columns


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv", ".jsonl.gz", ".json.gz", ".csv.gz"])
def test_any_kind_of_file_is_read(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"ID": "a", "Question": "Zwölf?\nSagt an", "Answer": "012"},
        {"ID": "b", "Question": '"1,2"', "Answer": "x"},
    ]
    path = write(tmp_path, rows, f"rows{suffix.removesuffix('.gz')}")
    if suffix.endswith(".gz"):
        content, path = path.read_bytes(), tmp_path / f"rows{suffix}"
        path.write_bytes(gzip.compress(content))
    assert convert(path) == [
        {
            "id": "a",
            "prompt": "Zwölf?\nSagt an\n\nPut the final answer in \\boxed{}.",
            "answer": "12",
            "answer_raw": "012",
            "kind": "math",
        },
        {"id": "b", "prompt": '"1,2"\n\nPut the final answer in \\boxed{}.', "answer": "x", "kind": "math"},
    ]


@pytest.mark.parametrize(
    ("row", "kind", "answer"),
    [
        ({"question": "?", "answer": "Add.\n1+1=<<1+1=2>>2\n#### 1,002"}, "math", "1002"),
        ({"problem": "?", "solution": r"It is \boxed{7}."}, "math", "7"),
        ({"problem": "?", "answer": 7.0}, "math", "7"),
        ({"problem": "Which?\n(A) 1 (B) 2 (C) 3 (D) 4", "answer": "(b)"}, "choice", "B"),
        ({"problem": "Name A and B.", "answer": "B"}, "math", "B"),
        ({"problem": "Add.", "tests": [{"input": "1", "output": "2"}]}, "code", '[{"input": "1", "output": "2"}]'),
        (
            {
                "data_source": "train-code-taco",
                "prompt": [{"role": "user", "content": "Add."}],
                "reward_model": {"ground_truth": '{"inputs": ["1"], "outputs": ["2"]}'},
            },
            "code",
            '{"inputs": ["1"], "outputs": ["2"]}',
        ),
    ],
)
def test_kind_and_answer_are_found_where_they_are(tmp_path: Path, row: Row, kind: str, answer: str) -> None:
    (found,) = convert(write(tmp_path, [row]))
    assert (found["kind"], found["answer"]) == (kind, answer)


def test_verls_columns_keep_what_the_students_need(tmp_path: Path) -> None:
    row = {
        "data_source": "train-math-still3",
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": "2", "style": "rule"},
        "extra_info": {"index": 5, "answer": "a trap", "hint": "count"},
    }
    assert convert(write(tmp_path, [row]), "open_agentrl_30k") == [
        {
            "id": "5",
            "prompt": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "1+1?\n\nPut the final answer in \\boxed{}."},
            ],
            "answer": "2",
            "kind": "math",
            "hint": "count",
            "source": "train-math-still3",
        }
    ]


def test_unknown_columns_are_named_beside_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"row 1: it has the columns frage, antwort|row 1: it has the columns antwort, fra"
    ):
        convert(write(tmp_path, [{"frage": "?", "antwort": "2"}]))
    with pytest.raises(DataError, match="needs an answer: `answer`, "):
        convert(write(tmp_path, [{"question": "?", "antwort": "2"}]))


def test_rows_that_no_judge_can_use_are_left_out_and_noted(tmp_path: Path) -> None:
    rows = [
        {"question": "1+1?", "answer": "2"},
        {"question": "!", "answer": " . "},
        {"question": "2+2?", "answer": "4"},
    ]
    done = convert_file(write(tmp_path, rows), None, "clean")
    assert len(done.rows) == 2
    assert done.notes == (
        "1 unusable rows are left out; the first is row 2: no judge can use its answer: The gold answer '.' is empty.",
    )


def test_demonstrations_are_kept_as_they_are(tmp_path: Path) -> None:
    done = convert(shared("data/tool_trajectories_openai_format.jsonl"), "open_agentrl_sft_3k")
    path = write(tmp_path, done)
    assert load_demonstrations(path) == load_demonstrations(shared("data/tool_trajectories_openai_format.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"question,answer\n", "is empty"),
        ("a.json", b"[]", "is empty"),
        ("a.jsonl", b'{"question": "\xff"}', "is not UTF-8 text: invalid start byte at byte 14"),
        ("a.csv", b"question,answer\n\xff,1\n", "is not UTF-8 text: invalid start byte at byte 16"),
        ("a.csv", b"question,answer\na,1\nb\n", r"row 2 \(up to line 3\) has 1 cells, but the header has 2"),
        ("a.csv", b'question,answer\na,1\n"b,2\n', r"row 2 \(at line 3\) is damaged: unexpected end of data"),
        ("a.csv", b"question,question,answer\na,b,1\n", "has two columns with the name 'question'"),
        ("a.json", b'{"a": [', "is not JSON"),
        ("a.json", b'{"a": 1}', "neither a list of objects"),
        ("a.parquet", b"PAR1", "is not a parquet file, or a damaged one"),
        ("a.json.gz", b"[]", "is not a valid gzip file"),
        ("a.txt", b"x", r"has the ending '.txt'; give a .jsonl, .json, .parquet or .csv file"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        convert(path)


def test_a_date_is_kept_as_it_is_written(tmp_path: Path) -> None:
    (row,) = convert(write(tmp_path, [{"question": "1?", "answer": "1", "source": date(2024, 1, 2)}], "a.parquet"))
    assert row["source"] == "2024-01-02"


def test_a_cell_of_csv_may_be_long(tmp_path: Path) -> None:
    (row,) = convert(write(tmp_path, [{"question": "x" * 200_000, "answer": "1"}], "a.csv"))
    assert len(row["prompt"]) > 200_000


# Golds


@pytest.mark.parametrize(
    ("gold", "integers", "expected"),
    [
        ("033", False, "33"),
        ("1,000", False, "1000"),
        ("-007", False, "-7"),
        (r"336^\circ", True, "336"),
        (r"90^\circ", False, r"90^\circ"),
        (r"\frac12", False, r"\frac12"),
        ("50%", False, "50%"),
    ],
)
def test_integers_are_written_as_votes_count_them(gold: str, integers: bool, expected: str) -> None:
    assert canonical("math", gold, integers=integers) == expected
    assert vote("math", expected) == vote("math", gold)


def test_a_set_of_integers_has_nothing_else() -> None:
    with pytest.raises(DataError, match="is not an integer"):
        canonical("math", "1/2", integers=True)


def test_the_marks_of_a_file_are_what_the_package_declares_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As CONTRIBUTING tells whoever adds a benchmark."""
    rows = [{"id": f"p{i}", "problem": "?", "answer": answer, "kind": "math"} for i, answer in enumerate(["1/2", "3"])]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.run(["data", "marks", str(file)]) == 0
    said = capsys.readouterr().out
    assert f'rows=2, fingerprint="{golds_fingerprint(rows)}"' in said
    assert f'"mine": "{" ".join(sorted([mark("1/2"), mark("3")]))}"' in said
    file.write_text(json.dumps({"question": "?", "answer": "#### 4"}) + "\n")
    assert cli.run(["data", "marks", str(file)]) == 2
    assert f"sod data convert {file} --out OUT.jsonl" in " ".join(capsys.readouterr().err.split())


def test_marks_do_not_tell_a_gold_from_its_spelling() -> None:
    rows = [{"kind": "math", "answer": r"\dfrac12"}, {"kind": "math", "answer": "0.5"}]
    assert len({mark(item) for item in items(rows)}) == 1


# Wording


@pytest.mark.parametrize("prompts", ["clean", "paper"])
@pytest.mark.parametrize("kind", ["math", "choice", "code"])
def test_wording_can_be_taken_off_again_and_names_the_place_of_the_answer(prompts: Any, kind: str) -> None:
    gold = '[{"input": "1", "output": "2"}]' if kind == "code" else "A"
    text = worded("What is {code}?", kind, prompts, gold=gold)
    assert bare(text) == "What is {code}?"
    assert ("```python" if kind == "code" else r"\boxed{}") in text
    assert "boxed{'" not in text


def test_a_problem_that_is_worded_already_stays_as_it_is() -> None:
    text = "Solve it.\n\nx = 1\n\nThe answer format must be: \\boxed{'The final answer goes here.'}"
    assert asked(text, "math", "clean") == text


def test_a_problem_that_asks_for_its_answer_where_no_judge_reads_is_asked_anew() -> None:
    text = (
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer "
        '(without quotes).\n\nWhat is 1+1?\n\nRemember to put your answer on its own line after "Answer:".'
    )
    assert asked(text, "math", "clean") == "What is 1+1?\n\nPut the final answer in \\boxed{}."


# Files


def test_conversion_gives_the_same_bytes_and_leaves_what_is_there(tmp_path: Path) -> None:
    raw = write(tmp_path, gpqa(), "raw.parquet")
    first = store(raw, SETS["gpqa_diamond"], tmp_path / "a.jsonl", "clean", {"file": "raw.parquet"})
    second = store(raw, SETS["gpqa_diamond"], tmp_path / "b.jsonl", "clean", {"file": "raw.parquet"})
    assert first.read_bytes() == second.read_bytes()
    source = source_file(first).read_bytes()
    store(raw, SETS["gpqa_diamond"], first, "clean", {"file": "raw.parquet"})
    assert source_file(first).read_bytes() == source
    assert read_source(first)["sha256"]["published"] == hashlib.sha256(raw.read_bytes()).hexdigest()


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "gpqa_diamond.jsonl"
    out.write_text("mine")
    with pytest.raises(DataError, match="already exists with other content"):
        store(write(tmp_path, gpqa()), SETS["gpqa_diamond"], out, "clean", {})
    assert out.read_text() == "mine"
    assert not source_file(out).exists()
