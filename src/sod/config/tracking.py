"""Options `--tracking`: what experiment trackers receive."""

from typing import Literal

from sod.config.base import Options

TrackerNames = tuple[Literal["trackio", "wandb", "tensorboard", "mlflow"], ...]


class TrackOptions(Options):
    """What experiment trackers receive."""

    project: str | None = None
    """Project of the run (an experiment in MLflow). Default: WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME if set, else sod."""
    name: str | None = None
    """Name of the run in the trackers. Default: the name of the run directory."""
    files: bool = True
    """Also send the report page, the options and the newest trajectories at the end. Off sends only metrics, options and
    alarms."""
