"""Experiment trackers: the real packages, on files of this machine. What arrives is what metrics.jsonl holds."""

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sod.arguments.parsing import parse_options
from sod.config import SftOptions, TrainOptions
from sod.errors import OptionError, TrainingError
from sod.processes.distributed import Ranks
from sod.processes.interrupts import Terminated
from sod.runs.directory import Run
from sod.runs.validations import Validation, add_validation, read_validations
from sod.trackers import base, sending
from sod.trackers.sending import tracked
from sod.trackers.tensorboard import TensorBoard

Curve = dict[int, dict[str, float]]
"""Update -> its metrics."""

PACKAGES = {name: find_spec(name) is not None for name in ("trackio", "tensorboard", "wandb", "mlflow")}
LOCAL = [
    pytest.param(
        name, marks=pytest.mark.skipif(not installed, reason=f"{name} is not installed: {base.NEEDS[name].install}")
    )
    for name, installed in PACKAGES.items()
]
needs_tensorboard = pytest.mark.skipif(not PACKAGES["tensorboard"], reason='pip install ".[track]"')

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"
)


@pytest.fixture(scope="module", autouse=True)
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which every tracker keeps its data; no login, no network."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "HF_TOKEN", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(autouse=True)
def report_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is drawn in one test only: drawing takes seconds."""
    monkeypatch.setattr(sending, "_files", lambda run: [run.folder / "options.json"])


class Tried:
    """A run directory that is filled by hand."""

    def __init__(self, folder: Path, *trackers: str, **options: Any):
        self.options = SftOptions.model_validate(
            {"model": "m", "data": "d", "out": folder, "track": trackers, **options}
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.run = Run(folder)
        if not self.run.begun:
            self.run.write_options(self.options)

    def record(self, first: int, last: int, *, validated: Collection[int] = (), **options: Any) -> None:
        """Record the updates from `first` to `last` in a process of the run, and validations after some updates."""
        with tracked(self.run, self.options, **options) as tracking:
            for update in range(first - 1, last + 1):
                if update >= first:
                    row = row_of(update)
                    self.run.record(update, row)
                    tracking.log(update, row)
                if update in validated:
                    metrics = {"validate/held/avg": update / 16, "validate/avg": update / 16}
                    add_validation(self.run.folder, Validation(update, {"samples": 4}, metrics, {}))
                    tracking.log_validation(update, metrics)
            tracking.alert(last, "divergence", "the divergence rose")

    @property
    def expected(self) -> Curve:
        found = {
            int(row["update"]): {name: row[name] for name in row if name != "update"} for row in self.run.metrics()
        }
        for each in read_validations(self.run.folder):
            found[each.update] = found.get(each.update, {}) | each.metrics
        return found

    def stored(self, tracker: str) -> dict[str, Any]:
        return json.loads((self.run.folder / "tracking" / f"{tracker}.json").read_text())


def row_of(update: int) -> dict[str, float]:
    return {"learn/loss": 1 / update, "rollout/solved": update / 8, "stop/max_tokens": 0.0}


# What each tracker holds, read with its own package


def in_tensorboard(folder: Path, stored: Mapping[str, Any]) -> Curve:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / stored["id"]), size_guidance={"scalars": 0})
    events.Reload()
    return curve([(event.step, name, event.value) for name in scalar_tags(events) for event in events.Scalars(name)])


def scalar_tags(events: Any) -> list[str]:
    return [name for name in events.Tags()["scalars"] if "/" in name]


def in_trackio(folder: Path, stored: Mapping[str, Any]) -> Curve:
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs(stored["project"], stored["id"], max_points=10**6)
    return curve([(row["step"], name, row[name]) for row in rows for name in row if "/" in name])


def in_mlflow(folder: Path, stored: Mapping[str, Any]) -> Curve:
    from mlflow import MlflowClient

    client = MlflowClient()
    names = client.get_run(stored["id"]).data.metrics
    return curve([(m.step, name, m.value) for name in names for m in client.get_metric_history(stored["id"], name)])


def in_wandb(folder: Path, stored: Mapping[str, Any]) -> Curve:
    """Read the offline files of the run, which `wandb sync` sends."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: list[tuple[int, str, float]] = []
    for file in sorted(Path("wandb").glob(f"offline-run-*-{stored['id']}/*.wandb")):
        for data in records(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            found += [(record.history.step.num, name, json.loads(items[name])) for name in items if "/" in name]
    return curve(found)


def records(data: bytes) -> Iterator[bytes]:
    """Yield the records of LevelDB's log format after W&B's header of 7 bytes. Blocks have 32 KiB."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := -at % 32768) and left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # complete, or its last part
            yield whole
            whole = b""


def curve(points: list[tuple[int, str, float]]) -> Curve:
    """Return the points as a curve. A point that is there twice fails the test."""
    found: Curve = {}
    for step, name, value in points:
        assert name not in found.setdefault(step, {}), f"{name} has step {step} twice"
        found[step][name] = pytest.approx(value, rel=1e-6)  # TensorBoard keeps 32 bits
    return found


READERS: dict[str, Callable[[Path, Mapping[str, Any]], Curve]] = {
    "trackio": in_trackio,
    "tensorboard": in_tensorboard,
    "wandb": in_wandb,
    "mlflow": in_mlflow,
}


def sent(tried: Tried, tracker: str) -> Curve:
    return READERS[tracker](tried.run.folder, tried.stored(tracker))


# Sending


@pytest.mark.parametrize("tracker", LOCAL)
def test_every_update_arrives_once_as_in_the_run_directory(tracker: str, tmp_path: Path) -> None:
    tried = Tried(tmp_path / "run", tracker)
    tried.record(1, 3)
    assert sent(tried, tracker) == tried.expected
    assert set(tried.expected) == {1, 2, 3}


@pytest.mark.parametrize("tracker", LOCAL)
def test_a_resumed_run_continues_its_curve_and_no_step_is_there_twice(tracker: str, tmp_path: Path) -> None:
    """After a crash at update 4 with a checkpoint at 2, updates 3 and 4 are computed again."""
    tried = Tried(tmp_path / "run", tracker)
    tried.record(1, 4)
    before = tried.stored(tracker)
    tried.run.rewind(2)
    tried.record(3, 6)
    assert tried.stored(tracker)["id"] == before["id"]
    assert sent(tried, tracker) == tried.expected
    assert set(tried.expected) == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("tracker", LOCAL)
def test_a_tracker_that_is_added_later_gets_the_whole_curve(tracker: str, tmp_path: Path) -> None:
    Tried(tmp_path / "run").record(1, 2)
    tried = Tried(tmp_path / "run", tracker)
    tried.record(3, 3)
    assert sent(tried, tracker) == tried.expected
    assert set(tried.expected) == {1, 2, 3}


@pytest.mark.parametrize("tracker", LOCAL)
def test_another_project_gets_a_run_of_its_own_with_the_whole_curve(tracker: str, tmp_path: Path) -> None:
    Tried(tmp_path / "run", tracker).record(1, 2)
    tried = Tried(tmp_path / "run", tracker, tracking={"project": "another"})
    tried.record(3, 3)
    assert tried.stored(tracker)["project"] == "another"
    assert sent(tried, tracker) == tried.expected


@pytest.mark.parametrize("tracker", LOCAL)
def test_validations_arrive_once_although_some_are_repeated_after_a_crash(tracker: str, tmp_path: Path) -> None:
    """After a crash at update 4 with a checkpoint at 2, the validation after update 4 is repeated."""
    tried = Tried(tmp_path / "run", tracker)
    tried.record(1, 4, validated=(0, 2, 4))
    assert sent(tried, tracker) == tried.expected
    tried.run.rewind(2)
    tried.record(3, 6, validated=(4, 6))
    assert sent(tried, tracker) == tried.expected
    assert [each.update for each in read_validations(tried.run.folder)] == [0, 2, 4, 6]
    assert (tried.stored(tracker)["sent"], tried.stored(tracker)["validated"]) == (6, 6)


@pytest.mark.parametrize("tracker", LOCAL)
def test_a_tracker_that_is_added_later_or_gets_a_new_run_has_all_validations(tracker: str, tmp_path: Path) -> None:
    Tried(tmp_path / "run").record(1, 2, validated=(0, 2))
    tried = Tried(tmp_path / "run", tracker)
    tried.record(3, 3, validated=(3,))
    assert sent(tried, tracker) == tried.expected
    assert [step for step, row in tried.expected.items() if "validate/avg" in row] == [2, 3, 0]
    tried = Tried(tmp_path / "run", tracker, tracking={"project": "validated"})
    tried.record(4, 4)
    assert sent(tried, tracker) == tried.expected


@pytest.mark.skipif(not PACKAGES["trackio"], reason='pip install ".[track]"')
def test_trackio_has_options_alarms_and_files_and_two_runs_of_one_name_stay_apart(tmp_path: Path) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    one, other = Tried(tmp_path / "a" / "same", "trackio"), Tried(tmp_path / "b" / "same", "trackio")
    one.record(1, 1)
    other.record(1, 2)
    names = [tried.stored("trackio")["id"] for tried in (one, other)]
    assert names[0] != names[1]
    assert all(name.startswith("same-") for name in names)
    config = SQLiteStorage.get_run_config("sod", names[0])
    assert config is not None
    assert config["learn.lr"] == one.options.learn.lr
    assert config["run_directory"] == str(tmp_path / "a" / "same")
    alerts = [alert for alert in SQLiteStorage.get_alerts("sod") if alert["run"] == names[1]]
    assert [(alert["title"], alert["text"], alert["step"]) for alert in alerts] == [
        ("divergence", "the divergence rose", 2)
    ]
    assert names[0] in {artifact["name"] for artifact in SQLiteStorage.get_artifacts("sod")}


@needs_tensorboard
def test_tensorboard_has_options_and_alarms_as_text_and_the_end_of_the_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tried = Tried(tmp_path / "run", "tensorboard")
    with suppress(TrainingError), tracked(tried.run, tried.options) as tracking:
        tracking.alert(3, "divergence", "the divergence rose")
        raise TrainingError("no token to train on")
    events = EventAccumulator(str(tried.run.folder / "tensorboard"))
    events.Reload()

    def text(name: str) -> str:
        return events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()

    assert f"lr = {tried.options.learn.lr}" in text("options")
    assert text("alarm/divergence") == "the divergence rose"
    assert text("state") == "failed TrainingError: no token to train on"


@pytest.mark.skipif(not PACKAGES["mlflow"], reason="pip install mlflow")
def test_mlflow_has_the_state_in_which_the_run_ended(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    ends = {"FINISHED": None, "FAILED": TrainingError("broken"), "KILLED": Terminated(15)}
    for state, error in ends.items():
        tried = Tried(tmp_path / state, "mlflow")
        with suppress(TrainingError, Terminated), tracked(tried.run, tried.options):
            if error:
                raise error
        run = MlflowClient().get_run(tried.stored("mlflow")["id"])
        assert run.info.status == state
        assert run.data.params["learn.lr"] == str(tried.options.learn.lr)


# Trackers that fail


class FailsOnce(TensorBoard):
    """TensorBoard that is down during updates 2 and 3."""

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        if update == 2 and not down.is_set():
            down.set()
            raise ConnectionError("no route to host")
        super().log(update, metrics)


class RefusesValidationsOnce(TensorBoard):
    """TensorBoard that is down when the first validation comes."""

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        if "validate/avg" in metrics and not down.is_set():
            down.set()
            raise ConnectionError("no route to host")
        super().log(update, metrics)


class Stuck(TensorBoard):
    """TensorBoard that never answers."""

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        threading.Event().wait()


down = threading.Event()


def replaced(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sending.TRACKERS, "tensorboard", f"{__name__}:{name}")


@needs_tensorboard
def test_a_tracker_that_fails_in_the_middle_warns_once_and_gets_the_missing_updates_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(monkeypatch, "FailsOnce")
    down.clear()
    tried = Tried(tmp_path / "run", "tensorboard")
    tried.record(1, 4)
    assert sent(tried, "tensorboard") == tried.expected
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("tensorboard does not accept the run (ConnectionError: no route to host)") == 1
    assert "Check that the run directory can be written." in said


@needs_tensorboard
def test_a_validation_that_a_tracker_did_not_accept_is_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(monkeypatch, "RefusesValidationsOnce")
    down.clear()
    tried = Tried(tmp_path / "run", "tensorboard")
    tried.record(1, 2, validated=(0, 2))
    assert sent(tried, "tensorboard") == tried.expected
    assert " lacks " not in capsys.readouterr().out


@needs_tensorboard
def test_a_tracker_that_cannot_be_opened_costs_nothing_and_resuming_sends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = Tried(tmp_path / "run", "tensorboard")
    (tmp_path / "run" / "tensorboard").write_text("a file in place of the folder")
    tried.record(1, 2)
    assert set(tried.expected) == {1, 2}
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("tensorboard does not accept the run") == 1
    assert "tensorboard lacks update 1 and later ones." in said
    assert "repeat the command with --resume" in said
    (tmp_path / "run" / "tensorboard").unlink()
    tried.record(3, 3)
    assert sent(tried, "tensorboard") == tried.expected


@needs_tensorboard
def test_a_tracker_that_never_answers_does_not_keep_the_run_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(monkeypatch, "Stuck")
    monkeypatch.setattr(sending, "END_SECONDS", 0.1)
    tried = Tried(tmp_path / "run", "tensorboard")
    tried.record(1, 2)
    assert set(tried.expected) == {1, 2}
    assert "tensorboard lacks update 1" in " ".join(capsys.readouterr().out.split())


def test_only_the_first_process_sends(tmp_path: Path) -> None:
    tried = Tried(tmp_path / "run", "tensorboard", "trackio")
    tried.record(1, 1, ranks=Ranks(rank=1, count=2))
    assert not (tmp_path / "run" / "tracking").exists()


# Whole commands


@needs_tensorboard
def test_a_training_run_is_tracked_and_resumed(
    untrained: Path, problem_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sod.lab import settings
    from sod.training.on_policy import train

    monkeypatch.undo()  # the page is drawn
    names = [name for name in ("tensorboard", "trackio") if PACKAGES[name]]
    options: dict[str, Any] = {
        "student": untrained,
        "data": problem_file,
        "out": tmp_path / "run",
        "algorithm": {"name": "grpo"},
        "rollout": settings.ROLLOUT | {"problems": 2, "group": 2, "max_tokens": 40},
        "reward": settings.REWARD,
        "tool": settings.TOOL,
        "track": names,
        "tracking": {"project": "whole"},
        "save_every": 1,
        "validate": {"data": (str(problem_file),), "limit": 1, "samples": 1, "every": 1},
    }
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path.parent / "trackio"))
    run = train(TrainOptions.model_validate(options | {"updates": 1}))
    train(TrainOptions.model_validate(options | {"updates": 2, "resume": True}))
    tried = Tried(run.folder)
    for name in names:
        assert sent(tried, name) == tried.expected
    assert [step for step, row in sorted(tried.expected.items()) if "validate/avg" in row] == [0, 1, 2]
    page = (run.folder / "tracking" / "report.html").read_text()
    assert page.startswith("<!doctype html>")


@pytest.mark.skipif(not PACKAGES["trackio"], reason='pip install ".[track]"')
def test_a_local_trackio_starts_no_server_and_uses_no_network(tmp_path: Path) -> None:
    code = f"""
import sys
seen = []
watched = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen")
sys.addaudithook(lambda event, args: seen.append((event, str(args))) if event in watched else None)
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from sod.trackers import sending
from test_trackers import Tried
sending._files = lambda run: [run.folder / "options.json"]
tried = Tried(Path("run"), "trackio")
tried.record(1, 2)
assert tried.stored("trackio")["sent"] == 2
print("SEEN", seen)
"""
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "TRACKIO_DIR": str(tmp_path / "trackio")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert "SEEN []" in result.stdout, result.stdout + result.stderr


# Options


def test_trackers_are_named_after_one_flag(tmp_path: Path) -> None:
    given = ["--student", "s", "--data", "d", "--out", "o", "--track", "trackio", "tensorboard"]
    options = parse_options("train", TrainOptions, [*given, "--tracking.project", "math"])
    assert options.track == ("trackio", "tensorboard")
    assert options.tracking.project == "math"
    with pytest.raises(OptionError, match="trackio, wandb, tensorboard or mlflow"):
        parse_options("train", TrainOptions, [*given, "tensorbord"])


def test_a_missing_package_is_named_with_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "wandb").mkdir()  # W&B's own folder of runs is no package
    monkeypatch.setattr(
        base, "find_spec", lambda name: None if name != "wandb" else find_spec_without_installed("wandb", tmp_path)
    )
    said = list(base.tracker_refusals(("trackio", "wandb")))
    assert said == [
        'track = trackio needs the package trackio, which is not installed. Type pip install ".[track]" in a checkout of sod.',
        "track = wandb needs the package wandb, which is not installed. Type pip install wandb.",
    ]


def find_spec_without_installed(name: str, folder: Path) -> Any:
    from importlib.machinery import PathFinder

    return PathFinder.find_spec(name, [str(folder)])


def test_wandb_without_a_login_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(base, "find_spec", lambda name: find_spec("json"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "Type `wandb login`, or set WANDB_API_KEY" in "".join(base.tracker_refusals(("wandb",)))
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    assert not list(base.tracker_refusals(("wandb",)))
    (tmp_path / "netrc").unlink()
    for name, value in {"WANDB_API_KEY": "key", "WANDB_MODE": "offline"}.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not list(base.tracker_refusals(("wandb",)))


def test_the_project_is_the_option_else_the_variable_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    assert base.project_of("wandb", None) == base.project_of("trackio", None) == "sod"
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert base.project_of("wandb", None) == "mine"
    assert base.project_of("wandb", "option") == "option"
    assert base.project_of("trackio", None) == "sod"
