"""Tells that the database may have changed, without polling it.

On Linux the kernel reports each write to the WAL (inotify, through `ctypes`; the standard library has no binding). It does so
before the commit can be seen, so whoever is told looks again a few times: `looks` says when. Elsewhere there is no notice and
`poll_seconds` says how often to look.
"""

import ctypes
import os
import sys

_IN_MODIFY, _IN_ATTRIB, _IN_MOVE_SELF, _IN_DELETE_SELF = 0x2, 0x4, 0x800, 0x400
_IN_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_IN_CLOEXEC = getattr(os, "O_CLOEXEC", 0)

LOOKS = (0.0, 0.001, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.5)
"""Seconds to wait before each look after a notice: a commit is seen after its sync, and disks differ."""

POLL_SECONDS = 0.05
"""How often to look where the kernel tells nothing: one read transaction each, about 0.2 % of a core."""


class Notice:
    """Becomes readable when the database's WAL is written."""

    def __init__(self, database_path: str) -> None:
        self._descriptor = _watch(database_path)

    @property
    def works(self) -> bool:
        """Whether the kernel tells; otherwise look every `POLL_SECONDS`."""
        return self._descriptor is not None

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        assert self._descriptor is not None
        return self._descriptor

    def clear(self) -> None:
        """Take in what was told; look at the database after it, not before."""
        if self._descriptor is not None:
            try:
                while len(os.read(self._descriptor, 65536)) > 32768:
                    pass
            except BlockingIOError:
                pass

    def close(self) -> None:
        """Stop watching."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _watch(database_path: str) -> int | None:
    """Return an inotify descriptor on the WAL, None where there is no inotify or no watch to be had."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
    except (OSError, AttributeError):
        return None
    if descriptor < 0:
        return None
    gone = _IN_ATTRIB | _IN_MOVE_SELF | _IN_DELETE_SELF  # an open file that is deleted only loses its name: an attribute
    libc.inotify_add_watch(descriptor, os.fsencode(database_path), gone)
    if libc.inotify_add_watch(descriptor, os.fsencode(database_path + "-wal"), _IN_MODIFY | gone) < 0:
        os.close(descriptor)  # max_user_watches is reached, or the file system has no notices
        return None
    return int(descriptor)
