"""Trackio: a local database, or a Space on the Hugging Face hub (TRACKIO_SPACE_ID)."""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from sod.config.recipes import flat
from sod.trackers.base import Ending, TrackedRun


class Trackio:
    """Sends metrics, the options, alarms as alerts, and files as one artifact. The report page is also a medium."""

    replaces = False

    def open(self, about: TrackedRun) -> str:
        import trackio  # pyright: ignore[reportMissingImports]

        name = about.id or f"{about.name}-{uuid.uuid4().hex[:6]}"  # Trackio continues the newest run of a name
        self._run = trackio.init(
            project=about.project,
            name=name,
            config=flat(dict(about.options)) | dict(about.facts),
            resume="allow" if about.id else "never",
            embed=False,
        )
        return name

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=update)

    def alert(self, update: int, name: str, text: str) -> None:
        self._run.alert(title=name, text=text, step=update)

    def add_files(self, files: Sequence[Path]) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        artifact = trackio.Artifact(name=self._run.name, type="run")
        for file in files:
            artifact.add_file(str(file), name=file.name)
        self._run.log_artifact(artifact)

    def close(self, state: Ending, words: str) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        if state != "finished":
            self._run.alert(title=state, text=words, level=trackio.AlertLevel.ERROR)
        self._run.finish()
