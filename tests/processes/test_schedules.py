"""Schedules under real workers: each tick is enqueued once and runs, whoever is killed."""

import json
import random
import signal
import threading
import time
from collections import Counter
from itertools import pairwise

import pytest

from fireforget import Inspector

APP = """
def run(name, pid=0):
    pass

handler = registry.task("tick:run", retention=3600)(run)
for number in range(8):
    plain, built = f"plain-{number}", f"built-{number}"
    registry.periodic("@every 1s", name=plain, missed="catch_up", payload={"name": plain})(handler)

    def build(tick, name=built):
        return {"name": name, "pid": os.getppid()}

    registry.periodic("@every 1s", name=built, missed="catch_up", payload=build)(handler)
"""


@pytest.fixture
def site(site):
    site.app(APP)
    return site


def storm(site, seconds, workers):
    """Kill workers, supervisor or all of it, often at the very moment of a tick, and start others; then let what is left run."""
    chance = random.Random(7)
    running = [site.worker("--concurrency", 1) for _ in range(workers)]
    began = time.monotonic()
    killed = 0
    pause = threading.Event()
    while time.monotonic() - began < seconds:
        to_tick = 1 - time.time() % 1
        pause.wait(to_tick + chance.choice((0, 0.0005, 0.001, 0.003, 0.01, 0.2)))
        victim = running.pop(chance.randrange(len(running)))
        victim.signal_all(signal.SIGKILL)
        killed += 1
        running.append(site.worker("--concurrency", 1, ready=False))
    for worker in running:
        worker.wait_log(" started: ")
    for name in (schedule.name for schedule in Inspector(site.queue).schedules()):
        Inspector(site.queue).pause_schedule(name)
    site.eventually(lambda: not site.sql("SELECT 1 FROM fireforget_job WHERE state <> 5"), 20)
    assert all(worker.stop() == 0 for worker in running)
    return killed


def check_each_tick_once(site):
    """The jobs that ran, against the ticks that the schedules had."""
    ran = Counter()
    for (headers,) in site.sql("SELECT headers FROM fireforget_jobs WHERE type = 'tick:run' AND state = 'completed'"):
        marks = json.loads(headers)
        ran[marks["fireforget-schedule"], marks["fireforget-tick"]] += 1
    assert set(ran.values()) == {1}
    inspector = Inspector(site.queue)
    for schedule in inspector.schedules():
        events = inspector.schedule_history(schedule.name, 1000)[::-1]
        ticks = [event.tick for event in events]
        assert {event.outcome for event in events} == {"enqueued"}
        steps = {(later - earlier).total_seconds() for earlier, later in pairwise(ticks)}
        assert steps == {1.0}, (schedule.name, ticks)
        assert {tick.isoformat() for tick in ticks} == {tick for name, tick in ran if name == schedule.name}
    assert len(inspector.schedules()) == 16
    return sum(ran.values())


def test_each_tick_is_enqueued_once_while_workers_are_killed(site):
    """Sixteen schedules a second, two workers, kills at the moment of the tick: none twice, none left out."""
    assert storm(site, 1.5, 2) >= 2
    assert check_each_tick_once(site) >= 16


@pytest.mark.torture
def test_each_tick_is_enqueued_once_through_a_minute_of_kills(site):
    """The same for longer."""
    assert storm(site, 60, 4) > 40
    assert check_each_tick_once(site) > 16 * 55


def test_an_idle_worker_wakes_at_the_tick(site):
    """Within a few milliseconds of it, with nothing written before."""
    site.app("""
@registry.periodic("@every 1s")
@registry.task("t", retention=60)
def t(): pass
""")
    worker = site.worker("--concurrency", 1)
    events = site.eventually(lambda: _history(site))
    assert (events[-1].at - events[-1].tick).total_seconds() < 0.25
    assert worker.stop() == 0


def _history(site):
    inspector = Inspector(site.queue)
    return inspector.schedules() and inspector.schedule_history("t")


def test_a_burst_runs_what_is_due_by_now(site):
    """Ticks that were missed among it; and it ends."""
    site.app("""
@registry.periodic("0 0 1 1 *", missed="catch_up")
@registry.task("t", retention=60)
def t(): pass
""")
    site.burst()
    assert site.sql("SELECT count(*) FROM fireforget_job") == [(0,)]
    site.sql("UPDATE fireforget_schedule SET next_at = strftime('%s', '2020-01-01') + 0.0 WHERE 1")
    site.burst()
    ((count,),) = site.sql("SELECT count(*) FROM fireforget_jobs WHERE state = 'completed'")
    assert count == time.gmtime().tm_year - 2020 + 1


def test_a_payload_function_that_fails_is_tried_again_like_a_handler(site):
    """And no tick is lost by it."""
    site.app("""
def build():
    if not os.path.exists(os.path.join(HERE, "failed")):
        open(os.path.join(HERE, "failed"), "w").close()
        raise RuntimeError("not now")
    return {"x": 1}

@registry.periodic("0 0 1 1 *", payload=build)
@registry.task("t", retention=60)
def t(x): pass
""")
    site.burst()
    site.sql("UPDATE fireforget_schedule SET next_at = strftime('%s', '2020-01-01') + 0.0 WHERE 1")
    worker = site.worker("--concurrency", 1)
    worker.wait_record("task failed", task_type="fireforget:tick")
    site.eventually(lambda: site.sql("SELECT 1 FROM fireforget_jobs WHERE type = 't' AND state = 'completed'"))
    assert worker.stop() == 0
