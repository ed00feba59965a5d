"""The four workloads that asynq measures itself with, on a worker with two children.

asynq is written in Go and runs on a Redis server, so it is not measured in this run. What it reached with ten goroutines on two
cores is said beside each figure where it is known.
"""

import time
from contextlib import closing
from pathlib import Path

import _common as common

from fireforget import SqliteQueue, Task

SOMETIMES = "bench:sometimes"
WEIGHTS = "critical=6,default=3,low=1"


def time_all(path: Path, jobs: int, *flags: str) -> float:
    """Return the rate from the worker's start until no job is left, its own start-up included, as asynq's are timed."""
    with closing(common.reader(path)) as connection:
        began = time.perf_counter()
        with common.worker(path, *flags) as process:
            common.wait_until(
                lambda: process.poll() is not None or common.first_left(connection, "fireforget_job", "n") is None, "the end"
            )
            return jobs / (time.perf_counter() - began)


def simple(jobs: int) -> float:
    with common.folder() as folder:
        common.store(folder / "jobs.db", jobs)
        return time_all(folder / "jobs.db", jobs)


def scheduled(jobs: int) -> float:
    """As many pending as scheduled, and one of a hundred fails its first run; it runs again a second later."""
    with common.folder() as folder:
        path = folder / "jobs.db"
        common.store(path, jobs, type=SOMETIMES)
        common.store(path, jobs, type=SOMETIMES, process_in=1)
        return time_all(path, 2 * jobs, "--log-level", "critical")


def weighted(jobs: int) -> float:
    with common.folder() as folder:
        path = folder / "jobs.db"
        for queue in ("critical", "default", "low"):
            common.store(path, jobs, queue=queue)
        return time_all(path, 3 * jobs, "--queues", WEIGHTS)


def while_draining(jobs: int, durability: str) -> float:
    """Return the rate of one thread's `enqueue` while a worker drains."""
    with common.folder() as folder:
        path = folder / "jobs.db"
        common.store(path, 1)
        with common.worker(path), SqliteQueue(path, durability=durability) as queue:
            common.run_some(path, 100)
            began = time.perf_counter()
            for n in range(jobs):
                queue.enqueue(Task(common.NOOP, {"n": n}))
            return jobs / (time.perf_counter() - began)


def main() -> None:
    given = common.arguments(__doc__, jobs=(100_000, 10_000), rounds=(3, 1))
    jobs = given.jobs
    runs = {
        f"drain {jobs:,} (asynq: 16 k without persistence, 2.9 k with)": lambda: simple(jobs),
        f"{jobs:,} pending and {jobs:,} scheduled, 1 % fail once": lambda: scheduled(jobs),
        f"three queues of {jobs // 5:,}, weights 6, 3, 1": lambda: weighted(jobs // 5),
        f"enqueue {jobs:,} while a worker drains, normal": lambda: while_draining(jobs, "normal"),
        f"enqueue {jobs // 10:,} while a worker drains, full": lambda: while_draining(jobs // 10, "full"),
    }
    rates: dict[str, list[float]] = {what: [] for what in runs}
    for _ in range(given.rounds):
        for what, run in runs.items():
            rates[what].append(run())
    common.report(
        "asynq_four", [common.figure(what, common.median(each)) for what, each in rates.items()], jobs=jobs, rounds=given.rounds
    )


if __name__ == "__main__":
    main()
