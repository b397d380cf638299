"""A whole SOD update in the lab, 64 trajectories, where its time goes; and the same by a subclass of TRL's GRPOTrainer.

    python benchmarks/update.py [--updates 6]     # `make bench-peers` installs TRL; without it, its row is left out

The lab's trained teacher learns from itself: a network 2.7 times larger than the lab's student, whose trajectories are the
real thing. Programs run in the real sandbox, for TRL one after another, which is how it runs tools. TRL (`trl_peer.py`) has
the same model, problems, limits and hyper-parameters. The first update of each warms caches and is not counted. Runs
take turns, one of ours, one of TRL's.
"""

import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lab import Lab, SlowTool
from measure import parse, parser, report, row, show

from sod.batching import ScoredBatch, join
from sod.config import (
    AlgorithmOptions,
    LabOptions,
    LearnOptions,
    ModelOptions,
    SandboxOptions,
    ScoreOptions,
    ToolOptions,
    TrainOptions,
)
from sod.credit.algorithms import give_credit
from sod.lab import settings
from sod.lab.make import TEACHER_FOLDER, make
from sod.lab.make import problems as lab_problems
from sod.model.policy import Policy
from sod.processes.concurrency import Runner
from sod.rollout.groups import rollout
from sod.sandbox.retries import open_sandbox
from sod.scoring import Scorer
from sod.teachers import TeacherSetup
from sod.teachers.local import LocalTeacher
from sod.tools.python import PythonTool
from sod.training.on_policy import train
from sod.types import Group

PHASES = ("generate", "score", "waiting", "learn", "tools")
FAR = 0.05
LIMIT = 256 - settings.ROLLOUT["max_prompt_tokens"]


def ours(updates: int, problems: int, score: str) -> list[dict[str, float]]:
    """Metrics of each update but the first."""
    with tempfile.TemporaryDirectory() as folder:
        lab = make(LabOptions(out=Path(folder), demonstrations=1, train_problems=64, eval_problems=1))
        files = {
            "student": lab / "teacher",
            "teacher": lab / "teacher",
            "data": lab / "train.jsonl",
            "out": lab / "run",
        }
        limits = settings.ROLLOUT | {"problems": problems, "group": 8, "max_tokens": LIMIT}
        recipe = settings.TRAIN | files | {"rollout": limits, "sandbox": {"workers": 4}, "score": {"student": score}}
        recipe |= {"tool": settings.TOOL | {"faults": 0.0}}  # TRL's tools have none
        recipe |= {"updates": updates, "save_every": updates}
        return train(TrainOptions.model_validate(recipe)).metrics()[1:]


def ours_far_away(updates: int, count: int) -> list[float]:
    """Seconds of each update but the first, with tools that take `FAR` seconds: the parts of a run, without its files."""
    lab = Lab(count * updates, max_tokens=LIMIT)
    agent = lab.agent(SlowTool(FAR))
    learn = LearnOptions.model_validate(settings.TRAIN["learn"])
    network, tokenizer = ModelOptions(device="cpu"), lab.chat.tokenizer
    tokens = learn.microbatch_tokens
    setup = TeacherSetup(
        folder=TEACHER_FOLDER,
        tokenizer=tokenizer,
        network=network,
        score=ScoreOptions(),
        rollout=agent.options,
        microbatch_tokens=tokens,
    )
    scorer = Scorer(lab.model, LocalTeacher(setup), temperature=1.0, microbatch_tokens=tokens)
    policy = Policy(lab.model, tokenizer, learn)
    seconds: list[float] = []
    with Runner() as loop:
        for update in range(updates):
            start = time.perf_counter()
            scored: dict[str, ScoredBatch] = {}

            async def score(group: Group, scored: dict[str, ScoredBatch] = scored) -> None:
                scored[group.problem.id] = await scorer.score(group)

            problems = lab.problems[count * update : count * (update + 1)]
            groups = loop.run(rollout(agent, problems, seed=0, update=update, on_group=score))
            batch = join([scored[group.problem.id] for group in groups])
            policy.learn(give_credit(batch, AlgorithmOptions()), 1.0, torch.Generator().manual_seed(update))
            loop.run(lab.engine.refresh())
            seconds.append(time.perf_counter() - start)
    return seconds[1:]


def trl(updates: int, run: Callable[[str], str]) -> list[Any]:
    """Seconds and statistics of each update but the first."""
    import trl_peer

    tasks, _ = lab_problems(8 * updates, 0, seed=1)
    tool = trl_peer.code_interpreter(run)
    seconds, statistics = trl_peer.update(
        TEACHER_FOLDER, TEACHER_FOLDER, tasks, [tool], updates=updates, max_completion_length=LIMIT
    )
    return list(zip(seconds, statistics, strict=True))[1:]


def trl_in_the_sandbox(updates: int) -> list[Any]:
    sandbox = open_sandbox(SandboxOptions(workers=4))
    with Runner() as loop, sandbox.working_in(loop):
        python = PythonTool(sandbox, ToolOptions.model_validate(settings.TOOL))
        return trl(updates, lambda code: loop.run(python({"code": code})).text)


def main() -> None:
    made = parser(__doc__, rounds=2)
    made.add_argument("--updates", type=int, default=6)
    options = parse(made)
    problems = 8
    if options.quick:
        options.updates, problems = 2, 1
    runs: dict[str, list[dict[str, float]]] = {"recompute": [], "sampler": []}
    theirs: list[Any] = []
    for _ in range(options.rounds):
        for score, rows in runs.items():
            rows += ours(options.updates, problems, score)
        if find_spec("trl"):
            theirs += trl_in_the_sandbox(options.updates)
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
    far = ours_far_away(options.updates, problems)
    if find_spec("trl"):
        far_theirs = [seconds for seconds, _ in trl(options.updates, SlowTool(FAR).blocking)]
        rows.append(
            row(
                f"the same with tools that take {1e3 * FAR:g} ms, as a sandbox on another machine",
                show(far),
                f"TRL 1.16.0 subclass: {show(far_theirs)}",
                [seconds / median(far) for seconds in far_theirs],
            )
        )
    report(
        options,
        rows,
        far_away=far,
        tokens_sampled=median(each["rollout/tokens_sampled"] for each in runs["recompute"]),
        seconds={name: [each["seconds/update"] for each in rows] for name, rows in runs.items()},
        trl=[{"seconds": seconds, "tokens": s.tokens_sampled, "calls": s.tool_calls} for seconds, s in theirs],
    )


if __name__ == "__main__":
    main()
