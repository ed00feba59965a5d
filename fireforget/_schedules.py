"""Schedules in the database: what is known of each, which tick comes next, and what became of those before.

Everything here runs inside a transaction, or a read, of its caller. A tick is enqueued exactly once, since `advance` moves its
schedule on in the transaction that stores the job: of all workers one finds the tick still to come, and when that one is killed
before its commit, the next one finds it.
"""

import json
import sqlite3
from collections.abc import Mapping
from typing import Literal, NamedTuple

from fireforget._claimed import public_id
from fireforget._inserting import insert_one
from fireforget._rows import Row
from fireforget.errors import DuplicateTask, TaskIDConflict

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


_COLUMNS = "name, type, queue, expression, timezone, missed, digest, next_at, last_at, paused_at"

SCHEDULES = f"SELECT {_COLUMNS} FROM fireforget_schedule ORDER BY name"
SCHEDULE = f"SELECT {_COLUMNS} FROM fireforget_schedule WHERE name = :name"

# Who may say what a schedule is: the newest of the workers that have it. In the order of their start.
SCHEDULES_OF_WORKERS = "SELECT n, schedules FROM fireforget_worker WHERE schedules <> '{}' ORDER BY n"

# A pause and the last tick are kept when the registry's words change.
DEFINE_SCHEDULE = f"""
INSERT INTO fireforget_schedule ({_COLUMNS})
VALUES (:name, :type, :queue, :expression, :timezone, :missed, :digest, :next_at, NULL, NULL)
ON CONFLICT (name) DO UPDATE SET
    type = :type, queue = :queue, expression = :expression, timezone = :timezone, missed = :missed, digest = :digest,
    next_at = :next_at
"""

# The fence: of all who want to enqueue a tick, one finds it still to come. The transaction that moves it on inserts the job.
ADVANCE_SCHEDULE = """
UPDATE fireforget_schedule
SET next_at = :next_at, last_at = coalesce(:last_at, last_at)
WHERE name = :name
  AND next_at = :expected
  AND digest = :digest
  AND paused_at IS NULL
"""

PAUSE_SCHEDULE = "UPDATE fireforget_schedule SET paused_at = :now WHERE name = :name AND paused_at IS NULL"
RESUME_SCHEDULE = """
UPDATE fireforget_schedule
SET paused_at = NULL, next_at = :next_at
WHERE name = :name AND paused_at IS NOT NULL
"""
DELETE_SCHEDULE = "DELETE FROM fireforget_schedule WHERE name = :name"
DELETE_SCHEDULE_EVENTS = "DELETE FROM fireforget_schedule_event WHERE schedule = :name"

ADD_SCHEDULE_EVENT = """
INSERT INTO fireforget_schedule_event (schedule, n, tick, at, outcome, job, detail)
VALUES (
    :name, coalesce((SELECT max(n) FROM fireforget_schedule_event WHERE schedule = :name), 0) + 1, :tick, :now, :outcome, :job,
    :detail
)
"""

# By number, so that the end of the history is found without counting it.
TRIM_SCHEDULE_EVENTS = """
DELETE FROM fireforget_schedule_event
WHERE schedule = :name
  AND n <= (SELECT max(n) FROM fireforget_schedule_event WHERE schedule = :name) - :most
"""

SCHEDULE_EVENTS = """
SELECT tick, at, outcome, job, detail
FROM fireforget_schedule_event
WHERE schedule = :name
ORDER BY n DESC
LIMIT :most
"""

# A tick whose payload is built in a child: the job that builds it notes as its result which job it has enqueued, in the same
# transaction. A run that comes again finds the note.
NOTE_ENQUEUED = "UPDATE fireforget_job SET result = :result WHERE n = :n"
NOTE_BUILT = """
UPDATE fireforget_schedule_event
SET job = :job, outcome = :outcome, detail = :detail
WHERE schedule = :name AND job = :builder
"""


def read_all(connection: sqlite3.Connection) -> dict[str, ScheduleRow]:
    """Return all schedules by name."""
    return {row[0]: ScheduleRow._make(row) for row in connection.execute(SCHEDULES)}


def read_one(connection: sqlite3.Connection, name: str) -> ScheduleRow | None:
    """Return one schedule, None when there is none of that name."""
    row = connection.execute(SCHEDULE, {"name": name}).fetchone()
    return None if row is None else ScheduleRow._make(row)


def of_workers(connection: sqlite3.Connection) -> list[Mapping[str, str]]:
    """Return the digests by name of each worker that has signed in and has schedules; the newest comes last."""
    return [json.loads(text) for _, text in connection.execute(SCHEDULES_OF_WORKERS)]


def define(connection: sqlite3.Connection, row: ScheduleRow) -> None:
    """Store what a registry says of a schedule, and when it is to run next."""
    connection.execute(DEFINE_SCHEDULE, row._asdict())


def advance(connection: sqlite3.Connection, row: ScheduleRow, next_at: float, last_at: float | None) -> bool:
    """Move a schedule on from where `row` has it, and return whether it was still there: if not, the tick is another's."""
    parameters = {
        "name": row.name,
        "digest": row.digest,
        "expected": row.next_at,
        "next_at": next_at,
        "last_at": last_at,
    }
    return connection.execute(ADVANCE_SCHEDULE, parameters).rowcount == 1


def enqueue_tick(connection: sqlite3.Connection, row: Row, tag: str, tick: float) -> EventRow:
    """Insert the job of a tick, and return what is to be noted: a unique key may be taken."""
    try:
        job = public_id(tag, insert_one(connection, row), row["nonce"])
    except (TaskIDConflict, DuplicateTask) as error:
        return EventRow(tick, row["enqueued_at"], "refused", None, str(error))
    return EventRow(tick, row["enqueued_at"], "enqueued", job, None)


def add_event(connection: sqlite3.Connection, name: str, event: EventRow) -> None:
    """Note what became of a tick; the oldest note goes when there are `MOST_EVENTS`."""
    detail = None if event.detail is None else event.detail[:_LONGEST_DETAIL]
    connection.execute(ADD_SCHEDULE_EVENT, {**event._asdict(), "name": name, "now": event.at, "detail": detail})
    connection.execute(TRIM_SCHEDULE_EVENTS, {"name": name, "most": MOST_EVENTS})


def events(connection: sqlite3.Connection, name: str, most: int) -> list[EventRow]:
    """Return the last events of a schedule, the newest first."""
    return [EventRow._make(row) for row in connection.execute(SCHEDULE_EVENTS, {"name": name, "most": most})]


def note_built(connection: sqlite3.Connection, name: str, builder: str, event: EventRow) -> None:
    """Replace, in a schedule's history, the job that builds a payload by the one that it was built for."""
    detail = None if event.detail is None else event.detail[:_LONGEST_DETAIL]
    parameters = {"name": name, "builder": builder, "job": event.job, "outcome": event.outcome, "detail": detail}
    connection.execute(NOTE_BUILT, parameters)


def pause(connection: sqlite3.Connection, name: str, now: float) -> bool:
    """Have no more ticks enqueued; return whether it was not paused."""
    return connection.execute(PAUSE_SCHEDULE, {"name": name, "now": now}).rowcount == 1


def resume(connection: sqlite3.Connection, name: str, next_at: float) -> bool:
    """Have ticks enqueued from `next_at` on; return whether it was paused."""
    return connection.execute(RESUME_SCHEDULE, {"name": name, "next_at": next_at}).rowcount == 1


def delete(connection: sqlite3.Connection, name: str) -> None:
    """Forget a schedule and its history."""
    connection.execute(DELETE_SCHEDULE, {"name": name})
    connection.execute(DELETE_SCHEDULE_EVENTS, {"name": name})
