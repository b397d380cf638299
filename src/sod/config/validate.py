"""Options `--validate`: problems or demonstrations held out from training, which the model meets while it trains."""

from pathlib import Path
from typing import Literal

from sod.config.base import Count, OptionalNames, Options, Positive, PositiveShare, Rare, ResumeMayChange


class HeldOutOptions(Options):
    """Validate while training, keep the best checkpoint, and stop when nothing improves."""

    data: ResumeMayChange[OptionalNames] = ()
    """Files held out from training. Default: none, no validation."""
    every: ResumeMayChange[Positive] = 10
    """Training iterations between two validations. The first is before training, the last after it."""
    limit: Rare[ResumeMayChange[Positive | None]] = None
    """Number of rows to use from each file, from its beginning. Default: all."""
    stop_after: Rare[ResumeMayChange[Count]] = 0
    """Number of validations in a row without a gain outside the noise, after which the run ends. A gain is outside the noise if
    its 95 % interval, paired by row, is above 0. 0 never ends the run early."""


class ValidateOptions(HeldOutOptions):
    """Solve held-out problems while training, keep the best checkpoint, and stop when nothing improves."""

    data: ResumeMayChange[OptionalNames] = ()
    """Names of benchmarks (`sod data list` shows them) and files of problems held out from training. Default: none, no
    validation."""
    every: ResumeMayChange[Positive] = 10
    """Updates between two validations. The first is before training, the last after it."""
    samples: Rare[ResumeMayChange[Positive]] = 4
    """Samples per problem. Every validation uses the same seeds, so that validations are compared on equal terms."""
    limit: Rare[ResumeMayChange[Positive | None]] = None
    """Number of problems to use from each benchmark or file, from its beginning. Default: all."""
    measure: Rare[ResumeMayChange[Literal["avg", "pass", "maj"]]] = "avg"
    """Measure that chooses the best checkpoint, as a mean over the sets. avg: share of right samples. pass: share of problems
    with a right sample. maj: share of problems that the majority of their samples solves."""
    stop_after: Rare[ResumeMayChange[Count]] = 0
    """Number of validations in a row without a gain outside the noise, after which the run ends. A gain is outside the noise if
    its 95 % interval, paired by problem, is above 0. 0 never ends the run early."""
    top_p: Rare[ResumeMayChange[PositiveShare]] = 0.6
    """Nucleus sampling in validations, as in `sod eval`. All other limits are those of rollout. 1 keeps all tokens."""
    seed: Rare[ResumeMayChange[int]] = 0
    """Seed of the samples, as in `sod eval`. It does not depend on the run's seed, so that runs can be compared."""
    data_dir: Rare[ResumeMayChange[Path]] = Path("data")
    """Directory of benchmark files (NAME.jsonl). Missing benchmarks are downloaded into it."""
    prompts: Rare[ResumeMayChange[Literal["clean", "paper"]]] = "clean"
    """Prompts for the problems of benchmarks, as in `sod eval`."""


class SftValidateOptions(HeldOutOptions):
    """Measure the loss on held-out demonstrations while training, keep the best checkpoint, and stop when nothing improves."""

    data: ResumeMayChange[OptionalNames] = ()
    """Files of demonstrations held out from training. Default: none, no validation."""
    every: ResumeMayChange[Positive] = 50
    """Optimiser steps between two validations. The first is before training, the last after it."""
    limit: Rare[ResumeMayChange[Positive | None]] = None
    """Number of conversations to use from each file, from its beginning. Default: all."""
    stop_after: Rare[ResumeMayChange[Count]] = 0
    """Number of validations in a row without a gain outside the noise, after which the run ends. A gain is a lower loss; it is
    outside the noise if its 95 % interval, paired by conversation, is above 0. 0 never ends the run early."""
    solve: Rare[ResumeMayChange[Path | None]] = None
    """Recipe of `sod eval` with problems that the model solves at each validation: data, samples, limits, tools. The loss still
    chooses the best checkpoint. Requires a single process. Default: none."""
