"""What both models think of every token: scored by group, in any order, wholly or on a sample, and where the time went."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from sod.batching import Batch, ScoredBatch, collate, join
from sod.config import AlgorithmOptions, ModelOptions, RolloutOptions, ScoreOptions
from sod.model.loading import load_model
from sod.model.scores import score
from sod.processes.concurrency import Runner, compute
from sod.runs import metrics
from sod.runs.peaks import take_peak_mb
from sod.scoring import Scorer
from sod.teachers import Scores, Teacher, TeacherSetup
from sod.teachers.local import LocalTeacher
from sod.types import Group, Piece, Trajectory

MakeModel = Callable[..., Qwen3ForCausalLM]
MakeGroups = Callable[..., list[Group]]


class AnotherModel(Teacher):
    """A teacher that is at hand already."""

    def __init__(self, model: Qwen3ForCausalLM):
        self._model = model

    def take_busy_seconds(self) -> float:
        return 0.25

    async def score(self, batch: Batch) -> Scores:
        logprobs_BT, entropy_BT = score(self._model, batch, 0.7, 1000, entropy=True)
        if batch.candidates_BTJ is None:
            return Scores(logprobs_BT, entropy_BT)
        return Scores(logprobs_BT[..., 0], entropy_BT, logprobs_BT[..., 1:])


def setup(folder: Path, tokenizer: PreTrainedTokenizerBase, **fields: object) -> TeacherSetup:
    return TeacherSetup(
        folder=folder,
        tokenizer=tokenizer,
        network=ModelOptions(device="cpu"),
        score=ScoreOptions.model_validate(fields),
        rollout=RolloutOptions(max_tokens=200, max_prompt_tokens=100),
        microbatch_tokens=500,
    )


@pytest.fixture
def groups(random_groups: MakeGroups) -> list[Group]:
    """Three groups of different sizes; the second has lost all its attempts."""
    groups = random_groups(3, 4)
    groups[1].trajectories.clear()
    groups[2].trajectories.pop()
    return groups


def sampled_with(groups: Sequence[Group], model: Qwen3ForCausalLM, shift: float) -> list[Group]:
    """The groups with a sampler's log-probabilities: the model's own, plus a shift."""

    def heard(trajectory: Trajectory) -> Trajectory:
        batch = collate([Group(trajectory.problem, [trajectory])])
        known = iter(score(model, batch, 0.7, 1000)[0][batch.mask_BT].tolist())
        pieces = [
            replace(piece, logprobs=tuple(next(known) + shift for _ in piece.tokens))
            if piece.author == "student"
            else piece
            for piece in trajectory.pieces
        ]
        return replace(trajectory, pieces=tuple(pieces))

    return [Group(group.problem, [heard(t) for t in group]) for group in groups]


# By group


def test_groups_scored_apart_make_the_batch_of_the_whole(random_model: MakeModel, groups: list[Group]) -> None:
    student, other = random_model(0), random_model(1)
    scorer = Scorer(student, AnotherModel(other), temperature=0.7, microbatch_tokens=1000)
    batch, whole = join([scorer.score_now(group) for group in groups]), collate(groups)
    assert batch.trajectories == whole.trajectories
    for name in ("ids_BT", "mask_BT", "steps_BT", "lengths_B", "rewards_B"):
        assert torch.equal(getattr(batch, name), getattr(whole, name))
    assert batch.groups_B.unique(return_inverse=True)[1].tolist() == [0] * 4 + [1] * 3
    for model, found_BT in ((student, batch.student_BT), (other, batch.teacher_BT)):
        torch.testing.assert_close(found_BT, score(model, whole, 0.7, 1000)[0], atol=1e-5, rtol=1e-5)
    assert batch.recomputed_B is not None
    assert batch.recomputed_B.all()


def test_the_order_in_which_groups_come_changes_no_bit(random_model: MakeModel, random_groups: MakeGroups) -> None:
    groups = random_groups(4, 3)
    scorer = Scorer(random_model(), None, temperature=0.7, microbatch_tokens=30)
    forwards = [scorer.score_now(group) for group in groups]
    backwards = [scorer.score_now(group) for group in reversed(groups)]
    for one, other in zip(forwards, reversed(backwards), strict=True):
        assert torch.equal(one.student_BT, other.student_BT)


def test_what_one_group_does_not_know_the_whole_does_not_know(random_groups: MakeGroups) -> None:
    one, other = (b.scored(torch.zeros(b.ids_BT.shape)) for b in (collate([group]) for group in random_groups(2, 2)))
    assert join([replace(one, teacher_BT=one.student_BT), other]).teacher_BT is None


# The student's own log-probabilities


def test_the_samplers_log_probabilities_are_taken_except_for_the_longest_of_each_group(
    random_model: MakeModel, groups: list[Group]
) -> None:
    model = random_model()
    groups = sampled_with(groups, model, shift=-0.25)
    scorer = Scorer(model, None, temperature=0.7, microbatch_tokens=1000, student_from="sampler")
    batch = join([scorer.score_now(group) for group in groups])
    full_BT, _ = score(model, collate(groups), 0.7, 1000)
    assert batch.recomputed_B is not None
    assert batch.student_BT is not None
    assert batch.recomputed_B.sum() == 2
    for group in (0, 1):
        rows = torch.arange(7) < 4 if group == 0 else torch.arange(7) >= 4
        assert batch.lengths_B[rows & batch.recomputed_B].item() == batch.lengths_B[rows].max()
    shifted_BT = torch.where(batch.recomputed_B[:, None], full_BT, full_BT - 0.25)
    torch.testing.assert_close(batch.student_BT[batch.mask_BT], shifted_BT[batch.mask_BT], atol=1e-5, rtol=1e-5)
    assert not batch.student_BT[~batch.mask_BT].any()


@pytest.mark.parametrize("student_from", ["recompute", "sampler"])
def test_how_far_off_the_sampler_is_is_measured_either_way(
    random_model: MakeModel, groups: list[Group], student_from: str
) -> None:
    model = random_model()
    groups = sampled_with(groups, model, shift=-0.25)
    scorer = Scorer(model, None, temperature=0.7, microbatch_tokens=1000, student_from=student_from)  # type: ignore[arg-type]
    gaps = metrics.of_sampler(join([scorer.score_now(group) for group in groups]))
    assert gaps == pytest.approx({"sampler/gap_mean": 0.25, "sampler/gap_max": 0.25}, abs=1e-4)


def test_the_samplers_log_probabilities_stand_where_its_tokens_do(trajectory: Callable[..., Trajectory]) -> None:
    made = trajectory(("prompt", [1, 2]), ("student", [3, 4]), ("tool", [5]), ("student", [6]))
    pieces = (made.pieces[0], Piece("student", (3, 4), (-1.0, -2.0)), made.pieces[2], Piece("student", (6,), (-3.0,)))
    assert replace(made, pieces=pieces).sampler_logprobs == [0, 0, -1.0, -2.0, 0, -3.0]


# The teacher


@pytest.mark.parametrize("options", [{}, {"offload_teacher": True}, {"teacher_dtype": "bfloat16"}], ids=str)
def test_a_teacher_scores_alike_wherever_its_weights_are_kept_and_nearly_so_in_bfloat16(
    teacher: Path, tokenizer: PreTrainedTokenizerBase, random_groups: MakeGroups, options: dict[str, object]
) -> None:
    batch = collate(random_groups(2, 3, vocabulary=400))

    def scored(**fields: object) -> Tensor:
        return LocalTeacher(setup(teacher, tokenizer, **fields)).score_now(batch)[0]

    plain_BT, found_BT = scored(), scored(**options)
    if "teacher_dtype" in options:
        gap_N = (plain_BT - found_BT).abs()[batch.mask_BT]
        assert 1e-4 < gap_N.mean() < 0.2
    else:
        assert torch.equal(plain_BT, found_BT)


def test_a_teachers_scores_are_the_same_for_those_who_wait_for_them(
    teacher: Path, tokenizer: PreTrainedTokenizerBase, random_groups: MakeGroups
) -> None:
    frozen = LocalTeacher(setup(teacher, tokenizer))
    batch = collate(random_groups(2, 3, vocabulary=400))
    now = frozen.score_now(batch)
    assert frozen.take_busy_seconds() == 0
    with Runner() as loop:
        waited = loop.run(frozen.score(batch))
    assert torch.equal(waited.logprobs_BT, now.logprobs_BT)
    assert waited.entropy_BT is not None
    assert now.entropy_BT is not None
    assert torch.equal(waited.entropy_BT, now.entropy_BT)
    assert frozen.take_busy_seconds() > 0
    assert frozen.take_busy_seconds() == 0


class Quiet(AnotherModel):
    """It tells no entropy, and answers only when it is let."""

    def __init__(self, model: Qwen3ForCausalLM):
        super().__init__(model)
        self.may_answer = asyncio.Event()

    async def score(self, batch: Batch) -> Scores:
        await self.may_answer.wait()
        return (await super().score(batch))._replace(entropy_BT=None)


def test_a_teacher_that_is_waited_for_keeps_nobody_from_computing(
    random_model: MakeModel, random_groups: MakeGroups
) -> None:
    teacher = Quiet(random_model(1))
    scorer = Scorer(random_model(0), teacher, temperature=0.7, microbatch_tokens=1000)
    (group,) = random_groups(1, 2)

    async def work() -> ScoredBatch:
        scoring = asyncio.create_task(scorer.score(group))
        assert await compute(sum, [1, 2]) == 3
        await asyncio.sleep(0)
        assert not scoring.done()
        teacher.may_answer.set()
        return await scoring

    with Runner() as loop:
        batch = loop.run(asyncio.wait_for(work(), 60))
    assert batch.teacher_BT is not None
    assert batch.teacher_entropy_BT is None
    report = metrics.of_steps(batch, AlgorithmOptions())
    assert report["steps/d"] > 0.1
    assert "steps/teacher_entropy" not in report


def test_the_teachers_seconds_are_counted_with_the_scorers_own(
    random_model: MakeModel, random_groups: MakeGroups
) -> None:
    alone, taught = (
        Scorer(random_model(0), teacher, temperature=0.7, microbatch_tokens=1000)
        for teacher in (None, AnotherModel(random_model(1)))
    )
    for scorer in (alone, taught):
        scorer.score_now(random_groups(1, 2)[0])
    assert alone.take_busy_seconds() > 0
    assert alone.take_busy_seconds() == 0
    assert taught.take_busy_seconds() > 0.25
    assert taught.take_busy_seconds() == 0.25


# Candidates


@pytest.mark.parametrize("count", [5, 24])
def test_candidates_of_joined_groups_stand_at_their_tokens_with_the_log_probabilities_of_both_models(
    random_model: MakeModel, groups: list[Group], count: int
) -> None:
    student, other = random_model(0), random_model(1)
    teacher = AnotherModel(other)
    scorer = Scorer(student, teacher, temperature=0.7, microbatch_tokens=60, candidates=count)
    batch = join([scorer.score_now(group) for group in groups])
    plain = Scorer(student, teacher, temperature=0.7, microbatch_tokens=60)
    without = join([plain.score_now(group) for group in groups])
    assert without.candidates_BTJ is None
    for name in ("student_BT", "teacher_BT", "teacher_entropy_BT", "recomputed_B"):
        assert torch.equal(getattr(batch, name), getattr(without, name))
    found = batch.candidates_BTJ, batch.candidate_student_BTJ, batch.candidate_teacher_BTJ
    for tensor_BTJ in found:
        assert tensor_BTJ is not None
        assert tensor_BTJ.shape == (*batch.ids_BT.shape, count)
        assert not tensor_BTJ[~batch.mask_BT].any()
    for row, t in enumerate(batch.trajectories):
        at = batch.mask_BT[row].nonzero()[:, 0]
        student_TV, teacher_TV = (
            (model(torch.tensor([t.ids])).logits[0] / 0.7).log_softmax(-1)[at - 1] for model in (student, other)
        )
        likeliest_TJ = student_TV.topk(count).indices
        ids_TJ, student_TJ, teacher_TJ = (tensor_BTJ[row, at] for tensor_BTJ in found if tensor_BTJ is not None)
        assert torch.equal(ids_TJ.long(), likeliest_TJ)
        torch.testing.assert_close(student_TJ, student_TV.gather(1, likeliest_TJ), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(teacher_TJ, teacher_TV.gather(1, likeliest_TJ), atol=1e-5, rtol=1e-5)


def test_a_teacher_that_is_the_student_thinks_of_candidates_what_the_student_thinks(
    teacher: Path, tokenizer: PreTrainedTokenizerBase, random_groups: MakeGroups
) -> None:
    given = setup(teacher, tokenizer)
    student = load_model(teacher, given.network)
    scorer = Scorer(
        student, LocalTeacher(given), temperature=given.rollout.temperature, microbatch_tokens=500, candidates=32
    )
    batch = scorer.score_now(random_groups(1, 3, vocabulary=400)[0])
    assert batch.candidate_teacher_BTJ is not None
    assert torch.equal(batch.candidate_teacher_BTJ, batch.candidate_student_BTJ)
    assert torch.equal(batch.teacher_BT, batch.student_BT)


# Time and memory


def test_where_the_time_went_adds_up(groups: list[Group]) -> None:
    batch = collate(groups)
    phases = {"sample": 8.0, "learn": 1.0, "sync": 1.0}
    report = metrics.of_time(batch, phases, sampled=int(batch.mask_BT.sum()), generate=4.0, score=2.0, tools=6.0)
    assert report["seconds/update"] == 10
    assert report["seconds/waiting"] == 2
    tokens, sampled = int(batch.lengths_B.sum()), int(batch.mask_BT.sum())
    assert report["speed/tokens_per_second"] == sampled / 10
    assert report["speed/generate_tokens_per_second"] == sampled / 4
    assert report["speed/score_tokens_per_second"] == tokens / 2
    assert report["speed/learn_tokens_per_second"] == tokens
    assert report["speed/padding_spared"] == 1 - tokens / batch.ids_BT.numel()
    waited = {name: report[f"waited/{name}"] for name in ("generate", "score", "tools", "learn")}
    assert waited == {"generate": 0.5, "score": 0.75, "tools": 0.25, "learn": 0.9}


def test_an_update_in_which_nothing_was_scored_has_a_report_too(random_groups: MakeGroups) -> None:
    report = metrics.of_time(
        collate(random_groups(1, 1)),
        {"sample": 0.0, "learn": 0.0, "sync": 0.0},
        sampled=0,
        generate=0.0,
        score=0.0,
        tools=0.0,
    )
    assert all(0 <= value <= 1 for name, value in report.items() if name.startswith("waited/"))


@pytest.mark.skipif(take_peak_mb() is None, reason="this system does not tell how much memory a process had at most")
def test_the_peak_of_memory_is_of_the_time_since_it_was_last_asked_for() -> None:
    take_peak_mb()
    before = take_peak_mb()
    large = torch.ones(100 << 18)  # 100 MiB
    assert float(large[-1]) == 1
    del large
    height, after = take_peak_mb(), take_peak_mb()
    assert before is not None
    assert height is not None
    assert after is not None
    assert height - before > 90
    assert after < height - 90


def test_steps_are_measured_of_what_was_scored_by_group(random_model: MakeModel, groups: list[Group]) -> None:
    scorer = Scorer(random_model(0), AnotherModel(random_model(1)), temperature=0.7, microbatch_tokens=1000)
    report = metrics.of_steps(join([scorer.score_now(group) for group in groups]), AlgorithmOptions())
    assert report["steps/d"] > 0.1
    assert report["steps/teacher_entropy"] > 0.1
