"""Jobs that wait for others, when they are enqueued: which jobs those are, how they stand, and what is stored of it.

A row (`_rows.Row`) has in `after` what its job needs: ids, and positions of other rows of the same call. `resolve` comes
before the rows are inserted and only reads, so that what is wrong is known before anything is written; `link` comes after it, in
the same write transaction. So a job that ends at this moment has ended before, or finds that it is needed (`_dependencies`).
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from fireforget import _sql
from fireforget._dependencies import sentence
from fireforget.errors import InvalidOption, UnknownJob
from fireforget.task import Task

Row = dict[str, Any]
Parse = Callable[[str], tuple[int, int] | None]
"""Returns number and nonce of an id that the file generates, None for any other text."""

_FAILED = (_sql.ARCHIVED, _sql.CANCELLED)
_MOST_NAMED = 20


class Need(NamedTuple):
    """A job that a row's job needs."""

    number: int
    """Its number; its position where it is stored by the same call."""
    is_inside: bool
    id: str
    outcome: int | None
    """The state in which it has ended; None while it has not."""
    reason: str | None
    """Why it has failed, if it has."""


def resolve(connection: sqlite3.Connection, rows: Sequence[Row], parse: Parse) -> None:
    """Find what the rows need, and set the state with which each is stored.

    Raises `UnknownJob` for an id that was never issued, `InvalidOption` for a circle and for a member of a group; both with the
    row's position in `index`.
    """
    own = {row["task_id"]: position for position, row in enumerate(rows) if row["task_id"] is not None}
    inside = {position: _inside(row, own) for position, row in enumerate(rows) if "after" in row}
    for position in _in_order(rows, inside):
        try:
            _resolve_one(connection, rows, position, own, parse)
        except (UnknownJob, InvalidOption) as error:
            error.index = position
            raise


def _inside(row: Row, own: dict[str, int]) -> list[int]:
    """Return the positions of the rows that a row's job needs."""
    if any(isinstance(need, Task) for need in row["after"]):
        raise InvalidOption("after", row["after"], "this task is not among those of this call: give the id of its job")
    return [own[need] if isinstance(need, str) else need for need in row["after"] if not isinstance(need, str) or need in own]


def _in_order(rows: Sequence[Row], inside: dict[int, list[int]]) -> Iterable[int]:
    """Return the positions of the rows that need others, each behind those that it needs; raises `InvalidOption` for a circle."""
    if not any(inside.values()):
        return inside
    from graphlib import CycleError, TopologicalSorter  # for graphs alone

    try:
        order = list(TopologicalSorter(inside).static_order())
    except CycleError as error:
        circle = error.args[1][::-1]
        names = [f"{rows[position]['task_id'] or rows[position]['type']!r} (task {position})" for position in circle]
        if len(names) > _MOST_NAMED:
            names[_MOST_NAMED // 2 : -_MOST_NAMED // 2] = ["..."]
        refused = InvalidOption("after", rows[circle[0]]["after"], "a circle: " + ", which waits for ".join(names))
        refused.index = circle[0]
        raise refused from None
    return [position for position in order if position in inside]


def _resolve_one(connection: sqlite3.Connection, rows: Sequence[Row], position: int, own: dict[str, int], parse: Parse) -> None:
    row = rows[position]
    needs: dict[tuple[bool, int], Need] = {}
    for each in row["after"]:
        at = own.get(each) if isinstance(each, str) else each
        need = _stored(connection, each, parse) if at is None else _beside(rows, at)
        needs.setdefault((need.is_inside, need.number), need)
    row["needs"] = list(needs.values())
    row["linked"] = (row["linked"] & ~_sql.FELL) | _sql.NEEDS
    row["last_error"] = row["completed_at"] = None
    failed = next((need for need in row["needs"] if need.outcome in _FAILED), None)
    if failed is not None and not row["linked"] & _sql.RUNS_ANYWAY:
        row["state"], row["linked"] = failed.outcome, row["linked"] | _sql.FELL
        row["last_error"], row["completed_at"] = failed.reason, row["enqueued_at"]
    elif any(need.outcome is None for need in row["needs"]):
        row["state"] = _sql.BLOCKED
    else:
        row["state"] = _sql.PENDING if row["due"] <= row["enqueued_at"] else _sql.SCHEDULED


def _beside(rows: Sequence[Row], position: int) -> Need:
    """Return a need that is stored by the same call."""
    row = rows[position]
    name = row["task_id"] or row["type"]
    if row["group_name"] is not None:
        raise _grouped(name)
    row["linked"] = (row["linked"] or 0) | _sql.NEEDED
    if row["state"] in _FAILED:
        return Need(position, True, name, row["state"], row["last_error"])
    return Need(position, True, name, None, None)


NEED_BY_NUMBER = "SELECT n, nonce, task_id, state, linked, last_error FROM fireforget_job WHERE n = ?"
NEED_BY_TASK_ID = "SELECT n, nonce, task_id, state, linked, last_error FROM fireforget_job WHERE task_id = ?"


def _stored(connection: sqlite3.Connection, job_id: str, parse: Parse) -> Need:
    """Return a need that was stored before; one that is gone counts as completed."""
    generated = parse(job_id)
    if generated is None:
        found = connection.execute(NEED_BY_TASK_ID, (job_id,)).fetchone()
        if found is None:
            raise UnknownJob(job_id)
    else:
        found = connection.execute(NEED_BY_NUMBER, generated[:1]).fetchone()
        if found is None:
            last = connection.execute(_sql.LAST_JOB_NUMBER).fetchone()
            if last is None or generated[0] > last[0]:
                raise UnknownJob(job_id)
            return Need(generated[0], False, job_id, _sql.COMPLETED, None)
        if found[1] != generated[1] or found[2] is not None:  # an id that a rollback took back, or a made up one
            raise UnknownJob(job_id)
    n, _, _, state, linked, error = found
    if state == _sql.AGGREGATING:
        raise _grouped(job_id)
    if state in _FAILED:
        text = error.decode("utf-8", "replace") if isinstance(error, bytes) else error
        fell = linked is not None and linked & _sql.FELL
        return Need(n, False, job_id, state, text if fell else sentence(job_id, state, text))
    return Need(n, False, job_id, state if state == _sql.COMPLETED else None, None)


def _grouped(name: str) -> InvalidOption:
    return InvalidOption("after", name, "it is a member of a group, and becomes a part of another task: nobody can wait for it")


INSERT_DEPENDENCY = """
INSERT INTO fireforget_dependency (job, need, place, id, outcome, reason)
VALUES (?, ?, ?, ?, ?, ?)
"""

# A completed job that is about to expire is kept for the one that now waits for it, with its result.
MARK_NEEDED = f"""
UPDATE fireforget_job
SET linked = coalesce(linked, 0) | {_sql.NEEDED}, expires_at = NULL
WHERE n = ? AND (coalesce(linked, 0) & {_sql.NEEDED} = 0 OR expires_at IS NOT NULL)
"""

# Of a job that was enqueued after one that has failed already.
FALL_AT_ONCE = f"UPDATE fireforget_job SET completed_at = ?, last_error = ?, unique_key = {_sql.RELEASED_KEY} WHERE n = ?"


def link(connection: sqlite3.Connection, rows: Sequence[Row], first: int, public_id: Callable[[int, int], str]) -> None:
    """Store what rows need that were inserted with consecutive numbers from `first` on."""
    dependencies, marked, fallen = [], [], []
    for n, row in enumerate(rows, first):
        for place, need in enumerate(row.get("needs", ())):
            number, name = need.number, need.id
            if need.is_inside:
                number += first
                beside = rows[need.number]
                name = beside["task_id"] or public_id(number, beside["nonce"])
            else:
                marked.append((number,))
            dependencies.append((n, number, place, name, need.outcome, need.reason))
        if row["state"] in _FAILED:
            fallen.append((row["completed_at"], row["last_error"], n))
    connection.executemany(INSERT_DEPENDENCY, dependencies)
    connection.executemany(MARK_NEEDED, marked)
    connection.executemany(FALL_AT_ONCE, fallen)
