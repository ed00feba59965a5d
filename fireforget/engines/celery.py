"""Celery as the engine: `CeleryEnqueuer` hands tasks to it, `install` has its workers run the handlers of a registry.

Needs `pip install fireforget[celery]`. Each handler is a Celery task named like its pattern; a task travels as one keyword
argument, `job`, the message of `fireforget.engines`. Beside Celery's own result a record of each task is kept in the result
backend, under `fireforget-task-ID`: it says which ids are taken, and what `get` returns.

What Celery does by itself is not done again: it delays, expires, limits, stores results. Where its habits differ from a worker's
they are changed for these tasks: a message is acknowledged when its run has ended, and a run that was killed is a failed attempt
with the handler's own retry delay, not the end of the task.
"""

import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from celery.worker.request import Request
from celery.worker.state import task_ready

from fireforget import payload as json_payload
from fireforget._pool.config import KILL_GRACE
from fireforget._pool.verdicts import timed_out_after
from fireforget.clock import Seconds, to_datetime, to_seconds
from fireforget.engines import Ended, Message, accept, failed, info_of, run
from fireforget.errors import (
    DEADLINE_PASSED,
    ChildDied,
    FireforgetError,
    InvalidOption,
    JobTimeout,
    RegistrationError,
    TaskIDConflict,
    UnknownJob,
)
from fireforget.middleware import describe
from fireforget.registry import Definition, Registry
from fireforget.task import Progress, State, Task, TaskInfo

__all__ = ["CeleryEnqueuer", "install"]

KEEPS = frozenset(
    ["queue", "priority", "max_retry", "timeout", "deadline", "process_in", "process_at", "task_id", "retention", "headers"],
)
"""The options that Celery keeps."""
PRIORITIES = range(10)
_REDIS_STEPS = (0, 3, 6, 9)
_STATES = {
    "STARTED": State.ACTIVE,
    "PROGRESS": State.ACTIVE,
    "RETRY": State.RETRY,
    "SUCCESS": State.COMPLETED,
    "FAILURE": State.ARCHIVED,
    "REVOKED": State.CANCELLED,
}
_ENDED = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
_REGISTRY = "_fireforget_registry"
_ARGUMENT = "job"


class CeleryEnqueuer:
    """Hands tasks to Celery; implements `Enqueuer`, so patterns and applications use it as they use a `SqliteQueue`.

    `celery_app` is the application's `Celery`. It needs a broker that Celery takes for priorities (Redis, RabbitMQ) where any
    is given, and a result backend of keys and values (such as Redis) for `task_id`, `retention` and `get`. Where handlers have
    a prefix as their pattern, call `install` in the producer too, so that the prefix is known.

    Safe to share between threads and to use after a fork, as the Celery application is.
    """

    def __init__(self, celery_app: Celery) -> None:
        self._app = celery_app
        self._transport: str | None = None

    def enqueue(self, task: Task, *, timeout: Seconds | None = None, **options: Any) -> TaskInfo:
        """Send one task and return what was sent; the broker has it when this returns.

        `timeout` is checked, and how long a call waits for a broker that is down is Celery's `task_publish_retry_policy`.
        Raises `InvalidOption` for an option that Celery cannot keep, with what to do instead; `TaskIDConflict` for a `task_id`
        that is taken; what is wrong with the call as `SqliteQueue.enqueue` does; and Celery's own errors for a broker or
        backend that does not answer.
        """
        info, message = accept(task, options, engine="Celery", keeps=KEEPS, timeout=timeout)
        priority = self._priority(message["priority"])
        self._check_retention(message["retention"])
        if "task_id" in task.options or options.get("task_id") is not None:
            self._check_free(info.id)
        self._send(message, priority)
        self._records.keep(message)
        return info

    def get(self, job_id: str) -> TaskInfo:
        """Return what is known of a task by its record and its result; raises `UnknownJob` when there is no record (any more)."""
        message = self._records.find(job_id)
        if message is None:
            raise UnknownJob(job_id)
        meta = self._app.backend.get_task_meta(job_id, cache=False)
        return _info_of(message, meta)

    def _send(self, message: Message, priority: int | None) -> None:
        timeout = message["timeout"]
        self._app.send_task(
            _name_of(self._app, message["type"]),
            kwargs={_ARGUMENT: message},
            task_id=message["id"],
            queue=message["queue"],
            eta=to_datetime(message["due"]) if message["due"] > message["enqueued_at"] else None,
            expires=to_datetime(message["deadline"]),
            soft_time_limit=timeout,
            time_limit=None if timeout is None else timeout + KILL_GRACE,
            priority=priority,
            serializer="json",
        )

    @property
    def _records(self) -> "_Records":
        return _Records(self._app)

    def _check_free(self, task_id: str) -> None:
        if not self._records.work:
            raise InvalidOption("task_id", task_id, "Celery cannot tell that it is taken without a result backend such as Redis")
        if self._records.find(task_id) is not None:
            raise TaskIDConflict(task_id)

    def _check_retention(self, retention: float) -> None:
        if not retention:
            return
        if not self._records.work:
            raise InvalidOption("retention", retention, "Celery keeps no result without a result backend such as Redis")
        kept = self._app.conf.result_expires
        seconds = None if not kept else to_seconds("result_expires", kept)
        if seconds is not None and retention > seconds:
            remedy = f"Celery forgets results after result_expires, {seconds:g} s: set that to as much"
            raise InvalidOption("retention", retention, remedy)

    def _priority(self, priority: int) -> int | None:
        """Return a priority in the broker's terms: in Redis 0 is the highest, and there are as many as `priority_steps`."""
        if self._transport is None:
            with self._app.connection_for_write() as connection:
                self._transport = connection.transport.driver_type
        transport = self._transport
        if transport == "redis":
            steps = (self._app.conf.broker_transport_options or {}).get("priority_steps", _REDIS_STEPS)
            if priority not in PRIORITIES or PRIORITIES[-1] - priority not in steps:
                kept = sorted(PRIORITIES[-1] - step for step in steps)
                some = ", ".join(map(str, kept))
                remedy = f"Celery keeps {some} on Redis: broker_transport_options has priority_steps, list(range(10)) for all"
                raise InvalidOption("priority", priority, remedy)
            return PRIORITIES[-1] - priority
        if priority and transport != "amqp":
            raise InvalidOption("priority", priority, f"Celery has no priorities with {transport}: give queues their own workers")
        if priority not in PRIORITIES:
            raise InvalidOption("priority", priority, "Celery keeps 0 to 9")
        return priority or None


class _Records:
    """What is known of tasks beside Celery's results; empty where the result backend is not one of keys and values."""

    def __init__(self, app: Celery) -> None:
        self._backend = app.backend
        self.work = hasattr(self._backend, "key_t") and hasattr(self._backend, "set")

    def keep(self, message: Message) -> None:
        """Write a record, in place of an older one."""
        if self.work:
            self._backend.set(self._key(message["id"]), json_payload.encode(message))

    def find(self, task_id: str) -> Message | None:
        """Return a record, None when there is none."""
        text = self._backend.get(self._key(task_id)) if self.work else None
        return None if text is None else json.loads(text)

    def forget(self, task_id: str) -> None:
        """Remove a record."""
        if self.work:
            self._backend.delete(self._key(task_id))

    def _key(self, task_id: str) -> Any:
        return self._backend.key_t(f"fireforget-task-{task_id}")


def _info_of(message: Message, meta: Mapping[str, Any]) -> TaskInfo:
    status, result = meta["status"], meta.get("result")
    state = _STATES.get(status)
    more: dict[str, Any] = {}
    if status == "SUCCESS":
        more["result"] = result
    elif status == "PROGRESS" and isinstance(result, Mapping):
        more["progress"] = Progress(result.get("fraction", 0.0), result.get("note"))
    elif status in ("FAILURE", "RETRY"):
        more["last_error"] = describe(result) if isinstance(result, BaseException) else str(result)
    elif status == "REVOKED" and message["deadline"] is not None and message["deadline"] <= time.time():
        state, more["last_error"] = State.ARCHIVED, DEADLINE_PASSED
    return info_of(message, state, **more)


def _name_of(app: Celery, type: str) -> str:
    """Return the name of the Celery task for a type: its pattern where that is installed here, else the type."""
    registry: Registry | None = getattr(app, _REGISTRY, None)
    definition = None if registry is None else registry.match(type)
    return type if definition is None else definition.pattern


# --- in Celery's workers --------------------------------------------------------------------------------------------------


def install(registry: Registry, celery_app: Celery) -> None:
    """Make every handler of `registry` a task of `celery_app`, named like its pattern, so that Celery's workers run it.

    It runs with its middleware and `current_job()`; failures are tried again with the same delays and counts, `SkipRetry`,
    `RevokeTask` and `RetryLater` mean what they mean in a worker, and what it returns is Celery's result. Schedules stay where
    they are: a worker or relay ticks them. Call it where the Celery application is made, once all handlers are registered.

    Raises `RegistrationError` for a handler that needs the file, and for a second registry.
    """
    if getattr(celery_app, _REGISTRY, registry) is not registry:
        raise RegistrationError(f"{celery_app!r} has the handlers of another registry already: one registry an application")
    for definition in registry.definitions.values():
        if definition.transaction_timeout is not None:
            raise RegistrationError(f"{definition!r} is transactional, which takes the file: leave it to a worker")
        if definition.limits is not None:
            raise RegistrationError(f"{definition!r} has a concurrency or rate, which takes the file: leave it to a worker")
    setattr(celery_app, _REGISTRY, registry)
    for definition in registry.definitions.values():
        _install(definition, registry, celery_app)


def _install(definition: Definition[Any, Any], registry: Registry, app: Celery) -> None:
    def work(self: Any, **arguments: Any) -> Any:
        return _work(self, registry, arguments[_ARGUMENT])

    app.task(
        work,
        name=definition.pattern,
        bind=True,
        acks_late=True,
        max_retries=None,
        track_started=True,
        ignore_result=False,
        serializer="json",
        typing=False,
        Request=_Request,
    )


def _work(task: Any, registry: Registry, message: Message) -> Any:
    """Run one message and tell Celery what became of it, in its own words."""
    backend = task.app.backend
    records = _Records(task.app)
    if records.work and backend.get_task_meta(message["id"], cache=False)["status"] in _ENDED:
        raise Ignore  # a second delivery of what has ended

    def report(kind: str, value: Any) -> None:
        if kind == "progress":
            task.update_state(state="PROGRESS", meta={"fraction": value[0], "note": value[1]})

    with _limits(message):
        ended = run(registry, message, report)
    if ended.outcome == "completed":
        return ended.result
    if ended.outcome == "again":
        assert ended.message is not None
        records.keep(ended.message)
        raise task.retry(kwargs={_ARGUMENT: ended.message}, countdown=ended.delay, exc=_error_of(ended), throw=False)
    if ended.outcome == "archived":
        raise _error_of(ended)
    task.update_state(state="REVOKED")
    if ended.outcome == "revoked":
        records.forget(message["id"])
    raise Ignore


def _error_of(ended: Ended) -> Exception:
    """Return the error as one that Celery stores; what interrupts is no `Exception`, and would end its process."""
    if isinstance(ended.error, Exception):
        return ended.error
    return FireforgetError(ended.text or "failed")


@contextmanager
def _limits(message: Message) -> Iterator[None]:
    """While the block runs, have Celery's soft limit and the deadline raise `JobTimeout`, which no `except Exception` swallows.

    Only in the main thread, where signals arrive: Celery has its limits in its prefork pool alone, too.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGUSR1"):
        yield
        return

    def at_limit(*_: object) -> None:
        raise JobTimeout(timed_out_after(message["timeout"]))

    def at_deadline(*_: object) -> None:
        raise JobTimeout(DEADLINE_PASSED)

    before = {signal.SIGUSR1: signal.signal(signal.SIGUSR1, at_limit), signal.SIGALRM: signal.signal(signal.SIGALRM, at_deadline)}
    if message["deadline"] is not None:
        signal.setitimer(signal.ITIMER_REAL, max(0.001, message["deadline"] - time.time()))
    try:
        yield
    except SoftTimeLimitExceeded:  # it came in the moment before
        raise JobTimeout(timed_out_after(message["timeout"])) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


class _Request(Request):  # type: ignore[misc]  # Celery has no types
    """A message in the hands of a Celery worker, whose run may be ended by a kill: that is a failed attempt, and no more."""

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Count a hard limit as a failed attempt; the soft one is raised in the handler."""
        if soft or not (self._went_on or self._goes_on(JobTimeout(timed_out_after(self._our_message["timeout"])))):
            super().on_timeout(soft, timeout)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Count the death of a child as a failed attempt."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if self._went_on:
            return None  # the pool tells of a hard limit twice
        if isinstance(error, TimeLimitExceeded) and self._goes_on(JobTimeout(timed_out_after(self._our_message["timeout"]))):
            return None
        if isinstance(error, WorkerLostError) and self._goes_on(ChildDied(str(error))):
            return None
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    _went_on = False

    @property
    def _our_message(self) -> Message:
        message: Message = self.kwargs[_ARGUMENT]
        return message

    def _goes_on(self, error: BaseException) -> bool:
        """Send the next attempt, then acknowledge this one; False when there is none left. In this order nothing is lost."""
        ended = failed(getattr(self.task.app, _REGISTRY), self._our_message, error)
        if ended.message is None:
            return False
        records = _Records(self.task.app)
        records.keep(ended.message)
        request = self._context
        self.task.signature_from_request(
            request, kwargs={_ARGUMENT: ended.message}, countdown=ended.delay, retries=(request.retries or 0) + 1
        ).apply_async()
        self.task.backend.store_result(self.id, _error_of(ended), "RETRY", request=request)
        self._went_on = True
        task_ready(self)
        self.acknowledge()
        return True
