"""Environments of `verifiers` (Prime Intellect): a taskset runs as it is, and the student answers its model requests.

`verifiers` owns the loop of an attempt: prompts, tool servers, users and rubrics. Its model endpoint is a small server in this
process. A request that arrives there is what the student reads next; the student's turn is the reply. Package: `verifiers`.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import ModuleType
from typing import Any, ClassVar
from uuid import uuid4

from pydantic import Field

from sod.config.plugins import require
from sod.environments import Environment, Opening, Step, Turn
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


class Verifiers(Environment):
    """An attempt at one task. Its reward is the sum of the taskset's weighted rewards, at the end."""

    _served: ClassVar[dict[str, "_Served"]] = {}
    _endpoint: ClassVar["_Endpoint | None"] = None

    def __init__(self, taskset: str = "") -> None:
        self._taskset = taskset
        self._name = uuid4().hex
        self._requests: asyncio.Queue[tuple[dict[str, Any], asyncio.Future[Message]]] = asyncio.Queue()
        self._run: asyncio.Task[Any] | None = None
        self._reply: asyncio.Future[Message] | None = None
        self._messages: list[Message] = []
        self._reward = 0.0

    @classmethod
    async def start(cls) -> None:
        _package()
        cls._endpoint = _Endpoint()
        await cls._endpoint.start()

    @classmethod
    async def stop(cls) -> None:
        for served in cls._served.values():
            await served.stop()
        cls._served.clear()
        if cls._endpoint is not None:
            await cls._endpoint.stop()
            cls._endpoint = None

    async def open(self, problem: Problem, seed: int) -> Opening:
        del seed  # a taskset has no seed: a task is one prompt
        setting = self._setting = read_setting(VerifiersSetting, problem)
        name = setting.taskset or self._taskset
        if not name:
            raise DataError(
                f"problem {problem.id!r} names no taskset. Give --environment verifiers:TASKSET, or setting.taskset."
            )
        if self._endpoint is None:
            await self.start()
        assert self._endpoint is not None
        key = json.dumps([name, setting.config], sort_keys=True)
        if key not in self._served:
            self._served[key] = _Served(name, setting.config)
        environment = await self._served[key].ready()
        task = self._served[key].task(setting.task)
        vf = _package()
        self._endpoint.attempts[self._name] = self._requests
        url = f"{self._endpoint.url}/{self._name}/v1"
        context = vf.ModelContext(model="sod", client=vf.EvalClientConfig(base_url=url))
        self._run = asyncio.create_task(environment.run_episode(task, context))
        request = await self._next()
        if request is None:
            raise RuntimeError(f"task {setting.task} of {name} ended before the student was asked")
        self._messages = list(request["messages"])
        return Opening(tuple(map(_plain, self._messages)), tuple(request.get("tools") or ()))

    async def step(self, turn: Turn) -> Step:
        calls = [
            {
                "id": f"call-{uuid4().hex[:12]}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for call in turn.calls
        ]
        message: Message = {"role": "assistant", "content": turn.text} | ({"tool_calls": calls} if calls else {})
        assert self._reply is not None
        self._reply.set_result(message)
        request = await self._next()
        if request is None:
            return Step(is_over=True, reward=self._reward / self._setting.full_reward)
        before, self._messages = len(self._messages) + 1, list(request["messages"])
        news = [_plain(each)["content"] for each in self._messages[before:]]
        return Step(news if calls else "\n\n".join(news), reward=0.0)

    async def verdict(self, text: str) -> Verdict:
        del text
        return scored(self._reward / self._setting.full_reward)

    async def close(self) -> None:
        if self._endpoint is not None:
            self._endpoint.attempts.pop(self._name, None)
        if self._run is not None and not self._run.done():
            self._run.cancel()
            await asyncio.wait([self._run])

    async def _next(self) -> dict[str, Any] | None:
        """Return the next request of the taskset; None if the attempt has ended. Raises RuntimeError if it failed."""
        assert self._run is not None
        arrival = asyncio.ensure_future(self._requests.get())
        await asyncio.wait([arrival, self._run], return_when=asyncio.FIRST_COMPLETED)
        if arrival.done():
            request, self._reply = arrival.result()
            return request
        arrival.cancel()
        episode = self._run.result()
        errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
        if errors:
            raise RuntimeError(f"verifiers: {errors[0].type}: {errors[0].message}")
        self._reward = float(sum(trace.reward for trace in episode.traces))
        return None


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


class _Endpoint:
    """The model endpoint of all attempts, on 127.0.0.1. A path begins with the attempt's name, which is secret."""

    def __init__(self) -> None:
        self.attempts: dict[str, asyncio.Queue[tuple[dict[str, Any], asyncio.Future[Message]]]] = {}
        self.url = ""

    async def start(self) -> None:
        from aiohttp import web  # pyright: ignore[reportMissingImports]

        application = web.Application(client_max_size=1 << 28)
        application.router.add_post("/{attempt}/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: Any) -> Any:
        from aiohttp import web  # pyright: ignore[reportMissingImports]

        queue = self.attempts.get(request.match_info["attempt"])
        if queue is None:
            return web.json_response({"error": {"message": "this attempt has ended"}}, status=404)
        reply: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        await queue.put((await request.json(), reply))
        message = await reply
        end = "tool_calls" if message.get("tool_calls") else "stop"
        choice = {"index": 0, "message": message, "finish_reason": end}
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        return web.json_response(
            {
                "id": uuid4().hex,
                "object": "chat.completion",
                "created": 0,
                "model": "sod",
                "choices": [choice],
                "usage": usage,
            }
        )


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


def _plain(message: Message) -> Message:
    """Return a message with text as content."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "\n".join(part.get("text", "") for part in content)
    return message | {"content": content}


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
                answer = await ask({"model": "sod", "messages": messages} | ({"tools": tools} if tools else {}))
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
