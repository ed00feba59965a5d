"""Signals: TERM and INT stop, TSTP and CONT pause and resume, and whoever stops loses nothing."""

import os
import signal
from time import monotonic

import pytest

from fireforget import Inspector

APP = """
@registry.task("holds")
def holds(name="go"):
    say("holding", os.getpid())
    try:
        hold(name)
    except BaseException as error:
        note("interrupted by", type(error).__name__)
        raise
    note("done")

@registry.task("ok")
def ok():
    return "ok"
"""


@pytest.fixture
def site(site):
    site.app(APP)
    return site


def holding(site, worker_flags=(), count=1):
    """A worker with `count` jobs that run; the worker and the jobs."""
    worker = site.worker("--concurrency", count, *worker_flags)
    jobs = [site.enqueue("holds", retention=60) for _ in range(count)]
    for _ in jobs:
        site.hear("holding")
    return worker, jobs


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_waits_for_what_runs_and_claims_nothing_more(site, number):
    """The running job ends well and is stored; the next one stays; exit code 0; the worker has signed off."""
    worker, (job,) = holding(site)
    worker.signal(number)
    worker.wait_log("stopping")
    waiting = site.enqueue("ok")
    assert worker.running
    site.release()
    assert worker.exit_code() == 0
    assert site.queue.get(job).state == "completed"
    assert site.queue.get(waiting).state == "pending"
    assert Inspector(site.queue).workers() == []
    assert not [name for name in os.listdir(site.folder) if "-worker-" in name]
    assert "Traceback" not in worker.log


def test_an_idle_worker_stops_at_once(site):
    """Nothing to wait for."""
    worker = site.worker("--concurrency", 2)
    assert site.result("ok").state == "completed"
    began = monotonic()
    assert worker.stop() == 0
    assert monotonic() - began < 1


def test_what_still_runs_after_the_shutdown_timeout_is_put_back(site):
    """No attempt is counted; exit code 0; a record says what became of it."""
    worker, (job,) = holding(site, ["--shutdown-timeout", "0.3"])
    began = monotonic()
    assert worker.stop() == 0
    assert 0.3 <= monotonic() - began < 2
    info = site.queue.get(job)
    assert (info.state, info.retry_count, info.last_error) == ("pending", 0, None)
    assert Inspector(site.queue).attempts(job) == []
    assert worker.wait_record("task returned", task_id=job)["level"] == "INFO"
    assert not worker.said("child died")
    site.release()
    site.burst()
    assert site.queue.get(job).state == "completed"
    assert site.notes() == ["done"]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait(site, second):
    """The running job is put back at once."""
    worker, (job,) = holding(site)
    worker.signal(signal.SIGTERM)
    worker.wait_log("stopping")
    began = monotonic()
    worker.signal(second)
    assert worker.exit_code() == 0
    assert monotonic() - began < 1.5
    info = site.queue.get(job)
    assert (info.state, info.retry_count) == ("pending", 0)


def test_ctrl_c_in_a_terminal_reaches_all_processes_and_only_the_supervisor_acts(site):
    """INT to the whole process group interrupts no handler; the job ends, and the worker after it."""
    worker, jobs = holding(site, count=2)
    worker.signal_all(signal.SIGINT)
    worker.wait_log("stopping")
    site.release()
    assert worker.exit_code() == 0
    assert site.notes() == ["done"] * 2
    assert [site.queue.get(job).state for job in jobs] == ["completed"] * 2
    assert "Traceback" not in worker.log and "KeyboardInterrupt" not in worker.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_to_children_are_left_to_the_supervisor(site, number, deaths):
    """An init system that signals every process of a service does no harm to what runs."""
    worker, (job,) = holding(site)
    for pid in worker.processes():
        os.kill(pid, number)
    site.release()
    assert site.finished(job).state == "completed"
    assert not worker.said("child died")
    assert worker.stop() == 0


def test_tstp_stops_claiming_and_cont_resumes_it(site):
    """Meanwhile running jobs go on to their end."""
    worker, jobs = holding(site, count=2)
    worker.signal(signal.SIGTSTP)
    worker.wait_log("claiming is paused")
    waiting = site.enqueue("ok", retention=60)
    site.release()
    assert [site.finished(job).state for job in jobs] == ["completed"] * 2
    assert site.queue.get(waiting).state == "pending"
    worker.signal(signal.SIGCONT)
    assert site.finished(waiting).state == "completed"
    assert worker.stop() == 0


def test_a_worker_that_is_paused_can_be_stopped(site):
    """TSTP before TERM is how deployments drain."""
    worker, (job,) = holding(site)
    worker.signal(signal.SIGTSTP)
    worker.wait_log("claiming is paused")
    worker.signal(signal.SIGTERM)
    worker.wait_log("stopping")
    site.release()
    assert worker.exit_code() == 0
    assert site.queue.get(job).state == "completed"


def test_a_stop_while_jobs_wait_in_a_child_puts_them_back(site):
    """Frames that were sent and not started are pending again, and run in the next worker, once."""
    from fireforget import Task

    worker = site.worker("--concurrency", 1)
    quick = site.queue.enqueue_many([Task("ok") for _ in range(200)], retention=60)
    site.finished(quick[-1].id)
    jobs = site.queue.enqueue_many(
        [*[Task("ok") for _ in range(50)], Task("holds"), *[Task("ok") for _ in range(50)]], retention=60
    )
    site.hear("holding")
    worker.signal(signal.SIGTERM)
    worker.wait_log("stopping")
    site.release()
    assert worker.exit_code() == 0
    states = [site.queue.get(job.id).state for job in jobs]
    assert set(states) == {"completed", "pending"}
    assert states[50] == "completed"
    site.burst()
    infos = [site.queue.get(job.id) for job in jobs]
    assert {(info.state, info.retry_count) for info in infos} == {("completed", 0)}
    assert site.notes() == ["done"]
