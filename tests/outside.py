"""Agents outside the student: an attempt of `served:`, and the conversations of `sod serve`, with scripted turns."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from judging import REFEREE

from sod.chat.format import ChatFormat
from sod.config import RolloutOptions, ToolOptions
from sod.datasets import ProblemSet
from sod.engines import Request
from sod.engines.scripted import ScriptedEngine
from sod.environments.endpoint import Endpoint
from sod.environments.running import Environments
from sod.processes.concurrency import in_a_thread
from sod.rollout.agent import Agent
from sod.rollout.groups import TURN_SEEDS
from sod.runs.samples import SampleFile
from sod.serving import Sessions
from sod.tools import Toolbox
from sod.types import Problem, Trajectory

SEED = 9 << 16
PROBLEM = Problem(id="sum", messages=({"role": "user", "content": "1+2?"},), answer="3")
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}

Row = dict[str, Any]


def attempt_of(
    chat: ChatFormat, file: Path, agent: str, *turns: str, problem: Problem = PROBLEM, **limits: Any
) -> Trajectory:
    """Let a student write the given turns as answers to an agent of a file."""
    environments = Environments(Toolbox([]), f"served:{file}:{agent}", ToolOptions(seconds=60))
    engine = ScriptedEngine(lambda request: chat.turn({"content": turns[request.seed - SEED]}))
    agents = Agent(engine, chat, environments, REFEREE, RolloutOptions(**limits))
    with asyncio.Runner() as loop, environments.working_in(loop, [problem], chat):
        return loop.run(agents.attempt(problem, 0, SEED))


def conversations(
    chat: ChatFormat,
    file: Path,
    talk: Callable[[str], Any],
    *turns: str,
    idle: float = 60,
    is_killed: bool = False,
    **limits: Any,
) -> list[Row]:
    """Serve a student of scripted turns while an agent talks to its address, in a thread. -> the rows that were written

    `is_killed`: the server ends no conversation, as if it was killed.
    """

    def script(request: Request) -> list[int]:
        return chat.turn({"content": turns[min(request.seed % TURN_SEEDS, len(turns) - 1)]})

    async def work(samples: SampleFile) -> None:
        agent = Agent(ScriptedEngine(script), chat, Environments(Toolbox([])), REFEREE, RolloutOptions(**limits))
        sessions = Sessions(agent, [_set_of(PROBLEM)], samples, file.with_name("open"), seed=0, idle=idle)
        await sessions.reopen()
        endpoint = Endpoint(visitors=sessions)
        try:
            await in_a_thread(talk, endpoint.url)
            if not is_killed:
                await sessions.close()
        finally:
            endpoint.close()

    with SampleFile.open(file) as samples:
        samples.hold()
        asyncio.run(work(samples))
    return [json.loads(line) for line in file.read_text().splitlines()]


def _set_of(problem: Problem) -> ProblemSet:
    return ProblemSet(
        name="sums",
        problems=[problem],
        path=Path("sums.jsonl"),
        sha256="",
        source={},
        notes=[],
        private=False,
        votes=True,
    )
