"""What a program may rely on when it fires and forgets, with enqueuers as a user would write them."""

import gc
import logging
import signal
import threading
import weakref
from datetime import UTC, datetime, timedelta
from time import monotonic
from types import SimpleNamespace

import pytest

from fireforget import _submissions
from fireforget.errors import DuplicateTask, InvalidOption, InvalidTask, StoreBusy, TaskIDConflict, UnknownOption
from fireforget.patterns import (
    SubmissionCounts,
    configure,
    fire_and_forget,
    flush,
    has_pending,
    submission_counts,
)
from fireforget.task import Task

TASK = Task("email:send", {"to": "a@example.com"})


class Plain:
    """Any object with an `enqueue` method; this one remembers."""

    def __init__(self):
        self.calls = []

    def enqueue(self, task, *, timeout=None, **options):
        self.calls.append((task, timeout, options))
        return SimpleNamespace(id=f"job-{len(self.calls)}")

    @property
    def tasks(self):
        return [task for task, _, _ in self.calls]


class Sleeping(Plain):
    def enqueue(self, task, *, timeout=None, **options):
        threading.Event().wait(0.05)
        return super().enqueue(task, timeout=timeout, **options)


class Raising:
    def __init__(self, error):
        self.error = error

    def enqueue(self, task, *, timeout=None, **options):
        raise self.error


class Stuck:
    """Answers only after `release`; says when a call has come in."""

    def __init__(self):
        self.called = threading.Semaphore(0)
        self.release = threading.Event()
        self.calls = 0

    def enqueue(self, task, *, timeout=None, **options):
        self.calls += 1
        self.called.release()
        self.release.wait()
        return SimpleNamespace(id="late")


class Batches(Plain):
    """Takes batches. With `gate` it holds the first call, so that submissions come to wait together."""

    def __init__(self, *, gate=None):
        super().__init__()
        self.gate = gate
        self.entered = threading.Event()
        self.batches = []

    def _hold(self):
        self.entered.set()
        if self.gate is not None:
            self.gate.wait()

    def enqueue(self, task, *, timeout=None, **options):
        self._hold()
        return super().enqueue(task, timeout=timeout, **options)

    def refuse(self, tasks):
        """Raise for what shall not be taken."""

    def enqueue_many(self, tasks, *, timeout=None, **options):
        self._hold()
        self.batches.append((list(tasks), timeout, options))
        self.refuse(tasks)
        return [Plain.enqueue(self, task, timeout=timeout, **options) for task in tasks]


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Each test has a process's worth of submissions to itself."""
    monkeypatch.setattr(_submissions, "buffer", _submissions.Buffer())


@pytest.fixture
def stuck():
    enqueuer = Stuck()
    yield enqueuer
    enqueuer.release.set()


def numbered(count):
    return [Task("n", index) for index in range(count)]


def submit_together(enqueuer, tasks, **arguments):
    """Submit so that all but the first wait together: the gate opens when they have all come."""
    fire_and_forget(enqueuer, Task("first"))
    assert enqueuer.entered.wait(5)
    for task in tasks:
        fire_and_forget(enqueuer, task, **arguments)
    enqueuer.gate.set()


def failures(caplog):
    return [record for record in caplog.records if record.getMessage() == "fire-and-forget enqueue failed"]


# --- the caller is never held up ---


def test_a_task_arrives():
    """What is submitted is enqueued, once, and nothing is returned."""
    enqueuer = Plain()
    assert fire_and_forget(enqueuer, TASK) is None
    assert flush() == 0
    assert enqueuer.tasks == [TASK]


@pytest.mark.parametrize("make", [Sleeping, Stuck, lambda: Raising(OSError("down")), object])
def test_returns_within_10_ms_though_the_enqueuer_sleeps_hangs_or_raises(make):
    """The median call takes far less than 10 ms, whatever the enqueuer does."""
    enqueuer = make()
    took = []
    for task in numbered(50):
        before = monotonic()
        fire_and_forget(enqueuer, task, timeout=0.5)
        took.append(monotonic() - before)
    assert sorted(took)[len(took) // 2] < 0.01
    flush()


def test_100_submissions_to_an_enqueuer_that_sleeps_50_ms_all_arrive_in_time():
    """A slow enqueuer without batches is called from several threads: one after the other would time out."""
    enqueuer = Sleeping()
    before = monotonic()
    for task in numbered(100):
        fire_and_forget(enqueuer, task)
    assert flush() == 0
    assert monotonic() - before < 3
    assert len(enqueuer.calls) == 100


def test_no_thread_exists_before_the_first_submission():
    """Who never fires pays for no thread, flushes included."""
    before = threading.active_count()
    assert flush() == 0
    assert threading.active_count() == before


def test_its_threads_are_daemons():
    """No thread of ours is joined when the interpreter leaves."""
    fire_and_forget(Plain(), TASK)
    flush()
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("fireforget"))


# --- misuse is reported where it is written ---


@pytest.mark.parametrize("task", [None, "email:send", {"type": "x"}, object()])
def test_what_is_not_a_task_raises(task):
    """A mistake that is visible without the enqueuer is the one thing that raises."""
    with pytest.raises(InvalidTask):
        fire_and_forget(Plain(), task)
    assert submission_counts().submitted == 0


@pytest.mark.parametrize("options", [{"ques": "low"}, {"connection": None}, {"retries": 3}])
def test_an_unknown_option_raises(options):
    """A misspelt option is not swallowed."""
    with pytest.raises(UnknownOption):
        fire_and_forget(Plain(), TASK, **options)


@pytest.mark.parametrize("options", [{"max_retry": -1}, {"queue": ""}, {"process_at": datetime(2030, 1, 1)}])
def test_an_invalid_option_raises(options):
    """A wrong value is reported by name."""
    with pytest.raises(InvalidOption):
        fire_and_forget(Plain(), TASK, **options)


@pytest.mark.parametrize("timeout", [0, -1, 0.0, "5", True, timedelta(0), float("nan"), float("inf")])
def test_a_timeout_that_is_no_time_raises(timeout):
    """The timeout is above 0, in seconds or as a timedelta."""
    with pytest.raises(InvalidOption):
        fire_and_forget(Plain(), TASK, timeout=timeout)


@pytest.mark.parametrize("timeout", [None, 5, 5.0, timedelta(seconds=5), 10**12])
def test_the_enqueuer_is_told_how_long_it_may_wait(timeout):
    """The call's `timeout` is what is left of the submission's; None is 5 s."""
    enqueuer = Plain()
    fire_and_forget(enqueuer, TASK, timeout=timeout)
    assert flush() == 0
    limit = 10**12 if timeout == 10**12 else 5
    assert 0 < enqueuer.calls[0][1] <= limit


# --- options ---


def test_the_queue_is_low_also_where_the_task_says_otherwise():
    """A task's own queue is for those who wait; what is forgotten goes to low."""
    enqueuer = Plain()
    fire_and_forget(enqueuer, Task("t", queue="critical"))
    fire_and_forget(enqueuer, Task("t"), queue=None)
    flush()
    assert [options["queue"] for _, _, options in enqueuer.calls] == ["low", "low"]


def test_the_call_chooses_another_queue():
    """What the call says wins."""
    enqueuer = Plain()
    fire_and_forget(enqueuer, TASK, queue="critical")
    flush()
    assert enqueuer.calls[0][2] == {"queue": "critical"}


def test_options_reach_the_enqueuer_as_they_were_given():
    """The enqueuer converts options itself: a datetime stays one, and run_timeout keeps its name."""
    enqueuer = Plain()
    given = {"process_at": datetime(2030, 1, 1, tzinfo=UTC), "run_timeout": timedelta(minutes=1), "max_retry": 3}
    fire_and_forget(enqueuer, TASK, **given)
    flush()
    assert enqueuer.calls[0][2] == {"queue": "low", **given}


def test_later_changes_of_headers_are_not_seen(stuck):
    """As with payloads, what counts is the moment of the call."""
    enqueuer = Batches(gate=threading.Event())
    headers = {"trace": "1"}
    submit_together(enqueuer, [])
    fire_and_forget(enqueuer, TASK, headers=headers)
    headers["trace"] = "2"
    flush()
    assert enqueuer.calls[-1][2]["headers"] == {"trace": "1"}


# --- batches ---


def test_submissions_that_wait_together_are_committed_together():
    """An enqueuer with `enqueue_many` gets what waits as one batch, in the order of the calls."""
    enqueuer = Batches(gate=threading.Event())
    tasks = numbered(500)
    submit_together(enqueuer, tasks)
    assert flush() == 0
    assert [batch for batch, _, _ in enqueuer.batches] == [tasks]


def test_a_batch_has_one_set_of_options():
    """Submissions with different options are never mixed."""
    enqueuer = Batches(gate=threading.Event())
    submit_together(enqueuer, [])
    for task, queue in zip(numbered(6), ["a", "a", "b", "b", "b", "a"], strict=True):
        fire_and_forget(enqueuer, task, queue=queue)
    assert flush() == 0
    assert sum(len(batch) for batch, _, _ in enqueuer.batches) + len(enqueuer.calls) >= 6
    for batch, _, options in enqueuer.batches:
        assert len({task.payload in (0, 1, 5) for task in batch}) == 1
        assert options["queue"] == ("b" if batch[0].payload in (2, 3, 4) else "a")


def test_a_backlog_goes_in_batches_of_at_most_2000():
    """One commit does not grow without bound."""
    enqueuer = Batches(gate=threading.Event())
    submit_together(enqueuer, numbered(5_000))
    assert flush() == 0
    assert max(len(batch) for batch, _, _ in enqueuer.batches) <= 2_000
    assert len(enqueuer.tasks) == 5_001


@pytest.mark.parametrize("error", [TaskIDConflict("x"), DuplicateTask("k", None), InvalidTask("too large")])
def test_a_batch_refused_because_of_one_task_is_retried_without_it(error, caplog):
    """One bad task costs its neighbours nothing, and two calls suffice."""

    class Refusing(Batches):
        def refuse(self, tasks):
            bad = [index for index, task in enumerate(tasks) if task.payload == 3]
            if bad:
                error.index = bad[0]
                raise error

    enqueuer = Refusing(gate=threading.Event())
    submit_together(enqueuer, numbered(10))
    assert flush() == 1
    assert [len(batch) for batch, _, _ in enqueuer.batches] == [10, 9]
    assert len(failures(caplog)) == 1
    assert submission_counts() == SubmissionCounts(submitted=11, enqueued=10, failed=1, dropped=0)


def test_a_batch_in_which_most_are_duplicates_is_sorted_out_with_few_calls():
    """Many refusals in one batch cost two calls each at most, and everything that is good arrives in order."""

    class Unique(Batches):
        def refuse(self, tasks):
            for index, task in enumerate(tasks):
                if task.payload % 10:
                    error = DuplicateTask(str(task.payload), None)
                    error.index = index
                    raise error

        def enqueue(self, task, *, timeout=None, **options):
            if task.type == "n":
                self.refuse([task])
            return super().enqueue(task, timeout=timeout, **options)

    enqueuer = Unique(gate=threading.Event())
    submit_together(enqueuer, numbered(1_000))
    assert flush() == 900
    assert [task.payload for task in enqueuer.tasks[1:]] == list(range(0, 1_000, 10))
    assert len(enqueuer.batches) < 2_000


def test_any_other_batch_error_is_sorted_out_one_by_one(caplog):
    """An error that names no task does not fail those that it is not about."""

    class Picky(Batches):
        def refuse(self, tasks):
            raise OSError("something in here")

        def enqueue(self, task, *, timeout=None, **options):
            if task.payload == 3:
                raise OSError("it was this one")
            return super().enqueue(task, timeout=timeout, **options)

    enqueuer = Picky(gate=threading.Event())
    submit_together(enqueuer, numbered(10))
    assert flush() == 1
    assert len(enqueuer.batches) == 1
    assert [record.error for record in failures(caplog)] == ["OSError: it was this one"]


def test_a_busy_store_is_not_asked_again_for_each_task_of_a_batch(caplog):
    """A lock that outlasts a batch fails the batch, instead of thousands of calls that wait as long each."""

    class Busy(Batches):
        def refuse(self, tasks):
            raise StoreBusy("jobs.db", "locked")

    enqueuer = Busy(gate=threading.Event())
    submit_together(enqueuer, numbered(1_000))
    assert flush() == 1_000
    assert len(enqueuer.batches) == 1
    assert len(enqueuer.calls) == 1
    assert failures(caplog)[0].error == "StoreBusy: jobs.db: locked"


def test_what_has_time_left_is_tried_again_after_a_busy_batch():
    """The batch waits as long as its most urgent member; the others go on with what they have left."""

    class Busy(Batches):
        def refuse(self, tasks):
            if len(self.batches) == 1:
                threading.Event().wait(self.batches[0][1])
                raise StoreBusy("jobs.db", "locked")

    enqueuer = Busy(gate=threading.Event())
    fire_and_forget(enqueuer, Task("first"))
    assert enqueuer.entered.wait(5)
    for index, task in enumerate(numbered(10)):
        fire_and_forget(enqueuer, task, timeout=5 if index else 0.2)
    enqueuer.gate.set()
    assert flush() == 1
    assert [task.payload for task in enqueuer.tasks[1:]] == list(range(1, 10))


def test_a_submission_with_its_own_task_id_is_never_in_a_batch():
    """One id cannot be two jobs, so it is one call."""
    enqueuer = Batches(gate=threading.Event())
    submit_together(enqueuer, numbered(3), task_id="mine")
    flush()
    assert enqueuer.batches == []
    assert len(enqueuer.calls) == 4


# --- what the enqueuer may do ---


@pytest.mark.parametrize("error", [OSError("no"), SystemExit(1), KeyboardInterrupt(), GeneratorExit(), StopIteration()])
def test_whatever_an_enqueuer_raises_is_a_failure_and_the_next_one_arrives(error):
    """Nothing that an enqueuer raises reaches the caller, ends the process, or stops the machinery."""
    fire_and_forget(Raising(error), TASK)
    assert flush() == 1
    enqueuer = Plain()
    fire_and_forget(enqueuer, TASK)
    assert flush() == 0
    assert enqueuer.tasks == [TASK]


@pytest.mark.parametrize("answer", [None, 7, object()])
def test_an_answer_without_an_id_is_an_arrival(answer, caplog):
    """An enqueuer need not answer with a TaskInfo."""
    caplog.set_level(logging.DEBUG)
    enqueuer = Plain()
    enqueuer.enqueue = lambda task, *, timeout=None, **options: answer
    fire_and_forget(enqueuer, TASK)
    assert flush() == 0
    assert caplog.records[-1].task_id is None


def test_an_async_enqueuer_is_a_failure_that_is_said(caplog):
    """A coroutine that nobody runs enqueues nothing: it must not count as an arrival."""

    class Async:
        async def enqueue(self, task, *, timeout=None, **options): ...

    fire_and_forget(Async(), TASK)
    assert flush() == 1
    assert "async" in failures(caplog)[0].error


def test_an_enqueuer_need_not_be_hashable_or_weakly_referable():
    """Any object with the method will do."""

    class Awkward:
        __slots__ = ("tasks",)
        __hash__ = None

        def __eq__(self, other):
            return True

        def __bool__(self):
            raise RuntimeError("do not ask")

        def enqueue(self, task, *, timeout=None, **options):
            self.tasks.append(task)

    first, second = Awkward(), Awkward()
    first.tasks, second.tasks = [], []
    fire_and_forget(first, TASK)
    fire_and_forget(second, TASK)
    assert flush() == 0
    assert (len(first.tasks), len(second.tasks)) == (1, 1)


def test_a_wrapper_that_passes_attributes_on_gets_batches_too():
    """`enqueue_many` may come from `__getattr__`; one that raises there is a plain enqueuer."""

    class Wrapper:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

    inner = Batches(gate=threading.Event())
    wrapper = Wrapper(inner)
    fire_and_forget(wrapper, Task("first"))
    assert inner.entered.wait(5)
    for task in numbered(10):
        fire_and_forget(wrapper, task)
    inner.gate.set()
    assert flush() == 0
    assert len(inner.batches) == 1


def test_an_enqueuer_is_not_kept_alive_after_its_work():
    """A queue that the program lets go of is gone."""
    enqueuer = Batches()
    gone = threading.Event()
    weakref.finalize(enqueuer, gone.set)
    fire_and_forget(enqueuer, TASK)
    assert flush() == 0
    del enqueuer
    gc.collect()
    assert gone.wait(1)


def test_an_enqueuer_may_submit_itself():
    """A submission from inside an enqueuer neither deadlocks nor gets lost."""
    inner = Plain()

    class Outer:
        def enqueue(self, task, *, timeout=None, **options):
            fire_and_forget(inner, task)

    fire_and_forget(Outer(), TASK)
    flush()
    assert flush() == 0
    assert inner.tasks == [TASK]


# --- an enqueuer that does not answer ---


def test_an_enqueuer_that_does_not_answer_is_given_up_on(stuck, caplog):
    """When its time is over a submission is logged and counted as failed, once."""
    before = monotonic()
    fire_and_forget(stuck, TASK, timeout=0.1)
    assert flush() == 1
    assert 0.1 <= monotonic() - before < 1
    assert [record.error for record in failures(caplog)] == ["TimeoutError: no answer within 0.1 s"]
    assert submission_counts() == SubmissionCounts(submitted=1, enqueued=0, failed=1, dropped=0)


def test_a_late_answer_is_not_counted_again(stuck, caplog):
    """What was given up has failed, also if it arrives in the end."""
    caplog.set_level(logging.DEBUG)
    fire_and_forget(stuck, TASK, timeout=0.05)
    assert flush() == 1
    stuck.release.set()
    fire_and_forget(stuck, TASK)
    assert flush() == 0
    assert submission_counts() == SubmissionCounts(submitted=2, enqueued=1, failed=1, dropped=0)


def test_a_stuck_enqueuer_holds_up_no_other(stuck):
    """Submissions to another enqueuer arrive at once."""
    fire_and_forget(stuck, TASK)
    assert stuck.called.acquire(timeout=5)
    other = Batches()
    before = monotonic()
    for task in numbered(100):
        fire_and_forget(other, task)
    flush(timeout=0.5)
    assert len(other.tasks) == 100
    assert monotonic() - before < 1


def test_what_waits_behind_a_stuck_batch_gets_a_thread_of_its_own():
    """An enqueuer that hung once is tried again when the hanging call was given up."""
    gate = threading.Event()

    class HangsOnce(Batches):
        def enqueue(self, task, *, timeout=None, **options):
            if task.type == "first":
                self.entered.set()
                gate.wait()
            return Plain.enqueue(self, task, timeout=timeout, **options)

    enqueuer = HangsOnce()
    fire_and_forget(enqueuer, Task("first"), timeout=0.1)
    assert enqueuer.entered.wait(5)
    for task in numbered(10):
        fire_and_forget(enqueuer, task, timeout=5)
    assert flush() == 1
    assert len(enqueuer.tasks) == 10
    gate.set()


def test_one_hanging_call_of_a_plain_enqueuer_does_not_hold_up_its_neighbours(stuck):
    """Other threads serve what waits behind it."""

    class HangsOnFirst(Plain):
        def enqueue(self, task, *, timeout=None, **options):
            if task.type == "first":
                stuck.enqueue(task)
            return super().enqueue(task, timeout=timeout, **options)

    enqueuer = HangsOnFirst()
    fire_and_forget(enqueuer, Task("first"))
    assert stuck.called.acquire(timeout=5)
    for task in numbered(20):
        fire_and_forget(enqueuer, task)
    assert flush(timeout=0.5) == 1
    assert len(enqueuer.tasks) == 20


@pytest.mark.parametrize("base", [Stuck, type("StuckBatches", (Stuck,), {"enqueue_many": Stuck.enqueue})])
def test_a_stuck_enqueuer_costs_a_bounded_number_of_threads(base):
    """However long it hangs and however much is submitted, a few threads hang with it."""
    enqueuer = base()
    before = threading.active_count()
    for _ in range(12):
        for task in numbered(20):
            fire_and_forget(enqueuer, task, timeout=0.02)
        assert flush() == 20
    assert threading.active_count() - before <= 14
    enqueuer.release.set()


def test_an_enqueuer_that_recovers_is_served_again(stuck):
    """After the hanging calls have returned, everything arrives as before."""
    for _ in range(10):
        fire_and_forget(stuck, TASK, timeout=0.03)
        flush()
    stuck.release.set()
    for task in numbered(50):
        fire_and_forget(stuck, task)
    assert flush() == 0


def test_the_timeout_of_each_submission_is_its_own(stuck, caplog):
    """A short timeout behind long ones ends when it says."""
    for seconds in (30, 30, 0.1):
        fire_and_forget(stuck, TASK, timeout=seconds)
    before = monotonic()
    while submission_counts().failed < 1 and monotonic() - before < 5:
        threading.Event().wait(0.01)
    assert submission_counts().failed == 1
    assert monotonic() - before < 1
    stuck.release.set()
    assert flush() == 1


# --- the buffer ---


def test_a_full_buffer_drops_the_newest_and_counts_every_one(stuck, caplog):
    """What came first is kept; what does not fit is counted and said, at most once a second."""
    configure(max_submissions=10)
    for task in numbered(1_000):
        fire_and_forget(stuck, task, logger=logging.getLogger("full"))
    assert submission_counts() == SubmissionCounts(submitted=1_000, enqueued=0, failed=0, dropped=990)
    stuck.release.set()
    assert flush() == 990
    said, before = [], monotonic()
    while not said and monotonic() - before < 5:
        said = [record for record in caplog.records if record.name == "full"]
    assert len(said) == 1
    assert f"{said[0].dropped} dropped" in said[0].getMessage()
    assert submission_counts().enqueued == 10


def test_every_dropped_one_is_said_within_a_second_or_so(stuck, caplog):
    """The numbers in the log add up, and the records go to the given logger."""
    configure(max_submissions=1)
    for task in numbered(100):
        fire_and_forget(stuck, task, logger=logging.getLogger("drops"))
    before = monotonic()

    def said():
        return [record.dropped for record in caplog.records if record.name == "drops" and hasattr(record, "dropped")]

    while sum(said()) < 99 and monotonic() - before < 5:
        threading.Event().wait(0.01)
    assert sum(said()) == 99
    assert len(said()) <= 2


def test_the_buffer_is_bounded_by_the_bytes_of_the_payloads(stuck):
    """A few large payloads fill it as well as many small ones."""
    configure(max_bytes=10_000)
    for _ in range(20):
        fire_and_forget(stuck, Task("t", "x" * 998))
    assert submission_counts().dropped == 10
    stuck.release.set()
    assert flush() == 10
    fire_and_forget(stuck, Task("t", "é" * 4_000))
    fire_and_forget(stuck, Task("t", "é" * 5_000))
    assert flush() == 1


@pytest.mark.parametrize("setting", [{"max_submissions": 0}, {"max_bytes": -1}, {"max_bytes": "1"}, {"max_bytes": 1.0}])
def test_a_buffer_that_holds_nothing_is_refused(setting):
    """The bounds are whole numbers of 1 or more."""
    with pytest.raises(InvalidOption):
        configure(**setting)


# --- flush and counts ---


def test_flush_returns_how_many_did_not_arrive_also_if_they_failed_before(stuck):
    """Failures are reported whether they come before or during the flush, and once."""
    for _ in range(3):
        fire_and_forget(Raising(OSError("no")), TASK)
    while has_pending():
        threading.Event().wait(0.001)
    fire_and_forget(Plain(), TASK)
    assert flush() == 3
    assert flush() == 0


def test_flush_waits_no_longer_than_its_timeout(stuck):
    """What is still on its way counts as not arrived, and may be flushed again."""
    fire_and_forget(stuck, TASK)
    before = monotonic()
    assert flush(timeout=0.05) == 1
    assert flush(timeout=0) == 1
    assert monotonic() - before < 1
    stuck.release.set()
    assert flush() == 0


def test_flush_refuses_a_negative_timeout():
    """A mistake, not a question."""
    with pytest.raises(InvalidOption):
        flush(timeout=-1)


def test_flush_does_not_wait_for_what_is_submitted_after_it(stuck):
    """A stream of other threads' submissions does not keep it from returning."""
    enqueuer = Batches(gate=threading.Event())
    fire_and_forget(enqueuer, TASK)
    assert enqueuer.entered.wait(5)
    missing = []
    flushing = threading.Thread(target=lambda: missing.append(flush()))
    flushing.start()
    while len(_submissions.buffer.ledgers) < 2:
        threading.Event().wait(0.001)
    fire_and_forget(stuck, TASK)
    enqueuer.gate.set()
    flushing.join(3)
    assert missing == [0]
    assert has_pending()


def test_has_pending_says_whether_a_flush_would_wait(stuck):
    """It is true from the call until the outcome."""
    assert not has_pending()
    fire_and_forget(stuck, TASK)
    assert has_pending()
    stuck.release.set()
    flush()
    assert not has_pending()


def test_every_submission_of_many_threads_is_counted():
    """Nothing is lost and nothing counted twice when threads submit together."""
    batches, plain, raising = Batches(), Plain(), Raising(OSError("no"))
    logging.getLogger("quiet").setLevel(logging.CRITICAL)

    def submit():
        for task in numbered(500):
            for enqueuer in (batches, plain, raising):
                fire_and_forget(enqueuer, task, logger=logging.getLogger("quiet"))

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flush() == 4_000
    assert (len(batches.tasks), len(plain.tasks)) == (4_000, 4_000)
    assert submission_counts() == SubmissionCounts(submitted=12_000, enqueued=8_000, failed=4_000, dropped=0)


# --- log records ---


def test_a_failure_is_one_error_record_with_its_fields(caplog):
    """The operator learns what, where to, and why."""
    fire_and_forget(Raising(OSError("disk is gone")), TASK)
    flush()
    (record,) = failures(caplog)
    assert (record.levelname, record.name) == ("ERROR", "fireforget.patterns")
    assert (record.task_type, record.queue, record.error) == ("email:send", "low", "OSError: disk is gone")


def test_a_success_is_one_debug_record_with_its_fields(caplog):
    """Whoever debugs can follow a submission to its job, from a batch too."""
    caplog.set_level(logging.DEBUG, logger="fireforget.patterns")
    enqueuer = Batches(gate=threading.Event())
    submit_together(enqueuer, numbered(3))
    flush()
    records = [each for each in caplog.records if each.getMessage() == "fire-and-forget task enqueued"]
    assert [(each.levelname, each.task_type, each.queue) for each in records[1:]] == [("DEBUG", "n", "low")] * 3
    assert [each.task_id for each in records] == ["job-1", "job-2", "job-3", "job-4"]


def test_a_given_logger_is_used(caplog):
    """The records go where the call says."""
    caplog.set_level(logging.DEBUG)
    fire_and_forget(Plain(), TASK, logger=logging.getLogger("mine"))
    fire_and_forget(Raising(OSError("no")), TASK, logger=logging.getLogger("mine"))
    flush()
    assert {record.name for record in caplog.records} == {"mine"}


def test_a_handler_that_raises_breaks_nothing():
    """Trouble with logging is not trouble with tasks."""

    class Broken(logging.Handler):
        def handle(self, record):
            raise SystemExit("broken handler")

    logger = logging.Logger("broken", logging.DEBUG)
    logger.addHandler(Broken())
    enqueuer = Plain()
    fire_and_forget(enqueuer, TASK, logger=logger)
    fire_and_forget(Raising(OSError("no")), TASK, logger=logger)
    fire_and_forget(enqueuer, TASK, logger="not a logger")
    assert flush() == 1
    assert len(enqueuer.tasks) == 2


def test_an_error_that_cannot_be_printed_is_still_said(caplog):
    """A `__str__` that raises costs the message, not the record."""

    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError

    fire_and_forget(Raising(Unprintable()), TASK)
    assert flush() == 1
    assert failures(caplog)[0].error == "Unprintable"


# --- interruptions ---


def test_a_signal_handler_may_submit_in_the_middle_of_a_submission():
    """The lock is re-entrant: a handler that fires does not hang the thread that it interrupted."""
    enqueuer = Batches()
    count = 0

    def handler(*_):
        nonlocal count
        count += 1
        fire_and_forget(enqueuer, Task("signal"))

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for task in numbered(30_000):
            fire_and_forget(enqueuer, task)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert count > 0
    assert flush() == 0
    assert submission_counts() == SubmissionCounts(30_000 + count, 30_000 + count, 0, 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may fall into a callback of the interpreter's
def test_an_exception_from_a_signal_handler_breaks_nothing():
    """An interruption of the caller, such as a job's timeout, may lose that one call but never wedges the rest."""
    enqueuer = Batches()

    class Interrupted(BaseException):
        pass

    armed, hits = False, 0

    def handler(*_):
        nonlocal armed
        if armed:
            armed = False
            raise Interrupted

    previous = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    for task in numbered(30_000):
        try:
            armed = True
            fire_and_forget(enqueuer, task)
            armed = False
        except Interrupted:
            hits += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)
    assert hits
    flush()
    fire_and_forget(enqueuer, TASK)
    assert flush() == 0
    assert enqueuer.tasks[-1] == TASK


def test_no_thread_to_be_had_is_a_failure_that_is_said(monkeypatch, caplog):
    """At the limit of threads a submission neither raises nor waits for ever."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    fire_and_forget(Plain(), TASK)
    assert flush() == 1
    assert failures(caplog)[0].error == "RuntimeError: can't start new thread"
    monkeypatch.undo()
