"""Idempotent handlers: one run a key, its result for later jobs, and nobody stuck. Kills are in `processes/`."""

import asyncio
import inspect
import logging
import os
import sqlite3
from contextlib import closing

import pytest

from fireforget import InvalidOption, RegistrationError, SkipRetry, SqliteQueue, StoreBusy, StoreError, Task, idempotent
from fireforget import _keys as keys
from fireforget._workers import boot_id
from fireforget.testing import ManualClock, drain


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def queue(drainable):
    return drainable


@pytest.fixture
def file_queue(tmp_path, clock):
    with SqliteQueue(tmp_path / "jobs.db", clock=clock) as queue:
        yield queue


@pytest.fixture
def registry(patient_registry):
    return patient_registry


@pytest.fixture
def charge(registry, done):
    """A handler whose work must not be done twice; it fails as often as `done` begins with errors."""

    @registry.task("order:charge", retention=60)
    @idempotent("order:{order_id}", ttl=3600)
    def charge(order_id: int, amount: float = 1.0) -> dict:
        """Take the money."""
        if done and isinstance(done[0], BaseException):
            raise done.pop(0)
        done.append(order_id)
        return {"charged": amount}

    return charge


def stored(queue):
    with queue._database.use() as connection:
        return connection.execute("SELECT key, owner, result FROM fireforget_idempotency ORDER BY key").fetchall()


def test_the_second_job_gets_the_result_of_the_first_without_a_run(queue, registry, charge, done, clock):
    """For the time that was given; after it the same key is new, and the old one is removed in passing."""
    queue.enqueue(charge.task(7, 2.5))
    queue.enqueue(charge.task(7, 9.9))
    queue.enqueue(charge.task(8))
    runs = drain(queue, registry)
    assert [(run.outcome, run.result) for run in runs] == [
        ("completed", {"charged": 2.5}), ("completed", {"charged": 2.5}), ("completed", {"charged": 1.0}),
    ]  # fmt: skip
    assert done == [7, 8]
    clock.advance(3599)
    queue.enqueue(charge.task(7))
    drain(queue, registry)
    assert done == [7, 8]
    clock.advance(1)
    queue.enqueue(charge.task(7, 3))
    assert [run.result for run in drain(queue, registry)] == [{"charged": 3}]
    assert done == [7, 8, 7]
    assert [key for key, _, _ in stored(queue)] == ["order:7"]


@pytest.mark.parametrize("error", [RuntimeError("down"), SkipRetry("never"), SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_a_run_that_fails_gives_the_key_up(queue, registry, charge, done, clock, error):
    """Its own retry, and the next job, find it free; a failure is never taken for a success."""
    done.append(error)
    queue.enqueue(charge.task(7))
    (run,) = drain(queue, registry)
    assert run.outcome in ("retry", "archived")
    assert (done, stored(queue)) == ([], [])
    queue.enqueue(charge.task(7))
    (run,) = drain(queue, registry)
    assert (run.outcome, done) == ("completed", [7])
    clock.advance(60)
    assert [run.result for run in drain(queue, registry)] == [{"charged": 1.0}] * (not isinstance(error, SkipRetry))
    assert done == [7]


@pytest.mark.parametrize("result", [None, 0, "", [1, {"a": None}], object(), "x" * 2_000_000], ids=lambda value: str(value)[:20])
def test_a_result_comes_back_as_it_would_from_the_store(queue, registry, result, done):
    """One that is not JSON or too large is null, as everywhere, and no reason to run again."""

    @registry.task("t")
    @idempotent("k", 60)
    def handler():
        done.append(1)
        return result

    queue.enqueue_many([handler.task(), handler.task()])
    kept = None if type(result) is object or result == "x" * 2_000_000 else result
    second = drain(queue, registry)[1]
    assert (second.result, len(done)) == (kept, 1)


def test_async_handlers_are_idempotent_too(queue, registry, done, clock):
    """And stay coroutine functions."""

    @registry.task("page:fetch", retention=60)
    @idempotent("{url}", 600)
    async def fetch(url: str) -> str:
        await asyncio.sleep(0)
        done.append(url)
        if len(done) == 1:
            raise ConnectionError
        return url.upper()

    assert fetch.is_async
    queue.enqueue_many([fetch.task("a"), fetch.task("a"), fetch.task("b")])
    assert [run.outcome for run in drain(queue, registry)] == ["retry", "completed", "completed"]
    clock.advance(60)
    assert [run.result for run in drain(queue, registry)] == ["A"]
    assert done == ["a", "a", "b"]
    with pytest.raises(TypeError):
        fetch.task(uri="a")
    assert asyncio.run(fetch("c")) == "C"


def test_without_a_job_the_function_just_runs(charge, done):
    """As in a unit test: no queue is needed, and nothing is remembered."""
    assert charge(7) == charge(7) == {"charged": 1.0}
    assert done == [7, 7]


def test_the_signature_stays_that_of_the_function(charge):
    """It is the schema of the payload."""
    assert str(inspect.signature(charge)) == "(order_id: int, amount: float = 1.0) -> dict"
    assert (charge.__name__, charge.__doc__) == ("charge", "Take the money.")
    with pytest.raises(TypeError, match="order"):
        charge.task(order=7)


def test_keys_of_different_types_are_apart(queue, registry, done):
    """Two subscribers that both go by the user's id do not take each other's place."""
    for name in ("a", "b"):
        registry.task(name)(idempotent("{user_id}", 60)(lambda user_id, name=name: done.append(name)))
    queue.enqueue_many([Task("a", {"user_id": 1}), Task("b", {"user_id": 1}), Task("b", {"user_id": 1})])
    drain(queue, registry)
    assert done == ["a", "b"]


def test_a_key_may_be_computed_and_may_be_none(queue, registry, done):
    """A function of the handler's arguments; None for a call that is to run in any case."""

    def key(user_id, force=False):
        return None if force else f"user-{user_id % 10}"

    @registry.task("t")
    @idempotent(key, 60)
    def handler(user_id, force=False):
        done.append(user_id)

    queue.enqueue_many([handler.task(n) for n in (1, 11, 2)] + [handler.task(1, force=True)] * 2)
    drain(queue, registry)
    assert done == [1, 2, 1, 1]


@pytest.mark.parametrize(
    ("function", "key", "payload", "expected"),
    [
        (lambda a, b=2: None, "{a}-{b}", {"a": 1}, "1-2"),
        (lambda **members: None, "{a[id]}", {"a": {"id": 5}}, "5"),
        (lambda value: None, "v{value}", [1, 2], "v[1, 2]"),
        (lambda: None, "nightly", None, "nightly"),
        (lambda a: None, "{a!r:>5}{{}}", {"a": "x"}, "  'x'{}"),
        (lambda a: None, "{a}", {"a": "\ud800"}, "\\ud800"),
    ],
)
def test_a_template_is_filled_with_the_arguments(queue, registry, function, key, payload, expected):
    """Defaults included, however the payload gives them."""
    registry.task("t")(idempotent(key, 60)(function))
    queue.enqueue(Task("t", payload))
    assert [run.outcome for run in drain(queue, registry)] == ["completed"]
    assert [row[0] for row in stored(queue)] == [expected]


def test_a_key_that_cannot_be_made_archives_the_job(queue, registry, done):
    """No retry would change the payload."""

    @registry.task("a")
    @idempotent("{user[id]}", 60)
    def by_text(user):
        done.append(user)

    @registry.task("b")
    @idempotent(lambda user: user, 60)
    def by_function(user):
        done.append(user)

    queue.enqueue_many([by_text.task({}), by_function.task(5), by_function.task(" ")])
    assert [(run.outcome, type(run.error)) for run in drain(queue, registry)] == [("archived", SkipRetry)] * 3
    assert done == []


def test_misuse_is_said_where_it_is_written(registry):
    """With the argument that was most likely meant."""

    def handler(order_id): ...

    with pytest.raises(InvalidOption, match=r"did you mean \{order_id\}"):
        idempotent("order:{order}", 60)(handler)
    with pytest.raises(InvalidOption, match="its arguments are order_id"):
        idempotent("{}", 60)(handler)
    for key in ("", " ", None, 5, "{order_id"):
        with pytest.raises(InvalidOption, match="key"):
            idempotent(key, 60)(handler)
    for ttl in (0, -1, "60", None):
        with pytest.raises(InvalidOption, match="ttl"):
            idempotent("k", ttl)
    with pytest.raises(InvalidOption, match="on_store_error"):
        idempotent("k", 60, on_store_error="ajar")
    with pytest.raises(RegistrationError, match="below"):
        idempotent("k", 60)(registry.task("t")(handler))
    with pytest.raises(RegistrationError):
        idempotent("k", 60)("handler")


# --- a key in other hands -----------------------------------------------------------------------------------------------


def hold(queue, clock, key="order:7", **options):
    """Take the key as a job that another worker runs, one that lives; return its id."""
    holder = queue.enqueue(Task("elsewhere"), **options)
    with queue._database.use() as connection, connection:
        connection.execute(
            "INSERT INTO fireforget_worker VALUES (99, 'w', 'h', ?, ?, 'none', '{}', 1, 1, 0, '{}', '{}')",
            (os.getpid(), boot_id()),
        )
        connection.execute("UPDATE fireforget_job SET state = 3, worker = 99 WHERE type = 'elsewhere'")
    with keys.changing(queue._database) as connection:
        assert isinstance(keys.take(connection, keys.Key("order:charge", key), holder.id, 3600, clock()), keys.Ours)
    return holder.id


def let_go(queue, state=2):
    with queue._database.use() as connection, connection:
        connection.execute("UPDATE fireforget_job SET state = ?, worker = NULL WHERE type = 'elsewhere'", (state,))


def test_a_job_whose_key_another_one_has_is_postponed_and_costs_no_attempt(queue, registry, charge, done, clock):
    """It looks again soon, and the more seldom the longer the other takes."""
    info = queue.enqueue(charge.task(7), max_retry=0)
    hold(queue, clock)
    waited = []
    for _ in range(8):
        (run,) = drain(queue, registry)
        assert (run.outcome, run.retry_count, run.state) == ("postponed", 0, "retry")
        waited.append((run.next_process_at - clock.now).total_seconds())
        clock.move_to(run.next_process_at)
    assert waited == pytest.approx([0.5, 0.5, 1, 2, 4, 8, 16, 30], abs=0.01)
    let_go(queue, state=6)
    (run,) = drain(queue, registry)
    assert (run.id, run.outcome, done) == (info.id, "completed", [7])


@pytest.mark.parametrize("state", [2, 4, 6, 9])
def test_a_key_whose_job_is_not_active_any_more_is_free(queue, registry, charge, done, clock, state):
    """Its process was killed: it is pending, in retry, archived, cancelled, and nothing of it runs."""
    hold(queue, clock)
    let_go(queue, state)
    queue.enqueue(charge.task(7))
    assert [run.outcome for run in drain(queue, registry)] == ["completed"]
    assert done == [7]


def test_a_key_whose_job_is_gone_is_free(queue, registry, charge, done, clock):
    """Deleted, or completed at the moment of a power cut."""
    hold(queue, clock)
    with queue._database.use() as connection, connection:
        connection.execute("DELETE FROM fireforget_job")
    queue.enqueue(charge.task(7))
    assert [run.outcome for run in drain(queue, registry)] == ["completed"]


def test_a_key_never_expires_under_a_running_job(queue, registry, charge, done, clock):
    """However short the time was that it was to be kept."""
    hold(queue, clock)
    clock.advance(4000)
    queue.enqueue(charge.task(7))
    queue.enqueue(charge.task(8))
    assert [run.outcome for run in drain(queue, registry)] == ["postponed", "completed"]


def test_who_has_lost_a_key_changes_nothing_any_more(queue, clock):
    """A late result is not kept, and the key of the next owner is not given up."""
    holder, key = hold(queue, clock), keys.Key("order:charge", "order:7")
    with keys.changing(queue._database) as connection:
        taken = keys.take(connection, key, holder, 60, clock())
        assert isinstance(taken, keys.Ours), "its own retry gets in"
        assert not keys.keep(connection, key, taken.token + 1, "1", clock() + 60)
        keys.release(connection, key, taken.token + 1)
        assert keys.keep(connection, key, taken.token, "1", clock() + 60)
        assert keys.take(connection, key, holder, 60, clock()) == keys.Done("1")


def test_the_owner_may_have_an_id_of_its_own(queue, registry, charge, clock):
    """Jobs with a `task_id` own keys like any other."""
    hold(queue, clock, task_id="mine")
    queue.enqueue(charge.task(7), task_id="yours")
    assert [(run.id, run.outcome) for run in drain(queue, registry)] == [("yours", "postponed")]


def test_expired_keys_do_not_pile_up(queue, registry, charge, clock):
    """Each call removes more of them than it adds."""
    queue.enqueue_many([charge.task(n) for n in range(5)])
    drain(queue, registry)
    clock.advance(3600)
    queue.enqueue(charge.task(99))
    drain(queue, registry)
    assert [key for key, _, _ in stored(queue)] == ["order:99"]


# --- a store in trouble -------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(file_queue):
    """The table is gone: nothing about keys can be read or written."""
    with file_queue._database.use() as connection:
        connection.execute("DROP TABLE fireforget_idempotency")
    return file_queue


def test_open_runs_the_handler_when_the_store_does_not_answer(broken, registry, charge, done, caplog):
    """The work is worth more than the guard; a WARNING says so."""
    broken.enqueue(charge.task(7))
    with caplog.at_level(logging.WARNING, "fireforget.patterns"):
        assert [run.outcome for run in drain(broken, registry)] == ["completed"]
    (record,) = [record for record in caplog.records if record.name == "fireforget.patterns"]
    assert (done, record.levelname, record.task_type) == ([7], "WARNING", "order:charge")
    assert "fireforget_idempotency" in record.error


def test_closed_fails_the_run_when_the_store_does_not_answer(broken, registry, done):
    """The guard is worth more than the work: it is tried again later."""

    @registry.task("t")
    @idempotent("k", 60, on_store_error="closed")
    def handler():
        done.append(1)

    broken.enqueue(handler.task())
    (run,) = drain(broken, registry)
    assert (run.outcome, done) == ("retry", [])
    assert isinstance(run.error, StoreError)


def test_a_locked_file_is_a_store_error(file_queue, registry, done, monkeypatch):
    """After the patience of any other call."""
    monkeypatch.setattr(keys, "DEFAULT_WAIT", 0.02)

    @registry.task("t")
    @idempotent("k", 60, on_store_error="closed")
    def handler():
        done.append(1)

    def lock(job, call_next):
        with closing(sqlite3.connect(file_queue.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            return call_next()

    registry.use(lock)
    file_queue.enqueue(handler.task())
    (run,) = drain(file_queue, registry)
    assert (type(run.error), done) == (StoreBusy, [])


def test_a_job_that_succeeded_does_not_fail_for_a_key_that_is_not_kept(file_queue, registry, done, caplog):
    """Its work is done: failing it would do it again."""

    @registry.task("t")
    @idempotent("k", 60, on_store_error="closed")
    def handler(fail=False):
        with file_queue._database.use() as connection:
            connection.execute("ALTER TABLE fireforget_idempotency RENAME TO elsewhere")
        done.append(1)
        if fail:
            raise RuntimeError("own")

    file_queue.enqueue(handler.task())
    assert [run.outcome for run in drain(file_queue, registry)] == ["completed"]
    assert [record.levelname for record in caplog.records if record.name == "fireforget.patterns"] == ["ERROR"]
    with file_queue._database.use() as connection:
        connection.execute("ALTER TABLE elsewhere RENAME TO fireforget_idempotency")
    file_queue.enqueue(handler.task(fail=True))
    assert [str(run.error) for run in drain(file_queue, registry)] == ["own"]
