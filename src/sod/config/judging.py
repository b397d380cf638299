"""Options of a language model as judge."""

from pathlib import Path

from sod.config.base import Count, Options, Positive, PositiveReal, ReadsFiles, ResumeMayChange


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
