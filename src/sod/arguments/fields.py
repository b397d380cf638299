"""Describe an option from its field: its flags, its type, its default and the values that it can have."""

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo


def hyphens(name: str) -> str:
    return name.replace("_", "-")


def flags_of(key: str, field: FieldInfo) -> list[str]:
    """Return the flags of an option; none if its values stand without one."""
    if metavar_of(field):
        return []
    group, dot, name = hyphens(key).rpartition(".")
    is_switch = without_none(field.annotation) is bool
    return [f"--{group}{dot}{name}", *([f"--{group}{dot}no-{name}"] if is_switch else [])]


def metavar_of(field: FieldInfo) -> str | None:
    """Return the name of a value that stands without a flag; None for other options."""
    if not any("Positional" in repr(mark) for mark in field.metadata):
        return None
    return next(name for mark in field.metadata if (name := getattr(mark, "metavar", None)))


def shown_name(key: str, field: FieldInfo) -> str:
    return metavar_of(field) or f"--{hyphens(key)}"


def is_table(field: FieldInfo) -> bool:
    """Return whether an option holds tables, which only a recipe can give."""
    return get_origin(without_none(field.annotation)) is dict


def annotated(kind: Any, marks: Sequence[Any]) -> Any:
    return Annotated[(kind, *marks)] if marks else kind


def without_none(kind: Any) -> Any:
    """Return the type without `| None`."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    rest = [part for part in get_args(kind) if part is not NoneType]
    return rest[0] if len(rest) == 1 else kind


def _bare(kind: Any) -> tuple[Any, list[Any]]:
    """Return the type without `| None` and without annotations, and the annotations."""
    kind, marks = without_none(kind), []
    while get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        marks += more
        kind = without_none(kind)
    return kind, [part for mark in marks for part in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]


def choices_of(kind: Any) -> tuple[Any, ...]:
    kind, _ = _bare(kind)
    return get_args(kind) if get_origin(kind) is Literal else ()


def arity(kind: Any) -> int:
    """Return how many values an option needs at least."""
    kind, _ = _bare(kind)
    if get_origin(kind) is tuple:
        return 0 if Ellipsis in get_args(kind) else len(get_args(kind))
    return 0 if kind is bool else 1


def rule_of(kind: Any, metadata: Sequence[Any] = ()) -> str:
    """Return what values an option can have, in words; nothing if that cannot be said."""
    kind, marks = _bare(kind)
    marks = [*marks, *metadata]
    if choices := choices_of(kind):
        return listed([str(choice) for choice in choices], "or")
    if kind is bool:
        return "true or false"
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        each = rule_of(parts[0])
        if Ellipsis in parts:
            some = "one or more values" if any(getattr(mark, "min_length", 0) for mark in marks) else "a list of values"
            return f"{some}, each {each}" if each else some
        return f"{len(parts)} values, each {each}" if each else f"{len(parts)} values"
    is_finite = any(getattr(mark, "allow_inf_nan", None) is False for mark in marks)
    words = {int: "a whole number", float: "a finite number" if is_finite else "a number"}.get(kind, "")
    limits = [
        f"{text} {getattr(mark, name):g}"
        for mark in marks
        for name, text in (("ge", "of at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
        if getattr(mark, name, None) is not None
    ]
    return f"{words} {' and '.join(limits)}".strip() if words else ""


def listed(words: Sequence[str], last: str) -> str:
    """a, b and c"""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def label_of(default: Any) -> str:
    """Return a default as text."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return " ".join(map(str, default)) or "none"
    return "none" if default is None else str(default)
