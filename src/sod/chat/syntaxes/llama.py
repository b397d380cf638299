"""`{"name": ..., "parameters": {...}}` on a line of its own, also after `<|python_tag|>`: Llama 3.1, 3.2 and 3.3."""

import json
import re

from sod.chat.syntaxes.base import Block, Parameters, find_close, malformed
from sod.chat.syntaxes.json_calls import TOO_DEEP, call_of, decode
from sod.types import ToolCall

_TAG = "<|python_tag|>"
_CALL = re.compile(r"\{\s*\"(?:type|name|function|parameters|arguments)\"\s*:")
_LINE_END = re.compile(r"[ \t]*(?:;|\n|\Z)|[ \t]*(?=<\|)")


class Llama:
    name = "llama"
    opener = re.compile(r"(?:<\|python_tag\|>|\A|(?<=[\n;])|(?<=</think>))\s{0,64}+(?=\{)|<\|python_tag\|>")
    help = 'Write {"name": "TOOL", "parameters": {...}} with valid JSON on a line of its own and try again.'

    def write(self, call: ToolCall) -> str:
        return json.dumps({"name": call.name, "parameters": call.arguments}, ensure_ascii=False)

    def read(self, text: str, start: int, at: int, parameters: Parameters) -> Block | None:
        tagged = text.startswith(_TAG, start)
        if not (tagged or _CALL.match(text, at)):
            return None
        until = find_close(text, "\n{", at)
        until = len(text) if until < 0 else until
        decoded = decode(text, at)
        if isinstance(decoded, str):
            if decoded == TOO_DEEP:  # the levels below would each be read again
                until = len(text)
            return malformed(self, start, until, decoded, text)
        value, end = decoded
        call = call_of(value)
        if isinstance(call, str):
            wrong = malformed(self, start, end, call.replace("arguments", "parameters"), text)
            return wrong if tagged or (isinstance(value, dict) and "name" in value) else None
        if _LINE_END.match(text, end) is None:
            return malformed(self, start, until, "other text after it on its line", text) if tagged else None
        return Block(start, end, [call])


LLAMA = Llama()
