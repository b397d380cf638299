"""Which golds a right answer can equal, and which are texts around one."""

import json

import pytest
from judging import REFEREE
from reference import shared

from sod.config import RewardOptions
from sod.datasets.golds import canonical
from sod.errors import DataError
from sod.rewards import Verdict
from sod.rewards.golds import worked
from sod.rewards.kinds import check_gold, prove_gold
from sod.rewards.math import decide
from sod.rewards.referee import Referee
from sod.types import Problem

SOLUTION = "Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\nShe makes 9 * 2 = $<<9*2=18>>18.\n#### 18"
PROSE = "We add the two numbers first. Then we take off what was lost, and it is done"


@pytest.mark.parametrize(
    "gold",
    [
        *[
            "4",
            "-17",
            "018",
            "1,002",
            "18.0",
            "1e-05",
            "４",
            " 4 \n",
            "$18",
            "18 dollars",
            r"50\%",
            "12:30",
            "4 p.m. Tuesday",
        ],
        *[r"\frac12", r"\frac{1}{1+\sqrt2}", r"\cot x", "x=4", "y = 2x + 3", "x^2+y^2=5", "[1, 2]", "(1,2]", "1, 2, 3"],
        *[
            "\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}",
            r"\text{Evelyn}",
            r"\text{None}",
            "undefined",
            r"\boxed{7}",
            r"$\boxed{7}$",
        ],
        *["The answer is 4.", "Answer: 18", r"So x is \boxed{18}.", "St. Louis", "U.S. dollars", "9" * 70, "2+2=4"],
        "all primes that are congruent to 1 modulo 4 and smaller than the square of n",
    ],
)
def test_a_gold_that_a_right_answer_can_equal_passes(gold: str) -> None:
    check_gold("math", gold)


@pytest.mark.parametrize(
    ("gold", "words"),
    [
        *((gold, "is a date or a number with hyphens") for gold in ("2024-01-05", "5/1/2024", "5.1.2024", "555-1234")),
        *((gold, "is a date or a number with hyphens") for gold in ("+1-212-555-1234", "978-0-306-40615-7")),
        *(
            (gold, "has a decimal comma")
            for gold in ("1.234,56", "1 234,5", "12,50 €", "3,5 kg", "1.234.567", "1'234.50")
        ),
    ],
)
def test_a_gold_that_would_be_computed_with_another_meaning_is_refused(gold: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        check_gold("math", gold)
    check_gold("text", gold)


@pytest.mark.parametrize(
    ("gold", "what"),
    [
        *((gold, "a question") for gold in ("What is 2+2?", "2+2 是 多少？", "How many\nare there?")),
        *(
            (gold, "a program")
            for gold in ("def f(x): return x", "```python\nprint(4)\n```", "import os\nprint(4)", "print(4)")
        ),
        *((gold, "an object") for gold in ('{"value": 4}', "{'value': 4}")),
        *((gold, "a text with markup") for gold in ("<answer>4</answer>", "4<br>", "4&nbsp;", "about `` ```4``` ``")),
        *((gold, "a refusal or an error") for gold in ("I cannot answer that.", "Sorry, no.", "ValueError: timed out")),
        ("https://example.com/4", "an address"),
    ],
)
def test_a_gold_that_is_something_else_is_refused(gold: str, what: str) -> None:
    with pytest.raises(DataError, match=f"is {what}"):
        check_gold("math", gold)


@pytest.mark.parametrize(
    "gold", ["####", "#", "???", "—", "()", "NA", "#N/A", "n.a.", "Answer:", "see figure", "Answers may vary", "xxx"]
)
def test_a_gold_that_stands_for_nothing_is_refused(gold: str) -> None:
    with pytest.raises(DataError, match="an empty cell or a placeholder"):
        check_gold("math", gold)


@pytest.mark.parametrize(
    "gold", ["XXX", "na", r"a<b>c", "1,2i", "2,3x", "3,5", "import tax", r"\text{error}", "x^{*}", "<", "(0)"]
)
def test_a_short_gold_with_a_meaning_passes(gold: str) -> None:
    check_gold("math", gold)


@pytest.mark.parametrize(
    "gold", ["12-34", "10-20", "1/2", "7/24", "1.234", "1,234.5", "3,14", "2024-1", "1/2/3", "2-3-4"]
)
def test_an_expression_is_no_date(gold: str) -> None:
    check_gold("math", gold)


@pytest.mark.parametrize(
    ("gold", "words"),
    [
        (SOLUTION, "a text with the answer '18'"),
        ("#### 4", "a text with the answer '4'"),
        ("It is two and two, thus #### 4", "a text with the answer '4'"),
        (r"By $a=b$ and $c=d$ we have $a+c=\boxed{b+d}$, which was to be shown.", "a text with the answer 'b\\+d'"),
        ("x=1\ny=2", "several lines"),
        ("First we add.\r\nThen it is 4", "several lines"),
        ("2 and <<1+1=2>>2", "several lines"),
        (PROSE, "several sentences"),
        ("### 4", "a text with the answer '4'"),
        ("####4", "a text with the answer '4'"),
        ("So she has 18 eggs left over to sell.", "a sentence"),
        ("Therefore they need 18 more of them", "a sentence"),
        ('["4"]', "is a list"),
        ("['4', '5']", "is a list"),
        *((empty, "empty cell") for empty in ("nan", "NaN", "null", "<NA>", "[]")),
        *((word, "placeholder") for word in ("proof", "notfound", "None", "N/A", "-", "?", "unknown", "See solution")),
        (r"\frac{1}{2", "wrong according to its own judge"),
        (" . ", "is empty"),
    ],
)
def test_a_gold_that_is_a_text_around_its_answer_is_refused(gold: str, words: str) -> None:
    with pytest.raises(DataError, match=rf"no judge can use its answer: .*{words}"):
        check_gold("math", gold)


def test_a_text_around_an_answer_is_taken_apart() -> None:
    assert worked(SOLUTION)[1] == "18"
    assert "<<" not in worked(SOLUTION)[0]
    assert worked("18") == ("18", None)
    assert worked("x=18")[1] is None
    assert worked("Final Answer: The final answer is $4$. I hope it is correct.")[1] == "$4$"


def test_problems_that_cannot_be_judged_are_counted_and_the_first_is_shown() -> None:
    problems = [Problem(id=f"p{i}", messages=(), answer=gold) for i, gold in enumerate(["1", "#### 2", "3", "#### 4"])]
    with pytest.raises(
        DataError, match=r"^2 of 4 problems .* Problem 'p1' cannot be judged: .*`sod data convert FILE`"
    ):
        REFEREE.check(problems)


def test_the_reference_refuses_texts_too() -> None:
    problems = [Problem(id="p", messages=(), answer=SOLUTION)]
    referee = Referee(REFEREE._sandbox, RewardOptions(judge="reference"), max_tokens=1)
    with pytest.raises(DataError, match="with the answer '18'"):
        referee.check(problems)


def test_the_number_of_options_bounds_the_letters() -> None:
    check_gold("choice", "J", 10)
    for gold, options in (("J", 9), ("C", 2), ("E", 4)):
        with pytest.raises(DataError, match="not one of the letters A to"):
            check_gold("choice", gold, options)


def test_all_public_golds_pass() -> None:
    for name in ("math500", "aime2024", "aime2025"):
        for line in shared(f"data/{name}.jsonl").read_text(encoding="utf-8").splitlines():
            check_gold("math", str(json.loads(line)["answer"]))


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("\frac{1}{2}", r"\frac12"),
        ("1+\tan 2", r"1+\tan 2"),
        ("2\rho", r"2\rho"),
        ("\theta", r"\theta"),
        ("\text{yes}", "yes"),
        ("\tfrac12", "0.5"),
        ("\begin{pmatrix}1\\\\2\\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ],
)
def test_a_command_that_lost_its_backslash_in_json_is_read(gold: str, answer: str) -> None:
    assert any(ord(character) < 32 for character in gold)
    prove_gold("math", gold)
    verdict = decide(rf"\boxed{{{answer}}}", gold)
    assert isinstance(verdict, Verdict)
    assert verdict.is_right
    assert canonical("math", gold).startswith("\\") or gold[0].isdigit()


@pytest.mark.parametrize("gold", ["x\ty", "\x07lpha", "1\x002"])
def test_other_control_characters_in_a_gold_are_refused(gold: str) -> None:
    with pytest.raises(DataError, match="has the control character"):
        prove_gold("math", gold)


def test_layout_is_no_control_character() -> None:
    prove_gold("math", "\\begin{pmatrix}1&\t2\\\\\r\n3&4\\end{pmatrix}\r\n")


def test_braces_that_may_be_a_set_or_thousands_are_refused() -> None:
    with pytest.raises(DataError, match="may be a set"):
        prove_gold("math", "{1,100}")
    prove_gold("math", r"\{1,100\}")
    prove_gold("math", "{1,2}")
