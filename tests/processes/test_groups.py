"""Jobs that are collected in a group and handed over as one task."""

import pytest

from fireforget import InvalidOption, RegistrationError, Registry, Task

APP = """
@registry.aggregator("mail:", group_grace=0.4, group_max_size=5)
def digest(group, jobs):
    if os.path.exists(os.path.join(HERE, "broken")):
        raise RuntimeError("not now")
    lines = [job.payload for job in jobs]
    return Task("mail:digest", {"to": group, "lines": lines}, retention=60, task_id=f"digest-{jobs[0].id}")

@registry.aggregator("slow", group_grace=60, group_max_delay=0.6)
def slow(group, jobs):
    lines = [job.payload for job in jobs]
    return Task("mail:digest", {"to": group, "lines": lines}, retention=60, task_id=f"digest-{jobs[0].id}")

@registry.aggregator("never:", group_max_size=2)
def never(group, jobs):
    raise SkipRetry("no template")

@registry.task("mail:digest")
def send(to, lines):
    note(to, *lines)
    return len(lines)
"""


@pytest.fixture
def site(site):
    site.app(APP)
    return site


def collect(site, group, *lines, **options):
    return [site.queue.enqueue(Task("mail:line", line), group=group, **options) for line in lines]


def test_a_group_becomes_one_task_when_nothing_more_comes(site):
    """In the order in which its jobs came, in the queue in which they waited; none of them runs by itself."""
    jobs = collect(site, "mail:anna", "a", "b", "c", queue="low")
    assert {(job.state, job.group) for job in jobs} == {("aggregating", "mail:anna")}
    worker = site.worker("--concurrency", 1)
    site.eventually(site.notes)
    assert site.notes() == ["mail:anna a b c"]
    site.eventually(lambda: site.sql("SELECT count(*) FROM fireforget_jobs WHERE state = 'aggregating'") == [(0,)])
    done = site.finished(f"digest-{jobs[0].id}")
    assert (done.state, done.queue, done.result) == ("completed", "low", 3)
    assert worker.stop() == 0


def test_a_full_group_does_not_wait_and_groups_are_apart(site):
    """`group_max_size` jobs go at once; what is left over waits for its grace; another name is another group."""
    site.worker("--concurrency", 2)
    collect(site, "mail:anna", *"abcdefg")
    collect(site, "mail:bert", "x")
    site.eventually(lambda: len(site.notes()) == 3)
    assert sorted(site.notes()) == ["mail:anna a b c d e", "mail:anna f g", "mail:bert x"]


def test_the_first_of_a_group_waits_no_longer_than_its_limit(site):
    """However many go on coming."""
    site.worker("--concurrency", 1)
    collect(site, "slow", "1", "2")
    site.eventually(site.notes)
    assert site.notes() == ["slow 1 2"]


def test_an_aggregator_that_fails_is_tried_again_and_loses_nothing(site):
    """Its group waits, closed, for the next attempt; new jobs begin another one."""
    site.release("broken")
    worker = site.worker("--concurrency", 1)
    collect(site, "mail:anna", "a", "b")
    worker.wait_record("task failed", task_type="fireforget:aggregate")
    assert site.sql("SELECT timeout FROM fireforget_jobs WHERE type LIKE 'fireforget:aggregate:%'") == [(5.0,)]
    collect(site, "mail:anna", "later")
    (site.folder / "broken").unlink()
    site.eventually(lambda: len(site.notes()) == 2)
    assert sorted(site.notes()) == ["mail:anna a b", "mail:anna later"]


def test_an_aggregator_that_fails_for_good_archives_its_group(site):
    """In the transaction that archives its own job: the members never wait for a job that nobody runs."""
    site.worker("--concurrency", 1)
    collect(site, "never:anna", "a", "b")

    def states():
        found = site.sql("SELECT DISTINCT state FROM fireforget_jobs")
        return found if ("archived",) in found else None

    assert site.eventually(states) == [("archived",)]
    assert site.sql("SELECT count(*) FROM fireforget_jobs") == [(3,)]


def test_a_group_without_an_aggregator_goes_on_waiting(site):
    """Another worker may have it; nothing is lost, and a burst does not wait for it."""
    (job,) = collect(site, "nobody", "a")
    site.burst()
    assert site.queue.get(job.id).state == "aggregating"


def test_what_cannot_be_a_group_raises_where_it_is_written(site):
    """A member has no delay of its own; limits are numbers above 0; one aggregator a group."""
    with pytest.raises(InvalidOption):
        site.queue.enqueue(Task("t"), group="g", process_in=5)
    registry = Registry()
    with pytest.raises(InvalidOption):
        registry.aggregator("g", group_max_size=0)
    with pytest.raises(InvalidOption):
        registry.aggregator("g", group_grace=-1)
    registry.aggregator("g")(lambda group, jobs: Task("t"))
    with pytest.raises(RegistrationError):
        registry.aggregator("g")
