"""Whether this machine's kernel can confine programs. Asked of the kernel alone, so that no fault of ours skips a test."""

import sys

import pytest

from sod.sandbox import landlock


def _kernel_has_landlock() -> bool:
    try:
        return sys.platform == "linux" and landlock.version() > 0
    except OSError:
        return False


CONFINABLE = _kernel_has_landlock()
needs_confinement = pytest.mark.skipif(not CONFINABLE, reason="the kernel has no Landlock")
