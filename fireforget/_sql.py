"""Every statement that the store runs, with the reason for its shape above it.

Named parameters, except in the statements that run once a job in a worker's batch: SQLite's binding looks each name up.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TypeVar

from fireforget._schema import STATE_NUMBER
from fireforget.task import DEFAULT_TIMEOUT, State

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
# CAST: a foreign program may have written into the table itself what is no number.

JOB_COLUMNS = (
    "n, nonce, task_id, type, queue, state, payload, headers, priority, retry_count, max_retry, timeout, deadline, last_error, "
    "enqueued_at, due, started_at, completed_at, result, progress, progress_note, group_name, "
    "(SELECT name FROM fireforget_worker WHERE fireforget_worker.n = fireforget_job.worker) AS worker_name"
)

JOB_BY_NUMBER = f"SELECT {JOB_COLUMNS} FROM fireforget_job WHERE n = :n AND nonce = :nonce AND task_id IS NULL"
JOB_BY_TASK_ID = f"SELECT {JOB_COLUMNS} FROM fireforget_job WHERE task_id = :task_id"

TAG = "SELECT value FROM fireforget_meta WHERE key = 'tag'"
META = "SELECT key, value FROM fireforget_meta"  # these two are all there is

# Each branch counts within the index of its own states, so that the table itself is never read. The oldest due time of the
# pending ones comes with it: a million of them are walked through once.
COUNT_JOBS = f"""
SELECT queue, {PENDING} AS state, count(*) AS jobs, CAST(min(due) AS REAL) AS oldest
FROM fireforget_job INDEXED BY fireforget_claim
WHERE state = {PENDING}
GROUP BY queue
UNION ALL
SELECT queue, state, count(*), NULL
FROM fireforget_job INDEXED BY fireforget_due
WHERE state IN ({SCHEDULED}, {RETRY})
GROUP BY queue, state
UNION ALL
SELECT queue, {ACTIVE}, count(*), NULL
FROM fireforget_job INDEXED BY fireforget_active
WHERE state = {ACTIVE}
GROUP BY queue
UNION ALL
SELECT queue, state, count(*), NULL
FROM fireforget_job INDEXED BY fireforget_listed
WHERE state > 4
GROUP BY state, queue
"""

QUEUES = "SELECT name, paused_at FROM fireforget_queue"
PAUSED_QUEUES = "SELECT name FROM fireforget_queue WHERE paused_at IS NOT NULL"

ATTEMPTS = """
SELECT attempt, started_at, duration, worker, error, traceback
FROM fireforget_attempt
WHERE job = :n
ORDER BY attempt
"""

WORKERS = "SELECT n, name, host, pid, boot_id, lock_file, queues, concurrency, threads, started_at FROM fireforget_worker"

WORKERS_AND_LOAD = f"""
SELECT name, host, pid, queues, concurrency, threads, started_at, (
    SELECT count(*)
    FROM fireforget_job INDEXED BY fireforget_active
    WHERE state = {ACTIVE} AND worker = fireforget_worker.n
), lock_file, boot_id
FROM fireforget_worker
ORDER BY n
"""

JOBS_IN_HANDS = f"""
SELECT {JOB_COLUMNS}
FROM fireforget_job INDEXED BY fireforget_active
WHERE state = {ACTIVE} AND worker = (SELECT n FROM fireforget_worker WHERE name = :name)
ORDER BY n
LIMIT :most
"""


@cache
def running_jobs(jobs: int) -> str:
    """Return the statement that reads `jobs` active jobs by the numbers that boards name; `+` keeps it to the rows' numbers."""
    return f"""
SELECT n, nonce, task_id, type, queue
FROM fireforget_job
WHERE n IN ({", ".join("?" * jobs)}) AND +state = {ACTIVE}
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

# --- workers: their own row ---------------------------------------------------------------------------------------------

INSERT_WORKER = """
INSERT INTO fireforget_worker (name, host, pid, boot_id, lock_file, queues, concurrency, threads, started_at, schedules, limits)
VALUES (:name, :host, :pid, :boot_id, :lock_file, :queues, :concurrency, :threads, :started_at, :schedules, :limits)
"""

DELETE_WORKER = "DELETE FROM fireforget_worker WHERE n = :worker"

# --- workers: claiming --------------------------------------------------------------------------------------------------

# A job that is due becomes pending, and from then on it is claimed like any other. A bounded number at a time: a million jobs
# that fall due at once must not hold up what is pending already.
FORWARD_DUE = f"""
UPDATE fireforget_job
SET state = {PENDING}
WHERE n IN (
    SELECT n
    FROM fireforget_job INDEXED BY fireforget_due
    WHERE state IN ({SCHEDULED}, {RETRY})
      AND due <= :now
    ORDER BY due
    LIMIT :most
)
"""

# What is no number is greater than any, so it is never due.
NEXT_DUE = f"SELECT min(due) FROM fireforget_job INDEXED BY fireforget_due WHERE state IN ({SCHEDULED}, {RETRY})"

# The pairs of queue and type that have pending jobs, by skipping through the claim index from the first job of one pair to the
# first of the next: as many steps as there are pairs, however many jobs they have. (A row value, (queue, type) > (...), would
# read better, but SQLite seeks by its first column alone and walks through the rest.) With each, the lowest and the highest limit
# key of its jobs: NULL stands before all others and is that of jobs without limits, or whose key is still to be made.
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
    JOIN fireforget_job AS job ON job.n = lane.n
)
SELECT job.queue, job.type, job.limit_key, (
    SELECT last.limit_key
    FROM fireforget_job AS last INDEXED BY fireforget_claim
    WHERE last.state = {PENDING} AND last.queue = job.queue AND last.type = job.type
    ORDER BY last.limit_key DESC
    LIMIT 1
)
FROM lane
JOIN fireforget_job AS job ON job.n = lane.n
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


# --- workers: groups ------------------------------------------------------------------------------------------------------
# Members wait in state aggregating. When a group is complete they get the number of the job that aggregates them as their batch;
# later arrivals begin the group anew. That job replaces them by one task in a transaction of its own. Until then they share its
# fate: while it is archived or cancelled so are they, and once it is gone they have no batch any more.

OPEN_GROUPS = f"""
SELECT queue, group_name, count(*), CAST(min(enqueued_at) AS REAL), CAST(max(enqueued_at) AS REAL)
FROM fireforget_job INDEXED BY fireforget_group
WHERE state = {AGGREGATING} AND batch IS NULL
GROUP BY queue, group_name
"""

CLOSE_BATCH = f"""
UPDATE fireforget_job
SET batch = :batch, enqueued_at = CAST(enqueued_at AS REAL)
WHERE n IN (
    SELECT n
    FROM fireforget_job INDEXED BY fireforget_group
    WHERE state = {AGGREGATING} AND batch IS NULL AND queue = :queue AND group_name = :group
    ORDER BY enqueued_at, n
    LIMIT :most
)
"""

# A member that somebody runs, archives or cancels by hand has no batch any more.
MEMBERS = f"SELECT {JOB_COLUMNS} FROM fireforget_job WHERE batch = :batch ORDER BY n"
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
          <> CASE WHEN job.state IN ({ARCHIVED}, {CANCELLED}) THEN job.state ELSE {AGGREGATING} END
  )
"""

# Open groups in the index that is made for them, closed ones by their batch: neither reads other jobs.
GROUPS = f"""
SELECT queue, group_name, 0 AS closed, count(*), CAST(min(enqueued_at) AS REAL), CAST(max(enqueued_at) AS REAL)
FROM fireforget_job INDEXED BY fireforget_group
WHERE state = {AGGREGATING} AND batch IS NULL AND (:queue IS NULL OR queue = :queue)
GROUP BY queue, group_name
UNION ALL
SELECT queue, group_name, 1, count(*), CAST(min(enqueued_at) AS REAL), CAST(max(enqueued_at) AS REAL)
FROM fireforget_job INDEXED BY fireforget_batch
WHERE batch IS NOT NULL AND state = {AGGREGATING} AND (:queue IS NULL OR queue = :queue)
GROUP BY batch, queue, group_name
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

# Members of a group follow the job that aggregates them (`STRAY_BATCHES`); without `:batch_kept` they are an open group again.
FOLLOW_AGGREGATE = f"""
UPDATE fireforget_job
SET state = :state, batch = :batch_kept, completed_at = :completed_at, last_error = :why,
    unique_key = CASE WHEN :state = {AGGREGATING} THEN unique_key ELSE {RELEASED_KEY} END
WHERE batch = :batch
"""

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

# The number after the highest one so far: a job that a person runs again keeps its history.
INSERT_ATTEMPT = """
INSERT INTO fireforget_attempt (job, attempt, started_at, duration, worker, error, traceback)
SELECT job.n, coalesce((SELECT max(attempt) FROM fireforget_attempt WHERE job = job.n), 0) + 1, ?, ?, worker.name, ?, ?
FROM fireforget_job AS job
JOIN fireforget_worker AS worker ON worker.n = job.worker
WHERE job.n = ? AND job.worker = ? AND job.claim = ?
"""

DELETE_ATTEMPTS = "DELETE FROM fireforget_attempt WHERE job = ?"

# Only where the removal before it found the job: a late result must not take the history of a job that still is.
DELETE_ATTEMPTS_OF_GONE = """
DELETE FROM fireforget_attempt
WHERE job = ?1
  AND NOT EXISTS (SELECT 1 FROM fireforget_job WHERE n = ?1)
"""

# --- running jobs: steps ------------------------------------------------------------------------------------------------

STEPS = """
SELECT name, stored_at, result
FROM fireforget_step
WHERE job = :n
ORDER BY n
"""

DELETE_STEPS = "DELETE FROM fireforget_step WHERE job = ?"

DELETE_STEPS_OF_GONE = """
DELETE FROM fireforget_step
WHERE job = ?1
  AND NOT EXISTS (SELECT 1 FROM fireforget_job WHERE n = ?1)
"""

# Of completed jobs that begin anew.
DELETE_STEPS_OF_PENDING = f"""
DELETE FROM fireforget_step
WHERE job = ?1
  AND EXISTS (SELECT 1 FROM fireforget_job WHERE n = ?1 AND state = {PENDING})
"""

# Whether a job is still in a worker's hands: its process may have settled it and died before it could say so.
IS_OURS = f"SELECT 1 FROM fireforget_job {FENCE}"

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

# --- inspection and administration ----------------------------------------------------------------------------------------
# Jobs are listed by row number. Of those that rest, the index has each queue's in this order. For the others there are two ways:
# by the index of the state, sorting its numbers, which costs what the jobs in the state cost; or through the table, a window of
# row numbers at a time, which is cheap where the state is common. `_inspect_find` takes the first where few are in the state.

_DUE_TERM = f"state IN ({SCHEDULED}, {RETRY})"
_ENDED_TERM = f"state IN ({COMPLETED}, {ARCHIVED}, {CANCELLED})"
FIRST_RESTING = 5

# The term repeats the index's own WHERE, word for word: SQLite uses a partial index only where the query implies it.
_INDEX_OF_STATE = {
    PENDING: ("fireforget_claim", f"state = {PENDING}"),
    ACTIVE: ("fireforget_active", f"state = {ACTIVE}"),
    **dict.fromkeys((SCHEDULED, RETRY), ("fireforget_due", _DUE_TERM)),
    **{number: ("fireforget_listed", "state > 4") for number in STATE_NUMBER.values() if number >= FIRST_RESTING},
}

_AGE = f"CASE WHEN {_ENDED_TERM} THEN coalesce(completed_at, enqueued_at) ELSE enqueued_at END"

_FILTERS = {
    "queue": "queue = :queue",
    "type": "type = :type",
    "type_prefix": "substr(type, 1, length(:type_prefix)) = :type_prefix",
    "before": f"{_AGE} <= :before",
    "since": f"{_AGE} > :since",
    "error": "instr(last_error, :error) > 0",
    "as_read": "payload IS :as_read",
    "group": "group_name = :group",
}
"""What jobs can be narrowed by: the name of the parameter, and its condition."""


# Text that a payload must have to match, so that most are passed over without decoding them. It may be written otherwise with a
# backslash, and a number with an exponent: whoever reads the payload decides.
def _hint(name: str) -> str:
    exponent = " OR payload GLOB '*[0-9][eE]*'" if name.startswith("number_") else ""
    return f"(instr(payload, :{name}) > 0 OR instr(payload, '\\') > 0{exponent})"


def _where(state: int | None, filters: Iterable[str]) -> str:
    terms = [f"state = {state}"] * (state is not None) + [_FILTERS.get(name) or _hint(name) for name in filters]
    return "".join(f"\n  AND {term}" for term in terms)


def matching(state: int | None, filters: Iterable[str], *, by_index: bool) -> str:
    """Return the statement for the numbers of up to `:most` jobs, above `:after` and up to `:last`, in order."""
    index, term = _INDEX_OF_STATE[state] if by_index and state is not None else ("", "")
    return f"""
SELECT n
FROM fireforget_job {f"INDEXED BY {index}" if index else "NOT INDEXED"}
WHERE n > :after
  AND n <= :last{term and f" AND {term}"}{_where(state, filters)}
ORDER BY n
LIMIT :most
"""


@cache
def queues_in(state: int) -> str:
    """Return the statement for the first `:most` queues with jobs in a pending or resting state, skipping from one to another."""
    index, term = _INDEX_OF_STATE[state]
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
SELECT queue FROM fireforget_job INDEXED BY fireforget_due WHERE {_DUE_TERM}
UNION
SELECT queue FROM fireforget_job INDEXED BY fireforget_active WHERE state = {ACTIVE}
UNION
SELECT name FROM fireforget_queue
UNION
SELECT queue FROM fireforget_history WHERE span = 86400 AND type = ''
"""


def count_up_to(state: int, filters: Iterable[str]) -> str:
    """Return the statement that counts the jobs of a state, no further than to `:most`, in the index of the state."""
    index, term = _INDEX_OF_STATE[state]
    return f"""
SELECT count(*)
FROM (
    SELECT 1
    FROM fireforget_job INDEXED BY {index}
    WHERE {term}{_where(state, filters)}
    LIMIT :most
)
"""


@cache
def next_resting(state: int) -> str:
    """Return the statement for the number of the next job of a resting state and a queue above `:after`."""
    index, term = _INDEX_OF_STATE[state]
    return (
        f"SELECT min(n) FROM fireforget_job INDEXED BY {index} WHERE {term} AND state = {state} AND queue = :queue AND n > :after"
    )


# Where the next window begins: numbers of jobs that are gone are not walked through one window after another.
NEXT_NUMBER = "SELECT min(n) FROM fireforget_job WHERE n > :after"
LAST_NUMBER = "SELECT max(n) FROM fireforget_job"

COUNT_JOBS_OF_QUEUE = "\nUNION ALL\n".join(
    f"SELECT state, count(*), {'CAST(min(due) AS REAL)' if index == 'fireforget_claim' else 'NULL'} "
    f"FROM fireforget_job INDEXED BY {index} WHERE {term} AND queue = :queue GROUP BY state"
    for index, term in dict.fromkeys(_INDEX_OF_STATE.values())
)

# A queue is known when it has or had jobs, was paused once, or is served by a worker.
KNOWS_QUEUE = "SELECT " + "\n    OR ".join(
    [
        "EXISTS (SELECT 1 FROM fireforget_queue WHERE name = :queue)",
        "EXISTS (SELECT 1 FROM fireforget_history WHERE span = 86400 AND type = '' AND queue = :queue)",
        *(
            f"EXISTS (SELECT 1 FROM fireforget_job INDEXED BY {index} WHERE {term} AND queue = :queue)"
            for index, term in dict.fromkeys(_INDEX_OF_STATE.values())
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

# What one needs to decide about a job beyond `JOB_COLUMNS`.
LOCK_OF_JOB = "SELECT unique_key, unique_until, payload, deadline, queue, type FROM fireforget_job WHERE n = :n"

_ARCHIVED_BY_HAND = "archived by hand"
_CANCELLED_BY_HAND = "cancelled before it ran"

# An ended job begins anew: all its retries, no result of the run before. The attempts stay, and later ones are numbered on. One
# that ended with its group goes back into it; one that still waits there is run by itself.
_ENDED_WITH_ITS_GROUP = f"batch IS NOT NULL AND {_ENDED_TERM}"
RUN_JOB = f"""
UPDATE fireforget_job
SET state = CASE WHEN {_ENDED_WITH_ITS_GROUP} THEN {AGGREGATING} ELSE {PENDING} END,
    due = :now,
    retry_count = CASE WHEN {_ENDED_TERM} THEN 0 ELSE retry_count END,
    worker_deaths = CASE WHEN {_ENDED_TERM} THEN 0 ELSE worker_deaths END,
    last_error = CASE WHEN last_error NOT IN ('{_ARCHIVED_BY_HAND}', '{_CANCELLED_BY_HAND}') THEN last_error END,
    result = CASE WHEN {_ENDED_TERM} THEN NULL ELSE result END,
    progress = CASE WHEN {_ENDED_TERM} THEN NULL ELSE progress END,
    progress_note = CASE WHEN {_ENDED_TERM} THEN NULL ELSE progress_note END,
    started_at = CASE WHEN {_ENDED_TERM} THEN NULL ELSE started_at END,
    completed_at = NULL,
    expires_at = NULL,
    cancel_requested_at = NULL,
    group_name = CASE WHEN {_ENDED_WITH_ITS_GROUP} THEN group_name END,
    batch = NULL,
    linked = linked & ~{FELL},
    unique_key = :unique_key,
    unique_until = :unique_until
WHERE n = :n
"""


def run_plain(state: int, filters: Iterable[str]) -> str:
    """Return the statement that runs job `:n` if it still matches, and has neither a unique key nor a deadline to look at."""
    plain = RUN_JOB.replace(":unique_key", "NULL").replace(":unique_until", "NULL").rstrip()
    return f"{plain} AND unique_key IS NULL AND deadline IS NULL{_where(state, filters)}"


# A job without a deadline has a timeout, as where it is enqueued.
UPDATE_JOB = f"""
UPDATE fireforget_job
SET payload = CASE WHEN :new_payload THEN :payload ELSE payload END,
    limit_key = CASE WHEN NOT :new_payload THEN limit_key END,
    queue = :queue, priority = :priority, due = :due, state = :state, unique_key = :unique_key,
    deadline = :deadline, timeout = coalesce(timeout, CASE WHEN :deadline IS NULL THEN {DEFAULT_TIMEOUT} END)
WHERE n = :n
"""

_END_JOB = f"""
UPDATE fireforget_job
SET state = {{state}}, completed_at = :now, expires_at = NULL, last_error = coalesce(last_error, '{{why}}'),
    cancel_requested_at = NULL, batch = NULL, unique_key = {RELEASED_KEY}
WHERE n = :n
"""
_SHELVE_JOB = _END_JOB.format(state=ARCHIVED, why=_ARCHIVED_BY_HAND)
_CALL_OFF_JOB = _END_JOB.format(state=CANCELLED, why=_CANCELLED_BY_HAND)

# The worker that runs it sees this in the commit's notice; the first request counts.
_REQUEST_CANCEL = "UPDATE fireforget_job SET cancel_requested_at = coalesce(cancel_requested_at, :now) WHERE n = :n"


def shelve(state: int, filters: Iterable[str] = ()) -> str:
    """Return the statement that archives job `:n` if it still is in the state, and still matches."""
    return _SHELVE_JOB.rstrip() + _where(state, filters)


def call_off(state: int, filters: Iterable[str] = ()) -> str:
    """Return the statement that cancels job `:n` if it still is in the state: at once, or by asking the worker that runs it."""
    return (_REQUEST_CANCEL if state == ACTIVE else _CALL_OFF_JOB.rstrip()) + _where(state, filters)


def remove(state: int, filters: Iterable[str] = ()) -> str:
    """Return the statement that deletes job `:n` if it still is in the state, and still matches."""
    return "DELETE FROM fireforget_job WHERE n = :n" + _where(state, filters)


def still_matching(columns: str, state: int | None, filters: Iterable[str]) -> str:
    """Return the statement for columns of job `:n` if it still is in the state, and still matches."""
    return f"SELECT {columns} FROM fireforget_job WHERE n = :n" + _where(state, filters)


# --- the file itself ------------------------------------------------------------------------------------------------------


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
