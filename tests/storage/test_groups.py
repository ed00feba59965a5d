"""Groups as the store keeps them: who may take a job out of one, what plain SQL can do, what an operator sees."""

import sqlite3
from datetime import timedelta

import pytest

from fireforget import Inspector, Registry, SkipRetry, Task, _groups
from fireforget._pool.groups import Groups
from fireforget.errors import InvalidOption
from fireforget.testing import _signed_in, drain


@pytest.fixture
def registry():
    registry = Registry(retry_delay=60)

    @registry.aggregator("mail:", group_grace=30, group_max_delay=100, group_max_size=5)
    def digest(group, jobs):
        return Task("digest", [job.payload for job in jobs], retention=60)

    @registry.task("digest")
    def send(lines):
        return lines

    @registry.task("line")
    def line(text):
        return text

    return registry


@pytest.fixture
def inspector(queue):
    return Inspector(queue)


def collect(store, *lines, group="mail:anna", **options):
    return [store.enqueue(Task("line", line), group=group, **options) for line in lines]


def results(runs):
    return [run.result for run in runs if not run.type.startswith("fireforget:aggregate:")]


# --- drain ----------------------------------------------------------------------------------------------------------------


def test_a_drain_aggregates_what_is_complete_by_its_clock(queue, registry, clock):
    """As a worker would: after the grace, at the size, after the longest delay; the aggregator's run is seen too."""
    collect(queue, "a", "b")
    clock.advance(29)
    assert drain(queue, registry) == []
    clock.advance(1)
    runs = drain(queue, registry)
    assert [(run.type, run.outcome) for run in runs] == [("fireforget:aggregate:mail:", "completed"), ("digest", "completed")]
    assert results(runs) == [["a", "b"]]
    collect(queue, *"cdefgh")
    assert results(drain(queue, registry)) == [["c", "d", "e", "f", "g"]]
    for line in "ijk":
        clock.advance(25)
        collect(queue, line)
        assert drain(queue, registry) == []
    clock.advance(25)
    assert results(drain(queue, registry)) == [["h", "i", "j", "k"]]


def test_a_drain_leaves_groups_alone_that_it_does_not_serve(queue, registry, clock):
    """Those of other queues, and those without an aggregator."""
    collect(queue, "a", queue="low")
    collect(queue, "b", group="other")
    clock.advance(1000)
    assert drain(queue, registry, queues=["default"]) == []
    assert results(drain(queue, registry)) == [["a"]]
    assert Inspector(queue).groups()[0].name == "other"


def test_an_aggregator_that_raises_is_a_failed_run_and_is_tried_again(queue, clock):
    """The members wait for it; new ones are a group of their own."""
    registry = Registry(retry_delay=60)
    failing = [RuntimeError("not now")]

    @registry.aggregator("g", group_grace=1)
    def digest(group, jobs):
        if failing:
            raise failing.pop()
        return Task("digest", len(jobs))

    registry.task("digest")(lambda n: n)
    collect(queue, "a", "b", group="g")
    clock.advance(1)
    (run,) = drain(queue, registry)
    assert (run.type, run.outcome, str(run.error)) == ("fireforget:aggregate:g", "retry", "not now")
    collect(queue, "c", group="g")
    assert [(g.size, g.closed) for g in Inspector(queue).groups()] == [(1, False), (2, True)]
    clock.advance(120)
    assert results(drain(queue, registry)) == [2, 1] or results(drain(queue, registry)) == [1, 2]


def test_a_member_that_is_taken_out_while_its_group_waits_for_its_aggregator_is_not_in_it(queue, registry, inspector, clock):
    """Run, archived or deleted by hand: it is no member any more, so it is never done twice, and never lost."""
    registry.task("x")(print)
    jobs = collect(queue, *"abcde")
    failing = Registry()
    failing.aggregator("mail:", group_max_size=5)(lambda group, jobs: None)
    drain(queue, failing)  # closed; the aggregator gave no task
    assert [group.closed for group in inspector.groups()] == [True]
    inspector.run(jobs[0].id)
    inspector.archive(jobs[1].id)
    inspector.delete(jobs[2].id)
    (aggregate,) = inspector.tasks(type="fireforget:aggregate:")
    inspector.run(aggregate.id)
    runs = drain(queue, registry)
    assert sorted(map(str, results(runs))) == ["['d', 'e']", "a"]
    inspector.run(jobs[1].id)
    assert results(drain(queue, registry)) == ["b"]


def test_a_member_that_is_taken_out_while_the_aggregator_runs_is_not_in_its_task(queue, inspector, clock):
    """The aggregator is asked again, for the others."""
    registry = Registry()
    asked = []

    @registry.aggregator("g", group_grace=1)
    def digest(group, members):
        asked.append([member.payload for member in members])
        if len(asked) == 1:
            inspector.run(members[0].id)
        return Task("digest", asked[-1])

    registry.task("digest")(lambda lines: lines)
    registry.task("line")(lambda text: text)
    collect(queue, "a", "b", "c", group="g")
    clock.advance(1)
    assert sorted(map(str, results(drain(queue, registry)))) == ["['b', 'c']", "a"]
    assert asked == [["a", "b", "c"], ["b", "c"]]


# --- the job that aggregates ------------------------------------------------------------------------------------------------


@pytest.fixture
def failing():
    """A registry whose aggregator fails for good."""
    registry = Registry()

    @registry.aggregator("mail:", group_grace=30)
    def digest(group, jobs):
        raise SkipRetry("no template")

    return registry


def closed(queue, registry, clock, *lines):
    """Collect jobs, close their group and run its aggregator once; return their ids and that of the job that aggregates."""
    members = [job.id for job in collect(queue, *lines)]
    clock.advance(30)
    (run,) = drain(queue, registry)
    return members, run.id


def states(queue, members):
    return {queue.get(job_id).state for job_id in members}


def test_members_are_archived_with_the_job_that_aggregates_them_and_run_with_it(queue, registry, failing, inspector, clock):
    """They are dead letters that say why, instead of waiting for ever for a job that nobody runs."""
    members, aggregate = closed(queue, failing, clock, "a", "b")
    drain(queue, failing)
    assert states(queue, members) == {"archived"}
    assert queue.get(members[0]).last_error == "the job that aggregates its group was archived: SkipRetry: no template"
    assert inspector.groups() == []
    assert {queue.get(job_id).completed_at for job_id in [*members, aggregate]} == {queue.get(aggregate).completed_at}
    inspector.run(aggregate)
    assert results(drain(queue, registry)) == [["a", "b"]]
    assert inspector.counts()["archived"] == inspector.counts()["aggregating"] == 0


@pytest.mark.parametrize("how", ["run_all", "run", "delete"])
def test_what_was_archived_with_its_group_comes_back_into_a_group(queue, registry, failing, inspector, clock, how):
    """Run all dead letters, or the jobs alone, or delete the one that aggregates them: each is in exactly one task again."""
    members, aggregate = closed(queue, failing, clock, "a", "b")
    drain(queue, failing)
    if how == "run_all":
        assert inspector.run_all("archived") == 3
    elif how == "run":
        assert [inspector.run(job_id).state for job_id in members] == ["aggregating"] * 2
    else:
        inspector.delete(aggregate)
    assert results(drain(queue, registry)) == [["a", "b"]]


def test_cancelling_the_job_that_aggregates_cancels_its_members(queue, registry, inspector, clock):
    """And nothing else of the group; deleting it instead opens the group again, for what has come since as well."""
    broken = Registry(retry_delay=3600)
    broken.aggregator("mail:", group_grace=30)(lambda group, jobs: None)
    members, aggregate = closed(queue, broken, clock, "a", "b")
    (later,) = collect(queue, "c")
    inspector.cancel(aggregate)
    drain(queue, broken)
    assert states(queue, members) == {"cancelled"}
    assert queue.get(later.id).state == "aggregating"
    inspector.delete(aggregate)
    assert results(drain(queue, registry)) == []  # open again, and the grace counts from the last that came
    clock.advance(30)
    assert results(drain(queue, registry)) == [["a", "b", "c"]]


def test_members_that_follow_cost_a_look_no_more_than_their_group(queue, inspector):
    """However many there are: each batch is found by a seek."""
    plan = queue._database.connection().execute("EXPLAIN QUERY PLAN " + _groups.STRAY_BATCHES).fetchall()
    reads = [row[3] for row in plan if "fireforget_job" in row[3] or " job " in row[3]]
    assert len(reads) == 4 and all(line.startswith("SEARCH") for line in reads), reads


def test_only_a_worker_with_that_aggregator_claims_the_job_that_calls_it(queue, clock):
    """Two applications on one file, each with groups of its own, charge each other no attempts."""
    ours, theirs = Registry(), Registry()
    ours.aggregator("a:", group_grace=1)(lambda group, jobs: Task("digest"))
    theirs.aggregator("b:", group_grace=1)(lambda group, jobs: Task("digest"))
    collect(queue, "x", group="a:1")
    clock.advance(1)
    with _signed_in(queue, ours, None) as claims, claims.transaction():
        Groups(ours, claims, queue, claims._queues).close_complete(clock())
    assert drain(queue, theirs) == []
    assert [run.outcome for run in drain(queue, ours)] == ["completed"]


# --- plain SQL --------------------------------------------------------------------------------------------------------------


def test_a_group_can_be_given_in_an_insert(path, open_queue, registry, sql):
    """The last column of the view; the job waits for the others like one from Python."""
    queue = open_queue(path)
    assert [row[1] for row in sql("PRAGMA table_info(fireforget_enqueue)")].index("group") == 13
    sql("INSERT INTO fireforget_enqueue (type, task_id, queue, \"group\") VALUES ('line', 'own', 'low', 'mail:anna')")
    assert (queue.get("own").state, queue.get("own").group, queue.get("own").queue) == ("aggregating", "mail:anna", "low")
    sql("INSERT INTO fireforget_enqueue (type, process_at, \"group\") VALUES ('line', 5, 'mail:anna')")  # long past
    for values in ("'  '", "5", "x'61'"):
        with pytest.raises(sqlite3.IntegrityError, match="group must be text"):
            sql(f"INSERT INTO fireforget_enqueue (type, \"group\") VALUES ('line', {values})")
    with pytest.raises(sqlite3.IntegrityError, match="no process_at"):
        sql("INSERT INTO fireforget_enqueue (type, process_at, \"group\") VALUES ('line', 9e9, 'mail:anna')")
    assert [(g.queue, g.name, g.size) for g in Inspector(queue).groups()] == [
        ("default", "mail:anna", 1),
        ("low", "mail:anna", 1),
    ]


def test_a_group_whose_name_is_not_utf_8_is_left_alone(path, open_queue, registry, sql, clock):
    """Nothing would find its members under the name that is read: no job is made for it, time and again."""
    queue = open_queue(path)
    sql("INSERT INTO fireforget_enqueue (type, \"group\") VALUES ('line', CAST(x'6D61696C3AFF' AS TEXT))")
    clock.advance(1e9)
    assert drain(queue, registry) == []
    assert Inspector(queue).groups()[0].size == 1


def test_a_member_whose_instant_is_none_does_not_stop_its_group(path, open_queue, registry, inspector, sql, clock):
    """Another program wrote it into the table itself: a worker would end, each time anew."""
    queue = open_queue(path)
    collect(queue, "a", "b")
    sql("UPDATE fireforget_job SET enqueued_at = 'abc' WHERE n = 1")
    clock.advance(30)
    assert inspector.groups()[0].size == 2
    assert results(drain(queue, registry)) == [["a", "b"]]


# --- the operator -----------------------------------------------------------------------------------------------------------


def test_the_inspector_lists_groups_and_tells_when_they_complete(queue, inspector, registry, clock):
    """By queue and name; the moment is the aggregators' to know."""
    (first,) = collect(queue, "a")
    clock.advance(10)
    (last,) = collect(queue, "b")
    collect(queue, "c", group="other", queue="low")
    known, unknown = inspector.groups(registry=registry)
    assert (known.queue, known.name, known.size, known.closed) == ("default", "mail:anna", 2, False)
    assert (known.oldest, known.newest) == (first.enqueued_at, last.enqueued_at)
    assert known.completes_at == last.enqueued_at + timedelta(seconds=30)
    assert (unknown.queue, unknown.name, unknown.completes_at) == ("low", "other", None)
    assert [group.completes_at for group in inspector.groups("default")] == [None]
    assert inspector.groups("nothing") == []


def test_all_jobs_of_a_group_can_be_run_archived_and_deleted(queue, inspector):
    """And of no other."""
    for group in ("a", "b", "c"):
        collect(queue, "1", "2", group=group)
    assert inspector.count("aggregating", group="a") == 2
    assert inspector.run_all("aggregating", group="a") == 2
    assert inspector.archive_all("aggregating", group="b") == 2
    assert inspector.delete_all("aggregating", group="c") == 2
    assert {info.group for info in inspector.tasks("archived")} == {"b"}
    assert inspector.groups() == []
    with pytest.raises(InvalidOption, match="group"):
        inspector.tasks(group="")


def test_listing_groups_walks_the_index_of_groups(queue, inspector):
    """Not the jobs, however many there are."""
    plan = queue._database.connection().execute("EXPLAIN QUERY PLAN " + _groups.GROUPS, {"queue": None}).fetchall()
    reads = [row[3] for row in plan if "fireforget_job" in row[3]]
    assert len(reads) == 2 and all("fireforget_group" in line or "fireforget_batch" in line for line in reads), reads
