"""Facts from earlier updates that a rule can read. A checkpoint holds them, so a resumed run continues with the same numbers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from sod.batching import CreditedBatch, ScoredBatch
from sod.errors import RunError
from sod.runs.checkpoints import TRAINER
from sod.runs.files import to_json

HISTORY_FILE = "history.json"
"""File in a checkpoint's training state."""


@dataclass
class RuleHistory:
    """Solve rates of the problems, and the numbers that the rule keeps from update to update."""

    teacher_rates: Mapping[str, float] | None = None
    """The teacher's solve rate of each problem, by its id; None if no evaluation is given."""
    attempts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Right and all attempts of the student at each problem so far, by its id."""
    state: dict[str, float] = field(default_factory=dict)
    """The rule's numbers."""

    def add_to(self, batch: ScoredBatch, update: int, updates: int) -> ScoredBatch:
        """Return the batch of an update, with what earlier updates have left."""
        ids = [trajectory.problem.id for trajectory in batch.trajectories]
        counts = [self.attempts.get(id) for id in ids]
        student = [float("nan") if count is None else count[0] / count[1] for count in counts]
        teacher = None if self.teacher_rates is None else [self.teacher_rates.get(id, float("nan")) for id in ids]
        return replace(
            batch,
            update=update,
            progress=update / updates,
            student_rates_B=torch.tensor(student, dtype=torch.float32),
            teacher_rates_B=None if teacher is None else torch.tensor(teacher, dtype=torch.float32),
            state=dict(self.state),
        )

    def learn(self, batch: CreditedBatch) -> None:
        """Count the attempts of an update, and keep the rule's new numbers."""
        for trajectory in batch.trajectories:
            right, attempts = self.attempts.get(trajectory.problem.id, (0, 0))
            self.attempts[trajectory.problem.id] = right + trajectory.judged.is_right, attempts + 1
        self.state = dict(batch.state)

    def save(self, checkpoint: Path) -> None:
        saved = {"attempts": self.attempts, "state": self.state}
        (checkpoint / TRAINER / HISTORY_FILE).write_text(to_json(saved), encoding="utf-8")

    def restore(self, checkpoint: Path) -> None:
        """Load what `save` wrote. Checkpoints of older versions hold nothing. Raise RunError if the file cannot be read."""
        file = checkpoint / TRAINER / HISTORY_FILE
        try:
            saved = json.loads(file.read_bytes())
            self.attempts = {id: (int(right), int(count)) for id, (right, count) in saved["attempts"].items()}
            self.state = {name: float(value) for name, value in saved["state"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(
                f"{file}, the solve rates so far, cannot be read ({type(error).__name__}). Remove this checkpoint to continue "
                "from an earlier one."
            ) from error
