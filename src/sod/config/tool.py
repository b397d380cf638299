"""Options `--tool`: what the student can call, and the limits of a call."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sod.config.base import Options, Positive, PositiveReal, Rare, ReadsFiles, Share


class ToolOptions(Options):
    """The tools: the code interpreter, other shipped tools, your own, and those of MCP servers."""

    use: Rare[tuple[Literal["code_interpreter", "sql", "search"], ...]] = ("code_interpreter",)
    """Shipped tools that the student can call. sql: queries of a SQLite database. search: passages of tool.documents."""
    name: Rare[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]] = "code_interpreter"
    """The code interpreter's name in the prompt. Set it to the name in the demonstrations, such as python."""
    session: Rare[Literal["off", "on"]] = "off"
    """Whether the programs of a trajectory share variables, imports and files. off: as in the paper, each program starts anew.
    on: like the cells of a notebook, in one process (docs/tools.md). A stopped program ends the process."""
    session_seconds: Rare[PositiveReal] = 600.0
    """tool.session = on: wall-clock limit of all programs of a session together, in seconds."""
    seconds: Rare[PositiveReal] = 60.0
    """Wall-clock limit of one program, query or call of a tool, and of one turn in an environment, in seconds."""
    memory_mb: Rare[Positive] = 2048
    """Memory limit of one program, in MiB."""
    max_chars: Rare[Positive] = 4096
    """Longest output or answer of an environment that the student reads, in characters. The middle of a longer one is replaced
    by a note."""
    errors: Rare[Literal["traceback", "last_line"]] = "traceback"
    """What the student reads after an exception: the whole traceback, or its last line."""
    faults: Rare[Share] = 0.0
    """Share of calls to damage on purpose: the last character of the call is removed before it runs. Use it to study how the
    student recovers from errors that it did not cause. 0 damages none."""
    show_last_expr: Rare[Literal["expr", "off", "reference"]] = "expr"
    """expr: print the value of a final expression, like a notebook. off: only run the program. reference: rewrite the program
    and cut its output like the paper's code, which breaks many correct programs; for comparison only."""
    own: Rare[ReadsFiles[tuple[str, ...]]] = ()
    """Additional tools, each FILE.py:FUNCTION. A tool is a function with type hints and a docstring, async or not
    (examples/your_tool.py). Tools run in the process of `sod`, not in the sandbox."""
    database: Rare[ReadsFiles[Path | None]] = None
    """tool.use = sql: SQLite database that the student reads. Default: the problem's file that ends in .db, .sqlite or
    .sqlite3."""
    max_rows: Rare[Positive] = 100
    """tool.use = sql: largest number of rows of one answer."""
    documents: Rare[ReadsFiles[Path | None]] = None
    """tool.use = search: folder of documents (.txt, .md, .jsonl), which is read at the start. Default: no documents."""
    passages: Rare[Positive] = 3
    """tool.use = search: number of passages of one answer."""
    mcp: Rare[ReadsFiles[tuple[str, ...]]] = ()
    """MCP servers that offer more tools, each a command in quotes or an address: "python server.py" http://127.0.0.1:9000/mcp.
    Servers run outside the sandbox."""
    mcp_only: Rare[tuple[str, ...]] = ()
    """Names of the servers' tools that the student can call. Default: all."""
    mcp_session: Rare[Literal["shared", "trajectory"]] = "shared"
    """shared: all trajectories use one session with each server. trajectory: each has a session of its own, which for a command
    is a process of its own. Use it for servers that keep state."""
