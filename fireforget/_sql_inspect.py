"""What inspectors read of one job, of workers and of ids, and nobody else does.

A job itself is read with `_sql.JOB_COLUMNS`; finding many is in `_sql_find`, queues are in `_sql_queues`. What one feature alone
stores is read beside it: `_history`, `_schedules`, `_limited`, `_groups`, `_dependencies`.
"""

from functools import cache

from fireforget import _sql

ATTEMPTS = """
SELECT attempt, started_at, duration, worker, error, traceback
FROM fireforget_attempt
WHERE job = :n
ORDER BY attempt
"""

STEPS = """
SELECT name, stored_at, result
FROM fireforget_step
WHERE job = :n
ORDER BY n
"""

WORKERS_AND_LOAD = f"""
SELECT name, host, pid, queues, concurrency, threads, started_at, (
    SELECT count(*)
    FROM fireforget_job INDEXED BY fireforget_active
    WHERE state = {_sql.ACTIVE} AND worker = fireforget_worker.n
), lock_file, boot_id
FROM fireforget_worker
ORDER BY n
"""

JOBS_IN_HANDS = f"""
SELECT {_sql.JOB_COLUMNS}
FROM fireforget_job INDEXED BY fireforget_active
WHERE state = {_sql.ACTIVE} AND worker = (SELECT n FROM fireforget_worker WHERE name = :name)
ORDER BY n
LIMIT :most
"""


@cache
def running_jobs(jobs: int) -> str:
    """Return the statement that reads `jobs` active jobs by the numbers that boards name; `+` keeps it to the rows' numbers."""
    return f"""
SELECT n, nonce, task_id, type, queue
FROM fireforget_job
WHERE n IN ({", ".join("?" * jobs)}) AND +state = {_sql.ACTIVE}
"""


# One job of a sample. What a row takes beside its texts, and in the indexes, is `_inspect_facts.ROW_BYTES`.
SIZE_OF_JOB = """
SELECT
    queue,
    length(type) + length(queue) + coalesce(length(payload), 0) + coalesce(length(headers), 0) + coalesce(length(result), 0)
        + coalesce(length(last_error), 0)
FROM fireforget_job
WHERE n >= :n
ORDER BY n
LIMIT 1
"""

# For ids that were mistyped, or are to be completed: jobs by number, and task_ids around the place where one would stand.
IDS_OF_NUMBERS = "SELECT n, nonce FROM fireforget_job WHERE n BETWEEN :first AND :last AND task_id IS NULL ORDER BY n LIMIT :most"
HAS_TASK_ID = "SELECT EXISTS (SELECT 1 FROM fireforget_job WHERE task_id = :task_id)"
TASK_IDS_FROM = """
SELECT task_id
FROM fireforget_job INDEXED BY fireforget_task_id
WHERE task_id IS NOT NULL AND task_id >= :task_id
ORDER BY task_id
LIMIT :most
"""
TASK_IDS_BEFORE = TASK_IDS_FROM.replace(">=", "<").replace("ORDER BY task_id", "ORDER BY task_id DESC")
LAST_IDS = "SELECT n, nonce, task_id FROM fireforget_job ORDER BY n DESC LIMIT :most"
