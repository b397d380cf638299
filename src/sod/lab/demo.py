"""The whole method in miniature: cold start, on-policy learning beside a control, and what changed.

Each stage is an ordinary command over ordinary files (`sod sft`, `sod train`, `sod eval`), so everything that it leaves
behind can be looked at, resumed and run again by hand. Learning and measuring run side by side, one process per core.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from sod.algorithms import ALGORITHMS
from sod.concurrency import together
from sod.config import DemoOptions, LabOptions, SftOptions
from sod.errors import OptionError, RunError, TrainingError
from sod.lab import settings
from sod.lab.make import make, make_folder
from sod.progress import console, say
from sod.runs import Run
from sod.sandbox.guarded import open_sandbox
from sod.sft import sft


def demo(options: DemoOptions) -> None:
    """Run the miniature and print its table."""
    start = time.monotonic()
    out = options.out
    if unknown := [method for method in options.methods if method not in ALGORITHMS]:
        raise OptionError(f"methods: {unknown[0]!r} is unknown; choose from {', '.join(ALGORITHMS)}.")
    if len(set(options.methods)) < len(options.methods):
        raise OptionError("methods: each may be given once.")
    open_sandbox(options.sandbox)  # where there is none, that is said now and not after the cold start
    make_folder(out)
    if any(out.iterdir()):
        raise RunError(f"{out} is not empty. Choose another --out, or remove it to run the demo again.")
    say("1. The lab: a tokenizer, problems, demonstrations, a trained teacher, a student with random weights.")
    lab = make(LabOptions(out=out / "lab", seed=options.seed))
    say("2. Cold start: the student is fine-tuned on demonstrations, the last of them careless.")
    student = _cold_start(lab, out / "cold-start")
    say(
        f"3. On policy: {' and '.join(options.methods)} from that student, {options.updates} updates each, side by side."
    )
    asyncio.run(_learn_and_measure(options, lab, student))
    columns = {"before": out / "before"} | {f"after {method}": out / f"after-{method}" for method in options.methods}
    console.print(table({name: _results(folder) for name, folder in columns.items()}))
    say(f"Everything is in {out}: options, metrics.jsonl, trajectories, checkpoints. It took {_minutes(start)}.")


def _cold_start(lab: Path, out: Path) -> Path:
    files = {"model": lab / "student", "data": lab / "demonstrations.jsonl", "out": out}
    run = sft(SftOptions.model_validate(settings.STUDENT_SFT | files | {"epochs": 1, "shuffle": False}))
    return _checkpoint(run)


def _checkpoint(run: Run) -> Path:
    newest = run.newest_checkpoint()
    if newest is None:
        raise TrainingError(f"{run.folder} holds no checkpoint.")
    return newest[1]


async def _learn_and_measure(options: DemoOptions, lab: Path, student: Path) -> None:
    """Every method: train, then measure. And measure the student as it was. One process per core at a time."""
    cores = asyncio.Semaphore(os.cpu_count() or 1)
    out = options.out
    shared = {"seed": options.seed, "sandbox": options.sandbox.model_dump(exclude_defaults=True)}

    async def measure(model: Path, name: str) -> None:
        files = {"model": model, "data": lab / "eval.jsonl", "teacher": lab / "teacher", "out": out / name}
        await _command("eval", name, settings.EVAL | shared | files | {"samples": options.samples}, out)

    async def learn(method: str) -> None:
        files = {"student": student, "data": lab / "train.jsonl", "teacher": lab / "teacher", "out": out / method}
        numbers = {"updates": options.updates, "save_every": options.updates, "algorithm": {"name": method}}
        async with cores:
            await _command("train", method, settings.TRAIN | shared | files | numbers, out)
            await measure(_checkpoint(Run(out / method)), f"after-{method}")

    async def before() -> None:
        async with cores:
            await measure(student, "before")

    await together([*map(learn, options.methods), before()])


async def _command(command: str, name: str, content: dict[str, Any], out: Path) -> None:
    """`sod COMMAND`, in a process of its own with one thread; its lines appear here under its name."""
    recipe = out / f"{name}.{command}.toml"
    recipe.write_text(to_toml(content))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sod", command, str(recipe)),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async for line in process.stdout:
            lines.append(line.decode(errors="replace").rstrip())
            if command == "train":
                say(f"{name:>6} | {lines[-1]}")
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    if status:
        raise TrainingError(f"`sod {command} {recipe}` failed with status {status}:\n" + "\n".join(lines[-20:]))


def to_toml(content: dict[str, Any], section: str = "") -> str:
    """Nested options as a recipe."""
    plain = {key: value for key, value in content.items() if not isinstance(value, dict)}
    lines = [f"[{section}]"] if section and plain else []
    lines += [f"{key} = {json.dumps(str(value) if isinstance(value, Path) else value)}" for key, value in plain.items()]
    nested = [
        to_toml(value, f"{section}.{key}".strip(".")) for key, value in content.items() if isinstance(value, dict)
    ]
    return "\n".join([*lines, *nested]) + "\n"


def table(columns: dict[str, dict[str, float]]) -> Table:
    """Before and after, side by side."""
    made = Table(title="Measured on problems that nobody learnt from")
    made.add_column("")
    for name in columns:
        made.add_column(name, justify="right")
    for label, words in ROWS:
        made.add_row(
            label,
            *(words.format(**{key.replace("/", "_"): value for key, value in c.items()}) for c in columns.values()),
        )
    return made


ROWS: Sequence[tuple[str, str]] = (
    ("solve rate (avg@n) ± standard error", "{avg:.1%} ± {avg_se:.1%}"),
    ("solved at least once (pass@n)", "{pass:.1%}"),
    ("solve rate after a tool error", "{tools_solved_after_error:.1%}"),
    ("trajectories with a tool error", "{tools_trajectories_with_error:.1%}"),
    ("tool errors per trajectory", "{tools_errors:.2f}"),
    ("steps per trajectory", "{rollout_turns:.2f}"),
    ("divergence from the teacher (nats)", "{steps_d:.3f}"),
    ("divergence of the first step (nats)", "{steps_d_1:.3f}"),
    ("step weight after the first step", "{steps_w_after_first:.2f}"),
)


def _results(folder: Path) -> dict[str, float]:
    return json.loads((folder / "results.json").read_text())


def _minutes(start: float) -> str:
    seconds = round(time.monotonic() - start)
    return f"{seconds // 60} min {seconds % 60:02} s"
