"""The default environment: the problem's own prompt, the run's tools, and the judge of the problem's kind."""

from sod.environments import Environment, Opening, Step, Turn
from sod.tools import Toolbox
from sod.types import Problem


class ToolEnvironment(Environment):
    """Answer calls with the tools of the run. A turn without calls is the answer, and ends the attempt."""

    has_state = False

    def __init__(self, toolbox: Toolbox):
        self._toolbox = toolbox

    async def open(self, problem: Problem, seed: int) -> Opening:
        del seed
        return Opening(problem.messages, self._toolbox.schemas)

    async def step(self, turn: Turn) -> Step:
        if not turn.calls:
            return Step(is_over=True)
        return Step(await self._toolbox.run(turn.calls))
