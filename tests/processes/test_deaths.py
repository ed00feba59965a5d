"""Workers and children that die, are stopped or replaced: nothing is lost, nothing runs twice at once, and soon all is well."""

import os
import pathlib
import shutil
import signal
import subprocess
import threading
from time import monotonic

import pytest

from fireforget import Inspector, Task

APP = '''
@registry.task("holds")
def holds(tag=None):
    say("holding", os.getpid())
    hold()
    note("done", tag)

@registry.task("c:code")
def c_code():
    say("in C", os.getpid())
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 1_000_000_000)

@registry.task("keeps:the:gil")
def keeps_the_gil():
    """One instruction that lasts: no thread of this process gets to run."""
    say("in C", os.getpid())
    sum(range(10**11))

@registry.task("blocked:signals")
def blocked_signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})
    say("in C", os.getpid())
    time.sleep(60)

@registry.task("quick")
def quick(n):
    note(n, os.getpid())

@registry.task("slow")
def slow(n):
    time.sleep(0.06)
    note(n, os.getpid())

@registry.task("dies")
def dies(code):
    os._exit(code)

@registry.task("grows")
def grows(mib):
    grows.kept = b"x" * (mib * 1024 * 1024)
    note("grown", os.getpid())

@registry.task("forks")
def forks():
    if os.fork() == 0:
        say("grandchild", os.getpid())
        time.sleep(60)
        os._exit(0)

@registry.task("starts:program")
def starts_program():
    program = subprocess.Popen(["sleep", "60"])
    say("program", program.pid)
    hold()

@registry.task("ok")
def ok():
    return os.getpid()
'''


@pytest.fixture
def site(site):
    site.app(APP)
    return site


def ends(site, jobs, within=10):
    """The states in which jobs have ended; None for one that succeeded and was removed."""
    return [(info := site.finished(job, within)) and info.state for job in jobs]


def batch(site, type, count, **options):
    return [info.id for info in site.queue.enqueue_many([Task(type, {"n": n}) for n in range(count)], **options)]


def test_replacing_a_child_after_some_jobs_loses_nothing(site):
    """--max-tasks-per-child: no child runs more than that many, every job runs once, no child counts as dead."""
    jobs = batch(site, "quick", 100)
    worker = site.burst("--concurrency", 2, "--max-tasks-per-child", 7)
    assert ends(site, jobs) == [None] * 100
    runs = [line.split() for line in site.notes()]
    assert sorted(int(n) for n, _ in runs) == list(range(100))
    pids = [pid for _, pid in runs]
    assert max(pids.count(pid) for pid in pids) <= 7
    assert not worker.said("child died")


def test_a_child_for_each_job_is_slow_and_works(site):
    """Even where children are replaced faster than they end, the worker goes on, and every job runs once."""
    batch(site, "quick", 150)
    worker = site.burst("--concurrency", 1, "--max-tasks-per-child", 1)
    runs = [line.split() for line in site.notes()]
    assert sorted(int(n) for n, _ in runs) == list(range(150))
    assert len({pid for _, pid in runs}) == 150
    assert not worker.said("child died")


def test_a_child_that_has_grown_is_replaced_between_jobs(site):
    """--max-rss-mb: the job that grew it succeeds, the next one runs in another process."""
    site.worker("--concurrency", 1, "--max-rss-mb", 100)
    grown = site.result("grows", {"mib": 150})
    assert grown.state == "completed"
    pid = site.notes()[0].split()[1]
    assert site.result("ok").result != int(pid)
    assert site.finished(site.enqueue("quick", {"n": 1})) is None


def test_a_child_that_dies_costs_the_jobs_of_the_others_nothing(site):
    """Deaths among a thousand jobs: the guilty ones are archived, all others run exactly once."""
    tasks = [Task("quick", {"n": n}) for n in range(1000)]
    for n in range(0, 1000, 100):
        tasks.insert(n, Task("dies", {"code": 5}, max_retry=0))
    site.queue.enqueue_many(tasks)
    site.burst("--concurrency", 2)
    assert sorted(int(line.split()[0]) for line in site.notes()) == list(range(1000))
    assert site.sql("SELECT type, state, count(*) FROM fireforget_jobs GROUP BY type, state") == [("dies", "archived", 10)]


@pytest.mark.parametrize("type", ["holds", "c:code", "keeps:the:gil", "blocked:signals"])
def test_the_children_of_a_killed_supervisor_are_gone_within_a_second(site, type, deaths):
    """Also inside a C call, with the GIL held, or with signals blocked: the kernel ends them."""
    worker = site.worker("--concurrency", 2)
    site.enqueue(type)
    site.hear()
    processes = site.eventually(lambda: len(found := worker.processes()) == 3 and found)  # a helper and two children
    watch = deaths(processes)
    worker.signal(signal.SIGKILL)
    assert watch.wait(1) == []


def test_a_killed_workers_jobs_are_pending_again_within_a_second(site):
    """Another worker sees it die, no attempt is counted, and the jobs run there."""
    first = site.worker("--concurrency", 2, "--queues", "default,first")
    jobs = [site.enqueue("holds", {"tag": n}, retention=60) for n in range(2)]
    for _ in jobs:
        site.hear("holding")
    second = site.worker("--concurrency", 2)
    site.result("ok")
    first.signal(signal.SIGKILL)
    began = monotonic()
    for _ in jobs:
        site.hear("holding")
    assert monotonic() - began < 1.5
    site.release()
    infos = [site.finished(job) for job in jobs]
    assert [(info.state, info.retry_count) for info in infos] == [("completed", 0)] * 2
    assert not any(Inspector(site.queue).attempts(job) for job in jobs)
    assert sorted(site.notes()) == ["done 0", "done 1"]
    assert second.wait_log("has died")
    assert len(Inspector(site.queue).workers()) == 1
    assert len([name for name in os.listdir(site.folder) if "-worker-" in name]) == 1


def test_which_child_runs_what_and_that_one_died_can_be_seen(site):
    """While it runs, and after its process was killed."""
    site.worker("--concurrency", 1)
    job = site.enqueue("holds", max_retry=0, retention=60)
    pid = int(site.hear("holding").split()[1])
    (worker,) = Inspector(site.queue).workers()
    (child,) = worker.children
    assert (child.pid, [one.id for one in child.jobs], worker.child_deaths) == (pid, [job], 0)
    assert worker.started_at <= child.started_at <= child.jobs[0].since and child.memory > 2**20
    os.kill(pid, signal.SIGKILL)
    assert site.finished(job).state == "archived"
    (worker,) = Inspector(site.queue).workers()
    assert (worker.child_deaths, worker.last_child_death.pid, worker.last_child_death.reason) == (1, pid, "SIGKILL")
    assert all(child.pid != pid and not child.jobs for child in worker.children)


def test_a_restart_takes_over_at_once(site):
    """The worker's own restart does not wait for anything."""
    first = site.worker("--concurrency", 1)
    job = site.enqueue("holds", retention=60)
    site.hear("holding")
    first.signal(signal.SIGKILL)
    first.exit_code()
    began = monotonic()
    site.worker("--concurrency", 1)
    site.hear("holding")
    assert monotonic() - began < 1.5
    site.release()
    assert site.finished(job).retry_count == 0


def test_the_third_death_of_a_worker_under_a_job_archives_it(site):
    """A job that brings workers down does not do so for ever; the one that only waited is not blamed."""
    job = site.enqueue("holds")
    for _ in range(3):
        assert site.queue.get(job).state in ("pending", "active")
        worker = site.worker("--concurrency", 1)
        site.hear("holding")
        waiting = site.enqueue("ok", retention=60)
        worker.signal(signal.SIGKILL)
        worker.exit_code()
    site.worker("--concurrency", 1)
    info = site.finished(job)
    assert info.state == "archived"
    assert "3 times" in info.last_error and "worker died" in info.last_error
    assert info.retry_count == 0
    assert site.finished(waiting).state == "completed"


def test_jobs_that_had_not_started_are_not_blamed_for_their_workers_death(site):
    """What only waited in a child may meet any number of dying workers."""
    quick = batch(site, "quick", 100, retention=60)
    worker = site.worker("--concurrency", 1)
    ends(site, quick[-1:])
    worker.stop()
    for _ in range(3):
        worker = site.worker("--concurrency", 1)
        warm = batch(site, "quick", 50)
        ends(site, warm)
        site.enqueue("holds", max_retry=0)
        behind = batch(site, "quick", 20, retention=60)
        site.hear("holding")
        worker.signal(signal.SIGKILL)
        worker.exit_code()
        site.sql("DELETE FROM fireforget_job WHERE type = 'holds'")
    site.burst("--concurrency", 1)
    assert {site.finished(job).state for job in behind} == {"completed"}
    assert site.sql("SELECT count(*) FROM fireforget_jobs WHERE state = 'archived'") == [(0,)]


def test_a_worker_that_is_stopped_for_a_while_keeps_its_jobs(site):
    """SIGSTOP and CONT, as a suspended machine: the other worker waits, and no job runs twice."""
    first = site.worker("--concurrency", 1)
    jobs = batch(site, "slow", 10, retention=60)
    held = site.enqueue("holds", {"tag": "held"}, queue="critical", retention=60)
    site.hear("holding")
    first.signal_all(signal.SIGSTOP)
    second = site.worker("--concurrency", 1)
    ends(site, batch(site, "quick", 5))
    site.result("ok")
    threading.Event().wait(0.8)  # longer than a dead worker would be left alone
    assert site.queue.get(held).state == "active"
    first.signal_all(signal.SIGCONT)
    site.release()
    assert ends(site, [*jobs, held]) == ["completed"] * 11
    assert not second.said("has died")
    slow = [line for line in site.notes() if line.startswith("done")]
    assert slow == ["done held"]
    numbers = [int(line.split()[0]) for line in site.notes() if not line.startswith("done")]
    assert sorted(numbers) == sorted([*range(10), *range(5)])
    assert first.stop() == second.stop() == 0


def test_a_supervisor_that_is_stopped_alone_loses_no_result(site):
    """Its children go on with what they have; their results are taken in later, once."""
    worker = site.worker("--concurrency", 2)
    jobs = [site.enqueue("holds", {"tag": n}, retention=60) for n in range(2)]
    for _ in jobs:
        site.hear("holding")
    worker.signal(signal.SIGSTOP)
    site.release()
    site.eventually(lambda: len(site.notes()) == 2)
    assert [site.queue.get(job).state for job in jobs] == ["active"] * 2
    worker.signal(signal.SIGCONT)
    assert ends(site, jobs) == ["completed"] * 2
    assert len(site.notes()) == 2


def test_two_workers_share_and_no_job_runs_twice(site):
    """On one file, side by side, as many as one likes."""
    workers = [site.worker("--concurrency", 1) for _ in range(2)]
    jobs = batch(site, "slow", 30)
    fast = batch(site, "quick", 2000, queue="low")
    assert ends(site, [*jobs, *fast]) == [None] * 2030
    for worker in workers:
        assert worker.stop() == 0
    runs = [line.split() for line in site.notes()]
    numbers = sorted(int(n) for n, _ in runs)
    assert numbers == sorted([*range(30), *range(2000)])
    assert len({pid for _, pid in runs}) == 2


def test_a_process_that_a_handler_forks_does_not_keep_the_worker_alive(site, deaths):
    """Neither its lock nor its channel: when the worker has died its jobs are taken over, whatever the grandchild does."""
    first = site.worker("--concurrency", 1)
    site.finished(site.enqueue("forks"))
    site.hear("grandchild")
    job = site.enqueue("holds", retention=60)
    site.hear("holding")
    first.signal(signal.SIGKILL)
    first.exit_code()
    site.worker("--concurrency", 1)
    began = monotonic()
    site.hear("holding", within=3)
    assert monotonic() - began < 1.5
    site.release()
    assert site.finished(job).retry_count == 0


def test_a_program_that_a_handler_starts_does_not_keep_the_worker_alive(site):
    """A daemon started from a handler inherits nothing of the worker's."""
    first = site.worker("--concurrency", 1)
    site.enqueue("starts:program")
    site.hear("program")
    first.signal(signal.SIGKILL)
    first.exit_code()
    site.worker("--concurrency", 1)
    site.hear("program", within=2)


def test_a_worker_whose_helper_is_killed_ends_with_1_and_loses_nothing(site):
    """Without the helper no child can be started: it says so, and the jobs are there for the next worker."""
    worker = site.worker("--concurrency", 1)
    job = site.enqueue("holds", retention=60)
    child = int(site.hear("holding").split()[1])
    (helper,) = [pid for pid in worker.processes() if pid != child]
    os.kill(helper, signal.SIGKILL)
    assert worker.exit_code() == 1
    assert "cannot go on" in worker.log and "helper" in worker.log
    assert "Traceback" not in worker.log
    site.release()
    site.burst()
    assert (site.finished(job).state, site.finished(job).retry_count) == ("completed", 0)


def test_one_long_job_delays_none_of_those_that_were_claimed_with_it(site):
    """While another child is free, the jobs behind a long one are taken back and run there, in well under a second."""
    site.worker("--concurrency", 2)
    ends(site, batch(site, "quick", 1000))
    tasks = [Task("quick", {"n": n}) for n in range(200)]
    jobs = site.queue.enqueue_many([*tasks[:20], Task("holds"), *tasks[20:]], retention=60)
    began = monotonic()
    site.hear("holding")
    assert ends(site, [job.id for n, job in enumerate(jobs) if n != 20]) == ["completed"] * 200
    assert monotonic() - began < 0.5
    site.release()
    assert {site.finished(job.id).retry_count for job in jobs} == {0}
    assert len(site.notes()) == 1000 + 201


def test_taking_back_again_and_again_loses_and_doubles_nothing(site):
    """Long and short jobs mixed at random: each runs exactly once."""
    import random

    worker = site.worker("--concurrency", 2)
    dice = random.Random(7)
    tasks = [Task("slow" if dice.random() < 0.02 else "quick", {"n": n}) for n in range(1500)]
    site.queue.enqueue_many(tasks)
    site.eventually(lambda: not site.sql("SELECT 1 FROM fireforget_job LIMIT 1"), within=10)
    assert sorted(int(line.split()[0]) for line in site.notes()) == list(range(1500))
    assert worker.stop() == 0


def test_a_child_that_cannot_start_does_not_make_the_worker_spin(site):
    """Tried again after a pause that doubles, with a line in the log each time; when it can start, work goes on."""
    site.app(
        APP
        + """
def after_fork():
    if os.path.exists(os.path.join(HERE, "broken")):
        os._exit(9)

os.register_at_fork(after_in_child=after_fork)
"""
    )
    worker = site.worker("--concurrency", 1)
    child = site.result("ok").result
    site.release("broken")
    os.kill(child, signal.SIGKILL)
    worker.wait_log("trying again in 0.8 s", within=5)
    assert worker.log.count("could not start") == 3
    (site.folder / "broken").unlink()
    assert site.result("ok").result != child
    assert worker.stop() == 0


IN_A_CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]


def containers_can_be_made():
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*IN_A_CONTAINER, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not containers_can_be_made(), reason="no process 1 can be made here: it takes unshare, and the rights for it")
def test_process_1_of_a_container_stops_in_time_and_reaps_orphans(site):
    """Nobody else would: a container's process 1 inherits what handlers leave behind."""
    site.app(
        APP
        + """
@registry.task("leaves:orphan", retention=60)
def leaves_orphan():
    subprocess.run(["sh", "-c", "sleep 0.01 & exit 0"])

@registry.task("zombies", retention=60)
def zombies():
    states = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            states.append(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0])
        except OSError:
            pass
    return states.count("Z")
"""
    )
    command = [*IN_A_CONTAINER, *site.command("--concurrency", 1)]
    container = subprocess.Popen(command, cwd=site.folder, env=site.env, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(3):
            assert site.finished(site.enqueue("leaves:orphan", retention=60)).state == "completed"
        site.eventually(lambda: site.result("zombies").result == 0)
        (init,) = pathlib.Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
        os.kill(int(init), signal.SIGTERM)
        assert container.wait(5) == 0
    finally:
        container.kill()
        container.stderr.close()
