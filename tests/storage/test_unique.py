"""`unique_for` and `unique_key`: one job of a kind at a time."""

import pytest

from fireforget import Registry, Task
from fireforget.errors import DuplicateTask


def test_a_second_one_is_refused_while_the_first_holds_the_key(queue, sql):
    """The error names the key and the job that holds it."""
    first = queue.enqueue(Task("report", {"day": 1}), unique_for=60, unique_key="report:1")
    with pytest.raises(DuplicateTask, match=rf"{first.id} holds the unique key 'report:1'") as caught:
        queue.enqueue(Task("other", 5), queue="low", unique_for=60, unique_key="report:1")
    assert (caught.value.unique_key, caught.value.existing_id) == ("report:1", first.id)
    queue.enqueue(Task("report"), unique_for=60, unique_key="report:2")
    queue.enqueue(Task("report"))
    assert sql("SELECT count(*) FROM fireforget_jobs") == [(3,)]


def test_the_key_is_by_default_queue_type_and_payload(queue):
    """Another queue, type or payload is another job."""
    task = Task("report", {"day": 1}, unique_for=60)
    first = queue.enqueue(task, task_id="first")
    for other in (Task("report", {"day": 2}), Task("report:", {"day": 1}), Task("report")):
        queue.enqueue(other, unique_for=60)
    queue.enqueue(task, queue="low")
    with pytest.raises(DuplicateTask) as caught:
        queue.enqueue(task)
    assert caught.value.existing_id == first.id


def test_the_order_in_which_arguments_are_written_does_not_matter(queue):
    """`send.task(a=1, b=2)` and `send.task(b=2, a=1)` are the same work, and so are equal payloads."""
    send = Registry().task("send", unique_for=60)(lambda a, b: None)
    queue.enqueue(send.task(a={"x": 1, "y": 2}, b=2))
    with pytest.raises(DuplicateTask):
        queue.enqueue(send.task(b=2, a={"y": 2, "x": 1}))


def test_a_handler_says_for_how_long_and_a_call_under_which_key(queue):
    """Options at the call are added to those of the task."""
    send = Registry().task("send", unique_for=60)(lambda to: None)
    queue.enqueue(send.task(to="a"), unique_key="user:1")
    with pytest.raises(DuplicateTask):
        queue.enqueue(send.task(to="b"), unique_key="user:1")


def test_the_key_is_free_when_its_time_has_passed(queue, clock):
    """By the clock, to the instant; the first job stays as it is."""
    first = queue.enqueue(Task("t"), unique_for=60)
    clock.advance(59.9)
    with pytest.raises(DuplicateTask):
        queue.enqueue(Task("t"), unique_for=60)
    clock.advance(0.1)
    second = queue.enqueue(Task("t"), unique_for=60)
    assert queue.get(first.id).state == queue.get(second.id).state == "pending"
    with pytest.raises(DuplicateTask) as caught:
        queue.enqueue(Task("t"), unique_for=60)
    assert caught.value.existing_id == second.id


def test_the_key_does_not_expire_under_a_running_job(queue, clock, sql):
    """It ends with the run."""
    queue.enqueue(Task("t"), unique_for=60)
    sql("UPDATE fireforget_job SET state = 3, worker = 1")
    clock.advance(1000)
    with pytest.raises(DuplicateTask):
        queue.enqueue(Task("t"), unique_for=60)


def test_the_key_is_free_when_its_job_is_removed(queue, sql):
    """A deleted job holds nothing."""
    queue.enqueue(Task("t"), unique_for=60)
    sql("DELETE FROM fireforget_job")
    queue.enqueue(Task("t"), unique_for=60)


def test_a_second_one_in_one_call_of_many_is_a_duplicate_too(queue, sql):
    """All or nothing, and `index` tells which."""
    with pytest.raises(DuplicateTask) as caught:
        queue.enqueue_many([Task("a"), Task("t"), Task("b"), Task("t")], unique_for=60)
    assert caught.value.index == 3
    assert sql("SELECT count(*) FROM fireforget_jobs") == [(0,)]
    assert len(queue.enqueue_many([Task("a"), Task("b")], unique_for=60)) == 2
