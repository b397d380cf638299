"""Recipes: options in a TOML file."""

import json
import tomllib
from pathlib import Path
from typing import Any

from sod.errors import OptionError


def read_recipe(path: Path) -> dict[str, Any]:
    """Nested options. Raises OptionError, saying why, where the file cannot be read as a recipe."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"The recipe {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"The recipe {path} is not valid TOML: {error}.") from error


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
