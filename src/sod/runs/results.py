"""The content of results.json: what `sod eval` measured. The only module that reads this file or decides its format."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from sod.config.base import first_fault
from sod.errors import RunError


def _defined(numbers: object) -> object:
    """Leave out undefined numbers: null, and NaN in files of older versions."""
    if not isinstance(numbers, dict):
        return numbers
    return {name: value for name, value in numbers.items() if value is not None and value == value}


Numbers = Annotated[dict[str, int | float], BeforeValidator(_defined)]
"""Measured quantities by name, for example `avg`, `avg_se`, `pass@4`, `tools/errors`. Which there are depends on the data."""


@dataclass(frozen=True)
class BenchmarkResults:
    """The results on one set of problems."""

    measured: Numbers
    file: str
    """The file that the problems were read from."""
    sha256: str
    """SHA-256 of that file."""
    source: dict[str, Any]
    """Repository and revision of a benchmark; {} for a user's file."""
    notes: list[str]
    """Sentences that belong beside every number."""
    private: bool
    """Whether the authors ask not to publish examples."""
    by: dict[str, dict[str, Numbers]]
    """Numbers per value of each label: difficulty -> hard -> avg -> 0.25."""
    judges: dict[str, Numbers]
    """Numbers per additional judge of the same samples."""
    ids: list[str]
    """Ids of the problems."""


@dataclass(frozen=True)
class Results:
    """The results of an evaluation. The order of the fields is their order in results.json."""

    partial: bool
    """Whether the evaluation was interrupted or lost too many attempts."""
    model: str
    folder: str
    """Directory of the model, or of its tokenizer if the model is remote."""
    prompts: str
    samples: int
    """Samples per problem."""
    seed: int
    temperature: float
    top_p: float
    max_turns: int
    max_tokens: int
    judge: str
    faults: float
    """Probability that a tool call fails on purpose."""
    paper: str | None
    """Row of the paper's table to show beside the results."""
    benchmarks: dict[str, BenchmarkResults]
    mean: Numbers
    """Means over the benchmarks; only the numbers that all of them have."""

    @property
    def settings(self) -> dict[str, str | float]:
        """The options that the numbers depend on, apart from the model, the problems and the number of samples."""
        return {
            "prompts": self.prompts,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_turns": self.max_turns,
            "max_tokens": self.max_tokens,
            "judge": self.judge,
            "faults": self.faults,
        }

    def record(self) -> dict[str, Any]:
        """Return the content of results.json."""
        return asdict(self)


_FORMAT = TypeAdapter(Results)


def read_results(folder: Path) -> Results:
    """Read results.json of a run directory. Raises RunError if it is missing, damaged or in an older format."""
    path = folder / "results.json"
    try:
        return _FORMAT.validate_python(json.loads(path.read_bytes()))
    except ValidationError as error:
        raise RunError(
            f"{path} cannot be read ({first_fault(error, whole='the file')}). It is in an older format, or damaged. Run `sod "
            "eval` again, into a new directory."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read ({error}). {folder} holds no results, or damaged ones. Pass the directory of a finished "
            "`sod eval`."
        ) from error
