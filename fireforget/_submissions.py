"""What `fire_and_forget` has taken and not yet settled: the buffer, its threads, and the process's end.

A submission is a task on its way to an enqueuer. It is settled exactly once: enqueued, failed, or dropped at the door.

    caller --> Buffer.submit --> Lane.waiting --> a sender's batch --> enqueuer.enqueue_many / enqueue --> enqueued
                   |                  |                 |
                   | full             |  past its deadline: the keeper gives it up               --> failed
                   +-> dropped        +-----------------+

* A lane (`_submission_lanes`) belongs to one enqueuer (by identity: an enqueuer need not be hashable) and exists only
  while there is work for it, so no enqueuer is kept alive afterwards.
* Senders run on a `DaemonExecutor`: one a lane when the enqueuer takes batches, up to 8 otherwise, where one more joins
  while calls are slow and submissions wait. A sender may hang in its enqueuer for ever; nothing else waits for it.
* The keeper is one more daemon thread. It sleeps until the earliest deadline, fails what is past it, and abandons a
  sender whose whole batch is past it, so that another takes over. It ends when nothing is unsettled.

Locks: `Buffer.lock` guards every mutable field of Buffer, Lane, Sender and Ledger. It is re-entrant because a signal
handler or a finalizer may submit while the same thread is inside, and for their sake no counter is read and written
across a call. Foreign code (enqueuers, loggers) is never called with it held. It is taken before the executors'
locks, never after.

What a call's outcome means is decided in `_submission_calls`; log records are written in `_submission_logs`.

Settling takes two steps, so that `flush` returns after the log records: `_claim` under the lock decides who settles a
submission (its sender or the keeper), then it is logged, then `_settle` counts it.

Fork: a child throws nothing away and takes nothing over, it starts with a Buffer of its own (see `inherit`).
"""

import atexit
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Any, NamedTuple

from fireforget._daemons import DaemonExecutor, new_bell, ring, wait_for
from fireforget._submission_calls import after_refusal, attempt
from fireforget._submission_lanes import KEEPER_REST_SECONDS, SLOW_SECONDS, Lane, Ledger, Sender, Submission
from fireforget._submission_logs import DEFAULT_LOGGER, describe, log_arrivals, log_drops, log_failure, log_losses
from fireforget.enqueuer import Enqueuer
from fireforget.payload import size_of
from fireforget.task import Task

MAX_SUBMISSIONS = 262_144
MAX_BYTES = 64 * 1024 * 1024
_ALL_SENDERS = 256
"""Threads for all enqueuers together, so that a program that makes an enqueuer a request cannot run out of them."""
_DROP_RECORD_SECONDS = 1.0
_LOGGING_GRACE_SECONDS = 1.0
"""How long a flush without a timeout, or the exit, waits for log handlers after the last deadline."""


class SubmissionCounts(NamedTuple):
    """What became of this process's submissions since it started, or since it was forked.

    `submitted` is the sum of the others and of those that are on their way.
    """

    submitted: int
    """Calls of `fire_and_forget` that returned."""
    enqueued: int
    """Taken by the enqueuer in time."""
    failed: int
    """Refused by the enqueuer, or not answered in time."""
    dropped: int
    """Refused at once because the buffer was full."""


class Buffer:
    """All of one process's submissions. Its methods are thread-safe; see the module for the locks."""

    def __init__(self, max_submissions: int = MAX_SUBMISSIONS, max_bytes: int = MAX_BYTES) -> None:
        self.lock = threading.RLock()
        self.max_submissions = max_submissions
        self.max_bytes = max_bytes
        self.open = 0
        self.bytes = 0
        self.enqueued = 0
        self.failed = 0
        self.dropped = 0
        self.lanes: dict[int, Lane] = {}
        self._recent: Lane | None = None
        self.ledger = Ledger()
        self.ledgers = [self.ledger]
        self._executor = DaemonExecutor("fireforget-sender", _ALL_SENDERS)
        self._keepers = DaemonExecutor("fireforget-keeper", 2)  # one, and a stand-in
        self._keeper_bell = new_bell()
        self._keeper_runs = False
        self._keeper_parked = False
        self._wake_at = inf
        self._unsaid_drops = 0
        self._drops_said_at = -inf
        self._drop_logger: logging.Logger | None = None
        self._leaving = False
        self._left = False
        self._lost: list[Submission] = []
        self._hooked = False
        self._disowned = False
        self._parent: Buffer | None = None

    def limit(self, max_submissions: int | None, max_bytes: int | None) -> None:
        """Set the bounds; None leaves one as it is."""
        with self.lock:
            self.max_submissions = max_submissions or self.max_submissions
            self.max_bytes = max_bytes or self.max_bytes

    # --- taking ---

    def submit(
        self, enqueuer: Enqueuer, task: Task, options: Mapping[str, Any], logger: logging.Logger | None, seconds: float
    ) -> None:
        """Take one submission and see that somebody sends it. Never waits for the enqueuer.

        All that a caller waits for is here, in less than a microsecond. That is why the lock is taken by hand (`with`
        costs as much as the rest of the locked part) and why a Submission is made later.
        """
        text = task.payload_json
        size = 0 if text is None else len(text) if text.isascii() else size_of(text)
        lane, calm = None, False
        try:
            self.lock.acquire()
            ledger = self.ledger
            if self.open < self.max_submissions and self.bytes + size <= self.max_bytes:
                deadline = monotonic() + seconds  # inside the lock, so that deadlines grow along a lane
                lane = self._recent
                if lane is None or lane.enqueuer is not enqueuer:
                    lane = self._lane_of(enqueuer)
                if deadline >= lane.latest:
                    lane.latest = deadline
                else:
                    lane.mixed = True
                ledger.open += 1
                self.open += 1
                self.bytes += size
                lane.waiting.append((task, options, deadline, seconds, logger, ledger, size))
                calm = deadline >= self._wake_at and (
                    len(lane.senders) >= lane.limit or self._is_served(lane, deadline - seconds)
                )
        except BaseException:  # from a signal handler, also between the acquire and what follows it
            with suppress(RuntimeError):  # interrupted while it waited for the lock
                self.lock.release()
            raise
        self.lock.release()
        if calm:
            return
        if lane is None:
            self._refuse(Submission(task, options, 0.0, seconds, logger, ledger, size))
        else:
            self._see_to(lane)
            self._wake_keeper(deadline)

    def _lane_of(self, enqueuer: Enqueuer) -> Lane:
        lane = self.lanes.get(id(enqueuer))
        if lane is None:
            lane = self.lanes[id(enqueuer)] = Lane(enqueuer)
        self._recent = lane
        return lane

    def _refuse(self, submission: Submission) -> None:
        """Drop a submission that does not fit, or fail one after the exit's flush, which nobody would send."""
        with self.lock:
            submission.ledger.lost += 1
            if not self._left:
                self.dropped += 1
                self._unsaid_drops += 1
                self._drop_logger = submission.logger
                due = self._drops_said_at + _DROP_RECORD_SECONDS
            else:
                self.failed += 1
        if not self._left:
            self._wake_keeper(due)
        else:
            log_failure(submission, "the interpreter is exiting and has flushed already")

    def _is_served(self, lane: Lane, now: float) -> bool:
        """Return whether the lane needs no other sender now, or the keeper is to decide that in a moment."""
        if len(lane.senders) >= lane.limit:
            return True
        return bool(lane.senders) and lane.pace <= SLOW_SECONDS and self._wake_at <= now + KEEPER_REST_SECONDS

    def _see_to(self, lane: Lane) -> None:
        """Start a sender for the lane if it wants one."""
        error = None
        with self.lock:
            now = monotonic()
            if lane.wants_sender(now):
                error = self._start_sender(Sender(lane, now))
            elif lane.waiting and lane.has_room():  # the calls under way may be quick ones or hang: look again soon
                self._wake_keeper(now + KEEPER_REST_SECONDS)
        if error is not None:
            self._disband(lane, error)

    def _start_sender(self, sender: Sender) -> str | None:
        """Start a thread for the sender; return why there is none to be had.

        It becomes a sender of its lane afterwards, while its thread waits for the lock: should a signal handler raise
        in between, the lane has no sender that never runs, and a thread that runs all the same finds itself
        dismissed.
        """
        try:
            self._executor.submit(self._serve, sender)
        except (RuntimeError, MemoryError) as error:
            return describe(error)
        sender.lane.senders.append(sender)
        return None

    def _disband(self, lane: Lane, error: str) -> None:
        """Fail what waits where nobody will send it."""
        with self.lock:
            stranded = [] if lane.senders else lane.clear()
            self._forget_if_done(lane)
        self._fail(stranded, error)

    def _forget_if_done(self, lane: Lane) -> None:
        # An abandoned thread keeps its enqueuer alive anyway, and the lane has to remember how many there are.
        if not (lane.waiting or lane.senders or lane.abandoned):
            self.lanes.pop(id(lane.enqueuer), None)
            if self._recent is lane:
                self._recent = None

    # --- sending: on the senders' threads ---

    def _serve(self, sender: Sender) -> None:
        """Send what waits in the lane until nothing does."""
        sender.lane.probe()
        while batch := self._take(sender):
            try:
                self._send(sender, batch)
            except BaseException as error:  # MemoryError and the like: the lane goes on
                self._fail(self._claim(sender, sender.unclaimed()), describe(error))

    def _take(self, sender: Sender) -> list[Submission]:
        """Take the next batch; nothing means that the sender is dismissed."""
        if self._disowned:
            return []  # the enqueuer forked and returned in the child, where this work is not ours to do
        lane = sender.lane
        with self.lock:
            now = monotonic()
            if not sender.fresh:
                lane.pace += (now - sender.since - lane.pace) / 20
            sender.fresh, sender.since = False, now
            sender.held, sender.closed = [], set()
            if self._is_dismissed(sender):
                return []
            sender.held = batch = lane.take()
            growing = bool(lane.waiting) and not self._is_served(lane, now)
        if growing:
            self._see_to(lane)
        return batch

    def _is_dismissed(self, sender: Sender) -> bool:
        """Return whether a sender is done; one that was abandoned and came back joins again where there is room."""
        lane = sender.lane
        if sender.abandoned:
            sender.abandoned = False
            lane.abandoned -= 1
            if lane.has_room():
                lane.senders.append(sender)
        if lane.waiting and sender in lane.senders:
            return False
        sender.leave_lane()
        self._forget_if_done(lane)
        return True

    def _send(self, sender: Sender, batch: list[Submission]) -> None:
        """Hand over a batch, and what is left of it after a refusal, until each submission has arrived or failed."""
        parts, refusals = [batch], 0
        while parts:
            part, seconds = self._in_time(sender, parts.pop())
            if not part:
                continue
            answers, error = attempt(sender.lane, part, seconds)
            if error is None:
                self._arrive(self._claim(sender, part), part, answers)
                continue
            refusals += 1
            failed, again = after_refusal(part, error, refusals, monotonic())
            self._fail(self._claim(sender, failed), describe(error))
            parts += reversed(again)

    def _in_time(self, sender: Sender, part: list[Submission]) -> tuple[list[Submission], float]:
        """Return what is still worth sending, and how many seconds the first of it has left; fail what is late."""
        if sender.closed:  # looked at without the lock: a stale answer only costs a useless call
            part = [each for each in part if id(each) not in sender.closed]
        if not part:
            return part, 0.0
        now = monotonic()
        earliest = min([each.deadline for each in part]) if sender.lane.mixed else part[0].deadline
        if earliest > now:
            return part, earliest - now
        late = [each for each in part if each.deadline <= now]
        self._fail_late(self._claim(sender, late))
        part = [each for each in part if each.deadline > now]
        return part, min((each.deadline for each in part), default=now) - now

    def _claim(self, sender: Sender, part: list[Submission]) -> list[Submission]:
        """Return those of the part that the keeper has not given up; from now on it leaves them alone."""
        with self.lock:
            if part is sender.held and not sender.closed:
                sender.held = []
                return part
            mine = [each for each in part if id(each) not in sender.closed]
            sender.closed.update(map(id, mine))
            return mine

    # --- settling ---

    def _arrive(self, mine: list[Submission], part: list[Submission], answers: Any) -> None:
        log_arrivals(mine, part, answers)
        self._settle(mine, arrived=True)

    def _fail(self, submissions: list[Submission], error: str) -> None:
        for submission in submissions:
            log_failure(submission, error)
        self._settle(submissions, arrived=False)

    def _fail_late(self, submissions: list[Submission]) -> None:
        for submission in submissions:
            log_failure(submission, f"TimeoutError: no answer within {submission.seconds:g} s")
        self._settle(submissions, arrived=False)

    def _settle(self, submissions: list[Submission], *, arrived: bool) -> None:
        """Count claimed submissions, and wake the flushes that waited for them."""
        if not submissions:
            return
        size = sum([each.size for each in submissions])
        ledgers = Counter([each.ledger for each in submissions])
        with self.lock:
            self.open -= len(submissions)
            self.bytes -= size
            if arrived:
                self.enqueued += len(submissions)
            else:
                self.failed += len(submissions)
            for ledger, count in ledgers.items():
                ledger.open -= count
                ledger.lost += 0 if arrived else count
                if not ledger.open and ledger.bells:
                    bells, ledger.bells = ledger.bells, []
                    for bell in bells:
                        ring(bell)

    # --- the keeper: on its own thread ---

    def _wake_keeper(self, at: float) -> None:
        """See that the keeper looks around at the monotonic time `at`, or earlier."""
        with self.lock:
            if at >= self._wake_at:
                return
            if self._keeper_parked:
                ring(self._keeper_bell)
                self._keeper_parked = False
            elif not self._keeper_runs:
                self._start_keeper()
            self._wake_at = at  # last, so that what a signal handler interrupts is done by the next submission

    def _start_keeper(self) -> None:
        if not self._hooked:
            self._hooked = True
            leave_with_multiprocessing()
        with suppress(RuntimeError, MemoryError):  # no thread to be had: without one, the senders see to the deadlines
            self._keepers.submit(self._keep)
            self._keeper_runs = True

    def _keep(self) -> None:
        """Be the keeper; should it fail, the next submission starts another."""
        try:
            self._watch()
        finally:
            with self.lock:
                self._keeper_runs, self._keeper_parked, self._wake_at = False, False, inf

    def _watch(self) -> None:
        """Look around, sleep until the next deadline, and end when there is none."""
        while True:
            late, wanting = self._look()
            self._fail_late(late)
            for lane in wanting:
                self._see_to(lane)
            self._say_drops()
            seconds = self._next_sleep()
            if seconds is None:
                return
            wait_for(self._keeper_bell, seconds)

    def _look(self) -> tuple[list[Submission], list[Lane]]:
        """Claim all that is past its deadline; return it, and the lanes that want a sender."""
        late: list[Submission] = []
        wanting: list[Lane] = []
        with self.lock:
            self._keeper_parked = False
            now = monotonic()
            for lane in list(self.lanes.values()):
                for sender in list(lane.senders):
                    late += sender.give_up(now)
                late += lane.expire(now)
                if lane.wants_sender(now):
                    wanting.append(lane)
                self._forget_if_done(lane)
            if self._leaving:  # then they are said in one record at the end
                self._lost += late
                self._settle(late, arrived=False)
                late = []
        return late, wanting

    def _next_sleep(self) -> float | None:
        """Return for how many seconds there is nothing to look after; None when there will be nothing."""
        with self.lock:
            wake_at = min((lane.next_look() for lane in self.lanes.values()), default=inf)
            if self._unsaid_drops:
                wake_at = min(wake_at, self._drops_said_at + _DROP_RECORD_SECONDS)
            self._wake_at = wake_at
            self._keeper_parked = wake_at < inf
            self._keeper_runs = self._keeper_parked
            return max(wake_at - monotonic(), KEEPER_REST_SECONDS) if self._keeper_runs else None

    def _say_drops(self, *, at_once: bool = False) -> None:
        """Log how many were dropped since the last such record, at most once a second."""
        with self.lock:
            now = monotonic()
            count = self._unsaid_drops
            if not count or (now < self._drops_said_at + _DROP_RECORD_SECONDS and not at_once):
                return
            self._unsaid_drops, self._drops_said_at = 0, now
            logger, limits = self._drop_logger or DEFAULT_LOGGER, (self.max_submissions, self.max_bytes)
        log_drops(logger, count, *limits)

    # --- waiting and counting ---

    def flush(self, timeout: float | None) -> int:
        """Wait for all that was submitted before; return how many of it did not arrive, as `patterns.flush` says."""
        with self.lock:
            ledgers = self._close_ledger()
            deadline = self._latest_deadline() if timeout is None else monotonic() + timeout
        self._wait(ledgers, deadline)
        self._say_drops()
        with self.lock:
            missing = 0
            for ledger in ledgers:
                missing += ledger.open + ledger.lost
                ledger.lost = 0
            self.ledgers = [each for each in self.ledgers if each.open or each.lost or each is self.ledger]
        return missing

    def _close_ledger(self) -> list[Ledger]:
        """Return the accounts of all so far; what is submitted from now on goes to a new one."""
        ledgers = list(self.ledgers)
        self.ledger = Ledger()
        self.ledgers.append(self.ledger)
        return ledgers

    def _latest_deadline(self) -> float:
        """Return by when everything is settled and logged."""
        latest = max((lane.latest for lane in self.lanes.values()), default=0.0)
        return max(latest, monotonic()) + _LOGGING_GRACE_SECONDS

    def _wait(self, ledgers: Iterable[Ledger], deadline: float) -> None:
        with self.lock:
            lanes = list(self.lanes.values())
        for lane in lanes:
            self._see_to(lane)  # an exception from a signal handler may have kept a submit from doing so
        for ledger in ledgers:
            self._wait_for_ledger(ledger, deadline)

    def _wait_for_ledger(self, ledger: Ledger, deadline: float) -> None:
        bell = new_bell()
        with self.lock:
            if not ledger.open:
                return
            ledger.bells.append(bell)
        if not wait_for(bell, deadline - monotonic()):
            with self.lock:
                if bell in ledger.bells:
                    ledger.bells.remove(bell)

    def counts(self) -> SubmissionCounts:
        """Return how many were submitted, enqueued, failed and dropped."""
        with self.lock:
            settled = self.enqueued + self.failed + self.dropped
            return SubmissionCounts(settled + self.open, self.enqueued, self.failed, self.dropped)

    # --- leaving ---

    def leave(self) -> None:
        """Flush for as long as the submissions' own timeouts allow, then log what is lost and take nothing more."""
        with self.lock:
            self._leaving = True
            ledgers = self._close_ledger()
            deadline = self._latest_deadline()
        try:
            self._wait(ledgers, deadline)
        finally:
            lost = self._close()
            self._say_drops(at_once=True)
            log_losses(lost)

    def _close(self) -> list[Submission]:
        """Claim and settle all that is left; return it with what the keeper has given up meanwhile."""
        with self.lock:
            self._left = True
            self.max_submissions = 0
            remaining: list[Submission] = []
            for lane in self.lanes.values():
                for sender in lane.senders:
                    remaining += sender.unclaimed()
                    sender.closed.update(map(id, sender.held))
                remaining += lane.clear()
            self._settle(remaining, arrived=False)
            lost, self._lost = self._lost + remaining, []
        return lost

    def inherit(self) -> "Buffer":
        """Return a forked child's own buffer: empty, with the same limits.

        The child keeps the parent's buffer untouched: its locks may be held by threads that the child has not, and
        freeing it would copy its pages and run the finalizers of enqueuers that are the parent's.
        """
        child = Buffer(self.max_submissions or MAX_SUBMISSIONS, self.max_bytes)
        child._parent = self
        self._disowned = True
        return child


# --- the process's own buffer ---------------------------------------------------------------------------------------

buffer = Buffer()


def leave() -> None:
    """Flush at the interpreter's exit."""
    buffer.leave()


def leave_with_multiprocessing() -> None:
    """Flush at the end of a child of multiprocessing too: it ends by `os._exit`, without the `atexit` callbacks."""
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process and util and process.parent_process() is not None:
        util.Finalize(None, leave, exitpriority=0)


def _start_afresh() -> None:
    global buffer  # noqa: PLW0603 - the process's one buffer, made anew in a forked child
    buffer = buffer.inherit()


# At import, as early as can be: callbacks run last in, first out, so what others submit in theirs is flushed too.
# They run after the non-daemon threads have ended, while daemon threads go on.
atexit.register(leave)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
