"""A whole SOD update in the lab, 64 trajectories, where its time goes; and the same by a subclass of TRL's GRPOTrainer.

    python benchmarks/update.py [--updates 6]     # `make bench-peers` installs TRL; without it, its row is left out

The lab's trained teacher learns from itself: a network 2.7 times larger than the lab's student, whose trajectories are the
real thing. Programs run in the real sandbox, for TRL one after another, which is how it runs tools. TRL (`trl_peer.py`) has
the same model, problems, limits and hyper-parameters. The first update of each warms caches and is not counted. Runs
take turns, one of ours, one of TRL's.
"""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from measure import parse, parser, report, row, show

from sod.concurrency import Runner
from sod.config import LabOptions, SandboxOptions, ToolOptions, TrainOptions
from sod.lab import settings
from sod.lab.make import TEACHER_FOLDER, make
from sod.lab.make import problems as lab_problems
from sod.sandbox.guarded import open_sandbox
from sod.tools.python import PythonTool
from sod.train import train

PHASES = ("generate", "score", "waiting", "learn", "tools")
LIMIT = 256 - settings.ROLLOUT["max_prompt_tokens"]


def ours(updates: int, score: str) -> list[dict[str, float]]:
    """Metrics of each update but the first."""
    with tempfile.TemporaryDirectory() as folder:
        lab = make(LabOptions(out=Path(folder), demonstrations=1, train_problems=64, eval_problems=1))
        files = {
            "student": lab / "teacher",
            "teacher": lab / "teacher",
            "data": lab / "train.jsonl",
            "out": lab / "run",
        }
        limits = settings.ROLLOUT | {"problems": 8, "group": 8, "max_tokens": LIMIT}
        recipe = settings.TRAIN | files | {"rollout": limits, "sandbox": {"workers": 4}, "score": {"student": score}}
        recipe |= {"updates": updates, "save_every": updates}
        return train(TrainOptions.model_validate(recipe)).metrics()[1:]


def trl(updates: int) -> list[Any]:
    """Seconds and statistics of each update but the first."""
    import trl_peer

    tasks, _ = lab_problems(8 * updates, 0, seed=1)
    sandbox = open_sandbox(SandboxOptions(workers=4))
    with Runner() as loop, sandbox.working_in(loop):
        python = PythonTool(sandbox, ToolOptions.model_validate(settings.TOOL))
        tool = trl_peer.code_interpreter(lambda code: loop.run(python({"code": code})).text)
        seconds, statistics = trl_peer.update(
            TEACHER_FOLDER, TEACHER_FOLDER, tasks, [tool], updates=updates, max_completion_length=LIMIT
        )
    return list(zip(seconds, statistics, strict=True))[1:]


def main() -> None:
    made = parser(__doc__, rounds=2)
    made.add_argument("--updates", type=int, default=6)
    options = parse(made)
    if options.quick:
        options.updates = 2
    runs: dict[str, list[dict[str, float]]] = {"recompute": [], "sampler": []}
    theirs: list[Any] = []
    for _ in range(options.rounds):
        for score, rows in runs.items():
            rows += ours(options.updates, score)
        if find_spec("trl"):
            theirs += trl(options.updates)
    middle = {name: median(each["seconds/update"] for each in rows) for name, rows in runs.items()}
    rows = []
    for score, each in runs.items():
        shares = {name: median(r[f"seconds/{name}"] for r in each) / middle[score] for name in PHASES}
        words = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if name != "tools")
        words = f"{show([middle[score]])}: {words} (some tool was running {shares['tools']:.0%} of it)"
        what = f"a whole SOD update in the lab, 64 trajectories, score.student = {score}"
        if theirs:
            last = theirs[-1][1]
            against = (
                f"TRL 1.16.0 subclass: {show([seconds for seconds, _ in theirs])} (rollout {last.rollout_seconds:.2f}, score "
                f"{last.score_seconds:.2f}, learn {last.learn_seconds:.2f} s)"
            )
            rows.append(row(what, words, against, [seconds / middle[score] for seconds, _ in theirs], ">= 4"))
        else:
            rows.append(row(what, words, "itself", [r["seconds/update"] / middle[score] for r in each]))
    report(
        options,
        rows,
        tokens_sampled=median(each["rollout/tokens_sampled"] for each in runs["recompute"]),
        seconds={name: [each["seconds/update"] for each in rows] for name, rows in runs.items()},
        trl=[{"seconds": seconds, "tokens": s.tokens_sampled, "calls": s.tool_calls} for seconds, s in theirs],
    )


if __name__ == "__main__":
    main()
