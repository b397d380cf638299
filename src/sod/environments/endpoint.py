"""An OpenAI-compatible endpoint on this machine, through which agents of other frameworks ask the student.

Every attempt has an address of its own, `http://127.0.0.1:PORT/ID/v1`. A request for a chat completion waits until the attempt's
environment answers it. Supported: `messages`, `tools`, `stream` (the answer comes in one part). The run decides how tokens are
sampled, so `model`, `temperature`, `max_tokens` and the like have no effect. Several choices per request are refused.
"""

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
from typing import Any

from sod.chat.conversations import as_messages
from sod.errors import DataError
from sod.types import Message, ToolCall

HOST = "127.0.0.1"
LARGEST_REQUEST = 64 * 2**20
"""Largest request, in bytes."""
MODEL = "student"
"""The only model of the endpoint."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request for the student's next turn. `reply` is its answer, or the exception that refuses it."""

    messages: list[Message]
    tools: list[dict[str, Any]]
    reply: "Future[Message]" = field(default_factory=Future)


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
    """The server. `register` returns the address of an attempt; its requests are passed to `receive`, in another thread."""

    def __init__(self) -> None:
        self._receivers: dict[str, Callable[[ChatRequest], None]] = {}
        self._server = _Server((HOST, 0), _Handler)
        self._server.receivers = self._receivers
        Thread(target=self._server.serve_forever, name="endpoint", daemon=True).start()

    def register(self, receive: Callable[[ChatRequest], None]) -> str:
        """Return the base URL of a new attempt."""
        id = secrets.token_hex(8)
        self._receivers[id] = receive
        return f"http://{HOST}:{self._server.server_address[1]}/{id}/v1"

    def forget(self, url: str) -> None:
        """Refuse further requests to the address of an attempt."""
        self._receivers.pop(url.split("/")[3], None)

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    receivers: dict[str, Callable[[ChatRequest], None]]

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
            self._send({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "sod"}]})
        else:
            self._refuse(HTTPStatus.NOT_FOUND, f"There is no path {self.path}.")

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if size > LARGEST_REQUEST:
            self.close_connection = True
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The request has {size} bytes.")
            return
        content = self.rfile.read(size)
        _, id, *rest = self.path.split("/")
        receive = self.server.receivers.get(id)
        if rest != ["v1", "chat", "completions"]:
            self._refuse(HTTPStatus.NOT_FOUND, f"There is no path {self.path}; only chat/completions is served.")
        elif receive is None:
            self._refuse(HTTPStatus.GONE, "This attempt has ended.")
        else:
            self._complete(content, receive)

    def _complete(self, content: bytes, receive: Callable[[ChatRequest], None]) -> None:
        try:
            body = json.loads(content)
            request = ChatRequest(as_messages(body.get("messages")), list(body.get("tools") or ()))
        except (ValueError, AttributeError, TypeError, DataError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"The request cannot be read: {error}")
            return
        if body.get("n") not in (None, 1):
            self._refuse(HTTPStatus.BAD_REQUEST, f"n is {body['n']}, but only one choice is sampled. Leave n out.")
            return
        receive(request)
        try:
            message = request.reply.result()
        except Exception as error:  # the reason for which the environment refuses the request
            self._refuse(HTTPStatus.CONFLICT, str(error))
            return
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        part = "delta" if body.get("stream") else "message"
        answer = {
            "id": f"chatcmpl-{secrets.token_hex(8)}",
            "object": "chat.completion.chunk" if body.get("stream") else "chat.completion",
            "created": int(time.time()),
            "model": MODEL,
            "choices": [
                {"index": 0, part: _numbered(message) if body.get("stream") else message, "finish_reason": reason}
            ],
        }
        if body.get("stream"):
            self._write(f"data: {json.dumps(answer)}\n\ndata: [DONE]\n\n".encode(), "text/event-stream")
        else:
            self._send(answer | {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}})

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


def _numbered(message: Message) -> Message:
    """Return a message for a stream, in which calls have their number."""
    calls = [{"index": at, **call} for at, call in enumerate(message.get("tool_calls") or ())]
    return message | ({"tool_calls": calls} if calls else {})
