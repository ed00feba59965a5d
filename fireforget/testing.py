"""For the tests of applications: an enqueuer that records, functions that enqueue ticks and run jobs now, and a clock to turn.

::

    application ─ enqueue ─► RecordingEnqueuer ─ jobs, tasks() ─► what was handed over?
                      │              │
                      └► SqliteQueue ┴─ drain ─► claim one ─► middleware, handler ─► settle ─► what became of it?
                                          ▲
                       ManualClock ───────┘  what is due, and since when

Nothing is imitated: tasks are checked by the code of `SqliteQueue`, claimed and settled by that of a worker's supervisor, and run
by that of its children. A `RecordingEnqueuer` has the same tables, in memory. What is missing is what takes processes: no time
limit is enforced, no running job is interrupted, and a handler that ends its process ends the test.
"""

import asyncio
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from fireforget import payload as json_payload
from fireforget._claimed import Row, id_of
from fireforget._claims import HOOK, MOST_EXPIRED, MOST_FORWARDED, Claims
from fireforget._conformance import check_enqueuer
from fireforget._db import DEFAULT_PATIENCE, Database, translated
from fireforget._effects import HandlersDatabase
from fireforget._inserting import insert_all
from fireforget._pool import hooks
from fireforget._pool.board import Board
from fireforget._pool.config import DEFAULT_QUEUES, Settings
from fireforget._pool.groups import AGGREGATE, Groups, aggregates
from fireforget._pool.groups import definition as definition_of_groups
from fireforget._pool.plan import Lanes
from fireforget._pool.recovery import Recovery
from fireforget._pool.runner import Host, Runner, flush_submissions
from fireforget._pool.schedules import Schedules
from fireforget._pool.verdicts import Verdicts
from fireforget._rows import Row as NewRow
from fireforget._rows import find_job, get_job, info_of, tag_of
from fireforget.clock import Clock, Seconds, to_datetime, to_seconds, to_unix
from fireforget.errors import FireforgetError, InvalidOption, InvalidPayload, QueueClosed
from fireforget.job import Job
from fireforget.metrics import Samples
from fireforget.middleware import Handler, describe, is_failure, samples
from fireforget.queue_sqlite import DEFAULT_MAX_PAYLOAD, Intake, SqliteQueue, open_in_memory
from fireforget.registry import Definition, Registry
from fireforget.task import Progress, State, Task, TaskInfo, check_call_options, check_task

__all__ = ["FinishedRun", "ManualClock", "Outcome", "RecordingEnqueuer", "check_enqueuer", "drain", "tick"]

Outcome = Literal["completed", "retry", "archived", "postponed", "revoked", "cancelled"]
"""What became of a run: it succeeded; it failed and is tried again; it failed for good, or its deadline had passed; it raised
`RetryLater`, `RevokeTask` or `JobCancelled`."""


# --- time ---------------------------------------------------------------------------------------------------------------


class ManualClock:
    """A wall clock that moves only when it is told to; give it to `SqliteQueue(path, clock=...)` or `RecordingEnqueuer`.

    `start` is an aware datetime; None is the present moment. Safe to share between threads. Raises `InvalidOption` for a naive
    datetime.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._lock = threading.Lock()
        self._now = time.time() if start is None else to_unix("start", start)

    def __call__(self) -> float:
        """Return the time in Unix seconds."""
        return self._now

    @property
    def now(self) -> datetime:
        """The time as an aware datetime in UTC."""
        return self._rounded(self._now)

    def advance(self, seconds: Seconds) -> None:
        """Let time pass: `seconds` is an int, float or timedelta of 0 or more; raises `InvalidOption` for anything else."""
        with self._lock:
            self._now += to_seconds("seconds", seconds)

    def move_to(self, instant: datetime) -> None:
        """Go to an instant, such as the `next_process_at` of a job: `now` is that instant, and what is due at it is due.

        It may go back, as when somebody sets a machine's clock. Raises `InvalidOption` for a naive datetime.
        """
        reached = to_unix("instant", instant)
        # A datetime is rounded to a microsecond: the stored instant may be the last one that is rounded to this datetime.
        latest = reached + 0.0000005
        while self._rounded(latest) > instant:
            latest = math.nextafter(latest, -math.inf)
        with self._lock:
            self._now = max(reached, latest)

    @staticmethod
    def _rounded(instant: float) -> datetime:
        rounded = to_datetime(instant)
        assert rounded is not None
        return rounded

    def __repr__(self) -> str:
        return f"ManualClock({self.now.isoformat()})"


# --- an enqueuer that records ---------------------------------------------------------------------------------------------


class _Memory(Database):
    """A database in memory: nothing of a file, and one connection that threads use in turn."""

    def __init__(self) -> None:
        self.path = ":memory:"
        self._lock = threading.RLock()
        self._connection = open_in_memory()
        self.tag = tag_of(self._connection)
        weakref.finalize(self, self._connection.close)

    def sibling(self, durability: str) -> "_Memory":
        return self

    def connection(self, patience: float = DEFAULT_PATIENCE) -> Any:
        return self._connection

    @contextmanager
    def use(self, patience: float = DEFAULT_PATIENCE) -> Iterator[Any]:
        with self._lock, translated(self.path):
            yield self._connection

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Run a block in one transaction; when it raises, nothing of it happened."""
        with self.use() as connection, connection:
            connection.execute("BEGIN")
            yield connection

    def check_identity(self) -> None:
        pass

    def close(self) -> None:
        pass


class RecordingEnqueuer(Intake):
    """Takes tasks as a `SqliteQueue` does, keeps them in memory, and tells what it got.

    It refuses what a `SqliteQueue` refuses, with the same errors: what is wrong with a task, a `task_id` or unique key that is
    taken. `clock` returns Unix seconds; `max_payload` is the largest payload in bytes of JSON (1 MiB).

    It implements `Enqueuer`, and may be shared between threads. What it lacks is what takes a file: `connection=`, `Inspector`,
    `Worker` and other processes; use a `SqliteQueue` in a temporary folder for those. It lacks `wait` too, since nothing runs
    unless the test says so: `drain`, then `get`.
    """

    _database: _Memory

    def __init__(self, *, clock: Clock = time.time, max_payload: int = DEFAULT_MAX_PAYLOAD) -> None:
        super().__init__(max_payload, clock)
        self._lock = threading.Lock()  # over everything below
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._database = _Memory()
        self._tag = self._database.tag
        self._recorded: list[tuple[Task, TaskInfo]] = []
        self._failure: BaseException | type[BaseException] | None = None
        self._failures_left: int | None = None

    # --- what the application calls -----------------------------------------------------------------------------------

    def enqueue(self, task: Task, *, timeout: Seconds | None = None, connection: object = None, **options: Any) -> TaskInfo:
        """Record one task and return what was stored.

        Arguments and errors are those of `SqliteQueue.enqueue`; `timeout` is checked and nothing waits. Raises what `fail_with`
        has set, after what is wrong with the call itself.
        """
        _check_call(timeout, connection)
        row = self._row(check_task(task), check_call_options(options), self._clock())
        if row["linked"] is not None:
            self._find_beside([task], [row])
        return self._record([task], [row])[0]

    def enqueue_many(
        self, tasks: Iterable[Task], *, timeout: Seconds | None = None, connection: object = None, **options: Any
    ) -> list[TaskInfo]:
        """Record all tasks, or none of them, and return what was stored, in their order; otherwise like `enqueue`.

        An error that is about one of the tasks has its position in `index`.
        """
        _check_call(timeout, connection)
        tasks = list(tasks)
        rows = self._rows(tasks, check_call_options(options), self._clock())
        return self._record(tasks, rows) if rows else []

    async def enqueue_async(self, task: Task, *, timeout: Seconds | None = None, **options: Any) -> TaskInfo:
        """Record one task from a coroutine; arguments and errors are those of `enqueue`."""
        return self.enqueue(task, timeout=timeout, **options)

    def _record(self, tasks: list[Task], rows: list[NewRow]) -> list[TaskInfo]:
        with self._lock:
            if self._closed:
                raise QueueClosed("this RecordingEnqueuer was closed: make a new one")
            self._fail_if_told()
            with self._database.transaction() as connection:
                first = insert_all(connection, rows)
            infos = [self._stored(row, n) for n, row in enumerate(rows, first)]
            self._recorded += zip(tasks, infos, strict=True)
            return infos

    def _replace_members(self, job_id: str, size: int, task: Task, queue: str) -> TaskInfo | None:
        """Replace the members that a job aggregates by one task, as the base does, and record that."""
        with self._lock:
            info = super()._replace_members(job_id, size, task, queue)
            if info is not None:
                self._recorded.append((task, info))
            return info

    def _fail_if_told(self) -> None:
        if self._failure is None or self._failures_left == 0:
            return
        if self._failures_left is not None:
            self._failures_left -= 1
        raise self._failure

    def get(self, job_id: str) -> TaskInfo:
        """Return a job as it is by now, after a `drain` say; raises `UnknownJob` when it is not stored (any more)."""
        with self._database.use() as connection:
            row = get_job(connection, job_id, self._tag)
        return info_of(row, self._tag)

    def close(self) -> None:
        """Refuse further calls of `enqueue` with `QueueClosed`, as a closed queue does; what was recorded can still be read."""
        with self._lock:
            self._closed = True

    # --- what the test calls ------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> list[TaskInfo]:
        """What was stored, in order, each as it was when it was enqueued; also what handlers enqueued during a `drain`."""
        with self._lock:
            return [info for _, info in self._recorded]

    def tasks(self, type: str | None = None) -> list[Task]:
        """Return the tasks that were enqueued, in order; with `type`, those of this type, or of this prefix if it ends in ":".

        Options given at the call are not on the task: look for those in `jobs`.
        """
        with self._lock:
            return [task for task, _ in self._recorded if type is None or _is_of(task, type)]

    def fail_with(self, error: BaseException | type[BaseException] | None, *, times: int | None = None) -> None:
        """Let the next calls of `enqueue` and `enqueue_many` raise `error`, and store nothing.

        `error` is an exception or a class of them, such as `StoreBusy("jobs.db", "locked")`; None ends it. `times` is for how
        many calls; None is until it is ended or `clear` is called. Raises `InvalidOption` for anything else.
        """
        if not (error is None or isinstance(error, BaseException) or _is_exception_class(error)):
            raise InvalidOption("error", error, "give an exception, a class of exceptions, or None")
        _check_count("times", times)
        with self._lock:
            self._failure, self._failures_left = error, times

    def clear(self) -> None:
        """Forget everything: what was recorded, stored jobs with their ids and unique keys, and `fail_with`."""
        with self._lock:
            self._begin()

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name == "wait":
                raise AttributeError("a RecordingEnqueuer has no wait, since nothing runs by itself: drain it, then get the job")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __enter__(self) -> "RecordingEnqueuer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RecordingEnqueuer of {len(self._recorded)} jobs>"


def _check_call(timeout: Seconds | None, connection: object) -> None:
    if timeout is not None:
        to_seconds("timeout", timeout, above_minimum=True)
    if connection is not None:
        raise InvalidOption("connection", connection, "a RecordingEnqueuer has no file: test this with a SqliteQueue")


def _is_of(task: Task, type: str) -> bool:
    return task.type == type or (type.endswith(":") and task.type.startswith(type))


def _is_exception_class(error: object) -> bool:
    return isinstance(error, type) and issubclass(error, BaseException)


# --- schedules ------------------------------------------------------------------------------------------------------------


def tick(queue: SqliteQueue | RecordingEnqueuer, registry: Registry) -> list[TaskInfo]:
    """Enqueue what a worker would by now for the schedules of `registry`, and return the jobs in order.

    The first call makes the schedules known: they begin with their next tick by the clock of `queue`. Turn a `ManualClock` and
    call it again. Payload functions are called here and now; what they raise is raised, with nothing enqueued. Ticks that
    are more than 60 seconds old by the clock are missed ones, as for a worker.

    Raises `TypeError` for what is no queue or no registry.
    """
    _check_drained(queue, registry, "tick")
    claims = Claims(queue._database, lambda _: False, (), queue._clock)
    schedules = Schedules(registry, claims, queue, inline=True)
    with closing(claims), claims.transaction():
        schedules.next_at = -math.inf
        schedules.enqueue_due(queue._clock())
        enqueued = [(task, info_of(_found(claims, job_id, queue._tag), queue._tag)) for task, job_id in schedules.enqueued]
    if isinstance(queue, RecordingEnqueuer):
        with queue._lock:
            queue._recorded += enqueued
    return [info for _, info in enqueued]


def _found(claims: Claims, job_id: str, tag: str) -> tuple[Any, ...]:
    row = find_job(claims.connection, job_id, tag)
    assert row is not None
    return row


# --- running jobs here and now --------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class FinishedRun(TaskInfo):
    """One run of a job, and the job as it was afterwards: all that a `TaskInfo` has.

    A job that was removed is shown as it would have been kept: completed with its result, or cancelled where it was revoked.
    """

    outcome: Outcome
    error: BaseException | None
    """What the handler, or middleware, raised; None when it raised nothing, also where a deadline had passed before the run."""

    def __repr__(self) -> str:
        error = "" if self.error is None else f", {describe(self.error)}"
        return f"<FinishedRun {self.type} {self.id}: {self.outcome}{error}>"


def drain(
    queue: SqliteQueue | RecordingEnqueuer,
    registry: Registry,
    *,
    queues: Mapping[str, int] | Iterable[str] | None = None,
    strict_priority: bool = False,
    max_jobs: int | None = None,
    until: Callable[[FinishedRun], bool] | None = None,
    raise_errors: bool = False,
) -> list[FinishedRun]:
    """Run every job that is due, one after the other on this thread, and return the runs in order.

    The order, the middleware and what becomes of each job are those of a worker with one child: higher priority first inside a
    queue, then what was due first; queues share by weight, or with `strict_priority` the heavier ones go first. What handlers
    enqueue runs as well, and so does what was fired and forgotten. A job that is scheduled or waits for its next attempt runs
    when it is due by the clock of `queue`: turn a `ManualClock` and drain again. So does a group that is complete by then: the
    run of its aggregator is one whose type begins with "fireforget:aggregate:", that of its task follows.

    `queues` are the ones to serve, with their weights or by name; None is all, with the weights of a worker out of the box, and 1
    for any other. Paused queues and types that `registry` has no handler for are left alone, as a worker does. At most `max_jobs`
    are run (None: no limit); with `until`, the last is the first run for which it returns true.

    An exception of a handler, SystemExit included, is a failed run; with `raise_errors` the first one is raised once its job is
    settled. Timeouts are not enforced, since that takes a process to kill; `current_job().timeout` tells them.
    Nor are the limits of handlers: one job runs after the other, and a rate would have a test wait.

    Raises `TypeError` for what is no queue or no registry, `InvalidOption` for options that cannot be, and `FireforgetError`
    where `async` handlers would have to run inside a running event loop: call it from there with
    `await asyncio.to_thread(drain, queue, registry)`. Drains may run at the same time as each other, and beside workers: no job
    runs twice.
    """
    _check_drained(queue, registry, "drain")
    _check_count("max_jobs", max_jobs)
    weights = None if queues is None else Settings.checked(queues=queues).queues
    if _in_event_loop() and any(definition.is_async for definition in registry.definitions.values()):
        raise FireforgetError(
            "drain cannot wait for async handlers inside a running event loop: use asyncio.to_thread(drain, ...)"
        )
    flush_submissions()
    runs: list[FinishedRun] = []
    with (
        _signed_in(queue, registry, weights) as claims,
        _InlineWorker(claims, queue, registry, weights, strict_priority) as worker,
    ):
        while (max_jobs is None or len(runs) < max_jobs) and (run := worker.run_next()) is not None:
            runs.append(run)
            if raise_errors and run.error is not None and run.outcome != "postponed" and is_failure(run.error):
                raise run.error
            if until is not None and until(run):
                break
    return runs


def _check_drained(queue: object, registry: object, called: str) -> None:
    if not isinstance(queue, SqliteQueue | RecordingEnqueuer):
        hint = ""
        if isinstance(queue, Registry):
            hint = f": the queue comes first, {called}(queue, registry)"
        elif isinstance(queue, str | os.PathLike):
            hint = f": open it, SqliteQueue({os.fspath(queue)!r})"
        raise TypeError(f"{called} needs a SqliteQueue or a RecordingEnqueuer, not {queue!r}{hint}")
    if not isinstance(registry, Registry):
        raise TypeError(f"{called} needs a Registry, not {registry!r}: {called}(queue, registry)")


def _check_count(name: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidOption(name, value, "give a whole number above 0, or None for no limit")


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _InlineWorker:
    """Runs one job at a time, as a worker with one child of one thread does; the `Host` of its runner."""

    def __init__(
        self,
        claims: Claims,
        queue: SqliteQueue | RecordingEnqueuer,
        registry: Registry,
        weights: Mapping[str, int] | None,
        strict: bool,
    ) -> None:
        self.registry = registry
        self.tag = queue._tag
        self.worker = claims.worker
        self._queue = queue
        self._database: Database | None = None
        self._claims = claims
        self._clock = queue._clock
        self._weights = dict(DEFAULT_QUEUES if weights is None else weights)
        self._strict = strict
        self._lanes = Lanes(self._weights, strict)
        self._verdicts = Verdicts(registry, Samples(), claims.worker, self.tag, self._clock, lambda question, asked: None)
        self._queue = queue
        self._groups = Groups(registry, claims, queue, claims._queues)
        self._own = {AGGREGATE: definition_of_groups(registry, self.store), HOOK: hooks.definition(registry, self.tag)}
        self._runner = _HearingRunner(self, self._run_async, self._clock)
        self._loop: asyncio.Runner | None = None
        self._row: Row = ()
        self._said: dict[str, Any] = {}

    def __enter__(self) -> "_InlineWorker":
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None:
            self._loop.close()
        if self._database is not None:
            self._database.close()
        samples.drain()  # children count into it too: one that is forked from this process must begin at 0

    def definition(self, type: str) -> Definition[Any, Any] | None:
        """Return the handler of a type."""
        own = self._own.get(AGGREGATE if type.startswith(AGGREGATE) else type)
        return own or self.registry.match(type)

    def store(self) -> Intake:
        """Return the queue that is drained."""
        return self._queue

    def database(self) -> Database:
        """Return the queue's file as handlers use it, opened for the first job that needs it."""
        if self._database is None:
            database = self._queue._database
            in_memory = isinstance(self._queue, RecordingEnqueuer)
            self._database = database if in_memory else HandlersDatabase(database.path, database.identity)
        return self._database

    def send(self, message: Any) -> None:
        """Take in what the running handler says of itself."""
        if message[0] != "report":
            return  # what would hold if this process ended
        _, _, kind, value = message
        self._verdicts.reported(self._row, kind, value)
        self._said[kind] = json_payload.decode(value) if kind == "result" else Progress(*value)

    def _run_async(self, coroutine: Any, runner: Runner) -> Any:
        if self._loop is None:
            self._loop = asyncio.Runner()
        loop = self._loop.get_loop()
        return loop.run_until_complete(loop.create_task(coroutine))

    # --- one job ------------------------------------------------------------------------------------------------------

    def run_next(self) -> FinishedRun | None:
        """Claim, run and settle the next job that is due; None when there is none. Calls of hooks on the way are made too."""
        while (before := self._claim()) is not None and before.type == HOOK:
            outcome = self._runner.run(0, self._row)
            flush_submissions()
            self._verdicts.told(self._row, outcome)
            self._settle()
        if before is None:
            return None
        outcome = self._runner.run(0, self._row)
        flush_submissions()
        self._verdicts.told(self._row, outcome)
        return self._finished(before, self._settle(), _OUTCOMES["completed" if outcome is None else outcome[0]])

    def _claim(self) -> TaskInfo | None:
        claims = self._claims
        with claims.transaction():
            claims.check_schema()
            while claims.forward_due() == MOST_FORWARDED:
                pass
            while claims.remove_expired() == MOST_EXPIRED:
                pass
            while claims.spread().more:
                pass
            self._groups.close_complete(self._clock())
            while lanes := claims.lanes():
                queue = self._next_queue(lanes)
                for self._row in claims.claim(queue, lanes[queue], 1):  # none where the next one had to be archived
                    self._said = {}
                    return self._find()
            return None

    def _next_queue(self, filled: Mapping[str, list[str]]) -> str:
        unheard_of = filled.keys() - self._weights.keys()
        if unheard_of:
            self._weights.update(dict.fromkeys(sorted(unheard_of), 1))
            self._lanes = Lanes(self._weights, self._strict)
        return self._lanes.picks(filled, 1)[0]

    def _settle(self) -> TaskInfo | None:
        """Write down what became of the job, and return it as it is now; None when it was removed."""
        with self._claims.transaction():
            self._claims.settle(self._verdicts.settlement)
            info = self._find()
        self._verdicts.committed()
        self._claims.keep_wal_small()
        return info

    def _find(self) -> TaskInfo | None:
        row = find_job(self._claims.connection, id_of(self._row, self.tag), self.tag)
        return None if row is None else info_of(row, self.tag)

    def _finished(self, before: TaskInfo, after: TaskInfo | None, outcome: Outcome) -> FinishedRun:
        known = {field.name: getattr(after or before, field.name) for field in fields(TaskInfo)}
        if after is None:
            known |= self._said | {
                "state": State.CANCELLED if outcome == "revoked" else State.COMPLETED,
                "completed_at": to_datetime(self._clock()),
                "next_process_at": None,
                "worker": None,
            }
            if (result := _as_stored(self._runner.result)) is not None:
                known["result"] = result
        return FinishedRun(**known, outcome=outcome, error=self._runner.error)


_OUTCOMES: dict[str, Outcome] = {
    "completed": "completed",
    "returned": "completed",
    "settled": "completed",
    "lost": "cancelled",
    "retry": "retry",
    "archived": "archived",
    "expired": "archived",
    "later": "postponed",
    "excused": "postponed",
    "revoked": "revoked",
    "cancelled": "cancelled",
}
"""By the first word of what `Runner.run` returns (`runner.Outcome`)."""


class _HearingRunner(Runner):
    """Keeps what the last run returned or raised: an outcome tells no more of it than a supervisor has to know."""

    def __init__(self, host: Host, run_async: Callable[[Any, Runner], Any], clock: Clock) -> None:
        super().__init__(host, run_async, clock)
        self.result: Any = None
        self.error: BaseException | None = None
        self._chain = self._hearing(self._chain)
        self._transactional_chain = self._hearing(self._transactional_chain)

    def run(self, index: int, row: Row) -> Row | None:
        self.result = self.error = None
        return super().run(index, row)

    def _hearing(self, chain: Handler) -> Handler:
        def hear(job: Job) -> Any:
            try:
                self.result = chain(job)
            except BaseException as error:
                self.error = error
                raise
            return self.result

        return hear


def _as_stored(result: Any) -> Any:
    """Return a result as it comes back from the store; None for one that cannot be kept."""
    try:
        text = json_payload.encode(result)
    except InvalidPayload:
        return None
    return json_payload.decode(text) if json_payload.size_of(text) <= json_payload.MAX_RESULT_BYTES else None


# --- standing in the database as a worker -----------------------------------------------------------------------------------


class _Every(frozenset[str]):
    """All queues, those included that no job is in yet."""

    def __contains__(self, queue: object) -> bool:
        return True


@contextmanager
def _signed_in(queue: SqliteQueue | RecordingEnqueuer, registry: Registry, weights: Mapping[str, int] | None) -> Iterator[Claims]:
    """Stand in the database as a worker while the block runs: jobs can be ours, and real workers leave them alone."""

    def handles(type: str) -> bool:
        own = aggregates(registry, type) or (type == HOOK and registry._has_hooks)
        return own or registry.match(type) is not None

    claims = Claims(queue._database, handles, (), queue._clock)
    claims.hooks_of_archived = lambda of: hooks.owners_of(registry, of, "on_archived")
    if isinstance(queue, RecordingEnqueuer):
        with _registered(claims, "memory", weights):
            yield claims
        return
    with queue._database.use():  # raises QueueClosed
        pass
    board = Board.create(queue.path, 1, 1)  # its lock tells other workers that we live
    try:
        with closing(claims), _registered(claims, board.path, weights):
            recovery = Recovery(claims)
            with claims.reading():
                recovery.look()
                recovery.check()
                recovery.adopt_ownerless()
            yield claims
    finally:
        board.remove()


@contextmanager
def _registered(claims: Claims, lock_file: str, weights: Mapping[str, int] | None) -> Iterator[None]:
    claims._queues = _Every() if weights is None else frozenset(weights)
    claims.register(f"drain:{os.getpid()}", lock_file, dict(weights or DEFAULT_QUEUES), 1, 1)
    try:
        yield
    finally:  # with our row goes the job that a KeyboardInterrupt left in our hands: it is pending again
        claims.take_over(claims.worker, frozenset(), counts=False)
