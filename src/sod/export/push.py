"""Upload an exported folder to the Hugging Face hub, as one commit: a push that breaks off leaves no file there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from sod import __version__
from sod.config import ExportOptions
from sod.console.progress import echo
from sod.errors import OptionError, RunError, SodError
from sod.export.training import checked_name

BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "bfloat16": 2, "float32": 4}
"""Bytes of a number: by the names in safetensors files, and by those of --dtype."""
MADE_BY_THE_HUB = {".gitattributes"}
"""Files of a repository that holds nothing yet."""


@dataclass(frozen=True)
class Target:
    """A repository to upload to, checked before the export begins."""

    name: str
    public: bool
    exists: bool

    @property
    def page(self) -> str:
        from huggingface_hub.constants import ENDPOINT

        return f"{ENDPOINT}/{self.name}"

    @property
    def visibility(self) -> str:
        return "public" if self.public else "private"

    @classmethod
    def of(cls, options: ExportOptions) -> "Target | None":
        """Check the login and the repository. None without --push. Raises OptionError."""
        if options.push is None:
            if options.public or options.overwrite:
                raise OptionError(
                    f"--{'public' if options.public else 'overwrite'} is about a repository on the hub, but no repository is "
                    "given. Add --push ORG/NAME."
                )
            return None
        name = checked_name(options.push, "push")
        with _in_words(f"{name} cannot be looked up on the hub", "Try again later, or leave --push out"):
            _check_login()
            files, private = _present(name)
        if private is not None and private == options.public:
            kind = "private" if private else "public"
            remedy = (
                "Leave --public out, or make it public in its settings on the hub"
                if private
                else "Give --public to publish the model, or choose another name"
            )
            raise OptionError(f"The repository {name} on the hub is {kind} already. {remedy}.")
        if files and not options.overwrite:
            raise OptionError(
                f"The repository {name} on the hub exists, with {len(files)} files: {', '.join(sorted(files)[:5])}"
                f"{', ...' if len(files) > 5 else ''}. Choose another name, or give --overwrite to replace them. Its earlier "
                "commits keep them."
            )
        return cls(name, options.public, exists=private is not None)


def _check_login() -> None:
    from huggingface_hub import HfApi, errors, get_token
    from huggingface_hub.constants import is_offline_mode

    login = "Type `hf auth login`, or set HF_TOKEN, with a token that may write"
    if is_offline_mode():
        raise OptionError("--push needs the hub, but HF_HUB_OFFLINE is set. Unset it, or leave --push out.")
    if get_token() is None:
        raise OptionError(f"--push needs a login at the hub, and this machine has none. {login}.")
    try:
        me = HfApi().whoami()
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise OptionError(f"--push: the hub does not accept the token of this machine. {login}.") from error
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise OptionError(f"--push: the token of this machine may only read. {login}.")


def _present(name: str) -> tuple[set[str], bool | None]:
    """Return the files of a repository, and whether it is private. None: there is no such repository."""
    from huggingface_hub import HfApi, errors

    try:
        about = HfApi().model_info(name)
    except errors.RepositoryNotFoundError:
        return set(), None
    return {file.rfilename for file in about.siblings or ()} - MADE_BY_THE_HUB, bool(about.private)


def push(target: Target, folder: Path, what: str) -> None:
    """Upload the folder as one commit, after which the repository holds nothing else. Raises RunError."""
    from huggingface_hub import HfApi

    api = HfApi()
    again = f"{folder} is complete: type the same command again to upload it"
    with _in_words(f"The upload to {target.page} broke off, and no file of it is there", again):
        if not target.exists:
            api.create_repo(target.name, private=not target.public, exist_ok=True)
        message = f"{what}, written by sod {__version__}"
        commit = api.upload_folder(repo_id=target.name, folder_path=folder, commit_message=message, delete_patterns="*")
    echo(f"uploaded: {target.page}, {target.visibility}, commit {commit.oid[:12]}")


@contextmanager
def _in_words(what: str, remedy: str) -> Iterator[None]:
    """Convert errors of the hub's library to a RunError."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except SodError:
        raise
    except (httpx2.HTTPError, HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error  # of a thread
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            cause = f"status {status}{': the token may not write there' if status == 403 else ''}"
        raise RunError(f"{what} ({cause}). {remedy}.") from error


def show_files(options: ExportOptions, checkpoint: Path, target: Target | None) -> None:
    """Print the files with their sizes, and the repository. Nothing is written."""
    if options.out.exists():
        sizes = {
            file.relative_to(options.out).as_posix(): file.stat().st_size
            for file in sorted(options.out.rglob("*"))
            if file.is_file()
        }
        echo(f"{options.out} exists already. Its files:")
    else:
        sizes = {"model.safetensors": weights_bytes(checkpoint, options.dtype)} | {
            file.name: file.stat().st_size
            for pattern in ("config.json", "tokenizer*", "chat_template.jinja")
            for file in sorted(checkpoint.glob(pattern))
        }
        echo(f"{options.out} would be written from {checkpoint}, with these files and about these sizes:")
    for name, size in sizes.items():
        echo(f"  {size / 1e6:12,.3f} MB  {name}")
    if not options.out.exists():
        echo("  and README.md, generation_config.json, and sod/ with options, environment and results")
    echo(f"  {sum(sizes.values()) / 1e6:12,.3f} MB  in all")
    if target is not None:
        echo(f"repository: {target.page}, {target.visibility}, {'exists' if target.exists else 'would be created'}")


def weights_bytes(checkpoint: Path, dtype: str) -> int:
    """Return the size of the exported weights, from the headers of the checkpoint's files."""
    total = 0
    for file in checkpoint.glob("*.safetensors"):
        with safe_open(file, framework="pt") as content:
            for name in content.keys():  # noqa: SIM118 - not a dictionary
                part = content.get_slice(name)
                count = 1
                for length in part.get_shape():
                    count *= length
                total += count * BYTES.get(part.get_dtype() if dtype == "same" else dtype, 4)
    return total
