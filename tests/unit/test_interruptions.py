"""An interruption cuts the application's code and nothing else, wherever the limit comes: a run has one end, and all agree on it.

The limits here come at injected moments: whatever is at work at such a moment interrupts the job itself, as the enforcer's signal
does, or has another thread do it.
"""

import logging
import threading
import time
from functools import partial

import pytest

from fireforget import Registry, Task, fire_and_forget, middleware
from fireforget._claimed import Claimed
from fireforget._pool.board import Reason
from fireforget._pool.child import _raise, _raise_in
from fireforget._pool.runner import Runner
from fireforget.metrics import Samples
from fireforget.middleware import DEFAULT_CHAIN


class Scene:
    """A `Host` of runners, with a log whose records call `at_record` while they are written, under the lock of `logging`."""

    tag = "test"

    def __init__(self, samples):
        self.registry = Registry()
        self.samples = samples
        self.said = []
        self.at_record = None
        self._rows = 0

    def definition(self, type):
        return self.registry.match(type)

    def send(self, message):
        self.said.append(message[:3])

    def store(self):
        raise AssertionError("no test needs it")

    def runner(self):
        """A runner of this thread. Its `here` and `from_another_thread` interrupt the job that it runs, `wrap` sets its chain."""
        runner = Runner(self, None)
        runner.wrap = lambda *chain: setattr(runner, "_chain", middleware.compose(runner._whole(chain), runner._call_handler))

        def here(reason=Reason.TIMEOUT):
            runner.interrupt(0, reason, _raise)

        def from_another_thread(reason=Reason.TIMEOUT):
            thread = threading.Thread(target=runner.interrupt, args=(0, reason, partial(_raise_in, runner.thread_id)))
            thread.start()
            thread.join()

        runner.here, runner.from_another_thread = here, from_another_thread
        return runner

    def run(self, runner, type, index=0):
        """Run a job; return what it is told to be, the log's messages and how the metrics count it."""
        self.records = []
        self._rows += 1
        known = {"n": self._rows, "type": type, "queue": "default", "max_retry": 25, "timeout": 2.0, "due": time.time()}
        absent = dict.fromkeys(("payload", "headers", "deadline", "task_id"))
        row = Claimed(**{**dict.fromkeys(Claimed._fields, 0), **absent, **known})
        outcome = runner.run(index, row)
        counted = [status for _, _, status in self.samples_counted()]
        return "succeeded" if outcome is None else (outcome[0], *outcome[-2:-1]), self.records, counted

    def samples_counted(self):
        counts, _ = self.samples.drain() or ({}, {})
        return [labels for name, labels in counts if name == "job_processed_total"]


@pytest.fixture
def scene(monkeypatch):
    samples = Samples()
    monkeypatch.setattr(middleware, "samples", samples)
    scene = Scene(samples)

    class Log(logging.Handler):
        def emit(self, record):
            scene.records.append(record.getMessage())
            if scene.at_record is not None:
                scene.at_record()

    log, logger = Log(), logging.getLogger("fireforget.worker")
    level = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.INFO)  # setting the attribute would leave what loggers remember of it
    yield scene
    logger.setLevel(level)
    logger.removeHandler(log)


SUCCESS = ("succeeded", ["task processed"], ["success"])
TIMED_OUT = (("retry", "timed out after 2 s"), ["task failed"], ["failed"])


@pytest.fixture(params=["here", "from_another_thread"])
def interrupting(request, scene):
    """A runner, and what interrupts its job: by a signal in its own thread, or from another one."""
    runner = scene.runner()
    return runner, getattr(runner, request.param)


def test_a_limit_that_comes_while_the_run_is_logged_is_too_late(scene, interrupting):
    """The handler has ended: the run is the success that the log says. The log's lock is free, the next job runs."""
    runner, interrupt = interrupting
    scene.registry.task("ends")(lambda: None)
    scene.at_record = interrupt
    assert scene.run(runner, "ends") == SUCCESS
    scene.at_record = None
    assert scene.run(runner, "ends", index=1) == SUCCESS
    others = threading.Thread(target=logging.getLogger("fireforget.worker").info, args=("another thread logs",))
    others.start()
    others.join(1)
    assert not others.is_alive()


def test_a_limit_that_comes_in_the_handler_is_a_timeout_whatever_follows(scene, interrupting):
    """It is raised once; what comes after it is no second end."""
    runner, interrupt = interrupting

    @scene.registry.task("overruns")
    def overruns():
        interrupt()
        raise AssertionError("it went on")

    scene.at_record = interrupt
    assert scene.run(runner, "overruns") == TIMED_OUT


def test_the_applications_middleware_is_interrupted_too(scene, interrupting):
    """Its own code, before and after what it calls."""
    runner, interrupt = interrupting
    scene.registry.task("ends")(lambda: None)

    def before(job, call_next):
        interrupt()
        return call_next()

    def after(job, call_next):
        call_next()
        interrupt()

    for slow in (before, after):
        runner.wrap(*DEFAULT_CHAIN, slow)
        assert scene.run(runner, "ends") == TIMED_OUT


def test_a_limit_waits_where_our_code_stands_between(scene, interrupting):
    """It comes while we log inside of the application's middleware, and is raised as soon as that goes on."""
    runner, interrupt = interrupting
    scene.registry.task("ends")(lambda: None)
    went_on = []

    def outer(job, call_next):
        call_next()
        went_on.append(job)

    runner.wrap(outer, *DEFAULT_CHAIN)
    scene.at_record = interrupt
    outcome, records, _ = scene.run(runner, "ends")
    assert outcome == ("retry", "timed out after 2 s") and not went_on
    assert records == ["task processed"], "the log is inside of what has timed out: that is how this chain was made"


def test_what_a_handler_fires_and_forgets_is_stored_before_its_run_is_told(scene):
    """Should storing it take beyond the limit, the process is killed and only that is logged."""
    order = []

    class Enqueuer:
        def enqueue(self, task, **options):
            order.append("stored")

    scene.registry.task("fires")(lambda: fire_and_forget(Enqueuer(), Task("y")))
    scene.at_record = lambda: order.append("told")
    assert scene.run(scene.runner(), "fires") == SUCCESS
    assert order == ["stored", "told"]


def test_a_retry_policy_has_a_limit_of_its_own(scene, interrupting):
    """The job's own does not reach it any more; when its own has passed, the default delay is used, and a record says so."""
    runner, interrupt = interrupting
    went_on = []

    def policy(retry_count, error):
        interrupt(Reason.TIMEOUT)
        went_on.append(error)
        interrupt(Reason.DECISION)
        raise AssertionError("it went on")

    @scene.registry.task("fails", retry_delay=policy)
    def fails():
        raise ValueError("no")

    outcome, records, counted = scene.run(runner, "fails")
    assert (outcome, counted) == (("retry", "ValueError: no"), []), "its counts went with what holds if it never ends"
    assert len(went_on) == 1 and records == ["task failed", "retry_delay failed, used the default"]
    kind, index, fallback = scene.said[0]
    assert (kind, index, fallback[0], fallback[4]) == ("fallback", 0, "retry", "ValueError: no")


def test_is_failure_has_that_limit_too(scene, interrupting):
    """One that does not say in time whether the run has failed leaves it a failure."""
    runner, interrupt = interrupting

    @scene.registry.task("fails", is_failure=lambda error: interrupt(Reason.DECISION))
    def fails():
        raise ValueError("no")

    outcome, records, counted = scene.run(runner, "fails")
    assert (outcome, counted) == (("retry", "ValueError: no"), ["failed"])
    assert records == ["is_failure failed", "task failed"]
