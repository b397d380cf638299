"""Messages and tokens: one chat template, the calls in a turn, conversations of other formats."""

from typing import TYPE_CHECKING, Any

from sod.chat.calls import parse_calls

if TYPE_CHECKING:
    from sod.chat.format import ChatFormat

__all__ = ["ChatFormat", "parse_calls"]


def __getattr__(name: str) -> Any:
    """Import `ChatFormat` on first use: it needs transformers, which the rest of this package does not."""
    if name != "ChatFormat":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sod.chat.format import ChatFormat

    return ChatFormat
