"""Run `sod` commands in processes of their own and show their output, each line with the name of its run."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sod.config.recipes import to_toml
from sod.console.progress import LEGEND, ROOM, echo, width
from sod.errors import TrainingError
from sod.processes.warm import WarmCommand, can_start_warm, start_warm
from sod.runs.files import write_json, write_whole

LAST_LINES = 20
"""Number of output lines of a failed command that its error shows."""


class Commands:
    """A pool of `jobs` parallel commands that share the processors. `jobs` is None: one command per processor.

    Several commands in one `async with commands.slot:` keep the same place, so that a started cell is also finished.
    """

    def __init__(self, jobs: int | None = None, *, threads: int | None = None):
        """`threads`: threads of each command. Default: an equal share of the processors."""
        processors = os.cpu_count() or 1
        self.jobs = jobs or processors
        self.slot = asyncio.Semaphore(self.jobs)
        self._environment = {"OMP_NUM_THREADS": str(threads or max(1, processors // self.jobs))}
        self._explained: set[str] = set()

    async def run(self, command: str, recipe: Path, content: dict[str, Any], *, name: str = "") -> None:
        """Write `content` to the recipe, run `sod COMMAND RECIPE`, and show its lines after `name`, unless that is "".

        The caller holds the slot. Raise TrainingError with the command's last lines if it fails. An interruption also ends
        the command, and waits until it has saved its work.
        """
        recipe.parent.mkdir(parents=True, exist_ok=True)
        write_whole(recipe, to_toml(content))
        columns = width()
        room = {} if columns is None else dict.fromkeys(("COLUMNS", ROOM), str(columns - len(f"{name} | ")))
        process = await _start([command, str(recipe)], os.environ | self._environment | room)
        assert process.stdout is not None
        lines: list[str] = []
        try:
            async for line in process.stdout:
                lines = [*lines[1 - LAST_LINES :], line.decode(errors="replace").rstrip()]
                if name:
                    self._show(name, lines[-1])
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.stdout.read()
                await process.wait()
        if status:
            raise TrainingError(f"`sod {command} {recipe}` failed with status {status}:\n" + "\n".join(lines))

    def _show(self, name: str, line: str) -> None:
        """Show a line with the command's name before it. Show a legend only once for all commands, without a name."""
        if not line.startswith(LEGEND):
            echo(f"{name} | {line}")
        elif line not in self._explained:
            self._explained.add(line)
            echo(line)


async def _start(words: Sequence[str], environment: Mapping[str, str]) -> asyncio.subprocess.Process | WarmCommand:
    if can_start_warm():
        with suppress(OSError):
            return await start_warm(words, environment)
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sod", *words),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


SECONDS_FILE = "seconds.json"


@contextmanager
def timed(folder: Path) -> Iterator[None]:
    """Add the duration of the work to the cell's seconds.json. Only a killed process leaves its part out."""
    began = time.monotonic()
    try:
        yield
    finally:
        if folder.is_dir():
            write_json(folder / SECONDS_FILE, {"seconds": cell_seconds(folder) + time.monotonic() - began})


def cell_seconds(folder: Path) -> float:
    """Return the seconds that were spent on a cell; 0 if none are known."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        return float(json.loads((folder / SECONDS_FILE).read_bytes())["seconds"])
    return 0.0
