"""What a worker's children are at. It stands on the worker's board, of which a copy is read: whoever looks neither locks it nor
writes to it, and what cannot be read is left open. (Whether the worker lives is told by `_workers`.)
"""

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from fireforget import _board_layout, _sql, _sql_inspect
from fireforget._board_layout import SeenBoard, exit_word
from fireforget._claimed import public_id
from fireforget._inspect_access import Connection, instant
from fireforget._inspect_facts import ChildDeath, ChildInfo, ChildJob
from fireforget._workers import boot_id, lock_path

_LONGEST = 10.0**9  # seconds that anything has lasted; more was read in the middle of a change

Names = tuple[str, str, str]
"""The id, type and queue of a job."""


def board_of(database_path: str, lock_file: str, boot: str) -> SeenBoard | None:
    """Return a worker's board as it is at this moment; None where it cannot be read, or is of an earlier start of the machine."""
    if boot != boot_id():
        return None
    with suppress(OSError):  # cleaned away, or another user's
        descriptor = os.open(lock_path(database_path, lock_file), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _board_layout.read(descriptor)
        finally:
            os.close(descriptor)
    return None


def names_of_running(connection: Connection, boards: Iterable[SeenBoard], tag: str) -> dict[int, Names]:
    """Return what the jobs are by number that boards say are running, of those that are in a worker's hands still."""
    numbers = [n for board in boards for child in board.children for _, n, _ in child.running if 0 < n < 2**63]
    found = {}
    for part in _sql.in_parts_by_number(connection, numbers):
        for n, nonce, task_id, type, queue in connection.execute(_sql_inspect.running_jobs(len(part)), part):
            found[n] = (task_id or public_id(tag, n, nonce), type, queue)
    return found


def children_on(board: SeenBoard, names: Mapping[int, Names], ahead: float, *, is_here: bool) -> list[ChildInfo]:
    """Return the children that stand on a board.

    `ahead` is how many seconds the calendar is ahead of the monotonic clock, `is_here` whether their process ids are this
    machine's.
    """
    return [
        ChildInfo(
            child.pid,
            _moment(ahead, child.born),
            _resident(child.pid) if is_here else None,
            [ChildJob(*names[n], _moment(ahead, began)) for _, n, began in child.running if n in names],
        )
        for child in board.children
        if child.pid
    ]


def last_death_on(board: SeenBoard) -> ChildDeath | None:
    """Return the last death of a child that stands on a board."""
    if not board.deaths or not 0 <= board.died < _LONGEST * 10:
        return None
    return ChildDeath(instant(board.died), board.dead_pid, exit_word(board.dead_code))


def _moment(ahead: float, began: float) -> datetime:
    """Return an instant of the monotonic clock as one of the calendar, to the millisecond, so that two looks tell the same."""
    now = time.monotonic()
    return instant(round((began if now - _LONGEST < began < now else now) + ahead, 3))


def _resident(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # it has ended, or this is no Linux
        return None
