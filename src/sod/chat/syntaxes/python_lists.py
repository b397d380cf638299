"""`[NAME(KEY=VALUE), ...]` as Python literals: LFM2 (between tokens), Llama 4 and Olmo 3. Nothing is ever evaluated.

LFM2.5 writes a text between single quotes without escaping it: `RAW_LFM`. Text between double quotes is a Python literal there.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sod.chat.syntaxes.base import CLOSINGS, Block, Parameters, find_close, malformed, properties_of
from sod.types import ToolCall

_JSON_WORDS = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class PythonLists:
    """`open`, `close`: the tags around the list; "" if it is a line of its own. `raw`: texts in single quotes are unescaped."""

    name: str
    open: str = ""
    close: str = ""
    raw: bool = False
    brackets: bool = True
    """Whether the calls are in a list. Otherwise each is a line."""

    @property
    def opener(self) -> re.Pattern[str]:
        if self.open:
            return re.compile(re.escape(self.open))
        return re.compile(r"(?:\A|(?<=\n)|(?<=</think>))\s{0,64}+(?=\[\s*[A-Za-z_][\w.]*\((?:\s*\w+\s*=|\s*\)))")

    @property
    def help(self) -> str:
        call = "[TOOL(KEY=VALUE)]" if self.brackets else "TOOL(KEY=VALUE)"
        return f"Write {self.open}{call}{self.close} with keyword arguments that are Python literals and try again."

    def write(self, call: ToolCall) -> str:
        names = all(key.isidentifier() for key in call.arguments)
        values = {key: f"'{v}'" if self.raw and isinstance(v, str) else repr(v) for key, v in call.arguments.items()}
        pairs = ", ".join(f"{key}={value}" for key, value in values.items()) if names else f"**{call.arguments!r}"
        written = f"{call.name}({pairs})"
        return f"{self.open}{f'[{written}]' if self.brackets else written}{self.close}"

    def read(self, text: str, start: int, at: int, parameters: Parameters) -> Block | None:
        reason, until = f"no {self.close} at its end", len(text)
        for number, end in enumerate(self._ends(text, at)):
            read = self._calls(text[at:end], parameters)
            if isinstance(read, list):
                return Block(start, end + len(self.close), read)
            if number == 0:
                reason, until = read, end + len(self.close)
        return malformed(self, start, until, reason.replace("<", "").replace(">", ""), text)

    def _ends(self, text: str, at: int) -> Iterator[int]:
        """Yield where the list may end, at most `CLOSINGS` places."""
        end, tag = at, self.close or "]"
        for _ in range(CLOSINGS):
            end = find_close(text, tag, end)
            if end < 0:
                return
            if self.close:
                yield end
            elif re.compile(r"\][ \t]*(?:\n|<|\Z)").match(text, end):
                yield end + 1
            end += len(tag)

    def _calls(self, body: str, parameters: Parameters) -> list[ToolCall] | str:
        """Return the calls in the text between the tags, or the reason why it is malformed."""
        if self.raw and "'" in body:
            body = _escaped(body, parameters)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes such as \d
                tree = ast.parse(body.strip())
            nodes = [each for statement in tree.body for each in _nodes(statement)]
            calls = [_call(node) for node in nodes]
        except SyntaxError as error:
            return f"not a Python list of calls ({error.msg})" if error.msg.isascii() else "not a Python list of calls"
        except (ValueError, RecursionError, MemoryError, TypeError) as error:
            return f"not a Python list of calls ({type(error).__name__})"
        wrong = [each for each in calls if isinstance(each, str)]
        return wrong[0] if wrong else [each for each in calls if not isinstance(each, str)] or "the list is empty"


def _nodes(statement: ast.stmt) -> list[ast.expr]:
    if not isinstance(statement, ast.Expr):
        raise SyntaxError("a statement")
    value = statement.value
    return list(value.elts) if isinstance(value, ast.List | ast.Tuple) else [value]


def _call(node: ast.expr) -> ToolCall | str:
    if not isinstance(node, ast.Call):
        return "the list holds a value that is not a call"
    name = _dotted(node.func)
    if not name:
        return "a call has no name"
    if node.args:
        return f"an argument of {name} has no name" if name.isascii() else "an argument has no name"
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        value = ast.literal_eval(_JsonWords().visit(keyword.value))
        if keyword.arg is not None:
            arguments[keyword.arg] = value
        elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
            arguments |= value
        else:
            return "** needs a dictionary"
    return ToolCall(name=name, arguments={key: _as_json(value) for key, value in arguments.items()})


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def _as_json(value: Any) -> Any:
    """Return a literal as JSON would hold it. Raises TypeError for bytes, sets and numbers that JSON does not have."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [_as_json(each) for each in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {key: _as_json(inner) for key, inner in value.items()}
        case _:
            raise TypeError(type(value).__name__)


class _JsonWords(ast.NodeTransformer):
    """Replaces true, false and null by Python's values."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_JSON_WORDS[node.id]) if node.id in _JSON_WORDS else node


def _escaped(body: str, parameters: Parameters) -> str:
    """Return a list of calls with each unescaped text as a Python literal.

    Such a text begins after `KEY='` and ends before `'` and the next key of the same tool, or the end of the call.
    """
    made, at = "", 0
    keys = {key for tool in parameters for key in properties_of(parameters, tool)}
    following = "|".join(map(re.escape, sorted(keys))) if keys else r"\w+"
    end = re.compile(rf"'(?=\s*(?:,\s*(?:{following})=|\)\s*(?:\]\s*\Z|,\s*[A-Za-z_][\w.]*\()))")
    for opened in re.compile(rf"(?<=[(\s,])(?:{following})='").finditer(body):
        if opened.start() < at:
            continue
        close = end.search(body, opened.end())
        if close is None:
            break
        made += body[at : opened.end() - 1] + repr(body[opened.end() : close.start()])
        at = close.end()
    return made + body[at:]


LFM = PythonLists("lfm", "<|tool_call_start|>", "<|tool_call_end|>")
RAW_LFM = PythonLists("lfm_raw", "<|tool_call_start|>", "<|tool_call_end|>", raw=True)
LLAMA_4 = PythonLists("llama_4", "<|python_start|>", "<|python_end|>")
OLMO = PythonLists("olmo", "<function_calls>", "</function_calls>", brackets=False)
BARE_LIST = PythonLists("python_list")
