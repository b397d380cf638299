"""Wrong answers made from a gold answer by one change, by kind of change. The same gold always gives the same ones."""

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations

Mutation = Callable[[str], Iterator[str]]

_FRACTION = re.compile(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}|(-?)\\frac(\d)(\d)")
_BRACKETED = re.compile(r"(\\left)?(\\\{|[(\[])(.*?)(\\right)?(\\\}|[)\]])", re.DOTALL)
_ALL = r"[()\[\]]"


def _each(pattern: str, text: str, new: Callable[[re.Match[str]], str]) -> Iterator[str]:
    """The text with one match of the pattern replaced, for each match in turn."""
    for found in re.finditer(pattern, text):
        yield text[: found.start()] + new(found) + text[found.end() :]


def digit(gold: str) -> Iterator[str]:
    yield from _each(r"\d", gold, lambda found: str((int(found[0]) + 1) % 10))
    yield from _each(r"\d", gold, lambda found: str((int(found[0]) + 9) % 10))


def digit_more_or_less(gold: str) -> Iterator[str]:
    yield from _each(r"[1-9]", gold, lambda found: found[0] * 2)
    yield from _each(r"\d(?=\d)", gold, lambda found: "")
    yield from _each(r"(\d)(\d)", gold, lambda found: found[2] + found[1])
    yield from _each(r"(?<![\d.])[1-9]\d*(?![\d.])", gold, lambda found: found[0] + "0")
    yield from _each(r"(?<![\d.])\d+(?![\d.])", gold, lambda found: f"{found[0]}.5")
    yield from _each(r"(?<![\d.{_])\d{2,}(?![\d.])", gold, lambda found: f"{found[0][:-1]}.{found[0][-1]}")


def sign(gold: str) -> Iterator[str]:
    yield from _each(r"(?<=\S)\s*\+", gold, lambda found: "-")
    yield from _each(r"(?<=[\w})])\s*-", gold, lambda found: "+")
    yield from _each(r"(?<![\w})\s])\s*-", gold, lambda found: "")
    yield from _each(r"\\pm", gold, lambda found: "+")
    yield from _each(r"\\pm", gold, lambda found: "-")
    yield from _each(r"(?<!pm)\\sqrt", gold.replace("pm ", "pm"), lambda _: r"-\sqrt")
    yield from _each(r"(?<![\d.{_\\-])(?<!- )[1-9]\d*(?![\d.])", gold, lambda found: rf"\pm {found[0]}")


WHOLE = r"""
    -(G) 2(G) (G)^2 \frac{3}{G} \frac{G}{2} \sqrt{G} G+1 G-1 G+\frac{1}{10^9} \pm(G) (G)i (G)^{-2} 10^{G}
    e^{G} \ln(G) \sin(G) (G)!     \overline{G} (G)\% x~+~G G~+~C Gx (G,~G) G,~0 \{G,~9\} [G,~G+1) (G)'
"""


def whole(gold: str) -> Iterator[str]:
    """Arithmetic with the whole answer."""
    bare = re.sub(r"\\!|(?<=\d),(?=(?:\\!)? ?\d{3})", "", gold)
    if gold not in ("0", "1", "-1", "2") and not re.search(
        r"[,=<>:\[\]_$]|\\in|\\text|\\mbox|\\cup|begin|\\circ", bare
    ):
        yield from (form.replace("G", bare) for form in _signs(WHOLE))


def reciprocal(gold: str) -> Iterator[str]:
    for found in _FRACTION.finditer(gold):
        minus, above, below = (found[n] or found[n + 3] or "" for n in (1, 2, 3))
        yield gold[: found.start()] + rf"{minus}\frac{{{below}}}{{{above}}}" + gold[found.end() :]
        yield gold[: found.start()] + rf"{minus}\binom{{{above}}}{{{below}}}" + gold[found.end() :]
        yield gold[: found.start()] + rf"{minus}{above}:{below}" + gold[found.end() :]
        yield gold[: found.start()] + rf"{minus}({above},{below})" + gold[found.end() :]
        yield gold[: found.start()] + rf"{minus}{above}{below}" + gold[found.end() :]
        yield gold[: found.start()] + rf"{minus}1\frac{{{above}}}{{{below}}}" + gold[found.end() :]
        value = Fraction(int(minus + above), int(below))
        for digits in (2, 4, 12):
            if Fraction(rounded := f"{float(value):.{digits}f}") != value and found[0] == gold:
                yield rounded
                yield rf"\approx {rounded}"


def exponent(gold: str) -> Iterator[str]:
    yield from _each(r"(?<=\^)\d", gold, lambda found: str(int(found[0]) + 1))
    yield from _each(r"\^\d", gold, lambda found: "")
    yield from _each(r"\^(?=\d)", gold, lambda found: "_")
    yield from _each(r"\^\{?(\d)\}?", gold, lambda found: rf"^{{-{found[1]}}}")
    yield from _each(r"\^(?=\d)", gold, lambda found: r"\cdot ")
    yield from _each(r"\\sqrt(?!\[)", gold, lambda found: r"\sqrt[3]")
    yield from _each(r"\\sqrt\{(\d+)\}", gold, lambda found: found[1])
    yield from _each(r"(?<![\\a-z{])[a-zR](?![a-z])(?!\^)", gold, lambda found: f"{found[0]}^2")
    yield from _each(r"\\pi", gold, lambda found: r"\pi^3")


_LETTER = r"(?<![\\a-zA-Z{])[a-zR](?![a-z])"


def letter(gold: str) -> Iterator[str]:
    if not _has_words(gold):
        yield from (mutant for new in "tzA" for mutant in _each(_LETTER, gold, lambda _, new=new: new))
        yield from _each(_LETTER, gold, lambda found: found[0].swapcase())
        yield from _each(_LETTER, gold, lambda found: f"{found[0]}_1")
        yield from _each(_LETTER, gold, lambda found: f"{found[0]}'")
        yield from (mutant for new in ("e", "3.14", "") for mutant in _each(r"\\pi", gold, lambda _, new=new: new))


SWAPS = [
    (r"\cup", r"\cap"),
    (r"\pi", "e"),
    ("x^", "z^"),
    ("cm", "mm"),
    ("inches", "feet"),
    ("cents", "dollars"),
    (r"\$", "€"),
]
SWAPS += [
    (r"^\circ", r"\text{ rad}"),
    ("_", "^"),
    (r"\infty", "0"),
    ("frac{", "binom{"),
    ("velyn", "velin"),
    ("B", "C"),
    ("R", "r"),
]
SWAPS += [(r"\cot", r"\tan"), (r"\cot", r"\coth"), ("even", "odd"), ("east", "west"), ("ellipse", "ellipsoid")]


def swap(gold: str) -> Iterator[str]:
    for old, new in SWAPS:
        yield from _each(re.escape(old), gold, lambda _, new=new: new)


def bracket(gold: str) -> Iterator[str]:
    swap = {"(": "[", "[": "(", ")": "]", "]": ")"}
    if re.search(r"[(\[].*,.*[)\]]", gold):
        yield from _each(_ALL, gold, lambda found: swap[found[0]])
        yield re.sub(_ALL, lambda found: swap[found[0]], gold)
        yield re.sub(r"(?:\\left|\\right)?[()\[\]]", lambda found: r"\{" if found[0][-1] in "([" else r"\}", gold)
    yield from _each(r"\\infty", gold, lambda found: "100")
    yield from _each(r"-\\infty|(?<!-)\\infty", gold, lambda found: r"\infty" if found[0][0] == "-" else r"-\infty")
    yield from _each(r"\\cup", gold, lambda found: r"\cap")
    yield from _each(r"\\cup", gold, lambda found: r"\setminus")
    yield from _each(r"\\cup", gold, lambda found: ",(0,1),")
    yield from gold.split(r"\cup") if r"\cup" in gold else []


def elements(gold: str) -> Iterator[str]:
    """Elements dropped, doubled, exchanged and added."""
    for found in _BRACKETED.finditer(gold):
        parts = found[3].split(",")
        if len(parts) < 2:
            continue

        def rebuilt(parts: list[str], found: re.Match[str] = found) -> str:
            opened, closed = (found[1] or "") + found[2], (found[4] or "") + found[5]
            return gold[: found.start()] + opened + ",".join(parts) + closed + gold[found.end() :]

        yield from (rebuilt([*parts[:at], *parts[at + 1 :]]) for at in range(len(parts)))
        yield from (rebuilt([*parts[: at + 1], *parts[at:]]) for at in range(len(parts)) if found[2] != r"\{")
        yield rebuilt([*parts, " 0"])
        yield rebuilt(["9", *parts])
        if found[2] != r"\{":
            for one, other in combinations(range(len(parts)), 2):
                moved = list(parts)
                moved[one], moved[other] = moved[other], moved[one]
                yield rebuilt(moved)
        yield rebuilt(["+".join(parts)])
        yield rebuilt([";".join(parts), "7"])
    if re.fullmatch(r"-?\d+(?:, ?-?\d+)+", gold) and "," in gold and not re.search(r",\d{3}", gold):
        parts = [part.strip() for part in gold.split(",")]
        yield from (",".join(parts[:at] + parts[at + 1 :]) for at in range(len(parts)))
        yield f"({','.join(parts)})"
        yield f"[{','.join(parts)}]"
        yield f"{gold}, 8"
        yield ".".join(parts)
        yield r" \text{ or not } ".join(parts)
        yield r"\ne ".join(["x", parts[0]])
    if "matrix" in gold:
        cells = re.split(r"(&|\\\\)", re.sub(r"\\(?:begin|end)\{pmatrix\}", "", gold))
        values = cells[::2]
        for one, other in combinations(range(len(values)), 2):
            if values[one].strip() != values[other].strip():
                moved = list(cells)
                moved[2 * one], moved[2 * other] = values[other], values[one]
                yield rf"\begin{{pmatrix}}{''.join(moved)}\end{{pmatrix}}"
        for at in range(len(values)):
            moved = list(cells)
            moved[2 * at] = f"-({values[at]})" if values[at].strip() != "0" else "1"
            yield rf"\begin{{pmatrix}}{''.join(moved)}\end{{pmatrix}}"
        yield rf"\begin{{pmatrix}}{''.join(cells[:-2])}\end{{pmatrix}}"
        yield rf"\begin{{pmatrix}}{''.join(cells)} \\ 0\end{{pmatrix}}"
        yield rf"-{gold}"
        yield rf"2{gold}"
        yield rf"{gold}^{{-1}}+1"


AFTER = """
    squared; cubed; thirds; halves; tenths; k; hundred; thousand; lakh; million; bn; billion; trillion; dozen; tens; gross
    percent; per cent; percentage points; basis points; per mille; ppm; factorial; root; inverse; doubled; halved; fold
    or more; or less; or so; or 0; or none; or not; and more; and 1; and a half; and three quarters; and counting; at least
    times two; times 10; over two; plus one; minus one; plus or minus one; plus a constant; up to sign; up to a factor
    negative; below zero; degrees below zero; more than expected; greater than 2; too many; too few; short; lower; higher; off
    mod 3; modulo 2; in base 7; in base 16; remainder 2; with a remainder; raised to two; to the third power; to 1; out of 100
    if x is positive; unless y is zero; approximately; is wrong; not; per half; each of two; of them twice; squares of x; AM
"""
BEFORE = """
    not; no; neither; none of; x is not; it is not; not equal to; except; anything but; all but; any number but; almost never
    half of; twice; double; about half of; one over; the square of; the square root of; log; 10 to the power; minus; negative
    the opposite of; the reciprocal of; at least; at most; more than; less than; over; under; above; below; up to
    between 1 and; from 1 to; the number is less than; the answer is at most; the answer is greater than
    the answer is not; the answer isn't; the wrong answer is; not the answer:; wrong:; false:; I doubt that the answer is
    the answer is either 3 or; the answer is minus; the answer is twice; the answer is half of; twice the answer is
    the answer is the square of; the answer is the negative of; the square of the answer is; its square is; the double of it is
    the answer plus one is; the answer minus two is; 2 times the answer is
"""
SIGNS_AFTER = r"""
    ? ... \ldots \cdots … ' '' ^\prime ^T ^* _2 _{16} @ \# ‰ :1 :2 +c -C +\epsilon \pm~1 =17 <9 \le~x \ne~3 \approx~1700.5
    ;~17 ,~17 \lor~17 \to~17 \implies~17 \Rightarrow~x ~7 \\\\~7 \cup~\{17\} \setminus~\{0\} \pmod~{}1 ~mod~7~+~1
    \text{~or~}17 \text{~and~}17 \text{~(wrong)} \text{~half-units} \text{~(mod~7)}^2 ^{\text{th}}\text{~root}
"""
FACTORS_AFTER = r"""
    % \% k K M \text{k} \mathrm{k} \text{M} \ \mathrm{K} ! ^2 ^{-1} ^{1/2} ² ³ ⁻¹ ½ i e x \pi /2 \div~2 \times~2 \cdot~3 e3 E5
    \times~10^3 \text{~dozen}\text{~pairs}
"""
SIGNS_BEFORE = r"""
    2x= -x= 3x= x/2= x+1= x-1= 1-x= \frac12~x~=~ x< x> x\ne~ x\not=~ x~\notin~ \ne~ \neq \not= < > \le~ \ge~ \lt~ \neg~ \lnot~
    17= 17~\ne~ 17~\approx~ 17,~ 17\lor~ 17~\text{~or~}~ \sim~3,~ \min~0,~
"""
FACTORS_BEFORE = r"""
    1/ 2: 9 i e \pm 31+ 31- \frac{1}{2}\cdot~ -(-2)\cdot~ 2^ 10^ \sqrt \log_2~ \sin~ \cos~ \ln~ \exp~ \infty~-~
"""


def words_after(gold: str) -> Iterator[str]:
    if not _has_words(gold) and not _of_small(gold):
        yield from (rf"{gold}\text{{ {words}}}" for words in _phrases(AFTER))


def words_before(gold: str) -> Iterator[str]:
    if not _has_words(gold):
        yield from (rf"\text{{{words} }}{gold}" for words in _phrases(BEFORE))
        yield from (rf"\text{{{words}}} {gold}" for words in _phrases(BEFORE))


def signs_after(gold: str) -> Iterator[str]:
    if not _has_words(gold):
        yield from (gold + sign for sign in _signs(SIGNS_AFTER))
    if not _has_words(gold) and not _of_small(gold):
        yield from (gold + sign for sign in _signs(FACTORS_AFTER))


def signs_before(gold: str) -> Iterator[str]:
    if not _has_words(gold):
        yield from (sign + gold for sign in _signs(SIGNS_BEFORE))
    if not _has_words(gold) and not _is_equation(gold) and not re.match(r"-?[01](?!\d)", gold):
        yield from (sign + gold for sign in _signs(FACTORS_BEFORE))


def _phrases(text: str) -> list[str]:
    return [words.strip() for line in text.strip().splitlines() for words in line.split(";")]


def _signs(text: str) -> list[str]:
    """Return the words of a text, in which ~ stands for a space."""
    return [word.replace("~", " ") for word in text.split()]


def _of_small(gold: str) -> bool:
    """Return whether the last number is one that a factor or a power may leave as it is: 0, 1 or 2."""
    return bool(re.search(r"(?:^|[^\d}])[012]$", gold))


def _is_equation(gold: str) -> bool:
    return "=" in gold or r"\in " in gold


UNITS = "m cm mm km feet inches cents dollars euros degrees radians seconds hours years kg cm^2 cm^3 mph"


def unit(gold: str) -> Iterator[str]:
    if not _has_words(gold) and r"\circ" not in gold and r"\$" not in gold:
        return
    value = re.sub(r"\\(?:text|mbox)\s*\{.*?\}(?:\^\d)?|\^\\circ|\\\$", "", gold).strip()
    if not re.search(r"\d", value):
        return
    for name in UNITS.split():
        own = {r"\circ": "degrees", "degrees": "degrees", r"\$": "dollars", "cents": "cents", "cm}^2": "cm^2"}
        if name not in (unit for sign, unit in own.items() if sign in gold):
            yield rf"{value}\text{{ {name}}}"
    yield rf"\${value}" if r"\$" not in gold else rf"€{value}"
    yield rf"{value}\%"
    if r"\circ" not in gold and "degrees" not in gold:
        yield rf"{value}^\circ"
    if r"\circ" in gold:
        yield rf"{value}^\circ\text{{C}}"
        yield rf"{value}\pi"
        yield rf"\frac{{{value}\pi}}{{90}}"
        yield rf"{value}'"
    if r"\$" in gold:
        yield rf"-{gold}"
        yield gold + r"\text{ million}"
        yield gold + "k"
        yield gold + r"\text{ or more}"
        yield value.replace(".", "") if "." in value else f"{value}.5"
        yield rf"{value}\text{{ cents}}"


OTHER_WORDS = """A B C D E F west north East-West evelyn-navin Navin Evelyn odd hyperbola ellipsoid circle uneven evens
    Even-odd parabola eastern easter Eve Nav"""
WORDS = r"""not~W neither~W no~W north~W non~W half~W partly~W never~W almost~W W~or~odd W~or~west W~and~B W~or~B W~not W~squared
    W~or~none W~and~Navin W~/~Evelyn W? Ws WW unW"""


def words(gold: str) -> Iterator[str]:
    """Other words, letters and names."""
    if found := re.fullmatch(r"\\text\{\(?(\w+)\)?\}", gold):
        word = found[1]
        yield from (other for other in OTHER_WORDS.split() if other != word)
        yield from (rf"\text{{{phrase.replace('W', word)}}}" for phrase in _signs(WORDS))
        yield from (rf"\text{{{word[:-1]}}}", rf"\text{{{word[::-1]}x}}", rf"\neg \text{{{word}}}")
        yield from (rf"\text{{{word}}}, \text{{west}}", rf"\text{{{word}}} \ne")


def base(gold: str) -> Iterator[str]:
    if found := re.fullmatch(r"(\d+)_\{?(\d)\}?", gold):
        digits, old = found[1], int(found[2])
        yield from (f"{digits}_{new}" for new in (2, 7, 10, 12, 16))
        yield from (
            f"{digits}^{old}",
            f"{digits}{old}",
            f"{digits}.{old}",
            f"{digits}_{{x}}",
            f"{digits[:-1]}_{digits[-1]}",
        )
        yield from (f"1{digits}_{old}", f"-{digits}_{old}", f"{digits}_{old} + 1", rf"2\cdot{digits}_{old}")
        yield from (f"{int(digits, old) + 1}", f"{int(digits, old) + 1}_{{10}}")


def equation(gold: str) -> Iterator[str]:
    if not _is_equation(gold):
        return
    left, relation, right = re.split(r"(=|\\in )", gold, maxsplit=1)
    yield from (f"{left}{other} {right}" for other in ("<", ">", r"\le", r"\ne", r"\notin", r"\subset", r"\approx -"))
    yield from (
        f"{left}+1 {relation} {right}",
        f"t {relation} {right if right.strip() != '0' else left}",
        f"{left}=17={right}x",
    )
    if right.strip() != "0":
        yield from (
            f"-({left}) {relation} {right}",
            f"2{left.strip()} {relation} {right}",
            f"{left}^2 {relation} {right}",
        )
    yield from (f"{gold}, z = 3", rf"{gold} \text{{ or }} z = 3", rf"\text{{not }}{gold}", rf"\neg({gold})")


MUTATIONS: list[Mutation] = [
    digit,
    digit_more_or_less,
    sign,
    whole,
    reciprocal,
    exponent,
    letter,
    swap,
    bracket,
    elements,
]
MUTATIONS += [words_after, signs_after, words_before, signs_before, unit, words, base, equation]


def _has_words(gold: str) -> bool:
    return r"\text" in gold or r"\mbox" in gold


def mutants(gold: str) -> list[tuple[str, str]]:
    """Return (kind of change, mutant) of every change of a gold answer, each mutant once."""
    found: dict[str, str] = {}
    for mutation in MUTATIONS:
        for mutant in mutation(gold):
            if "".join(mutant.split()).casefold() != "".join(gold.split()).casefold() or mutation is letter:
                found.setdefault(mutant, mutation.__name__)
    return [(kind, mutant) for mutant, kind in found.items() if mutant != gold]
