"""A worker inside an application: `Worker.start`, `shutdown`, `with`, `run`."""

import gc
import os
import signal
import threading

import pytest

from fireforget import Registry, SqliteQueue, Task, Worker, current_job
from fireforget._pool import supervisor
from fireforget.errors import FireforgetError, InvalidOption, WorkerError
from fireforget.testing import ManualClock

registry = Registry(retry_delay=0)


@registry.task("double")
def double(x):
    return x * 2


@registry.task("sleep")
def sleep(seconds):

    current_job().progress(0.0)
    threading.Event().wait(seconds)
    return "slept"


def wait_until_it_runs(queue, job):
    while queue.get(job.id).progress is None:
        threading.Event().wait(0.005)


@registry.task("pid")
def pid():
    return os.getpid()


@registry.task("fails")
def fails():
    raise ValueError("no")


@pytest.fixture
def queue(tmp_path):
    with SqliteQueue(tmp_path / "jobs.db", durability="normal") as queue:
        yield queue


@pytest.fixture(autouse=True)
def nothing_is_left_open():
    """What a test forgot to close is its own failure, not that of a later one."""
    yield
    gc.collect()


def test_with_a_worker_jobs_run_in_other_processes(queue):
    """Inside the block jobs run, after it they do not, and the queue object works on."""
    with Worker(registry, queue, concurrency=2) as worker:
        job = queue.enqueue(double.task(x=21), retention=60)
        assert queue.wait(job.id, 5).result == 42
        job = queue.enqueue(pid.task(), retention=60)
        assert queue.wait(job.id, 5).result != os.getpid()
        assert worker.alive
    assert not worker.alive
    job = queue.enqueue(double.task(x=1))
    assert queue.get(job.id).state == "pending"


def test_a_job_that_a_clock_jump_or_a_suspend_made_due_starts_soon(tmp_path, monkeypatch):
    """A worker that slept until then by a clock that does not jump would leave it for as long as the jump was."""
    monkeypatch.setattr(supervisor, "LOOKS", (0.0, 0.05))  # else one of the looks after the enqueue may see it by chance
    clock = ManualClock()
    with SqliteQueue(tmp_path / "jobs.db", clock=clock) as queue, Worker(registry, queue, concurrency=1) as worker:
        queue.wait(queue.enqueue(double.task(x=1), retention=60).id, 5)  # its child has nothing more to say
        job = queue.enqueue(double.task(x=21), process_in=600, retention=60)
        loop = worker._supervisor
        while worker.alive and (loop._next_due == float("inf") or loop._looks):
            threading.Event().wait(0.005)
        clock.advance(601)
        assert queue.wait(job.id, 5).result == 42


def test_start_and_shutdown(tmp_path, queue):
    """By path as well; shutdown waits for what runs; a second one does nothing."""
    worker = Worker(registry, tmp_path / "jobs.db", concurrency=1)
    worker.start()
    job = queue.enqueue(Task("sleep", {"seconds": 0.3}), retention=60)
    wait_until_it_runs(queue, job)
    worker.shutdown()
    assert queue.get(job.id).state == "completed"
    assert not worker.alive
    worker.shutdown()
    assert not [name for name in os.listdir(tmp_path) if "-worker-" in name]


def test_shutdown_may_be_impatient(queue):
    """What still runs after its timeout goes back, no attempt counted."""
    worker = Worker(registry, queue, concurrency=1)
    worker.start()
    job = queue.enqueue(Task("sleep", {"seconds": 30}))
    wait_until_it_runs(queue, job)
    worker.shutdown(timeout=0.1)
    assert (queue.get(job.id).state, queue.get(job.id).retry_count) == ("pending", 0)


def test_shutdown_before_start_does_nothing(queue):
    """So `finally: worker.shutdown()` is always right."""
    Worker(registry, queue).shutdown()


def test_a_worker_is_started_once(queue):
    """A second start says what to do."""
    with Worker(registry, queue, concurrency=1) as worker, pytest.raises(WorkerError, match="make a new Worker"):
        worker.start()


def test_a_burst_can_be_joined(queue):
    """For scripts that run what there is and go on."""
    jobs = queue.enqueue_many([Task("double", {"x": n}) for n in range(50)], retention=60)
    worker = Worker(registry, queue, concurrency=2, burst=True)
    worker.start()
    worker.join()
    assert [queue.get(job.id).result for job in jobs] == [n * 2 for n in range(50)]


def test_run_blocks_until_the_burst_is_over_and_restores_signal_handlers(queue):
    """In the main thread, with signals answered meanwhile."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP, signal.SIGCONT)}
    job = queue.enqueue(double.task(x=2), retention=60)
    Worker(registry, queue, concurrency=1, burst=True).run()
    assert queue.get(job.id).result == 4
    assert {number: signal.getsignal(number) for number in before} == before


def test_two_workers_in_one_program_share_a_file(queue):
    """Each has its own processes."""
    with Worker(registry, queue, concurrency=1), Worker(registry, queue.path, concurrency=1):
        jobs = queue.enqueue_many([Task("sleep", {"seconds": 0.02}) for _ in range(20)], retention=60)
        assert {queue.wait(job.id, 5).result for job in jobs} == {"slept"}


def test_a_worker_restarted_many_times_leaves_nothing_open(queue):
    """Neither descriptors nor threads nor processes."""
    with Worker(registry, queue, concurrency=1):
        assert queue.wait(queue.enqueue(double.task(x=1), retention=60).id, 5).result == 2
    gc.collect()
    threads, descriptors = threading.active_count(), len(os.listdir("/dev/fd"))
    for _ in range(5):
        with Worker(registry, queue, concurrency=1):
            assert queue.wait(queue.enqueue(double.task(x=1), retention=60).id, 5).result == 2
    gc.collect()
    assert (threading.active_count(), len(os.listdir("/dev/fd"))) == (threads, descriptors)


@pytest.mark.parametrize(
    "settings",
    [
        {"concurrency": 0}, {"concurrency": 1.5}, {"concurrency": True}, {"concurrency": "2"}, {"threads": 0}, {"queues": {}},
        {"queues": {"a": 0}}, {"queues": {"a": 1.5}}, {"queues": {"": 1}}, {"queues": "default"}, {"queues": 5},
        {"queues": {5: 1}},
        {"metrics_interval": 0}, {"metrics_interval": float("nan")}, {"shutdown_timeout": -1}, {"max_tasks_per_child": 0},
        {"max_rss_mb": -5}, {"metrics_file": "/no/such/folder/x"}, {"metrics_file": "/"}, {"shutdown_timeout": "soon"},
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_that_cannot_be_one_is_refused(tmp_path, settings):
    """At once, naming the setting and its value."""
    (name,) = settings
    with pytest.raises(InvalidOption) as caught:
        Worker(registry, tmp_path / "jobs.db", **settings)
    assert name.rstrip("s") in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_what_is_not_a_registry_is_refused(tmp_path):
    """Handing over the module, or its name, is a likely mistake."""
    with pytest.raises(WorkerError, match="Registry"):
        Worker("app:registry", tmp_path / "jobs.db")


def test_a_worker_on_a_file_that_cannot_be_opened_raises_at_start(tmp_path):
    """And leaves no process behind, so that another one can be made."""
    with pytest.raises(FireforgetError, match="missing"):
        Worker(registry, tmp_path / "missing" / "jobs.db", concurrency=1).start()
    with Worker(registry, tmp_path / "jobs.db", concurrency=1) as worker:
        assert worker.alive


def test_what_stops_an_embedded_worker_is_raised_at_its_shutdown(queue):
    """The application learns why its worker is not at work any more."""
    import sqlite3

    worker = Worker(registry, queue, concurrency=1)
    worker.start()
    connection = sqlite3.connect(queue.path, isolation_level=None)
    connection.execute("UPDATE fireforget_meta SET value = '999' WHERE key = 'schema_version'")
    connection.execute("INSERT INTO fireforget_enqueue (type, payload) VALUES ('double', '{\"x\": 1}')")
    connection.close()
    with pytest.raises(FireforgetError, match="999"):
        worker.join()
    with pytest.raises(FireforgetError, match="999"):
        worker.shutdown()


SCRIPT = """
@registry.task("sleep")
def sleep(seconds):
    say("sleeping", os.getpid())
    time.sleep(seconds)
    note("slept")

@registry.task("ok")
def ok():
    return "ok"

queue = SqliteQueue(os.path.join(HERE, "jobs.db"))
"""


def test_a_program_of_its_own_can_be_a_worker(site):
    """`run()` answers TERM as the command does."""
    process = site.script(SCRIPT + "Worker(registry, queue, concurrency=1).run(); say('ended well')")
    job = site.enqueue("sleep", {"seconds": 0.2}, retention=60)
    site.hear("sleeping")
    process.signal(signal.SIGTERM)
    site.hear("ended well")
    assert process.exit_code() == 0
    assert site.queue.get(job).state == "completed"


def test_an_application_keeps_its_own_signals(site):
    """An embedded worker leaves them alone: Ctrl-C is the application's, and its children are not interrupted by it."""
    process = site.script(
        SCRIPT
        + """
with Worker(registry, queue, concurrency=1):
    queue.enqueue(Task("sleep", {"seconds": 0.3}))
    try:
        signal.pause()
    except KeyboardInterrupt:
        say("mine")
say("ended well")
"""
    )
    site.hear("sleeping")
    process.signal_all(signal.SIGINT)
    site.hear("mine")
    site.hear("ended well")
    assert process.exit_code() == 0
    assert site.notes() == ["slept"]
    assert "Traceback" not in process.log


@pytest.mark.parametrize("after", ["", "os.fork() or time.sleep(60)"], ids=["alone", "with a forked process"])
def test_the_children_of_an_application_that_is_killed_are_gone_within_a_second(site, deaths, after):
    """Also when the application has forked other processes since, which live on: its jobs are taken over all the same."""
    process = site.script(
        SCRIPT
        + f"""
worker = Worker(registry, queue, concurrency=1)
worker.start()
{after}
queue.enqueue(Task("sleep", {{"seconds": 30}}))
time.sleep(60)
"""
    )
    child = int(site.hear("sleeping").split()[1])
    watch = deaths([child])
    process.signal(signal.SIGKILL)
    assert watch.wait(1) == []
    site.app(SCRIPT)
    site.worker("--concurrency", 1)
    site.hear("sleeping", within=2)


def test_a_program_that_ends_with_its_worker_still_running_ends(site):
    """A forgotten shutdown holds up nothing and loses nothing: what ran is pending again for the next worker."""
    process = site.script(
        SCRIPT
        + """
worker = Worker(registry, queue, concurrency=1)
worker.start()
job = queue.enqueue(Task("sleep", {"seconds": 30}))
while queue.get(job.id).state != "active":
    time.sleep(0.01)
"""
    )
    assert process.exit_code() == 0, process.log
    assert site.sql("SELECT retry_count FROM fireforget_jobs") == [(0,)]
