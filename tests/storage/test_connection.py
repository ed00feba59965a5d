"""`connection=`: a job that commits together with the application's own rows."""

import sqlite3
import sys
from contextlib import closing

import pytest

from fireforget import Task
from fireforget.errors import DuplicateTask, TaskIDConflict, UnknownJob


@pytest.fixture
def connect(path, queue):
    """Open an application's connection to the queue's own file, with a table of its own."""
    connections = []

    def connect(where=path, **options):
        connections.append(sqlite3.connect(where, timeout=2, **options))
        connections[-1].execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY)")
        if connections[-1].in_transaction:
            connections[-1].commit()
        return connections[-1]

    yield connect
    for connection in connections:
        connection.close()


def types(sql):
    return [type for (type,) in sql("SELECT type FROM fireforget_jobs")]


MODES = [{}, {"isolation_level": "IMMEDIATE"}, {"isolation_level": "EXCLUSIVE"}, {"isolation_level": None}]
if sys.version_info >= (3, 12):
    MODES += [{"autocommit": False}, {"autocommit": True}]
BEGIN_BY_HAND = ({"isolation_level": None}, {"autocommit": True})


def begin(connection, mode):
    if mode in BEGIN_BY_HAND:
        connection.execute("BEGIN")


def end(connection, mode, how):
    """Commit or roll back as programs do in this mode; with `autocommit=True` the methods do nothing."""
    if mode in BEGIN_BY_HAND:
        connection.execute(how)
    else:
        getattr(connection, how.lower())()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_job_exists_exactly_if_the_transaction_commits(queue, connect, sql, mode):
    """With the application's row; the call neither begins, commits nor rolls back."""
    connection = connect(**mode)
    begin(connection, mode)
    connection.execute("INSERT INTO orders VALUES (1)")
    info = queue.enqueue(Task("order:paid", {"id": 1}), connection=connection)
    assert connection.in_transaction
    assert types(sql) == []
    end(connection, mode, "COMMIT")
    assert types(sql) == ["order:paid"]
    assert queue.get(info.id) == info

    begin(connection, mode)
    connection.execute("INSERT INTO orders VALUES (2)")
    queue.enqueue(Task("order:lost"), connection=connection)
    end(connection, mode, "ROLLBACK")
    assert types(sql) == ["order:paid"]
    assert sql("SELECT id FROM orders") == [(1,)]


def test_the_driver_begins_as_it_does_for_any_insert(queue, connect, sql):
    """In the default mode of sqlite3 the first INSERT opens the transaction, here as everywhere."""
    connection = connect()
    queue.enqueue(Task("t"), connection=connection)
    assert connection.in_transaction
    assert types(sql) == []
    with connection:
        pass
    assert types(sql) == ["t"]


def test_in_autocommit_a_job_is_there_at_once(queue, connect, sql):
    """No transaction is open and none is wanted."""
    connection = connect(isolation_level=None)
    queue.enqueue(Task("t"), connection=connection)
    assert not connection.in_transaction
    assert types(sql) == ["t"]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_rollback_consumes_no_id(queue, connect, sql, mode):
    """The number that was given back is the next job's; its whole id is not."""
    connection = connect(**mode)
    queue.enqueue(Task("before"))
    counted = sql("SELECT seq FROM sqlite_sequence WHERE name = 'fireforget_job'")
    begin(connection, mode)
    lost = queue.enqueue(Task("lost"), connection=connection)
    end(connection, mode, "ROLLBACK")
    assert sql("SELECT seq FROM sqlite_sequence WHERE name = 'fireforget_job'") == counted
    following = queue.enqueue(Task("after"))
    assert following.id.split("-")[:2] == lost.id.split("-")[:2]
    assert following.id != lost.id
    with pytest.raises(UnknownJob):
        queue.get(lost.id)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_savepoints_work_in_every_mode(queue, connect, sql, mode):
    """As a nested `atomic` of Django makes them: the inner one is given up, the outer one commits."""
    connection = connect(**mode)
    begin(connection, mode)
    connection.execute("SAVEPOINT outer_one")
    queue.enqueue(Task("kept"), connection=connection)
    connection.execute("SAVEPOINT inner_one")
    queue.enqueue_many([Task("dropped"), Task("dropped")], connection=connection)
    queue.enqueue(Task("dropped"), unique_for=60, connection=connection)
    connection.execute("ROLLBACK TO inner_one")
    connection.execute("RELEASE inner_one")
    connection.execute("RELEASE outer_one")
    if connection.in_transaction:
        end(connection, mode, "COMMIT")
    assert types(sql) == ["kept"]


@pytest.mark.parametrize("wrong", ["jobs.db", object(), sqlite3], ids=["path", "object", "module"])
def test_what_is_no_connection_is_told_so(queue, wrong):
    """With how to get at the one inside of an ORM's."""
    with pytest.raises(TypeError, match=r"sqlite3\.Connection.*driver_connection"):
        queue.enqueue(Task("t"), connection=wrong)


class Proxy:
    """As SQLAlchemy's pool hands connections out."""

    def __init__(self, connection):
        self.dbapi_connection = connection

    def __getattr__(self, name):
        return getattr(self.dbapi_connection, name)


def test_a_proxy_of_a_connection_will_do(queue, connect, sql):
    """Whoever leaves `driver_connection` out means the same."""
    connection = connect()
    queue.enqueue(Task("t"), connection=Proxy(connection))
    assert types(sql) == []
    connection.commit()
    assert types(sql) == ["t"]


def test_a_savepoint_takes_its_jobs_with_it(queue, connect, sql):
    """And leaves those before it."""
    connection = connect(isolation_level=None)
    connection.execute("BEGIN")
    queue.enqueue(Task("kept"), connection=connection)
    connection.execute("SAVEPOINT part")
    queue.enqueue(Task("dropped"), connection=connection)
    connection.execute("ROLLBACK TO part")
    connection.execute("COMMIT")
    assert types(sql) == ["kept"]


def test_an_id_that_was_rolled_back_is_never_given_to_another_job(queue, connect):
    """Who kept it finds nothing, instead of somebody else's job."""
    connection = connect()
    seen = set()
    for _ in range(20):
        lost = queue.enqueue(Task("lost"), connection=connection)
        connection.rollback()
        kept = queue.enqueue(Task("kept"))
        seen |= {lost.id, kept.id}
        assert queue.get(kept.id).type == "kept"
    assert len(seen) == 40


def test_another_database_is_refused(queue, connect, tmp_path):
    """Also one in memory, and one that is a queue of its own."""
    for where in (tmp_path / "shop.db", ":memory:"):
        with pytest.raises(ValueError, match="another database"):
            queue.enqueue(Task("t"), connection=connect(where))


def test_a_queue_that_is_only_attached_is_not_written_by_mistake(queue, connect, open_queue, tmp_path, path):
    """Where the connection's main database is another queue, the job would go there under an id of ours."""
    other = open_queue(tmp_path / "other.db")
    connection = connect(other.path, isolation_level=None)
    connection.execute("ATTACH ? AS ours", (path,))
    try:
        info = queue.enqueue(Task("t"), connection=connection)
    except ValueError:
        pass
    else:
        assert queue.get(info.id) == info
    assert connection.execute("SELECT count(*) FROM main.fireforget_job").fetchone() == (0,)


@pytest.mark.parametrize("factory", ["row", "dict", "bytes"])
def test_the_callers_row_and_text_factories_do_not_matter(queue, connect, sql, factory):
    """A row factory that makes dictionaries is in the documentation of sqlite3."""
    connection = connect(isolation_level=None)
    if factory == "bytes":
        connection.text_factory = bytes
    else:
        connection.row_factory = sqlite3.Row if factory == "row" else lambda cursor, row: dict.fromkeys("abc", row)
    connection.execute("BEGIN")
    first = queue.enqueue(Task("t"), connection=connection, unique_for=60, unique_key="k")
    with pytest.raises(DuplicateTask) as caught:
        queue.enqueue(Task("t"), connection=connection, unique_for=60, unique_key="k")
    assert caught.value.existing_id == first.id
    connection.execute("COMMIT")
    assert types(sql) == ["t"]


def test_what_needs_more_than_one_statement_needs_an_open_transaction(queue, connect, sql):
    """Half of it would be worse than none."""
    connection = connect(isolation_level=None)
    with pytest.raises(ValueError, match="open transaction"):
        queue.enqueue(Task("t"), connection=connection, unique_for=60)
    with pytest.raises(ValueError, match="open transaction"):
        queue.enqueue_many([Task("t")], connection=connection)
    assert types(sql) == []
    with connection:
        connection.execute("BEGIN")
        queue.enqueue(Task("a"), connection=connection, unique_for=60)
        infos = queue.enqueue_many([Task("b"), Task("c")], connection=connection)
    assert types(sql) == ["a", "b", "c"]
    assert [queue.get(info.id) for info in infos] == infos


def test_a_conflict_leaves_the_callers_transaction_as_it_was(queue, connect, sql):
    """It is the caller's to decide what becomes of it."""
    queue.enqueue(Task("first"), task_id="taken")
    connection = connect(isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("INSERT INTO orders VALUES (1)")
    with pytest.raises(TaskIDConflict):
        queue.enqueue(Task("second"), task_id="taken", connection=connection)
    assert connection.in_transaction
    connection.execute("COMMIT")
    assert sql("SELECT id FROM orders") == [(1,)]
    assert types(sql) == ["first"]


def test_many_on_a_connection_are_all_or_none_too(queue, connect, sql):
    """Who catches the error and commits the rest has none of them; the error tells which it was."""
    queue.enqueue(Task("first"), task_id="taken")
    connection = connect(isolation_level=None)
    connection.execute("BEGIN")
    with pytest.raises(TaskIDConflict) as caught:
        queue.enqueue_many([Task("a"), Task("b", task_id="taken"), Task("c")], connection=connection)
    connection.execute("COMMIT")
    assert types(sql) == ["first"]
    assert caught.value.index == 1


def test_a_locked_file_is_sqlites_own_error(queue, connect, path):
    """The connection is the caller's, and so are its timeout and its exceptions."""
    connection = sqlite3.connect(path, timeout=0)
    with closing(connection), closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            queue.enqueue(Task("t"), connection=connection)
        other.execute("ROLLBACK")
