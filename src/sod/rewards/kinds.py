r"""Declare the kinds of problems. `KINDS` has one entry per kind: its judge, and how its problems are checked and asked.

The referee, `sod data`, the wording of prompts, the scores of an evaluation and `sod doctor` read this table.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Literal, get_args

from sod.config import RewardOptions
from sod.errors import DataError
from sod.rewards import NO_ANSWER, NO_CODE, Judge
from sod.rewards.choice import MOST, USUAL, ChoiceJudge, gold_letter, is_choice
from sod.rewards.code import CodeJudge
from sod.rewards.code_golds import holds_tests, tests_of
from sod.rewards.golds import prove_math, stored_math, vote_of_math
from sod.rewards.math import MathJudge
from sod.rewards.reasoning_gym import ASK, ReasoningGymJudge
from sod.rewards.reasoning_gym import check_task as check_reasoning_gym
from sod.rewards.reference import StrictBoxJudge, StrictMathJudge
from sod.rewards.reference_code import ReferenceCodeJudge
from sod.rewards.text import TextJudge, accepted, plain_words
from sod.rewards.undecided import NoJudge
from sod.sandbox import Sandbox
from sod.types import Trajectory

Prompts = Literal["clean", "paper"]
Wording = Mapping[Prompts, str]
"""The text around a problem, by value of `--prompts`. {problem} is the problem, {code} the code that the answer begins with."""
ENVIRONMENT_KIND = "environment"
"""The kind of problems without an answer, which their environment judges."""
CACHED = 1 << 16
"""Number of golds whose check is remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSetup:
    """The parts that a judge is built from."""

    sandbox: Sandbox
    reward: RewardOptions
    choices: int = USUAL
    """Number of options of the problem, for a kind with options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The content of a row without the column `kind`, which its kind is found from."""

    gold: Any
    """The gold answer: text, or the cell as published."""
    text: str = ""
    """The text of the problem."""
    about: str = ""
    """The source and the ability that the row states."""


@dataclass(frozen=True, slots=True)
class Example:
    """An attempt with a known verdict. `sod doctor` judges it."""

    gold: str
    text: str
    """The last turn of the attempt."""
    outcome: Literal["right", "wrong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemKind:
    """A kind of problem: how it is judged, checked, stored, asked and recognised."""

    # Judging

    judge: Callable[[JudgeSetup], Judge]
    """Build the judge."""
    reference: Callable[[JudgeSetup], Judge] = lambda _: StrictBoxJudge()
    """Build the judge for `reward.judge = reference`. Default: the paper's comparison of boxes."""
    check: Callable[[str, int], object]
    """Raise DataError for a gold that `judge` cannot use. Arguments: the gold, the number of options."""
    examples: tuple[Example, ...]
    """Attempts for `sod doctor`, at least one right and one wrong; none for a kind without a judge of its own."""
    runs_programs: bool = False
    """Whether the judge runs programs in the sandbox."""
    has_options: bool = False
    """Whether a problem lists options and the answer is the letter of one."""

    # Golds

    gold_is_answer: bool = True
    """Whether the gold is an answer. False for tests, which a privileged teacher does not read."""
    vote: Callable[[str], str] | None
    """Return the canonical form of a gold. Equal answers have equal forms. None: answers have no votes, so there is no maj@n."""
    stored: Callable[[str], str] = str.strip
    """Return the form in which `sod data convert` stores a gold."""

    # Asking

    wording: Wording
    """The text around a problem without wording of its own."""
    place: str
    """Where the judge reads the answer, in words for a warning."""
    asks: re.Pattern[str]
    """Matches a prompt that asks for the answer in this place, in any words. Other prompts are counted in a warning."""
    asks_exactly: re.Pattern[str]
    """Matches a problem with a wording of its own. `sod data convert` adds `wording` to others."""
    signature: Callable[[str], str] | None = None
    """Return the code that the answer to a problem with this gold begins with; empty if it begins with none."""
    code_wording: Wording | None = None
    """The wording for a gold with a signature."""

    # Recognising rows without a column `kind`

    recognises: Callable[[Evidence], bool] = lambda _: False
    """Return whether a row is of this kind. The first kind that recognises a row takes it; others are `FALLBACK`."""
    gold_columns: tuple[str, ...] = ()
    """Published columns that hold the gold of this kind only, in lower case."""
    other_columns: tuple[str, ...] = ()
    """Other published columns of this kind only, in lower case."""
    gold_name: str = "answers"
    """What the gold columns hold, in words for an error."""


@cache
def _texts() -> dict[str, dict[str, str]]:
    content: dict[str, Any] = tomllib.loads(files("sod.rewards").joinpath("prompts.toml").read_text(encoding="utf-8"))
    return content


def shipped_wording(name: str) -> Wording:
    """Return the texts of this name in `prompts.toml`."""
    return {prompts: _texts()[prompts][name] for prompts in get_args(Prompts)}


def _signature(gold: str) -> str:
    """Return the first line of each function that the tests call; empty for tests of a whole program."""
    return "\n".join(f"def {name}(...):" for name in sorted(tests_of(gold).names - {"Solution"}))


_SQUARES = '{"inputs": ["2\\n"], "outputs": ["4\\n"]}'
_BOX = re.compile(r"box", re.IGNORECASE)
_EXACT_BOX = re.compile(r"\\boxed")

KINDS: dict[str, ProblemKind] = {
    "math": ProblemKind(
        judge=lambda _: MathJudge(),
        reference=lambda _: StrictMathJudge(),
        check=lambda gold, _: prove_math(gold),
        examples=(
            Example("025", r"so it is \boxed{25}", "right"),
            Example(r"\frac{1}{2}", r"\boxed{0.5}", "right"),
            Example(r"x^2+2x+1", r"\boxed{(x+1)^2}", "right"),
            Example("204", r"\boxed{9^{9^{9^9}}}", "wrong"),
            Example(r"\sqrt{2}", r"\boxed{1.41421356}", "wrong"),
        ),
        vote=vote_of_math,
        stored=stored_math,
        wording=shipped_wording("math"),
        place=r"\boxed{}",
        asks=_BOX,
        asks_exactly=_EXACT_BOX,
    ),
    "choice": ProblemKind(
        judge=lambda setup: ChoiceJudge(setup.choices),
        check=lambda gold, choices: ChoiceJudge(choices).check(gold),
        examples=(
            Example("C", r"\boxed{\text{(C)}}", "right"),
            Example("C", r"\boxed{A or C}", "wrong"),
        ),
        has_options=True,
        vote=lambda gold: gold_letter(gold, MOST) or gold,
        stored=lambda gold: gold_letter(gold, MOST) or gold,
        wording=shipped_wording("choice"),
        place=r"\boxed{}",
        asks=_BOX,
        asks_exactly=_EXACT_BOX,
        recognises=lambda seen: is_choice(seen.gold, seen.text),
    ),
    "code": ProblemKind(
        judge=lambda setup: CodeJudge(
            setup.sandbox, seconds=setup.reward.test_seconds, memory_mb=setup.reward.test_memory_mb
        ),
        reference=lambda setup: ReferenceCodeJudge(setup.sandbox),
        check=lambda gold, _: tests_of(gold),
        examples=(
            Example(_SQUARES, "```python\nprint(int(input()) ** 2)\n```", "right"),
            Example(_SQUARES, "```python\nprint(5)\n```", "wrong"),
        ),
        runs_programs=True,
        gold_is_answer=False,
        vote=None,
        stored=lambda gold: json.dumps([gold]) if gold.startswith("assert") else gold,
        wording=shipped_wording("code_stdin"),
        place="a ```python block",
        asks=re.compile(r"```|code block|fence|markdown", re.IGNORECASE),
        asks_exactly=re.compile(r"```|code block"),
        signature=_signature,
        code_wording=shipped_wording("code_function"),
        recognises=lambda seen: "code" in seen.about.lower() or holds_tests(seen.gold),
        gold_columns=("tests", "test_cases", "input_output", "public_test_cases"),
        other_columns=("test_list", "entry_point"),
        gold_name="tests of a program",
    ),
    "text": ProblemKind(
        judge=lambda _: TextJudge(),
        check=lambda gold, _: accepted(gold),
        examples=(
            Example("Herman Melville", r"\boxed{\text{herman melville.}}", "right"),
            Example("Herman Melville", r"\boxed{Mark Twain}", "wrong"),
        ),
        vote=lambda gold: plain_words(accepted(gold)[0]),
        wording=shipped_wording("math"),
        place=r"\boxed{}",
        asks=_BOX,
        asks_exactly=_EXACT_BOX,
    ),
    ENVIRONMENT_KIND: ProblemKind(
        judge=lambda _: NoJudge(),
        reference=lambda _: NoJudge(),
        check=lambda gold, _: None,
        examples=(),
        gold_is_answer=False,
        vote=None,
        wording={"clean": "{problem}", "paper": "{problem}"},
        place="its environment",
        asks=re.compile(""),
        asks_exactly=re.compile(""),
        gold_name="states of an environment",
    ),
    "reasoning_gym": ProblemKind(
        judge=lambda setup: ReasoningGymJudge(setup.sandbox),
        reference=lambda setup: ReasoningGymJudge(setup.sandbox),
        check=lambda gold, _: check_reasoning_gym(gold),
        examples=(),  # `sod doctor` has not the package
        runs_programs=True,
        gold_is_answer=False,
        vote=None,
        wording=dict.fromkeys(get_args(Prompts), "{problem}\n\n" + ASK),
        place="<answer>",
        asks=re.compile("<answer>"),
        asks_exactly=re.compile("<answer>"),
        gold_name="problems of reasoning-gym",
    ),
}
"""Name of each kind -> its declaration."""
FALLBACK = "math"
"""The kind of a row that no kind recognises."""


def find_kind(name: str) -> ProblemKind:
    """Return the declaration of a kind. Raises DataError for a kind without a judge."""
    if name not in KINDS:
        raise DataError(f"its `kind` is {name!r}, but judges exist only for {', '.join(KINDS)}.")
    return KINDS[name]


def check_gold(kind: str, gold: str, choices: int = USUAL) -> None:
    """Raise DataError for a kind without a judge, or a gold that its judge cannot use.

    `choices`: the number of options of a multiple choice.
    """
    find_kind(kind)
    try:
        prove_gold(kind, gold, choices)
    except DataError as error:
        raise DataError(f"no judge can use its answer: {error}") from error


@lru_cache(maxsize=CACHED)
def prove_gold(kind: str, gold: str, choices: int = USUAL) -> None:
    """Raise DataError for a gold of a known kind that its judge cannot use. Accepted golds are remembered."""
    KINDS[kind].check(gold, choices)


def is_silent(attempt: Trajectory) -> bool:
    """Return whether a judged attempt has no answer. Without votes, the reason of the verdict decides."""
    verdict = attempt.judged
    if KINDS[attempt.problem.kind].vote is not None:
        return verdict.answer is None and not verdict.is_right
    return verdict.reason in (NO_ANSWER, NO_CODE)
