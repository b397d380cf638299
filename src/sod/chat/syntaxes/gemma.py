"""`call:NAME{KEY:VALUE}` between tags, with a token on both sides of each string: FunctionGemma and Gemma 4."""

import json
import re
from dataclasses import dataclass
from typing import Any

from sod.chat.syntaxes.base import Block, Parameters, end_of_block, find_close, malformed, skip
from sod.types import ToolCall

_CALL = re.compile(r"\s*call:([\w.\-]+)\s*(?=\{)")
_KEY = re.compile(r"\s*([^\s:{}\[\],<]+)\s*:\s*")
_WORD = re.compile(r"[^\s,{}\[\]<]+")
DEPTH = 64
_LITERALS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}


class _Wrong(Exception):
    """The reason why a value cannot be read."""


@dataclass(frozen=True)
class Gemma:
    name: str
    open: str
    close: str
    quote: str
    """Token before and after a string."""

    @property
    def opener(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.open))

    @property
    def help(self) -> str:
        call = f"{self.open}call:TOOL{{KEY:VALUE}}{self.close}"
        return f"Write {call} with {self.quote} before and after each string and try again."

    def write(self, call: ToolCall) -> str:
        pairs = ",".join(f"{key}:{self._text(value)}" for key, value in call.arguments.items())
        return f"{self.open}call:{call.name}{{{pairs}}}{self.close}"

    def _text(self, value: Any) -> str:
        match value:
            case str():
                return f"{self.quote}{value}{self.quote}"
            case dict():
                return "{" + ",".join(f"{self._text(key)}:{self._text(inner)}" for key, inner in value.items()) + "}"
            case list():
                return "[" + ",".join(map(self._text, value)) + "]"
            case _:
                return json.dumps(value)

    def read(self, text: str, start: int, at: int, parameters: Parameters) -> Block | None:
        until = end_of_block(text, self.close, at)
        found = _CALL.match(text, at)
        if found is None:
            return malformed(self, start, until, "call: and the name of the tool are missing", text)
        try:
            arguments, end = self._value(text, found.end(), 0)
        except _Wrong as wrong:
            return malformed(self, start, until, str(wrong), text)
        end = skip(text, end)
        if not text.startswith(self.close, end):
            return malformed(self, start, until, "no closing tag after its arguments", text)
        return Block(start, end + len(self.close), [ToolCall(name=found[1], arguments=arguments)])

    def _value(self, text: str, at: int, depth: int) -> tuple[Any, int]:
        """Return the value at `at`, and its end. Raises _Wrong."""
        if depth > DEPTH:
            raise _Wrong("too deep a nesting")
        if text.startswith(self.quote, at):
            at += len(self.quote)
            end = find_close(text, self.quote, at)
            if end < 0:
                raise _Wrong("a string has no end")
            return text[at:end], end + len(self.quote)
        if text[at : at + 1] == "{":
            return self._mapping(text, at + 1, depth)
        if text[at : at + 1] == "[":
            return self._list(text, at + 1, depth)
        word = _WORD.match(text, at)
        if word is None:
            raise _Wrong("a value is missing")
        return self._word(word[0]), word.end()

    def _word(self, word: str) -> Any:
        if word in _LITERALS:
            return _LITERALS[word]
        try:
            return json.loads(word)
        except (ValueError, RecursionError) as error:
            raise _Wrong("a string has no quotes") from error

    def _mapping(self, text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
        made: dict[str, Any] = {}
        while not text.startswith("}", at := skip(text, at)):
            if made:
                at = self._comma(text, at)
            if text.startswith(self.quote, at):
                key, at = self._value(text, at, depth)
                at = skip(text, at)
                if not text.startswith(":", at):
                    raise _Wrong("a colon is missing after a key")
                at = skip(text, at + 1)
            elif found := _KEY.match(text, at):
                key, at = found[1], found.end()
            else:
                raise _Wrong("a key is missing")
            made[key], at = self._value(text, at, depth + 1)
        return made, at + 1

    def _list(self, text: str, at: int, depth: int) -> tuple[list[Any], int]:
        made: list[Any] = []
        while not text.startswith("]", at := skip(text, at)):
            if made:
                at = self._comma(text, at)
            value, at = self._value(text, at, depth + 1)
            made.append(value)
        return made, at + 1

    def _comma(self, text: str, at: int) -> int:
        if not text.startswith(",", at):
            raise _Wrong("a comma or a closing bracket is missing")
        return skip(text, at + 1)


FUNCTION_GEMMA = Gemma("function_gemma", "<start_function_call>", "<end_function_call>", "<escape>")
GEMMA = Gemma("gemma", "<|tool_call>", "<tool_call|>", '<|"|>')
