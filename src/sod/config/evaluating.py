"""Options of the commands that evaluate: attempts, their comparison, continuations of a teacher, diagnosis."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from tyro.conf import Positional, arg

from sod.config.base import (
    Model,
    Names,
    OptionalModel,
    OptionalNames,
    Options,
    Positive,
    PositiveReal,
    Rare,
    ReadsFiles,
    ResumeMayChange,
)
from sod.config.chat import ChatOptions
from sod.config.engine import EngineOptions
from sod.config.network import ModelOptions
from sod.config.reward import RewardOptions
from sod.config.rollout import EvalRolloutOptions
from sod.config.sandbox import SandboxOptions
from sod.config.score import ScoreOptions
from sod.config.tool import ToolOptions


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
    teachers: Rare[ResumeMayChange[OptionalNames]] = ()
    """Several teachers in place of --teacher, by kind of problem or by label, as in `sod train`: math=A code=B '*=C'. Default:
    none."""
    environment: ReadsFiles[str] = "tools"
    """Surroundings of the student in a trajectory (docs/environments.md). tools: the tools of --tool.* and the judge of the
    problem's kind. served:FILE.py:FUNCTION: an agent of another framework. household, shop, maze, database: worlds of the lab.
    scienceworld, textworld, textarena, gymnasium, bfcl, openenv:URL, verifiers:TASKSET: other packages. FILE.py:CLASS: your
    own. The column `environment` of a problem has priority."""
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
    accept_changed: Rare[ResumeMayChange[bool]] = False
    """Continue although files that the run reads have changed: own code, templates, rubrics, files of problems. Its numbers then
    mix old and new content."""
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


class CalibrateOptions(Options):
    """Test whether low step weights mark steps where the teacher's advice is bad.

    The command takes the trajectories of an evaluation and lets the teacher continue from the beginning of a step. It
    compares how often the teacher then solves the problem with the weight that each rule gives to that step.
    """

    COMMAND: ClassVar[str] = "calibrate"

    run: Annotated[Path, Positional, arg(metavar="RUN")]
    """Run directory of `sod eval --teacher`."""
    teacher: OptionalModel = None
    """The teacher of that evaluation: the same directory, run or hf:ORG/NAME. Default: --teachers."""
    teachers: OptionalNames = ()
    """The teachers of an evaluation with several, with the same keys: math=A code=B '*=C'. Default: none."""
    out: Path
    """Run directory to create."""
    steps: Positive = 400
    """Number of steps to continue from, drawn evenly over the number of earlier tool errors."""
    advised: bool = False
    """Also let the student continue after the teacher's turn in each step, and compare with its own attempt: how often the
    teacher's advice rescues it, and how often it harms. Needs a teacher with the student's tokenizer."""
    seed: int = 0
    """Seed of the draw and of the continuations."""


class DiagnoseOptions(Options):
    """Measure a student and a teacher for some minutes, and advise a system: SOD, OPD, GRPO, or none.

    Run the command again to continue after an interruption, or with more minutes.
    """

    student: Model
    """Student model: a directory, a run (its newest checkpoint), hf:ORG/NAME or hf:ORG/NAME@REVISION."""
    teacher: Model
    """Teacher model, given like the student."""
    data: Names
    """Names of benchmarks (`sod data list` shows them) and files of your own (.jsonl, .parquet)."""
    out: Path = Path("diagnosis")
    """Directory to create or to continue."""
    minutes: PositiveReal = 10.0
    """Time for sampling, in minutes. A round that has begun is finished; the first one has 3 problems of each file."""
    samples: Positive = 8
    """Attempts per problem: the size of a group."""
    steps: Positive = 200
    """Largest number of steps from which the teacher continues."""
    limit: Positive | None = None
    """Largest number of problems from each file. Default: all that fit into the time."""
    environment: str = "tools"
    """Surroundings of the student, as in `sod eval`."""
    data_dir: Rare[Path] = Path("data")
    """Directory of benchmark files (NAME.jsonl). Missing benchmarks are downloaded into it."""
    prompts: Rare[Literal["clean", "paper"]] = "clean"
    """Prompts for the problems of benchmarks (rewards/prompts.toml)."""
    microbatch_tokens: Rare[Positive] = 16384
    """Tokens per forward pass when the divergence is measured. Lower it to save memory."""
    seed: int = 0
    """Seed of the student's samples. The teacher's is one larger."""
    rollout: EvalRolloutOptions = EvalRolloutOptions(top_p=1.0)
    engine: EngineOptions = EngineOptions()
    score: Rare[ScoreOptions] = ScoreOptions()
    reward: Rare[RewardOptions] = RewardOptions()
    tool: Rare[ToolOptions] = ToolOptions()
    sandbox: Rare[SandboxOptions] = SandboxOptions()
    chat: Rare[ChatOptions] = ChatOptions()
    network: Rare[ModelOptions] = ModelOptions()


class ServeOptions(Options):
    """Serve a model to agents that run elsewhere on this machine, and record what they ask as trajectories.

    The endpoint is OpenAI-compatible. Run the command again to add trajectories to the same directory.
    """

    COMMAND: ClassVar[str] = "serve"

    model: ResumeMayChange[Model]
    """Model to serve: a directory, a run of `sod train` or `sod sft` (its newest checkpoint), or a name on the hub,
    hf:ORG/NAME or hf:ORG/NAME@REVISION."""
    out: ResumeMayChange[Path]
    """Run directory to create or to continue."""
    data: ResumeMayChange[OptionalNames] = ()
    """Benchmarks and files of problems (.jsonl, .parquet). A session with the id of a problem is judged as an attempt at it.
    Default: none; an agent reports its own verdict, or the trajectory is ungraded."""
    port: ResumeMayChange[Annotated[int, Field(ge=0, le=65535)]] = 8000
    """Port of the endpoint on 127.0.0.1. 0 takes a free one."""
    idle: ResumeMayChange[PositiveReal] = 600.0
    """Seconds without a request after which a conversation is over."""
    data_dir: Rare[ResumeMayChange[Path]] = Path("data")
    """Directory of benchmark files (NAME.jsonl). Missing benchmarks are downloaded into it."""
    prompts: Rare[Literal["clean", "paper"]] = "clean"
    """Wording of benchmark problems in the records. Agents write their own prompts."""
    limit: Rare[ResumeMayChange[Positive | None]] = None
    """Number of problems to use from each benchmark or file, from its beginning. Default: all."""
    seed: int = 0
    """Seed of the samples."""
    accept_changed: Rare[ResumeMayChange[bool]] = False
    """Continue although files that the run reads have changed: own code, templates, rubrics, files of problems."""
    rollout: EvalRolloutOptions = EvalRolloutOptions()
    engine: EngineOptions = EngineOptions()
    reward: RewardOptions = RewardOptions()
    sandbox: SandboxOptions = SandboxOptions()
    chat: ChatOptions = ChatOptions()
    network: ModelOptions = ModelOptions()
