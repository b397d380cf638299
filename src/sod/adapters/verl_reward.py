"""The judges and the reward of `sod train` in verl: `compute_score` for its custom_reward_function, and a reward manager.

    reward:
      custom_reward_function: {path: pkg://sod.adapters.verl_reward, name: compute_score}
      reward_manager: {source: importlib, name: RewardManager, module: {path: pkg://sod.adapters.verl_reward}}

A row's `extra_info.kind` says who judges it: math (the default), choice or code; `reward_model.ground_truth` is its answer.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from verl.experimental.reward_loop.reward_manager.naive import (  # pyright: ignore[reportMissingImports]
    NaiveRewardManager,
)

from sod.chat.calls import THOUGHT_OPEN
from sod.config import RewardOptions, SandboxOptions, ToolUse
from sod.errors import InfrastructureError
from sod.rewards.referee import Referee
from sod.rewards.shaping import RIGHT, overlong, turns_that_ran, wrong
from sod.sandbox.guarded import open_sandbox
from sod.types import Problem, Trajectory

OBSERVATION_ENDS = "</tool_response>"
"""As Qwen's chat template writes it. What comes after the last one is the last turn, where the answer must stand."""
PROGRAMS_AT_A_TIME = 4
"""For each of verl's reward.num_workers processes."""


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    tool_use: ToolUse = RewardOptions.model_fields["tool_use"].default,
    judge: Literal["exact", "reference"] = "exact",
    prompt_opens_thought: bool = False,
) -> dict[str, Any]:
    """The reward of a response without what depends on its length; `acc` is 1 for a right answer, `pred` what was read.

    `tool_use`, `judge`: as in `sod train --reward...`; `prompt_opens_thought`: whether the chat template writes `<think>` before
    each turn. verl's reward_kwargs sets them. Raises DataError for a row that cannot be judged, and InfrastructureError where
    the judge does not know: verl then goes on without that attempt.
    """
    extra_info = extra_info or {}
    problem = Problem(id=data_source, messages=(), answer=str(ground_truth), kind=extra_info.get("kind") or "math")
    referee = _referee(judge)
    referee.check([problem])
    last_turn = (THOUGHT_OPEN if prompt_opens_thought else "") + solution_str.rpartition(OBSERVATION_ENDS)[2]
    attempt = Trajectory(problem=problem, sample=0, pieces=(), stop="answered", final_text=last_turn)
    verdict = await referee.judge(attempt, lambda: solution_str)
    if verdict.outcome == "ungraded":
        raise InfrastructureError(f"An answer to a problem of {data_source} could not be judged: {verdict.reason}")
    is_right = verdict.outcome == "right"
    called = (
        (extra_info.get("num_turns") or 2) - 2
    ) // 2  # verl's are the user's one, the student's turns and the tool's
    ran = min(called, turns_that_ran(solution_str))
    return {
        "score": RIGHT if is_right else wrong(tool_use, called=called, ran=ran),
        "acc": float(is_right),
        "pred": verdict.answer or "",
    }


@cache
def _referee(judge: Literal["exact", "reference"]) -> Referee:
    sandbox = open_sandbox(SandboxOptions(workers=PROGRAMS_AT_A_TIME))
    return Referee(sandbox, RewardOptions(judge=judge), max_tokens=0)


class RewardManager(NaiveRewardManager):
    """verl's own manager, which says how many turns there were, and the overlong penalty."""

    async def run_single(self, data: Any) -> dict[str, Any]:
        """A response's reward, and what verl writes beside it."""
        result = await super().run_single(data)
        last = data[-1:].batch
        tokens = int(last["attention_mask"][0, -last["responses"].shape[-1] :].sum())
        most = self.config.data.max_response_length
        penalty = overlong(tokens, most, round(RewardOptions().overlong * most))
        extra = result["reward_extra_info"] | {"overlong": penalty}
        return {"reward_score": result["reward_score"] - penalty, "reward_extra_info": extra}
