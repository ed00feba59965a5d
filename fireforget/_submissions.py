"""What `fire_and_forget` has taken and not yet settled: the buffer, the lanes, the senders, the keeper.

A submission is a task on its way to an enqueuer. It is settled exactly once: enqueued, failed, or dropped at the door.

    caller --> Buffer.submit --> Lane.waiting --> a sender's batch --> enqueuer.enqueue_many / enqueue --> enqueued
                   |                  |                 |
                   | full             |  past its deadline: the keeper gives it up               --> failed
                   +-> dropped        +-----------------+

* A lane belongs to one enqueuer (by identity: an enqueuer need not be hashable) and exists only while there is work
  for it, so no enqueuer is kept alive afterwards.
* Senders run on a `DaemonExecutor`: one a lane when the enqueuer takes batches, up to 8 otherwise, where one more joins
  while calls are slow and submissions wait. A sender may hang in its enqueuer for ever; nothing else waits for it.
* The keeper is one more daemon thread. It sleeps until the earliest deadline, fails what is past it, and abandons a
  sender whose whole batch is past it, so that another takes over. It ends when nothing is unsettled.

Locks: `Buffer.lock` guards every mutable field of Buffer, Lane, Sender and Ledger. It is re-entrant because a signal
handler or a finalizer may submit while the same thread is inside, and for their sake no counter is read and written
across a call. Foreign code (enqueuers, loggers) is never called with it held. It is taken before the executors'
locks, never after.

Settling takes two steps, so that `flush` returns after the log records: `_claim` under the lock decides who settles a
submission (its sender or the keeper), then it is logged, then `_settle` counts it.

Fork: a child throws nothing away and takes nothing over, it starts with a Buffer of its own (see `inherit`).
"""

import atexit
import logging
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from math import inf
from time import monotonic
from types import CoroutineType
from typing import Any, Final, NamedTuple

from fireforget._daemons import DaemonExecutor, new_bell, ring, wait_for
from fireforget.enqueuer import Enqueuer
from fireforget.errors import FireforgetError
from fireforget.payload import size_of
from fireforget.task import Task

DEFAULT_LOGGER = logging.getLogger("fireforget.patterns")
MAX_SUBMISSIONS = 262_144
MAX_BYTES = 64 * 1024 * 1024

_BATCH = 2_000
"""Submissions in one `enqueue_many`: enough to share a commit, few enough to hold the lock well below a millisecond."""
_PLAIN_SENDERS = 8
"""Calls at once to an enqueuer without `enqueue_many`: 100 to one that sleeps 50 ms take 0.7 s instead of 5 s."""
_ABANDONED_SENDERS = 4
"""Threads that may hang in one enqueuer; beyond them its submissions wait and fail at their deadlines."""
_ALL_SENDERS = 256
"""Threads for all enqueuers together, so that a program that makes an enqueuer a request cannot run out of them."""
_SLOW_SECONDS = 0.002
"""Calls that take longer on average let another sender join. For shorter ones the GIL is the bottleneck, and 8 threads
that fight for it were measured four times slower than one. A single long call says nothing: it may have waited."""
_HANGING_SECONDS = 0.05
"""A call that has been under way for longer lets another sender join, whatever the average."""
_KEEPER_REST_SECONDS = 0.01
"""Deadlines closer together than this are looked after together."""
_DROP_RECORD_SECONDS = 1.0
_REFUSALS_AS_A_WHOLE = 8
"""So many times a batch is tried again as a whole without the one task that it was refused for."""
_NEARLY_LATE_SECONDS = 0.05
_TYPES_LISTED = 10
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


class Ledger:
    """The account of the submissions between two flushes, so that a flush does not wait for those after it."""

    __slots__ = ("bells", "lost", "open")

    def __init__(self) -> None:
        self.open = 0
        self.lost = 0
        self.bells: list[threading.Lock] = []


class Submission(NamedTuple):
    """One task on its way. `deadline` is monotonic, `seconds` what the caller granted, `size` the payload in bytes."""

    task: Task
    options: Mapping[str, Any]
    deadline: float
    seconds: float
    logger: logging.Logger | None
    ledger: Ledger
    size: int


_Waiting = tuple[Task, Mapping[str, Any], float, float, logging.Logger | None, Ledger, int]
"""The fields of a Submission as a bare tuple, which costs the caller a third. It becomes one when it is taken."""
_OPTIONS: Final = 1
_DEADLINE: Final = 2
_named: Callable[[_Waiting], Submission] = partial(tuple.__new__, Submission)


class Sender:
    """One run of a thread for a lane: the batch it has in hand, and which of it is no longer its business.

    `closed` holds the `id` of submissions that were claimed, by the sender itself or by the keeper; a batch that the
    sender claims as a whole leaves `held` empty instead.
    """

    __slots__ = ("abandoned", "closed", "fresh", "held", "lane", "since")

    def __init__(self, lane: "Lane", now: float) -> None:
        self.lane = lane
        self.held: list[Submission] = []
        self.closed: set[int] = set()
        self.since = now
        self.fresh = True
        self.abandoned = False

    def unclaimed(self) -> list[Submission]:
        """Return what it holds that nobody has claimed."""
        closed = self.closed
        return [each for each in self.held if id(each) not in closed] if closed else self.held

    def leave_lane(self) -> None:
        """Be one of the lane's senders no more."""
        if self in self.lane.senders:
            self.lane.senders.remove(self)

    def give_up(self, now: float) -> list[Submission]:
        """Claim what is past its deadline; with nothing left to wait for, the sender is abandoned."""
        unclaimed = self.unclaimed()
        late = [each for each in unclaimed if each.deadline <= now]
        self.closed.update(map(id, late))
        if late and len(late) == len(unclaimed):
            self.abandoned = True
            self.leave_lane()
            self.lane.abandoned += 1
        return late


class Lane:
    """What waits for one enqueuer, and who sends it.

    `latest` is the latest deadline so far; `mixed` says that deadlines do not grow along `waiting`.
    """

    __slots__ = ("abandoned", "enqueuer", "latest", "limit", "many", "mixed", "pace", "senders", "waiting")

    def __init__(self, enqueuer: Enqueuer) -> None:
        self.enqueuer = enqueuer
        self.waiting: deque[_Waiting] = deque()
        self.latest = 0.0
        self.mixed = False
        self.senders: list[Sender] = []
        self.abandoned = 0
        self.limit = 1
        self.pace = 0.0  # moving average of the seconds between two takes of a sender
        self.many: Callable[..., Any] | None = None

    def probe(self) -> None:
        """Find out whether the enqueuer takes batches. On a sender's thread: a property of it may raise or hang."""
        try:
            many = getattr(self.enqueuer, "enqueue_many", None)
        except BaseException:  # then one call each will show what is wrong with it
            many = None
        self.many = many if callable(many) else None
        self.limit = 1 if self.many else _PLAIN_SENDERS

    def has_room(self) -> bool:
        """Return whether another sender may join."""
        return len(self.senders) < self.limit and self.abandoned < _ABANDONED_SENDERS

    def wants_sender(self, now: float) -> bool:
        """Return whether another sender should join for what waits."""
        if not self.waiting or not self.has_room():
            return False
        if not self.senders or self.pace > _SLOW_SECONDS:
            return True
        return now - max(each.since for each in self.senders) > _HANGING_SECONDS

    def take(self) -> list[Submission]:
        """Take the next batch out of what waits: neighbours with equal options, at most `_BATCH`."""
        waiting = self.waiting
        if not waiting:
            return []
        batch = [waiting.popleft()]
        options = batch[0][_OPTIONS]
        if self.many is not None and "task_id" not in options:
            for _ in range(min(_BATCH - 1, len(waiting))):
                following = waiting[0][_OPTIONS]
                if following is not options and following != options:
                    break
                batch.append(waiting.popleft())
        return list(map(_named, batch))

    def expire(self, now: float) -> list[Submission]:
        """Take out what waits and is past its deadline, at most a batch at a time where the order allows it."""
        waiting = self.waiting
        if self.mixed:
            late = [each for each in waiting if each[_DEADLINE] <= now]
            if late:
                self.waiting = deque(each for each in waiting if each[_DEADLINE] > now)
            return list(map(_named, late))
        late = []
        while waiting and waiting[0][_DEADLINE] <= now and len(late) < _BATCH:
            late.append(waiting.popleft())
        return list(map(_named, late))

    def clear(self) -> list[Submission]:
        """Take out all that waits."""
        everything = list(map(_named, self.waiting))
        self.waiting.clear()
        return everything

    def next_look(self) -> float:
        """Return when the keeper has something to do here: at the earliest deadline, or to see whether a call hangs."""
        if self.waiting and self.has_room():
            return min(self.next_deadline(), monotonic() + _KEEPER_REST_SECONDS)
        return self.next_deadline()

    def next_deadline(self) -> float:
        """Return the earliest deadline of all that is unclaimed here."""
        held = (each.deadline for sender in self.senders for each in sender.unclaimed())
        waiting = self.waiting if self.mixed else islice(self.waiting, 1)
        return min(chain(held, (each[_DEADLINE] for each in waiting)), default=inf)


# --- the buffer -----------------------------------------------------------------------------------------------------


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
        return bool(lane.senders) and lane.pace <= _SLOW_SECONDS and self._wake_at <= now + _KEEPER_REST_SECONDS

    def _see_to(self, lane: Lane) -> None:
        """Start a sender for the lane if it wants one."""
        error = None
        with self.lock:
            now = monotonic()
            if lane.wants_sender(now):
                error = self._start_sender(Sender(lane, now))
            elif lane.waiting and lane.has_room():  # the calls under way may be quick ones or hang: look again soon
                self._wake_keeper(now + _KEEPER_REST_SECONDS)
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
            return max(wake_at - monotonic(), _KEEPER_REST_SECONDS) if self._keeper_runs else None

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


# --- one call, and what follows from its outcome --------------------------------------------------------------------


def attempt(lane: Lane, part: list[Submission], seconds: float) -> tuple[Any, BaseException | None]:
    """Call the enqueuer with a part; return its answers, one a submission where it is honest, and its error.

    Whatever it raises is its answer: a SystemExit from an enqueuer must not end the thread, nor the process.
    """
    options = part[0].options
    try:
        if len(part) == 1 or lane.many is None:
            answer = lane.enqueuer.enqueue(part[0].task, timeout=seconds, **options)
            return [answer], _unawaited(answer)
        answers = lane.many([each.task for each in part], timeout=seconds, **options)
        return answers, _unawaited(answers)
    except BaseException as error:
        return [], error


def _unawaited(answer: object) -> BaseException | None:
    if not isinstance(answer, CoroutineType):
        return None
    answer.close()
    return TypeError("the enqueuer's method is async and was not run: give an enqueuer with plain methods")


def after_refusal(
    part: list[Submission], error: BaseException, refusals: int, now: float
) -> tuple[list[Submission], list[list[Submission]]]:
    """Decide what follows when a part was refused: which submissions have failed, and in which parts the others try
    again.

    `refusals` counts those of the same batch, this one included.
    """
    if len(part) == 1:
        return part, []
    if isinstance(error, TimeoutError):
        return _after_timeout(part, now)
    index = _named_by(error, len(part))
    if index is None:
        return [], [[each] for each in part]
    before, after = part[:index], part[index + 1 :]
    if refusals <= _REFUSALS_AS_A_WHOLE:
        return [part[index]], [before + after]
    # Nine of ten may be duplicates. What stands before the refused one is known to be good, so it goes by itself:
    # from here on each submission is sent twice at most, where trying the whole again would be quadratic.
    return [part[index]], [each for each in (before, after) if each]


def _after_timeout(part: list[Submission], now: float) -> tuple[list[Submission], list[list[Submission]]]:
    """Fail what has used its time; try the rest again together, since each by itself might wait as long as all."""
    later = [each for each in part if each.deadline > now + _NEARLY_LATE_SECONDS]
    if len(later) == len(part):
        return part, []  # refused before the time was up: no reason to think that the next call is luckier
    return [each for each in part if each.deadline <= now + _NEARLY_LATE_SECONDS], [later] if later else []


def _named_by(error: BaseException, length: int) -> int | None:
    """Return the position of the one task that an error of a batch is about, None when it is about all."""
    index = getattr(error, "index", None)
    if isinstance(error, FireforgetError) and type(index) is int and 0 <= index < length:
        return index
    return None


# --- log records: nothing here raises, whatever a logger or handler does --------------------------------------------


def describe(error: BaseException) -> str:
    """Return an error as one text, `type: message`."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # a __str__ that raises
        return type(error).__name__


def log_failure(submission: Submission, error: str) -> None:
    """Write the ERROR record of one submission."""
    fields = {"task_type": submission.task.type, "queue": submission.options.get("queue"), "error": error}
    _log(submission.logger, logging.ERROR, "fire-and-forget enqueue failed", fields)


def log_arrivals(mine: list[Submission], part: list[Submission], answers: Any) -> None:
    """Write the DEBUG records of those of the part that are `mine` still, where somebody wants them."""
    if not any(_wants_debug(logger) for logger in {each.logger for each in mine}):
        return
    wanted = set(map(id, mine))
    for submission, task_id in zip(part, _ids(answers, len(part)), strict=True):
        if id(submission) in wanted:
            queue = submission.options.get("queue")
            fields = {"task_id": task_id, "task_type": submission.task.type, "queue": queue}
            _log(submission.logger, logging.DEBUG, "fire-and-forget task enqueued", fields)


def log_drops(logger: logging.Logger, count: int, max_submissions: int, max_bytes: int) -> None:
    """Write the ERROR record of those that found the buffer full."""
    message = "fire-and-forget buffer full (%d submissions or %d bytes): %d dropped"
    _log(logger, logging.ERROR, message, {"dropped": count}, max_submissions, max_bytes, count)


def log_losses(lost: list[Submission]) -> None:
    """Write one ERROR record a logger with what the exit loses."""
    for logger in {each.logger for each in lost}:
        types = Counter(each.task.type for each in lost if each.logger is logger)
        count = sum(types.values())
        listed = ", ".join(f"{type} {number}" for type, number in types.most_common(_TYPES_LISTED))
        message = "fire-and-forget lost %d submissions at exit: no answer in time (%s%s)"
        more = ", ..." if len(types) > _TYPES_LISTED else ""
        _log(logger, logging.ERROR, message, {"lost": count, "task_types": dict(types)}, count, listed, more)


def _log(logger: logging.Logger | None, level: int, message: str, fields: dict[str, Any], *values: object) -> None:
    with suppress(BaseException):  # a handler's trouble is nobody's here, and there is nowhere left to report it
        (logger or DEFAULT_LOGGER).log(level, message, *values, extra=fields)


def _wants_debug(logger: logging.Logger | None) -> bool:
    try:
        return (logger or DEFAULT_LOGGER).isEnabledFor(logging.DEBUG)
    except BaseException:
        return False


def _ids(answers: Any, count: int) -> list[Any]:
    """Return `count` ids; None for what an enqueuer did not answer."""
    ids: list[Any] = []
    try:
        for answer in islice(answers, count):
            ids.append(getattr(answer, "id", None))
    except BaseException:  # not iterable, or an `id` that raises
        pass
    return ids + [None] * (count - len(ids))


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
