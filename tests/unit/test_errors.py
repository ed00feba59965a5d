"""Errors carry their data, also from one process to another."""

import copy
import pickle
from datetime import timedelta

import pytest

from fireforget import errors

EVERY_KIND = [
    errors.InvalidTask("no task"),
    errors.InvalidPayload("no JSON"),
    errors.InvalidOption("queue", "", "give text"),
    errors.UnknownOption("delay", "the options are ..."),
    errors.RegistrationError("taken"),
    errors.TaskIDConflict("order-17"),
    errors.DuplicateTask("user:1", "order-17"),
    errors.UnknownJob("order-17"),
    errors.StoreBusy("jobs.db", "locked"),
    errors.QueueClosed("closed"),
    errors.SkipRetry("no use"),
    errors.RevokeTask("pointless"),
    errors.RetryLater(5, "rate limit"),
    errors.JobTimeout("timed out after 5 s"),
]


@pytest.mark.parametrize("error", EVERY_KIND, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_way_between_processes(error):
    """A `ProcessPoolExecutor` pickles what a call raises; an error that cannot be unpickled breaks the whole pool."""
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other) == vars(error)


def test_interruptions_pass_through_an_except_exception():
    """A handler that catches everything it can still ends at its timeout."""
    assert not issubclass(errors.JobTimeout, Exception)
    assert not issubclass(errors.JobCancelled, Exception)


def test_one_root_for_everything_that_a_caller_may_catch():
    """`except FireforgetError` is enough, and `except TimeoutError` meets a lock that was not to be had."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, errors.FireforgetError) for kind in kinds)
    assert issubclass(errors.StoreBusy, TimeoutError)
    assert issubclass(errors.UnknownJob, LookupError)


@pytest.mark.parametrize("seconds", [-1, True, float("nan"), float("inf"), "5", None])
def test_retry_later_refuses_what_is_no_delay(seconds):
    """The mistake shows where it was written."""
    with pytest.raises(errors.InvalidOption):
        errors.RetryLater(seconds)


def test_retry_later_takes_seconds_and_timedelta():
    """As every other duration does."""
    assert errors.RetryLater(timedelta(minutes=1)).seconds == 60.0
    assert str(errors.RetryLater(2)) == "retry in 2 s"


def test_a_message_shows_the_beginning_of_a_long_value_and_carries_all_of_it():
    """A payload that was given for a queue does not fill the log."""
    error = errors.InvalidOption("queue", "x" * 10_000, "give a name")
    assert str(error) == f"queue='{'x' * 76}...: give a name"
    assert (error.value, error.remedy) == ("x" * 10_000, "give a name")


def test_a_value_that_cannot_be_shown_does_not_hide_what_is_wrong_with_it():
    """Its class is named instead."""

    class Odd:
        def __repr__(self):
            raise RuntimeError

    assert str(errors.InvalidOption("queue", Odd(), "give text")) == "queue=<Odd>: give text"


def test_an_empty_path_is_seen_in_the_message():
    """It is most often a variable that is not set."""
    assert str(errors.StoreUnavailable("", "give a path")) == "'': give a path"
