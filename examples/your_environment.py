"""An environment of your own: no change to the package.

sod train --student MODEL --data examples/guess.jsonl --out runs/guess --environment examples/your_environment.py:Guess ...
sod eval  --model MODEL   --data examples/guess.jsonl --out runs/guessed --environment examples/your_environment.py:Guess

A line of examples/guess.jsonl is a problem: {"id": "g1", "setting": {"highest": 20}}. One object of the class is created for
every attempt. `open` returns what the student reads first; `step` answers each turn; `verdict` returns whether the attempt
is right. The same seed must begin alike: `sod` opens the first problem twice before it trains.
"""

import random

from sod.environments import Environment, Opening, Step, Turn
from sod.types import Problem


class Guess(Environment):
    """A secret number. The student guesses until it is found."""

    async def open(self, problem: Problem, seed: int) -> Opening:
        highest = problem.setting["highest"]
        self.secret, self.found = random.Random(seed).randint(1, highest), False
        return Opening(f"I have a number from 1 to {highest}. Guess it. Reply with the number alone.")

    async def step(self, turn: Turn) -> Step:
        try:
            guess = int(turn.text)
        except ValueError:
            return Step("That is not a number. Reply with a number alone.", outcome="error", reward=-0.1)
        self.found = guess == self.secret
        return Step("Higher." if guess < self.secret else "Lower.", is_over=self.found)

    async def verdict(self, text: str) -> bool:
        return self.found
