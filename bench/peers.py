"""The same work on the peers: enqueue one at a time, then drain with two processes; ours beside each, in the same rounds.

huey, persist-queue and litequeue keep their jobs in SQLite. persist-queue and litequeue bring no worker: one process gets, calls
and acknowledges in a loop. RQ, Dramatiq and Celery are measured where a redis-server is on the machine, once without persistence
and once with `appendfsync always`. Each has the settings that suit it best, as said in its line. What a peer does not promise is
not taken into account: huey loses the running jobs of a killed worker, and without fsync a power cut takes what it will.
"""

import importlib.util
import sys
import time
from collections.abc import Callable
from contextlib import closing
from importlib import metadata
from typing import Any

import _common as common
import pickup
from peer_apps import huey_side, redis_side

from fireforget import SqliteQueue, Task

Rates = tuple[float, float]
"""Jobs a second: enqueued, drained."""


def ours(jobs: int, durability: str) -> Rates:
    with common.folder() as folder:
        path = folder / "jobs.db"
        with SqliteQueue(path, durability=durability) as queue:
            began = time.perf_counter()
            for n in range(jobs):
                queue.enqueue(Task(common.NOOP, {"n": n}))
            enqueued = jobs / (time.perf_counter() - began)
        with common.worker(path) as process:
            return enqueued, common.time_drain(path, jobs, process).rate


def huey(jobs: int) -> Rates:
    with common.folder() as folder:
        path = folder / "huey.db"
        enqueued = huey_side.enqueue(path, jobs)
        with huey_side.consumer(path) as process:
            return enqueued, common.time_drain(path, jobs, process, table="task", key="id").rate


def persist_queue(jobs: int) -> Rates:
    from persistqueue import SQLiteAckQueue

    with common.folder() as folder:
        queue = SQLiteAckQueue(str(folder), auto_commit=True)
        rates = _put_then_take(jobs, queue.put, lambda: queue.ack(queue.get()))
        queue.close()
        return rates


def litequeue(jobs: int) -> Rates:
    from litequeue import LiteQueue

    with common.folder() as folder:
        queue = LiteQueue(str(folder / "lite.db"))
        rates = _put_then_take(jobs, lambda n: queue.put(str(n)), lambda: queue.done(queue.pop().message_id))
        queue.close()
        return rates


def _put_then_take(jobs: int, put: Callable[[int], object], take: Callable[[], object]) -> Rates:
    began = time.perf_counter()
    for n in range(jobs):
        put(n)
    stored = time.perf_counter()
    for _ in range(jobs):
        take()
    return jobs / (stored - began), jobs / (time.perf_counter() - stored)


def huey_pick_up(count: int) -> list[float]:
    """Return the milliseconds from a call to the start of the handler, in huey's idle consumer at its default settings."""
    with common.folder() as folder, closing(pickup.Pipe(folder / "voice")) as pipe:
        tell_start = huey_side.application(folder / "huey.db").tell_start
        with huey_side.consumer(folder / "huey.db", delay=0.1, BENCH_PIPE=str(folder / "voice")):
            return pickup.pick_ups(pipe, tell_start, count)[0]


SQLITE_PEERS: dict[str, tuple[str, str, Callable[[int], Rates]]] = {
    "huey": ("huey", huey_side.SETTINGS, huey),
    "persist-queue": ("persistqueue", "ack queue, one process, its default synchronous FULL", persist_queue),
    "litequeue": ("litequeue", "one process, its own synchronous NORMAL", litequeue),
}


def compare(name: str, settings: str, measure: Callable[[int], Rates], jobs: int, rounds: int, durability: str) -> list[Any]:
    """Return the figures of one peer beside ours, the two taking turns."""
    theirs, own = [], []
    for _ in range(rounds):
        theirs.append(measure(jobs))
        own.append(ours(jobs, durability))
    return [
        common.figure(
            what if at else f"{what}, ours {durability}", common.median(rates[at] for rates in own),
            common.median(rates[at] for rates in theirs), against=f"{name}: {settings}",
            ratio=common.median_ratio([rates[at] for rates in own], [rates[at] for rates in theirs]),
        )
        for at, what in enumerate(("enqueue", "drain"))
    ]  # fmt: skip


def sqlite_peers(jobs: int, rounds: int, missing: list[str]) -> list[Any]:
    figures = []
    for name, (module, settings, measure) in SQLITE_PEERS.items():
        if importlib.util.find_spec(module) is None:
            missing.append(f"{name} is not installed")
            continue
        durability = "full" if name == "persist-queue" else "normal"
        figures += compare(f"{name} {metadata.version(name)}", settings, measure, jobs, rounds, durability)
    return figures


def redis_peers(jobs: int, rounds: int, missing: list[str]) -> list[Any]:
    if redis_side.server() is None:
        missing.append("there is no redis-server here, so RQ, Dramatiq and Celery were not measured")
        return []
    figures = []
    for peer in redis_side.peers():
        for persistence in redis_side.PERSISTENCE:
            durability = "full" if "always" in persistence else "normal"
            settings = f"{peer.settings}, {persistence}"
            name = f"{peer.name} {redis_side.version(peer.name)}"
            print(f"peers: {name}, {persistence}", file=sys.stderr)
            try:
                figures += compare(
                    name,
                    settings,
                    lambda n, peer=peer, how=persistence: redis_side.measure(peer, how, n),
                    jobs,
                    rounds,
                    durability,
                )
            except Exception as error:  # a peer that does not work here must not keep the others from being measured
                missing.append(f"{name} could not be measured: {type(error).__name__}: {error}")
    return figures


def main() -> None:
    given = common.arguments(__doc__, jobs=(10_000, 1_000), redis_jobs=(3_000, 500), rounds=(3, 1), pickups=(60, 10))
    missing: list[str] = []
    figures = sqlite_peers(given.jobs, given.rounds, missing)
    if huey_side.installed():
        times = huey_pick_up(given.pickups)
        figures.append(common.figure("pick-up by huey's idle consumer, median", None, common.median(times), unit="ms",
                                     against="huey at its default polling"))  # fmt: skip
    figures += redis_peers(given.redis_jobs, given.rounds, missing)
    for sentence in missing:
        print(f"peers: {sentence}", file=sys.stderr)
    common.report("peers", figures, jobs=given.jobs, redis_jobs=given.redis_jobs, rounds=given.rounds, missing=missing)


if __name__ == "__main__":
    main()
