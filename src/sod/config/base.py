"""What all options have in common: their base class, their markers, and the types of their values."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from tyro.conf import arg

# The group of options `validate` replaces a method of pydantic that is deprecated and that sod does not use.
warnings.filterwarnings("ignore", 'Field name "validate" in .* shadows an attribute in parent "Options"')

T = TypeVar("T")
RARE, RESUME_MAY_CHANGE, CONTENT = object(), object(), object()

Rare = Annotated[T, RARE]
"""Hide the option, or every option of the group, from `--help`. `--help-all` shows it."""
ResumeMayChange = Annotated[T, RESUME_MAY_CHANGE]
"""Allow another value when a run continues. The option does not change what the run computes."""

ReadsFiles = Annotated[T, CONTENT]
"""The value names code or data in files, whose contents stay the same when a run continues (`sod.runs.contents`)."""

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveReal = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Real = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def model_path(value: Any) -> Any:
    """Return ./ORG/NAME as an absolute path: pathlib drops the ./, and the rest would be a name on the hub."""
    return Path(value).absolute() if isinstance(value, str) and value.startswith("./") else value


Model = Annotated[Path, BeforeValidator(model_path), arg(metavar="MODEL")]
OptionalModel = Annotated[Path | None, BeforeValidator(model_path), arg(metavar="MODEL")]
"""A model's directory, a run (its newest checkpoint), or a name on the Hugging Face hub. `OptionalModel` may be missing."""


def as_names(value: Any) -> Any:
    """Return a tuple of strings. A single name or path becomes a tuple of one."""
    return tuple(map(str, (value,) if isinstance(value, str | Path) else value))


OptionalNames = Annotated[tuple[str, ...], BeforeValidator(as_names)]
Names = Annotated[OptionalNames, Field(min_length=1)]


ToolUse = Literal["ran", "paper", "reference", "off"]
"""How the tool calls of a wrong answer change its reward."""


def first_fault(error: ValidationError, *, whole: str = "") -> str:
    """Return the first fault that pydantic found: its place, or `whole` if it has none, and the message."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}"


class Options(BaseModel):
    """Base class of all options: immutable, without unknown fields, described by the docstrings under the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    COMMAND: ClassVar[str] = ""
    """Command whose runs have these options; empty if no run has them."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Remove the source's line breaks from every description."""
        for field in cls.model_fields.values():
            field.description = field.description and " ".join(field.description.split())


def is_group(field: FieldInfo) -> bool:
    """Return whether a field holds options, and is none itself."""
    return isinstance(field.annotation, type) and issubclass(field.annotation, Options)


def options_of(
    model: type[Options], prefix: str = "", marks: tuple[Any, ...] = ()
) -> Iterator[tuple[str, FieldInfo, tuple[Any, ...]]]:
    """Yield the dotted name, the field and the markers of every option. An option has the markers of its group, too."""
    for name, field in model.model_fields.items():
        found = (*marks, *field.metadata)
        if is_group(field):
            yield from options_of(cast(type[Options], field.annotation), f"{prefix}{name}.", found)
        else:
            yield prefix + name, field, found


def resume_may_change(model: type[Options]) -> set[str]:
    """Return the dotted names of the options that may have another value when a run continues."""
    return {key for key, _, marks in options_of(model) if RESUME_MAY_CHANGE in marks}
