"""A teacher with another tokenizer: what it reads, which of the student's tokens it scores, and what a span's signal is."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import tokenizers
import torch
from other_tokenizers import byte_level, permuted, sentence_piece, swap_rows, swapped, word_piece
from test_teachers_dialects import Other
from tiny_templates import ENDS, TEMPLATES, TOKENS
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, Qwen3ForCausalLM

from sod.batching import CreditedBatch, ScoredBatch, join
from sod.chat.format import ChatFormat
from sod.config import AlgorithmOptions, ChatOptions, ModelOptions, RolloutOptions, ScoreOptions
from sod.core import step_divergence, step_ids, step_weights
from sod.credit.algorithms import give_credit, step_info
from sod.errors import DataError, ModelError, OptionError, TemplateError
from sod.model.loading import load_model
from sod.processes.concurrency import Runner
from sod.processes.distributed import ALONE
from sod.runs import metrics
from sod.scoring import Scorer
from sod.teachers import Teacher, TeacherSetup, translated
from sod.teachers.alignment import Span
from sod.teachers.local import LocalTeacher
from sod.teachers.opening import open_teacher
from sod.teachers.server import ServerTeacher
from sod.teachers.token_bytes import TokenBytes, common_ids
from sod.teachers.translated import TranslatedTeacher
from sod.teachers.translation import TranslatedTurn, Translator
from sod.types import Group, Message, Piece, Problem, Trajectory, Verdict

MakeModel = Callable[..., Qwen3ForCausalLM]
Tokenizer = PreTrainedTokenizerBase
TOOL = {
    "type": "function",
    "function": {"name": "run_it", "parameters": {"type": "object", "properties": {"code": {"type": "string"}}}},
}
CODE = 'x = "ä"\nprint(x + "42")\n'
ROLLOUT = RolloutOptions(temperature=0.7, max_prompt_tokens=100, max_tokens=300)
PROBLEM = Problem(id="p", messages=({"role": "user", "content": "Wie viele Schafe?"},), answer="1")


def calling(code: str = CODE, words: str = "Let us run it.") -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "run_it", "arguments": {"code": code}}}
    return {"role": "assistant", "content": words, "tool_calls": [call]}


def conversation(chat: ChatFormat, *, answer: str = "So it is 42. 证毕。", reward: float = 1.0) -> Trajectory:
    """A call, its result, a call that fails, its result, and an answer, in the tokens that the chat format writes."""
    tokens = [
        ("prompt", chat.prompt(PROBLEM.messages, [TOOL]), ()),
        ("student", chat.turn(calling(), [TOOL]), ()),
        ("tool", chat.observation(["ä42\n"], ["run_it"]), ("ok",)),
        ("student", chat.turn(calling("print(1", "Again."), [TOOL]), ()),
        ("tool", chat.observation(["SyntaxError"], ["run_it"]), ("error",)),
        ("student", chat.turn({"role": "assistant", "content": answer}, [TOOL]), ()),
    ]
    pieces = tuple(Piece(author, tuple(ids), outcomes=outcomes) for author, ids, outcomes in tokens)
    verdict = Verdict(outcome="right" if reward > 0 else "wrong")
    return Trajectory(PROBLEM, 0, pieces, "answered", "", verdict=verdict, reward=reward)


def with_template(tokenizer: Tokenizer, syntax: str, folder: Path) -> ChatFormat:
    """A tokenizer with one of the tiny templates, which write calls in different syntaxes."""
    (folder / f"{syntax}.jinja").write_text(TEMPLATES[syntax])
    return ChatFormat.of(tokenizer, ChatOptions(template=str(folder / f"{syntax}.jinja"), on_drift="append"))


@pytest.fixture
def save(random_model: MakeModel, tmp_path: Path) -> Callable[..., Path]:
    """Write a model with its tokenizer to a folder."""

    def write(tokenizer: Tokenizer, *, seed: int = 0, model: Qwen3ForCausalLM | None = None) -> Path:
        folder = tmp_path / f"model {seed} {len(list(tmp_path.iterdir()))}"
        (model or random_model(seed, vocabulary=len(tokenizer))).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return write


def setup(folder: Path, chat: ChatFormat, **score: object) -> TeacherSetup:
    return TeacherSetup(
        folder=folder,
        tokenizer=chat.tokenizer,
        network=ModelOptions(device="cpu"),
        score=ScoreOptions.model_validate(score),
        rollout=ROLLOUT,
        microbatch_tokens=1000,
        chat=chat,
        tools=[TOOL],
    )


def scored(model: Qwen3ForCausalLM, teacher: Teacher, trajectories: Sequence[Trajectory]) -> ScoredBatch:
    scorer = Scorer(model, teacher, temperature=0.7, microbatch_tokens=1000)
    return scorer.score_now(Group(PROBLEM, list(trajectories)))


def signal(batch: ScoredBatch) -> torch.Tensor:
    student_BT, teacher_BT = batch.pair_BT
    return teacher_BT - student_BT


def text_of(chat: ChatFormat, tokens: Sequence[int], indices: range) -> str:
    return str(chat.tokenizer.decode([tokens[i] for i in indices]))


# The same tokens


def test_a_teacher_of_the_students_family_gives_the_plain_result_through_spans(
    chat: ChatFormat, save: Callable[..., Path], random_model: MakeModel
) -> None:
    student, network = random_model(1, vocabulary=len(chat.tokenizer)), random_model(2, vocabulary=len(chat.tokenizer))
    trajectories = [conversation(chat), conversation(chat, answer="It is 7.", reward=-1.0)]
    plain = LocalTeacher(setup(save(chat.tokenizer, model=network), chat))
    expected = scored(student, plain, trajectories)

    other = swapped(chat.tokenizer)
    swap_rows(network, chat.tokenizer)
    with Runner() as loop, open_teacher(loop, setup(save(other, model=network), chat), ALONE) as teacher:
        assert isinstance(teacher, TranslatedTeacher), "another vocabulary is recognised"
        found = scored(student, teacher, trajectories)

    assert found.span_share_BT is not None
    assert torch.equal(found.span_share_BT, found.mask_BT.float())
    for name in ("student_BT", "teacher_BT", "teacher_entropy_BT"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-6, rtol=0)
    for algorithm in ("sod", "opd", "entropy", "position"):
        options = AlgorithmOptions(name=algorithm)
        (d_BK, _), (expected_d_BK, _) = step_info(found, options), step_info(expected, options)
        torch.testing.assert_close(d_BK, expected_d_BK, atol=1e-6, rtol=0)
        torch.testing.assert_close(step_weights(d_BK), step_weights(expected_d_BK), atol=1e-6, rtol=0)
        credit, plain_credit = give_credit(found, options), give_credit(expected, options)
        torch.testing.assert_close(credit.credit_BT, plain_credit.credit_BT, atol=1e-6, rtol=1e-6)


def test_the_same_vocabulary_is_scored_without_spans(chat: ChatFormat, save: Callable[..., Path]) -> None:
    with Runner() as loop, open_teacher(loop, setup(save(chat.tokenizer), chat), ALONE) as teacher:
        assert type(teacher) is LocalTeacher
        assert teacher.scores_candidates


@pytest.mark.parametrize("seed", range(20))
def test_unusual_tokens_of_a_student_are_kept_if_the_teachers_tokenizer_splits_texts_alike(
    chat: ChatFormat, seed: int
) -> None:
    """Any ordinary tokens in any order, half characters included: encoding their text again would give other tokens."""
    draw, ours = random.Random(seed), chat.tokenizer
    added = set(ours.added_tokens_decoder)
    ordinary = [id for id in range(len(ours)) if id not in added]
    new_id = list(range(len(ours)))
    for id, other in zip(ordinary, draw.sample(ordinary, len(ordinary)), strict=True):
        new_id[id] = other
    teacher = ChatFormat(permuted(ours, new_id))
    end = chat.turn({"role": "assistant", "content": "x"}, [])[-1]
    tokens = [*draw.choices(ordinary, k=60), end]
    turn = Translator(chat, teacher, []).turn(tokens)
    assert turn.tokens == [new_id[id] for id in tokens]
    assert turn.spans == [Span(range(at, at + 1), range(at, at + 1)) for at in range(len(tokens))]
    text = str(ours.decode(tokens[:-1]))
    assert ours.encode(text, add_special_tokens=False) != tokens[:-1]


def test_tokenizers_with_other_merges_have_no_common_split(chat: ChatFormat) -> None:
    """The same names of tokens are not enough: the teacher has never seen texts split in the student's way."""
    changed = json.loads(chat.tokenizer.backend_tokenizer.to_str())  # type: ignore[attr-defined]
    changed["model"]["merges"] = changed["model"]["merges"][::-1]
    other = deepcopy(chat.tokenizer)
    other._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(changed))  # type: ignore[attr-defined]
    ours = TokenBytes(chat.tokenizer)
    assert common_ids(ours, TokenBytes(other)) == {}
    assert len(common_ids(ours, ours)) == len(chat.tokenizer) - len(ours.symbols)


# On a server


@pytest.mark.parametrize(("kind", "top"), [("sglang", 0), ("openai", 0), ("llamacpp", 100_000), ("llamacpp", 5)])
def test_a_served_teacher_with_another_tokenizer_gives_the_signals_of_the_same_teacher_here(
    chat: ChatFormat, save: Callable[..., Path], random_model: MakeModel, kind: str, top: int
) -> None:
    """A span with a token outside the top gets the value of its interval that is nearest to zero."""
    folder, student = save(byte_level(), seed=3), random_model(1, vocabulary=len(chat.tokenizer))
    here = scored(student, TranslatedTeacher(setup(folder, chat)), [conversation(chat)])
    given = replace(here, teacher_BT=None, span_share_BT=None, teacher_entropy_BT=None)
    served = Other(load_model(folder, ModelOptions(device="cpu")), byte_level(), kind)

    async def work() -> ScoredBatch:
        score = {"teacher_url": await served.start(), "teacher_server": kind, "teacher_top": top or 100}
        whole = replace(setup(folder, chat, **score), rollout=ROLLOUT.model_copy(update={"temperature": 1.0}))
        opened = await ServerTeacher.open(whole)
        try:
            opened.check([PROBLEM])
            return await opened.scored(given)
        finally:
            await opened.close()
            served.stop()

    plain = replace(setup(folder, chat), rollout=ROLLOUT.model_copy(update={"temperature": 1.0}))
    expected_BT = signal(TranslatedTeacher(plain).scored_now(given))
    there = asyncio.run(work())
    assert torch.equal(there.span_share_BT, here.span_share_BT)  # type: ignore[arg-type]
    outside_BT = torch.zeros_like(expected_BT).bool() if there.outside_BT is None else there.outside_BT > 0
    assert (top == 5) == bool(outside_BT.any())
    torch.testing.assert_close(signal(there)[~outside_BT], expected_BT[~outside_BT], atol=1e-4, rtol=0)
    assert (signal(there)[outside_BT] <= 0).all()
    assert (signal(there)[outside_BT] >= expected_BT[outside_BT].clamp(max=0) - 1e-4).all()


# Other tokens


@pytest.mark.parametrize("rule", ["equal", "surprise"])
@pytest.mark.parametrize("kind", ["byte level", "SentencePiece"])
def test_the_signal_of_a_span_is_the_difference_of_sums_and_its_tokens_share_it(
    chat: ChatFormat,
    save: Callable[..., Path],
    random_model: MakeModel,
    kind: str,
    rule: Literal["equal", "surprise"],
) -> None:
    tokenizer = byte_level() if kind == "byte level" else sentence_piece()
    folder = save(tokenizer, seed=3)
    teacher = TranslatedTeacher(setup(folder, chat, span_signal=rule))
    trajectory = conversation(chat)
    batch = scored(random_model(1, vocabulary=len(chat.tokenizer)), teacher, [trajectory])

    theirs, spans = Translator(chat, ChatFormat(tokenizer), [TOOL]).trajectory(trajectory)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        logprobs_TV = (model(torch.tensor([theirs.ids])).logits[0].double() / 0.7).log_softmax(-1)
    signal_T, student_T = signal(batch)[0].double(), batch.student_BT[0].double()
    assert any(len(span.ours) > 1 for span in spans)
    assert any(len(span.theirs) > 1 for span in spans)
    for span in spans:
        ours, others = list(span.ours), list(span.theirs)
        difference = sum(logprobs_TV[t - 1, theirs.ids[t]] for t in others) - student_T[ours].sum()
        assert signal_T[ours].sum() == pytest.approx(float(difference), abs=1e-4)
        part = (
            student_T[ours] / student_T[ours].sum() if rule == "surprise" else torch.full((len(ours),), 1 / len(ours))
        )
        torch.testing.assert_close(signal_T[ours], (difference * part).double(), atol=1e-4, rtol=0)
    aligned = {at for span in spans for at in span.ours}
    assert aligned == {at for at, sampled in enumerate(trajectory.mask) if sampled}


def test_both_rules_give_the_same_divergences_and_weights(
    chat: ChatFormat, save: Callable[..., Path], random_model: MakeModel
) -> None:
    folder, student = save(byte_level(), seed=3), random_model(1, vocabulary=len(chat.tokenizer))
    batches = [
        scored(student, TranslatedTeacher(setup(folder, chat, span_signal=rule)), [conversation(chat)])
        for rule in ("equal", "surprise")
    ]
    assert (signal(batches[0]) - signal(batches[1])).abs().max() > 0.1
    d_BKs = [step_info(batch, AlgorithmOptions())[0] for batch in batches]
    torch.testing.assert_close(*d_BKs, atol=1e-5, rtol=0)


def test_the_divergence_of_a_step_is_the_mean_over_its_spans() -> None:
    mask_BT = torch.tensor([[0, 1, 1, 1, 1, 0, 1, 0, 1, 1]]).bool()
    share_BT = torch.tensor([[0, 0.5, 0.5, 1, 0, 0, 0, 0, 1, 1]])
    student_BT = torch.zeros(1, 10)
    teacher_BT = torch.tensor([[0, 1.0, 1.0, -4.0, 0, 0, 0, 0, 3.0, 5.0]])
    d_BK = step_divergence(student_BT, teacher_BT, step_ids(mask_BT), share_BT)
    assert d_BK.tolist() == [[3.0, 3.0, 4.0]], "two spans of 2 and 4 nats; no span; two spans of 3 and 5 nats"


def test_the_first_step_with_a_span_takes_the_place_of_a_first_step_without_one() -> None:
    mask_BT = torch.tensor([[1, 0, 1, 0, 1], [1, 0, 1, 0, 0]]).bool()
    share_BT = torch.tensor([[0, 0, 1, 0, 1], [0, 0, 0, 0, 0.0]])
    teacher_BT = torch.tensor([[0, 0, 2.0, 0, 4.0], [0, 0, 0, 0, 0]])
    d_BK = step_divergence(torch.zeros(2, 5), teacher_BT, step_ids(mask_BT), share_BT)
    assert d_BK.tolist() == [[2.0, 2.0, 4.0], [0.0, 0.0, 0.0]]
    assert step_weights(d_BK)[0].tolist() == pytest.approx([1, 1, 0.5], abs=1e-4)


def test_a_token_without_a_span_keeps_the_credit_of_the_outcome(
    chat: ChatFormat, save: Callable[..., Path], random_model: MakeModel, tmp_path: Path
) -> None:
    (tmp_path / "xml.jinja").write_text(TEMPLATES["xml"])
    tokenizer = byte_level()
    teacher = TranslatedTeacher(setup(save(tokenizer), chat, teacher_template=str(tmp_path / "xml.jinja")))
    student = random_model(1, vocabulary=len(chat.tokenizer))
    batch = scored(student, teacher, [conversation(chat), conversation(chat, answer="7", reward=-1.0)])
    credited = give_credit(batch, AlgorithmOptions(name="opd"))
    assert isinstance(credited, CreditedBatch)
    assert batch.span_share_BT is not None
    masked_BT = batch.mask_BT & (batch.span_share_BT == 0)
    outcome_BT = give_credit(batch, AlgorithmOptions(name="opd", coef=0)).credit_BT
    assert masked_BT.any()
    assert torch.equal(credited.credit_BT[masked_BT], outcome_BT[masked_BT])
    assert (credited.credit_BT != outcome_BT)[batch.span_share_BT > 0].all()
    share = metrics.of_steps(credited, AlgorithmOptions())["teacher/aligned_share"]
    assert share == pytest.approx(float((batch.span_share_BT > 0).sum() / batch.mask_BT.sum()))
    assert 0.5 < share < 1


def test_batches_of_several_groups_keep_their_spans(
    chat: ChatFormat, save: Callable[..., Path], random_model: MakeModel
) -> None:
    teacher = TranslatedTeacher(setup(save(byte_level()), chat))
    student = random_model(1, vocabulary=len(chat.tokenizer))
    one = scored(student, teacher, [conversation(chat)])
    two = scored(student, teacher, [conversation(chat, answer="A longer answer than the other one.")])
    both = join([one, two])
    assert both.span_share_BT is not None
    assert one.span_share_BT is not None
    assert torch.equal(both.span_share_BT[0, : one.span_share_BT.shape[1]], one.span_share_BT[0])


def test_a_group_without_a_trajectory_has_no_scores(
    chat: ChatFormat, save: Callable[..., Path], random_model: MakeModel
) -> None:
    batch = scored(
        random_model(1, vocabulary=len(chat.tokenizer)), TranslatedTeacher(setup(save(byte_level()), chat)), []
    )
    assert batch.teacher_BT is not None
    assert batch.teacher_BT.shape == batch.ids_BT.shape


def test_what_does_not_fit_into_the_teachers_positions_is_not_aligned(chat: ChatFormat) -> None:
    translator = Translator(chat, ChatFormat(byte_level()), [TOOL])
    trajectory = conversation(chat)
    whole, spans = translator.trajectory(trajectory)
    short, fewer = translator.trajectory(trajectory, limit=150)
    assert len(whole.ids) > 150
    assert short.ids == whole.ids[:150]
    assert fewer == [span for span in spans if span.theirs.stop <= 150]
    assert 0 < len(fewer) < len(spans)


# The teacher's form


@pytest.fixture
def pair(tokenizer: Tokenizer, tmp_path: Path) -> Callable[[str, str], tuple[ChatFormat, ChatFormat]]:
    """Chat formats of a student and a teacher, by the syntaxes of their templates."""

    def make(student: str, teacher: str) -> tuple[ChatFormat, ChatFormat]:
        other = byte_level()
        other.add_special_tokens({"additional_special_tokens": list(TOKENS.get(teacher, ()))})  # type: ignore[dict-item]
        other.eos_token = ENDS.get(teacher, other.eos_token)
        return with_template(tokenizer, student, tmp_path), with_template(other, teacher, tmp_path)

    return make


@pytest.mark.parametrize("read", ["xml", "llama", "glm", "mistral", "cohere"])
@pytest.mark.parametrize("written", ["hermes", "xml"])
def test_calls_are_written_as_the_teacher_writes_them_and_their_values_are_aligned(
    pair: Callable[[str, str], tuple[ChatFormat, ChatFormat]], written: str, read: str
) -> None:
    ours, theirs = pair(written, read)
    tokens = ours.turn(calling(), [TOOL])
    turn = Translator(ours, theirs, [TOOL]).turn(tokens)
    assert theirs.calls(turn.tokens, [TOOL]) == ours.calls(tokens, [TOOL])
    assert turn.tokens[-1] in theirs.ends_of_calls
    for span in turn.spans[:-1]:
        one, other = text_of(ours, tokens, span.ours), text_of(theirs, turn.tokens, span.theirs)
        assert unescaped(one) == unescaped(other)
    words = "".join(text_of(ours, tokens, span.ours) for span in turn.spans)
    assert "Let us run it" in words
    assert "print(x + " in words
    if written != read:
        assert "tool_call" not in words
        assert len(turn.spans) < len(tokens)


def test_calls_in_an_environment_are_read_with_the_tools_of_its_conversation(
    pair: Callable[[str, str], tuple[ChatFormat, ChatFormat]],
) -> None:
    """Calls in XML have no types: "5" is a text or a number, as the tool's schema says. The run's own tools have no such tool."""
    ours, theirs = pair("xml", "hermes")
    parameters = {"type": "object", "properties": {"name": {"type": "string"}, "number": {"type": "integer"}}}
    add = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": parameters}}
    call = {"type": "function", "function": {"name": "add", "arguments": {"name": "5", "number": 5}}}
    pieces = (
        Piece("prompt", tuple(ours.prompt(PROBLEM.messages, [add]))),
        Piece("student", tuple(ours.turn({"role": "assistant", "content": "I add.", "tool_calls": [call]}, [add]))),
        Piece("tool", tuple(ours.observation(["10"], ["add"]))),
    )
    trajectory = Trajectory(PROBLEM, 0, pieces, "over", "", messages=PROBLEM.messages, tools=(add,))
    translator = Translator(ours, theirs, [TOOL])
    translated, _ = translator.trajectory(trajectory)
    assert list(translated.pieces[0].tokens) == theirs.prompt(PROBLEM.messages, [add])
    (found,) = theirs.calls(translated.pieces[1].tokens, [add])
    assert (found.name, found.arguments) == ("add", {"name": "5", "number": 5})  # type: ignore[union-attr]
    without = translator.turn(pieces[1].tokens)
    (other,) = theirs.calls(without.tokens, [add])
    assert other.arguments != {"name": "5", "number": 5}, "with the tools of the run the call is another one"  # type: ignore[union-attr]


@pytest.mark.parametrize("student", ["hermes", "xml"])
def test_a_turn_that_both_templates_write_alike_is_aligned_to_the_last_byte(
    pair: Callable[[str, str], tuple[ChatFormat, ChatFormat]], student: str
) -> None:
    ours, theirs = pair(student, student)
    tokens = ours.turn({**calling(), "reasoning_content": "Hm, 你好."}, [TOOL])
    turn = Translator(ours, theirs, [TOOL]).turn(tokens)
    assert [at for span in turn.spans for at in span.ours] == list(range(len(tokens)))
    assert [at for span in turn.spans for at in span.theirs] == list(range(len(turn.tokens)))
    assert turn.spans[-1] == (turn.spans[-1].__class__)(
        range(len(tokens) - 1, len(tokens)), range(len(turn.tokens) - 1, len(turn.tokens))
    )


def test_a_malformed_call_is_shown_to_the_teacher_and_not_aligned(
    pair: Callable[[str, str], tuple[ChatFormat, ChatFormat]],
) -> None:
    ours, theirs = pair("hermes", "xml")
    tokens = ours.tokenizer.encode('I call.\n<tool_call>\n{"name": }\n</tool_call>', add_special_tokens=False)
    turn = Translator(ours, theirs, [TOOL]).turn(tokens)
    assert theirs.text(turn.tokens) == ours.text(tokens)
    assert "".join(text_of(ours, tokens, span.ours) for span in turn.spans).strip() == "I call."


def test_thoughts_are_written_between_the_teachers_marks(
    pair: Callable[[str, str], tuple[ChatFormat, ChatFormat]],
) -> None:
    ours, theirs = pair("hermes", "harmony")
    tokens = ours.turn({"role": "assistant", "content": "It is 4.", "reasoning_content": "Two and two."}, [TOOL])
    turn = Translator(ours, theirs, [TOOL]).turn(tokens)
    words = [text_of(ours, tokens, span.ours) for span in turn.spans]
    assert "Two and two" in "".join(words)
    assert "It is 4." in "".join(words)
    assert theirs.template.opening_mark != ours.template.opening_mark
    assert "think" not in "".join(words)


def unescaped(text: str) -> str:
    return text.replace("\\n", "\n").replace('\\"', '"')


# Unusual turns


def turned(chat: ChatFormat, *tokens: int | str) -> tuple[list[int], TranslatedTurn]:
    ids: list[int] = []
    for each in tokens:
        ids += [each] if isinstance(each, int) else chat.tokenizer.encode(each, add_special_tokens=False)
    return ids, Translator(chat, ChatFormat(byte_level()), [TOOL]).turn(ids)


def test_an_empty_turn_is_its_end(chat: ChatFormat) -> None:
    ids, turn = turned(chat, chat.end_of_turn)
    assert len(turn.spans) == len(turn.tokens) == len(ids) == 1
    assert turned(chat)[1] == TranslatedTurn([], [])


def test_a_turn_without_an_end_has_none_for_the_teacher(chat: ChatFormat) -> None:
    ids, turn = turned(chat, "It was cut")
    assert [at for span in turn.spans for at in span.ours] == list(range(len(ids)))
    assert ChatFormat(byte_level()).end_of_turn not in turn.tokens


def test_half_a_character_is_not_aligned_and_the_rest_is(chat: ChatFormat) -> None:
    half = chat.tokenizer.encode("证", add_special_tokens=False)[:1]
    ids, turn = turned(chat, "So ", *half, " it is", chat.end_of_turn)
    aligned = {at for span in turn.spans for at in span.ours}
    at = next(i for i, id in enumerate(ids) if id == half[0])
    assert at not in aligned
    assert aligned | {at} == set(range(len(ids)))


def test_a_special_token_that_both_have_is_aligned_within_the_text(chat: ChatFormat) -> None:
    start = int(chat.tokenizer.convert_tokens_to_ids("<|im_start|>"))  # type: ignore[arg-type]
    ids, turn = turned(chat, "a ", start, "b", chat.end_of_turn)
    assert [at for span in turn.spans for at in span.ours] == list(range(len(ids)))
    assert int(byte_level().convert_tokens_to_ids("<|im_start|>")) in turn.tokens  # type: ignore[arg-type]


def test_text_that_spells_a_special_token_of_the_teacher_stays_text(chat: ChatFormat) -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|stop|>"]})  # type: ignore[dict-item]
    ids = chat.tokenizer.encode("a <|stop|> b", add_special_tokens=False)
    turn = Translator(chat, ChatFormat(tokenizer), [TOOL]).turn(ids)
    assert int(tokenizer.convert_tokens_to_ids("<|stop|>")) not in turn.tokens  # type: ignore[arg-type]
    assert len([at for span in turn.spans for at in span.ours]) >= len(ids) - 1


# What is wrong


def test_a_teacher_that_loses_characters_is_refused(chat: ChatFormat, save: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="no byte fallback"):
        TranslatedTeacher(setup(save(sentence_piece(fallback=False)), chat))
    with pytest.raises(ModelError, match="neither byte-level BPE nor SentencePiece"):
        TranslatedTeacher(setup(save(word_piece()), chat))


def test_a_teacher_without_a_template_is_refused_with_the_option_that_helps(
    chat: ChatFormat, save: Callable[..., Path]
) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = None
    folder = save(tokenizer)
    with pytest.raises(TemplateError, match=r"has no chat template.*--score\.teacher-template"):
        TranslatedTeacher(setup(folder, chat))
    TranslatedTeacher(setup(folder, chat, teacher_template="hermes"))


def test_a_template_of_the_teacher_that_is_no_file_is_refused_with_its_option(
    chat: ChatFormat, save: Callable[..., Path]
) -> None:
    given = replace(setup(save(byte_level()), chat), score=ScoreOptions(teacher_template="hermess"))
    with pytest.raises(TemplateError, match=r"'hermess' cannot be read .* the option is --score\.teacher-template"):
        TranslatedTeacher(given)


def test_too_few_aligned_tokens_of_the_probe_are_refused(
    chat: ChatFormat, save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xml.jinja").write_text(TEMPLATES["xml"])
    given = setup(save(byte_level()), chat, teacher_template=str(tmp_path / "xml.jinja"))
    assert 0.5 < TranslatedTeacher(given).aligned < 1
    monkeypatch.setattr(translated, "LEAST_ALIGNED", 0.999)
    with pytest.raises(ModelError, match=r"Only \d+% of the tokens of a probe are aligned"):
        TranslatedTeacher(given)


def test_a_prompt_that_fills_the_teachers_positions_is_named(chat: ChatFormat, save: Callable[..., Path]) -> None:
    teacher = TranslatedTeacher(setup(save(byte_level()), chat))
    teacher.check([PROBLEM])
    long = replace(PROBLEM, id="long", messages=({"role": "user", "content": "Schafe 🐑 " * 200},))
    with pytest.raises(DataError, match=r"problem 'long' has \d+ tokens in the teacher's form"):
        teacher.check([PROBLEM, long])


def test_a_sharded_teacher_needs_the_students_tokenizer(chat: ChatFormat, save: Callable[..., Path]) -> None:
    with pytest.raises(OptionError, match=r"score\.shard_teacher needs a teacher with the student's tokenizer"):
        TranslatedTeacher(setup(save(byte_level()), chat, shard_teacher=True))


def test_the_teacher_reads_the_environments_conversation_and_its_replies_as_a_users(
    chat: ChatFormat, tmp_path: Path
) -> None:
    teacher = with_template(byte_level(), "llama", tmp_path)
    said: list[Message] = [{"role": "user", "content": "You are in a kitchen."}]
    turn: Message = {"role": "assistant", "content": "open door"}
    tokens = [
        ("prompt", chat.prompt(said, [])),
        ("student", chat.turn(turn)),
        ("user", chat.reply("It is locked.")),
        ("student", chat.turn(turn)),
    ]
    pieces = tuple(Piece(author, tuple(ids)) for author, ids in tokens)
    attempt = Trajectory(PROBLEM, 0, pieces, "answered", "", messages=tuple(said))
    read, _ = Translator(chat, teacher, [TOOL]).trajectory(attempt)
    assert list(read.pieces[0].tokens) == teacher.prompt(said, [])
    assert list(read.pieces[2].tokens) == teacher.reply("It is locked.")
