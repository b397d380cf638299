"""Read calls that are JSON objects, or a list of them, after an opening tag. Many syntaxes differ only in their tags."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sod.chat.syntaxes.base import Block, Parameters, find_close, malformed, skip
from sod.chat.syntaxes.json_calls import call_of, decode_at, json_error
from sod.types import MalformedCall, ToolCall

_FENCE = re.compile(r"\s*(?:```\w*\s*)?")
_ATTEMPT = re.compile(r"[\w\\]|\s*(?:[{\[]|```|<function)")


@dataclass(frozen=True)
class TaggedJson:
    """Calls as `OPEN{"name": ..., "arguments": {...}}CLOSE`.

    - A tag opens a call if one of these follows it: JSON (`{` or `[`), a fence, `<function`, or a word without a space before it.
      It also opens a call if tag and body are on lines of their own. Any other tag is plain text.
    - Accepted variants: several objects or a list in one tag, a fence around them, a closing tag inside a string, `parameters`
      for `arguments`, arguments as the text of a JSON object, and null or no arguments for a tool without parameters.
    """

    name: str
    open: str
    close: str
    """Closing tag. "" if the calls extend to the end of the turn."""
    is_list: bool = False
    """Whether calls are written as a list."""
    keys: tuple[str, str] = ("name", "arguments")

    @property
    def opener(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.open))

    @property
    def help(self) -> str:
        call = f'{{"{self.keys[0]}": "TOOL", "{self.keys[1]}": {{...}}}}'
        where = "between the tags" if self.close else f"after {self.open}"
        return f"Write {self.open}{f'[{call}]' if self.is_list else call}{self.close} with valid JSON {where} and try again."

    def write(self, call: ToolCall) -> str:
        text = json.dumps({self.keys[0]: call.name, self.keys[1]: call.arguments}, ensure_ascii=False)
        return f"{self.open}{f'[{text}]' if self.is_list else text}{self.close}"

    def read(self, text: str, start: int, at: int, parameters: Parameters) -> Block | None:
        if not (_ATTEMPT.match(text, at) or self._stands_alone(text, start, at)):
            return None
        if not self.close:
            read = self._values(text, at)
            return (
                self._block(start, *read)
                if read
                else malformed(self, start, len(text), _what_is_wrong(text, at, len(text)), text)
            )
        close = find_close(text, self.close, at)
        if close < 0:
            return malformed(self, start, len(text), f"no {self.close} at its end", text)
        end = close + len(self.close)
        inside = self._values(text[at:end])
        read = inside and (inside[0], at + inside[1])
        reason = ""
        if read is None and (reason := _what_is_wrong(text[at:close], 0, close - at)).startswith(
            "invalid JSON (Unterminated"
        ):
            read = self._values(text, at)  # the closing tag may be inside a string
        return self._block(start, *read) if read else malformed(self, start, end, reason, text)

    def _block(self, start: int, values: list[Any], end: int) -> Block:
        calls = [call_of(value) for value in values]
        wrong = [each for each in calls if isinstance(each, str)]
        if wrong:
            return Block(start, end, [MalformedCall(complaint=f"Malformed tool call: {wrong[0]}. {self.help}")])
        return Block(start, end, [each for each in calls if not isinstance(each, str)])

    @cached_property
    def _closing(self) -> re.Pattern[str]:
        return re.compile(
            rf"\s*(?:```\s*)?{re.escape(self.close)}"
            if self.close
            else rf"\s*(?:```\s*)?(?:(?={re.escape(self.open)})|(?![\s{{[]))"
        )

    @cached_property
    def _alone(self) -> re.Pattern[str]:
        """Pattern of the text behind a tag that has a line of its own, or whose closing tag ends a line."""
        if not self.close:
            return re.compile(r"[ \t]*(?:\n|\Z)")
        tags = f"{re.escape(self.open)}|{re.escape(self.close)}"
        return re.compile(rf"[ \t]*(?:\n|\Z)|(?:(?!{tags})[\s\S])*{re.escape(self.close)}[ \t]*(?:\n|<|\Z)")

    def _stands_alone(self, text: str, start: int, at: int) -> bool:
        """Return whether the tag begins a line, and it or its closing tag ends one. Adjacent tags count as line ends."""
        before = text[max(0, start - 100) : start].rstrip(" \t")
        return before[-1:] in ("", "\n", ">") and self._alone.match(text, at) is not None

    def _values(self, text: str, at: int = 0) -> tuple[list[Any], int] | None:
        """Return the JSON values before the closing tag, with lists flattened, and the tag's end. None if there is other text."""
        values: list[Any] = []
        at = skip(text, at, _FENCE)
        try:
            while not (close := self._closing.match(text, at)):
                at = skip(text, at)
                if values and not text.startswith(("{", "["), at):
                    return None
                value, at = decode_at(text, at)
                values += value if isinstance(value, list) and value else [value]
        except (ValueError, RecursionError):  # ValueError also for integers with thousands of digits
            return None
        return (values, close.end()) if values else None


def _what_is_wrong(text: str, at: int, end: int) -> str:
    """Return why the text from `at` to `end` is not one JSON value."""
    try:
        _, found = decode_at(text, skip(text, at))
    except (ValueError, RecursionError) as error:
        return json_error(error)
    return "invalid JSON (Extra data)" if skip(text, found) < end else "invalid JSON"
