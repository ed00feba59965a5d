"""New rows: how jobs get into the table, inside a transaction that somebody else has opened and commits.

Rows alike in what is rare go in by a few statements of many rows; only where one is refused, or has a unique key, does each go by
itself, so that the error can say which it was.
"""

import os
import sqlite3
from itertools import chain
from operator import itemgetter
from typing import Any

from fireforget import _graphs, _sql
from fireforget._claimed import public_id
from fireforget._rows import Row, parse_generated, plain_cursor, tag_of
from fireforget.errors import DuplicateTask, FireforgetError, TaskIDConflict

_values_of = itemgetter(*_sql.INSERTED_COLUMNS)
_plain_values_of = itemgetter(*_sql.PLAIN_COLUMNS)
_rare_values_of = itemgetter(*_sql.RARE_COLUMNS)
_NOTHING_RARE = (None,) * len(_sql.RARE_COLUMNS)
_INSERTED_TOGETHER = (50, 10, 1)
"""Rows that one statement inserts: a few sizes, so that the statements stay prepared."""


def insert_one(connection: sqlite3.Connection, row: Row) -> int:
    """Insert one job and return its number; raises as `insert_all` does."""
    return insert_all(connection, [row]) if row["linked"] is not None else _insert_row(connection, row)


def insert_all(connection: sqlite3.Connection, rows: list[Row]) -> int:
    """Insert the rows inside the open transaction and return the number of the first; the others follow it without a gap.

    Raises `TaskIDConflict`, `DuplicateTask`, and what is wrong with `after` (`_graphs.resolve`), with the row's position in
    `index`.
    """
    plain = all(row["unique_key"] is None and row["linked"] is None for row in rows)
    if plain or all(row["linked"] is None for row in rows):
        return _insert_rows(connection, rows, apart=not plain)
    tag = tag_of(connection)
    cursor: Any = plain_cursor(connection)
    _graphs.resolve(cursor, rows, lambda job_id: parse_generated(job_id, tag))
    first = _insert_rows(connection, rows, apart=any(row["unique_key"] is not None for row in rows))
    _graphs.link(cursor, rows, first, lambda n, nonce: public_id(tag, n, nonce))
    return first


def _insert_rows(connection: sqlite3.Connection, rows: list[Row], *, apart: bool) -> int:
    if len(rows) > 1 and not apart:
        connection.execute("SAVEPOINT rows")
        try:
            _insert_each(connection, rows)
            connection.execute("RELEASE rows")
            last: int = plain_cursor(connection).execute(_sql.LAST_JOB_NUMBER).fetchone()[0]
            return last - len(rows) + 1
        except sqlite3.IntegrityError:  # one by one, to learn which it was
            connection.execute("ROLLBACK TO rows")
            connection.execute("RELEASE rows")
    numbers = []
    for index, row in enumerate(rows):
        try:
            numbers.append(_insert_row(connection, row))
        except FireforgetError as error:
            error.index = index
            raise
    return numbers[0]


def _insert_each(connection: sqlite3.Connection, rows: list[Row]) -> None:
    if any(_rare_values_of(row) != _NOTHING_RARE for row in rows):
        connection.executemany(_sql.INSERT_JOB, map(_values_of, rows))
        return
    for part in _sql.in_parts(rows, _INSERTED_TOGETHER):
        connection.execute(_sql.insert_plain(len(part)), list(chain.from_iterable(map(_plain_values_of, part))))


def _insert_row(connection: sqlite3.Connection, row: Row) -> int:
    if row["unique_key"] is not None:
        connection.execute(_sql.RELEASE_EXPIRED_KEY, {"unique_key": row["unique_key"], "now": row["enqueued_at"]})
    try:
        if _rare_values_of(row) == _NOTHING_RARE:
            # An INSERT has one.
            return connection.execute(_sql.insert_plain(1), _plain_values_of(row)).lastrowid  # type: ignore[return-value]
        return connection.execute(_sql.INSERT_JOB, _values_of(row)).lastrowid  # type: ignore[return-value]  # as above
    except sqlite3.IntegrityError as error:
        if "fireforget_job.task_id" in str(error):
            raise TaskIDConflict(row["task_id"]) from None
        if "fireforget_job.unique_key" in str(error):
            raise duplicate_of(connection, row["unique_key"]) from None
        raise


def duplicate_of(connection: sqlite3.Connection, unique_key: str) -> DuplicateTask:
    """Return the error that names the job which has a unique key."""
    holder = plain_cursor(connection).execute(_sql.HOLDER_OF_KEY, {"unique_key": unique_key}).fetchone()
    existing = None
    if holder is not None:
        n, nonce, task_id = holder
        existing = public_id(tag_of(connection), n, nonce) if task_id is None else os.fsdecode(task_id)
    return DuplicateTask(unique_key.partition(":")[2], existing)
