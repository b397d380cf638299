"""What a program writes, as it is read from a pipe: the head and the tail are kept, and all of it is counted."""

import codecs
import contextlib
import os
from typing import Self

OUTPUT_LIMIT = 16 << 20
"""Bytes a program may write to one stream before it is ended."""


class Capture:
    """A pipe that a program writes into: read as it fills; the head and the tail are kept."""

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
        """Leave the program's side to the program."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def read(self) -> int:
        """Take what is there, once; the number of bytes, 0 at the end. Raises BlockingIOError if nothing is there."""
        data = os.read(self.reader, 65_536)
        self.total += len(data)
        room = self._head_room - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > self._tail_room + 1_000_000:
            self._trim()
        return len(data)

    def read_rest(self) -> None:
        """Take what is left when the program is gone; a process that got away may still hold the pipe open."""
        with contextlib.suppress(BlockingIOError):
            while self.total <= OUTPUT_LIMIT and self.read():
                pass

    def text(self) -> str:
        """What was kept, with the number of omitted bytes between head and tail."""
        self._trim()
        return shown(bytes(self._head), bytes(self._tail), self.total)

    def _trim(self) -> None:
        del self._tail[: max(0, len(self._tail) - self._tail_room)]


def shown(head: bytes, tail: bytes, total: int) -> str:
    """As text: whole characters only, and the number of omitted bytes of `total` between head and tail."""
    if total == len(head) + len(tail):
        return (head + tail).decode(errors="replace")
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(head)  # up to the last whole character
    cut = len(decoder.getstate()[0])
    first = next((i for i, byte in enumerate(tail[:4]) if byte & 0xC0 != 0x80), 0)
    omitted = total - len(head) - len(tail) + cut + first
    return f"{text}\n... [{omitted} bytes omitted] ...\n{tail[first:].decode(errors='replace')}"
