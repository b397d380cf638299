"""Prepare a run's data for publication: short paths, no addresses, no command lines; and format counts with nouns."""

import re
from pathlib import Path
from typing import Any

from sod import __version__
from sod.config import Options
from sod.config.recipes import to_toml
from sod.export.folder import Json

ADDRESSES: dict[str, Any] = {
    "engine": {"url", "exchange"},
    "sandbox": {"url"},
    "score": {"teacher_url", "teacher_urls"},
    "reward": {"llm": {"url"}},
    "track": True,
    "tracking": True,
}
"""Options that name machines or accounts; they are left out of recipes."""


def public(content: Any) -> Any:
    """Return JSON content with shortened paths."""
    match content:
        case dict():
            return {public(key): public(value) for key, value in content.items()}
        case list():
            return [public(value) for value in content]
        case str() if content.startswith(("/", "~")):
            return _short_path(content)
        case str():
            return re.sub(r"""[^\s"'(),=]*/[^\s"'(),=]*""", lambda path: _short_path(path[0]), content)
        case _:
            return content


def _short_path(text: str) -> str:
    """Return the last two parts of a path, without the home directory. Web addresses are kept."""
    path = Path(text)
    if text.startswith(("http://", "https://")) or (len(path.parts) < 3 and not path.is_absolute()):
        return text
    if path.is_relative_to(Path.home()):
        path = path.relative_to(Path.home())
    return "/".join([part for part in path.parts if part not in ("/", "~", "..")][-2:])


def options_and_environment(options: Options, environment: Json) -> dict[str, Json]:
    """Return the published options and environment of a run, as JSON by file name."""
    return {
        "options": public(options.model_dump(mode="json", exclude=ADDRESSES)),
        "environment": public({key: value for key, value in environment.items() if not _is_command_line(key, value)}),
    }


DIFFERING = f"only values that differ from the defaults of sod {__version__}"


def recipe(options: Options, *without: str) -> str:
    """Return the options that differ from their defaults, as a block of TOML."""
    hidden = ADDRESSES | dict.fromkeys(without, True)
    content = options.model_dump(mode="json", exclude_defaults=True, exclude=hidden)
    return f"```toml\n{to_toml(public(content)).strip()}\n```"


def ran_with(environment: Json) -> str:
    named = {"sod": environment["sod"], "Python": environment["python"]} | environment["packages"]
    return f"Software: {', '.join(f'{name} {version}' for name, version in named.items())}."


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _is_command_line(key: str, value: object) -> bool:
    """Return whether an entry of environment.json holds arguments. Older runs have them as `command`."""
    return key == "arguments" or (key == "command" and not isinstance(value, str))
