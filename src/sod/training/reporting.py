"""What a training run shows of an update: its line on the screen, and the time and memory of each phase."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sod.console.progress import LEGEND, fitted
from sod.runs.peaks import take_peak_mb

EXPLAINED = f"{LEGEND}tool calls and errors a trajectory; d: nats from teacher; w: step weight"


@dataclass
class Clock:
    """Wall-clock seconds and peak memory of each named phase of an update."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        take_peak_mb()
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if (peak := take_peak_mb()) is not None:
            self.peak_mb[name] = max(peak, self.peak_mb.get(name, 0.0))


def line_of(update: int, updates: int, report: dict[str, float], room: int | None) -> str:
    """Return the update's metrics as a line of at most `room` characters, the most important ones first."""
    parts = [
        (9, f"update {update:>{len(str(updates))}}/{updates}"),
        (9, f"solved {report['rollout/solved']:4.0%}"),
        (4, f"reward {report['rollout/reward']:+.2f}"),
        (8, f"calls {report['tools/calls']:.1f}"),
        (5, f"errors {report['tools/errors']:.1f}"),
    ]
    if "guided/turns" in report:
        parts.append((4, f"guided {report['guided/turns']:.1f}"))
    if "steps/d" in report:
        parts.append((7, f"d {report['steps/d']:.2f}"))
    if "steps/w_after_first" in report:
        parts.append((6, f"w {report['steps/w_after_first']:.2f}"))
    parts += [
        (2, f"entropy {report['learn/entropy']:.2f}"),
        (1, f"{report['speed/tokens_per_second']:,.0f} tok/s"),
        (3, f"{report['seconds/update']:.1f} s"),
        (0, f"epoch {report['rollout/epochs']:.1f}"),
    ]
    return fitted(parts, room)
