"""Render a trajectory in the chat template and the tokens of a teacher with another tokenizer, and align both.

The teacher reads the same conversation in its own form: its prompt, its tool syntax, its ends of turns, the same results.
A turn of the student is written verbatim where both templates write it alike; if both tokenizers also split texts alike, the
student's own tokens are kept, unusual ones included. Otherwise its thought, its text and its calls
are rendered again, and only the parts with the same meaning are aligned: the thought, the text, names and values of calls.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

from sod.chat.calls import THOUGHT_CLOSE, THOUGHT_OPEN, find_blocks, words_and_calls
from sod.chat.format import ChatFormat, Schema
from sod.chat.harmless import Harmless
from sod.errors import TemplateError
from sod.teachers.alignment import Match, Span, align, common_parts
from sod.teachers.correspondence import bytes_before, corresponding
from sod.teachers.token_bytes import TokenBytes, common_ids
from sod.types import Message, Piece, ToolCall, Trajectory


@dataclass(frozen=True, slots=True)
class TranslatedTurn:
    """A turn of the student in the teacher's tokens."""

    tokens: list[int]
    spans: list[Span]


@dataclass(slots=True)
class Kept:
    """Tokens of a turn as the student split them, which the teacher has, too."""

    ids: list[int] = field(default_factory=list)
    """Of the teacher."""
    sizes: list[int] = field(default_factory=list)
    """Bytes of each."""
    size: int = 0
    """Bytes of all."""


@dataclass(slots=True)
class Draft:
    """The teacher's text of a turn, as parts that are encoded one by one: texts, ids of special tokens, and kept tokens."""

    parts: list[str | int | Kept] = field(default_factory=list)
    matches: list[list[Match]] = field(default_factory=list)
    """Of each part: which bytes of the student's turn correspond to which bytes of the part."""
    is_rendered: bool = False
    """Whether the teacher's template wrote the text, so that its special tokens are meant."""

    def add(self, text: str, ours: range | None = None) -> None:
        """Append a text. `ours`: the bytes of the student that are the same."""
        if not self.parts or not isinstance(self.parts[-1], str):
            self.parts.append("")
            self.matches.append([])
        last = self.parts[-1]
        assert isinstance(last, str)
        at, size = len(last.encode()), len(text.encode())
        self.parts[-1] = last + text
        if ours is not None and size:
            self.matches[-1].append(Match(ours, range(at, at + size)))

    def add_symbol(self, id: int, ours: range) -> None:
        self.parts.append(id)
        self.matches.append([Match(ours, range(0, 1))])

    def keep(self, id: int, size: int, ours: range | None) -> None:
        """Append a token of the teacher with the bytes of the student's token. `ours`: these bytes; None: not aligned."""
        if not self.parts or not isinstance(self.parts[-1], Kept):
            self.parts.append(Kept())
            self.matches.append([])
        last = self.parts[-1]
        assert isinstance(last, Kept)
        if ours is not None:
            self.matches[-1].append(Match(ours, range(last.size, last.size + size)))
        last.ids.append(id)
        last.sizes.append(size)
        last.size += size


class Translator:
    """Renders the trajectories of one chat format in another one. `tools`: the schemas that both prompts show.

    A trajectory with a conversation of its own (from an environment) is read with the tools of that conversation.
    """

    def __init__(self, student: ChatFormat, teacher: ChatFormat, tools: Sequence[Schema]):
        self._student, self._teacher, self._tools = student, teacher, tools
        self._ours, self._theirs = TokenBytes(student.tokenizer), TokenBytes(teacher.tokenizer)
        self._common = common_ids(self._ours, self._theirs)
        """The teacher's id of each token, if both tokenizers split texts alike. A verbatim turn keeps the student's split."""
        self._harmless = Harmless(teacher.tokenizer)
        ends = (student.tokenizer.eos_token_id, student.tokenizer.pad_token_id)
        self._ends = student.ends_of_calls | {id for id in ends if isinstance(id, int)}
        one, other = student.template, teacher.template
        self._same_syntax = student.syntax.name == teacher.syntax.name
        self._same_marks = (one.opening_mark, one.closing_mark) == (other.opening_mark, other.closing_mark)

    def trajectory(self, trajectory: Trajectory, limit: int | None = None) -> tuple[Trajectory, list[Span]]:
        """Return a trajectory in the teacher's tokens, and the spans of both, as positions in the rows of ids.

        `limit`: largest number of the teacher's tokens. The rest is cut off and not aligned.
        """
        own = self._with_tools(trajectory.tools) if trajectory.messages else self
        prompt = self._teacher.prompt(trajectory.messages or trajectory.problem.messages, own._tools)
        pieces = [Piece("prompt", tuple(prompt))]
        spans: list[Span] = []
        ours, theirs = len(trajectory.pieces[0].tokens), len(prompt)
        names: list[str] = []
        for piece in trajectory.pieces[1:]:
            if piece.author == "student":
                turn = own.turn(piece.tokens)
                spans += [Span(_shifted(span.ours, ours), _shifted(span.theirs, theirs)) for span in turn.spans]
                tokens, names = turn.tokens, own._called(piece.tokens)
            elif piece.author == "user":
                text = self._student.replied(piece.tokens)
                tokens = self._teacher.reply(self._student.response(piece.tokens) if text is None else text)
            else:
                tokens = own._observation(piece.tokens, names)
            pieces.append(Piece(piece.author, tuple(tokens)))
            ours, theirs = ours + len(piece.tokens), theirs + len(tokens)
        if limit is not None and theirs > limit:
            pieces, spans = _cut(pieces, limit), [span for span in spans if span.theirs.stop <= limit]
        return replace(trajectory, pieces=tuple(pieces)), spans

    def _with_tools(self, tools: Sequence[Schema]) -> "Translator":
        """Return the same translator for other tools."""
        other = copy(self)
        other._tools = tools
        return other

    def turn(self, tokens: Sequence[int]) -> TranslatedTurn:
        """Return the teacher's tokens of a student's turn, and the spans of both."""
        has_end = bool(tokens) and tokens[-1] in self._ends
        words = tokens[:-1] if has_end else tokens
        lengths = [len(each) for each in self._ours(words)]
        draft, end = self._draft(words)
        made: list[int] = []
        sizes: list[int] = []
        matches: list[Match] = []
        for part, found in zip(draft.parts, draft.matches, strict=True):
            base = sum(sizes)
            if isinstance(part, Kept):
                made += part.ids
                sizes += part.sizes
                matches += [Match(match.ours, _shifted(match.theirs, base)) for match in found]
                continue
            ids, changed = self._encoded(part, is_rendered=draft.is_rendered)
            spelt = self._theirs(ids)
            if changed is not None:  # a special token in a text is as long as its name
                spelt = [self._theirs.symbols.get(id, "").encode() or each for id, each in zip(ids, spelt, strict=True)]
                found = _composed(found, common_parts(changed, b"".join(spelt)))
            made += ids
            sizes += map(len, spelt)
            matches += [Match(match.ours, _shifted(match.theirs, base)) for match in found]
        spans = align(lengths, sizes, matches)
        if has_end:
            spans.append(Span(range(len(words), len(words) + 1), range(len(made), len(made) + 1)))
            made.append(int(self._teacher.tokenizer.convert_tokens_to_ids(end)))  # type: ignore[arg-type]
        return TranslatedTurn(made, spans)

    def _encoded(self, part: str | int, *, is_rendered: bool) -> tuple[list[int], bytes | None]:
        """Return the teacher's tokens of a part and, if they may spell another text, the bytes that they should spell."""
        if isinstance(part, int):
            return [part], None
        ids = self._theirs.encode(part)
        if not is_rendered and any(id in self._theirs.symbols for id in ids):
            ids = self._theirs.encode(self._harmless(part))  # the student's text spells a special token of the teacher
        return ids, part.encode()

    # The student's turn in the teacher's form

    def _draft(self, words: Sequence[int]) -> tuple[Draft, str]:
        """Return the teacher's text of a turn without its end, and the token that ends it."""
        raw, text = b"".join(self._ours(words)), self._student.text(words)
        blocks = find_blocks(text, self._student.syntax, self._tools)
        differs = (blocks and not self._same_syntax) or (THOUGHT_OPEN in text and not self._same_marks)
        if differs and (rendered := self._rendered(raw, text)):
            return rendered
        template = self._teacher.template
        return self._verbatim(words, raw), template.end_of_call if blocks else template.end

    def _rendered(self, raw: bytes, text: str) -> tuple[Draft, str] | None:
        """Render the turn again by the teacher's template. None if its calls are malformed or the template refuses it."""
        before, close, after = text.partition(THOUGHT_CLOSE)
        thought, content = (before.partition(THOUGHT_OPEN)[2], after) if close else ("", text)
        calls: list[ToolCall] = []
        if find_blocks(text, self._student.syntax, self._tools):
            split = words_and_calls(content, self._student.syntax, self._tools)
            if split is None:
                return None
            content, calls = split
        if THOUGHT_OPEN in content:
            return None
        message: Message = {"role": "assistant", "content": content.strip()}
        if thought.strip():
            message["reasoning_content"] = thought.strip()
        if calls:
            functions = [{"name": call.name, "arguments": call.arguments} for call in calls]
            message["tool_calls"] = [{"type": "function", "function": each} for each in functions]
        try:
            written, end = self._teacher.turn_text(message, self._tools)
        except TemplateError:
            return None
        matches = corresponding(raw, written, thought.strip(), content.strip(), calls)
        return Draft([written], [matches], is_rendered=True), end

    def _verbatim(self, words: Sequence[int], raw: bytes) -> Draft:
        """Write the student's own text, in its own tokens if the teacher has them. Calls and tags of thoughts that the teacher
        writes in another way are not aligned.
        """
        draft = Draft()
        start = self._begin(draft, raw)
        hidden = self._foreign(raw)
        at = 0
        for id, spelt in zip(words, self._ours(words), strict=True):
            symbol, own = self._ours.symbols.get(id), range(at, at + len(spelt))
            if symbol is not None and spelt:
                self._add_text(draft, raw, range(start, at), hidden)
                if symbol in self._theirs.ids:
                    draft.add_symbol(self._theirs.ids[symbol], own)
                start = own.stop
            elif id in self._common and start <= at:
                self._add_text(draft, raw, range(start, at), hidden)
                is_foreign = any(each.start < own.stop and own.start < each.stop for each in hidden)
                draft.keep(self._common[id], len(spelt), None if is_foreign else own)
                start = own.stop
            at += len(spelt)
        self._add_text(draft, raw, range(start, at), hidden)
        return draft

    def _begin(self, draft: Draft, raw: bytes) -> int:
        """Write what the teacher's turn has before the student's, if only one of their prompts opens a thought.

        Return how many bytes of the student's turn the teacher's prompt contains.
        """
        one, other = self._student.template, self._teacher.template
        if one.thinking == "open" and other.thinking != "open":
            draft.add(one.opened if self._same_marks else other.thought.opening)
        if one.thinking != "open" and other.thinking == "open":
            for opening in (other.opened.encode(), other.opening_mark.encode()):
                if raw.startswith(opening):
                    return len(opening)
            draft.add(other.thought.closing)
        return 0

    def _foreign(self, raw: bytes) -> list[range]:
        """Return the parts of a turn that the teacher would write in another way, as bytes."""
        text = raw.decode(errors="surrogateescape")
        parts: list[tuple[int, int]] = []
        if not self._same_syntax:
            parts += [(block.start, block.end) for block in find_blocks(text, self._student.syntax, self._tools)]
        if not self._same_marks:
            for mark in (self._student.template.opening_mark, self._student.template.closing_mark):
                parts += [(at, at + len(mark)) for at in _places(text, mark)]
        return [range(bytes_before(text, start), bytes_before(text, end)) for start, end in sorted(parts)]

    def _add_text(self, draft: Draft, raw: bytes, part: range, hidden: Sequence[range]) -> None:
        """Add bytes of the student's turn. Those that are no UTF-8 become U+FFFD, which is not aligned."""
        at = part.start
        while at < part.stop:
            inside = next((each for each in hidden if at in each), None)
            stop = min([part.stop, *(each.start for each in hidden if each.start > at)])
            stop = min(inside.stop, part.stop) if inside else stop
            try:
                text, known = raw[at:stop].decode(), stop
            except UnicodeDecodeError as error:
                known = at + error.start
                text, stop = raw[at:known].decode(), at + error.end
            draft.add(text, None if inside else range(at, known))
            if known < stop:
                draft.add("\N{REPLACEMENT CHARACTER}")
            at = stop

    # Around the turns

    def _called(self, tokens: Sequence[int]) -> list[str]:
        """Return the names of the tools that a turn calls. A malformed call counts as one of the first tool."""
        first = next((tool.get("function", tool)["name"] for tool in self._tools), "tool")
        calls = self._student.calls(tokens, self._tools)
        return [call.name if isinstance(call, ToolCall) else first for call in calls]

    def _observation(self, tokens: Sequence[int], names: Sequence[str]) -> list[int]:
        """Return the results after a turn in the teacher's form."""
        texts = self._student.observed(tokens, max(1, len(names)), names)
        return self._teacher.observation([self._student.response(tokens)] if texts is None else texts, names)


def _composed(first: Sequence[Match], second: Sequence[Match]) -> list[Match]:
    """Return the matches of student and tokens: those of student and text, followed by those of text and tokens."""
    made: list[Match] = []
    for match in first:
        for each in second:
            start, stop = max(match.theirs.start, each.ours.start), min(match.theirs.stop, each.ours.stop)
            shift = each.theirs.start - each.ours.start
            if start >= stop:
                continue
            if len(match.ours) == len(match.theirs):
                back = match.ours.start - match.theirs.start
                made.append(Match(range(start + back, stop + back), range(start + shift, stop + shift)))
            elif (start, stop) == (match.theirs.start, match.theirs.stop):
                made.append(Match(match.ours, range(start + shift, stop + shift)))
    return made


def _places(text: str, mark: str) -> Iterator[int]:
    at = text.find(mark) if mark else -1
    while at >= 0:
        yield at
        at = text.find(mark, at + len(mark))


def _shifted(of: range, by: int) -> range:
    return range(of.start + by, of.stop + by)


def _cut(pieces: Sequence[Piece], limit: int) -> list[Piece]:
    """Return the pieces of the first `limit` tokens."""
    kept: list[Piece] = []
    for piece in pieces:
        kept.append(Piece(piece.author, piece.tokens[:limit]))
        limit -= len(kept[-1].tokens)
    return [piece for piece in kept if piece.tokens]
