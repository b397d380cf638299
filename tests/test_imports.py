"""The garbage collector during imports."""

import gc

import pytest

from sod.processes.imports import uncollected


def test_the_collector_is_off_during_imports_and_on_afterwards() -> None:
    with uncollected(freeze=False):
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), uncollected(freeze=False):
        raise ImportError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with uncollected(freeze=False):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_exists_after_imports_can_be_exempt_from_collections() -> None:
    before = gc.get_freeze_count()
    loop: list[object] = []
    loop.append(loop)
    with uncollected(freeze=True):
        pass
    try:
        assert gc.get_freeze_count() > before
        assert all(each is not loop for each in gc.get_objects())
    finally:
        gc.unfreeze()
