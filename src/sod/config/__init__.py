"""Define every option once: its meaning, unit, range and default. Defaults are the paper's where the paper gives one.

The docstring under a field is its `--help`. Two markers stand on the options themselves: `Rare` hides an option from
`--help` (`--help-all` shows it), and `ResumeMayChange` allows another value when a run continues. Options are immutable.
An unknown option is an error that names the nearest one (`sod.cli`). This module does not import torch.
"""

from sod.config.base import (
    RARE,
    Options,
    ToolUse,
    is_group,
    model_path,
    options_of,
    resume_may_change,
)
from sod.config.commands import (
    DoctorOptions,
    ExportOptions,
    ImportOptions,
    PlanOptions,
    ReportOptions,
    RunOptions,
    SftOptions,
    TrainOptions,
)
from sod.config.data import (
    CheckOptions,
    ConvertOptions,
    DataListOptions,
    DecontaminateOptions,
    DescribeOptions,
    FetchOptions,
    MakeOptions,
    MarksOptions,
    MixOptions,
    SplitOptions,
)
from sod.config.evaluating import (
    CalibrateOptions,
    CompareEvaluationsOptions,
    DiagnoseOptions,
    EvalOptions,
    RolloutCommandOptions,
)
from sod.config.judging import LlmJudgeOptions
from sod.config.lab import (
    ArenaOptions,
    CompareOptions,
    DemoOptions,
    LabOptions,
    LabTeacherOptions,
    Preset,
    RealOptions,
    WordProblemOptions,
)
from sod.config.learning import (
    AlgorithmOptions,
    LearnOptions,
    ModelOptions,
    OpsdOptions,
    OptimiserOptions,
    ScoreOptions,
    SftLearnOptions,
)
from sod.config.sampling import (
    ChatOptions,
    EngineOptions,
    EvalRolloutOptions,
    ProblemOptions,
    RewardOptions,
    RolloutOptions,
    SamplingOptions,
    SandboxOptions,
    ToolOptions,
)
from sod.config.tracking import TrackOptions
from sod.config.validation import HeldOutOptions, SftValidateOptions, ValidateOptions
from sod.config.watching import RunsOptions, WatchOptions

__all__ = [
    "RARE",
    "AlgorithmOptions",
    "ArenaOptions",
    "CalibrateOptions",
    "ChatOptions",
    "CheckOptions",
    "CompareEvaluationsOptions",
    "CompareOptions",
    "ConvertOptions",
    "DataListOptions",
    "DecontaminateOptions",
    "DemoOptions",
    "DescribeOptions",
    "DiagnoseOptions",
    "DoctorOptions",
    "EngineOptions",
    "EvalOptions",
    "EvalRolloutOptions",
    "ExportOptions",
    "FetchOptions",
    "HeldOutOptions",
    "ImportOptions",
    "LabOptions",
    "LabTeacherOptions",
    "LearnOptions",
    "LlmJudgeOptions",
    "MakeOptions",
    "MarksOptions",
    "MixOptions",
    "ModelOptions",
    "OpsdOptions",
    "OptimiserOptions",
    "Options",
    "PlanOptions",
    "Preset",
    "ProblemOptions",
    "RealOptions",
    "ReportOptions",
    "RewardOptions",
    "RolloutCommandOptions",
    "RolloutOptions",
    "RunOptions",
    "RunsOptions",
    "SamplingOptions",
    "SandboxOptions",
    "ScoreOptions",
    "SftLearnOptions",
    "SftOptions",
    "SftValidateOptions",
    "SplitOptions",
    "ToolOptions",
    "ToolUse",
    "TrackOptions",
    "TrainOptions",
    "ValidateOptions",
    "WatchOptions",
    "WordProblemOptions",
    "is_group",
    "model_path",
    "options_of",
    "resume_may_change",
]
