"""Ends what runs too long: a thread of the supervisor that never touches the database.

The supervisor's loop may wait for SQLite's lock for seconds, and a timeout must not wait with it. The enforcer reads on the board
what runs since when, and knows each job's limits. At the limit it interrupts the handler softly: it names the job on the board
and signals the child, which raises in the handler. `KILL_GRACE` later it kills the child. It does the same to a handler whose
transaction is open for longer than it may, since everybody else waits for that. A retry policy that is asked when the handler has
ended has a limit of its own, `DECISION_SECONDS`.

It sleeps until the earliest moment at which something could be due, and without limit while nothing runs. `lock` guards
`_watched`; it is never held over a system call that can block.
"""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fireforget._claimed import DEADLINE, TIMEOUT, TYPE, Row
from fireforget._pool.board import Reason, Slot
from fireforget._pool.config import DECISION_SECONDS, KILL_GRACE, TRANSACTION_GRACE

INTERRUPT_SIGNAL = getattr(signal, "SIGUSR2", 0)
"""Tells a child that the board names a job to be interrupted; handlers must not use it for themselves."""
_LONGEST_PAUSE = 3600.0  # a timeout may be years, and a wait may not
_LOOK_AT_DEADLINES = 1.0  # deadlines are wall time, which may jump


@dataclass
class Watched:
    """One child under watch."""

    pid: int
    slot: Slot
    jobs: dict[int, Row]
    """The jobs in the child's hands, by index: the supervisor's own dictionary."""
    interrupted: dict[int, tuple[float, Reason]] = field(default_factory=dict)
    """When and why a job was interrupted, by index."""
    killed_for: tuple[int, Reason] | None = None
    """The job for which the child was killed."""


class Enforcer:
    """Watches the running jobs of a worker's children.

    `limits` returns for how many seconds the handler of a type may keep its transaction open, None where it has none; it is None
    itself where no handler has one.
    """

    def __init__(self, signal_child: Callable[[int, int], None], limits: Callable[[str], float | None] | None) -> None:
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._signal_child = signal_child
        self._limits = limits
        self._watched: dict[int, Watched] = {}
        self._wake_at = float("inf")
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="fireforget-enforcer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def watch(self, child: Watched) -> None:
        """Watch a new child."""
        with self.lock:
            self._watched[child.pid] = child

    def forget(self, pid: int) -> None:
        """Stop watching a child that has ended."""
        with self.lock:
            self._watched.pop(pid, None)

    def expect(self, child: Watched, jobs: dict[int, Row]) -> None:
        """Take jobs under watch that are about to be sent to a child."""
        rows = jobs.values()
        soonest = min({row[TIMEOUT] for row in rows} - {None}, default=float("inf"))
        deadline = min({row[DEADLINE] for row in rows} - {None}, default=None)
        limit = float("inf") if self._limits is None else min(map(self._limit_of, jobs.values()), default=float("inf"))
        wake_at = time.monotonic() + min(soonest, _until(deadline), limit, DECISION_SECONDS)
        with self._changed:
            child.jobs.update(jobs)
            if wake_at < self._wake_at:
                self._changed.notify()

    def cancel(self, child: Watched, index: int) -> None:
        """Interrupt a running job because somebody cancelled it."""
        with self._changed:
            self._interrupt(child, index, Reason.CANCELLED, time.monotonic())
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                self._wake_at = min((self._check(child, now) for child in self._watched.values()), default=float("inf"))
                pause = self._wake_at - time.monotonic()
                self._changed.wait(None if pause == float("inf") else min(max(pause, 0.001), _LONGEST_PAUSE))

    def _check(self, child: Watched, now: float) -> float:
        """Interrupt or kill what is due in one child; return when to look at it again, in monotonic seconds."""
        look_at = now + DECISION_SECONDS if child.jobs else float("inf")  # a decision that begins later ends later than that
        running = {index: began for index, _, began in child.slot.running()}
        holding = child.slot.holding()
        deciding = child.slot.deciding()
        for index in [i for i in child.interrupted if i not in running]:
            del child.interrupted[index]
        for index, began in running.items():
            row = child.jobs.get(index)
            if row is not None:
                if index in deciding:
                    look_at = min(look_at, self._check_decision(child, index, deciding[index], now))
                else:
                    look_at = min(look_at, self._check_job(child, index, began, row, now, holding.get(index)))
        for index, row in child.jobs.items():
            if index not in running:
                timeout = row[TIMEOUT] or float("inf")
                look_at = min(look_at, now + timeout, now + _until(row[DEADLINE]), now + self._limit_of(row))
        return look_at

    def _check_decision(self, child: Watched, index: int, since: float, now: float) -> float:
        """The handler has ended, and with it the job's own limits; the application decides on its failure."""
        interrupted_at, reason = child.interrupted.get(index, (now, None))
        if reason == Reason.DECISION:
            if now < interrupted_at + KILL_GRACE:
                return interrupted_at + KILL_GRACE
            self._kill(child, index, reason)
            return float("inf")
        child.interrupted.pop(index, None)  # its handler has heeded that
        if now < since + DECISION_SECONDS:
            return since + DECISION_SECONDS
        self._interrupt(child, index, Reason.DECISION, now)
        return now + KILL_GRACE

    def _limit_of(self, row: Row) -> float:
        """Return for how many seconds a job may keep its transaction open; infinity where it has none."""
        limit = None if self._limits is None else self._limits(row[TYPE])
        return float("inf") if limit is None else limit

    def _check_job(self, child: Watched, index: int, began: float, row: Row, now: float, holds_since: float | None) -> float:
        # A transaction that begins later than now is over its limit later than this.
        let_go_at = self._limit_of(row) + (now if holds_since is None else holds_since)
        if index in child.interrupted:
            since, reason = child.interrupted[index]
            kill_at = min(since + KILL_GRACE, max(since, let_go_at) + TRANSACTION_GRACE)
            if now < kill_at:
                return kill_at
            self._kill(child, index, reason)
            return float("inf")
        ends_at = began + row[TIMEOUT] if row[TIMEOUT] is not None else float("inf")
        reason = Reason.TIMEOUT
        look_at = ends_at
        if row[DEADLINE] is not None:
            left = row[DEADLINE] - time.time()
            look_at = min(look_at, now + _until(row[DEADLINE]))
            if now + left < ends_at:
                ends_at, reason = now + left, Reason.DEADLINE
        if let_go_at < ends_at:
            ends_at, reason = let_go_at, Reason.TRANSACTION
        if now < ends_at:
            return min(look_at, let_go_at)
        self._interrupt(child, index, reason, now)
        return now + TRANSACTION_GRACE

    def _interrupt(self, child: Watched, index: int, reason: Reason, now: float) -> None:
        if index not in child.interrupted and child.slot.interrupt(index, reason):
            child.interrupted[index] = (now, reason)
            self._signal_child(child.pid, INTERRUPT_SIGNAL)

    def _kill(self, child: Watched, index: int, reason: Reason) -> None:
        if child.killed_for is None:
            child.killed_for = (index, reason)
            self._signal_child(child.pid, signal.SIGKILL)


def _until(deadline: float | None) -> float:
    """Return in how many seconds to look at a deadline: when it comes by today's clock, but soon enough to see the clock jump."""
    return float("inf") if deadline is None else min(max(deadline - time.time(), 0.001), _LOOK_AT_DEADLINES)
