"""The board: a small file that a worker and its children map into memory, and whose lock says that one of them lives.

The lock (`flock`) belongs to the open file, and children inherit that by fork: the kernel frees it when the last process of the
worker is gone, however it went. Whoever then gets the lock may take over the worker's jobs, and reads on the board which of
them were running.

Each child has a slot, and in it a cell for each job that it can run at once: `_board_layout` has what stands where, and reads it
for those who only look.

Behind the slots each child has a ring for results (`ring`). In the header, `wanted` says that the supervisor waits for that lock
or has it: children that want it let it go first.

A child's jobs are numbered from 0 over its whole life: their index. Taking back jobs that have not started needs no answer from
the child: the supervisor lowers `limit`, waits for longer than any processor keeps a write to itself, and reads `started`. The
child announces a start in `started` before it looks at `limit`. So either the child sees the lower limit, or the supervisor
sees the start.

An aligned 8-byte store is one machine store wherever Linux runs Python, so nobody reads half a word.
"""

import mmap
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum

from fireforget import _board_layout as layout
from fireforget._pool.ring import RING_WORDS, Ring

try:
    import fcntl
except ImportError:  # Windows: there is no worker there, and `Worker` says so
    fcntl = None  # type: ignore[assignment]

UNLIMITED = 2**63

SETTLE_SECONDS = 0.002
"""How long the supervisor waits between lowering a limit and believing what it reads; store buffers drain in microseconds."""


class Reason(IntEnum):
    """Why a running job is interrupted."""

    TIMEOUT = 1
    DEADLINE = 2
    CANCELLED = 3
    TRANSACTION = 4
    DECISION = 5


class Board:
    """The mapped file of one worker."""

    def __init__(self, path: str, descriptor: int, slots: int, threads: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.slots = slots
        self.threads = threads
        # Through an open file of its own: a mapping keeps its file open, and so would keep the lock in a process that a handler
        # forks and that has closed `descriptor`.
        mapped = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(mapped, _size_with_rings(slots, threads))
        finally:
            os.close(mapped)
        self.words = memoryview(self._map).cast("Q")
        self.doubles = memoryview(self._map).cast("d")

    @classmethod
    def create(cls, database_path: str, slots: int, threads: int, *, blames: bool = True) -> "Board":
        """Create a worker's file beside the database and take its lock; raises `OSError`.

        `blames` says whether the worker's death counts against the jobs that ran: it does where handlers ran, and does not where
        jobs were handed on.
        """
        path = f"{database_path}-worker-{secrets.token_hex(4)}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _allocate(descriptor, _size_with_rings(slots, threads))
            os.pwrite(descriptor, layout.HEADER.pack(layout.MAGIC if blames else layout.MAGIC_OF_RELAY, slots, threads), 0)
            return cls(path, descriptor, slots, threads)
        except BaseException:
            os.close(descriptor)
            os.unlink(path)
            raise

    @contextmanager
    def wanting_the_lock(self) -> Iterator[None]:
        """Have the children stand aside for the database's write lock while the block waits for it and has it."""
        self.words[layout.WANTED] = 1
        try:
            yield
        finally:
            self.words[layout.WANTED] = 0

    def slot(self, number: int) -> "Slot":
        """Return a child's part of the board."""
        return Slot(self, layout.HEADER_WORDS + number * layout.slot_words(self.threads), self.threads)

    def ring(self, number: int) -> Ring:
        """Return where a child lays down results."""
        return Ring(self.words, layout.size(self.slots, self.threads) // 8 + number * RING_WORDS)

    def note_death(self, pid: int, code: int) -> None:
        """Count a child that died though it should not have, for those who look; `code` is negative for a signal."""
        self.doubles[layout.DIED] = time.time()
        self.words[layout.DEAD_PID] = pid
        self.words[layout.DEAD_CODE] = code % layout.SIGNED
        self.words[layout.DEATHS] += 1

    def outlive_children(self, seconds: float) -> bool:
        """Give up the lock and wait until it can be had anew: then no child lives that inherited it. False when one still does.

        For a worker whose helper is dead, and with it the knowledge of its children. If another worker was first to get the
        lock, it has taken over, and what is settled here finds no rows.
        """
        os.close(self.descriptor)
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        end = time.monotonic() + seconds
        while True:
            with suppress(OSError):
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)

    def remove(self) -> None:
        """Give up the lock and remove the file; the worker owns nothing any more."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        os.close(self.descriptor)


def _allocate(descriptor: int, size: int) -> None:
    """Give the file its blocks now: a store into a hole of a mapped file on a full disk kills the process with SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.pwrite(descriptor, bytes(size), 0)


class Slot:
    """A child's part of the board, as both sides use it."""

    def __init__(self, board: Board, offset: int, threads: int) -> None:
        self.words = board.words
        self.doubles = board.doubles
        self._offset = offset
        self.limit_at = offset + layout.LIMIT
        self.started_at = offset + layout.STARTED
        self.done_at = offset + layout.DONE
        self.cells = [Cell(board, offset + layout.SLOT_WORDS + cell * layout.CELL_WORDS) for cell in range(threads)]

    def clear(self) -> None:
        """Make the slot ready for a new child."""
        for word in range(self._offset, self._offset + layout.SLOT_WORDS + len(self.cells) * layout.CELL_WORDS):
            self.words[word] = 0
        self.words[self.limit_at] = UNLIMITED

    def occupy(self, pid: int) -> None:
        """Say whose slot it is, for those who look."""
        self.doubles[self._offset + layout.BORN] = time.monotonic()
        self.words[self._offset + layout.PID] = pid

    def vacate(self) -> None:
        """Say that no child is here any more."""
        self.words[self._offset + layout.PID] = 0

    @property
    def started(self) -> int:
        """How many jobs the child has started; one that it announced and then found beyond the limit is not among them."""
        return min(self.words[self.started_at], self.words[self.limit_at])

    @property
    def done(self) -> int:
        """The index below which all jobs have ended."""
        return self.words[self.done_at]

    def forbid_further_starts(self) -> None:
        """Lower the limit to what has been started; `settle_limit` says after `SETTLE_SECONDS` where that is."""
        self.words[self.limit_at] = self.words[self.started_at]

    def settle_limit(self) -> int:
        """Return the index from which on no job will ever start; call it when `SETTLE_SECONDS` have passed.

        A job whose start was announced in between may run, so the limit goes up over it: if the child had seen the lower limit
        after all, it says that it dropped the job.
        """
        self.words[self.limit_at] = max(self.words[self.limit_at], self.words[self.started_at])
        return self.words[self.limit_at]

    def allow_all(self) -> None:
        """Lift the limit."""
        self.words[self.limit_at] = UNLIMITED

    def running(self) -> list[tuple[int, int, float]]:
        """Return (index, job number, monotonic start) of what runs now; a torn view of a job that just changes is harmless."""
        return layout.running(self.words, self.doubles, self._offset, len(self.cells))

    def holding(self) -> dict[int, float]:
        """Return since when, in monotonic seconds, the jobs that hold the database's write lock do so, by index."""
        found = {self.words[cell.index_at] - 1: self.doubles[cell.holds_at] for cell in self.cells}
        return {index: since for index, since in found.items() if since}

    def mark_deciding(self, cell: "Cell", decides: bool) -> None:
        """Say that the application begins to decide on the failure of the cell's job, or has ended."""
        self.doubles[cell.decides_at] = time.monotonic() if decides else 0.0

    def deciding(self) -> dict[int, float]:
        """Return since when, in monotonic seconds, the application decides on the failures of jobs, by index."""
        found = {self.words[cell.index_at] - 1: self.doubles[cell.decides_at] for cell in self.cells}
        return {index: since for index, since in found.items() if since}

    def interrupt(self, index: int, reason: Reason) -> bool:
        """Mark the running job for interruption; return False when it does not run any more."""
        for cell in self.cells:
            if self.words[cell.index_at] == index + 1:
                self.words[cell.reason_at] = reason
                self.words[cell.interrupt_at] = index + 1
                return True
        return False


class Cell:
    """Where one running job stands on the board."""

    __slots__ = ("began_at", "decides_at", "holds_at", "index_at", "interrupt_at", "number_at", "reason_at")

    def __init__(self, board: Board, offset: int) -> None:
        self.index_at = offset + layout.INDEX
        self.number_at = offset + layout.NUMBER
        self.began_at = offset + layout.BEGAN
        self.interrupt_at = offset + layout.INTERRUPT
        self.reason_at = offset + layout.REASON
        self.holds_at = offset + layout.HOLDS
        self.decides_at = offset + layout.DECIDES


class LockMark:
    """Where a thread of a child says that its job holds the database's write lock: an `_effects.Mark`."""

    def __init__(self, slot: Slot, cell: Cell) -> None:
        self._words = slot.words
        self._doubles = slot.doubles
        self._at = cell.holds_at

    def hold(self, holds: bool) -> None:
        """Say that the job holds the lock from now on, or does not any more."""
        self._doubles[self._at] = time.monotonic() if holds else 0.0

    def is_wanted(self) -> bool:
        """Return whether the supervisor waits for the lock, or has it."""
        return self._words[layout.WANTED] != 0


def _size_with_rings(slots: int, threads: int) -> int:
    return layout.size(slots, threads) + 8 * slots * RING_WORDS


# --- boards of other workers --------------------------------------------------------------------------------------------


class DeadBoard:
    """The file of a worker that is gone, with its lock in our hands so that nobody else takes over as well."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def running_jobs(self) -> frozenset[int]:
        """Return the numbers of the jobs that were running when the worker died; none of a relay, or when nobody can tell."""
        seen = layout.read(self._descriptor)
        if seen is None or seen.is_relays:
            return frozenset()
        return frozenset(number for child in seen.children for _, number, _ in child.running)

    def remove(self) -> None:
        """Remove the file and give up its lock."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        self.release()

    def release(self) -> None:
        """Give up the lock, and leave the file."""
        os.close(self._descriptor)


def lock_if_dead(path: str) -> DeadBoard | None:
    """Return the board of a worker all of whose processes are gone, locked; None while one lives. Raises FileNotFoundError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return DeadBoard(path, descriptor)
