"""Parts of answers that several resources share."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from cml_nova.api.views import iso, seconds


@given(st.floats(0, 4e9))
@example(1764450000.3449998)  # rounds up to microseconds
@example(1764450000.345)  # as a double less than that
def test_a_time_as_told_is_never_later_and_less_than_a_millisecond_earlier(at: float) -> None:
    told = seconds("at", iso(at))
    assert told <= at < told + 0.0010001
