"""Updates of SOD in the lab by two processes on two cores, against one process: what dividing the work is worth.

    python benchmarks/processes.py [--updates 6]

All are `sod train` as a user starts it, with the lab's trained teacher as student and teacher, taking turns: one process with
one thread for its arithmetic, one with two, and two with one each. A model this small gains nothing: a sampling pass takes as
long for half of the trajectories as for all. It says nothing about GPUs: there, sampling and scoring are shared out likewise, and
gradients travel over another network. The first update of each run is not counted.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from measure import pairwise_ratios, parse, parser, report, row, show

from sod.config import LabOptions
from sod.config.recipes import to_toml
from sod.lab import settings
from sod.lab.make import make
from sod.runs.directory import Run

RUNS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes": (2, 1)}
"""Processes, and threads of each."""
OURS = "2 processes"
PHASES = ("sample", "learn", "sync")


def train(
    lab: Path, out: Path, processes: int, threads: int, updates: int, problems: int, group: int
) -> list[dict[str, float]]:
    """Metrics of each update but the first."""
    limits = settings.ROLLOUT | {
        "problems": problems,
        "group": group,
        "max_tokens": 256 - settings.ROLLOUT["max_prompt_tokens"],
    }
    files = {"student": lab / "teacher", "teacher": lab / "teacher", "data": lab / "train.jsonl", "out": out}
    fields = {"updates": updates, "save_every": updates, "processes": processes, "network": {"device": "cpu"}}
    recipe = out.with_suffix(".toml")
    recipe.write_text(to_toml(settings.TRAIN | files | {"rollout": limits, "tool": settings.TOOL} | fields))
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    subprocess.run(
        [sys.executable, *start, "-m", "sod", "train", recipe],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )
    return Run(out).metrics()[1:]


def main() -> None:
    options = parser(__doc__, rounds=3)
    options.add_argument("--updates", type=int, default=6, help="of each run")
    options = parse(options)
    updates, problems, group = (2, 2, 2) if options.quick else (options.updates, 8, 8)
    seconds: dict[str, dict[str, list[float]]] = {run: {phase: [] for phase in ("update", *PHASES)} for run in RUNS}
    with tempfile.TemporaryDirectory() as folder:
        lab = make(LabOptions(out=Path(folder), demonstrations=1, train_problems=problems * updates, eval_problems=1))
        for number in range(options.rounds):
            for index, (run, (processes, threads)) in enumerate(RUNS.items()):
                metrics = train(lab, lab / f"{number}-{index}", processes, threads, updates, problems, group)
                for phase, each in seconds[run].items():
                    each.append(median(update[f"seconds/{phase}"] for update in metrics))
    rows = []
    for run in [run for run in RUNS if run != OURS]:
        for phase, ours in seconds[OURS].items():
            what = f"an update of {group * problems} trajectories" if phase == "update" else f"... its phase {phase}"
            theirs = seconds[run][phase]
            rows.append(row(what, f"{OURS}, {show(ours)}", f"{run}, {show(theirs)}", pairwise_ratios(theirs, ours)))
    report(options, rows)


if __name__ == "__main__":
    main()
