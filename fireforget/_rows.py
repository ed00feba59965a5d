"""A job as a row: what identifies it, what is stored of a new one, and what a caller sees of a stored one.

::

    id ─ parse_generated ─► number, nonce ─ find_job ─► row of `_sql.JOB_COLUMNS` ─ info_of ─► TaskInfo
    `Row`, a new job ─ `_inserting` ─► number ─ fields_of_new ─► TaskInfo
"""

import json
import os
import sqlite3
from typing import Any

from fireforget import _sql
from fireforget import payload as json_payload
from fireforget._claimed import public_id
from fireforget._schema import STATE_OF_NUMBER
from fireforget.clock import to_datetime
from fireforget.errors import InvalidOption, UnknownJob
from fireforget.task import Progress, State, TaskInfo

Row = dict[str, Any]
"""A job to be stored, by column (`_sql.INSERTED_COLUMNS`)."""


def tag_of(connection: sqlite3.Connection) -> str:
    """Return what stands in every id that a database generates."""
    return os.fsdecode(plain_cursor(connection).execute(_sql.TAG).fetchone()[0])


def plain_cursor(connection: sqlite3.Connection) -> sqlite3.Cursor:
    """Return a cursor that gives tuples, whatever rows the caller's connection makes; its texts may still be bytes."""
    cursor = connection.cursor()
    cursor.row_factory = None
    return cursor


def parse_generated(job_id: str, tag: str) -> tuple[int, int] | None:
    """Return (number, nonce) of an id that this file generates, None for any other text; raises `InvalidOption` for no text."""
    if not isinstance(job_id, str):
        raise InvalidOption("job_id", job_id, "give the id of a job, which is text, such as info.id")
    parts = job_id.split("-")
    if len(parts) != 3 or parts[0] != tag or len(parts[2]) != 8:
        return None
    try:
        n, nonce = int(parts[1]), int(parts[2], 16)
    except ValueError:
        return None
    return (n, nonce) if public_id(tag, n, nonce) == job_id and 0 < n < 2**63 else None


def unique_key_of(key: str | None, queue: str, type: str, payload: str | None) -> str:
    """Return what the unique index holds: the caller's key, or a digest of queue, type and payload.

    The order in which a payload's members were written makes no difference.
    """
    if key is not None:
        return "key:" + key
    if payload is not None:
        payload = json.dumps(json_payload.decode(payload), sort_keys=True)
    from hashlib import blake2b  # here, since importing it takes a producer 3 ms

    digest = blake2b(digest_size=20)
    for part in (queue, type, payload or ""):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return "job:" + digest.hexdigest()


def find_job(connection: sqlite3.Connection, job_id: str, tag: str) -> tuple[Any, ...] | None:
    """Return the row (`_sql.JOB_COLUMNS`) of the job with this id, None when none is stored."""
    generated = parse_generated(job_id, tag)
    if generated is not None:
        cursor = connection.execute(_sql.JOB_BY_NUMBER, {"n": generated[0], "nonce": generated[1]})
    else:
        cursor = connection.execute(_sql.JOB_BY_TASK_ID, {"task_id": job_id})
    row: tuple[Any, ...] | None = cursor.fetchone()
    return row


def get_job(connection: sqlite3.Connection, job_id: str, tag: str) -> tuple[Any, ...]:
    """Return the row (`_sql.JOB_COLUMNS`) of the job with this id; raises `UnknownJob`."""
    row = find_job(connection, job_id, tag)
    if row is None:
        raise UnknownJob(job_id)
    return row


def fields_of_new(row: Row, n: int, tag: str) -> dict[str, Any]:
    """Return the fields of the `TaskInfo` of a job that has just been stored."""
    return {
        "id": row["task_id"] or public_id(tag, n, row["nonce"]),
        "type": row["type"],
        "queue": row["queue"],
        "state": STATE_OF_NUMBER[row["state"]],
        "payload": json_payload.decode(row["payload"]),
        "headers": json_payload.decode(row["headers"]) or {},
        "priority": row["priority"],
        "retry_count": 0,
        "max_retry": row["max_retry"],
        "timeout": row["timeout"],
        "deadline": to_datetime(row["deadline"]),
        "last_error": row.get("last_error"),
        "enqueued_at": to_datetime(row["enqueued_at"]),
        "next_process_at": to_datetime(row["due"]) if row["state"] in (_sql.PENDING, _sql.SCHEDULED) else None,
        "started_at": None,
        "completed_at": to_datetime(row.get("completed_at")),
        "result": None,
        "progress": None,
        "group": row["group_name"],
        "worker": None,
    }


def info_of(row: tuple[Any, ...], tag: str) -> TaskInfo:
    """Return the `TaskInfo` of a row of `_sql.JOB_COLUMNS`."""
    return TaskInfo._when_read(_fields_of, row, tag)


def _fields_of(row: tuple[Any, ...], tag: str) -> dict[str, Any]:
    (n, nonce, task_id, type, queue, state_number, payload, headers, priority, retry_count, max_retry, timeout, deadline,
     last_error, enqueued_at, due, started_at, completed_at, result, progress, note, group, worker) = row  # fmt: skip
    state = STATE_OF_NUMBER[state_number]
    waits = state in (State.SCHEDULED, State.PENDING, State.RETRY)
    return {
        "id": task_id or public_id(tag, n, nonce),
        "type": type,
        "queue": queue,
        "state": state,
        "payload": json_payload.decode_leniently(payload),
        "headers": json_payload.headers_of(headers),
        "priority": priority,
        "retry_count": retry_count,
        "max_retry": max_retry,
        "timeout": timeout,
        "deadline": to_datetime(deadline),
        "last_error": last_error,
        "enqueued_at": to_datetime(enqueued_at),
        "next_process_at": to_datetime(due) if waits else None,
        "started_at": to_datetime(started_at),
        "completed_at": to_datetime(completed_at),
        "result": json_payload.decode_leniently(result),
        "progress": None if progress is None else Progress(progress, note),
        "group": group,
        "worker": worker,
    }
