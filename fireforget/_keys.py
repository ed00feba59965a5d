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
from fireforget.queue_sqlite import DEFAULT_WAIT, _parse_generated, tag_of, transaction

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


def take(connection: sqlite3.Connection, key: Key, job_id: str, ttl: float, now: float) -> Ours | Done | Held:
    """Take a key for a job, unless what it stands for is done or another job is at it."""
    connection.execute(_sql.REMOVE_EXPIRED_KEYS, {"now": now, "most": _MOST_EXPIRED})
    owner = _number_of(connection, job_id)
    found = connection.execute(_sql.LOOK_AT_KEY, key._asdict()).fetchone()
    if found is not None:
        holder, taken_at, expires_at, result, is_active = found
        if holder is None and expires_at > now:
            return Done(result)
        if is_active and holder != owner:
            return Held(max(0.0, now - taken_at))
    token = random.getrandbits(62)
    taken = {**key._asdict(), "token": token, "owner": owner, "now": now, "expires_at": now + ttl}
    connection.execute(_sql.TAKE_KEY, taken)
    return Ours(token)


def keep(connection: sqlite3.Connection, key: Key, token: int, result: str | None, expires_at: float) -> bool:
    """Mark a key as done until `expires_at`, with a result as JSON text; return whether it was still ours."""
    kept = {**key._asdict(), "token": token, "result": result, "expires_at": expires_at}
    return connection.execute(_sql.KEEP_KEY, kept).rowcount > 0


def release(connection: sqlite3.Connection, key: Key, token: int) -> None:
    """Give a key up, if it still is ours."""
    connection.execute(_sql.RELEASE_KEY, {**key._asdict(), "token": token})


def _number_of(connection: sqlite3.Connection, job_id: str) -> int:
    """Return the number of a job's row; 0, which nobody has, for one that is not stored."""
    generated = _parse_generated(job_id, tag_of(connection))
    if generated is not None:
        return generated[0]
    row = connection.execute(_sql.NUMBER_OF_TASK_ID, {"task_id": job_id}).fetchone()
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
    with _db.translated(database.path), _db.begun(database, DEFAULT_WAIT) as connection:
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            _db.rollback(connection)
            raise
    database.check_identity()
