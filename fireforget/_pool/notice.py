"""Tells that the database may have changed, without polling it.

On Linux the kernel reports each write to the WAL (inotify, through `ctypes`; the standard library has no binding). It does so
before the commit can be seen, so whoever is told looks again a few times: `LOOKS` says when. The last connection that closes
takes the WAL with it and the next one makes a new one, so the folder is watched as well, for names that come and go.

Elsewhere there is no notice, and one looks every `POLL_SECONDS`.
"""

import ctypes
import os
import struct
import sys
from typing import Any

_IN_MODIFY, _IN_ATTRIB, _IN_MOVED_TO, _IN_CREATE = 0x2, 0x4, 0x80, 0x100
_IN_DELETE_SELF, _IN_MOVE_SELF = 0x400, 0x800
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows

GLANCE_SECONDS = 0.00095
"""For how long after a notice a look is a glance only: has anything been committed yet?"""
LOOKS = (
    0.0,
    *[0.0001] * 9,
    0.0001,
    0.001,
    0.002,
    0.004,
    0.008,
    0.016,
    0.032,
    0.064,
    0.128,
    0.256,
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
    30.0,
)
"""Seconds to wait before each look after a notice: a commit is seen after its sync, which takes microseconds or, on a disk in
trouble or in a process that was stopped meanwhile, the better part of a minute. A look is one short read."""

POLL_SECONDS = 0.05
"""How often to look where the kernel tells nothing: one read transaction each, about 0.2 % of a core."""


class Notice:
    """Becomes readable when the database's WAL is written."""

    def __init__(self, database_path: str) -> None:
        self._path = database_path
        self._libc: Any = None
        self._descriptor = self._start()

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
        assert self._descriptor is not None
        names_changed = False
        while True:
            try:
                events = os.read(self._descriptor, 65536)
            except BlockingIOError:
                break
            names_changed = names_changed or any(mask & ~_IN_MODIFY for mask in _masks(events))
        if names_changed:
            self._watch_files()

    def close(self) -> None:
        """Stop watching."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _start(self) -> int | None:
        """Return an inotify descriptor that watches, None where there is none to be had."""
        if not sys.platform.startswith("linux"):
            return None
        try:
            self._libc = ctypes.CDLL(None, use_errno=True)
            descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, AttributeError):
            return None
        if descriptor < 0:
            return None
        self._descriptor = descriptor
        folder = os.fsencode(os.path.dirname(self._path))
        if self._libc.inotify_add_watch(descriptor, folder, _IN_CREATE | _IN_MOVED_TO) < 0:
            os.close(descriptor)  # max_user_watches is reached, or the file system has no notices
            return None
        self._watch_files()
        return int(descriptor)

    def _watch_files(self) -> None:
        """Watch the files that are there at this moment; watching one twice changes nothing."""
        gone = _IN_ATTRIB | _IN_MOVE_SELF | _IN_DELETE_SELF  # a file that is deleted while open only loses its name: an attribute
        self._libc.inotify_add_watch(self._descriptor, os.fsencode(self._path), gone)
        self._libc.inotify_add_watch(self._descriptor, os.fsencode(self._path + "-wal"), _IN_MODIFY | gone)


def _masks(events: bytes) -> list[int]:
    masks = []
    at = 0
    while at + _EVENT.size <= len(events):
        _, mask, _, length = _EVENT.unpack_from(events, at)
        masks.append(mask)
        at += _EVENT.size + length
    return masks
