"""Steering a queue: run, archive, delete, cancel and update jobs, one or many, beside workers; pause and delete queues."""

import fcntl
import os
import pickle
import threading
import time
from datetime import UTC, datetime
from time import perf_counter

import pytest

from fireforget import (
    Inspector,
    JobActive,
    QueueNotEmpty,
    State,
    Task,
    UnknownQueue,
    WrongState,
    _inspect_change,
    _inspect_find,
    _sql,
    _sql_change,
    _sql_find,
)
from fireforget import inspector as module
from fireforget._claims import Claims
from fireforget._history import Ended
from fireforget._pool.board import Board
from fireforget._settling import Settlement
from fireforget.errors import DuplicateTask, InvalidOption, InvalidPayload, StoreBusy, UnknownJob

ENDED = ("archived", "cancelled", "completed")


@pytest.fixture
def inspector(queue):
    return Inspector(queue)


@pytest.fixture
def claims(queue, clock):
    """A worker's side of the file, registered; closed at the end."""
    claims = Claims(queue._database, lambda _: True, ["default", "low"], clock)
    claims.register("worker-1", "/tmp/worker-1.lock", {"default": 3, "low": 1}, 2, 1)
    yield claims
    claims.close()


def claim(claims, most=100):
    with claims.transaction():
        return claims.claim("default", ["t"], most)


def settle(claims, **ends):
    with claims.transaction():
        return claims.settle(Settlement(**ends))


def fence(claims, row):
    return row[0], claims.worker, row[1]


@pytest.fixture
def job_in(queue, claims, sql, clock):
    """Store a job in a state, brought there as it would be in life; returns its id."""

    def job_in(state, **options):
        later = {"process_in": 60} if state == "scheduled" else {}
        info = queue.enqueue(Task("t", {"a": 1}), retention=60, **later, **options)
        if state in ("aggregating", "blocked"):
            sql(
                "UPDATE fireforget_job SET state = ?, group_name = 'g' WHERE n = ?",
                (_sql.number_of(State(state)), number(info.id)),
            )
        if state not in ("active", "retry", "archived", "completed", "cancelled"):
            return info.id
        (row,) = [row for row in claim(claims) if row[0] == number(info.id)]
        now, mine = clock(), fence(claims, row)
        if state == "retry":
            settle(
                claims,
                attempts=[(now, 0.5, "ValueError: no", "trace", *mine)],
                retried=[(now + 60, 1, "ValueError: no", now, *mine)],
            )
        elif state == "archived":
            settle(claims, attempts=[(now, 0.5, "ValueError: no", "trace", *mine)], archived=[(now, "ValueError: no", *mine)])
        elif state == "completed":
            settle(claims, completed=[(now, now, now + 60, '"done"', None, *mine)])
        elif state == "cancelled":
            settle(claims, cancelled=[(now, "cancelled while it ran", *mine)])
        return info.id

    def number(job_id):
        return (
            sql("SELECT n FROM fireforget_job WHERE task_id = ?", (job_id,))[0][0]
            if "-" not in job_id
            else int(job_id.split("-")[1])
        )

    return job_in


# --- run ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["scheduled", "retry", "archived", "cancelled", "completed", "aggregating"])
def test_a_job_that_is_run_is_pending_now_and_can_be_claimed(inspector, job_in, claims, clock, state):
    """From whatever state it may be run: due at once, not past, so that it does not overtake what waits."""
    job_id = job_in(state)
    clock.advance(5)
    info = inspector.run(job_id)
    assert (info.state, info.next_process_at.timestamp(), info.completed_at, info.group) == ("pending", clock.now, None, None)
    assert len(claim(claims)) == 1


@pytest.mark.parametrize("state", ENDED)
def test_a_job_that_ended_begins_anew_and_keeps_its_history(inspector, queue, claims, clock, job_in, sql, state):
    """All its retries, no result of the run before, no expiry; its attempts stay, and later ones are numbered on."""
    job_id = job_in(state)
    sql("UPDATE fireforget_job SET retry_count = 25, worker_deaths = 2, progress = 1.0, result = '1', cancel_requested_at = 1")
    info = inspector.run(job_id)
    assert (info.retry_count, info.result, info.progress, info.started_at) == (0, None, None, None)
    assert sql("SELECT worker_deaths, expires_at, cancel_requested_at FROM fireforget_job") == [(0, None, None)]
    before = len(inspector.attempts(job_id))
    assert before == (state == "archived")
    (row,) = claim(claims)
    settle(claims, attempts=[(clock(), 1.0, "E", None, *fence(claims, row))], archived=[(clock(), "E", *fence(claims, row))])
    assert [attempt.number for attempt in inspector.attempts(job_id)] == list(range(1, before + 2))


def test_a_job_in_retry_is_run_with_the_retries_it_has_left(inspector, job_in):
    """It only comes earlier."""
    info = inspector.run(job_in("retry"))
    assert (info.retry_count, info.last_error) == (1, "ValueError: no")


def test_running_what_cannot_be_run_says_why_and_what_to_do(inspector, job_in, queue, clock):
    """The state is in the message and in the error; nothing is changed."""
    with pytest.raises(WrongState, match=r"is pending: .*worker"):
        inspector.run(job_in("pending"))
    with pytest.raises(JobActive, match="is active: it runs already") as caught:
        inspector.run(job_in("active"))
    assert (caught.value.state, pickle.loads(pickle.dumps(caught.value)).state) == ("active", "active")
    with pytest.raises(WrongState, match="is blocked: it waits for other jobs"):
        inspector.run(job_in("blocked"))
    with pytest.raises(UnknownJob):
        inspector.run("never was")


def test_a_job_past_its_deadline_is_not_run(inspector, queue, clock):
    """It would only be archived again; another deadline, or none, lets it run."""
    info = queue.enqueue(Task("t"), process_in=60, deadline=datetime.fromtimestamp(clock.now + 10, UTC))
    inspector.archive(info.id)
    clock.advance(10)
    with pytest.raises(WrongState, match="its deadline has passed"):
        inspector.run(info.id)
    assert inspector.run_all("archived") == 0
    assert inspector.update(info.id, deadline=None).timeout == 1800
    assert inspector.run(info.id).deadline is None


def test_a_job_that_is_run_takes_its_unique_key_again_or_says_no(inspector, queue, clock):
    """While its unique_for lasts: two jobs with one key never wait at the same time."""
    first = queue.enqueue(Task("t"), unique_for=60, unique_key="k")
    inspector.archive(first.id)
    second = queue.enqueue(Task("t"), unique_for=60, unique_key="k")
    with pytest.raises(DuplicateTask) as caught:
        inspector.run(first.id)
    assert (caught.value.existing_id, inspector.task(first.id).state) == (second.id, "archived")
    assert inspector.run_all("archived") == 0
    inspector.cancel(second.id)
    assert inspector.run_all("archived") == 1
    with pytest.raises(DuplicateTask):
        queue.enqueue(Task("t"), unique_for=60, unique_key="k")
    with pytest.raises(DuplicateTask):
        inspector.run(second.id)
    inspector.archive(first.id)
    clock.advance(61)
    assert inspector.run(first.id).state == inspector.run(second.id).state == "pending"


# --- archive, cancel, delete ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(module.ARCHIVABLE))
def test_an_archived_job_stays_until_a_person_takes_it_out(inspector, job_in, sql, clock, state):
    """With the instant and a reason; a completed one does not expire any more."""
    clock.advance(5)
    info = inspector.archive(job_in(state))
    assert (info.state, info.completed_at.timestamp(), info.next_process_at) == ("archived", clock.now, None)
    assert info.last_error == {"retry": "ValueError: no", "cancelled": "cancelled while it ran"}.get(state, "archived by hand")
    assert sql("SELECT expires_at FROM fireforget_job") == [(None,)]
    with pytest.raises(WrongState, match="is archived: run or delete it"):
        inspector.archive(info.id)
    assert inspector.run(info.id).last_error != "archived by hand"


@pytest.mark.parametrize("state", ["pending", "scheduled", "retry", "aggregating", "blocked"])
def test_a_waiting_job_is_cancelled_at_once(inspector, queue, claims, job_in, state):
    """It never runs, and its unique key is free."""
    job_id = job_in(state, unique_for=60, unique_key="k")
    assert inspector.cancel(job_id).state == "cancelled"
    assert claim(claims) == []
    queue.enqueue(Task("t"), unique_for=60, unique_key="k")


def test_a_running_job_is_asked_to_end(inspector, job_in, claims, sql, clock):
    """Its worker sees the request; the first one counts, and the outcome is the worker's to write."""
    job_id = job_in("active")
    assert inspector.cancel(job_id).state == "active"
    ((n, number),) = claims.cancel_requests()
    clock.advance(1)
    inspector.cancel(job_id)
    assert sql("SELECT cancel_requested_at FROM fireforget_job") == [(clock.now - 1,)]
    settle(claims, cancelled=[(clock(), "cancelled while it ran", n, claims.worker, number)])
    assert inspector.task(job_id).state == "cancelled"
    with pytest.raises(WrongState, match="is cancelled: it has ended already"):
        inspector.cancel(job_id)


@pytest.mark.parametrize("state", sorted(module.DELETABLE))
def test_a_deleted_job_leaves_nothing_behind(inspector, queue, job_in, sql, state):
    """Its attempts go too, its id and its unique key are free."""
    job_id = job_in(state, task_id="own", unique_for=60, unique_key="k")
    inspector.delete(job_id)
    assert sql("SELECT count(*) FROM fireforget_job") == sql("SELECT count(*) FROM fireforget_attempt") == [(0,)]
    queue.enqueue(Task("t"), task_id="own", unique_for=60, unique_key="k")
    with pytest.raises(UnknownJob):
        inspector.delete("gone")


def test_a_running_job_is_neither_archived_nor_deleted_nor_updated(inspector, job_in):
    """It is its worker's; the message says to cancel it."""
    job_id = job_in("active")
    for change in (inspector.archive, inspector.delete, lambda job_id: inspector.update(job_id, priority=1)):
        with pytest.raises(JobActive, match="is active: cancel it, or wait"):
            change(job_id)
    for change in (inspector.archive_all, inspector.delete_all, inspector.run_all):
        with pytest.raises(InvalidOption, match="jobs in this state cannot be"):
            change("active")
    assert inspector.task(job_id).state == "active"


# --- update ---------------------------------------------------------------------------------------------------------------


def test_a_job_is_updated_in_what_is_given_and_nothing_else(inspector, queue, clock):
    """Payload, queue, priority and time, in one transaction."""
    info = queue.enqueue(Task("t", {"a": 1}), priority=3, headers={"h": "v"})
    moved = inspector.update(info.id, queue="low", process_in=60)
    assert (moved.queue, moved.state, moved.payload, moved.priority) == ("low", "scheduled", {"a": 1}, 3)
    assert moved.next_process_at.timestamp() == clock.now + 60
    changed = inspector.update(info.id, payload=None, priority=-1)
    assert (changed.payload, changed.priority, changed.state, dict(changed.headers)) == (None, -1, "scheduled", {"h": "v"})
    assert inspector.update(info.id, process_at=datetime.fromtimestamp(clock.now - 5, UTC)).state == "pending"


def test_a_job_in_retry_stays_so_at_another_time(inspector, job_in):
    """Its next run is still a retry; one that is due now is pending."""
    job_id = job_in("retry")
    assert inspector.update(job_id, process_in=5).state == "retry"
    assert inspector.update(job_id, process_in=0).state == "pending"


def test_an_archived_job_is_mended_and_then_run(inspector, job_in):
    """A payload that could not work is what often put it there; a time makes no sense for it."""
    job_id = job_in("archived")
    assert inspector.update(job_id, payload={"a": 2}).state == "archived"
    with pytest.raises(WrongState, match="is archived: it does not wait for a time"):
        inspector.update(job_id, process_in=5)
    assert inspector.run(job_id).payload == {"a": 2}


def test_an_update_is_checked_like_a_task(inspector, open_queue, job_in):
    """What is wrong is refused before anything is changed."""
    job_id = job_in("pending")
    for wrong in ({"queue": " "}, {"priority": "1"}, {"process_at": datetime(2030, 1, 1)}, {"process_in": -1}, {}):
        with pytest.raises(InvalidOption):
            inspector.update(job_id, **wrong)
    with pytest.raises(InvalidPayload):
        inspector.update(job_id, payload={1, 2})
    with pytest.raises(InvalidPayload, match="max_payload is 10"):
        Inspector(open_queue(max_payload=10)).update(job_id, payload="x" * 10)
    with pytest.raises(WrongState, match="is completed"):
        inspector.update(job_in("completed"), priority=1)
    assert inspector.task(job_id).payload == {"a": 1}


def test_a_unique_key_follows_the_payload_and_the_queue(inspector, queue):
    """A key that stands for both is another one then, and may be taken; a key of the caller's own stays."""
    first = queue.enqueue(Task("t", 1), unique_for=60)
    inspector.update(first.id, payload=2)
    second = queue.enqueue(Task("t", 1), unique_for=60)
    with pytest.raises(DuplicateTask) as caught:
        inspector.update(second.id, payload=2)
    assert (caught.value.existing_id, inspector.task(second.id).payload) == (first.id, 1)
    inspector.archive(second.id)
    inspector.update(second.id, payload=2)
    with pytest.raises(DuplicateTask):
        inspector.run(second.id)
    own = queue.enqueue(Task("t"), unique_for=60, unique_key="k")
    inspector.update(own.id, payload=5)
    with pytest.raises(DuplicateTask):
        queue.enqueue(Task("t"), unique_for=60, unique_key="k")


def test_what_a_foreign_program_stored_survives_an_update_of_something_else(inspector, queue, sql):
    """Even a payload that is not text."""
    sql("INSERT INTO fireforget_enqueue (type, task_id, payload) VALUES ('t', 'd', CAST(x'22ff22' AS TEXT))")
    inspector.update("d", priority=2)
    assert sql("SELECT CAST(payload AS BLOB), priority FROM fireforget_job") == [(b'"\xff"', 2)]


# --- beside workers -------------------------------------------------------------------------------------------------------

CHANGES = {
    "archive": lambda inspector, job_id: inspector.archive(job_id),
    "delete": lambda inspector, job_id: inspector.delete(job_id),
    "update": lambda inspector, job_id: inspector.update(job_id, queue="elsewhere"),
    "cancel": lambda inspector, job_id: inspector.cancel(job_id),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_and_a_claim_at_the_same_moment_have_one_winner(queue, inspector, claims, sql, name):
    """Either the worker has the job and the change says so, or the change is done and the worker has not got it."""
    ids = [info.id for info in queue.enqueue_many([Task("t")] * 60)]
    refused = []
    claimed = []
    start = threading.Barrier(2)

    def work():
        start.wait()
        while rows := claim(claims, 1):
            claimed.extend(rows)

    worker = threading.Thread(target=work)
    worker.start()
    start.wait()
    asked = 0
    for job_id in reversed(ids):
        try:
            info = CHANGES[name](inspector, job_id)
            asked += name == "cancel" and info.state is State.ACTIVE
        except JobActive:
            refused.append(job_id)
    worker.join()
    claimed_ids = {f"{queue._tag}-{row[0]}-{row[10]:08x}" for row in claimed}
    if name == "cancel":
        assert asked == len(claimed_ids) and len(claims.cancel_requests()) == asked
    else:
        assert set(refused) == claimed_ids
    assert sql("SELECT count(*) FROM fireforget_job WHERE state = 3") == [(len(claimed_ids),)]


def test_a_change_waits_for_the_transaction_that_claims_and_then_says_no(queue, inspector, claims):
    """What counts is the state at the moment of the write, not of a look before it."""
    info = queue.enqueue(Task("t"))
    in_transaction, told = threading.Event(), []

    def archive():
        in_transaction.wait()
        with pytest.raises(JobActive) as caught:
            inspector.archive(info.id)
        told.append(caught.value.state)

    thread = threading.Thread(target=archive)
    thread.start()
    with claims.transaction():
        in_transaction.set()
        claims.claim("default", ["t"], 1)
        thread.join(0.1)
        assert not told
    thread.join()
    assert told == ["active"]


def test_a_late_result_of_a_job_that_was_taken_away_is_discarded(queue, inspector, claims, clock, job_in):
    """A job that came back and was archived by hand is not touched by its old run."""
    info = queue.enqueue(Task("t"))
    (row,) = claim(claims)
    settle(claims, put_back=[fence(claims, row)])
    inspector.archive(info.id)
    inspector.run(info.id)
    (again,) = claim(claims)
    assert settle(claims, removed=[fence(claims, row)]) == 1
    assert settle(claims, removed=[fence(claims, again)]) == 0


# --- many jobs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(queue, sql):
    """Jobs 1 to 60: two types, two queues, half of them archived with two errors, at two instants."""
    queue.enqueue_many(
        [
            Task(("a:x", "a:y", "b")[n % 3], {"n": n % 4, "flag": True, "deep": {"n": n % 4}}, queue=("default", "low")[n % 2])
            for n in range(60)
        ]
    )
    sql("UPDATE fireforget_job SET state = 6, completed_at = 1800000000.0 - n, last_error = 'E: ' || (n % 2) WHERE n <= 30")
    sql("INSERT INTO fireforget_attempt VALUES (1, 1, 0.0, 0.0, 'w', 'E', NULL)")


FILTERS = {
    "all": ({}, "1"),
    "queue": ({"queue": "low"}, "queue = 'low'"),
    "type": ({"type": "a:x"}, "type = 'a:x'"),
    "type prefix": ({"type": "a:"}, "type LIKE 'a:%'"),
    "error": ({"error": ": 1"}, "last_error LIKE '%: 1%'"),
    "age": ({"older_than": 10}, "completed_at <= 1799999990"),
    "age, the young": ({"newer_than": 10}, "completed_at > 1799999990"),
    "age, between": ({"older_than": 10, "newer_than": 20}, "completed_at BETWEEN 1799999981 AND 1799999990"),
    "payload": ({"payload": {"n": 3, "flag": True}}, "payload LIKE '%\"n\":3%'"),
    "payload, inside a member": ({"payload": {"deep.n": 3}}, "payload LIKE '%{\"n\":3}%'"),
    "payload, a number with a fraction": ({"payload": {"n": 3.0}}, "payload LIKE '%\"n\":3%'"),
    "several": (
        {"queue": "low", "type": "a:y", "payload": {"n": 1}},
        "queue = 'low' AND type = 'a:y' AND payload LIKE '%\"n\":1%'",
    ),
    "payload, as JSON tells it": ({"payload": {"n": True}}, "0"),
    "nothing": ({"type": "c"}, "0"),
}


@pytest.mark.parametrize("name", FILTERS)
def test_jobs_are_chosen_by_what_all_filters_say(inspector, many, sql, name):
    """Listed, counted and changed alike."""
    filters, where = FILTERS[name]
    expected = [n for (n,) in sql(f"SELECT n FROM fireforget_job WHERE state = 6 AND {where} ORDER BY n")]
    assert bool(expected) == (where != "0")
    listed = [int(info.id.split("-")[1]) for info in inspector.tasks("archived", **filters)]
    assert (listed, inspector.count("archived", **filters)) == (expected, len(expected))
    assert inspector.run_all("archived", **filters) == len(expected)
    assert sql("SELECT count(*) FROM fireforget_job WHERE state = 6") == [(30 - len(expected),)]
    assert sql("SELECT count(*) FROM fireforget_job WHERE n <= 30 AND state = 2 AND due = 1800000000.0") == [(len(expected),)]


@pytest.mark.parametrize(
    "payload",
    [
        '{"user_id":7,"name":"Zoë"}',
        '{ "user_id" : 7.0, "name" : "Zoë" }',
        '{"user\\u005fid": 70e-1, "name": "Zo\\u00eb"}',
        '{"user_id":0.7E1,"name":"\\u005ao\\u00eb"}',
    ],
)
def test_a_payload_is_found_however_another_program_wrote_it(inspector, sql, payload):
    """What SQLite passes over without decoding can never match."""
    for text in (payload, '{"user_id":77,"name":"Zoë"}', "[7]", "7", "no json: user_id 7 Zoë"):
        sql("INSERT INTO fireforget_enqueue (type, payload) VALUES ('t', ?)", (text,))
    assert [info.id.split("-")[1] for info in inspector.tasks(payload={"user_id": 7, "name": "Zoë"})] == ["1"]
    assert inspector.count("pending", payload={"user_id": 7}) == 1
    assert inspector.count("pending", payload={"user_id": True}) == inspector.count("pending", payload={"user_id": None}) == 0


ALL = {
    "delete_all": ("pending", "scheduled", "retry", "archived", "completed", "aggregating"),
    "run_all": ("scheduled", "retry", "archived", "aggregating", "completed", "cancelled"),
    "archive_all": ("pending", "scheduled", "retry", "aggregating", "completed"),
    "cancel_all": ("pending", "scheduled", "retry", "aggregating", "blocked"),
}
AFTERWARDS = {"run_all": State.PENDING, "archive_all": State.ARCHIVED, "cancel_all": State.CANCELLED}


@pytest.mark.parametrize(("operation", "state"), [(name, state) for name, states in ALL.items() for state in states])
def test_all_jobs_of_a_state_are_changed_and_no_others(inspector, queue, job_in, operation, state):
    """Of one queue."""
    mine = [job_in(state) for _ in range(2)]
    other = queue.enqueue(Task("t"), queue="low").id
    blocked = job_in("blocked" if state != "blocked" else "scheduled")
    assert getattr(inspector, operation)(state, queue="default") == 2
    if operation == "delete_all":
        assert [info.id for info in inspector.tasks()] == [other, blocked]
    else:
        assert [inspector.task(job_id).state for job_id in mine] == [AFTERWARDS[operation]] * 2
    assert (inspector.task(other).state, inspector.task(blocked).state in ("blocked", "scheduled")) == ("pending", True)


@pytest.mark.parametrize("state", State)
def test_every_state_is_listed_and_counted(inspector, job_in, state):
    """Its own jobs alone, with or without the name of a queue."""
    job_id = job_in(state.value)
    job_in("blocked" if state != "blocked" else "scheduled")
    for filters in ({}, {"queue": "default"}):
        (info,) = inspector.tasks(state, **filters)
        assert (info.id, info.state, inspector.count(state, **filters)) == (job_id, state, 1)
    assert inspector.tasks(state, queue="low") == []


def test_many_jobs_are_updated(inspector, many, queue, sql):
    """Those that match are, as one by one; a taken unique key leaves a job as it is."""
    assert inspector.update_all("pending", {"queue": "critical", "priority": 5}, type="a:", payload={"n": 1}) == 5
    assert {(info.priority, info.type[:2]) for info in inspector.tasks(queue="critical")} == {(5, "a:")}
    assert inspector.update_all("pending", {"process_in": 60}, queue="critical") == 5
    assert inspector.count("scheduled", queue="critical") == 5
    assert inspector.update_all("archived", {"payload": None, "deadline": None}, queue="low") == 15
    assert sql("SELECT count(*) FROM fireforget_job WHERE payload IS NULL") == [(15,)]
    for payload in (1, 2):
        queue.enqueue(Task("u", payload), unique_for=60)
    assert inspector.update_all("pending", {"payload": 3}, type="u") == 1
    for wrong in ({}, {"queue": None}, {"colour": "red"}, {"priority": "high"}):
        with pytest.raises(InvalidOption):
            inspector.update_all("pending", wrong)
    with pytest.raises(InvalidOption, match="do not wait for a time"):
        inspector.update_all("archived", {"process_in": 5})
    with pytest.raises(InvalidOption, match="cannot be updated"):
        inspector.update_all("completed", {"priority": 5})


def test_many_jobs_are_deleted_archived_and_cancelled(inspector, many, sql, claims):
    """The counts are of what was done; attempts of what was deleted go too."""
    assert inspector.delete_all("archived", queue="default") == 15
    assert sql("SELECT count(*) FROM fireforget_attempt") == [(0,)]
    assert inspector.archive_all("pending", type="a:") == 20
    assert inspector.cancel_all("pending", queue="low") == 5
    claim_of_b = "UPDATE fireforget_job SET state = 3, worker = ? WHERE state = 2"
    sql(claim_of_b, (claims.worker,))
    assert inspector.cancel_all("active") == len(claims.cancel_requests()) == 5
    assert {state: n for state, n in inspector.counts().items() if n} == {"archived": 35, "active": 5, "cancelled": 5}
    assert inspector.counts("low")[State.CANCELLED] == 5


def test_many_jobs_are_changed_in_transactions_of_at_most_a_thousand(queue, inspector, claims, sql, monkeypatch):
    """A worker and producers get their turn in between, and what comes meanwhile is left alone."""
    queue.enqueue_many([Task("t")] * 5000)
    sizes, claimed = [], []

    def rest(self, seconds, *, more):
        sizes.append(
            5000 - sum(sizes) - sql("SELECT count(*) FROM fireforget_job WHERE state = 2 AND n <= 5000")[0][0] - len(claimed)
        )
        if len(sizes) == 2:
            claimed.extend(claim(claims, 10))
            queue.enqueue(Task("t"))
        self.jobs = 1000

    monkeypatch.setattr(_inspect_change.Pace, "rest", rest)
    deleted = inspector.delete_all("pending")
    assert deleted + len(claimed) == 5000
    assert max(sizes) <= 1000 and len(sizes) >= 5
    assert sql("SELECT state, count(*) FROM fireforget_job GROUP BY state") == [(2, 1), (3, 10)]


def test_a_pace_that_holds_the_lock_too_long_becomes_smaller():
    """And one that is quick grows up to its limit."""
    pace = _inspect_change.Pace()
    for _ in range(5):
        pace.rest(0.001, more=False)
    assert pace.jobs == _inspect_change.MOST_IN_A_TRANSACTION
    pace.rest(1.0, more=False)
    assert pace.jobs == _inspect_change.MOST_IN_A_TRANSACTION // 2


def test_a_change_that_cannot_get_the_lock_changes_nothing(inspector, queue, monkeypatch, claims):
    """The error is the store's, and the next call works."""
    info = queue.enqueue(Task("t"))
    monkeypatch.setattr(inspector._access, "patience", 0.1)
    with claims.transaction(), pytest.raises(StoreBusy):
        inspector.archive(info.id)
    assert inspector.archive(info.id).state == "archived"


def test_filters_that_make_no_sense_are_refused(inspector):
    """Before anything is changed."""
    for wrong in ({"queue": ""}, {"type": 5}, {"older_than": -1}, {"payload": ["a"]}, {"error": ""}):
        with pytest.raises(InvalidOption):
            inspector.delete_all("archived", **wrong)
    with pytest.raises(ValueError):
        inspector.delete_all("done")
    with pytest.raises(TypeError):
        inspector.delete_all("archived", colour="red")
    with pytest.raises(InvalidOption):
        inspector.tasks(limit=0)


# --- pages ----------------------------------------------------------------------------------------------------------------


def test_pages_go_on_after_a_job_that_is_gone(inspector, queue):
    """A worker may finish the last job of a page before the next one is asked for."""
    ids = [info.id for info in queue.enqueue_many([Task("t")] * 5)]
    page = inspector.tasks(limit=2)
    inspector.delete(page[-1].id)
    assert [info.id for info in inspector.tasks(limit=2, after=page[-1].id)] == ids[2:4]


@pytest.mark.parametrize("most", [_inspect_find._MOST_QUEUES, 1])
@pytest.mark.parametrize("filters", [{}, {"type": "a:"}, {"older_than": 10}, {"payload": {"flag": True}}])
def test_pages_of_what_rests_are_in_order_over_all_queues(inspector, many, monkeypatch, most, filters):
    """However many queues there are; they go on after the last job of the page before."""
    monkeypatch.setattr(_inspect_find, "_MOST_QUEUES", most)
    monkeypatch.setattr(_inspect_find, "_WINDOW", 7)
    seen, after = [], None
    while page := inspector.tasks("archived", limit=4, after=after, **filters):
        seen, after = [*seen, *page], page[-1].id
    numbers = [int(info.id.split("-")[1]) for info in seen]
    assert numbers == sorted(set(numbers)) and len(numbers) == inspector.count("archived", **filters) >= 20


def test_a_page_of_what_rests_is_read_in_the_order_of_its_index(queue):
    """Nothing is sorted, and the table is not read."""
    statement = _sql_find.matching(_sql.number_of(State.ARCHIVED), {"queue": ""}, by_index=True)
    parameters = {"after": 0, "last": 9, "most": 5, "queue": "low"}
    plan = [row[3] for row in queue._database.connection().execute("EXPLAIN QUERY PLAN " + statement, parameters)]
    assert len(plan) == 1 and "fireforget_listed (state=? AND queue=? AND rowid>? AND rowid<?)" in plan[0], plan


@pytest.fixture(scope="module")
def hundred_thousand(tmp_path_factory):
    """A queue with 100,000 jobs, most of them pending, with every other state here and there, far apart."""
    from fireforget import SqliteQueue

    with SqliteQueue(tmp_path_factory.mktemp("large") / "jobs.db", durability="normal") as queue:
        for _ in range(10):
            queue.enqueue_many([Task("t", {"n": 1})] * 10_000)
        connection = queue._database.connection()
        connection.execute("UPDATE fireforget_job SET state = 6 WHERE n BETWEEN 40000 AND 70000")
        connection.execute("UPDATE fireforget_job SET state = 4 WHERE n % 10007 = 0")
        connection.execute("UPDATE fireforget_job SET state = 9 WHERE n > 99900")
        yield Inspector(queue)


@pytest.mark.parametrize("state", [None, *State])
def test_a_page_of_a_hundred_thousand_jobs_comes_at_once(hundred_thousand, state):
    """The first, the next, and the last: fifty milliseconds at most, wherever the jobs of the state lie."""
    inspector, tag = hundred_thousand, hundred_thousand._queue._tag
    for after in (None, f"{tag}-20000-00000000", f"{tag}-69990-00000000", f"{tag}-99950-00000000"):
        seconds = []
        for _ in range(3):  # the best of three: other programs run on this machine
            began = perf_counter()
            page = inspector.tasks(state, after=after)
            seconds.append(perf_counter() - began)
        numbers = [int(info.id.split("-")[1]) for info in page]
        assert numbers == sorted(numbers) and all(state in (None, info.state) for info in page)
        assert min(seconds) < 0.05


def test_pages_of_a_hundred_thousand_jobs_miss_none(hundred_thousand):
    """Where the table is walked in windows, and where an index is sorted."""
    for state, expected in (("archived", 29998), ("retry", 9), ("cancelled", 100)):
        seen, after = 0, None
        while page := hundred_thousand.tasks(state, limit=7000, after=after):
            seen, after = seen + len(page), page[-1].id
        assert seen == hundred_thousand.count(state) == expected


@pytest.mark.parametrize("state", State)
def test_jobs_of_a_rare_state_are_found_in_its_index(queue, state):
    """The table is not read for them."""
    statement = _sql_find.matching(_sql.number_of(state), [], by_index=True)
    parameters = {"after": 0, "last": 9, "most": 5}
    plan = [row[3] for row in queue._database.connection().execute("EXPLAIN QUERY PLAN " + statement, parameters)]
    assert any("INDEX fireforget_" in line for line in plan), plan


def test_a_change_finds_its_job_by_number(queue):
    """One step each, whatever the filters."""
    filters = list(_sql_find.FILTERS)
    statements = [
        _sql_change.RUN_JOB,
        _sql_change.UPDATE_JOB,
        *(make(6, filters) for make in (_sql_change.shelve, _sql_change.call_off, _sql_change.remove, _sql_change.run_plain)),
    ]
    names = (
        "n",
        "now",
        "unique_key",
        "unique_until",
        "payload",
        "new_payload",
        "queue",
        "priority",
        "deadline",
        "due",
        "state",
        *filters,
    )
    for statement in statements:
        plan = [
            row[3] for row in queue._database.connection().execute("EXPLAIN QUERY PLAN " + statement, dict.fromkeys(names, 1))
        ]
        assert plan == ["SEARCH fireforget_job USING INTEGER PRIMARY KEY (rowid=?)"]


# --- queues ---------------------------------------------------------------------------------------------------------------


def test_a_paused_queue_is_not_claimed_from_until_it_is_resumed(inspector, queue, claims, clock):
    """What is enqueued waits; pausing twice changes nothing."""
    queue.enqueue(Task("t"))
    assert inspector.pause_queue("default") is True
    clock.advance(5)
    assert inspector.pause_queue("default") is False
    assert claims.lanes() == {}
    stats = inspector.queue_stats("default")
    assert (stats.paused, stats.paused_at.timestamp()) == (True, clock.now - 5)
    assert inspector.resume_queue("default") is True
    assert inspector.resume_queue("default") is False
    assert claims.lanes() == {"default": ["t"]}
    assert inspector.queue_stats("default").paused_at is None
    with pytest.raises(InvalidOption):
        inspector.pause_queue(" ")


def test_one_queue_is_counted_like_all_of_them(inspector, queue, many, clock, claims):
    """Zeros for one that only a worker knows; an unknown one is an error."""
    clock.advance(3)
    assert [inspector.queue_stats(stats.name) for stats in inspector.queues()] == inspector.queues()
    assert inspector.queue_stats("low").latency == 3
    inspector.delete_queue("low", force=True)
    assert inspector.queue_stats("low").size == 0
    assert inspector.queue_names() == ["default", "low"]
    with pytest.raises(UnknownQueue, match="no queue 'lwo'"):
        inspector.queue_stats("lwo")
    assert inspector.knows_queue("low") and not inspector.knows_queue("lwo")


def test_a_queue_with_jobs_is_deleted_by_force_alone(inspector, many, sql):
    """With all its jobs and its pause, and nothing of the others."""
    inspector.pause_queue("low")
    with pytest.raises(QueueNotEmpty, match="has 30 jobs: delete it with force") as caught:
        inspector.delete_queue("low")
    assert pickle.loads(pickle.dumps(caught.value)).size == 30
    assert inspector.delete_queue("low", force=True) == 30
    assert sql("SELECT DISTINCT queue FROM fireforget_job") == [("default",)]
    assert sql("SELECT name FROM fireforget_queue") == []
    with pytest.raises(UnknownQueue):
        inspector.delete_queue("low")


def test_a_queue_with_running_jobs_is_not_deleted(inspector, queue, claims, sql):
    """Nothing of it, force or not."""
    queue.enqueue_many([Task("t")] * 3)
    claim(claims, 1)
    with pytest.raises(QueueNotEmpty, match="has 1 job that run: cancel"):
        inspector.delete_queue("default", force=True)
    assert sql("SELECT count(*) FROM fireforget_job") == [(3,)]


def test_a_job_that_is_claimed_while_its_queue_is_deleted_stays(inspector, queue, claims, monkeypatch):
    """The error says how many are left, and how many are gone."""
    queue.enqueue_many([Task("t")] * 300)
    monkeypatch.setattr(_inspect_change.Pace, "rest", lambda self, seconds, *, more: more and claim(claims, 2))
    with pytest.raises(QueueNotEmpty, match="has 2 jobs that came or were claimed meanwhile; 298 were deleted"):
        inspector.delete_queue("default", force=True)


def test_queues_are_named_without_counting_their_jobs(inspector, queue, job_in, claims, sql):
    """Those with jobs in whatever state, paused ones, served ones, and those that only have a history."""
    for state in State:
        job_in(state.value)
        sql("UPDATE fireforget_job SET queue = ? WHERE queue = 'default'", (f"has {state}",))
    inspector.pause_queue("paused")
    with claims.transaction():
        claims.add_to_history([Ended("was busy", "t", 5, 1)])
    expected = {"paused", "was busy", "default", "low", *(f"has {state}" for state in State)}
    assert inspector.queue_names() == sorted(expected)
    assert {stats.name for stats in inspector.queues()} == expected - {"default", "low"}
    assert all(inspector.knows_queue(name) for name in expected)


DAY = 86400


def test_what_was_processed_is_kept_by_day(inspector, claims, clock):
    """By queue or together, today first, days of nothing as zeros."""
    for days, rows in (
        (0, [("default", "t", 5, 1)]),
        (2, [("default", "t", 7), ("low", "t", 2, 2)]),
        (0, [("default", "u", 1, 1)]),
    ):
        clock.advance(days * DAY)
        with claims.transaction():
            claims.add_to_history(Ended(*row) for row in rows)
    today = datetime.fromtimestamp(clock.now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    history = inspector.history("default", days=4)
    assert [(day.processed, day.failed) for day in history] == [(8, 1), (0, 0), (5, 1), (0, 0)]
    assert [(today - day.at).days for day in history] == [0, 1, 2, 3] and {day.seconds for day in history} == {DAY}
    assert [day.processed for day in inspector.history(days=3)] == [10, 0, 5]
    assert [day.processed for day in inspector.history(days=3, type="t")] == [9, 0, 5]
    assert len(inspector.history("nobody")) == 10
    stats = inspector.queue_stats("default")
    assert (stats.processed_today, stats.failed_today, stats.processed_total, stats.failed_total) == (8, 1, 13, 2)
    assert inspector.queues()[0] == stats
    for wrong in ({"days": 0}, {"days": 91}, {"days": "1"}, {"hours": True}, {"minutes": 181}, {"days": 1, "hours": 1}):
        with pytest.raises(InvalidOption):
            inspector.history("default", **wrong)
    inspector.delete_queue("default")
    assert [day.processed for day in inspector.history(days=3)] == [2, 0, 0]


def test_outcomes_and_times_are_kept_by_minute_and_hour(inspector, claims, clock):
    """Run time by type, waits by queue; what was not measured has no mean."""
    clock.now = clock.now // 3600 * 3600 + 600
    with claims.transaction():
        claims.add_to_history([Ended("q", "t", 4, 2, 1, 1, 4, 2.0), Ended("q", "", waited=4, wait_seconds=8.0)])
    clock.advance(60)
    with claims.transaction():
        claims.add_to_history([Ended("q", "u", 6, timed=6, run_seconds=18.0)])
    now, before, *rest = inspector.history("q", minutes=60)
    assert len(rest) == 58 and not any(point.processed for point in rest)
    assert (now.processed, now.mean_run, now.mean_wait, now.error_rate) == (6, 3.0, None, 0.0)
    assert (before.processed, before.failed, before.retried, before.archived) == (4, 2, 1, 1)
    assert (before.mean_run, before.mean_wait, before.error_rate) == (0.5, 2.0, 0.5)
    assert now.at.timestamp() == clock.now // 60 * 60 and now.seconds == 60
    (hour,) = inspector.history(hours=1)
    assert (hour.processed, hour.mean_run, hour.mean_wait) == (10, 2.0, 2.0)
    assert inspector.history("q", minutes=1, type="t")[0].error_rate is None
    types = inspector.history_of_types("q", minutes=5)
    assert [(type, point.processed, point.seconds) for type, point in types.items()] == [("u", 6, 300), ("t", 4, 300)]


def test_days_that_are_too_old_stay_in_the_totals(inspector, claims, clock, sql):
    """Ninety days a queue, for ever."""
    for _ in range(100):
        clock.advance(DAY)
        with claims.transaction():
            claims.add_to_history([Ended("default", "t", 3, 1)])
    assert sum(day.processed for day in inspector.history("default", days=90)) == 270
    assert inspector.queue_stats("default").processed_total == 300
    assert inspector.queue_stats("default").failed_total == 100
    assert sql("SELECT count(*) FROM fireforget_history WHERE span = 86400 AND type = ''") == [(91,)]
    assert sql("SELECT count(*) FROM fireforget_history WHERE span = 86400 AND type = 't'") == [(90,)]


def test_minutes_and_hours_are_deleted_in_time(claims, clock, sql):
    """The history is as large after a year as after a day."""
    for _ in range(400):
        clock.advance(1800)
        with claims.transaction():
            claims.add_to_history([Ended("q", "t", 1)])
    rows = dict(sql("SELECT span, count(*) FROM fireforget_history WHERE type = 't' GROUP BY span"))
    assert rows[60] <= 180 / 30 + 2 and 167 <= rows[3600] <= 169 and rows[86400] == 9


def test_types_beyond_fifty_are_counted_together(inspector, claims, clock, sql):
    """Also those of another worker; a type that has rows of its own keeps them for the day."""
    other = Claims(claims._database, lambda _: True, ["q"], clock)
    for its_claims, prefix in ((claims, "a"), (other, "b"), (claims, "c")):
        with its_claims.transaction():
            its_claims.add_to_history([Ended("q", f"{prefix}{n}", 100 - n) for n in range(30)] + [Ended("q", "a0", 1)])
    other.close()
    types = inspector.history_of_types("q", days=1)
    assert len(types) == 51 and types["a0"].processed == 103 and "b19" in types and "b20" not in types
    assert next(iter(types)) == "(other)" and types["(other)"].processed == sum(range(71, 81)) + sum(range(71, 101))
    assert sum(point.processed for point in types.values()) == inspector.history("q", days=1)[0].processed


def test_the_bytes_of_a_queue_are_estimated(inspector, queue):
    """By a sample, each queue by its own jobs."""
    queue.enqueue_many([Task("t", "x" * 1000)] * 300)
    queue.enqueue_many([Task("t")] * 300, queue="low")
    large, small = (stats.bytes for stats in inspector.queues())
    assert 300_000 < large < 500_000 and 30_000 < small < 90_000


def test_a_worker_is_alive_as_long_as_its_lock_is_held(inspector, claims, path, sql):
    """The kernel says so, whatever its process id became; without a lock file, a process of this boot."""
    lock = f"{path}-worker-1"
    sql("UPDATE fireforget_worker SET lock_file = ?", (os.path.basename(lock),))
    assert [worker.alive for worker in inspector.workers()] == [True]
    sql("UPDATE fireforget_worker SET boot_id = 'another'")
    assert [worker.alive for worker in inspector.workers()] == [False]
    with open(lock, "w") as file:
        assert [worker.alive for worker in inspector.workers()] == [False]
        fcntl.flock(file, fcntl.LOCK_EX)
        assert [worker.alive for worker in inspector.workers()] == [True]
    assert [worker.alive for worker in inspector.workers()] == [False]


def test_the_children_of_a_worker_are_read_from_its_board(inspector, queue, claims, path, sql, clock):
    """What each runs since when, its memory, and deaths; half written cells and jobs that have just ended are left out."""
    queue.enqueue_many([Task("t"), Task("t")], queue="q")
    with claims.transaction():
        claims.begin_claiming()
        n = claims.claim("q", ["t"], 1)[0][0]
    board = Board.create(path, slots=3, threads=2)
    sql("UPDATE fireforget_worker SET lock_file = ?", (os.path.basename(board.path),))
    for number in range(3):
        board.slot(number).clear()
    assert (info := inspector.workers()[0]).alive and (info.children, info.child_deaths, info.last_child_death) == ([], 0, None)
    for number, pid in ((0, os.getpid()), (2, 2**22 + 1)):
        board.slot(number).occupy(pid)
    for cell, job in zip(board.slot(0).cells, (n, 2**64 - 1), strict=True):
        board.words[cell.index_at], board.words[cell.number_at] = 1, job
        board.doubles[cell.began_at] = time.monotonic() - 60
    for cell, began in zip(board.slot(2).cells, (float("nan"), 1e300), strict=True):
        board.words[cell.index_at], board.words[cell.number_at], board.doubles[cell.began_at] = 1, n + 1, began
    board.note_death(77, -9)
    info = inspector.workers()[0]
    here, gone = info.children
    (job,) = here.jobs
    assert (here.pid, job.id, job.type, job.queue) == (os.getpid(), inspector.tasks("active")[0].id, "t", "q")
    assert 60 <= clock() - job.since.timestamp() < 70 and (here.memory is None or here.memory > 2**20)
    assert (gone.pid, gone.memory, gone.jobs) == (2**22 + 1, None, [])
    assert (info.child_deaths, info.last_child_death.pid, info.last_child_death.reason) == (1, 77, "SIGKILL")
    board.slot(0).vacate()
    assert [child.pid for child in inspector.workers()[0].children] == [2**22 + 1]
    board.remove()
    assert (inspector.workers()[0].children, inspector.workers()[0].child_deaths) == (None, None)
    for content in (b"", b"ffboard1" + b"\xff" * 100, b"another" * 100):
        with open(board.path, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(content)
            file.flush()
            assert inspector.workers()[0].children is None


def test_the_jobs_in_the_hands_of_a_worker_are_listed(inspector, queue, claims):
    """First enqueued first, no more than asked for."""
    ids = [info.id for info in queue.enqueue_many([Task("t")] * 3)]
    claim(claims)
    assert [info.id for info in inspector.tasks_of_worker("worker-1")] == ids
    assert [info.id for info in inspector.tasks_of_worker("worker-1", limit=1)] == ids[:1]
    assert inspector.tasks_of_worker("nobody") == []


@pytest.mark.parametrize("typed", ["ordr-51234", "order-52134", "orxder-51234", "0rder-51234", "order-512345", "rder-51234"])
def test_an_id_with_one_wrong_letter_is_found_among_many(inspector, queue, typed):
    """Anywhere in it: not only among the first that begin alike."""
    queue.enqueue_many([Task("t", task_id=f"order-{n}") for n in (*range(10_000, 10_500), 51_234)])
    assert "order-51234" in inspector.similar_ids(typed)


def test_a_generated_id_with_a_wrong_digit_is_found_by_the_rest_of_it(inspector, queue):
    """The number is another job's, or nobody's."""
    ids = [info.id for info in queue.enqueue_many([Task("t")] * 30)]
    tag, _, nonce = ids[11].split("-")
    for wrong in ("13", "21", "1", "912"):
        assert ids[11] in inspector.similar_ids(f"{tag}-{wrong}-{nonce}")


def test_ids_are_completed(inspector, queue):
    """One's own and generated ones; the latest for no text."""
    ids = [info.id for info in queue.enqueue_many([Task("t")] * 30)]
    queue.enqueue(Task("t"), task_id="welcome-1")
    tag = ids[0].split("-")[0]
    assert inspector.ids_beginning("wel") == ["welcome-1"]
    assert inspector.ids_beginning("", limit=2) == ["welcome-1", ids[29]]
    assert inspector.ids_beginning(f"{tag}-2") == [ids[1], *ids[19:29]]
    assert inspector.ids_beginning(ids[4][:-3]) == [ids[4]]
    assert inspector.ids_beginning(tag[:2], limit=3) == ids[:3]
    assert inspector.ids_beginning(f"{tag}-99") == inspector.ids_beginning("zz") == []


def test_ids_that_look_alike_are_found(inspector, queue):
    """By their number, or by how they begin."""
    info = queue.enqueue(Task("t"))
    queue.enqueue(Task("t"), task_id="welcome-1")
    assert inspector.similar_ids(info.id[:-2]) == [info.id]
    assert "welcome-1" in inspector.similar_ids("welcom")
    assert inspector.similar_ids("zzz") == []
