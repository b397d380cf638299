"""The code interpreter: runs exactly the program that it was given, and says what happened.

Programs are stateless: nothing survives a call. As a notebook does, the value of a trailing expression is shown unless it
is None; this is decided on the syntax tree, and every other program runs byte for byte as the student wrote it.
"""

import ast
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
            code=show_last_value(arguments["code"]),
            seconds=self._options.seconds,
            memory_mb=self._options.memory_mb,
            output_bytes=4 * self._options.max_chars,  # at least max_chars characters of UTF-8
        )
        result = await self._sandbox.run(program)
        if result.status == "sandbox_error":
            raise SandboxError(f"The sandbox could not run a program: {result.message}")
        return Observation(text=self._words(result), outcome=result.status)

    def _words(self, result: Result) -> str:
        """Output, then what went wrong, within `max_chars`."""
        error = result.stderr.strip()
        if result.status == "error" and self._options.errors == "last_line" and error:
            error = error.splitlines()[-1].strip()
        notes = {
            "timeout": f"[stopped: longer than {self._options.seconds:g} s]",
            "signal": f"[ended by signal {result.signal}]",
            "output_limit": "[stopped: too much output]",
            "disk_limit": "[stopped: wrote too much to disk]",
        }
        parts = [result.stdout.rstrip(), error, notes.get(result.status, "")]
        text = "\n".join(part for part in parts if part.strip())
        return shorten(text, self._options.max_chars) if text else "[no output]"


def show_last_value(code: str) -> str:
    """The same program, with a trailing expression handed to `sys.displayhook`, as a notebook's cell would."""
    try:
        last = ast.parse(code).body[-1]
    except (SyntaxError, ValueError, IndexError, RecursionError, MemoryError):
        return code  # running it says what is wrong with it
    if not isinstance(last, ast.Expr) or last.end_lineno is None or last.end_col_offset is None:
        return code
    lines = code.encode().split(b"\n")
    start, end = (last.lineno - 1, last.col_offset), (last.end_lineno - 1, last.end_col_offset)
    # The end first: inserting there does not move the start.
    lines[end[0]] = lines[end[0]][: end[1]] + b")" + lines[end[0]][end[1] :]
    lines[start[0]] = lines[start[0]][: start[1]] + b'__import__("sys").displayhook(' + lines[start[0]][start[1] :]
    return b"\n".join(lines).decode()


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters: the head and the tail, with the number of omitted characters between them."""
    if len(text) <= limit:
        return text
    mark = f"\n... [{len(text) - limit} characters omitted] ...\n"
    keep = max(0, limit - len(mark))
    head = keep // 2
    return text[:head] + mark + text[len(text) - (keep - head) :]
