"""Timeouts and deadlines: softly at the limit, by force one second later, and only the job that ran too long pays."""

from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest

from fireforget import Inspector, Task

APP = '''
import queue, socket

def block_signals():
    """As C code does that a handler calls: no Python instruction is reached, so nothing can be raised."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})

@registry.task("sleep", max_retry=0)
def sleep(seconds, say_so=False):
    if say_so:
        say("sleeping", os.getpid())
    time.sleep(seconds)
    return "slept"

@registry.task("cleans:up")
def cleans_up():
    try:
        while True:
            time.sleep(0.01)
    except Exception:
        note("an except Exception caught it")
    finally:
        note("finally ran")

@registry.task("waits")
def waits(what):
    if what == "pipe":
        os.read(os.pipe()[0], 1)
    elif what == "socket":
        pair = socket.socketpair()
        pair[0].recv(1)
    elif what == "program":
        subprocess.run(["sleep", "30"])
    elif what == "lock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    elif what == "queue":
        queue.Queue().get()
    else:
        while True:
            pass

@registry.task("catches:all")
def catches_all():
    try:
        time.sleep(30)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"

@registry.task("goes:on")
def goes_on():
    while True:
        try:
            time.sleep(30)
        except BaseException:
            note("goes on")

@registry.task("c:code")
def c_code():
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 1_000_000_000)

@registry.task("blocked:signals")
def blocked_signals():
    block_signals()
    time.sleep(30)

@registry.task("async:sleep")
async def async_sleep(seconds):
    try:
        say("async", current_job().id)
        await asyncio.sleep(seconds)
        return "slept"
    finally:
        note("coroutine unwound")

@registry.task("die")
def die(how):
    say("pid", os.getpid())
    hold("die")
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)

@registry.task("dies:once", retry_delay=lambda retry_count, error: 0)
def dies_once():
    if current_job().retry_count == 0:
        os._exit(3)

@registry.task("holds")
def holds():
    say("holds")
    hold("holds")

@registry.task("ok")
def ok():
    return os.getpid()
'''


@pytest.fixture(scope="module")
def shared(make_site):
    """One worker with two children, one job at once in each."""
    site = make_site()
    site.app(APP)
    site.worker_process = site.worker("--concurrency", 2)
    return site


@pytest.fixture(scope="module")
def threaded(make_site):
    """One worker with one child that runs four jobs at once."""
    site = make_site()
    site.app(APP)
    site.worker_process = site.worker("--concurrency", 1, "--threads", 4)
    return site


def times(site, *jobs):
    """What the end of each job says, and how many seconds after now the last of them came."""
    began = monotonic()
    infos = [site.queue.wait(job, 8) for job in jobs]
    return infos, monotonic() - began


def test_a_handler_is_interrupted_at_its_timeout(shared):
    """The job fails with `timed out after N s` when N seconds have passed, and its child lives on."""
    (info,), seconds = times(shared, shared.enqueue("sleep", {"seconds": 30}, run_timeout=0.3, max_retry=0))
    assert (info.state, info.last_error) == ("archived", "timed out after 0.3 s")
    assert 0.25 < seconds < 0.8
    (attempt,) = Inspector(shared.queue).attempts(info.id)
    assert 0.25 < attempt.duration < 0.8
    assert "in sleep" in attempt.traceback and "_pool" not in attempt.traceback
    record = shared.worker_process.wait_record("task failed", task_id=info.id)
    assert (record["error"], record["success"]) == ("timed out after 0.3 s", False)
    assert not shared.worker_process.said("child died")


def test_an_interrupted_handler_cleans_up_and_except_exception_does_not_swallow_it(shared):
    """`finally` runs, as at any exception; a broad `except Exception` around the work does not turn a timeout into a success."""
    (info,), _ = times(shared, shared.enqueue("cleans:up", run_timeout=0.2, max_retry=0))
    assert info.last_error == "timed out after 0.2 s"
    assert shared.notes() == ["finally ran"]


def test_a_handler_that_catches_its_timeout_may_still_return(shared):
    """Who catches BaseException within the second and returns has succeeded."""
    (info,), _ = times(shared, shared.enqueue("catches:all", run_timeout=0.2, retention=60))
    assert (info.state, info.result) == ("completed", "JobTimeout: timed out after 0.2 s")


@pytest.mark.parametrize("what", ["pipe", "socket", "program", "lock", "queue", "loop"])
def test_a_handler_that_waits_in_a_system_call_is_interrupted_softly(shared, what):
    """Most of what handlers wait for can be interrupted: it takes no kill, and the child lives on."""
    (info,), seconds = times(shared, shared.enqueue("waits", {"what": what}, run_timeout=0.1, max_retry=0))
    assert (info.state, info.last_error) == ("archived", "timed out after 0.1 s")
    assert Inspector(shared.queue).attempts(info.id)[0].traceback, "it was killed"
    assert seconds < 0.9


@pytest.mark.parametrize("type", ["goes:on", "c:code", "blocked:signals"])
def test_what_cannot_be_interrupted_is_killed_within_a_second(shared, type):
    """C code and handlers that catch everything included; the child is replaced and the next job runs."""
    (info,), seconds = times(shared, shared.enqueue(type, run_timeout=0.2, max_retry=0))
    assert (info.state, info.last_error) == ("archived", "timed out after 0.2 s")
    assert 1.0 < seconds < 2.0
    (attempt,) = Inspector(shared.queue).attempts(info.id)
    assert attempt.traceback is None
    assert attempt.error == info.last_error
    assert shared.worker_process.wait_record("task failed", task_id=info.id)["error"] == "timed out after 0.2 s"
    assert shared.result("ok").state == "completed"


def test_a_timed_out_job_is_tried_again(shared):
    """A timeout is a failed attempt like any other."""
    (info,), _ = times(shared, shared.enqueue("sleep", {"seconds": 30}, run_timeout=0.1, max_retry=2))
    assert (info.state, info.retry_count) == ("archived", 2)
    assert [attempt.error for attempt in Inspector(shared.queue).attempts(info.id)] == ["timed out after 0.1 s"] * 3


def test_a_job_that_ends_just_in_time_is_a_success(shared):
    """Interruptions that come too late hit nobody: neither this job nor the next one in the child."""
    jobs = [shared.enqueue("sleep", {"seconds": 0.04}, run_timeout=0.05, retention=60, max_retry=0) for _ in range(20)]
    infos, _ = times(shared, *jobs)
    for info in infos:
        assert info.state == "completed" or info.last_error == "timed out after 0.05 s"
    assert not shared.worker_process.said("child died", reason="exit code 1")


def test_a_job_past_its_deadline_is_archived_and_not_run(shared):
    """Late work is not wanted: no run, no attempt, the reason."""
    deadline = datetime.now(UTC) - timedelta(seconds=1)
    info = shared.result("sleep", {"seconds": 0, "say_so": True}, deadline=deadline)
    assert (info.state, info.last_error, info.retry_count) == ("archived", "deadline passed", 0)
    assert shared.silent()
    assert Inspector(shared.queue).attempts(info.id) == []
    assert shared.worker_process.wait_record("task failed", task_id=info.id)["error"] == "deadline passed"


@pytest.mark.parametrize(
    ("type", "payload", "least", "most"), [("sleep", {"seconds": 30}, 0.2, 0.9), ("blocked:signals", None, 1.2, 2.2)]
)
def test_a_deadline_that_passes_while_the_job_runs_archives_it(shared, type, payload, least, most):
    """Softly, then by force, and without a retry whatever retries are left."""
    deadline = datetime.now(UTC) + timedelta(seconds=0.3)
    (info,), seconds = times(shared, shared.enqueue(type, payload, deadline=deadline, max_retry=5))
    assert (info.state, info.last_error, info.retry_count) == ("archived", "deadline passed", 0)
    assert least < seconds < most


def test_a_coroutine_is_cancelled_at_its_timeout(shared, threaded):
    """It unwinds properly, with one job at once and with many."""
    for site in (shared, threaded):
        (info,), seconds = times(site, site.enqueue("async:sleep", {"seconds": 30}, run_timeout=0.2, max_retry=0))
        assert (info.state, info.last_error) == ("archived", "timed out after 0.2 s")
        assert seconds < 0.9
        assert site.notes()[-1] == "coroutine unwound"
        assert site.result("ok").state == "completed"


@pytest.mark.parametrize(
    ("how", "sentence"), [("exit", "ended itself with exit code 3"), ("kill", "killed by signal 9 (SIGKILL)")]
)
def test_the_death_of_a_child_costs_its_job_one_attempt(shared, how, sentence):
    """The error names the pid and how it ended; the worker lives on and counts the death."""
    shared.release("die")
    job = shared.enqueue("die", {"how": how}, max_retry=0)
    pid = shared.hear("pid").split()[1]
    (info,), _ = times(shared, job)
    assert (info.state, info.last_error) == ("archived", f"child process {pid} died: {sentence}")
    assert len(Inspector(shared.queue).attempts(job)) == 1
    record = shared.worker_process.wait_record("task failed", task_id=job)
    assert record["error"] == info.last_error
    assert shared.result("ok").state == "completed"


def test_a_retry_policy_is_asked_about_a_dead_child_while_others_are_busy(shared):
    """A child that is idle is asked, or the one that takes the dead one's place: not one that has a job to run first."""
    busy = shared.enqueue("holds")
    shared.hear("holds")
    info = shared.result("dies:once")
    assert (info.state, info.retry_count) == ("completed", 1)
    assert not shared.worker_process.said("retry_delay failed, used the default", task_id=info.id)
    shared.release("holds")
    shared.finished(busy)


def test_jobs_that_wait_in_a_dying_child_pay_nothing(site):
    """They run elsewhere, in their first attempt."""
    site.app(APP)
    site.worker("--concurrency", 1)
    quick = [info.id for info in site.queue.enqueue_many([Task("ok") for _ in range(300)], retention=60)]
    times(site, *quick)  # so that the worker knows them to be short, and sends many at once
    site.release("die")
    tasks = [Task("ok")] * 100 + [Task("die", {"how": "kill"}, max_retry=0)] + [Task("ok")] * 100
    infos, _ = times(site, *(info.id for info in site.queue.enqueue_many(tasks, retention=60)))
    assert [info.state for info in infos] == ["completed"] * 100 + ["archived"] + ["completed"] * 100
    assert {info.retry_count for info in infos} == {0}
    assert all(not Inspector(site.queue).attempts(info.id) for info in infos if info.state == "completed")


def test_only_the_job_that_ran_too_long_pays_for_its_threads_process(threaded):
    """The jobs beside it go back with no attempt counted and run again; the one that was killed fails."""
    beside = [threaded.enqueue("sleep", {"seconds": 1.4, "say_so": True}, retention=60, max_retry=0) for _ in range(3)]
    for _ in beside:
        threaded.hear("sleeping")
    guilty = threaded.enqueue("c:code", run_timeout=0.2, max_retry=0)
    (info,), seconds = times(threaded, guilty)
    assert (info.state, info.last_error) == ("archived", "timed out after 0.2 s")
    assert seconds < 2
    for job in beside:
        threaded.worker_process.wait_record("task returned", task_id=job)
    infos, _ = times(threaded, *beside)
    assert [(info.state, info.retry_count) for info in infos] == [("completed", 0)] * 3
    assert not any(Inspector(threaded.queue).attempts(job) for job in beside)


def test_four_jobs_run_at_once_in_a_child_with_four_threads(threaded):
    """Threads and coroutines alike, side by side, each with its own job."""
    began = monotonic()
    jobs = [threaded.enqueue("sleep", {"seconds": 0.3}, retention=60) for _ in range(2)]
    jobs += [threaded.enqueue("async:sleep", {"seconds": 0.3}, retention=60) for _ in range(2)]
    infos, _ = times(threaded, *jobs)
    assert [info.result for info in infos] == ["slept"] * 4
    assert monotonic() - began < 0.9
    assert {threaded.hear("async").split()[1] for _ in range(2)} == set(jobs[2:])


def test_a_soft_timeout_in_a_thread_leaves_the_jobs_beside_it_alone(threaded):
    """A handler that can be interrupted costs the process nothing."""
    beside = threaded.enqueue("sleep", {"seconds": 0.8, "say_so": True}, retention=60, max_retry=0)
    pid = threaded.hear("sleeping").split()[1]
    (info,), _ = times(threaded, threaded.enqueue("cleans:up", run_timeout=0.2, max_retry=0))
    assert info.last_error == "timed out after 0.2 s"
    (info,), _ = times(threaded, beside)
    assert (info.state, info.retry_count) == ("completed", 0)
    assert threaded.result("ok").result == int(pid)
