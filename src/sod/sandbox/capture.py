"""Read a program's output from a pipe: keep the head and the tail, count all bytes."""

import codecs
import contextlib
import os
from typing import Self

OUTPUT_LIMIT = 16 << 20
"""Bytes a program may write to one stream before it is killed."""


class Capture:
    """Pipe for a program's output: keeps the head and the tail, and counts all bytes."""

    def __init__(self, keep: int) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.total = 0
        self._head_room, self._tail_room = keep // 2, keep - keep // 2
        self._head, self._tail = bytearray(), bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.reader)
        self.close_writer()

    def close_writer(self) -> None:
        """Close this process's copy of the write end; the program keeps its own."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def read(self) -> int:
        """Read once and return the number of bytes, 0 at the end. Raises BlockingIOError if the pipe is empty."""
        data = os.read(self.reader, 65_536)
        self.total += len(data)
        room = self._head_room - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > self._tail_room + 1_000_000:
            self._trim()
        return len(data)

    def read_rest(self) -> None:
        """Read the remaining bytes after the program's end. An escaped process may still hold the pipe open."""
        with contextlib.suppress(BlockingIOError):
            while self.total <= OUTPUT_LIMIT and self.read():
                pass

    def text(self) -> str:
        """Return the kept output, with the number of omitted bytes between head and tail."""
        self._trim()
        return shown(bytes(self._head), bytes(self._tail), self.total)

    def _trim(self) -> None:
        del self._tail[: max(0, len(self._tail) - self._tail_room)]


def shown(head: bytes, tail: bytes, total: int) -> str:
    """Decode head and tail, cut to whole characters, with the number of omitted bytes of `total` between them."""
    if total == len(head) + len(tail):
        return (head + tail).decode(errors="replace")
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(head)  # the decoder holds back an incomplete last character
    cut = len(decoder.getstate()[0])
    first = next((i for i, byte in enumerate(tail[:4]) if byte & 0xC0 != 0x80), 0)
    omitted = total - len(head) - len(tail) + cut + first
    return f"{text}\n... [{omitted} bytes omitted] ...\n{tail[first:].decode(errors='replace')}"
