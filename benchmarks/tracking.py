"""What an experiment tracker costs an update: seconds that the run is blocked, and processor seconds of the tracker's threads.

    python benchmarks/tracking.py [--updates 20]

Every installed tracker gets as many metrics as an update of SOD has, and keeps them on this disk. The limit is 2 % of the
shortest update there is, that of the lab (`update.py`: 2.5 s on two processors). Opening and ending a tracker's run is not
counted; both happen once. W&B also has a process of its own, which is not counted.
"""

import os
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from measure import Row, parse, parser, report, row, show

from sod.config import SftOptions
from sod.runs.directory import Run
from sod.trackers.base import NEEDS
from sod.trackers.sending import Tracking, tracked

METRICS = {f"area_{i % 10}/metric_{i}": i / 7 for i in range(95)}
UPDATE = 2.5
"""Seconds of an update of the lab."""


def stored_here(folder: Path) -> None:
    """Keep everything in the folder."""
    os.chdir(folder)
    os.environ |= {"TRACKIO_DIR": str(folder / "trackio"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}


def settled(file: Path, update: int) -> None:
    """Wait until the tracker has an update, and until its own threads have written it."""
    while not file.exists() or f'"sent": {update}' not in file.read_text():
        time.sleep(0.05)
    time.sleep(1.0)


def cost(tracker: str, updates: int, folder: Path) -> tuple[list[float], list[float]]:
    """Seconds blocked and processor seconds of each update."""
    folder.mkdir()
    run, file = Run(folder), folder / "tracking" / f"{tracker}.json"
    options = SftOptions.model_validate(
        {"model": "m", "data": "d", "out": folder, "track": [tracker], "tracking": {"files": False}}
    )
    blocked: list[float] = []

    def send(tracking: Tracking, update: int) -> None:
        start = time.perf_counter()
        tracking.log(update, METRICS)
        blocked.append(time.perf_counter() - start)

    with tracked(run, options) as tracking:
        send(tracking, 1)  # opens the tracker
        settled(file, 1)
        start = time.process_time()
        for update in range(2, updates + 2):
            send(tracking, update)
            time.sleep(0.1)  # as between updates: what is queued is not sent together
        settled(file, updates + 1)
        busy = time.process_time() - start
    return blocked[1:], [busy / updates]


def main() -> None:
    made = parser(__doc__, rounds=3)
    made.add_argument("--updates", type=int, default=20)
    options = parse(made)
    if options.quick:
        options.updates = 2
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        stored_here(Path(folder))
        for tracker in [name for name in NEEDS if find_spec(name)]:
            costs = [
                cost(tracker, options.updates, Path(folder, f"{tracker}-{round}")) for round in range(options.rounds)
            ]
            blocked = [seconds for each, _ in costs for seconds in each]
            busy = [seconds for _, each in costs for seconds in each]
            what = f"sending an update of {len(METRICS)} metrics to {tracker}"
            words = f"{show(busy)} of a processor; the run is blocked for {1e6 * median(blocked):.0f} us"
            against = f"an update in the lab: {show([UPDATE])}"
            rows.append(row(what, words, against, [each / UPDATE for each in busy], "<= 0.02"))
        os.chdir("/")
    report(options, rows)


if __name__ == "__main__":
    main()
