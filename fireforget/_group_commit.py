"""Threads that enqueue at the same time share one transaction: one commit, one sync of the disk.

::

    write ─ nobody writes? ─► lead ───────────────────────────┬─► one transaction ─► each its own result ─► the next leads
        └─ somebody does ──► wait for the turn ─► written ◄───┘        a savepoint a caller
                                            └───► or given the pen: lead
"""

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

from fireforget import _db
from fireforget._inserting import insert_all, insert_one
from fireforget._rows import Row
from fireforget._shield import shield
from fireforget.errors import DuplicateTask, FireforgetError, StoreBusy, TaskIDConflict

_ROWS_IN_A_GROUP = 1000
_SHORTEST_WAIT = 0.02  # seconds; with less left a call is not tried once more

_log = logging.getLogger("fireforget.store")


class _Submission:
    """The rows of one call, and what became of them: `first` or `error` is set by whoever wrote them."""

    __slots__ = ("deadline", "error", "first", "leads", "rows", "turn", "wait")

    def __init__(self, rows: list[Row], deadline: float, wait: float) -> None:
        self.rows = rows
        self.deadline = deadline
        self.wait = wait
        self.turn: threading.Lock | None = None
        """Held until this caller may go on: it is settled, or has the pen."""
        self.leads = False
        self.first: int | None = None
        self.error: FireforgetError | None = None

    @property
    def settled(self) -> bool:
        return self.first is not None or self.error is not None


class GroupCommit:
    """Lets threads that enqueue at the same time share one transaction.

    The lock guards `_writing` and `_waiting` and is never held over a statement. Whoever finds nobody writing writes at once, on
    its own thread's connection. The others queue up; when the writer is done it wakes the first of them, which writes for all
    that wait by then. A batch of several callers is still all or nothing for each: a savepoint keeps theirs apart.
    """

    def __init__(self, database: _db.Database) -> None:
        self._database = database
        self._wal = _db.WalKeeper(database.path, _db.WAL_LIMIT_BYTES)
        self._reset()
        _groups.add(self)

    def _reset(self) -> None:
        self._lock = threading.RLock()  # a signal handler may come in the middle, and enqueue
        self._writing = False
        self._waiting: deque[_Submission] = deque()

    def write(self, rows: list[Row], wait: float) -> int:
        """Store the rows, all or none, within about `wait` seconds; return the number of the first, the others follow it."""
        mine = _Submission(rows, time.monotonic() + wait, wait)
        try:
            with shield, self._lock:
                mine.leads = not self._writing
                if mine.leads:
                    self._writing = True
                else:
                    mine.turn = threading.Lock()
                    mine.turn.acquire()
                    self._waiting.append(mine)
            if not mine.leads:
                self._wait_for_turn(mine)
            if mine.leads:
                self._lead(mine)
        finally:  # also after an interruption: whoever goes must neither be written any more nor keep the pen
            with shield:
                self._leave(mine)
        if mine.error is not None:
            raise mine.error
        assert mine.first is not None
        return mine.first

    def _wait_for_turn(self, mine: "_Submission") -> None:
        assert mine.turn is not None
        if mine.turn.acquire(timeout=max(0.0, mine.deadline - time.monotonic())):
            return
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                mine.error = StoreBusy(
                    self._database.path,
                    f"other threads of this program were writing for the {mine.wait:.1f} s that the call would wait: wait longer "
                    "(timeout=)",
                )
                return
        mine.turn.acquire()  # somebody writes it at this moment, or has just handed it the pen

    def _leave(self, mine: "_Submission") -> None:
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
            if not mine.leads:
                return
            following = self._waiting.popleft() if self._waiting else None
            if following is None:
                self._writing = False
            else:
                following.leads = True
        if following is not None and following.turn is not None:
            following.turn.release()

    def _lead(self, mine: "_Submission") -> None:
        """Write for this caller and for all that wait by now."""
        batch = [mine]
        try:
            while True:
                self._write(batch)
                if mine.settled:
                    break
                _db.pause_for_lock()
        finally:
            with shield, self._lock:
                self._waiting.extendleft(reversed(self._release(batch[1:])))

    def _fill(self, batch: list["_Submission"]) -> None:
        """Take in those that wait, once the lock is had: until then each waits for its own time alone."""
        with self._lock:
            rows = sum(len(submission.rows) for submission in batch)
            while self._waiting and rows < _ROWS_IN_A_GROUP:
                batch.append(self._waiting.popleft())
                rows += len(batch[-1].rows)

    @staticmethod
    def _release(followers: list["_Submission"]) -> list["_Submission"]:
        """Let those go on that are settled; return the others."""
        for submission in followers:
            if submission.settled and submission.turn is not None:
                submission.turn.release()
        return [submission for submission in followers if not submission.settled]

    def _write(self, batch: list["_Submission"]) -> None:
        """Write for the leader and all that wait. Afterwards each is settled, unless another program holds the lock."""
        leader = batch[0]
        try:
            with _db.gate:
                connection = self._database.connection(patience=0)
                if len(leader.rows) == 1 and not self._waiting and _takes_one_statement(leader.rows[0]):
                    leader.first = insert_one(connection, leader.rows[0])
                else:
                    _write_together(connection, batch, self._fill)
                self._database.check_identity()
                self._keep_wal_small(connection)
        except sqlite3.Error as error:
            self._fail(batch, error)
        except FireforgetError as error:
            leader.error = error
            if not isinstance(error, TaskIDConflict | DuplicateTask):
                for submission in batch:
                    submission.first, submission.error = None, error

    def _fail(self, batch: list["_Submission"], cause: sqlite3.Error) -> None:
        """Give each its own error; a lock that is held may still come in time for those that can wait longer."""
        now = time.monotonic()
        for submission in batch:
            submission.first = None
            error = _db.translate(self._database.path, cause, submission.wait)
            if not isinstance(error, StoreBusy) or submission.deadline <= now + _SHORTEST_WAIT:
                submission.error = error

    def _keep_wal_small(self, connection: sqlite3.Connection) -> None:
        """Keep the WAL from growing without bound where there is no worker; what is stored is stored, whatever fails here."""
        try:
            self._wal.after_commit(connection)
        except (OSError, sqlite3.Error):
            _log.warning("%s: the WAL was not folded back, the next commit tries again", self._database.path, exc_info=True)


_groups: "weakref.WeakSet[GroupCommit]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """In a forked child nobody is writing, and the parent's waiting threads do not exist."""
    for group in list(_groups):
        group._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _write_together(connection: sqlite3.Connection, batch: list[_Submission], fill: Callable[[list[_Submission]], None]) -> None:
    """Write the batch, and what `fill` adds to it once the lock is had, in one transaction.

    What is wrong with one submission is its own error and harms no other.

    Nothing is settled before the commit, and everything once it has happened.
    """
    results: list[tuple[_Submission, int | None, FireforgetError | None]] = []
    connection.execute("BEGIN IMMEDIATE")
    committing = False
    try:
        fill(batch)
        for submission in batch:
            connection.execute("SAVEPOINT submission")
            try:
                results.append((submission, insert_all(connection, submission.rows), None))
            except FireforgetError as error:
                connection.execute("ROLLBACK TO submission")
                results.append((submission, None, error))
            connection.execute("RELEASE submission")
        committing = True
        connection.execute("COMMIT")
    except BaseException as error:
        # An interruption that came when the commit was done: those who wait must not be written once more.
        if not (committing and not connection.in_transaction and not isinstance(error, sqlite3.Error)):
            _db.rollback(connection)
            results.clear()
        raise
    finally:
        for submission, first, failure in results:
            submission.first, submission.error = first, failure


def _takes_one_statement(row: Row) -> bool:
    return row["unique_key"] is None and row["linked"] is None
