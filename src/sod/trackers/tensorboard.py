"""TensorBoard: event files in the run directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sod.config.recipes import flat, to_toml
from sod.trackers.base import Ending, TrackedRun

FOLDER = "tensorboard"
COMPARED = ("rollout/solved", "rollout/reward", "learn/loss")
"""Metrics beside the options in the tab HPARAMS."""


class TensorBoard:
    """Writes scalars, the options as text and in HPARAMS, and alarms as text. Files stay in the run directory."""

    replaces = True

    def open(self, about: TrackedRun) -> str:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        folder = about.folder / FOLDER
        first = 0 if about.id is None else about.sent + 1  # a new run also replaces a validation after 0 updates
        self._writer = SummaryWriter(str(folder), purge_step=first)
        self._update = about.sent
        if about.id is None:
            options = {key: _shown(value) for key, value in flat(dict(about.options)).items()}
            for summary in hparams(options, dict.fromkeys(COMPARED, 0.0)):
                self._file.add_summary(summary)
            self._writer.add_text("options", f"```toml\n{to_toml(dict(about.options))}```")
            self._writer.add_text("about", "\n\n".join(f"{name}: `{fact}`" for name, fact in about.facts.items()))
        return FOLDER

    @property
    def _file(self):
        assert self._writer.file_writer is not None
        return self._writer.file_writer

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, update)
        self._update = update
        self._writer.flush()

    def alert(self, update: int, name: str, text: str) -> None:
        self._writer.add_text(f"alarm/{name}", text, update)

    def add_files(self, files: Sequence[Path]) -> None:
        self._writer.add_text("files", "\n\n".join(f"`{file}`" for file in files), self._update)

    def close(self, state: Ending, words: str) -> None:
        self._writer.add_text("state", f"{state} {words}".strip(), self._update)
        self._writer.close()


def _shown(value: object) -> bool | str | float | int:
    """Return an option as a type that HPARAMS can show."""
    return value if isinstance(value, bool | str | float | int) else str(value)
