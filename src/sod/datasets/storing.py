"""Store converted sets: NAME.jsonl, and beside it NAME.source.json with its origin."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sod import __version__
from sod.console.progress import echo
from sod.datasets.conversion import convert_file, notes_of
from sod.datasets.published import Published, PublishedFile
from sod.datasets.writing import document, is_free, keep_out_of_git, lines, replace, sha256_of_bytes
from sod.errors import DataError
from sod.model.hub import download
from sod.rewards.kinds import Prompts
from sod.runs.files import sha256_of_file


def fetch_set(published: Published, folder: Path, prompts: Prompts, *, revision: str | None = None) -> Path:
    """Download, check and convert a set. Return the file `folder`/NAME.jsonl.

    `revision`: default is the pinned one. Raises DataError if the download fails, if the file has another hash or content, or if
    another file is in the output's place.
    """
    (file,) = published.files
    wanted = revision or published.revision
    size = f", {published.bytes / 1e6:,.1f} MB" if published.bytes else ""
    echo(f"{published.name}: {published.repo}, {file.path} at {wanted[:12]}{size}")
    downloaded = download(published.repo, file.path, revision=wanted)
    if wanted == published.revision:
        check_hash(downloaded.path, file)
    source = {"repo": published.repo, "revision": downloaded.commit, "file": file.path}
    return store(downloaded.path, published, folder / f"{published.name}.jsonl", prompts, source)


def store(raw: Path, published: Published | None, out: Path, prompts: Prompts, source: dict[str, Any]) -> Path:
    """Convert a file, and write the rows and their origin. Return the written file.

    `source`: facts about the origin, for NAME.source.json.
    """
    done = convert_file(raw, published, prompts)
    digest = sha256_of_file(raw)
    content = lines(done.rows)
    notes = done.notes
    if published is not None:
        pinned = source.get("repo") == published.repo or digest in [file.sha256 for file in published.files]
        notes = (*notes_of(done.rows, published), *(published.defects if pinned else ()), *notes)
    facts = {
        "name": published.name if published else out.stem,
        **source,
        "sha256": {"published": digest, "converted": sha256_of_bytes(content)},
        "rows": len(done.rows),
        "prompts": "none" if published is not None and published.role == "benchmark" else prompts,
        "public_only": any(note.startswith("public tests only") for note in notes),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "sod": __version__,
        "notes": list(notes),
    }
    is_new = is_free(out, content)
    if is_new:
        if published is not None and published.private:
            keep_out_of_git(out)
        replace(out, content)
    old = {} if is_new else _origin(out)
    if "repo" in old and "repo" not in source:  # these rows were downloaded before
        facts |= {name: old[name] for name in ("repo", "revision", "file") if name in old}
    if _without_time(old) != _without_time(json.loads(document(facts))):
        replace(source_file(out), document(facts))
    echo(f"{out}: {len(done.rows)} rows" + ("" if is_new else ", unchanged"))
    for note in notes:
        echo(f"  {note}")
    return out


def _origin(out: Path) -> dict[str, Any]:
    """Return the stored origin of a set; {} if it is missing or damaged."""
    try:
        facts = json.loads(source_file(out).read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _without_time(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: fact for name, fact in facts.items() if name != "when"}


def source_file(path: Path) -> Path:
    """Return the path of the file with the origin of a set."""
    return path.with_name(f"{path.stem}.source.json")


def read_source(path: Path) -> dict[str, Any]:
    """Read the origin of a file; {} if there is no NAME.source.json. Raises DataError if the file has changed since."""
    beside = source_file(path)
    if not beside.exists():
        return {}
    try:
        source = json.loads(beside.read_text(encoding="utf-8"))
        written = source["sha256"]["converted"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{beside} cannot be read ({error!r}). Move it and {path} away, and run `sod data fetch` again."
        ) from error
    if written != sha256_of_file(path):
        raise DataError(
            f"{path} has been changed since {beside.name} was written: the hashes differ. Move both away, and run `sod data "
            "fetch` again."
        )
    return source


def check_hash(path: Path, file: PublishedFile) -> None:
    """Raise DataError if a downloaded file differs from the pinned one. Without a pinned hash, accept it."""
    found, wanted = sha256_of_file(path), file.sha256
    if file.blob:
        content = path.read_bytes()
        found, wanted = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), file.blob
    if wanted is not None and found != wanted:
        raise DataError(
            f"{file.path} has the wrong hash: {found}, not {wanted}. It is damaged, or was replaced under the same revision. "
            "Nothing was written. Remove it from the hub's cache (HF_HOME) and try again."
        )
