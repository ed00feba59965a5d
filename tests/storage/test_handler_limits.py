"""Limits at the claim: who gets in, whose turn it is, and that those who wait hold up nobody."""

import json

import pytest

from fireforget import Inspector, Registry, Task
from fireforget._claimed import Claimed
from fireforget._claims import Claims
from fireforget._settling import Settlement
from fireforget.testing import drain


@pytest.fixture
def registry():
    """Handlers with limits of every kind, and one without."""
    registry = Registry()

    @registry.task("two", concurrency=2)
    def two(x=None): ...

    @registry.task("user", concurrency=2, concurrency_key="user:{user_id}")
    def user(user_id, x=None): ...

    @registry.task("api", rate="3/s")
    def api(x=None): ...

    @registry.task("tenant", rate="2/m", concurrency_key="{tenant}")
    def tenant(tenant, x=None): ...

    @registry.task("plain")
    def plain(x=None): ...

    @registry.task("many:", concurrency=1)
    def many(): ...

    return registry


@pytest.fixture
def new_claims(queue, clock, registry):
    made = []

    def new_claims(registry=registry, queues=("default",)):
        claims = Claims(queue._database, lambda kind: registry.match(kind) is not None, queues, clock, registry.limits_of)
        made.append(claims)
        claims.register(f"worker-{len(made)}", "/tmp/worker.lock", dict.fromkeys(queues, 1), 2, 1)
        return claims

    yield new_claims
    for claims in made:
        claims.close()


@pytest.fixture
def claims(new_claims):
    return new_claims()


@pytest.fixture
def enqueue(queue, registry):
    """Enqueue tasks of a handler, one for each of the arguments, which are users, tenants or anything."""

    def enqueue(type, *arguments, **options):
        definition = registry.definitions[type]
        names = {"user": "user_id", "tenant": "tenant"}
        queue.enqueue_many([definition.task(**{names.get(type, "x"): argument}) for argument in arguments], **options)

    return enqueue


def claim(claims, most=100, lanes=None):
    """One turn of a worker: look, then claim from every queue."""
    with claims.transaction():
        claims.begin_claiming()
        claims.forward_due()
        lanes = claims.lanes() if lanes is None else lanes
        found = claims.claim_from({queue: (types, most) for queue, types in lanes.items()})
    return [Claimed(*row) for rows in found.values() for row in rows]


def payloads(jobs):
    return [job.payload for job in jobs]


def users(jobs):
    return [job.payload.partition(":")[2].strip('"}') for job in jobs]


def settle(claims, **ends):
    fenced = {name: [(job.n, claims.worker, job.claim) for job in jobs] for name, jobs in ends.items()}
    with claims.transaction():
        return claims.settle(Settlement(**fenced))


# --- concurrency ----------------------------------------------------------------------------------------------------------


def test_no_more_jobs_are_claimed_than_may_run_at_once(enqueue, new_claims):
    """Across workers; each that ends makes room for one."""
    enqueue("two", *range(6))
    one, other = new_claims(), new_claims()
    first = claim(one, 1)
    second = claim(other)
    assert (len(first), len(second)) == (1, 1)
    assert claim(one) == claim(other) == []
    settle(one, removed=first)
    assert len(claim(other)) == 1
    assert claim(one) == []


def test_each_key_has_room_of_its_own(enqueue, claims):
    """Two of each user."""
    enqueue("user", *(user for user in "abc" for _ in range(4)))
    jobs = claim(claims)
    assert sorted(users(jobs)) == list("aabbcc")
    settle(claims, removed=[job for job in jobs if "b" in job.payload])
    assert users(claim(claims)) == ["b", "b"]


@pytest.mark.parametrize("end", ["removed", "put_back"])
def test_whatever_ends_a_job_frees_its_place(enqueue, claims, end):
    """There is nothing that could be forgotten: what is active is counted."""
    enqueue("two", *range(3))
    settle(claims, **{end: claim(claims)})
    assert len(claim(claims)) == (1 if end == "removed" else 2)


def test_a_dead_workers_places_are_free_once_its_jobs_are_taken_over(enqueue, new_claims):
    """And not before: a process of it may still be at work."""
    enqueue("two", *range(3))
    dead, alive = new_claims(), new_claims()
    claim(dead)
    assert claim(alive) == []
    alive.take_over(dead.worker, frozenset(), counts=True)
    assert len(claim(alive)) == 2


def test_jobs_of_one_prefix_count_together(queue, claims):
    """The handler is what has the limit, whatever the types and queues of its jobs."""
    queue.enqueue_many([Task("many:a"), Task("many:b"), Task("many:c")])
    assert len(claim(claims)) == 1
    assert claim(claims) == []


def test_a_key_counts_over_all_queues(enqueue, new_claims):
    """A queue is a lane, not another limit."""
    enqueue("two", 1, 2, queue="low")
    enqueue("two", 1, 2)
    claims = new_claims(queues=("default", "low"))
    assert len(claim(claims)) == 2


# --- those who wait hold up nobody ----------------------------------------------------------------------------------------


def test_jobs_behind_a_full_key_are_claimed(enqueue, claims):
    """Of the same type, of others, of the same priority and lower."""
    enqueue("user", *"aaaaa", priority=5)
    enqueue("plain", 1, 2)
    enqueue("user", "b")
    jobs = claim(claims)
    assert [job.type for job in jobs] == ["user", "user", "plain", "plain", "user"]
    assert claims.lanes() == {}


def test_a_lane_without_room_is_no_lane(enqueue, claims):
    """A worker sleeps then, and takes no lock in vain."""
    enqueue("two", *range(5))
    enqueue("plain", 1)
    claim(claims)
    enqueue("plain", 2)
    assert claims.lanes() == {"default": ["plain"]}


def test_limited_jobs_get_their_turn_beside_others(enqueue, claims, clock):
    """By priority and age: neither side waits for the whole backlog of the other."""
    enqueue("plain", *range(3))
    clock.advance(1)
    enqueue("user", *"ab")
    clock.advance(1)
    enqueue("plain", *range(3, 6))
    enqueue("user", "c", priority=1)
    assert [job.type for job in claim(claims, 4)] == ["user", "plain", "plain", "plain"]
    assert [job.type for job in claim(claims, 3)] == ["user", "user", "plain"]


@pytest.fixture
def cost(claims):
    """The work of SQLite's machine for one turn of a worker, in tens of its instructions."""

    def cost(most):
        steps = []
        claims.connection.set_progress_handler(lambda: steps.append(1) and None, 10)
        jobs = claim(claims, most)
        claims.connection.set_progress_handler(None, 10)
        return len(steps), jobs

    return cost


def test_a_hundred_thousand_jobs_of_full_keys_cost_nothing(queue, enqueue, claims, cost, sql):
    """What is claimed behind them costs what it costs alone."""
    enqueue("user", "a", "a", "b", "b")
    claim(claims)
    enqueue("user", "a", "b")
    enqueue("plain", *range(20))
    alone, jobs = cost(10)
    assert {job.type for job in jobs} == {"plain"}
    sql(
        "WITH RECURSIVE count(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM count WHERE i < 100000) "
        "INSERT INTO fireforget_job (nonce, type, queue, state, priority, due, payload, max_retry, retention, enqueued_at, "
        "limit_key) SELECT i, 'user', 'default', 2, 9, 1.0, '{\"user_id\":\"a\"}', 25, 0, 1.0, "
        "CASE i % 2 WHEN 0 THEN 'user user:a' ELSE 'user user:b' END FROM count"
    )
    behind, jobs = cost(10)
    assert {job.type for job in jobs} == {"plain"}
    assert len(jobs) == 10
    assert behind <= alone + 30


def test_ten_thousand_full_keys_are_stepped_over_a_part_at_a_time(enqueue, claims, cost, clock):
    """A walk is bounded, the next goes on where it ended, and long ones are rationed."""
    enqueue("tenant", *(f"t{n}" for n in range(10_000)))
    started = 0
    while jobs := claim(claims, 128):
        started += len(jobs)
    assert started == 10_000
    enqueue("tenant", *(f"t{n}" for n in range(10_000)), *(f"t{n}" for n in range(10_000)))
    while jobs := claim(claims, 128):
        started += len(jobs)
    assert started == 20_000
    enqueue("plain", *range(30))
    for _ in range(3):
        steps, jobs = cost(10)
        assert len(jobs) == 10
        assert steps < 6000  # a walk over all of them is twenty times as much
    assert claims.limited.look_at(0) < float("inf")


# --- fair between keys ------------------------------------------------------------------------------------------------------


def test_keys_have_their_turns_one_after_the_other(enqueue, claims):
    """A user with a long backlog does not keep the others waiting, and within a key the order is that of any queue."""
    enqueue("user", *"aaaaaaaa")
    enqueue("user", *"bbcc")
    order = []
    while jobs := claim(claims, 1):
        order += users(jobs)
        settle(claims, removed=jobs)
    assert "".join(order) == "abcabcaaaaaa"


def test_priority_holds_within_a_key(queue, registry, claims):
    """Higher first, then what was due first."""
    for x, priority in enumerate((0, 5, 0, 9)):
        queue.enqueue(registry.definitions["user"].task(user_id=1, x=x), priority=priority)
    order = []
    while jobs := claim(claims, 1):
        order += payloads(jobs)
        settle(claims, removed=jobs)
    assert [text.partition("x")[2] for text in order] == ['":3}', '":1}', '":0}', '":2}']


def test_a_key_whose_window_opens_again_and_again_keeps_nobody_waiting(enqueue, claims, clock):
    """Nor the other way round."""
    enqueue("tenant", *["a"] * 8, *["b"] * 8, *["c"] * 2)
    order = []
    for _ in range(8):
        clock.advance(20)
        jobs = claim(claims, 1)
        order += users(jobs)
        settle(claims, removed=jobs)
    assert min(order.count(tenant) for tenant in "abc") == 2


# --- rate -----------------------------------------------------------------------------------------------------------------


def most_in_a_window(starts, seconds):
    return max(sum(start <= other < start + seconds for other in starts) for start in starts)


def test_no_window_has_more_starts_than_the_rate(enqueue, new_claims, clock):
    """Any window, not one by the clock's seconds; across workers; and no fewer than it allows, but for the slack."""
    enqueue("api", *range(40))
    workers = [new_claims(), new_claims()]
    starts, began = [], clock.now
    while clock.now < began + 4.0:
        for claims in workers:
            jobs = claim(claims, 2)
            starts += [clock.now] * len(jobs)
            settle(claims, removed=jobs)
        clock.advance(0.0625)
    assert most_in_a_window(starts, 1.0) == 3
    assert len(starts) == 12
    assert most_in_a_window(starts, 1.05 + 0.0625) <= 6


def test_the_window_counts_from_the_latest_moment_at_which_a_job_may_start(enqueue, claims, clock):
    """So the rate holds for the starts, not for the claims alone; a child does not start one later than that."""
    enqueue("api", *range(6))
    jobs = claim(claims)
    assert len(jobs) == 3
    assert claims.limited.start_by.keys() == {job.n for job in jobs}
    clock.advance(1.04)
    assert claim(claims) == []
    clock.advance(0.02)
    assert len(claim(claims)) == 3


def test_a_worker_knows_when_the_window_opens(enqueue, claims, clock):
    """It sleeps until then and not a moment less, and with nothing left to claim for ever."""
    enqueue("api", *range(4))
    jobs = claim(claims)
    settle(claims, removed=jobs)
    assert claims.lanes() == {}
    assert claims.limited.look_at(100.0) == pytest.approx(101.05, abs=1e-3)
    clock.advance(1.06)
    assert claims.limited.look_at(100.0) <= 100.0
    assert claims.lanes() == {"default": ["api"]}
    settle(claims, removed=claim(claims))
    clock.advance(2)
    assert claims.lanes() == {}
    assert claims.limited.look_at(100.0) == float("inf")


def test_a_start_that_was_taken_back_is_given_back(enqueue, claims):
    """Another one may start at once; a job that did start and was put back counts."""
    enqueue("api", *range(5))
    jobs = claim(claims)
    settle(claims, given_back=jobs[:1], put_back=jobs[:1], removed=jobs[1:])
    assert len(claim(claims)) == 1
    assert claim(claims) == []
    enqueue("tenant", "a", "a", "a")
    jobs = claim(claims)
    settle(claims, put_back=jobs)
    assert claim(claims) == []


def test_a_late_giver_gives_nothing(enqueue, new_claims):
    """A worker whose job was taken over does not take the other's start away."""
    enqueue("api", *range(5))
    one, other = new_claims(), new_claims()
    jobs = claim(one)
    other.take_over(one.worker, frozenset(), counts=True)
    settle(one, given_back=jobs, put_back=jobs)
    assert claim(other) == []


def test_starts_that_count_no_more_are_removed(enqueue, claims, clock, sql):
    """In passing, also those of keys that never come again."""
    enqueue("tenant", *(f"t{n}" for n in range(50)))
    settle(claims, removed=claim(claims))
    clock.advance(61)
    for n in range(10):
        enqueue("tenant", f"new{n}")
        settle(claims, removed=claim(claims))
    assert sql("SELECT count(*) FROM fireforget_start") == [(10,)]


def test_a_clock_that_was_ahead_stops_nothing_for_long(enqueue, claims, clock):
    """Starts that are noted in a far future do not count."""
    enqueue("tenant", *["a"] * 5)
    clock.advance(100_000)
    settle(claims, removed=claim(claims))
    clock.advance(-99_990)
    assert len(claim(claims)) == 2


# --- keys ------------------------------------------------------------------------------------------------------------------


def test_jobs_stored_without_a_key_get_it_before_they_are_claimed(queue, claims, sql):
    """Whoever stored them: SQL, or a program that has no handlers."""
    sql("INSERT INTO fireforget_enqueue (type, payload) VALUES ('user', '{\"user_id\": 7}'), ('user', '{\"user_id\": 7}')")
    queue.enqueue_many([Task("user", {"user_id": 7}), Task("user", {"user_id": 8}), Task("user", [8])])
    assert sorted(payloads(claim(claims))) == ["[8]", '{"user_id": 7}', '{"user_id": 7}', '{"user_id":8}']
    assert claim(claims) == []


def test_many_jobs_without_a_key_get_theirs_some_at_a_time(queue, claims):
    """One transaction does not hold the lock for all of them."""
    queue.enqueue_many([Task("user", {"user_id": 1})] * 1200)
    assert len(claim(claims)) == 2
    assert claims.limited.look_at(5.0) <= 5.0
    assert [len(claim(claims)) for _ in range(3)] == [0, 0, 0]
    assert claims.lanes() == {}


@pytest.mark.parametrize("payload", ['{"x": 1}', "{", None, "[1"])
def test_a_job_that_no_key_can_be_made_for_is_claimed_and_counts_nowhere(sql, enqueue, claims, payload):
    """The child finds that its payload does not fit, and archives it as it does any other."""
    enqueue("user", *[1] * 3)
    sql("INSERT INTO fireforget_enqueue (type, payload) VALUES ('user', ?), ('user', ?), ('user', ?)", [payload] * 3)
    assert len(claim(claims)) == 5


def test_a_handler_that_lost_its_limits_runs_what_still_has_keys(enqueue, queue, new_claims):
    """A deployment changes the numbers at once: the worker's registry is what counts."""
    enqueue("user", *[1] * 5)
    registry = Registry()
    registry.task("user")(lambda user_id, x=None: None)
    queue.enqueue(Task("user", {"user_id": 1}))
    assert len(claim(new_claims(registry))) == 6


def test_a_handler_that_got_limits_applies_them_to_what_is_stored(queue, claims):
    """Jobs of before have no key; they get one."""
    queue.enqueue_many([Task("two")] * 5)
    assert len(claim(claims)) == 2


def test_a_changed_payload_has_another_key(queue, registry, claims):
    """`task update` moves a job to another user."""
    infos = queue.enqueue_many([registry.definitions["user"].task(user_id=1) for _ in range(3)])
    Inspector(queue).update(infos[2].id, payload={"user_id": 2})
    assert len(claim(claims)) == 3


def test_limits_hold_for_jobs_that_come_later(queue, registry, claims, clock):
    """Scheduled ones and retries have their keys with them."""
    queue.enqueue_many([registry.definitions["user"].task(user_id=1) for _ in range(4)], process_in=60)
    clock.advance(61)
    assert len(claim(claims)) == 2
    assert claim(claims) == []


# --- looking at it ----------------------------------------------------------------------------------------------------------


def test_a_job_tells_what_it_waits_for(queue, enqueue, new_claims, registry, sql, clock):
    """By the numbers of the newest worker."""
    inspector = Inspector(queue)
    info = queue.enqueue(registry.definitions["user"].task(user_id=7))
    assert inspector.limit_of(info.id) is None
    claims = new_claims()
    limits = {name: known.limits.numbers() for name, known in registry.definitions.items() if known.limits is not None}
    with claims.transaction():
        claims.connection.execute("UPDATE fireforget_worker SET limits = ?", (json.dumps(limits),))
    limit = inspector.limit_of(info.id)
    assert (limit.handler, limit.key, limit.running, limit.concurrency, limit.rate) == ("user", "user:7", 0, 2, None)
    assert str(limit) == "user:7, 0 of 2 running"
    enqueue("user", 7, 7)
    enqueue("tenant", "a", "a", "a")
    enqueue("plain", 1)
    claim(claims, 7)
    waiting = {row[1]: inspector.limit_of(row[0]) for row in sql("SELECT id, type FROM fireforget_jobs WHERE state = 'pending'")}
    assert str(waiting["user"]) == "limited by user:7, 2 of 2 running"
    assert str(waiting["tenant"]) == "limited by a, 2 of 2/m started"
    assert waiting["tenant"].opens_at.timestamp() == pytest.approx(clock.now + 60.25)
    plain = sql("SELECT id FROM fireforget_jobs WHERE type = 'plain'")[0][0]
    assert inspector.limit_of(plain) is None


def test_a_drain_ignores_limits(queue, registry):
    """A test of an application does not wait for a window."""
    queue.enqueue_many([registry.definitions["tenant"].task(tenant="a") for _ in range(5)])
    queue.enqueue_many([Task("two")] * 3)
    assert [run.outcome for run in drain(queue, registry)] == ["completed"] * 8
