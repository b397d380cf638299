"""Options `--network`: data type and device of the models."""

from typing import Literal

from sod.config.base import Options, Rare
from sod.config.score import ScoreOptions


class ModelOptions(Options):
    """The networks of student and teacher."""

    dtype: Rare[Literal["auto", "fastest", "float32", "bfloat16"]] = "auto"
    """Data type of the weights and of the computation. The optimiser always uses float32. auto: bfloat16 on a GPU that computes
    in it, float32 on a CPU. fastest: bfloat16 also on a processor that computes in it (AVX512-BF16, AMX). The run stores the
    type and continues in it."""
    device: str = "auto"
    """Device of the models: cpu, cuda, cuda:1, ... auto uses an NVIDIA or AMD GPU if PyTorch finds one, otherwise the CPU. mps is
    not supported."""

    def for_teacher(self, score: ScoreOptions) -> "ModelOptions":
        """Return the options of the teacher's network: these, with score.teacher_dtype."""
        return self if score.teacher_dtype == "same" else self.model_copy(update={"dtype": score.teacher_dtype})
