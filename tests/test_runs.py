"""A run is a directory: whole checkpoints or none, no row twice, and no run mistaken for another."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluated import benchmark, results
from safetensors import SafetensorError

from sod import config
from sod.cli import COMMANDS
from sod.config import SftOptions, TrainOptions
from sod.errors import RunError
from sod.runs.directory import Run, command_of
from sod.runs.results import read_results

DATA = {"data": "fingerprint"}


def options(out: Path, **fields: Any) -> SftOptions:
    return SftOptions.model_validate(
        {"model": "model", "data": "data.jsonl", "out": out, "schedule": "constant"} | fields
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.open(options(tmp_path / "run"), tmp_path / "run", data=DATA)


def writing(content: str) -> Callable[[Path], None]:
    """A checkpoint of two files, one of them in a folder."""

    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_text(content)
        (folder / "more").mkdir()
        (folder / "more" / "trainer.pt").write_text(content * 2)

    return write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is written down


def test_a_new_run_writes_down_its_options_and_where_it_runs(run: Run) -> None:
    assert json.loads((run.folder / "options.json").read_text())["batch"] == 128
    environment = json.loads((run.folder / "environment.json").read_text())
    assert environment["data"] == DATA
    assert {"sod", "python", "platform", "processors", "packages", "command", "arguments"} <= environment.keys()
    assert environment["command"] == "sft"
    assert SftOptions.model_validate_json((run.folder / "options.json").read_text()) == options(run.folder)


def test_the_command_of_a_run_is_the_recorded_one_or_for_an_older_run_that_of_its_options() -> None:
    assert command_of({"command": "rollout"}, {"samples": 8}) == "rollout"
    assert command_of({"command": ["sod", "eval"]}, {"samples": 8}) == "eval"
    assert command_of({}, {}) == "?"


def test_options_that_make_runs_have_the_name_of_their_command() -> None:
    made = {command: getattr(config, name).COMMAND for command, (name, _, _) in COMMANDS.items()}
    assert {command for command, name in made.items() if name == command} == {
        "sft",
        "train",
        "eval",
        "rollout",
        "calibrate",
        "serve",
    }
    assert {name for command, name in made.items() if name != command} == {""}


def test_metrics_are_rows_in_the_order_of_the_updates(run: Run) -> None:
    assert run.metrics() == []
    run.record(1, {"learn/loss": 0.5})
    run.record(2, {"learn/loss": 0.25})
    assert run.metrics() == [{"update": 1, "learn/loss": 0.5}, {"update": 2, "learn/loss": 0.25}]


def test_trajectories_of_an_update_stand_in_a_file_of_their_own(run: Run) -> None:
    run.record(3, {}, [{"text": "é\u2028"}, {"text": "b"}])
    run.record(4, {})
    assert names(run.folder / "trajectories") == ["update-0003.jsonl"]
    lines = (run.folder / "trajectories" / "update-0003.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines if line] == [{"text": "é\u2028"}, {"text": "b"}]


def test_a_last_row_cut_short_by_a_crash_is_left_out(run: Run) -> None:
    run.record(1, {"learn/loss": 0.5})
    with run.metrics_file.open("a") as file:
        file.write('{"update": 2, "learn/l')
    assert [row["update"] for row in run.metrics()] == [1]


def test_results_replace_earlier_ones(run: Run) -> None:
    run.write_results(results({"rows": benchmark({"avg": 0.25})}), "25 %")
    run.write_results(results({"rows": benchmark({"avg": 0.5})}), "50 %")
    assert read_results(run.folder) == results({"rows": benchmark({"avg": 0.5})})
    assert (run.folder / "results.md").read_text() == "50 %"


# Checkpoints


def test_a_checkpoint_is_found_again_with_everything_in_it(run: Run) -> None:
    assert run.newest_checkpoint() is None
    place = run.save(7, writing("seven"), keep=2)
    assert run.newest_checkpoint() == (7, place)
    assert names(place) == ["manifest.json", "model.safetensors", "more"]
    assert json.loads((place / "manifest.json").read_text()).keys() == {"model.safetensors", "more/trainer.pt"}


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error"), RuntimeError("iostream error")]
)
def test_a_failing_write_is_an_error_and_leaves_the_old_checkpoint_alone(run: Run, error: Exception) -> None:
    old = run.save(1, writing("one"), keep=2)

    def write(folder: Path) -> None:
        writing("two")(folder)
        raise error

    with pytest.raises(RunError, match="update-0002 cannot be written"):
        run.save(2, write, keep=2)
    assert names(run.folder / "checkpoints") == ["update-0001"]
    assert run.newest_checkpoint() == (1, old)


def test_an_interrupted_write_leaves_nothing_half_written(run: Run) -> None:
    def write(folder: Path) -> None:
        writing("one")(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.save(1, write, keep=2)
    assert names(run.folder / "checkpoints") == []


def test_what_a_killed_process_left_half_written_goes_when_the_run_is_taken_up(run: Run) -> None:
    run.save(1, writing("one"), keep=2)
    (run.folder / "checkpoints" / "update-0002.partial").mkdir()
    run.rewind(1)
    assert names(run.folder / "checkpoints") == ["update-0001"]


def test_a_process_killed_while_it_writes_leaves_the_old_checkpoint_alone(run: Run) -> None:
    old = run.save(1, writing("one"), keep=2)
    script = """
        import os, signal, sys
        from pathlib import Path
        from sod.runs.directory import Run

        def write(folder):
            (folder / "model.safetensors").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

        Run(Path(sys.argv[1])).save(2, write, keep=2)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(run.folder)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert run.newest_checkpoint() == (1, old)
    assert run.save(2, writing("two"), keep=2).name == "update-0002"
    assert names(run.folder / "checkpoints") == ["update-0001", "update-0002"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing file", "missing manifest", "broken manifest"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(run: Run, damage: str) -> None:
    older, newest = run.save(1, writing("one"), keep=2), run.save(2, writing("two"), keep=2)
    match damage:
        case "flipped":
            (newest / "model.safetensors").write_text("twO")
        case "cut":
            os.truncate(newest / "more" / "trainer.pt", 2)
        case "missing file":
            (newest / "model.safetensors").unlink()
        case "missing manifest":
            (newest / "manifest.json").unlink()
        case "broken manifest":
            os.truncate(newest / "manifest.json", 20)
    assert run.newest_checkpoint() == (1, older)


def test_a_checkpoint_may_be_written_again(run: Run) -> None:
    run.save(1, writing("one"), keep=2)
    place = run.save(1, writing("again"), keep=2)
    assert (place / "model.safetensors").read_text() == "again"
    assert run.newest_checkpoint() == (1, place)


@pytest.mark.parametrize("keep", [1, 2])
def test_the_last_checkpoint_and_keep_before_it_are_kept(run: Run, keep: int) -> None:
    for update in (5, 10, 15, 20):
        run.save(update, writing("x"), keep=keep)
    assert (
        names(run.folder / "checkpoints") == ["update-0005", "update-0010", "update-0015", "update-0020"][-keep - 1 :]
    )


def test_checkpoints_are_ordered_by_number(run: Run) -> None:
    for update in (9_998, 9_999, 10_000, 10_001):
        run.save(update, writing("x"), keep=1)
    newest = run.newest_checkpoint()
    assert newest is not None
    assert newest[0] == 10_001
    assert names(run.folder / "checkpoints") == ["update-10000", "update-10001"]


# Resuming


def test_rewinding_forgets_what_came_after(run: Run) -> None:
    for update in (1, 2, 3, 4):
        run.record(update, {"learn/loss": 1 / update}, [{"update": update}])
    with run.metrics_file.open("a") as file:
        file.write('{"update": 5')
    run.rewind(2)
    assert [row["update"] for row in run.metrics()] == [1, 2]
    assert names(run.folder / "trajectories") == ["update-0001.jsonl", "update-0002.jsonl"]
    run.record(3, {})
    assert [row["update"] for row in run.metrics()] == [1, 2, 3]


def test_rewinding_a_run_that_has_nothing_yet_is_fine(run: Run) -> None:
    run.rewind(0)
    assert run.metrics() == []


def test_a_run_may_be_resumed_with_the_same_options_and_data(run: Run) -> None:
    same = options(run.folder, resume=True, save_every=3)
    assert Run.open(same, run.folder, data=DATA, resume=True) == run


def test_a_resumed_training_run_may_go_on_for_longer(tmp_path: Path) -> None:
    before, after = (
        TrainOptions.model_validate({"student": "s", "data": "d", "out": tmp_path, "updates": n}) for n in (10, 20)
    )
    Run.open(before, tmp_path, data=DATA)
    Run.open(after, tmp_path, data=DATA, resume=True)


def test_a_resumed_run_may_have_its_server_and_its_memory_elsewhere(tmp_path: Path) -> None:
    fields = {"student": "s", "data": "d", "out": tmp_path}
    served = {"name": "vllm_server", "url": "http://127.0.0.1:8000"}
    Run.open(TrainOptions.model_validate(fields | {"engine": served}), tmp_path, data=DATA)
    moved = {"engine": served | {"url": "http://127.0.0.1:8001"}, "score": {"offload_teacher": True}}
    Run.open(TrainOptions.model_validate(fields | moved), tmp_path, data=DATA, resume=True)
    with pytest.raises(RunError, match=r"other options .*engine\.name"):
        Run.open(TrainOptions.model_validate(fields | {"engine": {"name": "hf"}}), tmp_path, data=DATA, resume=True)


def test_an_existing_run_is_not_begun_again(run: Run) -> None:
    with pytest.raises(RunError, match=r"already holds a run\. Continue it with --resume, or choose another --out"):
        Run.open(options(run.folder), run.folder, data=DATA)


def test_changed_options_are_not_resumed(run: Run) -> None:
    with pytest.raises(RunError, match=r"other options .*seed"):
        Run.open(options(run.folder, seed=1), run.folder, data=DATA, resume=True)
    with pytest.raises(RunError, match=r"other options .*learn\.warmup"):
        Run.open(options(run.folder, learn={"lr": 5e-5, "warmup": 3}), run.folder, data=DATA, resume=True)


def test_a_run_without_an_option_had_its_default(run: Run) -> None:
    file = run.folder / "options.json"
    stored = json.loads(file.read_text())
    del stored["learn"]["clip_grad"], stored["keep"]
    file.write_text(json.dumps(stored))
    Run.open(options(run.folder), run.folder, data=DATA, resume=True)
    with pytest.raises(RunError, match=r"other options .*learn\.clip_grad"):
        Run.open(options(run.folder, learn={"clip_grad": 0.5}), run.folder, data=DATA, resume=True)
    file.write_text(json.dumps(stored | {"removed": 1}))
    with pytest.raises(RunError, match="with the option removed, which does not exist here"):
        Run.open(options(run.folder), run.folder, data=DATA, resume=True)


def test_the_length_of_a_cosine_is_not_changed_on_the_way(tmp_path: Path) -> None:
    Run.open(options(tmp_path, schedule="cosine"), tmp_path, data=DATA)
    with pytest.raises(RunError, match="epochs"):
        Run.open(options(tmp_path, schedule="cosine", epochs=9), tmp_path, data=DATA, resume=True)


def test_changed_data_is_not_resumed(run: Run) -> None:
    with pytest.raises(RunError, match=r"The data differs from the one that the run in .* was started with"):
        Run.open(options(run.folder), run.folder, data={"data": "other"}, resume=True)


def test_a_run_that_continues_with_other_versions_says_so(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    Run.open(options(run.folder), run.folder, data=DATA, resume=True)
    assert "other versions" not in caplog.text
    file = run.folder / "environment.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"sod": "0.0.1", "packages": stored["packages"] | {"torch": "1.13"}}))
    Run.open(options(run.folder), run.folder, data=DATA, resume=True)
    assert "started with other versions: sod 0.0.1, now " in caplog.text
    assert "torch 1.13, now " in caplog.text


def test_nothing_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run to resume"):
        Run.open(options(tmp_path), tmp_path, data=DATA, resume=True)


@pytest.mark.parametrize("name", ["options.json", "environment.json"])
@pytest.mark.parametrize(
    "content", [b'{"model": "mo', b"", b"[]", b"\0" * 4096, b"null", b'"text"', b"\xff{}", b"[" * 100_000]
)
def test_a_damaged_file_is_named_with_a_way_out_that_works(run: Run, name: str, content: bytes) -> None:
    (run.folder / name).write_bytes(content)
    with pytest.raises(RunError, match=rf"{name} is damaged.* move this file away and resume"):
        Run.open(options(run.folder), run.folder, data=DATA, resume=True)
    with pytest.raises(RunError, match=r"already holds a run\. Continue it with --resume"):
        Run.open(options(run.folder), run.folder, data=DATA)
    run.record(1, {})
    (run.folder / name).rename(run.folder / "away")
    Run.open(options(run.folder), run.folder, data=DATA, resume=True)
    assert (run.folder / name).read_bytes() != content
    assert [row["update"] for row in run.metrics()] == [1]


@pytest.mark.parametrize("sign", ["metrics.jsonl", "checkpoints/update-0010", "trajectories/update-0001.jsonl"])
def test_a_directory_that_lost_its_options_is_not_begun_again(tmp_path: Path, sign: str) -> None:
    (tmp_path / sign).mkdir(parents=True)
    with pytest.raises(RunError, match="already holds a run"):
        Run.open(options(tmp_path), tmp_path, data=DATA)


# How far it is


def test_a_run_knows_how_far_it_is(run: Run) -> None:
    assert (run.newest_checkpoint(), run.updates) == (None, None)
    Run.open(options(run.folder), run.folder, data=DATA, resume=True, updates=10)
    place = run.save(7, writing("x"), keep=2)
    assert (run.newest_checkpoint(), run.updates, run.finished()) == ((7, place), 10, None)
    Run.open(options(run.folder), run.folder, data=DATA, resume=True, updates=7)
    assert (run.updates, run.finished()) == (7, place)


def test_a_training_run_of_an_older_version_says_in_its_options_how_long_it_was_to_be(tmp_path: Path) -> None:
    fields = {"student": "s", "data": "d", "out": tmp_path, "updates": 10}
    run = Run.open(TrainOptions.model_validate(fields), tmp_path, data=DATA)
    assert run.updates == 10
    (tmp_path / "options.json").write_text("[]")
    assert run.updates is None


# Damage


def test_resuming_names_the_damaged_checkpoints_and_the_one_it_takes(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = run.save(1, writing("one"), keep=3), run.save(2, writing("two"), keep=3)
    (newer / "model.safetensors").write_text("twO")
    (run.folder / "checkpoints" / "update-0099").mkdir()
    assert run.take_up() == (1, older)
    said = " ".join(capsys.readouterr().out.split())
    assert "update-0099 is damaged: manifest.json cannot be read" in said
    assert "update-0002 is damaged: model.safetensors differs from manifest.json" in said
    assert f"continues from {older}" in said
    assert run.conclusion() == f"the model is in {newer}"  # of the right size; who loads it compares the hashes
    assert names(run.folder / "checkpoints") == ["update-0001", "update-0002", "update-0099"]


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_again(run: Run) -> None:
    for update in (1, 2):
        run.record(update, {})
        os.truncate(run.save(update, writing("x"), keep=2) / "manifest.json", 5)
    before = sorted(run.folder.rglob("*"))
    with pytest.raises(
        RunError, match=r"Every checkpoint of .* is damaged\..*update-0002 is damaged.*update-0001 is damaged"
    ):
        run.take_up()
    assert sorted(run.folder.rglob("*")) == before


def test_a_run_killed_before_its_first_checkpoint_starts_again_and_says_so(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.take_up() == (0, None)
    assert "no checkpoint yet: the run starts again at update 0" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "manifest",
    ["[]", "{}", "null", "7", '{"a": 1}', '{"a.safetensors": {}}', "{", "\0\0",
     '{"gone.safetensors": {"bytes": 1, "sha256": ""}}', "[" * 100_000],
)  # fmt: skip
def test_a_manifest_that_vouches_for_no_model_makes_no_checkpoint(run: Run, manifest: str) -> None:
    older, newer = run.save(1, writing("one"), keep=2), run.save(2, writing("two"), keep=2)
    (newer / "manifest.json").write_text(manifest)
    assert run.newest_checkpoint() == (1, older)
    assert run.conclusion() == f"the model is in {older}"


def test_a_new_checkpoint_stays_where_a_damaged_one_has_a_higher_number(run: Run) -> None:
    (run.folder / "checkpoints" / "update-0099").mkdir(parents=True)
    for update in (1, 2, 3):
        run.save(update, writing("x"), keep=1)
    assert names(run.folder / "checkpoints") == ["update-0002", "update-0003", "update-0099"]


@pytest.mark.parametrize(
    "damage",
    [b"\0" * 512, b'{"learn/loss": 1}', b"not JSON", b"[1]", b'{"update": "2"}', b'{"update": 2, "a": "b"}', b"\xff"],
)
def test_rows_of_metrics_that_cannot_be_read_are_kept_aside(
    run: Run, damage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for update in (1, 2, 3):
        run.record(update, {"learn/loss": 0.5})
    lines = run.metrics_file.read_bytes().split(b"\n")
    damaged = b"\n".join([lines[0], damage, *lines[2:]])
    run.metrics_file.write_bytes(damaged)
    assert [row["update"] for row in run.metrics()] == [1, 3]
    run.rewind(3)
    assert (run.folder / "metrics.jsonl.damaged").read_bytes() == damaged
    assert run.metrics_file.read_bytes() == b"\n".join([lines[0], *lines[2:]])
    said = " ".join(capsys.readouterr().out.split())
    assert "unreadable lines: 1." in said
    assert "lacks the metrics of 1 of the first 3 updates" in said
    run.rewind(3)
    assert not (run.folder / "metrics.jsonl.damaged-2").exists()


def test_metrics_that_are_gone_are_missed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.rewind(4)
    assert "lacks the metrics of 4 of the first 4 updates" in " ".join(capsys.readouterr().out.split())


def test_a_number_that_is_not_finite_is_null_on_disk_and_nan_when_read(run: Run) -> None:
    run.record(1, {"a": math.nan, "b": math.inf, "c": 1.0}, [{"steps": [{"d": math.nan}]}])
    run.write_results(results({"rows": benchmark({"avg": math.nan})}), "")
    strict = lambda text: json.loads(text, parse_constant=pytest.fail)  # noqa: E731
    assert strict(run.metrics_file.read_text()) == {"update": 1, "a": None, "b": None, "c": 1.0}
    assert strict(run.trajectory_file(1).read_text()) == {"steps": [{"d": None}]}
    assert strict((run.folder / "results.json").read_text())["mean"] == {"avg": None}
    (row,) = run.metrics()
    assert math.isnan(row["a"])
    assert row["c"] == 1.0
    with run.metrics_file.open("a") as file:
        file.write('{"update": 2, "a": NaN}\n')  # as older versions wrote it
    assert math.isnan(run.metrics()[1]["a"])


@pytest.mark.parametrize("below", ["file", "file/run", "file/deep/run"])
def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / below
    with pytest.raises(RunError, match=r"cannot be written: .*Choose another --out"):
        Run.open(options(out), out, data=DATA)
    assert names(tmp_path) == ["file"]
