"""Jobs that wait for others, from the moment when one of those ends: who is told, who may run, who is let go.

::

    a job ends ─ settled, archived or cancelled by hand, deleted ─► tell: a row of news, in the transaction that ends it
                                                                      │
    spread, right after it in that transaction ◄──────────────────────┘
      completed ───────────────► each that waits for it: one open need less; with none left it is scheduled or pending
      archived, cancelled ─────► each that waits for it ends like it, with the reason, and that is news again; or runs anyway
      run again by hand ───────► each that ended because of it waits for it anew, and that is news again
      succeeded itself, gone ──► the jobs that it has waited for are let go: removed, or kept for their retention from now on

`spread` does a bounded number of rows, so that ten thousand that wait for one job hold up nobody: what is left stays in
`fireforget_news`, and the next transaction of any worker goes on with it. News are taken in the order in which they came, so that
of a job that fails, is run again and completes, others are told in that order.

A job is `linked` as soon as others wait for it or it waits for others; all others never come here. What happens when jobs are
enqueued is in `_graphs`. Each function works on a connection inside an open write transaction, one that gives plain tuples.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from fireforget import _sql

MOST_TOLD = 500
"""Jobs that one transaction tells of others' ends: some milliseconds of the write lock."""

_RELEASED, _REVIVED = 0, 1
_DELETED, _REVOKED = 10, 11
_ENDED = frozenset({_sql.COMPLETED, _sql.ARCHIVED, _sql.CANCELLED})
_WORDS = {_sql.ARCHIVED: "archived", _sql.CANCELLED: "cancelled", _DELETED: "deleted", _REVOKED: "revoked by its handler"}

Fence = tuple[Any, ...]
"""Job number, worker number, claim number."""
Part = tuple[int, ...]
"""Parameters of `remove_settled`: numbers of jobs, then the worker's, then that of the claim."""
Kept = tuple[Any, ...]
"""(began, result, note, n, worker, claim) of a job that succeeded: what is kept of it should others wait for it."""


class Spread(NamedTuple):
    """How far the news are told."""

    unblocked: int
    """Jobs that wait for nothing any more, and so are pending or scheduled."""
    more: bool
    """Whether there are jobs that are still to be told."""


# --- a job ends -----------------------------------------------------------------------------------------------------------


@cache
def linked_left(jobs: int) -> str:
    """Return the statement for the jobs that `_sql.remove_settled` with the same parameters has left."""
    return f"SELECT n, linked, started_at FROM fireforget_job WHERE n IN ({', '.join('?' * jobs)}) AND worker = ? AND claim = ?"


@cache
def linked_among(jobs: int) -> str:
    """Return the statement for those of `jobs` jobs that others wait for, or that have waited for others."""
    return f"SELECT n, state, linked, last_error FROM fireforget_job WHERE n IN ({', '.join('?' * jobs)}) AND linked IS NOT NULL"


REMOVE_LINKED = f"DELETE FROM fireforget_job {_sql.FENCE}"

ANY_DEPENDANT = "SELECT id FROM fireforget_dependency INDEXED BY fireforget_dependants WHERE need = ? LIMIT 1"
HOLD = "UPDATE fireforget_job SET expires_at = NULL WHERE n = ?"

INSERT_NEWS = "INSERT INTO fireforget_news (job, what, reason) VALUES (?, ?, ?)"


def sentence(need: str, how: int, why: str | None) -> str:
    """Return why a job cannot run: `how` the job with the id `need` ended."""
    return f"needed job {need} was {_WORDS[how]}" + (f": {why}" if why else "")


def complete(connection: sqlite3.Connection, part: Part, kept: dict[Fence, Kept], now: float) -> int:
    """Settle those of some jobs that succeeded which `remove_settled` has left; return how many that were.

    One that others wait for is kept, with its result, until they have succeeded or are gone; the others are removed.
    """
    left = connection.execute(linked_left(len(part) - 2), part).fetchall()
    for n, linked, started_at in left:
        fence = (n, *part[-2:])
        if linked & _sql.NEEDED and connection.execute(ANY_DEPENDANT, (n,)).fetchone():
            began, result, note, *_ = kept.get(fence, (started_at, None, None))
            connection.execute(_sql.COMPLETE, (began, now, None, result, note, *fence))
            _tell(connection, n, _sql.COMPLETED)
        else:
            connection.execute(REMOVE_LINKED, fence)
        if linked & _sql.NEEDS:
            _tell(connection, n, _RELEASED)
    return len(left)


def revoke(connection: sqlite3.Connection, part: Part) -> int:
    """Remove those of some jobs that revoked themselves which `remove_settled` has left; return how many that were."""
    left = connection.execute(linked_left(len(part) - 2), part).fetchall()
    for n, linked, _ in left:
        connection.execute(REMOVE_LINKED, (n, *part[-2:]))
        _gone(connection, n, linked, _REVOKED)
    return len(left)


def ended(connection: sqlite3.Connection, numbers: Collection[int]) -> None:
    """Tell of those of some jobs that have ended, as they stand in the table; asked after they may have."""
    for n, (state, linked, error) in _linked(connection, numbers).items():
        if state in _ENDED:
            _ended(connection, n, state, linked, error)


@contextmanager
def noticing(connection: sqlite3.Connection, numbers: Collection[int]) -> Iterator[None]:
    """Tell of what a block does to some jobs: it ends them, deletes them, or has those that ended run again."""
    before = _linked(connection, numbers)
    yield
    if not before:
        return
    after = _linked(connection, before.keys())
    for n, (state, linked, _) in before.items():
        if n not in after:
            _gone(connection, n, linked if state not in _ENDED else linked & ~_sql.NEEDED, _DELETED)
        elif state != after[n][0]:
            now_state, now_linked, error = after[n]
            if now_state in _ENDED:
                _ended(connection, n, now_state, now_linked, error)
            elif state in _ENDED and linked & _sql.NEEDED:
                _tell(connection, n, _REVIVED)


def _linked(connection: sqlite3.Connection, numbers: Collection[int]) -> dict[int, tuple[int, int, str | None]]:
    """Return (state, linked, last error) of those of some jobs that are linked, by number."""
    found: dict[int, tuple[int, int, str | None]] = {}
    for part in _sql.in_parts_by_number(connection, list(numbers)):
        for n, state, linked, error in connection.execute(linked_among(len(part)), part):
            found[n] = state, linked, error
    return found


def _ended(connection: sqlite3.Connection, n: int, state: int, linked: int, error: str | None) -> None:
    any_dependant = connection.execute(ANY_DEPENDANT, (n,)).fetchone() if linked & _sql.NEEDED else None
    if any_dependant is not None:
        if state == _sql.COMPLETED:
            connection.execute(HOLD, (n,))
            _tell(connection, n, _sql.COMPLETED)
        else:
            _tell(connection, n, state, error if linked & _sql.FELL else sentence(any_dependant[0], state, error))
    if linked & _sql.NEEDS and state == _sql.COMPLETED:
        _tell(connection, n, _RELEASED)


def _gone(connection: sqlite3.Connection, n: int, linked: int, how: int) -> None:
    any_dependant = connection.execute(ANY_DEPENDANT, (n,)).fetchone() if linked & _sql.NEEDED else None
    if any_dependant is not None:
        _tell(connection, n, how, sentence(any_dependant[0], how, None))
    if linked & _sql.NEEDS:
        _tell(connection, n, _RELEASED)


def _tell(connection: sqlite3.Connection, n: int, what: int, reason: str | None = None) -> None:
    connection.execute(INSERT_NEWS, (n, what, reason))


# --- telling others -------------------------------------------------------------------------------------------------------


FIRST_NEWS = "SELECT n, job, what, reason FROM fireforget_news ORDER BY n LIMIT 1"
DELETE_NEWS = "DELETE FROM fireforget_news WHERE n = ?"
HAS_NEWS = "SELECT EXISTS (SELECT 1 FROM fireforget_news)"

OPEN_DEPENDANTS = """
SELECT dependency.job, coalesce(job.linked, 0)
FROM fireforget_dependency AS dependency INDEXED BY fireforget_dependants
LEFT JOIN fireforget_job AS job ON job.n = dependency.job
WHERE dependency.need = ? AND dependency.outcome IS NULL
LIMIT ?
"""

SET_OUTCOME = "UPDATE fireforget_dependency SET outcome = ?, reason = ? WHERE job = ? AND need = ?"

# Due from now on, and not since it was enqueued: it could not have run before.
UNBLOCK = f"""
UPDATE fireforget_job
SET state = CASE WHEN due <= :now THEN {_sql.PENDING} ELSE {_sql.SCHEDULED} END, due = max(due, :now)
WHERE n = :n
  AND state = {_sql.BLOCKED}
  AND NOT EXISTS (
    SELECT 1
    FROM fireforget_dependency INDEXED BY fireforget_open_need
    WHERE job = :n AND outcome IS NULL
  )
"""

FALL = f"""
UPDATE fireforget_job
SET state = :state, completed_at = :now, last_error = :reason, unique_key = {_sql.RELEASED_KEY}, linked = linked | {_sql.FELL}
WHERE n = :n AND state = {_sql.BLOCKED} AND linked & {_sql.RUNS_ANYWAY} = 0
"""

# Those that still wait, and those that ended, most of them because of it; the others have run without it, or are to.
FAILED_DEPENDANTS = f"""
SELECT dependency.job, job.linked
FROM fireforget_dependency AS dependency INDEXED BY fireforget_dependants
JOIN fireforget_job AS job ON job.n = dependency.job
WHERE dependency.need = ? AND dependency.outcome > {_sql.COMPLETED}
  AND job.state IN ({_sql.BLOCKED}, {_sql.ARCHIVED}, {_sql.CANCELLED})
LIMIT ?
"""

# Its unique key is taken again if it is still free; nobody is there to be told that it is not.
RISE = f"""
UPDATE fireforget_job
SET state = {_sql.BLOCKED}, completed_at = NULL, last_error = NULL, linked = linked & ~{_sql.FELL},
    unique_key = CASE
        WHEN unique_until > :now AND NOT EXISTS (
            SELECT 1 FROM fireforget_job AS holder WHERE holder.unique_key = substr(fireforget_job.unique_key, :skip)
        ) THEN substr(unique_key, :skip)
        ELSE unique_key
    END
WHERE n = :n
  AND state IN ({_sql.ARCHIVED}, {_sql.CANCELLED})
  AND linked & {_sql.FELL}
  AND NOT EXISTS (
    SELECT 1
    FROM fireforget_dependency INDEXED BY fireforget_failed_need
    WHERE job = :n AND outcome > {_sql.COMPLETED}
  )
"""

NEEDS_OF = "SELECT need FROM fireforget_dependency WHERE job = ? LIMIT ?"
DELETE_DEPENDENCY = "DELETE FROM fireforget_dependency WHERE job = ? AND need = ?"

_RELEASED_NEED = f"""
WHERE n = :n
  AND state = {_sql.COMPLETED}
  AND expires_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM fireforget_dependency INDEXED BY fireforget_dependants WHERE need = :n)
"""
REMOVE_RELEASED = f"DELETE FROM fireforget_job {_RELEASED_NEED} AND completed_at + retention <= :now"
EXPIRE_RELEASED = f"UPDATE fireforget_job SET expires_at = completed_at + retention {_RELEASED_NEED}"


def spread(connection: sqlite3.Connection, now: float, most: int = MOST_TOLD) -> Spread:
    """Tell up to `most` jobs what has become of others, and do what follows from it."""
    unblocked = 0
    while most > 0:
        news = connection.execute(FIRST_NEWS).fetchone()
        if news is None:
            return Spread(unblocked, more=False)
        number, n, what, reason = news
        told, freed = _tell_some(connection, n, what, reason, now, most)
        if told < most:
            connection.execute(DELETE_NEWS, (number,))
        unblocked += freed
        most -= max(told, 1)
    return Spread(unblocked, has_news(connection))


def has_news(connection: sqlite3.Connection) -> bool:
    """Return whether jobs are still to be told; a read alone."""
    return bool(connection.execute(HAS_NEWS).fetchone()[0])


def _tell_some(connection: sqlite3.Connection, n: int, what: int, reason: str | None, now: float, most: int) -> tuple[int, int]:
    """Return how many jobs were told one piece of news, and how many of them are unblocked."""
    if what == _RELEASED:
        return _let_go(connection, n, now, most), 0
    if what == _REVIVED:
        return _revive(connection, n, now, most), 0
    waiting = connection.execute(OPEN_DEPENDANTS, (n, most)).fetchall()
    outcome = _sql.CANCELLED if what in (_DELETED, _REVOKED) else what
    connection.executemany(SET_OUTCOME, [(outcome, reason, job, n) for job, _ in waiting])
    if outcome != _sql.COMPLETED:
        for job, linked in waiting:
            fell = connection.execute(FALL, {"n": job, "state": outcome, "now": now, "reason": reason}).rowcount
            if fell and linked & _sql.NEEDED:
                _tell(connection, job, outcome, reason)
    return len(waiting), _unblock(connection, [job for job, _ in waiting], now)


def _unblock(connection: sqlite3.Connection, jobs: Sequence[int], now: float) -> int:
    return connection.executemany(UNBLOCK, [{"n": job, "now": now} for job in jobs]).rowcount if jobs else 0


def _revive(connection: sqlite3.Connection, n: int, now: float, most: int) -> int:
    """Have jobs that ended because of this one wait for it anew."""
    failed = connection.execute(FAILED_DEPENDANTS, (n, most)).fetchall()
    connection.executemany(SET_OUTCOME, [(None, None, job, n) for job, _ in failed])
    for job, linked in failed:
        skip = len(_sql.RELEASED) + len(str(job)) + 2
        rose = connection.execute(RISE, {"n": job, "now": now, "skip": skip}).rowcount
        if rose and linked & _sql.NEEDED:
            _tell(connection, job, _REVIVED)
    return len(failed)


def _let_go(connection: sqlite3.Connection, job: int, now: float, most: int) -> int:
    """Let the jobs go that this one has waited for, unless others wait for them as well."""
    needs = [need for (need,) in connection.execute(NEEDS_OF, (job, most))]
    connection.executemany(DELETE_DEPENDENCY, [(job, need) for need in needs])
    for need in needs:
        removed = connection.execute(REMOVE_RELEASED, {"n": need, "now": now}).rowcount
        if removed:
            connection.execute(_sql.DELETE_ATTEMPTS, (need,))
            connection.execute(_sql.DELETE_STEPS, (need,))
        else:
            connection.execute(EXPIRE_RELEASED, {"n": need})
    return len(needs)


# --- what is seen of it -----------------------------------------------------------------------------------------------

WAITS_FOR = """
SELECT dependency.id, dependency.outcome, dependency.reason, job.state, job.result
FROM fireforget_dependency AS dependency
LEFT JOIN fireforget_job AS job ON job.n = dependency.need
WHERE dependency.job = :n
ORDER BY dependency.place
"""

WAITED_FOR_BY = """
SELECT job.n, job.nonce, job.task_id, job.state
FROM fireforget_dependency AS dependency INDEXED BY fireforget_dependants
JOIN fireforget_job AS job ON job.n = dependency.job
WHERE dependency.need = :n
ORDER BY job.n
LIMIT :most
"""
