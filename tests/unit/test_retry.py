"""When a failed job runs again."""

import random
from datetime import timedelta

import pytest

from fireforget.errors import ChildDied, InvalidOption, JobTimeout
from fireforget.retry import LONGEST, RetryPolicy, default_delay, delay_after, exponential, fixed, is_ours, linear

ERROR = RuntimeError("no")


@pytest.mark.parametrize("failure", range(26))
def test_the_default_delay_is_asynqs_formula(failure, monkeypatch):
    """`n**4 + 15 + random(0..29) * (n + 1)` seconds after failure n, both ends of the random part included."""
    seen = []
    monkeypatch.setattr(random, "randint", lambda low, high: seen.append((low, high)) or high)
    assert default_delay(failure) == failure**4 + 15 + 29 * (failure + 1)
    assert seen == [(0, 29)]
    monkeypatch.undo()
    for _ in range(50):
        delay = default_delay(failure)
        assert failure**4 + 15 <= delay <= failure**4 + 15 + 29 * (failure + 1)
        assert (delay - failure**4 - 15) % (failure + 1) == 0


def test_a_fixed_delay_is_the_same_after_every_failure():
    """In seconds, or as a timedelta."""
    assert [delay_after(2, n, ERROR) for n in range(3)] == [2.0, 2.0, 2.0]
    assert delay_after(timedelta(minutes=1), 0, ERROR) == 60.0
    assert delay_after(0, 0, ERROR) == 0.0


def test_a_function_gets_the_number_of_the_failure_and_the_error():
    """So that it can wait longer, or as long as a server asked."""
    assert delay_after(lambda n, error: timedelta(seconds=10 * n + len(str(error))), 3, ERROR) == 32.0


@pytest.mark.parametrize("answer", [None, -1, "5", True, float("nan"), float("inf")])
def test_a_function_that_answers_nonsense_is_an_error(answer):
    """Who runs it then uses the default, and says so."""
    with pytest.raises(InvalidOption, match="retry_delay"):
        delay_after(lambda n, error: answer, 0, ERROR)


def test_what_a_function_raises_is_passed_on():
    """Nothing is swallowed here."""
    with pytest.raises(ZeroDivisionError):
        delay_after(lambda n, error: 1 / n, 0, ERROR)


# --- policies that are made of parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (fixed(3), [3, 3, 3, 3, 3]),
        (fixed(timedelta(minutes=1)), [60, 60, 60, 60, 60]),
        (linear(10), [10, 20, 30, 40, 50]),
        (linear(10, 5, cap=20), [10, 15, 20, 20, 20]),
        (linear(0, 2), [0, 2, 4, 6, 8]),
        (exponential(), [1, 2, 4, 8, 16]),
        (exponential(base=3, first=2, cap=50), [2, 6, 18, 50, 50]),
        (exponential(base=1.5, first=4), [4, 6, 9, 13.5, 20.25]),
        (exponential(first=0), [0, 0, 0, 0, 0]),
        (fixed(1).then(linear(10), after=2), [1, 1, 10, 20, 30]),
        (fixed(1).then(7, after=1).then(lambda n, error: 100 + n, after=3), [1, 7, 7, 100, 101]),
        (exponential().capped(5), [1, 2, 4, 5, 5]),
    ],
    ids=repr,
)
def test_a_policy_waits_as_it_reads(policy, delays):
    """The numbers of the reference, failure by failure from 0."""
    assert [policy(n) for n in range(5)] == delays
    assert [delay_after(policy, n, ERROR) for n in range(5)] == delays


@pytest.mark.parametrize("policy", [exponential(), exponential(base=10, first=3), linear(86400), exponential(base=1e6, jitter=0)])
def test_a_policy_ends_at_a_year_where_it_has_no_cap(policy):
    """A due time beyond any clock would be refused, and the default used instead."""
    assert policy(10_000) == LONGEST == delay_after(policy, 10_000, ERROR)


def test_jitter_only_shortens(monkeypatch):
    """By up to its share, so that a cap holds and jobs at the cap do not come back together."""
    policy = exponential(cap=100, jitter=0.1)
    for drawn, delay in ((0.0, 100.0), (0.5, 95.0), (1.0, 90.0)):
        monkeypatch.setattr(random, "random", lambda drawn=drawn: drawn)
        assert policy(50) == pytest.approx(delay)
        assert fixed(100, jitter=0.1)(0) == pytest.approx(delay)
    assert fixed(100, jitter=1)(0) == 0.0
    monkeypatch.undo()
    drawn = {policy(50) for _ in range(50)}
    assert len(drawn) > 10 and all(90 <= delay <= 100 for delay in drawn)


def test_a_policy_can_depend_on_the_error():
    """The class itself or a subclass; the last `on` that was added is asked first."""
    policy = exponential().on((OSError, ChildDied), 50).on(ConnectionError, fixed(5).then(None, after=1))
    assert [policy(3, error) for error in (ERROR, OSError(), ChildDied("died"), None)] == [8, 50, 50, 8]
    assert policy(0, ConnectionResetError()) == 5
    assert 15 <= policy(1, ConnectionResetError()) <= 44


def test_only_policies_without_the_applications_code_are_ours():
    """A supervisor asks those itself; all others are asked in a child."""
    ours = [None, 5, fixed(5), exponential(jitter=0.1).capped(9).on(JobTimeout, linear(3)).then(None, after=2)]
    assert all(map(is_ours, ours))
    theirs = [lambda n, error: 1, fixed(1).then(lambda n, error: 1, after=1), fixed(1).on(OSError, abs).jittered(0.5)]
    assert not any(map(is_ours, theirs))
    assert not is_ours(RetryPolicy(lambda n, error: 1.0, "mine"))


def test_a_policy_reads_like_what_made_it():
    """In logs and at a prompt."""
    policy = exponential(cap=600, jitter=0.1).on(OSError, fixed(5)).then(abs, after=3)
    assert repr(policy) == "exponential(base=2, first=1).capped(600).jittered(0.1).on(OSError, fixed(5)).then(abs, after=3)"


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: fixed(-1), "seconds"),
        (lambda: fixed(1, jitter=1.5), "jitter"),
        (lambda: fixed(1, jitter=True), "jitter"),
        (lambda: linear("1"), "first"),
        (lambda: linear(1, -1), "step"),
        (lambda: exponential(base=0.5), "base"),
        (lambda: exponential(base=float("nan")), "base"),
        (lambda: exponential(cap=-1), "cap"),
        (lambda: fixed(1).then(2, after=0), "after"),
        (lambda: fixed(1).then("2", after=1), "retry_delay"),
        (lambda: fixed(1).on("OSError", 2), "errors"),
        (lambda: fixed(1).jittered(-0.1), "jitter"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_where_it_is_written(make, option):
    """Not when a job has failed, in a worker's log."""
    with pytest.raises(InvalidOption) as caught:
        make()
    assert caught.value.option == option
