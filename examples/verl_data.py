"""Our problems, or anything that `sod data` reads, as rows that verl and `sod.adapters.verl_reward` take.

python examples/verl_data.py data/open_agentrl_30k.jsonl data/open_agentrl_30k.parquet
"""

import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from sod.datasets.asking import load_asked
from sod.errors import DataError, SodError
from sod.types import Problem


def row(problem: Problem, index: int) -> dict[str, Any]:
    """`kind` decides who judges it; `index` is what verl tells problems apart by."""
    return {
        "data_source": problem.labels.get("source", "sod"),
        "prompt": list(problem.messages),
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": {"index": index, "kind": problem.kind, "id": problem.id, "options": problem.options},
    }


def convert(source: Path, target: Path) -> int:
    """How many problems were written. Raises DataError for a row that is none, and where the file cannot be written."""
    if not target.parent.is_dir():
        raise DataError(f"{target} cannot be written: {target.parent} is no folder. Create it first.")
    problems, _ = load_asked(source)
    table = pyarrow.Table.from_pylist([row(problem, index) for index, problem in enumerate(problems)])
    partial = target.with_name(f"{target.name}.partial")
    try:
        pyarrow.parquet.write_table(table, partial)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{target} cannot be written: {error.strerror or error}.") from error
    return len(problems)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        print(f"{sys.argv[2]}: {convert(Path(sys.argv[1]), Path(sys.argv[2]))} problems")
    except SodError as error:
        sys.exit(f"sod: {error}")
