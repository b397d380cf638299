"""Weights & Biases."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sod.trackers.base import Ending, TrackedRun

FINISH_SECONDS = 50.0
"""Seconds that W&B waits for its uploads at the end. Less than sod waits for the tracker."""


class WeightsAndBiases:
    """Sends metrics, the options as config, alarms as alerts, and files as an artifact. The report page is also a panel."""

    replaces = False

    def open(self, about: TrackedRun) -> str:
        import wandb  # pyright: ignore[reportMissingImports]

        settings: dict[str, Any] = {"console": "off"}  # it would record every state of the progress bars
        if "finish_timeout" in wandb.Settings.model_fields:
            settings["finish_timeout"] = FINISH_SECONDS
        self._run = wandb.init(
            project=about.project,
            name=about.name,
            id=about.id,
            resume="allow" if about.id else None,
            config=dict(about.options) | dict(about.facts),
            allow_val_change=True,
            settings=wandb.Settings(**settings),
        )
        return self._run.id

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=update)

    def alert(self, update: int, name: str, text: str) -> None:
        self._run.alert(title=name, text=f"update {update}: {text}", level="WARN")

    def add_files(self, files: Sequence[Path]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        artifact = wandb.Artifact(f"run-{self._run.id}", type="run")
        for file in files:
            artifact.add_file(str(file), name=file.name)
        self._run.log_artifact(artifact)
        for page in (file for file in files if file.suffix == ".html"):
            self._run.log({page.stem: wandb.Html(str(page), inject=False)})

    def close(self, state: Ending, words: str) -> None:
        if words:
            self._run.summary["error"] = words
        self._run.finish(exit_code=0 if state == "finished" else 1)
