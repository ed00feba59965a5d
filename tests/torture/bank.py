"""The bank: a storm over transactional handlers and steps, judged by accounts that have to add up to the cent.

    python tests/torture/bank.py --seconds 60 [--seed 1]

What it holds the queue to, beside what every storm does:

* each transfer that `enqueue` accepted has happened exactly once, or not at all where its job is archived because its worker died
  3 times under it; so with the receipts that the transfers enqueue inside their transactions;
* each account is what its transfers make of it, and all together what they were;
* no step is called again once its result is stored.
"""

import collections
import contextlib
import sqlite3
import sys
from pathlib import Path

import storm

HERE = Path(__file__).parent
ACCOUNTS, CENTS = 10, 1_000_000


class Bank(storm.Storm):
    """A storm over accounts."""

    app = "bank_app:registry"
    producer = "bank_producer.py"

    def open(self) -> None:
        """Make the accounts, in the queue's own file."""
        sys.path.append(str(storm.ROOT))  # run as a program, it finds what lies beside it alone
        from fireforget import SqliteQueue

        SqliteQueue(self.database, durability="normal").close()
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute("CREATE TABLE account (number INTEGER PRIMARY KEY, cents INTEGER NOT NULL)")
            connection.execute("CREATE TABLE transfer (job TEXT, source INTEGER, target INTEGER, cents INTEGER)")
            connection.execute("CREATE TABLE receipt (transfer TEXT)")
            connection.executemany("INSERT INTO account VALUES (?, ?)", [(n, CENTS) for n in range(ACCOUNTS)])

    def judge(self) -> dict[str, object]:
        """Compare the accounts with the transfers, and these with the ledger; return the figures, with the `violations`."""
        accepted: dict[str, set[str]] = {"transfer": set(), "pipeline": set()}
        points: collections.Counter[str] = collections.Counter()
        called: collections.Counter[str] = collections.Counter()
        stored: set[tuple[str, str]] = set()
        ended: set[str] = set()
        violations: list[str] = []
        for line in self.ledger.read_text().splitlines():
            word, subject, *more = line.split()
            if word == "accepted":
                accepted[more[0]].add(subject)
            elif word == "called":
                called["calls"] += 1
                if (subject, more[0]) in stored:
                    violations.append(f"a step was called again: {subject} {more[0]}")
            elif word == "stored":
                stored.add((subject, more[0]))
            elif word == "ended":
                ended.add(subject)
            elif word == "died":
                points[subject] += 1
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            query = connection.execute
            archived = dict(query("SELECT id, last_error FROM fireforget_jobs WHERE state = 'archived'").fetchall())
            archived_receipts = query("SELECT count(*) FROM fireforget_jobs WHERE state = 'archived' AND type = 'receipt'")
            (lost_receipts,) = archived_receipts.fetchone()
            left = query("SELECT id, state FROM fireforget_jobs WHERE state <> 'archived'").fetchall()
            done = collections.Counter(job for (job,) in query("SELECT job FROM transfer"))
            receipts = collections.Counter(job for (job,) in query("SELECT transfer FROM receipt"))
            accounts = dict(query("SELECT number, cents FROM account").fetchall())
            moves = query("SELECT source, target, cents FROM transfer").fetchall()
            orphans = query("SELECT count(*) FROM fireforget_step WHERE job NOT IN (SELECT n FROM fireforget_job)").fetchone()[0]
            (integrity,) = query("PRAGMA integrity_check").fetchone()
        expected = dict.fromkeys(range(ACCOUNTS), CENTS)
        for source, target, cents in moves:
            expected[source] -= cents
            expected[target] += cents
        violations += [
            f"account {n} has {accounts[n]} and should have {expected[n]}" for n in expected if accounts[n] != expected[n]
        ]
        total = sum(accounts.values())
        violations += [f"the accounts add up to {total}"] * (total != ACCOUNTS * CENTS)
        violations += [f"a transfer happened {times} times: {job}" for job, times in done.items() if times > 1]
        violations += [f"a receipt was sent {times} times: {job}" for job, times in receipts.items() if times > 1]
        violations += [f"a transfer never happened: {job}" for job in sorted(accepted["transfer"] - set(done) - set(archived))]
        violations += [f"a transfer happened and is archived: {job}" for job in sorted(set(done) & set(archived))]
        violations += [f"a receipt without a transfer: {job}" for job in sorted(set(receipts) - set(done))]
        missing = len(set(done) - set(receipts))
        violations += [f"{missing} receipts are missing and {lost_receipts} are archived"] * (missing != lost_receipts)
        violations += [f"a pipeline never ended: {job}" for job in sorted(accepted["pipeline"] - ended - set(archived))]
        violations += [f"archived for a wrong reason: {i}: {e}" for i, e in archived.items() if "worker died under it" not in e]
        violations += [f"left in state {state}: {i}" for i, state in left]
        violations += [f"{orphans} steps of jobs that are gone"] * bool(orphans)
        violations += [f"integrity_check: {integrity}"] * (integrity != "ok")
        return {
            "seconds": self.seconds,
            "transfers": len(done),
            "receipts": len(receipts),
            "cents_moved": sum(cents for _, _, cents in moves),
            "pipelines": len(ended),
            "steps_called": called["calls"],
            "archived_after_three_worker_deaths": len(archived),
            "kills": sum(self.kills.values()) + sum(points.values()),
            "kills_from_outside": dict(sorted(self.kills.items())),
            "kills_at_points": dict(sorted(points.items())),
            "violations": violations,
        }


if __name__ == "__main__":
    sys.exit(storm.main([Bank], __doc__ or ""))
