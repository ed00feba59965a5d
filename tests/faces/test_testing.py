"""`fireforget.testing`, used as the tests of an application use it: what was handed over, and what became of it."""

import asyncio
import os
import threading
from datetime import UTC, datetime, timedelta

import pytest

from fireforget import (
    DuplicateTask,
    Enqueuer,
    FireforgetError,
    Inspector,
    InvalidOption,
    InvalidPayload,
    InvalidTask,
    QueueClosed,
    Registry,
    RetryLater,
    RevokeTask,
    SkipRetry,
    SqliteQueue,
    State,
    StoreBusy,
    Task,
    TaskIDConflict,
    UnknownJob,
    UnknownOption,
    Worker,
    current_job,
    fire_and_forget,
    flush,
)
from fireforget.errors import JobCancelled
from fireforget.testing import ManualClock, RecordingEnqueuer, drain

START = datetime(2027, 1, 15, 8, 0, tzinfo=UTC)


@pytest.fixture
def clock():
    return ManualClock(START)


@pytest.fixture
def recorder(clock):
    return RecordingEnqueuer(clock=clock)


@pytest.fixture
def queue(drainable):
    return drainable


@pytest.fixture
def registry(patient_registry):
    return patient_registry


@pytest.fixture
def note(registry, done):
    """A handler that writes down what it was given."""

    @registry.task("note")
    def note(text: str) -> None:
        done.append(text)

    return note


# --- the clock ------------------------------------------------------------------------------------------------------------


def test_time_passes_when_the_test_says_so(clock):
    """Seconds or a timedelta, and never backwards by accident."""
    assert clock.now == START
    assert clock() == START.timestamp()
    clock.advance(90)
    clock.advance(timedelta(minutes=1))
    assert clock.now == START + timedelta(seconds=150)
    with pytest.raises(InvalidOption, match="seconds=-1"):
        clock.advance(-1)
    with pytest.raises(InvalidOption, match="naive"):
        clock.move_to(datetime(2027, 1, 15))


def test_a_clock_starts_at_the_present_moment():
    """What an application computes from its own `datetime.now` then fits."""
    before = datetime.now(UTC)
    clock = ManualClock()
    assert before <= clock.now + timedelta(seconds=0.001)
    assert clock.now <= datetime.now(UTC)


@pytest.mark.parametrize("delay", [1 / 3, 2 / 3, 0.1234567])
def test_a_clock_can_be_moved_to_when_a_job_is_due(queue, registry, clock, note, delay):
    """Also where the instant has more digits than a datetime."""
    due = queue.enqueue(note.task(text="a"), process_in=delay).next_process_at
    assert drain(queue, registry) == []
    clock.move_to(due)
    assert len(drain(queue, registry)) == 1


def test_a_clock_that_was_moved_is_where_it_was_moved_to(clock):
    """To the microsecond, also back: as when somebody sets a machine's clock."""
    for seconds in (86400.1234567, 0.000001, 1e9 / 3, -1 / 3):
        instant = START + timedelta(seconds=seconds)
        clock.move_to(instant)
        assert clock.now == instant
    assert clock.now < START
    far = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    clock.move_to(far)
    assert far.timestamp() <= clock()


# --- what was handed over ---------------------------------------------------------------------------------------------------


def test_what_an_application_enqueues_is_recorded_in_order(recorder, note):
    """Jobs with everything that a queue answers, and the tasks as they were made."""
    assert isinstance(recorder, Enqueuer)
    first = recorder.enqueue(note.task(text="a"), queue="critical", headers={"trace": "1"})
    recorder.enqueue(Task("email:send", {"to": "ada"}), process_in=60, task_id="mail")
    recorder.enqueue_many([Task("email:bounce"), Task("emails")], priority=3)

    assert recorder.jobs[0] == first
    assert (first.type, first.queue, first.state, first.payload) == ("note", "critical", "pending", {"text": "a"})
    assert (first.headers, first.enqueued_at, first.max_retry, first.timeout) == ({"trace": "1"}, START, 25, 1800)
    mail = recorder.jobs[1]
    assert (mail.id, mail.state, mail.next_process_at) == ("mail", "scheduled", START + timedelta(seconds=60))
    assert [job.priority for job in recorder.jobs] == [0, 0, 3, 3]
    assert [task.type for task in recorder.tasks()] == ["note", "email:send", "email:bounce", "emails"]
    assert recorder.tasks("note") == [note.task(text="a")]
    assert [task.type for task in recorder.tasks("email:")] == ["email:send", "email:bounce"]


def test_what_was_recorded_can_be_forgotten(recorder, note):
    """Between two parts of a test; ids and keys are free again, and nothing fails any more."""
    recorder.enqueue(note.task(text="a"), task_id="a", unique_for=60)
    recorder.fail_with(StoreBusy("jobs.db", "locked"))
    recorder.clear()
    assert recorder.jobs == recorder.tasks() == []
    recorder.enqueue(note.task(text="a"), task_id="a", unique_for=60)
    assert len(recorder.jobs) == 1


@pytest.mark.parametrize(
    ("task", "options", "error"),
    [
        ("note", {}, InvalidTask),
        (Task("note"), {"priority": "high"}, InvalidOption),
        (Task("note"), {"colour": "red"}, UnknownOption),
        (Task("note"), {"timeout": 0}, InvalidOption),
        (Task("note"), {"process_in": 1, "process_at": START}, InvalidOption),
        (Task("note", "x" * 2**20), {}, InvalidPayload),
        (Task("note"), {"task_id": "taken"}, TaskIDConflict),
        (Task("note"), {"unique_for": 60, "unique_key": "taken"}, DuplicateTask),
    ],
)
def test_what_a_queue_refuses_is_refused_with_the_same_words(task, options, error, clock, tmp_path):
    """A test that passes here does not fail in production."""
    said = []
    with SqliteQueue(tmp_path / "jobs.db", clock=clock) as real:
        for enqueuer in (real, RecordingEnqueuer(clock=clock)):
            enqueuer.enqueue(Task("first"), task_id="taken", unique_for=60, unique_key="taken")
            with pytest.raises(error) as caught:
                enqueuer.enqueue(task, **options)
            with pytest.raises(error) as caught_in_many:
                enqueuer.enqueue_many([task], **options)
            said.append((type(caught.value), str(caught.value), type(caught_in_many.value)))
    assert said[0] == said[1]
    assert [info.id for info in enqueuer.jobs] == ["taken"]


def test_many_are_all_or_nothing(recorder):
    """And the error tells which one it was."""
    with pytest.raises(InvalidTask) as caught:
        recorder.enqueue_many([Task("fine"), "not a task"])
    assert caught.value.index == 1
    with pytest.raises(TaskIDConflict) as caught:
        recorder.enqueue_many([Task("fine"), Task("a", task_id="a"), Task("b", task_id="a")])
    assert caught.value.index == 2
    assert recorder.enqueue_many([]) == recorder.jobs == []


def test_a_unique_key_expires_by_the_clock(recorder, clock):
    """A test of a debounce needs no real time."""
    first = recorder.enqueue(Task("report", unique_for=60))
    with pytest.raises(DuplicateTask) as caught:
        recorder.enqueue(Task("report", unique_for=60))
    assert caught.value.existing_id == first.id
    clock.advance(60)
    recorder.enqueue(Task("report", unique_for=60))


def test_a_connection_needs_a_file(recorder):
    """What memory cannot do is said, with what can."""
    with pytest.raises(InvalidOption, match="SqliteQueue"):
        recorder.enqueue(Task("note"), connection=object())


def test_a_coroutine_can_enqueue(recorder):
    """By the same name as on a queue."""
    info = asyncio.run(recorder.enqueue_async(Task("note"), queue="low"))
    assert recorder.jobs == [info]


def test_threads_may_share_a_recorder(recorder):
    """An application under test may have its own threads."""
    start = threading.Barrier(8)

    def produce():
        start.wait()
        for _ in range(50):
            recorder.enqueue(Task("note"))
            recorder.enqueue_many([Task("note")] * 2)

    threads = [threading.Thread(target=produce) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for job in recorder.jobs}) == 8 * 150


def test_what_is_fired_and_forgotten_is_recorded(recorder, note):
    """After a flush, as in the application itself."""
    fire_and_forget(recorder, note.task(text="a"))
    assert flush(timeout=5) == 0
    assert [(job.type, job.queue) for job in recorder.jobs] == [("note", "low")]


def test_a_recorder_can_be_closed_like_a_queue(note):
    """An application that enqueues after its own shutdown is found out."""
    with RecordingEnqueuer() as recorder:
        job = recorder.enqueue(note.task(text="a"))
    with pytest.raises(QueueClosed):
        recorder.enqueue(note.task(text="b"))
    assert recorder.jobs == [job]


# --- an enqueuer in trouble -------------------------------------------------------------------------------------------------


def test_a_failure_can_be_ordered(recorder, note):
    """For as many calls as the test wants; then nothing is stored."""
    recorder.fail_with(StoreBusy("jobs.db", "locked"), times=2)
    for _ in range(2):
        with pytest.raises(StoreBusy, match=r"jobs\.db: locked"):
            recorder.enqueue(note.task(text="a"))
    recorder.enqueue(note.task(text="b"))

    recorder.fail_with(ConnectionError)
    with pytest.raises(ConnectionError):
        recorder.enqueue_many([note.task(text="c")])
    with pytest.raises(InvalidTask):  # what is wrong with the call comes first, as with a queue
        recorder.enqueue("c")
    recorder.fail_with(None)
    recorder.enqueue(note.task(text="d"))
    assert [task.payload["text"] for task in recorder.tasks()] == ["b", "d"]


@pytest.mark.parametrize(("error", "times"), [("locked", None), (int, None), (OSError, 0), (OSError, True)])
def test_a_failure_that_cannot_be_is_refused(recorder, error, times):
    """A test with a mistake in it must not pass."""
    with pytest.raises(InvalidOption):
        recorder.fail_with(error, times=times)


# --- running jobs -----------------------------------------------------------------------------------------------------------


def test_a_drain_runs_what_is_due_and_tells_what_became_of_it(queue, registry, clock):
    """With the result, and with all that a job has."""

    @registry.task("sum")
    def sum_up(numbers):
        return {"sum": sum(numbers)}

    queue.enqueue(sum_up.task(numbers=[1, 2]), task_id="gone")
    queue.enqueue(sum_up.task(numbers=[3]), retention=60)
    gone, kept = drain(queue, registry)
    assert (gone.id, gone.type, gone.outcome, gone.error) == ("gone", "sum", "completed", None)
    assert (gone.state, gone.result, gone.started_at, gone.completed_at) == ("completed", {"sum": 3}, START, START)
    assert (gone.worker, gone.next_process_at) == (None, None)
    with pytest.raises(UnknownJob):
        queue.get("gone")
    assert (kept.outcome, kept.result) == ("completed", {"sum": 3})
    assert queue.get(kept.id).result == {"sum": 3}
    assert repr(gone) == "<FinishedRun sum gone: completed>"

    assert drain(queue, registry) == []
    clock.advance(60)
    assert drain(queue, registry) == []
    with pytest.raises(UnknownJob):  # its retention has passed
        queue.get(kept.id)


def test_a_handler_sees_its_job(queue, registry):
    """`current_job()` works, and what it is told is kept."""
    seen = []

    @registry.task("report", max_retry=3, timeout=9)
    def report():
        job = current_job()
        seen.append((job.id, job.type, job.queue, job.retry_count, job.max_retry, job.timeout, job.headers, job.deadline))
        job.progress(0.5, "half")
        job.write_result(["so far"])

    for number, retention in enumerate((0, 60)):
        deadline = START + timedelta(seconds=1)
        queue.enqueue(report.task(), task_id=f"{number}", retention=retention, headers={"a": "b"}, deadline=deadline, queue="low")
    for number, run in enumerate(drain(queue, registry)):
        assert seen[number] == (f"{number}", "report", "low", 0, 3, 9, {"a": "b"}, deadline)
        assert (run.result, run.progress.fraction, run.progress.note) == (["so far"], 0.5, "half")
    with pytest.raises(FireforgetError):
        current_job()


def test_a_failed_job_waits_for_its_next_attempt_and_ends_archived(queue, registry, clock):
    """With the registry's delay, until the retries are used up; the error is there to look at."""

    @registry.task("fail", max_retry=1)
    def fail():
        raise ConnectionError("no route")

    queue.enqueue(fail.task())
    (run,) = drain(queue, registry)
    assert (run.outcome, run.state, run.retry_count) == ("retry", "retry", 1)
    assert run.last_error == "ConnectionError: no route"
    assert isinstance(run.error, ConnectionError)
    assert run.next_process_at == START + timedelta(seconds=60)
    assert repr(run).endswith(": retry, ConnectionError: no route>")

    clock.advance(59)
    assert drain(queue, registry) == []
    clock.advance(1)
    (run,) = drain(queue, registry)
    assert (run.outcome, run.state, run.retry_count, run.completed_at) == ("archived", "archived", 1, clock.now)
    clock.advance(10_000)
    assert drain(queue, registry) == []
    assert queue.get(run.id).state is State.ARCHIVED


def test_attempts_are_recorded_as_by_a_worker(tmp_path, registry, clock):
    """With the traceback from the handler on."""

    @registry.task("fail")
    def fail():
        raise ValueError("bad")

    with SqliteQueue(tmp_path / "jobs.db", clock=clock) as queue:
        job_id = queue.enqueue(fail.task()).id
        drain(queue, registry)
        (attempt,) = Inspector(queue).attempts(job_id)
    assert (attempt.number, attempt.started_at, attempt.error) == (1, START, "ValueError: bad")
    assert attempt.traceback.splitlines()[1].endswith("in fail")


@pytest.mark.parametrize(
    ("error", "outcome", "state", "retry_count"),
    [
        (SkipRetry("never"), "archived", "archived", 0),
        (RetryLater(5), "postponed", "retry", 0),
        (RevokeTask(), "revoked", "cancelled", 0),
        (JobCancelled("stop"), "cancelled", "cancelled", 0),
        (SystemExit(3), "retry", "retry", 1),
        (KeyboardInterrupt(), "retry", "retry", 1),
    ],
)
def test_what_a_handler_raises_steers_its_job(queue, registry, error, outcome, state, retry_count):
    """And never ends the test, not even what would end a process."""

    @registry.task("raise")
    def do_raise():
        raise error

    queue.enqueue(do_raise.task())
    (run,) = drain(queue, registry)
    assert (run.outcome, run.state, run.retry_count) == (outcome, state, retry_count)
    assert error in (run.error, run.error.__cause__)


def test_a_payload_that_does_not_fit_is_archived(queue, registry, note):
    """As by a worker: a producer of another version is a case to test."""
    queue.enqueue(Task("note", {"txet": "a"}))
    (run,) = drain(queue, registry)
    assert (run.outcome, run.retry_count) == ("archived", 0)
    assert "does not fit" in run.last_error


def test_a_result_that_is_not_json_fails_nothing(queue, registry):
    """The job succeeded; its result is null."""
    registry.task("odd")(lambda: {1, 2})
    queue.enqueue(Task("odd"))
    queue.enqueue(Task("odd"), retention=60)
    assert [(run.outcome, run.result) for run in drain(queue, registry)] == [("completed", None)] * 2


def test_a_job_past_its_deadline_is_not_run(queue, registry, clock, note, done):
    """The deadline is looked at when it starts."""
    queue.enqueue(note.task(text="a"), deadline=START + timedelta(seconds=1))
    clock.advance(1)
    (run,) = drain(queue, registry)
    assert (run.outcome, run.error, run.last_error) == ("archived", None, "deadline passed")
    assert done == []


def test_a_delayed_job_runs_when_it_is_due(queue, registry, clock, note, done):
    """By the clock of the queue."""
    queue.enqueue(note.task(text="later"), process_in=3600)
    assert drain(queue, registry) == []
    clock.advance(3600)
    drain(queue, registry)
    assert done == ["later"]


def test_what_handlers_enqueue_runs_as_well(queue, registry, done):
    """However they enqueue it."""

    @registry.task("count")
    def count(n):
        done.append(n)
        if n == 1:
            queue.enqueue_many([count.task(n=2)])
        elif n == 2:
            fire_and_forget(queue, count.task(n=3))
        elif n == 3:
            queue.enqueue(count.task(n=4), process_in=1)

    fire_and_forget(queue, count.task(n=1))
    assert [run.payload["n"] for run in drain(queue, registry)] == [1, 2, 3]
    assert done == [1, 2, 3]
    if isinstance(queue, RecordingEnqueuer):
        assert [job.payload["n"] for job in queue.jobs] == [1, 2, 3, 4]


def test_middleware_is_around_every_job(queue, registry, note, done, caplog):
    """The application's own, and the logging that is there by default."""

    @registry.use
    def shout(job, call_next):
        done.append(f"before {job.type}")
        call_next()
        done.append("after")
        return "replaced"

    caplog.set_level("INFO", logger="fireforget")
    queue.enqueue(note.task(text="a"))
    (run,) = drain(queue, registry)
    assert done == ["before note", "a", "after"]
    assert run.result == "replaced"
    assert [(record.message, record.task_id) for record in caplog.records] == [("task processed", run.id)]


def test_call_next_is_for_one_run(queue, registry, note, done):
    """Called when the run is over, by a thread that middleware has left behind, it does not run the next job a second time."""
    calls = []

    @registry.use
    def hand_over(job, call_next):
        calls.append(call_next)
        if job.payload["text"] == "b":
            with pytest.raises(FireforgetError, match="is over"):
                calls[0]()
            return call_next()
        return None

    queue.enqueue_many([note.task(text="a"), note.task(text="b")])
    drain(queue, registry)
    assert done == ["b"]


def test_a_job_says_nothing_of_itself_after_its_run(queue, registry):
    """What a thread reports that outlived its handler is not the next job's progress or result."""
    jobs = []

    @registry.task("keep")
    def keep(n):
        jobs.append(current_job())
        if n == 1:
            for late in (lambda: jobs[0].write_result("late"), lambda: jobs[0].progress(1)):
                with pytest.raises(FireforgetError, match="is over"):
                    late()

    queue.enqueue_many([keep.task(n=0), keep.task(n=1)])
    assert [run.result for run in drain(queue, registry)] == [None, None]


def test_async_handlers_run(queue, registry):
    """In one event loop for a drain, as in one child."""
    loops = set()

    @registry.task("wait")
    async def wait(fail):
        loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        if fail:
            raise SystemExit(3)
        return current_job().id

    for fail in (False, True, False):
        queue.enqueue(wait.task(fail=fail))
    runs = drain(queue, registry)
    assert [run.outcome for run in runs] == ["completed", "retry", "completed"]
    assert runs[2].result == runs[2].id
    assert len(loops) == 1
    assert loops.pop().is_closed()


def test_an_async_test_drains_in_a_thread(queue, registry, done):
    """In its own loop it could not wait for async handlers, and that is said before anything runs."""

    @registry.task("wait")
    async def wait():
        done.append("waited")

    async def test():
        queue.enqueue(wait.task())
        with pytest.raises(FireforgetError, match="to_thread"):
            drain(queue, registry)
        assert done == []
        return await asyncio.to_thread(drain, queue, registry)

    assert [run.outcome for run in asyncio.run(test())] == ["completed"]


def test_errors_can_be_raised(queue, registry, note, done):
    """For a test that wants the traceback; the job is settled, what comes after it waits."""

    @registry.task("fail")
    def fail(error):
        raise {"RetryLater": RetryLater(1), "ValueError": ValueError("bad")}[error]

    queue.enqueue(fail.task(error="RetryLater"))  # a wish of the handler's, no error
    job_id = queue.enqueue(fail.task(error="ValueError")).id
    queue.enqueue(note.task(text="after"))
    with pytest.raises(ValueError, match="bad"):
        drain(queue, registry, raise_errors=True)
    assert queue.get(job_id).state is State.RETRY
    assert done == []
    drain(queue, registry)
    assert done == ["after"]


# --- order and choice -------------------------------------------------------------------------------------------------------


def test_inside_a_queue_priority_comes_first_then_what_was_due_first(queue, registry, clock, note, done):
    """Then what was enqueued first."""
    queue.enqueue(note.task(text="second"))
    queue.enqueue(note.task(text="third"))
    queue.enqueue(note.task(text="first"), priority=1)
    queue.enqueue(note.task(text="last"), process_in=20)
    queue.enqueue(note.task(text="fourth"), process_in=10)
    clock.advance(60)
    drain(queue, registry)
    assert done == ["first", "second", "third", "fourth", "last"]


@pytest.fixture
def full_lanes(queue, note):
    """The three queues of a worker out of the box, with more in them than their share of ten."""
    for name in ("low", "default", "critical"):
        queue.enqueue_many([note.task(text=name[0])] * 12, queue=name)


@pytest.mark.usefixtures("full_lanes")
def test_queues_share_by_weight(queue, registry, done):
    """Six, three and one of ten, as a worker out of the box; or as the test says."""
    drain(queue, registry, max_jobs=10)
    assert "".join(sorted(done)) == "ccccccdddl"
    done.clear()
    drain(queue, registry, queues={"low": 2, "default": 1}, max_jobs=6)
    assert "".join(done) == "ldlldl"
    done.clear()
    drain(queue, registry, queues=["low", "default"], max_jobs=4)
    assert sorted(done) == ["d", "d", "l", "l"]


@pytest.mark.usefixtures("full_lanes")
def test_heavier_queues_can_go_first_always(queue, registry, done):
    """As with a worker's flag of this name."""
    drain(queue, registry, strict_priority=True)
    assert "".join(done) == "c" * 12 + "d" * 12 + "l" * 12


def test_queues_of_any_name_are_served(queue, registry, note, done):
    """A test is not told which ones a worker serves, unless it says so."""
    for name in ("reports", "mail"):
        queue.enqueue(note.task(text=name), queue=name)
    assert drain(queue, registry, queues=["default"]) == []
    drain(queue, registry)
    assert sorted(done) == ["mail", "reports"]


def test_types_without_a_handler_and_paused_queues_are_left_alone(path, sql, registry, note):
    """As by a worker."""
    with SqliteQueue(path) as queue:
        foreign = queue.enqueue(Task("of another application"))
        held = queue.enqueue(note.task(text="a"), queue="held")
        sql("INSERT INTO fireforget_queue (name, paused_at) VALUES ('held', 1)")
        assert drain(queue, registry) == []
        assert queue.get(foreign.id).state == queue.get(held.id).state == "pending"
        sql("DELETE FROM fireforget_queue")
        assert [run.id for run in drain(queue, registry)] == [held.id]


def test_a_drain_can_stop_early(queue, registry, note, done):
    """After a number of jobs, or at one that the test waits for."""
    queue.enqueue_many([note.task(text=text) for text in "abcde"])
    assert len(drain(queue, registry, max_jobs=2)) == 2
    runs = drain(queue, registry, until=lambda run: run.payload["text"] == "d")
    assert [run.payload["text"] for run in runs] == ["c", "d"]
    assert done == ["a", "b", "c", "d"]


@pytest.mark.parametrize("wrong", [{"max_jobs": 0}, {"max_jobs": "1"}, {"queues": []}, {"queues": {"a": 0}}, {"queues": "a"}])
def test_arguments_that_cannot_be_are_refused(queue, registry, wrong):
    """At once."""
    with pytest.raises(InvalidOption):
        drain(queue, registry, **wrong)


# --- beside the real thing --------------------------------------------------------------------------------------------------


def test_a_drain_that_was_stopped_leaves_its_job_pending(queue, registry, note, done, monkeypatch):
    """A Ctrl-C between two steps loses nothing, and costs the job no attempt."""
    job_id = queue.enqueue(note.task(text="a")).id
    with monkeypatch.context() as patch:
        patch.setattr("fireforget.testing.Runner.run", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            drain(queue, registry)
    info = queue.get(job_id)
    assert (info.state, info.retry_count, info.worker) == ("pending", 0, None)
    drain(queue, registry)
    assert done == ["a"]


def _interrupted(*_):
    raise KeyboardInterrupt


def test_a_closed_queue_is_not_drained(tmp_path, registry):
    """It says so."""
    queue = SqliteQueue(tmp_path / "jobs.db")
    queue.close()
    with pytest.raises(QueueClosed):
        drain(queue, registry)


def test_a_drain_leaves_nothing_behind(tmp_path, registry, note):
    """No worker in the database, no file beside it, no count that a later worker would take for its own."""
    from fireforget import middleware

    with SqliteQueue(tmp_path / "jobs.db") as queue:
        queue.enqueue(note.task(text="a"))
        drain(queue, registry)
        assert Inspector(queue).workers() == []
    assert [name for name in os.listdir(tmp_path) if "worker" in name] == []
    assert middleware.samples.drain() is None


def test_a_drain_and_a_worker_share_a_queue(tmp_path, registry, eventually):
    """Each job runs once, whoever takes it; the drain stands in the database like a worker."""
    running, go_on = threading.Event(), threading.Event()

    @registry.task("slow")
    def slow():
        running.set()
        assert go_on.wait(10)

    with SqliteQueue(tmp_path / "jobs.db") as queue:
        held = queue.enqueue(slow.task())
        runs = []
        draining = threading.Thread(target=lambda: runs.extend(drain(queue, registry)))
        draining.start()
        assert running.wait(10)
        assert queue.get(held.id).worker == f"drain:{os.getpid()}"

        other = Registry()
        other.task("quick")(lambda: "by the worker")
        quick = queue.enqueue(Task("quick"), retention=60)
        worker = Worker(other, queue, concurrency=1)
        worker.start()
        assert queue.wait(quick.id, 10).result == "by the worker"
        assert queue.get(held.id).state == "active"
        worker.shutdown()

        go_on.set()
        draining.join()
    assert [run.outcome for run in runs] == ["completed"]


# --- mistakes ---------------------------------------------------------------------------------------------------------------


def test_a_drain_of_something_else_says_what_it_needs(recorder, registry):
    """Arguments in the wrong order, a path, a registry's module: at once, and by name."""
    for arguments, said in (
        ((registry, recorder), r"the queue comes first, drain\(queue, registry\)"),
        (("jobs.db", registry), r"open it, SqliteQueue\('jobs\.db'\)"),
        ((recorder, None), "drain needs a Registry, not None"),
        ((None, registry), "drain needs a SqliteQueue or a RecordingEnqueuer, not None"),
    ):
        with pytest.raises(TypeError, match=said):
            drain(*arguments)


def test_a_recorder_that_is_waited_for_says_that_nothing_runs_by_itself(recorder):
    """A test would otherwise look for a mistake in its own code."""
    assert not hasattr(recorder, "wait")
    with pytest.raises(AttributeError, match="has no wait, since nothing runs by itself: drain it"):
        recorder.wait("id")
    with pytest.raises(AttributeError, match="'RecordingEnqueuer' object has no attribute 'wiat'"):
        recorder.wiat("id")
