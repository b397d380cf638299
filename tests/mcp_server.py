"""A real MCP server for tests, made with the official SDK: `python mcp_server.py [http PORT]`.

Its tools: `add`, `broken` (raises), `count` (keeps state in the process), `slow`, and `die` (ends the process). With the variable
MCP_TOOLS set to a file, the file's text is the name of one more tool.
"""

import asyncio
import os
import sys
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("tests")
counted: list[int] = []


@server.tool()
def add(first: int, second: int) -> str:
    """Adds two whole numbers."""
    return str(first + second)


@server.tool()
def broken(text: str) -> str:
    """Always fails."""
    raise ToolError(f"no {text}")


@server.tool()
def count() -> str:
    """Returns how often it was called."""
    counted.append(1)
    return str(len(counted))


@server.tool()
async def slow(seconds: float) -> str:
    """Waits."""
    await asyncio.sleep(seconds)
    return "done"


@server.tool()
def die() -> str:
    """Ends the server."""
    print("the server was told to die", file=sys.stderr, flush=True)
    os._exit(3)


if "MCP_TOOLS" in os.environ and (names := Path(os.environ["MCP_TOOLS"]).read_text().split()):
    for name in names:
        server.add_tool(add, name=name)

if __name__ == "__main__":
    if sys.argv[1:2] == ["http"]:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    else:
        server.run("stdio")
