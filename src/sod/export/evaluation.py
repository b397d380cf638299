"""Evaluations of the very model that is exported: read, and told."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult

from sod.config import EvalOptions
from sod.errors import RunError
from sod.evaluation.results import Sheet, defined, to_markdown
from sod.export.folder import Json, read_json, read_options
from sod.export.wording import DIFFERING, counted, options_and_environment, public, ran_with, recipe

SETTINGS = ("prompts", "temperature", "top_p", "max_turns", "max_tokens", "judge")
"""What the results depend on, beside the model, the problems and the number of samples."""


@dataclass(frozen=True)
class Evaluation:
    """A run of `sod eval`."""

    options: EvalOptions
    environment: Json
    results: Json

    @classmethod
    def read(cls, run: Path, model: str) -> "Evaluation":
        """Raises RunError where there are no results, or they are of a model with another fingerprint."""
        results, environment = read_json(run / "results.json"), read_json(run / "environment.json")
        if "benchmarks" not in results:
            raise RunError(f"{run} holds results in an older form; run `sod eval` again, into a new directory.")
        found = environment["data"].get("model")
        if found != model:
            raise RunError(
                f"{run} measured another model ({results['model']}, fingerprint {str(found)[:12]}) than is exported "
                f"(fingerprint {model[:12]}). Leave it out, or measure this one: `sod eval --model ...`."
            )
        return cls(read_options(EvalOptions, run), environment, defined(results))

    @property
    def benchmarks(self) -> dict[str, Json]:
        return self.results["benchmarks"]

    def files(self) -> dict[str, Json]:
        return options_and_environment(self.options, self.environment) | {"results": public(self.results)}

    def index(self) -> Iterator[EvalResult]:
        """The results as the hub's `model-index` has them, in percent."""
        ending = " (partial)" if self.results["partial"] else ""
        for name, benchmark in self.benchmarks.items():
            measured, source = benchmark["measured"], benchmark["source"]
            n = round(measured["samples"])
            for title, key in {f"avg@{n}": "avg", f"pass@{n}": f"pass@{n}", f"maj@{n}": "maj"}.items():
                if key in measured:
                    yield EvalResult(
                        task_type="text-generation",
                        dataset_type=source.get("repo", name),
                        dataset_name=name,
                        dataset_revision=source.get("revision"),
                        metric_type="accuracy",
                        metric_name=title + ending,
                        metric_value=round(100 * measured[key], 2),
                        metric_args={key: self.results[key] for key in SETTINGS},
                    )

    def section(self) -> str:
        """Its tables, how it was made, and on what."""
        results, partial = self.results, self.results["partial"]
        parts = [
            f"### {', '.join(self.benchmarks)}{' (partial)' if partial else ''}",
            *(["Samples are missing: the evaluation was interrupted, or lost too many."] if partial else []),
            to_markdown(self._for_strangers()).strip(),
            self._pass_rates().markdown(),
            f"Measured by `sod eval`, {counted(results['samples'], 'sample')} of each problem, weights in "
            f"{self.options.network.dtype}, {', '.join(f'{key} {results[key]}' for key in SETTINGS)}. The recipe, {DIFFERING}",
            recipe(self.options, "model", "out", "dry_run"),
            "\n".join(f"- {name}: {_read_from(benchmark)}" for name, benchmark in self.benchmarks.items()),
            ran_with(self.environment),
        ]
        return "\n\n".join(parts)

    def _for_strangers(self) -> Json:
        """The results, without the advice to run the command again where samples are missing."""
        benchmarks = {}
        for name, each in self.benchmarks.items():
            notes = each["notes"]
            if lost := round(each["measured"]["rollout/dropped"]):
                notes = [
                    *notes,
                    f"{counted(lost, 'sample')} without a result, through no fault of the model's; not counted.",
                ]
            benchmarks[name] = each | {"notes": notes, "measured": each["measured"] | {"rollout/dropped": 0}}
        return self.results | {"partial": False, "benchmarks": benchmarks}

    def _pass_rates(self) -> Sheet:
        """pass@k of every benchmark, for each k that was computed."""
        measured = {name: benchmark["measured"] for name, benchmark in self.benchmarks.items()}
        keys = {key for each in measured.values() for key in each if key.startswith("pass@")}
        head = sorted(keys, key=lambda key: int(key.removeprefix("pass@")))
        rows = [
            [name, *(f"{100 * each[key]:.1f}" if key in each else "" for key in head)]
            for name, each in measured.items()
        ]
        return Sheet("At least one of k samples right, %", ["", *head], rows)


def _read_from(benchmark: Json) -> str:
    """The file of a benchmark, and where that came from."""
    known = [benchmark["source"][key] for key in ("repo", "revision") if benchmark["source"].get(key)]
    file = f"`{public(benchmark['file'])}`, SHA-256 `{benchmark['sha256']}`"
    return f"{file}, from {' at '.join(known)}" if known else file
