"""A child's work on a frame, on this process's own threads."""

import threading

import pytest

from fireforget import Registry
from fireforget._claimed import Claimed
from fireforget._pool.board import Board
from fireforget._pool.child import LATE, _AtOnce, _InTurn

ABSENT = dict.fromkeys(("payload", "headers", "deadline", "task_id"))
ROWS = [tuple(Claimed(**{**dict.fromkeys(Claimed._fields, 0), **ABSENT, "n": n, "type": "t", "timeout": 9.0})) for n in range(4)]
LONG_AGO, LATER = 0.0, float("inf")


class Child:
    """Notes what a child would tell its supervisor; `at_the_end` is set when it has told of two runs."""

    tag, worker, is_foreign = "tag", 1, False

    def __init__(self):
        self.registry = Registry()
        self.ran = []
        self.registry.task("t")(lambda: self.ran.append("t"))
        self.outcomes = {}
        self.positions = []
        self.at_the_end = threading.Event()

    def definition(self, type):
        return self.registry.match(type)

    def database(self):
        raise AssertionError("no test needs it")

    store = send = database

    def finish_job(self, index, outcome, always):
        self.outcomes[index] = outcome

    def report_position(self, position, kept, runs, seconds):
        self.positions.append((position, kept, runs))
        if sum(runs for _, _, runs in self.positions) == 2:
            self.at_the_end.set()


@pytest.fixture
def slot_of(tmp_path):
    """Make the slot of a child with so many threads."""
    boards = []

    def slot_of(threads):
        boards.append(Board.create(str(tmp_path / "jobs.db"), 1, threads))
        slot = boards[-1].slot(0)
        slot.clear()
        return slot

    yield slot_of
    for board in boards:
        board.remove()


def test_jobs_that_came_too_late_to_be_started_are_no_runs(slot_of):
    """Else runs of no time would tell the supervisor that jobs are short, and the next frames would be long."""
    child = Child()
    _InTurn(child, slot_of(1)).take(0, ROWS, {0: LONG_AGO, 1: LONG_AGO, 2: LATER})
    assert {index for index, outcome in child.outcomes.items() if outcome == LATE} == {0, 1}
    assert child.positions == [(4, 4, 2)] and len(child.ran) == 2


def test_neither_are_they_with_several_threads(slot_of):
    """There each job counts for itself."""
    child = Child()
    work = _AtOnce(child, slot_of(2))
    work.take(0, ROWS, {0: LONG_AGO, 1: LONG_AGO, 2: LATER})
    assert child.at_the_end.wait(5)
    work.finish()
    assert {index for index, outcome in child.outcomes.items() if outcome == LATE} == {0, 1}
    assert sum(runs for _, _, runs in child.positions) == 2 and len(child.ran) == 2
