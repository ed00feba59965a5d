"""Whether a worker that stands in the database lives: the kernel says so, by the lock that its processes hold."""

import os

from fireforget import _db
from fireforget._claims import boot_id

try:
    import fcntl
except ImportError:  # Windows: there is no worker there
    fcntl = None  # type: ignore[assignment]


def is_alive(database_path: str, lock_file: str, boot: str, pid: int) -> bool:
    """Return whether any process of a worker lives.

    The lock is tried for, shared, and let go at once: a worker that wants to take over in this very moment tries again soon. No
    process may fork meanwhile, since the child would hold it for as long as it lives.
    """
    path = os.path.join(os.path.dirname(database_path), os.path.basename(lock_file))
    with _db.gate:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # cleaned away, or another user's, or this is a copy of the database
            return boot == boot_id() and _has_process(pid)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
    return False


def _has_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
