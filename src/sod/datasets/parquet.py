"""Read .parquet files, some rows at a time."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sod.chat.conversations import without_nulls
from sod.errors import DataError

BATCH = 4096
"""Rows in memory at a time. A published file may repeat every problem a hundred times."""


def parquet_rows(path: Path, at: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file. `at` is called with the percentage read."""
    import pyarrow.parquet as parquet  # importing it takes a second
    from pyarrow import ArrowException, struct

    read = 0
    try:
        with parquet.ParquetFile(path) as file:
            kind = struct(file.schema_arrow)
            _check_names(kind, path)
            short = re.search(r"\b(?:float|halffloat)\b", str(kind))
            for batch in file.iter_batches(BATCH):
                rows = batch.to_pylist()
                yield from map(without_nulls, (_decimal(row, kind) for row in rows) if short else rows)
                read += len(batch)
                at(100 * read // file.metadata.num_rows)
    except (ArrowException, OSError) as error:  # OSError: damaged pages
        raise DataError(f"{path} is not a parquet file, or a damaged one: {error}") from error


def _check_names(kind: Any, path: Path) -> None:
    """Raise DataError for a name that two columns, or two fields of a column, have: only the last would be read."""
    from pyarrow import types

    while _is_list(kind):
        kind = kind.value_type
    fields = list(kind) if types.is_struct(kind) else []
    names = [field.name for field in fields]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{path} has two columns with the name {twice!r}. Rename or remove one of them.")
    for field in fields:
        _check_names(field.type, path)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _decimal(value: Any, kind: Any) -> Any:
    """Return a cell with its fractions of 16 and 32 bits as 64-bit ones of the same decimal text: 0.1 stays 0.1."""
    import numpy as np
    from pyarrow import types

    if value is None:
        return None
    if types.is_float16(kind) or types.is_float32(kind):
        return float(str((np.float16 if types.is_float16(kind) else np.float32)(value)))
    if types.is_struct(kind):
        return {field.name: _decimal(value[field.name], field.type) for field in kind}
    if _is_list(kind):
        return [_decimal(each, kind.value_type) for each in value]
    return value
