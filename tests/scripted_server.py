"""A model that knows the answers, served: a real server with vLLM's API on 127.0.0.1, for evaluations from end to end.

It recognises a problem by its statement, calls the interpreter once, reads what came of it, and answers: rightly or not, as the
request's seed decides. So what an evaluation of it must come to is known to the last sample.
"""

import json
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from transformers import PreTrainedTokenizerBase

from sod.rollout.groups import attempt_seed
from sod.types import Problem

CALL = '<tool_call>\n{"name": "code_interpreter", "arguments": {"code": "print(6 * 7)"}}\n</tool_call>'
PROGRAM = """```python
import sys
lines = sys.stdin.read().split()
print(lines[0] if lines else "")
```"""


def knows(seed: int) -> bool:
    """Whether the answer to a request with this seed is to be right: two in three are."""
    return seed % 3 > 0


def right(problem: Problem, sample: int) -> bool:
    """What the verdict on an attempt must be, where there is an answer to know: it stands in the second turn."""
    seed = attempt_seed(0, 0, problem.id, sample) + 1
    return problem.kind != "code" and knows(random.Random(seed).getrandbits(63))  # as vLLM is asked


class Model:
    """What is said to a prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]):
        self._tokenizer = tokenizer
        self._by_prompt = {problem.messages[-1]["content"]: problem for problem in problems}
        self.requests = 0

    def write(self, body: Mapping[str, Any]) -> list[int]:
        text = str(self._tokenizer.decode(body["prompt"]))
        found = re.search(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", text, re.DOTALL)
        problem = self._by_prompt.get(found[1]) if found else None
        self.requests += problem is not None
        if problem is None or "<tool_response>\n42" not in text:
            reply = CALL
        elif problem.kind == "code":
            reply = PROGRAM
        else:
            answer = re.sub(r"^0+(?=\d+$)", "", problem.answer) if knows(body["seed"]) else "no such thing"
            reply = f"So the answer is \\boxed{{{answer}}}."
        return self._tokenizer.encode(reply, add_special_tokens=False)


@contextmanager
def serving(model: Model, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """-> the server's address"""
    with answering(_handler(model, tokenizer)) as url:
        yield url


@contextmanager
def answering(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve a handler on a free port of 127.0.0.1. -> the server's address"""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(model: Model, tokenizer: PreTrainedTokenizerBase) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._send({"data": [{"id": "scripted", "max_model_len": 1 << 20}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize":
                self._send({"tokens": tokenizer.encode(body["prompt"], add_special_tokens=False)})
                return
            tokens = [*model.write(body), *body["stop_token_ids"]][: body["max_tokens"]]
            ended = tokens[-1:] == body["stop_token_ids"]
            self._send({"choices": [{"finish_reason": "stop" if ended else "length", "text": "", "token_ids": tokens}]})

        def _send(self, content: Any) -> None:
            text = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            with suppress(OSError):  # whoever asked was killed
                self.wfile.write(text)

    return Handler
