"""Threads, forks and processes that enqueue at the same time."""

import gc
import signal
import sqlite3
import threading
from contextlib import closing
from time import monotonic

import pytest

from fireforget import Task, _db, _group_commit
from fireforget.errors import InvalidTask, StoreBusy, StoreError, TaskIDConflict


def count(sql):
    return sql("SELECT count(*) FROM fireforget_jobs")[0][0]


@pytest.fixture
def lock(path, queue):
    """A foreign program's write lock on the file: `lock.take()`, `lock.free()`."""

    class Lock:
        def __init__(self):
            self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

        def take(self):
            self.connection.execute("BEGIN IMMEDIATE")

        def free(self):
            self.connection.execute("ROLLBACK")

    lock = Lock()
    with closing(lock.connection):
        yield lock


@pytest.fixture
def in_thread():
    """Call a function in a thread; its result, or what it raised, is in `.answer` after `.join()`."""
    threads = []

    def in_thread(function, *args, **kwargs):
        def work():
            began = monotonic()
            try:
                thread.answer = function(*args, **kwargs)
            except BaseException as error:
                thread.answer = error
            thread.seconds = monotonic() - began

        thread = threading.Thread(target=work)
        threads.append(thread)
        thread.start()
        return thread

    yield in_thread
    for thread in threads:
        thread.join(10)


# --- threads ------------------------------------------------------------------------------------------------------------


def test_everything_that_32_threads_enqueue_is_stored(queue, in_thread, sql):
    """Each call gets the id of its own job."""

    def work(name):
        return [queue.enqueue(Task("t", [name, number])) for number in range(40)]

    threads = [in_thread(work, name) for name in range(32)]
    for thread in threads:
        thread.join()
    infos = [info for thread in threads for info in thread.answer]
    assert len({info.id for info in infos}) == count(sql) == 32 * 40
    assert all(queue.get(info.id) == info for info in infos[::37])


def test_callers_that_wait_together_are_committed_together(queue, in_thread, lock, eventually, monkeypatch, sql):
    """One transaction, one sync of the disk, for all that came while another one was writing."""
    batches = []
    together = _group_commit._write_together

    def recording(connection, batch, fill):
        together(connection, batch, fill)
        batches.append(len(batch))

    monkeypatch.setattr(_group_commit, "_write_together", recording)
    lock.take()
    threads = [in_thread(queue.enqueue, Task("t", n)) for n in range(32)]
    eventually(lambda: len(queue._group._waiting) == 31)
    lock.free()
    for thread in threads:
        thread.join()
    assert batches == [32]
    assert [queue.get(thread.answer.id).payload for thread in threads] == list(range(32))


def test_one_callers_mistake_harms_no_other(queue, in_thread, lock, eventually, sql):
    """A taken id in the same transaction is that caller's own error; calls of many stay all or nothing."""
    queue.enqueue(Task("t"), task_id="taken")
    lock.take()
    first = in_thread(queue.enqueue, Task("t"))
    eventually(lambda: queue._group._writing)
    bad = [
        in_thread(queue.enqueue, Task("t"), task_id="taken"),
        in_thread(queue.enqueue_many, [Task("a"), Task("b", task_id="taken")]),
    ]
    good = [in_thread(queue.enqueue, Task("t"), task_id=f"own-{n}") for n in range(5)]
    eventually(lambda: len(queue._group._waiting) == 7)
    lock.free()
    for thread in (first, *bad, *good):
        thread.join()
    assert [type(thread.answer) for thread in bad] == [TaskIDConflict, TaskIDConflict]
    assert [thread.answer.id for thread in good] == [f"own-{n}" for n in range(5)]
    assert count(sql) == 7


def test_a_name_that_cannot_be_stored_harms_no_other(queue, in_thread, lock, eventually, sql):
    """Text that no UTF-8 file can hold is refused at its own call, not in the transaction of all."""
    lock.take()
    first = in_thread(queue.enqueue, Task("first"))
    eventually(lambda: queue._group._writing)
    leader = in_thread(queue.enqueue, Task("leader"))
    eventually(lambda: len(queue._group._waiting) == 1)
    bad = in_thread(lambda: queue.enqueue(Task("bad", queue="\ud800")))
    eventually(lambda: len(queue._group._waiting) == 2 or hasattr(bad, "seconds"))
    lock.free()
    for thread in (first, leader, bad):
        thread.join()
    assert isinstance(bad.answer, InvalidTask), repr(bad.answer)
    assert not isinstance(leader.answer, BaseException), repr(leader.answer)
    assert count(sql) == 2


def test_each_call_waits_for_its_own_time(queue, in_thread, lock, eventually):
    """A patient caller that writes for others must not make an impatient one wait as long."""
    lock.take()
    first = in_thread(queue.enqueue, Task("t"), timeout=0.3)
    eventually(lambda: queue._group._writing)
    patient = in_thread(queue.enqueue, Task("t"), timeout=3)
    eventually(lambda: len(queue._group._waiting) == 1)
    impatient = in_thread(queue.enqueue, Task("t"), timeout=0.5)
    impatient.join()
    lock.free()
    first.join()
    patient.join()
    assert [type(thread.answer) for thread in (first, impatient)] == [StoreBusy, StoreBusy]
    assert patient.answer.state == "pending"
    assert impatient.seconds < 1.5


def test_a_caller_that_is_interrupted_while_it_waits_stops_nobody_else(queue, in_thread, lock, eventually):
    """Ctrl-C in one thread's enqueue must not leave the others without anybody who writes."""

    class Interrupted(Exception):
        pass

    def interrupt(*_):
        raise Interrupted

    previous = signal.signal(signal.SIGUSR1, interrupt)
    main = threading.main_thread().ident
    try:
        lock.take()
        first = in_thread(queue.enqueue, Task("first"))
        eventually(lambda: queue._group._writing)

        def interrupt_when_it_waits():
            eventually(lambda: len(queue._group._waiting) == 1)
            signal.pthread_kill(main, signal.SIGUSR1)

        interrupter = in_thread(interrupt_when_it_waits)
        with pytest.raises(Interrupted):
            queue.enqueue(Task("interrupted"))
        interrupter.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)
        lock.free()
    first.join()
    assert queue.enqueue(Task("next"), timeout=1).state == "pending"


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), sqlite3.OperationalError("database or disk is full")])
def test_what_fails_after_the_commit_does_not_undo_it(queue, in_thread, lock, eventually, monkeypatch, sql, error):
    """The jobs are stored: nobody is told otherwise, and nobody's job is stored twice."""

    def fails(connection, path):
        raise error

    monkeypatch.setattr(_db, "checkpoint", fails)
    monkeypatch.setattr(_db, "WAL_LIMIT_BYTES", 0)
    lock.take()
    threads = [in_thread(queue.enqueue, Task("t", n)) for n in range(4)]
    eventually(lambda: len(queue._group._waiting) == 3)
    lock.free()
    for thread in threads:
        thread.join()
    payloads = sql("SELECT payload FROM fireforget_jobs ORDER BY payload")
    assert payloads == [("0",), ("1",), ("2",), ("3",)]
    assert [type(thread.answer).__name__ for thread in threads] == ["TaskInfo"] * 4


def test_a_thread_that_ended_leaves_no_connection_behind(queue, in_thread):
    """A program with short threads does not run out of descriptors."""
    in_thread(queue.enqueue, Task("t")).join()
    gc.collect()
    assert len(queue._database._open) == 1


# --- another program's lock -----------------------------------------------------------------------------------------------

HOLD_THE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
connection.close()
"""


def test_a_lock_that_is_freed_in_time_is_waited_for(queue, start_python, in_thread, path, sql):
    """The caller notices nothing."""
    holder = start_python(HOLD_THE_LOCK, path)
    assert holder.read() == "locked"
    calls = [in_thread(queue.enqueue, Task("t")), in_thread(queue.enqueue_many, [Task("t")] * 3)]
    calls[0].join(0.3)
    assert calls[0].is_alive()
    holder.say()
    for call in calls:
        call.join()
        assert not isinstance(call.answer, BaseException)
    assert count(sql) == 4


@pytest.mark.parametrize("many", [False, True])
def test_a_lock_that_is_not_freed_is_an_error_with_the_time_waited(queue, start_python, path, sql, many):
    """About as long as the call may wait, nothing stored, and the queue goes on afterwards."""
    holder = start_python(HOLD_THE_LOCK, path)
    assert holder.read() == "locked"
    began = monotonic()
    with pytest.raises(StoreBusy, match=r"after waiting 0\.4 s.*wait longer \(timeout=\)") as caught:
        queue.enqueue_many([Task("t")] * 2, timeout=0.4) if many else queue.enqueue(Task("t"), timeout=0.4)
    assert 0.35 <= monotonic() - began < 1.5
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.path == path
    holder.say()
    holder.end()
    assert count(sql) == 0
    queue.enqueue(Task("t"), timeout=0.4)


# --- processes ----------------------------------------------------------------------------------------------------------

PRODUCER = """
import sys
from fireforget import SqliteQueue, Task
with SqliteQueue(sys.argv[1]) as queue:
    print("ready", flush=True)
    sys.stdin.readline()
    ids = [queue.enqueue(Task("t", n)).id for n in range(100)]
    ids += [info.id for n in range(10) for info in queue.enqueue_many([Task("t", n)] * 10)]
print(*ids)
"""


def test_eight_processes_at_once_lose_nothing(queue, start_python, path, sql):
    """And none of them ever hears that the database is locked."""
    programs = [start_python(PRODUCER, path) for _ in range(8)]
    assert {program.read() for program in programs} == {"ready"}
    for program in programs:
        program.say()
    ids = [id for program in programs for id in program.end().split()]
    assert len(set(ids)) == count(sql) == 8 * 200
    assert set(ids) == {id for (id,) in sql("SELECT id FROM fireforget_jobs")}
    assert sql("PRAGMA integrity_check") == [("ok",)]


# --- fork ---------------------------------------------------------------------------------------------------------------

FORK = """
import os, select, signal, sqlite3, sys, threading
from contextlib import closing
from fireforget import SqliteQueue, Task
path = sys.argv[1]
queue = SqliteQueue(path)
queue.enqueue(Task("before"))

def pipe():
    r, w = os.pipe()
    return (lambda: os.read(r, 1)), (lambda: os.write(w, b"x"))

def stored():
    with closing(sqlite3.connect(path)) as connection:
        return sorted(type for (type,) in connection.execute("SELECT type FROM fireforget_jobs"))

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def test_a_forked_child_enqueues_with_its_parents_object(run_python, path):
    """Both go on, in any order, and neither loses a job."""
    out = run_python(
        FORK
        + """
child_done, tell = pipe()
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    queue.enqueue(Task("child"))
    queue.enqueue_many([Task("child")] * 2)
    tell()
    os._exit(0)
child_done()
queue.enqueue(Task("parent"))
assert status(pid) == 0
queue.enqueue(Task("parent"))
print(stored())
queue.close()
""",
        path,
    )
    assert out == "['before', 'child', 'child', 'child', 'parent', 'parent']\n"


def test_what_a_forked_child_enqueues_survives_its_parents_leaving(run_python, path):
    """A pre-forking server: the master closes its queue, or ends, and its children's jobs are in the file all the same.

    SQLite must not believe that the child holds the locks which it remembers from the parent: whoever closes the file last,
    as far as the kernel knows, deletes the WAL under it.
    """
    out = run_python(
        FORK
        + """
child_opened, tell_opened = pipe()
parent_closed, tell_closed = pipe()
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    queue.enqueue(Task("child 1"))
    tell_opened()
    parent_closed()
    queue.enqueue(Task("child 2"))
    os._exit(0)
child_opened()
queue.close()
tell_closed()
assert status(pid) == 0
print(stored())
""",
        path,
    )
    assert out == "['before', 'child 1', 'child 2']\n"


def test_no_handle_is_shared_with_a_forked_child(run_python, path):
    """The child opens one of its own, and closing it does not disturb the parent's."""
    out = run_python(
        FORK
        + """
parents = id(queue._database.connection())
keep = queue._database.connection()
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    assert queue._database.connection() is not keep
    queue.enqueue(Task("child"))
    queue.close()
    os._exit(0)
assert status(pid) == 0
queue.enqueue(Task("parent"))
print(stored())
del keep
queue.close()
""",
        path,
    )
    assert out == "['before', 'child', 'parent']\n"


@pytest.mark.parametrize("closing", ["queue.close()", "pass"])
def test_a_child_that_ends_like_a_program_disturbs_nobody(run_python, path, closing):
    """It leaves through the interpreter's own end, with or without having used or closed the queue, and prints nothing."""
    out = run_python(
        FORK
        + f"""
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    {closing}
    sys.exit(0)
assert status(pid) == 0
queue.enqueue(Task("parent"))
pid = os.fork()
if pid == 0:
    queue.enqueue(Task("child"))
    {closing}
    sys.exit(0)
assert status(pid) == 0
print(stored())
queue.close()
""",
        path,
    )
    assert out == "['before', 'child', 'parent']\n"


def test_a_fork_in_the_middle_of_others_writing_leaves_a_child_that_works(run_python, path):
    """Whatever the parent's threads were doing at that moment: the child is not stuck behind what they held."""
    out = run_python(
        FORK
        + """
stop = threading.Event()
written = [0] * 4
def write(n):
    while not stop.is_set():
        queue.enqueue(Task("thread"))
        written[n] += 1
threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
for thread in threads:
    thread.start()
codes = []
while len(codes) < 25 and not any(codes):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            queue.enqueue(Task("child"), timeout=2)
            code = 0
        finally:
            os._exit(code)
    if not select.select([os.pidfd_open(pid)], [], [], 5)[0]:
        os.kill(pid, signal.SIGKILL)
    codes.append(status(pid))
stop.set()
for thread in threads:
    thread.join()
types = stored()
print({code: codes.count(code) for code in codes}, types.count("child"), types.count("thread") == sum(written))
queue.close()
""",
        path,
        warnings=("ignore",),
        timeout=60,
    )
    assert out == "{0: 25} 25 True\n"


def test_ids_of_a_forked_child_are_not_its_parents(run_python, path):
    """Rolled back or not, parent and child never give the same id."""
    out = run_python(
        FORK
        + """
connection = sqlite3.connect(path)
r, w = os.pipe()
pid = os.fork()
def lost():
    with closing(sqlite3.connect(path)) as connection:
        return queue.enqueue(Task("t"), connection=connection).id
if pid == 0:
    os.write(w, lost().encode())
    os._exit(0)
assert status(pid) == 0
print(os.read(r, 100).decode() != lost())
connection.close()
queue.close()
""",
        path,
    )
    assert out == "True\n"


def test_a_store_error_in_a_batch_is_everybodys_own_error(queue, in_thread, lock, eventually, monkeypatch, sql):
    """When the disk fails, each caller is told, and each with an error of fireforget."""

    def fails(connection, batch, fill):
        fill(batch)
        raise sqlite3.OperationalError("disk I/O error")

    lock.take()
    first = in_thread(queue.enqueue, Task("t"))
    eventually(lambda: queue._group._writing)
    threads = [in_thread(queue.enqueue, Task("t")) for _ in range(3)]
    eventually(lambda: len(queue._group._waiting) == 3)
    monkeypatch.setattr(_group_commit, "_write_together", fails)
    lock.free()
    for thread in (first, *threads):
        thread.join()
    assert all(isinstance(thread.answer, StoreError) for thread in (first, *threads))
    assert count(sql) == 0
