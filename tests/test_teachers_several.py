"""Several teachers in one run: each problem has one, and a run shows what each of them did."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from other_tokenizers import byte_level, save_permuted
from safetensors.torch import load_file
from test_teachers_translated import PROBLEM, conversation, setup
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from sod.batching import ScoredBatch, join
from sod.chat.format import ChatFormat
from sod.cli import run as sod
from sod.config import AlgorithmOptions, TrainOptions
from sod.config.teachers import Route, named_in, routes_of
from sod.errors import DataError, OptionError
from sod.model.loading import load_tokenizer
from sod.planning.dry_run import plan
from sod.processes.concurrency import Runner
from sod.processes.distributed import ALONE
from sod.scoring import Scorer
from sod.teachers.local import LocalTeacher
from sod.teachers.opening import open_teachers
from sod.teachers.several import SeveralTeachers
from sod.teachers.translated import TranslatedTeacher
from sod.training.on_policy import train
from sod.types import Group, Problem

MakeModel = Callable[..., Qwen3ForCausalLM]


def test_routes_are_tried_in_order_and_the_rest_last() -> None:
    routes = routes_of(["*=rest", "difficulty:very hard=hard", "math=runs/a=b"])
    assert [(route.key, str(route.model)) for route in routes] == [
        ("difficulty:very hard", "hard"),
        ("math", "runs/a=b"),
        ("*", "rest"),
    ]
    assert [route.name for route in routes] == ["difficulty_very_hard", "math", "rest"]
    taken = [next(r.name for r in routes if r.takes(kind, labels)) for kind, labels in (
        ("math", {"difficulty": "very hard"}), ("math", {}), ("code", {"difficulty": "easy"}),
    )]  # fmt: skip
    assert taken == ["difficulty_very_hard", "math", "rest"]


@pytest.mark.parametrize("text", ["runs/teacher", "=A", "math=", "ma th=A"])
def test_a_teacher_without_its_problems_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="Write KIND=MODEL"):
        routes_of([text])


def test_two_teachers_for_one_kind_are_refused() -> None:
    with pytest.raises(OptionError, match="'math' has two teachers"):
        routes_of(["math=A", "code=B", "math=C"])


def test_teacher_takes_one_model_or_several_with_their_problems(tmp_path: Path) -> None:
    assert named_in(["--teacher", "math=A", "*=B", "--out", "x"]) == ["--teachers", "math=A", "*=B", "--out", "x"]
    folder = str(tmp_path / "math=A")
    (tmp_path / "math=A").mkdir()
    for arguments in (["--teacher", "A"], ["--teacher", folder], ["--teacher"], ["--out", "math=A"]):
        assert named_in(arguments) == arguments


@pytest.fixture
def folders(random_model: MakeModel, chat: ChatFormat, tmp_path: Path) -> dict[str, Path]:
    """Two teachers with the student's tokenizer, and one with another."""
    made = {}
    for seed, (name, tokenizer) in enumerate(
        [("math", chat.tokenizer), ("choice", chat.tokenizer), ("*", byte_level())], 2
    ):
        made[name] = tmp_path / f"teacher {seed}"
        random_model(seed, vocabulary=len(tokenizer)).save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
    return made


def score(model: Qwen3ForCausalLM, teacher: Any, problem: Problem, trajectory: Any) -> ScoredBatch:
    scorer = Scorer(model, teacher, temperature=0.7, microbatch_tokens=1000)
    return scorer.score_now(Group(problem, [replace(trajectory, problem=problem)]))


def test_each_group_is_scored_by_the_teacher_of_its_problem(
    chat: ChatFormat, folders: dict[str, Path], random_model: MakeModel
) -> None:
    student = random_model(1, vocabulary=len(chat.tokenizer))
    problems = [replace(PROBLEM, id=kind, kind=kind) for kind in ("math", "choice", "code")]
    routes = [Route(key, folder) for key, folder in folders.items()]
    alone = [LocalTeacher(setup(folders["math"], chat)), LocalTeacher(setup(folders["choice"], chat))]
    alone.append(TranslatedTeacher(setup(folders["*"], chat)))
    with Runner() as loop, open_teachers(loop, setup(folders["math"], chat), routes, ALONE) as teachers:
        assert isinstance(teachers, SeveralTeachers)
        assert not teachers.scores_candidates
        teachers.check(problems)
        found = [score(student, teachers, problem, conversation(chat)) for problem in problems]
        batch = join(teachers.finish(found))
        report = teachers.metrics(batch, AlgorithmOptions())
    for part, teacher, problem in zip(found, alone, problems, strict=True):
        expected = score(student, teacher, problem, conversation(chat))
        assert part.teacher_BT is not None
        assert torch.equal(part.teacher_BT, expected.pair_BT[1])
    assert batch.span_share_BT is not None, "a token of a plain teacher is a span"
    assert torch.equal(batch.span_share_BT[0], batch.mask_BT[0].float())
    for name in ("math", "choice", "rest"):
        assert report[f"teacher/{name}/share"] == pytest.approx(1 / 3)
        assert report[f"teacher/{name}/d"] > 0
        assert report[f"teacher/{name}/aligned_share"] == pytest.approx(1)
    assert len({round(report[f"teacher/{name}/d"], 6) for name in ("math", "choice", "rest")}) == 3


def test_a_problem_without_a_teacher_is_named(chat: ChatFormat, folders: dict[str, Path]) -> None:
    teacher = LocalTeacher(setup(folders["math"], chat))
    several = SeveralTeachers([Route("math", folders["math"])], {folders["math"]: teacher})
    with pytest.raises(DataError, match=r"Problem 'c' has no teacher: its kind is code.*Add code=MODEL or \*=MODEL"):
        several.check([PROBLEM, replace(PROBLEM, id="c", kind="code")])


# A run


@pytest.fixture(scope="module")
def options(small_update: dict[str, Any]) -> dict[str, Any]:
    return small_update | {"rollout": small_update["rollout"] | {"max_tokens": 100}}


def learnt(options: dict[str, Any], out: Path, **fields: Any) -> dict[str, float]:
    return train(TrainOptions.model_validate(options | {"out": out} | fields)).metrics()[-1]


@pytest.fixture(scope="module")
def other(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's teacher with all ids of its ordinary tokens permuted: the same model, with another vocabulary."""
    return save_permuted(teacher, tmp_path_factory.mktemp("other"))


def test_a_student_learns_the_same_in_three_updates_from_its_teacher_with_another_vocabulary(
    options: dict[str, Any],
    trembling: Callable[[Path, float], None],
    teacher: Path,
    other: Path,
    tmp_path: Path,
) -> None:
    """The student is not too near to its teacher: AdamW enlarges the rounding of small signals. A low temperature, because
    unusual tokens of the student for a text share a span.
    """
    trembling(tmp_path / "student", 0.15)
    learn = {"lr": 2e-5, "minibatches": 1}
    rollout = options["rollout"] | {"temperature": 0.3}
    options = options | {"student": tmp_path / "student", "updates": 3, "learn": learn, "rollout": rollout}
    plain, spans = (
        train(TrainOptions.model_validate(options | {"out": tmp_path / name, "teacher": folder}))
        for name, folder in (("plain", teacher), ("spans", other))
    )
    for one, expected in zip(spans.metrics(), plain.metrics(), strict=True):
        assert one["teacher/aligned_share"] == 1
        assert "teacher/aligned_share" not in expected
        for name in ("steps/d", "learn/loss"):
            assert one[name] == pytest.approx(expected[name], abs=1e-5), name
    (_, ours), (_, theirs) = (run.newest_checkpoint() or (0, tmp_path) for run in (spans, plain))
    start = load_file(options["student"] / "model.safetensors")
    learnt_weights, plain_weights = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
    assert max(float((plain_weights[name] - start[name]).abs().max()) for name in start) > 4e-5
    for name, weight in plain_weights.items():
        torch.testing.assert_close(learnt_weights[name], weight, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"algorithm": {"name": "scope"}},
            r"algorithm\.name = scope reads the teacher's log-probability of each token",
        ),
        (
            {"algorithm": {"divergence": "exact"}},
            r"algorithm\.divergence = exact compares candidates of one vocabulary",
        ),
        ({"score": {"shard_teacher": True}}, r"score\.shard_teacher needs a teacher with the student's tokenizer"),
    ],
)
def test_what_a_teacher_with_another_tokenizer_cannot_do_is_refused_in_a_dry_run_and_at_the_start(
    options: dict[str, Any], teacher: Path, other: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    for each in ({"teacher": other}, {"teachers": [f"math={teacher}", f"*={other}"]}):
        given = TrainOptions.model_validate(options | {"out": tmp_path / "run"} | fields | each)
        assert re.search(message, plan(given))
        with pytest.raises(OptionError, match=message):
            train(given)
    assert not (tmp_path / "run").exists()
    same = TrainOptions.model_validate(options | {"out": tmp_path / "run", "teacher": teacher} | fields)
    assert not re.search(message, plan(same))


def test_a_run_with_several_teachers_shows_each_and_keeps_their_fingerprints(
    options: dict[str, Any], teacher: Path, other: Path, tmp_path: Path
) -> None:
    row = learnt(options, tmp_path / "run", teachers=[f"math={teacher}", f"*={other}"])
    assert row["teacher/math/share"] == 1
    assert row["teacher/rest/share"] == 0
    assert row["teacher/math/d"] == pytest.approx(row["steps/d"])
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert {"teacher math", "teacher rest"} <= set(environment["data"])


def test_teacher_and_student_solve_a_sample_before_training_and_a_resumed_run_reads_it(
    options: dict[str, Any], other: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = options | {"rollout": options["rollout"] | {"max_tokens": 200}}
    plain = learnt(options, tmp_path / "plain", teacher=other)
    row = learnt(options, tmp_path / "run", teacher=other, score={"probe_problems": 4})
    assert row["teacher/solved"] == 1
    assert row["teacher/probe_problems"] == 4
    assert row["teacher/gain"] == pytest.approx(1 - row["teacher/student_solved"])
    assert "teacher: solves 100%" in caplog.text
    assert row["learn/loss"] == plain["learn/loss"], "training is the same"
    saved = json.loads((tmp_path / "run" / "teacher.json").read_text())
    saved["metrics"]["teacher/solved"] = 0.125
    (tmp_path / "run" / "teacher.json").write_text(json.dumps(saved))
    again = learnt(options, tmp_path / "run", teacher=other, score={"probe_problems": 4}, updates=2, resume=True)
    assert again["teacher/solved"] == 0.125


def test_a_teacher_that_is_not_better_than_the_student_is_reported_at_once(
    options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = learnt(options, tmp_path / "run", teacher=options["student"], score={"probe_problems": 4})
    assert row["teacher/gain"] == 0
    assert "This teacher is not better than the student" in caplog.text


def test_several_teachers_and_one_are_refused_together(
    options: dict[str, Any], teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--student", options["student"], "--data", options["data"], "--out", tmp_path / "run"]
    assert sod([*map(str, command), "--teacher", f"math={teacher}", "--score.teacher-url", "http://127.0.0.1:9"]) == 2
    assert "score.teacher_url is the server of one teacher" in capsys.readouterr().err
    assert sod([*map(str, command), "--teacher", "math=A", "math=B"]) == 2
    assert "'math' has two teachers" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_permuted_tokenizer_of_these_tests_writes_the_same_tokens_with_other_ids(
    tokenizer: PreTrainedTokenizerBase, other: Path
) -> None:
    changed, text = load_tokenizer(other), "So the answer is 42, and def total(values): return sum(values)"
    one, two = (each.encode(text, add_special_tokens=False) for each in (tokenizer, changed))
    assert tokenizer.convert_ids_to_tokens(one) == changed.convert_ids_to_tokens(two)
    assert all(mine != yours for mine, yours in zip(one, two, strict=True))
