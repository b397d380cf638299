"""A shop with a search and options, as WebShop: find an article of the right colour and size, and buy it.

One tool, `shop(do=...)`: `search shirt`, `open 2`, `choose large`, `buy`. Consequences stay: money is spent, an article cannot be
returned, and its size is the first one if none was chosen.

Levels: 1 has one article of the colour, 2 has two of which only one has the size, 3 is a list of two articles.
"""

import random
from dataclasses import dataclass, field

from sod.environments.worlds.base import Effect, Move, SmallWorld, invalid

ARTICLES = ("shirt", "shoe", "hat", "bag", "belt", "scarf")
COLOURS = ("red", "blue", "green", "black", "white", "grey")
SIZES = ("small", "medium", "large")
SPARE_MONEY = 3
"""Money beyond the price of the list: enough for one cheap mistake."""


@dataclass(slots=True)
class Article:
    kind: str
    colour: str
    sizes: tuple[str, ...]
    price: int


@dataclass(slots=True)
class Wish:
    kind: str
    colour: str
    size: str
    price: int
    is_bought: bool = False
    opened: list[int] = field(default_factory=list)
    """Numbers of the pages that were read for this wish."""

    def __str__(self) -> str:
        return f"{self.colour} {self.kind} {self.size}"


class Shop(SmallWorld):
    NAME = "shop"
    TOOL = ("shop", "do")
    TOOL_HELP = "Search the shop, open an article, choose a size, or buy."

    shelves: dict[str, list[Article]]
    """Articles by kind, in the order of the search."""
    wishes: list[Wish]
    money: int
    results: str
    """Kind of the last search; empty before the first."""
    page: int
    """Number of the open article from 1; 0: none."""
    chosen: str
    wrong: list[str]
    """Mistaken purchases."""

    def draw(self, rng: random.Random) -> None:
        kinds = rng.sample(ARTICLES, 2 if self.level == 3 else 1)
        self.shelves, self.wishes = {}, []
        for kind in kinds:
            colour, size = rng.choice(COLOURS), rng.choice(SIZES)
            alike = 1 if self.level == 1 else 2
            others = rng.sample([each for each in COLOURS if each != colour], 3 - alike)
            articles = [Article(kind, each, tuple(rng.sample(SIZES, 2)), rng.randint(2, 4)) for each in others]
            price = rng.randint(2, 4)
            rest = [each for each in SIZES if each != size]
            articles.append(Article(kind, colour, tuple(rng.sample([size, rng.choice(rest)], 2)), price))
            if alike == 2:
                articles.append(Article(kind, colour, tuple(rng.sample(rest, 2)), rng.randint(2, 4)))
            rng.shuffle(articles)
            self.shelves[kind] = articles
            self.wishes.append(Wish(kind, colour, size, price))
        self.money = sum(wish.price for wish in self.wishes) + SPARE_MONEY
        self.results, self.page, self.chosen, self.wrong = "", 0, "", []

    @property
    def task(self) -> str:
        return f"buy {self.gold}. money {self.money}."

    @property
    def gold(self) -> str:
        return " and ".join(map(str, self.wishes))

    # Actions

    def act(self, action: str) -> Effect:
        verb, _, word = action.partition(" ")
        match verb:
            case "search":
                return self._search(word)
            case "open":
                return self._open(word)
            case "choose":
                return self._choose(word)
            case "buy":
                return self._buy()
            case _:
                return invalid("the shop can search, open, choose and buy.")

    def _search(self, kind: str) -> Effect:
        self.results, self.page, self.chosen = kind if kind in self.shelves else "", 0, ""
        if not self.results:
            return invalid("nothing found.")
        found = self.shelves[kind]
        return Effect(
            f"a {kind}: " + ", ".join(f"{each.colour} {number}" for number, each in enumerate(found, 1)) + "."
        )

    def _open(self, word: str) -> Effect:
        found = self.shelves.get(self.results, [])
        if not (word.isdecimal() and 1 <= int(word) <= len(found)):
            return invalid("no such article.")
        self.page, self.chosen = int(word), ""
        article = self._article
        for wish in self.wishes:
            if wish.kind == article.kind:
                wish.opened.append(self.page)
        return Effect(f"a {article.colour} {article.kind}, sizes {' '.join(article.sizes)}, price {article.price}.")

    @property
    def _article(self) -> Article:
        return self.shelves[self.results][self.page - 1]

    def _choose(self, size: str) -> Effect:
        if not self.page:
            return invalid("open an article first.")
        if size not in self._article.sizes:
            return invalid("this size is sold out.")
        self.chosen = size
        return Effect(f"size {size}.")

    def _buy(self) -> Effect:
        if not self.page:
            return invalid("open an article first.")
        article = self._article
        if article.price > self.money:
            return invalid("not enough money.")
        self.money -= article.price
        size = self.chosen or article.sizes[0]
        bought = f"{article.colour} {article.kind} {size}"
        self.page, self.chosen = 0, ""
        wish = next((wish for wish in self.wishes if str(wish) == bought and not wish.is_bought), None)
        if wish is None:
            self.wrong.append(bought)
            return Effect(f"you have {bought}. money {self.money}.", reward=-0.5)
        wish.is_bought = True
        return Effect(f"you have {bought}. money {self.money}.", reward=1 / len(self.wishes))

    # Verdict

    def judge(self) -> tuple[bool, str]:
        missing = [str(wish) for wish in self.wishes if not wish.is_bought]
        mistakes = f"; bought by mistake: {', '.join(self.wrong)}" if self.wrong else ""
        if not missing:
            return True, f"bought{mistakes}"
        return False, f"missing: {' and '.join(missing)}{mistakes}"

    @property
    def is_settled(self) -> bool:
        missing = [wish.price for wish in self.wishes if not wish.is_bought]
        return not missing or sum(missing) > self.money

    # Players

    def expert(self) -> Move:
        wish = next(wish for wish in self.wishes if not wish.is_bought)
        thought = f"get {wish}"
        if self.results != wish.kind:
            return Move(thought, f"search {wish.kind}")
        found = self.shelves[wish.kind]
        if self.page and found[self.page - 1].colour == wish.colour and wish.size in found[self.page - 1].sizes:
            return Move(thought, "buy" if self.chosen == wish.size else f"choose {wish.size}")
        fits = [number for number, article in enumerate(found, 1) if article.colour == wish.colour]
        unread = [number for number in fits if number not in wish.opened]
        known = [number for number in fits if number in wish.opened and wish.size in found[number - 1].sizes]
        number = (known or unread)[0]
        return Move(f"{thought}: {wish.colour} {number}", f"open {number}")

    def actions(self) -> list[str]:
        if not self.results:
            return [f"search {kind}" for kind in self.shelves]
        opened = [f"open {number}" for number in range(1, len(self.shelves[self.results]) + 1) if number != self.page]
        if not self.page:
            return opened
        return [*opened, *(f"choose {size}" for size in SIZES if size != self.chosen), "buy"]
