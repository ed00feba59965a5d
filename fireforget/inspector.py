"""Look into a queue and steer it: counts, jobs, attempts, workers, schedules; run, archive, delete, cancel, update; pause and
resume.

Reads are short, each one, so that no reader keeps the WAL from shrinking. Every change of one job is one write transaction that
looks at the job's state first, so it is safe beside workers: a job that a worker claims at the same moment is either changed
before the claim, or is active by then and the call says so. Operations over many jobs are many such transactions, of at most
`MOST_IN_A_TRANSACTION` jobs, with pauses in which workers and producers get their turn; a program that is killed in between has
changed some of the jobs and not the others.

What may be done to a job in which state stands in `RUNNABLE`, `ARCHIVABLE`, `CANCELLABLE`, `DELETABLE` and `UPDATABLE`.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from fireforget import _db, _limits, _schedules, _sql, cron
from fireforget import payload as json_payload
from fireforget._backup import Backup as Backup  # noqa: PLC0414  (public here)
from fireforget._doctor import Finding as Finding  # noqa: PLC0414  (public here)
from fireforget._doctor import examine
from fireforget._limits import QueueLimits
from fireforget._schema import STATE_OF_NUMBER
from fireforget.clock import Seconds, to_datetime, to_seconds
from fireforget.errors import (
    DuplicateTask,
    InvalidOption,
    InvalidPayload,
    JobActive,
    QueueNotEmpty,
    ScheduleInUse,
    UnknownJob,
    UnknownQueue,
    UnknownSchedule,
    WrongState,
)
from fireforget.queue_sqlite import SqliteQueue, _duplicate, _parse_generated, find_job, info_of, public_id, unique_key_of
from fireforget.registry import Registry
from fireforget.task import State, TaskInfo, check_options

MOST_IN_A_TRANSACTION = 1000
"""Jobs that an operation over many changes in one transaction."""
_LONGEST_HOLD = 0.1  # seconds of the write lock for such a transaction, before the next one is made smaller
_MOST_READ = 20_000  # numbers of jobs that one read collects for such an operation
_WINDOW = 20_000  # row numbers that one read of the table steps over
_MOST_ROWS = 500  # read at a time, with their payloads
_MOST_SORTED = 350_000  # with no more jobs in a state, their numbers are sorted instead of walking the table
_MOST_PENDING_SORTED = 150_000  # the widest index
_MOST_FILTERED = 20_000  # where each of them has to be looked at as well

RUNNABLE = frozenset({State.SCHEDULED, State.RETRY, State.ARCHIVED, State.CANCELLED, State.COMPLETED, State.AGGREGATING})
ARCHIVABLE = frozenset(
    {State.PENDING, State.SCHEDULED, State.RETRY, State.COMPLETED, State.CANCELLED, State.AGGREGATING, State.BLOCKED}
)
CANCELLABLE = frozenset({State.PENDING, State.SCHEDULED, State.RETRY, State.ACTIVE, State.AGGREGATING, State.BLOCKED})
DELETABLE = frozenset(State) - {State.ACTIVE}
UPDATABLE = frozenset(State) - {State.ACTIVE, State.COMPLETED}
_RESCHEDULABLE = frozenset({State.PENDING, State.SCHEDULED, State.RETRY})


# --- errors -----------------------------------------------------------------------------------------------------------


# --- what is known ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QueueStats:
    """One queue as it is now."""

    name: str
    counts: dict[State, int]
    """How many jobs are in each state, zeros included."""
    latency: float
    """Seconds that the oldest pending job has been due; 0 when none is pending."""
    paused: bool
    paused_at: datetime | None = None
    """Since when it has been paused; None when it is not."""

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


@dataclass(frozen=True)
class GroupInfo:
    """Jobs of one group in one queue that wait to be handed over together."""

    queue: str
    name: str
    size: int
    """How many jobs wait."""
    oldest: datetime
    """When the first of them was enqueued."""
    newest: datetime
    """When the last of them was."""
    closed: bool
    """Whether the group is complete, and its aggregator is to run, runs, or has failed; later jobs are a group of their own."""
    completes_at: datetime | None
    """When an open group is complete if nothing more comes; None where no aggregator is known."""


@dataclass(frozen=True)
class ScheduleInfo:
    """One schedule as it stands in the database."""

    name: str
    type: str
    """Of the tasks that it enqueues."""
    queue: str
    expression: str
    timezone: str
    missed: str
    """What becomes of missed ticks: run_once, skip or catch_up."""
    next_at: datetime | None
    """When it ticks next, as far as a worker runs then that has it; None while it is paused."""
    last_at: datetime | None
    """The last tick that was enqueued."""
    paused: bool
    paused_at: datetime | None
    workers: int
    """How many running workers have it in their registry."""

    def upcoming(self, count: int, start: datetime | None = None) -> list[datetime]:
        """Return the next ticks after `start` (an aware datetime; None: now), in the schedule's zone, whether paused or not."""
        return cron.parse(self.expression, self.timezone).upcoming(start or datetime.now(UTC), count)


@dataclass(frozen=True)
class ScheduleEvent:
    """What became of a tick."""

    tick: datetime
    at: datetime
    """When it was enqueued."""
    outcome: str
    """enqueued; refused, since another job held its unique key; or missed, where nothing was enqueued for one tick or several."""
    job_id: str | None
    """The job, which need not be stored any more; while a payload is being built, the job that does so."""
    detail: str | None
    """Why it was refused, or what was missed."""


@dataclass(frozen=True)
class Step:
    """One step of a job whose result is stored."""

    name: str
    stored_at: datetime
    result: Any


class _Unchanged(Enum):
    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = _Unchanged.UNCHANGED
"""The default of arguments of `Inspector.update` for which None is a value."""


@dataclass(frozen=True)
class _Filter:
    """Which jobs an operation is about."""

    state: State | None
    parameters: dict[str, Any]
    """For the conditions of `_sql` that are named so."""
    payload: Mapping[str, Any] | None

    @property
    def number(self) -> int | None:
        return None if self.state is None else _sql.number_of(self.state)

    @property
    def by_index_alone(self) -> bool:
        """Whether an index answers it, without a look at the jobs themselves."""
        return self.state is not None and self.payload is None and self.parameters.keys() <= {"queue"}

    def admits(self, payload_text: Any) -> bool:
        """Return whether a stored payload has the members that are wanted; one that is no JSON object has none."""
        if self.payload is None:
            return True
        try:
            members = json_payload.decode(payload_text)
        except (ValueError, TypeError, RecursionError):
            return False
        return isinstance(members, dict) and all(
            name in members and _same_json(members[name], value) for name, value in self.payload.items()
        )


class Inspector:
    """Looks into a queue and steers it. Safe to share between threads, and to use while workers run; raises `StoreError`s."""

    def __init__(self, queue: SqliteQueue) -> None:
        self._queue = queue

    # --- queues and workers -------------------------------------------------------------------------------------------

    def queues(self) -> list[QueueStats]:
        """Return every queue that has jobs or was paused, by name."""
        with self._reading() as connection:
            counted = connection.execute(_sql.COUNT_JOBS).fetchall()
            oldest = dict(connection.execute(_sql.OLDEST_DUE).fetchall())
            paused = dict(connection.execute(_sql.QUEUES).fetchall())
        counts: dict[str, dict[State, int]] = {name: _zeros() for name in paused}
        for name, number, jobs in counted:
            counts.setdefault(name, _zeros())[STATE_OF_NUMBER[number]] += jobs
        return [self._stats(name, by_state, oldest.get(name), paused.get(name)) for name, by_state in sorted(counts.items())]

    def queue_stats(self, name: str) -> QueueStats:
        """Return one queue; raises `UnknownQueue` when it has no jobs, was never paused and no worker serves it."""
        parameters = {"queue": name}
        with self._reading() as connection:
            counts = _zeros()
            for number, jobs in connection.execute(_sql.COUNT_JOBS_OF_QUEUE, parameters):
                counts[STATE_OF_NUMBER[number]] += jobs
            oldest = connection.execute(_sql.OLDEST_DUE_OF_QUEUE, parameters).fetchone()[0]
            paused = dict(connection.execute(_sql.QUEUES).fetchall())
        if name not in paused and not any(counts.values()) and name not in self._served():
            raise UnknownQueue(name)
        return self._stats(name, counts, oldest, paused.get(name))

    def _stats(self, name: str, counts: dict[State, int], oldest: float | None, paused_at: float | None) -> QueueStats:
        latency = 0.0 if oldest is None else max(0.0, self._queue._clock() - oldest)
        return QueueStats(name, counts, latency, paused_at is not None, to_datetime(paused_at))

    def counts(self, queue: str | None = None) -> dict[State, int]:
        """Return how many jobs are in each state, zeros included, of one queue or of all; of an unknown queue there are none."""
        counts = _zeros()
        with self._reading() as connection:
            if queue is None:
                rows = [row[1:] for row in connection.execute(_sql.COUNT_JOBS)]
            else:
                rows = connection.execute(_sql.COUNT_JOBS_OF_QUEUE, {"queue": queue}).fetchall()
        for number, jobs in rows:
            counts[STATE_OF_NUMBER[number]] += jobs
        return counts

    def knows_queue(self, name: str) -> bool:
        """Return whether a queue has jobs, was paused once, or is served by a worker."""
        with self._reading() as connection:
            known = bool(connection.execute(_sql.KNOWS_QUEUE, {"queue": name}).fetchone()[0])
        return known or name in self._served()

    def queue_names(self) -> list[str]:
        """Return the names of all queues that have jobs, were paused once, or are served by a worker."""
        return sorted({stats.name for stats in self.queues()} | self._served())

    def _served(self) -> set[str]:
        return {name for worker in self.workers() for name in worker.queues}

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that have signed in, oldest first."""
        with self._reading() as connection:
            rows = connection.execute(_sql.WORKERS_AND_LOAD).fetchall()
        return [
            WorkerInfo(name, host, pid, json.loads(queues), concurrency, threads, _instant(started_at), active)
            for name, host, pid, queues, concurrency, threads, started_at, active in rows
        ]

    def groups(self, queue: str | None = None, *, registry: Registry | None = None) -> list[GroupInfo]:
        """Return the groups that wait, by queue and name: of one queue or of all.

        When a group completes is the aggregators' rule, so it takes the application's `registry` to know; None leaves it open.
        """
        with self._reading() as connection:
            rows = connection.execute(_sql.GROUPS, {"queue": queue}).fetchall()
        found = []
        for its_queue, name, closed, size, oldest, newest in sorted(rows):
            known = None if registry is None or closed else registry.aggregator_of(name)
            completes_at = None if known is None else to_datetime(known[1].complete_at(size, oldest, newest))
            found.append(GroupInfo(its_queue, name, size, _instant(oldest), _instant(newest), bool(closed), completes_at))
        return found

    def pause_queue(self, name: str) -> bool:
        """Have workers claim nothing more from a queue; what runs goes on, and enqueueing too. Return whether it was not paused.

        Any name is allowed, so that a queue can be paused before its first job. Raises `InvalidOption` for a blank one.
        """
        check_options({"queue": name})
        with self._changing() as connection:
            return bool(connection.execute(_sql.PAUSE_QUEUE, {"queue": name, "now": self._queue._clock()}).rowcount)

    def resume_queue(self, name: str) -> bool:
        """Have workers claim from a queue again; return whether it was paused."""
        with self._changing() as connection:
            return bool(connection.execute(_sql.RESUME_QUEUE, {"queue": name}).rowcount)

    def limits(self, name: str) -> QueueLimits:
        """Return what a queue keeps of jobs that ended; of one that has no limits, which is all out of the box, everything."""
        with self._reading() as connection:
            return _limits.read(connection, name)

    def set_limits(
        self,
        name: str,
        *,
        archived_max: int | _Unchanged | None = UNCHANGED,
        archived_age: Seconds | _Unchanged | None = UNCHANGED,
        completed_max: int | _Unchanged | None = UNCHANGED,
        completed_age: Seconds | _Unchanged | None = UNCHANGED,
        cancelled_max: int | _Unchanged | None = UNCHANGED,
        cancelled_age: Seconds | _Unchanged | None = UNCHANGED,
    ) -> QueueLimits:
        """Limit what a queue keeps of jobs that ended, and return all its limits.

        Each state has a number of jobs and an age, in seconds since they ended. What is not given stays; None removes a limit.
        They are stored, and hold for every worker from now on: workers delete what is too many or too old, the oldest first, in
        the background. Any name is allowed, so that limits can be set before the first job.

        One transaction. Raises `InvalidOption` for a blank name, for what is no limit, and when none was given.
        """
        values = (archived_max, archived_age, completed_max, completed_age, cancelled_max, cancelled_age)
        given = dict(zip(_limits.LIMITS, values, strict=True))
        checked = _limits.check(name, {limit: value for limit, value in given.items() if value is not UNCHANGED})
        with self._changing() as connection:
            return _limits.write(connection, name, checked)

    def delete_queue(self, name: str, *, force: bool = False) -> int:
        """Delete a queue, and with `force` all its jobs and their attempts; return how many jobs that were.

        Without `force` raises `QueueNotEmpty` when it has jobs. Running jobs are never deleted: with any, `QueueNotEmpty` says
        so and nothing is changed; one that a worker claims in the meantime stays, and the error says how many were deleted. A
        pause and limits end with the queue. Raises `UnknownQueue`.
        """
        counts = self.queue_stats(name).counts
        size = sum(counts.values())
        if size and not force:
            raise QueueNotEmpty(name, size, ": delete it with force, or delete or run them first")
        if counts[State.ACTIVE]:
            raise QueueNotEmpty(name, counts[State.ACTIVE], " that run: cancel them, or wait until they have ended")
        in_order = sorted(DELETABLE, key=lambda state: state is State.PENDING)  # last: the others become pending
        deleted = sum(self.delete_all(state, queue=name) for state in in_order)
        with self._changing() as connection:
            left = sum(jobs for _, jobs in connection.execute(_sql.COUNT_JOBS_OF_QUEUE, {"queue": name}))
            if not left:
                connection.execute(_sql.DELETE_QUEUE, {"queue": name})
                _limits.forget(connection, name)
        if left:
            raise QueueNotEmpty(
                name, left, f" that came or were claimed meanwhile; {deleted} were deleted: pause it and try again"
            )
        return deleted

    # --- schedules ----------------------------------------------------------------------------------------------------

    def schedules(self) -> list[ScheduleInfo]:
        """Return the schedules that workers have brought along, by name; also those that no running worker has any more."""
        with self._reading() as connection:
            rows = _schedules.read_all(connection)
            having = _schedules.of_workers(connection)
        return [_schedule_info(row, sum(name in digests for digests in having)) for name, row in rows.items()]

    def schedule(self, name: str) -> ScheduleInfo:
        """Return one schedule; raises `UnknownSchedule`."""
        with self._reading() as connection:
            row = self._schedule(connection, name)
            return _schedule_info(row, sum(name in digests for digests in _schedules.of_workers(connection)))

    def schedule_history(self, name: str, limit: int = 100) -> list[ScheduleEvent]:
        """Return what became of the last ticks of a schedule, the newest first; 1,000 are kept. Raises `UnknownSchedule`, and
        `InvalidOption` for a `limit` that is no number above 0.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidOption("limit", limit, "give a number of events above 0")
        with self._reading() as connection:
            self._schedule(connection, name)
            rows = _schedules.events(connection, name, limit)
        return [ScheduleEvent(_instant(row.tick), _instant(row.at), row.outcome, row.job, row.detail) for row in rows]

    def pause_schedule(self, name: str) -> bool:
        """Have nothing enqueued at a schedule's ticks, also after restarts; return whether it was not paused.

        Raises `UnknownSchedule`.
        """
        with self._changing() as connection:
            self._schedule(connection, name)
            return _schedules.pause(connection, name, self._queue._clock())

    def resume_schedule(self, name: str) -> bool:
        """Have a schedule tick again, from its next tick on; return whether it was paused.

        What would have been enqueued in the meantime was not missed, and is not made up for. Raises `UnknownSchedule`.
        """
        with self._changing() as connection:
            row = self._schedule(connection, name)
            next_at = cron.parse(row.expression, row.timezone).next_after(self._queue._clock())
            return _schedules.resume(connection, name, next_at)

    def delete_schedule(self, name: str) -> None:
        """Forget a schedule that no registry has any more, with its history; the jobs that it enqueued stay.

        Raises `UnknownSchedule`, and `ScheduleInUse` when a running worker has it.
        """
        with self._changing() as connection:
            self._schedule(connection, name)
            if any(name in digests for digests in _schedules.of_workers(connection)):
                raise ScheduleInUse(name)
            _schedules.delete(connection, name)

    def _schedule(self, connection: "_Connection", name: str) -> _schedules.ScheduleRow:
        row = _schedules.read_one(connection, name)
        if row is None:
            raise UnknownSchedule(name)
        return row

    # --- the file -----------------------------------------------------------------------------------------------------

    def backup(self, path: str | os.PathLike[str], *, force: bool = False) -> Backup:
        """Copy the whole database into one file while programs go on using it; this is `SqliteQueue.backup`."""
        return self._queue.backup(path, force=force)

    def doctor(self, *, full: bool = False) -> list[Finding]:
        """Look for what is wrong with the file and what runs on it, and return what each check found, with what to do about it.

        It checks the file system, permissions, disk space, the version of SQLite, journal mode, integrity (with `full` that of
        indexes against their tables as well), schema, write lock, WAL, checkpoints, free pages, workers, stalled queues, archived
        jobs and clocks. Nothing is changed. What is wrong is told, not raised.
        """
        return examine(self._queue.path, full=full, clock=self._queue._clock)

    # --- looking at jobs ----------------------------------------------------------------------------------------------

    def task(self, job_id: str) -> TaskInfo:
        """Return one job; raises `UnknownJob` when none is stored under this id."""
        with self._reading() as connection:
            return self._info(connection, job_id)

    def attempts(self, job_id: str) -> list[Attempt]:
        """Return the failed runs of a job, first to last; raises `UnknownJob`."""
        with self._reading() as connection:
            number = self._find(connection, job_id)[0]
            rows = connection.execute(_sql.ATTEMPTS, {"n": number}).fetchall()
        return [
            Attempt(number, _instant(started_at), duration, worker, error, traceback)
            for number, started_at, duration, worker, error, traceback in rows
        ]

    def steps(self, job_id: str) -> list[Step]:
        """Return the steps of a job whose results are stored, in the order in which they were; raises `UnknownJob`."""
        with self._reading() as connection:
            rows = connection.execute(_sql.STEPS, {"n": self._find(connection, job_id)[0]}).fetchall()
        return [Step(name, _instant(stored_at), json_payload.decode(result)) for name, stored_at, result in rows]

    def tasks(
        self,
        state: State | str | None = None,
        *,
        queue: str | None = None,
        type: str | None = None,
        older_than: Seconds | None = None,
        error: str | None = None,
        payload: Mapping[str, Any] | None = None,
        group: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[TaskInfo]:
        """Return jobs in the order in which they were enqueued, in any state or one.

        What narrows them, all of it together: `queue`; `type`, where one that ends in ":" stands for all that begin so;
        `older_than`, seconds since they ended or, where they have not, since they were enqueued; `error`, text that their last
        error contains; `payload`, members that their payload has at its top, with these values; `group`, the one that they
        were enqueued with.

        `limit` is the most to return; `after` is the id of the last job of the page before, which need not be stored any more
        unless its id was the caller's own. A page costs a few milliseconds at a million jobs; looking for a rare type, error or
        payload costs a look at each job of the state, in short reads. Raises `ValueError` for an unknown state, `UnknownJob` for
        an `after` that is no id or is gone, `InvalidOption` for the others.
        """
        wanted = self._filter(state, queue=queue, type=type, older_than=older_than, error=error, payload=payload, group=group)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidOption("limit", limit, "give a number of jobs above 0")
        infos: list[TaskInfo] = []
        since = 0 if after is None else self._number_of(after)
        for numbers in self._scan(wanted, since, limit if payload is None else _MOST_READ):
            for row in self._rows(wanted, f"{_sql.JOB_COLUMNS}, payload", numbers):
                infos.append(info_of(row[:-1], self._queue._tag))
                if len(infos) == limit:
                    return infos
        return infos

    def count(
        self,
        state: State | str | None = None,
        *,
        queue: str | None = None,
        type: str | None = None,
        older_than: Seconds | None = None,
        error: str | None = None,
        payload: Mapping[str, Any] | None = None,
        group: str | None = None,
    ) -> int:
        """Return how many jobs there are of those that `tasks` would list with the same arguments."""
        wanted = self._filter(state, queue=queue, type=type, older_than=older_than, error=error, payload=payload, group=group)
        if wanted.by_index_alone:
            assert wanted.state is not None
            return self.counts(queue)[wanted.state]
        return sum(len(numbers) for numbers in self._matching(wanted))

    def similar_ids(self, job_id: str) -> list[str]:
        """Return ids of stored jobs that look like this one: with the same number, or that begin alike; for mistyped ids."""
        number = re.search(r"^(?:[^-]*-)?(\d{1,18})(?:-|$)", job_id)  # generated ids are tag-number-nonce
        with self._reading() as connection:
            same = connection.execute(_sql.IDS_OF_NUMBER, {"n": int(number[1])}).fetchall() if number else []
            alike = connection.execute(_sql.TASK_IDS_LIKE, {"beginning": job_id[:1], "most": 200}).fetchall()
        return [own or public_id(self._queue._tag, n, nonce) for n, nonce, own in same] + [
            own for (own,) in alike if own[0] == job_id[:1]
        ]

    # --- changing one job ---------------------------------------------------------------------------------------------

    def run(self, job_id: str) -> TaskInfo:
        """Make a job pending now, and return it.

        A scheduled job runs ahead of its time, one in retry too, with the retries it has left. A job that ended (archived,
        cancelled, completed) begins anew: `retry_count` is 0 again, so that it has all its retries, and the result and progress
        of the run before are gone; the attempts so far stay, and later ones are numbered on. So do the steps, so that it goes on
        after the last one that is stored, but for a completed job, which does all of them again. A job from a group runs by
        itself.
        A unique key that was given up when the job ended is taken again, for what is left of its `unique_for`.

        One transaction. Raises `UnknownJob`; `JobActive`; `WrongState` when it is pending already, blocked, or past its deadline
        (it would only be archived again: `update` it first); `DuplicateTask` when another job holds its key.
        """
        with self._changing() as connection:
            row = self._find_in(connection, job_id, RUNNABLE, _RUN_REMEDIES)
            self._run(connection, row[0], job_id, _state_of(row))
            return self._info(connection, job_id)

    def archive(self, job_id: str) -> TaskInfo:
        """Put a job among the dead letters, where it stays until it is run or deleted, and return it; its unique key is free.

        One transaction. Raises `UnknownJob`, `JobActive` (cancel it instead), and `WrongState` when it is archived already.
        """
        return self._end(job_id, ARCHIVABLE, {State.ACTIVE: _CANCEL_IT, State.ARCHIVED: "run or delete it"}, _sql.shelve)

    def cancel(self, job_id: str) -> TaskInfo:
        """Cancel a job, and return it: at once unless it runs; its unique key is free.

        A running job is still active in what is returned: its worker interrupts it with `JobCancelled`, kills its process 1 s
        later, and it ends as cancelled, unless it ends by itself before. Asking twice changes nothing.

        One transaction. Raises `UnknownJob`, and `WrongState` for a job that ended already.
        """
        remedy = "it has ended already; delete it, if it is to go"
        return self._end(job_id, CANCELLABLE, dict.fromkeys(State, remedy), _sql.call_off)

    def delete(self, job_id: str) -> None:
        """Delete a job with its attempts and steps; its unique key and its id are free.

        One transaction. Raises `UnknownJob` and `JobActive` (cancel it first).
        """
        with self._changing() as connection:
            row = self._find_in(connection, job_id, DELETABLE, {State.ACTIVE: f"{_CANCEL_IT}, then delete it"})
            connection.execute(_sql.remove(row[_STATE]), {"n": row[0]})
            connection.execute(_sql.DELETE_ATTEMPTS, (row[0],))
            connection.execute(_sql.DELETE_STEPS, (row[0],))

    def update(
        self,
        job_id: str,
        *,
        payload: Any = UNCHANGED,
        queue: str | None = None,
        priority: int | None = None,
        process_at: datetime | None = None,
        process_in: Seconds | None = None,
        deadline: datetime | _Unchanged | None = UNCHANGED,
    ) -> TaskInfo:
        """Change a job that does not run, and return it. What is not given stays; a `payload` or `deadline` of None removes it.

        `process_at` or `process_in` (seconds from now) move a job that waits: to a time to come, it is scheduled, or in retry
        where it was; to now or before, it is pending. A unique key that stands for queue, type and payload follows them.

        One transaction. Raises `UnknownJob`; `JobActive`; `WrongState` for a completed job, and for a new time for one that does
        not wait; `InvalidOption` and `InvalidPayload` as a `Task` would, also when nothing was given; `DuplicateTask` when
        another job holds the key that it would have.
        """
        given = {"queue": queue, "priority": priority, "process_at": process_at, "process_in": process_in}
        if deadline is not UNCHANGED:
            given["deadline"] = deadline
        options = check_options(given)
        if payload is UNCHANGED and deadline is UNCHANGED and not options:
            raise InvalidOption("update", job_id, "give what is to change: payload, queue, priority, a time or a deadline")
        changes = {**options, **({} if deadline is not None else {"deadline": None})}
        if payload is not UNCHANGED:
            changes["payload"] = self._encode(payload)
        with self._changing() as connection:
            row = self._find_in(connection, job_id, UPDATABLE, _UPDATE_REMEDIES)
            self._update(connection, row, job_id, changes)
            return self._info(connection, job_id)

    # --- changing many jobs -------------------------------------------------------------------------------------------

    def run_all(self, state: State | str, **filters: Any) -> int:
        """Do `run` to all jobs of a state that match, and return how many that were.

        `filters` are those of `tasks`: queue, type, older_than, error, payload, group. Those that `run` would refuse (another
        job holds their key, their deadline has passed) stay as they are. Transactions of at most 1,000 jobs each; jobs that come
        into the state while this works are left alone. Raises `InvalidOption` for a state in which no job can be run.
        """
        return self._all(state, filters, RUNNABLE, "run", self._run_if_possible)

    def archive_all(self, state: State | str, **filters: Any) -> int:
        """Do `archive` to all jobs of a state that match, and return how many that were; otherwise like `run_all`."""
        return self._all(state, filters, ARCHIVABLE, "archived", self._each(_sql.shelve))

    def cancel_all(self, state: State | str, **filters: Any) -> int:
        """Do `cancel` to all jobs of a state that match, and return how many that were; otherwise like `run_all`.

        For "active", it is how many were asked to end.
        """
        return self._all(state, filters, CANCELLABLE, "cancelled", self._each(_sql.call_off))

    def delete_all(self, state: State | str, **filters: Any) -> int:
        """Do `delete` to all jobs of a state that match, and return how many that were; otherwise like `run_all`."""

        def delete(connection: "_Connection", wanted: _Filter, rows: list[dict[str, Any]]) -> int:
            deleted = self._each(_sql.remove)(connection, wanted, rows)
            numbers = [(row["n"],) for row in rows]
            connection.executemany(_sql.DELETE_ATTEMPTS_OF_GONE, numbers)
            connection.executemany(_sql.DELETE_STEPS_OF_GONE, numbers)
            return deleted

        return self._all(state, filters, DELETABLE, "deleted", delete)

    def _all(
        self,
        state: State | str,
        filters: Mapping[str, Any],
        allowed: frozenset[State],
        done: str,
        change: "Callable[[_Connection, _Filter, list[dict[str, Any]]], int]",
    ) -> int:
        wanted = self._filter(state, **filters)
        if wanted.state not in allowed:
            choices = ", ".join(state for state in State if state in allowed)
            raise InvalidOption("state", str(state), f"jobs in this state cannot be {done}; choose among {choices}")
        changed, pace = 0, _Pace()
        for rows in self._matching(wanted):
            at = 0
            while batch := rows[at : at + pace.jobs]:
                at += len(batch)
                began = time.monotonic()
                with self._changing() as connection:
                    changed += change(connection, wanted, batch)
                pace.rest(time.monotonic() - began, more=at < len(rows))
        return changed

    @staticmethod
    def _each(statement: Callable[..., str]) -> "Callable[[_Connection, _Filter, list[dict[str, Any]]], int]":
        """Return what runs a statement for each job, if it still matches."""

        def change(connection: "_Connection", wanted: _Filter, rows: list[dict[str, Any]]) -> int:
            number = wanted.number
            assert number is not None
            changed: int = connection.executemany(statement(number, _fence(wanted)), rows).rowcount
            return changed

        return change

    def _run_if_possible(self, connection: "_Connection", wanted: _Filter, rows: list[dict[str, Any]]) -> int:
        assert wanted.number is not None and wanted.state is not None
        changed: int = connection.executemany(_sql.run_plain(wanted.number, _fence(wanted)), rows).rowcount
        if wanted.state is State.COMPLETED:
            connection.executemany(_sql.DELETE_STEPS_OF_PENDING, [(row["n"],) for row in rows])
        statement = _sql.still_matching("n", wanted.number, _fence(wanted))
        for row in rows if changed < len(rows) else []:  # those with a unique key or a deadline, one by one
            if connection.execute(statement, row).fetchone() is not None:
                with suppress(DuplicateTask, WrongState):
                    self._run(connection, row["n"], "", wanted.state)
                    changed += 1
        return changed

    # --- finding ------------------------------------------------------------------------------------------------------

    def _filter(
        self,
        state: State | str | None,
        *,
        queue: str | None = None,
        type: str | None = None,
        older_than: Seconds | None = None,
        error: str | None = None,
        payload: Mapping[str, Any] | None = None,
        group: str | None = None,
    ) -> _Filter:
        parameters: dict[str, Any] = {}
        for name, text in (("queue", queue), ("type", type), ("error", error), ("group", group)):
            if text is not None and (not isinstance(text, str) or not text):
                raise InvalidOption(name, text, "give text that is not empty, or None for any")
        if queue is not None:
            parameters["queue"] = queue
        if type is not None:
            parameters["type_prefix" if type.endswith(":") else "type"] = type
        if older_than is not None:
            parameters["before"] = self._queue._clock() - to_seconds("older_than", older_than)
        if error is not None:
            parameters["error"] = error
        if group is not None:
            parameters["group"] = group
        if payload is not None and not isinstance(payload, Mapping):
            raise InvalidOption("payload", payload, "give a mapping of members that the payload has, such as {'user_id': 7}")
        return _Filter(None if state is None else State(state), parameters, payload)

    def _matching(self, wanted: _Filter) -> Iterator[list[dict[str, Any]]]:
        """Yield the jobs that match by now, as parameters for statements that are fenced with the filter: a list a read."""
        for numbers in self._scan(wanted, 0, _MOST_READ):
            payloads: dict[int, Any] = dict.fromkeys(numbers)
            if wanted.payload is not None:
                payloads = dict(self._rows(wanted, "n, payload", numbers))
            now = self._queue._clock()
            if payloads:
                yield [{"n": n, "now": now, "as_read": payload, **wanted.parameters} for n, payload in payloads.items()]

    def _rows(self, wanted: _Filter, columns: str, numbers: list[int]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows with these numbers that still match, the payload included."""
        statement = _sql.still_matching(columns, wanted.number, wanted.parameters)
        for at in range(0, len(numbers), _MOST_ROWS):
            with self._reading() as connection:
                asked = ({**wanted.parameters, "n": n} for n in numbers[at : at + _MOST_ROWS])
                rows = [row for each in asked if (row := connection.execute(statement, each).fetchone()) is not None]
            yield from (row for row in rows if wanted.admits(row[-1]))

    def _scan(self, wanted: _Filter, after: int, most: int) -> Iterator[list[int]]:
        """Yield the numbers of jobs that match, all but for the payload, in order: up to `most` a read, each one short.

        Through the table, a window at a time, where jobs of the state lie close together; by the index of the state, once a
        window had too few and few are in the state.
        """
        with self._reading() as connection:
            last = connection.execute(_sql.LAST_NUMBER).fetchone()[0] or 0
        by_index: bool | None = None if wanted.state is not None else False
        while after < last:
            end = last
            if not by_index:
                after = self._before_next(after, last)
                end = min(last, after + _WINDOW)
            numbers = self._numbers(wanted, after, end, most, by_index=bool(by_index))
            if numbers:
                yield numbers
            after = numbers[-1] if len(numbers) == most else end
            if by_index is None and len(numbers) < most:
                by_index = self._is_rare(wanted)

    def _before_next(self, after: int, last: int) -> int:
        """Return the number before that of the next job."""
        with self._reading() as connection:
            following = connection.execute(_sql.NEXT_NUMBER, {"after": after}).fetchone()[0]
        return last if following is None else int(following) - 1

    def _numbers(self, wanted: _Filter, after: int, end: int, most: int, *, by_index: bool) -> list[int]:
        statement = _sql.matching(wanted.number, wanted.parameters, by_index=by_index)
        parameters = {**wanted.parameters, "after": after, "last": end, "most": most}
        with self._reading() as connection:
            return [n for (n,) in connection.execute(statement, parameters)]

    def _is_rare(self, wanted: _Filter) -> bool:
        assert wanted.number is not None
        filters = [name for name in ("queue",) if name in wanted.parameters]
        most = _MOST_PENDING_SORTED if wanted.state is State.PENDING else _MOST_SORTED
        if not wanted.parameters.keys() <= {"queue"}:
            most = _MOST_FILTERED
        parameters = {**{name: wanted.parameters[name] for name in filters}, "most": most + 1}
        with self._reading() as connection:
            jobs = connection.execute(_sql.count_up_to(wanted.number, filters), parameters).fetchone()[0]
        return bool(jobs <= most)

    def _number_of(self, job_id: str) -> int:
        generated = _parse_generated(job_id, self._queue._tag)
        if generated is not None:
            return generated[0]
        with self._reading() as connection:
            return int(self._find(connection, job_id)[0])

    def _find(self, connection: "_Connection", job_id: str) -> tuple[Any, ...]:
        row = find_job(connection, job_id, self._queue._tag)
        if row is None:
            raise UnknownJob(job_id)
        return row

    def _find_in(
        self, connection: "_Connection", job_id: str, allowed: frozenset[State], remedies: Mapping[State, str]
    ) -> tuple[Any, ...]:
        """Return a job in one of the allowed states; raises `UnknownJob`, `JobActive` or `WrongState` with the remedy."""
        row = self._find(connection, job_id)
        state = _state_of(row)
        if state not in allowed:
            raise (JobActive if state is State.ACTIVE else WrongState)(job_id, state, remedies[state])
        return row

    def _info(self, connection: "_Connection", job_id: str) -> TaskInfo:
        return info_of(self._find(connection, job_id), self._queue._tag)

    # --- writing ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> "Iterator[_Connection]":
        with _db.translated(self._queue.path), _db.gate, _lenient(self._queue._database.connection()) as connection:
            yield connection

    @contextmanager
    def _changing(self) -> "Iterator[_Connection]":
        """Run a block in one write transaction; raises `StoreError`s, and then nothing of it happened."""
        database = self._queue._database
        with _db.translated(database.path), _db.gate, _lenient(database.connection()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                _db.rollback(connection)
                raise
            database.check_identity()
            if _db.wal_size(database.path) > _db.WAL_LIMIT_BYTES:
                _db.checkpoint(connection, database.path)

    def _run(self, connection: "_Connection", n: int, job_id: str, state: State) -> None:
        """Make a job pending inside the open transaction; raises `WrongState` or `DuplicateTask`, and then it is as it was."""
        now = self._queue._clock()
        key, until, _, deadline, *_ = connection.execute(_sql.LOCK_OF_JOB, {"n": n}).fetchone()
        if deadline is not None and deadline <= now:
            raise WrongState(job_id, state, "its deadline has passed, so it would not run; update its deadline first")
        held = None if key is None or until is None or until <= now else _inner_key(key)
        if held is not None:
            self._check_free(connection, held, n, now)
        parameters = {"n": n, "now": now, "unique_key": held, "unique_until": None if held is None else until}
        connection.execute(_sql.RUN_JOB, parameters)
        if state is State.COMPLETED:
            connection.execute(_sql.DELETE_STEPS, (n,))

    def _check_free(self, connection: "_Connection", key: str, n: int, now: float) -> None:
        connection.execute(_sql.RELEASE_EXPIRED_KEY, {"unique_key": key, "now": now})
        holder = connection.execute(_sql.HOLDER_OF_KEY, {"unique_key": key}).fetchone()
        if holder is not None and holder[0] != n:
            raise _duplicate(connection, key)

    def _end(
        self, job_id: str, allowed: frozenset[State], remedies: Mapping[State, str], statement: Callable[[int], str]
    ) -> TaskInfo:
        with self._changing() as connection:
            row = self._find_in(connection, job_id, allowed, remedies)
            connection.execute(statement(row[_STATE]), {"n": row[0], "now": self._queue._clock()})
            return self._info(connection, job_id)

    def _encode(self, payload: Any) -> str | None:
        if payload is None:
            return None
        text = json_payload.encode(payload)
        if json_payload.size_of(text) > self._queue._max_payload:
            raise InvalidPayload(
                f"the payload has {json_payload.size_of(text)} bytes of JSON and max_payload is {self._queue._max_payload}: "
                "store the data elsewhere and pass a reference, or raise max_payload"
            )
        return text

    def _update(self, connection: "_Connection", row: tuple[Any, ...], job_id: str, changes: dict[str, Any]) -> None:
        now = self._queue._clock()
        state = _state_of(row)
        key, _, payload, deadline, queue, type = connection.execute(_sql.LOCK_OF_JOB, {"n": row[0]}).fetchone()
        values = {
            "n": row[0],
            "new_payload": "payload" in changes,
            "payload": changes.get("payload", payload),
            "queue": changes.get("queue", queue),
            "priority": changes.get("priority", row[_PRIORITY]),
            "deadline": changes.get("deadline", deadline),
            "due": row[_DUE],
            "state": row[_STATE],
        }
        if "process_at" in changes or "process_in" in changes:
            if state not in _RESCHEDULABLE:
                raise WrongState(job_id, state, "it does not wait for a time; run it instead")
            due = changes["process_at"] if "process_at" in changes else now + changes["process_in"]
            values["due"], values["state"] = due, _sql.number_of(_state_at(due, now, state))
        values["unique_key"] = self._following_key(connection, key, values, type, now)
        connection.execute(_sql.UPDATE_JOB, values)

    def _following_key(
        self, connection: "_Connection", key: str | None, values: dict[str, Any], type: str, now: float
    ) -> str | None:
        """Return the key that a job has once its queue or payload is another; raises `DuplicateTask` when it is taken."""
        inner = None if key is None else _inner_key(key)
        if key is None or inner is None or not inner.startswith("job:"):
            return key
        following = unique_key_of(None, values["queue"], type, values["payload"])
        if key != inner:
            return f"{_sql.RELEASED}{values['n']}:{following}"
        self._check_free(connection, following, values["n"], now)
        return following


class _Pace:
    """How many jobs to change in one transaction, so that it holds the write lock for a tenth of a second or so."""

    def __init__(self) -> None:
        self.jobs = MOST_IN_A_TRANSACTION // 4

    def rest(self, seconds: float, *, more: bool) -> None:
        """Take in how long a transaction took; where more follow, leave the lock to others for as long as it was held."""
        if seconds > _LONGEST_HOLD:
            self.jobs = max(MOST_IN_A_TRANSACTION // 20, self.jobs // 2)
        elif seconds < _LONGEST_HOLD / 3:
            self.jobs = min(MOST_IN_A_TRANSACTION, self.jobs * 2)
        if more:
            time.sleep(min(_LONGEST_HOLD, max(0.002, seconds)))


_Connection = Any
"""A `sqlite3.Connection`; only the store knows SQLite by its name."""

_STATE, _PRIORITY, _DUE = 5, 8, 15  # in `_sql.JOB_COLUMNS`

_CANCEL_IT = "cancel it, or wait until it has ended"
_RUN_REMEDIES = {
    State.ACTIVE: "it runs already",
    State.PENDING: "it will run as soon as a worker that has a handler for it is free; look whether its queue is paused",
    State.BLOCKED: "it waits for other jobs, and runs when they have completed",
}
_UPDATE_REMEDIES = {State.ACTIVE: _CANCEL_IT, State.COMPLETED: "there is nothing left to change; run it, or enqueue another"}


@contextmanager
def _lenient(connection: _Connection) -> Iterator[_Connection]:
    """Read text that is not UTF-8, which a foreign program may have stored, with replacement characters: one job that cannot be
    read would otherwise hide all others of its page.
    """
    connection.text_factory = _decode
    try:
        yield connection
    finally:
        connection.text_factory = str


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _schedule_info(row: _schedules.ScheduleRow, workers: int) -> ScheduleInfo:
    paused = row.paused_at is not None
    next_at = None if paused or row.next_at == float("inf") else _instant(row.next_at)
    return ScheduleInfo(
        row.name, row.type, row.queue, row.expression, row.timezone, row.missed, next_at, to_datetime(row.last_at), paused,
        to_datetime(row.paused_at), workers,
    )  # fmt: skip


def _zeros() -> dict[State, int]:
    return dict.fromkeys(State, 0)


def _state_of(row: tuple[Any, ...]) -> State:
    return STATE_OF_NUMBER[row[_STATE]]


def _state_at(due: float, now: float, state: State) -> State:
    """Return the state of a waiting job once it is due at another time."""
    if due <= now:
        return State.PENDING
    return State.RETRY if state is State.RETRY else State.SCHEDULED


def _fence(wanted: _Filter) -> list[str]:
    """Return the filters that a change repeats: a job that was changed since it was read may match no more."""
    return [*wanted.parameters, *([] if wanted.payload is None else ["as_read"])]


def _inner_key(key: str) -> str:
    """Return a unique key as it is while it is held."""
    return key.split(":", 2)[2] if key.startswith(_sql.RELEASED) else key


def _same_json(one: Any, other: Any) -> bool:
    """Return whether two values are the same JSON; Python takes true for 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _instant(seconds: float) -> datetime:
    instant = to_datetime(seconds)
    assert instant is not None
    return instant
