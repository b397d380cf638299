"""Solve problems during `sod sft`, with the options of a recipe of `sod eval`.

Seeds and numbers are those of `sod eval` with this recipe. The loss chooses the best checkpoint; solve rates are shown beside it.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError
from transformers import PreTrainedModel

from sod.config import EvalOptions, SftOptions
from sod.config.base import first_fault
from sod.config.recipes import read_recipe
from sod.console.progress import Display
from sod.datasets import ProblemSet
from sod.datasets.several import open_sets, sets_fingerprint
from sod.engines.opening import open_engine
from sod.errors import OptionError
from sod.evaluation.intervals import mean_over_problems
from sod.evaluation.measures import Tally
from sod.model.lengths import with_lengths
from sod.planning.checks import check, of_evaluation
from sod.processes.concurrency import Runner
from sod.rollout.groups import attempts, group_of
from sod.rollout.harness import Harness
from sod.runs.contents import content_digests
from sod.types import Problem, Trajectory


@dataclass(frozen=True)
class SolveRates:
    """The problems of a recipe, and the surroundings in which the model solves them."""

    options: EvalOptions
    sets: list[ProblemSet]
    harness: Harness

    @classmethod
    def open(cls, options: SftOptions, folder: Path) -> Self | None:
        """Check the recipe `validate.solve` and open its problems. None without one. `folder`: of the tokenizer."""
        if options.validate.solve is None:
            return None
        measured = with_lengths(solve_options(options))
        check(of_evaluation(measured))
        sets = open_sets(measured)
        return cls(
            measured, sets, Harness.of(folder, measured, [problem for each in sets for problem in each.problems])
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What the numbers depend on, apart from the model."""
        names = {"samples", "seed", "rollout", "reward", "tool", "prompts", "environment"}
        kept = self.options.model_dump(mode="json", include=names)
        contents = content_digests(self.options, [(each.path, each.problems) for each in self.sets])
        kept |= {"files": contents} if contents else {}
        return kept | {"sets": [each.name for each in self.sets], "data": sets_fingerprint(self.sets)}

    @property
    def attempts(self) -> int:
        """Number of attempts in a validation."""
        return self.options.samples * sum(len(each.problems) for each in self.sets)

    def measure(self, model: PreTrainedModel, display: Display) -> dict[str, float]:
        """Return the solve rate of each set, with the half-width of its 95 % interval."""
        wanted = self.options
        ended: dict[str, dict[int, Trajectory | None]] = {}

        def keep(problem: Problem, sample: int, attempt: Trajectory | None) -> None:
            ended.setdefault(problem.id, {})[sample] = attempt
            display.advance()

        jobs = [(p, sample) for each in self.sets for p in each.problems for sample in range(wanted.samples)]
        with (
            Runner() as loop,
            self.harness.working_in(loop),
            open_engine(loop, wanted.engine, model, wanted.rollout) as engine,
        ):
            agent = self.harness.agent(engine, wanted.rollout, logprobs=False)
            loop.run(attempts(agent, jobs, seed=wanted.seed, on_trajectory=keep))
        found: dict[str, float] = {}
        for each in self.sets:
            tally = Tally(each.votes)
            for problem in each.problems:
                tally.add(group_of(problem, ended[problem.id]))
            if tally.solved:
                interval = mean_over_problems(tally.solved)
                found |= {f"validate/{each.name}/avg": interval.mean, f"validate/{each.name}/avg_half": interval.half}
        return {name: value for name, value in found.items() if not math.isnan(value)}


def solve_options(options: SftOptions) -> EvalOptions:
    """Return the options of the recipe `validate.solve`, for the model that is fine-tuned. Raises OptionError."""
    path = options.validate.solve
    assert path is not None
    own: dict[str, Any] = {"model": options.model, "out": options.out}
    shared = {"chat": options.chat.model_dump(), "network": options.network.model_dump()}
    try:
        made = EvalOptions.model_validate(shared | read_recipe(path) | own)
    except ValidationError as error:
        raise OptionError(
            f"validate.solve: {path} is no recipe of `sod eval`: {first_fault(error)}. `sod eval --help` lists its options."
        ) from error
    if made.engine.name not in ("auto", "hf"):
        raise OptionError(
            f"validate.solve: {path} has engine.name = {made.engine.name}, but a model in training is sampled with hf. Remove "
            "engine.name from the recipe."
        )
    return made.model_copy(update={"engine": made.engine.model_copy(update={"name": "hf"})})
