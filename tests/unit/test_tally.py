"""The tally of runs: what is counted, and when it is to be written."""

import time

from fireforget._history import Ended
from fireforget._pool import tally as module
from fireforget._pool.tally import WRITE_SECONDS, Tally
from fireforget.metrics import Samples


def row(queue, type="t"):
    return (1, 1, type, queue)


def pattern(type):
    return type.partition("/")[0]


def test_runs_are_counted_by_queue_and_pattern():
    """Failed ones are among those that ended; our own jobs, such as calls of hooks, are not."""
    tally = Tally(pattern)
    assert not tally and tally.due_at == float("inf")
    tally.count([row("a"), row("b"), row("a", "u/1"), row("a", "u/2"), row("a", "fireforget:hook")])
    tally.count_failed(row("b"), "retried")
    tally.count_failed(row("b"), "archived")
    tally.count_expired(row("c"))
    expected = [("a", "t", 1), ("b", "t", 3, 2, 1, 1), ("a", "u", 2), ("c", "t", 0, 0, 0, 1)]
    assert sorted(tally.rows()) == sorted(Ended(*counts) for counts in expected)
    tally.committed()
    assert not tally and tally.rows() == []


def test_times_come_from_what_children_measure_anyway():
    """Run times by type, waits by queue: as the metrics have them."""
    tally, samples = Tally(pattern), Samples()
    for seconds in (0.5, 1.5):
        samples.observe("job_duration_seconds", ("t", "a"), seconds)
        samples.observe("job_wait_seconds", ("a",), 10 * seconds)
    samples.count("job_processed_total", ("t", "a", "success"))
    tally.time(samples.drain())
    tally.time_run("a", "t", 3.0)
    assert tally.rows() == [Ended("a", "t", timed=3, run_seconds=5.0), Ended("a", "", waited=2, wait_seconds=20.0)]


def test_the_first_run_is_written_at_once_and_later_ones_once_a_second(monkeypatch):
    """So a lone job costs no write of its own; and nothing is due when there is nothing to write."""
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    tally = Tally(pattern)
    tally.count([row("a")])
    assert tally.due_at <= time.monotonic()
    tally.committed()
    assert tally.due_at == float("inf")
    tally.count([row("a")])
    assert tally.due_at == now + WRITE_SECONDS
