"""Limits of what a queue keeps of jobs that ended, and trimming to them."""

from datetime import timedelta

import pytest

from fireforget import Inspector, InvalidOption, Registry, SkipRetry, State, Task
from fireforget._limits import MOST_TRIMMED, QueueLimits, Trimming
from fireforget.testing import drain


@pytest.fixture
def inspector(queue):
    return Inspector(queue)


@pytest.fixture
def trimming(queue, clock):
    made = Trimming(queue._database, clock)
    yield made
    made.close()


@pytest.fixture
def archive(queue, clock):
    """Enqueue and archive so many jobs, a second apart; return their ids, the oldest first."""
    registry = Registry()

    @registry.task("t")
    def t():
        raise SkipRetry

    def archive(number, queue_name="default"):
        ids = []
        for _ in range(number):
            ids.append(queue.enqueue(Task("t"), queue=queue_name).id)
            drain(queue, registry)
            clock.advance(1)
        return ids

    return archive


def kept(inspector, state="archived", queue="default"):
    return [info.id for info in inspector.tasks(state, queue=queue)]


def test_without_limits_nothing_is_trimmed(inspector, trimming, archive, clock):
    """Dead letters stay until somebody decides otherwise."""
    ids = archive(3)
    clock.advance(10 * 365 * 86400)
    assert trimming.step() is None and trimming.next_at == float("inf")
    assert kept(inspector) == ids


def test_the_oldest_beyond_the_number_go(inspector, trimming, archive, sql):
    """With their attempts; other queues and states are left alone."""
    others = archive(2, "low")
    ids = archive(5)
    inspector.set_limits("default", archived_max=2)
    assert trimming.step() == ("default", State.ARCHIVED, 3)
    assert trimming.step() is None
    assert kept(inspector) == ids[3:] and kept(inspector, queue="low") == others
    assert sql("SELECT count(*) FROM fireforget_attempt") == [(4,)]


def test_the_ones_above_the_age_go_when_their_time_has_come(inspector, trimming, archive, clock):
    """And it is known when that is, so that nobody has to look before."""
    ids = archive(3)
    ended = clock() - 3
    inspector.set_limits("default", archived_age=timedelta(minutes=1))
    assert trimming.step() is None
    assert trimming.next_at == ended + 60
    clock.now = ended + 61
    assert trimming.step() == ("default", State.ARCHIVED, 2)
    assert kept(inspector) == ids[2:]


def test_a_transaction_trims_few(queue, inspector, trimming):
    """So that it holds up nobody, however much there is."""
    queue.enqueue_many([Task("t")] * (MOST_TRIMMED + 5))
    inspector.cancel_all("pending")
    inspector.set_limits("default", cancelled_max=0)
    assert [trimming.step() for _ in range(3)] == [
        ("default", State.CANCELLED, MOST_TRIMMED),
        ("default", State.CANCELLED, 5),
        None,
    ]


def test_two_workers_never_trim_more_than_is_too_much(queue, inspector, archive, clock, monkeypatch):
    """Both pick the oldest: what the other has deleted meanwhile is not made up for."""
    ids = archive(5)
    inspector.set_limits("default", archived_max=3)
    one, other = Trimming(queue._database, clock), Trimming(queue._database, clock)
    delete = one._delete
    monkeypatch.setattr(one, "_delete", lambda *picked: (other.step(), delete(*picked))[1])
    assert one.step() == ("default", State.ARCHIVED, 0)
    assert kept(inspector) == ids[2:]
    one.close()
    other.close()


def test_nothing_to_trim_is_no_write(inspector, trimming, archive, sql):
    """An idle worker looks, and leaves the file alone."""
    archive(1)
    inspector.set_limits("default", archived_max=1, archived_age=1000)
    before = sql("PRAGMA data_version")
    assert trimming.step() is None
    assert sql("PRAGMA data_version") == before


def test_limits_are_kept_and_changed_one_by_one(inspector, open_queue):
    """In the database, so that they hold for every worker; None removes one."""
    assert inspector.limits("low") == QueueLimits()
    inspector.set_limits("low", archived_max=10, archived_age=60)
    inspector.set_limits("low", completed_age=5.5)
    assert inspector.set_limits("low", archived_age=None) == QueueLimits(archived_max=10, completed_age=5.5)
    again = Inspector(open_queue())
    assert again.limits("low") == QueueLimits(archived_max=10, completed_age=5.5)
    assert again.knows_queue("low")
    assert again.set_limits("low", archived_max=None, completed_age=None) == QueueLimits()
    again.set_limits("low", cancelled_max=0)
    again.delete_queue("low")
    assert again.limits("low") == QueueLimits()


@pytest.mark.parametrize(
    "limits",
    [{}, {"archived_max": -1}, {"archived_max": 1.5}, {"archived_max": True}, {"archived_age": 0}, {"completed_age": "1d"}],
)
def test_what_is_no_limit_is_refused(inspector, limits):
    """And changes nothing."""
    with pytest.raises(InvalidOption):
        inspector.set_limits("default", **limits)
    with pytest.raises(InvalidOption):
        inspector.set_limits(" ", archived_max=1)
    assert not inspector.knows_queue("default")
