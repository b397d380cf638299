"""`<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`: GLM 4.5 and later."""

import re

from sod.chat.syntaxes.base import Block, Parameters, end_of_block, find_close, malformed, properties_of, reach, typed
from sod.chat.syntaxes.xml import value_text
from sod.types import ToolCall

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_ATTEMPT = re.compile(r"[\w{<\[]|\s*\n")
_NAME = re.compile(r"\s*([\w.\-]+)\s*+(?=<arg_key>|</tool_call>)")
_KEY = re.compile(r"\s*<arg_key>([^<]+)</arg_key>\s*<arg_value>")
_END = re.compile(r"\s*</tool_call>")
_VALUE_END = "</arg_value>"


class Glm:
    name = "glm"
    opener = re.compile(re.escape(_OPEN))
    help = (
        "Write <tool_call>TOOL<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call> with one key and value for each "
        "argument and try again."
    )

    def write(self, call: ToolCall) -> str:
        pairs = "".join(
            f"\n<arg_key>{key}</arg_key>\n<arg_value>{value_text(value)}</arg_value>"
            for key, value in call.arguments.items()
        )
        return f"{_OPEN}{call.name}{pairs}\n{_CLOSE}"

    def read(self, text: str, start: int, at: int, parameters: Parameters) -> Block | None:
        if not _ATTEMPT.match(text, at) or text.startswith(_CLOSE, at):
            return None
        until = end_of_block(text, _CLOSE, at)
        found = _NAME.match(text, at)
        if found is None:
            return malformed(self, start, until, "the name of the tool is missing", text)
        schemas, arguments, here = properties_of(parameters, found[1]), {}, found.end()
        most = reach(text, _CLOSE, at)
        while key := _KEY.match(text, here):
            end = find_close(text, _VALUE_END, key.end())
            if end < 0 or end > most:
                return malformed(self, start, until, "an argument has no closing tag", text)
            arguments[key[1].strip()] = typed(text[key.end() : end], schemas.get(key[1].strip()))
            here = end + len(_VALUE_END)
        closing = _END.match(text, here)
        if closing is None:
            return malformed(self, start, until, "no closing tag after its arguments", text)
        return Block(start, closing.end(), [ToolCall(name=found[1], arguments=arguments)])


GLM = Glm()
