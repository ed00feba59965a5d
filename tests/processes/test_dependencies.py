"""Jobs that wait for others, in a worker: results that come from other processes, and kills in between."""

import os
import signal

from fireforget import Task, chain

APP = """
@registry.task("add")
def add(number):
    return number + sum(current_job().results.values())

@registry.task("slow")
def slow(name):
    say("runs", os.getpid())
    hold(name)
    return name

@registry.task("large")
def large(kilobytes):
    return "x" * 1024 * kilobytes

@registry.task("tell")
def tell():
    results = list(current_job().results.values())
    return [len(result) if isinstance(result, str) and len(result) > 99 else result for result in results]

@registry.task("write", transactional=True)
def write():
    current_job().connection.execute("CREATE TABLE note (line TEXT)")
    return "written"
"""


def test_results_reach_those_that_wait_whatever_way_they_take(site):
    """Small ones and large ones, of many jobs and of one that is needed only while it runs, and from a handler's own commit."""
    site.app(APP)
    worker = site.worker("--concurrency", 2)
    queue = site.queue
    running = queue.enqueue(Task("slow", "late"))
    site.hear("runs")
    late = queue.enqueue(Task("tell", retention=60), after=[running])
    many = [Task("add", 1) for _ in range(300)]
    chained = chain(queue, [Task("add", n) for n in range(5)], retention=60)
    large = [Task("large", size) for size in (1, 31, 40, 900, 1024)]
    whole = queue.enqueue_many([*many, *large, Task("tell", after=[*many, *large], retention=60)])[-1]
    written = chain(queue, [Task("write"), Task("tell")], retention=60)[-1]
    assert site.finished(whole.id).result == [1] * 300 + [1024, 31 * 1024, 40 * 1024, 900 * 1024, None]
    assert site.finished(chained[-1].id).result == 0 + 1 + 2 + 3 + 4
    assert site.finished(written.id).result == ["written"]
    assert queue.get(late.id).state == "blocked"
    site.release("late")
    assert site.finished(late.id).result == ["late"]
    site.eventually(lambda: site.sql("SELECT count(*) FROM fireforget_dependency") == [(0,)])
    assert worker.stop() == 0


def test_a_kill_of_the_one_that_is_needed_is_its_own_retry(site):
    """The other stays blocked, and runs when the next attempt has succeeded."""
    site.app(APP)
    site.worker("--concurrency", 2, "--threads", 2)
    first, last = chain(site.queue, [Task("slow", "go"), Task("tell")], retention=60)
    _, pid = site.hear("runs").split()
    os.kill(int(pid), signal.SIGKILL)
    site.hear("runs")
    assert site.queue.get(last.id).state == "blocked"
    site.release("go")
    assert site.finished(last.id).result == ["go"]
    assert site.queue.get(first.id).retry_count == 1


def test_a_burst_ends_though_jobs_wait_for_what_nobody_runs(site):
    """Blocked jobs do not hold it up, those that become free do."""
    site.app(APP)
    ends = chain(site.queue, [Task("add", 1), Task("add", 2), Task("unheard-of"), Task("add", 3)], retention=60)
    site.burst()
    assert [site.queue.get(info.id).state for info in ends] == ["completed", "completed", "pending", "blocked"]
