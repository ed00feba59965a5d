"""The durable queue: an SQLite file that takes tasks and keeps jobs.

What lives here is the producer's side (`enqueue` and its kin), reading one job, and waiting for one. What a worker does with the
file (claiming, settling, recovery) is in `_claims`, the statements in `_sql`, the tables in `_schema`, connections in `_db`.

How a task becomes durable::

    enqueue ─ check options ─ row ─┐
                                   ├─ GroupCommit ─ one transaction on the calling thread's own connection ─ TaskInfo
    enqueue from other threads ────┘  (`_group_commit`)  (`_inserting`)                                      (`_rows`)

A lone caller writes at once. Callers that come while another one writes wait together, and the first of them writes for all:
one commit, one sync of the disk. Nobody serves others for longer than one batch.
"""

import os
import random
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fireforget import _db, _dependencies, _schedules, _sql
from fireforget import payload as json_payload
from fireforget._context import with_passed_headers
from fireforget._group_commit import GroupCommit
from fireforget._groups import DELETE_MEMBERS, MEMBERS
from fireforget._inserting import insert_all, insert_one
from fireforget._rows import Row, fields_of_new, find_job, get_job, info_of, parse_generated, plain_cursor, tag_of, unique_key_of
from fireforget._schema import STATE_OF_NUMBER, migrate
from fireforget.clock import Clock, Seconds, to_seconds
from fireforget.errors import (
    DuplicateTask,
    InvalidOption,
    InvalidPayload,
    InvalidTask,
    TaskIDConflict,
)
from fireforget.task import (
    DEFAULT_MAX_RETRY,
    DEFAULT_QUEUE,
    DEFAULT_TIMEOUT,
    State,
    Task,
    TaskInfo,
    check_call_options,
    check_task,
    check_tasks,
    check_unique,
    merge_options,
)

if TYPE_CHECKING:
    from fireforget._backup import Backup

DEFAULT_WAIT = 5.0
"""Seconds that a call waits for the write lock when it does not say."""
DEFAULT_MAX_PAYLOAD = 1024 * 1024
"""Bytes of JSON that a payload may have."""
_SETTLED = frozenset({State.COMPLETED, State.ARCHIVED, State.CANCELLED})

_nonces = random.Random()  # they only have to differ from the few ids that a rollback gave away
_new_nonce = _nonces.getrandbits
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_nonces.seed)


class _Transaction(Protocol):
    """The transaction of a transactional handler (`_effects`, which builds on what is here)."""

    def takes(self, path: str) -> bool:
        """Return whether what this thread enqueues into the file at `path` is part of it."""

    def changing(self) -> AbstractContextManager[sqlite3.Connection]:
        """Run a block in it, on its connection."""


transaction: ContextVar[_Transaction] = ContextVar("fireforget_transaction")
"""Set while a transactional handler runs: what it enqueues into its own file is part of its transaction."""


class Intake:
    """What enqueuers of ours have in common: they check tasks alike and answer alike, whatever they write the rows to.

    `max_payload` is the largest payload in bytes of JSON, `clock` returns Unix seconds, `_tag` is in every generated id, and the
    jobs are in `_database`.
    """

    _tag: str
    _database: _db.Database

    def __init__(self, max_payload: int, clock: Clock) -> None:
        if isinstance(max_payload, bool) or not isinstance(max_payload, int) or max_payload < 1:
            raise InvalidOption("max_payload", max_payload, "give a number of bytes above 0")
        self._max_payload = max_payload
        self._clock = clock

    def _row(self, task: Task, overriding: dict[str, Any], now: float) -> Row:
        options = merge_options(task.options, overriding) if overriding else task.options
        payload = self._checked_payload(task)
        get = options.get
        due = now + get("process_in", 0.0) if "process_at" not in options else options["process_at"]
        deadline = get("deadline")
        queue = get("queue", DEFAULT_QUEUE)
        unique_for = get("unique_for")
        if unique_for is None:
            check_unique(options)
        headers = with_passed_headers(get("headers"))
        group = get("group")
        if group is not None and due > now:
            raise InvalidOption("group", group, "a member of a group has no delay of its own: the group says when it is complete")
        after = get("after")
        if after and group is not None:
            raise InvalidOption("group", group, "a member of a group waits for the group alone: leave out either group or after")
        task_id = get("task_id")
        if task_id is not None:
            self._check_task_id(task_id)
        row: Row = {
            "nonce": _new_nonce(32),
            "task_id": task_id,
            "type": task.type,
            "queue": queue,
            "state": _sql.AGGREGATING if group is not None else _sql.PENDING if due <= now else _sql.SCHEDULED,
            "priority": get("priority", 0),
            "due": due,
            "payload": payload,
            "headers": json_payload.encode(headers) if headers else None,
            "max_retry": get("max_retry", DEFAULT_MAX_RETRY),
            "timeout": get("timeout", DEFAULT_TIMEOUT if deadline is None else None),
            "deadline": deadline,
            "retention": get("retention", 0.0),
            "enqueued_at": now,
            "unique_key": None if unique_for is None else unique_key_of(get("unique_key"), queue, task.type, payload),
            "unique_until": None if unique_for is None else now + unique_for,
            "group_name": group,
            "linked": None,
            "limit_key": get("limit_key"),
        }
        if after:
            row["after"] = after
            row["linked"] = _sql.RUNS_ANYWAY if get("after_failure") == "run" else 0
        return row

    def _checked_payload(self, task: Task) -> str | None:
        payload = task.payload_json
        if payload is not None and json_payload.size_of(payload) > self._max_payload:
            raise InvalidPayload(
                f"the payload of {task.type!r} has {json_payload.size_of(payload)} bytes of JSON and max_payload is "
                f"{self._max_payload}: store the data elsewhere and pass a reference, or raise max_payload"
            )
        return payload

    def _check_task_id(self, task_id: str) -> None:
        if parse_generated(task_id, self._tag):
            raise InvalidOption("task_id", task_id, "this looks like an id that the queue generates: choose another form")

    def _rows(self, tasks: Iterable[Task], overriding: dict[str, Any], now: float) -> list[Row]:
        """Return the rows of tasks that are stored together. Most often neighbours differ in their payloads alone."""
        rows: list[Row] = []
        tasks = check_tasks(tasks)
        like: Task | None = None
        wait = False
        for index, task in enumerate(tasks):
            try:
                if like is not None and check_task(task).type == like.type and task.options == like.options:
                    row = {**rows[-1], "nonce": _new_nonce(32), "payload": self._checked_payload(task)}
                else:
                    row = self._row(check_task(task), overriding, now)
                    wait = wait or row["linked"] is not None
                    like = task if row["unique_key"] is None and row["task_id"] is None and row["linked"] is None else None
                rows.append(row)
            except InvalidTask as error:
                error.index = index
                raise
        if wait:
            self._find_beside(tasks, rows)
        return rows

    @staticmethod
    def _find_beside(tasks: Sequence[Task], rows: list[Row]) -> None:
        """Turn the tasks that rows are to wait for into the rows' positions: they are the very objects, not equal ones."""
        positions: dict[int, list[int]] = {}
        for position, task in enumerate(tasks):
            positions.setdefault(id(task), []).append(position)
        for index, row in enumerate(rows):
            if row["linked"] is None:
                continue
            needs: list[str | int] = []
            for need in row["after"]:
                if isinstance(need, Task) and id(need) not in positions:
                    error = InvalidOption("after", need, "this task is not among those of this call: give the id of its job")
                    error.index = index
                    raise error
                needs += positions[id(need)] if isinstance(need, Task) else [need]
            row["after"] = needs

    def _stored(self, row: Row, n: int) -> TaskInfo:
        return TaskInfo._when_read(fields_of_new, row, n, self._tag)

    # --- jobs that wait for others ------------------------------------------------------------------------------------

    def _needs_of(self, n: int) -> list[tuple[str, State | None, str | None, Any]]:
        """Return (id, how it ended, why it failed, result) of the jobs that a job waits for, in the order of its `after`."""
        with self._database.use() as connection:
            rows = connection.execute(_dependencies.WAITS_FOR, {"n": n}).fetchall()
        return [
            (need, None if outcome is None else STATE_OF_NUMBER[outcome], reason, json_payload.decode_leniently(result))
            for need, outcome, reason, _, result in rows
        ]

    # --- groups -------------------------------------------------------------------------------------------------------

    def _members(self, job_id: str) -> list[TaskInfo]:
        """Return the members of the group that a job aggregates, in the order in which they were enqueued."""
        with self._database.use() as connection:
            rows = connection.execute(MEMBERS, {"batch": self._batch_of(job_id)}).fetchall()
        return [info_of(row, self._tag) for row in rows]

    def _batch_of(self, job_id: str) -> int | None:
        """Return the number of a job, which is its members' batch; None for one that no worker of ours has made."""
        generated = parse_generated(job_id, self._tag)
        return None if generated is None else generated[0]

    def _replace_members(self, job_id: str, size: int, task: Task, queue: str) -> TaskInfo | None:
        """Replace the members that a job aggregates by one task, in one transaction; None, and nothing done, unless they are
        `size`.
        """
        overriding = {} if "queue" in task.options else {"queue": queue}
        row = self._row(task, overriding, self._clock())
        with _db.translated(self._database.path), _db.begun(self._database, DEFAULT_WAIT) as connection:
            try:
                if connection.execute(DELETE_MEMBERS, {"batch": self._batch_of(job_id)}).rowcount != size:
                    _db.rollback(connection)
                    return None
                n = insert_one(connection, row)
                connection.execute("COMMIT")
            except BaseException:
                _db.rollback(connection)
                raise
        return self._stored(row, n)


class SqliteQueue(Intake):
    """A durable queue in one SQLite file; opened, or created for its owner alone.

    `path` is a file on a local disk; it may be the application's own database, every table here is prefixed `fireforget_`.
    `durability` "full" (the default): an `enqueue` that returned survives a power cut. "normal": it survives the death of any
    process, but the last commits before a power cut may be missing; the file stays sound, and a commit costs a tenth.
    `max_payload` is the largest payload in bytes of JSON. `clock` returns Unix seconds, for tests.

    Safe to share between threads, to use after `os.fork`, and to open from many processes at once. It implements `Enqueuer`.

    Raises `StoreUnavailable` (a folder, a missing folder, not SQLite, a newer schema, a network file system, SQLite before 3.35),
    `StoreReadOnly`, `StoreBusy` when another program holds the file for 5 s, and other `StoreError`s.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["full", "normal"] = "full",
        max_payload: int = DEFAULT_MAX_PAYLOAD,
        clock: Clock = time.time,
    ) -> None:
        if durability not in ("full", "normal"):
            raise InvalidOption("durability", durability, 'choose "full" or "normal"')
        super().__init__(max_payload, clock)
        self._durability = durability
        self._database = _db.Database(path, durability)
        with self._database.use() as connection:
            self._tag = tag_of(connection)
        self._group = GroupCommit(self._database)

    @property
    def path(self) -> str:
        """The absolute path of the database file."""
        return self._database.path

    def __repr__(self) -> str:
        return f"SqliteQueue({self.path!r}, durability={self._durability!r})"

    # --- producing ----------------------------------------------------------------------------------------------------

    def enqueue(
        self,
        task: Task,
        *,
        timeout: Seconds | None = None,
        connection: sqlite3.Connection | None = None,
        **options: Any,
    ) -> TaskInfo:
        """Store one task and return what was stored; it is durable when this returns.

        `timeout` is how many seconds the call may wait for the write lock (None: 5); the job's run time is `run_timeout` here.
        `options` override the task's own, which override the defaults. With `connection`, the job is written on that
        `sqlite3.Connection` to the same file, which this method neither begins, commits nor rolls back: the job exists exactly
        if that transaction commits. In a transactional handler of the same file it is part of that handler's transaction.

        Raises `InvalidTask` and its kin for what is wrong with the call, `TaskIDConflict`, `DuplicateTask`, `StoreBusy` with the
        time waited, and other `StoreError`s; then nothing was stored.
        """
        wait = DEFAULT_WAIT if timeout is None else to_seconds("timeout", timeout, above_minimum=True)
        row = self._row(check_task(task), check_call_options(options), self._clock())
        if row["linked"] is not None:
            self._find_beside([task], [row])
        if connection is not None:
            return self._enqueue_inside(connection, row)
        inside = transaction.get(None)
        if inside is not None and inside.takes(self.path):
            with inside.changing() as own:
                return self._stored(row, insert_one(own, row))
        first = self._group.write([row], wait)
        return self._stored(row, first)

    def enqueue_many(
        self,
        tasks: Iterable[Task],
        *,
        timeout: Seconds | None = None,
        connection: sqlite3.Connection | None = None,
        **options: Any,
    ) -> list[TaskInfo]:
        """Store all tasks in one transaction, or none of them, and return what was stored, in their order.

        Arguments and errors are those of `enqueue`; `options` apply to every task. An error that is about one of the tasks has
        its position in `index`.
        """
        wait = DEFAULT_WAIT if timeout is None else to_seconds("timeout", timeout, above_minimum=True)
        overriding = check_call_options(options)
        now = self._clock()
        rows = self._rows(tasks, overriding, now)
        if connection is not None:
            return self._enqueue_many_inside(connection, rows)
        if not rows:
            return []
        inside = transaction.get(None)
        if inside is not None and inside.takes(self.path):
            with inside.changing() as own:
                return self._insert_inside(own, rows)
        try:
            first = self._group.write(rows, wait)
        except (TaskIDConflict, DuplicateTask) as error:
            error.index = error.index or 0
            raise
        return [self._stored(row, n) for n, row in enumerate(rows, first)]

    async def enqueue_async(self, task: Task, *, timeout: Seconds | None = None, **options: Any) -> TaskInfo:
        """Store one task from a coroutine without ever blocking its event loop; arguments and errors are those of `enqueue`."""
        import asyncio

        return await asyncio.to_thread(self.enqueue, task, timeout=timeout, **options)

    def _enqueue_inside(self, connection: sqlite3.Connection, row: Row) -> TaskInfo:
        """Insert on the caller's connection; SQLite's own errors pass, the transaction is the caller's."""
        self._check_caller(connection)
        if not connection.in_transaction and (row["unique_key"] is not None or row["linked"] is not None):
            option, number = ("after", "several") if row["linked"] is not None else ("unique_for", "two")
            raise ValueError(f"{option} on a connection needs an open transaction: begin one, since it takes {number} statements")
        return self._stored(row, insert_one(connection, row))

    def _enqueue_many_inside(self, connection: sqlite3.Connection, rows: list[Row]) -> list[TaskInfo]:
        self._check_caller(connection)
        if not connection.in_transaction:
            raise ValueError("enqueue_many on a connection needs an open transaction: begin one, so that all or none exist")
        return self._insert_inside(connection, rows) if rows else []

    def _insert_inside(self, connection: sqlite3.Connection, rows: list[Row]) -> list[TaskInfo]:
        connection.execute("SAVEPOINT fireforget_enqueue_many")
        try:
            first = insert_all(connection, rows)
        except BaseException:
            connection.execute("ROLLBACK TO fireforget_enqueue_many")
            raise
        finally:
            connection.execute("RELEASE fireforget_enqueue_many")
        return [self._stored(row, n) for n, row in enumerate(rows, first)]

    def _check_caller(self, connection: sqlite3.Connection) -> None:
        """Raise `ValueError` unless the caller's connection has our file as its main database: there the job would be written.

        Raises `TypeError` for what is no connection of sqlite3; SQLAlchemy's proxy of one has all that is used here.
        """
        if not isinstance(getattr(connection, "in_transaction", None), bool) or not hasattr(connection, "cursor"):
            raise TypeError(
                f"connection={connection!r}: give a sqlite3.Connection; in Django it is `connection.connection`, in SQLAlchemy "
                "`session.connection().connection.driver_connection`"
            )
        for _, name, file in plain_cursor(connection).execute("PRAGMA database_list"):
            if os.fsdecode(name) == "main" and os.path.realpath(os.fsdecode(file)) == self.path:
                return
        raise ValueError(f"the connection leads to another database than {self.path}: open one to the queue's own file")

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> TaskInfo:
        """Return a snapshot of one job; raises `UnknownJob` when none is stored under this id."""
        with self._database.use() as connection:
            row = get_job(connection, job_id, self._tag)
        return info_of(row, self._tag)

    def wait(self, job_id: str, timeout: Seconds | None = None) -> TaskInfo:
        """Wait until a job has completed, is archived or cancelled, and return it.

        `timeout` in seconds; None waits for as long as it takes. Raises `TimeoutError` when it passes, and `UnknownJob` for a
        job that is not stored (any more): one without retention is removed when it succeeds, so give it a retention.
        """
        seconds = None if timeout is None else to_seconds("timeout", timeout)
        deadline = None if seconds is None else time.monotonic() + seconds
        pause = 0.002
        while True:
            info = self.get(job_id)
            if info.state in _SETTLED:
                return info
            left = pause if deadline is None else min(pause, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError(
                    f"job {job_id} is {info.state} after {seconds:g} s: wait longer, or look at its queue and worker"
                )
            time.sleep(left)
            pause = min(pause * 1.5, 0.05)

    # --- schedules ----------------------------------------------------------------------------------------------------

    def _enqueue_built(self, builder: str, schedule: str, task: Task) -> None:
        """Store the task of a tick for the job that has built its payload; once, however often that job runs."""
        row = self._row(task, {}, self._clock())
        with _db.changing(self._database, DEFAULT_WAIT) as connection:
            found = find_job(connection, builder, self._tag)
            if found is not None and info_of(found, self._tag).result is None:
                event = _schedules.enqueue_tick(connection, row, self._tag, row["enqueued_at"])
                result = json_payload.encode(event.job or event.outcome)
                connection.execute(_schedules.NOTE_ENQUEUED, {"n": found[0], "result": result})
                _schedules.note_built(connection, schedule, builder, event)

    # --- the file -----------------------------------------------------------------------------------------------------

    def backup(self, path: str | os.PathLike[str], *, force: bool = False) -> "Backup":
        """Copy the whole database into one file while programs go on using it; it is sound and on the disk when this returns.

        The copy is the file as it was at one moment, an application's own tables included; jobs that a worker had then are
        pending in the copy. So run the copy or the original, not both. It is for its owner alone, and appears at `path` under
        this name only when it is complete and checked. `force` replaces what is there, unless a program has it open.

        Writers are not held up; the WAL grows meanwhile. A fork by another thread of this process waits for the end. Raises
        `BackupExists`, `StoreUnavailable`, `StoreReadOnly`, `StoreFull`, `StoreCorrupt` (a check of the copy failed) and other
        `StoreError`s; then `path` is as it was.
        """
        from fireforget._backup import back_up

        return back_up(self._database, path, force=force)

    # --- the object itself --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close this object: later calls raise `QueueClosed`, and each thread's connection is closed. Calls that are under way in
        other threads are finished. What was enqueued stays in the file.
        """
        self._database.close()

    def __enter__(self) -> "SqliteQueue":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_in_memory() -> sqlite3.Connection:
    """Return a connection to a new database in memory with our tables; for one thread at a time, and gone when it is closed."""
    _db.check_library()
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    migrate(connection, ":memory:")
    return connection
