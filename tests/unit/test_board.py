"""The board: what runs, what may still be started, and the lock that says whether a worker lives."""

import os
from itertools import product

import pytest

from fireforget._pool.board import UNLIMITED, Board, Reason, lock_if_dead


@pytest.fixture
def board(path):
    board = Board.create(path, slots=2, threads=2)
    board.slot(0).clear()
    board.slot(1).clear()
    yield board
    board.remove()


def start(slot, index, number, cell=0):
    """Announce a start as a child does, and return whether it goes ahead."""
    words = slot.words
    words[slot.cells[cell].number_at] = number
    slot.doubles[slot.cells[cell].began_at] = 12.5
    words[slot.cells[cell].index_at] = index + 1
    words[slot.started_at] = index + 1
    if words[slot.limit_at] > index:
        return True
    words[slot.cells[cell].index_at] = 0
    return False


def test_what_runs_stands_on_the_board(board):
    """Index, job number and since when, for each cell, and in no other slot."""
    slot = board.slot(0)
    assert slot.running() == []
    start(slot, 0, 101, cell=0)
    start(slot, 1, 102, cell=1)
    assert slot.running() == [(0, 101, 12.5), (1, 102, 12.5)]
    assert board.slot(1).running() == []
    slot.words[slot.cells[0].index_at] = 0
    assert slot.running() == [(1, 102, 12.5)]


def test_a_job_below_done_does_not_run_any_more(board):
    """With one thread a child only counts up; the cell keeps the last job's name."""
    slot = board.slot(0)
    start(slot, 4, 104)
    slot.words[slot.done_at] = 5
    assert (slot.done, slot.running()) == (5, [])


def test_a_new_child_finds_an_empty_slot(board):
    """Nothing of the one before it, and no limit."""
    slot = board.slot(1)
    start(slot, 7, 107)
    slot.forbid_further_starts()
    slot.clear()
    assert (slot.started, slot.done, slot.running()) == (0, 0, [])
    assert slot.words[slot.limit_at] == UNLIMITED
    assert start(slot, 0, 200)


def test_jobs_that_have_not_started_are_taken_back(board):
    """From the settled limit on nothing starts; below it everything may."""
    slot = board.slot(0)
    start(slot, 0, 100)
    slot.forbid_further_starts()
    assert slot.settle_limit() == 1
    assert not start(slot, 1, 101, cell=1)
    assert slot.running() == [(0, 100, 12.5)]
    assert slot.started == 1
    slot.allow_all()
    assert start(slot, 1, 101, cell=1)


def steps_of_the_child(slot, seen):
    """A start, one step a time: it announces, then looks at the limit."""
    slot.words[slot.started_at] = 2
    yield
    seen.append(slot.words[slot.limit_at] > 1)
    yield


def steps_of_the_supervisor(slot, seen):
    started = slot.words[slot.started_at]
    yield
    slot.words[slot.limit_at] = started
    yield
    seen.append(slot.settle_limit())
    yield


@pytest.mark.parametrize("order", sorted(set(product("cs", repeat=5)), key=str))
def test_no_order_of_events_takes_back_a_job_that_runs(board, order):
    """Every interleaving of a start with a take-back that the pause between limit and belief allows."""
    if order.count("c") != 2 or "".join(order).rindex("s") < "".join(order).rindex("c"):
        return  # the pause is longer than the child's two steps once the limit stands
    slot = board.slot(0)
    slot.words[slot.started_at] = 1
    goes_ahead, settled = [], []
    steps = {"c": steps_of_the_child(slot, goes_ahead), "s": steps_of_the_supervisor(slot, settled)}
    for who in order:
        next(steps[who])
    if goes_ahead == [True]:
        assert settled[0] > 1, "it runs, so it must not be taken back"
    assert settled[0] in (1, 2)


def test_only_a_job_that_runs_is_interrupted(board):
    """One that has ended meanwhile is let be; the reason is there before the mark."""
    slot = board.slot(0)
    start(slot, 3, 103, cell=1)
    assert not slot.interrupt(2, Reason.TIMEOUT)
    assert slot.interrupt(3, Reason.DEADLINE)
    assert slot.words[slot.cells[1].interrupt_at] == 4
    assert slot.words[slot.cells[1].reason_at] == Reason.DEADLINE


# --- the lock -----------------------------------------------------------------------------------------------------------


def test_the_board_of_a_living_worker_cannot_be_taken(board):
    """Its file is for its owner alone."""
    assert lock_if_dead(board.path) is None
    assert os.stat(board.path).st_mode & 0o777 == 0o600


def test_a_board_that_was_removed_is_gone(path):
    """A worker that stopped in order leaves nothing to take over."""
    board = Board.create(path, 1, 1)
    board.remove()
    with pytest.raises(FileNotFoundError):
        lock_if_dead(board.path)


DYING_WORKER = """
import os, sys
from fireforget._pool.board import Board
board = Board.create(sys.argv[1], 2, 1)
for number, job in ((0, 77), (1, 88)):
    slot = board.slot(number)
    slot.clear()
    cell = slot.cells[0]
    slot.words[cell.number_at] = job
    slot.words[cell.index_at] = 1
    slot.words[slot.started_at] = 1
slot.words[slot.done_at] = 1
print(board.path, flush=True)
{}
"""


def test_a_killed_workers_board_tells_what_ran(run_python, path):
    """The kernel frees the lock; who gets it is the only one, and reads which jobs had started and not ended."""
    left = run_python(DYING_WORKER.format("sys.stdout.flush(); os._exit(0)"), path).strip()
    dead = lock_if_dead(left)
    assert dead.running_jobs() == {77}
    assert lock_if_dead(left) is None, "somebody else takes over already"
    dead.release()
    dead = lock_if_dead(left)
    dead.remove()
    assert not os.path.exists(left)


FORKING_WORKER = DYING_WORKER.format(
    """
if os.fork() == 0:
    {}
    print("forked", flush=True)
    sys.stdin.readline()
os._exit(0)
"""
)


def test_a_worker_with_a_living_child_is_not_dead(start_python, path, eventually):
    """While any process that may be running a job lives, nobody else runs it."""
    program = start_python(FORKING_WORKER.format("pass"), path)
    left = program.read()
    program.read()
    program.process.wait()
    assert lock_if_dead(left) is None
    program.say()
    eventually(lambda: (dead := lock_if_dead(left)) is not None and dead.remove() is None)


def test_a_handlers_own_fork_does_not_keep_the_lock(start_python, path, eventually):
    """A daemon that a handler has started outlives the worker; once it let go of the board, its life says nothing.

    It closes the board's descriptor, as every process does that a handler forks.
    """
    program = start_python(FORKING_WORKER.format("os.close(board.descriptor)"), path)
    left = program.read()
    program.read()
    program.process.wait()
    dead = lock_if_dead(left)
    program.say()
    assert dead is not None, "a process that runs no job still holds the worker's lock"
    dead.release()


@pytest.mark.parametrize("content", [b"", b"ffboard1", b"\0" * 4096, b"ffboard1" + b"\xff" * 16, b"another file altogether....."])
def test_a_board_that_cannot_be_read_tells_of_no_jobs(tmp_path, content):
    """A file that was cut short by a full disk must not stop a recovery."""
    file = tmp_path / "jobs.db-worker-1"
    file.write_bytes(content)
    dead = lock_if_dead(str(file))
    assert dead.running_jobs() == frozenset()
    dead.remove()


def test_the_file_has_all_its_blocks_from_the_start(tmp_path):
    """A store into a hole of a mapped file kills the process when the disk is full; so there are no holes."""
    import os

    made = Board.create(str(tmp_path / "jobs.db"), 64, 8)
    status = os.fstat(made.descriptor)
    made.remove()
    assert status.st_size > 8192
    assert status.st_blocks * 512 >= status.st_size
