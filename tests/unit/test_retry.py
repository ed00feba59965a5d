"""When a failed job runs again."""

import random
from datetime import timedelta

import pytest

from fireforget.errors import InvalidOption
from fireforget.retry import default_delay, delay_after

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
