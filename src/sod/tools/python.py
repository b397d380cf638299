"""The code interpreter: run the given program unchanged and return its output.

Programs are stateless, or run in a session of their trajectory (`tool.session`). Like a notebook, the sandbox prints the value
of a trailing expression unless it is None. `show_last_expr = "reference"` imitates the interpreter of the paper's code, for
comparison.
"""

import copy
import logging
import re
from collections.abc import Mapping
from typing import Any

from sod.config import ToolOptions
from sod.errors import OptionError, SandboxError
from sod.moved import keep_old_names
from sod.sandbox import Program, Result, Sandbox, Session, SessionSandbox
from sod.tools import NO_OUTPUT, shorten
from sod.types import Observation, Problem

logger = logging.getLogger(__name__)

INTERPRETER = "code_interpreter"
REFERENCE_CHARS = 256
_FENCED = re.compile(r"\s*```[^\n`]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)
_REFERENCE_FENCE = re.compile(r"```python(.*?)```", re.DOTALL)


def interpreter_schema(name: str = INTERPRETER, *, session: bool = False) -> dict[str, Any]:
    """The OpenAI function schema that the chat template shows to the student. `session`: programs share their state."""
    kept = "Variables, imports and files are" if session else "Nothing is"
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Runs a Python program and returns what it prints. {kept} kept between calls.",
            "parameters": {
                "type": "object",
                "properties": {"code": {"type": "string", "description": "The program."}},
                "required": ["code"],
            },
        },
    }


class PythonTool:
    """`code_interpreter(code)`, backed by a sandbox."""

    def __init__(self, sandbox: Sandbox, options: ToolOptions, *, name: str | None = None):
        self._sandbox = sandbox
        self._options = options
        self._is_reference = options.show_last_expr == "reference"
        if self._is_reference:
            logger.warning(
                "tool.show_last_expr = reference: programs are rewritten as in the paper's code, which breaks many."
            )
        if options.session == "on" and not isinstance(sandbox, SessionSandbox):
            raise OptionError(f"tool.session = on does not work with {type(sandbox).__name__}. Leave it out.")
        self.has_state = options.session == "on"
        self._session: Session | None = None
        self._files: Mapping[str, str] = {}
        self.schema = interpreter_schema(name or options.name, session=options.session == "on")

    async def open(self, problem: Problem, seed: int) -> "PythonTool":
        """Return the interpreter of one attempt: with the problem's files, and with a session if there are sessions."""
        if self._options.session == "off" and not problem.files:
            return self
        opened = copy.copy(self)
        opened._files = problem.files
        if self._options.session == "on" and isinstance(self._sandbox, SessionSandbox):
            opened._session = self._sandbox.session(self._options.session_seconds)
        return opened

    async def close(self) -> None:
        """End the session."""
        if self._session is not None:
            await self._session.close()

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        rewritten = as_in_reference if self._is_reference else without_fence
        program = Program(
            code=rewritten(arguments["code"]),
            show_last_value=self._options.show_last_expr == "expr",
            seconds=self._options.seconds,
            memory_mb=self._options.memory_mb,
            output_bytes=8 * self._options.max_chars,  # head and tail each hold max_chars characters of UTF-8
            copies=self._files,
        )
        result = await (self._session or self._sandbox).run(program)
        if result.status == "sandbox_error":
            raise SandboxError(f"The sandbox could not run a program: {result.message}")
        words = words_of_reference if self._is_reference else self._words
        return Observation(text=words(result), outcome=result.status)

    def _words(self, result: Result) -> str:
        """Return the output, then the error, within `max_chars`."""
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
        ended = f"[{result.session}]" if result.session else ""
        text = shorten(text, max(0, self._options.max_chars - len(ended) - 1)) if text else NO_OUTPUT
        return f"{text}\n{ended}" if ended else text


def without_fence(code: str) -> str:
    """Return the program inside a Markdown fence if the whole text is one fence; otherwise the text itself."""
    fenced = _FENCED.fullmatch(code)
    return fenced[1] if fenced else code


def last_exception(stderr: str) -> str:
    """Return `Type: message` of the last traceback: its first line after the indented ones."""
    lines = stderr.splitlines()
    for i in range(len(lines) - 1, 0, -1):
        if lines[i - 1].startswith(" ") and not lines[i].startswith(" "):
            return lines[i]
    return lines[-1]


# The interpreter of the paper's code


def as_in_reference(code: str) -> str:
    """Rewrite a program as the paper's code does: take the first fence, wrap its last non-empty line in `print(...)`.

    This breaks correct programs that end in an assignment, an indented line, a comment, an import or a closing bracket.
    """
    if fenced := _REFERENCE_FENCE.search(code):
        code = fenced[1].strip()
    lines = code.split("\n")
    last = max((i for i, line in enumerate(lines) if line), default=None)
    if last is not None and not lines[last].startswith("print"):
        lines[last] = f"print({lines[last]})"
    return "\n".join(lines)


def words_of_reference(result: Result) -> str:
    """Return the observation of the paper's code: both streams, the middle cut out; no output after a time-out."""
    if result.status not in ("ok", "error", "signal"):
        return "no stdout here"
    text, half = result.stdout + result.stderr, REFERENCE_CHARS // 2
    return text if len(text) <= REFERENCE_CHARS else f"{text[:half]}...(truncated)...{text[-half:]}"


keep_old_names(__name__, schema="interpreter_schema")
