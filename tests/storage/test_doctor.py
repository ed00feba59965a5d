"""The doctor: each fault is made, found under its name, and comes with what to do."""

import fcntl
import os
import sqlite3
from contextlib import closing

import pytest

from fireforget import Inspector, Task, _db, _doctor
from fireforget._claims import Claims


@pytest.fixture
def look(path, clock):
    """Examine the file and return the findings of one check, or of all that are not ok."""

    def look(check=None, **options):
        findings = _doctor.examine(path, clock=clock, **options)
        if check is None:
            return [finding for finding in findings if finding.status != "ok"]
        return [finding for finding in findings if finding.check == check]

    return look


@pytest.fixture
def only(look):
    """Examine the file, where a check has to find exactly one thing; return its status and all of its text."""

    def only(check, **options):
        (finding,) = look(check, **options)
        assert (finding.remedy is None) == (finding.status == "ok"), finding
        return finding.status, f"{finding.message} -> {finding.remedy}"

    return only


@pytest.fixture
def sound_sqlite(monkeypatch):
    monkeypatch.setattr(_db, "library_version", lambda: "3.51.3")


@pytest.fixture
def worker(queue, clock, path):
    """Sign workers in; they live as long as the lock on their file, which `kill` frees."""
    opened = []

    def worker(alive=True, queues=None, concurrency=1):
        claims = Claims(queue._database, lambda _: True, ["default", "low"], clock)
        name = f"{path}-worker-{len(opened)}"
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        if alive:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        claims.register(f"host:{len(opened)}", name, queues or {"default": 1}, concurrency, 1)
        opened.append((claims, descriptor))
        return claims

    yield worker
    for claims, descriptor in opened:
        claims.close()
        os.close(descriptor)


def claim(claims, most=1):
    with claims.transaction():
        return claims.claim("default", ["t"], most)


# --- health ---------------------------------------------------------------------------------------------------------------


def test_a_healthy_queue_has_nothing_wrong(queue, look, worker, sound_sqlite, sql):
    """One ok for each check, in a fixed order; a job that runs, one that waits and an application's tables are no fault."""
    claims = worker()
    queue.enqueue_many([Task("t")] * 2)
    claim(claims)
    sql("CREATE TABLE orders (id INTEGER)")
    findings = Inspector(queue).doctor(full=True)
    assert [finding.check for finding in findings] == [
        "file system", "permissions", "disk space", "sqlite", "journal mode", "integrity", "schema", "write lock", "wal",
        "checkpoints", "free pages", "workers", "queues", "archived", "clock",
    ]  # fmt: skip
    assert [finding for finding in findings if finding.status != "ok"] == []


def test_it_changes_nothing(path, open_queue, look, tmp_path):
    """Neither the file nor what lies beside it."""
    with open_queue() as queue:
        queue.enqueue(Task("t"))
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    assert look("integrity", full=True)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


# --- the place ------------------------------------------------------------------------------------------------------------


def test_a_network_file_system_is_an_error(queue, only, monkeypatch, tmp_path):
    """As if the folder's file system were one."""
    monkeypatch.setattr(_db, "file_system_of", lambda folder: "nfs4")
    status, text = only("file system")
    assert status == "error" and "nfs4" in text and "local disk" in text


def test_a_file_that_others_can_read_is_a_warning(queue, look, path):
    """Each file by itself: what was just written is in the WAL."""
    queue.enqueue(Task("t"))
    os.chmod(path, 0o640)
    os.chmod(path + "-wal", 0o604)
    first, second = look("permissions")
    assert (first.status, second.status) == ("warning", "warning")
    assert "mode 640" in first.message and "mode 604" in second.message and "chmod 600" in first.remedy


def test_a_wal_that_belongs_to_another_user_is_an_error(queue, only, path):
    """As after a command that somebody ran as root: the application cannot write any more."""
    if os.geteuid():
        pytest.skip("only root can give files away")
    queue.enqueue(Task("t"))
    os.chown(path + "-wal", 12345, -1)
    status, text = only("permissions")
    assert status == "error" and "another user" in text and "chown" in text


def test_a_file_that_cannot_be_written_is_an_error(queue, look, path, monkeypatch):
    """As this user sees it."""
    monkeypatch.setattr(os, "access", lambda place, mode: place != path)
    (finding,) = look("permissions")
    assert finding.status == "error" and f"{path} cannot be written" in finding.message


@pytest.mark.parametrize(("threshold", "status"), [("LITTLE_SPACE_BYTES", "warning"), ("NO_SPACE_BYTES", "error")])
def test_a_disk_that_is_nearly_full_is_told(queue, only, monkeypatch, threshold, status):
    """While there is still time."""
    monkeypatch.setattr(_doctor, "LITTLE_SPACE_BYTES", 2**62)
    monkeypatch.setattr(_doctor, threshold, 2**62)
    found, text = only("disk space")
    assert found == status and "make room" in text


@pytest.mark.parametrize(
    ("version", "buggy"),
    [
        ("3.35.0", True), ("3.40.1", True), ("3.44.5", True), ("3.44.6", False), ("3.44.9", False), ("3.45.0", True),
        ("3.50.6", True), ("3.50.7", False), ("3.51.0", True), ("3.51.2", True), ("3.51.3", False), ("3.52.0", False),
        ("4.0.0", False),
    ],
)  # fmt: skip
def test_versions_with_the_wal_reset_bug_are_known(version, buggy):
    """Fixed in 3.51.3, and in 3.50.7 and 3.44.6 on their branches."""
    assert _db.has_wal_reset_bug(version) == buggy


def test_an_sqlite_with_the_wal_reset_bug_is_a_warning(queue, only, monkeypatch):
    """With what protects, and what other programs have to do."""
    monkeypatch.setattr(_db, "library_version", lambda: "3.40.1")
    status, text = only("sqlite")
    assert status == "warning" and "3.40.1" in text and "wal_autocheckpoint = 0" in text and "one at a time" in text


# --- the file -------------------------------------------------------------------------------------------------------------


def test_what_is_not_there_or_no_database_is_told(look, path, tmp_path):
    """Instead of an exception: whoever asks what is wrong gets an answer."""
    assert [(f.check, f.status, f.message) for f in look("file")] == [("file", "error", "there is no such file")]
    with open(path, "w") as file:
        file.write("no database, but long enough to be taken for one" * 100)
    (finding,) = look("file")
    assert (finding.status, finding.message) == ("error", "this file is not an SQLite database")


def test_another_journal_mode_is_a_warning(open_queue, only, path, sql):
    """And stays as it is: converting is for whoever opens the queue."""
    open_queue().close()
    sql("PRAGMA journal_mode = DELETE")
    status, text = only("journal mode")
    assert status == "warning" and "journal mode delete" in text and "WAL" in text
    assert sql("PRAGMA journal_mode") == [("delete",)]


def test_a_damaged_file_is_an_error(open_queue, look, path):
    """What depends on sound tables is not looked at any more."""
    with open_queue() as queue:
        queue.enqueue_many([Task("t", "x" * 3000)] * 50)
    with open(path, "r+b") as file:
        file.seek(4096 * 60)
        file.write(b"\xff" * 4096)
    (finding,) = look("integrity")
    assert finding.status == "error" and "damaged" in finding.message and "restore a backup" in finding.remedy
    assert look("queues") == []


def test_an_index_that_lies_is_found_by_the_full_check(queue, only, sql, path):
    """Which compares each index with its table."""
    sql("CREATE TABLE orders (a, b)")
    sql("CREATE INDEX by_a ON orders (a)")
    sql("INSERT INTO orders VALUES (1, 2), (2, 1)")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = 'CREATE INDEX by_a ON orders (b)' WHERE name = 'by_a'")
    assert only("integrity")[0] == "ok"
    status, text = only("integrity", full=True)
    assert status == "error" and "by_a" in text


def test_a_schema_of_another_version_is_an_error(queue, only, sql):
    """Newer: upgrade. Older: let it be migrated."""
    sql("UPDATE fireforget_meta SET value = '99' WHERE key = 'schema_version'")
    status, text = only("schema")
    assert status == "error" and "version 99" in text and "upgrade" in text
    sql("UPDATE fireforget_meta SET value = '-1' WHERE key = 'schema_version'")
    assert "migrates" in only("schema")[1]


def test_a_database_without_a_queue_is_an_error(only, sql):
    """An application's own file, before its first use as a queue."""
    sql("CREATE TABLE orders (id)")
    status, text = only("schema")
    assert status == "error" and "no queue" in text


def test_an_index_that_was_dropped_is_an_error(queue, only, sql):
    """Claims would fail."""
    sql("DROP INDEX fireforget_claim")
    status, text = only("schema")
    assert status == "error" and "index fireforget_claim" in text


def test_what_others_put_on_our_tables_is_a_warning(queue, only, sql):
    """A trigger there costs every job; one on an application's table does not."""
    sql("CREATE TABLE orders (id)")
    sql("CREATE TRIGGER mine AFTER INSERT ON orders BEGIN SELECT 1; END")
    assert only("schema")[0] == "ok"
    sql("CREATE INDEX mine_too ON fireforget_job (type)")
    status, text = only("schema")
    assert status == "warning" and "index mine_too" in text and "drop it" in text


def test_a_transaction_that_stays_open_is_an_error(queue, only, path, monkeypatch):
    """The commonest reason for a queue that takes nothing."""
    monkeypatch.setattr(_doctor, "_LOCK_PATIENCE", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, text = only("write lock")
        assert status == "error" and "commit or roll back" in text
        other.execute("ROLLBACK")
    assert only("write lock")[0] == "ok"


def test_a_wal_that_a_reader_keeps_large_is_a_warning(queue, only, path, monkeypatch):
    """With who is to be looked for."""
    monkeypatch.setattr(_doctor, "LARGE_WAL_BYTES", 1_000_000)
    assert only("wal")[0] == "ok"
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM fireforget_jobs").fetchall()
        queue.enqueue_many([Task("t", "x" * 1000)] * 2000)
        status, text = only("wal")
    assert status == "warning" and "read transaction" in text


def test_checkpoints_of_other_programs_leave_a_trace(queue, only, path, monkeypatch):
    """Plain sqlite3 makes one by itself after 1,000 pages, and the next commit writes over the WAL's beginning."""
    monkeypatch.setattr(_db, "library_version", lambda: "3.40.1")
    queue.enqueue_many([Task("t", "x" * 1000)] * 2000)
    assert only("checkpoints")[0] == "ok"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE orders (what)")
        for _ in range(2):
            with other:
                other.executemany("INSERT INTO orders VALUES (?)", [("x" * 3000,)] * 1100)
        with other:
            other.execute("INSERT INTO orders VALUES ('one more')")
        status, text = only("checkpoints")
        assert status == "warning" and "wal_autocheckpoint = 0" in text
        monkeypatch.setattr(_db, "library_version", lambda: "3.51.3")
        assert only("checkpoints")[0] == "ok"
        assert _db.checkpoint(other, path)
    monkeypatch.setattr(_db, "library_version", lambda: "3.40.1")
    queue.enqueue(Task("t"))
    assert only("checkpoints")[0] == "ok"


def test_a_file_that_is_mostly_free_is_a_warning(queue, only, monkeypatch):
    """It is no leak, and the remedy is told."""
    monkeypatch.setattr(_doctor, "MANY_FREE_BYTES", 100_000)
    queue.enqueue_many([Task("t", "x" * 3000)] * 200)
    assert only("free pages")[0] == "ok"
    Inspector(queue).delete_all("pending")
    status, text = only("free pages")
    assert status == "warning" and "VACUUM" in text


# --- workers and jobs -----------------------------------------------------------------------------------------------------


def test_a_dead_workers_jobs_are_an_error_until_another_worker_comes(queue, only, look, worker):
    """By the lock that the kernel frees, not by a clock."""
    queue.enqueue(Task("t"))
    claim(worker(alive=False))
    status, text = only("workers")
    assert status == "error" and "host:0" in text and "has 1 job" in text and "start a worker" in text
    worker()
    status, text = only("workers")
    assert status == "warning" and "take over" in text


def test_a_worker_that_lives_is_well(queue, only, worker):
    """Looking twice does not disturb its lock."""
    claims = worker()
    queue.enqueue(Task("t"))
    claim(claims)
    assert only("workers") == only("workers") == ("ok", "1 alive -> None")


def test_jobs_of_a_worker_that_nobody_knows_are_an_error(queue, only, worker, sql):
    """As in a copy of the file that was made with `cp`."""
    queue.enqueue(Task("t"))
    claim(worker())
    sql("DELETE FROM fireforget_worker")
    status, text = only("workers")
    assert status == "error" and "1 job active" in text and "start a worker" in text


def test_a_queue_that_no_living_worker_serves_is_an_error(queue, only, worker, clock):
    """A dead one serves nobody; a job that has just come is no reason to worry."""
    worker(queues={"low": 1})
    worker(alive=False, queues={"default": 1})
    queue.enqueue_many([Task("t"), Task("u")])
    assert only("queues")[0] == "ok"
    clock.advance(61)
    status, text = only("queues")
    assert status == "error" and "2 jobs wait, the first due for 61 s" in text and "--queues default=1" in text


def test_a_paused_queue_with_jobs_is_a_warning(queue, only, clock):
    """Somebody may have forgotten it."""
    queue.enqueue(Task("t"))
    Inspector(queue).pause_queue("default")
    clock.advance(61)
    status, text = only("queues")
    assert status == "warning" and "is paused" in text and "queue resume default" in text


def test_a_type_that_no_worker_takes_is_an_error(queue, only, worker, clock):
    """Its queue is served, children are free, and it waits all the same."""
    claims = worker(concurrency=2)
    queue.enqueue_many([Task("t"), Task("nobody:home"), Task("t")])
    claim(claims)
    clock.advance(61)
    status, text = only("queues")
    assert status == "error" and "'nobody:home'" in text and "'t'" not in text and "register a handler" in text


def test_workers_that_do_not_keep_up_are_a_warning(queue, only, worker, clock):
    """All of them have as much as they can run."""
    claims = worker()
    queue.enqueue_many([Task("t")] * 3)
    claim(claims)
    clock.advance(61)
    status, text = only("queues")
    assert status == "warning" and "do not keep up: 2 jobs wait" in text and "--concurrency" in text


def test_a_pile_of_archived_jobs_is_a_warning(queue, only, monkeypatch):
    """Nobody looks at them unless told."""
    monkeypatch.setattr(_doctor, "MANY_ARCHIVED", 2)
    queue.enqueue_many([Task("t")] * 3)
    Inspector(queue).archive_all("pending")
    status, text = only("archived")
    assert status == "warning" and "3 jobs archived" in text and "task list --state archived" in text


def test_a_job_from_the_future_is_a_warning(queue, only, clock):
    """Somebody's clock is wrong; a job that is only scheduled is not."""
    queue.enqueue(Task("t"), process_in=86400)
    assert only("clock")[0] == "ok"
    clock.advance(3600)
    queue.enqueue(Task("t"))
    clock.advance(-3600)
    status, text = only("clock")
    assert status == "warning" and "3,600 s from now" in text and "NTP" in text


def test_texts_that_are_no_text_do_not_stop_it(queue, look, sql, clock):
    """What a foreign program stored is looked at as it is."""
    with closing(sqlite3.connect(queue.path)) as connection, connection:
        connection.execute("INSERT INTO fireforget_enqueue (type, queue) VALUES (CAST(X'74FF' AS TEXT), CAST(X'71FF' AS TEXT))")
    clock.now = 4e9
    (finding,) = look("queues")
    assert finding.status == "error" and "q\ufffd" in finding.message


def test_a_queue_that_is_closed_can_still_be_examined(queue):
    """It is the file that is looked at."""
    queue.close()
    assert all(finding.status != "error" for finding in Inspector(queue).doctor())
