"""What every experiment tracker does, which trackers there are, and what each needs."""

import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

Ending = Literal["finished", "failed", "interrupted"]


@dataclass(frozen=True)
class Needs:
    """What a tracker needs to work."""

    install: str
    """What to type if its package, of the same name, is missing."""
    remedy: str
    """What to check if it raises an error."""
    project: str = ""
    """Environment variable in which the library looks for the name of a project."""


EXTRA = 'pip install ".[track]" in a checkout of sod'
NEEDS = {
    "trackio": Needs(EXTRA, "Check TRACKIO_DIR, or TRACKIO_SPACE_ID and `hf auth login`."),
    "wandb": Needs(
        "pip install wandb", "Check the network and `wandb login`, or set WANDB_MODE=offline.", "WANDB_PROJECT"
    ),
    "tensorboard": Needs(EXTRA, "Check that the run directory can be written."),
    "mlflow": Needs("pip install mlflow", "Check MLFLOW_TRACKING_URI and its server.", "MLFLOW_EXPERIMENT_NAME"),
}
DEFAULT_PROJECT = "sod"


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker stores about a run when it is opened."""

    folder: Path
    """Run directory."""
    project: str
    name: str
    id: str | None
    """Run of the tracker to continue. None for a new run."""
    sent: int
    """The newest update that the tracker has."""
    validated: int
    """The newest update with a validation that the tracker has; -1 without one."""
    done: int
    """The newest update in the run directory when the run began or continued."""
    options: Mapping[str, Any]
    """Every option, nested."""
    facts: Mapping[str, str]
    """Command line, run directory and version."""


class Tracker(Protocol):
    """An experiment tracker. One thread calls all methods, in this order; each of them may be slow or raise."""

    replaces: bool
    """Whether all values after `TrackedRun.sent` are deleted when a run continues, so that updates can be sent again."""

    def open(self, about: TrackedRun) -> str:
        """Create the tracker's run, or continue it. -> its id"""
        ...

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        """Send metrics of an update. Updates come in increasing order; an update with a validation comes twice."""
        ...

    def alert(self, update: int, name: str, text: str) -> None:
        """Send an alarm."""
        ...

    def add_files(self, files: Sequence[Path]) -> None:
        """Send files. A page is shown where the tracker can show it."""
        ...

    def close(self, state: Ending, words: str) -> None:
        """Send all that is left and end the tracker's run. `words`: the error of a failed run."""
        ...


def project_of(tracker: str, project: str | None) -> str:
    """Return the project for a tracker: the option, else the library's own variable, else the default."""
    return project or os.environ.get(NEEDS[tracker].project, "") or DEFAULT_PROJECT


def tracker_refusals(names: Sequence[str]) -> Iterator[str]:
    """Yield what each tracker lacks: its package, or a login."""
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder of this name, such as W&B's ./wandb, has no origin
            yield f"track = {name} needs the package {name}, which is not installed. Type {NEEDS[name].install}."
        elif name == "wandb" and not _may_reach_wandb():
            yield (
                "track = wandb has no login on this machine. Type `wandb login`, or set WANDB_API_KEY. To keep the run on this "
                "disk for `wandb sync`, set WANDB_MODE=offline."
            )


def _may_reach_wandb() -> bool:
    """Return whether W&B has a login, or needs none. No network is used."""
    if os.environ.get("WANDB_MODE", "online") not in ("online", "run", "shared"):
        return True
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
