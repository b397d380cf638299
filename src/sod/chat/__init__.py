"""Convert messages to tokens and back: chat templates, tool calls, published conversation formats."""

from typing import TYPE_CHECKING, Any

from sod.chat.calls import parse_calls

if TYPE_CHECKING:
    from sod.chat.format import ChatFormat

__all__ = ["ChatFormat", "parse_calls"]


def __getattr__(name: str) -> Any:
    """Import `ChatFormat` on first use, because it needs transformers."""
    if name != "ChatFormat":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sod.chat.format import ChatFormat

    return ChatFormat
