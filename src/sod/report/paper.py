"""The figures of the paper's tables (paper.toml), to show beside one's own."""

import tomllib
from difflib import get_close_matches
from functools import cache
from importlib.resources import files


@cache
def rows() -> dict[str, dict[str, float]]:
    """Return each row of the paper's table by its name: percentages by benchmark."""
    return tomllib.loads((files("sod") / "paper.toml").read_text(encoding="utf-8"))


def refusal(name: str) -> str | None:
    """Return why there is no such row, naming the nearest; None if there is one."""
    if name in rows():
        return None
    near = get_close_matches(name, rows(), n=1)
    return f"paper: there is no row {name!r}; " + (
        f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(rows())}."
    )
