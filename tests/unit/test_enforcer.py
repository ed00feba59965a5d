"""The enforcer's decisions, by a clock of the test's: when a job is interrupted, and when its process is killed."""

import signal
from time import monotonic

import pytest

from fireforget._claimed import Claimed
from fireforget._pool.board import Board, Reason
from fireforget._pool.config import DECISION_SECONDS, KILL_GRACE
from fireforget._pool.enforcer import INTERRUPT_SIGNAL, Enforcer, Watched

PID = 4711


@pytest.fixture
def board(tmp_path):
    board = Board.create(str(tmp_path / "jobs.db"), 1, 1)
    yield board
    board.remove()


@pytest.fixture
def child(board):
    """A child whose job 0, with a timeout of 2 s, has begun just now."""
    slot = board.slot(0)
    slot.clear()
    slot.words[slot.cells[0].index_at] = 1
    slot.doubles[slot.cells[0].began_at] = monotonic()
    row = Claimed(**{**dict.fromkeys(Claimed._fields, 0), "timeout": 2.0, "deadline": None})
    return Watched(PID, slot, {0: row})


@pytest.fixture
def look(child):
    """Have an enforcer look at the child some seconds after the job began; return the signals that it sends."""
    sent = []
    enforcer = Enforcer(lambda pid, number: sent.append(number), None)
    began = child.slot.doubles[child.slot.cells[0].began_at]

    def look(seconds):
        sent.clear()
        enforcer._check(child, began + seconds)
        return list(sent)

    return look


def test_a_job_is_interrupted_at_its_limit_and_killed_a_second_later(look):
    """Once each."""
    assert [look(seconds) for seconds in (1.9, 2.1, 2.5, 3.2, 9)] == [[], [INTERRUPT_SIGNAL], [], [signal.SIGKILL], []]


def test_what_has_ended_by_then_is_not_killed(look, child):
    """Its handler has heeded the interruption, or had ended before it."""
    assert look(2.1) == [INTERRUPT_SIGNAL]
    child.slot.words[child.slot.done_at] = 1
    assert [look(3.2), look(9)] == [[], []]


def test_a_decision_on_a_failure_has_five_seconds_from_its_beginning(look, child):
    """The job's own limit holds no more; at the end of its own it is interrupted, then killed, as a handler is."""
    assert look(2.1) == [INTERRUPT_SIGNAL]
    began = child.slot.doubles[child.slot.cells[0].began_at]
    child.slot.doubles[child.slot.cells[0].decides_at] = began + 2.2
    limit = 2.2 + DECISION_SECONDS
    moments = (3.3, limit - 0.1, limit + 0.1, limit + KILL_GRACE, limit + KILL_GRACE + 0.2)
    assert [look(seconds) for seconds in moments] == [[], [], [INTERRUPT_SIGNAL], [], [signal.SIGKILL]]
    assert child.killed_for == (0, Reason.DECISION)


def test_it_looks_again_before_a_decision_that_it_knows_nothing_of_can_be_too_long(child):
    """Children do not wake it: it looks every five seconds while they have jobs, and not at all when they have none."""
    enforcer = Enforcer(lambda pid, number: None, None)
    now = monotonic()
    assert enforcer._check(child, now) <= now + DECISION_SECONDS
    child.jobs.clear()
    assert enforcer._check(child, now) == float("inf")
