"""The code interpreter of `sod train` as a tool of verl's agent loop, for recipes/verl/tools.yaml.

verl turns every exception of a tool into text for the student, infrastructure failures included. `sod train` would drop the
attempt instead. Before raising, the sandbox retries and waits according to its options.
"""

from typing import Any

from pydantic import ValidationError
from verl.tools.base_tool import BaseTool  # pyright: ignore[reportMissingImports]
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse  # pyright: ignore[reportMissingImports]

from sod.config import SandboxOptions, ToolOptions
from sod.errors import OptionError
from sod.sandbox.retries import open_sandbox
from sod.tools import Toolbox
from sod.tools.python import PythonTool, interpreter_schema
from sod.types import ToolCall


class CodeInterpreter(BaseTool):
    """`code_interpreter(code)`. `config`: options of `sod train` under `tool` and `sandbox`."""

    def __init__(self, config: dict[str, Any], tool_schema: Any = None) -> None:
        """Raises OptionError for unknown options, and if programs cannot be confined."""
        try:
            self._sandbox = open_sandbox(SandboxOptions(**config.get("sandbox", {})))
            options = ToolOptions(**config.get("tool", {}))
            if options.session == "on":
                raise OptionError(
                    "tool.session = on does not work in verl, where trajectories share one tool. Leave it out."
                )
            self._toolbox = Toolbox([PythonTool(self._sandbox, options)])
        except ValidationError as error:
            raise OptionError(f"The config of {type(self).__name__} is invalid: {error}") from error
        super().__init__(config, tool_schema or OpenAIFunctionToolSchema.model_validate(interpreter_schema()))

    async def execute(
        self, instance_id: str, parameters: dict[str, Any], **_: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        """Run a call. Return the text for the student, a reward of 0, and the call's outcome."""
        [observation] = await self._toolbox.answer([ToolCall(name=self.name, arguments=parameters)])
        return ToolResponse(text=observation.text), 0.0, {"outcome": observation.outcome}

    async def close(self) -> None:
        """Stop the sandbox. verl never calls this; the sandbox also ends with the process."""
        await self._sandbox.close()
