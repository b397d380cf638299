"""The validations of a run so far: which one is the best, and whether the model still improves."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sod.config import HeldOutOptions
from sod.console.progress import echo
from sod.evaluation.intervals import Interval
from sod.processes.distributed import ALONE, Ranks
from sod.runs.directory import Run
from sod.runs.records import Record
from sod.runs.validations import Validation, add_validation, read_validations

logger = logging.getLogger(__name__)


class Scale(Protocol):
    """How validations are compared. Higher is better."""

    def score(self, validation: Validation) -> float:
        """Return the number that chooses the best validation. NaN if it is not known."""
        ...

    def gain(self, new: Validation, old: Validation) -> Interval:
        """Return how much better `new` is than `old`, paired by problem."""
        ...

    def line(self, validation: Validation) -> list[tuple[int, str]]:
        """Return the validation's numbers as parts of a line, with their importance."""
        ...


@dataclass
class Course:
    """The comparable validations of a run, in their order. The same in all processes."""

    run: Run
    options: HeldOutOptions
    scale: Scale
    settings: dict[str, Any]
    """What the numbers depend on. Only validations with equal settings are compared."""
    keep: int
    """Number of earlier checkpoints to keep in addition to the best."""
    ranks: Ranks = ALONE
    done: list[Validation] = field(default_factory=list)
    anchor: Validation | None = None
    """The validation that later ones must exceed outside the noise."""
    since: int = 0
    """Number of validations after the anchor."""
    best: Validation | None = None
    """The validation with the highest score of those with a checkpoint; of equal ones the first."""
    on_validation: Callable[[int, Mapping[str, float]], None] = lambda update, metrics: None
    """Called with the update and the metrics of each new validation."""

    @classmethod
    def open(
        cls,
        run: Run,
        options: HeldOutOptions,
        scale: Scale,
        settings: dict[str, Any],
        *,
        keep: int,
        ranks: Ranks = ALONE,
    ) -> "Course":
        """Read the validations of a run that continues. There are none for a new run."""
        rows = ranks.first(lambda: read_validations(run.folder))
        course = cls(run, options, scale, settings, keep, ranks)
        for row in rows:
            if row.settings == settings:
                course._advance(row)
        if other := len(rows) - len(course.done):
            logger.warning(f"{other} earlier validations had other options or problems. They are not compared.")
        course._choose_again()
        return course

    def is_due(self, update: int, last: int) -> bool:
        """Return whether a validation after `update` of `last` updates is due and has not been done."""
        due = update % self.options.every == 0 or update == last
        return due and all(each.update != update for each in self.done)

    def is_best(self, validation: Validation) -> bool:
        """Return whether a validation is better than the best so far."""
        score, best = self.scale.score(validation), self.best
        return not math.isnan(score) and (best is None or score > self.scale.score(best))

    def add(self, validation: Validation, save: Callable[[int], None], trajectories: Sequence[Record] = ()) -> None:
        """Write a validation. If it is the best, first save its checkpoint, and make the link `best` name it.

        `save`: saves a checkpoint after so many updates, unless there is one.
        """
        is_best = self.is_best(validation)
        if is_best:
            save(validation.update)
            self.best = validation
        self._advance(validation)

        def write() -> None:
            add_validation(self.run.folder, validation, trajectories)
            if is_best:
                self.run.choose_best(validation.update, keep=self.keep)

        self.ranks.first(write)
        self.on_validation(validation.update, validation.metrics)

    def ends(self, update: int, last: int, save: Callable[[int], None]) -> bool:
        """Return whether the run ends before its `last` update. It then has a checkpoint, and counts as complete."""
        if not self.over or update == last:
            return False
        save(update)
        self.ranks.first(lambda: self.run.shorten(update))
        echo(self.over)
        return True

    def _choose_again(self) -> None:
        """Choose the best of the validations with a checkpoint, and make the link name it.

        The scale may be another one than before. Most of its checkpoints may be deleted, and a deleted one cannot be the best.
        The link may be missing, if the run was killed between a validation and its link.
        """
        saved = self.ranks.first(self.run.saved_updates)
        for each in self.done:
            if each.update in saved and self.is_best(each):
                self.best = each
        best = self.best
        if best is not None:
            self.ranks.first(lambda: self.run.link_best(best.update))

    def _advance(self, validation: Validation) -> None:
        """Append a validation, and count it if it has no gain outside the noise.

        A gain is measured from the anchor: at first the first validation, then the latest one with such a gain. Slow progress
        therefore adds up, although no single step of it is outside the noise.
        """
        self.done.append(validation)
        if self.anchor is None or (self.options.stop_after and self.scale.gain(validation, self.anchor).low > 0):
            self.anchor, self.since = validation, 0
        else:
            self.since += 1

    @property
    def over(self) -> str:
        """The reason to end the run, as a sentence; empty if there is none."""
        limit = self.options.stop_after
        if not limit or self.since < limit or self.anchor is None:
            return ""
        return (
            f"The run ends after update {self.done[-1].update}: no gain outside the noise over update {self.anchor.update} in "
            f"{self.since} {'validation' if self.since == 1 else 'validations in a row'} (validate.stop_after = {limit})."
        )

    def line(self, validation: Validation) -> list[tuple[int, str]]:
        """Return the parts of the line about a validation that was just added, with their importance."""
        best = self.best
        note = "best so far" if best is validation else f"best: update {best.update}" if best else "no best yet"
        return [(9, "validate"), (9, f"update {validation.update}"), *self.scale.line(validation), (7, note)]
