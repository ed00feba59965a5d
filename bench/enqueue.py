"""Enqueue one job at a time, beside a bare INSERT of the same row; and from 32 threads at once, beside one.

The bare INSERT goes into the same table with the same indexes and pragmas, in a file of its own; the two take turns in short
blocks. It folds its WAL back where `enqueue` does, so that both write the same bytes.
"""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import _common as common

from fireforget import SqliteQueue, Task, _db, _sql

THREADS = 32
BLOCK = 250
EXPENSIVE_COMMIT_SECONDS = 0.0002
"""Where a commit costs this much, sharing it must pay; elsewhere it must not cost much."""


def beside_bare(folder: Path, durability: str, jobs: int) -> tuple[list[float], list[float]]:
    """Return the rates of the blocks: `enqueue`, bare INSERT."""
    path = str(folder / f"bare-{durability}.db")
    task = Task(common.NOOP, {"n": 1})
    statement, values = _bare_row(path, task)
    ours, bare = [], []
    with SqliteQueue(folder / f"ours-{durability}.db", durability=durability) as queue:
        queue.enqueue(task)
        with closing(_db.connect(path, synchronous=_db._SYNCHRONOUS[durability])) as connection:
            for _ in range(max(1, jobs // BLOCK)):
                ours.append(_rate(queue.enqueue, task))
                bare.append(_rate(connection.execute, statement, values))
                if _db.wal_size(path) > _db.WAL_LIMIT_BYTES:
                    _db.checkpoint(connection, path)
    return ours, bare


def _bare_row(path: str, task: Task) -> tuple[str, tuple[object, ...]]:
    """Return the INSERT with `?`, which binds faster than names do, and the values that `enqueue` would store."""
    with SqliteQueue(path) as queue:
        row = queue._row(task, {}, time.time())
    return _sql.INSERT_JOB, tuple(row[name] for name in _sql.INSERTED_COLUMNS)


def _rate(call: Callable[..., object], *arguments: object) -> float:
    began = time.perf_counter()
    for _ in range(BLOCK):
        call(*arguments)
    return BLOCK / (time.perf_counter() - began)


def from_threads(folder: Path, threads: int, jobs: int) -> float:
    """Return the rate at which threads enqueue together, `full`."""
    task = Task(common.NOOP, {"n": 1})
    with SqliteQueue(folder / "threads.db") as queue:
        start = threading.Barrier(threads + 1)

        def produce() -> None:
            queue.enqueue(task)  # opens the thread's connection
            start.wait()
            for _ in range(jobs // threads):
                queue.enqueue(task)

        crowd = [threading.Thread(target=produce) for _ in range(threads)]
        for thread in crowd:
            thread.start()
        start.wait()
        began = time.perf_counter()
        for thread in crowd:
            thread.join()
        return jobs // threads * threads / (time.perf_counter() - began)


def main() -> None:
    given = common.arguments(__doc__, jobs=(20_000, 2_000), rounds=(5, 3))
    figures = []
    with common.folder() as folder:
        for durability in ("normal", "full"):
            figures.append(_beside_bare(folder, durability, given.jobs))
        one, many = [], []
        for _ in range(given.rounds):
            one.append(from_threads(folder, 1, given.jobs // 4))
            many.append(from_threads(folder, THREADS, given.jobs))
    figures.append(_threads_figure(one, many))
    common.report("enqueue", figures, jobs=given.jobs, block=BLOCK, rounds=given.rounds)


def _beside_bare(folder: Path, durability: str, jobs: int) -> dict[str, object]:
    ours, bare = beside_bare(folder, durability, jobs)
    ratio = common.median_ratio(ours, bare)
    return common.figure(
        f"enqueue, {durability}", common.median(ours), common.median(bare), against="a bare INSERT of the same row",
        ratio=ratio, reach="at least 0.6", reached=ratio >= 0.6,
    )  # fmt: skip


def _threads_figure(one: list[float], many: list[float]) -> dict[str, object]:
    commit = 1 / common.median(one)
    least = 5.0 if commit >= EXPENSIVE_COMMIT_SECONDS else 0.7
    ratio = common.median_ratio(many, one)
    return common.figure(
        f"enqueue, full, {THREADS} threads", common.median(many), common.median(one), against="one thread", ratio=ratio,
        reach=f"at least {least:g} where a call takes {commit * 1000:.2f} ms", reached=ratio >= least,
    )  # fmt: skip


if __name__ == "__main__":
    main()
