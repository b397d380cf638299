"""The plan of an arena as data: candidates, rounds of screening, cells, and the part of them that a shard does. No torch.

A cell is a training run and its evaluation, in a directory of its own: world x cold start x system x seed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sod.credit.systems import SYSTEMS
from sod.errors import OptionError

T = TypeVar("T")

CONTROLS = ("sham", "random_weights", "random_mask", "random_steps", "suppress_unlikely", "opd_then_grpo")
"""`opsd_unrelated` is the control of OPSD systems whose teacher reads the answer."""
ALWAYS = ("sod", "opd", "grpo")
"""Systems that are compared whatever the screening shows."""
EQUAL_TO_OTHERS = ("sod_uniform",)
"""Systems that compute what another one computes."""
CANDIDATES = tuple(
    name
    for name, traits in SYSTEMS.items()
    if traits.context in (None, "feedback") and name not in (*ALWAYS, *CONTROLS, *EQUAL_TO_OTHERS)
)
"""Without the OPSD systems whose teacher reads the answer or a hint; --methods adds them."""
FINAL = "final"
SCREENING_SEED = 2_000_003
"""Seeds of screening start here. The finals have other seeds, so that a lucky seed does not help twice."""
SEEDS_OF_ROUND = 1_000
LAST_ROUND = 1.5
"""A round is the last one if half of its candidates are at most this many times the finalists."""


@dataclass(frozen=True, slots=True)
class Round:
    """A round of screening, on tuning problems."""

    number: int
    """The first is 1."""
    candidates: int
    kept: int
    seeds: tuple[int, ...]
    updates: int

    @property
    def name(self) -> str:
        return f"round-{self.number}"


def rounds(candidates: int, finalists: int, seeds: int, updates: int) -> list[Round]:
    """Return the rounds that halve the candidates to `finalists`. Each has twice the updates and a seed more than the last.

    The last round drops more than a half, rather than to leave a few for a round of their own.
    """
    planned: list[Round] = []
    while candidates > finalists:
        number = len(planned) + 1
        half = math.ceil(candidates / 2)
        kept = half if half > LAST_ROUND * finalists else finalists
        first = SCREENING_SEED + number * SEEDS_OF_ROUND
        own = tuple(range(first, first + seeds + number - 1))
        planned.append(Round(number, candidates, kept, own, updates * 2 ** (number - 1)))
        candidates = kept
    return planned


def survivors(rates: Mapping[str, float], kept: int) -> list[str]:
    """Return the systems with the highest solve rates, the best first. Among equal rates, the order of `rates` decides."""
    return sorted(rates, key=lambda name: -rates[name])[:kept]


def tied(rates: Mapping[str, float], kept: int) -> list[str]:
    """Return the systems between which only their order decided; empty if none."""
    ranked = survivors(rates, len(rates))
    if not 0 < kept < len(ranked) or rates[ranked[kept - 1]] != rates[ranked[kept]]:
        return []
    return [name for name in ranked if rates[name] == rates[ranked[kept]]]


@dataclass(frozen=True, slots=True)
class Cell:
    start: str
    """Cold start."""
    system: str
    seed: int
    updates: int

    @property
    def name(self) -> str:
        return f"{self.start}/{self.system}/seed-{self.seed}"


def cells(starts: Sequence[str], systems: Sequence[str], seeds: Sequence[int], updates: int) -> list[Cell]:
    """Return the cells of a stage in the order that shards divide."""
    return [Cell(start, system, seed, updates) for system in systems for start in starts for seed in seeds]


@dataclass(frozen=True, slots=True)
class Shard:
    number: int
    """From 1 to `count`."""
    count: int

    @classmethod
    def parse(cls, text: str | None) -> "Shard":
        """Return the shard of "2/8". None: the only one."""
        number, _, count = (text or "1/1").partition("/")
        shard = cls(int(number), int(count))
        if not 1 <= shard.number <= shard.count:
            raise OptionError(f"--shard is {text}. The first number must be at most the second, such as 2/8.")
        return shard

    @property
    def name(self) -> str:
        return f"{self.number}-of-{self.count}"

    def share(self, units: Sequence[T]) -> list[T]:
        """Return the units of this shard: of all units in their order, every `count`-th. All shards together have each once."""
        return list(units[self.number - 1 :: self.count])


def units(stage: str, planned: Sequence[Cell]) -> list[list[Cell]]:
    """Return the cells that one shard must do together. In the finals, seeds share the choice of a learning rate."""
    if stage != FINAL:
        return [[cell] for cell in planned]
    together: dict[tuple[str, str], list[Cell]] = {}
    for cell in planned:
        together.setdefault((cell.system, cell.start), []).append(cell)
    return list(together.values())


def seconds_of_cell(measured: Sequence[tuple[int, float]], updates: int) -> float | None:
    """Estimate the seconds of a cell from (updates, seconds) of finished cells. None without one.

    Cells with as many updates count alone if there are any. Otherwise, seconds are taken as proportional to the updates.
    """
    alike = [seconds for done, seconds in measured if done == updates]
    if alike:
        return math.fsum(alike) / len(alike)
    if not measured:
        return None
    return updates * math.fsum(seconds for _, seconds in measured) / sum(done for done, _ in measured)
