"""Tables of text: drawn on a terminal, written as Markdown elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.table import Table

from sod.console.progress import console, echo
from sod.console.text import cell

WORDS = ("", "method", "teacher", "verdict")
"""Names of columns that contain words. All other columns contain numbers."""
GAP = 2
"""Characters between two columns, including the line of the box."""


@dataclass(frozen=True)
class Sheet:
    """A table of text: column names and rows."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[str]], title: str = "") -> "Sheet":
        return cls(title, list(columns), list(zip(*columns.values(), strict=True)))

    def drawn(self, width: int) -> list[Table]:
        """Return tables that fit into `width` characters. Columns that do not fit continue in a further table with the same rows.

        Words are not broken, except in a name that needs more than half of the width.
        """
        columns = [[cell(name), *(cell(row[i]) for row in self.rows)] for i, name in enumerate(self.head)]
        least = [min(width // 2, _least(column)) for column in columns]
        tables: list[Table] = []
        for part in _parts(least, width):
            table = Table(
                box=box.SIMPLE_HEAD,
                padding=(0, GAP - 1, 0, 0),
                pad_edge=False,
                show_edge=False,
                title=None if tables else self.title or None,
                title_justify="left",
            )
            for i, taken in zip(
                part, _widths([columns[i] for i in part], [least[i] for i in part], width), strict=True
            ):
                justify = "left" if self.head[i] in WORDS else "right"
                table.add_column(columns[i][0], justify=justify, overflow="fold", width=taken)
            for number in range(len(self.rows)):
                table.add_row(*(columns[i][1 + number] for i in part))
            tables.append(table)
        return tables

    def markdown(self) -> str:
        lines = [f"**{_markdown(self.title)}**", ""] if self.title else []
        lines.append("| " + " | ".join(map(_markdown, self.head)) + " |")
        lines.append("|" + "|".join("---" if name in WORDS else "--:" for name in self.head) + "|")
        return "\n".join([*lines, *("| " + " | ".join(map(_markdown, row)) + " |" for row in self.rows)])


def _least(column: Sequence[str]) -> int:
    """Return the smallest width of a column, in characters: its longest word. Cells with numbers stay on one line."""
    name, *cells = column
    words = [word for text in cells for word in text.split()] if name in WORDS else cells
    return max(map(cell_len, [*name.split(), *words]), default=1)


def _parts(least: Sequence[int], width: int) -> list[list[int]]:
    """Divide the columns into groups that fit side by side. Every group starts with the first column."""
    parts = [[0]]
    for column in range(1, len(least)):
        if len(parts[-1]) > 1 and sum(least[c] + GAP for c in [*parts[-1], column]) - GAP > width:
            parts.append([0])
        parts[-1].append(column)
    return parts


def _widths(columns: Sequence[Sequence[str]], least: Sequence[int], width: int) -> list[int]:
    """Return the width of each column, in characters. The widest columns shrink until all fit."""
    taken = [max(map(cell_len, column)) for column in columns]
    while sum(taken) + GAP * (len(taken) - 1) > width:
        room = [own - few for own, few in zip(taken, least, strict=True)]
        if not any(spare > 0 for spare in room):
            break
        widest = max((i for i, spare in enumerate(room) if spare > 0), key=lambda i: taken[i])
        taken[widest] -= 1
    return taken


def _markdown(text: str) -> str:
    return cell(text).replace("|", "\\|")


def show_sheets(sheets: Sequence[Sheet]) -> None:
    """Print tables: drawn on a terminal, elsewhere as Markdown."""
    if not console.is_terminal:
        echo("\n\n".join(sheet.markdown() for sheet in sheets))
        return
    for sheet in sheets:
        for table in sheet.drawn(console.width):
            console.print(table)
            console.print()
