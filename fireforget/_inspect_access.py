"""How an `Inspector` reads and writes the store: short reads, one write transaction a change, and finding a job by its id."""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from typing import Any

from fireforget import _db, _dependencies
from fireforget._rows import get_job, info_of, parse_generated
from fireforget._schema import STATE_OF_NUMBER
from fireforget.clock import to_datetime
from fireforget.errors import JobActive, StoreError, WrongState
from fireforget.queue_sqlite import SqliteQueue
from fireforget.task import State, TaskInfo

Connection = Any
"""A `sqlite3.Connection`; only the store knows SQLite by its name."""

_BREATH = 0.002  # seconds between two transactions in which workers and producers get their turn

STATE, PRIORITY, DUE = 5, 8, 15  # in `_sql.JOB_COLUMNS`


class Access:
    """One queue's file as an inspector uses it; safe to share between threads."""

    def __init__(self, queue: SqliteQueue) -> None:
        self._database = queue._database
        self.tag = queue._tag
        self.now = queue._clock
        self.max_payload = queue._max_payload
        self.patience = _db.DEFAULT_PATIENCE
        """Seconds to wait for the write lock."""

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Run a block that reads; raises `StoreError`s. Keep it short: a long reader keeps the WAL from shrinking."""
        with self._database.use() as connection:
            yield connection

    @contextmanager
    def changing(self) -> Iterator[Connection]:
        """Run a block in one write transaction; raises `StoreError`s, and then nothing of it happened.

        Jobs that wait for those that it ends are told in the same transaction. Where they are many, the rest is told in others
        after it; where those cannot be had, by the next worker.
        """
        with self._transaction() as connection:
            yield connection
            more = _dependencies.spread(connection, self.now()).more
        with suppress(StoreError):
            while more:
                time.sleep(_BREATH)
                with self._transaction() as connection:
                    more = _dependencies.spread(connection, self.now()).more

    def _transaction(self) -> AbstractContextManager[Connection]:
        return _db.changing(self._database, self.patience, self._after_commit)

    def _after_commit(self, connection: Connection) -> None:
        database = self._database
        database.check_identity()
        if _db.wal_size(database.path) > _db.WORKER_WAL_BYTES:  # little at a time: it holds up writers
            _db.checkpoint(connection, database.path)

    # --- one job --------------------------------------------------------------------------------------------------------

    def number_of(self, job_id: str) -> int:
        """Return the number of a job, which need not be stored any more unless its id was the caller's own."""
        generated = parse_generated(job_id, self.tag)
        if generated is not None:
            return generated[0]
        with self.reading() as connection:
            return int(self.find(connection, job_id)[0])

    def find(self, connection: Connection, job_id: str) -> tuple[Any, ...]:
        """Return the row of a job; raises `UnknownJob`."""
        return get_job(connection, job_id, self.tag)

    def find_in(
        self, connection: Connection, job_id: str, allowed: frozenset[State], remedies: Mapping[State, str]
    ) -> tuple[Any, ...]:
        """Return a job in one of the allowed states; raises `UnknownJob`, `JobActive` or `WrongState` with the remedy."""
        row = self.find(connection, job_id)
        state = state_of(row)
        if state not in allowed:
            raise (JobActive if state is State.ACTIVE else WrongState)(job_id, state, remedies[state])
        return row

    def info(self, connection: Connection, job_id: str) -> TaskInfo:
        """Return a job; raises `UnknownJob`."""
        return info_of(self.find(connection, job_id), self.tag)


def state_of(row: tuple[Any, ...]) -> State:
    """Return the state in a row of `_sql.JOB_COLUMNS`."""
    return STATE_OF_NUMBER[row[STATE]]


def instant(seconds: float) -> datetime:
    """Return Unix seconds as an instant in UTC."""
    moment = to_datetime(seconds)
    assert moment is not None
    return moment
