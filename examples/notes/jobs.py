"""What the worker runs: `python -m fireforget.worker examples.notes.jobs:registry`.

Each handler follows the same path: check the payload, do the work, say what came of it. What can never work raises
`SkipRetry`. Everything else is left to raise what it raises: the job is tried again. A worker that is killed runs a job
anew, so every write here may be repeated without harm.
"""

import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

from examples.notes import store
from fireforget import Registry, SkipRetry

registry = Registry()

KEEP_RESULT = timedelta(hours=1)
"""How long `GET /jobs/ID` can still say what became of a job that succeeded."""
KEEP_NOTES = timedelta(days=30)
"""How long an archived note stays when the cleanup is not told otherwise."""


@registry.task("note:archive", max_retry=3, timeout=30, retention=KEEP_RESULT)
def archive_note(note_id: str) -> dict[str, str]:
    """Archive one note."""
    checked = _note_id(note_id)
    if not store.archive_note(checked, time.time()):
        raise SkipRetry(f"there is no note {checked}")
    return {"archived": checked}


@registry.task("analytics:event", max_retry=3, timeout=10)
def record_event(event_id: str, at: float, method: str, path: str, status: int) -> None:
    """Store what one request was."""
    store.add_event(event_id, at, method, path, status)


@registry.task("cleanup:old_notes", queue="low", max_retry=3, timeout=300, retention=KEEP_RESULT)
def clean_up_old_notes(archived_before: str | None = None, dry_run: bool = False) -> dict[str, object]:
    """Delete the notes archived before an instant (ISO 8601 with its zone), or only count them.

    Without an instant it is 30 days before the run, not before the call: a job that waited, or a payload that is stored once
    and enqueued every day, must not carry a cutoff that has grown old.
    """
    cutoff = datetime.now(UTC) - KEEP_NOTES if archived_before is None else _instant(archived_before)
    count = store.remove_notes_archived_before(cutoff.timestamp(), dry_run=dry_run)
    return {"archived_before": cutoff.isoformat(), "dry_run": dry_run, "notes": count}


def _note_id(value: object) -> str:
    """Return a note's id in its usual form; a payload may come from anywhere, so it is not trusted to be one."""
    try:
        note_id = UUID(str(value))
    except ValueError:
        raise SkipRetry(f"note_id {value!r} is not a UUID") from None
    if not note_id.int:
        raise SkipRetry("note_id is the nil UUID: it names no note")
    return str(note_id)


def _instant(text: object) -> datetime:
    try:
        instant = datetime.fromisoformat(str(text))
    except ValueError:
        raise SkipRetry(f"archived_before {text!r} is not an ISO 8601 instant, such as 2026-01-31T00:00:00+00:00") from None
    if instant.utcoffset() is None:
        raise SkipRetry(f"archived_before {text!r} has no zone: end it with +00:00 for UTC")
    return instant
