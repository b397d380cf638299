"""Pack trajectories for the page: in gzip chunks, which a browser decompresses one at a time, on demand.

Base64 has no characters with a meaning in HTML, so no text of a trajectory can end the element that contains it.
"""

import gzip
from base64 import b64encode
from typing import Any

from sod.report.trajectories import Compact
from sod.runs.files import to_json

CHUNK_CHARACTERS = 2**18
"""Approximate JSON characters per chunk: large enough to compress well, small enough to open quickly."""


def packed_json(content: Any) -> str:
    """Encode content as compressed JSON in base64. Deterministic."""
    text = to_json(content, ascii=True, separators=(",", ":"))  # ASCII, because UTF-8 cannot encode a lone surrogate
    return b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


class Packer:
    """Collects trajectories into chunks."""

    def __init__(self) -> None:
        self._chunks: list[str] = []
        self._open: list[Compact] = []
        self._characters = 0

    def add(self, trajectory: Compact) -> tuple[int, int]:
        """Add a trajectory. -> number of the chunk, position in it"""
        place = len(self._chunks), len(self._open)
        self._open.append(trajectory)
        self._characters += _characters(trajectory)
        if self._characters >= CHUNK_CHARACTERS:
            self._close()
        return place

    def chunks(self) -> list[str]:
        """Return all chunks, packed."""
        if self._open:
            self._close()
        return self._chunks

    def _close(self) -> None:
        self._chunks.append(packed_json(self._open))
        self._open, self._characters = [], 0


def _characters(trajectory: Compact) -> int:
    """Estimate the length of the trajectory's JSON."""
    numbers = ("cuts", "texts", "signal", "teacher_entropy", "logprobs")
    return sum(
        len(piece["text"]) + 5 * sum(len(piece.get(key, ())) for key in numbers) for piece in trajectory["pieces"]
    )
