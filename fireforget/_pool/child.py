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
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from fireforget import logs, middleware
from fireforget import payload as json_payload
from fireforget._claims import HOOK
from fireforget._pool import enforcer, groups, hooks, schedules
from fireforget._pool.board import Board, Cell, Reason, Slot
from fireforget._pool.channel import Channel
from fireforget._pool.config import Settings
from fireforget._pool.helper import be_quiet
from fireforget._pool.verdicts import CANCELLED, LEAST_UNCOUNTED_DELAY, timed_out_after
from fireforget._shield import shield
from fireforget.clock import Clock, to_seconds
from fireforget.errors import (
    DEADLINE_PASSED,
    ChildDied,
    Interruption,
    JobCancelled,
    JobTimeout,
    RetryLater,
    RevokeTask,
)
from fireforget.job import Job, running, says_failure
from fireforget.queue_sqlite import Intake, SqliteQueue, public_id
from fireforget.registry import Definition, PayloadMismatch, Registry
from fireforget.retry import default_delay, delay_after

MOST_TRACEBACK = 16 * 1024
MOST_ERROR = 4096

Outcome = tuple[Any, ...]
"""What became of a job: a word, then what belongs to it; see `Runner.run`."""


class Host(Protocol):
    """Where a `Runner` runs: a child of a worker, or a test's own process (`fireforget.testing`)."""

    registry: Registry
    tag: str

    def definition(self, type: str) -> Definition[Any, Any] | None:
        """Return the handler of a type."""

    def send(self, message: Any) -> None:
        """Take what a running handler says of itself: ("report", index, kind, value)."""

    def store(self) -> Intake:
        """Return the queue that the jobs are stored in, for what handlers do there."""


class Runner:
    """Runs one job at a time on one thread, and turns whatever happens into an outcome.

    `run_async` runs a coroutine to its end; `clock` returns Unix seconds.
    """

    def __init__(self, host: Host, run_async: Callable[[Any, "Runner"], Any], clock: Clock = time.time) -> None:
        self._host = host
        self._run_async = run_async
        self._clock = clock
        self._chain = middleware.compose(host.registry.middleware)
        self._no_chain = middleware.compose(())
        self.thread_id = threading.get_ident()
        self.index = -1
        self.interruptible = False
        self.cancel_async: Callable[[], object] | None = None
        self.job: Job | None = None

    def run(self, index: int, row: tuple[Any, ...]) -> Outcome | None:
        """Run a job; return None when it succeeded and leaves nothing behind.

        Otherwise ("completed", began, duration, result, note), ("retry", began, duration, delay, error, traceback),
        ("archived", began, duration, error, traceback), ("expired", error), ("later", delay, why), ("excused", delay, error),
        ("revoked",) or ("cancelled", error).
        """
        (_, _, type, queue, payload, headers, retry_count, max_retry, timeout, deadline, nonce, task_id, due, *_rest) = row
        now = self._clock()
        definition = self._host.definition(type)
        if definition is None:  # it was there when the job was claimed
            return ("archived", now, 0.0, f"no handler for {type!r} in this child", None)
        job = Job(
            task_id or public_id(self._host.tag, row[0], nonce), type, queue, None, headers, retry_count, max_retry, timeout,
            deadline, definition.pattern, now, now - due if now > due else 0.0, self._report, self._host.store,
        )  # fmt: skip
        if deadline is not None and deadline <= now:
            return self._expire(job)
        job._definition = definition
        self.index = index
        self.job = job
        token = running.set(job)
        try:
            self.interruptible = True
            chain = self._no_chain if definition._bare else self._chain
            result = chain(job, lambda: self._call(definition, job, payload))
            self.interruptible = False
        except BaseException as error:
            self.interruptible = False
            return self._failed(job, definition, error)
        finally:
            self.interruptible = False
            shield.forget(self.thread_id)
            self.job = None
            running.reset(token)
        if row[14] == 0 and retry_count == 0:  # no retention, no attempts to forget
            return None
        return ("completed", now, self._clock() - now, *self._encode(job, result))

    def _call(self, definition: Definition[Any, Any], job: Job, payload: Any) -> Any:
        try:
            job.payload = None if payload is None else json_payload.decode(payload)
        except (ValueError, TypeError, RecursionError) as error:
            raise PayloadMismatch(f"the payload is not JSON: {error}") from None
        try:
            result = definition.call(job.payload)
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

    def _report(self, kind: str, value: Any) -> None:
        self._host.send(("report", self.index, kind, value))

    @staticmethod
    def _encode(job: Job, result: Any) -> tuple[str | None, str | None]:
        """Return a result as JSON text and a note on it; a result that cannot be kept never fails a job that succeeded."""
        text, note = json_payload.result_of(result)
        if note is not None:
            logs.result_not_kept(job.pattern, job.id, job.queue, note)
        return text, note

    # --- failures -----------------------------------------------------------------------------------------------------

    def _failed(self, job: Job, definition: Definition[Any, Any], error: BaseException) -> Outcome:
        duration = self._clock() - job.started_at
        if isinstance(error, RetryLater):
            return ("later", _seconds_of(error, job.retry_count), _text_of(error))
        if isinstance(error, RevokeTask):
            return ("revoked",)
        if isinstance(error, JobCancelled):
            return ("cancelled", _shorten(middleware.describe(error)))
        text, trace = _shorten(_text_of(error)), _traceback_of(error)
        if not middleware.is_failure(error, job):
            return ("excused", max(LEAST_UNCOUNTED_DELAY, self._delay(job, definition, error)), text)
        if job.retry_count >= job.max_retry or middleware.is_final(error):
            return self._archive(job, text, trace, duration)
        middleware.samples.count("fireforget_jobs_retried_total", (job.pattern, job.queue))
        return ("retry", job.started_at, duration, self._delay(job, definition, error), text, trace)

    def _archive(self, job: Job, text: str, trace: str | None, duration: float) -> Outcome:
        middleware.samples.count("fireforget_jobs_archived_total", (job.pattern, job.queue))
        return ("archived", job.started_at, duration, text, trace)

    def _expire(self, job: Job) -> Outcome:
        """The deadline passed before the job could start: it is not run, so middleware never sees it."""
        middleware.samples.count("fireforget_jobs_archived_total", (job.pattern, job.queue))
        logs.task_failed(job.pattern, job.id, job.queue, job.retry_count, 0.0, DEADLINE_PASSED)
        return ("expired", DEADLINE_PASSED)

    def _delay(self, job: Job, definition: Definition[Any, Any], error: BaseException) -> float:
        policy = self._host.registry.retry_delay if definition.retry_delay is None else definition.retry_delay
        try:
            return delay_after(policy, job.retry_count, error)
        except Exception as failed:
            logs.retry_delay_failed(job.pattern, job.id, middleware.describe(failed))
            return default_delay(job.retry_count)


class Child:
    """The process; `serve` returns when the supervisor has closed the channel."""

    def __init__(self, registry: Registry, settings: Settings, slot: Slot, channel: Channel, tag: str, path: str) -> None:
        self.registry = registry
        self.tag = tag
        self._path = path
        self._settings = settings
        self._slot = slot
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

    def send(self, message: Any) -> None:
        """Send a message; safe between threads."""
        with self._sending:
            self._channel.send(message)

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
        if outcome is not None or always:
            self.send(("outcome", index, outcome, middleware.samples.drain()))


class _InTurn:
    """One job after the other, on the main thread."""

    def __init__(self, child: Child, slot: Slot) -> None:
        self._child = child
        self._slot = slot
        self._cell = slot.cells[0]
        self._loop: asyncio.Runner | None = None
        self._runner = Runner(child, self._run_async)

    def take(self, first: int, rows: list[tuple[Any, ...]]) -> None:
        """Run a frame, up to where the board allows."""
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
            outcome = run(index, row)
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
        runner = self._runner
        if runner.interruptible and self._slot.words[self._cell.interrupt_at] == runner.index + 1:
            if runner.cancel_async is not None:
                interruption_of(self._slot.words[self._cell.reason_at], runner.job)
                runner.cancel_async()
                return
            error = interruption_of(self._slot.words[self._cell.reason_at], runner.job)
            if not shield.defers(runner.thread_id, error):
                runner.interruptible = False
                raise error

    def _run_async(self, coroutine: Any, runner: Runner) -> Any:
        if self._loop is None:
            self._loop = asyncio.Runner()
        loop = self._loop.get_loop()
        task = loop.create_task(coroutine)
        with _cancelled_by(runner, lambda: loop.call_soon_threadsafe(task.cancel)):
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
        self._waiting: deque[tuple[int, tuple[Any, ...]]] = deque()
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

    def take(self, first: int, rows: list[tuple[Any, ...]]) -> None:
        """Hand a frame to the threads."""
        with self._ready:
            self._waiting.extend(enumerate(rows, first))
            self._taken_up_to = first + len(rows)
            self._ready.notify(len(rows))

    def _work(self, cell: Cell) -> None:
        runner = Runner(self._child, self._run_async)
        with self._ready:
            self._cells[runner] = cell
        while (item := self._next(cell)) is not None:
            index, row = item
            began = time.monotonic()
            try:
                outcome = runner.run(index, row)
                if self._child.is_foreign:
                    os._exit(0)
                self._child.finish_job(index, outcome, always=True)
            except OSError:
                raise  # the supervisor is gone
            except BaseException as error:  # an interruption that came when the job had just ended, or a mistake of ours
                text = f"interrupted while it ended: {type(error).__name__}"
                self._child.finish_job(index, ("archived", time.time(), 0.0, text, None), always=True)
            self._slot.words[cell.index_at] = 0
            self._end(time.monotonic() - began)

    def _next(self, cell: Cell) -> tuple[int, tuple[Any, ...]] | None:
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
        import ctypes

        for runner, cell in list(self._cells.items()):
            if not runner.interruptible or self._slot.words[cell.interrupt_at] != runner.index + 1:
                continue
            if runner.cancel_async is not None:
                interruption_of(self._slot.words[cell.reason_at], runner.job)
                runner.cancel_async()
                continue
            error = interruption_of(self._slot.words[cell.reason_at], runner.job)
            if shield.defers(runner.thread_id, error):
                continue
            kind = _class_of(error)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(runner.thread_id), ctypes.py_object(kind))

    def _run_async(self, coroutine: Any, runner: Runner) -> Any:
        loop = self._event_loop()
        tasks: list[asyncio.Task[Any]] = []

        async def run() -> Any:
            tasks.extend(filter(None, [asyncio.current_task()]))
            return await coroutine

        future = asyncio.run_coroutine_threadsafe(run(), loop)
        with _cancelled_by(runner, lambda: [loop.call_soon_threadsafe(task.cancel) for task in tasks]):
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


@contextmanager
def _cancelled_by(runner: Runner, cancel: Callable[[], object]) -> Any:
    """While a coroutine runs, an interruption cancels it, which unwinds it properly."""
    runner.cancel_async = cancel
    try:
        yield
    finally:
        runner.cancel_async = None


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
    if reason == Reason.DEADLINE:
        return JobTimeout(DEADLINE_PASSED)
    return JobTimeout(timed_out_after(job.timeout if job else None))


def _class_of(error: Interruption) -> type[Interruption]:
    """Return a class whose instances say what `error` says: another thread can only be made to raise a class."""
    kind = type(error)
    return type(kind.__name__, (kind,), {"__init__": lambda self: BaseException.__init__(self, *error.args)})


def flush_submissions() -> None:
    """Wait for what the job has fired and forgotten: it must be stored before the job counts as done."""
    patterns = sys.modules.get("fireforget.patterns")
    if patterns is not None and patterns.has_pending():
        patterns.flush()


def child_main(registry: Registry, settings: Settings, board: Board) -> Callable[[socket.socket, int], None]:
    """Return what a freshly forked child does with its end of the channel and the number of its slot.

    The supervisor's first message is the tag of the database's ids and the path of the file.
    """

    def main(connection: socket.socket, slot_number: int) -> None:
        be_quiet()
        _print_whole_lines()
        random.seed()
        channel = Channel(connection)
        greeting = channel.receive()
        if greeting is not None:
            child = Child(registry, settings, board.slot(slot_number), channel, *greeting)
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
