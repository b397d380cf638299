"""Several teachers: which one scores the attempts at a problem. Standard library and pydantic alone."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Self

from sod.config.base import model_path
from sod.config.score import ScoreOptions
from sod.errors import OptionError
from sod.types import Problem

REST = "*"
"""Key of the teacher of all other problems."""
HERE = (None, None)
"""Address and name of a model that is on no server."""
PAIR = re.compile(r"(\*(?:[\w.-]+:[\d.]+)?|[\w.-]+(?::[^=]+)?)=(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Route:
    """A teacher and the problems that it is for: a kind (`math`), a label (`difficulty:hard`), all other ones (`*`), or a part
    of them by weight (`*big:0.7`).
    """

    key: str
    model: Path
    url: str | None = None
    """Address of the server with the model; None if it is loaded here."""
    served_name: str | None = None
    """Its name on the server; None for the server's only model."""
    part: tuple[float, float] = (0.0, 1.0)
    """Its part of the other problems, from 0 to 1. The place of a problem follows from its id."""

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the route that is written as KEY=MODEL. Raise OptionError."""
        found = PAIR.fullmatch(text)
        model = model_path(found[2]) if found else None
        if not found or model is None:
            raise OptionError(
                f"teachers: {text!r} does not name the problems of a teacher. Write KIND=MODEL, COLUMN:VALUE=MODEL, *=MODEL or "
                "*NAME:WEIGHT=MODEL, such as math=runs/math-teacher."
            )
        return cls(found[1], Path(model))

    @property
    def name(self) -> str:
        """Name of the teacher in metrics."""
        if self.weight is not None:
            return self.key.removeprefix(REST).partition(":")[0]
        return "rest" if self.key == REST else re.sub(r"[^\w.-]+", "_", self.key)

    @property
    def is_rest(self) -> bool:
        """Whether it is for problems that no other key has."""
        return self.key.startswith(REST)

    @property
    def weight(self) -> str | None:
        """Its weight, as written; None for a key without one."""
        return self.key.partition(":")[2] if self.is_rest and self.key != REST else None

    @property
    def recorded(self) -> str:
        """Name of its fingerprint in a run with several teachers."""
        return f"teacher {self.name}"

    def takes(self, problem: Problem) -> bool:
        """Return whether this teacher is for a problem, if no earlier one is."""
        if self.is_rest:
            return self.part[0] <= _place(problem.id) < self.part[1]
        column, colon, value = self.key.partition(":")
        return problem.labels.get(column) == value if colon else problem.kind == column

    def score(self, options: ScoreOptions) -> ScoreOptions:
        """Return the options of this teacher alone."""
        return options.model_copy(
            update={"teacher_url": self.url, "teacher_served_name": self.served_name, "teacher_urls": ()}
        )


def routes_of(texts: Sequence[str]) -> list[Route]:
    """Return the routes in the order in which they are tried: as given, with `*` last. Raise OptionError for a key twice.

    The weights of the last ones divide the other problems.
    """
    routes = [Route.read(text) for text in texts]
    keys, names = [route.key for route in routes], [route.name for route in routes]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise OptionError(f"teachers: {twice!r} has two teachers. Give one for each kind or label.")
    if alike := [route.key for route in routes if names.count(route.name) > 1]:
        raise OptionError(
            f"teachers: {' and '.join(map(repr, alike[:2]))} would have one name in metrics. Rename a column or a value."
        )
    return [route for route in routes if not route.is_rest] + _divided([route for route in routes if route.is_rest])


def _divided(rest: list[Route]) -> list[Route]:
    """Return the routes of the other problems with the part of each. Raise OptionError for weights that divide nothing."""
    if [route.key for route in rest] in ([], [REST]):
        return rest
    weights = [_number(route.weight) for route in rest]
    if not all(weights):
        keys = " and ".join(repr(route.key) for route in rest)
        raise OptionError(
            f"teachers: {keys} do not divide the other problems. Give each a weight above 0, such as *big:0.7=A *small:0.3=B."
        )
    ends = [end / sum(weights) for end in accumulate(weights)]
    parts = pairwise([0.0, *ends[:-1], 1.0])
    return [replace(route, part=part) for route, part in zip(rest, parts, strict=True)]


def _number(weight: str | None) -> float:
    """Return a weight; 0 for text that is none."""
    try:
        return float(weight or 0)
    except ValueError:
        return 0.0


def _place(id: str) -> float:
    """Return a number from 0 to 1 that only depends on a problem's id, equally often any."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:6]) / 2**48


def route_for(routes: Sequence[Route], problem: Problem) -> Route | None:
    """Return the route of a problem: the first that takes it. None without one."""
    return next((route for route in routes if route.takes(problem)), None)


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
