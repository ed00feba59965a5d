"""What a running handler writes to the queue's own file: its transaction, and the results of its steps.

::

    transactional handler ── connection ─► BEGIN IMMEDIATE ─ its statements, enqueue, step ─┬─ returned ─► settle, COMMIT
                                                                                           └─ raised ───► ROLLBACK
    any other handler ────── step ───────► called ─► BEGIN IMMEDIATE ─ result ─ COMMIT

What a transactional handler writes and its completion are one commit, so a crash at any point leaves both or neither. Only one
process can be in such a transaction, and all others wait for it: so the supervisor's enforcer ends one that takes too long. It
learns of it from the board (`Mark`), since it must not touch the database.

Everything here happens in the process and on the thread that runs the handler, on a connection of its own which is kept for the
next job. The commit of a step is synced to the disk, since what the step has done elsewhere is done. That of a transaction is
not, like those of a worker: a power cut may undo the last ones, whole, and their jobs run again.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Protocol

from fireforget import _db, _dependencies, _schema, _sql
from fireforget import payload as json_payload
from fireforget._claimed import Claimed
from fireforget._settling import Fence, Settlement, settle_together
from fireforget._shield import shield
from fireforget.clock import Clock
from fireforget.errors import ClaimLost, FireforgetError, InvalidPayload, StepError
from fireforget.task import is_name

_NORMAL, _FULL = 1, 2  # PRAGMA synchronous
_LONGEST_ASIDE = 5.0
"""Seconds for which a handler that wants the write lock stands aside for the supervisor."""


class Mark(Protocol):
    """Where others see since when this thread's job holds the write lock, and where it sees that the supervisor waits for it."""

    def hold(self, holds: bool) -> None:
        """Say that the job holds the lock from now on, or does not any more."""

    def is_wanted(self) -> bool:
        """Return whether the supervisor waits for the lock, or has it."""


class Unmarked:
    """The `Mark` where there is no supervisor."""

    def hold(self, holds: bool) -> None:
        """Tell nobody."""

    def is_wanted(self) -> bool:
        """Return that nobody waits."""
        return False


# --- the connection -----------------------------------------------------------------------------------------------------


class _Guard:
    """Refuses statements that begin or end a transaction while a handler is inside its own (an SQLite authorizer)."""

    def __init__(self) -> None:
        self.closed = False
        self.has_changed = False
        """Whether a handler has set something that the next one must not find: a PRAGMA, a database that is attached."""

    def __call__(self, action: int, *_: object) -> int:
        if not self.closed:
            return sqlite3.SQLITE_OK
        self.has_changed |= action in _CHANGES
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK


_CHANGES = (sqlite3.SQLITE_PRAGMA, sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH)


class _Cursor(sqlite3.Cursor):
    """Runs nothing once a statement of the handler's own has ended its transaction: it would be written for good at once."""

    connection: "HandlersConnection"

    def execute(self, sql: str, parameters: Any = ()) -> Any:
        self.connection.check_transaction()
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any) -> Any:
        self.connection.check_transaction()
        return super().executemany(sql, parameters)


class HandlersConnection(sqlite3.Connection):
    """The `sqlite3.Connection` that handlers get. While one is inside its transaction, only fireforget ends that.

    SQLite refuses COMMIT and the like, in whatever way they are said; the methods are refused here as well, since SQLite would
    only say "not authorized".
    """

    guard = _Guard()  # one of its own once it is set up
    synchronous = _NORMAL

    def set_synchronous(self, level: int) -> None:
        """Say whether commits are synced, outside of a transaction; a statement of its own only when it changes."""
        if level != self.synchronous:
            self.execute(f"PRAGMA synchronous = {level}")
            self.synchronous = level

    def _refuse_inside(self, what: str, remedy: str) -> None:
        if self.guard.closed:
            raise sqlite3.ProgrammingError(f"{what} is not for a transactional handler: {remedy}")

    def cursor(self, factory: Any = _Cursor) -> Any:
        """Return a cursor that keeps to the transaction."""
        if factory is not _Cursor:
            self._refuse_inside("cursor() with a factory", "set row_factory instead")
        return super().cursor(factory)

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        """Run a statement, unless the transaction has been ended."""
        self.check_transaction()
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
        """Run a statement for each of the parameters, unless the transaction has been ended."""
        self.check_transaction()
        return super().executemany(sql, parameters)

    def check_transaction(self) -> None:
        """Raise where the handler's transaction should be open and is not."""
        if self.guard.closed and not self.in_transaction:
            raise FireforgetError(_ENDED)

    def set_progress_handler(self, *arguments: Any) -> None:
        """Set it for this handler alone."""
        self.guard.has_changed = True
        super().set_progress_handler(*arguments)

    def commit(self) -> None:
        """Refuse: the handler's own end is the commit."""
        self._refuse_inside("commit()", "return, and what you have written is committed together with the job's completion")
        super().commit()

    def rollback(self) -> None:
        """Refuse: an exception is the rollback."""
        self._refuse_inside("rollback()", "raise to undo everything, or use current_job().savepoint() to undo a part")
        super().rollback()

    def executescript(self, sql_script: str) -> sqlite3.Cursor:
        """Refuse: it commits first."""
        self._refuse_inside("executescript()", "it would commit first; execute the statements one by one")
        return super().executescript(sql_script)

    def close(self) -> None:
        """Refuse: the job's completion is still to be written."""
        self._refuse_inside("close()", "the connection is fireforget's; leave it open")
        super().close()

    def set_authorizer(self, authorizer_callback: Any) -> None:
        """Refuse: ours keeps the transaction whole."""
        self._refuse_inside("set_authorizer()", "fireforget's own keeps the transaction whole")
        super().set_authorizer(authorizer_callback)

    def __enter__(self) -> "HandlersConnection":
        self._refuse_inside("`with connection:`", "it would commit; use `with current_job().savepoint():` to undo a part")
        return super().__enter__()


class HandlersDatabase(_db.Database):
    """The queue's file as handlers use it; `identity` tells the file that the worker has open from one in its place."""

    def __init__(self, path: str, identity: tuple[int, int] | None) -> None:
        self.path = path
        self.identity = identity
        self._prepare(_NORMAL)

    def _connect(self) -> sqlite3.Connection:
        connection = _db.connect(self.path, self._synchronous, HandlersConnection)
        assert isinstance(connection, HandlersConnection)
        connection.guard = _Guard()
        connection.set_authorizer(connection.guard)
        return connection


# --- one run ------------------------------------------------------------------------------------------------------------


# Steps are stored fenced, like every settling statement: a run whose job was given to another stores nothing.

STORED_STEP = "SELECT result FROM fireforget_step WHERE job = ? AND name = ?"

INSERT_STEP = f"""
INSERT INTO fireforget_step (job, name, result, stored_at)
SELECT n, ?, ?, ?
FROM fireforget_job
{_sql.FENCE}
"""

# Once a job: an update writes the whole row anew, and its payload may be large.
MARK_STEPS = "UPDATE fireforget_job SET has_steps = 1 WHERE n = ? AND has_steps = 0"


class Effects:
    """What one run of a job writes to the queue's file while it runs.

    `row` is the claimed job and `worker` the number of the worker that claimed it; `limit` is how many seconds the handler's
    transaction may be open, None for a handler that is not transactional.
    """

    def __init__(
        self, database: _db.Database, row: tuple[Any, ...], worker: int, clock: Clock, limit: float | None, mark: Mark
    ) -> None:
        self._database = database
        self._claimed = Claimed(*row)
        self._fence: Fence = (self._claimed.n, worker, self._claimed.claim)
        self._clock = clock
        self._mark = mark
        self.limit = limit
        self._pid = os.getpid()
        self._thread = threading.get_ident()
        self._connection: sqlite3.Connection | None = None
        self._names: set[str] = set()
        self.has_steps = bool(self._claimed.has_steps)
        self.result: str | None = None
        """What the handler has said its result is while it ran, as JSON text."""
        self.progress: tuple[float, str | None] | None = None
        self.is_settled = False
        """Whether the job's completion is committed."""
        self._is_over = False

    # --- the handler's transaction ------------------------------------------------------------------------------------

    @property
    def has_begun(self) -> bool:
        """Whether the handler's transaction is open."""
        return self._connection is not None

    @property
    def connection(self) -> sqlite3.Connection:
        """The handler's connection, inside its transaction, which begins at the first use."""
        self._check_place()
        if self._connection is None:
            return self._begin()
        if not self._connection.in_transaction:
            raise FireforgetError(_ENDED)
        return self._connection

    def takes(self, path: str) -> bool:
        """Return whether what this thread enqueues into the file at `path` is part of the handler's transaction."""
        return path == self._database.path and not self._is_over and self._is_here()

    def _is_here(self) -> bool:
        return self._thread == threading.get_ident() and self._pid == os.getpid()

    def _check_place(self) -> None:
        if self.limit is None:
            raise FireforgetError(
                "current_job().connection is for handlers that are registered with transactional=True: open a connection of your "
                "own, or register it so"
            )
        if self._database.path == ":memory:":
            raise FireforgetError("a transactional handler needs a file: drain a SqliteQueue, not a RecordingEnqueuer")
        if self._is_over:
            raise FireforgetError("the handler's transaction is over: current_job().connection is for the handler alone")
        if self._pid != os.getpid():
            raise FireforgetError("the handler's transaction belongs to the process that this one was forked from")
        if self._thread != threading.get_ident():
            raise FireforgetError("current_job().connection is for the handler's own thread: use it there")

    def _begin(self) -> sqlite3.Connection:
        """Begin a write transaction and return its connection.

        It waits for the lock for as long as the job may run: to fail would cost an attempt, and be no better off. The supervisor
        goes first: whoever does not wait for its next turn ends without work.
        """
        aside_until = monotonic() + _LONGEST_ASIDE
        while True:
            while self._mark.is_wanted() and monotonic() < aside_until:
                _db.pause_for_lock()
            with _db.translated(self._database.path), _db.gate:
                if self._has_lock(self._database.connection(patience=0)):
                    return self._connection  # type: ignore[return-value]  # set by `_has_lock`
            _db.pause_for_lock()

    def _has_lock(self, connection: sqlite3.Connection) -> bool:
        """Begin the transaction unless another has the lock; return whether it is begun. From then on `_end` must be called."""
        if isinstance(connection, HandlersConnection):
            connection.set_synchronous(_FULL if self.limit is None else _NORMAL)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not _db.is_busy(error):
                raise
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY_SNAPSHOT:  # a cursor that an earlier handler has left open
                self._database.close_thread()
            return False
        _db.gate.hold()  # no fork until `_end`: it would close the connection
        self._connection = connection
        self._mark.hold(True)
        connection.row_factory, connection.text_factory = None, str  # whatever an earlier handler has made of them
        _schema.check_unchanged(connection, self._database.path)
        if isinstance(connection, HandlersConnection):
            connection.guard.closed = True
        return True

    def _end(self, *, commits: bool, settles: bool = False) -> None:
        """Commit or roll back, and let others have the lock; raises `sqlite3.Error` where it cannot be committed."""
        with shield:
            connection, self._connection = self._connection, None
            assert connection is not None
            try:
                if isinstance(connection, HandlersConnection):
                    connection.guard.closed = False
                if commits:
                    connection.commit()
                    self.is_settled = settles
            finally:
                _db.rollback(connection)
                if isinstance(connection, HandlersConnection) and connection.guard.has_changed:
                    self._database.close_thread()  # the next handler gets one as good as new
                self._mark.hold(False)
                _db.gate.let_go()

    def rollback(self) -> None:
        """Undo what the handler has written, if it has begun and not yet committed."""
        if self._connection is not None and self._pid == os.getpid():
            self._end(commits=False)

    def complete(self, began: float, result: str | None, note: str | None) -> None:
        """Settle the job as a success and commit that together with what the handler has written.

        Raises `ClaimLost` where the job was given to another worker, `sqlite3.Error` where it cannot be committed; then nothing
        of it happened.
        """
        connection = self.connection
        connection.row_factory, connection.text_factory = None, str
        now = self._clock()
        if settle_together(connection, self._settlement(began, now, result, note), now):
            raise ClaimLost(_LOST)
        _dependencies.spread(connection, now)
        self._end(commits=True, settles=True)

    def _settlement(self, began: float, now: float, result: str | None, note: str | None) -> Settlement:
        n, retention = self._claimed.n, self._claimed.retention
        text = self.result if result is None and note is None else result
        if retention <= 0:
            return Settlement(removed=[self._fence], kept=[(began, text, note, *self._fence)], forgotten=[(n,)])
        return Settlement(
            completed=[(began, now, now + retention, text, note, *self._fence)],
            progress=[] if self.progress is None else [(*self.progress, *self._fence)],
        )

    def close(self) -> None:
        """End with the run: nothing can be written any more."""
        self._is_over = True
        self.rollback()

    @contextmanager
    def savepoint(self) -> Iterator[sqlite3.Connection]:
        """Run a block whose writes are undone when it raises, and which leaves the rest of the transaction as it is."""
        connection = self.connection
        connection.execute("SAVEPOINT fireforget_handler")
        try:
            yield connection
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK TO fireforget_handler")
                connection.execute("RELEASE fireforget_handler")
            raise
        connection.execute("RELEASE fireforget_handler")

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Run a block in a write transaction: the handler's own where it is transactional, else one for the block alone.

        It must give plain tuples and text: what a handler has made of its connection is put aside meanwhile.
        """
        if self.limit is not None:
            connection = self.connection
            factories = connection.row_factory, connection.text_factory
            connection.row_factory, connection.text_factory = None, str
            try:
                with _db.translated(self._database.path):
                    yield connection
            finally:
                connection.row_factory, connection.text_factory = factories
            return
        with _db.translated(self._database.path):
            try:
                yield self._begin()
                self._end(commits=True)
            except BaseException:
                self.rollback()
                raise

    # --- steps --------------------------------------------------------------------------------------------------------

    def begin_step(self, name: str) -> str | None:
        """Return the stored result of a step as JSON text; None when it is to be called. Raises `StepError`."""
        if not is_name(name):
            raise StepError(name, "give a name: text that is not blank, of at most 512 characters")
        if self._is_over:
            raise StepError(name, "the run is over: call current_job().step(...) inside the handler")
        if name in self._names:
            raise StepError(name, "this name was used in this run already: give each step its own, such as 'charge:2'")
        self._names.add(name)
        return self._stored(name) if self.has_steps else None

    def _stored(self, name: str) -> str | None:
        if self.has_begun:
            with self.changing() as connection:
                row = connection.execute(STORED_STEP, (self._claimed.n, name)).fetchone()
        else:
            with self._database.use() as connection:
                connection.row_factory, connection.text_factory = None, str
                row = connection.execute(STORED_STEP, (self._claimed.n, name)).fetchone()
        return None if row is None else str(row[0])

    def step_failed(self, name: str) -> None:
        """Let a step whose function has raised be called again in the same run."""
        self._names.discard(name)

    def end_step(self, name: str, value: Any) -> str:
        """Store what a step has returned, and return it as JSON text.

        Raises `StepError` for what is not JSON or too large, `ClaimLost` where the job was given to another worker.
        """
        try:
            text = json_payload.encode(value)
        except InvalidPayload as error:
            raise StepError(name, f"its result cannot be stored: {error}") from None
        size = json_payload.size_of(text)
        if size > json_payload.MAX_RESULT_BYTES:
            raise StepError(
                name,
                f"its result has {size} bytes of JSON and at most {json_payload.MAX_RESULT_BYTES} are stored: store the data "
                "elsewhere and return a reference",
            )
        with self.changing() as connection:
            stored = connection.execute(INSERT_STEP, (name, text, self._clock(), *self._fence)).rowcount
            if not stored:
                raise ClaimLost(_LOST)
            if not self.has_steps:
                connection.execute(MARK_STEPS, (self._claimed.n,))
        self.has_steps = True
        return text


_ENDED = (
    "the handler's transaction has been ended by a statement of its own (a ROLLBACK by a conflict clause or trigger, or an error "
    "of the disk): let the error pass, and the job is tried again"
)
_LOST = "the job is no longer this run's: it was given to another worker, or removed; what this run wrote is undone"
