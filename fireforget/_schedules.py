"""Schedules in the database: what is known of each, which tick comes next, and what became of those before.

Everything here runs inside a transaction, or a read, of its caller. A tick is enqueued exactly once, since `advance` moves its
schedule on in the transaction that stores the job: of all workers one finds the tick still to come, and when that one is killed
before its commit, the next one finds it.
"""

import json
import sqlite3
from collections.abc import Mapping
from typing import Literal, NamedTuple

from fireforget import _sql

MOST_EVENTS = 1000
"""Events that are kept of a schedule."""
_LONGEST_DETAIL = 300

Outcome = Literal["enqueued", "refused", "missed"]


class ScheduleRow(NamedTuple):
    """A schedule as it stands in the database; instants in Unix seconds."""

    name: str
    type: str
    queue: str
    expression: str
    timezone: str
    missed: str
    digest: str
    next_at: float
    last_at: float | None
    paused_at: float | None


class EventRow(NamedTuple):
    """What became of one tick, or of several that were missed together."""

    tick: float
    at: float
    outcome: Outcome
    job: str | None
    detail: str | None


def read_all(connection: sqlite3.Connection) -> dict[str, ScheduleRow]:
    """Return all schedules by name."""
    return {row[0]: ScheduleRow._make(row) for row in connection.execute(_sql.SCHEDULES)}


def read_one(connection: sqlite3.Connection, name: str) -> ScheduleRow | None:
    """Return one schedule, None when there is none of that name."""
    row = connection.execute(_sql.SCHEDULE, {"name": name}).fetchone()
    return None if row is None else ScheduleRow._make(row)


def of_workers(connection: sqlite3.Connection) -> list[Mapping[str, str]]:
    """Return the digests by name of each worker that has signed in and has schedules; the newest comes last."""
    return [json.loads(text) for _, text in connection.execute(_sql.SCHEDULES_OF_WORKERS)]


def define(connection: sqlite3.Connection, row: ScheduleRow) -> None:
    """Store what a registry says of a schedule, and when it is to run next."""
    connection.execute(_sql.DEFINE_SCHEDULE, row._asdict())


def advance(connection: sqlite3.Connection, row: ScheduleRow, next_at: float, last_at: float | None) -> bool:
    """Move a schedule on from where `row` has it, and return whether it was still there: if not, the tick is another's."""
    parameters = {
        "name": row.name,
        "digest": row.digest,
        "expected": row.next_at,
        "next_at": next_at,
        "last_at": last_at,
    }
    return connection.execute(_sql.ADVANCE_SCHEDULE, parameters).rowcount == 1


def add_event(connection: sqlite3.Connection, name: str, event: EventRow) -> None:
    """Note what became of a tick; the oldest note goes when there are `MOST_EVENTS`."""
    detail = None if event.detail is None else event.detail[:_LONGEST_DETAIL]
    connection.execute(_sql.ADD_SCHEDULE_EVENT, {**event._asdict(), "name": name, "now": event.at, "detail": detail})
    connection.execute(_sql.TRIM_SCHEDULE_EVENTS, {"name": name, "most": MOST_EVENTS})


def events(connection: sqlite3.Connection, name: str, most: int) -> list[EventRow]:
    """Return the last events of a schedule, the newest first."""
    return [EventRow._make(row) for row in connection.execute(_sql.SCHEDULE_EVENTS, {"name": name, "most": most})]


def note_built(connection: sqlite3.Connection, name: str, builder: str, event: EventRow) -> None:
    """Replace, in a schedule's history, the job that builds a payload by the one that it was built for."""
    detail = None if event.detail is None else event.detail[:_LONGEST_DETAIL]
    parameters = {"name": name, "builder": builder, "job": event.job, "outcome": event.outcome, "detail": detail}
    connection.execute(_sql.NOTE_BUILT, parameters)


def pause(connection: sqlite3.Connection, name: str, now: float) -> bool:
    """Have no more ticks enqueued; return whether it was not paused."""
    return connection.execute(_sql.PAUSE_SCHEDULE, {"name": name, "now": now}).rowcount == 1


def resume(connection: sqlite3.Connection, name: str, next_at: float) -> bool:
    """Have ticks enqueued from `next_at` on; return whether it was paused."""
    return connection.execute(_sql.RESUME_SCHEDULE, {"name": name, "next_at": next_at}).rowcount == 1


def delete(connection: sqlite3.Connection, name: str) -> None:
    """Forget a schedule and its history."""
    connection.execute(_sql.DELETE_SCHEDULE, {"name": name})
    connection.execute(_sql.DELETE_SCHEDULE_EVENTS, {"name": name})
