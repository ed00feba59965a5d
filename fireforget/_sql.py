"""The words of the tables, and the life of a job in statements: stored, read, claimed, settled, taken over, expired.

Each statement has the reason for its shape above it. Those of one feature stand beside the functions that run them (`_schedules`,
`_history`, `_keys`, `_limits`, `_limited`, `_groups`, `_graphs`, `_dependencies`, `_effects`, `_backup`, `_doctor`); what
inspectors read and change by hand is in `_sql_find`, `_sql_change`, `_sql_queues` and `_sql_inspect`.

Named parameters, except in the statements that run once a job in a worker's batch: SQLite's binding looks each name up. Where
there is a CAST, a foreign program may have written into the table itself what is no number.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import TypeVar

from fireforget._schema import STATE_NUMBER
from fireforget.task import State

T = TypeVar("T")

SCHEDULED = STATE_NUMBER[State.SCHEDULED]
PENDING = STATE_NUMBER[State.PENDING]
ACTIVE = STATE_NUMBER[State.ACTIVE]
AGGREGATING = STATE_NUMBER[State.AGGREGATING]
RETRY = STATE_NUMBER[State.RETRY]
COMPLETED = STATE_NUMBER[State.COMPLETED]
ARCHIVED = STATE_NUMBER[State.ARCHIVED]
CANCELLED = STATE_NUMBER[State.CANCELLED]
BLOCKED = STATE_NUMBER[State.BLOCKED]

# `linked` is NULL for nearly all jobs; else a set of these bits. Once set they stay, but for the last.
NEEDED = 1  # others wait for it, or have
NEEDS = 2  # it waits for others, or has
RUNS_ANYWAY = 4  # it runs when those have ended, however they have
FELL = 8  # it was archived or cancelled because one of those was


def in_parts(items: Sequence[T], sizes: Sequence[int]) -> Iterator[Sequence[T]]:
    """Cut into parts of the given sizes, as many as fit of each; the last size is 1."""
    start = 0
    for size in sizes:
        while len(items) - start >= size:
            yield items[start : start + size]
            start += size


_BY_NUMBER = (128, 32, 8, 1)
"""Jobs that one statement finds by their numbers: a few sizes, so that the statements stay prepared."""


def in_parts_by_number(connection: sqlite3.Connection, numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut jobs' numbers into parts that one statement each may find with `n IN (...)`, inside the open transaction.

    Where an ANALYZE or PRAGMA optimize of somebody's once saw a small table, newer versions of SQLite, such as 3.53, would rather
    walk through all of it than look for many numbers, however large it has become: there each is looked for alone. A worker has
    removed such statistics (`Claims.check_schema`), but connections of others may go on with what they have read. To ask for the
    plan takes 5 microseconds.
    """
    return in_parts(numbers, (1,) if len(numbers) > 1 and _walks(connection) else _BY_NUMBER)


def _walks(connection: sqlite3.Connection) -> bool:
    connection.execute(META).fetchall()  # statistics are read with the schema, and what is run notices that there is another
    schema = connection.execute("PRAGMA schema_version").fetchone()[0]
    detail: str = connection.execute(_plan_by_number(schema)).fetchone()[3]
    return detail.startswith("SCAN")


@lru_cache(maxsize=4)
def _plan_by_number(schema: int) -> str:
    """Return the question how many jobs are found by number.

    It is another for each version of the schema: a connection keeps what it has prepared, and SQLite makes another plan only for
    what it runs, not for what it explains.
    """
    numbers = ", ".join(map(str, range(_BY_NUMBER[0])))
    return f"EXPLAIN QUERY PLAN SELECT n FROM fireforget_job WHERE n IN ({numbers}) -- schema {schema}"


def number_of(state: State) -> int:
    """Return a state as the table stores it."""
    return STATE_NUMBER[state]


# --- producers --------------------------------------------------------------------------------------------------------

# One plain statement: in autocommit it is a write transaction of its own from its first step, so it never has to turn a read
# into a write (which SQLite refuses at once with SQLITE_BUSY_SNAPSHOT, without waiting).
INSERTED_COLUMNS = (
    "nonce",
    "task_id",
    "type",
    "queue",
    "state",
    "priority",
    "due",
    "payload",
    "headers",
    "max_retry",
    "timeout",
    "deadline",
    "retention",
    "enqueued_at",
    "unique_key",
    "unique_until",
    "group_name",
    "linked",
    "limit_key",
)

INSERT_JOB = f"""
INSERT INTO fireforget_job ({", ".join(INSERTED_COLUMNS)})
VALUES ({", ".join("?" * len(INSERTED_COLUMNS))})
"""

# Most jobs leave these out. SQLite then has a third less to bind and to store, and a statement may carry many rows: one alone
# costs 5 us, one of fifty 1.6 us (SQLite 3.40).
RARE_COLUMNS = ("task_id", "headers", "deadline", "unique_key", "unique_until", "group_name", "linked", "limit_key")
PLAIN_COLUMNS = tuple(column for column in INSERTED_COLUMNS if column not in RARE_COLUMNS)


@cache
def insert_plain(rows: int) -> str:
    """Return the statement that inserts `rows` jobs without any of the `RARE_COLUMNS`."""
    values = f"({', '.join('?' * len(PLAIN_COLUMNS))})"
    return f"INSERT INTO fireforget_job ({', '.join(PLAIN_COLUMNS)}) VALUES {', '.join([values] * rows)}"


# Such a statement does not tell row numbers. Inside one write transaction AUTOINCREMENT hands them out without a gap.
LAST_JOB_NUMBER = "SELECT seq FROM sqlite_sequence WHERE name = 'fireforget_job'"

# A lock that has expired is removed by whoever wants it next; not under a running job, whose lock ends with the run.
RELEASE_EXPIRED_KEY = f"""
UPDATE fireforget_job
SET unique_key = NULL, unique_until = NULL
WHERE unique_key = :unique_key
  AND unique_until <= :now
  AND state <> {ACTIVE}
"""

HOLDER_OF_KEY = "SELECT n, nonce, task_id FROM fireforget_job WHERE unique_key = :unique_key"

# --- readers ----------------------------------------------------------------------------------------------------------

JOB_COLUMNS = (
    "n, nonce, task_id, type, queue, state, payload, headers, priority, retry_count, max_retry, timeout, deadline, last_error, "
    "enqueued_at, due, started_at, completed_at, result, progress, progress_note, group_name, "
    "(SELECT name FROM fireforget_worker WHERE fireforget_worker.n = fireforget_job.worker) AS worker_name"
)

JOB_BY_NUMBER = f"SELECT {JOB_COLUMNS} FROM fireforget_job WHERE n = :n AND nonce = :nonce AND task_id IS NULL"
JOB_BY_TASK_ID = f"SELECT {JOB_COLUMNS} FROM fireforget_job WHERE task_id = :task_id"

LAST_NUMBER = "SELECT max(n) FROM fireforget_job"

TAG = "SELECT value FROM fireforget_meta WHERE key = 'tag'"
META = "SELECT key, value FROM fireforget_meta"  # these two are all there is

STATISTICS = "SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat1'"
FORGET_STATISTICS = "DELETE FROM sqlite_stat1 WHERE tbl GLOB 'fireforget_*'"  # https://sqlite.org/fileformat2.html#stat1tab

# --- workers: their own row ---------------------------------------------------------------------------------------------

WORKERS = "SELECT n, name, host, pid, boot_id, lock_file, queues, concurrency, threads, started_at FROM fireforget_worker"

INSERT_WORKER = """
INSERT INTO fireforget_worker (name, host, pid, boot_id, lock_file, queues, concurrency, threads, started_at, schedules, limits)
VALUES (:name, :host, :pid, :boot_id, :lock_file, :queues, :concurrency, :threads, :started_at, :schedules, :limits)
"""

DELETE_WORKER = "DELETE FROM fireforget_worker WHERE n = :worker"

# --- workers: claiming --------------------------------------------------------------------------------------------------

# A job that is due becomes pending, and from then on it is claimed like any other. A bounded number at a time: a million jobs
# that fall due at once must not hold up what is pending already.
DUE = f"""
SELECT n
FROM fireforget_job INDEXED BY fireforget_due
WHERE state IN ({SCHEDULED}, {RETRY})
  AND due <= :now
ORDER BY due
LIMIT :most
"""


@cache
def make_pending(jobs: int) -> str:
    """Return the statement that makes `jobs` jobs pending, which the same transaction has found to be due."""
    return f"UPDATE fireforget_job SET state = {PENDING} WHERE n IN ({', '.join('?' * jobs)})"


# What is no number is greater than any, so it is never due.
NEXT_DUE = f"SELECT min(due) FROM fireforget_job INDEXED BY fireforget_due WHERE state IN ({SCHEDULED}, {RETRY})"

# The pairs of queue and type that have pending jobs, by skipping through the claim index from the first job of one pair to the
# first of the next: as many steps as there are pairs, however many jobs they have. (A row value, (queue, type) > (...), would
# read better, but SQLite seeks by its first column alone and walks through the rest.) With each, the lowest and the highest limit
# key of its jobs: NULL stands before all others and is that of jobs without limits, or whose key is still to be made. CROSS: no
# statistics of a small table may turn the join round.
PENDING_LANES = f"""
WITH RECURSIVE lane(n) AS (
    SELECT (
        SELECT n
        FROM fireforget_job INDEXED BY fireforget_claim
        WHERE state = {PENDING}
        ORDER BY queue, type, limit_key
        LIMIT 1
    )
    UNION ALL
    SELECT coalesce(
        (
            SELECT following.n
            FROM fireforget_job AS following INDEXED BY fireforget_claim
            WHERE following.state = {PENDING} AND following.queue = job.queue AND following.type > job.type
            ORDER BY following.type, following.limit_key
            LIMIT 1
        ),
        (
            SELECT following.n
            FROM fireforget_job AS following INDEXED BY fireforget_claim
            WHERE following.state = {PENDING} AND following.queue > job.queue
            ORDER BY following.queue, following.type, following.limit_key
            LIMIT 1
        )
    )
    FROM lane
    CROSS JOIN fireforget_job AS job ON job.n = lane.n
)
SELECT job.queue, job.type, job.limit_key, (
    SELECT last.limit_key
    FROM fireforget_job AS last INDEXED BY fireforget_claim
    WHERE last.state = {PENDING} AND last.queue = job.queue AND last.type = job.type
    ORDER BY last.limit_key DESC
    LIMIT 1
)
FROM lane
CROSS JOIN fireforget_job AS job ON job.n = lane.n
"""

# A claim reads the first jobs in order and then marks them, inside one write transaction, so that nobody comes in between. One
# UPDATE ... RETURNING costs more: SQLite keeps what it returns in a table of its own until all is changed, and loses the order.
CLAIMED_COLUMNS = (
    "n, claim + 1 AS claim, type, queue, payload, headers, retry_count, max_retry, timeout, deadline, nonce, task_id, due, "
    "priority, retention, has_steps, linked"
)
_PLACE_COLUMNS = "n, priority, due"


def _branches(types: int, columns: str) -> str:
    """Return a compound SELECT of the first jobs of `types` types of a queue, `:type_0` and so on.

    The branches are each read in index order and merged by SQLite as they are needed, so the cost is that of the jobs that are
    read, whatever else is stored.
    """
    branch = (
        f"SELECT {columns} FROM fireforget_job INDEXED BY fireforget_claim "
        f"WHERE state = {PENDING} AND queue = :queue AND type = :type_{{}} AND limit_key IS NULL"
    )
    return "\n        UNION ALL ".join(branch.format(position) for position in range(types))


@cache
def places_of_first(types: int) -> str:
    """Return the statement that reads where the first `:most` pending jobs of `types` types of a queue stand, in order."""
    return f"{_branches(types, _PLACE_COLUMNS)}\nORDER BY priority DESC, due, n\nLIMIT :most"


@cache
def first_jobs(types: int) -> str:
    """Return the statement that reads the first `:most` pending jobs of `types` types of a queue, in the order to run them."""
    return f"{_branches(types, CLAIMED_COLUMNS)}\nORDER BY priority DESC, due, n\nLIMIT :most"


@cache
def first_jobs_of_lanes(types_of: tuple[int, ...]) -> str:
    """Return the statement that reads the first jobs of several queues at once: up to `:most_0` of `types_of[0]` types of
    `:queue_0`, named `:type_0_0` and so on, and likewise of the others; in no order. With a hundred queues, one each would cost
    twice as much.
    """
    return "\n        UNION ALL\n".join(_lane(lane, types) for lane, types in enumerate(types_of))


def _lane(lane: int, types: int) -> str:
    branches = _branches(types, CLAIMED_COLUMNS).replace(":type_", f":type_{lane}_").replace(":queue", f":queue_{lane}")
    return f"        SELECT * FROM ({branches} ORDER BY priority DESC, due, n LIMIT :most_{lane})"


@cache
def jobs_by_number(jobs: int) -> str:
    """Return the statement that reads `jobs` pending jobs by their numbers; `+` keeps it from looking for them by state."""
    return f"""
SELECT {CLAIMED_COLUMNS}
FROM fireforget_job
WHERE n IN ({", ".join("?" * jobs)}) AND +state = {PENDING}
"""


@cache
def mark_claimed(jobs: int) -> str:
    """Return the statement that makes `jobs` jobs a worker's own, which the same transaction has read."""
    return f"""
UPDATE fireforget_job
SET state = {ACTIVE}, worker = ?, claim = claim + 1, started_at = ?
WHERE n IN ({", ".join("?" * jobs)})
"""


# --- workers: settling, one row each, fenced by owner and claim -----------------------------------------------------------
# No row means that the job is no longer ours: the result comes too late and is discarded.

# A job that ended holds its unique key no more, but keeps it in mind, so that a later run can take it again. The number in it
# makes it unlike every key that is held.
RELEASED = "was:"
RELEASED_KEY = (
    f"CASE WHEN substr(unique_key, 1, {len(RELEASED)}) = '{RELEASED}' THEN unique_key "
    f"ELSE '{RELEASED}' || n || ':' || unique_key END"
)


FENCE = "WHERE n = ? AND worker = ? AND claim = ?"


@cache
def remove_settled(jobs: int) -> str:
    """Return the statement that removes `jobs` jobs of one worker and one claim number; half the cost of one statement a job.

    Nearly all jobs are run once, so the claim numbers of a batch are alike. Those that others wait for, or that have waited for
    others, stay for `_dependencies.linked_left`: a job becomes one of them at any time, also while it runs, so that only this
    statement knows.
    """
    return f"DELETE FROM fireforget_job WHERE n IN ({', '.join('?' * jobs)}) AND worker = ? AND claim = ? AND linked IS NULL"


COMPLETE = f"""
UPDATE fireforget_job
SET state = {COMPLETED}, worker = NULL, started_at = ?, completed_at = ?, expires_at = ?,
    result = coalesce(?, result), last_error = ?, unique_key = {RELEASED_KEY}, cancel_requested_at = NULL
{FENCE}
"""

# A job that fails, or is put back, at the moment when somebody cancels it must not run again.
_CANCELLED_MEANWHILE = "cancel_requested_at IS NOT NULL"

RETRY_LATER = f"""
UPDATE fireforget_job
SET state = CASE WHEN {_CANCELLED_MEANWHILE} THEN {CANCELLED} ELSE {RETRY} END,
    completed_at = CASE WHEN {_CANCELLED_MEANWHILE} THEN cancel_requested_at END,
    worker = NULL, due = ?, retry_count = retry_count + ?, last_error = coalesce(?, last_error),
    unique_key = CASE
        WHEN {_CANCELLED_MEANWHILE} THEN {RELEASED_KEY}
        WHEN unique_until > ? THEN unique_key
    END,
    cancel_requested_at = NULL
{FENCE}
"""

ARCHIVE = f"""
UPDATE fireforget_job
SET state = {ARCHIVED}, worker = NULL, completed_at = ?, last_error = ?,
    unique_key = {RELEASED_KEY}, cancel_requested_at = NULL
{FENCE}
"""

CANCEL_ACTIVE = f"""
UPDATE fireforget_job
SET state = {CANCELLED}, worker = NULL, completed_at = ?, last_error = ?,
    unique_key = {RELEASED_KEY}, cancel_requested_at = NULL
{FENCE}
"""

# Put back with its due time unchanged, so that it is among the first to run again; no attempt is counted.
PUT_BACK = f"""
UPDATE fireforget_job
SET state = CASE WHEN {_CANCELLED_MEANWHILE} THEN {CANCELLED} ELSE {PENDING} END,
    completed_at = CASE WHEN {_CANCELLED_MEANWHILE} THEN cancel_requested_at END,
    unique_key = CASE WHEN {_CANCELLED_MEANWHILE} THEN {RELEASED_KEY} ELSE unique_key END,
    worker = NULL, started_at = NULL, cancel_requested_at = NULL
{FENCE}
"""

# A job that no worker can read, since another program wrote text into the table itself: everybody else can, afterwards.
MAKE_NUMBERS = """
UPDATE fireforget_job
SET nonce = CAST(nonce AS INTEGER), priority = CAST(priority AS INTEGER), due = CAST(due AS REAL),
    max_retry = CAST(max_retry AS INTEGER), timeout = CAST(timeout AS REAL), deadline = CAST(deadline AS REAL),
    retention = CAST(retention AS REAL), retry_count = CAST(retry_count AS INTEGER)
WHERE n = :n
"""

WRITE_RESULT = f"UPDATE fireforget_job SET result = ? {FENCE}"
WRITE_PROGRESS = f"UPDATE fireforget_job SET progress = ?, progress_note = ? {FENCE}"

# Whether a job is still in a worker's hands: its process may have settled it and died before it could say so.
IS_OURS = f"SELECT 1 FROM fireforget_job {FENCE}"

# --- workers: what goes with a job: its attempts, its steps -----------------------------------------------------------

# The number after the highest one so far: a job that a person runs again keeps its history.
INSERT_ATTEMPT = """
INSERT INTO fireforget_attempt (job, attempt, started_at, duration, worker, error, traceback)
SELECT job.n, coalesce((SELECT max(attempt) FROM fireforget_attempt WHERE job = job.n), 0) + 1, ?, ?,
    (SELECT name FROM fireforget_worker WHERE n = job.worker), ?, ?
FROM fireforget_job AS job
WHERE job.n = ? AND job.worker = ? AND job.claim = ? AND job.worker IN (SELECT n FROM fireforget_worker)
"""

DELETE_ATTEMPTS = "DELETE FROM fireforget_attempt WHERE job = ?"
DELETE_STEPS = "DELETE FROM fireforget_step WHERE job = ?"

# Only where the removal before it found the job: a late result must not take the history of a job that still is.
DELETE_ATTEMPTS_OF_GONE = """
DELETE FROM fireforget_attempt
WHERE job = ?1
  AND NOT EXISTS (SELECT 1 FROM fireforget_job WHERE n = ?1)
"""
DELETE_STEPS_OF_GONE = """
DELETE FROM fireforget_step
WHERE job = ?1
  AND NOT EXISTS (SELECT 1 FROM fireforget_job WHERE n = ?1)
"""

# --- workers: hooks ---------------------------------------------------------------------------------------------------

# A job as a hook is to see it, when the verdict stands: no row, and the verdict came too late. Its claim tells that.
SUBJECT_OF_HOOK = f"SELECT {JOB_COLUMNS} FROM fireforget_job WHERE n = ? AND claim = ? AND worker IS NULL"

# A call of a hook is a row of its own, so that it is made although the worker dies, in a child, and soon: before all else that
# waits in the queue.
INSERT_HOOK = f"""
INSERT INTO fireforget_job (
    nonce, type, queue, state, priority, due, payload, headers, max_retry, timeout, retention, enqueued_at
)
VALUES (abs(random() % 4294967296), :type, :queue, {PENDING}, {2**62}, :now, :payload, :headers, 0, :timeout, 0, :now)
"""

# --- workers: the jobs of dead ones -------------------------------------------------------------------------------------

JOBS_OF_WORKER = (
    f"SELECT n, claim, CAST(worker_deaths AS INTEGER), type FROM fireforget_job WHERE state = {ACTIVE} AND worker = :worker"
)

OWNERLESS_JOBS = f"""
SELECT DISTINCT worker
FROM fireforget_job INDEXED BY fireforget_active
WHERE state = {ACTIVE}
  AND worker NOT IN (SELECT n FROM fireforget_worker)
"""

# One that somebody has cancelled meanwhile must not run again.
RETURN_JOB = f"""
UPDATE fireforget_job
SET state = CASE WHEN {_CANCELLED_MEANWHILE} THEN {CANCELLED} ELSE {PENDING} END,
    completed_at = CASE WHEN {_CANCELLED_MEANWHILE} THEN cancel_requested_at END,
    unique_key = CASE WHEN {_CANCELLED_MEANWHILE} THEN {RELEASED_KEY} ELSE unique_key END,
    worker = NULL, started_at = NULL, cancel_requested_at = NULL, claim = claim + 1, worker_deaths = worker_deaths + :died
WHERE n = :n AND worker = :worker
"""

ARCHIVE_AFTER_DEATHS = f"""
UPDATE fireforget_job
SET state = {ARCHIVED}, worker = NULL, claim = claim + 1, worker_deaths = worker_deaths + 1, completed_at = :now,
    last_error = :error, unique_key = {RELEASED_KEY}, cancel_requested_at = NULL
WHERE n = :n AND worker = :worker
"""

ACTIVE_LANES = f"SELECT DISTINCT queue, type FROM fireforget_job INDEXED BY fireforget_active WHERE state = {ACTIVE}"

CANCEL_REQUESTED = f"""
SELECT n, claim
FROM fireforget_job INDEXED BY fireforget_cancel
WHERE state = {ACTIVE} AND worker = :worker AND cancel_requested_at IS NOT NULL
"""

# --- housekeeping -------------------------------------------------------------------------------------------------------

NEXT_EXPIRY = "SELECT min(expires_at) FROM fireforget_job INDEXED BY fireforget_expiry WHERE expires_at IS NOT NULL"

EXPIRED = """
SELECT n, has_steps
FROM fireforget_job INDEXED BY fireforget_expiry
WHERE expires_at <= :now
ORDER BY expires_at
LIMIT :most
"""

DELETE_JOB = "DELETE FROM fireforget_job WHERE n = ?"
