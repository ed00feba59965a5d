"""Which job runs when: weights, priorities, delays, paused queues, and the end of a burst."""

from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest

from fireforget import Task

APP = """
@registry.task("n")
def noted(tag=None):
    note(current_job().queue, tag)

@registry.task("ran:at", retention=60)
def ran_at():
    return time.time()

@registry.task("again")
def again(times):
    note("again", times)
    if times:
        SqliteQueue(os.path.join(HERE, "jobs.db")).enqueue(Task("again", {"times": times - 1}))

@registry.task("fails", retry_delay=3600)
def fails():
    raise ValueError

@registry.task("fails:soon", retry_delay=0)
def fails_soon():
    note("try", current_job().retry_count)
    raise ValueError
"""


@pytest.fixture
def site(site):
    site.app(APP)
    return site


def fill(site, count, *queues):
    for queue in queues:
        site.queue.enqueue_many([Task("n", {"tag": n}) for n in range(count)], queue=queue)


def started(site):
    """The queues of the jobs in the order in which they were started."""
    return [line.split()[0] for line in site.notes()]


def shares(order):
    return {queue: order.count(queue) for queue in ("critical", "default", "low")}


def test_full_queues_share_by_weight(site):
    """6:3:1 means 60, 30 and 10 of every 100 jobs that are started while all three are full."""
    fill(site, 1000, "low", "default", "critical")
    site.burst("--concurrency", 1)
    order = started(site)
    assert len(order) == 3000
    assert shares(order[:1000]) == pytest.approx({"critical": 600, "default": 300, "low": 100}, abs=12)
    for at in range(0, 1500, 100):  # and at any time, not only in the long run
        assert shares(order[at : at + 100]) == pytest.approx({"critical": 60, "default": 30, "low": 10}, abs=10)


def test_weights_can_be_given(site):
    """--queues names the queues and their shares; a queue that is not named is not served."""
    fill(site, 400, "low", "default", "critical")
    site.burst("--concurrency", 1, "--queues", "low=3,default=1")
    order = started(site)
    assert shares(order[:400]) == pytest.approx({"critical": 0, "default": 100, "low": 300}, abs=8)
    assert len(order) == 800
    assert site.sql("SELECT DISTINCT queue, state FROM fireforget_jobs") == [("critical", "pending")]


def test_an_empty_queue_costs_nothing(site):
    """What the empty ones leave goes to the others by their weights, at once."""
    fill(site, 300, "low", "default")
    worker = site.burst("--concurrency", 1)
    order = started(site)
    assert shares(order[:200]) == pytest.approx({"critical": 0, "default": 150, "low": 50}, abs=8)
    assert len(order) == 600
    assert worker.exit_code() == 0


def test_with_strict_priority_the_heavier_queue_always_comes_first(site):
    """Nothing lighter is started while something heavier waits."""
    fill(site, 200, "low", "default", "critical")
    site.burst("--concurrency", 1, "--strict-priority")
    assert started(site) == ["critical"] * 200 + ["default"] * 200 + ["low"] * 200


def test_inside_a_queue_higher_priorities_come_first_and_then_the_order_of_arrival(site):
    """Priorities are compared within a queue, whatever the types; equal ones keep their order."""
    for n, priority in enumerate([0, 5, -3, 5, 0, 9, -3, 2**40]):
        site.enqueue("n", {"tag": n}, priority=priority)
    site.burst("--concurrency", 1)
    assert [int(line.split()[1]) for line in site.notes()] == [7, 5, 1, 3, 0, 4, 2, 6]


def test_a_delayed_job_runs_in_time(site):
    """Not before its time, and within a moment after it, also while the worker is idle."""
    site.worker("--concurrency", 1)
    due = datetime.now(UTC) + timedelta(seconds=0.5)
    jobs = [site.enqueue("ran:at", process_in=0.4, retention=60), site.enqueue("ran:at", process_at=due, retention=60)]
    for job in jobs:
        info = site.queue.get(job)
        assert info.state == "scheduled"
        ran_at = site.finished(job).result
        assert -0.001 <= ran_at - info.next_process_at.timestamp() < 0.15


def test_a_burst_runs_everything_and_ends(site):
    """Also what the jobs enqueue while it runs, and retries that are due at once."""
    site.enqueue("again", {"times": 5})
    failing = site.enqueue("fails:soon", max_retry=3)
    site.burst("--concurrency", 2)
    assert site.notes().count("again 0") == 1
    assert [f"try {n}" for n in range(4)] == [line for line in site.notes() if line.startswith("try")]
    assert site.queue.get(failing).state == "archived"


def test_a_burst_on_an_empty_queue_ends_at_once(site):
    """Nothing to do is done."""
    began = monotonic()
    site.burst()
    assert monotonic() - began < 2


def test_a_burst_does_not_wait_for_what_it_cannot_run(site):
    """Paused queues, the far future, later retries, unhandled types and unserved queues hold it up not a moment."""
    fill(site, 3, "default", "other")
    site.enqueue("n", process_in=3600)
    site.enqueue("nobody:home")
    failed = site.enqueue("fails")
    paused = site.enqueue("n", queue="low")
    site.sql("INSERT INTO fireforget_queue (name, paused_at) VALUES ('low', 1.0)")
    began = monotonic()
    site.burst("--concurrency", 1)
    assert monotonic() - began < 3
    assert started(site) == ["default"] * 3
    assert site.queue.get(paused).state == "pending"
    assert site.queue.get(failed).state == "retry"
    counts = dict(site.sql("SELECT queue || ' ' || type || ' ' || state, count(*) FROM fireforget_jobs GROUP BY 1"))
    assert counts["default nobody:home pending"] == 1
    assert counts["default n scheduled"] == 1
    assert counts["other n pending"] == 3


def test_a_queue_that_is_resumed_is_served_again(site):
    """Pausing takes effect on a running worker within a moment, and so does its end."""
    site.worker("--concurrency", 1)
    site.sql("INSERT INTO fireforget_queue (name, paused_at) VALUES ('low', 1.0)")
    paused = site.enqueue("n", queue="low", retention=60)
    assert site.result("n").state == "completed"
    assert site.queue.get(paused).state == "pending"
    site.sql("UPDATE fireforget_queue SET paused_at = NULL")
    assert site.finished(paused, within=2).state == "completed"
