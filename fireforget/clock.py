"""Instants and durations: wall time for what is stored, monotonic time for what is waited for.

The store keeps instants as REAL Unix seconds; people see aware datetimes in UTC. Nothing else converts between the two.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from fireforget.errors import InvalidOption

Seconds = int | float | timedelta
"""A duration: a number of seconds, or a timedelta."""

Clock = Callable[[], float]
"""Returns the wall time in Unix seconds, as `time.time` does; tests inject their own."""

_LONGEST = 1e12  # seconds, 30,000 years: far beyond it floats lose the seconds themselves
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_datetime(instant: float | None) -> datetime | None:
    """Return Unix seconds as an aware datetime in UTC; None stays None.

    Instants that a datetime cannot carry (a row written by hand) come back as its first or last second.
    """
    if instant is None:
        return None
    try:
        return datetime.fromtimestamp(instant, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC) if instant > 0 else datetime.min.replace(tzinfo=UTC)


def to_unix(option: str, instant: object) -> float:
    """Return an aware datetime as Unix seconds; raises `InvalidOption` for anything else, naive datetimes included."""
    if not isinstance(instant, datetime):
        raise InvalidOption(option, instant, "give an aware datetime, such as datetime.now(timezone.utc)")
    if instant.utcoffset() is None:
        raise InvalidOption(option, instant, "a naive datetime names no instant: give it a tzinfo, such as timezone.utc")
    return (instant - _EPOCH).total_seconds()


def to_seconds(option: str, duration: object, *, minimum: float = 0, above_minimum: bool = False) -> float:
    """Return a duration in seconds as a float.

    It must be at least `minimum`, or above it where `above_minimum` is set; raises `InvalidOption` otherwise, and for what is
    not a number of seconds or a timedelta.
    """
    value = duration.total_seconds() if isinstance(duration, timedelta) else duration
    limit = f"{'above' if above_minimum else 'at least'} {minimum:g}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LONGEST <= value <= _LONGEST:
        raise InvalidOption(option, duration, f"give seconds as an int, a float or a timedelta, {limit}")
    if value < minimum or (above_minimum and value == minimum):
        raise InvalidOption(option, duration, f"it must be {limit} seconds")
    return float(value)
