"""Draw what `make demo` left behind: python examples/plot_demo.py runs/demo demo.png"""

import json
import sys
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt

COLOURS = {"sod": "#1f6fb4", "opd": "#c2571a", "grpo": "#3a8f4d", "sham": "#888888"}


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def smooth(values: list[float], width: int = 5) -> list[float]:
    return [fmean(values[max(0, i - width + 1) : i + 1]) for i in range(len(values))]


def by_step(trajectories: list[dict], key: str, failed: bool) -> list[float]:
    """Mean of d or w at each step, over trajectories with or without a tool error; steps seen 10 times or more."""
    chosen = [t for t in trajectories if any(o != "ok" for p in t["pieces"] for o in p.get("outcomes", ())) == failed]
    columns = [[t["steps"][k][key] for t in chosen if len(t["steps"]) > k] for k in range(9)]
    return [fmean(column) for column in columns if len(column) >= 10]


def main(run: Path, out: Path) -> None:
    figure, (curve, d, w) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for method, colour in COLOURS.items():
        if (run / method / "metrics.jsonl").exists():
            metrics = rows(run / method / "metrics.jsonl")
            solved = [100 * row["rollout/solved"] for row in metrics]
            curve.plot([row["update"] for row in metrics], smooth(solved), color=colour, label=method)
    curve.set(title="Solved while learning (mean of 5 updates)", xlabel="update", ylabel="%", ylim=(0, 100))
    trajectories = rows(run / "before" / "trajectories" / "update-0000.jsonl")
    for failed, colour in ((False, "#3a8f4d"), (True, "#b03030")):
        label = "with a tool error" if failed else "without"
        for axes, key in ((d, "d"), (w, "w")):
            values = by_step(trajectories, key, failed)
            axes.plot(range(1, len(values) + 1), values, "o-", color=colour, label=label)
    d.set(title="Before: divergence from the teacher by step", xlabel="step", ylabel="nats")
    w.set(title="Before: step weight w", xlabel="step", ylim=(0, 1.25))
    for axes in (curve, d):
        axes.legend(frameon=False)
    for axes in (curve, d, w):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
