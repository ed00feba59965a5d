"""The promises of enqueuers: those that we ship keep them, and the checks notice when somebody's own does not."""

from dataclasses import replace

import pytest

from fireforget import InvalidOption, SqliteQueue, TaskIDConflict
from fireforget.testing import RecordingEnqueuer, check_enqueuer


class Plain:
    """An enqueuer as small as can be, made of another."""

    def __init__(self):
        self._recording = RecordingEnqueuer()

    def enqueue(self, task, *, timeout=None, **options):
        return self._recording.enqueue(task, timeout=timeout, **options)


def test_the_file_keeps_what_enqueuers_promise(tmp_path):
    """Whoever replaces the file by another engine replaces like by like."""
    with SqliteQueue(tmp_path / "jobs.db") as queue:
        assert "an id is taken once" in check_enqueuer(lambda: queue)


@pytest.mark.parametrize("make", [RecordingEnqueuer, Plain])
def test_others_keep_it_as_well(make):
    """The one for tests, and a class with one method."""
    assert len(check_enqueuer(make)) == 12


class Forgetful(Plain):
    """Drops an option in silence."""

    def enqueue(self, task, *, timeout=None, **options):
        return replace(super().enqueue(task, timeout=timeout, **options), priority=0)


class SaysNo(Plain):
    """Refuses the same option, by its name."""

    def enqueue(self, task, *, timeout=None, **options):
        info = super().enqueue(task, timeout=timeout, **options)
        if info.priority:
            raise InvalidOption("priority", info.priority, "this engine has none")
        return info


class Repeats(Plain):
    """Takes an id twice."""

    def enqueue(self, task, *, timeout=None, **options):
        try:
            return super().enqueue(task, timeout=timeout, **options)
        except TaskIDConflict:
            return super().enqueue(task, timeout=timeout, **{**options, "task_id": None})


class Hidden(Plain):
    """Raises errors of its own for what is wrong with a call."""

    def enqueue(self, task, *, timeout=None, **options):
        try:
            return super().enqueue(task, timeout=timeout, **options)
        except Exception as error:
            raise RuntimeError("no") from error


def test_an_option_may_be_refused_but_not_dropped():
    """A job that lost its priority on the way is found by nobody else."""
    check_enqueuer(SaysNo)
    with pytest.raises(AssertionError, match="priority is 0 and should be 3"):
        check_enqueuer(Forgetful)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Repeats, "a task_id that is taken should raise TaskIDConflict and was taken"),
        (Hidden, "a negative max_retry raised RuntimeError: no and should raise InvalidTask"),
        (object, "has no method enqueue"),
    ],
)
def test_the_checks_name_each_promise_that_is_broken(make, said):
    """Whoever writes an enqueuer learns what to mend, all of it at once."""
    with pytest.raises(AssertionError) as error:
        check_enqueuer(make)
    assert said in str(error.value)
