"""Options of the commands about one model: fine-tune, train, look at, convert."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field
from tyro.conf import Positional, arg

from sod.config.algorithm import AlgorithmOptions
from sod.config.base import (
    Count,
    Model,
    OptionalModel,
    OptionalNames,
    Options,
    Positive,
    PositiveReal,
    Rare,
    ReadsFiles,
    ResumeMayChange,
    model_path,
)
from sod.config.chat import ChatOptions
from sod.config.engine import EngineOptions
from sod.config.learn import LearnOptions, SftLearnOptions
from sod.config.network import ModelOptions
from sod.config.opsd import OpsdOptions
from sod.config.problems import ProblemOptions
from sod.config.reward import RewardOptions
from sod.config.rollout import RolloutOptions
from sod.config.sandbox import SandboxOptions
from sod.config.score import PlannedScoreOptions, ScoreOptions
from sod.config.tool import ToolOptions
from sod.config.tracking import TrackerNames, TrackOptions
from sod.config.validate import SftValidateOptions, ValidateOptions


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
    accept_changed: Rare[ResumeMayChange[bool]] = False
    """Continue although files that the run reads have changed: own code, templates, rubrics, files of problems. Its numbers then
    mix old and new content."""
    processes: Rare[ResumeMayChange[Positive | None]] = None
    """Expected number of torchrun processes; the run fails if it differs. Default: accept any number."""
    track: ResumeMayChange[TrackerNames] = ()
    """Experiment trackers that receive the metrics of every step: trackio, wandb, tensorboard, mlflow (docs/trackers.md)."""
    dry_run: ResumeMayChange[bool] = False
    """Print what the command would do and the resources it needs, then exit."""
    learn: SftLearnOptions = SftLearnOptions()
    validate: SftValidateOptions = SftValidateOptions()  # pyright: ignore[reportIncompatibleMethodOverride]
    chat: ChatOptions = ChatOptions()
    network: ModelOptions = ModelOptions()
    tracking: Rare[ResumeMayChange[TrackOptions]] = TrackOptions()


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
    """Teacher model: a directory, a run or a name on the hub, hf:ORG/NAME, with any tokenizer (docs/teachers.md). Default:
    none; grpo, sham and opsd need no teacher."""
    teachers: Rare[ResumeMayChange[OptionalNames]] = ()
    """Several teachers in place of --teacher: KIND=MODEL for the problems of a kind (math, choice, code), COLUMN:VALUE=MODEL for
    those with a label, *=MODEL for all others, *NAME:WEIGHT=MODEL for a part of them. The first that fits is used. Those on
    servers: score.teacher_urls. Default: none."""
    environment: ReadsFiles[str] = "tools"
    """Surroundings of the student in a trajectory (docs/environments.md). tools: the tools of --tool.* and the judge of the
    problem's kind. served:FILE.py:FUNCTION: an agent of another framework. household, shop, maze, database: worlds of the lab.
    scienceworld, textworld, textarena, gymnasium, bfcl, openenv:URL, verifiers:TASKSET: other packages. FILE.py:CLASS: your
    own. The column `environment` of a problem has priority."""
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
    outlier_tokens, no_contrast, cold_start, unsolved, shaped_reward, sampler_drift, misaligned_teacher, sampler_weights,
    lost_attempts."""
    save_trajectories: Rare[ResumeMayChange[Count]] = 64
    """Number of trajectories of each update to save in the run directory."""
    resume: ResumeMayChange[bool] = False
    """Continue the run in --out from its newest checkpoint."""
    accept_changed: Rare[ResumeMayChange[bool]] = False
    """Continue although files that the run reads have changed: own code, templates, rubrics, files of problems. Its numbers then
    mix old and new content."""
    processes: Rare[ResumeMayChange[Positive | None]] = None
    """Expected number of torchrun processes; the run fails if it differs. Default: accept any number."""
    track: ResumeMayChange[TrackerNames] = ()
    """Experiment trackers that receive the metrics of every update: trackio, wandb, tensorboard, mlflow (docs/trackers.md)."""
    dry_run: ResumeMayChange[bool] = False
    """Print what the command would do and the resources it needs, then exit."""
    algorithm: AlgorithmOptions = AlgorithmOptions()
    opsd: OpsdOptions = OpsdOptions()
    problems: Rare[ProblemOptions] = ProblemOptions()
    rollout: RolloutOptions = RolloutOptions()
    engine: EngineOptions = EngineOptions()
    score: ScoreOptions = ScoreOptions()
    learn: LearnOptions = LearnOptions()
    validate: ValidateOptions = ValidateOptions()  # pyright: ignore[reportIncompatibleMethodOverride]
    reward: RewardOptions = RewardOptions()
    tool: ToolOptions = ToolOptions()
    sandbox: SandboxOptions = SandboxOptions()
    chat: ChatOptions = ChatOptions()
    network: ModelOptions = ModelOptions()
    tracking: Rare[ResumeMayChange[TrackOptions]] = TrackOptions()

    @property
    def has_reference(self) -> bool:
        """Return whether the student's initial weights score every trajectory (`sod.teachers.reference`)."""
        return self.learn.kl > 0 or self.algorithm.kl_in_reward > 0

    @property
    def teacher_is_reference(self) -> bool:
        """Return whether a teacher that is the student itself has its initial weights, in the student's type."""
        return self.opsd.decay is None and self.network.for_teacher(self.score).dtype == self.network.dtype


class RunOptions(Options):
    """Run all stages of an experiment from one recipe: data, cold start, training, evaluation, export.

    Each table [stages.NAME] of the recipe is a stage: a command of sod and its options. @NAME stands for what an earlier
    stage wrote. Run the command again to continue: finished stages are skipped.
    """

    out: Path
    """Directory to create or to continue. It holds what every stage writes, and one page about all runs."""
    stages: Annotated[dict[str, Any] | None, arg(metavar="TABLES")] = None
    """The stages, in a recipe only. A stage has the options of its command and two more keys. command: the command, if it is not
    the name of the stage. recipe: recipes of that command, which the options override. Default: none."""
    budget: str | None = None
    """Time for this call, such as 90m, 10h or 2d. At its end the current stage saves its work and stops. Default: no limit."""
    dry_run: bool = False
    """Print what each stage would do and the resources it needs, then exit."""


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
    push: str | None = None
    """Repository on the Hugging Face hub to upload the directory to, ORG/NAME. It is created as a private one. Needs a login
    (`hf auth login`). Default: none."""
    public: bool = False
    """Create the repository of --push as a public one. Everyone can then read the model and its card."""
    overwrite: bool = False
    """Upload to a repository that already has files. One commit replaces them; earlier commits keep them."""
    dry_run: bool = False
    """Print the files with their sizes, and the repository with its visibility, then exit."""


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


class PlanOptions(Options):
    """Compute which training set-ups fit: the memory of student, teacher and context on given GPUs, and what to type.

    Nothing is downloaded, no model is loaded and no GPU is needed.
    """

    student: Annotated[Path, BeforeValidator(model_path), Positional, arg(metavar="STUDENT")]
    """Student model: a directory, a run, or a known name on the hub (Qwen/Qwen3-0.6B, -1.7B, -4B, -8B, -14B, ...)."""
    teacher: Annotated[Path | None, BeforeValidator(model_path), Positional, arg(metavar="[TEACHER]")] = None
    """Teacher model, given like the student. Default: none, for GRPO."""
    teachers: OptionalNames = ()
    """Several teachers in place of TEACHER, as in `sod train`: math=A code=B '*=C'. With score.offload_teacher they are on the
    GPU one after the other, otherwise all at once. Default: none."""
    score: PlannedScoreOptions = PlannedScoreOptions()
    gpus: str = "1x80GB"
    """Number and kind of GPUs: 8xH100, 2x24GB, 4090. 0 uses only CPU memory."""
    price: PositiveReal | None = None
    """Price of one GPU for one hour, in any currency. The plan then has the estimated cost of a run. Default: no cost."""
    max_tokens: Positive = 20480
    """Longest response, in tokens."""
    max_prompt_tokens: Positive = 2560
    """Longest prompt, in tokens."""


class DoctorOptions(Options):
    """Check this machine: which sandbox it has, what it enforces, whether hostile programs escape, judges and speed.

    The exit status is 0 if all checks pass and 1 otherwise.
    """

    programs: Positive = 200
    """Number of programs to run in the speed test."""
    sandbox: SandboxOptions = SandboxOptions()
