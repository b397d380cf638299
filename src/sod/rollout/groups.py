"""Sample many trajectories concurrently, and return them in groups by problem.

Every attempt is a separate coroutine, and every group is handed on as soon as it is complete. An attempt that fails because of
the infrastructure is tried again with back-off, then dropped and counted. It is never trained on. Seeds depend on (run seed,
update, problem, sample), so the order in which attempts run does not change the samples.
"""

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from sod.config import RolloutOptions, SamplingOptions
from sod.errors import InfrastructureError, OutageError
from sod.processes.concurrency import run_concurrently
from sod.processes.distributed import EVERY_PROCESS
from sod.rollout.agent import Agent
from sod.types import Group, Problem, Trajectory

logger = logging.getLogger(__name__)

TURN_SEEDS = 1 << 16
"""Largest number of seeds of one attempt, one per turn."""


def attempt_seed(seed: int, update: int, problem: str, sample: int) -> int:
    """Return a seed below 2^63 that depends only on these four values. Its low 16 bits are 0, for the number of the turn."""
    digest = hashlib.sha256(f"{seed}/{update}/{problem}/{sample}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") // (2 * TURN_SEEDS) * TURN_SEEDS


def beginning_seed(seed: int, update: int, problem: str) -> int:
    """Return the seed of a problem's environment. All attempts of an update at the problem begin alike."""
    return attempt_seed(seed, update, problem, -1)


async def rollout(
    agent: Agent,
    problems: Sequence[Problem],
    *,
    seed: int,
    update: int,
    began: float | None = None,
    on_trajectory: Callable[[Trajectory | None], None] = lambda trajectory: None,
    on_group: Callable[[Group], Awaitable[None]] | None = None,
) -> list[Group]:
    """Return `group` attempts at each problem, in the order of the problems.

    Calls `on_trajectory` when an attempt ends, with None for a dropped one. Calls `on_group` when a group is complete; attempts
    do not wait for it, but the return does. `began`: time.monotonic() when the sampling of the update began, for
    rollout.update_seconds. Default: now.
    """
    slots = asyncio.Semaphore(agent.options.concurrency)
    group, limit = _sizes(agent.options)
    began = time.monotonic() if began is None else began  # also the clock of an event loop
    end = None if limit is None else began + limit
    causes: set[str] = set()
    ended: dict[str, dict[int, Trajectory | None]] = {problem.id: {} for problem in problems}

    async def attempt(problem: Problem, sample: int) -> None:
        result: Trajectory | str = f"not ended within rollout.update_seconds = {limit} s"
        with suppress(TimeoutError):
            async with asyncio.timeout_at(end), slots:
                result = await _with_retries(agent, problem, sample, seed, update)
        ended[problem.id][sample] = trajectory = _survivor(result, problem, sample, causes)
        on_trajectory(trajectory)
        if on_group is not None and len(ended[problem.id]) == group:
            await on_group(group_of(problem, ended[problem.id]))

    await run_concurrently(attempt(problem, sample) for problem in problems for sample in range(group))
    return [group_of(problem, ended[problem.id]) for problem in problems]


def _sizes(options: SamplingOptions) -> tuple[int, float | None]:
    """Return the attempts per problem and the wall-clock limit of all. Only options of training have them."""
    return (options.group, options.update_seconds) if isinstance(options, RolloutOptions) else (1, None)


async def attempts(
    agent: Agent,
    jobs: Iterable[tuple[Problem, int]],
    *,
    seed: int,
    on_trajectory: Callable[[Problem, int, Trajectory | None], None],
) -> None:
    """Run an attempt for each job (problem, sample). No trajectory is kept, so memory does not grow with their number.

    Calls `on_trajectory` when an attempt ends, with None for a dropped one. The seeds are those of a rollout with update 0.
    """
    causes: set[str] = set()
    left = iter(jobs)

    async def worker() -> None:
        for problem, sample in left:
            result = await _with_retries(agent, problem, sample, seed, 0)
            on_trajectory(problem, sample, _survivor(result, problem, sample, causes))

    await run_concurrently(worker() for _ in range(agent.options.concurrency))


def _survivor(result: Trajectory | str, problem: Problem, sample: int, causes: set[str]) -> Trajectory | None:
    """Return the trajectory, or None if there is only a reason for its loss. Each reason is logged once."""
    if isinstance(result, Trajectory):
        return result
    if result not in causes:
        causes.add(result)
        logger.warning(
            f"attempt {sample} at problem {problem.id!r} was dropped; further drops for the same reason are only counted: "
            f"{result}",
            extra=EVERY_PROCESS,
        )
    return None


async def _with_retries(agent: Agent, problem: Problem, sample: int, seed: int, update: int) -> Trajectory | str:
    """Run an attempt, again after infrastructure failures. -> the trajectory, or the reason for its loss"""
    seeds = attempt_seed(seed, update, problem.id, sample), beginning_seed(seed, update, problem.id)
    cause = ""
    for retry in range(agent.options.retries + 1):
        deadline = asyncio.timeout(agent.options.seconds)
        try:
            async with deadline:
                return await agent.attempt(problem, sample, *seeds)
        except OutageError:
            raise
        except (InfrastructureError, TimeoutError) as error:  # TimeoutError: of the deadline or of a socket
            cause = f"longer than {agent.options.seconds:g} s" if deadline.expired() else str(error) or "timed out"
            if deadline.expired():
                break
            if retry < agent.options.retries:
                await asyncio.sleep(random.uniform(0, 0.1 * 4**retry))
    return cause


def group_of(problem: Problem, attempts: Mapping[int, Trajectory | None]) -> Group:
    """Return the group of a problem's attempts, in the order of their numbers."""
    survivors = [trajectory for _, trajectory in sorted(attempts.items()) if trajectory is not None]
    return Group.of(problem, survivors, dropped=len(attempts) - len(survivors))
