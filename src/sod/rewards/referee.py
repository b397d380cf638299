"""Select the judge of each problem, and compute the parts of the reward."""

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from sod.config import LlmJudgeOptions, RewardOptions
from sod.config.reward import ENVIRONMENT, VERDICT
from sod.errors import DataError, InfrastructureError, OptionError, SodError
from sod.processes.concurrency import Runner, run_concurrently
from sod.processes.distributed import EVERY_PROCESS
from sod.rewards import NO_ANSWER, Attempt, Judge, Verdict, WholeJudge
from sod.rewards.answers import final_turn
from sod.rewards.choice import USUAL
from sod.rewards.kinds import KINDS, JudgeSetup, prove_gold
from sod.rewards.own import OwnJudge, own_rewards, weights_of
from sod.rewards.shaping import reward
from sod.sandbox import Sandbox
from sod.types import Message, Problem, Trajectory

logger = logging.getLogger(__name__)


class Referee:
    """Judge attempts at problems of every kind, and compute their rewards."""

    def __init__(self, sandbox: Sandbox, options: RewardOptions, *, max_tokens: int):
        self._sandbox = sandbox
        self._options = options
        self._max_tokens = max_tokens
        self._judges: dict[tuple[str, int], Judge] = {}
        """By kind and number of options. A judge is built when it is first needed."""
        self._whole = whole_judge(options)
        """A judge of all kinds, in place of the others."""
        self._is_proved = self._whole is None
        self._own = own_rewards(options)
        self._weights = weights_of(options)

    @property
    def needs_answers(self) -> bool:
        """Whether the judges read a gold. If so, only its environment can judge a problem without an answer."""
        return self._whole is None

    def runs_programs(self, problems: Sequence[Problem]) -> bool:
        """Return whether the judge of one of the problems runs programs in the sandbox."""
        return self._whole is None and any(KINDS[problem.kind].runs_programs for problem in problems)

    def as_judge(self, judge: Literal["exact", "reference"]) -> "Referee":
        """Return a referee with other judges and the same options."""
        options = self._options.model_copy(update={"judge": judge})
        return Referee(self._sandbox, options, max_tokens=self._max_tokens)

    def check(self, problems: Sequence[Problem]) -> None:
        """Raise DataError if a problem has no judge, or a gold answer that its judge cannot use.

        A judge of the user's own and a language model use every gold. They are tried once; OptionError if they do not work.
        """
        if self._whole is not None:
            if problems and not self._is_proved:
                with Runner() as loop:
                    loop.run(self._whole.prove(next((each for each in problems if each.answer.strip()), problems[0])))
                self._is_proved = True
            return
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
        """Return the verdict on the last turn of an attempt. The reference judges read the whole `response` instead.

        Raises InfrastructureError if a judge of the user's own fails.
        """
        problem = trajectory.problem
        if self._whole is not None:
            text = final_turn(trajectory.final_text).strip()
            problem = replace(problem, messages=trajectory.messages or problem.messages)  # what the student read
            return await self._whole(text, problem) if text else Verdict(outcome="wrong", reason=NO_ANSWER)
        text = response() if self._options.judge == "reference" else trajectory.final_text
        judge = self._judge_of(problem)
        try:
            return await judge(text, problem.answer)
        except SodError:
            raise
        except Exception as error:  # a fault of this project, which must not cost a run
            logger.warning(
                f"The judge of problem {problem.id!r} failed, so an attempt is ungraded: {type(error).__name__}: {error}. Please "
                "report this, with the attempt and the gold answer.",
                extra=EVERY_PROCESS,
            )
            return Verdict(outcome="ungraded", reason=f"the judge failed: {type(error).__name__}")

    def reward(self, trajectory: Trajectory) -> float:
        """Return the reward of a judged trajectory's verdict."""
        return reward(trajectory, self._options, max_tokens=self._max_tokens)

    async def rewarded(self, trajectory: Trajectory, messages: Callable[[], Sequence[Message]]) -> Trajectory:
        """Return a judged trajectory with the parts of its reward and their weighted sum.

        `messages` returns the conversation, prompt included; it is only called for rewards of the user's own. If one of them
        is an ungraded verdict, the trajectory is ungraded. An ungraded trajectory has no rewards of the user's own.

        Raises InfrastructureError if a reward cannot be computed.
        """
        rewards = {VERDICT: self.reward(trajectory)}
        if trajectory.turn_rewards:
            rewards[ENVIRONMENT] = math.fsum(trajectory.turn_rewards)
        if self._own and trajectory.judged.is_graded:
            found = await self._own_rewards(trajectory, messages())
            for name, value in found.items():
                if isinstance(value, Verdict):
                    trajectory = replace(trajectory, verdict=replace(value, reason=f"{name}: {value.reason}"))
                else:
                    rewards[name] = value
        total = math.fsum(self._weights[name] * value for name, value in rewards.items())
        if not math.isfinite(total):
            raise InfrastructureError(f"the reward is {total}, the weighted sum of {rewards}")
        return replace(trajectory, reward=total, rewards=rewards)

    async def _own_rewards(self, trajectory: Trajectory, messages: Sequence[Message]) -> dict[str, float | Verdict]:
        def attempt() -> Attempt:
            return Attempt(
                problem=trajectory.problem,
                messages=copy.deepcopy(list(messages)),  # a function may change its own
                final_text=trajectory.final_text,
                stop=trajectory.stop,
                verdict=trajectory.judged,
                turn_rewards=trajectory.turn_rewards,
                tool_errors=trajectory.tool_errors,
                response_tokens=trajectory.response_tokens,
            )

        values = await run_concurrently(own(attempt()) for own in self._own)
        return {own.name: value for own, value in zip(self._own, values, strict=True)}


def whole_judge(options: RewardOptions) -> WholeJudge | None:
    """Return the judge of all kinds that `reward.judge` names; None for exact and reference.

    Raises OptionError for another name, and for a judge that cannot be loaded.
    """
    if options.judge == "llm":
        from sod.rewards.llm import LlmJudge  # imports httpx

        return LlmJudge(options.llm)
    if options.judge in ("exact", "reference"):
        return None
    if ":" not in options.judge:
        raise OptionError(
            f"reward.judge: {options.judge!r} is unknown. Choose exact, reference, llm, or give your own as FILE.py:FUNCTION."
        )
    return OwnJudge(options.judge, seconds=options.own_seconds)


def reward_refusals(options: RewardOptions) -> Iterator[str]:
    """Yield why these options cannot work. The files of the user's own functions are imported; no server is asked."""
    for make in (whole_judge, own_rewards, weights_of):
        try:
            make(options)
        except OptionError as error:
            yield str(error)
    given = [name for name, value in options.llm if value != getattr(LlmJudgeOptions(), name)]
    if given and options.judge != "llm":
        yield (
            f"reward.llm.{given[0]} has no effect with reward.judge = {options.judge}. Give --reward.judge llm, or leave it out."
        )
