"""Options of `sod data`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from tyro.conf import Positional, arg

from sod.config.base import Names, OptionalModel, Options, Positive, PositiveReal, PositiveShare
from sod.config.chat import ChatOptions


class DataListOptions(Options):
    """List the benchmarks and training sets that `sod` knows by name, where they come from and which are here."""

    data_dir: Path = Path("data")
    """Directory to look for them in."""


class FetchOptions(Options):
    """Download data sets from the Hugging Face hub at a pinned revision, verify them and write them in our columns."""

    names: Annotated[tuple[str, ...], Positional, arg(metavar="NAME [NAME ...]"), Field(min_length=1)]
    """Names of the data sets; `sod data list` shows them."""
    out: Path = Path("data")
    """Directory to write NAME.jsonl and NAME.source.json to."""
    revision: str | None = None
    """Revision on the hub. Default: the pinned one."""
    prompts: Literal["clean", "paper"] = "clean"
    """Prompts for training sets that come without one. Benchmarks get their prompts in `sod eval`."""


class ConvertOptions(Options):
    """Convert a published file (.jsonl, .json, .parquet, .csv) to our columns and check it."""

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """File to convert."""
    name: str | None = None
    """Name of the data set, such as aime2024 (`sod data list` shows them). Default: guessed from the columns."""
    out: Path | None = None
    """File to write. Default: data/NAME.jsonl, where `sod eval` looks for a benchmark."""
    prompts: Literal["clean", "paper"] = "clean"
    """Prompts for training sets that come without one."""


class CheckOptions(Options):
    """Check every row of files of problems or demonstrations: columns, answers that no judge can use, duplicates."""

    files: Annotated[tuple[Path, ...], Positional, arg(metavar="FILE [FILE ...]"), Field(min_length=1)]
    """Files to check."""
    good: Path | None = None
    """File to write the valid rows to. Default: none."""
    rejects: Path | None = None
    """File to write the invalid rows to, each with its row number and the reason. Default: none."""


class DescribeOptions(Options):
    """Describe the contents of files: number of rows, kinds, sources, lengths, tool calls."""

    files: Annotated[tuple[Path, ...], Positional, arg(metavar="FILE [FILE ...]"), Field(min_length=1)]
    """Files of problems or demonstrations."""
    tokenizer: OptionalModel = None
    """Model for counting tokens: a directory, a run or hf:ORG/NAME. Default: count characters."""
    chat: ChatOptions = ChatOptions()


class DecontaminateOptions(Options):
    """Remove problems and demonstrations that share text with benchmarks, and report them."""

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """File to clean."""
    against: Names = ("aime2024", "aime2025", "math500", "gpqa_diamond", "livecodebench_v6")
    """Names of benchmarks, and files. A named benchmark that is not in --data-dir is an error."""
    out: Path | None = None
    """Where to write the remaining rows. Default: only report."""
    report: Path | None = None
    """File to write the overlaps to, each with the shared n-grams. Default: none."""
    words: Positive = 10
    """Length of the n-grams, in words."""
    share: PositiveShare = 0.5
    """Share of a benchmark problem's n-grams. A row that contains so many or more is removed."""
    data_dir: Path = Path("data")
    """Directory of benchmark files (NAME.jsonl)."""


class MarksOptions(Options):
    """Compute what a new benchmark declares: its number of rows, its fingerprint, and the marks of its answers."""

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """Benchmark in sod's columns, as `sod data convert` writes it."""


class SplitOptions(Options):
    """Split a file at random into training and validation. Equal problems stay in the same part."""

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """File to split."""
    validation: PositiveReal = 0.02
    """Share of the rows for validation. 1 or more is a number of rows."""
    out: Path | None = None
    """Directory for FILE-train.jsonl and FILE-validation.jsonl. Default: the directory of the file."""
    seed: int = 0
    """Seed of the random split."""


class MixOptions(Options):
    """Mix files by weight. Rows are drawn without repetition until --rows is reached or a file is exhausted."""

    files: Annotated[tuple[Path, ...], Positional, arg(metavar="FILE [FILE ...]"), Field(min_length=1)]
    """Files to mix."""
    out: Path
    """File to write."""
    weights: tuple[PositiveReal, ...] = ()
    """One weight per file, in proportion. Default: the files' numbers of rows."""
    rows: Positive | None = None
    """Number of rows to write. Default: as many as the weights allow."""
    seed: int = 0
    """Seed of the random draw."""


class MakeOptions(Options):
    """Write problems of another project's environment or generator, by seed and level (docs/environments-of-others.md)."""

    name: Annotated[str, Positional, arg(metavar="NAME[:TASK,...]")]
    """Environment or generator: scienceworld, textworld, textarena, gymnasium, reasoning_gym or bfcl, and optionally its tasks
    after a colon, NAME:TASK,TASK. Without tasks, all of its tasks take turns."""
    out: Path
    """File to write."""
    rows: Positive = 100
    """Number of problems to write. Tasks take turns."""
    seed: int = 0
    """Seed of the problems. The same name, seed and level give the same file."""
    level: Positive = 1
    """Difficulty; 1 is the easiest. Its meaning depends on NAME."""
