"""Published tokenizers as student and teacher, in the folder SOD_REAL_TOKENIZERS (`make test-real`)."""

import itertools

import pytest
from test_real_tokenizers import pytestmark as needs_tokenizers
from test_real_tokenizers import real
from test_teachers_translated import PROBLEM, TOOL, calling, conversation

from sod.chat.format import ChatFormat
from sod.config import ChatOptions
from sod.teachers.token_bytes import TokenBytes
from sod.teachers.translated import PROBE, PROGRAM
from sod.teachers.translation import Translator

pytestmark = needs_tokenizers
NAMES = ("qwen3", "llama3_1", "gemma3")


@pytest.mark.parametrize("name", NAMES)
def test_the_tokens_of_a_real_tokenizer_spell_their_text(name: str) -> None:
    tokens = TokenBytes(real(name))
    for text in (PROBE, PROGRAM, "  a\t\tb\n\n\n    c", "👨‍👩‍👧 e\u0308", ""):
        if name == "qwen3":  # its normaliser composes characters
            text = text.replace("e\u0308", "")
        tokens.check(text)


@pytest.mark.parametrize(("student", "teacher"), list(itertools.product(NAMES, NAMES)))
def test_two_real_tokenizers_with_one_syntax_are_aligned_to_the_last_token(student: str, teacher: str) -> None:
    ours, theirs = (ChatFormat.of(real(name), ChatOptions(template="hermes")) for name in (student, teacher))
    trajectory = conversation(ours)
    translated, spans = Translator(ours, theirs, [TOOL]).trajectory(trajectory)
    assert [at for span in spans for at in span.ours] == [at for at, mine in enumerate(trajectory.mask) if mine]
    assert [at for span in spans for at in span.theirs] == [at for at, mine in enumerate(translated.mask) if mine]
    assert translated.pieces[0].tokens == tuple(theirs.prompt(PROBLEM.messages, [TOOL]))
    assert theirs.calls(translated.pieces[1].tokens, [TOOL]) == ours.calls(ours.turn(calling(), [TOOL]), [TOOL])
    assert all(len(span.ours) == len(span.theirs) == 1 for span in spans) == (student == teacher)
