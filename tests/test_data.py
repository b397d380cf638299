"""Files to problems and demonstrations; what is wrong with a file is said with its place."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from judging import REFEREE
from reference import shared

from sod.datasets.checking import unchecked_rows
from sod.datasets.columns import converted_problem
from sod.datasets.reading import published_rows
from sod.datasets.rows import (
    ProblemFile,
    load_demonstrations,
    load_problems,
    read_rows,
    write_jsonl,
)
from sod.datasets.wording import worded
from sod.errors import DataError
from sod.runs.files import sha256_of_file
from sod.types import Problem

Row = dict[str, Any]


def write(folder: Path, rows: list[Row], suffix: str = ".jsonl") -> Path:
    path = folder / f"rows{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        write_jsonl(path, rows)
    return path


def write_text(folder: Path, text: str) -> Path:
    path = folder / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


def asked(text: str) -> list[Row]:
    return [{"role": "user", "content": text}]


def problems(count: int) -> list[Problem]:
    return [Problem(id=f"p{i}", messages=tuple(asked(str(i))), answer=str(i)) for i in range(count)]


# Problems


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_problems_in_our_own_shape_are_read(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"id": "a", "prompt": "1+1?", "answer": "2", "kind": "math"},
        {"id": "b", "prompt": "Pick.", "answer": "C", "kind": "choice"},
    ]
    assert load_problems(write(tmp_path, rows, suffix)) == [
        Problem(id="a", messages=({"role": "user", "content": "1+1?"},), answer="2"),
        Problem(id="b", messages=({"role": "user", "content": "Pick."},), answer="C", kind="choice"),
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_problems_in_verls_shape_are_read(tmp_path: Path, suffix: str) -> None:
    row = {
        "data_source": "math_dapo",
        "prompt": asked("1+1?"),
        "reward_model": {"ground_truth": "2", "style": "rule"},
        "extra_info": {"index": "9a9b"},
    }
    assert load_problems(write(tmp_path, [row], suffix)) == [
        Problem(id="9a9b", messages=({"role": "user", "content": "1+1?"},), answer="2")
    ]


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"prompt": "1+1?", "problem": "2+2?", "answer": "2"}, "`prompt` and `problem`"),
        ({"prompt": asked("1+1?"), "question": "2+2?", "answer": "2"}, "`prompt` and `question`"),
        ({"prompt": "1+1?", "answer": "2", "final_answer": "3"}, "`answer` and `final_answer`"),
        ({"prompt": "1+1?", "answer": "2", "reward_model": {"ground_truth": "3"}}, "`answer` and `ground_truth`"),
        ({"prompt": "1+1?", "answer": "2", "Answer": "3"}, "`answer` and `Answer`"),
    ],
)
def test_two_questions_or_two_answers_in_a_row_are_refused(tmp_path: Path, row: Row, names: str) -> None:
    rows = [{"prompt": "3+3?", "answer": "6"}, row]
    with pytest.raises(DataError, match=rf"1 of 2 rows cannot be used; the first is row 2: its {names} .*differ"):
        load_problems(write(tmp_path, rows))
    with pytest.raises(DataError, match=f"its {names} .*differ"):
        converted_problem(row, 2)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "1+1?", "problem": " 1 + 1? ", "answer": "2"},
        {"prompt": asked("1+1?"), "question": "1+1?", "answer": "2"},
        {"prompt": worded("1+1?", "math", "clean"), "problem": "1+1?", "answer": "2"},
        {"prompt": "1+1?", "answer": "2", "final_answer": 2.0, "ground_truth": r"\boxed{2}"},
        {"prompt": "1+1?", "problem": "", "answer": "2", "target": None},
    ],
)
def test_one_question_and_one_answer_may_be_in_several_columns(tmp_path: Path, row: Row) -> None:
    (problem,) = load_problems(write(tmp_path, [row]))
    assert (problem.messages[0]["content"].startswith("1"), problem.answer) == (True, "2")
    assert converted_problem(row, 1)[0]["answer"] == "2"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("place", ["columns", "extra_info"])
def test_a_hint_and_a_solution_may_stand_beside_the_answer(tmp_path: Path, suffix: str, place: str) -> None:
    told = {"hint": "Count.", "solution": "1, 2."}
    row = {"prompt": "1+1?", "answer": "2"} | (told if place == "columns" else {"extra_info": {"index": "a", **told}})
    with_them, without = load_problems(write(tmp_path, [row, {"prompt": "2+2?", "answer": "4"}], suffix))
    assert (with_them.hint, with_them.solution) == ("Count.", "1, 2.")
    assert (without.hint, without.solution) == ("", "")
    assert with_them.messages == tuple(asked("1+1?"))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_prompt_may_be_a_conversation(tmp_path: Path, suffix: str) -> None:
    messages = [{"role": "system", "content": "Compute."}, *asked("1+1?")]
    (problem,) = load_problems(write(tmp_path, [{"prompt": messages, "answer": "2"}], suffix))
    assert problem.messages == tuple(messages)


@pytest.mark.parametrize("column", ["prompt", "problem", "question"])
def test_a_prompt_has_one_of_three_names(tmp_path: Path, column: str) -> None:
    (problem,) = load_problems(write(tmp_path, [{column: "1+1?", "answer": 2}]))
    assert (problem.messages, problem.answer, problem.kind) == (tuple(asked("1+1?")), "2", "math")


def test_a_problem_without_an_id_is_called_by_its_row(tmp_path: Path) -> None:
    found = load_problems(write(tmp_path, [{"prompt": "1+1?", "answer": 2}, {"prompt": "2+2?", "answer": 4}]))
    assert [problem.id for problem in found] == ["1", "2"]


def test_a_row_that_repeats_another_is_kept_once(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "1+1?", "answer": 2}
    found = load_problems(write(tmp_path, [row, {"id": "b", "prompt": "2+2?", "answer": 4}, row, row]))
    assert [problem.id for problem in found] == ["a", "b"]


def test_the_same_question_with_another_answer_is_another_problem(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "1+1?", "answer": answer} for answer in (2, 3)]
    assert [(problem.id, problem.answer) for problem in load_problems(write(tmp_path, rows))] == [
        ("a", "2"),
        ("a#2", "3"),
    ]


def test_of_repeated_problems_the_first_is_kept(tmp_path: Path) -> None:
    rows = [{"id": name, "prompt": "1+1?", "answer": 2} for name in ("a", "b")]
    assert [problem.id for problem in load_problems(write(tmp_path, rows))] == ["a"]


def test_no_two_problems_have_the_same_id(tmp_path: Path) -> None:
    rows = [{"id": name, "prompt": str(i), "answer": 2} for i, name in enumerate(["a", "a#2", "a"])]
    found = load_problems(write(tmp_path, rows))
    assert len({problem.id for problem in found}) == 3


def test_empty_cells_are_as_good_as_no_cells(tmp_path: Path) -> None:
    rows = [{"id": None, "kind": None, "hint": None, "extra_info": {"solution": None}, "prompt": "1+1?", "answer": 2}]
    (problem,) = load_problems(write(tmp_path, rows))
    assert (problem.id, problem.kind, problem.hint, problem.solution) == ("1", "math", "", "")


def test_an_empty_prompt_does_not_hide_a_problem(tmp_path: Path) -> None:
    load_problems(write(tmp_path, [{"prompt": None, "problem": "1+1?", "answer": 2}]))


def test_text_may_hold_what_other_tools_take_for_a_line_break(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d\x0ce\rf"
    path = write(tmp_path, [{"prompt": text, "answer": "é"}])
    assert "\u2028" in path.read_text(encoding="utf-8")
    (problem,) = load_problems(path)
    assert (problem.messages[0]["content"], problem.answer) == (text, "é")


def test_lines_may_end_as_on_windows_and_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\r\n{"prompt": "1+1?", "answer": 2}\r\n\r\n  \r\n{"prompt": "2+2?", "answer": 4}')
    assert [problem.answer for problem in load_problems(path)] == ["2", "4"]


TWO = '{"prompt": "1+1?", "answer": 2}\n{"prompt": "2+2?", "answer": 4}\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(TWO.encode(), mtime=0), r"is compressed with gzip; add \.gz to its name"),
        (TWO.encode("utf-16"), "is UTF-16 text; write it again with `iconv -f UTF-16 -t UTF-8`"),
        (TWO.encode("utf-16-le"), "is UTF-16 text"),
        (TWO.encode("utf-32"), "is UTF-32 text"),
        (b"PAR1", r"is a parquet file; give it the ending \.parquet"),
        (b"PK\x03\x04", "is a zip archive"),
        (json.dumps([{"prompt": "1+1?", "answer": 2}]).encode(), r"is one JSON list, .* give it the ending \.json,"),
    ],
    ids=["gzip", "utf-16", "utf-16-le", "utf-32", "parquet", "zip", "list"],
)
def test_a_file_of_another_format_than_its_name_says_is_refused_as_what_it_is(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    for read in (load_problems, lambda path: list(unchecked_rows(path)), lambda path: list(published_rows(path))):
        with pytest.raises(DataError, match=words):
            read(path)


def test_a_directory_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(DataError, match="is not a file"):
        load_problems(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    "table",
    [
        pa.Table.from_arrays(
            [pa.array(["1?"]), pa.array(["1"]), pa.array(["2"])], names=["prompt", "answer", "answer"]
        ),
        pa.table({"x": pa.StructArray.from_arrays([pa.array(["1"]), pa.array(["2"])], names=["answer", "answer"])}),
    ],
)
def test_a_parquet_file_with_two_columns_of_one_name_is_refused(tmp_path: Path, table: pa.Table) -> None:
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"two columns with the name 'answer'\. Rename or remove one"):
        load_problems(tmp_path / "rows.parquet")


def test_of_a_limit_what_comes_after_it_is_neither_read_nor_checked(tmp_path: Path) -> None:
    good = [{"prompt": f"{i}?", "answer": i} for i in range(3)]
    path = write(tmp_path, [good[0], good[0], *good[1:]])
    path.write_text(path.read_text() + "no JSON\n")
    file = ProblemFile(path, limit=3)
    assert [problem.answer for problem in file] == ["0", "1", "2"]
    assert file.repetitions == 1
    with pytest.raises(DataError, match="line 5: not JSON"):
        list(ProblemFile(path, limit=4))


def test_a_bad_row_among_those_that_a_limit_reads_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "1?", "answer": 1}, {"prompt": "2?"}, {"prompt": "3?", "answer": 3}])
    assert len(list(ProblemFile(path, limit=1))) == 1
    with pytest.raises(DataError, match="1 of 3 rows cannot be used; the first is row 2"):
        list(ProblemFile(path, limit=2))


def test_ids_do_not_depend_on_the_limit(tmp_path: Path) -> None:
    rows = [{"id": name, "prompt": str(i), "answer": 2} for i, name in enumerate(["a", "a", "a#2", "a"])]
    path = write(tmp_path, rows)
    ids = [problem.id for problem in load_problems(path)]
    assert ids == ["a", "a#2", "a#2#2", "a#3"]
    assert [problem.id for problem in ProblemFile(path, limit=2)] == ids[:2]


def test_gsm8k_as_published_is_refused_with_what_to_type(tmp_path: Path) -> None:
    rows = [{"question": f"{i}+2?", "answer": f"Add <<{i}+2={i + 2}>>.\n#### {i + 2}"} for i in range(3)]
    with pytest.raises(DataError, match=r"3 of 3 rows cannot be used; the first is row 1: .*`sod data convert FILE`"):
        load_problems(write(tmp_path, rows))


# What is wrong with a file


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl does not exist"):
        load_problems(tmp_path / "absent.jsonl")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"give a \.jsonl or \.parquet file"):
        load_problems(tmp_path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.json", "rows"])
def test_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=r"has the ending '.*'; only \.jsonl and \.parquet"):
        load_problems(tmp_path / name)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_a_row_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="is empty"):
        load_problems(write_text(tmp_path, text))


def test_a_parquet_file_without_a_row_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"prompt": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match="is empty"):
        load_problems(path)


@pytest.mark.parametrize("content", [b"", b"no parquet at all, but long enough to be one", b"PAR1" * 4])
def test_a_file_that_is_no_parquet_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a parquet file"):
        load_problems(path)


def test_a_damaged_parquet_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write(tmp_path, [{"id": "1", "prompt": asked("1+1?"), "answer": "2"}], ".parquet")
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes(40) + content[240:])
    with pytest.raises(DataError, match=r"rows\.parquet"):
        load_problems(path)


def test_bytes_that_are_not_utf_8_are_an_error_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "\xe9", "answer": 2}')
    with pytest.raises(DataError, match=r"is not UTF-8 text: .* at byte 12"):
        load_problems(path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{bad", r"line 3: not JSON \(Expecting property name enclosed in double quotes at character 1\)"),
        ('{"prompt": "a"', r"line 3: not JSON \(Expecting ',' delimiter at character 14\)"),
        ("[1]", "line 3: expected an object with named fields, found list"),
        ('"text"', "line 3: expected an object with named fields, found str"),
        ("null", "line 3: expected an object with named fields, found NoneType"),
    ],
)
def test_a_line_that_is_no_object_is_an_error_with_its_number(tmp_path: Path, line: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        load_problems(write_text(tmp_path, '{"prompt": "1+1?", "answer": 2}\n\n' + line))


@pytest.mark.parametrize("value", ["7" * 5000, "[" * 100_000], ids=["digits", "depth"])
def test_a_line_that_cannot_be_parsed_is_an_error_with_its_number(tmp_path: Path, value: str) -> None:
    with pytest.raises(DataError, match="line 1"):
        load_problems(write_text(tmp_path, f'{{"prompt": "1+1?", "answer": {value}}}'))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "1+1?"}, "it has the columns prompt, but a problem needs `prompt`"),
        ({"answer": 2, "text": "1+1?"}, "it has the columns answer, text, but"),
        ({"prompt": [], "answer": 2}, "neither empty"),
        ({"prompt": "1+1?", "answer": " "}, "neither empty"),
        ({"prompt": "1+1?", "answer": None}, "neither empty"),
        ({"prompt": "1+1?", "reward_model": {"style": "rule"}}, "reward_model.ground_truth"),
        ({"prompt": "1+1?", "answer": 2, "hint": ["Count."]}, "its `hint` is list; only text can be used"),
        ({"prompt": "1+1?", "answer": 2, "solution": 2}, "its `solution` is int; only text can be used"),
        ({"prompt": "1+1?", "answer": 2, "extra_info": {"hint": {}}}, "its `hint` is dict; only text"),
        ({"prompt": 7, "answer": 2}, "not a list of objects"),
        ({"prompt": ["1+1?"], "answer": 2}, "not a list of objects"),
        ({"prompt": [{"content": "1+1?"}], "answer": 2}, "not a list of objects with `role`"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], "answer": 2}, "a part that is no text"),
    ],
)
def test_rows_that_are_no_problem_are_counted_and_the_first_is_shown(tmp_path: Path, row: Row, complaint: str) -> None:
    good = {"prompt": "1+1?", "answer": 2}
    with pytest.raises(DataError, match=rf"2 of 4 rows cannot be used; the first is row 2: .*{complaint}"):
        load_problems(write(tmp_path, [good, row, good, row]))


@pytest.mark.parametrize("prompt", ["", "  "])
def test_a_problem_that_asks_nothing_is_an_error_with_its_row(tmp_path: Path, prompt: str) -> None:
    with pytest.raises(DataError, match="neither empty"):
        load_problems(write(tmp_path, [{"prompt": prompt, "answer": 2}]))


@pytest.mark.parametrize("column", ["reward_model", "extra_info"])
def test_a_column_of_the_wrong_type_is_an_error_with_its_row(tmp_path: Path, column: str) -> None:
    row = {"prompt": "1+1?", "answer": 2, column: "rule"}
    with pytest.raises(DataError, match="row 1"):
        load_problems(write(tmp_path, [row]))


# Demonstrations

CALL = {"type": "function", "function": {"name": "python", "arguments": {"code": "print(1+1)"}}}
CONVERSATION: list[Row] = [
    *asked("1+1?"),
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "python", "content": "2"},
    {"role": "assistant", "content": "2", "weight": 1},
]
TOOLS = [{"type": "function", "function": {"name": "python", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_demonstrations_are_read_as_they_were_written(tmp_path: Path, suffix: str) -> None:
    rows = [{"messages": CONVERSATION, "tools": TOOLS}, {"messages": CONVERSATION[:2], "tools": []}]
    first, second = load_demonstrations(write(tmp_path, rows, suffix))
    assert (first.messages, first.tools) == (CONVERSATION, TOOLS)
    assert (second.messages, second.tools) == (CONVERSATION[:2], [])


def test_tools_may_be_given_as_text_and_may_be_left_out(tmp_path: Path) -> None:
    rows = [{"messages": CONVERSATION, "tools": json.dumps(TOOLS)}, {"messages": CONVERSATION}]
    assert [row.tools for row in load_demonstrations(write(tmp_path, rows))] == [TOOLS, []]


def test_a_message_without_content_has_none_to_speak_of(tmp_path: Path) -> None:
    messages = [*asked("1+1?"), {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    (row,) = load_demonstrations(write(tmp_path, [{"messages": messages}]))
    assert row.messages[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"text": "1+1?"}, "it has the columns text, but a demonstration needs `messages`"),
        ({"messages": []}, "needs `messages`"),
        ({"messages": "1+1?"}, "not a list of objects"),
        ({"messages": asked("1+1?")}, "it has no assistant message to learn from"),
        (
            {"messages": [*asked("?"), {"role": "assistant", "content": "2", "weight": 0}]},
            "it has no assistant message to learn from",
        ),
    ],
)
def test_rows_that_are_no_demonstration_are_counted_and_the_first_is_shown(
    tmp_path: Path, row: Row, complaint: str
) -> None:
    with pytest.raises(DataError, match=rf"1 of 2 rows cannot be used; the first is row 2: .*{complaint}"):
        load_demonstrations(write(tmp_path, [{"messages": CONVERSATION}, row]))


@pytest.mark.parametrize("tools", ["python", TOOLS[0]], ids=["text", "object"])
def test_tools_that_are_no_list_are_an_error_with_their_row(tmp_path: Path, tools: Any) -> None:
    with pytest.raises(DataError, match="row 1"):
        load_demonstrations(write(tmp_path, [{"messages": CONVERSATION, "tools": tools}]))


def test_parquet_adds_no_arguments_to_a_call(tmp_path: Path) -> None:
    other = {"type": "function", "function": {"name": "browse", "arguments": {"url": "example.org"}}}
    messages = [*CONVERSATION[:3], {"role": "assistant", "content": "", "tool_calls": [other]}]
    (row,) = load_demonstrations(write(tmp_path, [{"messages": messages}], ".parquet"))
    assert row.messages == messages


# Real files


def test_a_fingerprint_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = write_text(tmp_path, "abc")
    assert sha256_of_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": [None, "é\n\u2028"]}, {"c": {"d": True}}]
    assert read_rows(write(tmp_path, rows)) == rows


def test_dapos_different_problems_can_all_be_judged() -> None:
    found = load_problems(shared("data/train_math_dapo17k.parquet"))
    assert len({problem.messages[0]["content"] for problem in found}) == 17_398
    assert len({problem.id for problem in found}) == len(found) == 17_405  # seven questions have two answers
    REFEREE.check(found)


@pytest.mark.parametrize("name", ["aime2024", "aime2025", "math500"])
def test_a_published_benchmark_can_be_judged(name: str) -> None:
    REFEREE.check(load_problems(shared(f"data/{name}.jsonl")))
