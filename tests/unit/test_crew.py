"""The supervisor's view of its children, without processes: what it leaves on the board when they are dead."""

import select
import signal

import pytest

from fireforget import metrics
from fireforget._claimed import Claimed
from fireforget._pool import board
from fireforget._pool.config import Settings
from fireforget._pool.crew import Crew
from fireforget._pool.enforcer import Enforcer

PID = 4711
ROW = tuple(Claimed(**{**dict.fromkeys(Claimed._fields, 0), "n": 12, "timeout": None, "deadline": None}))


class Helper:
    """Forks nothing, signals nobody."""

    def fork_child(self, slot, connection):
        connection.close()

    def signal_child(self, pid, number):
        pass


class Verdicts:
    """Notes what is said of jobs, none of which has settled itself."""

    def __init__(self):
        self.said = []

    def settled_before_death(self, row):
        return False

    def __getattr__(self, name):
        return lambda *said, **more: self.said.append(name)


@pytest.fixture
def crew(tmp_path):
    """A crew whose one child runs job 12."""
    own = board.Board.create(str(tmp_path / "jobs.db"), 2, 1)
    settings, enforcer = Settings.checked(concurrency=1), Enforcer(lambda pid, number: None, None)
    crew = Crew(settings, own, Helper(), enforcer, metrics.Samples(), select.poll(), ("tag", "path"))
    crew.verdicts = Verdicts()
    crew.fork_missing()
    crew._forked(0, PID)
    crew.hand_out([ROW], {0: 1}, {})
    slot = own.slot(0)
    slot.words[slot.cells[0].number_at] = 12
    slot.words[slot.cells[0].index_at] = slot.words[slot.started_at] = 1
    yield crew
    crew.close()
    own.remove()


@pytest.fixture
def found_running(crew):
    """Return what a worker that takes over finds running on the board."""

    def found_running():
        with open(crew._board.path, "rb") as file:
            return board.DeadBoard(crew._board.path, file.fileno()).running_jobs()

    return found_running


def test_a_job_whose_process_is_killed_at_the_end_of_a_stop_was_not_running_when_the_worker_died(crew, found_running):
    """Should the stop fail to store that, the next worker does not count a death for it."""
    assert found_running() == {12}
    crew.kill_all()
    crew._died(PID, signal.SIGKILL)
    assert crew.verdicts.said == ["interrupted", "ask_again"] and not found_running()


def test_neither_was_one_whose_helper_died(crew, found_running):
    """It goes back as it was."""
    crew.abandon()
    assert crew.verdicts.said == ["put_back"] and not found_running()


def test_a_job_under_which_its_process_died_stays_on_the_board(crew, found_running):
    """Until the slot is used again: should the worker die before it has stored that, the job is not innocent."""
    crew._died(PID, signal.SIGSEGV)
    assert crew.verdicts.said == ["died_with_its_child", "ask_again"] and found_running() == {12}
