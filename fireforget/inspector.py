"""Look into a queue: counts, ages, jobs, workers, attempts.

Reads only, each one short, so that no reader keeps the WAL from shrinking.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fireforget import _db, _sql
from fireforget._schema import STATE_OF_NUMBER
from fireforget.clock import to_datetime
from fireforget.errors import UnknownJob
from fireforget.queue_sqlite import SqliteQueue, find_job, info_of
from fireforget.task import State, TaskInfo


@dataclass(frozen=True)
class QueueStats:
    """One queue as it is now."""

    name: str
    counts: dict[State, int]
    """How many jobs are in each state, zeros included."""
    latency: float
    """Seconds that the oldest pending job has been due; 0 when none is pending."""
    paused: bool

    @property
    def size(self) -> int:
        """All jobs stored, in whatever state."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class WorkerInfo:
    """One worker that has signed in; one that was killed stands here until the next one takes over from it."""

    name: str
    host: str
    pid: int
    queues: dict[str, int]
    concurrency: int
    threads: int
    started_at: datetime
    active: int
    """Jobs in its hands: running, or about to."""


@dataclass(frozen=True)
class Attempt:
    """One failed run of a job."""

    number: int
    started_at: datetime
    duration: float
    """Seconds."""
    worker: str
    error: str
    traceback: str | None


class Inspector:
    """Reads the state of a queue. Safe to share between threads; raises `StoreError`s."""

    def __init__(self, queue: SqliteQueue) -> None:
        self._queue = queue

    def queues(self) -> list[QueueStats]:
        """Return every queue that has jobs or was paused, by name."""
        with _db.translated(self._queue.path):
            connection = self._queue._database.connection()
            counted = connection.execute(_sql.COUNT_JOBS).fetchall()
            oldest = dict(connection.execute(_sql.OLDEST_DUE).fetchall())
            paused = dict(connection.execute(_sql.QUEUES).fetchall())
        counts: dict[str, dict[State, int]] = {name: dict.fromkeys(State, 0) for name in paused}
        for name, number, jobs in counted:
            counts.setdefault(name, dict.fromkeys(State, 0))[STATE_OF_NUMBER[number]] += jobs
        now = self._queue._clock()
        return [
            QueueStats(
                name,
                by_state,
                max(0.0, now - oldest[name]) if name in oldest else 0.0,
                paused.get(name) is not None,
            )
            for name, by_state in sorted(counts.items())
        ]

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that have signed in, oldest first."""
        with _db.translated(self._queue.path):
            rows = self._queue._database.connection().execute(_sql.WORKERS_AND_LOAD).fetchall()
        return [
            WorkerInfo(name, host, pid, json.loads(queues), concurrency, threads, _instant(started_at), active)
            for name, host, pid, queues, concurrency, threads, started_at, active in rows
        ]

    def task(self, job_id: str) -> TaskInfo:
        """Return one job; raises `UnknownJob` when none is stored under this id."""
        return self._queue.get(job_id)

    def attempts(self, job_id: str) -> list[Attempt]:
        """Return the failed runs of a job, first to last; raises `UnknownJob`."""
        return [
            Attempt(number, _instant(started_at), duration, worker, error, traceback)
            for number, started_at, duration, worker, error, traceback in self._rows_of(job_id)
        ]

    def _rows_of(self, job_id: str) -> list[tuple[Any, ...]]:
        with _db.translated(self._queue.path):
            connection = self._queue._database.connection()
            row = find_job(connection, job_id, self._queue._tag)
            if row is None:
                raise UnknownJob(job_id)
            return connection.execute(_sql.ATTEMPTS, {"n": row[0]}).fetchall()

    def tasks(
        self, state: State | str, *, queue: str | None = None, limit: int = 100, after: str | None = None
    ) -> list[TaskInfo]:
        """Return jobs of a state in the order in which they were enqueued.

        `queue` narrows it to one; `limit` is the most to return; `after` is the id of the last job of the page before. Raises
        `ValueError` for an unknown state, `UnknownJob` for an `after` that is gone.
        """
        with _db.translated(self._queue.path):
            connection = self._queue._database.connection()
            since = 0
            if after is not None:
                row = find_job(connection, after, self._queue._tag)
                if row is None:
                    raise UnknownJob(after)
                since = row[0]
            parameters = {"state": _sql.number_of(State(state)), "queue": queue, "after": since, "limit": limit}
            rows = connection.execute(_sql.JOBS_OF_STATE, parameters).fetchall()
        return [info_of(row, self._queue._tag) for row in rows]


def _instant(seconds: float) -> datetime:
    instant = to_datetime(seconds)
    assert instant is not None
    return instant
