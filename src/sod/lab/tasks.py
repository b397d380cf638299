"""The lab's problems: small sums that a tiny model can only do with the interpreter, one call at a time.

chain   A chain of definitions, `BS=18+30;KP=BS*5;CW=KP-4;CW?`. Each call works out one definition, from values that the
        interpreter gave before: `BS=48\\nKP=BS*5\\nprint(KP)`. A name copied wrongly is a NameError, which the student
        reads and can mend; a wrong digit goes unnoticed.
euclid  A greatest common divisor, `gcd(84,36)?`, by Euclid's algorithm: each call prints one remainder, and the next
        call depends on what came back.

Programs are stateless, so a failed call leaves nothing behind: after an error, "do that step again" is always right.
The limit on a turn's tokens keeps a whole chain out of one call.
"""

import math
import random
from dataclasses import dataclass
from string import ascii_uppercase

from sod.types import Problem


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

    def problem(self, id: str) -> Problem:
        return Problem(id=id, messages=({"role": "user", "content": self.question},), answer=str(self.answer))


def chain(rng: random.Random, definitions: int) -> Task:
    """A chain of `definitions` definitions; 40 % of those from the third on use an earlier name beside the last.

    A name's first letter is from A to M and its second from N to Z: a tiny model then knows where in a name it stands.
    """
    names: list[str] = []
    while len(names) < definitions:
        name = rng.choice(ascii_uppercase[:13]) + rng.choice(ascii_uppercase[13:])
        if name not in names:
            names.append(name)
    values: dict[str, int] = {}
    texts, calls = [], []
    for i, name in enumerate(names):
        if i == 0:
            left, right = str(rng.randint(10, 99)), str(rng.randint(10, 99))
            operator = rng.choice("+-")
        else:
            left = names[i - 1]
            earlier = i >= 2 and rng.random() < 0.4
            right = rng.choice(names[: i - 1]) if earlier else str(rng.randint(2, 9))
            operator = rng.choice("+-") if earlier or abs(values[left]) > 999 else rng.choice("+-*")
        used = [operand for operand in (left, right) if operand in values]
        expression = f"{left}{operator}{right}"
        values[name] = eval(expression, {}, values)
        texts.append(f"{name}={expression}")
        restated = tuple(f"{operand}={values[operand]}" for operand in used)
        calls.append(Call(name, (*restated, texts[-1], f"print({name})"), values[name]))
    return Task(";".join([*texts, f"{names[-1]}?"]), tuple(calls), values[names[-1]])


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
