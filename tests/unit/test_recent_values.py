"""A percentile of the last values, without sorting them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.recent import RecentValues


@given(st.lists(st.floats(allow_nan=False), max_size=50), st.integers(1, 20))
def test_it_is_the_last_values_in_order(values: list[float], most: int) -> None:
    recent = RecentValues(most)
    for value in values:
        recent.add(value)
    assert len(recent) == len(values[-most:])
    assert [recent.below(index) for index in range(len(recent))] == sorted(values[-most:])


def test_of_nothing_there_is_none() -> None:
    with pytest.raises(IndexError):
        RecentValues(3).below(0)
