"""Tools of MCP servers (Model Context Protocol), through the official SDK.

A server is a command, which is started and spoken to over its stdin and stdout, or the address of a running server. Its tools are
listed once, at the start of a run. An error of a tool is text for the student. A server that dies, or that does not speak the
protocol, is an InfrastructureError; the next attempt starts or connects to it again.
"""

import asyncio
import copy
import json
import logging
import os
import shlex
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import IO, Any

from sod.config import ToolOptions
from sod.errors import InfrastructureError, OptionError
from sod.tools import shared_in_attempt, shorten
from sod.types import Observation, Problem

START_SECONDS = 60.0
"""Seconds that a server may take to start and to answer the first request."""
CLOSE_SECONDS = 10.0


def mcp_tools(options: ToolOptions) -> list["McpTool"]:
    """List the tools of the servers in tool.mcp. Raises OptionError for a server that does not start, and for a wrong name."""
    for refusal in mcp_refusals(options):
        raise OptionError(refusal)
    logging.getLogger("mcp.client").setLevel(logging.CRITICAL)  # failures are reported here, without a traceback
    servers = [McpServer(address, options) for address in options.mcp]
    found = [McpTool(server, schema, options) for server in servers for schema in server.schemas]
    names = [tool.name for tool in found]
    if missing := [name for name in options.mcp_only if name not in names]:
        raise OptionError(
            f"tool.mcp_only names {', '.join(missing)}, which no server offers. Choose from {', '.join(names) or 'none'}."
        )
    return [tool for tool in found if not options.mcp_only or tool.name in options.mcp_only]


def mcp_refusals(options: ToolOptions) -> Iterator[str]:
    """Yield what is wrong with the options, without starting a server."""
    if options.mcp and find_spec("mcp") is None:
        yield 'tool.mcp needs mcp, which is not installed. Type pip install ".[mcp]" in a checkout of sod.'
    if options.mcp_only and not options.mcp:
        yield "tool.mcp_only chooses tools of MCP servers, but no server is given. Add --tool.mcp, or leave tool.mcp_only out."
    for address in options.mcp:
        if not is_url(address):
            try:
                words = shlex.split(address)
            except ValueError as error:
                yield f"tool.mcp: {address!r} is not a command ({error}). Give a command in quotes, or an address."
            else:
                if not words:
                    yield "tool.mcp: an empty command was given. Give a command in quotes, or an address such as http://HOST/mcp."


class McpServer:
    """A server of the run: its tools, and the session that attempts share."""

    def __init__(self, address: str, options: ToolOptions):
        """Start the server, list its tools and end it again. Raises OptionError if that fails."""
        self.address = address
        self.seconds = options.seconds
        self.schemas: list[dict[str, Any]] = []
        self.current: Connection | None = None
        """The session that attempts share, if it was opened."""
        self._turn = asyncio.Lock()
        try:
            self.schemas = _in_own_loop(self._list)
        except InfrastructureError as error:
            raise OptionError(f"tool.mcp: {error} Check the command or the address by hand.") from error

    async def connect(self) -> "Connection":
        """Return a new session. Raises InfrastructureError, also if the server offers other tools than before."""
        connection = Connection(self.address)
        await connection.start()
        try:
            if self.schemas and (changed := _difference(self.schemas, await connection.list_tools())):
                raise InfrastructureError(
                    f"The MCP server {self.address} has changed its tools during the run: {changed}."
                )
        except BaseException:
            await connection.close()
            raise
        return connection

    async def shared(self) -> "Connection":
        """Return the session that all attempts share. A dead one is replaced."""
        loop = asyncio.get_running_loop()
        if self.current is not None and self.current.loop is not loop:  # closed with its loop
            self.current, self._turn = None, asyncio.Lock()
        async with self._turn:
            if self.current is None or self.current.is_dead:
                if self.current is not None:
                    await self.current.close()
                self.current = await self.connect()
            return self.current

    async def _list(self) -> list[dict[str, Any]]:
        connection = await self.connect()
        try:
            return await connection.list_tools()
        finally:
            await connection.close()


class McpTool:
    """One tool of a server."""

    def __init__(self, server: McpServer, schema: dict[str, Any], options: ToolOptions):
        self.schema = schema
        self.name: str = schema["function"]["name"]
        self.server = server
        self._options = options
        self.has_state = options.mcp_session == "trajectory"
        self._own: OwnConnection | None = None

    async def open(self, problem: Problem, seed: int) -> "McpTool":
        """Return the tool of one attempt. With tool.mcp_session = trajectory, the tools of a server share a new session."""
        if self._options.mcp_session == "shared":
            return self
        opened = copy.copy(self)
        opened._own = shared_in_attempt(self.server, lambda: OwnConnection(self.server))
        return opened

    async def close(self) -> None:
        """End the attempt's own session."""
        if self._own is not None:
            await self._own.close()

    async def __call__(self, arguments: Mapping[str, Any]) -> Observation:
        connection = await (self._own.get() if self._own is not None else self.server.shared())
        text, is_error = await connection.call(self.name, dict(arguments), self._options.seconds)
        if text is None:
            return Observation(text=f"[stopped: longer than {self._options.seconds:g} s]", outcome="timeout")
        text = text.encode("utf-8", "replace").decode()  # a tokenizer cannot encode a lone surrogate
        text = shorten(text, self._options.max_chars) if text.strip() else "[no output]"
        return Observation(text=text, outcome="error" if is_error else "ok")


class Connection:
    """A session with a server. One task owns it, because the SDK requires that the task that opens a session closes it."""

    def __init__(self, address: str):
        self.address = address
        self.loop = asyncio.get_running_loop()
        self.is_dead = False
        self._client: Any = None
        self._closing = asyncio.Event()
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        self._last_words = ""
        self._error: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start or reach the server. Raises InfrastructureError."""
        ready: asyncio.Future[Any] = self.loop.create_future()
        self._task = asyncio.create_task(self._own(ready), name=f"MCP server {self.address}")
        done, _ = await asyncio.wait({ready, self._task}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            self._client = ready.result()
            return
        self.is_dead = True
        cause = self._cause() if done else f"no answer within {START_SECONDS:g} s"
        await self.close()
        raise InfrastructureError(f"The MCP server {self.address} does not start: {cause}.")

    async def list_tools(self) -> list[dict[str, Any]]:
        """Return the tools as OpenAI function schemas. Raises InfrastructureError."""
        schemas: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = await self._ask(self._client.list_tools(cursor=cursor), START_SECONDS)
            schemas += map(listed_schema, page.tools)
            cursor = page.next_cursor
            if not cursor:
                return schemas

    async def call(self, name: str, arguments: dict[str, Any], seconds: float) -> tuple[str | None, bool]:
        """Call a tool. -> its text, or None after `seconds`; and whether it is an error. Raises InfrastructureError."""
        from mcp import MCPError  # pyright: ignore[reportMissingImports]

        try:
            result = await self._ask(self._client.call_tool(name, arguments), seconds)
        except TimeoutError:
            return None, True
        except MCPError as error:  # the server refuses the arguments
            return f"{type(error).__name__}: {error}", True
        return text_of(result), result.is_error

    async def close(self) -> None:
        """End the session, and the server if it is a command."""
        self.is_dead = True
        self._closing.set()
        if self._task is not None:
            _, late = await asyncio.wait({self._task}, timeout=CLOSE_SECONDS)
            if late:
                self._task.cancel()
                await asyncio.wait(late, timeout=CLOSE_SECONDS)

    async def _ask(self, request: Awaitable[Any], seconds: float) -> Any:
        """Return the answer to a request. Raises TimeoutError, MCPError from a living server, or InfrastructureError."""
        from mcp import MCPError  # pyright: ignore[reportMissingImports]
        from mcp_types import CONNECTION_CLOSED, PARSE_ERROR  # pyright: ignore[reportMissingImports]

        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                return await request
        except Exception as error:  # the SDK passes on errors of sockets, streams and pydantic
            if deadline.expired():
                raise TimeoutError from error
            if isinstance(error, MCPError) and getattr(error, "code", 0) not in (CONNECTION_CLOSED, PARSE_ERROR):
                raise
            self.is_dead = True
            cause = self._written() or _last(error)
            raise InfrastructureError(f"The MCP server {self.address} has failed: {cause}.") from error

    async def _own(self, ready: "asyncio.Future[Any]") -> None:
        from mcp import Client, StdioServerParameters  # pyright: ignore[reportMissingImports]
        from mcp.client.stdio import stdio_client  # pyright: ignore[reportMissingImports]

        target: Any = self.address
        if not is_url(self.address):
            command, *arguments = shlex.split(self.address)
            parameters = StdioServerParameters(command=command, args=arguments, env=dict(os.environ))
            target = stdio_client(parameters, errlog=self._errors)  # pyright: ignore[reportArgumentType]
        try:
            async with Client(target, cache=None) as client:
                ready.set_result(client)
                await self._closing.wait()
        except Exception as error:  # of the server, the socket or the SDK; often a group
            self._error = error
        finally:
            self.is_dead = True
            self._last_words = self._written()
            self._errors.close()

    def _cause(self) -> str:
        """Return why the owning task ended: the last line of the server's stderr, or the exception."""
        return self._written() or (_last(self._error) if self._error is not None else "it ended")

    def _written(self) -> str:
        """Return the last line that a command has written to its stderr; empty if there is none."""
        if self._errors.closed:
            return self._last_words
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "").rstrip(".")


class OwnConnection:
    """The session of one attempt with a server, opened by the first call."""

    def __init__(self, server: McpServer):
        self._server = server
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()

    async def get(self) -> Connection:
        async with self._turn:
            if self._connection is None:
                self._connection = await self._server.connect()
            return self._connection

    async def close(self) -> None:
        async with self._turn:
            if self._connection is not None:
                connection, self._connection = self._connection, None
                await connection.close()


def is_url(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def listed_schema(tool: Any) -> dict[str, Any]:
    """Return the OpenAI function schema of a listed tool."""
    parameters = {"type": "object", "properties": {}} | dict(tool.input_schema)
    function = {"name": tool.name, "description": tool.description or tool.title or tool.name, "parameters": parameters}
    return {"type": "function", "function": function}


def text_of(result: Any) -> str:
    """Return a result as text. What is no text is named by its type."""
    parts: list[str] = []
    for block in result.content:
        text = getattr(block, "text", None) or getattr(getattr(block, "resource", None), "text", None)
        parts.append(
            str(text) if text is not None else f"[{block.type}: {getattr(block, 'mime_type', None) or 'no text'}]"
        )
    if not parts and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n".join(parts)


def _difference(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> str:
    """Return how two lists of tools differ; empty if they do not."""
    old, new = ({schema["function"]["name"]: schema for schema in each} for each in (before, now))
    changes = {"gone": old.keys() - new.keys(), "new": new.keys() - old.keys()}
    changes["other"] = {name for name in old.keys() & new.keys() if old[name] != new[name]}
    return "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in changes.items() if names)


def _last(error: BaseException) -> str:
    """Return the first cause in a group of exceptions, in words."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".rstrip(": .")


def _in_own_loop(work: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine to its end in a thread of its own: the caller may have a running loop, or none."""
    box: list[Any] = []

    async def run() -> Any:
        return await work()

    def target() -> None:
        try:
            box.append(asyncio.run(run()))
        except BaseException as error:  # raised below, in the caller's thread
            box.append(error)

    thread = threading.Thread(target=target, name="list MCP tools")
    thread.start()
    thread.join()
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]
