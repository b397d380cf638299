"""Files and models of the Hugging Face hub, or wherever they are.

The hub's own library does the work and keeps what it fetched; its settings hold here too: HF_TOKEN (or `hf auth login`),
HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT. This module says which files, and what is wrong, in plain words.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sod.console.progress import console, say, warn
from sod.errors import DataError, ModelError
from sod.runs.checkpoints import number
from sod.runs.directory import Run
from sod.runs.files import NO_ROOM

if TYPE_CHECKING:
    from huggingface_hub import ResolvedRevision

Kind = Literal["dataset", "model"]

NAME = re.compile(r"(?P<explicit>hf:)?(?P<repo>[\w-][\w.-]*/[\w.-]+)(@(?P<revision>.+))?")
"""ORG/NAME or ORG/NAME@REVISION, with or without hf: before it."""
OUR_FOLDERS = {"runs", "data", "recipes", "checkpoints"}
"""Where this project's own examples write and read: no owner on the hub is meant by these."""
TOKENIZER_FILES = [
    *("config.json", "generation_config.json", "tokenizer*", "vocab.*", "merges.txt", "chat_template.*"),
    *("special_tokens_map.json", "added_tokens.json"),
]
WEIGHT_FILES = ["*.safetensors", "*.safetensors.index.json"]
UNWANTED = ["*/*", "consolidated*"]
"""Other formats' folders, and the same weights in Mistral's own layout."""


@dataclass(frozen=True)
class Downloaded:
    path: Path
    commit: str
    """The revision that it is from, in full."""


def download(repo: str, file: str, *, revision: str, kind: Kind = "dataset") -> Downloaded:
    """One file of a repository, from the cache if it is there. Raises DataError, for a model's file ModelError."""
    wanted = _Wanted(repo, revision, kind, file)
    with _in_plain_words(wanted):
        from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
        from huggingface_hub.constants import is_offline_mode

        commit = _commit(wanted)
        cached = try_to_load_from_cache(repo, file, revision=commit.resolved, repo_type=kind)
        if isinstance(cached, str):
            return Downloaded(Path(cached), commit.resolved)
        if not is_offline_mode():  # is it there at all? Without a network, the download would try for half a minute
            HfApi().repo_info(repo, repo_type=kind, revision=commit)
        path = hf_hub_download(repo, file, repo_type=kind, revision=commit, local_files_only=is_offline_mode())
        return Downloaded(Path(path), commit.resolved)


def model_folder(model: Path, *, weights: bool = True) -> Path:
    """Where a model is: its directory, the newest checkpoint of a run, or a snapshot of the hub's [hf:]ORG/NAME[@REVISION].

    Without `weights`, only its tokenizer is wanted. A directory is not looked into: whoever loads the model says what is
    missing. Raises ModelError.
    """
    if model.is_dir():
        own = model / ("config.json" if weights else "tokenizer_config.json")
        is_run = (model / "options.json").is_file() or (model / "checkpoints").is_dir()
        return _newest_checkpoint(model) if is_run and not own.is_file() else model
    name = name_on_hub(model)
    if model.exists() or name is None:
        like = NAME.fullmatch(str(model)) and not model.exists()
        explicit = f" If the hub's model is meant, type hf:{model}." if like else ""
        raise ModelError(
            f"There is no directory {model}. Give a model's directory, a run of `sod train` or `sod sft`, or a name on the "
            f"Hugging Face hub, ORG/NAME or ORG/NAME@REVISION.{explicit}"
        )
    return _snapshot(_Wanted(name["repo"], name["revision"] or "main", "model"), weights=weights)


def _newest_checkpoint(run: Path) -> Path:
    folder, damaged = Run(run).newest_whole()
    if folder is None:
        raise ModelError(
            f"The run in {run} holds no whole checkpoint. {' '.join(damaged)} Restore one of them, or give another model."
            if damaged
            else f"The run in {run} holds no whole checkpoint; let it go on until it has saved one."
        )
    if damaged:
        warn(f"{' '.join(damaged)} The model is the newest whole checkpoint, {folder}.")
    update, planned = number(folder), Run(run).updates
    if planned and update < planned:
        say(f"{run} is unfinished: the model is that of update {update} of {planned}. Continue the run with --resume.")
    return folder


def name_on_hub(model: Path) -> re.Match[str] | None:
    """ORG/NAME[@REVISION] in its parts, where that may be looked up on the hub.

    Without hf: before it, it may not where ORG is a directory here, or one that this project writes: a path with a typing
    error must not become somebody's model.
    """
    name = NAME.fullmatch(str(model))
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
        """How to do without a network here."""
        if self.kind == "dataset":
            address = f"{self.page}/resolve/{self.revision}/{self.file}"
            return f"fetch {address} on another machine and read the file here with `sod data convert FILE`"
        command = f"hf download {self.repo} --revision {self.revision} --local-dir FOLDER"
        return f"run `{command}` on another machine and give that folder here"


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
        to_fetch = f", {missing / 1e6:,.1f} MB to fetch" if missing else ""
        say(f"{wanted.repo} is {wanted.page} at {commit.resolved[:12]}{to_fetch}")
        with nullcontext() if missing and console.is_terminal else disable_progress_bars():
            folder = Path(fetch(local_files_only=is_offline_mode()))
    if weights and not any(folder.glob("*.safetensors")):
        raise ModelError(f"There are no weights in safetensors among the files of {wanted.page} in {folder}.")
    return folder


def _commit(wanted: _Wanted) -> "ResolvedRevision":
    from huggingface_hub import resolve_revision
    from huggingface_hub.constants import is_offline_mode

    return resolve_revision(
        wanted.repo, repo_type=wanted.kind, revision=wanted.revision, local_files_only=is_offline_mode()
    )


@contextmanager
def _in_plain_words(wanted: _Wanted) -> Iterator[None]:
    """Whatever the hub's library raises, as an error that says what to do."""
    import httpx2  # which that library speaks through
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
            return f"{wanted.repo!r} cannot be a name on the hub: {error}"
        case errors.GatedRepoError():
            return (
                f"{page} is gated. Accept its terms there, signed in, and give the token of that account: set HF_TOKEN, or "
                "run `hf auth login`."
            )
        case errors.RepositoryNotFoundError():
            return f"{not_here}{page} was not found. Check the name; if it is private, set HF_TOKEN or run `hf auth login`."
        case errors.RevisionNotFoundError():
            return f"{page} has no revision {wanted.revision!r}. Give a branch, a tag or a commit that it has."
        case errors.RemoteEntryNotFoundError():
            return f"{page} has no file {wanted.file!r} at revision {wanted.revision!r}."
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return f"The hub does not accept this token for {page}. Give one that may read it: HF_TOKEN or `hf auth login`."
        case errors.HfHubHTTPError():
            return f"The hub answered with status {error.response.status_code} for {page}. Try again later."
        case errors.LocalEntryNotFoundError() | errors.RevisionResolutionError() if is_offline_mode():
            return (
                f"{not_here}{wanted.place} is not in {HF_HUB_CACHE}, or not wholly. HF_HUB_OFFLINE forbids to fetch it."
            )
        case errors.LocalEntryNotFoundError() | errors.RevisionResolutionError() | errors.DryRunError() if (
            error.__cause__ is not None
        ):
            return _explained(wanted, error.__cause__)
        case httpx2.ConnectError() | httpx2.TimeoutException():
            return f"{not_here}{wanted.place} cannot be reached ({error}). Without a network, {wanted.by_hand}."
        case OSError() if error.errno in NO_ROOM:
            return (
                f"There is no room for {wanted.place} in {HF_HUB_CACHE}. Make some, or set HF_HOME to a folder on another "
                "disk. Files that are there whole are kept."
            )
        case OSError() if error.errno is not None:
            return f"{HF_HUB_CACHE} cannot be written: {error}. Set HF_HOME to a folder that can."
        case _:
            return f"Fetching {wanted.place} broke off ({error}). Do it again: files that are here whole are kept."
