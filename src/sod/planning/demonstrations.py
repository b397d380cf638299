"""Count the tokens of the longest conversation in files of demonstrations, for the dry run of `sod sft`."""

from collections.abc import Sequence
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING

from sod.datasets.rows import load_demonstrations

if TYPE_CHECKING:
    from sod.chat.format import ChatFormat

SAMPLED_ROWS = 64
"""Number of conversations whose tokens are counted: those with most characters."""


def longest_conversation(chat: "ChatFormat", files: Sequence[Path]) -> int:
    """Return the number of tokens of the longest conversation, with its tools, as fine-tuning renders it.

    Raise DataError for a file that cannot be used, and TemplateError for a conversation that cannot be rendered.
    """
    rows = [row for file in files for row in load_demonstrations(file)]
    candidates = nlargest(SAMPLED_ROWS, rows, key=lambda row: len(str(row.messages)) + len(str(row.tools)))
    rendered = (chat.render(row.messages, row.tools) for row in candidates)
    return max(sum(len(piece.tokens) for piece in pieces) for pieces in rendered)
