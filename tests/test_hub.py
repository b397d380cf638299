"""Files and models of the hub: the real client, in a process of its own, against a small hub on this machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from fake_hub import MEMBER, FakeHub
from hub_calls import HubCalls
from transformers import PreTrainedTokenizerBase

from sod.config import PlanOptions, TrainOptions
from sod.errors import ModelError
from sod.model.hub import model_folder, name_on_hub
from sod.model.loading import load_tokenizer
from sod.runs.directory import Run

DATA = "download('org/data', 'a/b.jsonl', revision='main')"
MODEL = "model_folder(Path('org/model'))"
NOBODY = "http://127.0.0.1:9"

Ask = Callable[..., str]


@pytest.fixture(scope="module")
def served() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def hub(served: FakeHub) -> FakeHub:
    served.forget()
    return served


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Place of the client's cache."""
    return tmp_path_factory.mktemp("hub") / "home"


@pytest.fixture(scope="module")
def calls(served: FakeHub, home: Path) -> Iterator[HubCalls]:
    hidden = {"HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    calls = HubCalls(environment | served.environment(home))
    yield calls
    calls.close()


@pytest.fixture
def ask(calls: HubCalls, hub: FakeHub, home: Path, tmp_path: Path) -> Ask:
    """What a call comes to, in a process of its own, with an empty cache before the first."""
    shutil.rmtree(home, ignore_errors=True)
    return partial(calls.evaluate, folder=tmp_path)


@pytest.fixture
def model_files(untrained: Path) -> dict[str, bytes]:
    """A real model, with what a repository has beside it."""
    files = {path.name: path.read_bytes() for path in untrained.iterdir()}
    unwanted = {
        **dict.fromkeys(("pytorch_model.bin", "model.gguf", "README.md"), b"."),
        **dict.fromkeys(("onnx/config.json", "original/consolidated.safetensors", "consolidated.safetensors"), b"."),
    }
    return files | unwanted


# One file


def test_a_file_comes_with_the_commit_that_it_is_from(hub: FakeHub, ask: Ask) -> None:
    commit = hub.add("org/data", {"a/b.jsonl": b"{}\n"}, kind="dataset")
    assert ask(f"{DATA}.commit") == commit
    assert ask(f"{DATA}.path.read_bytes()") == repr(b"{}\n")


def test_a_file_of_a_model_is_one_of_a_model(hub: FakeHub, ask: Ask) -> None:
    commit = hub.add("org/model", {"config.json": b"{}"})
    assert ask("download('org/model', 'config.json', revision='main', kind='model').commit") == commit


def test_a_revision_is_a_branch_or_a_commit_and_keeps_its_files(hub: FakeHub, ask: Ask) -> None:
    old = hub.add("org/data", {"a/b.jsonl": b"old"}, kind="dataset")
    hub.add("org/data", {"a/b.jsonl": b"parquet"}, kind="dataset", revision="refs/convert/parquet")
    assert ask(f"{DATA}.path.read_bytes()") == "b'old'"
    hub.add("org/data", {"a/b.jsonl": b"new"}, kind="dataset")
    assert ask(f"{DATA}.path.read_bytes()") == "b'new'"
    for revision, content in {old: b"old", "refs/convert/parquet": b"parquet"}.items():
        call = f"download('org/data', 'a/b.jsonl', revision={revision!r}).path.read_bytes()"
        assert ask(call) == repr(content)


def test_a_file_of_a_commit_is_fetched_once_and_then_needs_no_network(hub: FakeHub, ask: Ask) -> None:
    commit = hub.add("org/data", {"a/b.jsonl": b"{}\n"}, kind="dataset")
    call = f"download('org/data', 'a/b.jsonl', revision={commit!r})"
    first = ask(call)
    asked = len(hub.requests)
    assert ask(call) == first == ask(call, HF_ENDPOINT=NOBODY) == ask(call, HF_HUB_OFFLINE="1")
    assert len(hub.requests) == asked


def test_a_download_that_breaks_off_goes_on_from_there(hub: FakeHub, ask: Ask) -> None:
    content = bytes(range(250)) * 100_000
    hub.add("org/data", {"a/b.jsonl": content}, kind="dataset")
    hub.breaks_off_after = 15_000_000  # the client keeps what it has in pieces of 10 MiB
    assert ask(f"{DATA}.path.read_bytes() == bytes(range(250)) * 100_000") == "True"
    assert [request[:3] for request in hub.requests].count("GET") == 4  # what it is, twice, and two parts


# What is refused, and what is then to be done


def test_a_gated_repository_says_whose_terms_to_accept_and_opens_to_who_did(hub: FakeHub, ask: Ask) -> None:
    commit = hub.add("org/data", {"a/b.jsonl": b"{}\n"}, kind="dataset", gated=True)
    said = ask(DATA)
    assert said.startswith(f"DataError: {hub.url}/datasets/org/data is gated. Sign in there and accept its terms.")
    assert "HF_TOKEN" in said
    assert "hf auth login" in said
    assert ask(f"{DATA}.commit", HF_TOKEN=MEMBER) == commit
    hub.add("org/model", {"config.json": b"{}", "model.safetensors": b"."}, gated=True)
    assert f"ModelError: {hub.url}/org/model is gated" in ask(MODEL)


def test_a_token_that_is_none_is_named(hub: FakeHub, ask: Ask) -> None:
    hub.add("org/data", {"a/b.jsonl": b"{}\n"}, kind="dataset")
    assert "DataError: The hub does not accept the token" in ask(DATA, HF_TOKEN="hf_stranger")


def test_what_is_not_there_is_named_repository_revision_or_file(hub: FakeHub, ask: Ask) -> None:
    hub.add("org/data", {"a/b.jsonl": b"{}\n"}, kind="dataset")
    assert "/datasets/org/none was not found. Check the name" in ask("download('org/none', 'x', revision='main')")
    assert "has no revision 'v9'" in ask("download('org/data', 'a/b.jsonl', revision='v9')")
    assert "has no file 'x' at revision 'main'" in ask("download('org/data', 'x', revision='main')")
    assert "'a b/c' is not a valid name on the hub" in ask("download('a b/c', 'x', revision='main')")


@pytest.mark.parametrize("revision", ["main", "0" * 40], ids=["branch", "commit"])
def test_without_a_network_it_is_said_how_to_bring_a_file_by_hand(ask: Ask, revision: str) -> None:
    said = ask(f"download('org/data', 'a/b.jsonl', revision={revision!r})", HF_ENDPOINT=NOBODY)
    assert said.startswith(
        f"DataError: a/b.jsonl at revision {revision} of {NOBODY}/datasets/org/data cannot be reached"
    )
    assert f"download {NOBODY}/datasets/org/data/resolve/{revision}/a/b.jsonl on another machine" in said
    assert "`sod data convert FILE`" in said


def test_without_a_network_it_is_said_how_to_bring_a_model_by_hand(ask: Ask) -> None:
    said = ask(MODEL, HF_ENDPOINT=NOBODY)
    assert said.startswith("ModelError: There is no directory org/model here, and ")
    assert "run `hf download org/model --revision main --local-dir FOLDER` on another machine" in said


def test_offline_it_is_said_that_this_was_asked_for(ask: Ask) -> None:
    assert "HF_HUB_OFFLINE is set" in ask(DATA, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in ask(MODEL, HF_HUB_OFFLINE="1")


def test_a_hub_in_trouble_is_no_fault_of_the_users(hub: FakeHub, ask: Ask) -> None:
    hub.status = 503
    assert "DataError: The hub answered with status 503" in ask(DATA)


def test_a_full_disk_is_said_with_where_it_is(hub: FakeHub, ask: Ask, home: Path) -> None:
    hub.add("org/data", {"a/b.jsonl": b"." * 200_000}, kind="dataset")
    said = ask(DATA, file_bytes=100_000)
    assert f"There is no space left for a/b.jsonl at revision main of {hub.url}/datasets/org/data in {home}" in said
    assert "HF_HOME" in said


def test_a_cache_that_cannot_be_written_is_said(hub: FakeHub, ask: Ask, tmp_path: Path) -> None:
    hub.add("org/data", {"a/b.jsonl": b"{}\n"}, kind="dataset")
    (tmp_path / "file").touch()
    assert "file/hub cannot be written: " in ask(DATA, HF_HOME=str(tmp_path / "file"))


@pytest.mark.slow
def test_a_download_that_always_breaks_off_says_that_it_may_be_done_again(hub: FakeHub, ask: Ask) -> None:
    hub.add("org/data", {"a/b.jsonl": b"{}\n"}, kind="dataset")
    hub.breaks_off_after = 0
    said = ask(DATA)
    assert "failed (" in said
    assert "Repeat the command: complete files are kept." in said


# A model


def test_a_name_on_the_hub_is_a_snapshot_of_what_a_model_needs(
    hub: FakeHub, ask: Ask, untrained: Path, model_files: dict[str, bytes]
) -> None:
    commit = hub.add("org/model", model_files)
    said, folder = ask(MODEL).rsplit("\n", 1)
    assert said.startswith(f"org/model is {hub.url}/org/model at {commit[:12]}, ")
    assert said.endswith("MB to download")
    assert {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*")} == {
        path.name for path in untrained.iterdir()
    }
    assert ask(MODEL) == ask(f"model_folder(Path('org/model@{commit}'))")
    assert ask(MODEL).endswith(folder)
    assert "download" not in ask(MODEL)
    assert ask(MODEL, HF_HUB_OFFLINE="1").endswith(folder)


def test_a_tokenizer_comes_without_the_weights(
    hub: FakeHub,
    ask: Ask,
    tokenizer: PreTrainedTokenizerBase,
    model_files: dict[str, bytes],
) -> None:
    hub.add("org/model", model_files)
    folder = Path(ask("model_folder(Path('org/model'), weights=False)").rsplit("\n", 1)[1])
    assert not list(folder.glob("*.safetensors"))
    assert load_tokenizer(folder).get_vocab() == tokenizer.get_vocab()
    assert "HF_HUB_OFFLINE is set" in ask(MODEL, HF_HUB_OFFLINE="1")  # of a model, this is not the whole
    whole = Path(ask(MODEL).rsplit("\n", 1)[1])
    assert whole == folder
    assert list(whole.glob("*.safetensors"))


def test_weights_in_other_formats_are_not_loaded_and_that_is_said(hub: FakeHub, ask: Ask) -> None:
    hub.add("org/model", {"config.json": b"{}", "pytorch_model.bin": b"."})
    assert f"{hub.url}/org/model has no weights in safetensors" in ask(MODEL)


def test_a_name_that_is_neither_a_directory_nor_on_the_hub_may_be_either_misspelt(ask: Ask) -> None:
    assert "ModelError: There is no directory org/model here, and http" in ask(MODEL)
    assert "/org/model was not found. Check the name" in ask(MODEL)


def test_a_directory_is_itself(untrained: Path, tmp_path: Path) -> None:
    for weights in (True, False):
        assert model_folder(untrained, weights=weights) == untrained
        assert model_folder(tmp_path, weights=weights) == tmp_path  # whoever loads it says what is missing


@pytest.mark.parametrize("path", ["/no/where", "nowhere", "a/b/c", "org/name@"])
def test_what_can_be_neither_a_directory_nor_a_name_on_the_hub_says_what_would_do(path: str) -> None:
    with pytest.raises(ModelError, match=r"There is no directory .*a run of `sod train`.*ORG/NAME@REVISION"):
        model_folder(Path(path))


def test_a_path_with_a_typing_error_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever registers a name like a folder's would serve a model to every such error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for path in ("runs/t9", "models/t9", "models/t9@main"):
        with pytest.raises(ModelError, match=rf"^There is no directory {path}\. .* type hf:{path}\.$"):
            model_folder(Path(path))
    for path in ("../runs/t9", "./a/b/c", "~/model", "/runs/t9"):
        with pytest.raises(ModelError, match=r"^There is no directory [^:]*$"):
            model_folder(Path(path))


def test_a_path_with_a_dot_before_it_is_never_a_name_on_the_hub() -> None:
    """pathlib drops the dot, so options read it before, from the command line, a recipe or Python."""
    for path in ("./Qwen/x", "././Qwen/x", "./Qwen/x@main"):
        assert name_on_hub(PlanOptions.model_validate({"student": path}).student) is None
        assert name_on_hub(TrainOptions.model_validate({"student": path, "data": "d", "out": "o"}).student) is None
    for name in ("Qwen/x", "hf:Qwen/x", "../Qwen/x"):
        assert PlanOptions.model_validate({"student": name}).student == Path(name)


def test_a_name_with_hf_before_it_is_one_on_the_hub(hub: FakeHub, ask: Ask, model_files: dict[str, bytes]) -> None:
    hub.add("runs/model", model_files)
    assert ask("model_folder(Path('hf:runs/model'))").startswith(f"runs/model is {hub.url}/runs/model at ")
    assert "There is no directory runs/model" in ask("model_folder(Path('runs/model'))")


def test_an_unfinished_run_that_is_used_as_a_model_is_named_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path)
    for update in (500, 4000):
        run.save(update, lambda place: (place / "config.json").touch(), keep=9)
        (tmp_path / "options.json").write_text('{"updates": 4000}')
        assert model_folder(tmp_path).name == f"update-{update:04}"
        said = " ".join(capsys.readouterr().out.split())
        assert ("is not finished: its model after update 500 of 4000 is used." in said) == (update == 500)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="There is no directory"):
        model_folder(tmp_path / "file")


def test_a_run_is_its_newest_whole_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for update in (1, 2, 3):
        run.save(update, lambda place: (place / "config.json").touch(), keep=9)
    assert model_folder(tmp_path) == model_folder(tmp_path, weights=False) == tmp_path / "checkpoints" / "update-0003"
    (tmp_path / "checkpoints" / "update-0003" / "config.json").write_text("damaged")
    assert model_folder(tmp_path) == tmp_path / "checkpoints" / "update-0002"


def test_a_damaged_newer_checkpoint_is_named_with_the_one_that_is_taken_instead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = (
        Run(tmp_path).save(number, lambda folder: (folder / "config.json").touch(), keep=9) for number in (1, 2)
    )
    (newer / "config.json").write_text("[]")
    assert model_folder(tmp_path) == older
    said = " ".join(capsys.readouterr().out.split())
    assert f"{newer} is damaged: config.json differs from manifest.json." in said
    assert f"The newest valid checkpoint is used: {older}." in said
    (older / "config.json").unlink()
    with pytest.raises(
        ModelError, match=r"holds no valid checkpoint\. .*update-0002 is damaged.*update-0001 is damaged"
    ):
        model_folder(tmp_path)


def test_a_run_without_a_checkpoint_is_no_model_yet(tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text("{}")
    with pytest.raises(ModelError, match="holds no checkpoint yet"):
        model_folder(tmp_path)


def test_the_module_is_light_until_it_is_used() -> None:
    code = "import sys, sod.model.hub; print([n for n in ('torch', 'transformers', 'huggingface_hub') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
