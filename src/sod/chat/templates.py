"""Analyse a tokenizer's chat template by rendering probe conversations.

A template is supported if it shows the tools in its prompt, writes a call as `sod.chat.calls` reads it, shows the results of
tools, and ends an assistant's turn with the tokenizer's eos_token. Any other template raises TemplateError with the reason.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from sod.chat.calls import CALL_CLOSE, CALL_OPEN, THOUGHT_CLOSE, THOUGHT_OPEN, as_arguments, parse_calls
from sod.errors import TemplateError
from sod.types import Message, ToolCall

Schema = dict[str, Any]
"""A tool's OpenAI function schema: {"type": "function", "function": {"name", "description", "parameters"}}."""

HIDES_TOOLS = "{#- shows no tools -#}"
"""Marks a template that shows no tools on purpose, because its model learns them from demonstrations only."""
SERVING = (
    f"sod reads calls as {CALL_OPEN}{{JSON}}{CALL_CLOSE}. Use a model with such a template (Qwen2.5, Qwen3, Granite 4), or edit "
    "the template."
)


@dataclass(frozen=True, slots=True)
class Frame:
    """The text around the results of tools, from the end of a turn to the start of the next."""

    opening: str
    between: str
    closing: str
    one_call: bool = False
    """Whether the template allows only one call in a turn."""


@dataclass(frozen=True, slots=True)
class Thought:
    """The text around a thought at the start of a turn."""

    opening: str = f"{THOUGHT_OPEN}\n"
    closing: str = f"\n{THOUGHT_CLOSE}\n\n"
    in_a_field: bool = False
    """Whether the template reads `reasoning_content`."""
    joined: bool = False
    """Whether the line break before a call is left out after a thought."""


class Template:
    """One chat template with its options."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]):
        self._tokenizer = tokenizer
        self._options = options
        self._arguments_as_text = False
        self.of_what = f" of {tokenizer.name_or_path!r}" if tokenizer.name_or_path else ""
        if not tokenizer.chat_template:
            raise TemplateError(
                f"The tokenizer{self.of_what} has no chat template. Type --chat.template hermes, or --chat.template FILE.jinja "
                "with a template of your own."
            )
        if not isinstance(tokenizer.eos_token_id, int) or not isinstance(tokenizer.eos_token, str):
            raise TemplateError(
                f"The tokenizer{self.of_what} has no eos_token, which must end a turn. Set `eos_token` in its "
                "tokenizer_config.json."
            )
        self.end: str = tokenizer.eos_token
        self.hides_tools = HIDES_TOOLS in str(tokenizer.chat_template)
        asked, unasked = self.render([_USER]), self.render([_USER], prompt=False)
        prompt = asked[len(unasked) :] if asked.startswith(unasked) else asked.rpartition(_USER["content"])[2]
        at = prompt.find(THOUGHT_OPEN)
        self.header = prompt if at < 0 else prompt[:at]
        """Start of an assistant's turn, before its thought."""
        self.opened = "" if at < 0 else prompt[at:]
        """Part of a thought that the prompt contains, or ""."""
        ended = self.render(_ANSWERED)
        if not self.hides_tools:
            self._check_tools()
        self._check_call()
        self.results = self._find_results()
        self._check_end(ended)
        self.thought = self._find_thought()

    @property
    def thinking(self) -> Literal["free", "open", "closed"]:
        """Return how the prompt treats thoughts: not at all (free), it opens one (open), it holds a closed one (closed)."""
        return "free" if not self.opened else "closed" if THOUGHT_CLOSE in self.opened else "open"

    @property
    def empty_thought(self) -> str:
        return self.thought.opening + self.thought.closing

    def render(self, messages: Sequence[Message], tools: Sequence[Schema] = (), *, prompt: bool = True) -> str:
        """Return a conversation as text. Raise TemplateError if the template cannot render it."""
        if self._arguments_as_text:
            messages = [_with_arguments_as_text(message) for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), tools=list(tools) or None, add_generation_prompt=prompt, tokenize=False, **self._options
            )
        except Exception as error:  # a template is the user's program and may raise any exception
            raise TemplateError(f"The chat template{self.of_what} failed: {error}") from error
        return str(text)

    def after_turn(self, rendered: str) -> str:
        """Return the text after the first end of turn that follows the probe's words."""
        rest = rendered.partition(_WORDS)[2]
        _, end, suffix = rest.partition(self.end)
        return suffix if end else rest

    def suffix(self, messages: Sequence[Message]) -> str:
        """Return the text between two assistant turns, for messages that are not only results of tools."""
        return self.after_turn(self.render([*_ANSWERED, *messages]))

    # Required features
    def _check_tools(self) -> None:
        shown = self.render([_USER], [PROBE_TOOL])
        if _NAME not in shown or _PARAMETER not in shown:
            raise TemplateError(
                f"The chat template{self.of_what} does not show the tools: their names and parameters are not in the prompt. "
                "Type --chat.template hermes for a template with tools, and teach it with `sod sft`. If the model learns the "
                f"tools from demonstrations only, add {HIDES_TOOLS} to the template."
            )

    def _check_call(self) -> None:
        """Raise TemplateError unless a call that the template writes is parsed as the same call."""
        messages = [_USER, probe_calls(_WORDS, _VALUE)]
        try:
            whole = self.render(messages, [PROBE_TOOL], prompt=False)
        except TemplateError as refusal:
            self._arguments_as_text = True  # some templates insert arguments unchanged
            try:
                whole = self.render(messages, [PROBE_TOOL], prompt=False)
            except TemplateError:
                raise TemplateError(f"{refusal} It does not support tool calls. {SERVING}") from refusal
        written = whole.removeprefix(self.render([_USER], [PROBE_TOOL], prompt=False))
        if parse_calls(written) != [ToolCall(name=_NAME, arguments={_PARAMETER: _VALUE})]:
            raise TemplateError(f"The chat template{self.of_what} {_form_of(written)}. {SERVING}")
        if _WORDS not in written:
            raise TemplateError(f"The chat template{self.of_what} leaves out the text before a call. {SERVING}")

    def _find_results(self) -> Frame:
        """Return the fixed text around results. A template with one call per turn is probed with one call and 2 or 1 results."""
        first, second = "FIRST-RESULT", "SECOND-RESULT"
        results = [{"role": "tool", "name": _NAME, "content": text} for text in (first, second)]
        tries = [(("1", "2"), results), (("1",), results), (("1",), results[:1])]
        refusal: TemplateError | None = None
        for values, shown in tries:
            try:
                rendered = self.render([_USER, probe_calls(_WORDS, *values), *shown], [PROBE_TOOL])
            except TemplateError as error:
                refusal = refusal or error
                continue
            opening, found, rest = self.after_turn(rendered).partition(first)
            between, again, closing = rest.partition(second)
            one_call = len(values) == 1
            if found and again:
                return Frame(opening, between, closing, one_call)
            if found and len(shown) == 1:
                return Frame(opening, "\n", rest, one_call)
        if refusal is not None:
            raise TemplateError(f"{refusal} It does not support tool results (messages with role tool). {SERVING}")
        raise TemplateError(
            f"The chat template{self.of_what} does not render tool results "
            '(messages with role "tool"). Use a template with tool support.'
        )

    def _check_end(self, answered: str) -> None:
        _, words, rest = answered.partition(_WORDS)
        if not words or self.end not in rest:
            raise TemplateError(
                f"The chat template{self.of_what} does not end an assistant turn with the tokenizer's eos_token {self.end!r}, "
                f"but with {rest[:20]!r}. Set `eos_token` in tokenizer_config.json to the token that ends a turn."
            )

    # Optional features
    def _find_thought(self) -> Thought:
        """Return the text around thoughts. Use Qwen3's format if the template does not read `reasoning_content`."""
        thought = "PROBE-THOUGHT"
        start = self.render([_USER], prompt=False) + self.header
        message = {"role": "assistant", "content": _WORDS, "reasoning_content": thought}
        opening, found, rest = self.render([_USER, message], prompt=False).removeprefix(start).partition(thought)
        closing = rest.partition(_WORDS)[0]
        made = Thought(opening, closing, in_a_field=True) if found else Thought()
        if (made.opening.strip(), made.closing.strip()) != (THOUGHT_OPEN, THOUGHT_CLOSE):
            return Thought()
        called = probe_calls(f"{made.opening}{thought}{made.closing}", "1")
        after = self.render([_USER, called], [PROBE_TOOL], prompt=False).partition(thought)[2].partition(CALL_OPEN)[0]
        return Thought(made.opening, made.closing, in_a_field=bool(found), joined=after == made.closing)


def _form_of(written: str) -> str:
    """Describe in words how a template writes a call."""
    if _NAME not in written:
        return "leaves out the calls of assistant messages"
    if f"<function={_NAME}" in written:
        return "writes calls as XML (<function=NAME><parameter=KEY>)"
    if re.search(rf"{_NAME}\(\s*{_PARAMETER}\s*=", written):
        return "writes calls as Python (NAME(KEY=VALUE))"
    at = written.find(_WORDS)
    form = written[at + len(_WORDS) if at >= 0 else 0 :].strip().replace(_NAME, "NAME").replace(_PARAMETER, "KEY")
    return f"writes calls in a form of its own ({form[:60]!r})"


def name_and_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """Return a call's name and its arguments as an object. In OpenAI's API the arguments are a JSON string."""
    function = call.get("function", call)
    arguments = as_arguments(function.get("arguments"))
    if arguments is None:
        raise TemplateError(
            f"The arguments of a call of {function['name']!r} are not a JSON object: {function['arguments']!r}. Correct them."
        )
    return {"name": function["name"], "arguments": arguments}


def _with_arguments_as_text(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    functions = [name_and_arguments(call) for call in calls]
    texts = [function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)} for function in functions]
    return {**message, "tool_calls": [{**call, "function": text} for call, text in zip(calls, texts, strict=True)]}


# Probe conversations

_WORDS, _NAME, _PARAMETER, _VALUE = "PROBE-WORDS", "probe_tool", "probe_key", 'a "quoted"\nline'
PROBE_TOOL: Schema = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {_PARAMETER: {"type": "string"}}, "required": [_PARAMETER]},
    },
}


def probe_calls(content: str, *values: str) -> Message:
    calls = [{"type": "function", "function": {"name": _NAME, "arguments": {_PARAMETER: value}}} for value in values]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _result(content: str) -> Message:
    return {"role": "tool", "name": _NAME, "content": content}


_USER: Message = {"role": "user", "content": "A question?"}
_ANSWERED: list[Message] = [_USER, {"role": "assistant", "content": _WORDS}]


def probes(calls: int) -> list[list[Message]]:
    """Return conversations that a template must not change. `calls` limits the number of calls in a turn."""
    results = [_result(" 2"), _result("error: x < 3 && y > 4")]
    return [
        [
            _USER,
            probe_calls("Let me see.", 'a "quoted"\nline'),
            _result("1\n"),
            probe_calls("", *("é", "2")[:calls]),
            *results[:calls],
            {"role": "assistant", "content": "So it is \\boxed{2}."},
        ],
        [
            _USER,
            probe_calls("<think>\nHm.\n</think>\n\nLet me see.", "1"),
            _result("1\n"),
            {"role": "assistant", "content": "<think>\nAh.\n</think>\n\nSo it is \\boxed{1}."},
        ],
    ]
