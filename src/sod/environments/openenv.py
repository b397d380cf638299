"""OpenEnv: environments behind a server (https://github.com/huggingface/OpenEnv). Package: `openenv`, for its client.

`--environment openenv:http://127.0.0.1:8000`, or `url` in the setting. The student acts by the tool `act`, whose parameters are
the server's own schema of actions. An action with a single field of text can also be a turn of text.
"""

import json
from typing import Any

from pydantic import Field

from sod.config.plugins import require
from sod.environments import Environment, Opening, Schema, Step, Turn
from sod.environments.games import WorldSetting, command_in, instructions, read_setting, scored
from sod.errors import DataError
from sod.types import Observation, Outcome, Problem, Verdict

HIDDEN = ("done", "reward", "metadata")
"""Fields of an observation that the student does not read."""
SECONDS = 30.0
"""Limit of one message of the server."""


class OpenEnvSetting(WorldSetting):
    """The setting of a problem of an OpenEnv server."""

    url: str = ""
    """Address of the server. Default: the argument of the environment's name, openenv:URL."""
    reset: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of `reset`; it also receives the seed."""
    seed: int | None = None
    """Seed of `reset`. Default: the seed of the attempt."""
    prompt: str = ""
    """What the student reads before the first observation."""
    text_field: str = ""
    """Field of the action that a turn of text fills. Default: the student calls the tool `act`."""
    full_reward: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Sum of rewards that is right."""
    turns: int = 50


class OpenEnv(Environment):
    """An attempt in one session of a server. The rewards are the server's, divided by `full_reward`."""

    def __init__(self, url: str = "") -> None:
        self._url = url
        self._client: Any = None
        self._sum = 0.0

    @classmethod
    async def start(cls) -> None:
        _package()  # importing it may take longer than an attempt may wait

    async def open(self, problem: Problem, seed: int) -> Opening:
        self._setting = read_setting(OpenEnvSetting, problem)
        url = self._setting.url or self._url
        if not url.startswith(("http://", "https://")):
            raise DataError(
                f"problem {problem.id!r} names no server. Give --environment openenv:http://HOST:PORT, or setting.url."
            )
        self._left = self._setting.turns
        tools = [] if self._setting.text_field else [await _action_of(url)]
        self._client = _package().GenericEnvClient(base_url=url, message_timeout_s=SECONDS)
        await self._client.connect()
        chosen = seed % 2**31 if self._setting.seed is None else self._setting.seed
        result = await self._client.reset(seed=chosen, **self._setting.reset)
        text = "\n\n".join(part for part in (self._setting.prompt, observation_text(result.observation)) if part)
        return Opening([*instructions(problem), {"role": "user", "content": text}], tools)

    async def step(self, turn: Turn) -> Step:
        field = self._setting.text_field
        if not turn.calls and not field:
            return Step("Call the tool `act`.", outcome="error")
        actions = [call.arguments for call in turn.calls] or [{field: command_in(turn.text)}]
        made, reward, is_over = list[Observation](), 0.0, False
        outcome: Outcome
        for action in actions:
            if is_over:
                made.append(Observation(text="The episode is over.", outcome="error"))
                continue
            text, outcome = "", "ok"
            try:
                result = await self._client.step(action)
            except RuntimeError as error:
                if "VALIDATION_ERROR" not in str(error):
                    raise
                text, outcome = str(error), "error"
            else:
                text, is_over = observation_text(result.observation), bool(result.done)
                reward += float(result.reward or 0.0)
            made.append(Observation(text=text or "(empty)", outcome=outcome))
        self._sum += reward
        self._left -= 1
        return Step(made, is_over=is_over or self._left <= 0, reward=reward / self._setting.full_reward)

    async def verdict(self, text: str) -> Verdict:
        del text
        return scored(self._sum / self._setting.full_reward)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


def _package() -> Any:
    return require("openenv.core", "openenv", "0.4", what="The environment openenv")


async def _action_of(url: str) -> Schema:
    """Return the tool whose parameters are the server's schema of actions."""
    import httpx

    async with httpx.AsyncClient(timeout=SECONDS) as client:
        answer = await client.get(f"{url.rstrip('/')}/schema")
        answer.raise_for_status()
    action = answer.json()["action"]
    properties = {name: field for name, field in action["properties"].items() if name != "metadata"}
    required = [name for name in action.get("required", ()) if name in properties]
    parameters = {"type": "object", "properties": properties, "required": required}
    description = action.get("description") or "Act in the environment."
    return {"type": "function", "function": {"name": "act", "description": description, "parameters": parameters}}


def observation_text(observation: dict[str, Any]) -> str:
    """Return an observation as text: its only field, or all fields as JSON."""
    fields = {name: value for name, value in observation.items() if name not in HIDDEN}
    only = next(iter(fields.values())) if len(fields) == 1 else fields
    return only if isinstance(only, str) else json.dumps(only, ensure_ascii=False)
