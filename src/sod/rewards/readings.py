r"""Parse a gold and an answer together: the gold decides how the answer is read."""

import re
from dataclasses import replace

from sod.rewards.answers import DEGREE, PERCENT
from sod.rewards.exact import FUNCTIONS
from sod.rewards.forms import LETTER_OF_CHOICE, contradicts, named, read_form, set_of, without_lead_in
from sod.rewards.quantities import is_constant, is_quantity
from sod.rewards.structure import (
    NAME_PATTERN,
    RELATIONS,
    in_a_line,
    in_order,
    is_number,
    named_values,
    of_integers,
    relations,
    sides,
    split_outside,
    sum_of_named,
    with_names,
)
from sod.rewards.sums import symbols
from sod.rewards.units import NO_UNIT, Unit, measured, without_unit
from sod.rewards.values import (
    FORMULA,
    IN_BASE,
    SHORT_WORDS,
    Form,
    equation_of,
    in_radians,
    opaque,
    plain_text,
    product,
    value_or_nothing,
)

_CALL = re.compile(r"\s*[A-Za-z](?:\^\{-1\})?\s*\(\s*[a-z]\s*\)\s*=")
_IN_WORDS_ABOUT = re.compile(r"(?:\\text\{\s*)?(?:about|approximately|roughly)\b\s*\}?\s*", re.IGNORECASE)
_LETTER = re.compile("[A-J]")
_NUMBERED = re.compile(r"_(?:\d|\{\d\})$")
_PRODUCT = re.compile(r"[A-Za-z]{3}|[A-Za-z](?:\s*(?:\*|\\cdot|\\times)\s*[A-Za-z])+")
_SPELLED = re.compile(r"[\s$]*\\(?:text(?:bf|rm|it)?|math(?:rm|bf)|mbox)\s*\{\s*([A-Z]{2}|[a-z]{2})\s*\}[\s$.]*")
_OPTION = re.compile(r"(?i:(?:the )?(?:correct |right )?(?:answer|option|choice)(?: is)?:?) ?\(?([A-J])\)?")
_SHARE = Unit(frozenset({("percent", 1)}))


def readings(gold: str, answer: str) -> tuple[list[Form], Form]:
    """Return the accepted forms of the gold, the main one first, and the form of the answer in the context of the gold."""
    gold, answer = of_integers(in_a_line(gold), in_a_line(answer))
    if about := _IN_WORDS_ABOUT.match(gold):
        gold, answer = gold[about.end() :], _IN_WORDS_ABOUT.sub("", answer, count=1)
    if "/" in gold:
        gold = measured(gold)  # 5 m may be a product, 5 m/s is not
    if equation := sides(gold):
        return _of_equation(gold, *equation, answer)
    names = named_values(gold)
    golds = [named(names) if names else read_form(gold)]
    if _LETTER.fullmatch(golds[0].key) and (chosen := LETTER_OF_CHOICE.match(answer) or _OPTION.fullmatch(answer)):
        answer = chosen[1]
    if PERCENT in gold and PERCENT not in answer:
        golds = [_of_a_share(form) for form in (*golds, read_form(gold.replace(PERCENT, "")))]
    if based := IN_BASE.fullmatch(gold):
        golds.append(read_form(based[1]))
    elif (based := IN_BASE.fullmatch(answer)) and based[2].strip("{}") == "10":
        answer = based[1]
    if golds[0].kind == "exact" and is_number(without_unit(gold)[0]):
        answer = measured(answer)
    if names:
        if len({name[0] for name, _ in names}) == 1:  # x_1 and x_2: an answer without names may list them in any order
            golds.append(set_of(list(golds[0].parts), ""))
        elif not named_values(answer):
            answer = with_names(answer, names)
    elif golds[0].kind == "()" and (found := named_values(answer)):
        answer = in_order(found)
    if r"\pi" in gold and DEGREE not in gold:
        answer = in_radians(answer)
    elif r"\pi" in answer and DEGREE in gold:
        golds.append(read_form(in_radians(gold)))
    form = named(found) if names and (found := named_values(answer)) else read_form(answer)
    return _as_text(golds, gold, form, answer)


def _of_equation(gold: str, left: str, right: str, answer: str) -> tuple[list[Form], Form]:
    """Return the forms of a gold equation, and the form of the answer: its value if it gives the left side a value."""
    plain = without_lead_in(answer)
    if is_quantity(left) and is_constant(right) and (value := _value_of(left, answer) or _value_of(left, plain)):
        golds, form = readings(right, value)
        return [replace(equation_of(left, right), latex=""), *golds], form
    answer = plain
    if NAME_PATTERN.fullmatch(left):
        answer = _called(answer, left)
    other = None if answer != gold and contradicts(*split_outside(answer, RELATIONS)) else sides(answer)
    return [equation_of(left, right)], equation_of(*other) if other else read_form(answer)


def _value_of(name: str, answer: str) -> str:
    r"""Return the value of `5`, of `x = 5`, or of `x = 2 \lor x = -2`; empty if the answer is about another name."""
    if not split_outside(answer, RELATIONS)[1]:
        return answer
    values: list[str] = []
    parts = split_outside(answer, {",", ";", r"\lor", r"\land"})[0]
    if sum_of_named(parts):
        parts = parts[-1:]
    for part in parts:
        clause, found = split_outside(part, RELATIONS)
        pair = sides(part) if found else (name, part)
        if pair is None or contradicts(clause, found):
            return ""
        same = _NUMBERED.sub("", pair[0]) if len(parts) > 1 else pair[0]
        if re.sub(r"[\s{}]", "", same) != re.sub(r"[\s{}]", "", name):
            return ""
        values.append(pair[1])
    return ",".join(values)


def spelled(gold: str, answer: str) -> tuple[list[Form], Form] | None:
    r"""Return both as text if the gold is letters in a text font: `\text{BA}` is not the product AB. None for other golds."""
    letters = _SPELLED.fullmatch(gold)
    if letters is None or letters[1].casefold() in SHORT_WORDS | FUNCTIONS:
        return None
    one, other = (replace(opaque(text), latex="") for text in (letters[1], without_lead_in(answer)))
    return [one], other


def _of_a_share(form: Form) -> Form:
    """Return a gold in percent that accepts a number without a unit only: neither 10 kg nor 0.1 kg is 10 %."""
    parts = tuple(map(_of_a_share, form.parts))
    return replace(form, parts=parts, unit=form.unit or (NO_UNIT if parts else _SHARE))


def _as_text(golds: list[Form], gold: str, form: Form, answer: str) -> tuple[list[Form], Form]:
    """Compare both as text if one of them has no value, such as a chemical formula: H_2O is not a product."""
    if golds[0].kind == "opaque" and r"\text" in gold and form.kind in ("exact", "words"):
        form = opaque(answer)
    elif form.kind == "opaque" and r"\text" in answer and golds[0].kind == "exact" and symbols(value_or_nothing(gold)):
        golds.append(opaque(gold))
    elif (
        form.kind == "words"
        and form.key == golds[0].key
        and all(FORMULA.fullmatch(plain_text(t)) for t in (gold, answer))
    ):
        return [opaque(gold)], opaque(answer)  # Co is not CO
    if {golds[0].kind, form.kind} == {"words", "exact"} and all(map(_PRODUCT.fullmatch, (gold, answer))):
        return [product(gold)], product(answer)  # abc is a word in its first reading
    if golds[0].kind == "set" and form.kind.startswith("named"):
        form = set_of(list(form.parts), "")
    return golds, form


def _called(answer: str, name: str) -> str:
    """Return `y = 2x` for `2x` and `f(x) = 2x` if y is the name."""
    if called := _CALL.match(answer):
        return f"{name}={answer[called.end() :]}"
    return answer if relations(answer) else f"{name}={answer}"
