"""Fire and forget 200,000 jobs from one thread and wait until all are durable; and what one call costs.

The call is compared with `ThreadPoolExecutor.submit(int)` on one thread: the price of handing over anything at all.
"""

import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import _common as common

from fireforget import SqliteQueue, Task, fire_and_forget, flush

LEAST_A_SECOND = 100_000


def tasks(count: int) -> list[Task]:
    return [Task(common.NOOP, {"n": n}) for n in range(count)]


def until_durable(path: Path, calls: Iterable[Task], count: int) -> tuple[float, int]:
    """Return how many a second became durable, from the first call to the end of the flush, and how many were not in time."""
    with SqliteQueue(path) as queue:
        began = time.perf_counter()
        for task in calls:
            fire_and_forget(queue, task)
        lost = flush()
        return (count - lost) / (time.perf_counter() - began), lost


def call_times(path: Path, calls: list[Task]) -> list[float]:
    """Return the seconds of each call, while the buffer is being written."""
    clock, times = time.perf_counter, []
    with SqliteQueue(path) as queue:
        for task in calls:
            began = clock()
            fire_and_forget(queue, task)
            times.append(clock() - began)
        flush()
    return times


def submit_times(count: int) -> list[float]:
    """Return the seconds of each `submit(int)`."""
    clock, times = time.perf_counter, []
    with ThreadPoolExecutor(1) as executor:
        for _ in range(count):
            began = clock()
            executor.submit(int)
            times.append(clock() - began)
    return times


def main() -> None:
    given = common.arguments(__doc__, calls=(200_000, 20_000), rounds=(5, 3))
    logging.disable(logging.CRITICAL)  # a machine too slow for the default timeout would print a line for each that is lost
    calls = tasks(given.calls)
    rates, with_tasks, ours, theirs = [], [], [], []
    for _ in range(given.rounds):
        with common.folder() as folder:
            rates.append(until_durable(folder / "a.db", calls, given.calls))
            theirs.append(submit_times(given.calls))
            ours.append(call_times(folder / "b.db", calls))
            made = (Task(common.NOOP, {"n": n}) for n in range(given.calls))
            with_tasks.append(until_durable(folder / "c.db", made, given.calls)[0])
    _report(given, rates, with_tasks, ours, theirs)


def _report(given, rates, with_tasks, ours, theirs) -> None:
    rate, lost = common.median(rate for rate, _ in rates), sum(lost for _, lost in rates)
    call, submit = [common.median(map(common.median, times)) * 1e6 for times in (ours, theirs)]
    p99 = [common.median(common.percentile(times, 0.99) for times in side) * 1e6 for side in (ours, theirs)]
    executor = "ThreadPoolExecutor(1).submit(int)"
    figures = [
        common.figure(
            "durable, full", rate, unit="calls/s", reach="at least 100,000", reached=rate >= LEAST_A_SECOND
        ),
        common.figure("not enqueued in time", lost, unit="calls", reach="0", reached=lost == 0),
        common.figure("durable, full, making the tasks too", common.median(with_tasks), unit="calls/s"),
        common.figure(
            "one call, median", call, submit, unit="us", against=executor, reach="below 1/3", reached=call < submit / 3
        ),
        common.figure("one call, 99th percentile", p99[0], p99[1], unit="us", against=executor),
    ]  # fmt: skip
    common.report("fire_and_forget", figures, calls=given.calls, rounds=given.rounds, payload=next(islice(tasks(1), 1)).payload)


if __name__ == "__main__":
    main()
