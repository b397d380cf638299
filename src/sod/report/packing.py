"""Trajectories as the page embeds them: in chunks of gzip, which a browser opens one at a time and only when needed.

Base64 has no character that HTML gives a meaning to, so no text in a trajectory can end the element that it stands in.
"""

import gzip
from base64 import b64encode
from typing import Any

from sod.report.trajectories import Compact
from sod.runs.files import to_json

CHUNK_CHARACTERS = 2**18
"""JSON in a chunk, roughly: large enough to compress well, small enough to open at once."""


def packed(content: Any) -> str:
    """JSON, compressed, in base64. The same content gives the same text."""
    text = to_json(content, ascii=True, separators=(",", ":"))  # ASCII: half of a surrogate pair cannot be UTF-8
    return b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


class Packer:
    """Collects trajectories into chunks."""

    def __init__(self) -> None:
        self._chunks: list[str] = []
        self._open: list[Compact] = []
        self._characters = 0

    def add(self, trajectory: Compact) -> tuple[int, int]:
        """-> number of the chunk, place in it"""
        place = len(self._chunks), len(self._open)
        self._open.append(trajectory)
        self._characters += _characters(trajectory)
        if self._characters >= CHUNK_CHARACTERS:
            self._close()
        return place

    def chunks(self) -> list[str]:
        """All of them, packed."""
        if self._open:
            self._close()
        return self._chunks

    def _close(self) -> None:
        self._chunks.append(packed(self._open))
        self._open, self._characters = [], 0


def _characters(trajectory: Compact) -> int:
    """About how long the trajectory's JSON is, without making it."""
    numbers = ("cuts", "texts", "signal", "teacher_entropy", "logprobs")
    return sum(
        len(piece["text"]) + 5 * sum(len(piece.get(key, ())) for key in numbers) for piece in trajectory["pieces"]
    )
