"""The lab, ready to be timed: its trained teacher as the student, its problems, and tools of any slowness."""

import asyncio
import contextlib
import io
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sod.chat.format import ChatFormat
from sod.config import LabOptions, ModelOptions, RewardOptions, RolloutOptions, ToolOptions
from sod.datasets.rows import load_problems
from sod.engines import Engine, Request
from sod.engines.hf import HFEngine
from sod.environments.running import Environments
from sod.lab import settings
from sod.lab.make import TEACHER_FOLDER, make
from sod.model.loading import load_model, load_tokenizer
from sod.rewards.referee import Referee
from sod.rollout.agent import Agent
from sod.rollout.groups import rollout
from sod.sandbox import Program, Result
from sod.tools import Toolbox
from sod.tools.python import PythonTool
from sod.types import Group, Observation, Problem, Trajectory

BUILTINS = {"print": print, "abs": abs, "min": min, "max": max, "range": range}


def execute(code: str) -> str:
    """What a program of the lab's prints; in this process, since the lab's teacher wrote it and only latency is measured."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(code, {"__builtins__": BUILTINS})
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return out.getvalue().rstrip() or "[no output]"


class SlowTool:
    """The code interpreter as something far away: every call takes `seconds`."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.schema = PythonTool(Nowhere(), ToolOptions()).schema

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        await asyncio.sleep(self.seconds)
        return Observation(text=execute(arguments["code"]), outcome="ok")

    def blocking(self, code: str) -> str:
        """The same for a caller that waits."""
        time.sleep(self.seconds)
        return execute(code)


class Nowhere:
    """A sandbox for judges that need none."""

    async def run(self, program: Program) -> Result:
        raise AssertionError(f"nobody should run {program.code!r} here")

    async def close(self) -> None:
        pass


class Lab:
    """Its teacher, in an engine, among its problems."""

    def __init__(self, problems: int, *, slots: int = 64, max_tokens: int = 192):
        self.model = load_model(TEACHER_FOLDER, ModelOptions(device="cpu"))
        self.chat = ChatFormat(load_tokenizer(TEACHER_FOLDER))
        self.problems = lab_problems(problems)
        self.engine = HFEngine(self.model, slots=slots)
        self.limits = settings.ROLLOUT | {"max_tokens": max_tokens, "concurrency": slots}

    def agent(self, tool: Any, engine: Engine | None = None, *, group: int = 8) -> Agent:
        referee = Referee(Nowhere(), RewardOptions(tool_use="off", overlong=0.0), max_tokens=self.limits["max_tokens"])
        options = RolloutOptions.model_validate(self.limits | {"group": group})
        return Agent(engine or self.engine, self.chat, Environments(Toolbox([tool])), referee, options)

    def roll_out(self, agent: Agent, problems: int, update: int = 0) -> list[Group]:
        return asyncio.run(rollout(agent, self.problems[:problems], seed=0, update=update))

    def write_again(self, groups: list[Group]) -> None:
        """Nothing but the engine's part of these trajectories: the same tokens read and written, with no agent, tool or
        judge. Each turn is asked for as soon as the one before has come."""

        async def one(trajectory: Trajectory, number: int) -> None:
            ids: list[int] = []
            for turn, piece in enumerate(trajectory.pieces):
                if piece.author == "student":
                    limit = len(piece.tokens)
                    request = Request(ids=ids, max_tokens=limit, stops=(), seed=turn, trajectory=number)
                    await self.engine.sample(request)
                ids = [*ids, *piece.tokens]
            self.engine.release(number)

        async def all_of_them() -> None:
            trajectories = [trajectory for group in groups for trajectory in group]
            await asyncio.gather(*(one(trajectory, number) for number, trajectory in enumerate(trajectories)))

        asyncio.run(all_of_them())


def lab_problems(count: int) -> list[Problem]:
    with tempfile.TemporaryDirectory() as folder:
        lab = make(LabOptions(out=Path(folder), demonstrations=1, train_problems=count, eval_problems=1))
        return load_problems(lab / "train.jsonl")


def sampled(groups: list[Group]) -> int:
    return sum(sum(trajectory.mask) for group in groups for trajectory in group)
