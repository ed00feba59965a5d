"""Schedules: each tick becomes one job, however many workers run.

::

    look, with every look at the queue ─► when is the next tick? ─► the supervisor sleeps until then
                                                                          │
    one transaction: is it still to come? ─ advance the schedule ─ store the job ─ note it in the history

Nothing is written while nothing is due. A payload that is a function is application code: its tick is stored as a job of our own
type, which runs in a child, calls the function, and stores the task in a transaction of its own.

Several versions of an application may run at once. Of the workers that have a schedule, the newest says what it is; those whose
registry says something else leave it alone, until that one is gone. So a rolling restart, forwards or backwards, runs no tick
twice, and afterwards those that are there agree.
"""

import logging
from collections.abc import Callable
from typing import Any

from fireforget import _schedules, logs
from fireforget._claims import Claims
from fireforget._schedules import EventRow, ScheduleRow
from fireforget.clock import to_datetime
from fireforget.errors import InvalidTask, SkipRetry
from fireforget.job import current_job
from fireforget.periodic import Periodic, due_ticks
from fireforget.queue_sqlite import Intake, SqliteQueue
from fireforget.registry import Definition, Registry
from fireforget.task import Task

TICK = "fireforget:tick:"
"""What the types of the jobs begin with that build a payload; the schedule's name follows, so that a worker claims its own."""
BUILD_SECONDS = 5.0
CLOCK_WAS_AHEAD_SECONDS = 86400.0
"""A last tick further in the future than this was enqueued by a clock that was wrong."""

_NEVER = float("inf")
_NOW = -_NEVER


class Schedules:
    """Enqueues the ticks of one registry; used by a supervisor's loop alone, or by a test (`testing.tick`).

    With `inline` there is no other worker to agree with, and payloads are built here and now.
    """

    def __init__(self, registry: Registry, claims: Claims, queue: Intake, *, inline: bool = False) -> None:
        self._schedules = registry.schedules
        self._claims = claims
        self._queue = queue
        self._inline = inline
        self.enqueued: list[tuple[Task, str]] = []
        """What `enqueue_due` has stored, with `inline`: tasks and the ids of their jobs."""
        self.next_at = _NEVER
        """When the next tick is due, or a schedule is to be written down, in Unix seconds, as far as is known."""

    def builds(self, type: str) -> bool:
        """Return whether this is the type of a job that builds the payload of a schedule that is known here."""
        periodic = self._schedules.get(type[len(TICK) :]) if type.startswith(TICK) else None
        return periodic is not None and periodic.builds_payload

    def look(self, now: float) -> None:
        """Read when the next tick is due; a read alone, and none without schedules."""
        if self._schedules:
            rows = _schedules.read_all(self._claims.connection)
            rules = self._ruled_here(rows)
            self.next_at = min(_due_at(periodic, rows.get(name), now) for name, periodic in rules.items()) if rules else _NEVER

    def enqueue_due(self, now: float) -> None:
        """Write down what schedules there are and enqueue the ticks that are due by now, inside the open transaction."""
        if not self._schedules or self.next_at > now:
            return
        rows = _schedules.read_all(self._claims.connection)
        for name, periodic in self._ruled_here(rows).items():
            row = rows.get(name)
            if row is None or row.digest != periodic.digest or _clock_was_ahead(row, now):
                row = self._define(periodic, row, now)
            if row.paused_at is None and row.next_at <= now:
                self._enqueue_ticks(periodic, row, now)
        self.look(now)

    def _ruled_here(self, rows: dict[str, ScheduleRow]) -> dict[str, Periodic]:
        """Return the schedules that are what this registry says: where they are written down so, or nobody newer has them."""
        known = {name: rows[name].digest for name in self._schedules if name in rows}
        if not self._inline and any(known.get(name) != periodic.digest for name, periodic in self._schedules.items()):
            for digests in _schedules.of_workers(self._claims.connection):
                known.update(digests)
            return {name: periodic for name, periodic in self._schedules.items() if known.get(name) == periodic.digest}
        return self._schedules

    def _define(self, periodic: Periodic, row: ScheduleRow | None, now: float) -> ScheduleRow:
        """Write down what the registry says; a new schedule, and one whose times are others now, begins with its next tick."""
        schedule = periodic.schedule
        same = row is not None and (row.expression, row.timezone) == (schedule.expression, schedule.timezone)
        if row is not None and same and not _clock_was_ahead(row, now):
            next_at = row.next_at
        else:
            last = now if row is None or row.last_at is None or _clock_was_ahead(row, now) else row.last_at
            next_at = schedule.next_after(max(now, last))
        defined = ScheduleRow(
            periodic.name, periodic.type, periodic.queue, schedule.expression, schedule.timezone, periodic.missed,
            periodic.digest, next_at, None if row is None else row.last_at, None if row is None else row.paused_at,
        )  # fmt: skip
        _schedules.define(self._claims.connection, defined)
        return defined

    def _enqueue_ticks(self, periodic: Periodic, row: ScheduleRow, now: float) -> None:
        connection = self._claims.connection
        due = due_ticks(periodic.schedule, periodic.missed, row.next_at, now)
        if not _schedules.advance(connection, row, due.next_at, due.ticks[-1] if due.ticks else None):
            return
        if due.dropped is not None:
            first, last = map(to_datetime, due.dropped)
            detail = f"ticks from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC were missed and not enqueued"
            _schedules.add_event(connection, row.name, EventRow(due.dropped[0], now, "missed", None, detail))
            logs.event(logging.WARNING, "a schedule missed ticks, since no worker ran", schedule=row.name, reason=detail)
        for tick in due.ticks:
            self._enqueue(periodic, tick, now)

    def _enqueue(self, periodic: Periodic, tick: float, now: float) -> None:
        builds = periodic.builds_payload and not self._inline
        task = _builder(periodic, tick) if builds else periodic.task(tick)
        try:
            row = self._queue._row(task, {}, now)
        except InvalidTask as error:  # larger than this queue allows
            event = EventRow(tick, now, "refused", None, str(error))
        else:
            event = _schedules.enqueue_tick(self._claims.connection, row, self._queue._tag, tick)
            if self._inline and event.job is not None:
                self.enqueued.append((task, event.job))
        if event.outcome == "refused":
            logs.event(logging.WARNING, "a tick was refused", schedule=periodic.name, error=event.detail)
        _schedules.add_event(self._claims.connection, periodic.name, event)


def _due_at(periodic: Periodic, row: ScheduleRow | None, now: float) -> float:
    if row is None or row.digest != periodic.digest or _clock_was_ahead(row, now):
        return _NOW
    return _NEVER if row.paused_at is not None else row.next_at


def _clock_was_ahead(row: ScheduleRow, now: float) -> bool:
    return row.last_at is not None and row.last_at > now + CLOCK_WAS_AHEAD_SECONDS


# --- payloads that are built --------------------------------------------------------------------------------------------


def _builder(periodic: Periodic, tick: float) -> Task:
    """Return the task that builds the payload of a tick, in a child, and enqueues it."""
    kept = {name: value for name, value in periodic.options.items() if name in ("queue", "priority")}
    return Task(TICK + periodic.name, {"schedule": periodic.name, "tick": tick}, timeout=BUILD_SECONDS, **kept)


def definition(registry: Registry, path: str) -> Definition[Any, Any]:
    """Return the handler that a child runs for the types that begin with `TICK`."""
    return Definition(TICK.rstrip(":"), _handler(registry, path), {}, None)


def _handler(registry: Registry, path: str) -> Callable[..., None]:
    def enqueue_with_payload(schedule: str, tick: float) -> None:
        try:
            task = registry.schedules[schedule].task(tick)
        except InvalidTask as error:  # no retry would change that
            raise SkipRetry(f"the payload of schedule {schedule!r}: {error}") from error
        with SqliteQueue(path) as store:
            store._enqueue_built(current_job().id, schedule, task)

    return enqueue_with_payload
