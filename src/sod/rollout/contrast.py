"""Dynamic sampling (DAPO, arXiv 2503.14476): which problems of an update are replaced, and which ones it learns from.

GRPO learns right from wrong only on problems whose attempts have different verdicts. `alike` holds, for each problem of the
update by its id and in the order of sampling, whether all its attempts have the same verdict.
"""

from collections.abc import Mapping

from sod.config import RolloutOptions


def wanted(alike: Mapping[str, bool], options: RolloutOptions) -> int:
    """Return how many further problems to sample."""
    missing = options.problems - sum(not same for same in alike.values())
    return max(0, min(missing, int(options.problems * options.resample) - len(alike)))


def chosen(alike: Mapping[str, bool], options: RolloutOptions) -> list[str]:
    """Return the ids of the problems to learn from: those with different verdicts, and others if there are too few."""
    first = set(sorted(alike, key=alike.__getitem__)[: options.problems])
    return [id for id in alike if id in first]
