"""The default environment: the problem's own prompt, the run's tools, and the judge of the problem's kind."""

from dataclasses import replace

from sod.chat.format import ChatFormat
from sod.environments import Environment, Opening, Step, Turn
from sod.errors import OptionError
from sod.tools import Toolbox
from sod.tools.selection import described
from sod.types import Problem


class ToolEnvironment(Environment):
    """Answer calls with the tools of the run. A turn without calls is the answer, and ends the attempt."""

    def __init__(self, toolbox: Toolbox):
        self._toolbox = toolbox
        self.has_state = toolbox.has_state

    async def open(self, problem: Problem, seed: int) -> Opening:
        self._toolbox = await self._toolbox.open(problem, seed)
        return Opening(with_files(problem).messages, self._toolbox.schemas)

    async def step(self, turn: Turn) -> Step:
        if not turn.calls:
            return Step(is_over=True)
        return Step(await self._toolbox.run(turn.calls))

    async def close(self) -> None:
        await self._toolbox.close()


def with_files(problem: Problem) -> Problem:
    """Return the problem as the student reads it: the last message describes the files."""
    if not problem.files:
        return problem
    *before, last = problem.messages
    longer = last | {"content": f"{last['content']}\n\n{described(problem)}"}
    return replace(problem, messages=(*before, longer))


def check_schemas(chat: ChatFormat, toolbox: Toolbox) -> None:
    """Raise OptionError for a tool that the chat template cannot show. MCP servers may describe theirs in any JSON Schema."""
    question = [{"role": "user", "content": "1"}]
    for schema in toolbox.schemas:
        name = schema["function"]["name"]
        try:
            shown = chat.text(chat.prompt(question, [schema]))
        except Exception as error:  # a template may fail in any way
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            if not chat.shows_tools or name in shown:
                continue
            cause = "the prompt does not contain its name"
        raise OptionError(
            f"The chat template cannot show the tool {name!r} ({cause}). Leave the tool out with tool.use or tool.mcp_only, or "
            "use --chat.template hermes."
        )
