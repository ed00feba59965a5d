"""A worker and its file: other programs' rows, locks, migrations and deletions."""

import os
import re
import resource
import sqlite3
import statistics
import threading
from contextlib import closing
from time import monotonic, time

import pytest

from fireforget import SqliteQueue, Task

APP = """
@registry.task("ok", retention=60)
def ok():
    return "ok"

@registry.task("now", retention=60)
def now():
    return time.time()

@registry.task("n")
def n(n):
    note(n)

@registry.task("holds")
def holds():
    say("holding")
    hold()
    note("done")
"""


@pytest.fixture
def site(site):
    site.app(APP)
    return site


def test_an_idle_worker_notices_a_plain_insert_at_once(site):
    """Whatever program inserts, in whatever durability, the job starts within 100 ms."""
    site.worker("--concurrency", 2)
    site.result("now")
    waits = []
    with closing(sqlite3.connect(site.db, isolation_level=None)) as connection:
        for n in range(10):
            threading.Event().wait(0.05)  # let it go idle
            inserted = time()
            connection.execute("INSERT INTO fireforget_enqueue (type, retention, task_id) VALUES ('now', 60, ?)", (f"sql-{n}",))
            waits.append(site.queue.wait(f"sql-{n}", 5).result - inserted)
    assert max(waits) < 0.1, waits
    assert statistics.median(waits) < 0.02, waits


def test_a_transaction_that_takes_its_time_is_noticed_when_it_commits(site):
    """The kernel tells of the write long before the commit: the worker looks again."""
    site.worker("--concurrency", 1)
    site.result("now")
    with closing(sqlite3.connect(site.db, isolation_level=None)) as connection:
        for pause in (0.02, 0.3, 1.2):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "INSERT INTO fireforget_enqueue (type, retention, task_id) VALUES ('now', 60, ?)", (f"slow-{pause}",)
            )
            threading.Event().wait(pause)
            connection.execute("COMMIT")
            committed = time()
            assert site.queue.wait(f"slow-{pause}", 5).result - committed < 0.1


def test_a_new_job_starts_within_milliseconds_on_an_idle_worker(site):
    """Pick-up is what an embedded queue is for; the figure itself is measured elsewhere."""
    site.worker("--concurrency", 2)
    site.result("now")
    waits = []
    for _ in range(20):
        threading.Event().wait(0.02)
        info = site.queue.enqueue(Task("now"), retention=60)
        waits.append(site.queue.wait(info.id, 5).result - info.enqueued_at.timestamp())
    assert statistics.median(waits) < 0.02, waits


def test_an_idle_worker_writes_nothing(site):
    """No write to the file or its WAL, and no write lock taken, while there is nothing to do."""
    site.worker("--concurrency", 2, "--metrics-file", "m.prom", "--metrics-interval", 0.05)
    site.result("ok")
    site.enqueue("ok", process_in=3600)
    threading.Event().wait(0.8)  # the looks after a notice, and the last change of the metrics, are over

    def stamps():
        return [os.stat(path).st_mtime_ns for path in (site.db, f"{site.db}-wal", site.folder / "m.prom")]

    before = stamps()
    threading.Event().wait(0.6)
    assert stamps() == before


def test_another_program_may_hold_the_write_lock_for_seconds(site):
    """Running jobs end, nothing is lost, and afterwards everything goes on by itself."""
    worker = site.worker("--concurrency", 2)
    site.result("ok")
    held = site.enqueue("holds", retention=60)
    site.hear("holding")
    jobs = site.queue.enqueue_many([Task("n", {"n": n}) for n in range(50)], process_in=0.1)
    with closing(sqlite3.connect(site.db, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        site.release()
        site.eventually(lambda: "done" in site.notes())
        threading.Event().wait(3)
        connection.execute("COMMIT")
    assert site.finished(held, within=3).state == "completed"
    for job in jobs:
        assert site.finished(job.id, within=3) is None
    assert sorted(site.notes()) == sorted(["done", *map(str, range(50))])
    assert worker.stop() == 0


def test_a_timeout_is_enforced_while_the_file_is_locked(site):
    """Whoever kills never waits for the database."""
    site.app(
        APP
        + """
@registry.task("stuck")
def stuck():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
    say("stuck", os.getpid())
    time.sleep(60)
"""
    )
    site.worker("--concurrency", 1)
    job = site.enqueue("stuck", run_timeout=0.3, max_retry=0)
    child = int(site.hear("stuck").split()[1])
    with closing(sqlite3.connect(site.db, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        began = monotonic()
        descriptor = os.pidfd_open(child)
        try:
            import select

            assert select.select([descriptor], [], [], 3)[0]
        finally:
            os.close(descriptor)
        assert monotonic() - began < 2
        connection.execute("ROLLBACK")
    assert site.finished(job).last_error == "timed out after 0.3 s"


@pytest.mark.parametrize("how", ["deleted", "replaced", "moved"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_file_that_is_taken_away_ends_the_worker(site, how, busy):
    """Jobs committed to a file without a name would be lost unseen: exit 1, one clear line, no traceback."""
    worker = site.worker("--concurrency", 1)
    site.result("ok")
    if busy:
        site.enqueue("holds")
        site.hear("holding")
    if how == "moved":
        os.rename(site.db, site.folder / "moved.db")
    else:
        if how == "replaced":
            SqliteQueue(site.folder / "other.db").close()
        for suffix in ("-wal", "-shm"):
            os.unlink(f"{site.db}{suffix}")
        os.unlink(site.db)
        if how == "replaced":
            os.rename(site.folder / "other.db", site.db)
    site.release()
    assert worker.exit_code(5) == 1
    assert "deleted or replaced" in worker.log
    assert str(site.db) in worker.log
    assert "Traceback" not in worker.log
    if how == "replaced":
        with SqliteQueue(site.db) as other:
            assert other.enqueue(Task("ok")).state == "pending"


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_migration_by_a_newer_program_ends_the_worker(site, busy):
    """It would misread the file: exit 1 at the next transaction, with the versions, and the file is left alone."""
    worker = site.worker("--concurrency", 1)
    site.result("ok")
    if busy:
        site.enqueue("holds")
        site.hear("holding")
    site.sql("UPDATE fireforget_meta SET value = '999' WHERE key = 'schema_version'")
    site.release()
    if not busy:
        site.sql("INSERT INTO fireforget_enqueue (type) VALUES ('ok')")
    assert worker.exit_code(5) == 1
    assert "999" in worker.log and "upgrade" in worker.log
    assert "Traceback" not in worker.log
    assert site.sql("SELECT value FROM fireforget_meta WHERE key = 'schema_version'") == [("999",)]


def test_producers_and_a_worker_meet_on_one_file(site):
    """Several processes enqueue as fast as they can while the worker runs: no error, no job lost, none twice."""
    site.worker("--concurrency", 1)
    program = (
        "import sys; from fireforget import *; queue = SqliteQueue('jobs.db', durability='normal')\n"
        "for n in range(300): queue.enqueue(Task('n', {'n': int(sys.argv[1]) + n}))"
    )
    import subprocess
    import sys

    producers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(n * 1000)], cwd=site.folder, env=site.env, stderr=subprocess.PIPE, text=True
        )
        for n in range(4)
    ]
    for producer in producers:
        _, errors = producer.communicate(timeout=20)
        assert (producer.returncode, errors) == (0, "")
    site.eventually(lambda: not site.sql("SELECT 1 FROM fireforget_job LIMIT 1"))
    assert sorted(map(int, site.notes())) == [n * 1000 + k for n in range(4) for k in range(300)]


def grown_by(site, worker, more):
    """Let the worker's files grow no further than `more` bytes beyond what they are; None lifts the limit."""
    size = max(path.stat().st_size for path in site.folder.iterdir()) if more is not None else 0
    limit = resource.RLIM_INFINITY if more is None else size + more
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def test_a_full_disk_at_claim_and_settling_delays_and_loses_nothing(site):
    """The worker says what is wrong, keeps what is to be settled, and goes on when there is room again, which it says too."""
    worker = site.worker("--concurrency", 2)
    held = site.enqueue("holds", retention=60)
    site.hear("holding")
    jobs = [site.enqueue("n", {"n": n}, process_in=0.2) for n in range(40)]
    grown_by(site, worker, 0)
    site.release()
    worker.wait_log("trouble", within=10)
    assert site.queue.get(held).state == "active"
    assert "can be written again" not in worker.log
    grown_by(site, worker, None)
    worker.wait_log("the store can be written again", within=10)
    assert site.finished(held).state == "completed"
    for job in jobs:
        assert site.finished(job) is None
    assert sorted(site.notes()) == sorted(["done", *map(str, range(40))])
    assert worker.stop() == 0
    (told,) = re.findall('the store can be written again", "seconds": ([0-9.]+)', worker.log)
    assert 0.5 <= float(told) < 30, "from the first failure to the retry that went well"


def test_a_damaged_file_ends_the_worker_and_is_not_written_any_more(site):
    """Going on would make it worse: it says so, with exit code 1."""
    worker = site.worker("--concurrency", 1)
    site.queue.enqueue_many([Task("nobody", {"text": "x" * 500})] * 2000)
    site.result("ok")
    assert worker.stop() == 0
    site.queue.close()
    with closing(sqlite3.connect(site.db)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'fireforget_claim'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with open(site.db, "r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    worker = site.worker("--concurrency", 1, ready=False)
    assert worker.exit_code() == 1
    assert "damaged" in worker.log
    assert "Traceback" not in worker.log


def test_a_reader_that_stays_does_not_stop_the_worker(site):
    """A long query keeps the WAL from shrinking, and nothing else."""
    worker = site.worker("--concurrency", 2)
    site.result("ok")
    with closing(sqlite3.connect(site.db, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM fireforget_jobs").fetchall()
        site.queue.enqueue_many([Task("n", {"n": n}) for n in range(3000)])
        site.eventually(lambda: len(site.notes()) == 3000)
        reader.execute("COMMIT")
    assert site.result("ok").result == "ok"
    assert worker.stop() == 0
