"""What `enqueue` stores, what it returns, and what it refuses."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from fireforget import Enqueuer, Inspector, Registry, Task, chain
from fireforget.errors import (
    InvalidOption,
    InvalidPayload,
    InvalidTask,
    TaskIDConflict,
    UnknownJob,
    UnknownOption,
)


def count(sql):
    return sql("SELECT count(*) FROM fireforget_jobs")[0][0]


def test_a_queue_is_an_enqueuer(queue):
    """Patterns depend on nothing else."""
    assert isinstance(queue, Enqueuer)


def test_defaults_are_those_of_the_table(queue, clock):
    """asynq's: 25 retries, half an hour, no retention."""
    info = queue.enqueue(Task("email:send"))
    now = datetime.fromtimestamp(clock.now, UTC)
    assert (info.type, info.queue, info.state, info.payload, info.headers) == ("email:send", "default", "pending", None, {})
    assert (info.priority, info.retry_count, info.max_retry, info.timeout, info.deadline) == (0, 0, 25, 1800.0, None)
    assert (info.enqueued_at, info.next_process_at, info.started_at, info.completed_at) == (now, now, None, None)
    assert (info.last_error, info.result, info.progress, info.group, info.worker) == (None, None, None, None, None)
    assert isinstance(info.id, str)
    assert queue.get(info.id) == info


def test_every_option_is_stored(queue, clock):
    """What comes back from the file is what the call returned."""
    deadline = datetime(2031, 1, 1, tzinfo=UTC)
    info = queue.enqueue(
        Task("t", {"a": 1}),
        queue="low",
        priority=-4,
        max_retry=0,
        run_timeout=timedelta(minutes=2),
        deadline=deadline,
        process_in=60,
        task_id="order-17",
        retention=3600,
        headers={"traceparent": "x"},
    )
    assert (info.id, info.queue, info.priority, info.max_retry, info.timeout) == ("order-17", "low", -4, 0, 120.0)
    assert (info.deadline, info.headers, info.state) == (deadline, {"traceparent": "x"}, "scheduled")
    assert info.next_process_at.timestamp() == clock.now + 60
    assert queue.get("order-17") == info


def test_the_call_wins_over_the_task_which_wins_over_the_default(queue):
    """`timeout` of the task is the run time, `timeout` of the call only how long it may wait."""
    registry = Registry()
    handler = registry.task("t", queue="critical", max_retry=3, timeout=30)(lambda: None)
    assert queue.enqueue(handler.task()).queue == "critical"
    info = queue.enqueue(handler.task(), queue="low", timeout=9)
    assert (info.queue, info.max_retry, info.timeout) == ("low", 3, 30.0)
    assert queue.enqueue(handler.task(), run_timeout=5).timeout == 5.0


def test_a_deadline_alone_is_no_timeout(queue):
    """The half hour is only where neither is given."""
    at = datetime(2031, 1, 1, tzinfo=UTC)
    assert queue.enqueue(Task("t"), deadline=at).timeout is None
    assert queue.enqueue(Task("t"), deadline=at, run_timeout=5).timeout == 5.0


def test_a_job_that_is_due_is_pending(queue, clock):
    """An instant in the past included."""
    past = datetime.fromtimestamp(clock.now - 5, UTC)
    assert queue.enqueue(Task("t"), process_in=0).state == "pending"
    assert queue.enqueue(Task("t"), process_at=past).state == "pending"
    assert queue.enqueue(Task("t"), process_in=0.001).state == "scheduled"
    assert queue.enqueue(Task("t", None, process_in=60), process_at=past).state == "pending"


@pytest.mark.parametrize("timeout", [0, -1, True, "5", float("inf")])
def test_a_call_that_may_not_wait_at_all_is_refused(queue, timeout):
    """`timeout=0` would mean something else to everybody."""
    with pytest.raises(InvalidOption):
        queue.enqueue(Task("t"), timeout=timeout)
    with pytest.raises(InvalidOption):
        queue.enqueue_many([Task("t")], timeout=timeout)


def test_a_mistake_in_the_call_stores_nothing(queue, sql):
    """It is told before anything is written."""
    for wrong in (
        lambda: queue.enqueue("email:send"),
        lambda: queue.enqueue(Task("t"), delay=5),
        lambda: queue.enqueue(Task("t"), max_retry=-1),
        lambda: queue.enqueue(Task("t"), process_in=1, process_at=datetime.now(UTC)),
    ):
        with pytest.raises(InvalidTask):
            wrong()
    assert count(sql) == 0


def test_an_unknown_option_of_a_call_lists_those_of_a_call(queue):
    """Where the run time is `run_timeout`: the remedy must not be one that is refused in its turn."""
    with pytest.raises(UnknownOption, match="run_timeout"):
        queue.enqueue(Task("t"), timeoutt=1)


def test_a_payload_above_max_payload_is_refused_in_bytes(open_queue, sql):
    """Bytes of UTF-8, not characters; the limit itself still fits."""
    queue = open_queue(max_payload=12)
    queue.enqueue(Task("t", "ä" * 5))
    with pytest.raises(InvalidPayload, match="has 14 bytes of JSON and max_payload is 12"):
        queue.enqueue(Task("t", "ä" * 6))
    assert count(sql) == 1


def test_a_payload_of_a_megabyte_is_taken_by_default_and_no_more(queue):
    """The default of `max_payload`."""
    queue.enqueue(Task("t", "x" * (1024 * 1024 - 2)))
    with pytest.raises(InvalidPayload):
        queue.enqueue(Task("t", "x" * (1024 * 1024 - 1)))


def test_enqueue_async_stores_from_a_coroutine(queue):
    """With the arguments and errors of `enqueue`."""

    async def main():
        with pytest.raises(UnknownOption):
            await queue.enqueue_async(Task("t"), delay=1)
        return await queue.enqueue_async(Task("t"), queue="low")

    assert queue.get(asyncio.run(main()).id).queue == "low"


# --- many ---------------------------------------------------------------------------------------------------------------


def test_many_are_stored_in_their_order_with_ids_of_their_own(queue, sql):
    """Whatever iterable they come from, with the call's options for all of them."""
    infos = queue.enqueue_many((Task("t", n, task_id=f"own-{n}" if n % 3 == 0 else None) for n in range(2500)), queue="low")
    assert [info.payload for info in infos] == list(range(2500))
    assert len({info.id for info in infos}) == 2500
    assert sql("SELECT id, payload FROM fireforget_jobs") == [(info.id, str(info.payload)) for info in infos]
    assert queue.enqueue_many([]) == []
    assert [queue.get(info.id) for info in infos[::500]] == infos[::500]


@pytest.mark.parametrize(("tasks", "index", "kind"), [
    ([Task("a"), Task("b", task_id="x"), Task("c", task_id="x"), Task("d")], 2, TaskIDConflict),
    ([Task("a"), Task("b", task_id="taken"), Task("c")], 1, TaskIDConflict),
    ([Task("a", task_id="taken")], 0, TaskIDConflict),
    ([Task("a"), "no task"], 1, InvalidTask),
    ([Task("a"), Task("b"), Task("c", "x" * 2_000_000)], 2, InvalidPayload),
])  # fmt: skip
def test_many_are_stored_all_or_none_and_the_error_tells_which(queue, sql, tasks, index, kind):
    """So that the caller can leave that one out."""
    queue.enqueue(Task("t", task_id="taken"))
    with pytest.raises(kind) as caught:
        queue.enqueue_many(tasks)
    assert caught.value.index == index
    assert count(sql) == 1


# --- ids ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", range(1, 10))
def test_a_task_id_is_taken_as_long_as_its_job_is_stored_in_whatever_state(queue, sql, state):
    """Only a job that is gone frees it."""
    queue.enqueue(Task("t", 1), task_id="order-17")
    sql("UPDATE fireforget_job SET state = ?, worker = CASE WHEN ? = 3 THEN 1 END", (state, state))
    with pytest.raises(TaskIDConflict, match="order-17") as caught:
        queue.enqueue(Task("t", 2), task_id="order-17")
    assert caught.value.task_id == "order-17"
    assert queue.get("order-17").payload == 1
    sql("DELETE FROM fireforget_job")
    assert queue.enqueue(Task("t", 2), task_id="order-17").payload == 2


def test_a_task_id_that_looks_like_one_of_ours_is_refused(queue, sql):
    """It could be the id of a job that was or will be."""
    generated = queue.enqueue(Task("t")).id
    with pytest.raises(InvalidOption, match="choose another form"):
        queue.enqueue(Task("t"), task_id=generated)
    assert count(sql) == 1


@pytest.mark.parametrize("task_id", ["1", "a-b-c", "0", "ü/ 1", "-1", "a" * 512])
def test_a_task_id_may_be_any_text(queue, task_id):
    """Nothing is read into it."""
    assert queue.get(queue.enqueue(Task("t"), task_id=task_id).id).id == task_id


def test_an_id_is_never_used_again(queue, sql):
    """Not after the job is gone, not after the last of all."""
    seen = set()
    for _ in range(5):
        seen |= {info.id for info in queue.enqueue_many([Task("t")] * 3)}
        sql("DELETE FROM fireforget_job")
    assert len(seen) == 15


@pytest.mark.parametrize("job_id", ["", "order-18", "0000-1-00000000", "x-1-2", "-", "1"])
def test_an_id_that_was_never_given_is_unknown(queue, job_id):
    """Whatever its form."""
    with pytest.raises(UnknownJob) as caught:
        queue.get(job_id)
    assert caught.value.job_id == job_id


def test_an_id_of_another_file_is_unknown_here(open_queue, tmp_path):
    """Files name themselves in their ids, so that a mix-up does not find somebody else's job."""
    here = open_queue().enqueue(Task("t"))
    with pytest.raises(UnknownJob):
        other = open_queue(tmp_path / "other.db")
        other.enqueue(Task("t"))
        other.get(here.id)


@pytest.mark.parametrize("job_id", [None, 5, b"f112-1-00000000"])
def test_what_is_no_id_is_refused_with_a_word_on_ids(queue, job_id):
    """A `TaskInfo` or a number that was handed over is a slip, not an unknown job."""
    for ask in (queue.get, queue.wait, Inspector(queue).task, Inspector(queue).delete):
        with pytest.raises(InvalidOption, match=r"^job_id=.*such as info\.id$"):
            ask(job_id)


def test_one_task_where_several_are_taken_is_refused(queue):
    """With the way to hand it over."""
    for enqueue in (queue.enqueue_many, lambda task: chain(queue, task)):
        with pytest.raises(InvalidTask, match="is no list of tasks: give several"):
            enqueue(Task("t"))


def test_an_inspector_of_no_queue_is_refused():
    """Where it is made, not where it is first used."""
    with pytest.raises(InvalidOption, match="queue=5: give an open queue"):
        Inspector(5)
