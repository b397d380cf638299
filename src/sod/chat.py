"""Messages to tokens and back, for one chat template, so that no token is ever guessed twice.

The next prompt of a conversation is *the ids so far plus a suffix*: what stands between the end of the student's turn
and the start of its next one. The suffix's framing is read off the tokenizer's own chat template once, and checked
there: a template that rewrites history (strips or inserts thinking between turns, trims tool results) is an error that
names the first token that differs. Cold-start demonstrations and rollouts are rendered by the same three functions
(`prompt`, `turn`, `observation`), so a student meets in rollouts the very tokens that it was fine-tuned on.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, Self

from transformers import PreTrainedTokenizerBase

from sod.config import ChatOptions
from sod.errors import TemplateError
from sod.types import MalformedCall, Message, Piece, ToolCall

Schema = dict[str, Any]
"""A tool's OpenAI function schema: {"type": "function", "function": {"name", "description", "parameters"}}."""

CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
CALL_HELP = (
    f'Write {CALL_OPEN}{{"name": "TOOL", "arguments": {{...}}}}{CALL_CLOSE} '
    "with valid JSON between the tags and try again."
)


class ChatFormat:
    """One tokenizer's chat template, made append-only.

    `on_drift` says what to do where the template, given the whole conversation at once, would write other tokens than
    were appended turn by turn: "error" refuses (default); "append" keeps the appended tokens, everywhere alike, in
    fine-tuning, rollouts and evaluation. Qwen3's hybrid template needs "append" for turns without thinking: it adds an
    empty thinking block to whichever turn is last.

    `template_options` go to the template as they are, for example {"enable_thinking": False}.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        on_drift: Literal["error", "append"] = "error",
        template_options: dict[str, Any] | None = None,
    ):
        self._of_what = f" of {tokenizer.name_or_path!r}" if tokenizer.name_or_path else ""
        if not tokenizer.chat_template:
            raise TemplateError(
                f"The tokenizer{self._of_what} has no chat template. Use an instruction-tuned model's "
                "tokenizer, or set `chat_template` in its tokenizer_config.json."
            )
        if not isinstance(tokenizer.eos_token_id, int) or not isinstance(tokenizer.eos_token, str):
            raise TemplateError(f"The tokenizer{self._of_what} has no eos_token to end a turn with.")
        self.tokenizer = tokenizer
        self.end_of_turn: int = tokenizer.eos_token_id
        self._end_text: str = tokenizer.eos_token
        self._on_drift = on_drift
        self._options = template_options or {}
        self._tool_frame = self._find_tool_frame()
        if CALL_OPEN not in self.text(self._encode(CALL_OPEN)) or CALL_CLOSE not in self.text(self._encode(CALL_CLOSE)):
            raise TemplateError(
                f"The tokenizer{self._of_what} drops {CALL_OPEN} as a special token when it decodes, so no call could be "
                'read. Set "special": false for the tags of tool calls in its tokenizer_config.json.'
            )
        for probe in _PROBES:
            self.render(probe, [_PROBE_TOOL])

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, options: ChatOptions) -> Self:
        template_options = {} if options.thinking is None else {"enable_thinking": options.thinking}
        return cls(tokenizer, on_drift=options.on_drift, template_options=template_options)

    # Messages -> tokens

    def prompt(self, messages: Sequence[Message], tools: Sequence[Schema]) -> list[int]:
        """Everything up to where the student starts to write."""
        return self._encode(self._template(messages, tools))

    def turn(self, message: Message) -> list[int]:
        """An assistant message as the student would have sampled it: its text, its calls, the end of turn."""
        calls = [
            f"{CALL_OPEN}\n{json.dumps(_name_and_arguments(call), ensure_ascii=False)}\n{CALL_CLOSE}"
            for call in message.get("tool_calls") or ()
        ]
        content = message.get("content") or ""
        return [*self._encode("\n".join([content, *calls] if content else calls)), self.end_of_turn]

    def observation(self, texts: Sequence[str]) -> list[int]:
        """The suffix after a student's turn: the tools' answers, up to where the student writes again."""
        opening, between, closing = self._tool_frame
        return self._encode(opening + between.join(map(self._harmless, texts)) + closing)

    def observed(self, tokens: Sequence[int], count: int) -> list[str] | None:
        """The inverse of `observation`: what each of `count` calls was answered; None where that cannot be told apart."""
        opening, between, closing = self._tool_frame
        text = str(self.tokenizer.decode(list(tokens)))
        inner = text.removeprefix(opening).removesuffix(closing)
        texts = inner.split(between) if count > 1 else [inner]
        return texts if len(texts) == count and self.observation(texts) == list(tokens) else None

    def render(self, messages: Sequence[Message], tools: Sequence[Schema]) -> list[Piece]:
        """A conversation, turn by turn, as the pieces that a rollout of it would have.

        Raises TemplateError where the template would render the whole differently (unless `on_drift` is "append").
        """
        messages = [_with_parsed_calls(message) for message in messages]
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns or turns[0] == 0:
            raise TemplateError("A conversation needs a message to answer, and an assistant message that answers it.")
        pieces = [Piece("prompt", tuple(self.prompt(messages[: turns[0]], tools)))]
        for this, following in zip(turns, [*turns[1:], None], strict=True):
            author = "prompt" if messages[this].get("weight", 1) == 0 else "student"
            pieces.append(Piece(author, tuple(self.turn(messages[this]))))
            if following is not None:
                pieces.append(Piece("tool", tuple(self._suffix(messages[this + 1 : following]))))
        if self._on_drift == "error":
            self._check_against_template(pieces, messages, tools)
        return pieces

    # Tokens -> text

    def text(self, tokens: Sequence[int]) -> str:
        """What a student wrote in a turn, without the end of turn."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    # How the template frames things

    def _harmless(self, text: str) -> str:
        """A tool's output cannot speak in control tokens: whatever looks like one gets a space."""
        for token in self.tokenizer.all_special_tokens:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _template(self, messages: Sequence[Message], tools: Sequence[Schema], *, prompt: bool = True) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tools=list(tools) or None, add_generation_prompt=prompt, tokenize=False, **self._options
            )
        except Exception as error:  # a template is a program of the user's; it may raise anything
            raise TemplateError(f"The chat template{self._of_what} failed: {error}") from error
        return str(text)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, verbose=False)

    def _after_turn(self, rendered: str) -> str:
        """What follows the first end of turn after the probe assistant's words."""
        _, words, rest = rendered.partition(_PROBE_WORDS)
        _, end, suffix = rest.partition(self._end_text)
        if not words or not end:
            raise TemplateError(
                f"The chat template{self._of_what} does not end an assistant turn with the "
                f"tokenizer's eos_token {self._end_text!r}; set the eos_token to the one that ends a turn."
            )
        return suffix

    def _find_tool_frame(self) -> tuple[str, str, str]:
        """(before the first tool result, between two, after the last): text that never changes."""
        first, second = "FIRST-RESULT", "SECOND-RESULT"
        results = [{"role": "tool", "name": "probe", "content": text} for text in (first, second)]
        suffix = self._after_turn(self._template([*_PROBE_CALLS, *results], [_PROBE_TOOL]))
        opening, found_first, rest = suffix.partition(first)
        between, found_second, closing = rest.partition(second)
        if not found_first or not found_second:
            raise TemplateError(
                f"The chat template{self._of_what} does not render tool results "
                '(messages with role "tool"). Use a template with tool support.'
            )
        return opening, between, closing

    def _suffix(self, messages: Sequence[Message]) -> list[int]:
        """What stands between two assistant turns, for any messages; tool results take the prepared frame."""
        if messages and all(message["role"] == "tool" for message in messages):
            return self.observation([message["content"] for message in messages])
        return self._encode(self._after_turn(self._template([*_PROBE_ANSWERED, *messages], [])))

    def _check_against_template(
        self, pieces: Sequence[Piece], messages: Sequence[Message], tools: Sequence[Schema]
    ) -> None:
        appended = [token for piece in pieces for token in piece.tokens]
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        whole = self._encode(self._template(messages[: last + 1], tools, prompt=False))
        if whole[: len(appended)] == appended and self._end_text not in self.tokenizer.decode(whole[len(appended) :]):
            return
        at = next(
            (i for i, (a, b) in enumerate(zip(appended, whole, strict=False)) if a != b), min(len(appended), len(whole))
        )
        show = lambda ids: repr(self.tokenizer.decode(ids[at : at + 8]))  # noqa: E731
        raise TemplateError(
            f"The chat template{self._of_what} rewrites history: at token {at}, appending turn by turn "
            f"gives {show(appended)} and rendering the whole gives {show(whole)} (after "
            f"{self.tokenizer.decode(whole[max(0, at - 12) : at])!r}). Set chat.on_drift to 'append' to use the appended tokens "
            "in fine-tuning, rollouts and evaluation alike, or use a template that keeps every turn as it was."
        )


def parse_calls(text: str) -> list[ToolCall | MalformedCall]:
    """The Hermes-format tool calls in a turn's text, in order; what is no call says why not."""
    calls: list[ToolCall | MalformedCall] = []
    for match in re.finditer(rf"{CALL_OPEN}(.*?)({CALL_CLOSE}|\Z)", text, re.DOTALL):
        body, close = match.groups()
        if close:
            calls.append(_parse_call(body))
        else:
            calls.append(MalformedCall(complaint=f"Malformed tool call: no {CALL_CLOSE} at its end. {CALL_HELP}"))
    return calls


def _parse_call(body: str) -> ToolCall | MalformedCall:
    try:
        call = json.loads(body, strict=False)  # a raw line break inside a string is understood
    except (ValueError, RecursionError) as error:  # ValueError also for integers of thousands of digits
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "too long a number or too deep a nesting"
        return MalformedCall(complaint=f"Malformed tool call: invalid JSON ({reason}). {CALL_HELP}")
    match call:
        case {"name": str(name), "arguments": dict(arguments)}:
            return ToolCall(name=name, arguments=arguments)
        case {"name": _, "arguments": _}:
            reason = '"name" must be a string and "arguments" an object'
        case _:
            reason = '"name" or "arguments" is missing'
    return MalformedCall(complaint=f"Malformed tool call: {reason}. {CALL_HELP}")


def _with_parsed_calls(message: Message) -> Message:
    """OpenAI's API writes a call's arguments as a JSON string; templates and `turn` want the object."""
    if not message.get("tool_calls"):
        return message
    return {
        **message,
        "tool_calls": [{**call, "function": _name_and_arguments(call)} for call in message["tool_calls"]],
    }


def _name_and_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function["arguments"]
    try:
        parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError as error:
        raise TemplateError(f"The arguments of a call of {function['name']!r} are not JSON: {arguments!r}.") from error
    return {"name": function["name"], "arguments": parsed}


# Conversations that show how a template behaves; `ChatFormat` renders each of them when it starts.

_PROBE_WORDS = "PROBE-WORDS"
_PROBE_TOOL: Schema = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]},
    },
}


def _probe_calls(content: str, *values: str) -> Message:
    calls = [{"type": "function", "function": {"name": "probe", "arguments": {"x": value}}} for value in values]
    return {"role": "assistant", "content": content, "tool_calls": calls}


_PROBE_USER: Message = {"role": "user", "content": "A question?"}
_PROBE_ANSWERED: list[Message] = [_PROBE_USER, {"role": "assistant", "content": _PROBE_WORDS}]
_PROBE_CALLS: list[Message] = [_PROBE_USER, _probe_calls(_PROBE_WORDS, "1", "2")]
_PROBES: list[list[Message]] = [
    [
        _PROBE_USER,
        _probe_calls("Let me see.", 'a "quoted"\nline'),
        {"role": "tool", "name": "probe", "content": "1\n"},
        _probe_calls("", "é", "2"),
        {"role": "tool", "name": "probe", "content": " 2"},
        {"role": "tool", "name": "probe", "content": "error: x < 3 && y > 4"},
        {"role": "assistant", "content": "So it is \\boxed{2}."},
    ],
    [
        _PROBE_USER,
        _probe_calls("<think>\nHm.\n</think>\n\nLet me see.", "1"),
        {"role": "tool", "name": "probe", "content": "1\n"},
        {"role": "assistant", "content": "<think>\nAh.\n</think>\n\nSo it is \\boxed{1}."},
    ],
]
