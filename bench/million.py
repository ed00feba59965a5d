"""Drain with 1,000,000 jobs stored, beside 10,000: the first ten thousand of each in turn, then all; the WAL is watched.

Between rounds the worker on the large file is stopped and started again, so that both sides start alike.
"""

import threading
import time
from pathlib import Path

import _common as common

from fireforget import _db

MOST_WAL_BYTES = 64 * 1024 * 1024


class WalWatch:
    """Samples the size of a file's WAL every 10 ms, and remembers the largest."""

    def __init__(self, path: Path) -> None:
        self.largest = 0
        self._path = str(path)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.largest = max(self.largest, _db.wal_size(self._path))

    def __enter__(self) -> "WalWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def drain_some(path: Path, jobs: int) -> float:
    """Return the rate of the first `jobs` that go."""
    with common.worker(path) as process:
        return common.time_drain(path, jobs, process).rate


def drain_few(jobs: int) -> float:
    with common.folder() as folder:
        common.store(folder / "jobs.db", jobs)
        return drain_some(folder / "jobs.db", jobs)


def main() -> None:
    given = common.arguments(__doc__, stored=(1_000_000, 60_000), few=(10_000, 5_000), rounds=(7, 3))
    many, few = [], []
    with common.folder() as folder:
        path = folder / "jobs.db"
        with WalWatch(path) as wal:
            began = time.perf_counter()
            common.store(path, given.stored)
            stored_a_second = given.stored / (time.perf_counter() - began)
            for _ in range(given.rounds):
                few.append(drain_few(given.few))
                many.append(drain_some(path, given.few))
            rest = drain_rest(path)
        at_the_end = path.stat().st_size + _db.wal_size(str(path))
    ratio = common.median_ratio(many, few)
    against = f"{given.few:,} stored"
    figures = [
        common.figure(f"the first {given.few:,} of {given.stored:,}", common.median(many), common.median(few), against=against,
                      ratio=ratio, reach="at least 0.8", reached=ratio >= 0.8),
        common.figure(f"all that is left of {given.stored:,}", rest, common.median(few), against=against, reach="at least 0.8",
                      reached=rest >= 0.8 * common.median(few)),
        common.figure("largest WAL file", wal.largest / 2**20, unit="MiB", reach="below 64",
                      reached=wal.largest < MOST_WAL_BYTES),
        common.figure("stored, a thousand in a transaction, normal", stored_a_second),
    ]  # fmt: skip
    common.report("million", figures, stored=given.stored, few=given.few, rounds=given.rounds, file_mib=round(at_the_end / 2**20))


def drain_rest(path: Path) -> float:
    connection = common.reader(path)
    left = connection.execute("SELECT count(*) FROM fireforget_job").fetchone()[0]
    last, first = [connection.execute(f"SELECT {end}(n) FROM fireforget_job").fetchone()[0] for end in ("max", "min")]
    connection.close()
    with common.worker(path) as process:
        return common.time_drain(path, last - first + 1, process).rate * left / (last - first + 1)


if __name__ == "__main__":
    main()
