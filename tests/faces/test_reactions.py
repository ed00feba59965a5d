"""What an application has a say in when jobs fail, and headers that are passed on; by `drain`, which settles as workers do."""

import logging

import pytest

from fireforget import (
    InvalidOption,
    Registry,
    RetryLater,
    SkipRetry,
    SqliteQueue,
    State,
    Task,
    current_job,
    fire_and_forget,
    fixed,
)
from fireforget.inspector import Inspector
from fireforget.testing import RecordingEnqueuer, drain


class Told:
    """Keeps what hooks are told."""

    def __init__(self):
        self.calls = []

    def as_hook(self, name):
        return lambda info, error: self.calls.append((name, info.type, info.state, info.retry_count, info.last_error, error))


@pytest.fixture
def told():
    return Told()


# --- hooks --------------------------------------------------------------------------------------------------------------


def test_hooks_are_told_of_every_failed_run_and_of_every_dead_letter(queue, clock, told):
    """With the job as it is afterwards; a handler's own besides the registry's."""
    registry = Registry(retry_delay=5, on_failure=told.as_hook("failure"), on_archived=told.as_hook("archived"))

    @registry.task("fails", max_retry=1, on_archived=told.as_hook("own"))
    def fails():
        raise ValueError("no")

    queue.enqueue(fails.task())
    assert [run.type for run in drain(queue, registry)] == ["fails"]
    assert told.calls == [("failure", "fails", "retry", 1, "ValueError: no", "ValueError: no")]
    clock.advance(5)
    drain(queue, registry)
    assert sorted(call[0] for call in told.calls[1:]) == ["archived", "failure", "own"]
    assert {call[1:] for call in told.calls[1:]} == {("fails", "archived", 1, "ValueError: no", "ValueError: no")}
    assert Inspector(queue).count() == 1, "the calls are gone once they are made"


def test_hooks_are_not_told_of_what_is_no_failure(queue, told):
    """Postponed, revoked, succeeded."""
    registry = Registry(on_failure=told.as_hook("failure"), on_archived=told.as_hook("archived"))
    for name, error in (("later", RetryLater(1)), ("fine", None)):

        @registry.task(name)
        def handler(error=error):
            if error is not None:
                raise error

        queue.enqueue(Task(name))
    drain(queue, registry)
    assert told.calls == []


@pytest.mark.parametrize("reason", ["skipped", "no fit", "deadline"])
def test_whatever_archives_a_job_is_told(queue, clock, told, reason):
    """Also what no run failed of."""
    registry = Registry(on_archived=told.as_hook("archived"))

    @registry.task("t")
    def t():
        raise SkipRetry("no")

    if reason == "deadline":
        deadline = queue.enqueue(Task("t"), task_id="far").enqueued_at
        Inspector(queue).delete("far")
        queue.enqueue(Task("t"), deadline=deadline)
    else:
        queue.enqueue(Task("t", {"x": 1} if reason == "no fit" else None))
    drain(queue, registry)
    ((name, _, state, _, last_error, error),) = told.calls
    assert (name, state) == ("archived", State.ARCHIVED)
    assert last_error == error and error.startswith(
        {"skipped": "SkipRetry", "no fit": "PayloadMismatch"}.get(reason, "deadline passed")
    )


def test_what_a_hook_raises_is_logged_and_changes_nothing(queue, told, caplog):
    """The other hook is called all the same."""
    registry = Registry(on_archived=told.as_hook("archived"))

    @registry.task("t", on_archived=lambda info, error: 1 / 0)
    def t():
        raise SkipRetry("no")

    job = queue.enqueue(t.task())
    with caplog.at_level(logging.ERROR):
        drain(queue, registry)
    assert queue.get(job.id).state == "archived" and len(told.calls) == 1
    (record,) = [record for record in caplog.records if record.message == "on_archived failed"]
    assert (record.task_type, record.task_id, record.error) == ("t", job.id, "ZeroDivisionError: division by zero")


def test_a_hook_may_enqueue_and_middleware_does_not_see_it():
    """What it enqueues takes over the job's headers; the chain is for jobs of the application."""
    outbox, seen = RecordingEnqueuer(), []
    registry = Registry(
        on_archived=lambda info, error: outbox.enqueue(Task("tell", {"of": info.id})),
        middleware=[lambda job, call_next: seen.append(job.type) or call_next()],
    )

    @registry.task("t")
    def t():
        raise SkipRetry("no")

    @registry.task("tell")
    def tell(of): ...

    job = outbox.enqueue(Task("t"), headers={"traceparent": "1"})
    drain(outbox, registry)
    assert outbox.jobs[1].payload == {"of": job.id} and dict(outbox.jobs[1].headers) == {"traceparent": "1"}
    assert seen == ["t", "tell"]


def test_a_verdict_that_comes_too_late_calls_no_hook(queue, clock):
    """The job has another owner by then, who will tell what becomes of it."""
    from fireforget._claims import Claims
    from fireforget._settling import Settlement

    claims = Claims(queue._database, lambda kind: True, ["default"], clock)
    claims.register("w", "/tmp/w.lock", {"default": 1}, 1, 1)
    queue.enqueue(Task("t"))
    with claims.transaction():
        n, claim, *_ = claims.claim("default", ["t"], 1)[0]
        fence = (n, claims.worker, claim - 1)
        claims.settle(Settlement(archived=[(clock(), "no", *fence)], hooks=[("on_archived", "registry", "no", *fence)]))
    assert Inspector(queue).counts()[State.PENDING] == 0
    claims.close()


def test_the_third_dead_worker_is_told(queue, clock, told):
    """The worker that takes over stores the call with its verdict."""
    from fireforget._claims import Claims

    registry = Registry(on_archived=told.as_hook("archived"))

    @registry.task("t")
    def t(): ...

    queue.enqueue(Task("t"))
    claims = Claims(queue._database, lambda kind: True, ["default"], clock)
    claims.hooks_of_archived = lambda kind: ["registry"]
    for _ in range(3):
        claims.register("w", "/tmp/w.lock", {"default": 1}, 1, 1)
        with claims.transaction():
            (row,) = claims.claim("default", ["t"], 1)
        claims.take_over(claims.worker, frozenset({row[0]}), counts=True)
    claims.close()
    assert drain(queue, registry) == []
    assert told.calls == [("archived", "t", "archived", 0, *["its worker died under it 3 times"] * 2)]


# --- is_failure ---------------------------------------------------------------------------------------------------------


def test_what_is_no_failure_counts_neither_attempt_nor_failure(queue, clock, told):
    """Also without retries: asynq archives such a job. It waits for its delay, and for a second at least."""
    registry = Registry(
        retry_delay=fixed(0), is_failure=lambda error: not isinstance(error, ConnectionError), on_failure=told.as_hook("failure")
    )

    @registry.task("t", max_retry=0)
    def t():
        raise ConnectionError("not now")

    job = queue.enqueue(t.task())
    for _ in range(5):
        (run,) = drain(queue, registry, raise_errors=True)
        assert (run.outcome, run.state, run.retry_count, run.last_error) == ("postponed", "retry", 0, "ConnectionError: not now")
        assert drain(queue, registry) == []
        clock.advance(1)
    assert Inspector(queue).attempts(job.id) == [] and told.calls == []


@pytest.mark.parametrize("answer", [True, None, 1, "raises"])
def test_only_false_means_that_it_is_no_failure(queue, answer, caplog):
    """A function that forgot to answer, or cannot, must not make a job run for ever."""

    def is_failure(error):
        if answer == "raises":
            raise LookupError("no")
        return answer

    registry = Registry()

    @registry.task("t", max_retry=0, is_failure=is_failure)
    def t():
        raise ValueError

    queue.enqueue(t.task())
    (run,) = drain(queue, registry)
    assert run.state == "archived"
    assert [r.error for r in caplog.records if r.message == "is_failure failed"] == ["LookupError: no"] * (answer == "raises")


def test_is_failure_is_asked_once_and_not_of_what_is_settled(queue):
    """A handler's own replaces the registry's; `SkipRetry` and a payload that does not fit need no question."""
    asked = []
    registry = Registry(is_failure=lambda error: asked.append("registry"))

    @registry.task("own", max_retry=0, is_failure=lambda error: asked.append(str(error)))
    def own():
        raise ValueError("own")

    @registry.task("skips")
    def skips():
        raise SkipRetry

    for task in (own.task(), skips.task(), Task("skips", {"x": 1})):
        queue.enqueue(task)
    drain(queue, registry)
    assert asked == ["own"]


@pytest.mark.parametrize(
    "given",
    [{"is_failure": 1}, {"on_failure": "name"}, {"on_archived": 5}, {"pass_headers": "traceparent"}, {"pass_headers": [1]},
     {"pass_headers": []}],
    ids=str,
)  # fmt: skip
def test_a_reaction_that_cannot_be_is_refused(given):
    """Where it is written, for a registry and for a handler."""
    for make in (lambda: Registry(**given), lambda: Registry().task("t", **given)):
        with pytest.raises(InvalidOption, match=next(iter(given))):
            make()


def test_a_coroutine_function_is_no_hook():
    """It would never be awaited."""

    async def hook(info, error): ...

    with pytest.raises(InvalidOption, match="not async"):
        Registry(on_failure=hook)


# --- headers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passes", "taken_over"),
    [(True, {"a": "1", "b": "2"}), (False, {}), (["b", "c"], {"b": "2"}), (None, {"a": "1", "b": "2"})],
    ids=str,
)
def test_a_job_takes_over_the_headers_of_the_one_that_enqueues_it(tmp_path, passes, taken_over):
    """Whichever way it is enqueued; its own win, name by name; and nothing is left behind for what is enqueued later."""
    with SqliteQueue(tmp_path / "jobs.db") as queue:
        registry = Registry()

        @registry.task("first", pass_headers=passes)
        def first():
            queue.enqueue(Task("next"), task_id="one")
            queue.enqueue_many([Task("next", headers={"b": "own"})], task_id="many")
            fire_and_forget(queue, Task("next"), task_id="fired", queue="default")
            fire_and_forget(queue, Task("next", headers={"b": "own"}), task_id="own", queue="default", headers=None)

        queue.enqueue(first.task(), headers={"a": "1", "b": "2"})
        drain(queue, registry)
        queue.enqueue(Task("next"), task_id="after")
        headers = {name: dict(queue.get(name).headers) for name in ("one", "many", "fired", "own", "after")}
        own = {**taken_over, "b": "own"}
        assert headers == {"one": taken_over, "many": own, "fired": taken_over, "own": own, "after": {}}


def test_a_handler_without_headers_passes_none_on(queue):
    """And sees its own as they are."""
    registry = Registry()
    seen = []

    @registry.task("t")
    def t():
        seen.append(current_job().headers)
        queue.enqueue(Task("next"), task_id="next", headers={"x": "y"})

    queue.enqueue(t.task())
    drain(queue, registry)
    assert seen == [{}] and dict(queue.get("next").headers) == {"x": "y"}
