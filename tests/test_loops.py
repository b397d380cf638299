"""The loops, from files to files: what they leave behind, and that a killed run goes on as if nothing had happened."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from timings import TIMINGS, untimed
from transformers import AutoModelForCausalLM
from warm import Warm

from sod.chat.format import ChatFormat
from sod.cli import run as sod
from sod.config import ModelOptions, SftOptions, TrainOptions
from sod.core import step_ids
from sod.errors import InfrastructureError, RunError, TrainingError
from sod.lab import settings
from sod.lab.demonstrations import STUDENT_STYLE
from sod.lab.make import write_demonstrations
from sod.model.loading import load_model
from sod.runs import checkpoints
from sod.runs.directory import Run
from sod.training.on_policy import train
from sod.training.sft import pick, sft

UPDATE = {
    "rollout": settings.ROLLOUT | {"problems": 4, "group": 2, "max_tokens": 100},
    "learn": {"lr": 1e-3, "minibatches": 2},
    "reward": settings.REWARD,
    "tool": settings.TOOL,
    "sandbox": {"workers": 2},
}

ALGORITHMS = ("sod", "opd_without_grpo", "opsd_gt", "entropy_in_trust_region", "grpo", "sham")
"""One of each kind: what differs between the others is a rule, tested by itself."""
WITHOUT_TEACHER = {"grpo", "sham", "opsd_gt"}


@pytest.fixture(scope="module")
def student(trembling: Callable[[Path, float], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's teacher with a tremor: it calls the tool, and errs."""
    folder = tmp_path_factory.mktemp("student")
    trembling(folder, 0.1)
    return folder


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demonstrations") / "demonstrations.jsonl"
    write_demonstrations(path, STUDENT_STYLE, 64, seed=0)
    return path


@pytest.fixture(scope="module")
def train_run(
    student: Path, teacher: Path, problem_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Run]:
    """Train for two updates."""

    def train_run(name: str, *, rollout: dict[str, Any] | None = None, **fields: Any) -> Run:
        needed = {} if name in WITHOUT_TEACHER else {"teacher": teacher}
        files = {"student": student, "data": problem_file, "out": tmp_path_factory.mktemp("train") / "run"}
        options = UPDATE | files | needed | {"updates": 2, "algorithm": {"name": name}} | fields
        return train(TrainOptions.model_validate(options | {"rollout": UPDATE["rollout"] | (rollout or {})}))

    return train_run


@pytest.fixture(scope="module", params=ALGORITHMS)
def trained(request: pytest.FixtureRequest, train_run: Callable[..., Run]) -> tuple[str, Run]:
    """A run of each algorithm."""
    return request.param, train_run(request.param)


def trajectories(run: Run, update: int) -> list[dict[str, Any]]:
    lines = (run.folder / "trajectories" / f"update-{update:04}.jsonl").read_text().split("\n")
    return [json.loads(line) for line in lines if line]


def newest(run: Run) -> Path:
    checkpoint = run.newest_checkpoint()
    assert checkpoint is not None
    return checkpoint[1]


# What a training run leaves behind


def test_training_leaves_options_environment_and_a_row_for_each_update(trained: tuple[str, Run]) -> None:
    name, run = trained
    assert {path.name for path in run.folder.iterdir()} == {
        "options.json", "environment.json", "metrics.jsonl", "trajectories", "checkpoints", "end.json",
    }  # fmt: skip
    options = TrainOptions.model_validate_json((run.folder / "options.json").read_text())
    assert options.algorithm.name == name
    rows = run.metrics()
    assert [row["update"] for row in rows] == [1, 2]
    areas = {key.partition("/")[0] for key in rows[0]} - {"update", "stop", "outcome"}
    with_teacher = set() if name in ("grpo", "sham") else {"steps", "pattern"}
    assert (
        areas
        == {"rollout", "tools", "sandbox", "learn", "sampler", "seconds", "speed", "waited", "memory"} | with_teacher
    )
    assert all(isinstance(value, int | float) for row in rows for value in row.values())
    assert all(row["sampler/gap_max"] < 1e-4 and row["rollout/dropped"] == row["learn/skipped"] == 0 for row in rows)


def test_trajectories_are_kept_with_everything_that_explains_them(
    trained: tuple[str, Run], chat: ChatFormat, problem_file: Path
) -> None:
    name, run = trained
    problems = {row["id"]: row for row in map(json.loads, problem_file.read_text().splitlines())}
    rows = trajectories(run, 1)
    assert len(rows) == 8
    assert len({(row["problem"], row["sample"]) for row in rows}) == 8
    for row in rows:
        assert row["gold"] == problems[row["problem"]]["answer"]
        assert row["reward"] == (1 if row["correct"] else -1)
        assert row["stop"] in ("answered", "max_turns", "max_tokens", "repeated")
        prompt, *rest = row["pieces"]
        assert prompt["tokens"] == chat.prompt([{"role": "user", "content": problems[row["problem"]]["prompt"]}], [])
        for piece in row["pieces"]:
            assert piece["text"] == chat.tokenizer.decode(piece["tokens"])
            assert ("logprobs" in piece) == (piece["author"] == "student")
            assert len(piece.get("logprobs", piece["tokens"])) == len(piece["tokens"])
            assert ("outcomes" in piece) == (piece["author"] == "tool")
        turns = [piece for piece in rest if piece["author"] == "student"]
        # How far each step is from the teacher, wherever there is a teacher.
        assert [step.keys() for step in row["steps"]] == (
            [] if name in ("grpo", "sham") else [{"d", "w", "teacher_entropy", "w_used"}] * len(turns)
        )
        if row["steps"]:
            assert row["steps"][0]["w"] == 1
            assert all(step["d"] > 0 and 0 < step["w"] <= 1.2 + 1e-6 for step in row["steps"])


def test_the_student_calls_its_tool_in_these_runs(trained: tuple[str, Run]) -> None:
    _, run = trained
    assert run.metrics()[0]["rollout/turns"] > 1.5


def test_the_newest_checkpoint_loads_with_transformers_and_has_learnt(trained: tuple[str, Run], student: Path) -> None:
    _, run = trained
    assert run.newest_checkpoint() == (2, run.folder / "checkpoints" / "update-0002")
    model = AutoModelForCausalLM.from_pretrained(newest(run))
    before = load_file(student / "model.safetensors")
    moved = [not torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items()]
    assert any(moved)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_a_checkpoint_has_the_files_that_its_module_lists(trained: tuple[str, Run]) -> None:
    _, run = trained
    folder = newest(run)
    listed = str(checkpoints.__doc__).replace(",", " ").split()
    assert checkpoints.MANIFEST in listed
    state = [path.name for path in (folder / checkpoints.TRAINER).iterdir()]
    assert len(state) >= 4
    assert not [name for name in state if name not in listed and f"*{Path(name).suffix}" not in listed]


def test_the_first_rollout_is_the_same_under_every_algorithm(train_run: Callable[..., Run]) -> None:
    runs = [train_run(name, updates=1) for name in ("sod", "sham")]
    texts = [[[piece["tokens"] for piece in row["pieces"]] for row in trajectories(run, 1)] for run in runs]
    assert texts[0] == texts[1]


def test_the_seed_decides_the_run(train_run: Callable[..., Run]) -> None:
    rows = [[row["pieces"] for row in trajectories(train_run("grpo", updates=1, seed=seed), 1)] for seed in (3, 4)]
    assert rows[0] != rows[1]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_teacher_is_scored_at_the_rollouts_temperature(
    train_run: Callable[..., Run], student: Path, teacher: Path, temperature: float
) -> None:
    run = train_run("sod", updates=1, rollout={"temperature": temperature})
    models = [load_model(folder, ModelOptions(device="cpu")) for folder in (student, teacher)]
    for row in trajectories(run, 1):
        ids = [token for piece in row["pieces"] for token in piece["tokens"]]
        mask = [piece["author"] == "student" for piece in row["pieces"] for _ in piece["tokens"]]
        with torch.no_grad():
            ours, theirs = (
                (model(torch.tensor([ids])).logits[0] / temperature)
                .log_softmax(-1)[:-1]
                .gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
                for model in models
            )
        steps = step_ids(torch.tensor([mask]))[0, 1:]
        d = [(ours - theirs).abs()[steps == k].mean().item() for k in range(1, len(row["steps"]) + 1)]
        assert [step["d"] for step in row["steps"]] == pytest.approx(d, abs=1e-4)
        sampled = [p for piece in row["pieces"] for p in piece.get("logprobs", ())]
        assert sampled == pytest.approx(ours[steps > 0].tolist(), abs=1e-4)


def test_only_so_many_trajectories_are_kept(train_run: Callable[..., Run]) -> None:
    run = train_run("grpo", updates=1, save_trajectories=3)
    assert len(trajectories(run, 1)) == 3
    run = train_run("grpo", updates=1, save_trajectories=0)
    assert not (run.folder / "trajectories").exists()


def test_an_update_whose_attempts_were_all_lost_is_an_error_and_no_row(
    train_run: Callable[..., Run], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(InfrastructureError, match="Of 8 attempts, 8 were lost"):
        train_run("grpo", rollout={"seconds": 1e-6}, out=out)
    assert Run(out).metrics() == []
    assert Run(out).newest_checkpoint() is None


# A run that is killed


def start_and_kill(arguments: Sequence[str], run: Run, rows: int, kill: signal.Signals = signal.SIGKILL) -> str:
    """Start the command in a process of its own, and kill it once its metrics have so many rows. -> what it said"""
    process = Warm(["-m", "sod", *arguments])
    deadline = time.monotonic() + 100
    while len(run.metrics()) < rows and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send(kill)
    ended = process.wait()
    output = ended.stdout + ended.stderr
    assert ended.returncode == (-kill if kill == signal.SIGKILL else 75), output
    assert len(run.metrics()) >= rows, output
    return output


def same_metrics(ours: Run, theirs: Run) -> None:
    """Row by row, but for the timings; the sampler's gap is rounding, which depends on who decoded beside whom."""
    rows = ours.metrics(), theirs.metrics()
    assert [row["update"] for row in rows[0]] == [row["update"] for row in rows[1]]
    for a, b in zip(*rows, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            if key.startswith("sampler/"):
                assert a[key] == pytest.approx(b[key], abs=1e-4)
            elif not key.startswith(TIMINGS):
                assert a[key] == b[key], key


def same_weights(ours: Run, theirs: Run) -> None:
    tensors = [load_file(newest(run) / "model.safetensors") for run in (ours, theirs)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


RECIPE = """
updates = 4
save_every = 2

[rollout]
problems = 4
group = 2
max_turns = 8
max_turn_tokens = 48
max_tokens = 100
max_prompt_tokens = 64

[learn]
lr = 1e-3
warmup = 3
minibatches = 2

[tool]
seconds = 5.0
errors = "last_line"

[sandbox]
workers = 2
"""


def test_an_alarm_is_said_kept_and_may_stop_the_run_after_a_checkpoint(
    untrained: Path, problem_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"student": untrained, "data": problem_file, "out": tmp_path / "run"}
    options = UPDATE | files | {"updates": 5, "save_every": 5, "algorithm": {"name": "grpo"}, "stop_on": ["cold_start"]}
    with pytest.raises(TrainingError, match="Stopped after update 3 by the alarm cold_start; the model is in"):
        train(TrainOptions.model_validate(options | {"rollout": UPDATE["rollout"] | {"max_tokens": 8}}))
    run = Run(tmp_path / "run")
    assert [row.get("alarm/cold_start") for row in run.metrics()] == [None, None, 1.0]
    assert (run.newest_checkpoint() or (0,))[0] == 3
    assert "alarm cold_start: 0.0% of the attempts" in " ".join(capsys.readouterr().out.split())


@pytest.fixture(scope="module")
def training(student: Path, teacher: Path, problem_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command line of four updates, up to its --out."""
    recipe = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    recipe.write_text(RECIPE)
    files = ["--student", str(student), "--teacher", str(teacher), "--data", str(problem_file)]
    return ["train", str(recipe), *files, "--network.device", "cpu", "--out"]


@pytest.fixture(scope="module")
def straight(training: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """That command without any trouble."""
    run = Run(tmp_path_factory.mktemp("straight") / "run")
    assert sod([*training, str(run.folder)]) == 0
    return run


def test_a_killed_training_run_goes_on_bit_for_bit(
    training: list[str], straight: Run, student: Path, tmp_path: Path
) -> None:
    killed = Run(tmp_path / "killed")
    start_and_kill([*training, str(killed.folder)], killed, rows=3)
    checkpoint = killed.newest_checkpoint()
    assert checkpoint is not None
    assert checkpoint[0] == 2

    assert sod([*training, str(killed.folder), "--resume"]) == 0
    same_weights(straight, killed)
    same_metrics(straight, killed)
    for update in (1, 2, 3, 4):
        pieces = [
            [(row["reward"], [piece["tokens"] for piece in row["pieces"]]) for row in trajectories(run, update)]
            for run in (straight, killed)
        ]
        assert pieces[0] == pieces[1]
    assert not torch.equal(
        load_file(newest(straight) / "model.safetensors")["model.embed_tokens.weight"],
        load_file(student / "model.safetensors")["model.embed_tokens.weight"],
    )


def test_a_run_without_a_screen_keeps_others_out_and_saves_when_it_is_told_to_end(
    training: list[str], straight: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run")
    command = [*training, str(run.folder), "--save_every", "100", "--updates", "100"]
    process = subprocess.Popen([sys.executable, "-m", "sod", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    deadline = time.monotonic() + 100
    while not run.metrics() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.stdout.close()  # as `| head -1` does

    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.json*"))
    assert sod([*command, "--resume"]) == 2
    assert f"error: {run.folder} is in use by process {process.pid} on" in capsys.readouterr().err
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.json")) == [
        path for path in before if path.suffix == ".json"
    ]

    while len(run.metrics()) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    said = errors.decode().splitlines()
    assert process.returncode == 75, said
    assert said == [
        "sod: the output is dropped (Broken pipe); the command continues.",
        f"error: ended by SIGTERM; to continue: sod {' '.join(command)} --resume",
    ]
    done = len(run.metrics())
    assert (run.newest_checkpoint() or (0,))[0] == done
    assert run.updates == 100
    assert done >= 3
    assert sod([*training, str(run.folder), "--updates", str(max(4, done)), "--resume"]) == 0
    if done <= 4:  # on a machine that stalls, the run may be further
        same_weights(straight, run)
        same_metrics(straight, run)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGHUP])
def test_a_killed_cold_start_goes_on_bit_for_bit(
    untrained: Path, demonstrations: Path, tmp_path: Path, kill: signal.Signals
) -> None:
    straight, killed = Run(tmp_path / "straight"), Run(tmp_path / "killed")
    numbers = ["--batch", "8", "--epochs", "10", "--save-every", "20", "--learn.lr", "5e-3", "--learn.warmup", "10"]
    command = ["sft", "--model", str(untrained), "--data", str(demonstrations), *numbers, "--out"]
    assert sod([*command, str(straight.folder)]) == 0
    assert len(straight.metrics()) == 80
    assert straight.finished() == straight.folder / "checkpoints" / "update-0080"

    said = start_and_kill([*command, str(killed.folder)], killed, rows=27, kill=kill)
    done, updates = (killed.newest_checkpoint() or (0,))[0], killed.updates
    assert 20 <= done < updates == 80
    if kill == signal.SIGHUP:
        assert done == len(killed.metrics())
        assert f"error: ended by SIGHUP; to continue: sod {' '.join(command)} {killed.folder} --resume\n" in said
    assert killed.finished() is None

    assert sod([*command, str(killed.folder), "--resume"]) == 0
    same_weights(straight, killed)
    same_metrics(straight, killed)
    assert killed.finished() == killed.folder / "checkpoints" / "update-0080"


def test_a_finished_run_may_be_resumed_for_more_updates_and_its_options_are_those_of_now(
    student: Path, problem_file: Path, tmp_path: Path, train_run: Callable[..., Run]
) -> None:
    (tmp_path / "sums.md").write_text("1 + 1 = 2")
    tool = UPDATE.get("tool", {}) | {"documents": tmp_path}
    run = train_run("grpo", updates=1, tool=tool)
    files = {"student": student, "data": problem_file, "out": run.folder, "algorithm": {"name": "grpo"}, "tool": tool}
    changed = TrainOptions.model_validate(UPDATE | files | {"updates": 2, "resume": True, "validate": {"every": 7}})
    (tmp_path / "sums.md").write_text("1 + 1 = 3")
    with pytest.raises(RunError, match=r"sums\.md has changed since the run in .* began"):
        train(changed)
    (tmp_path / "sums.md").write_text("1 + 1 = 2")
    train(changed)
    written = TrainOptions.model_validate_json((run.folder / "options.json").read_text())
    assert (written.updates, written.validate.every) == (2, 7)
    run.check(changed, resume=True)
    straight = train_run("grpo", updates=2)
    same_weights(run, straight)
    same_metrics(run, straight)


# Cold start


def cold_start(model: Path, data: Path, out: Path, **fields: Any) -> SftOptions:
    learn = {"lr": 5e-3}
    return SftOptions.model_validate(
        {"model": model, "data": data, "out": out, "batch": 16, "epochs": 2, "learn": learn} | fields
    )


def test_a_cold_start_leaves_metrics_and_a_checkpoint_that_loads(
    untrained: Path, demonstrations: Path, tmp_path: Path
) -> None:
    run = sft(cold_start(untrained, demonstrations, tmp_path / "run", epochs=5))
    rows = run.metrics()
    assert [row["update"] for row in rows] == list(range(1, 21))
    learnt = {f"learn/{name}" for name in ("loss", "grad_norm", "lr", "skipped", "tokens")}
    assert rows[0].keys() == {"update", *learnt, "seconds/update", "speed/learn_tokens_per_second"}
    assert rows[-1]["learn/loss"] < rows[0]["learn/loss"] - 0.5
    assert rows[-1]["learn/lr"] < 0.1 * rows[0]["learn/lr"]
    AutoModelForCausalLM.from_pretrained(newest(run))


def test_a_cold_start_killed_before_its_first_checkpoint_writes_no_row_twice_and_its_options_again(
    untrained: Path, demonstrations: Path, tmp_path: Path
) -> None:
    run = sft(cold_start(untrained, demonstrations, tmp_path / "run"))
    rows = run.metrics()
    newest(run).rename(tmp_path / "gone")
    sft(cold_start(untrained, demonstrations, tmp_path / "run", resume=True, keep=3))
    assert SftOptions.model_validate_json((run.folder / "options.json").read_text()).keep == 3
    assert list(map(untimed, run.metrics())) == list(map(untimed, rows))


def test_conversations_too_long_are_cut_and_counted(
    untrained: Path, demonstrations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sft(cold_start(untrained, demonstrations, tmp_path / "run", max_tokens=80, epochs=1))
    said = re.search(r"(\d+) conversations were longer than max_tokens = 80", capsys.readouterr().out)
    assert said
    assert 0 < int(said[1]) < 64


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_sees_every_conversation_once(tmp_path: Path, shuffle: bool) -> None:
    options = cold_start(tmp_path, tmp_path, tmp_path, batch=4, shuffle=shuffle)
    epochs = [[row for step in steps for row in pick(step, 10, options)] for steps in (range(3), range(3, 6))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert (epochs[0] == epochs[1] == list(range(10))) != shuffle
