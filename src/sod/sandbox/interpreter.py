"""Start a Python interpreter that is isolated from the trainer and its environment variables."""

import os
import sys
from pathlib import Path

ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "TZ": "UTC",
    # A program gets one core. Its memory limit has no room for many BLAS threads, or for one heap per thread.
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}
LIBRARY_PATH = "LD_LIBRARY_PATH"
"""The only variable passed on: without it some interpreters do not find their own library."""
PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
"""The directory of the package `sod`; the child may have no other way to find it."""


def environment() -> dict[str, str]:
    """Return the complete environment of the child interpreter."""
    return ENVIRONMENT | {name: os.environ[name] for name in (LIBRARY_PATH,) if name in os.environ}


def command(module: str, function: str, *arguments: str) -> list[str]:
    """Return a command line that calls a function of this package with the arguments.

    `-I` would ignore PYTHONHASHSEED. `-s -P` isolates equally well, because `environment()` sets all variables.
    """
    code = f"import sys; sys.path.insert(0, sys.argv[1]); from {module} import {function}; {function}(*sys.argv[2:])"
    return [sys.executable, "-s", "-P", "-c", code, PACKAGE_PARENT, *arguments]


def prefixes() -> set[str]:
    """Return the install prefixes of the interpreter and its packages; a virtual environment has two."""
    return {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}


def packages() -> list[str]:
    """Return the directories of `sys.path` that belong to the interpreter, not to a project."""
    homes = tuple(f"{prefix}/lib" for prefix in prefixes())
    return [path for path in dict.fromkeys(sys.path) if path.startswith(homes)]


def forget_package() -> None:
    """Make only the interpreter's packages importable. Code of this package that already runs is not affected."""
    sys.path[:] = packages()
    for name in [name for name in sys.modules if name.partition(".")[0] == "sod"]:
        del sys.modules[name]
