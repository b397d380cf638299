"""Options `--reward`: the judge, the parts of the reward, and a language model as judge."""

from pathlib import Path

from sod.config.base import (
    Count,
    Options,
    Positive,
    PositiveReal,
    Rare,
    ReadsFiles,
    ResumeMayChange,
    Share,
    ToolUse,
)


class LlmJudgeOptions(Options):
    """reward.judge = llm: a language model on an OpenAI-compatible server judges the answers."""

    url: ResumeMayChange[str | None] = None
    """Address of the server, such as http://127.0.0.1:8000. Default: no server."""
    served_name: str | None = None
    """The model's name on the server. Default: the server's only model."""
    key_variable: ResumeMayChange[str] = "OPENAI_API_KEY"
    """Environment variable that holds the server's key, if the server needs one."""
    rubric: ReadsFiles[Path | None] = None
    """Text file with the rules that the model judges by. Default: the rubric that ships, which compares an answer with the gold
    answer."""
    proof: bool = True
    """Refuse to start unless the model judges two sums correctly, a right and a wrong one. Turn it off for a rubric that does not
    judge correctness; then the two verdicts must only be readable."""
    max_tokens: Positive = 2048
    """Longest reply of the model, in tokens, thoughts included. A reply that is cut off leaves the attempt ungraded."""
    seconds: ResumeMayChange[PositiveReal] = 120.0
    """Wall-clock limit of one request, in seconds."""
    retries: ResumeMayChange[Count] = 3
    """Number of retries after a failed request, with growing waits. After the last one the attempt is ungraded."""
    cache: ResumeMayChange[Path | None] = None
    """File (SQLite) that keeps verdicts for later runs. Several runs may share it. Default: verdicts are kept in memory."""


VERDICT, ENVIRONMENT = "verdict", "environment"
"""Names of the parts of the reward that are not functions of the user: the reward of the verdict, and the environment's own."""


class RewardOptions(Options):
    """The reward of a trajectory: 1 for a correct answer, -1 for a wrong one, with two corrections, and parts of your own."""

    judge: Rare[ReadsFiles[str]] = "exact"
    """exact: the judges of docs/rewards.md. reference: the paper's code, which rejects many correct answers; for comparison
    only. llm: a language model on the server at reward.llm.url. FILE.py:FUNCTION: your own judge, a function of the last turn
    and the problem (examples/own_reward.py)."""
    own: Rare[ReadsFiles[tuple[str, ...]]] = ()
    """Further parts of the reward, each FILE.py:FUNCTION. A part is a function of an attempt, async or not, that returns a number
    or a verdict (examples/own_reward.py). Its name is the function's. Default: none."""
    weights: Rare[tuple[str, ...]] = ()
    """Weights of the parts of the reward, each NAME=NUMBER. The reward is their weighted sum. verdict: the reward of the verdict;
    environment: the sum of the environment's rewards of turns; and the functions of reward.own. 0 only logs a part. Default: 1
    for each."""
    own_seconds: Rare[ResumeMayChange[PositiveReal]] = 60.0
    """Your own judge and rewards: wall-clock limit of one call, in seconds. A longer call is an infrastructure failure."""
    tool_use: Rare[ToolUse] = "ran"
    """Reward of a wrong answer after tool calls. ran: min(-0.6, -1 + 0.1 for each turn with a call that ran); malformed calls,
    unknown tools and wrong arguments do not count. paper: the same for each turn with a call, broken calls included
    (docs/rewards.md). reference: always -1.1, as in the paper's code. off: always -1."""
    overlong: Rare[Share] = 0.05
    """Last share of rollout.max_tokens, over which the reward falls linearly by 1 (the paper's 1,024 of 20,480 tokens). 0
    disables the penalty."""
    test_seconds: Rare[PositiveReal] = 6.0
    """Code problems: wall-clock limit of one test, in seconds."""
    test_memory_mb: Rare[Positive] = 4096
    """Code problems: memory limit of one test, in MiB."""
    llm: Rare[LlmJudgeOptions] = LlmJudgeOptions()
