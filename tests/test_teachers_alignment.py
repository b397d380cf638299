"""Tokens of two tokenizers over one text: which tokens spell the same bytes, and what has no counterpart."""

import random
from collections.abc import Sequence

import pytest
from other_tokenizers import byte_level, sentence_piece, word_piece
from transformers import PreTrainedTokenizerBase

from sod.errors import ModelError
from sod.teachers.alignment import Match, Span, align, common_parts
from sod.teachers.token_bytes import TokenBytes

TEXTS = [
    "So the answer is 42.",
    "  two spaces, a tab\tand a line\n\n\nend  ",
    "Was für Schafe gilt, gilt für Ziegen. 证毕。🐑👨‍👩‍👧",
    '<tool_call>\n{"name": "x"}\n</tool_call>',
    "e\u0301 is two characters, \u00e9 is one",
    " ",
    "",
]


def whole(size: int) -> list[Match]:
    return [Match(range(size), range(size))] if size else []


def cut(text: bytes, random: random.Random) -> list[bytes]:
    """Cut a text at random places, also within characters."""
    places = sorted(random.sample(range(1, len(text)), random.randint(0, len(text) - 1)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def sizes(tokens: Sequence[bytes]) -> list[int]:
    return [len(token) for token in tokens]


def spelt(tokens: Sequence[bytes], indices: range) -> bytes:
    return b"".join(tokens[i] for i in indices)


@pytest.mark.parametrize("seed", range(40))
def test_every_byte_belongs_to_exactly_one_span_and_no_span_can_be_cut(seed: int) -> None:
    generator = random.Random(seed)
    text = "".join(generator.choice("ab ñ证🐑\n") for _ in range(generator.randint(1, 30))).encode()
    ours, theirs = cut(text, generator), cut(text, generator)
    spans = align(sizes(ours), sizes(theirs), whole(len(text)))
    assert [i for span in spans for i in span.ours] == list(range(len(ours)))
    assert [i for span in spans for i in span.theirs] == list(range(len(theirs)))
    for span in spans:
        assert spelt(ours, span.ours) == spelt(theirs, span.theirs) != b""
        starts = [len(spelt(ours, range(span.ours.start, i))) for i in span.ours[1:]]
        others = [len(spelt(theirs, range(span.theirs.start, i))) for i in span.theirs[1:]]
        assert not set(starts) & set(others)


@pytest.mark.parametrize("seed", range(10))
def test_equal_tokens_are_spans_of_one_token(seed: int) -> None:
    generator = random.Random(seed)
    tokens = cut("".join(generator.choice("ab ñ") for _ in range(20)).encode(), generator)
    expected = [Span(range(i, i + 1), range(i, i + 1)) for i in range(len(tokens))]
    assert align(sizes(tokens), sizes(tokens), whole(sum(sizes(tokens)))) == expected


@pytest.mark.parametrize("seed", range(30))
def test_tokens_that_touch_text_without_a_counterpart_belong_to_no_span(seed: int) -> None:
    generator = random.Random(seed)
    parts = ["".join(generator.choice("abñ") for _ in range(generator.randint(1, 6))).encode() for _ in range(7)]
    ours = cut(b"".join(parts[0:1] + parts[2:3] + parts[3:4]), generator)
    theirs = cut(b"".join(parts[4:6] + parts[0:1] + parts[6:7] + parts[3:4]), generator)
    lengths = [len(part) for part in parts]
    shift = lengths[4] + lengths[5]
    first = Match(range(lengths[0]), range(shift, shift + lengths[0]))
    one, other = lengths[0] + lengths[2], shift + lengths[0] + lengths[6]
    second = Match(range(one, one + lengths[3]), range(other, other + lengths[3]))
    spans = align(sizes(ours), sizes(theirs), [first, second])
    for span in spans:
        text = spelt(ours, span.ours)
        assert text == spelt(theirs, span.theirs)
        start = len(spelt(ours, range(span.ours.start)))
        assert any(start in match.ours and start + len(text) - 1 in match.ours for match in (first, second))


def test_one_character_in_two_forms_is_inside_a_span_or_a_span_of_its_own() -> None:
    escaped, plain = [b"a", b"\\n", b"b"], [b"a\n", b"b"]
    matches = [Match(range(1), range(1)), Match(range(1, 3), range(1, 2)), Match(range(3, 4), range(2, 3))]
    assert align(sizes(escaped), sizes(plain), matches) == [
        Span(range(2), range(1)),
        Span(range(2, 3), range(1, 2)),
    ]
    within_the_escape = align([1, 1, 2], [1, 1, 1], matches)
    assert within_the_escape == [Span(range(1), range(1)), Span(range(1, 3), range(1, 3))]


def test_a_token_without_bytes_belongs_to_the_span_that_begins_there() -> None:
    assert align([0, 2, 0, 1], [2, 1], whole(3)) == [Span(range(2), range(1)), Span(range(2, 4), range(1, 2))]


def test_an_empty_text_has_no_span() -> None:
    assert align([], [], []) == []
    assert align([1], [], []) == []


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (b"abc", b"abc", [b"abc"]),
        (b"abXcd", b"abcd", [b"ab", b"cd"]),
        (b"aa", b"aaa", [b"aa"]),
        (b"", b"a", []),
        (b"a<b>c d", b" a<b> c d", [b"a<b>", b"c d"]),
        (b"a b", b"ab", [b"a", b"b"]),
    ],
)
def test_texts_that_differ_in_one_place_or_by_spaces_match_around_them(
    ours: bytes, theirs: bytes, same: list[bytes]
) -> None:
    matches = common_parts(ours, theirs)
    assert [ours[match.ours.start : match.ours.stop] for match in matches] == same
    assert [theirs[match.theirs.start : match.theirs.stop] for match in matches] == same


# Bytes of tokens


@pytest.fixture(scope="module", params=["lab", "byte level", "SentencePiece", "SentencePiece with a space before"])
def kind(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase) -> TokenBytes:
    match request.param:
        case "lab":
            return TokenBytes(tokenizer)
        case "byte level":
            return TokenBytes(byte_level())
        case name:
            return TokenBytes(sentence_piece(dummy_prefix="before" in name))


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_the_tokens_spell_the_text(kind: TokenBytes, text: str) -> None:
    if "<tool_call>" in text and b"".join(kind(kind.encode("<tool_call>a"))) == b"<tool_call> a":
        text = text.removeprefix("<tool_call>")  # a space follows an added token in such a tokenizer
    assert b"".join(kind(kind.encode(text))) == text.encode()
    kind.check(text)


@pytest.mark.parametrize("seed", range(5))
def test_two_real_tokenizations_of_a_text_share_spans(kind: TokenBytes, seed: int) -> None:
    generator = random.Random(seed)
    other = TokenBytes(byte_level(300))
    text = "".join(generator.choice(["print(", "für", "证", "🐑", " ", "\n", "the value", "42"]) for _ in range(12))
    ours, theirs = kind(kind.encode(text)), other(other.encode(text))
    spans = align(sizes(ours), sizes(theirs), whole(len(text.encode())))
    assert b"".join(spelt(ours, span.ours) for span in spans) == text.encode()
    assert b"".join(spelt(theirs, span.theirs) for span in spans) == text.encode()


def test_a_special_token_is_a_symbol_and_an_ordinary_added_token_is_text(kind: TokenBytes) -> None:
    ids = kind.encode("<|im_end|><tool_call>")
    assert next(kind.symbols.get(id) for id in ids) == "<|im_end|>"
    assert b"".join(kind(ids)) == b"\0<tool_call>"


def test_a_tokenizer_that_loses_characters_is_refused_in_words() -> None:
    lossy = TokenBytes(sentence_piece(fallback=False))
    lossy.check("the answer")
    with pytest.raises(ModelError, match=r"do not spell their text.*no byte fallback"):
        lossy.check("🐑")


def test_a_tokenizer_of_another_kind_is_refused_in_words() -> None:
    with pytest.raises(ModelError, match=r"neither byte-level BPE nor SentencePiece.*WordPiece"):
        TokenBytes(word_piece())
