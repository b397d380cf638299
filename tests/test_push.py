"""An exported model on the hub: the real client against a small hub on this machine.

The client uploads large files with Xet or with LFS. The small hub has LFS, which the client also uses without Xet.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from evaluated import write_evaluation
from fake_hub import MEMBER, READER, FakeHub
from huggingface_hub import constants

from sod.cli import run as sod

Push = Callable[..., str]

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning"
)  # the hub's library, of its HTTP library


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def push(
    hub: FakeHub, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Push:
    """Type `sod export MODEL --out model ...`. -> what it prints; its status is checked"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))

    def run(*arguments: str, status: int = 0, token: str = MEMBER, offline: bool = False) -> str:
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        found = sod(["export", str(untrained), "--out", "model", *arguments])
        said = " ".join("".join(capfd.readouterr()).split())
        assert found == status, said
        return said

    return run


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def on_hub(hub: FakeHub, repo: str) -> dict[str, bytes]:
    return {name: content for name, content in hub.files(repo).items() if name != ".gitattributes"}


def test_a_pushed_model_is_the_folder_in_a_private_repository_and_one_commit(
    hub: FakeHub, untrained: Path, tmp_path: Path
) -> None:
    """In a process of its own, with the variables that a user sets."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment |= hub.environment(tmp_path / "home", HF_HUB_DISABLE_XET="1", HF_TOKEN=MEMBER)
    command = ["export", str(untrained), "--out", "model", "--push", "org/tiny", "--license", "apache-2.0"]
    said = subprocess.run(
        [sys.executable, "-m", "sod", *command],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"uploaded: {hub.url}/org/tiny, private, commit " in " ".join(said.split())
    assert on_hub(hub, "org/tiny") == files_of(tmp_path / "model")
    assert {"model.safetensors", "README.md"} <= on_hub(hub, "org/tiny").keys()
    assert hub.visibility("org/tiny") == "private"
    assert hub.requests.count("POST /api/models/org/tiny/commit/main") == 1


def test_a_name_that_is_taken_is_refused_and_overwriting_replaces_everything_in_one_commit(
    hub: FakeHub, push: Push, tmp_path: Path
) -> None:
    hub.add("org/tiny", {".gitattributes": b"", "model-00001-of-00002.safetensors": b"old", "README.md": b"old"})
    said = push("--push", "org/tiny", "--public", status=2)
    assert "The repository org/tiny on the hub exists, with 2 files: README.md, model-00001-of-00002" in said
    assert "--overwrite" in said
    assert not (tmp_path / "model").exists()
    assert "is public already. Give --public" in push("--push", "org/tiny", "--overwrite", status=2)
    push("--push", "org/tiny", "--public", "--overwrite")
    assert on_hub(hub, "org/tiny") == files_of(tmp_path / "model")
    assert hub.requests.count("POST /api/models/org/tiny/commit/main") == 1


def test_a_push_that_breaks_off_leaves_no_file_and_the_same_command_completes_it(
    hub: FakeHub, push: Push, tmp_path: Path
) -> None:
    hub.uploads_left = 0
    said = push("--push", "org/tiny", status=2)
    assert f"The upload to {hub.url}/org/tiny broke off, and no file of it is there" in said
    assert "status 507" in said
    assert "type the same command again to upload it" in said
    assert on_hub(hub, "org/tiny") == {}
    whole = files_of(tmp_path / "model")
    hub.uploads_left = None
    assert "already holds this checkpoint and is uploaded unchanged" in push("--push", "org/tiny")
    assert on_hub(hub, "org/tiny") == whole
    assert hub.visibility("org/tiny") == "private"


def test_a_dry_run_lists_files_and_repository_and_writes_nothing(
    hub: FakeHub, push: Push, untrained: Path, tmp_path: Path
) -> None:
    said = push("--push", "org/tiny", "--public", "--dry-run")
    assert "model.safetensors" in said
    assert "tokenizer.json" in said
    assert f"repository: {hub.url}/org/tiny, public, would be created" in said
    assert not (tmp_path / "model").exists()
    assert hub.visibility("org/tiny") is None


def test_without_a_login_that_may_write_nothing_is_exported(hub: FakeHub, push: Push, tmp_path: Path) -> None:
    wanted = ("--push", "org/tiny")
    assert "Type `hf auth login`, or set HF_TOKEN" in push(*wanted, token="", status=2)
    assert "may only read" in push(*wanted, token=READER, status=2)
    assert "does not accept the token" in push(*wanted, token="hf_wrong", status=2)
    assert "HF_HUB_OFFLINE is set" in push(*wanted, offline=True, status=2)
    assert "add --push ORG/NAME" in push("--public", status=2).replace("Add", "add")
    assert "push = 'tiny' is not the name of a model on the hub" in push("--push", "tiny", status=2)
    assert not (tmp_path / "model").exists()
    assert hub.visibility("org/tiny") is None


def test_an_organisation_that_does_not_take_the_model_is_named(hub: FakeHub, push: Push, tmp_path: Path) -> None:
    said = push("--push", "others/tiny", status=2)
    assert f"The upload to {hub.url}/others/tiny broke off" in said
    assert "the token may not write there" in said
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_folder_of_another_model_is_not_uploaded(hub: FakeHub, push: Push, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "secret.txt").write_text("mine")
    assert "does not hold this checkpoint" in push("--push", "org/tiny", status=2)
    assert hub.visibility("org/tiny") is None


def test_a_folder_that_was_written_with_other_options_is_not_uploaded(
    hub: FakeHub, push: Push, untrained: Path, tmp_path: Path
) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    write_evaluation(Path(first), untrained)
    write_evaluation(Path(second), untrained, partial=True)
    written = ("--license", "apache-2.0", "--dtype", "bfloat16", "--name", "Tiny", "--base", "org/base")
    push(*written, "--results", first)
    others = [
        ("--license", "mit"),
        ("--dtype", "float32"),
        ("--name", "Tin"),
        ("--base", "org/other"),
        ("--results", second),
        ("--results", first, second),
    ]
    for given in others:
        for words in (given, (*given, "--dry-run")):
            said = push("--push", "org/tiny", *words, status=2)
            assert (
                f"written with another value of {given[0]}. An exported folder is never changed. Choose another" in said
            )
    assert hub.visibility("org/tiny") is None
    assert "is uploaded unchanged" in push("--push", "org/tiny", *written, "--results", first)
    assert "is uploaded unchanged" in push("--push", "org/tiny", "--overwrite")
