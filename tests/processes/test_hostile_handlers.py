"""Handlers that do to their process what no handler should: the job may suffer, the worker and the other jobs must not."""

import os
import signal

import pytest

from fireforget import Inspector, Task

APP = """
import enum

@registry.task("ok")
def ok():
    return os.getpid()

@registry.task("n")
def n(n):
    note(n)

@registry.task("holds")
def holds():
    say("holding", os.getpid())
    hold()

@registry.task("naps")
def naps():
    time.sleep(60)

@registry.task("sleeps:for:years")
def sleeps_for_years():
    say("sleeping")
    hold()

@registry.task("forks:and:returns")
def forks_and_returns():
    os.fork()

class Later(RetryLater):
    def __init__(self):
        self.seconds = "soon"

@registry.task("later:wrong")
def later_wrong():
    raise Later()

@registry.task("unshowable")
def unshowable():
    raise SyntaxError("x", ("file", 1, 1, 5))

class Lazy(dict):
    def items(self):
        raise ZeroDivisionError("lazy")

@registry.task("lazy:result")
def lazy_result():
    return Lazy(a=1)

class Type(enum.StrEnum):
    MAIL = "mail:send"

@registry.task(Type.MAIL)
def mail():
    current_job().progress(0.5, Type.MAIL)
    return "sent"

@registry.task("hangs:in:policy", retry_delay=lambda n, error: say("in the policy") or time.sleep(60) or 0)
def hangs_in_policy():
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
    time.sleep(60)

@registry.task("forks:twice")
def forks_twice():
    pid = os.fork()
    if pid == 0:
        files = [open(os.path.join(HERE, f"file{n}"), "w") for n in range(6)]
        pid = os.fork()
        if pid == 0:
            for file in files:
                file.write("written")
                file.close()
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

@registry.task("closes:all")
def closes_all():
    os.closerange(3, 100)

@registry.task("fails", retry_delay=lambda n, error: os._exit(4) if error.args[0] == "dies" else hangs_in_policy())
def fails(how):
    raise ValueError(how)
"""


@pytest.fixture
def site(site):
    site.app(APP)
    return site


def test_a_handler_that_forks_and_comes_back_twice_runs_no_other_job_twice(site):
    """The other process goes no further than the end of the handler."""
    worker = site.worker("--concurrency", 1)
    site.finished(site.enqueue("ok"))
    tasks = [Task("n", {"n": n}) for n in range(200)]
    site.queue.enqueue_many([*tasks[:50], Task("forks:and:returns"), *tasks[50:]])
    site.eventually(lambda: not site.sql("SELECT 1 FROM fireforget_job WHERE state IN (2, 3)"))
    assert worker.stop() == 0
    assert sorted(map(int, site.notes())) == list(range(200))


def test_a_timeout_of_years_does_not_end_the_watch_over_the_others(site):
    """Any number that is accepted is waited for in pieces."""
    site.worker("--concurrency", 2)
    long = site.enqueue("sleeps:for:years", run_timeout=1e11, retention=60)
    site.hear("sleeping")
    info = site.finished(site.enqueue("naps", run_timeout=0.3, max_retry=0), within=3)
    assert (info.state, info.last_error) == ("archived", "timed out after 0.3 s")
    site.release()
    assert site.finished(long).state == "completed"


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(
    ("type", "state", "error"),
    [
        ("later:wrong", "retry", None),
        ("unshowable", "archived", "SyntaxError"),
        ("lazy:result", "completed", "ZeroDivisionError"),
        ("mail:send", "completed", None),
    ],
)
def test_what_cannot_be_taken_literally_costs_no_child(site, threads, type, state, error):
    """Delays, exceptions, results and types that are not what they should be are understood as well as they can be."""
    worker = site.worker("--concurrency", 1, "--threads", threads)
    child = site.result("ok").result
    job = site.enqueue(type, retention=60, max_retry=0)
    site.state_is(job, state)
    assert (error or "") in (site.queue.get(job).last_error or "")
    assert site.result("ok").result == child
    assert "died" not in worker.log
    assert worker.stop() == 0


def test_jobs_in_a_child_that_starts_none_run_elsewhere(site):
    """A child that is stopped, or whose GIL somebody holds, keeps its jobs for a moment; then it is replaced."""
    worker = site.worker("--concurrency", 2)
    held = site.enqueue("holds", retention=60)
    busy = int(site.hear("holding").split()[1])
    idle = site.result("ok").result
    assert busy != idle
    os.kill(idle, signal.SIGSTOP)
    job = site.enqueue("ok", retention=60)
    site.state_is(job, "active")  # in the hands of the one that is stopped: the other is busy
    site.release()
    assert site.finished(held).state == "completed"
    assert site.finished(job, within=3).result == busy
    worker.wait_log("starts no job: replacing it", within=8)
    assert worker.stop() == 0


def test_timeouts_hold_while_somebody_has_stopped_the_helper(site):
    """It is told to go on before it is asked to kill."""
    worker = site.worker("--concurrency", 1)
    child = site.result("ok").result
    (helper,) = set(worker.processes()) - {child}
    site.enqueue("hangs:in:policy", run_timeout=0.2)
    os.kill(helper, signal.SIGSTOP)
    worker.wait_log("timed out after 0.2 s", within=5)
    assert worker.stop(within=15) == 0


@pytest.mark.torture  # it takes 6 s
def test_a_retry_policy_that_hangs_does_not_hold_up_a_stop(site):
    """Its child has no job any more, so it has five seconds to end, and not the shutdown timeout."""
    worker = site.worker("--concurrency", 1)
    site.enqueue("hangs:in:policy", run_timeout=0.2)
    site.hear("in the policy")
    assert worker.stop(within=15) == 0
    assert "has no jobs and does not end: killing it" in worker.log


@pytest.mark.torture  # it takes 12 s
def test_a_retry_policy_that_hangs_holds_up_its_own_job_alone(site):
    """After five seconds the default delay is used; the child that hangs in it is replaced."""
    worker = site.worker("--concurrency", 2)
    job = site.enqueue("hangs:in:policy", run_timeout=0.2)
    worker.wait_log("no child has answered within 5 s", within=10)
    site.state_is(job, "retry")
    assert site.result("ok").state == "completed"
    assert worker.stop() == 0


@pytest.mark.parametrize("how", ["dies", pytest.param("hangs", marks=pytest.mark.torture)])  # that takes 6 s
def test_a_retry_policy_that_never_answers_costs_its_job_nothing_more(site, how):
    """The job has failed with its own error, told once, and the default delay is used; its process is replaced."""
    worker = site.worker("--concurrency", 1)
    info = site.state_is(site.enqueue("fails", {"how": how}), "retry", within=15)
    assert (info.last_error, info.retry_count) == (f"ValueError: {how}", 1)
    assert "in fails" in Inspector(site.queue).attempts(info.id)[0].traceback
    assert site.result("ok").state == "completed"
    worker.wait_record("retry_delay failed, used the default", task_id=info.id)
    assert [record["error"] for record in worker.said("task failed", task_id=info.id)] == [f"ValueError: {how}"]
    assert worker.stop() == 0


def test_what_a_forked_process_opens_stays_open_in_one_that_it_forks(site):
    """It lets go of the worker's lock and channel once: their numbers may be those of its own files by then."""
    worker = site.worker("--concurrency", 1)
    assert site.result("forks:twice").result == 0
    assert [(site.folder / f"file{n}").read_text() for n in range(6)] == ["written"] * 6
    assert worker.stop() == 0


@pytest.mark.parametrize("threads", [1, 4])
def test_a_handler_that_closes_everything_ends_its_process_alone(site, threads):
    """Its result cannot be told: the job has failed with its process, and others go on in the next one."""
    worker = site.worker("--concurrency", 1, "--threads", threads)
    job = site.enqueue("closes:all", max_retry=0, retention=60)
    assert site.state_is(job, "archived").last_error.endswith("ended itself with exit code 1")
    assert site.result("ok").state == "completed"
    assert worker.stop() == 0
