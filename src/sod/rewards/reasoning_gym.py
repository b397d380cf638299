"""Problems of reasoning-gym (arXiv 2505.24760), judged by its own scorers. Package: `reasoning-gym`.

A gold is the JSON text of task, level and seed, from which the package generates the problem again. Several scorers evaluate the
student's text as Python, so they run in the sandbox, like programs of the student.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from random import Random
from secrets import token_hex
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sod.config.base import first_fault
from sod.config.plugins import require
from sod.errors import DataError, OptionError, SandboxError
from sod.rewards import NO_ANSWER, Verdict
from sod.sandbox import Program, Sandbox

ASK = "Give only the final answer between <answer> and </answer>."
NOT_SCORED = ("composite", "boxnet", "knight_swap")
"""composite needs a configuration; the two others cannot be generated with their own curriculum in 0.1.25."""
SCORER = """
import json, sys, types
from importlib import import_module
from importlib.util import find_spec
asked = json.loads(sys.stdin.read())
mark = asked.pop("mark")
root = find_spec("reasoning_gym").submodule_search_locations[0]
parents = asked["module"].split(".")[:-1]
for depth in range(1, len(parents) + 1):  # the packages' own imports of all tasks take over a second
    package = types.ModuleType(".".join(parents[:depth]))
    package.__path__ = ["/".join([root, *parents[1:depth]])]
    sys.modules[package.__name__] = package
try:
    import_module(asked["module"])
except ImportError:
    for name in [name for name in sys.modules if name.partition(".")[0] == "reasoning_gym"]:
        del sys.modules[name]
    import reasoning_gym
from reasoning_gym.factory import CURRICULA, DATASETS
made, config = DATASETS[asked["task"]]
if asked["task"] in CURRICULA:
    curriculum = CURRICULA[asked["task"]]()
    curriculum.set_global_level(asked["level"] - 1)
    dataset = made(curriculum.generate_configuration({"seed": asked["seed"], "size": 1}))
else:
    dataset = made(config(seed=asked["seed"], size=1))
print(mark, float(dataset.score_answer(asked["answer"], dataset[0])))
"""


class Gold(BaseModel):
    """A problem of reasoning-gym."""

    model_config = ConfigDict(extra="forbid", strict=True)

    task: str
    level: int
    """Level of its curriculum, from 1."""
    seed: int


class ReasoningGymJudge:
    """Judge by the score of the text between the last pair of <answer> tags: 1 is right."""

    def __init__(self, sandbox: Sandbox, *, seconds: float = 20.0) -> None:
        self._sandbox, self._seconds = sandbox, seconds

    def check(self, gold: str) -> None:
        """Raise DataError for a gold that is no problem of the installed package."""
        check_task(gold)

    async def __call__(self, text: str, gold: str) -> Verdict:
        answer = text.rpartition("<answer>")[2].partition("</answer>")
        if not answer[1]:
            return Verdict(outcome="wrong", reason=NO_ANSWER)
        mark = token_hex(16)  # an answer that prints a number cannot guess it
        asked = json.loads(gold) | {"module": module_of(json.loads(gold)["task"]), "answer": answer[0].strip()}
        program = Program(code=SCORER, stdin=json.dumps(asked | {"mark": mark}), seconds=self._seconds)
        result = await self._sandbox.run(program)
        if result.status == "sandbox_error":
            raise SandboxError(result.message)
        mine = [line for line in result.stdout.split("\n") if line.startswith(f"{mark} ")]
        if result.status == "ok" and not mine:
            return Verdict(outcome="wrong", reason="the answer ended the scorer")
        if result.status not in ("ok", "error"):  # such as 9**9**9: the scorer ends with the program it computes
            return Verdict(outcome="wrong", reason=f"the answer ended the scorer ({result.status})")
        try:
            score = float(mine[-1].partition(" ")[2] if result.status == "ok" else "")
        except ValueError:
            last = result.stderr.strip().split("\n")[-1][:200]
            return Verdict(outcome="ungraded", reason=f"reasoning-gym's scorer ended with {result.status}: {last}")
        return Verdict(
            outcome="right" if score >= 1 else "wrong", answer=answer[0].strip(), reason=f"score {score:.3g}"
        )


def check_task(gold: str) -> None:
    try:
        found = Gold.model_validate_json(gold)
    except ValidationError as error:
        raise DataError(
            f"it is no problem of reasoning-gym: {first_fault(error)}. `sod data make reasoning_gym` writes such rows."
        ) from error
    try:
        module_of(found.task)
    except OptionError as error:
        raise DataError(str(error)) from error


@lru_cache(maxsize=256)
def module_of(task: str) -> str:
    """Return the module of a task. Raises OptionError for an unknown task, and without the package."""
    known = _factory().DATASETS
    if task not in known or task in NOT_SCORED:
        names = ", ".join(name for name in sorted(known) if name not in NOT_SCORED)
        raise OptionError(f"{task!r} is not a task of reasoning_gym. Tasks: {names}.")
    return known[task][0].__module__


class ReasoningGym:
    """The maker of reasoning-gym's problems."""

    @classmethod
    def make(cls, tasks: Sequence[str], rows: int, seed: int, level: int) -> Iterator[Mapping[str, Any]]:
        """Yield problems of the tasks in turn. `level`: of their curriculum; 1 is the easiest."""
        factory, random = _factory(), Random(seed)
        names = list(tasks) or [name for name in sorted(factory.DATASETS) if name not in NOT_SCORED]
        for task in names:
            module_of(task)
        for number in range(rows):
            task, own_seed = names[number % len(names)], random.randrange(2**31)
            made, config = factory.DATASETS[task]
            if task in factory.CURRICULA:
                curriculum = factory.CURRICULA[task]()
                curriculum.set_global_level(level - 1)
                settings = curriculum.generate_configuration({"seed": own_seed, "size": 1})
            else:
                settings = config(seed=own_seed, size=1)
            gold = Gold(task=task, level=level, seed=own_seed)
            yield {
                "id": f"{task}-{level}-{own_seed}",
                "prompt": f"{made(settings)[0]['question']}\n\n{ASK}",
                "answer": gold.model_dump_json(),
                "kind": "reasoning_gym",
                "source": task,
                "level": str(level),
            }


def _factory() -> Any:
    """Return the package's table of tasks. Raises OptionError without the package."""
    return require("reasoning_gym.factory", "reasoning-gym", "0.1.25", what="The kind reasoning_gym")
