"""What waits for one enqueuer, and who sends it: submissions, lanes, senders. Nothing here takes a lock or calls foreign code but
`Lane.probe`; the buffer (`_submissions`, which has the map) calls all else with its lock held.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain, islice
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple

from fireforget.enqueuer import Enqueuer
from fireforget.task import Task

_BATCH = 2_000
"""Submissions in one `enqueue_many`: enough to share a commit, few enough to hold the lock well below a millisecond."""
_PLAIN_SENDERS = 8
"""Calls at once to an enqueuer without `enqueue_many`: 100 to one that sleeps 50 ms take 0.7 s instead of 5 s."""
_ABANDONED_SENDERS = 4
"""Threads that may hang in one enqueuer; beyond them its submissions wait and fail at their deadlines."""
SLOW_SECONDS = 0.002
"""Calls that take longer on average let another sender join. For shorter ones the GIL is the bottleneck, and 8 threads
that fight for it were measured four times slower than one. A single long call says nothing: it may have waited."""
_HANGING_SECONDS = 0.05
"""A call that has been under way for longer lets another sender join, whatever the average."""
KEEPER_REST_SECONDS = 0.01
"""Deadlines closer together than this are looked after together."""


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
        if not self.senders or self.pace > SLOW_SECONDS:
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
            return min(self.next_deadline(), monotonic() + KEEPER_REST_SECONDS)
        return self.next_deadline()

    def next_deadline(self) -> float:
        """Return the earliest deadline of all that is unclaimed here."""
        held = (each.deadline for sender in self.senders for each in sender.unclaimed())
        waiting = self.waiting if self.mixed else islice(self.waiting, 1)
        return min(chain(held, (each[_DEADLINE] for each in waiting)), default=inf)
