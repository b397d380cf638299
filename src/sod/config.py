"""Every option once: its meaning, unit, range and default. The defaults are the paper's, where it gives one.

The docstring under a field is its `--help`. Options are immutable; an unknown one is an error that names the nearest
(`sod.cli`). Nothing here imports torch.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from tyro.conf import Positional, arg

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveReal = Annotated[float, Field(gt=0)]
Real = Annotated[float, Field(ge=0)]


def _as_names(value: Any) -> Any:
    """One name, or a path, may stand for itself."""
    return tuple(map(str, (value,) if isinstance(value, str | Path) else value))


Names = Annotated[tuple[str, ...], BeforeValidator(_as_names), Field(min_length=1)]


ToolUse = Literal["ran", "paper", "reference", "off"]
"""What a wrong answer's tool calls are worth."""


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ChatOptions(Options):
    """How messages become tokens."""

    on_drift: Literal["error", "append"] = "error"
    """Where the chat template would rewrite history: refuse, or use the appended tokens everywhere alike. An empty thought, which
    Qwen3's template writes into the last turn alone, is no reason to refuse."""
    thinking: bool | None = None
    """True or False: whether the student thinks first. The chat template gets it as `enable_thinking`, which Qwen3's hybrid
    models read. Default: the template's own."""


class ToolOptions(Options):
    """The code interpreter."""

    seconds: PositiveReal = 60.0
    """Wall-clock limit of one program, in seconds."""
    memory_mb: Positive = 2048
    """Memory limit of one program, in MiB."""
    max_chars: Positive = 4096
    """Characters of output that the student reads; the middle of longer output is left out, and said so."""
    errors: Literal["traceback", "last_line"] = "traceback"
    """What the student reads of an exception: the whole traceback, or its last line."""
    faults: Share = 0.0
    """Share of calls that fail through no fault of the student's: their last character is lost on the way, and the student
    reads what comes of it. Real tools fail now and then; this makes recovery from it something that can be studied."""
    show_last_expr: Literal["expr", "off", "reference"] = "expr"
    """expr: show the value of a trailing expression, as a notebook does. off: run the program and nothing else.
    reference: rewrite the program and cut its output as the paper's code does, which breaks many right programs; for
    comparison only."""
    own: tuple[str, ...] = ()
    """Tools of your own beside the interpreter, FILE.py:FUNCTION each: functions, async or not, with type hints and a docstring
    (examples/your_tool.py). They run in this process, not in the sandbox."""


class SandboxOptions(Options):
    """Where programs run: the student's calls of the interpreter and, for code problems, its answers."""

    backend: Literal["local", "fusion", "unsafe_subprocess"] = "local"
    """local: on this machine, confined by the kernel (Linux). fusion: a SandboxFusion server at `url`. unsafe_subprocess:
    on this machine with limits but NOT confined: programs can read, write and connect as you can."""
    url: str | None = None
    """Address of the SandboxFusion server, such as http://127.0.0.1:8080."""
    workers: Positive | None = None
    """Programs run at a time; None is one per processor, or 16 on a server."""
    retries: Count = 2
    """How often a program that could not be run, through no fault of its own, is tried again."""
    max_failure_rate: Share = 0.05
    """Share of the latest 100 programs that could not be run above which the run pauses, to wait for the sandbox."""
    patience: PositiveReal = 600.0
    """Seconds to wait for a sandbox that is down before the run stops with exit status 75, to be resumed."""


class RewardOptions(Options):
    """What an attempt is worth: 1 for a right answer, -1 for a wrong one, and two corrections."""

    judge: Literal["exact", "reference"] = "exact"
    """exact: see docs/rewards.md. reference: the verdicts of the paper's code, which reject many right answers; for
    comparison only."""
    tool_use: ToolUse = "ran"
    """A wrong answer after more tool calls is a little less bad. ran: min(-0.6, -1 + 0.1 for each turn with a call that ran);
    malformed calls, unknown tools and wrong arguments earn nothing. paper: the same for each turn that called, broken calls
    included (docs/rewards.md). reference: -1.1 for every wrong answer, as the paper's code comes out. off: -1."""
    overlong: Share = 0.05
    """Last share of rollout.max_tokens over which the reward falls linearly by 1 (the paper's 1,024 of 20,480); 0 is off."""
    test_seconds: PositiveReal = 6.0
    """Code problems: wall-clock limit of one test, in seconds."""
    test_memory_mb: Positive = 4096
    """Code problems: memory limit of one test, in MiB."""


class RolloutOptions(Options):
    """How the student's trajectories are sampled."""

    problems: Positive = 64
    """Problems per update."""
    group: Positive = 16
    """Trajectories per problem; GRPO compares them with each other."""
    temperature: PositiveReal = 1.0
    """Sampling temperature; the teacher is scored at the same one."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: keep the likeliest tokens up to this probability mass."""
    max_turns: Positive = 16
    """Turns with a tool call that a trajectory may have; one more ends it."""
    max_turn_tokens: Positive | None = None
    """Tokens that one turn may have; None is whatever is left of max_tokens."""
    max_prompt_tokens: Positive = 2560
    """Longest prompt, in tokens; a longer one is an error that names the problem."""
    max_tokens: Positive = 20480
    """Longest response, in tokens, observations included."""
    max_repeats: Annotated[int, Field(ge=2)] = 4
    """The same turn this many times in a row ends the trajectory."""
    seconds: PositiveReal = 1800.0
    """Wall-clock limit of one attempt, in seconds; a later one is dropped and counted."""
    update_seconds: PositiveReal | None = None
    """Wall-clock limit of all attempts of an update together, in seconds; what has not ended by then is dropped and
    counted. None is no limit."""
    concurrency: Positive = 64
    """Trajectories under way at a time."""
    retries: Count = 2
    """How often an attempt that failed through our own machinery is tried again before it is dropped."""


class LearnOptions(Options):
    """How the student's weights change."""

    lr: PositiveReal = 1e-6
    """Peak learning rate of AdamW."""
    warmup: Count = 0
    """Optimiser steps over which the learning rate rises linearly from 0."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    weight_decay: Real = 0.01
    """AdamW's weight decay."""
    clip_grad: PositiveReal = 1.0
    """Largest norm of the gradient; a larger one is scaled down to it."""
    clip_low: Share = 0.2
    """The policy ratio counts down to 1 - clip_low."""
    clip_high: Real = 0.28
    """The policy ratio counts up to 1 + clip_high."""
    minibatches: Positive = 4
    """Optimiser steps per batch of rollouts; whole groups stay together."""
    microbatch_tokens: Positive = 16384
    """Tokens per forward pass, packed end to end: the memory knob. It does not change the result."""
    checkpointing: bool = False
    """Keep only the layers' inputs and compute the rest again in the backward pass: a fraction of the memory, a third more
    time."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw_8bit: AdamW with moments of 8 bits (bitsandbytes, extra `lean`): 2 instead of 8 bytes a weight."""
    lora_rank: Count = 0
    """Learn a low-rank difference of this rank to every linear layer, instead of all weights (PEFT, extra `lean`); 0 is off.
    Checkpoints hold whole models all the same."""
    lora_alpha: PositiveReal = 32.0
    """Factor of that difference, over its rank."""


class EvalRolloutOptions(RolloutOptions):
    """How the student's trajectories are sampled."""

    top_p: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Nucleus sampling: keep the likeliest tokens up to this probability mass."""


class SftLearnOptions(LearnOptions):
    """How the student's weights change."""

    lr: PositiveReal = 5e-5
    """Peak learning rate of AdamW."""
    minibatches: Positive = 1
    """Has no effect here: `batch` says how many conversations an optimiser step learns from."""


class AlgorithmOptions(Options):
    """Who gives credit to a token, and how much."""

    name: str = "sod"
    """sod: GRPO plus the step-weighted teacher. opd, also called sod_uniform: GRPO plus the unweighted teacher;
    opd_without_grpo: that teacher alone. grpo: the reward alone. opsd_gt, opsd_hint: the student's own first weights as the
    teacher, shown the answer or a hint. sod_decay, sod_mask_after_error, sod_unclipped, sod_without_grpo: the paper's
    ablations. gated, position, trust_region, sign_consistent, curriculum, entropy, drift_from_median, drift_with_floor,
    per_error, entropy_in_trust_region: other weighting rules beside GRPO (docs/algorithm.md). sham: a control that learns
    from shuffled rewards, with no teacher. FILE.py:FUNCTION: a weighting rule of your own, beside GRPO."""
    coef: Real = 1.0
    """Factor of the teacher's term."""
    divergence: Literal["sampled", "exact"] = "sampled"
    """sampled: the teacher is asked about the tokens that were sampled, as in the paper. exact: about every candidate at each
    position, each counted by its probability; the same in the mean, without the noise of the draw."""
    candidates: Positive = 64
    """For an exact divergence: the likeliest tokens of the student that count, at each position."""
    epsilon: PositiveReal = 1e-6
    """Added to every divergence in Eq. 7, in nats."""
    delta: Real = 0.2
    """Largest step weight is 1 + delta."""
    decay: Share = 0.9
    """For sod_decay: each step after the first tool error weighs this much of the one before."""


class OpsdOptions(Options):
    """On-policy self-distillation (opsd_gt, opsd_hint): the student's own model as a teacher that is told more."""

    template: str | None = None
    """What the teacher reads in place of the student's last message: {question} is that message, {context} the answer or the
    hint. None is a plain wording of both."""
    decay: Decay | None = None
    """None: the teacher stays the student as it was at first. Otherwise it follows the student as an exponential moving
    average that keeps this share of itself at each update."""


class EngineOptions(Options):
    """Who writes the student's tokens."""

    name: Literal["hf", "vllm", "vllm_server", "served"] = "hf"
    """hf: Transformers, in this process, on the policy's own weights. vllm: vLLM in a process of its own on this machine.
    vllm_server: a vLLM server at `url`. vLLM gets the weights after every update, and proves that it samples with them.
    served: whatever model an OpenAI-compatible server at `url` serves, as it is; to measure it, not to train."""
    url: str | None = None
    """Address of the server, such as http://127.0.0.1:8000."""
    served_name: str | None = None
    """For served: the model's name there; None is the only one that it has."""
    key_variable: str = "OPENAI_API_KEY"
    """For served: environment variable with the server's key, if it wants one."""
    patience: PositiveReal = 600.0
    """For served: seconds to wait for a server that has vanished before the run stops with exit status 75, to be continued."""
    memory_share: Share = 0.4
    """Share of the GPU's memory that vllm takes."""
    exchange: Path | None = None
    """Folder through which vLLM gets weights, seen by both sides; None is the system's for temporary files."""


class ScoreOptions(Options):
    """How the student and the teacher say what they think of every sampled token."""

    student: Literal["recompute", "sampler"] = "recompute"
    """Where the student's log-probabilities come from, against which the policy ratio and the divergence are. recompute: a
    forward pass over every trajectory, as in the paper; results repeat bit for bit. sampler: what the engine sampled with,
    which differs by rounding (checked on the longest trajectory of each group) and saves that pass."""
    teacher_dtype: Literal["same", "float32", "bfloat16"] = "same"
    """Type of the teacher's weights; same is network.dtype. bfloat16 halves a float32 teacher's memory."""
    offload_teacher: bool = False
    """Keep the teacher's weights in the computer's memory, and on the GPU only while it scores a group."""
    shard_teacher: bool = False
    """With several processes: divide the teacher's weights among them, where one GPU cannot hold it. It then scores when all
    have sampled, instead of meanwhile."""
    teacher_url: str | None = None
    """Address of a vLLM server that serves the teacher, such as http://127.0.0.1:8001; --teacher then names where its
    tokenizer is. If its weights are there, too, the server is checked against a forward pass with them."""
    teacher_served_name: str | None = None
    """The teacher's name there; None is the only one that it has."""
    teacher_patience: PositiveReal = 600.0
    """Seconds to wait for that server when it has vanished before the run stops with exit status 75, to be continued."""


class ModelOptions(Options):
    """The networks of student and teacher."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights and of the arithmetic; the optimiser always works on float32."""
    device: str = "auto"
    """Where models live: cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""


class SftOptions(Options):
    """Cold start: fine-tune a model on demonstrations (multi-turn conversations with tool calls)."""

    model: Path
    """The model to start from: a directory in Hugging Face format, or a name on the hub, ORG/NAME or ORG/NAME@REVISION."""
    data: Path
    """Demonstrations: .jsonl or .parquet with a `messages` column, and optionally `tools`."""
    out: Path
    """Run directory to create."""
    epochs: PositiveReal = 5.0
    """Passes over the data."""
    batch: Positive = 128
    """Conversations per optimiser step."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: down to 0 along a cosine, or constant."""
    shuffle: bool = True
    """Draw conversations in a new order each epoch; off keeps the file's order (a curriculum)."""
    max_tokens: Positive = 32768
    """Longer conversations are cut at the right, and counted."""
    seed: int = 0
    """Seed of the data's order."""
    save_every: Positive = 500
    """Optimiser steps between checkpoints."""
    resume: bool = False
    """Continue the run in `out` from its newest checkpoint."""
    processes: Positive | None = None
    """How many processes `torchrun` must have started; any other number is an error. None takes what there is."""
    dry_run: bool = False
    """Say what would be done, and what it takes; do nothing."""
    learn: SftLearnOptions = SftLearnOptions()
    chat: ChatOptions = ChatOptions()
    network: ModelOptions = ModelOptions()


class TrainOptions(Options):
    """Learn on policy: the student samples trajectories, teacher and reward judge them, the student learns."""

    student: Path
    """The student: a run of `sod sft` (its newest checkpoint), a directory in Hugging Face format, or a name on the hub."""
    data: Path
    """Problems with verifiable answers: .jsonl or .parquet."""
    out: Path
    """Run directory to create."""
    teacher: Path | None = None
    """The teacher, likewise, with the student's vocabulary; not needed for grpo, sham and opsd."""
    updates: Positive = 150
    """Trips of the loop: sample, score, learn."""
    seed: int = 0
    """Seed of the run; each rollout's own seed derives from it, the update, the problem and the sample."""
    save_every: Positive = 10
    """Updates between checkpoints."""
    keep: Positive = 2
    """Newest checkpoints to keep beside the last."""
    stop_on: tuple[str, ...] = ()
    """Alarms that stop the run, after a checkpoint; all are said in any case. There are tool_calls, malformed_calls,
    truncated, entropy_collapse, entropy_explosion, divergence, silent_teacher, saturated_weights, outlier_tokens,
    no_contrast, cold_start, unsolved, shaped_reward, sampler_drift and lost_attempts."""
    save_trajectories: Count = 64
    """Trajectories of each update to keep in the run directory."""
    resume: bool = False
    """Continue the run in `out` from its newest checkpoint."""
    processes: Positive | None = None
    """How many processes `torchrun` must have started; any other number is an error. None takes what there is."""
    dry_run: bool = False
    """Say what would be done, and what it takes; do nothing."""
    algorithm: AlgorithmOptions = AlgorithmOptions()
    opsd: OpsdOptions = OpsdOptions()
    rollout: RolloutOptions = RolloutOptions()
    engine: EngineOptions = EngineOptions()
    score: ScoreOptions = ScoreOptions()
    learn: LearnOptions = LearnOptions()
    reward: RewardOptions = RewardOptions()
    tool: ToolOptions = ToolOptions()
    sandbox: SandboxOptions = SandboxOptions()
    chat: ChatOptions = ChatOptions()
    network: ModelOptions = ModelOptions()


class EvalOptions(Options):
    """Measure a model: avg@n with its errors, pass@k, maj@n, tool errors, divergence. Run it again to continue after an
    interruption, or with more samples: what has been sampled is not sampled again. `sod eval --compare A B` compares two."""

    model: Path
    """What to measure: a model's directory, a run of `sod train` or `sod sft` (its newest checkpoint), or a name on the
    Hugging Face hub, ORG/NAME or ORG/NAME@REVISION. With engine.name = served, where its tokenizer is."""
    data: Names
    """Benchmarks by name (`sod data list` shows them), and files of your own (.jsonl, .parquet)."""
    out: Path
    """Run directory to create, or to continue in."""
    data_dir: Path = Path("data")
    """Where benchmarks are looked for, as NAME.jsonl, and fetched to if they are not there."""
    prompts: Literal["clean", "paper"] = "clean"
    """Wording around a benchmark's problems (datasets/prompts.toml). clean: ours. paper: what the paper's code asks for.
    Problems in files of your own are asked as they stand there."""
    teacher: Path | None = None
    """If given, also measure the divergence from this model."""
    samples: Positive = 32
    """Samples per problem (the n of avg@n, maj@n)."""
    limit: Positive | None = None
    """Evaluate only the first N problems of each benchmark or file. A file of your own is read and checked up to there
    alone."""
    judges: tuple[Literal["reference"], ...] = ()
    """Who else is to judge the same samples. reference: the paper's code, which rejects many right answers."""
    paper: str | None = None
    """Row of the paper's table to show beside the results, such as sod-1.7b, grpo-0.6b, teacher-4b."""
    microbatch_tokens: Positive = 16384
    """Tokens per forward pass when divergence is measured."""
    seed: int = 0
    """Seed of the samples."""
    dry_run: bool = False
    """Say what would be done, and what it takes; do nothing."""
    rollout: EvalRolloutOptions = EvalRolloutOptions()
    engine: EngineOptions = EngineOptions()
    score: ScoreOptions = ScoreOptions()
    reward: RewardOptions = RewardOptions()
    tool: ToolOptions = ToolOptions()
    sandbox: SandboxOptions = SandboxOptions()
    chat: ChatOptions = ChatOptions()
    network: ModelOptions = ModelOptions()


class CompareEvaluationsOptions(Options):
    """Two evaluations side by side: differences of their solve rates, paired by problem, with 95 % intervals."""

    first: Annotated[Path, Positional, arg(metavar="A")]
    """Run directory of `sod eval`."""
    second: Annotated[Path, Positional, arg(metavar="B")]
    """Another one, on the same benchmarks."""
    out: Path | None = None
    """File to write the comparison to, as JSON."""


class RolloutCommandOptions(EvalOptions):
    """Make demonstrations: sample trajectories of any model, keep the best right ones of each problem, and write them as
    data for `sod sft`. Run it again to continue after an interruption."""

    samples: Positive = 8
    """Trajectories per problem."""
    keep: Positive = 1
    """Demonstrations per problem: of the right ones, those with the fewest tool errors, then the shortest."""
    demonstrations: Path | None = None
    """File to write; None is demonstrations.jsonl in `out`."""


class ExportOptions(Options):
    """Write a model as a Hugging Face folder with a card: recipe, data, results with their errors. Loadable by Transformers
    and vLLM."""

    model: Annotated[Path, Positional, arg(metavar="MODEL")]
    """A run of `sod train` or `sod sft` (its newest checkpoint), or one of its checkpoints."""
    out: Path
    """Folder to create."""
    results: tuple[Path, ...] = ()
    """Run directories of `sod eval` whose results the card tells."""
    dtype: Literal["same", "float32", "bfloat16"] = "same"
    """Type of the weights that are written."""
    name: str | None = None
    """What the card calls the model; None is the folder's name."""
    base: str | None = None
    """Name on the hub of the model that it was made from; None is what the run says."""
    license: str | None = None
    """Identifier of the license, such as apache-2.0; the base model's terms decide what it can be."""


class DataListOptions(Options):
    """The benchmarks and training sets that are known by name: what they are, where they come from, which are here."""

    data_dir: Path = Path("data")
    """Where to look for them."""


class FetchOptions(Options):
    """Fetch data sets by name from the Hugging Face hub, at a pinned revision, check them, and write them in our columns."""

    names: Annotated[tuple[str, ...], Positional, arg(metavar="NAME [NAME ...]"), Field(min_length=1)]
    """Which; `sod data list` shows them."""
    out: Path = Path("data")
    """Directory to write NAME.jsonl and NAME.source.json to."""
    revision: str | None = None
    """Revision on the hub in place of the pinned one."""
    prompts: Literal["clean", "paper"] = "clean"
    """Wording around the problems of training sets that come without one. Benchmarks get theirs when they are evaluated."""


class ConvertOptions(Options):
    """Write a file as it is published (.jsonl, .json, .parquet, .csv) in our columns, checked."""

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """The file."""
    name: str | None = None
    """Which set it is, such as aime2024 (`sod data list`); None finds out by its columns how to read it."""
    out: Path | None = None
    """File to write; None is data/NAME.jsonl, where `sod eval` looks for a benchmark."""
    prompts: Literal["clean", "paper"] = "clean"
    """Wording around the problems of training sets that come without one."""


class CheckOptions(Options):
    """Check files of problems or demonstrations row by row: columns, answers that no judge can use, repetitions."""

    files: Annotated[tuple[Path, ...], Positional, arg(metavar="FILE [FILE ...]"), Field(min_length=1)]
    """The files."""
    good: Path | None = None
    """File to write the good rows to."""
    rejects: Path | None = None
    """File to write the bad rows to, each with its number and why."""


class DescribeOptions(Options):
    """Say what is in files: how many, of which kinds and sources, how long, with how many calls."""

    files: Annotated[tuple[Path, ...], Positional, arg(metavar="FILE [FILE ...]"), Field(min_length=1)]
    """The files, of problems or demonstrations."""
    tokenizer: Path | None = None
    """Model whose tokens lengths are counted in, as for --model; None counts characters."""
    chat: ChatOptions = ChatOptions()


class DecontaminateOptions(Options):
    """Leave out problems and demonstrations that share text with benchmarks, and report which."""

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """The file to clean."""
    against: Names = ("aime2024", "aime2025", "math500", "gpqa_diamond", "livecodebench_v6")
    """Benchmarks by name, and files. Those by name that are not in `data_dir` are an error."""
    out: Path | None = None
    """File to write what is left to; None only reports."""
    report: Path | None = None
    """File to write the overlaps to, each with the n-grams shared."""
    words: Positive = 10
    """Length of the n-grams, in words."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of a benchmark problem's n-grams that a row must have in common with it to be left out."""
    data_dir: Path = Path("data")
    """Where benchmarks are, as NAME.jsonl."""


class SplitOptions(Options):
    """Divide a file at random into one for training and one for validation; equal problems stay on one side."""

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """The file."""
    validation: PositiveReal = 0.02
    """Share of the rows for validation; 1 or more is a number of rows."""
    out: Path | None = None
    """Directory for FILE-train.jsonl and FILE-validation.jsonl; None is the file's own."""
    seed: int = 0
    """Seed of the draw."""


class MixOptions(Options):
    """Mix files by weight: rows are drawn without repetition until `rows` are there or a file is exhausted."""

    files: Annotated[tuple[Path, ...], Positional, arg(metavar="FILE [FILE ...]"), Field(min_length=1)]
    """The files."""
    out: Path
    """File to write."""
    weights: tuple[PositiveReal, ...] = ()
    """How much of each, in proportion; none: by their numbers of rows."""
    rows: Positive | None = None
    """Rows in all; None is as many as the weights allow."""
    seed: int = 0
    """Seed of the draw."""


class PlanOptions(Options):
    """Which way of training fits: the memory of a student, a teacher and a context on given GPUs, way by way, and what to type.
    Arithmetic alone: nothing is downloaded, no model is loaded, no GPU is needed."""

    student: Annotated[Path, Positional, arg(metavar="STUDENT")]
    """The student: a directory, a run, or a name on the hub that is known (Qwen/Qwen3-0.6B, -1.7B, -4B, -8B, -14B, ...)."""
    teacher: Annotated[Path | None, Positional, arg(metavar="[TEACHER]")] = None
    """The teacher, likewise; none for GRPO."""
    gpus: str = "1x80GB"
    """How many, and which: 8xH100, 2x24GB, 4090; 0 is this computer's memory alone."""
    max_tokens: Positive = 20480
    """Longest response, in tokens."""
    max_prompt_tokens: Positive = 2560
    """Longest prompt, in tokens."""


class ReportOptions(Options):
    """One self-contained page about one or more runs: what was learnt, figures, every trajectory that was kept. Nothing is
    computed anew and no network is needed."""

    runs: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN [RUN ...]"), Field(min_length=1)]
    """Run directories of `sod train` or `sod eval`; two or more are shown side by side."""
    out: Path | None = None
    """File to write; None is report.html in the first run directory."""
    png: Path | None = None
    """Folder to write the figures to as PNG files, for papers."""
    trajectories: Positive = 5000
    """Trajectories of each run that the page holds, the newest first."""


class CalibrateOptions(Options):
    """Does a low step weight mark the steps where the teacher's advice is bad? Takes the trajectories of an evaluation, lets
    the teacher itself continue from the beginning of a step, and compares how often it then solves the problem with what
    each weighting rule says of that step."""

    run: Annotated[Path, Positional, arg(metavar="RUN")]
    """Run directory of `sod eval --teacher`."""
    teacher: Path
    """Directory of the teacher that was measured against there."""
    out: Path
    """Run directory to create."""
    steps: Positive = 400
    """Steps to continue from, drawn evenly over the number of tool errors before them."""
    seed: int = 0
    """Seed of the draw and of the continuations."""


class DoctorOptions(Options):
    """Check this machine: which sandbox there is, what it enforces, whether hostile programs get through, whether the
    judges judge, and how fast both are. The exit status is 0 if all is well, 1 if not."""

    programs: Positive = 200
    """Programs to run when speed is measured."""
    sandbox: SandboxOptions = SandboxOptions()


class LabOptions(Options):
    """Write the lab's models, tokenizer, problems and demonstrations to a directory."""

    out: Path = Path("runs/lab")
    """Directory to write to."""
    seed: int = 1
    """Seed of the problems, the demonstrations and the student's first weights."""
    demonstrations: Positive = 32_000
    """Demonstrations for the student's cold start, in curriculum order."""
    train_problems: Positive = 4_000
    """Problems to learn on."""
    eval_problems: Positive = 200
    """Problems to measure with; none of them is among those to learn on."""


class LabTeacherOptions(Options):
    """Train the lab's teacher from nothing, and measure it."""

    out: Path = Path("runs/teacher")
    """Run directory to create."""
    size: Literal["full", "small"] = "full"
    """full: the teacher that ships with the project. small: as many parameters as the student."""
    steps: Positive = 4_500
    """Optimiser steps."""
    seed: int = 0
    """Seed of its demonstrations and first weights."""
    sandbox: SandboxOptions = SandboxOptions(workers=4)


class CompareOptions(Options):
    """Systems and weighting rules head to head: every method from the same student, on the same problems, for the same number
    of updates, under several seeds and beside a control; measured on the same problems, and compared problem by problem. Run
    it again to continue after an interruption, or with more methods or seeds: what is done is not done again."""

    out: Path = Path("runs/compare")
    """Directory to create, or to continue in."""
    preset: Literal["paper-table1", "ablations", "rivals", "teacher-size", "demo"] | None = None
    """A comparison in the lab, with everything that it needs: the systems of the paper, its ablations, rival weighting rules,
    two teachers. None: your own recipes."""
    train: Path | None = None
    """Recipe of `sod train` that all methods share: student, teacher, data, updates, ..."""
    measure: Path | None = None
    """Recipe of `sod eval`: problems to measure with, samples, ..."""
    methods: tuple[str, ...] = ()
    """What to compare: an algorithm's name or FILE.py:FUNCTION, or either with options of `sod train`, such as
    "sod algorithm.epsilon=0.1". None given: the preset's."""
    baseline: str | None = None
    """The method that all others are compared with; None is the first."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds. With one, nothing is said about how another would have come out."""
    control: bool = True
    """Add sham, which learns from shuffled rewards: what happens under it is no method's doing."""
    updates: Positive | None = None
    """Updates of every method; None is what the recipe says."""
    samples: Positive | None = None
    """Samples per problem when measuring; None is what the recipe says."""
    lrs: tuple[PositiveReal, ...] = ()
    """Learning rates to choose from, for each method by itself, on the problems in `tune`; none: the recipe's for all."""
    tune: Path | None = None
    """Problems to choose learning rates with; none of them may be among those of `measure`."""
    tune_updates: Positive = 15
    """Updates of a run that a learning rate is chosen by."""
    lab_seed: int = 1
    """For presets: seed of the lab's problems and of the cold start."""
    jobs: Positive | None = None
    """Runs at a time; None is one per processor. Give 1 where one GPU serves all."""
    sandbox: SandboxOptions = SandboxOptions(workers=4)
    """For presets, where programs run; recipes of your own say it themselves."""


class DemoOptions(CompareOptions):
    """The whole method in miniature, on this machine: a student is cold-started on demonstrations, learns by SOD and, beside
    it, under a control with no teacher and shuffled rewards; all are measured on the same problems."""

    out: Path = Path("runs/demo")
    """Directory to create, or to continue in."""
    preset: Literal["paper-table1", "ablations", "rivals", "teacher-size", "demo"] | None = "demo"
    """Which comparison; see `sod compare --help`."""
    seeds: tuple[int, ...] = (1,)
    """Training seeds. With one, nothing is said about how another would have come out."""
