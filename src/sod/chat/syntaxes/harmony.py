"""`<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}`: GPT-OSS.

The recipient stands before the channel or after it. A message without a recipient is text, not a call.
"""

import json
import re

from sod.chat.syntaxes.base import Block, Parameters, malformed, skip
from sod.chat.syntaxes.json_calls import decode
from sod.types import ToolCall

_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([^\s<]+)")
_END = re.compile(r"\s*(?:<\|call\|>|<\|end\|>|\Z)")


class Harmony:
    name = "harmony"
    opener = re.compile(
        r"(?:<\|start\|>assistant)?(?:(?:(?<![ \t])[ \t]+|(?<![^\s>]))to=[^\s<>]++[ \t]*+)?"
        r"<\|channel\|>(?:commentary|analysis)\b[^<]*"
        r"(?:<\|constrain\|>[^<]*)?<\|message\|>"
    )
    help = (
        "Write <|channel|>commentary to=functions.TOOL <|constrain|>json<|message|>{...} with a valid JSON object at its end "
        "and try again."
    )

    def write(self, call: ToolCall) -> str:
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        return f"<|channel|>commentary to=functions.{call.name} <|constrain|>json<|message|>{arguments}"

    def read(self, text: str, start: int, at: int, parameters: Parameters) -> Block | None:
        recipient = _RECIPIENT.search(text, start, at)
        if recipient is None or recipient[1] == "assistant":  # a message to the assistant is a result
            return None
        following = self.opener.search(text, at)
        until = following.start() if following else len(text)
        decoded = decode(text, skip(text, at))
        if isinstance(decoded, str):
            return malformed(self, start, until, decoded, text)
        value, end = decoded
        close = _END.match(text, end)
        if close is None or not isinstance(value, dict):
            reason = "other text after its arguments" if close is None else "its arguments are not a JSON object"
            return malformed(self, start, until, reason, text)
        return Block(start, end, [ToolCall(name=recipient[1], arguments=value)])


HARMONY = Harmony()
