"""Schedules in the database: each tick once, between workers, versions, pauses and clocks."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest

from fireforget import Inspector, InvalidOption, Registry, ScheduleInUse, SkipRetry, UnknownSchedule
from fireforget._claims import Claims
from fireforget._pool import schedules
from fireforget._pool.schedules import Schedules
from fireforget._schedules import MOST_EVENTS
from fireforget.testing import ManualClock, RecordingEnqueuer, drain, tick

HOUR = 3600.0


def registry_of(cron="0 * * * *", **said):
    registry = Registry()

    @registry.periodic(cron, **said)
    @registry.task("report:build")
    def build(n: int = 0) -> None: ...

    return registry


class Worker:
    """The part of a worker's supervisor that is about schedules."""

    def __init__(self, queue, registry, name):
        self.claims = Claims(queue._database, lambda _: True, ["default"], queue._clock)
        self.clock = queue._clock
        digests = {known: periodic.digest for known, periodic in registry.schedules.items()}
        self.claims.register(name, name, {"default": 1}, 1, 1, digests)
        self.schedules = Schedules(registry, self.claims, queue)

    def look(self):
        with self.claims.reading():
            self.schedules.look(self.clock())
        return self.schedules.next_at

    def turn(self, *, crash=False):
        """What a supervisor does: look, and write when something is due. Return whether it wrote."""
        if self.look() > self.clock():
            return False
        try:
            with self.claims.transaction():
                self.schedules.enqueue_due(self.clock())
                if crash:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        return True

    def die(self):
        with self.claims.transaction():
            self.claims.connection.execute("DELETE FROM fireforget_worker WHERE n = ?", [self.claims.worker])
        self.claims.close()


@pytest.fixture
def clock():
    return ManualClock(datetime(2026, 3, 2, 7, 30, tzinfo=UTC))


@pytest.fixture
def start(queue):
    """Start a worker with this registry."""
    workers = []

    def start(registry):
        workers.append(Worker(queue, registry, f"worker-{len(workers)}"))
        return workers[-1]

    yield start
    for worker in workers:
        worker.claims.close()


@pytest.fixture
def inspector(queue):
    return Inspector(queue)


def ticks_of(inspector):
    return [info.headers["fireforget-tick"][11:16] for info in inspector.tasks()]


def test_a_schedule_begins_with_its_next_tick(start, clock, inspector):
    """Nothing is run for the time before it was there; between ticks nothing is written."""
    worker = start(registry_of())
    assert worker.turn()
    assert not worker.turn()
    (schedule,) = inspector.schedules()
    assert (schedule.name, schedule.expression, schedule.workers) == ("report:build", "0 * * * *", 1)
    assert (schedule.next_at, schedule.last_at) == (datetime(2026, 3, 2, 8, tzinfo=UTC), None)
    clock.advance(HOUR / 2)
    assert worker.turn() and not worker.turn()
    assert ticks_of(inspector) == ["08:00"]
    (event,) = inspector.schedule_history("report:build")
    assert (event.tick, event.outcome, event.job_id) == (clock.now, "enqueued", inspector.tasks()[0].id)


def test_of_many_workers_one_enqueues_a_tick(start, clock, inspector):
    """All wake at the same moment; the first moves the schedule on, the others find nothing to do."""
    workers = [start(registry_of()) for _ in range(5)]
    for _ in range(4):
        for worker in workers:
            worker.look()
        for worker in workers:
            with worker.claims.transaction():
                worker.schedules.enqueue_due(clock())
        clock.advance(HOUR)
    assert ticks_of(inspector) == ["08:00", "09:00", "10:00"]


def test_a_worker_that_dies_before_its_commit_leaves_the_tick_to_another(start, clock, inspector):
    """The schedule's advance, the job and the history are one transaction."""
    first, second = start(registry_of()), start(registry_of())
    first.turn()
    clock.advance(HOUR)
    assert first.turn(crash=True)
    assert (inspector.tasks(), inspector.schedule_history("report:build")) == ([], [])
    assert second.turn() and not first.turn()
    assert ticks_of(inspector) == ["08:00"]


def test_missed_ticks_are_made_up_for_as_the_schedule_says(start, clock, inspector, caplog):
    """No worker for three hours and a half: one run, none, or each."""
    registry = Registry()
    for missed in ("run_once", "skip", "catch_up"):
        registry.periodic("0 * * * *", missed=missed, name=missed)(registry.task(missed)(lambda: None))
    worker = start(registry)
    worker.turn()
    clock.advance(4 * HOUR)
    worker.turn()
    run = {name: [i.headers["fireforget-tick"][11:16] for i in inspector.tasks(type=name)] for name in registry.schedules}
    assert run == {"run_once": ["11:00"], "skip": [], "catch_up": ["08:00", "09:00", "10:00", "11:00"]}
    assert [event.outcome for event in inspector.schedule_history("run_once")] == ["enqueued", "missed"]
    (event,) = inspector.schedule_history("skip")
    assert event.detail == "ticks from 2026-03-02 08:00:00 to 2026-03-02 11:00:00 UTC were missed and not enqueued"
    assert {record.schedule for record in caplog.records} == {"run_once", "skip"}


def test_a_paused_schedule_stays_paused_over_restarts_and_misses_nothing(start, clock, inspector):
    """What came in the meantime was not wanted: resumed, it goes on with its next tick."""
    worker = start(registry_of())
    worker.turn()
    assert inspector.pause_schedule("report:build") and not inspector.pause_schedule("report:build")
    clock.advance(5 * HOUR)
    assert worker.look() == float("inf")
    worker.die()
    worker = start(registry_of())
    assert not worker.turn()
    assert (inspector.schedule("report:build").paused, inspector.schedule("report:build").next_at) == (True, None)
    assert inspector.resume_schedule("report:build") and not inspector.resume_schedule("report:build")
    assert not worker.turn()
    clock.advance(HOUR / 2)
    worker.turn()
    assert ticks_of(inspector) == ["13:00"]


def test_a_changed_schedule_keeps_its_pause_and_history_and_begins_anew(start, clock, inspector):
    """Other times count from now; other words alone change no time, and a missed tick is still missed."""
    old = start(registry_of())
    old.turn()
    clock.advance(HOUR / 2)
    old.turn()
    old.die()
    clock.advance(HOUR)
    start(registry_of(payload={"n": 1})).turn()
    assert [info.payload for info in inspector.tasks()] == [None, {"n": 1}]
    clock.advance(24 * HOUR)
    newest = start(registry_of("45 * * * *"))
    newest.turn()
    schedule = inspector.schedule("report:build")
    assert (schedule.expression, schedule.next_at) == ("45 * * * *", datetime(2026, 3, 3, 9, 45, tzinfo=UTC))
    assert len(inspector.schedule_history("report:build")) == 2


def test_the_newest_of_several_versions_says_what_a_schedule_is(start, clock, inspector):
    """An old worker leaves it alone while the new one lives, and takes it back when that is gone: no tick twice, no silence."""
    old = start(registry_of("0 * * * *"))
    old.turn()
    new = start(registry_of("30 * * * *"))
    assert new.turn()
    for _ in range(2):
        clock.advance(HOUR / 2)
        assert not old.turn()
        new.turn()
    assert ticks_of(inspector) == ["08:30"]
    assert old.look() == float("inf")
    new.die()
    assert old.turn()
    assert inspector.schedule("report:build").expression == "0 * * * *"
    clock.advance(HOUR)
    old.turn()
    assert ticks_of(inspector) == ["08:30", "09:00"]


def test_a_schedule_that_left_the_registry_ticks_no_more(start, clock, inspector):
    """It is shown without a worker until somebody deletes it; while a worker has it, that is refused."""
    worker = start(registry_of())
    worker.turn()
    with pytest.raises(ScheduleInUse):
        inspector.delete_schedule("report:build")
    worker.die()
    other = start(Registry())
    clock.advance(HOUR)
    assert not other.turn() and inspector.tasks() == []
    assert [schedule.workers for schedule in inspector.schedules()] == [0]
    inspector.delete_schedule("report:build")
    assert inspector.schedules() == []
    for ask in (inspector.schedule, inspector.schedule_history, inspector.pause_schedule, inspector.resume_schedule):
        with pytest.raises(UnknownSchedule):
            ask("report:build")
    with pytest.raises(UnknownSchedule):
        inspector.delete_schedule("report:build")


def test_a_clock_that_is_set_back_runs_no_tick_twice(start, clock, inspector):
    """By an hour or so; one that was years ahead does not silence the schedule for years."""
    worker = start(registry_of())
    worker.turn()
    clock.advance(HOUR / 2)
    worker.turn()
    clock.move_to(datetime(2026, 3, 2, 7, 10, tzinfo=UTC))
    assert not worker.turn()
    clock.move_to(datetime(2031, 1, 1, tzinfo=UTC))
    worker.turn()
    clock.move_to(datetime(2026, 3, 2, 9, 10, tzinfo=UTC))
    worker.turn()
    assert inspector.schedule("report:build").next_at == datetime(2026, 3, 2, 10, tzinfo=UTC)


def test_the_history_is_bounded(start, clock, inspector, sql):
    """1,000 events a schedule, the newest first."""
    worker = start(registry_of("@every 1m", missed="catch_up"))
    worker.turn()
    clock.advance(60 * (MOST_EVENTS + 30))
    worker.turn()
    assert sql("SELECT count(*) FROM fireforget_schedule_event") == [(MOST_EVENTS,)]
    last = inspector.schedule_history("report:build", limit=2)
    assert [event.tick.timestamp() for event in last] == [clock(), clock() - 60]
    with pytest.raises(InvalidOption):
        inspector.schedule_history("report:build", limit=0)


def test_a_tick_whose_unique_key_is_taken_is_told_not_enqueued(start, clock, inspector, caplog):
    """`unique_for` keeps runs from piling up behind a slow one."""
    worker = start(registry_of(unique_for=24 * HOUR))
    worker.turn()
    for _ in range(2):
        clock.advance(HOUR)
        worker.turn()
    assert ticks_of(inspector) == ["08:00"]
    refused, enqueued = inspector.schedule_history("report:build")
    assert (refused.outcome, enqueued.outcome) == ("refused", "enqueued")
    assert "holds the unique key" in refused.detail and "a tick was refused" in caplog.text


def test_a_payload_function_is_left_to_a_job_that_enqueues_once(start, clock, inspector, queue, path):
    """The supervisor does not call it. Its job does, and stores the task in one transaction with its own note: again is never."""
    calls = []
    registry = Registry()

    @registry.periodic("0 * * * *", payload=lambda moment: calls.append(moment) or {"n": len(calls)}, queue="low", priority=3)
    @registry.task("report:build")
    def build(n: int) -> None: ...

    worker = start(registry)
    worker.turn()
    clock.advance(HOUR / 2)
    worker.turn()
    (builder,) = inspector.tasks()
    assert (calls, builder.type, builder.queue, builder.priority, builder.timeout) == (
        [], "fireforget:tick:report:build", "low", 3, 5.0
    )  # fmt: skip
    assert worker.schedules.builds(builder.type) and not start(Registry()).schedules.builds(builder.type)

    task = registry.schedules["report:build"].task(clock())
    for _ in range(2):
        queue._enqueue_built(builder.id, "report:build", task)
    _, built = inspector.tasks()
    assert (built.type, built.queue, built.payload) == ("report:build", "low", {"n": 1})
    assert [event.job_id for event in inspector.schedule_history("report:build")] == [built.id]
    inspector.delete(builder.id)
    queue._enqueue_built(builder.id, "report:build", task)
    assert inspector.count("pending") == 1


def test_a_built_payload_that_does_not_fit_is_archived_at_once(path):
    """No retry would change that; what the function itself raises is tried again."""
    registry = Registry()
    registry.periodic("@hourly", payload=lambda: {"x": 1})(registry.task("a")(lambda: None))
    handler = schedules.definition(registry, path)
    with pytest.raises(SkipRetry, match="payload of schedule 'a'"):
        handler("a", 0.0)


def test_idle_schedules_write_nothing(start, queue, clock):
    """Looking is reading: the file is the same afterwards."""
    worker = start(registry_of())
    worker.turn()
    with closing(sqlite3.connect(queue.path)) as other:
        version = other.execute("PRAGMA data_version").fetchone()
        for _ in range(50):
            clock.advance(1)
            assert not worker.turn()
        assert other.execute("PRAGMA data_version").fetchone() == version


# --- in an application's tests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["recording", "file"])
def test_an_application_tests_what_a_tick_enqueues(kind, clock, open_queue):
    """With a clock to turn, and payloads built here and now; then drained like any job."""
    queue = RecordingEnqueuer(clock=clock) if kind == "recording" else open_queue()
    registry = Registry()
    done = []

    @registry.periodic("0 9 * * *", timezone="Europe/Berlin", payload=lambda moment: {"day": moment.date().isoformat()})
    @registry.task("report:day")
    def report(day: str) -> None:
        done.append(day)

    assert tick(queue, registry) == []
    clock.advance(HOUR / 2)
    (info,) = tick(queue, registry)
    assert (info.type, info.payload, info.state) == ("report:day", {"day": "2026-03-02"}, "pending")
    assert tick(queue, registry) == []
    if kind == "recording":
        assert [task.payload for task in queue.tasks("report:day")] == [info.payload]
    assert [run.outcome for run in drain(queue, registry)] == ["completed"]
    assert done == ["2026-03-02"]
    with pytest.raises(TypeError, match="tick"):
        tick(registry, queue)
