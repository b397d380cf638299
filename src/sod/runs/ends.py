"""How a run ended: the file end.json of its directory. The only module that reads this file or decides its format.

A process that is killed writes no end. Its lock is then left in the directory, and no process holds it (`sod.runs.locks`).
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from sod.errors import AlarmError, RankError, RunError
from sod.processes.distributed import OtherFailed
from sod.processes.interrupts import Terminated
from sod.runs.files import write_json

END_FILE = "end.json"

How = Literal["finished", "alarm", "interrupted", "failed"]


@dataclass(frozen=True, slots=True)
class End:
    """The content of end.json."""

    how: How
    """finished: the command is done. alarm: an alarm in `stop_on` stopped it. interrupted: Ctrl-C or a signal. failed: an
    error."""
    by: str = ""
    """Name of the alarm, of the signal (SIGINT for Ctrl-C), or of the error's class; empty for a finished run."""
    message: str = ""
    """Text of the error or of the alarm."""

    @classmethod
    def of(cls, error: BaseException | None) -> "End":
        """Return the end that an exception causes. None: the command is done."""
        match error:
            case None:
                return cls("finished")
            case AlarmError():
                return cls("alarm", error.alarm, str(error))
            case Terminated():
                return cls("interrupted", error.name)
            case KeyboardInterrupt():
                return cls("interrupted", "SIGINT")
            case OtherFailed():  # a RankError soon, but only outside `Run.held`
                return cls("failed", RankError.__name__, str(error))
            case _:
                return cls("failed", type(error).__name__, str(error))


def write_end(folder: Path, error: BaseException | None) -> None:
    """Write end.json. Has no effect if the directory cannot be written, for example because the disk is full."""
    with suppress(RunError):
        write_json(folder / END_FILE, asdict(End.of(error)))


def forget_end(folder: Path) -> None:
    """Delete end.json: the run is under way."""
    with suppress(OSError):
        (folder / END_FILE).unlink()


def read_end(folder: Path) -> End | None:
    """Return how the run ended, or None if end.json is missing or unreadable."""
    try:
        content = json.loads((folder / END_FILE).read_bytes())
        how, by, message = content["how"], content["by"], content["message"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None
    return End(how, str(by), str(message)) if how in get_args(How) else None
