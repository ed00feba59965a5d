"""Eight producer processes and a busy worker on one file: nobody is refused, nobody starves, nobody waits long."""

import json
import subprocess
import sys
import time
from pathlib import Path

import _common as common

from fireforget import FireforgetError, SqliteQueue, Task

PRODUCERS = 8
LONGEST_WAIT_SECONDS = 1.0
TROUBLE = ("locked", "trouble", "ERROR")
"""What a worker's log must not say, at level warning."""


def produce(path: str, seconds: float) -> None:
    """Enqueue one at a time for a while, then print what became of it; what a producer process runs."""
    waits, errors = [], []
    with SqliteQueue(path) as queue:
        sys.stdin.readline()
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            try:
                queue.enqueue(Task(common.NOOP, {"n": len(waits)}))
            except FireforgetError as error:
                errors.append(f"{type(error).__name__}: {error}")
            waits.append(time.monotonic() - began)
    print(json.dumps({"jobs": len(waits), "longest": max(waits), "errors": errors[:3], "refused": len(errors)}))


def start_producer(path: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "produce", str(path), str(seconds)]
    return subprocess.Popen(command, env=common.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def main() -> None:
    given = common.arguments(__doc__, seconds=(15, 3))
    with common.folder() as folder:
        path = folder / "jobs.db"
        common.store(path, 5000)
        with common.worker(path):
            producers = [start_producer(path, given.seconds) for _ in range(PRODUCERS)]
            time.sleep(1)  # all of them are up before the first one starts
            for producer in producers:
                producer.stdin.write("go\n")
                producer.stdin.flush()
            results = [json.loads(producer.communicate()[0]) for producer in producers]
        complaints = [line for line in (folder / "worker.log").read_text().splitlines() if any(word in line for word in TROUBLE)]
    common.report("contention", _figures(results, complaints, given.seconds), seconds=given.seconds, producers=PRODUCERS,
                  complaints=complaints[:3], errors=[error for result in results for error in result["errors"]][:3])  # fmt: skip


def _figures(results: list[dict], complaints: list[str], seconds: int) -> list[dict]:
    rates = [result["jobs"] / seconds for result in results]
    refused, longest = sum(result["refused"] for result in results), max(result["longest"] for result in results)
    slowest, median = min(rates), common.median(rates)
    return [
        common.figure("calls refused, and complaints of the worker", refused + len(complaints), unit="", reach="none",
                      reached=not refused and not complaints),
        common.figure("slowest producer", slowest, median, against="the median producer", reach="at least 0.5",
                      reached=slowest >= median / 2),
        common.figure("longest wait of one call", longest, unit="s", reach="at most 1 s",
                      reached=longest <= LONGEST_WAIT_SECONDS),
        common.figure("all producers together, full", sum(rates)),
    ]  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["produce"]:
        produce(sys.argv[2], float(sys.argv[3]))
    else:
        main()
