"""What was processed by minute, hour and day, as a worker writes it."""

import signal

from fireforget import Inspector, Task

APP = """
@registry.task("add", retry_delay=3600)
def add(n):
    if n % 5 == 0:
        raise ValueError("no")
    return n if n % 2 else None  # a result that nobody waits for takes another way
"""


def test_what_was_processed_is_written_within_a_second_and_survives_a_kill(site):
    """Also what is left over when the last job has ended: nobody has to stop the worker for it."""
    site.app(APP)
    site.queue.enqueue_many([Task("add", {"n": n}) for n in range(100)])
    worker = site.worker("--concurrency", 1)
    inspector = Inspector(site.queue)
    site.eventually(lambda: inspector.history("default")[0].processed == 100)
    worker.signal(signal.SIGKILL)
    worker.exit_code()
    stats = inspector.queue_stats("default")
    assert (stats.processed_today, stats.failed_today, stats.processed_total, stats.size) == (100, 20, 100, 20)


def test_a_worker_that_ends_writes_what_it_has_counted(site):
    """Within the second in which it ended."""
    site.app(APP)
    site.queue.enqueue_many([Task("add", {"n": n}) for n in range(1, 4)], queue="low")
    site.queue.enqueue(Task("add", {"n": 5}), queue="low", max_retry=0)
    site.burst("--concurrency", 1)
    inspector = Inspector(site.queue)
    (day,) = inspector.history("low", days=1)
    assert (day.processed, day.failed, day.retried, day.archived) == (4, 1, 0, 1)
    assert (day.timed, day.waited) == (4, 4) and 0 < day.mean_run < 1 and day.mean_wait > 0
    assert sum(minute.processed for minute in inspector.history(minutes=3)) == 4
    assert inspector.history_of_types("low", hours=2)["add"].timed == 4
