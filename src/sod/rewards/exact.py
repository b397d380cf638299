r"""Parse answers into exact sums of products of symbols and roots, with rational factors.

`\sqrt8 + \frac12` is the sum of 1/2 times the empty product and 2 times 2^(1/2), and has one canonical string. Nothing is
rounded. Text that cannot be parsed exactly, and values that grow too large, raise `Unreadable`. Other layers judge them.
"""

import re
from fractions import Fraction
from math import comb, e, factorial, pi

from sod.rewards.answers import DEGREE, PERCENT

MOST_TERMS, MOST_PRODUCTS, MOST_BITS = 32, 4096, 4096
"""Limits on the terms of a sum, the products of a power and the bits of a number. Larger values are not computed."""

Product = tuple[tuple[str, Fraction], ...]
"""Atoms and their exponents, sorted. An atom is a symbol or a prime. The exponent of a prime is between 0 and 1: a root."""
Sum = dict[Product, Fraction]
"""The factor of each product. Two sums are equal if and only if they are the same number or polynomial."""

_ONE: Product = ()
_VALUES = {"pi": pi, "e": e, "i": 1j}
_CONSTANTS = {"pi", "e", "oo"}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3}(?![\dA-Za-z.]))?)"
    r"|(?P<name>\\[A-Za-z]+|\\%|[A-Za-z]+)|(?P<sign>[-+*/^_!(){}\[\]°]))"
)
_SYMBOL_NAMES = """pi alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho
    sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell"""
_SYMBOLS = {*_SYMBOL_NAMES.split(), "oo"}
_PLAIN_NAMES = {"infty": "oo", "infinity": "oo", "inf": "oo"}
_LARGEST_TO_FACTOR = 10**9
_FUNCTION_NAMES = """sqrt pi sin cos tan cot csc arcsin arccos arctan sinh cosh tanh log ln lg exp max gcd lcm mod det
    infty inf infinity oo nan frac theta alpha beta"""
FUNCTIONS = set(_FUNCTION_NAMES.split())
"""Names that are not products of letters. `min` and `sec` are missing because they are units in answers."""


class Unreadable(Exception):
    """The text is not a sum of products, or its value is too large. Another layer must judge it."""


def exact(text: str) -> Sum:
    """Return the value of a normalised text; raises `Unreadable`."""
    parser = _Parser(text)
    value = parser.sum()
    if parser.tokens[parser.at] != "":
        raise Unreadable(text)
    return value


def written(value: Sum) -> str:
    """Return the canonical string of a sum: `3/2`, `1 + 2*x^2`, `11*2^(1/2)`."""
    return " + ".join(_term_text(*term) for term in sorted(value.items())).replace("+ -", "- ") or "0"


def _term_text(atoms: Product, factor: Fraction) -> str:
    powers = "*".join(
        atom if exponent == 1 else f"{atom}^{exponent}" if exponent.denominator == 1 else f"{atom}^({exponent})"
        for atom, exponent in atoms
    )
    if not powers:
        return str(factor)
    return powers if factor == 1 else f"-{powers}" if factor == -1 else f"{factor}*{powers}"


def add(one: Sum, other: Sum, factor: int = 1) -> Sum:
    """Return one + factor * other."""
    total = dict(one)
    for atoms, number in other.items():
        total[atoms] = total.get(atoms, Fraction()) + factor * number
    return _checked(total)


def multiply(one: Sum, other: Sum) -> Sum:
    total: Sum = {}
    for left, left_factor in one.items():
        for right, right_factor in other.items():
            exponents = dict(left)
            for atom, exponent in right:
                exponents[atom] = exponents.get(atom, Fraction()) + exponent
            atoms, factor = _product(exponents)
            total[atoms] = total.get(atoms, Fraction()) + left_factor * right_factor * factor
    return _checked(total)


def power(base: Sum, exponent: Fraction) -> Sum:
    if exponent.denominator != 1:
        return _root(base, exponent)
    if len(base) == 1:
        ((atoms, factor),) = base.items()
        size = max(factor.numerator.bit_length(), factor.denominator.bit_length()) - 1
        if size * abs(exponent) > MOST_BITS:
            raise Unreadable("too large a number")
        raised, extra = _product({atom: times * exponent for atom, times in atoms})
        return _checked({raised: extra * factor ** int(exponent)})
    if not base and exponent > 0:
        return {}
    if not 0 <= exponent <= MOST_PRODUCTS / len(base) ** 2:
        raise Unreadable("a high power of a sum")
    result = _constant(Fraction(1))
    for _ in range(int(exponent)):
        result = multiply(result, base)
    return result


def approximate(value: Sum) -> complex | None:
    """Return the value of a sum as a complex float; None if it has symbols or infinity, or is too large."""
    total = 0j
    try:
        for atoms, factor in value.items():
            term = complex(factor)
            for atom, exponent in atoms:
                if atom not in _VALUES and not atom.isdigit():
                    return None
                term *= (_VALUES.get(atom) or float(atom)) ** float(exponent)
            total += term
    except OverflowError:
        return None
    return total


def scaled(value: Sum) -> Sum:
    """Return the sum divided by the factor of its first product."""
    return {atoms: factor / value[min(value)] for atoms, factor in value.items()}


def symbols(value: Sum) -> set[str]:
    """Return the atoms that are neither numbers nor constants."""
    return {atom for atoms in value for atom, _ in atoms if not atom.isdigit() and atom not in _CONSTANTS | {"i"}}


def is_linear(value: Sum) -> bool:
    """Return whether every product has at most one symbol, to the first power."""
    found = symbols(value)
    return all([times for atom, times in atoms if atom in found] in ([], [1]) for atoms in value)


def _root(base: Sum, exponent: Fraction) -> Sum:
    """Return a fractional power of a single product. Raises `Unreadable` for a root of x^2, which is |x| and not x."""
    if not base:
        return {}
    ((atoms, factor),) = base.items() if len(base) == 1 else ((_ONE, Fraction()),)
    imaginary = factor < 0 and exponent.denominator == 2
    if factor == 0 or (factor < 0 and not (imaginary and exponent == Fraction(1, 2))):
        raise Unreadable("a root of a sum or of a negative number")
    if any((times != 1 and not (atom.isdigit() or atom in _CONSTANTS)) or atom in ("i", "oo") for atom, times in atoms):
        raise Unreadable("a root of a power")
    exponents = {atom: times * exponent for atom, times in atoms}
    for number, sign in ((abs(factor.numerator), 1), (factor.denominator, -1)):
        for prime, times in _factors(number).items():
            exponents[prime] = exponents.get(prime, Fraction()) + sign * times * exponent
    if imaginary:
        exponents["i"] = Fraction(1)
    raised, extra = _product(exponents)
    return _checked({raised: extra})


def _product(exponents: dict[str, Fraction]) -> tuple[Product, Fraction]:
    """Return the sorted atoms, and the factor from integer powers of primes and of i."""
    factor, atoms = Fraction(1), []
    for atom, exponent in sorted(exponents.items()):
        if atom.isdigit():
            if abs(exponent) > MOST_BITS:
                raise Unreadable("too large a number")
            whole = exponent.numerator // exponent.denominator
            factor *= Fraction(int(atom)) ** whole
            exponent -= whole
        elif atom == "i":
            if exponent.denominator != 1:
                raise Unreadable("a root of i")
            factor *= -1 if exponent % 4 in (2, 3) else 1
            exponent %= 2
        elif atom == "oo" and exponent != 1:
            raise Unreadable("a power of infinity")
        if exponent:
            atoms.append((atom, exponent))
    return tuple(atoms), factor


def _factors(number: int) -> dict[str, int]:
    """Return the prime factors and their exponents."""
    if number > _LARGEST_TO_FACTOR:
        raise Unreadable("a root of a large number")
    found: dict[str, int] = {}
    prime = 2
    while number > 1:
        if prime * prime > number:
            prime = number
        while number % prime == 0:
            number //= prime
            found[str(prime)] = found.get(str(prime), 0) + 1
        prime += 1 + prime % 2
    return found


def _checked(value: Sum) -> Sum:
    """Return the sum without zero terms; raises `Unreadable` if it is too large or subtracts infinities."""
    if any(not factor and ("oo", 1) in atoms for atoms, factor in value.items()):
        raise Unreadable("infinity minus infinity")
    value = {atoms: factor for atoms, factor in value.items() if factor}
    if len(value) > MOST_TERMS or any(
        max(factor.numerator.bit_length(), factor.denominator.bit_length()) > MOST_BITS for factor in value.values()
    ):
        raise Unreadable("too many terms, or too large a number")
    return value


class _Parser:
    """Parse a sum in LaTeX or program notation by recursive descent."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.at = 0

    def sum(self) -> Sum:
        value = self._term()
        while self._next() in ("+", "-"):
            sign = 1 if self._take() == "+" else -1
            value = add(value, self._term(), sign)
        return value

    def _term(self) -> Sum:
        value = self._signed()
        while (token := self._next()) not in ("", "+", "-", ")", "}", "]"):
            if token in ("*", r"\cdot", r"\times"):
                self._take()
                value = multiply(value, self._signed())
            elif token in ("/", r"\div"):
                self._take()
                value = quotient(value, self._signed())
            elif (token[0].isdigit() or token[0] == ".") and self.tokens[self.at - 1] != "!":
                raise Unreadable("a number after a factor")
            else:
                value = multiply(value, self._power())
        return value

    def _signed(self) -> Sum:
        sign = 1
        while self._next() in ("+", "-"):
            sign *= -1 if self._take() == "-" else 1
        return add({}, self._power(), sign)

    def _power(self) -> Sum:
        value = self._atom()
        while (token := self._next()) in ("^", "!", DEGREE, PERCENT):
            self._take()
            if token == "^":
                exponent = self._exponent()
                value = (
                    _on_circle(exponent)
                    if value == _E and exponent.keys() == {_I_PI}
                    else power(value, rational(exponent))
                )
                if self._next() == "^":
                    raise Unreadable("a tower of powers")
            elif token == "!":
                value = _constant(Fraction(factorial(self._small(value))))
                if self._next() == "!":
                    raise Unreadable("a repeated factorial")
            elif token == PERCENT:
                value = multiply(value, _constant(Fraction(1, 100)))
        return value

    def _exponent(self) -> Sum:
        sign = -1 if self._next() == "-" and self._take() else 1
        return add({}, self._atom(), sign)

    def _atom(self) -> Sum:
        token = self._take()
        if token[:1].isdigit() or token[:1] == ".":
            return self._number(token)
        if token in _CLOSED_BY:
            value = self.sum()
            self._expect(_CLOSED_BY[token])
            return value
        if token in (r"\frac", "frac"):
            return quotient(self._argument(), self._argument())
        if token in (r"\sqrt", "sqrt"):
            return self._root()
        if token in (r"\binom", r"\dbinom", r"\tbinom"):
            upper, lower = self._small(self._argument()), self._small(self._argument())
            return _constant(Fraction(comb(upper, lower)))
        return self._symbol(token)

    def _number(self, token: str) -> Sum:
        value = _constant(Fraction(token))
        following = self.tokens[self.at : self.at + 3]
        if token.isdigit() and following[0].isdigit() and following[1] == "/" and following[2].isdigit():
            self.at += 3
            return add(value, _proper(following[0], following[2]))
        if token.isdigit() and following[0] == r"\frac":
            self._take()
            start = self.at
            above, below = self._argument(), self._argument()
            plain = "".join(part for part in self.tokens[start : self.at] if part not in "{}").isdigit()
            if plain:
                return add(value, _proper(written(above), written(below)))
            return multiply(value, quotient(above, below))
        return value

    def _root(self) -> Sum:
        index = Fraction(2)
        if self._next() == "[":
            self._take()
            index = rational(self.sum())
            self._expect("]")
        if not 2 <= index <= 12 or index.denominator != 1:
            raise Unreadable("the index of a root is not a small integer")
        return power(self._argument(whole=True), 1 / index)

    def _symbol(self, token: str) -> Sum:
        name = token.removeprefix("\\")
        name = _PLAIN_NAMES.get(name, name)
        if not (len(token) == 1 and token.isalpha()) and name not in _SYMBOLS:
            raise Unreadable(token)
        if self._next() == "_":
            self._take()
            name += f"_{self._subscript()}"
        elif name in ("f", "g", "h") and self._next() == "(":
            raise Unreadable("the value of a function")
        return {((name, Fraction(1)),): Fraction(1)}

    def _subscript(self) -> str:
        if self._next() != "{":
            return self._take()
        start = self.at + 1
        while self._take() != "}":
            if self._next() in ("", "{"):
                raise Unreadable("a long subscript")
        return "".join(self.tokens[start : self.at - 1])

    def _argument(self, *, whole: bool = False) -> Sum:
        r"""Parse a group, or one token without braces. `whole=False` takes the first digit of a number, as in \frac12."""
        token = self._next()
        if token.isdigit() and len(token) > 1 and not whole:
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        if token[:1].isdigit():
            return _constant(Fraction(self._take()))
        return self._atom()

    def _small(self, value: Sum) -> int:
        size = rational(value)
        if size.denominator != 1 or not 0 <= size <= 200:
            raise Unreadable("not a small integer")
        return int(size)

    def _next(self) -> str:
        return self.tokens[self.at]

    def _take(self) -> str:
        token = self.tokens[self.at]
        if token == "":
            raise Unreadable("the text ends too early")
        self.at += 1
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise Unreadable(f"expected {token}")


_E: Sum = {(("e", Fraction(1)),): Fraction(1)}
_I_PI: Product = (("i", Fraction(1)), ("pi", Fraction(1)))
_SQUARED_COSINES = {Fraction(k, 12): Fraction(square, 4) for k, square in {0: 4, 2: 3, 3: 2, 4: 1, 6: 0}.items()}
"""The squares of the cosines of 0, pi/6, pi/4, pi/3 and pi/2."""
_CLOSED_BY = {"(": ")", "{": "}", "[": "]"}


def quotient(one: Sum, other: Sum) -> Sum:
    if not other:
        raise Unreadable("a division by zero")
    return multiply(one, power(other, Fraction(-1)))


def _on_circle(exponent: Sum) -> Sum:
    """Return e^(i pi q) as a + bi. Raises `Unreadable` unless q is a multiple of 1/4 or 1/6."""
    turn = exponent[_I_PI]
    return add(_cosine(turn), multiply({(("i", Fraction(1)),): Fraction(1)}, _cosine(Fraction(1, 2) - turn)))


def _cosine(turn: Fraction) -> Sum:
    """Return the cosine of pi times `turn`."""
    turn = min(turn % 2, 2 - turn % 2)
    square = _SQUARED_COSINES.get(min(turn, 1 - turn))
    if square is None:
        raise Unreadable("the cosine of another angle")
    return add({}, power(_constant(square), Fraction(1, 2)), 1 if turn <= Fraction(1, 2) else -1)


def _constant(value: Fraction) -> Sum:
    return _checked({_ONE: value})


def rational(value: Sum) -> Fraction:
    """Return the value of a sum without roots and symbols; raises `Unreadable` for any other sum."""
    if value.keys() - {_ONE}:
        raise Unreadable("not a rational number")
    return value.get(_ONE, Fraction())


def _proper(above: str, below: str) -> Sum:
    if int(above) >= int(below):
        raise Unreadable("not a mixed number")
    return _constant(Fraction(int(above), int(below)))


def _tokens(text: str) -> list[str]:
    """Split into numbers, names, letters and signs, with three empty tokens at the end for look-ahead."""
    found, at = [], 0
    text = text.strip()
    while at < len(text):
        if not (match := _TOKEN.match(text, at)):
            raise Unreadable(text[at])
        at = match.end()
        token = match[0].strip()
        if token.isalpha() and token not in FUNCTIONS:
            if len(token) > 3:
                raise Unreadable(token)
            found += token
        else:
            found.append(token)
    return [*found, "", "", ""]
