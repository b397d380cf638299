"""The benchmarks' JSON as a table in Markdown.

python benchmarks/table.py build/benchmarks/*.json
"""

import argparse
import json
from pathlib import Path
from typing import Any


def table(results: list[dict[str, Any]]) -> str:
    lines = ["| what | ours | against | ratio (spread) | target |", "|---|---|---|--:|---|"]
    for result in results:
        for row in result["rows"]:
            low, high = row["spread"]
            spread = f" ({digits(low)}-{digits(high)})" if low != high else ""
            target = f"{row['target']}: {'met' if row['met'] else '**missed**'}" if "target" in row else ""
            note = f"; {row['note']}" if "note" in row else ""
            cells = [row["what"], row["ours"] + note, row["against"], digits(row["ratio"]) + spread, target]
            lines.append("| " + " | ".join(cells) + " |")
    machine = {f"{result['machine']}" for result in results}
    return "\n".join([*lines, "", f"Measured on {'; '.join(sorted(machine))}."])


def digits(ratio: float) -> str:
    """Three that count; near 1, what distinguishes it from 1."""
    return f"{ratio:.4f}" if abs(ratio - 1) < 0.005 else f"{ratio:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    print(table([json.loads(path.read_text()) for path in parser.parse_args().files]))


if __name__ == "__main__":
    main()
