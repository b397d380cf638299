"""The reference material, which is no part of the repository: golden cases and public data sets."""

import os
from pathlib import Path

import pytest


def shared(name: str) -> Path:
    """A file of it; the test that asks is skipped where it is not there."""
    path = Path(os.environ.get("SOD_SHARED", Path(__file__).parents[2] / "shared")) / name
    if not path.exists():
        pytest.skip(f"{path} is not there; SOD_SHARED names the folder that has it")
    return path
