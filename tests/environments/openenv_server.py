"""A real OpenEnv server for the tests: python openenv_server.py PORT."""

# pyright: reportMissingImports=false

import os
import random
import sys
import time
from typing import Any

import uvicorn
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
from pydantic import Field


class Guess(Action):
    """Guess the number."""

    number: int = Field(description="The guess, from 1 to 100.")


class Hint(Observation):
    text: str = ""


class World(Environment):
    """A secret number. -1 raises, -2 ends the server, -3 hangs."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State()

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Hint:
        self.secret = random.Random(seed).randint(1, 100)
        return Hint(text="I have a number from 1 to 100.")

    def step(self, action: Guess, timeout_s: float | None = None, **_: Any) -> Hint:
        if action.number == -1:
            raise ValueError("negative")
        if action.number == -2:
            os._exit(1)
        if action.number == -3:
            time.sleep(60)
        is_right = action.number == self.secret
        text = "Right." if is_right else "Higher." if action.number < self.secret else "Lower."
        return Hint(text=text, done=is_right, reward=float(is_right))

    @property
    def state(self) -> State:
        return self._state


if __name__ == "__main__":
    app = create_fastapi_app(World, Guess, Hint, max_concurrent_envs=8)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
