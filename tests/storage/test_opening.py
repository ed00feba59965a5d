"""Opening a file: whose it may be, what it may be, and what is said when it cannot be a queue."""

import logging
import os
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from fireforget import SqliteQueue, Task, _db, _schema
from fireforget.errors import InvalidOption, QueueClosed, SchemaTooNew, StoreError, StoreReadOnly, StoreUnavailable


def test_a_new_file_is_for_its_owner_alone(path, queue):
    """The database, its WAL and its index: jobs may hold anything."""
    queue.enqueue(Task("t"))
    beside = os.listdir(os.path.dirname(path))
    assert {"jobs.db", "jobs.db-wal", "jobs.db-shm"} <= set(beside)
    assert {stat.S_IMODE(os.stat(Path(path).parent / name).st_mode) for name in beside} == {0o600}


def test_what_was_enqueued_is_there_after_reopening(open_queue):
    """And an id means the same job for ever."""
    queue = open_queue()
    info = queue.enqueue(Task("email:send", {"to": "a@example.com"}, queue="low", priority=2, headers={"a": "b"}))
    queue.close()
    assert open_queue().get(info.id) == info


def test_another_process_sees_a_job_as_soon_as_enqueue_returns(queue, run_python, path):
    """Without closing anything."""
    info = queue.enqueue(Task("t", [1]))
    code = "import sys; from fireforget import SqliteQueue\nwith SqliteQueue(sys.argv[1]) as q: print(q.get(sys.argv[2]).payload)"
    assert run_python(code, path, info.id) == "[1]\n"


def test_a_closed_queue_says_so(queue):
    """Whatever is asked of it; closing twice is nothing special."""
    info = queue.enqueue(Task("t"))
    queue.close()
    queue.close()
    for use in (lambda: queue.enqueue(Task("t")), lambda: queue.enqueue_many([Task("t")]), lambda: queue.get(info.id)):
        with pytest.raises(QueueClosed):
            use()


def test_with_closes(path):
    """Also after an error."""
    with pytest.raises(ZeroDivisionError), SqliteQueue(path) as queue:
        raise ZeroDivisionError
    with pytest.raises(QueueClosed):
        queue.get("1")


def test_a_path_may_be_any_path(tmp_path, monkeypatch, open_queue):
    """Relative, with odd characters, an object of pathlib, or a link; it stays the same file when the folder changes."""
    monkeypatch.chdir(tmp_path)
    queue = open_queue("jobs ü?#%20.db")
    assert queue.path == str(tmp_path / "jobs ü?#%20.db")
    os.symlink(queue.path, tmp_path / "link.db")
    linked = open_queue(tmp_path / "link.db")
    assert linked.path == queue.path
    os.mkdir("elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    linked.get(queue.enqueue(Task("t")).id)
    assert os.listdir(".") == []


# --- what cannot be a queue ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [":memory:", "", "  ", "file:jobs.db?mode=memory", b"jobs.db"])
def test_what_names_no_file_is_refused(where):
    """A database in memory would be gone with the process, and no worker could see it."""
    with pytest.raises(StoreUnavailable, match="give a path"):
        SqliteQueue(where)


def test_a_folder_is_refused(tmp_path):
    """With what to give instead."""
    with pytest.raises(StoreUnavailable, match="this is a folder") as caught:
        SqliteQueue(tmp_path)
    assert caught.value.path == str(tmp_path)


def test_a_missing_folder_is_named_and_not_made(tmp_path):
    """A typing mistake in a path must not create a second, empty queue somewhere."""
    with pytest.raises(StoreUnavailable, match=r"folder .*missing does not exist"):
        SqliteQueue(tmp_path / "missing" / "jobs.db")
    assert os.listdir(tmp_path) == []


def test_a_named_pipe_is_refused(tmp_path):
    """And nobody waits at it."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreUnavailable, match="not a regular file"):
        SqliteQueue(tmp_path / "pipe")


@pytest.mark.parametrize("content", [b"xy", b"hello\n" * 20, b"PK\x03\x04" + bytes(5000), b"SQLite format 2\0" + bytes(2000)])
def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path, content):
    """Byte for byte, and with nothing beside it."""
    file = tmp_path / "letter.txt"
    file.write_bytes(content)
    before = os.stat(file)
    with pytest.raises(StoreUnavailable, match="not an SQLite database"):
        SqliteQueue(file)
    assert file.read_bytes() == content
    assert os.stat(file).st_mtime_ns == before.st_mtime_ns
    assert os.listdir(tmp_path) == ["letter.txt"]


def test_a_damaged_database_is_an_error_of_ours(path, open_queue):
    """Not a traceback of sqlite3."""
    open_queue().close()
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 20_000)
    with pytest.raises(StoreError):
        SqliteQueue(path)


def test_a_file_that_a_newer_program_migrated_is_refused(path, queue, sql):
    """This one would misread it."""
    queue.enqueue(Task("t"))
    sql("UPDATE fireforget_meta SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(SchemaTooNew, match=r"version 99.*upgrade fireforget"):
        SqliteQueue(path)
    assert sql("SELECT value FROM fireforget_meta WHERE key = 'schema_version'") == [("99",)]


def test_a_file_system_that_is_mounted_read_only_is_named(path, monkeypatch):
    """A right to write would not help there."""
    Path(path).touch()
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(StoreReadOnly, match="mounted read-only: mount it writable, or give another path"):
        SqliteQueue(path)


def test_a_file_without_permission_is_named(path, monkeypatch):
    """With the right that is missing; a superuser is never denied, so the question is answered for it here."""
    Path(path).touch()
    monkeypatch.setattr(os, "access", lambda place, mode: place != path)
    with pytest.raises(StoreReadOnly, match=r"cannot be written: give this user the right"):
        SqliteQueue(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="a superuser is never denied")
def test_a_read_only_file_or_folder_is_refused(tmp_path, path):
    """Both are needed: the WAL stands beside the file."""
    os.chmod(tmp_path, 0o500)
    with pytest.raises(StoreReadOnly):
        SqliteQueue(path)
    os.chmod(tmp_path, 0o700)
    Path(path).touch(0o400)
    with pytest.raises(StoreReadOnly):
        SqliteQueue(path)


def test_an_old_sqlite_is_refused_by_its_version(path, monkeypatch):
    """RETURNING came with 3.35."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    with pytest.raises(StoreUnavailable, match=r"version 3\.34\.1, fireforget needs 3\.35"):
        SqliteQueue(path)
    assert not os.path.exists(path)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs"])
def test_a_network_file_system_is_refused(path, monkeypatch, kind):
    """A WAL needs shared memory, which ends at the machine."""
    monkeypatch.setattr(_db, "file_system_of", lambda folder: kind)
    with pytest.raises(StoreUnavailable, match=rf"network file system \({kind}\).*use a local disk"):
        SqliteQueue(path)
    assert not os.path.exists(path)


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path, monkeypatch):
    """A local folder below a network mount is local, and a name that only begins alike is another."""
    table = "\n".join(
        f"1 1 0:1 / {place} rw,noatime shared:1 - {kind} source rw"
        for place, kind in (("/", "ext4"), ("/srv/my\\040net", "nfs4"), ("/srv/my\\040net/local", "xfs"), ("/srv", "btrfs"))
    )
    monkeypatch.setattr(Path, "read_text", lambda self, **_: table)
    places = {"/srv/my net/a": "nfs4", "/srv/my net/local": "xfs", "/srv/my network": "btrfs", "/var": "ext4", "/": "ext4"}
    assert {place: _db.file_system_of(place) for place in places} == places


@pytest.mark.parametrize(
    ("name", "value"), [("durability", "off"), ("max_payload", 0), ("max_payload", True), ("max_payload", "1")]
)
def test_a_setting_that_cannot_be_is_refused(path, name, value):
    """Before the file is touched."""
    with pytest.raises(InvalidOption):
        SqliteQueue(path, **{name: value})
    assert not os.path.exists(path)


# --- beside an application ----------------------------------------------------------------------------------------------


@pytest.fixture
def application(path):
    """An application's database with a table and a version of its own, in the journal mode that is SQLite's default."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, total REAL)")
        connection.execute("INSERT INTO orders (total) VALUES (9.5)")
        connection.execute("PRAGMA user_version = 41")
        connection.execute("PRAGMA application_id = 7")


@pytest.mark.usefixtures("application")
def test_a_queue_lives_in_an_applications_own_file(open_queue, sql):
    """Its tables, its version and its id stay; ours are told by their prefix."""
    queue = open_queue()
    queue.enqueue(Task("t"))
    assert sql("SELECT total FROM orders") == [(9.5,)]
    assert sql("PRAGMA user_version") == [(41,)]
    assert sql("PRAGMA application_id") == [(7,)]
    names = {name for (name,) in sql("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")} - {"orders"}
    assert names
    assert all(name.startswith("fireforget_") for name in names)


@pytest.mark.usefixtures("application")
def test_a_file_that_was_not_in_wal_mode_is_converted_and_says_so(open_queue, path, sql, caplog):
    """It changes for every other program that opens it; once, not at every start."""
    with caplog.at_level(logging.WARNING, "fireforget"):
        open_queue()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert path in caplog.text
    assert "not in WAL mode" in caplog.text
    assert sql("PRAGMA journal_mode") == [("wal",)]
    caplog.clear()
    open_queue()
    assert caplog.records == []


@pytest.mark.usefixtures("application")
def test_a_conversion_waits_for_the_applications_transaction(open_queue, path):
    """SQLite itself does not wait when the journal mode changes: a moment's lock must not be an error at once."""
    opened = []

    def open_it():
        try:
            open_queue()
            opened.append("opened")
        except StoreError as error:
            opened.append(error)

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        opener = threading.Thread(target=open_it)
        opener.start()
        opener.join(0.3)
        other.execute("ROLLBACK")
        opener.join()
    assert opened == ["opened"]


def test_a_new_file_is_not_worth_a_warning(open_queue, caplog):
    """There was nothing to convert."""
    with caplog.at_level(logging.DEBUG, "fireforget"):
        open_queue()
    assert [record.levelname for record in caplog.records] == ["INFO"]  # that it was created


def test_the_pragmas_are_those_that_the_promises_need(open_queue):
    """`full` syncs each commit, `normal` does not; checkpoints are ours; no mapped memory."""
    for durability, synchronous in (("full", 2), ("normal", 1)):
        connection = open_queue(durability=durability)._database.connection()
        values = [
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "wal_autocheckpoint", "mmap_size")
        ]
        assert values == [synchronous, 0, 0]
        assert connection.execute("PRAGMA journal_size_limit").fetchone()[0] > 0


# --- migration ----------------------------------------------------------------------------------------------------------


def test_a_migration_is_all_or_nothing(path, monkeypatch, sql, open_queue):
    """A program that fails in the middle leaves the old version behind, whole; the next one does all of it."""

    def fails(connection):
        connection.execute("CREATE TABLE fireforget_half (x)")
        raise ZeroDivisionError

    monkeypatch.setattr(_schema, "VERSION", 2)
    monkeypatch.setattr(_schema, "_MIGRATIONS", [*_schema._MIGRATIONS, fails])
    with pytest.raises(ZeroDivisionError):
        SqliteQueue(path)
    assert sql("SELECT name FROM sqlite_master") == []
    monkeypatch.undo()
    open_queue().enqueue(Task("t"))


def test_opening_a_file_that_is_up_to_date_does_not_write(path, queue, open_queue, sql):
    """So it works while another program keeps the write lock."""
    queue.enqueue(Task("t"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        second = open_queue()
        other.execute("ROLLBACK")
    assert second.path == path


def test_many_programs_may_open_a_new_file_at_once(start_python, tmp_path, sql):
    """One makes the tables, the others wait for it, and none of them fails."""
    code = """
import sys
from fireforget import SqliteQueue, Task
for number in range(12):
    print("ready", flush=True)
    sys.stdin.readline()
    with SqliteQueue(f"{sys.argv[1]}/{number}.db") as queue:
        queue.enqueue(Task("t"))
"""
    programs = [start_python(code, tmp_path) for _ in range(8)]
    for _ in range(12):
        assert [program.read() for program in programs] == ["ready"] * 8
        for program in programs:
            program.say()
    for program in programs:
        program.end()
    for number in range(12):
        with closing(sqlite3.connect(tmp_path / f"{number}.db")) as connection:
            assert connection.execute("SELECT count(*) FROM fireforget_jobs").fetchone() == (8,)
