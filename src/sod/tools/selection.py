"""Select the tools of a run by its options, and check the files of its problems."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from sod.config import ToolOptions
from sod.errors import DataError
from sod.sandbox import Sandbox
from sod.sandbox.local import LONGEST_FILE_NAME
from sod.tools import Tool, Toolbox
from sod.types import Problem

MOST_FILE_BYTES = 32 << 20
"""Limit on the files of one problem together. They are copied for each program."""
UNITS = ("bytes", "kB", "MB")


def tools_of(options: ToolOptions, sandbox: Sandbox) -> list[Tool]:
    """Return the tools of a run: the shipped ones, the user's own, and those of MCP servers, in this order.

    Raises OptionError or DataError. Only what the options select is imported.
    """
    tools: list[Tool] = []
    for name in dict.fromkeys(options.use):
        if name == "code_interpreter":
            from sod.tools.python import PythonTool

            tools.append(PythonTool(sandbox, options))
        elif name == "sql":
            from sod.tools.sql import SqlTool

            tools.append(SqlTool(options))
        else:
            from sod.tools.search import SearchTool

            tools.append(SearchTool(options))
    if options.own:
        from sod.tools.own import own_tools

        tools += own_tools(options)
    if options.mcp:
        from sod.tools.mcp import mcp_tools

        tools += mcp_tools(options)
    return tools


def check_files(problems: Iterable[Problem], tools: Toolbox) -> None:
    """Check that the files of all problems can be used. Raises DataError with the first one that cannot."""
    for problem in problems:
        for fault in _faults(problem, tools):
            raise DataError(f"Problem {problem.id!r}: {fault}")


def _faults(problem: Problem, tools: Toolbox) -> Iterator[str]:
    size = 0
    for name, path in problem.files.items():
        if not _is_plain(name):
            yield f"its file {name!r} would leave the working directory. Give a plain file name, without directories."
        if not Path(path).is_file():
            yield f"its file {path} does not exist. Paths are relative to the data file."
        else:
            size += Path(path).stat().st_size
    if size > MOST_FILE_BYTES:
        yield f"its files have {shown_size(size)}, more than {shown_size(MOST_FILE_BYTES)}. They are copied for every program."
    if complaint := tools.complaint(problem):
        yield complaint


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set("/\\\0") & set(name) and len(name.encode()) <= LONGEST_FILE_NAME


def described(problem: Problem) -> str:
    """Return the line that describes a problem's files to the student; empty if it has none.

    Example:
        >>> described(Problem(id="sum", messages=(), answer="3"))
        ''
    """
    if not problem.files:
        return ""
    files = [f"{name} ({shown_size(Path(path).stat().st_size)})" for name, path in problem.files.items()]
    return f"Files in the working directory: {', '.join(files)}."


def shown_size(size: int) -> str:
    """Return a number of bytes as text.

    Example:
        >>> shown_size(2048), shown_size(3 << 20)
        ('2 kB', '3 MB')
    """
    number, unit = float(size), UNITS[0]
    for unit in UNITS:
        if number < 1024 or unit == UNITS[-1]:
            break
        number /= 1024
    return f"{number:.3g} {unit}"
