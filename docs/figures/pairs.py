"""Compare systems over all pairs of models in docs/arena: `python docs/figures/pairs.py [OUT.png]`.

Prints a table of differences from OPD and draws it. An interval of one pair is about seeds and problems with these two models.
The mean over pairs has an interval by Student's t: it is about new pairs of models in such worlds.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from sod.evaluation.intervals import mean_over_problems

ARENA = Path(__file__).parents[1] / "arena"
PAIRS = {
    "household": "household-usual",
    "household, second": "household-second",
    "household, third": "household-third",
    "shop": "shop",
    "shop, second": "shop-second",
    "maze": "maze",
    "maze, second": "maze-second",
    "maze, third": "maze-third",
}
"""File of each pair of models. All have the usual cold start."""
SYSTEMS = {"sod": "SOD", "per_error": "`per_error`", "grpo": "GRPO"}
BASELINE = "opd"
COLOURS = {"sod": "#2f5d8a", "per_error": "#b4552d", "grpo": "#6b7a90"}

Difference = tuple[float, float, float]
"""Mean, lower and upper end of a difference from OPD, in percentage points."""


def differences() -> dict[str, dict[str, Difference]]:
    """Return the difference of each system from OPD, by pair."""
    found: dict[str, dict[str, Difference]] = {}
    for name, file in PAIRS.items():
        content: dict[str, Any] = json.loads((ARENA / f"{file}.json").read_text(encoding="utf-8"))
        against = {row["system"]: row["against"][BASELINE] for row in content["rows"] if row["system"] in SYSTEMS}
        found[name] = {key: tuple(100 * each[end] for end in ("mean", "low", "high")) for key, each in against.items()}
    return found


def over_pairs(values: Iterable[float]) -> Difference:
    """Return the mean over the pairs, with its 95 % interval by Student's t."""
    mean = mean_over_problems(list(values))
    return mean.mean, mean.low, mean.high


def means_of(found: dict[str, dict[str, Difference]]) -> dict[str, Difference]:
    """Return the difference of each system from OPD over the pairs."""
    return {key: over_pairs(pair[key][0] for pair in found.values()) for key in SYSTEMS}


def shown(difference: Difference) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*difference)


def table(found: dict[str, dict[str, Difference]]) -> str:
    """Return the differences as a Markdown table."""
    lines = [
        "| pair of models | " + " | ".join(f"{name} - OPD" for name in SYSTEMS.values()) + " |",
        "|---|--:|--:|--:|",
    ]
    lines += [f"| {name} | " + " | ".join(shown(pair[key]) for key in SYSTEMS) + " |" for name, pair in found.items()]
    means = " | ".join(f"**{shown(mean)}**" for mean in means_of(found).values())
    return "\n".join([*lines, f"| mean of {len(found)} pairs | {means} |"])


def main(out: str) -> None:
    found = differences()
    print(table(found))
    beyond_grpo = over_pairs(pair["sod"][0] - pair["grpo"][0] for pair in found.values())
    print(f"SOD - GRPO, mean of {len(found)} pairs: {shown(beyond_grpo)}")
    rows = dict(found)
    rows[f"mean of {len(found)} pairs"] = means_of(found)
    _, axes = plt.subplots(figsize=(8, 0.55 * len(rows) + 1))
    for line, pair in enumerate(rows.values()):
        for place, key in enumerate(SYSTEMS):
            mean, low, high = pair[key]
            y = line + 0.22 * (place - 1)
            axes.plot([low, high], [y, y], color=COLOURS[key], linewidth=2 if line == len(found) else 1.2)
            axes.plot(
                mean, y, "o", color=COLOURS[key], markersize=5, label=SYSTEMS[key].strip("`") if not line else None
            )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axhline(len(found) - 0.5, color="#cccccc", linewidth=0.8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("solve rate minus OPD's, percentage points, with 95 % intervals")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=len(SYSTEMS), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    plt.savefig(out, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).with_suffix(".png")))
