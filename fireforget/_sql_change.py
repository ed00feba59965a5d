"""Changing jobs by hand, one or all that match: run, update, archive, cancel, delete (`_inspect_change` and `inspector` do it).

Each statement changes job `:n`. Those that are functions repeat the state and the conditions with which it was found
(`_sql_find`), since it may be otherwise by now: no row means that it is. What workers do with jobs is in `_sql`.
"""

from collections.abc import Iterable

from fireforget import _sql, _sql_find
from fireforget.task import DEFAULT_TIMEOUT

# What one needs to decide about a job beyond `_sql.JOB_COLUMNS`.
LOCK_OF_JOB = "SELECT unique_key, unique_until, payload, deadline, queue, type FROM fireforget_job WHERE n = :n"

_ARCHIVED_BY_HAND = "archived by hand"
_CANCELLED_BY_HAND = "cancelled before it ran"

# An ended job begins anew: all its retries, no result of the run before. The attempts stay, and later ones are numbered on. One
# that ended with its group goes back into it; one that still waits there is run by itself.
_ENDED_WITH_ITS_GROUP = f"batch IS NOT NULL AND {_sql_find.ENDED_TERM}"
RUN_JOB = f"""
UPDATE fireforget_job
SET state = CASE WHEN {_ENDED_WITH_ITS_GROUP} THEN {_sql.AGGREGATING} ELSE {_sql.PENDING} END,
    due = :now,
    retry_count = CASE WHEN {_sql_find.ENDED_TERM} THEN 0 ELSE retry_count END,
    worker_deaths = CASE WHEN {_sql_find.ENDED_TERM} THEN 0 ELSE worker_deaths END,
    last_error = CASE WHEN last_error NOT IN ('{_ARCHIVED_BY_HAND}', '{_CANCELLED_BY_HAND}') THEN last_error END,
    result = CASE WHEN {_sql_find.ENDED_TERM} THEN NULL ELSE result END,
    progress = CASE WHEN {_sql_find.ENDED_TERM} THEN NULL ELSE progress END,
    progress_note = CASE WHEN {_sql_find.ENDED_TERM} THEN NULL ELSE progress_note END,
    started_at = CASE WHEN {_sql_find.ENDED_TERM} THEN NULL ELSE started_at END,
    completed_at = NULL,
    expires_at = NULL,
    cancel_requested_at = NULL,
    group_name = CASE WHEN {_ENDED_WITH_ITS_GROUP} THEN group_name END,
    batch = NULL,
    linked = linked & ~{_sql.FELL},
    unique_key = :unique_key,
    unique_until = :unique_until
WHERE n = :n
"""


def run_plain(state: int, filters: Iterable[str]) -> str:
    """Return the statement that runs job `:n` if it still matches, and has neither a unique key nor a deadline to look at."""
    plain = RUN_JOB.replace(":unique_key", "NULL").replace(":unique_until", "NULL").rstrip()
    return f"{plain} AND unique_key IS NULL AND deadline IS NULL{_sql_find.where(state, filters)}"


# Of completed jobs that begin anew.
DELETE_STEPS_OF_PENDING = f"""
DELETE FROM fireforget_step
WHERE job = ?1
  AND EXISTS (SELECT 1 FROM fireforget_job WHERE n = ?1 AND state = {_sql.PENDING})
"""

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
    cancel_requested_at = NULL, batch = NULL, unique_key = {_sql.RELEASED_KEY}
WHERE n = :n
"""
_SHELVE_JOB = _END_JOB.format(state=_sql.ARCHIVED, why=_ARCHIVED_BY_HAND)
_CALL_OFF_JOB = _END_JOB.format(state=_sql.CANCELLED, why=_CANCELLED_BY_HAND)

# The worker that runs it sees this in the commit's notice; the first request counts.
_REQUEST_CANCEL = "UPDATE fireforget_job SET cancel_requested_at = coalesce(cancel_requested_at, :now) WHERE n = :n"


def shelve(state: int, filters: Iterable[str] = ()) -> str:
    """Return the statement that archives job `:n` if it still is in the state, and still matches."""
    return _SHELVE_JOB.rstrip() + _sql_find.where(state, filters)


def call_off(state: int, filters: Iterable[str] = ()) -> str:
    """Return the statement that cancels job `:n` if it still is in the state: at once, or by asking the worker that runs it."""
    return (_REQUEST_CANCEL if state == _sql.ACTIVE else _CALL_OFF_JOB.rstrip()) + _sql_find.where(state, filters)


def remove(state: int, filters: Iterable[str] = ()) -> str:
    """Return the statement that deletes job `:n` if it still is in the state, and still matches."""
    return "DELETE FROM fireforget_job WHERE n = :n" + _sql_find.where(state, filters)
