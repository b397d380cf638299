"""The commands that a page shows."""

import re
import shlex
from typing import Any

from sod.cli import COMMANDS, parse


def blocks(text: str) -> list[list[list[str]]]:
    """Return the arguments of each `sod ...` line, code block by code block. Lines with "..." are no whole commands."""
    found = []
    for language, block in re.findall(r"^```([^\n`]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines() if not language else []
        whole = [
            line for line in lines if re.match(r"(\$ )?sod [a-z]+[ \n]?(?!.*\.\.\.)", line) and "sod plan:" not in line
        ]
        found.append([shlex.split(line.removeprefix("$ "), comments=True)[1:] for line in whole])
    return [commands for commands in found if commands]


def named(arguments: list[str]) -> str:
    """Return the command's name, of one word or two."""
    names = [" ".join(arguments[:count]) for count in (2, 1)]
    return next((name for name in names if name in COMMANDS), f"no command: {names[1]}")


def parsed(arguments: list[str]) -> Any:
    """Return the options of a command line, as `sod` itself reads them."""
    name = named(arguments)
    return parse(name, COMMANDS[name][0], arguments[len(name.split()) :])
