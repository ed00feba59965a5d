"""A child: takes frames of jobs from its channel, has a `Runner` run each (`runner`), and says what became of it.

::

    channel ─ frame (first index, rows) ─► jobs in order ─► board: started ─► Runner
                                                                                │
    channel ◄─ position, counts, pace ◄─ end of the frame ◄─── board: done ◄────┤ nothing to tell
    channel ◄─ outcome, at once ◄───────────────────────────────────────────────┘ failed, result to keep, ...

With one thread, a job that succeeded and leaves nothing behind is told by the board alone: that costs a store in memory, and is
known even if the process is killed at the next instruction. Everything else is sent before the board says that the job is done.
With more threads jobs end out of order, and every outcome is sent.

The application's code runs here and nowhere else in a worker: handlers, middleware, retry policies.
"""

import concurrent.futures
import marshal
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from fireforget import logs, middleware
from fireforget._claimed import Row
from fireforget._claims import HOOK
from fireforget._db import Database
from fireforget._effects import HandlersDatabase
from fireforget._pool import enforcer, groups, hooks, schedules
from fireforget._pool.board import Board, Cell, LockMark, Slot
from fireforget._pool.channel import Channel
from fireforget._pool.config import Settings
from fireforget._pool.helper import be_quiet
from fireforget._pool.ring import Ring
from fireforget._pool.runner import Outcome, Runner, flush_submissions, interruption_of
from fireforget._pool.verdicts import error_of_killed
from fireforget._shield import shield
from fireforget.job import says_failure
from fireforget.queue_sqlite import SqliteQueue
from fireforget.registry import Definition, Registry
from fireforget.retry import default_delay, delay_after

if TYPE_CHECKING:
    import asyncio

LATE: Outcome = ("late",)
"""The outcome of a job with a rate that has not been started: its way here took too long for the rate to hold."""
_AT_ANY_TIME: Mapping[int, float] = {}


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

    def _answer(self, token: int, type: str, job_id: str, retry_count: int, text: str, at_limit: bool) -> None:
        """Tell what the application wants done about a job whose process was killed: when to try again, and whether it counts."""
        error = error_of_killed(text, at_limit)
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
        taken = late = 0
        for index, row in enumerate(rows, first):
            words[number_at] = row[0]
            doubles[began_at] = now
            words[index_at] = index + 1
            words[started_at] = index + 1
            if words[limit_at] <= index:  # taken back; so is all that follows
                break
            if not start_by or index not in start_by or now <= start_by[index]:
                outcome = run(index, row)
            else:
                outcome = LATE
                late += 1
            if self._child.is_foreign:
                os._exit(0)  # a handler forked, and this is the other process, which came back from it
            if outcome is not None or "fireforget.patterns" in sys.modules:
                self._child.finish_job(index, outcome, always=False)
            words[done_at] = index + 1
            taken += 1
            now = monotonic()
        self._child.report_position(first + len(rows), first + taken, taken - late, now - began)

    def interrupt(self) -> None:
        """Raise in the running handler if it is the one that the board names; a signal that comes late does nothing."""
        words = self._slot.words
        self._runner.interrupt(words[self._cell.interrupt_at] - 1, words[self._cell.reason_at], _raise)

    def _run_async(self, coroutine: Any, runner: Runner) -> Any:
        import asyncio

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
            in_time = began <= self._start_by.pop(index, began)
            try:
                outcome = runner.run(index, row) if in_time else LATE
                if self._child.is_foreign:
                    os._exit(0)
                self._child.finish_job(index, outcome, always=True)
            except BaseException as error:  # a mistake of ours
                text = f"the worker failed to end it: {middleware.describe(error)}"
                self._child.finish_job(index, ("archived", time.time(), 0.0, text, None), always=True)
            self._slot.words[cell.index_at] = 0
            self._end(in_time, time.monotonic() - began)

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

    def _end(self, runs: int, seconds: float) -> None:
        with self._ready:
            self._runs += runs
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
        import asyncio

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

    def _event_loop(self) -> "asyncio.AbstractEventLoop":
        import asyncio

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


def _raise(error: BaseException) -> None:
    raise error


def _raise_in(thread: int, error: BaseException) -> None:
    """Have another thread raise an error that says the same, at its next instruction: it can only be made to raise a class."""
    import ctypes

    kind = type(error)
    same = type(kind.__name__, (kind,), {"__init__": lambda self: BaseException.__init__(self, *error.args)})
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(same))


def child_main(registry: Registry, settings: Settings, board: Board) -> Callable[[socket.socket, int], None]:
    """Return what a freshly forked child does with its end of the channel and the number of its slot.

    The supervisor's first message is the tag of the database's ids, the path of the file, what tells it from any other, and
    the worker's number.
    """
    if any(definition.is_async for definition in registry.definitions.values()):
        import asyncio  # noqa: F401 - here, so that all children share it; without such handlers it is 4 MiB for nothing

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


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
