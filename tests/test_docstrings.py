"""The examples in docstrings are run, so that they stay right."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    ("module", "name"),
    [("sod.types", "Problem"), ("sod.types", "Piece"), ("sod.types", "Trajectory"), ("sod.batching", "Batch")],
)
def test_a_data_type_has_an_example_that_runs(module: str, name: str) -> None:
    namespace = vars(importlib.import_module(module))
    (example,) = doctest.DocTestFinder(recurse=False).find(namespace[name], name, globs=dict(namespace))
    assert len(example.examples) >= 2
    assert doctest.DocTestRunner().run(example).failed == 0
