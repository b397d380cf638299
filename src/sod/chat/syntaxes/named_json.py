"""Read calls that are a tool's name, a separator and a JSON object of arguments."""

import json
import re
from dataclasses import dataclass
from functools import cached_property

from sod.chat.syntaxes.base import Block, Parameters, malformed
from sod.chat.syntaxes.json_calls import decode
from sod.types import ToolCall


@dataclass(frozen=True)
class NamedJson:
    """Calls as `OPEN NAME SEPARATOR {...} CLOSE`. `before`, `between` and `after` are patterns of these texts."""

    name: str
    before: str
    between: str
    after: str
    example: str
    """A call as the template writes it, with %s for the name and for the arguments."""

    @property
    def opener(self) -> re.Pattern[str]:
        return re.compile(self.before)

    @property
    def help(self) -> str:
        return f"Write {self.example % ('TOOL', '{...}')} with valid JSON and try again."

    def write(self, call: ToolCall) -> str:
        return self.example % (call.name, json.dumps(call.arguments, ensure_ascii=False))

    def read(self, text: str, start: int, at: int, parameters: Parameters) -> Block | None:
        found = self._name.match(text, at)
        if found is None:
            return malformed(self, start, self._end(text, at), "the tool's name or its separator is missing", text)
        decoded = decode(text, found.end())
        if isinstance(decoded, str):
            return malformed(self, start, self._end(text, at), decoded, text)
        value, end = decoded
        close = self._closing.match(text, end)
        if close is None:
            return malformed(self, start, self._end(text, at), "other text after its arguments", text)
        if not isinstance(value, dict):
            return malformed(self, start, close.end(), "its arguments are not a JSON object", text)
        return Block(start, close.end(), [ToolCall(name=found[1], arguments=value)])

    def _end(self, text: str, at: int) -> int:
        """Return where a malformed call ends: before the next call."""
        following = self.opener.search(text, at)
        return following.start() if following and following.end() > at else len(text)

    @cached_property
    def _name(self) -> re.Pattern[str]:
        return re.compile(rf"\s*(?:functions\.)?([\w.\-/]+?)(?::\d+)?\s*{self.between}\s*+")

    @cached_property
    def _closing(self) -> re.Pattern[str]:
        return re.compile(rf"\s*+{self.after}")
