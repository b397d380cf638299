"""Several teachers in one run: each problem has one, and a run shows what each of them did."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from other_tokenizers import byte_level, save_permuted
from safetensors.torch import load_file
from test_teachers_dialects import Other
from test_teachers_served_training import distance, weights
from test_teachers_server import CPU, Serving, in_the_background
from test_teachers_translated import PROBLEM, conversation, setup
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from sod.batching import ScoredBatch, join
from sod.chat.format import ChatFormat
from sod.cli import run as sod
from sod.config import AlgorithmOptions, EvalOptions, ScoreOptions, TrainOptions
from sod.config.teachers import Route, named_in, route_for, routes_of, with_servers
from sod.errors import DataError, ModelError, OptionError
from sod.evaluation.evaluate import evaluate
from sod.lab import settings
from sod.model.loading import load_model, load_tokenizer
from sod.planning.dry_run import plan
from sod.processes.concurrency import Runner
from sod.processes.distributed import ALONE
from sod.report.reading import read_run
from sod.report.summary import facts, learning_table, warnings
from sod.runs.directory import Run
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
    asked = [
        replace(PROBLEM, kind="math", labels={"difficulty": "very hard"}),
        replace(PROBLEM, kind="math"),
        replace(PROBLEM, kind="code", labels={"difficulty": "easy"}),
    ]
    taken = [route_for(routes, problem) for problem in asked]
    assert [route and route.name for route in taken] == ["difficulty_very_hard", "math", "rest"]


def test_weights_divide_the_other_problems_and_each_keeps_its_teacher() -> None:
    routes = routes_of(["*big:3=A", "math=M", "*small:1=B"])
    assert [(route.key, route.name, route.part) for route in routes] == [
        ("math", "math", (0.0, 1.0)),
        ("*big:3", "big", (0.0, 0.75)),
        ("*small:1", "small", (0.75, 1.0)),
    ]
    problems = [replace(PROBLEM, id=f"p{n}", kind="code") for n in range(2000)]
    taken = [route_for(routes, problem) for problem in problems]
    names = [route.name if route else "" for route in taken]
    assert names.count("big") == pytest.approx(1500, abs=60)
    assert names.count("small") == 2000 - names.count("big")
    assert taken == [route_for(routes, problem) for problem in problems]
    assert route_for(routes, PROBLEM) == routes[0]
    assert [route.url for route in with_servers(routes, ["*big:3=http://a:1"])] == [None, "http://a:1", None]


@pytest.mark.parametrize(
    "texts", [["*a:1=A", "*=B"], ["*a:0=A", "*b:1=B"], ["*a:0=A"], ["*a:1.2.3=A", "*b:1=B"], ["*a:.=A"]]
)
def test_weights_that_divide_nothing_are_refused(texts: list[str]) -> None:
    with pytest.raises(OptionError, match=r"do not divide the other problems\. Give each a weight above 0"):
        routes_of(texts)


def test_two_keys_with_one_name_are_refused() -> None:
    for texts in (["a:b=A", "a_b=B"], ["math=A", "*math:1=B"]):
        with pytest.raises(OptionError, match=r"would have one name in metrics\. Rename"):
            routes_of(texts)


@pytest.mark.parametrize("text", ["runs/teacher", "=A", "math=", "ma th=A", "*a=A", "*:1=A", "*a:-1=A"])
def test_a_teacher_without_its_problems_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="Write KIND=MODEL"):
        routes_of([text])


def test_two_teachers_for_one_kind_are_refused() -> None:
    with pytest.raises(OptionError, match="'math' has two teachers"):
        routes_of(["math=A", "code=B", "math=C"])


def test_servers_belong_to_the_keys_of_teachers() -> None:
    routes = routes_of(["*=rest", "difficulty:hard=hard", "math=small"])
    found = with_servers(routes, ["*=http://a:1", "difficulty:hard=http://b:2/path#big=model"])
    assert [(route.key, route.url, route.served_name) for route in found] == [
        ("difficulty:hard", "http://b:2/path", "big=model"),
        ("math", None, None),
        ("*", "http://a:1", None),
    ]
    own = found[0].score(ScoreOptions(teacher_urls=("*=http://a:1",), teacher_top=7))
    assert (own.teacher_url, own.teacher_served_name, own.teacher_urls, own.teacher_top) == (
        "http://b:2/path",
        "big=model",
        (),
        7,
    )
    for text, words in (
        ("code=http://a:1", "'code' is no key of teachers"),
        ("http://a:1", "Write KEY=URL"),
        ("math=a", "Write KEY"),
    ):
        with pytest.raises(OptionError, match=words):
            with_servers(routes, [text])


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


def test_teachers_on_servers_and_here_score_in_one_update(
    chat: ChatFormat, folders: dict[str, Path], random_model: MakeModel
) -> None:
    """A server with exact log-probabilities, one with bounds, and a teacher with another tokenizer here."""
    tokenizer = chat.tokenizer
    student = random_model(1, vocabulary=len(tokenizer))
    problems = [replace(PROBLEM, id=kind, kind=kind) for kind in ("math", "choice", "code")]
    routes = [Route(key, folder) for key, folder in folders.items()]
    models = [load_model(folders[name], CPU) for name in ("math", "choice")]
    servers = Serving(models[0], tokenizer), Other(models[1], tokenizer, "llamacpp")
    for server in servers:
        server.models[0]["max_model_len"] = 1024
    plain = setup(folders["math"], chat)
    plain = replace(plain, rollout=plain.rollout.model_copy(update={"temperature": 1.0}))
    alone = [LocalTeacher(replace(plain, folder=folders[name])) for name in ("math", "choice")]
    with Runner() as loop, in_the_background(servers[0]) as exact, in_the_background(servers[1]) as bounds:
        urls = (f"math={exact}", f"choice={bounds}")
        inputs = replace(plain, score=ScoreOptions(teacher_urls=urls, teacher_top=20))
        with open_teachers(loop, inputs, routes, ALONE) as teachers:
            assert isinstance(teachers, SeveralTeachers)
            teachers.check(problems)
            scorer = Scorer(student, teachers, temperature=1.0, microbatch_tokens=1000)
            of = [replace(conversation(chat), problem=problem) for problem in problems]
            found = [loop.run(scorer.score(Group(each.problem, [each]))) for each in of]
            batch = join(teachers.finish(found))
            report = teachers.metrics(batch, AlgorithmOptions())
            assert teachers.take_costs()["teacher/requests"] > 1
            loop.run(teachers.confirm())
    assert (teachers.has_spans, teachers.has_bounds, teachers.scores_tokens) == (True, True, False)
    assert batch.teacher_entropy_BT is None
    assert batch.outside_BT is not None
    assert batch.span_share_BT is not None
    outside_B = [bool(row.any()) for row in batch.outside_BT]
    assert outside_B == [False, True, False]
    for part, teacher, row in zip(found[:2], alone, batch.outside_BT, strict=False):
        expected = Scorer(student, teacher, temperature=1.0, microbatch_tokens=1000).score_now(
            Group(part.trajectories[0].problem, part.trajectories)
        )
        known = (row == 0)[: part.mask_BT.shape[1]]
        torch.testing.assert_close(part.pair_BT[1][0][known], expected.pair_BT[1][0][known], atol=1e-4, rtol=0)
    assert {f"teacher/{name}/d" for name in ("math", "choice", "rest")} <= report.keys()


def test_a_problem_without_a_teacher_is_named(chat: ChatFormat, folders: dict[str, Path]) -> None:
    teacher = LocalTeacher(setup(folders["math"], chat))
    several = SeveralTeachers([Route("math", folders["math"])], {"math": teacher})
    with pytest.raises(DataError, match=r"Problem 'c' has no teacher: its kind is code.*Add code=MODEL or \*=MODEL"):
        several.check([PROBLEM, replace(PROBLEM, id="c", kind="code")])


@pytest.mark.parametrize("key", ["maths", "levle:hard", "level:heard", "math"])
def test_a_key_that_no_problem_has_is_refused_with_what_the_data_has(
    chat: ChatFormat, folders: dict[str, Path], key: str
) -> None:
    """math as well: all problems of that kind have an earlier key."""
    teacher = LocalTeacher(setup(folders["math"], chat))
    routes = routes_of(["level:hard=A", f"{key}=B", "*=C"])
    several = SeveralTeachers(routes, {route.key: teacher for route in routes})
    problems = [replace(PROBLEM, id=str(n), labels={"level": "hard"}) for n in range(2)]
    words = f"teachers: '{key}' is the key of no problem that has no earlier one. The data has level:hard, math."
    with pytest.raises(DataError, match=re.escape(words)):
        several.check(problems)
    SeveralTeachers([routes[0], routes[2]], {route.key: teacher for route in routes}).check(problems)


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
    """The student is not too near to its teacher: AdamW enlarges the rounding of small signals. At temperature 1 it also writes
    unusual tokens for a text.
    """
    trembling(tmp_path / "student", 0.15)
    learn = {"lr": 2e-5, "minibatches": 1}
    rollout = options["rollout"] | {"temperature": 1.0}
    options = options | {"student": tmp_path / "student", "updates": 3, "learn": learn, "rollout": rollout}
    plain, spans = (
        train(TrainOptions.model_validate(options | {"out": tmp_path / name, "teacher": folder}))
        for name, folder in (("plain", teacher), ("spans", other))
    )
    for one, expected in zip(spans.metrics(), plain.metrics(), strict=True):
        assert one["teacher/aligned_share"] == 1
        assert "teacher/aligned_share" not in expected
        for name in ("steps/d", "learn/loss"):
            assert one[name] == pytest.approx(expected[name], abs=1e-6), name
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


def test_a_dry_run_refuses_a_teacher_without_a_tokenizer_or_with_a_damaged_configuration(
    options: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    shutil.copytree(teacher, tmp_path / "teacher")
    given = TrainOptions.model_validate(options | {"out": tmp_path / "run", "teacher": tmp_path / "teacher"})
    plain = plan(given)
    assert "holds no tokenizer" not in plain
    (tmp_path / "teacher" / "tokenizer_config.json").unlink()
    assert "holds no tokenizer: tokenizer_config.json is missing" in plan(given, width=10_000)
    (tmp_path / "teacher" / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config\.json is damaged or not a model's configuration"):
        plan(given)


def test_a_run_with_several_teachers_shows_each_and_keeps_their_fingerprints(
    options: dict[str, Any], teacher: Path, other: Path, tmp_path: Path
) -> None:
    row = learnt(options, tmp_path / "run", teachers=[f"math={teacher}", f"*={other}"], updates=2, save_trajectories=9)
    assert row["teacher/math/share"] == 1
    assert row["teacher/rest/share"] == 0
    assert row["teacher/math/d"] == pytest.approx(row["steps/d"])
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert {"teacher math", "teacher rest"} <= set(environment["data"])
    lines = Run(tmp_path / "run").trajectory_file(2).read_text().splitlines()
    assert [json.loads(line)["teacher"] for line in lines] == ["math"] * 4
    record = read_run(tmp_path / "run", "run", limit=9, keep=lambda _: (0, 0), advance=lambda: None)
    table = learning_table([record])
    assert table is not None
    rows = dict(table.rows)
    assert rows["teacher math: share of the trajectories"] == ["100.0%"] * 2
    assert rows["teacher math: divergence d, nats"] == rows["divergence d, nats"]
    assert rows["teacher rest: share of the trajectories"] == ["0.0%"] * 2
    shown = dict(facts([record]).rows)["teacher"][0]
    assert shown == f"math={teacher.parent.name}/{teacher.name}, *={other.parent.name}/{other.name}"
    later = replace(
        record, name="later", environment=environment | {"data": environment["data"] | {"teacher math": "x"}}
    )
    assert [line for line in warnings([record, later]) if "different teachers: run versus later" in line]


def test_an_evaluation_with_several_teachers_measures_each(
    options: dict[str, Any], teacher: Path, other: Path, tmp_path: Path
) -> None:
    files = {"model": options["student"], "data": str(options["data"]), "teachers": [f"math={teacher}", f"*={other}"]}
    wanted = settings.EVAL | files | {"samples": 1, "limit": 2, "out": tmp_path / "run"}
    results = evaluate(EvalOptions.model_validate(wanted))
    assert results.mean["teacher/math/d"] == pytest.approx(results.mean["steps/d"])
    assert "teacher/rest/d" not in results.mean
    lines = Run(tmp_path / "run").trajectory_file(0).read_text().splitlines()
    assert [json.loads(line)["teacher"] for line in lines] == ["math"] * 2


def test_a_run_with_teachers_on_two_servers_and_here_learns_what_one_with_all_here_learns(
    options: dict[str, Any], teacher: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in Path(options["data"]).read_text().splitlines()][:3]
    data = tmp_path / "labelled.jsonl"
    data.write_text("".join(json.dumps(row | {"level": level}) + "\n" for row, level in zip(rows, "abc", strict=True)))
    options = options | {"data": data, "network": {"device": "cpu"}}
    options |= {"rollout": options["rollout"] | {"problems": 3, "max_tokens": 60}}
    model = load_model(teacher, CPU)
    names = [f"level:a={teacher}", f"level:b={teacher}", f"*={teacher}"]
    plain = train(TrainOptions.model_validate(options | {"out": tmp_path / "plain", "teachers": names}))
    for updates in (1, 2):  # the servers have other addresses when the run is resumed
        servers = Serving(model, tokenizer), Serving(model, tokenizer)
        for server in servers:
            server.models[:] = [{"id": name, "max_model_len": 1024} for name in ("tiny", "other")]
        with in_the_background(servers[0]) as one, in_the_background(servers[1]) as two:
            score = {"teacher_urls": [f"level:a={one}#tiny", f"level:b={two}#tiny"]}
            more = {"out": tmp_path / "run", "teachers": names, "score": score, "updates": updates, "save_every": 1}
            given = TrainOptions.model_validate(options | more | {"resume": updates == 2})
            text = plan(given.model_copy(update={"resume": False, "out": tmp_path / "new"}), width=10_000)
            assert text.count("Start the teacher's server, unless it is running: vllm serve") == 2
            assert f"teacher  on the server {one}; its memory is not counted here" in text
            run = train(given)
        assert all(any(body["model"] == "tiny" for body in server.asked) for server in servers)
        if updates == 1:
            start = load_file(options["student"] / "model.safetensors")
            assert distance(weights(run), weights(plain)) < 0.01 * distance(weights(plain), start)
    row = run.metrics()[-1]
    assert [row[f"teacher/{name}/share"] for name in ("level_a", "level_b", "rest")] == pytest.approx([1 / 3] * 3)
    assert row["teacher/tokens_sent"] > 0
    checkpoint = run.newest_checkpoint()
    assert checkpoint is not None
    assert sorted(file.parent.name for file in checkpoint[1].glob("teachers/*/*")) == ["level_a", "level_b"]


def test_teacher_and_student_solve_a_sample_before_training_and_a_resumed_run_reads_it(
    options: dict[str, Any], other: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = options | {"rollout": options["rollout"] | {"max_tokens": 200}}
    plain = learnt(options, tmp_path / "plain", teacher=other)
    row = learnt(options, tmp_path / "run", teacher=other, score={"probe_problems": 4})
    assert row["teacher/solved"] == 1
    assert row["teacher/probe_problems"] == 4
    assert row["teacher/gain"] == pytest.approx(1 - row["teacher/student_solved"])
    assert "teacher: solves 100 ± 30 % of 4 problems, the student" in caplog.text
    assert row["learn/loss"] == plain["learn/loss"], "training is the same"
    saved = json.loads((tmp_path / "run" / "teacher.json").read_text())
    saved["metrics"]["teacher/solved"] = 0.125
    (tmp_path / "run" / "teacher.json").write_text(json.dumps(saved))
    again = learnt(options, tmp_path / "run", teacher=other, score={"probe_problems": 4}, updates=2, resume=True)
    assert again["teacher/solved"] == 0.125


@pytest.mark.parametrize("vocabulary", ["the student's", "another"])
def test_a_teacher_on_a_server_solves_the_sample_there(
    vocabulary: str,
    options: dict[str, Any],
    teacher: Path,
    other: Path,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    options = options | {"rollout": options["rollout"] | {"max_tokens": 200}}
    folder = teacher if vocabulary == "the student's" else other
    server = Serving(load_model(folder, CPU), load_tokenizer(folder))
    with in_the_background(server) as url:
        row = learnt(options, tmp_path / "run", teacher=folder, score={"probe_problems": 4, "teacher_url": url})
    here = learnt(options, tmp_path / "here", teacher=folder, score={"probe_problems": 4})
    assert server.written >= 4
    names = [f"teacher/{name}" for name in ("probe_problems", "solved", "student_solved", "gain")]
    assert [row[name] for name in names] == [here[name] for name in names]
    assert row["teacher/solved"] == 1


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
    assert "Give each server as --score.teacher-urls KEY=URL" in capsys.readouterr().err
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
