"""The time left of a job: estimated, then measured."""

from sod.console.progress import Pace


def test_the_time_left_is_estimated_until_a_part_is_done_and_measured_from_then_on() -> None:
    pace = Pace(total=10, done=2, now=100.0)
    assert pace.left(105.0) is None
    pace.expect(60.0)
    assert pace.left(100.0) == 8 * 60
    assert pace.left(130.0) == 8 * 60 - 30
    assert pace.left(200.0) == 8 * 100 - 100  # the first part is slower than estimated
    pace.mark(3, 220.0)
    assert pace.left(220.0) == 7 * 120
    pace.mark(4, 250.0)
    assert pace.left(250.0) == 6 * 75


def test_without_an_estimate_two_parts_must_be_done() -> None:
    pace = Pace(total=4, done=0, now=0.0)
    pace.mark(1, 10.0)
    assert pace.left(10.0) is None
    pace.mark(2, 14.0)
    assert pace.left(14.0) == 2 * 7
