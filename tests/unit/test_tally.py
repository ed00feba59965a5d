"""The tally of runs: what is counted, and when it is to be written."""

import time

from fireforget._pool import tally as module
from fireforget._pool.tally import WRITE_SECONDS, Tally


def row(queue, type="t"):
    return (1, 1, type, queue)


def test_runs_are_counted_by_queue():
    """Failed ones are among those that ended; our own jobs, such as calls of hooks, are not."""
    tally = Tally()
    assert not tally and tally.due_at == float("inf")
    tally.count([row("a"), row("b"), row("a", "u"), row("a", "fireforget:hook")])
    tally.count_failed(row("b"))
    assert tally.rows() == [("a", 2, 0), ("b", 2, 1)]
    tally.committed()
    assert not tally and tally.rows() == []


def test_the_first_run_is_written_at_once_and_later_ones_once_a_second(monkeypatch):
    """So a lone job costs no write of its own; and nothing is due when there is nothing to write."""
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    tally = Tally()
    tally.count([row("a")])
    assert tally.due_at <= time.monotonic()
    tally.committed()
    assert tally.due_at == float("inf")
    tally.count([row("a")])
    assert tally.due_at == now + WRITE_SECONDS
