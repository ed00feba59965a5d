"""One run, and what log, metrics and database say of it."""

import logging

import pytest

from fireforget import Inspector, Registry, SqliteQueue, Task, testing


class SetBack:
    """A wall clock that somebody sets back in the middle of each run."""

    now = 1_000_000.0

    def __call__(self):
        return self.now

    def set_back(self):
        self.now -= 3600


@pytest.fixture
def run(tmp_path, caplog):
    """Run a handler once while the wall clock goes back; return the run, its attempts, and the duration that the log tells."""
    clock = SetBack()
    registry = Registry(retry_delay=60)

    def run(handler, **options):
        @registry.task("t")
        def t():
            clock.set_back()
            handler()

        with SqliteQueue(tmp_path / "jobs.db", clock=clock) as queue, caplog.at_level(logging.INFO, "fireforget.worker"):
            queue.enqueue(Task("t", **options))
            (done,) = testing.drain(queue, registry)
            attempts = Inspector(queue).attempts(done.id) if done.outcome != "completed" else []
        (told,) = [record.duration for record in caplog.records if record.getMessage() in ("task processed", "task failed")]
        return done, attempts, told

    return run


def seconds_counted(samples):
    _, observed = samples.snapshot()
    return sum(columns[-1] for (name, _), columns in observed.items() if name == "job_duration_seconds")


def fail():
    raise ValueError("no")


@pytest.mark.parametrize("options", [{}, {"max_retry": 0}])
def test_a_failed_run_took_the_same_time_by_the_log_the_metrics_and_the_database(run, samples, options):
    """No less than none, though the wall clock was set back while it ran."""
    _, (attempt,), told = run(fail, **options)
    assert 0 <= attempt.duration < 60
    assert told == pytest.approx(attempt.duration, abs=1e-6)
    assert seconds_counted(samples) == attempt.duration


def test_a_run_that_succeeded_took_the_same_time_by_the_log_and_the_metrics(run, samples):
    """Its result may be kept or not."""
    done, _, told = run(lambda: None, retention=3600)
    assert done.outcome == "completed"
    assert 0 <= told < 60
    assert seconds_counted(samples) == pytest.approx(told, abs=1e-6)


def test_a_run_whose_middleware_calls_the_handler_again_took_as_long_as_both_calls(samples):
    """What is told after the second call is not what was measured after the first."""
    queue, registry, told = testing.RecordingEnqueuer(), Registry(retry_delay=60), []

    def watch(job, call_next):
        try:
            return call_next()
        finally:
            told.append(job._took())

    def twice(job, call_next):
        call_next()
        return call_next()

    registry.middleware[:] = [twice, watch]
    registry.task("t")(lambda: None)
    queue.enqueue(Task("t"))
    testing.drain(queue, registry)
    first, second = told
    assert first < second
