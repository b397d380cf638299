"""Analyse a tokenizer's chat template by rendering probe conversations.

A template is supported if it shows the tools in its prompt, writes a call in one of `sod.chat.syntaxes`, shows the results of
tools, and ends an assistant's turn with a token. Any other template raises TemplateError with the reason.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from sod.chat import probes
from sod.chat.calls import THOUGHT_CLOSE, THOUGHT_OPEN, as_arguments, find_blocks, parse_calls
from sod.chat.probes import after_question, around_results, ending_in_results
from sod.chat.syntaxes import SYNTAXES, Syntax
from sod.errors import TemplateError
from sod.types import MalformedCall, Message, Schema, ToolCall

HIDES_TOOLS = "{#- shows no tools -#}"
"""Marks a template that shows no tools on purpose, because its model learns them from demonstrations only."""
SERVING = "docs/templates.md lists the forms that sod reads. Type --chat.template hermes, or edit the template."
FIELDS = ("reasoning_content", "reasoning", "thinking", "thought")
"""Names of the field of a message from which templates read a thought."""
MARKS = (THOUGHT_OPEN, "[THINK]", "<|channel>", "<|channel|>")
"""Beginnings of a thought that a prompt may open."""


@dataclass(frozen=True, slots=True)
class Thought:
    """The text around a thought at the start of a turn."""

    opening: str = f"{THOUGHT_OPEN}\n"
    closing: str = f"\n{THOUGHT_CLOSE}\n\n"
    field: str = ""
    """Field of a message from which the template reads a thought. "" if it reads none."""
    alone: bool = False
    """Whether the template refuses a message that has a thought, a text and calls."""


class Template:
    """One chat template with its options."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]):
        self._tokenizer = tokenizer
        self._options = options
        self._arguments_as_text = False
        self.writes_calls = False
        """Whether the template leaves out calls, so that they are written into the content."""
        self.end_follows = False
        """Whether the token that ends a turn is the first one of the next message."""
        self._frames: dict[tuple[str, ...], list[str]] = {}
        self._latest_prompt = ("", "")
        """The tools of the latest turn as text, and the end of their prompt. Most rows of a file have the same tools."""
        self.of_what = f" of {tokenizer.name_or_path!r}" if tokenizer.name_or_path else ""
        _check_attributes(tokenizer, self.of_what)
        tokens = (str(token.content) for token in tokenizer.added_tokens_decoder.values())
        added = sorted((token for token in tokens if len(token.strip()) > 1), key=len, reverse=True)
        self._added = re.compile("|".join(map(re.escape, added)) or r"(?!)")
        self.hides_tools = HIDES_TOOLS in str(tokenizer.chat_template)
        self.tells_time = "strftime_now(" in str(tokenizer.chat_template)
        """Whether the template can write the date."""
        asked, unasked = (
            after_question(self.render([probes.USER])),
            after_question(self.render([probes.USER], prompt=False)),
        )
        prompt = asked[len(unasked) :] if asked.startswith(unasked) else asked
        at = min((found for mark in MARKS if (found := prompt.find(mark)) >= 0), default=-1)
        self.header = prompt if at < 0 else prompt[:at]
        """Start of an assistant's turn, before its thought."""
        self.opened = "" if at < 0 else prompt[at:]
        """Part of a thought that the prompt contains, or ""."""
        self.end = self._find_end()
        """The token that ends a turn without calls."""
        if not self.hides_tools:
            self._check_tools()
        self.thought = self._find_thought()
        self.start = (
            after_question(self.render(probes.ANSWERED, prompt=False))
            .partition(probes.WORDS)[0]
            .removesuffix(self.empty_thought)
        )
        """Start of an assistant's turn in a conversation, if the template writes another one into its prompt."""
        self.syntax, self.keeps_words = self._find_syntax()
        self.results: Literal["many", "one call", "joined"] = self._find_results()
        """How several results are shown: one per call, several after one call, or joined to one."""
        self._gap, self.end_of_call = self._find_end_of_call()
        self.json_results, self.trims_results = self._find_form_of_results()

    @property
    def thinking(self) -> Literal["free", "open", "closed"]:
        """Return how the prompt treats thoughts: not at all (free), it opens one (open), it holds a closed one (closed)."""
        return "free" if not self.opened else "closed" if self.closing_mark in self.opened else "open"

    @property
    def empty_thought(self) -> str:
        return self.thought.opening + self.thought.closing

    @property
    def opening_mark(self) -> str:
        """The tag that opens a thought."""
        return self.thought.opening.strip()

    @property
    def closing_mark(self) -> str:
        """The tag that closes a thought."""
        closing = self.thought.closing.strip()
        token = self._added.match(closing)
        return token[0] if token else closing

    def render(self, messages: Sequence[Message], tools: Sequence[Schema] = (), *, prompt: bool = True) -> str:
        """Return a conversation as text. Raise TemplateError if the template cannot render it."""
        messages = [self._prepared(message, messages[:at]) for at, message in enumerate(messages)]
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tools=list(tools) or None, add_generation_prompt=prompt, tokenize=False, **self._options
            )
        except Exception as error:  # a template is the user's program and may raise any exception
            raise TemplateError(f"The chat template{self.of_what} failed: {error}") from error
        return str(text)

    def _prepared(self, message: Message, before: Sequence[Message]) -> Message:
        """Return a message with arguments and ids as this template needs them."""
        calls = message.get("tool_calls")
        if message["role"] == "tool":
            place = next((at for at, each in enumerate(reversed(before)) if each["role"] != "tool"), len(before))
            called = [call.get("function", call) for call in before[len(before) - place - 1].get("tool_calls") or ()]
            name = {"name": called[min(place, len(called) - 1)]["name"]} if called else {}
            return {**name, **message, "tool_call_id": _id(place)}
        if not calls:
            return message
        functions = [name_and_arguments(call) for call in calls]
        if self.writes_calls:
            written = "".join(self.syntax.write(ToolCall(**function)) for function in functions)
            rest = {key: value for key, value in message.items() if key != "tool_calls"}
            return {**rest, "content": (message.get("content") or "") + written}
        if self._arguments_as_text:
            functions = [f | {"arguments": json.dumps(f["arguments"], ensure_ascii=False)} for f in functions]
        made = [{"type": "function", "id": _id(at), "function": each} for at, each in enumerate(functions)]
        return {**message, "tool_calls": made}

    # One turn, as the template writes it after the prompt

    def turn(self, message: Message, tools: Sequence[Schema]) -> tuple[str, str]:
        """Return an assistant's turn as the template writes it, and the token that ends it. Raise TemplateError."""
        rest = self._continuation(self.render([probes.USER, message], tools, prompt=False), message, tools)
        if not message.get("tool_calls"):
            words, end, _ = rest.partition(self.end)
            if not end and not self.end_follows:
                raise TemplateError(f"The chat template{self.of_what} does not end a turn with {self.end!r}.")
            return words, self.end
        blocks = find_blocks(rest, self.syntax, tools)
        if not blocks or any(isinstance(call, MalformedCall) for block in blocks for call in block.calls):
            raise TemplateError(
                f"A call of {message['tool_calls'][0]['function']['name']!r} cannot be read in the form in which the chat "
                f"template{self.of_what} writes it. Change its arguments, or remove it."
            )
        return rest[: blocks[-1].end] + self._gap, self.end_of_call

    def _continuation(self, whole: str, message: Message, tools: Sequence[Schema]) -> str:
        """Return the text of a conversation after the prompt for its last turn."""
        prompt, written = self._prompt_of_probe(tools), after_question(whole)
        if written.startswith(prompt) and (self.opened or not written.startswith(prompt + self.empty_thought)):
            return written[len(prompt) :]
        before = prompt.removesuffix(self.opened)
        if not written.startswith(before) and written.startswith(self.start):
            before = self.start
        if not written.startswith(before):
            raise TemplateError(
                f"The chat template{self.of_what} writes other text before an assistant's turn than in its prompt: "
                f"{written[:40]!r} instead of {before[:40]!r}. Edit the template."
            )
        rest = written[len(before) :]
        opening, thinks = self.opening_mark, rest.lstrip().startswith(self.opening_mark)
        match self.thinking:
            case "open" if thinks:
                return rest.lstrip().removeprefix(opening).removeprefix(self.opened.removeprefix(opening))
            case "open" if self.closing_mark not in rest:
                return self.thought.closing + rest
            case "closed" if thinks:
                raise TemplateError(
                    f"An assistant message begins with a thought, but the chat template{self.of_what} ends thinking in its "
                    "prompt. Use --chat.thinking, or remove the thoughts."
                )
            case "free" if not message.get(self.thought.field or "reasoning_content"):
                return (
                    rest
                    if (message.get("content") or "").startswith(opening)
                    else rest.removeprefix(self.empty_thought)
                )
            case _:
                return rest

    def _prompt_of_probe(self, tools: Sequence[Schema]) -> str:
        """Return the end of a prompt, which does not depend on the question. The tools may stand in it."""
        key = json.dumps(tools, default=str)
        if self._latest_prompt[0] != key:
            self._latest_prompt = (key, after_question(self.render([probes.USER], tools)))
        return self._latest_prompt[1]

    # Results of tools

    def frame(self, names: Sequence[str]) -> list[str]:
        """Return the texts before, between and after the results of calls of these tools, up to the next turn."""
        key = tuple(names)
        if key not in self._frames:
            tail = self._after_calls(self.render(ending_in_results(key, self.results), [probes.TOOL]))
            _, _, suffix = tail.partition(self.end_of_call)
            self._frames[key] = around_results(suffix, len(key) if self.results != "joined" else 1)
        return self._frames[key]

    def _after_calls(self, rendered: str) -> str:
        """Return the text after the calls of a probe conversation."""
        tail = after_question(rendered)
        before = tail.partition(probes.RESULT.format(0))[0]
        blocks = find_blocks(before, self.syntax, [probes.TOOL])
        if not blocks:
            raise TemplateError(
                f"The chat template{self.of_what} does not write the call before a result. Use a template with tool support."
            )
        return tail[blocks[-1].end :]

    def suffix(self, messages: Sequence[Message]) -> str:
        """Return the text between two assistant turns, for messages that are not only results of tools."""
        rest = self.render([*probes.ANSWERED, *messages]).partition(probes.WORDS)[2]
        end = self._added.search(rest)
        return rest[end.end() :] if end else rest

    # Required features

    def _find_end(self) -> str:
        """Return the token that ends a turn without calls: the eos_token if it is there, else the first added token."""
        _, words, rest = self.render(probes.ANSWERED, prompt=False).partition(probes.WORDS)
        if words and not rest.strip():  # the token of the next role ends the turn
            self.end_follows = True
            rest = self.render([*probes.ANSWERED, probes.USER], prompt=False).partition(probes.WORDS)[2]
        eos = str(self._tokenizer.eos_token)
        token = self._added.search(rest)
        if words and eos in rest:
            return eos
        if not words or token is None or rest[: token.start()].strip():
            raise TemplateError(
                f"The chat template{self.of_what} does not end an assistant turn with the tokenizer's eos_token {eos!r} or "
                f"another token, but with {rest[:20]!r}. Add the token that ends a turn to the tokenizer."
            )
        return token[0]

    def _check_tools(self) -> None:
        shown = self.render([probes.USER], [probes.TOOL])
        if probes.NAME not in shown or probes.PARAMETER not in shown:
            raise TemplateError(
                f"The chat template{self.of_what} does not show the tools: their names and parameters are not in the prompt. "
                "Type --chat.template hermes for a template with tools, and teach it with `sod sft`. If the model learns the "
                f"tools from demonstrations only, add {HIDES_TOOLS} to the template."
            )

    def _find_syntax(self) -> tuple[Syntax, bool]:
        """Return the syntax that reads a call as the template writes it, and whether the text before a call is kept."""
        refusal: TemplateError | None = None
        written = ""
        for self._arguments_as_text in (False, True):  # some templates insert arguments unchanged
            try:
                written = after_question(self.render([probes.USER, probes.CALL], [probes.TOOL], prompt=False))
            except TemplateError as error:
                refusal = refusal or error
                continue
            for syntax in SYNTAXES:
                if parse_calls(written, syntax, [probes.TOOL]) == [probes.CALLED]:
                    return syntax, probes.WORDS in written[: find_blocks(written, syntax, [probes.TOOL])[0].start]
        if refusal is not None and not written:
            raise TemplateError(f"{refusal} It does not support tool calls. {SERVING}") from refusal
        self._arguments_as_text = False
        if probes.NAME not in written and (syntax := self._find_tags()):
            self.writes_calls = True
            return syntax, True
        raise TemplateError(f"The chat template{self.of_what} {_form_of(written)}. {SERVING}")

    def _find_tags(self) -> Syntax | None:
        """Return the syntax of a template that leaves out calls: its tags are in the prompt, or tokens of the model."""
        shown = "" if self.hides_tools else self.render([probes.USER], [probes.TOOL])
        added = {str(token.content) for token in self._tokenizer.added_tokens_decoder.values()}
        for syntax in SYNTAXES:
            tags = [tag for tag in (getattr(syntax, "open", ""), getattr(syntax, "close", "")) if tag]
            if tags and (
                all(tag in shown for tag in tags) or all(tag in added and tag.startswith("<|") for tag in tags)
            ):
                return syntax
        return None

    def _find_results(self) -> Literal["many", "one call", "joined"]:
        """Return how several results are shown. A template with one call per turn is probed with one call and 2 or 1 results."""
        refusal: TemplateError | None = None
        kinds: tuple[Literal["many", "one call", "joined"], ...] = ("many", "one call", "joined")
        for kind in kinds:
            count = 1 if kind == "joined" else 2
            try:
                rendered = self.render(ending_in_results((probes.NAME,) * count, kind), [probes.TOOL])
            except TemplateError as error:
                refusal = refusal or error
                continue
            calls = find_blocks(
                after_question(rendered).partition(probes.RESULT.format(0))[0], self.syntax, [probes.TOOL]
            )
            written = sum(len(block.calls) for block in calls)
            if all(probes.RESULT.format(at) in rendered for at in range(count)) and (
                kind != "many" or written == count
            ):
                return kind
        if refusal is not None:
            raise TemplateError(f"{refusal} It does not support tool results (messages with role tool). {SERVING}")
        raise TemplateError(
            f"The chat template{self.of_what} does not render tool results "
            '(messages with role "tool"). Use a template with tool support.'
        )

    def _find_end_of_call(self) -> tuple[str, str]:
        """Return the white space after a turn's calls, and the token that ends the turn."""
        tail = self._after_calls(self.render(ending_in_results((probes.NAME,), self.results), [probes.TOOL]))
        end = self._added.search(tail)
        if end is None or end.start() > tail.find(probes.RESULT.format(0)) or tail[: end.start()].strip():
            raise TemplateError(
                f"The chat template{self.of_what} does not end a turn with a call by a token, but with {tail[:20]!r}. Add the "
                "token that ends a turn to the tokenizer."
            )
        return tail[: end.start()], end[0]

    def _find_form_of_results(self) -> tuple[bool, bool]:
        """Return whether results are shown as JSON text, and whether without white space at both ends."""
        messages = ending_in_results((probes.NAME,), self.results)
        messages[-1]["content"] = probes.QUOTED
        shown = self.render(messages, [probes.TOOL])
        for is_json, trimmed in ((False, False), (True, False), (False, True), (True, True)):
            text = probes.QUOTED.strip() if trimmed else probes.QUOTED
            if (json.dumps(text)[1:-1] if is_json else text) in shown:
                return is_json, trimmed
        raise TemplateError(
            f"The chat template{self.of_what} does not render tool results as they are. Use a template with tool support."
        )

    # Optional features

    def _fails(self, messages: Sequence[Message]) -> bool:
        try:
            self.render(messages, [probes.TOOL], prompt=False)
        except TemplateError:
            return True
        return False

    def _find_thought(self) -> Thought:
        """Return the text around thoughts. Use Qwen3's format if the template reads no field of thoughts."""
        thought = "PROBE-THOUGHT"
        start = after_question(self.render([probes.USER])).removesuffix(self.opened)
        for field in FIELDS:
            message = {"role": "assistant", "content": probes.WORDS, field: thought}
            try:
                written = after_question(self.render([probes.USER, message], prompt=False))
            except TemplateError:
                continue
            opening, found, rest = written.removeprefix(start).partition(thought)
            closing, words, _ = rest.partition(probes.WORDS)
            if found and words and opening.strip() and closing.strip():
                return Thought(
                    opening, closing, field, alone=self._fails([probes.USER, {**probes.CALL, field: thought}])
                )
        return Thought()


def _check_attributes(tokenizer: PreTrainedTokenizerBase, of_what: str) -> None:
    """Raise TemplateError unless the tokenizer has a template and an eos_token."""
    if not tokenizer.chat_template:
        raise TemplateError(
            f"The tokenizer{of_what} has no chat template. Type --chat.template hermes, or --chat.template FILE.jinja "
            "with a template of your own."
        )
    if not isinstance(tokenizer.eos_token_id, int) or not isinstance(tokenizer.eos_token, str):
        raise TemplateError(
            f"The tokenizer{of_what} has no eos_token, which must end a turn. Set `eos_token` in its tokenizer_config.json."
        )


def _form_of(written: str) -> str:
    """Describe in words how a template writes a call."""
    if probes.NAME not in written:
        return "leaves out the calls of assistant messages"
    at = written.find(probes.WORDS)
    form = (
        written[at + len(probes.WORDS) if at >= 0 else 0 :]
        .strip()
        .replace(probes.NAME, "NAME")
        .replace(probes.PARAMETER, "KEY")
    )
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


def _id(place: int) -> str:
    """Return the id of a message's call by its place. Mistral's templates need 9 letters or digits."""
    return f"call{place:05d}"
