"""A referee for tests in which no program is judged."""

from sod.config import RewardOptions
from sod.rewards.referee import Referee
from sod.sandbox import Program, Result


class Nowhere:
    """A sandbox where no program can be run."""

    async def run(self, program: Program) -> Result:
        return Result(status="sandbox_error", message="there is no sandbox here")

    async def close(self) -> None:
        pass


REFEREE = Referee(Nowhere(), RewardOptions(tool_use="off", overlong=0), max_tokens=20_480)
"""+1 for a right answer, -1 for a wrong one."""
