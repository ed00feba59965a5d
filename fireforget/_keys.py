"""The store's side of idempotent handlers: keys that are taken, kept with a result, or given up.

A key belongs to the job that took it, and for no longer than that job is active: only then can a process of it be at work. So a
killed child or worker leaves nothing taken: once its job is in retry, pending or gone, the key is free for the next one, and for
the job itself at any time. The token is the fence: whoever has lost the key changes nothing any more.

Each function works on a connection inside an open write transaction, `changing` opens one.
"""

import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from fireforget import _db, _sql
from fireforget._rows import parse_generated, tag_of
from fireforget.queue_sqlite import DEFAULT_WAIT, transaction

_MOST_EXPIRED = 100
"""Expired keys that are removed whenever one is taken: more than can be added, so that they do not pile up."""


class Key(NamedTuple):
    """What a handler's call stands for, apart for each type of task."""

    type: str
    key: str


class Ours(NamedTuple):
    """The key is taken by this job."""

    token: int


class Done(NamedTuple):
    """What the key stands for was done, with this result as JSON text."""

    result: str | None


class Held(NamedTuple):
    """Another job that is active has the key, for so many seconds by now."""

    seconds: float


# A key is free when nobody has it, when what it stood for has expired, and when the job that took it is not active: an active
# job's process may still be running, and no other's is. The token is the fence: it is another each time the key is taken.
_HELD = f"EXISTS (SELECT 1 FROM fireforget_job WHERE n = owner AND state = {_sql.ACTIVE})"

# A few at a time, in passing; a key never expires under a running job.
EXPIRED_KEYS = f"""
SELECT rowid
FROM fireforget_idempotency INDEXED BY fireforget_idempotency_expiry
WHERE expires_at <= :now AND NOT {_HELD}
LIMIT :most
"""
REMOVE_KEY = "DELETE FROM fireforget_idempotency WHERE rowid = ?"

LOOK_AT_KEY = f"""
SELECT owner, taken_at, expires_at, result, {_HELD}
FROM fireforget_idempotency
WHERE type = :type AND key = :key
"""

TAKE_KEY = """
INSERT OR REPLACE INTO fireforget_idempotency (type, key, token, owner, taken_at, expires_at)
VALUES (:type, :key, :token, :owner, :now, :expires_at)
"""

_OUR_KEY = "type = :type AND key = :key AND token = :token"
KEEP_KEY = f"UPDATE fireforget_idempotency SET owner = NULL, result = :result, expires_at = :expires_at WHERE {_OUR_KEY}"
RELEASE_KEY = f"DELETE FROM fireforget_idempotency WHERE {_OUR_KEY}"

NUMBER_OF_TASK_ID = "SELECT n FROM fireforget_job WHERE task_id = :task_id"


def take(connection: sqlite3.Connection, key: Key, job_id: str, ttl: float, now: float) -> Ours | Done | Held:
    """Take a key for a job, unless what it stands for is done or another job is at it."""
    connection.executemany(REMOVE_KEY, connection.execute(EXPIRED_KEYS, {"now": now, "most": _MOST_EXPIRED}).fetchall())
    owner = _number_of(connection, job_id)
    found = connection.execute(LOOK_AT_KEY, key._asdict()).fetchone()
    if found is not None:
        holder, taken_at, expires_at, result, is_active = found
        if holder is None and expires_at > now:
            return Done(result)
        if is_active and holder != owner:
            return Held(max(0.0, now - taken_at))
    token = random.getrandbits(62)
    taken = {**key._asdict(), "token": token, "owner": owner, "now": now, "expires_at": now + ttl}
    connection.execute(TAKE_KEY, taken)
    return Ours(token)


def keep(connection: sqlite3.Connection, key: Key, token: int, result: str | None, expires_at: float) -> bool:
    """Mark a key as done until `expires_at`, with a result as JSON text; return whether it was still ours."""
    kept = {**key._asdict(), "token": token, "result": result, "expires_at": expires_at}
    return connection.execute(KEEP_KEY, kept).rowcount > 0


def release(connection: sqlite3.Connection, key: Key, token: int) -> None:
    """Give a key up, if it still is ours."""
    connection.execute(RELEASE_KEY, {**key._asdict(), "token": token})


def _number_of(connection: sqlite3.Connection, job_id: str) -> int:
    """Return the number of a job's row; 0, which nobody has, for one that is not stored."""
    generated = parse_generated(job_id, tag_of(connection))
    if generated is not None:
        return generated[0]
    row = connection.execute(NUMBER_OF_TASK_ID, {"task_id": job_id}).fetchone()
    return 0 if row is None else int(row[0])


@contextmanager
def changing(database: _db.Database) -> Iterator[sqlite3.Connection]:
    """Run a block in one write transaction; raises `StoreError`s, and then nothing of it happened.

    In a transactional handler that is the handler's own, which nobody else could write beside.
    """
    inside = transaction.get(None)
    if inside is not None and inside.takes(database.path):
        with inside.changing() as connection:
            yield connection
        return
    with _db.changing(database, DEFAULT_WAIT) as connection:
        yield connection
    database.check_identity()
