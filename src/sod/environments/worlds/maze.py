"""A maze of facts for multi-hop search, as in search questions: follow relations from person to person.

One tool, `search(query=...)`: `about NAME` goes to the page of a person who is named on the present page, and `back` goes to the
page before. A wrong page therefore stays: it must be left again, turn by turn, while the budget shrinks.

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
    TOOL_HELP = "Go to the page of a person that the present page names: about NAME. Return to the page before: back."

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
        return f"from {self.origin} {' '.join(self.relations)}. who?"

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
            name = action.removeprefix("about ")
            if name not in (self.pages[self.trail[-1]].values() if self.trail else (self.origin,)):
                return invalid("this page does not name that person.")
            self.trail.append(name)
        present = self.trail[-1]
        links = ", ".join(f"{relation} {other}" for relation, other in self.pages[present].items())
        return Effect(f"about {present}: {links}.", reward=(self._progress - before) / len(self.path))

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
        name = self.path[known]
        if not known:
            return Move(f"from {name}", f"about {name}")
        # The thought repeats two relations of the list in their order, and then the page from its start to the right relation.
        # A tiny model learns to read on; it does not learn to look up a relation at once (docs/log.md).
        before, relation = [self.origin, *self.relations][known - 1 : known + 1]
        links = list(self.pages[self.path[known - 1]].items())
        read = links[: [each for each, _ in links].index(relation) + 1]
        thought = f"after {before} {relation}: {' '.join(f'{each} {other}' for each, other in read)}"
        if known == len(self.relations):
            return Move(thought, f"answer {name}", is_answer=True)
        return Move(thought, f"about {name}")

    def actions(self) -> list[str]:
        if not self.trail:
            return [f"about {self.origin}"]
        back = ["back"] if len(self.trail) > 1 else []
        return [*(f"about {name}" for name in self.pages[self.trail[-1]].values()), *back]
