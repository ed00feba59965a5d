"""A short storm in every test run; `make torture` is the long one."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the processes of the storm find each other there as well

import bank
import storm


def judged(tmp_path, seconds, seed, kind=storm.Storm):
    """Let a storm rage and return its figures, with what they are made of shown when the test fails."""
    figures = storm.weather(seconds, seed, tmp_path, kind)
    print(figures)
    return figures


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes of a worker in /proc")
def test_a_storm_of_kills_loses_nothing_and_runs_nothing_twice_at_once(tmp_path):
    """Producers, workers, helpers and children are killed and stopped at random and at named points for some seconds; afterwards
    every accepted job has run to its end, none ran twice at once, no rerun is unexplained, and the file is sound.
    """
    figures = judged(tmp_path, 8, seed=20)
    assert figures["violations"] == []
    assert figures["accepted"] > 200
    assert figures["needs"] > 20
    assert figures["kills"] > 15


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes of a worker in /proc")
def test_a_storm_over_the_bank_leaves_every_cent_where_it_belongs(tmp_path):
    """Transfers by transactional handlers, and jobs of several steps, under the same kills and some between BEGIN and the message
    after COMMIT: each transfer happened exactly once, the accounts add up, and no stored step was called again.
    """
    figures = judged(tmp_path, 5, seed=7, kind=bank.Bank)
    assert figures["violations"] == []
    assert figures["transfers"] > 30
    assert figures["kills"] > 5


@pytest.mark.torture
@pytest.mark.parametrize("kind", [storm.Storm, bank.Bank])
@pytest.mark.parametrize("seed", range(100, 110))
def test_a_long_storm(tmp_path, seed, kind):
    """A minute of it, with other dice each time."""
    assert judged(tmp_path, 60, seed, kind)["violations"] == []


def test_the_judge_of_the_bank_finds_what_it_looks_for(tmp_path):
    """A transfer that happened twice, one that never did, a wrong account, and a step that was called again do not pass."""
    import sqlite3

    calm = bank.Bank(tmp_path, 0, 0)
    calm.open()
    calm.ledger.write_text("accepted lost transfer\naccepted twice transfer\nstored p fetch\ncalled p fetch\n")
    with sqlite3.connect(calm.database) as connection:
        connection.executemany("INSERT INTO transfer VALUES ('twice', 0, 1, 5)", [()] * 2)
        connection.execute("UPDATE account SET cents = cents - 5 WHERE number = 0")
    connection.close()
    violations = "\n".join(calm.judge()["violations"])
    calm.log.close()
    assert "a transfer never happened: lost" in violations
    assert "a transfer happened 2 times: twice" in violations
    assert "account 1 has 1000000 and should have 1000010" in violations
    assert "the accounts add up to 9999995" in violations
    assert "a step was called again: p fetch" in violations
    assert "1 receipts are missing and 0 are archived" in violations


def test_the_judge_finds_what_it_looks_for(tmp_path):
    """A ledger with a lost job, an overlap and a job left behind does not pass: the proof can fail."""
    from fireforget import SqliteQueue, Task

    with SqliteQueue(tmp_path / "storm.db") as queue:
        left = queue.enqueue(Task("storm")).id
    calm = storm.Storm(tmp_path, 0, 0)
    lines = ["accepted lost", "accepted fine", "began fine 1", "ended fine 1", "ended fine 1", "overlap fine 2"]
    calm.ledger.write_text("\n".join([*lines, "needs fine lost", "misinformed fine 2"]))
    violations = "\n".join(calm.judge()["violations"])
    calm.log.close()
    assert "accepted and never run to its end: lost" in violations
    assert "two runs at once: overlap fine 2" in violations
    assert "began before what it needs had ended: fine needs lost" in violations
    assert "wrong results of what it needs: misinformed fine 2" in violations
    assert f"left in state pending: {left}" in violations
    assert "1 jobs ran to their end again and 0 kills explain 0 at most" in violations
