"""The plan of every hot statement: which index answers it, and that nothing is scanned or sorted."""

import re
import sqlite3
from contextlib import closing

import pytest

from fireforget import Task, _dependencies, _graphs, _groups, _keys, _limited, _limits, _sql, _sql_inspect, _sql_queues

NUMBERS = dict.fromkeys(("now", "most", "n", "state", "nonce", "worker", "claim", "died", "most_0", "most_1", "most_2"), 1)
NUMBERS.update(dict.fromkeys(("state", "before", "batch", "after", "latest", "newer", "reads"), 1))
NAMES = dict.fromkeys(
    ("queue", "unique_key", "task_id", "error", "key", "type", "reason", "limit_key", *(f"type_{n}" for n in range(100))), "x"
)
NAMES.update(dict.fromkeys(("queue_0", "queue_1", "queue_2", "type_0_0", "type_1_0", "type_1_1", "type_2_0"), "x"))

HOT = {
    "first jobs of one type": (_sql.first_jobs(1), "fireforget_claim"),
    "first jobs of three types": (_sql.first_jobs(3), "fireforget_claim"),
    "first jobs of three queues": (_sql.first_jobs_of_lanes((1, 2, 1)), "fireforget_claim"),
    "first jobs of a hundred types": (_sql.first_jobs(100), "fireforget_claim"),
    "places of the first of a hundred types": (_sql.places_of_first(100), "fireforget_claim"),
    "KEYS_AFTER": (_limited.KEYS_AFTER, "fireforget_claim"),
    "FIRST_OF_KEY": (_limited.FIRST_OF_KEY, "fireforget_claim"),
    "WITHOUT_KEY": (_limited.WITHOUT_KEY, "fireforget_claim"),
    "RUNNING_OF_KEYS": (_limited.RUNNING_OF_KEYS, "fireforget_limited"),
    "RUNNING_OF_KEY": (_limited.RUNNING_OF_KEY, "fireforget_limited"),
    "STARTS_OF_KEY": (_limited.STARTS_OF_KEY, "fireforget_start_key"),
    "STARTED_BEFORE": (_limited.STARTED_BEFORE, "fireforget_start_key"),
    "GIVE_START_BACK": (_limited.GIVE_START_BACK, "fireforget_start_key"),
    "OLD_STARTS": (_limited.OLD_STARTS, "fireforget_start_until"),
    "PENDING_LANES": (_sql.PENDING_LANES, "fireforget_claim"),
    "DUE": (_sql.DUE, "fireforget_due"),
    "NEXT_DUE": (_sql.NEXT_DUE, "fireforget_due"),
    "EXPIRED": (_sql.EXPIRED, "fireforget_expiry"),
    "NEXT_EXPIRY": (_sql.NEXT_EXPIRY, "fireforget_expiry"),
    "RELEASE_EXPIRED_KEY": (_sql.RELEASE_EXPIRED_KEY, "fireforget_unique_key"),
    "HOLDER_OF_KEY": (_sql.HOLDER_OF_KEY, "fireforget_unique_key"),
    "JOB_BY_TASK_ID": (_sql.JOB_BY_TASK_ID, "fireforget_task_id"),
    "JOBS_OF_WORKER": (_sql.JOBS_OF_WORKER, "fireforget_active"),
    "OLDEST_ENDED": (_limits.OLDEST_ENDED, "fireforget_resting"),
    "ENDED_BEFORE": (_limits.ENDED_BEFORE, "fireforget_resting"),
    "ENDED_BEYOND": (_limits.ENDED_BEYOND, "fireforget_resting"),
    "CANCEL_REQUESTED": (_sql.CANCEL_REQUESTED, "fireforget_cancel"),
    "LOOK_AT_KEY": (_keys.LOOK_AT_KEY, "sqlite_autoindex_fireforget_idempotency_1"),
    "ANY_DEPENDANT": (_dependencies.ANY_DEPENDANT, "fireforget_dependants"),
    "OPEN_DEPENDANTS": (_dependencies.OPEN_DEPENDANTS, "fireforget_dependants"),
    "FAILED_DEPENDANTS": (_dependencies.FAILED_DEPENDANTS, "fireforget_dependants"),
    "UNBLOCK": (_dependencies.UNBLOCK, "fireforget_open_need"),
    "REMOVE_RELEASED": (_dependencies.REMOVE_RELEASED, "fireforget_dependants"),
    "EXPIRED_KEYS": (_keys.EXPIRED_KEYS, "fireforget_idempotency_expiry"),
}
BY_ROW_NUMBER = {
    name: getattr(module, name)
    for module, names in (
        (_sql, "COMPLETE RETRY_LATER ARCHIVE CANCEL_ACTIVE PUT_BACK WRITE_RESULT WRITE_PROGRESS JOB_BY_NUMBER DELETE_JOB"),
        (_sql, "RETURN_JOB ARCHIVE_AFTER_DEATHS SUBJECT_OF_HOOK INSERT_ATTEMPT"),
        (_dependencies, "UNBLOCK FALL REMOVE_LINKED"),
        (_graphs, "MARK_NEEDED NEED_BY_NUMBER"),
    )
    for name in names.split()
}  # fmt: skip
OF_MANY_JOBS = (
    *(_sql.jobs_by_number, _sql.mark_claimed, _sql.make_pending, _sql.remove_settled),
    *(_dependencies.linked_among, _dependencies.linked_left, _groups.put_into_batch, _sql_inspect.running_jobs),
)


@pytest.fixture(params=["empty", "of 2 jobs", "of 60 jobs"])
def plan_of(request, queue):
    """Explain a statement on an empty file, and on ones whose statistics speak for reading everything."""
    connection = queue._database.connection()
    if request.param != "empty":
        jobs = int(request.param.split()[1])
        queue.enqueue_many([Task("x", None, process_in=n % 2) for n in range(jobs)])
        connection.execute("ANALYZE")

    def plan_of(statement):
        named = {name: value for name, value in {**NUMBERS, **NAMES}.items() if f":{name}" in statement}
        parameters = named or [1] * statement.count("?")
        return [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, parameters)]

    return plan_of


def reads_of_jobs(plan):
    """The lines of a plan that read the table of jobs, under whichever name it has in the statement."""
    return [line for line in plan if re.match(r"(SCAN|SEARCH) (fireforget_job|following|job)\b", line)]


@pytest.mark.parametrize("name", HOT)
def test_a_hot_statement_is_answered_by_its_index(plan_of, name):
    """Whatever the history's size: no scan of the table, and nothing sorted."""
    statement, index = HOT[name]
    plan = plan_of(statement)
    assert any(index in line for line in plan), plan
    assert not any("TEMP B-TREE" in line for line in plan), plan
    for line in reads_of_jobs(plan):
        assert "USING" in line, plan


@pytest.mark.parametrize("name", BY_ROW_NUMBER)
def test_a_settling_statement_finds_its_row_by_number(plan_of, name):
    """One step each."""
    plan = plan_of(BY_ROW_NUMBER[name])
    assert any("USING INTEGER PRIMARY KEY" in line for line in plan), plan
    assert not any(line.startswith("SCAN") for line in plan), plan


@pytest.mark.parametrize("statement_for", OF_MANY_JOBS)
def test_a_statement_for_many_jobs_finds_each_by_its_number(plan_of, queue, statement_for):
    """In parts of one job where SQLite would rather read them all."""
    connection = queue._database.connection()
    for size in {len(part) for part in _sql.in_parts_by_number(connection, range(200))}:
        plan = plan_of(statement_for(size))
        assert [line for line in plan if "USING INTEGER PRIMARY KEY" in line] == plan, (size, plan)


def test_what_somebody_analyzes_beside_a_worker_is_asked_for_anew(path, queue, sql):
    """Statistics come with a change of the schema, also to a connection that has made its plans before."""
    queue.enqueue_many([Task("x")] * 3)
    connection = queue._database.connection()
    before = [len(part) for part in _sql.in_parts_by_number(connection, range(3))]
    sql("ANALYZE")
    now = [len(part) for part in _sql.in_parts_by_number(connection, range(137))]
    with closing(sqlite3.connect(path)) as fresh:
        numbers = ", ".join(map(str, range(128)))
        plan = fresh.execute(f"EXPLAIN QUERY PLAN SELECT n FROM fireforget_job WHERE n IN ({numbers})").fetchone()[3]
    assert (before, now) == ([1] * 3, [1] * 137 if "SCAN" in plan else [128, 8, 1])


def test_counting_walks_indexes(plan_of):
    """Each state's own: neither the table nor the jobs of other states are walked for a number."""
    for statement in (
        _sql_queues.COUNT_JOBS,
        _sql_queues.COUNT_JOBS_OF_QUEUE,
        _sql_queues.QUEUES_OF_OTHERS,
        _sql_queues.queues_in(_sql.PENDING),
    ):
        plan = plan_of(statement)
        assert all("INDEX fireforget_" in line for line in reads_of_jobs(plan)), plan


@pytest.fixture
def steps_of(queue):
    """Count the work of SQLite's machine for a statement, in tens of its instructions; what it changed is rolled back."""
    connection = queue._database.connection()

    def steps_of(statement, parameters):
        steps = []
        connection.execute("BEGIN IMMEDIATE")
        connection.set_progress_handler(lambda: steps.append(1) and None, 10)
        try:
            connection.execute(statement, parameters).fetchall()
        finally:
            connection.set_progress_handler(None, 10)
            connection.execute("ROLLBACK")
        return len(steps)

    return steps_of


@pytest.mark.parametrize("name", ["first jobs", "PENDING_LANES", "DUE", "NEXT_DUE", "EXPIRED", "NEXT_EXPIRY"])
def test_the_cost_does_not_grow_with_what_is_stored(queue, steps_of, sql, name):
    """Neither with jobs of types that nobody handles, nor with jobs that are not due, nor with history."""
    statement = _sql.first_jobs(2) if name == "first jobs" else getattr(_sql, name)
    parameters = {"queue": "default", "type_0": "mine", "type_1": "other", "most": 5, "worker": 1, "now": queue._clock()}
    parameters = {key: value for key, value in parameters.items() if f":{key}" in statement}
    queue.enqueue_many([Task("mine", n) for n in range(10)])
    queue.enqueue_many([Task(type) for type in ("foreign:a", "foreign:z", "zzz")])
    queue.enqueue_many([Task("mine", None, process_in=60)] * 3)
    before = steps_of(statement, parameters)
    queue.enqueue_many([Task(type) for type in ("foreign:a", "foreign:z", "zzz") for _ in range(1000)])
    queue.enqueue_many([Task("mine", None, process_in=60)] * 1000)
    queue.enqueue_many([Task("mine", None, queue="other")] * 1000)
    sql("UPDATE fireforget_job SET state = 6 WHERE queue = 'other'")
    assert steps_of(statement, parameters) <= before + 20


def test_sqlite_is_new_enough_for_these_plans():
    """The tests above speak of this library."""
    assert sqlite3.sqlite_version_info >= (3, 35)
