"""Other engines: what an enqueuer for one of them is made of. `engines.celery` is one, and needs `fireforget[celery]`.

::

    application ─ enqueue(task) ─► accept ─► message, a JSON object ─► the engine's own way to a worker of its own
                                     │                                            │
                          TaskInfo ◄─┘          run(registry, message) ◄──────────┘
                                                  │ middleware, current_job(), the handler, as in a child of ours
                                                  └─► Ended: a result, an error, or a message to be sent again after a delay

Whatever the engine is, options are checked alike, a handler is run alike, and what became of it is decided alike.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from uuid import uuid4

from fireforget import payload as json_payload
from fireforget._context import with_passed_headers
from fireforget._pool.runner import Outcome, Runner, flush_submissions
from fireforget.clock import Seconds, to_datetime, to_seconds
from fireforget.errors import FireforgetError, InvalidOption, RetryLater
from fireforget.job import Job
from fireforget.queue_sqlite import DEFAULT_MAX_PAYLOAD
from fireforget.registry import Definition, Registry
from fireforget.retry import default_delay, delay_after
from fireforget.task import (
    DEFAULT_MAX_RETRY,
    DEFAULT_QUEUE,
    DEFAULT_TIMEOUT,
    State,
    Task,
    TaskInfo,
    check_call_options,
    check_task,
    check_unique,
    merge_options,
)

__all__ = ["Accepted", "Ended", "accept", "failed", "info_of", "run"]

Message = dict[str, Any]
"""A task on its way: a JSON object with an id, all its options, and the number of attempts that have failed."""

_BY_THE_FILE = "enqueue it in a SqliteQueue and let `python -m fireforget relay` hand it on: the file keeps this until then"


class Accepted(NamedTuple):
    """A task that was found in order: what to answer the caller, and what to send."""

    info: TaskInfo
    message: Message


def accept(
    task: Task,
    options: Mapping[str, Any],
    *,
    engine: str,
    keeps: Iterable[str],
    remedies: Mapping[str, str] | None = None,
    timeout: Seconds | None = None,
    max_payload: int = DEFAULT_MAX_PAYLOAD,
) -> Accepted:
    """Check a task and the options of a call of `enqueue`, and return the answer and the message to send.

    `engine` is what the engine is called in errors; `keeps` are the options that it keeps, `remedies` what to do about others.
    The message has an id of its own unless the caller gave a `task_id`. A job that is enqueued inside a handler takes over
    that one's headers, as everywhere. `timeout` is that of the call, and is only checked. `max_payload` is the largest payload
    in bytes of JSON.

    Raises what `SqliteQueue.enqueue` raises for a call that is wrong, and `InvalidOption` for an option that is not kept.
    """
    check_task(task)
    if timeout is not None:
        to_seconds("timeout", timeout, above_minimum=True)
    overriding = check_call_options(options)
    given = merge_options(task.options, overriding) if overriding else task.options
    check_unique(given)
    for option, value in given.items():
        if option not in keeps and value not in (0, {}):
            remedy = (remedies or {}).get(option, _BY_THE_FILE)
            raise InvalidOption(option, value, f"{engine} cannot keep this: {remedy}")
    size = 0 if task.payload_json is None else json_payload.size_of(task.payload_json)
    if size > max_payload:
        raise InvalidOption("payload", f"{size} bytes", f"the largest is {max_payload}: store the data and pass a reference")
    now = time.time()
    deadline = given.get("deadline")
    message: Message = {
        "id": given.get("task_id") or str(uuid4()),
        "type": task.type,
        "payload": task.payload,
        "queue": given.get("queue", DEFAULT_QUEUE),
        "priority": given.get("priority", 0),
        "retry_count": 0,
        "max_retry": given.get("max_retry", DEFAULT_MAX_RETRY),
        "timeout": given.get("timeout", DEFAULT_TIMEOUT if deadline is None else None),
        "deadline": deadline,
        "retention": given.get("retention", 0.0),
        "headers": dict(with_passed_headers(given.get("headers")) or {}),
        "enqueued_at": now,
        "due": given["process_at"] if "process_at" in given else now + given.get("process_in", 0.0),
    }
    return Accepted(info_of(message), message)


def info_of(message: Message, state: State | None = None, **more: Any) -> TaskInfo:
    """Return what a message says as a `TaskInfo`. `state` None is that of a task that nobody has begun; `more` are its fields."""
    scheduled = message["due"] > time.time()
    if state is None:
        state = State.SCHEDULED if scheduled else State.PENDING
    fields: dict[str, Any] = {
        "last_error": None,
        "next_process_at": to_datetime(message["due"]) if state in (State.SCHEDULED, State.PENDING, State.RETRY) else None,
        "started_at": None,
        "completed_at": None,
        "result": None,
        "progress": None,
        "group": None,
        "worker": None,
    }
    return TaskInfo(
        id=message["id"],
        type=message["type"],
        queue=message["queue"],
        state=state,
        payload=message["payload"],
        headers=message["headers"],
        priority=message["priority"],
        retry_count=message["retry_count"],
        max_retry=message["max_retry"],
        timeout=message["timeout"],
        deadline=to_datetime(message["deadline"]),
        enqueued_at=to_datetime(message["enqueued_at"]),  # type: ignore[arg-type]  # it is never None there
        **{**fields, **more},
    )


# --- running --------------------------------------------------------------------------------------------------------------


class Ended(NamedTuple):
    """What became of a run."""

    outcome: str
    """"completed", "again", "archived", "revoked" or "cancelled"."""
    result: Any = None
    error: BaseException | None = None
    """What the handler, or middleware, raised."""
    text: str | None = None
    """The error as one line."""
    message: Message | None = None
    """With "again": what to send anew."""
    delay: float = 0.0
    """With "again": after how many seconds."""


def run(registry: Registry, message: Message, report: Callable[[str, Any], None] | None = None) -> Ended:
    """Run the handler of a message here and now, with its middleware and `current_job()`, and return what became of it.

    What the handler raises is not raised here: `RetryLater` and a failure with attempts left are "again", `SkipRetry` and the
    last failure are "archived". Time limits are the engine's to enforce: raise `JobTimeout` in this thread. `report` is told
    ("result", JSON text) and ("progress", (fraction, note)) while the handler runs. What it fires and forgets is sent before
    this returns.
    """
    host = _Host(registry, report)
    runner = _KeepingRunner(host, _run_async)
    outcome = runner.run(0, _row_of(message))
    flush_submissions()
    return _ended(message, outcome, runner.error, host.result)


def failed(registry: Registry, message: Message, error: BaseException) -> Ended:
    """Return what becomes of a message whose run was ended from outside: by a time limit, or the death of its process."""
    text = f"{error}"
    counts = (is_failure := registry._is_failure_of(message["type"])) is None or is_failure(error) is not False
    if counts and message["retry_count"] >= message["max_retry"]:
        return Ended("archived", error=error, text=text)
    try:
        delay = delay_after(registry._retry_delay_of(message["type"]), message["retry_count"], error)
    except Exception:  # as in a worker: a policy that raises must not lose the job
        delay = default_delay(message["retry_count"])
    return _again(message, delay, int(counts), error, text)


def _again(message: Message, delay: float, attempts: int, error: BaseException | None, text: str | None) -> Ended:
    again = {**message, "retry_count": message["retry_count"] + attempts, "due": time.time() + delay}
    return Ended("again", error=error, text=text, message=again, delay=delay)


def _ended(message: Message, outcome: Outcome | None, error: BaseException | None, written: str | None) -> Ended:
    kind, *details = outcome or ("completed", 0, None, None)
    if kind == "completed":
        text = details[1] if details[1] not in (None, "null") else written
        return Ended("completed", result=None if text is None else json_payload.decode(text))
    if kind == "retry":
        return _again(message, details[2], 1, error, details[3])
    if kind in ("later", "excused"):
        return _again(message, details[0], 0, error, None if isinstance(error, RetryLater) else details[1])
    if kind == "archived":
        return Ended("archived", error=error, text=details[2])
    if kind == "expired":
        return Ended("archived", error=error, text=details[0])
    return Ended(kind, error=error, text=details[0] if details else None)


def _row_of(message: Message) -> tuple[Any, ...]:
    """Return a message as the columns of a claimed job; the retention is there so that the result is told."""
    payload, headers = message["payload"], message["headers"]
    return (
        0, 0, message["type"], message["queue"], None if payload is None else json_payload.encode(payload),
        json_payload.encode(headers) if headers else None, message["retry_count"], message["max_retry"], message["timeout"],
        message["deadline"], 0, message["id"], message["due"], message["priority"], 1.0, 0, None,
    )  # fmt: skip


class _Host:
    """Where a handler runs that no worker of ours runs: there is no file."""

    tag = ""
    worker = 0

    def __init__(self, registry: Registry, report: Callable[[str, Any], None] | None) -> None:
        self.registry = registry
        self._report = report
        self.result: str | None = None

    def definition(self, type: str) -> Definition[Any, Any] | None:
        return self.registry.match(type)

    def send(self, message: Any) -> None:
        _, _, kind, value = message
        if kind == "result":
            self.result = value
        if self._report is not None:
            self._report(kind, value)

    def database(self) -> Any:
        return self.store()

    def store(self) -> Any:
        raise FireforgetError("this handler runs on another engine, and what it asks for takes the file: run it in a worker")


class _KeepingRunner(Runner):
    """Keeps what the handler raised, which an outcome has as text alone."""

    error: BaseException | None = None

    def _failed(self, job: Job, definition: Definition[Any, Any], error: BaseException) -> Outcome:
        self.error = error
        return super()._failed(job, definition, error)


def _run_async(coroutine: Any, runner: Runner) -> Any:
    return asyncio.run(coroutine)
