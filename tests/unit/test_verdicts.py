"""What becomes of jobs, above all of those whose process was killed: delays, excuses, counts; without processes."""

import logging

import pytest

from fireforget import Registry, exponential, fixed, metrics
from fireforget._claimed import Claimed
from fireforget._claims import HOOK
from fireforget._pool import verdicts as module
from fireforget._pool.board import Reason
from fireforget._pool.verdicts import CANCELLED, LEAST_UNCOUNTED_DELAY, Verdicts
from fireforget.errors import DEADLINE_PASSED, ChildDied, JobTimeout
from fireforget.retry import default_delay

ROW = Claimed(**{**dict.fromkeys(Claimed._fields, 0), "n": 12, "type": "t", "queue": "q", "max_retry": 3, "timeout": 9.0})
FENCE = (12, 1, 0)
LAST_RUN = tuple(ROW._replace(retry_count=3))
ROW = tuple(ROW)
KILL = 9


class Asked(list):
    """The questions that children were asked."""

    def __call__(self, message, slots):
        self.append(message)

    @property
    def token(self):
        (message,) = self
        return message[1]

    @property
    def at_limit(self):
        (message,) = self
        return message[-1]


@pytest.fixture
def asked():
    return Asked()


@pytest.fixture
def samples():
    return metrics.Samples()


@pytest.fixture
def verdicts_on(asked, samples):
    """Make the verdicts of a worker whose one handler has these options, by a clock that shows 0: instants are delays."""

    def verdicts_on(**options):
        registry = Registry()
        registry.task("t", **options)(lambda: None)
        return Verdicts(registry, samples, 1, "tag", lambda: 0.0, asked)

    return verdicts_on


def again(verdicts):
    """Return the delay of the one job that is tried again, how many attempts that costs, and its error."""
    ((due, attempts, error, _, *fence),) = verdicts.settlement.retried
    assert tuple(fence) == FENCE and verdicts.next_due == due
    return due, attempts, error


def archived(verdicts):
    """Return the error of the one job that has failed for good."""
    assert not verdicts.settlement.retried
    ((_, error, *fence),) = verdicts.settlement.archived
    assert tuple(fence) == FENCE
    return error


def counted(samples):
    """Return what was counted, by name and last label."""
    counts, _ = samples.snapshot()
    return {(name, labels[-1]) for name, labels in counts}


def died(verdicts, row=ROW):
    verdicts.died_with_its_child(row, 4711, -KILL, 0.0)


DEATH = "child process 4711 died: killed by signal 9 (SIGKILL)"

# --- the delay ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "delay"),
    [(0, 0), (60, 60), (fixed(1), 1), (exponential(first=7), 7), (fixed(0).on(ChildDied, 8), 8), (fixed(2).on(JobTimeout, 8), 2)],
)
def test_a_job_whose_process_died_waits_as_its_policy_says_of_that(verdicts_on, asked, samples, policy, delay):
    """A policy of ours is asked at once, no child has to be, and the run is counted as failed."""
    verdicts = verdicts_on(retry_delay=policy)
    died(verdicts)
    assert again(verdicts) == (delay, 1, DEATH) and not asked
    assert len(verdicts.settlement.attempts) == 1
    assert {("job_processed_total", "failed"), ("fireforget_jobs_retried_total", "q")} <= counted(samples)


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("options", [{"retry_delay": lambda n, error: 0}, {"retry_delay": 0, "is_failure": lambda error: True}])
def test_what_the_application_decides_a_child_is_asked(verdicts_on, asked, options, counts):
    """Nothing is settled before it has answered; a run that is no failure costs no attempt, and waits for a second at least."""
    verdicts = verdicts_on(**options)
    died(verdicts)
    assert not verdicts.settlement and verdicts.waits_for_answers and not asked.at_limit
    verdicts.answered(asked.token, 0.25, counts)
    assert again(verdicts) == (0.25 if counts else LEAST_UNCOUNTED_DELAY, int(counts), DEATH)
    assert len(verdicts.settlement.attempts) == counts
    assert not verdicts.waits_for_answers


def test_an_answer_that_comes_twice_counts_once(verdicts_on, asked):
    """Several children may have been asked."""
    verdicts = verdicts_on(retry_delay=lambda n, error: 0)
    died(verdicts)
    verdicts.answered(asked.token, 3.0, True)
    verdicts.answered(asked.token, 9.0, True)
    assert again(verdicts)[0] == 3


@pytest.mark.parametrize("all", [True, False])
def test_without_an_answer_in_time_the_default_delay_holds(verdicts_on, monkeypatch, all, caplog):
    """And at once when the worker stops, for there is nobody to wait for."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 60.0 if all else 0.0)
    monkeypatch.setattr(module, "default_delay", lambda retry_count: 17.0 + retry_count)
    verdicts = verdicts_on(retry_delay=lambda n, error: 0)
    died(verdicts)
    verdicts.give_up_waiting(all=all)
    assert again(verdicts)[0] == 17
    assert "retry_delay failed, used the default" in caplog.messages


def test_what_is_not_yet_due_is_waited_for(verdicts_on):
    """Five seconds are five seconds."""
    verdicts = verdicts_on(retry_delay=lambda n, error: 0)
    died(verdicts)
    verdicts.give_up_waiting(all=False)
    assert verdicts.waits_for_answers and not verdicts.settlement


def test_a_job_without_retries_left_is_archived_at_once(verdicts_on, samples):
    """There is nothing to wait for."""
    verdicts = verdicts_on(retry_delay=0)
    died(verdicts, LAST_RUN)
    assert archived(verdicts) == DEATH
    assert ("fireforget_jobs_archived_total", "q") in counted(samples)


@pytest.mark.parametrize("counts", [True, False])
def test_its_application_may_still_excuse_it(verdicts_on, asked, counts):
    """An excuse costs no attempt, so there is always one left."""
    verdicts = verdicts_on(retry_delay=0, is_failure=lambda error: False)
    died(verdicts, LAST_RUN)
    verdicts.answered(asked.token, 30.0, counts)
    assert (archived(verdicts) if counts else again(verdicts)) == (DEATH if counts else (30, 0, DEATH))


# --- limits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (Reason.TIMEOUT, "timed out after 9 s"),
        (Reason.TRANSACTION, "its transaction was open for longer than 2 s"),
        (Reason.DECISION, "its is_failure did not end within 5 s"),
    ],
)
def test_a_job_that_was_killed_at_a_limit_has_failed_with_a_timeout(verdicts_on, reason, error):
    """It says which limit, and its policy is asked about a `JobTimeout`."""
    verdicts = verdicts_on(retry_delay=fixed(60).on(JobTimeout, 4), transactional=True, transaction_timeout=2)
    verdicts.killed_at_limit(ROW, reason, 0.0)
    delay, attempts, told = again(verdicts)
    assert (delay, attempts) == (4, 1) and told.startswith(error)


def test_a_child_that_is_asked_about_it_knows_that_it_was_a_limit(verdicts_on, asked):
    """For it makes the error that the application's function is given."""
    verdicts_on(retry_delay=lambda n, error: 0).killed_at_limit(ROW, Reason.TIMEOUT, 0.0)
    assert asked.at_limit


def test_a_job_killed_at_its_deadline_is_archived(verdicts_on):
    """No further attempt could be in time."""
    verdicts = verdicts_on(retry_delay=0)
    verdicts.killed_at_limit(ROW, Reason.DEADLINE, 0.0)
    assert archived(verdicts) == DEADLINE_PASSED


def test_a_job_killed_after_it_was_cancelled_is_cancelled(verdicts_on, samples):
    """It has not failed."""
    verdicts = verdicts_on(retry_delay=0)
    verdicts.killed_at_limit(ROW, Reason.CANCELLED, 0.0)
    assert verdicts.settlement.cancelled == [(0.0, CANCELLED, *FENCE)]
    assert counted(samples) == {("fireforget_jobs_returned_total", "cancelled")}


# --- hooks --------------------------------------------------------------------------------------------------------------


def hook_row(deaths):
    return tuple(Claimed(*ROW)._replace(type=HOOK, payload='{"hook": "on_failure", "owner": "t"}', retry_count=deaths))


def test_a_hook_whose_process_died_is_called_again_but_not_for_ever(verdicts_on, monkeypatch):
    """At once, since a neighbour may have killed it; the third death is its last."""
    lost = []
    monkeypatch.setattr(module.hooks, "log_killed", lambda payload, tag, error: lost.append(error))
    for deaths in (0, 1):
        verdicts = verdicts_on()
        died(verdicts, hook_row(deaths))
        assert again(verdicts) == (0, 1, DEATH) and not lost
    verdicts = verdicts_on()
    died(verdicts, hook_row(2))
    assert verdicts.settlement.removed == [FENCE] and not verdicts.settlement.retried
    assert lost == [DEATH]


def test_a_hook_that_has_used_its_time_is_not_called_again(verdicts_on, monkeypatch):
    """It would use it again."""
    lost = []
    monkeypatch.setattr(module.hooks, "log_killed", lambda payload, tag, error: lost.append(error))
    verdicts = verdicts_on()
    verdicts.killed_at_limit(hook_row(0), Reason.TIMEOUT, 0.0)
    assert verdicts.settlement.removed == [FENCE] and lost == ["timed out after 9 s"]


# --- what goes back, and what holds when nobody has decided ------------------------------------------------------------------


@pytest.mark.parametrize(("options", "started", "given_back"), [
    ({}, False, []), ({"rate": "5/s"}, False, [FENCE]), ({"rate": "5/s"}, True, []), ({"concurrency": 1}, False, []),
])  # fmt: skip
def test_a_job_that_goes_back_unstarted_gives_its_place_in_the_rate_back(verdicts_on, options, started, given_back):
    """One that had started has used it."""
    verdicts = verdicts_on(**options)
    verdicts.put_back(ROW, started=started)
    assert verdicts.settlement.put_back == [FENCE] and verdicts.settlement.given_back == given_back


def test_a_job_that_was_interrupted_goes_back_and_costs_nothing(verdicts_on, samples):
    """Neither an attempt nor a failure in the metrics."""
    verdicts = verdicts_on()
    verdicts.interrupted(ROW, "shutdown", 0.0)
    assert verdicts.settlement.put_back == [FENCE] and not verdicts.settlement.attempts
    assert counted(samples) == {("fireforget_jobs_returned_total", "shutdown")}


def test_a_process_that_ended_while_a_delay_was_computed_leaves_what_held_then(verdicts_on, caplog):
    """The run is settled as the child had said before it asked."""
    verdicts = verdicts_on()
    with caplog.at_level(logging.ERROR):
        verdicts.died_undecided(ROW, ("retry", 1.0, 0.5, default_delay(0), "ValueError: no", None))
    assert again(verdicts)[1:] == (1, "ValueError: no")
    assert verdicts.settlement.attempts == [(1.0, 0.5, "ValueError: no", None, *FENCE)]
    assert "retry_delay failed, used the default" in caplog.messages


@pytest.mark.parametrize("outcome", [("unheard of",), ("retry", 1.0)])
def test_an_outcome_that_makes_no_sense_raises_and_settles_nothing(verdicts_on, outcome):
    """Whoever took it in archives the job."""
    verdicts = verdicts_on()
    with pytest.raises((KeyError, TypeError)):
        verdicts.told(ROW, outcome)
    assert not verdicts.settlement
