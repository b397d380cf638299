"""Groups to a batch that knows what the student and the teacher think of every sampled token."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from sod.batching import Batch, collate
from sod.errors import InfrastructureError
from sod.models import score
from sod.teachers import Teacher
from sod.types import Group


def scored(
    groups: Sequence[Group],
    student: PreTrainedModel,
    teacher: Teacher | None,
    temperature: float,
    microbatch_tokens: int,
) -> Batch:
    """All trajectories side by side, with the student's own log-probabilities and, if there is one, the teacher's."""
    check_losses(groups)
    batch = collate(groups)
    logprobs_BT, entropy_BT = score(student, batch, temperature, microbatch_tokens)
    batch = replace(batch, student_BT=logprobs_BT, student_entropy_BT=entropy_BT)
    if teacher is None:
        return batch
    logprobs_BT, entropy_BT = teacher.score(batch)
    return replace(batch, teacher_BT=logprobs_BT, teacher_entropy_BT=entropy_BT)


def check_losses(groups: Sequence[Group]) -> None:
    """Raises InfrastructureError where more attempts were lost than survived."""
    lost, kept = sum(group.dropped for group in groups), sum(map(len, groups))
    if lost > kept:
        raise InfrastructureError(
            f"{lost} of {lost + kept} attempts were lost to our own machinery, too many to go on; the lines above say why. "
            "A training run continues from its newest checkpoint with --resume."
        )
