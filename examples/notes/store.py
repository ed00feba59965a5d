"""The application's own tables, in the same file as the queue.

Nothing here knows of jobs. `FIREFORGET_DB` names the file for the application and for the worker alike.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

_TABLES = (
    """
    CREATE TABLE IF NOT EXISTS note (
        id TEXT PRIMARY KEY NOT NULL,
        text TEXT NOT NULL,
        created_at REAL NOT NULL,
        archived_at REAL
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS event (
        id TEXT PRIMARY KEY NOT NULL,
        at REAL NOT NULL,
        method TEXT NOT NULL,
        path TEXT NOT NULL,
        status INTEGER NOT NULL
    )
    """,
)

_ADD_NOTE = """
    INSERT INTO note (id, text, created_at)
    VALUES (:id, :text, :now)
"""

_FIND_NOTE = """
    SELECT id, text, created_at, archived_at
    FROM note
    WHERE id = :id
"""

# The condition makes a second run harmless: the first instant stays.
_ARCHIVE_NOTE = """
    UPDATE note
    SET archived_at = :now
    WHERE id = :id AND archived_at IS NULL
"""

_COUNT_ARCHIVED_BEFORE = """
    SELECT count(*)
    FROM note
    WHERE archived_at < :cutoff
"""

_DELETE_ARCHIVED_BEFORE = """
    DELETE FROM note
    WHERE archived_at < :cutoff
"""

# A job may run twice (its process is killed after the commit, say); the event's own id makes the second insert nothing.
_ADD_EVENT = """
    INSERT OR IGNORE INTO event (id, at, method, path, status)
    VALUES (:id, :at, :method, :path, :status)
"""


def database_path() -> str:
    """Return the path of the file that application and queue share."""
    return os.environ.get("FIREFORGET_DB") or "fireforget.db"


@contextmanager
def transaction() -> Iterator[sqlite3.Connection]:
    """Open the file for one transaction; committed at the end, rolled back on an error.

    A connection for each use costs well under a millisecond, and none is ever shared between threads or carried over a fork.
    """
    # IMMEDIATE: a transaction that starts as a reader cannot wait for the write lock later, it fails at once.
    with closing(sqlite3.connect(database_path(), timeout=5, isolation_level="IMMEDIATE")) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # the queue folds the WAL back, one checkpointer for the file
        with connection:
            yield connection


def create_tables() -> None:
    """Create what is not there yet."""
    with transaction() as connection:
        for statement in _TABLES:
            connection.execute(statement)


def add_note(note_id: str, text: str, now: float) -> None:
    """Store a new note."""
    with transaction() as connection:
        connection.execute(_ADD_NOTE, {"id": note_id, "text": text, "now": now})


def find_note(note_id: str) -> dict[str, object] | None:
    """Return a note, None when there is none."""
    with transaction() as connection:
        row = connection.execute(_FIND_NOTE, {"id": note_id}).fetchone()
    return None if row is None else dict(row)


def archive_note(note_id: str, now: float) -> bool:
    """Archive a note; return whether there is one. A note that is archived already stays as it is."""
    with transaction() as connection:
        changed = connection.execute(_ARCHIVE_NOTE, {"id": note_id, "now": now}).rowcount
        return bool(changed) or connection.execute(_FIND_NOTE, {"id": note_id}).fetchone() is not None


def remove_notes_archived_before(cutoff: float, *, dry_run: bool) -> int:
    """Delete the notes archived before an instant in Unix seconds, or only count them; return how many they are."""
    with transaction() as connection:
        if dry_run:
            count: int = connection.execute(_COUNT_ARCHIVED_BEFORE, {"cutoff": cutoff}).fetchone()[0]
            return count
        return connection.execute(_DELETE_ARCHIVED_BEFORE, {"cutoff": cutoff}).rowcount


def add_event(event_id: str, at: float, method: str, path: str, status: int) -> None:
    """Store an event; one that is there already is left alone."""
    with transaction() as connection:
        connection.execute(_ADD_EVENT, {"id": event_id, "at": at, "method": method, "path": path, "status": status})
