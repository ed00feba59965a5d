"""The tables, indexes and views in the database file, and how a file of an older version becomes one of this version.

Everything is prefixed `fireforget_`, so that it lives beside an application's own tables in one file. The version stands in
`fireforget_meta`, since `PRAGMA user_version` belongs to the application. A migration is one transaction: a program killed in
the middle of it leaves the old version behind, whole.

Stable for other programs: the views `fireforget_enqueue` (to insert into), `fireforget_jobs` and `fireforget_attempts` (to read).
Columns are only ever added at their end. The tables themselves are ours and change between versions.

STRICT tables would need SQLite 3.37 and we promise 3.35. Named CHECKs guard the states; types are checked where foreign values
come in, by the trigger of `fireforget_enqueue`: as CHECKs of the table they would cost every insert a fifth of its time.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from fireforget.errors import SchemaTooNew
from fireforget.task import DEFAULT_MAX_RETRY, DEFAULT_QUEUE, DEFAULT_TIMEOUT, State

VERSION = 1

STATE_NUMBER = {
    State.SCHEDULED: 1,
    State.PENDING: 2,
    State.ACTIVE: 3,
    State.RETRY: 4,
    State.COMPLETED: 5,
    State.ARCHIVED: 6,
    State.AGGREGATING: 7,
    State.BLOCKED: 8,
    State.CANCELLED: 9,
}
"""States as the table stores them: a byte in the row, and constants that partial indexes can name."""

STATE_OF_NUMBER = {number: state for state, number in STATE_NUMBER.items()}

_TABLES = """
CREATE TABLE fireforget_meta (
    key TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE fireforget_queue (
    name TEXT PRIMARY KEY NOT NULL,
    paused_at REAL
) WITHOUT ROWID;

-- What a queue keeps of jobs that ended, by state: how many, and for how many seconds. No row, or NULL, is without limit.
CREATE TABLE fireforget_keep (
    queue TEXT NOT NULL,
    state INTEGER NOT NULL,
    most INTEGER,
    age REAL,
    PRIMARY KEY (queue, state),
    CONSTRAINT state_has_ended CHECK (state IN (5, 6, 9))
) WITHOUT ROWID;

CREATE TABLE fireforget_worker (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    lock_file TEXT NOT NULL,
    queues TEXT NOT NULL,
    concurrency INTEGER NOT NULL,
    threads INTEGER NOT NULL,
    started_at REAL NOT NULL,
    schedules TEXT NOT NULL DEFAULT '{}',
    limits TEXT NOT NULL DEFAULT '{}'
);

-- n orders and finds a job; nonce makes its public id unlike that of a job whose insert was rolled back and gave n to another.
-- AUTOINCREMENT, so that the id of a job that is gone is never used again.
CREATE TABLE fireforget_job (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    nonce INTEGER NOT NULL,
    task_id TEXT,
    type TEXT NOT NULL,
    queue TEXT NOT NULL,
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    due REAL NOT NULL,
    payload TEXT,
    headers TEXT,
    max_retry INTEGER NOT NULL,
    timeout REAL,
    deadline REAL,
    retention REAL NOT NULL,
    enqueued_at REAL NOT NULL,
    unique_key TEXT,
    unique_until REAL,
    group_name TEXT,
    batch INTEGER,
    linked INTEGER,
    claim INTEGER NOT NULL DEFAULT 0,
    worker INTEGER,
    started_at REAL,
    retry_count INTEGER NOT NULL DEFAULT 0,
    worker_deaths INTEGER NOT NULL DEFAULT 0,
    completed_at REAL,
    expires_at REAL,
    last_error TEXT,
    result TEXT,
    progress REAL,
    progress_note TEXT,
    cancel_requested_at REAL,
    has_steps INTEGER NOT NULL DEFAULT 0,
    limit_key TEXT,
    CONSTRAINT state_is_known CHECK (state BETWEEN 1 AND 9),
    CONSTRAINT active_has_a_worker CHECK ((state = 3) = (worker IS NOT NULL))
);

-- Runs that ended, in the minute, hour or UTC day (`span`, in seconds) that began at `began`, in Unix seconds; days that are not
-- kept one by one any more are added up under 0. Type '' is the sum of a queue, and these rows lie together: they are what is
-- asked for most. How long runs took is known of `timed` runs, how long jobs had been due of `waited` ones, the latter in sums
-- alone.
CREATE TABLE fireforget_history (
    span INTEGER NOT NULL,
    began INTEGER NOT NULL,
    queue TEXT NOT NULL,
    type TEXT NOT NULL,
    processed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    retried INTEGER NOT NULL,
    archived INTEGER NOT NULL,
    timed INTEGER NOT NULL,
    run_seconds REAL NOT NULL,
    waited INTEGER NOT NULL,
    wait_seconds REAL NOT NULL,
    PRIMARY KEY (span, type, queue, began),
    CONSTRAINT span_is_known CHECK (span IN (60, 3600, 86400))
) WITHOUT ROWID;

CREATE TABLE fireforget_attempt (
    job INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    started_at REAL NOT NULL,
    duration REAL NOT NULL,
    worker TEXT NOT NULL,
    error TEXT NOT NULL,
    traceback TEXT,
    PRIMARY KEY (job, attempt)
) WITHOUT ROWID;

-- Who waits for whom: one row for each job that `job` needs, kept until `job` has succeeded or is gone. `id` is the needed job's,
-- `need` its number, and it need not be stored any more. `place` is its place in `after`. `outcome` is the number of a state once
-- it has ended: completed, archived or cancelled; `reason` says why where it failed.
CREATE TABLE fireforget_dependency (
    job INTEGER NOT NULL,
    need INTEGER NOT NULL,
    place INTEGER NOT NULL,
    id TEXT NOT NULL,
    outcome INTEGER,
    reason TEXT,
    PRIMARY KEY (job, need)
) WITHOUT ROWID;

-- What became of jobs and is still to be told to others, in the order in which it happened. Whoever ends a job tells them in the
-- same transaction, and leaves here what would take it too long (`_dependencies`).
CREATE TABLE fireforget_news (
    n INTEGER PRIMARY KEY,
    job INTEGER NOT NULL,
    what INTEGER NOT NULL,
    reason TEXT
);

-- Keys of idempotent handlers, of each task type its own. While a job holds one, `owner` is its number, and the key is free as
-- soon as that job is no longer active. Once it is done there is no owner, and the result stays until `expires_at`.
CREATE TABLE fireforget_idempotency (
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    token INTEGER NOT NULL,
    owner INTEGER,
    taken_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    result TEXT,
    PRIMARY KEY (type, key)
);

-- Starts of jobs whose handlers have a rate. `at` is the latest moment at which the job could start;
-- from `until` on it counts no more.
-- How many jobs of a key are active is not written down anywhere: it is counted, in an index, so that no slot can be lost.
CREATE TABLE fireforget_start (
    limit_key TEXT NOT NULL,
    at REAL NOT NULL,
    until REAL NOT NULL,
    job INTEGER NOT NULL
);

-- next_at is the tick that is to be enqueued next: whoever moves it on enqueues, in the same transaction. digest stands for
-- everything that the registry says of the schedule.
CREATE TABLE fireforget_schedule (
    name TEXT PRIMARY KEY NOT NULL,
    type TEXT NOT NULL,
    queue TEXT NOT NULL,
    expression TEXT NOT NULL,
    timezone TEXT NOT NULL,
    missed TEXT NOT NULL,
    digest TEXT NOT NULL,
    next_at REAL NOT NULL,
    last_at REAL,
    paused_at REAL,
    CONSTRAINT missed_is_known CHECK (missed IN ('run_once', 'skip', 'catch_up'))
) WITHOUT ROWID;

-- What became of ticks; numbered within a schedule, so that the oldest are found without counting.
CREATE TABLE fireforget_schedule_event (
    schedule TEXT NOT NULL,
    n INTEGER NOT NULL,
    tick REAL NOT NULL,
    at REAL NOT NULL,
    outcome TEXT NOT NULL,
    job TEXT,
    detail TEXT,
    PRIMARY KEY (schedule, n),
    CONSTRAINT outcome_is_known CHECK (outcome IN ('enqueued', 'refused', 'missed'))
) WITHOUT ROWID;

-- Results of steps, in the order of their numbers; each may be large, so the table has row numbers. Whoever removes a job removes
-- them. No trigger does: it would make the removal of every job slower by a twentieth, and `has_steps` tells which have any.
CREATE TABLE fireforget_step (
    n INTEGER PRIMARY KEY,
    job INTEGER NOT NULL,
    name TEXT NOT NULL,
    result TEXT NOT NULL,
    stored_at REAL NOT NULL,
    UNIQUE (job, name)
);
"""

# Claims walk `fireforget_claim` in the order in which jobs are to run and stop after as many as they want: neither history nor
# jobs that are not due, nor types without a handler, are ever stepped over. Jobs without limits have no limit key and stand first
# of their type, those with limits key by key: a key that is full is stepped over as a whole. The others hold only the rows of
# their own states.
# `state > 4` rather than a list of states: for a list of three SQLite builds a set in memory at every write. Of the two for those
# `fireforget_resting` has them in the order in which they ended, to be trimmed, and `fireforget_listed` in that of n, which is in
# every index behind its columns, to be counted and listed a page at a time without sorting.
_INDEXES = """
CREATE INDEX fireforget_claim ON fireforget_job (queue, type, limit_key, priority DESC, due) WHERE state = 2;
CREATE INDEX fireforget_due ON fireforget_job (due, queue, state) WHERE state IN (1, 4);
CREATE INDEX fireforget_active ON fireforget_job (worker, queue) WHERE state = 3;
CREATE INDEX fireforget_limited ON fireforget_job (limit_key) WHERE state = 3 AND limit_key IS NOT NULL;
CREATE INDEX fireforget_cancel ON fireforget_job (worker) WHERE state = 3 AND cancel_requested_at IS NOT NULL;
CREATE INDEX fireforget_resting ON fireforget_job (state, queue, completed_at) WHERE state > 4;
CREATE INDEX fireforget_listed ON fireforget_job (state, queue) WHERE state > 4;
CREATE INDEX fireforget_group ON fireforget_job (queue, group_name, enqueued_at) WHERE state = 7 AND batch IS NULL;
CREATE INDEX fireforget_batch ON fireforget_job (batch) WHERE batch IS NOT NULL;
CREATE INDEX fireforget_dependants ON fireforget_dependency (need, outcome);
CREATE INDEX fireforget_open_need ON fireforget_dependency (job) WHERE outcome IS NULL;
CREATE INDEX fireforget_failed_need ON fireforget_dependency (job) WHERE outcome > 5;
CREATE INDEX fireforget_expiry ON fireforget_job (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX fireforget_idempotency_expiry ON fireforget_idempotency (expires_at);
CREATE INDEX fireforget_start_key ON fireforget_start (limit_key, at);
CREATE INDEX fireforget_start_until ON fireforget_start (until);
CREATE UNIQUE INDEX fireforget_task_id ON fireforget_job (task_id) WHERE task_id IS NOT NULL;
CREATE UNIQUE INDEX fireforget_unique_key ON fireforget_job (unique_key) WHERE unique_key IS NOT NULL;
"""

# Unix seconds with milliseconds, in functions that SQLite 3.35 has.
_NOW = "((julianday('now') - 2440587.5) * 86400.0)"

_FAR = 1e12
"""Seconds beyond which instants and durations are refused, as in Python (`clock`): infinities are among them."""


def _no_number(column: str) -> str:
    """Return when a value is no number: 5.0 and '5' are, which node's and perl's drivers bind for 5; '5 minutes' is not.

    `+` takes the column's own affinity away, so that the comparison turns text into a number, and only where all of it is one.
    """
    return f"typeof(NEW.{column}) = 'blob' OR +NEW.{column} <> CAST(NEW.{column} AS NUMERIC)"


def _no_integer(column: str) -> str:
    return f"{_no_number(column)} OR CAST(NEW.{column} AS NUMERIC) <> CAST(NEW.{column} AS INTEGER)"


def _no_seconds(column: str, least: str) -> str:
    return f"{_no_number(column)} OR CAST(NEW.{column} AS REAL) NOT BETWEEN {least} AND {_FAR}"


_REFUSED = {
    "type is missing: name the handler, such as email:send": (
        "NEW.type IS NULL OR typeof(NEW.type) <> 'text' OR trim(NEW.type) = ''"
    ),
    "queue must be text that is not blank": "NEW.queue IS NOT NULL AND (typeof(NEW.queue) <> 'text' OR trim(NEW.queue) = '')",
    "task_id must be text that is not blank": (
        "NEW.task_id IS NOT NULL AND (typeof(NEW.task_id) <> 'text' OR trim(NEW.task_id) = '')"
    ),
    # A JSON object, as far as can be seen without JSON functions. What is in it is read leniently.
    "headers must be the text of a JSON object": (
        "NEW.headers IS NOT NULL AND (typeof(NEW.headers) <> 'text' OR ltrim(NEW.headers, char(9, 10, 13, 32)) NOT GLOB '{*')"
    ),
    "priority must be an integer": _no_integer("priority"),
    "max_retry must be an integer, 0 or more": f"{_no_integer('max_retry')} OR CAST(NEW.max_retry AS INTEGER) < 0",
    "timeout must be in seconds, above 0": _no_seconds("timeout", "1e-9"),
    "deadline must be in Unix seconds": _no_seconds("deadline", f"-{_FAR}"),
    "process_at must be in Unix seconds": _no_seconds("process_at", f"-{_FAR}"),
    "retention must be in seconds, 0 or more": _no_seconds("retention", "0"),
    "unique_for must be in seconds, above 0": _no_seconds("unique_for", "1e-9"),
    "unique_key must be text that is not blank": (
        "NEW.unique_key IS NOT NULL AND (typeof(NEW.unique_key) <> 'text' OR trim(NEW.unique_key) = '')"
    ),
    "group must be text that is not blank": (
        'NEW."group" IS NOT NULL AND (typeof(NEW."group") <> \'text\' OR trim(NEW."group") = \'\')'
    ),
    "a member of a group has no process_at of its own": f'NEW."group" IS NOT NULL AND CAST(NEW.process_at AS REAL) > {_NOW}',
    "give unique_key and unique_for together": "(NEW.unique_key IS NULL) <> (NEW.unique_for IS NULL)",
    "task_id is taken by a stored job": "EXISTS (SELECT 1 FROM fireforget_job WHERE task_id = NEW.task_id)",
}


def _refusals(tag: str) -> str:
    refused = {**_REFUSED, "task_id has the form of generated ids": f"NEW.task_id GLOB '{tag}-[0-9]*-????????'"}
    return "\n".join(f"    SELECT RAISE(ABORT, 'fireforget: {reason}')\n    WHERE {when};\n" for reason, when in refused.items())


# The trigger uses no JSON function: under `trusted_schema=off` they are refused in a view. Payloads are checked when claimed.
# RAISE(ABORT) comes before the INSERT: an outer `INSERT OR REPLACE` would otherwise replace a stored job, since the statements
# of a trigger take over the conflict clause of the statement that fired it.
def _enqueue(tag: str) -> str:
    return f"""
CREATE VIEW fireforget_enqueue AS
SELECT
    type, payload, queue, priority, max_retry, timeout, deadline, due AS process_at, task_id, headers, retention, unique_key,
    unique_until AS unique_for, group_name AS "group"
FROM fireforget_job
WHERE 0;

CREATE TRIGGER fireforget_enqueue_insert INSTEAD OF INSERT ON fireforget_enqueue
BEGIN
{_refusals(tag)}
    UPDATE fireforget_job
    SET unique_key = NULL, unique_until = NULL
    WHERE unique_key = 'key:' || NEW.unique_key
      AND unique_until <= {_NOW}
      AND state <> 3;

    SELECT RAISE(ABORT, 'fireforget: another job holds this unique_key')
    WHERE EXISTS (SELECT 1 FROM fireforget_job WHERE unique_key = 'key:' || NEW.unique_key);

    INSERT INTO fireforget_job (
        nonce, task_id, type, queue, state, priority, due, payload, headers, max_retry, timeout, deadline, retention,
        enqueued_at, unique_key, unique_until, group_name
    )
    VALUES (
        abs(random() % 4294967296),
        NEW.task_id,
        NEW.type,
        coalesce(NEW.queue, '{DEFAULT_QUEUE}'),
        CASE
            WHEN NEW."group" IS NOT NULL THEN 7
            WHEN coalesce(CAST(NEW.process_at AS REAL), 0) <= {_NOW} THEN 2
            ELSE 1
        END,
        coalesce(NEW.priority, 0),
        coalesce(NEW.process_at, {_NOW}),
        NEW.payload,
        NEW.headers,
        coalesce(NEW.max_retry, {DEFAULT_MAX_RETRY}),
        CASE WHEN NEW.timeout IS NULL AND NEW.deadline IS NULL THEN {DEFAULT_TIMEOUT} ELSE NEW.timeout END,
        NEW.deadline,
        coalesce(NEW.retention, 0),
        {_NOW},
        'key:' || NEW.unique_key,
        {_NOW} + NEW.unique_for,
        NEW."group"
    );
END;
"""


def _iso(column: str) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {column}, 'unixepoch') AS {column}_iso"


def _public_id(tag: str, job: str) -> str:
    return f"coalesce({job}.task_id, printf('{tag}-%d-%08x', {job}.n, {job}.nonce))"


# CAST: what is computed has no affinity, and would be smaller than any text, such as strftime('%s') makes of an instant.
def _views(tag: str) -> str:
    states = "\n".join(f"        WHEN {number} THEN '{state}'" for state, number in STATE_NUMBER.items())
    return f"""
CREATE VIEW fireforget_jobs AS
SELECT
    {_public_id(tag, "fireforget_job")} AS id,
    type,
    queue,
    CASE state
{states}
    END AS state,
    payload,
    headers,
    priority,
    retry_count,
    max_retry,
    timeout,
    deadline,
    last_error,
    enqueued_at,
    CAST(CASE WHEN state IN (1, 2, 4) THEN due END AS REAL) AS next_process_at,
    started_at,
    completed_at,
    result,
    progress,
    group_name AS "group",
    (SELECT name FROM fireforget_worker WHERE fireforget_worker.n = fireforget_job.worker) AS worker,
    progress_note,
    {_iso("deadline")},
    {_iso("enqueued_at")},
    CASE WHEN state IN (1, 2, 4) THEN strftime('%Y-%m-%dT%H:%M:%fZ', due, 'unixepoch') END AS next_process_at_iso,
    {_iso("started_at")},
    {_iso("completed_at")}
FROM fireforget_job;

CREATE VIEW fireforget_attempts AS
SELECT
    {_public_id(tag, "job")} AS id,
    attempt.attempt AS attempt,
    attempt.started_at AS started_at,
    attempt.duration AS duration,
    attempt.worker AS worker,
    attempt.error AS error,
    attempt.traceback AS traceback,
    strftime('%Y-%m-%dT%H:%M:%fZ', attempt.started_at, 'unixepoch') AS started_at_iso
FROM fireforget_attempt AS attempt
JOIN fireforget_job AS job ON job.n = attempt.job;
"""


def _create_version_1(connection: sqlite3.Connection) -> None:
    tag = os.urandom(2).hex()
    for script in (_TABLES, _INDEXES, _enqueue(tag), _views(tag)):
        _execute_each(connection, script)
    connection.execute("INSERT INTO fireforget_meta (key, value) VALUES ('tag', :tag)", {"tag": tag})


def _execute_each(connection: sqlite3.Connection, script: str) -> None:
    """Run a script inside the open transaction; `executescript` would commit it first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    assert not statement.strip(), statement


_MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [_create_version_1]
"""`_MIGRATIONS[v]` takes a file from version v to v + 1; version 0 is a file without our tables."""


def read_version(connection: sqlite3.Connection) -> int:
    """Return the version of our schema in the file; 0 when our tables are not there."""
    table = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'fireforget_meta'").fetchone()
    if table is None:
        return 0
    row = connection.execute("SELECT value FROM fireforget_meta WHERE key = 'schema_version'").fetchone()
    return int(row[0]) if row else 0


def expected_objects() -> dict[str, str]:
    """Return the names of all that `VERSION` has in a file, and of which type each is."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, ":memory:")
        return dict(connection.execute("SELECT name, type FROM sqlite_master WHERE name LIKE 'fireforget%'"))


def is_installed(path: str) -> bool:
    """Return whether the file has our tables, and leave it, and what lies beside it, as it is; raises `sqlite3.Error`.

    A connection that only reads would still make a WAL and its index beside a file in WAL mode. Where there is no WAL, nobody
    has the file open in that mode and all of it is in the file itself: `immutable` then keeps SQLite from making them.
    """
    uri = Path(path).as_uri() + "?mode=ro" + ("" if os.path.exists(path + "-wal") else "&immutable=1")
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        return read_version(connection) > 0


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the file to `VERSION` in one transaction; does not write when it is there already.

    Several programs may do it at once: the first one migrates, the others wait and find it done. Raises `SchemaTooNew` for a
    file that a newer fireforget has migrated.
    """
    if _check_version(connection, path) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in _MIGRATIONS[_check_version(connection, path) :]:
            step(connection)
        connection.execute(
            "INSERT OR REPLACE INTO fireforget_meta (key, value) VALUES ('schema_version', :version)", {"version": str(VERSION)}
        )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check_unchanged(connection: sqlite3.Connection, path: str) -> None:
    """Raise `SchemaTooNew` unless the file has our version, for who has had it open; the connection must give plain tuples."""
    row = connection.execute("SELECT value FROM fireforget_meta WHERE key = 'schema_version'").fetchone()
    if row is None or int(row[0]) != VERSION:
        raise SchemaTooNew(path, f"another program migrated it to schema version {row and row[0]}: upgrade this worker")


def _check_version(connection: sqlite3.Connection, path: str) -> int:
    version = read_version(connection)
    if version > VERSION:
        raise SchemaTooNew(
            path,
            f"its schema has version {version}, this fireforget knows {VERSION}: upgrade fireforget, or open the file with the "
            "program that migrated it",
        )
    return version
