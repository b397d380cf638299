"""Make text from data, models and paths safe to show. Standard library only."""

import unicodedata

JOINERS = "\u200c\u200d"
"""Zero-width characters that Persian, Indic scripts and emoji need."""


def plain(text: str) -> str:
    """Return the text with every control, formatting and unassigned character escaped: \\x1b, \\u202e. Line ends stay.

    No escape sequence reaches a terminal, and no bidirectional or zero-width character makes text look like another one.
    """
    if text.isprintable():
        return text
    return "".join(character if _is_shown(character) else ascii(character)[1:-1] for character in text)


def _is_shown(character: str) -> bool:
    return character.isprintable() or character in "\n" + JOINERS or unicodedata.category(character) == "Zs"


def cell(text: str) -> str:
    """Return the text on one line, for a table."""
    return plain(text).replace("\n", "\\n")
