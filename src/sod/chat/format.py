"""Convert messages to tokens and back with one chat template, without encoding any text twice.

The next prompt of a conversation is *the ids so far plus a suffix*: the text between the end of the student's turn and the
start of its next one. The framing of the suffix is derived once from the tokenizer's own chat template, and checked. A
template that rewrites history (removes or inserts thoughts between turns, trims tool results) raises an error that shows the
first token that differs. Cold-start demonstrations and rollouts are rendered by the same three functions (`prompt`, `turn`,
`observation`). Therefore rollouts have exactly the tokens of fine-tuning.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal, Self

from transformers import PreTrainedTokenizerBase

from sod.chat.calls import CALL_CLOSE, CALL_OPEN, THOUGHT_CLOSE, THOUGHT_OPEN, parse_calls
from sod.chat.harmless import Harmless
from sod.chat.supplied import with_template
from sod.chat.templates import PROBE_TOOL, Schema, Template, name_and_arguments, probes
from sod.config import ChatOptions
from sod.errors import TemplateError
from sod.types import Message, Piece

__all__ = ["ChatFormat", "Schema", "parse_calls"]


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
        self._template = Template(tokenizer, template_options or {})
        self._harmless = Harmless(tokenizer)
        self.end_of_turn = int(tokenizer.eos_token_id)  # type: ignore[arg-type]  # Template has checked it
        self._ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
        calls, thoughts = probes(1 if self._template.results.one_call else 2)
        for probe in [calls] if self._template.thinking == "closed" else [calls, thoughts]:
            self.render(probe, [PROBE_TOOL])

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, options: ChatOptions) -> Self:
        """Return the format of a tokenizer under these options. `chat.template` replaces the template in a copy of it."""
        if options.template is not None:
            tokenizer = with_template(tokenizer, options.template)
        template_options = {} if options.thinking is None else {"enable_thinking": options.thinking}
        return cls(tokenizer, on_drift=options.on_drift, template_options=template_options)

    @property
    def shows_tools(self) -> bool:
        """Return whether the prompts show the tools."""
        return not self._template.hides_tools

    # Messages -> tokens

    def prompt(self, messages: Sequence[Message], tools: Sequence[Schema]) -> list[int]:
        """Return the tokens up to the start of the student's turn."""
        return self._encode(self._prompt(messages, tools))

    def turn(self, message: Message) -> list[int]:
        """Return the tokens of an assistant message as if sampled: its thought, its text, its calls, the end of turn."""
        return [*self._encode(self._turn(message)), self.end_of_turn]

    def observation(self, texts: Sequence[str]) -> list[int]:
        """Return the suffix after a student's turn: the tools' results, up to the start of the student's next turn."""
        return self._encode(self._observation(texts))

    def observed(self, tokens: Sequence[int], count: int) -> list[str] | None:
        """Return the result of each of `count` calls: the inverse of `observation`. None if the results are ambiguous."""
        frame = self._template.results
        inner = self._decode(tokens).removeprefix(frame.opening).removesuffix(frame.closing)
        texts = inner.split(frame.between) if count > 1 else [inner]
        return texts if len(texts) == count and self.observation(texts) == list(tokens) else None

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
            texts.append(self._turn(messages[this]) + self._template.end)
            pieces.append(Piece(author, tuple(self.turn(messages[this]))))
            if following is not None:
                texts.append(self._suffix(messages[this + 1 : following]))
                pieces.append(Piece("tool", tuple(self._encode(texts[-1]))))
        if self._on_drift == "error":
            whole = self._template.render(self._for_template(messages[: turns[-1] + 1]), tools, prompt=False)
            self._check([token for piece in pieces for token in piece.tokens], texts, whole)
        return pieces

    # Tokens -> text

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of a student's turn without its end. If the prompt opened a thought, its opening comes first."""
        words = tokens[:-1] if tokens and tokens[-1] in self._ends else tokens
        return (self._template.opened if self._template.thinking == "open" else "") + self._decode(words)

    def response(self, tokens: Sequence[int]) -> str:
        """Return the text after a prompt without special tokens, as the paper's code reads it."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    # Texts

    def _prompt(self, messages: Sequence[Message], tools: Sequence[Schema]) -> str:
        return self._template.render(self._for_template(messages), tools)

    def _turn(self, message: Message) -> str:
        thought = self._template.thought
        content = self._with_thought(message)["content"] or ""
        calls = [
            f"{CALL_OPEN}\n{json.dumps(name_and_arguments(call), ensure_ascii=False)}\n{CALL_CLOSE}"
            for call in message.get("tool_calls") or ()
        ]
        if calls and thought.joined and content.rstrip("\n").endswith(THOUGHT_CLOSE):
            content = content.rstrip("\n") + thought.closing.partition(THOUGHT_CLOSE)[2]
        elif calls and content:
            content += "\n"
        text = self._continued(content) + "\n".join(calls)
        if self._template.end in text:
            raise TemplateError(f"An assistant message holds {self._template.end!r}, which ends a turn. Remove it.")
        return text

    def _continued(self, content: str) -> str:
        """Return the part of the content after the start of a thought that the prompt already contains."""
        opened, thinks = self._template.opened, content.lstrip().startswith(THOUGHT_OPEN)
        match self._template.thinking:
            case "open" if thinks:
                return content.lstrip().removeprefix(THOUGHT_OPEN).removeprefix(opened.removeprefix(THOUGHT_OPEN))
            case "open" if THOUGHT_CLOSE not in content:
                return self._template.thought.closing + content
            case "closed" if content.startswith(opened):
                return content.removeprefix(opened)
            case "closed" if thinks:
                raise TemplateError(
                    f"An assistant message begins with a thought, but the chat template{self._template.of_what} ends thinking "
                    "in its prompt. Use --chat.thinking, or remove the thoughts."
                )
            case _:
                return content

    def _observation(self, texts: Sequence[str]) -> str:
        frame = self._template.results
        return frame.opening + frame.between.join(map(self._harmless, texts)) + frame.closing

    def _suffix(self, messages: Sequence[Message]) -> str:
        """Return the text between two assistant turns, for any messages. Tool results use the frame of the template."""
        if messages and all(message["role"] == "tool" for message in messages):
            return self._observation([message["content"] for message in messages])
        return self._template.suffix(self._for_template(messages))

    def _for_template(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages for the template. Messages other than the assistant's contain no added tokens."""
        made = []
        for message in messages:
            if message["role"] != "assistant":
                harmless = {key: self._harmless(value) for key, value in message.items() if isinstance(value, str)}
                made.append({**message, **harmless})
                continue
            kept = message if self._template.thought.in_a_field else self._with_thought(message)
            calls = [{**call, "function": name_and_arguments(call)} for call in message.get("tool_calls") or ()]
            made.append({**kept, "tool_calls": calls} if calls else kept)
        return made

    def _with_thought(self, message: Message) -> Message:
        """Return the message with its thought in its content."""
        if not (thought := message.get("reasoning_content")):
            return {"content": "", **message}
        frame, rest = (
            self._template.thought,
            {key: value for key, value in message.items() if key != "reasoning_content"},
        )
        content = (message.get("content") or "").lstrip("\n")
        return {**rest, "content": frame.opening + thought.strip("\n") + frame.closing + content}

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
            f"{self.tokenizer.decode(whole[max(0, at - 12) : at])!r}). Set chat.on_drift to 'append' to use the appended tokens "
            "in fine-tuning, rollouts and evaluation, or use a template that never changes earlier turns."
        )

    def _begins(self, appended: list[int], whole: list[int]) -> bool:
        """Return whether the full conversation begins with the appended tokens, and no turn follows."""
        return whole[: len(appended)] == appended and self._template.end not in self._decode(whole[len(appended) :])

    def _bare(self, texts: Sequence[str]) -> list[str]:
        """Return the alternating prompts and turns without empty thoughts at the start of turns."""
        made, template = list(texts), self._template
        rest = "" if template.thinking == "closed" else template.empty_thought.removeprefix(template.opened)
        for at in range(0, len(made), 2):
            if made[at].endswith(template.header + template.opened) and made[at + 1].startswith(rest):
                made[at] = made[at].removesuffix(template.opened)
                made[at + 1] = made[at + 1].removeprefix(rest)
        return made

    def _bare_whole(self, text: str) -> str:
        header = self._template.header
        return text.replace(header + self._template.empty_thought, header) if header else text
