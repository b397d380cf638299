"""The lab's problems: small sums that a tiny model can only do with the interpreter, one call at a time.

chain   A chain of definitions, `BS=18+30;KP=BS*5;CW=KP-4;CW?`. Each call works out one definition, from values that the
        interpreter gave before: `BS=48\\nKP=BS*5\\nprint(KP)`. A name copied wrongly is a NameError, which the student
        reads and can mend; a wrong digit goes unnoticed.
euclid  A greatest common divisor, `gcd(84,36)?`, by Euclid's algorithm: each call prints one remainder, and the next
        call depends on what came back.

Programs are stateless, so a failed call leaves nothing behind: after an error, "do that step again" is always right.
The limit on a turn's tokens keeps a thought and a whole chain out of one call.
"""

import math
import operator
import random
from dataclasses import dataclass
from string import ascii_uppercase

from sod.types import Problem

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@dataclass(frozen=True, slots=True)
class Call:
    """One step of a solution: the program, what it prints, and the word that the student uses for it."""

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
        """What the first call will print."""
        return str(self.calls[0].result)

    def problem(self, id: str) -> Problem:
        return Problem(id=id, messages=({"role": "user", "content": self.question},), answer=str(self.answer))


def chain(rng: random.Random, definitions: int) -> Task:
    """A chain of `definitions` definitions, each from the one before it and a constant.

    A name's first letter is from A to M and its second from N to Z: a tiny model then knows where in a name it stands.
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
    """gcd(a,b) of two-digit numbers that takes exactly `steps` remainders (the last of which is 0)."""
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


FAMILIES = {"chain": chain, "euclid": euclid}


def draw(rng: random.Random, *, length: tuple[int, int] = (3, 4), euclid_share: float = 0.25) -> Task:
    """A task of `length[0]` to `length[1]` calls; `euclid_share` of the tasks are gcds."""
    family = euclid if rng.random() < euclid_share else chain
    return family(rng, rng.randint(*length))
