"""The order in which training takes problems: epoch by epoch, without repetition, optionally by measured solve rate."""

import json
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal

from sod.errors import RunError
from sod.runs.checkpoints import TRAINER, updates_of
from sod.runs.files import to_json
from sod.types import Problem

ORDER_FILE = "problems.json"
"""File in a checkpoint's training state: the number of problems taken so far."""

Order = Literal["shuffled", "file", "easy_first", "hard_first"]


@dataclass(frozen=True)
class ProblemOrder:
    """A position in the order of all problems. Each epoch holds every problem once.

    The order depends only on the seed and the epoch. easy_first and hard_first sort by `rates`; equal rates are in random
    order.

    Example:
        >>> order = ProblemOrder([Problem(id=id, messages=(), answer="") for id in "abc"], seed=0, by="file")
        >>> problems, order = order.batch(2)
        >>> [problem.id for problem in problems], order.epochs
        (['a', 'b'], 0.6666666666666666)
    """

    problems: Sequence[Problem]
    seed: int
    by: Order = "shuffled"
    rates: tuple[float, ...] | None = None
    """Solve rate of each problem."""
    taken: int = 0
    """Number of problems before this position, from the start of the first epoch."""

    @property
    def epochs(self) -> float:
        return self.taken / len(self.problems)

    def batch(self, size: int) -> tuple[list[Problem], "ProblemOrder"]:
        """Return the next `size` problems, all of one epoch, and the position after them.

        The rest of an epoch that does not fill a batch is skipped. There must be at least `size` problems.
        """
        count = len(self.problems)
        start = self.taken if self.taken % count + size <= count else (self.taken // count + 1) * count
        return list(islice(self._after(start), size)), replace(self, taken=start + size)

    def further(self, size: int, *, without: Collection[str]) -> tuple[list[Problem], "ProblemOrder"]:
        """Return up to `size` more problems, and the position after them.

        The next epoch may begin. Problems in `without` (ids) are skipped. Fewer are returned if no other problem remains.
        """
        found: dict[str, Problem] = {}
        size = min(size, len(self.problems) - len(without))
        taken, following = self.taken, self._after(self.taken)
        while len(found) < size:
            problem = next(following)
            if problem.id not in without:
                found[problem.id] = problem
            taken += 1
        return list(found.values()), replace(self, taken=taken)

    def save(self, checkpoint: Path) -> None:
        (checkpoint / TRAINER / ORDER_FILE).write_text(to_json({"taken": self.taken}))

    def restored(self, checkpoint: Path, *, size: int) -> "ProblemOrder":
        """Return the position that a checkpoint holds. Raise RunError if it cannot be read.

        Checkpoints of older versions hold none. All their updates took a batch of `size` problems.
        """
        file = checkpoint / TRAINER / ORDER_FILE
        try:
            return replace(self, taken=int(json.loads(file.read_bytes())["taken"]))
        except FileNotFoundError:
            epochs, batches = divmod(updates_of(checkpoint), len(self.problems) // size)
            return replace(self, taken=epochs * len(self.problems) + batches * size)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise RunError(
                f"{file}, the number of problems taken so far, cannot be read ({type(error).__name__}). Remove this checkpoint "
                "to continue from an earlier one."
            ) from error

    def _after(self, place: int) -> Iterator[Problem]:
        """Yield the problems from a position on, epoch after epoch, without end."""
        epoch, within = divmod(place, len(self.problems))
        while True:
            numbers = _order(self.seed, epoch, len(self.problems), self.by, self.rates)
            yield from (self.problems[number] for number in numbers[within:])
            epoch, within = epoch + 1, 0


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int, by: Order, rates: tuple[float, ...] | None) -> Sequence[int]:
    """Return the numbers of the problems in the order of an epoch."""
    if by == "file":
        return range(count)
    shuffled = random.Random(f"{seed}/{epoch}").sample(range(count), count)
    if by == "shuffled":
        return shuffled
    assert rates is not None, f"{by} needs the solve rates"
    return sorted(shuffled, key=lambda number: rates[number], reverse=by == "easy_first")
