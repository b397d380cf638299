"""One world of an arena: its plan, and the stages that the plan consists of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sod.compare.arena.plan import ALWAYS, CONTROLS, FINAL, Cell, Round, cells, rounds
from sod.compare.arena.results import pairs
from sod.compare.cells import Comparison
from sod.compare.jobs import Commands
from sod.compare.parts import ComparisonParts
from sod.compare.table import Measured, Method, read_measured
from sod.config import CompareOptions
from sod.config.recipes import over
from sod.credit.systems import traits
from sod.errors import OptionError, RunError
from sod.evaluation.significance import Noise, smallest_difference
from sod.lab.arena import TEACHER_RATES
from sod.lab.presets import Setting
from sod.planning.checks import of_training
from sod.runs.results import read_results


class ArenaComparison(Comparison):
    """A stage of the arena with one cold start."""

    done: Callable[[], None] = staticmethod(lambda: None)
    """Called after each cell."""

    def use(self, commands: Commands, done: Callable[[], None]) -> None:
        """Run commands in this pool of processes, which other comparisons share."""
        self._commands, self.done = commands, done

    def recipe(self, method: Method, seed: int, folder: Path) -> dict[str, Any]:
        recipe = super().recipe(method, seed, folder)
        if "teacher_rates" in traits(method.algorithm).reads and not method.sets("algorithm.teacher_rates"):
            rates = self.train["data"].with_name(TEACHER_RATES)
            recipe = over(recipe, {"algorithm": {"teacher_rates": rates}})
        return recipe

    def show_cell(self, method: Method, seed: int, text: str) -> None:
        super().show_cell(method, seed, f"{self.out.name}, {text}")
        self.done()


@dataclass(frozen=True)
class ArenaStage:
    """A round of screening, or the finals."""

    name: str
    comparisons: dict[str, ArenaComparison]
    """The comparison with each cold start."""
    cells: list[Cell]
    out: Path

    def folder(self, cell: Cell) -> Path:
        return self.comparisons[cell.start].cell_folder(Method.parse(cell.system), cell.seed)

    @property
    def untrained(self) -> list[tuple[str, str]]:
        """The evaluations of untrained models, by cold start and name; none in the screening."""
        if self.name != FINAL:
            return []
        return [(start, name) for start, comparison in self.comparisons.items() for name in comparison.untrained()]

    @property
    def left(self) -> list[str]:
        """The cells and evaluations that are not finished, by name."""
        cells = [cell for cell in self.cells if not is_evaluated(self.folder(cell) / "eval")]
        untrained = [each for each in self.untrained if not is_evaluated(self.comparisons[each[0]].out / each[1])]
        return [cell.name for cell in cells] + ["/".join(each) for each in untrained]

    def measured(self) -> dict[str, dict[tuple[str, int], Measured]]:
        """Return the evaluations by system, then by cold start and seed."""
        found: dict[str, dict[tuple[str, int], Measured]] = {}
        for cell in self.cells:
            folder = self.folder(cell)
            found.setdefault(cell.system, {})[cell.start, cell.seed] = read_measured(folder / "eval", folder / "train")
        return found


class ArenaWorld:
    """Candidates, rounds and finals of one world. Nothing is run."""

    def __init__(self, options: CompareOptions, name: str, settings: dict[str, Setting]):
        """`settings`: the setting of each cold start."""
        self.name = name
        self.baseline = options.baseline or ALWAYS[0]
        self.starts = list(settings)
        self._options, self._settings = options, settings
        self._final_options, self._final_settings = self._tuned()
        self.refused = self._refused([*self.always, *self._given])
        if wrong := [name for name in self.always if name in self.refused]:
            raise OptionError(f"{name}, {wrong[0]}: {self.refused[wrong[0]]}")
        self.candidates = [name for name in self._given if name not in self.refused]
        arena = options.arena
        self.rounds = rounds(len(self.candidates), arena.finalists, arena.screen_seeds, arena.screen_updates)

    # The plan

    @property
    def always(self) -> list[str]:
        """The systems that are not screened."""
        controls = CONTROLS if self._options.control else ()
        return list(dict.fromkeys((self.baseline, *ALWAYS, *controls)))

    @property
    def _given(self) -> list[str]:
        """The systems to screen, before those are left out that cannot run in this world."""
        return [name for name in self._options.methods if name not in self.always]

    @property
    def updates(self) -> int:
        """Updates of the finals."""
        return int(self._options.updates or next(iter(self._settings.values())).train["updates"])

    @property
    def finalists(self) -> int:
        return len(self.always) + (self.rounds[-1].kept if self.rounds else len(self.candidates))

    @property
    def plan(self) -> dict[str, Any]:
        """The plan of this world for plan.json."""
        screening = [
            {
                "candidates": each.candidates,
                "kept": each.kept,
                "seeds": each.seeds,
                "updates": each.updates,
                "cells": each.candidates * len(self.starts) * len(each.seeds),
            }
            for each in self.rounds
        ]
        final = {
            "systems": self.finalists,
            "seeds": self._options.seeds,
            "updates": self.updates,
            "cells": self.finalists * len(self.starts) * len(self._options.seeds),
            "tuning": {"lrs": self._lrs, "updates": self._options.tune_updates},
        }
        return {
            "world": self.name,
            "starts": self.starts,
            "candidates": self.candidates,
            "always": self.always,
            "refused": self.refused,
            "rounds": screening,
            "final": final,
        }

    @property
    def plan_text(self) -> str:
        starts = len(self.starts)
        parts = [
            f"{each.candidates} systems x {starts} starts x {len(each.seeds)} seeds x {each.updates} updates, {each.kept} kept"
            for each in self.rounds
        ]
        seeds = len(self._options.seeds)
        parts.append(f"finals of {self.finalists} systems x {starts} starts x {seeds} seeds x {self.updates} updates")
        tuning = f"{len(self._lrs)} learning rates x {self._options.tune_updates} updates for each system and start"
        parts.append(f"tuned with {tuning}" if len(self._lrs) > 1 else f"learning rate {self._lrs[0]:g}, not tuned")
        return f"{self.name}: " + "; ".join(parts)

    def power(self, noise: Noise | None = None) -> str:
        """Return the smallest difference that the finals can see. `noise`: measured; default: that of the options."""
        arena, source = self._options.arena, "measured in the screening"
        if noise is None:
            noise, source = Noise(arena.seed_spread / 100, arena.problem_spread / 100), "assumed"
        runs = len(self.starts) * len(self._options.seeds)
        if runs < 2:
            return f"{self.name}: a single run of each system, so the variation between seeds and the power are unknown"
        measure = next(iter(self._settings.values())).measure | _given(samples=self._options.samples)
        problems, samples = self._options.arena.eval_problems, int(measure["samples"])
        problems = min(problems, int(measure.get("limit") or problems))
        count = self._comparisons
        found = smallest_difference(problems, samples, runs, count, noise)
        seen = (
            f"see differences from {100 * found:.1f} percentage points"
            if found < 1
            else "see no difference; give more --seeds"
        )
        return (
            f"{self.name}: with a power of 80 %, the finals {seen} "
            f"({problems} problems x {samples} samples, {runs} runs, {count} comparisons; standard deviation "
            f"{100 * noise.seeds:.1f} points between seeds and {100 * noise.problems:.1f} between problems, {source})"
        )

    @property
    def _comparisons(self) -> int:
        """Number of differences that are tested in the finals."""
        others = [f"finalist {number}" for number in range(self.finalists - len(self.always))]
        return len(pairs([*self.always, *others], self.baseline))

    @property
    def tune_updates(self) -> int:
        return self._options.tune_updates

    def tunings(self, stage: "ArenaStage", left: Sequence[Cell]) -> int:
        """Return the number of runs that choose the learning rates of these cells and are not finished."""
        folders = {
            folder
            for cell in left
            for folder in stage.comparisons[cell.start].tunings(Method.parse(cell.system)).values()
        }
        return sum(not is_evaluated(folder / "eval") for folder in folders)

    # Options of the stages

    @property
    def _lrs(self) -> list[float]:
        return list(next(iter(self._settings.values())).lrs)

    def _tuned(self) -> tuple[CompareOptions, dict[str, Setting]]:
        """Return options and settings of the finals. A single learning rate is set, not chosen."""
        options = self._options.model_copy(update={"control": False, "tune": None, "lrs": ()})
        if len(self._lrs) > 1:
            return options, self._settings
        lr = {"learn": {"lr": self._lrs[0]}}
        return options, {
            start: Setting(train=over(setting.train, lr), measure=setting.measure)
            for start, setting in self._settings.items()
        }

    def _parts(self, **changes: Any) -> ComparisonParts:
        """Return the finals with one of the cold starts."""
        options = self._final_options.model_copy(update=changes)
        setting = next(iter((self._settings if options.lrs else self._final_settings).values()))
        return ArenaComparison(options, setting, self._options.out / self.name / FINAL)

    def check_problems(self) -> None:
        """Raise OptionError if problems of the screening are also evaluation problems."""
        self._parts(lrs=tuple(self._lrs), baseline=None).check_tuning()

    def _refused(self, names: Sequence[str]) -> dict[str, str]:
        """Return the systems that cannot run in this world, with the first reason."""
        if not names:
            return {}
        parts = self._parts(methods=tuple(names), baseline=None)
        found: dict[str, str] = {}
        for method in parts.methods:
            if reasons := list(of_training(parts.training(method, 0, Path("train")), 1)):
                found[method.name] = reasons[0]
        return found

    def screening(self, each: Round, systems: Sequence[str]) -> ArenaStage:
        """Return a round: evaluated on the tuning problems, without a teacher, with the learning rate of the recipe."""
        changes = {"methods": tuple(systems), "baseline": None, "seeds": each.seeds, "updates": each.updates}
        settings = {
            start: Setting(
                train=setting.train,
                measure={key: value for key, value in setting.measure.items() if key not in ("teacher", "limit")}
                | {"data": setting.train["data"].with_name("tune.jsonl")},
            )
            for start, setting in self._settings.items()
        }
        return self._stage(each.name, self._final_options.model_copy(update=changes), settings, each.updates)

    def final(self, systems: Sequence[str]) -> ArenaStage:
        options = self._final_options.model_copy(update={"methods": tuple(systems)})
        return self._stage(FINAL, options, self._final_settings, self.updates)

    def _stage(self, name: str, options: CompareOptions, settings: dict[str, Setting], updates: int) -> ArenaStage:
        out = self._options.out / self.name / name
        comparisons = {start: ArenaComparison(options, setting, out / start) for start, setting in settings.items()}
        planned = cells(self.starts, options.methods, options.seeds, updates)
        return ArenaStage(name, comparisons, planned, out)


def is_evaluated(folder: Path) -> bool:
    """Return whether the evaluation in this directory is finished. Its trajectories are not read."""
    try:
        return not read_results(folder).partial
    except RunError:
        return False


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
