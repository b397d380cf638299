"""A household of rooms, furniture and things, as in ALFWorld: find a thing, clean or heat it, bring it to a room.

Turns are text: `go study`, `open chest`, `take cup`, `wash cup`, `heat egg`, `put cup`. Consequences stay: a thing in full hands
falls and breaks, a thing that is washed or heated by mistake is ruined, and a thing in the wrong room stays there.

Levels: 1 has three rooms and open furniture, 2 has closed furniture, 3 has four rooms, and the thing must be clean or hot.
"""

import random
from dataclasses import dataclass

from sod.environments.worlds.base import Effect, Move, SmallWorld, invalid

ROOMS = ("kitchen", "bath", "bedroom", "study", "hall", "garage", "attic", "cellar")
FURNITURE = ("chest", "desk", "shelf", "cabinet", "crate", "locker")
DISHES = ("cup", "plate", "bowl", "pan")
FOOD = ("apple", "egg", "bread", "fish")
OTHERS = ("book", "lamp", "coat", "key")
TREATMENTS = {"wash": ("clean", "bath", DISHES), "heat": ("hot", "kitchen", FOOD)}
"""Verb: the state that it causes, the room where it is possible, and the things that survive it."""


@dataclass(slots=True)
class Thing:
    name: str
    state: str = ""


@dataclass(slots=True)
class Room:
    name: str
    furniture: str
    is_open: bool
    inside: list[Thing]
    floor: list[Thing]

    @property
    def visible(self) -> list[Thing]:
        return [*self.floor, *(self.inside if self.is_open else ())]

    @property
    def sight(self) -> str:
        names = " ".join(f"{thing.state} {thing.name}".strip() for thing in self.visible)
        furniture = "" if self.is_open else f" closed {self.furniture}."
        return f"in {self.name}.{furniture} here {names or 'nothing'}."


class Household(SmallWorld):
    NAME = "household"

    rooms: list[Room]
    wanted: str
    state: str
    """State that the thing must have: clean, hot, or empty."""
    target: str
    here: Room
    held: Thing | None

    def draw(self, rng: random.Random) -> None:
        count = 4 if self.level == 3 else 3
        verb = rng.choice(list(TREATMENTS)) if self.level == 3 else ""
        self.state, place, kinds = TREATMENTS[verb] if verb else ("", "", (*DISHES, *FOOD, *OTHERS))
        names = rng.sample([name for name in ROOMS if name != place], count - bool(place)) + [place] * bool(place)
        rng.shuffle(names)
        closed = self.level > 1
        furniture = rng.sample(FURNITURE, count)
        self.rooms = [Room(name, each, not closed, [], []) for name, each in zip(names, furniture, strict=True)]
        self.here, self.held = self.rooms[0], None
        self.wanted = rng.choice(kinds)
        others = rng.sample([name for name in (*DISHES, *FOOD, *OTHERS) if name != self.wanted], count)
        for room, name in zip(self.rooms, others, strict=True):
            if rng.random() < 0.7:
                (room.inside if rng.random() < 0.5 else room.floor).append(Thing(name))
        first, second = rng.sample(self.rooms[1:] if self.level == 1 else self.rooms, 2)
        self.target = rng.choice([room.name for room in self.rooms if room is not first])
        first.inside.append(Thing(self.wanted))
        if second.name != self.target:  # a spare
            second.inside.append(Thing(self.wanted))

    @property
    def task(self) -> str:
        rooms = " ".join(room.name for room in self.rooms)
        return f"rooms {rooms}. bring {self.gold}. you are {self.here.sight}"

    @property
    def gold(self) -> str:
        return f"{self.state} {self.wanted} to {self.target}".strip()

    # Actions

    def act(self, action: str) -> Effect:
        verb, _, name = action.partition(" ")
        match verb:
            case "go":
                return self._go(name)
            case "open":
                return self._open(name)
            case "take":
                return self._take(name)
            case "put":
                return self._put(name)
            case "wash" | "heat":
                return self._treat(verb, name)
            case _:
                return invalid("nothing happens.")

    def _go(self, name: str) -> Effect:
        found = [room for room in self.rooms if room.name == name]
        if not found or found[0] is self.here:
            return invalid(f"you cannot go there. you are in {self.here.name}.")
        self.here = found[0]
        return Effect(self.here.sight)

    def _open(self, name: str) -> Effect:
        if name != self.here.furniture or self.here.is_open:
            return invalid("nothing to open.")
        self.here.is_open = True
        return Effect(self.here.sight)

    def _take(self, name: str) -> Effect:
        if self.held is not None:
            broken, self.held = self.held, None
            return invalid(f"hands full. {broken.name} falls and breaks.", reward=-0.5)
        for things in (self.here.floor, self.here.inside if self.here.is_open else []):
            for thing in things:
                if thing.name == name:
                    things.remove(thing)
                    self.held = thing
                    return Effect(f"you have {thing.name}.")
        return invalid("you do not see that here.")

    def _put(self, name: str) -> Effect:
        if self.held is None or self.held.name != name:
            return invalid("you do not have that.")
        self.here.floor.append(self.held)
        self.held = None
        return Effect(self.here.sight, reward=float(self.judge()[0]))

    def _treat(self, verb: str, name: str) -> Effect:
        state, place, kinds = TREATMENTS[verb]
        if self.held is None or self.held.name != name:
            return invalid("you do not have that.")
        if self.here.name != place:
            return invalid(f"you can {verb} things in {place}.")
        if name not in kinds:
            self.held = None
            return invalid(f"the {name} is ruined.", reward=-0.5)
        self.held.state = state
        return Effect(f"the {name} is {state}.")

    # Verdict

    def judge(self) -> tuple[bool, str]:
        target = next(room for room in self.rooms if room.name == self.target)
        if any(self._fits(thing) for thing in target.floor):
            return True, "delivered"
        if self._is_lost:
            return False, f"every {self.wanted} is broken or ruined"
        return False, f"not delivered: {self.gold}"

    @property
    def is_settled(self) -> bool:
        return self._is_lost or self.judge()[0]

    def _fits(self, thing: Thing | None) -> bool:
        return thing is not None and thing.name == self.wanted and (not self.state or thing.state == self.state)

    @property
    def _is_lost(self) -> bool:
        things = [thing.name for room in self.rooms for thing in (*room.inside, *room.floor)]
        return self.wanted not in things and (self.held is None or self.held.name != self.wanted)

    # Players

    def expert(self) -> Move:
        if self.held is not None and self.held.name != self.wanted:
            return Move(f"drop {self.held.name}", f"put {self.held.name}")
        if self.held is not None:
            return self._deliver()
        if any(thing.name == self.wanted for thing in self.here.visible):
            return Move(f"get {self.wanted}", f"take {self.wanted}")
        if not self.here.is_open:
            return Move(f"find {self.wanted}: closed {self.here.furniture}", f"open {self.here.furniture}")
        # The thought repeats two rooms of the list in their order, which a tiny model learns early.
        following = self.rooms[(self.rooms.index(self.here) + 1) % len(self.rooms)]
        return Move(f"find {self.wanted}: {self.here.name} {following.name}", f"go {following.name}")

    def _deliver(self) -> Move:
        if not self._fits(self.held):
            verb, place = next((verb, place) for verb, (state, place, _) in TREATMENTS.items() if state == self.state)
            action = f"{verb} {self.wanted}" if self.here.name == place else f"go {place}"
            return Move(f"make {self.wanted} {self.state}", action)
        action = f"put {self.wanted}" if self.here.name == self.target else f"go {self.target}"
        return Move(f"bring {self.wanted} to {self.target}", action)

    def actions(self) -> list[str]:
        seen = [thing.name for thing in self.here.visible]
        held = [self.held.name] if self.held else []
        return [
            *(f"go {room.name}" for room in self.rooms if room is not self.here),
            *([] if self.here.is_open else [f"open {self.here.furniture}"]),
            *(f"take {name}" for name in seen or [self.wanted]),
            *(f"put {name}" for name in held),
            *(
                f"{verb} {name}"
                for name in held
                for verb, (_, place, _) in TREATMENTS.items()
                if place == self.here.name
            ),
        ]
