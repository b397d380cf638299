"""Turn recipes and flags into options.

tyro splits the command line into options. pydantic converts and checks the values. Options come
from three places, later ones override earlier ones: the defaults, the recipes from left to right, the flags.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, TypeVar, cast, get_origin

import tyro
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from tyro.conf import DisallowNone
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from sod.arguments.fields import (
    annotated,
    arity,
    choices_of,
    flags_of,
    hyphens,
    is_table,
    label_of,
    listed,
    rule_of,
    shown_name,
    without_none,
)
from sod.arguments.help import show_help
from sod.config import Options, is_group, options_of
from sod.config.recipes import flat, over, read_recipe
from sod.errors import OptionError

AnyOptions = TypeVar("AnyOptions", bound=Options)
HELP = ("-h", "--help", "--help-all")
MOST_LINES = 3
"""Lines of an error about several values."""


def parse_options(command: str, model: type[Options], arguments: Sequence[str]) -> Any:
    """Return the options of a command. Print the help and exit if it is asked for. Raise OptionError for wrong options."""
    os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")
    return _CommandLine(command, model).options(arguments)


def options_from(command: str, model: type[AnyOptions], content: dict[str, Any], source: str) -> AnyOptions:
    """Return the options in nested content, such as a table of a recipe. Raise OptionError, which names the `source`."""
    line = _CommandLine(command, model)
    line.check_names(content, source)
    return cast(AnyOptions, line.validated(content, dict.fromkeys(flat(content), source)))


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
        return self.validated(over(given, from_flags), sources)

    def validated(self, given: dict[str, Any], sources: Mapping[str, str]) -> Options:
        """Return the options. Raise OptionError for a wrong value; `sources` maps options to the files they come from."""
        try:
            return self.model.model_validate(_completed(self.model, given))
        except ValidationError as error:
            raise OptionError(self._explained(error, sources)) from None

    # Where options come from

    def _read_recipe(self, recipe: str) -> dict[str, Any]:
        """Return the recipe's options, nested. Raise OptionError for one that the command does not have."""
        content = read_recipe(Path(recipe))
        self.check_names(content, recipe)
        return content

    def check_names(self, content: dict[str, Any], source: str) -> None:
        """Raise OptionError for an option that the command does not have."""
        tables = {key for key, field in self.fields.items() if is_table(field)}
        for key in flat(content):
            if key not in self.fields and key.partition(".")[0] not in tables:
                group = key.partition(".")[0]
                near = get_close_matches(key, self.fields, n=1) or get_close_matches(group, tables, n=1)
                hint = f"did you mean {near[0]}?" if near else f"`sod {self.command} --help-all` lists the options."
                raise OptionError(f"{source}: {key} is not an option of `sod {self.command}`; {hint}")

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
        fields = {f"--{hyphens(key)}": field for key, field in self.fields.items()}
        for i, flag in enumerate(flags):
            field = fields.get(hyphens(flag))
            count = len(list(takewhile(lambda value: not value.startswith("--"), flags[i + 1 :])))
            if field is not None and count < arity(field.annotation):
                rule = rule_of(field.annotation, field.metadata) or "a value"
                return f"{flag} has too few values. It needs {rule}.{self._example(hyphens(flag)[2:], field)}"
        return f"The options of `sod {self.command}` cannot be read. `sod {self.command} --help` explains them."

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return (
                f"{word!r} is not a value of any option of `sod {self.command}`. Put the name of an option before it; "
                f"`sod {self.command} --help` lists them."
            )
        flag = hyphens(word.partition("=")[0])
        names = [name for key, field in self.fields.items() for name in flags_of(key, field)]
        hint = (
            f"did you mean {near}?" if (near := _nearest(flag, names)) else f"`sod {self.command} --help` lists them."
        )
        return f"{flag} is not an option of `sod {self.command}`; {hint}"

    # What is wrong with a value

    def _explained(self, error: ValidationError, sources: Mapping[str, str]) -> str:
        problems = error.errors()
        if missing := [problem["loc"][0] for problem in problems if self._is_missing(dict(problem))]:
            names = listed([shown_name(str(key), self.fields[str(key)]) for key in missing], "and")
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
        where = f"{recipe}: {key} is {value!r}" if recipe else f"{shown_name(key, field)} is {words or 'empty'}"
        rule = rule_of(field.annotation, field.metadata)
        choices = [str(choice) for choice in choices_of(field.annotation)]
        near = get_close_matches(str(value), choices, n=1)
        hint = f" Did you mean {near[0]}?" if near else "" if choices else self._example(key, field)
        return f"{where}. It must be {rule}.{hint}" if rule else f"{where}: {message}.{hint}"

    def _example(self, key: str, field: FieldInfo) -> str:
        """Return what to type, if the option has a default that can be typed."""
        if field.is_required() or isinstance(field.default, bool) or field.default in (None, ()):
            return f" `sod {self.command} --help-all` explains it."
        return f" Type for example --{hyphens(key)} {label_of(field.default)} (the default)."


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
    kind = without_none(field.annotation)
    if get_origin(kind) is tuple:
        kind = tuple[str, ...]
    elif kind is not bool:
        kind = str
    return annotated(DisallowNone[kind | None], [mark for mark in field.metadata if "Positional" in repr(mark)])


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
            completed[key] = field.default.model_dump(exclude_unset=True) | _completed(type(field.default), value)
        else:
            completed[key] = _prepared(field, value)
    return completed


def _prepared(field: FieldInfo, value: Any) -> Any:
    """Return the value as pydantic expects it: None for the word, and a list where an option has several values."""
    kind = without_none(field.annotation)
    if value == "None" and kind is not field.annotation:
        return None
    if kind is str and isinstance(value, int | float):  # an unquoted number in a recipe
        return str(value)
    return [value] if get_origin(kind) is tuple and not isinstance(value, list | tuple) else value


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
