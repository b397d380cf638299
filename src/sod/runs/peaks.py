"""How much memory a phase needed at its height."""

import sys
from contextlib import suppress
from pathlib import Path

import torch


def take_peak_mb() -> float | None:
    """Most memory in use since this was last asked, in MiB: the GPU's if there is one, this process's otherwise. None where
    the system does not tell (not Linux, or a kernel that does not let a process reset its own mark)."""
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
