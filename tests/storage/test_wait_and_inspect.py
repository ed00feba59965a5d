"""Reading: one job, waiting for one, and the counts of all."""

import threading
from datetime import UTC, datetime
from time import monotonic

import pytest

from fireforget import Inspector, State, Task
from fireforget.errors import InvalidOption, QueueClosed, UnknownJob

COMPLETE = "UPDATE fireforget_job SET state = 5, worker = NULL, result = '{\"sum\":3}', completed_at = 1800000005.0"


@pytest.fixture
def inspector(queue):
    return Inspector(queue)


def test_wait_returns_the_job_with_its_result(queue, sql):
    """As soon as it has completed; at once when it has already."""
    info = queue.enqueue(Task("t"), retention=60)
    pending = threading.Event()
    got = []

    def wait():
        pending.set()
        got.append(queue.wait(info.id, timeout=10))

    waiter = threading.Thread(target=wait)
    waiter.start()
    pending.wait()
    sql(COMPLETE)
    waiter.join()
    assert (got[0].state, got[0].result) == ("completed", {"sum": 3})
    assert queue.wait(info.id) == got[0] == queue.get(info.id)
    assert got[0].next_process_at is None


@pytest.mark.parametrize("number", [6, 9])
def test_wait_ends_when_a_job_failed_for_good_or_was_cancelled(queue, sql, number):
    """Whoever waits sees why in the job."""
    info = queue.enqueue(Task("t"))
    sql(f"UPDATE fireforget_job SET state = {number}, last_error = 'ValueError: no'")
    assert queue.wait(info.id, 1).last_error == "ValueError: no"


def test_wait_gives_up_after_its_time(queue):
    """With the state in which the job is; 0 asks once."""
    info = queue.enqueue(Task("t"))
    began = monotonic()
    with pytest.raises(TimeoutError, match=rf"job {info.id} is pending after 0\.1 s"):
        queue.wait(info.id, timeout=0.1)
    assert 0.1 <= monotonic() - began < 1
    with pytest.raises(TimeoutError):
        queue.wait(info.id, 0)
    with pytest.raises(InvalidOption):
        queue.wait(info.id, -1)


def test_wait_says_when_a_job_is_gone(queue, sql):
    """It completed and was not kept: nobody can tell its result any more."""
    info = queue.enqueue(Task("t"))
    with pytest.raises(UnknownJob, match="retention"):
        queue.wait("never was")
    sql("DELETE FROM fireforget_job")
    with pytest.raises(UnknownJob):
        queue.wait(info.id, 5)


def test_what_a_foreign_program_stored_can_be_looked_at(queue, sql, inspector):
    """A payload that is not JSON, or not even text, is shown as it is."""
    for task_id, payload in (("a", "{no json"), ("b", b"\xff\xfe"), ("c", 5)):
        sql("INSERT INTO fireforget_enqueue (type, task_id, payload, headers) VALUES ('t', ?, ?, '{')", (task_id, payload))
    sql("INSERT INTO fireforget_enqueue (type, task_id, payload) VALUES ('t', 'd', CAST(x'22ff22' AS TEXT))")
    assert queue.get("a").payload == "{no json"
    assert queue.get("c").payload == 5
    assert queue.get("b").payload == r"\xff\xfe"
    assert queue.get("d").payload is not None
    assert queue.get("a").headers == {}
    assert [info.id for info in inspector.tasks("pending")] == ["a", "b", "c", "d"]
    for payload in ("NaN", "[1e999]"):
        sql("INSERT INTO fireforget_enqueue (type, task_id, payload, headers) VALUES ('t', ?, ?, ?)",
            (payload, payload, '{"a": 1, "b": "c"}'))  # fmt: skip
        assert (queue.get(payload).payload, queue.get(payload).headers) == (payload, {"b": "c"})


# --- Inspector ----------------------------------------------------------------------------------------------------------


def test_queues_are_counted_by_state_with_the_age_of_their_oldest(queue, inspector, sql, clock):
    """Zeros included; a queue that was only paused is there too."""
    assert inspector.queues() == []
    queue.enqueue_many([Task("t")] * 3, queue="low")
    clock.advance(30)
    queue.enqueue_many([Task("t"), Task("t", None, process_in=5)])
    sql("UPDATE fireforget_job SET state = 3, worker = 1 WHERE n = 1")
    sql("UPDATE fireforget_job SET state = 6 WHERE n = 2")
    sql("INSERT INTO fireforget_queue (name, paused_at) VALUES ('held', 1), ('low', NULL)")
    default, held, low = inspector.queues()
    assert (default.name, default.size, default.latency, default.paused) == ("default", 2, 0.0, False)
    assert {state: n for state, n in default.counts.items() if n} == {State.PENDING: 1, State.SCHEDULED: 1}
    assert (held.name, held.size, held.latency, held.paused) == ("held", 0, 0.0, True)
    assert (low.name, low.latency, low.paused) == ("low", 30.0, False)
    assert {state: n for state, n in low.counts.items() if n} == {State.PENDING: 1, State.ACTIVE: 1, State.ARCHIVED: 1}
    assert set(low.counts) == set(State)


def test_every_state_is_counted(queue, inspector, sql):
    """None is forgotten in the sum."""
    queue.enqueue_many([Task("t")] * 9)
    sql("UPDATE fireforget_job SET state = n, worker = CASE WHEN n = 3 THEN 1 END")
    (stats,) = inspector.queues()
    assert stats.counts == dict.fromkeys(State, 1)


def test_jobs_of_a_state_come_in_pages(queue, inspector, sql):
    """In the order in which they were enqueued, from one queue or all."""
    ids = [info.id for info in queue.enqueue_many([Task("t")] * 5 + [Task("t", None, queue="low")])]
    pages, after = [], None
    while page := inspector.tasks("pending", limit=2, after=after):
        pages.append([info.id for info in page])
        after = pages[-1][-1]
    assert pages == [ids[:2], ids[2:4], ids[4:]]
    assert [info.id for info in inspector.tasks(State.PENDING, queue="low")] == ids[5:]
    assert inspector.tasks("archived") == []
    with pytest.raises(InvalidOption, match="did you mean 'pending'"):
        inspector.tasks("pendng")
    with pytest.raises(InvalidOption, match=r"give an open queue: Inspector\(SqliteQueue\('own.db'\)\)"):
        Inspector("own.db")
    with pytest.raises(UnknownJob):
        inspector.tasks("pending", after="gone")


def test_attempts_are_listed_first_to_last(queue, inspector, sql):
    """When, how long, which worker, which error."""
    info = queue.enqueue(Task("t"), task_id="own")
    assert inspector.attempts(info.id) == []
    for attempt in (2, 1):
        sql("INSERT INTO fireforget_attempt VALUES (1, ?, 1800000000.5, 0.25, 'w', 'E', 'trace')", (attempt,))
    first, second = inspector.attempts("own")
    assert (first.number, second.number, first.duration, first.worker) == (1, 2, 0.25, "w")
    assert (first.error, first.traceback) == ("E", "trace")
    assert first.started_at == datetime.fromtimestamp(1800000000.5, UTC)
    assert sql("SELECT id, attempt, error FROM fireforget_attempts ORDER BY attempt") == [("own", 1, "E"), ("own", 2, "E")]
    with pytest.raises(UnknownJob):
        inspector.attempts("gone")


def test_one_job_by_its_id(queue, inspector):
    """The same as the queue's own `get`."""
    info = queue.enqueue(Task("t"))
    assert inspector.task(info.id) == info
    queue.close()
    with pytest.raises(QueueClosed):
        inspector.queues()
