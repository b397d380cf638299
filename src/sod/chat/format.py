"""Convert messages to tokens and back with one chat template, without encoding any text twice.

The next prompt of a conversation is *the ids so far plus a suffix*: the text between the end of the student's turn and the
start of its next one. The framing of the suffix is derived once from the tokenizer's own chat template, and checked. A
template that rewrites history (removes or inserts thoughts between turns, trims tool results) raises an error that shows the
first token that differs. Cold-start demonstrations and rollouts are rendered by the same three functions (`prompt`, `turn`,
`observation`). Therefore rollouts have exactly the tokens of fine-tuning.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, Self

from transformers import PreTrainedTokenizerBase

from sod.chat import probes
from sod.chat.calls import THOUGHT_CLOSE, THOUGHT_OPEN, parse_calls, rest_and_calls, without_calls, words_and_calls
from sod.chat.harmless import Harmless
from sod.chat.supplied import with_template
from sod.chat.syntaxes import HERMES
from sod.chat.templates import Template, name_and_arguments
from sod.config import ChatOptions
from sod.errors import TemplateError
from sod.types import MalformedCall, Message, Piece, Schema, ToolCall

__all__ = ["ChatFormat", "parse_calls"]

ENDS_OF_CALLS = ("<|eom_id|>", "<|eom|>", "<|call|>")
"""Tokens that end a turn with calls in some models, beside the token in their template."""


class ChatFormat:
    """The chat template of one tokenizer, made append-only.

    `on_drift` decides what happens if the template renders a full conversation to other tokens than were appended turn by
    turn. "error" (default) raises TemplateError. "append" keeps the appended tokens in fine-tuning, rollouts and evaluation.
    One difference is always accepted and described in `note`: an empty thought that the template writes into some turns but
    not into others, as in Qwen3's.

    `template_options` are passed to the template unchanged, for example {"enable_thinking": False}.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        on_drift: Literal["error", "append"] = "error",
        template_options: dict[str, Any] | None = None,
    ):
        self.tokenizer = tokenizer
        self.note = ""
        """A note for the user about the template, or ""."""
        self._on_drift = on_drift
        self._replies_checked = False
        self._template = template = Template(tokenizer, template_options or {})
        self._harmless = Harmless(tokenizer)
        self.syntax = template.syntax
        """How this template writes calls."""
        added = {str(token.content): id for id, token in tokenizer.added_tokens_decoder.items()}
        self.end_of_turn = self._id(template.end)
        self.ends_of_calls = {self.end_of_turn, self._id(template.end_of_call)}
        """Tokens that end a turn with calls so that the conversation can continue."""
        self.ends_of_calls |= {added[token] for token in ENDS_OF_CALLS if token in added}
        self.ends = (self.end_of_turn, *sorted(self.ends_of_calls - {self.end_of_turn}))
        """Tokens that end a turn, the end of a turn without calls first."""
        others = (tokenizer.eos_token_id, tokenizer.pad_token_id)
        self._ends = self.ends_of_calls | {id for id in others if isinstance(id, int)}
        self._check_turns()
        calls, thoughts = probes.unchanging(2 if template.results == "many" else 1, words=template.keeps_words)
        for probe in [calls] if template.thinking == "closed" else [calls, thoughts]:
            self.render(probe, [probes.TOOL])
        if template.tells_time:
            self.note += (
                f"{' ' * bool(self.note)}The chat template{template.of_what} can write the date into prompts, so prompts differ "
                "between days. Remove it from a copy, --chat.template FILE.jinja, to repeat results."
            )

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, options: ChatOptions) -> Self:
        """Return the format of a tokenizer under these options. `chat.template` replaces the template in a copy of it."""
        if options.template is not None:
            tokenizer = with_template(tokenizer, options.template)
        template_options = {} if options.thinking is None else {"enable_thinking": options.thinking}
        return cls(tokenizer, on_drift=options.on_drift, template_options=template_options)

    def _id(self, token: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(token))  # type: ignore[arg-type]

    def _check_turns(self) -> None:
        """Raise TemplateError unless a rendered call is parsed as the same call, and a turn has one thought."""
        call = self.turn(probes.message_with_calls("", "1"), [probes.TOOL])
        if self.calls(call, [probes.TOOL]) != [ToolCall(name="probe_tool", arguments={"probe_key": "1"})]:
            raise TemplateError(
                f"The chat template{self._template.of_what} writes a call that is not read as the same call after decoding: "
                f"{self.text(call)[:80]!r}. Use --chat.template hermes."
            )
        if self._template.thinking == "closed":
            return
        thought = self.text(self.turn({"role": "assistant", "content": "2", "reasoning_content": "Easy."}))
        if thought.count(THOUGHT_OPEN) != 1 or thought.count(THOUGHT_CLOSE) != 1:
            raise TemplateError(
                f"The chat template{self._template.of_what} does not write a thought once: {thought[:80]!r}. Use "
                "--chat.no-thinking, or edit the template."
            )

    @property
    def shows_tools(self) -> bool:
        """Return whether the prompts show the tools."""
        return not self._template.hides_tools

    @property
    def template(self) -> Template:
        """What the chat template does."""
        return self._template

    # Messages -> tokens

    def prompt(self, messages: Sequence[Message], tools: Sequence[Schema]) -> list[int]:
        """Return the tokens up to the start of the student's turn."""
        return self._encode(self._prompt(messages, tools))

    def turn(self, message: Message, tools: Sequence[Schema] = ()) -> list[int]:
        """Return the tokens of an assistant message as if sampled: its thought, its text, its calls, the end of turn."""
        return self._tokens(*self._turn({**message, "role": "assistant"}, tools))

    def turn_text(self, message: Message, tools: Sequence[Schema]) -> tuple[str, str]:
        """Return the text of an assistant message as the template writes it, and the token that ends the turn."""
        return self._turn({**message, "role": "assistant"}, tools)

    def observation(self, texts: Sequence[str], names: Sequence[str] = ()) -> list[int]:
        """Return the suffix after a student's turn: the tools' results, up to the start of the student's next turn.

        `names`: the tools that were called, for templates that show them.
        """
        return self._encode(self._observation(texts, names))

    def reply(self, text: str) -> list[int]:
        """Return the suffix after a student's turn without calls: a user's message, up to the start of the next turn."""
        return self._encode(self._template.suffix(self._for_template([{"role": "user", "content": text}])))

    def replied(self, tokens: Sequence[int]) -> str | None:
        """Return the text of a user's message: the inverse of `reply`. None if the text is ambiguous."""
        mark = "PROBE-REPLY"
        opening, _, closing = self._template.suffix([{"role": "user", "content": mark}]).partition(mark)
        text = self._decode(tokens).removeprefix(opening).removesuffix(closing)
        return text if self.reply(text) == list(tokens) else None

    def check_replies(self) -> None:
        """Raise TemplateError if the template rewrites earlier turns when a user replies to them. The check runs once."""
        if self._replies_checked:
            return
        spoken = {"role": "assistant", "content": "I open the door."}
        asked = {"role": "user", "content": "What do you do?"}
        told = {"role": "user", "content": "It is locked."}
        thought = {**spoken, "reasoning_content": "Easy."}
        for turn in [spoken] if self._template.thinking == "closed" else [spoken, thought]:
            self.render([asked, turn, told, spoken], ())
        self._replies_checked = True

    def observed(self, tokens: Sequence[int], count: int, names: Sequence[str] = ()) -> list[str] | None:
        """Return the result of each of `count` calls: the inverse of `observation`. None if the results are ambiguous."""
        opening, *betweens, closing = self._frame(count, names)
        inner = self._decode(tokens).removeprefix(opening).removesuffix(closing)
        between = betweens[0] if betweens else "\n"
        texts = inner.split(between) if count > 1 else [inner]
        if self._template.json_results:
            try:
                texts = [str(json.loads(f'"{text}"', strict=False)) for text in texts]
            except ValueError:
                return None
        return texts if len(texts) == count and self.observation(texts, names) == list(tokens) else None

    def render(self, messages: Sequence[Message], tools: Sequence[Schema]) -> list[Piece]:
        """Return the pieces of a conversation, as in a rollout.

        Raise TemplateError if the template renders the full conversation differently, unless `on_drift` is "append".
        """
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns or turns[0] == 0:
            raise TemplateError(
                "A conversation has no assistant message, or begins with one. Add a user's message and its answer."
            )
        texts = [self._prompt(messages[: turns[0]], tools)]
        pieces = [Piece("prompt", tuple(self._encode(texts[0])))]
        for this, following in zip(turns, [*turns[1:], None], strict=True):
            author = "prompt" if messages[this].get("weight", 1) == 0 else "student"
            words, end = self._turn(messages[this], tools)
            texts.append(words + end)
            pieces.append(Piece(author, tuple(self._tokens(words, end))))
            if author == "student":
                self._check_calls(messages[this], pieces[-1].tokens, tools)
            if following is not None:
                texts.append(self._suffix(messages[this], messages[this + 1 : following]))
                pieces.append(Piece("tool", tuple(self._encode(texts[-1]))))
        if self._on_drift == "error":
            whole = self._template.render(self._for_template(messages[: turns[-1] + 1]), tools, prompt=False)
            self._check([token for piece in pieces for token in piece.tokens], texts, whole)
        return pieces

    # Tokens -> text

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of a student's turn without its end, with each thought between <think> and </think>.

        If the prompt opened a thought, its opening comes first.
        """
        words = tokens[:-1] if tokens and tokens[-1] in self._ends else tokens
        text = (self._template.opened if self._template.thinking == "open" else "") + self._decode(words)
        opening, closing = self._template.opening_mark, self._template.closing_mark
        if opening == THOUGHT_OPEN:
            return text
        text = re.sub(
            rf"{re.escape(opening)}(.*?){re.escape(closing)}",
            rf"{THOUGHT_OPEN}\1{THOUGHT_CLOSE}",
            text,
            flags=re.DOTALL,
        )
        return text.replace(opening, THOUGHT_OPEN)

    def calls(self, tokens: Sequence[int], tools: Sequence[Schema]) -> list[ToolCall | MalformedCall]:
        """Return the calls in a student's turn, as this template writes them."""
        return parse_calls(self.text(tokens), self.syntax, tools)

    def final_text(self, tokens: Sequence[int]) -> str:
        """Return the text of a turn without calls in this template's syntax: the text that holds an answer."""
        text = self.text(tokens)
        return text if self.syntax is HERMES else without_calls(text, self.syntax)

    def read(self, tokens: Sequence[int], tools: Sequence[Schema]) -> tuple[str, list[ToolCall | MalformedCall]]:
        """Return the text of a turn without its thoughts and calls, and the calls. Without tools there are no calls."""
        rest, calls = rest_and_calls(self.text(tokens), self.syntax, tools)
        return rest.rpartition(THOUGHT_CLOSE)[2].strip(), calls if tools else []

    def response(self, tokens: Sequence[int]) -> str:
        """Return the text after a prompt without special tokens, as the paper's code reads it."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    # Texts

    def _prompt(self, messages: Sequence[Message], tools: Sequence[Schema]) -> str:
        messages = self._for_template(messages)
        text, at = self._template.render(messages, tools), 0
        for message in messages:
            said = str(message.get("content") or "").strip()
            found = text.find(said, at if message["role"] == "user" else 0)
            if found < 0 and message["role"] in ("system", "user"):
                raise TemplateError(
                    f"The chat template{self._template.of_what} leaves out, changes or moves a {message['role']} message of a "
                    f"prompt: {said[:40]!r}. Edit the template, or give another one with --chat.template."
                )
            at = max(at, found + len(said)) if message["role"] == "user" else at
        return text

    def _turn(self, message: Message, tools: Sequence[Schema]) -> tuple[str, str]:
        """Return the text of a turn as the template writes it, and the token that ends it."""
        (message,) = self._for_template([message])
        template = self._template
        if template.end in str(message):
            raise TemplateError(f"An assistant message holds {template.end!r}, which ends a turn. Remove it.")
        words, end = template.turn(message, tools)
        thought, text = self._parts(message)
        lost = [part for part in (thought, text) if part.strip() not in words]
        if lost and not message.get("tool_calls"):
            raise TemplateError(
                f"The chat template{template.of_what} changes or leaves out a part of an assistant message: "
                f"{lost[0].strip()[:40]!r}. Edit the template."
            )
        if text in lost:  # some templates write a call alone
            words = text.rstrip("\n") + "\n" + words
        if thought in lost:
            words = template.thought.opening + thought.strip("\n") + template.thought.closing + words
        return words, end

    def _parts(self, message: Message) -> tuple[str, str]:
        """Return the thought and the text of a message for the template."""
        content = str(message.get("content") or "")
        before, close, after = content.partition(THOUGHT_CLOSE)
        if close:
            return before.partition(THOUGHT_OPEN)[2], after
        return str(message.get(self._template.thought.field) or ""), content

    def _check_calls(self, message: Message, tokens: Sequence[int], tools: Sequence[Schema]) -> None:
        """Raise TemplateError unless the calls of a message to learn from are read as the same calls."""
        known = {tool.get("function", tool).get("name") for tool in tools}
        calls = [name_and_arguments(call) for call in self._as_calls(message).get("tool_calls") or ()]
        if not calls or not all(call["name"] in known for call in calls):
            return
        read = self.calls(tokens, tools)
        if read != [ToolCall(**call) for call in calls]:
            raise TemplateError(
                f"A call of {calls[0]['name']!r} would be read as another one in the form in which the chat "
                f"template{self._template.of_what} writes it: {self.text(tokens)[-120:]!r}. Change its arguments, or remove it."
            )

    def _frame(self, count: int, names: Sequence[str]) -> list[str]:
        """Return the texts around the results of `count` calls. Missing names are those of the last known call."""
        known = [*names[:count], *[names[-1] if names else "probe_tool"] * (count - len(names))]
        return self._template.frame(known)

    def _observation(self, texts: Sequence[str], names: Sequence[str]) -> str:
        frame = self._frame(len(texts), names)
        texts = [self._harmless(text) for text in texts]
        if self._template.results == "joined":
            texts = ["\n".join(texts)]
        if self._template.trims_results:
            texts = [text.strip() for text in texts]
        if self._template.json_results:
            texts = [json.dumps(text, ensure_ascii=False)[1:-1] for text in texts]
        return frame[0] + "".join(text + after for text, after in zip(texts, frame[1:], strict=True))

    def _suffix(self, turn: Message, messages: Sequence[Message]) -> str:
        """Return the text between two assistant turns, for any messages. Tool results use the frame of the template."""
        if messages and all(message["role"] == "tool" for message in messages):
            names = [call.get("function", call)["name"] for call in self._as_calls(turn).get("tool_calls") or ()]
            return self._observation([message["content"] for message in messages], names)
        return self._template.suffix(self._for_template(messages))

    def _as_calls(self, message: Message) -> Message:
        """Return the message with the calls of its content as `tool_calls`, unless the template writes calls as Hermes does."""
        content = message.get("content") or ""
        if self.syntax is HERMES or message.get("tool_calls") or not message.get("weight", 1):
            return message
        if (found := words_and_calls(content)) is None:
            return message
        words, calls = found
        functions = [{"name": call.name, "arguments": call.arguments} for call in calls]
        made = [{"type": "function", "function": function} for function in functions]
        return {**message, "content": words.removesuffix("\n"), "tool_calls": made}

    def _for_template(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages for the template. Messages other than the assistant's contain no added tokens."""
        made = []
        for message in messages:
            if message["role"] != "assistant":
                harmless = {key: self._harmless(value) for key, value in message.items() if isinstance(value, str)}
                made.append({**message, **harmless})
                continue
            message = self._as_calls(message)
            calls = [{**call, "function": name_and_arguments(call)} for call in message.get("tool_calls") or ()]
            kept = self._with_thought(message)
            made.append({**kept, "tool_calls": calls} if calls else kept)
        return made

    def _with_thought(self, message: Message) -> Message:
        """Return the message with its thought where the template reads it: in a field, or in its content."""
        if not (thought := message.get("reasoning_content")):
            return {"content": "", **message}
        frame = self._template.thought
        rest = {key: value for key, value in message.items() if key != "reasoning_content"}
        content = (message.get("content") or "").lstrip("\n")
        if frame.alone and content and message.get("tool_calls"):
            content, thought = "", thought.strip("\n") + "\n\n" + content
        if frame.field:
            return {**rest, "content": content, frame.field: thought.strip("\n")}
        return {**rest, "content": frame.opening + thought.strip("\n") + frame.closing + content}

    def _tokens(self, words: str, end: str) -> list[int]:
        """Return the tokens of a turn. Its end is one token."""
        return [*self._encode(words), self._id(end)]

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, verbose=False)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))

    # Check that the template keeps history

    def _check(self, appended: list[int], texts: Sequence[str], whole_text: str) -> None:
        """Raise TemplateError if the full conversation has other tokens, except for empty thoughts."""
        if self._begins(appended, whole := self._encode(whole_text)):
            return
        bare = [token for text in self._bare(texts) for token in self._encode(text)]
        if self._begins(bare, self._encode(self._bare_whole(whole_text))):
            self.note = (
                f"The chat template{self._template.of_what} writes an empty thought into some turns but not into others; "
                "sod keeps every turn unchanged."
            )
            return
        at = next(
            (i for i, (a, b) in enumerate(zip(appended, whole, strict=False)) if a != b), min(len(appended), len(whole))
        )
        show = lambda ids: repr(self.tokenizer.decode(ids[at : at + 8]))  # noqa: E731
        raise TemplateError(
            f"The chat template{self._template.of_what} rewrites history: at token {at}, appending turn by turn "
            f"gives {show(appended)}, but rendering the full conversation gives {show(whole)} (after "
            f"{self.tokenizer.decode(whole[max(0, at - 12) : at])!r}). Type --chat.on-drift append to use the appended "
            "tokens in fine-tuning, rollouts and evaluation, or use a template that never changes earlier turns."
        )

    def _begins(self, appended: list[int], whole: list[int]) -> bool:
        """Return whether the full conversation begins with the appended tokens, and no turn follows."""
        if self._template.end_follows and appended[:-1] == whole:
            return True
        return whole[: len(appended)] == appended and self._template.end not in self._decode(whole[len(appended) :])

    def _bare(self, texts: Sequence[str]) -> list[str]:
        """Return the alternating prompts and turns without empty thoughts at the start of turns."""
        made, template = list(texts), self._template
        opening = "" if template.opened else re.escape(template.opening_mark)
        rest = "" if template.thinking == "closed" else rf"\s*{opening}\s*{re.escape(template.closing_mark)}\s*"
        for at in range(0, len(made), 2):
            if made[at].endswith(template.header + template.opened) and (found := re.match(rest, made[at + 1])):
                made[at] = made[at].removesuffix(template.opened)
                made[at + 1] = made[at + 1][found.end() :]
        return made

    def _bare_whole(self, text: str) -> str:
        header, template = self._template.header, self._template
        empty = rf"\s*{re.escape(template.opening_mark)}\s*{re.escape(template.closing_mark)}\s*"
        return re.sub(re.escape(header) + empty, lambda found: header, text) if header else text
