"""Multiple choice: which answers commit to one letter."""

import asyncio
import json

import pytest
from hand_judged import clear_cases, missed_answers, missed_cases
from reference import shared

from sod.errors import DataError
from sod.rewards import Judge, Verdict
from sod.rewards.choice import ChoiceJudge, letter


@pytest.mark.parametrize(
    "text",
    [
        *["C", "c", " C ", "C.", "C)", "C:", "(C)", "( C )", "(c)", "[C]", "{C}", "**C**", "`C`", "$C$", "'C'", '"C"'],
        *[
            "‘C’",
            "''C''",
            "（C）",
            "Ｃ",
            "C\n",
            "(C).",
            "Option C",
            "option (C)",
            "Choice C.",
            "Answer: C",
            "Option: C",
        ],
        *["The answer is C", "the correct option is (C)", "(C) 10^{-8} eV", "C. 10^{-8} eV", "C) it rises", "C: 5"],
        *["(C) A cat", "C. vitamin C", r"\text{C}", r"\textbf{(C) }", r"\mathbf{C}", r"\mathrm{C}", r"C\ ", r"\bf C"],
        *[r"\text{Option C}", r"\text{C) it rises}", r"(C)\ 10^{-8}\text{ eV}", r"\boxed{C}", r"\boxed{\text{(C)}}"],
    ],
)
def test_one_letter_is_a_choice_however_it_is_written(text: str) -> None:
    assert letter(text) == "C"


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            " ",
            "?",
            "5",
            "E",
            "e",
            "ABCD",
            "AC",
            "A C",
            "Carbon",
            "CO_2",
            "Cat",
            "a cat",
            "A cat",
            "None of the above",
        ],
        *["A or C", r"A \text{ or } C", "A and C", "A, C", "A/C", "A; C", "(A) or (C)", "(A), (C)", "(A)(C)", "C or D"],
        *["C (or D)", "A) or B)", "A. or B.", "C. and D.", "not C", "C because A is wrong", "Option A and Option C"],
        *["A.B", "C & D", "both A and C", "all", "C" * 2000, "(" * 2000 + "C"],
    ],
)
def test_a_hedge_or_a_word_is_no_choice_and_no_vote(text: str) -> None:
    assert letter(text) is None
    verdict = ChoiceJudge().judge(rf"\boxed{{{text}}}", "C")
    assert verdict.outcome == "wrong"
    assert verdict.answer is None


REJECTED = r"""
    (C) is not correct; C. incorrect; (C) cannot be right; C) ruled out; (C) isn't right; (C) is clearly false
    C: not the answer; (C) can't be the answer; (C) should be eliminated; (C) does not work; C. Wrong!
    C) that is incorrect; (C) has been ruled out; C. incorrect because mass is conserved; (C) is false, since it melts
    (C) must be invalid; (C) ✗; (C) ?; (C) \times
"""
OWN_TEXT = r"""
    C. It does not change; C. cannot be determined; C. is not affected by heat; C. No; C. False; (C) is correct
    C. incorrectly folded protein; C) Incorrect pairing of bases; C. out of phase; C. rejected by the cell wall
    C. The answer depends on x; C. fails to start; C. wrong-way round; C. It is impossible to tell
    C. vitamins A, B; C. Types A, B and D; C. All of A and B; C \rightarrow 5; C \to 5; C -> 5; C → five
"""
TWO_LETTERS = r"""
    A \rightarrow B; A \to B \to C; A \rightarrow C is right; C. or maybe A, B; C. I think A, B; C. options A, B; C. A, B
    C. maybe types A, B; (C) Both (A) and (B); C. not A, B; D. types A, B or (C)
"""


def phrases(text: str) -> list[str]:
    return [phrase.strip() for line in text.strip().splitlines() for phrase in line.split(";")]


@pytest.mark.parametrize("text", phrases(REJECTED))
def test_a_letter_that_is_rejected_is_no_choice(text: str) -> None:
    assert letter(text) is None
    assert letter(rf"\text{{{text}}}") is None


@pytest.mark.parametrize("text", phrases(OWN_TEXT))
def test_the_text_of_an_option_may_have_a_negation_or_other_letters(text: str) -> None:
    assert letter(text) == "C"


@pytest.mark.parametrize("text", phrases(TWO_LETTERS))
def test_a_second_letter_beside_the_text_of_an_option_is_no_choice(text: str) -> None:
    assert letter(text) is None


@pytest.mark.parametrize("gold", ["C", "(C)", "c", r"\boxed{C}", r"\text{C}", "C."])
def test_a_gold_answer_may_be_wrapped(gold: str) -> None:
    judge = ChoiceJudge()
    judge.check(gold)
    assert judge.judge(r"So \boxed{C}.", gold) == Verdict(outcome="right", answer="C", reason="letter")
    assert judge.judge(r"So \boxed{D}.", gold) == Verdict(outcome="wrong", answer="D", reason="letter")


@pytest.mark.parametrize("gold", ["", "E", "AB", "204", "A or B", "Carbon"])
def test_a_gold_answer_that_is_no_letter_is_refused(gold: str) -> None:
    with pytest.raises(DataError, match="letters A to D"):
        ChoiceJudge().check(gold)


def test_only_the_last_box_of_the_last_turn_counts() -> None:
    judge = ChoiceJudge()
    assert judge.judge(r"\boxed{A}? No: \boxed{C}", "C").outcome == "right"
    assert judge.judge(r"<think>\boxed{C}</think> It is C.", "C") == Verdict(outcome="wrong", reason="no answer")
    assert judge.judge(r"<tool_response>\boxed{C}</tool_response>", "C") == Verdict(outcome="wrong", reason="no answer")


def test_the_clear_hand_judged_cases_are_judged_alike() -> None:
    clear = clear_cases(choice=True)
    assert len(clear) > 15
    missed = missed_cases(ChoiceJudge().judge, clear)
    assert len(missed) <= 0.02 * len(clear), missed


def test_answers_judged_by_hand_before_any_judge_saw_them() -> None:
    assert missed_answers(ChoiceJudge().judge, "choice", lambda answer: rf"\boxed{{{answer}}}") == []


def test_public_golds_are_accepted() -> None:
    with shared("data/train_science_sciknoweval.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            ChoiceJudge().check(row["answer"])


def test_a_judge_is_asynchronous() -> None:
    async def one(judge: Judge) -> Verdict:
        return await judge(r"\boxed{(B)}", "B")

    assert asyncio.run(one(ChoiceJudge())).outcome == "right"
