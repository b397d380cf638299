"""The student's own model as its teacher: what it is told, where its scores stand, how it follows the student."""

import asyncio
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from judging import REFEREE
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, Qwen3ForCausalLM

from sod.batching import Batch, collate
from sod.chat.format import ChatFormat
from sod.config import ModelOptions, RolloutOptions, ScoreOptions
from sod.engines.scripted import ScriptedEngine
from sod.environments.running import Environments
from sod.errors import DataError, OptionError
from sod.lab.tokenizer import CHAT_TEMPLATE
from sod.model.loading import load_model
from sod.rollout.agent import Agent
from sod.teachers import Scores, TeacherSetup
from sod.teachers.local import LocalTeacher
from sod.teachers.privileged import GT_TEMPLATE, HINT_TEMPLATE, STATE, Context, PrivilegedTeacher
from sod.tools import Toolbox
from sod.types import Group, Observation, Piece, Problem

MakeTeacher = Callable[..., PrivilegedTeacher]
MakeModel = Callable[..., Qwen3ForCausalLM]

CPU = ModelOptions(device="cpu")
ROLLOUT = RolloutOptions(temperature=0.7, max_prompt_tokens=100, max_tokens=200)
SCHEMA = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
SYSTEM = {"role": "system", "content": "Compute."}
HINT = "Zebras help."


def asked(question: str, **fields: Any) -> Problem:
    fields = {"id": question, "answer": "42", "hint": HINT, **fields}
    return Problem(messages=(SYSTEM, {"role": "user", "content": question}), **fields)


@pytest.fixture(scope="session")
def folder(
    random_model: MakeModel, tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A student that heeds every token of its context, with the lab's tokenizer; 512 positions."""
    folder = tmp_path_factory.mktemp("student")
    random_model(vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make_teacher(folder: Path, chat: ChatFormat) -> MakeTeacher:
    def make(context: Context = "hint", **fields: Any) -> PrivilegedTeacher:
        given = {"chat": chat, **fields}
        own = {name: given.pop(name) for name in ("chat", "template", "decay") if name in given}
        given = {"folder": folder, "network": CPU, "score": ScoreOptions(), "rollout": ROLLOUT} | given
        setup = TeacherSetup(**{"tokenizer": chat.tokenizer, "microbatch_tokens": 1000} | given)
        return PrivilegedTeacher(setup, tools=[SCHEMA], context=context, **own)

    return make


@pytest.fixture
def batch(chat: ChatFormat, random_groups: Callable[..., list[Group]]) -> Batch:
    """Six attempts at two problems whose prompts differ in length, of one to four steps each, with three candidates."""
    problems = [asked("1+1?", solution="Count."), asked("What is 1+2+3+4+5+6+7?", answer="28", hint="Pair them.")]
    groups = []
    for problem, group in zip(problems, random_groups(2, 3, vocabulary=400), strict=True):
        prompt = Piece("prompt", tuple(chat.prompt(problem.messages, [SCHEMA])))
        attempts = [replace(t, problem=problem, pieces=(prompt, *t.pieces[1:])) for t in group]
        groups.append(Group(problem, attempts))
    batch = collate(groups)
    candidates_BTJ = torch.randint(400, (*batch.ids_BT.shape, 3), generator=torch.Generator().manual_seed(0)).int()
    return replace(batch, candidates_BTJ=candidates_BTJ * batch.mask_BT[..., None])


def by_hand(folder: Path, chat: ChatFormat, told: Sequence[str], batch: Batch) -> Scores:
    """Transformers' own attention and logits, one sequence at a time; `told` is what each teacher's prompt asks."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    assert batch.candidates_BTJ is not None
    logprobs_BT, entropy_BT = torch.zeros(batch.ids_BT.shape), torch.zeros(batch.ids_BT.shape)
    logprobs_BTJ = torch.zeros(batch.candidates_BTJ.shape)
    for row, (question, trajectory) in enumerate(zip(told, batch.trajectories, strict=True)):
        prompt = chat.prompt([SYSTEM, {"role": "user", "content": question}], [SCHEMA])
        ids = torch.tensor([prompt + trajectory.response])
        with torch.no_grad():
            logprobs_TV = (model(ids, use_cache=False).logits[0] / 0.7).log_softmax(-1)
        shift = len(prompt) - len(trajectory.pieces[0].tokens)
        for t, sampled in enumerate(trajectory.mask):
            if sampled:
                before_V = logprobs_TV[t + shift - 1]
                logprobs_BT[row, t] = before_V[trajectory.ids[t]]
                entropy_BT[row, t] = -(before_V.exp() * before_V).sum()
                logprobs_BTJ[row, t] = before_V[batch.candidates_BTJ[row, t]]
    return Scores(logprobs_BT, entropy_BT, logprobs_BTJ)


def assert_close(found: Scores, expected: Scores, atol: float = 1e-5) -> None:
    for one_BT, other_BT in zip(found, expected, strict=True):
        torch.testing.assert_close(one_BT, other_BT, atol=atol, rtol=0)


# Scores


def test_scores_are_those_of_the_privileged_prompt_and_the_students_own_tokens(
    make_teacher: MakeTeacher, folder: Path, chat: ChatFormat, batch: Batch
) -> None:
    told = ["1+1? (Zebras help.)"] * 3 + ["What is 1+2+3+4+5+6+7? (Pair them.)"] * 3
    found = make_teacher(template="{question} ({context})").score_now(batch)
    assert int(batch.steps_BT.max()) > 2
    assert len(set(batch.lengths_B.tolist())) > 3
    assert_close(found, by_hand(folder, chat, told, batch))
    assert not found.logprobs_BT[~batch.mask_BT].any()
    assert found.entropy_BT is not None
    assert not found.entropy_BT[~batch.mask_BT].any()


def test_what_the_teacher_is_told_changes_what_it_thinks_of_every_token(
    make_teacher: MakeTeacher, folder: Path, chat: ChatFormat, batch: Batch
) -> None:
    told_BT = make_teacher().score_now(batch).logprobs_BT
    plain_BT = by_hand(folder, chat, ["1+1?"] * 3 + ["What is 1+2+3+4+5+6+7?"] * 3, batch).logprobs_BT
    assert ((told_BT - plain_BT).abs()[batch.mask_BT] > 1e-4).all()


@pytest.mark.parametrize("microbatch_tokens", [1, 150, 1000])
def test_a_teacher_that_reads_the_students_prompt_scores_as_any_other_does(
    make_teacher: MakeTeacher, folder: Path, chat: ChatFormat, batch: Batch, microbatch_tokens: int
) -> None:
    split = {"1+1?": ("1+", "1?"), "What is 1+2+3+4+5+6+7?": ("What is ", "1+2+3+4+5+6+7?")}
    halves = [split[t.problem.id] for t in batch.trajectories]
    trajectories = [
        replace(t, problem=asked(question, hint=hint))
        for t, (question, hint) in zip(batch.trajectories, halves, strict=True)
    ]
    setup = TeacherSetup(
        folder=folder,
        tokenizer=chat.tokenizer,
        network=CPU,
        score=ScoreOptions(),
        rollout=ROLLOUT,
        microbatch_tokens=microbatch_tokens,
    )
    plain = LocalTeacher(setup).score_now(batch)
    told = make_teacher(template="{question}{context}", microbatch_tokens=microbatch_tokens)
    assert_close(told.score_now(replace(batch, trajectories=trajectories)), plain, atol=1e-6)


def test_rows_cut_from_a_batch_are_scored_at_their_places(make_teacher: MakeTeacher, batch: Batch) -> None:
    teacher = make_teacher()
    part = batch.rows(torch.tensor([4, 1]))
    whole_BT, part_BT = teacher.score_now(batch).logprobs_BT, teacher.score_now(part).logprobs_BT
    torch.testing.assert_close(part_BT, whole_BT[[4, 1], : part_BT.shape[1]], atol=1e-5, rtol=0)


def test_without_candidates_the_sampled_tokens_score_the_same(make_teacher: MakeTeacher, batch: Batch) -> None:
    teacher = make_teacher()
    sampled, all_of_them = teacher.score_now(replace(batch, candidates_BTJ=None)), teacher.score_now(batch)
    assert sampled.candidates_BTJ is None
    assert_close(Scores(*sampled[:2]), Scores(*all_of_them[:2]))


def test_a_batch_without_a_trajectory_has_no_scores(make_teacher: MakeTeacher) -> None:
    empty = collate([Group(asked("1+1?"))])
    scores = make_teacher().score_now(empty)
    assert scores.entropy_BT is not None
    assert scores.logprobs_BT.shape == scores.entropy_BT.shape == empty.ids_BT.shape


def test_weights_in_bfloat16_score_nearly_alike(make_teacher: MakeTeacher, batch: Batch) -> None:
    rounded = make_teacher(score=ScoreOptions(teacher_dtype="bfloat16"), decay=0.5)
    gap_N = (rounded.score_now(batch).logprobs_BT - make_teacher().score_now(batch).logprobs_BT).abs()[batch.mask_BT]
    assert 1e-4 < gap_N.mean() < 0.2


def test_waiting_for_the_scores_gives_the_same_ones(make_teacher: MakeTeacher, batch: Batch) -> None:
    teacher = make_teacher()
    now, waited = teacher.score_now(batch), asyncio.run(teacher.score(batch))
    for one, other in zip(now, waited, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


# What the student sees


def test_scoring_leaves_the_students_batch_as_it_is(make_teacher: MakeTeacher, batch: Batch) -> None:
    trajectories, before = list(batch.trajectories), deepcopy(batch)
    make_teacher().score_now(batch)
    assert all(one is other for one, other in zip(batch.trajectories, trajectories, strict=True))
    assert batch.trajectories == before.trajectories
    for name in ("ids_BT", "mask_BT", "steps_BT", "lengths_B", "candidates_BTJ"):
        assert torch.equal(getattr(batch, name), getattr(before, name))


class Adder:
    schema = SCHEMA

    async def __call__(self, arguments: object) -> Observation:
        return Observation(text="2", outcome="ok")


@pytest.mark.parametrize("context", ["gt", "hint"])
def test_the_student_reads_nothing_of_what_its_teacher_is_told(
    make_teacher: MakeTeacher, chat: ChatFormat, context: Context
) -> None:
    turns = iter([f"<tool_call>\n{json.dumps({'name': 'add', 'arguments': {}})}\n</tool_call>", "so \\boxed{2}"] * 2)
    engine = ScriptedEngine(lambda _: chat.turn({"content": next(turns)}))
    agent = Agent(engine, chat, Environments(Toolbox([Adder()])), REFEREE, ROLLOUT)
    told = asked("1+1?", answer="2", solution="Zebras count.")
    attempts = [asyncio.run(agent.attempt(problem, 0, 0)) for problem in (told, replace(told, hint="", solution=""))]
    assert len(attempts[0].turns) == 2
    assert attempts[0].ids == attempts[1].ids
    make_teacher(context).score_now(collate([Group(told, attempts[:1])]))
    assert "Zebras" not in chat.text(attempts[0].ids)
    assert "Zebras" in chat.text(make_teacher(context).prompt(told))


# What the teacher reads


@pytest.mark.parametrize(
    ("context", "fields", "told"),
    [
        ("hint", {}, HINT_TEMPLATE.format(question="6*7?", context=HINT)),
        ("gt", {}, GT_TEMPLATE.format(question="6*7?", context="42")),
        ("gt", {"solution": "Multiply."}, GT_TEMPLATE.format(question="6*7?", context="42\n\nMultiply.")),
        (
            "gt",
            {"kind": "code", "answer": "[tests]", "solution": "f()"},
            GT_TEMPLATE.format(question="6*7?", context="f()"),
        ),
    ],
    ids=["hint", "answer", "answer and solution", "code"],
)
def test_the_last_user_message_is_rewritten_by_the_template(
    make_teacher: MakeTeacher, chat: ChatFormat, context: Context, fields: dict[str, str], told: str
) -> None:
    rendered = chat.prompt([SYSTEM, {"role": "user", "content": told}], [SCHEMA])
    assert make_teacher(context).prompt(asked("6*7?", **fields)) == rendered


def test_the_files_of_a_problem_stand_in_the_teachers_prompt_as_in_the_students(
    make_teacher: MakeTeacher, chat: ChatFormat, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("1\n")
    problem = asked("6*7?", files={"t.csv": str(tmp_path / "t.csv")})
    assert "t.csv (2 bytes)" in chat.text(make_teacher().prompt(problem))


def test_an_unrelated_teacher_is_told_the_next_other_answer_of_the_file(
    make_teacher: MakeTeacher, chat: ChatFormat
) -> None:
    problems = [asked("1+1?", answer="2"), asked("2+0?", answer="2"), asked("6*7?"), asked("1+2?", answer="3")]
    teacher = make_teacher("unrelated")
    teacher.check(problems)
    for problem, answer in zip(problems, ("42", "42", "3", "2"), strict=True):
        told = GT_TEMPLATE.format(question=problem.id, context=answer)
        assert teacher.prompt(problem) == chat.prompt([SYSTEM, {"role": "user", "content": told}], [SCHEMA])
    with pytest.raises(DataError, match="All problems have the answer '2'"):
        teacher.check(problems[:2])


def test_earlier_messages_stay_as_they_are(make_teacher: MakeTeacher, chat: ChatFormat) -> None:
    before = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello!"}]
    problem = replace(asked("?"), messages=(*before, {"role": "user", "content": "1+1?"}))
    rendered = chat.prompt([*before, {"role": "user", "content": "1+1? Zebras help."}], [SCHEMA])
    assert make_teacher(template="{question} {context}").prompt(problem) == rendered
    assert problem.messages[-1]["content"] == "1+1?"


def test_the_teacher_is_shown_the_tools_that_the_student_has(
    make_teacher: MakeTeacher, tokenizer: PreTrainedTokenizerBase
) -> None:
    showing = deepcopy(tokenizer)
    showing.chat_template = "{%- if tools -%}{{ tools | tojson }}{%- endif -%}" + CHAT_TEMPLATE
    chat = ChatFormat(showing)
    told = chat.prompt([SYSTEM, {"role": "user", "content": f"1+1? {HINT}"}], [SCHEMA])
    assert '"add"' in chat.text(told)
    assert make_teacher(chat=chat, template="{question} {context}").prompt(asked("1+1?")) == told


def test_braces_of_latex_and_placeholders_in_a_question_are_text(make_teacher: MakeTeacher, chat: ChatFormat) -> None:
    teacher = make_teacher(template="{question} {context} \\boxed{}")
    told = "\\frac{1}{2} {context} \\g<1> {question} \\boxed{}"
    rendered = chat.prompt([SYSTEM, {"role": "user", "content": told}], [SCHEMA])
    assert teacher.prompt(asked("\\frac{1}{2} {context}", hint="\\g<1> {question}")) == rendered


# What is wrong


@pytest.mark.parametrize(
    ("template", "missing"), [("{context}", "question"), ("{question} {hint}", "context"), ("", "question")]
)
def test_a_template_must_have_both_places(make_teacher: MakeTeacher, template: str, missing: str) -> None:
    with pytest.raises(OptionError, match=rf"template has no {{{missing}}}"):
        make_teacher(template=template)


@pytest.mark.parametrize(
    ("context", "fields", "column"),
    [("hint", {"hint": " "}, "hint"), ("gt", {"kind": "code"}, "solution")],
    ids=["hint", "code"],
)
def test_a_problem_with_nothing_to_tell_is_named(
    make_teacher: MakeTeacher, context: Context, fields: dict[str, str], column: str
) -> None:
    with pytest.raises(DataError, match=rf"Problem '6\*7\?' has no `{column}`"):
        make_teacher(context).check([asked("1+1?", solution="Count."), asked("6*7?", **fields)])


@pytest.mark.parametrize("messages", [(), (SYSTEM,), ({"role": "user", "content": [{"type": "text", "text": "?"}]},)])
def test_a_problem_without_a_users_text_is_named(make_teacher: MakeTeacher, messages: tuple[Any, ...]) -> None:
    with pytest.raises(DataError, match="Problem 'x' has no user message of text"):
        make_teacher().check([replace(asked("x"), messages=messages)])


def test_the_longest_response_must_fit_behind_the_privileged_prompt(make_teacher: MakeTeacher) -> None:
    problems = [asked("1+1?"), asked("1+2?", hint=HINT * 3)]
    longest = max(len(make_teacher().prompt(problem)) for problem in problems)
    fitting = ROLLOUT.model_copy(update={"max_tokens": 512 - longest, "max_prompt_tokens": 1})
    make_teacher(rollout=fitting).check(problems)
    tight = fitting.model_copy(update={"max_tokens": 512 - longest + 1})
    with pytest.raises(DataError, match=rf"1 of 2 prompts .* problem '1\+2\?' has {longest} tokens"):
        make_teacher(rollout=tight).check(problems)


# Weights


def filled(model: Qwen3ForCausalLM, value: float) -> Qwen3ForCausalLM:
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(value)
    return model


@pytest.fixture
def ones(folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    """The folder of a model whose weights are all 1."""
    model = load_model(folder, CPU)
    filled(model, 1.0).save_pretrained(tmp_path / "ones")  # type: ignore[arg-type]
    tokenizer.save_pretrained(tmp_path / "ones")
    return tmp_path / "ones"


def averages(teacher: PrivilegedTeacher, folder: Path) -> list[Tensor]:
    folder.mkdir(exist_ok=True)
    teacher.save(folder)
    return torch.load(folder / STATE, weights_only=True)


def test_an_average_follows_the_student_by_the_formula(
    make_teacher: MakeTeacher, random_model: MakeModel, tokenizer: PreTrainedTokenizerBase, ones: Path, tmp_path: Path
) -> None:
    teacher, student = make_teacher(folder=ones, decay=0.75), random_model(vocabulary=len(tokenizer))
    for value, expected in ((3.0, 1.5), (5.0, 2.375)):
        teacher.follow(filled(student, value))
        assert all((average == expected).all() for average in averages(teacher, tmp_path / "saved"))


def test_an_average_without_memory_is_the_student(
    make_teacher: MakeTeacher, random_model: MakeModel, tokenizer: PreTrainedTokenizerBase, batch: Batch, tmp_path: Path
) -> None:
    student = random_model(7, vocabulary=len(tokenizer))
    student.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    following, itself = make_teacher(decay=0.0), make_teacher(folder=tmp_path)
    following.follow(student)
    assert torch.equal(following.score_now(batch).logprobs_BT, itself.score_now(batch).logprobs_BT)


def test_an_average_of_bfloat16_weights_does_not_round_its_steps_away(
    make_teacher: MakeTeacher, random_model: MakeModel, tokenizer: PreTrainedTokenizerBase, ones: Path, tmp_path: Path
) -> None:
    step = 2**-7  # from 1 to the next number of the type
    student = filled(random_model(vocabulary=len(tokenizer), dtype=torch.bfloat16), 1 + step)
    teacher = make_teacher(folder=ones, network=ModelOptions(device="cpu", dtype="bfloat16"), decay=0.99)
    for _ in range(100):
        teacher.follow(student)
    expected = 1 + step * (1 - 0.99**100)
    for average in averages(teacher, tmp_path / "saved"):
        torch.testing.assert_close(average, torch.full_like(average, expected), atol=1e-5, rtol=0)


def test_a_frozen_teacher_stays_as_it_was_and_writes_nothing(
    make_teacher: MakeTeacher, random_model: MakeModel, tokenizer: PreTrainedTokenizerBase, batch: Batch, tmp_path: Path
) -> None:
    teacher = make_teacher()
    before_BT = teacher.score_now(batch).logprobs_BT
    teacher.follow(random_model(7, vocabulary=len(tokenizer)))
    teacher.save(tmp_path)
    teacher.restore(tmp_path)
    assert torch.equal(teacher.score_now(batch).logprobs_BT, before_BT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_restored_average_goes_on_bit_for_bit(
    make_teacher: MakeTeacher,
    random_model: MakeModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: Batch,
    tmp_path: Path,
    dtype: str,
) -> None:
    network = ModelOptions(device="cpu", dtype=dtype)  # type: ignore[arg-type]
    students = [random_model(seed, vocabulary=len(tokenizer), dtype=getattr(torch, dtype)) for seed in range(1, 5)]
    through, before, after = (make_teacher(network=network, decay=0.9) for _ in range(3))
    for student in students[:2]:
        through.follow(student)
        before.follow(student)
    before.save(tmp_path)
    after.restore(tmp_path)
    assert torch.equal(after.score_now(batch).logprobs_BT, before.score_now(batch).logprobs_BT)
    for student in students[2:]:
        through.follow(student)
        after.follow(student)
    assert torch.equal(after.score_now(batch).logprobs_BT, through.score_now(batch).logprobs_BT)
    both = zip(averages(after, tmp_path / "after"), averages(through, tmp_path / "through"), strict=True)
    assert all(torch.equal(one, other) for one, other in both)


def test_a_teacher_that_follows_leaves_the_student_alone(
    make_teacher: MakeTeacher, random_model: MakeModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    student = random_model(7, vocabulary=len(tokenizer))
    before = deepcopy(student.state_dict())
    make_teacher(decay=0.5).follow(student)
    assert all(torch.equal(weight, before[name]) for name, weight in student.state_dict().items())
