"""What handlers can rely on: their arguments, their job, their results, and what becomes of what they raise."""

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from fireforget import Inspector

APP = """
@registry.task("args:named")
def named(a, b=2, *, c=3):
    return [a, b, c]

@registry.task("args:none")
def none():
    return "called with nothing"

@registry.task("args:one")
def one(value):
    return {"got": value}

@registry.task("args:any")
def anything(*args, **kwargs):
    return [list(args), kwargs]

@registry.task("fan:")
def short_prefix(**payload):
    return ["fan:", current_job().type, current_job().pattern]

@registry.task("fan:user:")
def long_prefix(**payload):
    return ["fan:user:", current_job().type, current_job().pattern]

@registry.task("fan:user:exact")
def exact(**payload):
    return ["exact", current_job().type, current_job().pattern]

@registry.task("typed")
def typed(to: str):
    raise TypeError("inside the handler")

@registry.task("me", queue="critical", retention=60, max_retry=7, timeout=33)
def me(x):
    job = current_job()
    return dict(id=job.id, type=job.type, queue=job.queue, retry_count=job.retry_count, max_retry=job.max_retry,
                timeout=job.timeout, deadline=job.deadline and job.deadline.isoformat(), headers=job.headers, payload=job.payload,
                cancelled=job.cancelled, pattern=job.pattern, wait=job.wait, started_at=job.started_at)

@registry.task("writes")
def writes():
    current_job().write_result({"so": "far"})
    current_job().progress(0.5, "half way")
    say("written")
    hold("writes")

@registry.task("writes:and:returns")
def writes_and_returns():
    current_job().write_result("first")
    return "last"

@registry.task("writes:then:fails")
def writes_then_fails():
    current_job().write_result({"partial": 1})
    raise ValueError("after all")

@registry.task("bad:write")
def bad_write():
    current_job().write_result({1, 2})
    try:
        current_job().progress(2)
    except InvalidOption as error:
        return [str(error)[:20]]

@registry.task("returns:object")
def returns_object():
    return object()

@registry.task("returns:nan")
def returns_nan():
    return float("nan")

@registry.task("returns:large")
def returns_large():
    return "x" * (1024 * 1024)

@registry.task("returns:largest")
def returns_largest():
    return "x" * (1024 * 1024 - 2)

@registry.task("returns:object:unkept")
def returns_object_unkept():
    return object()

@registry.task("skip")
def skip():
    raise SkipRetry("no use")

@registry.task("revoke")
def revoke():
    say("revoking")
    raise RevokeTask("pointless")

@registry.task("later")
def later(file):
    path = os.path.join(HERE, file)
    with open(path, "a") as lines:
        lines.write(f"{current_job().retry_count}\\n")
    if len(open(path).readlines()) < 3:
        raise RetryLater(0.01, "not yet")
    return open(path).read().split()

@registry.task("later:far")
def later_far():
    raise RetryLater(3600, "tomorrow")

@registry.task("fails")
def fails():
    def inner():
        raise ValueError(f"attempt {current_job().retry_count}")
    inner()

@registry.task("fails:then:works")
def fails_then_works():
    if current_job().retry_count < 2:
        raise ValueError("not yet")
    return current_job().retry_count

@registry.task("fails:then:works:unkept")
def fails_then_works_unkept():
    if current_job().retry_count < 1:
        raise ValueError("not yet")

@registry.task("delay:seconds", max_retry=1, retry_delay=120)
def delay_seconds():
    raise ValueError

@registry.task("delay:function", max_retry=9, retry_delay=lambda n, error: 1000 * (n + 1) + len(str(error)))
def delay_function():
    raise ValueError("abc")

def broken_policy(n, error):
    raise RuntimeError("no policy")

@registry.task("delay:broken", max_retry=9, retry_delay=broken_policy)
def delay_broken():
    raise ValueError

@registry.task("delay:nonsense", max_retry=9, retry_delay=lambda n, error: "soon")
def delay_nonsense():
    raise ValueError

@registry.task("delay:killed", max_retry=9, retry_delay=lambda n, error: 500 if isinstance(error, ChildDied) else 1)
def delay_killed():
    os._exit(3)

@registry.task("exits")
def exits(how):
    if how == "sys.exit":
        sys.exit(7)
    raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt, "GeneratorExit": GeneratorExit,
           "BaseException": BaseException}[how]("stop it")

class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")
    __repr__ = __str__

@registry.task("unprintable")
def unprintable():
    raise Unprintable

@registry.task("surrogate")
def surrogate(where):
    text = "bad \\udcff name"
    job = current_job()
    if where == "error":
        raise ValueError(text)
    if where == "later" and not os.path.exists(os.path.join(HERE, "later")):
        open(os.path.join(HERE, "later"), "w").close()
        raise RetryLater(0, text)
    if where == "note":
        job.progress(0.25, text)
    if where == "written":
        job.write_result(text)
    return text if where == "result" else None

@registry.task("nul")
def nul():
    raise ValueError("before\\0after")

@registry.task("long:error")
def long_error():
    raise ValueError("x" * 100_000)

@registry.task("deep")
def deep():
    def again(n):
        return again(n + 1)
    again(0)

@registry.task("ok")
def ok():
    return "ok"

@registry.task("async:ok")
async def async_ok(value):
    await asyncio.sleep(0.001)
    return [value, current_job().type]

@registry.task("async:fails")
async def async_fails():
    await asyncio.sleep(0)
    raise LookupError("in a coroutine")

class Callable_:
    def __call__(self, x):
        return x * 2

registry.task("callable", retention=60)(Callable_())

queue = SqliteQueue(os.path.join(HERE, "jobs.db"))

@registry.task("enqueues")
def enqueues():
    return queue.enqueue(ok.task(), retention=60).id

@registry.task("fires")
def fires(n):
    for _ in range(n):
        fire_and_forget(queue, Task("ok"), queue="unserved")

@registry.task("spawns")
def spawns():
    program = "import signal, sys; sys.exit(signal.getsignal(signal.SIGINT) is not signal.default_int_handler)"
    quiet = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGTSTP", "SIGHUP")]
    ignored = "import signal, sys; print([s for s in map(int, sys.argv[1:]) if signal.getsignal(s) is signal.SIG_IGN])"
    deaf = subprocess.run([sys.executable, "-c", ignored, *map(str, map(int, quiet))], capture_output=True, text=True)
    masked = subprocess.run([sys.executable, "-c", "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"],
                            capture_output=True, text=True)
    return [subprocess.run([sys.executable, "-c", program]).returncode, deaf.stdout.strip(), masked.stdout.strip()]

@registry.task("stderr")
def prints():
    print("printed by a handler", flush=True)
    import logging
    logging.getLogger("mine").warning("logged by a handler")
    return "ok"
"""


@pytest.fixture(scope="module")
def site(make_site):
    site = make_site()
    site.app(APP)
    site.worker_process = site.worker("--concurrency", 2)
    return site


@pytest.fixture
def worker(site):
    """The worker that all tests here share; after each it must be alive and well."""
    if not site.worker_process.running:  # a test before has brought it down, and has failed
        site.worker_process = site.worker("--concurrency", 2)
    yield site.worker_process
    assert site.worker_process.running, site.worker_process.log[-4000:]
    assert site.result("ok").result == "ok"


# --- arguments ----------------------------------------------------------------------------------------------------------


def test_an_objects_members_are_keyword_arguments(site, worker):
    """The payload's members are the arguments; what is left out has its default."""
    assert site.result("args:named", {"a": 1}).result == [1, 2, 3]
    assert site.result("args:named", {"a": "x", "c": None, "b": [1]}).result == ["x", [1], None]


@pytest.mark.parametrize("payload", [None, {}])
def test_a_null_payload_is_no_arguments(site, worker, payload):
    """A null payload and an empty object both call the handler with nothing."""
    assert site.result("args:none", payload).result == "called with nothing"
    assert site.result("args:any", payload).result == [[], {}]


@pytest.mark.parametrize("payload", [5, "text", [1, 2], True, 0, "", []])
def test_anything_else_is_the_single_positional_argument(site, worker, payload):
    """A list is one argument, not many."""
    assert site.result("args:one", payload).result == {"got": payload}
    assert site.result("args:any", payload).result == [[payload], {}]


def test_the_longest_prefix_handles_what_has_no_exact_handler(site, worker):
    """Exact first, then the longest registered prefix; the job keeps its own type."""
    assert site.result("fan:x").result == ["fan:", "fan:x", "fan:"]
    assert site.result("fan:user:x").result == ["fan:user:", "fan:user:x", "fan:user:"]
    assert site.result("fan:user:exact").result == ["exact", "fan:user:exact", "fan:user:exact"]


@pytest.mark.parametrize(
    ("type", "payload", "reason"),
    [
        ("args:named", {}, "missing a required argument: 'a'"),
        ("args:named", {"a": 1, "zzz": 2}, "unexpected keyword argument 'zzz'"),
        ("args:none", 5, "too many positional arguments"),
        ("args:none", {"x": 1}, "unexpected keyword argument 'x'"),
    ],
)
def test_a_payload_that_does_not_fit_is_archived_without_a_retry(site, worker, type, payload, reason):
    """No retry would change it, and the reason names the signature and the argument."""
    info = site.result(type, payload)
    assert (info.state, info.retry_count) == ("archived", 0)
    assert reason in info.last_error and type in info.last_error
    assert len(Inspector(site.queue).attempts(info.id)) == 1
    assert worker.wait_record("task failed", task_id=info.id)["success"] is False


def test_a_type_error_inside_a_handler_is_retried_like_any_other(site, worker):
    """Only the call itself is judged by the signature, not what the handler does."""
    info = site.result("typed", {"to": "a"}, max_retry=3)
    assert (info.state, info.retry_count, info.last_error) == ("archived", 3, "TypeError: inside the handler")


def test_a_type_without_a_handler_stays_pending(site, worker):
    """A worker claims only what it can run."""
    job = site.enqueue("nobody:home")
    site.result("ok")
    assert site.queue.get(job).state == "pending"
    site.sql("DELETE FROM fireforget_job WHERE type = 'nobody:home'")


# --- rows that other programs wrote -------------------------------------------------------------------------------------


def insert(site, **columns):
    """Insert a row as another program would, and return the job's id."""
    columns.setdefault("task_id", f"foreign-{datetime.now().timestamp()}")
    names = ", ".join(columns)
    site.sql(f"INSERT INTO fireforget_enqueue ({names}) VALUES ({', '.join('?' * len(columns))})", tuple(columns.values()))
    return columns["task_id"]


@pytest.mark.parametrize(
    "payload", ["{nonsense", "", "{'a': 1}", b"\x00\xff", b'{"a": 1}x', "[" * 100_000, '{"a": NaN', "nul\0l"]
)
def test_a_stored_payload_that_is_not_json_is_archived(site, worker, payload):
    """What a foreign program stored wrong fails once, with the reason, and disturbs nobody."""
    info = site.finished(insert(site, type="args:named", payload=payload, retention=60))
    assert info.state == "archived"
    assert info.retry_count == 0
    assert "payload" in info.last_error


def test_a_payload_stored_as_a_blob_of_json_fails_or_runs_but_never_more(site, worker):
    """Shells and languages confuse text and bytes; either outcome is fine, a loop is not."""
    info = site.finished(insert(site, type="args:named", payload=b'{"a": 1}', retention=60))
    assert (info.state, info.result) in (("completed", [1, 2, 3]), ("archived", None))


def test_text_that_is_not_utf_8_does_not_stop_the_worker(site, worker):
    """A payload, headers or an id in Latin-1 are somebody else's mistake; the job ends, and others run."""
    for column, value in (("payload", "CAST(x'7B2261223A2022FF227D' AS TEXT)"), ("headers", "CAST(x'7BFF7D' AS TEXT)")):
        other = "payload" if column == "headers" else "headers"
        default = "NULL" if other == "headers" else "'{\"a\": 1}'"
        site.sql(
            f"INSERT INTO fireforget_enqueue (type, task_id, retention, {column}, {other}) "
            f"VALUES ('args:named', 'latin-{column}', 60, {value}, {default})"
        )
        site.eventually(
            lambda column=column: (
                site.sql("SELECT state FROM fireforget_jobs WHERE id = ?", (f"latin-{column}",))[0][0]
                in ("completed", "archived")
            )
        )
        site.sql("DELETE FROM fireforget_job WHERE task_id = ?", (f"latin-{column}",))


@pytest.mark.parametrize("headers", ["nonsense", "[1]", "5", '{"a": 1, "b": "text"}', b"\xff\x00", "", '"x"'])
def test_headers_that_are_garbage_do_not_stop_a_job(site, worker, headers):
    """Headers are for traces; what is not an object of text is read as none, also where it was written into the table itself."""
    job = insert(site, type="me", payload='{"x": 1}', retention=60, process_at=4e9)
    site.sql("UPDATE fireforget_job SET headers = ?, state = 2, due = enqueued_at WHERE type = 'me'", (headers,))
    info = site.finished(job)
    assert info.state == "completed", info
    assert info.result["headers"] == ({"b": "text"} if isinstance(headers, str) and headers.startswith("{") else {})


@pytest.mark.parametrize(
    "columns",
    [
        {"deadline": 1e300}, {"deadline": float("inf")}, {"deadline": -1e300}, {"timeout": 1e300}, {"timeout": float("inf")},
        {"retention": 1e300}, {"process_at": -1e300}, {"priority": -(2**63)}, {"priority": 2**63 - 1}, {"max_retry": 2**63 - 1},
    ],
    ids=str,
)  # fmt: skip
def test_extreme_numbers_of_another_program_do_not_stop_the_worker(site, worker, columns):
    """What plain SQL stores is refused where it is inserted, or the job runs or is archived; others run in any case."""
    try:
        task_id = insert(site, type="args:none", **{"retention": 60, **columns})
    except sqlite3.IntegrityError as refused:
        assert "fireforget" in str(refused) or "CHECK" in str(refused)
        return
    site.eventually(
        lambda: site.sql("SELECT state FROM fireforget_jobs WHERE id = ?", (task_id,))[0][0] in ("completed", "archived"),
        within=3,
    )
    site.sql("DELETE FROM fireforget_job WHERE task_id = ?", (task_id,))


# --- the job ------------------------------------------------------------------------------------------------------------


def test_current_job_tells_a_handler_all_about_its_job(site, worker):
    """Every field that the contract names, as the producer gave it."""
    deadline = datetime.now(UTC) + timedelta(hours=1)
    before = datetime.now(UTC).timestamp()
    info = site.result(
        "me", {"x": 1}, queue="low", deadline=deadline, headers={"k": "v"}, max_retry=2, run_timeout=9, task_id="mine"
    )
    seen = info.result
    assert 0 <= seen.pop("wait") < 5
    assert before <= seen.pop("started_at") <= datetime.now(UTC).timestamp()
    assert datetime.fromisoformat(seen.pop("deadline")) == info.deadline
    assert seen == {
        "id": "mine", "type": "me", "queue": "low", "retry_count": 0, "max_retry": 2, "timeout": 9.0, "headers": {"k": "v"},
        "payload": {"x": 1}, "cancelled": False, "pattern": "me",
    }  # fmt: skip


def test_a_generated_id_is_the_same_inside_and_outside(site, worker):
    """What `enqueue` returned is what the handler sees, so both can be found in the logs."""
    info = site.result("me", {"x": 1})
    assert info.result["id"] == info.id


def test_a_written_result_and_progress_are_seen_while_the_job_runs(site, worker):
    """Others can watch a long job; what was written stays when nothing is returned."""
    job = site.enqueue("writes", retention=60)
    site.hear("written")
    info = site.eventually(lambda: (info := site.queue.get(job)).progress and info)
    assert (info.state, info.result) == ("active", {"so": "far"})
    assert (info.progress.fraction, info.progress.note) == (0.5, "half way")
    assert info.worker and info.started_at
    site.release("writes")
    assert site.finished(job).result == {"so": "far"}


def test_a_returned_result_replaces_a_written_one(site, worker):
    """The last word is what the handler returns."""
    assert site.result("writes:and:returns").result == "last"


def test_a_written_result_stays_with_a_job_that_fails(site, worker):
    """It may tell how far the job came."""
    info = site.result("writes:then:fails", max_retry=0)
    assert (info.state, info.result) == ("archived", {"partial": 1})


def test_writing_a_result_that_cannot_be_kept_fails_no_job(site, worker):
    """It is null, and the log says why; progress beyond 1 raises, since the handler's author should know."""
    info = site.result("bad:write")
    assert (info.state, len(info.result)) == ("completed", 1)
    assert worker.wait_record("task result not kept", task_id=info.id)["level"] == "WARNING"


@pytest.mark.parametrize(
    ("type", "reason"), [("returns:object", "is not JSON"), ("returns:nan", "is not JSON"), ("returns:large", "1048578 bytes")]
)
def test_a_result_that_cannot_be_kept_never_fails_the_job(site, worker, type, reason):
    """The work is done: the job is completed with null, a note says why, and a WARNING is logged."""
    info = site.result(type)
    assert (info.state, info.result, info.retry_count) == ("completed", None, 0)
    assert reason in info.last_error
    record = worker.wait_record("task result not kept", task_id=info.id)
    assert record["level"] == "WARNING" and reason in record["reason"]
    assert worker.wait_record("task processed", task_id=info.id)["success"] is True


def test_a_result_of_1_mib_is_kept(site, worker):
    """The limit itself is allowed."""
    assert len(site.result("returns:largest").result) == 1024 * 1024 - 2


def test_a_result_that_nobody_keeps_may_be_anything(site, worker):
    """Without retention the result goes nowhere."""
    assert site.finished(site.enqueue("returns:object:unkept")) is None


# --- what handlers raise --------------------------------------------------------------------------------------------------


def test_skip_retry_archives_at_once(site, worker):
    """The handler knows that no retry would help."""
    info = site.result("skip")
    assert (info.state, info.retry_count, info.last_error) == ("archived", 0, "SkipRetry: no use")
    assert worker.wait_record("task failed", task_id=info.id)["level"] == "ERROR"


def test_revoke_task_drops_the_job(site, worker):
    """Neither a success nor a failure; nothing is kept even with a retention."""
    job = site.enqueue("revoke", retention=60)
    assert site.finished(job) is None
    record = worker.wait_record("task revoked", task_id=job)
    assert record["level"] == "INFO" and record["reason"] == "pointless" and "success" not in record


def test_retry_later_counts_no_attempt(site, worker):
    """Even with max_retry=0 the job runs again, as in its first run, and no failed attempt is recorded."""
    info = site.result("later", {"file": "later"}, max_retry=0)
    assert (info.state, info.result, info.retry_count, info.last_error) == ("completed", ["0", "0", "0"], 0, None)
    assert Inspector(site.queue).attempts(info.id) == []
    assert len(worker.said("task postponed", task_id=info.id, reason="not yet")) == 2
    assert not worker.said("task failed", task_id=info.id)


def test_retry_later_waits_as_long_as_it_says(site, worker):
    """The job is in retry and due then."""
    info = site.state_is(site.enqueue("later:far", max_retry=0), "retry")
    assert 3590 < (info.next_process_at - datetime.now(UTC)).total_seconds() <= 3600


def test_a_failed_job_is_archived_after_its_last_retry_with_every_attempt_recorded(site, worker):
    """max_retry=2 is three runs; each attempt has its error and the handler's own traceback."""
    info = site.result("fails", max_retry=2)
    assert (info.state, info.retry_count, info.max_retry, info.last_error) == ("archived", 2, 2, "ValueError: attempt 2")
    assert info.completed_at is not None
    attempts = Inspector(site.queue).attempts(info.id)
    assert [attempt.error for attempt in attempts] == [f"ValueError: attempt {n}" for n in range(3)]
    assert [attempt.number for attempt in attempts] == [1, 2, 3]
    for attempt in attempts:
        assert attempt.traceback.startswith("Traceback (most recent call last)")
        assert "in inner" in attempt.traceback and "in fails" in attempt.traceback
        assert "fireforget/_pool" not in attempt.traceback
        assert attempt.worker and 0 <= attempt.duration < 5
    records = worker.said("task failed", task_id=info.id)
    assert [record["retry_count"] for record in records] == [0, 1, 2]


def test_a_retry_sees_its_retry_count_and_may_succeed(site, worker):
    """The last error stays visible, and the attempts with it."""
    info = site.result("fails:then:works")
    assert (info.state, info.result, info.retry_count) == ("completed", 2, 2)
    assert len(Inspector(site.queue).attempts(info.id)) == 2


def test_a_job_that_succeeds_unkept_leaves_no_attempts_behind(site, worker):
    """Removed means removed."""
    assert site.finished(site.enqueue("fails:then:works:unkept")) is None
    assert site.sql("SELECT count(*) FROM fireforget_attempt WHERE job NOT IN (SELECT n FROM fireforget_job)") == [(0,)]


@pytest.mark.parametrize(
    ("type", "low", "high"),
    [
        ("delay:seconds", 119, 120),
        ("delay:function", 1002, 1003),
        ("delay:broken", 14, 44),
        ("delay:nonsense", 14, 44),
        ("delay:killed", 499, 500),
    ],
)
def test_a_handlers_own_retry_delay_is_used(site, worker, type, low, high):
    """Seconds, or a function of retry count and error; one that is broken falls back to the default and says so."""
    job = site.enqueue(type)
    info = site.state_is(job, "retry")
    assert info.retry_count == 1
    assert low < (info.next_process_at - datetime.now(UTC)).total_seconds() <= high
    if type in ("delay:broken", "delay:nonsense"):
        assert worker.wait_record("retry_delay failed, used the default", task_id=job)["level"] == "ERROR"


@pytest.mark.parametrize("how", ["sys.exit", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException"])
def test_a_handler_that_wants_to_end_the_process_is_a_failed_job(site, worker, how):
    """SystemExit, KeyboardInterrupt and their kin are logged and counted like any failure, and the child lives on."""
    deaths = len(worker.said("child died"))
    info = site.result("exits", {"how": how}, max_retry=0)
    name = "SystemExit" if how == "sys.exit" else how
    assert info.state == "archived"
    assert name in info.last_error
    assert name in worker.wait_record("task failed", task_id=info.id)["error"]
    assert len(worker.said("child died")) == deaths
    (attempt,) = Inspector(site.queue).attempts(info.id)
    assert "in exits" in attempt.traceback and "call_next" not in attempt.traceback, "our own frames tell nobody anything"


@pytest.mark.parametrize("type", ["unprintable", "nul", "long:error", "deep"])
def test_an_error_that_is_hard_to_write_down_is_still_a_failed_job(site, worker, type):
    """Whatever its text, it is stored, logged, and no crash."""
    info = site.result(type, max_retry=0)
    assert info.state == "archived"
    assert info.last_error and len(info.last_error) < 10_000
    worker.wait_record("task failed", task_id=info.id)


@pytest.mark.parametrize("where", ["error", "result", "written", "note", "later"])
def test_text_that_utf_8_cannot_carry_harms_nobody(own_site, where):
    """A lone surrogate, as Python makes them of odd file names, may be in an error, a result or a note; the worker goes on."""
    site = own_site
    site.app(APP)
    worker = site.worker("--concurrency", 1)
    job = site.enqueue("surrogate", {"where": where}, max_retry=0, retention=60)
    info = site.finished(job, within=3)
    assert info.state == ("archived" if where == "error" else "completed")
    assert (info.result == "bad \udcff name") is (where in ("result", "written"))
    assert worker.running


def test_a_thousand_failures_in_a_row_are_a_thousand_archived_jobs(site, worker):
    """What became of a job is never mistaken for a success with nothing to tell, however fast jobs end."""
    from fireforget import Task

    jobs = site.queue.enqueue_many([Task("skip") for _ in range(1000)])
    site.finished(jobs[-1].id)
    for job in jobs:
        assert site.finished(job.id).state == "archived"


def test_large_results_in_a_row_all_arrive(site, worker):
    """A result that takes several reads to arrive is not lost behind the word that its job is done."""
    for _ in range(12):
        assert len(site.result("returns:largest").result) == 1024 * 1024 - 2


# --- kinds of handlers ----------------------------------------------------------------------------------------------------


def test_async_handlers_run_and_know_their_job(site, worker):
    """`async def` is a handler like any other."""
    assert site.result("async:ok", {"value": 5}).result == [5, "async:ok"]
    assert site.result("async:ok", 6).result == [6, "async:ok"]


def test_an_async_handler_that_raises_is_a_failed_job(site, worker):
    """With the coroutine's own traceback."""
    info = site.result("async:fails", max_retry=0)
    assert (info.state, info.last_error) == ("archived", "LookupError: in a coroutine")
    assert "in async_fails" in Inspector(site.queue).attempts(info.id)[0].traceback


def test_any_callable_can_be_a_handler(site, worker):
    """An object with `__call__` too."""
    assert site.result("callable", {"x": 21}).result == 42


# --- what handlers do ----------------------------------------------------------------------------------------------------


def test_a_handler_may_enqueue_with_a_queue_of_its_module(site, worker):
    """The queue object was made before the fork and works in every child."""
    job = site.result("enqueues").result
    assert site.queue.wait(job, 10).result == "ok"


def test_what_a_handler_fires_and_forgets_is_stored_before_its_job_counts_as_done(site, worker):
    """Whoever sees the job completed sees what it has submitted."""
    for n in (1, 50, 3):
        (before,) = site.sql("SELECT count(*) FROM fireforget_job WHERE queue = 'unserved'")[0]
        assert site.result("fires", {"n": n}).state == "completed"
        assert site.sql("SELECT count(*) FROM fireforget_job WHERE queue = 'unserved'") == [(before + n,)]


def test_a_program_started_by_a_handler_is_not_deaf(site, worker):
    """It gets Ctrl-C, TERM and the others as usual: children of a worker ignore nothing on behalf of what they start."""
    assert site.result("spawns").result == [0, "[]", "set()"]


def test_what_a_handler_prints_and_logs_comes_out_of_the_worker(site, worker):
    """In the worker's own format."""
    site.result("stderr")
    assert worker.wait_record("logged by a handler")["logger"] == "mine"
