"""Whether a run is resumed with the options, the data and the files that it was started with: options.json, environment.json."""

import json
import logging
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sod import __version__
from sod.config import Options, resume_may_change
from sod.config.recipes import flat
from sod.errors import RunError
from sod.runs.contents import changed_contents, check_contents, same_input

logger = logging.getLogger(__name__)


def check_options(folder: Path, options: Options) -> None:
    """Raise RunError for options that differ from those of the run, unless a resumed run may change them."""
    before = stored(folder, "options.json")
    if before is None:
        return
    now = flat(options.model_dump(mode="json"))
    if unknown := sorted(flat(before).keys() - now.keys()):
        raise RunError(
            f"{folder} holds a run of another command or another version of sod, with the option {unknown[0]}, which "
            "does not exist here. Choose another --out."
        )
    # A run of an older version has fewer options. It had what is the default of the new ones, except for the correction.
    uncorrected = "learn.correction" in now and _is_uncorrected(flat(before))
    before = now | flat(_with_defaults(type(options), before)) | ({"learn.correction": "none"} if uncorrected else {})
    if uncorrected and now["learn.correction"] == "auto":
        raise RunError(
            f"The run in {folder} was started before learn.correction existed, so its credit is not corrected; auto "
            "would correct it from now on. Give --learn.correction none, or choose another --out."
        )
    may_change = resume_may_change(type(options)) | _chosen_at_start(options)
    changed = [key for key in now if key not in may_change and now[key] != before[key]]
    if changed:
        raise RunError(
            f"The run in {folder} was started with other options ({', '.join(changed)}). Resume it with the options in "
            "its options.json, or choose another --out."
        )


def environment_before(folder: Path, data: dict[str, str]) -> dict[str, Any] | None:
    """Return the content of environment.json, or None without one. Raise RunError if it lists other data."""
    before = stored(folder, "environment.json")
    if before is None:
        return None
    if mixed := _changed_versions(before):
        logger.warning(
            f"The run in {folder} was started with other versions: {mixed}. If they compute other results, its numbers are a "
            "mixture."
        )
    data_before = before.get("data")
    if not isinstance(data_before, dict):
        raise _damaged(folder, "environment.json")
    for name in data | data_before:
        if not same_input(data_before.get(name), data.get(name)):
            raise RunError(
                f"The {name} differs from the one that the run in {folder} was started with. Give the original "
                f"{name} (if it was a run, its exact checkpoint), or choose another --out."
            )
    return before


def describe_environment() -> dict[str, Any]:
    """Return the versions, the machine and the command of this run."""
    packages = ("torch", "transformers", "tokenizers", "safetensors", "pydantic")
    return {
        "sod": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "packages": {name: version(name) for name in packages},
        "arguments": sys.argv,
    }


def contents_known(folder: Path, before: dict[str, Any] | None, now: dict[str, str], *, accept: bool) -> dict[str, Any]:
    """Return the digests of all files for environment.json, and the names of those that changed and were accepted.

    A file that the run has not read before is added. Raise RunError for one that has changed, unless `accept`.
    """
    if before is None:
        return {"files": now}
    files, accepted = before.get("files", {}), before.get("accepted", [])
    if not isinstance(files, dict) or not isinstance(accepted, list):
        raise _damaged(folder, "environment.json")
    if now and "files" not in before:
        logger.warning(
            f"The run in {folder} is of an older version, which did not record the contents of {', '.join(now)}. They "
            "are recorded now, without a comparison."
        )
    if not accept:
        check_contents(folder, files, now)
    elif changed := changed_contents(files, now):
        logger.warning(f"accepted with another content than before: {', '.join(changed)}")
        accepted = sorted({*accepted, *changed})
    return {"files": files | now} | ({"accepted": accepted} if accepted else {})


def stored(folder: Path, name: str) -> dict[str, Any] | None:
    """Return a JSON object of the run, or None without such a file. Raise RunError if it is damaged."""
    try:
        content = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, name) from error
    if not isinstance(content, dict) or not content:
        raise _damaged(folder, name)
    return content


def _changed_versions(before: Mapping[str, Any]) -> str:
    """Return the versions that differ from those in a run's environment.json, as `sod 1.0, now 1.1`; empty if none does."""
    now = describe_environment()
    packages = before.get("packages")
    then = {"sod": before.get("sod")} | (packages if isinstance(packages, dict) else {})
    here = {"sod": now["sod"]} | now["packages"]
    return ", ".join(
        f"{name} {old}, now {here[name]}" for name, old in then.items() if here.get(name, old) != old and old
    )


def _damaged(folder: Path, name: str) -> RunError:
    what = "options" if name == "options.json" else "data and models"
    return RunError(
        f"{folder / name} is damaged, so the {what} of the run cannot be compared with the current ones. If they are "
        "the same, move this file away and resume; the run then writes it again. All other files are kept."
    )


def _chosen_at_start(options: Options) -> set[str]:
    """Return the options whose values a run chose when it began, because none were given: it keeps them."""
    network, rollout, engine = (getattr(options, name, None) for name in ("network", "rollout", "engine"))
    chosen = {"network.dtype"} if network is not None and network.dtype in ("auto", "fastest") else set[str]()
    chosen |= {"engine.name"} if engine is not None and engine.name == "auto" else set()
    if rollout is not None:
        chosen |= {
            f"rollout.{name}" for name in ("max_tokens", "max_prompt_tokens") if name not in rollout.model_fields_set
        }
    return chosen


def _is_uncorrected(stored: dict[str, Any]) -> bool:
    """Return whether these options are of a run with vLLM by a version without learn.correction."""
    return "learn.correction" not in stored and stored.get("engine.name") in ("vllm", "vllm_server")


def _with_defaults(kind: type[Options], stored: dict[str, Any]) -> dict[str, Any]:
    """Return stored options with the defaults of those that they lack, nested. Unreadable options are returned as they are."""
    try:
        return kind.model_validate(stored).model_dump(mode="json")
    except ValidationError:
        return stored
