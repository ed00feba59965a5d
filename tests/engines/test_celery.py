"""Celery on a real broker, with a real worker process: the same handlers, the same promises."""

import importlib
import os
import signal
import sys
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("celery", reason="Celery is not installed: pip install 'fireforget[celery]' to test it")
pytest.importorskip("redis", reason="Celery's Redis client is not installed: pip install redis to test it")

from celery import Celery

from fireforget import InvalidOption, RegistrationError, Registry, Task, TaskIDConflict, UnknownJob, fan_out
from fireforget.engines.celery import CeleryEnqueuer, install
from fireforget.testing import check_enqueuer
from tests.engines.conftest import eventually

pytestmark = pytest.mark.filterwarnings("default")  # Celery's and its libraries' own warnings are not ours to mend

HANDLERS = """
import os, time
from celery import Celery
from fireforget import *
from fireforget.engines.celery import CeleryEnqueuer, install

registry = Registry(retry_delay=0)
HERE = os.path.dirname(os.path.abspath(__file__))

def note(*words):
    with open(os.path.join(HERE, "ledger"), "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

@registry.task("plain")
def plain(a, b=2):
    job = current_job()
    return {"sum": a + b, "id": job.id, "headers": job.headers, "queue": job.queue, "max_retry": job.max_retry}

@registry.task("flaky", max_retry=2)
def flaky():
    note("flaky", current_job().retry_count)
    raise ValueError("no")

@registry.task("skip")
def skip():
    note("skip")
    raise SkipRetry("pointless")

@registry.task("revoke")
def revoke():
    note("revoke")
    raise RevokeTask("gone")

@registry.task("later", max_retry=0)
def later():
    note("later", current_job().retry_count)
    if not os.path.exists(os.path.join(HERE, "now")):
        open(os.path.join(HERE, "now"), "w").close()
        raise RetryLater(0.1)
    return "at last"

@registry.task("slow", timeout=1, max_retry=1)
def slow():
    note("slow", current_job().retry_count)
    try:
        for _ in range(500):
            time.sleep(0.02)
    except Exception:
        note("swallowed")

@registry.task("deaf", timeout=1, max_retry=1)
def deaf():
    note("deaf", current_job().retry_count)
    if current_job().retry_count:
        return "heard"
    while True:
        try:
            time.sleep(30)
        except BaseException:
            pass

@registry.task("dies", max_retry=1)
def dies():
    note("dies", current_job().retry_count)
    if not current_job().retry_count:
        os.kill(os.getpid(), 9)
    return "lived"

@registry.task("stays")
def stays():
    note("stays", os.getpid())
    until = time.monotonic() + 20
    while not os.path.exists(os.path.join(HERE, "go")) and time.monotonic() < until:
        time.sleep(0.02)
    return "stayed"

@registry.task("told:")
async def told(**arguments):
    current_job().progress(0.5, "half")
    return [current_job().type, arguments]

@registry.subscribe("came", name="one")
def one(n):
    note("one", n)
    fire_and_forget(enqueuer, Task("plain", {"a": n}, task_id=f"fired-{n}"))

app = Celery("ours", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True,
                broker_transport_options={"visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1})
install(registry, app)
enqueuer = CeleryEnqueuer(app)
"""


@pytest.fixture
def celery(tmp_path, redis_port, monkeypatch):
    """The application above, with an empty broker of its own."""
    import redis

    client = redis.Redis(port=redis_port)
    client.flushall()
    client.close()
    (tmp_path / "celery_site.py").write_text(HANDLERS)
    monkeypatch.setenv("BROKER", f"redis://127.0.0.1:{redis_port}/0")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("celery_site", None)
    module = importlib.import_module("celery_site")
    yield module
    module.app.close()


@pytest.fixture
def start_worker(run_program):
    def start_worker(concurrency=3):
        flags = ["-c", str(concurrency), "-l", "info", "-Q", "critical,default,low"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        process = run_program("celery", "-m", "celery", "-A", "celery_site", "worker", *flags, *quiet)
        eventually(lambda: " ready." in process.log.read_text(), otherwise=process.log.read_text)
        return process

    return start_worker


def ended(enqueuer, job_id, log=lambda: ""):
    """Wait for the end of a task and return what is known of it."""
    return eventually(
        lambda: (info := enqueuer.get(job_id)).state in ("completed", "archived", "cancelled") and info, otherwise=log
    )


def known(enqueuer, job_id):
    try:
        return enqueuer.get(job_id)
    except UnknownJob:
        return None


def notes(folder):
    path = folder / "ledger"
    return path.read_text().splitlines() if path.exists() else []


def test_celery_keeps_what_enqueuers_promise(celery):
    """Or refuses it by name, as unique keys and groups."""
    assert len(check_enqueuer(lambda: celery.enqueuer)) == 12


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unique_for": 60}, r"unique_for=60\.0: Celery cannot keep this: enqueue it in a SqliteQueue"),
        ({"group": "all"}, "group='all': Celery cannot keep this"),
        ({"after": ["an-id"]}, "after=.*: Celery cannot keep this"),
        ({"priority": 5}, "priority=5: Celery keeps 0, 3, 6, 9 on Redis: broker_transport_options has priority_steps"),
        ({"priority": 10}, "priority=10"),
        ({"retention": timedelta(days=30)}, "retention=.*result_expires, 86400 s: set that to as much"),
    ],
)
def test_what_celery_cannot_keep_is_refused_with_what_to_do(celery, options, said):
    """An option that got lost on the way would be missed in production."""
    with pytest.raises(InvalidOption, match=said):
        celery.enqueuer.enqueue(Task("plain"), **options)


def test_without_a_result_backend_ids_and_results_are_refused():
    """Nobody could tell that an id is taken."""
    app = Celery("bare", broker="memory://", set_as_current=False)
    for option in ({"task_id": "a"}, {"retention": 1}):
        with pytest.raises(InvalidOption, match="without a result backend"):
            CeleryEnqueuer(app).enqueue(Task("plain"), **option)
    app.close()


def test_an_application_of_celery_has_one_registry(celery):
    """Two handlers for one type would be found out by chance."""
    with pytest.raises(RegistrationError, match="another registry already"):
        install(Registry(), celery.app)


@pytest.mark.parametrize(
    ("options", "said"), [({"transactional": True}, "transactional"), ({"rate": "1/s"}, "concurrency or rate")]
)
def test_handlers_that_take_the_file_are_refused(options, said):
    """When the program starts, not when the first job fails."""
    registry, app = Registry(), Celery("refused", broker="memory://", set_as_current=False)
    registry.task("file", **options)(lambda: None)
    with pytest.raises(RegistrationError, match=said):
        install(registry, app)
    app.close()


def test_handlers_run_as_in_a_worker(celery, start_worker, tmp_path):
    """Payloads, headers, results, retries with their counts, what handlers raise, limits, deaths, progress, patterns."""
    enqueuer = celery.enqueuer
    worker = start_worker()
    enqueue = enqueuer.enqueue
    jobs = {type: enqueue(Task(type, **celery.registry.match(type).options)).id
            for type in ("flaky", "skip", "revoke", "later", "slow", "deaf", "dies")}  # fmt: skip
    plain = enqueue(celery.plain.task(a=1), headers={"trace": "x"}, queue="critical", task_id="own", max_retry=4)
    told = enqueue(Task("told:you", {"x": 1}))
    fan_out(enqueuer, "came", {"n": 7}, registry=celery.registry)
    misfit = enqueue(Task("plain", {"c": 1}))
    delayed = enqueue(celery.plain.task(a=5), process_in=0.5)
    expired = enqueue(celery.plain.task(a=5), deadline=datetime.now(UTC) - timedelta(seconds=5))
    log = worker.log.read_text

    info = ended(enqueuer, plain.id, log)
    wanted = {"sum": 3, "id": "own", "headers": {"trace": "x"}, "queue": "critical", "max_retry": 4}
    assert (info.state, info.result) == ("completed", wanted)
    with pytest.raises(TaskIDConflict):
        enqueue(celery.plain.task(a=1), task_id="own")
    assert ended(enqueuer, told.id).result == ["told:you", {"x": 1}]
    eventually(lambda: known(enqueuer, "fired-7"), otherwise=log)
    assert ended(enqueuer, "fired-7", log).result["sum"] == 9
    assert ended(enqueuer, delayed.id).result["sum"] == 7
    info = ended(enqueuer, misfit.id)
    assert (info.state, info.retry_count) == ("archived", 0)
    assert "does not fit" in info.last_error
    assert (ended(enqueuer, expired.id).state, enqueuer.get(expired.id).last_error) == ("archived", "deadline passed")

    info = ended(enqueuer, jobs["flaky"], log)
    assert (info.state, info.retry_count, info.last_error) == ("archived", 2, "ValueError: no")
    assert ended(enqueuer, jobs["skip"]).state == "archived"
    assert ended(enqueuer, jobs["later"]).result == "at last"
    info = ended(enqueuer, jobs["slow"], log)
    assert (info.state, info.retry_count) == ("archived", 1)
    assert "timed out after 1 s" in info.last_error
    assert ended(enqueuer, jobs["deaf"], log).result == "heard"
    assert ended(enqueuer, jobs["dies"], log).result == "lived"
    with pytest.raises(UnknownJob):
        enqueuer.get(jobs["revoke"])
    lines = notes(tmp_path)
    assert [line for line in lines if line.startswith("flaky")] == ["flaky 0", "flaky 1", "flaky 2"]
    assert [line for line in lines if line.startswith("later")] == ["later 0", "later 0"]
    assert [line for line in lines if line.startswith(("slow", "deaf", "dies"))].count("slow 1") == 1
    assert lines.count("skip") == lines.count("revoke") == lines.count("one 7") == 1
    assert "swallowed" not in lines


def test_a_killed_celery_worker_loses_nothing(celery, start_worker, tmp_path):
    """Its messages are not acknowledged before their runs have ended, so the next worker gets them."""
    first = start_worker(1)
    jobs = [celery.enqueuer.enqueue(Task("stays")).id, celery.enqueuer.enqueue(celery.plain.task(a=1)).id]
    eventually(lambda: notes(tmp_path), otherwise=first.log.read_text)
    os.killpg(first.pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    second = start_worker(2)
    assert [ended(celery.enqueuer, job, second.log.read_text).state for job in jobs] == ["completed"] * 2
