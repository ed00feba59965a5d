"""What it costs a worker that somebody looks: a drain beside the dashboard with its overview open, and one without.

The dashboard is a process of its own, as a user runs it. The page is a client here: it asks for what the page asks for to show
the overview, at the page's pace, the first time when the first job has gone. The two kinds of drain take turns, and so does which
of them is first. A drain that is over before the page would read again bears a whole reading all the same.
"""

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import _common as common

FASTEST_SECONDS = 2.0
SHARE = 50
"""The pace of the page: the pause is so many times what a reading took of a processor, and 2 s at least."""
LEAST = 0.97


class Page:
    """The overview in a browser, from when the first job of a file has gone: it reads, and waits, and reads again."""

    def __init__(self, url: str, path: Path) -> None:
        self._host = urlsplit(url).netloc
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._newest = 0.0
        self.answers: list[float] = []
        """How long each reading took, in seconds: what is asked for at once in a browser is asked for in turn."""
        self.began = 0.0
        """When it read first, by `time.perf_counter`."""
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if self.failure is not None and error is None:
            raise self.failure

    def _look(self) -> None:
        try:
            with closing(common.reader(self._path)) as jobs:
                first = common.first_left(jobs, "fireforget_job", "n")
                common.wait_until(lambda: common.first_left(jobs, "fireforget_job", "n") != first, "the first job")
            self.began = time.perf_counter()
            with closing(http.client.HTTPConnection(self._host, timeout=30)) as connection:
                pause = 0.0
                while not self._over.wait(pause):
                    began = time.perf_counter()
                    pause = max(FASTEST_SECONDS, self._read(connection) * SHARE)
                    self.answers.append(time.perf_counter() - began)
        except BaseException as error:
            self.failure = error

    def _read(self, connection: http.client.HTTPConnection) -> float:
        """Ask for what the overview shows; return how much of a processor the longest answer says that it took."""
        asked = [self._ask(connection, name) for name in ("overview", f"samples?since={self._newest}", "history?minutes=60")]
        samples = asked[1]["samples"]
        self._newest = samples[-1][0] if samples else self._newest
        return max(float(answer["seconds"]) for answer in asked)

    @staticmethod
    def _ask(connection: http.client.HTTPConnection, name: str) -> dict[str, list[list[float]]]:
        connection.request("GET", f"/api/v1/{name}")
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the dashboard answers {answer.status} to {name}: {text!r}")
        told: dict[str, list[list[float]]] = json.loads(text)
        return told


@contextmanager
def dashboard(path: Path) -> Iterator[tuple[str, int]]:
    """Run the dashboard of a file as a user would; gives its address and the number of its process."""
    log = path.parent / "dashboard.log"
    command = [sys.executable, "-m", "fireforget", "dashboard", "--db", str(path), "--port", "0", "--json"]
    with common.running(command, log=log) as process:
        common.wait_until(lambda: b"\n" in log.read_bytes(), "the dashboard", 30)
        yield json.loads(log.read_text().partition("\n")[0])["url"], process.pid


class Watched(NamedTuple):
    """How a drain went beside a page: the page's readings, and the CPU time of the dashboard a second."""

    drained: common.Drained
    answers: list[float]
    cpu_ms: float


def drain(jobs: int) -> common.Drained:
    """Return how a drain goes that nobody looks at."""
    with common.folder() as folder:
        path = folder / "jobs.db"
        common.store(path, jobs)
        with common.worker(path) as process:
            return common.time_drain(path, jobs, process)


def drain_watched(jobs: int) -> Watched:
    """Return how a drain goes beside a page that shows it."""
    with common.folder() as folder:
        path = folder / "jobs.db"
        common.store(path, jobs)
        with dashboard(path) as (url, pid), Page(url, path) as page, common.worker(path) as process:
            before = common.cpu_seconds([pid])
            drained = common.time_drain(path, jobs, process)
            cpu_ms = (common.cpu_seconds([pid]) - before) * 1000
            return Watched(drained, page.answers, cpu_ms / (time.perf_counter() - page.began))


def main() -> None:
    given = common.arguments(__doc__, jobs=(100_000, 10_000), rounds=(9, 2))
    alone: list[common.Drained] = []
    watched: list[Watched] = []
    for number in range(given.rounds):
        if number % 2:
            watched.append(drain_watched(given.jobs))
        alone.append(drain(given.jobs))
        if not number % 2:
            watched.append(drain_watched(given.jobs))
    answers = [seconds for one in watched for seconds in one.answers]
    rates, rates_alone = [one.drained.rate for one in watched], [one.rate for one in alone]
    costs, costs_alone = [one.drained.cpu_us for one in watched], [one.cpu_us for one in alone]
    ratio = common.median_ratio(rates, rates_alone)
    figures = [
        common.figure("drain beside a page that shows it", common.median(rates), common.median(rates_alone),
                      against="nobody looks", ratio=ratio, reach="at least 0.97", reached=ratio >= LEAST),
        common.figure("drain beside a page: CPU of the worker's processes", common.median(costs), common.median(costs_alone),
                      unit="us/job", against="nobody looks"),
        common.figure("CPU of the dashboard", common.median(one.cpu_ms for one in watched), unit="ms a second"),
        common.figure("a reading of the page, median", common.median(answers) * 1000, unit="ms"),
        common.figure("a reading of the page, longest", max(answers) * 1000, unit="ms"),
    ]  # fmt: skip
    common.report("dashboard", figures, jobs=given.jobs, rounds=given.rounds, readings=len(answers))


if __name__ == "__main__":
    main()
