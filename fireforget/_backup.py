"""The online backup: the whole database in one file, copied while workers and producers go on.

    check the place ─ partial file ─ copy of one snapshot ─ workers' jobs put back ─ integrity check ─ sync ─ rename

The copy is made by SQLite's own backup interface, a few pages a step, out of one read transaction. Without that transaction
every commit of another program would make it begin anew, and beside a busy worker it would never end. In WAL mode a reader holds
up no writer; all it costs is that the WAL cannot be folded back before the end. So checkpoints are kept off meanwhile: they would
hold up writers, and could not do their work.
"""

import glob
import os
import secrets
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from fireforget import _db, _sql
from fireforget.errors import BackupExists, StoreCorrupt, StoreError, StoreFull, StoreReadOnly, StoreUnavailable

PAGES_A_STEP = 256
"""Copied before other threads of this process, and Ctrl-C, get their turn: a megabyte with SQLite's usual pages."""
_SIDE_FILES = ("-wal", "-shm", "-journal")
_PARTIAL = ".partial"
_LEFT_SECONDS = 60.0
_OF_THE_TARGET = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
"""Codes that more probably speak of the file that is written than of the one that is read."""


@dataclass(frozen=True)
class Backup:
    """A backup that was made."""

    path: str
    """Its absolute path."""
    size: int
    """Bytes."""
    jobs: int
    """Jobs in it, in whatever state."""
    returned: int
    """Those among them that a worker had, and that are pending in the copy."""


def back_up(database: _db.Database, destination: str | os.PathLike[str], *, force: bool) -> Backup:
    """Copy the database to `destination`; arguments and errors are those of `SqliteQueue.backup`."""
    target = _db.resolve_path(destination)
    _check(database.path, target, force)
    _clear_away(target)
    partial, lock = _create_partial(target)
    try:
        with _db.gate:  # no process may fork while these connections are open
            try:
                jobs, returned = _make(database, partial)
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                raise _db.translate(target if code in _OF_THE_TARGET else database.path, error) from error
        _check(database.path, target, force)  # once more: it may have taken a while
        _put_in_place(partial, target, force)
    finally:
        for suffix in ("", *_SIDE_FILES):
            with suppress(FileNotFoundError):
                os.unlink(partial + suffix)
        os.close(lock)
    return Backup(target, os.stat(target).st_size, jobs, returned)


# --- the place --------------------------------------------------------------------------------------------------------


def _check(source: str, target: str, force: bool) -> None:
    """Raise a `StoreError` where no backup can, or may, be put. A network file system will do: nobody works on the copy there."""
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise StoreUnavailable(target, f"its folder {folder} does not exist: create it first")
    if os.path.isdir(target):
        raise StoreUnavailable(target, "this is a folder: give the path of a file in it")
    if os.path.lexists(target) and not os.path.isfile(target):
        raise StoreUnavailable(target, "this is not a regular file: give another path")
    if _is_file_of(source, target) or _db.file_identity(target) == _db.file_identity(source) is not None:
        raise StoreUnavailable(target, "this is the database itself, or a file of it: give another path")
    if os.path.exists(target) and not force:
        raise BackupExists(target, "there is a file already: give another path, or have it replaced with force (--force)")
    for suffix in _SIDE_FILES:
        # SQLite would take it for the copy's own, and play what is in it into the copy.
        if os.path.exists(target + suffix):
            raise StoreUnavailable(
                target, f"{target}{suffix} lies beside it: a program has that database open, or died with it; give another path"
            )


def _is_file_of(database: str, path: str) -> bool:
    """Return whether SQLite or a worker keeps something of a database at this path."""
    return path in [database + suffix for suffix in (*_SIDE_FILES, "-checkpoint")] or path.startswith(f"{database}-worker-")


def _create_partial(target: str) -> tuple[str, int]:
    """Create the file that is written until it is complete, for its owner alone, beside the target: so it can be renamed.

    Returns its path, and a descriptor that is open, and locked, for as long as this backup lives.
    """
    folder, name = os.path.split(target)
    partial = os.path.join(folder, f".{name[:200]}-{secrets.token_hex(4)}{_PARTIAL}")
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    except OSError as error:
        raise StoreReadOnly(target, f"it cannot be created ({error.strerror}): choose a folder that can be written") from error
    _lock(descriptor)
    return partial, descriptor


def _lock(descriptor: int) -> bool:
    """Lock a partial file until its last descriptor is closed; return whether nobody else has. Not SQLite's kind of lock."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _clear_away(target: str) -> None:
    """Remove what backups to this target left behind that were killed: partial files that nobody has locked any more.

    One that has just been made may not be locked yet.
    """
    folder, name = os.path.split(target)
    for partial in glob.glob(f".{glob.escape(name[:200])}-????????{_PARTIAL}", root_dir=folder, include_hidden=True):
        path = os.path.join(folder, partial)
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
            try:
                if time.time() - os.fstat(descriptor).st_mtime > _LEFT_SECONDS and _lock(descriptor):
                    for suffix in (*_SIDE_FILES, ""):
                        with suppress(FileNotFoundError):
                            os.unlink(path + suffix)
            finally:
                os.close(descriptor)


def _put_in_place(partial: str, target: str, force: bool) -> None:
    """Sync the copy, give it its name in one step, and sync that."""
    descriptor = os.open(partial, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        if force:
            os.replace(partial, target)
        else:
            _rename_to_new(partial, target)
    except FileExistsError:
        raise BackupExists(
            target, "a file has come there meanwhile: give another path, or have it replaced with force (--force)"
        ) from None
    except OSError as error:
        raise StoreError(target, f"the copy cannot be put there: {error.strerror}") from error
    _db.sync_folder(os.path.dirname(target))


def _rename_to_new(partial: str, target: str) -> None:
    """Rename, and raise `FileExistsError` where there is something by now, which `os.rename` would replace."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        os.rename(partial, target)


# --- the copy ---------------------------------------------------------------------------------------------------------


SCHEMA_VERSION = "SELECT value FROM fireforget_meta WHERE key = 'schema_version'"

# A copy has no workers: what they had in their hands is put back there, as a worker that stops does it.
PUT_ALL_BACK = _sql.PUT_BACK.replace(_sql.FENCE, f"WHERE state = {_sql.ACTIVE}")
DELETE_WORKERS = "DELETE FROM fireforget_worker"
NUMBER_OF_JOBS = "SELECT count(*) FROM fireforget_job"


def _make(database: _db.Database, partial: str) -> tuple[int, int]:
    """Write the copy; return how many jobs are in it, and how many of them were put back."""
    database.check_identity()
    uri = Path(partial).as_uri() + "?mode=rw"
    with closing(sqlite3.connect(uri, isolation_level=None, check_same_thread=False, uri=True)) as copy:
        copy.execute("PRAGMA locking_mode = EXCLUSIVE")  # nobody else knows it; and no shared memory, which a network has not
        copy.execute("PRAGMA synchronous = OFF")  # it is synced once, when it is complete
        with closing(_db.connect(database.path, synchronous=1)) as reader, _db.checkpoint_lock(database.path):
            _check_room(reader, partial)
            reader.execute("BEGIN")
            reader.execute(SCHEMA_VERSION).fetchone()  # the snapshot is taken by the first read
            reader.backup(copy, pages=PAGES_A_STEP, progress=_let_others)
            reader.execute("ROLLBACK")
        copy.execute("BEGIN IMMEDIATE")
        returned = copy.execute(PUT_ALL_BACK).rowcount
        copy.execute(DELETE_WORKERS)
        copy.execute("COMMIT")
        copy.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        (jobs,) = copy.execute(NUMBER_OF_JOBS).fetchone()
        found = [str(row[0]) for row in copy.execute("PRAGMA integrity_check(3)")]
    if found != ["ok"]:
        raise StoreCorrupt(
            database.path, f"its copy is damaged ({found[0]}), so it is too: stop writing, and restore an earlier backup"
        )
    return jobs, returned


def _check_room(reader: sqlite3.Connection, partial: str) -> None:
    """Raise `StoreFull` before the disk is: the queue itself may live on it."""
    (pages,), (page_size,) = reader.execute("PRAGMA page_count").fetchone(), reader.execute("PRAGMA page_size").fetchone()
    folder = os.path.dirname(partial)
    free = shutil.disk_usage(folder).free
    if free < pages * page_size:
        needed, had = (f"{size / 2**20:,.1f} MiB" for size in (pages * page_size, free))
        raise StoreFull(folder, f"the copy needs {needed} and {had} are free: make room, or choose another disk")


def _let_others(status: int, remaining: int, total: int) -> None:
    """Called between steps: this is where Python looks after signals."""
