"""Multiple choice, HumanEval and MBPP in the columns in which they are published."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from judging import REFEREE

from sod.datasets import columns
from sod.datasets.conversion import Converted, convert_file
from sod.datasets.rows import as_problem, load_problems, write_jsonl
from sod.errors import DataError
from sod.rewards import code_golds
from sod.types import Piece, Problem, Trajectory

Row = dict[str, Any]
ASKED = "Capital of France?"
TOWNS = ["Rome", "Oslo", "Bern", "Paris"]
LISTED = (
    "Capital of France?\n\n(A) Rome\n(B) Oslo\n(C) Bern\n(D) Paris\n\nPut the letter of the right option in \\boxed{}."
)
TEN = [f"town {i}" for i in range(10)]


def convert(folder: Path, *rows: Row) -> Converted:
    write_jsonl(folder / "rows.jsonl", rows)
    return convert_file(folder / "rows.jsonl", None, "clean")


@pytest.mark.parametrize(
    "row",
    [
        {"options": TOWNS, "answer": "D"},
        {"choices": TOWNS, "answer": "(d)"},
        {"choices": TOWNS, "answer": " paris "},
        {"options": TOWNS, "answer": ["Paris"]},
        {
            "options": [f"{letter}){town}" for letter, town in zip("ABCD", TOWNS, strict=True)],
            "correct": "D",
            "rationale": "!",
        },
        {"options": dict(zip("ABCD", TOWNS, strict=True)) | {"E": None}, "answer": "Paris", "answer_idx": "D"},
        {"options": str(TOWNS), "answer": "D"},
        {"options": json.dumps(TOWNS), "answer_letter": "D", "answer": "Paris"},
        {"options": TOWNS, "answer": "D", "answer_index": 3},
        {"choices": TOWNS, "answer": 3, "answer_text": "x", "answer_key": "D"},
        {"choices": {"text": TOWNS, "label": list("ABCD")}, "answerKey": "D"},
        {"choices": {"text": TOWNS, "label": list("1234")}, "answerKey": "4"},
        {"question": {"stem": ASKED, "choices": [{"text": t, "label": n} for t, n in zip(TOWNS, "ABCD", strict=True)]}}
        | {"answerKey": "D"},
        {"question_stem": ASKED, "choices": {"text": TOWNS, "label": list("ABCD")}, "answerKey": "D"},
        {"ctx": ASKED, "endings": TOWNS, "label": "3", "answer": "Paris"},
        dict(zip("ABCD", TOWNS, strict=True)) | {"answer": "D"},
        {f"option_{letter}": town for letter, town in zip("abcd", TOWNS, strict=True)} | {"answer": "D"},
        {f"op{letter}": town for letter, town in zip("abcd", TOWNS, strict=True)} | {"cop": 4},
        {"prompt": [{"role": "user", "content": ASKED}], "reward_model": {"ground_truth": "D"}}
        | {"extra_info": {"options": TOWNS, "index": 1}},
    ],
    ids=lambda row: "+".join(row),
)
def test_the_options_are_kept_in_every_published_shape(tmp_path: Path, row: Row) -> None:
    asked = {} if any(name in row for name in ("question", "question_stem", "ctx", "prompt")) else {"question": ASKED}
    (found,) = convert(tmp_path, asked | row).rows
    assert (found["prompt"], found["answer"], found["kind"], found["choices"]) == (LISTED, "D", "choice", TOWNS)


def test_wrong_answers_of_their_own_columns_are_options(tmp_path: Path) -> None:
    row = {"question": ASKED, "correct_answer": "Paris", "distractor1": "Rome", "distractor2": "Oslo"}
    (found,) = convert(tmp_path, row).rows
    assert sorted(found["choices"]) == ["Oslo", "Paris", "Rome"]
    assert found["choices"]["ABC".index(found["answer"])] == "Paris"


def test_options_that_the_text_lists_already_are_not_listed_twice(tmp_path: Path) -> None:
    text = f"{ASKED}\nA. Rome\nB. Oslo\nC. Bern\nD. Paris"
    (found,) = convert(tmp_path, {"question": text, "options": TOWNS, "answer": "D"}).rows
    assert found["prompt"].count("Paris") == 1
    (again,) = convert(tmp_path, found).rows
    assert again == found


@pytest.mark.parametrize(
    ("others", "letter"),
    [([0], "D"), ([4], "C"), ([9], None), ([1, 2], None), ([0, 4], None)],
    ids=["from 0", "from 1", "out of range", "nothing", "both"],
)
def test_where_numbers_count_from_follows_from_the_whole_file(
    tmp_path: Path, others: list[int], letter: str | None
) -> None:
    rows = [{"question": f"{number}?", "choices": TOWNS, "answer": number} for number in (3, *others)]
    if letter is None:
        with pytest.raises(DataError, match=r"row 1: its .*answer"):
            convert(tmp_path, *rows)
    else:
        assert convert(tmp_path, *rows).rows[0]["answer"] == letter


def test_a_number_may_be_the_text_of_an_option_where_the_file_shows_it(tmp_path: Path) -> None:
    rows = [
        {"question": "2+1?", "options": ["1", "2", "3", "4"], "answer": "3"},
        {"question": "20+1?", "options": ["11", "21", "31", "41"], "answer": "21"},
    ]
    assert [row["answer"] for row in convert(tmp_path, *rows).rows] == ["C", "B"]
    with pytest.raises(DataError, match="Write letters"):
        convert(tmp_path, rows[0])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"options": TOWNS, "answer": "E"}, "is 'E', not one of its 4 options"),
        ({"options": TOWNS, "answer": "Lyon"}, "not one of its 4 options"),
        ({"options": TOWNS, "answer": ["A", "B"]}, "names 2 right options"),
        ({"options": TOWNS, "answer": "A", "answer_index": 2}, "fit none"),
        ({"options": ["x", "x", "y"], "answer": "x"}, "fit several"),
        ({"options": ["x"], "answer": "A"}, "it has 1 options"),
        ({"options": [f"t{i}" for i in range(27)], "answer": "A"}, "it has 27 options"),
        ({"options": ["x", "", "y"], "answer": "A"}, "or empty ones"),
        ({"options": TOWNS}, "it has options, but no right one"),
        ({"options": {"A": "x", "C": "y"}, "answer": "A"}, "labels A, C"),
        ({"options": ["B. w", "A. x", "C. y"], "answer": "A"}, "could mean the label or the place"),
        ({"options": ["b) w", "A) x"], "answer": "A"}, "could mean the label or the place"),
        (
            {"options": [f"{n}. t{n}" for n in (2, 1, *range(3, 12))], "answer": "1"},
            "could mean the label or the place",
        ),
        ({"options": ["w", "x"], "answer": True}, "not one of its 2 options"),
        ({"options": [], "answer": "C"}, "its `options` has no options"),
        ({"options": [["x"], ["y"]], "answer": "A"}, "is list in an unknown shape"),
        ({"options": TOWNS, "answer": "D", "kind": "math"}, "remove `kind` or the options"),
        ({"answer": ["4", "5"]}, "its answer is a list of 2"),
    ],
)
def test_what_cannot_be_kept_is_an_error(tmp_path: Path, row: Row, words: str) -> None:
    with pytest.raises(DataError, match=words):
        convert(tmp_path, {"question": ASKED} | row)


def test_columns_that_are_not_kept_are_named_and_counted(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": i, "steps": [1, 2]} | ({"note": "x"} if i else {}) for i in range(3)]
    (note,) = convert(tmp_path, *rows).notes
    assert "`note` (2), `steps` (3)" in note


def test_what_a_question_is_about_stands_before_it(tmp_path: Path) -> None:
    (found,) = convert(tmp_path, {"context": "Al has 2.", "question": "How many?", "answer": "2"}).rows
    assert found["prompt"].startswith("Al has 2.\n\nHow many?\n\n")


def test_letters_go_as_far_as_the_options_and_another_letter_is_wrong(tmp_path: Path) -> None:
    found = convert(tmp_path, {"question": ASKED, "options": TEN, "answer": "J"})
    write_jsonl(tmp_path / "ours.jsonl", found.rows)
    (problem,) = load_problems(tmp_path / "ours.jsonl")
    assert (problem.options, problem.answer) == (10, "J")
    REFEREE.check([problem])
    for letter, outcome, vote in (
        ("J", "right", "J"),
        ("I", "wrong", "I"),
        ("K", "wrong", None),
        ("(j) town 9", "right", "J"),
    ):
        verdict = asyncio.run(REFEREE.judge(_attempt(problem, rf"\boxed{{{letter}}}"), str))
        assert (verdict.outcome, verdict.answer) == (outcome, vote)


def test_options_are_counted_in_the_text_where_no_column_lists_them() -> None:
    text = "Which?\n" + "\n".join(f"{letter}: {letter.lower()}" for letter in "ABCDEF")
    assert as_problem({"prompt": text, "answer": "F", "kind": "choice"}, 1).options == 6
    assert as_problem({"prompt": "Which?", "answer": "D", "kind": "choice"}, 1).options == 4
    assert as_problem({"prompt": "Which?", "choices": ["x", "y"], "answer": "A", "kind": "choice"}, 1).options == 2


def _attempt(problem: Problem, final: str) -> Trajectory:
    pieces = (Piece("prompt", (1,)), Piece("student", (2,)))
    return Trajectory(problem=problem, sample=0, pieces=pieces, stop="answered", final_text=final)


# Programs

SQUARE = {
    "task_id": "HumanEval/0",
    "prompt": 'from typing import List\n\n\ndef half(x):\n    return x / 2\n\n\ndef square(x):\n    """Its square."""\n',
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 9\n",
    "entry_point": "square",
    "canonical_solution": "    return x * x\n",
}
JOIN = {
    "task_id": 11,
    "text": "Write a function to join two texts.",
    "code": "import math\r\ndef join(a, b='x'):\r\n  return a + b",
    "test_list": ["assert join('a', 'b') == 'ab'"],
    "challenge_test_list": ["assert join('') == 'x'"],
    "test_setup_code": "import math",
}


def test_humaneval_is_read_as_published(tmp_path: Path) -> None:
    (found,) = convert(tmp_path, SQUARE).rows
    gold = json.loads(found["answer"])
    assert (found["id"], found["kind"]) == ("HumanEval/0", "code")
    assert (gold["test_code"], gold["entry_point"]) == (SQUARE["test"], "square")
    assert gold["import_prefix"].startswith("from typing import List\n\n\ndef half")
    assert "def square" not in gold["import_prefix"]
    assert SQUARE["prompt"].strip() in found["prompt"]
    assert found["solution"].endswith("return x * x\n")
    assert len(code_golds.tests_of(found["answer"]).tests) == 2


def test_nothing_of_humanevals_tests_is_left_out() -> None:
    test = "METADATA = {'author': 'x'}\n\ndef check(candidate):\n    for i in range(3):\n        assert candidate(i) == i * i\n"
    row, unused = columns.converted_problem({**SQUARE, "test": test}, 1)
    assert json.loads(row["answer"])["test_code"] == test
    assert not unused


@pytest.mark.parametrize("texts", [lambda value: value, str, json.dumps])
def test_mbpp_is_read_as_published(tmp_path: Path, texts: Any) -> None:
    row = {name: texts(cell) if isinstance(cell, list) else cell for name, cell in JOIN.items()}
    (found,) = convert(tmp_path, row).rows
    gold = json.loads(found["answer"])
    assert gold == {"assert_case": JOIN["test_list"] + JOIN["challenge_test_list"], "import_prefix": "import math\n"}
    assert "def join(a, b='x'):" in found["prompt"]
    assert found["solution"] == JOIN["code"]


def test_sanitized_mbpp_is_read_as_published(tmp_path: Path) -> None:
    row = {name: cell for name, cell in JOIN.items() if name not in ("text", "test_setup_code", "challenge_test_list")}
    done = convert(tmp_path, row | {"prompt": JOIN["text"], "test_imports": ["import math"], "source_file": "x.ipynb"})
    (found,) = done.rows
    assert json.loads(found["answer"])["import_prefix"] == "import math\n"
    assert "`source_file` (1)" in done.notes[0]


# Other shapes


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"problem": "?", "answer": ["4"]}, "4"),
        ({"prompt": [{"role": "user", "content": "?"}], "extra_info": {"answer": "so\n#### 4"}}, "4"),
        ({"prompt": json.dumps([{"role": "user", "content": "?"}]), "reward_model": '{"ground_truth": "4"}'}, "4"),
        ({"prompt": str([{"content": "?", "role": "user"}]), "answer": 4}, "4"),
        ({"messages": [{"role": "user", "content": "?"}], "answer": "4"}, "4"),
        ({"problem": "?", "solution": r"Thus $x=\boxed{4}$."}, "4"),
        ({"problem": "?", "answer": r"Thus $x=\boxed{4}$."}, "4"),
        ({"problem": "?", "answer": "First we add. The answer is: 4."}, "4"),
    ],
)
def test_an_answer_is_found_in_other_shapes(tmp_path: Path, row: Row, answer: str) -> None:
    (found,) = convert(tmp_path, row).rows
    assert (found["prompt"], found["answer"]) == ("?\n\nPut the final answer in \\boxed{}.", answer)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"prompt": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "Let"}]},
            "ends in a message of 'assist",
        ),
        ({"prompt": [{"role": "system", "content": "2+2?"}]}, "ends in a message of 'system'"),
        ({"prompt": [{"role": "user", "content": " "}]}, "last message of its prompt is empty"),
        ({"prompt": "array([{'role': 'user', 'content': '2+2?'}], dtype=object)"}, "looks like a list of messages"),
        ({"prompt": "Which?", "kind": "choice", "choices": "A, B"}, "its `choices` are not a list"),
        ({"messages": [{"role": "user", "content": "2+2?"}]}, "`sod data convert FILE --out OUT`"),
    ],
)
def test_a_prompt_that_cannot_be_asked_is_an_error(row: Row, words: str) -> None:
    with pytest.raises(DataError, match=words):
        as_problem({"answer": "4"} | row, 1)


@pytest.mark.parametrize("text", [json.dumps, str])
def test_messages_as_text_are_read_as_messages(text: Any) -> None:
    messages = [{"role": "system", "content": "Add."}, {"role": "user", "content": 'Is "2+2" 4?'}]
    assert as_problem({"prompt": text(messages), "answer": "4"}, 1).messages == tuple(messages)


def test_parquet_with_messages_as_text_is_read(tmp_path: Path) -> None:
    rows = [{"prompt": json.dumps([{"role": "user", "content": "?"}]), "answer": "4"}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (problem,) = load_problems(tmp_path / "rows.parquet")
    assert problem.messages == ({"role": "user", "content": "?"},)
