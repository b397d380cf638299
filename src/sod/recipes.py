"""Recipes: options in a TOML file, and what they are to give.

A recipe holds options by their names; `extends = "FILE"` puts it on top of another (a path from its own folder). Its
`[about]` says what it claims and is no option.
"""

import json
import tomllib
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sod.errors import OptionError

FOLDER = Path("recipes")
"""Where those of this project stand, seen from its root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a recipe claims."""

    command: str
    """The command that it is for: sft, train, eval or rollout."""
    what: str
    """One sentence."""
    expect: str
    """The score to expect, and how sure it is."""
    source: str
    """Where the numbers come from."""
    hardware: str
    hours: str
    """How long it takes, on what, and who says so."""
    tested: str
    """yes or no, and what that means."""


def read_recipe(path: Path) -> dict[str, Any]:
    """Nested options. Raises OptionError, saying why, where the file cannot be read as a recipe."""
    return _options(path, ())


def read_about(path: Path) -> About:
    """What a recipe claims. Raises OptionError where it does not say, or says it in other words."""
    about = _read(path).get("about")
    if not isinstance(about, dict):
        raise OptionError(f"The recipe {path} has no [about] that says what it is for.")
    known = [field.name for field in fields(About)]
    for key, value in about.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise OptionError(
                f"{path}: about.{key} is not known"
                + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}.")
            )
        if not isinstance(value, str) or not value.strip():
            raise OptionError(f"{path}: about.{key} is {json.dumps(value)}; it must be words.")
    if missing := [name for name in known if name not in about]:
        raise OptionError(f"{path}: about.{missing[0]} is missing.")
    return About(**about)


def maker_of(out: Path, folder: Path = FOLDER) -> Path | None:
    """The recipe in `folder` that says what it is for and whose run directory is `out`; None if there is none."""
    claims = [path for path in sorted(folder.glob("*.toml")) if "about" in _read(path)]
    return next((path for path in claims if Path(read_recipe(path).get("out", "")) == out), None)


def _options(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        raise OptionError(f"The recipe {path} extends itself.")
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
    """Both, nested; where they disagree, what is above."""
    both = below | above
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            both[key] = over(below[key], above[key])
    return both


def to_toml(content: dict[str, Any], section: str = "") -> str:
    """Nested options as the text of a recipe; None is left out."""
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
