"""The code interpreter: runs exactly the program that it was given, and says what happened.

Programs are stateless: nothing survives a call. As a notebook does, the sandbox shows the value of a trailing expression
unless it is None.
"""

from collections.abc import Mapping
from typing import Any

from sod.config import ToolOptions
from sod.errors import SandboxError
from sod.sandbox import Program, Result, Sandbox
from sod.types import Observation


class PythonTool:
    """`code_interpreter(code)`, backed by a sandbox."""

    def __init__(self, sandbox: Sandbox, options: ToolOptions, *, name: str = "code_interpreter"):
        self._sandbox = sandbox
        self._options = options
        self.schema: dict[str, Any] = {
            "type": "function",
            "function": {
                "name": name,
                "description": "Runs a Python program and returns what it prints. Nothing is kept between calls.",
                "parameters": {
                    "type": "object",
                    "properties": {"code": {"type": "string", "description": "The program."}},
                    "required": ["code"],
                },
            },
        }

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        program = Program(
            code=arguments["code"],
            show_last_value=True,
            seconds=self._options.seconds,
            memory_mb=self._options.memory_mb,
            output_bytes=8 * self._options.max_chars,  # more than max_chars characters of UTF-8 in its head and tail
        )
        result = await self._sandbox.run(program)
        if result.status == "sandbox_error":
            raise SandboxError(f"The sandbox could not run a program: {result.message}")
        return Observation(text=self._words(result), outcome=result.status)

    def _words(self, result: Result) -> str:
        """Output, then what went wrong, within `max_chars`."""
        error = result.stderr.strip()
        if result.status == "error" and self._options.errors == "last_line" and error:
            error = last_exception(error)
        notes = {
            "error": "" if error else f"[exit code {result.exit_code}]",
            "timeout": f"[stopped: longer than {self._options.seconds:g} s]",
            "signal": f"[ended by signal {result.signal}]",
            "output_limit": "[stopped: too much output]",
            "disk_limit": "[stopped: wrote too much to disk]",
        }
        parts = [result.stdout.rstrip(), error, notes.get(result.status, "")]
        text = "\n".join(part for part in parts if part.strip())
        return shorten(text, self._options.max_chars) if text else "[no output]"


def last_exception(stderr: str) -> str:
    """`Type: message` of the last traceback, on one line: the first line that is no longer indented."""
    lines = stderr.splitlines()
    for i in range(len(lines) - 1, 0, -1):
        if lines[i - 1].startswith(" ") and not lines[i].startswith(" "):
            return lines[i]
    return lines[-1]


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters: the head and the tail, and between them a mark that something is missing."""
    mark = "\n... [output omitted] ...\n"
    if len(text) <= limit:
        return text
    keep = limit - len(mark)
    if keep <= 0:
        return text[:limit]
    return text[: keep // 2] + mark + text[len(text) - (keep - keep // 2) :]
