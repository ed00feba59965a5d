"""Instants on their way into the store and back."""

from datetime import UTC, datetime

import pytest

from fireforget.clock import to_datetime, to_unix


@pytest.mark.parametrize("microsecond", [0, 1, 123457, 999999])
def test_an_instant_comes_back_to_the_microsecond(microsecond):
    """What a caller gave as a deadline is what the handler reads."""
    instant = datetime(2031, 3, 4, 5, 6, 7, microsecond, tzinfo=UTC)
    assert to_datetime(to_unix("deadline", instant)) == instant


@pytest.mark.parametrize("seconds", [1e300, -1e300, float("inf"), float("-inf")])
def test_an_instant_that_no_calendar_has_can_still_be_looked_at(seconds):
    """A row that was written by hand does not break who lists it."""
    assert to_datetime(seconds).year in (1, 9999)
