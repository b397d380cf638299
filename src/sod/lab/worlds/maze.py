"""A maze of facts for multi-hop search, as in search questions: follow relations from person to person.

One tool, `search(query="about NAME")`, returns the page of a person with relations to other persons. Each page can be read once.
A search for a person that no page has named costs two turns. Wrong turns use up the budget, so they stay.

Levels: 1 has three hops, 2 has four, 3 has six.
"""

import random

from sod.lab.worlds.base import Effect, Move, World, invalid

NAMES = (
    *("ann", "ben", "cora", "dan", "eve", "finn", "gina", "hugo", "iris", "jack", "kate", "leo", "mia", "nick"),
    *("olga", "paul", "rosa", "sam", "tina", "udo", "vera", "will", "yara", "zeno"),
)
RELATIONS = ("friend", "boss", "doctor", "mother", "teacher", "neighbour", "cousin", "partner")
HOPS = {1: 3, 2: 4, 3: 6}
LINKS = 3
"""Relations on a page."""


class Maze(World):
    NAME = "maze"
    TOOL = ("search", "query")
    TOOL_HELP = "Return the page of a person. Each page can be read once."

    pages: dict[str, dict[str, str]]
    """Person, relation, other person."""
    origin: str
    relations: list[str]
    path: list[str]
    """Persons from the start to the answer."""
    read: list[str]

    def draw(self, rng: random.Random) -> None:
        hops = HOPS[self.level]
        self.relations = rng.sample(RELATIONS, hops)
        self.path = rng.sample(NAMES, hops + 1)
        self.origin = self.path[0]
        rest = [name for name in NAMES if name not in self.path]
        self.pages, self.read = {}, []
        for name in NAMES:
            links: dict[str, str] = {each: rng.choice([other for other in rest if other != name]) for each in RELATIONS}
            kept: list[str] = rng.sample(RELATIONS, LINKS)
            if name in self.path[:-1]:
                at = self.path.index(name)
                links[self.relations[at]] = self.path[at + 1]
                if self.relations[at] not in kept:
                    kept[rng.randrange(LINKS)] = self.relations[at]
            self.pages[name] = {each: links[each] for each in kept}

    @property
    def task(self) -> str:
        return f"from {self.origin}: {' '.join(self.relations)}. who?"

    @property
    def gold(self) -> str:
        return self.path[-1]

    # Actions

    def act(self, action: str) -> Effect:
        name = action.removeprefix("about ")
        if name not in self.pages:
            return invalid("no such page.")
        if name in self.read:
            return invalid(f"you have read about {name}.")
        named = {self.origin}.union(*(self.pages[name].values() for name in self.read))
        self.read.append(name)
        if name not in named:
            self.left -= 1
        links = ", ".join(f"{relation} {other}" for relation, other in self.pages[name].items())
        return Effect(f"about {name}: {links}.", reward=(name in self.path) / len(self.path))

    def judge(self) -> tuple[bool, str]:
        if self.answer is None:
            return False, "no answer"
        words = self.answer.strip().rstrip(".").split()
        given = words[-1] if words else ""
        return given == self.gold, self.gold if given == self.gold else f"{given!r} instead of {self.gold!r}"

    # Players

    def expert(self) -> Move:
        known = 0
        while known < len(self.relations) and self.path[known] in self.read:
            known += 1
        name = self.path[known]
        thought = f"{self.relations[known - 1]} of {self.path[known - 1]} is {name}" if known else f"from {name}"
        if known == len(self.relations):
            return Move(thought, f"answer {name}", is_answer=True)
        return Move(thought, f"about {name}")

    def actions(self) -> list[str]:
        named = [name for page in self.read for name in self.pages[page].values()]
        return [f"about {name}" for name in dict.fromkeys([self.origin, *named[-2 * LINKS :]])]
