"""Reads the history that workers write: points by minute, hour or day, and the sums of each type."""

from fireforget import _history
from fireforget._inspect_access import Access, instant
from fireforget._inspect_facts import HistoryPoint
from fireforget.errors import InvalidOption

DEFAULT_DAYS = 10
_SPANS = {"days": _history.DAY, "hours": _history.HOUR, "minutes": _history.MINUTE}


def points(access: Access, queue: str | None, type: str | None, **counts: int | None) -> list[HistoryPoint]:
    """Return as many points as `counts` says of days, hours or minutes, the running one first."""
    span, count = _span_and_count(counts)
    first = _history.first_of(span, count, access.now())
    parameters = {"span": span, "queue": queue, "type": type or "", "first": first}
    with access.reading() as connection:
        found = {began: sums for began, *sums in connection.execute(_history.HISTORY, parameters)}
    moments = range(first + (count - 1) * span, first - 1, -span)
    return [HistoryPoint(instant(moment), span, *found.get(moment, ())) for moment in moments]


def sums_of_types(access: Access, queue: str | None, **counts: int | None) -> dict[str, HistoryPoint]:
    """Return the sums of each type over the time that `counts` names, the most frequent type first."""
    span, count = _span_and_count(counts)
    first = _history.first_of(span, count, access.now())
    with access.reading() as connection:
        rows = connection.execute(_history.HISTORY_OF_TYPES, {"span": span, "queue": queue, "first": first}).fetchall()
    return {type: HistoryPoint(instant(first), span * count, *sums) for type, *sums in rows}


def _span_and_count(counts: dict[str, int | None]) -> tuple[int, int]:
    given = {name: count for name, count in counts.items() if count is not None} or {"days": DEFAULT_DAYS}
    (name, count), *more = given.items()
    if more:
        raise InvalidOption(name, count, f"give days, hours or minutes, not {name} and {more[0][0]}")
    most = _history.KEPT[_SPANS[name]]
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise InvalidOption(name, count, f"give a number of {name} from 1 to {most}")
    return _SPANS[name], count
