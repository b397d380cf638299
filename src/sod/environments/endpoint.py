"""An OpenAI-compatible endpoint on this machine, through which agents ask the student for its turns.

Every attempt has an address of its own, `http://127.0.0.1:PORT/NAME/v1`. A request for a chat completion waits until the attempt
answers it. Supported: `messages`, `tools`, `stream` (the answer comes in one part). The run decides how tokens are sampled, so
`model`, `temperature`, `max_tokens` and the like have no effect. Several choices per request are refused.

The server answers in threads of its own. Everything that it calls runs in the event loop in which it was created.
"""

import asyncio
import hashlib
import json
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from sod.chat.conversations import as_messages
from sod.errors import DataError, InfrastructureError
from sod.types import Message, Schema, ToolCall

ENDPOINT_HOST = "127.0.0.1"
LARGEST_REQUEST = 256 * 2**20
"""Largest request, in bytes."""
LONGEST_NAME = 200
"""Longest name of a session, in characters."""
SERVED_MODEL = "student"
"""The only model of the endpoint."""
ENDED = "This attempt has ended."


class EndedError(InfrastructureError):
    """Nothing answers at the address of a request, because its attempt has ended."""


@dataclass(frozen=True, slots=True)
class ChatReply:
    """The student's turn as a message, with the tokens that it read and wrote."""

    message: Message
    prompt_tokens: int = 0
    tokens: int = 0
    is_cut: bool = False
    """Whether a limit cut the turn."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request for the student's next turn. `reply` is its answer, or the exception that refuses it."""

    messages: list[Message]
    tools: list[Schema]
    reply: "Future[ChatReply]" = field(default_factory=Future)

    def refuse(self, message: str) -> None:
        """Refuse the request, unless it is answered."""
        if not self.reply.done():
            self.reply.set_exception(InfrastructureError(message))


class Visitors(Protocol):
    """Answers requests at names that nobody registered."""

    def ask(self, name: str, request: ChatRequest) -> None: ...
    async def end(self, name: str, is_right: bool | None) -> int:
        """End the conversations of a session. -> their number"""
        ...


def assistant_message(text: str, calls: Sequence[ToolCall], turn: int) -> Message:
    """Return a turn of the student as a message of OpenAI's API. `turn` makes the ids of its calls unique."""
    made = [
        {
            "id": f"call_{turn}_{at}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for at, call in enumerate(calls)
    ]
    return {"role": "assistant", "content": text} | ({"tool_calls": made} if made else {})


class Endpoint:
    """The server. Create it in an event loop. `register` returns the address of an attempt; `receive` gets its requests.

    `port`: 0 takes a free one. Raises OSError if it is in use. `visitors` answers all other names. Default: they are refused.
    """

    def __init__(self, *, port: int = 0, visitors: Visitors | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.visitors = visitors
        self._receivers: dict[str, Callable[[ChatRequest], None]] = {}
        self._server = _Server((ENDPOINT_HOST, port), _Handler)
        self._server.endpoint = self
        Thread(target=self._server.serve_forever, name="endpoint", daemon=True).start()

    @property
    def url(self) -> str:
        """The address of the server, without a name."""
        return f"http://{ENDPOINT_HOST}:{self._server.server_address[1]}"

    def register(self, receive: Callable[[ChatRequest], None]) -> str:
        """Return the base URL of a new attempt."""
        name = secrets.token_hex(8)
        self._receivers[name] = receive
        return f"{self.url}/{name}/v1"

    def forget(self, url: str) -> None:
        """Refuse further requests to the address of an attempt."""
        self._receivers.pop(url.split("/")[3], None)

    @property
    def registered(self) -> int:
        """Number of attempts with an address."""
        return len(self._receivers)

    def deliver(self, name: str, request: ChatRequest) -> None:
        """Pass a request to its attempt, in the event loop."""
        try:
            if receive := self._receivers.get(name):
                receive(request)
            elif self.visitors is not None:
                self.visitors.ask(name, request)
            else:
                request.reply.set_exception(EndedError(ENDED))
        except Exception as error:  # the request would wait for ever
            request.reply.set_exception(error)
            raise

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    endpoint: Endpoint

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about clients that break off; anything else is an error of this module."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: a run makes thousands of requests."""

    def do_GET(self) -> None:
        if self.path.endswith("/v1/models"):
            self._send(
                {"object": "list", "data": [{"id": SERVED_MODEL, "object": "model", "created": 0, "owned_by": "sod"}]}
            )
        else:
            self._refuse(HTTPStatus.NOT_FOUND, f"There is no path {self.path}.")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length") or "0"
        if not length.isdecimal() or int(length) > LARGEST_REQUEST:
            self.close_connection = True
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The request has {length} bytes.")
            return
        content = self.rfile.read(int(length))
        before, _, action = urlsplit(self.path).path.partition("/v1/")
        name = unquote(before.strip("/")) or self._key()
        try:
            if len(name) > LONGEST_NAME or not name.isprintable():
                raise DataError(f"The name of a session has at most {LONGEST_NAME} printable characters.")
            if action == "chat/completions":
                self._complete(name, json.loads(content))
            elif action == "end" and self.server.endpoint.visitors is not None:
                self._end(name, json.loads(content or b"{}"))
            else:
                self._refuse(HTTPStatus.NOT_FOUND, f"There is no path {self.path}; only chat/completions is served.")
        except EndedError as error:
            self._refuse(HTTPStatus.GONE, str(error))
        except (InfrastructureError, DataError) as error:  # the reason for which the attempt refuses the request
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"The request cannot be read: {error}")
        except RuntimeError:  # the event loop has ended
            self._refuse(HTTPStatus.GONE, ENDED)

    def _key(self) -> str:
        """Return the API key as a name. A key of a vendor is replaced by a digest, because names are written to files."""
        key = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip() or "default"
        return f"key-{hashlib.sha256(key.encode()).hexdigest()[:8]}" if key.startswith("sk-") else key

    def _complete(self, name: str, body: Any) -> None:
        request = ChatRequest(as_messages(body.get("messages")), [_with_parameters(t) for t in body.get("tools") or ()])
        if body.get("n") not in (None, 1):
            raise DataError(f"n is {body['n']}, but only one choice is sampled. Leave n out.")
        endpoint = self.server.endpoint
        endpoint.loop.call_soon_threadsafe(endpoint.deliver, name, request)
        reply = request.reply.result()
        streams, message = body.get("stream"), reply.message
        choice = {
            "index": 0,
            "delta" if streams else "message": _numbered(message) if streams else message,
            "finish_reason": "length" if reply.is_cut else "tool_calls" if message.get("tool_calls") else "stop",
        }
        total = reply.prompt_tokens + reply.tokens
        usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.tokens, "total_tokens": total}
        answer = {
            "id": f"chatcmpl-{secrets.token_hex(8)}",
            "object": "chat.completion.chunk" if streams else "chat.completion",
            "created": int(time.time()),
            "model": SERVED_MODEL,
            "choices": [choice],
        }
        if not streams:
            self._send(answer | {"usage": usage})
            return
        parts = [answer]
        if (body.get("stream_options") or {}).get("include_usage"):
            parts.append(answer | {"choices": [], "usage": usage})
        lines = [*map(json.dumps, parts), "[DONE]"]
        self._write("".join(f"data: {line}\n\n" for line in lines).encode(), "text/event-stream")

    def _end(self, name: str, body: Any) -> None:
        is_right = body.get("right")
        if not isinstance(is_right, bool | None):
            raise DataError(f"right is {is_right!r}; it must be true, false or null.")
        endpoint = self.server.endpoint
        assert endpoint.visitors is not None
        ended = asyncio.run_coroutine_threadsafe(endpoint.visitors.end(name, is_right), endpoint.loop).result()
        self._send({"session": name, "ended": ended})

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._send({"error": {"message": message, "type": "invalid_request_error", "code": status.value}}, status)

    def _send(self, content: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._write(json.dumps(content).encode(), "application/json", status)

    def _write(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _with_parameters(tool: Schema) -> Schema:
    """Return a tool with an object of parameters, which clients leave out for functions without any."""
    function = tool["function"]
    parameters = {"type": "object", "properties": {}} | (function.get("parameters") or {})
    return {**tool, "function": {**function, "parameters": parameters}}


def _numbered(message: Message) -> Message:
    """Return a message for a stream, in which calls have their number."""
    calls = [{"index": at, **call} for at, call in enumerate(message.get("tool_calls") or ())]
    return message | ({"tool_calls": calls} if calls else {})
