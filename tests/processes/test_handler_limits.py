"""Limits with real workers: exact across them, under kills, and at no cost while nothing may start."""

import signal
import threading
from pathlib import Path

import pytest

from fireforget import Task

APP = """
import fcntl

def slot(name, most):
    \"\"\"Take one of so many locks that the kernel frees when the process dies; None when more run than that.\"\"\"
    for number in range(most):
        descriptor = os.open(os.path.join(HERE, f"{name}-{number}"), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError:
            os.close(descriptor)
    note("too many", name)

@registry.task("user", concurrency=2, concurrency_key="user:{user}")
def user(user, n, fatal=False):
    held = slot(user, 2)
    if fatal and current_job().retry_count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    note("done", user, n)
    if held is not None:
        os.close(held)

@registry.task("holding", concurrency=1)
def holding(n):
    say("holding", n)
    hold(f"go{n}")

@registry.task("api", rate="20/s")
def api(n):
    note(time.time(), n)

@registry.task("hourly", rate="1/h")
def hourly():
    say("hourly")

@registry.task("plain")
def plain(n=0):
    say("plain", n)
"""


@pytest.fixture
def site(site):
    site.app(APP)
    return site


def jobs_of(site, *fatal):
    return [Task("user", {"user": user, "n": n, "fatal": (user, n) in fatal}) for n in range(15) for user in "ab"]


def test_never_more_than_the_limit_run_whatever_is_killed(site):
    """Two workers, children that are killed in the middle of their jobs, and then one whole worker: and all jobs are done."""
    site.queue.enqueue_many(jobs_of(site, ("a", 1), ("b", 4), ("a", 9)))
    doomed = site.worker("--concurrency", 3)
    survivor = site.worker("--concurrency", 3)
    site.eventually(lambda: len(site.notes()) >= 8)
    doomed.signal(signal.SIGKILL)
    site.eventually(lambda: len({line for line in site.notes() if line.startswith("done")}) == 30)
    assert not [line for line in site.notes() if line.startswith("too many")]
    site.eventually(lambda: site.sql("SELECT count(*) FROM fireforget_job") == [(0,)])  # a handler says it before it is settled
    assert survivor.stop() == 0


def test_a_full_key_holds_up_nothing_and_goes_on_at_once(site):
    """The next job of the key starts when the one before it has ended, also where that was another worker's."""
    site.worker("--concurrency", 1)
    site.enqueue("holding", {"n": 1})
    site.hear("holding 1")
    site.worker("--concurrency", 1)
    site.enqueue("holding", {"n": 2})
    site.enqueue("plain")
    site.hear("plain 0")
    assert site.silent()
    site.release("go1")
    site.hear("holding 2")
    site.release("go2")


def test_a_rate_holds_in_any_second_across_workers(site):
    """For the starts as handlers see them; a burst stays until all have had their turn."""
    site.queue.enqueue_many([Task("api", {"n": n}) for n in range(50)])
    workers = [site.worker("--burst", "--concurrency", 2, ready=False) for _ in range(2)]
    assert [worker.exit_code(12) for worker in workers] == [0, 0]
    starts = sorted(float(line.split()[0]) for line in site.notes())
    assert len(starts) == 50
    assert all(later - earlier >= 1.0 for earlier, later in zip(starts, starts[20:], strict=False))
    assert starts[-1] - starts[0] < 6


def switches(pid):
    """How often the process's threads have gone to sleep and been woken, by name of the thread's number."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found[task.name] = next(int(line.split()[1]) for line in lines if line.startswith("voluntary"))
    return found


def test_a_worker_sleeps_while_only_the_rate_keeps_jobs_waiting(site):
    """It neither polls nor spins, and what has no limit starts at once."""
    worker = site.worker("--concurrency", 1)
    site.queue.enqueue_many([Task("hourly")] * 3)
    site.hear("hourly")
    site.eventually(lambda: site.sql("SELECT count(*) FROM fireforget_jobs WHERE state = 'pending'") == [(2,)])
    threading.Event().wait(0.1)  # what follows a commit
    before = switches(worker.pid)
    threading.Event().wait(0.4)
    assert sum(switches(worker.pid).values()) <= sum(before.values()) + 4
    site.enqueue("plain", {"n": 1})
    site.hear("plain 1")
    assert site.silent()


def test_a_payload_that_no_key_can_be_made_of_is_archived_with_the_reason(site):
    """As any payload is that does not fit."""
    site.worker("--concurrency", 1)
    job = site.enqueue("user", {"n": 1})
    info = site.state_is(job, "archived")
    assert "missing a required argument: 'user'" in info.last_error
