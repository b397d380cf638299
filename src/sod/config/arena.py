"""Options `--arena` of `sod compare --preset arena`: worlds, cold starts, screening."""

from typing import Annotated, Literal

from pydantic import Field

from sod.config.base import Options, Positive, PositiveReal
from sod.config.lab import World

ColdStart = Literal["usual", "short"]


class ArenaOptions(Options):
    """Worlds, cold starts and screening of `--preset arena`."""

    worlds: Annotated[tuple[World, ...], Field(min_length=1)] = ("sums", "household", "shop", "maze", "database")
    """Worlds to compare in, one after the other (docs/worlds.md)."""
    starts: Annotated[tuple[ColdStart, ...], Field(min_length=1)] = ("usual", "short")
    """Cold starts of the student in each world. usual: that of `sod lab make`. short: half as many demonstrations,
    and another seed."""
    finalists: Positive = 10
    """Number of systems that screening keeps in each world. SOD, OPD, GRPO and the controls are always compared as well."""
    screen_seeds: Positive = 1
    """Training seeds of the first screening round. Each further round has one more."""
    screen_updates: Positive = 10
    """Updates of the first screening round. Each further round has twice as many."""
    train_problems: Positive = 1_000
    """Number of problems for training."""
    eval_problems: Positive = 200
    """Number of problems for evaluation. Screening does not use them."""
    demonstrations: Positive | None = None
    """Demonstrations of the usual cold start. Default: as many as `sod lab make` uses."""
    seed_spread: PositiveReal = 2.0
    """Standard deviation of a difference of two solve rates between training seeds, in percentage points. For the power before
    two seeds were measured."""
    problem_spread: PositiveReal = 10.0
    """Standard deviation of a difference of two solve rates between problems, in percentage points. For the power before two
    seeds were measured."""
    prepare: bool = False
    """Create the worlds, then exit. Copy the directory to all machines before you start shards there."""
