"""A disk that is full, a file that is gone, a WAL that grows: what is stored stays, and what went wrong is said."""

import os
import sqlite3
import threading
from contextlib import closing

import pytest

from fireforget import Task
from fireforget.errors import StoreError, StoreFull, StoreReplaced

MEBIBYTE = 1024 * 1024


def test_a_file_at_its_limit_is_full_and_loses_nothing(queue, sql):
    """Nothing of the refused job is stored, everything before it is, and with room again it goes on."""
    connection = queue._database.connection()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 20}")
    stored = [queue.enqueue(Task("t", "x" * 10_000)).id for _ in range(3)]
    for enqueue in (lambda: queue.enqueue(Task("t", "x" * 100_000)), lambda: queue.enqueue_many([Task("t", "x" * 30_000)] * 5)):
        with pytest.raises(StoreFull, match="make room"):
            enqueue()
    connection.execute(f"PRAGMA max_page_count = {pages + 200}")
    stored.append(queue.enqueue(Task("t", "x" * 100_000)).id)
    assert [id for (id,) in sql("SELECT id FROM fireforget_jobs")] == stored
    assert sql("PRAGMA integrity_check") == [("ok",)]


def test_a_file_that_may_not_grow_any_more_is_a_clear_error(run_python, path, sql):
    """As under a quota: what was accepted is stored, what was not is not, and the same object goes on when there is room."""
    out = run_python(
        """
import resource, sys
from fireforget import SqliteQueue, Task
from fireforget.errors import StoreError
queue = SqliteQueue(sys.argv[1])
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, unlimited[1]))
stored, error = [], None
while error is None:
    try:
        stored.append(queue.enqueue(Task("t", "x" * 20_000)).id)
    except StoreError as caught:
        error = caught
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
stored.append(queue.enqueue(Task("t")).id)
queue.close()
print(error)
print(*stored)
""",
        path,
    )
    message, ids = out.splitlines()
    assert path in message
    assert "check free space" in message or "make room" in message
    assert [id for (id,) in sql("SELECT id FROM fireforget_jobs")] == ids.split()
    assert sql("PRAGMA integrity_check") == [("ok",)]


def in_new_thread(function):
    """Call a function where no connection is open yet, and return what it raised."""
    raised = []

    def work():
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def remove(path):
    for suffix in ("", "-wal", "-shm"):
        os.unlink(path + suffix)


def test_a_deleted_file_is_noticed(queue, path):
    """A commit into it would go nowhere."""
    queue.enqueue(Task("t"))
    os.unlink(path)
    with pytest.raises(StoreReplaced, match="deleted or replaced"):
        queue.enqueue(Task("t"))


def test_a_replaced_file_is_noticed(queue, path, open_queue, tmp_path):
    """Also when the new one is a queue too: a restored backup, a deployment that copied files."""
    other = open_queue(tmp_path / "other.db")
    other.enqueue(Task("t"))
    other.close()
    os.replace(tmp_path / "other.db", path)
    with pytest.raises(StoreReplaced):
        queue.enqueue_many([Task("t")] * 2)


def test_a_deleted_file_is_noticed_by_a_new_thread_and_not_made_anew(queue, path):
    """An empty file with other permissions must not appear where the queue was."""
    queue.enqueue(Task("t"))
    remove(path)
    error = in_new_thread(lambda: queue.enqueue(Task("t")))
    assert isinstance(error, StoreReplaced), repr(error)
    assert not os.path.exists(path)


def test_a_replaced_file_is_noticed_by_a_new_thread_before_it_writes(queue, path, open_queue, tmp_path):
    """The job must not be found in a file that the caller has never opened, under an error that says it was not stored."""
    other = open_queue(tmp_path / "other.db")
    other.close()
    remove(path)
    os.replace(tmp_path / "other.db", path)
    error = in_new_thread(lambda: queue.enqueue(Task("t")))
    assert isinstance(error, StoreReplaced), repr(error)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM fireforget_jobs").fetchone() == (0,)


def test_an_error_of_the_file_while_reading_is_an_error_of_ours(queue, sql):
    """`get` and `wait` speak of the store as `enqueue` does, not in exceptions of sqlite3."""
    info = queue.enqueue(Task("t"))
    sql("ALTER TABLE fireforget_job RENAME TO fireforget_gone")
    for read in (lambda: queue.get(info.id), lambda: queue.wait(info.id, 1)):
        with pytest.raises(StoreError):
            read()


# --- the WAL ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def wal_of(path):
    return lambda: os.stat(path + "-wal").st_size


@pytest.fixture
def quick_queue(open_queue):
    return open_queue(durability="normal")


def test_the_wal_stays_small_while_many_small_jobs_come_in(quick_queue, wal_of):
    """No worker is there to fold it back."""
    largest = 0
    for _ in range(300):
        quick_queue.enqueue(Task("t", "x" * 150_000))
        largest = max(largest, wal_of())
    assert largest < 40 * MEBIBYTE


def test_the_wal_stays_below_64_mib_with_jobs_of_a_megabyte(quick_queue, wal_of):
    """A bound in bytes is kept in bytes, however few commits bring them."""
    largest = 0
    batch = [Task("t", "x" * (MEBIBYTE - 2))] * 8
    for _ in range(10):
        quick_queue.enqueue_many(batch)
        largest = max(largest, wal_of())
    assert largest < 64 * MEBIBYTE


def test_the_wal_stays_below_64_mib_under_producers_that_live_shortly(quick_queue, open_queue, wal_of):
    """A web server's workers come and go, each with a few jobs, while one program keeps the file open."""
    largest = 0
    for _ in range(10):
        with open_queue(durability="normal") as producer:
            for _ in range(8):
                producer.enqueue(Task("t", "x" * (MEBIBYTE - 2)))
            largest = max(largest, wal_of())
    assert largest < 64 * MEBIBYTE


def test_a_reader_that_stays_does_not_stop_producers(open_queue, monkeypatch, path, wal_of):
    """The WAL grows while it looks, is small again afterwards, and nobody waits for it longer than a moment."""
    from fireforget import _db

    monkeypatch.setattr(_db, "WAL_LIMIT_BYTES", 100_000)
    monkeypatch.setattr(_db, "_CHECKPOINT_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(_db, "CHECKPOINT_PATIENCE_MS", 10)
    queue = open_queue(durability="normal")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM fireforget_jobs").fetchone()
        for _ in range(130):
            queue.enqueue(Task("t", "x" * 5_000))
        assert reader.execute("SELECT count(*) FROM fireforget_jobs").fetchone() == (0,)
        reader.execute("COMMIT")
    for _ in range(130):
        queue.enqueue(Task("t"))
    assert wal_of() < 500_000
