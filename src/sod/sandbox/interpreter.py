"""How a Python of our own is started: isolated, with an environment that holds nothing of the trainer's."""

import os
import sys
from pathlib import Path

ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "TZ": "UTC",
    # A program gets one core; and its memory would not hold a BLAS thread, or a heap for each thread, of many.
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}
LIBRARY_PATH = "LD_LIBRARY_PATH"
"""The one variable passed on: without it some interpreters do not find their own library."""
PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
"""The directory that holds the package `sod`: the child may have no other way to find it."""


def environment() -> dict[str, str]:
    """All the environment of a Python of ours."""
    return ENVIRONMENT | {name: os.environ[name] for name in (LIBRARY_PATH,) if name in os.environ}


def command(module: str, function: str, *arguments: str) -> list[str]:
    """The command line that calls a function of this package with the arguments.

    Not `-I`: it would ignore PYTHONHASHSEED. The environment is ours, so `-s -P` isolates as well.
    """
    code = f"import sys; sys.path.insert(0, sys.argv[1]); from {module} import {function}; {function}(*sys.argv[2:])"
    return [sys.executable, "-s", "-P", "-c", code, PACKAGE_PARENT, *arguments]


def prefixes() -> set[str]:
    """Where the interpreter and its packages are installed; two places in a virtual environment."""
    return {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}


def packages() -> list[str]:
    """The directories of `sys.path` that belong to the interpreter, and not to a project."""
    homes = tuple(f"{prefix}/lib" for prefix in prefixes())
    return [path for path in dict.fromkeys(sys.path) if path.startswith(homes)]


def forget_package() -> None:
    """Leave nothing to import but the interpreter's packages. What runs of this package goes on running."""
    sys.path[:] = packages()
    for name in [name for name in sys.modules if name.partition(".")[0] == "sod"]:
        del sys.modules[name]
