"""How soon a child is replaced that died, and one that had its share: from the end of its last job to the start of the next.

A worker with one child; a handler tells the monotonic time, then the next one does.
"""

from contextlib import closing

import _common as common
from pickup import Pipe

from fireforget import SqliteQueue, Task

MOST_MS = 150


def gaps(pipe: Pipe, queue: SqliteQueue, first: str, count: int) -> list[float]:
    """Return the milliseconds from the start of each job of type `first` to that of the one after it."""
    found = []
    for n in range(count):
        queue.enqueue_many([Task(first, {"n": n}, max_retry=0), Task("bench:start", {"n": n})])
        (_, one, _), (_, two, _) = pipe.hear(), pipe.hear()
        found.append((two - one) * 1000)
    return found


def main() -> None:
    given = common.arguments(__doc__, deaths=(40, 8))
    figures = []
    for what, first, flags in (
        ("after a child's death", "bench:die", []),
        ("after --max-tasks-per-child", "bench:start", ["--max-tasks-per-child", "1"]),
    ):
        with common.folder() as folder, closing(Pipe(folder / "voice")) as pipe, SqliteQueue(folder / "jobs.db") as queue:
            voice = str(folder / "voice")
            with common.worker(folder / "jobs.db", *flags, concurrency=1, log_level="critical", BENCH_PIPE=voice):
                common.run_some(folder / "jobs.db", 2)
                found = gaps(pipe, queue, first, given.deaths)
        median, most = common.median(found), max(found)
        reached, reach = median <= MOST_MS, f"at most {MOST_MS}"
        figures.append(common.figure(f"back at work {what}, median", median, unit="ms", reach=reach, reached=reached))
        figures.append(common.figure(f"back at work {what}, longest", most, unit="ms"))
    common.report("replacement", figures, deaths=given.deaths)


if __name__ == "__main__":
    main()
