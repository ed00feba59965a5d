"""The reports example: its schedules over a night on which the clocks change, and under a real worker."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from examples.reports.jobs import registry
from fireforget import SqliteQueue
from fireforget.testing import ManualClock, drain, tick

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def database(tmp_path, monkeypatch):
    path = tmp_path / "reports.db"
    monkeypatch.setenv("FIREFORGET_DB", str(path))
    return path


def reports(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT day, sales, cents FROM report ORDER BY day").fetchall()


def test_each_day_gets_its_report_and_sales_count_to_the_day_of_the_shop(database):
    """Over the night in which Berlin's clocks go forward; nights without a worker are caught up."""
    clock = ManualClock(datetime(2026, 3, 28, 22, 58, tzinfo=UTC))
    with SqliteQueue(database, clock=clock) as queue:
        tick(queue, registry)
        for _ in range(3):
            clock.advance(60)
            tick(queue, registry)
        assert {run.outcome for run in drain(queue, registry)} == {"completed"}
        clock.move_to(datetime(2026, 3, 29, 1, tzinfo=UTC))
        tick(queue, registry)
        drain(queue, registry)
        assert reports(database) == [("2026-03-28", 1, 1999)]
        clock.move_to(datetime(2026, 4, 1, 6, tzinfo=UTC))
        tick(queue, registry)
        drain(queue, registry)
    assert [day for day, _, _ in reports(database)] == ["2026-03-28", "2026-03-29", "2026-03-30", "2026-03-31"]
    assert reports(database)[1][1] == 3  # the two before, and the one at 03:00 itself


def test_a_worker_runs_the_example(database):
    """Its schedules are known once a worker has been there, and a night that was missed is caught up."""
    command = [sys.executable, "-m", "fireforget.worker", "examples.reports.jobs:registry", "--burst", "--concurrency", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for missed in (False, True):
        if missed:
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute("UPDATE fireforget_schedule SET next_at = next_at - 86400 WHERE name = 'report:daily'")
        done = subprocess.run(command, cwd=database.parent, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert len(reports(database)) == 1
