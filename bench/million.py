"""Drain with 1,000,000 jobs stored, beside 10,000; the WAL is watched throughout.

In each round a file of ten thousand is drained, then a part of the large one, until that is empty too. The worker starts anew
each time, so the first ten thousand of a part are timed as all of the small file are; the rest of the part shows the long run.
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


def drain_part(path: Path, few: int, part: int) -> tuple[float, float]:
    """Return the rates of the first few jobs, and of the rest of a part of the file."""
    with common.worker(path) as process:
        first = common.time_drain(path, few, process).rate
        return first, common.time_drain(path, part - few, process).rate if part > 2 * few else first


def drain_few(few: int) -> float:
    with common.folder() as folder:
        common.store(folder / "jobs.db", few)
        return drain_part(folder / "jobs.db", few, few)[0]


def main() -> None:
    given = common.arguments(__doc__, stored=(1_000_000, 60_000), few=(10_000, 5_000), rounds=(7, 3))
    few, first, part = [], [], []
    with common.folder() as folder:
        path = folder / "jobs.db"
        with WalWatch(path) as wal:
            began = time.perf_counter()
            common.store(path, given.stored)
            stored_a_second = given.stored / (time.perf_counter() - began)
            for _ in range(given.rounds):
                few.append(drain_few(given.few))
                of_part = drain_part(path, given.few, given.stored // given.rounds)
                first.append(of_part[0])
                part.append(of_part[1])
        file_mib = round((path.stat().st_size + _db.wal_size(str(path))) / 2**20)
    figures = [
        _figure(f"the first {given.few:,} of a part of {given.stored:,}", first, few, given.few),
        _figure(f"all of a part of {given.stored:,}", part, few, given.few),
        common.figure(
            "largest WAL file", wal.largest / 2**20, unit="MiB", reach="below 64", reached=wal.largest < MOST_WAL_BYTES
        ),
        common.figure("stored, a thousand in a transaction, normal", stored_a_second),
    ]
    common.report("million", figures, stored=given.stored, few=given.few, rounds=given.rounds, file_mib=file_mib)


def _figure(what: str, ours: list[float], few: list[float], stored: int) -> dict[str, object]:
    ratio = common.median_ratio(ours, few)
    return common.figure(
        what, common.median(ours), common.median(few), against=f"{stored:,} stored", ratio=ratio, reach="at least 0.8",
        reached=ratio >= 0.8,
    )  # fmt: skip


if __name__ == "__main__":
    main()
