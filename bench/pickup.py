"""How soon an idle worker starts a job: one that `enqueue` stored, one that a plain SQL INSERT stored, and one that falls due.

A handler tells the monotonic time of its start through a pipe. Times count from the call (with the commit's sync in it) and from
its return. Between two jobs the worker is left alone for a random while, so that it sleeps.
"""

import os
import random
import select
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import _common as common
from bench_app import START

from fireforget import SqliteQueue, Task

TYPE = "bench:start"
INSERT = "INSERT INTO fireforget_enqueue (type, payload) VALUES ('bench:start', ?)"
LONGEST_PAUSE = 0.06
LONGEST_DELAY = 0.2


class Pipe:
    """Hears when handlers start."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDWR)

    def hear(self) -> tuple[int, float, float]:
        """Wait for the next start: number, monotonic seconds, Unix seconds."""
        if not select.select([self._descriptor], [], [], 30)[0]:
            raise TimeoutError("no handler started within 30 s")
        return START.unpack(os.read(self._descriptor, START.size))

    def close(self) -> None:
        os.close(self._descriptor)


def pick_ups(pipe: Pipe, call: Callable[[int], object], count: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds from each call, and from its return, to the handler's start."""
    from_call, from_return = [], []
    for n in range(count):
        time.sleep(0.02 + random.random() * LONGEST_PAUSE)
        called = time.monotonic()
        call(n)
        returned = time.monotonic()
        _, started, _ = pipe.hear()
        from_call.append((started - called) * 1000)
        from_return.append((started - returned) * 1000)
    return from_call, from_return


def lateness(pipe: Pipe, queue: SqliteQueue, count: int) -> list[float]:
    """Return how many milliseconds after their time delayed jobs start."""
    late = []
    for n in range(count):
        info = queue.enqueue(Task(TYPE, {"n": n}), process_in=0.02 + random.random() * LONGEST_DELAY)
        _, _, started = pipe.hear()
        assert info.next_process_at is not None
        late.append((started - info.next_process_at.timestamp()) * 1000)
    return late


def main() -> None:
    given = common.arguments(__doc__, jobs=(300, 40))
    with common.folder() as folder, closing(Pipe(folder / "voice")) as pipe, SqliteQueue(folder / "jobs.db") as queue:
        path = folder / "jobs.db"
        with common.worker(path, BENCH_PIPE=str(folder / "voice")), closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA wal_autocheckpoint = 0")
            common.run_some(path, 20)

            def enqueue(n: int) -> None:
                queue.enqueue(Task(TYPE, {"n": n}))

            def insert(n: int) -> None:
                other.execute(INSERT, (f'{{"n":{n}}}',))

            pick_ups(pipe, enqueue, 5)
            figures = [*_figures("enqueue", *pick_ups(pipe, enqueue, given.jobs))]
            figures += _figures("a plain INSERT", *pick_ups(pipe, insert, given.jobs))
            late = common.median(lateness(pipe, queue, given.jobs // 3))
            figures.append(common.figure("lateness of delayed jobs, median", late, unit="ms"))
    common.report("pickup", figures, jobs=given.jobs)


def _figures(how: str, from_call: list[float], from_return: list[float]) -> list[dict[str, object]]:
    median, p99 = common.median(from_call), common.percentile(from_call, 0.99)
    return [
        common.figure(f"{how}: call to start, median", median, unit="ms", reach="below 2 ms", reached=median < 2),
        common.figure(f"{how}: call to start, 99th percentile", p99, unit="ms", reach="below 10 ms", reached=p99 < 10),
        common.figure(f"{how}: return to start, median", common.median(from_return), unit="ms"),
        common.figure(f"{how}: return to start, 99th percentile", common.percentile(from_return, 0.99), unit="ms"),
    ]


if __name__ == "__main__":
    main()
