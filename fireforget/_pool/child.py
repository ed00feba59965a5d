"""A child: takes frames of jobs from its channel, runs each through middleware and handler, and says what became of it.

::

    channel ─ frame (first index, rows) ─► jobs in order ─► board: started ─► chain ─► handler
                                                                │                        │
    channel ◄─ position, counts, pace ◄─ end of the frame ◄─────┴── board: done ◄── nothing to tell
    channel ◄─ outcome, at once ◄─────────────────────────────────────────────────── failed, result to keep, ...

With one thread, a job that succeeded and leaves nothing behind is told by the board alone: that costs a store in memory, and is
known even if the process is killed at the next instruction. Everything else is sent before the board says that the job is done.
With more threads jobs end out of order, and every outcome is sent.

The application's code runs here and nowhere else in a worker: handlers, middleware, retry policies.
"""

import asyncio
import concurrent.futures
import logging
import marshal
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Protocol

from fireforget import logs, middleware
from fireforget import payload as json_payload
from fireforget._claimed import DEADLINE, HAS_STEPS, LINKED, RETENTION, RETRY_COUNT, TYPE, Row
from fireforget._claims import HOOK
from fireforget._db import Database
from fireforget._effects import Effects, HandlersDatabase, Mark, Unmarked
from fireforget._pool import enforcer, groups, hooks, schedules
from fireforget._pool.board import Board, Cell, LockMark, Reason, Slot
from fireforget._pool.channel import Channel
from fireforget._pool.config import Settings
from fireforget._pool.helper import be_quiet
from fireforget._pool.ring import Ring
from fireforget._pool.verdicts import (
    CANCELLED,
    DECIDED_FOR_TOO_LONG,
    LEAST_UNCOUNTED_DELAY,
    open_for_too_long,
    timed_out_after,
)
from fireforget._shield import Window, shield
from fireforget.clock import Clock, to_seconds
from fireforget.errors import (
    DEADLINE_PASSED,
    ChildDied,
    ClaimLost,
    FireforgetError,
    Interruption,
    JobCancelled,
    JobTimeout,
    RetryLater,
    RevokeTask,
)
from fireforget.job import Job, running, says_failure
from fireforget.queue_sqlite import Intake, SqliteQueue, transaction
from fireforget.registry import Definition, Registry
from fireforget.retry import default_delay, delay_after, is_ours

MOST_TRACEBACK = 16 * 1024
MOST_ERROR = 4096

Outcome = tuple[Any, ...]
"""What became of a job: a word, then what belongs to it; see `Runner.run`."""

LATE: Outcome = ("late",)
"""The outcome of a job with a rate that has not been started: its way here took too long for the rate to hold."""
_AT_ANY_TIME: Mapping[int, float] = {}


class Host(Protocol):
    """Where a `Runner` runs: a child of a worker, or a test's own process (`fireforget.testing`)."""

    registry: Registry
    tag: str

    worker: int
    """The number of the worker that claims the jobs."""

    def definition(self, type: str) -> Definition[Any, Any] | None:
        """Return the handler of a type."""

    def database(self) -> Database:
        """Return the queue's file as handlers use it."""

    def send(self, message: Any) -> None:
        """Take what a running handler says of itself: ("report", index, kind, value), or what becomes of a run should the process
        end while the application decides on it: ("fallback", index, outcome, samples).
        """

    def store(self) -> Intake:
        """Return the queue that the jobs are stored in, for what handlers do there."""


class Runner:
    """Runs one job at a time on one thread, and turns whatever happens into an outcome.

    `run_async` runs a coroutine to its end; `clock` returns Unix seconds; `mark` is where the supervisor sees that the job holds
    the database's write lock, `mark_deciding` says there that the application decides on its failure, or has ended.
    """

    def __init__(
        self,
        host: Host,
        run_async: Callable[[Any, "Runner"], Any],
        clock: Clock = time.time,
        mark: Mark | None = None,
        mark_deciding: Callable[[bool], None] = lambda decides: None,
    ) -> None:
        self._host = host
        self._run_async = run_async
        self._clock = clock
        self._mark = mark
        self._chain = middleware.compose(self._whole(host.registry.middleware), self._call_handler)
        self._no_chain = middleware.compose((), self._call_handler)
        self._transactional_chain = middleware.compose(self._whole(host.registry.middleware, self._commit), self._call_handler)
        self.tag = host.tag
        self.store = host.store
        self._effects: Effects | None = None
        self.thread_id = threading.get_ident()
        self._window = Window()
        self._cancel_async: Callable[[], object] | None = None
        self._mark_deciding = mark_deciding
        self._decides = False
        self.index = -1
        self.job: Job | None = None

    def run(self, index: int, row: Row) -> Outcome | None:
        """Run a job; return None when it succeeded and leaves nothing behind.

        Otherwise ("completed", began, duration, result, note), ("returned", began, result, note) where only its result is left,
        ("settled",) where its own transaction has done that, ("retry", began, duration, delay, error, traceback), ("archived",
        began, duration, error, traceback), ("expired", error), ("later", delay, why), ("excused", delay, error), ("revoked",),
        ("cancelled", error) or ("lost",).
        """
        now = self._clock()
        definition = self._host.definition(row[TYPE])
        if definition is None:  # it was there when the job was claimed
            return ("archived", now, 0.0, f"no handler for {row[TYPE]!r} in this child", None)
        job = Job(row, definition, self, now)
        deadline = row[DEADLINE]
        if deadline is not None and deadline <= now:
            return self._expire(job)
        self.index = index
        self.job = job
        token = running.set(job)
        try:
            result = self._chain_of(definition)(job)
        except BaseException as error:
            return ("settled",) if self._is_committed(job, error) else self._failed(job, definition, error)
        finally:
            with self._window.lock:
                self.job = self._window.waiting = None  # what waits has come too late
            running.reset(token)
            if self._effects is not None:
                self._effects.close()
        has_steps = row[HAS_STEPS]
        if self._effects is not None:
            effects, self._effects = self._effects, None
            has_steps = effects.has_steps
            if effects.is_settled:
                return ("settled",)
        if row[RETENTION] == 0 and row[RETRY_COUNT] == 0 and not has_steps:  # neither to keep, nor attempts or steps to forget
            return None if result is None else self._returned(job, result, row)
        return ("completed", now, self._clock() - now, *self._encode(job, result))

    def _chain_of(self, definition: Definition[Any, Any]) -> middleware.Handler:
        if definition._bare:
            return self._no_chain
        return self._chain if definition.transaction_timeout is None else self._transactional_chain

    def _call_handler(self, job: Job) -> Any:
        """Call the job's handler: the innermost of the chain."""
        definition: Any = job._definition
        payload = job.payload
        try:
            try:
                self._window.open()
                result = definition.call(payload)
            finally:
                self._window.shut()
            if definition.is_async:
                result = self._run_async(result, self)
        except JobCancelled:
            raise
        except BaseException as error:
            if job._cancelled:
                raise JobCancelled(CANCELLED) from error
            raise
        if job._cancelled:  # it swallowed the interruption: whoever cancelled the job wants no success of it either
            raise JobCancelled(CANCELLED)
        return result

    # --- interruptions ------------------------------------------------------------------------------------------------

    def interrupt(self, index: int, reason: int, throw: Callable[[BaseException], None]) -> None:
        """Interrupt the job with this index if it is the one that runs here; `throw` raises an error in the thread of the runner.

        The window is open while the application's code runs, and for coroutines, which are cancelled, shut. What comes when the
        handler has ended changes nothing any more: what is logged and counted then is what became of the run.
        """
        with self._window.lock:  # the job does not end meanwhile, and the next one does not begin
            if self.job is None or self.index != index or self._decides != (reason == Reason.DECISION):
                return
            error = interruption_of(reason, self.job)
            if self._cancel_async is not None:
                self._cancel_async()
            else:
                self._window.interrupt(error, throw)

    @contextmanager
    def cancelled_by(self, cancel: Callable[[], object]) -> Iterator[None]:
        """While a coroutine runs, have an interruption cancel it, which unwinds it properly."""
        with self._window.lock:
            self._cancel_async = cancel
            if self._window.take() is not None:
                cancel()
        try:
            yield
        finally:
            self._cancel_async = None

    def _whole(self, chain: Sequence[middleware.Middleware], *more: middleware.Middleware) -> list[middleware.Middleware]:
        """Return a registry's middleware with what we add: inside of what is ours and outside of the application's.

        So a commit that fails is logged and counted as the failure that it is. What was fired and forgotten is stored after it,
        and before anything is logged: should that take too long, the process is killed, and the run has timed out.
        """
        at = max((place for place, each in enumerate(chain, 1) if each in middleware.DEFAULT_CHAIN), default=0)
        whole = [each if each in middleware.DEFAULT_CHAIN else self._letting_in(each) for each in chain]
        return [*whole[:at], self._conclude, *more, *whole[at:]]

    def _conclude(self, job: Job, call_next: middleware.CallNext) -> Any:
        """Middleware of our own: have done what is to be done before anything is told of the run."""
        try:
            return call_next()
        except BaseException as error:
            self._judge(job, error)
            raise
        finally:
            flush_submissions()

    def _letting_in(self, application: middleware.Middleware) -> middleware.Middleware:
        """Return an application's middleware with the window open for its own code, and shut for what it calls."""

        def let_in(job: Job, call_next: middleware.CallNext) -> Any:
            def shut_out() -> Any:
                self._window.shut()
                try:
                    return call_next()
                finally:
                    self._window.open()

            try:
                self._window.open()
                return application(job, shut_out)
            finally:
                self._window.shut()

        return let_in

    def report(self, kind: str, value: Any) -> None:
        """Take what the handler says while it runs; see `job.Run`."""
        if self._effects is not None:  # the job's own transaction may be what completes it
            setattr(self._effects, kind, value)
        self._host.send(("report", self.index, kind, value))

    def _returned(self, job: Job, result: Any, row: Row) -> Outcome | None:
        """Return the outcome of a job whose result is of use to those alone that wait for it. Whether there are any is known when
        it is settled, and not before: they may have come while it ran.
        """
        if row[LINKED] is None:  # most likely none ever come, so nobody is told that it cannot be kept
            text, note = json_payload.result_of(result)
        else:
            text, note = self._encode(job, result)
        return None if text is None and note is None else ("returned", job.started_at, text, note)

    @staticmethod
    def _encode(job: Job, result: Any) -> tuple[str | None, str | None]:
        """Return a result as JSON text and a note on it; a result that cannot be kept never fails a job that succeeded."""
        text, note = json_payload.result_of(result)
        if note is not None:
            logs.result_not_kept(job.pattern, job.id, job.queue, note)
        return text, note

    # --- what a job writes to the queue's own file --------------------------------------------------------------------

    def effects(self, job: Job) -> Effects:
        """Return what stores the running job's steps and holds its transaction; made for the few jobs that ask for it."""
        if job is not self.job:
            raise FireforgetError(f"the run of job {job.id} is over: its connection and its steps are for its handler alone")
        if self._effects is None:
            definition = self._host.definition(job.type)
            limit = None if definition is None else definition.transaction_timeout
            mark = Unmarked() if self._mark is None else self._mark
            self._effects = Effects(self._host.database(), job._row, self._host.worker, self._clock, limit, mark)
        return self._effects

    def _commit(self, job: Job, call_next: middleware.CallNext) -> Any:
        """Middleware of our own: commit what a transactional handler has written, together with its job's completion. Outside of
        the window, so it is done or not done by the commit alone, and not timed out in between.

        One that has not used its connection has nothing to commit, and is settled like any other.
        """
        effects = self.effects(job)
        token = transaction.set(effects)
        try:
            result = call_next()
            if effects.has_begun:
                text, note = self._encode(job, result)
                effects.complete(job.started_at, text, note)
        except BaseException:
            effects.rollback()
            raise
        finally:
            transaction.reset(token)
        return result

    def _is_committed(self, job: Job, error: BaseException) -> bool:
        """Return whether a run that raises is settled all the same, since its transaction was committed before; else undo it."""
        effects, self._effects = self._effects, None
        if effects is None:
            return False
        effects.close()
        if effects.is_settled:
            fields = {"task_type": job.pattern, "task_id": job.id, "queue": job.queue, "error": middleware.describe(error)}
            logs.event(logging.ERROR, "an error came after the transaction was committed: the job is done", **fields)
        return effects.is_settled

    # --- failures -----------------------------------------------------------------------------------------------------

    def _failed(self, job: Job, definition: Definition[Any, Any], error: BaseException) -> Outcome:
        duration = self._clock() - job.started_at
        if isinstance(error, RetryLater):
            return ("later", _seconds_of(error, job.retry_count), _text_of(error))
        if isinstance(error, RevokeTask | ClaimLost):
            return ("revoked",) if isinstance(error, RevokeTask) else ("lost",)
        if isinstance(error, JobCancelled):
            return ("cancelled", _shorten(middleware.describe(error)))
        text, trace = _shorten(_text_of(error)), _traceback_of(error)
        if not middleware.is_failure(error, job):
            return self._again(job, definition, error, lambda delay: ("excused", max(LEAST_UNCOUNTED_DELAY, delay), text))
        if job.retry_count >= job.max_retry or middleware.is_final(error):
            return self._archive(job, text, trace, duration)
        middleware.samples.count("fireforget_jobs_retried_total", (job.pattern, job.queue))
        return self._again(job, definition, error, lambda delay: ("retry", job.started_at, duration, delay, text, trace))

    def _archive(self, job: Job, text: str, trace: str | None, duration: float) -> Outcome:
        middleware.samples.count("fireforget_jobs_archived_total", (job.pattern, job.queue))
        return ("archived", job.started_at, duration, text, trace)

    def _expire(self, job: Job) -> Outcome:
        """The deadline passed before the job could start: it is not run, so middleware never sees it."""
        middleware.samples.count("fireforget_jobs_archived_total", (job.pattern, job.queue))
        logs.task_failed(job.pattern, job.id, job.queue, job.retry_count, 0.0, DEADLINE_PASSED)
        return ("expired", DEADLINE_PASSED)

    # --- what the application decides on failures ---------------------------------------------------------------------

    def _again(
        self, job: Job, definition: Definition[Any, Any], error: BaseException, outcome: Callable[[float], Outcome]
    ) -> Outcome:
        """Return the outcome of a run that another one follows, after the seconds that the job's policy says.

        Where that is the application's, it may hang, or end the process: the supervisor is told before what holds then.
        """
        policy = self._host.registry.retry_delay if definition.retry_delay is None else definition.retry_delay
        fallback = outcome(default_delay(job.retry_count))
        try:
            if is_ours(policy):
                return outcome(delay_after(policy, job.retry_count, error))
            self._host.send(("fallback", self.index, fallback, middleware.samples.drain()))
            with self._deciding():
                return outcome(delay_after(policy, job.retry_count, error))
        except BaseException as failed:
            logs.retry_delay_failed(job.pattern, job.id, middleware.describe(failed))
            return fallback

    def _judge(self, job: Job, error: BaseException) -> None:
        """Have the application's `is_failure` say whether the run has failed, before our middleware asks; it is asked once."""
        if self._host.registry._is_failure_of(job.type) is not None:
            with suppress(Interruption), self._deciding():
                middleware.is_failure(error, job)

    @contextmanager
    def _deciding(self) -> Iterator[None]:
        """Run a function of the application's that has `DECISION_SECONDS`; the job's own limits hold no more."""
        with self._window.lock:
            self._decides = True
            self._window.waiting = None
        self._mark_deciding(True)
        try:
            try:
                self._window.open()
                yield
            finally:
                self._window.shut()
        finally:
            self._mark_deciding(False)
            with self._window.lock:
                self._decides = False
                self._window.waiting = None


class Child:
    """The process; `serve` returns when the supervisor has closed the channel."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        slot: Slot,
        ring: Ring,
        channel: Channel,
        tag: str,
        path: str,
        identity: tuple[int, int] | None,
        worker: int,
    ) -> None:
        self.registry = registry
        self.tag = tag
        self.worker = worker
        self._path = path
        self._identity = identity
        self._database: Database | None = None
        self._settings = settings
        self._slot = slot
        self._ring = ring
        self._channel = channel
        self._sending = threading.Lock()
        self._opening = threading.Lock()
        self._queue: SqliteQueue | None = None
        self.is_foreign = False
        """Whether this is a process that a handler forked."""
        self._definitions: dict[str, Definition[Any, Any] | None] = {}

    def definition(self, type: str) -> Definition[Any, Any] | None:
        """Return the handler of a type, looked up once."""
        try:
            return self._definitions[type]
        except KeyError:
            if type.startswith(groups.AGGREGATE):
                definition: Definition[Any, Any] | None = groups.definition(self.registry, self.store)
            elif type.startswith(schedules.TICK):
                definition = schedules.definition(self.registry, self._path)
            else:
                definition = hooks.definition(self.registry, self.tag) if type == HOOK else self.registry.match(type)
            self._definitions[type] = definition
            return definition

    def database(self) -> Database:
        """Return the queue's file, opened for the first job that needs it; most never do."""
        with shield, self._opening:
            if self._database is None:
                self._database = HandlersDatabase(self._path, self._identity)
            return self._database

    def send(self, message: Any) -> None:
        """Send a message; safe between threads. Handlers do it too, to report how they get on: half of one must not be sent.

        Where that fails, the process ends, whichever thread it is: the supervisor is gone, or a handler has closed the channel.
        """
        with shield, self._sending:
            try:
                self._channel.send(message)
            except OSError:
                if self.is_foreign:
                    raise
                os._exit(1)

    def store(self) -> SqliteQueue:
        """Return the queue that the jobs are stored in, opened for the first handler that needs it; most never do."""
        with shield, self._opening:
            if self._queue is None:
                self._queue = SqliteQueue(self._path)
            return self._queue

    def serve(self) -> None:
        """Say hello and work until the supervisor has nothing more."""
        work = _InTurn(self, self._slot) if self._settings.threads == 1 else _AtOnce(self, self._slot)
        signal.signal(enforcer.INTERRUPT_SIGNAL, lambda *_: work.interrupt())
        self.send(("hello", os.getpid()))
        while (message := self._channel.receive()) is not None:
            kind, *content = message
            if kind == "frame":
                work.take(*content)
            else:
                self._answer(*content)
        work.finish()

    def _answer(self, token: int, type: str, job_id: str, retry_count: int, text: str, timed_out: bool) -> None:
        """Tell what the application wants done about a job whose process was killed: when to try again, and whether it counts."""
        error = JobTimeout(text) if timed_out else ChildDied(text)
        is_failure = self.registry._is_failure_of(type)
        try:
            counts = is_failure is None or says_failure(is_failure, error, type, job_id)
            delay = delay_after(self.registry._retry_delay_of(type), retry_count, error)
        except BaseException as failed:
            logs.retry_delay_failed(type, job_id, middleware.describe(failed))
            counts, delay = True, default_delay(retry_count)
        self.send(("answer", token, delay, counts))

    def report_position(self, position: int, kept: int, runs: int, seconds: float) -> None:
        """Tell the supervisor that all jobs below `position` were taken in, of which those from `kept` on were dropped.

        With it goes what was counted since the last time: `runs` that took `seconds` together, and the samples.
        """
        rss = _resident_bytes() if self._settings.max_rss_mb else 0
        self.send(("position", position, kept, runs, seconds, middleware.samples.drain(), rss))

    def finish_job(self, index: int, outcome: Outcome | None, always: bool) -> None:
        """Flush what the job has submitted, then tell its outcome."""
        flush_submissions()
        if outcome is not None and outcome[0] == "returned" and not always and self._ring.put(index, marshal.dumps(outcome)):
            return
        if outcome is not None or always:
            self.send(("outcome", index, outcome, middleware.samples.drain()))


class _InTurn:
    """One job after the other, on the main thread."""

    def __init__(self, child: Child, slot: Slot) -> None:
        self._child = child
        self._slot = slot
        self._cell = slot.cells[0]
        self._loop: asyncio.Runner | None = None
        self._runner = Runner(
            child, self._run_async, mark=LockMark(slot, self._cell), mark_deciding=partial(slot.mark_deciding, self._cell)
        )

    def take(self, first: int, rows: list[Row], start_by: Mapping[int, float] = _AT_ANY_TIME) -> None:
        """Run a frame, up to where the board allows; what is past its moment in `start_by` comes back without having run."""
        words, doubles = self._slot.words, self._slot.doubles
        number_at, began_at, index_at = self._cell.number_at, self._cell.began_at, self._cell.index_at
        started_at, limit_at, done_at = self._slot.started_at, self._slot.limit_at, self._slot.done_at
        run, monotonic = self._runner.run, time.monotonic
        began = now = monotonic()
        ran = 0
        for index, row in enumerate(rows, first):
            words[number_at] = row[0]
            doubles[began_at] = now
            words[index_at] = index + 1
            words[started_at] = index + 1
            if words[limit_at] <= index:  # taken back; so is all that follows
                break
            outcome = run(index, row) if not start_by or index not in start_by or now <= start_by[index] else LATE
            if self._child.is_foreign:
                os._exit(0)  # a handler forked, and this is the other process, which came back from it
            if outcome is not None or "fireforget.patterns" in sys.modules:
                self._child.finish_job(index, outcome, always=False)
            words[done_at] = index + 1
            ran += 1
            now = monotonic()
        self._child.report_position(first + len(rows), first + ran, ran, now - began)

    def interrupt(self) -> None:
        """Raise in the running handler if it is the one that the board names; a signal that comes late does nothing."""
        words = self._slot.words
        self._runner.interrupt(words[self._cell.interrupt_at] - 1, words[self._cell.reason_at], _raise)

    def _run_async(self, coroutine: Any, runner: Runner) -> Any:
        if self._loop is None:
            self._loop = asyncio.Runner()
        loop = self._loop.get_loop()
        task = loop.create_task(coroutine)
        with runner.cancelled_by(lambda: loop.call_soon_threadsafe(task.cancel)):
            try:
                return loop.run_until_complete(task)
            except asyncio.CancelledError:
                raise_if_interrupted(self._slot, self._cell, runner)
                raise

    def finish(self) -> None:
        """Close the event loop, if an `async` handler ever ran."""
        if self._loop is not None:
            self._loop.close()


class _AtOnce:
    """Several jobs at once, each on a thread of its own; coroutines share one event loop."""

    def __init__(self, child: Child, slot: Slot) -> None:
        self._child = child
        self._slot = slot
        self._waiting: deque[tuple[int, Row]] = deque()
        self._start_by: dict[int, float] = {}
        self._ready = threading.Condition()
        self._taken_up_to = 0
        self._runs = 0
        self._seconds = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cells: dict[Runner, Cell] = {}
        self._stopping = False
        self._threads = [threading.Thread(target=self._work, args=(cell,), daemon=True) for cell in slot.cells]
        for thread in self._threads:
            thread.start()

    def take(self, first: int, rows: list[Row], start_by: Mapping[int, float] = _AT_ANY_TIME) -> None:
        """Hand a frame to the threads; what is past its moment in `start_by` comes back without having run."""
        with self._ready:
            self._start_by.update(start_by)
            self._waiting.extend(enumerate(rows, first))
            self._taken_up_to = first + len(rows)
            self._ready.notify(len(rows))

    def _work(self, cell: Cell) -> None:
        mark_deciding = partial(self._slot.mark_deciding, cell)
        runner = Runner(self._child, self._run_async, mark=LockMark(self._slot, cell), mark_deciding=mark_deciding)
        with self._ready:
            self._cells[runner] = cell
        while (item := self._next(cell)) is not None:
            index, row = item
            began = time.monotonic()
            try:
                outcome = runner.run(index, row) if began <= self._start_by.pop(index, began) else LATE
                if self._child.is_foreign:
                    os._exit(0)
                self._child.finish_job(index, outcome, always=True)
            except BaseException as error:  # a mistake of ours
                text = f"the worker failed to end it: {middleware.describe(error)}"
                self._child.finish_job(index, ("archived", time.time(), 0.0, text, None), always=True)
            self._slot.words[cell.index_at] = 0
            self._end(time.monotonic() - began)

    def _next(self, cell: Cell) -> tuple[int, Row] | None:
        """Wait for a job and announce it on the board; what was taken back is dropped. None at the end."""
        words, doubles = self._slot.words, self._slot.doubles
        with self._ready:
            while True:
                while not self._waiting:
                    if self._stopping:
                        return None
                    self._ready.wait()
                index, row = self._waiting.popleft()
                words[cell.number_at] = row[0]
                doubles[cell.began_at] = time.monotonic()
                words[cell.index_at] = index + 1
                words[self._slot.started_at] = index + 1
                if words[self._slot.limit_at] > index:
                    if not self._waiting:
                        self._tell_position()
                    return index, row
                words[cell.index_at] = 0
                self._waiting.clear()
                self._tell_position(kept=index)

    def _end(self, seconds: float) -> None:
        with self._ready:
            self._runs += 1
            self._seconds += seconds
            if not self._waiting:
                self._tell_position()

    def _tell_position(self, kept: int | None = None) -> None:
        up_to = self._taken_up_to
        self._child.report_position(up_to, up_to if kept is None else kept, self._runs, self._seconds)
        self._runs, self._seconds = 0, 0.0

    def interrupt(self) -> None:
        """Raise in each thread whose job the board names; runs in the main thread, as a signal handler."""
        words = self._slot.words
        for runner, cell in list(self._cells.items()):
            runner.interrupt(words[cell.interrupt_at] - 1, words[cell.reason_at], partial(_raise_in, runner.thread_id))

    def _run_async(self, coroutine: Any, runner: Runner) -> Any:
        loop = self._event_loop()
        tasks: list[asyncio.Task[Any]] = []

        async def run() -> Any:
            tasks.extend(filter(None, [asyncio.current_task()]))
            return await coroutine

        future = asyncio.run_coroutine_threadsafe(run(), loop)
        with runner.cancelled_by(lambda: [loop.call_soon_threadsafe(task.cancel) for task in tasks]):
            try:
                return future.result()
            except (asyncio.CancelledError, concurrent.futures.CancelledError):
                raise_if_interrupted(self._slot, self._cells[runner], runner)
                raise
            except BaseException:
                future.cancel()
                raise

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        with self._ready:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="fireforget-loop", daemon=True).start()
            return self._loop

    def finish(self) -> None:
        """Let the threads end what they run."""
        with self._ready:
            self._stopping = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()


def raise_if_interrupted(slot: Slot, cell: Cell, runner: Runner) -> None:
    """Turn the cancellation of a coroutine that we asked for into the interruption that it stands for."""
    if slot.words[cell.interrupt_at] == runner.index + 1:
        raise interruption_of(slot.words[cell.reason_at], runner.job)


def interruption_of(reason: int, job: Job | None) -> Interruption:
    """Return what to raise in a handler for a reason on the board; a job that is cancelled knows it from now on."""
    if reason == Reason.CANCELLED:
        if job is not None:
            job._cancelled = True
        return JobCancelled(CANCELLED)
    if reason == Reason.DECISION:
        return JobTimeout(DECIDED_FOR_TOO_LONG)
    if reason == Reason.DEADLINE:
        return JobTimeout(DEADLINE_PASSED)
    if reason == Reason.TRANSACTION:
        return JobTimeout(open_for_too_long(None if job is None else job._effects().limit))
    return JobTimeout(timed_out_after(job.timeout if job else None))


def _raise(error: BaseException) -> None:
    raise error


def _raise_in(thread: int, error: BaseException) -> None:
    """Have another thread raise an error that says the same, at its next instruction: it can only be made to raise a class."""
    import ctypes

    kind = type(error)
    same = type(kind.__name__, (kind,), {"__init__": lambda self: BaseException.__init__(self, *error.args)})
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(same))


def flush_submissions() -> None:
    """Wait for what the job has fired and forgotten: it must be stored before the job counts as done."""
    patterns = sys.modules.get("fireforget.patterns")
    if patterns is not None and patterns.has_pending():
        patterns.flush()


def child_main(registry: Registry, settings: Settings, board: Board) -> Callable[[socket.socket, int], None]:
    """Return what a freshly forked child does with its end of the channel and the number of its slot.

    The supervisor's first message is the tag of the database's ids, the path of the file, what tells it from any other, and
    the worker's number.
    """

    def main(connection: socket.socket, slot_number: int) -> None:
        be_quiet()
        _print_whole_lines()
        random.seed()
        channel = Channel(connection)
        greeting = channel.receive()
        if greeting is not None:
            child = Child(registry, settings, board.slot(slot_number), board.ring(slot_number), channel, *greeting)
            os.register_at_fork(after_in_child=lambda: _let_go(child, connection, board))
            child.serve()

    return main


def _print_whole_lines() -> None:
    """Have what handlers print appear at once, a line at a time: several children share the terminal, file or pipe."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True, write_through=False)


def _let_go(child: Child, connection: socket.socket, board: Board) -> None:
    """In a process that a handler forks: it must hold neither the worker's lock nor the channel, and never go on as a child."""
    if child.is_foreign:
        return  # it forks in turn, and what has these numbers by now is its own
    child.is_foreign = True
    connection.close()
    with suppress(OSError):
        os.close(board.descriptor)


def _seconds_of(error: RetryLater, retry_count: int) -> float:
    """Return the delay of a RetryLater; a subclass of the application's may have made it something else."""
    try:
        return to_seconds("seconds", error.seconds)
    except Exception:
        return default_delay(retry_count)


def _text_of(error: BaseException) -> str:
    if isinstance(error, JobTimeout):
        return str(error) or "timed out"
    return middleware.describe(error)


def _traceback_of(error: BaseException) -> str:
    """Return the traceback from the handler's own frames on, cut in the middle of nothing: its end is what tells most."""
    import traceback

    try:
        return _format(error, traceback)
    except Exception as failed:  # an exception of the application's that cannot be shown must not end the child
        return f"<its traceback cannot be shown: {type(failed).__name__}>"


_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def _format(error: BaseException, traceback: Any) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN):
        trace = trace.tb_next
    told = traceback.TracebackException(type(error), error, trace)
    _leave_out_own(told)
    if isinstance(error, Interruption):  # where the handler was, not how it was interrupted there
        while len(told.stack) > 1 and told.stack[-1].filename.startswith(_OWN):
            told.stack.pop()
    text = json_payload.storable("".join(told.format()).rstrip())
    return text if len(text) <= MOST_TRACEBACK else "[...]\n" + text[-MOST_TRACEBACK:]


def _leave_out_own(told: Any) -> None:
    """Leave out the frames of ours that led to the handler, in what caused the error too; a chain may be long."""
    left = [told]
    while left:
        told = left.pop()
        while len(told.stack) > 1 and told.stack[0].filename.startswith(_OWN):
            del told.stack[0]
        left += filter(None, (told.__cause__, told.__context__, *(getattr(told, "exceptions", None) or ())))


def _shorten(text: str) -> str:
    text = json_payload.storable(text)
    return text if len(text) <= MOST_ERROR else text[:MOST_ERROR] + " [...]"


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
