"""The tally: how many runs ended, by queue, until it is written to the history of days.

Counted in memory where the supervisor takes in what became of its jobs, and written with a settlement at most once in
`WRITE_SECONDS`. What is left when no more settlements come is written by itself once, so an idle worker writes nothing. A worker
that is killed loses what it has counted since the last time: at most `WRITE_SECONDS` of runs.
"""

import time
from collections import Counter
from collections.abc import Iterable
from operator import itemgetter
from typing import Any

WRITE_SECONDS = 1.0
"""How often the history is written while jobs end."""

_NEVER = float("inf")
_OURS = "fireforget:"  # what types of our own jobs begin with, such as calls of hooks
_kind_of = itemgetter(2, 3)  # type and queue in `_sql.CLAIMED_COLUMNS`


class Tally:
    """Counts the runs that ended since the last commit that has them; used by the supervisor's loop alone."""

    def __init__(self) -> None:
        self._ended: Counter[tuple[str, str]] = Counter()
        self._failed: Counter[tuple[str, str]] = Counter()
        self._written_at = -_NEVER

    def __bool__(self) -> bool:
        return bool(self._ended)

    def count(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Count jobs that succeeded."""
        self._ended.update(map(_kind_of, rows))

    def count_failed(self, row: tuple[Any, ...]) -> None:
        """Count a job that failed."""
        self._ended[_kind_of(row)] += 1
        self._failed[_kind_of(row)] += 1

    @property
    def due_at(self) -> float:
        """When to write it, in monotonic seconds; infinity when there is nothing to write."""
        return self._written_at + WRITE_SECONDS if self._ended else _NEVER

    def rows(self) -> list[tuple[str, int, int]]:
        """Return (queue, processed, failed) of the application's own jobs."""
        found: dict[str, tuple[int, int]] = {}
        for kind, ended in self._ended.items():
            if not kind[0].startswith(_OURS):
                before, failed = found.get(kind[1], (0, 0))
                found[kind[1]] = (before + ended, failed + self._failed[kind])
        return [(queue, ended, failed) for queue, (ended, failed) in found.items()]

    def committed(self) -> None:
        """Start anew: it is in the database."""
        self._ended, self._failed = Counter(), Counter()
        self._written_at = time.monotonic()
