"""Recognise files whose content has another format than their name says, by their first bytes."""

from pathlib import Path

from sod.errors import DataError

_UTF_16 = "UTF-16 text; write it again with `iconv -f UTF-16 -t UTF-8`"
_BEGINNINGS = {
    b"\x1f\x8b": "compressed with gzip; add .gz to its name, and use `sod data convert FILE --out OUT`",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; decompress it",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"PAR1": "a parquet file; give it the ending .parquet",
    b"ARROW1": "an Arrow file; write it as .parquet",
    b"\xff\xfe\0\0": _UTF_16.replace("16", "32"),
    b"\xff\xfe": _UTF_16,
    b"\xfe\xff": _UTF_16,
    b"{\0": _UTF_16,
}
_LIST = "one JSON list, not one object per line; give it the ending .json, and use `sod data convert FILE --out OUT`"


def check_format(path: Path) -> None:
    """Raise DataError for a file of text or parquet that is something else. Other endings and damaged files are not checked."""
    if path.suffix not in (".jsonl", ".json", ".csv", ".parquet"):
        return
    with path.open("rb") as file:
        start = file.read(4096)
    found = next((what for sign, what in _BEGINNINGS.items() if start.startswith(sign)), "")
    if path.suffix == ".parquet" and start.startswith(b"PAR1"):
        return
    if path.suffix == ".jsonl" and start.lstrip().startswith(b"["):
        found = _LIST
    if found:
        raise DataError(f"{path} is {found}.")
