"""Ways of enqueuing that go beyond one call: fire and forget, fan out, chain.

A pattern takes an `Enqueuer`, never a database, so it works with `SqliteQueue`, with the recording enqueuer of
`fireforget.testing`, and with any object that has an `enqueue` method.

Here is the face: arguments are checked in the caller's thread, where a mistake can be reported. What happens to a
submission afterwards, with the map of threads and locks, is in `fireforget/_submissions.py`:

    fire_and_forget --> the process's buffer --> a daemon thread --> enqueuer
    flush           --> waits until what was in the buffer is settled

Fanning out and chaining are calls like `enqueue`: they wait, and tell what was stored.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fireforget import _submissions
from fireforget._context import running, with_passed_headers
from fireforget._submissions import SubmissionCounts
from fireforget.clock import Seconds, to_seconds
from fireforget.enqueuer import Enqueuer
from fireforget.errors import InvalidOption
from fireforget.task import Task, TaskInfo, check_call_options, check_options, check_task, check_tasks, merge_options

if TYPE_CHECKING:
    from fireforget.registry import Definition, Registry

DEFAULT_QUEUE = "low"
"""Where `fire_and_forget` sends what the call names no queue for."""
DEFAULT_WAIT = 5.0
"""Seconds that an enqueuer has to take a submission."""

_log = logging.getLogger("fireforget.patterns")
_NO_OPTIONS: Mapping[str, Any] = {"queue": DEFAULT_QUEUE}


def fire_and_forget(
    enqueuer: Enqueuer,
    task: Task,
    *,
    logger: logging.Logger | None = None,
    timeout: Seconds | None = DEFAULT_WAIT,
    **options: Any,
) -> None:
    """Enqueue a task some time soon, without waiting for it and without hearing of failures.

    Returns at once, whatever the enqueuer does: locked, slow, full, closed or broken. Threads of this process call the
    enqueuer: `enqueue_many`, with up to 2,000 submissions of equal options that wait together, where it has that
    method; else one `enqueue` each, from up to 8 threads at once.

    * `logger` gets an ERROR record `fire-and-forget enqueue failed` (task_type, queue, error) or a DEBUG record
      `fire-and-forget task enqueued` (task_id, task_type, queue); None: the logger `fireforget.patterns`.
    * `timeout` is how long the enqueuer may take, in seconds from this call; None: 5 s. Then the submission counts as
      failed, though it may still arrive.
    * `options` are those of `enqueue`. The queue is `low` unless it is given here, whatever the task's own options say.

    A buffer that is full (see `configure`) drops the submission, logs that at most once a second, and counts it.

    Raises `InvalidTask`, `UnknownOption` or `InvalidOption` for what is wrong whatever the enqueuer says, and nothing
    else.

    Thread-safe. Leaving the interpreter waits for what is on its way, no longer than its timeouts, and logs what is
    lost (under Python 3.12, a first submission that comes as late as that finds no thread, and fails). A forked child
    starts with an empty buffer of its own. A process that ends by `os._exit` or is killed loses what it had not yet
    sent: where a task must not be lost, call `enqueue`, or `flush` before the end.
    """
    if type(task) is not Task:
        check_task(task)
    seconds = DEFAULT_WAIT if timeout is DEFAULT_WAIT else _to_wait(timeout)
    given = _to_options(options) if options else _NO_OPTIONS
    if running.get() is not None:
        given = _with_passed_headers(task, given)
    _submissions.buffer.submit(enqueuer, task, given, logger, seconds)


def _to_wait(timeout: Seconds | None) -> float:
    return DEFAULT_WAIT if timeout is None else to_seconds("timeout", timeout, above_minimum=True)


def _to_options(options: dict[str, Any]) -> dict[str, Any]:
    """Check the options of a call; return them as they were given, since the enqueuer converts them itself."""
    checked = check_call_options(options)
    if any(isinstance(need, Task) for need in checked.get("after", ())):
        raise InvalidOption("after", options["after"], "give ids: a task that is fired and forgotten waits for stored jobs alone")
    if options.get("queue") is None:
        options["queue"] = DEFAULT_QUEUE
    if "after" in checked:
        options["after"] = checked["after"]
    if options.get("headers") is not None:
        options["headers"] = dict(options["headers"])  # as with a payload, later changes are not seen
    return options


def _with_passed_headers(task: Task, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the headers that the running job passes on: the thread that will enqueue the task runs no job."""
    own = given.get("headers")
    if own is None:
        own = task.options.get("headers")
    headers = with_passed_headers(own)
    return given if headers is own else {**given, "headers": dict(headers or {})}


def flush(timeout: Seconds | None = None) -> int:
    """Wait for all that this process has submitted up to now and return how many did not arrive.

    `timeout` is how long to wait, in seconds, 0 for not at all; None: until each submission has arrived or its own
    timeout has passed. Counted are the submissions that failed or were dropped since the last flush, whether before
    or during this one, and those still on their way when `timeout` has passed. A failure is reported by one flush
    only; what was still on its way is reported again if it fails later. So 0 means: everything has arrived but for
    what earlier flushes have reported.

    Raises `InvalidOption` for a negative timeout. Thread-safe: what other threads submit meanwhile is not waited for. A
    forked child flushes what it has submitted itself.
    """
    return _submissions.buffer.flush(None if timeout is None else to_seconds("timeout", timeout))


def has_pending() -> bool:
    """Return whether any submission is on its way, so that a flush would have to wait. Costs an attribute read."""
    return _submissions.buffer.open > 0


def submission_counts() -> SubmissionCounts:
    """Return what became of this process's submissions. Thread-safe; a forked child counts from 0."""
    return _submissions.buffer.counts()


def configure(*, max_submissions: int | None = None, max_bytes: int | None = None) -> None:
    """Set how much this process may have on its way before further submissions are dropped.

    * `max_submissions`: 262,144 from the start; None leaves it as it is.
    * `max_bytes` of payload, as JSON text: 64 MiB from the start; None leaves it as it is.

    What waits already stays. Raises `InvalidOption` for what is not a whole number of 1 or more. Thread-safe; a child
    that is forked later has the same settings.
    """
    limits = {"max_submissions": max_submissions, "max_bytes": max_bytes}
    for name, value in limits.items():
        if value is not None and (type(value) is not int or value < 1):
            raise InvalidOption(name, value, "give a whole number of 1 or more")
    _submissions.buffer.limit(max_submissions, max_bytes)


# --- chain --------------------------------------------------------------------------------------------------------------


def chain(enqueuer: Enqueuer, tasks: Iterable[Task], *, timeout: Seconds | None = None, **options: Any) -> list[TaskInfo]:
    """Enqueue tasks that run one after the other, each once the one before it has completed, and return what was stored.

    It is one transaction: all of them or none. Each finds the result of the one before it in `current_job().results`. Where one
    is archived or cancelled, so are those after it, with that reason.

    * `enqueuer` is one that has `enqueue_many`, as `SqliteQueue` has.
    * `tasks` may have an `after` of their own; they wait for those jobs as well.
    * `timeout` is how long the enqueuer may wait, in seconds; None leaves it to the enqueuer.
    * `options` are those of `enqueue`, `connection` included where the enqueuer has it, and apply to every task, but for `after`:
      the first task waits for those jobs.

    Raises `InvalidOption` for an enqueuer without `enqueue_many`, `InvalidTask` for what is no task, and what `enqueue_many`
    raises.
    """
    enqueue_many = getattr(enqueuer, "enqueue_many", None)
    if enqueue_many is None:
        raise InvalidOption("enqueuer", enqueuer, "a chain needs one with enqueue_many, so that all of it is stored or nothing")
    first = check_options({"after": options.pop("after", None)}).get("after", ())
    linked: list[Task] = []
    for task in map(check_task, check_tasks(tasks)):
        needs = (*task.options.get("after", ()), *(linked[-1:] or first))
        linked.append(task.with_options(after=needs))
    stored: list[TaskInfo] = enqueue_many(linked, timeout=timeout, **options)
    return stored


# --- fan out ------------------------------------------------------------------------------------------------------------


def fan_out(
    enqueuer: Enqueuer,
    event: str,
    payload: Any = None,
    *,
    registry: "Registry | None" = None,
    timeout: Seconds | None = None,
    **options: Any,
) -> list[TaskInfo]:
    """Enqueue a task of its own for every handler that is subscribed to an event, and return what was stored, in their order.

    With an enqueuer that has `enqueue_many`, as `SqliteQueue` has, that is one transaction: all of the tasks or none. Any other
    gets one `enqueue` each, and an error leaves those before it stored.

    * `event` is what handlers have named in `Registry.subscribe`.
    * `payload` is JSON, and goes to each of them; an object's members are their arguments.
    * `registry` is where the subscribers are; None: all registries of this process.
    * `timeout` is how long the enqueuer may wait, in seconds; None leaves it to the enqueuer.
    * `options` are those of `enqueue`, `connection` included where the enqueuer has it, and override those of every handler. A
      `task_id` or `unique_key` gets ":" and the subscriber's name appended, since each task needs its own.

    Without a subscriber a WARNING is logged, with the event that may have been meant, and the list is empty.

    Raises `PayloadMismatch`, which is a `TypeError`, when the payload does not fit one of the handlers, `InvalidOption` for an
    event that is not text or one subscriber that stands in two registries, and what `enqueue` raises.
    """
    if not isinstance(event, str) or not event.strip():
        raise InvalidOption("event", event, "give the name that handlers have subscribed to, such as 'user:created'")
    subscribers = _subscribers_of(event, registry)
    connection = {"connection": options.pop("connection")} if "connection" in options else {}
    check_call_options(options)
    own = {name: options.pop(name) for name in ("task_id", "unique_key") if options.get(name) is not None}
    tasks = [_task_for(subscriber, payload, own) for subscriber in subscribers]
    if not tasks:
        return []
    enqueue_many = getattr(enqueuer, "enqueue_many", None)
    if enqueue_many is not None:
        stored: list[TaskInfo] = enqueue_many(tasks, timeout=timeout, **connection, **options)
        return stored
    return [enqueuer.enqueue(task, timeout=timeout, **connection, **options) for task in tasks]


def _subscribers_of(event: str, registry: "Registry | None") -> "list[Definition[Any, Any]]":
    from fireforget.registry import all_registries  # for those who fan out alone

    found: dict[str, Definition[Any, Any]] = {}
    known: list[str] = []
    for each in all_registries() if registry is None else [registry]:
        known += each._subscribers
        for subscriber in each._subscribers.get(event, ()):
            if subscriber.pattern in found:
                raise InvalidOption("registry", None, f"two registries of this process have {subscriber.pattern!r}: say which")
            found[subscriber.pattern] = subscriber
    if not found:
        _warn_of_nobody(event, known)
    return list(found.values())


def _warn_of_nobody(event: str, known: list[str]) -> None:
    from difflib import get_close_matches

    near = get_close_matches(event, known, n=1)
    hint = f": did you mean {near[0]!r}?" if near else ""
    _log.warning(f"fan-out reached nobody, no handler is subscribed to {event!r}{hint}", extra={"event": event})


def _task_for(subscriber: "Definition[Any, Any]", payload: Any, own: Mapping[str, str]) -> Task:
    """Return the task of one subscriber; `own` are options whose values must differ among tasks."""
    task = subscriber._task_with(payload)
    if not own:
        return task
    name = subscriber.pattern.rpartition(":")[2]
    differing = check_options({option: f"{value}:{name}" for option, value in own.items()})
    return Task._from_checked(task.type, task.payload_json, merge_options(task.options, differing))
