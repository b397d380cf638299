"""Files as they are published: .jsonl, .json, .parquet and .csv, row by row."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sod.data import Row, read_rows
from sod.errors import DataError

_BATCH = 4096
"""Rows of a .parquet file that are in memory at a time: a published file may hold every problem a hundred times."""

csv.field_size_limit(1 << 30)  # the tests of one program are longer than the module's default of 128 KiB


def published_rows(path: Path) -> tuple[int, Iterator[Row]]:
    """How many rows a file has, one at least, and the rows. Raises DataError for a damaged file, and says where."""
    if not path.is_file():
        raise DataError(f"{path} does not exist.")
    readers = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _csv}
    if path.suffix not in readers:
        raise DataError(f"{path} has the ending {path.suffix!r}; {', '.join(readers)} can be read.")
    count, rows = readers[path.suffix](path)
    if not count:
        raise DataError(f"{path} is empty: it has no row.")
    return count, rows


def without_nulls(value: Any) -> Any:
    """Parquet fills in every key of every nested object; a null there is no key."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value


def _jsonl(path: Path) -> tuple[int, Iterator[Row]]:
    rows = read_rows(path)
    return len(rows), iter(rows)


def _json(path: Path) -> tuple[int, Iterator[Row]]:
    """A list of objects, or an object with one such list."""
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
    lists = [content] if isinstance(content, list) else []
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
    if len(lists) != 1 or not all(isinstance(row, dict) for row in lists[0]):
        raise DataError(f"{path} is neither a list of objects nor an object with one such list.")
    return len(lists[0]), iter(lists[0])


def _parquet(path: Path) -> tuple[int, Iterator[Row]]:
    import pyarrow.parquet as parquet  # a second to import, and only needed here
    from pyarrow import ArrowException

    try:
        file = parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is not a parquet file, or a damaged one: {error}") from error

    def rows() -> Iterator[Row]:
        try:
            with file:
                for batch in file.iter_batches(_BATCH):
                    yield from map(without_nulls, batch.to_pylist())
        except (ArrowException, OSError) as error:  # OSError: damaged pages
            raise DataError(f"{path} is damaged: {error}") from error

    return file.metadata.num_rows, rows()


def _csv(path: Path) -> tuple[int, Iterator[Row]]:
    lines = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    rows: list[Row] = []
    try:
        header = next(lines, [])
        if twice := [name for name, count in Counter(header).items() if name and count > 1]:
            raise DataError(f"{path} has two columns {twice[0]!r}: which of them counts cannot be known.")
        for cells in lines:
            if cells and len(cells) != len(header):
                raise DataError(
                    f"{path}, row {len(rows) + 1} (up to line {lines.line_num}) has {len(cells)} cells where the header "
                    f"names {len(header)} columns: the file is damaged, or not separated by commas."
                )
            if cells:
                rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}, row {len(rows) + 1} (at line {lines.line_num}) is damaged: {error}.") from error
    return len(rows), iter(rows)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
