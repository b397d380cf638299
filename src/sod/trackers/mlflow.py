"""MLflow: a server (MLFLOW_TRACKING_URI), or a database in the working directory."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sod.config.recipes import flat
from sod.trackers.base import Ending, TrackedRun

LONGEST_VALUE = 500
"""Characters of a parameter's value that every MLflow server accepts."""
PARAMETERS = 100
"""Parameters in a request."""
STATES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MLflow:
    """Sends metrics, the options as parameters, alarms as tags, and files as artifacts."""

    replaces = False

    def open(self, about: TrackedRun) -> str:
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        self._client = client = MlflowClient()
        if about.id is not None:
            self._id = about.id
            client.update_run(self._id, status="RUNNING")
            return self._id
        experiment = client.get_experiment_by_name(about.project)
        place = experiment.experiment_id if experiment else client.create_experiment(about.project)
        self._id = client.create_run(place, run_name=about.name, tags=dict(about.facts)).info.run_id
        parameters = [Param(key, str(value)[:LONGEST_VALUE]) for key, value in flat(dict(about.options)).items()]
        for start in range(0, len(parameters), PARAMETERS):
            client.log_batch(self._id, params=parameters[start : start + PARAMETERS])
        return self._id

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id, metrics=[Metric(_allowed(name), value, now, update) for name, value in metrics.items()]
        )

    def alert(self, update: int, name: str, text: str) -> None:
        self._client.set_tag(self._id, f"alarm.{name}", f"update {update}: {text}")

    def add_files(self, files: Sequence[Path]) -> None:
        for file in files:
            self._client.log_artifact(self._id, str(file))

    def close(self, state: Ending, words: str) -> None:
        if words:
            self._client.set_tag(self._id, "error", words)
        self._client.set_terminated(self._id, STATES[state])


def _allowed(name: str) -> str:
    """Return the name of a metric without characters that MLflow refuses, such as the @ of avg@8."""
    return re.sub(r"[^\w\-. :/]", "_", name)
