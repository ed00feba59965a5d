"""Transactional handlers and steps in a worker: deaths, time limits, and what others may do meanwhile."""

import re
import signal
from time import monotonic

import pytest

from fireforget import Inspector, Task

APP = '''
from fireforget.middleware import DEFAULT_CHAIN
from fireforget import _effects

queue = SqliteQueue(os.path.join(HERE, "jobs.db"), durability="normal")

def once_dead(place):
    """Die in the first run of the job, at this place."""
    job = current_job()
    if place == (job.payload or {}).get("dies") and job.retry_count == 0:
        note("dies", place)
        os.kill(os.getpid(), signal.SIGKILL)

def outermost(job, call_next):
    result = call_next()
    if job.payload and job.payload.get("late"):
        if job.payload["late"] == "deaf":
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
        time.sleep(30)
    once_dead("after the commit")
    return result

def inner(job, call_next):
    result = call_next()
    once_dead("before the commit")
    return result

registry = Registry(retry_delay=0, middleware=[outermost, *DEFAULT_CHAIN, inner])

@registry.task("pay", transactional=True, retention=60)
def pay(to, cents=1, dies=None, late=None):
    once_dead("before it begins")
    connection = current_job().connection
    once_dead("when it has begun")
    connection.execute("INSERT INTO payment VALUES (?, ?)", (to, cents))
    queue.enqueue(Task("receipt", {"to": to}), process_in=3600)
    once_dead("when it has written")
    return cents

@registry.task("holds", transactional=True, transaction_timeout=0.5, retention=60)
def holds(how):
    job = current_job()
    job.connection.execute("INSERT INTO payment VALUES ('nobody', ?)", (job.retry_count,))
    if job.retry_count == 0:
        say("holds")
        if how == "c code":
            hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 1_000_000_000)
        while how == "python":
            pass
        while how == "goes on":
            try:
                time.sleep(30)
            except BaseException as error:
                note(str(error))
    return "not any more"

@registry.task("reads", transactional=True, transaction_timeout=0.5, retention=60)
def reads():
    time.sleep(0.8)  # the transaction has not begun
    current_job().connection.execute("INSERT INTO payment VALUES ('late', 1)")

@registry.task("forks", transactional=True, retention=60)
def forks():
    connection = current_job().connection
    connection.execute("INSERT INTO payment VALUES ('fork', 1)")
    pid = os.fork()
    if pid == 0:
        try:
            SqliteQueue(os.path.join(HERE, "jobs.db"))
        except StoreError as error:
            note(error)
        return
    os.waitpid(pid, 0)
    connection.execute("INSERT INTO payment VALUES ('parent', 1)")

@registry.task("import", retention=60)
def import_rows(dies=None):
    job = current_job()
    rows = job.step("fetch", fetch)
    once_dead("between steps")
    return job.step("count", len, rows)

def fetch():
    note("fetched")
    once_dead("in a step")
    return [1, 2, 3]
'''

FOUND_COMMITTED = "the transaction of a job whose process has died was committed: it is done"
WHERE = ["before it begins", "when it has begun", "when it has written", "before the commit", "after the commit"]


@pytest.fixture(scope="module")
def shared(make_site):
    """One worker with two children of one thread for the whole module, and a table of the application's."""
    site = make_site()
    site.app(APP)
    site.queue.get  # noqa: B018 - opens the file
    site.sql("CREATE TABLE payment (receiver TEXT, cents INTEGER)")
    site.metrics = site.folder / "metrics"
    site.one = site.worker("--concurrency", 2, "--metrics-file", site.metrics, "--metrics-interval", "0.05")
    return site


@pytest.fixture
def site(shared):
    shared.sql("DELETE FROM payment")
    # What tests before have run is in the metrics file a moment later.
    shared.eventually(lambda: not shared.metrics.exists() or successes(shared, "pay") == len(paid(shared)))
    return shared


def payments(site):
    return site.sql("SELECT receiver, cents FROM payment ORDER BY 1, 2")


def paid(site):
    """The jobs that have succeeded as the log says."""
    records = [*site.one.said("task processed", task_type="pay"), *site.one.said(FOUND_COMMITTED, task_type="pay")]
    return {record["task_id"] for record in records}


def discards(site):
    """What the metrics say of results that came too late."""
    found = re.search(r"results_discarded_total (\d+)", site.metrics.read_text())
    return int(found[1]) if found else 0


def successes(site, type):
    """What the metrics say of runs that succeeded."""
    found = re.search(rf'job_processed_total{{task_type="{type}",.*status="success"}} (\d+)', site.metrics.read_text())
    return int(found[1]) if found else 0


@pytest.mark.parametrize("place", WHERE)
def test_a_child_that_is_killed_anywhere_leaves_the_effect_exactly_once(site, place):
    """Before the commit the job has written nothing and is tried again; after it the job is done, and nothing is charged."""
    before = successes(site, "pay")
    info = site.result("pay", {"to": "ada", "dies": place})
    assert (info.state, info.result) == ("completed", 1)
    site.eventually(lambda: site.notes() == [f"dies {place}"])  # after the commit, which is what the result has waited for
    assert info.retry_count == (0 if place == "after the commit" else 1)
    assert payments(site) == [("ada", 1)]
    receipts = [job for job in Inspector(site.queue).tasks("scheduled") if job.type == "receipt"]
    assert len(receipts) == 1
    Inspector(site.queue).delete(receipts[0].id)
    site.eventually(lambda: successes(site, "pay") == before + 1)
    if place == "after the commit":
        site.one.wait_record(FOUND_COMMITTED, task_id=info.id)


def test_transactional_jobs_are_counted_and_logged_once_and_follow_each_other(site):
    """Each by its own transaction; nothing is settled twice, and an idle child gets the next one at once."""
    before, discarded = successes(site, "pay"), discards(site)
    day_before = Inspector(site.queue).queue_stats("default").processed_today
    jobs = [job.id for job in site.queue.enqueue_many([Task("pay", {"to": "bob", "cents": n}) for n in range(40)], retention=60)]
    for job in jobs:
        site.finished(job)
    assert payments(site) == [("bob", n) for n in range(40)]
    site.eventually(lambda: successes(site, "pay") == before + 40)
    assert [len(site.one.said("task processed", task_id=job)) for job in jobs] == [1] * 40
    site.eventually(lambda: Inspector(site.queue).queue_stats("default").processed_today >= day_before + 40)
    assert discards(site) == discarded


@pytest.mark.parametrize("how", ["python", "goes on", "c code"])
def test_a_transaction_that_stays_open_is_ended_and_others_wait_no_longer(site, how):
    """Softly at its limit, by force a quarter of a second later, whatever it does; only its own job pays."""
    job = site.enqueue("holds", {"how": how}, retention=60)
    site.hear("holds")
    began = monotonic()
    site.enqueue("receipt", {"to": "nobody"}, process_in=3600)
    waited = monotonic() - began
    assert 0.3 < waited < 0.5 + 0.25 + 0.6
    info = site.finished(job)
    assert (info.state, info.retry_count, info.result) == ("completed", 1, "not any more")
    (attempt,) = Inspector(site.queue).attempts(job)
    assert "its transaction was open for longer than 0.5 s" in attempt.error
    assert payments(site) == [("nobody", 1)]
    if how == "goes on":
        assert "its transaction was open for longer than 0.5 s" in site.notes()[0]
    assert not site.one.said("the store is in trouble, nothing is lost, trying again")


def test_only_the_open_transaction_counts_against_its_limit(site):
    """What a handler does before it uses its connection may take as long as its timeout allows."""
    assert site.result("reads").state == "completed"
    assert payments(site) == [("late", 1)]


@pytest.mark.parametrize(
    ("late", "message"),
    [
        ("hangs", "an error came after the transaction was committed: the job is done"),
        ("deaf", "the transaction of a job whose process has died was committed: it is done"),
    ],
)
def test_a_timeout_after_the_commit_does_not_undo_the_job(site, late, message):
    """It is done: a run that hangs afterwards is interrupted, or killed, and neither charged nor run again."""
    job = site.enqueue("pay", {"to": late, "late": late}, retention=60, run_timeout=0.3)
    info = site.finished(job)
    assert (info.state, info.retry_count, info.last_error) == ("completed", 0, None)
    site.one.wait_record(message, task_id=job)
    assert payments(site) == [(late, 1)]


def test_a_fork_inside_a_transaction_leaves_it_whole(site):
    """The forked process cannot open the file, where SQLite would take its parent's locks for its own; the handler goes on."""
    assert site.result("forks").state == "completed"
    assert payments(site) == [("fork", 1), ("parent", 1)]
    assert "forked in the middle of a transaction" in site.notes()[0]


@pytest.mark.parametrize(("place", "fetches"), [("in a step", 2), ("between steps", 1)])
def test_a_job_that_is_killed_goes_on_after_its_last_step(site, place, fetches):
    """A step whose result is stored is not called again; one that was not yet stored is."""
    info = site.result("import", {"dies": place})
    assert (info.result, info.retry_count) == (3, 1)
    assert site.notes().count("fetched") == fetches
    assert [step.name for step in Inspector(site.queue).steps(info.id)] == ["fetch", "count"]


# --- with a worker of their own -----------------------------------------------------------------------------------------


def test_with_threads_each_has_a_connection_of_its_own(own_site):
    """They take turns at the lock, and a soft interruption reaches the one that holds it for too long."""
    site = own_site
    site.app(APP)
    site.queue.get  # noqa: B018 - opens the file
    site.sql("CREATE TABLE payment (receiver TEXT, cents INTEGER)")
    stuck = site.enqueue("holds", {"how": "python"}, retention=60)
    jobs = [site.enqueue("pay", {"to": "many", "cents": n}, retention=60) for n in range(20)]
    site.worker("--concurrency", 1, "--threads", 4, "--queues", "default")
    for job in [stuck, *jobs]:
        assert site.finished(job).state == "completed"
    assert [cents for receiver, cents in payments(site) if receiver == "many"] == list(range(20))


def test_a_worker_that_dies_leaves_its_open_transaction_undone(own_site):
    """The kernel frees the lock, the next worker runs the job again, and the effect is there once."""
    site = own_site
    site.app(APP)
    job = site.enqueue("holds", {"how": "goes on"}, retention=60)
    site.sql("CREATE TABLE payment (receiver TEXT, cents INTEGER)")
    first = site.worker("--concurrency", 1, "--queues", "default")
    site.hear("holds")
    first.signal_all(signal.SIGKILL)
    site.worker("--concurrency", 1, "--queues", "default")
    info = site.finished(job)
    assert info.state == "completed"
    assert len(payments(site)) == 1
