"""What claims cost beside a great many other jobs: scheduled far in the future, archived, or spread over a hundred queues.

Ten thousand jobs are drained from a file that has nothing else, then from one with the others, turn by turn. Files are made once
and drained again and again.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import _common as common

from fireforget import SqliteQueue, Task, _sql

ARCHIVE_ALL = f"UPDATE fireforget_job SET state = {_sql.ARCHIVED}, completed_at = enqueued_at, last_error = 'old'"
YEARS = 10 * 365 * 86400
QUEUES = [f"lane{number}" for number in range(100)]


def scheduled(path: Path, others: int) -> None:
    common.store(path, others, process_in=YEARS)


def archived(path: Path, others: int) -> None:
    common.store(path, others)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(ARCHIVE_ALL)


CASES: dict[str, Callable[[Path, int], None]] = {"scheduled": scheduled, "archived": archived}


def drain(path: Path, jobs: int, *queues: str) -> float:
    """Store jobs, by turns in the queues, and return the rate at which a new worker drains them."""
    with SqliteQueue(path, durability="normal") as queue:
        lanes = queues or ("default",)
        for first in range(0, jobs, common.STORED_AT_ONCE):
            numbers = range(first, first + common.STORED_AT_ONCE)
            queue.enqueue_many([Task(common.NOOP, {"n": n}, queue=lanes[n % len(lanes)]) for n in numbers])
        newest = queue.enqueue(Task(common.NOOP, {"n": jobs}, queue=lanes[0], priority=-1)).id
    flags = ["--queues", ",".join(f"{lane}=1" for lane in lanes)]
    with common.worker(path, *flags) as process, closing(common.reader(path)) as connection:
        return common.time_newest(connection, jobs, int(newest.split("-")[1]), process)


def main() -> None:
    given = common.arguments(__doc__, others=(1_000_000, 50_000), jobs=(10_000, 5_000), rounds=(5, 2))
    figures = []
    with common.folder() as folder:
        alone = folder / "alone.db"
        for what, make in CASES.items():
            path = folder / f"{what}.db"
            make(path, given.others)
            ours, reference = [], []
            for _ in range(given.rounds):
                reference.append(drain(alone, given.jobs))
                ours.append(drain(path, given.jobs))
            figures.append(_figure(f"drain beside {given.others:,} {what}", ours, reference))
        ours, reference = [], []
        for _ in range(given.rounds):
            reference.append(drain(alone, given.jobs))
            ours.append(drain(alone, given.jobs, *QUEUES))
        figures.append(_figure("drain of 100 queues", ours, reference))
    common.report("flat", figures, others=given.others, jobs=given.jobs, rounds=given.rounds)


def _figure(what: str, ours: list[float], reference: list[float]) -> dict[str, object]:
    ratio = common.median_ratio(ours, reference)
    return common.figure(
        what, common.median(ours), common.median(reference), against="a file with nothing else, one queue", ratio=ratio,
        reach="at least 0.8", reached=ratio >= 0.8,
    )  # fmt: skip


if __name__ == "__main__":
    main()
