"""The tally: what became of runs, by queue and type, until it is written to the history.

Counted in memory where the supervisor takes in what became of its jobs, and written with a settlement at most once in
`WRITE_SECONDS`. What is left when no more settlements come is written by itself once, so an idle worker writes nothing. A worker
that is killed loses what it has counted since the last time: at most `WRITE_SECONDS` of runs.

How long runs took and jobs had waited comes from what children measure for the metrics anyway, so it costs no job anything; runs
without that middleware, and those whose child was killed before it could tell, are counted and not timed.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from operator import itemgetter

from fireforget import metrics
from fireforget._claimed import QUEUE, TYPE, Row
from fireforget._history import Ended

WRITE_SECONDS = 1.0
"""How often the history is written while jobs end."""

_NEVER = float("inf")
_OURS = "fireforget:"  # what types of our own jobs begin with, such as calls of hooks
_kind_of = itemgetter(TYPE, QUEUE)
_FIELDS = Ended._fields[2:]


class Tally:
    """Counts the runs that ended since the last commit that has them; used by the supervisor's loop alone.

    `pattern_of` returns what a type is counted as: the pattern of its handler.
    """

    def __init__(self, pattern_of: Callable[[str], str]) -> None:
        self._pattern_of = pattern_of
        self._written_at = -_NEVER
        self._clear()

    def _clear(self) -> None:
        self._counts: dict[str, Counter[tuple[str, str]]] = {
            "processed": Counter(), "failed": Counter(), "retried": Counter(), "archived": Counter()
        }  # fmt: skip
        self._times: dict[tuple[str, str, str], list[float]] = {}
        """How many and how many seconds, by "run" or "wait", queue and pattern; waits are known of the queue alone."""
        self._processed = self._counts["processed"]

    def __bool__(self) -> bool:
        return bool(self._processed or self._times or self._counts["archived"])

    def count(self, rows: Iterable[Row]) -> None:
        """Count jobs that succeeded."""
        self._processed.update(map(_kind_of, rows))

    def count_failed(self, row: Row, became: str) -> None:
        """Count a job that failed and was "retried" or "archived"."""
        for what in ("processed", "failed", became):
            self._counts[what][_kind_of(row)] += 1

    def count_expired(self, row: Row) -> None:
        """Count a job that was archived without a run."""
        self._counts["archived"][_kind_of(row)] += 1

    def time(self, delta: metrics.Delta) -> None:
        """Take in how long runs took and jobs had waited, from what a child has counted."""
        for (name, labels), values in delta[1].items():
            if name == "job_duration_seconds":
                self._add_time("run", labels[1], labels[0], sum(values[:-1]), values[-1])
            elif name == "job_wait_seconds":
                self._add_time("wait", labels[0], "", sum(values[:-1]), values[-1])

    def time_run(self, queue: str, pattern: str, seconds: float) -> None:
        """Take in how long a run took whose child could not tell."""
        self._add_time("run", queue, pattern, 1, seconds)

    def _add_time(self, what: str, queue: str, pattern: str, runs: float, seconds: float) -> None:
        time = self._times.setdefault((what, queue, pattern), [0, 0.0])
        time[0] += runs
        time[1] += seconds

    @property
    def due_at(self) -> float:
        """When to write it, in monotonic seconds; infinity when there is nothing to write."""
        return self._written_at + WRITE_SECONDS if self else _NEVER

    def rows(self) -> list[Ended]:
        """Return what to add to the history, of the application's own jobs."""
        found: dict[tuple[str, str], Counter[str]] = {}
        for field, counts in self._counts.items():
            for (type, queue), number in counts.items():
                if not type.startswith(_OURS):
                    found.setdefault((queue, self._pattern_of(type)), Counter())[field] += number
        rows = [Ended(*kind, *(counts[field] for field in _FIELDS)) for kind, counts in found.items()]
        for (what, queue, pattern), (runs, seconds) in self._times.items():
            timed = Ended(queue, pattern, timed=int(runs), run_seconds=seconds)
            rows.append(timed if what == "run" else Ended(queue, "", waited=int(runs), wait_seconds=seconds))
        return rows

    def committed(self) -> None:
        """Start anew: it is in the database."""
        self._clear()
        self._written_at = time.monotonic()
