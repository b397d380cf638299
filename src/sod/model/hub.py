"""Find models in directories and runs, and download models and files from the Hugging Face hub.

The hub's own library downloads and caches. Its settings apply: HF_TOKEN (or `hf auth login`), HF_HOME, HF_HUB_OFFLINE,
HF_ENDPOINT. This module selects the files, and converts errors to plain messages.
"""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sod.console.progress import console, echo, warn
from sod.errors import DataError, ModelError
from sod.runs.checkpoints import updates_of
from sod.runs.directory import Run
from sod.runs.files import NO_ROOM
from sod.runs.validations import BEST

if TYPE_CHECKING:
    from huggingface_hub import ResolvedRevision

Kind = Literal["dataset", "model"]

HUB_NAME = re.compile(r"(?P<explicit>hf:)?(?P<repo>[\w-][\w.-]*/[\w.-]+)(@(?P<revision>.+))?")
"""A name on the hub: ORG/NAME or ORG/NAME@REVISION, optionally after hf:."""
OUR_FOLDERS = {"runs", "data", "recipes", "checkpoints"}
"""Folders that this project's examples use. They are never read as an owner on the hub."""
TOKENIZER_FILES = [
    *("config.json", "generation_config.json", "tokenizer*", "vocab.*", "merges.txt", "chat_template.*"),
    *("special_tokens_map.json", "added_tokens.json"),
]
WEIGHT_FILES = ["*.safetensors", "*.safetensors.index.json"]
GGUF = ".gguf"
UNWANTED = ["*/*", "consolidated*"]
"""Patterns of folders with other formats, and of the same weights in Mistral's own layout."""


@dataclass(frozen=True)
class Downloaded:
    """A downloaded file."""

    path: Path
    commit: str
    """Full commit hash of its revision."""


def download(repo: str, file: str, *, revision: str, kind: Kind = "dataset") -> Downloaded:
    """Return one file of a repository, from the cache or downloaded. Raise DataError, or ModelError for a model's file."""
    wanted = _Wanted(repo, revision, kind, file)
    with _in_plain_words(wanted):
        from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
        from huggingface_hub.constants import is_offline_mode

        commit = _commit(wanted)
        cached = try_to_load_from_cache(repo, file, revision=commit.resolved, repo_type=kind)
        if isinstance(cached, str):
            return Downloaded(Path(cached), commit.resolved)
        if not is_offline_mode():  # fails fast: without a network, the download itself retries for half a minute
            HfApi().repo_info(repo, repo_type=kind, revision=commit)
        path = hf_hub_download(repo, file, repo_type=kind, revision=commit, local_files_only=is_offline_mode())
        return Downloaded(Path(path), commit.resolved)


def model_folder(model: Path, *, weights: bool = True) -> Path:
    """Return the folder of a model: a directory, the newest checkpoint of a run, or a snapshot of [hf:]ORG/NAME[@REVISION].

    RUN/best, the best checkpoint of a run with validation, is a link, and so an ordinary directory.

    Without `weights`, only the tokenizer is downloaded. The content of a directory is not checked. Raise ModelError if there
    is no such model.
    """
    refuse_gguf(model)
    if model.is_dir():
        own = model / ("config.json" if weights else "tokenizer_config.json")
        is_run = (model / "options.json").is_file() or (model / "checkpoints").is_dir()
        return _newest_checkpoint(model) if is_run and not own.is_file() else model
    if model.name == BEST and not model.exists() and Run(model.parent).begun:
        raise ModelError(
            f"The run in {model.parent} has no best checkpoint, because it had no validation (--validate.data). Give "
            f"{model.parent} for its newest checkpoint."
        )
    name = name_on_hub(model)
    if model.exists() or name is None:
        like = HUB_NAME.fullmatch(str(model)) and not model.exists()
        explicit = f" To use the model on the hub, type hf:{model}." if like else ""
        raise ModelError(
            f"There is no directory {model}. Give a model's directory, a run of `sod train` or `sod sft`, or a name on the "
            f"Hugging Face hub, ORG/NAME or ORG/NAME@REVISION.{explicit}"
        )
    return _snapshot(_Wanted(name["repo"], name["revision"] or "main", "model"), weights=weights)


def refuse_gguf(model: Path) -> None:
    """Raise ModelError for a GGUF file, and for a directory that holds only GGUF files. The message names `sod import`."""
    if model.is_dir() and not (model / "config.json").exists():
        found = sorted(model.glob(f"*{GGUF}"))
    else:
        found = [model] if model.suffix == GGUF and model.is_file() else []
    if found:
        out = found[0].with_suffix("")
        raise ModelError(
            f"{found[0]} is a GGUF file, which sod reads only to convert it. Type sod import {shlex.quote(str(found[0]))} --out "
            f"{shlex.quote(out.name)}, and give {out.name} as the model."
        )


def _newest_checkpoint(run: Path) -> Path:
    folder, damaged = Run(run).newest_whole()
    if folder is None:
        raise ModelError(
            f"The run in {run} holds no valid checkpoint. {' '.join(damaged)} Restore one of them, or give another model."
            if damaged
            else f"The run in {run} holds no checkpoint yet. Continue it until it has saved one, or give another model."
        )
    if damaged:
        warn(f"{' '.join(damaged)} The newest valid checkpoint is used: {folder}.")
    update, planned = updates_of(folder), Run(run).updates
    if planned and update < planned:
        echo(
            f"{run} is not finished: its model after update {update} of {planned} is used. Continue the run with --resume."
        )
    return folder


def name_on_hub(model: Path) -> re.Match[str] | None:
    """Return the parts of ORG/NAME[@REVISION], or None if it must not be looked up on the hub.

    Without hf: before it, a name is not looked up if ORG is an existing directory or one of `OUR_FOLDERS`. A mistyped path
    must not download an unrelated model.
    """
    name = HUB_NAME.fullmatch(str(model))
    if name is None or name["explicit"]:
        return name
    return None if model.parts[0] in OUR_FOLDERS or Path(model.parts[0]).exists() else name


@dataclass(frozen=True)
class _Wanted:
    repo: str
    revision: str
    kind: Kind
    file: str | None = None

    @property
    def page(self) -> str:
        from huggingface_hub.constants import ENDPOINT

        return f"{ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    @property
    def place(self) -> str:
        return f"{self.file or 'the model'} at revision {self.revision} of {self.page}"

    @property
    def by_hand(self) -> str:
        """Return how to get the files without a network connection on this machine."""
        if self.kind == "dataset":
            address = f"{self.page}/resolve/{self.revision}/{self.file}"
            return f"download {address} on another machine, copy it here, and type `sod data convert FILE`"
        command = f"hf download {self.repo} --revision {self.revision} --local-dir FOLDER"
        return f"run `{command}` on another machine, copy the folder here, and give it as the model"


def _snapshot(wanted: _Wanted, *, weights: bool) -> Path:
    with _in_plain_words(wanted):
        from huggingface_hub import snapshot_download
        from huggingface_hub.constants import is_offline_mode
        from huggingface_hub.utils.tqdm import disable_progress_bars

        commit = _commit(wanted)
        patterns = [*TOKENIZER_FILES, *(WEIGHT_FILES if weights else ())]
        fetch = partial(
            snapshot_download, wanted.repo, revision=commit, allow_patterns=patterns, ignore_patterns=UNWANTED
        )
        missing = 0
        if not is_offline_mode():
            with disable_progress_bars():
                missing = sum(file.file_size or 0 for file in fetch(dry_run=True) if file.will_download)
        to_fetch = f", {missing / 1e6:,.1f} MB to download" if missing else ""
        echo(f"{wanted.repo} is {wanted.page} at {commit.resolved[:12]}{to_fetch}")
        with nullcontext() if missing and console.is_terminal else disable_progress_bars():
            folder = Path(fetch(local_files_only=is_offline_mode()))
    if weights and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{wanted.page} has no weights in safetensors (downloaded to {folder}), and sod reads no other format. Give another "
            "model or revision."
        )
    return folder


def _commit(wanted: _Wanted) -> "ResolvedRevision":
    from huggingface_hub import resolve_revision
    from huggingface_hub.constants import is_offline_mode

    return resolve_revision(
        wanted.repo, repo_type=wanted.kind, revision=wanted.revision, local_files_only=is_offline_mode()
    )


@contextmanager
def _in_plain_words(wanted: _Wanted) -> Iterator[None]:
    """Convert exceptions of the hub's library to errors with a remedy."""
    import httpx2  # the HTTP library that it uses
    from huggingface_hub.errors import HFValidationError, RevisionResolutionError

    try:
        yield
    except (  # RuntimeError: from hf_xet, which is written in Rust
        *(httpx2.HTTPError, HFValidationError, RevisionResolutionError, OSError, RuntimeError),
    ) as error:
        raise (DataError if wanted.kind == "dataset" else ModelError)(_explained(wanted, error)) from error


def _explained(wanted: _Wanted, error: BaseException) -> str:
    import httpx2
    from huggingface_hub import errors
    from huggingface_hub.constants import HF_HUB_CACHE, is_offline_mode

    page = wanted.page
    not_here = f"There is no directory {wanted.repo} here, and " if wanted.kind == "model" else ""
    match error:
        case errors.HFValidationError():
            return f"{wanted.repo!r} is not a valid name on the hub: {error}"
        case errors.GatedRepoError():
            return (
                f"{page} is gated. Sign in there and accept its terms. Then give the token of that account: set HF_TOKEN, or "
                "run `hf auth login`."
            )
        case errors.RepositoryNotFoundError():
            return f"{not_here}{page} was not found. Check the name; if it is private, set HF_TOKEN or run `hf auth login`."
        case errors.RevisionNotFoundError():
            return f"{page} has no revision {wanted.revision!r}. Give a branch, a tag or a commit that it has."
        case errors.RemoteEntryNotFoundError():
            return f"{page} has no file {wanted.file!r} at revision {wanted.revision!r}. Give another revision."
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return (
                f"The hub does not accept the token for {page}. Give a token with read access: set HF_TOKEN, or run "
                "`hf auth login`."
            )
        case errors.HfHubHTTPError():
            return f"The hub answered with status {error.response.status_code} for {page}. Try again later."
        case errors.LocalEntryNotFoundError() | errors.RevisionResolutionError() if is_offline_mode():
            return (
                f"{not_here}{wanted.place} is missing or incomplete in {HF_HUB_CACHE}. HF_HUB_OFFLINE is set, so it cannot be "
                f"downloaded. Unset it, or {wanted.by_hand}."
            )
        case errors.LocalEntryNotFoundError() | errors.RevisionResolutionError() | errors.DryRunError() if (
            error.__cause__ is not None
        ):
            return _explained(wanted, error.__cause__)
        case httpx2.ConnectError() | httpx2.TimeoutException():
            return f"{not_here}{wanted.place} cannot be reached ({error}). Without a network, {wanted.by_hand}."
        case OSError() if error.errno in NO_ROOM:
            return (
                f"There is no space left for {wanted.place} in {HF_HUB_CACHE}. Free some, or set HF_HOME to a folder on another "
                "disk. Complete files are kept."
            )
        case OSError() if error.errno is not None:
            return f"{HF_HUB_CACHE} cannot be written: {error}. Set HF_HOME to a writable folder."
        case _:
            return f"The download of {wanted.place} failed ({error}). Repeat the command: complete files are kept."
