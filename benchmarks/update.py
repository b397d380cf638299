"""One SOD update in the lab: 64 trajectories of at most 256 tokens, and where its time goes.

    python benchmarks/update.py [--student DIR] [--updates 6]

Without --student, the lab's teacher learns from itself: a network 2.7 times larger than the lab's student, whose
trajectories are the real thing. The first update warms caches and is not counted.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

from sod.config import LabOptions, TrainOptions
from sod.lab import settings
from sod.lab.make import make
from sod.train import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", type=Path)
    parser.add_argument("--updates", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lab = make(LabOptions(out=Path(folder), demonstrations=1, train_problems=64, eval_problems=1))
        files = {"student": options.student or lab / "teacher", "teacher": lab / "teacher"}
        files |= {"data": lab / "train.jsonl", "out": lab / "run"}
        limits = settings.ROLLOUT | {
            "problems": 8,
            "group": 8,
            "max_tokens": 256 - settings.ROLLOUT["max_prompt_tokens"],
        }
        recipe = settings.TRAIN | files | {"rollout": limits, "sandbox": {"workers": 4}}
        recipe |= {"updates": options.updates, "save_every": options.updates}
        rows = train(TrainOptions.model_validate(recipe)).metrics()[1:]
    seconds = {name: median(row[f"seconds/{name}"] for row in rows) for name in ("update", *PHASES)}
    result = {
        "trajectories": 64,
        "tokens_per_trajectory": median(row["rollout/tokens"] for row in rows),
        "seconds_per_update": seconds["update"],
        "spread": [min(row["seconds/update"] for row in rows), max(row["seconds/update"] for row in rows)],
        "share": {name: round(seconds[name] / seconds["update"], 3) for name in PHASES},
        "tokens_sampled_per_second": median(row["speed/tokens_per_second"] for row in rows),
    }
    print(json.dumps(result, indent=2))


PHASES = ("generate", "score", "waiting", "learn")

if __name__ == "__main__":
    main()
