"""Print the help of a command. tyro lays it out."""

import shutil
import sys
import textwrap
from contextlib import redirect_stdout, suppress
from inspect import getdoc
from io import BytesIO, TextIOWrapper
from typing import TextIO, cast

import tyro
from tyro.conf import DisallowNone, arg
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from sod.arguments.fields import annotated, is_table, label_of, metavar_of
from sod.config import RARE, Options, is_group, options_of


def show_help(command: str, model: type[Options], *, everything: bool) -> None:
    """Print the help of a command: its common options, or all."""
    hidden = 0 if everything else sum(RARE in marks for _, _, marks in options_of(model))
    registry = ConstructorRegistry()
    registry.struct_rule(lambda info: _explained_fields(info, everything))
    layout = _Capture(sys.stdout)
    with suppress(SystemExit), redirect_stdout(layout):
        tyro.cli(model, prog=f"sod {command}", description="", args=["--help"], registry=registry)
    values = [name for _, field, _ in options_of(model) if (name := metavar_of(field))]
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
        hint = "(required)" if field.is_required() else own + (in_words or f"Default: {label_of(default)}")
        kind = str | None if is_table(field) else field.annotation
        kind = annotated(DisallowNone[kind], [*field.metadata, arg(help_behavior_hint=hint)])
        missing = tyro.MISSING_NONPROP if field.is_required() else default
        fields.append(StructFieldSpec(name=name, type=kind, default=missing, helptext=words.strip()))
    return StructConstructorSpec(instantiate=info.type, fields=tuple(fields))


def _folded(text: str) -> str:
    """Fold every paragraph to the width of the terminal."""
    width = shutil.get_terminal_size().columns
    return "\n\n".join(textwrap.fill(" ".join(part.split()), width) for part in text.split("\n\n"))
