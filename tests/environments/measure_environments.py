"""Measure the adapters for docs/environments-of-others.md: python tests/environments/measure_environments.py NAME ...

Each line: environment, episodes, seconds to open one (the median), turns per second of one episode at a time, mean score of an
agent that picks a listed command or action at random, and the seconds of `start`.
"""

import asyncio
import inspect
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from sod.environments import Opening, Step, Turn
from sod.environments.choosing import environment_maker
from sod.types import Problem

EPISODES, TURNS = 20, 30
TASKS = {
    "scienceworld": ["boil", "find-living-thing"],
    "textworld": ["quest", "coin_collector"],
    "textarena": ["GuessTheNumber"],
}


async def value(of: Any) -> Any:
    return await of if inspect.isawaitable(of) else of


def picks(name: str, chance: random.Random, setting: dict[str, Any]) -> Callable[[Opening, list[Step]], str]:
    def pick(opening: Opening, steps: list[Step]) -> str:
        if name == "textarena":
            return f"[{chance.randint(1, 20)}]"
        if name == "gymnasium":
            return chance.choice(setting["actions"])
        text = steps[-1].observations[0].text if steps else str(opening.conversation[-1]["content"])
        return chance.choice(text.rpartition("Possible commands: ")[2].split(", "))

    return pick


async def measure(name: str) -> None:
    made: Any = environment_maker(name)
    began = time.monotonic()
    await value(made.start())
    started = time.monotonic() - began
    chance, opened, turns, spent, scores = random.Random(0), list[float](), 0, 0.0, list[float]()
    for row in made.make(TASKS.get(name, []), EPISODES, 1, 1):
        commands = {"commands": True} if name in ("scienceworld", "textworld") else {}
        problem = Problem(id="p", messages=(), answer="", setting=row["setting"] | commands)
        environment = made()
        began = time.monotonic()
        opening = await value(environment.open(problem, 0))
        opened.append(time.monotonic() - began)
        pick, steps = picks(name, chance, row["setting"]), list[Step]()
        while len(steps) < TURNS and not (steps and steps[-1].is_over):
            text = pick(opening, steps)
            began = time.monotonic()
            steps.append(await value(environment.step(Turn(text))))
            spent += time.monotonic() - began
        turns += len(steps)
        scores.append(environment._scene.score)
        await value(environment.close())
    await value(made.stop())
    print(
        f"{name}: {EPISODES} episodes, {statistics.median(opened):.3g} s to open, {turns / spent:.3g} turns/s, "
        f"random score {statistics.mean(scores):.3g}, start {started:.3g} s"
    )


if __name__ == "__main__":
    for each in sys.argv[1:]:
        asyncio.run(measure(each))
