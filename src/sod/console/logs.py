"""Show the package's log records as lines of the command line.

Library code logs to the logger of its module. A command shows these records between its progress bars. Another program, for
example one that uses an adapter, configures the logger `sod` like any other; without a handler, Python prints warnings only.
"""

import logging

from sod.console.progress import echo, warn


class _Lines(logging.Handler):
    """Prints records with `every_process` (see `sod.processes.distributed.EVERY_PROCESS`) in all processes, others in the first."""

    def emit(self, record: logging.LogRecord) -> None:
        show = warn if getattr(record, "every_process", False) else echo
        show(record.getMessage())


def show_logs() -> None:
    """Print the records of the logger `sod`, from level INFO. Calling it again has no effect."""
    logger = logging.getLogger("sod")
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())
    logger.setLevel(logging.INFO)
    logger.propagate = False
