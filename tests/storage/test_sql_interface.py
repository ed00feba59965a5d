"""Plain SQL: the INSERT that enqueues from any language, and the views that show everything."""

import dataclasses
import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest

from fireforget import SqliteQueue, State, Task, TaskInfo
from fireforget._schema import STATE_NUMBER
from fireforget.errors import DuplicateTask, TaskIDConflict


@pytest.fixture
def queue(path):
    """With the true clock: SQL knows no other."""
    with SqliteQueue(path) as queue:
        yield queue


@pytest.fixture
def connection(path, queue):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def jobs(connection):
    return [dict(row) for row in connection.execute("SELECT * FROM fireforget_jobs")]


# --- fireforget_enqueue -------------------------------------------------------------------------------------------------


def test_a_type_alone_is_enough_and_the_rest_is_as_in_python(connection, queue):
    """The same defaults, by whichever way a job comes in."""
    connection.execute("INSERT INTO fireforget_enqueue (type) VALUES ('email:send')")
    queue.enqueue(Task("email:send"))
    by_sql, by_python = jobs(connection)
    for name in by_sql:
        if name in ("enqueued_at", "next_process_at"):
            assert abs(by_sql[name] - by_python[name]) < 5, name
        elif name != "id" and not name.endswith("_at_iso"):
            assert by_sql[name] == by_python[name], name
    info = queue.get(by_sql["id"])
    assert (info.state, info.timeout, info.max_retry) == ("pending", 1800.0, 25)
    assert info.enqueued_at == info.next_process_at
    assert abs((datetime.now(UTC) - info.enqueued_at).total_seconds()) < 5


@pytest.mark.parametrize("headers", ["[1]", "junk", '"x"', "null", "", b"{}"])
def test_headers_that_are_no_object_are_refused(connection, headers):
    """As far as SQL can tell; whitespace before it is JSON's."""
    with pytest.raises(sqlite3.IntegrityError, match="headers must be the text of a JSON object"):
        connection.execute("INSERT INTO fireforget_enqueue (type, headers) VALUES ('t', ?)", (headers,))
    connection.execute("INSERT INTO fireforget_enqueue (type, headers) VALUES ('t', ?)", ('\n {"a": "b"}',))


def test_every_column_is_taken(connection, queue):
    """Instants in Unix seconds, durations in seconds, payload and headers as JSON text."""
    connection.execute(
        """
        INSERT INTO fireforget_enqueue (
            type, payload, queue, priority, max_retry, timeout, deadline, process_at, task_id, headers, retention, unique_key,
            unique_for
        )
        VALUES ('t', '{"a":1}', 'low', 3, 4, 5, 4102444800, 4102444000, 'own', '{"b":"c"}', 60, 'key', 600)
        """
    )
    info = queue.get("own")
    assert (info.type, info.payload, info.queue, info.priority, info.max_retry) == ("t", {"a": 1}, "low", 3, 4)
    assert (info.timeout, info.headers, info.state) == (5.0, {"b": "c"}, "scheduled")
    assert (info.deadline.timestamp(), info.next_process_at.timestamp()) == (4102444800, 4102444000)
    with pytest.raises(DuplicateTask) as caught:
        queue.enqueue(Task("x"), unique_for=1, unique_key="key")
    assert caught.value.existing_id == "own"


def test_the_columns_stand_in_a_fixed_order(connection):
    """Columns are only ever added at the end."""
    names = [row["name"] for row in connection.execute("PRAGMA table_info(fireforget_enqueue)")]
    assert names[:13] == [
        "type", "payload", "queue", "priority", "max_retry", "timeout", "deadline", "process_at", "task_id", "headers",
        "retention", "unique_key", "unique_for",
    ]  # fmt: skip


def test_a_trigger_on_an_applications_table_enqueues(connection, queue):
    """Within the transaction of the row that fired it."""
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, email TEXT)")
    connection.execute(
        """
        CREATE TRIGGER order_paid AFTER INSERT ON orders
        BEGIN
            INSERT INTO fireforget_enqueue (type, payload) VALUES ('order:paid', '{"id":' || NEW.id || '}');
        END
        """
    )
    connection.execute("BEGIN")
    connection.execute("INSERT INTO orders (email) VALUES ('lost')")
    connection.execute("ROLLBACK")
    connection.executemany("INSERT INTO orders (id, email) VALUES (?, 'a')", [(7,), (8,)])
    assert [(job["type"], job["payload"]) for job in jobs(connection)] == [("order:paid", '{"id":7}'), ("order:paid", '{"id":8}')]


def test_insert_and_views_work_where_the_schema_is_not_trusted(connection):
    """As hardened builds and the shell's `-safe` have it."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("INSERT INTO fireforget_enqueue (type, unique_key, unique_for) VALUES ('t', 'k', 5)")
    assert [job["type"] for job in jobs(connection)] == ["t"]
    assert connection.execute("SELECT * FROM fireforget_attempts").fetchall() == []


VERBS = ["INSERT", *(f"INSERT OR {clause}" for clause in ("REPLACE", "IGNORE", "FAIL", "ABORT", "ROLLBACK")), "REPLACE"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_stored_job_is_never_replaced(connection, queue, verb):
    """Whatever the conflict clause: taken is taken, and it says so."""
    statement = f"{verb} INTO fireforget_enqueue (type, payload, task_id) VALUES ('t', ?, 'own')"
    connection.execute(statement, ("1",))
    with pytest.raises(sqlite3.IntegrityError, match="task_id is taken"):
        connection.execute(statement, ("2",))
    assert [job["payload"] for job in jobs(connection)] == ["1"]
    with pytest.raises(TaskIDConflict):
        queue.enqueue(Task("t"), task_id="own")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("task_id", [17, 1.5, b"17"])
def test_an_id_that_is_a_number_replaces_no_job_either(connection, queue, verb, task_id):
    """It would be another id than the text, or the same: it is refused, and what is stored stays."""
    queue.enqueue(Task("t", "mine"), task_id="17")
    queue.enqueue(Task("t", "mine"), task_id="1.5")
    with pytest.raises(sqlite3.IntegrityError, match="task_id"):
        connection.execute(f"{verb} INTO fireforget_enqueue (type, task_id) VALUES ('t', ?)", (task_id,))
    assert [job["payload"] for job in jobs(connection)] == ['"mine"', '"mine"']


@pytest.mark.parametrize("verb", VERBS)
def test_a_unique_key_is_never_taken_over(connection, verb):
    """The holder stays, with its key."""
    statement = f"{verb} INTO fireforget_enqueue (type, unique_key, unique_for) VALUES (?, 'k', 60)"
    connection.execute(statement, ("first",))
    with pytest.raises(sqlite3.IntegrityError, match="another job holds this unique_key"):
        connection.execute(statement, ("second",))
    assert [job["type"] for job in jobs(connection)] == ["first"]


def test_an_expired_unique_key_is_free(connection, sql):
    """As in Python."""
    statement = "INSERT INTO fireforget_enqueue (type, unique_key, unique_for) VALUES ('t', 'k', 60)"
    connection.execute(statement)
    connection.execute("UPDATE fireforget_job SET unique_until = unique_until - 61")
    connection.execute(statement)
    assert len(jobs(connection)) == 2


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("type", None, "type is missing"),
        ("type", "", "type is missing"),
        ("type", "  ", "type is missing"),
        ("type", b"t", "type"),
        ("queue", "", "queue"),
        ("queue", b"q", "queue"),
        ("priority", 1.5, "priority"),
        ("priority", "high", "priority"),
        ("max_retry", -1, "max_retry"),
        ("max_retry", "no", "max_retry"),
        ("timeout", 0, "timeout"),
        ("timeout", -5, "timeout"),
        ("timeout", "1 minute", "timeout"),
        ("deadline", "2030-01-01", "deadline"),
        ("process_at", "tomorrow", "due|process_at"),
        ("process_at", float("inf"), "due|process_at"),
        ("process_at", float("-inf"), "due|process_at"),
        ("retention", -1, "retention"),
        ("retention", "a day", "retention"),
        ("task_id", "", "task_id"),
        ("task_id", b"id", "task_id"),
        ("unique_key", "k", "unique_for"),
        ("unique_for", 5, "unique_key"),
    ],
)
def test_a_bad_value_is_refused_with_its_name(connection, column, value, message):
    """Here too a mistake is told where it was written, and nothing is stored."""
    values = {"type": "t", column: value}
    names = ", ".join(values)
    with pytest.raises(sqlite3.IntegrityError, match=message):
        connection.execute(
            f"INSERT INTO fireforget_enqueue ({names}) VALUES ({', '.join('?' * len(values))})", [*values.values()]
        )
    assert jobs(connection) == []


@pytest.mark.parametrize(("column", "value", "shown"), [
    ("priority", 5.0, 5), ("priority", "5", 5), ("priority", "-5", -5), ("max_retry", 3.0, 3), ("max_retry", "3", 3),
    ("timeout", "30", 30.0), ("deadline", "4102444800.5", 4102444800.5), ("process_at", "4102444800", 4102444800.0),
])  # fmt: skip
def test_a_number_is_taken_however_a_driver_binds_it(connection, queue, column, value, shown):
    """Node binds every number as a float, perl binds text: both mean the number."""
    connection.execute(f"INSERT INTO fireforget_enqueue (type, task_id, {column}) VALUES ('t', 'own', ?)", (value,))
    info = queue.get("own")
    found = getattr(info, "next_process_at" if column == "process_at" else column)
    assert (found.timestamp() if isinstance(found, datetime) else found) == shown
    assert info.state == ("scheduled" if column == "process_at" else "pending")
    ((stored,),) = connection.execute(f"SELECT typeof({'due' if column == 'process_at' else column}) FROM fireforget_job")
    assert stored == ("integer" if isinstance(shown, int) else "real")


@pytest.mark.parametrize("value", ["5 apples", "", "0x10", "1.5", 1e300, b"5", "inf"])
def test_what_only_looks_like_a_number_is_none(connection, value):
    """Half a number would be a wrong one."""
    with pytest.raises(sqlite3.IntegrityError, match="priority must be an integer"):
        connection.execute("INSERT INTO fireforget_enqueue (type, priority) VALUES ('t', ?)", (value,))


def test_an_id_of_the_queues_own_form_is_refused(connection, queue):
    """A job under such an id could never be found again: it would be taken for a generated one."""
    generated = queue.enqueue(Task("t")).id
    taken = generated.replace("-1-", "-2-")
    with pytest.raises(sqlite3.IntegrityError, match="task_id"):
        connection.execute("INSERT INTO fireforget_enqueue (type, task_id) VALUES ('t', ?)", (taken,))


def test_many_rows_in_one_insert_have_ids_of_their_own(connection):
    """From a query, as SQL does it."""
    connection.execute(
        "INSERT INTO fireforget_enqueue (type, payload) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 99) "
        "SELECT 't', i FROM n"
    )
    assert len({job["id"] for job in jobs(connection)}) == 99


# --- views --------------------------------------------------------------------------------------------------------------


def test_the_columns_of_the_view_are_named_like_the_fields_of_task_info(connection):
    """One vocabulary, in the same order; what is beside them comes after."""
    names = [column[0] for column in connection.execute("SELECT * FROM fireforget_jobs").description]
    fields = [field.name for field in dataclasses.fields(TaskInfo)]
    assert names[: len(fields)] == fields
    instants = ("deadline", "enqueued_at", "next_process_at", "started_at", "completed_at")
    assert {f"{name}_iso" for name in instants} <= set(names[len(fields) :])


def test_states_have_their_names(connection, queue):
    """Not the numbers of the table."""
    for state, number in STATE_NUMBER.items():
        queue.enqueue(Task("t"), task_id=str(state))
        connection.execute(
            "UPDATE fireforget_job SET state = ?, worker = ? WHERE task_id = ?", (number, 1 if number == 3 else None, str(state))
        )
    assert {job["id"]: job["state"] for job in jobs(connection)} == {str(state): str(state) for state in State}
    assert {queue.get(str(state)).state for state in State} == set(State)


def test_the_view_says_what_task_info_says(connection, queue):
    """Ids, instants in Unix seconds, and the same instants as text."""
    at = datetime(2031, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
    info = queue.enqueue(Task("t", {"a": None}, headers={"b": "c"}), process_at=at, deadline=at, retention=5)
    (job,) = jobs(connection)
    assert (job["id"], job["payload"], job["headers"]) == (info.id, '{"a":null}', '{"b":"c"}')
    assert job["next_process_at"] == job["deadline"] == at.timestamp()
    assert job["next_process_at_iso"] == job["deadline_iso"] == "2031-02-03T04:05:06.789Z"
    assert job["started_at_iso"] is job["completed_at_iso"] is job["worker"] is None


INSTANTS = ("deadline", "enqueued_at", "next_process_at", "started_at", "completed_at")


@pytest.mark.parametrize("column", INSTANTS)
def test_instants_compare_with_what_sql_makes_of_an_instant(connection, queue, column):
    """`strftime('%s')` is text: it is compared as a number all the same, with every instant of the view."""
    queue.enqueue(Task("t", deadline=datetime.now(UTC)))
    connection.execute("UPDATE fireforget_job SET started_at = due, completed_at = due")
    query = f"SELECT {column} > strftime('%s', 'now', '-1 day'), {column} < strftime('%s', 'now', '-1 day') FROM fireforget_jobs"
    assert tuple(connection.execute(query).fetchone()) == (1, 0)


@pytest.mark.parametrize("view", ["fireforget_jobs", "fireforget_attempts"])
def test_views_are_for_reading(connection, queue, view):
    """A mistyped UPDATE changes nothing."""
    queue.enqueue(Task("t"))
    for statement in (f"DELETE FROM {view}", f"UPDATE {view} SET id = 'x'"):
        with pytest.raises(sqlite3.OperationalError, match="view"):
            connection.execute(statement)


def test_the_attempts_view_has_stable_columns(connection):
    """When, how long, which error and traceback."""
    names = [column[0] for column in connection.execute("SELECT * FROM fireforget_attempts").description]
    assert names[:7] == ["id", "attempt", "started_at", "duration", "worker", "error", "traceback"]
