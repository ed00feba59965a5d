"""What the views read: JSON made of what `Inspector` returns.

Counting a million jobs takes a tenth of a second, and any number of pages may be open. So the overview is read once for all who
look at it, and kept for as long as makes reading it at most a fiftieth of the time. While nobody looks, nothing is read. An
answer says in `seconds` what it took, and the page asks the less often the longer that was.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Generic, TypeVar

from fireforget import __version__
from fireforget._cli_common import a_member, a_state
from fireforget._cli_parser import a_duration
from fireforget._dashboard import processes, shown
from fireforget._dashboard.web import Answer, Refusal, Request, bad
from fireforget._doctor import STALLED_SECONDS
from fireforget.inspector import ARCHIVABLE, CANCELLABLE, DELETABLE, RUNNABLE, UPDATABLE, Inspector, WorkerInfo
from fireforget.queue_sqlite import SqliteQueue
from fireforget.task import State, TaskInfo

T = TypeVar("T")

_SHORTEST_AGE = 1.0  # seconds for which an overview is good
_PAUSE = 50  # times what it took to read it
_MOST_SAMPLES = 3600
_RUNNING = 20  # jobs that the overview shows
_PAGE, _MOST_PAGE = 50, 200
_MOST_SEARCHES = 2  # at once; the server has more threads
_SEARCH_WAIT = 1.0  # seconds
_MOST_ATTEMPTS = 50
_MOST_POINTS = {"days": 90, "hours": 168, "minutes": 180}
_MOST_STEPS, _MOST_NEEDS = 200, 100
_IN_HANDS = 100  # jobs of one worker
_MOST_TIMES = 100
_MOST_GROUPS = 1000

_MAY = {"run": RUNNABLE, "archive": ARCHIVABLE, "cancel": CANCELLABLE, "delete": DELETABLE, "update": UPDATABLE}
"""What may be done to a job in which state."""
FILTERS = ("queue", "type", "error", "group")
"""Filters that are plain text."""
AGES = ("older_than", "newer_than")


class Shared(Generic[T]):
    """Something that is read for all who ask, no more often than what it takes allows. Safe to share between threads."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._value: T | None = None
        self._error: Exception | None = None
        self._good_until = 0.0
        self.seconds = 0.0
        """Of the processor, for the last read."""

    def get(self) -> T:
        """Return it; raises what reading it has raised, which is kept no longer than a second."""
        with self._lock:
            if time.monotonic() >= self._good_until:
                self._renew()
            if self._error is not None:
                raise self._error.with_traceback(None)
            assert self._value is not None
            return self._value

    def spoil(self) -> None:
        """Have it read anew: something has been changed."""
        self._good_until = 0.0

    def _renew(self) -> None:
        began = time.thread_time()  # what others on a busy machine take is no reason to pause
        try:
            self._value, self._error = self._read(), None
        except Exception as error:  # told to everybody who asks, so that a broken file is not read for each of them
            self._value, self._error = None, error
        self.seconds = time.thread_time() - began
        self._good_until = time.monotonic() + max(_SHORTEST_AGE, 0 if self._error else self.seconds * _PAUSE)


def filters_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return filters, the state apart, as `Inspector` takes them; `given` has them as text, as on the command line."""
    chosen: dict[str, Any] = {}
    for name in (*FILTERS, *AGES):
        value = given.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise bad(f"{name} is text")
        chosen[name] = a_duration(value) if name in AGES else value
    payload = given.get("payload") or []
    if isinstance(payload, str):
        payload = [payload]
    if not isinstance(payload, list) or not all(isinstance(member, str) for member in payload):
        raise bad("payload is text such as user_id=7, or several of them")
    if payload:
        chosen["payload"] = dict(a_member(member) for member in payload)
    return chosen


def state_of(value: Any) -> State:
    """Return a state by its name."""
    if not isinstance(value, str):
        raise bad("state is text")
    return a_state(value)


class Views:
    """Answers requests that only read. Safe to share between threads."""

    def __init__(self, queue: SqliteQueue, *, read_only: bool, protected: bool) -> None:
        self.queue = queue
        self.inspector = Inspector(queue)
        self._about = {
            "version": __version__,
            "file": queue.path,
            "read_only": read_only,
            "protected": protected,
            "may": {action: sorted(states) for action, states in _MAY.items()},
        }
        self._samples: deque[list[float]] = deque(maxlen=_MOST_SAMPLES)
        self._searches = threading.BoundedSemaphore(_MOST_SEARCHES)
        self.shared = Shared(self._read)

    # --- the overview -------------------------------------------------------------------------------------------------

    def overview(self, _: Request | None = None) -> dict[str, Any]:
        """Return queues, workers, what runs, and what is wrong."""
        self.check_file()  # what was read before is no longer true
        read = self.shared.get()
        return {**self._about, **read, "seconds": round(self.shared.seconds, 4)}

    def check_file(self) -> None:
        """Raise `StoreReplaced` where the file was deleted or replaced: whoever has it open could still read what was in it."""
        self.queue._database.check_identity()

    def _read(self) -> dict[str, Any]:
        workers = self.inspector.workers()
        queues = self._queues(workers)
        running = self.inspector.tasks(State.ACTIVE, limit=_RUNNING)
        totals = {state.value: sum(queue["states"][state.value] for queue in queues) for state in State}
        now = datetime.now(UTC)
        self._sample(now.timestamp(), totals, queues)
        return {
            "time": now.isoformat(),
            "states": totals,
            "queues": queues,
            "workers": [shown.worker(worker) for worker in workers],
            "running": [shown.job_line(info) for info in running],
            "problems": _problems(queues, workers),
        }

    def _queues(self, workers: list[WorkerInfo]) -> list[dict[str, Any]]:
        weights: dict[str, dict[str, int]] = {}
        for worker in workers:
            for name, weight in worker.queues.items():
                weights.setdefault(name, {})[worker.name] = weight
        stored = {stats.name: stats for stats in self.inspector.queues()}
        for name in weights.keys() - stored.keys():
            stored[name] = self.inspector.queue_stats(name)
        return [shown.queue(stats, weights.get(name, {})) for name, stats in sorted(stored.items())]

    def _sample(self, now: float, totals: Mapping[str, int], queues: list[dict[str, Any]]) -> None:
        sums = [sum(queue[name] for queue in queues) for name in ("processed_total", "failed_total")]
        latency = max((queue["latency"] for queue in queues), default=0.0)
        self._samples.append([round(now, 3), totals["pending"], totals["active"], latency, *sums])

    def samples(self, request: Request) -> dict[str, Any]:
        """Return what overviews of the last hour have seen, after an instant; only while somebody looked."""
        try:
            since = float(request.one("since") or 0)
        except ValueError:
            raise bad("since is a number of Unix seconds") from None
        self.shared.get()
        columns = ["time", "pending", "active", "latency", "processed_total", "failed_total"]
        return {"columns": columns, "samples": [sample for sample in list(self._samples) if sample[0] > since]}

    def history(self, request: Request) -> dict[str, Any]:
        """Return what became of runs by the minute, hour or day, the oldest first."""
        units = [unit for unit in _MOST_POINTS if request.one(unit) is not None] or ["days"]
        if len(units) > 1:
            raise bad("give one of days, hours and minutes")
        span = {units[0]: request.number(units[0], 30, _MOST_POINTS[units[0]])}
        points = self.inspector.history(request.one("queue"), type=request.one("type"), **span)
        return {"unit": units[0].removesuffix("s"), "points": [shown.point(point) for point in reversed(points)]}

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _filters(self, request: Request) -> tuple[State | None, dict[str, Any]]:
        known = {"state", "limit", "after", "payload", *FILTERS, *AGES}
        unknown = request.query.keys() - known
        if unknown:
            raise bad(f"there is no filter {min(unknown)!r}: choose among {', '.join(sorted(known))}")
        given = {name: request.one(name) for name in (*FILTERS, *AGES)}
        state = request.one("state")
        return None if state is None else state_of(state), filters_of({**given, "payload": request.query.get("payload")})

    def jobs(self, request: Request) -> dict[str, Any]:
        """Return a page of jobs, and the id after which the next page begins."""
        state, filters = self._filters(request)
        with self._searching(filters):
            return self._page(request, state, filters)

    def _page(self, request: Request, state: State | None, filters: dict[str, Any]) -> dict[str, Any]:
        limit = request.number("limit", _PAGE, _MOST_PAGE)
        found = self.inspector.tasks(state, **filters, limit=limit + 1, after=request.one("after"))
        after = found[limit - 1].id if len(found) > limit else None
        return {"jobs": [shown.job_line(info) for info in found[:limit]], "after": after}

    def count(self, request: Request) -> dict[str, Any]:
        """Return how many jobs match."""
        state, filters = self._filters(request)
        with self._searching(filters):
            return {"count": self.inspector.count(state, **filters)}

    @contextmanager
    def _searching(self, filters: dict[str, Any]) -> Iterator[None]:
        """Run a block that may look at every job; refuses where others do already, so that the other views stay live."""
        if not filters.keys() - {"queue"}:
            yield
            return
        if not self._searches.acquire(timeout=_SEARCH_WAIT):
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE, "busy", f"{_MOST_SEARCHES} searches are running: try again when one has ended"
            )
        try:
            yield
        finally:
            self._searches.release()

    def job(self, request: Request) -> dict[str, Any]:
        """Return a job with its last failed attempts, its steps, what it waits for and what waits for it."""
        job_id = request.needed("id")
        info = self.inspector.task(job_id)
        attempts = self.inspector.attempts(job_id)
        return {
            **shown.job_page(info),
            "attempts": [shown.attempt(one) for one in attempts[-_MOST_ATTEMPTS:]],
            "attempts_count": len(attempts),
            "steps": [shown.step(one) for one in self.inspector.steps(job_id)[:_MOST_STEPS]],
            "needs": [shown.need(one) for one in self.inspector.needs(job_id)[:_MOST_NEEDS]],
            "dependants": [{"id": one.id, "state": one.state.value} for one in self.inspector.dependants(job_id, _MOST_NEEDS)],
        }

    def text(self, request: Request) -> Answer:
        """Return a job's whole payload or result, to be saved."""
        part = request.one("part", "payload")
        if part not in ("payload", "result"):
            raise bad("part is payload or result")
        info = self.inspector.task(request.needed("id"))
        return Answer(
            shown.json_text(getattr(info, part), indent=2).encode("utf-8", "replace"),
            headers={"Content-Disposition": f'attachment; filename="{part}.json"'},
        )

    # --- the others ---------------------------------------------------------------------------------------------------

    def queues(self, _: Request) -> dict[str, Any]:
        """Return the queues."""
        overview = self.overview()
        return {"queues": overview["queues"], "seconds": overview["seconds"]}

    def workers(self, _: Request) -> dict[str, Any]:
        """Return the workers, the jobs in their hands, their children and what these run, and their processes."""
        workers = self.inspector.workers()
        hands = self._in_hands(workers)
        return {
            "workers": [
                {
                    **(line := shown.worker(worker)),
                    "jobs": [shown.job_line(info) for info in hands.get(worker.name, [])],
                    "children": shown.children(worker),
                    "processes": processes.of_worker(worker.pid, worker.host) if line["alive"] else None,
                }
                for worker in workers
            ]
        }

    def _in_hands(self, workers: list[WorkerInfo]) -> dict[str, list[TaskInfo]]:
        return {worker.name: self.inspector.tasks_of_worker(worker.name, _IN_HANDS) for worker in workers if worker.active}

    def schedules(self, request: Request) -> dict[str, Any]:
        """Return the schedules with their next ticks."""
        times = request.number("times", 5, _MOST_TIMES)
        return {"schedules": [shown.schedule(info, times) for info in self.inspector.schedules()]}

    def schedule(self, request: Request) -> dict[str, Any]:
        """Return one schedule with what became of its last ticks."""
        name = request.needed("name")
        events = self.inspector.schedule_history(name, request.number("limit", 50, 1000))
        return {**shown.schedule(self.inspector.schedule(name), 10), "events": [shown.event(one) for one in events]}

    def groups(self, request: Request) -> dict[str, Any]:
        """Return the groups that wait, the largest first; no more than a page can show."""
        groups = sorted(self.inspector.groups(request.one("queue")), key=lambda info: -info.size)
        return {"groups": [shown.group(info) for info in groups[:_MOST_GROUPS]], "count": len(groups)}


def _problems(queues: list[dict[str, Any]], workers: list[WorkerInfo]) -> list[dict[str, str]]:
    """Return what keeps jobs from being run, as `/healthz` and the page say it."""
    living = [worker for worker in workers if worker.alive]
    found = []
    if not living:
        found.append({"check": "worker", "message": "no worker is running"})
    for queue in queues:
        name = queue["queue"]
        if queue["paused"] or queue["latency"] <= STALLED_SECONDS:
            continue
        serving = [worker for worker in living if name in worker.queues]
        waits = f"its oldest job has been due for {queue['latency']:,.0f} s"
        if not serving:
            found.append({"check": "queue", "message": f"no running worker serves queue {name!r}: {waits}"})
        elif any(worker.active < worker.concurrency * worker.threads for worker in serving):
            found.append({"check": "queue", "message": f"queue {name!r} is stalled though its workers are free: {waits}"})
    return found
