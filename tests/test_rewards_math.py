"""Mathematics: which box counts, and when two answers are the same."""

import asyncio
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hand_judged import CASES, GOLDEN, clear_cases, missed_answers, missed_cases
from reference import shared

from sod.errors import DataError
from sod.rewards import Judge, Verdict
from sod.rewards.answers import final_answer, final_turn, last_box, tidy
from sod.rewards.math import MathJudge, Question, decide
from sod.rewards.symbolic import Symbolic


@pytest.fixture(scope="module")
def judge() -> Iterator[MathJudge]:
    judge = MathJudge(Symbolic(limit_s=30))  # these tests are about verdicts, not about time
    yield judge
    judge.close()


def boxed(answer: str) -> str:
    return rf"Therefore, the answer is $\boxed{{{answer}}}$."


def key(answer: str) -> str | None:
    """How an answer is counted as a vote."""
    verdict = decide(boxed(answer), "17")
    assert isinstance(verdict, Verdict)
    return verdict.answer


# Which turn


@pytest.mark.parametrize(
    ("text", "turn"),
    [
        ("It is 2.", "It is 2."),
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("a</think>", ""),
        ("a<tool_call>b</tool_call>", "a"),
        ("a<tool_call>b</tool_call>c", "ac"),
        ("a<tool_call>b", "a"),
        ("a<tool_call>b</tool_call>user\n<tool_response>c</tool_response>", ""),
        ("a<tool_call>b</tool_call><tool_response>c</tool_response>d", "d"),
        ("a<tool_response>c", ""),
        ("<think>a", ""),
        ("a<think>b", "a"),
        ("<think>a<think>b</think>c", "c"),
        ("a<tool_call>print('<think>')</tool_call>b", "ab"),
        ("a<tool_response><think></tool_response>b", "b"),
        ("<think>I may <tool_call> later</think>b", "b"),
        ("a<tool_call>print('</think>')</tool_call>", "')</tool_call>"),
        ("<think>I may <tool_call>{}</tool_call> b", ""),
        ("No <tool_call> here: b", "No <tool_call> here: b"),
        ('a<tool_call>{"name": "</tool_call>b"}</tool_call>c', "ac"),
        ("<|im_start|>user\na<|im_start|>assistant\nb", "assistant\nb"),
        ("", ""),
    ],
)
def test_only_the_words_of_the_last_turn_are_left(text: str, turn: str) -> None:
    assert final_turn(text) == turn


@pytest.mark.parametrize(
    "text",
    [
        r"<think>\boxed{2}</think> It is 2.",
        r"\boxed{2}</think>",
        r'<tool_call>{"arguments": {"code": "print(\'\boxed{2}\')"}}</tool_call>',
        r"<tool_call>x</tool_call><tool_response>\boxed{2}</tool_response>",
        r"\boxed{2}<tool_call>x</tool_call><tool_response>3</tool_response>",
        r"\boxed{2}<tool_call>x</tool_call><tool_response>3</tool_response> It is 2.",
        r"It is \boxed{}.",
        r"It is \boxed{ }.",
        "It is 2.",
        "",
    ],
)
def test_there_is_no_answer_without_a_box_in_the_last_turn(text: str) -> None:
    assert final_answer(text) is None
    assert decide(text, "2") == Verdict(outcome="wrong", reason="no answer")


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
        (r"\boxed{1 \\}", r"1 \\"),
        (r"\boxed{12} no, \boxed{204}", "204"),
        (r"\boxed{12} no, \fbox{204}", "204"),
        (r"\boxed{1}\boxed{2}\boxed{3}", "3"),
        (r"\boxed{\boxed{204}}", r"\boxed{204}"),
        (r"\boxed{\boxed{1}, \boxed{2}}", r"\boxed{1}, \boxed{2}"),
        (r"\boxed{ oh, \boxed{204}", "204"),
        ("\\boxed{1\n+\n1}", "1\n+\n1"),
        (r"\boxed{204} Put it into \boxed.", "204"),
        (r"\boxed{}", ""),
        (r"\boxed 204", "204"),
        (r"$\boxed 204$.", "204"),
        (r"\boxed C", "C"),
        (r"\\boxed{204}", "204"),
        (r"\\boxed{\\frac{1}{2}}", r"\frac{1}{2}"),
        (r"1 \\\boxed{a \\ b}", r"a \\ b"),
        ("\boxed{204}", "204"),
        (r"\boxed{12} and \boxed{204", None),
        (r"\boxed{204", None),
        (r"\boxed{20{4}", None),
        (r"\boxed{204\}", None),
        (r"\boxed x+1", None),
        (r"boxed{204}", None),
        (r"\boxedtext{204}", None),
        ("the answer is 204", None),
        ("", None),
    ],
)
def test_the_last_box_holds_the_answer_if_it_is_closed(text: str, inside: str | None) -> None:
    assert last_box(text) == inside


def test_a_box_counts_however_far_before_the_end_it_is() -> None:
    assert final_answer(r"\boxed{204}" + " I am sure." * 20_000) == "204"


# What an answer is


@pytest.mark.parametrize(
    ("canonical", "ways"),
    [
        (
            "204",
            ["204", " 204\n", "0204", "204.", "204.0", "+204", "x=204", "m+n = 200+4 = 204", r"\text{204}", "$204$"],
        ),
        (
            "204",
            ["'204'", '"204"', "$'204'$", r"\textbf{204}.", r"204\text{ cm}", r"204^\circ", r"\boxed{204}", "２０４"],
        ),
        ("204", [r"\displaystyle 204", r"204 \pmod{1000}", r"\frac{408}{2}", r"2\cdot 102", r"\approx 204", "\x00204"]),
        ("1000", ["1000", "1,000", r"1\,000", "1{,}000", "1 000", r"1,\!000", "10^3", "1e3", r"1.0 \times 10^{3}"]),
        ("-1234567", ["-1234567", "-1,234,567", "−1 234 567"]),
        ("0", ["0", "-0", "000", "0.0"]),
        ("1/2", [r"\frac12", r"\frac{1}{2}", r"\dfrac{1}{2}", "1/2", "0.5", ".50", "½", r"50\%", r"\frac{-1}{-2}"]),
        ("14/3", [r"\frac{14}{3}", r"4\frac{2}{3}", "4 2/3", r"4.\overline{6}"]),
        ("11*2^(1/2)", [r"11\sqrt{2}", r"11\sqrt2", "11√2", r"\sqrt{242}", r"\frac{22}{\sqrt 2}", "11*sqrt(2)"]),
        ("1/6*pi", [r"\frac{\pi}{6}", r"\pi/6", "π/6", r"\frac16\pi"]),
        ("3 + 4*i", ["3+4i", "4i+3", r"3 + 4\mathrm{i}"]),
        ("1 + 2*x + 3*x^2", ["3x^2+2x+1", "1+2x+3x^2", "f(x)=3x^2+2x+1", "3x² + 2x + 1", "3*x**2 + 2*x + 1"]),
        ("(3, 1/2*pi)", [r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)", r"(r,\theta) = (3, \frac{\pi}{2})"]),
        ("{-2, 1}", ["1,-2", "-2, 1", r"\{1, -2\}", r"1 \text{ and } -2", r"x = 1 \text{ or } x = -2", "1; -2"]),
        ("{-oo, 2}", [r"2, -\infty"]),
        ("[0, 1)", ["[0,1)", r"\left[0, 1\right)", r"x \in [0,1)", r"0 \le x < 1", "1 > x >= 0"]),
        (
            "{(-oo, 2), (3, oo)}",
            [r"(-\infty, 2) \cup (3, \infty)", r"x<2 \text{ or } x>3", r"(3,\infty)\cup(-\infty,2)"],
        ),
        ("{1 + 19^(1/2), 1 - 19^(1/2)}", [r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"]),
        ("2220_5", ["2220_5", "2220_{5}", r"2220_{\text{five}}", "(2220)_5"]),
        ("evelyn", [r"\text{Evelyn}", "Evelyn", r"\textbf{evelyn.}"]),
        ("{}", [r"\emptyset", r"\varnothing", r"\{\}", "∅"]),
        ("C", [r"\text{(C)}", "(C)", "C", r"\mathrm{C}"]),
    ],
)
def test_equal_answers_have_one_canonical_form(canonical: str, ways: list[str]) -> None:
    assert {way: key(way) for way in ways} == dict.fromkeys(ways, canonical)


RIGHT = [
    ("5", r"5\text{ m/s}"),
    ("5", "5 = x"),
    ("12", r"12\ \mathrm{cm}"),
    ("12", r"12\,\text{cm}^3"),
    ("12", "twelve"),
    ("9.8", r"9.8\ \text{m/s}^2"),
    ("15", "15 square units"),
    ("15", r"15\text{ square units}"),
    ("60", r"60\text{ miles per hour}"),
    ("18.90", r"\$18.90"),
    (r"\$18.90", "18.9"),
    (r"\$32,\!348", "32,348"),
    (r"\$32,\!348", r"\$32348"),
    (r"5.4 \text{ cents}", "5.4"),
    ("3", "x^2 = 3"),
    ("204", r"204^\circ"),
    ("204", "**204**"),
    ("204", r"\mathbf{204}"),
    ("204", r"\text{The answer is }204"),
    ("204", r"204 \text{ (mod 1000)}"),
    ("204", r"N \equiv 204 \pmod{1000}"),
    ("204", r"204\pmod{1000}"),
    ("204", r"\(204\)"),
    ("204", r"\sqrt{41616} = 204"),
    ("204", r"x = 204 \text{ cm}"),
    ("204", r"204 \approx 204.3"),
    ("204", r"\$204"),
    ("204", "Answer: 204"),
    ("204", "204 apples"),
    ("204", r"204\times 1"),
    ("204", "0204"),
    ("204", r"204 = 4 \cdot 51"),
    ("204", r"\mathrm{204}"),
    ("204", r"\large 204"),
    ("204", r"\color{red}{204}"),
    ("204", r"\textcolor{blue}{204}"),
    ("204", r"\underline{204}"),
    ("204", r"204 \checkmark"),
    ("204", r"204\;"),
    ("204", r"\ 204\ "),
    ("204", "204~"),
    ("204", "{204}"),
    ("204", r"204\text{.}"),
    ("204", "204.00"),
    ("204", "N=204"),
    ("204", r"\text{N} = 204"),
    ("204", r"\angle ABC = 204^\circ"),
    ("204", "|AB| = 204"),
    ("204", r"\sum a_i = 204"),
    ("204", "f(2) = 204"),
    ("204", "a_{10} = 204"),
    ("204", r"\overline{AB} = 204"),
    ("204", "p+q+r=204"),
    ("204", r"\frac{m}{n}=\frac{200}{4} \Rightarrow m+n=204"),
    ("204", r"\frac{200}{4} \to 204"),
    ("204", "200 + 4"),
    ("204", "200+4=204"),
    ("204", r"204 \quad"),
    ("204", r"204 \text{ sq. units}"),
    ("204", r"204\ \mathrm{cm^2}"),
    ("204", r"204\,\text{units}^2"),
    ("204", r"\text{There are } 204 \text{ ways}"),
    ("204", r"\text{204 ways}"),
    ("204", "204 ways"),
    ("204", r"\text{Total: }204"),
    ("204", r"204\sqrt{1}"),
    ("204", "204^1"),
    ("204", "0204.0"),
    ("204", "$204"),
    ("20", r"20\text{ minutes}"),
    (r"25\%", "25"),
    (r"25\%", r"\frac14"),
    ("0.25", r"25\%"),
    ("3000000", r"3\text{ million}"),
    ("24", r"2\text{ dozen}"),
    ("1000000", "10^6"),
    ("1000000", "10^{6}"),
    ("600000", r"6 \times 10^5"),
    ("600000", r"6.0\times 10^{5}"),
    ("600000", "6e5"),
    ("0.00015", r"1.5 \times 10^{-4}"),
    (r"\frac{7}{2}", r"3\frac12"),
    (r"\frac{7}{2}", "3 1/2"),
    (r"\frac{7}{2}", "3.5"),
    (r"\frac{1}{3}", r"0.\overline{3}"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"-\frac{1}{2}", r"\frac{1}{-2}"),
    (r"-\frac12", "-.5"),
    ("½", r"\frac{1}{2}"),
    (r"\frac{9}{2}", "4½"),
    ("16", "2^4"),
    ("120", "5!"),
    ("10", r"\binom{5}{2}"),
    ("6", r"\sqrt{36}"),
    ("1234567", "1,234,567"),
    ("1234567", "1 234 567"),
    ("[0,1)", r"0 \le x < 1"),
    ("[0,1)", r"\left[0, 1\right)"),
    ("[0,1)", r"\{x \mid 0 \le x < 1\}"),
    ("[0,1)", "0 ≤ x < 1"),
    (r"(3,\infty)", "x > 3"),
    (r"(3,\infty)", r"(3,+\infty)"),
    ("x > 3", r"(3,\infty)"),
    (r"x \le 3", r"(-\infty, 3]"),
    (r"(-\infty,3)\cup(3,\infty)", r"x \ne 3"),
    ("(2,3)", r"x>2 \text{ and } x<3"),
    ("(1,2,3)", r"\langle 1,2,3\rangle"),
    ("(1,2)", "(x, y) = (1, 2)"),
    ("2,-2", r"\pm 2"),
    (r"\pm 2", r"x = 2 \text{ or } x = -2"),
    ("3,-4", "x=3, x=-4"),
    ("3,-4", "x_1 = 3, x_2 = -4"),
    (r"\frac{1 \pm \sqrt{5}}{2}", r"\frac{1+\sqrt5}{2}, \frac{1-\sqrt5}{2}"),
    (r"\emptyset", r"\{\}"),
    (r"\emptyset", r"\varnothing"),
    (r"(\frac{1}{2},\sqrt2)", r"\left(0.5, \sqrt{2}\right)"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
    (r"\begin{pmatrix} 1/2 \\ 2 \end{pmatrix}", r"\begin{pmatrix} \frac12 \\ 2 \end{pmatrix}"),
    (r"\text{Monday}", "monday"),
    (r"\text{Monday}", r"\textbf{Monday}"),
    (r"\text{no}", "No"),
    (r"\text{(C)}", "C"),
    (r"\text{(C)}", r"\text{C}"),
    (r"\text{(C)}", "(C)"),
    (r"\text{(C)}", r"\text{(C) } 5"),
    (r"\text{ellipse}", r"\text{an ellipse}"),
    (r"\text{ellipse}", r"\text{Ellipse.}"),
    ("No solution", r"\text{no solution}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("x^2+2x+1", "1+x^2+2x"),
    ("2xy", "2yx"),
    (r"\frac{x+1}{2}", r"\frac12 x + \frac12"),
    (r"\frac{x+1}{x-1}", r"\frac{-x-1}{1-x}"),
    (r"\frac{x+1}{x-1}", r"1+\frac{2}{x-1}"),
    (r"6\sqrt3", r"\sqrt{108}"),
    (r"6\sqrt3", "6*sqrt(3)"),
    (r"6\sqrt3", r"\frac{18}{\sqrt3}"),
    (r"\frac{\pi}{6}", r"\pi/6"),
    (r"\frac{\pi}{6}", "pi/6"),
    (r"\frac{\pi}{6}", r"30^\circ"),
    (r"\sqrt[3]{2}", "2^{1/3}"),
    (r"\sqrt[3]{16}", r"2\sqrt[3]{2}"),
    ("e^2", "e^{2}"),
    (r"\ln 2", r"\ln(2)"),
    (r"\ln 8", r"3\ln 2"),
    (r"\frac{1}{1+\sqrt2}", r"\sqrt2-1"),
    (r"\log_2 5", r"\frac{\ln 5}{\ln 2}"),
    ("y=2x+3", "f(x) = 2x+3"),
    ("y=2x+3", "y-2x=3"),
    ("f(x)=2x+3", "2x+3"),
    ("f(x)=2x+3", "y=2x+3"),
    ("x^2+y^2=25", "y^2+x^2-25=0"),
    ("x=5", "5"),
    ("2220_5", r"2220_{\text{five}}"),
    ("2220_5", "2220"),
    ("2220_5", "(2220)_5"),
    (r"\frac{1}{2}", r"\sin 30^\circ"),
    (r"\frac{\sqrt3}{2}", r"\cos(30^\circ)"),
    (r"\frac{\sqrt3}{2}", r"\cos\frac{\pi}{6}"),
    (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"),
    (r"\frac{6}{\sqrt3-1}", r"3\sqrt3+3"),
    (r"A=\pi", r"\pi"),
    (r"\pi", r"A = 2\cdot\frac{\pi}{2} = \pi"),
    (r"\{-3,3\}", r"x=\pm3"),
    (r"\{1\pm\sqrt{5},-2\}", r"-2, 1+\sqrt5, 1-\sqrt5"),
    (r"(-\infty,2)\cup(3,\infty)", "(-∞,2)∪(3,∞)"),
    (r"(-\infty,2)\cup(3,\infty)", "x < 2 or x > 3"),
    (r"(-\infty,2)\cup(3,\infty)", r"\{x : x<2 \text{ or } x>3\}"),
    (r"(-\infty,2)\cup(3,\infty)", r"(-\infty,2) \text{ and } (3,\infty)"),
    ("42", r"\textbf{42}"),
    ("42", r"42 \text{ dollars}"),
    ("42", "42 USD"),
    ("42", r"\text{42 cm}"),
    ("42", "~42"),
    ("42", r"42\,\mathrm{m}"),
    ("42", r"42\mathrm{m}"),
    ("42", r"42 \text{ m}^{2}"),
    ("42", r"42 \mathrm{~m} / \mathrm{s}"),
    ("42", r"42\ \text{m}\cdot\text{s}^{-1}"),
    ("42", "+42"),
    ("42", "(42)"),
    ("42", "[42]"),
    ("42", r"\{42\}"),
    ("42", r"\frac{84}2"),
    ("42", "42.00"),
    ("42", "41+1"),
    ("42", r"42 \mod 100"),
    ("42", r"\text{Answer: }42"),
    ("42", "a+b+c=42"),
    ("2^{10}", "1024"),
    ("1024", "2^{10}"),
    ("2^{n}", "2^n"),
    ("2^{n+1}", r"2\cdot2^n"),
    ("n!", "n!"),
    ("n(n+1)", "n^2+n"),
    (r"\frac{n(n+1)}{2}", r"\binom{n+1}{2}"),
    ("(x-1)(x+2)", "x^2+x-2"),
    ("x^{2}-y^{2}", "(x-y)(x+y)"),
    (r"\frac{x^2-1}{x-1}", "x+1"),
    ("a^2+b^2", "b^2 + a^2"),
    (r"\sin x", r"\sin(x)"),
    ("e^{2x}", "(e^x)^2"),
    (r"\sqrt{x^2}", "|x|"),
    (r"y=\frac12x+3", "2y = x+6"),
    (r"y=\frac12x+3", "x - 2y + 6 = 0"),
    (r"y=\frac12x+3", r"y = \frac{x}{2}+3"),
    (r"y=\sin x", r"f(x)=\sin x"),
    (r"y=\sin x", r"\sin(x)"),
    ("3:2", "3:2"),
    ("3:2", "3 : 2"),
    (r"\text{AB}", "AB"),
    (r"\overline{AB}", r"\overline{AB}"),
    (r"\$5", "5 dollars"),
    (r"100\%", "100"),
    (r"33\frac{1}{3}\%", r"\frac{1}{3}"),
    ("1.5", r"1\frac12"),
    ("1.50", "1.5"),
    ("0.1", r"\frac{1}{10}"),
    ("3.14", "3.140"),
    ("10^{-8}", r"1\times10^{-8}"),
    ("10^{-8}", "1e-8"),
    (r"6.02 \times 10^{23}", "6.02e23"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1,2)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{bmatrix}1\\ 2\end{bmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\langle 1,2\rangle"),
    (r"\infty", "∞"),
    (r"\infty", r"\text{infinity}"),
    (r"-\infty", "-∞"),
    (r"\frac{3}{5}+\frac{4}{5}i", r"\frac{3+4i}{5}"),
    (r"\text{neither}", r"\text{Neither}"),
    ("0", r"\frac{0}{5}"),
    ("0", r"0\text{ solutions}"),
    ("1/3", r"\frac{1}{3}"),
    (r"\text{Area} = 5", "5.0"),
    (r"\text{Area} = 5", "A = 5"),
    ("(x,y)=(1,2)", "(1,2)"),
    ("x+y=1", "y=1-x"),
    ("y=2x", "f(x)=2x"),
    (r"12\text{ cm}", r"12\text{ centimeters}"),
    ("f^{-1}(x)=x-1", "x-1"),
    ("-5", r"\text{-}5"),
    ("-5", r"-\,5"),
    ("-5", r"\left(-5\right)"),
    ("007", "7"),
    ("2025", "45^2"),
    ("2025", "2{,}025"),
    (r"\frac{5\pi}{3}", r"\frac{5}{3}\pi"),
    (r"\frac{5\pi}{3}", r"300^\circ"),
    (r"300^\circ", "300"),
    (r"\frac{\sqrt{6}-\sqrt{2}}{4}", r"\frac{\sqrt2(\sqrt3-1)}{4}"),
    (r"\frac{\sqrt{6}-\sqrt{2}}{4}", r"\sin 15^\circ"),
    ("x^2-4", "(x-2)(x+2)"),
    ("x^2-4", "x^2 - 2^2"),
    ("(x-2)(x+2)", "(x+2)(x-2)"),
    ("2^{100}", "4^{50}"),
    (r"\frac{1}{x}", "x^{-1}"),
    (r"\frac{2x}{3y}", r"\frac{2}{3}\cdot\frac{x}{y}"),
    (r"\frac{x}{y+1}", "x/(y+1)"),
    (r"\log_{10} 2", r"\log 2"),
    (r"\frac{1}{2}\ln 3", r"\ln\sqrt3"),
    ("e^{-x}", r"\frac{1}{e^x}"),
    (r"\tan\theta", r"\frac{\sin\theta}{\cos\theta}"),
    (r"(0,1)\cup(1,2)", r"(0,2)\setminus\{1\}"),
    (r"[2,\infty)", r"x\geq2"),
    (r"[2,\infty)", r"[2,+\infty)"),
    (r"(-\infty,\infty)", r"\mathbb{R}"),
    (r"(-\infty,\infty)", r"\text{all real numbers}"),
    (r"\text{(A)}", r"\textbf{(A)}\ 5"),
    (r"\text{True}", "true"),
    (r"\text{June 20}", r"\text{June }20"),
    ("6:00", "6{:}00"),
    (r"\text{6:00 PM}", r"6:00\text{ PM}"),
    (r"\frac{3}{4}", r"75\%"),
    (r"\frac{3}{4}", "0.750"),
    (r"1.5\times10^{8}", "150000000"),
    (r"\{a,b\}", r"\{b,a\}"),
    (r"k=\pm 2", "k=2,-2"),
    ("a=3,b=4", "b=4,a=3"),
    ("y=x^2", "y-x^2=0"),
    ("y=x^2", "x^2"),
    (r"5\sqrt{2}\text{ cm}", r"5\sqrt{2}"),
    (r"5\sqrt{2}\text{ cm}", r"\sqrt{50}\text{ cm}"),
    ("204", "204_{10}"),
    ("1204", "x = 1,204"),
    ("70000", r"70,000\text{ dollars}"),
    (r"1200\pi", r"1,200\pi"),
    (r"\{1\pm\sqrt{5},-2\}", r"x = \{1\pm\sqrt{5},-2\}"),
    ("y=2x", r"\text{Answer: }y=2x"),
    ("(1,2)", "x = 1, y = 2"),
    ("42", "42\\\\"),
    ("42", "forty-two"),
    ("0.33", r"\frac13 = 0.33"),
    (r"30^\circ", r"\frac{\pi}{6} = 30^\circ"),
    ("24", r"1024 = 24 \pmod{1000}"),
    (r"\sqrt2", r"x = \sqrt2 \approx 1.414"),
    ("-1", r"x \equiv -1 \pmod 5"),
    ("5", r"\$\frac{10}{2}"),
    (r"25\%", r"\frac14 = 25\%"),
    ("1+2i", r"\frac{2+4i}{2} = 1+2i"),
    ("120", r"2\text{ h} = 120\text{ min}"),
    (r"70\%", "70"),
    (r"70\%", "0.7"),
    (r"70\%", r"70\%\text{ of students}"),
    (r"70\%\text{ of students}", "70"),
    (r"(10\%, 20\%)", "(10, 20)"),
    ("about 10", "10"),
    (r"\text{about }10", r"\text{about 10}"),
    (r"\text{BA}", r"\mathrm{BA}"),
    (r"$\text{BA}$", r"\text{The answer is }BA"),
    ("AB", "BA"),
    ("abc", r"a \cdot b \cdot c"),
    (r"a \cdot b \cdot c", "cab"),
]

WRONG = [
    ("12", "1,2"),
    ("204", "0,204"),
    ("1204", "(1,204)"),
    (r"5.4 \text{ cents}", r"5.4\text{ dollars}"),
    ("3", r"3\text{ or more}"),
    ("3", r"\text{at least }3"),
    ("3", r"\text{more than } 3"),
    ("3", r"3\text{ million}"),
    ("204", "two hundred four"),
    ("204", r"203.7 \approx 204"),
    ("204", "204 > 203"),
    ("204", r"\le 204"),
    ("204", r"204\ldots"),
    ("204", "204 x"),
    ("204", "204 y^2"),
    ("204", r"204\text{ and }204"),
    ("204", "204..."),
    ("204", "-204"),
    ("204", "|204|"),
    ("204", r"\text{not } 204"),
    ("204", "2 04"),
    ("204", r"\#204"),
    ("204", r"204\text{ or }-204"),
    ("204", r"2\,0\,4"),
    ("204", r"20\text{ and }4"),
    ("204", "(204, 0)"),
    ("204", r"204+\epsilon"),
    ("204", r"\lceil 203.5\rceil"),
    ("204", r"\min(204, 205)"),
    ("204", r"\neq 204"),
    ("204", r"204\text{ is wrong}"),
    ("204", "204?"),
    ("204", "204 - 1"),
    ("204", "204^{2}"),
    ("204", "204'"),
    ("204", r"\overline{204}"),
    ("204", r"1\,204"),
    ("204", r"\text{none of these}"),
    ("204", "20 4"),
    ("204", r"204,\!000"),
    ("25", r"25\%"),
    (r"\frac{7}{2}", r"3\cdot\frac12"),
    (r"\frac72", "7:2"),
    (r"\frac13", "0.333"),
    ("1200", "1.200"),
    (r"(3,\infty)", r"x \ge 3"),
    (r"\{1,2,3\}", r"\{1,2\}"),
    (r"\{1,2,3\}", "(1,2,3)"),
    ("(1,2,3)", "1,2,3"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "1,2"),
    ("2", r"\pm 2"),
    (r"\frac{1 \pm \sqrt{5}}{2}", r"\frac{1+\sqrt5}{2}"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix}1&3\\2&4\end{bmatrix}"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2&3&4\end{pmatrix}"),
    (r"\text{Monday}", "Tuesday"),
    (r"\text{even}", r"\text{not even}"),
    (r"\text{(C)}", "B"),
    (r"\text{(C)}", r"(B)\ 5"),
    ("x^2+2x+1", "x^2+2x-1"),
    (r"\frac{x+1}{x-1}", r"\frac{x-1}{x+1}"),
    (r"\frac{\pi}{6}", "0.5236"),
    (r"2\pi", "6.28"),
    (r"\ln 2", "0.693"),
    ("3+4i", "3-4i"),
    ("y=2x+3", "f(x)=2x"),
    ("x^2+y^2=25", "x^2+y^2=5"),
    ("x=5", "y=5"),
    (r"1+\sqrt{19}", r"1 \pm \sqrt{19}"),
    ("2220_5", "2220_6"),
    ("42", "42i"),
    ("42", "42e"),
    ("42", "4 2"),
    ("42", "42_{}"),
    ("42", "4{2}"),
    ("42", "0x2A"),
    ("42", "42/0"),
    ("42", "42+"),
    ("42", "42,0"),
    ("42", "42;43"),
    ("42", r"42\text{ or }42.5"),
    ("42", r"\text{between 41 and }42"),
    ("42", r"\lfloor 42.5 \rfloor"),
    ("42", r"42\text{ or so}"),
    ("42", r"\neg 42"),
    ("42", r"\text{none}"),
    ("42", "x = 42, y = 42"),
    (r"\sin x", r"\cos x"),
    ("|x|", "x"),
    (r"\sqrt{x^2}", "x"),
    ("3:2", "2:3"),
    (r"33\frac{1}{3}", "33.33"),
    ("3.14", "3.14159"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    ("i", "-i"),
    (r"\text{Thursday}", "Thurs."),
    ("0", r"\emptyset"),
    ("0", r"\infty-\infty"),
    (r"\sin x + y = 1", "1"),
    ("1", r"\frac{\infty}{\infty}"),
    ("x+y=1", "1"),
    ("y=2x", "2x, 3x"),
    (r"12\text{ cm}", r"12\text{ m}"),
    ("1000", "1.000"),
    ("1000", "10,00"),
    ("-5", "5"),
    ("2^{100}", "2^{99}"),
    ("204", "17 = 204"),
    (r"\frac{3}{8}", r"17 = \frac{3}{8}"),
    ("1+2i", "17 = 1+2i"),
    (r"106^\circ", r"17 = 106^\circ"),
    ("x=5", "x=17=5"),
    (r"2\sqrt5", r"2\sqrt5^T"),
    ("(2,4)", r"(2,4) \pmod 2"),
    ("(1,2)", r"(1,2) \approx 17.5"),
    ("2k", r"2k \approx 17.5"),
    (r"\pi", r"\pi \approx 31.4"),
    ("5", r"5 \pmod 2"),
    (r"\frac{3}{8}", r"\frac{3}{8} \pmod 2"),
    ("2k", r"2k \pmod 2"),
    ("12", r"12\text{ lower}"),
    ("12", r"\text{its square is }12"),
    ("12", r"\text{I doubt that the answer is }12"),
    (r"\frac{270}7\text{ degrees}", r"\$\frac{270}7"),
    (r"70\%", r"70^\circ"),
    (r"70\%", r"70\text{ kg}"),
    (r"70\%", r"0.7\text{ kg}"),
    (r"70\%", r"\$70"),
    (r"70\%", r"70 cm"),
    (r"70\%", r"70\text{ apples}"),
    (r"70\%", r"70^\circ\text{C}"),
    (r"70\%", r"7"),
    (r"70\%", r"700"),
    (r"(10\%, 20\%)", r"(10\text{ kg}, 20\text{ kg})"),
    ("10", r"\text{about 10}"),
    ("10", r"\text{roughly }10"),
    (r"\frac12", r"\text{approximately }\frac12"),
    ("about 10", "11"),
    (r"\text{BA}", r"\text{AB}"),
    (r"\text{BA}", "AB"),
    (r"\text{BA}", r"B \cdot A"),
    (r"\text{BA}", r"\text{BAA}"),
    (r"\mathrm{AB}", r"\mathrm{BA}"),
    ("abc", r"a \cdot b \cdot d"),
    ("abc", r"a \cdot b"),
    ("abc", "abd"),
    ("abc", r"a + b + c"),
]


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_the_same_answer_is_right_in_other_words(judge: MathJudge, gold: str, answer: str) -> None:
    assert judge.judge(boxed(answer), gold).outcome == "right"


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_another_answer_is_wrong(judge: MathJudge, gold: str, answer: str) -> None:
    assert judge.judge(boxed(answer), gold).outcome == "wrong"


EQUAL_TO_A_VALUE = {
    "AB=5": ["5", "AB = 5", "BA = 5", "5=AB", "AB=10/2=5", r"5\text{ cm}", "AB = 5.0"],
    r"AB=5\text{ cm}": ["5"],
    r"\angle BAC=60^\circ": [r"60^\circ", "60", r"\angle BAC = 60", r"\frac{\pi}{3}"],
    r"\frac{AE}{EC}=2": ["2"],
    "m+n=204": ["204", "n+m=204", "m=200, n=4, m+n=204"],
    "|S|=204": ["204"],
    r"\lvert S\rvert=204": ["204"],
    r"\cos A=\frac12": [r"\frac12", "0.5", r"\cos A=0.5"],
    r"S_{\triangle ABC}=12": ["12"],
    "f(1)+f(2)=5": ["5"],
    "x:y=2:3": ["2:3"],
    "AB:BC=2:3": ["2:3", "AB:BC=2:3"],
    r"x=\pm 2": ["2,-2", r"x=2 \text{ or } x=-2", r"\{2,-2\}", "x=2,-2", "x=-2, x=2", "x_1=-2, x_2=2", r"\pm 2"],
    r"k=\pm 2": ["k=2,-2"],
    r"x=\pm\sqrt3": [r"x=\sqrt3, x=-\sqrt3"],
    r"x=1\pm\frac{1}{1+\sqrt2}": [r"\sqrt2,2-\sqrt2"],
    "a+b=5": ["5"],
    "ab=6": ["6"],
    "a^2+b^2=25": ["25"],
    "xyz=6": ["xyz=6"],
    "AB^2=50": ["50"],
    "AB + BC = 7": ["7"],
    "x_1+x_2=3": ["3"],
    "x_1x_2=3": ["3"],
    r"\overrightarrow{AB}\cdot\overrightarrow{AC}=3": ["3"],
    r"|\vec{a}+\vec{b}|=\sqrt7": [r"\sqrt7"],
    "|z|=5": ["5"],
    r"\tan\alpha=2": ["2"],
    r"\sin(A+B)=\frac{\sqrt3}{2}": [r"\frac{\sqrt{3}}{2}"],
    r"\tan\alpha+\tan\beta=3": ["3"],
    "f(f(2))=5": ["5"],
    "f'(1)=3": ["3"],
    "P(A)=1/2": ["0.5"],
    "[ABC]=12": ["12"],
    r"\int_0^1 x\,dx=\frac12": ["1/2"],
    r"\lim_{x\to 0}\frac{\sin x}{x}=1": ["1"],
    r"\frac{x}{y}=2": ["2"],
    "x/y=2": ["2"],
    "a:b:c=1:2:3": ["1:2:3"],
    "100m+n=204": ["204"],
    r"\vec{a}=(1,2)": ["(1,2)"],
    "S_n=2": ["2"],
    "a_1+a_2=7": ["7"],
    "V_{ABCD}=8": ["8"],
    r"\angle A+\angle B=90^\circ": ["90"],
    "2^2=4": ["4"],
    r"\sqrt{16}=4": ["4", "x=4"],
    "x=5": ["5", "x=5.0", r"\text{The answer is }x=5", "x-5=0", r"x=5\text{ cm}", r"\text{x = 5}"],
    "k=-2": ["-2"],
    "y=2x+3": ["2x+3"],
    r"x=\frac{1}{1+\sqrt2}": [r"\sqrt2-1", r"x=\sqrt2-1"],
    r"x=70\%": ["70"],
    r"\sin 2\theta=\frac12": ["0.5"],
    r"\overline{AB}=5": ["5"],
    r"\max f = 3": ["3"],
    "AB=BC=5": ["5"],
    r"\log_2 5 = 3": [r"\log_2 5 = 3"],
    "PQ+QR=9": ["9"],
    "m=3": ["3"],
    r"m\angle ABC=40^\circ": ["40"],
    "42": ["x=42"],
    r"\frac{1}{2}": ["x=0.5"],
    r"P(A\cap B)=\frac{1}{6}": ["1/6"],
    r"\angle C = \frac{\pi}{3}": [r"60^\circ"],
    "a=3,b=4": ["(3,4)"],
    r"70\%": ["70.0"],
    r"x=2\text{ or }x=-2": ["2,-2"],
    r"\boxed{m+n=5}": ["5"],
    "a_{10}=19": ["19"],
    r"S=12\pi": [r"12\pi"],
    r"V=\frac{4}{3}\pi": [r"\frac{4\pi}{3}"],
    r"x=\log_2 3": [r"\log_2 3", r"x=\frac{\ln 3}{\ln 2}"],
    "f(x)=5": ["5"],
    "n=7": ["7"],
    r"\cos\theta=-\frac{1}{2}": ["-0.5"],
    r"|AB|=2\sqrt{3}": [r"2\sqrt3"],
    r"e=\frac{\sqrt{3}}{2}": [r"\frac{\sqrt3}{2}", r"e = \frac{\sqrt3}{2}"],
    "y=2": ["y=2", "f(x)=2"],
    r"k\in(0,1)": ["(0,1)"],
    r"x\equiv 1\pmod 4": ["1"],
    r"A=60^\circ": ["60"],
    r"\frac12": [r"e=\frac12"],
    "|a+b|=5": ["5"],
    r"|2\vec a - \vec b|=5": ["5"],
    r"|\overrightarrow{AB}|=5": ["5"],
}
"""Right answers by gold equation."""
NO_VALUE = {
    "AB=5": [
        "BC=5",
        "6",
        "-5",
        "AB=6",
        "5,6",
        r"5 \text{ or } 6",
        "2AB=5",
        "AB>5",
        "AB=4=5",
        r"\ge 5",
        "AB^2=5",
        r"AB\approx 5.01",
        "5x",
        "AB=5x",
        "AB=5, BC=6",
        r"\text{AB is not }5",
        r"\text{not }5",
        r"AB \ne 5",
        r"5\%",
        "55",
        "A=5",
    ],
    r"AB=5\text{ cm}": [r"5\text{ m}"],
    "m+n=204": ["m-n=204", "m=204", "n=204", "mn=204", "205", "2m+n=204", "m+n=205"],
    "|S|=204": ["|T|=204", "-204"],
    r"\cos A=\frac12": [r"\sin A=\frac12", r"60^\circ", r"A=60^\circ", r"\frac13", r"\cos B=\frac12"],
    "f(1)+f(2)=5": ["f(1)=5", "f(1)+f(3)=5"],
    "x:y=2:3": ["3:2", "y:x=2:3", "2", r"\frac23 x"],
    r"x=\pm 2": [
        "2",
        "-2",
        "2,-3",
        r"y=\pm 2",
        "x=2",
        "x=2, y=-2",
        "x=2,-2,3",
        "(2,-2)",
        "x>2, x=-2",
        "[-2,2]",
        "x^2=2,-2",
    ],
    "x^2+y^2=4": ["4", "2"],
    "x+y=1": ["1"],
    "xy=6": ["6"],
    "2x=10": ["10", "x=10"],
    "2a=10": ["10"],
    "a^2=3": ["3"],
    "x^2=3": ["3"],
    r"\log_2 x=3": ["3"],
    r"\sqrt{x}=3": ["3"],
    "|x|=3": ["3"],
    "|x-1|=3": ["3"],
    "|z-1|=2": ["2"],
    r"\frac{x^2}{4}+\frac{y^2}{9}=1": ["1"],
    r"\frac{x}{2}=3": ["3"],
    r"\rho\cos\theta=1": ["1"],
    r"r\cos\theta=1": ["1"],
    r"r=2\cos\theta": ["2"],
    "5x-7y+11z+4=0": ["0"],
    "y=2x+3": ["3"],
    "y=2x": ["2"],
    r"\sin x+y=1": ["1"],
    "3x+4y=5": ["5"],
    "x-y=3": ["3"],
    "z^2=3": ["3"],
    r"2\sin A=1": ["1"],
    "AB+5=7": ["7"],
    r"\frac{x}{a}+\frac{y}{b}=1": ["1"],
    "x+a=3": ["3"],
    r"\sqrt{16}=4": [r"\sqrt{9}=3"],
    "2^2=4": ["3"],
    "x=x": ["y=y"],
    "(a+b)^2=a^2+2ab+b^2": ["x=x"],
    "x=5": ["y=5", "x=17=5", "2x=5", "x=5,6", "x=5, y=5", r"x \ne 5", "x_1=5,x_2=6"],
    r"\angle BAC=60^\circ": [r"\angle ABC=60^\circ", r"60\text{ cm}", r"60\text{ radians}"],
    r"\overrightarrow{AB}\cdot\overrightarrow{AC}=3": ["-3"],
    r"\vec{a}=(1,2)": ["(2,1)"],
    r"\frac{AE}{EC}=2": [r"\frac{EC}{AE}=2", r"\frac12"],
    "x^2+y^2+z^2=1": ["1"],
    "r=2": ["3"],
    r"\frac{x}{y}=2": ["x=2"],
    r"y=\pm 2x": ["2"],
    r"x=70\%": [r"70\text{ kg}"],
    r"\tan\alpha=2": [r"\tan\beta=2"],
    "f(x)=x^2": ["2"],
    "y^2=4x": ["4"],
    "x=1+2t": ["1"],
    "x=-5": ["5"],
    "a=3,b=4": ["3"],
    "m+n=5": ["m=5", r"m+n \le 5", "m+n+1=5", "5=m"],
    "|z|=5": ["z=5", "|w|=5"],
    r"S=12\pi": ["12", "37.7"],
    r"\cos\theta=-\frac{1}{2}": [r"\frac12"],
    "9 (apples)": ["9 oranges"],
    r"k=\pm 2": ["4", "0"],
    r"x=k\pi": [r"x=\pi"],
    "a+b=5": ["a=2,b=4"],
    "xy+z=3": ["3"],
    "y=5x": ["5"],
    "AB=2x": ["2"],
    "AB=x": ["x=3"],
    "x+y+z=6": ["6"],
    "x^2-y^2=1": ["1"],
    r"\frac{y^2}{4}-x^2=1": ["1"],
    "u+v=3": ["3"],
    "s=2t": ["2"],
    "t^2=4": ["4"],
    "n^2=9": ["9"],
    "r^2=9": ["9"],
    "a^3=8": ["8"],
    "2^x=8": ["8"],
    "e^x=3": ["3"],
    r"\ln x=2": ["2"],
    r"\sin x=\frac12": [r"\frac12"],
    r"\tan x=1": ["1"],
    r"\sqrt{a}=3": ["3"],
    "3a=9": ["9"],
    "-a=9": ["9"],
    "a+1=9": ["9"],
    "n!=120": ["120"],
    r"\binom{n}{2}=10": ["10"],
    r"\lfloor x\rfloor=3": ["3"],
    "a^2-a=6": ["6"],
    "|a-2|=3": ["3"],
    "|a|+2=3": ["3"],
    "2|AB|=6": ["6"],
    "f(x)+f(y)=0": ["0"],
    "x_1=2x_2": ["2"],
    "x_1+1=3": ["3"],
    r"\frac{1}{a}=3": ["3"],
    r"\frac{3}{a}=3": ["3"],
    "A^2+A=6": ["6"],
    "A+1=6": ["6"],
    "2A=6": ["6"],
    "X+Y=6": ["7"],
    r"e=\frac12": [r"e=\frac13"],
    "|a+2|=5": ["5"],
    "e=2": ["i=2"],
    "AB+AB=6": ["6"],
}
"""Wrong answers by gold equation."""


def pairs_of(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(gold, answer) for gold, answers in table.items() for answer in answers]


@pytest.mark.parametrize(("gold", "answer"), pairs_of(EQUAL_TO_A_VALUE))
def test_the_value_of_a_quantity_is_right_with_or_without_its_name(judge: MathJudge, gold: str, answer: str) -> None:
    assert judge.judge(boxed(answer), gold).outcome == "right"


@pytest.mark.parametrize(("gold", "answer"), pairs_of(NO_VALUE))
def test_another_quantity_another_value_or_a_side_of_an_equation_is_wrong(
    judge: MathJudge, gold: str, answer: str
) -> None:
    assert judge.judge(boxed(answer), gold).outcome == "wrong"


OTHER_NOTATION = {
    "9 (apples)": ["9", r"9\text{ apples}"],
    "9": ["9 (apples)"],
    "15 (cm)": ["15"],
    "9 (red apples)": ["9"],
    "0.25": ["0.25 M", r"0.25\text{ M}"],
    "9.8": ["9.8 m/s^2", "9.8 m s^{-2}"],
    r"9.8\text{ m/s}^2": ["9.8 m/s^2"],
    r"3.0 \times 10^8": [r"3.0 \times 10^8 m/s"],
    "8.314": ["8.314 J/(mol K)"],
    "5": ["5 m^2", "5 m"],
    "10": ["10 kg", r"10 \Omega", "10 N/C", r"\text{ten dollars}"],
    "1.6": ["1.6 kg/m^3"],
    r"\lg 5": [r"\log_{10}5", r"\lg5"],
    r"\log_{10}5": [r"\lg 5"],
    "21": [r"\text{twenty-one apples}"],
    "24": [r"\text{two dozen eggs}"],
    r"\text{two circles}": [r"\text{two circles}", r"\text{Two circles}"],
    "200": [r"\text{two hundred people}"],
    r"\text{no solution}": [r"\text{No solutions}", r"\text{There are no solutions}", r"\text{No solution exists.}"],
    r"\text{No real solutions}": [r"\text{no real solution}"],
    r"x=k\pi": [r"x = k\pi, k \in \mathbb{Z}"],
    r"x = k\pi, k \in \mathbb{Z}": [r"x=k\pi", r"x=n\pi, n\in\mathbb Z", r"x = \pi k, k \in \mathbb{Z}"],
    r"x = \frac{\pi}{4}+k\pi, k \in \mathbb{Z}": [r"\frac{\pi}{4}+n\pi \quad (n\in\mathbb Z)"],
    r"x = k\pi (k \in Z)": [r"k\pi, \text{ where } k \in \mathbb{Z}"],
    "x=1,y=2": [r"\begin{cases} x=1 \\ y=2 \end{cases}"],
    r"\begin{cases} x=1 \\ y=2 \end{cases}": ["x=1,y=2", "(1,2)"],
    r"\left\{\begin{array}{l}x=1\\y=2\end{array}\right.": ["x=1,y=2"],
    r"\left\{\begin{aligned}x&=1\\y&=2\end{aligned}\right.": ["(1,2)"],
    r"\begin{cases} x=1, \\ y=2. \end{cases}": [r"\left\{\begin{array}{ll}x=1\\y=2\end{array}\right."],
    "(1,2)": [r"\begin{cases} x=1 \\ y=2 \end{cases}"],
    "B": [r"\text{Option B}", r"\text{The correct answer is (B)}", "Answer: B", "(B)"],
    r"(-2,-1)\cup(-1,\infty)": [r"x>-2, x\ne -1", r"x>-2 \text{ and } x\ne -1"],
    r"[-2,0)\cup(0,3]": [r"-2 \le x \le 3, x \ne 0"],
    r"x>-2, x\ne -1": [r"(-2,-1)\cup(-1,\infty)"],
    r"(-\infty,1)\cup(1,\infty)": [r"x \in \mathbb{R}, x \ne 1"],
    r"[0,1)\cup(1,\infty)": [r"x \ge 0 \text{ and } x \ne 1"],
    r"x\ge 0, x \ne 1": [r"x\ge 0, x \ne 1"],
    r"\{x \mid x \ge 0, x \ne 1\}": [r"[0,1)\cup(1,\infty)"],
    r"x \ne 1, 2": [r"(-\infty,1)\cup(1,2)\cup(2,\infty)"],
    "2.5": ["2.5 M"],
    r"\binom{2n}{n}": [r"\frac{(2n)!}{(n!)^2}", r"\frac{(2n)!}{n!n!}"],
    r"\frac{(2n)!}{(n!)^2}": [r"\binom{2n}{n}"],
    r"\frac{(n+2)!}{n!}": ["(n+1)(n+2)"],
    r"\binom{n}{2}": [r"\frac{n!}{2(n-2)!}"],
    r"e^{i\pi/4}": [r"\frac{\sqrt2}{2}+\frac{\sqrt2}{2}i"],
    r"\frac{\sqrt2}{2}+\frac{\sqrt2}{2}i": [r"e^{i\pi/4}"],
    "-1": [r"e^{i\pi}"],
    r"2e^{\frac{2\pi i}{3}}": [r"-1+\sqrt3 i"],
    r"e^{-i\pi/6}": [r"\frac{\sqrt3-i}{2}"],
    r"e^{i\pi/5}": [r"e^{i\pi/5}"],
    "e^{2x}": ["(e^x)^2"],
    "e^2": ["e^{2}"],
    "e^{-x}": [r"\frac{1}{e^x}"],
    "i": [r"e^{i\pi/2}"],
    r"e^{5i\pi/3}": [r"\frac12-\frac{\sqrt3}{2}i"],
}
"""Right answers by gold, in another notation."""
NEARLY_ITS_NOTATION = {
    "9 (apples)": ["10", "9 (pears)", r"9\text{ pears}"],
    "9": ["9 (wrong)", "9 (not)", "9 (approximately)", "9 (thousand)", "9 (or 10)", "9 (squared)", "9 (x)", "9 (ab)"],
    "12": ["12 M", r"12\text{ M}", "12 K"],
    "0.25": ["0.26 M"],
    "9.8": ["9.8 x/y", "9.8 m/x"],
    r"9.8\text{ m/s}^2": ["9.8 m/s"],
    r"9.8\text{ m/s}": ["9.8 km/h"],
    "204": ["204 x", "204 y^2", "204 m s", "204 a/b", "204 m/n"],
    r"12\text{ cm}": ["12 m"],
    "2": ["2 e", "2 i", "2 m n", "2 x m", r"\text{two hundred four}", r"\text{two to one}"],
    "2m": ["2"],
    "5": ["5 k", r"\text{five out of six}"],
    r"\lg 5": [r"\ln 5", r"\log_2 5", r"\lg 6"],
    "10": [
        r"\text{ten percent}",
        r"\text{ten thirds}",
        r"\text{ten or more}",
        r"\text{ten squared}",
        r"\text{ten million}",
        r"\text{not ten dollars}",
        r"\text{ten dollars or less}",
    ],
    "200": [r"\text{two hundred four}", r"\text{two hundred four people}"],
    "1": [r"e^{i\pi}", r"\text{one half}", r"\text{one third of it}"],
    "3": [r"\text{three quarters}"],
    "7": [r"\text{seven minus x}"],
    "20": [r"\text{twenty-one apples}"],
    r"\text{no solution}": [
        r"\text{one solution}",
        r"\text{no real solutions}",
        r"\text{two solutions}",
        r"\text{solutions}",
    ],
    r"x = k\pi, k \in \mathbb{Z}": [
        r"x = 2k\pi, k \in \mathbb{Z}",
        r"x = k\pi, k \in \mathbb{N}",
        r"x=n\pi",
        r"x=\pi",
        r"x=\frac{\pi}{2}+k\pi, k \in \mathbb{Z}",
        r"x=k\pi, n \in \mathbb{Z}",
        r"y=k\pi, k \in \mathbb{Z}",
        r"k \in \mathbb{Z}",
        r"x \ne k\pi, k \in \mathbb{Z}",
    ],
    r"ak\pi, k \in \mathbb{Z}": [r"an\pi, a \in \mathbb{Z}"],
    r"\begin{cases} x=1 \\ y=2 \end{cases}": ["x=2,y=1", "x=1", "(2,1)"],
    "x=1,y=2": [
        r"\begin{cases} x=1 \\ y=3 \end{cases}",
        r"\begin{cases} x=1 \\ x=2 \end{cases}",
        r"\begin{cases} x=1 \\ y>2 \end{cases}",
        r"\begin{cases} x=1 \\ y=2 \\ z=3 \end{cases}",
        r"\begin{cases} x=1 & y=2 \\ x=2 & y=1 \end{cases}",
    ],
    "B": [
        r"\text{Option A}",
        r"\text{Option B or C}",
        r"\text{not option B}",
        r"\text{Option B is wrong}",
        "Options B and C",
        "b",
        "Option b",
    ],
    r"(-2,-1)\cup(-1,\infty)": [
        r"x>-2, x\ne 1",
        r"x\ge-2, x\ne -1",
        "x>-2",
        r"x\ne -1",
        r"x>-2, y\ne -1",
        r"x>-2 \text{ or } x\ne -1",
        r"x<-2, x\ne -1",
    ],
    r"(-2,\infty)": [r"x>-2, x\ne -3", r"x \ge -2, x\ne -2"],
    r"\binom{2n}{n}": [
        r"\frac{(2n)!}{n!}",
        r"\frac{(2n)!}{(n!)^3}",
        r"\frac{(2n+1)!}{(n!)^2}",
        r"\binom{2n}{2}",
        "((2n)!)!",
    ],
    r"\binom{n}{2}": [r"\frac{n!}{(n-2)!}"],
    r"e^{i\pi/4}": [
        r"\frac{\sqrt2}{2}-\frac{\sqrt2}{2}i",
        r"\frac{\sqrt2}{2}",
        r"e^{i\pi/3}",
        r"e^{-i\pi/4}",
        r"e^{\pi/4}",
        r"\frac12+\frac12 i",
    ],
    r"e^{5i\pi/3}": [r"\frac12+\frac{\sqrt3}{2}i"],
    r"e^{2i\pi/3}": [r"\frac12+\frac{\sqrt3}{2}i"],
}
"""Wrong answers by gold that look like another notation of it."""


@pytest.mark.parametrize(("gold", "answer"), pairs_of(OTHER_NOTATION))
def test_another_notation_of_the_gold_is_right(judge: MathJudge, gold: str, answer: str) -> None:
    assert judge.judge(boxed(answer), gold).outcome == "right"


@pytest.mark.parametrize(("gold", "answer"), pairs_of(NEARLY_ITS_NOTATION))
def test_what_looks_like_another_notation_is_wrong(judge: MathJudge, gold: str, answer: str) -> None:
    assert judge.judge(boxed(answer), gold).outcome == "wrong"


def test_a_right_answer_votes_as_the_gold_one() -> None:
    verdict = decide(boxed("10"), r"10\%")
    assert verdict == Verdict(outcome="right", answer="1/10", reason="exact")


@pytest.mark.parametrize(
    ("gold", "answers"),
    [
        (r"\sqrt2-1", [r"\sqrt2-1", r"\frac{1}{1+\sqrt2}", r"\tan 22.5^\circ"]),
        (r"\cot x", [r"\cot x", r"\frac{\cos x}{\sin x}"]),
        (r"\tan 22.5^\circ", [r"\sqrt2-1", r"\tan\frac{\pi}{8}"]),
        ("(5,6)", ["(5,6)", "y=6, x=5"]),
        (r"5\text{ km east}", ["5", r"5\text{ km east}"]),
        ("12", [r"12\text{ apples}", "twelve", r"\text{Tom has }12"]),
        (r"\mathbb{R}\setminus\{1\}", [r"x\ne1", r"(-\infty,1)\cup(1,\infty)"]),
        (r"n\equiv 1\pmod 4", ["1", r"1\pmod 4"]),
        ("m+n=5", ["5", "m+n=5", "n+m=5", "m=2, n=3, m+n=5"]),
        (r"x=\pm 2", ["2, -2", r"x=2 \text{ or } x=-2", r"\pm 2"]),
        ("x=5", ["5", "x-5=0", r"5\text{ cm}"]),
    ],
)
def test_all_right_answers_are_one_vote_whatever_layer_decides(judge: MathJudge, gold: str, answers: list[str]) -> None:
    verdicts = [judge.judge(boxed(answer), gold) for answer in [gold, *answers]]
    assert {verdict.outcome for verdict in verdicts} == {"right"}
    assert len({verdict.answer for verdict in verdicts}) == 1


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"5\text{ km east}", r"5\text{ km west}"),
        (r"30^\circ", r"30\text{ radians}"),
        (r"n\equiv 1\pmod 4", r"n\equiv 1\pmod 3"),
        (r"x\in[0,1]", r"y\in[0,1]"),
        (r"A\land B", r"A\lor B"),
        (r"(2\text{ cm}, 3\text{ cm})", r"(2\text{ m}, 3\text{ cm})"),
    ],
)
def test_a_wrong_answer_never_votes_as_the_gold_one(judge: MathJudge, gold: str, answer: str) -> None:
    right, wrong = judge.judge(boxed(gold), gold), judge.judge(boxed(answer), gold)
    assert (right.outcome, wrong.outcome) == ("right", "wrong")
    assert right.answer != wrong.answer


@pytest.mark.parametrize("answer", ["", "$", "$$", "''", "."])
def test_nothing_in_a_box_is_no_answer(answer: str) -> None:
    assert decide(boxed(answer), "0") in (
        Verdict(outcome="wrong", reason="no answer"),
        Verdict(outcome="wrong", reason="empty answer"),
    )


def test_integers_are_never_asked_of_the_symbolic_layer() -> None:
    for answer in (r"\sin x", r"\log_2 8", r"\frac{1}{1+\sqrt2}", r"\int_0^1 x", "|3|", r"\binom{n}{2}"):
        assert isinstance(decide(boxed(answer), "3"), Verdict)


def test_only_what_the_cheap_layers_cannot_read_is_asked() -> None:
    assert isinstance(decide(boxed(r"\sqrt{22}"), r"11\sqrt{2}"), Verdict)
    assert isinstance(decide(boxed(r"\sqrt2-1"), r"\frac{1}{1+\sqrt2}"), Question)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\sin x", r"\sin x^\circ"),
        (r"\sin\frac12", r"\sin\frac{1}{2}^\circ"),
        (r"\pi", r"\pi^\circ"),
        (r"\gcd(a,b)", r"\gcd(a,c)"),
        (r"\sin R", r"\sin r"),
        (r"\cot x'", r"\cot x"),
        (r"f(2x)", r"2f(x)"),
        (r"\Gamma(1/3)", r"\gamma(1/3)"),
        (r"2516_8", r"2516_8_7"),
        (r"{}^3P_2", r"^3P_1"),
        (r"\angle ABC", r"\angle ACB"),
    ],
)
def test_math_verify_is_never_asked_about_what_it_drops(gold: str, answer: str) -> None:
    verdict = decide(boxed(answer), gold)
    assert isinstance(verdict, Verdict)
    assert verdict.outcome == "wrong"


def test_products_with_spaces_reach_math_verify_whole(judge: MathJudge) -> None:
    assert judge.judge(boxed(r"a b c \sqrt{x+y}"), r"\sqrt{x+y} c b a").outcome == "right"
    assert judge.judge(boxed(r"a b d \sqrt{x+y}"), r"a b c\sqrt{x+y}").outcome == "wrong"
    assert judge.judge(boxed(r"\sqrt{2} a c"), r"\sqrt{2} a b").outcome == "wrong"


def test_a_limit_of_a_sum_makes_no_equation() -> None:
    verdict = decide(boxed(r"\sum_{k=1}^n k"), r"\frac{n(n+1)}{2}")
    assert verdict == Verdict(outcome="wrong", answer=r"\sum_{k=1}^n k", reason="too hard: a sum, product or integral")
    assert not isinstance(decide(boxed(r"\frac{n(n+1)}{2}"), r"\sum_{k=1}^n k"), Verdict)


# Hand-judged cases


def test_the_clear_hand_judged_cases_are_judged_alike(judge: MathJudge) -> None:
    clear = clear_cases(choice=False)
    assert len(clear) > 100
    missed = missed_cases(judge.judge, clear)
    assert len(missed) <= 0.02 * len(clear), missed


def test_answers_judged_by_hand_before_any_judge_saw_them(judge: MathJudge) -> None:
    assert missed_answers(judge.judge, "math", boxed) == []


@pytest.mark.parametrize(
    "named", ["x", "m+n", "|S|", "f(3)", "100m+n", "2^{10}-820", "AB", "AB^2", r"\lvert S\rvert", "x_1"]
)
def test_an_equation_says_what_its_left_side_names(named: str) -> None:
    assert decide(boxed(f"{named} = 204"), "204").outcome == "right"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("side", ["2x", "-x", "x/2", r"\frac{3x}{4}", "x+3", "2x_1 - 7", "0.5x"])
def test_an_equation_that_gives_the_variable_another_value_says_nothing(side: str) -> None:
    for equation in (f"{side} = 204", f"204 = {side}"):
        assert decide(boxed(equation), "204").outcome == "wrong"  # pyright: ignore[reportAttributeAccessIssue]


def test_no_hostile_case_is_right_that_should_not_be(judge: MathJudge) -> None:
    hostile = [c for c in CASES if c["domain"] == "hostile" and not c["correct"]]
    assert len(hostile) > 10
    assert [c["id"] for c in hostile if judge.judge(c["response"], c["gold"]).outcome != "wrong"] == []


# Gold answers


@pytest.mark.parametrize("gold", ["", " ", "$$", "=", r"\boxed{}", "."])
def test_an_empty_gold_answer_is_refused(gold: str) -> None:
    with pytest.raises(DataError, match="empty"):
        MathJudge().check(gold)


@pytest.mark.parametrize(
    "gold", ["204", "025", r"336^\circ", r"\boxed{5}", r"\frac{1}{2}", r"\text{(C)}", r"\emptyset", "1,000"]
)
def test_a_gold_answer_is_accepted_and_equal_to_itself(judge: MathJudge, gold: str) -> None:
    judge.check(gold)
    assert judge.judge(boxed(gold), gold).outcome == "right"


@pytest.fixture(scope="module")
def math500() -> list[str]:
    """The distinct gold answers of MATH-500."""
    return (GOLDEN / "math500_golds.txt").read_text(encoding="utf-8").splitlines()[1:]


def test_answers_of_math_500_that_differ_are_told_apart(judge: MathJudge, math500: list[str]) -> None:
    others = random.Random(0).sample(math500, len(math500))
    pairs = [(gold, other) for gold, other in zip(math500, others, strict=True) if tidy(gold) != tidy(other)]
    assert len(pairs) > 250
    assert [pair for pair in pairs if judge.judge(boxed(pair[1]), pair[0]).outcome != "wrong"] == []


def test_the_public_golds_of_aime_are_integers_and_accepted(judge: MathJudge) -> None:
    for name in ("aime2024", "aime2025"):
        with shared(f"data/{name}.jsonl").open(encoding="utf-8") as file:
            for row in map(json.loads, file):
                for gold in (row["answer"], row["answer_padded"], row.get("answer_raw_thunlp", row["answer"])):
                    judge.check(gold)
                    assert decide(boxed(row["answer"]), gold) == Verdict(
                        outcome="right", answer=str(int(row["answer"])), reason="exact"
                    )


# What a student that has lost its mind may write


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(r"\boxed{" + "7" * 100_000 + "}", id="digits"),
        pytest.param(r"\boxed" + "{" * 100_000, id="opening braces"),
        pytest.param(r"\boxed" + "{" * 100_000 + "}" * 100_000, id="nested braces"),
        pytest.param(r"\boxed{" * 100_000, id="boxes that are not closed"),
        pytest.param(r"\boxed{" * 50_000 + "}" * 50_000, id="nested boxes"),
        pytest.param(r"\boxed{" + "}" * 100_000, id="closing braces"),
        pytest.param(r"\boxed" + " " * 100_000, id="spaces"),
        pytest.param(r"\boxed " * 30_000, id="boxes without braces"),
        pytest.param(r"\boxed{1" + ",000" * 30_000 + ",}", id="thousands"),
        pytest.param(r"\boxed{" + r"\text{" * 30_000 + "}" * 30_000 + "}", id="texts"),
        pytest.param(r"\boxed{" + "=" * 100_000 + "}", id="equals signs"),
        pytest.param(r"\boxed{" + "\\" * 100_000 + "}", id="backslashes"),
        pytest.param("\\" * 100_000 + "boxed{1}", id="a box after backslashes"),
        pytest.param("$" * 200_000 + r"\boxed{1}", id="dollars"),
        pytest.param(r"\boxed{1}" * 10_000, id="boxes"),
        pytest.param("</think>" * 10_000, id="thoughts"),
        pytest.param("<tool_call>" * 10_000 + r"\boxed{204}", id="calls"),
        pytest.param("<tool_response>" * 10_000 + r"\boxed{204}", id="responses"),
        pytest.param("\\boxed{\x00\ud800}", id="no text"),
        pytest.param(r"\boxed{" + "^" * 390 + "}", id="powers"),
        pytest.param(r"\boxed{" + r"\frac" * 70 + "}", id="fractions"),
        pytest.param(r"\boxed{" + r"\sqrt" * 70 + "2}", id="roots"),
        pytest.param(r"\boxed{" + "-" * 390 + "}", id="minus signs"),
        pytest.param(r"\boxed{((1+\sqrt2+\sqrt3+\sqrt5)^{31})^{31}}", id="powers of sums"),
        pytest.param(r"\boxed{1e999}", id="a large power of ten"),
        pytest.param(r"\boxed{0^{-1}}", id="a division by zero"),
        pytest.param(r"\boxed{9^{9^{9^{9}}}}", id="a tower"),
        pytest.param(r"\boxed{9^{99999999}}", id="a large power"),
        pytest.param(r"\boxed{1000000!}", id="a factorial"),
        pytest.param(r"\boxed{3!!!!!!}", id="many factorials"),
    ],
)
def test_hostile_text_is_wrong_and_no_failure_of_the_judge(judge: MathJudge, text: str) -> None:
    golds = ["204", r"\frac{1}{2}", r"\cot x", "(1,2)", "y = 2x", r"\text{Yes}"]
    assert {gold: judge.judge(text, gold).outcome for gold in golds} == dict.fromkeys(golds, "wrong")


def test_an_answer_beyond_the_limits_is_right_only_as_the_very_same_text() -> None:
    long = "+".join(f"x^{{{n}}}" for n in range(200))
    assert decide(boxed(long), long) == Verdict(outcome="right", answer=long, reason="same text")
    assert decide(boxed(long + "+1"), long) == Verdict(outcome="wrong", reason="more than 400 characters")


def test_no_text_makes_the_judge_raise() -> None:
    pieces = [
        r"\frac",
        r"\sqrt",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "^",
        "_",
        r"\pm",
        " or ",
        "2",
        "0",
        ".",
        ",",
        "=",
        "<",
        "x",
    ]
    pieces += [
        r"\le",
        r"\in",
        r"\cup",
        r"\pi",
        r"\infty",
        r"\%",
        "°",
        "!",
        "|",
        ":",
        r"\\",
        "&",
        r"\{",
        r"\}",
        "½",
        "i",
    ]
    pieces += [
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\text{",
        "the answer is ",
        " cm",
        r"\overline{",
        "-",
        "/",
        "²",
        "٢",
    ]
    chance = random.Random(0)
    for _ in range(3000):
        text = "".join(chance.choices(pieces, k=chance.randint(1, 30)))
        gold = chance.choice(["204", r"\frac12", "(1,2)", "y=2x", r"\cot x", r"10\%", r"\text{Yes}", text])
        assert isinstance(decide(rf"\boxed{{{text}}}", gold), Verdict | Question)


# Threads, asyncio, failures

HARD = (r"\frac{1}{1+\sqrt2}", r"\sqrt2-1")


def test_threads_share_a_judge(judge: MathJudge) -> None:
    def one(number: int) -> list[str]:
        texts = [boxed(HARD[1]), boxed(rf"\sqrt2-{number + 2}"), boxed(str(number))]
        return [
            judge.judge(text, gold).outcome for text, gold in zip(texts, [HARD[0], HARD[0], str(number)], strict=True)
        ]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(40))) == [["right", "wrong", "right"]] * 40


def test_a_judge_is_asynchronous(judge: MathJudge) -> None:
    async def all_of_them(judge: Judge) -> list[Verdict]:
        texts = [boxed(HARD[1]), boxed(r"\sqrt2"), boxed("x")]
        return await asyncio.gather(*(judge(text, HARD[0]) for text in texts))

    verdicts = asyncio.run(all_of_them(judge))
    assert [verdict.outcome for verdict in verdicts] == ["right", "wrong", "wrong"]
    assert {verdict.reason for verdict in verdicts} == {"symbolic"}


def test_an_answer_that_nothing_can_be_computed_with_is_wrong() -> None:
    judge = MathJudge(Symbolic(limit_s=0.3))
    verdict = judge.judge(boxed(r"\frac{\cos x}{\sin x}+\sqrt{(a+b+c+d+f)^{98}}-(a+b+c+d+f)^{49}"), r"\cot x")
    judge.close()
    assert verdict.outcome == "wrong"


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        (r"2^{\gcd(m,n)}-1", r"2^{\gcd(m,k)}-1", "wrong"),
        (r"2^{\gcd(m,n)}-1", r"2^{\gcd(m,n)}-1", "right"),
        (r"\cot x", "10^{10^{10}}", "wrong"),
        (r"\cot x", "9^{9^{9^{x}}}", "wrong"),
        (r"\cot x", r"\tan\tan\tan\tan\tan\tan x", "wrong"),
        (r"\cot x", "(((((x+1)^{99}+1)^{99}+1)^{99}+1)^{99}+1)^{99}", "wrong"),
        (r"\cot x", r"\sqrt{x+\sqrt{x+\sqrt{x+\sqrt{x+\sqrt{x+\sqrt{x}}}}}}", "wrong"),
        (r"\cot x", r"\sin(999999999999999999999x)^{99}", "wrong"),
        (r"\sqrt{1+\sqrt2}", "(99!)^{99!}", "wrong"),
        (r"\sqrt{1+\sqrt2}", r"999^{999^{\sqrt2}}", "wrong"),
        (r"\{(x+y+z)^{99},\sin x\}", r"\{(x+y+z)^{98},\cos x\}", "wrong"),
        (r"\sum_{k=1}^n k", r"\frac{n(n+1)}{2}", "right"),
        (r"\sum_{k=1}^n k", r"\frac{n(n-1)}{2}", "wrong"),
        ("5x-7y=0", r"\log_2 5x-7y=0", "wrong"),
    ],
)
def test_an_answer_that_is_too_hard_is_judged_and_never_ungraded(gold: str, answer: str, outcome: str) -> None:
    judge = MathJudge(Symbolic(limit_s=2))
    verdict = judge.judge(boxed(answer), gold)
    judge.close()
    assert verdict.outcome == outcome


@pytest.mark.parametrize("answer", [r"\frac{\cos x}{\sin x}+x", r"\tan x", r"(((x+1)^{99}+1)^{99}+1)^{99}"])
def test_an_answer_is_wrong_and_not_ungraded_if_memory_is_short(answer: str) -> None:
    judge = MathJudge(Symbolic(limit_s=30, memory_bytes=256 << 20))
    verdict = judge.judge(boxed(answer), r"\cot x")
    judge.close()
    assert verdict.outcome == "wrong"


def test_a_gold_answer_that_alone_takes_too_long_leaves_the_answer_ungraded() -> None:
    judge = MathJudge(Symbolic(limit_s=1e-4))
    verdict = judge.judge(boxed(HARD[1]), HARD[0])
    judge.close()
    assert verdict.outcome == "ungraded"
    assert "no answer within" in verdict.reason
    assert verdict.answer == "-1 + 2^(1/2)"


@pytest.mark.parametrize("answer", ["0^0", "0^{0}", "0^{-1}", "(x-x)^{-2}", "0.0^{0}"])
def test_zero_to_a_power_without_a_value_is_no_number(answer: str) -> None:
    verdict = decide(rf"\boxed{{{answer}}}", "1")
    assert isinstance(verdict, Verdict)
    assert not verdict.is_right
