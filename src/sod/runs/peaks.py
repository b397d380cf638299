"""Measure the peak memory of a phase."""

import sys
from contextlib import suppress
from pathlib import Path

import torch


def take_peak_mb() -> float | None:
    """Return the peak memory since the last call, in MiB: of the GPU, or of this process without one.

    Return None if it cannot be measured: not on Linux, or the kernel does not allow a process to reset its peak.
    """
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        return peak
    if sys.platform == "linux":
        with suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10
            Path("/proc/self/clear_refs").write_text("5")
            return peak
    return None
