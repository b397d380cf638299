"""The code interpreter of `sod train` as a tool of verl's agent loop: recipes/verl/tools.yaml names it.

verl turns whatever a tool raises into text for the student, our own failures included; `sod train` would drop the attempt. Before
that, the sandbox tries again and waits, as its options say.
"""

from typing import Any

from pydantic import ValidationError
from verl.tools.base_tool import BaseTool  # pyright: ignore[reportMissingImports]
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse  # pyright: ignore[reportMissingImports]

from sod.config import SandboxOptions, ToolOptions
from sod.errors import OptionError
from sod.sandbox.guarded import open_sandbox
from sod.tools import Toolbox
from sod.tools.python import PythonTool, schema
from sod.types import ToolCall


class CodeInterpreter(BaseTool):
    """`code_interpreter(code)`. `config`: options of `sod train` under `tool` and `sandbox`."""

    def __init__(self, config: dict[str, Any], tool_schema: Any = None) -> None:
        """Raises OptionError for options that do not exist, and where programs cannot be confined."""
        try:
            self._sandbox = open_sandbox(SandboxOptions(**config.get("sandbox", {})))
            self._toolbox = Toolbox([PythonTool(self._sandbox, ToolOptions(**config.get("tool", {})))])
        except ValidationError as error:
            raise OptionError(f"The config of {type(self).__name__}: {error}") from error
        super().__init__(config, tool_schema or OpenAIFunctionToolSchema.model_validate(schema()))

    async def execute(
        self, instance_id: str, parameters: dict[str, Any], **_: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        """What the student reads, no reward, and what became of the call."""
        [observation] = await self._toolbox.answer([ToolCall(name=self.name, arguments=parameters)])
        return ToolResponse(text=observation.text), 0.0, {"outcome": observation.outcome}

    async def close(self) -> None:
        """End what the sandbox started. verl never asks for it; it ends with the process, too."""
        await self._sandbox.close()
