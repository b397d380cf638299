"""Several teachers: which one scores the attempts at a problem. Standard library and pydantic alone."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator

from sod.config.base import as_names, model_path
from sod.errors import OptionError

REST = "*"
"""Key of the teacher of all other problems."""
PAIR = re.compile(r"(\*|[\w.-]+(?::[^=]+)?)=(.+)", re.DOTALL)

TeacherNames = Annotated[tuple[str, ...], BeforeValidator(as_names)]


@dataclass(frozen=True, slots=True)
class Route:
    """A teacher and the problems that it is for: a kind (`math`), a label (`difficulty:hard`), or all other ones (`*`)."""

    key: str
    model: Path

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the route that is written as KEY=MODEL. Raise OptionError."""
        found = PAIR.fullmatch(text)
        model = model_path(found[2]) if found else None
        if not found or model is None:
            raise OptionError(
                f"teachers: {text!r} does not name the problems of a teacher. Write KIND=MODEL, COLUMN:VALUE=MODEL or *=MODEL, "
                "such as math=runs/math-teacher."
            )
        return cls(found[1], Path(model))

    @property
    def name(self) -> str:
        """Name of the teacher in metrics."""
        return "rest" if self.key == REST else re.sub(r"[^\w.-]+", "_", self.key)

    def takes(self, kind: str, labels: Mapping[str, str]) -> bool:
        """Return whether this teacher is for a problem of that kind, with those labels."""
        column, colon, value = self.key.partition(":")
        return self.key == REST or (labels.get(column) == value if colon else kind == column)


def routes_of(texts: Sequence[str]) -> list[Route]:
    """Return the routes in the order in which they are tried: as given, with `*` last. Raise OptionError for a key twice."""
    routes = [Route.read(text) for text in texts]
    names = [route.name for route in routes]
    if twice := next((route.key for route in routes if names.count(route.name) > 1), None):
        raise OptionError(f"teachers: {twice!r} has two teachers. Give one for each kind or label.")
    return sorted(routes, key=lambda route: route.key == REST)


def named_in(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command with --teachers where --teacher has routes, such as --teacher math=A *=B."""
    made = list(arguments)
    for at, argument in enumerate(made[:-1]):
        first = made[at + 1]
        if argument == "--teacher" and PAIR.fullmatch(first) and not Path(first).exists():
            made[at] = "--teachers"
    return made
