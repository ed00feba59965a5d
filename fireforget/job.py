"""The running job as its handler sees it: `current_job()`."""

import inspect
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Protocol, TypeVar, cast, overload

from fireforget import _context, logs
from fireforget import payload as json_payload
from fireforget._claimed import (
    DEADLINE,
    DUE,
    HEADERS,
    LINKED,
    MAX_RETRY,
    PAYLOAD,
    QUEUE,
    RETRY_COUNT,
    TIMEOUT,
    TYPE,
    N,
    Row,
    id_of,
)
from fireforget.clock import to_datetime
from fireforget.errors import FireforgetError, InvalidOption, PayloadMismatch
from fireforget.task import State

Connection = Any
"""A `sqlite3.Connection`; only the store knows SQLite by its name."""

MOST_NOTE = 4096
"""Characters of a progress note; what is longer is cut."""

R = TypeVar("R")

PassHeaders = bool | frozenset[str]
"""Which of its headers a job passes on to the jobs that it enqueues: all, none, or those with these names."""


class Effects(Protocol):
    """What a run writes to the queue's own file while it runs; see `_effects`, which knows how."""

    limit: float | None

    @property
    def connection(self) -> Connection:
        """The handler's connection, inside its transaction."""

    def savepoint(self) -> AbstractContextManager[Connection]:
        """Run a block whose writes are undone when it raises."""

    def begin_step(self, name: str) -> str | None:
        """Return the stored result of a step as JSON text; None when it is to be called."""

    def step_failed(self, name: str) -> None:
        """Let a step whose function has raised be called again."""

    def end_step(self, name: str, value: Any) -> str:
        """Store what a step has returned, and return it as JSON text."""


class Run(Protocol):
    """A run, as its job knows it: what carries out what the handler asks of `current_job()`."""

    tag: str
    """What the ids of the queue's jobs begin with."""

    def report(self, job: "Job", kind: str, value: Any) -> None:
        """Take what a handler says while it runs: ("result", JSON text) or ("progress", (fraction, note))."""

    def store(self) -> Any:
        """Return the queue that the job is stored in, opened when it is first asked for."""

    def effects(self, job: "Job") -> Effects:
        """Return what stores the job's steps and holds its transaction."""


class Definition(Protocol):
    """A handler's definition, as its job knows it; see `registry.Definition`."""

    pattern: str
    is_failure: Callable[[BaseException], bool] | None
    pass_headers: PassHeaders | None


_UNREAD: Any = object()


class Job:
    """The job that a handler is running. Made by the worker; valid until the handler returns.

    It is a view of what was claimed: most handlers look at little of it, and what they do not look at costs nothing.
    """

    __slots__ = (
        "_began", "_cancelled", "_definition", "_headers", "_id", "_judged", "_needs", "_payload", "_row", "_run", "_seconds",
        "started_at",
    )  # fmt: skip

    started_at: float
    """When this run began, in Unix seconds."""

    def __init__(self, row: Row, definition: Definition, run: Run, started_at: float) -> None:
        self._row = row
        self._definition = definition
        self._run = run
        self.started_at = started_at
        self._began = time.monotonic()
        self._seconds: float | None = None
        """How long the run took, once somebody has asked; None again when the handler is called."""
        self._id: str | None = None
        self._payload = _UNREAD
        self._headers: dict[str, str] | None = None
        self._needs: list[tuple[str, Any, str | None, Any]] | None = None
        self._cancelled = False
        self._judged: tuple[BaseException, bool] | None = None
        """What `is_failure` said of which error, once it was asked."""

    @property
    def id(self) -> str:
        """Its id in the queue."""
        if self._id is None:
            self._id = id_of(self._row, self._run.tag)
        return self._id

    @property
    def type(self) -> str:
        """Its task's type."""
        return self._row[TYPE]  # type: ignore[no-any-return]  # a row is of anything

    @property
    def pattern(self) -> str:
        """The registered type or prefix that this job's type matched."""
        return self._definition.pattern

    @property
    def queue(self) -> str:
        """The queue it was claimed from."""
        return self._row[QUEUE]  # type: ignore[no-any-return]  # a row is of anything

    @property
    def payload(self) -> Any:
        """The decoded payload; raises `PayloadMismatch` for what is not JSON, which a foreign program may have stored."""
        if self._payload is _UNREAD:
            text = self._row[PAYLOAD]
            try:
                self._payload = None if text is None else json_payload.decode(text)
            except (ValueError, TypeError, RecursionError) as error:
                raise PayloadMismatch(f"the payload is not JSON: {error}") from None
        return self._payload

    @property
    def retry_count(self) -> int:
        """How many attempts have failed before this one; 0 in the first run."""
        return self._row[RETRY_COUNT]  # type: ignore[no-any-return]  # a row is of anything

    @property
    def max_retry(self) -> int:
        """How many retries it has after its first run."""
        return self._row[MAX_RETRY]  # type: ignore[no-any-return]  # a row is of anything

    @property
    def timeout(self) -> float | None:
        """Seconds of run time; None with a deadline alone."""
        return self._row[TIMEOUT]  # type: ignore[no-any-return]  # a row is of anything

    @property
    def wait(self) -> float:
        """Seconds from when it was due to when it started."""
        return max(0.0, self.started_at - self._row[DUE])  # type: ignore[no-any-return]  # a row is of anything

    def _took(self) -> float:
        """Return how many seconds the run took that has just ended, whatever was done to the wall clock meanwhile.

        Measured when it is first asked for: so log, metrics and database say the same of a run.
        """
        if self._seconds is None:
            self._seconds = time.monotonic() - self._began
        return self._seconds

    @property
    def headers(self) -> dict[str, str]:
        """The task's headers; of what a foreign program stored, the members that are text."""
        if self._headers is None:
            self._headers = json_payload.headers_of(self._row[HEADERS])
        return self._headers

    @property
    def _has_headers(self) -> bool:
        return self._row[HEADERS] is not None

    def _passed_headers(self) -> dict[str, str]:
        """Return the headers that jobs take over which this one enqueues; see `pass_headers` of the registry."""
        if not self._has_headers:
            return {}
        passes = self._definition.pass_headers
        if passes is None or passes is True:
            return self.headers
        return {name: text for name, text in self.headers.items() if passes and name in passes}

    def _fails_by(self, error: BaseException) -> bool:
        """Return whether the run has failed with this error, as the application's `is_failure` says; it is asked once."""
        hook = self._definition.is_failure
        if hook is None:
            return True
        if self._judged is None or self._judged[0] is not error:
            self._judged = (error, says_failure(hook, error, self.pattern, self.id))
        return self._judged[1]

    @property
    def deadline(self) -> datetime | None:
        """The instant after which the job must not run, in UTC; None without one."""
        return to_datetime(self._row[DEADLINE])

    @property
    def cancelled(self) -> bool:
        """Whether somebody has asked to cancel this job; a handler that works in pieces looks between them and stops."""
        return self._cancelled

    @property
    def results(self) -> dict[str, Any]:
        """The results of the jobs that this one was enqueued `after`, by id and in that order; None for one without a result.

        Empty for a job that waited for none. Read from the database at the first use. Those that failed are in `failures`.
        """
        return {need: result for need, state, _, result in self._all_needs() if state == State.COMPLETED}

    @property
    def failures(self) -> dict[str, str]:
        """Why jobs that this one was enqueued `after` have failed, by id: those that were archived, cancelled, deleted, revoked.

        Empty but for a job with `after_failure="run"` and one that somebody has run by hand.
        """
        return {need: reason or "" for need, state, reason, _ in self._all_needs() if state in (State.ARCHIVED, State.CANCELLED)}

    def _all_needs(self) -> list[tuple[str, Any, str | None, Any]]:
        if self._needs is None:
            waits = self._row[LINKED] is not None  # else it has never waited for others
            self._needs = self._run.store()._needs_of(self._row[N]) if waits else []
        return self._needs

    def write_result(self, value: Any) -> None:
        """Store a result while the job runs; a value that the handler returns replaces it.

        What is not JSON or above 1 MiB is stored as null, with a WARNING. It is written within a moment, and lost if the process
        is killed before.
        """
        text, note = json_payload.result_of(value)
        if note is not None:
            logs.result_not_kept(self.pattern, self.id, self.queue, note)
        self._run.report(self, "result", text)

    def progress(self, fraction: float, note: str | None = None) -> None:
        """Say how far the job is: `fraction` from 0 to 1, and an optional note. Seen in `TaskInfo.progress`."""
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
            raise InvalidOption("fraction", fraction, "give a number from 0 to 1")
        if note is not None and not isinstance(note, str):
            raise InvalidOption("note", note, "give text")
        told = None if note is None else json_payload.storable(str(note)[:MOST_NOTE])
        self._run.report(self, "progress", (float(fraction), told))

    # --- what it writes to the queue's own file -----------------------------------------------------------------------

    def _effects(self) -> Effects:
        return self._run.effects(self)

    @property
    def connection(self) -> Connection:
        """The `sqlite3.Connection` to the queue's own file, for handlers that are registered with `transactional=True`.

        The transaction (BEGIN IMMEDIATE) begins at the first use, and what is written in it is committed together with the job's
        completion when the handler returns, and rolled back when it raises. Until then nobody else can write to the file: use it
        last, and briefly. Commit, rollback and the like raise; `savepoint` undoes a part. For the handler's own thread.

        Raises `FireforgetError` in other handlers, and `StoreError`s.
        """
        return self._effects().connection

    def savepoint(self) -> AbstractContextManager[Connection]:
        """Return a context manager for a part of the transaction: what is written in it is undone when it raises.

        It may be nested, and gives the connection. Raises as `connection` does.
        """
        return self._effects().savepoint()

    @overload
    def step(
        self, name: str, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, R]: ...

    @overload
    def step(self, name: str, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> R: ...

    def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call `function(*args, **kwargs)` once for this job, and return its result: a later run gets what was stored.

        `name` tells it from the job's other steps. The result is stored as JSON, of at most 1 MiB, when the function has
        returned, and what is returned here is what JSON makes of it, in the first run too. A run that ends before that calls it
        again. With an `async` function there is something to await. Steps are kept until the job is removed.

        Raises `StepError` for a name that was used in this run already and for a result that cannot be stored, `ClaimLost` where
        the job was given to another worker, `StoreError`s, and whatever the function raises.
        """
        effects = self._effects()
        stored = effects.begin_step(name)
        if _is_async(function):
            return _step_async(effects, name, stored, function, args, kwargs)
        if stored is None:
            try:
                value = function(*args, **kwargs)
            except BaseException:
                effects.step_failed(name)
                raise
            if isinstance(value, Coroutine):
                value.close()  # it would warn that nobody has awaited it
            stored = effects.end_step(name, value)
        return json_payload.decode(stored)

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.type} in {self.queue}, attempt {self.retry_count + 1}>"


async def _step_async(
    effects: Effects, name: str, stored: str | None, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if stored is None:
        try:
            value = await function(*args, **kwargs)
        except BaseException:
            effects.step_failed(name)
            raise
        stored = effects.end_step(name, value)
    return json_payload.decode(stored)


def _is_async(function: Callable[..., Any]) -> bool:
    """Return whether calling it gives a coroutine: an `async def`, or an object whose `__call__` is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


running = cast("ContextVar[Job | None]", _context.running)
"""The job of this thread or coroutine; set by whoever runs handlers."""


def current_job() -> Job:
    """Return the job whose handler is running in this thread or coroutine; raises `FireforgetError` outside of one."""
    job = running.get()
    if job is None:
        raise FireforgetError(
            "current_job() works inside a handler that a worker runs: outside of one, pass what you need as arguments"
        )
    return job


def says_failure(hook: Callable[[BaseException], object], error: BaseException, task_type: str, task_id: str) -> bool:
    """Return whether an `is_failure` takes the error for a failure: anything but False does, and a hook that raises as well."""
    try:
        return hook(error) is not False
    except BaseException as failed:
        logs.hook_failed("is_failure", task_type, task_id, f"{type(failed).__name__}: {failed}")
        return True
