"""Conversations under way, on disk: each is a file until its trajectory is written, so that a killed server loses none.

A file has what the agent added, in one line per request, and what the student wrote, in one line per turn. A server that starts
again gives both to a new attempt, which then stands where the old one did: `RecordedEngine` returns the turns of the file
before it samples further ones.
"""

import hashlib
import json
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from sod.engines import Engine, Reply, Request
from sod.errors import InfrastructureError
from sod.runs.files import append_line, in_words, to_json, write_whole
from sod.types import Message, Schema

logger = logging.getLogger(__name__)

RecordedTurn = tuple[str, Reply]
"""A reply of the engine, and the digest of the tokens that it read."""


@dataclass(slots=True)
class OpenFile:
    """The file of one conversation. Raises RunError if it cannot be written."""

    path: Path
    name: str
    """Name of the session."""
    sample: int
    tools: list[Schema]
    requests: list[list[Message]] = field(default_factory=list)
    """Messages that each request added, of those that have an answer."""
    turns: list[RecordedTurn] = field(default_factory=list)

    @classmethod
    def begin(cls, folder: Path, name: str, sample: int, tools: list[Schema]) -> Self:
        """Create the file of a new conversation."""
        file = cls(folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}-{sample}.jsonl", name, sample, tools)
        with in_words(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_whole(file.path, file._first_line(), sync=False)
        return file

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the file of a killed server, and remove what has no answer. None, and no file, if there is no turn.

        A damaged file is renamed to `.damaged` and reported.
        """
        try:
            first, *lines = path.read_bytes().splitlines(keepends=True)
            head = json.loads(first)
            file = cls(path, str(head["session"]), int(head["sample"]), head["tools"])
            for asked, answered in zip(lines[::2], lines[1::2], strict=False):
                if not answered.endswith(b"\n"):  # the disk was full, or the machine lost power
                    break
                file.requests.append(json.loads(asked)["messages"])
                file.turns.append(_turn(json.loads(answered)))
        except (OSError, ValueError, LookupError, TypeError) as error:
            aside = path.with_suffix(".damaged")
            logger.warning(f"{path} is damaged, so its conversation does not continue; it is kept as {aside}: {error}")
            with in_words(aside):
                path.replace(aside)
            return None
        if not file.turns:
            file.close()
            return None
        pairs = zip(file.requests, file.turns, strict=True)
        whole = [_line({"messages": messages}) + _line(_record(*turn)) for messages, turn in pairs]
        write_whole(path, file._first_line() + "".join(whole), sync=False)
        return file

    def ask(self, messages: list[Message]) -> None:
        """Append the messages that a request adds."""
        append_line(self.path, _line({"messages": messages}).rstrip("\n"))

    def answer(self, read: str, reply: Reply) -> None:
        """Append a turn of the student."""
        append_line(self.path, _line(_record(read, reply)).rstrip("\n"))

    def close(self) -> None:
        """Delete the file: the trajectory is written, or there is none."""
        with in_words(self.path):
            self.path.unlink(missing_ok=True)

    def _first_line(self) -> str:
        return _line({"session": self.name, "sample": self.sample, "tools": self.tools})


def read_open(folder: Path) -> list[OpenFile]:
    """Return the conversations that a killed server left in a folder."""
    return [file for path in sorted(folder.glob("*.jsonl")) if (file := OpenFile.read(path))]


class RecordedEngine:
    """Samples with another engine, and records each reply in a file. The turns that the file had when it was read come first.

    Raises InfrastructureError if a turn of the file was an answer to other tokens.
    """

    def __init__(self, engine: Engine, file: OpenFile):
        self._engine = engine
        self._file = file
        self._earlier = deque(file.turns)

    async def sample(self, request: Request) -> Reply:
        read = _digest(request.ids)
        if self._earlier:
            before, reply = self._earlier.popleft()
            if read != before:
                raise InfrastructureError("the conversation reads as other tokens than before the server was killed.")
            return reply
        reply = await self._engine.sample(request)
        self._file.answer(read, reply)
        return reply

    def release(self, trajectory: int) -> None:
        self._engine.release(trajectory)

    def take_busy_seconds(self) -> float:
        return self._engine.take_busy_seconds()

    async def refresh(self) -> None:
        await self._engine.refresh()

    async def close(self) -> None:
        await self._engine.close()


def _digest(tokens: Sequence[int]) -> str:
    return hashlib.sha256(" ".join(map(str, tokens)).encode()).hexdigest()


def _record(read: str, reply: Reply) -> dict[str, Any]:
    return {"read": read, **asdict(reply)}


def _turn(record: dict[str, Any]) -> RecordedTurn:
    return record["read"], Reply(tuple(record["tokens"]), tuple(record["logprobs"]), record["stop"])


def _line(content: dict[str, Any]) -> str:
    return to_json(content, ascii=True) + "\n"
