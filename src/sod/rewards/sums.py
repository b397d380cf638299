"""Compute with exact sums of products of symbols and roots, with rational factors.

The sum of 1/2 times the empty product and 2 times 2^(1/2) is one half plus the root of 8. Every sum has one canonical string.
Nothing is rounded. What is not such a sum, or grows too large, raises `Unreadable`.
"""

from fractions import Fraction
from math import e, pi

MOST_TERMS, MOST_PRODUCTS, MOST_BITS = 32, 4096, 4096
"""Limits on the terms of a sum, the products of a power and the bits of a number. Larger values are not computed."""

Product = tuple[tuple[str, Fraction], ...]
"""Atoms and their exponents, sorted. An atom is a symbol or a prime. The exponent of a prime is between 0 and 1: a root."""
Sum = dict[Product, Fraction]
"""The factor of each product. Two sums are equal if and only if they are the same number or polynomial."""

_ONE: Product = ()
_VALUES = {"pi": pi, "e": e, "i": 1j}
_CONSTANTS = {"pi", "e", "oo"}
_LARGEST_TO_FACTOR = 10**9
_E: Sum = {(("e", Fraction(1)),): Fraction(1)}
_I_PI: Product = (("i", Fraction(1)), ("pi", Fraction(1)))
_SQUARED_COSINES = {Fraction(k, 12): Fraction(square, 4) for k, square in {0: 4, 2: 3, 3: 2, 4: 1, 6: 0}.items()}
"""The squares of the cosines of 0, pi/6, pi/4, pi/3 and pi/2."""


class Unreadable(Exception):
    """The text is not a sum of products, or its value is too large. Another layer must judge it."""


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
    if not base:
        if exponent > 0:
            return {}
        raise Unreadable("zero to a power that is not positive")
    if not 0 <= exponent <= MOST_PRODUCTS / len(base) ** 2:
        raise Unreadable("a high power of a sum")
    result = constant(Fraction(1))
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


def constant(value: Fraction) -> Sum:
    return _checked({_ONE: value})


def quotient(one: Sum, other: Sum) -> Sum:
    if not other:
        raise Unreadable("a division by zero")
    return multiply(one, power(other, Fraction(-1)))


def raise_to(base: Sum, exponent: Sum) -> Sum:
    """Return a power with a rational exponent, and e^(i pi q) as a + bi."""
    if base == _E and exponent.keys() == {_I_PI}:
        return _on_circle(exponent)
    return power(base, rational(exponent))


def rational(value: Sum) -> Fraction:
    """Return the value of a sum without roots and symbols; raises `Unreadable` for any other sum."""
    if value.keys() - {_ONE}:
        raise Unreadable("not a rational number")
    return value.get(_ONE, Fraction())


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
    return add({}, power(constant(square), Fraction(1, 2)), 1 if turn <= Fraction(1, 2) else -1)


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
