"""Read recipes: options in a TOML file, and a description of their expected result.

A recipe holds options by their names. `extends = "FILE"` overrides another recipe (a path relative to this one). The
table `[about]` describes the recipe and holds no options.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sod.errors import OptionError

FOLDER = Path("recipes")
"""Folder of the project's own recipes, relative to its root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The description of a recipe."""

    command: str
    """The command that uses the recipe: sft, train, eval or rollout."""
    what: str
    """One sentence."""
    expect: str
    """The expected score and its uncertainty."""
    source: str
    """Source of the numbers."""
    hardware: str
    hours: str
    """Duration, hardware and source of the measurement."""
    tested: str
    """yes or no, and what was tested."""


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the nested options of a recipe. Raise OptionError if the file is not a recipe."""
    return _options(path, ())


def read_about(path: Path) -> About:
    """Return the description of a recipe. Raise OptionError if it is missing, incomplete or has unknown keys."""
    about = _read(path).get("about")
    if not isinstance(about, dict):
        raise OptionError(f"The recipe {path} has no table [about] with its description. Add it.")
    known = [field.name for field in fields(About)]
    for key, value in about.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise OptionError(
                f"{path}: about.{key} is not known"
                + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}.")
            )
        if not isinstance(value, str) or not value.strip():
            raise OptionError(f"{path}: about.{key} is {json.dumps(value)}; it must be a string with text.")
    if missing := [name for name in known if name not in about]:
        raise OptionError(f"{path}: about.{missing[0]} is missing. Add it.")
    return About(**about)


def maker_of(out: Path, folder: Path = FOLDER) -> Path | None:
    """Return the described recipe in `folder` with the run directory `out`. Return None if there is none."""
    claims = [path for path in sorted(folder.glob("*.toml")) if "about" in _read(path)]
    return next((path for path in claims if Path(read_recipe(path).get("out", "")) == out), None)


def _options(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        raise OptionError(f"The recipe {path} extends itself. Give another recipe to `extends`, or remove it.")
    content = _read(path)
    content.pop("about", None)
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise OptionError(f"{path}: extends is {json.dumps(base)}; it must be the path of one recipe.")
    return over(_options(path.parent / base, (*above, path.resolve())), content)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"The recipe {path} is not valid TOML: {error}.") from error


def over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return both nested options merged; `above` overrides `below`."""
    both = below | above
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            both[key] = over(below[key], above[key])
    return both


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options by dotted name."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def to_toml(content: dict[str, Any], section: str = "") -> str:
    """Return nested options as the text of a recipe. Options that are None are left out."""
    plain = {key: value for key, value in content.items() if not isinstance(value, dict) and value is not None}
    lines = [f"[{section}]"] if section and plain else []
    lines += [
        f"{key} = {json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)}"
        for key, value in plain.items()
    ]
    nested = [
        to_toml(value, f"{section}.{key}".strip(".")) for key, value in content.items() if isinstance(value, dict)
    ]
    return "\n".join([*lines, *nested]) + "\n"
