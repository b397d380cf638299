"""`<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`: Qwen3-Coder, Qwen3.5, Nemotron 3.

A value is plain text with one line break on each side. Its type is that of the tool's schema.
"""

import json
import re
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sod.chat.syntaxes.base import Block, Parameters, end_of_block, malformed, properties_of, reach, skip, typed
from sod.types import ToolCall

_ATTEMPT = re.compile(r"\s*[<{\[]")
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>\s*")
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>")
_FUNCTION_END = re.compile(r"\s*</function>\s*")
_VALUE_END = "</parameter>"
_LAST_VALUE_END = re.compile(r"</parameter>(?=\s*(?:<parameter=[^>\n]+>|</function>))")
"""A closing tag that is not a part of the value."""


def value_text(value: Any) -> str:
    """Return a value as these templates write it: text unchanged, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Xml:
    """`open` and `close`: the tags around the functions of one call."""

    name: str
    open: str = "<tool_call>"
    close: str = "</tool_call>"

    @property
    def opener(self) -> re.Pattern[str]:
        return re.compile(rf"{re.escape(self.open)}(?=\s*<function)|(?:\A|(?<=\n))<function=|{re.escape(self.open)}")

    @property
    def help(self) -> str:
        return (
            f"Write {self.open}<function=TOOL><parameter=KEY>VALUE</parameter></function>{self.close} with each tag on a line of "
            "its own and try again."
        )

    def write(self, call: ToolCall) -> str:
        values = "".join(
            f"<parameter={key}>\n{value_text(value)}\n</parameter>\n" for key, value in call.arguments.items()
        )
        return f"{self.open}\n<function={call.name}>\n{values}</function>\n{self.close}"

    def read(self, text: str, start: int, at: int, parameters: Parameters) -> Block | None:
        if not text.startswith(self.open, start):
            return malformed(self, start, end_of_block(text, self.close, at), f"{self.open} is missing before it", text)
        if not _ATTEMPT.match(text, at) or text.startswith(self.close, at):
            return None
        calls: list[ToolCall] = []
        here, most = at, reach(text, self.close, at)
        while found := _FUNCTION.match(text, here):
            read = self._arguments(text, found.end(), most, found[1], parameters)
            if isinstance(read, str):
                return malformed(self, start, end_of_block(text, self.close, at), read, text)
            calls.append(ToolCall(name=found[1].strip(), arguments=read[0]))
            here = read[1]
        here = skip(text, here)
        if not calls or not text.startswith(self.close, here):
            reason = "<function=TOOL> is missing" if not calls else f"no {self.close} after </function>"
            return malformed(
                self, start, end_of_block(text, self.close, at), reason.replace("<", "").replace(">", ""), text
            )
        return Block(start, here + len(self.close), calls)

    def _arguments(
        self, text: str, at: int, most: int, tool: str, parameters: Parameters
    ) -> tuple[dict[str, Any], int] | str:
        """Return the arguments that begin at `at`, and the end of the function. Return the reason if they are malformed.

        `most`: the last place where a value may end.
        """
        schemas, arguments = properties_of(parameters, tool.strip()), {}
        while found := _PARAMETER.match(text, at):
            ends = _ends_of_values(text)
            following = bisect_left(ends, found.end())
            if following == len(ends) or ends[following] > most:
                return "a parameter has no closing tag"
            end = ends[following]
            value, key = text[found.end() : end], found[1].strip()
            arguments[key] = typed(value.removeprefix("\n").removesuffix("\n"), schemas.get(key))
            at = end + len(_VALUE_END)
        close = _FUNCTION_END.match(text, at)
        return (arguments, close.end()) if close else "the function has no closing tag after its parameters"


@lru_cache(maxsize=4)
def _ends_of_values(text: str) -> list[int]:
    """Return where the closing tag of each value begins. Cached, so that very many broken calls are read in linear time."""
    return [found.start() for found in _LAST_VALUE_END.finditer(text)]


XML = Xml("xml")
SEED = Xml("seed", "<seed:tool_call>", "</seed:tool_call>")
"""Seed-OSS."""
