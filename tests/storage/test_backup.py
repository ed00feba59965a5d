"""The online backup: one sound file, whatever goes on meanwhile, and nothing half done."""

import os
import sqlite3
import stat
from contextlib import closing

import pytest

from fireforget import Inspector, Registry, Task, _backup, testing
from fireforget._claims import Claims
from fireforget.errors import BackupExists, StoreCorrupt, StoreError, StoreUnavailable


@pytest.fixture
def target(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    return str(tmp_path / "elsewhere" / "copy.db")


@pytest.fixture
def at_each_step(monkeypatch):
    """Copy a page a step, and call something in between."""

    def at_each_step(call):
        monkeypatch.setattr(_backup, "PAGES_A_STEP", 1)
        monkeypatch.setattr(_backup, "_let_others", lambda *_: call())

    return at_each_step


def everything_in(folder):
    return {name: (folder / name).read_bytes() for name in os.listdir(folder) if (folder / name).is_file()}


def rows(path, statement):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def test_the_copy_is_the_file_at_one_moment_however_much_is_written_meanwhile(queue, open_queue, at_each_step, target):
    """A commit at every step neither gets in nor has the copy begin anew; ids stay, an application's tables come along."""
    before = [info.id for info in queue.enqueue_many([Task("t", "x" * 3000)] * 30)]
    with closing(sqlite3.connect(queue.path)) as application, application:
        application.execute("CREATE TABLE orders (id INTEGER)")
        application.execute("INSERT INTO orders VALUES (7)")
    late = []
    at_each_step(lambda: late.append(queue.enqueue(Task("late", "y" * 3000)).id))
    made = queue.backup(target)
    assert (made.path, made.size, made.jobs, made.returned) == (target, os.stat(target).st_size, 30, 0)
    assert len(late) > 30
    assert os.listdir(os.path.dirname(target)) == ["copy.db"]
    assert rows(target, "SELECT id FROM orders") == [(7,)]
    assert rows(target, "PRAGMA integrity_check") == [("ok",)]
    copy = open_queue(target)
    assert [info.id for info in Inspector(copy).tasks()] == before
    assert copy.enqueue(Task("t")).id not in late
    assert queue.get(late[-1]).type == "late"


def test_what_a_worker_has_is_pending_in_the_copy(queue, open_queue, clock, target):
    """Nobody works on the copy: its jobs are free, its workers gone; the original is left as it is."""
    claims = Claims(queue._database, lambda _: True, ["default"], clock)
    claims.register("host:1:abc", "jobs.db-worker-1", {"default": 1}, 1, 1)
    registry = Registry()
    ran = []
    registry.task("t")(ran.append)
    infos = queue.enqueue_many([Task("t", n) for n in range(4)])
    with claims.transaction():
        assert len(claims.claim("default", ["t"], 3)) == 3
    inspector = Inspector(queue)
    inspector.cancel(infos[1].id)
    made = inspector.backup(target)
    assert (made.jobs, made.returned) == (4, 3)
    copy = open_queue(target)
    assert [copy.get(info.id).state for info in infos] == ["pending", "cancelled", "pending", "pending"]
    assert Inspector(copy).workers() == []
    testing.drain(copy, registry)
    assert ran == [0, 2, 3]
    assert [queue.get(info.id).state for info in infos] == ["active"] * 3 + ["pending"]
    assert len(inspector.workers()) == 1
    claims.close()


def test_the_copy_is_for_its_owner_alone(queue, target):
    """Whatever the umask, and whatever was there."""
    umask = os.umask(0)
    try:
        queue.backup(target)
        assert stat.S_IMODE(os.stat(target).st_mode) == 0o600
        os.chmod(target, 0o644)
        queue.backup(target, force=True)
        assert stat.S_IMODE(os.stat(target).st_mode) == 0o600
    finally:
        os.umask(umask)


def test_a_file_is_replaced_only_when_told_to(queue, target, tmp_path):
    """And it is one file or the other, at every moment."""
    queue.backup(target)
    queue.enqueue(Task("t"))
    before = everything_in(tmp_path / "elsewhere")
    with pytest.raises(BackupExists, match=r"copy\.db: there is a file already: .*force"):
        queue.backup(target)
    assert everything_in(tmp_path / "elsewhere") == before
    assert queue.backup(target, force=True).jobs == 1


def test_a_file_that_comes_meanwhile_is_not_replaced(queue, target, at_each_step, tmp_path):
    """Two backups to one name: one of them is told."""
    at_each_step(lambda: (tmp_path / "elsewhere" / "copy.db").write_text("precious"))
    with pytest.raises(BackupExists):
        queue.backup(target)
    assert everything_in(tmp_path / "elsewhere") == {"copy.db": b"precious"}


def test_what_a_killed_backup_left_behind_is_cleared_away(queue, target, tmp_path):
    """By the next one to the same name; not what another one is writing, nor other files."""
    folder = tmp_path / "elsewhere"
    dead, living, young, other = (
        f".{name}.partial" for name in ("copy.db-00000000", "copy.db-1", "copy.db-22222222", "copy.db2-00000000")
    )
    living_path, lock = _backup._create_partial(target)
    for name in (dead, dead + "-wal", living, young, other):
        (folder / name).touch()
    for name in (dead, other, living_path):
        os.utime(folder / name, (0, 0))
    queue.backup(target)
    os.close(lock)
    assert sorted(os.listdir(folder)) == sorted(["copy.db", os.path.basename(living_path), living, young, other])


def test_a_name_is_never_taken_from_another_even_at_the_last_moment(target, tmp_path):
    """Between the look and the renaming lies a moment too."""
    partial = tmp_path / "elsewhere" / "partial"
    for path in (partial, target):
        with open(path, "w") as file:
            file.write(str(path))
    with pytest.raises(BackupExists, match="meanwhile"):
        _backup._put_in_place(str(partial), target, force=False)
    with open(target) as file:
        assert file.read() == target


@pytest.mark.parametrize("force", [False, True])
def test_the_database_itself_is_never_written_over(queue, tmp_path, force):
    """Under whatever name, and none of its side files; but a name that only begins alike will do."""
    os.symlink(queue.path, tmp_path / "link.db")
    os.link(queue.path, tmp_path / "hard.db")
    for name in ("jobs.db", "link.db", "hard.db", "jobs.db-wal", "jobs.db-shm", "jobs.db-checkpoint", "jobs.db-worker-1"):
        with pytest.raises(StoreUnavailable, match="the database itself"):
            queue.backup(tmp_path / name, force=force)
    assert queue.backup(tmp_path / "jobs.db-2026-11-24", force=force).jobs == 0


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("force", [False, True])
def test_a_place_with_another_databases_wal_is_refused(queue, target, suffix, force):
    """SQLite would play it into the copy, which would be damaged at its first opening."""
    with open(target + suffix, "wb"):
        pass
    with pytest.raises(StoreUnavailable, match=f"copy.db{suffix} lies beside it"):
        queue.backup(target, force=force)


def test_a_database_that_is_open_is_not_replaced(queue, open_queue, target):
    """Its programs would go on in a file without a name."""
    other = open_queue(target)
    other.enqueue(Task("t"))
    with pytest.raises(StoreUnavailable, match="a program has that database open"):
        queue.backup(target, force=True)
    assert len(Inspector(other).tasks()) == 1


@pytest.mark.parametrize(
    ("place", "message"), [("no/copy.db", "does not exist"), ("elsewhere", "a folder"), ("pipe", "regular"), (":memory:", "file")]
)
def test_a_place_that_cannot_be_is_told(queue, target, tmp_path, place, message):
    """With the remedy."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreUnavailable, match=message):
        queue.backup(place if place == ":memory:" else tmp_path / place, force=True)


def test_a_backup_that_is_interrupted_leaves_nothing(queue, target, at_each_step, tmp_path):
    """Ctrl-C is heeded at every step, and the queue works on."""

    def interrupt():
        raise KeyboardInterrupt

    at_each_step(interrupt)
    with pytest.raises(KeyboardInterrupt):
        queue.backup(target)
    assert everything_in(tmp_path / "elsewhere") == {}
    assert queue.enqueue(Task("t")).state == "pending"


def test_a_damaged_file_makes_no_backup(path, open_queue, target, tmp_path):
    """It would replace a sound one; the error is about the original."""
    with open_queue() as queue:
        queue.enqueue_many([Task("t", "x" * 3000)] * 50)
    spoil(path)
    queue = open_queue()
    with open(target, "w") as file:
        file.write("the last good one")
    with pytest.raises(StoreCorrupt, match=r"jobs\.db"):
        queue.backup(target, force=True)
    assert everything_in(tmp_path / "elsewhere") == {"copy.db": b"the last good one"}


def spoil(path):
    """Write over a page in the middle of the file, which no program has open."""
    with open(path, "r+b") as file:
        file.seek(4096 * 60)
        file.write(b"\xff" * 4096)


def test_a_full_disk_is_told_of_the_copy_and_leaves_nothing(queue, run_python, target, tmp_path):
    """As under a quota; what was there stays."""
    queue.enqueue_many([Task("t", "x" * 10_000)] * 50)
    out = run_python(
        """
import resource, sys
from fireforget import SqliteQueue
from fireforget.errors import StoreError
queue = SqliteQueue(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    queue.backup(sys.argv[2])
except StoreError as error:
    print(error)
""",
        queue.path,
        target,
    )
    assert out.startswith(target), out
    assert everything_in(tmp_path / "elsewhere") == {}


def test_too_little_room_is_told_before_the_disk_is_full(queue, target, monkeypatch, tmp_path):
    """The queue may live on the same disk."""
    monkeypatch.setattr(_backup.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(StoreError, match="MiB are free: make room"):
        queue.backup(target)
    assert everything_in(tmp_path / "elsewhere") == {}
