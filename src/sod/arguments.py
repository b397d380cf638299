"""Turn recipes and flags into options, and print the help of a command.

tyro splits the command line into options and lays out the help. pydantic converts and checks the values. Options come
from three places, later ones override earlier ones: the defaults, the recipes from left to right, the flags.
"""

import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from inspect import getdoc
from io import BytesIO, TextIOWrapper
from itertools import pairwise, takewhile
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TextIO, Union, cast, get_args, get_origin

import tyro
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from tyro.conf import DisallowNone, arg
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from sod.config import RARE, Options, is_group, options_of
from sod.errors import OptionError
from sod.recipes import flat, over, read_recipe

HELP = ("-h", "--help", "--help-all")
MOST_LINES = 3
"""Lines of an error about several values."""


def parse_options(command: str, model: type[Options], arguments: Sequence[str]) -> Any:
    """Return the options of a command. Print the help and exit if it is asked for. Raise OptionError for wrong options."""
    os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")
    return _CommandLine(command, model).options(arguments)


def _is_recipe(argument: str) -> bool:
    return argument.endswith(".toml") and not argument.startswith("-")


@dataclass(frozen=True)
class _CommandLine:
    command: str
    model: type[Options]

    @cached_property
    def fields(self) -> dict[str, FieldInfo]:
        """The options by dotted name."""
        return {key: field for key, field, _ in options_of(self.model)}

    def options(self, arguments: Sequence[str]) -> Options:
        recipes = list(takewhile(_is_recipe, arguments))
        flags = arguments[len(recipes) :]
        if asked := next((flag for flag in flags if flag in HELP), None):
            show_help(self.command, self.model, everything=asked == "--help-all")
            raise SystemExit(0)
        for before, argument in pairwise(["", *flags]):
            if _is_recipe(argument) and not before.startswith("--"):
                first = " ".join([*recipes, argument])
                raise OptionError(f"Recipes come first: sod {self.command} {first} --option value ...")
        from_recipes: dict[str, str] = {}
        given: dict[str, Any] = {}
        for recipe in recipes:
            content = self._read_recipe(recipe)
            from_recipes |= dict.fromkeys(flat(content), recipe)
            given = over(given, content)
        from_flags = self._read_flags(flags)
        overridden = flat(from_flags)
        sources = {key: source for key, source in from_recipes.items() if key not in overridden}
        try:
            return self.model.model_validate(_completed(self.model, over(given, from_flags)))
        except ValidationError as error:
            raise OptionError(self._explained(error, sources)) from None

    # Where options come from

    def _read_recipe(self, recipe: str) -> dict[str, Any]:
        """Return the recipe's options, nested. Raise OptionError for one that the command does not have."""
        content = read_recipe(Path(recipe))
        for key in flat(content):
            if key not in self.fields:
                near = get_close_matches(key, self.fields, n=1)
                hint = f"did you mean {near[0]}?" if near else f"`sod {self.command} --help-all` lists the options."
                raise OptionError(f"{recipe}: {key} is not an option of `sod {self.command}`; {hint}")
        return content

    def _read_flags(self, flags: Sequence[str]) -> dict[str, Any]:
        """Return the given options, nested, with values as strings. Raise OptionError for an unknown one."""
        registry = ConstructorRegistry()
        registry.struct_rule(_as_strings)
        try:
            given, unknown = tyro.cli(
                cast(Any, self.model),
                args=flags,
                return_unknown_args=True,
                add_help=False,
                console_outputs=False,
                registry=registry,
            )
        except SystemExit:
            raise OptionError(self._without_value(flags)) from None
        if unknown:
            raise OptionError(self._unknown(unknown[0]))
        return _given(given)

    def _without_value(self, flags: Sequence[str]) -> str:
        """Return the error about an option that lacks a value."""
        fields = {f"--{_hyphens(key)}": field for key, field in self.fields.items()}
        for i, flag in enumerate(flags):
            field = fields.get(_hyphens(flag))
            count = len(list(takewhile(lambda value: not value.startswith("--"), flags[i + 1 :])))
            if field is not None and count < _arity(field.annotation):
                rule = _rule(field.annotation, field.metadata) or "a value"
                return f"{flag} has too few values. It needs {rule}.{self._example(_hyphens(flag)[2:], field)}"
        return f"The options of `sod {self.command}` cannot be read. `sod {self.command} --help` explains them."

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return (
                f"{word!r} is not a value of any option of `sod {self.command}`. Put the name of an option before it; "
                f"`sod {self.command} --help` lists them."
            )
        flag = _hyphens(word.partition("=")[0])
        names = [name for key, field in self.fields.items() for name in _flags_of(key, field)]
        hint = (
            f"did you mean {near}?" if (near := _nearest(flag, names)) else f"`sod {self.command} --help` lists them."
        )
        return f"{flag} is not an option of `sod {self.command}`; {hint}"

    # What is wrong with a value

    def _explained(self, error: ValidationError, sources: Mapping[str, str]) -> str:
        problems = error.errors()
        if missing := [problem["loc"][0] for problem in problems if self._is_missing(dict(problem))]:
            names = _listed([_shown(str(key), self.fields[str(key)]) for key in missing], "and")
            return f"`sod {self.command}` needs {names}. `sod {self.command} --help` explains the options."
        lines: dict[str, str] = {}
        for problem in problems:
            key = self._key(problem["loc"])
            lines.setdefault(key, self._explained_value(key, problem["input"], problem["msg"], sources.get(key)))
        if len(lines) <= MOST_LINES:
            return "\n".join(lines.values())
        shown = list(lines.values())[: MOST_LINES - 1]
        return "\n".join([*shown, f"{len(lines) - len(shown)} more values are wrong."])

    def _is_missing(self, problem: Mapping[str, Any]) -> bool:
        """Return whether a required option is missing, and not a part of its value."""
        return problem["type"] == "missing" and ".".join(map(str, problem["loc"])) in self.fields

    def _key(self, location: Sequence[int | str]) -> str:
        """Return the option that a place in the nested options belongs to."""
        parts = [str(part) for part in location]
        return next(key for n in range(len(parts), 0, -1) if (key := ".".join(parts[:n])) in self.fields)

    def _explained_value(self, key: str, value: Any, message: str, recipe: str | None) -> str:
        field = self.fields[key]
        words = shlex.join(map(str, value)) if isinstance(value, list | tuple) else shlex.quote(str(value))
        where = f"{recipe}: {key} is {value!r}" if recipe else f"{_shown(key, field)} is {words or 'empty'}"
        rule = _rule(field.annotation, field.metadata)
        choices = [str(choice) for choice in _choices(field.annotation)]
        near = get_close_matches(str(value), choices, n=1)
        hint = f" Did you mean {near[0]}?" if near else "" if choices else self._example(key, field)
        return f"{where}. It must be {rule}.{hint}" if rule else f"{where}: {message}.{hint}"

    def _example(self, key: str, field: FieldInfo) -> str:
        """Return what to type, if the option has a default that can be typed."""
        if field.is_required() or isinstance(field.default, bool) or field.default in (None, ()):
            return f" `sod {self.command} --help-all` explains it."
        return f" Type for example --{_hyphens(key)} {_label(field.default)} (the default)."


# The command line, as tyro reads it


def _as_strings(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Let tyro read every option as strings, and None for one that is not given: pydantic converts and checks them."""
    if not (isinstance(info.type, type) and issubclass(info.type, Options)):
        return None
    fields = [
        StructFieldSpec(name=name, type=_string_type(field), default=None if not is_group(field) else field.default)
        for name, field in info.type.model_fields.items()
    ]
    return StructConstructorSpec(instantiate=dict, fields=tuple(fields))


def _string_type(field: FieldInfo) -> Any:
    if is_group(field):
        return field.annotation
    kind = _without_none(field.annotation)
    if get_origin(kind) is tuple:
        kind = tuple[str, ...]
    elif kind is not bool:
        kind = str
    return _annotated(DisallowNone[kind | None], [mark for mark in field.metadata if "Positional" in repr(mark)])


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out options that are not given, and groups without any."""
    nested = {key: _given(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in nested.items() if value is not None and value != {}}


def _completed(model: type[Options], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given options, with the defaults of each group that is given in part."""
    completed: dict[str, Any] = {}
    for key, value in given.items():
        field = model.model_fields[key]
        if is_group(field):
            completed[key] = dict(field.default) | _completed(type(field.default), value)
        else:
            completed[key] = _prepared(field, value)
    return completed


def _prepared(field: FieldInfo, value: Any) -> Any:
    """Return the value as pydantic expects it: None for the word, and a list where an option has several values."""
    kind = _without_none(field.annotation)
    if value == "None" and kind is not field.annotation:
        return None
    if kind is str and isinstance(value, int | float):  # an unquoted number in a recipe
        return str(value)
    return [value] if get_origin(kind) is tuple and not isinstance(value, list | tuple) else value


# Help


def show_help(command: str, model: type[Options], *, everything: bool) -> None:
    """Print the help of a command: its common options, or all."""
    hidden = 0 if everything else sum(RARE in marks for _, _, marks in options_of(model))
    registry = ConstructorRegistry()
    registry.struct_rule(lambda info: _explained_fields(info, everything))
    layout = _Capture(sys.stdout)
    with suppress(SystemExit), redirect_stdout(layout):
        tyro.cli(model, prog=f"sod {command}", description="", args=["--help"], registry=registry)
    values = [name for _, field, _ in options_of(model) if (name := _metavar(field))]
    usage = " ".join([f"usage: sod {command} [RECIPE.toml ...]", *values, "[--option value ...]"])
    boxes = layout.getvalue().partition("\n\n")[2]  # after tyro's usage, which does not fold
    print("\n\n".join([_folded(getdoc(model) or ""), _folded(usage), boxes.rstrip()]))
    if hidden:
        print(f"{hidden} more option{'s' if hidden > 1 else ''}: sod {command} --help-all")


class _Capture(TextIOWrapper):
    """Text that tyro lays out and colours as it would on the screen."""

    def __init__(self, screen: TextIO):
        super().__init__(BytesIO(), encoding=screen.encoding or "utf-8", errors=screen.errors)
        self._is_terminal = screen.isatty()

    def isatty(self) -> bool:
        return self._is_terminal

    def getvalue(self) -> str:
        self.flush()
        return cast(BytesIO, self.buffer).getvalue().decode(self.encoding)


def _explained_fields(info: StructTypeInfo, everything: bool) -> StructConstructorSpec | None:
    """Give tyro the options to show, each with its help and its default."""
    if not (isinstance(info.type, type) and issubclass(info.type, Options)):
        return None
    fields: list[StructFieldSpec] = []
    for name, field in info.type.model_fields.items():
        if RARE in field.metadata and not everything:
            continue
        default = getattr(info.default, name) if isinstance(info.default, Options) else field.default
        if is_group(field):
            if everything or any(RARE not in marks for _, _, marks in options_of(type(default))):
                fields.append(StructFieldSpec(name=name, type=type(default), default=default))
            continue
        description = field.description or ""
        words, own, in_words = description.partition("Default: ")
        hint = "(required)" if field.is_required() else own + (in_words or f"Default: {_label(default)}")
        kind = _annotated(DisallowNone[field.annotation], [*field.metadata, arg(help_behavior_hint=hint)])
        missing = tyro.MISSING_NONPROP if field.is_required() else default
        fields.append(StructFieldSpec(name=name, type=kind, default=missing, helptext=words.strip()))
    return StructConstructorSpec(instantiate=info.type, fields=tuple(fields))


def _label(default: Any) -> str:
    """Return a default as text."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return " ".join(map(str, default)) or "none"
    return "none" if default is None else str(default)


def _folded(text: str) -> str:
    """Fold every paragraph to the width of the terminal."""
    width = shutil.get_terminal_size().columns
    return "\n\n".join(textwrap.fill(" ".join(part.split()), width) for part in text.split("\n\n"))


# Names and types of options


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


def _flags_of(key: str, field: FieldInfo) -> list[str]:
    """Return the flags of an option; none if its values stand without one."""
    if _metavar(field):
        return []
    group, dot, name = _hyphens(key).rpartition(".")
    is_switch = _without_none(field.annotation) is bool
    return [f"--{group}{dot}{name}", *([f"--{group}{dot}no-{name}"] if is_switch else [])]


def _metavar(field: FieldInfo) -> str | None:
    """Return the name of a value that stands without a flag; None for other options."""
    if not any("Positional" in repr(mark) for mark in field.metadata):
        return None
    return next(name for mark in field.metadata if (name := getattr(mark, "metavar", None)))


def _shown(key: str, field: FieldInfo) -> str:
    return _metavar(field) or f"--{_hyphens(key)}"


def _nearest(flag: str, names: Sequence[str]) -> str | None:
    """Return the flag that was probably meant: in the same group if there is one, else of any group."""
    group, dot, name = flag.rpartition(".")
    own = {known.rpartition(".")[2]: known for known in names if dot and known.startswith(f"{group}.")}
    if own:
        near = get_close_matches(name, own, n=1)
        return own[near[0]] if near else None
    if near := get_close_matches(flag, names, n=1):
        return near[0]
    ends = {known.rpartition(".")[2]: known for known in names if "." in known}
    near = get_close_matches(flag.lstrip("-").rpartition(".")[2], ends, n=1, cutoff=0.8)
    return ends[near[0]] if near else None


def _annotated(kind: Any, marks: Sequence[Any]) -> Any:
    return Annotated[(kind, *marks)] if marks else kind


def _without_none(kind: Any) -> Any:
    """Return the type without `| None`."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    rest = [part for part in get_args(kind) if part is not NoneType]
    return rest[0] if len(rest) == 1 else kind


def _bare(kind: Any) -> tuple[Any, list[Any]]:
    """Return the type without `| None` and without annotations, and the annotations."""
    kind, marks = _without_none(kind), []
    while get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        marks += more
        kind = _without_none(kind)
    return kind, [part for mark in marks for part in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]


def _choices(kind: Any) -> tuple[Any, ...]:
    kind, _ = _bare(kind)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _arity(kind: Any) -> int:
    """Return how many values an option needs at least."""
    kind, _ = _bare(kind)
    if get_origin(kind) is tuple:
        return 0 if Ellipsis in get_args(kind) else len(get_args(kind))
    return 0 if kind is bool else 1


def _rule(kind: Any, metadata: Sequence[Any] = ()) -> str:
    """Return what values an option can have, in words; nothing if that cannot be said."""
    kind, marks = _bare(kind)
    marks = [*marks, *metadata]
    if choices := _choices(kind):
        return _listed([str(choice) for choice in choices], "or")
    if kind is bool:
        return "true or false"
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        each = _rule(parts[0])
        if Ellipsis in parts:
            some = "one or more values" if any(getattr(mark, "min_length", 0) for mark in marks) else "a list of values"
            return f"{some}, each {each}" if each else some
        return f"{len(parts)} values, each {each}" if each else f"{len(parts)} values"
    words = {int: "a whole number", float: "a number"}.get(kind, "")
    limits = [
        f"{text} {getattr(mark, name):g}"
        for mark in marks
        for name, text in (("ge", "of at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
        if getattr(mark, name, None) is not None
    ]
    return f"{words} {' and '.join(limits)}".strip() if words else ""


def _listed(words: Sequence[str], last: str) -> str:
    """a, b and c"""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
