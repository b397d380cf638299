"""Evaluating: what everything but generation costs, how fast answers are judged, and whether memory grows with the samples.

    python benchmarks/evaluation.py

A scripted engine takes a second for each turn, as 50 to 100 tokens take a model on a GPU; 64 samples are under way at a time,
each with two programs in the sandbox and an answer. "The engine alone" is the same turns without agent, tools, judges and files.
Answers: a thousand of those that were judged by hand (tests/golden/more_answers.jsonl), beside the limit of 5 s. Memory: no
trajectory is held, a sample leaves its place in the file behind. Lines are short here, 100 times as long with 10,000 tokens.
"""

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from measure import in_turn, pairwise_ratios, parse, parser, peak_mb, report, row, show

from sod.config import EvalOptions
from sod.engines import Reply, Request
from sod.engines.scripted import ScriptedEngine
from sod.evaluation.evaluate import EvaluationSession
from sod.lab import settings
from sod.lab.make import TEACHER_FOLDER
from sod.lab.make import problems as lab_problems
from sod.model.loading import load_tokenizer
from sod.processes.concurrency import Runner, run_concurrently
from sod.rewards.math import MathJudge

ANSWERS = Path(__file__).parents[1] / "tests" / "golden" / "more_answers.jsonl"
JUDGED, JUDGED_SECONDS = 1000, 5.0
CONCURRENCY, TURNS = 64, 3
TOKENIZER = load_tokenizer(TEACHER_FOLDER)
CALL = '<tool_call>\n{{"name": "code_interpreter", "arguments": {{"code": "print(sum(range({})))"}}}}\n</tool_call>'
(OBSERVED,) = TOKENIZER.encode("<tool_response>", add_special_tokens=False)


def script(request: Request) -> list[int]:
    """Two calls, then an answer."""
    calls = list(request.ids).count(OBSERVED)
    text = CALL.format(request.seed % 1000 + 10) if calls + 1 < TURNS else f"\\boxed{{{request.seed % 7}}}"
    return [*TOKENIZER.encode(text, add_special_tokens=False), request.stop]


class Forgetful(ScriptedEngine):
    """Does not keep what it was asked: that would grow with the samples."""

    async def sample(self, request: Request) -> Reply:
        reply = await super().sample(request)
        self.requests.clear()
        self.released.clear()
        return reply


@dataclass(frozen=True)
class Scripted(EvaluationSession):
    """An evaluation of the script instead of a model."""

    latency: float = 0.0

    @contextmanager
    def engine(self) -> Iterator[ScriptedEngine]:
        yield Forgetful(script, latency=self.latency)


def evaluation(folder: Path, samples: int, latency: float) -> Callable[[], object]:
    """An evaluation of 16 problems, ready to run."""
    tasks, _ = lab_problems(16, 0, seed=7)
    data = folder / "problems.jsonl"
    rows = [{"id": f"p{i}", "prompt": task.question, "answer": str(task.answer)} for i, task in enumerate(tasks)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run() -> None:
        out = Path(tempfile.mkdtemp(dir=folder)) / "run"
        options = EvalOptions.model_validate(
            settings.EVAL
            | {"model": TEACHER_FOLDER, "data": str(data), "out": out, "samples": samples}
            | {"engine": {"name": "served", "url": "http://127.0.0.1:1"}}  # no weights are loaded
            | {"tool": settings.TOOL | {"faults": 0.0}}
            | {"rollout": settings.ROLLOUT | {"concurrency": CONCURRENCY, "max_turn_tokens": None}}
        )
        with Runner() as loop, EvaluationSession.open(options, loop) as opened:
            scripted = Scripted(**vars(opened), latency=latency)
            scripted.sample()
            scripted.conclude(complete=True)

    return run


def engine_alone(samples: int, latency: float) -> None:
    engine = Forgetful(script, latency=latency)
    request = Request(ids=[OBSERVED], max_tokens=64, stop=2, seed=0)
    left = iter(range(samples))

    async def worker() -> None:
        for _ in left:
            for _ in range(TURNS):
                await engine.sample(request)

    async def everybody() -> None:
        await run_concurrently(worker() for _ in range(CONCURRENCY))

    asyncio.run(everybody())


def judge_answers(count: int) -> None:
    """From a standing start: the process that compares symbolically is started as well."""
    lines = [json.loads(line) for line in ANSWERS.read_text().splitlines()]
    cases = (
        (f"So it is $\\boxed{{{text}}}$.", line["gold"])
        for line in lines
        if line["kind"] == "math" and line["boxed"]
        for text in (*line["right"], *line.get("wrong", ()))
    )
    judge = MathJudge()
    for text, gold in islice(cases, count):
        judge.judge(text, gold)
    judge.close()


def in_memory(samples: int) -> Callable[[], object]:
    return evaluation(Path(tempfile.mkdtemp()), samples, 0.0)


def main() -> None:
    options = parse(parser(__doc__, rounds=3))
    samples, latency = (64, 1.0) if not options.quick else (4, 0.01)
    with tempfile.TemporaryDirectory() as folder:
        times = in_turn(
            {
                "ours": evaluation(Path(folder), samples, latency),
                "engine": lambda: engine_alone(16 * samples, latency),
            },
            options.rounds,
        )
        written = next(Path(folder).rglob("update-0000.jsonl"))
        line_kb = written.stat().st_size / (16 * samples) / 1024
    judged = JUDGED if not options.quick else 20
    judging = in_turn({"ours": lambda: judge_answers(judged)}, options.rounds)["ours"]
    few, many = (64, 256) if not options.quick else (4, 8)
    needed = [peak_mb(in_memory, count) for count in (few, many)]
    sample_kb = 1024 * (needed[1] - needed[0]) / (16 * (many - few))
    rows = [
        row(
            f"evaluation of {16 * samples} samples of {TURNS} turns, {CONCURRENCY} at a time",
            show(times["ours"]),
            f"the engine alone: {show(times['engine'])}",
            pairwise_ratios(times["ours"], times["engine"]),
            "<= 1.05",
        ),
        row(
            f"judging {judged:,} answers of mathematics",
            show(judging),
            f"the limit: {JUDGED_SECONDS:g} s",
            [seconds / JUDGED_SECONDS for seconds in judging],
            "<= 1",
        ),
        row(
            f"memory for each further sample, from {16 * few:,} to {16 * many:,}",
            f"{sample_kb:.1f} KiB",
            f"its line on disk: {line_kb:.1f} KiB",
            [sample_kb / line_kb],
        ),
    ]
    report(options, rows)


if __name__ == "__main__":
    main()
