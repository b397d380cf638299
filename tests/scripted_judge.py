"""A server with OpenAI's chat API on 127.0.0.1 whose replies are scripted, for judges that are language models."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from scripted_server import answering

Body = dict[str, Any]


@dataclass
class Script:
    """What a server answers, and what it was asked."""

    reply: Callable[[Body], Any]
    """Return the model's words, or (status, JSON body) for another response."""
    models: tuple[str, ...] = ("tiny-judge",)
    asked: list[Body] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)


def said(words: str, finish: str | None = "stop") -> Body:
    return {"choices": [{"message": {"role": "assistant", "content": words}, "finish_reason": finish}]}


def part(body: Body, name: str) -> str | None:
    """The text between the tags of this name in a question; None if there are none."""
    found = re.findall(
        rf"^<{name}-(\w+)>\n(.*?)\n</{name}-\1>$", body["messages"][-1]["content"], re.DOTALL | re.MULTILINE
    )
    assert len(found) < 2, "a text has written a tag"
    return found[0][1] if found else None


def compares(body: Body) -> str:
    """A judge that looks for the reference answer as a word of the answer."""
    reference, answer = part(body, "reference"), part(body, "answer")
    assert reference is not None
    assert answer is not None
    is_right = re.search(rf"\b{re.escape(reference)}\b", answer)
    return f"The reference is {reference}.\nVERDICT: {'right' if is_right else 'wrong'}"


@contextmanager
def judging(script: Script) -> Iterator[str]:
    """-> the server's address"""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": name} for name in script.models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.asked.append(body)
            script.headers.append(dict(self.headers))
            reply = script.reply(body)
            status, content = reply if isinstance(reply, tuple) else (200, said(reply))
            self._send(status, content)

        def _send(self, status: int, content: Any) -> None:
            text = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            with suppress(OSError):  # whoever asked has gone
                self.wfile.write(text)

    with answering(Handler) as url:
        yield url
