"""What became of runs over time: counts by minute, hour and day, of each queue and of each type in it, as workers write them.

One table, `fireforget_history`, has all three, told apart by how many seconds a row covers; rows with type "" are the sums of a
queue. A worker adds its tally to the rows of the running minute, hour and day at once, with what it writes anyway; so to thin
the history is to delete old rows, once an hour and once a day. Its size is bounded: a queue has at most `MOST_TYPES` + 2 rows for
each of the minutes, hours and days that are kept.
"""

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from fireforget import _sql

MINUTE, HOUR, DAY = 60, 3600, 86400
KEPT = {MINUTE: 180, HOUR: 168, DAY: 90}
"""How many minutes, hours and days are kept; older days are added up, so that totals stay whole."""
MOST_TYPES = 50
"""How many types of a queue have rows of their own on one day: the first that come, so the frequent ones."""
OTHER = "(other)"
"""What the types beyond these are counted as."""


class Ended(NamedTuple):
    """Runs of one queue and type that ended; type "" has what is known of the queue alone."""

    queue: str
    type: str
    processed: int = 0
    failed: int = 0
    retried: int = 0
    archived: int = 0
    timed: int = 0
    run_seconds: float = 0.0
    waited: int = 0
    wait_seconds: float = 0.0


class History:
    """Writes the history for one worker, inside its open transactions."""

    def __init__(self) -> None:
        self._hour = self._day = -1
        self._named: dict[str, set[str]] = {}
        """By queue: the types that have rows of their own today."""

    def add(self, connection: sqlite3.Connection, rows: Iterable[Ended], now: float) -> None:
        """Add runs to the history of this minute, hour and day, and delete what has become too old."""
        self._thin(connection, now)
        parameters = []
        for row in sorted(rows, key=lambda row: -row.processed):
            types = ("", self._counted_as(connection, row)) if row.type else ("",)
            parameters += [(span, first_of(span, 1, now), row.queue, type, *row[2:]) for type in types for span in KEPT]
        connection.executemany(_sql.ADD_TO_HISTORY, parameters)

    def _counted_as(self, connection: sqlite3.Connection, row: Ended) -> str:
        named = self._named.setdefault(row.queue, set())
        if row.type not in named and len(named) < MOST_TYPES:  # another worker may have brought more
            parameters = {"queue": row.queue, "began": self._day * DAY}
            named.update(type for (type,) in connection.execute(_sql.TYPES_OF_DAY, parameters) if type != OTHER)
            if len(named) < MOST_TYPES:
                named.add(row.type)
        return row.type if row.type in named else OTHER

    def _thin(self, connection: sqlite3.Connection, now: float) -> None:
        hour, day = int(now // HOUR), int(now // DAY)
        if hour == self._hour:
            return
        self._hour = hour
        for span in (MINUTE, HOUR):
            connection.execute(_sql.DELETE_HISTORY, {"span": span, "oldest": first_of(span, KEPT[span], now)})
        if day != self._day:
            self._day = day
            self._named.clear()
            oldest = {"span": DAY, "oldest": first_of(DAY, KEPT[DAY], now)}
            connection.execute(_sql.FOLD_DAYS, oldest)
            connection.execute(_sql.DELETE_HISTORY, oldest)


def first_of(span: int, count: int, now: float) -> int:
    """Return when the first of the last `count` spans begins, the running one counted, in Unix seconds."""
    return (int(now // span) - count + 1) * span
