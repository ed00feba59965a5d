"""The worker's side of the store: claiming, settling with a fence, taking over from the dead, keeping house."""

import pytest

from fireforget import Inspector, Task, _sql
from fireforget._claimed import Claimed
from fireforget._claims import MOST_FORWARDED, Claims
from fireforget._handler_limits import Limits
from fireforget._limited import LimitedLanes
from fireforget._settling import Settlement
from fireforget.errors import DuplicateTask, SchemaTooNew, StoreReplaced, UnknownJob


@pytest.fixture
def new_claims(queue, clock):
    """A worker's side of the file, registered; closed at the end."""
    made = []

    def new_claims(handles=lambda kind: True, queues=("default",), name=None):
        claims = Claims(queue._database, handles, list(queues), clock)
        made.append(claims)
        claims.register(name or f"worker-{len(made)}", f"/tmp/worker-{len(made)}.lock", dict.fromkeys(queues, 1), 2, 1)
        return claims

    yield new_claims
    for claims in made:
        claims.close()


@pytest.fixture
def claims(new_claims):
    return new_claims()


def claim(claims, most=100, queue="default", types=("t",)):
    with claims.transaction():
        return [Claimed(*row) for row in claims.claim(queue, list(types), most)]


def settle(claims, **ends):
    """Settle in a transaction and return how many came too late."""
    with claims.transaction():
        return claims.settle(Settlement(**ends))


def fence(claims, job):
    return job.n, claims.worker, job.claim


def test_statistics_of_a_short_queue_are_forgotten_and_those_of_the_application_are_not(queue, claims, sql):
    """SQLite would plan by them when the queue is long, and walk through all of it."""
    sql("CREATE TABLE mine (a)")
    sql("INSERT INTO mine VALUES (1)")
    sql("CREATE INDEX mine_a ON mine (a)")
    queue.enqueue(Task("t"))
    for _ in range(2):
        sql("ANALYZE")
        sql("CREATE TABLE another AS SELECT 1")  # with this a connection reads the statistics anew
        assert sql("SELECT 1 FROM sqlite_stat1 WHERE tbl = 'fireforget_job'")
        with claims.transaction():
            claims.check_schema()
            plan = [row[3] for row in claims.connection.execute("EXPLAIN QUERY PLAN " + _sql.PENDING_LANES)]
        assert sql("SELECT DISTINCT tbl FROM sqlite_stat1 WHERE tbl GLOB 'fireforget*' OR tbl = 'mine'") == [("mine",)]
        assert any(line.startswith("SEARCH job USING INTEGER PRIMARY KEY") for line in plan), plan
        assert not any(line == "SCAN job" for line in plan), plan
        sql("DROP TABLE another")
    sql("ANALYZE")
    claims.close_thread()  # the next connection reads them, though the schema is as it was
    with claims.transaction():
        claims.check_schema()
    assert not sql("SELECT 1 FROM sqlite_stat1 WHERE tbl = 'fireforget_job'")


# --- claiming -----------------------------------------------------------------------------------------------------------


def test_jobs_are_claimed_by_priority_then_due_then_id(queue, claims, clock):
    """Whatever their type, and in the order in which they are to run."""
    for payload, options in enumerate(
        [{}, {"priority": 5}, {"priority": -1}, {"priority": 5}, {"process_in": 1}, {"priority": 5, "process_in": 2}, {}]
    ):
        queue.enqueue(Task("ab"[payload % 2], payload), **options)
    clock.advance(10)
    queue.enqueue(Task("a", 7))
    with claims.transaction():
        claims.forward_due()
    jobs = claim(claims, types=("a", "b", "none"))
    assert [job.payload for job in jobs] == ["1", "3", "5", "0", "6", "4", "7", "2"]


def test_a_claimed_job_is_active_and_names_its_worker(queue, claims, clock):
    """It is nobody else's, and its due time stays what it was."""
    info = queue.enqueue(Task("t", {"a": 1}, headers={"b": "c"}), retention=5)
    clock.advance(3)
    (job,) = claim(claims)
    assert (job.type, job.queue, job.payload, job.headers, job.retention) == ("t", "default", '{"a":1}', '{"b":"c"}', 5.0)
    assert (job.retry_count, job.max_retry, job.timeout, job.deadline, job.due) == (0, 25, 1800.0, None, clock.now - 3)
    active = queue.get(info.id)
    assert (active.state, active.worker, active.next_process_at) == ("active", "worker-1", None)
    assert active.started_at.timestamp() == clock.now
    assert claim(claims) == []


def test_no_more_than_asked_for_and_only_of_the_queue_and_types_asked_for(queue, claims):
    """The rest stays pending."""
    queue.enqueue_many([Task("t", n) for n in range(5)])
    queue.enqueue_many([Task("other"), Task("t", None, queue="low"), Task("t", None, process_in=9)])
    assert [job.payload for job in claim(claims, 3)] == ["0", "1", "2"]
    assert [job.payload for job in claim(claims, 30)] == ["3", "4"]


def test_a_job_that_a_trigger_keeps_back_is_not_run(queue, claims, sql):
    """An application may have a trigger that lets some jobs not become active: what stays pending is nobody's."""
    queue.enqueue_many([Task("t", n) for n in range(3)])
    sql(
        "CREATE TRIGGER keep BEFORE UPDATE OF state ON fireforget_job WHEN new.state = 3 AND old.payload = '1' "
        "BEGIN SELECT raise(IGNORE); END"
    )
    assert [job.payload for job in claim(claims)] == ["0", "2"]
    assert [info.payload for info in Inspector(queue).tasks("pending")] == [1]


def test_two_workers_never_get_the_same_job(queue, new_claims):
    """One transaction each."""
    queue.enqueue_many([Task("t")] * 30)
    workers = [new_claims() for _ in range(3)]
    jobs = [job.n for _ in range(5) for claims in workers for job in claim(claims, 2)]
    assert sorted(jobs) == list(range(1, 31))


def test_priority_holds_among_more_types_than_one_statement_takes(queue, claims):
    """A registry of hundreds of types is no reason to run the unimportant first."""
    types = [f"type:{n:03}" for n in range(250)]
    queue.enqueue_many([Task(type, n, priority=n) for n, type in enumerate(types)])
    assert [job.payload for job in claim(claims, 5, types=types)] == ["249", "248", "247", "246", "245"]


def test_lanes_are_the_queues_and_types_that_this_worker_can_serve(queue, new_claims, sql):
    """Queues not served, paused ones, and types without a handler are left out."""
    for lane in ("default", "low", "paused", "foreign"):
        queue.enqueue_many([Task("a"), Task("a"), Task("b"), Task("unhandled")], queue=lane)
    queue.enqueue(Task("c"), process_in=60)
    sql("INSERT INTO fireforget_queue (name, paused_at) VALUES ('paused', 1.0), ('low', NULL)")
    claims = new_claims(handles=lambda kind: kind in "abc", queues=("default", "low", "paused"))
    assert claims.lanes() == {"default": ["a", "b"], "low": ["a", "b"]}
    sql("UPDATE fireforget_queue SET paused_at = NULL")
    assert set(claims.lanes()) == {"default", "low", "paused"}


def test_types_without_a_handler_cost_nothing(queue, new_claims):
    """Jobs of a type that another worker is for are stepped over, however many they are."""
    claims = new_claims(handles=lambda kind: kind == "mine")
    queue.enqueue_many([Task(type) for type in ("foreign:a", "mine", "zzz")])
    steps = []
    claims.connection.set_progress_handler(lambda: steps.append(1) and None, 10)
    claims.lanes()
    before = len(steps)
    claims.connection.set_progress_handler(None, 10)
    queue.enqueue_many([Task(type) for type in ("foreign:a", "zzz") for _ in range(2000)])
    steps.clear()
    claims.connection.set_progress_handler(lambda: steps.append(1) and None, 10)
    assert claims.lanes() == {"default": ["mine"]}
    claims.connection.set_progress_handler(None, 10)
    assert len(steps) <= before + 10
    assert [job.type for job in claim(claims, types=("mine",))] == ["mine"]


@pytest.mark.parametrize("column", ["payload", "headers"])
def test_text_that_is_not_utf_8_is_claimed_all_the_same(queue, claims, sql, column):
    """A foreign program stored it; the handler's error archives it, and it stands in nobody's way."""
    sql(f"INSERT INTO fireforget_enqueue (type, {column}) VALUES ('t', CAST(x'7b22ff227d' AS TEXT))")
    queue.enqueue(Task("t", "ü"))
    broken, whole = claim(claims)
    assert getattr(broken, column) == '{"\ufffd"}'
    assert whole.payload == '"ü"'
    queue.enqueue(Task("t", 3))
    assert [job.payload for job in claim(claims)] == ["3"]


@pytest.mark.parametrize("column", ["type", "queue"])
def test_a_name_that_is_not_utf_8_stops_no_worker(queue, new_claims, sql, column):
    """Nobody handles it, so it is stepped over like any other; the rest goes on, and can still be counted."""
    values = {"type": "'t'", "queue": "'default'", column: "CAST(x'61ff' AS TEXT)"}
    sql(f"INSERT INTO fireforget_enqueue (type, queue) VALUES ({values['type']}, {values['queue']})")
    queue.enqueue(Task("t"))
    claims = new_claims(handles=lambda kind: kind == "t")
    assert claims.lanes() == {"default": ["t"]}
    assert sum(stats.size for stats in Inspector(queue).queues()) == 2
    assert claims.active_elsewhere() is False


@pytest.mark.parametrize("type", ["CAST(x'703AFF' AS TEXT)", "x'703A61'"], ids=["not UTF-8", "BLOB"])
def test_a_type_that_is_no_text_has_no_handler_even_where_its_beginning_has(queue, new_claims, sql, type):
    """No claim would find it under the name that is read, so a worker would go on trying for ever: it warns instead."""
    queue.enqueue(Task("p:x"))
    sql(f"UPDATE fireforget_job SET type = {type}")
    claims = new_claims(handles=lambda kind: kind.startswith("p:"))
    assert claims.lanes() == {}
    assert claims.unhandled == [("default", "p:\ufffd" if "FF" in type else "p:a")]
    queue.enqueue(Task("p:\ufffd"))  # a legal name, if an odd one
    assert claims.lanes() == {"default": ["p:\ufffd"]}


@pytest.mark.parametrize("column", ["timeout", "deadline", "due", "priority", "nonce", "retry_count", "max_retry", "retention"])
def test_a_job_whose_numbers_are_none_is_archived_and_harms_no_other(queue, claims, sql, column):
    """Another program wrote into the table itself: nobody can run it, and everybody can still read it."""
    queue.enqueue_many([Task("t", n) for n in range(3)])
    sql(f"UPDATE fireforget_job SET {column} = 'abc' WHERE payload = '1'")
    assert [job.payload for job in claim(claims)] == ["0", "2"]
    (info,) = Inspector(queue).tasks("archived")
    assert info.last_error == f"another program wrote into the table what is no number: {column} 'abc'"
    assert Inspector(queue).delete_all("archived") == 1


@pytest.mark.parametrize("column", ["due", "priority"])
@pytest.mark.parametrize("way", ["several queues", "many types", "limits"])
def test_a_job_whose_place_is_no_number_is_archived_whatever_it_is_claimed_with(queue, new_claims, clock, sql, column, way):
    """With jobs of other queues, of more types than a statement takes, and of types with limits."""
    claims = new_claims(queues=("default", "low"))
    if way == "limits":
        claims.limited = LimitedLanes({"t": Limits("t", 5, None, None)}.get, clock)
    queue.enqueue_many([Task("ut"[n == 2], n, queue=q) for q in ("default", "low") for n in range(3)])
    sql(f"UPDATE fireforget_job SET {column} = 'abc' WHERE payload = '1' OR payload = '2' AND queue = 'low'")
    types = ["t", "u", *([f"type:{n:03}" for n in range(250)] if way == "many types" else [])]
    with claims.transaction():
        claims.lanes()
        rows = claims.claim_from({"default": (types, 9), "low": (types, 9)})
    found = {name: [Claimed(*row).payload for row in jobs] for name, jobs in rows.items()}
    assert found == {"default": ["0", "2"], "low": ["0"]}
    assert len(Inspector(queue).tasks("archived")) == 3


@pytest.mark.parametrize("statement", ["state = 1, due = 'abc'", "state = 5, expires_at = 'abc'"])
def test_an_instant_that_is_none_never_comes(queue, claims, sql, statement):
    """And keeps no worker from the others."""
    queue.enqueue(Task("t"))
    sql(f"UPDATE fireforget_job SET {statement}")
    assert claims.next_due() == claims.next_expiry() == float("inf")
    later = queue.enqueue(Task("t"), process_in=5)
    assert claims.next_due() == later.next_process_at.timestamp()


def test_a_dead_workers_job_whose_deaths_are_no_number_is_taken_over(queue, new_claims, sql):
    """A worker that starts must get past it."""
    dead, alive = new_claims(), new_claims()
    queue.enqueue(Task("t"))
    claim(dead)
    sql("UPDATE fireforget_job SET worker_deaths = 'abc'")
    assert alive.take_over(dead.worker, frozenset(), counts=True) == (1, 0)


# --- settling -----------------------------------------------------------------------------------------------------------


def test_a_job_that_succeeded_without_retention_is_gone(queue, claims):
    """And so is its history."""
    info = queue.enqueue(Task("t"))
    (job,) = claim(claims)
    own = fence(claims, job)
    assert settle(claims, attempts=[(1.0, 2.0, "E", None, *own)], retried=[(0.0, 1, "E", 0.0, *own)]) == 0
    with claims.transaction():
        claims.forward_due()
    (job,) = claim(claims)
    assert (job.retry_count, job.claim) == (1, 2)
    assert settle(claims, removed=[fence(claims, job)], forgotten=[(job.n,)]) == 0
    with pytest.raises(UnknownJob):
        queue.get(info.id)
    assert claims.connection.execute("SELECT count(*) FROM fireforget_attempt").fetchone() == (0,)


def test_a_completed_job_is_kept_with_its_result_until_its_retention_ends(queue, claims, clock):
    """And is removed then, with its attempts."""
    info = queue.enqueue(Task("t"), retention=60, unique_for=600)
    (job,) = claim(claims)
    now = clock.now
    settle(claims, completed=[(now, now + 1, now + 61, '{"x":1}', None, *fence(claims, job))])
    done = queue.get(info.id)
    assert (done.state, done.result, done.worker, done.completed_at.timestamp()) == ("completed", {"x": 1}, None, now + 1)
    assert claims.next_expiry() == now + 61
    queue.enqueue(Task("t"), unique_for=600)
    with claims.transaction():
        assert claims.remove_expired() == 0
    clock.advance(61)
    with claims.transaction():
        assert claims.remove_expired() == 1
    assert claims.next_expiry() == float("inf")
    with pytest.raises(UnknownJob):
        queue.get(info.id)


def test_a_failed_job_waits_for_its_next_attempt(queue, claims, clock):
    """With its error, one more attempt counted, and pending again when it is due."""
    info = queue.enqueue(Task("t"))
    (job,) = claim(claims)
    settle(
        claims,
        attempts=[(clock.now, 0.5, "ValueError: no", "Traceback", *fence(claims, job))],
        retried=[(clock.now + 15, 1, "ValueError: no", clock.now, *fence(claims, job))],
    )
    waiting = queue.get(info.id)
    assert (waiting.state, waiting.retry_count, waiting.last_error, waiting.worker) == ("retry", 1, "ValueError: no", None)
    assert waiting.next_process_at.timestamp() == claims.next_due() == clock.now + 15
    (attempt,) = Inspector(queue).attempts(info.id)
    assert (attempt.number, attempt.duration, attempt.worker, attempt.error) == (1, 0.5, "worker-1", "ValueError: no")
    with claims.transaction():
        assert claims.forward_due() == 0
    clock.advance(15)
    with claims.transaction():
        assert claims.forward_due() == 1
    (again,) = claim(claims)
    assert (again.n, again.retry_count, again.claim) == (job.n, 1, 2)


def test_an_archived_job_stays_with_its_error_and_frees_its_key(queue, claims, clock):
    """A dead letter: only a person takes it out."""
    info = queue.enqueue(Task("t"), unique_for=600)
    (job,) = claim(claims)
    settle(claims, archived=[(clock.now, "SkipRetry: no", *fence(claims, job))])
    dead = queue.get(info.id)
    assert (dead.state, dead.last_error, dead.worker) == ("archived", "SkipRetry: no", None)
    assert dead.completed_at.timestamp() == clock.now
    queue.enqueue(Task("t"), unique_for=600)


@pytest.mark.parametrize(("seconds", "held"), [(599, True), (600, False)])
def test_a_key_that_expired_during_the_run_is_freed_when_a_retry_is_written(queue, claims, clock, seconds, held):
    """And not before its time."""
    queue.enqueue(Task("t"), unique_for=600)
    (job,) = claim(claims)
    clock.advance(seconds)
    settle(claims, retried=[(clock.now + 15, 1, "E", clock.now, *fence(claims, job))])
    if held:
        with pytest.raises(DuplicateTask):
            queue.enqueue(Task("t"), unique_for=600)
    else:
        queue.enqueue(Task("t"), unique_for=600)


def test_a_job_that_is_put_back_is_among_the_first_again_and_counts_no_attempt(queue, claims, clock):
    """As if it had never been claimed."""
    info = queue.enqueue(Task("t", "first"))
    (job,) = claim(claims)
    clock.advance(5)
    queue.enqueue(Task("t", "second"))
    assert settle(claims, put_back=[fence(claims, job)]) == 0
    back = queue.get(info.id)
    assert (back.state, back.retry_count, back.worker, back.started_at) == ("pending", 0, None, None)
    first, second = claim(claims)
    assert (first.payload, second.payload) == ('"first"', '"second"')
    assert first.claim > job.claim


def test_results_and_progress_are_seen_while_a_job_runs(queue, claims):
    """And a later result replaces the first, a missing one does not."""
    info = queue.enqueue(Task("t"), retention=5)
    (job,) = claim(claims)
    settle(claims, results=[("[1]", *fence(claims, job))], progress=[(0.5, "half", *fence(claims, job))])
    running = queue.get(info.id)
    assert (running.state, running.result, running.progress.fraction, running.progress.note) == ("active", [1], 0.5, "half")
    settle(claims, completed=[(1.0, 2.0, 3.0, None, None, *fence(claims, job))])
    assert queue.get(info.id).result == [1]


STALE = {
    "removed": (),
    "completed": (1.0, 2.0, 3.0, "5", None),
    "retried": (1.0, 1, "E", 1.0),
    "archived": (1.0, "E"),
    "cancelled": (1.0, "E"),
    "put_back": (),
}


@pytest.mark.parametrize("outcome", STALE)
@pytest.mark.parametrize("meanwhile", ["put back", "claimed again", "taken over", "another's", "gone"])
def test_a_result_that_comes_too_late_settles_nothing_and_is_counted(queue, new_claims, outcome, meanwhile):
    """The fence: number, owner and claim must all still be what they were when the job was handed out."""
    claims, other = new_claims(), new_claims()
    queue.enqueue(Task("t"), task_id="own", retention=5)
    (job,) = claim(claims)
    stale = fence(claims, job)
    if meanwhile == "taken over":
        other.take_over(claims.worker, frozenset(), counts=True)
    elif meanwhile == "gone":
        settle(claims, removed=[stale])
    else:
        settle(claims, put_back=[stale])
    if meanwhile in ("claimed again", "another's"):
        claim(claims if meanwhile == "claimed again" else other)
    before = claims.connection.execute("SELECT * FROM fireforget_job").fetchall()
    late = settle(
        claims,
        **{outcome: [(*STALE[outcome], *stale)]},
        attempts=[(1.0, 1.0, "E", None, *stale)],
        results=[("5", *stale)],
        progress=[(1.0, None, *stale)],
        forgotten=[(job.n,)],
    )
    assert late == 1
    assert claims.connection.execute("SELECT * FROM fireforget_job").fetchall() == before
    assert claims.connection.execute("SELECT * FROM fireforget_attempt").fetchall() == []


def test_what_fails_in_the_middle_of_a_transaction_did_not_happen(queue, claims):
    """Outcomes and claims of a turn come together or not at all."""
    info = queue.enqueue(Task("t"))
    (job,) = claim(claims)
    with pytest.raises(ZeroDivisionError), claims.transaction():
        claims.settle(Settlement(removed=[fence(claims, job)]))
        raise ZeroDivisionError
    assert queue.get(info.id).state == "active"
    assert settle(claims, removed=[fence(claims, job)]) == 0


def test_cancel_requests_are_those_of_this_worker(queue, new_claims, sql):
    """Each with the claim that it is meant for."""
    mine, other = new_claims(), new_claims()
    queue.enqueue_many([Task("t")] * 4)
    jobs = claim(mine, 2)
    claim(other, 1)
    assert not mine.cancel_requests()
    sql("UPDATE fireforget_job SET cancel_requested_at = 1.0 WHERE n IN (1, 3, 4)")
    assert set(mine.cancel_requests()) == {(jobs[0].n, jobs[0].claim)}


# --- due, expiry --------------------------------------------------------------------------------------------------------


def test_what_is_due_becomes_pending_a_bounded_number_at_a_time(queue, claims, clock):
    """A million that fall due at once must not hold up what is pending already."""
    queue.enqueue_many([Task("t", None, process_in=5)] * (MOST_FORWARDED + 3))
    queue.enqueue(Task("t", None, process_in=6))
    assert claims.next_due() == clock.now + 5
    clock.advance(5)
    with claims.transaction():
        assert [claims.forward_due() for _ in range(3)] == [MOST_FORWARDED, 3, 0]
    assert claims.next_due() == clock.now + 1


def test_nothing_stored_is_nothing_due(claims):
    """No instant to wake up for."""
    assert claims.next_due() == claims.next_expiry() == float("inf")
    assert claims.lanes() == {}


# --- dead workers -------------------------------------------------------------------------------------------------------


def test_a_registered_worker_is_seen_by_the_others(queue, new_claims, clock):
    """By name, host, process and lock; and no more when it has signed out."""
    first, second = new_claims(name="first"), new_claims(name="second")
    (row,) = first.other_workers()
    assert (row.n, row.name, row.lock_file, row.started_at) == (second.worker, "second", "worker-2.lock", clock.now)
    assert [worker.name for worker in Inspector(queue).workers()] == ["first", "second"]
    queue.enqueue_many([Task("t")] * 3)
    claim(second, 2)
    assert [worker.active for worker in Inspector(queue).workers()] == [0, 2]
    second.unregister()
    assert first.other_workers() == []


def test_the_jobs_of_a_dead_worker_are_pending_again(queue, new_claims):
    """No attempt counted, first in line, and with a new claim number."""
    dead, alive = new_claims(), new_claims()
    queue.enqueue_many([Task("t")] * 3)
    jobs = claim(dead, 2)
    assert alive.take_over(dead.worker, frozenset({jobs[0].n}), counts=True) == (2, 0)
    assert alive.other_workers() == []
    again = claim(alive)
    assert [job.n for job in again] == [1, 2, 3]
    assert [job.retry_count for job in again] == [0, 0, 0]
    with alive.reading() as connection:
        deaths = connection.execute("SELECT worker_deaths FROM fireforget_job ORDER BY n").fetchall()
    assert deaths == [(1,), (0,), (0,)]
    assert [job.claim > 1 for job in again[:2]] == [True, True]


def test_the_third_death_under_a_job_archives_it_with_that_reason(queue, new_claims):
    """Only jobs that had started count it; what merely lay in the dead worker's hands goes on."""
    info = queue.enqueue(Task("t", "deadly"), unique_for=600)
    innocent = queue.enqueue(Task("t", "innocent"))
    alive = new_claims(name="alive")
    for death in (1, 2, 3):
        dead = new_claims(name=f"dead-{death}")
        deadly = next(job for job in claim(dead) if job.payload == '"deadly"')
        assert alive.take_over(dead.worker, frozenset({deadly.n}), counts=True) == ((2, 0) if death < 3 else (1, 1))
    archived = queue.get(info.id)
    assert (archived.state, archived.last_error, archived.worker) == ("archived", "its worker died under it 3 times", None)
    assert queue.get(innocent.id).state == "pending"
    queue.enqueue(Task("t", "deadly"), unique_for=600)


def test_a_reboot_is_not_the_jobs_fault(queue, new_claims):
    """Deaths by another start of the machine count nothing, however often."""
    info = queue.enqueue(Task("t"))
    alive = new_claims()
    for _ in range(4):
        dead = new_claims()
        (job,) = claim(dead)
        assert alive.take_over(dead.worker, frozenset({job.n}), counts=False) == (1, 0)
    assert queue.get(info.id).state == "pending"


def test_jobs_of_a_worker_that_nobody_knows_are_found(queue, new_claims):
    """As in a copy of the file."""
    lost, alive = new_claims(), new_claims()
    queue.enqueue_many([Task("t")] * 2)
    claim(lost, 2)
    assert alive.ownerless() == []
    with lost.transaction():
        lost.connection.execute("DELETE FROM fireforget_worker WHERE n = ?", (lost.worker,))
    assert alive.ownerless() == [lost.worker]
    assert alive.take_over(lost.worker, frozenset(), counts=False) == (2, 0)
    assert alive.ownerless() == []


def test_active_jobs_anywhere_hold_up_a_burst_only_if_it_could_run_them(queue, new_claims):
    """Served queue and handled type."""
    claims = new_claims(handles=lambda kind: kind == "t")
    other = new_claims(queues=("default", "low"))
    queue.enqueue_many([Task("foreign"), Task("t", None, queue="low")])
    claim(other, types=("foreign",))
    claim(other, queue="low")
    assert not claims.active_elsewhere()
    queue.enqueue(Task("t"))
    claim(other)
    assert claims.active_elsewhere()


def test_a_worker_stops_when_a_newer_program_migrated_the_file(claims, sql):
    """It would misread it."""
    with claims.transaction():
        claims.check_schema()
    sql("UPDATE fireforget_meta SET value = '2' WHERE key = 'schema_version'")
    with pytest.raises(SchemaTooNew, match="version 2: upgrade this worker"), claims.transaction():
        claims.check_schema()


def test_a_worker_stops_when_another_database_was_written_over_its_file(claims, sql):
    """The file's number is the same, but what a database puts into its ids is not."""
    sql("UPDATE fireforget_meta SET value = 'ffff' WHERE key = 'tag'")
    with pytest.raises(StoreReplaced, match="written over"), claims.transaction():
        claims.check_schema()


@pytest.mark.parametrize("content", [b"garbage!" * 1000, b""], ids=["garbage", "nothing"])
def test_a_file_that_is_no_database_any_more_was_replaced(queue, path, new_claims, content):
    """Opening it would say that it is none; whoever had it open knows that it was one, and must not go on."""
    claims = new_claims()
    queue.close()
    claims.close_thread()
    with open(path, "r+b") as file:
        file.truncate()
        file.write(content)
    with pytest.raises(StoreReplaced, match="written over"), claims.reading() as connection:
        connection.execute(_sql.META).fetchall()
    with pytest.raises(StoreReplaced, match="written over"), claims.transaction():
        claims.check_schema()


# --- what a transaction may cost ------------------------------------------------------------------------------------------


def test_an_outcome_that_cannot_be_stored_harms_no_other(queue, claims):
    """Its job is archived with the reason; the others of the same transaction are settled."""
    ids = [queue.enqueue(Task("t", n), retention=60).id for n in range(3)]
    jobs = claim(claims)
    completed = [(1.0, 2.0, 3.0, "null", None, *fence(claims, job)) for job in jobs]
    completed[1] = (1.0, 2.0, 3.0, object(), None, *fence(claims, jobs[1]))
    assert settle(claims, completed=completed) == 0
    states = [queue.get(job_id) for job_id in ids]
    assert [info.state for info in states] == ["completed", "archived", "completed"]
    assert "cannot be stored" in states[1].last_error


def test_a_transaction_claims_no_more_than_some_mebibytes(queue, claims):
    """A claim writes each payload to the WAL once more: large ones are claimed a few at a time, and none is forgotten."""
    queue.enqueue_many([Task("t", "x" * 900_000) for _ in range(50)])
    sizes = []
    while True:
        with claims.transaction():
            claims.begin_claiming()
            rows = claims.claim("default", ["t"], 100)
        if not rows:
            break
        sizes.append(len(rows))
    assert sum(sizes) == 50
    assert sizes[0] <= 32
    assert max(sizes[1:]) <= 8


@pytest.mark.parametrize("end", ["returned", "archived"])
def test_a_job_that_was_cancelled_under_a_dead_worker_does_not_run_again(queue, new_claims, end):
    """Whoever cancelled it wants it ended; its unique key is free."""
    dead, alive = new_claims(), new_claims()
    job = queue.enqueue(Task("t"), unique_for=60, unique_key="k")
    (row,) = claim(dead)
    Inspector(queue).cancel(job.id)
    alive.take_over(dead.worker, frozenset({row.n}), counts=end == "archived")
    assert queue.get(job.id).state == "cancelled"
    assert claim(alive) == []
    assert queue.enqueue(Task("t"), unique_for=60, unique_key="k").state == "pending"
