"""`sod` commands in processes of their own: one a core, their lines shown here under a name."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from sod.console.progress import LEGEND, ROOM, say, width
from sod.errors import TrainingError
from sod.recipes import to_toml
from sod.runs.files import write_whole

LAST_LINES = 20
"""Of a command that failed, shown in its error."""


class Commands:
    """Commands of which `jobs` run at a time, the processors shared out among them. None: one a processor.

    `async with commands.slot:` holds a place for one command after another, so that what was begun is also finished.
    """

    def __init__(self, jobs: int | None = None):
        processors = os.cpu_count() or 1
        jobs = jobs or processors
        self.slot = asyncio.Semaphore(jobs)
        self._environment = {"OMP_NUM_THREADS": str(max(1, processors // jobs))}
        self._explained: set[str] = set()

    async def run(self, command: str, recipe: Path, content: dict[str, Any], *, name: str = "") -> None:
        """`sod COMMAND RECIPE`, after writing `content` to the recipe. Lines are shown under `name`, if there is one.

        The caller holds the slot. Raises TrainingError with the command's last lines where it fails. An interruption ends the
        command as well, and waits until it has saved what it does.
        """
        recipe.parent.mkdir(parents=True, exist_ok=True)
        write_whole(recipe, to_toml(content))
        columns = width()
        room = {} if columns is None else dict.fromkeys(("COLUMNS", ROOM), str(columns - len(f"{name} | ")))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sod", command, str(recipe)),
            env=os.environ | self._environment | room,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
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
                await process.communicate()
        if status:
            raise TrainingError(f"`sod {command} {recipe}` failed with status {status}:\n" + "\n".join(lines))

    def _show(self, name: str, line: str) -> None:
        """A line under the command's name; a legend once, for all commands."""
        if not line.startswith(LEGEND):
            say(f"{name} | {line}")
        elif line not in self._explained:
            self._explained.add(line)
            say(line)
