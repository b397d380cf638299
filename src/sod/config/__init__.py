"""Define every option once: its meaning, unit, range and default. Defaults are the paper's where the paper gives one.

The group of options `--X.y` stands in the module X: `--tool.seconds` in `tool.py`. The other modules hold the options of the
commands: `commands.py` (train, sft, run, report, export, import, plan, doctor), `evaluating.py` (eval, rollout, serve, calibrate,
diagnose), `compare.py`, `data.py`, `lab.py`, `watching.py` (watch, runs).

The docstring under a field is its `--help`. Two markers stand on the options themselves: `Rare` hides an option from
`--help` (`--help-all` shows it), and `ResumeMayChange` allows another value when a run continues. Options are immutable.
An unknown option is an error that names the nearest one (`sod.cli`). This module does not import torch.
"""

from sod.config.algorithm import AlgorithmOptions
from sod.config.arena import ArenaOptions
from sod.config.base import (
    RARE,
    Options,
    ToolUse,
    is_group,
    model_path,
    options_of,
    resume_may_change,
)
from sod.config.chat import ChatOptions
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
from sod.config.compare import CompareOptions, DemoOptions, Preset, RealOptions
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
from sod.config.engine import EngineOptions
from sod.config.evaluating import (
    CalibrateOptions,
    CompareEvaluationsOptions,
    DiagnoseOptions,
    EvalOptions,
    RolloutCommandOptions,
    ServeOptions,
)
from sod.config.lab import LabOptions, LabTeacherOptions, WordProblemOptions
from sod.config.learn import LearnOptions, OptimiserOptions, SftLearnOptions
from sod.config.network import ModelOptions
from sod.config.opsd import OpsdOptions
from sod.config.problems import ProblemOptions
from sod.config.reward import LlmJudgeOptions, RewardOptions
from sod.config.rollout import EvalRolloutOptions, GuidedOptions, RolloutOptions, SamplingOptions
from sod.config.sandbox import SandboxOptions
from sod.config.score import ScoreOptions
from sod.config.tool import ToolOptions
from sod.config.tracking import TrackOptions
from sod.config.validate import HeldOutOptions, SftValidateOptions, ValidateOptions
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
    "GuidedOptions",
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
    "ServeOptions",
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
