"""Takes over from workers that died: their jobs are pending again, no attempt counted.

A worker is dead when the kernel has freed the lock on its board, which happens when its last process is gone; no clock is asked.
While any process of it lives, its jobs are left alone.
"""

import logging

from fireforget import logs
from fireforget._claims import Claims
from fireforget._pool import board
from fireforget._workers import WorkerRow, boot_id, lock_path, process_lives

CHECK_SECONDS = 0.5
"""How often the locks of other workers are tried; only while there are others."""


class Recovery:
    """Watches the other workers of a database."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._others: list[WorkerRow] = []

    @property
    def has_others(self) -> bool:
        """Whether there is any other worker to watch."""
        return bool(self._others)

    def look(self) -> None:
        """Read which other workers there are."""
        self._others = self._claims.other_workers()

    def check(self) -> int:
        """Take over from the other workers that are dead by now; return how many jobs are pending again."""
        returned = 0
        for row in list(self._others):
            dead = self._lock(row)
            if dead is not None:
                returned += self._take_over(row, dead)
                self._others.remove(row)
        return returned

    def adopt_ownerless(self) -> None:
        """Make jobs pending whose worker does not even stand in the database."""
        for number in self._claims.ownerless():
            self._claims.take_over(number, frozenset(), counts=False)

    def _lock(self, row: WorkerRow) -> "board.DeadBoard | _NoBoard | None":
        try:
            return board.lock_if_dead(lock_path(self._claims.path, row.lock_file))
        except PermissionError:
            return None  # another user's: it is not for us to say
        except FileNotFoundError:
            # Cleaned away, or this is a copy of the database. A process that still runs must be left in peace all the same.
            return None if process_lives(row.boot_id, row.pid) else _NoBoard()

    def _take_over(self, row: WorkerRow, dead: "board.DeadBoard | _NoBoard") -> int:
        try:
            counts = row.boot_id == boot_id()
            returned, archived = self._claims.take_over(row.n, dead.running_jobs(), counts)
        except BaseException:
            dead.release()
            raise
        dead.remove()
        logs.event(
            logging.WARNING,
            f"worker {row.name} (pid {row.pid}) has died: {returned} of its jobs are pending again, {archived} archived",
            worker=row.name,
            pid=row.pid,
        )
        return returned


class _NoBoard:
    """Stands for the board of a worker whose file is gone: nothing is known of what was running."""

    def running_jobs(self) -> frozenset[int]:
        return frozenset()

    def remove(self) -> None:
        pass

    release = remove
