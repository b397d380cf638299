r"""Parse the words after a number: units, nouns, and words that change the number.

`12\text{ apples}` equals a gold of 12, and differs from a gold of `12\text{ pears}`. `12\text{ squared}`, `12\text{ thirds}` and
`12\text{ or more}` never equal 12. Every word that is in no list of this file is a noun.
"""

import re
from dataclasses import dataclass

from sod.rewards.answers import DEGREE, peel
from sod.rewards.exact import FUNCTIONS

# Words for numbers

_TO_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty"""
_TENS = "ten twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: number for number, word in enumerate(_TO_TWENTY.split())}
_SMALL |= {word: 10 * tens for tens, word in enumerate(_TENS.split(), 1)}
NUMBER_WORDS = _SMALL | {
    f"{tens}{joint}{one}": _SMALL[tens] + _SMALL[one]
    for tens in _TENS.split()[1:]
    for one in _TO_TWENTY.split()[1:10]
    for joint in "- "
}
MULTIPLES = {
    "dozen": 12,
    "hundred": 10**2,
    "thousand": 10**3,
    "lakh": 10**5,
    "million": 10**6,
    "crore": 10**7,
    "billion": 10**9,
    "trillion": 10**12,
}
NUMBER_WORDS |= MULTIPLES  # "a dozen"
NUMBER_WORDS |= {
    f"{word} {name}": _SMALL[word] * size for word in _TO_TWENTY.split()[1:] for name, size in MULTIPLES.items()
}

# Words that change a number

_PARTS = """half third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth
    sixteenth seventeenth eighteenth nineteenth twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth
    quarter hundredth thousandth millionth billionth"""
PART_WORDS = {name: at for at, name in enumerate(_PARTS.split()[:11], 2)} | {"quarter": 4}
"""The words half, third, ... twelfth, and their denominators."""
_PLURAL_PARTS = {"halves", *(f"{part}s" for part in _PARTS.split()[1:])}
_CHANGING = """k mn bn tn mil mio grand score gross point mille percentage percentile percent pct basis bp bps pp ppm ppb
    kilo mega giga tera milli micro nano binary decimal octal hexadecimal hex base modulo mod remainder
    squared cubed factorial sqrt root power exponent raised inverse reciprocal conjugate transpose logarithm
    plus minus times fold over divided multiplied double doubled triple tripled twice thrice halved
    or and nor not no never none neither either but without except excluding exclusive inclusive only
    if when where unless for with provided assuming between to through thru till until from by out
    more less fewer than least most greater smaller larger bigger lower higher minimum maximum above below under beyond beneath
    about approximately approx roughly around nearly almost circa so too up upwards onwards down off short past before after
    negative opposite debt loss losses deficit owed owing bc bce is are was were be wrong incorrect false true
    guess invalid impossible error am pm"""
_CHANGES = {*_CHANGING.split(), *_SMALL, *_PARTS.split(), *_PLURAL_PARTS, *FUNCTIONS}
_CHANGES |= {f"{word}s" for word in (*_SMALL, *MULTIPLES)} | {f"{word}es" for word in ("six", "zero")}
CHANGES = re.compile(r"\\l(?:or|and)\b|n't|\b[ap]\.\s?m\b|[?!]")
"""Further signs that change a number or make it invalid."""
UNTRUE = re.compile(
    r"\b(?:not|no|nor|never|none|neither|nobody|nothing|if|unless|except|or|either|than|could|may|might|should|would|lost"
    r"|doubt|unlikely|hardly|instead"
    r"|half|twice|thrice|double|triple|times|minus|plus|negative|divided|between|over|factorial|base|mod|false|wrong"
    rf"|at least|at most|{'|'.join(sorted(_PLURAL_PARTS))}|(?:one|a) (?:{'|'.join(_PARTS.split())}))\b|n't|\\l(?:or|and)\b"
    r"|\b(?:square|cube|root|reciprocal|inverse|logarithm|log|power|multiple)s? of (?:the answer|it|this|that|[a-z])\b"
    r"|\b(?:its|whose) (?:square|cube|root|reciprocal|inverse|opposite|logarithm|log|power|multiple|double)\b",
    re.IGNORECASE,
)
"""Words before "is" that show that the value after it is not the answer: `half of it is 12`."""

# Units

_NAMES = """
    in inch inches
    ft foot feet
    yd yard yards
    mi mile miles
    lb lbs pound pounds
    oz ounce ounces
    s sec secs
    min mins minute minutes
    h hr hrs hour hours
    day days
    week weeks
    month months
    year years yr yrs
    cent cents
    dollar dollars usd
    euro euros eur
    sterling gbp
    yen jpy
    rad radian radians
    degree degrees deg
    celsius centigrade
    fahrenheit
    L l
    ly
    kcal
"""
_ALIASES = {name: line.split()[0] for line in _NAMES.strip().splitlines() for name in line.split()}
_SYMBOLS = {
    "metre": "m",
    "meter": "m",
    "gram": "g",
    "second": "s",
    "litre": "L",
    "liter": "L",
    "volt": "V",
    "watt": "W",
    "joule": "J",
    "newton": "N",
    "hertz": "Hz",
    "pascal": "Pa",
    "ampere": "A",
    "amp": "A",
    "kelvin": "K",
    "mole": "mol",
    "ohm": "Ω",
    "coulomb": "C",
    "farad": "F",
    "tesla": "T",
    "henry": "H",
    "electronvolt": "eV",
    "calorie": "cal",
    "byte": "B",
    "bit": "bit",
}
_PREFIXES = {
    "kilo": "k",
    "mega": "M",
    "giga": "G",
    "tera": "T",
    "milli": "m",
    "micro": "µ",
    "nano": "n",
    "pico": "p",
    "femto": "f",
    "centi": "c",
    "deci": "d",
}
_SYMBOL = re.compile(f"[{''.join(_PREFIXES.values())}]?(?:{'|'.join(set(_SYMBOLS.values()))})")
_LONG = re.compile(f"({'|'.join(_PREFIXES)})?({'|'.join(_SYMBOLS)})s?")
_COMPOUND = {"mph": "mi/h", "kph": "km/h", "kmph": "km/h", "kmh": "km/h", "kWh": "kW h"}
_FILLING = "of the a an all in total altogether each every whole unit units exactly on at st nd rd th"
_FILLERS = set(_FILLING.split())
MOD = "mod "
_ANY = "unit"
"""The generic unit. It agrees with all units."""
_TOKEN = re.compile(r"([^\W\d_]+(?:['-][^\W\d_]+)*)|(\^\s*(?:\{\s*-?\d\s*\}|-?\d))|(\\cdot|[/()])|[\s.,;:]+|°")
_POWER = r"(?:\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
_MODULUS = re.compile(r"\s*\\pmod\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Unit:
    """The parsed words after a number."""

    measure: frozenset[tuple[str, int]] = frozenset()
    """Units and their powers. They must be equal in both answers."""
    words: frozenset[str] = frozenset()
    """Nouns and adjectives, in the singular. One of two answers may have more words than the other."""

    @property
    def modulus(self) -> str:
        """The n of `(mod n)`; empty if there is none."""
        return next((name.removeprefix(MOD) for name, _ in self.measure if name.startswith(MOD)), "")

    def __bool__(self) -> bool:
        return bool(self.measure or self.words)

    def agrees(self, other: "Unit") -> bool:
        """Return whether an answer with the unit `other` may be equal to a gold answer with this unit."""
        if not (self and other):
            return bool(self) or other.measure != {("K", 1)}  # 12 K may be 12,000
        return self.measure == other.measure and (self.words <= other.words or other.words <= self.words)


NO_UNIT = Unit()

_PLAIN_UNIT = rf"[A-Za-zµΩ]+\s*{_POWER}"
_MEASURED = re.compile(
    rf"(.*[\d)}}])(?:\s+([mgshLVNJW]|m\^[23]|{_PLAIN_UNIT}(?:\s*(?:/|\\cdot|\s)\s*\(?{_PLAIN_UNIT}\)?)+)|\s*\\Omega)"
)
_MOLAR = re.compile(r"((?=.*\d\.\d).*[\d}])\s*(?:(?<=\s)M|\\text\{\s*M\s*\})")


def measured(text: str) -> str:
    r"""Return `9.8\text{ m/s^2}` for `9.8 m/s^2`, and mol/L for the M of `0.25 M`. Other text is unchanged.

    For numbers only: `5 m` may also be a product. A power or a quotient of units has only known units. A whole number with an M
    may be millions.
    """
    if molar := _MOLAR.fullmatch(text):
        return rf"{molar[1]}\text{{ mol/L}}"
    if not (found := _MEASURED.fullmatch(text)):
        return text
    phrase = found[2] or "Ω"
    names = re.findall(r"[A-Za-zµΩ]+", phrase)
    is_compound = len(names) == 1 or "/" in phrase or "-" in phrase
    return rf"{found[1]}\text{{ {phrase}}}" if is_compound and all(map(_canonical, names)) else text


def without_unit(text: str) -> tuple[str, Unit]:
    """Return the value and its unit. "million" becomes a factor of the value.

    The value is the whole text if no words follow the number, or if they change it.
    """
    if text.isdigit():
        return text, NO_UNIT
    value, phrase = _without_words(text)
    if modulus := _MODULUS.fullmatch(phrase):
        return value, Unit(frozenset({(f"{MOD}{modulus[1].strip()}", 1)}))
    if not phrase or not (read := _read_phrase(phrase)):
        return text, NO_UNIT
    unit, factor = read
    if not _NUMBER.search(_SUBSCRIPT.sub("", value)) and (unit.words or factor != 1):
        return text, NO_UNIT  # words after a symbol are part of its name: an alpha particle
    return value if factor == 1 else rf"({value})\cdot {factor}", unit


_NUMBER = re.compile(r"\d|\\pi|\\infty|\\frac|\\sqrt")
_SUBSCRIPT = re.compile(r"_(?:\w|\{[^{}]*\})|\^(?:\w|\{[^{}]*\})")
_IN_TEXT = re.compile(
    rf"(.*[^\s\\/^_({{])([\s/]*(?:\\cdot\s*)?)\\text\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}\s*({_POWER})\s*", re.DOTALL
)
_JOINT = re.compile(r"(?:\s|/|\\cdot)+$")
_PLAIN = re.compile(rf"(.*[\d)}}%°!])(\s*)([A-Za-z]+{_POWER}(?:[\s/.]+[A-Za-z]+{_POWER})*\.?)\s*")
_DEGREES = re.compile(rf"((?:[-+*/\d.,\s(){{}}]|\\frac|\\sqrt|\\pi(?![a-z]))+){DEGREE}\s*(C|F)?\s*")
_AFTER_POWER = re.compile(r"\s*(?:\{\})?[\^_]")


def _without_words(text: str) -> tuple[str, str]:
    """Return the value and all words after it; the text and "" if no words follow, or if the value contains words."""
    if found := re.fullmatch(r"(.*\S)(\s*\\pmod\{[^{}]*\})", text):
        return found[1], found[2]
    value, phrase = text, ""
    while True:
        if found := _IN_TEXT.fullmatch(value):
            value = _JOINT.sub("", found[1])
            phrase = f"{found[1][len(value) :]}{found[2]}{found[3]}{found[4]}{phrase}"
        elif (found := _PLAIN.fullmatch(value)) and _are_words(found[3], spaced=bool(found[2])):
            value, phrase = found[1], f" {found[3]} {phrase}"
        elif found := _DEGREES.fullmatch(value):
            value, phrase = found[1], f"{DEGREE} {found[2] or ''} {phrase}"
        else:
            value = peel(value) if r"\text" in value else value.strip()
            return (text, "") if r"\text" in value or _AFTER_POWER.match(value) else (value, phrase)


def _are_words(text: str, *, spaced: bool) -> bool:
    """Return whether letters in mathematics are words, not a product of symbols."""
    parts = re.findall("[A-Za-z]+", text)
    known = all((len(part) > 1 and _canonical(part)) or part in MULTIPLES or part == "per" for part in parts)
    return known or (spaced and all(len(part) > 2 and part not in FUNCTIONS for part in parts))


def _read_phrase(phrase: str) -> tuple[Unit, int] | None:
    """Return the unit and the factor of a phrase; None if its words change the number in another way."""
    if CHANGES.search(phrase):
        return None
    for name, meaning in _COMPOUND.items():
        phrase = re.sub(rf"\b{name}\b", meaning, phrase)
    tokens, at = [], 0
    while at < len(phrase):
        if not (found := _TOKEN.match(phrase, at)):
            return None
        at = found.end()
        if found[0].strip(" .,;:"):
            tokens.append(found[0])
    attached = phrase[:1].isalpha()
    return _Phrase().read(tokens, attached=attached)


class _Phrase:
    """Collect powers of units, nouns and a factor from the words of a phrase, left to right."""

    def __init__(self) -> None:
        self.powers: dict[str, int] = {}
        self.nouns: set[str] = set()
        self.factor = 1
        self.last = ""
        """The last unit. A following power applies to it."""
        self.power = 1
        """The power of the next unit; 2 after "square"."""
        self.below = False
        """Whether the next unit is in the denominator, after "/" or "per"."""

    def read(self, tokens: list[str], *, attached: bool) -> tuple[Unit, int] | None:
        for at, token in enumerate(tokens):
            if not self._take(token, following=tokens[at + 1 : at + 2], attached=attached and at == 0):
                return None
        if self.power != 1 or self.below:
            return None
        measure = frozenset((name, power) for name, power in self.powers.items() if power and name != _ANY)
        return Unit(measure, frozenset(self.nouns)), self.factor

    def _take(self, token: str, *, following: list[str], attached: bool) -> bool:
        """Read one word or sign. Return False if it changes the number."""
        word = token.casefold()
        if token.startswith("^"):
            return self._raise(int(re.sub(r"[^-\d]", "", token)))
        if token in ("(", r"\cdot"):
            return True
        if token == ")":
            self.below = False
        elif token == "/" or word == "per" or (word in ("each", "every") and following):
            self.below, self.last = True, ""
        elif token == DEGREE:
            self._add("degree")
        elif word in MULTIPLES:
            self.factor *= MULTIPLES[word]
            return not (self.nouns or self.below)
        elif word in _POWERS and not (word.endswith("ed") and not self.last):
            return self._raise(_POWERS[word]) if word.endswith("ed") else self._next_power(word, following)
        elif unit := self._unit(token, following):
            self._add(unit)
        elif (
            word.endswith("fold")
            or _CHANGES.intersection(word.split("-"))
            or (len(word) < 3 and word.isascii() and word not in _FILLERS)
            or (attached and token != word)
        ):
            return word in _FILLERS
        elif word in _FILLERS:
            if word.startswith("unit"):
                self._add(_ANY)
        elif self.below or self.power != 1:
            self._add(_singular(word))
        else:
            self.nouns.add(_singular(word))
        return True

    def _unit(self, token: str, following: list[str]) -> str:
        if token in ("C", "F") and self.last == "degree":
            return {"C": "celsius", "F": "fahrenheit"}[token]
        if token == "in" and following and following[0].isalpha() and not _canonical(following[0]):
            return ""  # a word, as in "in total", not the inch
        return _canonical(token)

    def _add(self, unit: str) -> None:
        self.powers[unit] = self.powers.get(unit, 0) + self.power * (-1 if self.below else 1)
        self.last, self.power, self.below = unit, 1, False

    def _raise(self, power: int) -> bool:
        if self.last:
            self.powers[self.last] *= power
        return bool(self.last and power)

    def _next_power(self, word: str, following: list[str]) -> bool:
        self.power = _POWERS[word]
        return bool(following)


def _canonical(word: str) -> str:
    """Return the symbol of a unit; empty for a word that is not a known unit."""
    if _SYMBOL.fullmatch(word):
        return word
    lower = word.casefold()
    if found := _LONG.fullmatch(lower):
        return _PREFIXES.get(found[1] or "", "") + _SYMBOLS[found[2]]
    return _ALIASES.get(lower, "") if len(word) > 1 else _ALIASES.get(word, "")


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    if re.search(r"(?:ch|sh|x|ss|z)es$", word):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
