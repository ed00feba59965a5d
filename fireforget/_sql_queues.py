"""Queues: which there are, how many jobs they have in which state, and whether they are paused.

What was processed over time is in `_history`, how much a queue keeps in `_limits`.
"""

from functools import cache

from fireforget import _sql, _sql_find

# Each branch counts within the index of its own states, so that the table itself is never read. The oldest due time of the
# pending ones comes with it: a million of them are walked through once.
COUNT_JOBS = f"""
SELECT queue, {_sql.PENDING} AS state, count(*) AS jobs, CAST(min(due) AS REAL) AS oldest
FROM fireforget_job INDEXED BY fireforget_claim
WHERE state = {_sql.PENDING}
GROUP BY queue
UNION ALL
SELECT queue, state, count(*), NULL
FROM fireforget_job INDEXED BY fireforget_due
WHERE state IN ({_sql.SCHEDULED}, {_sql.RETRY})
GROUP BY queue, state
UNION ALL
SELECT queue, {_sql.ACTIVE}, count(*), NULL
FROM fireforget_job INDEXED BY fireforget_active
WHERE state = {_sql.ACTIVE}
GROUP BY queue
UNION ALL
SELECT queue, state, count(*), NULL
FROM fireforget_job INDEXED BY fireforget_listed
WHERE state > 4
GROUP BY state, queue
"""

COUNT_JOBS_OF_QUEUE = "\nUNION ALL\n".join(
    f"SELECT state, count(*), {'CAST(min(due) AS REAL)' if index == 'fireforget_claim' else 'NULL'} "
    f"FROM fireforget_job INDEXED BY {index} WHERE {term} AND queue = :queue GROUP BY state"
    for index, term in dict.fromkeys(_sql_find.INDEX_OF_STATE.values())
)

QUEUES = "SELECT name, paused_at FROM fireforget_queue"
PAUSED_QUEUES = "SELECT name FROM fireforget_queue WHERE paused_at IS NOT NULL"


@cache
def queues_in(state: int) -> str:
    """Return the statement for the first `:most` queues with jobs in a pending or resting state, skipping from one to another."""
    index, term = _sql_find.INDEX_OF_STATE[state]
    first = f"SELECT queue FROM fireforget_job INDEXED BY {index} WHERE {term} AND state = {state}"
    return f"""
WITH RECURSIVE found(queue) AS (
    SELECT ({first} ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT ({first} AND queue > found.queue ORDER BY queue LIMIT 1) FROM found WHERE found.queue IS NOT NULL
)
SELECT queue FROM found WHERE queue IS NOT NULL LIMIT :most
"""


QUEUES_OF_OTHERS = f"""
SELECT queue FROM fireforget_job INDEXED BY fireforget_due WHERE {_sql_find.DUE_TERM}
UNION
SELECT queue FROM fireforget_job INDEXED BY fireforget_active WHERE state = {_sql.ACTIVE}
UNION
SELECT name FROM fireforget_queue
UNION
SELECT queue FROM fireforget_history WHERE span = 86400 AND type = ''
"""

# A queue is known when it has or had jobs, was paused once, or is served by a worker.
KNOWS_QUEUE = "SELECT " + "\n    OR ".join(
    [
        "EXISTS (SELECT 1 FROM fireforget_queue WHERE name = :queue)",
        "EXISTS (SELECT 1 FROM fireforget_history WHERE span = 86400 AND type = '' AND queue = :queue)",
        *(
            f"EXISTS (SELECT 1 FROM fireforget_job INDEXED BY {index} WHERE {term} AND queue = :queue)"
            for index, term in dict.fromkeys(_sql_find.INDEX_OF_STATE.values())
        ),
    ]
)

PAUSE_QUEUE = """
INSERT INTO fireforget_queue (name, paused_at)
VALUES (:queue, :now)
ON CONFLICT (name) DO UPDATE SET paused_at = :now WHERE paused_at IS NULL
"""

RESUME_QUEUE = "UPDATE fireforget_queue SET paused_at = NULL WHERE name = :queue AND paused_at IS NOT NULL"
DELETE_QUEUE = "DELETE FROM fireforget_queue WHERE name = :queue"
