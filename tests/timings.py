"""Metrics that differ from run to run, because they are times or sizes of memory."""

TIMINGS = ("seconds/", "speed/", "waited/", "memory/", "sandbox/seconds")


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics that are equal whenever a run is repeated."""
    return {name: value for name, value in metrics.items() if not name.startswith(TIMINGS)}
