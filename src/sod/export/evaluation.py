"""Read evaluations of the exported model, and write them as a section of the card."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import EvalResult

from sod.config import EvalOptions
from sod.errors import RunError
from sod.evaluation.results import results_markdown
from sod.evaluation.sheets import Sheet
from sod.export.folder import Json, read_json, read_options
from sod.export.wording import DIFFERING, counted, options_and_environment, public, ran_with, recipe
from sod.runs.contents import same_input
from sod.runs.results import BenchmarkResults, Results, read_results

SETTINGS = ("prompts", "temperature", "top_p", "max_turns", "max_tokens", "judge")
"""Settings that the results depend on, in addition to the model, the problems and the number of samples."""


@dataclass(frozen=True)
class Evaluation:
    """A run of `sod eval`."""

    options: EvalOptions
    environment: Json
    results: Results

    @classmethod
    def read(cls, run: Path, model: str) -> "Evaluation":
        """Read an evaluation. Raises RunError if it has no results, or if its model has another fingerprint."""
        results, environment = read_results(run), read_json(run / "environment.json")
        found = environment["data"].get("model")
        if not same_input(found, model):
            raise RunError(
                f"{run} evaluated another model ({results.model}, fingerprint {str(found)[:12]}) than the exported one "
                f"(fingerprint {model[:12]}). Leave this run out, or evaluate the exported model: `sod eval --model ...`."
            )
        return cls(read_options(EvalOptions, run), environment, results)

    def files(self) -> dict[str, Json]:
        return options_and_environment(self.options, self.environment) | {"results": public(self.results.record())}

    def index(self) -> Iterator[EvalResult]:
        """Yield the results in the format of the hub's `model-index`, in percent."""
        ending = " (partial)" if self.results.partial else ""
        for name, benchmark in self.results.benchmarks.items():
            measured, source = benchmark.measured, benchmark.source
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
                        metric_args=self._settings(),
                    )

    def section(self) -> str:
        """Return the section of the card: tables, recipe and data."""
        results, partial = self.results, self.results.partial
        settings = ", ".join(f"{key} {value}" for key, value in self._settings().items())
        parts = [
            f"### {', '.join(results.benchmarks)}{' (partial)' if partial else ''}",
            *(["Samples are missing: the evaluation was interrupted, or too many samples failed."] if partial else []),
            results_markdown(self._without_advice()).strip(),
            self._pass_rates().markdown(),
            f"Evaluated with `sod eval`: {counted(results.samples, 'sample')} per problem, weights in "
            f"{self.options.network.dtype}, {settings}. Recipe ({DIFFERING}):",
            recipe(self.options, "model", "out", "dry_run"),
            self._holds_for(),
            "\n".join(f"- {name}: {_read_from(benchmark)}" for name, benchmark in results.benchmarks.items()),
            ran_with(self.environment),
        ]
        return "\n\n".join(parts)

    def _settings(self) -> dict[str, str | float]:
        return {key: self.results.settings[key] for key in SETTINGS}

    def _holds_for(self) -> str:
        """Return what else the results depend on: the chat template, the tool and the engine."""
        chat, tool = self.options.chat, self.options.tool
        template = "this folder's own" if chat.template is None else f"`{public(chat.template)}`"
        thinking = {None: "", True: ", with thinking", False: ", without thinking"}[chat.thinking]
        limits = f"{tool.seconds:g} s and {tool.memory_mb:,} MiB a program, {tool.max_chars:,} characters of output"
        others = f"; other tools: {', '.join(public(list(tool.own)))}" if tool.own else ""
        faults = f"; {tool.faults:.0%} of the calls were damaged on purpose" if tool.faults else ""
        return (
            f"The results hold for this chat template: {template}{thinking}. Tool: `{tool.name}`, {limits}, sandbox "
            f"{self.options.sandbox.backend}{others}{faults}. Tokens were sampled with the engine {self.options.engine.name}."
        )

    def _without_advice(self) -> Results:
        """Return the results without the advice to run the command again for missing samples."""
        benchmarks = {}
        for name, each in self.results.benchmarks.items():
            notes = each.notes
            if lost := round(each.measured["rollout/dropped"]):
                notes = [
                    *notes,
                    f"{counted(lost, 'sample')} without a result because of infrastructure failures; not counted.",
                ]
            benchmarks[name] = replace(each, notes=notes, measured=each.measured | {"rollout/dropped": 0})
        return replace(self.results, partial=False, benchmarks=benchmarks)

    def _pass_rates(self) -> Sheet:
        """Return a table of pass@k per benchmark, for each computed k."""
        measured = {name: benchmark.measured for name, benchmark in self.results.benchmarks.items()}
        keys = {key for each in measured.values() for key in each if key.startswith("pass@")}
        head = sorted(keys, key=lambda key: int(key.removeprefix("pass@")))
        rows = [
            [name, *(f"{100 * each[key]:.1f}" if key in each else "" for key in head)]
            for name, each in measured.items()
        ]
        return Sheet("At least one of k samples correct, %", ["", *head], rows)


def _read_from(benchmark: BenchmarkResults) -> str:
    """Describe the file of a benchmark and its origin."""
    known = [benchmark.source[key] for key in ("repo", "revision") if benchmark.source.get(key)]
    file = f"`{public(benchmark.file)}`, SHA-256 `{benchmark.sha256}`"
    return f"{file}, from {' at '.join(known)}" if known else file
