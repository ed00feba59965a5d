"""Idempotent handlers in real processes: killed at the worst moments, and many at once. Nothing is doubled, nobody is stuck."""

import os
import signal

import pytest

APP = """
@registry.task("pay", retention=60)
@idempotent("order:{order}", ttl=3600)
def pay(order):
    say("paying", os.getpid())
    hold()
    note("paid", order)
    return f"receipt {order}"

@registry.task("pay:async", retention=60)
@idempotent("order:{order}", ttl=3600)
async def pay_async(order):
    await asyncio.sleep(0.05)
    note("paid", order)
    return f"receipt {order}"

@registry.task("pay:late", retention=60)
@idempotent("order:{order}", ttl=3600)
def pay_late(order):
    note("paid", order)
    return f"receipt {order}"

def killed_when_it_is_done(job, call_next):
    result = call_next()
    if job.type == "pay:late" and not os.path.exists(os.path.join(HERE, "killed")):
        open(os.path.join(HERE, "killed"), "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return result

registry.use(killed_when_it_is_done)
"""


@pytest.fixture
def site(site):
    site.app(APP)
    return site


def pay(site, type="pay", order=7, **options):
    return site.enqueue(type, {"order": order}, retention=60, **options)


def results(site, jobs):
    return [(info.state, info.result) for info in (site.finished(job) for job in jobs)]


PAID = ("completed", "receipt 7")


def test_a_key_is_free_again_when_its_process_is_killed(site):
    """By SIGKILL in the middle of the handler: the retry gets in, whoever waited meanwhile gets the result, one run in all."""
    worker = site.worker("--concurrency", 2)
    first = pay(site)
    pid = int(site.hear("paying").split()[1])
    second = pay(site, max_retry=0)
    postponed = worker.wait_record("task postponed", task_id=second)
    assert "order:7" in postponed["reason"]
    site.release()
    os.kill(pid, signal.SIGKILL)
    assert results(site, [first, second]) == [PAID, PAID]
    assert site.notes() == ["paid 7"]
    assert site.queue.get(second).retry_count == 0


def test_what_was_kept_is_not_done_again_by_a_job_killed_before_it_was_settled(site):
    """The moment between the handler's return and the worker's commit: the retry finds the result."""
    worker = site.worker("--concurrency", 1)
    job = pay(site, "pay:late")
    assert results(site, [job]) == [PAID]
    assert worker.wait_record("task failed", task_id=job)["error"].endswith("(SIGKILL)")
    assert site.notes() == ["paid 7"]


def test_a_key_outlives_no_worker(site):
    """The whole worker is killed: the next one has the job, and the key, within a moment."""
    killed = site.worker("--concurrency", 1)
    first = pay(site)
    site.hear("paying")
    killed.signal_all(signal.SIGKILL)
    site.release()
    second = pay(site)
    site.worker("--concurrency", 2)
    assert results(site, [first, second]) == [PAID, PAID]
    assert site.notes() == ["paid 7"]


def test_many_processes_at_one_key_run_it_once(site):
    """Two workers, four children, threads, coroutines: each key once, and each job with its result."""
    site.release()
    orders = [n % 3 for n in range(30)]
    jobs = [pay(site, type, order) for type in ("pay", "pay:async") for order in orders]
    for _ in range(2):
        site.worker("--concurrency", 2, "--threads", 3)
    assert results(site, jobs) == [("completed", f"receipt {order}") for order in orders * 2]
    assert sorted(site.notes()) == sorted(["paid 0", "paid 1", "paid 2"] * 2)
