"""Answers to scores: which box counts, and when two answers are the same."""

import json
import time

import pytest
from reference import shared

from sod.errors import DataError
from sod.rewards import check_kinds, judge
from sod.rewards import math as maths
from sod.types import Problem


def problem(answer: str, kind: str = "math") -> Problem:
    return Problem(id="p7", messages=({"role": "user", "content": "?"},), answer=answer, kind=kind)


# Which box


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"so \boxed{204}.", "204"),
        (r"\boxed {204}", "204"),
        ("\\boxed\n{204}", "204"),
        (r"\boxed{ 204 }", " 204 "),
        (r"\fbox{204}", "204"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a{b{c}}d}", "a{b{c}}d"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{1\right\}} end}", r"\left\{1\right\}"),
        (r"\boxed{12} no, \boxed{204}", "204"),
        (r"\boxed{12} no, \fbox{204}", "204"),
        (r"\boxed{\boxed{204}}", "204"),
        (r"\boxed{12} and \boxed{204", "12"),
        (r"\boxed{1}\boxed{2}\boxed{3}", "3"),
        ("\\boxed{1\n+\n1}", "1\n+\n1"),
        (r"\boxed{}", ""),
        (r"\boxed{204", None),
        (r"\boxed{20{4}", None),
        (r"\boxed{204\}", None),
        (r"\boxed 204", None),
        (r"boxed{204}", None),
        (r"\boxedtext{204}", None),
        ("the answer is 204", None),
        ("", None),
    ],
)
def test_the_last_box_that_is_closed_holds_the_answer(text: str, inside: str | None) -> None:
    assert maths.last_boxed(text) == inside


def test_a_line_break_before_a_brace_does_not_escape_it() -> None:
    assert maths.last_boxed(r"\boxed{1 \\}") == r"1 \\"


@pytest.mark.parametrize(
    ("text", "correct", "answer"),
    [
        (r"<think>\boxed{1}</think> It is \boxed{2}.", True, "2"),
        (r"<think>\boxed{2}</think> It is 2.", False, None),
        (r"\boxed{2}</think>", False, None),
        (r"<think>a</think>\boxed{1}<think>b</think>\boxed{2}", True, "2"),
        (r"<think>never closed \boxed{2}", True, "2"),
        (r"It is \boxed{}.", False, None),
        (r"It is \boxed{ }.", False, None),
        ("It is 2.", False, None),
        ("", False, None),
    ],
)
def test_only_a_box_after_the_thinking_is_judged(text: str, correct: bool, answer: str | None) -> None:
    verdict = judge(problem("2"), text)
    assert (verdict.correct, verdict.answer) == (correct, answer)
    assert verdict.reward == (1.0 if correct else -1.0)


# When answers are the same


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("204", "204"),
        (" 204\n", "204"),
        ("033", "33"),
        ("000", "0"),
        ("33.", "33"),
        ("+5", "5"),
        ("-5", "-5"),
        ("-0", "0"),
        ("-05", "-5"),
        ("1,000", "1000"),
        ("-1,234,567", "-1234567"),
        (r"1\,000", "1000"),
        ("1{,}000", "1000"),
        ("1 000", "1000"),
        ("x=204", "204"),
        ("x = 033.", "33"),
        ("m+n = 200+4 = 204", "204"),
        (r"\text{204}", "204"),
        (r"\text{ 204 }", "204"),
        (r"\mathrm{C}", "C"),
        (r"\textbf{204}.", "204"),
        ("'204'", "204"),
        ('"204"', "204"),
        ("$204$", "204"),
        ("$'204'$", "204"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"\frac{1} {2} + x", r"\frac{1}{2}+x"),
        ("1/2", "1/2"),
        ("0.5", "0.5"),
        ("1,00", "1,00"),
        ("1,2,3", "1,2,3"),
        ("12,3456", "12,3456"),
    ],
)
def test_every_way_to_write_an_answer_has_one_canonical_form(written: str, canonical: str) -> None:
    assert maths.canonical(written) == canonical
    assert maths.canonical(canonical) == canonical
    assert judge(problem(written), rf"\boxed{{{canonical}}}").correct
    assert judge(problem(canonical), rf"\boxed{{{written}}}").correct


@pytest.mark.parametrize("written", ["", " ", "$", "$$", "''", ".", "=", "x ="])
def test_nothing_has_no_canonical_form_and_is_never_right(written: str) -> None:
    assert maths.canonical(written) is None
    assert not judge(problem(written), rf"\boxed{{{written}}}").correct


@pytest.mark.parametrize(
    ("gold", "written"),
    [
        ("204", "205"),
        ("204", "-204"),
        ("204", "2040"),
        ("204", "204,"),
        ("1000", "1,00,0"),
        ("12", "1,2"),
        ("204", "204 or 205"),
        ("204", r"204\%"),
        ("204", "12,204"),
        ("C", "c"),
        ("10", "1e1"),
        ("204", "two hundred and four"),
        ("204", r"\boxed"),
    ],
)
def test_another_answer_is_wrong(gold: str, written: str) -> None:
    assert not judge(problem(gold), rf"\boxed{{{written}}}").correct


@pytest.mark.parametrize("written", ["x<=3", "x>=3", "x!=3", "x=5 or x=3", "x=5, y=3"])
def test_the_right_side_of_a_relation_is_no_value(written: str) -> None:
    assert not judge(problem("3"), rf"\boxed{{{written}}}").correct


def test_no_hand_judged_wrong_integer_passes() -> None:
    """Only last turns are judged, so responses with tool calls in them are left out."""
    with shared("golden/grading_cases.jsonl").open(encoding="utf-8") as file:
        cases = [json.loads(line) for line in file]
    chosen = [c for c in cases if c["domain"] == "aime" and not c["debatable"] and "<tool_call>" not in c["response"]]
    assert len(chosen) > 40
    passed = [case for case in chosen if judge(problem(case["gold"]), case["response"]).correct]
    assert passed
    assert [case["id"] for case in passed if not case["correct"]] == []


# What a student that has lost its mind may write


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(r"\boxed{" + "7" * 100_000 + "}", id="digits"),
        pytest.param(r"\boxed" + "{" * 100_000, id="opening braces"),
        pytest.param(r"\boxed" + "{" * 100_000 + "}" * 100_000, id="nested braces"),
        pytest.param(r"\boxed{" + "}" * 100_000, id="closing braces"),
        pytest.param(r"\boxed" + " " * 100_000, id="spaces"),
        pytest.param(r"\boxed{1" + ",000" * 30_000 + ",}", id="thousands"),
        pytest.param(r"\boxed{" + r"\text{" * 30_000 + "}" * 30_000 + "}", id="texts"),
        pytest.param(r"\boxed{" + "=" * 100_000 + "}", id="equals signs"),
        pytest.param(r"\boxed{" + "\\" * 100_000 + "}", id="backslashes"),
        pytest.param(r"\boxed{1}" * 10_000, id="boxes"),
        pytest.param("</think>" * 10_000, id="thoughts"),
        pytest.param("\\boxed{\x00\ud800}", id="no text"),
    ],
)
def test_hostile_text_is_judged_in_no_time(text: str) -> None:
    start = time.perf_counter()
    assert not judge(problem("204"), text).correct
    assert time.perf_counter() - start < 2


def test_many_boxes_that_are_not_closed_take_time_in_proportion() -> None:
    def seconds(boxes: int) -> float:
        start = time.perf_counter()
        maths.last_boxed(r"\boxed{" * boxes)
        return time.perf_counter() - start

    assert seconds(2000) < 16 * min(seconds(250) for _ in range(3)) + 0.05


# Before the first token


def test_problems_that_a_judge_can_judge_are_accepted() -> None:
    check_kinds([problem("204"), problem("033"), problem(r"\frac{1}{2}")])


def test_a_problem_of_a_kind_without_a_judge_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"Problem 'p7' is of kind 'poetry'; judges exist for math"):
        check_kinds([problem("204"), problem("204", kind="poetry")])


@pytest.mark.parametrize("answer", ["", " ", "$$", "="])
def test_a_problem_whose_answer_is_empty_is_refused_by_name(answer: str) -> None:
    with pytest.raises(DataError, match=r"The answer of problem 'p7', .*, is empty"):
        check_kinds([problem(answer)])
