"""Transactional handlers and steps, run by `drain`: the same code as in a worker's child, without the processes."""

import asyncio
import sqlite3
import threading
from contextlib import closing, suppress

import pytest

from fireforget import (
    ClaimLost,
    FireforgetError,
    Inspector,
    InvalidOption,
    RegistrationError,
    Registry,
    RetryLater,
    SkipRetry,
    SqliteQueue,
    StepError,
    Task,
    TaskIDConflict,
    UnknownJob,
    current_job,
    fire_and_forget,
    idempotent,
)
from fireforget._limits import Trimming
from fireforget.errors import RevokeTask
from fireforget.middleware import DEFAULT_CHAIN
from fireforget.testing import RecordingEnqueuer, drain


@pytest.fixture
def queue(tmp_path):
    with SqliteQueue(tmp_path / "shop.db", durability="normal") as queue:
        with closing(sqlite3.connect(queue.path)) as connection, connection:
            connection.execute("CREATE TABLE sale (item TEXT PRIMARY KEY, cents INTEGER)")
        yield queue


@pytest.fixture
def registry():
    return Registry(retry_delay=0)


@pytest.fixture
def sql(queue):
    """Run one statement as another program would."""

    def sql(statement, *parameters):
        with closing(sqlite3.connect(queue.path, timeout=0)) as connection, connection:
            return connection.execute(statement, parameters).fetchall()

    return sql


@pytest.fixture
def run(queue, registry):
    """Register a transactional handler, run it once in a job of its own, and return the run."""

    def run(handler, middleware=(), **options):
        registry.use(*middleware)
        registry.task("sell", transactional=True)(handler)
        queue.enqueue(Task("sell"), **options)
        return drain(queue, registry, max_jobs=1)[0]

    return run


def sell(item="tea", cents=1):
    current_job().connection.execute("INSERT INTO sale VALUES (?, ?)", (item, cents))


# --- the transaction ----------------------------------------------------------------------------------------------------


def test_what_a_handler_writes_and_its_completion_are_one_commit(run, queue, sql):
    """While it runs nobody sees the row and the job is active; then the row is there and the job is gone."""
    seen = []

    def handler():
        assert isinstance(current_job().connection, sqlite3.Connection)
        sell()
        seen.append((sql("SELECT * FROM sale"), [job.state for job in Inspector(queue).tasks()]))

    done = run(handler)
    assert (done.outcome, seen) == ("completed", [([], ["active"])])
    assert sql("SELECT * FROM sale") == [("tea", 1)]
    with pytest.raises(UnknownJob):
        queue.get(done.id)


def test_a_result_is_kept_with_the_retention(run, queue):
    """As for any other job that succeeds: result, instants, and the end of the retention."""

    def handler():
        sell()
        current_job().progress(0.5, "half")
        return {"sold": 1}

    done = run(handler, retention=60)
    info = queue.get(done.id)
    assert (info.state, info.result, info.worker) == ("completed", {"sold": 1}, None)
    assert info.progress.note == "half"
    assert info.started_at <= info.completed_at


def test_a_result_that_was_written_while_it_ran_is_kept(run, queue):
    """`write_result` counts where nothing is returned, also where the transaction itself completes the job."""

    def handler():
        sell()
        current_job().write_result("written")

    assert queue.get(run(handler, retention=60).id).result == "written"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(ValueError("no"), "retry"), (SkipRetry("no"), "archived"), (RetryLater(0), "postponed"), (RevokeTask(), "revoked")],
    ids=lambda value: type(value).__name__,
)
def test_a_handler_that_raises_has_written_nothing(run, sql, error, outcome):
    """Whatever it raises, and the job is settled as it would be otherwise."""

    def handler():
        sell()
        raise error

    assert run(handler).outcome == outcome
    assert sql("SELECT * FROM sale") == []


def test_a_failed_run_leaves_no_trace_in_the_next(run, queue, registry, sql):
    """The retry begins a transaction of its own, and its attempts are gone with the job."""

    def handler():
        sell()
        if current_job().retry_count == 0:
            raise ValueError("not yet")

    job = run(handler)
    assert [again.outcome for again in drain(queue, registry)] == ["completed"]
    assert sql("SELECT * FROM sale") == [("tea", 1)]
    assert sql("SELECT count(*) FROM fireforget_attempt") == [(0,)]
    with pytest.raises(UnknownJob):
        queue.get(job.id)


@pytest.mark.parametrize(
    "end",
    [
        lambda connection: connection.commit(),
        lambda connection: connection.rollback(),
        lambda connection: connection.executescript("SELECT 1"),
        lambda connection: connection.execute("COMMIT"),
        lambda connection: connection.execute("/* hidden */ END TRANSACTION"),
        lambda connection: connection.execute("ROLLBACK"),
        lambda connection: connection.execute("BEGIN"),
        lambda connection: connection.cursor().execute("COMMIT"),
        lambda connection: setattr(connection, "isolation_level", None),
        lambda connection: connection.set_authorizer(None),
        lambda connection: connection.close(),
        lambda connection: connection.__enter__(),
    ],
)
def test_a_handler_cannot_end_its_transaction(run, sql, end):
    """In no way that there is to say it: the job fails, and nothing is written."""

    def handler():
        sell()
        end(current_job().connection)

    done = run(handler)
    assert isinstance(done.error, sqlite3.DatabaseError)
    assert sql("SELECT * FROM sale") == []


def test_a_handler_that_catches_the_refusal_goes_on(run, sql):
    """Its transaction is still whole, and so is the connection for the next job."""

    def handler():
        sell()
        for refused in ("commit", "rollback", "close"):
            with pytest.raises(sqlite3.ProgrammingError, match="not for a transactional handler"):
                getattr(current_job().connection, refused)()

    assert run(handler).outcome == "completed"
    assert sql("SELECT * FROM sale") == [("tea", 1)]


@pytest.mark.parametrize("statement", ["INSERT OR ROLLBACK INTO sale VALUES ('tea', 2)"])
def test_nothing_is_written_after_a_statement_has_ended_the_transaction(run, sql, statement):
    """SQLite rolls back by itself where a statement says so; what follows would be committed one by one, and is refused."""

    def handler():
        sell()
        connection = current_job().connection
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)
        with pytest.raises(FireforgetError, match="ended by a statement of its own"):
            connection.cursor().execute("INSERT INTO sale VALUES ('milk', 3)")
        with pytest.raises(FireforgetError, match="ended by a statement of its own"):
            sell()

    done = run(handler)
    assert "ended by a statement of its own" in str(done.error)
    assert sql("SELECT * FROM sale") == []


def test_a_savepoint_undoes_a_part(run, sql):
    """What was written before it and after it stays; they nest."""

    def handler():
        sell("tea")
        with pytest.raises(ValueError, match="no"), current_job().savepoint() as connection:
            connection.execute("INSERT INTO sale VALUES ('milk', 2)")
            raise ValueError("no")
        with current_job().savepoint():
            sell("bread")
            with pytest.raises(ValueError, match="no"), current_job().savepoint():
                sell("salt")
                raise ValueError("no")
        sell("rice")

    assert run(handler).outcome == "completed"
    assert sql("SELECT item FROM sale ORDER BY item") == [("bread",), ("rice",), ("tea",)]


def test_a_commit_that_fails_fails_the_run(run, sql, registry):
    """A constraint that is checked at the commit: the job is not done, and its log does not say so."""
    sql("CREATE TABLE line (sale TEXT REFERENCES sale DEFERRABLE INITIALLY DEFERRED)")

    def handler():
        connection = current_job().connection
        connection.execute("PRAGMA defer_foreign_keys = ON")
        connection.execute("CREATE TRIGGER no_more AFTER INSERT ON line BEGIN SELECT RAISE(ABORT, 'no more'); END")
        sell()
        connection.execute("INSERT INTO line VALUES ('nothing')")

    done = run(handler)
    assert (done.outcome, type(done.error)) == ("retry", sqlite3.IntegrityError)
    assert sql("SELECT * FROM sale") == []


def test_a_handler_that_never_uses_its_connection_is_settled_like_any_other(run, queue):
    """It costs no transaction of its own."""
    done = run(lambda: "nothing written", retention=60)
    assert (done.outcome, queue.get(done.id).result) == ("completed", "nothing written")


def test_the_next_handler_finds_the_connection_as_new(queue, registry):
    """The connection is kept between jobs; what one has made of it is undone for the next."""
    seen = []

    @registry.task("odd", transactional=True)
    def odd():
        connection = current_job().connection
        seen.append(connection.execute("SELECT 'text'").fetchone())
        connection.row_factory, connection.text_factory = sqlite3.Row, bytes
        current_job().step("of its own", lambda: 1)
        queue.enqueue_many([Task("other"), Task("other")])
        return "done"

    ids = [queue.enqueue(odd.task(), retention=60).id for _ in range(2)]
    drain(queue, registry)
    assert seen == [("text",)] * 2
    assert [queue.get(job).result for job in ids] == ["done"] * 2


def test_a_job_that_was_given_to_another_has_written_nothing(run, queue, sql):
    """The fence is in the transaction itself: the late run is rolled back as a whole."""

    def handler():
        sql("UPDATE fireforget_job SET claim = claim + 1")
        sell()

    done = run(handler)
    assert isinstance(done.error, ClaimLost)
    assert sql("SELECT * FROM sale") == []
    assert queue.get(done.id).last_error is None


def test_middleware_of_the_application_can_still_fail_the_run(run, sql):
    """What it raises after the handler undoes what the handler has written."""

    def audit(job, call_next):
        call_next()
        job.connection.execute("INSERT INTO sale VALUES ('audit', 0)")
        raise ValueError("audit failed")

    assert run(sell, middleware=[audit]).outcome == "retry"
    assert sql("SELECT * FROM sale") == []


def test_the_result_of_middleware_is_what_is_stored(run, queue, sql):
    """It may also write in the same transaction."""

    def audit(job, call_next):
        result = call_next()
        job.connection.execute("INSERT INTO sale VALUES ('audit', 0)")
        return {"result": result}

    done = run(sell, middleware=[audit], retention=60)
    assert queue.get(done.id).result == {"result": None}
    assert sql("SELECT item FROM sale ORDER BY item") == [("audit",), ("tea",)]


def test_an_error_after_the_commit_does_not_undo_the_job(queue, sql):
    """Middleware outside of what is built in may raise too late: the job is done, and is not run again."""

    def too_late(job, call_next):
        call_next()
        raise ValueError("too late")

    registry = Registry(retry_delay=0, middleware=[too_late, *DEFAULT_CHAIN])
    registry.task("sell", transactional=True)(sell)
    job = queue.enqueue(Task("sell"), retention=60)
    assert [run.outcome for run in drain(queue, registry)] == ["completed"]
    assert (queue.get(job.id).state, sql("SELECT * FROM sale")) == ("completed", [("tea", 1)])


# --- where it can be used -----------------------------------------------------------------------------------------------


def test_other_handlers_have_no_connection(queue, registry):
    """The error says what to do."""

    @registry.task("plain")
    def plain():
        current_job().connection  # noqa: B018

    queue.enqueue(plain.task())
    (done,) = drain(queue, registry, max_jobs=1)
    assert "transactional=True" in str(done.error)


def test_the_connection_is_for_the_handlers_own_thread(run):
    """A transaction that two threads write to is nobody's."""
    errors = []

    def elsewhere(job):
        try:
            job.connection  # noqa: B018
        except FireforgetError as error:
            errors.append(str(error))

    def handler():
        thread = threading.Thread(target=elsewhere, args=(current_job(),))
        thread.start()
        thread.join()

    assert run(handler).outcome == "completed"
    assert "own thread" in errors[0]


def test_a_job_that_is_kept_too_long_writes_nothing(run):
    """After the run the connection is another job's."""
    kept = []

    def handler():
        sell()
        kept.append(current_job())

    run(handler)
    with pytest.raises(FireforgetError, match="over"):
        kept[0].connection  # noqa: B018
    with pytest.raises(FireforgetError, match="over"):
        kept[0].step("late", int)


def test_async_handlers_cannot_be_transactional(registry):
    """A transaction that stays open while a coroutine awaits would hold up everybody."""

    async def handler(): ...

    with pytest.raises(RegistrationError, match="async"):
        registry.task("sell", transactional=True)(handler)


@pytest.mark.parametrize(
    "options",
    [{"transactional": 1}, {"transaction_timeout": 5}, {"transactional": True, "transaction_timeout": 0}],
)
def test_options_that_cannot_be_are_refused_at_once(registry, options):
    """With the value and the remedy."""
    with pytest.raises(InvalidOption, match="transaction"):
        registry.task("sell", **options)


def test_the_limit_is_a_second_unless_the_handler_says_otherwise(registry):
    """None: it is not transactional."""
    assert registry.task("a", transactional=True)(lambda: None).transaction_timeout == 1
    assert registry.task("b", transactional=True, transaction_timeout=0.2)(lambda: None).transaction_timeout == 0.2
    assert registry.task("c")(lambda: None).transaction_timeout is None


def test_a_recording_enqueuer_has_no_file_for_it(registry):
    """The error says what to use instead; steps need no file."""
    registry.task("sell", transactional=True)(sell)
    called = []

    @registry.task("steps")
    def steps():
        job = current_job()
        job.step("once", called.append, job.retry_count)
        if job.retry_count == 0:
            raise ValueError("again")

    recorder = RecordingEnqueuer()
    recorder.enqueue(Task("sell"), max_retry=0)
    recorder.enqueue(steps.task())
    error = next(run.error for run in drain(recorder, registry) if run.type == "sell")
    assert "drain a SqliteQueue" in str(error)
    assert called == [0]


# --- enqueue inside it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [True, False])
def test_what_it_enqueues_exists_exactly_if_it_commits(run, queue, fails):
    """One or many, without a word about connections; another object of the same file does the same."""

    def handler():
        queue.enqueue(Task("one"))
        with SqliteQueue(queue.path) as same:
            assert len(same.enqueue_many([Task("two"), Task("three")])) == 2
        if fails:
            raise SkipRetry("no")

    run(handler)
    left = {job.type for job in Inspector(queue).tasks()}
    assert left == ({"sell"} if fails else {"one", "two", "three"})


def test_an_id_that_is_taken_fails_the_call_and_not_the_transaction(run, queue, sql):
    """The handler may catch it and go on; so with a batch, of which nothing stays."""
    queue.enqueue(Task("first"), task_id="taken")

    def handler():
        sell()
        with pytest.raises(TaskIDConflict):
            queue.enqueue(Task("second"), task_id="taken")
        with pytest.raises(TaskIDConflict):
            queue.enqueue_many([Task("third"), Task("fourth", task_id="taken")])
        queue.enqueue(Task("fifth"), unique_for=60)

    assert run(handler).outcome == "completed"
    assert sql("SELECT * FROM sale") == [("tea", 1)]
    assert sorted(job.type for job in Inspector(queue).tasks()) == ["fifth", "first"]


def test_another_queue_is_another_file(run, tmp_path):
    """What is enqueued there is stored at once, whatever becomes of the handler."""
    with SqliteQueue(tmp_path / "other.db", durability="normal") as other:

        def handler():
            other.enqueue(Task("elsewhere"))
            raise SkipRetry("no")

        run(handler)
        assert [job.type for job in Inspector(other).tasks()] == ["elsewhere"]


@pytest.mark.parametrize("fails", [True, False])
def test_the_key_of_an_idempotent_handler_is_part_of_it(run, queue, registry, sql, fails):
    """Taken and kept in the handler's own transaction, so that it is there exactly if what it stands for is done."""

    @idempotent("tea", ttl=60)
    def handler():
        sell()
        if fails:
            raise SkipRetry("no")

    run(handler)
    kept = sql("SELECT owner FROM fireforget_idempotency")
    assert (kept, len(sql("SELECT * FROM sale"))) == (([], 0) if fails else ([(None,)], 1))
    queue.enqueue(Task("sell"))
    assert drain(queue, registry)[0].outcome == ("archived" if fails else "completed")
    assert len(sql("SELECT * FROM sale")) == (0 if fails else 1)


def test_fire_and_forget_is_no_part_of_it(run, queue):
    """It arrives whatever becomes of the handler: who fires and forgets has asked for no more."""

    def handler():
        sell()
        fire_and_forget(queue, Task("stray"), queue="default")
        raise SkipRetry("no")

    run(handler)
    assert {job.type for job in Inspector(queue).tasks()} == {"sell", "stray"}


# --- steps --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def steps(queue, registry):
    """Register a handler of steps, and return what runs it until nothing is due."""

    def steps(handler, **options):
        registry.task("steps", retention=60)(handler)
        return queue.enqueue(registry.match("steps").task(), **options), lambda: drain(queue, registry)

    return steps


def test_a_step_is_called_once_for_a_job(steps, queue):
    """A later run gets what was stored, and goes on at the next one."""
    called = []

    def handler():
        job = current_job()
        first = job.step("first", lambda x, y: called.append("first") or [x, y], 1, y=2)
        if job.retry_count < 2:
            raise ValueError("not yet")
        return job.step("second", lambda: called.append("second") or {"first": first})

    job, run = steps(handler)
    assert [each.outcome for each in run()] == ["retry", "retry", "completed"]
    assert called == ["first", "second"]
    assert queue.get(job.id).result == {"first": [1, 2]}
    found = Inspector(queue).steps(job.id)
    assert [(step.name, step.result) for step in found] == [("first", [1, 2]), ("second", {"first": [1, 2]})]
    assert found[0].stored_at <= found[1].stored_at


def test_a_step_returns_the_same_in_every_run(steps, queue):
    """What JSON makes of it: a handler must not find a tuple in one run and a list in the next. None is a result too."""
    seen = []

    def handler():
        job = current_job()
        seen.append((job.step("tuple", lambda: (1, 2)), job.step("none", lambda: None)))
        if job.retry_count == 0:
            raise ValueError("again")

    _, run = steps(handler)
    run()
    assert seen == [([1, 2], None)] * 2


def test_a_step_that_raises_is_called_again(steps):
    """In the next run, or in the same one where the handler catches it."""
    called = []

    def flaky():
        called.append(1)
        if len(called) < 3:
            raise OSError("flaky")

    def handler():
        try:
            current_job().step("flaky", flaky)
        except OSError:
            current_job().step("flaky", flaky)

    _, run = steps(handler)
    assert [each.outcome for each in run()] == ["retry", "completed"]
    assert len(called) == 3


def test_a_name_that_is_used_twice_in_a_run_is_an_error(steps, queue):
    """Also where the first one was stored by an earlier run: a loop that forgets to number its steps is found at once."""

    def handler():
        for _ in range(2):
            current_job().step("again", lambda: None)

    job, run = steps(handler, max_retry=1)
    assert [each.outcome for each in run()] == ["retry", "archived"]
    assert "step 'again': this name was used in this run already" in queue.get(job.id).last_error


@pytest.mark.parametrize(
    ("result", "problem"),
    [(object(), "not JSON"), ({1: 2}, "not text"), (float("nan"), "not JSON"), ("x" * (1024 * 1024), "1048578 bytes")],
    ids=["object", "key", "nan", "large"],
)
def test_a_result_that_cannot_be_stored_is_an_error(steps, queue, result, problem):
    """Named, with what to do; nothing is stored."""

    def handler():
        with pytest.raises(StepError, match=problem) as caught:
            current_job().step("odd", lambda: result)
        assert caught.value.step == "odd"

    job, run = steps(handler)
    assert [each.outcome for each in run()] == ["completed"]
    assert Inspector(queue).steps(job.id) == []


@pytest.mark.parametrize("name", ["", " ", None, 7, "x" * 600])
def test_a_step_has_a_name(steps, name):
    """Text that says something."""

    def handler():
        with pytest.raises(StepError, match="name"):
            current_job().step(name, int)

    assert [each.outcome for each in steps(handler)[1]()] == ["completed"]


def test_steps_of_async_handlers_are_awaited(queue, registry):
    """Where the function is async; a plain one returns its result. A retry gets both without a call."""
    called = []

    async def fetch(page):
        await asyncio.sleep(0)
        called.append(page)
        return page * 10

    @registry.task("pages", retention=60)
    async def pages():
        job = current_job()
        fetched = await asyncio.gather(*(job.step(f"page:{n}", fetch, n) for n in (1, 2)))
        total = job.step("total", sum, fetched)
        if job.retry_count == 0:
            raise ValueError("again")
        return total

    job = queue.enqueue(pages.task())
    assert [run.outcome for run in drain(queue, registry)] == ["retry", "completed"]
    assert (sorted(called), queue.get(job.id).result) == ([1, 2], 30)


@pytest.mark.filterwarnings("error")
def test_a_coroutine_is_no_result(steps):
    """A lambda around an async function is not seen to be one: the error says so, and nothing warns."""

    async def fetch(page): ...

    def handler():
        with pytest.raises(StepError, match="coroutine"):
            current_job().step("wrapped", lambda: fetch(1))

    assert [each.outcome for each in steps(handler)[1]()] == ["completed"]


def test_steps_of_a_transactional_handler_are_part_of_its_transaction(run, queue, registry):
    """Stored if it commits, else called again."""
    called = []

    def handler():
        current_job().step("once", called.append, 1)
        sell()
        if current_job().retry_count == 0:
            raise ValueError("again")

    job = run(handler, retention=60)
    assert Inspector(queue).steps(job.id) == []
    drain(queue, registry)
    assert called == [1, 1]
    assert [step.name for step in Inspector(queue).steps(job.id)] == ["once"]


def test_a_late_run_stores_no_step(steps, sql):
    """The job was given to another worker: the step is not its to store."""

    def handler():
        sql("UPDATE fireforget_job SET claim = claim + 1")
        current_job().step("late", int)

    (done,) = steps(handler)[1]()
    assert isinstance(done.error, ClaimLost)
    assert sql("SELECT * FROM fireforget_step") == []


@pytest.mark.parametrize(
    "way", ["success", "success of a retry", "revoked", "delete", "delete_all", "expiry", "delete_queue", "trimming"]
)
def test_steps_go_with_their_job(queue, registry, sql, way):
    """By whatever way it is removed."""

    @registry.task("steps", retention=60 if way == "expiry" else 0)
    def steps():
        job = current_job()
        job.step("first", lambda: 1)
        if way == "success of a retry" and job.retry_count == 0:
            raise RetryLater(0)
        if way == "success of a retry":
            return
        if way.startswith("delete") or way == "trimming":
            raise SkipRetry("no")
        if way == "revoked":
            raise RevokeTask

    job = queue.enqueue(steps.task())
    drain(queue, registry, max_jobs=1)
    if way in ("success of a retry", "expiry") or way.startswith("delete"):
        assert sql("SELECT name FROM fireforget_step") == [("first",)]
    if way == "success of a retry":
        registry._definitions.clear()
        registry.task("steps")(lambda: None)  # a new version of the handler that has no steps
        drain(queue, registry)
    elif way == "delete":
        Inspector(queue).delete(job.id)
    elif way == "delete_all":
        assert Inspector(queue).delete_all("archived") == 1
    elif way == "delete_queue":
        Inspector(queue).delete_queue("default", force=True)
    elif way == "trimming":
        Inspector(queue).set_limits("default", archived_max=0)
        Trimming(queue._database, queue._clock).step()
    elif way == "expiry":
        sql("UPDATE fireforget_job SET expires_at = 1")
        drain(queue, registry)
    assert sql("SELECT * FROM fireforget_step") == []
    with pytest.raises(UnknownJob):
        queue.get(job.id)


@pytest.mark.parametrize("many", [False, True])
def test_an_archived_job_that_is_run_again_goes_on_and_a_completed_one_begins_anew(queue, registry, many):
    """A person who has mended what broke does not want it all done again; who runs what is done, does."""
    called = []

    @registry.task("steps", retention=60)
    def steps():
        current_job().step("first", called.append, 1)
        if len(called) == 1 and not mended:
            raise SkipRetry("broken")

    mended = []
    inspector = Inspector(queue)

    def run_again(job, state):
        if many:
            assert inspector.run_all(state) == 1
        else:
            inspector.run(job)
        return [run.outcome for run in drain(queue, registry)]

    job = queue.enqueue(steps.task()).id
    drain(queue, registry)
    mended.append(True)
    assert run_again(job, "archived") == ["completed"]
    assert called == [1]
    assert run_again(job, "completed") == ["completed"]
    assert called == [1, 1]


@pytest.mark.parametrize(
    "statement", ["WITH x(v) AS (VALUES (5)) INSERT INTO sale SELECT 'paid', v FROM x", "CREATE TABLE paid AS SELECT 1"]
)
def test_nothing_is_written_behind_a_transaction_that_a_conflict_has_ended(queue, run, sql, statement):
    """INSERT OR ROLLBACK ends it; in autocommit the next statement would be there for good, once for each attempt."""
    sql("INSERT INTO sale VALUES ('seed', 1)")

    def sell():
        connection = current_job().connection
        with suppress(sqlite3.IntegrityError):
            connection.execute("INSERT OR ROLLBACK INTO sale VALUES ('seed', 2)")
        connection.execute(statement)

    assert "ended by a statement of its own" in run(sell).last_error
    assert sql("SELECT * FROM sale") == [("seed", 1)]
    assert sql("SELECT count(*) FROM sqlite_master WHERE name = 'paid'") == [(0,)]


@pytest.mark.parametrize(
    "what", ["PRAGMA query_only = 1", "PRAGMA locking_mode = EXCLUSIVE", "progress", "ATTACH ':memory:' AS other"]
)
def test_what_a_handler_sets_on_its_connection_is_gone_for_the_next_one(queue, registry, sql, what):
    """Else jobs of other types would pay for it, for as long as the child lives."""

    @registry.task("sets", transactional=True, max_retry=0)
    def sets():
        connection = current_job().connection
        if what == "progress":
            connection.set_progress_handler(lambda: 1, 1)
        else:
            connection.execute(what)

    @registry.task("sells", transactional=True, max_retry=0)
    def sells():
        current_job().connection.execute("INSERT INTO sale VALUES ('bread', 3)")

    for type in ("sets", "sells"):
        queue.enqueue(Task(type))
        drain(queue, registry)
    assert sql("SELECT * FROM sale") == [("bread", 3)]
