"""Options of a trajectory: its tokens, tools, sandbox, reward and sampling."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import DisallowNone

from sod.config.base import (
    Count,
    Options,
    Positive,
    PositiveReal,
    PositiveShare,
    Rare,
    ReadsFiles,
    ResumeMayChange,
    Share,
    ToolUse,
)
from sod.config.judging import LlmJudgeOptions

BUILT_IN_TEMPLATE = "hermes"
"""The chat template that is a part of this package."""


class ChatOptions(Options):
    """How messages become tokens."""

    template: ReadsFiles[str | None] = None
    """Chat template in place of the tokenizer's own; every checkpoint stores it. hermes: a template with tools for models
    without one, such as SmolLM2 and base models. FILE.jinja: your own. Default: the tokenizer's own template."""
    on_drift: Rare[Literal["error", "append"]] = "error"
    """What to do if the chat template rewrites earlier turns. error: stop before the run. append: train and sample on the
    appended tokens. The empty thought that Qwen3's template adds to the last turn is not an error."""
    thinking: DisallowNone[bool | None] = None
    """Whether the student thinks before it answers. The chat template receives the value as `enable_thinking`; Qwen3's hybrid
    models read it. Default: the chat template decides."""


class ToolOptions(Options):
    """The tools: the code interpreter, other shipped tools, your own, and those of MCP servers."""

    use: Rare[tuple[Literal["code_interpreter", "sql", "search"], ...]] = ("code_interpreter",)
    """Shipped tools that the student can call. sql: queries of a SQLite database. search: passages of tool.documents."""
    name: Rare[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]] = "code_interpreter"
    """The code interpreter's name in the prompt. Set it to the name in the demonstrations, such as python."""
    session: Rare[Literal["off", "on"]] = "off"
    """Whether the programs of a trajectory share variables, imports and files. off: as in the paper, each program starts anew.
    on: like the cells of a notebook, in one process (docs/tools.md). A stopped program ends the process."""
    session_seconds: Rare[PositiveReal] = 600.0
    """tool.session = on: wall-clock limit of all programs of a session together, in seconds."""
    seconds: Rare[PositiveReal] = 60.0
    """Wall-clock limit of one program, query or call of a tool, and of one turn in an environment, in seconds."""
    memory_mb: Rare[Positive] = 2048
    """Memory limit of one program, in MiB."""
    max_chars: Rare[Positive] = 4096
    """Longest output or answer of an environment that the student reads, in characters. The middle of a longer one is replaced
    by a note."""
    errors: Rare[Literal["traceback", "last_line"]] = "traceback"
    """What the student reads after an exception: the whole traceback, or its last line."""
    faults: Rare[Share] = 0.0
    """Share of calls to damage on purpose: the last character of the call is removed before it runs. Use it to study how the
    student recovers from errors that it did not cause. 0 damages none."""
    show_last_expr: Rare[Literal["expr", "off", "reference"]] = "expr"
    """expr: print the value of a final expression, like a notebook. off: only run the program. reference: rewrite the program
    and cut its output like the paper's code, which breaks many correct programs; for comparison only."""
    own: Rare[ReadsFiles[tuple[str, ...]]] = ()
    """Additional tools, each FILE.py:FUNCTION. A tool is a function with type hints and a docstring, async or not
    (examples/your_tool.py). Tools run in the process of `sod`, not in the sandbox."""
    database: Rare[ReadsFiles[Path | None]] = None
    """tool.use = sql: SQLite database that the student reads. Default: the problem's file that ends in .db, .sqlite or
    .sqlite3."""
    max_rows: Rare[Positive] = 100
    """tool.use = sql: largest number of rows of one answer."""
    documents: Rare[ReadsFiles[Path | None]] = None
    """tool.use = search: folder of documents (.txt, .md, .jsonl), which is read at the start. Default: no documents."""
    passages: Rare[Positive] = 3
    """tool.use = search: number of passages of one answer."""
    mcp: Rare[ReadsFiles[tuple[str, ...]]] = ()
    """MCP servers that offer more tools, each a command in quotes or an address: "python server.py" http://127.0.0.1:9000/mcp.
    Servers run outside the sandbox."""
    mcp_only: Rare[tuple[str, ...]] = ()
    """Names of the servers' tools that the student can call. Default: all."""
    mcp_session: Rare[Literal["shared", "trajectory"]] = "shared"
    """shared: all trajectories use one session with each server. trajectory: each has a session of its own, which for a command
    is a process of its own. Use it for servers that keep state."""


class SandboxOptions(Options):
    """Where programs run: the student's tool calls and, for code problems, its answers."""

    backend: Literal["local", "fusion", "unsafe_subprocess"] = "local"
    """local: on this machine, confined by the kernel (Linux only). fusion: on the SandboxFusion server at sandbox.url.
    unsafe_subprocess: on this machine with limits but NOT confined; programs can read, write and connect as you can."""
    url: Rare[str | None] = None
    """Address of the SandboxFusion server, such as http://127.0.0.1:8080. Default: no server."""
    workers: Rare[ResumeMayChange[Positive | None]] = None
    """Number of programs that run at the same time. Default: one per processor, or 16 on a server."""
    retries: Rare[ResumeMayChange[Count]] = 2
    """Number of retries after the sandbox fails to run a program. A program that fails with an error is not retried."""
    max_failure_rate: Rare[ResumeMayChange[Share]] = 0.05
    """Share of the latest 100 programs that the sandbox may fail to run. Above it, the run pauses until the sandbox works."""
    patience: Rare[ResumeMayChange[PositiveReal]] = 600.0
    """Longest pause for a sandbox that does not work, in seconds. After it, the run stops with exit status 75."""


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


class SamplingOptions(Options):
    """How the student's trajectories are sampled."""

    temperature: PositiveReal = 1.0
    """Sampling temperature. The teacher's log-probabilities are computed at the same temperature."""
    top_p: Rare[PositiveShare] = 1.0
    """Nucleus sampling: sample from the most likely tokens that together have this probability. 1 keeps all tokens."""
    max_turns: Positive = 16
    """Largest number of turns with a tool call. One turn more ends the trajectory."""
    max_turn_tokens: Rare[Positive | None] = None
    """Longest turn, in tokens. Default: as many as rollout.max_tokens leaves."""
    max_prompt_tokens: Positive = 2560
    """Longest prompt, in tokens. A longer prompt is an error that names the problem."""
    max_tokens: Positive = 20480
    """Longest response, in tokens, tool outputs included."""
    max_repeats: Rare[Annotated[int, Field(ge=2)]] = 4
    """Number of identical turns in a row that ends a trajectory."""
    seconds: Rare[ResumeMayChange[PositiveReal]] = 1800.0
    """Wall-clock limit of one trajectory, in seconds. A trajectory over the limit is dropped and counted."""
    concurrency: Rare[ResumeMayChange[Positive]] = 64
    """Number of trajectories sampled at the same time."""
    retries: Rare[ResumeMayChange[Count]] = 2
    """Number of retries after the infrastructure fails during a trajectory. After the last one the trajectory is dropped."""


class GuidedOptions(Options):
    """Turns that the teacher writes into the student's trajectories (Guided-OPD). They are context and never trained on."""

    probability: Share = 0.0
    """Probability that the teacher writes a turn in place of the student, in the first update. The first turn and the answer are
    always the student's. Needs a teacher on this machine with the student's tokenizer. 0: the student writes every turn."""
    until: PositiveShare = 0.5
    """Share of the updates after which the student writes every turn. The probability falls linearly until then."""

    def at(self, progress: float) -> float:
        """Return the probability when this share of the updates is done."""
        return self.probability * max(0.0, 1 - progress / self.until)


class RolloutOptions(SamplingOptions):
    """How the student's trajectories are sampled."""

    problems: Positive = 64
    """Problems per update."""
    group: Positive = 16
    """Trajectories per problem. GRPO compares the trajectories of one problem with each other."""
    resample: Rare[Annotated[float, Field(ge=1)]] = 1.0
    """Dynamic sampling (DAPO): replace problems whose attempts all have the same verdict by further problems, until an update has
    sampled this factor times rollout.problems. If that is not enough, such problems fill the update. Default: 1, no further
    problems."""
    ahead: Rare[Literal[0, 1]] = 0
    """Number of batches that are sampled ahead. 1: the next batch is sampled while this one is learnt, with weights that are one
    update older; learn.correction weighs its tokens. Needs vLLM, best on another GPU. 0: every batch is sampled with the weights
    that learn from it, as in the paper."""
    update_seconds: Rare[ResumeMayChange[PositiveReal | None]] = None
    """Wall-clock limit of the sampling of one update, in seconds. Unfinished trajectories are dropped and counted. Default: no
    limit."""
    guided: Rare[GuidedOptions] = GuidedOptions()


class ProblemOptions(Options):
    """Choose and order the problems of training."""

    order: Literal["shuffled", "file", "easy_first", "hard_first"] = "shuffled"
    """Order of the problems in each epoch. shuffled: at random. file: as in the file. easy_first, hard_first: by the solve rates
    of problems.rates."""
    rates: ResumeMayChange[Path | None] = None
    """Finished run of `sod eval` on --data, usually with the student: the measured solve rate of every problem. Default: no
    rates."""
    lowest: Share = 0.0
    """Leave out problems with a lower solve rate. 0 leaves out none."""
    highest: Share = 1.0
    """Leave out problems with a higher solve rate. 1 leaves out none."""


class EvalRolloutOptions(SamplingOptions):
    """How the student's trajectories are sampled."""

    top_p: PositiveShare = 0.6
    """Nucleus sampling: sample from the most likely tokens that together have this probability. 1 keeps all tokens."""


class EngineOptions(Options):
    """How the student's tokens are sampled."""

    name: Literal["auto", "hf", "vllm", "vllm_server", "served"] = "auto"
    """auto: vllm on a GPU if it is installed, otherwise hf; a run keeps its engine. hf: Transformers, in the same process, with
    the policy's own weights. vllm: vLLM in a separate process on this machine. vllm_server: the vLLM server at engine.url.
    Weights are synced to vLLM after every update, and its log-probabilities are verified against the policy's. served: any
    model on the OpenAI-compatible server at engine.url; only for `sod eval` and `sod rollout`."""
    url: Rare[ResumeMayChange[str | None]] = None
    """Address of the server, such as http://127.0.0.1:8000. Default: no server."""
    served_name: Rare[str | None] = None
    """engine.name = served: the model's name on the server. Default: the server's only model."""
    key_variable: Rare[ResumeMayChange[str]] = "OPENAI_API_KEY"
    """engine.name = served: environment variable that holds the server's key, if the server needs one."""
    patience: Rare[ResumeMayChange[PositiveReal]] = 600.0
    """engine.name = served: longest wait for a server that does not respond, in seconds. After it, the run stops with exit
    status 75; run the command again to continue."""
    memory_share: Rare[ResumeMayChange[Share]] = 0.4
    """Share of the GPU's memory that vLLM uses, or that keys and values of engine.name = hf use at most. Not used on a CPU."""
    kv_dtype: Rare[Literal["auto", "fp8"]] = "auto"
    """engine.name = vllm: data type of keys and values. fp8: half the memory of bfloat16, with rounding that learn.correction
    weighs. auto: that of the weights."""
    sleep: Rare[ResumeMayChange[bool]] = False
    """engine.name = vllm on a GPU: free vLLM's memory while the student learns. Its weights wait in CPU memory."""
    exchange: Rare[ResumeMayChange[Path | None]] = None
    """Directory through which vLLM receives weights. Both processes must see it. Default: the system's temporary directory."""
