"""A maze of facts for multi-hop search, as in search questions: follow relations from person to person.

One tool, `search(query=...)`: `about NAME` opens the first page, `follow mother` goes to the page of that person, and `back`
returns to the page before. A wrong page therefore stays: it must be left again, turn by turn, while the budget shrinks.

Levels: 1 has three hops, 2 has four, 3 has six.
"""

import random

from sod.environments.worlds.base import Effect, Move, SmallWorld, invalid

PEOPLE = (
    *("ann", "ben", "cora", "dan", "eve", "finn", "gina", "hugo", "iris", "jack", "kate", "leo", "mia", "nick"),
    *("olga", "paul", "rosa", "sam", "tina", "udo", "vera", "will", "yara", "zeno"),
)
TIES: tuple[str, ...] = ("friend", "boss", "doctor", "mother", "teacher", "neighbour", "cousin", "partner")
HOPS = {1: 3, 2: 4, 3: 6}
LINKS = 3
"""Relations on a page."""


class Maze(SmallWorld):
    NAME = "maze"
    TOOL = ("search", "query")
    TOOL_HELP = "Open the first page: about NAME. Follow a relation of the page: follow mother. Return to the page before: back."

    pages: dict[str, dict[str, str]]
    """Person, relation, other person."""
    origin: str
    relations: list[str]
    path: list[str]
    """Persons from the start to the answer."""
    trail: list[str]
    """Pages from the first to the present one."""

    def draw(self, rng: random.Random) -> None:
        hops = HOPS[self.level]
        self.relations = rng.sample(TIES, hops)
        self.path = rng.sample(PEOPLE, hops + 1)
        self.origin = self.path[0]
        rest = [name for name in PEOPLE if name not in self.path]
        self.pages, self.trail = {}, []
        for name in PEOPLE:
            others = [other for other in rest if other != name]
            links = dict(zip(rng.sample(TIES, LINKS), rng.choices(others, k=LINKS), strict=True))
            if name in self.path[:-1]:
                at = self.path.index(name)
                links = dict(list(links.items())[1:]) if self.relations[at] not in links else links
                links[self.relations[at]] = self.path[at + 1]
                links = dict(rng.sample(list(links.items()), LINKS))
            self.pages[name] = links

    @property
    def task(self) -> str:
        return f"from {self.origin} {' '.join(self.relations)} who?"

    @property
    def gold(self) -> str:
        return self.path[-1]

    # Actions

    def act(self, action: str) -> Effect:
        before = self._progress
        if action == "back":
            if len(self.trail) < 2:
                return invalid("there is no page before.")
            self.trail.pop()
        else:
            ways = self._ways()
            if action not in ways:
                return invalid("this page has no such relation." if self.trail else f"begin with about {self.origin}.")
            self.trail.append(ways[action])
        present = self.trail[-1]
        links = ", ".join(f"{relation} {other}" for relation, other in self.pages[present].items())
        return Effect(f"about {present}: {links}.", reward=(self._progress - before) / len(self.path))

    def _ways(self) -> dict[str, str]:
        """Return the actions that open a further page, and whose page that is."""
        if not self.trail:
            return {f"about {self.origin}": self.origin}
        return {f"follow {relation}": other for relation, other in self.pages[self.trail[-1]].items()}

    @property
    def _progress(self) -> int:
        """Number of right pages from the start."""
        pairs = zip(self.trail, self.path, strict=False)
        return next((at for at, (here, right) in enumerate(pairs) if here != right), len(self.trail))

    def judge(self) -> tuple[bool, str]:
        if self.answer is None:
            return False, "no answer"
        words = self.answer.strip().rstrip(".").split()
        given = words[-1] if words else ""
        return given == self.gold, self.gold if given == self.gold else f"{given!r} instead of {self.gold!r}"

    # Players

    def expert(self) -> Move:
        known = self._progress
        if known < len(self.trail):
            return Move(f"back to {self.trail[-2]}", "back")
        if not known:
            return Move(f"from {self.origin}", f"about {self.origin}")
        # The thought repeats two words of the task. A tiny model learns to read on, so it finds the next relation. It does not
        # learn to look up a relation on a page, so the search does that (docs/log.md).
        before, following = [self.origin, *self.relations, "who"][known - 1 : known + 1]
        if known == len(self.path):
            return Move(f"after {before} {following}", f"answer {self.gold}", is_answer=True)
        return Move(f"after {before} {following}", f"follow {following}")

    def actions(self) -> list[str]:
        back = ["back"] if len(self.trail) > 1 else []
        return [*self._ways(), *back]
