r"""Parse answers into exact numbers, which `sod.rewards.sums` computes with.

`\sqrt8 + \frac12` is the sum of 1/2 times the empty product and 2 times 2^(1/2). Text that cannot be parsed exactly, and values
that grow too large, raise `Unreadable`. Other layers judge them.
"""

import re
from fractions import Fraction
from math import comb, factorial

from sod.rewards.answers import DEGREE, PERCENT
from sod.rewards.sums import Sum, Unreadable, add, constant, multiply, power, quotient, raise_to, rational, written

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3}(?![\dA-Za-z.]))?)"
    r"|(?P<name>\\[A-Za-z]+|\\%|[A-Za-z]+)|(?P<sign>[-+*/^_!(){}\[\]°]))"
)
_SYMBOL_NAMES = """pi alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho
    sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell"""
_SYMBOLS = {*_SYMBOL_NAMES.split(), "oo"}
_PLAIN_NAMES = {"infty": "oo", "infinity": "oo", "inf": "oo"}
_FUNCTION_NAMES = """sqrt pi sin cos tan cot csc arcsin arccos arctan sinh cosh tanh log ln lg exp max gcd lcm mod det
    infty inf infinity oo nan frac theta alpha beta"""
_CLOSED_BY = {"(": ")", "{": "}", "[": "]"}
FUNCTIONS = set(_FUNCTION_NAMES.split())
"""Names that are not products of letters. `min` and `sec` are missing because they are units in answers."""


def exact(text: str) -> Sum:
    """Return the value of a normalised text; raises `Unreadable`."""
    parser = _Parser(text)
    value = parser.sum()
    if parser.tokens[parser.at] != "":
        raise Unreadable(text)
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
                value = raise_to(value, exponent)
                if self._next() == "^":
                    raise Unreadable("a tower of powers")
            elif token == "!":
                value = constant(Fraction(factorial(self._small(value))))
                if self._next() == "!":
                    raise Unreadable("a repeated factorial")
            elif token == PERCENT:
                value = multiply(value, constant(Fraction(1, 100)))
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
            return constant(Fraction(comb(upper, lower)))
        return self._symbol(token)

    def _number(self, token: str) -> Sum:
        value = constant(Fraction(token))
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
            return constant(Fraction(self._take()))
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


def _proper(above: str, below: str) -> Sum:
    if int(above) >= int(below):
        raise Unreadable("not a mixed number")
    return constant(Fraction(int(above), int(below)))


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
