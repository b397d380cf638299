"""Groups to a batch that knows what the student and the teacher think of every sampled token."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from sod.batching import Batch, collate
from sod.errors import InfrastructureError
from sod.models import score
from sod.teachers import Teacher
from sod.types import Group


def gathered(groups: Sequence[Group]) -> Batch:
    """All graded trajectories side by side. Raises InfrastructureError where more attempts were lost than graded."""
    dropped, ungraded = (sum(group.dropped for group in groups), sum(len(group.ungraded) for group in groups))
    kept = sum(map(len, groups))
    if dropped + ungraded > kept:
        raise InfrastructureError(
            f"Of {kept + dropped + ungraded} attempts, {dropped} were lost to our own machinery and {ungraded} could not be "
            "graded: too many to go on; the lines above say why. A training run continues from its newest checkpoint with "
            "--resume."
        )
    return collate(groups)


def scored(
    batch: Batch, student: PreTrainedModel, teacher: Teacher | None, temperature: float, microbatch_tokens: int
) -> Batch:
    """The batch with the student's own log-probabilities and, if there is a teacher, the teacher's."""
    student_BT, _ = score(student, batch, temperature, microbatch_tokens)
    batch = replace(batch, student_BT=student_BT)
    if teacher is None:
        return batch
    teacher_BT, entropy_BT = teacher.score(batch)
    return replace(batch, teacher_BT=teacher_BT, teacher_entropy_BT=entropy_BT)
