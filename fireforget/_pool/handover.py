"""Handing jobs on to another enqueuer: the part of a relay that is a worker like any other, and what is different in it.

::

    jobs.db ─ claim ─► supervisor ─ frame ─► child ─ enqueue(task, task_id=the job's id) ─► the other enqueuer
       ▲                                       │
       └─ settle: removed ◄─ taken ────────────┤◄─ TaskIDConflict: it was there already
                  retry, no attempt counted ◄──┤◄─ any other error: this child pauses, longer each time, then tries the next
                  archived ◄───────────────────┘◄─ InvalidTask: it will never be taken

A job leaves the file only after the other side has it, so a death in between hands it on a second time, under the same id. While
the other side is down a child tries one job after a pause: nothing is claimed beyond that, nothing is kept in memory, and the log
gets a record a minute.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from fireforget import logs
from fireforget import payload as json_payload
from fireforget._claimed import (
    DEADLINE,
    HAS_STEPS,
    LINKED,
    MAX_RETRY,
    PAYLOAD,
    PRIORITY,
    RETENTION,
    RETRY_COUNT,
    TIMEOUT,
    TYPE,
    Claimed,
    Row,
)
from fireforget._pool.control import Worker
from fireforget._pool.supervisor import Supervisor
from fireforget.enqueuer import Enqueuer
from fireforget.errors import ChildDied, FireforgetError, InvalidTask, JobTimeout, SkipRetry, TaskIDConflict, WorkerError
from fireforget.job import Job, current_job
from fireforget.middleware import CallNext, describe, metrics, recovery, tracing
from fireforget.registry import Definition, Reactions, Registry
from fireforget.retry import default_delay
from fireforget.task import Task

CALL_SECONDS = 10.0
"""What the other enqueuer is told that a call may wait."""
LONGEST_PAUSE = 10.0
"""Seconds between two tries while the other side takes nothing; also how long a stop may have to wait for a child."""
RUN_SECONDS = LONGEST_PAUSE + 3 * CALL_SECONDS
"""After so long the process of a child is killed whose call does not come back; the job costs nothing by it."""
LONGEST_DELAY = 300.0
"""Seconds after which a job is tried again at the latest that is refused while others are taken."""

_FIRST_PAUSE = 0.1
_SOON = 1.0
_LOG_SECONDS = 60.0
_MOST_REMEMBERED = 1000  # jobs whose failures a child remembers
_OWN = len(Claimed._fields)  # beyond the columns of a claimed row: the job's own timeout and retention

MakeEnqueuer = Callable[[], Enqueuer]


class NotTaken(FireforgetError):
    """The other enqueuer did not take a job; it is tried again after `seconds`."""

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


# --- in the supervisor ------------------------------------------------------------------------------------------------------


class HandoverSupervisor(Supervisor):
    """Claims like a worker; the limits and the retention of a job are for whoever runs it, and not for handing it on."""

    _blames = False

    def _claim(self, lanes: Any, wanted: int) -> list[Row]:
        return [
            _to_be_handed_on(row) if self._registry.match(row[TYPE]) is not None else row for row in super()._claim(lanes, wanted)
        ]


def _to_be_handed_on(row: Row) -> Row:
    own = (row[TIMEOUT], row[RETENTION])
    return (*row[:TIMEOUT], RUN_SECONDS, *row[DEADLINE:RETENTION], 0.0, *row[RETENTION + 1 : _OWN], own)


class Handover(Worker):
    """A worker that hands on the jobs of `registry`'s types instead of running them; `make` is called once in each child."""

    _supervisor_class = HandoverSupervisor

    def __init__(self, registry: Registry, make: MakeEnqueuer, queue: Any, **settings: Any) -> None:
        super().__init__(registry_of(registry, make), queue, **settings)


# --- in a child -------------------------------------------------------------------------------------------------------------


def registry_of(registry: Registry, make: MakeEnqueuer) -> Registry:
    """Return a registry with the same patterns, schedules, groups and hooks, whose handlers hand on.

    No error but a refusal for good is a failure there, so none costs an attempt: neither the other side's nor a killed child.
    """
    reactions = registry._reactions
    made = Registry(
        retry_delay=_delay,
        middleware=[recovery, tracing, metrics, _logging],
        is_failure=_is_failure,
        on_failure=reactions.on_failure,
        on_archived=reactions.on_archived,
    )
    line = _Line(make)
    for pattern, definition in registry.definitions.items():
        if definition.transaction_timeout is not None:
            raise WorkerError(f"{definition!r} is transactional, which takes this file: relay a registry without it")
        own = Reactions(_is_failure, definition.on_failure, definition.on_archived, False)
        made._definitions[pattern] = _Handler(pattern, line.hand_on, {}, None, own)
    made._prefixes = list(registry._prefixes)
    made._aggregators = dict(registry._aggregators)
    made._schedules = dict(registry._schedules)
    return made


def _is_failure(error: BaseException) -> bool:
    return False


def _delay(retry_count: int, error: BaseException) -> float:
    """Return when to try again: soon where a call hung or a child was killed; as elsewhere for an aggregator that failed."""
    if isinstance(error, NotTaken):
        return error.seconds
    return _SOON if isinstance(error, ChildDied | JobTimeout) else default_delay(retry_count)


def _logging(job: Job, call_next: CallNext) -> Any:
    """Log each job that was handed on, and one that will never be; what waits for the other side is told by `_Line`."""
    began = time.monotonic()
    try:
        result = call_next()
    except SkipRetry as error:
        logs.task_failed(job.pattern, job.id, job.queue, job.retry_count, time.monotonic() - began, str(error))
        raise
    logs.task_relayed(job.pattern, job.id, job.queue, time.monotonic() - began)
    return result


class _Handler(Definition[Any, Any]):
    """The handler of every type: whatever the payload is, it is handed on as it stands."""

    def call(self, payload: Any) -> Any:
        """Hand on the running job."""
        job = current_job()
        if job._row[LINKED] is not None:
            raise SkipRetry(
                "not relayed: it waits for other jobs, or they for it, which only the file keeps: leave it to a worker"
            )
        if job._row[HAS_STEPS]:
            raise SkipRetry("not relayed: it has stored steps, which only the file keeps: leave it to a worker")
        self.function(_task_of(job))


def _task_of(job: Job) -> Task:
    """Return a job as a task, with what is left of its attempts; its delay has passed, and its deadline is an instant."""
    row = job._row
    timeout, retention = row[_OWN]
    text = row[PAYLOAD]
    options: dict[str, Any] = {
        "queue": job.queue,
        "task_id": job.id,
        "max_retry": max(0, row[MAX_RETRY] - row[RETRY_COUNT]),
        "priority": row[PRIORITY] or None,
        "timeout": timeout,
        "deadline": row[DEADLINE],
        "retention": retention or None,
        "headers": job.headers or None,
    }
    if text is not None and not isinstance(text, str):
        text = json_payload.encode(job.payload)
    return Task._from_checked(job.type, text, {name: value for name, value in options.items() if value is not None})


class _Line:
    """One child's line to the other enqueuer; shared by its threads.

    The lock is over everything below and is not held during a call or a pause.
    """

    def __init__(self, make: MakeEnqueuer) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._enqueuer: Enqueuer | None = None
        self._failures = 0
        """In a row, whichever the job."""
        self._failures_of: OrderedDict[str, int] = OrderedDict()
        self._next_at = 0.0
        self._down_since: float | None = None
        self._logged_at: float | None = None

    def hand_on(self, task: Task) -> None:
        """Enqueue a task there; raises `NotTaken`, or `SkipRetry` where it will never be taken."""
        time.sleep(max(0.0, self._next_at - time.monotonic()))
        try:
            self._connected().enqueue(task, timeout=CALL_SECONDS)
        except TaskIDConflict:
            pass  # handed on before, by somebody who died before it could be written down here
        except InvalidTask as error:
            self._went_well(task)
            raise SkipRetry(f"not relayed: {describe(error)}") from error
        except Exception as error:
            raise self._went_wrong(task, error) from error
        self._went_well(task)

    def _connected(self) -> Enqueuer:
        with self._lock:
            if self._enqueuer is None:
                self._enqueuer = self._make()
            return self._enqueuer

    def _went_well(self, task: Task) -> None:
        if not self._failures and not self._failures_of:
            return
        with self._lock:
            self._failures = 0
            self._next_at = 0.0
            self._failures_of.pop(task.options["task_id"], None)
            down_since, self._down_since = self._down_since, None
        if down_since is not None:
            seconds = round(time.monotonic() - down_since, 3)
            logs.event(logging.INFO, "jobs are relayed again", seconds=seconds)

    def _went_wrong(self, task: Task, error: Exception) -> NotTaken:
        """Take note of a failure: the child pauses, and the job is tried again later; log it at times."""
        job_id = task.options["task_id"]
        now = time.monotonic()
        with self._lock:
            self._failures += 1
            pause = min(LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
            self._next_at = now + pause
            own = self._failures_of.pop(job_id, 0) + 1
            self._failures_of[job_id] = own
            if len(self._failures_of) > _MOST_REMEMBERED:
                self._failures_of.popitem(last=False)
            logs_it = self._logged_at is None or now >= self._logged_at + _LOG_SECONDS
            if logs_it:
                self._logged_at = now
                self._down_since = now
        text = describe(error)
        if logs_it:
            logs.event(logging.ERROR, "a job could not be relayed, nothing is lost, trying again", task_id=job_id, error=text)
        return NotTaken(text, min(LONGEST_DELAY, 2.0 ** min(own - 1, 10)))
