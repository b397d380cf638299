"""Text in titled sections, wrapped to the terminal: what dry runs and `sod plan` print."""

import re
import textwrap
from dataclasses import dataclass, field

from sod.console.progress import console

COLUMN = 9
"""Number of characters before each line. The first line of a section has the title there."""
ENTRY = re.compile(r" *\S.{,8}? {2,}")
"""The start of a line with a column of its own: `model    `, `  2.7 GiB  `."""
COMMAND = "$ "
"""The start of a command line. It is wrapped with backslashes, so that it can be pasted."""
WHOLE = re.compile(r"\d [TGMK]iB|(?<!\S)-[\w.-]+ (?=[^-\s])")
"""Places where a line must not be wrapped: between a number and its unit, an option and its value."""


@dataclass(slots=True)
class Text:
    """Text in titled sections, in the order in which they are added."""

    heading: str
    sections: dict[str, list[str]] = field(default_factory=dict)

    def add(self, title: str, *lines: str) -> None:
        self.sections.setdefault(title, []).extend(lines)

    def written(self, width: int | None) -> str:
        """Return the text, wrapped to `width` characters per line. None: no limit."""
        lines = _wrapped(self.heading, width and width + COLUMN)
        for title, content in self.sections.items():
            pieces = [piece for line in content for piece in _wrapped(line, width)]
            lines += [f"{'' if number else title:<{COLUMN}}{piece}" for number, piece in enumerate(pieces)]
        return "\n".join(lines)


def columns() -> int | None:
    """Return the width of the terminal in characters, or None without a terminal."""
    return console.width if console.is_terminal else None


def _wrapped(line: str, width: int | None) -> list[str]:
    """Return the line, wrapped. Continuation lines are indented to the start of the text."""
    if width is None:
        return [line]
    entry, typed = ENTRY.match(line), line.startswith(COMMAND)
    hanging = 4 if typed else entry.end() if entry else 2
    pieces = textwrap.wrap(
        WHOLE.sub(lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), line),
        width - COLUMN - (2 if typed else 0),
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    *begun, last = [piece.replace("\N{NO-BREAK SPACE}", " ") for piece in pieces]
    return [*(f"{piece} \\" if typed else piece for piece in begun), last]
