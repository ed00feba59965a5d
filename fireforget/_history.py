"""What became of runs over time: counts by minute, hour and day, of each queue and of each type in it, as workers write them.

One table, `fireforget_history`, has all three, told apart by how many seconds a row covers; rows with type "" are the sums of a
queue. A worker adds its tally to the rows of the running minute, hour and day at once, with what it writes anyway; so to thin
the history is to delete old rows, once an hour and once a day. Its size is bounded: a queue has at most `MOST_TYPES` + 2 rows for
each of the minutes, hours and days that are kept.
"""

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

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


_COLUMNS = "processed, failed, retried, archived, timed, run_seconds, waited, wait_seconds"
_SUMS = ", ".join(f"sum({column})" for column in _COLUMNS.split(", "))
_ADDED = ", ".join(f"{column} = {column} + excluded.{column}" for column in _COLUMNS.split(", "))

# In the order of `Ended`, after the span and its beginning.
ADD_TO_HISTORY = f"""
INSERT INTO fireforget_history (span, began, queue, type, {_COLUMNS})
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (span, type, queue, began) DO UPDATE SET {_ADDED}
"""

# Sums of days that are too old are added up under 0, so that totals stay whole; what they were made of is forgotten.
FOLD_DAYS = f"""
INSERT INTO fireforget_history (span, began, queue, type, {_COLUMNS})
SELECT span, 0, queue, type, {_SUMS}
FROM fireforget_history
WHERE span = :span
  AND type = ''
  AND began BETWEEN 1 AND :oldest - 1
GROUP BY span, queue, type
ON CONFLICT (span, type, queue, began) DO UPDATE SET {_ADDED}
"""
DELETE_HISTORY = "DELETE FROM fireforget_history WHERE span = :span AND began BETWEEN 1 AND :oldest - 1"

TYPES_OF_DAY = """
SELECT type
FROM fireforget_history
WHERE span = 86400
  AND type > ''
  AND queue = :queue
  AND began = :began
"""

# Type '' for all types together, queue NULL for all queues.
HISTORY = f"""
SELECT began, {_SUMS}
FROM fireforget_history
WHERE span = :span
  AND type = :type
  AND (:queue IS NULL OR queue = :queue)
  AND began >= :first
GROUP BY began
"""

HISTORY_OF_TYPES = f"""
SELECT type, {_SUMS}
FROM fireforget_history
WHERE span = :span
  AND type > ''
  AND (:queue IS NULL OR queue = :queue)
  AND began >= :first
GROUP BY type
ORDER BY sum(processed) DESC, type
"""

# What was processed by day; day 0 is what came before the days that are kept.
TOTALS = """
SELECT
    queue,
    coalesce(sum(CASE WHEN began = :today THEN processed END), 0),
    coalesce(sum(CASE WHEN began = :today THEN failed END), 0),
    sum(processed),
    sum(failed)
FROM fireforget_history
WHERE span = 86400
  AND type = ''
GROUP BY queue
"""

TOTALS_OF_QUEUE = TOTALS.replace("GROUP BY queue", "  AND queue = :queue\nGROUP BY queue")

DELETE_HISTORY_OF_QUEUE = "DELETE FROM fireforget_history WHERE queue = :queue"


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
        connection.executemany(ADD_TO_HISTORY, parameters)

    def _counted_as(self, connection: sqlite3.Connection, row: Ended) -> str:
        named = self._named.setdefault(row.queue, set())
        if row.type not in named and len(named) < MOST_TYPES:  # another worker may have brought more
            parameters = {"queue": row.queue, "began": self._day * DAY}
            named.update(type for (type,) in connection.execute(TYPES_OF_DAY, parameters) if type != OTHER)
            if len(named) < MOST_TYPES:
                named.add(row.type)
        return row.type if row.type in named else OTHER

    def _thin(self, connection: sqlite3.Connection, now: float) -> None:
        hour, day = int(now // HOUR), int(now // DAY)
        if hour == self._hour:
            return
        self._hour = hour
        for span in (MINUTE, HOUR):
            connection.execute(DELETE_HISTORY, {"span": span, "oldest": first_of(span, KEPT[span], now)})
        if day != self._day:
            self._day = day
            self._named.clear()
            oldest = {"span": DAY, "oldest": first_of(DAY, KEPT[DAY], now)}
            connection.execute(FOLD_DAYS, oldest)
            connection.execute(DELETE_HISTORY, oldest)


def first_of(span: int, count: int, now: float) -> int:
    """Return when the first of the last `count` spans begins, the running one counted, in Unix seconds."""
    return (int(now // span) - count + 1) * span
