"""The crew: a worker's children as their supervisor sees them. Forks them, hears them, takes jobs back, ends them.

Every job in the worker's hands is in exactly one child's `jobs`, until what became of it is among the `Verdicts`.

A child's life: asked for (a slot, a mailbox), forked (a pid), ready (it said hello), at work, retiring (it gets no more jobs, and
its channel is closed when it has none), dead (the helper told).
"""

import logging
import marshal
import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

from fireforget import logs, metrics
from fireforget._board_layout import exit_word
from fireforget._claimed import Row
from fireforget._pool.board import SETTLE_SECONDS, Board
from fireforget._pool.channel import Mailbox
from fireforget._pool.config import Settings
from fireforget._pool.enforcer import Enforcer, Watched
from fireforget._pool.helper import ForkHelper
from fireforget._pool.plan import Pace, room
from fireforget._pool.verdicts import Verdicts
from fireforget.errors import HelperDied

STUCK_AFTER = 0.2
"""Seconds after which jobs are taken back from a child that starts none of them: it is stopped, or something holds its GIL."""
KILL_STUCK_AFTER = 5.0
"""Seconds after which such a child is killed and replaced."""
EXIT_SECONDS = 5.0
"""Seconds that a child may take to end once it has nothing more to do."""
TAKE_BACK_AFTER = 0.05
"""Seconds that a job may run before the jobs behind it in the same child are taken back."""
_TICK = 0.02
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.2, 30.0
_NEVER = float("inf")


class ChildHandle:
    """What the supervisor knows of one child."""

    def __init__(self, slot_number: int, board: Board, mailbox: Mailbox) -> None:
        self.slot_number = slot_number
        self.slot = board.slot(slot_number)
        self.ring = board.ring(slot_number)
        """Where it lays down results, which become `outcomes`."""
        self.mailbox = mailbox
        """Our end of its channel."""
        self.pid = 0
        """0 until the helper has said it."""
        self.jobs: dict[int, Row] = {}
        """The jobs in its hands, by index, in order."""
        self.sent = 0
        """The index of the next job it will be given."""
        self.outcomes: dict[int, Row | None] = {}
        """What it has told of jobs that are still among `jobs`, by index."""
        self.fallbacks: dict[int, Row] = {}
        """What becomes of jobs should the process end while the application decides on their failures, by index."""
        self.counted = 0
        """The index below which the child has told its counts of runs, which are also in the metrics then."""
        self.uncounted: dict[int, Row] = {}
        """Jobs that succeeded by the board's word alone, and whose counts have not come yet."""
        self.position = 0
        """The index below which it has taken in everything: run it, or dropped it."""
        self.pace = Pace()
        """How long its jobs take, which says how many it is sent at once."""
        self.watched: Watched | None = None
        """What the enforcer knows of it; None until it is forked."""
        self.ready = False
        """Whether it has said hello."""
        self.retiring = False
        """Whether it gets no more jobs, and ends when it has none."""
        self.ends_by = _NEVER
        """When it is killed if it has not ended, in monotonic seconds: its channel was closed, and it has no jobs."""
        self.forbidden_since: float | None = None
        """When its limit was lowered to take jobs back; None when that is over."""
        self.moved_at = time.monotonic()
        """When it was last given jobs with none in hand, or told or showed that it got on with them."""
        self.stuck_since: float | None = None
        """Since when it has jobs in hand or to drop, and runs none."""
        self.frozen = False
        """Whether it has jobs that were taken back and must say that it has dropped them before it gets others."""

    @property
    def can_take(self) -> bool:
        """Its hello may come before the helper's word of its pid; both are needed."""
        return self.ready and self.pid > 0 and not self.retiring and not self.frozen and self.forbidden_since is None

    @property
    def should_start(self) -> bool:
        """Whether it has jobs to start or to drop, and runs none."""
        return self.pid > 0 and bool(self.jobs or self.frozen) and not self.slot.running()


class Crew:
    """All children of one worker; used by the supervisor's loop alone."""

    def __init__(
        self,
        settings: Settings,
        board: Board,
        helper: ForkHelper,
        enforcer: Enforcer,
        samples: metrics.Samples,
        poll: "select.poll",
        greeting: tuple[Any, ...],
    ) -> None:
        self._settings = settings
        self._board = board
        self._helper = helper
        self._enforcer = enforcer
        self._samples = samples
        self._poll = poll
        self._greeting = greeting
        self.verdicts: Verdicts
        self._children: dict[int, ChildHandle] = {}
        """By slot: forked, or asked for."""
        self._backoff = 0.0
        """Seconds between tries to fork while that fails; 0 once a child has said hello."""
        self._fork_at = 0.0
        """When the next child may be forked, in monotonic seconds."""
        self.stopping = False
        """Set once nothing new is forked and whoever has no more jobs may go."""
        self._killed_all = False
        """Whether what still ran at the end of a stop was killed: those deaths are nobody's fault."""
        self.freed = True
        """Whether a child may have become free since the supervisor last looked; it clears this."""

    def __iter__(self) -> Iterator[ChildHandle]:
        return iter(self._children.values())

    def __bool__(self) -> bool:
        return bool(self._children)

    def __getitem__(self, slot_number: int) -> ChildHandle:
        return self._children[slot_number]

    def count(self) -> int:
        """Return how many children are alive or about to be, those that retire not counted; safe from any thread."""
        return sum(not child.retiring for child in list(self._children.values()))

    @property
    def has_jobs(self) -> bool:
        """Whether any child has jobs in its hands."""
        return any(child.jobs for child in self)

    def running(self) -> int:
        """Return how many jobs run at this moment."""
        return sum(index in child.jobs for child in self for index, _, _ in child.slot.running())

    def moments(self, now: float) -> Iterator[float]:
        """Yield when the crew wants attention though nobody has said anything, in monotonic seconds."""
        if self._can_fork():
            yield self._fork_at
        for child in self:
            if child.forbidden_since is not None:
                yield child.forbidden_since + SETTLE_SECONDS
            elif len(child.jobs) > self._settings.threads:
                yield now + _TICK
            yield child.ends_by
            if child.stuck_since is not None:
                yield child.stuck_since + KILL_STUCK_AFTER
            elif child.should_start:
                yield child.moved_at + STUCK_AFTER

    def rooms(self) -> dict[int, int]:
        """Return how many jobs each child should be given, by slot; children without room are left out."""
        rooms = {}
        share = self._settings.max_tasks_per_child
        for slot_number, child in self._children.items():
            if child.can_take:
                wanted = room(len(child.jobs), child.pace.frame(), self._settings.threads)
                wanted = wanted if share is None else min(wanted, share - child.sent)
                if wanted > 0:
                    rooms[slot_number] = wanted
        return rooms

    def hand_out(self, rows: list[Row], rooms: dict[int, int], start_by: Mapping[int, float]) -> None:
        """Send claimed jobs to the children that have room for them.

        Those in `start_by`, by number, are to start by then (monotonic seconds) or to come back.
        """
        at = 0
        for slot_number, most in rooms.items():
            share = rows[at : at + most]
            if not share:
                return
            at += len(share)
            child = self._children[slot_number]
            assert child.watched is not None
            if not child.jobs:
                child.moved_at = time.monotonic()
            self._enforcer.expect(child.watched, dict(enumerate(share, child.sent)))
            limits = (
                {index: start_by[row[0]] for index, row in enumerate(share, child.sent) if row[0] in start_by} if start_by else {}
            )
            child.mailbox.send(("frame", child.sent, share, limits) if limits else ("frame", child.sent, share))
            child.sent += len(share)

    def ask(self, message: Any, asked: set[int | None]) -> None:
        """Send a message to an idle child or, where none is, to all: the first that has run what it has answers.

        `asked` are the slots of those that have it already; whoever gets it is added.
        """
        able = [child for child in self if child.ready and not child.retiring and not child.mailbox.ended]
        idle = [child for child in able if not child.jobs]
        for child in idle[:1] or able:
            if child.slot_number not in asked:
                child.mailbox.send(message)
                asked.add(child.slot_number)

    # --- births and deaths --------------------------------------------------------------------------------------------

    def fork_missing(self) -> None:
        """Ask for as many children as are missing, unless they have just failed to start."""
        while self._can_fork() and time.monotonic() >= self._fork_at:
            self._fork_one()

    def _can_fork(self) -> bool:
        """Children that retire keep their slot until they have ended, and there are only so many."""
        missing = self.count() < self._settings.concurrency and len(self._children) < self._board.slots
        return missing and not self.stopping

    def _fork_one(self) -> None:
        slot_number = next(number for number in range(self._board.slots) if number not in self._children)
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:  # no descriptors are left
            self._back_off(f"a child could not be forked: {error.strerror}")
            return
        child = ChildHandle(slot_number, self._board, Mailbox(ours))
        child.slot.clear()
        child.ring.clear()
        child.mailbox.send(self._greeting)
        self._children[slot_number] = child
        self._poll.register(ours, select.POLLIN)
        self._helper.fork_child(slot_number, theirs)

    def hear_helper(self) -> None:
        """Take in what the helper says of births and deaths; raises `HelperDied` when it is dead itself."""
        for kind, *content in self._helper.mailbox.receive():
            if kind == "forked":
                self._forked(*content)
            elif kind == "not forked":
                slot_number, why = content
                self._drop(self._children[slot_number])
                self._back_off(f"a child could not be forked: {why}")
            else:
                self._died(*content)
        if self._helper.mailbox.ended:
            raise HelperDied("the fork helper has died, so no child can be started any more: restart the worker")

    def _forked(self, slot_number: int, pid: int) -> None:
        child = self._children[slot_number]
        child.pid = pid
        child.slot.occupy(pid)
        child.watched = Watched(pid, child.slot, child.jobs)
        self._enforcer.watch(child.watched)
        self.freed = True

    def _died(self, pid: int, status: int) -> None:
        child = next(child for child in self if child.pid == pid)
        self._hear(child)
        self._take_results(child)
        self._collect(child)
        code = os.waitstatus_to_exitcode(status)
        expected = code == 0 and (child.retiring or self.stopping)
        if not expected and not self._killed_all:
            self._lament(child, pid, code)
        self._settle_dead(child, pid, code)
        if self._killed_all:
            child.slot.clear()  # nothing it ran has caused its death, also for whoever takes over should we fail to store that
        for row in child.uncounted.values():
            self.verdicts.count_success(row)
        self._drop(child)
        self.verdicts.ask_again(child.slot_number)
        self.freed = True

    def _lament(self, child: ChildHandle, pid: int, code: int) -> None:
        reason = exit_word(code)
        self._samples.count("fireforget_child_deaths_total", (reason,))
        self._board.note_death(pid, code)
        if child.watched is not None and child.watched.killed_for is not None:
            return  # a timeout that the job did not heed: told with the job
        logs.event(logging.ERROR, f"child {pid} died: {reason}", pid=pid, reason=reason)
        if not child.ready:
            self._back_off(f"child {pid} could not start ({reason})")

    def _settle_dead(self, child: ChildHandle, pid: int, code: int) -> None:
        """Charge a child's death to the job that caused it; the others go back as they were, but for what was settled before."""
        running = {index: began for index, _, began in child.slot.running()}
        killed_for = None if child.watched is None else child.watched.killed_for
        for index, row in child.jobs.items():
            if index not in running:
                self.verdicts.put_back(row)
            elif index in child.fallbacks:
                self.verdicts.died_undecided(row, child.fallbacks[index])
            elif self.verdicts.settled_before_death(row):
                continue
            elif self._killed_all:
                self.verdicts.interrupted(row, "shutdown", running[index])
            elif killed_for is None:
                self.verdicts.died_with_its_child(row, pid, code, running[index])
            elif killed_for[0] == index:
                self.verdicts.killed_at_limit(row, killed_for[1], running[index])
            else:  # it ran beside the one that would not end
                self.verdicts.interrupted(row, "child killed", running[index])
        with self._enforcer.lock:
            child.jobs.clear()

    def _back_off(self, why: str) -> None:
        self._backoff = min(_LONGEST_BACKOFF, max(_FIRST_BACKOFF, self._backoff * 2))
        self._fork_at = time.monotonic() + self._backoff
        logs.event(logging.ERROR, f"{why}: trying again in {self._backoff:g} s")

    def _drop(self, child: ChildHandle) -> None:
        if not child.mailbox.ended:
            self._poll.unregister(child.mailbox.socket)
        child.mailbox.close()
        self._enforcer.forget(child.pid)
        child.slot.vacate()
        del self._children[child.slot_number]

    # --- what children say --------------------------------------------------------------------------------------------

    def hear(self, ready: set[int]) -> None:
        """Take in what the children say whose descriptors are ready."""
        for child in self:
            if child.mailbox.fileno() in ready:
                child.mailbox.flush()
                self._hear(child)

    def _hear(self, child: ChildHandle) -> None:
        had_ended = child.mailbox.ended
        messages = child.mailbox.receive()
        if child.mailbox.ended and not had_ended:  # else its end would wake the loop until the helper tells of its death
            self._poll.unregister(child.mailbox.socket)
        if messages:
            child.moved_at = time.monotonic()
            child.stuck_since = None
        for message in messages:
            kind = message[0]
            if kind == "position":
                self._hear_position(child, *message[1:])
            elif kind == "outcome":
                self._hear_outcome(child, *message[1:])
            elif kind == "report":
                self._hear_report(child, *message[1:])
            elif kind == "fallback":
                self._hear_fallback(child, *message[1:])
            elif kind == "answer":
                self.verdicts.answered(*message[1:])
            else:
                child.ready = True
                self._backoff = 0.0
                self.freed = True
                self.verdicts.ask_again(None)

    def _hear_position(
        self, child: ChildHandle, position: int, kept: int, runs: int, seconds: float, delta: metrics.Delta | None, rss: int
    ) -> None:
        """A child has taken in all jobs below `position`; those from `kept` on it has dropped."""
        child.position = position
        self._count(child, kept, delta)
        if kept < position:
            self._put_back_dropped(child, kept)
        child.pace.observe(runs, seconds)
        if child.frozen and position == child.sent:
            child.frozen = False
            child.slot.allow_all()
            self.freed = True
        limit = self._settings.max_rss_mb
        if limit and rss > limit * 1024 * 1024 and not child.retiring:
            logs.event(logging.INFO, f"child {child.pid} uses {rss >> 20} MiB: replacing it", pid=child.pid)
            self._retire(child)

    def _hear_outcome(self, child: ChildHandle, index: int, outcome: Row | None, delta: metrics.Delta | None) -> None:
        child.outcomes[index] = outcome
        child.fallbacks.pop(index, None)
        self._count(child, index + 1, delta)

    def _hear_fallback(self, child: ChildHandle, index: int, outcome: Row, delta: metrics.Delta | None) -> None:
        child.fallbacks[index] = outcome
        self._count(child, index + 1, delta)

    def _count(self, child: ChildHandle, up_to: int, delta: metrics.Delta | None) -> None:
        """Take in what a child has counted, which covers all of its jobs below `up_to`."""
        if delta is not None:
            self._samples.merge(delta)
            self.verdicts.tally.time(delta)
        child.counted = up_to
        if child.uncounted:
            child.uncounted = {index: row for index, row in child.uncounted.items() if index >= up_to}

    def _put_back_dropped(self, child: ChildHandle, kept: int) -> None:
        """Put back what the child dropped and was not taken from it before: one whose start it had just announced."""
        for row in self._take(child, [index for index in child.jobs if index >= kept]):
            self.verdicts.put_back(row)

    def _hear_report(self, child: ChildHandle, index: int, kind: str, value: Any) -> None:
        row = child.jobs.get(index)
        if row is not None:
            self.verdicts.reported(row, kind, value)

    def _take(self, child: ChildHandle, indexes: list[int]) -> list[Row]:
        with self._enforcer.lock:
            return [child.jobs.pop(index) for index in indexes]

    def collect(self) -> None:
        """Move the jobs that have ended from the children to the verdicts."""
        for child in self:
            self._collect(child)

    def _collect(self, child: ChildHandle) -> None:
        """Move the jobs of a child that have ended to the verdicts.

        With one thread the board says which have ended, and it is read before the mailbox: whatever there is to tell of a job
        was sent before the board said "done". The other way round, a failure could be taken for a success.
        """
        jobs, outcomes = child.jobs, child.outcomes
        done = child.slot.done if self._settings.threads == 1 and child.pid else 0
        if not outcomes and (not jobs or done <= next(iter(jobs))):
            return
        self._hear(child)
        self._take_results(child)
        ended = [index for index in jobs if index < done or index in outcomes] if outcomes else list(takewhile(done.__gt__, jobs))
        rows = self._take(child, ended)
        if ended and ended[-1] >= child.counted and self._settings.threads == 1:
            child.uncounted.update(pair for pair in zip(ended, rows, strict=True) if pair[0] >= child.counted)
        if not outcomes:
            self.verdicts.succeeded(rows)
            return
        for index, row in zip(ended, rows, strict=True):
            outcome = outcomes.pop(index, None)
            if outcome is not None and outcome[0] == "settled":  # then no transaction follows that would claim the next ones
                self.freed = True
            try:
                self.verdicts.told(row, outcome)
            except Exception as error:  # whatever a child says of one job must not end the worker
                self.verdicts.unintelligible(row, error)

    @staticmethod
    def _take_results(child: ChildHandle) -> None:
        for index, data in child.ring.take():
            child.outcomes[index] = marshal.loads(data)

    # --- taking back --------------------------------------------------------------------------------------------------

    def take_back(self) -> None:
        """Take unstarted jobs back from children in which a job takes long; the next transaction hands them out again."""
        now = time.monotonic()
        for child in self:
            self._look_after(child, now)
            if child.forbidden_since is not None:
                if now >= child.forbidden_since + SETTLE_SECONDS:
                    self._take_unstarted(child)
            elif child.pid and len(child.jobs) > self._settings.threads and not child.frozen:
                began = [began for _, _, began in child.slot.running()]
                if len(began) >= self._settings.threads and now - max(began) > TAKE_BACK_AFTER:
                    self._forbid(child)

    def _look_after(self, child: ChildHandle, now: float) -> None:
        """Take everything back from a child that starts nothing, and replace it when it stays so."""
        if child.stuck_since is not None and child.slot.running():  # it was not stuck for good
            child.stuck_since = None
            child.moved_at = now
        if now < child.moved_at + STUCK_AFTER or not child.should_start:
            return
        if child.stuck_since is None:
            child.stuck_since = now
            self._forbid(child)
        elif now >= child.stuck_since + KILL_STUCK_AFTER:
            child.stuck_since = now
            logs.event(logging.ERROR, f"child {child.pid} starts no job: replacing it", pid=child.pid, reason="stuck")
            self._helper.signal_child(child.pid, signal.SIGKILL)

    def _forbid(self, child: ChildHandle) -> None:
        if child.pid and child.forbidden_since is None and not child.frozen:
            child.slot.forbid_further_starts()
            child.forbidden_since = time.monotonic()

    def _take_unstarted(self, child: ChildHandle) -> None:
        limit = child.slot.settle_limit()
        child.forbidden_since = None
        for row in self._take(child, [index for index in child.jobs if index >= limit]):
            self.verdicts.put_back(row)
        child.frozen = child.position != child.sent
        if not child.frozen:
            child.slot.allow_all()

    def cancel(self, wanted: set[tuple[int, int]]) -> None:
        """Interrupt those of the jobs (number, claim) that run."""
        for child in self if wanted else ():
            running = {index for index, _, _ in child.slot.running()}
            for index, row in child.jobs.items():
                if (row[0], row[1]) in wanted and index in running and child.watched is not None:
                    self._enforcer.cancel(child.watched, index)

    # --- ending -------------------------------------------------------------------------------------------------------

    def begin_stop(self) -> None:
        """Let nothing start any more; running jobs go on."""
        self.stopping = True
        for child in self:
            self._forbid(child)

    def let_go(self) -> None:
        """End the children that have had their share and, while stopping, those that have no jobs left."""
        share = self._settings.max_tasks_per_child
        for child in self:
            had_its_share = share is not None and child.sent >= share
            has_nothing = self.stopping and child.forbidden_since is None and not child.jobs
            if child.retiring or had_its_share or has_nothing:
                self._retire(child)
            self._kill_overdue(child)
            if not child.mailbox.ended:
                self._poll.modify(child.mailbox.socket, select.POLLIN | (select.POLLOUT if child.mailbox.unsent else 0))

    def _retire(self, child: ChildHandle) -> None:
        """Give a child no more jobs, and close its channel when it has none; another one takes its place at once."""
        child.retiring = True
        nothing_left = not child.jobs and not child.mailbox.unsent and child.position == child.sent
        if nothing_left and child.ends_by == _NEVER and not child.mailbox.ended:
            child.ends_by = time.monotonic() + EXIT_SECONDS
            child.mailbox.socket.shutdown(socket.SHUT_WR)

    def _kill_overdue(self, child: ChildHandle) -> None:
        """Kill a child that has nothing more to do and does not end: a policy of the application's may hang in it."""
        now = time.monotonic()
        if child.pid and now >= child.ends_by:
            child.ends_by = now + EXIT_SECONDS
            logs.event(
                logging.ERROR, f"child {child.pid} has no jobs and does not end: killing it", pid=child.pid, reason="stuck"
            )
            self._helper.signal_child(child.pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill the children that still have jobs; those go back as they were."""
        self._killed_all = True
        for child in self:
            if child.pid and child.jobs:
                self._helper.signal_child(child.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """After the helper has killed every child: put back whatever was in their hands."""
        for child in self:
            running = {index for index, _, _ in child.slot.running()}
            for index in list(child.jobs):
                for row in self._take(child, [index]):
                    self.verdicts.put_back(row, started=index in running)
            child.slot.clear()

    def close(self) -> None:
        """Close the channels of whoever is left."""
        for child in self:
            child.mailbox.close()
