"""The lab's problems: small sums that a tiny model can only solve with the interpreter, one call at a time.

chain   A chain of definitions, `BS=18+30;KP=BS*5;CW=KP-4;CW?`. Each call evaluates one definition, from values that the
        interpreter printed before: `BS=48\\nKP=BS*5\\nprint(KP)`. A wrongly copied name raises a NameError, which the
        student reads and can correct. A wrong digit causes no error.
euclid  A greatest common divisor, `gcd(84,36)?`, by Euclid's algorithm. Each call prints one remainder, which the next
        call needs.

Programs are stateless, so a failed call has no effect: after an error, repeating the step is always correct. A turn's token
limit is too small for a thought and a whole chain in one call.
"""

import math
import operator
import random
from dataclasses import dataclass
from string import ascii_uppercase

from sod.moved import keep_old_names
from sod.types import Problem

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@dataclass(frozen=True, slots=True)
class Call:
    """One step of a solution: the student's name for it, the program, and the printed result."""

    subject: str
    lines: tuple[str, ...]
    result: int


@dataclass(frozen=True, slots=True)
class Task:
    """A problem and its solution, call by call."""

    question: str
    calls: tuple[Call, ...]
    answer: int

    @property
    def hint(self) -> str:
        """The result of the first call."""
        return str(self.calls[0].result)

    def problem(self, id: str) -> Problem:
        return Problem(id=id, messages=({"role": "user", "content": self.question},), answer=str(self.answer))


def chain(rng: random.Random, definitions: int) -> Task:
    """Draw a chain of `definitions` definitions, each computed from the previous one and a constant.

    A name's first letter is from A to M and its second from N to Z, so that a tiny model can tell the two positions apart.
    """
    names: list[str] = []
    while len(names) < definitions:
        name = rng.choice(ascii_uppercase[:13]) + rng.choice(ascii_uppercase[13:])
        if name not in names:
            names.append(name)
    texts: list[str] = []
    calls: list[Call] = []
    value = 0
    for before, name in zip([None, *names], names, strict=False):
        if before is None:
            left, sign, right = rng.randint(10, 99), rng.choice("+-"), rng.randint(10, 99)
        else:
            left, sign, right = value, rng.choice("+-" if abs(value) > 999 else "+-*"), rng.randint(2, 9)
        definition = f"{name}={before or left}{sign}{right}"
        restated = (f"{before}={value}",) if before else ()
        value = OPERATORS[sign](left, right)
        texts.append(definition)
        calls.append(Call(name, (*restated, definition, f"print({name})"), value))
    return Task(";".join([*texts, f"{names[-1]}?"]), tuple(calls), value)


def euclid(rng: random.Random, steps: int) -> Task:
    """Draw a gcd(a,b) of numbers below 100 that takes exactly `steps` remainders; the last remainder is 0."""
    while True:
        a, b = rng.randint(20, 99), rng.randint(4, 60)
        if a > b and (calls := _remainders(a, b)) and len(calls) == steps:
            return Task(f"gcd({a},{b})?", tuple(calls), math.gcd(a, b))


def _remainders(a: int, b: int) -> list[Call]:
    calls = []
    while b:
        calls.append(Call(f"{a}%{b}", (f"print({a}%{b})",), a % b))
        a, b = b, a % b
    return calls


TASK_FAMILIES = {"chain": chain, "euclid": euclid}


def draw_task(rng: random.Random, *, length: tuple[int, int] = (3, 4), euclid_share: float = 0.25) -> Task:
    """Draw a task of `length[0]` to `length[1]` calls. `euclid_share`: share of gcd tasks."""
    family = euclid if rng.random() < euclid_share else chain
    return family(rng, rng.randint(*length))


keep_old_names(__name__, draw="draw_task")
