"""Workers as they stand in the database, and whether one of them lives: the kernel says so, by the lock of its processes."""

import os
import sqlite3
from typing import NamedTuple

from fireforget import _db, _sql

try:
    import fcntl
except ImportError:  # Windows: there is no worker there
    fcntl = None  # type: ignore[assignment]


class WorkerRow(NamedTuple):
    """A worker as it stands in the database."""

    n: int
    name: str
    host: str
    pid: int
    boot_id: str
    lock_file: str
    queues: str
    concurrency: int
    threads: int
    started_at: float


def read_workers(connection: sqlite3.Connection) -> list[WorkerRow]:
    """Return the workers that stand in the database, dead ones included."""
    return [WorkerRow._make(row) for row in connection.execute(_sql.WORKERS)]


def lock_path(database_path: str, lock_file: str) -> str:
    """Return the path of a worker's lock, which is its board and lies beside the database."""
    return os.path.join(os.path.dirname(database_path), os.path.basename(lock_file))


def is_alive(database_path: str, lock_file: str, boot: str, pid: int) -> bool:
    """Return whether any process of a worker lives.

    The lock is tried for, shared, and let go at once: it is never in the way of another look, and a worker that wants to take
    over in this very moment tries again soon. No process may fork meanwhile, since the child would hold it while it lives.
    """
    path = lock_path(database_path, lock_file)
    with _db.gate:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # cleaned away, or another user's, or this is a copy of the database
            return process_lives(boot, pid)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
    return False


def process_lives(boot: str, pid: int) -> bool:
    """Return whether a worker's process lives as far as its number tells, for where its lock cannot be asked."""
    return boot == boot_id() and _has_process(pid)


def _has_process(pid: int) -> bool:
    """Return whether a process of this number lives, somebody else's included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def boot_id() -> str:
    """Return what names this start of the machine; a worker that a reboot ended did not die under its jobs."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
