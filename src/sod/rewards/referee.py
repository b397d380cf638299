"""Select the judge of each kind of problem, and compute rewards."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from sod.config import RewardOptions
from sod.errors import DataError
from sod.rewards import Judge, Verdict
from sod.rewards.choice import USUAL
from sod.rewards.kinds import KINDS, JudgeSetup, prove_gold
from sod.rewards.shaping import reward
from sod.sandbox import Sandbox
from sod.types import Message, Problem, Trajectory


class Referee:
    """Judge attempts at problems of every kind, and compute their rewards."""

    def __init__(self, sandbox: Sandbox, options: RewardOptions, *, max_tokens: int):
        self._sandbox = sandbox
        self._options = options
        self._max_tokens = max_tokens
        self._judges: dict[tuple[str, int], Judge] = {}
        """By kind and number of options. A judge is built when it is first needed."""

    def as_judge(self, judge: Literal["exact", "reference"]) -> "Referee":
        """Return a referee with other judges and the same options."""
        options = self._options.model_copy(update={"judge": judge})
        return Referee(self._sandbox, options, max_tokens=self._max_tokens)

    def check(self, problems: Sequence[Problem]) -> None:
        """Raise DataError if a problem has no judge, or a gold answer that its judge cannot use."""
        bad: list[str] = []
        for problem in problems:
            if problem.kind not in KINDS:
                kinds = ", ".join(KINDS)
                raise DataError(f"Problem {problem.id!r} has kind {problem.kind!r}, but judges exist only for {kinds}.")
            try:
                self._check(problem)
            except DataError as error:
                bad.append(f"Problem {problem.id!r} cannot be judged: {error}")
        if bad:
            raise DataError(
                f"{len(bad)} of {len(problems)} problems have a gold answer that no judge can use. {bad[0]}"
            )

    def _check(self, problem: Problem) -> None:
        if self._options.judge == "exact":
            prove_gold(problem.kind, problem.answer, problem.options)
        else:
            self._judge_of(problem).check(problem.answer)

    def _judge_of(self, problem: Problem) -> Judge:
        kind = KINDS[problem.kind]
        key = problem.kind, problem.options if kind.has_options else USUAL
        if key not in self._judges:
            build = kind.judge if self._options.judge == "exact" else kind.reference
            self._judges[key] = build(JudgeSetup(sandbox=self._sandbox, reward=self._options, choices=key[1]))
        return self._judges[key]

    async def judge(self, trajectory: Trajectory, response: Callable[[], str]) -> Verdict:
        """Return the verdict on the last turn of an attempt. The reference judges read the whole `response` instead."""
        text = response() if self._options.judge == "reference" else trajectory.final_text
        problem = trajectory.problem
        return await self._judge_of(problem)(text, problem.answer)

    async def rewarded(self, trajectory: Trajectory, messages: Callable[[], list[Message]]) -> Trajectory:
        """Return a judged trajectory with its reward, and the parts of it by name. `messages` returns its conversation."""
        del messages
        rewards = {"verdict": reward(trajectory, self._options, max_tokens=self._max_tokens)}
        if trajectory.turn_rewards:
            rewards["environment"] = sum(trajectory.turn_rewards)
        return replace(trajectory, rewards=rewards, reward=sum(rewards.values()))
