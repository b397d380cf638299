"""Import packages in less time.

An import creates many objects, and nearly all of them stay. The garbage collector examines them again and again: a sixth of
the time in which a command starts.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected(*, freeze: bool) -> Iterator[None]:
    """Disable the garbage collector, and enable it at the end if it was enabled before.

    `freeze`: later collections ignore all objects that exist at the end, so they are fast, and forks share the memory pages.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if freeze:
            gc.freeze()
        if enabled:
            gc.enable()
