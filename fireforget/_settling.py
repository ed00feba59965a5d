"""What became of jobs, and how it is written down: by the statement of each end, and fenced, so that who comes too late changes
nothing.

A turn of a worker settles many jobs at once (`_claims`); a job whose own transaction settles it is alone (`_effects`).
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fireforget import _dependencies, _sql

Fence = tuple[int, int, int]
"""Job number, worker number, claim number: a settling statement that does not find this row settles nothing."""


@dataclass
class Settlement:
    """What became of the jobs that ended since the last transaction: parameters for the statements of `_sql`, fence last.

    Instants are in Unix seconds.
    """

    removed: list[Fence] = field(default_factory=list)
    """Jobs that succeeded and need not be kept."""
    kept: list[_dependencies.Kept] = field(default_factory=list)
    """What those have to keep that others turn out to wait for."""
    revoked: list[Fence] = field(default_factory=list)
    """Jobs whose handler wants them removed."""
    completed: list[tuple[Any, ...]] = field(default_factory=list)
    """Jobs that succeeded and are kept: started at, completed at, expires at, result or None, a note on it or None."""
    retried: list[tuple[Any, ...]] = field(default_factory=list)
    """Jobs that are tried again: due at, attempts that the run has cost (0 or 1), error or None for the last one, now."""
    archived: list[tuple[Any, ...]] = field(default_factory=list)
    """Jobs that have failed for good: now, error."""
    cancelled: list[tuple[Any, ...]] = field(default_factory=list)
    """Jobs that were cancelled while they ran: now, error."""
    late: list[Fence] = field(default_factory=list)
    """Jobs among those that go back because they did not start in time (`_limited`)."""
    given_back: list[Fence] = field(default_factory=list)
    """Jobs among those that go back whose start counted towards a rate, and which have not started."""
    put_back: list[Fence] = field(default_factory=list)
    """Jobs that go back as they were, no attempt counted."""
    results: list[tuple[Any, ...]] = field(default_factory=list)
    """What handlers have written while they run: the result as JSON text."""
    progress: list[tuple[Any, ...]] = field(default_factory=list)
    """What handlers say while they run: a fraction from 0 to 1, a note or None."""
    attempts: list[tuple[Any, ...]] = field(default_factory=list)
    """Runs that failed: began at, duration, error, traceback or None."""
    forgotten: list[tuple[int]] = field(default_factory=list)
    """Numbers of removed jobs whose attempts and steps go with them."""
    hooks: list[tuple[Any, ...]] = field(default_factory=list)
    """Calls of hooks about what the others settle: the hook's name, whose it is, the error or reason. Last, since they look."""

    def __bool__(self) -> bool:
        return any(vars(self).values())


def settle_together(connection: sqlite3.Connection, s: Settlement, now: float) -> int:
    """Write down what became of jobs, inside the open transaction of whoever may say so; return how many came too late.

    The supervisor says it of all jobs but those whose own transaction settles them (`_effects`). What others are to be told of
    it is news afterwards: `_dependencies.spread` tells them.
    """
    run = connection.executemany
    late, left = _remove(connection, s.removed)
    missing, revoked = _remove(connection, s.revoked)
    late += missing
    ended: list[int] = []
    if s.attempts:  # before the others: the statement finds the worker's name through the row's owner
        run(_sql.INSERT_ATTEMPT, s.attempts)
    if s.results:
        run(_sql.WRITE_RESULT, s.results)
    if s.progress:
        run(_sql.WRITE_PROGRESS, s.progress)
    for statement, rows in (
        (_sql.COMPLETE, s.completed),
        (_sql.RETRY_LATER, s.retried),
        (_sql.ARCHIVE, s.archived),
        (_sql.CANCEL_ACTIVE, s.cancelled),
        (_sql.PUT_BACK, s.put_back),
    ):
        if rows:
            late += len(rows) - run(statement, rows).rowcount
            ended += [row[-3] for row in rows]
    if left:
        kept = {each[-3:]: each for each in s.kept}
        late -= sum(_dependencies.complete(connection, part, kept, now) for part in left)
    for part in revoked:
        late -= _dependencies.revoke(connection, part)
    if ended:
        _dependencies.ended(connection, ended)
    if s.forgotten:
        run(_sql.DELETE_ATTEMPTS_OF_GONE, s.forgotten)
        run(_sql.DELETE_STEPS_OF_GONE, s.forgotten)
    return late


def _remove(connection: sqlite3.Connection, fences: Sequence[Fence]) -> tuple[int, list[_dependencies.Part]]:
    """Remove jobs that are done with, all of one worker; return how many were not removed, and in which parts those are."""
    missing, parts = 0, []
    for claim, numbers in _by_claim(fences).items():
        for part in _sql.in_parts_by_number(connection, numbers):
            parameters = (*part, fences[0][1], claim)
            removed = connection.execute(_sql.remove_settled(len(part)), parameters).rowcount
            if removed < len(part):
                missing += len(part) - removed
                parts.append(parameters)
    return missing, parts


def _by_claim(fences: Sequence[Fence]) -> dict[int, list[int]]:
    """Return the jobs' numbers by claim number; most often there is one, that of a first run."""
    claims = {claim for _, _, claim in fences}
    if len(claims) == 1:
        return {claims.pop(): [n for n, _, _ in fences]}
    numbers_of: dict[int, list[int]] = {claim: [] for claim in claims}
    for n, _, claim in fences:
        numbers_of[claim].append(n)
    return numbers_of
