"""Look into a queue and steer it: counts, history, jobs, attempts, workers, groups, schedules; run, archive, delete, cancel,
update; pause and resume.

Reads are short, each one, so that no reader keeps the WAL from shrinking. Every change of one job is one write transaction that
looks at the job's state first, so it is safe beside workers: a job that a worker claims at the same moment is either changed
before the claim, or is active by then and the call says so. Operations over many jobs are many such transactions, of at most a
thousand jobs, with pauses in which workers and producers get their turn; a program that is killed in between has changed some of
the jobs and not the others.

What may be done to a job in which state stands in `RUNNABLE`, `ARCHIVABLE`, `CANCELLABLE`, `DELETABLE` and `UPDATABLE`.

The records are in `_inspect_facts`; reading, writing and finding one job in `_inspect_access`; finding many in `_inspect_find`;
the history in `_inspect_history`; what a change does in `_inspect_change`; whether a worker lives, and what its children are at,
in `_inspect_workers`; ids that are nearly right in `_inspect_ids`.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from fireforget import (
    _dependencies,
    _groups,
    _history,
    _inspect_history,
    _limited,
    _limits,
    _schedules,
    _sql,
    _sql_change,
    _sql_find,
    _sql_inspect,
    _sql_queues,
    cron,
)
from fireforget import payload as json_payload
from fireforget._backup import Backup
from fireforget._claimed import public_id
from fireforget._doctor import Finding, examine
from fireforget._handler_limits import UNFIT, named_in, parse_rate
from fireforget._history import DAY, first_of
from fireforget._inspect_access import STATE, Access, Connection, instant, state_of
from fireforget._inspect_change import (
    ARCHIVABLE,
    CANCEL_IT,
    CANCELLABLE,
    DELETABLE,
    RESCHEDULABLE,
    RUN_REMEDIES,
    RUNNABLE,
    UNCHANGED,
    UPDATABLE,
    UPDATE_REMEDIES,
    Changer,
    Unchanged,
)
from fireforget._inspect_facts import (
    ROW_BYTES,
    Attempt,
    ChildDeath,
    ChildInfo,
    ChildJob,
    Dependant,
    GroupInfo,
    HistoryPoint,
    LimitInfo,
    Need,
    QueueStats,
    ScheduleEvent,
    ScheduleInfo,
    Step,
    WorkerInfo,
)
from fireforget._inspect_find import MOST_READ, Filter, Finder
from fireforget._inspect_ids import Ids
from fireforget._inspect_workers import board_of, children_on, last_death_on, names_of_running
from fireforget._limits import QueueLimits
from fireforget._rows import info_of
from fireforget._schema import STATE_OF_NUMBER
from fireforget._workers import is_alive
from fireforget.clock import Seconds, to_datetime
from fireforget.errors import InvalidOption, QueueNotEmpty, ScheduleInUse, UnknownQueue, UnknownSchedule
from fireforget.queue_sqlite import SqliteQueue
from fireforget.registry import Registry
from fireforget.task import State, TaskInfo, check_options

__all__ = [
    "ARCHIVABLE",
    "CANCELLABLE",
    "DELETABLE",
    "RUNNABLE",
    "UNCHANGED",
    "UPDATABLE",
    "Attempt",
    "Backup",
    "ChildDeath",
    "ChildInfo",
    "ChildJob",
    "Dependant",
    "Finding",
    "GroupInfo",
    "HistoryPoint",
    "Inspector",
    "LimitInfo",
    "Need",
    "QueueStats",
    "ScheduleEvent",
    "ScheduleInfo",
    "Step",
    "WorkerInfo",
]

_QUEUES_IN_ORDER = (State.PENDING, *(state for state in State if _sql.number_of(state) >= _sql_find.FIRST_RESTING))  # by index
_SAMPLED = 100  # jobs, for the estimate of a queue's bytes


class Inspector:
    """Looks into a queue and steers it. Safe to share between threads, and to use while workers run; raises `StoreError`s."""

    def __init__(self, queue: SqliteQueue) -> None:
        if isinstance(queue, str | os.PathLike):
            raise InvalidOption("queue", queue, f"give an open queue: Inspector(SqliteQueue({os.fspath(queue)!r}))")
        if not isinstance(queue, SqliteQueue):
            raise InvalidOption("queue", queue, "give an open queue: a SqliteQueue")
        self._queue = queue
        self._access = Access(queue)
        self._finder = Finder(self._access)
        self._changer = Changer(self._access, self._finder)
        self._ids = Ids(self._access)

    # --- queues and workers -------------------------------------------------------------------------------------------

    def queues(self) -> list[QueueStats]:
        """Return every queue that has or had jobs, or was paused, by name.

        A million jobs are counted in about a tenth of a second, in one read.
        """
        with self._access.reading() as connection:
            counted = connection.execute(_sql_queues.COUNT_JOBS).fetchall()
            paused = dict(connection.execute(_sql_queues.QUEUES).fetchall())
            totals = {queue: row for queue, *row in connection.execute(_history.TOTALS, {"today": self._today()})}
            sizes = self._sizes(connection)
        counts: dict[str, dict[State, int]] = {name: _zeros() for name in (*paused, *totals)}
        oldest: dict[str, float] = {}
        for name, number, jobs, due in counted:
            counts.setdefault(name, _zeros())[STATE_OF_NUMBER[number]] += jobs
            if due is not None:
                oldest[name] = due
        return [
            self._stats(name, by_state, oldest.get(name), paused.get(name), totals.get(name), sizes)
            for name, by_state in sorted(counts.items())
        ]

    def queue_stats(self, name: str) -> QueueStats:
        """Return one queue; raises `UnknownQueue` when it never had jobs, was never paused and no worker serves it."""
        parameters = {"queue": name}
        with self._access.reading() as connection:
            counts, oldest = _zeros(), None
            for number, jobs, due in connection.execute(_sql_queues.COUNT_JOBS_OF_QUEUE, parameters):
                counts[STATE_OF_NUMBER[number]] += jobs
                oldest = due if due is not None else oldest
            paused = dict(connection.execute(_sql_queues.QUEUES).fetchall())
            totals = connection.execute(_history.TOTALS_OF_QUEUE, {**parameters, "today": self._today()}).fetchone()
            sizes = self._sizes(connection)
        if name not in paused and totals is None and not any(counts.values()) and name not in self._served():
            raise UnknownQueue(name)
        return self._stats(name, counts, oldest, paused.get(name), None if totals is None else totals[1:], sizes)

    def _stats(
        self,
        name: str,
        counts: dict[State, int],
        oldest: float | None,
        paused_at: float | None,
        totals: Sequence[int] | None,
        sizes: Mapping[str, float],
    ) -> QueueStats:
        latency = 0.0 if oldest is None else max(0.0, self._access.now() - oldest)
        size = round(sum(counts.values()) * sizes.get(name, sizes.get("", 0.0)))
        today, failed_today, total, failed_total = totals or (0, 0, 0, 0)
        return QueueStats(
            name=name,
            counts=counts,
            latency=latency,
            paused=paused_at is not None,
            paused_at=to_datetime(paused_at),
            processed_today=today,
            failed_today=failed_today,
            processed_total=total,
            failed_total=failed_total,
            bytes=size,
        )

    def _sizes(self, connection: Connection) -> dict[str, float]:
        """Return the mean bytes of a job by queue, and under "" of all queues, from jobs at even distances over the table."""
        first = connection.execute(_sql_find.NEXT_NUMBER, {"after": -1}).fetchone()[0] or 0
        step = max(1, ((connection.execute(_sql.LAST_NUMBER).fetchone()[0] or 0) - first) // _SAMPLED)
        found: dict[str, list[int]] = {}
        for at in range(_SAMPLED):
            row = connection.execute(_sql_inspect.SIZE_OF_JOB, {"n": first + at * step}).fetchone()
            for name in (row[0], "") if row is not None else ():
                found.setdefault(name, []).append(row[1] + ROW_BYTES)
        return {name: sum(sizes) / len(sizes) for name, sizes in found.items()}

    def history(
        self,
        queue: str | None = None,
        days: int | None = None,
        *,
        hours: int | None = None,
        minutes: int | None = None,
        type: str | None = None,
    ) -> list[HistoryPoint]:
        """Return what became of runs in each of the last days, hours or minutes, of one queue or of all: the running one first.

        One of `days` (1 to 90), `hours` (1 to 168) and `minutes` (1 to 180) says how many; without any, 10 days. Those in which
        nothing ended are there with zeros, and all begin in UTC. `type` is a pattern of a handler, None for all. What is older
        than 90 days is in the totals of `QueueStats` alone. Workers write the counts about once a second, so those of the last
        second may be missing, and are lost where a worker is killed. One read. Raises `InvalidOption`.
        """
        return _inspect_history.points(self._access, queue, type, days=days, hours=hours, minutes=minutes)

    def history_of_types(
        self, queue: str | None = None, days: int | None = None, *, hours: int | None = None, minutes: int | None = None
    ) -> dict[str, HistoryPoint]:
        """Return the sums of each type over the last days, hours or minutes, of one queue or of all: the most frequent first.

        The arguments are those of `history`. Up to 50 types of a queue are counted by themselves on one day, the first that come;
        the others are "(other)". One read. Raises `InvalidOption`.
        """
        return _inspect_history.sums_of_types(self._access, queue, days=days, hours=hours, minutes=minutes)

    def _today(self) -> int:
        return first_of(DAY, 1, self._access.now())

    def counts(self, queue: str | None = None) -> dict[State, int]:
        """Return how many jobs are in each state, zeros included, of one queue or of all; of an unknown queue there are none."""
        counts = _zeros()
        with self._access.reading() as connection:
            if queue is None:
                rows = [row[1:] for row in connection.execute(_sql_queues.COUNT_JOBS)]
            else:
                rows = connection.execute(_sql_queues.COUNT_JOBS_OF_QUEUE, {"queue": queue}).fetchall()
        for number, jobs, _ in rows:
            counts[STATE_OF_NUMBER[number]] += jobs
        return counts

    def knows_queue(self, name: str) -> bool:
        """Return whether a queue has or had jobs, was paused once, or is served by a worker."""
        with self._access.reading() as connection:
            known = bool(connection.execute(_sql_queues.KNOWS_QUEUE, {"queue": name}).fetchone()[0])
        return known or name in self._served()

    def queue_names(self) -> list[str]:
        """Return the names of all queues that have or had jobs, were paused once, or are served by a worker."""
        with self._access.reading() as connection:
            rows = connection.execute(_sql_queues.QUEUES_OF_OTHERS).fetchall()
            for state in _QUEUES_IN_ORDER:
                rows += connection.execute(_sql_queues.queues_in(_sql.number_of(state)), {"most": -1}).fetchall()
        return sorted({name for (name,) in rows} | self._served())

    def _served(self) -> set[str]:
        with self._access.reading() as connection:
            rows = connection.execute(_sql.WORKERS).fetchall()
        return {name for row in rows for name in json.loads(row[6])}

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that have signed in, oldest first; those that were killed stand here until another takes over.

        What their children run is of the moment at which it was read, and costs the workers nothing.
        """
        path, tag, ahead = self._queue.path, self._access.tag, self._access.now() - time.monotonic()
        with self._access.reading() as connection:
            rows = connection.execute(_sql_inspect.WORKERS_AND_LOAD).fetchall()
            boards = {lock_file: board_of(path, lock_file, boot) for *_, lock_file, boot in rows}
            names = names_of_running(connection, [board for board in boards.values() if board is not None], tag)
        found = []
        for name, host, pid, queues, concurrency, threads, started_at, active, lock_file, boot in rows:
            alive, board = is_alive(path, lock_file, boot, pid), boards[lock_file]
            children: list[ChildInfo] | None = None if alive else []
            if alive and board is not None:
                children = children_on(board, names, ahead, is_here=host == socket.gethostname())
            found.append(
                WorkerInfo(
                    name, host, pid, json.loads(queues), concurrency, threads, instant(started_at), active, alive, children,
                    None if board is None else board.deaths, None if board is None else last_death_on(board),
                )
            )  # fmt: skip
        return found

    def tasks_of_worker(self, name: str, limit: int = 100) -> list[TaskInfo]:
        """Return up to `limit` jobs in the hands of a worker, first enqueued first; none of an unknown one."""
        _check_limit(limit)
        with self._access.reading() as connection:
            rows = connection.execute(_sql_inspect.JOBS_IN_HANDS, {"name": name, "most": limit}).fetchall()
        return [info_of(row, self._access.tag) for row in rows]

    def groups(self, queue: str | None = None, *, registry: Registry | None = None) -> list[GroupInfo]:
        """Return the groups that wait, by queue and name: of one queue or of all.

        When a group completes is the aggregators' rule, so it takes the application's `registry` to know; None leaves it open.
        """
        with self._access.reading() as connection:
            rows = connection.execute(_groups.GROUPS, {"queue": queue}).fetchall()
        found = []
        for its_queue, name, closed, size, oldest, newest in sorted(rows):
            known = None if registry is None or closed else registry.aggregator_of(name)
            completes_at = None if known is None else to_datetime(known[1].complete_at(size, oldest, newest))
            found.append(GroupInfo(its_queue, name, size, instant(oldest), instant(newest), bool(closed), completes_at))
        return found

    def pause_queue(self, name: str) -> bool:
        """Have workers claim nothing more from a queue; what runs goes on, and enqueueing too. Return whether it was not paused.

        Any name is allowed, so that a queue can be paused before its first job. Raises `InvalidOption` for a blank one.
        """
        check_options({"queue": name})
        with self._access.changing() as connection:
            return bool(connection.execute(_sql_queues.PAUSE_QUEUE, {"queue": name, "now": self._access.now()}).rowcount)

    def resume_queue(self, name: str) -> bool:
        """Have workers claim from a queue again; return whether it was paused."""
        with self._access.changing() as connection:
            return bool(connection.execute(_sql_queues.RESUME_QUEUE, {"queue": name}).rowcount)

    def limits(self, name: str) -> QueueLimits:
        """Return what a queue keeps of jobs that ended; of one that has no limits, which is all out of the box, everything."""
        with self._access.reading() as connection:
            return _limits.read(connection, name)

    def set_limits(
        self,
        name: str,
        *,
        archived_max: int | Unchanged | None = UNCHANGED,
        archived_age: Seconds | Unchanged | None = UNCHANGED,
        completed_max: int | Unchanged | None = UNCHANGED,
        completed_age: Seconds | Unchanged | None = UNCHANGED,
        cancelled_max: int | Unchanged | None = UNCHANGED,
        cancelled_age: Seconds | Unchanged | None = UNCHANGED,
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
        with self._access.changing() as connection:
            return _limits.write(connection, name, checked)

    def delete_queue(self, name: str, *, force: bool = False) -> int:
        """Delete a queue, and with `force` all its jobs and their attempts; return how many jobs that were.

        Without `force` raises `QueueNotEmpty` when it has jobs. Running jobs are never deleted: with any, `QueueNotEmpty` says
        so and nothing is changed; one that a worker claims in the meantime stays, and the error says how many were deleted. A
        pause, limits and history end with the queue. Raises `UnknownQueue`.
        """
        counts = self.queue_stats(name).counts
        size = sum(counts.values())
        if size and not force:
            raise QueueNotEmpty(name, size, ": delete it with force, or delete or run them first")
        if counts[State.ACTIVE]:
            raise QueueNotEmpty(name, counts[State.ACTIVE], " that run: cancel them, or wait until they have ended")
        # Those that wait for others first, since they are cancelled with these; pending ones last, since others become so.
        in_order = sorted(DELETABLE, key=lambda state: (state is not State.BLOCKED, state is State.PENDING))
        deleted = sum(self.delete_all(state, queue=name) for state in in_order)
        with self._access.changing() as connection:
            left = sum(jobs for _, jobs, _ in connection.execute(_sql_queues.COUNT_JOBS_OF_QUEUE, {"queue": name}))
            if not left:
                connection.execute(_history.DELETE_HISTORY_OF_QUEUE, {"queue": name})
                connection.execute(_sql_queues.DELETE_QUEUE, {"queue": name})
                _limits.forget(connection, name)
        if left:
            raise QueueNotEmpty(
                name, left, f" that came or were claimed meanwhile; {deleted} were deleted: pause it and try again"
            )
        return deleted

    # --- schedules ----------------------------------------------------------------------------------------------------

    def schedules(self) -> list[ScheduleInfo]:
        """Return the schedules that workers have brought along, by name; also those that no running worker has any more."""
        with self._access.reading() as connection:
            rows = _schedules.read_all(connection)
            having = _schedules.of_workers(connection)
        return [_schedule_info(row, sum(name in digests for digests in having)) for name, row in rows.items()]

    def schedule(self, name: str) -> ScheduleInfo:
        """Return one schedule; raises `UnknownSchedule`."""
        with self._access.reading() as connection:
            row = self._schedule(connection, name)
            return _schedule_info(row, sum(name in digests for digests in _schedules.of_workers(connection)))

    def schedule_history(self, name: str, limit: int = 100) -> list[ScheduleEvent]:
        """Return what became of the last ticks of a schedule, the newest first; 1,000 are kept. Raises `UnknownSchedule`, and
        `InvalidOption` for a `limit` that is no number above 0.
        """
        _check_limit(limit)
        with self._access.reading() as connection:
            self._schedule(connection, name)
            rows = _schedules.events(connection, name, limit)
        return [ScheduleEvent(instant(row.tick), instant(row.at), row.outcome, row.job, row.detail) for row in rows]

    def pause_schedule(self, name: str) -> bool:
        """Have nothing enqueued at a schedule's ticks, also after restarts; return whether it was not paused.

        Raises `UnknownSchedule`.
        """
        with self._access.changing() as connection:
            self._schedule(connection, name)
            return _schedules.pause(connection, name, self._access.now())

    def resume_schedule(self, name: str) -> bool:
        """Have a schedule tick again, from its next tick on; return whether it was paused.

        What would have been enqueued in the meantime was not missed, and is not made up for. Raises `UnknownSchedule`.
        """
        with self._access.changing() as connection:
            row = self._schedule(connection, name)
            next_at = cron.parse(row.expression, row.timezone).next_after(self._access.now())
            return _schedules.resume(connection, name, next_at)

    def delete_schedule(self, name: str) -> None:
        """Forget a schedule that no registry has any more, with its history; the jobs that it enqueued stay.

        Raises `UnknownSchedule`, and `ScheduleInUse` when a running worker has it.
        """
        with self._access.changing() as connection:
            self._schedule(connection, name)
            if any(name in digests for digests in _schedules.of_workers(connection)):
                raise ScheduleInUse(name)
            _schedules.delete(connection, name)

    def _schedule(self, connection: Connection, name: str) -> _schedules.ScheduleRow:
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
        return examine(self._queue.path, full=full, clock=self._access.now)

    # --- looking at jobs ----------------------------------------------------------------------------------------------

    def task(self, job_id: str) -> TaskInfo:
        """Return one job; raises `UnknownJob` when none is stored under this id."""
        with self._access.reading() as connection:
            return self._access.info(connection, job_id)

    def attempts(self, job_id: str) -> list[Attempt]:
        """Return the failed runs of a job, first to last; raises `UnknownJob`."""
        with self._access.reading() as connection:
            number = self._access.find(connection, job_id)[0]
            rows = connection.execute(_sql_inspect.ATTEMPTS, {"n": number}).fetchall()
        return [
            Attempt(number, instant(started_at), duration, worker, error, traceback)
            for number, started_at, duration, worker, error, traceback in rows
        ]

    def steps(self, job_id: str) -> list[Step]:
        """Return the steps of a job whose results are stored, in the order in which they were; raises `UnknownJob`."""
        with self._access.reading() as connection:
            rows = connection.execute(_sql_inspect.STEPS, {"n": self._access.find(connection, job_id)[0]}).fetchall()
        return [Step(name, instant(stored_at), json_payload.decode(result)) for name, stored_at, result in rows]

    def needs(self, job_id: str) -> list[Need]:
        """Return the jobs that a job waits for, in the order of its `after`; raises `UnknownJob`.

        A job that has succeeded waits for none any more.
        """
        with self._access.reading() as connection:
            rows = connection.execute(_dependencies.WAITS_FOR, {"n": self._access.find(connection, job_id)[0]}).fetchall()
        return [Need(need, _state_or_none(state), _state_or_none(outcome), reason) for need, outcome, reason, state, _ in rows]

    def dependants(self, job_id: str, limit: int = 100) -> list[Dependant]:
        """Return the jobs that wait for a job, in the order in which they were enqueued, up to `limit` of them.

        Raises `UnknownJob`, and `InvalidOption` for a limit that is no number above 0.
        """
        _check_limit(limit)
        with self._access.reading() as connection:
            found = self._access.find(connection, job_id)[0]
            rows = connection.execute(_dependencies.WAITED_FOR_BY, {"n": found, "most": limit}).fetchall()
        tag = self._access.tag
        return [Dependant(own or public_id(tag, n, nonce), STATE_OF_NUMBER[state]) for n, nonce, own, state in rows]

    def limit_of(self, job_id: str) -> LimitInfo | None:
        """Return the limits that a job counts towards, and whether it waits for them; None where no worker has any for it.

        The numbers are those of the newest worker that has this handler. A job that was stored without its handler at hand has
        none before a worker has looked at it. Raises `UnknownJob`.
        """
        with self._access.reading() as connection:
            key = connection.execute(_limited.LIMIT_KEY_OF, {"n": self._access.find(connection, job_id)[0]}).fetchone()[0]
            if key is None or key == UNFIT:
                return None
            handler, filled = named_in(key)
            known: dict[str, Any] = {}
            for (limits,) in connection.execute(_limited.LIMITS_OF_WORKERS):
                known.update(json.loads(limits))
            numbers = known.get(handler)
            if numbers is None:
                return None
            running = connection.execute(_limited.RUNNING_OF_KEY, {"limit_key": key}).fetchone()[0]
            started, opens_at = self._starts(connection, key, numbers["rate"])
        return LimitInfo(handler, filled, numbers["concurrency"], running, numbers["rate"], started, opens_at)

    def _starts(self, connection: Connection, key: str, rate_text: str | None) -> tuple[int, datetime | None]:
        """Return how many starts count towards a rate now, and when the next one is allowed if none is now."""
        rate = parse_rate(rate_text)
        if rate is None:
            return 0, None
        now = self._access.now()
        counted = {"limit_key": key, "after": now - rate.seconds, "latest": now + 2 * rate.seconds}
        started = connection.execute(_limited.STARTS_OF_KEY, counted).fetchone()[0]
        if started < rate.starts:
            return started, None
        earliest = connection.execute(_limited.STARTED_BEFORE, {**counted, "newer": rate.starts - 1}).fetchone()[0]
        return started, instant(earliest + rate.seconds)

    def tasks(
        self,
        state: State | str | None = None,
        *,
        queue: str | None = None,
        type: str | None = None,
        older_than: Seconds | None = None,
        newer_than: Seconds | None = None,
        error: str | None = None,
        payload: Mapping[str, Any] | None = None,
        group: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[TaskInfo]:
        """Return jobs in the order in which they were enqueued, in any state or one.

        What narrows them, all of it together: `queue`; `type`, where one that ends in ":" stands for all that begin so;
        `older_than` and `newer_than`, seconds since they ended or, where they have not, since they were enqueued; `error`, text
        that their last error contains; `payload`, members that their payload has, with these values: {"user_id": 7}, or with a
        path to a member of a member, {"user.id": 7}; `group`, the one that they were enqueued with.

        `limit` is the most to return; `after` is the id of the last job of the page before, which need not be stored any more
        unless its id was the caller's own: pages neither miss a job that stays in the state nor show one twice. A page costs a
        few milliseconds at a million jobs; looking for a rare type, error or payload costs a look at each job of the state, in
        short reads. Raises `UnknownJob` for an `after` that is no id or is gone, `InvalidOption` for the others.
        """
        wanted = self._finder.filter(
            state,
            queue=queue,
            type=type,
            older_than=older_than,
            newer_than=newer_than,
            error=error,
            payload=payload,
            group=group,
        )
        _check_limit(limit)
        infos: list[TaskInfo] = []
        since = 0 if after is None else self._access.number_of(after)
        for numbers in self._finder.scan(wanted, since, limit if payload is None else MOST_READ):
            for row in self._finder.rows(wanted, f"{_sql.JOB_COLUMNS}, payload", numbers):
                infos.append(info_of(row[:-1], self._access.tag))
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
        newer_than: Seconds | None = None,
        error: str | None = None,
        payload: Mapping[str, Any] | None = None,
        group: str | None = None,
    ) -> int:
        """Return how many jobs there are of those that `tasks` would list with the same arguments."""
        wanted = self._finder.filter(
            state,
            queue=queue,
            type=type,
            older_than=older_than,
            newer_than=newer_than,
            error=error,
            payload=payload,
            group=group,
        )
        if wanted.by_queue_alone:
            assert wanted.state is not None
            return self.counts(queue)[wanted.state]
        return sum(len(numbers) for numbers in self._finder.matching(wanted))

    def similar_ids(self, job_id: str) -> list[str]:
        """Return ids of stored jobs that look like this one, for mistyped ids: a letter apart, or beginning alike."""
        return self._ids.similar(job_id)

    def ids_beginning(self, text: str, limit: int = 50) -> list[str]:
        """Return up to `limit` ids of stored jobs that begin with a text; the latest ones for an empty one."""
        _check_limit(limit)
        return self._ids.beginning(text, limit)

    # --- changing one job ---------------------------------------------------------------------------------------------

    def run(self, job_id: str) -> TaskInfo:
        """Make a job pending now, and return it.

        A scheduled job runs ahead of its time, one in retry too, with the retries it has left. A job that ended (archived,
        cancelled, completed) begins anew: `retry_count` is 0 again, so that it has all its retries, and the result and progress
        of the run before are gone; the attempts so far stay, and later ones are numbered on. So do the steps, so that it goes on
        after the last one that is stored, but for a completed job, which does all of them again. A job that waits in a group runs
        by itself; one that was archived or cancelled with its group goes back into the group. A unique key that was given up
        when the job ended is taken again, for what is left of its `unique_for`.

        Jobs that were archived or cancelled because this one was, and those that were because of them, wait anew. One of these
        itself runs at once, though what it waited for has failed.

        One transaction. Raises `UnknownJob`; `JobActive`; `WrongState` when it is pending already, blocked, or past its deadline
        (it would only be archived again: `update` it first); `DuplicateTask` when another job holds its key.
        """
        with self._access.changing() as connection:
            row = self._access.find_in(connection, job_id, RUNNABLE, RUN_REMEDIES)
            with _dependencies.noticing(connection, [row[0]]):
                self._changer.run(connection, row[0], job_id, state_of(row))
            return self._access.info(connection, job_id)

    def archive(self, job_id: str) -> TaskInfo:
        """Put a job among the dead letters, where it stays until it is run or deleted, and return it; its unique key is free.

        Jobs that wait for it are archived with it, except those with `after_failure="run"`.

        One transaction. Raises `UnknownJob`, `JobActive` (cancel it instead), and `WrongState` when it is archived already.
        """
        return self._end(job_id, ARCHIVABLE, {State.ACTIVE: CANCEL_IT, State.ARCHIVED: "run or delete it"}, _sql_change.shelve)

    def cancel(self, job_id: str) -> TaskInfo:
        """Cancel a job, and return it: at once unless it runs; its unique key is free.

        A running job is still active in what is returned: its worker interrupts it with `JobCancelled`, kills its process 1 s
        later, and it ends as cancelled, unless it ends by itself before. Asking twice changes nothing. Jobs that wait for it are
        cancelled with it, except those with `after_failure="run"`.

        One transaction. Raises `UnknownJob`, and `WrongState` for a job that ended already.
        """
        remedy = "it has ended already; delete it, if it is to go"
        return self._end(job_id, CANCELLABLE, dict.fromkeys(State, remedy), _sql_change.call_off)

    def delete(self, job_id: str) -> None:
        """Delete a job with its attempts and steps; its unique key and its id are free.

        Jobs that wait for it are cancelled, except those with `after_failure="run"`. With a completed job goes its result, also
        for those that have yet to read it.

        One transaction. Raises `UnknownJob` and `JobActive` (cancel it first).
        """
        with self._access.changing() as connection:
            row = self._access.find_in(connection, job_id, DELETABLE, {State.ACTIVE: f"{CANCEL_IT}, then delete it"})
            with _dependencies.noticing(connection, [row[0]]):
                connection.execute(_sql_change.remove(row[STATE]), {"n": row[0]})
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
        deadline: datetime | Unchanged | None = UNCHANGED,
    ) -> TaskInfo:
        """Change a job that does not run, and return it. What is not given stays; a `payload` or `deadline` of None removes it.

        `process_at` or `process_in` (seconds from now) move a job that waits: to a time to come, it is scheduled, or in retry
        where it was; to now or before, it is pending. A unique key that stands for queue, type and payload follows them.

        One transaction. Raises `UnknownJob`; `JobActive`; `WrongState` for a completed job, and for a new time for one that does
        not wait; `InvalidOption` and `InvalidPayload` as a `Task` would, also when nothing was given; `DuplicateTask` when
        another job holds the key that it would have.
        """
        given = {"queue": queue, "priority": priority, "process_at": process_at, "process_in": process_in}
        changes = self._changer.checked({**given, "payload": payload, "deadline": deadline}, job_id)
        with self._access.changing() as connection:
            row = self._access.find_in(connection, job_id, UPDATABLE, UPDATE_REMEDIES)
            self._changer.update(connection, row, job_id, changes)
            return self._access.info(connection, job_id)

    # --- changing many jobs -------------------------------------------------------------------------------------------

    def run_all(self, state: State | str, **filters: Any) -> int:
        """Do `run` to all jobs of a state that match, and return how many that were.

        `filters` are those of `tasks`: queue, type, older_than, newer_than, error, payload, group. Those that `run` would refuse
        (another job holds their key, their deadline has passed) stay as they are. Transactions of at most 1,000 jobs each; jobs
        that come into the state while this works are left alone. Raises `InvalidOption` for a state in which no job can be run.
        """
        return self._changer.all(state, filters, RUNNABLE, "run", self._changer.run_if_possible)

    def archive_all(self, state: State | str, **filters: Any) -> int:
        """Do `archive` to all jobs of a state that match, and return how many that were; otherwise like `run_all`."""
        return self._changer.all(state, filters, ARCHIVABLE, "archived", self._changer.each(_sql_change.shelve))

    def cancel_all(self, state: State | str, **filters: Any) -> int:
        """Do `cancel` to all jobs of a state that match, and return how many that were; otherwise like `run_all`.

        For "active", it is how many were asked to end.
        """
        return self._changer.all(state, filters, CANCELLABLE, "cancelled", self._changer.each(_sql_change.call_off))

    def delete_all(self, state: State | str, **filters: Any) -> int:
        """Do `delete` to all jobs of a state that match, and return how many that were; otherwise like `run_all`."""

        def delete(connection: Connection, wanted: Filter, rows: list[dict[str, Any]]) -> int:
            deleted = self._changer.each(_sql_change.remove)(connection, wanted, rows)
            numbers = [(row["n"],) for row in rows]
            connection.executemany(_sql.DELETE_ATTEMPTS_OF_GONE, numbers)
            connection.executemany(_sql.DELETE_STEPS_OF_GONE, numbers)
            return deleted

        return self._changer.all(state, filters, DELETABLE, "deleted", delete)

    def update_all(self, state: State | str, changes: Mapping[str, Any], **filters: Any) -> int:
        """Do `update` to all jobs of a state that match, and return how many that were; otherwise like `run_all`.

        `changes` are the arguments of `update`, such as {"queue": "low", "priority": 5}; `filters` look at the jobs as they were
        before. Those whose new unique key another job holds stay as they are. Raises what `update` does for changes that no job
        could have.
        """
        checked = self._changer.checked(changes, str(state))
        if not RESCHEDULABLE & {state} and checked.keys() & {"process_at", "process_in"}:
            raise InvalidOption("state", str(state), "jobs in this state do not wait for a time; run them instead")
        return self._changer.all(state, filters, UPDATABLE, "updated", self._changer.update_each(checked))

    def _end(
        self, job_id: str, allowed: frozenset[State], remedies: Mapping[State, str], statement: Callable[[int], str]
    ) -> TaskInfo:
        with self._access.changing() as connection:
            row = self._access.find_in(connection, job_id, allowed, remedies)
            with _dependencies.noticing(connection, [row[0]]):
                connection.execute(statement(row[STATE]), {"n": row[0], "now": self._access.now()})
            return self._access.info(connection, job_id)


def _schedule_info(row: _schedules.ScheduleRow, workers: int) -> ScheduleInfo:
    paused = row.paused_at is not None
    next_at = None if paused or row.next_at == float("inf") else instant(row.next_at)
    return ScheduleInfo(
        row.name, row.type, row.queue, row.expression, row.timezone, row.missed, next_at, to_datetime(row.last_at), paused,
        to_datetime(row.paused_at), workers,
    )  # fmt: skip


def _check_limit(limit: int) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidOption("limit", limit, "give a number above 0")


def _state_or_none(number: int | None) -> State | None:
    return None if number is None else STATE_OF_NUMBER[number]


def _zeros() -> dict[State, int]:
    return dict.fromkeys(State, 0)
