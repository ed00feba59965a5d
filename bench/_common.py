"""What the programs of `bench/` share: temporary folders, workers as real processes, medians, and the line that each prints.

A program prints one JSON line::

    {"name": "drain", "figures": [{"what", "unit", "ours", "reference", "reference_is", "ratio", "figure", "reached"}, ...],
     "reached": true, "settings": {...}}

`ours` and `reference` are medians of several rounds of one run, the sides taking turns, so that what else the machine does falls
on both. `figure` says what is to be reached; without one, `reached` is null and the figure is there to compare.
"""

import argparse
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"
sys.path.insert(0, str(ROOT))

from fireforget import SqliteQueue, Task  # noqa: E402 - the checkout's own, whether it is installed or not

NOOP = "bench:noop"
STORED_AT_ONCE = 1000
POLL_SECONDS = 0.005
"""How often a drain is looked at: one short read, on a connection of its own."""
PATIENCE_SECONDS = 900.0


# --- arguments and results ----------------------------------------------------------------------------------------------


def arguments(description: str | None, **numbers: tuple[int, int]) -> argparse.Namespace:
    """Parse the command line of a program; `numbers` are its sizes: usual and with --quick."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small numbers: to see that it works, not to quote")
    for name, (usual, quick) in numbers.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"default: {usual}, quick: {quick}")
    parsed = parser.parse_args()
    for name, (usual, quick) in numbers.items():
        if getattr(parsed, name) is None:
            setattr(parsed, name, quick if parsed.quick else usual)
    return parsed


def figure(
    what: str,
    ours: float | None,
    reference: float | None = None,
    *,
    unit: str = "jobs/s",
    against: str | None = None,
    ratio: float | None = None,
    reach: str | None = None,
    reached: bool | None = None,
) -> dict[str, Any]:
    """Return one figure of a program's line. `ratio`, ours to the reference's, whichever way is better, is that of the medians
    unless it is given: the median of the rounds' own ratios says more where there are rounds.
    """
    if ratio is None and reference and ours is not None:
        ratio = ours / reference
    return {
        "what": what, "unit": unit, "ours": _rounded(ours), "reference": _rounded(reference), "reference_is": against,
        "ratio": _rounded(ratio), "figure": reach, "reached": None if reached is None else bool(reached),
    }  # fmt: skip


def _rounded(value: float | None) -> float | None:
    if value is None:
        return None
    return round(value) if abs(value) >= 100 else float(f"{value:.3g}")


def report(name: str, figures: Iterable[dict[str, Any]], **settings: Any) -> None:
    """Print the program's one line."""
    listed = list(figures)
    judged = [each["reached"] for each in listed if each["reached"] is not None]
    line = {"name": name, "figures": listed, "reached": all(judged) if judged else None, "settings": settings}
    print(json.dumps(line), flush=True)


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median_ratio(ours: list[float], reference: list[float]) -> float:
    """Return the median of the rounds' own ratios, which a machine that is busy for a while disturbs least."""
    return median(a / b for a, b in zip(ours, reference, strict=True))


# --- folders and databases ----------------------------------------------------------------------------------------------


@contextmanager
def folder() -> Iterator[Path]:
    """Give a temporary folder (TMPDIR says on which disk) and remove it."""
    with tempfile.TemporaryDirectory(prefix="fireforget-bench-") as path:
        yield Path(path)


def store(path: Path, jobs: int, *, type: str = NOOP, **options: Any) -> None:
    """Store jobs with small payloads, a thousand in a transaction."""
    with SqliteQueue(path, durability="normal") as queue:
        for first in range(0, jobs, STORED_AT_ONCE):
            numbers = range(first, min(first + STORED_AT_ONCE, jobs))
            queue.enqueue_many([Task(type, {"n": n}) for n in numbers], **options)


def reader(path: Path) -> sqlite3.Connection:
    """Open the file for looking: it never checkpoints."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def first_left(connection: sqlite3.Connection, table: str, key: str) -> int | None:
    """Return the lowest number left in a table; None when it is empty."""
    row = connection.execute(f"SELECT {key} FROM {table} ORDER BY {key} LIMIT 1").fetchone()
    return None if row is None else row[0]


def wait_until(true: Any, what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Look every few milliseconds until `true()`; raises `TimeoutError`."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds:g} s")
        time.sleep(POLL_SECONDS)


class Drained(NamedTuple):
    """How a drain went: jobs a second, and microseconds of CPU a job in all processes of the worker (0 where nobody can tell)."""

    rate: float
    cpu_us: float


def time_drain(
    path: Path, jobs: int, process: "subprocess.Popen[bytes]", *, table: str = "fireforget_job", key: str = "n"
) -> Drained:
    """Return how stored jobs go, from when the first has gone until none is left: the worker's start-up is not counted.

    With fewer `jobs` than are stored it ends when that many have gone, by their numbers.
    """
    with closing(reader(path)) as connection:
        first = first_left(connection, table, key) or 0

        def gone() -> int:
            if process.poll() is not None:
                raise RuntimeError(f"the worker ended with {process.returncode}")
            left = first_left(connection, table, key)
            return jobs if left is None else left - first

        wait_until(lambda: gone() > 0, "the first job")
        pids = processes_of(process.pid)
        already, began, cpu = gone(), time.perf_counter(), cpu_seconds(pids)
        wait_until(lambda: gone() >= jobs, "the last job")
        ran, seconds = max(1, jobs - already), time.perf_counter() - began
        return Drained(ran / seconds, (cpu_seconds(pids) - cpu) * 1e6 / ran)


def time_newest(connection: sqlite3.Connection, jobs: int, newest: int, process: "subprocess.Popen[bytes]") -> float:
    """Return how many of `jobs` go a second, from when the first has gone until the one of number `newest` has."""
    left = "SELECT count(*) FROM (SELECT 1 FROM fireforget_job WHERE n > ? AND n <= ? LIMIT ?)"

    def gone() -> int:
        if process.poll() is not None:
            raise RuntimeError(f"the worker ended with {process.returncode}")
        return jobs + 1 - int(connection.execute(left, (newest - jobs - 1, newest, jobs + 1)).fetchone()[0])

    wait_until(lambda: gone() > 0, "the first job")
    already, began = gone(), time.perf_counter()
    wait_until(lambda: gone() > jobs, "the last job")
    return (jobs - already) / (time.perf_counter() - began)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time of other processes, exactly: the clock that Linux keeps for each; 0 where it keeps none."""
    try:
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)
    except (OSError, OverflowError):
        return 0.0


# --- workers ------------------------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a program that is to find the checkout and the applications here."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(BENCH))), **more}


@contextmanager
def running(command: list[str], *, log: Path, env: dict[str, str] | None = None, stop: int = signal.SIGTERM) -> Iterator[Any]:
    """Run a program with its output in `log`, and end it and all that it started."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, env=env or environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(stop)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def worker(path: Path, *flags: str, concurrency: int = 2, metrics: bool = True, log_level: str = "warning", **env: str) -> Any:
    """Run a worker of `bench_app` on this file as a user would; what it prints is in worker.log beside the file."""
    command = [sys.executable, "-m", "fireforget.worker", "bench_app:registry", "--db", str(path)]
    command += ["--concurrency", str(concurrency), "--log-level", log_level, *flags]
    if metrics:
        command += ["--metrics-file", str(path.parent / "metrics.prom")]
    return running(command, log=path.parent / "worker.log", env=environment(**env))


def processes_of(pid: int) -> list[int]:
    """Return a process and all that descend from it, from /proc; oldest first, and it alone where there is no /proc."""
    parents: dict[int, int] = {}
    if not Path("/proc/self/stat").exists():
        return [pid]
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
    found = [pid]
    for parent in found:
        found += sorted(child for child, its_parent in parents.items() if its_parent == parent)
    return found


def run_some(path: Path, jobs: int) -> None:
    """Run a few jobs on the worker of this file, and wait until they are gone."""
    store(path, jobs)
    with closing(reader(path)) as connection:
        wait_until(lambda: first_left(connection, "fireforget_job", "n") is None, "the end of the first jobs", 60)
