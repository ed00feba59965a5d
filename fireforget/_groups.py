"""Groups in the store: jobs that wait together until one job takes them all.

Members wait in state aggregating. When a group is complete they get the number of the job that aggregates them as their batch;
later arrivals begin the group anew. That job replaces them by one task in a transaction of its own. Until then they share its
fate: while it is archived or cancelled so are they, and once it is gone they have no batch any more.

The functions work in a transaction, or a read, of their caller's. When a group is complete is decided in `_pool/groups`.
"""

import sqlite3
from functools import cache

from fireforget import _db, _sql
from fireforget._inserting import insert_one
from fireforget._rows import Row

_ENDED = {_sql.ARCHIVED: "archived", _sql.CANCELLED: "cancelled"}

OPEN_GROUPS = f"""
SELECT queue, group_name, count(*), CAST(min(enqueued_at) AS REAL), CAST(max(enqueued_at) AS REAL)
FROM fireforget_job INDEXED BY fireforget_group
WHERE state = {_sql.AGGREGATING} AND batch IS NULL
GROUP BY queue, group_name
"""

FIRST_OF_GROUP = f"""
SELECT n
FROM fireforget_job INDEXED BY fireforget_group
WHERE state = {_sql.AGGREGATING} AND batch IS NULL AND queue = :queue AND group_name = :group
ORDER BY enqueued_at, n
LIMIT :most
"""


@cache
def put_into_batch(jobs: int) -> str:
    """Return the statement that makes `jobs` jobs members of a batch."""
    numbers = ", ".join("?" * jobs)
    return f"UPDATE fireforget_job SET batch = ?, enqueued_at = CAST(enqueued_at AS REAL) WHERE n IN ({numbers})"


# A member that somebody runs, archives or cancels by hand has no batch any more.
MEMBERS = f"SELECT {_sql.JOB_COLUMNS} FROM fireforget_job WHERE batch = :batch ORDER BY n"
DELETE_MEMBERS = "DELETE FROM fireforget_job WHERE batch = :batch"

# The batches whose members are not as the job is that aggregates them; with that job's state (NULL when it is gone), end and
# error. One member speaks for all, since they change together. From one batch to the next by a seek, so that the cost is that of
# the batches, however many members each has; most often there are none.
STRAY_BATCHES = f"""
WITH RECURSIVE closed(batch) AS (
    SELECT min(batch) FROM fireforget_job INDEXED BY fireforget_batch WHERE batch IS NOT NULL
    UNION ALL
    SELECT (SELECT min(batch) FROM fireforget_job INDEXED BY fireforget_batch WHERE batch > closed.batch)
    FROM closed
    WHERE closed.batch IS NOT NULL
)
SELECT closed.batch, job.state, job.completed_at, job.last_error
FROM closed
LEFT JOIN fireforget_job AS job ON job.n = closed.batch
WHERE closed.batch IS NOT NULL
  AND (
      job.n IS NULL
      OR (SELECT state FROM fireforget_job INDEXED BY fireforget_batch WHERE batch = closed.batch LIMIT 1)
          <> CASE WHEN job.state IN ({_sql.ARCHIVED}, {_sql.CANCELLED}) THEN job.state ELSE {_sql.AGGREGATING} END
  )
"""

# Members of a group follow the job that aggregates them (`STRAY_BATCHES`); without `:batch_kept` they are an open group again.
FOLLOW_AGGREGATE = f"""
UPDATE fireforget_job
SET state = :state, batch = :batch_kept, completed_at = :completed_at, last_error = :why,
    unique_key = CASE WHEN :state = {_sql.AGGREGATING} THEN unique_key ELSE {_sql.RELEASED_KEY} END
WHERE batch = :batch
"""

# Open groups in the index that is made for them, closed ones by their batch: neither reads other jobs.
GROUPS = f"""
SELECT queue, group_name, 0 AS closed, count(*), CAST(min(enqueued_at) AS REAL), CAST(max(enqueued_at) AS REAL)
FROM fireforget_job INDEXED BY fireforget_group
WHERE state = {_sql.AGGREGATING} AND batch IS NULL AND (:queue IS NULL OR queue = :queue)
GROUP BY queue, group_name
UNION ALL
SELECT queue, group_name, 1, count(*), CAST(min(enqueued_at) AS REAL), CAST(max(enqueued_at) AS REAL)
FROM fireforget_job INDEXED BY fireforget_batch
WHERE batch IS NOT NULL AND state = {_sql.AGGREGATING} AND (:queue IS NULL OR queue = :queue)
GROUP BY batch, queue, group_name
"""


def open_groups(connection: sqlite3.Connection) -> list[tuple[str | bytes, str | bytes, int, float, float]]:
    """Return (queue, group, jobs, oldest, newest) of the groups that wait; instants in Unix seconds."""
    with _db.lenient(connection, _db.decode_exactly):
        return connection.execute(OPEN_GROUPS).fetchall()


def close_batch(connection: sqlite3.Connection, queue: str, group: str, most: int, row: Row) -> None:
    """Store the job that aggregates a group, and make up to `most` jobs of it (-1: all) its batch."""
    batch = insert_one(connection, row)
    members = [n for (n,) in connection.execute(FIRST_OF_GROUP, {"queue": queue, "group": group, "most": most})]
    for part in _sql.in_parts_by_number(connection, members):
        connection.execute(put_into_batch(len(part)), (batch, *part))


def has_strays(connection: sqlite3.Connection) -> bool:
    """Return whether members of a closed group are not as the job is that aggregates them; a read alone."""
    with _db.lenient(connection):
        return connection.execute(STRAY_BATCHES).fetchone() is not None


def follow_aggregates(connection: sqlite3.Connection) -> None:
    """Let the members of closed groups be as the job is that aggregates them.

    Archived and cancelled with it, collected again with it, and an open group again once it is gone.
    """
    with _db.lenient(connection):
        strays = connection.execute(STRAY_BATCHES).fetchall()
    for batch, state, completed_at, error in strays:
        ended = state in _ENDED
        parameters = {
            "batch": batch,
            "batch_kept": None if state is None else batch,
            "state": state if ended else _sql.AGGREGATING,
            "completed_at": completed_at if ended else None,  # as old as it, so that limits do not trim it before them
            "why": f"the job that aggregates its group was {_ENDED[state]}: {error}" if ended else None,
        }
        connection.execute(FOLLOW_AGGREGATE, parameters)
