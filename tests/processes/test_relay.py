"""The relay: stored jobs reach another enqueuer, at least once, in order, whatever dies or is down meanwhile."""

import os
import random
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from fireforget import SqliteQueue, Task, fan_out
from fireforget.errors import UnknownJob
from fireforget.testing import drain

PATIENCE = 10.0

APP = """
class Engine:
    def __init__(self):
        self._queue = SqliteQueue(os.path.join(HERE, "engine.db"), durability="normal")

    def enqueue(self, task, *, timeout=None, **options):
        note(task.options["task_id"])
        if os.path.exists(os.path.join(HERE, "hangs")):
            say("hangs")
            hold("never")
        if os.path.exists(os.path.join(HERE, "down")):
            raise ConnectionError("nobody there")
        if task.type == "mail:odd":
            raise RuntimeError("odd")
        if "group" in task.options or task.type == "mail:refused":
            raise InvalidOption("colour", "red", "paint it elsewhere")
        return self._queue.enqueue(task, timeout=timeout, **options)

make = Engine

@registry.task("mail:")
def mail(**arguments):
    note("ran here")
"""


class Outbox:
    """An application's file, the engine's file, and relays between them."""

    def __init__(self, site):
        self.site = site
        site.app(APP)
        self.engine = SqliteQueue(site.folder / "engine.db", durability="normal")

    def relay(self, *flags, to="app:make", ready=True):
        process = self.site.worker_of(
            [sys.executable, "-m", "fireforget", "relay", "app:registry", "--to", to, "--db", str(self.site.db),
             "--log-format", "json", *flags]
        )  # fmt: skip
        if ready:
            process.wait_log(" started: ")
        return process

    def delivered(self, job_id):
        try:
            return self.engine.get(job_id)
        except UnknownJob:
            return None

    def is_empty(self):
        return not self.site.sql("SELECT 1 FROM fireforget_job LIMIT 1")


@pytest.fixture
def outbox(site):
    made = Outbox(site)
    yield made
    made.engine.close()


def test_jobs_are_handed_on_in_order_with_all_they_carry(site, outbox):
    """The engine runs them as the file would have: same id, queue, priority, limits, headers; and higher priority first."""
    deadline = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    options = {"queue": "low", "priority": 2, "max_retry": 3, "timeout": 7, "retention": 60, "headers": {"trace": "a"}}
    first = site.enqueue("mail:send", {"to": "ä"}, **{**options, "timeout": None, "run_timeout": 7})
    last = site.enqueue("mail:send", None, queue="low", task_id="own", deadline=deadline)
    before = site.enqueue("mail:send", [1], queue="low", priority=9)
    later = site.enqueue("mail:send", process_in=3600)
    other = site.enqueue("other:type")
    relay = outbox.relay("--burst")
    assert relay.exit_code() == 0, relay.log
    assert site.notes() == [before, first, last]
    info = outbox.delivered(first)
    assert (info.type, info.payload, info.queue, info.priority) == ("mail:send", {"to": "ä"}, "low", 2)
    assert (info.max_retry, info.timeout, dict(info.headers), info.deadline) == (3, 7, {"trace": "a"}, None)
    assert (outbox.delivered("own").deadline, outbox.delivered("own").timeout) == (deadline, None)
    assert outbox.engine.get(before).payload == [1]
    assert [site.queue.get(job).state for job in (later, other)] == ["scheduled", "pending"]
    assert len(relay.said("task relayed", task_type="mail:", success=True)) == 3
    retention = outbox.engine._database.connection().execute("SELECT retention FROM fireforget_job ORDER BY n").fetchall()
    assert retention == [(0.0,), (60.0,), (0.0,)]


def test_an_engine_that_is_down_costs_nothing_and_is_waited_for(site, outbox):
    """No attempt, no flood in the log, nothing claimed beyond what a child tries; then it goes on by itself."""
    site.release("down")
    jobs = [site.enqueue("mail:send", {"n": n}, max_retry=0, run_timeout=0.2) for n in range(30)]
    relay = outbox.relay()
    site.eventually(lambda: len(site.notes()) >= 4)
    states = dict(site.sql("SELECT state, count(*) FROM fireforget_jobs GROUP BY state"))
    assert states.keys() <= {"active", "pending", "retry"}
    assert states.get("active", 0) <= 3
    assert len(relay.said("a job could not be relayed, nothing is lost, trying again")) == 1
    (site.folder / "down").unlink()
    site.eventually(outbox.is_empty, PATIENCE)
    assert all(outbox.delivered(job) for job in jobs)
    relay.wait_record("jobs are relayed again")
    assert relay.stop() == 0
    assert "task failed" not in relay.log


def test_a_second_delivery_is_recognised(site, outbox):
    """A relay that died between handing a job on and writing that down does it again: the engine has it once."""
    job = site.enqueue("mail:send")
    outbox.engine.enqueue(Task("mail:send", task_id=job))
    relay = outbox.relay("--burst")
    assert relay.exit_code() == 0, relay.log
    assert (site.notes(), outbox.is_empty()) == ([job], True)


def test_what_the_engine_refuses_for_good_is_archived_and_what_is_odd_holds_up_nobody(site, outbox):
    """A job whose option the engine cannot keep says so in its last error; one that fails for its own reason is tried apart."""
    refused = site.enqueue("mail:refused", priority=5)
    odd = site.enqueue("mail:odd", priority=9, max_retry=0)
    jobs = [site.enqueue("mail:send") for _ in range(20)]
    relay = outbox.relay()
    site.eventually(lambda: all(outbox.delivered(job) for job in jobs))
    first = site.enqueue("mail:send", process_in=0.1)
    linked = site.enqueue("mail:send", after=[first])
    info = site.state_is(refused, "archived")
    assert info.last_error == "SkipRetry: not relayed: InvalidOption: colour='red': paint it elsewhere"
    assert "only the file keeps: leave it to a worker" in site.state_is(first, "archived").last_error
    assert site.eventually(lambda: site.queue.get(linked).state in ("archived", "cancelled"))
    assert site.queue.get(odd).state in ("retry", "pending", "active")
    assert site.queue.get(odd).retry_count == 0
    assert relay.stop() == 0


def test_killed_relays_cost_a_job_nothing_however_often(site, outbox):
    """A handler that kills three workers is archived; a job that waits for an engine has killed nobody."""
    site.release("hangs")
    job = site.enqueue("mail:send", max_retry=0)
    for _ in range(3):
        relay = outbox.relay()
        site.hear("hangs")
        relay.destroy()
    (site.folder / "hangs").unlink()
    outbox.relay("--burst")
    site.eventually(lambda: outbox.delivered(job))


def storm(site, outbox, jobs, kills, seed):
    """Kill relays, helpers and children at random while jobs come in; return the ids of the jobs."""
    dice = random.Random(seed)
    ids, relay = [], outbox.relay("--concurrency", "2", "--threads", "2")
    for _ in range(kills):
        seen = len(site.notes())
        ids += [info.id for info in site.queue.enqueue_many([Task("mail:send", {"n": n}) for n in range(jobs // kills)])]
        site.eventually(lambda seen=seen, relay=relay: len(site.notes()) > seen or not relay.running)
        victim = dice.choice(["relay", "child"])
        processes = relay.processes()
        if victim == "child" and processes:
            os.kill(dice.choice(processes), signal.SIGKILL)
        else:
            os.killpg(relay.pid, signal.SIGKILL)
        if victim == "relay" or not relay.running:  # a relay whose helper was killed ends by itself, now or in a moment
            relay.destroy()
            relay = outbox.relay("--concurrency", "2", "--threads", "2", ready=False)
    relay.destroy()
    outbox.relay("--concurrency", "2")
    site.eventually(outbox.is_empty, 60)
    return ids


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes of a relay in /proc")
@pytest.mark.parametrize(
    ("jobs", "kills"), [(200, 4), pytest.param(20_000, 200, marks=pytest.mark.torture)], ids=["short", "long"]
)
def test_a_storm_of_kills_loses_nothing(site, outbox, jobs, kills):
    """Every job that was enqueued has reached the engine, once, and none is left or archived."""
    ids = storm(site, outbox, jobs, kills, seed=8)
    stored = outbox.engine._database.connection().execute("SELECT task_id FROM fireforget_job").fetchall()
    assert outbox.is_empty()
    assert sorted(ids) == sorted(task_id for (task_id,) in stored)


def test_a_transaction_of_the_application_is_what_decides(site, outbox):
    """The outbox: rolled back means never delivered, committed means delivered."""
    import sqlite3

    queue = site.queue
    connection = sqlite3.connect(site.db, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    gone = queue.enqueue(Task("mail:send"), connection=connection).id
    connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")
    stays = queue.enqueue(Task("mail:send"), connection=connection).id
    connection.execute("COMMIT")
    connection.close()
    assert outbox.relay("--burst").exit_code() == 0
    assert stays != gone
    assert site.notes() == [stays]


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("app:nobody", "--to 'app:nobody': the module 'app' has no 'nobody'"),
        ("nowhere", "--to is 'nowhere' and must be module:enqueuer, such as nowhere:enqueuer"),
        ("app:HERE", "is no enqueuer"),
    ],
)
def test_a_mistake_in_to_gets_one_line(site, to, said):
    """As one in APP does."""
    site.app(APP)
    command = [sys.executable, "-m", "fireforget", "relay", "app:registry", "--to", to]
    done = subprocess.run(command, cwd=site.folder, env=site.env, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("fireforget relay: ")
    assert said in done.stderr


def test_what_was_relayed_runs_there_with_the_same_registry(site, outbox):
    """Fanned out in one transaction here, run there."""
    from fireforget import Registry
    from fireforget.relay import Relay

    registry, ran = Registry(), []

    @registry.subscribe("mail:came", name="one")
    def one(number):
        ran.append(number)

    fan_out(site.queue, "mail:came", {"number": 7}, registry=registry)
    relay = Relay(registry, site.db, outbox.engine, burst=True)
    relay.start()
    relay.join()
    assert [run.outcome for run in drain(outbox.engine, registry)] == ["completed"]
    assert ran == [7]


def test_a_call_that_does_not_come_back_is_given_up_and_costs_no_attempt(site, outbox):
    """An engine behind a dead connection holds up the relay for its limit, and not for ever."""
    site.release("hangs")
    job = site.enqueue("mail:send", max_retry=0)
    relay = site.script(
        "from app import registry, make\n"
        "from fireforget.relay import Relay\n"
        "from fireforget._pool import handover\n"
        "handover.RUN_SECONDS = 0.3\n"
        f"Relay(registry, {str(site.db)!r}, make).run()\n"
    )
    site.hear("hangs")
    (site.folder / "hangs").unlink()
    site.eventually(lambda: outbox.delivered(job))
    site.eventually(outbox.is_empty)
    assert relay.stop() == 0
