"""Several teachers: which one scores the attempts at a problem. Standard library and pydantic alone."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from sod.config.base import model_path
from sod.config.score import ScoreOptions
from sod.errors import OptionError

REST = "*"
"""Key of the teacher of all other problems."""
HERE = (None, None)
"""Address and name of a model that is on no server."""
PAIR = re.compile(r"(\*|[\w.-]+(?::[^=]+)?)=(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Route:
    """A teacher and the problems that it is for: a kind (`math`), a label (`difficulty:hard`), or all other ones (`*`)."""

    key: str
    model: Path
    url: str | None = None
    """Address of the server with the model; None if it is loaded here."""
    served_name: str | None = None
    """Its name on the server; None for the server's only model."""

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

    @property
    def recorded(self) -> str:
        """Name of its fingerprint in a run with several teachers."""
        return f"teacher {self.name}"

    def takes(self, kind: str, labels: Mapping[str, str]) -> bool:
        """Return whether this teacher is for a problem of that kind, with those labels."""
        column, colon, value = self.key.partition(":")
        return self.key == REST or (labels.get(column) == value if colon else kind == column)

    def score(self, options: ScoreOptions) -> ScoreOptions:
        """Return the options of this teacher alone."""
        return options.model_copy(
            update={"teacher_url": self.url, "teacher_served_name": self.served_name, "teacher_urls": ()}
        )


def routes_of(texts: Sequence[str]) -> list[Route]:
    """Return the routes in the order in which they are tried: as given, with `*` last. Raise OptionError for a key twice."""
    routes = [Route.read(text) for text in texts]
    names = [route.name for route in routes]
    if twice := next((route.key for route in routes if names.count(route.name) > 1), None):
        raise OptionError(f"teachers: {twice!r} has two teachers. Give one for each kind or label.")
    return sorted(routes, key=lambda route: route.key == REST)


def route_for(routes: Sequence[Route], kind: str, labels: Mapping[str, str]) -> Route | None:
    """Return the route of a problem of that kind, with those labels: the first that takes it. None without one."""
    return next((route for route in routes if route.takes(kind, labels)), None)


def with_servers(routes: Sequence[Route], texts: Sequence[str]) -> list[Route]:
    """Return the routes with the servers of score.teacher_urls. Raise OptionError for an unfit text or a key twice."""
    found = [_server(text) for text in texts]
    places, keys = dict(found), [key for key, _ in found]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise OptionError(f"score.teacher_urls: {twice!r} has two servers. Give one for each key of teachers.")
    if unknown := next((key for key in places if key not in {route.key for route in routes}), None):
        raise OptionError(
            f"score.teacher_urls: {unknown!r} is no key of teachers. Add {unknown}=MODEL to --teachers, where MODEL has the "
            "tokenizer of the served model."
        )
    return [
        replace(route, url=url, served_name=name) for route in routes for url, name in [places.get(route.key, HERE)]
    ]


def _server(text: str) -> tuple[str, tuple[str, str | None]]:
    """Return the key, the address and the name on the server of a text KEY=URL#NAME. Raise OptionError."""
    found = PAIR.fullmatch(text)
    if not found or "://" not in found[2]:
        raise OptionError(
            f"score.teacher_urls: {text!r} does not name a teacher and its server. Write KEY=URL with a key of teachers, such as "
            "math=http://127.0.0.1:8001."
        )
    url, _, name = found[2].partition("#")
    return found[1], (url, name or None)


def named_in(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command with --teachers where --teacher has routes, such as --teacher math=A *=B."""
    made = list(arguments)
    for at, argument in enumerate(made[:-1]):
        first = made[at + 1]
        if argument == "--teacher" and PAIR.fullmatch(first) and not Path(first).exists():
            made[at] = "--teachers"
    return made
