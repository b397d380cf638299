"""Read .parquet files, some rows at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sod.chat.conversations import without_nulls
from sod.errors import DataError

if TYPE_CHECKING:
    from pyarrow import RecordBatch

BATCH = 4096
"""Rows in memory at a time. A published file may repeat every problem a hundred times."""


def parquet_rows(path: Path, at: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file. `at` is called with the percentage read."""
    import pyarrow.parquet as parquet  # importing it takes a second
    from pyarrow import ArrowException

    read = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH):
                yield from map(without_nulls, _with_short_fractions(batch).to_pylist())
                read += len(batch)
                at(100 * read // file.metadata.num_rows)
    except (ArrowException, OSError) as error:  # OSError: damaged pages
        raise DataError(f"{path} is not a parquet file, or a damaged one: {error}") from error


def _with_short_fractions(batch: "RecordBatch") -> "RecordBatch":
    """Return the rows with columns of 32-bit fractions as 64-bit ones with the same decimal text: 0.1 stays 0.1."""
    import pyarrow as pa

    for place, field in enumerate(batch.schema):
        if pa.types.is_float32(field.type):
            column = batch.column(place).cast(pa.string()).cast(pa.float64())
            batch = batch.set_column(place, field.with_type(pa.float64()), column)
    return batch
