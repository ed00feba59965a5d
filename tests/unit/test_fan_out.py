"""Fan-out: every handler that is subscribed to an event gets a task of its own, all of them or none."""

import logging
import sqlite3
from contextlib import closing

import pytest

from fireforget import (
    InvalidOption,
    InvalidPayload,
    RegistrationError,
    Registry,
    SqliteQueue,
    StoreBusy,
    TaskIDConflict,
    UnknownJob,
    UnknownOption,
    fan_out,
)
from fireforget.testing import RecordingEnqueuer, drain


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def jobs():
    return RecordingEnqueuer()


@pytest.fixture
def done():
    return []


@pytest.fixture(autouse=True)
def subscribers(registry, done):
    """Two handlers of one event, each with options of its own."""

    @registry.subscribe("user:created", queue="critical", max_retry=5)
    def welcome(user_id):
        done.append(("welcome", user_id))

    @registry.subscribe("user:created", queue="low", timeout=10)
    def audit(user_id, source="web"):
        done.append(("audit", user_id))
        raise RuntimeError("the audit is down")

    return welcome, audit


def test_every_subscriber_gets_a_task_of_its_own_with_its_own_options(registry, jobs, done):
    """Own queue, own retries, own failure: what one of them raises is no concern of the others."""
    infos = fan_out(jobs, "user:created", {"user_id": 7}, registry=registry)
    assert [(info.type, info.queue, info.max_retry, info.timeout) for info in infos] == [
        ("fanout:user:created:welcome", "critical", 5, 1800),
        ("fanout:user:created:audit", "low", 25, 10),
    ]
    assert {run.type: run.outcome for run in drain(jobs, registry)} == {
        "fanout:user:created:welcome": "completed",
        "fanout:user:created:audit": "retry",
    }
    assert sorted(done) == [("audit", 7), ("welcome", 7)]


def test_it_is_one_call_of_enqueue_many_and_options_of_the_call_win(registry, subscribers):
    """One transaction where the enqueuer has it."""
    calls = []

    class Enqueuer(RecordingEnqueuer):
        def enqueue_many(self, tasks, **options):
            calls.append(options)
            return super().enqueue_many(tasks, **options)

    jobs = Enqueuer()
    infos = fan_out(jobs, "user:created", {"user_id": 7}, registry=registry, timeout=2, queue="other", headers={"a": "b"})
    assert calls == [{"timeout": 2, "queue": "other", "headers": {"a": "b"}}]
    assert {info.queue for info in infos} == {"other"}
    assert jobs.tasks("fanout:")[0] == subscribers[0].task(user_id=7)


def test_any_enqueuer_will_do(registry):
    """One with `enqueue` alone gets one call each."""

    class Plain:
        def __init__(self):
            self.taken = []

        def enqueue(self, task, *, timeout=None, **options):
            self.taken.append((task.type, task.payload, timeout, options))
            return len(self.taken)

    plain = Plain()
    assert fan_out(plain, "user:created", {"user_id": 7}, registry=registry, priority=3) == [1, 2]
    assert plain.taken == [
        (f"fanout:user:created:{name}", {"user_id": 7}, None, {"priority": 3}) for name in ("welcome", "audit")
    ]


def test_one_that_cannot_be_stored_takes_the_others_with_it(registry, path):
    """A taken id, a store in trouble: then nobody hears of the event, and the caller does."""
    with SqliteQueue(path) as queue:
        fan_out(queue, "user:created", {"user_id": 7}, registry=registry, task_id="signup-7")
        queue.get("signup-7:welcome"), queue.get("signup-7:audit")
        drain(queue, registry)
        with pytest.raises(TaskIDConflict) as caught:  # welcome is done and gone, audit is in retry
            fan_out(queue, "user:created", {"user_id": 7}, registry=registry, task_id="signup-7")
        assert (caught.value.task_id, caught.value.index) == ("signup-7:audit", 1)
        with pytest.raises(UnknownJob):
            queue.get("signup-7:welcome")
    jobs = RecordingEnqueuer()
    jobs.fail_with(StoreBusy("jobs.db", "locked"))
    with pytest.raises(StoreBusy):
        fan_out(jobs, "user:created", {"user_id": 7}, registry=registry)
    assert jobs.jobs == []


def test_it_joins_the_callers_transaction(registry, path):
    """Rolled back: nobody hears of what did not happen. Committed: everybody."""
    with SqliteQueue(path) as queue, closing(sqlite3.connect(path)) as connection:
        with pytest.raises(ZeroDivisionError), connection:
            connection.execute("BEGIN")
            lost = fan_out(queue, "user:created", {"user_id": 7}, registry=registry, connection=connection)
            raise ZeroDivisionError
        for info in lost:
            with pytest.raises(UnknownJob):
                queue.get(info.id)
        with connection:
            connection.execute("BEGIN")
            kept = fan_out(queue, "user:created", {"user_id": 7}, registry=registry, connection=connection)
        assert [queue.get(info.id).state for info in kept] == ["pending", "pending"]
        with pytest.raises(ValueError, match="transaction"):
            fan_out(queue, "user:created", {"user_id": 7}, registry=registry, connection=connection)


def test_ids_and_unique_keys_are_told_apart_by_the_subscriber(registry, jobs):
    """So an event that is announced twice, under its own id, reaches each of them once."""
    infos = fan_out(jobs, "user:created", {"user_id": 7}, registry=registry, unique_key="u7", unique_for=60)
    assert len(infos) == 2
    assert [task.options["unique_key"] for task in jobs.tasks()] == ["u7:welcome", "u7:audit"]


def test_an_event_that_nobody_has_subscribed_to_is_logged(registry, jobs, caplog):
    """With the name that was most likely meant; it is no error, since events come before their handlers do."""
    with caplog.at_level(logging.WARNING, "fireforget"):
        assert fan_out(jobs, "user:craeted", {"user_id": 7}, registry=registry) == []
    (record,) = caplog.records
    assert (record.levelname, record.event) == ("WARNING", "user:craeted")
    assert "did you mean 'user:created'?" in record.getMessage()
    assert jobs.jobs == []


def test_a_payload_that_does_not_fit_is_refused_where_the_call_is_written(registry, jobs):
    """And then nobody gets a task: one that is archived at once helps nobody."""
    for payload in ({"user": 7}, {"user_id": 7, "source": "x"}, None, [1, 2, 3]):
        if payload == [1, 2, 3]:
            assert len(fan_out(jobs, "user:created", payload, registry=registry)) == 2  # one positional argument
            continue
        with pytest.raises(TypeError, match="fanout:user:created:"):
            fan_out(jobs, "user:created", payload, registry=registry)
    with pytest.raises(InvalidPayload):
        fan_out(jobs, "user:created", {"user_id": object()}, registry=registry)
    assert len(jobs.jobs) == 2


def test_misuse_is_said_at_the_call(registry, jobs):
    """Options, events and subscribers that cannot be."""
    with pytest.raises(UnknownOption, match="did you mean queue"):
        fan_out(jobs, "user:created", {"user_id": 7}, registry=registry, queu="low")
    for event in ("", " ", None, 5):
        with pytest.raises(InvalidOption, match="event"):
            fan_out(jobs, event, registry=registry)
        with pytest.raises(RegistrationError, match="event"):
            registry.subscribe(event)
    with pytest.raises(RegistrationError, match="whole name"):
        registry.subscribe("user:")
    with pytest.raises(RegistrationError, match="welcome"):
        registry.subscribe("user:created", name="welcome")(print)
    with pytest.raises(RegistrationError, match="colon"):
        registry.subscribe("user:created", name="a:b")(print)
    with pytest.raises(RegistrationError, match="name="):
        registry.subscribe("user:created")(lambda: None)
    with pytest.raises(RegistrationError):
        registry.subscribe("user:created", name="text")("text")
    with pytest.raises(UnknownOption, match="did you mean queue"):
        registry.subscribe("user:created", name="other", queu="low")(print)
    assert [handler.pattern for handler in registry.subscribers["user:created"]] == [
        "fanout:user:created:welcome", "fanout:user:created:audit",
    ]  # fmt: skip


def test_without_a_registry_all_of_the_process_are_asked(jobs):
    """An application with several fans out to all of them; one that is gone is not asked."""
    mail, books = Registry(), Registry()

    @mail.subscribe("order:paid")
    def receipt(order_id): ...

    @books.subscribe("order:paid")
    def invoice(order_id): ...

    assert [info.type for info in fan_out(jobs, "order:paid", {"order_id": 1})] == [
        "fanout:order:paid:receipt", "fanout:order:paid:invoice",
    ]  # fmt: skip
    books.subscribe("order:paid")(receipt.function)
    with pytest.raises(InvalidOption, match="two registries"):
        fan_out(jobs, "order:paid", {"order_id": 1})
    assert len(fan_out(jobs, "order:paid", {"order_id": 1}, registry=books)) == 2
    del books
    assert len(fan_out(jobs, "order:paid", {"order_id": 1})) == 1


def test_a_function_can_be_subscribed_to_several_events_and_still_be_called(registry, jobs, done):
    """One decorator above the other; each event has options of its own."""

    @registry.subscribe("user:renamed", queue="low")
    @registry.subscribe("user:deleted", name="forget")
    def clear_cache(user_id):
        done.append(user_id)

    clear_cache(1)
    (renamed,) = fan_out(jobs, "user:renamed", {"user_id": 2}, registry=registry)
    (deleted,) = fan_out(jobs, "user:deleted", {"user_id": 3}, registry=registry)
    assert (renamed.type, renamed.queue) == ("fanout:user:renamed:clear_cache", "low")
    assert (deleted.type, deleted.queue) == ("fanout:user:deleted:forget", "default")
    drain(jobs, registry)
    assert sorted(done) == [1, 2, 3]


def test_a_prefix_takes_the_tasks_of_subscribers_that_are_elsewhere(registry, jobs, done):
    """Types match as everywhere: the exact handler first, then the longest prefix."""

    @registry.task("fanout:user:")
    def any_event(user_id):
        done.append(("any", user_id))

    fan_out(jobs, "user:created", {"user_id": 7}, registry=registry)
    other = Registry()
    other.subscribe("user:created", name="elsewhere")(lambda user_id: None)
    fan_out(jobs, "user:created", {"user_id": 8}, registry=other)
    drain(jobs, registry)
    assert sorted(done) == [("any", 8), ("audit", 7), ("welcome", 7)]
