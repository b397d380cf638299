"""Environments of `verifiers` (Prime Intellect): a taskset runs as it is, and the student answers its model requests.

`verifiers` owns the loop of an attempt: prompts, tool servers, users and rubrics. Its model is the endpoint of this process
(`sod.environments.endpoint`). Package: `verifiers`.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from types import ModuleType
from typing import Any, ClassVar

from pydantic import Field

from sod.config.plugins import require
from sod.environments import Opening, Step, Turn
from sod.environments.asking import AskedStudent
from sod.environments.endpoint import SERVED_MODEL, Endpoint
from sod.environments.games import WorldSetting, read_setting, scored
from sod.errors import DataError
from sod.types import Message, Problem, Verdict

HARNESS = "sod_harness"
"""Name under which `verifiers` finds our harness."""


class VerifiersSetting(WorldSetting):
    """The setting of a problem of verifiers."""

    taskset: str = ""
    """Module of the taskset, installed or importable. Default: the argument of the environment's name, verifiers:TASKSET."""
    task: int = Field(default=0, ge=0)
    """Number of the task in the taskset."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Configuration of the taskset."""
    full_reward: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Reward that is right. The rewards of turns are divided by it."""


class Verifiers(AskedStudent):
    """An attempt at one task. Its reward is the sum of the taskset's weighted rewards, at the end."""

    endpoint: ClassVar[Endpoint | None] = None
    _served: ClassVar[dict[str, "_Served"]] = {}

    def __init__(self, taskset: str = "") -> None:
        super().__init__(f"The taskset {taskset}")
        self._taskset = taskset
        self._url = ""
        self._full_reward = 1.0

    @classmethod
    async def start(cls) -> None:
        _package()
        cls.endpoint = Endpoint()

    @classmethod
    async def stop(cls) -> None:
        for served in cls._served.values():
            await served.stop()
        cls._served.clear()
        if cls.endpoint is not None:
            cls.endpoint.close()
            cls.endpoint = None

    async def open(self, problem: Problem, seed: int) -> Opening:
        del seed  # a taskset has no seed: a task is one prompt
        setting = read_setting(VerifiersSetting, problem)
        self._full_reward = setting.full_reward
        name = setting.taskset or self._taskset
        if not name:
            raise DataError(
                f"problem {problem.id!r} names no taskset. Give --environment verifiers:TASKSET, or setting.taskset."
            )
        if self.endpoint is None:
            await self.start()
        assert self.endpoint is not None
        key = json.dumps([name, setting.config], sort_keys=True)
        if key not in self._served:
            self._served[key] = _Served(name, setting.config)
        environment = await self._served[key].ready()
        task = self._served[key].task(setting.task)
        self._agent = f"Task {setting.task} of {name}"
        self._url = self.endpoint.register(self.receive)
        vf = _package()
        context = vf.ModelContext(model=SERVED_MODEL, client=vf.EvalClientConfig(base_url=self._url))
        return await self.begin(asyncio.create_task(_reward(environment.run_episode(task, context))))

    async def step(self, turn: Turn) -> Step:
        step = await super().step(turn)
        return replace(step, reward=self._share() if step.is_over else 0.0)

    async def verdict(self, text: str) -> Verdict:
        del text
        return scored(self._share())

    async def close(self) -> None:
        if self.endpoint is not None and self._url:
            self.endpoint.forget(self._url)
        await super().close()
        if self._ended is not None and not self._ended.done():
            self._ended.cancel()
            await asyncio.wait([self._ended])

    def _share(self) -> float:
        """Return the reward as a share of the full one; 0 before the end."""
        return self._ended.result() / self._full_reward if self._ended is not None and self._ended.done() else 0.0


async def _reward(running: Awaitable[Any]) -> float:
    """Return the reward of an episode. Raises RuntimeError if it failed."""
    episode = await running
    errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
    if errors:
        raise RuntimeError(f"verifiers: {errors[0].type}: {errors[0].message}")
    return float(sum(trace.reward for trace in episode.traces))


class _Served:
    """A taskset with its shared tool servers, kept until the end of the run."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        self._environment = _environment(name, config)
        self._tasks: list[Any] = []
        self._end = asyncio.Event()
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        try:
            async with self._environment.serving():
                self._started.set_result(None)
                await self._end.wait()
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def ready(self) -> Any:
        await asyncio.shield(self._started)
        return self._environment

    def task(self, number: int) -> Any:
        """Return the task of a number, from 0. Raises DataError if there is none."""
        if number >= len(self._tasks):
            self._tasks = list(self._environment.taskset.take(number + 1))
        if number >= len(self._tasks):
            raise DataError(f"the taskset has {len(self._tasks)} tasks, so setting.task = {number} does not exist.")
        return self._tasks[number]

    async def stop(self) -> None:
        self._end.set()
        await asyncio.wait([self._keeper])


def _environment(name: str, config: dict[str, Any]) -> Any:
    """Return the taskset's environment, whose only agent is the student. Raises DataError for another taskset."""
    _package()
    from verifiers.v1.configs.agent import agent_config_fields  # pyright: ignore[reportMissingImports]
    from verifiers.v1.utils import loaders  # pyright: ignore[reportMissingImports]

    try:
        kind = loaders.env_config_type(name)
        agents = list(agent_config_fields(kind.model_construct()))
        if len(agents) != 1:
            raise DataError(f"the taskset {name} has the agents {', '.join(agents)}; only one agent can be trained.")
        agent = {"harness": {"id": HARNESS}, "runtime": {"type": "subprocess"}}
        return loaders.load_environment(kind.model_validate({"taskset": {"id": name, **config}, agents[0]: agent}))
    except (ModuleNotFoundError, AttributeError, TypeError, ValueError) as error:
        raise DataError(f"verifiers cannot load the taskset {name!r}: {error}") from error


def _package() -> Any:
    vf = require("verifiers.v1", "verifiers", "0.4", what="The environment verifiers")
    if HARNESS not in sys.modules:
        module = ModuleType(HARNESS)
        vars(module).update(SodHarness=_harness(vf), __all__=["SodHarness"])
        sys.modules[HARNESS] = module
    return vf


def _harness(vf: Any) -> type:
    """Return a harness that runs in this process: it sends the conversation, calls tools and appends their results."""
    import httpx
    from verifiers.v1.dialects.chat import message_to_wire  # pyright: ignore[reportMissingImports]
    from verifiers.v1.harnesses.utils.mcp import call_mcp, connect_mcp  # pyright: ignore[reportMissingImports]
    from verifiers.v1.runtimes import ProgramResult  # pyright: ignore[reportMissingImports]

    async def converse(
        messages: list[Message], ask: Callable[[dict[str, Any]], Awaitable[Any]], urls: dict[str, str]
    ) -> None:
        async with AsyncExitStack() as stack:
            servers = {name: {"url": url, "timeout": 60} for name, url in urls.items()}
            tools, dispatch, connections = await connect_mcp({"mcpServers": servers}, stack)
            while True:
                answer = await ask({"model": SERVED_MODEL, "messages": messages} | ({"tools": tools} if tools else {}))
                if answer.status_code >= 400:  # a limit or a stop of the taskset ended the attempt
                    return
                message = answer.json()["choices"][0]["message"]
                messages.append(message)
                for call in message.get("tool_calls") or ():
                    function = call["function"]
                    content = await call_mcp(connections, dispatch, function["name"], json.loads(function["arguments"]))
                    messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
                if not message.get("tool_calls"):
                    return

    class SodHarness(vf.Harness[vf.HarnessConfig]):
        APPENDS_SYSTEM_PROMPT = SUPPORTS_MCP = SUPPORTS_RESUME = True
        EXECUTES_CODE = NEEDS_CONTAINER = False

        async def launch(
            self,
            ctx: Any,
            trace: Any,
            runtime: Any,
            endpoint: str,
            secret: str,
            mcp_urls: dict[str, str],
            data: Any,
            tool_interception_url: str | None = None,
        ) -> Any:
            system, prompt = self.resolve_prompt(data)
            messages: list[Message] = [{"role": "system", "content": system}] if system else []
            messages += (
                [{"role": "user", "content": prompt}] if isinstance(prompt, str) else map(message_to_wire, prompt or ())
            )
            async with httpx.AsyncClient(timeout=None, headers={"Authorization": f"Bearer {secret}"}) as client:
                await converse(messages, lambda body: client.post(f"{endpoint}/chat/completions", json=body), mcp_urls)
            return ProgramResult(0, "", "")

    return SodHarness
