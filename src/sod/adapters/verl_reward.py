"""Use the judges and the reward of `sod train` in verl, through its custom_reward_function and a reward manager.

    reward:
      custom_reward_function: {path: pkg://sod.adapters.verl_reward, name: compute_score}
      reward_manager: {source: importlib, name: RewardManager, module: {path: pkg://sod.adapters.verl_reward}}

`reward_model.ground_truth` holds the gold answer of a row. `extra_info.kind` selects the judge: math (default), choice or code.
For `choice`, `extra_info.options` is the number of options, or `extra_info.choices` is the list of them. Without both, the
options are A to D, or A to the gold letter if that comes after D.
"""

from collections.abc import Mapping, Sized
from functools import cache
from string import ascii_uppercase
from typing import Any, Literal

from verl.experimental.reward_loop.reward_manager.naive import (  # pyright: ignore[reportMissingImports]
    NaiveRewardManager,
)

from sod.chat.calls import THOUGHT_OPEN
from sod.config import RewardOptions, SandboxOptions, ToolUse
from sod.errors import DataError, InfrastructureError
from sod.rewards.choice import MOST, USUAL, gold_letter
from sod.rewards.kinds import KINDS
from sod.rewards.referee import Referee
from sod.rewards.shaping import RIGHT, overlong, turns_that_ran, wrong
from sod.sandbox.retries import open_sandbox
from sod.types import Problem, Trajectory

OBSERVATION_ENDS = "</tool_response>"
"""The end of a tool result in Qwen's chat template. The text after the last one is the last turn, which holds the answer."""
PROGRAMS_AT_A_TIME = 4
"""Programs that run at the same time, for each of verl's reward.num_workers processes."""


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
    """Return the reward of a response without the overlong penalty.

    In the result, `acc` is 1 for a right answer and 0 for a wrong one, and `pred` is the answer that was read.

    verl's reward_kwargs sets three options. `tool_use` and `judge` are those of `sod train --reward...`. `prompt_opens_thought`
    is true if the chat template writes `<think>` before each turn.

    Raises DataError for a row that cannot be judged. Raises InfrastructureError if the attempt is ungraded; verl then drops it.
    """
    extra_info = extra_info or {}
    kind, gold = extra_info.get("kind") or "math", str(ground_truth)
    options = stated_options(extra_info, gold) if kind in KINDS and KINDS[kind].has_options else USUAL
    problem = Problem(id=data_source, messages=(), answer=gold, kind=kind, options=options)
    referee = _referee(judge)
    referee.check([problem])
    last_turn = (THOUGHT_OPEN if prompt_opens_thought else "") + solution_str.rpartition(OBSERVATION_ENDS)[2]
    attempt = Trajectory(problem=problem, sample=0, pieces=(), stop="answered", final_text=last_turn)
    verdict = await referee.judge(attempt, lambda: solution_str)
    if verdict.outcome == "ungraded":
        raise InfrastructureError(f"An answer to a problem of {data_source} cannot be judged: {verdict.reason}")
    is_right = verdict.outcome == "right"
    # verl counts the user's turn, the student's turns and the tool turns
    called = ((extra_info.get("num_turns") or 2) - 2) // 2
    ran = min(called, turns_that_ran(solution_str))
    return {
        "score": RIGHT if is_right else wrong(tool_use, called=called, ran=ran),
        "acc": float(is_right),
        "pred": verdict.answer or "",
    }


def stated_options(extra_info: Mapping[str, Any], gold: str) -> int:
    """Return the number of options of a multiple-choice row; raises DataError for a number that is not from 2 to 26."""
    stated = extra_info.get("options")
    if stated is None:
        stated = extra_info.get("choices")
    if stated is None:
        letter = gold_letter(gold, MOST)
        return max(USUAL, ascii_uppercase.index(letter) + 1) if letter else USUAL
    count = len(stated) if isinstance(stated, Sized) else int(stated)
    if not 2 <= count <= MOST:
        raise DataError(
            f"The row has {count} options, but the letters A to Z name 2 to {MOST}. Correct `extra_info.options`."
        )
    return count


@cache
def _referee(judge: Literal["exact", "reference"]) -> Referee:
    sandbox = open_sandbox(SandboxOptions(workers=PROGRAMS_AT_A_TIME))
    return Referee(sandbox, RewardOptions(judge=judge), max_tokens=0)


class RewardManager(NaiveRewardManager):
    """Add the overlong penalty to the reward of verl's own manager, which passes the number of turns."""

    async def run_single(self, data: Any) -> dict[str, Any]:
        """Return the reward of a response and the values that verl records beside it."""
        result = await super().run_single(data)
        last = data[-1:].batch
        tokens = int(last["attention_mask"][0, -last["responses"].shape[-1] :].sum())
        most = self.config.data.max_response_length
        penalty = overlong(tokens, most, round(RewardOptions().overlong * most))
        extra = result["reward_extra_info"] | {"overlong": penalty}
        return {"reward_score": result["reward_score"] - penalty, "reward_extra_info": extra}
