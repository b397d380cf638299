"""The paper's three patterns."""

import pytest

from sod.runs.patterns import pattern


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1.0, 1.1, 1.2, 1.15], "stable"),  # the paper's examples
        ([1.00, 0.73, 0.56, 0.30, 0.17], "erroneous"),
        ([1.00, 0.73, 0.56, 0.41, 0.76, 1.12, 1.20], "recovery"),
        ([1.0, 0.5], "stable"),
        ([1.0, 0.2], "erroneous"),
        ([1.0, 0.6, 0.1, 1.2], "erroneous"),  # the last step states the answer
        ([1.0, 0.1, 0.7, 0.7], "recovery"),
        ([1.0], None),
        ([], None),
    ],
)
def test_a_worked_example_of_each_pattern(weights: list[float], expected: str | None) -> None:
    assert pattern(weights) == expected
