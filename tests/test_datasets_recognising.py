"""Rows of other projects: a part of a problem or of a conversation is kept, or the row is refused with what to type."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from confining import CONFINABLE
from judging import REFEREE

from sod.cli import run
from sod.datasets.conversion import Converted, convert_file
from sod.datasets.rows import (
    demonstration_of,
    load_demonstrations,
    load_problems,
    read_rows,
    usable_problem,
    write_jsonl,
)
from sod.errors import DataError
from sod.rewards.code import CodeJudge
from sod.rewards.kinds import check_gold
from sod.sandbox.local import LocalSandbox
from sod.types import Piece, Problem, Trajectory

Row = dict[str, Any]
CONVERT = r"`sod data convert FILE --out OUT`"
TOWNS = ["Rome", "Oslo", "Bern", "Paris"]
STDIN = json.dumps({"inputs": ["1 2\n"], "outputs": ["3\n"]})
ASSERTIONS = ["assert sq(2) == 4", "assert sq(3) == 9"]


def asked(text: str) -> list[Row]:
    return [{"role": "user", "content": text}]


def replied(text: str = "4") -> list[Row]:
    return [*asked("2+2?"), {"role": "assistant", "content": text}]


def convert(folder: Path, *rows: Row) -> Converted:
    write_jsonl(folder / "rows.jsonl", rows)
    return convert_file(folder / "rows.jsonl", None, "clean")


# Rows that only convert can read

OPTIONS: list[tuple[Row, str]] = [
    ({"question": "Capital?", "choices": TOWNS, "answer": 1}, "choices"),
    ({"question": "Capital?", "subject": "geography", "options": TOWNS, "answer": "B", "answer_index": 1}, "options"),
    ({"article": "Al is there.", "question": "Where?", "options": TOWNS, "answer": "A"}, "options"),
    ({"question": "Capital?", "Options": json.dumps(TOWNS), "answer": "B", "discipline": "x"}, "options"),
    ({"question": "Capital?", "A": "Rome", "B": "Oslo", "answer": "B"}, "a`, `b"),
    ({"question": "Capital?", "option1": "Rome", "option2": "Oslo", "answer": "2"}, "option1`, `option2"),
    ({"prompt": asked("Capital?"), "reward_model": {"ground_truth": "B"}, "extra_info": {"options": TOWNS}}, "options"),
    ({"question": "Capital?", "answer": "Oslo", "incorrect_answers": ["Rome", "Bern"]}, "answer`, `incorrect_answers"),
]


@pytest.mark.parametrize(("row", "columns"), OPTIONS)
def test_options_without_a_kind_are_refused_by_every_reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: Row, columns: str
) -> None:
    with pytest.raises(DataError, match=rf"it has options in `.*{columns}` but no `kind`.*{CONVERT}"):
        usable_problem(row, 1)
    write_jsonl(tmp_path / "rows.jsonl", [row])
    assert run(["data", "check", str(tmp_path / "rows.jsonl")]) == 2
    assert "sod data convert FILE --out OUT" in " ".join(capsys.readouterr().out.split())


def test_what_convert_writes_of_options_is_read(tmp_path: Path) -> None:
    rows = [{"question": f"Capital {i}?", "choices": TOWNS, "answer": i} for i in (0, 1)]
    write_jsonl(tmp_path / "ours.jsonl", convert(tmp_path, *rows).rows)
    assert [(each.kind, each.answer) for each in load_problems(tmp_path / "ours.jsonl")] == [
        ("choice", "A"),
        ("choice", "B"),
    ]


def test_empty_options_are_no_options(tmp_path: Path) -> None:
    row = {"question": "2+2?", "options": [], "answer": "4"}
    assert usable_problem(row, 1).kind == "math"
    assert convert(tmp_path, row).rows[0]["kind"] == "math"


@pytest.mark.parametrize(
    "row",
    [
        {"ability": "code", "data_source": "taco", "prompt": asked("Add."), "reward_model": {"ground_truth": STDIN}},
        {"data_source": "taco", "prompt": asked("Add."), "reward_model": {"ground_truth": STDIN, "style": "rule"}},
        {"ability": "code", "prompt": asked("Square."), "reward_model": {"ground_truth": json.dumps(ASSERTIONS)}},
        {"prompt": "Square.", "answer": "\n".join(ASSERTIONS)},
        {"prompt": "Square.", "answer": str(ASSERTIONS)},
    ],
)
def test_tests_of_a_program_without_a_kind_are_refused_and_converted(tmp_path: Path, row: Row) -> None:
    with pytest.raises(DataError, match=rf"tests of a program in `answer` but no `kind`.*{CONVERT}"):
        usable_problem(row, 1)
    (found,) = convert(tmp_path, row).rows
    assert found["kind"] == "code"
    assert usable_problem(found, 1).kind == "code"


def test_a_set_in_braces_is_no_test() -> None:
    assert usable_problem({"prompt": "Which?", "answer": r"\{1, 2\}"}, 1).kind == "math"
    assert usable_problem({"prompt": "Which?", "answer": "[1, 2]"}, 1).kind == "math"


def test_columns_of_tests_beside_an_answer_are_refused() -> None:
    with pytest.raises(DataError, match="tests of a program in `test_list`"):
        usable_problem({"prompt": "Square.", "answer": "x*x", "test_list": ASSERTIONS}, 1)


@pytest.mark.parametrize("column", ["context", "Passage", "Body", "premise", "article"])
def test_a_text_that_the_question_needs_is_put_before_it_or_refused(tmp_path: Path, column: str) -> None:
    row = {column: "Al has 2.", "question": "How many?", "answer": "2"}
    with pytest.raises(DataError, match=rf"a text for the question in `{column.casefold()}`.*{CONVERT}"):
        usable_problem(row, 1)
    assert usable_problem(row | {"question": "Al has 2. How many?"}, 1).answer == "2"
    (found,) = convert(tmp_path, row).rows
    assert found["prompt"] == "Al has 2.\n\nHow many?\n\nPut the final answer in \\boxed{}."


# What convert reads


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"Body": "Al has 2.", "Question": "How many?", "Answer": 2.0}, "Al has 2.\n\nHow many?", "2"),
        ({"body": "Al has 9.", "question": "How many?", "answer": "9 (apples)"}, "Al has 9.\n\nHow many?", "9"),
        ({"question": "2^7?", "solution": "128"}, "2^7?", "128"),
        ({"question": "Half?", "solution": r"\frac{1}{2}"}, "Half?", r"\frac{1}{2}"),
        ({"question": "Inverse of 2?", "answer": "3 (mod 5)"}, "Inverse of 2?", "3 (mod 5)"),
    ],
)
def test_nothing_that_the_question_needs_is_lost(tmp_path: Path, row: Row, prompt: str, answer: str) -> None:
    (found,) = convert(tmp_path, row).rows
    assert (found["prompt"].removesuffix("\n\nPut the final answer in \\boxed{}."), found["answer"]) == (prompt, answer)


def test_copa_keeps_its_premise(tmp_path: Path) -> None:
    row = {"premise": "He fell.", "question": "cause", "choice1": "ice", "choice2": "sun"}
    found = convert(tmp_path, row | {"label": 0}, row | {"premise": "He sat.", "label": 1}).rows
    assert found[0]["prompt"].startswith("He fell.\n\ncause\n\n(A) ice\n(B) sun\n\n")
    assert [each["answer"] for each in found] == ["A", "B"]


@pytest.mark.parametrize(("answer", "letter"), [(True, "A"), (False, "B")])
def test_an_answer_that_is_true_or_false_is_a_choice(tmp_path: Path, answer: bool, letter: str) -> None:
    row = {"passage": "Ice is water.", "question": "is ice water", "answer": answer}
    (found,) = convert(tmp_path, row).rows
    assert found["prompt"].startswith("Ice is water.\n\nis ice water\n\n(A) true\n(B) false\n\n")
    assert (found["kind"], found["answer"]) == ("choice", letter)


@pytest.mark.parametrize("name", ["incorrect_answers", "distractors"])
@pytest.mark.parametrize("texts", [list, json.dumps])
def test_wrong_answers_in_a_list_are_options(tmp_path: Path, name: str, texts: Any) -> None:
    (found,) = convert(tmp_path, {"question": "Capital?", "correct_answer": "Paris", name: texts(TOWNS[:3])}).rows
    assert sorted(found["choices"]) == sorted(TOWNS)
    assert found["choices"]["ABCD".index(found["answer"])] == "Paris"
    assert all(town in found["prompt"] for town in TOWNS)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "Capital?", "solution": "It is Paris"}, "its `solution` marks none: 'It is Paris'"),
        ({"problem": "Prove it.", "answer": "", "solution": "trivial"}, "its `solution` marks none: 'trivial'"),
        ({"problem": "Why?", "solution": "See the appendix"}, "marks none"),
        ({"problem": "Why?", "solution": "It is 4"}, "marks none"),
        ({"problem": "Why?", "solution": "答案是4"}, "marks none"),
        ({"question": "Square.", "solution": "def sq(x):\n    return x * x"}, "marks none: 'def sq"),
        ({"question": "Square.", "solution": "def sq(x): return x * x"}, "marks none: 'def sq"),
        ({"question": "   ", "answer": "4"}, "needs `problem` or `question`"),
        ({"prompt": asked("  \n"), "answer": "4"}, "the text of its problem is empty"),
        ({"problem": "2+2?", "answer": "proof"}, "'proof' is an empty cell or a placeholder"),
        ({"problem": "Which of the following is prime?", "answer": "C"}, "the options A, B, ... are not in the text"),
    ],
)
def test_convert_refuses_what_is_no_problem(tmp_path: Path, row: Row, words: str) -> None:
    with pytest.raises(DataError, match=words):
        convert(tmp_path, row)


# Options in the text


@pytest.mark.parametrize(
    ("text", "gold", "options"),
    [
        ("Solve. A) 1 B) 2 C) 3 D) 4 E) 5", "E", 5),
        ("Solve.\nA. 1\nB. 2\nC. 3\nD. 4", "C", 4),
        (r"Solve. $\textbf{(A)}\ 1\qquad\textbf{(B)}\ 2\qquad\textbf{(C)}\ 3\qquad\textbf{(D)}\ 4$", "(C)", 4),
        (r"Solve. $\text{A. } 1 \quad \text{B. } 2 \quad \text{C. } 3$", "C", 4),
        ("求值。A．1 B．2 C．3 D．4", "C", 4),
    ],
)
def test_a_letter_as_the_gold_of_listed_options_is_a_choice(tmp_path: Path, text: str, gold: str, options: int) -> None:
    problem = usable_problem({"problem": text, "answer": gold}, 1)
    assert (problem.kind, problem.options) == ("choice", options)
    (found,) = convert(tmp_path, {"problem": text, "answer": gold}).rows
    problem = usable_problem(found, 1)
    assert (problem.kind, problem.answer, problem.options) == ("choice", gold.strip("()"), options)
    for box, outcome in ((f"{problem.answer}) 3", "right"), ("A) 1", "wrong"), ("A", "wrong")):
        assert asyncio.run(REFEREE.judge(_attempt(problem, rf"\boxed{{{box}}}"), str)).outcome == outcome


@pytest.mark.parametrize(
    ("text", "gold"), [("Name A and B.", "B"), ("By A. Smith and B. Jones. Who?", "B"), ("A) 1 B) 2 C) 3", "3")]
)
def test_any_other_gold_is_mathematics(text: str, gold: str) -> None:
    assert usable_problem({"prompt": text, "answer": gold}, 1).kind == "math"


def test_a_kind_in_the_row_decides() -> None:
    assert usable_problem({"prompt": "A) 1 B) 2 C) 3", "answer": "C", "kind": "math"}, 1).kind == "math"


def test_a_word_that_is_the_answer_can_be_written_as_text() -> None:
    check_gold("math", r"\text{None}")


def _attempt(problem: Problem, final: str) -> Trajectory:
    pieces = (Piece("prompt", (1,)), Piece("student", (2,)))
    return Trajectory(problem=problem, sample=0, pieces=pieces, stop="answered", final_text=final)


# Programs with tests for pytest

KODCODE = {
    "question": "Square it.",
    "solution": "def sq(x):\n    return x * x",
    "test": "from solution import sq\nimport math\n\ndef test_2():\n    assert sq(2) == math.sqrt(16)\n\n"
    "def test_3():\n    x = sq(3)\n    assert x == 9\n",
}


def test_kodcodes_tests_judge_programs(tmp_path: Path) -> None:
    (found,) = convert(tmp_path, KODCODE).rows
    assert found["kind"] == "code"
    assert "def sq(x):" in found["prompt"]
    assert usable_problem(found, 1).answer == found["answer"]
    programs = {
        KODCODE["solution"]: "right",
        "def sq(x):\n    return 4": "wrong",
        "def sq(x):\n    return 2 * x": "wrong",
    }

    async def outcomes() -> list[str]:
        sandbox = LocalSandbox(workers=1, unsafe=not CONFINABLE)
        judge = CodeJudge(sandbox, seconds=30)
        verdicts = [await judge(f"```python\n{program}\n```", found["answer"]) for program in programs]
        await sandbox.close()
        return [verdict.outcome for verdict in verdicts]

    assert asyncio.run(outcomes()) == list(programs.values())


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("import pytest\nfrom solution import sq\ndef test_a():\n    assert sq(2) == 4\n", "imports pytest"),
        ("from solution import sq as f\ndef test_a():\n    assert f(2) == 4\n", "under another name"),
        ("from solution import sq\ndef test_a(n):\n    assert sq(n) == 4\n", "has parameters, decorators or classes"),
        (
            "from solution import sq\nclass TestA:\n    def test(self):\n        assert sq(2) == 4\n",
            "or classes of pytest",
        ),
        ("assert sq(2) ==", "is not Python"),
        ("sq(2)", "has no assertion"),
    ],
)
def test_tests_of_an_unknown_form_are_refused(tmp_path: Path, test: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        convert(tmp_path, KODCODE | {"test": test})


# Demonstrations


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        {"conversations": replied()},
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": asked("2+2?"), "completion": replied()[1:]},
        {"messages": json.dumps(replied())},
        {"messages": str(replied())},
    ],
)
def test_conversations_of_other_shapes_are_converted_and_named_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: Row
) -> None:
    words = rf"`messages`.* `role` and `content`.*{CONVERT}"
    with pytest.raises(DataError, match=words):
        demonstration_of(row, 1)
    write_jsonl(tmp_path / "rows.jsonl", [row])
    assert run(["data", "check", str(tmp_path / "rows.jsonl")]) == 2
    assert "`role` and `content`" in " ".join(capsys.readouterr().out.split())
    (found,) = convert(tmp_path, row).rows
    assert demonstration_of(found, 1).messages == replied()


def test_sharegpts_system_and_tools_are_kept(tmp_path: Path) -> None:
    call = '<tool_call>\n{"name": "python", "arguments": {"code": "print(4)"}}\n</tool_call>'
    turns = [("human", "2+2?"), ("gpt", call), ("tool", "<tool_response>\n4\n</tool_response>"), ("gpt", "4")]
    tools = [{"type": "function", "function": {"name": "python", "parameters": {}}}]
    row = {
        "system": "Be brief.",
        "conversations": [{"from": who, "value": text} for who, text in turns],
        "tools": json.dumps(tools),
    }
    made = demonstration_of(convert(tmp_path, row).rows[0], 1)
    assert [message["role"] for message in made.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert (made.messages[3]["content"], made.called, made.tools) == ("4", ["python"], tools)
    row["conversations"][1]["value"] = call.replace('"', "'")
    with pytest.raises(DataError, match="has a call that cannot be read"):
        convert(tmp_path, row)


@pytest.mark.parametrize(
    "row",
    [
        {"system": "SYSTEM: x", "chat": "USER: 2+2? ASSISTANT: 4"},
        {"query": "2+2?", "tools": "[]", "answers": "[]"},
        {"instruction": "2+2?", "input": "", "output": "4"},
    ],
)
def test_conversations_that_convert_cannot_read_name_what_to_write(tmp_path: Path, row: Row) -> None:
    words = "`messages` is a list of objects with `role` and `content`. Write the column `messages`"
    for read in (usable_problem, demonstration_of):
        with pytest.raises(DataError, match=words):
            read(row, 1)
    with pytest.raises(DataError, match=words):
        convert(tmp_path, row)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([*asked("2+2?"), {"role": "ipython", "content": "4"}, *replied()[1:]], "has the unknown role 'ipython'"),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}, *replied()[1:]], "no text .`image`"),
        ([{"role": "user", "content": [{"type": "text", "text": "2"}] * 2}, *replied()[1:]], "join its parts"),
        ([*asked("2+2?"), {"role": "assistant", "content": {"a": 4}}], "write it as JSON text"),
        (replied("") + replied(), "an assistant message is empty"),
    ],
)
def test_convert_refuses_the_demonstrations_that_check_refuses(tmp_path: Path, messages: list[Row], words: str) -> None:
    with pytest.raises(DataError, match=words):
        demonstration_of({"messages": messages}, 1)
    with pytest.raises(DataError, match=words):
        convert(tmp_path, {"messages": messages})
    done = convert(tmp_path, {"messages": replied()}, {"messages": messages})
    assert len(done.rows) == 1
    assert done.notes[0].startswith("1 unusable rows are left out; the first is row 2: ")


def test_convert_keeps_functions_as_tools_and_a_null_weight_as_trained(tmp_path: Path) -> None:
    function = {"name": "python", "parameters": {"type": "object"}}
    messages = [
        *asked("2+2?"),
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "python", "arguments": '{"code": "print(4)"}'},
        },
        {"role": "function", "name": "python", "content": "4"},
        {"role": "assistant", "content": "4"},
    ]
    row = {"messages": [{"weight": None, **message} for message in messages], "functions": [function]}
    write_jsonl(tmp_path / "ours.jsonl", convert(tmp_path, row).rows)
    (made,) = load_demonstrations(tmp_path / "ours.jsonl")
    assert made.tools == [{"type": "function", "function": function}]
    assert made.called == ["python"]
    assert not any("weight" in message for message in made.messages)


# Cells with another meaning than their text


@pytest.mark.parametrize(("number", "text"), [(0.1 + 0.2, "0.3"), (1.1 * 3, "3.3"), (1e-7, "1e-07"), (0.1, "0.1")])
def test_a_fraction_has_no_noise_of_its_binary_form(tmp_path: Path, number: float, text: str) -> None:
    row = {"prompt": "How much?", "answer": number}
    assert usable_problem(row, 1).answer == text
    assert convert(tmp_path, row).rows[0]["answer"] == text


def test_a_column_of_32_bit_fractions_keeps_its_decimal_text(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a?", "b?", "c?"], "answer": pa.array([0.1, 2.5, 3.3], pa.float32())})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert [each.answer for each in load_problems(tmp_path / "rows.parquet")] == ["0.1", "2.5", "3.3"]


def test_short_fractions_inside_objects_and_lists_keep_their_decimal_text(tmp_path: Path) -> None:
    gold = pa.array(
        [{"ground_truth": 0.1, "style": [0.3]}],
        pa.struct({"ground_truth": pa.float32(), "style": pa.list_(pa.float16())}),
    )
    parquet.write_table(pa.table({"prompt": ["a?"], "reward_model": gold}), tmp_path / "rows.parquet")
    (row,) = read_rows(tmp_path / "rows.parquet")
    assert row["reward_model"] == {"ground_truth": 0.1, "style": [0.3]}
    assert usable_problem(row, 1).answer == "0.1"


@pytest.mark.parametrize(
    ("number", "text"), [(1234567890123456.0, "1234567890123456"), (6.022e23, "6.022e+23"), (3.0, "3")]
)
def test_a_whole_number_among_fractions_keeps_its_digits(tmp_path: Path, number: float, text: str) -> None:
    row = {"prompt": "How many?", "answer": number}
    assert usable_problem(row, 1).answer.removesuffix(".0") == text
    assert convert(tmp_path, row).rows[0]["answer"] == text


@pytest.mark.parametrize("number", [9007199254740993.0, -1.2345678901234567e19])
def test_a_whole_number_that_a_fraction_cannot_hold_is_refused(tmp_path: Path, number: float) -> None:
    row = {"prompt": "How many?", "answer": number}
    with pytest.raises(DataError, match="keeps 15 digits of such a number; write the answer as text"):
        usable_problem(row, 1)
    with pytest.raises(DataError, match="write the answer as text"):
        convert(tmp_path, row)


def test_a_number_without_a_value_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a problem needs"):
        usable_problem({"prompt": "How much?", "answer": math.nan}, 1)
    with pytest.raises(DataError, match="its answer is inf, which has no value"):
        usable_problem({"prompt": "How much?", "answer": math.inf}, 1)
    assert usable_problem({"prompt": "How much?", "answer": 1, "level": math.nan}, 1).labels == {}


def test_a_column_without_a_name_is_read_as_no_other(tmp_path: Path) -> None:
    """pandas writes its index to such a column."""
    (tmp_path / "rows.csv").write_text(",question,answer\n0,What is 2?,2\n1,What is 3?,3\n")
    rows = convert_file(tmp_path / "rows.csv", None, "clean").rows
    assert [(row["id"], row["answer"], row["kind"]) for row in rows] == [("1", "2", "math"), ("2", "3", "math")]
    assert not {"hint", "solution"} & rows[0].keys()


@pytest.mark.parametrize("ending", [".jsonl", ".json"])
def test_a_name_that_is_given_twice_in_an_object_is_refused(tmp_path: Path, ending: str) -> None:
    text = '{"prompt": "1+1?", "answer": "3", "answer": "2"}'
    (tmp_path / f"rows{ending}").write_text(text if ending == ".jsonl" else f"[{text}]")
    with pytest.raises(DataError, match="'answer' is given twice in one object"):
        convert_file(tmp_path / f"rows{ending}", None, "clean")
    if ending == ".jsonl":
        with pytest.raises(DataError, match="'answer' is given twice"):
            load_problems(tmp_path / "rows.jsonl")
        assert run(["data", "check", str(tmp_path / "rows.jsonl")]) == 2


def test_a_right_option_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    row = {"question": "Which?", "choices": ["Rome", "Oslo", "Rome"], "answer": "A"}
    with pytest.raises(DataError, match="its right option 'Rome' is listed twice"):
        convert(tmp_path, row)
    assert convert(tmp_path, row | {"answer": "B"}).rows[0]["answer"] == "B"


@pytest.mark.parametrize(
    ("text", "gold", "kind"),
    [
        ("Capital?\n(a) Rome\n(b) Paris\n(c) Oslo", "(b)", "choice"),
        ("Capital?\na) Rome\nb) Paris\nc) Oslo", "b)", "choice"),
        ("Which of the following is one?\n(a) Rome\n(b) Paris", "b", "choice"),
        ("Let (a) x be 1 and (b) y be b. Find y.", "b", "math"),
        ("Find b.", "(b)", "math"),
    ],
)
def test_options_in_small_letters_are_options(text: str, gold: str, kind: str) -> None:
    assert usable_problem({"prompt": text, "answer": gold}, 1).kind == kind


# Rows that would be something else than they say


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "4", "answer": "What you get for 2+2"}, "in each other's columns"),
        ({"question": r"\boxed{4}", "answer": "the sum"}, "in each other's columns"),
        ({"question": "Find x.", "answer": "4", "image": "a.png"}, r"a picture or a recording \(`image`\)"),
        ({"question": "Find x.", "answer": "4", "images": [{"bytes": "x", "path": None}]}, "a picture or a recording"),
        ({"question": "<image>Find x.", "answer": "4"}, "a picture or a recording"),
        ({"question": "What is it?", "answer": "8", "solution": r"So it is \boxed{7}."}, "ends with the answer '7'"),
        ({"question": "Capital?\nA. Rome\nB. Oslo", "answer": "Oslo"}, "the text of option B"),
        ({"question": "Capital? A) Rome B) Oslo C) Bern. Choose.", "answer": "bern"}, "the text of option C"),
        ({"question": "Capital?\n(A) Rome\n(B) Oslo", "answer": "1"}, "the number of one of its 2 options"),
        ({"question": "Capital?\nA. Rome\nB. Oslo", "answer": "C"}, "its text lists 2 options"),
    ],
)
def test_a_row_that_would_be_another_problem_is_refused_by_every_reader(tmp_path: Path, row: Row, words: str) -> None:
    with pytest.raises(DataError, match=words):
        usable_problem(row, 1)
    with pytest.raises(DataError, match=words):
        convert(tmp_path, row)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "2 + 2", "answer": "four"},
        {"question": "gcd(84,36)?", "answer": "12"},
        {"question": "Find x.", "answer": "4", "image": {"bytes": None, "path": None}},
        {"question": "What is it?", "answer": "14", "solution": r"So it is \boxed{\frac{11}{3}}."},
        {"question": "What is it?", "answer": "1,000", "solution": r"So it is \boxed{1000}."},
        {"question": "How many?\nA. 4\nB. 5", "answer": "5", "kind": "math"},
        {"question": "Let\nA: 3 apples\nB: 2 pears\nHow many fruits are in B?", "answer": "2"},
    ],
)
def test_a_row_that_looks_like_one_of_these_is_read(row: Row) -> None:
    assert usable_problem(row, 1).answer == row["answer"]


def test_an_empty_number_of_a_column_is_no_second_column(tmp_path: Path) -> None:
    rows = [{"question": "2+2?", "answer": 4.0}, {"question": "2+3?", "answer": float("nan")}]
    assert "needs an answer" in convert(tmp_path, *rows).notes[0]


@pytest.mark.parametrize(
    ("gold", "words"),
    [
        ({"inputs": ["2", "2"], "outputs": ["4", "5"]}, "two outputs for the input '2'"),
        (["assert f(2) == 4", "assert f(2) == 5"], "two results for one call"),
        (['assert (f(2) == 4, "wrong")'], "a comma where it should compare"),
        (["assert f(2), 4"], "a comma where it should compare"),
        (["assert f(2), [4]"], "a comma where it should compare"),
    ],
)
def test_tests_that_no_program_or_almost_every_program_passes_are_refused(gold: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_gold("code", json.dumps(gold))


@pytest.mark.parametrize(
    "gold",
    [
        {"inputs": ["2", "2"], "outputs": ["4", "5"], "checker": "special"},
        {"inputs": ["2", "2"], "outputs": ["4", "4.0"]},
        ['assert f(2) == 4, "wrong"', 'assert f(2) == 4.0, f"wrong {f(2)}"'],
    ],
)
def test_tests_that_a_program_can_pass_are_read(gold: Any) -> None:
    check_gold("code", json.dumps(gold))
