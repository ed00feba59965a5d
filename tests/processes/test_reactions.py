"""What becomes of cancelled, killed and failed jobs beyond the run itself: cancellations that are swallowed, hooks, limits."""

import pytest

from fireforget import Inspector, State

APP = """
def told(name):
    def hook(info, error):
        note(name, info.type, info.state, error)
        if info.type == "hook:hangs":
            while True:
                try:
                    time.sleep(60)
                except BaseException:
                    pass
    return hook

registry = Registry(retry_delay=fixed(0), on_failure=told("failure"), on_archived=told("archived"))

@registry.task("swallows")
def swallows(then):
    say("runs")
    try:
        time.sleep(60)
    except BaseException:
        if then == "raises":
            raise ValueError("on the way out")
        if then == "skips":
            raise SkipRetry("on the way out")
        return "result"

@registry.task("swallows:async")
async def swallows_async(then):
    say("runs")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        note("cancelled", current_job().cancelled)
        return "result"

@registry.task("exits")
def exits():
    os._exit(3)

@registry.task("goes:on")
def goes_on():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def excuse(error):
    note("asked", type(error).__name__)
    return not isinstance(error, ChildDied)

@registry.task("excused", is_failure=excuse)
def excused():
    if not os.path.exists(os.path.join(HERE, "was-here")):
        open(os.path.join(HERE, "was-here"), "w").close()
        os._exit(3)
    return "done"

@registry.task("hook:hangs")
def hook_hangs():
    raise SkipRetry("no")
"""


@pytest.fixture(scope="module")
def site(make_site):
    """One worker with one child, so that a question about its death has to wait for the next one."""
    site = make_site()
    site.app(APP)
    site.metrics = site.folder / "metrics"
    site.worker_process = site.worker("--concurrency", 1, "--metrics-file", site.metrics, "--metrics-interval", 0.05)
    return site


@pytest.mark.parametrize(
    ("type", "then"), [("swallows", "returns"), ("swallows", "raises"), ("swallows", "skips"), ("swallows:async", "returns")]
)
def test_a_cancelled_job_ends_as_cancelled_whatever_its_handler_does(site, type, then):
    """Never completed, never archived, never in retry."""
    job = site.enqueue(type, {"then": then}, max_retry=0, retention=60, unique_for=60, unique_key="k")
    site.hear("runs")
    Inspector(site.queue).cancel(job)
    info = site.queue.wait(job, 3)
    assert (info.state, info.last_error, info.result) == ("cancelled", "cancelled while it ran", None)
    site.worker_process.wait_record("task cancelled", task_id=job)
    if type == "swallows:async":
        assert "cancelled True" in site.notes()


@pytest.mark.parametrize(("type", "error"), [("exits", "ended itself with exit code 3"), ("goes:on", "timed out after 0.1 s")])
def test_hooks_are_told_of_killed_jobs(site, type, error):
    """In a child that lives: neither the dead one nor the supervisor can."""
    site.enqueue(type, max_retry=0, run_timeout=0.1)
    lines = site.eventually(lambda: (found := [line for line in site.notes() if f" {type} " in line])[1:] and found)
    assert [line.split()[0] for line in lines] == ["failure", "archived"]
    assert all(line.endswith(error) and f"{type} archived" in line for line in lines)


def test_is_failure_is_asked_about_a_dead_child(site):
    """By the next child; the run then costs no attempt, whatever `max_retry` says."""
    info = site.result("excused", max_retry=0)
    assert (info.state, info.result, info.retry_count) == ("completed", "done", 0)
    assert site.notes().count("asked ChildDied") == 1
    assert site.worker_process.said("task postponed", task_id=info.id)


def test_limits_are_heeded_while_the_worker_runs(site):
    """Set by another program, without a restart; what is trimmed is counted."""
    inspector = Inspector(site.queue)
    jobs = [site.enqueue("nobody:handles") for _ in range(5)]
    for job in jobs:
        inspector.cancel(job)
    inspector.set_limits("default", cancelled_max=2)
    site.eventually(lambda: inspector.counts("default")[State.CANCELLED] == 2)
    assert [info.id for info in inspector.tasks("cancelled")] == jobs[3:]
    line = 'fireforget_jobs_trimmed_total{queue="default",state="cancelled"}'
    site.eventually(lambda: line in site.metrics.read_text())
    inspector.set_limits("default", cancelled_max=None)


@pytest.mark.torture  # it takes 6 s
def test_a_hook_that_hangs_is_ended(site):
    """After 5 s, by killing if need be; its job stays as it is, and the hook is not called again."""
    job = site.enqueue("hook:hangs")
    record = site.worker_process.wait_record("on_failure failed", within=15, task_id=job)
    assert record["error"] == "timed out after 5 s"
    assert site.queue.get(job).state == "archived"
