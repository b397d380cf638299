"""The environments of a run: one maker for each name, opened for every attempt and always closed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager

from sod.chat.format import ChatFormat
from sod.config import ToolOptions
from sod.environments import Opening
from sod.environments.choosing import DEFAULT, Maker, class_of, environment_maker
from sod.environments.guarding import GuardedEnvironment
from sod.environments.tools import ToolEnvironment
from sod.errors import InfrastructureError, OptionError, TemplateError
from sod.processes.concurrency import Occupancy, Runner, call_function
from sod.tools import Toolbox
from sod.types import Problem

logger = logging.getLogger(__name__)

STARTING_SECONDS = 300.0
"""Longest time that `start` and `stop` of an environment may take."""


class Environments:
    """Create the environment of every attempt.

    `name`: the environment of problems that have none of their own. The default environment uses `toolbox`.
    """

    def __init__(self, toolbox: Toolbox, name: str = DEFAULT, options: ToolOptions | None = None):
        self._name = name
        self._options = options or ToolOptions()
        self._makers: dict[str, Maker] = {DEFAULT: lambda: ToolEnvironment(toolbox)}
        self._occupancy = Occupancy()

    def name_of(self, problem: Problem) -> str:
        """Return the name of a problem's environment."""
        return problem.environment or self._name

    def is_default(self, problem: Problem) -> bool:
        """Return whether a problem has the default environment, which shows its messages unchanged."""
        return self.name_of(problem) == DEFAULT

    def load(self, problems: Sequence[Problem]) -> None:
        """Find the environments of all problems. Raises OptionError for one that does not exist."""
        for name in sorted({self.name_of(problem) for problem in problems} | {self._name}):
            if ".py:" in name and name != self._name and name not in self._makers:
                logger.warning(f"careful: the data names the environment {name}; its code runs on this machine.")
            self.maker(name)

    def add(self, name: str, maker: Maker) -> None:
        """Use a maker for the environments of a name."""
        self._makers[name] = maker

    def maker(self, name: str) -> Maker:
        """Return the maker of an environment. Raises OptionError for an unknown name."""
        if name not in self._makers:
            self._makers[name] = environment_maker(name)
        return self._makers[name]

    @contextmanager
    def working_in(
        self, loop: Runner | asyncio.Runner, problems: Sequence[Problem], chat: ChatFormat
    ) -> Iterator[None]:
        """Start all environments that the problems need, prove that each begins twice alike, and stop them at the end."""
        first = {self.name_of(problem): problem for problem in reversed(problems)}
        first.pop(DEFAULT, None)
        classes = {made for name in first if (made := class_of(self.maker(name)))}
        with ExitStack() as stack:
            for each in classes:
                stack.callback(lambda each=each: loop.run(_within(each, "stop")))
                loop.run(_within(each, "start"))
            for problem in first.values():
                loop.run(self._prove(problem, chat))
            yield

    @asynccontextmanager
    async def opened(self, problem: Problem, seed: int) -> AsyncIterator[tuple[GuardedEnvironment, Opening]]:
        """Open the environment of an attempt, and close it at the end. Raises InfrastructureError."""
        name = self.name_of(problem)
        try:
            made = self.maker(name)()
        except (Exception, SystemExit) as error:  # the user's class may raise anything
            if isinstance(error, OptionError):
                raise
            message = f"The environment {name} cannot be created: {type(error).__name__}: {error}"
            raise InfrastructureError(message) from error
        # The tools of the run have limits of their own; their programs may wait for a free processor first.
        seconds = None if self.is_default(problem) else self._options.seconds
        guarded = GuardedEnvironment(made, name, self._options, seconds=seconds)
        try:
            yield guarded, await guarded.open(problem, seed)
        finally:
            await guarded.close()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count the seconds inside as time of the environments."""
        with self._occupancy:
            yield

    def take_busy_seconds(self) -> float:
        """Return the seconds since the last call in which at least one environment answered a turn."""
        return self._occupancy.take_seconds()

    async def _prove(self, problem: Problem, chat: ChatFormat) -> None:
        """Raise OptionError unless the environment begins twice alike, and TemplateError if its dialogue cannot be rendered."""
        name = self.name_of(problem)
        openings: list[Opening] = []
        for _ in range(2):
            try:
                async with self.opened(problem, 0) as (_, opening):
                    openings.append(opening)
            except InfrastructureError as error:
                raise OptionError(f"environment: problem {problem.id!r} cannot be opened. {error}") from error
        if openings[0] != openings[1]:
            raise OptionError(
                f"environment: {name} begins problem {problem.id!r} differently with the same seed, so attempts of one group "
                "could not be compared. Draw all random numbers from the seed that `open` receives."
            )
        try:
            chat.check_replies()
        except TemplateError as error:
            if not openings[0].tools:
                raise
            logger.warning(f"careful: if {name} answers a turn without calls, the run ends: {error}")


async def _within(environment: type, method: str) -> None:
    """Call `start` or `stop` of an environment's class, if it has one. Raises OptionError if it fails."""
    call = getattr(environment, method, None)
    if call is None:
        return
    try:
        async with asyncio.timeout(STARTING_SECONDS):
            await call_function(call)
    except (Exception, SystemExit) as error:  # the user's class may raise anything
        if isinstance(error, OptionError):
            raise
        raise OptionError(
            f"environment: {environment.__name__}.{method} failed: {type(error).__name__}: {error}"
        ) from error
