"""Jobs that wait for others: when they run, what they are told, what becomes of them when one fails, what is kept for them."""

import sqlite3
from contextlib import closing

import pytest

from fireforget import (
    DuplicateTask,
    Inspector,
    InvalidOption,
    Registry,
    RevokeTask,
    SkipRetry,
    SqliteQueue,
    Task,
    TaskIDConflict,
    UnknownJob,
    WrongState,
    _dependencies,
    chain,
    current_job,
    fire_and_forget,
    flush,
)
from fireforget._claims import MOST_DEATHS, Claims
from fireforget._limits import Trimming
from fireforget.testing import RecordingEnqueuer, drain


@pytest.fixture
def inspector(queue):
    return Inspector(queue)


@pytest.fixture
def registry():
    """Handlers that return what they were given, or what they got from others; "flaky" fails until it is told not to."""
    registry = Registry()
    registry.fails = True

    @registry.task("say")
    def say(word=None):
        return word

    @registry.task("told", retention=1e6)
    def told():
        job = current_job()
        return {"results": list(job.results.values()), "failures": list(job.failures.values())}

    @registry.task("flaky")
    def flaky():
        if registry.fails:
            raise SkipRetry("it rained")
        return "sun"

    @registry.task("revoked")
    def revoked():
        raise RevokeTask("never mind")

    return registry


def say(word=None, **options):
    return Task("say", word, **options)


def told(**options):
    return Task("told", retention=1e6, **options)


def states(queue, *infos):
    return [str(queue.get(info if isinstance(info, str) else info.id).state) for info in infos]


def is_gone(queue, info):
    with pytest.raises(UnknownJob):
        queue.get(info.id)
    return True


# --- waiting, and results -------------------------------------------------------------------------------------------------


def test_a_job_stays_blocked_until_all_that_it_needs_have_completed(queue, registry):
    """And then finds their results, by id and in the order in which it named them."""
    a, b = queue.enqueue_many([say("a"), say("b")])
    both = queue.enqueue(told(), after=[b, a.id])
    assert (both.state, both.next_process_at) == ("blocked", None)
    assert queue.get(both.id).state == "blocked"
    assert [run.id for run in drain(queue, registry, max_jobs=1)] == [a.id]
    assert states(queue, both) == ["blocked"]
    assert [run.id for run in drain(queue, registry)] == [b.id, both.id]
    assert queue.get(both.id).result == {"results": ["b", "a"], "failures": []}


@pytest.mark.parametrize("make", [RecordingEnqueuer, lambda: None], ids=["in memory", "file"])
def test_a_graph_is_stored_by_one_call_in_any_order(make, queue, registry):
    """`after` names the tasks themselves, or their ids; a diamond runs from its top to its bottom."""
    queue = make() or queue
    top = say("top")
    left, right = say("left", after=[top], task_id="left"), say("right", after=[top])
    bottom = told(after=["left", right])
    infos = queue.enqueue_many([bottom, right, left, top])
    assert [info.state for info in infos] == ["blocked", "blocked", "blocked", "pending"]
    first, *_, last = drain(queue, registry)
    assert (first.id, last.id) == (infos[3].id, infos[0].id)
    assert queue.get(infos[0].id).result["results"] == ["left", "right"]


def test_a_chain_hands_each_result_to_the_next(queue, registry):
    """One transaction; its own `after` goes to the first, the other options to all."""
    before = queue.enqueue(say("before"))
    infos = chain(queue, [told(), told(), told()], after=[before.id], queue="low")
    assert [(info.state, info.queue) for info in infos] == [("blocked", "low")] * 3
    drain(queue, registry)
    results = [queue.get(info.id).result["results"] for info in infos]
    assert results[0] == ["before"]
    assert results[2] == [{"results": [{"results": ["before"], "failures": []}], "failures": []}]
    assert chain(queue, []) == []


def test_a_chain_is_all_or_nothing(queue):
    """A taken id in the middle stores nothing of it; an enqueuer that could store a part of it is refused."""
    queue.enqueue(say(task_id="taken"))
    with pytest.raises(TaskIDConflict):
        chain(queue, [say(), say(task_id="taken"), say()])
    assert sum(Inspector(queue).counts().values()) == 1

    class One:
        def enqueue(self, task, **options): ...

    with pytest.raises(InvalidOption, match="enqueue_many"):
        chain(One(), [say()])


def test_a_job_may_come_to_be_needed_while_it_runs(queue, registry):
    """Its result is kept for the one that came in the meantime, though it has no retention."""

    @registry.task("busy")
    def busy():
        queue.enqueue(told(task_id="late"), after=[current_job().id])
        return "in time"

    queue.enqueue(Task("busy"))
    drain(queue, registry)
    assert queue.get("late").result["results"] == ["in time"]


def test_what_completed_before_counts_and_gives_its_result_if_it_is_still_stored(queue, registry):
    """An id that the file has issued and no longer stores counts as completed, without a result."""
    kept = queue.enqueue(say("kept"), retention=60)
    gone = queue.enqueue(say("gone"))
    drain(queue, registry)
    info = queue.enqueue(told(), after=[kept, gone])
    assert info.state == "pending"
    drain(queue, registry)
    assert queue.get(info.id).result["results"] == ["kept", None]


def test_a_delay_and_what_a_job_waits_for_both_have_to_be_over(queue, registry, clock):
    """A delay counts from the call. Once it is free, a job is due from then on, and not since it was enqueued."""
    a = queue.enqueue(say())
    later, sooner = queue.enqueue_many([told(process_in=100), told(process_in=5)], after=[a])
    clock.advance(10)
    drain(queue, registry, max_jobs=1)
    assert states(queue, later, sooner) == ["scheduled", "pending"]
    assert queue.get(sooner.id).next_process_at.timestamp() == clock.now
    clock.advance(90)
    drain(queue, registry)
    assert states(queue, later) == ["completed"]


def test_a_transactional_handler_frees_those_that_wait_for_it(queue, registry):
    """In the same commit as what it has written."""

    @registry.task("write", transactional=True)
    def write():
        current_job().connection.execute("CREATE TABLE note (line TEXT)")
        return "written"

    a, b = queue.enqueue_many([first := Task("write"), told(after=[first])])
    drain(queue, registry)
    assert queue.get(b.id).result["results"] == ["written"]
    assert is_gone(queue, a)


def test_what_is_fired_and_forgotten_can_wait_for_stored_jobs(queue, registry):
    """For ids alone: whether a task of the same moment is stored before it is anybody's guess."""
    a = queue.enqueue(say("a"))
    fire_and_forget(queue, told(task_id="b"), after=[a])
    assert flush(5) == 0
    assert states(queue, "b") == ["blocked"]
    with pytest.raises(InvalidOption, match="give ids"):
        fire_and_forget(queue, told(), after=[say()])


# --- what is refused ------------------------------------------------------------------------------------------------------


def test_an_id_that_was_never_issued_is_refused(queue):
    """Nothing is stored, and the error says which task it was about."""
    a = queue.enqueue(say())
    tag, n, nonce = a.id.split("-")
    for unknown in ("mine", f"{tag}-{int(n) + 1}-{nonce}", f"{tag}-{n}-{int(nonce, 16) ^ 1:08x}", f"0000-{n}-{nonce}"):
        with pytest.raises(UnknownJob) as caught:
            queue.enqueue_many([say(), say(after=[a.id, unknown])])
        assert (caught.value.job_id, caught.value.index) == (unknown, 1)
    assert sum(Inspector(queue).counts().values()) == 1


def test_a_circle_is_refused_with_those_that_are_in_it(queue):
    """By name where they have one, and by their places."""
    with pytest.raises(InvalidOption, match=r"'a' \(task 1\), which waits for 'b' \(task 2\), which waits for 'a'"):
        queue.enqueue_many([say(), say(task_id="a", after=["b"]), say(task_id="b", after=["a"])])
    with pytest.raises(InvalidOption, match=r"'own' .* which waits for 'own'"):
        queue.enqueue(say(task_id="own", after=["own"]))
    assert sum(Inspector(queue).counts().values()) == 0


@pytest.mark.parametrize("after", ["an-id", 7, [7], [None], {"a": 1}, [""]])
def test_after_takes_a_list_of_jobs(after):
    """What cannot be one raises where it is written."""
    with pytest.raises(InvalidOption, match="give a list of ids"):
        say(after=after)


def test_a_task_of_another_call_is_refused(queue):
    """Equal tasks are not the same task; the id of its job is."""
    for enqueue in (queue.enqueue, lambda task: queue.enqueue_many([say(), task]), RecordingEnqueuer().enqueue):
        with pytest.raises(InvalidOption, match="not among those of this call"):
            enqueue(told(after=[say()]))
    with pytest.raises(InvalidOption, match=r'"end".*"run"'):
        say(after_failure="ignore")


def test_groups_and_waiting_exclude_each_other(queue):
    """A member becomes a part of another task, so neither can it wait nor anybody for it."""
    a = queue.enqueue(say(), group="g")
    with pytest.raises(InvalidOption, match="member of a group"):
        queue.enqueue(say(), after=[a])
    with pytest.raises(InvalidOption, match="either group or after"):
        queue.enqueue(say(), group="g", after=[queue.enqueue(say())])
    assert queue.enqueue(say(), after=[]).state == "pending"


def test_on_a_connection_it_needs_an_open_transaction(queue, path, registry):
    """It is more than one statement. A rollback leaves nothing behind, neither the job nor that another is needed."""
    a = queue.enqueue(say("a"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.row_factory, connection.text_factory = sqlite3.Row, bytes
        with pytest.raises(ValueError, match="after on a connection needs an open transaction"):
            queue.enqueue(say(), after=[a], connection=connection)
        connection.execute("BEGIN")
        queue.enqueue(say(), after=[a], connection=connection)
        connection.execute("ROLLBACK")
        connection.execute("BEGIN")
        first, second = chain(queue, [told(), told()], after=[a], connection=connection)
        connection.execute("COMMIT")
    assert states(queue, first, second) == ["blocked", "blocked"]
    drain(queue, registry)
    assert queue.get(first.id).result["results"] == ["a"]
    assert is_gone(queue, a)


def test_a_blocked_job_holds_its_unique_key(queue, registry):
    """And gives it up when it ends with what it waits for."""
    a = queue.enqueue(Task("flaky"))
    waiting = queue.enqueue(told(), after=[a], unique_for=1000, unique_key="k")
    with pytest.raises(DuplicateTask) as caught:
        queue.enqueue(told(), unique_for=1000, unique_key="k")
    assert caught.value.existing_id == waiting.id
    drain(queue, registry)
    assert states(queue, waiting) == ["archived"]
    queue.enqueue(told(), unique_for=1000, unique_key="k")


# --- failure --------------------------------------------------------------------------------------------------------------


def test_when_one_is_archived_so_are_those_that_wait_for_it(queue, registry):
    """And those that wait for these, all with the reason at the root; it does not matter what else they wait for."""
    never = queue.enqueue(say(), process_in=1000)
    bad = Task("flaky", task_id="bad")
    infos = queue.enqueue_many([bad, b := told(after=[bad, never.id]), c := told(after=[b]), told(after=[c])])
    drain(queue, registry)
    assert states(queue, *infos) == ["archived"] * 4
    assert {queue.get(info.id).last_error for info in infos[1:]} == {"needed job bad was archived: SkipRetry: it rained"}
    assert queue.get(infos[3].id).completed_at is not None


def test_when_one_is_cancelled_so_are_those_that_wait_for_it(queue, inspector):
    """By hand, one or all of them."""
    infos = chain(queue, [say(task_id="a"), say(), say()])
    inspector.cancel("a")
    assert states(queue, *infos) == ["cancelled"] * 3
    assert queue.get(infos[2].id).last_error == "needed job a was cancelled: cancelled before it ran"
    infos = chain(queue, [say(queue="q"), say(), say()])
    assert inspector.archive_all("pending", queue="q") == 1
    assert states(queue, *infos) == ["archived"] * 3
    assert queue.get(infos[1].id).last_error == f"needed job {infos[0].id} was archived: archived by hand"


def test_when_one_is_deleted_or_revokes_itself_those_that_wait_for_it_are_cancelled(queue, inspector, registry):
    """It never completed, and never will."""
    infos = chain(queue, [say(task_id="a"), say(), say()])
    inspector.delete("a")
    assert states(queue, *infos[1:]) == ["cancelled"] * 2
    assert queue.get(infos[2].id).last_error == "needed job a was deleted"
    infos = chain(queue, [Task("revoked"), say()])
    drain(queue, registry)
    assert is_gone(queue, infos[0])
    assert queue.get(infos[1].id).last_error == f"needed job {infos[0].id} was revoked by its handler"


def test_after_failure_run_runs_all_the_same(queue, registry):
    """Once all have ended; the results have those that succeeded, and the failures the others."""
    bad, good, last = queue.enqueue_many([Task("flaky", priority=1), say("good"), told()])
    info = queue.enqueue(told(), after=[bad, good], after_failure="run")
    drain(queue, registry, max_jobs=1)
    assert states(queue, info) == ["blocked"]
    drain(queue, registry)
    reason = f"needed job {bad.id} was archived: SkipRetry: it rained"
    assert queue.get(info.id).result == {"results": ["good"], "failures": [reason]}
    assert queue.get(last.id).result == {"results": [], "failures": []}
    at_once = queue.enqueue(told(), after=[bad], after_failure="run")
    assert at_once.state == "pending"


def test_who_comes_after_a_failure_ends_like_it_at_once(queue, registry, inspector):
    """With what follows in the same call, and with the reason."""
    bad = queue.enqueue(Task("flaky"))
    cancelled = queue.enqueue(say())
    inspector.cancel(cancelled.id)
    drain(queue, registry)
    infos = chain(queue, [told(unique_for=60), told()], after=[bad])
    assert [info.state for info in infos] == ["archived", "archived"]
    assert infos[1].last_error == f"needed job {bad.id} was archived: SkipRetry: it rained"
    assert (queue.get(infos[1].id).last_error, queue.get(infos[1].id).completed_at) == (
        infos[1].last_error,
        infos[1].completed_at,
    )
    assert queue.enqueue(told(), after=[cancelled, bad]).state == "cancelled"


def test_a_job_that_is_archived_after_three_deaths_of_its_worker_takes_others_with_it(queue, clock):
    """The one who takes over tells them."""
    infos = chain(queue, [say(), say()])
    for _ in range(MOST_DEATHS):
        claims = Claims(queue._database, lambda _: True, ["default"], clock)
        claims.register("dead", "lock", {"default": 1}, 1, 1)
        with claims.transaction():
            (row,) = claims.claim("default", ["say"], 1)
        claims.take_over(claims.worker, frozenset([row[0]]), counts=True)
        claims.close()
    assert states(queue, *infos) == ["archived", "archived"]
    assert "its worker died under it 3 times" in queue.get(infos[1].id).last_error


# --- another try ----------------------------------------------------------------------------------------------------------


def test_running_an_archived_job_revives_what_waited_for_it(queue, registry, inspector):
    """And what waited for these; they then run as if nothing had happened."""
    infos = chain(queue, [Task("flaky"), told(unique_for=1000), told()])
    drain(queue, registry)
    assert states(queue, *infos) == ["archived"] * 3
    registry.fails = False
    inspector.run(infos[0].id)
    assert states(queue, *infos) == ["pending", "blocked", "blocked"]
    assert queue.get(infos[1].id).last_error is None
    with pytest.raises(DuplicateTask):
        queue.enqueue(told(unique_for=1000))
    drain(queue, registry)
    assert queue.get(infos[1].id).result["results"] == ["sun"]
    assert states(queue, *infos[1:]) == ["completed"] * 2


def test_it_waits_until_all_that_failed_are_run_again(queue, registry, inspector):
    """One of two is not enough, and a second failure takes them again."""
    bad, worse = queue.enqueue_many([Task("flaky"), Task("flaky")])
    both, last = queue.enqueue_many([first := told(after=[bad, worse]), told(after=[first])])
    drain(queue, registry)
    inspector.run(bad.id)
    assert states(queue, both, last) == ["archived", "archived"]
    assert inspector.run_all("archived", type="flaky") == 1
    assert states(queue, both, last) == ["blocked", "blocked"]
    drain(queue, registry)
    assert states(queue, both, last) == ["archived", "archived"]
    registry.fails = False
    inspector.run_all("archived", type="flaky")
    drain(queue, registry)
    assert queue.get(both.id).result["results"] == ["sun", "sun"]
    assert states(queue, last) == ["completed"]


def test_who_came_after_the_failure_is_revived_too(queue, registry, inspector):
    """It was archived at once, and waits like the others once there is hope."""
    bad = queue.enqueue(Task("flaky"))
    drain(queue, registry)
    late = queue.enqueue(told(), after=[bad])
    registry.fails = False
    inspector.run(bad.id)
    drain(queue, registry)
    assert queue.get(late.id).result["results"] == ["sun"]


def test_what_somebody_archived_for_another_reason_is_not_revived(queue, registry, inspector):
    """Nor what failed by itself."""
    bad = queue.enqueue(Task("flaky"))
    by_hand = queue.enqueue(told(), after=[bad])
    inspector.archive(by_hand.id)
    drain(queue, registry)
    registry.fails = False
    inspector.run(bad.id)
    drain(queue, registry)
    assert states(queue, by_hand) == ["archived"]
    inspector.run(by_hand.id)
    drain(queue, registry)
    assert queue.get(by_hand.id).result["results"] == ["sun"]


def test_one_that_fell_can_be_run_by_hand_without_the_other(queue, registry, inspector):
    """It runs at once, and is told what failed; a blocked one is refused."""
    bad, fell = queue.enqueue_many([first := Task("flaky"), told(after=[first])])
    with pytest.raises(WrongState, match="waits for other jobs"):
        inspector.run(fell.id)
    with pytest.raises(WrongState, match="waits for other jobs"):
        inspector.update(fell.id, process_in=5)
    drain(queue, registry)
    inspector.run(fell.id)
    drain(queue, registry)
    assert queue.get(fell.id).result["failures"] == [f"needed job {bad.id} was archived: SkipRetry: it rained"]


# --- what is kept ---------------------------------------------------------------------------------------------------------


def test_a_needed_job_is_kept_until_those_that_wait_have_succeeded(queue, registry, clock):
    """With its result, however long they take; afterwards it is removed, and so is all that was noted about it."""
    a = queue.enqueue(say("a"))
    soon, late = queue.enqueue_many([told(), told(process_in=1000)], after=[a])
    drain(queue, registry)
    assert (queue.get(a.id).state, queue.get(a.id).result) == ("completed", "a")
    assert states(queue, soon, late) == ["completed", "scheduled"]
    clock.advance(1000)
    drain(queue, registry)
    assert queue.get(late.id).result["results"] == ["a"]
    assert is_gone(queue, a)
    with queue._database.use() as connection:
        for table in ("dependency", "news", "attempt"):
            assert connection.execute(f"SELECT count(*) FROM fireforget_{table}").fetchone() == (0,)


def test_a_retention_ends_no_sooner_than_the_last_that_waits(queue, registry, clock):
    """It counts from its completion, and waits for those that still need it."""
    a = queue.enqueue(say("a"), retention=60)
    late = queue.enqueue(told(), after=[a], process_in=1000)
    short = queue.enqueue(told(), after=[a])
    drain(queue, registry)
    clock.advance(100)
    drain(queue, registry)
    assert states(queue, a, short) == ["completed", "completed"]
    clock.advance(900)
    drain(queue, registry)
    assert queue.get(late.id).result["results"] == ["a"]
    assert is_gone(queue, a)
    b = queue.enqueue(say("b"), retention=60)
    queue.enqueue(told(), after=[b])
    drain(queue, registry)
    assert states(queue, b) == ["completed"]
    clock.advance(61)
    drain(queue, registry)
    assert is_gone(queue, b)


def test_a_dead_letter_keeps_what_it_needs(queue, registry, inspector):
    """So that it finds the results when somebody runs it again; deleted, it lets them go."""

    @registry.task("picky", max_retry=0)
    def picky():
        return 1 / len(registry.allowed) and list(current_job().results.values())

    registry.allowed = []
    a, b = queue.enqueue_many([first := say("a"), Task("picky", after=[first], max_retry=0)])
    drain(queue, registry)
    assert states(queue, a, b) == ["completed", "archived"]
    registry.allowed = ["now"]
    inspector.run(b.id)
    assert [run.result for run in drain(queue, registry)] == [["a"]]
    assert is_gone(queue, a)
    c, d = queue.enqueue_many([first := say("c"), told(after=[first])])
    drain(queue, registry, max_jobs=1)
    inspector.delete(d.id)
    assert is_gone(queue, c)


# --- many -----------------------------------------------------------------------------------------------------------------


def test_many_are_told_a_part_at_a_time_and_by_whoever_comes_next(queue, registry, inspector):
    """A transaction tells no more than so many. What is left stands in the file, and survives whoever began with it."""
    most = _dependencies.MOST_TOLD
    first = say("a")
    a, *_ = queue.enqueue_many([first, *[told(after=[first]) for _ in range(most + 50)]])
    drain(queue, registry, max_jobs=1)
    assert inspector.counts()["blocked"] == 50
    with SqliteQueue(queue.path, clock=queue._clock) as another:
        assert len(drain(another, registry)) == most + 50
    assert is_gone(queue, a)
    b = queue.enqueue(say())
    queue.enqueue_many([told()] * (most + 50), after=[b])
    inspector.cancel(b.id)
    assert (inspector.counts()["cancelled"], inspector.counts()["blocked"]) == (most + 51, 0)


def test_one_can_wait_for_many(queue, registry, inspector):
    """It gets all the results, and lets all of them go."""
    parts = [say(n) for n in range(1200)]
    *_, whole = queue.enqueue_many([*parts, told(after=parts)])
    drain(queue, registry)
    assert queue.get(whole.id).result["results"] == list(range(1200))
    assert sum(inspector.counts().values()) == 1


def test_limits_of_history_do_not_take_what_others_need(queue, registry, inspector, clock):
    """It is kept until they have succeeded; what nobody needs is trimmed around it, and a trimmed dead letter lets it go."""
    inspector.set_limits("default", completed_max=0, archived_max=0)
    trimming = Trimming(queue._database, clock)
    a, b = queue.enqueue_many([say("a"), say("b")], retention=60)
    late = queue.enqueue(told(), after=[a], process_in=10)
    drain(queue, registry)
    assert list(iter(trimming.step, None)) == [("default", "completed", 1)]
    assert states(queue, a) == ["completed"] and is_gone(queue, b)
    inspector.archive(late.id)
    assert list(iter(trimming.step, None)) == [("default", "archived", 1), ("default", "completed", 1)]
    trimming.close()
    assert sum(inspector.counts().values()) == 0


def test_deleting_a_queue_deletes_those_that_wait_in_it(queue, inspector):
    """Whichever of its jobs they wait for; those of other queues are cancelled."""
    infos = queue.enqueue_many([a := say(queue="x"), b := say(queue="x", after=[a]), say(after=[b])])
    assert inspector.delete_queue("x", force=True) == 2
    assert states(queue, infos[2]) == ["cancelled"]


# --- looking --------------------------------------------------------------------------------------------------------------


def test_an_inspector_tells_who_waits_for_whom(queue, registry, inspector):
    """With how each stands; blocked jobs are listed and counted like others."""
    gone = queue.enqueue(say())
    drain(queue, registry)
    a, b, c = queue.enqueue_many([first := say(), second := Task("flaky"), told(after=[first, second, gone])])
    assert [(need.id, need.state, need.outcome) for need in inspector.needs(c.id)] == [
        (a.id, "pending", None),
        (b.id, "pending", None),
        (gone.id, None, "completed"),
    ]
    assert [(dependant.id, dependant.state) for dependant in inspector.dependants(a.id)] == [(c.id, "blocked")]
    assert (inspector.needs(a.id), inspector.dependants(c.id)) == ([], [])
    assert [info.id for info in inspector.tasks("blocked")] == [c.id]
    drain(queue, registry)
    assert [(need.outcome, need.reason) for need in inspector.needs(c.id)][1] == (
        "archived",
        f"needed job {b.id} was archived: SkipRetry: it rained",
    )
    with pytest.raises(InvalidOption, match="limit"):
        inspector.dependants(a.id, limit=0)
